//! The ledger writer: group commit, a write-ahead log, checkpoints and backpressure, as a state
//! machine without I/O.
//!
//! The driver is an actor in production and the simulation in tests. It hands over writes
//! ([`Writer::gather`]) and the outcomes of tasks. It carries out the tasks that the writer asks
//! for ([`Writer::next_task`]), and answers the callers whose writes have ended
//! ([`Writer::take_ended`]).
//!
//! ```text
//!                    +-- journal lane ---------+      +-- tables lane -----------------+
//!   plain writes --> | batch -> journal commit | ---> | backlog -> checkpoint          |
//!   (paid calls,     +------------+------------+      |                                |
//!   changed keys)                 |                   |                                |
//!   other writes -----------------|-----------------> | batch -> commit                |
//!   (payments, ...)               v                   +---------------+----------------+
//!                           acknowledged                         acknowledged
//! ```
//!
//! **Group commit.** While one batch commits, the next one gathers. There is no timer: an idle
//! writer commits a single write at once.
//!
//! **Write-ahead log.** The writes of paid calls and changes of keys are *plain*
//! ([`Write::is_plain`](crate::Write::is_plain)). They are appended to the journal, one record for
//! each batch, and acknowledged when they are durable there. All other writes are committed to the
//! tables. There are two lanes, and each does one task at a time.
//!
//! **Checkpoint.** At the same time, batches of the journal are written to the tables, many in one
//! transaction, and leave the journal. The backlog is the batches that are durable in the journal
//! and not yet in the tables (`checkpoint.rs`).
//!
//! **Order.** A write for the tables waits until all earlier writes of the journal are
//! checkpointed. Later writes of the same account wait for it. So the writes of an account become
//! durable in the order in which the account decided them.
//!
//! **Changes of keys.** A change of a key never waits for a checkpoint: an owner who revokes a
//! stolen key is answered as fast as a paid call. So it overtakes its account's writes that wait
//! for the tables, unless one of them makes or changes the same key. The others touch no row of the
//! key. A full backlog takes a change of a key too, after the earlier writes of its account.
//!
//! **Backpressure.** If checkpoints fall behind, each batch of the journal is delayed a little
//! ([`Writer::brake_micros`]). If the backlog is full, the journal takes no more until a checkpoint
//! has ended.
//!
//! **Failures.**
//!
//! - No caller is answered `Ok` before its batch is known to be durable.
//! - A commit with an *unknown* outcome is neither acknowledged nor given up. The writer looks for
//!   the batch's rows by their numbers. If they are not there, it writes the same rows again. If
//!   they are there, it makes one more write durable (a flush) before it acknowledges them. The
//!   reason: a commit that was cut off may be on the database's own disk and not yet on its
//!   standby.
//! - If the database *refuses* rows, the batch is split by account, and only the accounts at fault
//!   fail. Those accounts are poisoned: what they hold in memory will never be written, so they
//!   must be loaded again.
//! - If the tables refuse entries of an account at a checkpoint, the account is poisoned, and the
//!   entries are kept for an operator.
//! - Once the writer is *fenced* (another process owns the accounts), it writes and acknowledges
//!   nothing more. The exception is a batch that turns out to have been committed before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use checkpoint::Backlog;
use lane::{Current, LaneWork, Work};
pub use protocol::{
    Checkpoint, CheckpointOutcome, CommitOutcome, Lane, Pending, Target, Task, WriteError,
    WriterState,
};

use crate::batch::{Batch, Write};
use crate::ids::{AccountId, KeyId};

mod checkpoint;
mod lane;
mod outcomes;
mod protocol;

/// An account's writes for the tables that have not ended.
#[derive(Debug, Default)]
struct InTables {
    writes: usize,
    /// The keys that these writes make or change.
    keys: Vec<KeyId>,
}

impl InTables {
    fn add(&mut self, write: &Write) {
        self.writes = self.writes.saturating_add(1);
        self.keys.extend(write.touched_key());
    }

    /// Returns true if that was the last one.
    fn remove(&mut self, write: &Write) -> bool {
        self.writes = self.writes.saturating_sub(1);
        let key = write.touched_key();
        if let Some(place) = self.keys.iter().position(|touched| Some(*touched) == key) {
            self.keys.swap_remove(place);
        }
        self.writes == 0
    }

    /// Says whether this write may be journaled before the others are in the tables.
    fn may_be_overtaken_by(&self, write: &Write) -> bool {
        write.is_key_change() && write.touched_key().is_some_and(|key| !self.keys.contains(&key))
    }
}

