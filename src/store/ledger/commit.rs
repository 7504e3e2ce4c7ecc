//! Commits a batch of the ledger writer to the tables, in one transaction.
//!
//! This is a group commit: many decisions share one transaction and one sync of the disk.

use std::time::Duration;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    DbBackend, DbErr, EntityTrait, QueryFilter, Statement, Value,
};

use super::journal::Journal;
use super::lease::is_held;
use super::rows::write_rows;
use super::{holds, rollups};
use crate::store::error::{CommitError, StoreError};
use crate::store::sql::{begin_write, is_postgres};
use crate::store::{Store, answers, audit_log, keys, outbox, payments, users};
use domain::writer::{Lane, Target};
use domain::{Batch, Change, Credits, KeyId, Lease, Timestamp, UsageRecord};

/// How often [`Store::wait_for_other_sessions`] asks at most, and its pause between two questions.
const SESSION_POLLS: u32 = 50;
const SESSION_POLL: Duration = Duration::from_millis(2);

impl Store {
    /// Writes the batch in one transaction, if the lease still holds inside that transaction. `Ok`
    /// means durable.
    ///
    /// Runs in the caller's task. The caller is the ledger writer, which has tasks and a connection
    /// for it.
    pub async fn commit(&self, batch: &Batch, lease: Lease) -> Result<(), CommitError> {
        failpoint!("writer-before-begin");
        let mut unfolded = self.unfolded.hold().await;
        let before = unfolded.take();
        let transaction = begin_write(&self.tables.pool()).await.map_err(CommitError::Unknown)?;
        failpoint!("writer-begun");
        if !is_held(&transaction, lease, &batch.shards()).await? {
            return Err(CommitError::Fenced);
        }
        failpoint!("writer-lease-checked");
        for change in &batch.changes {
            write_change(&transaction, change).await?;
        }
        failpoint!("writer-changes-written");
        if !(batch.entries.is_empty() && batch.spends.is_empty() && batch.usage.is_empty()) {
            write_rows(&transaction, batch, Duration::ZERO).await?;
        }
        failpoint!("writer-rows-written");
        if !batch.holds.is_empty() {
            holds::write(&transaction, batch, lease.epoch).await?;
        }
        failpoint!("writer-holds-written");
        for answer in &batch.answers {
            answers::record(&transaction, answer).await?;
        }
        failpoint!("writer-answers-written");
        for (_, act) in &batch.acts {
            audit_log::insert(&transaction, act).await?;
        }
        let told = outbox::write_batch(&self.outbox, &transaction, batch).await?;
        failpoint!("writer-events-written");
        let after = rollups::take_in(&transaction, before, &batch.usage).await?;
        commit(transaction).await?;
        *unfolded = Some(after);
        self.outbox.ring(told);
        Ok(())
    }

    /// Makes one more write durable in this lane. All earlier commits of the lane are then durable
    /// too. That includes a commit whose wait for a standby was cut off.
    pub async fn seal(&self, lane: Lane, lease: Lease) -> Result<(), CommitError> {
        let connection = match (lane, &self.journal) {
            (Lane::Tables, _) => &self.tables,
            (Lane::Journal, Journal::Table(journal)) => journal.connection(),
            (Lane::Journal, Journal::File(file)) => return file.seal(lease),
        };
        let connection = connection.lent().await;
        let transaction = begin_write(&connection).await.map_err(CommitError::Unknown)?;
        if !is_held(&transaction, lease, &[0]).await? {
            return Err(CommitError::Fenced);
        }
        let sql = "UPDATE shard_lease SET epoch = epoch WHERE shard = 0";
        transaction.execute_unprepared(sql).await?;
        commit(transaction).await
    }

    /// Says whether the batch was written. The writer asks this after an unknown outcome.
    pub async fn is_written(
        &self,
        batch: &Batch,
        target: Target,
        lease: Lease,
    ) -> Result<bool, StoreError> {
        if let Target::Journal(number) = target {
            self.wait_for_other_sessions(Lane::Journal).await?;
            // If it is not in the journal, the next owner of the accounts may have checkpointed it,
            // so the tables are asked too.
            if self.is_journaled(number, lease).await? {
                self.journaled_keys.note(number, batch);
                return Ok(true);
            }
        } else {
            self.wait_for_other_sessions(Lane::Tables).await?;
        }
        let lent = self.tables.committed().await;
        let ledger: &DatabaseConnection = &lent;
        // A transaction writes all rows or none. So one row that only this batch can have written
        // is proof of the whole batch.
        if let Some(first) = batch.entries.first() {
            let row = entity::ledger_entry::Entity::find_by_id((first.account.0, first.seq))
                .one(ledger)
                .await?;
            return Ok(row.is_some_and(|row| row.epoch == lease.epoch && row.link == first.link.0));
        }
        if let Some(is_written) = holds::are_written(ledger, &batch.holds, lease.epoch).await? {
            return Ok(is_written);
        }
        if let Some(usage) = batch.usage.first() {
            return is_usage_written(ledger, usage).await;
        }
        // What is left may be written twice: the result is the same.
        Ok(false)
    }

