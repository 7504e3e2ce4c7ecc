//! The one map from what can go wrong to a status and a body. The only file that knows a status code of an
//! error.
//!
//! Bodies are the chapter's: `error` and `message` first, then `request_id` and `timestamp`, and `details`
//! where fields of the request are wrong. The public text says what to do; the cause goes to the log, once,
//! where it is mapped here.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::AdminError;
use crate::auth::password::{LENGTH_MAX, PasswordError};
use crate::auth::throttle::TooManyAttempts;
use crate::auth::users::UsersError;
use crate::keys::KeysError;
use crate::payments::PaymentsError;
use crate::reports::ReportsError;
use crate::store::StoreError;
use crate::webhooks::WebhooksError;
use domain::Credits;
use domain::Refusal;

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, as the request names it.
    pub field: String,
    /// What it must be.
    pub message: String,
}

/// The body of every error (Chapter 2, Authentication Error Responses; Chapter 10).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, in two or three words.
    pub error: Cow<'static, str>,
    /// What to do about it.
    pub message: Cow<'static, str>,
    /// As in the header `X-Request-Id`.
    pub request_id: String,
    /// When it went wrong.
    pub timestamp: String,
    /// The fields that are wrong, where fields are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<FieldError>,
    /// Of a 503: `not-attempted` (nothing happened; the same request can be sent again), `not-charged` (it was begun,
    /// and cost nothing), or `outcome-unknown` (it may have happened; see what is on record before it is sent
    /// again).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub outcome: Option<UnavailableOutcome>,
}

/// Whether a request that was answered 503 may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnavailableOutcome {
    /// Nothing happened.
    NotAttempted,
    /// It was begun, and ended without a charge.
    NotCharged,
    /// It may have happened.
    OutcomeUnknown,
}

/// Everything that is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The pipeline refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Fields of the request are wrong.
    #[error("validation error")]
    Validation(Vec<FieldError>),
    /// The body is no JSON.
    // The text may repeat the body: it goes to the client, not to the log.
    #[error("bad JSON")]
    BadJson(String),
    /// The body is larger than `server.body_max_bytes`.
    #[error("body too large")]
    BodyTooLarge {
        /// The largest that is taken, in bytes.
        max: usize,
    },
    /// The body did not come, or not in time.
    #[error("the body did not come")]
    BodyIncomplete,
    /// No session token.
    #[error("no session token")]
    MissingSession,
    /// No session token of ours.
    #[error("invalid session token")]
    InvalidSession,
    /// A session token past its time.
    #[error("expired session token")]
    ExpiredSession,
    /// No refresh token of a session that goes on.
    #[error("invalid refresh token")]
    InvalidRefresh,
    /// Wrong email or password.
    #[error("wrong credentials")]
    WrongCredentials,
    /// No token of an email, or one that was used or has expired.
    #[error("invalid token of an email")]
    InvalidEmailToken,
    /// The address must be verified first.
    #[error("the email address is not verified")]
    EmailNotVerified,
    /// No challenge of a login.
    #[error("invalid challenge")]
    InvalidChallenge,
    /// A code that is wrong, or was used before.
    #[error("wrong code")]
    WrongCode,
    /// Not for this user.
    #[error("access denied")]
    AccessDenied,
    /// No such thing, or none of this user's; the text names the kind of thing.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// No such route.
    #[error("no such route")]
    NoRoute,
    /// The route exists, for other methods.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// The methods it exists for.
        allow: Cow<'static, str>,
    },
    /// Somebody has it already; says what.
    #[error("conflict: {0}")]
    Conflict(Cow<'static, str>),
    /// A payment provider is off.
    #[error("the payment provider {provider} is off")]
    ProviderOff {
        /// Its name.
        provider: &'static str,
    },
    /// A payment provider said no.
    #[error("the payment provider refused")]
    PaymentRefused(String),
    /// A payment provider does not answer; what was begun is on record.
    #[error("the payment provider does not answer")]
    ProviderUnreachable,
    /// What was sent as a payment, or as a provider's word, is none; says why.
    #[error("not payable")]
    NotPayable(String),
    /// A payment by x402 is asked for, of this much.
    #[error("payment required")]
    PaymentRequired {
        /// What is asked for.
        amount: Credits,
    },
    /// Not attempted; try again later.
    #[error("unavailable")]
    Unavailable,
    /// Sent to the database, and not known whether it is on record.
    #[error("outcome unknown")]
    OutcomeUnknown,
    /// More requests run than may.
    #[error("overloaded")]
    Overloaded,
    /// Something of ours is broken.
    #[error("internal error")]
    Internal,
}

