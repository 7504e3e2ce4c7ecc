//! `/api/monitoring/*`: what an account's calls come to, from rollups that are written with the calls.

use std::collections::BTreeMap;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::Amount;
use super::docs::id;
use super::error::ApiError;
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::page::{page_limit, query, read_cursor};
use super::transactions::{ROUTE_CHARACTERS_MAX, text, time};
use crate::store::monitoring::{CallRow, KeyAgainstLimits};
use crate::store::rollups::{Grain, Group, RollupRow, UsageFilter, UsageQuestion};
use domain::forecast::forecast;
use domain::rollup::{Rollup, days_within, hour, hour_starts_at};
use domain::{ChargeId, Credits, Day, Ending, KeyId, MICROS_PER_DAY, Month, Timestamp};

/// The longest name of a model or an upstream in a query, in characters.
const NAME_CHARACTERS_MAX: usize = 64;
/// Groups whose series are told; of more, those that cost the most.
const SERIES_GROUPS_MAX: usize = 20;
/// Groups that are told; of more, those that cost the most.
const GROUPS_MAX: u32 = 1_000;
/// Hours, days and months that are told at once.
const HOURS_MAX: i32 = 31 * 24;
const DAYS_MAX: i32 = 731;
/// What the forecast is held against.
const FORECAST_DAYS: i32 = 7;

/// How long the periods of a series are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Interval {
    Hour,
    /// UTC days.
    #[default]
    Day,
    /// UTC months.
    Month,
}

/// What calls are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum GroupName {
    Key,
    Endpoint,
    Model,
    Status,
    Upstream,
}

impl From<GroupName> for Group {
    fn from(name: GroupName) -> Self {
        match name {
            GroupName::Key => Group::Key,
            GroupName::Endpoint => Group::Endpoint,
            GroupName::Model => Group::Model,
            GroupName::Status => Group::Status,
            GroupName::Upstream => Group::Upstream,
        }
    }
}

/// Which calls, and how they are summed up.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// From the hour or the UTC day of this time on. Absent: a day of hours, 30 days, or a year of months ago.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Up to the end of the hour or the UTC day before this time. Absent: now.
    #[param(format = DateTime)]
    until: Option<String>,
    /// `hour`, `day` (default) or `month`; at most 744 hours, or 731 days.
    #[param(inline, value_type = Option<Interval>)]
    interval: Interval,
    /// `key`, `endpoint`, `model`, `status` or `upstream`.
    #[param(inline, value_type = Option<GroupName>)]
    group_by: Option<GroupName>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
    /// Calls of this key alone.
    #[param(value_type = Option<id::KeyId>)]
    key_id: Option<String>,
    /// Calls of this route alone, as the price list has it.
    #[param(max_length = 2048)]
    endpoint: Option<String>,
    /// Calls that asked for this model alone.
    #[param(max_length = 64)]
    model: Option<String>,
    /// Calls answered with this HTTP status alone; 0 of those that nobody reported.
    #[param(minimum = 0, maximum = 599)]
    status: Option<u16>,
    /// Calls that this upstream served alone.
    #[param(max_length = 64)]
    upstream: Option<String>,
}

fn filter(
    key: Option<&str>,
    route: Option<String>,
    model: Option<String>,
    status: Option<u16>,
    upstream: Option<String>,
) -> Result<UsageFilter, ApiError> {
    let key = key.map(str::parse::<KeyId>).transpose();
    if status.is_some_and(|status| status != 0 && !(100..600).contains(&status)) {
        return Err(ApiError::field("status", "must be 0, or from 100 to 599"));
    }
    Ok(UsageFilter {
        key: key.map_err(|error| ApiError::field("key_id", error.to_string()))?,
        route: text("endpoint", route, ROUTE_CHARACTERS_MAX)?,
        model: text("model", model, NAME_CHARACTERS_MAX)?,
        status,
        upstream: text("upstream", upstream, NAME_CHARACTERS_MAX)?,
    })
}

/// Latencies in milliseconds; null without calls. Percentiles are read off a histogram, whose buckets are 1.7 times as
/// wide as the ones before.
#[derive(Serialize, ToSchema)]
pub(super) struct LatencyBody {
    mean: Option<i64>,
    p50: Option<i64>,
    p90: Option<i64>,
    p95: Option<i64>,
    p99: Option<i64>,
}

