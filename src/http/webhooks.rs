//! `/api/webhooks*`

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answers::{created, path_of};
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::{AuditedUser, ConfirmedSession, SessionUser, WithBody, user_origin};
use super::validation::present;
use super::{App, uncancelled};
use crate::auth::sessions::CurrentSession;
use crate::store::webhooks::{Endpoint, EndpointChange};
use crate::webhooks::{EndpointRequest, WebhooksError};
use domain::{EndpointId, Timestamp, UserId};

/// Most event selections of one endpoint.
const EVENTS_MAX: usize = 50;

/// A new endpoint.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointBody {
    /// URL that events are sent to: `https`, on the public internet.
    #[garde(length(min = 1, max = 2048))]
    #[schema(example = "https://example.com/hooks", min_length = 1, max_length = 2048)]
    url: String,
    #[serde(default)]
    #[garde(length(chars, max = 500))]
    #[schema(max_length = 500)]
    description: String,
    /// Which events, such as `payment.confirmed` or `payment.*`; null or absent is every one.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_items = 50, min_items = 1, example = json!(["payment.*", "balance.low"]))]
    events: Option<Vec<String>>,
    /// Of which account: `live` (default) or `test`.
    #[serde(default)]
    #[garde(skip)]
    #[schema(inline)]
    environment: EnvironmentName,
}

/// A webhook endpoint.
#[derive(Serialize, ToSchema)]
pub(super) struct EndpointAnswer {
    #[schema(value_type = id::EndpointId)]
    id: String,
    url: String,
    description: String,
    /// null is every event.
    events: Option<Vec<String>>,
    #[schema(pattern = "^(live|test)$")]
    environment: &'static str,
    enabled: bool,
    /// When the server switched it off, because it had accepted nothing for three days or is gone.
    #[schema(format = DateTime)]
    switched_off_at: Option<String>,
    /// Since when it has not accepted anything.
    #[schema(format = DateTime)]
    failing_since: Option<String>,
    /// Until when deliveries are also signed with the previous secret.
    #[schema(format = DateTime)]
    former_secret_until: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<Endpoint> for EndpointAnswer {
    fn from(endpoint: Endpoint) -> Self {
        let text = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
        EndpointAnswer {
            id: endpoint.id.to_string(),
            url: endpoint.url,
            description: endpoint.description,
            events: endpoint.events,
            environment: endpoint.environment.name(),
            enabled: endpoint.is_enabled,
            switched_off_at: text(endpoint.switched_off_at),
            failing_since: text(endpoint.failing_since),
            former_secret_until: text(endpoint.former_until),
            created_at: endpoint.created_at.to_rfc3339(),
        }
    }
}

/// An endpoint with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct EndpointWithSecret {
    #[serde(flatten)]
    endpoint: EndpointAnswer,
    /// What deliveries are signed with (Standard Webhooks 1.0). Save it: it is shown this once.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/=]+$")]
    secret: String,
}

fn bounded(events: Option<&[String]>) -> Result<(), ApiError> {
    let is_bounded = events.is_none_or(|events| (1..=EVENTS_MAX).contains(&events.len()));
    if is_bounded {
        return Ok(());
    }
    Err(ApiError::field("events", format!("must have from 1 to {EVENTS_MAX} entries, or be null")))
}

pub(super) fn endpoint_id(text: &str) -> Result<EndpointId, ApiError> {
    text.parse().map_err(|_| WebhooksError::NotFound.into())
}

/// Makes a webhook endpoint.
#[utoipa::path(post, path = "/api/webhooks", tag = "webhooks", security(("jwt" = [])),
    request_body = EndpointBody, responses(
    (status = 201, description = "The endpoint, with its secret", body = EndpointWithSecret),
    (status = 403, description = "The user is suspended, or their email address must be verified first", body = ErrorBody),
    (status = 409, description = "The account has reached its limit of webhooks", body = ErrorBody),
))]
pub(super) async fn add(
    WithBody(current, body): WithBody<CurrentSession>,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_verified(&current)?;
    let CurrentSession { user, session, .. } = current;
    let origin = user_origin(&request, &app, user.id);
    let EndpointBody { url, description, events, environment } = body.json()?;
    bounded(events.as_deref())?;
    let environment = environment.into();
    let asked = EndpointRequest { url, description, events, environment };
    let added = async move {
        let added = app.webhooks.add(user.id, session, asked, origin).await?;
        app.users.tell_of_webhook(&user, &added.0);
        Ok::<_, WebhooksError>(added)
    };
    let (endpoint, secret) = uncancelled(added).await?;
    let endpoint = EndpointAnswer::from(endpoint);
    let at = path_of("/api/webhooks", &endpoint.id);
    Ok(created(&at).json(EndpointWithSecret { endpoint, secret }))
}

/// The user's webhook endpoints.
#[derive(Serialize, ToSchema)]
pub(super) struct EndpointsAnswer {
    webhooks: Vec<EndpointAnswer>,
}

/// The user's webhook endpoints, oldest first.
#[utoipa::path(get, path = "/api/webhooks", tag = "webhooks", security(("jwt" = [])), responses(
    (status = 200, description = "The endpoints", body = EndpointsAnswer),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    list_of(user.id, &app).await
}

