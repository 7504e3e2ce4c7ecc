//! An upstream behind a URL: the request goes there with our credential instead of the caller's key, the
//! answer comes back whole, so that it leaves only when it is paid for, or as a stream.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::BytesMut;
use futures_util::StreamExt as _;

use super::{Answer, AnswerBody, Call, Failure, Reported};
use crate::config::{Secret, UpstreamSettings, UpstreamsSettings};
use crate::telemetry;

/// Headers that concern one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Request headers that are ours to write, or the caller's secret.
const NOT_FORWARDED: [&str; 18] = [
    "accept-encoding",
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    // Ours to answer. Another customer may use the same one.
    "idempotency-key",
    // Of x402: paid to us.
    "payment-signature",
    "x-api-key",
    "x-dry-run",
    // Would make another call of it than the one that was priced.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];
/// How request headers begin that only we may write.
const OURS: [&str; 2] = ["x-forwarded-", "x-polysystems-"];
/// Answer headers that are ours to write, or the upstream's word to us and not to the caller.
const NOT_RETURNED: [&str; 4] = ["content-length", "date", "set-cookie", "x-request-id"];

/// The media type of server-sent events.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// See the module.
pub struct Proxy {
    name: Arc<str>,
    /// Without a trailing slash.
    base: String,
    authorization: Option<String>,
    timeout: Duration,
    response_max_bytes: usize,
}

/// The HTTP client for upstreams. One for each HTTP thread, whose runtime then drives its connections.
///
/// # Errors
/// Where TLS cannot be set up.
pub fn client(settings: &UpstreamsSettings) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(settings.connect_timeout_seconds.get()))
        .pool_idle_timeout(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        // Who tries again is ours to say.
        .retry(reqwest::retry::never())
        .no_proxy()
        .tcp_nodelay(true)
        .build()
}

impl Proxy {
    pub(super) fn new(
        name: Arc<str>,
        url: &str,
        api_key: Option<&Secret>,
        settings: &UpstreamSettings,
    ) -> Self {
        Proxy {
            name,
            base: url.trim_end_matches('/').to_owned(),
            authorization: api_key.map(|key| format!("Bearer {}", key.expose())),
            timeout: Duration::from_secs(settings.timeout_seconds.get()),
            response_max_bytes: settings.response_max_bytes,
        }
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Fetches the whole answer, or the first bytes of a stream, in time.
    pub(super) async fn forward(
        &self,
        client: &reqwest::Client,
        call: &Call<'_>,
    ) -> Result<Answer, Failure> {
        match tokio::time::timeout(self.timeout, self.exchange(client, call)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::TimedOut),
        }
    }

