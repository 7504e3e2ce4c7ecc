//! The handle by which other parts reach the ledger writer.

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

/// Receives once whether a write is durable.
pub type Acknowledgement = oneshot::Receiver<Result<(), WriteError>>;

/// How long a reader of the tables waits for a checkpoint of the journal.
const CHECKPOINTED_MAX: Duration = Duration::from_secs(5);

/// The handle of the ledger writer. Clones share the writer.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    pub(super) writer: Addr<LedgerWriter>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) status: Arc<SharedStatus>,
    pub(super) epoch: i64,
    pub(super) outbox: Arc<Outbox>,
}

impl LedgerHandle {
    /// Says whether a webhook is subscribed to events of this account.
    #[must_use]
    pub fn has_subscribers(&self, account: AccountId) -> bool {
        self.outbox.has_subscribers(account)
    }

    /// The epoch of the lease under which the writer writes.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Says whether the writer can take new work. Asked before a charge is decided. A write that
    /// was decided is always taken.
    #[must_use]
    pub fn state(&self) -> WriterState {
        self.status.state()
    }

    /// Histograms of the size and the duration of commits.
    #[must_use]
    pub fn histograms(&self) -> &Histograms {
        &self.status.histograms
    }

    /// Reads the writer's status for monitoring.
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

    /// Makes the writer refuse new work, because another process owns the accounts.
    #[expect(clippy::disallowed_methods, reason = "this is the handle; a dead writer is fenced")]
    pub fn fence(&self) {
        self.status.set(SharedStatus::FENCED);
        self.writer.do_send(Fence);
    }

    /// Says whether the actor is alive. Only a defect ends it, and then nothing can be written
    /// until a restart.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.writer.connected()
    }

    /// Hands over a write. `ticket` receives how the write ended. The writes of one caller keep
    /// their order.
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

    /// Waits until all acknowledged writes are in the tables, so that the caller reads them there.
    ///
    /// Fails with [`WriteError::Fenced`] if another process owns the accounts, and with
    /// [`WriteError::Lost`] after five seconds.
    pub async fn checkpointed(&self) -> Result<(), WriteError> {
        if self.status.state() == WriterState::Fenced {
            // The process that took over checkpoints the last batches of this one.
            return Err(WriteError::Fenced);
        }
        if self.status.backlog.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        tokio::time::timeout(CHECKPOINTED_MAX, self.barrier())
            .await
            .unwrap_or(Err(WriteError::Lost))
    }

    /// Waits until every earlier write has ended, and the durable ones are in the tables.
    pub async fn barrier(&self) -> Result<(), WriteError> {
        let (ticket, acknowledgement) = oneshot::channel();
        let nothing = Box::new(Write::nothing(AccountId::LAST));
        self.write(nothing, &Arc::new(AccountFlags::default()), Some(ticket));
        acknowledgement.await.unwrap_or(Err(WriteError::Lost))
    }
}
