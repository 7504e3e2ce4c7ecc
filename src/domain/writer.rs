//! The ledger writer's protocol: how writes become durable, and when those who wait for them may be told.
//!
//! A machine without I/O: it is handed writes and the outcomes of what it asked for, and says what it wants
//! done next. Group commit without a timer: while one batch commits, the next one gathers.
//!
//! - Nobody is told `Ok` before the batch's COMMIT is known to have happened.
//! - An outcome that is not known is neither acknowledged nor given up: the writer looks for the batch's rows
//!   under their numbers, and writes the very same rows again where they are not there. Rows that it finds are
//!   followed by one more durable write before they are acknowledged, since a commit that was cut off may be
//!   on the database's own disk alone, and not yet on its standby.
//! - Rows that the database refuses are given up, account by account, so that only those at fault pay for it.
//!   Their accounts are poisoned: what they hold in memory will never be written.
//! - Once another process owns the accounts, nothing is written or acknowledged any more, but for what turns
//!   out to have been committed before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch::{Batch, Write};
use super::ids::AccountId;
use super::residency::AccountMarks;

/// The first pause before something is tried again, in microseconds; it doubles up to the longest.
const PAUSE_MIN_MICROS: u64 = 20_000;
const PAUSE_MAX_MICROS: u64 = 500_000;

/// Why a write was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another process owns the accounts now. The write did not happen.
    #[error("another process has taken the accounts over")]
    Fenced,
    /// The database refused the rows. The write did not happen.
    #[error("the database refused the write")]
    Refused,
    /// It is not known whether the write happened, and never will be: the writer is gone, or it was a change
    /// without a trace of its own, broken off before another process took the accounts over.
    #[error("it cannot be known whether the write happened")]
    Lost,
}

/// A write that waits for its end. `T` is who hears of it.
#[derive(Debug)]
pub struct Pending<T> {
    /// What is to be written.
    pub write: Write,
    /// Of the account that decided it.
    pub marks: Arc<AccountMarks>,
    /// When it was handed over, in microseconds of a clock that only goes forward.
    pub at_micros: u64,
    /// Who hears how it ended.
    pub ticket: T,
}

/// How an attempt to commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is durable.
    Durable,
    /// Another process owns the accounts. This attempt wrote nothing.
    Fenced,
    /// The database refuses the rows. This attempt wrote nothing.
    Refused,
    /// It may or may not have been written, or may still be.
    Unknown,
}

/// What the writer wants done. One thing at a time; its outcome is told before anything else is asked for.
#[derive(Clone, Debug)]
pub enum Task {
    /// Write the batch in one transaction that checks the lease; then [`Writer::committed`].
    Commit(Arc<Batch>),
    /// Look whether the batch's rows are there; then [`Writer::looked`].
    Look(Arc<Batch>),
    /// Make one more write durable, so that everything committed before it is as durable; then
    /// [`Writer::sealed`].
    Seal,
    /// Wait so many microseconds; then [`Writer::paused`].
    Pause(u64),
}

/// Can new work be taken?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// Yes.
    Serving,
    /// The database does not answer; the writer tries again by itself.
    Unavailable,
    /// Another process owns the accounts; this one will never write again.
    Fenced,
    /// As much is waiting as may wait, or it waits for too long.
    Overloaded,
}

impl WriterState {
    /// Does the database take this process's writes, as far as is known? What is read while it does not may be
    /// another process's already.
    #[must_use]
    pub fn is_in_charge(self) -> bool {
        matches!(self, WriterState::Serving | WriterState::Overloaded)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Commit,
    Look,
    Seal,
}

/// A batch on its way.
#[derive(Debug)]
struct Current<T> {
    writes: Vec<Pending<T>>,
    batch: Arc<Batch>,
    step: Step,
    /// Before the step.
    is_pausing: bool,
    /// Has the step been asked for?
    is_asked: bool,
    /// How the last attempt ended, if it failed.
    fault: Option<Attempt>,
    /// Has an attempt ended without a known outcome?
    may_be_there: bool,
    pause_micros: u64,
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Writer<T> {
    gathering: VecDeque<Pending<T>>,
    /// The accounts of a batch that was refused, each by itself.
    apart: VecDeque<Vec<Pending<T>>>,
    current: Option<Current<T>>,
    /// Those to be told.
    ended: Vec<(T, Result<(), WriteError>)>,
    batch_max: usize,
    batch_bytes_max: usize,
    bytes: usize,
    is_fenced: bool,
    is_unavailable: bool,
}

impl<T> Writer<T> {
    /// A writer whose batches have at most `batch_max` writes and, but for a single large one,
    /// `batch_bytes_max` bytes.
    #[must_use]
    pub fn new(batch_max: usize, batch_bytes_max: usize) -> Self {
        Writer {
            gathering: VecDeque::new(),
            apart: VecDeque::new(),
            current: None,
            ended: Vec::new(),
            batch_max: batch_max.max(1),
            batch_bytes_max,
            bytes: 0,
            is_fenced: false,
            is_unavailable: false,
        }
    }

