//! The status and the texts of every error. A text says what happened, then what to do.
//!
//! The texts of [`Refusal`] up to `SpendingLimit` are part of the API's contract; see the test in
//! [`super`].

use std::borrow::Cow;

use actix_web::http::StatusCode;

use super::{ApiError, FieldError};
use domain::Refusal;

/// What is answered.
pub(super) struct Texts {
    pub(super) status: StatusCode,
    /// What went wrong, in two or three words.
    pub(super) error: &'static str,
    pub(super) message: Cow<'static, str>,
}

fn texts(status: StatusCode, error: &'static str, message: impl Into<Cow<'static, str>>) -> Texts {
    Texts { status, error, message: message.into() }
}

impl ApiError {
    #[expect(clippy::too_many_lines, reason = "the table of errors is one table")]
    pub(super) fn texts(&self) -> Texts {
        match self {
            ApiError::Refused(refusal) => refused(refusal),
            ApiError::Validation(details) => texts(
                StatusCode::BAD_REQUEST,
                "Validation Error",
                match details.as_slice() {
                    [FieldError { field, message }] => format!("{field}: {message}"),
                    _ => "Some fields of the request are not valid. Please see details.".to_owned(),
                },
            ),
            ApiError::BadJson(why) => texts(
                StatusCode::BAD_REQUEST,
                "Bad request",
                format!("The body must be JSON: {why}"),
            ),
            ApiError::BodyTooLarge { max } => texts(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Payload too large",
                format!("The body is too large. At most {max} bytes are accepted."),
            ),
            ApiError::BodyIncomplete => texts(
                StatusCode::REQUEST_TIMEOUT,
                "Request timeout",
                "The body of the request did not arrive in time. Please send the request again.",
            ),
            ApiError::BodyMalformed => texts(
                StatusCode::BAD_REQUEST,
                "Bad request",
                "The body of the request is malformed or ended early. Please check its length and its chunks.",
            ),
            ApiError::TooManyBodies => texts(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests",
                "Too many requests from your address or of your account are being received at the same time. \
                 Please try again when some of them are complete.",
            ),
            ApiError::ContentEncoding => texts(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content encoding not supported",
                "Compressed bodies are not accepted. Please send the body as it is, without Content-Encoding.",
            ),
            ApiError::BadRequest => texts(
                StatusCode::BAD_REQUEST,
                "Bad request",
                "The request is not valid HTTP/1.1. Please check its request line and its headers.",
            ),
            ApiError::HeadIncomplete => texts(
                StatusCode::REQUEST_TIMEOUT,
                "Request timeout",
                "The headers of the request did not arrive in time. Please send the request again.",
            ),
            ApiError::HeadTooLarge => texts(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "Headers too large",
                "The headers of the request are too large or too many. Please send at most 96 headers and 128 KiB.",
            ),
            ApiError::NoUpgrade => texts(
                StatusCode::BAD_REQUEST,
                "Upgrade not supported",
                "This server speaks HTTP/1.1 only, without WebSocket or tunnels. Please send the request without \
                 the Upgrade header.",
            ),
            ApiError::MissingSession => texts(
                StatusCode::UNAUTHORIZED,
                "Missing token",
                "Expected 'Authorization: Bearer' header with the JWT from POST /api/auth/login",
            ),
            ApiError::InvalidSession => texts(
                StatusCode::UNAUTHORIZED,
                "Invalid token",
                "The provided JWT is not valid. Please log in again; API keys are not accepted here.",
            ),
            ApiError::ExpiredSession => texts(
                StatusCode::UNAUTHORIZED,
                "Token expired",
                "The JWT has expired. Please log in again.",
            ),
            ApiError::InvalidRefresh => texts(
                StatusCode::UNAUTHORIZED,
                "Invalid refresh token",
                "The refresh token is not valid, was used before, or its session has ended. Please log in again.",
            ),
            ApiError::WrongCredentials => texts(
                StatusCode::UNAUTHORIZED,
                "Invalid credentials",
                "The email or the password is not correct",
            ),
            ApiError::InvalidEmailToken => texts(
                StatusCode::BAD_REQUEST,
                "Invalid token",
                "The token is not valid, was used before, or has expired. Please request a new one.",
            ),
            ApiError::NotConfirmed => texts(
                StatusCode::FORBIDDEN,
                "Confirmation required",
                "Please prove once more who you are: send your password or a code to POST /api/auth/confirm, then \
                 send this request again.",
            ),
            ApiError::EmailNotVerified => texts(
                StatusCode::FORBIDDEN,
                "Email not verified",
                "Please verify your email address first. POST /api/auth/resend-verification sends the message \
                 again.",
            ),
            ApiError::SecondFactorRequired => texts(
                StatusCode::FORBIDDEN,
                "Second factor required",
                "Operators need two-factor authentication. Please set it up first: POST /api/auth/2fa/enroll, then \
                 POST /api/auth/2fa/confirm.",
            ),
            ApiError::InvalidChallenge => texts(
                StatusCode::UNAUTHORIZED,
                "Invalid challenge",
                "The challenge is not valid or has expired. Please log in again.",
            ),
            ApiError::WrongCode => texts(
                StatusCode::UNAUTHORIZED,
                "Invalid code",
                "The code is wrong or was used before. Please enter the current one.",
            ),
            ApiError::AccessDenied => access_denied(),
            ApiError::NotFound(what) => {
                texts(StatusCode::NOT_FOUND, "Not found", format!("There is no such {what}"))
            }
            ApiError::NoRoute => texts(
                StatusCode::NOT_FOUND,
                "Not found",
                "There is no such route. GET /api/openapi.json lists the routes.",
            ),
            ApiError::MethodNotAllowed { allow } => texts(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
                format!("This route supports {allow}"),
            ),
            ApiError::Conflict(what) => texts(StatusCode::CONFLICT, "Conflict", what.clone()),
            ApiError::ProviderOff { provider } => texts(
                StatusCode::FORBIDDEN,
                "Payment provider disabled",
                match *provider {
                    crate::payments::SANDBOX => Cow::from(
                        "The sandbox payment provider is off for this request. If nobody has switched it on, it \
                         serves requests that come without a proxy, while the server listens on a loopback \
                         address and no upstream URL, Stripe, x402 or trusted proxy is set. An operator can switch \
                         it on for everybody with payments.sandbox = true (POLYSYSTEMS_PAYMENTS__SANDBOX=true).",
                    ),
                    other => format!(
                        "The payment provider {other} is not set up on this server. An operator can set it up in \
                         [payments.{other}]."
                    )
                    .into(),
                },
            ),
            ApiError::PaymentRefused(why) => texts(
                StatusCode::PAYMENT_REQUIRED,
                "Payment refused",
                format!("The payment was refused and nothing was credited: {why}"),
            ),
            ApiError::NotPayable(why) => {
                texts(StatusCode::BAD_REQUEST, "Bad request", format!("Not accepted: {why}"))
            }
            ApiError::PaymentRequired { amount } => texts(
                StatusCode::PAYMENT_REQUIRED,
                "Payment required",
                format!(
                    "Please pay ${amount} by x402: sign the terms in the header PAYMENT-REQUIRED and send the same \
                     request again with PAYMENT-SIGNATURE."
                ),
            ),
            ApiError::ProviderUnreachable => texts(
                StatusCode::SERVICE_UNAVAILABLE,
                "Payment provider unavailable",
                "The payment provider does not answer. A payment that was begun is on record and will be updated \
                 automatically. Please check GET /api/payments/payments before you try again.",
            ),
            ApiError::Unavailable => unavailable(),
            ApiError::OutcomeUnknown => texts(
                StatusCode::SERVICE_UNAVAILABLE,
                "Outcome unknown",
                "It is not known whether this request took effect. Please check before you send it again.",
            ),
            ApiError::Overloaded => overloaded(),
            ApiError::Internal => texts(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal error",
                "Something went wrong on our side. Please try again. If it happens again, contact support with the \
                 request id.",
            ),
        }
    }
}

