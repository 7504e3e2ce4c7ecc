//! A parsed document: its text, and where its parts are.

/// A document as a parser gives it. All offsets are bytes of `text`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The whole text.
    pub text: String,
    /// Its parts in order. What no block has counts as a paragraph; a block that begins before the
    /// end of the one before it, or is not on character boundaries, is left out.
    pub blocks: Vec<Block>,
    /// Where pages begin, in order. Empty if the format has no pages.
    pub pages: Vec<Page>,
}

/// A part of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A heading, with its level: 1 is the highest.
    Heading(u8),
    /// A paragraph.
    Paragraph,
    /// An item of a list.
    ListItem,
    /// Program code.
    Code,
    /// A table, one row a line. The first line is the header row.
    Table,
    /// A quotation.
    Quote,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Its first byte.
    pub start: usize,
    /// Its number, from 1.
    pub number: u32,
}
