//! Spending limits of one key: a ceiling a request, a UTC day, a UTC month.

use super::ids::KeyId;
use super::money::Credits;
use super::window::{Day, Month, Timestamp};

/// The ceilings of a key. `None` is no ceiling; zero lets nothing through that costs anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SpendingLimits {
    /// The most one call may cost.
    pub per_request: Option<Credits>,
    /// The most all calls of one UTC day may cost.
    pub daily: Option<Credits>,
    /// The most all calls of one UTC month may cost.
    pub monthly: Option<Credits>,
}

/// A change of limits: `None` leaves one as it is, `Some(None)` takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LimitsChange {
    /// See [`SpendingLimits::per_request`].
    pub per_request: Option<Option<Credits>>,
    /// See [`SpendingLimits::daily`].
    pub daily: Option<Option<Credits>>,
    /// See [`SpendingLimits::monthly`].
    pub monthly: Option<Option<Credits>>,
}

impl SpendingLimits {
    /// These limits after the change.
    #[must_use]
    pub fn changed(self, change: LimitsChange) -> SpendingLimits {
        SpendingLimits {
            per_request: change.per_request.unwrap_or(self.per_request),
            daily: change.daily.unwrap_or(self.daily),
            monthly: change.monthly.unwrap_or(self.monthly),
        }
    }
}

/// What a key has spent in one window, with what its open holds may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WindowCounter<W> {
    /// The window counted. Never goes back, even where a clock does.
    pub window: W,
    /// Charged and captured, less refunds. What the ledger's entries of this window sum up to.
    pub captured: Credits,
    /// Held by open calls, in memory only.
    pub held: Credits,
}

impl<W: Ord + Copy> WindowCounter<W> {
    /// The window that `now` counts in.
    pub(super) fn current(&self, now: W) -> W {
        self.window.max(now)
    }

    /// Captured plus held in window `at`: nothing, where that window has not been counted yet.
    pub(super) fn committed(&self, at: W) -> Option<Credits> {
        if at == self.window { self.captured.checked_add(self.held) } else { Some(Credits::ZERO) }
    }

    /// Would `amount` more break the ceiling?
    pub(super) fn breaks(&self, at: W, amount: Credits, ceiling: Option<Credits>) -> bool {
        let Some(ceiling) = ceiling else { return false };
        match self.committed(at).and_then(|committed| committed.checked_add(amount)) {
            Some(sum) => sum > ceiling,
            None => true,
        }
    }

    /// Begins window `at`, where it is not begun.
    pub(super) fn roll(&mut self, at: W) {
        if at > self.window {
            *self = WindowCounter { window: at, captured: Credits::ZERO, held: Credits::ZERO };
        }
    }

    /// Adds to what is captured and held in window `at`, if that window is still the current one.
    pub(super) fn add(&mut self, at: W, captured: Credits, held: Credits) {
        if at == self.window {
            self.captured = self.captured.checked_add(captured).unwrap_or(Credits::MAX);
            self.held = self.held.checked_add(held).unwrap_or(Credits::MAX);
        }
    }

    /// Takes from what is captured and held in window `at`, if that window is still the current one.
    pub(super) fn take(&mut self, at: W, captured: Credits, held: Credits) {
        if at == self.window {
            self.captured = self.captured.less(captured);
            self.held = self.held.less(held);
        }
    }
}

/// The part of a key's counters that is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpend {
    /// The key.
    pub key: KeyId,
    /// The UTC day counted.
    pub day: Day,
    /// Spent in that day.
    pub day_spent: Credits,
    /// The UTC month counted.
    pub month: Month,
    /// Spent in that month.
    pub month_spent: Credits,
    /// The last call that passed every check.
    pub last_used_at: Option<Timestamp>,
}