    async fn exchange(&self, client: &reqwest::Client, call: &Call<'_>) -> Result<Answer, Failure> {
        let response = self.request(client, call)?.send().await.map_err(|error| failure(&error))?;
        let status = judged(response.status().as_u16())?;
        let headers = returned(response.headers());
        let is_events = response
            .headers()
            .get("content-type")
            .and_then(|kind| kind.as_bytes().get(..EVENT_STREAM.len()))
            .is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM));
        let mut chunks = response.bytes_stream();
        if call.is_stream && is_events && status.is_success() {
            // Until the first byte has come, a failure can still be told by a status.
            let first = match chunks.next().await {
                Some(first) => first.map_err(|error| failure(&error))?,
                None => return Err(Failure::Broken("the stream is empty")),
            };
            let rest = chunks.map(|chunk| chunk.map_err(|error| failure(&error)));
            let body = futures_util::stream::once(async { Ok(first) }).chain(rest);
            let (body, reported) = (AnswerBody::Stream(Box::pin(body)), Reported::Missing);
            return Ok(Answer { status, headers, body, reported });
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| failure(&error))?;
            if body.len().saturating_add(chunk.len()) > self.response_max_bytes {
                return Err(Failure::Broken(
                    "the answer is larger than upstreams.response_max_bytes",
                ));
            }
            body.extend_from_slice(&chunk);
        }
        let reported = Reported::of_answer(&body);
        Ok(Answer { status, headers, body: AnswerBody::Whole(body.freeze()), reported })
    }

    fn request(
        &self,
        client: &reqwest::Client,
        call: &Call<'_>,
    ) -> Result<reqwest::RequestBuilder, Failure> {
        let arrival = call.arrival;
        let method = reqwest::Method::from_bytes(arrival.method.as_str().as_bytes())
            .map_err(|_| Failure::Broken("the method cannot be forwarded"))?;
        let query = arrival.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
        let url = format!("{}{}{query}", self.base, arrival.path);
        let mut request = client.request(method, url).body(call.body.clone());
        // Where traces are on, the upstream's span is one of ours, and not the caller's.
        let mut trace = reqwest::header::HeaderMap::new();
        telemetry::continue_in(&tracing::Span::current(), &mut trace);
        for (name, value) in &arrival.headers {
            let is_of_trace = matches!(name.as_str(), "traceparent" | "tracestate");
            if is_forwarded(name.as_str(), &arrival.headers) && (trace.is_empty() || !is_of_trace) {
                request = request.header(name.as_str(), value.as_bytes());
            }
        }
        request = request.headers(trace);
        // The answer's usage must be readable.
        request = request.header("accept-encoding", "identity");
        request = request.header("x-request-id", arrival.id.to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        Ok(request)
    }
}

fn failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::TimedOut
    } else if error.is_connect() {
        Failure::Broken("the upstream cannot be reached")
    } else {
        Failure::Broken("the connection to the upstream broke")
    }
}

/// Which of the upstream's statuses are the caller's business.
fn judged(status: u16) -> Result<StatusCode, Failure> {
    match status {
        // Our credential, not the caller's.
        401 | 403 | 407 => Err(Failure::Broken("the upstream refused our credential")),
        504 => Err(Failure::TimedOut),
        500.. => Err(Failure::Broken("the upstream failed")),
        _ => StatusCode::from_u16(status)
            .map_err(|_| Failure::Broken("the upstream's status is no status")),
    }
}

fn is_forwarded(name: &str, headers: &HeaderMap) -> bool {
    let named_by_connection = || {
        headers
            .get_all("connection")
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(name))
    };
    !HOP_BY_HOP.contains(&name)
        && !NOT_FORWARDED.contains(&name)
        && !OURS.iter().any(|prefix| name.starts_with(prefix))
        && !named_by_connection()
}

/// The upstream's headers that the caller may see. The two HTTP crates have types of their own.
fn returned(headers: &reqwest::header::HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        let is_ours = text.starts_with("x-ratelimit-") || text.starts_with("x-polysystems-");
        if HOP_BY_HOP.contains(&text) || NOT_RETURNED.contains(&text) || is_ours {
            continue;
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(text.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            kept.append(name, value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_connection_headers_are_not_forwarded() {
        let mut headers = HeaderMap::new();
        headers.insert(
            HeaderName::from_static("connection"),
            HeaderValue::from_static("close, X-Private"),
        );
        for (name, forwarded) in [
            ("x-api-key", false),
            ("authorization", false),
            ("cookie", false),
            ("transfer-encoding", false),
            ("x-private", false),
            ("x-http-method-override", false),
            ("x-forwarded-host", false),
            ("content-type", true),
            ("openai-organization", true),
            ("idempotency-key", false),
        ] {
            assert_eq!(is_forwarded(name, &headers), forwarded, "{name}");
        }
    }

    #[test]
    fn the_upstreams_troubles_are_not_the_callers() {
        assert_eq!(judged(200), Ok(StatusCode::OK));
        assert_eq!(judged(404), Ok(StatusCode::NOT_FOUND));
        for status in [401, 403, 500, 503] {
            assert!(matches!(judged(status), Err(Failure::Broken(_))), "{status}");
        }
        assert_eq!(judged(504), Err(Failure::TimedOut));
    }
}
