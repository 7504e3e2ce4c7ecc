//! Makes a segment.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::{ChunkRow, Error, MAGIC, NO_PAGE, PARTS, dictionary, postings, texts};
use crate::analyze::{Analyzer, Language};
use crate::bytes::{index, put_text, put_varint, wide};
use crate::embed::{Quantised, Vector};

/// A chunk to be indexed.
#[derive(Debug, Clone, Copy)]
pub struct NewChunk<'a> {
    /// Its number in its document. Hits of equal score come in the order of these.
    pub number: u32,
    /// Its first byte in the document's text.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// The page on which it begins.
    pub page: Option<u32>,
    /// The headings that it stands under.
    pub headings: &'a [String],
    /// What it cites: as many bytes as the range.
    pub text: &'a str,
    /// What the text arm searches: the text with what stands around it.
    pub indexed: &'a str,
    /// The vector of its text. Chunks without one are found by words only.
    pub vector: Option<&'a Vector>,
}

/// Collects chunks for a segment. A document's chunks all go into one segment.
pub struct SegmentBuilder {
    language: Language,
    dimensions: usize,
    analyzer: Analyzer,
    documents: Vec<u8>,
    ordinals: HashMap<String, u32>,
    headings: Vec<u8>,
    paths: HashMap<Vec<String>, u32>,
    owners: Vec<u8>,
    lengths: Vec<u8>,
    rows: Vec<u8>,
    texts: texts::TextWriter,
    terms: HashMap<String, u32>,
    postings: Vec<postings::PostingsWriter>,
    vectors: Vec<u8>,
    scales: Vec<u8>,
    chunks: u32,
    /// How often the terms of the chunk at hand are in it.
    counts: HashMap<u32, u32>,
}

impl SegmentBuilder {
    /// A segment for texts in a language, and vectors of so many dimensions (0: without vectors).
    pub fn new(language: Language, dimensions: usize) -> Self {
        let mut builder = Self {
            language,
            dimensions,
            analyzer: Analyzer::new(language),
            documents: Vec::new(),
            ordinals: HashMap::new(),
            headings: Vec::new(),
            paths: HashMap::new(),
            owners: Vec::new(),
            lengths: Vec::new(),
            rows: Vec::new(),
            texts: texts::TextWriter::default(),
            terms: HashMap::new(),
            postings: Vec::new(),
            vectors: Vec::new(),
            scales: Vec::new(),
            chunks: 0,
            counts: HashMap::new(),
        };
        builder.path(&[]);
        builder
    }

    /// How many chunks it has.
    pub const fn len(&self) -> usize {
        index(self.chunks)
    }

    /// Whether it has no chunks.
    pub const fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// Adds a chunk of a document, which is known by a name that the caller chose.
    pub fn add(&mut self, document: &str, chunk: &NewChunk<'_>) -> Result<(), Error> {
        let range = chunk.end.saturating_sub(chunk.start);
        if range != chunk.text.len() || chunk.end < chunk.start {
            return Err(Error::Range { range, text: chunk.text.len() });
        }
        if let Some(vector) = chunk.vector.filter(|one| one.values().len() != self.dimensions) {
            let found = vector.values().len();
            return Err(Error::Dimensions { expected: self.dimensions, found });
        }
        let mut hash = [0; 16];
        hash.iter_mut().zip(Sha256::digest(chunk.indexed)).for_each(|(to, from)| *to = from);
        let row = ChunkRow {
            number: chunk.number,
            start: chunk.start,
            end: chunk.end,
            page: chunk.page,
            headings: 0,
            hash,
        };
        let length = self.count(chunk.indexed)?;
        let quantised = chunk.vector.map(Vector::quantise);
        self.push(document, &row, chunk.headings, chunk.text, length, quantised.as_ref())?;
        let last = self.chunks - 1;
        for (&term, &times) in &self.counts {
            if let Some(postings) = self.postings.get_mut(index(term)) {
                postings.add(last, times);
            }
        }
        Ok(())
    }

    /// Counts the terms of a text into `counts`. Gives how many they are.
    fn count(&mut self, text: &str) -> Result<u32, Error> {
        let Self { analyzer, terms, postings, counts, .. } = self;
        counts.clear();
        let mut length = 0_u32;
        analyzer.terms(text, |term| {
            let number = number_of(terms, postings, term);
            *counts.entry(number).or_default() += 1;
            length = length.saturating_add(1);
        });
        let full = length == u32::MAX || u32::try_from(postings.len()).is_err();
        if full { Err(Error::Full) } else { Ok(length) }
    }

