//! The answer to a served call: the upstream's answer with the headers about money.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::charge::ChargedCall;
use crate::idempotency::KeptAnswer;
use domain::{ChargeId, Credits, LimitsLeft, Settled, VersionId};

/// As many headers about money as most answers have.
const HEADERS: usize = 8;

/// The answer to a served call.
pub struct Departure {
    /// The upstream's status.
    pub status: StatusCode,
    /// The upstream's headers that are passed on.
    pub headers: HeaderMap,
    /// The upstream's body.
    pub body: ServedBody,
    /// The headers about money.
    pub money: Vec<(&'static str, String)>,
    /// Is it the answer to an earlier request with the same idempotency key?
    pub is_replayed: bool,
}

/// The body of an answer.
pub enum ServedBody {
    /// The complete body.
    Whole(Bytes),
    /// A stream.
    Stream(StreamBody),
}

/// The facts about money that an answer shows.
#[derive(Clone, Debug, Default)]
pub struct Money {
    /// The charge.
    pub charge: Option<ChargeId>,
    /// The upstream that served the call.
    pub upstream: Arc<str>,
    /// The public name of the model, and the version of the price list, if the call is priced by
    /// its model.
    pub model: Option<(Arc<str>, VersionId)>,
    /// The model whose price counts, if another one answered than was asked for.
    pub billed_as: Option<Arc<str>>,
    /// How many deployments were asked, if the model has any.
    pub attempts: Option<u32>,
    /// The deployment that served the call, if customers see it.
    pub deployment: Option<Arc<str>>,
    /// The cost, if it is known.
    pub cost: Option<Credits>,
    /// The balance after it.
    pub balance: Option<Credits>,
    /// The hold, while the call runs.
    pub held: Option<Credits>,
    /// The token limit that the upstream got, if it is not the request's own.
    pub max_tokens: Option<u64>,
    /// The amounts that the key may still spend.
    pub left: LimitsLeft,
}

impl Money {
    /// What is known before the call is answered.
    pub(super) fn of(charged: &ChargedCall) -> Self {
        let model = charged.model();
        let version = charged.quoted().version();
        let model = model.map(|call| (Arc::clone(&call.found.name), version));
        Money { model, billed_as: charged.billed_as().cloned(), ..Money::default() }
    }

    /// With the settled cost, balance and limits.
    pub(super) fn with_settled(self, settled: &Settled) -> Self {
        let (cost, balance) = (Some(settled.cost), Some(settled.balance));
        Money { cost, balance, left: settled.left, ..self }
    }

    /// As headers.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::with_capacity(HEADERS);
        let mut add = |name, value: Option<String>| {
            headers.extend(value.map(|value| (name, value)));
        };
        let text = |text: &Arc<str>| String::from(&**text);
        let credits = |amount: Option<Credits>| amount.map(|amount| amount.to_string());
        let model = self.model.as_ref();
        add("x-polysystems-upstream", Some(text(&self.upstream)));
        add("x-polysystems-model", model.map(|(name, _)| text(name)));
        add("x-polysystems-price-version", model.map(|(_, version)| version.to_string()));
        add("x-polysystems-billed-model", self.billed_as.as_ref().map(text));
        add("x-polysystems-attempts", self.attempts.map(|asked| asked.to_string()));
        add("x-polysystems-deployment", self.deployment.as_ref().map(text));
        add("x-polysystems-charge", self.charge.map(|id| id.to_string()));
        add("x-polysystems-cost", credits(self.cost));
        add("x-polysystems-balance", credits(self.balance));
        add("x-polysystems-hold", credits(self.held));
        add("x-polysystems-max-tokens", self.max_tokens.map(|tokens| tokens.to_string()));
        add("x-polysystems-per-request-limit", credits(self.left.per_request));
        add("x-polysystems-daily-remaining", credits(self.left.daily));
        add("x-polysystems-monthly-remaining", credits(self.left.monthly));
        add("x-polysystems-total-remaining", credits(self.left.total));
        headers
    }
}

/// The upstream's answer and the headers about money, as they are recorded for repeats.
#[must_use]
pub(crate) fn kept(
    status: StatusCode,
    headers: &HeaderMap,
    money: &[(&'static str, String)],
    body: Bytes,
) -> KeptAnswer {
    let text =
        |value: &actix_web::http::header::HeaderValue| value.to_str().ok().map(str::to_owned);
    let theirs = headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?)));
    let ours = money.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    KeptAnswer { status: status.as_u16(), headers: theirs.chain(ours).collect(), body }
}

/// The client's end of a stream. It counts the pieces that the connection has taken, because only
/// these count as delivered.
pub struct StreamBody {
    receiver: mpsc::Receiver<Bytes>,
    taken: Arc<AtomicU64>,
}

/// The sending end of a stream.
pub(crate) struct StreamSender {
    /// Closed when the client has left.
    pub sender: mpsc::Sender<Bytes>,
    /// Pieces the connection has taken.
    pub taken: Arc<AtomicU64>,
}

/// A stream that buffers one piece: the next one is accepted when the connection has taken it.
#[must_use]
pub(crate) fn stream() -> (StreamSender, StreamBody) {
    let (sender, receiver) = mpsc::channel(1);
    let taken = Arc::new(AtomicU64::new(0));
    (StreamSender { sender, taken: Arc::clone(&taken) }, StreamBody { receiver, taken })
}

impl Stream for StreamBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(piece.map(|piece| {
            self.taken.fetch_add(1, Ordering::AcqRel);
            Ok(piece)
        }))
    }
}
