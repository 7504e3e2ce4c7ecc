//! Payments: their statuses, and what a provider takes back.
//!
//! A payment is credited once. A provider may later take it back (a refund or a dispute). Then the
//! ledger takes what is available at once, and the rest when more credits arrive. What the provider
//! returns is credited again. A provider may report twice, late or out of order. The ledger follows
//! its last report.

use super::coded::coded_enum;
use super::ids::{AccountId, PaymentId};
use super::ledger::EntryKind;
use super::money::Credits;
use super::window::Timestamp;

coded_enum! {
    /// The status of a payment.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum PaymentStatus {
        /// It waits for its payer.
        Created = 1 => "created",
        /// The provider has the payer's promise, but not the money yet.
        Confirming = 2 => "confirming",
        /// The account is credited. This status is final: what is taken back later is a
        /// [`Reversal`].
        Confirmed = 3 => "confirmed",
        /// The provider did not get the money.
        Failed = 4 => "failed",
        /// The payer did not pay in time.
        Expired = 5 => "expired",
    }
}

impl PaymentStatus {
    /// Is its result still unknown?
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, PaymentStatus::Created | PaymentStatus::Confirming)
    }

    /// May the status become `next`? Money that arrives late is credited, even after a failure. A
    /// confirmed payment stays confirmed.
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

coded_enum! {
    /// Why a provider takes something back.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum ReversalKind {
        /// It refunded the money.
        Refund = 1 => "refund",
        /// The payer disputes the payment.
        Dispute = 2 => "dispute",
    }
}

impl ReversalKind {
    /// The kind of the ledger entry that takes the credits.
    #[must_use]
    pub const fn entry_kind(self) -> EntryKind {
        match self {
            ReversalKind::Refund => EntryKind::PaymentRefund,
            ReversalKind::Dispute => EntryKind::Dispute,
        }
    }
}

/// What a provider takes back of a payment, and how much of it the ledger has taken so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reversal {
    /// The provider that takes it back.
    pub provider: String,
    /// The provider's id of the refund or dispute.
    pub provider_ref: String,
    /// The payment.
    pub payment: PaymentId,
    /// The account that was credited.
    pub account: AccountId,
    /// Why it is taken back.
    pub kind: ReversalKind,
    /// The amount in the provider's last report; zero if a refund failed or a dispute was won.
    pub wanted: Credits,
    /// The amount that the ledger has taken so far.
    pub taken: Credits,
    /// When the provider first reported it.
    pub created_at: Timestamp,
}

/// The next step of the ledger for a reversal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversalStep {
    /// Take this amount from the account.
    Take(Credits),
    /// Give this amount back to the account.
    Give(Credits),
}

impl Reversal {
    /// The next step, with this amount available; `None` if nothing is left to do, or no credits
    /// are available.
    #[must_use]
    pub fn step(&self, available: Credits) -> Option<ReversalStep> {
        if self.taken > self.wanted {
            return Some(ReversalStep::Give(self.taken.less(self.wanted)));
        }
        let take = self.wanted.less(self.taken).min(available);
        (take > Credits::ZERO).then_some(ReversalStep::Take(take))
    }

    /// The amount that the ledger has taken after this step.
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
    fn late_money_is_credited_once_whatever_the_status() {
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
