//! A slot of the directory: an account in memory, and how a request gets its turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use actix::{Actor as _, Addr};
use tokio::sync::{OnceCell, oneshot};

use super::actor::{AccountActor, Queued, Stop};
use super::receipt::Receipt;
use super::turn::{Resources, Turn};
use domain::{Account, AccountFlags, AccountId};

/// An account that is in memory or is being loaded.
pub(super) struct AccountSlot {
    pub(super) account: AccountId,
    /// The account, once it is loaded. Who holds the lock has the turn.
    pub(super) owner: OnceCell<Mutex<Account>>,
    /// Set when a decision panics. The lock's own poison flag is not enough: it is not set by a
    /// panic while the same thread already unwinds from another one.
    has_panicked: AtomicBool,
    pub(super) marks: Arc<AccountFlags>,
    /// The actor; `None` until a request has to wait for a turn, because an actor takes more memory
    /// than the account.
    actor: Mutex<Option<Addr<AccountActor>>>,
    resources: Arc<Resources>,
}

impl AccountSlot {
    pub(super) fn new(account: AccountId, resources: Arc<Resources>) -> Self {
        AccountSlot {
            account,
            owner: OnceCell::new(),
            has_panicked: AtomicBool::new(false),
            marks: Arc::default(),
            actor: Mutex::default(),
            resources,
        }
    }

    /// Decides a request at once if the turn is free. Returns `Ok(None)` if the account in memory
    /// is gone, and gives the request back if the turn is taken.
    pub(super) fn try_decide<R, F>(&self, decide: F) -> Result<Option<R>, F>
    where
        F: FnOnce(&mut Turn<'_>) -> R,
    {
        let Some(owner) = self.owner.get() else { return Ok(None) };
        match owner.try_lock() {
            Ok(mut owner) => Ok(self.decide_in_turn(&mut owner, decide)),
            Err(TryLockError::Poisoned(_)) => Ok(None),
            Err(TryLockError::WouldBlock) => Err(decide),
        }
    }

    /// Waits for the turn, then decides a request.
    fn decide<R>(&self, decide: impl FnOnce(&mut Turn<'_>) -> R) -> Option<R> {
        let mut owner = self.owner.get()?.lock().ok()?;
        self.decide_in_turn(&mut owner, decide)
    }

    fn decide_in_turn<R>(
        &self,
        owner: &mut Account,
        decide: impl FnOnce(&mut Turn<'_>) -> R,
    ) -> Option<R> {
        // After a panic or a refused write this slot decides nothing more, not even for handles
        // taken earlier: the account may have been loaded again elsewhere.
        if self.has_panicked() || owner.flags().is_poisoned() {
            return None;
        }
        let answer = self.resources.decide(owner, decide);
        if answer.is_none() {
            self.has_panicked.store(true, Ordering::Release);
        }
        answer
    }

    /// Puts a request into the mailbox of the account's actor. If the account in memory is gone,
    /// the reply channel closes without an answer.
    #[expect(clippy::disallowed_methods, reason = "a drop closes the reply channel")]
    pub(super) fn send<T, E, F>(
        self: &Arc<Self>,
        decide: F,
    ) -> oneshot::Receiver<Result<Receipt<T>, E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut Turn<'_>) -> Result<Receipt<T>, E> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let slot = Arc::clone(self);
        let queued = move || {
            if let Some(decided) = slot.decide(decide) {
                // The caller may have stopped waiting. The decision stands.
                let _ = reply.send(decided);
            }
        };
        match self.wake() {
            Some(actor) => actor.do_send(Queued(Box::new(queued))),
            // No thread is left for an actor. Decide here; turns are short.
            None => queued(),
        }
        answer
    }

    /// Decides a request whose answer nobody awaits. If the account in memory is gone, there is no
    /// charge left to end.
    pub(super) fn tell<T, E, F>(self: &Arc<Self>, decide: F)
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut Turn<'_>) -> Result<Receipt<T>, E> + Send + 'static,
    {
        if let Err(decide) = self.try_decide(decide) {
            drop(self.send(decide));
        }
    }

    /// Has a decision panicked? Then this slot decides nothing more.
    pub(super) fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Acquire)
    }

    /// Has a decision panicked, and are all earlier writes in the tables?
    pub(super) fn is_dead_and_done(&self) -> bool {
        self.has_panicked()
            && self.marks.pending_writes.load(Ordering::Acquire) == 0
            && self.marks.is_checkpointed()
    }

    pub(super) fn is_awake(&self) -> bool {
        self.actor().is_some()
    }

    fn actor(&self) -> MutexGuard<'_, Option<Addr<AccountActor>>> {
        self.actor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account's actor. Starts one if there is none, or if its thread is gone.
    fn wake(&self) -> Option<Addr<AccountActor>> {
        let mut awake = self.actor();
        if let Some(actor) = awake.as_ref().filter(|actor| actor.connected()) {
            return Some(actor.clone());
        }
        let threads = &self.resources.threads;
        loop {
            let thread = threads.of(self.account)?;
            let actor = AccountActor::start_in_arbiter(&thread, |_| AccountActor);
            if actor.connected() {
                *awake = Some(actor.clone());
                return Some(actor);
            }
            tracing::error!("a thread of account actors is gone; using another one");
            threads.forget_that_of(self.account);
        }
    }

    /// Stops the actor after the messages in its mailbox. The account stays in memory.
    #[expect(clippy::disallowed_methods, reason = "a dead actor need not be stopped")]
    pub(super) fn sleep(&self) {
        if let Some(actor) = self.actor().take() {
            actor.do_send(Stop);
        }
    }
}
