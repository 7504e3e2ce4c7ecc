//! The contents of a request: which of their fields pass, what of them the model is shown, and what
//! they ask for. And the contents of an answer: what they deliver.
//!
//! Google reads a name in two spellings, `mimeType` and `mime_type`. So both are read here, and a
//! field that stands there in both is refused.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::super::extras::Asked;
use super::super::names::{squashed, unknown};
use super::super::text::{Content, Names, collect, collect_field};
use crate::tokens::Prompt;
use domain::pricing::Extra;

/// Bound for an image, in tiles of 258 tokens.
const IMAGE_TOKENS_MAX: u64 = 5_000;
/// Bound for any other data that is short.
const DATA_TOKENS_MAX: u64 = 2_000;
/// A second of sound has 32 tokens, and a thousand characters at least.
const SOUND_CHARS_PER_TOKEN: u64 = 24;
/// Thoughts that only Google can read: so many characters are a token.
const SIGNATURE_CHARS_PER_TOKEN: u64 = 3;

const CONTENT: [&str; 2] = ["parts", "role"];
const PART: [&str; 14] = [
    "codeExecutionResult",
    "executableCode",
    "fileData",
    "functionCall",
    "functionResponse",
    "inlineData",
    "mediaResolution",
    "partMetadata",
    "text",
    "thought",
    "thoughtSignature",
    "toolCall",
    "toolResponse",
    "videoMetadata",
];
const INLINE_DATA: [&str; 3] = ["data", "displayName", "mimeType"];
const FILE_DATA: [&str; 3] = ["displayName", "fileUri", "mimeType"];
const FUNCTION_CALL: [&str; 5] = ["args", "id", "name", "partialArgs", "willContinue"];
const FUNCTION_RESPONSE: [&str; 6] =
    ["id", "name", "parts", "response", "scheduling", "willContinue"];
const CODE: [&str; 3] = ["code", "id", "language"];
const RESULT: [&str; 3] = ["id", "outcome", "output"];

/// Tools that Google runs, and that read nothing which it keeps of a customer.
const HOSTED: [&str; 8] = [
    "codeExecution",
    "computerUse",
    "enterpriseWebSearch",
    "googleMaps",
    "googleSearch",
    "googleSearchRetrieval",
    "mcpServers",
    "urlContext",
];

/// The other spelling of a name: `mime_type` of `mimeType`.
fn snake(name: &str) -> Cow<'_, str> {
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name.into();
    }
    let mut out = String::with_capacity(name.len().saturating_add(4));
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out.into()
}

/// Is it this name, in either spelling?
fn is_named(own: &str, name: &str) -> bool {
    own == name || (own.contains('_') && own == snake(name))
}

/// A field in either spelling; `None` if it is absent or null.
pub(super) fn get<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    let field = fields.get(name).or_else(|| fields.get(&*snake(name)));
    field.filter(|value| !value.is_null())
}

/// The name as the body has it.
pub(super) fn spelled(
    has: impl Fn(&str) -> bool,
    name: &'static str,
    other: &'static str,
) -> &'static str {
    if !has(name) && has(other) { other } else { name }
}

/// An object, or the error that says that it must be one.
pub(super) fn object<'v>(place: &str, value: &'v Value) -> Result<&'v Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{place}: must be an object"))
}

fn list<'v>(place: &str, value: &'v Value) -> Result<&'v [Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{place}: must be a list"))
}

fn text<'v>(fields: &'v Map<String, Value>, name: &str) -> &'v str {
    get(fields, name).and_then(Value::as_str).unwrap_or_default()
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// Whose is the file at this address? Only what the whole world can fetch is nobody's: what Google
/// keeps was stored with the one credential that all customers share.
fn file_of(uri: &str) -> Extra {
    let plain = percent_encoding::percent_decode_str(uri).decode_utf8_lossy().to_lowercase();
    let is_public = plain.starts_with("https://") || plain.starts_with("http://");
    if is_public && !plain.contains("googleapis") { Extra::FileUrl } else { Extra::FileId }
}

