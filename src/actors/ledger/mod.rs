//! The persistence actor: the only writer of the ledger, of usage, and of what accounts and keys
//! become.
//!
//! A mailbox and a connection for [`Writer`], whose protocol it carries out: it commits, looks,
//! waits, and tells those who wait. An attempt that takes too long is broken off and counts as
//! unknown, so that a database that hangs is noticed like one that is gone. Only SQLite's journal
//! is written on this very thread: while its disk hangs nothing else is done here, and new work is
//! refused for the age of what waits.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt as _, Addr, Arbiter, AsyncContext as _, Context, Handler, Message,
    WrapFuture as _,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::config::LedgerSettings;
use crate::metrics::Histogram;
use crate::store::Store;
use crate::store::journal::report_refused;
use crate::store::outbox::Outbox;
use domain::writer::{
    Checkpoint, CheckpointOutcome, CommitOutcome, Lane, Pending, Target, Task, Writer,
};
use domain::{AccountFlags, AccountId, Lease, Write};

pub use domain::writer::{WriteError, WriterState};

/// Hears once whether a write is durable.
pub type Acknowledgement = oneshot::Receiver<Result<(), WriteError>>;
type Ticket = Option<oneshot::Sender<Result<(), WriteError>>>;

/// Where a batch of the journal had so many writes, more of them are waited for before the next.
/// Who calls alone does not wait.
const GATHER_FROM: usize = 2;
/// How long nothing must come before what is in the journal is checkpointed, however little it is.
const REST: Duration = Duration::from_millis(10);
/// After so many rests in which something came nonetheless what is in the journal is checkpointed
/// all the same.
const RESTLESS_MAX: u32 = 100;
/// Batches that are checkpointed, and still in the journal, from which on they are deleted.
const FORGET_FROM: i64 = 256;
/// How long a reader of the tables waits for what is in the journal.
const CHECKPOINTED_MAX: Duration = Duration::from_secs(5);

/// What the threads around the writer know of it without asking.
#[derive(Debug)]
struct Gauge {
    begun: Instant,
    state: AtomicU8,
    /// Writes that have not ended.
    queued: AtomicUsize,
    /// What they cost in memory.
    bytes: AtomicUsize,
    /// When the oldest of them was handed over, in microseconds since `begun`.
    oldest_micros: AtomicU64,
    batches: AtomicU64,
    /// Writes that are in the journal, and not in the tables.
    backlog: AtomicUsize,
    queue_max: usize,
    queue_bytes_max: usize,
    age_max: Duration,
    histograms: Arc<Histograms>,
}

/// How large and how long its commits are.
#[derive(Debug)]
pub struct Histograms {
    /// How long commits into the journal took.
    pub journal: Histogram,
    /// How long commits into the tables took.
    pub tables: Histogram,
    /// How long checkpoints of the journal into the tables took.
    pub checkpoints: Histogram,
    /// Entries of a batch.
    pub entries: Histogram,
}

impl Default for Histograms {
    fn default() -> Self {
        Histograms {
            journal: Histogram::of_durations(),
            tables: Histogram::of_durations(),
            checkpoints: Histogram::of_durations(),
            entries: Histogram::of_sizes(),
        }
    }
}

impl Gauge {
    const SERVING: u8 = 0;
    const UNAVAILABLE: u8 = 1;
    const FENCED: u8 = 2;
    const NONE: u64 = u64::MAX;

