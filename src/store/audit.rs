//! What `verify` reads: each account in one snapshot.

use sea_orm::{
    AccessMode, ColumnTrait, ConnectionTrait as _, DatabaseTransaction, EntityTrait,
    IsolationLevel, QueryFilter, QueryOrder, QuerySelect, Statement, TransactionTrait,
};
use uuid::Uuid;

use super::accounts::key_spend_of;
use super::{Store, StoreError, is_postgres, ledger};
use crate::domain::{AccountId, ChargeId, Credits, KeySpend, LedgerEntry};
use entity::{account, api_key, key_spend, ledger_entry};

const PAGE: u64 = 1_000;

/// An account as it stands beside its ledger.
pub struct AuditedAccount {
    /// The number of its last entry.
    pub seq: i64,
    /// Its balance.
    pub balance: Credits,
    /// The counters of its keys.
    pub spends: Vec<KeySpend>,
}

/// One account, in one snapshot.
pub struct Audit {
    transaction: DatabaseTransaction,
    id: AccountId,
}

impl Store {
    /// The next accounts after `after`, in the order of their numbers.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn audited_accounts(
        &self,
        after: Option<AccountId>,
    ) -> Result<Vec<AccountId>, StoreError> {
        let rows = account::Entity::find()
            .filter(account::Column::Id.gt(after.map_or(0, |id| id.0)))
            .order_by_asc(account::Column::Id)
            .limit(PAGE)
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(|row| AccountId(row.id)).collect())
    }

    /// Opens a snapshot of an account.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn audit(&self, id: AccountId) -> Result<Audit, StoreError> {
        let transaction = if is_postgres(&self.read) {
            let (isolation, access) = (IsolationLevel::RepeatableRead, AccessMode::ReadOnly);
            self.read.begin_with_config(Some(isolation), Some(access)).await?
        } else {
            // A read transaction of SQLite in WAL mode is a snapshot.
            self.read.begin().await?
        };
        Ok(Audit { transaction, id })
    }
}

impl Audit {
    /// The account's row and its keys' counters.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn account(&mut self) -> Result<AuditedAccount, StoreError> {
        let id = self.id;
        let row = account::Entity::find_by_id(id.0).one(&self.transaction).await?;
        let row = row.ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
        let keys = api_key::Entity::find()
            .filter(api_key::Column::AccountId.eq(id.0))
            .all(&self.transaction)
            .await?;
        let mut spends = Vec::new();
        for piece in keys.chunks(500) {
            let rows = key_spend::Entity::find()
                .filter(key_spend::Column::KeyId.is_in(piece.iter().map(|key| key.id)))
                .all(&self.transaction)
                .await?;
            spends.extend(rows.iter().map(key_spend_of));
        }
        Ok(AuditedAccount { seq: row.seq, balance: Credits::from_nanos(row.balance), spends })
    }

    /// The next entries after number `after`, with their epochs.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn entries(&mut self, after: i64) -> Result<Vec<(LedgerEntry, i64)>, StoreError> {
        let rows = ledger_entry::Entity::find()
            .filter(ledger_entry::Column::AccountId.eq(self.id.0))
            .filter(ledger_entry::Column::Seq.gt(after))
            .order_by_asc(ledger_entry::Column::Seq)
            .limit(PAGE)
            .all(&self.transaction)
            .await?;
        rows.into_iter()
            .map(|row| {
                let epoch = row.epoch;
                ledger::entry(row).map(|entry| (entry, epoch))
            })
            .collect()
    }

    /// Usage records whose cost is not what the ledger took for their call: (call, recorded, taken).
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn usage_disagreements(
        &mut self,
    ) -> Result<Vec<(ChargeId, Credits, Credits)>, StoreError> {
        let sql = "SELECT usage.id AS id, usage.cost AS cost,
                CAST(COALESCE(taken.sum, 0) AS BIGINT) AS taken
            FROM usage_record AS usage
            LEFT JOIN (SELECT reference, -SUM(amount) AS sum FROM ledger_entry
                WHERE account_id = $1 AND kind IN (2, 3, 4) GROUP BY reference) AS taken
            ON taken.reference = usage.id
            WHERE usage.account_id = $1 AND usage.cost <> COALESCE(taken.sum, 0)";
        let backend = self.transaction.get_database_backend();
        let statement = Statement::from_sql_and_values(backend, sql, [self.id.0.into()]);
        let rows = self.transaction.query_all_raw(statement).await?;
        rows.iter()
            .map(|row| {
                let id: Uuid = row.try_get_by("id")?;
                let (cost, taken): (i64, i64) = (row.try_get_by("cost")?, row.try_get_by("taken")?);
                Ok((ChargeId(id), Credits::from_nanos(cost), Credits::from_nanos(taken)))
            })
            .collect()
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.transaction.rollback().await?)
    }
}
