//! What we must know of the upstreams' protocols to price, bound and bill a call: where a request says how
//! much it wants, where an answer says what it took, and how a stream ends cleanly.
//!
//! Chat, completions and responses are OpenAI's. `Native` is everyone else's: JSON objects as events, `usage`
//! where they have it, `[DONE]` at the end.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::sse;
use super::{Reported, TokenUsage};
use crate::json::Object;
use crate::json::fields::Fields;
use crate::tokens::{PromptTokens, vocabulary};
use domain::usage::TOKENS_MAX;
use domain::{Credits, LimitsLeft};

/// The protocol of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/responses`
    Responses,
    /// `/v1/embeddings`: a prompt, and nothing generated.
    Embeddings,
    /// Any other.
    Native,
}

/// Keys whose texts an upstream has generated.
const TEXT_KEYS: [&str; 9] = [
    "content",
    "text",
    "delta",
    "reasoning_content",
    "reasoning",
    "refusal",
    "arguments",
    "output_text",
    "transcript",
];
/// Fields that we read, so that nobody may write them in another case: some upstreams do not care for case.
const READ_FIELDS: [&str; 9] = [
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
/// As much of a field's name as an error repeats.
const NAME_CHARS_MAX: usize = 64;
/// The end of a stream, in all dialects but that of responses.
const DONE: &str = "[DONE]";

/// What a token-priced request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Is the answer to be streamed?
    pub is_stream: bool,
    /// Is a stream to tell its usage?
    pub wants_usage: bool,
    /// Of which model.
    pub model: Option<String>,
    /// The most tokens of each completion, if it says.
    pub token_limit: Option<u64>,
    /// How many completions.
    pub choices: u64,
    /// The prompt.
    pub prompt: PromptTokens,
}

/// The body of a token-priced request. What it is priced by is read as what it must be; all else is what a model may be
/// shown. Each field is named once: of one that is named twice, readers do not take the same.
#[derive(Default)]
struct AskBody {
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    model: Option<String>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    shown: Map<String, Value>,
}

impl<'de> Deserialize<'de> for AskBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = AskBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AskBody, A::Error> {
                let mut body = AskBody::default();
                let mut seen = [false; READ_FIELDS.len()];
                while let Some(name) = map.next_key::<String>()? {
                    let read = READ_FIELDS.iter().position(|field| *field == name);
                    let before = match read.and_then(|place| seen.get_mut(place)) {
                        Some(seen) => std::mem::replace(seen, true),
                        None => body.shown.contains_key(&name),
                    };
                    if before {
                        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    match name.as_str() {
                        "stream" => body.stream = map.next_value()?,
                        "stream_options" => {
                            let options: Option<Object<StreamOptions>> = map.next_value()?;
                            body.stream_options = options.map(|Object(options)| options);
                        }
                        // Anything but a text is no name that we know.
                        "model" => {
                            let model: &RawValue = map.next_value()?;
                            body.model = serde_json::from_str(model.get()).ok();
                        }
                        "max_tokens" => body.max_tokens = map.next_value()?,
                        "max_completion_tokens" => body.max_completion_tokens = map.next_value()?,
                        "max_output_tokens" => body.max_output_tokens = map.next_value()?,
                        "n" => body.n = map.next_value()?,
                        "best_of" => body.best_of = map.next_value()?,
                        _ => {
                            body.shown.insert(name, map.next_value()?);
                        }
                    }
                }
                Ok(body)
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl Dialect {
    /// Of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Dialect::Chat,
            "/v1/completions" => Dialect::Completion,
            "/v1/responses" => Dialect::Responses,
            "/v1/embeddings" => Dialect::Embeddings,
            _ => Dialect::Native,
        }
    }

