//! Retention of usage records.

use sea_orm::{ConnectionTrait, Statement};

use super::{Store, StoreError};
use domain::Timestamp;

/// Records looked at in one statement, so that the ledger writer never waits long for it.
const PIECE: u64 = 1_000;

impl Store {
    /// Deletes records of calls that arrived before `before`, a piece of the oldest at a time; says how many.
    ///
    /// Records lie in the order in which they were written, and those to be deleted at its beginning: no index by
    /// time is needed, and what is deleted is whole pages.
    ///
    /// Those that are in no rollup yet stay: [`Store::fold_usage`] comes first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget_usage(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "DELETE FROM usage_record WHERE started_at < $1
                    AND number <= (SELECT number FROM usage_mark) AND number <= (
                    SELECT MAX(number) FROM (
                        SELECT number FROM usage_record ORDER BY number LIMIT {PIECE}
                    ) AS oldest)"
            );
            let backend = store.write.get_database_backend();
            let statement = Statement::from_sql_and_values(backend, sql, [before.micros().into()]);
            Ok(store.write.execute_raw(statement).await?.rows_affected())
        })
        .await
    }
}
