//! The journal of SQLite: a file beside the database, `x.journal.log` beside `x.db`.
//! `docs/src/internals/journal.md` is the specification, with each kind of damage.
//!
//! In a table of SQLite, a batch would write two or three pages into SQLite's own write-ahead log,
//! and SQLite would copy them later. Here a batch is one write into blocks that the file already
//! has, and one `fdatasync`, on the thread that waits for it.
//!
//! # Layout
//!
//! The file is a sequence of blocks of 4,096 bytes: two heads of one block each, then segments of
//! equal size. The size is in the head. A new file has segments of 1 MiB.
//!
//! ```text
//! 0      4096   8192                              + segment
//! ┌──────┬──────┬─────────────────────────────────┬──────────────────────┬────
//! │ head │ head │ segment                         │ segment              │ ...
//! └──────┴──────┼────────┬────────┬───────────────┼──────────────────────┼────
//!               │ record │ record │ old or zeros  │                      │
//!               └────────┴────────┴───────────────┘
//! ```
//!
//! Heads and records are frames. A frame begins at the start of a block and fills whole blocks:
//!
//! | bytes     | what                                                                          |
//! |-----------|-------------------------------------------------------------------------------|
//! | 8         | magic: `polyhead` or `polybtch`                                                |
//! | 4         | length of the body in bytes, little-endian                                     |
//! | 4         | CRC-32 (IEEE) of the four bytes of the length and of the body, little-endian   |
//! | length    | body, in [postcard](https://postcard.jamesmunns.com/wire-format)               |
//! | the rest  | zeros up to the end of the block                                               |
//!
//! The body of a head (`Head`):
//!
//! | field        | type         | what                                                             |
//! |--------------|--------------|------------------------------------------------------------------|
//! | `format`     | u8           | 1                                                                |
//! | `salt`       | 16 bytes     | drawn when the file is made                                      |
//! | `segment`    | u32          | bytes in a segment                                               |
//! | `generation` | u64          | counts the heads that were written                               |
//! | `owner`      | 16 bytes, optional | the process that holds the lease of the file               |
//! | `epoch`      | i64          | the epoch of that lease                                          |
//! | `forgotten`  | u64          | records up to this sequence number are checkpointed              |
//!
//! The body of a record (`RecordHead` and the writes):
//!
//! | field      | type     | what                                                                     |
//! |------------|----------|--------------------------------------------------------------------------|
//! | `salt`     | 16 bytes | that of the head: what a customer sends can never pass for a record       |
//! | `sequence` | u64      | 1 for the first record of the file, then one more each, without a gap     |
//! | `epoch`    | i64      | with `number`, the position of the batch                                  |
//! | `number`   | i64      |                                                                          |
//! | writes     | the rest | the batch, in the format of `format.rs`                             |
//!
//! **Heads.** The two heads are written in turn: an even generation into the first block, an odd
//! one into the second. The valid head with the higher generation counts. So if a write tears one
//! head, the head before it still counts. A server stops at a valid head whose format it does not
//! know.
//!
//! **Records.** A record begins at the start of a block, so that a torn write never damages the
//! record before it. A record that is larger than a segment takes several adjacent segments. It
//! begins at the start of the first one, and nothing is written after it.
//!
//! **Segments.** Records are appended to one segment until the next record does not fit. Then the
//! first segment whose records are all forgotten is overwritten from its start. (A large record
//! needs a run of such segments.) If there is none, the file grows by a segment, which is first
//! filled with zeros and synced. So later writes change neither the length nor the block map, and
//! `fdatasync` writes their data only. The file never shrinks.
//!
//! # What is synced, and when
//!
//! | step                        | order                                                           |
//! |-----------------------------|-----------------------------------------------------------------|
//! | making the file             | written under another name, `fsync`, rename, `fsync` of the folder |
//! | growing by a segment        | zeros, `fsync`                                                  |
//! | appending a record          | one write, `fdatasync`; only then is the batch acknowledged     |
//! | forgetting records          | head, `fdatasync`; only then are their segments overwritten     |
//! | taking the file over        | see below; head with owner and epoch, `fdatasync`               |
//!
//! **If a write or sync fails**, it is unknown whether the record is on the disk. The server
//! remembers the place. Before it appends anything else, or answers whether the batch is in the
//! journal, it opens the file anew, overwrites the first block of the record with zeros, and syncs.
//! (After a failed sync, the pages that a handle reads may differ from the disk.) So a batch that
//! failed never counts, and it may be appended again.
//!
//! # Recovery
//!
//! The file is read from its start. In each segment, frames are read one after the other. After the
//! last frame the reader goes on block by block, to find records after a hole. A record counts if
//! its checksum and its salt are right and its sequence number is above `forgotten`. Then:
//!
//! - **The records that count must have no gap**, from `forgotten + 1` on. If one is missing and a
//!   later one is there, the file is damaged, and no server starts with it.
//! - **A torn end is no damage.** A record at the end that is missing or incomplete was never
//!   acknowledged, because an acknowledgement comes after the sync. It does not count, and the next
//!   record takes its sequence number.
//!
//! A takeover reads the file under the lock. Before it writes its head, it writes the last record
//! again, and zeros at the block where the records of each segment end. The reason: the last owner
//! may have failed to sync its last record, or the zeros that annul it. So every later reader sees
//! what this reader saw.
//!
//! # Fencing
//!
//! A process holds a lock on the file (`flock`) while it writes. Under that lock it compares the
//! owner and the epoch of the head with its lease. A takeover needs a higher epoch than that of the
//! head. So a takeover waits for the append in flight, and the earlier owner appends nothing more.
//!
//! # Constraints
//!
//! - One server at a time, on a local file system with a correct `flock` and `fdatasync`.
//! - A record has less than 4 GiB. The sizes of segments and records are multiples of 4,096 bytes.
//! - The sequence number of an acknowledged record is never used again.
//! - A backup copies the file under the lock, before the tables. A batch that is checkpointed in
//!   between is in both copies, and the mark decides which one counts.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Result as IoResult, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::DbErr;
use uuid::Uuid;

