//! The leases that fence the ledger writer: which process owns the shards of accounts, since which
//! epoch.
//!
//! A process takes all shards when it starts: it raises the epoch. From then on, each batch of an
//! earlier process fails the check in its own transaction. So that process acknowledges nothing
//! more. No clock is involved.
//!
//! On PostgreSQL, a batch holds a shared advisory lock from its check to its commit, and a takeover
//! needs the exclusive lock. So a takeover waits for the batch in flight, and no batch comes
//! between check and commit. On SQLite, a write transaction excludes all others.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Statement};
use uuid::Uuid;

use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::sql::{begin_write, is_postgres};
use domain::Lease;

const LEASE_LOCK: i64 = 0x706f_6c79_0002;

impl Store {
    /// Takes every shard from its last owner, and checkpoints what that owner left in the journal.
    pub async fn take_lease(&self, owner: Uuid) -> Result<Lease, StoreError> {
        let lease = self.raise_epoch(owner).await?;
        // Before the checkpoint, which writes events for the subscribers.
        self.webhooks.load_subscribers().await?;
        let store = self.clone();
        // Without a time limit: all that is in the journal was acknowledged.
        let checkpointing = self.runtime.spawn(async move { store.checkpoint_left(lease).await });
        checkpointing.await.map_err(|_| StoreError::Stopped)??;
        Ok(lease)
    }

    async fn raise_epoch(&self, owner: Uuid) -> Result<Lease, StoreError> {
        self.run(move |store| async move {
            failpoint!("takeover-before");
            let journal_epoch = store.journal_epoch()?;
            let transaction = begin_write(&store.write).await?;
            if is_postgres(&transaction) {
                let lock = format!("SELECT pg_advisory_xact_lock({LEASE_LOCK})");
                transaction.execute_unprepared(&lock).await?;
            }
            let backend = transaction.get_database_backend();
            let raise = "UPDATE shard_lease SET owner = $1, epoch = 1 +
                (SELECT CASE WHEN MAX(epoch) < $2 THEN $2 ELSE MAX(epoch) END FROM shard_lease)";
            let values = [owner.into(), journal_epoch.into()];
            transaction.execute_raw(Statement::from_sql_and_values(backend, raise, values)).await?;
            let read = Statement::from_string(backend, "SELECT MAX(epoch) FROM shard_lease");
            let row = transaction.query_one_raw(read).await?;
            let epoch = match row {
                Some(row) => row.try_get_by_index::<i64>(0)?,
                None => return Err(StoreError::Corrupt("there are no shard leases".into())),
            };
            failpoint!("takeover-raised");
            transaction.commit().await?;
            failpoint!("takeover-after");
            let lease = Lease { owner, epoch };
            store.take_journal(lease)?;
            Ok(lease)
        })
        .await
    }

    /// Says whether this process still owns all shards. It asks this from time to time, so that
    /// after a takeover it also stops work that writes nothing. A batch checks the lease in its own
    /// transaction.
    pub async fn holds_lease(&self, lease: Lease) -> Result<bool, StoreError> {
        use entity::shard_lease::{Column, Entity};
        use sea_orm::{ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _};
        self.run(move |store| async move {
            let lost =
                Entity::find().filter(Column::Epoch.ne(lease.epoch)).count(&store.read).await?;
            Ok(lost == 0)
        })
        .await
    }

    /// Gives the shards back, if this process still owns them. If the database fails, the next
    /// process takes them over anyway.
    pub async fn release_lease(&self, lease: Lease) -> Result<(), StoreError> {
        self.run(move |store| async move {
            failpoint!("release-before");
            let backend = store.write.get_database_backend();
            let release = "UPDATE shard_lease SET owner = NULL WHERE owner = $1 AND epoch = $2";
            let values = [lease.owner.into(), lease.epoch.into()];
            let statement = Statement::from_sql_and_values(backend, release, values);
            store.write.execute_raw(statement).await?;
            Ok(())
        })
        .await
    }
}

/// Says whether the lease still holds for these shards. Locks out takeovers until the transaction
/// ends.
pub(super) async fn is_held(
    transaction: &DatabaseTransaction,
    lease: Lease,
    shards: &[i64],
) -> Result<bool, DbErr> {
    let backend = transaction.get_database_backend();
    let (list, values) = if is_postgres(transaction) {
        // A separate statement: the check below must see all that was committed before this lock
        // was acquired.
        let lock = format!("SELECT pg_advisory_xact_lock_shared({LEASE_LOCK})");
        transaction.execute_raw(Statement::from_string(backend, lock)).await?;
        ("shard = ANY($3)", [lease.owner.into(), lease.epoch.into(), shards.to_vec().into()])
    } else {
        let shards = serde_json::to_string(shards).unwrap_or_default();
        (
            "shard IN (SELECT value FROM json_each($3))",
            [lease.owner.into(), lease.epoch.into(), shards.into()],
        )
    };
    let sql =
        format!("SELECT COUNT(*) FROM shard_lease WHERE owner = $1 AND epoch = $2 AND {list}");
    let row =
        transaction.query_one_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    let held = row.map(|row| row.try_get_by_index::<i64>(0)).transpose()?.unwrap_or(0);
    Ok(usize::try_from(held).is_ok_and(|held| held == shards.len()))
}