/// The webhook endpoints of a user.
pub(super) async fn list_of(user: UserId, app: &App) -> Result<HttpResponse, ApiError> {
    let webhooks = app.webhooks.list(user).await?;
    let webhooks = webhooks.into_iter().map(EndpointAnswer::from).collect();
    Ok(HttpResponse::Ok().json(EndpointsAnswer { webhooks }))
}

/// One of the user's webhook endpoints.
#[utoipa::path(get, path = "/api/webhooks/{id}", tag = "webhooks", security(("jwt" = [])),
    params(("id" = id::EndpointId, Path)), responses(
    (status = 200, description = "The endpoint", body = EndpointAnswer),
    (status = 404, description = "The user has no such endpoint", body = ErrorBody),
))]
pub(super) async fn get(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let endpoint = app.webhooks.get(user.id, endpoint_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(EndpointAnswer::from(endpoint)))
}

/// A change of an endpoint. What is absent stays.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointChangeBody {
    #[serde(default)]
    #[garde(inner(length(min = 1, max = 2048)))]
    #[schema(min_length = 1, max_length = 2048)]
    url: Option<String>,
    #[serde(default)]
    #[garde(inner(length(chars, max = 500)))]
    #[schema(max_length = 500)]
    description: Option<String>,
    /// null is every event.
    #[serde(default, deserialize_with = "present")]
    #[garde(skip)]
    #[schema(value_type = Option<Vec<String>>, max_items = 50, min_items = 1)]
    events: Option<Option<Vec<String>>>,
    /// true switches on an endpoint that was switched off.
    #[serde(default)]
    #[garde(skip)]
    enabled: Option<bool>,
}

/// Changes a webhook endpoint.
#[utoipa::path(patch, path = "/api/webhooks/{id}", tag = "webhooks", security(("jwt" = [])),
    params(("id" = id::EndpointId, Path)), request_body = EndpointChangeBody, responses(
    (status = 200, description = "The endpoint", body = EndpointAnswer),
    (status = 403, description = "Another URL, and the user is suspended", body = ErrorBody),
    (status = 404, description = "The user has no such endpoint", body = ErrorBody),
))]
pub(super) async fn change(
    WithBody(AuditedUser { user, origin }, body): WithBody<AuditedUser>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let EndpointChangeBody { url, description, events, enabled } = body.json()?;
    bounded(events.as_ref().and_then(Option::as_deref))?;
    let id = endpoint_id(&id)?;
    let change = EndpointChange { url, description, events, is_enabled: enabled };
    let changed = async move {
        let (endpoint, before) = app.webhooks.change(user.id, id, change, origin).await?;
        if endpoint.url != before {
            app.users.tell_of_url(&user, &before, &endpoint);
        }
        Ok::<_, WebhooksError>(endpoint)
    };
    let endpoint = uncancelled(changed).await?;
    Ok(HttpResponse::Ok().json(EndpointAnswer::from(endpoint)))
}

/// Deletes a webhook endpoint and its pending deliveries.
#[utoipa::path(delete, path = "/api/webhooks/{id}", tag = "webhooks", security(("jwt" = [])),
    params(("id" = id::EndpointId, Path)), responses(
    (status = 204, description = "It is deleted"),
    (status = 404, description = "The user has no such endpoint", body = ErrorBody),
))]
pub(super) async fn delete(
    AuditedUser { user, origin }: AuditedUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = endpoint_id(&id)?;
    uncancelled(async move { app.webhooks.delete(user.id, id, origin).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Replaces the secret of a webhook endpoint. For a while deliveries are signed with the previous
/// one as well, so that none is refused.
#[utoipa::path(post, path = "/api/webhooks/{id}/rotate-secret", tag = "webhooks", security(("jwt" = [])),
    params(("id" = id::EndpointId, Path)), responses(
    (status = 200, description = "The endpoint, with its new secret", body = EndpointWithSecret),
    (status = 403, description = "The session needs a fresh proof: POST /api/auth/confirm", body = ErrorBody),
    (status = 404, description = "The user has no such endpoint", body = ErrorBody),
))]
pub(super) async fn rotate_secret(
    ConfirmedSession(current): ConfirmedSession,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = current.user;
    let origin = user_origin(&request, &app, user.id);
    let id = endpoint_id(&id)?;
    let rotated = async move {
        let rotated = app.webhooks.rotate(user.id, id, origin).await?;
        app.users.tell_of_webhook_secret(&user, &rotated.0);
        Ok::<_, WebhooksError>(rotated)
    };
    let (endpoint, secret) = uncancelled(rotated).await?;
    let endpoint = endpoint.into();
    Ok(HttpResponse::Ok().json(EndpointWithSecret { endpoint, secret }))
}

/// A delivery that is under way.
#[derive(Serialize, ToSchema)]
pub(super) struct SentAnswer {
    #[schema(value_type = id::DeliveryId)]
    pub(super) delivery_id: String,
}

/// Sends a test event, `webhook.test`.
#[utoipa::path(post, path = "/api/webhooks/{id}/test", tag = "webhooks", security(("jwt" = [])),
    params(("id" = id::EndpointId, Path)), responses(
    (status = 202, description = "On its way", body = SentAnswer),
    (status = 404, description = "The user has no such endpoint", body = ErrorBody),
))]
pub(super) async fn test(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = endpoint_id(&id)?;
    let sent = uncancelled(async move { app.webhooks.test(user.id, id).await }).await?;
    Ok(HttpResponse::Accepted().json(SentAnswer { delivery_id: sent.to_string() }))
}
