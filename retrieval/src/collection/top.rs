//! The best of many chunks.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A chunk that was found by one arm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FoundChunk {
    pub(crate) score: f32,
    /// The place of its document's name among all names, and its number in the document: they
    /// order chunks of equal score, whatever segment they are in.
    pub(crate) rank: u32,
    pub(crate) number: u32,
    pub(crate) segment: u32,
    pub(crate) chunk: u32,
}

impl FoundChunk {
    /// The same for the same chunk in both arms.
    pub(crate) const fn key(&self) -> (u32, u32) {
        (self.segment, self.chunk)
    }
}

impl Ord for FoundChunk {
    /// The better is the greater.
    fn cmp(&self, other: &Self) -> Ordering {
        let place = |one: &Self| Reverse((one.rank, one.number, one.segment, one.chunk));
        self.score.total_cmp(&other.score).then_with(|| place(self).cmp(&place(other)))
    }
}

impl PartialOrd for FoundChunk {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for FoundChunk {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for FoundChunk {}

/// Keeps the best.
pub(crate) struct Top {
    limit: usize,
    heap: BinaryHeap<Reverse<FoundChunk>>,
    lowest: f32,
}

impl Top {
    pub(crate) fn new(limit: usize) -> Self {
        let lowest = if limit == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { limit, heap: BinaryHeap::new(), lowest }
    }

    /// Whether a chunk of this score may be one of the best.
    pub(crate) fn may_take(&self, score: f32) -> bool {
        score >= self.lowest
    }

    pub(crate) fn add(&mut self, found: FoundChunk) {
        self.heap.push(Reverse(found));
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
        if self.heap.len() == self.limit {
            self.lowest = self.heap.peek().map_or(f32::INFINITY, |Reverse(last)| last.score);
        }
    }

    /// The best first.
    pub(crate) fn sorted(self) -> Vec<FoundChunk> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(found)| found).collect()
    }
}