/// A request as it is read.
pub(super) struct Reading<'r> {
    /// What the model is shown.
    pub(super) prompt: Prompt,
    /// What the request asks for.
    pub(super) asked: Vec<Asked>,
    /// Further fields that pass.
    pub(super) more: &'r [String],
}

impl Reading<'_> {
    pub(super) fn ask(&mut self, extra: Extra, field: &str) {
        self.asked.push(Asked { extra, field: field.to_owned() });
    }

    /// Refuses a field of an object that is not one of these. `place` is empty for the body.
    pub(super) fn check(
        &self,
        place: &str,
        fields: &Map<String, Value>,
        passing: &[&str],
    ) -> Result<(), String> {
        for name in fields.keys() {
            let path = if place.is_empty() { name.into() } else { format!("{place}.{name}") };
            if let Some(known) = passing.iter().find(|known| is_named(name, known)) {
                if name != known && fields.contains_key(*known) {
                    return Err(format!("{path}: is there twice, also as {known}"));
                }
            } else if !self.more.contains(&path) {
                let own = squashed(name);
                let known = passing.iter().find(|known| squashed(known) == own);
                return Err(match known {
                    Some(known) => format!("{path}: must be written {known}"),
                    None => unknown(&path),
                });
            }
        }
        Ok(())
    }

    /// Reads a list of turns.
    pub(super) fn contents(&mut self, place: &str, value: &Value) -> Result<(), String> {
        self.prompt.begin_reply();
        list(place, value)?.iter().try_for_each(|content| self.content(place, content))
    }

    /// Reads one turn.
    pub(super) fn content(&mut self, place: &str, value: &Value) -> Result<(), String> {
        let content = object(place, value)?;
        self.check(place, content, &CONTENT)?;
        self.prompt.begin_message();
        self.prompt.push(text(content, "role"));
        match get(content, "parts") {
            Some(parts) => self.parts(&format!("{place}.parts"), parts),
            None => Ok(()),
        }
    }

    fn parts(&mut self, place: &str, value: &Value) -> Result<(), String> {
        list(place, value)?.iter().try_for_each(|part| self.part(place, part))
    }

    fn part(&mut self, place: &str, value: &Value) -> Result<(), String> {
        let part = object(place, value)?;
        self.check(place, part, &PART)?;
        // The field that is not passed is named by the place of all contents.
        let field = place.split('.').next().unwrap_or(place);
        for (name, value) in part {
            if value.is_null() {
                continue;
            }
            let at = || format!("{place}.{name}");
            match PART.iter().find(|known| is_named(name, known)).copied().unwrap_or_default() {
                "text" => self.prompt.push(value.as_str().unwrap_or_default()),
                "inlineData" => self.inline_data(&at(), value)?,
                "fileData" => {
                    let file = object(&at(), value)?;
                    self.check(&at(), file, &FILE_DATA)?;
                    self.ask(file_of(text(file, "fileUri")), field);
                }
                "functionCall" => {
                    let call = object(&at(), value)?;
                    self.check(&at(), call, &FUNCTION_CALL)?;
                    self.prompt.push(text(call, "name"));
                    self.push_json(get(call, "args"));
                    self.push_json(get(call, "partialArgs"));
                }
                "functionResponse" => {
                    let response = object(&at(), value)?;
                    self.check(&at(), response, &FUNCTION_RESPONSE)?;
                    self.prompt.push(text(response, "name"));
                    self.push_json(get(response, "response"));
                    if let Some(parts) = get(response, "parts") {
                        self.parts(&format!("{place}.{name}.parts"), parts)?;
                    }
                }
                "executableCode" => {
                    let code = object(&at(), value)?;
                    self.check(&at(), code, &CODE)?;
                    self.prompt.push(text(code, "code"));
                }
                "codeExecutionResult" => {
                    let result = object(&at(), value)?;
                    self.check(&at(), result, &RESULT)?;
                    self.prompt.push(text(result, "output"));
                }
                // Calls of its own tools, and what they have answered.
                "toolCall" | "toolResponse" => {
                    self.ask(Extra::HostedTools, field);
                    self.push_json(Some(value));
                }
                "thoughtSignature" => {
                    let chars = length(value.as_str().unwrap_or_default());
                    self.prompt.add_unseen(chars / SIGNATURE_CHARS_PER_TOKEN);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn inline_data(&mut self, place: &str, value: &Value) -> Result<(), String> {
        let data = object(place, value)?;
        self.check(place, data, &INLINE_DATA)?;
        let (kind, chars) = (text(data, "mimeType").to_lowercase(), length(text(data, "data")));
        if kind.starts_with("image/") {
            // It is shown at a bounded size.
            self.prompt.add_image(IMAGE_TOKENS_MAX);
        } else if kind.starts_with("audio/") {
            self.prompt.add_sound(DATA_TOKENS_MAX.max(chars / SOUND_CHARS_PER_TOKEN));
        } else {
            // A video or a document may be compressed, so its length says little.
            self.prompt.add_file(DATA_TOKENS_MAX.max(chars), kind.starts_with("video/"));
        }
        Ok(())
    }

    /// Reads the tools. Those that the customer runs are functions that are declared.
    pub(super) fn tools(&mut self, value: &Value) -> Result<(), String> {
        for tool in list("tools", value)? {
            for (name, value) in object("tools", tool)? {
                if value.is_null() {
                    continue;
                }
                if is_named(name, "functionDeclarations") {
                    list("tools.functionDeclarations", value)?;
                    self.push_json(Some(value));
                } else if HOSTED.iter().any(|hosted| is_named(name, hosted)) {
                    self.ask(Extra::HostedTools, "tools");
                } else {
                    // It may search in what another customer has stored.
                    self.ask(Extra::FileId, "tools");
                }
            }
        }
        Ok(())
    }

    /// Something that the model is shown as JSON.
    pub(super) fn push_json(&mut self, value: Option<&Value>) {
        if let Some(value) = value {
            self.prompt.push(&value.to_string());
        }
    }
}

/// Fields of an answer that were not generated.
const OF_ANSWER: [&str; 6] =
    ["createTime", "modelStatus", "modelVersion", "promptFeedback", "responseId", "usageMetadata"];
const OF_CANDIDATE: [&str; 11] = [
    "avgLogprobs",
    "citationMetadata",
    "continuationToken",
    "finishMessage",
    "finishReason",
    "groundingMetadata",
    "index",
    "logprobsResult",
    "safetyRatings",
    "tokenCount",
    "urlContextMetadata",
];

/// What an answer, or a chunk of one, delivers. What is not known is counted.
pub(in crate::upstream::dialect) fn content_of(answer: &Map<String, Value>) -> Content {
    let mut content = Content::default();
    for (name, value) in answer {
        match (name.as_str(), value) {
            ("candidates", Value::Array(candidates)) => {
                for candidate in candidates {
                    collect_candidate(candidate, &mut content);
                }
            }
            (name, _) if OF_ANSWER.contains(&name) => {}
            (name, _) => collect_field(answer, name, value, Names::All, &mut content),
        }
    }
    content
}

fn collect_candidate(candidate: &Value, content: &mut Content) {
    let Value::Object(fields) = candidate else { return collect(candidate, Names::All, content) };
    for (name, value) in fields {
        let parts = value.get("parts").and_then(Value::as_array);
        match (name.as_str(), parts) {
            ("content", Some(parts)) => {
                for part in parts {
                    collect_part(part, content);
                }
            }
            ("content", None) => {
                let text = value.get("text");
                collect(text.unwrap_or(&Value::Null), Names::All, content);
            }
            (name, _) if OF_CANDIDATE.contains(&name) => {}
            (name, _) => collect_field(fields, name, value, Names::All, content),
        }
    }
}

fn collect_part(part: &Value, content: &mut Content) {
    let Value::Object(fields) = part else { return collect(part, Names::All, content) };
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("thought" | "thoughtSignature" | "partMetadata", _) => {}
            ("functionCall", Value::Object(call)) => {
                content.text.push_str(call.get("name").and_then(Value::as_str).unwrap_or_default());
                for written in ["args", "partialArgs"].iter().filter_map(|name| call.get(*name)) {
                    content.text.push_str(&written.to_string());
                }
            }
            ("inlineData", Value::Object(data)) => {
                let kind = get(data, "mimeType").and_then(Value::as_str).unwrap_or_default();
                let data = data.get("data").and_then(Value::as_str).unwrap_or_default();
                if kind.to_ascii_lowercase().starts_with("audio/") {
                    content.push_data(data);
                } else {
                    content.push_image(data);
                }
            }
            ("executableCode", Value::Object(code)) => {
                content.text.push_str(code.get("code").and_then(Value::as_str).unwrap_or_default());
            }
            (name, _) => collect_field(fields, name, value, Names::All, content),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_has_two_spellings() {
        for (name, other) in [
            ("mimeType", "mime_type"),
            ("text", "text"),
            ("parametersJsonSchema", "parameters_json_schema"),
        ] {
            assert_eq!(snake(name), other);
            assert!(is_named(name, name) && is_named(other, name), "{name}");
        }
        assert!(!is_named("mimetype", "mimeType") && !is_named("MimeType", "mimeType"));
    }

    #[test]
    fn a_file_is_nobodys_only_where_everybody_can_fetch_it() {
        for (uri, extra) in [
            ("https://a.example/b.pdf", Extra::FileUrl),
            ("https://www.youtube.com/watch?v=1", Extra::FileUrl),
            ("https://generativelanguage.googleapis.com/v1beta/files/abc", Extra::FileId),
            ("HTTPS://Generativelanguage.GoogleAPIs.com/v1beta/files/abc", Extra::FileId),
            ("https://generativelanguage.google%61pis.com/v1beta/files/abc", Extra::FileId),
            ("files/abc", Extra::FileId),
            ("gs://bucket/object", Extra::FileId),
            ("", Extra::FileId),
        ] {
            assert_eq!(file_of(uri), extra, "{uri}");
        }
    }

    #[test]
    fn what_an_answer_delivers_is_counted() {
        let long = "A".repeat(5_000);
        let of_part = |part: Value| {
            json!({ "candidates": [{ "index": 0, "finishReason": "STOP", "tokenCount": 3,
                "safetyRatings": [{ "category": "x" }],
                "content": { "role": "model", "parts": [part] } }],
                "modelVersion": "m", "responseId": "r", "usageMetadata": { "trafficType": "x" } })
        };
        for (answer, text, data_tokens) in [
            (of_part(json!({ "text": "Hi" })), "Hi", 0),
            (of_part(json!({ "text": "hm", "thought": true, "thoughtSignature": "x" })), "hm", 0),
            (
                of_part(json!({ "functionCall": { "name": "f", "args": { "a": 1 }, "id": "c" } })),
                "f{\"a\":1}",
                0,
            ),
            (of_part(json!({ "inlineData": { "mimeType": "image/png", "data": long } })), "", 3),
            (of_part(json!({ "executableCode": { "language": "PYTHON", "code": "1" } })), "1", 0),
            (of_part(json!({ "newsNobodyKnows": { "words": "text" } })), "text", 0),
            (json!({ "promptFeedback": { "blockReason": "SAFETY" } }), "", 0),
            (json!({ "text": "text" }), "text", 0),
        ] {
            let content = content_of(answer.as_object().unwrap());
            assert_eq!(
                (content.text.as_str(), content.data_tokens, content.image_tokens),
                (text, data_tokens, data_tokens),
                "{answer}"
            );
        }
        let sound = of_part(json!({ "inlineData": { "mimeType": "audio/L16", "data": long } }));
        let content = content_of(sound.as_object().unwrap());
        assert_eq!((content.data_tokens, content.image_tokens), (3, 0));
    }
}
