//! What the writer does with the outcome of a task: it retries, looks up, acknowledges, or fails
//! the writes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Writer;
use super::checkpoint::Journaled;
use super::lane::{Current, Step, Work};
use super::protocol::{
    Checkpoint, CheckpointOutcome, CommitOutcome, Lane, Pending, Target, WriteError,
};
use crate::ids::AccountId;

impl<T> Writer<T> {
    /// Takes the outcome of [`Task::Commit`](super::Task::Commit).
    pub fn committed(&mut self, lane: Lane, outcome: CommitOutcome) {
        let work = self.lane(lane);
        let Some(current) = work.asked(Step::Commit) else { return };
        match outcome {
            CommitOutcome::Durable => {
                work.is_unavailable = false;
                self.finish(lane, Ok(()));
            }
            CommitOutcome::Fenced => {
                // An earlier attempt with an unknown outcome may have been committed before the
                // takeover.
                if current.may_be_there {
                    current.fault = Some(outcome);
                    current.go(Step::LookUp);
                } else {
                    self.finish(lane, Err(WriteError::Fenced));
                }
                self.is_fenced = true;
            }
            CommitOutcome::Refused | CommitOutcome::Unknown => {
                // An earlier attempt may have written the rows, even if this one was refused.
                current.fault = Some(outcome);
                current.may_be_there |= outcome == CommitOutcome::Unknown;
                current.go(Step::LookUp);
                // A database that refuses is there and answers.
                work.is_unavailable = outcome == CommitOutcome::Unknown;
            }
        }
    }

    /// Takes the outcome of [`Task::Checkpoint`](super::Task::Checkpoint). `Ok` has the accounts
    /// whose entries the tables refused.
    pub fn checkpointed(&mut self, result: Result<Vec<AccountId>, CommitOutcome>) {
        let Some(current) = self.tables.asked(Step::Commit) else { return };
        let Work::Checkpoint(Checkpoint { last, .. }) = current.work else { return };
        match result {
            Ok(refused) => {
                self.tables.is_unavailable = false;
                self.backlog.grow(last);
                self.finish_checkpoint(&refused);
            }
            Err(CommitOutcome::Fenced) => {
                // The new owner of the accounts checkpoints the rest.
                self.is_fenced = true;
                self.tables.current = None;
                self.backlog.drop_all();
            }
            Err(_) => {
                current.go(Step::LookUp);
                self.tables.is_unavailable = true;
            }
        }
    }

    fn finish_checkpoint(&mut self, refused: &[AccountId]) {
        let Some(Current { work: Work::Checkpoint(checkpoint), .. }) = self.tables.current.take()
        else {
            return;
        };
        self.backlog.remove(checkpoint.last, refused);
    }

    /// Takes the outcome of [`Task::LookUpCheckpoint`](super::Task::LookUpCheckpoint).
    pub fn looked_up_checkpoint(&mut self, found: CheckpointOutcome) {
        let Some(current) = self.tables.asked(Step::LookUp) else { return };
        let Work::Checkpoint(Checkpoint { last, .. }) = current.work else { return };
        if found != CheckpointOutcome::Unknown {
            // The checkpoint may have been too large for its deadline.
            self.backlog.shrink(last);
        }
        match found {
            CheckpointOutcome::Done { refused } => {
                self.tables.is_unavailable = false;
                self.finish_checkpoint(&refused);
            }
            CheckpointOutcome::NotDone => {
                current.pause_before(Step::Commit);
                let (checkpoint, current) =
                    (self.backlog.next(self.first_waiting()), &mut self.tables.current);
                if let (Some(checkpoint), Some(current)) = (checkpoint, current) {
                    current.work = Work::Checkpoint(checkpoint);
                }
            }
            CheckpointOutcome::Unknown => current.pause_before(Step::LookUp),
        }
    }

