//! `/api/auth/*`

use std::sync::Arc;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answers::created;
use super::cookie::{SessionName, with_cookie, without_cookie};
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, SessionUser, WithBody, check_address, client_address, device};
use super::{App, uncancelled};
use crate::auth::confirm::Proof;
use crate::auth::sessions::{CurrentSession, Issued, LoggedIn, SessionKind};
use crate::auth::users::{Device, Login, Registration, UsersError};
use crate::store::users::{Role, SessionListing, User};
use domain::SessionId;
use domain::address::is_public_name;

/// A registration.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterBody {
    /// Unique, whatever its case.
    #[garde(email, length(max = 254), custom(is_public_address))]
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

/// An address of the public internet: of a public domain, and not of a machine.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
pub(super) fn is_public_address(email: &str, (): &()) -> garde::Result {
    // Another rule names what is no address at all.
    let Some((_, domain)) = email.trim().rsplit_once('@') else { return Ok(()) };
    let labels: Vec<&str> = domain.split('.').collect();
    let is_domain = is_public_name(domain) && labels.iter().all(|label| !label.is_empty());
    let is_number = labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if is_domain && !is_number && !domain.starts_with('[') {
        return Ok(());
    }
    Err(garde::Error::new("must be an address of a public domain, such as you@example.com"))
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
    #[schema(value_type = id::UserId)]
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
    (status = 403, description = "Registration is closed", body = ErrorBody),
    (status = 409, description = "The email or the username is taken", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn register(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let RegisterBody { email, password, username } = body.json()?;
    let registration = Registration { email, username, password };
    let device = Some(device(&request, &app.trusted_proxies));
    let registering = Arc::clone(&app.users);
    let registered = async move { registering.register(registration, Role::User, device).await };
    let user = uncancelled(registered).await?;
    app.users.send_verification(user.email.clone());
    Ok(created("/api/auth/me").json(UserBody::from(&user)))
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
    /// `token` (default), or `cookie` for a page of this server: the answer has no token then, and
    /// sets the session cookie.
    #[serde(default)]
    #[schema(inline)]
    session: SessionName,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(super) struct LoginAnswer {
    /// The JWT: good for 24 hours, unless the operator has set otherwise.
    token: String,
    /// When the JWT ends.
    #[schema(format = DateTime)]
    expires_at: String,
    /// Renews the session at `POST /api/auth/refresh`, once: the answer has the next one.
    #[schema(example = "psr_...")]
    refresh_token: String,
    /// When the session ends, unless it is renewed before.
    #[schema(format = DateTime)]
    refresh_expires_at: String,
    user: LoginUser,
}

/// A session of a browser. Its cookie is in the header `Set-Cookie`.
#[derive(Serialize, ToSchema)]
pub(super) struct CookieLoginAnswer {
    #[schema(value_type = id::SessionId)]
    session_id: String,
    /// When the session ends, unless it is used before.
    #[schema(format = DateTime)]
    expires_at: String,
    user: LoginUser,
}

/// Answers a login.
pub(super) fn logged_in(logged_in: LoggedIn, app: &App) -> Result<HttpResponse, ApiError> {
    let LoggedIn { user, session, session_expires_at, issued } = logged_in;
    let user = LoginUser::from(user);
    let session_ends = session_expires_at.to_rfc3339();
    match issued {
        Issued::Tokens { token, expires_at, refresh_token } => {
            Ok(HttpResponse::Ok().json(LoginAnswer {
                token,
                expires_at: expires_at.to_rfc3339(),
                refresh_token: refresh_token.expose().to_owned(),
                refresh_expires_at: session_ends,
                user,
            }))
        }
        Issued::Cookie(cookie) => {
            let session_id = session.to_string();
            let answer = CookieLoginAnswer { session_id, expires_at: session_ends, user };
            with_cookie(HttpResponse::Ok().json(answer), &cookie, app)
        }
    }
}

/// The user who has logged in.
#[derive(Serialize, ToSchema)]
pub(super) struct LoginUser {
    #[schema(value_type = id::UserId)]
    id: String,
    email: String,
    username: String,
    /// `user` or `admin`
    #[schema(pattern = "^(user|admin)$")]
    role: &'static str,
}

impl From<User> for LoginUser {
    fn from(user: User) -> Self {
        LoginUser {
            id: user.id.to_string(),
            email: user.email,
            username: user.username,
            role: user.role.name(),
        }
    }
}

/// Logs a user in, or asks for a code if they have switched on two-factor authentication.
#[utoipa::path(post, path = "/api/auth/login", tag = "auth", request_body = LoginBody, responses(
    (status = 200, description = "Logged in, or a code is to follow", body = LoginOutcome),
    (status = 400, description = "The cookie is asked for with an Authorization header, or a field is wrong", body = ErrorBody),
    (status = 401, description = "The email or the password is wrong", body = ErrorBody),
    (status = 403, description = "The cookie is asked for by a page of another origin", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn login(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let LoginBody { email, password, session } = body.json()?;
    let kind = session.allowed(&request, &app)?;
    let device = device(&request, &app.trusted_proxies);
    let users = Arc::clone(&app.users);
    let logging_in = async move { users.log_in(&email, password, device, kind).await };
    match uncancelled(logging_in).await? {
        Login::In(outcome) => logged_in(*outcome, &app),
        Login::Challenge { token, expires_at } => Ok(HttpResponse::Ok().json(ChallengeAnswer {
            two_factor_required: true,
            challenge: token,
            expires_at: expires_at.to_rfc3339(),
        })),
    }
}

/// What a login comes to.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the document")]
pub(super) enum LoginOutcome {
    In(LoginAnswer),
    Cookie(CookieLoginAnswer),
    Challenge(ChallengeAnswer),
}

/// The password is right, and the user has switched two-factor authentication on.
#[derive(Serialize, ToSchema)]
pub(super) struct ChallengeAnswer {
    /// `true`
    two_factor_required: bool,
    /// To be sent with a code to `POST /api/auth/login/2fa`.
    challenge: String,
    /// When the challenge ends.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A renewal of a session.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct RefreshBody {
    /// From the login, or from the last renewal.
    #[schema(example = "psr_...", pattern = "^[!-~]+$")]
    refresh_token: String,
}

/// Renews a session. A refresh token that comes a second time ends its session.
#[utoipa::path(post, path = "/api/auth/refresh", tag = "auth", request_body = RefreshBody, responses(
    (status = 200, description = "Renewed", body = LoginAnswer),
    (status = 401, description = "Not a refresh token of a session that goes on", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn refresh(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let RefreshBody { refresh_token } = body.json()?;
    let device = device(&request, &app.trusted_proxies);
    let users = Arc::clone(&app.users);
    let renewing = async move { users.refresh(&refresh_token, device).await };
    logged_in(uncancelled(renewing).await?, &app)
}

/// Who asks, proved once more: the password or a code.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct ConfirmBody {
    #[schema(format = Password)]
    password: Option<String>,
    /// Six digits from the authenticator, or a recovery code.
    #[schema(example = "123456")]
    code: Option<String>,
}

/// A confirmed session.
#[derive(Serialize, ToSchema)]
pub(super) struct ConfirmAnswer {
    message: &'static str,
    /// Until when the proof counts.
    #[schema(format = DateTime)]
    confirmed_until: String,
}

/// Confirms this session by a fresh proof, for ten minutes unless the operator has set otherwise.
/// Some requests need it. A login is such a proof as well; a renewal of the session is not.
#[utoipa::path(post, path = "/api/auth/confirm", tag = "auth", security(("jwt" = [])),
    request_body = ConfirmBody, responses(
    (status = 200, description = "Confirmed", body = ConfirmAnswer),
    (status = 401, description = "No valid JWT, or the password or the code is wrong", body = ErrorBody),
    (status = 409, description = "A code, and two-factor authentication is not on", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn confirm(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    request: HttpRequest,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    check_attempt(&request, &app)?;
    let proof = match body.json()? {
        ConfirmBody { password: Some(password), code: None } => Proof::Password(password),
        ConfirmBody { password: None, code: Some(code) } => Proof::Code(code),
        _ => return Err(ApiError::field("password", "send either `password` or `code`")),
    };
    let confirming = async move { app.users.confirm(&current, proof, &device).await };
    let confirmed_until = uncancelled(confirming).await?.to_rfc3339();
    let message = "The session is confirmed";
    Ok(HttpResponse::Ok().json(ConfirmAnswer { message, confirmed_until }))
}

/// What was done.
#[derive(Serialize, ToSchema)]
pub(super) struct LogoutAnswer {
    message: &'static str,
    /// How many sessions have ended.
    sessions_ended: u64,
}

/// Ends this session, for the very next request. A browser forgets its cookie.
#[utoipa::path(post, path = "/api/auth/logout", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "Ended", body = LogoutAnswer),
))]
pub(super) async fn logout(
    current: CurrentSession,
    app: Data<App>,
    device: Device,
) -> Result<HttpResponse, ApiError> {
    let CurrentSession { user, session, kind, .. } = current;
    let users = Arc::clone(&app.users);
    let ending = async move { users.log_out(user.id, session, &device).await };
    match uncancelled(ending).await {
        // Ended meanwhile: that is what was asked for.
        Ok(()) | Err(UsersError::NoSession) => {}
        Err(error) => return Err(error.into()),
    }
    let message = "This session has ended";
    let answer = HttpResponse::Ok().json(LogoutAnswer { message, sessions_ended: 1 });
    without_cookie(answer, kind, &app)
}

/// Ends every session of the user, for the very next request. Needs a confirmed session.
#[utoipa::path(post, path = "/api/auth/logout-all", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "Ended", body = LogoutAnswer),
    (status = 403, description = "The session must be confirmed first", body = ErrorBody),
))]
pub(super) async fn logout_all(
    current: CurrentSession,
    app: Data<App>,
    device: Device,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_confirmed(&current)?;
    let (user, kind, users) = (current.user, current.kind, Arc::clone(&app.users));
    let ending = async move { users.log_out_everywhere(user.id, &device).await };
    let sessions_ended = uncancelled(ending).await?;
    let message = "Every session has ended";
    let answer = HttpResponse::Ok().json(LogoutAnswer { message, sessions_ended });
    without_cookie(answer, kind, &app)
}

