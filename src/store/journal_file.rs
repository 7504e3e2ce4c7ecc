//! The connection on which SQLite's journal is written.
//!
//! The ledger writer has a thread of its own, and each of its batches waits for the disk anyway: so it writes on that
//! thread (a takeover, and who deletes what is merged, on theirs). A connection of a pool has another thread behind it,
//! which would have to be woken for each statement, and would wake the writer again.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};
use sea_orm::{DbErr, Value};

use super::batch::{CommitError, is_transient};
use super::{READ_CACHE, StoreError, is_synced, log_pages};

/// How long it waits for another process that has the file: one that takes it over, or copies it.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(Connection),
    /// A statement has failed: what the connection believes of the file may be wrong, so the next one has another.
    Broken,
    Closed,
}

impl JournalFile {
    /// Opens the file, which is there and has its tables.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`] where a commit would not be durable.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path).map_err(|error| {
            let path = path.display();
            StoreError::Unsafe(format!("the journal {path} cannot be written safely: {error}"))
        })?;
        Ok(JournalFile { path: path.to_owned(), state: Mutex::new(State::Open(connection)) })
    }

    /// Executes a statement, and waits on this thread until what it writes is durable. Says how many rows it wrote.
    ///
    /// # Errors
    /// [`CommitError`]
    pub(super) fn execute<const N: usize>(
        &self,
        sql: &'static str,
        values: &[Value; N],
    ) -> Result<u64, CommitError> {
        let mut state = self.state();
        let mut connection = match std::mem::replace(&mut *state, State::Broken) {
            State::Open(connection) => connection,
            State::Broken => connect(&self.path)?,
            State::Closed => {
                *state = State::Closed;
                return Err(CommitError::Unknown(DbErr::Custom("the journal is closed".into())));
            }
        };
        let rows = execute(&mut connection, sql, values).map_err(|error| commit_error(&error))?;
        *state = State::Open(connection);
        Ok(rows)
    }

    /// Closes it.
    pub(super) fn close(&self) {
        *self.state() = State::Closed;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(path: &Path) -> Result<Connection, CommitError> {
    let (connection, mode, synchronous) = configured(path).map_err(|error| commit_error(&error))?;
    if mode != "wal" || (is_synced() && synchronous != 2) {
        let text = format!("journal_mode={mode}, synchronous={synchronous}; wal and 2 are needed");
        return Err(CommitError::Unknown(DbErr::Custom(text)));
    }
    Ok(connection)
}

/// A connection, with what its journal mode and its synchronous flag are then.
fn configured(path: &Path) -> rusqlite::Result<(Connection, String, i64)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_MAX)?;
    let synchronous = if is_synced() { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", log_pages())?;
    connection.pragma_update(None, "cache_size", READ_CACHE)?;
    let mode = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let synchronous = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    Ok((connection, mode, synchronous))
}

fn execute(
    connection: &mut Connection,
    sql: &'static str,
    values: &[Value],
) -> rusqlite::Result<u64> {
    // SQLite numbers them by where they first stand in the statement, whatever number is in their names.
    const NAMES: [&str; 4] = ["$1", "$2", "$3", "$4"];
    let mut statement = connection.prepare_cached(sql)?;
    for (name, value) in NAMES.into_iter().zip(values) {
        let place = statement.parameter_index(name)?;
        let place = place.ok_or_else(|| rusqlite::Error::InvalidParameterName(name.into()))?;
        statement.raw_bind_parameter(place, Parameter(value))?;
    }
    let rows = statement.raw_execute()?;
    Ok(u64::try_from(rows).unwrap_or(u64::MAX))
}

/// A value of SeaORM, as SQLx would store it.
struct Parameter<'a>(&'a Value);

impl rusqlite::ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self.0 {
            Value::BigInt(Some(number)) => ValueRef::Integer(*number),
            Value::Bytes(Some(bytes)) => ValueRef::Blob(bytes),
            Value::Uuid(Some(id)) => ValueRef::Blob(id.as_bytes()),
            other => {
                let text = format!("{other:?} is not written to the journal");
                return Err(rusqlite::Error::ToSqlConversionFailure(text.into()));
            }
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

fn commit_error(error: &rusqlite::Error) -> CommitError {
    match error.sqlite_error() {
        Some(code) if !is_transient(&code.extended_code.to_string()) => {
            CommitError::Refused(error.to_string())
        }
        _ => CommitError::Unknown(DbErr::Custom(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSERT: &str = "INSERT INTO pair (id, text) SELECT $2, $1";

    fn file(mode: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection.execute("CREATE TABLE pair (id BIGINT PRIMARY KEY, text BLOB)", []).unwrap();
        (folder, path)
    }

    fn rows(path: &Path) -> Vec<(i64, Vec<u8>)> {
        let connection = Connection::open(path).unwrap();
        let mut statement = connection.prepare("SELECT id, text FROM pair ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    fn insert(file: &JournalFile, id: i64, text: &str) -> Result<u64, CommitError> {
        file.execute(INSERT, &[text.as_bytes().to_vec().into(), id.into()])
    }

    #[test]
    fn values_stand_where_their_numbers_are() {
        let (_folder, path) = file("wal");
        let file = JournalFile::open(&path).unwrap();
        assert_eq!(insert(&file, 7, "seven").unwrap(), 1);
        assert_eq!(rows(&path), [(7, b"seven".to_vec())]);
        let odd = file.execute("DELETE FROM pair WHERE text = $1", &["seven".into()]);
        assert!(matches!(odd, Err(CommitError::Unknown(_))), "{odd:?}");
        assert_eq!(file.execute("DELETE FROM pair WHERE id = $1", &[8_i64.into()]).unwrap(), 0);
    }

    #[test]
    fn a_statement_that_failed_is_told_by_its_cause_and_the_next_one_goes_on() {
        let (_folder, path) = file("wal");
        let file = JournalFile::open(&path).unwrap();
        insert(&file, 1, "one").unwrap();
        let taken = insert(&file, 1, "uno");
        assert!(matches!(taken, Err(CommitError::Refused(_))), "{taken:?}");
        insert(&file, 2, "two").unwrap();
        // What a person can mend.
        let missing = file.execute("INSERT INTO none (id) VALUES ($1)", &[1_i64.into()]);
        assert!(matches!(missing, Err(CommitError::Unknown(_))), "{missing:?}");
        insert(&file, 3, "three").unwrap();
        assert_eq!(rows(&path).len(), 3);
        file.close();
        let closed = insert(&file, 4, "four");
        assert!(matches!(closed, Err(CommitError::Unknown(_))), "{closed:?}");
        assert!(insert(&file, 4, "four").is_err());
        assert_eq!(rows(&path).len(), 3);
    }

    #[test]
    fn who_finds_the_file_locked_waits_and_then_writes() {
        let (_folder, path) = file("wal");
        let file = JournalFile::open(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| insert(&file, 1, "one"));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!writing.is_finished());
            other.execute_batch("COMMIT").unwrap();
            assert_eq!(writing.join().unwrap().unwrap(), 1);
        });
    }

    #[test]
    fn a_file_whose_commits_could_be_lost_is_not_opened() {
        let (_folder, path) = file("delete");
        assert!(matches!(JournalFile::open(&path), Err(StoreError::Unsafe(_))));
        assert!(JournalFile::open(&path.with_extension("none")).is_err());
    }
}
