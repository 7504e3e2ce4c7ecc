//! Every error that is answered: one closed enum. This folder is the only place that knows the
//! status of an error.
//!
//! [`codes`] has the code, the status and the name of each, [`texts`] its message, [`body`] what is
//! answered, [`form`] its JSON for the clients of each protocol, [`from`] how the errors of the
//! other modules become one of these.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};

use crate::upstream::CHARGED_FAILURE;
use domain::{Credits, Refusal};

mod body;
mod codes;
mod form;
mod from;
mod texts;

pub use body::refusal_answer;
pub(crate) use body::{ErrorBody, FieldError, Panicked};
pub(crate) use codes::page as codes_page;
pub(crate) use form::{AnthropicErrorBody, Form, GeminiErrorBody, OpenAiErrorBody};

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
    /// The body came too slowly.
    #[error("the body did not come in time")]
    BodyIncomplete,
    /// The body has broken chunks, or ended early.
    #[error("the body is malformed")]
    BodyMalformed,
    /// The address or the account has too many bodies on their way.
    #[error("too many bodies on their way")]
    TooManyBodies,
    /// The body of a call is compressed.
    #[error("the body is encoded")]
    ContentEncoding,
    /// The request is no HTTP.
    #[error("the request is malformed")]
    BadRequest,
    /// The head of the request came too slowly.
    #[error("the head did not come in time")]
    HeadIncomplete,
    /// The head of the request is too large.
    #[error("head too large")]
    HeadTooLarge,
    /// The request asks for another protocol.
    #[error("upgrades are refused")]
    NoUpgrade,
    /// An API key in the query.
    #[error("an API key in the query")]
    KeyInQuery,
    /// Headers with different API keys.
    #[error("different API keys")]
    DifferentKeys,
    /// A session cookie, and an `Authorization` header beside it.
    #[error("two credentials")]
    TwoCredentials,
    /// A session cookie with a request that a page of somebody else may have sent.
    #[error("of another origin")]
    CrossOrigin,
    /// Nobody may register.
    #[error("registration is closed")]
    RegistrationClosed,
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
    /// Who asks must prove again who they are.
    #[error("the session is not confirmed")]
    NotConfirmed,
    /// The address must be verified first.
    #[error("the email address is not verified")]
    EmailNotVerified,
    /// An operator must set up a second factor first.
    #[error("an operator without a second factor")]
    SecondFactorRequired,
    /// An operator sets up a second factor with a token of the command line.
    #[error("no token to set up an operator's second factor")]
    EnrolmentTokenRequired,
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
    /// The request must say which revision it is made for.
    #[error("no If-Match")]
    RevisionMissing,
    /// The request is made for another revision than the one in force.
    #[error("revision {current} is in force")]
    RevisionStale {
        /// The revision in force.
        current: u64,
    },
    /// The catalogue is written in a file.
    #[error("the catalogue is a file")]
    CatalogueIsAFile,
    /// Somebody has it already; says what.
    #[error("conflict: {0}")]
    Conflict(Cow<'static, str>),
    /// A payment provider is off.
    #[error("the payment provider {provider} is off")]
    ProviderOff {
        /// Its name.
        provider: &'static str,
    },
    /// Payments move money of a test, and real models are sold.
    #[error("payments move money of a test, because {setting}")]
    TestMoney {
        /// The setting, and what it is.
        setting: &'static str,
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

impl ApiError {
    /// One field of the request is wrong.
    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        ApiError::Validation(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// Seconds after which the same request may succeed, where waiting helps. `status` is that of
    /// the error: to find it out again would make the texts anew.
    #[must_use]
    pub fn retry_after(&self, status: StatusCode) -> Option<u64> {
        match self {
            ApiError::Refused(
                Refusal::RateLimited { retry_after } | Refusal::UpstreamBusy { retry_after, .. },
            ) => Some(*retry_after),
            ApiError::Refused(Refusal::RepeatTooEarly) => Some(1),
            // Nothing that passes by itself.
            ApiError::Refused(Refusal::Quarantined) => Some(60),
            _ => match status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(1),
                _ => None,
            },
        }
    }
}

impl ApiError {
    /// The challenge of a 401, which asks for a token or a key, and says if there was one that does
    /// not hold (RFC 9110, RFC 6750). `status` is that of the error.
    #[must_use]
    pub fn challenge(&self, status: StatusCode) -> Option<&'static str> {
        if status != StatusCode::UNAUTHORIZED {
            return None;
        }
        Some(match self {
            ApiError::InvalidSession
            | ApiError::ExpiredSession
            | ApiError::Refused(Refusal::InvalidKey | Refusal::ExpiredKey) => {
                "Bearer realm=\"polysystems\", error=\"invalid_token\""
            }
            _ => "Bearer realm=\"polysystems\"",
        })
    }

    /// Must a client not send the request again by itself? The official clients of OpenAI and
    /// Anthropic obey `X-Should-Retry`, others only the status.
    /// `status` is that of the error, as in [`ApiError::retry_after`].
    #[must_use]
    pub fn must_not_be_retried(&self, status: StatusCode) -> bool {
        matches!(status.as_u16(), 402..=404)
            || status == CHARGED_FAILURE
            || matches!(self, ApiError::Refused(Refusal::UpstreamLost))
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.texts().code.status
    }

    /// Only the status: [`super::edge`] writes the body, since it knows the request's id.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors that the API's contract fixes: status, error, message.
    #[test]
    fn the_contracts_errors_are_to_the_letter() {
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
                r#"{{"error":{},"message":{},"request_id":"req-1","timestamp":"now","code":"#,
                serde_json::json!(error),
                serde_json::json!(message)
            );
            assert!(text.starts_with(&expected), "{text}");
            let kind = ["authentication_error", "payment_error", "permission_error"]
                .get(usize::from(status - 401))
                .unwrap();
            let code = refused.texts().code.code;
            let rest = format!(r#""{code}","type":"{kind}","doc_url":"/docs/errors#{code}"}}"#);
            assert_eq!(text.get(expected.len()..), Some(&*rest));
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
    fn what_may_have_been_paid_is_not_repeated_by_itself() {
        let price = "0.002".parse().unwrap();
        for refusal in [
            Refusal::InsufficientCredits { price },
            Refusal::SpendingLimit,
            Refusal::NotPermitted,
            Refusal::NoPrice,
            Refusal::OutcomeUnknown(""),
            Refusal::UpstreamLost,
        ] {
            let error = ApiError::from(refusal);
            assert!(error.must_not_be_retried(error.status_code()), "{error:?}");
        }
        for error in [
            Refusal::UpstreamGivenUp { cost: price }.into(),
            Refusal::AnswerTooLarge { cost: price }.into(),
            Refusal::OutcomeUnknown("").into(),
            ApiError::OutcomeUnknown,
            ApiError::ProviderUnreachable,
        ] {
            assert_eq!(error.status_code(), CHARGED_FAILURE, "{error:?}");
            assert!(error.must_not_be_retried(CHARGED_FAILURE), "{error:?}");
            assert_eq!(error.retry_after(CHARGED_FAILURE), None, "{error:?}");
        }
        for refusal in [
            Refusal::RateLimited { retry_after: 1 },
            Refusal::TooManyInFlight,
            Refusal::Unavailable(""),
            Refusal::Overloaded,
            Refusal::Stopped,
            Refusal::UpstreamTimedOut,
            Refusal::UpstreamFailed(""),
            Refusal::RepeatTooEarly,
            Refusal::MissingKey,
        ] {
            let error = ApiError::from(refusal);
            assert!(!error.must_not_be_retried(error.status_code()), "{error:?}");
        }
    }

    #[test]
    fn retry_after_is_set_if_waiting_helps() {
        for refusal in [
            Refusal::RateLimited { retry_after: 7 },
            Refusal::TooManyInFlight,
            Refusal::Unavailable(""),
            Refusal::ModelUnavailable,
        ] {
            let error = ApiError::from(refusal);
            assert!(error.retry_after(error.status_code()).is_some());
        }
        for (is_limit, status) in [(true, 429), (false, 503)] {
            let error = ApiError::from(Refusal::UpstreamBusy { retry_after: 9, is_limit });
            assert_eq!(error.status_code().as_u16(), status);
            assert_eq!(error.retry_after(error.status_code()), Some(9));
            assert!(!error.must_not_be_retried(error.status_code()));
        }
        let error = ApiError::from(Refusal::InvalidKey);
        assert_eq!(error.retry_after(error.status_code()), None);
    }
}
