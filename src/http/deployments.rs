//! `/api/admin/deployments/*`, `/api/admin/routing/plan` and `/api/admin/attempts`: who is asked
//! for the calls of models, and how that went. For operators.

use std::collections::BTreeMap;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answers::page_of;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithBody};
use super::page::{EntryCursor, cut, page_limit, query, read_cursor};
use super::validation::is_printable;
use super::{App, uncancelled};
use crate::deployments::{DeploymentTest, PlanQuestion, RoutingPlan, SeenDeployment};
use crate::store::attempts::{AttemptFilter, AttemptRow};
use crate::upstream::Client;
use domain::catalogue::{Candidate, ProviderDialect};
use domain::routing::{AttemptOutcome, DeploymentHealth, Excluded, Gate};
use domain::{ChargeId, Timestamp, UserId};

/// A deployment, and what is known of it in this process.
#[derive(Serialize, ToSchema)]
pub(super) struct DeploymentHealthBody {
    /// Its name.
    deployment: String,
    /// Its number, which it keeps for ever.
    number: u32,
    /// The name of its provider.
    provider: String,
    /// The name of its credential.
    credential: String,
    /// `closed`: it is asked. `open`: it has failed too often and is not asked. `half_open`: the
    /// next call is the one that tries.
    #[schema(pattern = "^(closed|open|half_open)$")]
    breaker: &'static str,
    /// Until when the breaker is open.
    #[schema(format = DateTime)]
    open_until: Option<String>,
    /// Until when its quota group is not asked, because the provider has asked for that.
    #[schema(format = DateTime)]
    cooling_until: Option<String>,
    /// Is it off, because the provider does not know its model?
    is_off: bool,
    /// Is its credential off, because the provider refuses it or has no money left for it?
    is_credential_off: bool,
    /// Calls that are running.
    in_flight: u32,
    /// Average time to the first byte of the last calls; null before the first.
    #[schema(minimum = 0)]
    first_byte_ms: Option<i64>,
    /// Calls that it may have in the running minute; null without a limit.
    calls_left: Option<u64>,
    /// The same of tokens.
    tokens_left: Option<u64>,
    /// How attempts at it ended since the process started, by outcome.
    attempts: BTreeMap<&'static str, u64>,
}

impl From<SeenDeployment> for DeploymentHealthBody {
    fn from(SeenDeployment { by, health, counts }: SeenDeployment) -> Self {
        let DeploymentHealth { in_flight, first_byte_micros, gate, .. } = health;
        let (breaker, open_until) = match gate {
            Gate::Go => ("closed", None),
            Gate::Probe => ("half_open", None),
            Gate::Shut(until) => ("open", Some(until.to_rfc3339())),
        };
        let counted = |outcome: AttemptOutcome| (outcome.name(), counts.of(outcome));
        DeploymentHealthBody {
            deployment: by.deployment.name.to_string(),
            number: by.id.0,
            provider: by.provider.name.to_string(),
            credential: by.credential.name.to_string(),
            breaker,
            open_until,
            cooling_until: health.cooling.map(Timestamp::to_rfc3339),
            is_off: health.is_off,
            is_credential_off: health.is_credential_off,
            in_flight,
            first_byte_ms: first_byte_micros.map(|micros| micros.max(0) / 1_000),
            calls_left: health.calls_left,
            tokens_left: health.tokens_left,
            attempts: AttemptOutcome::ALL.map(counted).into_iter().collect(),
        }
    }
}

/// All deployments.
#[derive(Serialize, ToSchema)]
pub(super) struct DeploymentsHealthAnswer {
    deployments: Vec<DeploymentHealthBody>,
}