use super::position::Position;
use crate::failpoint;
use crate::store::error::{CommitError, StoreError};
use crate::store::options::{folder_of, is_synced};
use domain::Lease;
use record::{
    BLOCK, FORMAT, HEADS, Head, RECORD_MAGIC, Record, RecordHead, begun_frame, end_frame,
    head_block, read_head, wide,
};
use recovery::{read_all, scan};
use segment::{SEGMENT, SMALL_SEGMENT, fill};

mod record;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

/// How long to wait for a process that has the lock because it takes over, reads or copies the
/// file.
const BUSY_MAX: Duration = Duration::from_secs(5);
const BUSY_POLL: Duration = Duration::from_millis(1);

/// The journal in a file.
#[derive(Debug)]
pub(in crate::store) struct FileJournal {
    path: PathBuf,
    /// `None` when it is closed.
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    file: Arc<File>,
    head: Head,
    /// The sequence number of the last record in each segment. 0 if there is none.
    segments: Vec<u64>,
    /// The free part of the current segment: its start and its end, in bytes of the file.
    room: Option<(u64, u64)>,
    /// The sequence number of the next record.
    next: u64,
    /// The records that are not forgotten, with their sequence numbers.
    kept: VecDeque<(Position, u64)>,
    /// The place of a record whose write or sync failed.
    failed: Option<u64>,
    buffer: Vec<u8>,
}

