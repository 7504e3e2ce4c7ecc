//! `/api/payments/notices`: when an account holder is notified.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::amount::{Amount, WithAmounts as _};
use super::environment::EnvironmentName;
use super::error::ApiError;
use super::extract::{AuditedUser, SessionUser, WithBody};
use super::page::query;
use super::validation::not_negative;
use super::{App, uncancelled};
use domain::{Credits, Environment};

/// When an account holder wants to be notified.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct NoticesBody {
    /// `balance.low` is sent when the balance falls below this, in USD.
    #[schema(value_type = f64, example = 10.00, minimum = 0)]
    balance_low: Amount,
    /// Of which account: `live` (default) or `test`.
    #[serde(default)]
    #[schema(inline)]
    environment: EnvironmentName,
}

/// When the account holder is notified.
#[derive(Serialize, ToSchema)]
pub(super) struct NoticesAnswer {
    balance_low: Amount,
    environment: EnvironmentName,
}

impl NoticesAnswer {
    pub(super) fn new(balance_low: Credits, environment: Environment) -> Self {
        NoticesAnswer {
            balance_low: Amount(balance_low),
            environment: EnvironmentName(environment),
        }
    }
}

/// Which account.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NoticesQuery {
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
}

/// When the account holder is notified.
#[utoipa::path(get, path = "/api/payments/notices", tag = "webhooks", security(("jwt" = [])),
    params(NoticesQuery), responses(
    (status = 200, description = "The thresholds", body = NoticesAnswer),
))]
pub(super) async fn notices(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let NoticesQuery { environment } = query(&request)?;
    let balance_low = app.webhooks.balance_low(user.id, environment.into()).await?;
    Ok(HttpResponse::Ok().amounts(NoticesAnswer { balance_low: Amount(balance_low), environment }))
}

/// Sets when the account holder is notified.
#[utoipa::path(put, path = "/api/payments/notices", tag = "webhooks", security(("jwt" = [])),
    request_body = NoticesBody, responses(
    (status = 200, description = "The thresholds", body = NoticesAnswer),
))]
pub(super) async fn set_notices(
    WithBody(AuditedUser { user, origin }, body): WithBody<AuditedUser>,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let NoticesBody { balance_low, environment } = body.json()?;
    let low = not_negative("balance_low", balance_low)?;
    let set =
        async move { app.webhooks.set_balance_low(user.id, environment.into(), low, origin).await };
    uncancelled(set).await?;
    Ok(HttpResponse::Ok().amounts(NoticesAnswer { balance_low: Amount(low), environment }))
}
