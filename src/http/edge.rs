//! The outermost layer of every request: an id, one log line, security headers, and the body of an
//! error.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, HttpResponseBuilder};
use futures_util::FutureExt as _;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::connection::ConnectionState;
use super::error::{ApiError, Panicked};
use super::extract::bearer;
use super::places::{leave_place, take_first_place};
use super::{App, security};
use crate::pipeline::{Admission, RequestContext};
use crate::telemetry;
use domain::ChargeId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request, made here.
pub fn request_id(request: &HttpRequest) -> ChargeId {
    request.extensions().get::<ChargeId>().copied().unwrap_or(ChargeId(Uuid::nil()))
}

/// Longest path in a span or a log line, in characters.
const PATH_CHARACTERS_MAX: usize = 256;

/// Does the request have a session token that we have signed? Whether the session goes on is seen
/// later.
fn has_session(request: &ServiceRequest, app: &App) -> bool {
    bearer(request.request())
        .is_some_and(|token| app.users.sessions.read(token, app.clock.now()).is_ok())
}

/// Does the request ask for another protocol? The library takes all that follows for its body,
/// which has no end then. Other values of `Upgrade`, such as `h2c`, may be ignored and are.
fn is_upgrade(request: &ServiceRequest) -> bool {
    let (_, payload) = request.parts();
    if matches!(payload, Payload::None) {
        return false;
    }
    let is_web_socket =
        |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    *request.method() == Method::CONNECT || request.headers().get_all(UPGRADE).any(is_web_socket)
}

/// The outermost layer.
pub async fn edge<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let started = Instant::now();
    let id = ChargeId(Uuid::now_v7());
    request.extensions_mut().insert(id);
    let id_text = id.to_string();
    let _busy = ConnectionState::of(request.request()).map(ConnectionState::busy);
    let app = request.app_data::<Data<App>>();
    let first = if is_upgrade(&request) {
        Err(ApiError::NoUpgrade)
    } else {
        app.map_or(Ok(()), |app| take_first_place(&request, app, || has_session(&request, app)))
    };
    let readiness = app.map(|app| Arc::clone(&app.readiness));
    if let Err(error) = first {
        // Before any work, and without a line in the log: refusals must stay cheap.
        let is_tls = is_tls(request.request());
        let mut response = complete_error(request.error_response(error), &id_text);
        add_request_id(&mut response, &id_text);
        security::add_headers(response.headers_mut(), false, is_tls);
        return Ok(response.map_into_boxed_body().map_into_right_body());
    }
    let span = span(&request, &id_text);
    let answering = answer(request, next, &id_text, readiness.as_deref());
    let response = answering.instrument(span.clone()).await?;
    leave_place(response.request());
    note_status(&span, &response);
    let reason = response.response().error().map(ToString::to_string);
    let mut response = complete_error(response, &id_text);
    add_request_id(&mut response, &id_text);
    let is_tls = is_tls(response.request());
    let is_documentation = response.request().path().starts_with("/docs/");
    security::add_headers(response.headers_mut(), is_documentation, is_tls);
    if readiness.is_some_and(|readiness| readiness.is_unready()) {
        // Otherwise the client finds a kept connection closed under its next request.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    log(&response, &id_text, reason.as_deref(), started);
    Ok(response)
}

fn add_request_id<B>(response: &mut ServiceResponse<B>, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

/// The span of a request, continued from the caller's trace if that is set.
fn span(request: &ServiceRequest, request_id: &str) -> Span {
    let span = tracing::info_span!(
        target: telemetry::SPANS,
        "request",
        otel.kind = "server",
        otel.status_code = Empty,
        request_id,
        "http.request.method" = request.method().as_str(),
        "url.path" = Empty,
        "http.response.status_code" = Empty,
    );
    if !span.is_disabled() {
        span.record("url.path", &*shown_path(request.path()));
        let is_continued = request.app_data::<Data<App>>().is_some_and(|app| app.continues_traces);
        if is_continued {
            telemetry::continue_from(&span, request.headers());
        }
    }
    span
}

fn note_status<B>(span: &Span, response: &ServiceResponse<B>) {
    if span.is_disabled() {
        return;
    }
    let status = response.status();
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let request = response.request();
    // The pattern of the route, not the path, which can contain anything.
    let route = request.match_pattern().unwrap_or_default();
    telemetry::name(span, format!("{} {route}", request.method()));
}

fn is_tls(request: &HttpRequest) -> bool {
    request.app_data::<Data<App>>().is_some_and(|app| app.is_tls)
}

/// Calls the handler. If it panics, only its own request fails, with 500.
async fn answer<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
    request_id: &str,
    readiness: Option<&Admission>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let clock = request.app_data::<Data<App>>().map(|app| app.clock.clone());
    if let Ok(answered) = AssertUnwindSafe(next.call(request)).catch_unwind().await {
        return answered;
    }
    // The panic hook has logged where it happened.
    tracing::error!(request_id, "a handler panicked");
    if let Some(readiness) = readiness {
        readiness.note_panic();
    }
    let timestamp = clock.map(|clock| clock.now().to_rfc3339()).unwrap_or_default();
    Err(Panicked(ApiError::Internal.body(request_id.to_owned(), timestamp)).into())
}

