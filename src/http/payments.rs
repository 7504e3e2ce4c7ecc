//! `/api/payments/*`

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::amount::Amount;
use super::error::{ApiError, ErrorBody, FieldError};
use super::extract::{Body, SessionUser, user_origin};
use super::keys::EnvironmentName;
use super::page::{EntryCursor, cut, page_limit, query, read_cursor};
use super::repeat::{once, replay};
use super::{App, uncancelled};
use crate::auth::people::Speaker;
use crate::domain::{ChargeId, EntryKind, KeyId, LedgerEntry, PaymentId, Timestamp, UserId};
use crate::idempotency::Made;
use crate::payments::PaymentsError;
use crate::store::ledger::Payment;

/// The balance of an account.
#[derive(Serialize, ToSchema)]
pub(super) struct BalanceAnswer {
    #[schema(value_type = UserId)]
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
    (status = 400, description = "The query is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
))]
pub(super) async fn balance(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let AccountQuery { environment } = query(&request)?;
    let (account, updated_at) = app.payments.balance(user.id, environment.into()).await?;
    Ok(HttpResponse::Ok().json(BalanceAnswer {
        user_id: user.id.to_string(),
        balance: Amount(account.balance),
        currency: "USD",
        last_updated: updated_at.to_rfc3339(),
        held: Amount(account.held),
        available: Amount(account.available),
        environment,
    }))
}

/// A payment to be made.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PaymentBody {
    /// USD, more than 0.
    #[schema(value_type = f64, example = 25.00, exclusive_minimum = 0)]
    amount: Amount,
    /// `sandbox`, which confirms at once.
    #[serde(default)]
    #[schema(example = "sandbox", pattern = "^sandbox$")]
    provider: Option<String>,
}

/// A payment.
#[derive(Serialize, ToSchema)]
pub(super) struct PaymentAnswer {
    #[schema(value_type = PaymentId)]
    id: String,
    amount: Amount,
    /// `USD`
    currency: &'static str,
    /// `confirmed`: the credits are on the account.
    #[schema(pattern = "^confirmed$")]
    status: &'static str,
    provider: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    confirmed_at: Option<String>,
}

impl From<Payment> for PaymentAnswer {
    fn from(payment: Payment) -> Self {
        PaymentAnswer {
            id: payment.id.to_string(),
            amount: Amount(payment.amount),
            currency: "USD",
            status: payment.status.name(),
            provider: payment.provider,
            created_at: payment.created_at.to_rfc3339(),
            confirmed_at: payment.confirmed_at.map(Timestamp::to_rfc3339),
        }
    }
}

/// Adds credits to the user's live account.
#[utoipa::path(post, path = "/api/payments/payments", tag = "payments", security(("jwt" = [])),
    request_body = PaymentBody, responses(
    (status = 201, description = "Paid and credited", body = PaymentAnswer),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 403, description = "The sandbox provider is off, or the user's email address must be verified first", body = ErrorBody),
    (status = 409, description = "The first request with this Idempotency-Key still runs", body = ErrorBody),
    (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
))]
pub(super) async fn pay(
    speaker: Speaker,
    app: Data<App>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    app.people.assert_verified(&speaker)?;
    let user = speaker.user;
    let once = once(&request, &body, |payment: &Payment| PaymentAnswer::from(payment.clone()))?;
    let origin = user_origin(&request, &app, user.id);
    let PaymentBody { amount, provider } = body.json()?;
    if provider.is_some_and(|provider| provider != crate::payments::SANDBOX) {
        let message = "must be \"sandbox\", the only provider there is".into();
        return Err(ApiError::Validation(vec![FieldError { field: "provider".into(), message }]));
    }
    let paid = async move { app.payments.pay(user.id, amount.0, once, origin).await };
    Ok(match uncancelled(paid).await?? {
        Made::New(payment) => HttpResponse::Created().json(PaymentAnswer::from(payment)),
        Made::Repeat(kept) => replay(kept),
    })
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
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 403, description = "The test account is suspended", body = ErrorBody),
))]
pub(super) async fn reset_test(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let origin = user_origin(&request, &app, user.id);
    let reset = async move { app.payments.reset_test(user.id, origin).await };
    let balance = Amount(uncancelled(reset).await??);
    let environment = EnvironmentName::Test;
    Ok(HttpResponse::Ok().json(TestResetAnswer { balance, currency: "USD", environment }))
}