/// What calls come to.
#[derive(Serialize, ToSchema)]
pub(super) struct FiguresBody {
    #[schema(minimum = 0)]
    calls: i64,
    /// Calls not answered with success.
    #[schema(minimum = 0)]
    errors: i64,
    /// From 0 to 1.
    #[schema(value_type = f64)]
    error_rate: Box<RawValue>,
    /// USD.
    cost: Amount,
    #[schema(minimum = 0)]
    prompt_tokens: i64,
    #[schema(minimum = 0)]
    completion_tokens: i64,
    latency_ms: LatencyBody,
}

fn metrics(rollup: &Rollup, errors: i64) -> FiguresBody {
    let millis = |micros: i64| micros.max(0) / 1_000;
    let percentile = |percent: u8| rollup.percentile(percent).map(millis);
    let parts = errors.max(0).saturating_mul(1_000_000).checked_div(rollup.calls).unwrap_or(0);
    let rate = format!("{}.{:06}", parts / 1_000_000, parts % 1_000_000);
    FiguresBody {
        calls: rollup.calls,
        errors,
        error_rate: RawValue::from_string(rate).unwrap_or_default(),
        cost: Amount(rollup.cost),
        prompt_tokens: rollup.prompt_tokens,
        completion_tokens: rollup.completion_tokens,
        latency_ms: LatencyBody {
            mean: rollup.latency_micros.checked_div(rollup.calls).map(millis),
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
        },
    }
}

/// What the calls of a group come to.
#[derive(Serialize, ToSchema)]
pub(super) struct GroupBody {
    /// A key's id, `POST /v1/chat/completions`, a model, a status, or an upstream.
    group: String,
    #[serde(flatten)]
    metrics: FiguresBody,
}

/// What the calls of a period come to.
#[derive(Serialize, ToSchema)]
pub(super) struct PeriodBody {
    /// When the period begins.
    #[schema(format = DateTime)]
    period: String,
    /// The group, where groups are asked for.
    group: Option<String>,
    #[serde(flatten)]
    metrics: FiguresBody,
}

/// What an account's calls come to. Periods without calls are left out.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageAnswer {
    environment: EnvironmentName,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    until: String,
    interval: Interval,
    totals: FiguresBody,
    /// The dearest first, at most 1,000; empty where no groups are asked for.
    groups: Vec<GroupBody>,
    /// In the order of time; of groups, the 20 dearest.
    series: Vec<PeriodBody>,
}

/// A span of periods of one length, the second exclusive.
struct Span {
    grain: Grain,
    from: i32,
    until: i32,
}

