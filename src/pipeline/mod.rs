//! The way of a paid request, from its arrival to its departure: six stages in the chapter's order.
//!
//! [`serve`] is the contract: one plain function, awaits in order. Each stage takes what the stage before
//! it made, and only that stage can make it (the fields are private), so a stage cannot be skipped and the
//! order cannot change without a compile error. A stage either hands on or refuses; the first refusal is
//! the answer.
//!
//! ```text
//! Arrival -> Admitted -> Caller -> Quoted -> Charged -> Answered -> Departure
//! ```
//!
//! The whole runs in a task that the client's connection cannot cancel: whoever was charged is also
//! settled, whether the client is still there or not. A stream's end runs in a task of its own (`relay.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::actors::{Directory, LedgerHandle};
use crate::auth::KeyRing;
use crate::clock::Clock;
use crate::config::HoldSettings;
use crate::figures::Figures;
use crate::idempotency::{Idempotency, IdempotencyKey};
use crate::upstream::{Client, Group, Upstreams};
use domain::pricing::{PriceList, PriceRule};
use domain::{AccountId, ChargeId, Credits, KeyId, Timestamp};

mod authenticate;
mod charge;
mod departure;
mod price;
pub mod quote;
pub mod rate_limit;
mod readiness;
mod relay;
mod repeat;
mod settle;
mod upstream;

pub use departure::{Body, Departure, Money, StreamBody};
pub use quote::Quote;
use rate_limit::{RateLimits, Standing};
pub use readiness::{Bounds, Permit, Readiness, Running};

/// What the stages need. One for the process, shared by all threads.
pub struct Gateway {
    /// The rate limits and their counters.
    pub rate_limits: RateLimits,
    /// API keys by digest.
    pub keys: KeyRing,
    /// What calls cost.
    pub prices: PriceList,
    /// The account actors.
    pub directory: Directory,
    /// The ledger writer.
    pub ledger: LedgerHandle,
    /// Who serves the calls.
    pub upstreams: Upstreams,
    /// The time.
    pub clock: Clock,
    /// How long a call waits for its commit.
    pub commit_timeout: Duration,
    /// When a hold ends by itself, counted from the call's arrival, in microseconds.
    pub hold_lifetime_micros: i64,
    /// What is held for a call.
    pub holds: HoldSettings,
    /// Repeated requests.
    pub idempotency: Idempotency,
    /// How long before its end a key's owner is warned, in microseconds.
    pub expiry_warning_micros: i64,
    /// How much runs, and whether more may.
    pub readiness: Arc<Readiness>,
    /// What is counted of it.
    pub figures: Arc<Figures>,
}

/// A request as the pipeline sees it.
pub struct Arrival {
    /// Request, charge and usage record share it.
    pub id: ChargeId,
    /// The route group it belongs to.
    pub group: Group,
    /// The HTTP method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<String>,
    /// `X-API-Key`, else the bearer of `Authorization`.
    pub credential: Option<String>,
    /// Where it comes from.
    pub address: IpAddr,
    /// Headers for an upstream behind a URL; empty where the sandbox answers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// `Idempotency-Key`: the request may be repeated, and is charged once.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Counts the call as running.
    pub running: Option<Running>,
    /// Closed when the client leaves before it has an answer.
    pub client_left: Option<oneshot::Receiver<()>>,
    /// When it arrived.
    pub at: Timestamp,
}

