//! Compares the clients' log with the database.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};

use crate::load::Log;
use crate::support::Database;
use crate::support::database::wait_for_journal;

/// The result of the comparison. `lost`, `doubled` and `unasked` must be zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Zeros {
    pub acknowledged: usize,
    /// Acknowledged, but not in the ledger with this amount.
    pub lost: usize,
    /// Twice in the ledger.
    pub doubled: usize,
    /// In the ledger, but never requested.
    pub unasked: usize,
    /// In the ledger, but the call was never answered.
    pub unanswered: usize,
}

impl Zeros {
    pub(crate) fn add(&mut self, other: Zeros) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.unasked += other.unasked;
        self.unanswered += other.unanswered;
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        assert_eq!((self.lost, self.doubled, self.unasked), (0, 0, 0), "{self:?}");
    }
}

/// The number of the last compared entry of each account.
#[derive(Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<i64, i64>,
}

impl Ledger {
    /// Starts with the accounts of these customers.
    pub(crate) async fn of(database: &Database, names: &[String]) -> Self {
        let connection = database.connect().await;
        let backend = connection.get_database_backend();
        let mut accounts = BTreeMap::new();
        for name in names {
            let sql = "SELECT account.id FROM account JOIN users ON users.id = account.user_id
                WHERE users.username_folded = $1";
            let statement = Statement::from_sql_and_values(backend, sql, [name.clone().into()]);
            for row in connection.query_all_raw(statement).await.unwrap() {
                let id: i64 = row.try_get_by_index(0).unwrap();
                accounts.insert(id, last(&connection, id).await);
            }
        }
        connection.close().await.unwrap();
        Ledger { accounts }
    }

    /// Compares what is new since the last call, and empties the log.
    pub(crate) async fn compare(&mut self, database: &Database, log: &Log) -> Zeros {
        wait_for_journal(database.url()).await;
        let connection = database.connect().await;
        let backend = connection.get_database_backend();
        // For each reference: the sum, and the number of entries of each kind.
        let mut found: BTreeMap<uuid::Uuid, (i64, BTreeMap<i16, usize>)> = BTreeMap::new();
        for (account, seq) in &mut self.accounts {
            let sql = "SELECT seq, kind, amount, reference FROM ledger_entry
                WHERE account_id = $1 AND seq > $2 ORDER BY seq";
            let values = [(*account).into(), (*seq).into()];
            let statement = Statement::from_sql_and_values(backend, sql, values);
            for row in connection.query_all_raw(statement).await.unwrap() {
                let number: i64 = row.try_get_by_index(0).unwrap();
                assert_eq!(number, *seq + 1, "a gap");
                *seq = number;
                let kind: i16 = row.try_get_by_index(1).unwrap();
                let amount: i64 = row.try_get_by_index(2).unwrap();
                let (sum, kinds) = found.entry(row.try_get_by_index(3).unwrap()).or_default();
                *sum += amount;
                *kinds.entry(kind).or_default() += 1;
            }
        }
        connection.close().await.unwrap();
        let acknowledged = std::mem::take(&mut *log.acknowledged.lock().unwrap());
        let mut zeros = Zeros { acknowledged: acknowledged.len(), ..Zeros::default() };
        for (id, told) in &acknowledged {
            let (sum, kinds) = found.remove(id).unwrap_or_default();
            zeros.lost += usize::from(sum != told.amount);
            zeros.doubled += usize::from(kinds.values().any(|count| *count > 1));
        }
        let (unknown, payments) =
            (log.unknown.swap(0, Ordering::SeqCst), log.unknown_payments.swap(0, Ordering::SeqCst));
        let mut unanswered = (0, 0);
        for (sum, kinds) in found.values() {
            zeros.doubled += usize::from(kinds.values().any(|count| *count > 1));
            if kinds.contains_key(&1) {
                unanswered.1 += 1;
            } else if *sum != 0 {
                unanswered.0 += 1;
            }
        }
        zeros.unanswered = unanswered.0 + unanswered.1;
        let more = |found: usize, asked: u64| found.saturating_sub(usize::try_from(asked).unwrap());
        zeros.unasked = more(unanswered.0, unknown) + more(unanswered.1, payments);
        zeros
    }
}

async fn last(connection: &DatabaseConnection, account: i64) -> i64 {
    let backend = connection.get_database_backend();
    let sql = "SELECT seq FROM account WHERE id = $1";
    let statement = Statement::from_sql_and_values(backend, sql, [account.into()]);
    let row = connection.query_one_raw(statement).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}
