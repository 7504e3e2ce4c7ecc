//! A stream of an upstream, read frame by frame.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Dialect;
use super::gemini::GeminiStream;
use super::messages::MessageUsage;
use super::refused::{FAILURE_FIELDS, has_generated, is_failure, known_error, known_fields};
use super::request::ModelRequest;
use super::text::{Content, Names, collect, output_content, seen};
use super::usage::{ToldUsage, is_search, searches_of_output};
use crate::json::Object;
use crate::json::fields::Fields;
use crate::upstream::answer::read_usage;
use crate::upstream::sse;
use domain::Reported;

/// The data that ends a stream, in all protocols but those of responses and messages.
pub(super) const DONE: &str = "[DONE]";

/// A frame of an upstream's stream after it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The part that goes to the client now; none if it is kept for the end.
    pub passed: Option<Bytes>,
    /// What it delivers.
    pub content: Content,
    /// Does the stream end with it?
    pub is_end: bool,
}

/// A chunk of a chat or a completion for the fast path. One with any other field may have text
/// there, and takes the slow path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chunk<'c> {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    #[serde(default, rename = "object")]
    _object: IgnoredAny,
    #[serde(default, rename = "created")]
    _created: IgnoredAny,
    #[serde(default, rename = "model")]
    _model: IgnoredAny,
    #[serde(default, rename = "system_fingerprint")]
    _system_fingerprint: IgnoredAny,
    #[serde(default, rename = "service_tier")]
    _service_tier: IgnoredAny,
    #[serde(default, rename = "obfuscation")]
    _obfuscation: IgnoredAny,
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

/// Distinguishes null from an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The frame without its `"usage":null`; `None` if it is spelled differently, or if there is
/// another `usage`. These bytes cannot be part of a string, because quotes are escaped there.
fn without_null_usage(frame: &Bytes) -> Option<Bytes> {
    const FIELD: &str = ",\"usage\":null";
    let text = std::str::from_utf8(frame).ok()?;
    let (before, after) = text.split_once(FIELD)?;
    let is_only = ![before, after].iter().any(|part| part.contains("\"usage\""));
    is_only.then(|| [before, after].concat().into())
}

/// What a stream has shown so far.
pub struct Transcript {
    pub(super) dialect: Dialect,
    pub(super) wants_usage: bool,
    pub(super) choices: u64,
    pub(super) request_id: String,
    /// The fields that all events share; the events that we add repeat them.
    pub(super) head: Option<Fields<'static>>,
    /// The latest usage, and its text.
    pub(super) reported: Reported,
    /// All that was told of its parts, if the call is billed by them.
    pub(super) told: Option<ToldUsage>,
    pub(super) usage: Option<String>,
    /// The event that had only the usage; our last event is made of it.
    pub(super) usage_event: Option<Fields<'static>>,
    /// Has the upstream announced the end?
    pub(super) has_finished: bool,
    /// Has the upstream said that it failed?
    pub(super) has_failed: bool,
    /// The last event of `/v1/responses`, kept until the call is settled.
    pub(super) terminal: Option<(String, Fields<'static>)>,
    pub(super) sequence: u64,
    /// The kinds of text of `/v1/responses` that came in deltas: their last events repeat it.
    in_deltas: Vec<String>,
    /// What `/v1/messages` has told of its usage.
    pub(super) message_usage: MessageUsage,
    /// The index of its block that has begun and not ended.
    pub(super) open_block: Option<u64>,
    /// What is known of a stream of Gemini's.
    pub(super) gemini: GeminiStream,
    seen: SeenText,
    /// The bytes of text, and the tokens of images, that it has delivered so far.
    delivered: (usize, u64),
    /// Items of `/v1/responses` that have searched the web.
    searches: u64,
}

/// The text of `/v1/responses` that has come, and that a later event repeats.
#[derive(Default)]
struct SeenText {
    /// Of the item that is on its way: the item's last event repeats it.
    of_item: bool,
    /// Of any item: the last event repeats it.
    of_any: bool,
}

impl Transcript {
    /// Of a stream that has not begun.
    #[must_use]
    pub fn new(dialect: Dialect, request: &ModelRequest, request_id: String) -> Self {
        Transcript {
            dialect,
            wants_usage: request.wants_usage,
            choices: request.choices,
            request_id,
            head: None,
            reported: Reported::Missing,
            told: None,
            usage: None,
            usage_event: None,
            has_finished: false,
            has_failed: false,
            terminal: None,
            sequence: 0,
            in_deltas: Vec::new(),
            message_usage: MessageUsage::default(),
            open_block: None,
            gemini: GeminiStream::default(),
            seen: SeenText::default(),
            delivered: (0, 0),
            searches: 0,
        }
    }

