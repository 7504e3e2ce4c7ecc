//! Extractors: a body, a user. actix-web runs the extractors of a handler concurrently, so an
//! extractor must not make a decision whose order matters: a body is read here, but checked only
//! when the handler asks for it.

use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::Version;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use bytes::Bytes;
use futures_util::FutureExt as _;
use garde::Validate;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::App;
use super::bodies::discard;
use super::cookie::{assert_same_origin, session_cookie};
use super::error::{ApiError, FieldError};
use super::origin::{NOBODY, forwarded_address, is_listed, is_loopback_host, is_of_proxy};
use super::places::{body_of, step_in};
use crate::auth::cookie::SessionCookie;
use crate::auth::session::Session;
use crate::auth::sessions::CurrentSession;
use crate::auth::users::{Device, UsersError};
use crate::json::Object;
use crate::json::fault::without_value;
use crate::json::printable::{Printable, may_have_control_characters};
use crate::json::strict::Strict;
use crate::pipeline::BodyOf;
use crate::store::users::{Role, User};
use domain::{Actor, Origin, Refusal, SessionId, UserId};

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
    /// The body as any JSON in which no object names a field twice.
    ///
    /// # Errors
    /// [`ApiError::BadJson`] or [`ApiError::Validation`]
    pub(crate) fn value(self) -> Result<Value, ApiError> {
        let bytes = self.0?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let Strict(value) = read_json::<_, Strict>(&mut reader)?;
        reader.end().map_err(|error| ApiError::BadJson(error.to_string()))?;
        if may_have_control_characters(&bytes) {
            read_json::<_, Printable>(&mut serde_json::Deserializer::from_slice(&bytes))?;
        }
        Ok(value)
    }

    /// As [`Body::json`], for a body that may be left out.
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

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        Body::receive(request, payload, body_of(request))
    }
}

impl Body {
    /// The request has no place while its body is on its way.
    fn receive(request: &HttpRequest, payload: &mut Payload, of: BodyOf) -> Boxed<Self> {
        let mut payload = payload.take();
        let request = request.clone();
        Box::pin(async move {
            let app = app(&request)?;
            let body = app.bodies.receive(&request, &mut payload, of, None).await;
            step_in(&request, &app)?;
            Ok(Body(body))
        })
    }
}

/// Who asks, and then the body: it is not read before it is known that they may ask. If it takes
/// time, who asks is looked up again once it is there, because their session may have ended or
/// their rights have changed meanwhile.
pub(crate) struct WithBody<S>(pub S, pub Body);

/// An operator, and then a file of theirs, which may be larger than other bodies. As [`WithBody`].
pub(crate) struct WithFile(pub ConfirmedAdmin, pub Body);

/// An operator, and then a document of theirs: of the catalogue, or of prices. As [`WithFile`].
pub(crate) struct WithDocument(pub ConfirmedAdmin, pub Body);

/// Marks a request whose session has been counted by the rate limits.
struct Counted;

impl<S> FromRequest for WithBody<S>
where
    S: FromRequest<Error = ApiError> + 'static,
    S::Future: 'static,
{
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let both = ask_and_receive(request, payload, body_of(request));
        Box::pin(async move { both.await.map(|(asks, body)| WithBody(asks, body)) })
    }
}

impl FromRequest for WithFile {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let both = ask_and_receive(request, payload, BodyOf::Operator);
        Box::pin(async move { both.await.map(|(asks, body)| WithFile(asks, body)) })
    }
}

impl FromRequest for WithDocument {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let both = ask_and_receive(request, payload, BodyOf::Document);
        Box::pin(async move { both.await.map(|(asks, body)| WithDocument(asks, body)) })
    }
}

/// See [`WithBody`].
fn ask_and_receive<S>(
    request: &HttpRequest,
    payload: &mut Payload,
    of: BodyOf,
) -> impl Future<Output = Result<(S, Body), ApiError>> + use<S>
where
    S: FromRequest<Error = ApiError> + 'static,
    S::Future: 'static,
{
    let asking = S::from_request(request, &mut Payload::None);
    let (request, mut payload) = (request.clone(), payload.take());
    async move {
        match asking.await {
            Ok(asks) => {
                let mut reading = Body::receive(&request, &mut payload, of);
                if let Some(body) = (&mut reading).now_or_never() {
                    return Ok((asks, body?));
                }
                let body = reading.await?;
                let asks = S::from_request(&request, &mut Payload::None).await?;
                Ok((asks, body))
            }
            Err(error) => {
                discard(&request, &mut payload).await;
                Err(error)
            }
        }
    }
}

/// The bearer of the `Authorization` header.
pub(crate) fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// What a request names its session by.
enum Named {
    Token(Session),
    Cookie(SessionCookie),
}

