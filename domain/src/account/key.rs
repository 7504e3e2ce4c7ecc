//! The state of an API key in its account: its limits and counters.

use crate::ids::KeyId;
use crate::key_policy::KeyEdit;
use crate::limits::{Always, KeySpend, LimitsChange, LimitsLeft, SpendingLimits, WindowCounter};
use crate::money::Credits;
use crate::window::{Day, Month, Timestamp};

/// The account has no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such key")]
pub struct NoSuchKey;

/// The state of a key in its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The id.
    pub id: KeyId,
    /// Is it revoked? This is final.
    pub is_revoked: bool,
    /// Its spending limits.
    pub limits: SpendingLimits,
    /// Spent and held on the current day.
    pub day: WindowCounter<Day>,
    /// Spent and held in the current month.
    pub month: WindowCounter<Month>,
    /// Spent and held since the key was created.
    pub total: WindowCounter<Always>,
    /// When a call last passed every check.
    pub last_used_at: Option<Timestamp>,
    /// The days on which its holder was last notified of a reached limit: of the daily limit, and
    /// of the monthly limit.
    pub limit_notified: [Day; 2],
}

impl KeyState {
    /// A new key with these limits.
    #[must_use]
    pub fn new(id: KeyId, limits: SpendingLimits) -> Self {
        KeyState {
            id,
            is_revoked: false,
            limits,
            day: WindowCounter::default(),
            month: WindowCounter::default(),
            total: WindowCounter::default(),
            last_used_at: None,
            limit_notified: [Day::default(); 2],
        }
    }

    /// The counters to store.
    #[must_use]
    pub fn spend(&self) -> KeySpend {
        KeySpend {
            key: self.id,
            day: self.day.window,
            day_spent: self.day.captured,
            month: self.month.window,
            month_spent: self.month.captured,
            last_used_at: self.last_used_at,
        }
    }

    /// Spent and held, on the day and in the month that `now` counts in.
    #[must_use]
    pub fn committed(&self, now: Timestamp) -> (Credits, Credits) {
        let (day, month) = self.windows(now);
        (
            self.day.committed(day).unwrap_or(Credits::MAX),
            self.month.committed(month).unwrap_or(Credits::MAX),
        )
    }

    /// Spent and held since the key was created.
    #[must_use]
    pub fn committed_in_all(&self) -> Credits {
        self.total.committed(()).unwrap_or(Credits::MAX)
    }

    /// The day and month that `now` counts in. They never go back, even if the clock does.
    #[must_use]
    pub fn windows(&self, now: Timestamp) -> (Day, Month) {
        let day = self.day.current(now.day());
        (day, self.month.current(day.month()))
    }

    /// What the key may still spend, on the day and in the month that `now` counts in.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> LimitsLeft {
        let (day, month) = self.windows(now);
        let SpendingLimits { per_request, daily, monthly, total } = self.limits;
        LimitsLeft {
            per_request,
            daily: daily.map(|_| self.day.room(day, daily)),
            monthly: monthly.map(|_| self.month.room(month, monthly)),
            total: total.map(|_| self.total.room((), total)),
        }
    }

    /// The most that a call may still take under all limits. It counts in `day` and `month` and
    /// already holds `held`.
    pub(super) fn room(&self, day: Day, month: Month, held: Credits) -> Credits {
        let SpendingLimits { per_request, daily, monthly, total } = self.limits;
        let of_request = per_request.map_or(Credits::MAX, |ceiling| ceiling.less(held));
        let of_windows = self.day.room(day, daily).min(self.month.room(month, monthly));
        of_request.min(of_windows).min(self.total.room((), total))
    }

    pub(super) fn add(&mut self, day: Day, month: Month, captured: Credits, held: Credits) {
        self.day.add(day, captured, held);
        self.month.add(month, captured, held);
        self.total.add((), captured, held);
    }

    pub(super) fn take(&mut self, day: Day, month: Month, captured: Credits, held: Credits) {
        self.day.take(day, captured, held);
        self.month.take(month, captured, held);
        self.total.take((), captured, held);
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Other spending limits.
    Limits(LimitsChange),
    /// Another name, expiry or policy.
    Edit(Box<KeyEdit>),
    /// Revoke it for good. It stays in the list.
    Revoke,
    /// Revoke it for good and remove it from the list.
    Delete,
}
