//! `/api/payments/*`

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::amount::{Amount, WithAmounts as _};
use super::answers::{created, page_of};
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::{AuditedUser, SessionUser, WithBody, is_direct, user_origin};
use super::page::{cut, page_limit, query, read_cursor};
use super::repeat::{once, replay};
use super::transactions::time;
use super::x402::PaymentOutcome;
use super::{App, uncancelled};
use crate::auth::sessions::CurrentSession;
use crate::idempotency::Made;
use crate::payments::begin::Payer;
use crate::payments::{PaymentsError, SANDBOX, stripe, x402};
use crate::store::payments::{Payment, PaymentFilter};
use domain::{Environment, PaymentId, PaymentStatus, Refusal, Timestamp, UserId};

/// The balance of an account.
#[derive(Serialize, ToSchema)]
pub(super) struct BalanceAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// The sum of the account's ledger.
    balance: Amount,
    /// `USD`
    currency: &'static str,
    /// When the balance last changed.
    #[schema(format = DateTime)]
    last_updated: String,
    /// Reserved by calls that run.
    held: Amount,
    /// What a call can spend now.
    available: Amount,
    /// `live` or `test`
    environment: EnvironmentName,
}

/// Which account.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AccountQuery {
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
}

/// The balance of the user's account.
#[utoipa::path(get, path = "/api/payments/credits/balance", tag = "payments", security(("jwt" = [])),
    params(AccountQuery), responses(
    (status = 200, description = "The balance", body = BalanceAnswer),
))]
pub(super) async fn balance(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let AccountQuery { environment } = query(&request)?;
    let (account, updated_at) = app.reports.balance(user.id, environment.into()).await?;
    Ok(HttpResponse::Ok().amounts(BalanceAnswer {
        user_id: user.id.to_string(),
        balance: Amount(account.balance),
        currency: "USD",
        last_updated: updated_at.to_rfc3339(),
        held: Amount(account.held),
        available: Amount(account.available),
        environment,
    }))
}

/// Where a payment is.
fn location(payment: &Payment) -> String {
    format!("/api/payments/payments/{}", payment.id)
}

/// A payment to be made.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PaymentBody {
    /// USD, more than 0.
    #[schema(value_type = f64, example = 25.00, exclusive_minimum = 0)]
    amount: Amount,
    /// `sandbox`, which confirms at once; `stripe`, whose page is at `checkout_url`; or `x402`,
    /// paid by the header `PAYMENT-SIGNATURE`. If absent: the sandbox if it is on, else Stripe.
    #[serde(default)]
    #[schema(example = "sandbox", pattern = "^(sandbox|stripe|x402)$")]
    provider: Option<String>,
    /// For `stripe`: a saved payment method, which is charged at once.
    #[serde(default)]
    #[schema(pattern = "^pm_[0-9A-Za-z_]{1,250}$")]
    payment_method: Option<String>,
}

