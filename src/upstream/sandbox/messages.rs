//! `/v1/messages`, with thinking and calls of tools, and the count of its tokens.

use actix_web::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tiktoken_rs::CoreBPE;

use super::body::{BadBody, last_message, model, token_limit};
use super::events::paced;
use super::fault::{ABSURD_TOKENS, Fault};
use super::text::GeneratedText;
use super::writing::whole;
use crate::tokens::count;
use crate::upstream::Dialect;
use crate::upstream::answer::Answer;
use domain::Reported;

/// What the sandbox thinks before it answers.
const THOUGHT: &str = "The message is to be repeated, after a sentence that says who repeats it.";
/// Its signature.
const SIGNATURE: &str = "c2lnbmVkIGJ5IHRoZSBzYW5kYm94";

/// A block of an answer.
enum Block {
    /// A thought, and the part of it that is shown.
    Thinking(&'static str),
    Text(GeneratedText),
    /// A call of a tool, with its arguments as JSON.
    Call {
        id: String,
        name: String,
        input: Value,
    },
}

impl Block {
    /// The block before anything of it has come.
    fn start(&self) -> Value {
        match self {
            Block::Thinking(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Block::Text(_) => json!({ "type": "text", "text": "" }),
            Block::Call { id, name, .. } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": {} })
            }
        }
    }

    /// The whole block.
    fn whole(&self) -> Value {
        match self {
            Block::Thinking(shown) => {
                json!({ "type": "thinking", "thinking": shown, "signature": SIGNATURE })
            }
            Block::Text(reply) => json!({ "type": "text", "text": reply.text }),
            Block::Call { id, name, input } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        }
    }

    /// The deltas that make it.
    fn deltas(self) -> Box<dyn Iterator<Item = Value> + Send> {
        match self {
            Block::Thinking(shown) => {
                let text = json!({ "type": "thinking_delta", "thinking": shown });
                let signature = json!({ "type": "signature_delta", "signature": SIGNATURE });
                let text = (!shown.is_empty()).then_some(text);
                Box::new(text.into_iter().chain([signature]))
            }
            Block::Text(reply) => Box::new(
                reply
                    .pieces
                    .into_iter()
                    .map(|piece| json!({ "type": "text_delta", "text": piece })),
            ),
            Block::Call { input, .. } => {
                let delta =
                    json!({ "type": "input_json_delta", "partial_json": input.to_string() });
                Box::new(std::iter::once(delta))
            }
        }
    }
}

/// A generated message.
pub(super) struct Message {
    id: String,
    model: String,
    prompt_tokens: u64,
    completion_tokens: u64,
    blocks: Vec<Block>,
    stop_reason: &'static str,
    fault: Option<Fault>,
}

/// The tool that the sandbox calls, and the schema of its arguments: the one that must be used, or
/// the first, unless the last message has the result of a call.
fn tool(body: &Map<String, Value>) -> Option<(&str, &Value)> {
    let tools = body.get("tools")?.as_array()?;
    let choice = |name: &str| body.get("tool_choice").and_then(|choice| choice.get(name)?.as_str());
    let has_result = || {
        let last = body.get("messages").and_then(Value::as_array).and_then(|all| all.last());
        let blocks = last.and_then(|last| last.get("content")).and_then(Value::as_array);
        let kinds = blocks.into_iter().flatten().filter_map(|block| block.get("type"));
        kinds.into_iter().any(|kind| kind == "tool_result")
    };
    let named = match choice("type") {
        Some("none") => return None,
        Some("tool") => choice("name"),
        Some("any") => None,
        _ if has_result() => return None,
        _ => None,
    };
    let mut own = tools
        .iter()
        .filter_map(|tool| Some((tool.get("name")?.as_str()?, tool.get("input_schema")?)));
    own.find(|(name, _)| named.is_none_or(|named| named == *name))
}

/// Arguments that fit a schema, as far as the sandbox reads it.
pub(super) fn argument(schema: &Value, prompt: &str) -> Value {
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|all| all.first()) {
        return first.clone();
    }
    // Google writes types in uppercase.
    let kind = schema.get("type").and_then(Value::as_str).map(str::to_ascii_lowercase);
    match kind.as_deref() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => {
            let names = schema.get("required").and_then(Value::as_array);
            let names = names.into_iter().flatten().filter_map(Value::as_str);
            let fields = names.map(|name| {
                let of = schema.get("properties").and_then(|all| all.get(name));
                (name.to_owned(), of.map_or(Value::Null, |schema| argument(schema, prompt)))
            });
            Value::Object(fields.collect())
        }
        _ => json!(prompt.chars().take(40).collect::<String>()),
    }
}

