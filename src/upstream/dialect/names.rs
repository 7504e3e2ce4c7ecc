//! The names of a request's fields, as the most lenient reader reads them.
//!
//! Some upstreams ignore the case of names: Go's `encoding/json` folds U+017F to `s` and U+212A to
//! `k`. Others read `maxTokens` as `max_tokens`. A name that such a reader takes for one that is
//! read here is refused, because the upstream would do what is not priced.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::Dialect;
use super::messages::is_call;
use super::passing::costs;
use domain::pricing::Extra;

/// The part of a name that an error repeats.
const NAME_CHARS_MAX: usize = 64;

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
pub(super) const EXTRA_FIELDS: [(&str, Extra); 23] = [
    ("background", Extra::Background),
    ("background_options", Extra::Background),
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

/// The same of Anthropic's protocol alone.
pub(super) const MESSAGES_FIELDS: [(&str, Extra); 4] = [
    ("context_management", Extra::HostedTools),
    // Each has its own price.
    ("inference_geo", Extra::ServiceTier),
    ("speed", Extra::ServiceTier),
    ("user_profile_id", Extra::ItemReference),
];

/// Fields of Anthropic's protocol with schemas of the customer's own.
pub(super) const SCHEMA_FIELDS: [&str; 2] = ["output_config", "output_format"];

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
const PART_FIELDS: [&str; 20] = [
    "audio",
    "cache_control",
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
pub(super) const OWN_NAMES: [&str; 9] = [
    "functions",
    "guided_json",
    "json_schema",
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
pub(super) fn squashed(name: &str) -> Cow<'_, str> {
    let folded = folded(name);
    if folded.contains(MARKS) { folded.replace(MARKS, "").into() } else { folded }
}

const MARKS: [char; 2] = ['_', '-'];

/// The names of the body that are read, by their squashed form.
static KNOWN: LazyLock<HashMap<Cow<'static, str>, &'static str>> = LazyLock::new(|| {
    let known = READ_FIELDS.into_iter().chain(REASONING_FIELDS).chain(OTHER_FIELDS);
    let known = known.chain(EXTRA_FIELDS.map(|(field, _)| field));
    let known = known.chain(MESSAGES_FIELDS.map(|(field, _)| field));
    known.map(|field| (squashed(field), field)).collect()
});

/// A field by its folded name.
pub(super) fn get<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).or_else(|| {
        let field = fields.iter().find(|(own, _)| folded(own) == name);
        field.map(|(_, value)| value)
    })
}

/// May an upstream take the name for that of a field that is read here, or that costs?
fn is_read(name: &str) -> bool {
    let squashed = squashed(name);
    KNOWN.contains_key(&squashed) || costs(&squashed)
}

/// Refuses fields that do not pass: names that another reader takes for names that are read here,
/// and names that nobody knows here and the operator has not added (`more`). The error is for the
/// client.
pub(super) fn check(
    dialect: Dialect,
    body: &Map<String, Value>,
    more: &[String],
) -> Result<(), String> {
    for name in body.keys() {
        check_field(dialect, name, more)?;
    }
    for (name, value) in body {
        let is_schema = dialect.is_anthropic() && SCHEMA_FIELDS.contains(&name.as_str());
        if !is_schema && !OWN_NAMES.contains(&name.as_str()) {
            check_part(dialect, name, value)?;
        }
    }
    if dialect.is_anthropic() {
        check_cache("body", body)?;
    }
    let tools = body.get("tools").and_then(Value::as_array);
    tools
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .try_for_each(|tool| check_cache("tools", tool))
}

fn check_field(dialect: Dialect, name: &str, more: &[String]) -> Result<(), String> {
    if dialect.passes(name) {
        return Ok(());
    }
    let squashed = squashed(name);
    if let Some(field) = KNOWN.get(&squashed)
        && *field != name
    {
        return Err(format!("{name}: must be written {field}"));
    }
    if more.iter().any(|added| added == name) {
        return Ok(());
    }
    let passes = dialect == Dialect::Native && !costs(&squashed);
    if passes { Ok(()) } else { Err(unknown(name)) }
}

/// The error of a field that is not passed on.
pub(super) fn unknown(name: &str) -> String {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    format!(
        "{name}: this field is not passed on, because it is not known what it costs. Please send \
         the request without it."
    )
}

/// Refuses a query that an upstream may read. `listed` are the names that pass; on routes whose
/// service is the operator's own (`is_own`) all pass. Names of fields that are read here never do.
/// The error is for the client.
pub fn check_query(
    dialect: Dialect,
    query: &str,
    listed: &[String],
    is_own: bool,
) -> Result<(), String> {
    // Some readers take a semicolon for the end of a field.
    for field in query.split(['&', ';']).filter(|field| !field.is_empty()) {
        let name = field.split('=').next().unwrap_or_default();
        let name = decoded(name).filter(|name| !name.contains(char::is_control));
        // Anthropic's clients say so of a request with features that are in a header.
        let is_known = |name: &str| match name {
            "beta" => dialect.is_anthropic(),
            // The form of the answer, which is looked at (`gemini`).
            "alt" | "prettyPrint" => dialect.is_gemini(),
            _ => false,
        };
        let is_listed = |name: &String| is_own || is_known(name) || listed.contains(name);
        let passes = name.as_ref().is_some_and(|name| is_listed(name) && !is_read(name));
        if !passes {
            let name = name.as_deref().unwrap_or(name_or_query(field));
            let name: String = name.chars().take(NAME_CHARS_MAX).collect();
            return Err(format!(
                "{name}: this part of the query is not passed on. Please send the request without \
                 it."
            ));
        }
    }
    Ok(())
}