/// A payment.
#[derive(Serialize, ToSchema)]
pub(super) struct PaymentAnswer {
    #[schema(value_type = id::PaymentId)]
    id: String,
    amount: Amount,
    /// `USD`
    currency: &'static str,
    /// `created` (it waits for its payer), `confirming` (for its provider), `confirmed` (the
    /// credits are on the account), `failed` or `expired`.
    #[schema(pattern = "^(created|confirming|confirmed|failed|expired)$")]
    status: &'static str,
    provider: String,
    /// The provider's page to pay on, while the payment waits for its payer.
    checkout_url: Option<String>,
    /// Did the account top itself up?
    automatic: bool,
    /// Why it failed.
    failure: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// Until when it can be paid.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// When the payer had agreed at the provider.
    #[schema(format = DateTime)]
    confirming_at: Option<String>,
    #[schema(format = DateTime)]
    confirmed_at: Option<String>,
    /// When it failed or expired.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

impl From<Payment> for PaymentAnswer {
    fn from(payment: Payment) -> Self {
        let is_waiting = payment.status == PaymentStatus::Created;
        PaymentAnswer {
            id: payment.id.to_string(),
            amount: Amount(payment.amount),
            currency: "USD",
            status: payment.status.name(),
            provider: payment.provider,
            checkout_url: payment.checkout_url.filter(|_| is_waiting),
            automatic: payment.is_auto,
            failure: payment.failure,
            created_at: payment.created_at.to_rfc3339(),
            expires_at: payment.expires_at.map(Timestamp::to_rfc3339),
            confirming_at: payment.confirming_at.map(Timestamp::to_rfc3339),
            confirmed_at: payment.confirmed_at.map(Timestamp::to_rfc3339),
            ended_at: payment.ended_at.map(Timestamp::to_rfc3339),
        }
    }
}

/// Adds credits to the user's live account, or begins a payment that will.
#[utoipa::path(post, path = "/api/payments/payments", tag = "payments", security(("jwt" = [])),
    request_body = PaymentBody, responses(
    (status = 201, description = "Paid and credited, or begun: see `status`", body = PaymentAnswer),
    (status = 402, description = "The provider refused; or of x402, what is to be paid, in PAYMENT-REQUIRED", body = ErrorBody),
    (status = 403, description = "The provider is off, the user's email address must be verified first, or a saved payment method needs a fresh proof", body = ErrorBody),
    (status = 404, description = "The user has not saved this payment method", body = ErrorBody),
    (status = 409, description = "The first request with this Idempotency-Key still runs", body = ErrorBody),
    (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
))]
pub(super) async fn pay(
    WithBody(current, body): WithBody<CurrentSession>,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_verified(&current)?;
    let is_confirmed = app.users.assert_confirmed(&current);
    let user = current.user;
    let once =
        once(&request, &body, |payment: &Payment| PaymentAnswer::from(payment.clone()), location)?;
    let origin = user_origin(&request, &app, user.id);
    let PaymentBody { amount: Amount(amount), provider, payment_method } = body.json()?;
    let provider = provider.as_deref().unwrap_or(app.payments.default_provider());
    if payment_method.is_some() && provider != stripe::NAME {
        return Err(ApiError::field(
            "payment_method",
            "can only be used with the provider \"stripe\"",
        ));
    }
    if payment_method.is_some() {
        is_confirmed?;
    }
    if provider != x402::NAME {
        let checked = app.gateway.rate_limits.check_payment(user.id, app.clock.now());
        checked.map_err(|retry_after| Refusal::RateLimited { retry_after })?;
    }
    let made = match provider {
        SANDBOX => {
            let is_direct = is_direct(&request);
            let paid = async move {
                app.payments.pay_by_sandbox(user.id, amount, is_direct, once, origin).await
            };
            uncancelled(paid).await?
        }
        stripe::NAME => {
            let payer = Payer { user: user.id, email: user.email.clone(), origin };
            let is_saved = payment_method.is_some();
            let paid = async move {
                let made = app.payments.pay_by_stripe(payer, amount, payment_method, once).await?;
                if let (true, Made::New(payment)) = (is_saved, &made) {
                    app.users.tell_of_saved_method(&user, payment);
                }
                Ok::<_, PaymentsError>(made)
            };
            uncancelled(paid).await?
        }
        x402::NAME => {
            let outcome = super::x402::pay(&request, &app, user.id, amount, origin).await?;
            return Ok(x402_response(&app, outcome));
        }
        _ => {
            let message = "must be \"sandbox\", \"stripe\" or \"x402\"";
            return Err(ApiError::field("provider", message));
        }
    };
    Ok(match made {
        Made::New(payment) => created(&location(&payment)).amounts(PaymentAnswer::from(payment)),
        Made::Repeat(kept) => replay(kept),
    })
}

fn x402_response(app: &App, outcome: PaymentOutcome) -> HttpResponse {
    match outcome {
        PaymentOutcome::Paid(payment) => {
            let mut response =
                created(&location(&payment)).amounts(PaymentAnswer::from(payment.clone()));
            super::x402::add_response(&mut response, app, &payment);
            response
        }
        PaymentOutcome::Required(response) => response,
    }
}

/// The test balance, refilled.
#[derive(Serialize, ToSchema)]
pub(super) struct TestResetAnswer {
    balance: Amount,
    /// `USD`
    currency: &'static str,
    /// `test`
    environment: EnvironmentName,
}

