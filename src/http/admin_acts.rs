//! `/api/admin/users/{id}/*` that changes the security of a user's account. Each needs a fresh
//! proof and a reason, is in the audit log, and sends the user a letter.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;

use super::admin::{AdminUserBody, user_id};
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithBody};
use super::keys::KeyBody;
use super::validation::is_printable;
use super::{App, uncancelled};
use crate::admin::AdminError;
use crate::keys::KeysError;
use crate::store::users::Role;
use domain::{KeyId, Origin, UserId};

/// Why something is done.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RequiredReasonBody {
    /// For the audit log, which the user can read.
    #[garde(length(chars, min = 1, max = 500), custom(is_printable))]
    #[schema(
        example = "asked for it in ticket 42",
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
}

/// What an operator does to a user, and why.
fn asked(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    id: &Path<String>,
) -> Result<(UserId, String, Origin), ApiError> {
    let user = user_id(id)?;
    let RequiredReasonBody { reason } = body.json()?;
    Ok((user, reason, origin))
}

/// The user after it.
async fn answer(app: &Data<App>, user: UserId) -> Result<HttpResponse, ApiError> {
    let user = app.admin.present(user).await?;
    Ok(HttpResponse::Ok().json(AdminUserBody::from(&user)))
}

/// Revokes an API key of a user. Binds for the very next call.
#[utoipa::path(post, path = "/api/admin/users/{id}/keys/{key}/revoke", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path), ("key" = id::KeyId, Path)), request_body = RequiredReasonBody, responses(
    (status = 200, description = "The key, revoked", body = KeyBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user, or the user has no such key", body = ErrorBody),
    (status = 409, description = "The user has erased the account", body = ErrorBody),
))]
pub(super) async fn revoke_key(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let RequiredReasonBody { reason } = body.json()?;
    let (user, key) = path.into_inner();
    let user: UserId = user.parse().map_err(|_| AdminError::NoUser)?;
    let key: KeyId = key.parse().map_err(|_| KeysError::NotFound)?;
    let (soon, users) = (app.keys.soon(), Arc::clone(&app.users));
    let revoking = async move {
        let user = app.admin.present(user).await?;
        let key = app.keys.revoke(user.id, key, reason, origin).await?;
        users.tell_of_revoked_key(&user, &key);
        Ok::<_, ApiError>(key)
    };
    let key = uncancelled(revoking).await?;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, soon)))
}

/// Switches a user's second factor off, if they lost it and all recovery codes. That of an operator
/// is switched off by the command line alone.
#[utoipa::path(post, path = "/api/admin/users/{id}/disable-2fa", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = RequiredReasonBody, responses(
    (status = 200, description = "The user, without a second factor", body = AdminUserBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "There is no second factor, it is an operator's, or the user has erased the account",
        body = ErrorBody),
))]
pub(super) async fn disable_two_factor(
    body: WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let ((user, reason, origin), to) = (asked(body, &id)?, Data::clone(&app));
    let disabling = async move { to.admin.disable_two_factor(user, reason, origin).await };
    uncancelled(disabling).await?;
    answer(&app, user).await
}

/// Lets the address of a user count as proved, if the operator knows that it is theirs. Unlike the
/// user's own proof it ends nothing that was made before.
#[utoipa::path(post, path = "/api/admin/users/{id}/verify-email", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = RequiredReasonBody, responses(
    (status = 200, description = "The user, with a proved address", body = AdminUserBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "The address is proved already, or the user has erased the account", body = ErrorBody),
))]
pub(super) async fn verify_email(
    body: WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let ((user, reason, origin), to) = (asked(body, &id)?, Data::clone(&app));
    let verifying = async move { to.admin.verify_email(user, reason, origin).await };
    uncancelled(verifying).await?;
    answer(&app, user).await
}

/// Sends a user a letter with which they set another password. The operator does not see what is in
/// it.
#[utoipa::path(post, path = "/api/admin/users/{id}/reset-password", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = RequiredReasonBody, responses(
    (status = 202, description = "The letter is on its way", body = AdminUserBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "The user has erased the account", body = ErrorBody),
    (status = 429, description = "This address has got too many letters", body = ErrorBody),
))]
pub(super) async fn reset_password(
    body: WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let ((user, reason, origin), to) = (asked(body, &id)?, Data::clone(&app));
    let sending = async move { to.admin.send_reset(user, reason, origin).await };
    uncancelled(sending).await?;
    let user = app.admin.present(user).await?;
    Ok(HttpResponse::Accepted().json(AdminUserBody::from(&user)))
}

/// A role, and why.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleBody {
    /// `user` or `admin`
    #[garde(custom(is_role))]
    #[schema(pattern = "^(user|admin)$", example = "admin")]
    role: String,
    /// For the audit log, which the user can read.
    #[garde(length(chars, min = 1, max = 500), custom(is_printable))]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    reason: String,
}

fn role_of(name: &str) -> Option<Role> {
    [Role::User, Role::Admin].into_iter().find(|role| role.name() == name)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
fn is_role(name: &str, (): &()) -> garde::Result {
    role_of(name).map(drop).ok_or_else(|| garde::Error::new("must be user or admin"))
}

/// Makes a user an operator, or takes the role away. An operator must have proved the address, and
/// can act once they have a second factor. The last operator who can act keeps the role.
#[utoipa::path(put, path = "/api/admin/users/{id}/role", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = RoleBody, responses(
    (status = 200, description = "The user, with the role", body = AdminUserBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "Nobody else is an operator, the address is not proved, or the user has erased the \
        account", body = ErrorBody),
))]
pub(super) async fn set_role(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = user_id(&id)?;
    let RoleBody { role, reason } = body.json()?;
    let role = role_of(&role).ok_or_else(|| ApiError::field("role", "must be user or admin"))?;
    let setting = async move { app.admin.set_role(user, role, &reason, origin).await };
    let user = uncancelled(setting).await?;
    Ok(HttpResponse::Ok().json(AdminUserBody::from(&user)))
}
