//! Cuts a document into chunks. Each cites an exact range of the document's bytes.

mod atoms;
mod outline;
mod pack;

pub use atoms::count_tokens;

use crate::document::{Block, Document, Kind};
use outline::{Above, blocks, descend};
use pack::{Limits, Run, pack};

/// How a document is cut. Sizes are in tokens, as [`count_tokens`] counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Chunking {
    /// By headings first; then into chunks of at most 400 tokens, of which 60 overlap. A table
    /// overlaps nothing, and repeats its header row on each of its chunks.
    #[default]
    Auto,
    /// By size alone, as OpenAI's `static`.
    Static(Size),
    /// At each occurrence of a text, which belongs to the chunk before it. What is longer than
    /// 4096 tokens is cut by size.
    Delimiter(String),
    /// The document is one chunk.
    None,
}

/// The size of chunks, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    max: usize,
    overlap: usize,
}

impl Size {
    /// At most `max` tokens, of which `overlap` are also in the chunk before. `None` if `max` is
    /// not 100 to 4096, or `overlap` is more than half of it.
    pub const fn new(max: usize, overlap: usize) -> Option<Self> {
        if max >= 100 && max <= SIZE_MAX && overlap <= max / 2 {
            Some(Self { max, overlap })
        } else {
            None
        }
    }

    /// Tokens of a chunk at most.
    pub const fn max(self) -> usize {
        self.max
    }

    /// Tokens that a chunk shares with the one before, at most.
    pub const fn overlap(self) -> usize {
        self.overlap
    }
}

impl Default for Size {
    /// OpenAI's: 800 tokens, 400 overlap.
    fn default() -> Self {
        Self { max: 800, overlap: 400 }
    }
}

const SIZE_MAX: usize = 4096;
const AUTO: Size = Size { max: 400, overlap: 60 };

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its first byte in the document's text.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// The page on which it begins, if the document has pages.
    pub page: Option<u32>,
    /// The headings that it stands under, the highest first.
    pub headings: Vec<String>,
    /// The range of its table's header row, if it begins below that row.
    pub header: Option<(usize, usize)>,
    /// How many of `headings`, the last of them, are in the range of the chunk itself.
    headings_inside: usize,
}

impl Chunk {
    /// What it cites.
    pub fn text<'a>(&self, document: &'a Document) -> &'a str {
        document.text.get(self.start..self.end).unwrap_or_default()
    }

    /// The piece by itself: the header row of its table, if that is not in it, and its text. It
    /// is what is embedded.
    pub fn piece(&self, document: &Document) -> String {
        let header = self.header.and_then(|(start, end)| document.text.get(start..end));
        let mut piece = header.unwrap_or_default().to_owned();
        if header.is_some() {
            piece.push('\n');
        }
        piece.push_str(self.text(document));
        piece
    }

    /// What the text index has: the headings above it, then the piece.
    pub fn indexed(&self, document: &Document) -> String {
        let above = self.headings.len().saturating_sub(self.headings_inside);
        let mut indexed = String::new();
        for heading in self.headings.iter().take(above) {
            indexed.push_str(heading);
            indexed.push('\n');
        }
        indexed.push_str(&self.piece(document));
        indexed
    }
}

/// The chunks of a document, in order. Together they have each byte that is not blank. None if all
/// are blank. Takes time linear in the length of the text.
pub fn chunk(document: &Document, chunking: &Chunking) -> Vec<Chunk> {
    let whole = (0, document.text.len());
    let blocks = blocks(document);
    match chunking {
        Chunking::Auto => by_headings(document, &blocks),
        Chunking::Static(size) => by_size(document, &blocks, [whole], *size),
        Chunking::Delimiter(delimiter) => {
            let size = Size { max: SIZE_MAX, overlap: 0 };
            by_size(document, &blocks, split(&document.text, delimiter), size)
        }
        Chunking::None => {
            let size = Size { max: usize::MAX / 4, overlap: 0 };
            by_size(document, &blocks, [whole], size)
        }
    }
}

/// The ranges between occurrences of a delimiter, each with the delimiter at its end.
fn split(text: &str, delimiter: &str) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    if !delimiter.is_empty() {
        for (start, found) in text.match_indices(delimiter) {
            ranges.push((at, start + found.len()));
            at = start + found.len();
        }
    }
    ranges.push((at, text.len()));
    ranges
}

/// Sections begin with headings: of several that follow each other, the first begins one.
fn by_headings(document: &Document, blocks: &[Block]) -> Vec<Chunk> {
    let mut chunks = Chunks::new(document);
    let mut path = Vec::new();
    let mut section: Vec<Block> = Vec::new();
    for &block in blocks {
        if let Kind::Heading(level) = block.kind {
            let only_headings = section.iter().all(|one| matches!(one.kind, Kind::Heading(_)));
            if !only_headings {
                chunks.section(&section, &path);
                section.clear();
            }
            descend(&mut path, block, level);
        }
        section.push(block);
    }
    chunks.section(&section, &path);
    chunks.found
}

fn by_size(
    document: &Document,
    blocks: &[Block],
    ranges: impl IntoIterator<Item = (usize, usize)>,
    size: Size,
) -> Vec<Chunk> {
    let mut chunks = Chunks::new(document);
    let mut path: Vec<Above> = Vec::new();
    let mut headings = blocks
        .iter()
        .filter_map(|block| match block.kind {
            Kind::Heading(level) => Some((*block, level)),
            _ => None,
        })
        .peekable();
    let limits = Limits { max: size.max, overlap: size.overlap };
    for (start, end) in ranges {
        pack(&document.text, &[Run { start, end, table: None }], limits, |cut| {
            while let Some((block, level)) = headings.next_if(|(block, _)| block.start <= cut.start)
            {
                descend(&mut path, block, level);
            }
            chunks.add(cut.start, cut.end, None, &path);
        });
    }
    chunks.found
}

/// Collects chunks, with the page of each.
struct Chunks<'a> {
    document: &'a Document,
    found: Vec<Chunk>,
}

impl<'a> Chunks<'a> {
    const fn new(document: &'a Document) -> Self {
        Self { document, found: Vec::new() }
    }

    fn section(&mut self, section: &[Block], path: &[Above]) {
        let text = &self.document.text;
        let runs: Vec<Run> = section
            .iter()
            .map(|&block| Run {
                start: block.start,
                end: block.end,
                table: (block.kind == Kind::Table).then(|| outline::header(text, block)).flatten(),
            })
            .collect();
        let limits = Limits { max: AUTO.max, overlap: AUTO.overlap };
        pack(text, &runs, limits, |cut| self.add(cut.start, cut.end, cut.header, path));
    }

    fn add(&mut self, start: usize, end: usize, header: Option<(usize, usize)>, path: &[Above]) {
        let text = &self.document.text;
        let headings = path
            .iter()
            .filter_map(|above| text.get(above.start..above.end))
            .map(|heading| heading.trim().trim_start_matches('#').trim_start().to_owned())
            .collect();
        let headings_inside =
            path.iter().filter(|above| above.start >= start && above.end <= end).count();
        let pages = &self.document.pages;
        let page = pages.partition_point(|page| page.start <= start).saturating_sub(1);
        let page = pages.get(page).map(|page| page.number);
        self.found.push(Chunk { start, end, page, headings, header, headings_inside });
    }
}
