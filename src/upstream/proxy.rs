//! An upstream behind a URL. The request goes there with our credential instead of the caller's
//! key. The answer comes back complete, so that it is released only when it is paid for, or as a
//! stream.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::{Request, header as sent};

use super::answer::{Answer, AnswerBody, Failure, UpstreamCall};
use super::headers::Passing;
use super::http_client::{Client, Reply};
use crate::config::url::Address;
use crate::config::{Secret, UpstreamSettings};
use crate::telemetry;
use domain::Reported;

/// The number of headers that we add: `accept`, `accept-encoding`, `authorization`, `content-type`,
/// `host`, `x-request-id`.
const OWN_HEADERS: usize = 6;
const REQUEST_ID: sent::HeaderName = sent::HeaderName::from_static("x-request-id");

/// The media type of server-sent events.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Most bytes that are read of what an upstream says of its failure, and how long they may take.
const FAILURE_BYTES_MAX: usize = 64 * 1024;
const FAILURE_PATIENCE: Duration = Duration::from_secs(2);

/// What an upstream said of an attempt, beside its answer. It is never shown to a caller.
#[derive(Debug, Default)]
pub struct Told {
    /// Its status, if it answered at all.
    pub status: Option<u16>,
    /// Its header `Retry-After`.
    pub retry_after: Option<String>,
    /// Its header `retry-after-ms`.
    pub retry_after_ms: Option<String>,
    /// Its header `x-gemini-service-tier`: Google may serve a call in another tier than was asked
    /// for.
    pub service_tier: Option<String>,
    /// The beginning of the body of a failure that no [`Answer`] has.
    pub body: Bytes,
    /// Is the body read?
    pub(super) is_body_read: bool,
}

impl Told {
    /// Nothing yet. The body of a failure will be read.
    #[must_use]
    pub fn with_body() -> Self {
        Told { is_body_read: true, ..Told::default() }
    }
}

/// The headers that a provider wants of us.
#[derive(Debug, Default)]
pub(super) struct OwnHeaders {
    /// Our credential.
    pub(super) credential: Option<(sent::HeaderName, sent::HeaderValue)>,
    /// The version of its protocol, unless the caller names one.
    pub(super) version: Option<(sent::HeaderName, sent::HeaderValue)>,
}

/// One upstream URL.
pub struct Proxy {
    name: Arc<str>,
    address: Result<Address, &'static str>,
    timeout: Duration,
    response_max_bytes: usize,
    passing: Passing,
    own: OwnHeaders,
}

impl Proxy {
    /// If the URL or the key is invalid (the settings are checked), every call fails.
    pub(super) fn new(
        name: Arc<str>,
        url: &str,
        api_key: Option<&Secret>,
        settings: &UpstreamSettings,
    ) -> Self {
        Proxy::at(name, Address::new(url, api_key), OwnHeaders::default(), settings)
    }

