//! `GET /api/admin/margins`.

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
use crate::bills::{AttemptsWithoutAnswer, MarginsAsked, MarginsBy, MarginsReport};
use domain::MICROS_PER_DAY;
use domain::margin::Margin;

/// The days of a report that says nothing else.
const DAYS: i64 = 30;

/// Which margins.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MarginsQuery {
    /// `model` (default), `deployment`, `provider`, `user` or `day`.
    #[param(pattern = "^(model|deployment|provider|user|day)$")]
    by: Option<String>,
    /// Entries of the ledgers from this time on; 30 days before `to` if absent.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Entries before this time; now if absent.
    #[param(format = DateTime)]
    to: Option<String>,
    /// `json` (default) or `csv`.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// What calls have brought and cost.
#[derive(Serialize, ToSchema)]
pub(super) struct MarginBody {
    /// How many calls were charged.
    calls: u64,
    /// What was taken for calls, less refunds and corrections: exactly what the entries of the
    /// ledgers come to.
    revenue: Amount,
    /// What the calls cost us, as far as that is known.
    cost: Amount,
    /// `revenue` less `unknown_revenue` and `cost`.
    margin: Amount,
    /// Those of the calls whose cost nobody knows.
    unknown_calls: u64,
    /// The part of `revenue` that is of these.
    unknown_revenue: Amount,
}

impl From<&Margin> for MarginBody {
    fn from(margin: &Margin) -> Self {
        MarginBody {
            calls: margin.calls,
            revenue: Amount(margin.revenue),
            cost: Amount(margin.cost),
            margin: Amount(margin.margin()),
            unknown_calls: margin.unknown(),
            unknown_revenue: Amount(margin.unknown_revenue),
        }
    }
}

/// The margin of one group.
#[derive(Serialize, ToSchema)]
pub(super) struct MarginGroupBody {
    /// The card that prices the calls (a model, a pattern or a route), the deployment, the
    /// provider, the id of the user, or the UTC day. Empty: nobody knows.
    name: String,
    #[serde(flatten)]
    margin: MarginBody,
}

/// Why costs are not known.
#[derive(Serialize, ToSchema)]
pub(super) struct UnknownCostBody {
    /// `no_record`: the usage record of the call is gone. `no_deployment`: it was sold by its
    /// route, or the catalogue does not say who served it. `no_list`: neither the deployment nor
    /// its provider names a price list as `cost`. `no_card`: the list had no card for the
    /// provider's name of the model. `no_price`: the card has no price for the service tier or for
    /// something that was used.
    #[schema(pattern = "^(no_record|no_deployment|no_list|no_card|no_price)$")]
    reason: &'static str,
    calls: u64,
}

/// Attempts that were no answer.
#[derive(Serialize, ToSchema)]
pub(super) struct FailedAttemptsBody {
    /// The deployment; null: it is in the catalogue no more.
    deployment: Option<String>,
    /// Its number.
    deployment_number: u32,
    /// How they ended.
    outcome: &'static str,
    attempts: u64,
    /// true: the provider may have taken something for them, and does not say what. false: they
    /// cost nothing.
    may_cost: bool,
}

impl From<&AttemptsWithoutAnswer> for FailedAttemptsBody {
    fn from(one: &AttemptsWithoutAnswer) -> Self {
        FailedAttemptsBody {
            deployment: one.deployment.as_ref().map(ToString::to_string),
            deployment_number: one.id.0,
            outcome: one.outcome.name(),
            attempts: one.count,
            may_cost: one.may_cost,
        }
    }
}

/// The margins of a span of time.
#[derive(Serialize, ToSchema)]
pub(super) struct MarginsAnswer {
    /// What the groups are.
    by: &'static str,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    /// `USD`
    currency: &'static str,
    total: MarginBody,
    /// By day in their order, else that with the most revenue first. Beyond 1,000 they are one
    /// group, `(others)`.
    groups: Vec<MarginGroupBody>,
    /// Why the costs of `total.unknown_calls` are not known.
    unknown: Vec<UnknownCostBody>,
    /// Attempts of the span that were no answer.
    failed_attempts: Vec<FailedAttemptsBody>,
    /// false: the span has more than 5,000,000 entries. Ask for a shorter one.
    complete: bool,
}

impl From<&MarginsReport> for MarginsAnswer {
    fn from(report: &MarginsReport) -> Self {
        let asked = report.asked;
        let group = |(name, margin): (&String, &Margin)| MarginGroupBody {
            name: name.clone(),
            margin: margin.into(),
        };
        let groups = report.groups.iter().map(|one| (&one.name, &one.margin));
        let unknown = report.total.unknown_calls.iter();
        MarginsAnswer {
            by: asked.by.name(),
            from: asked.from.to_rfc3339_micros(),
            to: asked.until.to_rfc3339_micros(),
            currency: "USD",
            total: (&report.total).into(),
            groups: groups.map(group).collect(),
            unknown: unknown
                .map(|(why, calls)| UnknownCostBody { reason: why.name(), calls: *calls })
                .collect(),
            failed_attempts: report.attempts.iter().map(FailedAttemptsBody::from).collect(),
            complete: report.is_complete,
        }
    }
}

/// What is left of what calls bring after what they cost us, for live accounts. Revenue is exactly
/// the sum of the entries of the ledgers. The cost of a call is that of the quantities of its bill,
/// by the price list that its deployment or provider names as `cost`, as it was in force when the
/// call arrived.
#[utoipa::path(get, path = "/api/admin/margins", tag = "admin", security(("jwt" = [])),
    params(MarginsQuery), responses(
    (status = 200, description = "The margins", content((MarginsAnswer = "application/json"), (String = "text/csv"))),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn margins(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let MarginsQuery { by, from, to, format } = query(&request)?;
    let by = match by {
        None => MarginsBy::Model,
        Some(name) => {
            let found = MarginsBy::ALL.into_iter().find(|by| by.name() == name);
            let wrong =
                || ApiError::field("by", "must be model, deployment, provider, user or day");
            found.ok_or_else(wrong)?
        }
    };
    let is_csv = match format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(ApiError::field("format", "must be json or csv")),
    };
    let until = time("to", to.as_deref())?.unwrap_or_else(|| app.clock.now().plus_micros(1));
    let from = time("from", from.as_deref())?;
    let from = from.unwrap_or_else(|| until.plus_micros(DAYS.saturating_mul(-MICROS_PER_DAY)));
    if from >= until {
        return Err(ApiError::field("from", "must be before to"));
    }
    let report = app.bills.margins(MarginsAsked { by, from, until }).await?;
    if is_csv {
        return Ok(csv(report.to_csv(), "margins.csv"));
    }
    Ok(HttpResponse::Ok().amounts(MarginsAnswer::from(&report)))
}
