//! `/api/auth/*`

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::extract::{Body, SessionUser, client_address};
use super::{App, uncancelled};
use crate::auth::people::Registration;
use crate::domain::UserId;
use crate::pipeline::Refusal;
use crate::store::users::{Role, User};

/// A registration.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterBody {
    /// Unique, whatever its case.
    #[garde(email, length(max = 254))]
    #[schema(example = "user@example.com", format = "email", max_length = 254)]
    email: String,
    /// At least 12 characters, unless the operator has set otherwise.
    #[garde(skip)]
    #[schema(example = "SecurePassword123!", format = Password)]
    password: String,
    /// Letters, digits, `.`, `_` and `-`. Unique, whatever its case.
    #[garde(length(chars, min = 1, max = 64), custom(is_username))]
    #[schema(
        example = "myusername",
        min_length = 1,
        max_length = 64,
        pattern = r"^[\p{L}\p{M}\p{N}._-]+$"
    )]
    username: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
fn is_username(username: &str, (): &()) -> garde::Result {
    if username.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        Ok(())
    } else {
        Err(garde::Error::new("must be of letters, digits, '.', '_' and '-'"))
    }
}

/// A user, as they see themselves.
#[derive(Serialize, ToSchema)]
pub(super) struct UserBody {
    #[schema(value_type = UserId)]
    id: String,
    email: String,
    username: String,
    /// `user` or `admin`
    #[schema(pattern = "^(user|admin)$")]
    role: &'static str,
    is_email_verified: bool,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<&User> for UserBody {
    fn from(user: &User) -> Self {
        UserBody {
            id: user.id.to_string(),
            email: user.email.clone(),
            username: user.username.clone(),
            role: user.role.name(),
            is_email_verified: user.is_email_verified,
            created_at: user.created_at.to_rfc3339(),
        }
    }
}

/// Registers a user.
#[utoipa::path(post, path = "/api/auth/register", tag = "auth", request_body = RegisterBody, responses(
    (status = 201, description = "Registered", body = UserBody),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 409, description = "The email or the username is taken", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn register(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let RegisterBody { email, password, username } = body.json()?;
    let registration = Registration { email, username, password };
    let registered = async move { app.people.register(registration, Role::User).await };
    let user = uncancelled(registered).await??;
    Ok(HttpResponse::Created().json(UserBody::from(&user)))
}

/// A login.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct LoginBody {
    #[schema(example = "user@example.com")]
    email: String,
    #[schema(example = "SecurePassword123!", format = Password)]
    password: String,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(super) struct LoginAnswer {
    /// The JWT: good for 24 hours, unless the operator has set otherwise.
    token: String,
    user: LoginUser,
}

/// Who has logged in.
#[derive(Serialize, ToSchema)]
pub(super) struct LoginUser {
    #[schema(value_type = UserId)]
    id: String,
    email: String,
    username: String,
    /// `user` or `admin`
    #[schema(pattern = "^(user|admin)$")]
    role: &'static str,
}

/// Logs a user in.
#[utoipa::path(post, path = "/api/auth/login", tag = "auth", request_body = LoginBody, responses(
    (status = 200, description = "Logged in", body = LoginAnswer),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "The email or the password is wrong", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn login(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let LoginBody { email, password } = body.json()?;
    let (user, token) = app.people.log_in(&email, password).await?;
    let user = LoginUser {
        id: user.id.to_string(),
        email: user.email,
        username: user.username,
        role: user.role.name(),
    };
    Ok(HttpResponse::Ok().json(LoginAnswer { token, user }))
}

/// Who is logged in.
#[utoipa::path(get, path = "/api/auth/me", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "The user", body = UserBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
))]
pub(super) async fn me(SessionUser(user): SessionUser) -> HttpResponse {
    HttpResponse::Ok().json(UserBody::from(&user))
}

/// A change of password.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct ChangePasswordBody {
    #[schema(format = Password)]
    current_password: String,
    /// At least 12 characters, unless the operator has set otherwise.
    #[schema(format = Password)]
    new_password: String,
}

/// A changed password.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangePasswordAnswer {
    message: &'static str,
    /// A new JWT, since every older one has ended.
    token: String,
}

/// Changes the password and ends every other session.
#[utoipa::path(post, path = "/api/auth/change-password", tag = "auth", security(("jwt" = [])),
    request_body = ChangePasswordBody, responses(
    (status = 200, description = "Changed", body = ChangePasswordAnswer),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT, or the current password is wrong", body = ErrorBody),
))]
pub(super) async fn change_password(
    SessionUser(user): SessionUser,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let ChangePasswordBody { current_password, new_password } = body.json()?;
    let changed =
        async move { app.people.change_password(user, current_password, new_password).await };
    let token = uncancelled(changed).await??;
    let message = "The password was changed; every other session has ended";
    Ok(HttpResponse::Ok().json(ChangePasswordAnswer { message, token }))
}

/// The limit of an address holds for strangers' work here as well.
fn check_address(request: &HttpRequest, app: &App) -> Result<(), ApiError> {
    let address = client_address(request, &app.trusted_proxies);
    let checked = app.gateway.rate_limits.check_address(address, app.clock.now());
    match checked {
        Ok(_) => Ok(()),
        Err((_, retry_after)) => Err(Refusal::RateLimited { retry_after }.into()),
    }
}
