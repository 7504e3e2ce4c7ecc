//! The database: domain types in, domain types out. The only module that speaks SQL or SeaORM.
//!
//! Every call runs in a task of its own on the database runtime. So a client that leaves cannot cancel a
//! transaction half-way, and a connection is only ever polled where it was opened.
//!
//! Connections: SQLite has one for writing, shared by the ledger writer and everyone else (several
//! writers would only wait for one another in the file), and several for reading. Its journal is a file of its own,
//! so that nobody who writes into the tables keeps a paid call waiting. PostgreSQL has one pool, and the ledger writer
//! two connections of its own beside it, one for each of its lanes.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, Statement,
};
use tokio::runtime::Handle;

use crate::config::DatabaseSettings;
use crate::failpoint;
use audit_log::AuditLogStore;
use batch::CommitError;
use connections::{Connections, begin_snapshot, run_on};
use domain::AccountId;
use domain::writer::Lane;
use journal_log::JournalLog;
use keys::KeyStore;
use lane::LaneConnection;
use payments::PaymentStore;
use reports::ReportStore;
use users::UserStore;
use webhooks::WebhookStore;

pub mod accounts;
pub mod answers;
pub mod audit;
pub mod audit_log;
pub mod backup;
pub mod batch;
mod connections;
mod former_journal;
pub mod holds;
pub mod journal;
mod journal_log;
pub mod keys;
mod lane;
pub mod lease;
pub mod ledger;
pub mod outbox;
pub mod payments;
pub mod reports;
pub mod rollups;
pub mod users;
pub mod webhooks;

/// Serialises migrations of several processes that start at once on one PostgreSQL database.
const MIGRATION_LOCK: i64 = 0x706f_6c79_0001;
/// What a connection of SQLite keeps in memory, in KiB: a checkpoint touches many pages again and again, a reader few.
const WRITE_CACHE: &str = "-65536";
const READ_CACHE: &str = "-4096";
const PING_MAX: Duration = Duration::from_secs(2);
/// A database that was restarted has cut its connections off: each is tried before it is used, unless it was given back
/// just now, when the pool has tried it. A round trip less for each of the reads that a cold account waits for; for so long
/// each connection that is cut off fails whoever is next to use it.
const TRUSTED_MAX: Duration = Duration::from_millis(250);
/// How long the writer waits for the end of a connection that it does not need any more.
const CLOSING_MAX: Duration = Duration::from_secs(2);
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
    /// The database takes too long. What was begun may still happen.
    #[error("the database takes too long")]
    TooSlow,
    /// A transaction was sent, and it is not known whether it was committed.
    #[error("it is not known whether it was committed: {0}")]
    OutcomeUnknown(DbErr),
    /// An account's records do not agree with one another.
    #[error("account {account} is quarantined: {what}")]
    Quarantined {
        /// The account.
        account: AccountId,
        /// What does not agree.
        what: String,
    },
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
    tables: LaneConnection,
    journal: Journal,
    outbox: Arc<outbox::Outbox>,
    unfolded: Arc<rollups::Unfolded>,
    /// Users, their sessions and tokens.
    pub users: UserStore,
    /// API keys.
    pub keys: KeyStore,
    /// Payments.
    pub payments: PaymentStore,
    /// Webhook endpoints and deliveries.
    pub webhooks: WebhookStore,
    /// What account holders read.
    pub reports: ReportStore,
    /// Who did what.
    pub audit_log: AuditLogStore,
}

