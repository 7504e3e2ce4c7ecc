//! `GET /api/admin/usage`.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::WithAmounts as _;
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::monitoring::{FillName, IntervalName, UsageAnswer, filter, usage_answer};
use super::page::query;
use super::transactions::time;
use crate::reports::Span;
use crate::store::rollups::Group;

/// How the calls of all accounts are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OperatorsGroupName {
    User,
    Tier,
    Key,
    Endpoint,
    Model,
    Status,
    Upstream,
}

impl From<OperatorsGroupName> for Group {
    fn from(name: OperatorsGroupName) -> Self {
        match name {
            OperatorsGroupName::User => Group::User,
            OperatorsGroupName::Tier => Group::Tier,
            OperatorsGroupName::Key => Group::Key,
            OperatorsGroupName::Endpoint => Group::Endpoint,
            OperatorsGroupName::Model => Group::Model,
            OperatorsGroupName::Status => Group::Status,
            OperatorsGroupName::Upstream => Group::Upstream,
        }
    }
}

/// Which calls of all accounts, and how they are summed up.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageOfAllQuery {
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
    /// `user`, `tier`, `key`, `endpoint`, `model`, `status` or `upstream`.
    #[param(inline, value_type = Option<OperatorsGroupName>)]
    group_by: Option<OperatorsGroupName>,
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

/// What the calls of all accounts come to: in all, by group, and by hour, day or month.
#[utoipa::path(get, path = "/api/admin/usage", tag = "admin", security(("jwt" = [])),
    params(UsageOfAllQuery), responses(
    (status = 200, description = "The metrics", body = UsageAnswer),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn usage(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: UsageOfAllQuery = query(&request)?;
    let (from, until) =
        (time("from", asked.from.as_deref())?, time("until", asked.until.as_deref())?);
    let span = Span::of(asked.interval.into(), from, until, app.clock.now());
    let span = span.map_err(|error| ApiError::field("from", error.to_string()))?;
    let span = if asked.fill.is_some() { span.filled() } else { span };
    let UsageOfAllQuery { interval, group_by, environment, .. } = asked;
    let UsageOfAllQuery { key_id, endpoint, model, status, upstream, .. } = asked;
    let filter = filter(key_id.as_deref(), endpoint, model, status, upstream)?;
    let group = group_by.map(Group::from);
    let report = app.reports.usage_of_all(environment.into(), span, filter, group).await?;
    Ok(HttpResponse::Ok().amounts(usage_answer(environment, interval, span, report)))
}
