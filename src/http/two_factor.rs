//! `/api/auth/2fa*`, and the second step of a login.

use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::{CookieLoginAnswer, LoginAnswer, check_attempt, logged_in};
use super::cookie::{SessionName, with_cookie};
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, SessionUser, WithBody, device};
use super::{App, uncancelled};
use crate::auth::sessions::CurrentSession;
use crate::auth::two_factor::Enrolment;
use crate::auth::users::Device;

/// Whether logins take a second factor.
#[derive(Serialize, ToSchema)]
pub(super) struct TwoFactorBody {
    is_enabled: bool,
    /// Unused recovery codes.
    recovery_codes_left: u64,
}

/// Whether the user's logins take a second factor.
#[utoipa::path(get, path = "/api/auth/2fa", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "Whether they do", body = TwoFactorBody),
))]
pub(super) async fn status(
    SessionUser(user): SessionUser,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let recovery_codes_left = app.users.recovery_codes_left(user.id).await?;
    let is_enabled = user.has_two_factor();
    Ok(HttpResponse::Ok().json(TwoFactorBody { is_enabled, recovery_codes_left }))
}

/// The user's password once more.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PasswordBody {
    /// May be left out if the session was confirmed a short while ago.
    #[schema(format = Password)]
    password: Option<String>,
}

/// What an authenticator needs. Shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct EnrolmentBody {
    /// The secret, in Base32, to type in.
    #[schema(example = "JBSWY3DPEHPK3PXP")]
    secret: String,
    #[schema(example = "otpauth://totp/...")]
    otpauth_url: String,
    /// The URL as a QR code, in SVG.
    #[schema(example = "<?xml ...")]
    qr_code_svg: String,
}

/// Begins to set up two-factor authentication. It is required from the confirmation on.
#[utoipa::path(post, path = "/api/auth/2fa/enroll", tag = "auth", security(("jwt" = [])),
    request_body = PasswordBody, responses(
    (status = 200, description = "What an authenticator needs", body = EnrolmentBody),
    (status = 401, description = "No valid JWT, or the password is wrong", body = ErrorBody),
    (status = 403, description = "The user's email address must be verified first, or the body has no \
        password and the session must be confirmed first", body = ErrorBody),
    (status = 409, description = "Two-factor authentication is on already", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn enroll(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_verified(&current)?;
    let PasswordBody { password } = body.json()?;
    let beginning = async move { app.users.begin_second_factor(&current, password, &device).await };
    let Enrolment { secret, url, qr_code } = uncancelled(beginning).await?;
    let body = EnrolmentBody { secret, otpauth_url: url, qr_code_svg: qr_code };
    Ok(HttpResponse::Ok().json(body))
}

/// A code, and what an operator needs beside it.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct ConfirmFactorBody {
    /// Six digits, from the authenticator.
    #[schema(example = "123456")]
    code: String,
    /// Operators alone need it: `polysystems user enroll2fa` prints it on the server.
    #[serde(default)]
    #[schema(example = "pse_...")]
    token: Option<String>,
}

/// The recovery codes. Shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct RecoveryCodesBody {
    /// Each can be used once instead of a code, if the authenticator is lost.
    recovery_codes: Vec<String>,
}

