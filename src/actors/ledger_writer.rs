//! The persistence actor: the only writer of the ledger, of usage, and of what accounts and keys become.
//!
//! Group commit without a timer: while one batch commits, the next one gathers. A lone charge waits for
//! nobody; under load batches grow by themselves. One transaction a batch, and only after its COMMIT do
//! those who wait for it hear of it.
//!
//! An outcome that is not known is neither acknowledged nor given up: the writer looks for the batch's rows
//! under their numbers and writes the very same rows again if they are not there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt as _, Addr, Arbiter, AsyncContext as _, Context, Handler, Message,
    WrapFuture as _,
};
use tokio::sync::oneshot;

use crate::config::LedgerSettings;
use crate::domain::{AccountId, HoldChange, KeySpend, LedgerEntry, UsageRecord};
use crate::store::Store;
use crate::store::answers::RecordedAnswer;
use crate::store::batch::{Batch, Change, CommitError};
use crate::store::lease::Lease;

const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a write was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another process owns the accounts now. The write did not happen.
    #[error("another process has taken the accounts over")]
    Fenced,
    /// The database refused the rows. The write did not happen.
    #[error("the database refused the write")]
    Refused,
    /// The writer is gone. It is not known whether the write happened.
    #[error("the ledger writer is gone")]
    Lost,
}

/// Hears once whether a write is durable.
pub type Acknowledgement = oneshot::Receiver<Result<(), WriteError>>;

/// What the threads around an account actor know of it without asking.
#[derive(Debug, Default)]
pub struct AccountMarks {
    /// The last entry known to be durable.
    pub durable_seq: AtomicI64,
    /// Writes handed over whose end is not known yet.
    pub pending_writes: AtomicUsize,
    /// Charges that are open.
    pub open_charges: AtomicUsize,
    /// Calls that hold a lease on the account.
    pub in_flight: AtomicU32,
    /// The directory's tick of the last lease.
    pub used_tick: AtomicI64,
    /// What the actor holds in memory was refused by the database; it must be loaded again.
    pub is_poisoned: AtomicBool,
}

/// Something to be made durable, in the order in which its account decided it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Write {
    /// The account it belongs to.
    pub account: AccountId,
    /// The account actor's marks.
    pub marks: Arc<AccountMarks>,
    /// A movement of money.
    pub entry: Option<LedgerEntry>,
    /// The key's counters with it.
    pub key_spend: Option<KeySpend>,
    /// What happened to a durable hold.
    pub hold: Option<HoldChange>,
    /// What a call did.
    pub usage: Option<UsageRecord>,
    /// What it was answered, for its repeats.
    pub answer: Option<RecordedAnswer>,
    /// Anything else.
    pub change: Option<Change>,
    /// Who waits for it.
    pub acknowledge: Option<oneshot::Sender<Result<(), WriteError>>>,
}

impl Write {
    /// Nothing yet, for this account.
    #[must_use]
    pub fn new(account: AccountId, marks: &Arc<AccountMarks>) -> Self {
        Write {
            account,
            marks: Arc::clone(marks),
            entry: None,
            key_spend: None,
            hold: None,
            usage: None,
            answer: None,
            change: None,
            acknowledge: None,
        }
    }

    /// Asks to hear when it is durable.
    #[must_use]
    pub fn acknowledged(mut self) -> (Self, Acknowledgement) {
        let (sender, receiver) = oneshot::channel();
        self.acknowledge = Some(sender);
        (self, receiver)
    }

    fn answer(self, result: Result<(), WriteError>) {
        self.marks.pending_writes.fetch_sub(1, Ordering::AcqRel);
        if let Some(acknowledge) = self.acknowledge {
            // Nobody waits any more: the write stands all the same.
            let _ = acknowledge.send(result);
        }
    }
}

/// Can the writer take new work?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// Yes.
    Serving,
    /// The database does not answer; the writer tries again by itself.
    Unavailable,
    /// Another process owns the accounts; this one will never write again.
    Fenced,
    /// As much is waiting as may wait.
    Full,
}

#[derive(Debug)]
struct Gauge {
    queued: AtomicUsize,
    queue_max: usize,
    state: AtomicU8,
}

impl Gauge {
    const SERVING: u8 = 0;
    const UNAVAILABLE: u8 = 1;
    const FENCED: u8 = 2;