/// Why a request was not served, with what the client needs to know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Over a rate limit; try again after so many seconds.
    #[error("rate limited")]
    RateLimited {
        /// Seconds until a request will be admitted.
        retry_after: u64,
    },
    /// As many calls of the account run as may.
    #[error("too many calls in flight")]
    TooManyInFlight,
    /// No key in either header.
    #[error("no key")]
    MissingKey,
    /// Not a key, or none that is in use.
    #[error("invalid key")]
    InvalidKey,
    /// A key past its time.
    #[error("expired key")]
    ExpiredKey,
    /// The account is suspended.
    #[error("account closed")]
    AccountClosed,
    /// The key may not be used for this, or not from there.
    #[error("not permitted to this key")]
    NotPermitted,
    /// The price list does not have the route.
    #[error("no price")]
    NoPrice,
    /// The body cannot be priced; says why.
    // The text may repeat the body: it goes to the client, not to the log.
    #[error("bad body")]
    BadBody(String),
    /// The balance does not cover the price.
    #[error("insufficient credits")]
    InsufficientCredits {
        /// What the refusal names as the cost.
        price: Credits,
    },
    /// One of the key's spending limits is reached.
    #[error("spending limit")]
    SpendingLimit,
    /// Not attempted: nothing was charged. The reason is for the log.
    #[error("unavailable: {0}")]
    Unavailable(&'static str),
    /// Not attempted: the account's records do not agree with one another, and a person must look at them.
    #[error("the account is quarantined")]
    Quarantined,
    /// The charge was decided, but it is not known whether it is on record. The reason is for the log.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(&'static str),
    /// The hold of a stream was not on record when the upstream had begun to answer; nothing was charged. The
    /// reason is for the log.
    #[error("not held: {0}")]
    NotHeld(&'static str),
    /// The server stopped before the upstream had answered; nothing was charged.
    #[error("stopped")]
    Stopped,
    /// As many requests run as may; nothing was attempted.
    #[error("overloaded")]
    Overloaded,
    /// The upstream failed; nothing was charged.
    #[error("upstream failed: {0}")]
    UpstreamFailed(&'static str),
    /// The upstream took too long; nothing was charged.
    #[error("upstream timed out")]
    UpstreamTimedOut,
    /// The client left before the first byte of its stream; nothing was charged, and nobody hears of it.
    #[error("the client left")]
    ClientLeft,
    /// The first request with the same idempotency key still runs.
    #[error("the first request with this idempotency key still runs")]
    RepeatTooEarly,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    RepeatDiffers,
    /// The first answer was too large to be kept.
    #[error("the first answer was too large to be kept")]
    RepeatNotKept,
}

/// What is known of a request, however it ends: for the log line and the headers.
#[derive(Default)]
pub struct Notes {
    /// Where the caller stands with the rate limits.
    pub standing: Option<Standing>,
    /// Who pays.
    pub account: Option<AccountId>,
    /// With which key.
    pub key: Option<KeyId>,
    /// What it cost.
    pub cost: Option<Credits>,
    /// When the key ends, where that is soon.
    pub expires_at: Option<Timestamp>,
}

/// How a request ended.
pub struct Served<T> {
    /// The answer, or why there is none.
    pub result: Result<T, Refusal>,
    /// What is known of it.
    pub notes: Notes,
}

impl<T> Served<T> {
    /// Was it refused for want of credits? Then whose, and how much it costs.
    #[must_use]
    pub fn needs_credits(&self) -> Option<(AccountId, Credits)> {
        match &self.result {
            Err(Refusal::InsufficientCredits { price }) => Some((self.notes.account?, *price)),
            _ => None,
        }
    }
}

impl Arrival {
    /// The same request once more; what counts it as running stays with the first.
    #[must_use]
    pub fn copy(&self) -> Box<Arrival> {
        Box::new(Arrival {
            id: self.id,
            group: self.group,
            method: self.method.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            credential: self.credential.clone(),
            address: self.address,
            headers: self.headers.clone(),
            body: self.body.clone(),
            idempotency_key: self.idempotency_key,
            running: None,
            client_left: None,
            at: self.at,
        })
    }
}

/// A stage in a span of its own, within that of its request. Pinned where it stands: a stage is kilobytes, which a span
/// around it would move.
macro_rules! stage {
    ($name:literal, $kind:literal, $work:expr) => {
        std::pin::pin!($work)
            .instrument(
                tracing::info_span!(target: crate::telemetry::SPANS, $name, otel.kind = $kind),
            )
            .await
    };
}

/// The whole life of a paid request. Read `lib.rs` for the picture.
pub async fn serve(
    gateway: Arc<Gateway>,
    client: Client,
    arrival: Box<Arrival>,
) -> Served<Departure> {
    let mut notes = Notes::default();
    let result = stages(&gateway, &client, arrival, &mut notes).await;
    match &result {
        Ok(_) => {
            gateway.figures.calls.fetch_add(1, Ordering::Relaxed);
        }
        Err(refusal) => gateway.figures.refuse(refusal),
    }
    Served { result, notes }
}

async fn stages(
    gateway: &Arc<Gateway>,
    client: &Client,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<Departure, Refusal> {
    let caller = stage!("authenticate", "internal", identified(gateway, arrival, notes))?;
    let claim = match stage!("repeat", "internal", repeat::begin(gateway, &caller))? {
        repeat::Begun::Repeat(departure) => return Ok(*departure),
        repeat::Begun::First(claim) => claim,
    };
    let quoted = stage!("price", "internal", price::quote(gateway, caller))?;
    let charged = stage!("charge", "internal", charge::charge(gateway, quoted, claim))?;
    let answered = stage!("upstream", "client", upstream::forward(gateway, client, charged));
    stage!("settle", "internal", settle::close(gateway, answered, notes))
}

/// What a paid request would cost, and whether it would be admitted. Charges nothing.
pub async fn quote(gateway: Arc<Gateway>, arrival: Box<Arrival>) -> Served<Quote> {
    let mut notes = Notes::default();
    let result = quote_stages(&gateway, arrival, &mut notes).await;
    Served { result, notes }
}

async fn quote_stages(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<Quote, Refusal> {
    let caller = identified(gateway, arrival, notes).await?;
    let quoted = price::quote(gateway, caller).await?;
    quote::look(gateway, quoted).await
}

async fn identified(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<authenticate::Caller, Refusal> {
    let admitted = rate_limit::admit(gateway, arrival, notes)?;
    let caller = authenticate::identify(gateway, admitted, notes).await?;
    // The second half of rate limiting: by key and account, which only now are known.
    rate_limit::meter(gateway, &caller, notes)?;
    authenticate::permit(&caller)?;
    Ok(caller)
}

/// The price rule of a request, looked up once on arrival.
fn rule_of(gateway: &Gateway, arrival: &Arrival) -> Option<Arc<PriceRule>> {
    gateway.prices.find(arrival.method.as_str(), &arrival.path).cloned()
}