    fn now_micros(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Fenced is for ever.
    fn set(&self, state: u8) {
        let next = |now| (now != Self::FENCED).then_some(state);
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    fn age(&self) -> Duration {
        match self.oldest_micros.load(Ordering::Acquire) {
            Self::NONE => Duration::ZERO,
            oldest => Duration::from_micros(self.now_micros().saturating_sub(oldest)),
        }
    }

    fn state(&self) -> WriterState {
        match self.state.load(Ordering::Acquire) {
            Self::SERVING => {
                let is_full = self.queued.load(Ordering::Relaxed) >= self.queue_max
                    || self.bytes.load(Ordering::Relaxed) >= self.queue_bytes_max;
                if is_full || self.age() > self.age_max {
                    WriterState::Overloaded
                } else {
                    WriterState::Serving
                }
            }
            Self::UNAVAILABLE => WriterState::Unavailable,
            _ => WriterState::Fenced,
        }
    }
}

/// The writer's figures, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterFigures {
    /// Writes that have not ended.
    pub queued: usize,
    /// What they cost in memory, roughly, in bytes.
    pub bytes: usize,
    /// How long the oldest of them waits.
    pub age: Duration,
    /// Batches committed since the start.
    pub batches: u64,
    /// Writes that are durable in the journal, and not yet in the tables.
    pub backlog: usize,
    /// Can new work be taken?
    pub state: WriterState,
}

/// What was handed over and is not taken in yet. The writer is woken only where nothing keeps it
/// awake: while a batch commits, what comes waits here, and costs nobody a message.
#[derive(Debug, Default)]
struct Inbox {
    writes: Mutex<Handed>,
    /// Will the writer look without being woken?
    is_awake: AtomicBool,
}

#[derive(Debug, Default)]
struct Handed {
    writes: Vec<Pending<Ticket>>,
    /// The writer is gone: whatever comes is dropped, and with it its ticket.
    is_closed: bool,
}

impl Inbox {
    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a write in; must the writer be woken?
    fn put(&self, pending: Pending<Ticket>) -> bool {
        let mut handed = self.handed();
        if handed.is_closed {
            return false;
        }
        handed.writes.push(pending);
        drop(handed);
        !self.is_awake.swap(true, Ordering::AcqRel)
    }

    fn take(&self) -> Vec<Pending<Ticket>> {
        std::mem::take(&mut self.handed().writes)
    }

    /// The writer has nothing to do. Whoever puts something in from now on wakes it; what came in
    /// between, it must see itself.
    fn sleep(&self) -> bool {
        self.is_awake.store(false, Ordering::Release);
        self.handed().writes.is_empty() || self.is_awake.swap(true, Ordering::AcqRel)
    }

    fn close(&self) {
        let mut handed = self.handed();
        handed.is_closed = true;
        handed.writes.clear();
    }
}

/// What others hold to speak to the writer.
#[derive(Clone, Debug)]
pub struct LedgerHandle {
    writer: Addr<LedgerWriter>,
    inbox: Arc<Inbox>,
    gauge: Arc<Gauge>,
    epoch: i64,
    outbox: Arc<Outbox>,
}

impl LedgerHandle {
    /// Does anyone listen for events of this account?
    #[must_use]
    pub fn is_told(&self, account: AccountId) -> bool {
        self.outbox.is_told(account)
    }

    /// The epoch of the lease under which it writes.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Can it take new work? Asked before a charge is decided; what was decided is always taken.
    #[must_use]
    pub fn state(&self) -> WriterState {
        self.gauge.state()
    }

    /// How large and how long its commits are.
    #[must_use]
    pub fn histograms(&self) -> &Histograms {
        &self.gauge.histograms
    }

    /// How it is doing.
    #[must_use]
    pub fn metrics(&self) -> WriterFigures {
        WriterFigures {
            queued: self.gauge.queued.load(Ordering::Relaxed),
            bytes: self.gauge.bytes.load(Ordering::Relaxed),
            age: self.gauge.age(),
            batches: self.gauge.batches.load(Ordering::Relaxed),
            backlog: self.gauge.backlog.load(Ordering::Relaxed),
            state: self.state(),
        }
    }

    /// Takes no new work from now on: the accounts belong to another process.
    #[expect(clippy::disallowed_methods, reason = "this is the handle; a dead writer is fenced")]
    pub fn fence(&self) {
        self.gauge.set(Gauge::FENCED);
        self.writer.do_send(Fence);
    }

    /// Is the actor alive? It dies only by a defect; then nothing can be written until a restart.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.writer.connected()
    }

    /// Hands a write over; `ticket` hears how it ended. Order is kept for each caller.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the handle; a drop closes the acknowledgement"
    )]
    pub fn write(&self, write: Box<Write>, flags: &Arc<AccountFlags>, ticket: Ticket) {
        flags.pending_writes.fetch_add(1, Ordering::AcqRel);
        let at_micros = self.gauge.now_micros();
        let _ = self.gauge.oldest_micros.compare_exchange(
            Gauge::NONE,
            at_micros,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.gauge.queued.fetch_add(1, Ordering::Relaxed);
        let pending = Pending { write, flags: Arc::clone(flags), at_micros, ticket };
        if self.inbox.put(pending) {
            self.writer.do_send(Wake);
        }
    }

    /// Waits until the tables say everything that was acknowledged, where they do not.
    ///
    /// # Errors
    /// [`WriteError`], where it takes too long [`WriteError::Lost`].
    pub async fn checkpointed(&self) -> Result<(), WriteError> {
        if self.gauge.state() == WriterState::Fenced {
            // What this process journaled last is checkpointed by whoever took over, nobody here
            // knows when.
            return Err(WriteError::Fenced);
        }
        if self.gauge.backlog.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        tokio::time::timeout(CHECKPOINTED_MAX, self.barrier())
            .await
            .unwrap_or(Err(WriteError::Lost))
    }

    /// Waits until everything handed over before has met its end, and is in the tables.
    ///
    /// # Errors
    /// [`WriteError::Lost`] or [`WriteError::Fenced`]
    pub async fn barrier(&self) -> Result<(), WriteError> {
        let (ticket, acknowledgement) = oneshot::channel();
        let nothing = Box::new(Write::nothing(AccountId::LAST));
        self.write(nothing, &Arc::new(AccountFlags::default()), Some(ticket));
        acknowledgement.await.unwrap_or(Err(WriteError::Lost))
    }
}