/// What names a part of the query that cannot be read.
fn name_or_query(field: &str) -> &str {
    field.split('=').next().unwrap_or(field)
}

/// The name without its percent signs; `None` if it cannot be read.
pub(super) fn decoded(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit()?.saturating_mul(16).saturating_add(digit()?);
                u8::try_from(value).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Refuses such names in the parts of a prompt.
fn check_part(dialect: Dialect, field: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Object(part) => {
            check_names(dialect, field, part)?;
            check_cache(field, part)?;
            let is_call = dialect.is_anthropic() && is_call(part);
            let read = part.iter().filter(|(name, _)| !is_call || *name != "input");
            read.map(|(_, value)| value).try_for_each(|value| check_part(dialect, field, value))
        }
        Value::Array(parts) => parts.iter().try_for_each(|part| check_part(dialect, field, part)),
        _ => Ok(()),
    }
}

/// Refuses a mark that asks an upstream to keep the prompt for a time that has no price: keeping it
/// costs more by the time.
fn check_cache(field: &str, part: &Map<String, Value>) -> Result<(), String> {
    let Some(Value::Object(cache)) = part.get("cache_control") else { return Ok(()) };
    match get(cache, "ttl") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(time)) if matches!(time.as_str(), "5m" | HOUR) => Ok(()),
        Some(_) => Err(format!("{field}: cache_control: ttl must be 5m or 1h")),
    }
}

/// How an hour is written.
const HOUR: &str = "1h";

/// The field with a mark that asks an upstream to keep the prompt for an hour. Only models have a
/// price for that.
pub(super) fn kept_for_an_hour(dialect: Dialect, body: &Map<String, Value>) -> Option<String> {
    fn is_marked(part: &Map<String, Value>) -> bool {
        let cache = part.get("cache_control").and_then(Value::as_object);
        cache.and_then(|cache| get(cache, "ttl")).and_then(Value::as_str) == Some(HOUR)
    }
    fn has_mark(value: &Value) -> bool {
        match value {
            Value::Object(part) => is_marked(part) || part.values().any(has_mark),
            Value::Array(parts) => parts.iter().any(has_mark),
            _ => false,
        }
    }
    if dialect.is_anthropic() && is_marked(body) {
        return Some("body".to_owned());
    }
    let mut parts = body.iter().filter(|(name, _)| *name != "cache_control");
    parts.find(|(_, value)| has_mark(value)).map(|(name, _)| name.clone())
}

/// Refuses names of one object. The work grows with the number of names, and no faster: whoever
/// sends them has not paid yet.
fn check_names(dialect: Dialect, field: &str, part: &Map<String, Value>) -> Result<(), String> {
    let mut seen: HashSet<Cow<'_, str>> = HashSet::new();
    for name in part.keys() {
        let own = folded(name);
        let is_plain = own == *name;
        let is_read = PART_FIELDS.contains(&&*own) || (dialect.is_anthropic() && own == "source");
        if !is_plain && is_read {
            return Err(format!("{field}: {name} must be written {own}"));
        }
        // A plain name is its own form, so the map has it.
        if !is_plain && (part.contains_key(&*own) || !seen.insert(own.clone())) {
            return Err(format!("{field}: {name} must be written {own}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_one_object_must_differ_for_every_reader() {
        let read =
            |part: Value| check_part(Dialect::Chat, "input", &json!([{ "content": [part] }]));
        for part in [
            json!({ "Type": "x" }),
            json!({ "x": 1, "X": 1 }),
            json!({ "X": 1, "x": 1 }),
            json!({ "xX": 1, "Xx": 1 }),
            json!({ "a": { "F\u{130}LE_ID": 1 } }),
        ] {
            assert!(read(part.clone()).is_err(), "{part}");
        }
        assert_eq!(read(json!({ "X": 1, "Y": 1, "x_y": 1 })), Ok(()));
    }

    #[test]
    fn a_query_passes_by_its_names() {
        let listed = ["api-version".to_owned(), "model".to_owned()];
        for (query, is_listed, is_own) in [
            ("", true, true),
            ("&", true, true),
            ("api-version=2024", true, true),
            ("api%2Dversion=2024", true, true),
            ("a=b", false, true),
            ("a", false, true),
            ("model=m", false, false),
            ("api-version=1;model=m", false, false),
            ("mod%65l=m", false, false),
            ("Model=m", false, false),
            ("maxTokens=9", false, false),
            ("n_predict=9", false, false),
            ("%zz=1", false, false),
            ("a%00=1", false, false),
        ] {
            assert_eq!(
                check_query(Dialect::Chat, query, &listed, false).is_ok(),
                is_listed,
                "{query}"
            );
            assert_eq!(check_query(Dialect::Chat, query, &[], true).is_ok(), is_own, "{query}");
        }
    }

    #[test]
    fn many_names_are_checked_as_fast_as_they_are_sent() {
        let names = (0..100_000).map(|place| (format!("A{place:06}"), Value::from(0)));
        let body = Value::Object(names.collect());
        let begun = std::time::Instant::now();
        assert_eq!(check_part(Dialect::Chat, "x", &body), Ok(()));
        let (took, bytes) = (begun.elapsed(), body.to_string().len());
        assert!(took < std::time::Duration::from_secs(2), "{took:?} for {bytes} bytes");
    }

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
