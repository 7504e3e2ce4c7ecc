//! `/api/monitoring/*`: usage, limits and the forecast of an account.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::{Amount, WithAmounts as _};
use super::docs::id;
use super::error::ApiError;
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::page::query;
use super::transactions::{ROUTE_CHARACTERS_MAX, text, time};
use crate::reports::{self, KeyUsage, PeriodUsage, Span, Usage, UsageReport, Window};
use crate::store::rollups::{Group, UsageFilter};
use domain::{KeyId, Timestamp, UserId};

/// The longest name of a model or an upstream in a query, in characters.
const NAME_CHARACTERS_MAX: usize = 64;

/// How long the periods of a series are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum IntervalName {
    Hour,
    /// UTC days.
    #[default]
    Day,
    /// UTC months.
    Month,
}

impl From<IntervalName> for reports::Interval {
    fn from(interval: IntervalName) -> Self {
        match interval {
            IntervalName::Hour => reports::Interval::Hour,
            IntervalName::Day => reports::Interval::Day,
            IntervalName::Month => reports::Interval::Month,
        }
    }
}

/// What stands for periods without calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum FillName {
    Zero,
}

/// How calls are grouped.
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
    /// From the hour or the UTC day of this time on. Absent: a day of hours, 30 days, or a year of
    /// months ago.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Up to the end of the hour or the UTC day before this time. Absent: now.
    #[param(format = DateTime)]
    until: Option<String>,
    /// `hour`, `day` (default) or `month`; at most 744 hours, or 731 days.
    #[param(inline, value_type = Option<IntervalName>)]
    interval: IntervalName,
    /// `key`, `endpoint`, `model`, `status` or `upstream`.
    #[param(inline, value_type = Option<GroupName>)]
    group_by: Option<GroupName>,
    /// `zero`: the series has every period of the span, also those without calls. Absent: only
    /// periods with calls.
    #[param(inline, value_type = Option<FillName>)]
    fill: Option<FillName>,
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

pub(super) fn filter(
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

/// Latencies in milliseconds; null without calls. Percentiles are read off a histogram, whose
/// buckets are 1.7 times as wide as the ones before.
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
pub(super) struct UsageBody {
    #[schema(minimum = 0)]
    calls: i64,
    /// Calls not answered with success.
    #[schema(minimum = 0)]
    errors: i64,
    /// From 0 to 1.
    #[schema(value_type = f64)]
    error_rate: serde_json::Number,
    /// USD.
    cost: Amount,
    #[schema(minimum = 0)]
    prompt_tokens: i64,
    #[schema(minimum = 0)]
    completion_tokens: i64,
    latency_ms: LatencyBody,
}

fn usage_body(usage: &Usage) -> UsageBody {
    let Usage { rollup, errors } = usage;
    let millis = |micros: i64| micros.max(0) / 1_000;
    let percentile = |percent: u8| rollup.percentile(percent).map(millis);
    let parts =
        usage.errors.max(0).saturating_mul(1_000_000).checked_div(rollup.calls).unwrap_or(0);
    let rate = format!("{}.{:06}", parts / 1_000_000, parts % 1_000_000);
    UsageBody {
        calls: rollup.calls,
        errors: *errors,
        error_rate: rate.parse().unwrap_or_else(|_| 0.into()),
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
    /// A key's id, `POST /v1/chat/completions`, a model, a status, or an upstream. For operators a
    /// user's id or a tier too; the default tier is empty.
    group: String,
    #[serde(flatten)]
    metrics: UsageBody,
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
    metrics: UsageBody,
}

/// What an account's calls come to. Periods without calls are left out.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageAnswer {
    environment: EnvironmentName,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    until: String,
    interval: IntervalName,
    totals: UsageBody,
    /// The most expensive first, at most 1,000; empty if no groups are asked for.
    groups: Vec<GroupBody>,
    /// In the order of time; of groups, the 20 most expensive.
    series: Vec<PeriodBody>,
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
    usage_of(user.id, &app, &request).await
}

/// What the calls of a user's account come to.
pub(super) async fn usage_of(
    user: UserId,
    app: &App,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: UsageQuery = query(request)?;
    let (from, until) =
        (time("from", asked.from.as_deref())?, time("until", asked.until.as_deref())?);
    let span = Span::of(asked.interval.into(), from, until, app.clock.now());
    let span = span.map_err(|error| ApiError::field("from", error.to_string()))?;
    let span = if asked.fill.is_some() { span.filled() } else { span };
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
    let group = group_by.map(Group::from);
    let report = app.reports.usage(user, environment.into(), span, filter, group).await?;
    Ok(HttpResponse::Ok().amounts(usage_answer(environment, interval, span, report)))
}

/// What calls come to.
pub(super) fn usage_answer(
    environment: EnvironmentName,
    interval: IntervalName,
    span: Span,
    report: UsageReport,
) -> UsageAnswer {
    let group = |(group, usage): (String, Usage)| GroupBody { group, metrics: usage_body(&usage) };
    let period = |period: PeriodUsage| PeriodBody {
        period: period.starts_at.to_rfc3339(),
        group: period.group,
        metrics: usage_body(&period.usage),
    };
    UsageAnswer {
        environment,
        from: span.from().to_rfc3339(),
        until: span.until().to_rfc3339(),
        interval,
        totals: usage_body(&report.totals),
        groups: report.groups.into_iter().map(group).collect(),
        series: report.series.into_iter().map(period).collect(),
    }
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

impl From<Window> for WindowBody {
    fn from(window: Window) -> Self {
        WindowBody {
            spent: Amount(window.spent),
            limit: window.limit.map(Amount),
            percent: window.percent,
            resets_at: window.resets_at.map(Timestamp::to_rfc3339),
        }
    }
}

impl From<KeyUsage> for KeyLimitsBody {
    fn from(key: KeyUsage) -> Self {
        KeyLimitsBody {
            key_id: key.key.to_string(),
            name: key.name,
            is_active: key.is_active,
            per_request_limit: key.per_request.map(Amount),
            daily: key.daily.into(),
            monthly: key.monthly.into(),
            total: key.total.into(),
        }
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
    limits_of(user.id, &app, &request).await
}

/// What the keys of a user's account have spent.
pub(super) async fn limits_of(
    user: UserId,
    app: &App,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let EnvironmentQuery { environment } = query(request)?;
    let keys = app.reports.key_usage(user, environment.into()).await?;
    let keys = keys.into_iter().map(KeyLimitsBody::from).collect();
    Ok(HttpResponse::Ok().amounts(AccountLimitsAnswer { environment, keys }))
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
    let forecast = app.reports.forecast(user.id, environment.into()).await?;
    Ok(HttpResponse::Ok().amounts(ForecastAnswer {
        environment,
        balance: Amount(forecast.balance),
        currency: "USD",
        spent_per_day: Amount(forecast.spent_per_day),
        depleted_at: forecast.depleted_at.map(Timestamp::to_rfc3339),
        days_left: forecast.days_left,
    }))
}
