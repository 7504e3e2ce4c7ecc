//! What a request asks for whose cost cannot be known before the call. The names are OpenAI's, and
//! those of upstreams that understand its requests; for Anthropic's see `messages`.

use serde_json::{Map, Value};

use super::Dialect;
use super::messages;
use super::names::{EXTRA_FIELDS, OWN_NAMES, get};
use domain::pricing::Extra;

/// Something that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it is.
    pub extra: Extra,
    /// The field that asks for it.
    pub field: String,
}

/// Tools that the customer runs.
const OWN_TOOLS: [&str; 2] = ["function", "custom"];

/// The fields of a tool that the customer runs.
const TOOL_FIELDS: [&str; 16] = [
    "async",
    "allowed_callers",
    "cache_control",
    "custom",
    "defer_loading",
    "description",
    "eager_input_streaming",
    "format",
    "function",
    "input_examples",
    "input_schema",
    "name",
    "output_schema",
    "parameters",
    "strict",
    "type",
];

/// Items of `/v1/responses` that have all their content in them.
const OWN_ITEMS: [&str; 5] = [
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
];

impl Dialect {
    /// What the request asks for.
    pub(super) fn extras(self, body: &Map<String, Value>) -> Vec<Asked> {
        if self.is_anthropic() {
            return messages::extras(body);
        }
        let mut asked = Vec::new();
        let mut ask = |extra, field: &str| asked.push(Asked { extra, field: field.to_owned() });
        for (name, value) in body {
            let known = EXTRA_FIELDS.iter().find(|(field, _)| field == name);
            if let Some((_, extra)) = known
                && is_asked(*extra, name, value)
            {
                ask(*extra, name);
            }
            if name == "prompt_cache_options" && compares_responses(value) {
                ask(Extra::PreviousResponse, name);
            }
            if name == "input" && self == Dialect::Responses {
                check_items(value, &mut ask);
            }
            let is_text = name == "text" && self != Dialect::Responses;
            if is_text || !OWN_NAMES.contains(&name.as_str()) {
                check_part(name, value, &mut ask);
            }
        }
        asked
    }
}

/// Does the field of this name ask for it?
pub(super) fn is_asked(extra: Extra, name: &str, value: &Value) -> bool {
    match (name, value) {
        (_, Value::Array(values)) if name != "tools" => {
            extra != Extra::PromptTemplate && !values.is_empty()
        }
        ("tools", Value::Array(tools)) => tools.iter().any(is_hosted),
        ("service_tier", Value::String(tier)) => tier != "auto" && tier != "default",
        ("prompt", Value::Object(prompt)) => get(prompt, "id").is_some(),
        ("prompt", _) | (_, Value::Null | Value::Bool(false)) => false,
        _ => true,
    }
}

/// Does it name an earlier response?
fn compares_responses(options: &Value) -> bool {
    let fields = options.as_object();
    let id = fields.and_then(|fields| get(fields, "comparison_response_id"));
    id.is_some_and(|id| !id.is_null())
}

/// Does the upstream run the tool? A tool of the customer's is a function that it describes, and
/// has nothing beside: some upstreams find their own tools by the name of a field.
pub(super) fn is_hosted(tool: &Value) -> bool {
    let Value::Object(tool) = tool else { return true };
    if get(tool, "type").and_then(Value::as_str) == Some("namespace") {
        let own = ["type", "name", "description", "tools"];
        let inner = tool.get("tools").and_then(Value::as_array);
        return inner.is_none_or(|inner| inner.iter().any(is_hosted))
            || !tool.keys().all(|name| own.contains(&name.as_str()));
    }
    let is_own = if let Some(kind) = get(tool, "type").filter(|kind| !kind.is_null()) {
        kind.as_str().is_some_and(|kind| OWN_TOOLS.contains(&kind))
    } else {
        let is_object = |name: &str| tool.get(name).is_some_and(Value::is_object);
        let is_named = tool.get("name").is_some_and(Value::is_string);
        is_object("function") || is_named && (is_object("input_schema") || is_object("parameters"))
    };
    !is_own || !tool.keys().all(|name| TOOL_FIELDS.contains(&name.as_str()))
}

/// Items that are kept by the upstream, or made by its tools.
fn check_items(items: &Value, ask: &mut impl FnMut(Extra, &str)) {
    let Value::Array(items) = items else { return };
    for item in items {
        let Value::Object(item) = item else { continue };
        let kind = get(item, "type").filter(|kind| !kind.is_null());
        let has = |name: &str| get(item, name).is_some_and(|value| !value.is_null());
        let is_whole = match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some("message") => has("content"),
            // If it is kept by the upstream, it is not sent (`items`).
            Some("reasoning") => true,
            Some(kind) => OWN_ITEMS.contains(&kind),
        };
        if !is_whole {
            ask(Extra::ItemReference, "input");
        }
    }
}

