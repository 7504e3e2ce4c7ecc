//! An account that is in memory, and how a request gets to its owner.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use actix::{Actor as _, Addr, Arbiter, ArbiterHandle};
use tokio::sync::{OnceCell, oneshot};

use super::actor::{AccountActor, Answer, Ask, Means, Receipt, Request, SharedOwner, Stop};
use domain::{AccountFlags, AccountId};

/// The threads on which account actors live: those that serve HTTP. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ActorThreads(Arc<RwLock<Vec<ArbiterHandle>>>);

impl ActorThreads {
    /// Lets account actors live on the thread that calls.
    pub fn add_this(&self) {
        self.add(Arbiter::current());
    }

    /// Lets account actors live on this thread.
    pub fn add(&self, thread: ArbiterHandle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// Where an account's actor is started.
    fn of(&self, account: AccountId) -> Option<ArbiterHandle> {
        let threads = self.0.read().unwrap_or_else(PoisonError::into_inner);
        threads.get(place(account, threads.len())?).cloned()
    }

    /// The thread on which this account's actor was to be started is gone.
    fn forget_that_of(&self, account: AccountId) {
        let mut threads = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = place(account, threads.len()) {
            threads.swap_remove(place);
        }
    }
}

fn place(account: AccountId, threads: usize) -> Option<usize> {
    usize::try_from(account.0.unsigned_abs()).ok()?.checked_rem(threads)
}

/// An account that is, or is about to be, in memory.
pub(super) struct Resident {
    pub(super) account: AccountId,
    pub(super) owner: OnceCell<SharedOwner>,
    pub(super) marks: Arc<AccountFlags>,
    /// None as long as no request has had to wait for a turn: an actor costs more memory than what it owns.
    actor: Mutex<Option<Addr<AccountActor>>>,
    means: Arc<Means>,
}

impl Resident {
    pub(super) fn new(account: AccountId, means: Arc<Means>) -> Self {
        Resident {
            account,
            owner: OnceCell::new(),
            marks: Arc::default(),
            actor: Mutex::default(),
            means,
        }
    }

    /// Asks its owner, here and now. The request is given back where somebody else has the turn.
    pub(super) fn try_ask<R: Request>(&self, request: R) -> Result<Answer<R>, R> {
        match self.owner.get() {
            Some(owner) => self.means.try_decide(owner, request),
            None => Ok(None),
        }
    }

    /// Puts a request into the mailbox of its actor. Where its owner is gone the reply never comes.
    #[expect(clippy::disallowed_methods, reason = "a drop closes the reply channel")]
    pub(super) fn send<R: Request>(
        &self,
        request: R,
    ) -> oneshot::Receiver<Result<Receipt<R::Decided>, R::Declined>> {
        let (reply, answer) = oneshot::channel();
        if let Some(actor) = self.wake() {
            actor.do_send(Ask { request, reply });
        } else if let Some(owner) = self.owner.get()
            && let Some(decided) = self.means.decide(owner, request)
        {
            // No thread is left for an actor: turns are short.
            let _ = reply.send(decided);
        }
        answer
    }

    /// The same for what nobody waits for. Whoever is gone has no charge left to end.
    pub(super) fn tell<R: Request>(&self, request: R) {
        if let Err(request) = self.try_ask(request) {
            drop(self.send(request));
        }
    }

    /// Has its owner panicked? Nobody decides anything any more then.
    pub(super) fn is_dead(&self) -> bool {
        self.owner.get().is_some_and(|owner| owner.has_panicked())
    }

    /// Has it, and has everything that it handed over met its end?
    pub(super) fn is_dead_and_done(&self) -> bool {
        self.is_dead()
            && self.marks.pending_writes.load(Ordering::Acquire) == 0
            && self.marks.is_checkpointed()
    }

    pub(super) fn is_awake(&self) -> bool {
        self.actor().is_some()
    }

    fn actor(&self) -> MutexGuard<'_, Option<Addr<AccountActor>>> {
        self.actor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its actor, started where it has none, or where the thread of the last one is gone.
    fn wake(&self) -> Option<Addr<AccountActor>> {
        let mut awake = self.actor();
        if let Some(actor) = awake.as_ref().filter(|actor| actor.connected()) {
            return Some(actor.clone());
        }
        let (owner, threads) = (self.owner.get()?, &self.means.threads);
        loop {
            let actor = AccountActor::new(Arc::clone(owner), Arc::clone(&self.means));
            let actor = AccountActor::start_in_arbiter(&threads.of(self.account)?, move |_| actor);
            if actor.connected() {
                *awake = Some(actor.clone());
                return Some(actor);
            }
            tracing::error!("a thread of account actors is gone");
            threads.forget_that_of(self.account);
        }
    }

    /// Ends its actor, after what is in the mailbox. What it owns stays.
    #[expect(clippy::disallowed_methods, reason = "a dead actor need not be stopped")]
    pub(super) fn sleep(&self) {
        if let Some(actor) = self.actor().take() {
            actor.do_send(Stop);
        }
    }
}
