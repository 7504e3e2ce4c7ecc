//! The journal of SQLite as servers before this one had it: a database `x.journal.db` beside `x.db`.
//!
//! The first takeover after an update takes it over too, so that such a server appends nothing more, checkpoints what is in it
//! and removes it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, QueryResult, Statement, Value};

use super::error::{CommitError, StoreError};
use super::journal::At;
use super::options::{folder_of, options};
use domain::Lease;

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
        // An empty one was put there by a person, or by a tool that looked for one.
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => {
                let path = path.display();
                return Err(StoreError::Unsafe(format!("cannot look at {path}: {error}")));
            }
        };
        if length > 0 {
            let mut options = options("sqlite:", 1);
            let file = path.clone();
            options.map_sqlx_sqlite_opts(move |sqlite| sqlite.filename(&file));
            let connection = Database::connect(options).await?;
            // It may have been killed before it had made them.
            for table in [
                "journal (epoch BIGINT NOT NULL, number BIGINT NOT NULL, writes BLOB NOT NULL,
                    PRIMARY KEY (epoch, number)) WITHOUT ROWID",
                "journal_lease (id INTEGER NOT NULL PRIMARY KEY, owner BLOB, epoch BIGINT NOT NULL)",
            ] {
                let sql = format!("CREATE TABLE IF NOT EXISTS {table}");
                connection.execute_unprepared(&sql).await?;
            }
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
        let statement = self.statement(sql, [lease.owner.into(), lease.epoch.into()]);
        let taken = self.connection.execute_raw(statement).await?.rows_affected();
        // Without a row nobody can append: it was about to be removed, or never used.
        if taken == 0 && self.is_anyones().await? {
            return Err(CommitError::Fenced.into());
        }
        Ok(())
    }

    async fn is_anyones(&self) -> Result<bool, StoreError> {
        Ok(!self.query("SELECT id FROM journal_lease", []).await?.is_empty())
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

    /// Removes it: what is in it is checkpointed.
    ///
    /// # Errors
    /// [`StoreError`], also where somebody else has taken it over.
    pub(super) async fn remove(self, lease: Lease) -> Result<(), StoreError> {
        let io = |error: std::io::Error| {
            StoreError::Unsafe(format!("cannot remove {}: {error}", self.path.display()))
        };
        // Servers lock it while they open the database: none finds the file half removed.
        let folder = File::open(folder_of(&self.path)).map_err(io)?;
        folder.lock().map_err(io)?;
        // Whoever still has it open appends nothing without a lease.
        let sql = "DELETE FROM journal_lease WHERE owner = $1 AND epoch = $2";
        let statement = self.statement(sql, [lease.owner.into(), lease.epoch.into()]);
        self.connection.execute_raw(statement).await?;
        if self.is_anyones().await? {
            return Err(CommitError::Fenced.into());
        }
        self.connection.close_by_ref().await?;
        // The database first: a log of SQLite's without one is nothing.
        for part in ["", "-wal", "-shm"] {
            let mut name = self.path.clone().into_os_string();
            name.push(part);
            match std::fs::remove_file(&name) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
                _ => {}
            }
        }
        folder.sync_all().map_err(io)
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
