//! SQLite's journal: a file of its own beside the database, to which the ledger writer appends its batches.
//!
//! A table would write two or three pages a batch into its own log, and copy them later; here a batch is one write into
//! blocks that the disk has already, and one `fdatasync`, on the thread that waits for it.
//!
//! ```text
//! | head | head | segment                                | segment       | ...
//!                 | record | record | what was there before |
//! ```
//!
//! - A head says whose the journal is, which is its lease, and up to which record it is forgotten. The two are written in
//!   turn, and the newer one that is whole counts: so it is never without one.
//! - A record is a batch, with its sequence number in this file. It begins at a block, so that no other record is in what
//!   is written with it. Its checksum tells whether it was written to the end; what was not, nobody was told of.
//! - A segment whose records are all forgotten is written again from its beginning. Where there is none the file grows.
//!
//! So what counts are the whole records after the last forgotten one. Where one of them is missing though there is a later
//! one, the file is damaged, and nobody goes on from it.
//!
//! Whoever writes holds a lock on the file (`flock`), and looks under it whether the journal is still his: a takeover
//! waits for the batch in flight, and no batch comes between its look at the records and the end of the last owner.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Result as IoResult, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::DbErr;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::{CommitError, StoreError};
use super::journal::At;
use super::options::{folder_of, is_synced};
use crate::failpoint;
use domain::Lease;

/// What is written together: the page of most systems' memory, and a whole number of every disk's sectors.
const BLOCK: usize = 4_096;
/// Where the first segment begins.
const HEADS: u64 = 2 * 4_096;
/// How many bytes a segment has, in a file that is made now.
const SEGMENT: u32 = if cfg!(test) { 4 * 4_096 } else { 1_048_576 };
const SMALL_SEGMENT: u32 = 8 * 4_096;
const HEAD_MAGIC: [u8; 8] = *b"polyhead";
const RECORD_MAGIC: [u8; 8] = *b"polybtch";
const FORMAT: u8 = 1;
/// How long it waits for another process that has the file: one that takes it over, reads it, or copies it.
const BUSY_MAX: Duration = Duration::from_secs(5);
const BUSY_POLL: Duration = Duration::from_millis(1);

/// See the module. What it says is postcard's, after a frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    format: u8,
    /// Drawn for this file, and in each of its records: nothing that a customer has a part of passes for a record.
    salt: [u8; 16],
    segment: u32,
    /// Of the two heads, the one that has more counts.
    generation: u64,
    owner: Option<[u8; 16]>,
    epoch: i64,
    /// Records up to this one are checkpointed into the tables, and may be written over.
    forgotten: u64,
}

impl Head {
    fn is_held(&self, lease: Lease) -> bool {
        self.owner == Some(lease.owner.into_bytes()) && self.epoch == lease.epoch
    }
}

/// What stands before the writes of a batch.
#[derive(Serialize, Deserialize)]
struct RecordHead {
    salt: [u8; 16],
    sequence: u64,
    epoch: i64,
    number: i64,
}

/// A batch in the journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) at: At,
    pub(super) writes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct JournalLog {
    path: PathBuf,
    /// None when it is closed.
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    file: Arc<File>,
    head: Head,
    /// The last record in each segment, 0 where there is none.
    segments: Vec<u64>,
    /// The rest of the segment that is written in: where it begins and ends.
    room: Option<(u64, u64)>,
    /// The number of the next record in this file.
    next: u64,
    /// Records that are not forgotten.
    kept: VecDeque<(At, u64)>,
    /// Where a record may be that was written in vain, or half.
    failed: Option<u64>,
    buffer: Vec<u8>,
}

impl JournalLog {
    /// Opens the file, and makes it where there is none, or an empty one.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`] where it cannot be written, or is none of this server's.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
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
        Ok(JournalLog { path: path.to_owned(), state: Mutex::new(Some(state)) })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The epoch in which it was last taken over, and what is in it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where a part of it is missing, [`StoreError::Database`] where it cannot be read.
    pub(super) fn read(&self) -> Result<(i64, Vec<Record>), StoreError> {
        self.found().map_err(|error| match error.kind() {
            ErrorKind::InvalidData => StoreError::Corrupt(error.to_string()),
            _ => StoreError::Database(DbErr::Custom(error.to_string())),
        })
    }

