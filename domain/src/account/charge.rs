//! What a caller asks of an account for one call, and what it gets: price, terms, refusal,
//! settlement.

use crate::hold::HoldEnd;
use crate::ids::{ChargeId, KeyId};
use crate::ledger::LedgerEntry;
use crate::limits::{KeySpend, LimitsLeft};
use crate::money::Credits;
use crate::window::Timestamp;

/// The price of a call before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// Known: debited before the call, refunded if the call fails.
    Fixed(Credits),
    /// Known only after the call: some is held, the actual cost captured.
    UpTo(PriceBounds),
}

/// What a call may cost if its price is known only after it. In rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceBounds {
    /// What it costs at least.
    pub least: Credits,
    /// With less than this the call is not begun.
    pub start: Credits,
    /// What is held when it begins, or as much of it as can be.
    pub first: Credits,
    /// What it can cost at most.
    pub most: Credits,
}

impl PriceBounds {
    /// The bounds of a call that is begun only if all it can cost can be held.
    #[must_use]
    pub const fn whole(least: Credits, most: Credits) -> Self {
        PriceBounds { least, start: most, first: most, most }
    }
}

impl Price {
    /// What must be there for the call to be admitted.
    #[must_use]
    pub const fn start(self) -> Credits {
        match self {
            Price::Fixed(price) => price,
            Price::UpTo(bounds) => bounds.start,
        }
    }

    /// What it can cost at most.
    #[must_use]
    pub const fn most(self) -> Credits {
        match self {
            Price::Fixed(price) => price,
            Price::UpTo(bounds) => bounds.most,
        }
    }

    /// The decline if `available` does not cover the price. It names the least cost if not even
    /// that is covered, else what the call begins with.
    pub(super) fn uncovered(self, available: Credits) -> Decline {
        let price = match self {
            Price::UpTo(PriceBounds { least, .. }) if least > available => least,
            _ => self.start(),
        };
        Decline::InsufficientCredits { price, available }
    }
}

/// A request to pay for one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Made once for each call.
    pub id: ChargeId,
    /// The key that pays.
    pub key: KeyId,
    /// What it may cost.
    pub price: Price,
    /// When the hold ends by itself, if nothing else ends it.
    pub expires_at: Timestamp,
    /// Is the hold written? It is if the answer is delivered before the call is settled.
    pub is_durable: bool,
}

/// Why the account declines, in order of precedence: if several apply, the first is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Decline {
    /// A charge with this id is open already.
    #[error("the charge is open already")]
    AlreadyOpen,
    /// No hold of this id is open, so it cannot be extended.
    #[error("the hold is not open")]
    NotOpen,
    /// The account is suspended.
    #[error("the account is suspended")]
    AccountSuspended,
    /// The key is revoked, deleted, or never was one of this account.
    #[error("the key is not active")]
    KeyInactive,
    /// One call may not cost that much.
    #[error("above the key's limit for one request")]
    PerRequestLimit,
    /// The balance does not cover it.
    #[error("costs ${price} with ${available} available")]
    InsufficientCredits {
        /// What the refusal names as the cost.
        price: Credits,
        /// What could be spent.
        available: Credits,
    },
    /// The key's day is spent.
    #[error("the key's daily limit is reached")]
    DailyLimit,
    /// The key's month is spent.
    #[error("the key's monthly limit is reached")]
    MonthlyLimit,
    /// The key has spent all it ever may.
    #[error("the key's total limit is reached")]
    TotalLimit,
    /// The amount to add or to take is zero or less.
    #[error("the amount is not positive")]
    AmountNotPositive,
    /// A sum would not fit.
    #[error("the amount is too large")]
    AmountTooLarge,
}

/// What a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeTerms {
    /// Debited or held for it.
    pub held: Credits,
    /// What it could cost at most, with what the balance and the limits have left for it now.
    pub ceiling: Credits,
}

/// How a charged call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was delivered. The cost counts for a hold, and is clamped to it; a fixed price
    /// stands.
    Delivered {
        /// What it did cost.
        cost: Credits,
    },
    /// Nothing was delivered: a fixed price is refunded, a hold released.
    Failed,
    /// Its time is over, or its process has ended: what was earned of a durable hold is captured;
    /// else as failed.
    Expired,
}

/// A charge that was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The key that paid.
    pub key: KeyId,
    /// When the charge was opened.
    pub opened_at: Timestamp,
    /// The capture or refund to write, if money moved.
    pub entry: Option<LedgerEntry>,
    /// The end of the hold to write, if it is durable.
    pub hold_end: Option<HoldEnd>,
    /// The last entry of the charge: that one, else the debit of a fixed price, if there was one.
    pub seq: Option<i64>,
    /// What the call cost in the end.
    pub cost: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// The key's counters after it; none if the key is deleted.
    pub key_spend: Option<KeySpend>,
    /// What the key may still spend after it.
    pub left: LimitsLeft,
}

/// There is no open charge of this id: it never was, it was ended, or it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such open charge")]
pub struct NotOpen;
