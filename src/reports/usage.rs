//! The usage of an account, by group and by period, and its recent calls.

use std::collections::BTreeMap;

use super::{Reports, ReportsError};
use crate::store::reports::CallRow;
use crate::store::rollups::{Grain, Group, RollupRow, UsageFilter, UsageQuestion};
use domain::rollup::{Rollup, hour, hour_starts_at};
use domain::{ChargeId, Day, Environment, Month, Timestamp, UserId};

/// Most groups in a series: those with the highest cost.
const SERIES_GROUPS_MAX: usize = 20;
/// Most groups in a report: those with the highest cost.
const GROUPS_MAX: u32 = 1_000;
/// Longest span by hour, in hours.
const HOURS_MAX: i32 = 31 * 24;
/// Longest span by day or month, in days.
const DAYS_MAX: i32 = 731;

/// The length of the periods in a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// UTC hours.
    Hour,
    /// UTC days.
    Day,
    /// UTC months.
    Month,
}

/// A span of complete hours or days. The end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    interval: Interval,
    grain: Grain,
    from: i32,
    until: i32,
}

/// Why a span is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// It ends before it begins, or begins in the future.
    #[error("must be before until, and before now")]
    Empty,
    /// It has more periods than a report may have.
    #[error("is too long ago for this interval")]
    TooLong,
}

impl Span {
    /// The span of a report. Without `until` it ends now. Without `from` it begins 24 hours, 30
    /// days or 12 months before its end, by the interval.
    pub fn of(
        interval: Interval,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, SpanError> {
        // The end is exclusive, so add one microsecond to include the present one.
        let end = now.plus_micros(1);
        let last = until.map_or(end, |until| until.min(end)).plus_micros(-1);
        let (grain, max, (from, until)) = match interval {
            Interval::Hour => {
                let end = hour(last).saturating_add(1);
                let from = from.map_or(end.saturating_sub(24), hour);
                (Grain::Hour, HOURS_MAX, (from, end))
            }
            Interval::Day => {
                let end = last.day().0.saturating_add(1);
                let from = from.map_or(end.saturating_sub(30), |from| from.day().0);
                (Grain::Day, DAYS_MAX, (from, end))
            }
            Interval::Month => {
                let end = last.day().0.saturating_add(1);
                let year_ago = Month(last.day().month().0.saturating_sub(11)).starts_at();
                let from = from.unwrap_or(year_ago).day().month().starts_at();
                (Grain::Day, DAYS_MAX, (from.day().0, end))
            }
        };
        if from >= until {
            return Err(SpanError::Empty);
        }
        if until.saturating_sub(from) > max {
            return Err(SpanError::TooLong);
        }
        Ok(Span { interval, grain, from, until })
    }

    /// When it begins.
    #[must_use]
    pub fn from(&self) -> Timestamp {
        self.starts_at(self.from)
    }

    /// When it ends, exclusive.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.starts_at(self.until)
    }

    fn starts_at(&self, period: i32) -> Timestamp {
        match self.grain {
            Grain::Hour => hour_starts_at(period),
            Grain::Day => Day(period).starts_at(),
        }
    }
}

/// The sums over some calls.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Calls, cost, tokens and latencies.
    pub rollup: Rollup,
    /// Number of calls that failed.
    pub errors: i64,
}

impl Usage {
    fn add(&mut self, row: &RollupRow) {
        self.rollup.add(&row.rollup);
        self.errors = self.errors.saturating_add(row.errors);
    }
}

/// The usage in one period.
#[derive(Clone, Debug)]
pub struct PeriodUsage {
    /// When the period begins.
    pub starts_at: Timestamp,
    /// The group; `None` if the report is not grouped.
    pub group: Option<String>,
    /// The sums.
    pub usage: Usage,
}

/// The usage of an account. Periods without calls are omitted.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// The sums over all groups and periods.
    pub totals: Usage,
    /// The sums by group, highest cost first; empty if the report is not grouped.
    pub groups: Vec<(String, Usage)>,
    /// The sums by period, in the order of time. A grouped series has the 20 groups with the
    /// highest cost.
    pub series: Vec<PeriodUsage>,
}

impl Reports {
    /// The usage of an account in a span of time.
    pub async fn usage(
        &self,
        user: UserId,
        environment: Environment,
        span: Span,
        filter: UsageFilter,
        group: Option<Group>,
    ) -> Result<UsageReport, ReportsError> {
        let account = self.account(user, environment).await?;
        let in_all = UsageQuestion {
            grain: span.grain,
            periods: (span.from, span.until),
            filter,
            by_period: false,
            group,
            only: None,
            top_by_cost: Some(GROUPS_MAX),
        };
        let mut groups = Vec::new();
        let mut only: Option<Vec<String>> = None;
        if group.is_some() {
            groups = self.store.reports.usage(account, in_all.clone()).await?;
            let top = groups.iter().take(SERIES_GROUPS_MAX);
            only = Some(top.map(|row| row.group.clone()).collect());
        }
        let is_nothing = only.as_ref().is_some_and(Vec::is_empty);
        let by_period =
            UsageQuestion { by_period: true, top_by_cost: None, only, ..in_all.clone() };
        let rows = if is_nothing {
            Vec::new()
        } else {
            self.store.reports.usage(account, by_period).await?
        };
        // If not all groups were listed, their sum is not the total.
        let totals = if groups.len() < usize::try_from(GROUPS_MAX).unwrap_or(usize::MAX) {
            if group.is_some() { sum(&groups) } else { sum(&rows) }
        } else {
            sum(&self.store.reports.usage(account, UsageQuestion { group: None, ..in_all }).await?)
        };
        let groups = groups.into_iter().map(|row| {
            let RollupRow { group, rollup, errors, .. } = row;
            (group, Usage { rollup, errors })
        });
        Ok(UsageReport {
            totals,
            groups: groups.collect(),
            series: series(&span, group.is_some(), rows),
        })
    }

    /// A page of an account's calls, latest first, and the call from which the next page continues.
    pub async fn calls(
        &self,
        user: UserId,
        environment: Environment,
        before: Option<ChargeId>,
        limit: u64,
        filter: UsageFilter,
    ) -> Result<(Vec<CallRow>, Option<ChargeId>), ReportsError> {
        let account = self.account(user, environment).await?;
        Ok(self.store.reports.list_calls(account, before, limit, filter).await?)
    }
}

pub(super) fn sum(rows: &[RollupRow]) -> Usage {
    let mut total = Usage::default();
    for row in rows {
        total.add(row);
    }
    total
}

fn series(span: &Span, is_grouped: bool, rows: Vec<RollupRow>) -> Vec<PeriodUsage> {
    let mut periods: BTreeMap<(Timestamp, String), Usage> = BTreeMap::new();
    for row in rows {
        let mut at = span.starts_at(row.period);
        if span.interval == Interval::Month {
            at = at.day().month().starts_at();
        }
        periods.entry((at, row.group.clone())).or_default().add(&row);
    }
    let period = |((starts_at, group), usage): ((Timestamp, String), Usage)| PeriodUsage {
        starts_at,
        group: is_grouped.then_some(group),
        usage,
    };
    periods.into_iter().map(period).collect()
}