impl Span {
    fn of(asked: &UsageQuery, now: Timestamp) -> Result<Self, ApiError> {
        let (from, until) =
            (time("from", asked.from.as_deref())?, time("until", asked.until.as_deref())?);
        // What happens now is in it.
        let end = now.plus_micros(1);
        let last = until.map_or(end, |until| until.min(end)).plus_micros(-1);
        let (grain, max, span) = match asked.interval {
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
        let (from, until) = span;
        if from >= until {
            return Err(ApiError::field("from", "must be before until, and before now"));
        }
        if until.saturating_sub(from) > max {
            return Err(ApiError::field("from", "is too long ago for this interval"));
        }
        Ok(Span { grain, from, until })
    }

    fn starts_at(&self, period: i32) -> Timestamp {
        match self.grain {
            Grain::Hour => hour_starts_at(period),
            Grain::Day => Day(period).starts_at(),
        }
    }
}

/// What an account's calls come to: in all, by group, and by hour, day or month.
#[utoipa::path(get, path = "/api/monitoring/usage", tag = "monitoring", security(("jwt" = [])),
    params(UsageQuery), responses(
    (status = 200, description = "The metrics", body = UsageAnswer),
))]
pub(super) async fn usage(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: UsageQuery = query(&request)?;
    let span = Span::of(&asked, app.clock.now())?;
    let UsageQuery {
        interval,
        group_by,
        environment,
        key_id,
        endpoint,
        model,
        status,
        upstream,
        ..
    } = asked;
    let filter = filter(key_id.as_deref(), endpoint, model, status, upstream)?;
    let account = app.payments.whole_account(user.id, environment.into()).await?;
    let (grain, periods) = (span.grain, (span.from, span.until));
    let group = group_by.map(Group::from);
    let in_all = UsageQuestion {
        grain,
        periods,
        filter,
        by_period: false,
        group,
        only: None,
        dearest: Some(GROUPS_MAX),
    };
    let mut groups = Vec::new();
    let mut only: Option<Vec<String>> = None;
    if group.is_some() {
        groups = app.store.usage(account, in_all.clone()).await?;
        let dearest = groups.iter().take(SERIES_GROUPS_MAX);
        only = Some(dearest.map(|row| row.group.clone()).collect());
    }
    let is_nothing = only.as_ref().is_some_and(Vec::is_empty);
    let by_period = UsageQuestion { by_period: true, dearest: None, only, ..in_all.clone() };
    let rows = if is_nothing { Vec::new() } else { app.store.usage(account, by_period).await? };
    // Of so many groups as there may be only the dearest are known.
    let totals = if groups.len() < usize::try_from(GROUPS_MAX).unwrap_or(usize::MAX) {
        if group.is_some() { sum(&groups) } else { sum(&rows) }
    } else {
        sum(&app.store.usage(account, UsageQuestion { group: None, ..in_all }).await?)
    };
    let groups = groups
        .into_iter()
        .map(|row| GroupBody { metrics: metrics(&row.rollup, row.errors), group: row.group });
    Ok(HttpResponse::Ok().json(UsageAnswer {
        environment,
        from: span.starts_at(span.from).to_rfc3339(),
        until: span.starts_at(span.until).to_rfc3339(),
        interval,
        totals: metrics(&totals.0, totals.1),
        groups: groups.collect(),
        series: series(&span, interval, group.is_some(), rows),
    }))
}

fn sum(rows: &[RollupRow]) -> (Rollup, i64) {
    let mut total = (Rollup::default(), 0_i64);
    for row in rows {
        total.0.add(&row.rollup);
        total.1 = total.1.saturating_add(row.errors);
    }
    total
}

fn series(
    span: &Span,
    interval: Interval,
    is_grouped: bool,
    rows: Vec<RollupRow>,
) -> Vec<PeriodBody> {
    let mut periods: BTreeMap<(Timestamp, String), (Rollup, i64)> = BTreeMap::new();
    for row in rows {
        let mut at = span.starts_at(row.period);
        if interval == Interval::Month {
            at = at.day().month().starts_at();
        }
        let sum = periods.entry((at, row.group)).or_default();
        sum.0.add(&row.rollup);
        sum.1 = sum.1.saturating_add(row.errors);
    }
    let body = |((at, group), (rollup, errors)): ((Timestamp, String), (Rollup, i64))| PeriodBody {
        period: at.to_rfc3339(),
        group: is_grouped.then_some(group),
        metrics: metrics(&rollup, errors),
    };
    periods.into_iter().map(body).collect()
}

/// Which calls.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CallsQuery {
    /// At most so many, from 1 to 100; 50 where absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    #[param(pattern = "^req-[0-9a-f-]{36}$")]
    cursor: Option<String>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
    /// Calls of this key alone.
    #[param(value_type = Option<id::KeyId>)]
    key_id: Option<String>,
    /// Calls of this route alone, as the price list has it.
    #[param(max_length = 2048)]
    endpoint: Option<String>,
    /// Calls that asked for this model alone.
    #[param(max_length = 64)]
    model: Option<String>,
    /// Calls answered with this HTTP status alone; 0 of those that nobody reported.
    #[param(minimum = 0, maximum = 599)]
    status: Option<u16>,
    /// Calls that this upstream served alone.
    #[param(max_length = 64)]
    upstream: Option<String>,
}

