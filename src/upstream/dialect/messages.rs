//! `/v1/messages`, Anthropic's protocol, where it differs: what a request asks for beside, its
//! usage, and its stream of events.
//!
//! The prompt's parts that are read from a cache or written to one stand beside `input_tokens`. A
//! stream tells its usage twice, at its beginning and at its end, and each number only grows. So
//! the largest of each counts, and a zero never replaces what was told before.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Dialect;
use super::bill::Close;
use super::extras::{self, Asked};
use super::names::{EXTRA_FIELDS, MESSAGES_FIELDS, OWN_NAMES, SCHEMA_FIELDS, get};
use super::refused::known_error;
use super::text::{Content, Names, collect, collect_field};
use super::transcript::{Piece, Transcript};
use crate::json::Object;
use crate::json::fields::Fields;
use domain::pricing::Extra;
use domain::usage::TOKENS_MAX;
use domain::{Reported, TokenUsage};

/// Tools of Anthropic's that the customer runs: the beginnings of their types, which end with a
/// date.
const CLIENT_TOOLS: [&str; 4] = ["bash_", "computer_", "memory_", "text_editor_"];

/// Does the block call a tool? Its `input` has names of the customer's own.
pub(super) fn is_call(block: &Map<String, Value>) -> bool {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
    matches!(kind, "tool_use" | "server_tool_use" | "mcp_tool_use")
}

/// What a request asks for whose cost cannot be known before the call.
pub(super) fn extras(body: &Map<String, Value>) -> Vec<Asked> {
    let mut asked = Vec::new();
    let mut ask = |extra, field: &str| asked.push(Asked { extra, field: field.to_owned() });
    for (name, value) in body {
        let mut known = EXTRA_FIELDS.iter().chain(&MESSAGES_FIELDS);
        if let Some((_, extra)) = known.find(|(field, _)| field == name)
            && is_asked(*extra, name, value)
        {
            ask(*extra, name);
        }
        if !OWN_NAMES.contains(&name.as_str()) && !SCHEMA_FIELDS.contains(&name.as_str()) {
            check_block(name, value, &mut ask);
        }
    }
    asked
}

/// Does the field of this name ask for it?
fn is_asked(extra: Extra, name: &str, value: &Value) -> bool {
    match (name, value) {
        ("tools", Value::Array(tools)) => tools.iter().any(is_hosted),
        ("service_tier", Value::String(tier)) => {
            !matches!(tier.as_str(), "auto" | "default" | "standard_only")
        }
        ("speed", Value::String(speed)) => speed != "standard",
        ("inference_geo", Value::String(place)) => place != "global",
        ("context_management", Value::Object(management)) => summarizes(management),
        _ => extras::is_asked(extra, name, value),
    }
}

/// Does the upstream run the tool?
pub(super) fn is_hosted(tool: &Value) -> bool {
    let kind = tool.as_object().and_then(|tool| get(tool, "type")).and_then(Value::as_str);
    let is_client = kind.is_some_and(|kind| CLIENT_TOOLS.iter().any(|own| kind.starts_with(own)));
    !is_client && extras::is_hosted(tool)
}

/// Is the context to be changed by more than leaving parts out? A summary is written by the model,
/// and is paid beside the answer.
fn summarizes(management: &Map<String, Value>) -> bool {
    let clears = |edit: &Value| {
        let kind = edit.as_object().and_then(|edit| get(edit, "type")).and_then(Value::as_str);
        kind.is_some_and(|kind| kind.starts_with("clear_"))
    };
    match get(management, "edits") {
        None | Some(Value::Null) => false,
        Some(Value::Array(edits)) => !edits.iter().all(clears),
        Some(_) => true,
    }
}