/// A session, as its user sees it.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionBody {
    #[schema(value_type = id::SessionId)]
    id: String,
    /// Is it the one that asks?
    is_current: bool,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was begun or last renewed.
    #[schema(format = DateTime)]
    last_used_at: String,
    /// When it ends, unless it is renewed before.
    #[schema(format = DateTime)]
    expires_at: String,
    /// The address that it was begun or last renewed from.
    address: String,
    /// What its client called itself.
    user_agent: String,
    /// `token`, or `cookie` of a browser.
    #[schema(pattern = "^(token|cookie)$")]
    kind: &'static str,
}

impl SessionBody {
    pub(super) fn new(session: SessionListing, current: SessionId) -> Self {
        SessionBody {
            is_current: session.id == current,
            id: session.id.to_string(),
            created_at: session.created_at.to_rfc3339(),
            last_used_at: session.last_used_at.to_rfc3339(),
            expires_at: session.expires_at.to_rfc3339(),
            address: session.address,
            user_agent: session.agent,
            kind: if session.is_by_cookie { "cookie" } else { "token" },
        }
    }
}

/// The user's sessions, the last used one first.
#[utoipa::path(get, path = "/api/auth/sessions", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "The sessions", body = Vec<SessionBody>),
))]
pub(super) async fn sessions(
    current: CurrentSession,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let sessions = app.users.sessions_of(current.user.id).await?;
    let bodies = sessions.into_iter().map(|session| SessionBody::new(session, current.session));
    Ok(HttpResponse::Ok().json(bodies.collect::<Vec<_>>()))
}

