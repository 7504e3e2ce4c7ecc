//! The state of an account in memory that other threads read without its lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};

use super::charge::{Decline, Price};
use crate::money::Credits;

/// The state of one account that any thread may read without its lock.
#[derive(Debug)]
pub struct AccountFlags {
    /// The last entry known to be durable.
    pub durable_seq: AtomicI64,
    /// Writes that were handed over and have not ended.
    pub pending_writes: AtomicUsize,
    /// Writes that are durable in the journal and not in the tables, from which the account would
    /// be loaded.
    pub backlog_writes: AtomicUsize,
    /// Charges that are open.
    pub open_charges: AtomicUsize,
    /// Calls that hold a lease on the account.
    pub in_flight: AtomicU32,
    /// The directory's tick of the last lease.
    pub used_tick: AtomicI64,
    /// In nano-credits, see [`AccountFlags::declines`]. [`ASK_ACCOUNT`] if only the account itself
    /// can decide.
    available_at_rest: AtomicI64,
    /// What the account holds in memory will never be written: it must be loaded again.
    is_poisoned: AtomicBool,
}

/// More than any price: nothing is declined by it.
const ASK_ACCOUNT: i64 = i64::MAX;

impl Default for AccountFlags {
    fn default() -> Self {
        AccountFlags {
            durable_seq: AtomicI64::default(),
            pending_writes: AtomicUsize::default(),
            backlog_writes: AtomicUsize::default(),
            open_charges: AtomicUsize::default(),
            in_flight: AtomicU32::default(),
            used_tick: AtomicI64::default(),
            available_at_rest: AtomicI64::new(ASK_ACCOUNT),
            is_poisoned: AtomicBool::default(),
        }
    }
}

impl AccountFlags {
    /// Marks the account as lost: what it holds in memory will never be written.
    pub fn poison(&self) {
        self.is_poisoned.store(true, Ordering::Release);
    }

    /// Must the account be loaded again?
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Acquire)
    }

    /// Publishes the available credits if they alone decide a charge; see
    /// [`AccountFlags::declines`].
    pub(super) fn publish_available(&self, available: Option<Credits>) {
        let nanos = available.map_or(ASK_ACCOUNT, Credits::nanos);
        self.available_at_rest.store(nanos, Ordering::Release);
    }

    /// The decline that the account would answer to a call of this price, if that is certain
    /// without its lock: nothing is open and nothing is unconfirmed, so only a call that it has not
    /// seen yet could change the answer.
    #[must_use]
    pub fn declines(&self, price: Price) -> Option<Decline> {
        let available = Credits::from_nanos(self.available_at_rest.load(Ordering::Acquire));
        (price.start() > available && !self.is_poisoned()).then(|| price.uncovered(available))
    }

    /// Has everything that was decided ended: written, or given up?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open_charges.load(Ordering::Acquire) == 0
            && self.pending_writes.load(Ordering::Acquire) == 0
    }

    /// May the account leave memory? Only if no call holds it, nothing is open, and everything it
    /// decided is in the tables: the next load must find it as it was.
    #[must_use]
    pub fn may_passivate(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && self.is_checkpointed()
    }

    /// May its actor stop? Only if no call holds it and nothing is open or on its way. The account
    /// stays in memory.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && !self.is_poisoned()
    }

    /// Is everything that is durable in the tables? Asked after [`AccountFlags::is_quiet`].
    #[must_use]
    pub fn is_checkpointed(&self) -> bool {
        self.backlog_writes.load(Ordering::Acquire) == 0
    }
}

/// A permit for one call on an account, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AccountFlags>);

impl InFlight {
    /// Takes a permit, unless `max` are taken already.
    #[must_use]
    pub fn enter(flags: &Arc<AccountFlags>, max: u32) -> Option<Self> {
        let entered = InFlight(Arc::clone(flags));
        let before = flags.in_flight.fetch_add(1, Ordering::AcqRel);
        (before < max).then_some(entered)
    }

    /// The flags of its account.
    #[must_use]
    pub fn flags(&self) -> &AccountFlags {
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
        let flags = Arc::new(AccountFlags::default());
        assert!(flags.may_passivate());
        let call = InFlight::enter(&flags, 1).unwrap();
        assert!(InFlight::enter(&flags, 1).is_none());
        assert!(!flags.may_passivate());
        drop(call);
        for counter in [&flags.pending_writes, &flags.open_charges] {
            counter.store(1, Ordering::Release);
            assert!(!flags.may_passivate());
            counter.store(0, Ordering::Release);
        }
        assert!(flags.may_passivate());
    }
}