impl FileJournal {
    /// Opens the file. Makes it if it does not exist or is empty.
    ///
    /// Fails with [`StoreError::Unsafe`] if the file cannot be written, or is not a journal of this
    /// server.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = || {
            let is_new = std::fs::metadata(path).map_or_else(
                |error| if error.kind() == ErrorKind::NotFound { Ok(true) } else { Err(error) },
                |metadata| Ok(metadata.len() == 0),
            )?;
            if is_new {
                create(path)?;
            }
            let file = open(path)?;
            let head = read_head(&file)?;
            Ok((file, head))
        };
        let (file, head) = opened().map_err(|error: Error| {
            let path = path.display();
            StoreError::Unsafe(format!("the journal {path} cannot be used: {error}"))
        })?;
        let state = State {
            file: Arc::new(file),
            head,
            segments: Vec::new(),
            room: None,
            next: 1,
            kept: VecDeque::new(),
            failed: None,
            buffer: Vec::new(),
        };
        Ok(FileJournal { path: path.to_owned(), state: Mutex::new(Some(state)) })
    }

    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the epoch of the last takeover, and the records.
    ///
    /// Fails with [`StoreError::Corrupt`] if a record is missing, and with [`StoreError::Database`]
    /// if the file cannot be read.
    pub(super) fn read(&self) -> Result<(i64, Vec<Record>), StoreError> {
        self.found().map_err(|error| match error.kind() {
            ErrorKind::InvalidData => StoreError::Corrupt(error.to_string()),
            _ => StoreError::Database(DbErr::Custom(error.to_string())),
        })
    }

    fn found(&self) -> IoResult<(i64, Vec<Record>)> {
        // The scan runs without the lock, so that no append waits for it.
        let (head, bytes) = self.with(|state| {
            let _lock = state.locked()?;
            Ok::<_, Error>((read_head(&state.file)?, read_all(&state.file)?))
        })?;
        let found = scan(&head, &bytes)?;
        Ok((head.epoch, found.records.into_iter().map(|(_, record)| record).collect()))
    }

    /// Takes over the file. From then on no other process can append.
    ///
    /// Fails with [`CommitError::Fenced`] if another process has taken it over in this epoch or a
    /// later one.
    pub(super) fn take(&self, lease: Lease) -> Result<(), CommitError> {
        self.with(|state| {
            state.file = Arc::new(open(&self.path)?);
            let _lock = state.locked()?;
            let head = read_head(&state.file)?;
            if head.epoch >= lease.epoch {
                return Err(CommitError::Fenced);
            }
            let bytes = read_all(&state.file)?;
            let found = scan(&head, &bytes)?;
            // The last owner may have failed to sync its last record, or the zeros that annul it.
            // After these writes the disk has what was read here.
            if let Some(last) = found.last {
                let place = wide(last.start);
                state.file.write_all_at(bytes.get(last).unwrap_or_default(), place)?;
            }
            for end in found.ends {
                state.file.write_all_at(&[0; BLOCK], wide(end))?;
            }
            let last = found.records.last().map_or(head.forgotten, |(sequence, _)| *sequence);
            state.next = last.saturating_add(1);
            state.kept = found.records.iter().map(|(last, record)| (record.at, *last)).collect();
            state.segments = found.segments;
            (state.failed, state.room, state.head) = (None, None, head);
            let owner = Some(lease.owner.into_bytes());
            state.write_head(|head| (head.owner, head.epoch) = (owner, lease.epoch))?;
            Ok(())
        })
    }

    /// Appends a batch. Blocks this thread until the batch is durable.
    pub(super) fn append(
        &self,
        number: i64,
        writes: &[u8],
        lease: Lease,
    ) -> Result<(), CommitError> {
        self.with(|state| {
            state.reopen_after_failure(&self.path)?;
            let _lock = state.locked_by(lease)?;
            state.annul()?;
            state.append((lease.epoch, number), writes)?;
            Ok(())
        })
    }

    /// Says whether the file has a batch. If this process still holds the lease, it first annuls a
    /// record whose write failed. Such a record never counts, even if it reached the disk.
    pub(super) fn contains(&self, at: Position, lease: Lease) -> Result<bool, CommitError> {
        self.with(|state| {
            state.reopen_after_failure(&self.path)?;
            let lock = state.locked()?;
            let head = read_head(&state.file)?;
            if head.is_held(lease) {
                state.annul()?;
            }
            let bytes = read_all(&state.file)?;
            drop(lock);
            Ok(scan(&head, &bytes)?.records.iter().any(|(_, record)| record.at == at))
        })
    }

    /// Syncs all that was appended before.
    pub(in crate::store) fn seal(&self, lease: Lease) -> Result<(), CommitError> {
        self.with(|state| {
            let _lock = state.locked_by(lease)?;
            Ok(sync(&state.file)?)
        })
    }

    /// Forgets all records up to `up_to`, which are checkpointed. Their space may then be
    /// overwritten.
    pub(super) fn forget(&self, up_to: Position, lease: Lease) -> Result<(), CommitError> {
        self.with(|state| {
            let _lock = state.locked_by(lease)?;
            let checkpointed = state.kept.iter().take_while(|(at, _)| *at <= up_to);
            let count = checkpointed.clone().count();
            let Some((_, last)) = checkpointed.last().copied() else { return Ok(()) };
            // The head must be durable before a record is overwritten. Otherwise recovery would
            // miss that record.
            state.write_head(|head| head.forgotten = last)?;
            state.kept.drain(..count);
            Ok(())
        })
    }

    /// Copies the file as it is at one moment.
    pub(in crate::store) fn copy(&self, to: &Path) -> IoResult<()> {
        // The copy is written without the lock, so that no append waits for the other disk.
        let bytes = self.with(|state| {
            let _lock = state.locked()?;
            read_all(&state.file)
        })?;
        let mut copy = create_private(to)?;
        copy.write_all(&bytes)?;
        copy.sync_all()
    }

    pub(super) fn close(&self) {
        *self.state() = None;
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut state = self.state();
        let state = state.as_mut().ok_or_else(|| Error::other("the journal is closed"))?;
        work(state)
    }
}