struct Parts {
    status: StatusCode,
    error: &'static str,
    message: Cow<'static, str>,
}

fn parts(status: StatusCode, error: &'static str, message: impl Into<Cow<'static, str>>) -> Parts {
    Parts { status, error, message: message.into() }
}

#[expect(clippy::too_many_lines, reason = "the table of refusals is one table")]
fn refusal_parts(refusal: &Refusal) -> Parts {
    match refusal {
        Refusal::RateLimited { retry_after } => parts(
            StatusCode::TOO_MANY_REQUESTS,
            "Rate limit exceeded",
            format!("Too many requests. Please try again in {retry_after} seconds."),
        ),
        Refusal::TooManyInFlight => parts(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many concurrent requests",
            "Too many requests of this account are running. Please try again when some have finished.",
        ),
        Refusal::MissingKey => parts(
            StatusCode::UNAUTHORIZED,
            "Missing API key",
            "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key",
        ),
        Refusal::InvalidKey => parts(
            StatusCode::UNAUTHORIZED,
            "Invalid API key",
            "The provided access key is not valid",
        ),
        Refusal::ExpiredKey => {
            parts(StatusCode::UNAUTHORIZED, "API key expired", "This access key has expired")
        }
        Refusal::AccountClosed | Refusal::NotPermitted => access_denied(),
        Refusal::NoPrice => parts(
            StatusCode::NOT_FOUND,
            "Not found",
            "This route has no price. GET /api/pricing lists the routes that can be called.",
        ),
        Refusal::BadBody(why) => parts(StatusCode::BAD_REQUEST, "Bad request", why.clone()),
        Refusal::InsufficientCredits { price } => parts(
            StatusCode::PAYMENT_REQUIRED,
            "Insufficient credits",
            format!(
                "This request costs ${price} but your balance is insufficient. Please top up your account."
            ),
        ),
        Refusal::SpendingLimit => parts(
            StatusCode::PAYMENT_REQUIRED,
            "Spending limit exceeded",
            "This access key has reached its spending limit. Please adjust limits or top up credits.",
        ),
        Refusal::Unavailable(_) => unavailable(),
        Refusal::Quarantined => parts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Account quarantined",
            "The records of this account do not agree with one another, so it takes no calls until an operator \
             has looked at them. Nothing was charged. Please contact support.",
        ),
        Refusal::OutcomeUnknown(_) => parts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Outcome unknown",
            "It is not known whether this request was charged. GET /api/payments/transactions tells.",
        ),
        Refusal::NotHeld(_) => parts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Service unavailable",
            "The ledger did not answer in time, so the upstream's answer was not delivered. You were not \
             charged. Please try again.",
        ),
        Refusal::Stopped => parts(
            StatusCode::SERVICE_UNAVAILABLE,
            "Server stopped",
            "The server stopped before the upstream service had answered. You were not charged.",
        ),
        Refusal::Overloaded => overloaded(),
        // Nobody is there to read it.
        Refusal::UpstreamFailed(_) | Refusal::ClientLeft => parts(
            StatusCode::BAD_GATEWAY,
            "Upstream error",
            "The upstream service failed. You were not charged.",
        ),
        Refusal::RepeatTooEarly => parts(
            StatusCode::CONFLICT,
            "Request in progress",
            "The first request with this Idempotency-Key still runs. Please try again later.",
        ),
        Refusal::RepeatDiffers => parts(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Idempotency key reused",
            "This Idempotency-Key was used for another request. Please use a new key for a new request.",
        ),
        Refusal::RepeatNotKept => parts(
            StatusCode::CONFLICT,
            "Answer not kept",
            "The request was answered and charged before, but its answer was too large to be kept. \
             Please use a new Idempotency-Key to ask again.",
        ),
        Refusal::UpstreamTimedOut => parts(
            StatusCode::GATEWAY_TIMEOUT,
            "Upstream timeout",
            "The upstream service did not answer in time. You were not charged.",
        ),
    }
}

fn access_denied() -> Parts {
    parts(
        StatusCode::FORBIDDEN,
        "Access denied",
        "You do not have permission to access this resource",
    )
}

