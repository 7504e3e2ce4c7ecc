//! A document's blocks as a sound list: in order, without gaps of text, on character boundaries.

use crate::document::{Block, Document, Kind};

/// The sound blocks of a document, and a paragraph for each text between them.
pub(super) fn blocks(document: &Document) -> Vec<Block> {
    let text = &document.text;
    let mut found = Vec::with_capacity(document.blocks.len());
    let mut at = 0;
    let fill = |found: &mut Vec<Block>, start: usize, end: usize| {
        if text.get(start..end).is_some_and(|gap| !gap.trim().is_empty()) {
            found.push(Block { kind: Kind::Paragraph, start, end });
        }
    };
    for &block in &document.blocks {
        let sound = block.start >= at && text.get(block.start..block.end).is_some();
        if sound && block.start < block.end {
            fill(&mut found, at, block.start);
            found.push(block);
            at = block.end;
        }
    }
    fill(&mut found, at, text.len());
    found
}

/// A heading that stands above a text.
#[derive(Debug, Clone)]
pub(super) struct Above {
    pub(super) level: u8,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Puts a heading under those above it, in place of the ones of its level and lower.
pub(super) fn descend(path: &mut Vec<Above>, block: Block, level: u8) {
    while path.last().is_some_and(|above| above.level >= level) {
        path.pop();
    }
    path.push(Above { level, start: block.start, end: block.end });
}

/// The rows of a table that name its columns: the first, and a rule of Markdown below it.
pub(super) fn header(text: &str, table: Block) -> Option<(usize, usize)> {
    let rows = text.get(table.start..table.end)?;
    let first = rows.lines().next()?;
    let after = rows.get(first.len()..)?.trim_start_matches(['\r', '\n']);
    let rule = after.lines().next().unwrap_or("");
    let is_rule =
        rule.contains('-') && rule.chars().all(|c| matches!(c, '|' | '-' | ':' | ' ' | '+' | '\t'));
    let end = if is_rule { rows.len() - after.len() + rule.len() } else { first.len() };
    Some((table.start, table.start + end))
}