    /// The usage that the upstream has reported so far.
    #[must_use]
    pub fn reported(&self) -> Reported {
        self.reported
    }

    /// The same for a call that is billed by the parts of its usage.
    #[must_use]
    pub fn by_parts(self) -> Self {
        Transcript { told: Some(ToldUsage::default()), ..self }
    }

    /// What the upstream has told of the parts of its usage so far.
    #[must_use]
    pub fn told(&self) -> ToldUsage {
        let told = if self.dialect.is_gemini() {
            ToldUsage::of_gemini(&self.gemini.usage, &self.gemini.searches)
        } else {
            let mut told = self.told.unwrap_or_default();
            told.search(self.searches);
            told
        };
        let (bytes, images) = self.delivered;
        told.with_seen(seen(bytes, images))
    }

    /// Has the upstream announced the end, if its protocol can?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.has_finished || self.dialect == Dialect::Native
    }

    /// Has the upstream said in the stream that it failed?
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Has the last event of `/v1/responses` come?
    #[must_use]
    pub fn has_last_event(&self) -> bool {
        self.terminal.is_some()
    }

    /// Reads a frame.
    pub fn read(&mut self, frame: Bytes) -> Piece {
        let piece = self.read_frame(frame);
        let (bytes, images) = &mut self.delivered;
        *bytes = bytes.saturating_add(piece.content.text.len());
        *images = images.saturating_add(piece.content.image_tokens);
        piece
    }

    fn read_frame(&mut self, frame: Bytes) -> Piece {
        // Readers replace what is no UTF-8, so it is text all the same.
        let frame = match String::from_utf8_lossy(&frame) {
            Cow::Borrowed(_) => frame,
            Cow::Owned(text) => text.into(),
        };
        let Some((event, data)) = sse::read(&frame) else {
            // A comment, or a field that is not read here.
            let passed = Some(frame).filter(|_| !self.dialect.is_gemini());
            return Piece { passed, ..Piece::default() };
        };
        if data.trim() == DONE {
            self.has_finished = true;
            return Piece { is_end: true, ..Piece::default() };
        }
        if self.dialect.is_gemini() {
            let data = data.into_owned();
            return self.read_gemini_chunk(frame, &data);
        }
        if self.dialect == Dialect::Messages {
            let data = data.into_owned();
            return self.read_message_event(frame, &data);
        }
        if let Some(piece) = self.read_plain_chunk(&frame, &data) {
            return piece;
        }
        let Some(fields) = Fields::read(&data) else {
            let content = Content::of_text(data.into_owned());
            return Piece { passed: Some(frame), content, is_end: false };
        };
        if self.dialect == Dialect::Responses {
            if let Some(piece) = self.read_response(&frame, event, &fields) {
                return piece;
            }
            let content = self.response_content(&data);
            return Piece { passed: Some(frame), content, is_end: false };
        }
        self.read_chunk(frame.clone(), &data, fields)
    }

