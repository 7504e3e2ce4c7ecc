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
    /// Nobody will ever know whether the write happened. Either the writer has ended, or the write
    /// leaves no rows to look for and another process has taken over the accounts.
    #[error("it cannot be known whether the write happened")]
    Lost,
}

/// A write that has not ended.
#[derive(Debug)]
pub struct Pending<T> {
    /// The write. It is boxed because it is moved many times.
    pub write: Box<Write>,
    /// The flags of the account that decided it.
    pub flags: Arc<AccountFlags>,
    /// When the write was handed over, in microseconds of a monotonic clock.
    pub at_micros: u64,
    /// What the driver needs to answer the caller.
    pub ticket: T,
}

/// The outcome of an attempt to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The batch is durable.
    Durable,
    /// Another process owns the accounts. This attempt wrote nothing.
    Fenced,
    /// The database refuses the rows. This attempt wrote nothing.
    Refused,
    /// The batch may have been written, or may still be.
    Unknown,
}

/// Where a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The tables.
    Tables,
    /// The journal, under this number. Each process counts from 1.
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
    /// Batches for the journal.
    Journal,
    /// Batches for the tables, and checkpoints.
    Tables,
}

/// What a look-up found about a checkpoint with an unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// The database did not answer.
    Unknown,
    /// The checkpoint was not committed.
    NotDone,
    /// The checkpoint was committed.
    Done {
        /// The accounts whose entries the tables refused.
        refused: Vec<AccountId>,
    },
}

/// Batches of the journal that are to be checkpointed into the tables.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The number of the first batch.
    pub first: i64,
    /// The number of the last batch.
    pub last: i64,
    /// All batches, in the order of their numbers.
    pub batches: Vec<Arc<Batch>>,
    /// Whether a write waits for the checkpoint, or the backlog is more than twice as large. If
    /// neither, paid calls go first.
    pub is_urgent: bool,
}

impl Checkpoint {
    /// Merges the batches into one. That is too much work for the thread that gathers writes.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::checkpointed(self.batches.iter().map(Arc::as_ref))
    }
}

/// What the writer asks its driver to do. Each variant names the method that takes its outcome.
#[derive(Clone, Debug)]
pub enum Task {
    /// Write the batch in one transaction that checks the lease. Then `Writer::committed`.
    Commit(Arc<Batch>, Target),
    /// Look for the batch's rows. Then `Writer::looked_up`.
    LookUp(Arc<Batch>, Target),
    /// Write batches of the journal to the tables, in one transaction that checks the lease and
    /// moves the mark. Then `Writer::checkpointed`.
    Checkpoint(Checkpoint),
    /// Look whether this process's journal is checkpointed up to this number. Then
    /// `Writer::looked_up_checkpoint`.
    LookUpCheckpoint(i64),
    /// Make one more write durable, so that all earlier commits of the lane are durable. Then
    /// `Writer::flushed`.
    Flush(Lane),
    /// Wait for this many microseconds. Then `Writer::paused`.
    Pause(Lane, u64),
}

impl Task {
    /// The lane that the task belongs to.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Task::Commit(_, target) | Task::LookUp(_, target) => target.lane(),
            Task::Checkpoint(_) | Task::LookUpCheckpoint(_) => Lane::Tables,
            Task::Flush(lane) | Task::Pause(lane, _) => *lane,
        }
    }
}

/// Whether the writer can take new writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// It takes writes.
    Serving,
    /// The database does not answer. The writer tries again by itself.
    Unavailable,
    /// Another process owns the accounts. This one will never write again.
    Fenced,
    /// Too many writes wait, or the oldest waits for too long.
    Overloaded,
}

impl WriterState {
    /// Says whether the database takes this process's writes, as far as is known. If not, another
    /// process may have changed the rows that this one reads.
    #[must_use]
    pub fn is_in_charge(self) -> bool {
        matches!(self, WriterState::Serving | WriterState::Overloaded)
    }
}
