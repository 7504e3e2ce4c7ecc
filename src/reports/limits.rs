//! The spending of keys and their limits.

use super::{Reports, ReportsError};
use crate::store::reports::KeyAgainstLimits;
use domain::{Credits, Environment, KeyId, Timestamp, UserId};

/// What was spent in a window, and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Spent so far.
    pub spent: Credits,
    /// `None` is no limit.
    pub limit: Option<Credits>,
    /// Spent percent of the limit.
    pub percent: Option<i64>,
    /// When the window ends; `None` is never.
    pub resets_at: Option<Timestamp>,
}

/// A key's spending and its limits.
#[derive(Clone, Debug)]
pub struct KeyUsage {
    /// The key.
    pub key: KeyId,
    /// Its name.
    pub name: String,
    /// Is it usable: neither revoked nor expired?
    pub is_active: bool,
    /// The limit of one request.
    pub per_request: Option<Credits>,
    /// Spending in the current UTC day.
    pub daily: Window,
    /// Spending in the current UTC month.
    pub monthly: Window,
    /// Spending since the key was created.
    pub total: Window,
}

impl Reports {
    /// The keys of an account with their spending, oldest first.
    pub async fn key_usage(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<Vec<KeyUsage>, ReportsError> {
        let account = self.account(user, environment).await?;
        let now = self.gateway.clock.now();
        let keys = self.store.reports.list_keys_with_limits(account, now).await?;
        Ok(keys.into_iter().map(|key| key_usage(key, now)).collect())
    }
}

fn key_usage(key: KeyAgainstLimits, now: Timestamp) -> KeyUsage {
    let (day, month) = (now.day(), now.day().month());
    let of_today = if key.day.0 == day { key.day.1 } else { Credits::ZERO };
    let of_month = if key.month.0 == month { key.month.1 } else { Credits::ZERO };
    KeyUsage {
        key: key.key,
        name: key.name,
        is_active: key.is_active,
        per_request: key.limits.per_request,
        daily: window(of_today, key.limits.daily, Some(day.ends_at())),
        monthly: window(of_month, key.limits.monthly, Some(month.ends_at())),
        total: window(key.total, key.limits.total, None),
    }
}

fn window(spent: Credits, limit: Option<Credits>, resets_at: Option<Timestamp>) -> Window {
    let percent = limit.and_then(|limit| {
        let spent = i128::from(spent.nanos()).saturating_mul(100);
        i64::try_from(spent.checked_div(i128::from(limit.nanos()))?).ok()
    });
    Window { spent, limit, percent, resets_at }
}