    /// Fenced is for ever.
    fn set(&self, state: u8) {
        let next = |now| (now != Self::FENCED).then_some(state);
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    fn is_fenced(&self) -> bool {
        self.state.load(Ordering::Acquire) == Self::FENCED
    }
}

/// What others hold to speak to the writer.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    writer: Addr<LedgerWriter>,
    gauge: Arc<Gauge>,
    epoch: i64,
}

impl LedgerHandle {
    /// The epoch of the lease under which it writes.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Can it take new work? Asked before a charge is decided; what was decided is always taken.
    #[must_use]
    pub fn state(&self) -> WriterState {
        match self.gauge.state.load(Ordering::Acquire) {
            Gauge::SERVING if self.gauge.queued.load(Ordering::Relaxed) >= self.gauge.queue_max => {
                WriterState::Full
            }
            Gauge::SERVING => WriterState::Serving,
            Gauge::UNAVAILABLE => WriterState::Unavailable,
            _ => WriterState::Fenced,
        }
    }

    /// Takes no new work from now on: the accounts belong to another process.
    pub fn fence(&self) {
        self.gauge.set(Gauge::FENCED);
    }

    /// Is the actor alive? It dies only by a defect; then nothing can be written until a restart.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.writer.connected()
    }

    /// Hands a write over. Order is kept for each caller.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the handle; a drop closes the acknowledgement"
    )]
    pub fn write(&self, write: Write) {
        self.gauge.queued.fetch_add(1, Ordering::Relaxed);
        write.marks.pending_writes.fetch_add(1, Ordering::AcqRel);
        self.writer.do_send(write);
    }

    /// Waits until everything handed over before is durable.
    ///
    /// # Errors
    /// [`WriteError::Lost`] or [`WriteError::Fenced`]
    pub async fn barrier(&self) -> Result<(), WriteError> {
        let nothing = Write::new(AccountId(0), &Arc::new(AccountMarks::default()));
        let (write, acknowledgement) = nothing.acknowledged();
        self.write(write);
        acknowledgement.await.unwrap_or(Err(WriteError::Lost))
    }
}

/// The actor.
pub struct LedgerWriter {
    committer: Arc<Committer>,
    gathering: VecDeque<Write>,
    is_committing: bool,
    batch_max: usize,
}

impl Actor for LedgerWriter {
    type Context = Context<Self>;
}

impl LedgerWriter {
    /// Starts the writer on `arbiter`.
    #[must_use]
    pub fn start(
        arbiter: &Arbiter,
        store: Store,
        lease: Lease,
        settings: &LedgerSettings,
    ) -> LedgerHandle {
        let gauge = Arc::new(Gauge {
            queued: AtomicUsize::new(0),
            queue_max: settings.queue_max.get(),
            state: AtomicU8::new(Gauge::SERVING),
        });
        let committer = Arc::new(Committer { store, lease, gauge: Arc::clone(&gauge) });
        let batch_max = settings.batch_max.get();
        let writer = Self::start_in_arbiter(&arbiter.handle(), move |_| LedgerWriter {
            committer,
            gathering: VecDeque::new(),
            is_committing: false,
            batch_max,
        });
        LedgerHandle { writer, gauge, epoch: lease.epoch }
    }

    fn commit_gathered(&mut self, context: &mut Context<Self>) {
        if self.is_committing || self.gathering.is_empty() {
            return;
        }
        self.is_committing = true;
        let size = self.gathering.len().min(self.batch_max);
        let writes: Vec<Write> = self.gathering.drain(..size).collect();
        let committer = Arc::clone(&self.committer);
        let committed = async move { committer.commit(writes).await };
        context.spawn(committed.into_actor(self).map(|(), writer, context| {
            writer.is_committing = false;
            writer.commit_gathered(context);
        }));
    }
}

impl Handler<Write> for LedgerWriter {
    type Result = ();

    fn handle(&mut self, write: Write, context: &mut Context<Self>) {
        self.gathering.push_back(write);
        self.commit_gathered(context);
    }
}

/// Turns gathered writes into transactions.
struct Committer {
    store: Store,
    lease: Lease,
    gauge: Arc<Gauge>,
}

