//! The forecast of when the balance runs out.

use super::usage::sum;
use super::{Reports, ReportsError};
use crate::store::rollups::{Grain, UsageOf, UsageQuestion};
use domain::forecast::forecast;
use domain::rollup::{days_within, hour, hour_starts_at};
use domain::{Credits, Environment, MICROS_PER_DAY, Timestamp, UserId};

/// Number of days whose spending is continued.
const FORECAST_DAYS: i32 = 7;

/// The forecast of a balance, if spending continues as in the last seven days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceForecast {
    /// The balance now.
    pub balance: Credits,
    /// Average spending a day.
    pub spent_per_day: Credits,
    /// When the balance is used up; `None` if nothing is spent, or it is more than ten years away.
    pub depleted_at: Option<Timestamp>,
    /// Complete days until then.
    pub days_left: Option<i64>,
}

impl Reports {
    /// The forecast of one of the user's accounts.
    pub async fn forecast(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<BalanceForecast, ReportsError> {
        let account = self.store.users.accounts_of(user).await?.of(environment);
        let balance = self.snapshot(account).await?.balance;
        self.gateway.tables_up_to_date().await?;
        let now = self.gateway.clock.now();
        let end = hour(now).saturating_add(1);
        let begin = end.saturating_sub(FORECAST_DAYS.saturating_mul(24));
        let mut spent = Credits::ZERO;
        // Complete days are read by day, because they have far fewer rows than hours.
        let [before, days, behind] = days_within(begin, end);
        for (grain, periods) in [(Grain::Hour, before), (Grain::Day, days), (Grain::Hour, behind)] {
            let question =
                UsageQuestion { by_period: false, ..UsageQuestion::by_period(grain, periods) };
            let cost = sum(&self.store.reports.usage(UsageOf::Account(account), question).await?)
                .rollup
                .cost;
            spent = spent.checked_add(cost).unwrap_or(Credits::MAX);
        }
        // A younger account has spent it in less time. At least one hour counts.
        let began = self.store.reports.account_created_at(account).await?;
        let from = hour_starts_at(begin).max(began);
        let micros = now.micros_since(from).max(3_600_000_000);
        let found = forecast(balance, spent, micros, now);
        Ok(BalanceForecast {
            balance,
            spent_per_day: found.spent_per_day,
            depleted_at: found.depleted_at,
            days_left: found.depleted_at.map(|at| at.micros_since(now) / MICROS_PER_DAY),
        })
    }
}