    /// The fields in which its requests name a token limit; its upstreams know no others.
    const fn limit_fields(self) -> &'static [&'static str] {
        match self {
            Dialect::Chat => &["max_tokens", "max_completion_tokens"],
            Dialect::Completion => &["max_tokens"],
            Dialect::Responses => &["max_output_tokens"],
            Dialect::Embeddings => &[],
            Dialect::Native => &["max_tokens", "max_completion_tokens", "max_output_tokens"],
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub fn ask(self, body: &[u8]) -> Result<Ask, String> {
        let must_be = |error: serde_json::Error| format!("The body must be a JSON object: {error}");
        let read: AskBody = serde_json::from_slice(body).map_err(must_be)?;
        let shown = read.shown;
        if let Some(name) = shown.keys().find(|name| {
            let lower = name.to_ascii_lowercase();
            READ_FIELDS.contains(&lower.as_str()) && lower != **name
        }) {
            return Err(format!("{name}: must be written in small letters"));
        }
        let named = [
            ("max_tokens", read.max_tokens),
            ("max_completion_tokens", read.max_completion_tokens),
            ("max_output_tokens", read.max_output_tokens),
        ];
        let own = named.into_iter().filter(|(name, _)| self.limit_fields().contains(name));
        let token_limit = own.filter_map(|(_, limit)| limit).max();
        if let Some((name, _)) = named.iter().find(|(_, limit)| *limit == Some(0)) {
            return Err(format!("{name}: must be at least 1"));
        }
        let model = read.model;
        let prompt = PromptTokens::of(&shown, vocabulary(model.as_deref()));
        // Of `/v1/completions`: a list of prompts is as many completions.
        let prompts = match shown.get("prompt") {
            Some(Value::Array(prompts)) if prompts.iter().any(|prompt| !prompt.is_number()) => {
                u64::try_from(prompts.len()).unwrap_or(u64::MAX)
            }
            _ => 1,
        };
        let asked = read.n.max(read.best_of).unwrap_or(1).max(1);
        let wants_usage =
            read.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
        Ok(Ask {
            is_stream: read.stream.unwrap_or(false) && self != Dialect::Embeddings,
            wants_usage: wants_usage || self == Dialect::Responses,
            model,
            token_limit: if self == Dialect::Embeddings { Some(0) } else { token_limit },
            choices: prompts.saturating_mul(asked),
            prompt,
        })
    }

    /// The request as the upstream is told it: with the token limit that is paid for, where that is not the
    /// request's own, and with its usage asked for. `limit_field` is the one name of the limit that the upstream
    /// knows, where it does not know all.
    #[must_use]
    pub fn told(
        self,
        body: &Bytes,
        limit: Option<u64>,
        limit_field: Option<&'static str>,
        is_stream: bool,
    ) -> Bytes {
        let may_be_renamed = matches!(self, Dialect::Chat | Dialect::Native);
        let limit_field = limit_field.filter(|_| may_be_renamed);
        if self == Dialect::Embeddings || (limit.is_none() && limit_field.is_none() && !is_stream) {
            return body.clone();
        }
        let text = std::str::from_utf8(body).unwrap_or_default();
        let Some(mut fields) = Fields::read(text) else { return body.clone() };
        let known = self.limit_fields();
        let named = || known.iter().copied().filter(|name| fields.get(name).is_some());
        let largest = named().filter_map(|name| fields.get(name)?.parse::<u64>().ok()).max();
        let own: Vec<&'static str> = named().collect();
        if let Some(limit) = limit.or(largest) {
            let first = known.first().copied().unwrap_or("max_tokens");
            let names = match limit_field {
                Some(field) => vec![field],
                None if own.is_empty() => vec![first],
                None => own.clone(),
            };
            own.iter().filter(|name| !names.contains(name)).for_each(|name| fields.remove(name));
            for name in names {
                fields.set(name, limit.to_string());
            }
        }
        if is_stream && self != Dialect::Responses {
            let mut options =
                fields.get("stream_options").and_then(Fields::read).unwrap_or_default();
            options.set("include_usage", "true");
            let options = options.to_string();
            fields.set("stream_options", options);
        }
        fields.to_string().into()
    }

    /// The text that a whole answer delivers.
    #[must_use]
    pub fn answer_text(self, body: &[u8]) -> String {
        let mut text = String::new();
        if self == Dialect::Embeddings {
            return text;
        }
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(mut answer)) => {
                for told_before in ["usage", "input", "prompt", "instructions", "tools"] {
                    answer.remove(told_before);
                }
                collect(&Value::Object(answer), &mut text);
            }
            Ok(other) => collect(&other, &mut text),
            Err(_) => text.push_str(&String::from_utf8_lossy(body)),
        }
        text
    }
}

/// Collects what an upstream has generated.
fn collect(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            // The same thoughts, spelled twice.
            let has_thoughts = fields.get("reasoning_content").is_some_and(Value::is_string);
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("reasoning_details", _) => {}
                    ("reasoning", Value::String(_)) if has_thoughts => {}
                    (name, Value::String(own)) if TEXT_KEYS.contains(&name) => text.push_str(own),
                    ("function" | "function_call", Value::Object(function)) => {
                        text.push_str(function.get("name").and_then(Value::as_str).unwrap_or(""));
                        collect(value, text);
                    }
                    _ => collect(value, text),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, text)),
        _ => {}
    }
}

/// A frame of an upstream's stream, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// What the client gets of it; nothing where it is kept for the end.
    pub passed: Option<Bytes>,
    /// The text it delivers.
    pub text: String,
    /// Does the stream end with it?
    pub is_end: bool,
}

