//! The headers that pass to an upstream, and back: those of a list, and those that the operator
//! adds.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::header as sent;

/// Headers of a request that pass.
const FORWARDED: [&str; 9] = [
    "accept",
    "accept-language",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "traceparent",
    "tracestate",
    "user-agent",
];
/// What the official clients of OpenAI and Anthropic say of themselves.
const FORWARDED_PREFIX: &str = "x-stainless-";
/// Headers of an answer that pass.
const RETURNED: [&str; 6] = [
    "content-disposition",
    "content-language",
    "content-type",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
];

/// Which headers pass. The names that the operator adds are checked with the settings.
#[derive(Debug, Default)]
pub(super) struct Passing {
    request: Vec<String>,
    answer: Vec<String>,
}

impl Passing {
    /// Those of the lists, and these.
    pub(super) fn new(request: &[String], answer: &[String]) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Passing { request: lower(request), answer: lower(answer) }
    }

    /// Does the header of a request pass? `name` is in lower case.
    pub(super) fn to_upstream(&self, name: &str) -> bool {
        let is_listed = FORWARDED.contains(&name)
            || (name.starts_with(FORWARDED_PREFIX) && !name.contains('_'));
        is_listed || self.request.iter().any(|added| added == name)
    }

    /// The headers of an answer that the caller may see. The two HTTP crates have types of their
    /// own.
    pub(super) fn back(&self, headers: &sent::HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        for (name, value) in headers {
            let text = name.as_str();
            if !RETURNED.contains(&text) && !self.answer.iter().any(|added| added == text) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_headers_pass() {
        let passing = Passing::new(&["X-Title".to_owned()], &["X-Model".to_owned()]);
        for (name, passes) in [
            ("content-type", true),
            ("openai-beta", true),
            ("x-stainless-lang", true),
            ("x-title", true),
            ("x-stainless_lang", false),
            ("x_title", false),
            ("x-api-key", false),
            ("authorization", false),
            ("cookie", false),
            ("connection", false),
            ("transfer-encoding", false),
            ("content-encoding", false),
            ("openai-organization", false),
            ("helicone-target-url", false),
            ("api-key", false),
            ("x-remote-user", false),
            ("x-envoy-original-path", false),
            ("x-client-ip", false),
            ("x-forwarded-host", false),
            ("x_forwarded_for", false),
            ("x-http-method-override", false),
            ("idempotency-key", false),
            ("if-none-match", false),
            ("range", false),
        ] {
            assert_eq!(passing.to_upstream(name), passes, "{name}");
        }
        let mut headers = sent::HeaderMap::new();
        for name in [
            "content-type",
            "retry-after",
            "x-model",
            "openai-organization",
            "set-cookie",
            "strict-transport-security",
            "clear-site-data",
            "access-control-allow-origin",
            "x-ratelimit-remaining-tokens",
            "content-encoding",
        ] {
            headers.insert(name, sent::HeaderValue::from_static("a"));
        }
        let kept = passing.back(&headers);
        let mut kept: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["content-type", "retry-after", "x-model"]);
    }
}