/// What is known of each deployment in this process: breakers, cooldowns, running calls.
#[utoipa::path(get, path = "/api/admin/deployments/health", tag = "admin", security(("jwt" = [])),
    responses(
    (status = 200, description = "The deployments by name", body = DeploymentsHealthAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn health(_: AdminUser, app: Data<App>) -> HttpResponse {
    let deployments = app.deployments.list().into_iter().map(DeploymentHealthBody::from).collect();
    HttpResponse::Ok().json(DeploymentsHealthAnswer { deployments })
}

/// A deployment that is asked again.
#[derive(Serialize, ToSchema)]
pub(super) struct DeploymentResetAnswer {
    deployment: String,
}

/// Asks a deployment again that is off, open or cooling, with its credential. `/` in its name is
/// written `%2F`.
#[utoipa::path(post, path = "/api/admin/deployments/{name}/reset", tag = "admin",
    security(("jwt" = [])), params(
    ("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,300}$")), responses(
    (status = 200, description = "It is asked again", body = DeploymentResetAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such deployment", body = ErrorBody),
))]
pub(super) async fn reset(
    ConfirmedAdmin(AdminUser { origin, .. }): ConfirmedAdmin,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let deployment = name.into_inner();
    let answer = DeploymentResetAnswer { deployment: deployment.clone() };
    uncancelled(async move { app.deployments.reset(&deployment, origin).await }).await?;
    Ok(HttpResponse::Ok().json(answer))
}

/// How a test of a deployment ended.
#[derive(Serialize, ToSchema)]
pub(super) struct DeploymentTestAnswer {
    deployment: String,
    /// `answered` if it works; else what is wrong.
    outcome: &'static str,
    /// The provider's status; null if it did not answer.
    status: Option<u16>,
    #[schema(minimum = 0)]
    latency_ms: i64,
}

/// Makes one real call of one token at a deployment, whatever is known of it. The provider bills
/// it. If it answers, it is asked again. `/` in its name is written `%2F`.
#[utoipa::path(post, path = "/api/admin/deployments/{name}/test", tag = "admin",
    security(("jwt" = [])), params(
    ("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,300}$")), responses(
    (status = 200, description = "How it ended", body = DeploymentTestAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such deployment", body = ErrorBody),
))]
pub(super) async fn test(
    ConfirmedAdmin(AdminUser { origin, .. }): ConfirmedAdmin,
    app: Data<App>,
    client: Data<Client>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (deployment, client) = (name.into_inner(), Client::clone(&client));
    let name = deployment.clone();
    let testing = async move { app.deployments.test(&name, &client, origin).await };
    let DeploymentTest { outcome, status, latency_micros } = uncancelled(testing).await?;
    let latency_ms = latency_micros.max(0) / 1_000;
    let outcome = outcome.name();
    Ok(HttpResponse::Ok().json(DeploymentTestAnswer { deployment, outcome, status, latency_ms }))
}

/// A call that is thought of.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PlanBody {
    /// The name of its model, or an alias.
    #[garde(length(chars, min = 1, max = 300), custom(is_printable))]
    #[schema(min_length = 1, max_length = 300, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    model: String,
    /// The protocol in which a provider must be asked: `openai`, `azure`, `anthropic` or `gemini`.
    /// Any, if it is absent.
    #[serde(default)]
    #[schema(pattern = "^(openai|azure|anthropic|gemini)$")]
    dialect: Option<String>,
    /// Tokens of its prompt.
    #[serde(default)]
    input: u64,
    /// Tokens that its answer may have.
    #[serde(default)]
    output: u64,
    /// The name of its session. Without one, calls are spread by chance.
    #[serde(default)]
    #[garde(length(chars, max = 512), custom(is_printable_if_any))]
    #[schema(max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    session: Option<String>,
    /// The user who makes it.
    #[serde(default)]
    #[schema(value_type = Option<id::UserId>)]
    user: Option<String>,
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn is_printable_if_any(text: &Option<String>, context: &()) -> garde::Result {
    text.as_ref().map_or(Ok(()), |text| is_printable(text, context))
}

/// A deployment in its place.
#[derive(Serialize, ToSchema)]
pub(super) struct PlannedBody {
    deployment: String,
    provider: String,
    credential: String,
    /// What the provider calls the model.
    upstream_model: String,
    weight: u32,
    priority: u32,
    /// Why it would not be asked now: `disabled`, `pinned`, `dialect`, `context`, `modality`,
    /// `region`, `at_a_loss`, `off`, `credential`, `concurrency`, `rate`, `cooling` or `open`.
    /// Null: it would be.
    excluded: Option<&'static str>,
    /// Until when, if that is known.
    #[schema(format = DateTime)]
    until: Option<String>,
}

impl From<(Candidate, Option<Excluded>)> for PlannedBody {
    fn from((candidate, excluded): (Candidate, Option<Excluded>)) -> Self {
        let Candidate { by, upstream_model, weight, priority } = candidate;
        let until = match excluded {
            Some(Excluded::Cooling(until) | Excluded::Open(until)) => Some(until.to_rfc3339()),
            _ => None,
        };
        PlannedBody {
            deployment: by.deployment.name.to_string(),
            provider: by.provider.name.to_string(),
            credential: by.credential.name.to_string(),
            upstream_model: upstream_model.to_string(),
            weight,
            priority,
            excluded: excluded.map(reason),
            until,
        }
    }
}

fn reason(excluded: Excluded) -> &'static str {
    match excluded {
        Excluded::Disabled => "disabled",
        Excluded::Pinned => "pinned",
        Excluded::Dialect => "dialect",
        Excluded::Context => "context",
        Excluded::Modality => "modality",
        Excluded::Region => "region",
        Excluded::AtALoss => "at_a_loss",
        Excluded::Off => "off",
        Excluded::Credential => "credential",
        Excluded::Concurrency => "concurrency",
        Excluded::Rate => "rate",
        Excluded::Cooling(_) => "cooling",
        Excluded::Open(_) => "open",
    }
}

/// The order in which the deployments of a model would be asked.
#[derive(Serialize, ToSchema)]
pub(super) struct PlanAnswer {
    /// The public name of the model.
    model: String,
    /// The first one that is not excluded is asked.
    order: Vec<PlannedBody>,
}

