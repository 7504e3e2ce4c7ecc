//! The messages between the writer and its driver: writes, tasks and outcomes.

use std::sync::Arc;

use crate::account::AccountFlags;
use crate::batch::{Batch, Write};
use crate::ids::AccountId;

/// Why a write was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another process owns the accounts now. The write did not happen.
    #[error("another process has taken the accounts over")]
    Fenced,
    /// The database refused the rows. The write did not happen.
    #[error("the database refused the write")]
    Refused,
    /// It is not known whether the write happened, and never will be: the writer is gone, or the
    /// write leaves no rows of its own to look for, and another process took the accounts over.
    #[error("it cannot be known whether the write happened")]
    Lost,
}

/// A write that has not ended.
#[derive(Debug)]
pub struct Pending<T> {
    /// The write; in a box, because it is moved many times.
    pub write: Box<Write>,
    /// The flags of the account that decided it.
    pub flags: Arc<AccountFlags>,
    /// When it was handed over, in microseconds of a monotonic clock.
    pub at_micros: u64,
    /// What the driver needs to answer the caller.
    pub ticket: T,
}

/// How an attempt to commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
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
pub enum Target {
    /// The tables.
    Tables,
    /// The journal, under this number. Each process counts its own.
    Journal(i64),
}

impl Target {
    fn lane(self) -> Lane {
        match self {
            Target::Tables => Lane::Tables,
            Target::Journal(_) => Lane::Journal,
        }
    }
}

/// The two lanes of the writer. Each does one task at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// To the journal.
    Journal,
    /// To the tables: batches of other writes, and checkpoints.
    Tables,
}

/// What the writer learned of a checkpoint of unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// The database did not answer.
    Unknown,
    /// It was not committed.
    NotDone,
    /// It was committed.
    Done {
        /// The accounts whose entries the tables refused.
        refused: Vec<AccountId>,
    },
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
    /// Does a write wait for it, or is the backlog more than twice as large? If not, paid calls
    /// take precedence.
    pub is_urgent: bool,
}

impl Checkpoint {
    /// What they write together. Too much work for the thread that gathers new writes.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::checkpointed(self.batches.iter().map(Arc::as_ref))
    }
}

/// What the writer asks its driver to do.
#[derive(Clone, Debug)]
pub enum Task {
    /// Write the batch in one transaction that checks the lease; then `Writer::committed`.
    Commit(Arc<Batch>, Target),
    /// Look for the batch's rows; then `Writer::looked_up`.
    LookUp(Arc<Batch>, Target),
    /// Write batches of the journal to the tables, in one transaction that checks the lease and
    /// notes how far the journal is checkpointed; then `Writer::checkpointed`.
    Checkpoint(Checkpoint),
    /// Look whether this process's journal is checkpointed up to this number; then
    /// `Writer::looked_up_checkpoint`.
    LookUpCheckpoint(i64),
    /// Make one more write durable, so that everything committed before it in the lane is durable;
    /// then `Writer::flushed`.
    Flush(Lane),
    /// Wait for this many microseconds; then `Writer::paused`.
    Pause(Lane, u64),
}

impl Task {
    /// The lane it is done in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Task::Commit(_, target) | Task::LookUp(_, target) => target.lane(),
            Task::Checkpoint(_) | Task::LookUpCheckpoint(_) => Lane::Tables,
            Task::Flush(lane) | Task::Pause(lane, _) => *lane,
        }
    }
}

/// Can the writer take new writes?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// Yes.
    Serving,
    /// The database does not answer; the writer tries again by itself.
    Unavailable,
    /// Another process owns the accounts; this one will never write again.
    Fenced,
    /// Too many writes wait, or they wait for too long.
    Overloaded,
}

impl WriterState {
    /// Does the database take this process's writes, as far as is known? If not, another process
    /// may have changed what is read.
    #[must_use]
    pub fn is_in_charge(self) -> bool {
        matches!(self, WriterState::Serving | WriterState::Overloaded)
    }
}