    /// At this address, with these headers.
    pub(super) fn at(
        name: Arc<str>,
        address: Result<Address, &'static str>,
        own: OwnHeaders,
        settings: &UpstreamSettings,
    ) -> Self {
        Proxy {
            name,
            address,
            own,
            timeout: Duration::from_secs(settings.timeout_seconds.get()),
            response_max_bytes: settings.response_max_bytes,
            passing: Passing::new(
                &settings.request_headers,
                &settings.answer_headers,
                &settings.beta_features,
            ),
        }
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Fetches the complete answer, or the first bytes of a stream, within the timeout.
    pub(super) async fn forward(
        &self,
        client: &Client,
        call: &UpstreamCall<'_>,
    ) -> Result<Answer, Failure> {
        self.attempt(client, call, self.timeout, &mut Told::default()).await
    }

    /// How long an attempt may take at most.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same within another timeout, if that is shorter. `told` becomes what the upstream said.
    pub async fn attempt(
        &self,
        client: &Client,
        call: &UpstreamCall<'_>,
        within: Duration,
        told: &mut Told,
    ) -> Result<Answer, Failure> {
        let exchange = self.exchange(client, call, told);
        let result = match tokio::time::timeout(self.timeout.min(within), exchange).await {
            Ok(result) => result,
            Err(_) if call.sent.get() => Err(Failure::GivenUp),
            Err(_) => Err(Failure::TimedOut),
        };
        match &result {
            Err(failure) if failure.is_by_our_limit() => call.sent.keep(),
            // What has failed by itself is not paid.
            Err(_) => call.sent.set(false),
            Ok(_) => {}
        }
        result
    }

    async fn exchange(
        &self,
        client: &Client,
        call: &UpstreamCall<'_>,
        told: &mut Told,
    ) -> Result<Answer, Failure> {
        let address = self.address.as_ref().map_err(|reason| Failure::Broken(reason))?;
        let request = self.request(address, call)?;
        let mut reply = client.send(&address.origin, request, call.sent).await?;
        told.status = Some(reply.status.as_u16());
        let text = |name| Some(reply.headers.get(name)?.to_str().ok()?.to_owned());
        (told.retry_after, told.retry_after_ms) = (text("retry-after"), text("retry-after-ms"));
        told.service_tier = text("x-gemini-service-tier");
        let status = match judged(reply.status.as_u16()) {
            Ok(status) => status,
            Err(failure) => {
                if told.is_body_read {
                    // A refusal is not paid, however long it takes.
                    call.sent.set(false);
                    told.body = read_failure(&mut reply).await;
                }
                read_what_has_come(&mut reply);
                return Err(failure);
            }
        };
        if is_encoded(&reply.headers) {
            // Its usage could not be read.
            return Err(Failure::Broken("the upstream compressed its answer, unasked"));
        }
        let headers = self.passing.back(&reply.headers);
        let is_events = reply
            .headers
            .get(sent::CONTENT_TYPE)
            .and_then(|kind| kind.as_bytes().get(..EVENT_STREAM.len()))
            .is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM));
        if call.is_stream && is_events && status.is_success() {
            // Before the first byte, a failure can still be answered with a status.
            let first = reply.next().await.ok_or(Failure::Broken("the stream is empty"))??;
            let body = futures_util::stream::once(async { Ok(first) }).chain(reply);
            let (body, reported) = (AnswerBody::Stream(Box::pin(body)), Reported::Missing);
            return Ok(Answer { status, headers, body, reported });
        }
        if !status.is_success() {
            // A refusal is not paid, however long it takes.
            call.sent.set(false);
        }
        let body = match self.whole(&mut reply).await {
            // Nor if it is long. Nothing of it is read then.
            Err(Failure::TooLarge { .. }) if !status.is_success() => Bytes::from_static(b"{}"),
            body => body?,
        };
        let reported = call.dialect.usage_of_answer(&body);
        Ok(Answer { status, headers, body: AnswerBody::Whole(body), reported })
    }

    async fn whole(&self, reply: &mut Reply) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        while let Some(piece) = reply.next().await.transpose()? {
            let bytes = body.len().saturating_add(piece.len());
            if bytes > self.response_max_bytes {
                return Err(Failure::TooLarge { bytes });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }
}

/// Reads what has arrived of the body, so that the connection of a short answer can be reused.
fn read_what_has_come(reply: &mut Reply) {
    while let Some(Some(Ok(_))) = reply.next().now_or_never() {}
}

/// Reads the beginning of what an upstream says of its failure. If it is too large, or comes too
/// slowly, nothing of it is read.
async fn read_failure(reply: &mut Reply) -> Bytes {
    let read = async {
        let mut body = BytesMut::new();
        while let Some(Ok(piece)) = reply.next().await {
            body.extend_from_slice(&piece);
            if body.len() > FAILURE_BYTES_MAX {
                return Bytes::new();
            }
        }
        body.freeze()
    };
    tokio::time::timeout(FAILURE_PATIENCE, read).await.unwrap_or_default()
}

