//! The queue between the threads that decide and the writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use domain::writer::{Pending, WriteError};

/// Answers the caller of a write. `None` if no caller waits.
pub(super) type Ticket = Option<oneshot::Sender<Result<(), WriteError>>>;

/// The writes that the writer has not taken yet. A write wakes the writer only if the writer
/// sleeps. While a batch commits, writes wait here and cost no message.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    writes: Mutex<Handed>,
    /// Whether the writer will look here without a message.
    is_awake: AtomicBool,
}

#[derive(Debug, Default)]
struct Handed {
    writes: Vec<Pending<Ticket>>,
    /// The writer has ended. A later write is dropped with its ticket, which tells its caller.
    is_closed: bool,
}

impl Inbox {
    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a write. Returns true if the caller must wake the writer.
    pub(super) fn put(&self, pending: Pending<Ticket>) -> bool {
        let mut handed = self.handed();
        if handed.is_closed {
            return false;
        }
        handed.writes.push(pending);
        drop(handed);
        !self.is_awake.swap(true, Ordering::AcqRel)
    }

    pub(super) fn take(&self) -> Vec<Pending<Ticket>> {
        std::mem::take(&mut self.handed().writes)
    }

    /// Notes that the writer has nothing to do, so that the next write wakes it. Returns false if a
    /// write has just come in, which the writer must take.
    pub(super) fn sleep(&self) -> bool {
        self.is_awake.store(false, Ordering::Release);
        self.handed().writes.is_empty() || self.is_awake.swap(true, Ordering::AcqRel)
    }

    pub(super) fn close(&self) {
        let mut handed = self.handed();
        handed.is_closed = true;
        handed.writes.clear();
    }
}
