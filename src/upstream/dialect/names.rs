//! The names of a request's fields, as the most lenient reader reads them.
//!
//! Some upstreams ignore the case of names: Go's `encoding/json` folds U+017F to `s` and U+212A to
//! `k`. Others read `maxTokens` as `max_tokens`. A name that such a reader takes for one that is
//! read here is refused, because the upstream would do what is not priced.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use domain::pricing::Extra;

/// The fields that prices are made of.
pub(super) const READ_FIELDS: [&str; 9] = [
    "stream",
    "stream_options",
    "model",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "prompt",
];

/// Fields that ask for reasoning.
pub(super) const REASONING_FIELDS: [&str; 8] = [
    "reasoning",
    "reasoning_effort",
    "include_reasoning",
    "thinking",
    "thinking_budget",
    "thinking_config",
    "enable_thinking",
    "chat_template_kwargs",
];

/// Fields that ask for something whose cost cannot be known before the call.
pub(super) const EXTRA_FIELDS: [(&str, Extra); 22] = [
    ("background", Extra::Background),
    ("container", Extra::Container),
    ("conversation", Extra::Conversation),
    ("file_id", Extra::FileId),
    ("file_ids", Extra::FileId),
    // What vLLM keeps of earlier requests, whoever sent them.
    ("ec_transfer_params", Extra::ItemReference),
    ("enable_search", Extra::HostedTools),
    ("fallbacks", Extra::OtherModels),
    ("kv_transfer_params", Extra::ItemReference),
    ("mcp_servers", Extra::HostedTools),
    ("models", Extra::OtherModels),
    ("plugins", Extra::HostedTools),
    ("preset", Extra::OtherModels),
    ("previous_response_id", Extra::PreviousResponse),
    ("route", Extra::OtherModels),
    ("search_parameters", Extra::HostedTools),
    ("service_tier", Extra::ServiceTier),
    ("tool_resources", Extra::HostedTools),
    ("tools", Extra::HostedTools),
    ("prompt", Extra::PromptTemplate),
    ("vector_store_ids", Extra::FileId),
    ("web_search_options", Extra::HostedTools),
];

/// Further fields of the body that prices, or the content of prompts, depend on.
const OTHER_FIELDS: [&str; 14] = [
    "audio",
    "functions",
    "input",
    "instructions",
    "messages",
    "metadata",
    "modalities",
    "prediction",
    "response_format",
    "suffix",
    "system",
    "text",
    "tool_choice",
    "extra_body",
];

/// Fields of the parts of a prompt that are read.
const PART_FIELDS: [&str; 19] = [
    "audio",
    "container",
    "container_id",
    "content",
    "data",
    "encrypted_content",
    "file",
    "file_data",
    "file_id",
    "file_ids",
    "file_url",
    "id",
    "image_url",
    "input_audio",
    "role",
    "text",
    "type",
    "url",
    "uuid",
];

/// Fields of the body with schemas, or with names of the customer's own, in which nothing is looked
/// for. `text` is a schema in `/v1/responses`, and a prompt elsewhere.
pub(super) const OWN_NAMES: [&str; 8] = [
    "functions",
    "guided_json",
    "logit_bias",
    "metadata",
    "response_format",
    "structured_outputs",
    "text",
    "tools",
];

/// The name without case, as Unicode folds it.
pub(super) fn folded(name: &str) -> Cow<'_, str> {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    // A dot above is what is left of a capital I that has one.
    let upper = name.chars().flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase).filter(|c| *c != '\u{307}').collect::<String>().into()
}

/// May an upstream take the field for `model`?
#[must_use]
pub fn is_model_field(name: &str) -> bool {
    folded(name) == "model"
}

/// The folded name without the marks between its words.
fn squashed(name: &str) -> Cow<'_, str> {
    let folded = folded(name);
    if folded.contains(MARKS) { folded.replace(MARKS, "").into() } else { folded }
}

const MARKS: [char; 2] = ['_', '-'];

/// The names of the body that are read, by their squashed form.
static KNOWN: LazyLock<HashMap<Cow<'static, str>, &'static str>> = LazyLock::new(|| {
    let known = READ_FIELDS.into_iter().chain(REASONING_FIELDS).chain(OTHER_FIELDS);
    let known = known.chain(EXTRA_FIELDS.map(|(field, _)| field));
    known.map(|field| (squashed(field), field)).collect()
});

/// A field by its folded name.
pub(super) fn get<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).or_else(|| {
        let field = fields.iter().find(|(own, _)| folded(own) == name);
        field.map(|(_, value)| value)
    })
}

/// Refuses names that another reader takes for names that are read here. The error is for the
/// client.
pub(super) fn check(body: &Map<String, Value>) -> Result<(), String> {
    for name in body.keys() {
        let known = KNOWN.get(&squashed(name));
        if let Some(field) = known.filter(|field| **field != name.as_str()) {
            return Err(format!("{name}: must be written {field}"));
        }
    }
    for (name, value) in body {
        if !OWN_NAMES.contains(&name.as_str()) {
            check_part(name, value)?;
        }
    }
    Ok(())
}

/// Refuses such names in the parts of a prompt.
pub(super) fn check_part(field: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Object(part) => {
            for (name, value) in part {
                let own = folded(name);
                if own == *name {
                    check_part(field, value)?;
                    continue;
                }
                let is_read = PART_FIELDS.iter().any(|known| *known == own);
                if is_read || part.keys().any(|other| other != name && folded(other) == own) {
                    return Err(format!("{field}: {name} must be written {own}"));
                }
                check_part(field, value)?;
            }
            Ok(())
        }
        Value::Array(parts) => parts.iter().try_for_each(|part| check_part(field, part)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_folded_as_the_most_lenient_reader_folds_them() {
        for name in ["max_tokens", "MAX_TOKENS", "max_to\u{212a}en\u{17f}", "Max_To\u{212a}ens"] {
            assert_eq!(folded(name), "max_tokens", "{name}");
        }
        assert_eq!(folded("F\u{130}LE_\u{131}d"), "file_id");
        assert_eq!(squashed("maxTokens"), "maxtokens");
        assert_eq!(squashed("Max-To\u{212a}ens"), "maxtokens");
        // No two fields that are read are written alike, or one of them could not be sent.
        let fields: HashSet<&str> = KNOWN.values().copied().collect();
        let all = READ_FIELDS.into_iter().chain(REASONING_FIELDS).chain(OTHER_FIELDS);
        for field in all.chain(EXTRA_FIELDS.map(|(field, _)| field)) {
            assert!(fields.contains(field), "{field}");
        }
        assert_ne!(folded("max_token"), "max_tokens");
    }
}