/// A lock on the file. Dropping it releases it.
struct Locked(Arc<File>);

impl Drop for Locked {
    fn drop(&mut self) {
        // If this fails, the lock ends with the process.
        let _ = self.0.unlock();
    }
}

impl State {
    fn locked(&self) -> IoResult<Locked> {
        let begun = Instant::now();
        loop {
            match self.file.try_lock() {
                Ok(()) => return Ok(Locked(Arc::clone(&self.file))),
                Err(TryLockError::WouldBlock) if begun.elapsed() < BUSY_MAX => {
                    std::thread::sleep(BUSY_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::other("another process keeps the journal locked"));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Locks the file. Fails with [`CommitError::Fenced`] if this process does not own it.
    fn locked_by(&self, lease: Lease) -> Result<Locked, CommitError> {
        let lock = self.locked()?;
        if read_head(&self.file)?.is_held(lease) { Ok(lock) } else { Err(CommitError::Fenced) }
    }

    /// Opens the file anew after a failed sync: the old handle may not read what is on the disk.
    fn reopen_after_failure(&mut self, path: &Path) -> IoResult<()> {
        if self.failed.is_some() {
            self.file = Arc::new(open(path)?);
        }
        Ok(())
    }

    /// Overwrites the start of a record whose write failed, so that it never counts.
    fn annul(&mut self) -> IoResult<()> {
        if let Some(place) = self.failed {
            self.file.write_all_at(&[0; BLOCK], place)?;
            sync(&self.file)?;
            self.failed = None;
        }
        Ok(())
    }

    fn append(&mut self, (epoch, number): Position, writes: &[u8]) -> IoResult<()> {
        let sequence = self.next;
        let head = RecordHead { salt: self.head.salt, sequence, epoch, number };
        let mut buffer = begun_frame(RECORD_MAGIC, std::mem::take(&mut self.buffer));
        buffer = postcard::to_extend(&head, buffer).map_err(Error::other)?;
        buffer.extend_from_slice(writes);
        end_frame(&mut buffer)?;
        let length = wide(buffer.len());
        let place = self.room_of(length)?;
        self.failed = Some(place);
        self.file.write_all_at(&buffer, place)?;
        failpoint!("journal-sent");
        sync(&self.file)?;
        self.failed = None;
        self.buffer = buffer;
        self.next = sequence.saturating_add(1);
        self.kept.push_back(((epoch, number), sequence));
        let end = place.saturating_add(length);
        let (first, last) = (self.segment_of(place), self.segment_of(end.saturating_sub(1)));
        for segment in self.segments.iter_mut().take(last.saturating_add(1)).skip(first) {
            *segment = sequence;
        }
        // Nothing is written after a record of several segments. Otherwise its first segments would
        // be free before its last one.
        let is_large = first < last;
        let room = self.room.filter(|(_, limit)| !is_large && end < *limit);
        self.room = room.map(|(_, limit)| (end, limit));
        Ok(())
    }

    fn write_head(&mut self, change: impl FnOnce(&mut Head)) -> IoResult<()> {
        let mut head = self.head.clone();
        head.generation = head.generation.saturating_add(1);
        change(&mut head);
        let place = if head.generation.is_multiple_of(2) { 0 } else { wide(BLOCK) };
        self.file.write_all_at(&head_block(&head)?, place)?;
        failpoint!("journal-head-written");
        sync(&self.file)?;
        self.head = head;
        Ok(())
    }
}

/// Makes the file under another name and renames it, so that no incomplete file exists.
fn create(path: &Path) -> IoResult<()> {
    let segment = if failpoint::is_ordered("sqlite-small-log") { SMALL_SEGMENT } else { SEGMENT };
    let head = Head {
        format: FORMAT,
        salt: Uuid::new_v4().into_bytes(),
        segment,
        generation: 0,
        owner: None,
        epoch: 0,
        forgotten: 0,
    };
    let new = path.with_added_extension("new");
    let mut file = create_private(&new)?;
    file.write_all(&head_block(&head)?)?;
    fill(&file, wide(BLOCK), HEADS.saturating_add(segment.into()))?;
    drop(file);
    std::fs::rename(&new, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// Makes an empty file that only the server's user can read.
fn create_private(path: &Path) -> IoResult<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn open(path: &Path) -> IoResult<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Waits until all writes are durable. A test can turn this off.
fn sync(file: &File) -> IoResult<()> {
    if is_synced() { file.sync_data() } else { Ok(()) }
}
