//! The chain that ties each ledger entry to the one before it.
//!
//! An entry's link is SHA-256 over the link before it and everything that the entry says. So an entry that is
//! edited, removed, slipped in or moved breaks the chain where it stands, and `verify` names it. The chain is
//! not keyed: whoever may rewrite the whole database can also rewrite a chain from the edited entry on, but
//! not without changing the account's last link, which a backup or a report of `verify` still has.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::ledger::LedgerEntry;

/// Ties an entry to all entries of its account before it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Link(pub [u8; 32]);

impl Link {
    /// What stands before an account's first entry.
    pub const START: Link = Link([0; 32]);

    /// The link of `entry`, where this is the link before it. Fixed for ever: the migration that gave older
    /// entries their links has a copy of it.
    #[must_use]
    pub fn next(self, entry: &LedgerEntry) -> Link {
        let key = entry.key.map(|key| key.0);
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(entry.account.0.to_le_bytes())
            .chain_update(entry.seq.to_le_bytes())
            .chain_update(entry.epoch.to_le_bytes())
            .chain_update(entry.kind.code().to_le_bytes())
            .chain_update(entry.amount.nanos().to_le_bytes())
            .chain_update(entry.balance_after.nanos().to_le_bytes())
            .chain_update(entry.reference)
            .chain_update([u8::from(key.is_some())])
            .chain_update(key.unwrap_or_default())
            .chain_update(entry.day.0.to_le_bytes())
            .chain_update(entry.month.0.to_le_bytes())
            .chain_update(entry.at.micros().to_le_bytes());
        Link(hash.finalize().into())
    }

    /// A link as it is stored; `None` where that has another length.
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
    use uuid::Uuid;

    use super::*;
    use crate::{AccountId, Credits, Day, EntryKind, KeyId, Month, Timestamp};

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
            link: Link::START,
        }
    }

    /// The text of a link is in every database for ever.
    #[test]
    fn a_link_never_changes() {
        let link = "e48622844a18305e69d1f69e9471042847a5d172564f45887f398af27def992b";
        assert_eq!(Link::START.next(&entry()).to_string(), link);
    }

    #[test]
    fn whatever_an_entry_says_is_in_its_link() {
        let (one, of) = (entry(), |entry: &LedgerEntry| Link([1; 32]).next(entry));
        let changes: [fn(&mut LedgerEntry); 12] = [
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
