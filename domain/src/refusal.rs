//! Why the gateway refuses a call. `http/error` maps a refusal to an HTTP answer.

use std::sync::Arc;

use crate::money::Credits;

/// Why a call was refused, with what the client needs to know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A rate limit is exceeded.
    #[error("rate limited")]
    RateLimited {
        /// Seconds until another request is admitted.
        retry_after: u64,
    },
    /// The account has its largest number of calls in flight.
    #[error("too many calls in flight")]
    TooManyInFlight,
    /// The request has no API key.
    #[error("no key")]
    MissingKey,
    /// The text is not an API key, or the key is unknown or revoked.
    #[error("invalid key")]
    InvalidKey,
    /// The key has expired.
    #[error("expired key")]
    ExpiredKey,
    /// The account is suspended.
    #[error("the account is suspended")]
    AccountClosed,
    /// The key's policy does not allow the route, the model or the client's address.
    #[error("the key's policy does not allow it")]
    NotPermitted,
    /// The operator does not sell the model.
    #[error("the model is not sold")]
    ModelNotSold,
    /// The model is known, but the account's price list has no price for it.
    #[error("the model has no price")]
    ModelNotPriced,
    /// The model is not sold any more.
    #[error("the model is retired")]
    ModelRetired {
        /// The model that takes its place.
        successor: Option<Arc<str>>,
    },
    /// The model is not sold in the service tier that the request asks for.
    #[error("the service tier is not sold")]
    ServiceTierNotSold,
    /// The prompt does not fit into the model's context window.
    #[error("the prompt is too long")]
    ContextTooLong {
        /// Its tokens, as they are counted here.
        tokens: u64,
        /// The most that the model takes.
        max: u64,
    },
    /// The price list has no rule for the route.
    #[error("no price")]
    NoPrice,
    /// The body cannot be priced. The text says why.
    // The text may quote the body, so it goes only to the client and never to the log.
    #[error("bad body")]
    BadBody(String),
    /// The balance does not cover the price.
    #[error("insufficient credits")]
    InsufficientCredits {
        /// The cost that the answer states.
        price: Credits,
    },
    /// One of the key's spending limits is reached.
    #[error("spending limit")]
    SpendingLimit,
    /// Temporarily unavailable. Nothing was attempted or charged. The reason is for the log.
    #[error("unavailable: {0}")]
    Unavailable(&'static str),
    /// The account's records disagree. Nothing was attempted. An operator must look at the account.
    #[error("the account is quarantined")]
    Quarantined,
    /// The charge was decided, but it is unknown whether it is on record. The reason is for the
    /// log.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(&'static str),
    /// The upstream began to answer, but the hold of the stream was not on record. Nothing was
    /// charged. The reason is for the log.
    #[error("not held: {0}")]
    NotHeld(&'static str),
    /// The server stopped before the upstream answered. Nothing was charged.
    #[error("stopped")]
    Stopped,
    /// The server is at capacity. Nothing was attempted.
    #[error("overloaded")]
    Overloaded,
    /// The upstream failed. Nothing was charged.
    #[error("upstream failed: {0}")]
    UpstreamFailed(&'static str),
    /// The upstream had the request, and broke the connection before it answered. Nothing was
    /// charged. It may have done the work, so the request is not sent again by itself.
    #[error("the connection to the upstream broke before the answer")]
    UpstreamLost,
    /// Everybody who serves the model is busy. Nothing was charged.
    #[error("all who serve the model are busy for {retry_after} s")]
    UpstreamBusy {
        /// Seconds until somebody may be asked.
        retry_after: u64,
        /// Is it a limit of a provider, and not a failure?
        is_limit: bool,
    },
    /// Nobody serves the model now. Nothing was charged.
    #[error("nobody serves the model")]
    ModelUnavailable,
    /// The upstream timed out. Nothing was charged.
    #[error("upstream timed out")]
    UpstreamTimedOut,
    /// The upstream was at work for longer than a call may take.
    #[error("upstream given up")]
    UpstreamGivenUp {
        /// What was charged for its work.
        cost: Credits,
    },
    /// The upstream's answer is larger than an answer may be.
    #[error("answer too large")]
    AnswerTooLarge {
        /// What was charged for it.
        cost: Credits,
    },
    /// The client closed the connection before the first byte of its stream. The prompt was
    /// charged, and nothing is answered.
    #[error("the client left")]
    ClientLeft,
    /// The first request with this idempotency key still runs.
    #[error("the first request with this idempotency key still runs")]
    RepeatTooEarly,
    /// The idempotency key was used for a different request.
    #[error("the idempotency key was used for another request")]
    RepeatDiffers,
    /// The first answer was too large to store, so it cannot be repeated.
    #[error("the first answer was too large to store")]
    RepeatNotKept,
}