/// A chunk of a chat or a completion, as far as it is read the short way. A choice that has anything else may
/// have text there, and is read the long way.
#[derive(Deserialize)]
struct Chunk<'c> {
    #[serde(borrow)]
    choices: Vec<Object<ChunkChoice<'c>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    usage: Option<&'c RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkChoice<'c> {
    #[serde(default, rename = "index")]
    _index: Option<u64>,
    #[serde(borrow, default)]
    logprobs: Option<&'c RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'c, str>>,
    #[serde(borrow, default)]
    delta: Option<Object<ChunkDelta<'c>>>,
    #[serde(borrow, default)]
    text: Option<Cow<'c, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkDelta<'c> {
    #[serde(borrow, default, rename = "role")]
    _role: Option<Cow<'c, str>>,
    #[serde(borrow, default)]
    content: Option<Cow<'c, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'c, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'c, str>>,
    #[serde(borrow, default)]
    refusal: Option<Cow<'c, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<&'c RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'c RawValue>,
    #[serde(borrow, default)]
    audio: Option<&'c RawValue>,
}

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The frame without its `"usage":null`; `None` where that is not written so, or not the only usage. These
/// bytes cannot be a part of a string, in which the quotes would be escaped.
fn without_null_usage(frame: &Bytes) -> Option<Bytes> {
    const FIELD: &str = ",\"usage\":null";
    let text = std::str::from_utf8(frame).ok()?;
    let (before, after) = text.split_once(FIELD)?;
    let is_only = ![before, after].iter().any(|part| part.contains("\"usage\""));
    is_only.then(|| [before, after].concat().into())
}

/// What a stream is closed with.
#[derive(Clone, Copy, Debug)]
pub enum Close<'c> {
    /// It came to its end.
    Completed,
    /// It is ended by us, for a reason that the client can do something about.
    Declined {
        /// One word.
        reason: &'static str,
        /// What to do.
        message: &'c str,
    },
    /// It broke off.
    Broken {
        /// One word.
        code: &'static str,
        /// What to do.
        message: &'c str,
    },
}

/// What a stream came to, as the client is told at its end.
#[derive(Clone, Debug)]
pub struct Bill {
    /// What it cost.
    pub cost: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// What the key may still spend.
    pub left: LimitsLeft,
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the completion.
    pub completion: u64,
}

/// What has been seen of a stream.
pub struct Transcript {
    dialect: Dialect,
    wants_usage: bool,
    choices: u64,
    request: String,
    /// The fields that all events share, for those that we add.
    head: Option<Fields<'static>>,
    /// The latest usage, and its own text.
    reported: Reported,
    usage: Option<String>,
    /// The event that told it and nothing else, for the one that we end with.
    usage_event: Option<Fields<'static>>,
    /// Has the upstream said that it is at its end?
    has_finished: bool,
    /// The last event of `/v1/responses`, kept until it is paid for.
    terminal: Option<(String, Fields<'static>)>,
    sequence: u64,
}

impl Transcript {
    /// Nothing yet.
    #[must_use]
    pub fn new(dialect: Dialect, ask: &Ask, request: String) -> Self {
        Transcript {
            dialect,
            wants_usage: ask.wants_usage,
            choices: ask.choices,
            request,
            head: None,
            reported: Reported::Missing,
            usage: None,
            usage_event: None,
            has_finished: false,
            terminal: None,
            sequence: 0,
        }
    }

    /// What the upstream says it took, so far.
    #[must_use]
    pub fn reported(&self) -> Reported {
        self.reported
    }

    /// Has the upstream come to its end, where its protocol lets it say so?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.has_finished || self.dialect == Dialect::Native
    }

    /// Reads a frame.
    pub fn read(&mut self, frame: Bytes) -> Piece {
        let Some((event, data)) = sse::read(&frame) else {
            // A comment, or a field that is not ours to know.
            return Piece { passed: Some(frame), ..Piece::default() };
        };
        if data.trim() == DONE {
            self.has_finished = true;
            return Piece { is_end: true, ..Piece::default() };
        }
        if let Some(piece) = self.read_plain_chunk(&frame, &data) {
            return piece;
        }
        let Some(fields) = Fields::read(&data) else {
            let text = data.into_owned();
            return Piece { passed: Some(frame), text, is_end: false };
        };
        if self.dialect == Dialect::Responses {
            let read = self.read_response(event, &fields);
            return match read {
                Some(piece) => piece,
                None => Piece { text: response_text(&fields), passed: Some(frame), is_end: false },
            };
        }
        if self.head.is_none() {
            let names = ["id", "object", "created", "model", "system_fingerprint"];
            self.head = Some(fields.only(&names));
        }
        let mut text = String::new();
        if let Ok(value) = serde_json::from_str::<Value>(&data) {
            let choices = value.get("choices").and_then(Value::as_array);
            self.has_finished |= choices.is_some_and(|choices| {
                choices
                    .iter()
                    .any(|choice| choice.get("finish_reason").is_some_and(Value::is_string))
            });
            match (self.dialect, value.get("choices")) {
                (_, Some(choices)) => collect(choices, &mut text),
                (Dialect::Native, None) => collect(&value, &mut text),
                _ => {}
            }
        }
        if let Some(usage) = fields.get("usage") {
            self.reported = Reported::of(usage);
            self.usage = Some(usage.to_owned());
            let is_empty = fields.get("choices").is_none_or(|choices| choices.trim() == "[]");
            let says_more = ["choices", "finish_reason", "error"]
                .iter()
                .any(|name| fields.get(name).is_some_and(|value| value.trim() != "[]"));
            if is_empty && text.is_empty() && !says_more {
                self.has_finished = true;
                self.usage_event = Some(fields.clone().into_owned());
                let usual =
                    ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"];
                if self.wants_usage || fields.has_only(&usual) {
                    // Kept for the end, when it is paid for.
                    return Piece::default();
                }
            }
        }
        let passed = if self.wants_usage || !fields.has("usage") {
            frame
        } else {
            let mut fields = fields;
            fields.remove("usage");
            framed(&frame, &fields)
        };
        Piece { passed: Some(passed), text, is_end: false }
    }

