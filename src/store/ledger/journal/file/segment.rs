//! Segments: decides where in the file the next record goes.

use std::fs::File;
use std::io::{Error, Result as IoResult};
use std::os::unix::fs::FileExt as _;

use super::State;
use super::record::{BLOCK, HEADS, wide};

/// Bytes of a segment in a new file.
pub(super) const SEGMENT: u32 = if cfg!(test) { 4 * 4_096 } else { 1_048_576 };
pub(super) const SMALL_SEGMENT: u32 = 8 * 4_096;

impl State {
    /// Finds a place for `length` bytes: in the current segment, in free segments, or after the
    /// last one.
    pub(super) fn room_of(&mut self, length: u64) -> IoResult<u64> {
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
            // Written once, so that later writes find their blocks allocated and a sync writes data
            // only.
            fill(&self.file, begin, end)?;
            self.segments.extend(std::iter::repeat_n(0, count));
        }
        self.room = Some((begin, end));
        Ok(begin)
    }

    fn place_of(&self, segment: usize) -> u64 {
        u64::from(self.head.segment).saturating_mul(wide(segment)).saturating_add(HEADS)
    }

    pub(super) fn segment_of(&self, place: u64) -> usize {
        let number = place.saturating_sub(HEADS).checked_div(self.head.segment.into());
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX)
    }
}

/// Writes zeros, and waits until the data and the new length are durable.
pub(super) fn fill(file: &File, begin: u64, end: u64) -> IoResult<()> {
    let mut place = begin;
    while place < end {
        file.write_all_at(&[0; BLOCK], place)?;
        place = place.saturating_add(wide(BLOCK));
    }
    file.sync_all()
}
