//! Security headers for browsers (OWASP Secure Headers; ASVS 5, V3.4), and the origins that may
//! read answers (CORS).

use actix_cors::Cors;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::http::{Method, StatusCode};

/// The version of the server, and so of the API.
const VERSION: HeaderName = HeaderName::from_static("polysystems-version");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// Answers are not pages.
const NOTHING: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
/// The documentation is one, with its own scripts and styles.
const OWN: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'none'",
);
/// The console is one, with scripts and styles in files of its own. None can be written into it.
const CONSOLE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'",
);
/// Two years: so long a browser that has used TLS uses only TLS.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000");
const HSTS_OF_SUBDOMAINS: HeaderValue =
    HeaderValue::from_static("max-age=63072000; includeSubDomains");

/// The value of `Strict-Transport-Security`.
#[must_use]
pub fn hsts(of_subdomains: bool) -> HeaderValue {
    if of_subdomains { HSTS_OF_SUBDOMAINS } else { HSTS }
}

/// What an answer is, for browsers and caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Data of who asks, or an error. No page.
    Data,
    /// A document that says itself how it may be kept.
    Document,
    /// A page of the documentation, or a part of one, with its own scripts and styles.
    Page,
    /// A page or a file of the console. It says itself how long it may be kept.
    Console,
}

impl AnswerKind {
    /// What a path answers with this status.
    #[must_use]
    pub fn of(path: &str, status: StatusCode) -> Self {
        let is_given = status.is_success() || status == StatusCode::NOT_MODIFIED;
        if path.starts_with("/docs/") {
            AnswerKind::Page
        } else if is_given && path.starts_with("/console/") {
            AnswerKind::Console
        } else if is_given && matches!(path, "/api/openapi.json" | "/api/pricing") {
            AnswerKind::Document
        } else {
            AnswerKind::Data
        }
    }
}

/// Adds the headers that every answer has, and replaces those that it has already: an upstream's
/// answer is data, and sets no policy for the origin of this server. `hsts` is there if the client
/// uses TLS.
pub fn add_headers(headers: &mut HeaderMap, content: AnswerKind, hsts: Option<HeaderValue>) {
    let mut add = |name: HeaderName, value: HeaderValue| drop(headers.insert(name, value));
    add(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    add(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    add(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    add(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    add(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    add(
        CONTENT_SECURITY_POLICY,
        match content {
            AnswerKind::Data | AnswerKind::Document => NOTHING,
            AnswerKind::Page => OWN,
            AnswerKind::Console => CONSOLE,
        },
    );
    match content {
        // Answers are private to their user.
        AnswerKind::Data => add(CACHE_CONTROL, HeaderValue::from_static("no-store")),
        AnswerKind::Console => add(OPENER_POLICY, HeaderValue::from_static("same-origin")),
        AnswerKind::Document | AnswerKind::Page => {}
    }
    if let Some(hsts) = hsts {
        add(STRICT_TRANSPORT_SECURITY, hsts);
    }
}

/// Lets pages of the origins in the settings read answers; without any, no other origin can.
/// They never have the session cookie: a JWT or a key is a header that such a page itself sets.
pub fn cors(origins: &[String]) -> Cors {
    let methods =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let cors = Cors::default().allowed_methods(methods).allow_any_header().expose_any_header();
    let cors = cors.max_age(600);
    origins.iter().fold(cors, |cors, origin| match origin.as_str() {
        "*" => cors.allow_any_origin(),
        origin => cors.allowed_origin(origin),
    })
}