/// Where batches are journaled.
#[derive(Clone, Debug)]
enum Journal {
    /// For SQLite: in a file of our own beside the database.
    Log(Arc<JournalLog>),
    /// For PostgreSQL: in a table of the database.
    Table(LaneConnection),
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
        let connect = |file: PathBuf, connections: u32, cache: &'static str| {
            let mut options = options(url, connections);
            options.map_sqlx_sqlite_opts(move |sqlite| {
                sqlite
                    .filename(&file)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(if is_synced() {
                        SqliteSynchronous::Full
                    } else {
                        SqliteSynchronous::Normal
                    })
                    .foreign_keys(true)
                    .busy_timeout(Duration::from_secs(30))
                    // Those of checkpoints alone are 64, by table and number of rows.
                    .statement_cache_capacity(200)
                    // A checkpoint halts the writer: rather seldom. 32 MiB of log.
                    .pragma("wal_autocheckpoint", log_pages())
                    .pragma("cache_size", cache)
            });
            options.map_sqlx_sqlite_pool_opts(|pool| {
                pool.before_acquire(|connection, _| Box::pin(is_clean(connection)))
            });
            Database::connect(options)
        };
        // Serialises what several processes do that start at once: who switches to the log of SQLite needs the
        // file for itself, and so does who migrates. The folder is locked, not the file: closing another handle on
        // a SQLite file would drop SQLite's own locks.
        folder.lock().map_err(|error| {
            StoreError::Unsafe(format!("cannot lock the folder of the database: {error}"))
        })?;
        let file = sqlite_file(url);
        let write = connect(file.clone(), 1, WRITE_CACHE).await?;
        assert_sqlite(&write).await?;
        let had_journal = journal::is_migrated(&write).await?;
        migrate(&write).await?;
        if had_journal {
            journal::assert_there(&write, url).await?;
        }
        let journal = Journal::Log(Arc::new(JournalLog::open(&journal::sqlite_file(url))?));
        drop(folder);
        let read = connect(file, settings.connections_max.get(), READ_CACHE).await?;
        let tables = LaneConnection::of_sqlite(write.clone(), read.clone());
        Ok(Self::new(runtime, read, write, tables, journal))
    }

    async fn open_postgres(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let mut pool = options(url, settings.connections_max.get());
        pool.test_before_acquire_if_idle_for(TRUSTED_MAX);
        let write = Database::connect(pool).await?;
        assert_postgres(&write).await?;
        // On a connection of its own, so that the lock goes with it whatever happens.
        let migrating = Database::connect(options(url, 1)).await?;
        let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
        migrating.execute_unprepared(&lock).await?;
        let migrated = migrate(&migrating).await;
        migrating.close().await?;
        migrated?;
        let tables = LaneConnection::of_postgres(url, "ledger").await?;
        let journal = Journal::Table(LaneConnection::of_postgres(url, "journal").await?);
        Ok(Self::new(runtime, write.clone(), write, tables, journal))
    }

    fn new(
        runtime: Handle,
        read: DatabaseConnection,
        write: DatabaseConnection,
        tables: LaneConnection,
        journal: Journal,
    ) -> Self {
        let outbox = Arc::<outbox::Outbox>::default();
        let shared = Arc::new(Connections {
            runtime: runtime.clone(),
            read: read.clone(),
            write: write.clone(),
            outbox: Arc::clone(&outbox),
        });
        Store {
            users: UserStore::new(Arc::clone(&shared)),
            keys: KeyStore::new(Arc::clone(&shared)),
            payments: PaymentStore::new(Arc::clone(&shared)),
            webhooks: WebhookStore::new(Arc::clone(&shared)),
            reports: ReportStore::new(Arc::clone(&shared)),
            audit_log: AuditLogStore::new(shared),
            runtime,
            read,
            write,
            tables,
            journal,
            outbox,
            unfolded: Arc::default(),
        }
    }

    /// Where the database's work is done, and what nobody waits for.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The connection of a lane; SQLite's journal has none.
    fn lane(&self, lane: Lane) -> Option<&LaneConnection> {
        match (lane, &self.journal) {
            (Lane::Tables, _) => Some(&self.tables),
            (Lane::Journal, Journal::Table(connection)) => Some(connection),
            (Lane::Journal, Journal::Log(_)) => None,
        }
    }

    /// Gives the ledger writer another connection, and ends what its last one may still be doing: a session
    /// that nobody hears any more would keep the rows locked that are to be written again.
    pub async fn renew_connection(&self, lane: Lane) {
        let Some(lane) = self.lane(lane) else { return };
        let Some(renewal) = lane.renewal() else { return };
        let fresh = match Database::connect(renewal).await {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(%error, "no other connection for the ledger writer");
                return;
            }
        };
        let (closing, fresh) = lane.replace(fresh).await;
        tokio::spawn(async move {
            // It may never answer; then it ends as this is dropped.
            let _ = tokio::time::timeout(CLOSING_MAX, closing).await;
        });
        let end_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = current_setting('application_name')
            AND usename = current_user AND pid <> pg_backend_pid()";
        match tokio::time::timeout(CLOSING_MAX, fresh.execute_unprepared(end_others)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last connection's session was not ended"),
            Err(_) => tracing::warn!("the last connection's session was not ended in time"),
        }
    }

    /// Can the database be reached?
    ///
    /// # Errors
    /// [`StoreError`] where it cannot.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let ping = self.run(|store| async move { Ok(store.read.ping().await?) });
        tokio::time::timeout(PING_MAX, ping).await.unwrap_or(Err(StoreError::TooSlow))
    }

    /// Closes every connection, after what runs on them is done.
    pub async fn close(&self) {
        let closed = self
            .run(|store| async move {
                match &store.journal {
                    Journal::Log(log) => log.close(),
                    Journal::Table(lane) => lane.close().await?,
                }
                store.tables.close().await?;
                for connection in [&store.write, &store.read] {
                    connection.close_by_ref().await?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the database connections did not close cleanly");
        }
    }

    /// As [`Store::run`], for what writes beside the ledger writer.
    async fn run_write<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Store) -> F,
    {
        self.run(work).await.map_err(unknown_unless_told)
    }

    /// Opens a transaction that reads, and sees one state of the database all through.
    async fn snapshot(&self) -> Result<DatabaseTransaction, StoreError> {
        begin_snapshot(&self.read).await
    }

    /// Runs `work` as a task of its own on the database runtime.
    async fn run<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Store) -> F,
    {
        run_on(&self.runtime, work(self.clone())).await
    }
}