impl Proxy {
    fn request(
        &self,
        address: &Address,
        call: &UpstreamCall<'_>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let passing = &self.passing;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = hyper::Method::from_bytes(call.method.as_str().as_bytes())
            .map_err(|_| Failure::Broken("the method cannot be forwarded"))?;
        let (mark, query) = call.query.map_or(("", ""), |query| ("?", query));
        let target = [&address.base, call.path, mark, query].concat();
        *request.uri_mut() = hyper::Uri::try_from(target)
            .map_err(|_| Failure::Broken("the path cannot be forwarded"))?;
        let headers = request.headers_mut();
        headers.reserve(call.headers.len().saturating_add(OWN_HEADERS));
        // If traces are on, the upstream's span belongs to ours, not to the caller's.
        let mut trace = sent::HeaderMap::new();
        telemetry::continue_in(&tracing::Span::current(), &mut trace);
        for (name, value) in call.headers {
            let is_of_trace = matches!(name.as_str(), "traceparent" | "tracestate");
            if passing.to_upstream(name.as_str()) && (trace.is_empty() || !is_of_trace) {
                let name = sent::HeaderName::from_bytes(name.as_str().as_bytes());
                let value = sent::HeaderValue::from_bytes(value.as_bytes());
                if let (Ok(name), Ok(value)) = (name, value) {
                    headers.append(name, value);
                }
            }
        }
        headers.extend(trace);
        for (name, value) in call.headers {
            if !passing.to_upstream(name.as_str())
                && let Some(features) = passing.features(name.as_str(), value.as_bytes())
                && let Ok(value) = sent::HeaderValue::try_from(features)
                && let Ok(name) = sent::HeaderName::from_bytes(name.as_str().as_bytes())
            {
                headers.append(name, value);
            }
        }
        if call.prompt_tokens.is_some() {
            // It was read and priced as JSON, whatever the caller says that it is.
            headers.insert(sent::CONTENT_TYPE, sent::HeaderValue::from_static("application/json"));
        }
        headers.entry(sent::ACCEPT).or_insert(sent::HeaderValue::from_static("*/*"));
        // The usage in the answer must be readable.
        headers.insert(sent::ACCEPT_ENCODING, sent::HeaderValue::from_static("identity"));
        headers.insert(sent::HOST, address.host.clone());
        if let Ok(id) = sent::HeaderValue::try_from(call.id.to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(authorization) = &address.authorization {
            headers.insert(sent::AUTHORIZATION, authorization.clone());
        }
        if let Some((name, value)) = &self.own.version {
            headers.entry(name).or_insert(value.clone());
        }
        if let Some((name, value)) = &self.own.credential {
            headers.insert(name, value.clone());
        }
        Ok(request)
    }
}

/// Is the body of an answer anything but itself?
fn is_encoded(headers: &sent::HeaderMap) -> bool {
    let is_other = |value: &sent::HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    };
    headers.get_all(sent::CONTENT_ENCODING).iter().any(is_other)
}

/// The status that the caller gets, or the failure that an upstream's status means.
fn judged(status: u16) -> Result<StatusCode, Failure> {
    match status {
        // It would lead to the content, past the bill.
        300..=399 => Err(Failure::Broken("the upstream redirected")),
        ..=199 => Err(Failure::Broken("the upstream changed the protocol")),
        // Our credential, not the caller's.
        401 | 403 | 407 => Err(Failure::Broken("the upstream refused our credential")),
        504 => Err(Failure::TimedOut),
        500.. => Err(Failure::Broken("the upstream failed")),
        _ => StatusCode::from_u16(status)
            .map_err(|_| Failure::Broken("the upstream's status is no status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_as_whom() {
        let secret = |text: &str| -> Secret { serde_json::from_value(text.into()).unwrap() };
        let of = |url: &str, key: Option<&str>| {
            let address = Address::new(url, key.map(secret).as_ref())?;
            let text = |value: &sent::HeaderValue| value.to_str().unwrap().to_owned();
            let authorization = address.authorization.as_ref().map(text);
            Ok::<_, &str>((text(&address.host), address.base, authorization))
        };
        let owned = |host: &str, base: &str, authorization: Option<&str>| {
            Ok((host.to_owned(), base.to_owned(), authorization.map(str::to_owned)))
        };
        assert_eq!(of("http://h", None), owned("h", "", None));
        assert_eq!(of("https://H.example:443/a/b/", None), owned("h.example", "/a/b", None));
        assert_eq!(of("http://h:8080", Some("k")), owned("h:8080", "", Some("Bearer k")));
        assert_eq!(of("http://u:p@[::1]:1", None), owned("[::1]:1", "", Some("Basic dTpw")));
        assert_eq!(of("http://u:p%40s=s@h", None), owned("h", "", Some("Basic dTpwQHM9cw==")));
        assert_eq!(of("http://u:p@h", Some("k")), owned("h", "", Some("Bearer k")));
        assert_eq!(of("nonsense", None), Err("is not a URL"));
        assert_eq!(of("ftp://h", None), Err("must begin with http: or https:"));
        assert_eq!(of("http://h?a=1", None), Err("must not have a query or a fragment"));
        assert_eq!(of("http://h", Some("a\nb")), Err("has a key that cannot be sent in a header"));
    }

    #[test]
    fn the_upstreams_troubles_are_not_the_callers() {
        assert_eq!(judged(200), Ok(StatusCode::OK));
        assert_eq!(judged(404), Ok(StatusCode::NOT_FOUND));
        for status in [101, 300, 304, 307, 399, 401, 403, 500, 503] {
            assert!(matches!(judged(status), Err(Failure::Broken(_))), "{status}");
        }
        assert_eq!(judged(504), Err(Failure::TimedOut));
    }
}