/// The state machine. `T` is what the driver needs to answer a caller.
#[derive(Debug)]
pub struct Writer<T> {
    /// The writes that wait for the journal, each with its ordinal: its number among all plain
    /// writes ever gathered, from 1 on.
    plain: VecDeque<(u64, Pending<T>)>,
    /// The writes that wait for the tables. Each waits for the plain writes up to its ordinal.
    others: VecDeque<(u64, Pending<T>)>,
    /// The number of changes of keys in `plain`.
    key_changes: usize,
    /// Writes for the tables that have not ended, by account.
    in_tables: BTreeMap<AccountId, InTables>,
    journal: LaneWork<T>,
    tables: LaneWork<T>,
    /// The ordinal of the first write that the journal's lane works on.
    journal_ordinal: u64,
    /// The number of plain writes ever gathered.
    gathered: u64,
    /// The batches that are durable in the journal and not yet in the tables.
    backlog: Backlog,
    next_number: i64,
    /// Whether no write has come for a while.
    is_rested: bool,
    /// Writes that have ended, for [`Writer::take_ended`].
    ended: Vec<(T, Result<(), WriteError>)>,
    batch_max: usize,
    batch_bytes_max: usize,
    bytes: usize,
    is_fenced: bool,
}

impl<T> Writer<T> {
    /// Makes a writer without a journal. A batch has at most `batch_max` writes and at most
    /// `batch_bytes_max` bytes, unless it is a single large write.
    #[must_use]
    pub fn new(batch_max: usize, batch_bytes_max: usize) -> Self {
        Writer {
            plain: VecDeque::new(),
            others: VecDeque::new(),
            key_changes: 0,
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

    /// Adds a journal. A checkpoint begins if `checkpoint_from` writes are in the backlog, if no
    /// write has come for a while ([`Writer::rested`]), or if a write for the tables waits for it.
    ///
    /// Each account in a checkpoint costs pages of its own. So a checkpoint is put off until the
    /// backlog has `account_writes` writes of each account on average. It is put off no longer than
    /// until the backlog has a multiple of `checkpoint_from`, or until [`Writer::overdue`].
    #[must_use]
    pub fn with_journal(self, checkpoint_from: usize, account_writes: usize) -> Self {
        Writer { backlog: Backlog::of_journal(checkpoint_from, account_writes), ..self }
    }

    /// Takes a write. The caller must have counted it in
    /// [`AccountFlags::pending_writes`](crate::AccountFlags::pending_writes).
    pub fn gather(&mut self, pending: Pending<T>) {
        self.bytes = self.bytes.saturating_add(pending.write.bytes());
        self.is_rested = false;
        let account = pending.write.account;
        // A barrier waits for all writes, those in the journal and those for the tables.
        let is_plain = pending.write.is_plain() && account != AccountId::LAST;
        let is_key_change = pending.write.is_key_change();
        let waiting = self.in_tables.get(&account);
        let is_free = waiting.is_none_or(|waiting| waiting.may_be_overtaken_by(&pending.write));
        if self.backlog.has_journal() && is_plain && is_free {
            self.gathered = self.gathered.saturating_add(1);
            self.key_changes = self.key_changes.saturating_add(usize::from(is_key_change));
            self.plain.push_back((self.gathered, pending));
        } else {
            self.in_tables.entry(account).or_default().add(&pending.write);
            self.others.push_back((self.gathered, pending));
        }
    }

    /// Called if no write has come for a while. A backlog of any size may then be checkpointed.
    pub fn rested(&mut self) {
        self.is_rested = true;
    }

    /// Called if the backlog has waited long enough. It is checkpointed next.
    pub fn overdue(&mut self) {
        self.backlog.overdue();
    }

    /// Called if another process owns the accounts.
    pub fn fence(&mut self) {
        self.is_fenced = true;
    }

    /// Returns the next task to carry out. Call it again until it returns `None`: all work is then
    /// on its way.
    pub fn next_task(&mut self) -> Option<Task> {
        while self.journal.current.is_none() && self.begin_journal() {}
        if let Some(task) = self.journal.ask(Lane::Journal) {
            return Some(task);
        }
        while self.tables.current.is_none() && self.begin_tables() {}
        self.tables.ask(Lane::Tables)
    }

    /// Returns the writes that have ended since the last call, in that order.
    pub fn take_ended(&mut self) -> Vec<(T, Result<(), WriteError>)> {
        std::mem::take(&mut self.ended)
    }

    /// Says whether the writer can take writes, as far as it knows.
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

    /// The number of writes that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        let waiting = self.plain.len().saturating_add(self.others.len());
        waiting.saturating_add(self.journal.len()).saturating_add(self.tables.len())
    }

    /// Says whether every write has ended and is in the tables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.backlog.is_empty()
    }

