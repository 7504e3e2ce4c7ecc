//! `Idempotency-Key` on management routes: payments and key creation.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;

use super::amount::to_json;
use super::error::{ApiError, FieldError};
use super::extract::Body;
use crate::idempotency::{Fingerprint, IdempotencyKey, KeptAnswer, Once};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was given before.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The request's `Idempotency-Key`, if it has one.
pub(crate) fn idempotency_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(value) = values.next() else { return Ok(None) };
    let invalid = |message: String| {
        ApiError::Validation(vec![FieldError { field: "Idempotency-Key".into(), message }])
    };
    if values.next().is_some() {
        return Err(invalid("must be sent only once".into()));
    }
    // A header that is not text is not a key either.
    let text = value.to_str().unwrap_or_default();
    IdempotencyKey::parse(text).map(Some).map_err(|error| invalid(error.to_string()))
}

/// The request's idempotency, if it has a key; `encode` makes the body of its answer, `location`
/// says where the new thing is.
pub(crate) fn once<T, A: Serialize>(
    request: &HttpRequest,
    body: &Body,
    encode: impl Fn(&T) -> A + 'static,
    location: impl Fn(&T) -> String + 'static,
) -> Result<Option<Once<T>>, ApiError> {
    let Some(key) = idempotency_key(request)? else { return Ok(None) };
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let fingerprint = Fingerprint::of(request.method().as_str(), target, body.raw());
    let answer = move |made: &T| KeptAnswer {
        status: StatusCode::CREATED.as_u16(),
        headers: vec![(LOCATION.as_str().to_owned(), location(made))],
        body: to_json(&encode(made)).into(),
    };
    Ok(Some(Once { key, fingerprint, answer: Box::new(answer) }))
}

/// The answer that was given before.
pub(crate) fn replay(kept: KeptAnswer) -> HttpResponse {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let mut answer = HttpResponseBuilder::new(status);
    for (name, value) in kept.headers {
        answer.insert_header((name, value));
    }
    answer
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .insert_header((REPLAYED, HeaderValue::from_static("true")))
        .body(kept.body)
}
