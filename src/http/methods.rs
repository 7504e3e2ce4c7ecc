//! `/api/payments/methods`, `/api/payments/auto-top-up`, and the webhook that Stripe calls.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::amount::{Amount, WithAmounts as _};
use super::answers::created;
use super::error::{ApiError, ErrorBody};
use super::extract::{AuditedUser, Body, SessionUser, WithBody, user_origin};
use super::validation::not_negative;
use super::{App, uncancelled};
use crate::auth::sessions::CurrentSession;
use crate::payments::PaymentsError;
use crate::payments::auto::AutoTopUpRequest;
use crate::payments::begin::Payer;
use crate::payments::stripe::SavedMethod;
use crate::store::payments::AutoTopUp;
use domain::Credits;

/// A saved payment method.
#[derive(Serialize, ToSchema)]
pub(super) struct MethodBody {
    /// As `payment_method` of a payment.
    #[schema(pattern = "^pm_")]
    id: String,
    /// `card`, or what else Stripe takes.
    #[serde(rename = "type")]
    kind: String,
    brand: Option<String>,
    last4: Option<String>,
    exp_month: Option<u32>,
    exp_year: Option<u32>,
}

impl From<SavedMethod> for MethodBody {
    fn from(method: SavedMethod) -> Self {
        let SavedMethod { id, kind, brand, last4, exp_month, exp_year } = method;
        MethodBody { id, kind, brand, last4, exp_month, exp_year }
    }
}

/// The user's saved payment methods.
#[derive(Serialize, ToSchema)]
pub(super) struct MethodsAnswer {
    payment_methods: Vec<MethodBody>,
}

/// The payment methods that the user has saved at Stripe.
#[utoipa::path(get, path = "/api/payments/methods", tag = "payments", security(("jwt" = [])), responses(
    (status = 200, description = "The saved payment methods", body = MethodsAnswer),
    (status = 402, description = "Stripe refused", body = ErrorBody),
    (status = 403, description = "Stripe is not set up", body = ErrorBody),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let methods = async move { app.payments.methods(user.id).await };
    let methods = uncancelled(methods).await?;
    let payment_methods = methods.into_iter().map(MethodBody::from).collect();
    Ok(HttpResponse::Ok().json(MethodsAnswer { payment_methods }))
}

/// The page to save a payment method on.
#[derive(Serialize, ToSchema)]
pub(super) struct SetupAnswer {
    /// Stripe's page.
    checkout_url: String,
}

/// Begins to save a payment method, without a payment.
#[utoipa::path(post, path = "/api/payments/methods", tag = "payments", security(("jwt" = [])), responses(
    (status = 201, description = "The page to save it on", body = SetupAnswer),
    (status = 402, description = "Stripe refused", body = ErrorBody),
    (status = 403, description = "Stripe is not set up, or the user's email address must be verified first", body = ErrorBody),
))]
pub(super) async fn add(
    current: CurrentSession,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_verified(&current)?;
    let user = current.user;
    let origin = user_origin(&request, &app, user.id);
    let payer = Payer { user: user.id, email: user.email, origin };
    let checkout_url = uncancelled(async move { app.payments.setup_url(payer).await }).await?;
    Ok(created(&checkout_url).json(SetupAnswer { checkout_url }))
}

