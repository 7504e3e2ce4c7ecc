//! In which chunks a term is, and how often: gaps of chunk numbers and counts, as varints.

use crate::bytes::{Reader, put_varint};

/// Writes the postings of one term. Chunks come in ascending order.
#[derive(Default)]
pub(super) struct PostingsWriter {
    pub(super) bytes: Vec<u8>,
    /// In how many chunks the term is.
    pub(super) chunks: u32,
    next: u32,
}

impl PostingsWriter {
    pub(super) fn add(&mut self, chunk: u32, times: u32) {
        let gap = u64::from(chunk.saturating_sub(self.next));
        // Most terms are once in a chunk: the lowest bit says so.
        put_varint(&mut self.bytes, gap << 1 | u64::from(times == 1));
        if times != 1 {
            put_varint(&mut self.bytes, u64::from(times));
        }
        self.next = chunk.saturating_add(1);
        self.chunks += 1;
    }
}

/// Reads what [`PostingsWriter`] wrote: chunk, times.
pub(crate) struct Postings<'a> {
    reader: Reader<'a>,
    next: u32,
}

impl<'a> Postings<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes), next: 0 }
    }

    /// Whether these are the postings of `chunks` of the first `end` chunks, and nothing else.
    pub(super) fn are_sound(mut self, chunks: u32, end: u32) -> bool {
        let mut found = 0;
        for (chunk, times) in self.by_ref() {
            if chunk >= end || times == 0 {
                return false;
            }
            found += 1;
        }
        self.reader.is_empty() && found == chunks && chunks > 0
    }
}

impl Iterator for Postings<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        if self.reader.is_empty() {
            return None;
        }
        let code = self.reader.varint()?;
        let times = if code & 1 == 1 { 1 } else { self.reader.varint_u32()? };
        let chunk = self.next.checked_add(u32::try_from(code >> 1).ok()?)?;
        self.next = chunk.checked_add(1)?;
        Some((chunk, times))
    }
}
