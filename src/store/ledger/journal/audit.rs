//! Checks for `verify` that the journal continues the ledgers in the tables.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use sea_orm::{ConnectionTrait, EntityTrait as _};

use super::position::mark;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::sql::query;
use domain::audit::check_bill;
use domain::{AccountId, Bill, Credits, LedgerEntry, Link};
use entity::account;

/// What `verify` finds in the journal beyond the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditedJournal {
    /// Number of entries that are not yet in the tables.
    pub entries: u64,
    /// Number of those with a bill.
    pub bills: u64,
    /// The accounts whose entries do not continue their ledgers, or do not take what their bills
    /// come to, each with the reason.
    pub found: Vec<(AccountId, String)>,
}

impl Store {
    /// Checks the entries that are in the journal and not yet in the tables.
    pub async fn audited_journal(&self) -> Result<AuditedJournal, StoreError> {
        // Reads the journal before the mark. A batch that is checkpointed in between is below the
        // mark, so no batch is missed.
        let batches = self.journaled_batches()?.all().await?;
        // After the journal, so that it has every version that the journal names.
        let book = self.price_book().await?.book;
        let cost_of = |bill: &Bill| bill.cost(&book);
        let snapshot = self.snapshot().await?;
        let mark = mark(&snapshot).await?;
        let (mut ends, mut audited) =
            (BTreeMap::<AccountId, End>::new(), AuditedJournal::default());
        let refused = "SELECT DISTINCT account_id FROM journal_refused ORDER BY account_id";
        for row in query(&snapshot, refused, []).await? {
            let account = AccountId(row.try_get_by_index(0)?);
            audited.find(account, "the tables refuse its entries of the journal".to_owned());
        }
        let beyond = batches.iter().filter(|(at, _)| *at > mark);
        for entry in beyond.flat_map(|(_, batch)| &batch.entries) {
            audited.entries = audited.entries.saturating_add(1);
            audited.bills = audited.bills.saturating_add(u64::from(entry.bill.is_some()));
            if let Err(what) = check_bill(entry, &cost_of) {
                audited.find(entry.account, what);
            }
            let end = match ends.entry(entry.account) {
                Entry::Occupied(end) => end.into_mut(),
                Entry::Vacant(none) => none.insert(end_of(&snapshot, entry.account).await?),
            };
            if !end.is_followed_by(entry) {
                let what = format!("entry {} in the journal does not follow", entry.seq);
                audited.find(entry.account, what);
                *end = End { seq: entry.seq, balance: entry.balance_after, link: entry.link };
            }
        }
        snapshot.rollback().await?;
        Ok(audited)
    }
}

impl AuditedJournal {
    fn find(&mut self, account: AccountId, what: String) {
        self.found.push((account, what));
    }
}

/// The end of an account's ledger.
struct End {
    seq: i64,
    balance: Credits,
    link: Link,
}

impl End {
    /// Says whether the entry comes next. If so, moves the end to it.
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
