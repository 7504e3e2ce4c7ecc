//! An immutable index of chunks in one byte slice.
//!
//! | part | what it has |
//! |---|---|
//! | header | magic with a version, language, dimensions, counts, the length of each part |
//! | documents | their names, numbered in this order |
//! | headings | lists of headings; the first is empty |
//! | owners, lengths | of each chunk its document, and its length in terms |
//! | rows | of each chunk its number, range, page, headings, hash |
//! | texts | an index, then the compressed texts |
//! | dictionary, postings | in which chunks a term is |
//! | vectors, scales | 8-bit numbers of each chunk, and what to multiply them with |
//! | checksum | CRC-32 of all before it |

mod builder;
mod dictionary;
mod merge;
mod postings;
mod texts;

pub use builder::{NewChunk, SegmentBuilder};
pub use merge::merge;

use std::collections::HashMap;

pub(crate) use dictionary::Entry;
pub(crate) use postings::Postings;

use crate::analyze::Language;
use crate::bytes::{Reader, index};
use dictionary::Dictionary;
use texts::TextBlocks;

/// The first bytes of a segment. The last of them is the version of the format.
const MAGIC: [u8; 8] = *b"PSINDEX\x01";
const PARTS: usize = 11;
/// Bytes of a chunk in the part of rows.
const ROW: usize = 4 + 8 + 8 + 4 + 4 + 16;
/// In place of a page: the document has none.
const NO_PAGE: u32 = u32::MAX;

/// What is wrong with a segment, or with what is asked of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not a segment, or not a whole one.
    #[error("the index segment is broken: {0}; make it again from the documents")]
    Broken(&'static str),
    /// The segments of a collection have different languages or dimensions.
    #[error("the index segments have different languages or dimensions; index the documents again")]
    Mixed,
    /// A vector has another number of dimensions than the index.
    #[error("the vector has {found} dimensions, the index has {expected}; use the same model")]
    Dimensions {
        /// Those of the index.
        expected: usize,
        /// Those of the vector.
        found: usize,
    },
    /// A chunk's range is not as long as its text.
    #[error("the range of a chunk has {range} bytes, its text {text}")]
    Range {
        /// Bytes of the range.
        range: usize,
        /// Bytes of the text.
        text: usize,
    },
    /// A segment has room for four billion chunks, a chunk for four billion terms.
    #[error("the index segment is full; begin another one")]
    Full,
}

/// Documents of one segment, by their numbers in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentSet {
    words: Vec<u64>,
}

impl DocumentSet {
    /// Adds a document.
    pub fn insert(&mut self, document: u32) {
        let word = index(document / 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << (document % 64);
        }
    }

    /// Whether it has a document.
    pub fn contains(&self, document: u32) -> bool {
        let word = self.words.get(index(document / 64));
        word.is_some_and(|word| word >> (document % 64) & 1 == 1)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }
}

impl FromIterator<u32> for DocumentSet {
    fn from_iter<I: IntoIterator<Item = u32>>(documents: I) -> Self {
        let mut set = Self::default();
        documents.into_iter().for_each(|document| set.insert(document));
        set
    }
}

/// What a segment knows of a chunk, besides its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRow {
    /// Its number in its document.
    pub number: u32,
    /// Its first byte in the document's text.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// The page on which it begins.
    pub page: Option<u32>,
    /// The first 16 bytes of the SHA-256 of what was indexed: equal texts have equal hashes.
    pub hash: [u8; 16],
    headings: u32,
}

/// An opened segment. All of it was checked, but for the compressed texts, which are when a hit
/// quotes them.
#[derive(Debug)]
pub struct Segment {
    bytes: Vec<u8>,
    parts: [(usize, usize); PARTS],
    language: Language,
    dimensions: usize,
    documents: Vec<String>,
    ordinals: HashMap<String, u32>,
    headings: Vec<Vec<String>>,
    owners: Vec<u32>,
    lengths: Vec<u32>,
    scales: Vec<f32>,
    texts: TextBlocks,
    dictionary: Dictionary,
}

/// The parts, in their order.
#[derive(Debug, Clone, Copy)]
enum Part {
    Documents,
    Headings,
    Owners,
    Lengths,
    Rows,
    TextIndex,
    Texts,
    Dictionary,
    Postings,
    Vectors,
    Scales,
}

