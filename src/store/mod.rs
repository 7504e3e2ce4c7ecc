//! The database: domain types in, domain types out. The only module that speaks SQL or SeaORM.
//!
//! Every call runs in a task of its own on the database runtime. So a client that leaves cannot cancel a
//! transaction half-way, and a connection is only ever polled where it was opened.
//!
//! Connections: SQLite has one for writing, shared by the ledger writer and everyone else (several
//! writers would only wait for one another in the file), and several for reading. PostgreSQL has one pool,
//! and the ledger writer a connection of its own beside it.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement,
};
use tokio::runtime::Handle;

use crate::config::DatabaseSettings;

pub mod accounts;
pub mod answers;
pub mod api_keys;
pub mod audit;
pub mod batch;
pub mod holds;
pub mod lease;
pub mod ledger;
pub mod users;

/// Serialises migrations of several processes that start at once on one PostgreSQL database.
const MIGRATION_LOCK: i64 = 0x706f_6c79_0001;
/// The oldest SQLite without the WAL-reset bug (sqlite.org/wal.html#walresetbug).
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique value is taken; the name of the constraint or column is in the text.
    #[error("already taken: {0}")]
    Taken(String),
    /// The database did not do it; it may be there again later.
    #[error("the database did not answer as expected: {0}")]
    Database(#[from] DbErr),
    /// What is stored is not what was written.
    #[error("stored data is not valid: {0}")]
    Corrupt(String),
    /// The database or its configuration cannot be used safely.
    #[error("{0}")]
    Unsafe(String),
    /// The task that ran it is gone: the process is shutting down.
    #[error("the database runtime has stopped")]
    Stopped,
}

impl StoreError {
    fn of_write(error: DbErr) -> Self {
        match error.sql_err() {
            Some(sea_orm::SqlErr::UniqueConstraintViolation(text)) => StoreError::Taken(text),
            _ => StoreError::Database(error),
        }
    }
}

/// A handle on the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    runtime: Handle,
    read: DatabaseConnection,
    write: DatabaseConnection,
    /// The ledger writer's own.
    ledger: DatabaseConnection,
}

impl Store {
    /// Opens the database, checks that it can be trusted with money, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`] for settings under which an acknowledged commit could be lost,
    /// [`StoreError::Database`] where it cannot be reached or migrated.
    pub async fn open(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let (settings, url) = (settings.clone(), url.to_owned());
        let database_runtime = runtime.clone();
        runtime
            .spawn(async move {
                let store = if url.starts_with("sqlite:") {
                    Self::open_sqlite(&settings, &url, database_runtime).await?
                } else {
                    Self::open_postgres(&settings, &url, database_runtime).await?
                };
                Ok(store)
            })
            .await
            .map_err(|_| StoreError::Stopped)?
    }

    async fn open_sqlite(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let folder = create_folder(url)?;
        let connect = |connections: u32| {
            let mut options = options(url, connections);
            options.map_sqlx_sqlite_opts(|sqlite| {
                sqlite
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(Duration::from_secs(30))
                    // A checkpoint halts the writer: rather seldom. 32 MiB of log, 64 MiB of cache.
                    .pragma("wal_autocheckpoint", "8192")
                    .pragma("cache_size", "-65536")
            });
            Database::connect(options)
        };
        let write = connect(1).await?;
        assert_sqlite(&write).await?;
        // Serialises migrations of several processes that start at once. The folder is locked, not the file:
        // closing another handle on a SQLite file would drop SQLite's own locks.
        folder.lock().map_err(|error| {
            StoreError::Unsafe(format!("cannot lock the folder of the database: {error}"))
        })?;
        migrate(&write).await?;
        drop(folder);
        let read = connect(settings.connections_max.get()).await?;
        Ok(Store { runtime, read, ledger: write.clone(), write })
    }

