//! The ledger writer's actor: the only writer of the ledger, of usage, and of the changes of
//! accounts and keys.
//!
//! It drives [`Writer`], the state machine of the domain, and carries out its tasks. An attempt
//! that takes too long is cut off and its outcome is unknown. So a database that hangs is noticed
//! like one that is gone. Only SQLite's journal is written on this thread. While its disk hangs,
//! the writer does nothing else, and new work is refused because the oldest write is too old.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt as _, Arbiter, AsyncContext as _, Context, Handler, Message,
    WrapFuture as _,
};

use super::handle::LedgerHandle;
use super::inbox::{Inbox, Ticket};
use super::status::{Histograms, SharedStatus};
use super::tasks::{TaskOutcome, TaskRunner};
use crate::config::LedgerSettings;
use crate::store::Store;
use domain::Lease;
use domain::writer::{CommitOutcome, Lane, Task, WriteError, Writer, WriterState};

/// After a journal batch with at least this many writes, the writer waits for more writes. A single
/// caller does not wait.
const GATHER_FROM: usize = 2;
/// Checkpoint after this long without a write, for a backlog of any size.
const REST: Duration = Duration::from_millis(10);
/// Checkpoint anyway after this many interrupted idle periods.
const RESTLESS_MAX: u32 = 100;

/// Whether a task runs in each lane.
#[derive(Debug, Default)]
struct Busy {
    journal: bool,
    tables: bool,
}

