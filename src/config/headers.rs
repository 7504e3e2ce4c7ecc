//! The names of headers that an operator may add to those that pass to an upstream and back.

/// Headers that concern one connection only (RFC 9110, section 7.6.1), or the body as it is sent.
const OF_CONNECTION: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers of a request that we write, or that are secrets of the caller, or that would turn the
/// call into another one than was priced.
const OURS_IN_REQUESTS: [&str; 24] = [
    "accept-encoding",
    "api-key",
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "host",
    // Handled here. Another customer may use the same key.
    "idempotency-key",
    // The answer would be a part of what is paid for, or nothing.
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    // An x402 payment to us.
    "payment-signature",
    "range",
    "x-api-key",
    "x-dry-run",
    "x-goog-api-key",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];
/// Headers of an answer that we write, or that speak to browsers for all of our origin.
const OURS_IN_ANSWERS: [&str; 18] = [
    "cache-control",
    "clear-site-data",
    "content-security-policy",
    "content-security-policy-report-only",
    "date",
    "expires",
    "location",
    "pragma",
    "ratelimit",
    "ratelimit-policy",
    "referrer-policy",
    "set-cookie",
    "strict-transport-security",
    "www-authenticate",
    "x-accel-buffering",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
];
/// Beginnings of names that only we write.
const OURS: [&str; 6] = [
    "access-control-",
    "cross-origin-",
    "x-forwarded-",
    "x-original-",
    "x-polysystems-",
    "x-ratelimit-",
];

/// What is wrong with the name of a header that shall pass to an upstream.
pub(super) fn check_request_header(name: &str) -> Result<(), &'static str> {
    check(name, &OURS_IN_REQUESTS)
}

/// What is wrong with the name of a header that shall pass back.
pub(super) fn check_answer_header(name: &str) -> Result<(), &'static str> {
    check(name, &OURS_IN_ANSWERS)
}

fn check(name: &str, ours: &[&str]) -> Result<(), &'static str> {
    let name = name.to_ascii_lowercase();
    // Some readers take an underscore for a hyphen.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err("is not a name of letters, digits and hyphens");
    }
    let is_ours = OF_CONNECTION.contains(&&*name)
        || ours.contains(&&*name)
        || OURS.iter().any(|prefix| name.starts_with(prefix));
    if is_ours { Err("is a header that never passes") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_cannot_be_added() {
        for name in ["X-Title", "http-referer", "openai-project", "x-client-request-id"] {
            assert_eq!(check_request_header(name), Ok(()), "{name}");
            assert_eq!(check_answer_header(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "x_title",
            "x title",
            "Authorization",
            "Cookie",
            "Host",
            "X-Forwarded-For",
            "X-HTTP-Method-Override",
            "X-Rewrite-URL",
            "api-key",
            "X-API-Key",
            "X-Goog-Api-Key",
            "Content-Encoding",
            "Idempotency-Key",
        ] {
            assert!(check_request_header(name).is_err(), "{name}");
        }
        for name in [
            "Set-Cookie",
            "X-RateLimit-Limit",
            "Strict-Transport-Security",
            "Content-Security-Policy",
            "Cache-Control",
            "Cross-Origin-Resource-Policy",
            "x_a",
        ] {
            assert!(check_answer_header(name).is_err(), "{name}");
        }
    }
}
