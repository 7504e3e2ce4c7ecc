//! Security headers for browsers (OWASP Secure Headers; ASVS 5, V3.4), and the origins that may
//! read answers (CORS).

use actix_cors::Cors;
use actix_web::http::Method;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// Answers are not pages.
const NOTHING: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
/// The documentation is one, with its own scripts and styles.
const OWN: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'none'",
);
/// Two years: so long a browser that has used TLS uses only TLS.
const ONLY_TLS: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// Adds the headers to an answer. Headers that it already has stay.
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
        // Answers are private to their user.
        add(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if is_tls {
        add(STRICT_TRANSPORT_SECURITY, ONLY_TLS);
    }
}

/// Lets pages of the origins in the settings read answers; without any, no other origin can.
/// Cookies are never used: a JWT or a key is a header that the page itself sets.
pub fn cors(origins: &[String]) -> Cors {
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let cors = Cors::default().allowed_methods(methods).allow_any_header().expose_any_header();
    let cors = cors.max_age(600);
    origins.iter().fold(cors, |cors, origin| match origin.as_str() {
        "*" => cors.allow_any_origin(),
        origin => cors.allowed_origin(origin),
    })
}