    fn found(&self) -> IoResult<(i64, Vec<Record>)> {
        // What is read is looked at without keeping anyone waiting.
        let (head, bytes) = self.with(|state| {
            let _lock = state.locked()?;
            Ok::<_, Error>((read_head(&state.file)?, read_all(&state.file)?))
        })?;
        let found = scan(&head, &bytes)?;
        Ok((head.epoch, found.records.into_iter().map(|(_, record)| record).collect()))
    }

    /// Takes it over: nobody else can append anything from then on.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] where somebody has taken it over in this epoch, or a later one.
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
            // The last owner may have failed to sync its last record, or what annuls it: what was read is what is on the
            // disk from now on.
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

    /// Appends a batch, and waits on this thread until it is durable.
    ///
    /// # Errors
    /// [`CommitError`]
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

    /// Is a batch in it? One whose write failed is not from then on, whatever reached the disk, but where another process
    /// has read it already.
    pub(super) fn is_there(&self, at: At, lease: Lease) -> Result<bool, CommitError> {
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

    /// Syncs whatever was appended before.
    ///
    /// # Errors
    /// [`CommitError`]
    pub(super) fn seal(&self, lease: Lease) -> Result<(), CommitError> {
        self.with(|state| {
            let _lock = state.locked_by(lease)?;
            Ok(sync(&state.file)?)
        })
    }

    /// Gives the room of records up to this one free, which are checkpointed into the tables.
    ///
    /// # Errors
    /// [`CommitError`]
    pub(super) fn forget(&self, up_to: At, lease: Lease) -> Result<(), CommitError> {
        self.with(|state| {
            let _lock = state.locked_by(lease)?;
            let checkpointed = state.kept.iter().take_while(|(at, _)| *at <= up_to);
            let count = checkpointed.clone().count();
            let Some((_, last)) = checkpointed.last().copied() else { return Ok(()) };
            // Durable before anything is written over: else what is missing would be missed.
            state.write_head(|head| head.forgotten = last)?;
            state.kept.drain(..count);
            Ok(())
        })
    }

    /// Copies it as it is at one moment.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub(super) fn copy(&self, to: &Path) -> IoResult<()> {
        // Nobody waits for where it is copied to.
        let bytes = self.with(|state| {
            let _lock = state.locked()?;
            read_all(&state.file)
        })?;
        let mut copy = File::create(to)?;
        copy.write_all(&bytes)?;
        copy.sync_all()
    }

