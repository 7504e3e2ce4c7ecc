//! What goes to an upstream, and what comes back.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::Stream;
use serde::Deserialize;

use super::dialect::Dialect;
use crate::json::Object;
use crate::json::fields::Fields;
use domain::usage::TOKENS_MAX;
use domain::{ChargeId, Reported, TokenUsage};

/// Reads the `usage` object of an answer or an event.
#[must_use]
pub fn read_usage(usage: &str) -> Reported {
    #[expect(clippy::struct_field_names, reason = "OpenAI's names")]
    #[derive(Deserialize)]
    struct Usage {
        prompt_tokens: Option<i64>,
        input_tokens: Option<i64>,
        /// Anthropic's, beside `input_tokens`.
        cache_creation_input_tokens: Option<i64>,
        /// The same.
        cache_read_input_tokens: Option<i64>,
        completion_tokens: Option<i64>,
        output_tokens: Option<i64>,
        total_tokens: Option<i64>,
    }
    if usage.trim() == "null" {
        return Reported::Missing;
    }
    let Ok(Object(usage)) = serde_json::from_str::<Object<Usage>>(usage) else {
        return Reported::Absurd;
    };
    let beside = [usage.cache_creation_input_tokens, usage.cache_read_input_tokens];
    let sum =
        |input: i64| beside.iter().flatten().fold(input, |sum, part| sum.saturating_add(*part));
    let prompt = usage.prompt_tokens.or(usage.input_tokens.map(sum));
    let completion = usage.completion_tokens.or(usage.output_tokens);
    let all = [prompt, completion, usage.total_tokens];
    let is_absurd = |count: &i64| u64::try_from(*count).map_or(true, |count| count > TOKENS_MAX);
    if all.iter().flatten().any(is_absurd) {
        return Reported::Absurd;
    }
    if all.iter().all(Option::is_none) {
        return Reported::Missing;
    }
    // A number that is missing is a zero, which is not believed: ours takes its place.
    let [prompt, completion, reported_total] =
        all.map(|count| u64::try_from(count.unwrap_or(0)).unwrap_or(0));
    Reported::Given(TokenUsage { prompt, completion, reported_total })
}

/// Reads the usage of a complete answer.
#[must_use]
pub fn usage_of_answer(body: &[u8]) -> Reported {
    let text = String::from_utf8_lossy(body);
    let fields = Fields::read(&text);
    fields.as_ref().and_then(|fields| fields.get("usage")).map_or(Reported::Missing, read_usage)
}

/// The status of an error whose call was charged.
///
/// Clients repeat a failure by its status, and each repeat would be charged: the clients of OpenAI
/// and Anthropic 408, 409, 429 and 5xx, unless `X-Should-Retry` forbids it (`shouldRetry` in
/// `client.js`, `_should_retry` in `_base_client.py`); Vercel's `ai` the same, and it reads no such
/// header (`APICallError.isRetryable` of `@ai-sdk/provider`); Google's 408, 429, 500, 502, 503 and
/// 504 (`DEFAULT_RETRY_HTTP_STATUS_CODES` in Node, `_RETRY_HTTP_STATUS_CODES` in Python).
/// LangChain leaves it to the client below. None of them repeats 424.
pub const CHARGED_FAILURE: StatusCode = StatusCode::FAILED_DEPENDENCY;

/// Do clients repeat a failure with this status by themselves?
#[must_use]
pub fn is_repeated_by_clients(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 429 | 500..)
}

/// The bytes of a streamed answer, as they arrive.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// The body of an answer.
pub enum AnswerBody {
    /// The complete body.
    Whole(Bytes),
    /// Server-sent events; the first bytes have arrived.
    Stream(ByteStream),
}

/// An upstream's answer.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers that the caller may see.
    pub headers: HeaderMap,
    /// The body.
    pub body: AnswerBody,
    /// The usage that a complete body reports.
    pub reported: Reported,
}

/// A call to an upstream. It carries nothing of the caller's credentials.
pub struct UpstreamCall<'c> {
    /// The id of the request, its charge and its usage record.
    pub id: ChargeId,
    /// The HTTP method.
    pub method: &'c Method,
    /// The path without the query.
    pub path: &'c str,
    /// The query, if any.
    pub query: Option<&'c str>,
    /// The caller's headers; empty if the sandbox answers.
    pub headers: &'c HeaderMap,
    /// The body, as it is sent to the upstream.
    pub body: Bytes,
    /// The protocol of the route.
    pub dialect: Dialect,
    /// Is the answer to be streamed?
    pub is_stream: bool,
    /// Tokens of the prompt, if the call is priced by tokens and they are counted already.
    pub prompt_tokens: Option<u64>,
    /// Becomes true while an upstream has the request.
    pub sent: &'c Sent,
}

