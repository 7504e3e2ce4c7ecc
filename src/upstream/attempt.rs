//! What the end of an attempt at a deployment means: is it the answer, or is somebody else asked?
//!
//! Parts of what providers say repeat the caller's request. So a text is believed only from its
//! beginning, and a code only in its own field: no caller may have our credential switched off, or
//! a dearer model asked, by what the request says.

use bytes::Bytes;
use serde_json::Value;

use super::answer::{Answer, AnswerBody, Failure};
use super::proxy::Told;
use domain::Timestamp;
use domain::routing::{AttemptFailure, retry_after};

/// Codes of a provider's account that has no money left.
const MONEY_CODES: [&str; 4] =
    ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"];
/// Beginnings of messages that say the same.
const MONEY_TEXTS: [&str; 2] = ["Your credit balance is too low", "Insufficient Balance"];
/// Codes of a prompt that is too long for the model.
const CONTEXT_CODES: [&str; 2] = ["context_length_exceeded", "string_above_max_length"];
/// Beginnings of messages that say the same.
const CONTEXT_TEXTS: [&str; 5] = [
    "prompt is too long",
    "input length and `max_tokens` exceed context limit",
    "This model's maximum context length is",
    "The input token count",
    "Input is too long",
];
/// Codes of a prompt that the provider's policy forbids.
const POLICY_CODES: [&str; 4] =
    ["content_policy_violation", "content_filter", "ResponsibleAIPolicyViolation", "moderation"];
/// Codes and reasons of a key that is refused, with status 403.
const KEY_CODES: [&str; 3] = ["invalid_api_key", "account_deactivated", "authentication_error"];
const KEY_REASONS: [&str; 4] =
    ["API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "CONSUMER_SUSPENDED", "CONSUMER_INVALID"];
/// How the message begins of a request that is larger than a limit ever allows.
const SIZE_TEXTS: [&str; 1] = ["Request too large"];
/// Codes of a model that the provider does not have.
const MODEL_CODES: [&str; 2] = ["model_not_found", "DeploymentNotFound"];

/// The error in the body of a failure.
struct Said {
    error: Value,
}

impl Said {
    fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        // Some wrap it in a list.
        let body = match body {
            Value::Array(list) => list.into_iter().next().unwrap_or_default(),
            body => body,
        };
        let error = match body.get("error") {
            Some(error @ Value::Object(_)) => error.clone(),
            _ => body,
        };
        Said { error }
    }

    fn text(&self, name: &str) -> &str {
        self.error.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        let inner = self.error.get("innererror").and_then(|inner| inner.get("code"));
        let inner = inner.and_then(Value::as_str).unwrap_or_default();
        [self.text("code"), self.text("type"), inner].iter().any(|code| codes.contains(code))
    }

    fn begins(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.text("message").starts_with(text))
    }

    fn details(&self) -> impl Iterator<Item = &Value> {
        self.error.get("details").and_then(Value::as_array).into_iter().flatten()
    }

    /// Google's reason.
    fn has_reason(&self, reason: &str) -> bool {
        self.details().any(|detail| detail.get("reason").and_then(Value::as_str) == Some(reason))
    }

    /// How long Google's `RetryInfo` asks to wait, such as `34.07s`.
    fn retry_delay(&self) -> Option<&str> {
        let of_kind = |detail: &&Value| {
            let kind = detail.get("@type").and_then(Value::as_str).unwrap_or_default();
            kind.ends_with("google.rpc.RetryInfo")
        };
        let delay = self.details().find(of_kind)?.get("retryDelay")?.as_str()?;
        delay.strip_suffix('s')
    }

    fn is_out_of_money(&self) -> bool {
        self.has_code(&MONEY_CODES) || self.begins(&MONEY_TEXTS)
    }

    /// Is it the prompt that a policy forbids? Some say it with the status of a refused credential.
    fn is_policy(&self) -> bool {
        let flagged = self.error.get("metadata").and_then(|data| data.get("flagged_input"));
        self.has_code(&POLICY_CODES) || flagged.is_some()
    }

    /// Is it the key that is refused, and not what is asked with it?
    fn is_of_key(&self) -> bool {
        self.has_code(&KEY_CODES) || KEY_REASONS.iter().any(|reason| self.has_reason(reason))
    }

    fn is_of_model(&self, upstream_model: &str) -> bool {
        let message = self.text("message");
        let named = message.strip_prefix("model: ").map(str::trim);
        let quoted = [
            format!("The model `{upstream_model}` does not exist"),
            format!("The model '{upstream_model}' does not exist"),
            format!("models/{upstream_model} is not found"),
        ];
        // Google says both in one: perhaps it has the model, but not this method of it.
        if message.contains("is not supported for") {
            return false;
        }
        self.has_code(&MODEL_CODES)
            || named == Some(upstream_model)
            || quoted.iter().any(|start| message.starts_with(start))
    }
}