/// Files and other things that a block of a prompt names.
fn check_block(field: &str, value: &Value, ask: &mut impl FnMut(Extra, &str)) {
    match value {
        Value::Object(block) => {
            let is_image = get(block, "type").and_then(Value::as_str) == Some("image");
            for (name, value) in block {
                match (name.as_str(), value) {
                    (_, Value::Null) => {}
                    ("file_id" | "file_ids", _) => ask(Extra::FileId, field),
                    ("uuid", _) => ask(Extra::ItemReference, field),
                    ("container" | "container_id", _) => ask(Extra::Container, field),
                    ("definition", tool) if is_hosted(tool) => ask(Extra::HostedTools, field),
                    // An image is shown at a bounded size.
                    ("source", Value::Object(source)) if !is_image && is_remote(source) => {
                        ask(Extra::FileUrl, field);
                    }
                    _ => {}
                }
                if name != "input" || !is_call(block) {
                    check_block(field, value, ask);
                }
            }
        }
        Value::Array(blocks) => blocks.iter().for_each(|block| check_block(field, block, ask)),
        _ => {}
    }
}

/// Does the upstream fetch the source of a block?
fn is_remote(source: &Map<String, Value>) -> bool {
    let text = |name: &str| get(source, name).and_then(Value::as_str).unwrap_or_default();
    text("type") == "url" || !text("url").is_empty()
}

/// The least token limit that the upstream takes with the budget of thinking that the request
/// names: the budget is a part of the limit.
pub(super) fn least_tokens(body: &Map<String, Value>) -> u64 {
    let budget = body.get("thinking").and_then(|thinking| thinking.get("budget_tokens"));
    budget.and_then(Value::as_u64).map_or(0, |budget| budget.saturating_add(1))
}

/// Tokens of an answer, as far as they are told.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    input: Option<u64>,
    /// Of the prompt, read from a cache. Beside `input`.
    read: Option<u64>,
    /// Of the prompt, written to a cache. Beside `input`.
    written: Option<u64>,
    output: Option<u64>,
}

impl Counts {
    fn prompt(self) -> Option<u64> {
        let beside = [self.read, self.written].into_iter().flatten();
        self.input.map(|input| beside.fold(input, u64::saturating_add))
    }
}

/// The usage of an answer: the largest of each number that was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MessageUsage {
    counts: Counts,
    /// The sums over the calls that the upstream made for the answer, if it says that there were
    /// more than one.
    prompts: Option<u64>,
    outputs: Option<u64>,
    is_absurd: bool,
}

/// The numbers of a usage, or of one of the calls that the upstream made for an answer.
#[expect(clippy::struct_field_names, reason = "Anthropic's names")]
#[derive(Deserialize)]
struct Numbers {
    input_tokens: Option<i64>,
    cache_creation_input_tokens: Option<i64>,
    cache_read_input_tokens: Option<i64>,
    output_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(flatten)]
    numbers: Numbers,
    /// What is written, by how long it is kept.
    cache_creation: Option<Map<String, Value>>,
    iterations: Option<Vec<Numbers>>,
}

/// A number that is impossible.
struct Impossible;

impl Numbers {
    fn counts(&self) -> Result<Counts, Impossible> {
        let read = |number: Option<i64>| match number.map(u64::try_from) {
            None => Ok(None),
            Some(Ok(count)) if count <= TOKENS_MAX => Ok(Some(count)),
            Some(_) => Err(Impossible),
        };
        Ok(Counts {
            input: read(self.input_tokens)?,
            read: read(self.cache_read_input_tokens)?,
            written: read(self.cache_creation_input_tokens)?,
            output: read(self.output_tokens)?,
        })
    }
}

impl MessageUsage {
    /// Adds what a `usage` tells.
    pub(super) fn add(&mut self, usage: &str) {
        if usage.trim() == "null" {
            return;
        }
        let usage = serde_json::from_str::<Object<Usage>>(usage).map_err(|_| Impossible);
        let added = usage.and_then(|Object(usage)| self.add_counts(&usage));
        self.is_absurd |= added.is_err();
    }

