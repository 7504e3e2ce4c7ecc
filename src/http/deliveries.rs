//! `/api/webhooks/{id}/deliveries*`, and the types of events.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::answers::page_of;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::SessionUser;
use super::page::{cut, page_limit, query, read_cursor};
use super::webhooks::{SentAnswer, endpoint_id};
use super::{App, uncancelled};
use crate::store::webhooks::{Attempt, DeliveryFilter, DeliveryLog};
use crate::webhooks::{DeliveryView, payload};
use domain::delivery::DeliveryStatus;
use domain::event_sample::{meaning, sample_at, sample_data};
use domain::{DeliveryId, EventKind, Timestamp};

/// Which deliveries.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveriesQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^delivery-[0-9a-f-]{36}$")]
    cursor: Option<String>,
    /// Deliveries of this status alone.
    #[param(pattern = "^(pending|delivered|failed)$")]
    status: Option<String>,
    /// Deliveries of this type of events alone, such as `payment.confirmed`.
    #[param(max_length = 64)]
    r#type: Option<String>,
}

impl DeliveriesQuery {
    /// What leaves deliveries out.
    fn filter(&self) -> Result<DeliveryFilter, ApiError> {
        let status = self.status.as_deref().map(|name| {
            let unknown = || ApiError::field("status", "must be pending, delivered or failed");
            DeliveryStatus::from_name(name).ok_or_else(unknown)
        });
        let kind = self.r#type.as_deref().map(|name| {
            let unknown =
                || ApiError::field("type", "must be one of those of GET /api/webhooks/event-types");
            EventKind::from_name(name).ok_or_else(unknown)
        });
        Ok(DeliveryFilter { status: status.transpose()?, kind: kind.transpose()? })
    }
}

/// One attempt of a delivery.
#[derive(Serialize, ToSchema)]
pub(super) struct AttemptBody {
    #[schema(format = DateTime)]
    at: String,
    /// The status of the answer; null if there was none.
    status: Option<u16>,
    /// What went wrong.
    error: Option<String>,
    /// The beginning of the answer.
    answer: String,
    #[schema(minimum = 0)]
    latency_ms: i64,
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        AttemptBody {
            at: attempt.at.to_rfc3339(),
            status: attempt.status,
            error: attempt.error,
            answer: attempt.answer,
            latency_ms: attempt.latency_micros.max(0) / 1_000,
        }
    }
}

/// A delivery with its attempts.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryBody {
    #[schema(value_type = id::DeliveryId)]
    id: String,
    /// As in the header `webhook-id`.
    #[schema(value_type = id::EventId)]
    event_id: String,
    /// Such as `payment.confirmed`.
    #[serde(rename = "type")]
    kind: String,
    #[schema(pattern = "^(pending|delivered|failed)$")]
    status: &'static str,
    /// When the next attempt is due.
    #[schema(format = DateTime)]
    next_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    attempts: Vec<AttemptBody>,
}

impl From<DeliveryLog> for DeliveryBody {
    fn from(delivery: DeliveryLog) -> Self {
        DeliveryBody {
            id: delivery.id.to_string(),
            event_id: delivery.event.to_string(),
            kind: delivery.kind,
            status: delivery.status.name(),
            next_at: delivery.next_at.map(Timestamp::to_rfc3339),
            created_at: delivery.created_at.to_rfc3339(),
            attempts: delivery.attempts.into_iter().map(AttemptBody::from).collect(),
        }
    }
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveriesPage {
    deliveries: Vec<DeliveryBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The deliveries of a webhook endpoint, latest first.
#[utoipa::path(get, path = "/api/webhooks/{id}/deliveries", tag = "webhooks", security(("jwt" = [])),
    params(("id" = id::EndpointId, Path), DeliveriesQuery), responses(
    (status = 200, description = "A page of deliveries", body = DeliveriesPage),
    (status = 404, description = "The user has no such endpoint", body = ErrorBody),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked: DeliveriesQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let before = read_cursor(asked.cursor.as_deref())?;
    let (id, more) = (endpoint_id(&id)?, limit.saturating_add(1));
    let mut deliveries =
        app.webhooks.deliveries(user.id, id, before, more, asked.filter()?).await?;
    let next_cursor = cut(&mut deliveries, limit).map(|delivery| delivery.id.to_string());
    let deliveries = deliveries.into_iter().map(DeliveryBody::from).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(DeliveriesPage { deliveries, next_cursor }))
}

/// The headers of a delivery, besides those that every request has.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryHeaders {
    /// `application/json`
    #[serde(rename = "content-type")]
    content_type: &'static str,
    /// The id of the event.
    #[serde(rename = "webhook-id")]
    #[schema(value_type = id::EventId)]
    id: String,
    /// When the last attempt was made, in Unix seconds; null before the first one.
    #[serde(rename = "webhook-timestamp")]
    timestamp: Option<String>,
    /// The signature of the last attempt, made anew with the secrets that are in force now; null
    /// before the first one.
    #[serde(rename = "webhook-signature")]
    signature: Option<String>,
}