/// The microseconds to wait that a provider asks for.
fn told_micros(told: &Told, said: &Said, now: Timestamp) -> Option<i64> {
    let of_millis = |text: &String| {
        let whole = text.split('.').next()?.trim();
        whole.parse::<i64>().ok()?.checked_mul(1_000).filter(|micros| *micros > 0)
    };
    let header = told.retry_after_ms.as_ref().and_then(of_millis);
    header
        .or_else(|| retry_after(told.retry_after.as_deref()?, now))
        .or_else(|| retry_after(said.retry_delay()?, now))
}

/// How an attempt failed; `None` if it is the answer.
#[must_use]
pub fn judge(
    result: &Result<Answer, Failure>,
    told: &Told,
    upstream_model: &str,
    now: Timestamp,
) -> Option<AttemptFailure> {
    let failure = match result {
        Ok(Answer { status, .. }) if status.is_success() => return None,
        Ok(Answer { status, body, .. }) => {
            let body = match body {
                AnswerBody::Whole(body) => body.clone(),
                AnswerBody::Stream(_) => Bytes::new(),
            };
            let said = Said::read(&body);
            return Some(refused(status.as_u16(), told, &said, upstream_model, now));
        }
        Err(failure) => failure,
    };
    let said = || Said::read(&told.body);
    Some(match (failure, told.status) {
        (Failure::Abandoned | Failure::Stopped, _) => AttemptFailure::ClientGone,
        // It would be so again, and the work is done.
        (Failure::TooLarge { .. }, _) => AttemptFailure::Callers,
        (_, Some(401 | 407)) => AttemptFailure::Refused,
        (_, Some(403)) => {
            let said = said();
            if said.is_policy() {
                AttemptFailure::Policy
            } else if said.is_out_of_money() {
                AttemptFailure::OutOfMoney
            } else if said.is_of_key() {
                AttemptFailure::Refused
            } else {
                // Most say so of the model or of what is asked of it, which callers choose.
                AttemptFailure::NotServed
            }
        }
        (Failure::GivenUp, _) => AttemptFailure::Broken,
        (_, None | Some(502 | 503 | 529)) => AttemptFailure::Unreachable,
        _ => AttemptFailure::Broken,
    })
}