    /// The short way for the chunk that a chat has most of: text and no usage. `None` for any other.
    fn read_plain_chunk(&mut self, frame: &Bytes, data: &str) -> Option<Piece> {
        if !matches!(self.dialect, Dialect::Chat | Dialect::Completion) || self.head.is_none() {
            return None;
        }
        let Object(chunk): Object<Chunk<'_>> = serde_json::from_str(data).ok()?;
        let is_null = chunk.usage.is_some_and(|usage| usage.get() == "null");
        let passed = match chunk.usage {
            Some(_) if self.wants_usage && is_null => frame.clone(),
            Some(_) if is_null => without_null_usage(frame)?,
            Some(_) => return None,
            None => frame.clone(),
        };
        let mut text = String::new();
        for Object(choice) in &chunk.choices {
            let delta = choice.delta.as_ref().map(|Object(delta)| delta);
            let is_plain = delta.is_none_or(|delta| {
                [delta.tool_calls, delta.function_call, delta.audio].iter().all(Option::is_none)
            });
            if !is_plain || choice.logprobs.is_some() {
                return None;
            }
            self.has_finished |= choice.finish_reason.is_some();
            let of_delta = delta.map(|delta| {
                let thoughts = match &delta.reasoning_content {
                    Some(_) => &delta.reasoning_content,
                    None => &delta.reasoning,
                };
                [&delta.content, thoughts, &delta.refusal]
            });
            let own = of_delta.into_iter().flatten().chain([&choice.text]);
            own.flatten().for_each(|piece| text.push_str(piece));
        }
        Some(Piece { passed: Some(passed), text, is_end: false })
    }

    /// Reads an event of `/v1/responses`; `None` where it is passed on as it is.
    fn read_response(&mut self, event: Option<&str>, fields: &Fields<'_>) -> Option<Piece> {
        if let Some(sequence) = fields.get("sequence_number").and_then(|text| text.parse().ok()) {
            self.sequence = sequence;
        }
        let response = fields.get("response").and_then(Fields::read);
        let kind = fields.get("type").unwrap_or_default().trim_matches('"');
        if self.head.is_none() {
            self.head = response.clone().map(Fields::into_owned);
        }
        if !matches!(kind, "response.completed" | "response.incomplete" | "response.failed") {
            return None;
        }
        if let Some(usage) = response.as_ref().and_then(|response| response.get("usage")) {
            self.reported = Reported::of(usage);
            self.usage = Some(usage.to_owned());
        }
        let event = event.unwrap_or(kind).to_owned();
        self.has_finished = true;
        self.terminal = Some((event, fields.clone().into_owned()));
        Some(Piece { is_end: true, ..Piece::default() })
    }

    /// The frames that end the stream. Without a bill, what it came to is not known.
    #[must_use]
    pub fn close(&self, close: Close<'_>, bill: Option<&Bill>) -> Bytes {
        let mut out = String::new();
        if self.dialect == Dialect::Responses {
            self.close_response(&mut out, close, bill);
        } else {
            self.close_chunks(&mut out, close, bill);
        }
        let comment = match bill {
            Some(bill) => format!(
                "{{\"cost\":{},\"balance\":{},\"currency\":\"USD\"{},\"request_id\":\"{}\"{}}}",
                bill.cost,
                bill.balance,
                left(bill.left),
                self.request,
                ended_by(close)
            ),
            None => format!("{{\"request_id\":\"{}\"{}}}", self.request, ended_by(close)),
        };
        let _ = write!(out, ": polysystems {comment}\n\n");
        if self.dialect != Dialect::Responses {
            let _ = write!(out, "data: {DONE}\n\n");
        }
        out.into()
    }

    fn close_chunks(&self, out: &mut String, close: Close<'_>, bill: Option<&Bill>) {
        let head = self.head.clone().unwrap_or_default();
        match close {
            Close::Completed => {}
            Close::Declined { reason, message } => {
                let mut last = head.clone();
                let choices: Vec<Value> =
                    (0..self.choices.min(128)).map(|index| self.last_choice(index)).collect();
                match self.dialect {
                    Dialect::Native => last.set("finish_reason", "\"length\""),
                    _ => last.set("choices", Value::Array(choices).to_string()),
                }
                let why = json!({ "ended_by": reason, "message": message });
                last.set("polysystems", why.to_string());
                let _ = write!(out, "data: {last}\n\n");
            }
            Close::Broken { code, message } => {
                let error = json!({ "error": { "message": message, "type": code, "code": code } });
                let _ = write!(out, "data: {error}\n\n");
            }
        }
        if let Some(bill) = bill.filter(|_| self.wants_usage) {
            let mut last = head;
            last.overlay(self.usage_event.clone().unwrap_or_default());
            if self.dialect != Dialect::Native {
                last.set("choices", "[]");
            }
            last.set("usage", self.usage_with_cost(bill));
            let _ = write!(out, "data: {last}\n\n");
        }
    }

