//! Ledger entries: the append-only record of every movement of money.

use uuid::Uuid;

use super::chain::Link;
use super::ids::{AccountId, KeyId};
use super::money::Credits;
use super::window::{Day, Month, Timestamp};

/// What moved the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// Credits added by a payment. Reference: the payment.
    TopUp,
    /// A fixed price, debited before the call. Reference: the charge.
    Charge,
    /// The actual cost of a token-priced call, taken from its hold. Reference: the charge.
    Capture,
    /// A fixed price given back, since the call failed. Reference: the charge.
    Refund,
    /// Credits given without a payment. Reference: the user.
    Grant,
    /// Credits taken by an operator. Reference: the user.
    Deduction,
    /// Credits taken back, since the provider gave the money back. Reference: the payment.
    PaymentRefund,
    /// Credits taken back, since the payer disputes the payment. Reference: the payment.
    Dispute,
    /// Credits given again that a refund or a dispute had taken: the one failed, the other was won. Reference: the
    /// payment.
    Reinstatement,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [EntryKind; 9] = [
        EntryKind::TopUp,
        EntryKind::Charge,
        EntryKind::Capture,
        EntryKind::Refund,
        EntryKind::Grant,
        EntryKind::Deduction,
        EntryKind::PaymentRefund,
        EntryKind::Dispute,
        EntryKind::Reinstatement,
    ];

    /// The number that stands for the kind in the database. Fixed for ever.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            EntryKind::TopUp => 1,
            EntryKind::Charge => 2,
            EntryKind::Capture => 3,
            EntryKind::Refund => 4,
            EntryKind::Grant => 5,
            EntryKind::Deduction => 6,
            EntryKind::PaymentRefund => 7,
            EntryKind::Dispute => 8,
            EntryKind::Reinstatement => 9,
        }
    }

    /// The kind that a number of the database stands for.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The word that stands for the kind in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EntryKind::TopUp => "top_up",
            EntryKind::Charge => "charge",
            EntryKind::Capture => "capture",
            EntryKind::Refund => "refund",
            EntryKind::Grant => "grant",
            EntryKind::Deduction => "deduction",
            EntryKind::PaymentRefund => "payment_refund",
            EntryKind::Dispute => "dispute",
            EntryKind::Reinstatement => "reinstatement",
        }
    }

    /// The kind that a word of the API stands for.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Does it add to the balance?
    #[must_use]
    pub const fn gives(self) -> bool {
        matches!(
            self,
            EntryKind::TopUp | EntryKind::Refund | EntryKind::Grant | EntryKind::Reinstatement
        )
    }
}

/// One movement of money on one account. Never changed, never deleted; the balance is the fold of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The account.
    pub account: AccountId,
    /// 1 for an account's first entry, then one more each, without a gap.
    pub seq: i64,
    /// The epoch of the lease under which it was decided; never falls.
    pub epoch: i64,
    /// What moved it.
    pub kind: EntryKind,
    /// Signed: positive adds to the balance.
    pub amount: Credits,
    /// The balance with this entry. Never negative.
    pub balance_after: Credits,
    /// The charge, payment or user it belongs to, by the kind.
    pub reference: Uuid,
    /// The key that spent it; none for a top-up or a grant.
    pub key: Option<KeyId>,
    /// The UTC day it counts in, fixed when it is decided, not when it is replayed.
    pub day: Day,
    /// The UTC month it counts in.
    pub month: Month,
    /// When it was decided.
    pub at: Timestamp,
    /// Ties it to the entry before it.
    pub link: Link,
}

impl LedgerEntry {
    /// The entry, tied to the one before it.
    #[must_use]
    pub fn after(self, before: Link) -> Self {
        LedgerEntry { link: before.next(&self), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_read_back_from_their_codes() {
        for kind in EntryKind::ALL {
            assert_eq!(EntryKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(EntryKind::from_code(0), None);
    }
}
