//! Opening: connections, checks that the database can be trusted with money, and migrations.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection};
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection as _};
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tokio::runtime::Handle;

use super::Store;
use super::connections::Turns;
use super::error::StoreError;
use super::ledger::connection::LaneConnection;
use super::ledger::journal::file::FileJournal;
use super::ledger::journal::table::TableJournal;
use super::ledger::journal::{self, Journal};
use super::options::{folder_of, is_synced, options, sqlite_file};
use super::schema;
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
/// How long one connection of PostgreSQL may take to be opened, and the pause before the next try.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const CONNECT_PAUSE: Duration = Duration::from_millis(500);
/// The oldest SQLite without the WAL-reset bug (sqlite.org/wal.html#walresetbug).
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);

/// What may be done to a database that is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// It is made and migrated.
    Migrate,
    /// It is used as it is, or refused.
    AsItIs,
}

impl Store {
    /// Opens the database, waits for it if it does not answer yet, checks that it can be trusted
    /// with money, makes what is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`] for settings under which an acknowledged commit could be lost, and
    /// for the schema of a newer program; [`StoreError::Unreachable`] if it does not answer;
    /// [`StoreError::Database`] if it cannot be migrated.
    pub async fn open(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        Self::open_as(Opening::Migrate, settings, url, runtime).await
    }

    /// Opens a database that is there, with the schema of this program. Makes and migrates nothing,
    /// and does not wait.
    ///
    /// # Errors
    /// As [`Store::open`], and [`StoreError::Unsafe`] that says what is missing.
    pub async fn open_existing(
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        Self::open_as(Opening::AsItIs, settings, url, runtime).await
    }

    async fn open_as(
        opening: Opening,
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let (settings, url) = (settings.clone(), url.to_owned());
        let database_runtime = runtime.clone();
        runtime
            .spawn(async move {
                let store = if url.starts_with("sqlite:") {
                    Self::open_sqlite(opening, &settings, &url, database_runtime).await?
                } else {
                    Self::open_postgres(opening, &settings, &url, database_runtime).await?
                };
                Ok(store)
            })
            .await
            .map_err(|_| StoreError::Stopped)?
    }

    async fn open_sqlite(
        opening: Opening,
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let file = sqlite_file(url);
        let folder = match opening {
            Opening::Migrate => create_folder(&file)?,
            Opening::AsItIs => find_folder(&file)?,
        };
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
        let folder = lock(&runtime, folder).await?;
        if opening == Opening::AsItIs {
            assert_ours(url, &file).await?;
        }
        let write = connect_to(file.clone(), 1, WRITE_CACHE).await?;
        assert_sqlite(&write).await?;
        let had_journal = journal::is_migrated(&write).await?;
        if opening == Opening::Migrate {
            schema::migrate(&write).await?;
        }
        if had_journal {
            journal::assert_there(&write, url).await?;
        }
        let journal = Journal::File(Arc::new(FileJournal::open(&journal::sqlite_file(url))?));
        drop(folder);
        let read = connect_to(file, settings.connections_max.get(), READ_CACHE).await?;
        let tables = LaneConnection::of_sqlite(write.clone(), read.clone());
        Ok(Store::new(runtime, read, write, tables, journal, Turns::one_write()))
    }

    async fn open_postgres(
        opening: Opening,
        settings: &DatabaseSettings,
        url: &str,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let patience = match opening {
            Opening::Migrate => Duration::from_secs(settings.wait_seconds),
            Opening::AsItIs => Duration::ZERO,
        };
        wait_for_postgres(url, patience).await?;
        let mut pool = options(url, settings.connections_max.get());
        pool.test_before_acquire_if_idle_for(TRUSTED_MAX);
        let write = connect(pool).await?;
        assert_postgres(&write).await?;
        match opening {
            Opening::Migrate => migrate_postgres(url).await?,
            Opening::AsItIs => schema::assert_current(&write).await?,
        }
        let tables = LaneConnection::of_postgres(url, "ledger").await?;
        let journal = LaneConnection::of_postgres(url, "journal").await?;
        let journal = Journal::Table(TableJournal::new(journal));
        let turns = Turns::of_pool(settings.connections_max.get());
        Ok(Store::new(runtime, write.clone(), write, tables, journal, turns))
    }
}

async fn migrate_postgres(url: &str) -> Result<(), StoreError> {
    // On a connection of its own, so that the lock goes with it whatever happens.
    let migrating = connect(options(url, 1)).await?;
    let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
    migrating.execute_unprepared(&lock).await?;
    let migrated = schema::migrate(&migrating).await;
    migrating.close().await?;
    migrated
}

