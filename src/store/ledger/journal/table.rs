//! The journal of PostgreSQL: a table, with one row for each batch.
//!
//! The ledger writer has a separate connection for it. A batch is one statement: one round trip,
//! and one sync of PostgreSQL's own write-ahead log.

use std::ops::RangeInclusive;

use sea_orm::{DatabaseConnection, DbErr, QueryResult};

use super::format::decoded;
use super::position::Position;
use super::{Batches, PAGE};
use crate::store::error::{CommitError, StoreError};
use crate::store::ledger::connection::LaneConnection;
use crate::store::sql::{count, execute, query};
use domain::Lease;

/// How many batches one statement deletes. A larger one would make checkpoints wait.
const DELETED_MAX: i64 = 256;

/// The journal in the table `journal`.
#[derive(Clone, Debug)]
pub(in crate::store) struct TableJournal {
    connection: LaneConnection,
}

impl TableJournal {
    pub(in crate::store) fn new(connection: LaneConnection) -> Self {
        TableJournal { connection }
    }

    /// The writer's connection.
    pub(in crate::store) fn connection(&self) -> &LaneConnection {
        &self.connection
    }

    /// Appends a batch. Fails with [`CommitError::Fenced`] if the lease no longer holds.
    pub(super) async fn append(
        &self,
        number: i64,
        writes: Vec<u8>,
        lease: Lease,
    ) -> Result<(), CommitError> {
        // The lock on the lease's row makes a takeover wait until this is committed. A takeover
        // that came first is seen, and nothing is inserted.
        const SQL: &str = "WITH held AS MATERIALIZED (
                SELECT 1 FROM shard_lease WHERE shard = 0 AND owner = $1 AND epoch = $2 FOR SHARE
            )
            INSERT INTO journal (epoch, number, writes) SELECT $2, $3, $4 FROM held";
        let values = [lease.owner.into(), lease.epoch.into(), number.into(), writes.into()];
        let writing = self.connection.execute(SQL, values);
        failpoint!("journal-sent");
        match writing.await? {
            0 => Err(CommitError::Fenced),
            _ => Ok(()),
        }
    }

    /// Says whether the table has this batch.
    pub(super) async fn contains(&self, number: i64, lease: Lease) -> Result<bool, StoreError> {
        let sql = "SELECT COUNT(*) FROM journal WHERE epoch = $1 AND number = $2";
        let connection = self.connection.committed().await;
        Ok(count(&*connection, sql, [lease.epoch.into(), number.into()]).await? > 0)
    }

    /// Deletes batches of this process.
    ///
    /// The range has a lower end, because PostgreSQL would otherwise read all rows that were
    /// deleted since its last vacuum.
    pub(super) async fn delete(
        tables: &DatabaseConnection,
        numbers: RangeInclusive<i64>,
        lease: Lease,
    ) -> Result<(), DbErr> {
        let sql = "DELETE FROM journal WHERE epoch = $1 AND number >= $2 AND number <= $3";
        let values = [lease.epoch.into(), (*numbers.start()).into(), (*numbers.end()).into()];
        execute(tables, sql, values).await.map(drop)
    }

    /// Deletes all batches up to a position, of all epochs.
    pub(super) async fn delete_up_to(
        tables: &DatabaseConnection,
        (epoch, number): Position,
    ) -> Result<(), DbErr> {
        let sql = "DELETE FROM journal WHERE epoch < $1 OR (epoch = $1 AND number <= $2)";
        execute(tables, sql, [epoch.into(), number.into()]).await.map(drop)
    }

    pub(super) fn delete_max() -> i64 {
        DELETED_MAX
    }
}

/// Returns the next batches after this position, at most [`PAGE`].
pub(super) async fn page_after(
    connection: &DatabaseConnection,
    after: Position,
) -> Result<Batches, StoreError> {
    let sql = format!(
        "SELECT epoch, number, writes FROM journal WHERE (epoch, number) > ($1, $2)
                    ORDER BY epoch, number LIMIT {PAGE}"
    );
    let rows = query(connection, &sql, [after.0.into(), after.1.into()]).await?;
    let row = |row: &QueryResult| {
        let at = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        let batch = decoded(at, &row.try_get_by_index::<Vec<u8>>(2)?)?;
        Ok((at, batch))
    };
    rows.iter().map(row).collect()
}
