//! The state of an account in memory that other threads read without its lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};

use super::charge::{Decline, Price};
use crate::money::Credits;

/// What the threads around an account's owner know of it.
#[derive(Debug)]
pub struct AccountMarks {
    /// The last entry known to be durable.
    pub durable_seq: AtomicI64,
    /// Writes handed over whose end is not known yet.
    pub pending_writes: AtomicUsize,
    /// Writes that are durable in the journal, and not in the tables from which the account would be loaded.
    pub backlog_writes: AtomicUsize,
    /// Charges that are open.
    pub open_charges: AtomicUsize,
    /// Calls that hold a lease on the account.
    pub in_flight: AtomicU32,
    /// The directory's tick of the last lease.
    pub used_tick: AtomicI64,
    /// See [`AccountMarks::declines`], in nano-credits; [`ASK_OWNER`] where only the owner can tell.
    available_at_rest: AtomicI64,
    /// What the owner holds in memory will never be written; it must be loaded again.
    is_poisoned: AtomicBool,
}

/// More than any price: nothing is declined by it.
const ASK_OWNER: i64 = i64::MAX;

impl Default for AccountMarks {
    fn default() -> Self {
        AccountMarks {
            durable_seq: AtomicI64::default(),
            pending_writes: AtomicUsize::default(),
            backlog_writes: AtomicUsize::default(),
            open_charges: AtomicUsize::default(),
            in_flight: AtomicU32::default(),
            used_tick: AtomicI64::default(),
            available_at_rest: AtomicI64::new(ASK_OWNER),
            is_poisoned: AtomicBool::default(),
        }
    }
}

impl AccountMarks {
    /// Says that what the owner holds in memory will never be written.
    pub fn poison(&self) {
        self.is_poisoned.store(true, Ordering::Release);
    }

    /// Must the account be loaded again?
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Acquire)
    }

    /// Tells what [`AccountState::available_at_rest`](super::AccountState::available_at_rest) is.
    pub fn publish_available(&self, available: Option<Credits>) {
        let nanos = available.map_or(ASK_OWNER, Credits::nanos);
        self.available_at_rest.store(nanos, Ordering::Release);
    }

    /// What the owner would decline a call of this price with, where that is clear without asking: it has nothing
    /// open and nothing unconfirmed, so that only a call that it has not been asked for yet could change its mind.
    #[must_use]
    pub fn declines(&self, price: Price) -> Option<Decline> {
        let available = Credits::from_nanos(self.available_at_rest.load(Ordering::Acquire));
        (price.start() > available && !self.is_poisoned()).then(|| price.uncovered(available))
    }

    /// Everything that was decided has met its end: written, or given up.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open_charges.load(Ordering::Acquire) == 0
            && self.pending_writes.load(Ordering::Acquire) == 0
    }

    /// May the account be let go? Only where nobody holds it, nothing is open, and everything it decided is
    /// in the tables: whoever loads it next must find it as it was.
    #[must_use]
    pub fn may_passivate(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && self.is_checkpointed()
    }

    /// May its actor end? Only where nobody holds it and nothing is open or on its way; what it owns stays in memory.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && !self.is_poisoned()
    }

    /// Is everything that is durable in the tables? Asked after [`AccountMarks::is_quiet`].
    #[must_use]
    pub fn is_checkpointed(&self) -> bool {
        self.backlog_writes.load(Ordering::Acquire) == 0
    }
}

/// One call counted in on an account, until this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AccountMarks>);

impl InFlight {
    /// Counts a call in, unless there are `max` already.
    #[must_use]
    pub fn enter(marks: &Arc<AccountMarks>, max: u32) -> Option<Self> {
        let entered = InFlight(Arc::clone(marks));
        let before = marks.in_flight.fetch_add(1, Ordering::AcqRel);
        (before < max).then_some(entered)
    }

    /// The account's marks.
    #[must_use]
    pub fn marks(&self) -> &AccountMarks {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_or_not_durable_stays() {
        let marks = Arc::new(AccountMarks::default());
        assert!(marks.may_passivate());
        let call = InFlight::enter(&marks, 1).unwrap();
        assert!(InFlight::enter(&marks, 1).is_none());
        assert!(!marks.may_passivate());
        drop(call);
        for counter in [&marks.pending_writes, &marks.open_charges] {
            counter.store(1, Ordering::Release);
            assert!(!marks.may_passivate());
            counter.store(0, Ordering::Release);
        }
        assert!(marks.may_passivate());
    }
}
