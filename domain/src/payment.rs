//! Payments: how far one has come, and what its provider takes back of it.
//!
//! A payment is credited once. What its provider takes back later (a refund, a dispute) is taken from the balance as
//! far as credits are there, and the rest as they come; what the provider gives again is given again. Whatever the
//! provider tells twice, late or out of order, the ledger ends where the provider's last word is.

use super::ids::{AccountId, PaymentId};
use super::ledger::EntryKind;
use super::money::Credits;
use super::window::Timestamp;

/// How far a payment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PaymentStatus {
    /// It waits for its payer.
    Created,
    /// The provider has the payer's word, and not yet the money.
    Confirming,
    /// The credits are on the account. For good: what is taken back later is a [`Reversal`].
    Confirmed,
    /// The provider did not get the money.
    Failed,
    /// The payer did not pay in time.
    Expired,
}

impl PaymentStatus {
    /// Every one.
    pub const ALL: [PaymentStatus; 5] = [
        PaymentStatus::Created,
        PaymentStatus::Confirming,
        PaymentStatus::Confirmed,
        PaymentStatus::Failed,
        PaymentStatus::Expired,
    ];

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PaymentStatus::Created => "created",
            PaymentStatus::Confirming => "confirming",
            PaymentStatus::Confirmed => "confirmed",
            PaymentStatus::Failed => "failed",
            PaymentStatus::Expired => "expired",
        }
    }

    /// The number that stands for it in the database. Fixed for ever.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            PaymentStatus::Created => 1,
            PaymentStatus::Confirming => 2,
            PaymentStatus::Confirmed => 3,
            PaymentStatus::Failed => 4,
            PaymentStatus::Expired => 5,
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// Does it wait for the provider's word?
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, PaymentStatus::Created | PaymentStatus::Confirming)
    }

    /// May it come to be `next`? Money that came after all is credited, whatever was thought of it before; nothing
    /// takes a credit away.
    #[must_use]
    pub const fn may_become(self, next: PaymentStatus) -> bool {
        match self {
            PaymentStatus::Confirmed => false,
            PaymentStatus::Created => !matches!(next, PaymentStatus::Created),
            PaymentStatus::Confirming => {
                !matches!(next, PaymentStatus::Created | PaymentStatus::Confirming)
            }
            PaymentStatus::Failed | PaymentStatus::Expired => {
                matches!(next, PaymentStatus::Confirming | PaymentStatus::Confirmed)
            }
        }
    }
}

/// Why a provider takes something back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReversalKind {
    /// It gave the money back.
    Refund,
    /// The payer disputes the payment.
    Dispute,
}

impl ReversalKind {
    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            ReversalKind::Refund => 1,
            ReversalKind::Dispute => 2,
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(ReversalKind::Refund),
            2 => Some(ReversalKind::Dispute),
            _ => None,
        }
    }

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ReversalKind::Refund => "refund",
            ReversalKind::Dispute => "dispute",
        }
    }

    /// The kind of the entry that takes it.
    #[must_use]
    pub const fn entry_kind(self) -> EntryKind {
        match self {
            ReversalKind::Refund => EntryKind::PaymentRefund,
            ReversalKind::Dispute => EntryKind::Dispute,
        }
    }
}

/// What a provider takes back of a payment, and how much of it the ledger has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reversal {
    /// Who takes it back.
    pub provider: String,
    /// What the provider calls it.
    pub provider_ref: String,
    /// Of which payment.
    pub payment: PaymentId,
    /// Whose.
    pub account: AccountId,
    /// Why.
    pub kind: ReversalKind,
    /// How much, by the provider's last word; nothing where a refund failed or a dispute was won.
    pub wanted: Credits,
    /// How much the ledger has taken.
    pub taken: Credits,
    /// When it was first heard of.
    pub created_at: Timestamp,
}

/// What the ledger is to do about a reversal next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversalStep {
    /// Take so much.
    Take(Credits),
    /// Give so much again.
    Give(Credits),
}

impl Reversal {
    /// What is to be done now, with so much available; `None` where nothing is, or nothing can be.
    #[must_use]
    pub fn step(&self, available: Credits) -> Option<ReversalStep> {
        if self.taken > self.wanted {
            return Some(ReversalStep::Give(self.taken.less(self.wanted)));
        }
        let take = self.wanted.less(self.taken).min(available);
        (take > Credits::ZERO).then_some(ReversalStep::Take(take))
    }

    /// What the ledger has taken after a step.
    #[must_use]
    pub fn taken_after(&self, step: ReversalStep) -> Credits {
        match step {
            ReversalStep::Take(amount) => self.taken.checked_add(amount).unwrap_or(self.taken),
            ReversalStep::Give(amount) => self.taken.less(amount),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn money_that_came_is_credited_whatever_was_thought_before_and_only_once() {
        for status in PaymentStatus::ALL {
            assert_eq!(PaymentStatus::from_code(status.code()), Some(status));
            assert!(!status.may_become(PaymentStatus::Created), "{status:?}");
            let is_confirmed = status == PaymentStatus::Confirmed;
            assert_eq!(status.may_become(PaymentStatus::Confirmed), !is_confirmed, "{status:?}");
            for next in PaymentStatus::ALL.into_iter().filter(|_| is_confirmed) {
                assert!(!status.may_become(next), "{next:?}");
            }
            assert!(!status.may_become(status), "{status:?}");
        }
        assert!(!PaymentStatus::Expired.may_become(PaymentStatus::Failed));
        assert!(PaymentStatus::Expired.may_become(PaymentStatus::Confirming));
    }

    #[test]
    fn a_reversal_takes_what_is_there_and_ends_at_the_last_word() {
        let cents = |cents: i64| Credits::from_nanos(cents * 10_000_000);
        let of = |wanted, taken| Reversal {
            provider: "p".into(),
            provider_ref: "r".into(),
            payment: PaymentId(Uuid::nil()),
            account: AccountId(1),
            kind: ReversalKind::Refund,
            wanted: cents(wanted),
            taken: cents(taken),
            created_at: Timestamp::from_micros(0),
        };
        for (wanted, taken, available, step) in [
            (10, 0, 100, Some(ReversalStep::Take(cents(10)))),
            (10, 0, 4, Some(ReversalStep::Take(cents(4)))),
            (10, 4, 100, Some(ReversalStep::Take(cents(6)))),
            (10, 4, 0, None),
            (10, 10, 100, None),
            (0, 10, 0, Some(ReversalStep::Give(cents(10)))),
            (3, 10, 100, Some(ReversalStep::Give(cents(7)))),
        ] {
            let reversal = of(wanted, taken);
            assert_eq!(reversal.step(cents(available)), step);
            if let Some(step) = step.filter(|_| available >= wanted) {
                assert_eq!(reversal.taken_after(step), cents(wanted));
            }
        }
    }
}