    /// Waits until no earlier write of this lane can be committed any more.
    ///
    /// Fails with [`StoreError::TooSlow`] if other sessions of the writer are still open after the
    /// last poll.
    pub(super) async fn wait_for_other_sessions(&self, lane: Lane) -> Result<(), StoreError> {
        // The journal of SQLite has no connection: a write into the file has ended when it returns.
        let Some(connection) = self.lane(lane) else { return Ok(()) };
        // If a connection of SQLite answers, it has done all earlier work.
        connection.lent().await.ping().await?;
        let ledger = connection.committed().await;
        let mut polls = 0..SESSION_POLLS;
        while is_postgres(&*ledger) && other_sessions(&ledger).await? > 0 {
            polls.next().ok_or(StoreError::TooSlow)?;
            tokio::time::sleep(SESSION_POLL).await;
        }
        Ok(())
    }
}

/// Looks only at the newest 20,000 records. They are in the order of writing, and there is no index
/// by id.
async fn is_usage_written(
    ledger: &DatabaseConnection,
    usage: &UsageRecord,
) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM (
            SELECT id FROM usage_record ORDER BY number DESC LIMIT 20000
        ) AS last WHERE id = $1";
    let backend = ledger.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, SQL, [usage.id.0.into()]);
    let row = ledger.query_one_raw(statement).await?;
    let count = row.map(|row| row.try_get_by_index::<i64>(0)).transpose()?;
    Ok(count.is_some_and(|count| count > 0))
}

/// Counts the writer's sessions that were given up and have not ended.
async fn other_sessions(ledger: &DatabaseConnection) -> Result<i64, DbErr> {
    const SQL: &str = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE application_name = current_setting('application_name')
            AND usename = current_user AND pid <> pg_backend_pid()";
    let row = ledger.query_one_raw(Statement::from_string(DbBackend::Postgres, SQL)).await?;
    Ok(row.map(|row| row.try_get_by_index::<i64>(0)).transpose()?.unwrap_or(0))
}

pub(super) async fn commit(transaction: DatabaseTransaction) -> Result<(), CommitError> {
    let committing = transaction.commit();
    failpoint!("writer-commit-sent");
    committing.await.map_err(CommitError::Unknown)
}

pub(super) async fn write_change(
    transaction: &DatabaseTransaction,
    change: &Change,
) -> Result<(), CommitError> {
    use entity::{account, api_key};
    let key_update =
        |id: &KeyId| api_key::Entity::update_many().filter(api_key::Column::Id.eq(id.0));
    match change {
        Change::KeyCreated(key) => {
            let row = api_key::ActiveModel {
                id: Set(key.id.0),
                account_id: Set(key.account.0),
                name: Set(key.name.clone()),
                digest: Set(key.digest.to_vec()),
                preview: Set(key.preview.clone()),
                is_revoked: Set(false),
                is_deleted: Set(false),
                per_request_limit: Set(key.limits.per_request.map(Credits::nanos)),
                daily_limit: Set(key.limits.daily.map(Credits::nanos)),
                monthly_limit: Set(key.limits.monthly.map(Credits::nanos)),
                total_limit: Set(key.limits.total.map(Credits::nanos)),
                created_at: Set(key.created_at.micros()),
                expires_at: Set(key.expires_at.map(Timestamp::micros)),
            };
            // A batch with an unknown outcome is written again, so the key may be there already.
            api_key::Entity::insert(row)
                .on_conflict_do_nothing_on([api_key::Column::Id])
                .exec_without_returning(transaction)
                .await?;
        }
        Change::KeyLimits(_, id, limits) => {
            let nanos = |limit: Option<Credits>| Value::from(limit.map(Credits::nanos));
            key_update(id)
                .col_expr(api_key::Column::PerRequestLimit, nanos(limits.per_request).into())
                .col_expr(api_key::Column::DailyLimit, nanos(limits.daily).into())
                .col_expr(api_key::Column::MonthlyLimit, nanos(limits.monthly).into())
                .col_expr(api_key::Column::TotalLimit, nanos(limits.total).into())
                .exec(transaction)
                .await?;
        }
        Change::KeyEdited(_, id, edit) => keys::write_edit(transaction, *id, edit).await?,
        Change::KeyRevoked(_, id, _) => {
            key_update(id)
                .col_expr(api_key::Column::IsRevoked, Value::from(true).into())
                .exec(transaction)
                .await?;
        }
        Change::KeyDeleted(_, id, _) => {
            key_update(id)
                .col_expr(api_key::Column::IsDeleted, Value::from(true).into())
                .exec(transaction)
                .await?;
        }
        Change::AccountStatus(id, status) => {
            account::Entity::update_many()
                .filter(account::Column::Id.eq(id.0))
                .col_expr(account::Column::Status, Value::from(status.code()).into())
                .exec(transaction)
                .await?;
        }
        Change::UserErased(erasure) => users::erase(transaction, erasure).await?,
        Change::PaymentConfirmed(payment) => {
            payments::insert_confirmed(transaction, payment).await?;
        }
        Change::PaymentPaid(payment, at) => payments::confirm(transaction, *payment, *at).await?,
        Change::PaymentReversed(reversal, step) => {
            payments::reverse(transaction, reversal, *step).await?;
        }
    }
    Ok(())
}
