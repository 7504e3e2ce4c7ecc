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
//! - What paid calls leave goes to the journal first, a batch as one record, and is acknowledged from there. Beside that,
//!   the journal's batches are checkpointed into the tables, many at once, and leave the journal. So there are two lanes,
//!   and in each one thing is done at a time.
//! - Anything else is written into the tables, when all that was handed over for the journal before it is checkpointed. What
//!   the same account decides meanwhile waits behind it: so each account's writes become durable in the order in which
//!   it decided them.
//! - An account whose journaled entries the tables refuse is poisoned; what they refused is kept.
//! - Once another process owns the accounts, nothing is written or acknowledged any more, but for what turns
//!   out to have been committed before.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use checkpoint::{Backlog, Journaled};
use lane::{Current, LaneWork, Step, Work};
pub use protocol::{Attempt, Checkpoint, Lane, Pending, Place, Task, WriteError, WriterState};

use crate::batch::Batch;
use crate::ids::AccountId;

mod checkpoint;
mod lane;
mod protocol;

/// The machine. See the module.
#[derive(Debug)]
pub struct Writer<T> {
    /// For the journal, each with its ordinal: which of all that were ever gathered it is, from 1 on.
    plain: VecDeque<(u64, Pending<T>)>,
    /// For the tables, each behind the plain writes up to this ordinal.
    others: VecDeque<(u64, Pending<T>)>,
    /// How many writes for the tables each account has, where it has any.
    in_tables: BTreeMap<AccountId, usize>,
    journal: LaneWork<T>,
    tables: LaneWork<T>,
    /// The ordinal that what is done in the journal's lane begins with.
    journal_ordinal: u64,
    /// Plain writes ever gathered.
    gathered: u64,
    /// What is in the journal and not in the tables.
    backlog: Backlog,
    next_number: i64,
    /// Has nothing come for a while?
    is_rested: bool,
    /// Those to be told.
    ended: Vec<(T, Result<(), WriteError>)>,
    batch_max: usize,
    batch_bytes_max: usize,
    bytes: usize,
    is_fenced: bool,
}

impl<T> Writer<T> {
    /// A writer whose batches have at most `batch_max` writes and, but for a single large one,
    /// `batch_bytes_max` bytes.
    #[must_use]
    pub fn new(batch_max: usize, batch_bytes_max: usize) -> Self {
        Writer {
            plain: VecDeque::new(),
            others: VecDeque::new(),
            in_tables: BTreeMap::new(),
            journal: LaneWork::idle(),
            tables: LaneWork::idle(),
            journal_ordinal: 0,
            gathered: 0,
            backlog: Backlog::none(),
            next_number: 1,
            is_rested: false,
            ended: Vec::new(),
            batch_max: batch_max.max(1),
            batch_bytes_max,
            bytes: 0,
            is_fenced: false,
        }
    }

    /// The same, with a journal, which is checkpointed from `checkpoint_from` writes on, or where nothing has come for a while
    /// ([`Writer::rested`]), or where something waits for it. Where each account in a checkpoint costs pages of its own,
    /// checkpoints are put off until there are `account_writes` writes of each in them, on average, or a multiple of
    /// `checkpoint_from`, or until something waits for it ([`Writer::overdue`]).
    #[must_use]
    pub fn with_journal(self, checkpoint_from: usize, account_writes: usize) -> Self {
        Writer { backlog: Backlog::of_journal(checkpoint_from, account_writes), ..self }
    }

    /// Takes a write. Whoever hands it over has counted it in `pending_writes`.
    pub fn gather(&mut self, pending: Pending<T>) {
        self.bytes = self.bytes.saturating_add(pending.write.bytes());
        self.is_rested = false;
        let account = pending.write.account;
        // A barrier is behind everything, in the tables too.
        let is_plain = pending.write.is_plain() && account != AccountId::LAST;
        if self.backlog.has_journal() && is_plain && !self.in_tables.contains_key(&account) {
            self.gathered = self.gathered.saturating_add(1);
            self.plain.push_back((self.gathered, pending));
        } else {
            let count = self.in_tables.entry(account).or_default();
            *count = count.saturating_add(1);
            self.others.push_back((self.gathered, pending));
        }
    }

    /// Nothing has come for a while: time to checkpoint what little is in the journal.
    pub fn rested(&mut self) {
        self.is_rested = true;
    }