fn unavailable() -> Parts {
    parts(
        StatusCode::SERVICE_UNAVAILABLE,
        "Service unavailable",
        "The request was not attempted and nothing was charged. Please try again later.",
    )
}

fn overloaded() -> Parts {
    parts(
        StatusCode::SERVICE_UNAVAILABLE,
        "Server overloaded",
        "The server has as many requests as it can take. This one was not attempted and nothing was charged. \
         Please try again later.",
    )
}

impl ApiError {
    /// One field of the request is wrong.
    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        ApiError::Validation(vec![FieldError { field: field.into(), message: message.into() }])
    }

    #[expect(clippy::too_many_lines, reason = "the table of errors is one table")]
    fn parts(&self) -> Parts {
        match self {
            ApiError::Refused(refusal) => refusal_parts(refusal),
            ApiError::Validation(details) => parts(
                StatusCode::BAD_REQUEST,
                "Validation Error",
                match details.as_slice() {
                    [FieldError { field, message }] => format!("{field}: {message}"),
                    _ => "Some fields of the request are not valid".to_owned(),
                },
            ),
            ApiError::BadJson(why) => parts(
                StatusCode::BAD_REQUEST,
                "Bad request",
                format!("The body must be JSON: {why}"),
            ),
            ApiError::BodyTooLarge { max } => parts(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Payload too large",
                format!("The body must have at most {max} bytes"),
            ),
            ApiError::BodyIncomplete => parts(
                StatusCode::REQUEST_TIMEOUT,
                "Request timeout",
                "The body of the request did not arrive in time",
            ),
            ApiError::MissingSession => parts(
                StatusCode::UNAUTHORIZED,
                "Missing token",
                "Expected 'Authorization: Bearer' header with the JWT from POST /api/auth/login",
            ),
            ApiError::InvalidSession => parts(
                StatusCode::UNAUTHORIZED,
                "Invalid token",
                "The provided JWT is not valid. Please log in again; API keys are not accepted here.",
            ),
            ApiError::ExpiredSession => parts(
                StatusCode::UNAUTHORIZED,
                "Token expired",
                "The JWT has expired. Please log in again.",
            ),
            ApiError::InvalidRefresh => parts(
                StatusCode::UNAUTHORIZED,
                "Invalid refresh token",
                "The refresh token is not valid, was used before, or its session has ended. Please log in again.",
            ),
            ApiError::WrongCredentials => parts(
                StatusCode::UNAUTHORIZED,
                "Invalid credentials",
                "The email or the password is not correct",
            ),
            ApiError::InvalidEmailToken => parts(
                StatusCode::BAD_REQUEST,
                "Invalid token",
                "The token is not valid, was used before, or has expired. Please ask for another one.",
            ),
            ApiError::EmailNotVerified => parts(
                StatusCode::FORBIDDEN,
                "Email not verified",
                "Please verify your email address first. POST /api/auth/resend-verification sends the message \
                 again.",
            ),
            ApiError::InvalidChallenge => parts(
                StatusCode::UNAUTHORIZED,
                "Invalid challenge",
                "The challenge is not valid or has expired. Please log in again.",
            ),
            ApiError::WrongCode => parts(
                StatusCode::UNAUTHORIZED,
                "Invalid code",
                "The code is not correct, or was used before",
            ),
            ApiError::AccessDenied => access_denied(),
            ApiError::NotFound(what) => {
                parts(StatusCode::NOT_FOUND, "Not found", format!("There is no such {what}"))
            }
            ApiError::NoRoute => parts(
                StatusCode::NOT_FOUND,
                "Not found",
                "There is no such route. GET /api/openapi.json lists the routes.",
            ),
            ApiError::MethodNotAllowed { allow } => parts(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
                format!("This route takes {allow}"),
            ),
            ApiError::Conflict(what) => parts(StatusCode::CONFLICT, "Conflict", what.clone()),
            ApiError::ProviderOff { provider } => parts(
                StatusCode::FORBIDDEN,
                "Payment provider disabled",
                match *provider {
                    crate::payments::SANDBOX => Cow::from(
                        "The sandbox payment provider is off, because this server does not listen on a loopback \
                         address only. An operator can switch it on with payments.sandbox = true \
                         (POLYSYSTEMS_PAYMENTS__SANDBOX=true).",
                    ),
                    other => format!(
                        "The payment provider {other} is not set up on this server. An operator can do so in \
                         [payments.{other}]."
                    )
                    .into(),
                },
            ),
            ApiError::PaymentRefused(why) => parts(
                StatusCode::PAYMENT_REQUIRED,
                "Payment refused",
                format!("The payment was refused and nothing was credited: {why}"),
            ),
            ApiError::NotPayable(why) => {
                parts(StatusCode::BAD_REQUEST, "Bad request", format!("Not accepted: {why}"))
            }
            ApiError::PaymentRequired { amount } => parts(
                StatusCode::PAYMENT_REQUIRED,
                "Payment required",
                format!(
                    "Please pay ${amount} by x402: sign what the header PAYMENT-REQUIRED asks for, and send the \
                     same request again with PAYMENT-SIGNATURE."
                ),
            ),
            ApiError::ProviderUnreachable => parts(
                StatusCode::SERVICE_UNAVAILABLE,
                "Payment provider unavailable",
                "The payment provider does not answer. If a payment was begun it is on record, and is brought up to \
                 date by itself: GET /api/payments/payments tells.",
            ),
            ApiError::Unavailable => unavailable(),
            ApiError::OutcomeUnknown => parts(
                StatusCode::SERVICE_UNAVAILABLE,
                "Outcome unknown",
                "It is not known whether this request took effect. Please look before you send it again.",
            ),
            ApiError::Overloaded => overloaded(),
            ApiError::Internal => parts(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal error",
                "Something went wrong on our side. Please try again, and tell us the request id if it stays.",
            ),
        }
    }

    /// Seconds after which the same request may succeed, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            ApiError::Refused(Refusal::RateLimited { retry_after }) => Some(*retry_after),
            ApiError::Refused(Refusal::RepeatTooEarly) => Some(1),
            // Nothing that passes by itself.
            ApiError::Refused(Refusal::Quarantined) => Some(60),
            _ => match self.parts().status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(1),
                _ => None,
            },
        }
    }

    /// The answer.
    #[must_use]
    pub fn body(&self, request_id: String, timestamp: String) -> ErrorBody {
        let Parts { error, message, .. } = self.parts();
        let details = match self {
            ApiError::Validation(details) => details.clone(),
            _ => Vec::new(),
        };
        let outcome = self.outcome();
        ErrorBody { error: error.into(), message, request_id, timestamp, details, outcome }
    }

    fn outcome(&self) -> Option<UnavailableOutcome> {
        match self {
            ApiError::OutcomeUnknown
            | ApiError::ProviderUnreachable
            | ApiError::Refused(Refusal::OutcomeUnknown(_)) => {
                Some(UnavailableOutcome::OutcomeUnknown)
            }
            ApiError::Refused(Refusal::Stopped | Refusal::NotHeld(_)) => {
                Some(UnavailableOutcome::NotCharged)
            }
            _ if self.parts().status == StatusCode::SERVICE_UNAVAILABLE => {
                Some(UnavailableOutcome::NotAttempted)
            }
            _ => None,
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.parts().status
    }

    /// Only the status: [`super::edge`] writes the body, since it knows the request's id.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// The handler of a request has panicked, and its request with it: so the whole answer is here.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
pub struct Panicked(pub ErrorBody);

impl ResponseError for Panicked {
    fn status_code(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code())
            .insert_header(("x-request-id", self.0.request_id.clone()))
            .json(&self.0);
        super::security::add_headers(response.headers_mut(), false, false);
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the database failed a request");
        match error {
            StoreError::OutcomeUnknown(_) => ApiError::OutcomeUnknown,
            StoreError::Quarantined { .. } => Refusal::Quarantined.into(),
            _ => ApiError::Unavailable,
        }
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => ApiError::Unavailable,
            PasswordError::Broken => {
                tracing::error!(%error, "passwords");
                ApiError::Internal
            }
        }
    }
}

