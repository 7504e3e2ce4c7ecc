//! Spending limits of one key: a ceiling a request, a UTC day, a UTC month, and for all time.

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
    /// The most all calls ever may cost.
    pub total: Option<Credits>,
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

/// What a key has spent in one window, with what its open holds may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WindowCounter<W> {
    /// The window counted. Never goes back, even if the clock does.
    pub window: W,
    /// Charged and captured, less refunds. What the ledger's entries of this window sum up to.
    pub captured: Credits,
    /// Held by open calls.
    pub held: Credits,
    /// The window before: a stream that began in it still counts there when its hold is extended.
    before: Option<W>,
    /// What was captured in it. Not in one option with it, which would take more memory, and a
    /// million accounts may be there.
    before_captured: Credits,
    /// What is held in it.
    before_held: Credits,
}

impl<W: Ord + Copy> WindowCounter<W> {
    /// A counter as it was stored: nothing held.
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

    /// Captured and held in window `at`, to be changed; `None` if it is not counted.
    fn counted(&mut self, at: W) -> Option<(&mut Credits, &mut Credits)> {
        if at == self.window {
            return Some((&mut self.captured, &mut self.held));
        }
        (self.before == Some(at)).then_some((&mut self.before_captured, &mut self.before_held))
    }

    /// Captured plus held in window `at`: zero if that window has not begun; `None` if
    /// it is not counted any more.
    pub(super) fn committed(&self, at: W) -> Option<Credits> {
        match self.before {
            _ if at > self.window => Some(Credits::ZERO),
            _ if at == self.window => self.captured.checked_add(self.held),
            Some(window) if at == window => self.before_captured.checked_add(self.before_held),
            _ => None,
        }
    }

    /// What window `at` has left below the ceiling.
    pub(super) fn room(&self, at: W, ceiling: Option<Credits>) -> Credits {
        match (ceiling, self.committed(at)) {
            (None, _) => Credits::MAX,
            (Some(ceiling), Some(committed)) => ceiling.less(committed),
            (Some(_), None) => Credits::ZERO,
        }
    }

    /// Would `amount` more break the ceiling?
    pub(super) fn breaks(&self, at: W, amount: Credits, ceiling: Option<Credits>) -> bool {
        let Some(ceiling) = ceiling else { return false };
        match self.committed(at).and_then(|committed| committed.checked_add(amount)) {
            Some(sum) => sum > ceiling,
            None => true,
        }
    }

    /// Begins window `at`, if it has not begun.
    pub(super) fn roll(&mut self, at: W) {
        if at > self.window {
            self.before = Some(self.window);
            self.before_captured = std::mem::take(&mut self.captured);
            self.before_held = std::mem::take(&mut self.held);
            self.window = at;
        }
    }

    /// Adds to what is captured and held in window `at`, if that window is still counted.
    pub(super) fn add(&mut self, at: W, captured: Credits, held: Credits) {
        if let Some((counted, counted_held)) = self.counted(at) {
            *counted = counted.checked_add(captured).unwrap_or(Credits::MAX);
            *counted_held = counted_held.checked_add(held).unwrap_or(Credits::MAX);
        }
    }

    /// Takes from what is captured and held in window `at`, if that window is still counted.
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
    /// The most one call may cost.
    pub per_request: Option<Credits>,
    /// Left of the UTC day.
    pub daily: Option<Credits>,
    /// Left of the UTC month.
    pub monthly: Option<Credits>,
    /// Left of all it may ever spend.
    pub total: Option<Credits>,
}

/// The one window of what is counted for all time.
pub type Always = ();

/// The part of a key's counters that is stored. What it has spent in total is stored as what each
/// entry adds to it.
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