/// The ledger writer's actor.
pub struct LedgerWriter {
    machine: Writer<Ticket>,
    inbox: Arc<Inbox>,
    runner: Arc<TaskRunner>,
    status: Arc<SharedStatus>,
    busy: Busy,
    has_journal: bool,
    /// Writes taken from the inbox since the start.
    taken_in: u64,
    /// Checkpoints begun since the start.
    checkpoints: u64,
    /// Interrupted idle periods since the last checkpoint.
    restless: u32,
    /// Whether a timer for the next idle check is set.
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

/// Tells the writer that the inbox has writes.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Wake;

#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Fence;

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
        let status = Arc::new(SharedStatus {
            begun: Instant::now(),
            state: AtomicU8::new(SharedStatus::SERVING),
            queued: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            oldest_micros: AtomicU64::new(SharedStatus::NONE),
            batches: AtomicU64::new(0),
            backlog: AtomicUsize::new(0),
            queue_max: settings.queue_max.get(),
            queue_bytes_max: settings.queue_bytes_max.get(),
            age_max: Duration::from_millis(settings.age_max_ms.get()),
            histograms: Arc::clone(&histograms),
        });
        let attempt_max = Duration::from_millis(settings.attempt_max_ms.get());
        let outbox = store.outbox();
        let runner = Arc::new(TaskRunner {
            store,
            lease,
            attempt_max,
            forgotten: AtomicI64::new(0),
            histograms,
        });
        let machine = Writer::new(settings.batch_max.get(), settings.batch_bytes_max.get());
        let machine = if settings.journal {
            machine.with_journal(settings.checkpoint_from.get(), runner.store.account_writes())
        } else {
            machine
        };
        let inbox = Arc::<Inbox>::default();
        let actor = LedgerWriter {
            machine,
            inbox: Arc::clone(&inbox),
            runner,
            status: Arc::clone(&status),
            busy: Busy::default(),
            has_journal: settings.journal,
            taken_in: 0,
            checkpoints: 0,
            restless: 0,
            is_resting: false,
        };
        let writer = Self::start_in_arbiter(&arbiter.handle(), move |_| actor);
        LedgerHandle { writer, inbox, status, epoch: lease.epoch, outbox }
    }

    /// Takes writes from the inbox and starts tasks, until there is nothing to do or a task runs.
    /// Called again at the end of a task.
    fn work(&mut self, context: &mut Context<Self>) {
        loop {
            for pending in self.inbox.take() {
                self.taken_in = self.taken_in.wrapping_add(1);
                self.machine.gather(pending);
            }
            failpoint!("writer-gathered");
            self.drive(context);
            // A write that comes now waits: the end of the task takes it from the inbox.
            let is_busy = if self.has_journal { self.busy.journal } else { self.busy.tables };
            if is_busy || self.inbox.sleep() {
                self.rest(context);
                return;
            }
        }
    }

    /// Checkpoints the backlog after an idle period, or after too many interrupted ones.
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

    /// Starts the tasks that are due, and answers the callers whose writes have ended.
    fn drive(&mut self, context: &mut Context<Self>) {
        while let Some(task) = self.machine.next_task() {
            self.begin(task, context);
        }
        self.answer();
    }

    /// Answers the callers whose writes have ended. Returns the number of these writes.
    fn answer(&mut self) -> usize {
        let ended = self.machine.take_ended();
        let count = ended.len();
        self.status.queued.fetch_sub(count, Ordering::Relaxed);
        self.status.bytes.store(self.machine.bytes(), Ordering::Relaxed);
        // Before any caller is answered: its next read of the tables must know the backlog.
        self.status.backlog.store(self.machine.backlog(), Ordering::Release);
        let oldest = self.machine.oldest_micros().unwrap_or(SharedStatus::NONE);
        self.status.oldest_micros.store(oldest, Ordering::Release);
        self.status.set(match self.machine.state() {
            WriterState::Serving | WriterState::Overloaded => SharedStatus::SERVING,
            WriterState::Unavailable => SharedStatus::UNAVAILABLE,
            WriterState::Fenced => SharedStatus::FENCED,
        });
        tell(ended);
        count
    }

    /// Called after a journal batch. Answers its callers at once. If there were several, it then
    /// waits for more writes: callers that were answered come back with their next calls, and a
    /// larger batch costs no more. It waits longer if checkpoints fall behind (backpressure).
    fn gather(&mut self) {
        let told = self.answer();
        let brake = Duration::from_micros(self.machine.brake_micros(told));
        let gather = self.runner.store.gather_pause();
        let pause = if told >= GATHER_FROM { brake.max(gather) } else { brake };
        if !pause.is_zero() {
            // Blocks the writer's own thread. The runtime's timers cannot wait for less than a
            // millisecond.
            std::thread::sleep(pause);
        }
    }

    fn begin(&mut self, task: Task, context: &mut Context<Self>) {
        let lane = task.lane();
        self.checkpoints =
            self.checkpoints.wrapping_add(u64::from(matches!(task, Task::Checkpoint(_))));
        *self.is_busy_in(lane) = true;
        let work = Arc::clone(&self.runner).begun(task);
        context.spawn(work.into_actor(self).map(move |outcome, writer, context| {
            match outcome {
                TaskOutcome::Committed(attempt) => {
                    if attempt == CommitOutcome::Durable {
                        writer.status.batches.fetch_add(1, Ordering::Relaxed);
                    }
                    writer.machine.committed(lane, attempt);
                    if lane == Lane::Journal {
                        writer.gather();
                    }
                }
                TaskOutcome::Checkpointed(result) => writer.machine.checkpointed(result),
                TaskOutcome::LookedUp(found) => writer.machine.looked_up(lane, found),
                TaskOutcome::LookedUpCheckpoint(found) => {
                    writer.machine.looked_up_checkpoint(found);
                }
                TaskOutcome::Flushed(attempt) => writer.machine.flushed(lane, attempt),
                TaskOutcome::Paused => writer.machine.paused(lane),
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
            // If the caller has left, the write is durable anyway.
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use domain::writer::Pending;
    use domain::{AccountId, Write};
    use tokio::sync::oneshot;

    use super::*;

    fn pending() -> Pending<Ticket> {
        let write = Write::nothing(AccountId(1));
        Pending { write: Box::new(write), flags: Arc::default(), at_micros: 0, ticket: None }
    }

    /// Runs the inbox and the loop of [`LedgerWriter::work`] against other threads. If `put` says
    /// to wake the writer, the thread does, and no write stays in the inbox while the writer
    /// sleeps.
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
                // Each thread hands over one write in a round. If that write is missed, no later
                // one wakes the writer.
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
                        // The writer drives its machine here, while other threads hand over writes.
                        (0..100).for_each(|_| std::hint::spin_loop());
                        if inbox.sleep() {
                            break;
                        }
                    }
                }
            }
        });
        // A writer that has ended takes no writes. The caller's ticket is dropped, which tells the
        // caller.
        inbox.close();
        let (ticket, mut acknowledgement) = oneshot::channel();
        assert!(!inbox.put(Pending { ticket: Some(ticket), ..pending() }));
        assert_eq!(acknowledgement.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(inbox.take().is_empty());
    }
}