/// In which lanes a task runs.
#[derive(Debug, Default)]
struct Busy {
    journal: bool,
    tables: bool,
}

/// The actor.
pub struct LedgerWriter {
    machine: Writer<Ticket>,
    inbox: Arc<Inbox>,
    hands: Arc<Hands>,
    gauge: Arc<Gauge>,
    /// The lanes in which a task runs.
    busy: Busy,
    has_journal: bool,
    /// Writes that were ever taken in.
    taken_in: u64,
    /// Checkpoints that were ever begun.
    checkpoints: u64,
    /// Rests since the last checkpoint: something has come in each of them.
    restless: u32,
    /// Will it look again whether anything has come?
    is_resting: bool,
}

impl Actor for LedgerWriter {
    type Context = Context<Self>;
}

impl Drop for LedgerWriter {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// There is something in the inbox.
#[derive(Message)]
#[rtype(result = "()")]
struct Wake;

#[derive(Message)]
#[rtype(result = "()")]
struct Fence;

impl LedgerWriter {
    /// Starts the writer on `arbiter`.
    #[must_use]
    pub fn start(
        arbiter: &Arbiter,
        store: Store,
        lease: Lease,
        settings: &LedgerSettings,
    ) -> LedgerHandle {
        let histograms = Arc::<Histograms>::default();
        let gauge = Arc::new(Gauge {
            begun: Instant::now(),
            state: AtomicU8::new(Gauge::SERVING),
            queued: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            oldest_micros: AtomicU64::new(Gauge::NONE),
            batches: AtomicU64::new(0),
            backlog: AtomicUsize::new(0),
            queue_max: settings.queue_max.get(),
            queue_bytes_max: settings.queue_bytes_max.get(),
            age_max: Duration::from_millis(settings.age_max_ms.get()),
            histograms: Arc::clone(&histograms),
        });
        let attempt_max = Duration::from_millis(settings.attempt_max_ms.get());
        let outbox = store.outbox();
        let hands =
            Arc::new(Hands { store, lease, attempt_max, forgotten: AtomicI64::new(0), histograms });
        let machine = Writer::new(settings.batch_max.get(), settings.batch_bytes_max.get());
        let machine = if settings.journal {
            machine.with_journal(settings.checkpoint_from.get(), hands.store.account_writes())
        } else {
            machine
        };
        let inbox = Arc::<Inbox>::default();
        let actor = LedgerWriter {
            machine,
            inbox: Arc::clone(&inbox),
            hands,
            gauge: Arc::clone(&gauge),
            busy: Busy::default(),
            has_journal: settings.journal,
            taken_in: 0,
            checkpoints: 0,
            restless: 0,
            is_resting: false,
        };
        let writer = Self::start_in_arbiter(&arbiter.handle(), move |_| actor);
        LedgerHandle { writer, inbox, gauge, epoch: lease.epoch, outbox }
    }

    /// Takes in what was handed over, and goes on until there is nothing to do, or something is
    /// being done, at whose end it goes on.
    fn work(&mut self, context: &mut Context<Self>) {
        loop {
            for pending in self.inbox.take() {
                self.taken_in = self.taken_in.wrapping_add(1);
                self.machine.gather(pending);
            }
            failpoint!("writer-gathered");
            self.drive(context);
            // What comes now would wait for that; at its end it is looked for.
            let is_busy = if self.has_journal { self.busy.journal } else { self.busy.tables };
            if is_busy || self.inbox.sleep() {
                self.rest(context);
                return;
            }
        }
    }

