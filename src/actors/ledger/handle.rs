//! How others reach the ledger writer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::Addr;
use tokio::sync::oneshot;

use super::inbox::{Inbox, Ticket};
use super::status::{Histograms, SharedStatus, WriterStatus};
use super::writer::{Fence, LedgerWriter, Wake};
use crate::store::outbox::Outbox;
use domain::writer::{Pending, WriteError, WriterState};
use domain::{AccountFlags, AccountId, Write};

/// Hears once whether a write is durable.
pub type Acknowledgement = oneshot::Receiver<Result<(), WriteError>>;

/// How long a reader of the tables waits for what is in the journal.
const CHECKPOINTED_MAX: Duration = Duration::from_secs(5);

/// How others reach the writer.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    pub(super) writer: Addr<LedgerWriter>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) status: Arc<SharedStatus>,
    pub(super) epoch: i64,
    pub(super) outbox: Arc<Outbox>,
}

impl LedgerHandle {
    /// Is a webhook subscribed to events of this account?
    #[must_use]
    pub fn has_subscribers(&self, account: AccountId) -> bool {
        self.outbox.has_subscribers(account)
    }

    /// The epoch of the lease under which it writes.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Can it take new work? Asked before a charge is decided; what was decided is always taken.
    #[must_use]
    pub fn state(&self) -> WriterState {
        self.status.state()
    }

    /// How large and how long its commits are.
    #[must_use]
    pub fn histograms(&self) -> &Histograms {
        &self.status.histograms
    }

    /// How it is doing.
    #[must_use]
    pub fn metrics(&self) -> WriterStatus {
        WriterStatus {
            queued: self.status.queued.load(Ordering::Relaxed),
            bytes: self.status.bytes.load(Ordering::Relaxed),
            age: self.status.age(),
            batches: self.status.batches.load(Ordering::Relaxed),
            backlog: self.status.backlog.load(Ordering::Relaxed),
            state: self.state(),
        }
    }

    /// Takes no new work from now on: the accounts belong to another process.
    #[expect(clippy::disallowed_methods, reason = "this is the handle; a dead writer is fenced")]
    pub fn fence(&self) {
        self.status.set(SharedStatus::FENCED);
        self.writer.do_send(Fence);
    }

    /// Is the actor alive? It dies only by a defect; then nothing can be written until a restart.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.writer.connected()
    }

    /// TaskRunner a write over; `ticket` hears how it ended. Order is kept for each caller.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the handle; a drop closes the acknowledgement"
    )]
    pub fn write(&self, write: Box<Write>, flags: &Arc<AccountFlags>, ticket: Ticket) {
        flags.pending_writes.fetch_add(1, Ordering::AcqRel);
        let at_micros = self.status.now_micros();
        let _ = self.status.oldest_micros.compare_exchange(
            SharedStatus::NONE,
            at_micros,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.status.queued.fetch_add(1, Ordering::Relaxed);
        let pending = Pending { write, flags: Arc::clone(flags), at_micros, ticket };
        if self.inbox.put(pending) {
            self.writer.do_send(Wake);
        }
    }

    /// Waits until the tables have everything that was acknowledged: a read-your-writes barrier.
    /// [`WriteError::Lost`] if that takes too long.
    pub async fn checkpointed(&self) -> Result<(), WriteError> {
        if self.status.state() == WriterState::Fenced {
            // The process that took over checkpoints what this one journaled last.
            return Err(WriteError::Fenced);
        }
        if self.status.backlog.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        tokio::time::timeout(CHECKPOINTED_MAX, self.barrier())
            .await
            .unwrap_or(Err(WriteError::Lost))
    }

    /// Waits until every write before this call has ended, and is in the tables if it is durable.
    pub async fn barrier(&self) -> Result<(), WriteError> {
        let (ticket, acknowledgement) = oneshot::channel();
        let nothing = Box::new(Write::nothing(AccountId::LAST));
        self.write(nothing, &Arc::new(AccountFlags::default()), Some(ticket));
        acknowledgement.await.unwrap_or(Err(WriteError::Lost))
    }
}
