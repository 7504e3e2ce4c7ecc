//! Ledger entries: the append-only record of every movement of money, and the hash chain that ties
//! them together.
//!
//! An entry's link is SHA-256 over the link before it and all fields of the entry. If an entry is
//! edited, removed, inserted or moved, the chain breaks at that entry, and `verify` names it. The
//! chain has no key: somebody who can rewrite the database can also compute new links from
//! the edited entry on. But then the account's last link differs from the one in a backup or in an
//! earlier report of `verify`.

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::coded::coded_enum;
use super::ids::{AccountId, KeyId};
use super::money::Credits;
use super::stored_bill::StoredBill;
use super::window::{Day, Month, Timestamp};

coded_enum! {
    /// The kind of a movement of money.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum EntryKind {
        /// Credits added by a payment. Reference: the payment.
        TopUp = 1 => "top_up",
        /// A fixed price, debited before the call. Reference: the charge.
        Charge = 2 => "charge",
        /// The actual cost of a token-priced call, taken from its hold. Reference: the charge.
        Capture = 3 => "capture",
        /// A fixed price, given back because the call failed. Reference: the charge.
        Refund = 4 => "refund",
        /// Credits given without a payment. Reference: the user, or the charge that it corrects.
        Grant = 5 => "grant",
        /// Credits taken by an operator. Reference: the user, or the charge that it corrects.
        Deduction = 6 => "deduction",
        /// Credits taken back because the provider refunded the payment. Reference: the payment.
        PaymentRefund = 7 => "payment_refund",
        /// Credits taken back because the payer disputes the payment. Reference: the payment.
        Dispute = 8 => "dispute",
        /// Credits that a refund or a dispute had taken, given back because the refund failed or
        /// the dispute was won. Reference: the payment.
        Reinstatement = 9 => "reinstatement",
    }
}

impl EntryKind {
    /// Is the amount of such an entry positive?
    #[must_use]
    pub const fn gives(self) -> bool {
        matches!(
            self,
            EntryKind::TopUp | EntryKind::Refund | EntryKind::Grant | EntryKind::Reinstatement
        )
    }
}

/// One movement of money on one account. Entries never change and are never deleted. The balance is
/// the sum of their amounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The account.
    pub account: AccountId,
    /// The number of the entry: 1 for an account's first one, then without a gap.
    pub seq: i64,
    /// The epoch of the lease under which it was decided. It never decreases from entry to entry.
    pub epoch: i64,
    /// Why the money moved.
    pub kind: EntryKind,
    /// The amount. A positive one adds to the balance.
    pub amount: Credits,
    /// The balance after this entry. Never negative.
    pub balance_after: Credits,
    /// The id of the charge, payment or user; see [`EntryKind`].
    pub reference: Uuid,
    /// The key that spent it; `None` if no key did, such as for a top-up or a grant.
    pub key: Option<KeyId>,
    /// The UTC day it counts in. Fixed when the entry is decided.
    pub day: Day,
    /// The UTC month it counts in. Fixed when the entry is decided.
    pub month: Month,
    /// When it was decided.
    pub at: Timestamp,
    /// What a call was charged for. `None` if the entry is not of a call, gives back what a call
    /// had taken, or was written before entries had bills.
    pub bill: Option<StoredBill>,
    /// The hash that ties it to the entry before it.
    pub link: Link,
}

impl LedgerEntry {
    /// This entry with its link computed from the link of the entry before it.
    #[must_use]
    pub fn after(self, before: Link) -> Self {
        LedgerEntry { link: before.next(&self), ..self }
    }
}

/// Room for what is hashed of an entry with the largest bill.
const LINKED_BYTES: usize = 256;

/// A hash over an entry and all entries of its account before it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Link(pub [u8; 32]);

impl Link {
    /// The link before an account's first entry.
    pub const START: Link = Link([0; 32]);