/// Files and other things that a part of a prompt names.
fn check_part(field: &str, value: &Value, ask: &mut impl FnMut(Extra, &str)) {
    match value {
        Value::Object(part) => {
            let text = |name: &str| get(part, name).and_then(Value::as_str).unwrap_or_default();
            let kind = text("type");
            if kind == "item_reference" {
                ask(Extra::ItemReference, field);
            }
            for (name, value) in part {
                let is_remote = |url: &str| !url.is_empty() && !url.starts_with("data:");
                let url = match value {
                    Value::String(url) => url.as_str(),
                    Value::Object(inner) => get(inner, "url").and_then(Value::as_str).unwrap_or(""),
                    _ => "",
                };
                match (name.as_str(), value) {
                    (_, Value::Null) => {}
                    ("file_id" | "file_ids", _) => ask(Extra::FileId, field),
                    // vLLM takes it for the content of an image or sound, whoever sent that.
                    ("uuid", _) => ask(Extra::ItemReference, field),
                    ("container" | "container_id", _) => ask(Extra::Container, field),
                    ("file_url" | "audio_url" | "video_url", _) if is_remote(url) => {
                        ask(Extra::FileUrl, field);
                    }
                    // Sound that the upstream keeps.
                    ("audio", Value::Object(audio))
                        if get(audio, "data").is_none() && get(audio, "id").is_some() =>
                    {
                        ask(Extra::ItemReference, field);
                    }
                    _ => {}
                }
                check_part(field, value, ask);
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| check_part(field, part, ask)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(dialect: Dialect, body: &Value) -> Vec<Extra> {
        let asked = dialect.extras(body.as_object().unwrap());
        asked.into_iter().map(|asked| asked.extra).collect()
    }

    #[test]
    fn what_cannot_be_known_before_the_call_is_found() {
        let part = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
        for (body, extra) in [
            (json!({ "background": true }), Extra::Background),
            (json!({ "service_tier": "priority" }), Extra::ServiceTier),
            (json!({ "service_tier": 1 }), Extra::ServiceTier),
            (json!({ "tools": [{ "type": "web_search" }] }), Extra::HostedTools),
            (json!({ "tools": [{ "type": "function" }, { "type": "mcp" }] }), Extra::HostedTools),
            (json!({ "tools": [{ "Type": "file_search" }] }), Extra::HostedTools),
            (json!({ "tools": "web_search" }), Extra::HostedTools),
            (json!({ "tools": [{ "googleSearch": {} }] }), Extra::HostedTools),
            (json!({ "tools": [{ "name": "web_search" }] }), Extra::HostedTools),
            (json!({ "tools": [{ "name": "f", "parameters": true }] }), Extra::HostedTools),
            (
                json!({ "tools": [{ "type": "function", "function": {}, "codeExecution": {} }] }),
                Extra::HostedTools,
            ),
            (
                json!({ "prompt_cache_options": { "comparison_response_id": "r" } }),
                Extra::PreviousResponse,
            ),
            (json!({ "web_search_options": {} }), Extra::HostedTools),
            (json!({ "prompt": { "id": "p" } }), Extra::PromptTemplate),
            (json!({ "previous_response_id": "r" }), Extra::PreviousResponse),
            (json!({ "conversation": { "id": "c" } }), Extra::Conversation),
            (json!({ "input": [{ "type": "item_reference", "id": "i" }] }), Extra::ItemReference),
            (json!({ "input": [{ "id": "i" }] }), Extra::ItemReference),
            (json!({ "input": [{ "type": null, "id": "i" }] }), Extra::ItemReference),
            (
                json!({ "input": [{ "type": "image_generation_call", "id": "i" }] }),
                Extra::ItemReference,
            ),
            (part(json!({ "type": "file", "file": { "file_id": "f" } })), Extra::FileId),
            (part(json!({ "type": "input_image", "file_id": "f" })), Extra::FileId),
            (
                part(json!({ "type": "input_file", "file_url": "https://a.example" })),
                Extra::FileUrl,
            ),
            (
                part(json!({ "type": "video_url", "video_url": { "url": "https://a.example" } })),
                Extra::FileUrl,
            ),
            (
                json!({ "messages": [{ "role": "assistant", "audio": { "id": "a" } }] }),
                Extra::ItemReference,
            ),
            (json!({ "container": "c" }), Extra::Container),
            (
                part(json!({ "type": "image_url", "image_url": null, "uuid": "u" })),
                Extra::ItemReference,
            ),
            (json!({ "kv_transfer_params": { "a": 1 } }), Extra::ItemReference),
            (json!({ "models": ["a", "b"] }), Extra::OtherModels),
            (json!({ "fallbacks": ["b"] }), Extra::OtherModels),
        ] {
            assert!(asked(Dialect::Responses, &body).contains(&extra), "{body}");
        }
    }

    #[test]
    fn usual_requests_ask_for_nothing_of_the_kind() {
        for body in [
            json!({ "messages": [{ "role": "user", "content": "Hello!" }], "background": false }),
            json!({ "service_tier": "auto", "previous_response_id": null, "tools": [] }),
            json!({ "prompt": "Hello!" }),
            json!({ "prompt": ["Hello!", "Hello!"] }),
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": {
                "properties": { "file_id": { "type": "string" } } } } }] }),
            json!({ "tools": [{ "type": "custom", "name": "c" }] }),
            json!({ "tools": [{ "name": "t", "input_schema": {} }, { "function": {} }] }),
            json!({ "prompt_cache_options": { "mode": "implicit", "ttl": "30m" } }),
            json!({ "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "Hello!" }] },
                { "type": "message", "id": "m", "role": "assistant", "content": [] },
                { "type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x" },
                { "type": "reasoning", "id": "r", "summary": [] },
                { "type": "function_call", "id": "f", "call_id": "c", "name": "n", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c", "output": "1" },
            ] }),
            json!({ "messages": [{ "role": "user", "content": [
                { "type": "image_url", "image_url": { "url": "https://a.example/b.png" } },
                { "type": "input_audio", "input_audio": { "data": "AAAA", "format": "wav" } },
                { "type": "file", "file": { "filename": "a.pdf", "file_data": "data:x;base64,AA" } },
            ] }] }),
            json!({ "metadata": { "file_id": "mine" }, "models": [] }),
            json!({ "structured_outputs": { "json": { "properties": {
                "file_id": { "type": "string" }, "uuid": { "type": "string" } } } } }),
        ] {
            assert_eq!(asked(Dialect::Responses, &body), [], "{body}");
        }
    }
}