/// Ends one session of the user, for the very next request. If it is another one than this, this
/// one needs to be confirmed.
#[utoipa::path(delete, path = "/api/auth/sessions/{id}", tag = "auth", security(("jwt" = [])),
    params(("id" = id::SessionId, Path)), responses(
    (status = 204, description = "Ended"),
    (status = 403, description = "This session must be confirmed first", body = ErrorBody),
    (status = 404, description = "No such session", body = ErrorBody),
))]
pub(super) async fn end_session(
    current: CurrentSession,
    app: Data<App>,
    device: Device,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let session: SessionId = id.parse().map_err(|_| ApiError::NotFound("session"))?;
    if session != current.session {
        app.users.assert_confirmed(&current)?;
    }
    let is_own = session == current.session;
    let (user, users) = (current.user, Arc::clone(&app.users));
    let ending = async move { users.log_out(user.id, session, &device).await };
    uncancelled(ending).await?;
    let kind = if is_own { current.kind } else { SessionKind::Token };
    without_cookie(HttpResponse::NoContent().finish(), kind, &app)
}

/// The user who is logged in.
#[utoipa::path(get, path = "/api/auth/me", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "The user", body = UserBody),
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
    /// A new JWT, since every older one has ended. Absent if the session is by cookie: the answer
    /// sets a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Renews the new session. Absent if the session is by cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// Changes the password and ends every other session.
#[utoipa::path(post, path = "/api/auth/change-password", tag = "auth", security(("jwt" = [])),
    request_body = ChangePasswordBody, responses(
    (status = 200, description = "Changed", body = ChangePasswordAnswer),
    (status = 401, description = "No valid JWT, or the current password is wrong", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn change_password(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let ChangePasswordBody { current_password, new_password } = body.json()?;
    let users = Arc::clone(&app.users);
    let changing =
        async move { users.change_password(current, current_password, new_password, device).await };
    let LoggedIn { issued, .. } = uncancelled(changing).await?;
    let message = "The password was changed; every other session has ended";
    match issued {
        Issued::Tokens { token, refresh_token, .. } => {
            let (token, refresh_token) = (Some(token), Some(refresh_token.expose().to_owned()));
            Ok(HttpResponse::Ok().json(ChangePasswordAnswer { message, token, refresh_token }))
        }
        Issued::Cookie(cookie) => {
            let answer = ChangePasswordAnswer { message, token: None, refresh_token: None };
            with_cookie(HttpResponse::Ok().json(answer), &cookie, &app)
        }
    }
}

/// As [`check_address`], for requests that carry a proof of identity: each counts as an attempt.
pub(super) fn check_attempt(request: &HttpRequest, app: &App) -> Result<(), ApiError> {
    check_address(request, app)?;
    let address = client_address(request, &app.trusted_proxies);
    app.users.throttle.try_from(address).map_err(|error| UsersError::from(error).into())
}
