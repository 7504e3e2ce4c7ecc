//! The writer's tasks in the database: commits, look-ups, flushes and checkpoints.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::status::Histograms;
use crate::store::Store;
use crate::store::journal::report_refused;
use domain::writer::{Checkpoint, CheckpointOutcome, CommitOutcome, Lane, Target, Task};
use domain::{AccountId, Lease};

/// Checkpointed batches are deleted from the journal when there are this many.
const FORGET_FROM: i64 = 256;

/// The outcome of a task.
pub(super) enum TaskOutcome {
    Committed(CommitOutcome),
    Checkpointed(Result<Vec<AccountId>, CommitOutcome>),
    LookedUp(Option<bool>),
    LookedUpCheckpoint(CheckpointOutcome),
    Flushed(CommitOutcome),
    Paused,
}

/// Carries out the tasks of the state machine.
pub(super) struct TaskRunner {
    pub(super) store: Store,
    pub(super) lease: Lease,
    pub(super) attempt_max: Duration,
    /// The number of the last batch that was deleted from the journal.
    pub(super) forgotten: AtomicI64,
    pub(super) histograms: Arc<Histograms>,
}

impl TaskRunner {
    /// Starts a task. It runs until it ends, or until the returned future is dropped. Work for the
    /// tables is prepared on other threads, because thousands of rows must not make the journal
    /// wait.
    pub(super) fn begun(self: Arc<Self>, task: Task) -> Pin<Box<dyn Future<Output = TaskOutcome>>> {
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
                // The runtime has ended with the process, so nobody waits for the outcome.
                _ => std::future::pending().await,
            }
        })
    }

    async fn carry_out(&self, task: Task) -> TaskOutcome {
        let lane = task.lane();
        match task {
            Task::Commit(batch, place) => {
                let begun = Instant::now();
                let attempt = match place {
                    Target::Tables => {
                        self.attempt(lane, self.store.commit(&batch, self.lease)).await
                    }
                    Target::Journal(number) => {
                        // In a box: otherwise the large future is moved and kept twice. The
                        // look-ups below do the same.
                        let writing = Box::pin(self.store.journal(number, &batch, self.lease));
                        self.attempt(lane, writing).await
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
                TaskOutcome::Committed(
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
                TaskOutcome::Checkpointed(result)
            }
            Task::LookUp(batch, place) => {
                let looking = Box::pin(self.store.is_written(&batch, place, self.lease));
                TaskOutcome::LookedUp(self.look(lane, looking).await)
            }
            Task::LookUpCheckpoint(last) => {
                let looking = Box::pin(self.store.checkpointed_up_to(last, self.lease));
                let found = self.look(lane, looking).await;
                report_refused(found.iter().flatten().flatten());
                TaskOutcome::LookedUpCheckpoint(match found {
                    None => CheckpointOutcome::Unknown,
                    Some(None) => CheckpointOutcome::NotDone,
                    Some(Some(refused)) => CheckpointOutcome::Done { refused },
                })
            }
            Task::Flush(lane) => {
                let attempt = self.attempt(lane, self.store.seal(lane, self.lease)).await;
                TaskOutcome::Flushed(
                    attempt.map_or_else(|attempt| attempt, |()| CommitOutcome::Durable),
                )
            }
            Task::Pause(_, micros) => {
                tokio::time::sleep(Duration::from_micros(micros)).await;
                TaskOutcome::Paused
            }
        }
    }

    /// Deletes checkpointed batches from the journal. It waits until there are many, because each
    /// deletion is a commit.
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
                // The next checkpoint tries again.
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
            // The connection may be broken, or still busy with the attempt that was given up.
            self.store.renew_connection(lane).await;
        }
        Err(attempt)
    }
}