/// Locks a folder, however long another one holds it. On a thread of its own: those that wait would
/// fill the threads that the one with the lock needs to go on.
async fn lock(runtime: &Handle, folder: File) -> Result<File, StoreError> {
    let locking = runtime.spawn_blocking(move || folder.lock().map(|()| folder));
    let locked = locking.await.map_err(|_| StoreError::Stopped)?;
    locked.map_err(|error| {
        StoreError::Unsafe(format!("cannot lock the folder of the database: {error}"))
    })
}

/// Is a connection outside of any transaction? If a COMMIT or ROLLBACK fails, because the disk is
/// full or broken, the driver can believe in a transaction that is over, or be inside one without
/// knowing. What is begun then is a savepoint, and its release commits nothing. Such a connection
/// is thrown away.
async fn is_clean(connection: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
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
/// read what is made. The file is seen to be writable.
fn create_folder(file: &Path) -> Result<File, StoreError> {
    let folder = folder_of(file);
    let private = || {
        create_private_folder(folder)?;
        // Its write-ahead log gets the mode of the file.
        OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
        File::open(folder)
    };
    private().map_err(|error| {
        // SQLite would say only that it cannot open the file.
        let user = std::fs::metadata("/proc/self").map(|process| process.uid());
        let user = user.map(|user| format!(" as user {user}")).unwrap_or_default();
        StoreError::Unsafe(format!(
            "cannot make or write {}{user}: {error}; set data_dir (POLYSYSTEMS_DATA_DIR) to a folder that this user \
             may write",
            file.display()
        ))
    })
}

/// The folder of a SQLite file that is there.
fn find_folder(file: &Path) -> Result<File, StoreError> {
    if !file.is_file() {
        return Err(StoreError::Unsafe(format!(
            "there is no file {}; check data_dir (POLYSYSTEMS_DATA_DIR) and database.url \
             (POLYSYSTEMS_DATABASE__URL), or make it with `polysystems migrate`",
            file.display()
        )));
    }
    let folder = folder_of(file);
    File::open(folder).map_err(|error| {
        StoreError::Unsafe(format!("cannot read the folder {}: {error}", folder.display()))
    })
}

/// Refuses a file that is no database of this program, before a connection that writes changes it.
async fn assert_ours(url: &str, file: &Path) -> Result<(), StoreError> {
    let mut reading = options(url, 1);
    let name = file.to_owned();
    reading.map_sqlx_sqlite_opts(move |sqlite| {
        sqlite.filename(&name).read_only(true).create_if_missing(false)
    });
    let connection = connect(reading).await?;
    let is_current = schema::assert_current(&connection).await;
    connection.close().await?;
    is_current?;
    let journal = journal::sqlite_file(url);
    if journal.is_file() {
        return Ok(());
    }
    Err(StoreError::Unsafe(format!(
        "its journal {} is missing; put it back beside the database. If the last server stopped in good order, \
         `polysystems migrate` makes an empty one",
        journal.display()
    )))
}

/// Waits until PostgreSQL takes connections, for at most `patience`. A pool would only say that it
/// waited for too long.
async fn wait_for_postgres(url: &str, patience: Duration) -> Result<(), StoreError> {
    let target: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| {
        StoreError::Unsafe(format!("database.url cannot be read: {error}"))
    })?;
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let connecting = PgConnection::connect_with(&target);
        let why = match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(Ok(connection)) => {
                // Whether it says goodbye does not matter.
                let _ = connection.close().await;
                return Ok(());
            }
            Ok(Err(error)) if may_pass(&error) => error.to_string(),
            Ok(Err(error)) => {
                return Err(StoreError::Unsafe(format!(
                    "PostgreSQL refuses: {error}; check database.url (POLYSYSTEMS_DATABASE__URL)"
                )));
            }
            Err(_) => format!("no answer in {} seconds", CONNECT_MAX.as_secs()),
        };
        if begun.elapsed() >= patience {
            return Err(StoreError::Unreachable(format!(
                "it does not answer: {why}; start PostgreSQL, or check database.url (POLYSYSTEMS_DATABASE__URL)"
            )));
        }
        if !is_told {
            is_told = true;
            let seconds = patience.as_secs();
            tracing::warn!(why, "the database does not answer yet; waiting for up to {seconds} s");
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// May PostgreSQL take a connection later that it did not take now?
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // It has too many connections, starts, or stops.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| ["53300", "57P01", "57P02", "57P03"].contains(&code.as_ref())),
        _ => false,
    }
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
