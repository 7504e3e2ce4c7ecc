//! Packs atoms into chunks of a size, cut where it is good.

use std::collections::VecDeque;

use super::atoms::{Atom, Atoms, Cut};
use super::count_tokens;

/// The size of chunks in tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) max: usize,
    /// At most half of `max`.
    pub(super) overlap: usize,
}

/// A range of the text that follows another without text between.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) end: usize,
    /// The range of the header rows, if it is a table.
    pub(super) table: Option<(usize, usize)>,
}

/// A chunk of the runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkRange {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) header: Option<(usize, usize)>,
}

/// An atom, and the table that it is in.
#[derive(Debug, Clone, Copy)]
struct Placed {
    atom: Atom,
    table: Option<(usize, usize)>,
}

/// Gives the chunks of the runs to `found`, in order. Looks at no more atoms than a chunk has, so
/// memory does not grow with the text.
pub(super) fn pack(text: &str, runs: &[Run], limits: Limits, mut found: impl FnMut(ChunkRange)) {
    let atoms = |run: &Run| {
        let run = *run;
        Atoms::new(text, run.start, run.end).map(move |atom| place(atom, &run))
    };
    let mut coming = runs.iter().flat_map(atoms).fuse();
    let mut window: VecDeque<Placed> = VecDeque::new();
    let mut held = 0;
    // The header rows whose size was counted last.
    let mut counted = (None, 0);
    loop {
        if window.is_empty() {
            let Some(first) = coming.next() else { return };
            held += first.atom.tokens;
            window.push_back(first);
        }
        let Some(first) = window.front().copied() else { return };
        let header = first.table.filter(|&(_, end)| first.atom.start >= end);
        if counted.0 != header {
            let size = header.and_then(|(start, end)| text.get(start..end)).map_or(0, count_tokens);
            counted = (header, size);
        }
        // A header that takes half of a chunk is not repeated.
        let header = header.filter(|_| counted.1 <= limits.max / 2);
        let max = if header.is_some() { limits.max - counted.1 } else { limits.max };
        while held <= max {
            let Some(placed) = coming.next() else { break };
            held += placed.atom.tokens;
            window.push_back(placed);
        }
        let whole = held <= max;
        let (atoms, overlap) = if whole {
            (window.len(), 0)
        } else {
            let atoms = best_cut(&window, max);
            (atoms, overlapped(&window, atoms, limits.overlap))
        };
        let end = window.get(atoms.saturating_sub(1)).map_or(first.atom.end, |last| last.atom.end);
        found(ChunkRange { start: first.atom.start, end, header });
        for placed in window.drain(..atoms.saturating_sub(overlap).min(window.len())) {
            held -= placed.atom.tokens;
        }
        if whole {
            return;
        }
    }
}

fn place(mut atom: Atom, run: &Run) -> Placed {
    if let Some((_, header_end)) = run.table {
        // Rows are cut after their end only, and the header row not from the first.
        if atom.cut < Cut::Line || atom.end <= header_end {
            atom.cut = Cut::Bad;
        }
    }
    Placed { atom, table: run.table }
}

/// How many atoms go into a chunk of at most `max` tokens: up to the best cut in its last quarter.
/// At least one.
fn best_cut(window: &VecDeque<Placed>, max: usize) -> usize {
    let (mut size, mut best, mut cut) = (0, 1, Cut::Bad);
    for (placed, atoms) in window.iter().zip(1..) {
        size += placed.atom.tokens;
        if size > max {
            break;
        }
        if size < max - max / 4 || placed.atom.cut >= cut {
            best = atoms;
            cut = if size < max - max / 4 { Cut::Bad } else { placed.atom.cut };
        }
    }
    best
}

/// How many of the last atoms of a chunk the next one has, too. None of a table.
fn overlapped(window: &VecDeque<Placed>, atoms: usize, overlap: usize) -> usize {
    let next_table = window.get(atoms).and_then(|next| next.table);
    if next_table.is_some() {
        return 0;
    }
    let (mut size, mut count) = (0, 0);
    for placed in window.iter().take(atoms).skip(1).rev() {
        size += placed.atom.tokens;
        if size > overlap || placed.table.is_some() {
            break;
        }
        count += 1;
    }
    count
}