impl From<UsersError> for ApiError {
    fn from(error: UsersError) -> Self {
        match error {
            UsersError::EmailTaken => {
                ApiError::Conflict("A user with this email exists already".into())
            }
            UsersError::UsernameTaken => ApiError::Conflict("This username is taken".into()),
            UsersError::PasswordLength { field, min } => ApiError::field(
                field,
                format!("must have between {min} and {LENGTH_MAX} characters"),
            ),
            UsersError::CommonPassword { field } => {
                ApiError::field(field, "is too easy to guess; please take another one")
            }
            UsersError::TooManyAttempts(TooManyAttempts { retry_after }) => {
                Refusal::RateLimited { retry_after }.into()
            }
            UsersError::InvalidEmailToken => ApiError::InvalidEmailToken,
            UsersError::Unverified => ApiError::EmailNotVerified,
            UsersError::InvalidChallenge => ApiError::InvalidChallenge,
            UsersError::WrongCode => ApiError::WrongCode,
            UsersError::HasSecondFactor => {
                ApiError::Conflict("Two-factor authentication is on already".into())
            }
            UsersError::NoSecondFactor => {
                ApiError::Conflict("Two-factor authentication is not set up".into())
            }
            UsersError::WrongCredentials => ApiError::WrongCredentials,
            UsersError::InvalidSession => ApiError::InvalidSession,
            UsersError::ExpiredSession => ApiError::ExpiredSession,
            UsersError::InvalidRefresh => ApiError::InvalidRefresh,
            UsersError::NoSession => ApiError::NotFound("session"),
            UsersError::Password(error) => error.into(),
            UsersError::Store(error) => error.into(),
            UsersError::Unsigned | UsersError::Unsealed => {
                tracing::error!(%error, "sessions");
                ApiError::Internal
            }
        }
    }
}