/// A page of a list.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// At most so many, from 1 to 100; 50 where absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    #[param(pattern = "^([1-9][0-9]{0,18}|pay-[0-9a-f-]{36})$")]
    cursor: Option<String>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
}

impl PageQuery {
    fn cursor<T: std::str::FromStr>(&self) -> Result<Option<T>, ApiError> {
        read_cursor(self.cursor.as_deref())
    }
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
    (status = 400, description = "The query is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let page: PageQuery = query(&request)?;
    let limit = page_limit(page.limit)?;
    let more = limit.saturating_add(1);
    let mut payments = app.payments.list(user.id, page.cursor()?, more).await?;
    let next_cursor = cut(&mut payments, limit).map(|payment| payment.id.to_string());
    let payments = payments.into_iter().map(PaymentAnswer::from).collect();
    Ok(HttpResponse::Ok().json(PaymentsPage { payments, next_cursor }))
}

/// One of the user's payments.
#[utoipa::path(get, path = "/api/payments/payments/{id}", tag = "payments", security(("jwt" = [])),
    params(("id" = PaymentId, Path)), responses(
    (status = 200, description = "The payment", body = PaymentAnswer),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such payment", body = ErrorBody),
))]
pub(super) async fn get(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id: PaymentId = id.parse().map_err(|_| ApiError::from(PaymentsError::NotFound))?;
    let payment = app.payments.get(user.id, id).await?;
    Ok(HttpResponse::Ok().json(PaymentAnswer::from(payment)))
}

/// One movement of money.
#[derive(Serialize, ToSchema)]
pub(super) struct TransactionBody {
    /// 1 for the account's first, then one more each, without a gap.
    #[schema(minimum = 1)]
    sequence: i64,
    /// `top_up`, `charge`, `capture`, `refund`, `grant` or `deduction`
    #[schema(pattern = "^(top_up|charge|capture|refund|grant|deduction)$")]
    kind: &'static str,
    /// Negative takes from the balance.
    amount: Amount,
    balance_after: Amount,
    /// `USD`
    currency: &'static str,
    /// What it belongs to: `pay-<uuid>`, `req-<uuid>` or `user-<uuid>`.
    #[schema(pattern = "^(pay|req|user)-[0-9a-f-]{36}$")]
    reference: String,
    /// The key that spent it.
    #[schema(value_type = Option<KeyId>)]
    key_id: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<LedgerEntry> for TransactionBody {
    fn from(entry: LedgerEntry) -> Self {
        let reference = match entry.kind {
            EntryKind::TopUp => PaymentId(entry.reference).to_string(),
            EntryKind::Grant | EntryKind::Deduction => UserId(entry.reference).to_string(),
            EntryKind::Charge | EntryKind::Capture | EntryKind::Refund => {
                ChargeId(entry.reference).to_string()
            }
        };
        TransactionBody {
            sequence: entry.seq,
            kind: entry.kind.name(),
            amount: Amount(entry.amount),
            balance_after: Amount(entry.balance_after),
            currency: "USD",
            reference,
            key_id: entry.key.map(|key| key.to_string()),
            created_at: entry.at.to_rfc3339_micros(),
        }
    }
}

/// A page of the ledger.
#[derive(Serialize, ToSchema)]
pub(super) struct TransactionsPage {
    transactions: Vec<TransactionBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The ledger of the user's account, newest first.
#[utoipa::path(get, path = "/api/payments/transactions", tag = "payments", security(("jwt" = [])),
    params(PageQuery), responses(
    (status = 200, description = "A page of the ledger", body = TransactionsPage),
    (status = 400, description = "The query is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
))]
pub(super) async fn transactions(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let page: PageQuery = query(&request)?;
    let limit = page_limit(page.limit)?;
    let environment = page.environment.into();
    let before = page.cursor()?.map(|EntryCursor(seq)| seq);
    let more = limit.saturating_add(1);
    let mut entries = app.payments.entries(user.id, environment, before, more).await?;
    let next_cursor = cut(&mut entries, limit).map(|entry| EntryCursor(entry.seq).to_string());
    let transactions = entries.into_iter().map(TransactionBody::from).collect();
    Ok(HttpResponse::Ok().json(TransactionsPage { transactions, next_cursor }))
}
