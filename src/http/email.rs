//! `/api/auth/*` by email: verification of an address, its change, and reset of a forgotten
//! password.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::{UserBody, check_attempt, is_public_address};
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, ConfirmedSession, WithBody, device};
use super::{App, uncancelled};
use crate::auth::users::Device;

/// What was done.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageAnswer {
    message: &'static str,
}

impl MessageAnswer {
    fn ok(message: &'static str) -> HttpResponse {
        HttpResponse::Ok().json(MessageAnswer { message })
    }

    /// The work goes on after the answer.
    fn accepted(message: &'static str) -> HttpResponse {
        HttpResponse::Accepted().json(MessageAnswer { message })
    }
}

/// A token that came by email.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct EmailTokenBody {
    #[schema(example = "pse_...")]
    token: String,
}

/// Verifies an address by the token that was sent to it. The first verification ends every session,
/// API key, webhook, second factor, automatic top-up and saved payment method from before it.
#[utoipa::path(post, path = "/api/auth/verify-email", tag = "auth", request_body = EmailTokenBody, responses(
    (status = 200, description = "Verified", body = MessageAnswer),
    (status = 400, description = "A field is not valid, or the token is not", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn verify(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let EmailTokenBody { token } = body.json()?;
    let device = device(&request, &app.trusted_proxies);
    let verifying = async move { app.users.verify_email(&token, &device, &app.keys).await };
    uncancelled(verifying).await?;
    Ok(MessageAnswer::ok("The address is verified. Please log in."))
}

/// Whose address.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EmailBody {
    #[garde(length(max = 254))]
    #[schema(example = "user@example.com", max_length = 254)]
    email: String,
}

/// Sends the token that verifies an address again. The answer is the same whether the address is
/// known or not.
#[utoipa::path(post, path = "/api/auth/resend-verification", tag = "auth", request_body = EmailBody, responses(
    (status = 202, description = "If there is such a user, a message is on its way", body = MessageAnswer),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn resend(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let EmailBody { email } = body.json()?;
    app.users.send_verification(email);
    Ok(on_its_way())
}

/// Sends a token to reset the password. The answer is the same whether the address is known or not.
#[utoipa::path(post, path = "/api/auth/forgot-password", tag = "auth", request_body = EmailBody, responses(
    (status = 202, description = "If there is such a user, a message is on its way", body = MessageAnswer),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn forgot(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let EmailBody { email } = body.json()?;
    app.users.send_reset(email, device(&request, &app.trusted_proxies));
    Ok(on_its_way())
}

fn on_its_way() -> HttpResponse {
    MessageAnswer::accepted("If there is a user with this address, a message is on its way")
}

/// Another address.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EmailChangeBody {
    #[garde(email, length(max = 254), custom(is_public_address))]
    #[schema(example = "other@example.com", format = "email", max_length = 254)]
    email: String,
}

/// Asks to change the email address: sends a token to the new one, and a warning to the old one if
/// it is verified. Needs a confirmed session. The answer is the same whether another user has the
/// address or not.
#[utoipa::path(post, path = "/api/auth/email", tag = "auth", security(("jwt" = [])),
    request_body = EmailChangeBody, responses(
    (status = 202, description = "If the address can be used, a message is on its way", body = MessageAnswer),
    (status = 403, description = "The session must be confirmed first", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn change(
    WithBody(ConfirmedSession(current), body): WithBody<ConfirmedSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let EmailChangeBody { email } = body.json()?;
    app.users.ask_for_address(&current, &email, device)?;
    Ok(MessageAnswer::accepted("If the address can be used, a message is on its way to it"))
}

/// Changes the email address by the token that was sent to the new one. Needs a confirmed session.
/// Every other session ends; everything else stays.
#[utoipa::path(post, path = "/api/auth/email/confirm", tag = "auth", security(("jwt" = [])),
    request_body = EmailTokenBody, responses(
    (status = 200, description = "Changed", body = UserBody),
    (status = 400, description = "A field is not valid, or the token is not", body = ErrorBody),
    (status = 403, description = "The session must be confirmed first", body = ErrorBody),
    (status = 409, description = "Another user has the address by now", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn confirm_change(
    WithBody(ConfirmedSession(current), body): WithBody<ConfirmedSession>,
    device: Device,
    request: HttpRequest,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let EmailTokenBody { token } = body.json()?;
    let changing = async move { app.users.change_address(&current, &token, &device).await };
    let user = uncancelled(changing).await?;
    Ok(HttpResponse::Ok().json(UserBody::from(&user)))
}

/// A reset of the password.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct ResetPasswordBody {
    /// From the message.
    #[schema(example = "pse_...")]
    token: String,
    /// At least 12 characters, unless the operator has set otherwise.
    #[schema(format = Password)]
    new_password: String,
}

/// Resets the password with the token that was sent for it, and ends every session of the user. If
/// the address was not verified, it also ends every API key, webhook, second factor, automatic
/// top-up and saved payment method.
#[utoipa::path(post, path = "/api/auth/reset-password", tag = "auth", request_body = ResetPasswordBody, responses(
    (status = 200, description = "Set", body = MessageAnswer),
    (status = 400, description = "A field is not valid, or the token is not", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn reset(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let ResetPasswordBody { token, new_password } = body.json()?;
    let device = device(&request, &app.trusted_proxies);
    let setting =
        async move { app.users.reset_password(&token, new_password, &device, &app.keys).await };
    uncancelled(setting).await?;
    Ok(MessageAnswer::ok("The password was changed; every session has ended. Please log in."))
}
