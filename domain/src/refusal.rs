//! Why the gateway refuses a call, before it is mapped to an answer.

use crate::money::Credits;

/// Why a request was not served, with what the client needs to know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Over a rate limit.
    #[error("rate limited")]
    RateLimited {
        /// Seconds until a request will be admitted.
        retry_after: u64,
    },
    /// The account has as many calls in flight as it may have.
    #[error("too many calls in flight")]
    TooManyInFlight,
    /// No key in either header.
    #[error("no key")]
    MissingKey,
    /// Not a key, or not a key in use.
    #[error("invalid key")]
    InvalidKey,
    /// An expired key.
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
    /// Not attempted: the account's records do not agree with one another, and a person must look
    /// at them.
    #[error("the account is quarantined")]
    Quarantined,
    /// The charge was decided, but it is not known whether it is on record. The reason is for the
    /// log.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(&'static str),
    /// The hold of a stream was not on record when the upstream had begun to answer; nothing was
    /// charged. The reason is for the log.
    #[error("not held: {0}")]
    NotHeld(&'static str),
    /// The server stopped before the upstream had answered; nothing was charged.
    #[error("stopped")]
    Stopped,
    /// The server has as many requests as it may have; nothing was attempted.
    #[error("overloaded")]
    Overloaded,
    /// The upstream failed; nothing was charged.
    #[error("upstream failed: {0}")]
    UpstreamFailed(&'static str),
    /// The upstream took too long; nothing was charged.
    #[error("upstream timed out")]
    UpstreamTimedOut,
    /// The client left before the first byte of its stream. The prompt was charged, and nothing is
    /// answered.
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