    /// Closes it.
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

/// A lock on the file, until it is dropped.
struct Locked(Arc<File>);

impl Drop for Locked {
    fn drop(&mut self) {
        // A process that ends gives it back as well.
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

    /// A lock on a journal that is this process's.
    fn locked_by(&self, lease: Lease) -> Result<Locked, CommitError> {
        let lock = self.locked()?;
        if read_head(&self.file)?.is_held(lease) { Ok(lock) } else { Err(CommitError::Fenced) }
    }

    /// What a handle believes on which something has failed is not to be trusted.
    fn reopen_after_failure(&mut self, path: &Path) -> IoResult<()> {
        if self.failed.is_some() {
            self.file = Arc::new(open(path)?);
        }
        Ok(())
    }

    /// Makes sure that what failed never counts.
    fn annul(&mut self) -> IoResult<()> {
        if let Some(place) = self.failed {
            self.file.write_all_at(&[0; BLOCK], place)?;
            sync(&self.file)?;
            self.failed = None;
        }
        Ok(())
    }

    fn append(&mut self, (epoch, number): At, writes: &[u8]) -> IoResult<()> {
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
        // Behind a record of several segments nothing is written: its first ones are free before its last one would be.
        let is_large = first < last;
        let room = self.room.filter(|(_, limit)| !is_large && end < *limit);
        self.room = room.map(|(_, limit)| (end, limit));
        Ok(())
    }

    /// Where so many bytes have room: in the rest of a segment, in one or more that are free, or behind the last.
    fn room_of(&mut self, length: u64) -> IoResult<u64> {
        if let Some((begin, end)) = self.room
            && begin.saturating_add(length) <= end
        {
            return Ok(begin);
        }
        let segment = u64::from(self.head.segment);
        let count = usize::try_from(length.div_ceil(segment)).map_err(Error::other)?;
        let is_free = |last: &u64| *last <= self.head.forgotten;
        let free = self.segments.windows(count).position(|part| part.iter().all(is_free));
        let first = free.unwrap_or(self.segments.len());
        let begin = self.place_of(first);
        let end = begin.saturating_add(segment.saturating_mul(wide(count)));
        if free.is_none() {
            // Written once, so that later writes find their blocks, and nothing but what they say is to be synced.
            fill(&self.file, begin, end)?;
            self.segments.extend(std::iter::repeat_n(0, count));
        }
        self.room = Some((begin, end));
        Ok(begin)
    }

    fn place_of(&self, segment: usize) -> u64 {
        u64::from(self.head.segment).saturating_mul(wide(segment)).saturating_add(HEADS)
    }

    fn segment_of(&self, place: u64) -> usize {
        let number = place.saturating_sub(HEADS).checked_div(self.head.segment.into());
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX)
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

/// Makes the file under another name first, so that there is none that is half made.
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
    let mut file = File::create(&new)?;
    file.write_all(&head_block(&head)?)?;
    fill(&file, wide(BLOCK), HEADS.saturating_add(segment.into()))?;
    drop(file);
    std::fs::rename(&new, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn open(path: &Path) -> IoResult<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Writes zeros, and waits until the file has its length.
fn fill(file: &File, begin: u64, end: u64) -> IoResult<()> {
    let mut place = begin;
    while place < end {
        file.write_all_at(&[0; BLOCK], place)?;
        place = place.saturating_add(wide(BLOCK));
    }
    file.sync_all()
}

/// Waits until what was written is durable; a test may order not to.
fn sync(file: &File) -> IoResult<()> {
    if is_synced() { file.sync_data() } else { Ok(()) }
}

fn read_all(file: &File) -> IoResult<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// What is in a file.
struct Found {
    /// Those that are not forgotten, with their numbers, in order.
    records: Vec<(u64, Record)>,
    /// The last record in each segment, 0 where there is none.
    segments: Vec<u64>,
    /// Where the last record lies.
    last: Option<Range<usize>>,
    /// Where in each segment its records end, but where they fill it.
    ends: Vec<usize>,
}

/// Looks at the bytes of a file.
fn scan(head: &Head, bytes: &[u8]) -> IoResult<Found> {
    let size = usize::try_from(head.segment).map_err(Error::other)?;
    let heads = usize::try_from(HEADS).map_err(Error::other)?;
    let count = bytes.len().saturating_sub(heads).checked_div(size).unwrap_or(0);
    let mut found =
        Found { records: Vec::new(), segments: vec![0; count], last: None, ends: Vec::new() };
    let mut last = head.forgotten;
    let mut place = 0;
    while place < count {
        let begin = heads.saturating_add(size.saturating_mul(place));
        let (mut at, mut end) = (begin, begin.saturating_add(size));
        let mut is_walking = true;
        while at < end {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some((record, writes, length)) = read_record(rest, head.salt) else {
                if std::mem::take(&mut is_walking) {
                    found.ends.push(at);
                }
                // Behind the end there may be what was there before, which is forgotten. Anything else is behind a hole.
                at = at.saturating_add(BLOCK);
                continue;
            };
            let next = at.saturating_add(length);
            if next > end {
                // Alone in the segments that it has.
                let segments = length.div_ceil(size);
                end = begin.saturating_add(size.saturating_mul(segments));
            }
            let covered = end.saturating_sub(begin).checked_div(size).unwrap_or(1);
            for segment in found.segments.iter_mut().skip(place).take(covered) {
                *segment = record.sequence.max(*segment);
            }
            if record.sequence > head.forgotten {
                let of = (record.epoch, record.number);
                found.records.push((record.sequence, Record { at: of, writes: writes.to_vec() }));
                if record.sequence > last {
                    (last, found.last) = (record.sequence, Some(at..next));
                }
            }
            at = next;
        }
        place = place.saturating_add(end.saturating_sub(begin).div_ceil(size).max(1));
    }
    found.records.sort_unstable_by_key(|(sequence, _)| *sequence);
    for ((sequence, _), expected) in found.records.iter().zip(head.forgotten.saturating_add(1)..) {
        if *sequence != expected {
            let text = format!(
                "record {expected} of the journal is missing or damaged, though later ones are there"
            );
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
    }
    Ok(found)
}

fn read_head(file: &File) -> IoResult<Head> {
    let mut blocks = [0; 2 * BLOCK];
    match file.read_exact_at(&mut blocks, 0) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    let bodies = || blocks.chunks(BLOCK).filter_map(|block| framed(HEAD_MAGIC, block));
    // One that this server cannot read counts as much as one that it can.
    let formats = bodies().filter_map(|(body, _)| body.first());
    if let Some(format) = formats.copied().find(|format| *format != FORMAT) {
        let text = format!("it has format {format}, and this server knows {FORMAT}");
        return Err(Error::new(ErrorKind::InvalidData, text));
    }
    let heads = bodies().filter_map(|(body, _)| postcard::from_bytes::<Head>(body).ok());
    let head = heads.filter(|head| head.segment > 0).max_by_key(|head| head.generation);
    head.ok_or_else(|| {
        Error::new(ErrorKind::InvalidData, "it does not begin as a journal of this server does")
    })
}

fn head_block(head: &Head) -> IoResult<Vec<u8>> {
    let block = begun_frame(HEAD_MAGIC, Vec::new());
    let mut block = postcard::to_extend(head, block).map_err(Error::other)?;
    end_frame(&mut block)?;
    Ok(block)
}

/// The record at the beginning of these bytes, with its writes, and how many bytes it takes.
fn read_record(bytes: &[u8], salt: [u8; 16]) -> Option<(RecordHead, &[u8], usize)> {
    let (body, length) = framed(RECORD_MAGIC, bytes)?;
    let (record, writes) = postcard::take_from_bytes::<RecordHead>(body).ok()?;
    (record.salt == salt).then_some((record, writes, length))
}

/// Begins a frame: a word that says what it is, the length of what follows, and the checksum of both.
fn begun_frame(magic: [u8; 8], mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.extend_from_slice(&magic);
    buffer.extend_from_slice(&[0; 8]);
    buffer
}

/// Writes the length and the checksum, and fills the last block up.
fn end_frame(buffer: &mut Vec<u8>) -> IoResult<()> {
    if let Some((frame, body)) = buffer.split_at_mut_checked(16)
        && let Some((length, sum)) =
            frame.get_mut(8..).and_then(|rest| rest.split_at_mut_checked(4))
    {
        let count = u32::try_from(body.len()).map_err(Error::other)?;
        length.copy_from_slice(&count.to_le_bytes());
        sum.copy_from_slice(&checksum(count, body).to_le_bytes());
    }
    buffer.resize(buffer.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

/// What a frame at the beginning of these bytes has in it, and how many bytes it takes.
fn framed(magic: [u8; 8], bytes: &[u8]) -> Option<(&[u8], usize)> {
    let rest = bytes.strip_prefix(&magic)?;
    let (count, rest) = rest.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let count = u32::from_le_bytes(*count);
    let length = usize::try_from(count).ok()?;
    let body = rest.get(..length)?;
    let is_whole = checksum(count, body) == u32::from_le_bytes(*sum);
    is_whole.then(|| (body, length.saturating_add(16).next_multiple_of(BLOCK)))
}

fn checksum(count: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&count.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn lease(epoch: i64) -> Lease {
        Lease { owner: Uuid::from_u128(u128::try_from(epoch).unwrap()), epoch }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.journal.log");
        (folder, path)
    }

    fn taken(path: &Path, epoch: i64) -> JournalLog {
        let log = JournalLog::open(path).unwrap();
        log.take(lease(epoch)).unwrap();
        log
    }

    fn numbers(log: &JournalLog) -> Vec<At> {
        log.read().unwrap().1.into_iter().map(|record| record.at).collect()
    }

    fn appended(path: &Path, count: i64) -> JournalLog {
        let log = taken(path, 1);
        for number in 1..=count {
            log.append(number, b"writes", lease(1)).unwrap();
        }
        log
    }

    fn change(path: &Path, place: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(bytes, place).unwrap();
    }

    /// Appends, forgets, is taken over and opened anew in any order, and always has what a list has; and its file does not
    /// grow beyond what is needed.
    #[test]
    fn it_has_what_was_appended_and_not_forgotten() {
        for seed in 0..20 {
            let (_folder, path) = folder();
            let mut random = StdRng::seed_from_u64(seed);
            let (mut epoch, mut number) = (1, 0);
            let mut log = taken(&path, epoch);
            let mut model: VecDeque<Record> = VecDeque::new();
            let mut most = 0;
            for _ in 0..400 {
                match random.random_range(0..10) {
                    0 => {
                        epoch += random.random_range(1..3);
                        number = 0;
                        if random.random_bool(0.5) {
                            log = JournalLog::open(&path).unwrap();
                        }
                        log.take(lease(epoch)).unwrap();
                    }
                    1 | 2 if !model.is_empty() => {
                        let count = random.random_range(1..=model.len());
                        let at = model[count - 1].at;
                        model.drain(..count);
                        log.forget(at, lease(epoch)).unwrap();
                    }
                    _ => {
                        number += 1;
                        let limit = if random.random_bool(0.1) { 60_000 } else { 6_000 };
                        let mut writes = vec![0; random.random_range(0..limit)];
                        random.fill(&mut writes[..]);
                        log.append(number, &writes, lease(epoch)).unwrap();
                        model.push_back(Record { at: (epoch, number), writes });
                    }
                }
                let (_, found) = JournalLog::open(&path).unwrap().read().unwrap();
                let places: Vec<At> = found.iter().map(|record| record.at).collect();
                let expected: Vec<At> = model.iter().map(|record| record.at).collect();
                assert_eq!(places, expected, "seed {seed}");
                assert!(model == found, "seed {seed}: not what was written");
                most = model.iter().map(|record| record.writes.len()).sum::<usize>().max(most);
            }
            let length = std::fs::metadata(&path).unwrap().len();
            assert!(length < 6 * u64::try_from(most).unwrap(), "{length} bytes for {most}");
        }
    }

    /// Whatever of the last record is not on the disk, it does not count, and all before it do.
    #[test]
    fn a_record_that_is_not_whole_does_not_count() {
        let (_folder, path) = folder();
        let log = appended(&path, 2);
        let writes: Vec<u8> = (0..9_000_u32).map(|number| number.to_le_bytes()[0] | 1).collect();
        log.append(3, &writes, lease(1)).unwrap();
        // It had no room in the first segment.
        let begin = HEADS + u64::from(SEGMENT);
        let whole = std::fs::read(&path).unwrap();
        for sector in (begin..begin + 9_000).step_by(512) {
            change(&path, sector, &[0; 512]);
            assert_eq!(numbers(&log), [(1, 1), (1, 2)], "{sector}");
            std::fs::write(&path, &whole).unwrap();
            assert_eq!(numbers(&log).len(), 3);
        }
        // The next one goes on from what is there.
        change(&path, begin, &[0; 512]);
        let next = taken(&path, 2);
        next.append(1, b"next", lease(2)).unwrap();
        assert_eq!(numbers(&next), [(1, 1), (1, 2), (2, 1)]);
    }

    #[test]
    fn a_record_that_is_missing_before_others_stops_everyone() {
        let (_folder, path) = folder();
        let log = appended(&path, 3);
        change(&path, HEADS + wide(BLOCK) + 20, &[0xff; 8]);
        // In its segment, and then in the next one.
        for number in 4..=6 {
            let error = log.read().unwrap_err();
            assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
            let error = error.to_string();
            assert!(error.contains("record 2 of the journal is missing or damaged"), "{error}");
            log.append(number, b"writes", lease(1)).unwrap();
        }
        let next = JournalLog::open(&path).unwrap();
        assert!(next.take(lease(2)).is_err());
    }

    /// The first segments of a large record are free before the last one is, where something comes behind it.
    #[test]
    fn behind_a_large_record_nothing_is_lost() {
        let (_folder, path) = folder();
        let log = taken(&path, 1);
        log.append(1, &vec![1; 60_000], lease(1)).unwrap();
        log.append(2, b"two", lease(1)).unwrap();
        log.forget((1, 1), lease(1)).unwrap();
        for number in 3..=9 {
            log.append(number, b"writes", lease(1)).unwrap();
            let expected: Vec<At> = (2..=number).map(|number| (1, number)).collect();
            assert_eq!(numbers(&log), expected);
        }
    }

    /// It is written again where it failed, and is there once.
    #[test]
    fn a_write_that_failed_does_not_count() {
        let (_folder, path) = folder();
        let log = appended(&path, 1);
        let broken = || {
            let mut state = log.state();
            state.as_mut().unwrap().file = Arc::new(File::open(&path).unwrap());
        };
        broken();
        let failed = log.append(2, b"two", lease(1));
        assert!(matches!(failed, Err(CommitError::Unknown(_))), "{failed:?}");
        assert!(!log.is_there((1, 2), lease(1)).unwrap());
        log.append(2, b"two", lease(1)).unwrap();
        assert!(log.is_there((1, 2), lease(1)).unwrap());
        // It reached the disk, and the sync failed.
        {
            let mut state = log.state();
            let state = state.as_mut().unwrap();
            state.failed = Some(HEADS + wide(BLOCK));
            state.next = 2;
            state.kept.pop_back();
            state.room = Some((HEADS + wide(BLOCK), HEADS + u64::from(SEGMENT)));
        }
        assert_eq!(numbers(&log), [(1, 1), (1, 2)]);
        assert!(!log.is_there((1, 2), lease(1)).unwrap());
        assert_eq!(numbers(&log), [(1, 1)]);
        // Nobody looked.
        broken();
        assert!(log.append(2, b"lost", lease(1)).is_err());
        log.append(3, b"three", lease(1)).unwrap();
        assert_eq!(numbers(&log), [(1, 1), (1, 3)]);
        log.close();
        assert!(log.append(4, b"four", lease(1)).is_err());
        assert!(log.read().is_err());
    }

    #[test]
    fn of_two_heads_the_last_whole_one_counts() {
        let (_folder, path) = folder();
        let log = appended(&path, 2);
        log.forget((1, 1), lease(1)).unwrap();
        // The head that forgets is in the first block, the one before in the second; nothing is written over yet.
        let whole = std::fs::read(&path).unwrap();
        change(&path, 20, &[0xff; 4]);
        assert_eq!(numbers(&log), [(1, 1), (1, 2)]);
        change(&path, wide(BLOCK) + 20, &[0xff; 4]);
        assert!(log.read().is_err());
        assert!(matches!(JournalLog::open(&path), Err(StoreError::Unsafe(_))));
        std::fs::write(&path, whole).unwrap();
        assert_eq!(numbers(&log), [(1, 2)]);
    }

    #[test]
    fn who_was_overtaken_appends_nothing() {
        let (_folder, path) = folder();
        let one = appended(&path, 1);
        let two = taken(&path, 2);
        assert!(matches!(one.append(2, b"late", lease(1)), Err(CommitError::Fenced)));
        assert!(matches!(one.forget((1, 1), lease(1)), Err(CommitError::Fenced)));
        assert!(matches!(one.seal(lease(1)), Err(CommitError::Fenced)));
        assert!(matches!(one.take(lease(2)), Err(CommitError::Fenced)));
        assert!(matches!(one.take(lease(1)), Err(CommitError::Fenced)));
        assert!(one.is_there((1, 1), lease(1)).unwrap());
        assert_eq!(two.read().unwrap().0, 2);
        two.append(1, b"one", lease(2)).unwrap();
        assert_eq!(numbers(&two), [(1, 1), (2, 1)]);
    }

    /// A customer who knows the format has no part in what counts as a record.
    #[test]
    fn a_record_of_another_file_does_not_count() {
        let (_folder, path) = folder();
        let (_other_folder, other) = folder();
        drop(appended(&path, 1));
        drop(appended(&other, 2));
        let foreign = std::fs::read(&other).unwrap();
        let place = usize::try_from(HEADS).unwrap() + BLOCK;
        change(&path, wide(place), &foreign[place..place + BLOCK]);
        let log = JournalLog::open(&path).unwrap();
        assert_eq!(numbers(&log), [(1, 1)]);
    }

    #[test]
    fn who_finds_it_locked_waits_and_then_appends() {
        let (_folder, path) = folder();
        let log = appended(&path, 1);
        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        std::thread::scope(|scope| {
            let appending = scope.spawn(|| log.append(2, b"two", lease(1)));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!appending.is_finished());
            other.unlock().unwrap();
            appending.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_left_alone() {
        let (_folder, path) = folder();
        std::fs::write(&path, "something else").unwrap();
        let error = JournalLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("does not begin as a journal"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"something else");
        std::fs::write(&path, "").unwrap();
        let log = taken(&path, 3);
        log.append(1, b"one", lease(3)).unwrap();
        let newer = Head {
            format: FORMAT + 1,
            generation: 9,
            ..log.state().as_ref().unwrap().head.clone()
        };
        change(&path, 0, &head_block(&newer).unwrap());
        let error = JournalLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("format 2, and this server knows 1"), "{error}");
    }
}
