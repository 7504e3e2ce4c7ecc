//! What the writer and its driver say to each other: writes, tasks and outcomes.

use std::sync::Arc;

use crate::account::AccountFlags;
use crate::batch::{Batch, Write};

/// Why a write was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another process owns the accounts now. The write did not happen.
    #[error("another process has taken the accounts over")]
    Fenced,
    /// The database refused the rows. The write did not happen.
    #[error("the database refused the write")]
    Refused,
    /// It is not known whether the write happened, and never will be: the writer is gone, or it was a change
    /// without a trace of its own, broken off before another process took the accounts over.
    #[error("it cannot be known whether the write happened")]
    Lost,
}

/// A write that waits for its end. `T` is who hears of it.
#[derive(Debug)]
pub struct Pending<T> {
    /// What is to be written; in a box, since it is passed on many times.
    pub write: Box<Write>,
    /// Of the account that decided it.
    pub flags: Arc<AccountFlags>,
    /// When it was handed over, in microseconds of a clock that only goes forward.
    pub at_micros: u64,
    /// Who hears how it ended.
    pub ticket: T,
}

/// How an attempt to commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is durable.
    Durable,
    /// Another process owns the accounts. This attempt wrote nothing.
    Fenced,
    /// The database refuses the rows. This attempt wrote nothing.
    Refused,
    /// It may or may not have been written, or may still be.
    Unknown,
}

/// Where a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The tables.
    Tables,
    /// The journal, under this number of the process.
    Journal(i64),
}

impl Place {
    fn lane(self) -> Lane {
        match self {
            Place::Tables => Lane::Tables,
            Place::Journal(_) => Lane::Journal,
        }
    }
}

/// The two ways of the writer. In each, one thing is done at a time; its outcome is told before anything else is asked
/// for in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// To the journal.
    Journal,
    /// To the tables: what is written there at once, and checkpoints.
    Tables,
}

/// Batches of the journal that are to be checkpointed into the tables.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
    /// All of them, in their order.
    pub batches: Vec<Arc<Batch>>,
    /// When it begins: does something wait for it, or more than as much again for the next one? If not, calls go before.
    pub is_urgent: bool,
}

impl Checkpoint {
    /// What they write together. Work for thousands of writes: not for the thread that gathers new ones meanwhile.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::checkpointed(self.batches.iter().map(Arc::as_ref))
    }
}

/// What the writer wants done.
#[derive(Clone, Debug)]
pub enum Task {
    /// Write the batch in one transaction that checks the lease; then [`Writer::committed`].
    Commit(Arc<Batch>, Place),
    /// Look whether the batch's rows are there; then [`Writer::looked`].
    Look(Arc<Batch>, Place),
    /// Checkpoint batches of the journal into the tables, in one transaction that checks the lease and notes how far the
    /// journal is checkpointed; then [`Writer::checkpointed`].
    Checkpoint(Checkpoint),
    /// Look whether the journal of this process is checkpointed up to this number; then [`Writer::looked_for_checkpoint`].
    LookCheckpointed(i64),
    /// Make one more write durable, so that everything committed before it in the lane is as durable; then
    /// [`Writer::sealed`].
    Seal(Lane),
    /// Wait so many microseconds; then [`Writer::paused`].
    Pause(Lane, u64),
}

impl Task {
    /// The lane it is done in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Task::Commit(_, place) | Task::Look(_, place) => place.lane(),
            Task::Checkpoint(_) | Task::LookCheckpointed(_) => Lane::Tables,
            Task::Seal(lane) | Task::Pause(lane, _) => *lane,
        }
    }
}

/// Can new work be taken?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// Yes.
    Serving,
    /// The database does not answer; the writer tries again by itself.
    Unavailable,
    /// Another process owns the accounts; this one will never write again.
    Fenced,
    /// As much is waiting as may wait, or it waits for too long.
    Overloaded,
}

impl WriterState {
    /// Does the database take this process's writes, as far as is known? What is read while it does not may be
    /// another process's already.
    #[must_use]
    pub fn is_in_charge(self) -> bool {
        matches!(self, WriterState::Serving | WriterState::Overloaded)
    }
}
