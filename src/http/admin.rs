//! `/api/admin/*`: for operators.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::{App, uncancelled};
use crate::auth::keys::KeysError;
use crate::domain::{AccountStatus, UserId};

/// Whether a user's accounts can be used.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusAnswer {
    #[schema(value_type = UserId)]
    user_id: String,
    /// `open` or `suspended`
    #[schema(pattern = "^(open|suspended)$")]
    status: &'static str,
}

/// Suspends a user's accounts. Binds for the very next call.
#[utoipa::path(post, path = "/api/admin/users/{id}/suspend", tag = "admin", security(("jwt" = [])),
    params(("id" = UserId, Path)), responses(
    (status = 200, description = "Suspended", body = StatusAnswer),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 403, description = "Not an operator", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn suspend(
    _: AdminUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    set_status(app, &id, AccountStatus::Suspended, "suspended").await
}

/// Resumes a user's accounts. Binds for the very next call.
#[utoipa::path(post, path = "/api/admin/users/{id}/resume", tag = "admin", security(("jwt" = [])),
    params(("id" = UserId, Path)), responses(
    (status = 200, description = "Open again", body = StatusAnswer),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 403, description = "Not an operator", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn resume(
    _: AdminUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    set_status(app, &id, AccountStatus::Open, "open").await
}

async fn set_status(
    app: Data<App>,
    id: &str,
    status: AccountStatus,
    name: &'static str,
) -> Result<HttpResponse, ApiError> {
    let user: UserId = id.parse().map_err(|_| ApiError::NotFound("user"))?;
    let set = async move { app.operators.set_status(user, status).await };
    uncancelled(set).await?.map_err(|error| match error {
        KeysError::NotFound => ApiError::NotFound("user"),
        other => other.into(),
    })?;
    Ok(HttpResponse::Ok().json(StatusAnswer { user_id: user.to_string(), status: name }))
}