/// The order in which deployments would be asked for a call, and why some would not be. Nobody is
/// asked.
#[utoipa::path(post, path = "/api/admin/routing/plan", tag = "admin", security(("jwt" = [])),
    request_body = PlanBody, responses(
    (status = 200, description = "The order", body = PlanAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such model or user", body = ErrorBody),
))]
pub(super) async fn plan(
    WithBody(AdminUser { .. }, body): WithBody<AdminUser>,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let PlanBody { model, dialect, input, output, session, user } = body.json()?;
    let dialect = dialect.map(|name| {
        let dialect = ProviderDialect::from_name(&name);
        dialect
            .ok_or_else(|| ApiError::field("dialect", "must be openai, azure, anthropic or gemini"))
    });
    let user = user.as_deref().map(str::parse::<UserId>).transpose();
    let user = user.map_err(|error| ApiError::field("user", format!("is {error}")))?;
    let question =
        PlanQuestion { model, dialect: dialect.transpose()?, input, output, session, user };
    let planning = async move { app.deployments.plan(question).await };
    let RoutingPlan { model, order } = uncancelled(planning).await?;
    let order = order.into_iter().map(PlannedBody::from).collect();
    Ok(HttpResponse::Ok().json(PlanAnswer { model: model.to_string(), order }))
}

/// Which attempts.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AttemptsQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    cursor: Option<String>,
    /// Only those at this deployment.
    #[param(min_length = 1, max_length = 300, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    deployment: Option<String>,
    /// Only those that ended so, such as `rate_limited`.
    #[param(pattern = "^[a-z_]+$")]
    outcome: Option<String>,
    /// Only those of this call.
    #[param(pattern = "^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    request_id: Option<String>,
    /// Only those that began at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only those that began before this time.
    #[param(format = DateTime)]
    to: Option<String>,
}

/// An attempt.
#[derive(Serialize, ToSchema)]
pub(super) struct RoutingAttemptBody {
    /// The id of its call.
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    request_id: String,
    /// Its place among the attempts of the call, from 1 on.
    n: i16,
    /// Who was asked; null if that deployment is not in the catalogue any more.
    deployment: Option<String>,
    /// The number of the deployment.
    deployment_number: u32,
    #[schema(format = DateTime)]
    started_at: String,
    /// Until the answer, or its first byte.
    #[schema(minimum = 0)]
    latency_ms: i64,
    /// The provider's status; null if it did not answer.
    status: Option<u16>,
    /// How it ended.
    outcome: &'static str,
}

/// A page of attempts.
#[derive(Serialize, ToSchema)]
pub(super) struct AttemptsPage {
    attempts: Vec<RoutingAttemptBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Attempts at deployments, of calls that took more than one or that failed; the last written
/// first.
#[utoipa::path(get, path = "/api/admin/attempts", tag = "admin", security(("jwt" = [])),
    params(AttemptsQuery), responses(
    (status = 200, description = "A page of attempts", body = AttemptsPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such deployment", body = ErrorBody),
))]
pub(super) async fn attempts(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: AttemptsQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let before = read_cursor(asked.cursor.as_deref())?.map(|EntryCursor(number)| number);
    let deployment = match &asked.deployment {
        Some(name) => Some(app.deployments.find(name)?.id),
        None => None,
    };
    let outcome = asked.outcome.map(|name| {
        let outcome = AttemptOutcome::from_name(&name);
        outcome.ok_or_else(|| ApiError::field("outcome", "must be the outcome of an attempt"))
    });
    let charge = asked.request_id.as_deref().map(str::parse::<ChargeId>).transpose();
    let charge = charge.map_err(|error| ApiError::field("request_id", format!("is {error}")))?;
    let filter = AttemptFilter {
        deployment,
        outcome: outcome.transpose()?,
        charge,
        from: instant("from", asked.from.as_deref())?,
        to: instant("to", asked.to.as_deref())?,
        before,
    };
    let mut rows = app.deployments.attempts(filter, limit.saturating_add(1)).await?;
    let next_cursor = cut(&mut rows, limit).map(|(number, _)| number.to_string());
    let body = |(_, row): (i64, AttemptRow)| RoutingAttemptBody {
        request_id: row.charge.to_string(),
        n: row.n,
        deployment: app.deployments.name(row.deployment).map(|name| name.to_string()),
        deployment_number: row.deployment.0,
        started_at: row.started_at.to_rfc3339_micros(),
        latency_ms: row.latency_micros.max(0) / 1_000,
        status: row.status,
        outcome: row.outcome.name(),
    };
    let attempts = rows.into_iter().map(body).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(AttemptsPage { attempts, next_cursor }))
}

fn instant(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let message = "must be a time such as 2026-11-30T12:00:00Z";
    Timestamp::parse_rfc3339(text).map(Some).ok_or_else(|| ApiError::field(field, message))
}
