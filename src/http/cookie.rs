//! The session cookie of a browser. It opens what an account holder and an operator do, and never
//! a paid call. A browser sends it unasked, also for the page of somebody else; so it counts only
//! where the browser says that the page is this server's own.

use actix_web::http::header::{
    AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SET_COOKIE,
};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::error::ApiError;
use super::extract::uses_tls;
use crate::auth::cookie::SessionCookie;
use crate::auth::sessions::SessionKind;

/// Says, in every browser since 2023, whose page a request is of (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
/// What the cookie opens, with everything below it. No paid route is among it.
const OPENS: [&str; 9] = [
    "/api/admin",
    "/api/auth",
    "/api/console",
    "/api/keys",
    "/api/models",
    "/api/monitoring",
    "/api/payments",
    "/api/pricing",
    "/api/webhooks",
];

/// How the cookie is set, and which pages may use it.
pub struct CookieRules {
    /// The scheme, name and port by which customers reach this server.
    pub public_url: Option<String>,
    /// Is it sent over TLS alone? Browsers take this machine for secure.
    pub is_secure: bool,
}

impl CookieRules {
    /// A browser takes `__Host-` only with `Secure`, for this very host and the whole of it.
    fn name(&self) -> &'static str {
        if self.is_secure { "__Host-polysystems" } else { "polysystems" }
    }

    fn header(&self, value: &str, seconds: i64) -> Result<HeaderValue, ApiError> {
        let secure = if self.is_secure { " Secure;" } else { "" };
        let name = self.name();
        let text =
            format!("{name}={value}; Path=/;{secure} HttpOnly; SameSite=Strict; Max-Age={seconds}");
        HeaderValue::from_str(&text).map_err(|_| ApiError::Internal)
    }

    /// The value of `Set-Cookie` that gives a browser the cookie for so long.
    ///
    /// # Errors
    /// [`ApiError::Internal`] if it is no value of a header, which it always is.
    pub(super) fn set(
        &self,
        cookie: &SessionCookie,
        seconds: i64,
    ) -> Result<HeaderValue, ApiError> {
        self.header(cookie.expose(), seconds)
    }

    /// The value of `Set-Cookie` that takes it away.
    ///
    /// # Errors
    /// As of [`CookieRules::set`].
    pub(super) fn unset(&self) -> Result<HeaderValue, ApiError> {
        self.header("", 0)
    }
}

/// The answer that begins a session of a browser.
///
/// # Errors
/// As of [`CookieRules::set`].
pub(super) fn with_cookie(
    mut response: HttpResponse,
    cookie: &SessionCookie,
    app: &App,
) -> Result<HttpResponse, ApiError> {
    let value = app.cookies.set(cookie, app.users.cookie_seconds())?;
    response.headers_mut().append(SET_COOKIE, value);
    Ok(response)
}

/// The answer to a request that has ended its own session: the browser forgets the cookie, and
/// what it has kept of the account.
///
/// # Errors
/// As of [`CookieRules::set`].
pub(super) fn without_cookie(
    mut response: HttpResponse,
    kind: SessionKind,
    app: &App,
) -> Result<HttpResponse, ApiError> {
    if kind == SessionKind::Cookie {
        let headers = response.headers_mut();
        headers.append(SET_COOKIE, app.cookies.unset()?);
        headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\", \"storage\""));
    }
    Ok(response)
}

/// What a login asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SessionName {
    /// A JWT and a refresh token, for programs.
    #[default]
    Token,
    /// A cookie, for pages of this server.
    Cookie,
}

impl SessionName {
    /// The kind of session that a login begins.
    ///
    /// # Errors
    /// [`ApiError::TwoCredentials`] or [`ApiError::CrossOrigin`]: nobody may log a browser of
    /// somebody else in.
    pub(super) fn allowed(self, request: &HttpRequest, app: &App) -> Result<SessionKind, ApiError> {
        if self == SessionName::Token {
            return Ok(SessionKind::Token);
        }
        if request.headers().contains_key(AUTHORIZATION) {
            return Err(ApiError::TwoCredentials);
        }
        assert_same_origin(request, app)?;
        Ok(SessionKind::Cookie)
    }
}

