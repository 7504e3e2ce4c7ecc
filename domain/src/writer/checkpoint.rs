//! The backlog: batches that are durable in the journal and not yet in the tables. Decides when
//! they are checkpointed.
//!
//! A checkpoint costs the pages of the tables that its accounts touch, so many writes of each
//! account at once are cheaper. But other writes wait for a checkpoint, so its size has a limit.
//! The constants below set both limits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::protocol::Checkpoint;
use crate::account::AccountFlags;
use crate::batch::Batch;
use crate::ids::AccountId;

/// Largest checkpoint, as a multiple of `checkpoint_from`, if no checkpoint is put off.
const CHECKPOINTS_AT_ONCE: usize = 16;
/// Hard cap on such a checkpoint, because other writes wait for it. A larger `checkpoint_from`
/// wins.
const CHECKPOINT_MAX: usize = 4_096;
/// A checkpoint is put off to collect more writes of each account until there are this many times
/// `checkpoint_from`.
pub(super) const PUT_OFF: usize = 4;
/// Hard cap on a checkpoint that was put off, because other writes wait for it. A larger
/// `checkpoint_from` wins.
const PUT_OFF_MAX: usize = 16_384;
/// Largest backlog, as a multiple of `checkpoint_from`. The journal takes no more writes until a
/// checkpoint has ended.
const CHECKPOINTS_BEHIND: usize = 64;
/// Hard cap on the backlog: it is in memory, and after a restart it is checkpointed first. A larger
/// `checkpoint_from` wins.
const BACKLOG_MAX: usize = 65_536;
/// Backpressure: above half of the largest backlog each write is delayed, up to this long when it
/// is full. A checkpoint is faster than that on any usable disk.
const BRAKE_MICROS: usize = 100;
/// Longest delay of one batch, because everything that waits for the writer waits for this too.
const BRAKE_MAX_MICROS: u64 = 25_000;

/// Returns `times` times `checkpoint_from`, but at most `max` unless `checkpoint_from` alone is
/// larger.
fn multiple(checkpoint_from: usize, times: usize, max: usize) -> usize {
    checkpoint_from.saturating_mul(times).min(max.max(checkpoint_from))
}

/// A batch that is durable in the journal.
#[derive(Debug)]
pub(super) struct Journaled {
    pub(super) number: i64,
    /// The ordinal of the batch's first write, among all writes ever gathered for the journal.
    pub(super) ordinal: u64,
    pub(super) batch: Arc<Batch>,
    /// For each write, the account that decided it, and its flags.
    pub(super) flags: Vec<(AccountId, Arc<AccountFlags>)>,
}

/// The batches that are in the journal and not in the tables, and when to checkpoint them.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The batches, oldest first.
    batches: VecDeque<Journaled>,
    /// The number of writes in the batches.
    writes: usize,
    /// The number of accounts in the batches.
    accounts: usize,
    /// A checkpoint is made from this many writes on. `None` if there is no journal.
    checkpoint_from: Option<usize>,
    /// A checkpoint is put off until each account has this many writes on average, if that does not
    /// take too long.
    account_writes: usize,
    /// The most writes in one checkpoint, unless a single batch has more. A failure lowers it.
    checkpoint_max: usize,
    /// Whether the backlog has waited so long that it must be checkpointed.
    is_overdue: bool,
}

impl Backlog {
    /// The backlog of a writer without a journal: always empty.
    pub(super) fn none() -> Self {
        Backlog {
            batches: VecDeque::new(),
            writes: 0,
            accounts: 0,
            checkpoint_from: None,
            account_writes: 0,
            checkpoint_max: usize::MAX,
            is_overdue: false,
        }
    }

    /// Starts empty. See [`Writer::with_journal`](super::Writer::with_journal).
    pub(super) fn of_journal(checkpoint_from: usize, account_writes: usize) -> Self {
        Backlog { checkpoint_from: Some(checkpoint_from.max(1)), account_writes, ..Backlog::none() }
    }

