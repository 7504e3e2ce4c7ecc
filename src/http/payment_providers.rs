//! `/api/payments/providers`: how payments can be made.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::amount::{Amount, WithAmounts as _};
use super::error::ApiError;
use super::extract::{SessionUser, is_direct};
use crate::payments::{SANDBOX, stripe, x402};
use domain::Credits;

/// One way to pay.
#[derive(Serialize, ToSchema)]
pub(super) struct ProviderBody {
    /// As in a payment's `provider`.
    #[schema(pattern = "^(sandbox|stripe|x402)$")]
    name: &'static str,
    /// Does a payment by it work, for who asks?
    is_enabled: bool,
    /// Does it move no real money?
    is_test: bool,
    /// The least of a payment; null is anything above 0.
    amount_min: Option<Amount>,
    /// The most of a payment.
    amount_max: Amount,
    /// `USD`
    currency: &'static str,
}

/// The ways to pay.
#[derive(Serialize, ToSchema)]
pub(super) struct ProvidersAnswer {
    providers: Vec<ProviderBody>,
    /// The provider of a payment that names none; null if that one is off.
    default_provider: Option<&'static str>,
}

impl ProvidersAnswer {
    pub(super) fn new(app: &App, request: &HttpRequest) -> Self {
        let payments = &app.payments;
        let provider = |name, is_enabled, is_test, least: Option<Credits>| ProviderBody {
            name,
            is_enabled,
            is_test,
            amount_min: least.map(Amount),
            amount_max: Amount(payments.amount_max),
            currency: "USD",
        };
        let (stripe, x402) = (payments.stripe.as_ref(), payments.x402.as_ref());
        let is_test_key = stripe.is_some_and(|stripe| !stripe.is_live());
        let is_test_network = x402.is_some_and(x402::X402::is_on_test_network);
        let sandbox = payments.sandbox.allows(is_direct(request));
        let least = stripe.map(|_| payments.stripe_amount_min);
        let providers = vec![
            provider(SANDBOX, sandbox, true, None),
            provider(stripe::NAME, stripe.is_some(), is_test_key, least),
            provider(x402::NAME, x402.is_some(), is_test_network, None),
        ];
        let default = payments.default_provider();
        let is_on = |one: &&ProviderBody| one.is_enabled && one.name == default;
        let default_provider = providers.iter().find(is_on).map(|one| one.name);
        ProvidersAnswer { providers, default_provider }
    }
}

/// How payments can be made, and of which amounts.
#[utoipa::path(get, path = "/api/payments/providers", tag = "payments", security(("jwt" = [])),
    responses(
    (status = 200, description = "The providers", body = ProvidersAnswer),
))]
pub(super) async fn providers(
    _: SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().amounts(ProvidersAnswer::new(&app, &request)))
}