/// The text of a request's session cookie, on a path that it opens.
///
/// # Errors
/// [`ApiError::TwoCredentials`] beside an `Authorization` header; [`ApiError::InvalidSession`] if
/// there are two, of which one may be somebody else's.
pub(super) fn session_cookie(request: &HttpRequest, app: &App) -> Result<Option<String>, ApiError> {
    if !opens(request.path()) {
        return Ok(None);
    }
    let mut values = values(request.headers(), app.cookies.name());
    let Some(value) = values.next() else { return Ok(None) };
    if request.headers().contains_key(AUTHORIZATION) {
        return Err(ApiError::TwoCredentials);
    }
    if values.next().is_some() {
        return Err(ApiError::InvalidSession);
    }
    Ok(Some(value.to_owned()))
}

/// Does the request have a cookie that this server has made? Whether its session goes on is seen
/// later.
pub(super) fn has_own_cookie(request: &HttpRequest, app: &App) -> bool {
    let cookie = session_cookie(request, app).ok().flatten();
    cookie.is_some_and(|cookie| app.users.cookies.read(&cookie).is_some())
}

fn opens(path: &str) -> bool {
    OPENS.iter().any(|opened| {
        path.strip_prefix(opened).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The values of the cookies of this name.
fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let texts = headers.get_all(COOKIE).filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(own, _)| own.trim() == name).map(|(_, value)| value.trim())
}

/// Is the request of a page of this server? A form can be sent by any page, but not as JSON; and a
/// page at another port of this host, which is sent the cookie, is told apart by the browser.
///
/// # Errors
/// [`ApiError::CrossOrigin`]
pub(super) fn assert_same_origin(request: &HttpRequest, app: &App) -> Result<(), ApiError> {
    let headers = request.headers();
    let is_json = one(headers, CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    });
    let is_own = match one(headers, SEC_FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => !headers.contains_key(SEC_FETCH_SITE) && has_own_origin(request, app),
    };
    if is_json && is_own { Ok(()) } else { Err(ApiError::CrossOrigin) }
}

/// What an old browser says: `Origin` is where customers reach this server, or the host that it
/// asks.
fn has_own_origin(request: &HttpRequest, app: &App) -> bool {
    let headers = request.headers();
    let Some(origin) = one(headers, ORIGIN) else { return false };
    if app.cookies.public_url.as_deref() == Some(origin) {
        return true;
    }
    let Some(host) = one(headers, HOST).filter(|host| !host.is_empty()) else { return false };
    let is_of = |scheme: &str| {
        origin.strip_prefix(scheme).is_some_and(|name| name.eq_ignore_ascii_case(host))
    };
    is_of("https://") || (is_of("http://") && !uses_tls(request, app))
}

/// The value of a header that is there once.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name);
    let value = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::route_group::RouteGroup;

    #[test]
    fn the_cookie_opens_no_paid_route() {
        for group in RouteGroup::ALL {
            for path in group.paths() {
                assert!(!opens(path) && !opens(&format!("{path}/x")), "{path}");
            }
        }
        for (path, is_opened) in [
            ("/api/keys", true),
            ("/api/keys/key-1", true),
            ("/api/keysmith", false),
            ("/api", false),
            ("/", false),
            ("/v1/chat/completions", false),
            ("/health/live", false),
        ] {
            assert_eq!(opens(path), is_opened, "{path}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; polysystems=x ;b=2"));
        headers.append(COOKIE, HeaderValue::from_static("__Host-polysystems=y; xpolysystems=z"));
        let found = |name| values(&headers, name).collect::<Vec<_>>();
        assert_eq!(found("polysystems"), ["x"]);
        assert_eq!(found("__Host-polysystems"), ["y"]);
        assert_eq!(found("c"), [""; 0]);
    }
}
