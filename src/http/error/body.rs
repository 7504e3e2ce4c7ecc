//! The body of an error: `error` and `message` first, then `request_id` and `timestamp`, `details`
//! if fields of the request are wrong, and `outcome` with a 503.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiError;
use super::texts::Texts;
use crate::http::security;
use domain::{ChargeId, Refusal, Timestamp};

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, as the request names it.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// The body of every error.
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
    /// The fields that are wrong, if any are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<FieldError>,
    /// Of a 503: `not-attempted` (nothing happened; the same request can be sent again),
    /// `not-charged` (it was begun and cost nothing), or `outcome-unknown` (it may have happened;
    /// check what is on record before you send it again).
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

impl ApiError {
    /// The answer.
    #[must_use]
    pub fn body(&self, request_id: String, timestamp: String) -> ErrorBody {
        let Texts { error, message, .. } = self.texts();
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
            _ if self.texts().status == StatusCode::SERVICE_UNAVAILABLE => {
                Some(UnavailableOutcome::NotAttempted)
            }
            _ => None,
        }
    }
}

/// The status and the body of a refusal, as they are recorded for repeats.
#[must_use]
pub fn refusal_answer(refusal: &Refusal, id: ChargeId, at: Timestamp) -> (StatusCode, Bytes) {
    let error = ApiError::from(refusal.clone());
    let body = error.body(id.to_string(), at.to_rfc3339());
    (error.status_code(), serde_json::to_vec(&body).unwrap_or_default().into())
}

/// The handler of a request has panicked. The request is gone with it, so the whole body is here.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
pub(crate) struct Panicked(pub ErrorBody);

impl ResponseError for Panicked {
    fn status_code(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code())
            .insert_header(("x-request-id", self.0.request_id.clone()))
            .json(&self.0);
        security::add_headers(response.headers_mut(), false, false);
        response
    }
}
