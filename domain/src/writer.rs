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
    /// What is to be written; in a box, since it is passed on many times.
    pub write: Box<Write>,
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

/// Where a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The tables.
    Tables,
    /// The journal, under this number of the process.
    Journal(i64),
}

impl Place {
    fn lane(self) -> Lane {
        match self {
            Place::Tables => Lane::Tables,
            Place::Journal(_) => Lane::Journal,
        }
    }
}

/// The two ways of the writer. In each, one thing is done at a time; its outcome is told before anything else is asked
/// for in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// To the journal.
    Journal,
    /// To the tables: what is written there at once, and checkpoints.
    Tables,
}

/// Batches of the journal that are to be checkpointed into the tables.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
    /// All of them, in their order.
    pub batches: Vec<Arc<Batch>>,
    /// When it begins: does something wait for it, or more than as much again for the next one? If not, calls go before.
    pub is_urgent: bool,
}

impl Checkpoint {
    /// What they write together. Work for thousands of writes: not for the thread that gathers new ones meanwhile.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::checkpointed(self.batches.iter().map(Arc::as_ref))
    }
}

/// What the writer wants done.
#[derive(Clone, Debug)]
pub enum Task {
    /// Write the batch in one transaction that checks the lease; then [`Writer::committed`].
    Commit(Arc<Batch>, Place),
    /// Look whether the batch's rows are there; then [`Writer::looked`].
    Look(Arc<Batch>, Place),
    /// Checkpoint batches of the journal into the tables, in one transaction that checks the lease and notes how far the
    /// journal is checkpointed; then [`Writer::checkpointed`].
    Checkpoint(Checkpoint),
    /// Look whether the journal of this process is checkpointed up to this number; then [`Writer::looked_for_checkpoint`].
    LookCheckpointed(i64),
    /// Make one more write durable, so that everything committed before it in the lane is as durable; then
    /// [`Writer::sealed`].
    Seal(Lane),
    /// Wait so many microseconds; then [`Writer::paused`].
    Pause(Lane, u64),
}

impl Task {
    /// The lane it is done in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Task::Commit(_, place) | Task::Look(_, place) => place.lane(),
            Task::Checkpoint(_) | Task::LookCheckpointed(_) => Lane::Tables,
            Task::Seal(lane) | Task::Pause(lane, _) => *lane,
        }
    }
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

/// A batch that is durable in the journal.
#[derive(Debug)]
struct Journaled {
    number: i64,
    /// Which plain write, of all that were ever gathered, it begins with.
    ordinal: u64,
    batch: Arc<Batch>,
    /// Of the accounts that decided it, one for each write.
    marks: Vec<(AccountId, Arc<AccountMarks>)>,
}

#[derive(Clone, Debug)]
enum Work {
    Write(Place, Arc<Batch>),
    Checkpoint(Checkpoint),
}

impl Work {
    /// Could it be told afterwards whether it was written?
    fn leaves_trace(&self) -> bool {
        match self {
            Work::Write(_, batch) => batch.leaves_trace(),
            Work::Checkpoint(_) => true,
        }
    }
}

/// A batch on its way.
#[derive(Debug)]
struct Current<T> {
    work: Work,
    writes: Vec<Pending<T>>,
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

/// What is done in a lane.
#[derive(Debug)]
struct LaneWork<T> {
    current: Option<Current<T>>,
    /// The accounts of a batch that was refused, each by itself.
    apart: VecDeque<Vec<Pending<T>>>,
    is_unavailable: bool,
}

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
    /// What is in the journal, oldest first.
    backlog: VecDeque<Journaled>,
    /// How many writes that is.
    backlog_writes: usize,
    /// Of how many accounts.
    backlog_accounts: usize,
    next_number: i64,
    /// From how many writes in the journal on they are checkpointed; without it there is no journal.
    checkpoint_from: Option<usize>,
    /// So many writes of each account, on average, are waited for, if it does not take too long.
    account_writes: usize,
    /// How many writes are checkpointed in one transaction now at most, or one batch; less than may be after a failure.
    checkpoint_max: usize,
    /// Has nothing come for a while?
    is_rested: bool,
    /// Has what is in the journal been there for so long that it is checkpointed, whatever comes?
    is_overdue: bool,
    /// Those to be told.
    ended: Vec<(T, Result<(), WriteError>)>,
    batch_max: usize,
    batch_bytes_max: usize,
    bytes: usize,
    is_fenced: bool,
}