/// A delivery with what is sent.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryDetailBody {
    #[serde(flatten)]
    delivery: DeliveryBody,
    /// The body that is sent, as a text, since the signature is of its bytes.
    payload: String,
    headers: DeliveryHeaders,
}

impl From<DeliveryView> for DeliveryDetailBody {
    fn from(view: DeliveryView) -> Self {
        let DeliveryView { delivery, payload, sent_at, signature } = view;
        DeliveryDetailBody {
            payload,
            headers: DeliveryHeaders {
                content_type: "application/json",
                id: delivery.event.to_string(),
                timestamp: sent_at.map(|at| at.seconds().to_string()),
                signature,
            },
            delivery: DeliveryBody::from(delivery),
        }
    }
}

/// One delivery of a webhook endpoint, with what is sent and how it is signed.
#[utoipa::path(get, path = "/api/webhooks/{id}/deliveries/{delivery}", tag = "webhooks",
    security(("jwt" = [])),
    params(("id" = id::EndpointId, Path), ("delivery" = id::DeliveryId, Path)), responses(
    (status = 200, description = "The delivery", body = DeliveryDetailBody),
    (status = 404, description = "The user has no such endpoint, or the endpoint no such delivery", body = ErrorBody),
))]
pub(super) async fn get(
    SessionUser(user): SessionUser,
    app: Data<App>,
    ids: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (id, delivery) = ids.into_inner();
    let view = app.webhooks.delivery(user.id, endpoint_id(&id)?, delivery.parse().ok()).await?;
    Ok(HttpResponse::Ok().json(DeliveryDetailBody::from(view)))
}

/// A type of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventTypeBody {
    /// As in `events` of an endpoint. `webhook.test` cannot be chosen: it comes when it is asked
    /// for.
    #[serde(rename = "type")]
    kind: &'static str,
    /// When it is sent.
    description: &'static str,
    /// The body of a delivery, with made-up values.
    #[schema(value_type = Object)]
    sample: Box<RawValue>,
}

/// The types of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventTypesAnswer {
    data: Vec<EventTypeBody>,
}

/// The types of events, each with a sample.
#[utoipa::path(get, path = "/api/webhooks/event-types", tag = "webhooks", security(("jwt" = [])),
    responses(
    (status = 200, description = "The types", body = EventTypesAnswer),
))]
pub(super) async fn event_types(_: SessionUser) -> Result<HttpResponse, ApiError> {
    let body = |kind: EventKind| -> Result<EventTypeBody, ApiError> {
        let sample = payload(kind.name(), sample_at(), &sample_data(kind));
        let sample = RawValue::from_string(sample).map_err(|_| ApiError::Internal)?;
        Ok(EventTypeBody { kind: kind.name(), description: meaning(kind), sample })
    };
    let data = EventKind::ALL.into_iter().map(body).collect::<Result<_, ApiError>>()?;
    Ok(HttpResponse::Ok().json(EventTypesAnswer { data }))
}

/// Sends a delivery again, whatever its status.
#[utoipa::path(post, path = "/api/webhooks/{id}/deliveries/{delivery}/redeliver", tag = "webhooks",
    security(("jwt" = [])),
    params(("id" = id::EndpointId, Path), ("delivery" = id::DeliveryId, Path)), responses(
    (status = 202, description = "On its way", body = SentAnswer),
    (status = 404, description = "The user has no such endpoint, or the endpoint no such delivery", body = ErrorBody),
))]
pub(super) async fn redeliver(
    SessionUser(user): SessionUser,
    app: Data<App>,
    ids: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (id, delivery) = ids.into_inner();
    let id = endpoint_id(&id)?;
    let delivery: Option<DeliveryId> = delivery.parse().ok();
    let again = async move { app.webhooks.redeliver(user.id, id, delivery).await };
    let delivery = uncancelled(again).await?;
    Ok(HttpResponse::Accepted().json(SentAnswer { delivery_id: delivery.to_string() }))
}