/// Does an upstream have the request? It does not while a connection is made, and no more when it
/// has failed.
#[derive(Debug, Default)]
pub struct Sent {
    has_it: AtomicBool,
    /// One was given up while it had the request.
    had_it: AtomicBool,
}

impl Sent {
    /// An upstream has it, or none does.
    pub fn set(&self, has_it: bool) {
        self.has_it.store(has_it, Ordering::Release);
    }

    /// The upstream is given up, and has worked on it all the same.
    pub fn keep(&self) {
        self.had_it.store(true, Ordering::Release);
    }

    /// Does an upstream have it, or did it until it was given up?
    #[must_use]
    pub fn get(&self) -> bool {
        self.has_it.load(Ordering::Acquire) || self.had_it.load(Ordering::Acquire)
    }
}

/// Why an answer is missing or incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The upstream could not be reached in time, or says itself that it took too long. It is not
    /// paid.
    #[error("the upstream took too long")]
    TimedOut,
    /// A limit of ours on time ended the call while the upstream was at work on it.
    #[error("the upstream was given up")]
    GivenUp,
    /// The answer is larger than we take. So many bytes of it have come.
    #[error("the answer is larger than upstreams.response_max_bytes")]
    TooLarge {
        /// What has come of it.
        bytes: usize,
    },
    /// The upstream failed, or its answer cannot be passed on. The reason is for the log.
    #[error("{0}")]
    Broken(&'static str),
    /// The connection broke after the upstream had the request, and before it answered. It may have
    /// done the work. It is not paid.
    #[error("the connection to the upstream broke before the answer")]
    Lost,
    /// Nobody who serves the model may be asked for so many seconds.
    #[error("all deployments are busy for {retry_after} s")]
    Busy {
        /// After so many seconds somebody may be asked.
        retry_after: u64,
        /// Is it a limit of a provider, and not a failure?
        is_limit: bool,
    },
    /// Nobody serves the model.
    #[error("no deployment serves the model")]
    Nobody,
    /// The client has left.
    #[error("the client left")]
    Abandoned,
    /// This server is shutting down.
    #[error("stopped")]
    Stopped,
}

impl Failure {
    /// The status of our answer to the caller, if the call is not charged.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Failure::Abandoned => 499,
            Failure::Busy { is_limit: true, .. } => 429,
            Failure::Stopped | Failure::Busy { is_limit: false, .. } | Failure::Nobody => 503,
            Failure::TimedOut | Failure::GivenUp => 504,
            Failure::TooLarge { .. } | Failure::Broken(_) | Failure::Lost => 502,
        }
    }

    /// Did a limit of ours end the call, so that the upstream may have done its work?
    #[must_use]
    pub fn is_by_our_limit(self) -> bool {
        matches!(self, Failure::GivenUp | Failure::TooLarge { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_where_it_makes_sense() {
        for (body, expected) in [
            (
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
                Ok(Some(7)),
            ),
            (r#"{"usage":{"input_tokens":3,"output_tokens":4}}"#, Ok(Some(7))),
            (
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":9}}"#,
                Ok(Some(9)),
            ),
            (r#"{"usage":{"prompt_tokens":0,"completion_tokens":0}}"#, Ok(Some(0))),
            (
                r#"{"usage":{"prompt_tokens":3,"input_tokens":3,"completion_tokens":4,"output_tokens":4}}"#,
                Ok(Some(7)),
            ),
            (r#"{"usage":{"prompt_tokens":3}}"#, Ok(Some(3))),
            (r#"{"usage":{"output_tokens":4}}"#, Ok(Some(4))),
            (r#"{"usage":{"prompt_tokens":3,"total_tokens":3}}"#, Ok(Some(3))),
            (r#"{"usage":{"prompt_tokens":-3,"completion_tokens":4}}"#, Err(())),
            (r#"{"usage":{"prompt_tokens":1e99}}"#, Err(())),
            (r#"{"usage":"many"}"#, Err(())),
            (r#"{"usage":[3,3,4,4,7]}"#, Err(())),
            (r#"{"usage":{}}"#, Ok(None)),
            (r#"{"usage":null}"#, Ok(None)),
            ("not json", Ok(None)),
        ] {
            let reported = match usage_of_answer(body.as_bytes()) {
                Reported::Missing => Ok(None),
                Reported::Absurd => Err(()),
                Reported::Given(usage) => Ok(Some(usage.total())),
            };
            assert_eq!(reported, expected, "{body}");
        }
    }
}
