//! The outermost layer of every request: an id, one log line, security headers, and the body of an
//! error.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ALLOW, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE, USER_AGENT,
    WWW_AUTHENTICATE,
};
use actix_web::http::{ConnectionType, Method, Version};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpMessage as _, HttpRequest, ResponseError as _};
use futures_util::FutureExt as _;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::connection::ConnectionState;
use super::cookie::has_own_cookie;
use super::error::{ApiError, Form, Panicked};
use super::extract::{bearer, uses_tls};
use super::places::{leave_place, take_first_place};
use super::security::AnswerKind;
use super::{App, security};
use crate::metrics::requests::{Requests, RouteIndex};
use crate::pipeline::{Admission, RequestContext};
use crate::telemetry;
use domain::route_group::RouteGroup;
use domain::{ChargeId, Refusal};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The name of the same header at Anthropic, whose clients show it.
const REQUEST_ID_OF_ANTHROPIC: HeaderName = HeaderName::from_static("request-id");
/// Tells the clients of OpenAI and Anthropic whether to send a request again by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The id of the request, made here.
pub fn request_id(request: &HttpRequest) -> ChargeId {
    request.extensions().get::<ChargeId>().copied().unwrap_or(ChargeId(Uuid::nil()))
}

/// Longest path in a span or a log line, in characters.
const PATH_CHARACTERS_MAX: usize = 256;

/// Does the request have a session token or a cookie that we have made? Whether the
/// session goes on is seen later.
fn has_session(request: &ServiceRequest, app: &App) -> bool {
    bearer(request.request())
        .is_some_and(|token| app.users.sessions.read(token, app.clock.now()).is_ok())
        || has_own_cookie(request.request(), app)
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
        let hsts = hsts(request.request());
        let mut response = complete_error(request.error_response(error), &id_text);
        count(&response, started);
        add_request_id(&mut response, &id_text);
        security::add_headers(response.headers_mut(), AnswerKind::Data, hsts);
        return Ok(response.map_into_boxed_body().map_into_right_body());
    }
    let span = span(&request, &id_text);
    let answering = answer(request, next, &id_text, readiness.as_deref());
    let response = answering.instrument(span.clone()).await?;
    leave_place(response.request());
    note_status(&span, &response);
    let reason = response.response().error().filter(|_| is_logged()).map(ToString::to_string);
    let mut response = complete_error(response, &id_text);
    add_request_id(&mut response, &id_text);
    let hsts = hsts(response.request());
    let content = AnswerKind::of(response.request().path(), response.status());
    security::add_headers(response.headers_mut(), content, hsts);
    if readiness.is_some_and(|readiness| readiness.is_unready()) {
        // Otherwise the client finds a kept connection closed under its next request.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    count(&response, started);
    log(&response, &id_text, reason.as_deref(), started);
    Ok(response)
}

/// Counts an answered request by its route, and how long it took.
fn count<B>(response: &ServiceResponse<B>, started: Instant) {
    let request = response.request();
    let Some(app) = request.app_data::<Data<App>>() else { return };
    let Some(requests) = app.gateway.metrics.requests.get() else { return };
    let route = match RouteGroup::of(request.path()) {
        Some(group) => Requests::of_group(group),
        None => request.app_data::<RouteIndex>().copied(),
    };
    let (method, status) = (request.method().as_str(), response.status().as_u16());
    requests.count(route, method, status, started.elapsed());
}

fn add_request_id<B>(response: &mut ServiceResponse<B>, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        let request = response.request();
        if Form::of_request(request.path(), request.headers()) == Form::Anthropic {
            response.headers_mut().insert(REQUEST_ID_OF_ANTHROPIC, value.clone());
        }
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
        "url.scheme" = Empty,
        "server.address" = Empty,
        "server.port" = Empty,
        "user_agent.original" = Empty,
        "network.protocol.version" = Empty,
        "http.route" = Empty,
        "http.response.status_code" = Empty,
        "error.type" = Empty,
        "polysystems.cost" = Empty,
    );
    if !span.is_disabled() {
        describe(&span, request);
        span.record("url.path", &*shown_path(request.path()));
        let is_continued = request.app_data::<Data<App>>().is_some_and(|app| app.continues_traces);
        if is_continued {
            telemetry::continue_from(&span, request.headers());
        }
    }
    span
}

