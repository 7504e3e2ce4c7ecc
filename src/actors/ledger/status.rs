//! The writer's status. Other threads read it without a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::metrics::Histogram;
use domain::writer::WriterState;

/// The writer's status, shared with other threads.
#[derive(Debug)]
pub(super) struct SharedStatus {
    pub(super) begun: Instant,
    pub(super) state: AtomicU8,
    /// Writes that have not ended.
    pub(super) queued: AtomicUsize,
    /// The estimated memory of these writes, in bytes.
    pub(super) bytes: AtomicUsize,
    /// When the oldest of these writes was handed over, in microseconds since `begun`. `NONE` if
    /// there is none.
    pub(super) oldest_micros: AtomicU64,
    pub(super) batches: AtomicU64,
    /// Writes that are durable in the journal and not yet in the tables.
    pub(super) backlog: AtomicUsize,
    pub(super) queue_max: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) age_max: Duration,
    pub(super) histograms: Arc<Histograms>,
}

/// Histograms of the size and the duration of commits.
#[derive(Debug)]
pub struct Histograms {
    /// Durations of commits into the journal.
    pub journal: Histogram,
    /// Durations of commits into the tables.
    pub tables: Histogram,
    /// Durations of checkpoints.
    pub checkpoints: Histogram,
    /// Numbers of ledger entries in a batch.
    pub entries: Histogram,
}

impl Default for Histograms {
    fn default() -> Self {
        Histograms {
            journal: Histogram::of_durations(),
            tables: Histogram::of_durations(),
            checkpoints: Histogram::of_durations(),
            entries: Histogram::of_sizes(),
        }
    }
}

impl SharedStatus {
    pub(super) const SERVING: u8 = 0;
    pub(super) const UNAVAILABLE: u8 = 1;
    pub(super) const FENCED: u8 = 2;
    pub(super) const NONE: u64 = u64::MAX;

    pub(super) fn now_micros(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Sets the state. A fenced writer stays fenced for ever.
    pub(super) fn set(&self, state: u8) {
        let next = |now| (now != Self::FENCED).then_some(state);
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    pub(super) fn age(&self) -> Duration {
        match self.oldest_micros.load(Ordering::Acquire) {
            Self::NONE => Duration::ZERO,
            oldest => Duration::from_micros(self.now_micros().saturating_sub(oldest)),
        }
    }

    pub(super) fn state(&self) -> WriterState {
        match self.state.load(Ordering::Acquire) {
            Self::SERVING => {
                let is_full = self.queued.load(Ordering::Relaxed) >= self.queue_max
                    || self.bytes.load(Ordering::Relaxed) >= self.queue_bytes_max;
                if is_full || self.age() > self.age_max {
                    WriterState::Overloaded
                } else {
                    WriterState::Serving
                }
            }
            Self::UNAVAILABLE => WriterState::Unavailable,
            _ => WriterState::Fenced,
        }
    }
}

/// The writer's status, for monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterStatus {
    /// Writes that have not ended.
    pub queued: usize,
    /// The estimated memory of these writes, in bytes.
    pub bytes: usize,
    /// How long the oldest of these writes has waited.
    pub age: Duration,
    /// Batches committed since the start.
    pub batches: u64,
    /// Writes that are durable in the journal and not yet in the tables.
    pub backlog: usize,
    /// Whether the writer can take new work.
    pub state: WriterState,
}