    /// Reads a chunk of a chat or a completion, or an event of another protocol.
    fn read_chunk(&mut self, frame: Bytes, data: &str, mut fields: Fields<'_>) -> Piece {
        if self.head.is_none() {
            let names = ["id", "object", "created", "model", "system_fingerprint"];
            self.head = Some(fields.only(&names));
        }
        let error = fields.get("error").filter(|error| is_failure(error)).map(str::to_owned);
        let mut content = Content::default();
        if error.is_some() && !has_generated(&fields) {
            fields = fields.only(&FAILURE_FIELDS);
        } else if let Ok(Value::Object(event)) = serde_json::from_str::<Value>(data) {
            let choices = event.get("choices").and_then(Value::as_array);
            self.has_finished |= choices.is_some_and(|choices| {
                choices
                    .iter()
                    .any(|choice| choice.get("finish_reason").is_some_and(Value::is_string))
            });
            content = self.dialect.event_content(&event);
        }
        if let Some(usage) = fields.get("usage") {
            self.reported = read_usage(usage);
            if let Some(told) = &mut self.told {
                told.add_text(usage);
                told.serve_text(fields.get("service_tier"));
            }
            self.usage = Some(usage.to_owned());
            let is_empty = fields.get("choices").is_none_or(|choices| choices.trim() == "[]");
            let says_more = ["choices", "finish_reason", "error"]
                .iter()
                .any(|name| fields.get(name).is_some_and(|value| value.trim() != "[]"));
            if is_empty && content.is_empty() && !says_more {
                self.has_finished = true;
                self.usage_event = Some(fields.clone().into_owned());
                let usual =
                    ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"];
                if self.wants_usage || fields.has_only(&usual) {
                    // Kept for the end, when the call is settled.
                    return Piece::default();
                }
            }
        }
        let hides_usage = !self.wants_usage && fields.has("usage");
        if hides_usage {
            fields.remove("usage");
        }
        if let Some(error) = &error {
            self.has_failed = true;
            let error = serde_json::from_str(error).unwrap_or_default();
            fields.set("error", known_error(&error).to_string());
        }
        let passed = if hides_usage || error.is_some() { framed(&frame, &fields) } else { frame };
        Piece { passed: Some(passed), content, is_end: false }
    }

    /// The fast path for the usual chunk of a chat: text and no usage. `None` for any other.
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
        Some(Piece { passed: Some(passed), content: Content::of_text(text), is_end: false })
    }

    /// Reads an event of `/v1/responses`; `None` if it is passed on unchanged.
    fn read_response(
        &mut self,
        frame: &[u8],
        event: Option<&str>,
        fields: &Fields<'_>,
    ) -> Option<Piece> {
        if let Some(sequence) = fields.get("sequence_number").and_then(|text| text.parse().ok()) {
            self.sequence = sequence;
        }
        let response = fields.get("response").and_then(Fields::read);
        let kind = fields.get("type").unwrap_or_default().trim_matches('"');
        if self.head.is_none() {
            self.head = response.clone().map(Fields::into_owned);
        }
        if kind == "error" {
            self.has_failed = true;
            let Ok(Value::Object(error)) = serde_json::from_str(&fields.to_string()) else {
                return None;
            };
            let mut kept = fields.only(&["sequence_number"]);
            for (name, value) in known_fields(&error) {
                kept.set(name, value.to_string());
            }
            if let Some(error) = error.get("error") {
                kept.set("error", known_error(error).to_string());
            }
            return Some(Piece { passed: Some(framed(frame, &kept)), ..Piece::default() });
        }
        if kind == "response.output_item.done" {
            let item = fields.get("item").filter(|item| item.contains("web_search_call"));
            let item = item.and_then(|item| serde_json::from_str(item).ok());
            self.searches =
                self.searches.saturating_add(u64::from(item.is_some_and(|item| is_search(&item))));
        }
        if !matches!(kind, "response.completed" | "response.incomplete" | "response.failed") {
            return None;
        }
        self.has_failed |= kind == "response.failed";
        if let Some(usage) = response.as_ref().and_then(|response| response.get("usage")) {
            self.reported = read_usage(usage);
            self.usage = Some(usage.to_owned());
        }
        if let (Some(told), Some(response)) = (&mut self.told, &response) {
            told.serve_text(response.get("service_tier"));
            told.search(searches_of_output(response.get("output")));
            if let Some(usage) = response.get("usage") {
                told.add_text(usage);
            }
        }
        let event = event.unwrap_or(kind).to_owned();
        self.has_finished = true;
        let mut last = fields.clone().into_owned();
        if let Some(mut response) = response.filter(|_| self.has_failed).map(Fields::into_owned)
            && let Some(error) = response.get("error")
        {
            let error = serde_json::from_str(error).unwrap_or_default();
            response.set("error", known_error(&error).to_string());
            last.set("response", response.to_string());
        }
        // A failure is not asked for.
        let is_repeated = self.seen.of_any || self.has_failed;
        let response = if is_repeated { None } else { response_of(&last) };
        let content = response.as_ref().map(output_content).unwrap_or_default();
        self.terminal = Some((event, last));
        Some(Piece { is_end: true, content, ..Piece::default() })
    }

    /// What an event of `/v1/responses` delivers: a delta, the name of a function, or a text that
    /// did not come in deltas. All other events repeat it.
    fn response_content(&mut self, data: &str) -> Content {
        let mut content = Content::default();
        let Ok(Value::Object(event)) = serde_json::from_str::<Value>(data) else { return content };
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let (family, step) = text("type").rsplit_once('.').unwrap_or_default();
        match step {
            "delta" => {
                if !self.in_deltas.iter().any(|known| known == family) {
                    self.in_deltas.push(family.to_owned());
                }
                match event.get("delta") {
                    // Sound, in base64; its words are in events of their own.
                    Some(Value::String(sound)) if family.ends_with("audio") => {
                        content.push_data(sound);
                    }
                    Some(delta) => collect(delta, Names::All, &mut content),
                    None => {}
                }
            }
            "added" => {
                let name = event.get("item").and_then(|item| item.get("name"));
                let name = name.and_then(Value::as_str).unwrap_or_default();
                content.text.push_str(name);
            }
            "done" if !self.in_deltas.iter().any(|known| known == family) => {
                for name in ["text", "refusal", "arguments", "input", "code", "transcript"] {
                    content.text.push_str(text(name));
                }
            }
            "partial_image" => content.push_image(text("partial_image_b64")),
            _ => {}
        }
        let is_item_done = family.ends_with("output_item") && step == "done";
        let repeats = ["part", "item"].iter().find_map(|name| event.get(*name));
        if step == "done"
            && !self.seen.of_item
            && let Some(repeated) = repeats
        {
            collect(repeated, Names::All, &mut content);
        }
        // The name of a function alone is no text of it.
        self.seen.of_item |= step != "added" && !content.is_empty();
        self.seen.of_any |= self.seen.of_item;
        if is_item_done {
            self.seen.of_item = false;
        }
        content
    }
}