/// Refills the user's test balance to what it began with, if it has less.
#[utoipa::path(post, path = "/api/payments/test/reset", tag = "payments", security(("jwt" = [])),
    responses(
    (status = 200, description = "The test balance", body = TestResetAnswer),
    (status = 403, description = "The test account is suspended", body = ErrorBody),
))]
pub(super) async fn reset_test(
    AuditedUser { user, origin }: AuditedUser,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let reset = async move { app.payments.reset_test(user.id, origin).await };
    let balance = Amount(uncancelled(reset).await?);
    let environment = EnvironmentName(Environment::Test);
    Ok(HttpResponse::Ok().amounts(TestResetAnswer { balance, currency: "USD", environment }))
}

/// A page of a list.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^pay-[0-9a-f-]{36}$")]
    cursor: Option<String>,
    /// Payments of this status alone.
    #[param(pattern = "^(created|confirming|confirmed|failed|expired)$")]
    status: Option<String>,
    /// Payments by this provider alone.
    #[param(pattern = "^(sandbox|stripe|x402)$")]
    provider: Option<String>,
    /// Payments that began at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Payments that began before this time.
    #[param(format = DateTime)]
    until: Option<String>,
}

impl PageQuery {
    /// What leaves payments out.
    fn filter(&self) -> Result<PaymentFilter, ApiError> {
        filter(
            self.status.as_deref(),
            self.provider.clone(),
            (self.from.as_deref(), self.until.as_deref()),
        )
    }
}

/// What leaves payments out of a list.
pub(super) fn filter(
    status: Option<&str>,
    provider: Option<String>,
    (from, until): (Option<&str>, Option<&str>),
) -> Result<PaymentFilter, ApiError> {
    let status = status.map(|name| {
        let unknown = || {
            let names: Vec<&str> =
                PaymentStatus::ALL.into_iter().map(PaymentStatus::name).collect();
            ApiError::field("status", format!("must be one of {}", names.join(", ")))
        };
        PaymentStatus::from_name(name).ok_or_else(unknown)
    });
    let is_known = |name: &String| [SANDBOX, stripe::NAME, x402::NAME].contains(&&**name);
    if provider.as_ref().is_some_and(|name| !is_known(name)) {
        let message = "must be \"sandbox\", \"stripe\" or \"x402\"";
        return Err(ApiError::field("provider", message));
    }
    Ok(PaymentFilter {
        account: None,
        status: status.transpose()?,
        provider,
        from: time("from", from)?,
        until: time("until", until)?,
    })
}

/// A page of payments.
#[derive(Serialize, ToSchema)]
pub(super) struct PaymentsPage {
    payments: Vec<PaymentAnswer>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The user's payments, newest first.
#[utoipa::path(get, path = "/api/payments/payments", tag = "payments", security(("jwt" = [])),
    params(PageQuery), responses(
    (status = 200, description = "A page of payments", body = PaymentsPage),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    list_of(user.id, &app, &request).await
}

/// A page of a user's payments.
pub(super) async fn list_of(
    user: UserId,
    app: &App,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let page: PageQuery = query(request)?;
    let limit = page_limit(page.limit)?;
    let (more, before) = (limit.saturating_add(1), read_cursor(page.cursor.as_deref())?);
    let mut payments = app.payments.list(user, before, more, page.filter()?).await?;
    let next_cursor = cut(&mut payments, limit).map(|payment| payment.id.to_string());
    let payments = payments.into_iter().map(PaymentAnswer::from).collect();
    Ok(page_of(request, next_cursor.as_deref()).amounts(PaymentsPage { payments, next_cursor }))
}

/// One of the user's payments.
#[utoipa::path(get, path = "/api/payments/payments/{id}", tag = "payments", security(("jwt" = [])),
    params(("id" = id::PaymentId, Path)), responses(
    (status = 200, description = "The payment", body = PaymentAnswer),
    (status = 404, description = "The user has no such payment", body = ErrorBody),
))]
pub(super) async fn get(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id: PaymentId = id.parse().map_err(|_| ApiError::from(PaymentsError::NotFound))?;
    let payment = app.payments.get(user.id, id).await?;
    Ok(HttpResponse::Ok().amounts(PaymentAnswer::from(payment)))
}