/// What a status of 400 to 499 means that is an answer.
fn refused(
    status: u16,
    told: &Told,
    said: &Said,
    upstream_model: &str,
    now: Timestamp,
) -> AttemptFailure {
    match status {
        // Too dear for what is left; smaller requests are served.
        402 if said.text("message").contains("max_tokens") => AttemptFailure::NotServed,
        402 => AttemptFailure::OutOfMoney,
        429 if said.is_out_of_money() => AttemptFailure::OutOfMoney,
        429 if said.begins(&SIZE_TEXTS) => AttemptFailure::NotServed,
        429 => AttemptFailure::RateLimited { told_micros: told_micros(told, said, now) },
        400 if said.has_reason("API_KEY_INVALID") => AttemptFailure::Refused,
        400 if said.is_out_of_money() => AttemptFailure::OutOfMoney,
        400 | 413 | 422 if said.has_code(&CONTEXT_CODES) || said.begins(&CONTEXT_TEXTS) => {
            AttemptFailure::ContextTooLong
        }
        400 | 422 if said.is_policy() => AttemptFailure::Policy,
        404 if said.is_of_model(upstream_model) => AttemptFailure::NoSuchModel,
        404 if said.text("message").starts_with("models/") => AttemptFailure::NotServed,
        _ => AttemptFailure::Callers,
    }
}

