//! What the pipeline answers a call that was served: the upstream's answer, and what it came to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::idempotency::KeptAnswer;
use domain::{ChargeId, Credits, LimitsLeft};

/// What the pipeline answers a call that was served.
pub struct Departure {
    /// The upstream's status.
    pub status: StatusCode,
    /// The upstream's headers that are passed on.
    pub headers: HeaderMap,
    /// The upstream's body.
    pub body: Body,
    /// What is said of the money, in headers.
    pub money: Vec<(&'static str, String)>,
    /// Is it the answer to an earlier request with the same idempotency key?
    pub is_replayed: bool,
}

/// The body of an answer.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// A stream.
    Stream(StreamBody),
}

/// What an answer says of the money.
#[derive(Clone, Debug, Default)]
pub struct Money {
    /// The call.
    pub charge: Option<ChargeId>,
    /// Who served it.
    pub upstream: Arc<str>,
    /// What it cost, where that is known.
    pub cost: Option<Credits>,
    /// The balance after it.
    pub balance: Option<Credits>,
    /// What is held for it, while it runs.
    pub held: Option<Credits>,
    /// The token limit that the upstream was told, where it is not the request's own.
    pub max_tokens: Option<u64>,
    /// What the key may still spend after it.
    pub left: LimitsLeft,
}

impl Money {
    /// The headers that say it.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let credits = |name, amount: Option<Credits>| Some((name, amount?.to_string()));
        [
            Some(("x-polysystems-upstream", self.upstream.to_string())),
            self.charge.map(|id| ("x-polysystems-charge", id.to_string())),
            credits("x-polysystems-cost", self.cost),
            credits("x-polysystems-balance", self.balance),
            credits("x-polysystems-hold", self.held),
            self.max_tokens.map(|tokens| ("x-polysystems-max-tokens", tokens.to_string())),
            credits("x-polysystems-per-request-limit", self.left.per_request),
            credits("x-polysystems-daily-remaining", self.left.daily),
            credits("x-polysystems-monthly-remaining", self.left.monthly),
            credits("x-polysystems-total-remaining", self.left.total),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The upstream's answer and what it came to, as it is kept for repeats.
#[must_use]
pub fn kept(
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

/// The client's end of a stream. It says how much of it the connection has taken, since only what was taken
/// counts as delivered.
pub struct StreamBody {
    receiver: mpsc::Receiver<Bytes>,
    taken: Arc<AtomicU64>,
}

/// The other end.
pub struct StreamSender {
    /// Closed when the client is gone.
    pub sender: mpsc::Sender<Bytes>,
    /// Pieces the connection has taken.
    pub taken: Arc<AtomicU64>,
}

/// A stream that holds one piece: the next one is taken in when the connection has taken that.
#[must_use]
pub fn stream() -> (StreamSender, StreamBody) {
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
