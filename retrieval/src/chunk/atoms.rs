//! A text as atoms: words with their size in tokens and how good it is to cut after them.

use crate::tokens;

/// Bytes of an atom. A longer word is cut, so that one line of 200 MB has ends, too.
const ATOM_MAX: usize = 64;

/// How good it is to cut after an atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cut {
    /// In a word, or after the header row of a table.
    Bad,
    /// After a word.
    Word,
    /// After a sentence.
    Sentence,
    /// After a line.
    Line,
    /// After a block.
    Block,
}

/// A word, or a part of a long one, without the space after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Atom {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) tokens: usize,
    pub(super) cut: Cut,
}

/// Takes the atoms of `text[start..end]` one after the other.
pub(super) struct Atoms<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

impl<'a> Atoms<'a> {
    pub(super) const fn new(text: &'a str, start: usize, end: usize) -> Self {
        Self { text, at: start, end }
    }
}

impl Iterator for Atoms<'_> {
    type Item = Atom;

    fn next(&mut self) -> Option<Atom> {
        let rest = self.text.get(self.at..self.end)?;
        let blank = rest.len() - rest.trim_start().len();
        let (start, rest) = (self.at + blank, rest.trim_start());
        if rest.is_empty() {
            return None;
        }
        let mut length = 0;
        for letter in rest.chars() {
            if letter.is_whitespace() || length + letter.len_utf8() > ATOM_MAX {
                break;
            }
            length += letter.len_utf8();
        }
        let (word, after) = rest.split_at_checked(length)?;
        self.at = start + length;
        // Not the whole blank: it may be long, and is looked at once more with the next atom.
        let blank = after.split(|letter: char| !letter.is_whitespace()).next().unwrap_or("");
        let cut = if after.is_empty() {
            Cut::Block
        } else if blank.contains('\n') {
            Cut::Line
        } else if word.ends_with(['。', '！', '？'])
            || (!blank.is_empty() && word.ends_with(['.', '!', '?', '…', '。', '।']))
        {
            Cut::Sentence
        } else if blank.is_empty() {
            Cut::Bad
        } else {
            Cut::Word
        };
        Some(Atom { start, end: self.at, tokens: tokens::count(word), cut })
    }
}

/// The size of a text in tokens, as chunks are measured: the sum of its words, of which long ones
/// are counted in parts.
pub fn count_tokens(text: &str) -> usize {
    Atoms::new(text, 0, text.len()).map(|atom| atom.tokens).sum()
}