/// What the conventions for HTTP tell of a request (OpenTelemetry).
fn describe(span: &Span, request: &ServiceRequest) {
    let app = request.app_data::<Data<App>>();
    let is_tls = app.is_some_and(|app| uses_tls(request.request(), app));
    span.record("url.scheme", if is_tls { "https" } else { "http" });
    let text = |name| request.headers().get(name)?.to_str().ok();
    if let Some(host) = text(HOST) {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()),
            _ => (host, None),
        };
        span.record("server.address", &*shown_path(name));
        if let Some(port) = port {
            span.record("server.port", i64::from(port));
        }
    }
    if let Some(agent) = text(USER_AGENT) {
        span.record("user_agent.original", &*shown_path(agent));
    }
    let version = if request.version() == Version::HTTP_10 { "1.0" } else { "1.1" };
    span.record("network.protocol.version", version);
}

fn note_status<B>(span: &Span, response: &ServiceResponse<B>) {
    if span.is_disabled() {
        return;
    }
    let status = response.status();
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
    let extensions = response.response().extensions();
    if let Some(cost) = extensions.get::<RequestContext>().and_then(|context| context.cost) {
        span.record("polysystems.cost", tracing::field::display(cost));
    }
    let request = response.request();
    // The pattern of the route, not the path, which can contain anything.
    let route = request.match_pattern().unwrap_or_default();
    if !route.is_empty() {
        span.record("http.route", &*route);
    }
    telemetry::name(span, format!("{} {route}", request.method()));
}

/// `Strict-Transport-Security` counts over TLS alone; elsewhere browsers ignore it (RFC 6797).
fn hsts(request: &HttpRequest) -> Option<HeaderValue> {
    let app = request.app_data::<Data<App>>()?;
    uses_tls(request, app).then(|| app.hsts.clone())
}

/// Calls the handler. If it panics, only its own request fails: with 500, and a paid call with what
/// says that it may have been charged.
async fn answer<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
    request_id: &str,
    readiness: Option<&Admission>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let clock = request.app_data::<Data<App>>().map(|app| app.clock.clone());
    let form = Form::of_request(request.path(), request.headers());
    let is_call = RouteGroup::of(request.path()).is_some();
    let hsts = hsts(request.request());
    if let Ok(answered) = AssertUnwindSafe(next.call(request)).catch_unwind().await {
        return answered;
    }
    // The panic hook has logged where it happened.
    tracing::error!(request_id, "a handler panicked");
    if let Some(readiness) = readiness {
        readiness.note_panic();
    }
    let timestamp = clock.map(|clock| clock.now().to_rfc3339()).unwrap_or_default();
    let error = if is_call {
        Refusal::OutcomeUnknown("its handler panicked").into()
    } else {
        ApiError::Internal
    };
    let (status, request_id) = (error.status_code(), request_id.to_owned());
    let body = error.json(form, request_id.clone(), timestamp);
    Err(Panicked { request_id, status, body, hsts }.into())
}

/// Gives an error the body that its route's clients read.
fn complete_error<B>(
    response: ServiceResponse<B>,
    request_id: &str,
) -> ServiceResponse<EitherBody<B>> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
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
    let request = response.request();
    let form = Form::of_request(request.path(), request.headers());
    let text = error.json(form, request_id.to_owned(), timestamp);
    let mut response = response.map_body(|_, _| EitherBody::right(BoxBody::new(text)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after(status) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.must_not_be_retried(status) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(challenge) = error.challenge(status) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if let ApiError::MethodNotAllowed { allow } = &error
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        headers.insert(ALLOW, allow);
    }
    response
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

/// Does anybody read the lines of requests?
fn is_logged() -> bool {
    tracing::enabled!(target: telemetry::REQUEST, tracing::Level::INFO)
}

/// One line for every request. Never a query, a header or a body.
fn log<B>(response: &ServiceResponse<B>, request_id: &str, reason: Option<&str>, started: Instant) {
    if !is_logged() {
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
