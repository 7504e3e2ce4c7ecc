//! The texts of chunks, compressed in blocks of about 16 KiB, so that a hit reads little.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use crate::bytes::{Reader, wide};

/// Bytes of text after which a block is closed.
const BLOCK: usize = 16 << 10;

/// Chunks after which a block is closed, however short they are.
const CHUNKS: u32 = 256;

/// DEFLATE makes nothing larger than this many times.
const EXPANSION_MAX: usize = 1032;

/// Compresses texts.
#[derive(Default)]
pub(super) struct TextWriter {
    index: Vec<u8>,
    blocks: Vec<u8>,
    open: Vec<u8>,
    chunks: u32,
    first: u32,
}

impl TextWriter {
    pub(super) fn add(&mut self, text: &str) -> std::io::Result<()> {
        self.open.extend_from_slice(text.as_bytes());
        self.chunks += 1;
        let full = self.open.len() >= BLOCK || self.chunks - self.first >= CHUNKS;
        if full { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> std::io::Result<()> {
        if self.chunks == self.first {
            return Ok(());
        }
        let mut encoder = DeflateEncoder::new(&mut self.blocks, Compression::new(4));
        encoder.write_all(&self.open)?;
        encoder.finish()?;
        self.index.extend_from_slice(&self.first.to_le_bytes());
        self.index.extend_from_slice(&wide(self.open.len()).to_le_bytes());
        self.index.extend_from_slice(&wide(self.blocks.len()).to_le_bytes());
        self.open.clear();
        self.first = self.chunks;
        Ok(())
    }

    /// The index of blocks, and the blocks.
    pub(super) fn finish(mut self) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        self.close()?;
        Ok((self.index, self.blocks))
    }
}

/// A block: its first chunk, the length of its text, the range of its compressed bytes.
#[derive(Debug, Clone, Copy)]
struct Block {
    first: u32,
    length: usize,
    start: usize,
    end: usize,
}

/// Where the texts of chunks are.
#[derive(Debug)]
pub(super) struct TextBlocks {
    blocks: Vec<Block>,
}

impl TextBlocks {
    /// `lengths` are those of all chunks. `None` if the index does not fit to them.
    pub(super) fn open(index: &[u8], blocks: usize, lengths: &[usize]) -> Option<Self> {
        let mut reader = Reader::new(index);
        let mut found: Vec<Block> = Vec::new();
        let mut start = 0;
        while !reader.is_empty() {
            let (first, length, end) = (reader.u32()?, reader.size()?, reader.size()?);
            let compressed = end.checked_sub(start)?;
            let follows = found.last().map_or(first == 0, |before| before.first < first);
            if !follows || length > compressed.checked_mul(EXPANSION_MAX)? {
                return None;
            }
            found.push(Block { first, length, start, end });
            start = end;
        }
        let texts = Self { blocks: found };
        (start == blocks && texts.fit(lengths)).then_some(texts)
    }

    fn fit(&self, lengths: &[usize]) -> bool {
        let mut lengths = lengths.iter();
        let mut blocks = self.blocks.iter().peekable();
        while let Some(block) = blocks.next() {
            let count = match blocks.peek() {
                Some(next) => crate::bytes::index(next.first - block.first),
                None => lengths.len(),
            };
            let mut chunks = lengths.by_ref().take(count);
            let sum = chunks.try_fold(0_usize, |sum, &length| sum.checked_add(length));
            if count == 0 || sum != Some(block.length) {
                return false;
            }
        }
        lengths.next().is_none()
    }

    /// The block that has the text of a chunk: its first chunk, and the text of all of it.
    /// `None` if it is broken.
    pub(super) fn block(&self, blocks: &[u8], chunk: u32) -> Option<(u32, String)> {
        let at = self.blocks.partition_point(|block| block.first <= chunk).checked_sub(1)?;
        let block = self.blocks.get(at)?;
        let compressed = blocks.get(block.start..block.end)?;
        let mut text = Vec::with_capacity(block.length);
        // One more than there should be, to see it.
        DeflateDecoder::new(compressed)
            .take(wide(block.length) + 1)
            .read_to_end(&mut text)
            .ok()
            .filter(|&length| length == block.length)?;
        Some((block.first, String::from_utf8(text).ok()?))
    }
}