    /// Takes a write. Whoever hands it over has counted it in `pending_writes`.
    pub fn gather(&mut self, pending: Pending<T>) {
        self.bytes = self.bytes.saturating_add(pending.write.bytes());
        self.gathering.push_back(pending);
    }

    /// The accounts belong to somebody else.
    pub fn fence(&mut self) {
        self.is_fenced = true;
    }

    /// What to do next; nothing while something is being done, or where there is nothing to do.
    pub fn next_task(&mut self) -> Option<Task> {
        while self.current.is_none() {
            self.begin()?;
        }
        let current = self.current.as_mut()?;
        if std::mem::replace(&mut current.is_asked, true) {
            return None;
        }
        if current.is_pausing {
            return Some(Task::Pause(current.pause_micros));
        }
        Some(match current.step {
            Step::Commit => Task::Commit(Arc::clone(&current.batch)),
            Step::Look => Task::Look(Arc::clone(&current.batch)),
            Step::Seal => Task::Seal,
        })
    }

    /// Those whose writes have ended since this was last asked, in the order of their ends.
    pub fn take_ended(&mut self) -> Vec<(T, Result<(), WriteError>)> {
        std::mem::take(&mut self.ended)
    }

    /// Can it write, as far as it knows?
    #[must_use]
    pub fn state(&self) -> WriterState {
        match (self.is_fenced, self.is_unavailable) {
            (true, _) => WriterState::Fenced,
            (false, true) => WriterState::Unavailable,
            (false, false) => WriterState::Serving,
        }
    }

    /// Writes that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        let current = self.current.as_ref().map_or(0, |current| current.writes.len());
        let apart = self.apart.iter().map(Vec::len).fold(current, usize::saturating_add);
        self.gathering.len().saturating_add(apart)
    }

    /// Has everything ended?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the writes that have not ended cost in memory, roughly, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest write that has not ended was handed over.
    #[must_use]
    pub fn oldest_micros(&self) -> Option<u64> {
        let current = self.current.as_ref().and_then(|current| current.writes.first());
        let apart = self.apart.iter().filter_map(|writes| writes.first());
        let waiting = current.into_iter().chain(apart).chain(self.gathering.front());
        waiting.map(|pending| pending.at_micros).min()
    }

    /// How [`Task::Commit`] ended.
    pub fn committed(&mut self, attempt: Attempt) {
        let Some(current) = self.asked(Step::Commit) else { return };
        match attempt {
            Attempt::Durable => {
                self.is_unavailable = false;
                self.finish(Ok(()));
            }
            Attempt::Fenced => {
                // An earlier attempt of unknown outcome may have been committed before the takeover.
                if current.may_be_there {
                    current.fault = Some(attempt);
                    current.go(Step::Look);
                } else {
                    self.finish(Err(WriteError::Fenced));
                }
                self.is_fenced = true;
            }
            Attempt::Refused | Attempt::Unknown => {
                // Whatever this attempt says, the rows may be there by an earlier one.
                current.fault = Some(attempt);
                current.may_be_there |= attempt == Attempt::Unknown;
                current.go(Step::Look);
                self.is_unavailable |= attempt == Attempt::Unknown;
            }
        }
    }

