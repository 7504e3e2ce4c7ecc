//! The journal of SQLite as servers before this one had it: a database `x.journal.db` beside `x.db`.
//!
//! The first takeover after an update takes it over too, so that such a server appends nothing more, merges what is in it
//! and removes it.

use std::path::{Path, PathBuf};

use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, QueryResult, Statement, Value};

use super::batch::CommitError;
use super::journal::At;
use super::{StoreError, options};
use crate::domain::Lease;

/// See the module.
pub(super) struct FormerJournal {
    path: PathBuf,
    connection: DatabaseConnection,
}

impl FormerJournal {
    /// Opens the one beside this journal, where there is one with something in it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) async fn beside(log: &Path) -> Result<Option<Self>, StoreError> {
        let path = log.with_extension("db");
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0) {
            let mut options = options("sqlite:", 1);
            let file = path.clone();
            options.map_sqlx_sqlite_opts(move |sqlite| sqlite.filename(&file));
            let connection = Database::connect(options).await?;
            return Ok(Some(FormerJournal { path, connection }));
        }
        Ok(None)
    }

    /// The epoch in which it was last taken over.
    pub(super) async fn epoch(&self) -> Result<i64, StoreError> {
        let rows = self.query("SELECT epoch FROM journal_lease", []).await?;
        Ok(rows.first().map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0))
    }

    /// Takes it over: nobody else can append anything from then on.
    pub(super) async fn take(&self, lease: Lease) -> Result<(), StoreError> {
        let sql = "UPDATE journal_lease SET owner = $1, epoch = $2 WHERE epoch < $2";
        let values = [lease.owner.into(), lease.epoch.into()];
        let statement = self.statement(sql, values);
        match self.connection.execute_raw(statement).await?.rows_affected() {
            0 => Err(CommitError::Fenced.into()),
            _ => Ok(()),
        }
    }

    /// What is in it.
    pub(super) async fn rows(&self) -> Result<Vec<(At, Vec<u8>)>, StoreError> {
        let sql = "SELECT epoch, number, writes FROM journal ORDER BY epoch, number";
        let row = |row: &QueryResult| {
            let at = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            Ok((at, row.try_get_by_index(2)?))
        };
        self.query(sql, []).await?.iter().map(row).collect()
    }

    /// Removes it: what is in it is merged.
    pub(super) async fn remove(self) -> Result<(), StoreError> {
        self.connection.close_by_ref().await?;
        for part in ["-wal", "-shm", ""] {
            let mut name = self.path.clone().into_os_string();
            name.push(part);
            match std::fs::remove_file(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let path = self.path.display();
                    tracing::warn!(%error, "the former journal {path} is merged, and not removed");
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn query<const N: usize>(
        &self,
        sql: &str,
        values: [Value; N],
    ) -> Result<Vec<QueryResult>, StoreError> {
        Ok(self.connection.query_all_raw(self.statement(sql, values)).await?)
    }

    fn statement<const N: usize>(&self, sql: &str, values: [Value; N]) -> Statement {
        Statement::from_sql_and_values(self.connection.get_database_backend(), sql, values)
    }
}