    fn last_choice(&self, index: u64) -> Value {
        match self.dialect {
            Dialect::Completion => json!({ "index": index, "text": "", "finish_reason": "length" }),
            _ => json!({ "index": index, "delta": {}, "finish_reason": "length" }),
        }
    }

    fn close_response(&self, out: &mut String, close: Close<'_>, bill: Option<&Bill>) {
        let next = self.sequence.saturating_add(1);
        match close {
            Close::Completed => {
                let Some((event, fields)) = &self.terminal else { return };
                let mut fields = fields.clone();
                let response = fields.get("response").and_then(Fields::read);
                if let (Some(response), Some(bill)) = (response, bill) {
                    let mut response = response.into_owned();
                    response.set("usage", self.usage_with_cost(bill));
                    fields.set("response", response.to_string());
                }
                let _ = write!(out, "event: {event}\ndata: {fields}\n\n");
            }
            Close::Declined { reason, message } => {
                let mut response = self.head.clone().unwrap_or_default();
                response.set("status", "\"incomplete\"");
                response.set("incomplete_details", "{\"reason\":\"max_output_tokens\"}");
                if let Some(bill) = bill {
                    response.set("usage", self.usage_with_cost(bill));
                }
                let why = json!({ "ended_by": reason, "message": message });
                response.set("polysystems", why.to_string());
                let _ = write!(
                    out,
                    "event: response.incomplete\ndata: {{\"type\":\"response.incomplete\",\
                     \"sequence_number\":{next},\"response\":{response}}}\n\n"
                );
            }
            Close::Broken { code, message } => {
                let error = json!({
                    "type": "error", "code": code, "message": message, "param": null,
                    "sequence_number": next,
                });
                let _ = write!(out, "event: error\ndata: {error}\n\n");
            }
        }
    }

    /// The upstream's own usage where there is one, else ours, with what it cost.
    fn usage_with_cost(&self, bill: &Bill) -> String {
        let is_told = matches!(self.reported, Reported::Given(_));
        let told = self.usage.as_deref().filter(|_| is_told).and_then(Fields::read);
        let mut usage = told.unwrap_or_else(|| {
            let (prompt, completion) = match self.dialect {
                Dialect::Responses => ("input_tokens", "output_tokens"),
                _ => ("prompt_tokens", "completion_tokens"),
            };
            let mut usage = Fields::default();
            usage.set(prompt, bill.prompt.to_string());
            usage.set(completion, bill.completion.to_string());
            usage.set("total_tokens", bill.prompt.saturating_add(bill.completion).to_string());
            usage
        });
        usage.set("cost", bill.cost.to_string());
        usage.to_string()
    }
}

fn left(left: LimitsLeft) -> String {
    let of = |name: &str, left: Option<Credits>| {
        left.map(|left| format!(",\"{name}\":{left}")).unwrap_or_default()
    };
    of("per_request_limit", left.per_request)
        + &of("daily_remaining", left.daily)
        + &of("monthly_remaining", left.monthly)
}

fn ended_by(close: Close<'_>) -> String {
    match close {
        Close::Completed => String::new(),
        Close::Declined { reason: word, .. } | Close::Broken { code: word, .. } => {
            format!(",\"ended_by\":\"{word}\"")
        }
    }
}