    /// Checkpoints what is in the journal, if nothing comes for a while, or something does for very
    /// long.
    fn rest(&mut self, context: &mut Context<Self>) {
        if self.machine.backlog() == 0 || std::mem::replace(&mut self.is_resting, true) {
            return;
        }
        let (taken_in, checkpoints) = (self.taken_in, self.checkpoints);
        context.run_later(REST, move |writer, context| {
            writer.is_resting = false;
            let is_checkpointed = writer.checkpoints != checkpoints;
            writer.restless = if is_checkpointed { 0 } else { writer.restless.saturating_add(1) };
            if writer.taken_in == taken_in && !writer.busy.journal {
                writer.machine.rested();
                writer.work(context);
            } else if writer.restless >= RESTLESS_MAX {
                writer.machine.overdue();
                writer.work(context);
            } else {
                writer.rest(context);
            }
        });
    }

    /// Does what the machine wants done, and tells those whose writes have ended.
    fn drive(&mut self, context: &mut Context<Self>) {
        while let Some(task) = self.machine.next_task() {
            self.begin(task, context);
        }
        self.answer();
    }

    /// Tells those whose writes have ended; says how many.
    fn answer(&mut self) -> usize {
        let ended = self.machine.take_ended();
        let count = ended.len();
        self.gauge.queued.fetch_sub(count, Ordering::Relaxed);
        self.gauge.bytes.store(self.machine.bytes(), Ordering::Relaxed);
        // Before anyone is told: who reads the tables then must know.
        self.gauge.backlog.store(self.machine.backlog(), Ordering::Release);
        let oldest = self.machine.oldest_micros().unwrap_or(Gauge::NONE);
        self.gauge.oldest_micros.store(oldest, Ordering::Release);
        self.gauge.set(match self.machine.state() {
            WriterState::Serving | WriterState::Overloaded => Gauge::SERVING,
            WriterState::Unavailable => Gauge::UNAVAILABLE,
            WriterState::Fenced => Gauge::FENCED,
        });
        tell(ended);
        count
    }

    /// After a batch of the journal: whoever waits for it is told at once. Then, where several
    /// come, more are waited for: a commit costs the same whatever is in it, and those who were
    /// told come back with the next calls. Longer where checkpoints do not keep up.
    fn gather(&mut self) {
        let told = self.answer();
        let brake = Duration::from_micros(self.machine.brake_micros(told));
        let gather = self.hands.store.gather_pause();
        let pause = if told >= GATHER_FROM { brake.max(gather) } else { brake };
        if !pause.is_zero() {
            // On the writer's own thread, which waits for the disk as long: timers of the runtime
            // are of milliseconds.
            std::thread::sleep(pause);
        }
    }

    fn begin(&mut self, task: Task, context: &mut Context<Self>) {
        let lane = task.lane();
        self.checkpoints =
            self.checkpoints.wrapping_add(u64::from(matches!(task, Task::Checkpoint(_))));
        *self.is_busy_in(lane) = true;
        let work = Arc::clone(&self.hands).begun(task);
        context.spawn(work.into_actor(self).map(move |outcome, writer, context| {
            match outcome {
                Outcome::Committed(attempt) => {
                    if attempt == CommitOutcome::Durable {
                        writer.gauge.batches.fetch_add(1, Ordering::Relaxed);
                    }
                    writer.machine.committed(lane, attempt);
                    if lane == Lane::Journal {
                        writer.gather();
                    }
                }
                Outcome::Checkpointed(result) => writer.machine.checkpointed(result),
                Outcome::Looked(found) => writer.machine.looked_up(lane, found),
                Outcome::LookedForCheckpoint(found) => writer.machine.looked_up_checkpoint(found),
                Outcome::Sealed(attempt) => writer.machine.flushed(lane, attempt),
                Outcome::Paused => writer.machine.paused(lane),
            }
            *writer.is_busy_in(lane) = false;
            writer.work(context);
        }));
    }

    fn is_busy_in(&mut self, lane: Lane) -> &mut bool {
        match lane {
            Lane::Journal => &mut self.busy.journal,
            Lane::Tables => &mut self.busy.tables,
        }
    }
}

fn tell(ended: Vec<(Ticket, Result<(), WriteError>)>) {
    let half = ended.len() / 2;
    for (place, (ticket, result)) in ended.into_iter().enumerate() {
        if place == half && half > 0 {
            failpoint!("writer-half-acknowledged");
        }
        if let Some(ticket) = ticket {
            // Nobody waits any more: the write stands all the same.
            let _ = ticket.send(result);
        }
    }
    failpoint!("writer-acknowledged");
}

impl Handler<Wake> for LedgerWriter {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        self.work(context);
    }
}

