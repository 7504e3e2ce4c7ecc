//! Recovery: finds the records in a file.

use std::fs::File;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::record::{BLOCK, HEADS, Head, Record, read_record};

/// Reads the whole file.
pub(super) fn read_all(file: &File) -> IoResult<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The result of a scan.
pub(super) struct Found {
    /// The records that are not forgotten, with their sequence numbers, in order.
    pub(super) records: Vec<(u64, Record)>,
    /// The sequence number of the last record in each segment. 0 if there is none.
    pub(super) segments: Vec<u64>,
    /// Where the last record is, in bytes.
    pub(super) last: Option<Range<usize>>,
    /// For each segment that is not full: where its records end.
    pub(super) ends: Vec<usize>,
}

/// Finds the records in the bytes of a file. Fails if a record is missing before another one.
pub(super) fn scan(head: &Head, bytes: &[u8]) -> IoResult<Found> {
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
                // After the end there may be old records, which are forgotten. Any other record
                // here comes after a hole.
                at = at.saturating_add(BLOCK);
                continue;
            };
            let next = at.saturating_add(length);
            if next > end {
                // A record of several segments has them to itself.
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