/// Switches two-factor authentication on, once a code proves that it works. Every other session of
/// the user ends; a session by cookie gets a new one.
#[utoipa::path(post, path = "/api/auth/2fa/confirm", tag = "auth", security(("jwt" = [])),
    request_body = ConfirmFactorBody, responses(
    (status = 200, description = "On", body = RecoveryCodesBody),
    (status = 401, description = "No valid JWT, or the code is wrong", body = ErrorBody),
    (status = 403, description = "The user is an operator, and there is no valid token", body = ErrorBody),
    (status = 409, description = "It is on already, or not begun", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn confirm(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let ConfirmFactorBody { code, token } = body.json()?;
    let users = Arc::clone(&app.users);
    let confirming = async move {
        users.confirm_second_factor(&current, &code, token.as_deref(), &device).await
    };
    let (recovery_codes, cookie) = uncancelled(confirming).await?;
    let answer = HttpResponse::Ok().json(RecoveryCodesBody { recovery_codes });
    match cookie {
        Some(cookie) => with_cookie(answer, &cookie, &app),
        None => Ok(answer),
    }
}

/// The user's password once more, and a code.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PasswordAndCodeBody {
    /// May be left out if the session was confirmed a short while ago.
    #[schema(format = Password)]
    password: Option<String>,
    /// Six digits from the authenticator, or a recovery code.
    #[schema(example = "123456")]
    code: String,
}

/// Makes new recovery codes. The previous ones are void.
#[utoipa::path(post, path = "/api/auth/2fa/recovery-codes", tag = "auth", security(("jwt" = [])),
    request_body = PasswordAndCodeBody, responses(
    (status = 200, description = "The new codes", body = RecoveryCodesBody),
    (status = 401, description = "No valid JWT, or the password or the code is wrong", body = ErrorBody),
    (status = 403, description = "No password in the body, and the session must be confirmed first", body = ErrorBody),
    (status = 409, description = "It is not on", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn recovery_codes(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let PasswordAndCodeBody { password, code } = body.json()?;
    let making =
        async move { app.users.new_recovery_codes(&current, password, &code, &device).await };
    let recovery_codes = uncancelled(making).await?;
    Ok(HttpResponse::Ok().json(RecoveryCodesBody { recovery_codes }))
}

/// Switches two-factor authentication off.
#[utoipa::path(post, path = "/api/auth/2fa/disable", tag = "auth", security(("jwt" = [])),
    request_body = PasswordAndCodeBody, responses(
    (status = 200, description = "Off", body = TwoFactorBody),
    (status = 401, description = "No valid JWT, or the password or the code is wrong", body = ErrorBody),
    (status = 403, description = "No password in the body, and the session must be confirmed first", body = ErrorBody),
    (status = 409, description = "It is not on", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn disable(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let PasswordAndCodeBody { password, code } = body.json()?;
    let disabling =
        async move { app.users.disable_second_factor(&current, password, &code, &device).await };
    uncancelled(disabling).await?;
    Ok(HttpResponse::Ok().json(TwoFactorBody { is_enabled: false, recovery_codes_left: 0 }))
}

/// The second step of a login.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct ChallengeBody {
    /// From the first step.
    challenge: String,
    /// Six digits from the authenticator, or a recovery code.
    #[schema(example = "123456")]
    code: String,
    /// As in the first step.
    #[serde(default)]
    #[schema(inline)]
    session: SessionName,
}

/// Second step of a login: the code, after the password was right.
#[utoipa::path(post, path = "/api/auth/login/2fa", tag = "auth", request_body = ChallengeBody, responses(
    (status = 200, description = "Logged in", body = CodeLoginOutcome),
    (status = 400, description = "The cookie is asked for with an Authorization header, or a field is wrong", body = ErrorBody),
    (status = 401, description = "The challenge is not valid, or the code is wrong", body = ErrorBody),
    (status = 403, description = "The cookie is asked for by a page of another origin", body = ErrorBody),
    (status = 409, description = "Two-factor authentication was switched off meanwhile", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn log_in(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let ChallengeBody { challenge, code, session } = body.json()?;
    let kind = session.allowed(&request, &app)?;
    let device = device(&request, &app.trusted_proxies);
    let users = Arc::clone(&app.users);
    let logging_in = async move { users.log_in_by_code(&challenge, &code, device, kind).await };
    logged_in(uncancelled(logging_in).await?, &app)
}

/// What the second step of a login comes to.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the document")]
pub(super) enum CodeLoginOutcome {
    In(LoginAnswer),
    Cookie(CookieLoginAnswer),
}
