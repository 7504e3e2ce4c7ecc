//! The journal: a write-ahead log. Batches of paid calls and of changes of keys are durable here
//! before they are acknowledged, and reach the tables later, many at once.
//!
//! Rows of their own for each call would cost each caller a page of several tables. So a batch is
//! one record in the journal, and that one sync of the disk is all that a caller waits for (group
//! commit). A checkpoint writes what many records say into the tables.
//!
//! ```text
//!  decisions ──> batch ──append──> journal ──checkpoint──> tables
//!                  │                  │                      │
//!                  └── acknowledged <─┘ durable              └── mark moved, records deleted
//! ```
//!
//! # Positions and the mark
//!
//! A record lies at a `Position`: the epoch of the lease under which it was written, and a number
//! that the writer counts up. The row of `journal_mark` has the position up to which the journal is
//! checkpointed. A checkpoint writes the tables and moves the mark in one transaction, and deletes
//! the records after that transaction is committed. So whatever happens, every call counts once: by
//! the journal above the mark, by the tables below it.
//!
//! # Recovery
//!
//! A process that takes the accounts over (`take_lease`) does this before anything else:
//!
//! 1. It raises the epoch of the lease in the tables. The new epoch is above that of the journal
//!    too, which is the higher one if the tables come from an older backup.
//! 2. It takes the journal over. From then on no earlier owner can append a record (fencing).
//! 3. It tries the entries again that the tables refused before (`journal_refused`).
//! 4. It checkpoints every record above the mark, in the order of positions, one epoch at a time.
//! 5. It deletes the records.
//!
//! A crash at any of these steps repeats them: a record below the mark is not written twice, and
//! one above it is not lost.
//!
//! # What the tables refuse
//!
//! If the tables refuse a checkpoint, the batch is tried in halves until it is known which accounts
//! they refuse. The writes of those accounts go to `journal_refused` in the same transaction, and
//! the accounts take no calls until a person has mended them; all others go on.
//!
//! # Where it is
//!
//! | database   | journal                                | one append                            |
//! |------------|----------------------------------------|---------------------------------------|
//! | PostgreSQL | a table beside the others (`table`)   | one statement, one sync of its own log |
//! | SQLite     | a file beside the database (`file`)   | one write, one `fdatasync`            |
//!
//! The setting `ledger.journal = false` needs no backend: the ledger writer then commits each batch
//! into the tables. What an earlier process left in the journal is checkpointed all the same.
//!
//! The two are variants of `Journal` and not implementations of a trait. Which one it is is known
//! when the database is opened and never changes; a trait object would cost an allocation for the
//! future of each append, and a type parameter would spread over everything that has a `Store`.
//!
//! # Constraints
//!
//! - Only paid calls and changes of keys are journaled. Whatever else there is (new keys, payments,
//!   recorded answers) is committed to the tables, after a checkpoint of what was journaled before
//!   it.
//! - A reader of the tables sees a call only after its checkpoint. Who must see it sooner asks the
//!   ledger writer for a checkpoint first. A change of a key is seen at once: the store applies it
//!   to the rows that it reads (`journaled_keys`).
//! - The format of a record has a number; a server refuses a number that it does not know
//!   (`format`).

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
mod position;
pub(in crate::store) mod table;

pub use checkpoint::report_refused;

/// Batches that are read at once.
const PAGE: usize = 64;

/// Batches with their positions.
type Batches = Vec<(Position, Batch)>;

/// Where batches are journaled. See the module.
#[derive(Clone, Debug)]
pub(in crate::store) enum Journal {
    /// For SQLite.
    File(Arc<FileJournal>),
    /// For PostgreSQL.
    Table(TableJournal),
}

impl Journal {
    /// The writer's connection, if it has one.
    pub(in crate::store) fn connection(&self) -> Option<&LaneConnection> {
        match self {
            Journal::File(_) => None,
            Journal::Table(table) => Some(table.connection()),
        }
    }

    /// Appends a batch if the lease still holds. `Ok` means durable.
    async fn append(&self, number: i64, writes: Vec<u8>, lease: Lease) -> Result<(), CommitError> {
        match self {
            Journal::File(file) => file.append(number, &writes, lease),
            Journal::Table(table) => table.append(number, writes, lease).await,
        }
    }