    /// Takes the outcome of [`Task::LookUp`](super::Task::LookUp): whether the batch is there.
    /// `None` if the database did not answer.
    pub fn looked_up(&mut self, lane: Lane, found: Option<bool>) {
        let work = self.lane(lane);
        let Some(current) = work.asked(Step::LookUp) else { return };
        match (found, current.fault) {
            (Some(true), _) => current.go(Step::Flush),
            // The batch leaves no rows to look for, so it may have been written.
            (Some(false), Some(CommitOutcome::Fenced | CommitOutcome::Refused))
                if current.may_be_there && !current.work.leaves_trace() =>
            {
                self.finish(lane, Err(WriteError::Lost));
            }
            (Some(false), Some(CommitOutcome::Fenced)) => {
                self.finish(lane, Err(WriteError::Fenced));
            }
            (Some(false), Some(CommitOutcome::Refused)) => self.give_up(lane),
            (Some(false), _) => current.pause_before(Step::Commit),
            (None, _) => {
                current.pause_before(Step::LookUp);
                work.is_unavailable = true;
            }
        }
    }

    /// Takes the outcome of [`Task::Flush`](super::Task::Flush). The rows were found before, so
    /// they are there even if another process owns the accounts now.
    pub fn flushed(&mut self, lane: Lane, outcome: CommitOutcome) {
        let work = self.lane(lane);
        let Some(current) = work.asked(Step::Flush) else { return };
        match outcome {
            CommitOutcome::Durable => {
                work.is_unavailable = false;
                self.finish(lane, Ok(()));
            }
            CommitOutcome::Fenced => {
                self.is_fenced = true;
                self.finish(lane, Ok(()));
            }
            CommitOutcome::Refused | CommitOutcome::Unknown => {
                current.pause_before(Step::Flush);
                work.is_unavailable = true;
            }
        }
    }

    /// Takes the end of [`Task::Pause`](super::Task::Pause).
    pub fn paused(&mut self, lane: Lane) {
        let work = self.lane(lane);
        if let Some(current) = work.current.as_mut().filter(|current| current.is_pausing) {
            current.end_pause();
        }
    }

    fn finish(&mut self, lane: Lane, result: Result<(), WriteError>) {
        let Some(current) = self.lane(lane).current.take() else { return };
        match result {
            Ok(()) => {
                if let Work::Write(Target::Journal(number), batch) = current.work {
                    let flags = current
                        .writes
                        .iter()
                        .map(|pending| (pending.write.account, Arc::clone(&pending.flags)));
                    let (ordinal, flags) = (self.journal_ordinal, flags.collect());
                    self.backlog.add(Journaled { number, ordinal, batch, flags });
                }
                self.acknowledge(lane, current.writes);
            }
            Err(error) => self.fail(lane, current.writes, error),
        }
    }

    /// Handles a refused batch: tries each account by itself, or fails the account if there is only
    /// one.
    fn give_up(&mut self, lane: Lane) {
        let Some(current) = self.lane(lane).current.take() else { return };
        let mut accounts: BTreeMap<AccountId, Vec<Pending<T>>> = BTreeMap::new();
        for pending in current.writes {
            accounts.entry(pending.write.account).or_default().push(pending);
        }
        if accounts.len() > 1 {
            self.lane(lane).apart.extend(accounts.into_values());
        } else {
            for writes in accounts.into_values() {
                self.fail(lane, writes, WriteError::Refused);
            }
        }
    }

    /// Ends these writes as durable.
    pub(super) fn acknowledge(&mut self, lane: Lane, writes: Vec<Pending<T>>) {
        // All flags are set before any caller is answered, because a caller may act on any of them.
        for Pending { write, flags, .. } in &writes {
            if let Some(entry) = &write.entry {
                flags.durable_seq.fetch_max(entry.seq, Ordering::AcqRel);
            }
        }
        self.end(lane, writes, Ok(()));
    }

    /// Fails these writes and poisons their accounts, which hold in memory what will never be
    /// written.
    pub(super) fn fail(&mut self, lane: Lane, writes: Vec<Pending<T>>, error: WriteError) {
        for pending in &writes {
            pending.flags.poison();
        }
        self.end(lane, writes, Err(error));
    }

    fn end(&mut self, lane: Lane, writes: Vec<Pending<T>>, result: Result<(), WriteError>) {
        for Pending { write, flags, ticket, .. } in writes {
            if lane == Lane::Tables
                && let Entry::Occupied(mut waiting) = self.in_tables.entry(write.account)
                && waiting.get_mut().remove(&write)
            {
                waiting.remove();
            }
            flags.pending_writes.fetch_sub(1, Ordering::AcqRel);
            self.bytes = self.bytes.saturating_sub(write.bytes());
            self.ended.push((ticket, result));
        }
    }
}
