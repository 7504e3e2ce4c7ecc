//! The usage of an account, by group and by period, and its recent calls.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reports, ReportsError};
use crate::store::reports::{CallFilter, CallRow};
use crate::store::rollups::{Grain, Group, RollupRow, UsageFilter, UsageOf, UsageQuestion};
use crate::upstream::sandbox;
use domain::rollup::{Rollup, hour, hour_starts_at};
use domain::route_group::RouteGroup;
use domain::{ChargeId, Day, Environment, LedgerEntry, Month, Timestamp, UserId};

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
    /// Are periods without calls in the series?
    is_filled: bool,
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
        Ok(Span { interval, grain, from, until, is_filled: false })
    }

    /// The same span, whose series has every period, also those without calls.
    #[must_use]
    pub fn filled(self) -> Self {
        Span { is_filled: true, ..self }
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

    /// Its hours, days or months in the order of time: when each begins and ends. The end is
    /// exclusive. The last one ends with the span.
    pub fn intervals(&self) -> impl Iterator<Item = (Timestamp, Timestamp)> + use<> {
        let span = *self;
        let mut from = self.from();
        std::iter::from_fn(move || {
            let starts_at = from;
            from = match span.interval {
                Interval::Hour => hour_starts_at(hour(starts_at).saturating_add(1)),
                Interval::Day => Day(starts_at.day().0.saturating_add(1)).starts_at(),
                Interval::Month => {
                    Month(starts_at.day().month().0.saturating_add(1)).starts_at().min(span.until())
                }
            };
            (starts_at < span.until()).then_some((starts_at, from))
        })
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

/// The usage of an account.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// The sums over all groups and periods.
    pub totals: Usage,
    /// The sums by group, highest cost first; empty if the report is not grouped.
    pub groups: Vec<(String, Usage)>,
    /// The sums by period, in the order of time. A grouped series has the 20 groups with the
    /// highest cost. Periods without calls are omitted, unless the span is filled.
    pub series: Vec<PeriodUsage>,
}

/// One call with its money.
#[derive(Clone, Debug)]
pub struct CallView {
    /// Which of the user's accounts paid.
    pub environment: Environment,
    /// The call.
    pub call: CallRow,
    /// Its entries of the ledger: what it cost, and what was given back or corrected later. None
    /// if it was free.
    pub entries: Vec<LedgerEntry>,
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
        let of = UsageOf::Account(self.account(user, environment).await?);
        let mut report = self.usage_in(of, span, self.without_hidden(filter), group).await?;
        if group == Some(Group::Upstream) && !self.gateway.models.shows_deployments() {
            report.groups = with_shown_names(report.groups);
            report.series = with_shown_groups(report.series);
        }
        Ok(report)
    }

    /// The usage of all accounts of an environment in a span of time, for operators: nothing is
    /// hidden.
    pub async fn usage_of_all(
        &self,
        environment: Environment,
        span: Span,
        filter: UsageFilter,
        group: Option<Group>,
    ) -> Result<UsageReport, ReportsError> {
        self.gateway.tables_up_to_date().await?;
        self.usage_in(UsageOf::All(environment), span, filter, group).await
    }

    async fn usage_in(
        &self,
        of: UsageOf,
        span: Span,
        filter: UsageFilter,
        group: Option<Group>,
    ) -> Result<UsageReport, ReportsError> {
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
            groups = self.store.reports.usage(of, in_all.clone()).await?;
            let top = groups.iter().take(SERIES_GROUPS_MAX);
            only = Some(top.map(|row| row.group.clone()).collect());
        }
        let is_nothing = only.as_ref().is_some_and(Vec::is_empty);
        let by_period =
            UsageQuestion { by_period: true, top_by_cost: None, only, ..in_all.clone() };
        let rows =
            if is_nothing { Vec::new() } else { self.store.reports.usage(of, by_period).await? };
        // If not all groups were listed, their sum is not the total.
        let totals = if groups.len() < usize::try_from(GROUPS_MAX).unwrap_or(usize::MAX) {
            if group.is_some() { sum(&groups) } else { sum(&rows) }
        } else {
            sum(&self.store.reports.usage(of, UsageQuestion { group: None, ..in_all }).await?)
        };
        let groups = groups.into_iter().map(|row| {
            let RollupRow { group, rollup, errors, .. } = row;
            (group, Usage { rollup, errors })
        });
        let series = series(&span, group.is_some(), rows);
        Ok(UsageReport { totals, groups: groups.collect(), series })
    }

    /// A page of an account's calls, latest first, and the call from which the next page continues.
    pub async fn calls(
        &self,
        user: UserId,
        environment: Environment,
        before: Option<ChargeId>,
        limit: u64,
        filter: CallFilter,
    ) -> Result<(Vec<CallRow>, Option<ChargeId>), ReportsError> {
        let account = self.account(user, environment).await?;
        let filter = CallFilter { usage: self.without_hidden(filter.usage), ..filter };
        let (mut calls, next) =
            self.store.reports.list_calls(account, before, limit, filter).await?;
        if !self.gateway.models.shows_deployments() {
            for call in &mut calls {
                call.upstream = shown_name(&call.upstream).to_owned();
            }
        }
        Ok((calls, next))
    }

    /// One call of a user.
    ///
    /// # Errors
    /// [`ReportsError::NoCall`]
    pub async fn call(&self, user: UserId, id: ChargeId) -> Result<CallView, ReportsError> {
        let accounts = self.store.users.accounts_of(user).await?;
        for environment in [Environment::Live, Environment::Test] {
            let filter = CallFilter { id: Some(id), ..CallFilter::default() };
            let (mut calls, _) = self.calls(user, environment, None, 1, filter).await?;
            let Some(call) = calls.pop() else { continue };
            let found = self.store.charge_entries(accounts.of(environment), id).await?;
            let entries = found.map(|found| {
                let mut entries = vec![found.charge];
                entries.extend(found.others);
                entries
            });
            return Ok(CallView { environment, call, entries: entries.unwrap_or_default() });
        }
        Err(ReportsError::NoCall)
    }

    /// The filter; nobody finds out the name of a deployment by asking for it.
    fn without_hidden(&self, filter: UsageFilter) -> UsageFilter {
        let is_hidden = |name: &String| {
            !self.gateway.models.shows_deployments() && shown_name(name) != name.as_str()
        };
        match &filter.upstream {
            Some(name) if is_hidden(name) => {
                // No upstream has this name.
                UsageFilter { upstream: Some(String::new()), ..filter }
            }
            _ => filter,
        }
    }
}

