//! Opening: connections, checks that the database can be trusted with money, and migrations.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tokio::runtime::Handle;

use super::Store;
use super::error::StoreError;
use super::ledger::connection::LaneConnection;
use super::ledger::journal::file::FileJournal;
use super::ledger::journal::table::TableJournal;
use super::ledger::journal::{self, Journal};
use super::options::{folder_of, is_synced, options, sqlite_file};
use super::sql::{connect, text_cell};
use crate::config::DatabaseSettings;
use crate::failpoint;
use crate::secrets::create_private_folder;

/// Serialises migrations of several processes that start at once on one PostgreSQL database.
const MIGRATION_LOCK: i64 = 0x706f_6c79_0001;
/// What a connection of SQLite keeps in memory, in KiB: a checkpoint touches many pages again and
/// again, a reader few.
const WRITE_CACHE: &str = "-65536";
const READ_CACHE: &str = "-4096";
/// A database that was restarted has cut its connections off: each is tried before it is used,
/// unless it was given back just now, when the pool has tried it. A round trip less for each of the
/// reads that a cold account waits for; for so long each connection that is cut off fails the next
/// caller who uses it.
const TRUSTED_MAX: Duration = Duration::from_millis(250);
/// The oldest SQLite without the WAL-reset bug (sqlite.org/wal.html#walresetbug).
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);

impl Store {
    /// Opens the database, checks that it can be trusted with money, and brings its schema up to
    /// date.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`] for settings under which an acknowledged commit could be lost,
    /// [`StoreError::Database`] if it cannot be reached or migrated.
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
        let connect_to = |file: PathBuf, connections: u32, cache: &'static str| {
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
            connect(options)
        };
        // Serialises what several processes do that start at once: a process that switches to the
        // write-ahead log of SQLite needs the file for itself, and so does one that migrates. The
        // folder is locked, not the file: closing another handle on a SQLite file would drop
        // SQLite's own locks.
        folder.lock().map_err(|error| {
            StoreError::Unsafe(format!("cannot lock the folder of the database: {error}"))
        })?;
        let file = sqlite_file(url);
        let write = connect_to(file.clone(), 1, WRITE_CACHE).await?;
        assert_sqlite(&write).await?;
        let had_journal = journal::is_migrated(&write).await?;
        migrate(&write).await?;
        if had_journal {
            journal::assert_there(&write, url).await?;
        }
        let journal = Journal::File(Arc::new(FileJournal::open(&journal::sqlite_file(url))?));
        drop(folder);
        let read = connect_to(file, settings.connections_max.get(), READ_CACHE).await?;
        let tables = LaneConnection::of_sqlite(write.clone(), read.clone());
        Ok(Store::new(runtime, read, write, tables, journal))
    }

    async fn open_postgres(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let mut pool = options(url, settings.connections_max.get());
        pool.test_before_acquire_if_idle_for(TRUSTED_MAX);
        let write = connect(pool).await?;
        assert_postgres(&write).await?;
        // On a connection of its own, so that the lock goes with it whatever happens.
        let migrating = connect(options(url, 1)).await?;
        let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
        migrating.execute_unprepared(&lock).await?;
        let migrated = migrate(&migrating).await;
        migrating.close().await?;
        migrated?;
        let tables = LaneConnection::of_postgres(url, "ledger").await?;
        let journal = LaneConnection::of_postgres(url, "journal").await?;
        let journal = Journal::Table(TableJournal::new(journal));
        Ok(Store::new(runtime, write.clone(), write, tables, journal))
    }
}

/// Is a connection outside of any transaction? If a COMMIT or ROLLBACK fails, because the disk is
/// full or broken, the driver can believe in a transaction that is over, or be inside one without
/// knowing. What is begun then is a savepoint, and its release commits nothing. Such a connection
/// is thrown away.
async fn is_clean(connection: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection as _;
    if connection.is_in_transaction() {
        // A rollback may be under way; when it is done, the answer counts.
        connection.ping().await?;
        return Ok(!connection.is_in_transaction());
    }
    Ok(true)
}

/// Pages of the write-ahead log before a checkpoint; a test may order fewer, to see more of them.
fn log_pages() -> &'static str {
    if failpoint::is_ordered("sqlite-small-log") { "200" } else { "8192" }
}

/// The folder of a SQLite file. Both are made if they are missing, and only the server's user can
/// read what is made.
fn create_folder(url: &str) -> Result<File, StoreError> {
    let file = sqlite_file(url);
    let folder = folder_of(&file);
    let private = || {
        create_private_folder(folder)?;
        // Its write-ahead log gets the mode of the file.
        std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&file)?;
        File::open(folder)
    };
    private().map_err(|error| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Batch;

    /// The database and its journal are found by the same URL.
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
}