    /// What [`Task::Look`] found: are the rows there? `None` where the database did not answer.
    pub fn looked(&mut self, found: Option<bool>) {
        let Some(current) = self.asked(Step::Look) else { return };
        match (found, current.fault) {
            (Some(true), _) => current.go(Step::Seal),
            // Not found, but it would not be found either way.
            (Some(false), Some(Attempt::Fenced | Attempt::Refused))
                if current.may_be_there && !current.batch.leaves_trace() =>
            {
                self.finish(Err(WriteError::Lost));
            }
            (Some(false), Some(Attempt::Fenced)) => self.finish(Err(WriteError::Fenced)),
            (Some(false), Some(Attempt::Refused)) => self.give_up(),
            (Some(false), _) => current.pause_before(Step::Commit),
            (None, _) => {
                current.pause_before(Step::Look);
                self.is_unavailable = true;
            }
        }
    }

    /// How [`Task::Seal`] ended. What was found is there, whoever owns the accounts now.
    pub fn sealed(&mut self, attempt: Attempt) {
        let Some(current) = self.asked(Step::Seal) else { return };
        match attempt {
            Attempt::Durable => {
                self.is_unavailable = false;
                self.finish(Ok(()));
            }
            Attempt::Fenced => {
                self.is_fenced = true;
                self.finish(Ok(()));
            }
            Attempt::Refused | Attempt::Unknown => {
                current.pause_before(Step::Seal);
                self.is_unavailable = true;
            }
        }
    }

    /// [`Task::Pause`] is over.
    pub fn paused(&mut self) {
        if let Some(current) = self.current.as_mut().filter(|current| current.is_pausing) {
            current.pause_micros = current.pause_micros.saturating_mul(2).min(PAUSE_MAX_MICROS);
            current.go(current.step);
        }
    }

    fn asked(&mut self, step: Step) -> Option<&mut Current<T>> {
        self.current
            .as_mut()
            .filter(|current| current.step == step && current.is_asked && !current.is_pausing)
    }

    /// Makes a batch of what waits. `None` where nothing waits.
    fn begin(&mut self) -> Option<()> {
        let writes = match self.apart.pop_front() {
            Some(writes) => writes,
            None => self.take_gathered(),
        };
        if writes.is_empty() {
            return None;
        }
        // Whose writes were fenced is poisoned too: the reason is still that, whichever batch they were in.
        if self.is_fenced {
            self.fail(writes, WriteError::Fenced);
            return Some(());
        }
        let (lost, writes): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|pending| pending.marks.is_poisoned());
        self.fail(lost, WriteError::Refused);
        let batch = Batch::of(writes.iter().map(|pending| &pending.write));
        if batch.is_empty() {
            self.acknowledge(writes);
            return Some(());
        }
        self.current = Some(Current {
            writes,
            batch: Arc::new(batch),
            step: Step::Commit,
            is_pausing: false,
            is_asked: false,
            fault: None,
            may_be_there: false,
            pause_micros: PAUSE_MIN_MICROS,
        });
        Some(())
    }

    fn take_gathered(&mut self) -> Vec<Pending<T>> {
        let mut bytes: usize = 0;
        let mut count: usize = 0;
        for pending in self.gathering.iter().take(self.batch_max) {
            bytes = bytes.saturating_add(pending.write.bytes());
            if count > 0 && bytes > self.batch_bytes_max {
                break;
            }
            count = count.saturating_add(1);
        }
        self.gathering.drain(..count).collect()
    }

    fn finish(&mut self, result: Result<(), WriteError>) {
        let Some(current) = self.current.take() else { return };
        match result {
            Ok(()) => self.acknowledge(current.writes),
            Err(error) => self.fail(current.writes, error),
        }
    }

    /// After a batch was refused: each account by itself, or, where it is one alone, not at all.
    fn give_up(&mut self) {
        let Some(current) = self.current.take() else { return };
        let mut accounts: BTreeMap<AccountId, Vec<Pending<T>>> = BTreeMap::new();
        for pending in current.writes {
            accounts.entry(pending.write.account).or_default().push(pending);
        }
        if accounts.len() > 1 {
            self.apart.extend(accounts.into_values());
        } else {
            for writes in accounts.into_values() {
                self.fail(writes, WriteError::Refused);
            }
        }
    }

    fn acknowledge(&mut self, writes: Vec<Pending<T>>) {
        // All marks first: who hears of one write may act on all of them.
        for Pending { write, marks, .. } in &writes {
            if let Some(entry) = &write.entry {
                marks.durable_seq.fetch_max(entry.seq, Ordering::AcqRel);
            }
        }
        self.end(writes, Ok(()));
    }