/// The name of an upstream for customers who do not see deployments: those of models are all one.
fn shown_name(name: &str) -> &str {
    let is_of_group = |group: RouteGroup| {
        name.strip_prefix(group.name()).is_some_and(|rest| rest.is_empty() || rest == "-fallback")
    };
    let is_known = name == sandbox::NAME || RouteGroup::ALL.into_iter().any(is_of_group);
    if is_known { name } else { RouteGroup::V1.name() }
}

/// The groups with these names, the most expensive first.
fn with_shown_names(groups: Vec<(String, Usage)>) -> Vec<(String, Usage)> {
    let mut shown: BTreeMap<String, Usage> = BTreeMap::new();
    for (name, usage) in groups {
        let sum = shown.entry(shown_name(&name).to_owned()).or_default();
        sum.rollup.add(&usage.rollup);
        sum.errors = sum.errors.saturating_add(usage.errors);
    }
    let mut shown: Vec<(String, Usage)> = shown.into_iter().collect();
    shown.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.rollup.cost));
    shown
}

/// The series with these names. What has one name in a period is one.
fn with_shown_groups(series: Vec<PeriodUsage>) -> Vec<PeriodUsage> {
    let mut shown: BTreeMap<(Timestamp, Option<String>), Usage> = BTreeMap::new();
    for PeriodUsage { starts_at, group, usage } in series {
        let group = group.map(|name| shown_name(&name).to_owned());
        let sum = shown.entry((starts_at, group)).or_default();
        sum.rollup.add(&usage.rollup);
        sum.errors = sum.errors.saturating_add(usage.errors);
    }
    let period = |((starts_at, group), usage)| PeriodUsage { starts_at, group, usage };
    shown.into_iter().map(period).collect()
}

pub(super) fn sum(rows: &[RollupRow]) -> Usage {
    let mut total = Usage::default();
    for row in rows {
        total.add(row);
    }
    total
}

fn series(span: &Span, is_grouped: bool, rows: Vec<RollupRow>) -> Vec<PeriodUsage> {
    let starts_at = |period: i32| {
        let at = span.starts_at(period);
        if span.interval == Interval::Month { at.day().month().starts_at() } else { at }
    };
    let mut periods: BTreeMap<(Timestamp, String), Usage> = BTreeMap::new();
    if span.is_filled {
        let groups: BTreeSet<&str> = rows.iter().map(|row| row.group.as_str()).collect();
        // Without groups the one series has no name.
        let unnamed = (!is_grouped && groups.is_empty()).then_some("");
        for period in span.from..span.until {
            for group in groups.iter().copied().chain(unnamed) {
                periods.entry((starts_at(period), group.to_owned())).or_default();
            }
        }
    }
    for row in rows {
        periods.entry((starts_at(row.period), row.group.clone())).or_default().add(&row);
    }
    let period = |((starts_at, group), usage): ((Timestamp, String), Usage)| PeriodUsage {
        starts_at,
        group: is_grouped.then_some(group),
        usage,
    };
    periods.into_iter().map(period).collect()
}