impl Handler<Fence> for LedgerWriter {
    type Result = ();

    fn handle(&mut self, _: Fence, context: &mut Context<Self>) {
        self.machine.fence();
        self.work(context);
    }
}

enum Outcome {
    Committed(CommitOutcome),
    Checkpointed(Result<Vec<AccountId>, CommitOutcome>),
    Looked(Option<bool>),
    LookedForCheckpoint(CheckpointOutcome),
    Sealed(CommitOutcome),
    Paused,
}

/// What carries the machine's tasks out.
struct Hands {
    store: Store,
    lease: Lease,
    attempt_max: Duration,
    /// The last batch of the journal that was deleted.
    forgotten: AtomicI64,
    histograms: Arc<Histograms>,
}

impl Hands {
    /// Carries a task out, until what it answers is dropped. What is written into the tables is
    /// made ready on other threads: thousands of rows must not keep the journal waiting.
    fn begun(self: Arc<Self>, task: Task) -> Pin<Box<dyn Future<Output = Outcome>>> {
        let (lane, runtime) = (task.lane(), self.store.runtime().clone());
        let work = Box::pin(async move { self.carry_out(task).await });
        if lane == Lane::Journal {
            return work;
        }
        let mut running = JoinSet::new();
        running.spawn_on(work, &runtime);
        Box::pin(async move {
            match running.join_next().await {
                Some(Ok(outcome)) => outcome,
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                // The threads are gone: nobody is told anything any more.
                _ => std::future::pending().await,
            }
        })
    }

    async fn carry_out(&self, task: Task) -> Outcome {
        let lane = task.lane();
        match task {
            Task::Commit(batch, place) => {
                let begun = Instant::now();
                let attempt = match place {
                    Target::Tables => {
                        self.attempt(lane, self.store.commit(&batch, self.lease)).await
                    }
                    Target::Journal(number) => {
                        self.attempt(lane, self.store.journal(number, &batch, self.lease)).await
                    }
                };
                let elapsed_us = begun.elapsed().as_micros();
                let entries = batch.entries.len();
                let of_lane = match place {
                    Target::Tables => &self.histograms.tables,
                    Target::Journal(_) => &self.histograms.journal,
                };
                of_lane.count_duration(begun.elapsed());
                self.histograms.entries.count(u64::try_from(entries).unwrap_or(u64::MAX));
                tracing::debug!(entries, elapsed_us, ?place, ?attempt, "batch");
                failpoint!("writer-committed");
                Outcome::Committed(
                    attempt.map_or_else(|attempt| attempt, |()| CommitOutcome::Durable),
                )
            }
            Task::Checkpoint(checkpoint) => {
                let begun = Instant::now();
                let result =
                    self.attempt(lane, self.store.checkpoint(&checkpoint, self.lease)).await;
                let elapsed_us = begun.elapsed().as_micros();
                self.histograms.checkpoints.count_duration(begun.elapsed());
                tracing::debug!(batches = checkpoint.batches.len(), elapsed_us, "checkpoint");
                report_refused(result.iter().flatten());
                if result.is_ok() {
                    self.forget(&checkpoint).await;
                }
                Outcome::Checkpointed(result)
            }
            Task::LookUp(batch, place) => {
                let looking = self.store.is_written(&batch, place, self.lease);
                Outcome::Looked(self.look(lane, looking).await)
            }
            Task::LookUpCheckpoint(last) => {
                let looking = self.store.checkpointed_up_to(last, self.lease);
                let found = self.look(lane, looking).await;
                report_refused(found.iter().flatten().flatten());
                Outcome::LookedForCheckpoint(match found {
                    None => CheckpointOutcome::Unknown,
                    Some(None) => CheckpointOutcome::NotDone,
                    Some(Some(refused)) => CheckpointOutcome::Done { refused },
                })
            }
            Task::Flush(lane) => {
                let attempt = self.attempt(lane, self.store.seal(lane, self.lease)).await;
                Outcome::Sealed(attempt.map_or_else(|attempt| attempt, |()| CommitOutcome::Durable))
            }
            Task::Pause(_, micros) => {
                tokio::time::sleep(Duration::from_micros(micros)).await;
                Outcome::Paused
            }
        }
    }