    /// The number of writes that are durable in the journal and not in the tables.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.writes()
    }

    /// Backpressure: how many microseconds the next batch waits after a journal batch of `writes`
    /// writes, if checkpoints fall behind. So each caller waits a little. Without it, all callers
    /// would wait for a whole checkpoint.
    #[must_use]
    pub fn brake_micros(&self, writes: usize) -> u64 {
        self.backlog.brake_micros(writes)
    }

    /// The estimated memory of the writes that have not ended, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest write that has not ended was handed over, in microseconds of the driver's
    /// clock. `None` if there is none.
    #[must_use]
    pub fn oldest_micros(&self) -> Option<u64> {
        let waiting = self.plain.front().into_iter().chain(self.others.front());
        let waiting = waiting.map(|(_, pending)| pending);
        let waiting = waiting.chain(self.journal.first()).chain(self.tables.first());
        waiting.map(|pending| pending.at_micros).min()
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneWork<T> {
        match lane {
            Lane::Journal => &mut self.journal,
            Lane::Tables => &mut self.tables,
        }
    }

    /// Begins a batch for the journal. Returns false if there is nothing to begin.
    fn begin_journal(&mut self) -> bool {
        if let Some(writes) = self.journal.apart.pop_front() {
            self.begin_write(Lane::Journal, writes);
            return true;
        }
        let Some((ordinal, _)) = self.plain.front() else { return false };
        let ordinal = *ordinal;
        let writes = if self.backlog.is_full() && !self.is_fenced {
            self.take_key_change()
        } else {
            let mut is_over = false;
            take(&mut self.plain, self.batch_max, self.batch_bytes_max, |(_, pending)| {
                !std::mem::replace(&mut is_over, pending.write.sets_limits())
            })
        };
        let changes = writes.iter().filter(|pending| pending.write.is_key_change()).count();
        self.key_changes = self.key_changes.saturating_sub(changes);
        if writes.is_empty() {
            return false;
        }
        // A change of a key may have overtaken earlier writes. What waits for those then waits for
        // it too.
        self.journal_ordinal = ordinal;
        self.begin_write(Lane::Journal, writes);
        true
    }

    /// Takes the first change of a key that waits for the journal, and its account's writes before
    /// it.
    fn take_key_change(&mut self) -> Vec<Pending<T>> {
        if self.key_changes == 0 {
            return Vec::new();
        }
        let is_change = |(_, pending): &(u64, Pending<T>)| pending.write.is_key_change();
        let Some(place) = self.plain.iter().position(is_change) else { return Vec::new() };
        let account = self.plain.get(place).map(|(_, pending)| pending.write.account);
        let mut taken = Vec::new();
        let after = self.plain.split_off(place.saturating_add(1));
        for (ordinal, pending) in std::mem::take(&mut self.plain) {
            if Some(pending.write.account) == account && taken.len() < self.batch_max {
                taken.push(pending);
            } else {
                self.plain.push_back((ordinal, pending));
            }
        }
        self.plain.extend(after);
        taken
    }

    /// Begins a batch for the tables, or a checkpoint. Returns false if there is nothing to begin.
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

    /// The ordinal of the first plain write that is neither in the tables nor given up.
    fn first_backlog(&self) -> u64 {
        if let Some(ordinal) = self.backlog.first_ordinal() {
            return ordinal;
        }
        if !self.journal.is_idle() {
            return self.journal_ordinal;
        }
        self.plain.front().map_or(self.gathered.saturating_add(1), |(ordinal, _)| *ordinal)
    }

    /// Begins a batch of these writes. Those that may not be written any more fail.
    fn begin_write(&mut self, lane: Lane, writes: Vec<Pending<T>>) {
        // A fenced account is poisoned too, but its later writes must fail as fenced.
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
        let target = match lane {
            Lane::Tables => Target::Tables,
            Lane::Journal => {
                let number = self.next_number;
                self.next_number = number.saturating_add(1);
                Target::Journal(number)
            }
        };
        self.lane(lane).current = Some(Current::of(Work::Write(target, Arc::new(batch)), writes));
    }

    /// Begins a checkpoint. Returns false if the backlog is empty.
    fn begin_checkpoint(&mut self) -> bool {
        let Some(checkpoint) = self.backlog.begin(self.first_waiting()) else { return false };
        self.tables.current = Some(Current::of(Work::Checkpoint(checkpoint), Vec::new()));
        true
    }

    /// The ordinal up to which the first write for the tables waits. `None` if no such write waits.
    fn first_waiting(&self) -> Option<u64> {
        self.others.front().map(|(after, _)| *after)
    }
}

/// Takes a batch of the first waiting writes, as long as `may` holds for each.
fn take<T>(
    waiting: &mut VecDeque<(u64, Pending<T>)>,
    batch_max: usize,
    bytes_max: usize,
    mut may: impl FnMut(&(u64, Pending<T>)) -> bool,
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