    pub(super) fn has_journal(&self) -> bool {
        self.checkpoint_from.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// The ordinal of the oldest write in the backlog.
    pub(super) fn first_ordinal(&self) -> Option<u64> {
        self.batches.front().map(|journaled| journaled.ordinal)
    }

    /// Says whether the journal takes no more writes until a checkpoint has ended.
    pub(super) fn is_full(&self) -> bool {
        self.writes >= self.writes_max()
    }

    fn writes_max(&self) -> usize {
        multiple(self.checkpoint_from.unwrap_or(0), CHECKPOINTS_BEHIND, BACKLOG_MAX)
    }

    /// See [`Writer::brake_micros`](super::Writer::brake_micros).
    pub(super) fn brake_micros(&self, writes: usize) -> u64 {
        let max = self.writes_max();
        let free = max / 2;
        let over = self.writes.saturating_sub(free).min(free);
        let of_all = over.saturating_mul(BRAKE_MICROS).saturating_mul(writes);
        let micros = u64::try_from(of_all.checked_div(free).unwrap_or(0)).unwrap_or(u64::MAX);
        micros.min(BRAKE_MAX_MICROS)
    }

    /// Notes that the backlog has waited long enough.
    pub(super) fn overdue(&mut self) {
        self.is_overdue = true;
    }

    /// Adds a batch. Must run before its writes are acknowledged, because an acknowledged account
    /// may be evicted from memory.
    pub(super) fn add(&mut self, journaled: Journaled) {
        for (_, flags) in &journaled.flags {
            if flags.backlog_writes.fetch_add(1, Ordering::AcqRel) == 0 {
                self.accounts = self.accounts.saturating_add(1);
            }
        }
        self.writes = self.writes.saturating_add(journaled.flags.len());
        self.batches.push_back(journaled);
    }

    /// How many writes a checkpoint waits for, given the accounts in the backlog now.
    fn put_off(&self, checkpoint_from: usize) -> usize {
        let wanted = self.accounts.saturating_mul(self.account_writes);
        wanted.min(multiple(checkpoint_from, PUT_OFF, PUT_OFF_MAX))
    }

    /// Says whether the backlog is large or old enough to checkpoint some of it.
    pub(super) fn is_due(&self) -> bool {
        let is_enough = |from| self.writes >= self.put_off(from).max(from);
        self.is_overdue || self.checkpoint_from.is_some_and(is_enough)
    }

    /// The most writes in one checkpoint, if no checkpoint has failed.
    fn most(&self) -> usize {
        self.put_off(self.checkpoint_from.unwrap_or(0)).max(self.most_at_once())
    }

    /// The most writes in one checkpoint that is not put off.
    fn most_at_once(&self) -> usize {
        multiple(self.checkpoint_from.unwrap_or(0), CHECKPOINTS_AT_ONCE, CHECKPOINT_MAX)
    }

    /// Begins a checkpoint. See [`Backlog::next`].
    pub(super) fn begin(&mut self, awaited: Option<u64>) -> Option<Checkpoint> {
        self.is_overdue = false;
        self.next(awaited)
    }

    /// Returns the next checkpoint. If a write for the tables waits for the journal's writes up to
    /// `awaited`, the checkpoint takes no later ones.
    pub(super) fn next(&self, awaited: Option<u64>) -> Option<Checkpoint> {
        let most = self.checkpoint_max.min(self.most());
        let up_to = awaited.unwrap_or(u64::MAX);
        let mut count: usize = 0;
        let mut is_over = false;
        let taken: Vec<&Journaled> = self
            .batches
            .iter()
            .take_while(|journaled| {
                let before = count;
                count = count.saturating_add(journaled.flags.len());
                !std::mem::replace(&mut is_over, journaled.batch.ends_with_limits())
                    && before < most
                    && (before == 0 || journaled.ordinal <= up_to)
            })
            .collect();
        let (first, last) = (taken.first()?.number, taken.last()?.number);
        let batches = taken.into_iter().map(|journaled| Arc::clone(&journaled.batch)).collect();
        let is_behind = self.writes > count.saturating_mul(2);
        let is_urgent = is_behind || awaited.is_some();
        Some(Checkpoint { first, last, batches, is_urgent })
    }

    /// Lets the next checkpoint be larger. Called if a checkpoint up to batch `last` was done at
    /// the first attempt.
    pub(super) fn grow(&mut self, last: i64) {
        if self.writes_up_to(last) >= self.checkpoint_max {
            // Doubles up to the usual size. Above that it grows slowly, because the size may have
            // caused the failure.
            let is_little = self.checkpoint_max < self.most_at_once();
            let more =
                if is_little { self.checkpoint_max } else { self.checkpoint_from.unwrap_or(0) };
            self.checkpoint_max = self.checkpoint_max.saturating_add(more);
        }
    }

    /// Halves the next checkpoint. Called if the outcome of a checkpoint up to batch `last` was
    /// unknown, because it may have been too large for its deadline.
    pub(super) fn shrink(&mut self, last: i64) {
        self.checkpoint_max = (self.writes_up_to(last) / 2).max(1);
    }

    fn writes_up_to(&self, last: i64) -> usize {
        let batches = self.batches.iter().take_while(|journaled| journaled.number <= last);
        batches.map(|journaled| journaled.flags.len()).sum()
    }

    /// Removes all batches up to `last`, which are checkpointed. Poisons the accounts in `refused`,
    /// whose entries the tables refused.
    pub(super) fn remove(&mut self, last: i64, refused: &[AccountId]) {
        while let Some(journaled) = self.batches.pop_front_if(|front| front.number <= last) {
            self.writes = self.writes.saturating_sub(journaled.flags.len());
            for (account, flags) in journaled.flags {
                if refused.contains(&account) {
                    flags.poison();
                }
                if flags.backlog_writes.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.accounts = self.accounts.saturating_sub(1);
                }
            }
        }
    }

    /// Drops all batches, because another process checkpoints them.
    pub(super) fn drop_all(&mut self) {
        for journaled in self.batches.drain(..) {
            for (_, flags) in journaled.flags {
                flags.backlog_writes.fetch_sub(1, Ordering::AcqRel);
            }
        }
        (self.writes, self.accounts) = (0, 0);
    }
}
