//! The paid routes: HTTP request to [`Arrival`], [`pipeline::serve`], [`crate::pipeline::Departure`] to HTTP
//! response.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};

use super::error::ApiError;
use super::extract::{Body, bearer, client_address};
use super::{App, uncancelled};
use crate::pipeline::rate_limit::Standing;
use crate::pipeline::{self, Arrival, Departure, Refusal, Served};
use crate::upstream::Group;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const UPSTREAM: HeaderName = HeaderName::from_static("x-polysystems-upstream");
const COST: HeaderName = HeaderName::from_static("x-polysystems-cost");
const BALANCE: HeaderName = HeaderName::from_static("x-polysystems-balance");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const WINDOW: HeaderName = HeaderName::from_static("x-ratelimit-window");

/// Any method on any path of a route group.
pub(super) async fn call(
    request: HttpRequest,
    app: Data<App>,
    client: Data<reqwest::Client>,
    body: Body,
) -> HttpResponse {
    let arrival = match arrival(&request, &app, body) {
        Ok(arrival) => arrival,
        Err(error) => return refuse(&request, &app, error),
    };
    let Some(running) = app.readiness.enter() else {
        return refuse(&request, &app, Refusal::Unavailable("shutting down").into());
    };
    let gateway = app.gateway.clone();
    let client = reqwest::Client::clone(&client);
    let served = async move {
        let served = pipeline::serve(gateway, client, arrival).await;
        drop(running);
        served
    };
    match uncancelled(served).await {
        Ok(served) => respond(served),
        Err(error) => HttpResponse::from_error(error),
    }
}

/// A request that does not reach the pipeline is counted against its address all the same.
fn refuse(request: &HttpRequest, app: &App, error: ApiError) -> HttpResponse {
    let address = client_address(request, &app.trusted_proxies);
    let (error, standing) = match app.gateway.rate_limits.check_address(address, app.clock.now()) {
        Ok(standing) => (error, standing),
        Err((standing, retry_after)) => {
            (Refusal::RateLimited { retry_after }.into(), Some(standing))
        }
    };
    let mut response = HttpResponse::from_error(error);
    if let Some(standing) = standing {
        rate_limit_headers(response.headers_mut(), standing);
    }
    response
}

fn arrival(request: &HttpRequest, app: &App, body: Body) -> Result<Arrival, ApiError> {
    let uri = request.uri();
    let path = uri.path();
    let group = group(path).filter(|_| is_plain(path)).ok_or(ApiError::NoRoute)?;
    let headers = request.headers();
    let credential = match headers.get(API_KEY) {
        // A header that is no text is a key that is not valid.
        Some(value) => Some(value.to_str().unwrap_or_default().trim()),
        None => bearer(request),
    };
    let wants_headers = app.gateway.upstreams.wants_headers(group);
    Ok(Arrival {
        id: super::edge::request_id(request),
        group,
        method: request.method().clone(),
        path: path.to_owned(),
        query: uri.query().map(str::to_owned),
        credential: credential.map(str::to_owned),
        address: client_address(request, &app.trusted_proxies),
        headers: if wants_headers { headers.clone() } else { HeaderMap::new() },
        body: body.bytes()?,
        at: app.clock.now(),
    })
}

fn group(path: &str) -> Option<Group> {
    Group::ALL.into_iter().find(|group| {
        path.strip_prefix(group.path()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A path that means the same to us, who price it, and to the upstream, who serves it: no dot segments, no
/// empty ones, nothing encoded that could become a separator or a dot.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hidden = ["%2f", "%5c", "%25", "\\"];
    // What need not be encoded has one spelling only, or a price could be dodged by another.
    let needlessly_encoded = lower.split('%').skip(1).any(|rest| {
        let code = rest.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        code.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    });
    !needlessly_encoded
        && !hidden.iter().any(|hidden| lower.contains(hidden))
        && path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
}

fn respond(Served { result, notes }: Served) -> HttpResponse {
    let mut response = match result {
        Ok(departure) => depart(departure),
        Err(refusal) => HttpResponse::from_error(ApiError::from(refusal)),
    };
    if let Some(standing) = notes.standing {
        rate_limit_headers(response.headers_mut(), standing);
    }
    response.extensions_mut().insert(notes);
    response
}

fn depart(departure: Departure) -> HttpResponse {
    let mut response = HttpResponseBuilder::new(departure.status).body(departure.body);
    let headers = response.headers_mut();
    for (name, value) in departure.headers {
        headers.append(name, value);
    }
    for (name, text) in [
        (UPSTREAM, departure.upstream.to_string()),
        (COST, departure.cost.to_string()),
        (BALANCE, departure.balance.to_string()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    response
}

/// Chapter 9: where the caller stands with the limit that is closest to refusing it.
fn rate_limit_headers(headers: &mut HeaderMap, standing: Standing) {
    headers.insert(LIMIT, HeaderValue::from(standing.limit));
    headers.insert(REMAINING, HeaderValue::from(standing.remaining));
    headers.insert(RESET, HeaderValue::from(standing.reset));
    headers.insert(WINDOW, HeaderValue::from(standing.window));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_mean_something_else_upstream_is_no_route() {
        for (path, plain) in [
            ("/api/hub/agents/chat", true),
            ("/api/hub/memory/caf%C3%A9", true),
            ("/api/hub/memory/../agents/chat", false),
            ("/api/hub/memory/%2e%2E/agents/chat", false),
            ("/api/hub/agents/ch%61t", false),
            ("/api/hub/agents/chat%", false),
            ("/api/hub/memory/..%2fagents", false),
            ("/api/hub/memory/..%5cagents", false),
            ("/api/hub/memory/%252e%252e/x", false),
            ("/api/hub//agents", false),
            ("/api/hub/", false),
            ("/api/hub/./agents", false),
        ] {
            assert_eq!(is_plain(path), plain, "{path}");
        }
    }

    #[test]
    fn groups_are_told_by_whole_segments() {
        assert_eq!(group("/api/hub/x"), Some(Group::Hub));
        assert_eq!(group("/v1/chat/completions"), Some(Group::V1));
        assert_eq!(group("/v12"), None);
        assert_eq!(group("/api/hubris"), None);
    }
}
