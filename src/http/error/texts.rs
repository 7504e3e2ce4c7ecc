//! The status and the texts of every error. A text says what happened, then what to do.
//!
//! The texts of [`Refusal`] up to `SpendingLimit` are part of the API's contract; see the test in
//! [`super`].

use std::borrow::Cow;

use super::codes::{Code, ErrorCode};
use super::{ApiError, FieldError};
use domain::Refusal;

/// What is answered.
pub(super) struct Texts {
    pub(super) code: ErrorCode,
    pub(super) message: Cow<'static, str>,
}

fn texts(code: Code, message: impl Into<Cow<'static, str>>) -> Texts {
    Texts { code: code.facts(), message: message.into() }
}

impl ApiError {
    #[expect(clippy::too_many_lines, reason = "the table of errors is one table")]
    pub(super) fn texts(&self) -> Texts {
        match self {
            ApiError::Refused(refusal) => refused(refusal),
            ApiError::Validation(details) => texts(Code::ValidationError,
                match details.as_slice() {
                    [FieldError { field, message }] => format!("{field}: {message}"),
                    _ => "Some fields of the request are not valid. Please see details.".to_owned(),
                },
            ),
            ApiError::BadJson(why) => texts(Code::InvalidJson,
                format!("The body must be JSON: {why}"),
            ),
            ApiError::BodyTooLarge { max } => texts(Code::PayloadTooLarge,
                format!("The body is too large. At most {max} bytes are accepted."),
            ),
            ApiError::BodyIncomplete => texts(Code::RequestTimeout,
                "The body of the request did not arrive in time. Please send the request again.",
            ),
            ApiError::BodyMalformed => texts(Code::MalformedBody,
                "The body of the request is malformed or ended early. Please check its length and its chunks.",
            ),
            ApiError::TooManyBodies => texts(Code::TooManyRequests,
                "Too many requests from your address or of your account are being received at the same time. \
                 Please try again when some of them are complete.",
            ),
            ApiError::ContentEncoding => texts(Code::ContentEncodingNotSupported,
                "Compressed bodies are not accepted. Please send the body as it is, without Content-Encoding.",
            ),
            ApiError::BadRequest => texts(Code::MalformedRequest,
                "The request is not valid HTTP/1.1. Please check its request line and its headers.",
            ),
            ApiError::HeadIncomplete => texts(Code::RequestTimeout,
                "The headers of the request did not arrive in time. Please send the request again.",
            ),
            ApiError::HeadTooLarge => texts(Code::HeadersTooLarge,
                "The headers of the request are too large or too many. Please send at most 96 headers and 128 KiB.",
            ),
            ApiError::NoUpgrade => texts(Code::UpgradeNotSupported,
                "This server speaks HTTP/1.1 only, without WebSocket or tunnels. Please send the request without \
                 the Upgrade header.",
            ),
            ApiError::KeyInQuery => texts(Code::KeyInQuery,
                "An API key is not accepted in the query, because addresses are logged on their way. Please send it \
                 in the 'X-API-Key' header, and rotate it, since it may be in a log.",
            ),
            ApiError::DifferentKeys => texts(Code::DifferentKeys,
                "The headers of the request have different API keys. Please send one.",
            ),
            ApiError::TwoCredentials => texts(Code::TwoCredentials,
                "The request has a session cookie and an 'Authorization' header. Please send one of them.",
            ),
            ApiError::CrossOrigin => texts(Code::CrossOrigin,
                "With the session cookie a request must come from a page of this server, with 'Content-Type: \
                 application/json'. Programs send the JWT of POST /api/auth/login in 'Authorization: Bearer'.",
            ),
            ApiError::RegistrationClosed => texts(Code::RegistrationClosed,
                "Nobody can register here by themselves. Please ask the operator of this server for an account.",
            ),
            ApiError::MissingSession => texts(Code::MissingToken,
                "Expected 'Authorization: Bearer' header with the JWT from POST /api/auth/login",
            ),
            ApiError::InvalidSession => texts(Code::InvalidToken,
                "The provided JWT is not valid. Please log in again; API keys are not accepted here.",
            ),
            ApiError::ExpiredSession => texts(Code::TokenExpired,
                "The JWT has expired. Please log in again.",
            ),
            ApiError::InvalidRefresh => texts(Code::InvalidRefreshToken,
                "The refresh token is not valid, was used before, or its session has ended. Please log in again.",
            ),
            ApiError::WrongCredentials => texts(Code::InvalidCredentials,
                "The email or the password is not correct",
            ),
            ApiError::InvalidEmailToken => texts(Code::InvalidEmailToken,
                "The token is not valid, was used before, or has expired. Please request a new one.",
            ),
            ApiError::NotConfirmed => texts(Code::ConfirmationRequired,
                "Please prove once more who you are: send your password or a code to POST /api/auth/confirm, then \
                 send this request again.",
            ),
            ApiError::EmailNotVerified => texts(Code::EmailNotVerified,
                "Please verify your email address first. POST /api/auth/resend-verification sends the message \
                 again.",
            ),
            ApiError::SecondFactorRequired => texts(Code::SecondFactorRequired,
                "Operators need two-factor authentication. Please set it up first: POST /api/auth/2fa/enroll, then \
                 POST /api/auth/2fa/confirm.",
            ),
            ApiError::EnrolmentTokenRequired => texts(Code::EnrolmentTokenRequired,
                "Operators set up two-factor authentication with a token, which works once, for an hour. On the \
                 server, `polysystems user enroll2fa` prints one. Please send it as `token` beside the code.",
            ),
            ApiError::InvalidChallenge => texts(Code::InvalidChallenge,
                "The challenge is not valid or has expired. Please log in again.",
            ),
            ApiError::WrongCode => texts(Code::InvalidCode,
                "The code is wrong or was used before. Please enter the current one.",
            ),
            ApiError::AccessDenied => access_denied(Code::AccessDenied),
            ApiError::NotFound(what) => {
                texts(Code::NotFound, format!("There is no such {what}"))
            }
            ApiError::NoRoute => texts(Code::NoSuchRoute,
                "There is no such route. GET /api/openapi.json lists the routes.",
            ),
            ApiError::MethodNotAllowed { allow } => texts(Code::MethodNotAllowed,
                format!("This route supports {allow}"),
            ),
            ApiError::RevisionMissing => texts(Code::RevisionMissing,
                "Please send the header If-Match with the ETag of GET /api/admin/catalogue, so that no change of \
                 somebody else is lost.",
            ),
            ApiError::RevisionStale { current } => texts(Code::RevisionStale,
                format!(
                    "The catalogue has changed: revision {current} is in force. Please read it and make your change \
                     again."
                ),
            ),
            ApiError::CatalogueIsAFile => texts(Code::CatalogueIsAFile,
                "The catalogue is written in the file of the setting catalogue.file. Please change the file; the \
                 server reads it again within seconds.",
            ),
            ApiError::Conflict(what) => texts(Code::Conflict, what.clone()),
            ApiError::TestMoney { setting } => texts(
                Code::PaymentProviderDisabled,
                format!(
                    "This server sells models of real providers, and its payments cost nothing: {setting}. An operator \
                     can set up real payments, or set payments.sell_for_test_money = true."
                ),
            ),
            ApiError::ProviderOff { provider } => texts(Code::PaymentProviderDisabled,
                match *provider {
                    crate::payments::SANDBOX => Cow::from(
                        "The sandbox payment provider is off for this request. If nobody has switched it on, it \
                         serves requests that come without a proxy, while the server listens on a loopback \
                         address, sells no model, and has no upstream URL, Stripe, x402 or trusted proxy. An operator can switch \
                         it on for everybody with payments.sandbox = true (POLYSYSTEMS_PAYMENTS__SANDBOX=true).",
                    ),
                    other => format!(
                        "The payment provider {other} is not set up on this server. An operator can set it up in \
                         [payments.{other}]."
                    )
                    .into(),
                },
            ),
            ApiError::PaymentRefused(why) => texts(Code::PaymentRefused,
                format!("The payment was refused and nothing was credited: {why}"),
            ),
            ApiError::NotPayable(why) => {
                texts(Code::PaymentNotAcceptable, format!("Not accepted: {why}"))
            }
            ApiError::PaymentRequired { amount } => texts(Code::PaymentRequired,
                format!(
                    "Please pay ${amount} by x402: sign the terms in the header PAYMENT-REQUIRED and send the same \
                     request again with PAYMENT-SIGNATURE."
                ),
            ),
            ApiError::ProviderUnreachable => texts(Code::PaymentProviderUnavailable,
                "The payment provider does not answer. A payment that was begun is on record and will be updated \
                 automatically. Please check GET /api/payments/payments before you try again.",
            ),
            ApiError::Unavailable => unavailable(),
            ApiError::OutcomeUnknown => texts(Code::OutcomeUnknown,
                "It is not known whether this request took effect. Please check before you send it again.",
            ),
            ApiError::Overloaded => overloaded(),
            ApiError::Internal => texts(Code::InternalError,
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
            Code::RateLimitExceeded,
            format!("Too many requests. Please try again in {retry_after} seconds."),
        ),
        Refusal::TooManyInFlight => texts(
            Code::TooManyConcurrentRequests,
            "This account has too many requests running. Please try again when some have finished.",
        ),
        Refusal::MissingKey => texts(
            Code::MissingKey,
            "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key",
        ),
        Refusal::InvalidKey => texts(Code::InvalidKey, "The provided access key is not valid"),
        Refusal::ExpiredKey => texts(Code::KeyExpired, "This access key has expired"),
        Refusal::AccountClosed => access_denied(Code::AccountSuspended),
        Refusal::NotPermitted => access_denied(Code::KeyNotPermitted),
        Refusal::ModelNotSold => {
            texts(Code::ModelNotFound, "This model is not sold here. Please choose another one.")
        }
        Refusal::ModelNotPriced => texts(
            Code::ModelNotPriced,
            "This model has no price for your account. Please choose another one, or write to the operator of \
             this server.",
        ),
        Refusal::ModelRetired { successor } => texts(
            Code::ModelRetired,
            match successor {
                Some(successor) => {
                    format!(
                        "This model is not sold any more. Please use its successor, {successor}."
                    )
                }
                None => "This model is not sold any more. Please choose another one.".to_owned(),
            },
        ),
        Refusal::ServiceTierNotSold => texts(
            Code::ServiceTierNotSold,
            "This model is not sold in the service tier that the request asks for. Please send the request without it.",
        ),
        Refusal::ContextTooLong { tokens, max } => texts(
            Code::ContextTooLong,
            format!(
                "prompt is too long: {tokens} tokens > {max} maximum. Please shorten it, or choose a model with a \
                 larger context window."
            ),
        ),
        Refusal::NoPrice => texts(
            Code::NoPrice,
            "This route has no price. GET /api/pricing lists the routes that can be called.",
        ),
        Refusal::BadBody(why) => texts(Code::BadRequest, why.clone()),
        Refusal::InsufficientCredits { price } => texts(
            Code::InsufficientCredits,
            format!(
                "This request costs ${price} but your balance is insufficient. Please top up your account."
            ),
        ),
        Refusal::SpendingLimit => texts(
            Code::SpendingLimitExceeded,
            "This access key has reached its spending limit. Please adjust limits or top up credits.",
        ),
        Refusal::Unavailable(_) => unavailable(),
        Refusal::Quarantined => texts(
            Code::AccountQuarantined,
            "The records of this account are inconsistent, so its calls are blocked until an operator has checked \
             them. Nothing was charged. Please contact support.",
        ),
        Refusal::OutcomeUnknown(_) => texts(
            Code::OutcomeUnknown,
            "It is not known whether this request was charged. Please check GET /api/payments/transactions before \
             you send it again.",
        ),
        Refusal::NotHeld(_) => texts(
            Code::LedgerTooSlow,
            "The ledger did not answer in time, so the upstream's answer was not delivered. You were not \
             charged. Please try again.",
        ),
        Refusal::Stopped => texts(
            Code::ServerStopped,
            "The server stopped before the upstream service had answered. You were not charged. Please try again.",
        ),
        Refusal::Overloaded => overloaded(),
        // Nobody is there to read it.
        Refusal::UpstreamFailed(_) | Refusal::ClientLeft => {
            texts(Code::UpstreamError, "The upstream service failed. You were not charged.")
        }
        Refusal::UpstreamLost => texts(
            Code::UpstreamLost,
            "The upstream service took the request, and broke the connection before it answered. You were not \
             charged. It may have done the work: please send the request again only if it may be done twice.",
        ),
        Refusal::UpstreamBusy { retry_after, is_limit } => texts(
            if *is_limit { Code::UpstreamRateLimited } else { Code::UpstreamBusy },
            format!(
                "Everybody who serves this model is busy. You were not charged. Please try again in {retry_after} \
                 seconds."
            ),
        ),
        Refusal::ModelUnavailable => texts(
            Code::ModelUnavailable,
            "Nobody serves this model at the moment. You were not charged. Please try again later, or choose \
             another model.",
        ),
        Refusal::RepeatTooEarly => texts(
            Code::RequestInProgress,
            "The first request with this Idempotency-Key is still running. Please try again later.",
        ),
        Refusal::RepeatDiffers => texts(
            Code::IdempotencyKeyReused,
            "This Idempotency-Key was used for a different request. Please use a new key for a new request.",
        ),
        Refusal::RepeatNotKept => texts(
            Code::AnswerNotKept,
            "This request was answered and charged before, but its answer was too large to store. To send it \
             again, at its price, please use a new Idempotency-Key.",
        ),
        Refusal::UpstreamTimedOut => texts(
            Code::UpstreamTimeout,
            "The upstream service did not answer in time. You were not charged.",
        ),
        Refusal::UpstreamGivenUp { cost } => texts(
            Code::UpstreamGivenUp,
            format!(
                "The upstream service was at work for longer than a call may take. You were charged ${cost} for \
                 that work. Please ask for fewer tokens, or for a stream."
            ),
        ),
        Refusal::AnswerTooLarge { cost } => texts(
            Code::AnswerTooLarge,
            format!(
                "The upstream service's answer is larger than this server passes on. You were charged ${cost} for \
                 it. Please ask for less, or for a stream."
            ),
        ),
    }
}

fn access_denied(code: Code) -> Texts {
    texts(code, "You do not have permission to access this resource")
}

fn unavailable() -> Texts {
    texts(
        Code::ServiceUnavailable,
        "The request was not attempted and nothing was charged. Please try again later.",
    )
}

fn overloaded() -> Texts {
    texts(
        Code::ServerOverloaded,
        "The server is at capacity. The request was not attempted and nothing was charged. Please try again \
         later.",
    )
}
