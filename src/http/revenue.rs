//! `GET /api/admin/revenue`.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::{Amount, WithAmounts as _};
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::page::query;
use super::statements::csv;
use super::transactions::time;
use crate::bills::{RevenueBy, RevenueInterval, RevenueReport};
use crate::reports::{Interval, Span};
use domain::revenue::Revenue;

/// Which revenue.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RevenueQuery {
    /// `day` (default) or `month`, in UTC; at most 731 days.
    #[param(pattern = "^(day|month)$")]
    interval: Option<String>,
    /// From the UTC day or month of this time on. Absent: 30 days, or a year of months ago.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Up to the end of the UTC day before this time. Absent: now.
    #[param(format = DateTime)]
    until: Option<String>,
    /// `kind`: of the entries of the ledgers. `provider`: of payments.
    #[param(pattern = "^(kind|provider)$")]
    group_by: Option<String>,
    /// `json` (default) or `csv`.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// What entries of the ledgers come to.
#[derive(Serialize, ToSchema)]
pub(super) struct RevenueBody {
    /// How many entries.
    entries: u64,
    /// Credited for payments.
    credited: Amount,
    /// Taken back because the provider refunded a payment.
    refunded: Amount,
    /// Taken back because a payer disputes a payment.
    disputed: Amount,
    /// Given back because a refund failed or a dispute was won.
    reinstated: Amount,
    /// `credited` and `reinstated`, less `refunded` and `disputed`.
    paid: Amount,
    /// Given by operators, without a payment.
    granted: Amount,
    /// Taken by operators, or given up by users who erased their account.
    taken: Amount,
    /// Taken for calls.
    spent: Amount,
    /// Fixed prices that were given back because the call failed.
    returned: Amount,
    /// Given back to correct charges, less what was taken to correct them.
    corrected: Amount,
    /// `spent`, less `returned` and `corrected`: the revenue of the margins.
    earned: Amount,
    /// `paid` and `granted`, less `taken` and `earned`: by how much the balances have grown.
    net: Amount,
}

impl From<&Revenue> for RevenueBody {
    fn from(sums: &Revenue) -> Self {
        RevenueBody {
            entries: sums.entries,
            credited: Amount(sums.credited),
            refunded: Amount(sums.refunded),
            disputed: Amount(sums.disputed),
            reinstated: Amount(sums.reinstated),
            paid: Amount(sums.paid()),
            granted: Amount(sums.granted),
            taken: Amount(sums.taken),
            spent: Amount(sums.spent),
            returned: Amount(sums.returned),
            corrected: Amount(sums.corrected),
            earned: Amount(sums.earned()),
            net: Amount(sums.net()),
        }
    }
}

/// What the entries of a group come to.
#[derive(Serialize, ToSchema)]
pub(super) struct RevenueGroupBody {
    /// The kind of the entries as transactions have it, or `correction`; or the provider of the
    /// payments, empty for entries of no payment.
    group: String,
    #[serde(flatten)]
    sums: RevenueBody,
}

/// What the entries of an interval come to.
#[derive(Serialize, ToSchema)]
pub(super) struct RevenueIntervalBody {
    /// When it begins.
    #[schema(format = DateTime)]
    period: String,
    /// When it ends, exclusive. The last one ends with the span.
    #[schema(format = DateTime)]
    ends_at: String,
    #[serde(flatten)]
    sums: RevenueBody,
    /// The sum of all live balances at its end.
    liability: Amount,
    /// By group; empty if no groups are asked for.
    groups: Vec<RevenueGroupBody>,
}

/// What customers have paid and spent in a span of time, and what is owed to them.
#[derive(Serialize, ToSchema)]
pub(super) struct RevenueAnswer {
    /// `day` or `month`
    #[schema(pattern = "^(day|month)$")]
    interval: &'static str,
    /// `kind` or `provider`; null: no groups.
    #[schema(pattern = "^(kind|provider)$")]
    group_by: Option<&'static str>,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    until: String,
    /// `USD`
    currency: &'static str,
    /// The sum of all live balances before the span.
    opening_liability: Amount,
    /// The sum of all live balances at its end. It is `opening_liability` and `totals.net`.
    closing_liability: Amount,
    totals: RevenueBody,
    /// By group; empty if no groups are asked for.
    groups: Vec<RevenueGroupBody>,
    /// Every interval of the span, in the order of time.
    series: Vec<RevenueIntervalBody>,
}

fn groups(groups: &std::collections::BTreeMap<String, Revenue>) -> Vec<RevenueGroupBody> {
    let group = |(name, sums): (&String, &Revenue)| RevenueGroupBody {
        group: name.clone(),
        sums: sums.into(),
    };
    groups.iter().map(group).collect()
}

impl From<&RevenueInterval> for RevenueIntervalBody {
    fn from(interval: &RevenueInterval) -> Self {
        RevenueIntervalBody {
            period: interval.starts_at.to_rfc3339(),
            ends_at: interval.ends_at.to_rfc3339(),
            sums: (&interval.sums).into(),
            liability: Amount(interval.liability),
            groups: groups(&interval.groups),
        }
    }
}

fn answer(interval: &'static str, report: &RevenueReport) -> RevenueAnswer {
    RevenueAnswer {
        interval,
        group_by: report.by.map(RevenueBy::name),
        from: report.span.from().to_rfc3339(),
        until: report.span.until().to_rfc3339(),
        currency: "USD",
        opening_liability: Amount(report.opening),
        closing_liability: Amount(report.closing()),
        totals: (&report.total).into(),
        groups: groups(&report.groups),
        series: report.intervals.iter().map(RevenueIntervalBody::from).collect(),
    }
}

/// What customers have paid and spent, by day or month, and the liability: the sum of all live
/// balances at the end of each. It is the exact fold of the ledgers of live accounts; test accounts
/// are left out.
#[utoipa::path(get, path = "/api/admin/revenue", tag = "admin", security(("jwt" = [])),
    params(RevenueQuery), responses(
    (status = 200, description = "The revenue", content((RevenueAnswer = "application/json"), (String = "text/csv"))),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn revenue(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let RevenueQuery { interval, from, until, group_by, format } = query(&request)?;
    let (name, interval) = match interval.as_deref() {
        None | Some("day") => ("day", Interval::Day),
        Some("month") => ("month", Interval::Month),
        Some(_) => return Err(ApiError::field("interval", "must be day or month")),
    };
    let by = match group_by.as_deref() {
        None => None,
        Some("kind") => Some(RevenueBy::Kind),
        Some("provider") => Some(RevenueBy::Provider),
        Some(_) => return Err(ApiError::field("group_by", "must be kind or provider")),
    };
    let is_csv = match format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(ApiError::field("format", "must be json or csv")),
    };
    let (from, until) = (time("from", from.as_deref())?, time("until", until.as_deref())?);
    let span = Span::of(interval, from, until, app.clock.now());
    let span = span.map_err(|error| ApiError::field("from", error.to_string()))?;
    let report = app.bills.revenue(span, by).await?;
    if is_csv {
        return Ok(csv(report.to_csv(), "revenue.csv"));
    }
    Ok(HttpResponse::Ok().amounts(answer(name, &report)))
}
