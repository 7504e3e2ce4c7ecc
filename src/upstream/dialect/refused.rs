//! What an upstream says of a failure, cut to what an error has. Nothing is paid for it, so nothing
//! that was generated may be in it: some upstreams put an answer that they could not use there.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::json::fields::Fields;

/// Longest text of an error, in characters.
const TEXT_MAX: usize = 1_000;
/// Longest body of a refusal, in bytes.
const BODY_MAX: usize = 4 * 1024;
/// Most entries of a list in an error.
const ENTRIES_MAX: usize = 20;
/// The fields of an error, in all protocols.
const ERROR_FIELDS: [&str; 5] = ["message", "type", "param", "code", "status"];
/// The fields of an entry that says what is wrong with a field of the request.
const DETAIL_FIELDS: [&str; 3] = ["loc", "msg", "type"];

/// What passes of an event that says nothing but a failure. Nothing in it was asked for, so nothing
/// in it is paid, unless it reports usage.
pub(super) const FAILURE_FIELDS: [&str; 7] =
    ["id", "object", "created", "model", "system_fingerprint", "usage", "error"];

/// Does the `error` of an answer or an event say that the upstream failed?
pub(super) fn is_failure(error: &str) -> bool {
    let error = error.trim();
    error.starts_with('{') || error.len() > 2 && error.starts_with('"')
}

/// Has an answer, or an event of one, the part that is generated?
pub(super) fn has_generated(fields: &Fields<'_>) -> bool {
    let is_there = |part: &str| !matches!(part.trim(), "[]" | "\"\"" | "{}");
    ["choices", "output", "candidates"].iter().any(|name| fields.get(name).is_some_and(is_there))
}

/// Is a complete answer nothing but a failure? Then its other texts were not generated.
#[must_use]
pub fn is_only_failure(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let fields = Fields::read(&text);
    fields.is_some_and(|fields| {
        fields.get("error").is_some_and(is_failure) && !has_generated(&fields)
    })
}

/// Does a complete answer say that the upstream failed?
#[must_use]
pub fn is_failed(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let fields = Fields::read(&text);
    fields.is_some_and(|fields| fields.get("error").is_some_and(is_failure))
}

/// The body of a refusal with this status, cut to the fields of its error.
#[must_use]
pub fn refusal_body(status: u16, body: &Bytes) -> Bytes {
    if body.is_empty() {
        return Bytes::new();
    }
    let mut read = serde_json::from_slice::<Value>(body).ok();
    if status == TOO_MANY
        && let Some(Value::Object(fields)) = &mut read
    {
        hide_limits(fields);
    }
    let fields = read.as_ref().and_then(Value::as_object);
    let mut kept = fields.map(known).unwrap_or_default();
    if let Some(error) = fields.and_then(|fields| fields.get("error")) {
        kept.insert("error".to_owned(), known_error(error));
    }
    if let Some(detail) = fields.and_then(|fields| fields.get("detail")) {
        kept.insert("detail".to_owned(), known_detail(detail));
    }
    if kept.is_empty() {
        return unknown();
    }
    let mut kept = Value::Object(kept);
    for chars_max in [TEXT_MAX, TEXT_MAX / 5, TEXT_MAX / 25] {
        shorten(&mut kept, chars_max);
        let text = kept.to_string();
        if text.len() <= BODY_MAX {
            return text.into();
        }
    }
    unknown()
}

/// The status of an upstream whose limits are reached. They are limits of the operator's, and so is
/// what it says of them.
const TOO_MANY: u16 = 429;

/// Leaves of a refusal for too many requests nothing but its kind.
fn hide_limits(fields: &mut Map<String, Value>) {
    let message = || Value::from("The upstream service has too many requests. Please try again.");
    fields.remove("detail");
    if let Some(own) = fields.get_mut("message") {
        *own = message();
    }
    match fields.get_mut("error") {
        Some(Value::Object(error)) => {
            error.insert("message".to_owned(), message());
        }
        Some(error) => *error = message(),
        None => {}
    }
}

/// Beginnings of the names that upstreams give their customers.
const ACCOUNT_NAMES: [&str; 3] = ["org-", "org_", "proj_"];
/// The least length of such a name. Fields have names like `org_id`.
const ACCOUNT_NAME_MIN: usize = 12;

/// The text without the names that the upstream has for the operator.
fn without_account_names(text: &str) -> Cow<'_, str> {
    if !ACCOUNT_NAMES.iter().any(|name| text.contains(name)) {
        return Cow::Borrowed(text);
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| !is_of_name(c)) {
        let name = part.trim_end_matches(|c: char| !is_of_name(c));
        let is_of_account = name.len() >= ACCOUNT_NAME_MIN
            && ACCOUNT_NAMES.iter().any(|start| name.starts_with(start));
        if is_of_account {
            out.push_str("...");
            out.push_str(part.get(name.len()..).unwrap_or_default());
        } else {
            out.push_str(part);
        }
    }
    out.into()
}

/// A refusal that says nothing that can be passed on.
fn unknown() -> Bytes {
    let message = "The upstream service refused the request.";
    json!({ "error": { "message": message } }).to_string().into()
}

