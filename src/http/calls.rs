//! `/api/monitoring/requests`: the recent calls of an account.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::Amount;
use super::docs::id;
use super::error::ApiError;
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::monitoring::filter;
use super::page::{page_limit, query, read_cursor};
use crate::store::reports::CallRow;
use domain::{ChargeId, Ending};

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
    /// `completed`, `failed`, `upstream_cut`, `client_left`, `client_left_drained`,
    /// `credits_ended`, `unwritable` or `server_stopped`.
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
    /// For the next page; null on the last one. A page of a list that is narrowed may have fewer
    /// than `limit`, or none, and a next one all the same.
    next_cursor: Option<String>,
}

/// The account's calls, latest first, as long as they are kept.
#[utoipa::path(get, path = "/api/monitoring/requests", tag = "monitoring", security(("jwt" = [])),
    params(CallsQuery), responses(
    (status = 200, description = "A page of calls", body = CallsPage),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: CallsQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let before: Option<ChargeId> = read_cursor(asked.cursor.as_deref())?;
    let CallsQuery { environment, key_id, endpoint, model, status, upstream, .. } = asked;
    let filter = filter(key_id.as_deref(), endpoint, model, status, upstream)?;
    let calls = app.reports.calls(user.id, environment.into(), before, limit, filter).await;
    let (calls, next) = calls?;
    let requests = calls.into_iter().map(CallBody::from).collect();
    let next_cursor = next.map(|id| id.to_string());
    Ok(HttpResponse::Ok().json(CallsPage { requests, next_cursor }))
}
