//! The terms of a segment in order, each with where its postings are.
//!
//! TermReader are in blocks of 16. In a block a term has only what differs from the one before it.

use std::ops::Range;

use super::postings;
use crate::bytes::{Reader, index, put_varint, wide};

const BLOCK: usize = 16;

/// Where a term's postings are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// In how many chunks of the segment the term is.
    pub(crate) chunks: u32,
    pub(crate) postings: Range<usize>,
}

/// Writes terms, which come in ascending order. Gives the dictionary and the postings.
pub(super) fn write<'a>(
    terms: impl Iterator<Item = (&'a str, &'a postings::PostingsWriter)>,
) -> (Vec<u8>, Vec<u8>) {
    let (mut dictionary, mut all) = (Vec::new(), Vec::new());
    let mut before: &[u8] = &[];
    for (count, (term, postings)) in terms.enumerate() {
        let term = term.as_bytes();
        let shared = if count % BLOCK == 0 {
            0
        } else {
            term.iter().zip(before).take_while(|(one, other)| one == other).count()
        };
        let rest = term.get(shared..).unwrap_or_default();
        put_varint(&mut dictionary, wide(shared));
        put_varint(&mut dictionary, wide(rest.len()));
        dictionary.extend_from_slice(rest);
        put_varint(&mut dictionary, u64::from(postings.chunks));
        put_varint(&mut dictionary, wide(postings.bytes.len()));
        all.extend_from_slice(&postings.bytes);
        before = term;
    }
    (dictionary, all)
}

/// Where blocks begin: in the dictionary, in the postings.
#[derive(Debug)]
pub(super) struct Dictionary {
    blocks: Vec<(usize, usize)>,
}

impl Dictionary {
    /// Checks all: `None` if terms are not in order, not text, or postings not as they should be.
    pub(super) fn open(bytes: &[u8], postings: &[u8], chunks: u32) -> Option<Self> {
        let mut blocks = Vec::new();
        let mut terms = TermReader { reader: Reader::new(bytes), term: Vec::new(), at: 0 };
        let mut before: Option<Vec<u8>> = None;
        let mut count = 0;
        while !terms.reader.is_empty() {
            if count % BLOCK == 0 {
                blocks.push((bytes.len() - terms.reader.left(), terms.at));
                terms.term.clear();
            }
            let entry = terms.read()?;
            let ascends = before.as_ref().is_none_or(|before| *before < terms.term);
            let list = postings::Postings::new(postings.get(entry.postings)?);
            if !ascends
                || std::str::from_utf8(&terms.term).is_err()
                || !list.are_sound(entry.chunks, chunks)
            {
                return None;
            }
            let last = before.get_or_insert_default();
            last.clone_from(&terms.term);
            count += 1;
        }
        (terms.at == postings.len()).then_some(Self { blocks })
    }

    /// The terms from the block on in which `term` would be.
    pub(super) fn from<'a>(&self, bytes: &'a [u8], term: &[u8]) -> TermReader<'a> {
        let first =
            |&(at, _): &(usize, usize)| first_term(bytes, at).is_some_and(|one| one <= term);
        let block = self.blocks.partition_point(first).saturating_sub(1);
        let (at, postings) = self.blocks.get(block).copied().unwrap_or((bytes.len(), 0));
        let rest = bytes.get(at..).unwrap_or_default();
        TermReader { reader: Reader::new(rest), term: Vec::new(), at: postings }
    }

    pub(super) fn get(&self, bytes: &[u8], term: &str) -> Option<Entry> {
        let mut terms = self.from(bytes, term.as_bytes());
        while let Some(entry) = terms.read() {
            match terms.term.as_slice().cmp(term.as_bytes()) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(entry),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }
}

fn first_term(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes.get(at..)?);
    reader.varint()?;
    let length = reader.varint_size()?;
    reader.take(length)
}

/// Reads terms one after the other.
pub(super) struct TermReader<'a> {
    reader: Reader<'a>,
    term: Vec<u8>,
    at: usize,
}

impl TermReader<'_> {
    /// The next entry. [`TermReader::term`] is its term.
    pub(super) fn read(&mut self) -> Option<Entry> {
        let shared = self.reader.varint_size()?;
        let length = self.reader.varint_size()?;
        let rest = self.reader.take(length)?;
        if shared > self.term.len() {
            return None;
        }
        self.term.truncate(shared);
        self.term.extend_from_slice(rest);
        let chunks = self.reader.varint_u32()?;
        let end = self.at.checked_add(index(self.reader.varint_u32()?))?;
        let postings = self.at..end;
        self.at = end;
        Some(Entry { chunks, postings })
    }

    pub(super) fn term(&self) -> &str {
        std::str::from_utf8(&self.term).unwrap_or_default()
    }
}
