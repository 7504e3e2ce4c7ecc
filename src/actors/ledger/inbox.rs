//! The queue between the threads that decide and the writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use domain::writer::{Pending, WriteError};

/// Answers the caller that waits for a write, if there is one.
pub(super) type Ticket = Option<oneshot::Sender<Result<(), WriteError>>>;

/// Writes that the writer has not taken yet. A write wakes the writer only if it sleeps: while a
/// batch commits, writes wait here, and cost no message.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    writes: Mutex<Handed>,
    /// Will the writer look here without being woken?
    is_awake: AtomicBool,
}

#[derive(Debug, Default)]
struct Handed {
    writes: Vec<Pending<Ticket>>,
    /// The writer is gone: a write is dropped, and with it its ticket.
    is_closed: bool,
}

impl Inbox {
    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a write in. True if the writer must be woken.
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

    /// The writer has nothing to do: from now on a write wakes it. False if a write has come in
    /// between, which the writer must take itself.
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
