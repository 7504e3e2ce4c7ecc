//! Headers that keep browsers from doing with an answer what nobody meant (OWASP, Secure Headers; ASVS 5, V3.4), and who
//! may read answers from other origins.

use actix_cors::Cors;
use actix_web::http::Method;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// No answer is a page.
const NOTHING: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
/// But for the documentation, which brings its own scripts and styles.
const OWN: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'none'",
);
/// How long a browser that was here over TLS comes back over TLS alone: two years.
const ONLY_TLS: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// Adds the headers to an answer; those that it has already stay.
pub fn add_headers(headers: &mut HeaderMap, is_documentation: bool, is_tls: bool) {
    let mut add = |name: HeaderName, value: HeaderValue| {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    };
    add(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    add(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    add(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    add(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    add(CONTENT_SECURITY_POLICY, if is_documentation { OWN } else { NOTHING });
    if !is_documentation {
        // What is answered is somebody's own.
        add(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if is_tls {
        add(STRICT_TRANSPORT_SECURITY, ONLY_TLS);
    }
}

/// Who may read answers from pages of other origins: those that are set, and nobody where none is. Credentials of the
/// browser are never taken: a JWT or a key is a header that the page itself sets.
pub fn cors(origins: &[String]) -> Cors {
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let cors = Cors::default().allowed_methods(methods).allow_any_header().expose_any_header();
    let cors = cors.max_age(600);
    origins.iter().fold(cors, |cors, origin| match origin.as_str() {
        "*" => cors.allow_any_origin(),
        origin => cors.allowed_origin(origin),
    })
}
