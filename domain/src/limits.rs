//! Spending limits of a key: for each request, each UTC day, each UTC month, and for all time.

use super::ids::KeyId;
use super::money::Credits;
use super::window::{Day, Month, Timestamp};

/// The limits of a key. `None` is no limit. Zero allows only calls that cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SpendingLimits {
    /// The most that one call may cost.
    pub per_request: Option<Credits>,
    /// The most that all calls of one UTC day may cost.
    pub daily: Option<Credits>,
    /// The most that all calls of one UTC month may cost.
    pub monthly: Option<Credits>,
    /// The most that all calls may ever cost.
    pub total: Option<Credits>,
}

/// A change of limits. `None` leaves a limit as it is; `Some(None)` removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LimitsChange {
    /// See [`SpendingLimits::per_request`].
    pub per_request: Option<Option<Credits>>,
    /// See [`SpendingLimits::daily`].
    pub daily: Option<Option<Credits>>,
    /// See [`SpendingLimits::monthly`].
    pub monthly: Option<Option<Credits>>,
    /// See [`SpendingLimits::total`].
    pub total: Option<Option<Credits>>,
}

impl std::fmt::Display for LimitsChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("per_request", self.per_request),
            ("daily", self.daily),
            ("monthly", self.monthly),
            ("total", self.total),
        ];
        let set = parts.into_iter().filter_map(|(name, limit)| Some((name, limit?)));
        for (place, (name, limit)) in set.enumerate() {
            let gap = if place == 0 { "" } else { ", " };
            match limit {
                Some(limit) => write!(f, "{gap}{name} ${limit}")?,
                None => write!(f, "{gap}{name} none")?,
            }
        }
        Ok(())
    }
}

impl SpendingLimits {
    /// These limits after the change.
    #[must_use]
    pub fn changed(self, change: LimitsChange) -> SpendingLimits {
        SpendingLimits {
            per_request: change.per_request.unwrap_or(self.per_request),
            daily: change.daily.unwrap_or(self.daily),
            monthly: change.monthly.unwrap_or(self.monthly),
            total: change.total.unwrap_or(self.total),
        }
    }
}

/// What a key has spent in one window, and what its open holds may still add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WindowCounter<W> {
    /// The window counted. It never goes back, even if the clock does.
    pub window: W,
    /// Charged and captured, less refunds: the sum of the ledger's entries of this window.
    pub captured: Credits,
    /// Held by open calls.
    pub held: Credits,
    /// The window before. A stream that began in it still counts there when its hold is extended.
    before: Option<W>,
    /// Captured in the window before. It is not inside the `Option` of `before`, because that would
    /// take more memory, and a million accounts may be in memory.
    before_captured: Credits,
    /// Held in the window before.
    before_held: Credits,
}

impl<W: Ord + Copy> WindowCounter<W> {
    /// A counter as stored, with nothing held.
    #[must_use]
    pub fn stored(window: W, captured: Credits) -> Self {
        WindowCounter {
            window,
            captured,
            held: Credits::ZERO,
            before: None,
            before_captured: Credits::ZERO,
            before_held: Credits::ZERO,
        }
    }

    /// The window that `now` counts in.
    pub(super) fn current(&self, now: W) -> W {
        self.window.max(now)
    }

    /// Captured and held in window `at`; `None` if that window is not counted.
    fn counted(&mut self, at: W) -> Option<(&mut Credits, &mut Credits)> {
        if at == self.window {
            return Some((&mut self.captured, &mut self.held));
        }
        (self.before == Some(at)).then_some((&mut self.before_captured, &mut self.before_held))
    }

    /// Captured plus held in window `at`: zero if the window has not begun, `None` if it is not
    /// counted any more.
    pub(super) fn committed(&self, at: W) -> Option<Credits> {
        match self.before {
            _ if at > self.window => Some(Credits::ZERO),
            _ if at == self.window => self.captured.checked_add(self.held),
            Some(window) if at == window => self.before_captured.checked_add(self.before_held),
            _ => None,
        }
    }

    /// How much may still be spent in window `at` under this ceiling.
    pub(super) fn room(&self, at: W, ceiling: Option<Credits>) -> Credits {
        match (ceiling, self.committed(at)) {
            (None, _) => Credits::MAX,
            (Some(ceiling), Some(committed)) => ceiling.less(committed),
            (Some(_), None) => Credits::ZERO,
        }
    }

    /// Would another `amount` exceed the ceiling?
    pub(super) fn breaks(&self, at: W, amount: Credits, ceiling: Option<Credits>) -> bool {
        let Some(ceiling) = ceiling else { return false };
        match self.committed(at).and_then(|committed| committed.checked_add(amount)) {
            Some(sum) => sum > ceiling,
            None => true,
        }
    }

    /// Begins window `at`, if it has not begun yet.
    pub(super) fn roll(&mut self, at: W) {
        if at > self.window {
            self.before = Some(self.window);
            self.before_captured = std::mem::take(&mut self.captured);
            self.before_held = std::mem::take(&mut self.held);
            self.window = at;
        }
    }

    /// Adds to the captured and held amounts of window `at`, if it is still counted.
    pub(super) fn add(&mut self, at: W, captured: Credits, held: Credits) {
        if let Some((counted, counted_held)) = self.counted(at) {
            *counted = counted.checked_add(captured).unwrap_or(Credits::MAX);
            *counted_held = counted_held.checked_add(held).unwrap_or(Credits::MAX);
        }
    }

    /// Subtracts from the captured and held amounts of window `at`, if it is still counted.
    pub(super) fn take(&mut self, at: W, captured: Credits, held: Credits) {
        if let Some((counted, counted_held)) = self.counted(at) {
            *counted = counted.less(captured);
            *counted_held = counted_held.less(held);
        }
    }
}

/// What a key may still spend; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LimitsLeft {
    /// The most that one call may cost.
    pub per_request: Option<Credits>,
    /// What is left for the UTC day.
    pub daily: Option<Credits>,
    /// What is left for the UTC month.
    pub monthly: Option<Credits>,
    /// What is left for all time.
    pub total: Option<Credits>,
}

/// The only window of the counter for all time.
pub type Always = ();

/// The stored counters of a key for the current day and month. The total is stored separately, by
/// adding each entry's amount to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpend {
    /// The key.
    pub key: KeyId,
    /// The UTC day counted.
    pub day: Day,
    /// Spent on that day.
    pub day_spent: Credits,
    /// The UTC month counted.
    pub month: Month,
    /// Spent in that month.
    pub month_spent: Credits,
    /// When a call last passed every check.
    pub last_used_at: Option<Timestamp>,
}