#[expect(clippy::too_many_lines, reason = "the table of refusals is one table")]
fn refused(refusal: &Refusal) -> Texts {
    match refusal {
        Refusal::RateLimited { retry_after } => texts(
            StatusCode::TOO_MANY_REQUESTS,
            "Rate limit exceeded",
            format!("Too many requests. Please try again in {retry_after} seconds."),
        ),
        Refusal::TooManyInFlight => texts(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many concurrent requests",
            "This account has too many requests running. Please try again when some have finished.",
        ),
        Refusal::MissingKey => texts(
            StatusCode::UNAUTHORIZED,
            "Missing API key",
            "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key",
        ),
        Refusal::InvalidKey => texts(
            StatusCode::UNAUTHORIZED,
            "Invalid API key",
            "The provided access key is not valid",
        ),
        Refusal::ExpiredKey => {
            texts(StatusCode::UNAUTHORIZED, "API key expired", "This access key has expired")
        }
        Refusal::AccountClosed | Refusal::NotPermitted => access_denied(),
        Refusal::NoPrice => texts(
            StatusCode::NOT_FOUND,
            "Not found",
            "This route has no price. GET /api/pricing lists the routes that can be called.",
        ),
        Refusal::BadBody(why) => texts(StatusCode::BAD_REQUEST, "Bad request", why.clone()),
        Refusal::InsufficientCredits { price } => texts(
            StatusCode::PAYMENT_REQUIRED,
            "Insufficient credits",
            format!(
                "This request costs ${price} but your balance is insufficient. Please top up your account."
            ),
        ),
        Refusal::SpendingLimit => texts(
            StatusCode::PAYMENT_REQUIRED,
            "Spending limit exceeded",
            "This access key has reached its spending limit. Please adjust limits or top up credits.",
        ),
        Refusal::Unavailable(_) => unavailable(),
        Refusal::Quarantined => texts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Account quarantined",
            "The records of this account are inconsistent, so its calls are blocked until an operator has checked \
             them. Nothing was charged. Please contact support.",
        ),
        Refusal::OutcomeUnknown(_) => texts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Outcome unknown",
            "It is not known whether this request was charged. Please check GET /api/payments/transactions before \
             you send it again.",
        ),
        Refusal::NotHeld(_) => texts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Service unavailable",
            "The ledger did not answer in time, so the upstream's answer was not delivered. You were not \
             charged. Please try again.",
        ),
        Refusal::Stopped => texts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Server stopped",
            "The server stopped before the upstream service had answered. You were not charged. Please try again.",
        ),
        Refusal::Overloaded => overloaded(),
        // Nobody is there to read it.
        Refusal::UpstreamFailed(_) | Refusal::ClientLeft => texts(
            StatusCode::BAD_GATEWAY,
            "Upstream error",
            "The upstream service failed. You were not charged.",
        ),
        Refusal::RepeatTooEarly => texts(
            StatusCode::CONFLICT,
            "Request in progress",
            "The first request with this Idempotency-Key is still running. Please try again later.",
        ),
        Refusal::RepeatDiffers => texts(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Idempotency key reused",
            "This Idempotency-Key was used for a different request. Please use a new key for a new request.",
        ),
        Refusal::RepeatNotKept => texts(
            StatusCode::CONFLICT,
            "Answer not kept",
            "This request was answered and charged before, but its answer was too large to store. To send it \
             again, at its price, please use a new Idempotency-Key.",
        ),
        Refusal::UpstreamTimedOut => texts(
            StatusCode::GATEWAY_TIMEOUT,
            "Upstream timeout",
            "The upstream service did not answer in time. You were not charged.",
        ),
        Refusal::UpstreamGivenUp { cost } => texts(
            StatusCode::GATEWAY_TIMEOUT,
            "Upstream given up",
            format!(
                "The upstream service was at work for longer than a call may take. You were charged ${cost} for \
                 that work. Please ask for fewer tokens, or for a stream."
            ),
        ),
        Refusal::AnswerTooLarge { cost } => texts(
            StatusCode::BAD_GATEWAY,
            "Answer too large",
            format!(
                "The upstream service's answer is larger than this server passes on. You were charged ${cost} for \
                 it. Please ask for less, or for a stream."
            ),
        ),
    }
}

fn access_denied() -> Texts {
    texts(
        StatusCode::FORBIDDEN,
        "Access denied",
        "You do not have permission to access this resource",
    )
}

fn unavailable() -> Texts {
    texts(
        StatusCode::SERVICE_UNAVAILABLE,
        "Service unavailable",
        "The request was not attempted and nothing was charged. Please try again later.",
    )
}

fn overloaded() -> Texts {
    texts(
        StatusCode::SERVICE_UNAVAILABLE,
        "Server overloaded",
        "The server is at capacity. The request was not attempted and nothing was charged. Please try again \
         later.",
    )
}
