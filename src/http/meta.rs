//! What is open to everyone: health, prices, the OpenAPI document.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody};

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthAnswer {
    /// `ok`
    status: &'static str,
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "health", responses(
    (status = 200, description = "Alive", body = HealthAnswer),
))]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(HealthAnswer { status: "ok" })
}

/// Paid calls can be served: not shutting down, not at capacity, the accounts are ours, the
/// database answers.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses(
    (status = 200, description = "Ready", body = HealthAnswer),
    (status = 503, description = "Not ready", body = ErrorBody),
))]
pub(super) async fn ready(app: Data<App>) -> Result<HttpResponse, ApiError> {
    if !app.health.is_ready().await? {
        return Err(ApiError::Unavailable);
    }
    Ok(HttpResponse::Ok().json(HealthAnswer { status: "ok" }))
}

/// The price of one route.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceBody {
    /// `*` is any.
    method: String,
    /// An exact path, or a prefix that ends in `/*`.
    path: String,
    /// For rate limits: `health`, `read`, `write`, `generation` or `heavy`.
    #[schema(pattern = "^(health|read|write|generation|heavy)$")]
    class: &'static str,
    /// USD a call.
    base_price: super::amount::Amount,
    /// USD a token on top; null for a fixed price.
    #[schema(value_type = Option<f64>, minimum = 0)]
    price_per_token: Option<Box<serde_json::value::RawValue>>,
}

/// The price list.
#[derive(Serialize, ToSchema)]
pub(super) struct PricingAnswer {
    /// `USD`
    currency: &'static str,
    /// How a cost comes about.
    formula: &'static str,
    /// The most exact rule that fits a call prices it.
    prices: Vec<PriceBody>,
    /// The groups whose live calls the built-in sandbox serves.
    on_sandbox: Vec<&'static str>,
}

/// What calls cost.
#[utoipa::path(get, path = "/api/pricing", tag = "pricing", responses(
    (status = 200, description = "The price list", body = PricingAnswer),
))]
pub(super) async fn pricing(app: Data<App>) -> HttpResponse {
    let number = |text: String| serde_json::value::RawValue::from_string(text).ok();
    let prices = app.gateway.prices.rules().map(|rule| PriceBody {
        method: rule.method.as_deref().unwrap_or("*").to_owned(),
        path: rule.path.to_string(),
        class: rule.class.name(),
        base_price: super::amount::Amount(rule.base),
        price_per_token: rule.per_token.and_then(|price| number(price.to_string())),
    });
    HttpResponse::Ok().json(PricingAnswer {
        currency: "USD",
        formula: "cost = base_price + tokens x price_per_token, rounded once, half up, to 0.000000001",
        prices: prices.collect(),
        on_sandbox: app.gateway.upstreams.on_sandbox(),
    })
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "documentation", responses(
    (status = 200, description = "The OpenAPI document", body = Object),
))]
pub(super) async fn openapi(document: Data<utoipa::openapi::OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(&**document)
}
