//! The journal: a write-ahead log. Batches of paid calls and of changes of keys are durable here
//! before they are acknowledged. They reach the tables later, many at once.
//!
//! Separate rows for each call would write a page in each of several tables. So a batch is one
//! record in the journal, and a caller waits for one sync of the disk only (group commit). A
//! checkpoint writes many records into the tables.
//!
//! ```text
//!  decisions ──> batch ──append──> journal ──checkpoint──> tables
//!                  │                  │                      │
//!                  └── acknowledged <─┘ durable              └── mark moved, records deleted
//! ```
//!
//! # Positions and the mark
//!
//! A record is at a `Position`: the epoch of the lease under which it was written, and a number
//! that the writer counts up. The row of `journal_mark` holds the mark: the position up to which
//! the journal is checkpointed. A checkpoint writes the tables and moves the mark in one
//! transaction, and deletes the records after the commit. So every call counts exactly once: from
//! the journal if it is above the mark, else from the tables.
//!
//! # Recovery
//!
//! A process that takes over the accounts (`take_lease`) does this before anything else:
//!
//! 1. It raises the epoch of the lease in the tables. The new epoch is also above that of the
//!    journal, which is higher than that of the tables if those come from an older backup.
//! 2. It takes over the journal. From then on no earlier owner can append a record (fencing).
//! 3. It tries the entries again that the tables refused before (`journal_refused`).
//! 4. It checkpoints every record above the mark, in the order of positions, one epoch at a time.
//! 5. It deletes the records.
//!
//! After a crash at any step, the next process repeats the steps. A record below the mark is not
//! written twice, and a record above it is not lost.
//!
//! # What the tables refuse
//!
//! If the tables refuse a checkpoint, the batch is tried in halves until it is known which accounts
//! they refuse. The writes of those accounts go to `journal_refused` in the same transaction. Those
//! accounts take no calls until an operator has repaired them. All other accounts go on.
//!
//! # Where it is
//!
//! | database   | journal                                | one append                            |
//! |------------|----------------------------------------|---------------------------------------|
//! | PostgreSQL | a table beside the others (`table`)   | one statement, one sync of its own log |
//! | SQLite     | a file beside the database (`file`)   | one write, one `fdatasync`            |
//!
//! With the setting `ledger.journal = false` the ledger writer commits each batch into the tables.
//! What an earlier process left in the journal is checkpointed anyway.
//!
//! The two backends are variants of `Journal`, not implementations of a trait. The backend is known
//! when the database is opened and never changes. A trait object would allocate for the future of
//! each append, and a type parameter would spread to everything that has a `Store`.
//!
//! # Constraints
//!
//! - Only paid calls and changes of keys are journaled. Everything else (new keys, payments,
//!   recorded answers) is committed to the tables, after a checkpoint of what was journaled before
//!   it.
//! - A reader of the tables sees a call only after its checkpoint. A reader that must see it sooner
//!   first asks the ledger writer for a checkpoint. A change of a key is visible at once: the store
//!   applies it to the rows that it reads (`journaled_keys`).
//! - The format of a record has a number (`format`). A server refuses a number that it does not
//!   know.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use sea_orm::DatabaseConnection;

use crate::store::error::{CommitError, StoreError};
use crate::store::ledger::connection::LaneConnection;
use crate::store::sql::count;
use crate::store::{Store, options};
use domain::{Batch, Lease};
use file::FileJournal;
use format::{decoded, encode};
use position::{BEGIN, Position};
use table::TableJournal;

mod audit;
mod checkpoint;
pub(in crate::store) mod file;
mod format;
mod former;
mod position;
pub(in crate::store) mod table;

pub use audit::AuditedJournal;
pub use checkpoint::report_refused;

/// How many batches one page has.
const PAGE: usize = 64;

/// Batches with their positions.
type Batches = Vec<(Position, Batch)>;

/// The journal of this database.
#[derive(Clone, Debug)]
pub(in crate::store) enum Journal {
    /// For SQLite.
    File(Arc<FileJournal>),
    /// For PostgreSQL.
    Table(TableJournal),
}

impl Journal {
    /// The writer's connection. `None` for a file, which needs none.
    pub(in crate::store) fn connection(&self) -> Option<&LaneConnection> {
        match self {
            Journal::File(_) => None,
            Journal::Table(table) => Some(table.connection()),
        }
    }

    /// Appends a batch if the lease still holds. `Ok` means durable. Fails with
    /// [`CommitError::Fenced`] if it does not hold.
    async fn append(&self, number: i64, writes: Vec<u8>, lease: Lease) -> Result<(), CommitError> {
        match self {
            Journal::File(file) => file.append(number, &writes, lease),
            Journal::Table(table) => table.append(number, writes, lease).await,
        }
    }

    /// Says whether the journal has this batch of this process. In a file, this also annuls a
    /// record whose append failed: it never counts from then on.
    async fn contains(&self, number: i64, lease: Lease) -> Result<bool, StoreError> {
        match self {
            Journal::File(file) => Ok(file.contains((lease.epoch, number), lease)?),
            Journal::Table(table) => table.contains(number, lease).await,
        }
    }

    /// Deletes batches of this process that are below the mark.
    async fn delete(
        &self,
        tables: &DatabaseConnection,
        numbers: RangeInclusive<i64>,
        lease: Lease,
    ) -> Result<(), CommitError> {
        match self {
            Journal::File(file) => file.forget((lease.epoch, *numbers.end()), lease),
            Journal::Table(_) => Ok(TableJournal::delete(tables, numbers, lease).await?),
        }
    }

    /// Deletes batches of earlier processes that are below the mark.
    async fn delete_up_to(
        &self,
        tables: &DatabaseConnection,
        last: Position,
        lease: Lease,
    ) -> Result<(), CommitError> {
        match self {
            Journal::File(file) => file.forget(last, lease),
            Journal::Table(_) => Ok(TableJournal::delete_up_to(tables, last).await?),
        }
    }

