//! Extractors: a body, a user. actix-web runs the extractors of a handler concurrently, so an
//! extractor must not make a decision whose order matters: a body is read here, but checked only
//! when the handler asks for it.

use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::Version;
use actix_web::http::header::{AUTHORIZATION, HOST, USER_AGENT};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use bytes::Bytes;
use garde::Validate;
use serde::de::DeserializeOwned;

use super::App;
use super::error::{ApiError, FieldError};
use super::origin::{forwarded_address, is_loopback_host, is_of_proxy};
use super::places::{body_of, step_in};
use crate::auth::users::{CurrentSession, Device, UsersError};
use crate::json::Object;
use crate::json::printable::{Printable, may_have_control_characters};
use crate::store::users::{Role, User};
use domain::{Actor, Origin, Refusal, UserId};

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

pub(crate) fn app(request: &HttpRequest) -> Result<Data<App>, ApiError> {
    request.app_data::<Data<App>>().cloned().ok_or(ApiError::Internal)
}

/// The whole body of a request, whatever its Content-Type, or why it could not be read.
pub(crate) struct Body(Result<Bytes, ApiError>);

impl Body {
    /// The bytes.
    ///
    /// # Errors
    /// Why it could not be read.
    pub(crate) fn bytes(self) -> Result<Bytes, ApiError> {
        self.0
    }

    /// The bytes as they came; empty if they could not be read.
    pub(crate) fn raw(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The body as JSON of a known shape.
    ///
    /// # Errors
    /// [`ApiError::BadJson`] or [`ApiError::Validation`]
    pub(crate) fn json<T>(self) -> Result<T, ApiError>
    where
        T: DeserializeOwned + Validate<Context = ()>,
    {
        let bytes = self.0?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let Object(value) = read_json::<_, Object<T>>(&mut reader)?;
        reader.end().map_err(|error| ApiError::BadJson(error.to_string()))?;
        // Texts are stored and sent on, and not every database and header takes these.
        if may_have_control_characters(&bytes) {
            read_json::<_, Printable>(&mut serde_json::Deserializer::from_slice(&bytes))?;
        }
        value.validate().map_err(|report| {
            let details = report.iter().map(|(path, error)| FieldError {
                field: path.to_string(),
                message: error.message().to_owned(),
            });
            ApiError::Validation(details.collect())
        })?;
        Ok(value)
    }
}

impl Body {
    /// The same for a body that may be left out.
    ///
    /// # Errors
    /// As of [`Body::json`].
    pub(crate) fn json_or_nothing<T>(self) -> Result<Option<T>, ApiError>
    where
        T: DeserializeOwned + Validate<Context = ()>,
    {
        if matches!(&self.0, Ok(bytes) if matches!(bytes.trim_ascii(), b"" | b"null")) {
            return Ok(None);
        }
        self.json().map(Some)
    }
}

fn read_json<'de, R, T>(reader: &mut serde_json::Deserializer<R>) -> Result<T, ApiError>
where
    R: serde_json::de::Read<'de>,
    T: serde::Deserialize<'de>,
{
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let path = error.path().to_string();
        unreadable(&path, error.inner())
    })
}

/// The error for JSON that is malformed or has a wrong field.
fn unreadable(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    if !error.is_data() {
        return ApiError::BadJson(text);
    }
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    // "missing field `name`" and "unknown field `role`, ..." name the field themselves.
    let (is_missing, is_unknown) =
        (message.starts_with("missing field `"), message.starts_with("unknown field `"));
    let named = message.split('`').nth(1).filter(|_| is_missing || is_unknown);
    let message = if is_missing {
        "is missing".to_owned()
    } else if is_unknown {
        "is not known".to_owned()
    } else {
        without_value(message)
    };
    let field = match (path, named) {
        ("." | "", Some(named)) => named,
        ("." | "", None) => return ApiError::BadJson(message),
        (path, _) => path,
    };
    ApiError::Validation(vec![FieldError { field: field.to_owned(), message }])
}

/// serde's message without the value that was sent: it may be a secret in the wrong place, and
/// answers get logged.
fn without_value(message: &str) -> String {
    let repeats = ["invalid ", "unknown variant "].iter().any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ").filter(|_| repeats) {
        Some((_, expected)) => format!("must be {expected}"),
        None if repeats => "is not valid".to_owned(),
        None => message.to_owned(),
    }
}

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Boxed<Self>;

    /// The request has no place while its body is on its way.
    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let mut payload = payload.take();
        let request = request.clone();
        Box::pin(async move {
            let app = app(&request)?;
            let of = body_of(&request);
            let body = app.bodies.receive(&request, &mut payload, of, None).await;
            step_in(&request, &app)?;
            Ok(Body(body))
        })
    }
}

/// The bearer of the `Authorization` header.
pub(crate) fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