/// One call.
#[derive(Serialize, ToSchema)]
pub(super) struct CallBody {
    /// As in the headers `X-Request-Id` and `X-Polysystems-Charge`.
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    request_id: String,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(value_type = id::KeyId)]
    key_id: String,
    method: String,
    /// The route, as the price list has it.
    endpoint: String,
    /// The model asked for; null where none was named.
    model: Option<String>,
    /// Who served it.
    upstream: String,
    /// The HTTP status answered.
    status: i16,
    /// `completed`, `failed`, `upstream_cut`, `client_left`, `client_left_drained`, `credits_ended`, `unwritable` or
    /// `server_stopped`.
    ending: &'static str,
    cost: Amount,
    #[schema(minimum = 0)]
    prompt_tokens: i64,
    #[schema(minimum = 0)]
    completion_tokens: i64,
    /// From arrival to the upstream's answer.
    #[schema(minimum = 0)]
    latency_ms: i64,
}

impl From<CallRow> for CallBody {
    fn from(call: CallRow) -> Self {
        CallBody {
            request_id: call.id.to_string(),
            started_at: call.started_at.to_rfc3339_micros(),
            key_id: call.key.to_string(),
            method: call.method,
            endpoint: call.route,
            model: Some(call.model).filter(|model| !model.is_empty()),
            upstream: call.upstream,
            status: call.status,
            ending: ending(call.ending),
            cost: Amount(call.cost),
            prompt_tokens: call.prompt_tokens,
            completion_tokens: call.completion_tokens,
            latency_ms: call.latency_micros.max(0) / 1_000,
        }
    }
}

const fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Completed => "completed",
        Ending::Failed => "failed",
        Ending::UpstreamCut => "upstream_cut",
        Ending::ClientLeft => "client_left",
        Ending::ClientLeftDrained => "client_left_drained",
        Ending::CreditsEnded => "credits_ended",
        Ending::Unwritable => "unwritable",
        Ending::ServerStopped => "server_stopped",
    }
}

/// A page of calls.
#[derive(Serialize, ToSchema)]
pub(super) struct CallsPage {
    requests: Vec<CallBody>,
    /// For the next page; null on the last one. A page of a list that is narrowed may have fewer than `limit`, or
    /// none, and a next one all the same.
    next_cursor: Option<String>,
}

/// The account's calls, latest first, as long as they are kept.
#[utoipa::path(get, path = "/api/monitoring/requests", tag = "monitoring", security(("jwt" = [])),
    params(CallsQuery), responses(
    (status = 200, description = "A page of calls", body = CallsPage),
))]
pub(super) async fn requests(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: CallsQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let before: Option<ChargeId> = read_cursor(asked.cursor.as_deref())?;
    let CallsQuery { environment, key_id, endpoint, model, status, upstream, .. } = asked;
    let filter = filter(key_id.as_deref(), endpoint, model, status, upstream)?;
    let account = app.payments.whole_account(user.id, environment.into()).await?;
    let (calls, next) = app.store.list_calls(account, before, limit, filter).await?;
    let requests = calls.into_iter().map(CallBody::from).collect();
    let next_cursor = next.map(|id| id.to_string());
    Ok(HttpResponse::Ok().json(CallsPage { requests, next_cursor }))
}

/// Which account.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EnvironmentQuery {
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
}

/// Spent in a window, and its limit.
#[derive(Serialize, ToSchema)]
pub(super) struct WindowBody {
    spent: Amount,
    /// null is no limit.
    limit: Option<Amount>,
    /// Of the limit; null where there is none.
    percent: Option<i64>,
    /// When the window ends; null is never.
    #[schema(format = DateTime)]
    resets_at: Option<String>,
}

/// A key's spending against its limits.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyLimitsBody {
    #[schema(value_type = id::KeyId)]
    key_id: String,
    name: String,
    is_active: bool,
    /// What one request may cost; null is no limit.
    per_request_limit: Option<Amount>,
    daily: WindowBody,
    monthly: WindowBody,
    total: WindowBody,
}

/// The keys' spending against their limits.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountLimitsAnswer {
    environment: EnvironmentName,
    keys: Vec<KeyLimitsBody>,
}

