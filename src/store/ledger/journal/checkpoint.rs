//! Checkpoints: one transaction writes many batches of the journal into the tables and moves the
//! mark. The batches are deleted from the journal after that.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DatabaseTransaction, QueryResult};

use super::format::{decoded, encode};
use super::position::{Position, mark, move_mark};
use super::{Batches, PAGE};
use crate::store::error::{CommitError, StoreError};
use crate::store::ledger::commit::{commit, write_change};
use crate::store::ledger::lease::is_held;
use crate::store::ledger::rows::write_rows;
use crate::store::ledger::{holds, rollups};
use crate::store::sql::{begin_write, execute, is_postgres, query};
use crate::store::{Store, audit_log, outbox};
use domain::writer::{Checkpoint, Lane};
use domain::{AccountId, Batch, Lease};

/// What an earlier process left is read by page. Pages are checkpointed together until they have
/// this many rows.
const LEFT_AT_ONCE: usize = if cfg!(test) { 100 } else { 16_384 };
/// The pause between two statements of a checkpoint that nothing waits for. Without it, calls would
/// wait for a processor longer than for the disk.
const PIECE_PAUSE: Duration = Duration::from_millis(1);

impl Store {
    /// Checkpoints batches of the journal into the tables. Returns the accounts whose entries the
    /// tables refuse. Their writes go to `journal_refused`.
    pub async fn checkpoint(
        &self,
        checkpoint: &Checkpoint,
        lease: Lease,
    ) -> Result<Vec<AccountId>, CommitError> {
        let last = (lease.epoch, checkpoint.last);
        let pause = if checkpoint.is_urgent { Duration::ZERO } else { PIECE_PAUSE };
        let batch = checkpoint.batch();
        let refused = self.checkpoint_on(&self.tables.pool(), last, &batch, pause, lease).await?;
        self.journaled_keys.forget(checkpoint.last, &refused);
        Ok(refused)
    }

    /// Deletes checkpointed batches of this process from the journal, by their numbers. Returns
    /// false if that failed. The batches are below the mark, so they can be deleted later.
    pub async fn forget_checkpointed(&self, numbers: RangeInclusive<i64>, lease: Lease) -> bool {
        let tables = self.tables.pool();
        is_deleted(&self.journal.delete(&tables, numbers, lease).await)
    }

    /// The number of batches that one call of [`Store::forget_checkpointed`] may delete.
    #[must_use]
    pub fn forget_max(&self) -> i64 {
        self.journal.delete_max()
    }

    /// Asked after a checkpoint of unknown outcome. If the journal of this process is checkpointed
    /// up to `last`, returns the accounts whose entries the tables refused. Otherwise returns
    /// `None`.
    pub async fn checkpointed_up_to(
        &self,
        last: i64,
        lease: Lease,
    ) -> Result<Option<Vec<AccountId>>, StoreError> {
        self.wait_for_other_sessions(Lane::Tables).await?;
        let lent = self.tables.committed().await;
        let tables: &DatabaseConnection = &lent;
        if mark(tables).await? < (lease.epoch, last) {
            return Ok(None);
        }
        let sql = "SELECT account_id FROM journal_refused WHERE epoch = $1 AND number = $2";
        let rows = query(tables, sql, [lease.epoch.into(), last.into()]).await?;
        let account = |row: &QueryResult| Ok(AccountId(row.try_get_by_index(0)?));
        let refused = rows.iter().map(account).collect::<Result<Vec<_>, StoreError>>()?;
        self.journaled_keys.forget(last, &refused);
        Ok(Some(refused))
    }

    /// Checkpoints what earlier processes left. The owner of the lease calls it before it does
    /// anything else.
    pub(in crate::store::ledger) async fn checkpoint_left(
        &self,
        lease: Lease,
    ) -> Result<(), StoreError> {
        failpoint!("checkpoint-left");
        self.checkpoint_refused(lease).await?;
        let journal = self.journaled_batches()?;
        let mut after = mark(&self.write).await?;
        loop {
            let mut rows: Batches = Vec::new();
            let mut count: usize = 0;
            while count < LEFT_AT_ONCE {
                let page = journal.after(rows.last().map_or(after, |(at, _)| *at)).await?;
                let is_last = page.len() < PAGE;
                count =
                    page.iter().map(|(_, batch)| batch.rows()).fold(count, usize::saturating_add);
                rows.extend(page);
                if is_last {
                    break;
                }
            }
            let Some((first, _)) = rows.first() else { break };
            // Holds carry the epoch in which their batch was written, so a checkpoint is of one
            // epoch only.
            let mut is_over = false;
            let of_epoch: Vec<&(Position, Batch)> = rows
                .iter()
                .take_while(|(at, batch)| {
                    let is_next = !std::mem::replace(&mut is_over, batch.ends_with_limits());
                    is_next && at.0 == first.0
                })
                .collect();
            let last = of_epoch.last().map_or(*first, |(at, _)| *at);
            let batch = Batch::checkpointed(of_epoch.iter().map(|(_, batch)| batch));
            let pause = Duration::ZERO;
            report_refused(
                self.checkpoint_on(&self.write, last, &batch, pause, lease).await?.iter(),
            );
            after = last;
        }
        is_deleted(&self.journal.delete_up_to(&self.write, after, lease).await);
        Ok(())
    }