    /// What their accounts hold in memory is ahead of the database for good: they must not decide anything
    /// more.
    fn fail(&mut self, writes: Vec<Pending<T>>, error: WriteError) {
        for pending in &writes {
            pending.marks.poison();
        }
        self.end(writes, Err(error));
    }

    fn end(&mut self, writes: Vec<Pending<T>>, result: Result<(), WriteError>) {
        for Pending { write, marks, ticket, .. } in writes {
            marks.pending_writes.fetch_sub(1, Ordering::AcqRel);
            self.bytes = self.bytes.saturating_sub(write.bytes());
            self.ended.push((ticket, result));
        }
    }
}

impl<T> Current<T> {
    fn go(&mut self, step: Step) {
        (self.step, self.is_pausing, self.is_asked) = (step, false, false);
    }

    fn pause_before(&mut self, step: Step) {
        (self.step, self.is_pausing, self.is_asked) = (step, true, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::batch::Change;
    use crate::domain::ids::KeyId;

    /// A key that is revoked: a change without a trace of its own.
    fn change(account: i64) -> Write {
        let change = Some(Change::KeyRevoked(KeyId(uuid::Uuid::from_u128(1))));
        Write { change, ..Write::nothing(AccountId(account)) }
    }

    fn gather(writer: &mut Writer<u8>, write: Write, marks: &Arc<AccountMarks>, ticket: u8) {
        marks.pending_writes.fetch_add(1, Ordering::AcqRel);
        writer.gather(Pending { write, marks: Arc::clone(marks), at_micros: 0, ticket });
    }

    #[test]
    fn what_waits_behind_a_fenced_batch_of_its_account_is_fenced_too() {
        let mut writer = Writer::new(10, 1_000_000);
        let marks = Arc::new(AccountMarks::default());
        for ticket in 0..2 {
            gather(&mut writer, change(1), &marks, ticket);
            // The first is on its way by itself; the second gathers behind it.
            assert_eq!(writer.next_task().is_some(), ticket == 0);
        }
        writer.committed(Attempt::Fenced);
        assert!(writer.next_task().is_none());
        let fenced = Err(WriteError::Fenced);
        assert_eq!(writer.take_ended(), vec![(0, fenced), (1, fenced)]);
        assert!(marks.is_poisoned());
    }

    #[test]
    fn a_barrier_stays_behind_the_writes_of_a_batch_that_is_split() {
        let mut writer = Writer::new(10, 1_000_000);
        let marks: [Arc<AccountMarks>; 3] = Default::default();
        gather(&mut writer, change(1), &marks[0], 1);
        gather(&mut writer, change(2), &marks[1], 2);
        gather(&mut writer, Write::nothing(AccountId::LAST), &marks[2], 3);
        assert!(matches!(writer.next_task(), Some(Task::Commit(_))));
        writer.committed(Attempt::Refused);
        assert!(matches!(writer.next_task(), Some(Task::Look(_))));
        writer.looked(Some(false));
        for ticket in 1..3 {
            assert!(matches!(writer.next_task(), Some(Task::Commit(_))));
            assert_eq!(writer.take_ended(), []);
            writer.committed(Attempt::Durable);
            assert_eq!(writer.take_ended(), vec![(ticket, Ok(()))]);
        }
        assert!(writer.next_task().is_none());
        assert_eq!(writer.take_ended(), vec![(3, Ok(()))]);
    }

    #[test]
    fn of_a_change_without_a_trace_nobody_is_told_that_it_did_not_happen() {
        for last in [Attempt::Fenced, Attempt::Refused] {
            let mut writer = Writer::new(10, 1_000_000);
            let marks = Arc::new(AccountMarks::default());
            gather(&mut writer, change(1), &marks, 1);
            for attempt in [Attempt::Unknown, last] {
                assert!(matches!(writer.next_task(), Some(Task::Commit(_))));
                writer.committed(attempt);
                assert!(matches!(writer.next_task(), Some(Task::Look(_))));
                writer.looked(Some(false));
                if attempt == Attempt::Unknown {
                    assert!(matches!(writer.next_task(), Some(Task::Pause(_))));
                    writer.paused();
                }
            }
            assert_eq!(writer.take_ended(), vec![(1, Err(WriteError::Lost))]);
        }
    }
}