fn window(spent: Credits, limit: Option<Credits>, resets_at: Option<Timestamp>) -> WindowBody {
    let percent = limit.and_then(|limit| {
        let spent = i128::from(spent.nanos()).saturating_mul(100);
        i64::try_from(spent.checked_div(i128::from(limit.nanos()))?).ok()
    });
    WindowBody {
        spent: Amount(spent),
        limit: limit.map(Amount),
        percent,
        resets_at: resets_at.map(Timestamp::to_rfc3339),
    }
}

fn key_limits(key: KeyAgainstLimits, now: Timestamp) -> KeyLimitsBody {
    let (day, month) = (now.day(), now.day().month());
    let of_today = if key.day.0 == day { key.day.1 } else { Credits::ZERO };
    let of_month = if key.month.0 == month { key.month.1 } else { Credits::ZERO };
    KeyLimitsBody {
        key_id: key.key.to_string(),
        name: key.name,
        is_active: key.is_active,
        per_request_limit: key.limits.per_request.map(Amount),
        daily: window(of_today, key.limits.daily, Some(day.ends_at())),
        monthly: window(of_month, key.limits.monthly, Some(month.ends_at())),
        total: window(key.total, key.limits.total, None),
    }
}

/// What the account's keys have spent, against their limits.
#[utoipa::path(get, path = "/api/monitoring/limits", tag = "monitoring", security(("jwt" = [])),
    params(EnvironmentQuery), responses(
    (status = 200, description = "The keys", body = AccountLimitsAnswer),
))]
pub(super) async fn limits(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let EnvironmentQuery { environment } = query(&request)?;
    let account = app.payments.whole_account(user.id, environment.into()).await?;
    let now = app.clock.now();
    let keys = app.store.keys_against_limits(account, now).await?;
    let keys = keys.into_iter().map(|key| key_limits(key, now)).collect();
    Ok(HttpResponse::Ok().json(AccountLimitsAnswer { environment, keys }))
}

/// When the balance runs out, if spending goes on as in the last seven days.
#[derive(Serialize, ToSchema)]
pub(super) struct ForecastAnswer {
    environment: EnvironmentName,
    balance: Amount,
    /// `USD`
    currency: &'static str,
    /// On average.
    spent_per_day: Amount,
    /// null where nothing is spent, or that is more than ten years away.
    #[schema(format = DateTime)]
    depleted_at: Option<String>,
    /// Whole days until then.
    days_left: Option<i64>,
}

/// When the balance runs out, if spending goes on as in the last seven days.
#[utoipa::path(get, path = "/api/monitoring/forecast", tag = "monitoring", security(("jwt" = [])),
    params(EnvironmentQuery), responses(
    (status = 200, description = "The forecast", body = ForecastAnswer),
))]
pub(super) async fn forecast_balance(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let EnvironmentQuery { environment } = query(&request)?;
    let (snapshot, _) = app.payments.balance(user.id, environment.into()).await?;
    let account = app.payments.whole_account(user.id, environment.into()).await?;
    let now = app.clock.now();
    let end = hour(now).saturating_add(1);
    let begin = end.saturating_sub(FORECAST_DAYS.saturating_mul(24));
    let mut spent = Credits::ZERO;
    // Whole days as days: there are far fewer rows of those.
    let [before, days, behind] = days_within(begin, end);
    for (grain, periods) in [(Grain::Hour, before), (Grain::Day, days), (Grain::Hour, behind)] {
        let question =
            UsageQuestion { by_period: false, ..UsageQuestion::by_period(grain, periods) };
        let cost = sum(&app.store.usage(account, question).await?).0.cost;
        spent = spent.checked_add(cost).unwrap_or(Credits::MAX);
    }
    // An account that began within them has spent it in less time; an hour at least.
    let began = app.store.account_created_at(account).await?;
    let from = hour_starts_at(begin).max(began);
    let micros = now.micros_since(from).max(3_600_000_000);
    let found = forecast(snapshot.balance, spent, micros, now);
    let days_left = found.depleted_at.map(|at| at.micros_since(now) / MICROS_PER_DAY);
    Ok(HttpResponse::Ok().json(ForecastAnswer {
        environment,
        balance: Amount(snapshot.balance),
        currency: "USD",
        spent_per_day: Amount(found.spent_per_day),
        depleted_at: found.depleted_at.map(Timestamp::to_rfc3339),
        days_left,
    }))
}