    /// The link of `entry`, if `self` is the link of the entry before it. The input of the hash
    /// must never change: stored links would no longer match.
    #[must_use]
    pub fn next(self, entry: &LedgerEntry) -> Link {
        let key = entry.key.map(|key| key.0);
        // Hashed at once: each update of a hash costs about as much as all these copies.
        let mut input = Vec::with_capacity(LINKED_BYTES);
        input.extend_from_slice(&self.0);
        input.extend_from_slice(&entry.account.0.to_le_bytes());
        input.extend_from_slice(&entry.seq.to_le_bytes());
        input.extend_from_slice(&entry.epoch.to_le_bytes());
        input.extend_from_slice(&entry.kind.code().to_le_bytes());
        input.extend_from_slice(&entry.amount.nanos().to_le_bytes());
        input.extend_from_slice(&entry.balance_after.nanos().to_le_bytes());
        input.extend_from_slice(entry.reference.as_bytes());
        input.push(u8::from(key.is_some()));
        input.extend_from_slice(key.unwrap_or_default().as_bytes());
        input.extend_from_slice(&entry.day.0.to_le_bytes());
        input.extend_from_slice(&entry.month.0.to_le_bytes());
        input.extend_from_slice(&entry.at.micros().to_le_bytes());
        // All before this has a fixed length. So entries without a bill have the links that they
        // had before there were bills, and none has the hash of one with a bill.
        if let Some(bill) = &entry.bill {
            input.extend_from_slice(&bill.version().number().to_le_bytes());
            input.push(bill.length());
            input.extend_from_slice(bill.bytes());
        }
        Link(Sha256::digest(&input).into())
    }

    /// A link as stored; `None` if the length is wrong.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Link)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LedgerEntry {
        LedgerEntry {
            account: AccountId(7),
            seq: 2,
            epoch: 3,
            kind: EntryKind::Charge,
            amount: Credits::from_nanos(-5),
            balance_after: Credits::from_nanos(95),
            reference: Uuid::from_u128(1),
            key: Some(KeyId(Uuid::from_u128(2))),
            day: Day(19_000),
            month: Month(648),
            at: Timestamp::from_micros(11),
            bill: None,
            link: Link::START,
        }
    }

    fn stored(version: i64, bytes: &[u8]) -> Option<StoredBill> {
        StoredBill::from_columns(Some(version), Some(bytes))
    }

    /// The links are stored for ever, so the hash must stay the same.
    #[test]
    fn a_link_never_changes() {
        let link = "e48622844a18305e69d1f69e9471042847a5d172564f45887f398af27def992b";
        assert_eq!(Link::START.next(&entry()).to_string(), link);
        let billed = LedgerEntry { bill: stored(1, &[0, 1, 0, 0, 24, 1]), ..entry() };
        let link = "75c93fbbcfaae734871134db6915f8a7fef2865ff261c717a1392aa8fa721786";
        assert_eq!(Link::START.next(&billed).to_string(), link);
    }

    #[test]
    fn whatever_an_entry_says_is_in_its_link() {
        let (one, of) = (entry(), |entry: &LedgerEntry| Link([1; 32]).next(entry));
        let changes: [fn(&mut LedgerEntry); 15] = [
            |entry| entry.account.0 += 1,
            |entry| entry.seq += 1,
            |entry| entry.epoch += 1,
            |entry| entry.kind = EntryKind::Capture,
            |entry| entry.amount = Credits::from_nanos(-6),
            |entry| entry.balance_after = Credits::from_nanos(94),
            |entry| entry.reference = Uuid::from_u128(3),
            |entry| entry.key = None,
            |entry| entry.key = Some(KeyId(Uuid::nil())),
            |entry| entry.day = Day(19_001),
            |entry| entry.month = Month(649),
            |entry| entry.at = Timestamp::from_micros(12),
            |entry| entry.bill = stored(1, &[0, 1, 0, 0]),
            |entry| entry.bill = stored(2, &[0, 1, 0, 0]),
            |entry| entry.bill = stored(1, &[0, 1, 0, 0, 24, 1]),
        ];
        let mut links: Vec<Link> = changes
            .iter()
            .map(|change| {
                let mut other = one;
                change(&mut other);
                of(&other)
            })
            .collect();
        links.extend([of(&one), Link([2; 32]).next(&one)]);
        let count = links.len();
        links.sort_unstable_by_key(|link| link.0);
        links.dedup();
        assert_eq!(links.len(), count);
    }
}