impl Segment {
    /// Checks the bytes of a segment.
    pub fn open(bytes: Vec<u8>) -> Result<Self, Error> {
        let (body, checksum) =
            bytes.split_last_chunk::<4>().ok_or(Error::Broken("it is too short"))?;
        let mut reader = Reader::new(body);
        if reader.take(MAGIC.len()) != Some(&MAGIC) {
            return Err(Error::Broken("it does not begin as one of this version"));
        }
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return Err(Error::Broken("its checksum is wrong"));
        }
        let header = Header::read(&mut reader, body.len())
            .ok_or(Error::Broken("its header does not fit"))?;
        Self::read(bytes, &header).ok_or(Error::Broken("its parts do not fit"))
    }

    fn read(bytes: Vec<u8>, header: &Header) -> Option<Self> {
        let part = |part: Part| slice(&bytes, &header.parts, part);
        let chunks = index(header.chunks);
        let numbers = |name: Part| -> Option<Vec<u32>> {
            let (numbers, rest) = part(name).as_chunks::<4>();
            (numbers.len() == chunks && rest.is_empty())
                .then(|| numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
        };
        let documents = texts(part(Part::Documents))?;
        let headings = headings(part(Part::Headings))?;
        let (owners, lengths) = (numbers(Part::Owners)?, numbers(Part::Lengths)?);
        let ordinals: HashMap<String, u32> = documents.iter().cloned().zip(0..).collect();
        let sound = ordinals.len() == documents.len()
            && owners.iter().all(|&owner| index(owner) < documents.len());
        if !sound || part(Part::Rows).len() != chunks.checked_mul(ROW)? {
            return None;
        }
        let sizes: Option<Vec<usize>> = part(Part::Rows)
            .chunks_exact(ROW)
            .map(|bytes| {
                let row = row(bytes)?;
                headings.get(index(row.headings))?;
                row.end.checked_sub(row.start)
            })
            .collect();
        let texts = TextBlocks::open(part(Part::TextIndex), part(Part::Texts).len(), &sizes?)?;
        let dictionary =
            Dictionary::open(part(Part::Dictionary), part(Part::Postings), header.chunks)?;
        let scales: Vec<f32> = if header.dimensions == 0 {
            Vec::new()
        } else {
            numbers(Part::Scales)?.into_iter().map(f32::from_bits).collect()
        };
        let sound = scales.iter().all(|scale| scale.is_finite() && *scale >= 0.0)
            && part(Part::Vectors).len() == scales.len().checked_mul(header.dimensions)?
            && part(Part::Scales).len() == scales.len() * 4;
        let (parts, language, dimensions) = (header.parts, header.language, header.dimensions);
        sound.then_some(Self {
            bytes,
            parts,
            language,
            dimensions,
            documents,
            ordinals,
            headings,
            owners,
            lengths,
            scales,
            texts,
            dictionary,
        })
    }

    /// The language that its terms are in.
    pub const fn language(&self) -> Language {
        self.language
    }

    /// Dimensions of its vectors. 0 if it has none.
    pub const fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The names of its documents; their places are their numbers.
    pub fn documents(&self) -> &[String] {
        &self.documents
    }

    /// The number of a document in this segment.
    pub fn document(&self, name: &str) -> Option<u32> {
        self.ordinals.get(name).copied()
    }

    /// How many chunks it has.
    pub const fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether it has no chunks.
    pub const fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Bytes of the segment.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Of each chunk the number of its document.
    pub fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// Of each chunk its length in terms.
    pub(crate) fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// What it knows of a chunk.
    pub fn row(&self, chunk: u32) -> Option<ChunkRow> {
        let start = index(chunk).checked_mul(ROW)?;
        row(self.part(Part::Rows).get(start..start + ROW)?)
    }

    /// The headings that a chunk stands under.
    pub fn headings(&self, row: &ChunkRow) -> &[String] {
        self.headings.get(index(row.headings)).map_or(&[], Vec::as_slice)
    }

    /// The text that a chunk cites.
    pub fn text(&self, chunk: u32) -> Result<String, Error> {
        self.quote(chunk).ok_or(Error::Broken("the text of a chunk cannot be read"))
    }

    fn quote(&self, chunk: u32) -> Option<String> {
        let (first, block) = self.texts.block(self.part(Part::Texts), chunk)?;
        let mut start = 0;
        for before in first..chunk {
            let row = self.row(before)?;
            start += row.end - row.start;
        }
        let row = self.row(chunk)?;
        block.get(start..start + (row.end - row.start)).map(str::to_owned)
    }

    /// The texts of all chunks in order.
    fn quotes(&self) -> Quotes<'_> {
        Quotes { segment: self, block: String::new(), at: 0, chunk: 0 }
    }

    /// The postings of a term.
    pub(crate) fn find(&self, term: &str) -> Option<Entry> {
        self.dictionary.get(self.part(Part::Dictionary), term)
    }

    pub(crate) fn postings(&self, entry: &Entry) -> Postings<'_> {
        let bytes = self.part(Part::Postings).get(entry.postings.clone());
        Postings::new(bytes.unwrap_or_default())
    }

    /// Gives the terms that begin with `prefix` to `found`, in order.
    pub(crate) fn scan(&self, prefix: &str, mut found: impl FnMut(&str, &Entry)) {
        let mut terms = self.dictionary.from(self.part(Part::Dictionary), prefix.as_bytes());
        while let Some(entry) = terms.read() {
            let term = terms.term();
            if term.starts_with(prefix) {
                found(term, &entry);
            } else if term > prefix {
                return;
            }
        }
    }

    /// The 8-bit vectors of the chunks one after the other, and their scales.
    pub(crate) fn vectors(&self) -> (&[u8], &[f32]) {
        (self.part(Part::Vectors), &self.scales)
    }

    fn part(&self, part: Part) -> &[u8] {
        slice(&self.bytes, &self.parts, part)
    }
}