impl Named {
    /// Reads the text of a token or a cookie.
    fn read(text: &Given, app: &App) -> Result<Self, UsersError> {
        match text {
            Given::Token(token) => app.users.read_session(token).map(Named::Token),
            Given::Cookie(cookie) => {
                let cookie = app.users.cookies.read(cookie);
                cookie.map(Named::Cookie).ok_or(UsersError::InvalidSession)
            }
        }
    }

    /// What its requests are counted by before the database is asked.
    fn counted_as(&self) -> SessionId {
        match self {
            Named::Token(session) => session.id,
            Named::Cookie(cookie) => {
                let digest = cookie.digest();
                let beginning = digest.first_chunk().copied().unwrap_or_default();
                SessionId(Uuid::from_bytes(beginning))
            }
        }
    }
}

/// The text that a request gives for its session.
enum Given {
    Token(String),
    Cookie(String),
}

impl Given {
    fn of(request: &HttpRequest, app: &App) -> Result<Self, ApiError> {
        if let Some(cookie) = session_cookie(request, app)? {
            if !request.method().is_safe() {
                assert_same_origin(request, app)?;
            }
            return Ok(Given::Cookie(cookie));
        }
        bearer(request).map(|token| Given::Token(token.to_owned())).ok_or(ApiError::MissingSession)
    }
}

impl FromRequest for CurrentSession {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let app = app(request);
        let request = request.clone();
        Box::pin(async move {
            let app = app?;
            let given = Given::of(&request, &app)?;
            let is_counted = request.extensions().contains::<Counted>();
            let is_read = request.method().is_safe();
            let limits = &app.gateway.rate_limits;
            let limited = |retry_after| ApiError::from(Refusal::RateLimited { retry_after });
            // Before the database is asked: a token may be of a session that has ended.
            if !is_counted {
                if is_read {
                    let address = client_address(&request, &app.trusted_proxies);
                    limits.check_address_read(address, app.clock.now()).map_err(limited)?;
                } else {
                    check_address(&request, &app)?;
                }
            }
            let read = Named::read(&given, &app);
            if let (Err(UsersError::InvalidSession), true) = (&read, is_read) {
                // Guesses count as requests without a login do.
                check_address(&request, &app)?;
            }
            let named = read?;
            if !is_counted {
                let (now, counted) = (app.clock.now(), named.counted_as());
                let checked = if is_read {
                    limits.check_read(counted, now)
                } else {
                    limits.check_session_change(counted, now)
                };
                checked.map_err(limited)?;
            }
            let current = match named {
                Named::Token(session) => app.users.authenticate(session).await?,
                Named::Cookie(cookie) => {
                    let device = device(&request, &app.trusted_proxies);
                    app.users.authenticate_by_cookie(&cookie, &device).await?
                }
            };
            if !is_counted {
                if !is_read {
                    let user = current.user.id;
                    limits.check_change(user, app.clock.now()).map_err(limited)?;
                }
                request.extensions_mut().insert(Counted);
            }
            Ok(current)
        })
    }
}

/// A session whose user has proved a short while ago who they are.
pub(crate) struct ConfirmedSession(pub CurrentSession);

impl FromRequest for ConfirmedSession {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let current = CurrentSession::from_request(request, payload);
        let app = app(request);
        Box::pin(async move {
            let current = current.await?;
            app?.users.assert_confirmed(&current)?;
            Ok(ConfirmedSession(current))
        })
    }
}

/// The user of a request's session.
pub(crate) struct SessionUser(pub User);

impl FromRequest for SessionUser {
    type Error = ApiError;
    type Future = Boxed<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let current = CurrentSession::from_request(request, payload);
        Box::pin(async move { Ok(SessionUser(current.await?.user)) })
    }
}

/// The user of a request's session, with the origin that the audit log records.
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
    /// Their session.
    pub session: SessionId,
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
            let session = current.session;
            Ok(AdminUser { id, origin, session, is_confirmed })
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
    let address = client_address(request, trusted);
    Device { address, agent: agent.collect(), is_place: address != NOBODY }
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

/// Does the client use TLS: to this server, or to a trusted proxy that says so?
pub(crate) fn uses_tls(request: &HttpRequest, app: &App) -> bool {
    let says_so =
        || request.headers().get("x-forwarded-proto").is_some_and(|value| value == "https");
    app.is_tls
        || request.peer_addr().is_some_and(|peer| is_listed(peer.ip(), &app.trusted_proxies))
            && says_so()
}

/// The address of the client: the peer, or what a trusted proxy forwards.
pub(crate) fn client_address(request: &HttpRequest, trusted: &[IpAddr]) -> IpAddr {
    let peer = request.peer_addr().map_or(NOBODY, |address| address.ip().to_canonical());
    let forwarded = request.headers().get_all("x-forwarded-for");
    forwarded_address(peer, forwarded.map(HeaderValue::as_bytes), trusted)
}