    /// Adds all of a chunk but its postings.
    pub(super) fn push(
        &mut self,
        document: &str,
        row: &ChunkRow,
        headings: &[String],
        text: &str,
        length: u32,
        vector: Option<&Quantised>,
    ) -> Result<(), Error> {
        let chunks = self.chunks.checked_add(1).ok_or(Error::Full)?;
        let owner = if let Some(&owner) = self.ordinals.get(document) {
            owner
        } else {
            let owner = u32::try_from(self.ordinals.len()).map_err(|_| Error::Full)?;
            put_text(&mut self.documents, document);
            self.ordinals.insert(document.to_owned(), owner);
            owner
        };
        let path = self.path(headings);
        self.owners.extend_from_slice(&owner.to_le_bytes());
        self.lengths.extend_from_slice(&length.to_le_bytes());
        self.rows.extend_from_slice(&row.number.to_le_bytes());
        self.rows.extend_from_slice(&wide(row.start).to_le_bytes());
        self.rows.extend_from_slice(&wide(row.end).to_le_bytes());
        self.rows.extend_from_slice(&row.page.unwrap_or(NO_PAGE).to_le_bytes());
        self.rows.extend_from_slice(&path.to_le_bytes());
        self.rows.extend_from_slice(&row.hash);
        self.texts.add(text).map_err(|_| Error::Full)?;
        if self.dimensions > 0 {
            let values = vector.map_or(&[][..], |vector| &vector.values);
            let padding = self.dimensions.saturating_sub(values.len());
            self.vectors.extend(values.iter().map(|value| value.cast_unsigned()));
            self.vectors.extend(std::iter::repeat_n(0, padding));
            let scale = vector.map_or(0.0, |vector| vector.scale);
            self.scales.extend_from_slice(&scale.to_le_bytes());
        }
        self.chunks = chunks;
        Ok(())
    }

    /// The postings of a term. Chunks are added to them in ascending order.
    pub(super) fn postings(&mut self, term: &str) -> Option<&mut postings::PostingsWriter> {
        let number = number_of(&mut self.terms, &mut self.postings, term);
        self.postings.get_mut(index(number))
    }

    fn path(&mut self, headings: &[String]) -> u32 {
        if let Some(&path) = self.paths.get(headings) {
            return path;
        }
        // There are not more of them than chunks.
        let path = u32::try_from(self.paths.len()).unwrap_or_default();
        put_varint(&mut self.headings, wide(headings.len()));
        for heading in headings {
            put_text(&mut self.headings, heading);
        }
        self.paths.insert(headings.to_vec(), path);
        path
    }

    /// The bytes of the segment: the same for the same chunks in the same order.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        let mut terms: Vec<_> = self
            .terms
            .iter()
            .filter_map(|(term, &number)| Some((term.as_str(), self.postings.get(index(number))?)))
            .filter(|(_, postings)| postings.chunks > 0)
            .collect();
        terms.sort_unstable_by_key(|(term, _)| *term);
        let full = terms.iter().any(|(_, one)| u32::try_from(one.bytes.len()).is_err());
        if full {
            return Err(Error::Full);
        }
        let (dictionary, postings) = dictionary::write(terms.into_iter());
        let (text_index, texts) = self.texts.finish().map_err(|_| Error::Full)?;
        let parts: [&[u8]; PARTS] = [
            &self.documents,
            &self.headings,
            &self.owners,
            &self.lengths,
            &self.rows,
            &text_index,
            &texts,
            &dictionary,
            &postings,
            &self.vectors,
            &self.scales,
        ];
        let mut bytes = MAGIC.to_vec();
        bytes.push(self.language.number());
        let dimensions = u32::try_from(self.dimensions).map_err(|_| Error::Full)?;
        bytes.extend_from_slice(&dimensions.to_le_bytes());
        bytes.extend_from_slice(&self.chunks.to_le_bytes());
        for part in parts {
            bytes.extend_from_slice(&wide(part.len()).to_le_bytes());
        }
        for part in parts {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        Ok(bytes)
    }
}

fn number_of(
    terms: &mut HashMap<String, u32>,
    postings: &mut Vec<postings::PostingsWriter>,
    term: &str,
) -> u32 {
    if let Some(&number) = terms.get(term) {
        return number;
    }
    let number = u32::try_from(terms.len()).unwrap_or(u32::MAX);
    terms.insert(term.to_owned(), number);
    postings.push(postings::PostingsWriter::default());
    number
}
