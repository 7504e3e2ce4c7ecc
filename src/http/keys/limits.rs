//! `/api/keys/{id}/limits`

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::key_id;
use crate::http::amount::{Amount, WithAmounts as _};
use crate::http::docs::id;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{AuditedUser, SessionUser, WithBody};
use crate::http::validation::present;
use crate::http::{App, uncancelled};
use domain::limits::LimitsChange;
use domain::{Credits, KeyState, Timestamp};

/// Spending limits to set. An absent one stays as it is; null removes it.
#[expect(clippy::struct_field_names, reason = "the names of the API's contract")]
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsBody {
    /// USD a UTC day.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 1.00, minimum = 0, maximum = 9_223_372_036_u64)]
    daily_limit: Option<Option<Amount>>,
    /// USD a UTC month.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 10.00, minimum = 0, maximum = 9_223_372_036_u64)]
    monthly_limit: Option<Option<Amount>>,
    /// USD a call.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 0.05, minimum = 0, maximum = 9_223_372_036_u64)]
    per_request_limit: Option<Option<Amount>>,
    /// USD in all, for as long as the key lives.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 100.00, minimum = 0, maximum = 9_223_372_036_u64)]
    total_limit: Option<Option<Amount>>,
}

impl LimitsBody {
    pub(super) fn change(self) -> LimitsChange {
        let credits =
            |limit: Option<Option<Amount>>| limit.map(|limit| limit.map(|Amount(credits)| credits));
        LimitsChange {
            per_request: credits(self.per_request_limit),
            daily: credits(self.daily_limit),
            monthly: credits(self.monthly_limit),
            total: credits(self.total_limit),
        }
    }
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn not_negative(limit: &Option<Option<Amount>>, (): &()) -> garde::Result {
    match limit {
        Some(Some(Amount(credits))) if credits.is_negative() => {
            Err(garde::Error::new("must not be negative"))
        }
        _ => Ok(()),
    }
}

/// A spending limit that counts in a window.
#[derive(Serialize, ToSchema)]
pub(super) struct WindowLimit {
    /// null is no limit.
    limit: Option<Amount>,
    /// Charged in the window, and held by calls in progress.
    spent: Amount,
    /// null is no limit.
    remaining: Option<Amount>,
    /// When the window ends and counting restarts.
    #[schema(format = DateTime)]
    resets_at: String,
}

/// A spending limit of each call.
#[derive(Serialize, ToSchema)]
pub(super) struct RequestLimit {
    /// null is no limit.
    limit: Option<Amount>,
}

/// A spending limit that counts for as long as the key lives.
#[derive(Serialize, ToSchema)]
pub(super) struct TotalLimit {
    /// null is no limit.
    limit: Option<Amount>,
    /// Charged, and held by calls in progress.
    spent: Amount,
    /// null is no limit.
    remaining: Option<Amount>,
}

/// The spending limits of a key.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsAnswer {
    #[schema(value_type = id::KeyId)]
    key_id: String,
    /// `USD`
    currency: &'static str,
    daily_limit: Option<Amount>,
    monthly_limit: Option<Amount>,
    per_request_limit: Option<Amount>,
    total_limit: Option<Amount>,
    daily: WindowLimit,
    monthly: WindowLimit,
    per_request: RequestLimit,
    total: TotalLimit,
}

impl LimitsAnswer {
    fn new(key: &KeyState, now: Timestamp) -> Self {
        let (day, month) = key.windows(now);
        let (day_spent, month_spent) = key.committed(now);
        let in_all = key.committed_in_all();
        let window = |limit: Option<Credits>, spent: Credits, ends_at: Timestamp| WindowLimit {
            limit: limit.map(Amount),
            spent: Amount(spent),
            remaining: limit.map(|limit| Amount(limit.less(spent))),
            resets_at: ends_at.to_rfc3339(),
        };
        LimitsAnswer {
            key_id: key.id.to_string(),
            currency: "USD",
            daily_limit: key.limits.daily.map(Amount),
            monthly_limit: key.limits.monthly.map(Amount),
            per_request_limit: key.limits.per_request.map(Amount),
            total_limit: key.limits.total.map(Amount),
            daily: window(key.limits.daily, day_spent, day.ends_at()),
            monthly: window(key.limits.monthly, month_spent, month.ends_at()),
            per_request: RequestLimit { limit: key.limits.per_request.map(Amount) },
            total: TotalLimit {
                limit: key.limits.total.map(Amount),
                spent: Amount(in_all),
                remaining: key.limits.total.map(|limit| Amount(limit.less(in_all))),
            },
        }
    }
}

/// Sets the spending limits of an API key. Binds for the very next call.
#[utoipa::path(put, path = "/api/keys/{id}/limits", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), request_body = LimitsBody, responses(
    (status = 200, description = "The limits", body = LimitsAnswer),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(in crate::http) async fn set_limits(
    WithBody(AuditedUser { user, origin }, body): WithBody<AuditedUser>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let limits: LimitsBody = body.json()?;
    let change = limits.change();
    let set = async move { app.keys.set_limits(user.id, id, change, origin).await };
    let (key, now) = uncancelled(set).await?;
    Ok(HttpResponse::Ok().amounts(LimitsAnswer::new(&key, now)))
}

/// The spending limits of an API key, and what is left of them.
#[utoipa::path(get, path = "/api/keys/{id}/limits", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 200, description = "The limits", body = LimitsAnswer),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(in crate::http) async fn limits(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (key, now) = app.keys.limits(user.id, key_id(&id)?).await?;
    Ok(HttpResponse::Ok().amounts(LimitsAnswer::new(&key, now)))
}