/// A write that failed, or took too long: did it happen? Only where no connection was had, or where the database
/// itself says that it did not, is it known that it did not.
fn unknown_unless_told(error: StoreError) -> StoreError {
    match error {
        StoreError::Database(DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) => error,
        StoreError::Database(error) => match CommitError::from(error) {
            CommitError::Unknown(error) => StoreError::OutcomeUnknown(error),
            CommitError::Refused(reason) => StoreError::Database(DbErr::Custom(reason)),
            CommitError::Fenced => StoreError::Stopped,
        },
        StoreError::TooSlow => {
            StoreError::OutcomeUnknown(DbErr::Custom("the database takes too long".into()))
        }
        error => error,
    }
}

/// Is a connection outside of any transaction? Where a COMMIT or ROLLBACK fails, since the disk is full or broken,
/// the driver can be left believing in a transaction that is over, or inside one that is not. What is then begun is
/// a savepoint, whose release commits nothing. Such a connection is thrown away.
async fn is_clean(connection: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection as _;
    if connection.is_in_transaction() {
        // A rollback may be under way; when it is done, the answer counts.
        connection.ping().await?;
        return Ok(!connection.is_in_transaction());
    }
    Ok(true)
}

/// Below the process, every commit is synced; a test of that test may order less.
fn is_synced() -> bool {
    !failpoint::is_ordered("sqlite-synchronous-normal")
}

/// Pages of the write-ahead log before a checkpoint; a test may order fewer, to see more of them.
fn log_pages() -> &'static str {
    if failpoint::is_ordered("sqlite-small-log") { "200" } else { "8192" }
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
    // What a client leaves behind that has gone without a word must not keep rows locked for hours.
    options.map_sqlx_postgres_opts(|postgres| {
        postgres.options([
            ("idle_in_transaction_session_timeout", "10000"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
        ])
    });
    options
}

/// The file of a SQLite database.
fn sqlite_file(url: &str) -> PathBuf {
    url.parse().map_or_else(
        // Whoever connects is told what is wrong with it.
        |_| PathBuf::from(url.trim_start_matches("sqlite:").trim_start_matches("//")),
        |options: SqliteConnectOptions| options.get_filename().to_owned(),
    )
}

/// The folder that a file is in.
fn folder_of(file: &Path) -> &Path {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// The folder of a SQLite file, made where it is missing.
fn create_folder(url: &str) -> Result<File, StoreError> {
    let file = sqlite_file(url);
    let folder = folder_of(&file);
    std::fs::create_dir_all(folder).and_then(|()| File::open(folder)).map_err(|error| {
        StoreError::Unsafe(format!("cannot use the folder {}: {error}", folder.display()))
    })
}

async fn migrate(connection: &DatabaseConnection) -> Result<(), StoreError> {
    use migration::MigratorTrait as _;
    failpoint!("migrate-before");
    while !migration::Migrator::get_pending_migrations(connection).await?.is_empty() {
        migration::Migrator::up(connection, Some(1)).await?;
        failpoint!("migrate-step");
    }
    failpoint!("migrate-after");
    Ok(())
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
    if journal != "wal" || (is_synced() && synchronous != "2") {
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

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Batch;

    /// Whoever opens the files and whoever writes the journal read the same URL.
    #[tokio::test]
    async fn the_files_are_where_the_url_says() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/my%20data/x%2B%25.db?mode=rwc", folder.path().display());
        let settings = DatabaseSettings::default();
        for _ in 0..2 {
            let store = Store::open(&settings, &url, Handle::current()).await.unwrap();
            let lease = store.take_lease(uuid::Uuid::new_v4()).await.unwrap();
            store.journal(1, &Batch::default(), lease).await.unwrap();
            assert!(store.is_journaled(1, lease).await.unwrap());
            store.close().await;
        }
        for name in ["x+%.db", "x+%.journal.log"] {
            assert!(folder.path().join("my data").join(name).is_file(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_write_that_did_not_begin_did_not_happen() {
        let connection = Database::connect(options("sqlite::memory:", 1)).await.unwrap();
        connection.execute_unprepared("PRAGMA query_only = ON").await.unwrap();
        let error = lease::begin_write(&connection).await.unwrap_err();
        let told = unknown_unless_told(StoreError::Database(error));
        assert!(matches!(told, StoreError::Database(DbErr::Conn(_))), "{told}");
    }
}