impl FromRequest for CurrentSession {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let token = bearer(request).map(str::to_owned);
        let app = app(request);
        let request = request.clone();
        Box::pin(async move {
            let (token, app) = (token.ok_or(ApiError::MissingSession)?, app?);
            let limits = &app.gateway.rate_limits;
            let limited = |retry_after| ApiError::from(Refusal::RateLimited { retry_after });
            let is_read = request.method().is_safe();
            if is_read {
                // Before the database is asked for the session.
                let address = client_address(&request, &app.trusted_proxies);
                limits.check_address_read(address, app.clock.now()).map_err(limited)?;
            }
            let current = app.users.authenticate(&token).await;
            if let Err(UsersError::InvalidSession) = current {
                // Guesses count as requests without a login do.
                check_address(&request, &app)?;
            }
            let current = current?;
            let checked = if is_read {
                limits.check_read(current.session, app.clock.now())
            } else {
                limits.check_change(current.user.id, app.clock.now())
            };
            checked.map_err(limited)?;
            Ok(current)
        })
    }
}

/// The user of a request's session token.
pub(crate) struct SessionUser(pub User);

impl FromRequest for SessionUser {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let current = CurrentSession::from_request(request, payload);
        Box::pin(async move { Ok(SessionUser(current.await?.user)) })
    }
}

/// The user of a request's session token, with the origin that the audit log records.
pub(crate) struct AuditedUser {
    /// The user.
    pub user: User,
    /// The origin.
    pub origin: Origin,
}

impl FromRequest for AuditedUser {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let user = SessionUser::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let SessionUser(user) = user.await?;
            let app = app(&request)?;
            let origin = user_origin(&request, &app, user.id);
            Ok(AuditedUser { user, origin })
        })
    }
}

impl FromRequest for Device {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(app(request).map(|app| device(request, &app.trusted_proxies)))
    }
}

/// The operator who asks, with the origin that the audit log records.
pub(crate) struct AdminUser {
    /// The operator.
    pub id: UserId,
    /// The origin.
    pub origin: Origin,
    /// Have they proved a short while ago who they are?
    pub is_confirmed: bool,
}

impl FromRequest for AdminUser {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let current = CurrentSession::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let current = current.await?;
            if current.user.role != Role::Admin {
                return Err(ApiError::AccessDenied);
            }
            let app = app(&request)?;
            app.users.assert_operators_factor(&current.user)?;
            let id = current.user.id;
            let origin = device(&request, &app.trusted_proxies).origin(Actor::Operator(id));
            let is_confirmed = app.users.assert_confirmed(&current).is_ok();
            Ok(AdminUser { id, origin, is_confirmed })
        })
    }
}

/// An operator who has proved a short while ago who they are.
pub(crate) struct ConfirmedAdmin(pub(crate) AdminUser);

impl FromRequest for ConfirmedAdmin {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let operator = AdminUser::from_request(request, payload);
        Box::pin(async move {
            let operator = operator.await?;
            if operator.is_confirmed {
                Ok(ConfirmedAdmin(operator))
            } else {
                Err(ApiError::NotConfirmed)
            }
        })
    }
}

/// Longest user agent that is recorded, in characters.
const AGENT_MAX: usize = 200;

/// The device that a request comes from, as its user sees it.
pub(crate) fn device(request: &HttpRequest, trusted: &[IpAddr]) -> Device {
    let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.unwrap_or_default().chars().filter(|c| !c.is_control()).take(AGENT_MAX);
    Device { address: client_address(request, trusted), agent: agent.collect() }
}

/// The origin of a user's request, for the audit log.
pub(crate) fn user_origin(request: &HttpRequest, app: &App, user: UserId) -> Origin {
    device(request, &app.trusted_proxies).origin(Actor::User(user))
}

/// Did the request come from a program of this machine, without a proxy? A proxy tells by its
/// headers, or by the public name that it passes on; one that adds nothing may speak HTTP/1.0, as
/// nginx before 1.29.7 does unasked. A proxy with none of these signs is not seen.
pub(crate) fn is_direct(request: &HttpRequest) -> bool {
    let is_ours = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let mut hosts = request.headers().get_all(HOST).map(|host| host.to_str().unwrap_or_default());
    let has_own_name = hosts.next().is_some_and(is_loopback_host)
        && hosts.all(is_loopback_host)
        && request.uri().host().is_none_or(is_loopback_host);
    is_ours
        && has_own_name
        && request.version() > Version::HTTP_10
        && !request.headers().keys().any(|name| is_of_proxy(name.as_str()))
}

/// The rate limit of an address applies to requests without a login as well.
///
/// # Errors
/// [`Refusal::RateLimited`]
pub(crate) fn check_address(request: &HttpRequest, app: &App) -> Result<(), ApiError> {
    let address = client_address(request, &app.trusted_proxies);
    let checked = app.gateway.rate_limits.check_address(address, app.clock.now());
    match checked {
        Ok(_) => Ok(()),
        Err((_, retry_after)) => Err(Refusal::RateLimited { retry_after }.into()),
    }
}

/// The address of the client: the peer, or what a trusted proxy forwards.
pub(crate) fn client_address(request: &HttpRequest, trusted: &[IpAddr]) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    let peer = request.peer_addr().map_or(unknown, |address| address.ip().to_canonical());
    let forwarded = request.headers().get_all("x-forwarded-for");
    let forwarded = forwarded.filter_map(|value| value.to_str().ok());
    forwarded_address(peer, forwarded, trusted)
}