    /// Deletes what is checkpointed from the journal, now and then: it is a commit of its own.
    async fn forget(&self, checkpoint: &Checkpoint) {
        let mut forgotten = self.forgotten.load(Ordering::Relaxed);
        let since = checkpoint.last.saturating_sub(forgotten);
        if since < FORGET_FROM && checkpoint.first != checkpoint.last {
            return;
        }
        while forgotten < checkpoint.last {
            let first = forgotten.saturating_add(1);
            forgotten = forgotten.saturating_add(self.store.forget_max()).min(checkpoint.last);
            let deleting = self.store.forget_checkpointed(first..=forgotten, self.lease);
            match tokio::time::timeout(self.attempt_max, deleting).await {
                Ok(true) => {}
                // Tried again after the next checkpoint.
                Ok(false) => return,
                Err(_) => {
                    tracing::warn!("what is checkpointed was not deleted from the journal in time");
                    self.store.renew_connection(Lane::Tables).await;
                    return;
                }
            }
            self.forgotten.store(forgotten, Ordering::Relaxed);
        }
    }

    async fn look<O: std::fmt::Debug>(
        &self,
        lane: Lane,
        looking: impl Future<Output = Result<O, crate::store::StoreError>>,
    ) -> Option<O> {
        let found = match tokio::time::timeout(self.attempt_max, looking).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the database does not answer");
                None
            }
            Err(_) => {
                tracing::warn!("the database does not answer in time");
                None
            }
        };
        if found.is_none() {
            self.store.renew_connection(lane).await;
        }
        tracing::info!(?found, "looked for a batch of unknown outcome");
        found
    }

    async fn attempt<O>(
        &self,
        lane: Lane,
        work: impl Future<Output = Result<O, crate::store::CommitError>>,
    ) -> Result<O, CommitOutcome> {
        use crate::store::CommitError;
        let attempt = match tokio::time::timeout(self.attempt_max, work).await {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(CommitError::Fenced)) => {
                tracing::error!(
                    "another process has taken the database over; this one stops charging"
                );
                CommitOutcome::Fenced
            }
            Ok(Err(CommitError::Refused(reason))) => {
                tracing::error!(%reason, "the database refused a batch");
                CommitOutcome::Refused
            }
            Ok(Err(CommitError::Unknown(error))) => {
                tracing::warn!(%error, "it is not known whether a batch was committed");
                CommitOutcome::Unknown
            }
            Err(_) => {
                tracing::warn!("a commit takes too long; it is not known whether it happened");
                CommitOutcome::Unknown
            }
        };
        if attempt == CommitOutcome::Unknown {
            // What it stands on may be broken, or still busy with what is not waited for any more.
            self.store.renew_connection(lane).await;
        }
        Err(attempt)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn pending() -> Pending<Ticket> {
        let write = Write::nothing(AccountId(1));
        Pending { write: Box::new(write), flags: Arc::default(), at_micros: 0, ticket: None }
    }

    /// The writer's part of the bargain, as [`LedgerWriter::work`] keeps it, against threads that
    /// hand over: whoever is told to wake it does, and nothing lies in the inbox while it sleeps.
    #[test]
    fn no_write_is_slept_through() {
        const THREADS: usize = 2;
        const ROUNDS: usize = 20_000;
        let inbox = Inbox::default();
        let round = AtomicUsize::new(0);
        let (wake, woken) = channel();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (inbox, round, wake) = (&inbox, &round, wake.clone());
                // One write each in each round: whatever is slept through, nothing comes after it
                // to wake the writer.
                scope.spawn(move || {
                    for number in 1..=ROUNDS {
                        while round.load(Ordering::Acquire) < number {
                            std::hint::spin_loop();
                        }
                        if inbox.put(pending()) {
                            wake.send(()).unwrap();
                        }
                    }
                });
            }
            for number in 1..=ROUNDS {
                round.store(number, Ordering::Release);
                let mut taken = 0;
                while taken < THREADS {
                    let is_woken = woken.recv_timeout(Duration::from_secs(10)).is_ok();
                    if !is_woken {
                        round.store(ROUNDS, Ordering::Release);
                        panic!("slept through a write");
                    }
                    loop {
                        taken += inbox.take().len();
                        // Where the writer drives its machine, and others hand over.
                        (0..100).for_each(|_| std::hint::spin_loop());
                        if inbox.sleep() {
                            break;
                        }
                    }
                }
            }
        });
        // A writer that is gone takes nothing, and whoever waits hears so by the end of its ticket.
        inbox.close();
        let (ticket, mut acknowledgement) = oneshot::channel();
        assert!(!inbox.put(Pending { ticket: Some(ticket), ..pending() }));
        assert_eq!(acknowledgement.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(inbox.take().is_empty());
    }
}