    async fn open_postgres(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let write = Database::connect(options(url, settings.connections_max.get())).await?;
        assert_postgres(&write).await?;
        // On a connection of its own, so that the lock goes with it whatever happens.
        let migrating = Database::connect(options(url, 1)).await?;
        let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
        migrating.execute_unprepared(&lock).await?;
        let migrated = migrate(&migrating).await;
        migrating.close().await?;
        migrated?;
        // Opened by the ledger writer's first use, on its own thread, which then drives it.
        let mut ledger = options(url, 1);
        ledger.min_connections(0).connect_lazy(true);
        let ledger = Database::connect(ledger).await?;
        Ok(Store { runtime, read: write.clone(), write, ledger })
    }

    /// Can the database be reached?
    ///
    /// # Errors
    /// [`StoreError`] where it cannot.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.run(|store| async move { Ok(store.read.ping().await?) }).await
    }

    /// Closes every connection, after what runs on them is done.
    pub async fn close(&self) {
        let closed = self
            .run(|store| async move {
                for connection in [&store.ledger, &store.write, &store.read] {
                    connection.close_by_ref().await?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the database connections did not close cleanly");
        }
    }

    /// Runs `work` as a task of its own on the database runtime.
    async fn run<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Store) -> F,
    {
        self.runtime.spawn(work(self.clone())).await.map_err(|_| StoreError::Stopped)?
    }
}

fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .connect_timeout(Duration::from_secs(5))
        .acquire_timeout(Duration::from_secs(5))
        .set_application_name("polysystems")
        // Both cost on every statement; a dead connection is noticed by its first failure.
        .sqlx_logging(false)
        .test_before_acquire(false);
    options
}

/// The folder of a SQLite file, made where it is missing.
fn create_folder(url: &str) -> Result<File, StoreError> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).and_then(|()| File::open(folder)).map_err(|error| {
        StoreError::Unsafe(format!("cannot use the folder {}: {error}", folder.display()))
    })
}

async fn migrate(connection: &DatabaseConnection) -> Result<(), StoreError> {
    use migration::MigratorTrait as _;
    Ok(migration::Migrator::up(connection, None).await?)
}

/// One text cell of one row.
async fn text_cell(connection: &DatabaseConnection, sql: &str) -> Result<String, StoreError> {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await?;
    let row = row.ok_or_else(|| StoreError::Corrupt(format!("no answer to {sql}")))?;
    Ok(row.try_get_by_index::<String>(0)?)
}

async fn assert_sqlite(connection: &DatabaseConnection) -> Result<(), StoreError> {
    let version = text_cell(connection, "SELECT sqlite_version()").await?;
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0_u32));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) < SQLITE_VERSION_MIN {
        return Err(StoreError::Unsafe(format!(
            "SQLite {version} can corrupt a database in WAL mode; 3.51.3 or newer is needed"
        )));
    }
    let journal = text_cell(connection, "SELECT journal_mode FROM pragma_journal_mode").await?;
    let synchronous =
        text_cell(connection, "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous").await?;
    if journal != "wal" || synchronous != "2" {
        return Err(StoreError::Unsafe(format!(
            "SQLite runs with journal_mode={journal}, synchronous={synchronous}; wal and 2 (FULL) are needed"
        )));
    }
    Ok(())
}

async fn assert_postgres(connection: &DatabaseConnection) -> Result<(), StoreError> {
    let synchronous = text_cell(connection, "SELECT current_setting('synchronous_commit')").await?;
    if synchronous == "off" {
        return Err(StoreError::Unsafe(
            "PostgreSQL runs with synchronous_commit=off, which can lose acknowledged charges; set it to on"
                .into(),
        ));
    }
    let isolation =
        text_cell(connection, "SELECT current_setting('default_transaction_isolation')").await?;
    if isolation != "read committed" {
        return Err(StoreError::Unsafe(format!(
            "PostgreSQL runs with default_transaction_isolation={isolation}, under which a takeover could go \
             unnoticed; set it to read committed"
        )));
    }
    Ok(())
}

/// The database that a connection speaks.
fn is_postgres(connection: &impl ConnectionTrait) -> bool {
    connection.get_database_backend() == DbBackend::Postgres
}
