//! The last paid calls, for operators who watch. As long as nobody does, a call costs one atomic
//! read more; else it takes a slot that it shares with nobody of the last 64 calls.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Metrics;
use domain::{Credits, Environment, UsageRecord, UserId};

/// So many calls are kept.
const SLOTS: usize = 64;
/// So many may watch at the same time.
pub const LISTENERS_MAX: usize = 8;

/// A call that has ended.
#[derive(Clone, Debug)]
pub struct LiveCall {
    /// Its place among those that were seen. Later ones have greater ones.
    pub number: u64,
    /// Whose key was used.
    pub user: UserId,
    /// Of which account.
    pub environment: Environment,
    /// What is recorded of it.
    pub usage: UsageRecord,
    /// What was taken for it.
    pub cost: Credits,
}

/// The last calls. Empty as long as nobody watches.
#[derive(Debug)]
pub struct LiveCalls {
    listeners: AtomicUsize,
    next: AtomicU64,
    slots: [Mutex<Option<LiveCall>>; SLOTS],
}

impl Default for LiveCalls {
    fn default() -> Self {
        LiveCalls {
            listeners: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            slots: [const { Mutex::new(None) }; SLOTS],
        }
    }
}

impl LiveCalls {
    /// Does somebody watch?
    pub fn is_watched(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Shows a call that has ended.
    pub fn note(&self, user: UserId, environment: Environment, usage: UsageRecord, cost: Credits) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = usize::try_from(number).unwrap_or_default() % SLOTS;
        if let Some(slot) = self.slots.get(slot) {
            let call = LiveCall { number, user, environment, usage, cost };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        }
    }

    /// The calls after that one, the last first.
    #[must_use]
    pub fn since(&self, number: u64) -> Vec<LiveCall> {
        let calls = self.slots.iter().filter_map(|slot| {
            let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().filter(|call| call.number > number).cloned()
        });
        let mut calls: Vec<LiveCall> = calls.collect();
        calls.sort_by_key(|call| std::cmp::Reverse(call.number));
        calls
    }
}

/// Somebody who watches, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    metrics: Arc<Metrics>,
}

impl Listener {
    /// Begins to watch; `None` if as many as may watch already.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>) -> Option<Self> {
        let live = &metrics.live;
        let before = live.listeners.fetch_add(1, Ordering::AcqRel);
        let listener = Listener { metrics: Arc::clone(metrics) };
        if before == 0 {
            // What is left was long ago.
            for slot in &live.slots {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        (before < LISTENERS_MAX).then_some(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.metrics.live.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_watch() {
        let metrics = Arc::<Metrics>::default();
        assert!(!metrics.live.is_watched());
        let all: Vec<_> = std::iter::from_fn(|| Listener::new(&metrics)).collect();
        assert_eq!(all.len(), LISTENERS_MAX);
        assert!(metrics.live.is_watched());
        drop(all);
        assert!(!metrics.live.is_watched() && Listener::new(&metrics).is_some());
    }
}
