//! Frames, heads and records: the meaning of the bytes in the file.

use std::fs::File;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use super::super::position::Position;
use domain::Lease;

/// The unit of writes. It is a page of memory on most systems, and a whole number of sectors on
/// every disk.
pub(super) const BLOCK: usize = 4_096;
/// Where the first segment starts, in bytes.
pub(super) const HEADS: u64 = 2 * 4_096;
const HEAD_MAGIC: [u8; 8] = *b"polyhead";
pub(super) const RECORD_MAGIC: [u8; 8] = *b"polybtch";
pub(super) const FORMAT: u8 = 1;

/// The owner of the file, and up to which record the file may be overwritten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u8,
    /// Random bytes of this file, which are in each of its records. So no customer can send bytes
    /// that count as a record.
    pub(super) salt: [u8; 16],
    pub(super) segment: u32,
    /// The head with the higher generation counts.
    pub(super) generation: u64,
    pub(super) owner: Option<[u8; 16]>,
    pub(super) epoch: i64,
    /// Records up to this sequence number are checkpointed and may be overwritten.
    pub(super) forgotten: u64,
}

impl Head {
    /// Says whether the file is owned under this lease.
    pub(super) fn is_held(&self, lease: Lease) -> bool {
        self.owner == Some(lease.owner.into_bytes()) && self.epoch == lease.epoch
    }
}

/// The part of a record before the writes of the batch.
#[derive(Serialize, Deserialize)]
pub(super) struct RecordHead {
    pub(super) salt: [u8; 16],
    pub(super) sequence: u64,
    pub(super) epoch: i64,
    pub(super) number: i64,
}

/// A batch in the journal, not decoded.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Record {
    pub(in super::super) at: Position,
    pub(in super::super) writes: Vec<u8>,
}

pub(super) fn read_head(file: &File) -> IoResult<Head> {
    let mut blocks = [0; 2 * BLOCK];
    match file.read_exact_at(&mut blocks, 0) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    let bodies = || blocks.chunks(BLOCK).filter_map(|block| framed(HEAD_MAGIC, block));
    // A head of another format counts too: it stops this server.
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

pub(super) fn head_block(head: &Head) -> IoResult<Vec<u8>> {
    let block = begun_frame(HEAD_MAGIC, Vec::new());
    let mut block = postcard::to_extend(head, block).map_err(Error::other)?;
    end_frame(&mut block)?;
    Ok(block)
}

/// Reads the record at the start of `bytes`: its head, its writes, and its length in bytes.
pub(super) fn read_record(bytes: &[u8], salt: [u8; 16]) -> Option<(RecordHead, &[u8], usize)> {
    let (body, length) = framed(RECORD_MAGIC, bytes)?;
    let (record, writes) = postcard::take_from_bytes::<RecordHead>(body).ok()?;
    (record.salt == salt).then_some((record, writes, length))
}

/// Begins a frame: the magic, and space for length and checksum.
pub(super) fn begun_frame(magic: [u8; 8], mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.extend_from_slice(&magic);
    buffer.extend_from_slice(&[0; 8]);
    buffer
}

/// Writes the length and the checksum, and fills the last block with zeros.
pub(super) fn end_frame(buffer: &mut Vec<u8>) -> IoResult<()> {
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

/// Returns the body of the frame at the start of `bytes`, and the frame's length in bytes.
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

pub(super) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