/// Cuts each text in the value to so many characters.
fn shorten(value: &mut Value, chars_max: usize) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(chars_max) {
                text.truncate(end);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| shorten(value, chars_max)),
        Value::Object(fields) => fields.values_mut().for_each(|value| shorten(value, chars_max)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// An error, cut to its fields.
#[must_use]
pub(super) fn known_error(error: &Value) -> Value {
    match error {
        Value::Object(fields) => Value::Object(known(fields)),
        other => short(other).unwrap_or(Value::Null),
    }
}

/// The fields of an error, of those that an object has.
pub(super) fn known_fields(
    fields: &Map<String, Value>,
) -> impl Iterator<Item = (&'static str, Value)> {
    ERROR_FIELDS.into_iter().filter_map(|name| Some((name, short(fields.get(name)?)?)))
}

fn known(fields: &Map<String, Value>) -> Map<String, Value> {
    known_fields(fields).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn known_detail(detail: &Value) -> Value {
    let entry = |entry: &Value| {
        let Value::Object(fields) = entry else { return short(entry).unwrap_or(Value::Null) };
        let kept = DETAIL_FIELDS.iter().filter_map(|name| {
            let value = match fields.get(*name)? {
                Value::Array(values) => {
                    values.iter().take(ENTRIES_MAX).filter_map(short).collect::<Vec<_>>().into()
                }
                value => short(value)?,
            };
            Some(((*name).to_owned(), value))
        });
        Value::Object(kept.collect())
    };
    match detail {
        Value::Array(entries) => {
            Value::Array(entries.iter().take(ENTRIES_MAX).map(entry).collect())
        }
        detail => entry(detail),
    }
}

/// A value that is neither a list nor an object; a long text is cut.
fn short(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => {
            Some(Value::String(without_account_names(text).chars().take(TEXT_MAX).collect()))
        }
        Value::Array(_) | Value::Object(_) => None,
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_wrong_and_nothing_else() {
        for (body, kept) in [
            (json!({ "error": "no such model" }), json!({ "error": "no such model" })),
            (
                json!({ "error": { "message": "m", "type": "t", "param": null, "code": 5,
                    "failed_generation": "the answer" }, "choices": ["the answer"] }),
                json!({ "error": { "message": "m", "type": "t", "param": null, "code": 5 } }),
            ),
            (
                json!({ "error": { "message": { "content": "the answer" } } }),
                json!({ "error": {} }),
            ),
            (
                json!({ "error": "Validation Error", "message": "m", "output": "the answer" }),
                json!({ "error": "Validation Error", "message": "m" }),
            ),
            (
                json!({ "detail": [{ "loc": ["body", 0], "msg": "m", "input": "the answer" }] }),
                json!({ "detail": [{ "loc": ["body", 0], "msg": "m" }] }),
            ),
            (json!({ "detail": "m" }), json!({ "detail": "m" })),
            (
                json!(["the answer"]),
                json!({ "error": {
                "message": "The upstream service refused the request." } }),
            ),
        ] {
            let cut = refusal_body(400, &body.to_string().into());
            assert_eq!(serde_json::from_slice::<Value>(&cut).unwrap(), kept, "{body}");
        }
        let html = refusal_body(400, &Bytes::from_static(b"<html>the answer"));
        assert!(!html.is_empty() && !String::from_utf8_lossy(&html).contains("answer"));
        assert!(refusal_body(400, &Bytes::new()).is_empty());
        let long = json!({ "error": { "message": "the answer ".repeat(1_000) } });
        assert!(refusal_body(400, &long.to_string().into()).len() < 1_100);
        // All of it is bounded, whatever it is made of.
        let entry = json!({ "loc": vec!["the answer"; 20], "msg": "\u{1}".repeat(1_000) });
        let error = json!({ "message": "\u{1f980}".repeat(1_000), "code": "c".repeat(1_000) });
        for long in [
            json!({ "error": error, "message": "m".repeat(1_000) }),
            json!({ "error": "e", "detail": vec![entry; 20] }),
        ] {
            let cut = refusal_body(400, &long.to_string().into());
            assert!(cut.len() <= BODY_MAX, "{}", cut.len());
            assert!(!serde_json::from_slice::<Value>(&cut).unwrap()["error"].is_null());
        }
    }

    #[test]
    fn a_refusal_says_nothing_of_the_operator() {
        let told = |status, body: Value| {
            let cut = refusal_body(status, &body.to_string().into());
            serde_json::from_slice::<Value>(&cut).unwrap()
        };
        let error = |message: &str| json!({ "error": { "message": message, "code": "c" } });
        assert_eq!(
            told(400, error("No access for org-Ab1_2cD3eF4g, project proj_3hI4jK5l: ask.")),
            error("No access for ..., project ...: ask.")
        );
        let busy = "The upstream service has too many requests. Please try again.";
        let limited = "Limit 30,000, used 12,345 of Example Inc.";
        assert_eq!(told(429, error(limited)), error(busy));
        assert_eq!(told(429, json!({ "error": limited })), json!({ "error": busy }));
        assert_eq!(told(429, json!({ "message": limited })), json!({ "message": busy }));
        assert!(!told(429, json!({ "detail": limited })).to_string().contains("Example"));
        assert!(!told(429, json!([limited])).to_string().contains("Example"));
    }

    #[test]
    fn a_failure_alone_is_no_answer() {
        for (body, is_only_failure) in [
            (json!({ "error": { "message": "m" }, "request_id": "req_1" }), true),
            (json!({ "error": "no", "choices": [], "output": null }), true),
            (json!({ "error": "no", "choices": [{}] }), false),
            (json!({ "error": { "message": "m" }, "output": [{}] }), false),
            (json!({ "error": null, "text": "t" }), false),
            (json!({ "error": "", "text": "t" }), false),
            (json!({ "error": false }), false),
            (json!({ "error": 0 }), false),
            (json!(["error"]), false),
        ] {
            let text = body.to_string();
            assert_eq!(super::is_only_failure(text.as_bytes()), is_only_failure, "{body}");
        }
    }
}
