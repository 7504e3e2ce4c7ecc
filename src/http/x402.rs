//! x402 in headers: what is to be paid, what was paid, and calls that pay for themselves.

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::error::ApiError;
use super::extract::{device, uses_tls};
use super::{App, uncancelled};
use crate::payments::{PaymentsError, x402};
use crate::store::payments::Payment;
use domain::{AccountId, Actor, Credits, Origin, UserId};

const REQUIRED: HeaderName = HeaderName::from_static("payment-required");
const SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");
const RESPONSE: HeaderName = HeaderName::from_static("payment-response");

/// What came of a payment by x402.
pub(super) enum PaymentOutcome {
    Paid(Payment),
    /// The request has no signature yet; the response says what to sign.
    Required(HttpResponse),
}

/// Tops a user's live account up by exactly `amount`, or asks for the payment.
pub(super) async fn pay(
    request: &HttpRequest,
    app: &Data<App>,
    user: UserId,
    amount: Credits,
    origin: Origin,
) -> Result<PaymentOutcome, ApiError> {
    if app.payments.x402.is_none() {
        return Err(PaymentsError::ProviderOff { provider: x402::NAME }.into());
    }
    if amount <= Credits::ZERO || amount > app.payments.amount_max {
        return Err(PaymentsError::Amount { max: app.payments.amount_max }.into());
    }
    let Some(header) = request.headers().get(SIGNATURE).cloned() else {
        let mut response = HttpResponse::from_error(ApiError::PaymentRequired { amount });
        add_required(&mut response, request, app, amount, "PAYMENT-SIGNATURE is required");
        return Ok(PaymentOutcome::Required(response));
    };
    let app = app.clone();
    let paying =
        async move { app.payments.pay_by_x402(user, header.as_bytes(), amount, origin).await };
    Ok(PaymentOutcome::Paid(uncancelled(paying).await?))
}

/// Tops up the live account of a call that its balance does not cover, if the call brings a payment
/// along. `price` is the least that is of use.
pub(super) async fn pay_for_call(
    request: &HttpRequest,
    app: &Data<App>,
    account: AccountId,
    price: Credits,
) -> Option<Result<Payment, ApiError>> {
    let header = request.headers().get(SIGNATURE)?.clone();
    app.payments.x402.as_ref()?;
    let device = device(request, &app.trusted_proxies);
    let app = app.clone();
    let paying = async move {
        let origin = |user| device.origin(Actor::User(user));
        let paid = app.payments.pay_for_call(account, header.as_bytes(), price, origin).await;
        paid.map_err(ApiError::from)
    };
    Some(uncancelled(paying).await)
}

/// Adds to a refusal what would pay for the call.
pub(super) fn ask(response: &mut HttpResponse, request: &HttpRequest, app: &App, price: Credits) {
    if let Some(x402) = &app.payments.x402 {
        add_required(response, request, app, price.max(x402.amount), "insufficient credits");
    }
}

fn add_required(
    response: &mut HttpResponse,
    request: &HttpRequest,
    app: &App,
    amount: Credits,
    why: &str,
) {
    let Some(x402) = &app.payments.x402 else { return };
    let url = resource_url(request, app);
    if let Ok(value) = HeaderValue::from_str(&x402.required(amount, &url, why)) {
        response.headers_mut().insert(REQUIRED, value);
    }
}

/// What is paid for: the URL of the request as its client wrote it. Headers of proxies count from
/// trusted ones alone. If the host is missing or no host, the path alone.
fn resource_url(request: &HttpRequest, app: &App) -> String {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let path = request.path();
    let is_host = |host: &&str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        !host.is_empty() && host.len() <= 255 && host.bytes().all(is_part)
    };
    let Some(host) = text("host").filter(is_host) else { return path.to_owned() };
    let scheme = if uses_tls(request, app) { "https" } else { "http" };
    format!("{scheme}://{host}{path}")
}

/// Adds the receipt of a settled payment.
pub(super) fn add_response(response: &mut HttpResponse, app: &App, payment: &Payment) {
    let Some(x402) = &app.payments.x402 else { return };
    if let Ok(value) = HeaderValue::from_str(&x402.response(payment)) {
        response.headers_mut().insert(RESPONSE, value);
    }
}