    fn add_counts(&mut self, usage: &Usage) -> Result<(), Impossible> {
        let Counts { input, read, written, output } = usage.numbers.counts()?;
        let parts = usage.cache_creation.iter().flat_map(Map::values).filter_map(Value::as_u64);
        let parts = parts.fold(0, u64::saturating_add);
        if parts > TOKENS_MAX {
            return Err(Impossible);
        }
        let own = &mut self.counts;
        own.input = own.input.max(input);
        own.read = own.read.max(read);
        own.written = own.written.max(written).max(Some(parts));
        own.output = own.output.max(output);
        let (mut prompts, mut outputs) = (None, None);
        let sum = |sum: Option<u64>, more: Option<u64>| {
            more.map(|more| sum.unwrap_or(0).saturating_add(more)).or(sum)
        };
        for call in usage.iterations.iter().flatten() {
            let call = call.counts()?;
            prompts = sum(prompts, call.prompt());
            outputs = sum(outputs, call.output);
        }
        self.prompts = self.prompts.max(prompts);
        self.outputs = self.outputs.max(outputs);
        Ok(())
    }

    /// The tokens of the prompt, if they are told.
    pub(super) fn prompt(&self) -> Option<u64> {
        self.counts.prompt().max(self.prompts).filter(|_| !self.is_absurd)
    }

    /// What is reported so far. One number of two is not enough to bill by.
    pub(super) fn reported(&self) -> Reported {
        if self.is_absurd {
            return Reported::Absurd;
        }
        match (self.prompt(), self.counts.output.max(self.outputs)) {
            (Some(prompt), Some(completion)) => {
                Reported::Given(TokenUsage::new(prompt, completion))
            }
            _ => Reported::Missing,
        }
    }
}

impl Dialect {
    /// Reads the usage of a complete answer.
    #[must_use]
    pub fn usage_of_answer(self, body: &[u8]) -> Reported {
        if self.is_gemini() {
            return super::gemini::GeminiUsage::of_answer(body).reported();
        }
        if self != Dialect::Messages {
            return crate::upstream::answer::usage_of_answer(body);
        }
        let text = String::from_utf8_lossy(body);
        let mut usage = MessageUsage::default();
        if let Some(told) = Fields::read(&text).as_ref().and_then(|fields| fields.get("usage")) {
            usage.add(told);
        }
        usage.reported()
    }
}

/// Collects what a block of an answer delivers.
fn collect_block(block: &Map<String, Value>, content: &mut Content) {
    for (name, value) in block {
        match (name.as_str(), value) {
            // The call of a tool is written as JSON.
            ("input", Value::Object(input)) if !input.is_empty() => {
                content.text.push_str(&value.to_string());
            }
            ("input", Value::Object(_)) => {}
            _ => collect_field(block, name, value, Names::All, content),
        }
    }
}

/// Collects what the blocks of an answer deliver.
pub(super) fn collect_blocks(blocks: &Value, content: &mut Content) {
    match blocks {
        Value::Array(blocks) => blocks.iter().for_each(|block| collect_blocks(block, content)),
        Value::Object(block) => collect_block(block, content),
        Value::String(text) => content.text.push_str(text),
        _ => {}
    }
}