    /// Is a batch of this process in it? In a file, one whose append failed is not from then on.
    async fn contains(&self, number: i64, lease: Lease) -> Result<bool, StoreError> {
        match self {
            Journal::File(file) => Ok(file.contains((lease.epoch, number), lease)?),
            Journal::Table(table) => table.contains(number, lease).await,
        }
    }

    /// Deletes batches of this process, which are below the mark.
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

    /// Deletes what earlier processes left, which is below the mark.
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

    /// How many batches are deleted at once. A file notes up to where it may be overwritten,
    /// however many those are.
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

    /// Is a batch in the journal?
    pub(in crate::store) async fn is_journaled(
        &self,
        number: i64,
        lease: Lease,
    ) -> Result<bool, StoreError> {
        self.journal.contains(number, lease).await
    }

    /// The last epoch in which the journal of SQLite was taken over: higher than that of the tables
    /// if those come from an older backup.
    pub(in crate::store) fn journal_epoch(&self) -> Result<i64, StoreError> {
        match &self.journal {
            // Its owner still knows what is in it. If it cannot be read, the owner must go on.
            Journal::File(file) => Ok(file.read()?.0),
            Journal::Table(_) => Ok(0),
        }
    }

    /// Takes the journal over, after the tables. The table needs no lease of its own: it is written
    /// under that of the tables.
    pub(crate) fn take_journal(&self, lease: Lease) -> Result<(), StoreError> {
        failpoint!("takeover-journal");
        match &self.journal {
            // Somebody who took the tables over after this process may have been here before it.
            Journal::File(file) => Ok(file.take(lease)?),
            Journal::Table(_) => Ok(()),
        }
    }

    /// Which batches are in the journal, by epoch and number: also those that are checkpointed, and
    /// not deleted yet.
    pub async fn journaled(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        let batches = self.journaled_batches()?.all().await?;
        Ok(batches.iter().map(|(at, _)| *at).collect())
    }

    /// What is in the journal.
    fn journaled_batches(&self) -> Result<Journaled<'_>, StoreError> {
        let Journal::File(file) = &self.journal else { return Ok(Journaled::InTable(&self.write)) };
        let records = file.read()?.1.into_iter();
        let mut read: Vec<_> = records.map(|record| (record.at, record.writes)).collect();
        read.sort_by_key(|(at, _)| *at);
        Ok(Journaled::Read(read))
    }
}

/// What is in the journal, page by page.
enum Journaled<'c> {
    InTable(&'c DatabaseConnection),
    /// What a file has, in the order of positions.
    Read(Vec<(Position, Vec<u8>)>),
}

impl Journaled<'_> {
    /// Every batch.
    async fn all(&self) -> Result<Batches, StoreError> {
        let (mut batches, mut after) = (Vec::new(), BEGIN);
        loop {
            let page = self.after(after).await?;
            let Some((last, _)) = page.last() else { return Ok(batches) };
            after = *last;
            batches.extend(page);
        }
    }

    /// The next batches after this position: fewer than [`PAGE`] if there are no more.
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

/// The file of the journal of a SQLite database: `x.journal.log` beside `x.db`. No two databases
/// have the same.
pub(in crate::store) fn sqlite_file(url: &str) -> PathBuf {
    let file = options::sqlite_file(url);
    if file.extension().is_some_and(|extension| extension == "db") {
        return file.with_extension("journal.log");
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push("-journal.log");
    file.with_file_name(name)
}

/// Had the SQLite database a journal before it was opened now?
pub(in crate::store) async fn is_migrated(tables: &DatabaseConnection) -> Result<bool, StoreError> {
    let sql = "SELECT COUNT(*) FROM sqlite_master WHERE name = $1";
    Ok(count(tables, sql, ["journal_mark".into()]).await? > 0)
}

/// Refuses to go on if the file of the journal is gone that the last process left with calls in it.
pub(in crate::store) async fn assert_there(
    tables: &DatabaseConnection,
    url: &str,
) -> Result<(), StoreError> {
    let file = sqlite_file(url);
    // A process that stops in good order checkpoints the journal first, and then gives the lease
    // back.
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