    /// How many batches one call of `delete` may delete. For a file any number costs the same: it
    /// only notes up to which record it may overwrite.
    fn delete_max(&self) -> i64 {
        match self {
            Journal::File(_) => i64::MAX,
            Journal::Table(_) => TableJournal::delete_max(),
        }
    }

    pub(in crate::store) async fn close(&self) -> Result<(), StoreError> {
        match self {
            Journal::File(file) => file.close(),
            Journal::Table(table) => table.connection().close().await?,
        }
        Ok(())
    }
}

impl Store {
    /// Writes a batch of paid calls and changes of keys as one record, if the lease still holds.
    /// `Ok` means durable.
    pub async fn journal(
        &self,
        number: i64,
        batch: &Batch,
        lease: Lease,
    ) -> Result<(), CommitError> {
        failpoint!("journal-before");
        self.journal.append(number, encode(batch)?, lease).await?;
        self.journaled_keys.note(number, batch);
        Ok(())
    }

    /// Says whether the journal has this batch of this process.
    pub(in crate::store) async fn is_journaled(
        &self,
        number: i64,
        lease: Lease,
    ) -> Result<bool, StoreError> {
        self.journal.contains(number, lease).await
    }

    /// Returns the last epoch in which the journal of SQLite was taken over. It is above that of
    /// the tables if those come from an older backup.
    pub(in crate::store) fn journal_epoch(&self) -> Result<i64, StoreError> {
        match &self.journal {
            // Read before the takeover. If the file cannot be read, its owner must stay the owner,
            // because it still knows what is in the file.
            Journal::File(file) => Ok(file.read()?.0),
            Journal::Table(_) => Ok(0),
        }
    }

    /// Takes over the journal, after the tables. A journal in a table needs no step here, because
    /// it is written under the lease of the tables.
    pub(crate) fn take_journal(&self, lease: Lease) -> Result<(), StoreError> {
        failpoint!("takeover-journal");
        match &self.journal {
            // Fails if a process that took over the tables later was faster here.
            Journal::File(file) => Ok(file.take(lease)?),
            Journal::Table(_) => Ok(()),
        }
    }

    /// Returns the epoch and the number of each batch in the journal. That includes batches that
    /// are checkpointed and not deleted yet.
    pub async fn journaled(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        let batches = self.journaled_batches()?.all().await?;
        Ok(batches.iter().map(|(at, _)| *at).collect())
    }

    /// Reads the journal of this database.
    fn journaled_batches(&self) -> Result<Journaled<'_>, StoreError> {
        let Journal::File(file) = &self.journal else { return Ok(Journaled::InTable(&self.write)) };
        let records = file.read()?.1.into_iter();
        let mut read: Vec<_> = records.map(|record| (record.at, record.writes)).collect();
        read.sort_by_key(|(at, _)| *at);
        Ok(Journaled::Read(read))
    }
}

/// The contents of a journal, read by page.
enum Journaled<'c> {
    InTable(&'c DatabaseConnection),
    /// The records of a file, in the order of positions.
    Read(Vec<(Position, Vec<u8>)>),
}

impl Journaled<'_> {
    /// Returns every batch.
    async fn all(&self) -> Result<Batches, StoreError> {
        let (mut batches, mut after) = (Vec::new(), BEGIN);
        loop {
            let page = self.after(after).await?;
            let Some((last, _)) = page.last() else { return Ok(batches) };
            after = *last;
            batches.extend(page);
        }
    }

    /// Returns the next batches after this position. There are no more if it returns fewer than
    /// [`PAGE`].
    async fn after(&self, after: Position) -> Result<Batches, StoreError> {
        match self {
            Journaled::InTable(connection) => table::page_after(connection, after).await,
            Journaled::Read(read) => {
                let first = read.partition_point(|(at, _)| *at <= after);
                let batch = |(at, writes): &(Position, Vec<u8>)| Ok((*at, decoded(*at, writes)?));
                read.iter().skip(first).take(PAGE).map(batch).collect()
            }
        }
    }
}

/// The path of a SQLite database's journal: `x.journal.log` beside `x.db`. No two databases share
/// one.
pub(in crate::store) fn sqlite_file(url: &str) -> PathBuf {
    let file = options::sqlite_file(url);
    if file.extension().is_some_and(|extension| extension == "db") {
        return file.with_extension("journal.log");
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push("-journal.log");
    file.with_file_name(name)
}

/// Says whether the SQLite database had a journal before it was opened now.
pub(in crate::store) async fn is_migrated(tables: &DatabaseConnection) -> Result<bool, StoreError> {
    let sql = "SELECT COUNT(*) FROM sqlite_master WHERE name = $1";
    Ok(count(tables, sql, ["journal_mark".into()]).await? > 0)
}

/// Fails with [`StoreError::Unsafe`] if the file of the journal is missing and the last process may
/// have left calls in it.
pub(in crate::store) async fn assert_there(
    tables: &DatabaseConnection,
    url: &str,
) -> Result<(), StoreError> {
    let file = sqlite_file(url);
    // A process that stops in good order first checkpoints the journal, then gives back the lease.
    let sql = "SELECT COUNT(*) FROM shard_lease WHERE owner IS NOT NULL AND shard = $1";
    if file.is_file() || count(tables, sql, [0_i64.into()]).await? == 0 {
        return Ok(());
    }
    Err(StoreError::Unsafe(format!(
        "the journal {} is missing, and the last server did not stop in good order: calls may be in it that were \
         acknowledged and charged. Put it back beside the database; if it is lost for good, put an empty file in its place",
        file.display()
    )))
}