/// Removes a saved payment method.
#[utoipa::path(delete, path = "/api/payments/methods/{id}", tag = "payments", security(("jwt" = [])),
    params(("id" = String, Path, pattern = "^pm_[0-9A-Za-z_]{1,250}$")), responses(
    (status = 204, description = "Removed"),
    (status = 402, description = "Stripe refused", body = ErrorBody),
    (status = 403, description = "Stripe is not set up", body = ErrorBody),
    (status = 404, description = "The user has no such payment method", body = ErrorBody),
))]
pub(super) async fn remove(
    AuditedUser { user, origin }: AuditedUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = id.into_inner();
    uncancelled(async move { app.payments.detach(user.id, &id, origin).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A rule for automatic top-ups of the live account.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct AutoTopUpBody {
    enabled: bool,
    /// Top up below this balance, in USD.
    #[schema(value_type = f64, example = 10.00, minimum = 0)]
    threshold: Amount,
    /// Amount of one top-up, in USD.
    #[schema(value_type = f64, example = 25.00, exclusive_minimum = 0)]
    amount: Amount,
    /// Most in a UTC month, in USD.
    #[schema(value_type = f64, example = 100.00, minimum = 0)]
    monthly_cap: Amount,
    /// A saved payment method.
    #[garde(length(min = 1, max = 255))]
    #[schema(pattern = "^pm_[0-9A-Za-z_]{1,250}$")]
    payment_method: String,
}

/// The rule for automatic top-ups.
#[derive(Serialize, ToSchema)]
pub(super) struct AutoTopUpAnswer {
    enabled: bool,
    threshold: Amount,
    amount: Amount,
    monthly_cap: Amount,
    payment_method: Option<String>,
    /// Failed attempts in a row. After three the rule is switched off.
    failures: i32,
}

impl From<Option<AutoTopUp>> for AutoTopUpAnswer {
    fn from(rule: Option<AutoTopUp>) -> Self {
        let amount =
            |of: fn(&AutoTopUp) -> Credits| Amount(rule.as_ref().map_or(Credits::ZERO, of));
        AutoTopUpAnswer {
            enabled: rule.as_ref().is_some_and(|rule| rule.is_enabled),
            threshold: amount(|rule| rule.threshold),
            amount: amount(|rule| rule.amount),
            monthly_cap: amount(|rule| rule.monthly_cap),
            failures: rule.as_ref().map_or(0, |rule| rule.failures),
            payment_method: rule.map(|rule| rule.method),
        }
    }
}

/// The rule for automatic top-ups of the live account.
#[utoipa::path(get, path = "/api/payments/auto-top-up", tag = "payments", security(("jwt" = [])), responses(
    (status = 200, description = "The rule", body = AutoTopUpAnswer),
))]
pub(super) async fn auto_top_up(
    SessionUser(user): SessionUser,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let rule = app.payments.auto_top_up(user.id).await?;
    Ok(HttpResponse::Ok().amounts(AutoTopUpAnswer::from(rule)))
}

/// Sets the rule for automatic top-ups of the live account.
#[utoipa::path(put, path = "/api/payments/auto-top-up", tag = "payments", security(("jwt" = [])),
    request_body = AutoTopUpBody, responses(
    (status = 200, description = "The rule", body = AutoTopUpAnswer),
    (status = 402, description = "Stripe refused", body = ErrorBody),
    (status = 403, description = "Stripe is not set up, the user's email address must be verified first, or an enabled rule needs a fresh proof", body = ErrorBody),
    (status = 404, description = "The user has no such payment method", body = ErrorBody),
))]
pub(super) async fn set_auto_top_up(
    WithBody(current, body): WithBody<CurrentSession>,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_verified(&current)?;
    let AutoTopUpBody { enabled, threshold, amount, monthly_cap, payment_method } = body.json()?;
    if enabled {
        app.users.assert_confirmed(&current)?;
    }
    let user = current.user;
    let origin = user_origin(&request, &app, user.id);
    let request = AutoTopUpRequest {
        is_enabled: enabled,
        threshold: not_negative("threshold", threshold)?,
        amount: amount.0,
        monthly_cap: not_negative("monthly_cap", monthly_cap)?,
        method: payment_method,
    };
    let set = async move {
        let rule = app.payments.set_auto_top_up(user.id, request, origin).await?;
        if rule.is_enabled {
            app.users.tell_of_rule(&user, rule.amount, rule.threshold);
        }
        Ok::<_, PaymentsError>(rule)
    };
    let rule = uncancelled(set).await?;
    Ok(HttpResponse::Ok().amounts(AutoTopUpAnswer::from(Some(rule))))
}

/// Receives Stripe's events. Only Stripe can call it, as it must sign them.
#[utoipa::path(post, path = "/api/payments/stripe/webhook", tag = "payments",
    params(("Stripe-Signature" = String, Header, description = "As Stripe signs its webhooks")),
    request_body(content = String, description = "An event of Stripe", content_type = "application/json"),
    responses(
    (status = 204, description = "Taken in"),
    (status = 400, description = "Not signed by Stripe, or too long ago", body = ErrorBody),
    (status = 402, description = "Stripe refused to say more", body = ErrorBody),
    (status = 403, description = "Stripe is not set up", body = ErrorBody),
))]
pub(super) async fn handle_stripe_event(
    app: Data<App>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let signature = request.headers().get("stripe-signature");
    let signature = signature.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = body.bytes()?;
    let heard = async move { app.payments.handle_stripe_event(signature.as_deref(), &body).await };
    uncancelled(heard).await.map_err(|error| match error {
        // A 2xx or 4xx would keep Stripe from sending the event again.
        PaymentsError::AmountOfProvider { .. } | PaymentsError::NoMethod => ApiError::Internal,
        error => error.into(),
    })?;
    Ok(HttpResponse::NoContent().finish())
}
