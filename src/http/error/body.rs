//! The contract's body of an error: `error` and `message` first, then `request_id` and `timestamp`,
//! what programs read (`code`, `type`, `doc_url`), `details` if fields of the request are wrong,
//! and `outcome` if it is not plain whether it happened.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::{HttpResponse, ResponseError};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiError;
use super::form::Form;
use super::texts::Texts;
use crate::http::security;
use domain::{ChargeId, Refusal, Timestamp};

/// Most fields that an answer names. A request may have more that are wrong.
const DETAILS_MAX: usize = 20;

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, as the request names it.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// The body of an error on `/api/*`.
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
    /// What went wrong, for programs: one word, which stays.
    #[schema(pattern = "^[a-z0-9_]+$")]
    pub code: &'static str,
    /// The kind of error, which the status gives.
    #[serde(rename = "type")]
    #[schema(pattern = "^[a-z_]+$")]
    pub kind: &'static str,
    /// Where the code is explained, relative to the server.
    #[schema(pattern = "^/docs/errors#[a-z0-9_]+$")]
    pub doc_url: &'static str,
    /// The fields that are wrong, if any are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<FieldError>,
    /// Of a 503: `not-attempted` (nothing happened; the same request can be sent again) or
    /// `not-charged` (it was begun and cost nothing). Of a 424: `outcome-unknown` (it may have
    /// happened; check what is on record before you send it again).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub outcome: Option<UnavailableOutcome>,
}

/// Whether a request that was answered 503 or 424 may have happened.
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

impl ApiError {
    /// The answer.
    #[must_use]
    pub fn body(&self, request_id: String, timestamp: String) -> ErrorBody {
        let Texts { code, message } = self.texts();
        let details = match self {
            ApiError::Validation(details) => details.iter().take(DETAILS_MAX).cloned().collect(),
            _ => Vec::new(),
        };
        ErrorBody {
            error: code.error.into(),
            message,
            request_id,
            timestamp,
            code: code.code,
            kind: code.kind(),
            doc_url: code.doc_url,
            details,
            outcome: self.outcome(code.status),
        }
    }

    pub(super) fn outcome(&self, status: StatusCode) -> Option<UnavailableOutcome> {
        match self {
            ApiError::OutcomeUnknown
            | ApiError::ProviderUnreachable
            | ApiError::Refused(Refusal::OutcomeUnknown(_)) => {
                Some(UnavailableOutcome::OutcomeUnknown)
            }
            ApiError::Refused(Refusal::Stopped | Refusal::NotHeld(_)) => {
                Some(UnavailableOutcome::NotCharged)
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                Some(UnavailableOutcome::NotAttempted)
            }
            _ => None,
        }
    }
}

/// The status and the body of a refusal of a call to this path, as they are recorded for repeats.
#[must_use]
pub fn refusal_answer(
    refusal: &Refusal,
    path: &str,
    id: ChargeId,
    at: Timestamp,
) -> (StatusCode, Bytes) {
    let error = ApiError::from(refusal.clone());
    let body = error.json(Form::of(path), id.to_string(), at.to_rfc3339());
    (error.status_code(), body.into())
}

/// The handler of a request has panicked. The request is gone with it, so the whole body is here.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
pub(crate) struct Panicked {
    /// The id of the request.
    pub request_id: String,
    /// The status of the answer.
    pub status: StatusCode,
    /// The JSON of the answer.
    pub body: String,
    /// The value of `Strict-Transport-Security`, if the client uses TLS.
    pub hsts: Option<HeaderValue>,
}

impl ResponseError for Panicked {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code())
            .insert_header(("x-request-id", self.request_id.clone()))
            .content_type("application/json")
            .body(self.body.clone());
        security::add_headers(
            response.headers_mut(),
            security::AnswerKind::Data,
            self.hsts.clone(),
        );
        response
    }
}