/// The response in the last event of `/v1/responses`.
fn response_of(event: &Fields<'_>) -> Option<Value> {
    serde_json::from_str(event.get("response")?).ok()
}

/// The frame with other data; its other lines stay.
fn framed(frame: &[u8], fields: &Fields<'_>) -> Bytes {
    let mut out = String::new();
    // A line may end with CR alone, which `str::lines` does not split at.
    for line in String::from_utf8_lossy(frame).split(['\n', '\r']) {
        if !line.is_empty() && !line.starts_with("data") {
            out.push_str(line);
            out.push('\n');
        }
    }
    // A line break between two values would end the data.
    let data = fields.to_string().replace(['\n', '\r'], " ");
    let _ = write!(out, "data: {data}\n\n");
    out.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::bill::{Close, ClosingBill};
    use super::*;
    use domain::LimitsLeft;
    use domain::TokenUsage;

    fn bill() -> ClosingBill {
        let (cost, balance) = ("0.00205".parse().unwrap(), "1".parse().unwrap());
        ClosingBill { cost, balance, left: LimitsLeft::default(), prompt: 3, completion: 2 }
    }

    fn frame(data: &str) -> Bytes {
        format!("data: {data}\n\n").into()
    }

    fn transcript(dialect: Dialect, body: &str) -> Transcript {
        let request = dialect.read_request(body.as_bytes()).unwrap();
        Transcript::new(dialect, &request, "req-1".into())
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
            assert_eq!((piece.content.text.as_str(), piece.is_end), ("Hi", false));
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
    fn the_fast_path_reads_what_the_slow_path_reads() {
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
                // The first chunk of a stream takes the slow path.
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
        assert_eq!(completion.read(frame(chunk)).content.text, "Hi");
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
        assert_eq!(responses.read(frame(delta)).content.text, "Hi ü");
        let done = r#"{"type":"response.output_text.done","sequence_number":5,"text":"Hi ü"}"#;
        assert_eq!(responses.read(frame(done)).content.text, "");
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
    fn what_is_no_utf_8_is_delivered_all_the_same() {
        let chunk = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\xffb\"}}]}\n\n";
        let piece = transcript(Dialect::Chat, "{}").read(Bytes::from_static(chunk));
        assert_eq!(piece.content, Content::of_text("a\u{fffd}b".to_owned()));
        let marked = "\u{feff}data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        assert_eq!(transcript(Dialect::Chat, "{}").read(marked.into()).content.text, "a");
    }

    #[test]
    fn sounds_and_images_are_counted_by_their_length() {
        let data = "A".repeat(4_097);
        for (dialect, event) in [
            (
                Dialect::Chat,
                json!({ "choices": [{ "delta": { "audio": { "id": "x", "data": data } } }] }),
            ),
            (Dialect::Responses, json!({ "type": "response.audio.delta", "delta": data })),
            (
                Dialect::Responses,
                json!({
                    "type": "response.image_generation_call.partial_image", "partial_image_b64": data,
                }),
            ),
        ] {
            let content = transcript(dialect, "{}").read(frame(&event.to_string())).content;
            assert_eq!((content.text.as_str(), content.data_tokens), ("", 3), "{event}");
            let is_image = event["type"] == "response.image_generation_call.partial_image";
            assert_eq!(content.image_tokens, if is_image { 3 } else { 0 }, "{event}");
        }
        // What only looks like it is text.
        let event = json!({ "choices": [{ "delta": { "data": "some words ".repeat(9) } }] });
        let content = transcript(Dialect::Chat, "{}").read(frame(&event.to_string())).content;
        assert_eq!(content.data_tokens, 0);
    }

    #[test]
    fn a_response_without_deltas_delivers_its_text_at_the_end_of_each_part() {
        let mut responses = transcript(Dialect::Responses, "{}");
        for (event, text) in [
            (json!({ "type": "response.custom_tool_call_input.delta", "delta": "a" }), "a"),
            (json!({ "type": "response.custom_tool_call_input.done", "input": "a" }), ""),
            (json!({ "type": "response.output_text.done", "text": "b" }), "b"),
            (json!({ "type": "response.output_item.done", "item": { "name": "no" } }), ""),
            // An item that comes whole, in its last event.
            (json!({ "type": "response.output_item.added", "item": { "name": "f" } }), "f"),
            (
                json!({ "type": "response.output_item.done", "item": {
                    "type": "function_call", "arguments": "{c" } }),
                "{c",
            ),
            (json!({ "type": "response.content_part.done", "part": { "text": "d" } }), "d"),
            (
                json!({ "type": "response.output_item.done", "item": { "content": [
                    { "text": "d" }] } }),
                "",
            ),
        ] {
            let content = responses.read(frame(&event.to_string())).content;
            assert_eq!(content.text, text, "{event}");
        }
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
            // Where nobody expects it.
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"type":"custom","custom":{"input":"a","name":"b"}}]}}]}"#,
                "ab",
            ),
            (r#"{"choices":[{"delta":{"answer":"a"}}]}"#, "a"),
            (r#"{"choices":[],"content":"a"}"#, "a"),
            (r#"{"choices":[],"message":{"role":"no","content":"a"}}"#, "a"),
            (
                r#"{"choices":[{"delta":{},"logprobs":{"content":[{"token":"a","logprob":-1,"top_logprobs":[{"token":"no"}]}]}}]}"#,
                "a",
            ),
            (
                r#"{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[{"token":"a"}]}}]}"#,
                "a",
            ),
            (r#"{"choices":[{"text":"","logprobs":{"tokens":["a","b"]}}]}"#, "ab"),
            (r#"{"words":"a","id":"no","type":"no"}"#, "a"),
        ] {
            let content = transcript(Dialect::Native, "{}").read(frame(event)).content;
            assert_eq!(content, Content::of_text(text.to_owned()), "{event}");
        }
        let answer =
            r#"{"choices":[{"message":{"role":"assistant","content":"a"}}],"usage":{"text":"no"}}"#;
        assert_eq!(Dialect::Chat.answer_content(answer.as_bytes()).text, "a");
        assert!(Dialect::Embeddings.answer_content(answer.as_bytes()).is_empty());
    }
}
