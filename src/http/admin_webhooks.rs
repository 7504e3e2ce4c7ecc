//! `GET /api/admin/webhooks`.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answers::page_of;
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::page::{cut, page_limit, query, read_cursor};
use super::{App, uncancelled};
use crate::store::webhooks::{FailingEndpoint, FailingFilter, LastFailure};
use domain::Timestamp;

/// Which endpoints.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FailingQuery {
    /// `failing` (default): those that fail or were switched off by the server. `switched_off`:
    /// only the latter.
    #[param(pattern = "^(failing|switched_off)$")]
    state: Option<String>,
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^hook-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    cursor: Option<String>,
}

/// An attempt that failed.
#[derive(Serialize, ToSchema)]
pub(super) struct LastFailureBody {
    #[schema(format = DateTime)]
    at: String,
    /// The status of the answer; null if there was none.
    status: Option<u16>,
    /// What went wrong.
    error: Option<String>,
}

impl From<LastFailure> for LastFailureBody {
    fn from(LastFailure { at, status, error }: LastFailure) -> Self {
        LastFailureBody { at: at.to_rfc3339(), status, error }
    }
}

/// A webhook endpoint that fails.
#[derive(Serialize, ToSchema)]
pub(super) struct FailingEndpointBody {
    #[schema(value_type = id::EndpointId)]
    id: String,
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    url: String,
    /// When the server switched it off, because it had accepted nothing for three days or is gone.
    #[schema(format = DateTime)]
    switched_off_at: Option<String>,
    /// Since when it has not accepted anything.
    #[schema(format = DateTime)]
    failing_since: Option<String>,
    /// The last attempt that failed; null if it is not kept any more.
    last_failure: Option<LastFailureBody>,
    /// When the oldest event happened that it has not accepted; null if it is not kept any more.
    #[schema(format = DateTime)]
    oldest_event_at: Option<String>,
    /// How old that event is, in seconds.
    #[schema(minimum = 0)]
    oldest_event_age_seconds: Option<i64>,
    /// Deliveries that wait for their next attempt.
    #[schema(minimum = 0)]
    waiting: u64,
}

impl FailingEndpointBody {
    fn new(endpoint: FailingEndpoint, now: Timestamp) -> Self {
        let text = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
        let age = |at: Timestamp| now.seconds().saturating_sub(at.seconds()).max(0);
        FailingEndpointBody {
            id: endpoint.id.to_string(),
            user_id: endpoint.user.to_string(),
            environment: endpoint.environment.name(),
            url: endpoint.url,
            switched_off_at: text(endpoint.switched_off_at),
            failing_since: text(endpoint.failing_since),
            last_failure: endpoint.last_failure.map(LastFailureBody::from),
            oldest_event_at: text(endpoint.oldest_event_at),
            oldest_event_age_seconds: endpoint.oldest_event_at.map(age),
            waiting: endpoint.waiting,
        }
    }
}

/// A page of webhook endpoints that fail.
#[derive(Serialize, ToSchema)]
pub(super) struct FailingPage {
    webhooks: Vec<FailingEndpointBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Webhook endpoints of all users that fail or were switched off by the server, the newest first.
/// Without their secrets. The audit log says that the operator has read of each user.
#[utoipa::path(get, path = "/api/admin/webhooks", tag = "admin", security(("jwt" = [])),
    params(FailingQuery), responses(
    (status = 200, description = "A page of endpoints", body = FailingPage),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn failing(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let FailingQuery { state, limit, cursor } = query(&request)?;
    let limit = page_limit(limit)?;
    let only_switched_off = match state.as_deref() {
        None | Some("failing") => false,
        Some("switched_off") => true,
        Some(_) => return Err(ApiError::field("state", "must be failing or switched_off")),
    };
    let filter = FailingFilter { only_switched_off, before: read_cursor(cursor.as_deref())? };
    let now = app.clock.now();
    let reading =
        async move { app.admin.failing_webhooks(filter, limit.saturating_add(1), origin).await };
    let mut found = uncancelled(reading).await?;
    let next_cursor = cut(&mut found, limit).map(|endpoint| endpoint.id.to_string());
    let body = |endpoint| FailingEndpointBody::new(endpoint, now);
    let webhooks = found.into_iter().map(body).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(FailingPage { webhooks, next_cursor }))
}
