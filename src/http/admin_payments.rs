//! `/api/admin/payments/*`: the payments of all users, for operators.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::amount::{Amount, WithAmounts as _};
use super::answers::page_of;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin};
use super::page::{cut, page_limit, query, read_cursor};
use super::payments::{PaymentAnswer, filter};
use super::{App, uncancelled};
use crate::payments::PaymentsError;
use crate::payments::operators::PaymentView;
use crate::store::payments::Payment;
use domain::{PaymentId, Reversal, UserId};

/// Which payments.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AllPaymentsQuery {
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
    /// Payments of this user alone.
    #[param(value_type = Option<id::UserId>)]
    user_id: Option<String>,
    /// Payments that began at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Payments that began before this time.
    #[param(format = DateTime)]
    until: Option<String>,
}

/// A payment of a list, as operators see it.
#[derive(Serialize, ToSchema)]
pub(super) struct OperatorsPaymentBody {
    /// Whose it is.
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// Its id at the provider.
    provider_ref: Option<String>,
    #[serde(flatten)]
    payment: PaymentAnswer,
}

impl OperatorsPaymentBody {
    fn new(payment: Payment, user: UserId) -> Self {
        OperatorsPaymentBody {
            user_id: user.to_string(),
            provider_ref: payment.provider_ref.clone(),
            payment: payment.into(),
        }
    }
}

/// A page of the payments of all users.
#[derive(Serialize, ToSchema)]
pub(super) struct AllPaymentsPage {
    data: Vec<OperatorsPaymentBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The payments of all users, newest first. The audit log says whose payments the operator has
/// read.
#[utoipa::path(get, path = "/api/admin/payments", tag = "admin", security(("jwt" = [])),
    params(AllPaymentsQuery), responses(
    (status = 200, description = "A page of payments", body = AllPaymentsPage),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn list(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: AllPaymentsQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let (more, before) = (limit.saturating_add(1), read_cursor(asked.cursor.as_deref())?);
    let user = asked.user_id.as_deref().map(str::parse::<UserId>).transpose();
    let user = user.map_err(|error| ApiError::field("user_id", error.to_string()))?;
    let times = (asked.from.as_deref(), asked.until.as_deref());
    let filter = filter(asked.status.as_deref(), asked.provider, times)?;
    let reading = async move { app.payments.list_of_all(user, before, more, filter, origin).await };
    let mut payments = uncancelled(reading).await?;
    let next_cursor = cut(&mut payments, limit).map(|(payment, _)| payment.id.to_string());
    let body = |(payment, user)| OperatorsPaymentBody::new(payment, user);
    let data = payments.into_iter().map(body).collect();
    Ok(page_of(&request, next_cursor.as_deref()).amounts(AllPaymentsPage { data, next_cursor }))
}

/// What a provider has taken back of a payment.
#[derive(Serialize, ToSchema)]
pub(super) struct PaymentReversalBody {
    /// `refund` or `dispute`
    #[schema(pattern = "^(refund|dispute)$")]
    kind: &'static str,
    /// Its id at the provider.
    provider_ref: String,
    /// How much, by the provider's last report; 0 if it was withdrawn.
    wanted: Amount,
    /// How much of it was taken from the balance. The rest is taken when credits arrive.
    taken: Amount,
    /// When the provider first reported it.
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<Reversal> for PaymentReversalBody {
    fn from(reversal: Reversal) -> Self {
        PaymentReversalBody {
            kind: reversal.kind.name(),
            provider_ref: reversal.provider_ref,
            wanted: Amount(reversal.wanted),
            taken: Amount(reversal.taken),
            created_at: reversal.created_at.to_rfc3339(),
        }
    }
}

/// A payment, as operators see it.
#[derive(Serialize, ToSchema)]
pub(super) struct OperatorsPaymentAnswer {
    #[serde(flatten)]
    payment: OperatorsPaymentBody,
    /// How often the provider was asked about it, of itself.
    #[schema(minimum = 0)]
    checks: i32,
    /// What the provider has taken back of it.
    reversals: Vec<PaymentReversalBody>,
}

impl From<PaymentView> for OperatorsPaymentAnswer {
    fn from(view: PaymentView) -> Self {
        let PaymentView { payment, user, reversals } = view;
        OperatorsPaymentAnswer {
            checks: payment.looks,
            payment: OperatorsPaymentBody::new(payment, user),
            reversals: reversals.into_iter().map(PaymentReversalBody::from).collect(),
        }
    }
}

fn payment_id(id: &Path<String>) -> Result<PaymentId, ApiError> {
    id.parse().map_err(|_| PaymentsError::NotFound.into())
}

/// Any payment, with what its provider has taken back of it. The audit log says that the operator
/// has read it.
#[utoipa::path(get, path = "/api/admin/payments/{id}", tag = "admin", security(("jwt" = [])),
    params(("id" = id::PaymentId, Path)), responses(
    (status = 200, description = "The payment", body = OperatorsPaymentAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such payment", body = ErrorBody),
))]
pub(super) async fn get(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = payment_id(&id)?;
    let reading = async move { app.payments.view(id, origin).await };
    Ok(HttpResponse::Ok().amounts(OperatorsPaymentAnswer::from(uncancelled(reading).await?)))
}

/// Asks the provider about a payment now, and records what it says: the payment may be credited,
/// fail, expire, or be taken back.
#[utoipa::path(post, path = "/api/admin/payments/{id}/recheck", tag = "admin", security(("jwt" = [])),
    params(("id" = id::PaymentId, Path)), responses(
    (status = 200, description = "The payment as it is now", body = OperatorsPaymentAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such payment", body = ErrorBody),
    (status = 409, description = "The provider is off, or there is nothing to ask, as of the sandbox", body = ErrorBody),
))]
pub(super) async fn recheck(
    ConfirmedAdmin(AdminUser { origin, .. }): ConfirmedAdmin,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = payment_id(&id)?;
    let checking = async move { app.payments.recheck(id, origin).await };
    Ok(HttpResponse::Ok().amounts(OperatorsPaymentAnswer::from(uncancelled(checking).await?)))
}