/// Where no checkpoint is put off, so many times the writes from which on the journal is checkpointed are checkpointed in one transaction
/// at most,
const CHECKPOINTS_AT_ONCE: usize = 16;
/// and, but for a larger `checkpoint_from`, no more than so many: others that write wait for it.
const CHECKPOINT_MAX: usize = 4_096;
/// A checkpoint that is put off for writes of each account is put off, and takes, no more than so many times the writes from
/// which on the journal is checkpointed,
const PUT_OFF: usize = 4;
/// nor, but for a larger `checkpoint_from`, than so many: others that write wait for it, and for too long where it is more.
const PUT_OFF_MAX: usize = 16_384;
/// So many times as many may be in the journal before it takes no more, until some are checkpointed,
const CHECKPOINTS_BEHIND: usize = 64;
/// and, but for a larger `checkpoint_from`, no more than so many: they are in memory, and who starts next checkpoints them first.
const BACKLOG_MAX: usize = 65_536;
/// From half of that on the journal takes its time, more and more: so long for each write where it is full. A checkpoint is
/// faster on any disk that serves.
const BRAKE_MICROS: usize = 100;
/// And for no batch longer than that: who waits for the writer waits for this too.
const BRAKE_MAX_MICROS: u64 = 25_000;

/// So many times `checkpoint_from`, and no more than `max`, but for a larger `checkpoint_from`.
fn multiple(checkpoint_from: usize, times: usize, max: usize) -> usize {
    checkpoint_from.saturating_mul(times).min(max.max(checkpoint_from))
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
            backlog: VecDeque::new(),
            backlog_writes: 0,
            backlog_accounts: 0,
            next_number: 1,
            checkpoint_from: None,
            account_writes: 0,
            checkpoint_max: usize::MAX,
            is_rested: false,
            is_overdue: false,
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
        Writer { checkpoint_from: Some(checkpoint_from.max(1)), account_writes, ..self }
    }

    /// Takes a write. Whoever hands it over has counted it in `pending_writes`.
    pub fn gather(&mut self, pending: Pending<T>) {
        self.bytes = self.bytes.saturating_add(pending.write.bytes());
        self.is_rested = false;
        let account = pending.write.account;
        // A barrier is behind everything, in the tables too.
        let is_plain = pending.write.is_plain() && account != AccountId::LAST;
        if self.checkpoint_from.is_some() && is_plain && !self.in_tables.contains_key(&account) {
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
        self.is_overdue = true;
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
        self.backlog_writes
    }

    /// After a batch of so many writes for the journal: how long the next one waits, in microseconds, where checkpoints do not
    /// keep up. Each caller then waits for a moment, and not all of them at once for a whole checkpoint.
    #[must_use]
    pub fn brake_micros(&self, writes: usize) -> u64 {
        let max = self.behind_max();
        let free = max / 2;
        let over = self.backlog_writes.saturating_sub(free).min(free);
        let of_all = over.saturating_mul(BRAKE_MICROS).saturating_mul(writes);
        let micros = u64::try_from(of_all.checked_div(free).unwrap_or(0)).unwrap_or(u64::MAX);
        micros.min(BRAKE_MAX_MICROS)
    }

    /// How many writes may be in the journal before it takes no more.
    fn behind_max(&self) -> usize {
        multiple(self.checkpoint_from.unwrap_or(0), CHECKPOINTS_BEHIND, BACKLOG_MAX)
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
                if writes_up_to(&self.backlog, last) >= self.checkpoint_max {
                    // More again: soon as much as at most times, then slowly what did perhaps not end in time.
                    let is_little = self.checkpoint_max < self.checkpoint_plainly();
                    let more = if is_little {
                        self.checkpoint_max
                    } else {
                        self.checkpoint_from.unwrap_or(0)
                    };
                    self.checkpoint_max = self.checkpoint_max.saturating_add(more);
                }
                self.finish_checkpoint(&refused);
            }
            Err(Attempt::Fenced) => {
                // Whoever owns the accounts now checkpoints what is left.
                self.is_fenced = true;
                self.tables.current = None;
                self.forget_backlog();
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
        while let Some(journaled) =
            self.backlog.pop_front_if(|front| front.number <= checkpoint.last)
        {
            self.backlog_writes = self.backlog_writes.saturating_sub(journaled.marks.len());
            for (account, marks) in journaled.marks {
                if refused.contains(&account) {
                    marks.poison();
                }
                if marks.backlog_writes.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.backlog_accounts = self.backlog_accounts.saturating_sub(1);
                }
            }
        }
    }

    fn forget_backlog(&mut self) {
        for journaled in self.backlog.drain(..) {
            for (_, marks) in journaled.marks {
                marks.backlog_writes.fetch_sub(1, Ordering::AcqRel);
            }
        }
        (self.backlog_writes, self.backlog_accounts) = (0, 0);
    }

    /// What [`Task::LookCheckpointed`] found: which accounts' entries the tables have refused, where it is checkpointed.
    /// `None` where the database did not answer.
    pub fn looked_for_checkpoint(&mut self, found: Option<Option<Vec<AccountId>>>) {
        let Some(current) = self.tables.asked(Step::Look) else { return };
        let Work::Checkpoint(Checkpoint { last, .. }) = current.work else { return };
        if found.is_some() {
            // Perhaps it was too much to be done in time.
            self.checkpoint_max = (writes_up_to(&self.backlog, last) / 2).max(1);
        }
        match found {
            Some(Some(refused)) => {
                self.tables.is_unavailable = false;
                self.finish_checkpoint(&refused);
            }
            Some(None) => {
                current.pause_before(Step::Commit);
                let (checkpoint, current) = (self.next_checkpoint(), &mut self.tables.current);
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
            current.pause_micros = current.pause_micros.saturating_mul(2).min(PAUSE_MAX_MICROS);
            current.go(current.step);
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
        let behind_max = self.behind_max();
        if self.backlog_writes >= behind_max && !self.is_fenced {
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
            self.forget_backlog();
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
                (is_idle || self.is_checkpoint_due()) && self.begin_checkpoint()
            }
        }
    }

    /// How many writes are waited for, for the sake of the accounts that are in the journal now.
    fn put_off(&self, checkpoint_from: usize) -> usize {
        let wanted = self.backlog_accounts.saturating_mul(self.account_writes);
        wanted.min(multiple(checkpoint_from, PUT_OFF, PUT_OFF_MAX))
    }

    /// Is so much in the journal that it is time to checkpoint some of it?
    fn is_checkpoint_due(&self) -> bool {
        let is_enough = |from| self.backlog_writes >= self.put_off(from).max(from);
        self.is_overdue || self.checkpoint_from.is_some_and(is_enough)
    }

    /// How many writes are checkpointed in one transaction at most, but for a failure before.
    fn checkpoint_most(&self) -> usize {
        self.put_off(self.checkpoint_from.unwrap_or(0)).max(self.checkpoint_plainly())
    }

    /// The same where no accounts are waited for.
    fn checkpoint_plainly(&self) -> usize {
        multiple(self.checkpoint_from.unwrap_or(0), CHECKPOINTS_AT_ONCE, CHECKPOINT_MAX)
    }

    /// The ordinal of the first plain write that is not in the tables, nor given up.
    fn first_backlog(&self) -> u64 {
        if let Some(journaled) = self.backlog.front() {
            return journaled.ordinal;
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
            writes.into_iter().partition(|pending| pending.marks.is_poisoned());
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
        self.is_overdue = false;
        let Some(checkpoint) = self.next_checkpoint() else { return false };
        self.tables.current = Some(Current::of(Work::Checkpoint(checkpoint), Vec::new()));
        true
    }

    /// As much of the journal as is checkpointed at once; where something waits for it, no more than that waits for.
    fn next_checkpoint(&self) -> Option<Checkpoint> {
        let most = self.checkpoint_max.min(self.checkpoint_most());
        let awaited = self.others.front().map_or(u64::MAX, |(after, _)| *after);
        let mut count: usize = 0;
        let taken: Vec<&Journaled> = self
            .backlog
            .iter()
            .take_while(|journaled| {
                let before = count;
                count = count.saturating_add(journaled.marks.len());
                before < most && (before == 0 || journaled.ordinal <= awaited)
            })
            .collect();
        let (first, last) = (taken.first()?.number, taken.last()?.number);
        let batches = taken.into_iter().map(|journaled| Arc::clone(&journaled.batch)).collect();
        let is_behind = self.backlog_writes > count.saturating_mul(2);
        let is_urgent = is_behind || !self.others.is_empty();
        Some(Checkpoint { first, last, batches, is_urgent })
    }

    fn finish(&mut self, lane: Lane, result: Result<(), WriteError>) {
        let Some(current) = self.lane(lane).current.take() else { return };
        match result {
            Ok(()) => {
                if let Work::Write(Place::Journal(number), batch) = current.work {
                    self.note_journaled(number, batch, &current.writes);
                }
                self.acknowledge(lane, current.writes);
            }
            Err(error) => self.fail(lane, current.writes, error),
        }
    }

    /// Before anyone is told: whoever is may let the account go.
    fn note_journaled(&mut self, number: i64, batch: Arc<Batch>, writes: &[Pending<T>]) {
        let marks: Vec<_> = writes
            .iter()
            .map(|pending| (pending.write.account, Arc::clone(&pending.marks)))
            .collect();
        for (_, marks) in &marks {
            if marks.backlog_writes.fetch_add(1, Ordering::AcqRel) == 0 {
                self.backlog_accounts = self.backlog_accounts.saturating_add(1);
            }
        }
        self.backlog_writes = self.backlog_writes.saturating_add(marks.len());
        let ordinal = self.journal_ordinal;
        self.backlog.push_back(Journaled { number, ordinal, batch, marks });
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
        // All marks first: who hears of one write may act on all of them.
        for Pending { write, marks, .. } in &writes {
            if let Some(entry) = &write.entry {
                marks.durable_seq.fetch_max(entry.seq, Ordering::AcqRel);
            }
        }
        self.end(lane, writes, Ok(()));
    }

    /// What their accounts hold in memory is ahead of the database for good: they must not decide anything
    /// more.
    fn fail(&mut self, lane: Lane, writes: Vec<Pending<T>>, error: WriteError) {
        for pending in &writes {
            pending.marks.poison();
        }
        self.end(lane, writes, Err(error));
    }

    fn end(&mut self, lane: Lane, writes: Vec<Pending<T>>, result: Result<(), WriteError>) {
        for Pending { write, marks, ticket, .. } in writes {
            if lane == Lane::Tables
                && let Entry::Occupied(mut count) = self.in_tables.entry(write.account)
            {
                *count.get_mut() = count.get().saturating_sub(1);
                if *count.get() == 0 {
                    count.remove();
                }
            }
            marks.pending_writes.fetch_sub(1, Ordering::AcqRel);
            self.bytes = self.bytes.saturating_sub(write.bytes());
            self.ended.push((ticket, result));
        }
    }
}

/// Writes in the journal up to a batch.
fn writes_up_to(backlog: &VecDeque<Journaled>, last: i64) -> usize {
    let batches = backlog.iter().take_while(|journaled| journaled.number <= last);
    batches.map(|journaled| journaled.marks.len()).sum()
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

impl<T> LaneWork<T> {
    fn idle() -> Self {
        LaneWork { current: None, apart: VecDeque::new(), is_unavailable: false }
    }

    fn is_idle(&self) -> bool {
        self.current.is_none() && self.apart.is_empty()
    }

    fn len(&self) -> usize {
        let current = self.current.as_ref().map_or(0, |current| current.writes.len());
        self.apart.iter().map(Vec::len).fold(current, usize::saturating_add)
    }

    /// The first write of what is being written, and of each part that is to be.
    fn first(&self) -> impl Iterator<Item = &Pending<T>> {
        let current = self.current.iter().filter_map(|current| current.writes.first());
        current.chain(self.apart.iter().filter_map(|writes| writes.first()))
    }

    /// What is to be done now, unless it has been asked for.
    fn ask(&mut self, lane: Lane) -> Option<Task> {
        let current = self.current.as_mut()?;
        if std::mem::replace(&mut current.is_asked, true) {
            return None;
        }
        if current.is_pausing {
            return Some(Task::Pause(lane, current.pause_micros));
        }
        Some(match (current.step, &current.work) {
            (Step::Commit, Work::Write(place, batch)) => Task::Commit(Arc::clone(batch), *place),
            (Step::Look, Work::Write(place, batch)) => Task::Look(Arc::clone(batch), *place),
            (Step::Commit, Work::Checkpoint(checkpoint)) => Task::Checkpoint(checkpoint.clone()),
            (Step::Look, Work::Checkpoint(checkpoint)) => Task::LookCheckpointed(checkpoint.last),
            (Step::Seal, _) => Task::Seal(lane),
        })
    }

    fn asked(&mut self, step: Step) -> Option<&mut Current<T>> {
        self.current
            .as_mut()
            .filter(|current| current.step == step && current.is_asked && !current.is_pausing)
    }
}

impl<T> Current<T> {
    fn of(work: Work, writes: Vec<Pending<T>>) -> Self {
        Current {
            work,
            writes,
            step: Step::Commit,
            is_pausing: false,
            is_asked: false,
            fault: None,
            may_be_there: false,
            pause_micros: PAUSE_MIN_MICROS,
        }
    }

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
    use crate::batch::Change;
    use crate::ids::{ChargeId, KeyId};
    use crate::money::Credits;
    use crate::usage::{Ending, Tally, UsageRecord};
    use crate::window::Timestamp;

    /// A key that is revoked: a change without a trace of its own.
    fn change(account: i64) -> Write {
        let change = Some(Change::KeyRevoked(
            AccountId(1),
            KeyId(uuid::Uuid::from_u128(1)),
            Timestamp::from_micros(1),
        ));
        Write { change, ..Write::nothing(AccountId(account)) }
    }

    fn gather(writer: &mut Writer<u8>, write: Write, marks: &Arc<AccountMarks>, ticket: u8) {
        marks.pending_writes.fetch_add(1, Ordering::AcqRel);
        let write = Box::new(write);
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
        writer.committed(Lane::Tables, Attempt::Fenced);
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
        assert!(matches!(writer.next_task(), Some(Task::Commit(..))));
        writer.committed(Lane::Tables, Attempt::Refused);
        assert!(matches!(writer.next_task(), Some(Task::Look(..))));
        writer.looked(Lane::Tables, Some(false));
        for ticket in 1..3 {
            assert!(matches!(writer.next_task(), Some(Task::Commit(..))));
            assert_eq!(writer.take_ended(), []);
            writer.committed(Lane::Tables, Attempt::Durable);
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
                assert!(matches!(writer.next_task(), Some(Task::Commit(..))));
                writer.committed(Lane::Tables, attempt);
                assert!(matches!(writer.next_task(), Some(Task::Look(..))));
                writer.looked(Lane::Tables, Some(false));
                if attempt == Attempt::Unknown {
                    assert!(matches!(writer.next_task(), Some(Task::Pause(..))));
                    writer.paused(Lane::Tables);
                }
            }
            assert_eq!(writer.take_ended(), vec![(1, Err(WriteError::Lost))]);
            let state = match last {
                Attempt::Fenced => WriterState::Fenced,
                _ => WriterState::Serving,
            };
            assert_eq!(writer.state(), state);
        }
    }

    /// What a call leaves that moves no money.
    fn usage(account: i64) -> Write {
        let usage = UsageRecord {
            id: ChargeId(uuid::Uuid::from_u128(1)),
            account: AccountId(account),
            seq: None,
            key: KeyId(uuid::Uuid::from_u128(1)),
            method: "GET".into(),
            route: "/".into(),
            model: "".into(),
            upstream: "sandbox".into(),
            status: 200,
            cost: Credits::ZERO,
            prompt_tokens: 0,
            completion_tokens: 0,
            ending: Ending::Completed,
            tally: Tally::Reported,
            started_at: Timestamp::from_micros(0),
            latency_micros: 0,
        };
        Write { usage: Some(usage), ..Write::nothing(AccountId(account)) }
    }

    #[test]
    fn a_checkpoint_that_takes_too_long_is_tried_with_less() {
        let mut writer = Writer::new(1, 1_000_000).with_journal(8, 8);
        let marks = Arc::new(AccountMarks::default());
        for _ in 0..8 {
            journal(&mut writer, 1, &marks);
        }
        for last in [8, 4, 2, 1, 1] {
            let Some(Task::Checkpoint(checkpoint)) = writer.next_task() else {
                panic!("no checkpoint")
            };
            assert_eq!((checkpoint.first, checkpoint.last), (1, last));
            assert_eq!(checkpoint.batch().usage.len(), usize::try_from(last).unwrap());
            writer.checkpointed(Err(Attempt::Unknown));
            assert!(
                matches!(writer.next_task(), Some(Task::LookCheckpointed(looked)) if looked == last)
            );
            writer.looked_for_checkpoint(Some(None));
            assert!(matches!(writer.next_task(), Some(Task::Pause(Lane::Tables, _))));
            writer.paused(Lane::Tables);
        }
        // Found checkpointed after all, and what it was refused is known.
        let Some(Task::Checkpoint(_)) = writer.next_task() else { panic!("no checkpoint") };
        writer.checkpointed(Err(Attempt::Unknown));
        assert!(matches!(writer.next_task(), Some(Task::LookCheckpointed(1))));
        assert_eq!(writer.state(), WriterState::Unavailable);
        writer.looked_for_checkpoint(Some(Some(vec![AccountId(1)])));
        assert!(marks.is_poisoned());
        assert_eq!(writer.backlog(), 7);
        // The database has answered, and perhaps nothing else is ever asked of it until calls come in.
        assert_eq!(writer.state(), WriterState::Serving);
    }

    #[test]
    fn the_journal_takes_its_time_where_checkpoints_do_not_keep_up() {
        let mut writer = Writer::new(1, 1_000_000).with_journal(8, 0);
        let marks = Arc::new(AccountMarks::default());
        let mut brakes = Vec::new();
        for backlog in 1..=512 {
            journal(&mut writer, 1, &marks);
            assert_eq!(writer.backlog(), backlog);
            brakes.push(writer.brake_micros(10));
        }
        assert!(brakes.is_sorted());
        assert_eq!((brakes[255], brakes[383], brakes[511]), (0, 500, 1_000));
        assert_eq!(writer.brake_micros(1_000), 25_000);
        assert_eq!(Writer::<u8>::new(1, 1).brake_micros(10), 0);
    }

    #[test]
    fn a_checkpoint_that_is_found_too_late_makes_the_next_ones_smaller() {
        let mut writer = Writer::new(1, 1_000_000).with_journal(8, 8);
        let marks = Arc::new(AccountMarks::default());
        let more = |writer: &mut Writer<u8>, writes: usize| {
            (0..writes).for_each(|_| journal(writer, 1, &marks));
        };
        more(&mut writer, 8);
        assert_eq!(checkpoint_of(writer.next_task()), 8);
        more(&mut writer, 40);
        writer.checkpointed(Err(Attempt::Unknown));
        assert!(matches!(writer.next_task(), Some(Task::LookCheckpointed(8))));
        writer.looked_for_checkpoint(Some(Some(Vec::new())));
        for checkpointed in [4, 8, 16] {
            assert_eq!(checkpoint_of(writer.next_task()), checkpointed);
            writer.checkpointed(Ok(Vec::new()));
        }
    }

    /// Gathers a write of the account, and makes it durable in the journal.
    fn journal(writer: &mut Writer<u8>, account: i64, marks: &Arc<AccountMarks>) {
        gather(writer, usage(account), marks, 0);
        assert!(matches!(writer.next_task(), Some(Task::Commit(_, Place::Journal(_)))));
        writer.committed(Lane::Journal, Attempt::Durable);
    }

    fn checkpoint_of(task: Option<Task>) -> usize {
        let Some(Task::Checkpoint(checkpoint)) = task else { panic!("no checkpoint: {task:?}") };
        checkpoint.batches.len()
    }

    #[test]
    fn what_is_overdue_is_checkpointed_whatever_comes() {
        let mut writer = Writer::new(1, 1_000_000).with_journal(16, 8);
        let marks = Arc::new(AccountMarks::default());
        journal(&mut writer, 1, &marks);
        writer.overdue();
        gather(&mut writer, usage(1), &marks, 0);
        assert!(matches!(writer.next_task(), Some(Task::Commit(_, Place::Journal(2)))));
        assert_eq!(checkpoint_of(writer.next_task()), 1);
        writer.committed(Lane::Journal, Attempt::Durable);
        writer.checkpointed(Ok(Vec::new()));
        assert!(writer.next_task().is_none(), "it is not overdue any more");
    }

    #[test]
    fn what_is_written_into_the_tables_waits_for_no_more_than_was_before_it() {
        let mut writer = Writer::new(1, 1_000_000).with_journal(16, 8);
        let marks: [Arc<AccountMarks>; 3] = Default::default();
        journal(&mut writer, 1, &marks[0]);
        gather(&mut writer, change(2), &marks[1], 0);
        assert_eq!(checkpoint_of(writer.next_task()), 1);
        (0..4).for_each(|_| journal(&mut writer, 1, &marks[0]));
        gather(&mut writer, change(3), &marks[2], 0);
        (0..4).for_each(|_| journal(&mut writer, 1, &marks[0]));
        writer.checkpointed(Ok(Vec::new()));
        assert!(matches!(writer.next_task(), Some(Task::Commit(_, Place::Tables))));
        writer.committed(Lane::Tables, Attempt::Durable);
        assert_eq!(checkpoint_of(writer.next_task()), 4);
    }

    #[test]
    fn a_checkpoint_is_urgent_where_something_waits_for_it_or_more_than_as_much_again() {
        let mut writer = Writer::new(1, 1_000_000).with_journal(16, 0);
        let marks: [Arc<AccountMarks>; 2] = Default::default();
        let is_urgent = |task| match task {
            Some(Task::Checkpoint(checkpoint)) => checkpoint.is_urgent,
            other => panic!("no checkpoint: {other:?}"),
        };
        (0..16).for_each(|_| journal(&mut writer, 1, &marks[0]));
        assert!(!is_urgent(writer.next_task()));
        (0..16).for_each(|_| journal(&mut writer, 1, &marks[0]));
        gather(&mut writer, change(2), &marks[1], 0);
        writer.checkpointed(Ok(Vec::new()));
        assert!(is_urgent(writer.next_task()));
        writer.checkpointed(Ok(Vec::new()));
        assert!(matches!(writer.next_task(), Some(Task::Commit(_, Place::Tables))));
        // While the tables are busy, more than twice as much comes as is checkpointed at once.
        (0..700).for_each(|_| {
            gather(&mut writer, usage(1), &marks[0], 0);
            assert!(matches!(writer.next_task(), Some(Task::Commit(_, Place::Journal(_)))));
            writer.committed(Lane::Journal, Attempt::Durable);
        });
        writer.committed(Lane::Tables, Attempt::Durable);
        let mut urgent = Vec::new();
        while let Some(task) = writer.next_task() {
            urgent.push(is_urgent(Some(task)));
            writer.checkpointed(Ok(Vec::new()));
        }
        assert!(urgent.len() > 2 && urgent[0] && !urgent.last().unwrap(), "{urgent:?}");
    }

    #[test]
    fn a_checkpoint_waits_until_it_has_several_writes_of_each_account() {
        let accounts: Vec<(i64, Arc<AccountMarks>)> =
            (1..=100).map(|account| (account, Arc::default())).collect();
        let mut writer = Writer::new(1, 1_000_000).with_journal(16, 8);
        // One account alone has as many as are wanted anyway.
        for _ in 0..16 {
            assert!(writer.next_task().is_none());
            journal(&mut writer, 1, &accounts[0].1);
        }
        assert_eq!(checkpoint_of(writer.next_task()), 16);
        writer.checkpointed(Ok(Vec::new()));
        // Five in turn, until each has been here so often.
        for (account, marks) in accounts[..5].iter().cycle().take(5 * 8) {
            assert!(writer.next_task().is_none());
            journal(&mut writer, *account, marks);
        }
        assert_eq!(checkpoint_of(writer.next_task()), 5 * 8);
        writer.checkpointed(Ok(Vec::new()));
        // A hundred never are, so it is put off for as long as may be.
        for (account, marks) in accounts.iter().cycle().take(16 * PUT_OFF) {
            assert!(writer.next_task().is_none());
            journal(&mut writer, *account, marks);
        }
        // What comes while it is checkpointed waits for the next time.
        assert_eq!(checkpoint_of(writer.next_task()), 16 * PUT_OFF);
        journal(&mut writer, 1, &accounts[0].1);
        writer.checkpointed(Ok(Vec::new()));
        assert!(writer.next_task().is_none());
        assert_eq!(writer.backlog(), 1);
        assert!(!accounts[0].1.is_checkpointed() && accounts[1].1.is_checkpointed());
    }
}