impl Message {
    pub(super) fn new(
        body: &Map<String, Value>,
        (id, prompt_tokens): (&str, u64),
        bpe: &CoreBPE,
        fault: Option<Fault>,
        is_stream: bool,
    ) -> Result<Self, BadBody> {
        let prompt = last_message(body)?;
        let mut limit = token_limit(body);
        let mut blocks = Vec::new();
        let mut tokens = 0_u64;
        let thinking = body.get("thinking");
        let of_thinking = |name: &str| thinking.and_then(|thinking| thinking.get(name)?.as_str());
        if matches!(of_thinking("type"), Some("enabled" | "adaptive")) {
            tokens = count(bpe, THOUGHT);
            limit = limit.saturating_sub(usize::try_from(tokens).unwrap_or(usize::MAX));
            let is_shown = of_thinking("display") != Some("omitted");
            blocks.push(Block::Thinking(if is_shown { THOUGHT } else { "" }));
        }
        let stop_reason = if let Some((name, schema)) = tool(body).filter(|_| fault.is_none()) {
            let input = argument(schema, &prompt);
            let written = count(bpe, name).saturating_add(count(bpe, &input.to_string()));
            tokens = tokens.saturating_add(written);
            let id = format!("toolu_{id}");
            blocks.push(Block::Call { id, name: name.to_owned(), input });
            "tool_use"
        } else {
            let reply = GeneratedText::new(&prompt, bpe, limit, fault, is_stream);
            tokens = tokens.saturating_add(u64::try_from(reply.count).unwrap_or(u64::MAX));
            let reason = if reply.finish_reason == "length" { "max_tokens" } else { "end_turn" };
            blocks.push(Block::Text(reply));
            reason
        };
        Ok(Message {
            id: format!("msg_{id}"),
            model: model(body).to_owned(),
            prompt_tokens,
            completion_tokens: tokens,
            blocks,
            stop_reason,
            fault,
        })
    }

    /// The usage; `completion` is null at the beginning of a stream.
    fn usage(&self, completion: u64) -> Option<Value> {
        let (input, output) = match self.fault {
            Some(Fault::NoUsage) => return None,
            Some(Fault::AbsurdUsage) => (json!(ABSURD_TOKENS), json!(ABSURD_TOKENS)),
            Some(Fault::NegativeUsage) => (json!(-1), json!(-1)),
            _ => (json!(self.prompt_tokens), json!(completion)),
        };
        Some(json!({
            "input_tokens": input,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output,
        }))
    }

    fn object(&self, content: &[Value], stop_reason: Option<&str>, completion: u64) -> Value {
        let mut message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "simulated": true,
        });
        if let (Some(usage), Value::Object(fields)) = (self.usage(completion), &mut message) {
            fields.insert("usage".to_owned(), usage);
        }
        message
    }

    /// The complete answer.
    pub(super) fn answer(&self) -> Answer {
        let content: Vec<Value> = self.blocks.iter().map(Block::whole).collect();
        let message = self.object(&content, Some(self.stop_reason), self.completion_tokens);
        let reported = Dialect::Messages.usage_of_answer(message.to_string().as_bytes());
        whole(StatusCode::OK, &message, reported)
    }

    /// The answer as events, each made when the client is ready for it.
    pub(super) fn streamed(self) -> Answer {
        let first = event(
            "message_start",
            json!({
                "message": self.object(&[], None, 1),
            }),
        );
        let mut last = json!({
            "delta": { "stop_reason": self.stop_reason, "stop_sequence": null },
        });
        if let (Some(usage), Value::Object(fields)) =
            (self.usage(self.completion_tokens), &mut last)
        {
            fields.insert("usage".to_owned(), usage);
        }
        let last = [event("message_delta", last), event("message_stop", json!({}))];
        let of_block = |block: &Block| match block {
            Block::Text(reply) => reply.pieces.len().saturating_add(2),
            Block::Thinking(_) | Block::Call { .. } => 4,
        };
        let total = self.blocks.iter().map(of_block).fold(3, usize::saturating_add);
        let fault = self.fault;
        let blocks = (0_usize..).zip(self.blocks).flat_map(|(index, block)| {
            let start = json!({ "index": index, "content_block": block.start() });
            let deltas = block.deltas().map(move |delta| {
                event("content_block_delta", json!({ "index": index, "delta": delta }))
            });
            std::iter::once(event("content_block_start", start))
                .chain(deltas)
                .chain([event("content_block_stop", json!({ "index": index }))])
        });
        paced(std::iter::once(first).chain(blocks).chain(last), total, fault)
    }
}

/// An event of this type with these fields.
fn event(kind: &str, mut fields: Value) -> Bytes {
    if let Value::Object(fields) = &mut fields {
        fields.insert("type".to_owned(), kind.into());
    }
    Bytes::from(format!("event: {kind}\ndata: {fields}\n\n"))
}

/// The answer to a count of tokens.
pub(super) fn counted(tokens: u64) -> Answer {
    whole(StatusCode::OK, &json!({ "input_tokens": tokens }), Reported::Missing)
}