impl From<KeysError> for ApiError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::NotFound => ApiError::NotFound("API key"),
            KeysError::NotActive => {
                ApiError::Conflict("This API key is out of use. Please make another one.".into())
            }
            KeysError::Changed => ApiError::Conflict(
                "This API key was changed at the same time. Please look at it, and try again."
                    .into(),
            ),
            KeysError::TooMany(_) => ApiError::Conflict(
                "This account has as many API keys as it may have. Please delete one first.".into(),
            ),
            KeysError::Busy => Refusal::TooManyInFlight.into(),
            KeysError::Store(error) => error.into(),
            KeysError::Repeat(error) => Refusal::from(error).into(),
            KeysError::Quarantined => Refusal::Quarantined.into(),
            KeysError::NotWritten => ApiError::Unavailable,
            KeysError::Unknown => Refusal::OutcomeUnknown("the account's owner died").into(),
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::NoUser => ApiError::NotFound("user"),
            AdminError::NoTier { known } => {
                ApiError::field("tier", format!("must be null or one of: {known}"))
            }
            AdminError::Amount { available: Some(available) } => ApiError::Conflict(
                format!("The account can spend ${available}; no more can be taken.").into(),
            ),
            AdminError::Amount { available: None } => {
                ApiError::Conflict("The account cannot hold so much.".into())
            }
            AdminError::AccountClosed => {
                ApiError::Conflict("The account is suspended; resume it first.".into())
            }
            AdminError::Repeat(error) => Refusal::from(error).into(),
            AdminError::Store(error) => error.into(),
            AdminError::Account(error) => error.into(),
        }
    }
}

impl From<WebhooksError> for ApiError {
    fn from(error: WebhooksError) -> Self {
        match error {
            WebhooksError::NotFound => ApiError::NotFound("webhook"),
            WebhooksError::NoDelivery => ApiError::NotFound("delivery"),
            WebhooksError::TooMany => ApiError::Conflict(
                "This account has as many webhooks as it may have. Please delete one first.".into(),
            ),
            WebhooksError::Url(why) => ApiError::field(
                "url",
                format!("must be an https address on the public internet: {why}"),
            ),
            WebhooksError::NoEvent(name) => ApiError::field(
                "events",
                format!(
                    "{name:?} selects no event; payment.confirmed and payment.* are such selections"
                ),
            ),
            WebhooksError::Unsealed => {
                tracing::error!(%error, "webhooks");
                ApiError::Internal
            }
            WebhooksError::Store(error) => error.into(),
            WebhooksError::Account(error) => error.into(),
        }
    }
}