/// Reads the texts of chunks one after the other, each block once.
struct Quotes<'a> {
    segment: &'a Segment,
    block: String,
    at: usize,
    chunk: u32,
}

impl Quotes<'_> {
    /// The text of the next chunk. `None` if it is broken.
    fn next(&mut self) -> Option<&str> {
        let row = self.segment.row(self.chunk)?;
        let length = row.end - row.start;
        if self.at == self.block.len() {
            let blocks = self.segment.part(Part::Texts);
            let (first, block) = self.segment.texts.block(blocks, self.chunk)?;
            // Texts without a byte leave it open whether their block is at its end.
            if first == self.chunk {
                (self.block, self.at) = (block, 0);
            }
        }
        let start = self.at;
        self.at += length;
        self.chunk += 1;
        self.block.get(start..self.at)
    }
}

struct Header {
    language: Language,
    dimensions: usize,
    chunks: u32,
    parts: [(usize, usize); PARTS],
}

impl Header {
    fn read(reader: &mut Reader<'_>, end: usize) -> Option<Self> {
        let language = Language::from_number(reader.u8()?)?;
        let (dimensions, chunks) = (index(reader.u32()?), reader.u32()?);
        let mut lengths = [0; PARTS];
        for length in &mut lengths {
            *length = reader.size()?;
        }
        let mut at = end - reader.left();
        let mut parts = [(0, 0); PARTS];
        for (part, length) in parts.iter_mut().zip(lengths) {
            let next = at.checked_add(length)?;
            *part = (at, next);
            at = next;
        }
        (at == end).then_some(Self { language, dimensions, chunks, parts })
    }
}

#[expect(clippy::as_conversions, reason = "the place of a variant")]
fn slice<'a>(bytes: &'a [u8], parts: &[(usize, usize); PARTS], part: Part) -> &'a [u8] {
    let (start, end) = parts.get(part as usize).copied().unwrap_or_default();
    bytes.get(start..end).unwrap_or_default()
}

fn texts(bytes: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while !reader.is_empty() {
        found.push(reader.text()?.to_owned());
    }
    Some(found)
}

fn headings(bytes: &[u8]) -> Option<Vec<Vec<String>>> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while !reader.is_empty() {
        let count = reader.varint_size()?;
        let mut path = Vec::new();
        for _ in 0..count {
            path.push(reader.text()?.to_owned());
        }
        found.push(path);
    }
    Some(found)
}

fn row(bytes: &[u8]) -> Option<ChunkRow> {
    let mut reader = Reader::new(bytes);
    Some(ChunkRow {
        number: reader.u32()?,
        start: reader.size()?,
        end: reader.size()?,
        page: Some(reader.u32()?).filter(|&page| page != NO_PAGE),
        headings: reader.u32()?,
        hash: reader.digest()?,
    })
}
