//! The codes of errors: one table. The texts of answers ([`super::texts`]), the page that
//! `doc_url` leads to, and the page of the book are made of it or tested against it.
//!
//! An error whose call was charged, or may have been, has the status [`CHARGED_FAILURE`], which no
//! client repeats by itself.
//!
//! [`CHARGED_FAILURE`]: crate::upstream::CHARGED_FAILURE

use std::fmt::Write as _;

use actix_web::http::StatusCode;

/// What an error is, for programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorCode {
    /// Its name, which stays: `snake_case`.
    pub(crate) code: &'static str,
    /// The status that it is answered with.
    pub(crate) status: StatusCode,
    /// What went wrong, in two or three words: `error` of the body.
    pub(crate) error: &'static str,
    /// Was the call charged?
    pub(crate) charged: &'static str,
    /// What has happened, in Markdown.
    pub(crate) meaning: &'static str,
    /// What to do, in Markdown.
    pub(crate) remedy: &'static str,
    /// Where that is written, relative to the server.
    pub(crate) doc_url: &'static str,
}

impl ErrorCode {
    /// Its kind: one for each group of statuses.
    pub(crate) fn kind(self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            402 => "payment_error",
            403 => "permission_error",
            404 => "not_found_error",
            409 => "conflict_error",
            424 => "dependency_error",
            429 => "rate_limit_error",
            502 | 504 => "upstream_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }
}

macro_rules! codes {
    ($($name:ident: $code:literal, $status:ident, $error:literal, $charged:literal,
        $meaning:literal, $remedy:literal;)*) => {
        /// An error that is answered. Its facts are [`Code::facts`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(clippy::enum_variant_names, reason = "they are named as they are answered")]
        pub(super) enum Code {
            $($name,)*
        }

        impl Code {
            /// What it is.
            pub(super) const fn facts(self) -> ErrorCode {
                match self {
                    $(Code::$name => ErrorCode {
                        code: $code,
                        status: StatusCode::$status,
                        error: $error,
                        charged: $charged,
                        meaning: $meaning,
                        remedy: $remedy,
                        doc_url: concat!("/docs/errors#", $code),
                    },)*
                }
            }
        }

        /// Every code, by status.
        pub(crate) const CODES: &[ErrorCode] = &[$(Code::$name.facts(),)*];
    };
}

codes! {
    ValidationError: "validation_error", BAD_REQUEST, "Validation Error", "no",
        "A field, a header or the query is missing, unknown or wrong, or a text has control \
         characters.",
        "Read `details`.";
    BadRequest: "bad_request", BAD_REQUEST, "Bad request", "no",
        "The body of a call is not what the route needs, or it or the query cannot be priced.",
        "Read `message`.";
    InvalidJson: "invalid_json", BAD_REQUEST, "Bad request", "no",
        "The body is not the JSON that the route needs.",
        "Read `message`.";
    MalformedBody: "malformed_body", BAD_REQUEST, "Bad request", "no",
        "The body ended early, or its chunks are broken.",
        "Check its length and its chunks.";
    MalformedRequest: "malformed_request", BAD_REQUEST, "Bad request", "no",
        "The request is not valid HTTP/1.1: a wrong request line, or wrong headers.",
        "Check both.";
    PaymentNotAcceptable: "payment_not_acceptable", BAD_REQUEST, "Bad request", "no",
        "A payment by x402, or an event of a payment provider, is not acceptable.",
        "Read `message`.";
    TwoCredentials: "two_credentials", BAD_REQUEST, "Two credentials", "no",
        "There is a session cookie and an `Authorization` header.",
        "Send one of them.";
    UpgradeNotSupported: "upgrade_not_supported", BAD_REQUEST, "Upgrade not supported", "no",
        "The request asks for a WebSocket (`Upgrade: websocket`) or a tunnel (`CONNECT`).",
        "Send a plain HTTP/1.1 request.";
    ContextTooLong: "context_too_long", BAD_REQUEST, "Context too long", "no",
        "The prompt has more tokens than the model takes.",
        "Shorten it, or name a model with a larger context window.";
    ServiceTierNotSold: "service_tier_not_sold", BAD_REQUEST, "Service tier not sold", "no",
        "The model has no price for this `service_tier`.",
        "Leave it out.";
    InvalidEmailToken: "invalid_email_token", BAD_REQUEST, "Invalid token", "no",
        "The token from an email is wrong, used, or expired.",
        "Ask for a new message.";
    MissingKey: "missing_api_key", UNAUTHORIZED, "Missing API key", "no",
        "A paid call came without a key.",
        "Send `X-API-Key`.";
    InvalidKey: "invalid_api_key", UNAUTHORIZED, "Invalid API key", "no",
        "The key is mistyped, unknown, revoked or deleted.",
        "Check it, or make a new key.";
    KeyExpired: "api_key_expired", UNAUTHORIZED, "API key expired", "no",
        "The time of the key is over.",
        "Set another `expires_at`, or make a new key.";
    KeyInQuery: "api_key_in_query", UNAUTHORIZED, "API key in the query", "no",
        "The query has a key: `key` on `/v1/*`, or a value that is one. Addresses are logged on \
         their way.",
        "Send the key in a header, and rotate it.";
    DifferentKeys: "different_api_keys", UNAUTHORIZED, "Different API keys", "no",
        "The headers have different keys.",
        "Send one.";
    MissingToken: "missing_token", UNAUTHORIZED, "Missing token", "no",
        "A management route needs a JWT.",
        "Send `Authorization: Bearer` with the JWT.";
    InvalidToken: "invalid_token", UNAUTHORIZED, "Invalid token", "no",
        "It is no JWT of this server, or its session has ended.",
        "Log in again.";
    TokenExpired: "token_expired", UNAUTHORIZED, "Token expired", "no",
        "The JWT is older than 24 hours (unless set otherwise).",
        "Refresh the session, or log in.";
    InvalidRefreshToken: "invalid_refresh_token", UNAUTHORIZED, "Invalid refresh token", "no",
        "The refresh token is unknown, was used before, or its session has ended.",
        "Log in again.";
    InvalidCredentials: "invalid_credentials", UNAUTHORIZED, "Invalid credentials", "no",
        "The email or the password is wrong.",
        "Check both, or reset the password.";
    InvalidChallenge: "invalid_challenge", UNAUTHORIZED, "Invalid challenge", "no",
        "The first step of the login is too long ago, or the password has changed since.",
        "Log in again.";
    InvalidCode: "invalid_code", UNAUTHORIZED, "Invalid code", "no",
        "The code is wrong, or was used before.",
        "Enter the current code.";
    InsufficientCredits: "insufficient_credits", PAYMENT_REQUIRED, "Insufficient credits", "no",
        "The available credits do not cover the call.",
        "Add credits. With x402, pay what `PAYMENT-REQUIRED` says.";
    SpendingLimitExceeded: "spending_limit_exceeded", PAYMENT_REQUIRED, "Spending limit exceeded", "no",
        "A spending limit of the key does not allow the call.",
        "Raise the limit, or wait for the next day or month.";
    PaymentRefused: "payment_refused", PAYMENT_REQUIRED, "Payment refused", "no",
        "The provider refused the payment. Nothing was credited.",
        "Read `message`, and pay in another way.";
    PaymentRequired: "payment_required", PAYMENT_REQUIRED, "Payment required", "no",
        "A payment by x402 came without a signature.",
        "Sign what `PAYMENT-REQUIRED` says.";
    AccessDenied: "access_denied", FORBIDDEN, "Access denied", "no",
        "The route is for operators, or the account is suspended.",
        "Ask the operator.";
    AccountSuspended: "account_suspended", FORBIDDEN, "Access denied", "no",
        "The account that the key belongs to is suspended or erased.",
        "Ask the operator.";
    KeyNotPermitted: "key_not_permitted", FORBIDDEN, "Access denied", "no",
        "The key may not be used for this route, this model or from this address.",
        "Use another key, or change what this one may be used for.";
    CrossOrigin: "cross_origin", FORBIDDEN, "Cross-origin request", "no",
        "A request with the session cookie is not of a page of this server, or has another type than \
         JSON.",
        "Send `Content-Type: application/json` from a page of the server, or use a JWT.";
    RegistrationClosed: "registration_closed", FORBIDDEN, "Registration closed", "no",
        "Nobody can register by themselves.",
        "Ask the operator for an account.";
    ConfirmationRequired: "confirmation_required", FORBIDDEN, "Confirmation required", "no",
        "The request needs a proof of who you are that is at most ten minutes old.",
        "Send your password or a code to `POST /api/auth/confirm`, then the request again.";
    EmailNotVerified: "email_not_verified", FORBIDDEN, "Email not verified", "no",
        "This server wants a verified address before you pay, make keys or webhooks, or set up \
         two-factor login.",
        "Open the message that you got by email.";
    SecondFactorRequired: "second_factor_required", FORBIDDEN, "Second factor required", "no",
        "Operators need two-factor login, and you have not set it up.",
        "Set it up: `POST /api/auth/2fa/enroll`.";
    EnrolmentTokenRequired: "enrolment_token_required", FORBIDDEN, "Enrolment token required", "no",
        "Operators set up two-factor login with a token, and this is none, or it was used or is \
         an hour old.",
        "Have `polysystems user enroll2fa` print one on the server.";
    PaymentProviderDisabled: "payment_provider_disabled", FORBIDDEN, "Payment provider disabled", "no",
        "This server does not offer this provider, or the sandbox serves only requests that came \
         without a proxy.",
        "Name another `provider`, or read `message`.";
    ModelNotFound: "model_not_found", NOT_FOUND, "Model not found", "no",
        "The operator does not sell this model.",
        "Name another `model`.";
    ModelNotPriced: "model_not_priced", NOT_FOUND, "Model not priced", "no",
        "The model has no price for your account.",
        "Name another `model`.";
    ModelRetired: "model_retired", NOT_FOUND, "Model retired", "no",
        "The model is not sold any more.",
        "Use its successor, which `message` names.";
    NoPrice: "no_price", NOT_FOUND, "Not found", "no",
        "The path is one of paid calls, and has no price.",
        "Call a route of `GET /api/pricing`.";
    NoSuchRoute: "no_such_route", NOT_FOUND, "Not found", "no",
        "There is no such route.",
        "Check the path.";
    NotFound: "not_found", NOT_FOUND, "Not found", "no",
        "There is no such thing, or it belongs to another user.",
        "Check the id.";
    MethodNotAllowed: "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed", "no",
        "The path exists for other methods.",
        "Use one of the header `Allow`.";
    RequestTimeout: "request_timeout", REQUEST_TIMEOUT, "Request timeout", "no",
        "The headers or the body did not arrive in time, or the body came more slowly than \
         `server.transfer_rate_min` (1,024 bytes a second).",
        "Send it again.";
    Conflict: "conflict", CONFLICT, "Conflict", "no",
        "It clashes with what is there: a taken email, a limit that is reached, a revoked key, an \
         erasure while there is money.",
        "Read `message`.";
    CatalogueIsAFile: "catalogue_is_a_file", CONFLICT, "Catalogue is a file", "no",
        "The catalogue of models is written in a file, so the API does not change it.",
        "Change the file.";
    RequestInProgress: "request_in_progress", CONFLICT, "Request in progress", "by the first request",
        "The first request with this `Idempotency-Key` still runs.",
        "Wait for `Retry-After`.";
    AnswerNotKept: "answer_not_kept", CONFLICT, "Answer not kept", "the first request, once",
        "The first answer was too large to be kept.",
        "A new `Idempotency-Key` makes a new call, at its price.";
    RevisionStale: "revision_stale", PRECONDITION_FAILED, "Revision stale", "no",
        "The catalogue of models has changed since it was read.",
        "Read it, and make the change again.";
    PayloadTooLarge: "payload_too_large", PAYLOAD_TOO_LARGE, "Payload too large", "no",
        "The body of a call is larger than `server.body_max_bytes` (10 MiB unless set otherwise), \
         or that of another request larger than 256 KiB; operators' documents may have 8 MiB.",
        "Send less.";
    ContentEncodingNotSupported: "content_encoding_not_supported", UNSUPPORTED_MEDIA_TYPE, "Content encoding not supported", "no",
        "The body of a call is compressed.",
        "Send it as it is, without `Content-Encoding`.";
    IdempotencyKeyReused: "idempotency_key_reused", UNPROCESSABLE_ENTITY, "Idempotency key reused", "no",
        "The `Idempotency-Key` was used for another request.",
        "Use a new key.";
    UpstreamGivenUp: "upstream_given_up", FAILED_DEPENDENCY, "Upstream given up", "**yes**, `message` says how much",
        "The upstream was at work for longer than `upstreams.<group>.timeout_seconds`.",
        "Ask for fewer tokens, or for a stream.";
    AnswerTooLarge: "answer_too_large", FAILED_DEPENDENCY, "Answer too large", "**yes**, `message` says how much",
        "The answer is larger than `upstreams.<group>.response_max_bytes`.",
        "Ask for less, or for a stream.";
    OutcomeUnknown: "outcome_unknown", FAILED_DEPENDENCY, "Outcome unknown", "**not known**",
        "It is not known whether the request took effect.",
        "Look at the ledger first. With an `Idempotency-Key`, simply send it again.";
    PaymentProviderUnavailable: "payment_provider_unavailable", FAILED_DEPENDENCY, "Payment provider unavailable", "**not known**",
        "The payment is on record and goes on by itself. Also if an x402 payment is settled \
         without a transaction.",
        "Look at `GET /api/payments/payments` first.";
    RevisionMissing: "revision_missing", PRECONDITION_REQUIRED, "Revision missing", "no",
        "A change of the whole catalogue must say for which revision it is made.",
        "Send `If-Match`.";
    RateLimitExceeded: "rate_limit_exceeded", TOO_MANY_REQUESTS, "Rate limit exceeded", "no",
        "A rate limit is reached.",
        "Wait for `Retry-After`.";
    TooManyRequests: "too_many_requests", TOO_MANY_REQUESTS, "Too many requests", "no",
        "Too many bodies from your address or of your account are on their way at the same time.",
        "Send fewer at once.";
    TooManyConcurrentRequests: "too_many_concurrent_requests", TOO_MANY_REQUESTS, "Too many concurrent requests", "no",
        "Too many requests of the account run.",
        "Try again when some have ended.";
    UpstreamRateLimited: "upstream_rate_limited", TOO_MANY_REQUESTS, "Upstream busy", "no",
        "Everybody who serves the model has reached a limit at its provider.",
        "Wait as long as `Retry-After` says.";
    HeadersTooLarge: "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "Headers too large", "no",
        "There are more than 96 headers, or they are larger than 128 KiB.",
        "Send fewer headers.";
    InternalError: "internal_error", INTERNAL_SERVER_ERROR, "Internal error", "see the ledger",
        "A bug. In a paid call it is answered `outcome_unknown`.",
        "Look at the ledger, then try again. If it stays, contact support.";
    UpstreamError: "upstream_error", BAD_GATEWAY, "Upstream error", "no",
        "The upstream failed.",
        "Try again.";
    UpstreamLost: "upstream_lost", BAD_GATEWAY, "Upstream lost", "no",
        "The upstream took the request, and broke the connection before it answered. It was asked \
         again as far as the operator's settings allow. It may have done the work each time.",
        "Send the request again only if it may be done twice.";
    ServiceUnavailable: "service_unavailable", SERVICE_UNAVAILABLE, "Service unavailable", "no",
        "The server cannot serve the request now.",
        "Try again after `Retry-After`.";
    LedgerTooSlow: "ledger_too_slow", SERVICE_UNAVAILABLE, "Service unavailable", "no",
        "The ledger did not answer in time, so the answer of the upstream was not delivered.",
        "Try again.";
    ServerOverloaded: "server_overloaded", SERVICE_UNAVAILABLE, "Server overloaded", "no",
        "The server is at capacity.",
        "Try again after `Retry-After`.";
    ServerStopped: "server_stopped", SERVICE_UNAVAILABLE, "Server stopped", "no",
        "The server stopped before the upstream answered.",
        "Try again.";
    AccountQuarantined: "account_quarantined", SERVICE_UNAVAILABLE, "Account quarantined", "no",
        "The records of the account disagree.",
        "Retries do not help: contact the operator.";
    UpstreamBusy: "upstream_busy", SERVICE_UNAVAILABLE, "Upstream busy", "no",
        "Everybody who serves the model has failed too often.",
        "Wait as long as `Retry-After` says.";
    ModelUnavailable: "model_unavailable", SERVICE_UNAVAILABLE, "Model unavailable", "no",
        "Nobody serves the model at the moment.",
        "Try later, or another model.";
    UpstreamTimeout: "upstream_timeout", GATEWAY_TIMEOUT, "Upstream timeout", "no",
        "The upstream could not be reached in time, or said that it took too long.",
        "Try again.";
}

/// The page of the codes, as HTML. Each code is an anchor.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Errors - Polysystems</title>\n\
         <style>body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}\
         h2{margin:2rem 0 .25rem;font-size:1rem}h2:target{background:#fd6}p{margin:.25rem 0}</style>\n\
         </head>\n<body>\n<main>\n<h1>Errors</h1>\n<p>The <code>code</code> of an error, and what to do \
         about it.</p>\n",
    );
    for ErrorCode { code, status, error, charged, meaning, remedy, .. } in CODES {
        let status = status.as_u16();
        let [charged, meaning, remedy] = [charged, meaning, remedy].map(|text| html(text));
        let _ = writeln!(
            page,
            "<h2 id=\"{code}\"><code>{code}</code></h2>\n<p>{status} {error}. Charged: {charged}.</p>\n\
             <p>{meaning}</p>\n<p>{remedy}</p>"
        );
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// The Markdown of the table as HTML: it has code and bold text only.
fn html(markdown: &str) -> String {
    let escaped = markdown.replace('&', "&amp;").replace('<', "&lt;").replace("**", "");
    let mut html = String::new();
    for (index, part) in escaped.split('`').enumerate() {
        if index > 0 {
            html.push_str(if index % 2 == 1 { "<code>" } else { "</code>" });
        }
        html.push_str(part);
    }
    html
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::upstream::is_repeated_by_clients;

    #[test]
    fn a_code_is_one_word_and_there_once() {
        let mut known = BTreeSet::new();
        for code in CODES {
            let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(code.code.chars().all(is_word), "{}", code.code);
            assert!(known.insert(code.code), "{}", code.code);
            assert_eq!(code.doc_url, format!("/docs/errors#{}", code.code));
            assert!(page().contains(&format!("id=\"{}\"", code.code)));
        }
        let statuses: Vec<u16> = CODES.iter().map(|code| code.status.as_u16()).collect();
        assert!(statuses.is_sorted(), "{statuses:?}");
        // Clients repeat such a status by themselves.
        let first = ["by the first request", "the first request, once"];
        for code in CODES.iter().filter(|code| is_repeated_by_clients(code.status)) {
            let is_free = code.charged == "no" || first.contains(&code.charged);
            assert!(is_free || code.code == "internal_error", "{}", code.code);
        }
    }

    #[test]
    fn code_and_placeholders_are_escaped() {
        assert_eq!(html("`a.<b>` & **c**"), "<code>a.&lt;b></code> &amp; c");
    }

    /// The book's page of the codes. `UPDATE_BOOK=1` writes it.
    #[test]
    fn the_book_has_every_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/reference/errors.md");
        if std::env::var_os("UPDATE_BOOK").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page == markdown(), "run UPDATE_BOOK=1 cargo test --lib the_book_has");
    }

    fn markdown() -> String {
        let mut page = String::from(
            "# Error codes\n\nThis page is for programmers who call the API. It lists the `code` of \
             every error, and is made of\nthe table in the source. How errors are answered, and what \
             may be sent again, is in\n[Errors](../account/errors.md).\n\n\
             `type` follows from the status: 401 `authentication_error`, 402 `payment_error`, 403\n\
             `permission_error`, 404 `not_found_error`, 409 `conflict_error`, 424 `dependency_error`, \
             429\n`rate_limit_error`, 502 and 504 `upstream_error`, 500 and 503 `api_error`, and all \
             others\n`invalid_request_error`.\n\n\
             A call that was charged, or may have been, and has no answer is answered 424: clients do \
             not\nsend it again by themselves.\n\n\
             | status | `code` | `error` | charged? | what happened | what to do |\n|---|---|---|---|---|---|\n",
        );
        for code in CODES {
            let ErrorCode { code, status, error, charged, meaning, remedy, .. } = code;
            let status = status.as_u16();
            let _ = writeln!(
                page,
                "| {status} | `{code}` | `{error}` | {charged} | {meaning} | {remedy} |"
            );
        }
        page
    }
}
