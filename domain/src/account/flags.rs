//! Flags and counters of an account in memory. Other threads read them without the account's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};

use super::charge::{Decline, Price};
use crate::money::Credits;

/// Flags and counters of one account. Any thread may read them without the account's lock.
#[derive(Debug)]
pub struct AccountFlags {
    /// The number of the last entry that is known to be durable.
    pub durable_seq: AtomicI64,
    /// Number of writes that were handed over and are neither written nor given up.
    pub pending_writes: AtomicUsize,
    /// Number of writes that are durable in the journal and not yet in the tables. A load reads the
    /// tables.
    pub backlog_writes: AtomicUsize,
    /// Number of open charges.
    pub open_charges: AtomicUsize,
    /// Number of permits for calls on the account; see [`InFlight`].
    pub in_flight: AtomicU32,
    /// The directory's tick of the last use.
    pub used_tick: AtomicI64,
    /// In nano-dollars; see [`AccountFlags::declines`]. [`ASK_ACCOUNT`] if only the account itself
    /// can decide.
    available_at_rest: AtomicI64,
    /// True if the state in memory will never be written, so that the account must be loaded again.
    is_poisoned: AtomicBool,
}

/// At least as much as any price, so it declines nothing.
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
    /// Marks the state in memory as lost: it will never be written.
    pub fn poison(&self) {
        self.is_poisoned.store(true, Ordering::Release);
    }

    /// Must the account be loaded again?
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Acquire)
    }

    /// Publishes the available credits if they alone decide a charge, and otherwise
    /// [`ASK_ACCOUNT`].
    pub(super) fn publish_available(&self, available: Option<Credits>) {
        let nanos = available.map_or(ASK_ACCOUNT, Credits::nanos);
        self.available_at_rest.store(nanos, Ordering::Release);
    }

    /// The decline that the account would give a call of this price, if that is certain without its
    /// lock. It is certain while nothing is open or unconfirmed. Only a request that has not
    /// reached the account yet could change it.
    #[must_use]
    pub fn declines(&self, price: Price) -> Option<Decline> {
        let available = Credits::from_nanos(self.available_at_rest.load(Ordering::Acquire));
        (price.start() > available && !self.is_poisoned()).then(|| price.uncovered(available))
    }

    /// Have all charges ended, and are all writes written or given up?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open_charges.load(Ordering::Acquire) == 0
            && self.pending_writes.load(Ordering::Acquire) == 0
    }

    /// May the account leave memory? It may if no call uses it, nothing is open, and all its writes
    /// are in the tables. Then the next load finds the same state.
    #[must_use]
    pub fn may_passivate(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && self.is_checkpointed()
    }

    /// May the account's actor stop? It may if no call uses the account and nothing is open or
    /// pending. The account stays in memory.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && !self.is_poisoned()
    }

    /// Are all durable writes in the tables? Ask [`AccountFlags::is_quiet`] first.
    #[must_use]
    pub fn is_checkpointed(&self) -> bool {
        self.backlog_writes.load(Ordering::Acquire) == 0
    }
}

/// A permit for one call on an account. It is returned when it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AccountFlags>);

impl InFlight {
    /// Takes a permit; `None` if `max` are taken.
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