    /// What is in the journal has been there for long enough.
    pub fn overdue(&mut self) {
        self.backlog.overdue();
    }

    /// The accounts belong to somebody else.
    pub fn fence(&mut self) {
        self.is_fenced = true;
    }

    /// Something to do; nothing where all there is to do is being done. To be asked until it says nothing.
    pub fn next_task(&mut self) -> Option<Task> {
        while self.journal.current.is_none() && self.begin_journal() {}
        if let Some(task) = self.journal.ask(Lane::Journal) {
            return Some(task);
        }
        while self.tables.current.is_none() && self.begin_tables() {}
        self.tables.ask(Lane::Tables)
    }

    /// Those whose writes have ended since this was last asked, in the order of their ends.
    pub fn take_ended(&mut self) -> Vec<(T, Result<(), WriteError>)> {
        std::mem::take(&mut self.ended)
    }

    /// Can it write, as far as it knows?
    #[must_use]
    pub fn state(&self) -> WriterState {
        if self.is_fenced {
            WriterState::Fenced
        } else if self.journal.is_unavailable || self.tables.is_unavailable {
            WriterState::Unavailable
        } else {
            WriterState::Serving
        }
    }

    /// Writes that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        let waiting = self.plain.len().saturating_add(self.others.len());
        waiting.saturating_add(self.journal.len()).saturating_add(self.tables.len())
    }

    /// Has everything ended, and is everything in the tables?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.backlog.is_empty()
    }

    /// Writes that are durable in the journal, and not in the tables.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.writes()
    }

    /// After a batch of so many writes for the journal: how long the next one waits, in microseconds, where checkpoints do not
    /// keep up. Each caller then waits for a moment, and not all of them at once for a whole checkpoint.
    #[must_use]
    pub fn brake_micros(&self, writes: usize) -> u64 {
        self.backlog.brake_micros(writes)
    }

    /// What the writes that have not ended cost in memory, roughly, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest write that has not ended was handed over.
    #[must_use]
    pub fn oldest_micros(&self) -> Option<u64> {
        let waiting = self.plain.front().into_iter().chain(self.others.front());
        let waiting = waiting.map(|(_, pending)| pending);
        let waiting = waiting.chain(self.journal.first()).chain(self.tables.first());
        waiting.map(|pending| pending.at_micros).min()
    }

    /// How [`Task::Commit`] ended.
    pub fn committed(&mut self, lane: Lane, attempt: Attempt) {
        let work = self.lane(lane);
        let Some(current) = work.asked(Step::Commit) else { return };
        match attempt {
            Attempt::Durable => {
                work.is_unavailable = false;
                self.finish(lane, Ok(()));
            }
            Attempt::Fenced => {
                // An earlier attempt of unknown outcome may have been committed before the takeover.
                if current.may_be_there {
                    current.fault = Some(attempt);
                    current.go(Step::Look);
                } else {
                    self.finish(lane, Err(WriteError::Fenced));
                }
                self.is_fenced = true;
            }
            Attempt::Refused | Attempt::Unknown => {
                // Whatever this attempt says, the rows may be there by an earlier one.
                current.fault = Some(attempt);
                current.may_be_there |= attempt == Attempt::Unknown;
                current.go(Step::Look);
                // Who refuses has answered.
                work.is_unavailable = attempt == Attempt::Unknown;
            }
        }
    }

    /// How [`Task::Checkpoint`] ended: where it is durable, which accounts' entries the tables refuse.
    pub fn checkpointed(&mut self, result: Result<Vec<AccountId>, Attempt>) {
        let Some(current) = self.tables.asked(Step::Commit) else { return };
        let Work::Checkpoint(Checkpoint { last, .. }) = current.work else { return };
        match result {
            Ok(refused) => {
                self.tables.is_unavailable = false;
                self.backlog.grow(last);
                self.finish_checkpoint(&refused);
            }
            Err(Attempt::Fenced) => {
                // Whoever owns the accounts now checkpoints what is left.
                self.is_fenced = true;
                self.tables.current = None;
                self.backlog.drop_all();
            }
            Err(_) => {
                current.go(Step::Look);
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

    /// What [`Task::LookCheckpointed`] found: which accounts' entries the tables have refused, where it is checkpointed.
    /// `None` where the database did not answer.
    pub fn looked_for_checkpoint(&mut self, found: Option<Option<Vec<AccountId>>>) {
        let Some(current) = self.tables.asked(Step::Look) else { return };
        let Work::Checkpoint(Checkpoint { last, .. }) = current.work else { return };
        if found.is_some() {
            // Perhaps it was too much to be done in time.
            self.backlog.shrink(last);
        }
        match found {
            Some(Some(refused)) => {
                self.tables.is_unavailable = false;
                self.finish_checkpoint(&refused);
            }
            Some(None) => {
                current.pause_before(Step::Commit);
                let (checkpoint, current) =
                    (self.backlog.next(self.awaited()), &mut self.tables.current);
                if let (Some(checkpoint), Some(current)) = (checkpoint, current) {
                    current.work = Work::Checkpoint(checkpoint);
                }
            }
            None => current.pause_before(Step::Look),
        }
    }

    /// What [`Task::Look`] found: is it there? `None` where the database did not answer.
    pub fn looked(&mut self, lane: Lane, found: Option<bool>) {
        let work = self.lane(lane);
        let Some(current) = work.asked(Step::Look) else { return };
        match (found, current.fault) {
            (Some(true), _) => current.go(Step::Seal),
            // Not found, but it would not be found either way.
            (Some(false), Some(Attempt::Fenced | Attempt::Refused))
                if current.may_be_there && !current.work.leaves_trace() =>
            {
                self.finish(lane, Err(WriteError::Lost));
            }
            (Some(false), Some(Attempt::Fenced)) => self.finish(lane, Err(WriteError::Fenced)),
            (Some(false), Some(Attempt::Refused)) => self.give_up(lane),
            (Some(false), _) => current.pause_before(Step::Commit),
            (None, _) => {
                current.pause_before(Step::Look);
                work.is_unavailable = true;
            }
        }
    }

    /// How [`Task::Seal`] ended. What was found is there, whoever owns the accounts now.
    pub fn sealed(&mut self, lane: Lane, attempt: Attempt) {
        let work = self.lane(lane);
        let Some(current) = work.asked(Step::Seal) else { return };
        match attempt {
            Attempt::Durable => {
                work.is_unavailable = false;
                self.finish(lane, Ok(()));
            }
            Attempt::Fenced => {
                self.is_fenced = true;
                self.finish(lane, Ok(()));
            }
            Attempt::Refused | Attempt::Unknown => {
                current.pause_before(Step::Seal);
                work.is_unavailable = true;
            }
        }
    }

    /// [`Task::Pause`] is over.
    pub fn paused(&mut self, lane: Lane) {
        let work = self.lane(lane);
        if let Some(current) = work.current.as_mut().filter(|current| current.is_pausing) {
            current.end_pause();
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneWork<T> {
        match lane {
            Lane::Journal => &mut self.journal,
            Lane::Tables => &mut self.tables,
        }
    }

    /// Makes a batch for the journal of what waits for it. Is there perhaps more to do?
    fn begin_journal(&mut self) -> bool {
        if let Some(writes) = self.journal.apart.pop_front() {
            self.begin_write(Lane::Journal, writes);
            return true;
        }
        let Some((ordinal, _)) = self.plain.front() else { return false };
        if self.backlog.is_full() && !self.is_fenced {
            return false;
        }
        self.journal_ordinal = *ordinal;
        let (batch_max, bytes_max) = (self.batch_max, self.batch_bytes_max);
        let writes = take(&mut self.plain, batch_max, bytes_max, |_| true);
        self.begin_write(Lane::Journal, writes);
        true
    }

    /// Makes a batch for the tables of what waits for them, or a checkpoint of what is in the journal. Is there perhaps more
    /// to do?
    fn begin_tables(&mut self) -> bool {
        if self.is_fenced {
            self.backlog.drop_all();
        }
        if let Some(writes) = self.tables.apart.pop_front() {
            self.begin_write(Lane::Tables, writes);
            return true;
        }
        let backlog_from = self.first_backlog();
        let is_ready = |(after, _): &(u64, Pending<T>)| *after < backlog_from;
        match self.others.front() {
            Some(first) if is_ready(first) => {
                let (batch_max, bytes_max) = (self.batch_max, self.batch_bytes_max);
                let writes = take(&mut self.others, batch_max, bytes_max, is_ready);
                self.begin_write(Lane::Tables, writes);
                true
            }
            Some(_) => self.begin_checkpoint(),
            None => {
                let is_idle = self.is_rested && self.plain.is_empty() && self.journal.len() == 0;
                (is_idle || self.backlog.is_due()) && self.begin_checkpoint()
            }
        }
    }

    /// The ordinal of the first plain write that is not in the tables, nor given up.
    fn first_backlog(&self) -> u64 {
        if let Some(ordinal) = self.backlog.first_ordinal() {
            return ordinal;
        }
        if !self.journal.is_idle() {
            return self.journal_ordinal;
        }
        self.plain.front().map_or(self.gathered.saturating_add(1), |(ordinal, _)| *ordinal)
    }

    /// Begins to write what is left to be written of these.
    fn begin_write(&mut self, lane: Lane, writes: Vec<Pending<T>>) {
        // Whose writes were fenced is poisoned too: the reason is still that, whichever batch they were in.
        if self.is_fenced {
            self.fail(lane, writes, WriteError::Fenced);
            return;
        }
        let (lost, writes): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|pending| pending.flags.is_poisoned());
        self.fail(lane, lost, WriteError::Refused);
        let batch = Batch::of(writes.iter().map(|pending| &*pending.write));
        if batch.is_empty() {
            self.acknowledge(lane, writes);
            return;
        }
        let place = match lane {
            Lane::Tables => Place::Tables,
            Lane::Journal => {
                let number = self.next_number;
                self.next_number = number.saturating_add(1);
                Place::Journal(number)
            }
        };
        self.lane(lane).current = Some(Current::of(Work::Write(place, Arc::new(batch)), writes));
    }

    /// Begins to checkpoint what is in the journal, if anything is.
    fn begin_checkpoint(&mut self) -> bool {
        let Some(checkpoint) = self.backlog.begin(self.awaited()) else { return false };
        self.tables.current = Some(Current::of(Work::Checkpoint(checkpoint), Vec::new()));
        true
    }

    /// Up to which of the journal's writes the first write for the tables waits, if there is one.
    fn awaited(&self) -> Option<u64> {
        self.others.front().map(|(after, _)| *after)
    }

    fn finish(&mut self, lane: Lane, result: Result<(), WriteError>) {
        let Some(current) = self.lane(lane).current.take() else { return };
        match result {
            Ok(()) => {
                if let Work::Write(Place::Journal(number), batch) = current.work {
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

    /// After a batch was refused: each account by itself, or, where it is one alone, not at all.
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

    fn acknowledge(&mut self, lane: Lane, writes: Vec<Pending<T>>) {
        // All flags first: who hears of one write may act on all of them.
        for Pending { write, flags, .. } in &writes {
            if let Some(entry) = &write.entry {
                flags.durable_seq.fetch_max(entry.seq, Ordering::AcqRel);
            }
        }
        self.end(lane, writes, Ok(()));
    }

    /// What their accounts hold in memory is ahead of the database for good: they must not decide anything
    /// more.
    fn fail(&mut self, lane: Lane, writes: Vec<Pending<T>>, error: WriteError) {
        for pending in &writes {
            pending.flags.poison();
        }
        self.end(lane, writes, Err(error));
    }

    fn end(&mut self, lane: Lane, writes: Vec<Pending<T>>, result: Result<(), WriteError>) {
        for Pending { write, flags, ticket, .. } in writes {
            if lane == Lane::Tables
                && let Entry::Occupied(mut count) = self.in_tables.entry(write.account)
            {
                *count.get_mut() = count.get().saturating_sub(1);
                if *count.get() == 0 {
                    count.remove();
                }
            }
            flags.pending_writes.fetch_sub(1, Ordering::AcqRel);
            self.bytes = self.bytes.saturating_sub(write.bytes());
            self.ended.push((ticket, result));
        }
    }
}

/// The first of what waits, as long as each `may` go: a batch.
fn take<T>(
    waiting: &mut VecDeque<(u64, Pending<T>)>,
    batch_max: usize,
    bytes_max: usize,
    may: impl Fn(&(u64, Pending<T>)) -> bool,
) -> Vec<Pending<T>> {
    let (mut bytes, mut count): (usize, usize) = (0, 0);
    for one in waiting.iter().take(batch_max).take_while(|one| may(one)) {
        bytes = bytes.saturating_add(one.1.write.bytes());
        if count > 0 && bytes > bytes_max {
            break;
        }
        count = count.saturating_add(1);
    }
    waiting.drain(..count).map(|(_, pending)| pending).collect()
}

#[cfg(test)]
mod tests;
