//! The charge of one call: its price, its terms, why it is declined, and its settlement.

use std::num::NonZeroU32;

use crate::hold::HoldEnd;
use crate::ids::{ChargeId, KeyId};
use crate::ledger::LedgerEntry;
use crate::limits::{KeySpend, LimitsLeft};
use crate::money::Credits;
use crate::stored_bill::StoredBill;
use crate::window::Timestamp;

/// The price of a call before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// Known before the call. Debited before it, refunded if it fails.
    Fixed(Credits),
    /// Known only after the call. An amount is held, then the actual cost captured.
    UpTo(PriceBounds),
}

/// The bounds of the cost of a call, if its price is known only after it. In rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceBounds {
    /// The least that it can cost.
    pub least: Credits,
    /// The call is declined if less than this can be held.
    pub start: Credits,
    /// The amount to hold when it begins. Less is held if less is available.
    pub first: Credits,
    /// One part in so many of what is available is held when it begins, if that is more.
    pub share: Option<NonZeroU32>,
    /// The most that it can cost.
    pub most: Credits,
}

impl PriceBounds {
    /// The bounds of a call that begins only if its largest cost can be held.
    #[must_use]
    pub const fn whole(least: Credits, most: Credits) -> Self {
        PriceBounds { least, start: most, first: most, share: None, most }
    }

    /// The amount to hold when it begins, if so much is available.
    pub(super) fn first_of(&self, available: Credits) -> Credits {
        let part = |share: NonZeroU32| available.nanos().checked_div(i64::from(share.get()));
        let part = self.share.and_then(part).map_or(Credits::ZERO, Credits::from_nanos);
        self.first.max(part.min(self.most))
    }
}

impl Price {
    /// The amount that must be available for the call to be admitted.
    #[must_use]
    pub const fn start(self) -> Credits {
        match self {
            Price::Fixed(price) => price,
            Price::UpTo(bounds) => bounds.start,
        }
    }

    /// The most that it can cost.
    #[must_use]
    pub const fn most(self) -> Credits {
        match self {
            Price::Fixed(price) => price,
            Price::UpTo(bounds) => bounds.most,
        }
    }

    /// The decline if `available` does not cover the price. It states the least cost, if even that
    /// is not covered, and otherwise the amount that the call needs to begin.
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
    /// New for each call.
    pub id: ChargeId,
    /// The key that pays.
    pub key: KeyId,
    /// The price, or its bounds.
    pub price: Price,
    /// What a fixed price is for. A hold gets the bill of its capture at its end.
    pub bill: Option<StoredBill>,
    /// When the charge expires if it is not settled before.
    pub expires_at: Timestamp,
    /// Is the hold stored? It must be if the answer starts before the call is settled.
    pub is_durable: bool,
}

/// Why the account declines a charge. In order of precedence: if several apply, the first is the
/// answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Decline {
    /// A charge with this id is already open.
    #[error("the charge is open already")]
    AlreadyOpen,
    /// No hold with this id is open, so it cannot be extended.
    #[error("the hold is not open")]
    NotOpen,
    /// The account is suspended.
    #[error("the account is suspended")]
    AccountSuspended,
    /// The key is revoked or deleted, or belongs to another account.
    #[error("the key is not active")]
    KeyInactive,
    /// The call costs more than the key's limit for one request.
    #[error("above the key's limit for one request")]
    PerRequestLimit,
    /// The available credits do not cover the cost.
    #[error("costs ${price} with ${available} available")]
    InsufficientCredits {
        /// The cost that the answer to the client states.
        price: Credits,
        /// The available credits.
        available: Credits,
    },
    /// The key's daily limit does not cover the cost.
    #[error("the key's daily limit is reached")]
    DailyLimit,
    /// The key's monthly limit does not cover the cost.
    #[error("the key's monthly limit is reached")]
    MonthlyLimit,
    /// The key's limit for all time does not cover the cost.
    #[error("the key's total limit is reached")]
    TotalLimit,
    /// The amount to add or to take is zero or less.
    #[error("the amount is not positive")]
    AmountNotPositive,
    /// A sum does not fit into [`Credits`].
    #[error("the amount is too large")]
    AmountTooLarge,
}

/// The terms of a call that may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeTerms {
    /// The amount that is debited or held.
    pub held: Credits,
    /// The most that the call may take now: at most its largest cost, the available credits and
    /// what the key's limits leave.
    pub ceiling: Credits,
}

/// The outcome of a charged call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was delivered. A fixed price stays debited. From a hold the cost is captured, at
    /// most the complete hold.
    Delivered {
        /// The actual cost.
        cost: Credits,
        /// What it is for. A fixed price has had its bill before.
        bill: Option<StoredBill>,
    },
    /// Nothing was delivered. A fixed price is refunded, a hold released.
    Failed,
    /// It expired, or its process ended. What was earned of a durable hold is captured. Other
    /// charges are treated like failed ones.
    Expired,
}

/// The result of ending a charge.
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
    /// The number of the charge's last ledger entry: the capture or refund, or else the debit of a
    /// fixed price. `None` if the charge has no entry.
    pub seq: Option<i64>,
    /// What the call finally cost.
    pub cost: Credits,
    /// The balance afterwards.
    pub balance: Credits,
    /// The key's counters afterwards; `None` if the key was deleted.
    pub key_spend: Option<KeySpend>,
    /// What the key may still spend afterwards.
    pub left: LimitsLeft,
}

/// No charge with this id is open. It never existed, was settled, or expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such open charge")]
pub struct NotOpen;