/// Gives an error the body that the contract says.
fn complete_error<B>(
    response: ServiceResponse<B>,
    request_id: &str,
) -> ServiceResponse<EitherBody<B>> {
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return response.map_into_left_body();
    }
    let error = match response.response().error() {
        Some(error) => match error.as_error::<ApiError>() {
            Some(error) => error.clone(),
            None => foreign(&response),
        },
        // An upstream's own answer, which is passed on as it is.
        None => return response.map_into_left_body(),
    };
    let clock = response.request().app_data::<Data<App>>().map(|app| &app.clock);
    let timestamp = clock.map(|clock| clock.now().to_rfc3339()).unwrap_or_default();
    let body = error.body(request_id.to_owned(), timestamp);
    let text = serde_json::to_string(&body).unwrap_or_default();
    let (request, mut old) = response.into_parts();
    let mut new: HttpResponse = HttpResponseBuilder::new(old.status()).body(text);
    std::mem::swap(new.headers_mut(), old.headers_mut());
    std::mem::swap(&mut *new.extensions_mut(), &mut *old.extensions_mut());
    let headers = new.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let ApiError::MethodNotAllowed { allow } = &error
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        headers.insert(ALLOW, allow);
    }
    ServiceResponse::new(request, new.map_into_boxed_body()).map_into_right_body()
}

/// An error that actix-web itself found.
fn foreign<B>(response: &ServiceResponse<B>) -> ApiError {
    match response.status().as_u16() {
        404 => ApiError::NoRoute,
        400 => ApiError::BadJson("the request is malformed".into()),
        _ => ApiError::Internal,
    }
}

/// Prefixes of this server's secrets and of JWTs: a client may have put one where an id belongs.
const SECRETS: [&str; 5] = ["ps_live_", "ps_test_", "psr_", "pse_", "eyJ"];

/// A path with everything that looks like a secret replaced.
fn without_secrets(path: &str) -> Cow<'_, str> {
    if !SECRETS.iter().any(|secret| path.contains(secret)) {
        return Cow::Borrowed(path);
    }
    let segment = |segment| match SECRETS.iter().find_map(|secret| str::find(segment, secret)) {
        Some(start) => format!("{}[secret]", segment.get(..start).unwrap_or_default()),
        None => segment.to_owned(),
    };
    Cow::Owned(path.split('/').map(segment).collect::<Vec<_>>().join("/"))
}

/// A path as it is shown: short, and without secrets.
fn shown_path(path: &str) -> Cow<'_, str> {
    let end = path.char_indices().nth(PATH_CHARACTERS_MAX).map(|(end, _)| end);
    match end.and_then(|end| path.get(..end)) {
        Some(start) => Cow::Owned(format!("{}...", without_secrets(start))),
        None => without_secrets(path),
    }
}

/// One line for every request. Never a query, a header or a body.
fn log<B>(response: &ServiceResponse<B>, request_id: &str, reason: Option<&str>, started: Instant) {
    if !tracing::enabled!(target: telemetry::REQUEST, tracing::Level::INFO) {
        return;
    }
    let request = response.request();
    let status = response.status().as_u16();
    let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let method = request.method().as_str();
    let path = shown_path(request.uri().path());
    let extensions = response.response().extensions();
    let context = extensions.get::<RequestContext>();
    let account = context.and_then(|context| context.account).map(tracing::field::display);
    let key = context.and_then(|context| context.key).map(tracing::field::display);
    let cost = context.and_then(|context| context.cost).map(tracing::field::display);
    tracing::info!(
        target: telemetry::REQUEST,
        request_id, method, path = &*path, status, latency_us, account, key, cost, reason, "request"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_path_is_short_and_has_no_secrets() {
        assert_eq!(shown_path("/v1/models"), "/v1/models");
        assert_eq!(shown_path("/api/keys/ps_live_x/limits"), "/api/keys/[secret]/limits");
        let long = format!("/{}", "\u{e4}".repeat(60_000));
        assert_eq!(shown_path(&long).chars().count(), PATH_CHARACTERS_MAX + 3);
        let late = format!("/{}ps_live_secret", "a".repeat(PATH_CHARACTERS_MAX - 10));
        assert!(!shown_path(&late).contains("secr") || shown_path(&late).contains("[secret]"));
    }
}
