//! What `verify` reads of the journal: does it follow the ledgers in the tables?

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use sea_orm::{ConnectionTrait, EntityTrait as _};

use super::position::mark;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::sql::query;
use domain::{AccountId, Credits, LedgerEntry, Link};
use entity::account;

impl Store {
    /// What the journal says that the tables do not yet: how many entries, and which accounts'
    /// entries do not follow their ledgers.
    pub async fn audited_journal(&self) -> Result<(u64, Vec<(AccountId, String)>), StoreError> {
        // The journal first: what is checkpointed meanwhile is below the mark that is read then,
        // and nothing is missed.
        let batches = self.journaled_batches()?.all().await?;
        let snapshot = self.snapshot().await?;
        let mark = mark(&snapshot).await?;
        let (mut ends, mut found) = (BTreeMap::<AccountId, End>::new(), Vec::new());
        let mut entries: u64 = 0;
        let refused = "SELECT DISTINCT account_id FROM journal_refused ORDER BY account_id";
        for row in query(&snapshot, refused, []).await? {
            let account = AccountId(row.try_get_by_index(0)?);
            found.push((account, "the tables refuse its entries of the journal".to_owned()));
        }
        let beyond = batches.iter().filter(|(at, _)| *at > mark);
        for entry in beyond.flat_map(|(_, batch)| &batch.entries) {
            entries = entries.saturating_add(1);
            let end = match ends.entry(entry.account) {
                Entry::Occupied(end) => end.into_mut(),
                Entry::Vacant(none) => none.insert(end_of(&snapshot, entry.account).await?),
            };
            if !end.is_followed_by(entry) {
                let what = format!("entry {} in the journal does not follow", entry.seq);
                found.push((entry.account, what));
                *end = End { seq: entry.seq, balance: entry.balance_after, link: entry.link };
            }
        }
        snapshot.rollback().await?;
        Ok((entries, found))
    }
}

/// How an account's ledger ends.
struct End {
    seq: i64,
    balance: Credits,
    link: Link,
}

impl End {
    /// Does the entry follow? If so, it is the end.
    fn is_followed_by(&mut self, entry: &LedgerEntry) -> bool {
        let follows = entry.seq == self.seq.saturating_add(1)
            && self.balance.checked_add(entry.amount) == Some(entry.balance_after)
            && self.link.next(entry) == entry.link;
        if follows {
            *self = End { seq: entry.seq, balance: entry.balance_after, link: entry.link };
        }
        follows
    }
}

async fn end_of(connection: &impl ConnectionTrait, id: AccountId) -> Result<End, StoreError> {
    let row = account::Entity::find_by_id(id.0).one(connection).await?;
    let none = End { seq: 0, balance: Credits::ZERO, link: Link::START };
    Ok(row.map_or(none, |row| End {
        seq: row.seq,
        balance: Credits::from_nanos(row.balance),
        link: Link::from_slice(&row.link).unwrap_or_default(),
    }))
}