impl Transcript {
    /// Reads an event of `/v1/messages`.
    pub(super) fn read_message_event(&mut self, frame: Bytes, data: &str) -> Piece {
        let Ok(Value::Object(event)) = serde_json::from_str::<Value>(data) else {
            let content = Content::of_text(data.to_owned());
            return Piece { passed: Some(frame), content, is_end: false };
        };
        let text = |of: &Map<String, Value>, name: &str| {
            of.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut content = Content::default();
        match text(&event, "type").as_str() {
            // Sent when the call is settled.
            "message_stop" => {
                self.has_finished = true;
                return Piece { is_end: true, ..Piece::default() };
            }
            "error" => {
                self.has_failed = true;
                let error = known_error(event.get("error").unwrap_or(&Value::Null));
                let passed = Some(failure(&error, None));
                return Piece { passed, ..Piece::default() };
            }
            "ping" => {}
            "message_start" => {
                let message = event.get("message").and_then(Value::as_object);
                if let Some(blocks) = message.and_then(|message| message.get("content")) {
                    collect_blocks(blocks, &mut content);
                }
                // What is generated is told at the end. Here it has only begun.
                let mut usage = message.and_then(|message| message.get("usage")).cloned();
                if let Some(Value::Object(fields)) = &mut usage {
                    fields.remove("output_tokens");
                }
                self.add_usage(usage.as_ref());
            }
            "message_delta" => {
                let reason = event.get("delta").and_then(|delta| delta.get("stop_reason"));
                self.has_finished |= reason.is_some_and(Value::is_string);
                self.add_usage(event.get("usage"));
            }
            "content_block_start" => {
                self.open_block = Some(event.get("index").and_then(Value::as_u64).unwrap_or(0));
                if let Some(block) = event.get("content_block") {
                    collect_blocks(block, &mut content);
                }
            }
            "content_block_stop" => self.open_block = None,
            "content_block_delta" => {
                let delta = event.get("delta").unwrap_or(&Value::Null);
                // What a source says was not generated.
                if delta.get("type").and_then(Value::as_str) != Some("citations_delta") {
                    collect(delta, Names::All, &mut content);
                }
            }
            _ => {
                self.add_usage(event.get("usage"));
                collect(&Value::Object(event), Names::All, &mut content);
            }
        }
        Piece { passed: Some(frame), content, is_end: false }
    }

    fn add_usage(&mut self, usage: Option<&Value>) {
        if let Some(usage) = usage {
            self.message_usage.add(&usage.to_string());
            if let Some(told) = &mut self.told {
                told.add(usage);
            }
            self.reported = self.message_usage.reported();
        }
    }

    /// The tokens of the prompt, if the upstream has told them at the beginning of its stream.
    #[must_use]
    pub fn reported_prompt(&self) -> Option<u64> {
        let told = self.message_usage.prompt().or(self.gemini.usage.prompt());
        told.filter(|prompt| *prompt > 0)
    }

    /// The end of a stream of `/v1/messages`, after the comment with its bill.
    pub(super) fn close_message(&self, out: &mut String, close: Close<'_>, completion: u64) {
        match close {
            Close::Failed => return,
            Close::Completed => {}
            Close::Declined { reason: "token_limit", .. } => {
                if let Some(index) = self.open_block {
                    let stop = json!({ "type": "content_block_stop", "index": index });
                    let _ = write!(out, "event: content_block_stop\ndata: {stop}\n\n");
                }
                let last = json!({
                    "type": "message_delta",
                    "delta": { "stop_reason": "max_tokens", "stop_sequence": null },
                    "usage": { "output_tokens": completion },
                });
                let _ = write!(out, "event: message_delta\ndata: {last}\n\n");
            }
            Close::Declined { reason: word, message } | Close::Broken { code: word, message } => {
                let kind = match word {
                    "insufficient_credits" | "spending_limit" => "billing_error",
                    "key_inactive" => "authentication_error",
                    "account_suspended" => "permission_error",
                    "upstream_timeout" => "timeout_error",
                    _ => "api_error",
                };
                let error = json!({ "type": kind, "message": message });
                out.push_str(&String::from_utf8_lossy(&failure(&error, Some(word))));
                return;
            }
        }
        out.push_str("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

/// The event of an error, with our own word for what has ended the stream.
fn failure(error: &Value, ended_by: Option<&str>) -> Bytes {
    let mut event = json!({ "type": "error", "error": error });
    if let (Some(word), Value::Object(event)) = (ended_by, &mut event) {
        event.insert("polysystems".to_owned(), json!({ "ended_by": word }));
    }
    format!("event: error\ndata: {event}\n\n").into()
}

#[cfg(test)]
mod tests {
    use domain::LimitsLeft;

    use super::*;
    use crate::upstream::dialect::ClosingBill;

    fn reported(usages: &[Value]) -> Reported {
        let mut all = MessageUsage::default();
        for usage in usages {
            all.add(&usage.to_string());
        }
        all.reported()
    }

    #[test]
    fn the_largest_of_each_number_counts() {
        let first = json!({ "input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1 });
        let given = |prompt, completion| Reported::Given(TokenUsage::new(prompt, completion));
        for (usages, expected) in [
            (vec![first.clone()], given(15, 1)),
            (vec![first.clone(), json!({ "output_tokens": 9 })], given(15, 9)),
            (vec![first.clone(), json!({ "input_tokens": 0, "output_tokens": 9 })], given(15, 9)),
            (vec![json!({ "output_tokens": 1 }), json!({ "input_tokens": 7 })], given(7, 1)),
            (vec![json!({ "output_tokens": 1 })], Reported::Missing),
            (vec![json!(null), first.clone(), json!(null)], given(15, 1)),
            // Writes of an hour may come at the end alone.
            (
                vec![
                    first.clone(),
                    json!({ "input_tokens": 10, "cache_read_input_tokens": 5,
                        "cache_creation": { "ephemeral_1h_input_tokens": 30 }, "output_tokens": 9 }),
                ],
                given(45, 9),
            ),
            (
                vec![json!({ "input_tokens": 10, "cache_creation_input_tokens": 50,
                    "cache_creation": { "ephemeral_5m_input_tokens": 20,
                        "ephemeral_1h_input_tokens": 30 }, "output_tokens": 9 })],
                given(60, 9),
            ),
            // A summary of the context is a call of its own.
            (
                vec![json!({ "input_tokens": 10, "output_tokens": 9, "iterations": [
                    { "type": "compaction", "input_tokens": 500, "output_tokens": 40 },
                    { "type": "message", "input_tokens": 10, "output_tokens": 9 } ] })],
                given(510, 49),
            ),
            (vec![first.clone(), json!({ "output_tokens": -1 })], Reported::Absurd),
            (vec![first.clone(), json!({ "output_tokens": 1e30 })], Reported::Absurd),
            (vec![first, json!("many")], Reported::Absurd),
        ] {
            assert_eq!(reported(&usages), expected, "{usages:?}");
        }
        let answer = json!({ "usage": { "input_tokens": 3, "cache_read_input_tokens": 4,
            "output_tokens": 5 } });
        let body = answer.to_string();
        assert_eq!(Dialect::Messages.usage_of_answer(body.as_bytes()), given(7, 5));
        assert_eq!(Dialect::Chat.usage_of_answer(body.as_bytes()), given(7, 5));
    }

    #[test]
    fn what_is_usual_asks_for_nothing() {
        let body = json!({
            "system": "Be kind.", "container": null, "mcp_servers": [], "service_tier": "auto",
            "thinking": { "type": "adaptive", "display": "omitted" }, "inference_geo": "global",
            "speed": "standard", "context_management": { "edits": [
                { "type": "clear_tool_uses_20250919" }, { "type": "clear_thinking_20251015" } ] },
            "tools": [{ "name": "f", "input_schema": {} }, { "type": "custom", "name": "g" },
                { "type": "text_editor_20250728", "name": "h" }],
            "messages": [
                { "role": "user", "content": [
                    { "type": "image", "source": { "type": "url", "url": "https://a.example" } },
                    { "type": "document", "source": { "type": "base64", "data": "AAAA" } },
                    { "type": "document", "source": { "type": "text", "data": "x" } },
                    { "type": "search_result", "source": "https://a.example", "title": "t",
                        "content": [{ "type": "text", "text": "x" }] } ] },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "x", "signature": "y" },
                    { "type": "redacted_thinking", "data": "z" },
                    { "type": "tool_use", "id": "t", "name": "f",
                        "input": { "file_id": "mine", "source": { "url": "https://mine" } } } ] },
            ],
        });
        assert_eq!(extras(body.as_object().unwrap()), []);
    }

    fn frame(event: &Value) -> Bytes {
        format!("event: x\ndata: {event}\n\n").into()
    }

    fn transcript() -> Transcript {
        let request =
            Dialect::Messages.read_request(b"{\"max_tokens\":9,\"messages\":[]}").unwrap();
        Transcript::new(Dialect::Messages, &request, "req-1".into())
    }

    #[test]
    fn what_an_event_delivers_is_counted() {
        let long = "A".repeat(5_000);
        for (event, text, data_tokens) in [
            (json!({ "type": "ping" }), "", 0),
            (
                json!({ "type": "content_block_start", "index": 0, "content_block": {
                    "type": "tool_use", "id": "i", "name": "call", "input": {} } }),
                "call",
                0,
            ),
            (
                json!({ "type": "content_block_start", "index": 0, "content_block": {
                    "type": "tool_use", "id": "i", "input": { "a": 1 }, "name": "call" } }),
                "{\"a\":1}call",
                0,
            ),
            (
                json!({ "type": "content_block_start", "index": 0, "content_block": {
                    "type": "redacted_thinking", "data": long } }),
                "",
                3,
            ),
            (
                json!({ "type": "content_block_delta", "delta": {
                    "type": "thinking_delta", "thinking": "hm" } }),
                "hm",
                0,
            ),
            (
                json!({ "type": "content_block_delta", "delta": {
                    "type": "signature_delta", "signature": "hm" } }),
                "",
                0,
            ),
            (
                json!({ "type": "content_block_delta", "delta": { "type": "citations_delta",
                    "citation": { "cited_text": "hm" } } }),
                "",
                0,
            ),
            // What is not known is counted.
            (json!({ "type": "news", "note": "text" }), "text", 0),
            (json!({ "choices": [{ "delta": { "content": "text" } }] }), "text", 0),
        ] {
            let content = transcript().read(frame(&event)).content;
            let name = event.to_string();
            let mut letters: Vec<char> = content.text.chars().collect();
            let mut expected: Vec<char> = text.chars().collect();
            letters.sort_unstable();
            expected.sort_unstable();
            assert_eq!((letters, content.data_tokens), (expected, data_tokens), "{name}");
        }
        let text = transcript().read("data: no JSON\n\n".into()).content.text;
        assert_eq!(text, "no JSON");
    }

    #[test]
    fn a_stream_ends_with_its_bill_and_its_own_end() {
        let (cost, balance) = ("0.00205".parse().unwrap(), "1".parse().unwrap());
        let left = LimitsLeft::default();
        let bill = ClosingBill { cost, balance, left, prompt: 3, completion: 2 };
        let mut open = transcript();
        let block = json!({ "type": "content_block_start", "index": 4, "content_block": {} });
        open.read(frame(&block));
        let declined = |reason| Close::Declined { reason, message: "m" };
        let broken = |code| Close::Broken { code, message: "m" };
        for (close, last) in [
            (Close::Completed, "data: {\"type\":\"message_stop\"}"),
            (Close::Failed, ": polysystems {"),
            (declined("token_limit"), "data: {\"type\":\"message_stop\"}"),
            (declined("insufficient_credits"), "\"type\":\"billing_error\""),
            (declined("spending_limit"), "\"type\":\"billing_error\""),
            (declined("key_inactive"), "\"type\":\"authentication_error\""),
            (declined("account_suspended"), "\"type\":\"permission_error\""),
            (broken("upstream_timeout"), "\"type\":\"timeout_error\""),
            (broken("server_stopped"), "\"type\":\"api_error\""),
        ] {
            let end = open.close(close, Some(&bill));
            let end = String::from_utf8(end.to_vec()).unwrap();
            assert!(end.starts_with(": polysystems {\"cost\":0.00205,"), "{end}");
            let frames: Vec<&str> = end.trim_end().split("\n\n").collect();
            assert!(frames.last().unwrap().contains(last), "{end}");
        }
        assert!(!open.is_whole());
        assert!(open.read(frame(&json!({ "type": "message_stop" }))).is_end && open.is_whole());
    }
}