impl Committer {
    async fn commit(&self, writes: Vec<Write>) {
        self.gauge.queued.fetch_sub(writes.len(), Ordering::Relaxed);
        let (writes, poisoned): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|write| !write.marks.is_poisoned.load(Ordering::Acquire));
        fail(poisoned, WriteError::Refused);
        match self.make_durable(&writes).await {
            Ok(()) => acknowledge(writes),
            Err(WriteError::Refused) => self.commit_apart(writes).await,
            Err(error) => fail(writes, error),
        }
    }

    /// After a batch was refused: each account by itself, so that only those at fault pay for it.
    async fn commit_apart(&self, writes: Vec<Write>) {
        let mut accounts: BTreeMap<AccountId, Vec<Write>> = BTreeMap::new();
        for write in writes {
            accounts.entry(write.account).or_default().push(write);
        }
        let is_single = accounts.len() == 1;
        for (account, writes) in accounts {
            let outcome =
                if is_single { Err(WriteError::Refused) } else { self.make_durable(&writes).await };
            match outcome {
                Ok(()) => acknowledge(writes),
                Err(error) => {
                    tracing::error!(%account, %error, "an account's writes failed; it will be loaded again");
                    fail(writes, error);
                }
            }
        }
    }

    /// Commits until the outcome is known.
    async fn make_durable(&self, writes: &[Write]) -> Result<(), WriteError> {
        if self.gauge.is_fenced() {
            return Err(WriteError::Fenced);
        }
        let batch = assemble(writes);
        if batch.is_empty() {
            return Ok(());
        }
        let mut pause = RETRY_PAUSE_MIN;
        let mut is_retry = false;
        loop {
            let begun = Instant::now();
            let error = match self.store.commit(&batch, self.lease).await {
                Ok(()) => {
                    let elapsed_us = begun.elapsed().as_micros();
                    tracing::debug!(writes = writes.len(), elapsed_us, "committed");
                    self.gauge.set(Gauge::SERVING);
                    return Ok(());
                }
                Err(error) => error,
            };
            if matches!(error, CommitError::Fenced) {
                tracing::error!(
                    "another process has taken the database over; this one stops charging"
                );
                self.gauge.set(Gauge::FENCED);
                // An earlier attempt of unknown outcome may have been committed before the takeover.
                return if is_retry && self.was_written(&batch).await {
                    Ok(())
                } else {
                    Err(WriteError::Fenced)
                };
            }
            is_retry = true;
            tracing::warn!(%error, "a batch was not committed");
            // Whatever the error says, the rows may be there: an earlier attempt may have committed.
            match self.store.is_written(&batch, self.lease).await {
                Ok(true) => {
                    self.gauge.set(Gauge::SERVING);
                    return Ok(());
                }
                Ok(false) if matches!(error, CommitError::Refused(_)) => {
                    tracing::error!(%error, "the database refused a batch");
                    return Err(WriteError::Refused);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the database does not answer"),
            }
            self.gauge.set(Gauge::UNAVAILABLE);
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(RETRY_PAUSE_MAX);
        }
    }
}

impl Committer {
    /// Asks until the database answers.
    async fn was_written(&self, batch: &Batch) -> bool {
        loop {
            match self.store.is_written(batch, self.lease).await {
                Ok(is_written) => return is_written,
                Err(error) => tracing::warn!(%error, "the database does not answer"),
            }
            tokio::time::sleep(RETRY_PAUSE_MAX).await;
        }
    }
}

fn assemble(writes: &[Write]) -> Batch {
    let mut batch = Batch::default();
    for write in writes {
        batch.entries.extend(write.entry);
        batch.spends.extend(write.key_spend.map(|spend| (spend.key, spend)));
        batch.holds.extend(write.hold);
        batch.usage.extend(write.usage.clone());
        batch.answers.extend(write.answer.clone());
        batch.changes.extend(write.change.clone());
    }
    batch
}

fn acknowledge(writes: Vec<Write>) {
    // All marks first: who hears of one write may act on all of them.
    for write in &writes {
        if let Some(entry) = &write.entry {
            write.marks.durable_seq.fetch_max(entry.seq, Ordering::AcqRel);
        }
    }
    for write in writes {
        write.answer(Ok(()));
    }
}

/// The actor's memory is ahead of the database for good: it must not decide anything more.
fn fail(writes: Vec<Write>, error: WriteError) {
    for write in &writes {
        write.marks.is_poisoned.store(true, Ordering::Release);
    }
    for write in writes {
        write.answer(Err(error));
    }
}