impl From<PaymentsError> for ApiError {
    fn from(error: PaymentsError) -> Self {
        match error {
            PaymentsError::ProviderOff { provider } => ApiError::ProviderOff { provider },
            PaymentsError::AmountOfProvider { provider, min } => ApiError::field(
                "amount",
                format!("must be at least {min}, and in whole cents, for {provider}"),
            ),
            PaymentsError::Refused(why) => ApiError::PaymentRefused(why),
            PaymentsError::Unreachable(why) => {
                tracing::error!(why, "a payment provider does not answer");
                ApiError::ProviderUnreachable
            }
            PaymentsError::NotPayable(why) => ApiError::NotPayable(why),
            PaymentsError::NoMethod => ApiError::NotFound("payment method"),
            PaymentsError::Amount { max } => ApiError::Validation(vec![FieldError {
                field: "amount".into(),
                message: format!("must be more than 0 and at most {max}"),
            }]),
            PaymentsError::AccountClosed => ApiError::AccessDenied,
            PaymentsError::NotFound => ApiError::NotFound("payment"),
            PaymentsError::Repeat(error) => Refusal::from(error).into(),
            PaymentsError::Account(error) => error.into(),
        }
    }
}

impl From<ReportsError> for ApiError {
    fn from(error: ReportsError) -> Self {
        match error {
            ReportsError::NoPayment => ApiError::NotFound("payment"),
            ReportsError::NotConfirmed => {
                ApiError::Conflict("The payment is not confirmed, so there is no receipt.".into())
            }
            ReportsError::Account(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chapter 2, Authentication Error Responses: status, error, message.
    #[test]
    fn the_chapters_errors_are_to_the_letter() {
        let price = "0.002".parse().unwrap();
        for (refusal, status, error, message) in [
            (
                Refusal::MissingKey,
                401,
                "Missing API key",
                "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key",
            ),
            (Refusal::InvalidKey, 401, "Invalid API key", "The provided access key is not valid"),
            (Refusal::ExpiredKey, 401, "API key expired", "This access key has expired"),
            (
                Refusal::AccountClosed,
                403,
                "Access denied",
                "You do not have permission to access this resource",
            ),
            (
                Refusal::InsufficientCredits { price },
                402,
                "Insufficient credits",
                "This request costs $0.0020 but your balance is insufficient. Please top up your account.",
            ),
            (
                Refusal::SpendingLimit,
                402,
                "Spending limit exceeded",
                "This access key has reached its spending limit. Please adjust limits or top up credits.",
            ),
        ] {
            let refused = ApiError::from(refusal);
            assert_eq!(refused.status_code().as_u16(), status);
            let body = refused.body("req-1".into(), "now".into());
            let text = serde_json::to_string(&body).unwrap();
            let expected = format!(
                r#"{{"error":{},"message":{},"request_id":"req-1","timestamp":"now"}}"#,
                serde_json::json!(error),
                serde_json::json!(message)
            );
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn what_goes_to_the_log_never_repeats_the_body() {
        let secret = || "SecurePassword123!".to_owned();
        for error in [ApiError::BadJson(secret()), Refusal::BadBody(secret()).into()] {
            assert!(!error.to_string().contains(&secret()));
        }
    }

    /// Whether to send it again depends on it.
    #[test]
    fn what_was_not_attempted_is_told_apart_from_what_is_not_known() {
        let outcome = |error: ApiError| {
            let body = serde_json::to_value(error.body(String::new(), String::new())).unwrap();
            body.get("outcome").map(|outcome| outcome.as_str().unwrap().to_owned())
        };
        for error in [
            ApiError::Unavailable,
            ApiError::Overloaded,
            Refusal::Unavailable("").into(),
            Refusal::Quarantined.into(),
        ] {
            assert_eq!(outcome(error).as_deref(), Some("not-attempted"));
        }
        for error in [ApiError::OutcomeUnknown, Refusal::OutcomeUnknown("").into()] {
            assert_eq!(outcome(error).as_deref(), Some("outcome-unknown"));
        }
        for error in
            [ApiError::Internal, Refusal::InvalidKey.into(), Refusal::TooManyInFlight.into()]
        {
            assert_eq!(outcome(error), None);
        }
    }

    #[test]
    fn whoever_may_try_again_is_told_when() {
        for refusal in [
            Refusal::RateLimited { retry_after: 7 },
            Refusal::TooManyInFlight,
            Refusal::Unavailable(""),
            Refusal::OutcomeUnknown(""),
        ] {
            assert!(ApiError::from(refusal).retry_after().is_some());
        }
        assert_eq!(ApiError::from(Refusal::InvalidKey).retry_after(), None);
    }
}
