//! The threads that account actors run on.

use std::sync::{Arc, PoisonError, RwLock};

use actix::{Arbiter, ArbiterHandle};

use domain::AccountId;

/// The threads that account actors run on: those that serve HTTP. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ActorThreads(Arc<RwLock<Vec<ArbiterHandle>>>);

impl ActorThreads {
    /// Adds the calling thread.
    pub fn add_this(&self) {
        self.add(Arbiter::current());
    }

    /// Adds a thread.
    pub fn add(&self, thread: ArbiterHandle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// The thread for an account's actor; `None` if there are no threads.
    pub(super) fn of(&self, account: AccountId) -> Option<ArbiterHandle> {
        let threads = self.0.read().unwrap_or_else(PoisonError::into_inner);
        threads.get(place(account, threads.len())?).cloned()
    }

    /// Removes the thread for this account's actor, because it is gone.
    pub(super) fn forget_that_of(&self, account: AccountId) {
        let mut threads = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = place(account, threads.len()) {
            threads.swap_remove(place);
        }
    }
}

fn place(account: AccountId, threads: usize) -> Option<usize> {
    usize::try_from(account.0.unsigned_abs()).ok()?.checked_rem(threads)
}