/// The text of an event of `/v1/responses`: only deltas deliver, and the name of a function; all other events
/// repeat.
fn response_text(fields: &Fields<'_>) -> String {
    let kind = fields.get("type").unwrap_or_default().trim_matches('"');
    let text = match kind {
        "response.output_item.added" => fields
            .get("item")
            .and_then(Fields::read)
            .and_then(|item| item.get("name").map(str::to_owned)),
        _ if kind.rsplit('.').next() == Some("delta") => fields.get("delta").map(str::to_owned),
        _ => None,
    };
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The frame with other data. Its other lines stay.
fn framed(frame: &[u8], fields: &Fields<'_>) -> Bytes {
    let mut out = String::new();
    // A line may end with CR alone, which `str::lines` does not know.
    for line in String::from_utf8_lossy(frame).split(['\n', '\r']) {
        if !line.is_empty() && !line.starts_with("data") {
            out.push_str(line);
            out.push('\n');
        }
    }
    // A line's end between two values would end the data.
    let data = fields.to_string().replace(['\n', '\r'], " ");
    let _ = write!(out, "data: {data}\n\n");
    out.into()
}

impl Reported {
    /// Of the `usage` of an answer or an event, as text.
    #[must_use]
    pub fn of(usage: &str) -> Self {
        #[expect(clippy::struct_field_names, reason = "OpenAI's names")]
        #[derive(Deserialize)]
        struct Usage {
            prompt_tokens: Option<i64>,
            input_tokens: Option<i64>,
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
        let prompt = usage.prompt_tokens.or(usage.input_tokens);
        let completion = usage.completion_tokens.or(usage.output_tokens);
        let all = [prompt, completion, usage.total_tokens];
        let is_absurd =
            |count: &i64| u64::try_from(*count).map_or(true, |count| count > TOKENS_MAX);
        if all.iter().flatten().any(is_absurd) {
            return Reported::Absurd;
        }
        // Half of it is not the truth.
        if usage.total_tokens.is_none() && (prompt.is_none() || completion.is_none()) {
            return Reported::Missing;
        }
        let [prompt, completion, reported_total] =
            all.map(|count| u64::try_from(count.unwrap_or(0)).unwrap_or(0));
        Reported::Given(TokenUsage { prompt, completion, reported_total })
    }

    /// Of a whole answer.
    #[must_use]
    pub fn of_answer(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let fields = Fields::read(text);
        fields.as_ref().and_then(|fields| fields.get("usage")).map_or(Reported::Missing, Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bill() -> Bill {
        let (cost, balance) = ("0.00205".parse().unwrap(), "1".parse().unwrap());
        Bill { cost, balance, left: LimitsLeft::default(), prompt: 3, completion: 2 }
    }

    fn ask(dialect: Dialect, body: &str) -> Ask {
        dialect.ask(body.as_bytes()).unwrap()
    }

    fn frame(data: &str) -> Bytes {
        format!("data: {data}\n\n").into()
    }

    fn transcript(dialect: Dialect, body: &str) -> Transcript {
        Transcript::new(dialect, &ask(dialect, body), "req-1".into())
    }

    #[test]
    fn a_request_says_what_it_asks_for() {
        let body = r#"{"model":"m","max_tokens":5,"max_completion_tokens":7,"n":2,"stream":true,
            "stream_options":{"include_usage":true},"messages":[]}"#;
        let asked = ask(Dialect::Chat, body);
        assert_eq!((asked.token_limit, asked.choices), (Some(7), 2));
        assert!(asked.is_stream && asked.wants_usage);
        assert_eq!(ask(Dialect::Completion, r#"{"prompt":["a","b"],"best_of":3}"#).choices, 6);
        assert_eq!(ask(Dialect::Completion, r#"{"prompt":[1,2,3]}"#).choices, 1);
        assert_eq!(ask(Dialect::Responses, r#"{"max_output_tokens":9}"#).token_limit, Some(9));
        assert_eq!(ask(Dialect::Embeddings, r#"{"input":"a"}"#).token_limit, Some(0));
        // Only the protocol's own names are limits.
        assert_eq!(ask(Dialect::Chat, r#"{"max_output_tokens":1}"#).token_limit, None);
        assert_eq!(ask(Dialect::Responses, r#"{"max_tokens":1}"#).token_limit, None);
        for body in [
            "",
            "[]",
            r#"{"stream":"yes"}"#,
            r#"{"n":-1}"#,
            r#"{"n":1,"n":2}"#,
            r#"{"prompt":"a","prompt":"b"}"#,
            r#"{"stream_options":{"include_usage":false,"include_usage":true}}"#,
            // What our reader of JSON takes for the number itself, and nobody else does.
            r#"{"max_tokens":{"$serde_json::private::RawValue":"5"}}"#,
            r#"{"n":{"$serde_json::private::RawValue":"5"}}"#,
            r#"{"Max_Tokens":1}"#,
            r#"{"N":2}"#,
            r#"{"max_tokens":0}"#,
            r#"{"stream_options":[true]}"#,
        ] {
            assert!(Dialect::Chat.ask(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_upstream_is_told_the_limit_and_asked_for_usage() {
        let told = |dialect: Dialect, body: &str, limit, is_stream| {
            let told = dialect.told(&Bytes::from(body.to_owned()), limit, None, is_stream);
            String::from_utf8(told.to_vec()).unwrap()
        };
        assert_eq!(told(Dialect::Chat, r#"{"a": 1}"#, None, false), r#"{"a": 1}"#);
        assert_eq!(
            told(Dialect::Chat, r#"{"a":1.0}"#, Some(5), false),
            r#"{"a":1.0,"max_tokens":5}"#
        );
        assert_eq!(
            told(Dialect::Chat, r#"{"max_completion_tokens":9,"a":1}"#, Some(5), false),
            r#"{"max_completion_tokens":5,"a":1}"#
        );
        assert_eq!(told(Dialect::Responses, "{}", Some(5), true), r#"{"max_output_tokens":5}"#);
        assert_eq!(
            told(Dialect::Chat, r#"{"stream_options":{"x":1}}"#, None, true),
            r#"{"stream_options":{"x":1,"include_usage":true}}"#
        );
        assert_eq!(told(Dialect::Embeddings, "{}", Some(5), false), "{}");
        let foreign = r#"{"max_output_tokens":1}"#;
        assert_eq!(
            told(Dialect::Chat, foreign, Some(5), false),
            r#"{"max_output_tokens":1,"max_tokens":5}"#
        );
        // An upstream that knows one name alone is told by that, also what the request names itself.
        let renamed = |body: &'static str, limit| {
            let field = Some("max_completion_tokens");
            Dialect::Chat.told(&Bytes::from_static(body.as_bytes()), limit, field, false)
        };
        assert_eq!(renamed(r#"{"max_tokens":9}"#, None), r#"{"max_completion_tokens":9}"#);
        assert_eq!(renamed(r#"{"max_tokens":9}"#, Some(5)), r#"{"max_completion_tokens":5}"#);
        assert_eq!(renamed("{}", Some(5)), r#"{"max_completion_tokens":5}"#);
    }

    #[test]
    fn usage_is_kept_for_the_end_and_shown_to_who_asked() {
        let content = r#"{"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}],"usage":null}"#;
        let usage =
            r#"{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"x":1.0}}"#;
        for (body, shown) in [("{}", false), (r#"{"stream_options":{"include_usage":true}}"#, true)]
        {
            let mut transcript = transcript(Dialect::Chat, body);
            let piece = transcript.read(frame(content));
            assert_eq!((piece.text.as_str(), piece.is_end), ("Hi", false));
            let passed = String::from_utf8(piece.passed.unwrap().to_vec()).unwrap();
            assert_eq!(passed.contains("usage"), shown, "{passed}");
            assert_eq!(transcript.read(frame(usage)), Piece::default());
            assert!(transcript.read(frame(DONE)).is_end);
            assert_eq!(transcript.reported(), Reported::Given(TokenUsage::new(3, 2)));
            let end = transcript.close(Close::Completed, Some(&bill()));
            let last = "data: {\"id\":\"c\",\"object\":\"o\",\"created\":1,\"model\":\"m\",\"choices\":[],\
                \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"x\":1.0,\"cost\":0.00205}}\n\n";
            let comment = ": polysystems {\"cost\":0.00205,\"balance\":1.0000,\"currency\":\"USD\",\
                \"request_id\":\"req-1\"}\n\ndata: [DONE]\n\n";
            let expected = if shown { format!("{last}{comment}") } else { comment.to_owned() };
            assert_eq!(end, expected);
        }
    }

    #[test]
    fn the_short_way_reads_what_the_long_way_reads() {
        for chunk in [
            r#"{"choices":[{"delta":{"content":"a\u00fc \"quoted\" ,\"usage\":null"}}],"usage":null}"#,
            r#"{"choices":[{"delta":{"content":"a","reasoning_content":"b"}},{"delta":{"refusal":"c"}}]}"#,
            r#"{"choices":[{"delta":{"content":null,"role":"assistant"},"finish_reason":null}],"x":{"usage":1}}"#,
            r#"{"choices":[{"index":0,"text":"a","logprobs":null}],"usage":null,"z":1}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{a"}}]}}],"usage":null}"#,
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a"}]}}]}"#,
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[{"delta":{}}],"usage":{"total_tokens":1}}"#,
            r#"{"choices":[{"message":{"content":"a"},"delta":{"text":"b"}}]}"#,
            r#"{"choices":[{"text":"a","logprobs":{"text":"b"},"finish_reason":{"text":"c"}}]}"#,
            r#"{"choices":[{"delta":["assistant","a"]}]}"#,
            r#"{"x":{"y":1,"usage":null},"choices":[],"usage" :null}"#,
            r#"{"usage": null, "choices":[{"delta":{"content":"a"}}]}"#,
            r#"{"error":{"message":"x"}}"#,
        ] {
            for body in ["{}", r#"{"stream_options":{"include_usage":true}}"#] {
                // The first chunk of a stream goes the long way.
                let mut long = transcript(Dialect::Chat, body);
                let mut short = transcript(Dialect::Chat, body);
                short.read(frame("{}"));
                let (long, short) = (long.read(frame(chunk)), short.read(frame(chunk)));
                assert_eq!(long, short, "{chunk}");
            }
        }
    }

    #[test]
    fn a_frame_is_changed_whatever_ends_its_lines() {
        for end in ["\n", "\r\n", "\r"] {
            let chunk = format!("id: 7{end}data: {{\"x\":1,\"usage\": null}}{end}{end}");
            let piece = transcript(Dialect::Chat, "{}").read(chunk.into());
            assert_eq!(piece.passed.unwrap(), "id: 7\ndata: {\"x\":1}\n\n", "{end:?}");
        }
    }

    #[test]
    fn a_last_chunk_that_says_more_than_usage_is_passed_on() {
        let mut transcript = transcript(Dialect::Chat, "{}");
        let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"total_tokens":9}}"#;
        let piece = transcript.read(frame(last));
        let expected = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        assert_eq!(piece.passed, Some(frame(expected)));
        assert!(matches!(transcript.reported(), Reported::Given(usage) if usage.total() == 9));
    }

    #[test]
    fn a_declined_stream_ends_in_its_own_way() {
        let declined = Close::Declined { reason: "insufficient_credits", message: "Top up." };
        let chunk = r#"{"id":"c","choices":[{"index":0,"text":"Hi"}]}"#;
        let mut completion = transcript(Dialect::Completion, r#"{"n":2}"#);
        assert_eq!(completion.read(frame(chunk)).text, "Hi");
        let end = completion.close(declined, Some(&bill()));
        let end = std::str::from_utf8(&end).unwrap();
        let first = end.strip_prefix("data: ").unwrap().lines().next().unwrap();
        let first: Value = serde_json::from_str(first).unwrap();
        assert_eq!(first["choices"][1]["finish_reason"], "length");
        assert_eq!(first["polysystems"]["ended_by"], "insufficient_credits");
        assert!(end.contains("\"ended_by\":\"insufficient_credits\"}\n\ndata: [DONE]\n\n"));

        let mut responses = transcript(Dialect::Responses, "{}");
        let created = r#"{"type":"response.created","sequence_number":0,"response":{"id":"r","status":"in_progress"}}"#;
        assert_eq!(responses.read(frame(created)).passed, Some(frame(created)));
        let delta =
            r#"{"type":"response.output_text.delta","sequence_number":4,"delta":"Hi \u00fc"}"#;
        assert_eq!(responses.read(frame(delta)).text, "Hi ü");
        let done = r#"{"type":"response.output_text.done","sequence_number":5,"text":"Hi ü"}"#;
        assert_eq!(responses.read(frame(done)).text, "");
        let end = responses.close(declined, Some(&bill()));
        let end = std::str::from_utf8(&end).unwrap();
        assert!(end.starts_with("event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"sequence_number\":6,"), "{end}");
        assert!(end.contains(
            "\"input_tokens\":3,\"output_tokens\":2,\"total_tokens\":5,\"cost\":0.00205"
        ));
        assert!(!end.contains(DONE));
    }

    #[test]
    fn a_response_ends_with_its_cost() {
        let mut responses = transcript(Dialect::Responses, "{}");
        let last = r#"{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":3,"output_tokens":2}},"sequence_number":7}"#;
        let piece = responses.read(format!("event: response.completed\ndata: {last}\n\n").into());
        assert_eq!(piece, Piece { is_end: true, ..Piece::default() });
        let end = responses.close(Close::Completed, Some(&bill()));
        assert!(std::str::from_utf8(&end).unwrap().starts_with(
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\
             \"usage\":{\"input_tokens\":3,\"output_tokens\":2,\"cost\":0.00205}},\"sequence_number\":7}\n\n"
        ));
    }

    #[test]
    fn text_is_found_where_upstreams_put_it() {
        for (event, text) in [
            (r#"{"choices":[{"delta":{"role":"assistant","content":"a"}}]}"#, "a"),
            (r#"{"choices":[{"delta":{"reasoning_content":"a","content":null}}]}"#, "a"),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"id":"x","function":{"arguments":"{a"}}]}}]}"#,
                "{a",
            ),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"a","arguments":""}}]}}]}"#,
                "a",
            ),
            (r#"{"choices":[{"delta":{"reasoning":"a","reasoning_content":"a"}}]}"#, "a"),
            (r#"{"delta":{"content":"a"},"id":"no"}"#, "a"),
            (r#"{"text":"a","finish_reason":"no"}"#, "a"),
            (r#"{"delta":"a"}"#, "a"),
            (r#"{"error":{"message":"no"}}"#, ""),
            ("plain words", "plain words"),
        ] {
            assert_eq!(transcript(Dialect::Native, "{}").read(frame(event)).text, text, "{event}");
        }
        let answer =
            r#"{"choices":[{"message":{"role":"assistant","content":"a"}}],"usage":{"text":"no"}}"#;
        assert_eq!(Dialect::Chat.answer_text(answer.as_bytes()), "a");
        assert_eq!(Dialect::Embeddings.answer_text(answer.as_bytes()), "");
    }

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
            (r#"{"usage":{"prompt_tokens":3}}"#, Ok(None)),
            (r#"{"usage":{"prompt_tokens":3,"total_tokens":3}}"#, Ok(Some(3))),
            (r#"{"usage":{"prompt_tokens":-3,"completion_tokens":4}}"#, Err(())),
            (r#"{"usage":{"prompt_tokens":1e99}}"#, Err(())),
            (r#"{"usage":"many"}"#, Err(())),
            (r#"{"usage":[3,3,4,4,7]}"#, Err(())),
            (r#"{"usage":{}}"#, Ok(None)),
            (r#"{"usage":null}"#, Ok(None)),
            ("not json", Ok(None)),
        ] {
            let reported = match Reported::of_answer(body.as_bytes()) {
                Reported::Missing => Ok(None),
                Reported::Absurd => Err(()),
                Reported::Given(usage) => Ok(Some(usage.total())),
            };
            assert_eq!(reported, expected, "{body}");
        }
    }
}
