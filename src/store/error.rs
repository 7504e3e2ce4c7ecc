//! What can go wrong with the database.

use sea_orm::DbErr;

use domain::AccountId;

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
    /// The database does not answer at all.
    #[error("{0}")]
    Unreachable(String),
    /// The task that ran it is gone: the process is shutting down.
    #[error("the database runtime has stopped")]
    Stopped,
    /// The database takes too long. What was begun may still happen.
    #[error("the database takes too long")]
    TooSlow,
    /// Too much waits for the database. Nothing was begun.
    #[error("too much waits for the database")]
    Busy,
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
    /// The error of a write: one that hits a unique index is [`StoreError::Taken`].
    pub(super) fn of_write(error: DbErr) -> Self {
        match error.sql_err() {
            Some(sea_orm::SqlErr::UniqueConstraintViolation(text)) => StoreError::Taken(text),
            _ => StoreError::Database(error),
        }
    }
    /// The error of a write that nobody repeats: did it happen? It certainly did not if there was
    /// no connection, or if the database itself refused it. Otherwise the outcome is unknown.
    pub(super) fn of_unrepeated_write(self) -> Self {
        match self {
            StoreError::Database(DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) => self,
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
}

/// Why a batch was not, or may not have been, written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another process owns the shards. Nothing was written, and nothing will be.
    #[error("another process has taken the database over")]
    Fenced,
    /// The database refuses these rows. Nothing was written.
    #[error("the database refuses the batch: {0}")]
    Refused(String),
    /// It may or may not have been written.
    #[error("the outcome of the commit is not known: {0}")]
    Unknown(DbErr),
}

impl From<DbErr> for CommitError {
    fn from(error: DbErr) -> Self {
        let inner = match &error {
            DbErr::Exec(sea_orm::RuntimeErr::SqlxError(inner))
            | DbErr::Query(sea_orm::RuntimeErr::SqlxError(inner)) => inner.as_database_error(),
            _ => None,
        };
        let code = inner.and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match code {
            Some(code) if !is_transient(&code) => CommitError::Refused(error.to_string()),
            _ => CommitError::Unknown(error),
        }
    }
}

/// Is this an error code of the database after which the same rows may be accepted later, perhaps
/// after a person has mended it? Any other error code is about the rows, and would come again for
/// ever.
fn is_transient(code: &str) -> bool {
    // SQLSTATE classes of PostgreSQL: connection, transaction state, rollback, resources, object
    // state, access and tables that are not there, operator intervention, system error, internal
    // error.
    const CLASSES: [&str; 9] = ["08", "25", "40", "42", "53", "55", "57", "58", "XX"];
    // Primary codes of SQLite: ERROR (as if there is no such table), BUSY, LOCKED, NOMEM, READONLY,
    // INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB.
    const PRIMARY: [u32; 12] = [1, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26];
    if code.len() == 5 {
        return code.get(..2).is_some_and(|class| CLASSES.contains(&class));
    }
    code.parse::<u32>().map_or(true, |code| PRIMARY.contains(&(code & 0xff)))
}

impl From<CommitError> for StoreError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Unknown(error) => StoreError::OutcomeUnknown(error),
            CommitError::Refused(reason) => StoreError::Corrupt(reason),
            CommitError::Fenced => StoreError::Corrupt("another process has taken it over".into()),
        }
    }
}

impl From<std::io::Error> for CommitError {
    fn from(error: std::io::Error) -> Self {
        CommitError::Unknown(DbErr::Custom(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        // PostgreSQL: connection, serialization, too many connections, shutdown, no right, no such
        // table; then what is about the rows.
        for code in ["08006", "40001", "40P01", "53300", "57P01", "58030", "42501", "42P01"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "23514", "22021", "22003"] {
            assert!(!is_transient(code), "{code}");
        }
        // SQLite, primary and extended: BUSY, IOERR_FSYNC, FULL, no such table, CORRUPT; then
        // constraints, mismatch, a trigger's abort.
        for code in ["5", "1034", "13", "1", "11"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["19", "2067", "1555", "275", "20", "1811"] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
