//! The fields that the sandbox reads of a request's body.

use serde_json::{Map, Value};

use super::MODELS;

/// Most choices of one completion.
const CHOICES_MAX: usize = 16;

/// A sentence that says why the body is invalid.
pub(super) struct BadBody(pub(super) &'static str);

pub(super) fn model(body: &Map<String, Value>) -> &str {
    body.get("model").and_then(Value::as_str).unwrap_or(MODELS[0])
}

pub(super) fn token_limit(body: &Map<String, Value>) -> usize {
    ["max_completion_tokens", "max_tokens", "max_output_tokens"]
        .iter()
        .find_map(|name| body.get(*name).and_then(Value::as_u64))
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

pub(super) fn choices(body: &Map<String, Value>) -> usize {
    let asked = body.get("n").and_then(Value::as_u64).unwrap_or(1);
    usize::try_from(asked).unwrap_or(CHOICES_MAX).clamp(1, CHOICES_MAX)
}

/// A text, or the texts of a list. Parts of a multi-part content give their `text`, messages their
/// content.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part {
                Value::String(text) => text.clone(),
                Value::Object(part) => match (part.get("text"), part.get("content")) {
                    (Some(Value::String(text)), _) => text.clone(),
                    (None, Some(content)) => texts(content).join("\n"),
                    _ => String::new(),
                },
                other => other.to_string(),
            })
            .collect(),
        Value::Null => Vec::new(),
        other => vec![other.to_string()],
    }
}

pub(super) fn last_message(body: &Map<String, Value>) -> Result<String, BadBody> {
    let messages = body.get("messages").and_then(Value::as_array);
    let last = messages.and_then(|messages| messages.last());
    let last = last.ok_or(BadBody("messages: must be a list of at least one message"))?;
    Ok(texts(last.get("content").unwrap_or(&Value::Null)).join("\n"))
}
