//! Positions in the journal, and the mark: the position up to which it is checkpointed.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};

use crate::store::error::StoreError;
use crate::store::sql::{execute, query};

/// The place of a batch in the journal: the epoch of its writer, and the number that this writer
/// gave it. Batches were decided in the order of their positions.
pub(in crate::store) type Position = (i64, i64);

/// A position before every batch.
pub(super) const BEGIN: Position = (i64::MIN, 0);

/// Returns the mark. Fails with [`StoreError::Corrupt`] if there is none.
pub(super) async fn mark(tables: &impl ConnectionTrait) -> Result<Position, StoreError> {
    let rows = query(tables, "SELECT epoch, number FROM journal_mark", []).await?;
    let row = rows.first();
    let row = row.ok_or_else(|| StoreError::Corrupt("the journal has no mark".into()))?;
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))
}

/// Moves the mark, in the transaction that writes the batches up to it. Returns false if the mark
/// is there or beyond already: it never moves back.
pub(super) async fn move_mark(
    transaction: &DatabaseTransaction,
    (epoch, number): Position,
) -> Result<bool, DbErr> {
    let sql = "UPDATE journal_mark SET epoch = $1, number = $2
            WHERE epoch < $1 OR (epoch = $1 AND number < $2)";
    Ok(execute(transaction, sql, [epoch.into(), number.into()]).await? > 0)
}