    /// How many writes of each account, on average, a checkpoint waits for. On SQLite each account
    /// in a checkpoint costs pages of its own, so waiting saves work. PostgreSQL takes several
    /// times as long for a row, and callers would wait too long for the checkpoint.
    #[must_use]
    pub fn account_writes(&self) -> usize {
        if is_postgres(&self.write) { 0 } else { 8 }
    }

    /// How long to wait for more writes before the next commit into the journal, if several are on
    /// their way. About as long as a commit on SQLite takes. On PostgreSQL it is zero, because
    /// commits take long enough.
    #[must_use]
    pub fn gather_pause(&self) -> Duration {
        if is_postgres(&self.write) { Duration::ZERO } else { Duration::from_micros(100) }
    }

    async fn checkpoint_on(
        &self,
        connection: &DatabaseConnection,
        last: Position,
        batch: &Batch,
        pause: Duration,
        lease: Lease,
    ) -> Result<Vec<AccountId>, CommitError> {
        match self.checkpoint_all(connection, last, batch, &[], pause, lease).await {
            Ok(()) => Ok(Vec::new()),
            Err(CommitError::Refused(reason)) => {
                tracing::warn!(
                    reason,
                    "the tables refuse a checkpoint; trying each account by itself"
                );
                let accounts: Vec<AccountId> = batch.account_ids().into_iter().collect();
                let mut refused = Vec::new();
                let mut parts: Vec<&[AccountId]> = vec![&accounts];
                while let Some(part) = parts.pop() {
                    // All accounts together were refused just now. Halves find the refused accounts
                    // fast, because the tables accept nearly all.
                    let is_whole = part.len() == accounts.len() && part.len() > 1;
                    if !is_whole
                        && !is_refused(
                            connection,
                            last.0,
                            &batch.part_of(&part.iter().copied().collect()),
                            lease,
                        )
                        .await?
                    {
                        continue;
                    }
                    match part {
                        [account] => refused.push(*account),
                        _ => parts.extend(<[_; 2]>::from(part.split_at(part.len() / 2))),
                    }
                }
                self.checkpoint_all(connection, last, batch, &refused, pause, lease).await?;
                Ok(refused)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes all accounts but the refused ones into the tables, puts the refused writes into
    /// `journal_refused`, and moves the mark.
    async fn checkpoint_all(
        &self,
        connection: &DatabaseConnection,
        last: Position,
        batch: &Batch,
        refused: &[AccountId],
        pause: Duration,
        lease: Lease,
    ) -> Result<(), CommitError> {
        failpoint!("checkpoint-before-begin");
        let (epoch, number) = last;
        let mut unfolded = self.unfolded.hold().await;
        let before = unfolded.take();
        let transaction = begin(connection, batch, lease).await?;
        let taken = if refused.is_empty() {
            Cow::Borrowed(batch)
        } else {
            let mut taken = batch.account_ids();
            taken.retain(|account| !refused.contains(account));
            Cow::Owned(batch.part_of(&taken))
        };
        write(&transaction, epoch, &taken, pause).await?;
        let is_told = outbox::write_batch(&self.outbox, &transaction, &taken).await?;
        write_changes(&transaction, &taken).await?;
        for account in refused {
            let sql = "INSERT INTO journal_refused (epoch, number, account_id, writes)
                VALUES ($1, $2, $3, $4)";
            let writes = encode(&batch.part_of(&BTreeSet::from([*account])))?;
            let values = [epoch.into(), number.into(), account.0.into(), writes.into()];
            execute(&transaction, sql, values).await?;
        }
        failpoint!("checkpoint-rows-written");
        if !move_mark(&transaction, last).await? {
            // Another process has checkpointed these batches. This transaction would write them a
            // second time.
            return Err(CommitError::Fenced);
        }
        failpoint!("checkpoint-marked");
        let after = rollups::take_in(&transaction, before, &taken.usage).await?;
        commit(transaction).await?;
        *unfolded = Some(after);
        failpoint!("checkpoint-committed");
        self.outbox.ring(is_told);
        Ok(())
    }

    /// Tries the refused writes again: an operator may have repaired the rows since.
    async fn checkpoint_refused(&self, lease: Lease) -> Result<(), StoreError> {
        let mut after = (i64::MIN, 0, 0);
        loop {
            let sql = "SELECT epoch, number, account_id, writes FROM journal_refused
                WHERE (epoch, number, account_id) > ($1, $2, $3)
                ORDER BY epoch, number, account_id LIMIT 1";
            let values = [after.0.into(), after.1.into(), after.2.into()];
            let rows = query(&self.write, sql, values).await?;
            let Some(row) = rows.first() else { return Ok(()) };
            after = (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?);
            let (epoch, number, account) = after;
            let batch = decoded((epoch, number), &row.try_get_by_index::<Vec<u8>>(3)?)?;
            let checkpointed = async {
                // These calls are not in the sums in memory, so the database sums up anew
                // afterwards.
                self.unfolded.hold().await.take();
                let transaction = begin(&self.write, &batch, lease).await?;
                write(&transaction, epoch, &batch, Duration::ZERO).await?;
                outbox::write_batch(&self.outbox, &transaction, &batch).await?;
                write_changes(&transaction, &batch).await?;
                let sql = "DELETE FROM journal_refused
                    WHERE epoch = $1 AND number = $2 AND account_id = $3";
                let values = [epoch.into(), number.into(), account.into()];
                execute(&transaction, sql, values).await?;
                commit(transaction).await
            };
            match checkpointed.await {
                Ok(()) | Err(CommitError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Raises an alert for each account whose entries the tables refused.
pub fn report_refused<'a>(accounts: impl Iterator<Item = &'a AccountId>) {
    for account in accounts {
        tracing::error!(
            alert = "account_quarantined", %account,
            "the tables refuse entries of the journal; `polysystems verify` tells more"
        );
    }
}

/// Writes the rows that calls leave. `epoch` is that of the process that journaled them.
async fn write(
    transaction: &DatabaseTransaction,
    epoch: i64,
    batch: &Batch,
    pause: Duration,
) -> Result<(), CommitError> {
    if !(batch.entries.is_empty() && batch.spends.is_empty() && batch.usage.is_empty()) {
        write_rows(transaction, batch, pause).await?;
    }
    if !batch.holds.is_empty() {
        holds::write(transaction, batch, epoch).await?;
    }
    Ok(())
}

/// Writes the changes of keys and their acts. Called after the events of the calls are written,
/// because those compare spending with the limits of before.
async fn write_changes(
    transaction: &DatabaseTransaction,
    batch: &Batch,
) -> Result<(), CommitError> {
    for change in &batch.changes {
        write_change(transaction, change).await?;
    }
    for (_, act) in &batch.acts {
        audit_log::insert(transaction, act).await?;
    }
    Ok(())
}

async fn begin(
    connection: &DatabaseConnection,
    batch: &Batch,
    lease: Lease,
) -> Result<DatabaseTransaction, CommitError> {
    let transaction = begin_write(connection).await.map_err(CommitError::Unknown)?;
    if is_held(&transaction, lease, &batch.shards()).await? {
        Ok(transaction)
    } else {
        Err(CommitError::Fenced)
    }
}

/// Says whether the tables refuse this batch. Rolls back, so nothing is written.
async fn is_refused(
    connection: &DatabaseConnection,
    epoch: i64,
    batch: &Batch,
    lease: Lease,
) -> Result<bool, CommitError> {
    let transaction = begin(connection, batch, lease).await?;
    let written = async {
        write(&transaction, epoch, batch, Duration::ZERO).await?;
        write_changes(&transaction, batch).await
    };
    let written = written.await;
    transaction.rollback().await?;
    match written {
        Ok(()) => Ok(false),
        Err(CommitError::Refused(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Says whether the batches were deleted. If not, logs why.
fn is_deleted(deleted: &Result<(), CommitError>) -> bool {
    if let Err(error) = deleted {
        tracing::warn!(%error, "what is checkpointed was not deleted from the journal");
    }
    failpoint!("checkpoint-deleted");
    deleted.is_ok()
}