/// A refusal in which the provider's name of the model is the public one.
#[must_use]
pub fn hide_name(body: &Bytes, upstream_model: &str, public: &str) -> Bytes {
    match std::str::from_utf8(body) {
        Ok(text) if upstream_model != public && text.contains(upstream_model) => {
            text.replace(upstream_model, public).into()
        }
        _ => body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::http::header::HeaderMap;
    use domain::Reported;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    #[expect(clippy::unnecessary_wraps, reason = "as an attempt ends")]
    fn answer(status: u16, body: &str) -> Result<Answer, Failure> {
        Ok(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: AnswerBody::Whole(body.to_owned().into()),
            reported: Reported::Missing,
        })
    }

    fn judged(status: u16, body: &str) -> Option<AttemptFailure> {
        judge(&answer(status, body), &Told::default(), "theirs", NOW)
    }

    #[test]
    fn what_a_provider_says_is_told_apart() {
        let limited = AttemptFailure::RateLimited { told_micros: None };
        for (status, body, expected) in [
            (200, "{}", None),
            (429, "{}", Some(limited)),
            (429, r#"{"error":{"code":"insufficient_quota"}}"#, Some(AttemptFailure::OutOfMoney)),
            (402, "", Some(AttemptFailure::OutOfMoney)),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access"}}"#,
                Some(AttemptFailure::OutOfMoney),
            ),
            (
                400,
                r#"[{"error":{"code":400,"details":[{"reason":"API_KEY_INVALID"}]}}]"#,
                Some(AttemptFailure::Refused),
            ),
            (
                400,
                r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#,
                Some(AttemptFailure::ContextTooLong),
            ),
            (
                400,
                r#"{"error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}"#,
                Some(AttemptFailure::ContextTooLong),
            ),
            (
                400,
                r#"{"error":{"code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
                Some(AttemptFailure::Policy),
            ),
            (404, r#"{"error":{"code":"model_not_found"}}"#, Some(AttemptFailure::NoSuchModel)),
            (
                404,
                r#"{"error":{"type":"not_found_error","message":"model: theirs"}}"#,
                Some(AttemptFailure::NoSuchModel),
            ),
            (404, r#"{"error":{"message":"no such file"}}"#, Some(AttemptFailure::Callers)),
            (
                404,
                r#"{"error":{"code":404,"message":"models/theirs is not found for API version v1beta, or is not supported for embedContent."}}"#,
                Some(AttemptFailure::NotServed),
            ),
            (
                429,
                r#"{"error":{"message":"Request too large for theirs in organization org-1 on tokens per min"}}"#,
                Some(AttemptFailure::NotServed),
            ),
            (
                402,
                r#"{"error":{"message":"This request requires more credits, or fewer max_tokens."}}"#,
                Some(AttemptFailure::NotServed),
            ),
            (400, r#"{"error":{"message":"temperature"}}"#, Some(AttemptFailure::Callers)),
            (422, "not json", Some(AttemptFailure::Callers)),
        ] {
            assert_eq!(judged(status, body), expected, "{status} {body}");
        }
    }

    /// What repeats the request proves nothing.
    #[test]
    fn a_caller_cannot_speak_for_the_provider() {
        for (status, text) in [
            (400, "Invalid value: 'Your credit balance is too low'"),
            (400, "Invalid value: 'prompt is too long'"),
            (400, "Unknown parameter: 'insufficient_quota'"),
            (404, "No file: model: theirs"),
            (404, "The model `other` does not exist"),
        ] {
            let body = serde_json::json!({ "error": { "message": text, "code": null } });
            assert_eq!(judged(status, &body.to_string()), Some(AttemptFailure::Callers), "{text}");
        }
    }

    #[test]
    fn a_failure_without_an_answer_is_told_apart() {
        let failed = |failure, status: Option<u16>, body: &'static str| {
            let told =
                Told { status, body: Bytes::from_static(body.as_bytes()), ..Told::default() };
            judge(&Err(failure), &told, "theirs", NOW).unwrap()
        };
        let broken = Failure::Broken("");
        for (failure, status, body, expected) in [
            (broken, None, "", AttemptFailure::Unreachable),
            (Failure::TimedOut, None, "", AttemptFailure::Unreachable),
            (broken, Some(503), "", AttemptFailure::Unreachable),
            (broken, Some(529), "", AttemptFailure::Unreachable),
            (broken, Some(500), "", AttemptFailure::Broken),
            (Failure::TimedOut, Some(504), "", AttemptFailure::Broken),
            (Failure::GivenUp, None, "", AttemptFailure::Broken),
            (Failure::GivenUp, Some(200), "", AttemptFailure::Broken),
            (broken, Some(200), "", AttemptFailure::Broken),
            (broken, Some(401), "", AttemptFailure::Refused),
            (broken, Some(403), "", AttemptFailure::NotServed),
            (
                broken,
                Some(403),
                r#"{"error":{"code":"model_not_found","message":"Project does not have access"}}"#,
                AttemptFailure::NotServed,
            ),
            (
                broken,
                Some(403),
                r#"{"error":{"message":"You are not allowed to generate embeddings from this model"}}"#,
                AttemptFailure::NotServed,
            ),
            (broken, Some(403), r#"{"error":{"code":"invalid_api_key"}}"#, AttemptFailure::Refused),
            (
                broken,
                Some(403),
                r#"{"error":{"code":403,"details":[{"reason":"CONSUMER_SUSPENDED"}]}}"#,
                AttemptFailure::Refused,
            ),
            (
                broken,
                Some(403),
                r#"{"error":{"code":403,"metadata":{"flagged_input":"x"}}}"#,
                AttemptFailure::Policy,
            ),
            (Failure::TooLarge { bytes: 1 }, Some(200), "", AttemptFailure::Callers),
            (Failure::Abandoned, None, "", AttemptFailure::ClientGone),
        ] {
            assert_eq!(failed(failure, status, body), expected, "{failure} {status:?} {body}");
        }
    }

    #[test]
    fn the_time_to_wait_is_read_where_providers_write_it() {
        let google = r#"{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}"#;
        let header = |text: &str| Some(text.to_owned());
        for (seconds, millis, body, micros) in [
            (header("7"), None, "", Some(7_000_000)),
            (header("7"), header("1500"), "", Some(1_500_000)),
            (header("7"), header("soon"), "", Some(7_000_000)),
            (None, None, google, Some(34_500_000)),
            (None, None, "{}", None),
        ] {
            let told = Told { retry_after: seconds, retry_after_ms: millis, ..Told::default() };
            let expected = AttemptFailure::RateLimited { told_micros: micros };
            assert_eq!(judge(&answer(429, body), &told, "theirs", NOW), Some(expected));
        }
    }

    #[test]
    fn a_refusal_names_the_public_model() {
        let body = Bytes::from_static(b"no theirs-1 here");
        assert_eq!(hide_name(&body, "theirs-1", "ours"), "no ours here");
        assert_eq!(hide_name(&body, "other", "ours"), body);
    }
}
