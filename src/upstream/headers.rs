//! The headers that pass to an upstream, and back: those of a list, and those that the operator
//! adds.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::header as sent;

/// Headers of a request that pass.
const FORWARDED: [&str; 7] = [
    "accept",
    "accept-language",
    "anthropic-version",
    "content-type",
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

/// Headers with names of features of an upstream, with commas between them. Some features change
/// what a call does and costs.
const BETA: [&str; 2] = ["anthropic-beta", "openai-beta"];

/// Features that cost nothing beside the tokens of a call. They pass without being added.
const FEATURES: [&str; 15] = [
    "claude-code-20250219",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-management-2025-06-27",
    "effort-2025-11-24",
    "fine-grained-tool-streaming-2025-05-14",
    "interleaved-thinking-2025-05-14",
    "mid-conversation-system-2026-04-07",
    "model-context-window-exceeded-2025-08-26",
    "prompt-caching-2024-07-31",
    "prompt-caching-scope-2026-01-05",
    "structured-outputs-2025-11-13",
    "thinking-token-count-2026-05-13",
    "token-counting-2024-11-01",
    "token-efficient-tools-2025-02-19",
];

/// Which headers pass. The names that the operator adds are checked with the settings.
#[derive(Debug, Default)]
pub(super) struct Passing {
    request: Vec<String>,
    answer: Vec<String>,
    beta: Vec<String>,
}

impl Passing {
    /// Those of the lists, and these; and of the headers with features these features.
    pub(super) fn new(request: &[String], answer: &[String], beta: &[String]) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Passing { request: lower(request), answer: lower(answer), beta: beta.to_vec() }
    }

    /// Does the header of a request pass? `name` is in lower case.
    pub(super) fn to_upstream(&self, name: &str) -> bool {
        let is_listed = FORWARDED.contains(&name)
            || (name.starts_with(FORWARDED_PREFIX) && !name.contains('_'));
        is_listed || self.request.iter().any(|added| added == name)
    }

    /// The features of a header that pass; `None` if the header has none of them, or is no header
    /// with features. `name` is in lower case.
    pub(super) fn features(&self, name: &str, value: &[u8]) -> Option<String> {
        if !BETA.contains(&name) {
            return None;
        }
        let named = std::str::from_utf8(value).ok()?.split(',').map(str::trim);
        let is_listed = |feature: &&str| {
            FEATURES.contains(feature) || self.beta.iter().any(|listed| listed == feature)
        };
        let passing: Vec<&str> = named.filter(is_listed).collect();
        (!passing.is_empty()).then(|| passing.join(","))
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
        let passing = Passing::new(&["X-Title".to_owned()], &["X-Model".to_owned()], &[]);
        for (name, passes) in [
            ("content-type", true),
            ("openai-beta", false),
            ("anthropic-beta", false),
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
            ("x-goog-api-key", false),
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
        assert_eq!(passing.features("openai-beta", b"a"), None);
        let beta = Passing::new(&[], &[], &["a".to_owned(), "c=v1".to_owned()]);
        let features = |name, value: &str| beta.features(name, value.as_bytes());
        assert_eq!(features("openai-beta", "b, a,c=v1 , d").as_deref(), Some("a,c=v1"));
        assert_eq!(features("anthropic-beta", "b"), None);
        assert_eq!(features("x-beta", "a"), None);
        assert_eq!(features("anthropic-beta", FEATURES[0]).as_deref(), Some(FEATURES[0]));
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
