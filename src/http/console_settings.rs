//! `/api/console/settings`: what a page must know before anybody has logged in.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody};
use super::extract::check_address;
use super::payment_providers::ProvidersAnswer;
use crate::auth::password::LENGTH_MAX;

/// What this server is set to, as far as everybody may know.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct ConsoleSettingsAnswer {
    /// Of the server.
    version: &'static str,
    /// Where customers reach the server; null if the operator has not set it.
    public_url: Option<String>,
    /// `open` if everybody may register, `closed` if nobody may.
    #[schema(pattern = "^(open|closed)$")]
    registration: &'static str,
    /// Must users verify their address before they pay, make a key, add a webhook or set up
    /// two-factor authentication?
    email_verification_required: bool,
    /// Must operators set up two-factor authentication?
    operators_need_second_factor: bool,
    /// The shortest password, in characters.
    #[schema(minimum = 0)]
    password_length_min: usize,
    /// The longest password, in bytes.
    #[schema(minimum = 0)]
    password_length_max: usize,
    /// Do browsers keep the session cookie only over TLS, or for this machine?
    cookie_is_secure: bool,
    /// Is it a demo, where everything is made up?
    is_demo: bool,
    /// How payments are made.
    payments: ProvidersAnswer,
}

/// What the console must know before anybody has logged in.
#[utoipa::path(get, path = "/api/console/settings", tag = "console", responses(
    (status = 200, description = "The settings", body = ConsoleSettingsAnswer),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn settings(
    request: HttpRequest,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let users = &app.users;
    Ok(HttpResponse::Ok().json(ConsoleSettingsAnswer {
        version: env!("CARGO_PKG_VERSION"),
        public_url: app.cookies.public_url.clone(),
        registration: if users.is_registration_open { "open" } else { "closed" },
        email_verification_required: users.messages.is_verification_required,
        operators_need_second_factor: users.operators_need_second_factor,
        password_length_min: users.password_length_min,
        password_length_max: LENGTH_MAX,
        cookie_is_secure: app.cookies.is_secure,
        is_demo: app.is_demo,
        payments: ProvidersAnswer::new(&app, &request),
    }))
}
