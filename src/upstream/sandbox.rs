//! The built-in upstream: answers by itself, the same to the same question, with token counts of the real
//! tokenizer. With it the server runs alone, and test keys cost nobody anything.
//!
//! Shapes: OpenAI's on `/v1/*`. On the other generating routes an object with `id`, `object`, `created`,
//! `model`, the text (`message` for a chat, else `text`), `usage` and `"simulated": true`. On every other
//! priced route an object that says it is simulated. Generating routes also stream, a token an event.
//!
//! Some models misbehave on purpose; see [`Fault`].

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tiktoken_rs::{CoreBPE, Rank};

use super::{Answer, AnswerBody, Call, Dialect, Failure, Reported, TokenUsage};
use crate::tokens::{self, PromptTokens};
use domain::Timestamp;

/// What `X-Polysystems-Upstream` says of it.
pub const NAME: &str = "sandbox";
/// The models it says it has.
pub const MODELS: [&str; 2] = ["polysystems-sandbox", "polysystems-sandbox-embedding"];
/// Above this a body is worked on beside the HTTP thread, which has others to serve.
const INLINE_BYTES_MAX: usize = 4 * 1024;
/// Choices of one completion.
const CHOICES_MAX: usize = 16;
/// Texts of one embedding.
const INPUTS_MAX: usize = 256;
const DIMENSIONS_DEFAULT: usize = 1_536;
const DIMENSIONS_MAX: usize = 3_072;
/// How an answer begins; the question comes after it.
const OPENING: &str = "This is a simulated answer of the Polysystems sandbox. You wrote:";
/// The part of a question that an answer repeats.
const ECHO_CHARS_MAX: usize = 400;
/// The longest answer of the model that writes as much as it may.
const LONG_TOKENS_MAX: usize = 65_536;
/// How long the slow model takes for a whole answer, and between two events of a stream.
const SLOW_ANSWER: Duration = Duration::from_secs(2);
const SLOW_EVENT: Duration = Duration::from_millis(250);
/// How long the model that times out takes for it.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What the model with absurd usage says it took.
const ABSURD_TOKENS: i64 = 1_000_000_000;

/// What goes wrong on purpose, ordered by the model's name, so that customers can test what they do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `sandbox-error`: the upstream fails; 502.
    Error,
    /// `sandbox-timeout`: the upstream takes too long; 504, after a second.
    Timeout,
    /// `sandbox-slow`: an answer after two seconds, an event of a stream each quarter of a second.
    Slow,
    /// `sandbox-cut`: a stream breaks off half-way; a whole answer fails with 502.
    Cut,
    /// `sandbox-absurd-usage`: the upstream says it took a billion tokens.
    AbsurdUsage,
    /// `sandbox-negative-usage`: the upstream says it took less than nothing.
    NegativeUsage,
    /// `sandbox-no-usage`: the upstream does not say what it took.
    NoUsage,
    /// `sandbox-long`: not wrong, but as many tokens as the limit allows.
    Long,
}

impl Fault {
    /// Of a model.
    #[must_use]
    pub fn of(model: &str) -> Option<Self> {
        Some(match model {
            "sandbox-error" => Fault::Error,
            "sandbox-timeout" => Fault::Timeout,
            "sandbox-slow" => Fault::Slow,
            "sandbox-cut" => Fault::Cut,
            "sandbox-absurd-usage" => Fault::AbsurdUsage,
            "sandbox-negative-usage" => Fault::NegativeUsage,
            "sandbox-no-usage" => Fault::NoUsage,
            "sandbox-long" => Fault::Long,
            _ => return None,
        })
    }
}

/// Answers a call.
pub(super) async fn answer(call: &Call<'_>, now: Timestamp) -> Result<Answer, Failure> {
    let question = Question {
        method: call.method.as_str().to_owned(),
        path: call.path.to_owned(),
        dialect: call.dialect,
        is_stream: call.is_stream,
        body: call.body.clone(),
        prompt_tokens: call.prompt_tokens,
        id: call.id.0.simple().to_string(),
        created: now.seconds(),
    };
    // Vectors are work whatever the size of the body.
    let is_small = question.body.len() <= INLINE_BYTES_MAX && call.dialect != Dialect::Embeddings;
    let (answer, fault) = if is_small {
        question.answer()
    } else {
        tokio::task::spawn_blocking(move || question.answer())
            .await
            .map_err(|_| Failure::Broken("the sandbox failed"))?
    };
    match fault {
        Some(fault) => Box::pin(misbehave(answer, fault)).await,
        None => Ok(answer),
    }
}

/// Does what the model's name orders.
async fn misbehave(answer: Answer, fault: Fault) -> Result<Answer, Failure> {
    let is_stream = matches!(answer.body, AnswerBody::Stream(_));
    match fault {
        Fault::Error => Err(Failure::Broken("the sandbox was told to fail")),
        Fault::Timeout => {
            tokio::time::sleep(TIMEOUT).await;
            Err(Failure::TimedOut)
        }
        Fault::Cut if !is_stream => Err(Failure::Broken("the sandbox was told to break off")),
        Fault::Slow if !is_stream => {
            tokio::time::sleep(SLOW_ANSWER).await;
            Ok(answer)
        }
        _ => Ok(answer),
    }
}

struct Question {
    method: String,
    path: String,
    dialect: Dialect,
    is_stream: bool,
    body: Bytes,
    /// Of the prompt, where they are counted already.
    prompt_tokens: Option<u64>,
    id: String,
    created: i64,
}

/// A sentence that says what is wrong with the body.
struct BadQuestion(&'static str);

impl Question {
    fn answer(&self) -> (Answer, Option<Fault>) {
        let body = match serde_json::from_slice(&self.body) {
            Ok(Value::Object(body)) => Some(body),
            _ => None,
        };
        let fault = body.as_ref().and_then(|body| Fault::of(model(body)));
        let answer = match self.route(body.as_ref(), fault) {
            Ok(answer) => answer,
            Err(BadQuestion(message)) => {
                let body = json!({ "error": "Validation Error", "message": message });
                whole(StatusCode::BAD_REQUEST, &body, Reported::Missing)
            }
        };
        (answer, fault)
    }

    fn route(
        &self,
        body: Option<&Map<String, Value>>,
        fault: Option<Fault>,
    ) -> Result<Answer, BadQuestion> {
        let is_post = self.method == "POST";
        let generates = matches!(
            self.path.as_str(),
            "/v1/chat/completions"
                | "/v1/completions"
                | "/v1/responses"
                | "/api/hub/agents/chat"
                | "/api/hub/agents/generate"
                | "/api/omm/generate"
                | "/api/yggdrasil/process"
        );
        let nothing = |body: &Value| Ok(whole(StatusCode::OK, body, Reported::Missing));
        if is_post && (generates || self.dialect == Dialect::Embeddings) {
            let body = body.ok_or(BadQuestion("The body must be a JSON object"))?;
            if self.dialect == Dialect::Embeddings {
                return embeddings(body);
            }
            let writing = self.write(body, fault)?;
            return Ok(if self.is_stream { writing.streamed() } else { writing.answer() });
        }
        match self.path.as_str() {
            "/api/hub/health" => nothing(&json!({ "status": "healthy", "simulated": true })),
            "/v1/models" => nothing(&models()),
            _ => nothing(&self.simulated()),
        }
    }

    fn write(
        &self,
        body: &Map<String, Value>,
        fault: Option<Fault>,
    ) -> Result<Writing, BadQuestion> {
        let shape = match self.path.as_str() {
            "/v1/chat/completions" => Shape::Chat,
            "/v1/completions" => Shape::Completion,
            "/v1/responses" => Shape::Response,
            "/api/hub/agents/chat" => Shape::AgentChat,
            _ => Shape::Generation,
        };
        let question = match shape {
            Shape::Chat | Shape::AgentChat => last_message(body)?,
            _ => ["prompt", "input", "text"]
                .iter()
                .find_map(|name| body.get(*name))
                .map(|value| texts(value).join("\n"))
                .map_or_else(|| last_message(body), Ok)
                .map_err(|BadQuestion(_)| {
                    BadQuestion(
                        "prompt: must be a text; input, text and messages are taken as well",
                    )
                })?,
        };
        let bpe = tokens::vocabulary(Some(model(body)));
        let reply = Reply::to(&question, bpe, token_limit(body), fault, self.is_stream);
        Ok(Writing {
            shape,
            id: self.id.clone(),
            created: self.created,
            model: model(body).to_owned(),
            choices: if shape.has_choices() { choices(body) } else { 1 },
            prompt_tokens: self
                .prompt_tokens
                .unwrap_or_else(|| PromptTokens::of(body, bpe).counted),
            reply,
            fault,
        })
    }

    fn simulated(&self) -> Value {
        json!({
            "id": format!("sim-{}", self.id),
            "object": "simulated",
            "simulated": true,
            "method": self.method,
            "path": self.path,
            "message": "The sandbox has no such service; it only shows that the call was accepted and charged.",
        })
    }
}

/// How a written answer is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Chat,
    Completion,
    Response,
    AgentChat,
    Generation,
}

impl Shape {
    fn has_choices(self) -> bool {
        matches!(self, Shape::Chat | Shape::Completion)
    }
}

/// A whole answer of any shape but that of responses.
#[derive(Serialize)]
struct WholeAnswer<'w> {
    id: String,
    object: &'static str,
    created: i64,
    model: &'w str,
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<Vec<Choice<'w>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'w>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'w str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    simulated: bool,
}

/// One of its choices. `()` is null.
#[derive(Serialize)]
struct Choice<'w> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'w>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'w str>,
    logprobs: (),
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'w> {
    role: &'static str,
    content: &'w str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<()>,
}

/// A written answer.
struct Writing {
    shape: Shape,
    id: String,
    created: i64,
    model: String,
    choices: usize,
    prompt_tokens: u64,
    reply: Reply,
    fault: Option<Fault>,
}

impl Writing {
    fn usage(&self) -> TokenUsage {
        let choices = u64::try_from(self.choices).unwrap_or(1);
        let written = u64::try_from(self.reply.count).unwrap_or(u64::MAX);
        TokenUsage::new(self.prompt_tokens, written.saturating_mul(choices))
    }

    fn reported(&self) -> Reported {
        match self.fault {
            Some(Fault::NoUsage) => Reported::Missing,
            Some(Fault::AbsurdUsage | Fault::NegativeUsage) => {
                let usage = self.usage_object().unwrap_or_default();
                Reported::of(&usage.to_string())
            }
            _ => {
                let usage = self.usage();
                Reported::Given(TokenUsage { reported_total: usage.total(), ..usage })
            }
        }
    }

    fn usage_object(&self) -> Option<Value> {
        let usage = self.usage();
        let (prompt, completion) = match self.shape {
            Shape::Response => ("input_tokens", "output_tokens"),
            _ => ("prompt_tokens", "completion_tokens"),
        };
        match self.fault {
            Some(Fault::NoUsage) => None,
            Some(Fault::AbsurdUsage) => {
                Some(json!({ prompt: ABSURD_TOKENS, completion: ABSURD_TOKENS }))
            }
            Some(Fault::NegativeUsage) => Some(json!({ prompt: -1, completion: -1 })),
            _ => Some(json!({
                prompt: usage.prompt,
                completion: usage.completion,
                "total_tokens": usage.total(),
            })),
        }
    }

    /// The answer in one piece.
    fn answer(&self) -> Answer {
        let (status, reported) = (StatusCode::OK, self.reported());
        if self.shape == Shape::Response {
            let output = json!([self.output_item()]);
            return whole(
                status,
                &self.response("completed", &output, self.usage_object()),
                reported,
            );
        }
        let (text, finish_reason) = (self.reply.text.as_str(), self.reply.finish_reason);
        let (shape, has_choices) = (self.shape, self.shape.has_choices());
        let message = |refusal| Message { role: "assistant", content: text, refusal };
        let choice = |index| Choice {
            index,
            message: (shape == Shape::Chat).then(|| message(Some(()))),
            text: (shape == Shape::Completion).then_some(text),
            logprobs: (),
            finish_reason,
        };
        let answer = WholeAnswer {
            id: self.object_id(),
            object: match shape {
                Shape::Chat => "chat.completion",
                Shape::Completion => "text_completion",
                Shape::AgentChat => "agent.chat",
                _ => "generation",
            },
            created: self.created,
            model: &self.model,
            choices: has_choices.then(|| (0..self.choices).map(choice).collect()),
            message: (shape == Shape::AgentChat).then(|| message(None)),
            text: (shape == Shape::Generation).then_some(text),
            finish_reason: (!has_choices).then_some(finish_reason),
            usage: self.usage_object(),
            simulated: true,
        };
        whole(status, &answer, reported)
    }

    fn object_id(&self) -> String {
        let prefix = match self.shape {
            Shape::Chat => "chatcmpl",
            Shape::Completion => "cmpl",
            Shape::Response => "resp",
            Shape::AgentChat => "chat",
            Shape::Generation => "gen",
        };
        format!("{prefix}-{}", self.id)
    }

    fn add_head(&self, fields: &mut Map<String, Value>, object: &str) {
        fields.insert("id".into(), self.object_id().into());
        fields.insert("object".into(), object.into());
        let created = if self.shape == Shape::Response { "created_at" } else { "created" };
        fields.insert(created.into(), self.created.into());
        fields.insert("model".into(), self.model.as_str().into());
        fields.insert("simulated".into(), true.into());
    }

    fn output_item(&self) -> Value {
        json!({
            "id": self.item_id(),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [output_part(&self.reply.text)],
        })
    }

    /// The answer as events, a token each, made as they are asked for.
    fn streamed(self) -> Answer {
        let fault = self.fault;
        let last = self.last_events();
        let pieces = self.reply.pieces.len().saturating_mul(self.choices);
        let total = self.first_events().len().saturating_add(pieces).saturating_add(last.len());
        let is_cut = fault == Some(Fault::Cut);
        let kept = if is_cut { total / 2 } else { total };
        let broken = Failure::Broken("the sandbox was told to break off");
        let end = is_cut.then_some(Err(broken));
        let first = self.first_events();
        let choices = self.choices;
        let middle = (0..pieces).map(move |place| {
            let (piece, choice) = (place / choices.max(1), place.checked_rem(choices));
            self.piece_event(piece, choice.unwrap_or(0))
        });
        let events = first.into_iter().chain(middle).chain(last).take(kept).map(Ok).chain(end);
        let paced = futures_util::stream::iter(events).then(move |event| async move {
            if fault == Some(Fault::Slow) {
                tokio::time::sleep(SLOW_EVENT).await;
            }
            event
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        let (body, reported) = (AnswerBody::Stream(Box::pin(paced)), Reported::Missing);
        Answer { status: StatusCode::OK, headers, body, reported }
    }

    /// The events before the text.
    fn first_events(&self) -> Vec<Bytes> {
        match self.shape {
            Shape::Chat => (0..self.choices)
                .map(|index| {
                    let delta = json!({ "role": "assistant", "content": "" });
                    self.choice_chunk(
                        &json!({ "index": index, "delta": delta, "finish_reason": null }),
                    )
                })
                .collect(),
            Shape::Response => {
                let begun = self.response("in_progress", &json!([]), None);
                let item = json!({
                    "id": self.item_id(), "type": "message", "role": "assistant",
                    "status": "in_progress", "content": [],
                });
                let part = with(&self.item_place(), "part", output_part(""));
                vec![
                    response_event(0, "response.created", &json!({ "response": begun })),
                    response_event(1, "response.in_progress", &json!({ "response": begun })),
                    response_event(
                        2,
                        "response.output_item.added",
                        &json!({ "output_index": 0, "item": item }),
                    ),
                    response_event(3, "response.content_part.added", &part),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The event of a token, of one choice.
    fn piece_event(&self, piece: usize, choice: usize) -> Bytes {
        let text = self.reply.pieces.get(piece).map_or("", |text| text.as_ref());
        match self.shape {
            Shape::Chat => self.choice_chunk(&json!({
                "index": choice, "delta": { "content": text }, "finish_reason": null,
            })),
            Shape::Completion => self.choice_chunk(&json!({
                "index": choice, "text": text, "finish_reason": null,
            })),
            Shape::Response => {
                let delta =
                    with(&with(&self.item_place(), "delta", text.into()), "logprobs", json!([]));
                response_event(piece.saturating_add(4), "response.output_text.delta", &delta)
            }
            Shape::AgentChat => self.chunk(json!({ "delta": { "content": text } })),
            Shape::Generation => self.chunk(json!({ "text": text })),
        }
    }

    /// The events after the text.
    fn last_events(&self) -> Vec<Bytes> {
        if self.shape == Shape::Response {
            return self.last_response_events();
        }
        let finish_reason = self.reply.finish_reason;
        let mut events: Vec<Bytes> = match self.shape {
            Shape::Chat => (0..self.choices)
                .map(|index| {
                    self.choice_chunk(&json!({
                        "index": index, "delta": {}, "finish_reason": finish_reason,
                    }))
                })
                .collect(),
            Shape::Completion => (0..self.choices)
                .map(|index| {
                    self.choice_chunk(&json!({
                        "index": index, "text": "", "finish_reason": finish_reason,
                    }))
                })
                .collect(),
            _ => vec![self.chunk(json!({ "finish_reason": finish_reason }))],
        };
        if let Some(usage) = self.usage_object() {
            events.push(self.chunk(if self.shape.has_choices() {
                json!({ "choices": [], "usage": usage })
            } else {
                json!({ "usage": usage })
            }));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn choice_chunk(&self, choice: &Value) -> Bytes {
        self.chunk(json!({ "choices": [choice], "usage": null }))
    }

    fn chunk(&self, fields: Value) -> Bytes {
        let object = match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Completion => "text_completion",
            Shape::AgentChat => "agent.chat.chunk",
            _ => "generation.chunk",
        };
        let mut fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        self.add_head(&mut fields, object);
        Bytes::from(format!("data: {}\n\n", Value::Object(fields)))
    }

    fn item_id(&self) -> String {
        format!("msg-{}", self.id)
    }

    fn item_place(&self) -> Value {
        json!({ "item_id": self.item_id(), "output_index": 0, "content_index": 0 })
    }

    fn response(&self, status: &str, output: &Value, usage: Option<Value>) -> Value {
        let mut response = response_object(status, output);
        if let Value::Object(fields) = &mut response {
            self.add_head(fields, "response");
            fields.insert("usage".into(), usage.unwrap_or(Value::Null));
        }
        response
    }

    fn last_response_events(&self) -> Vec<Bytes> {
        let (at, text) = (self.item_place(), self.reply.text.as_str());
        let done = with(&with(&at, "text", text.into()), "logprobs", json!([]));
        let item = self.output_item();
        let completed = self.response("completed", &json!([item]), self.usage_object());
        let events = [
            ("response.output_text.done", done),
            ("response.content_part.done", with(&at, "part", output_part(text))),
            ("response.output_item.done", json!({ "output_index": 0, "item": item })),
            ("response.completed", json!({ "response": completed })),
        ];
        let first = self.reply.pieces.len().saturating_add(4);
        (first..)
            .zip(events)
            .map(|(number, (kind, fields))| response_event(number, kind, &fields))
            .collect()
    }
}

fn response_event(number: usize, kind: &str, fields: &Value) -> Bytes {
    let fields = with(&with(fields, "type", kind.into()), "sequence_number", number.into());
    Bytes::from(format!("event: {kind}\ndata: {fields}\n\n"))
}

fn output_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn response_object(status: &str, output: &Value) -> Value {
    json!({
        "status": status,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "metadata": {},
        "output": output,
        "parallel_tool_calls": true,
        "temperature": null,
        "tool_choice": "auto",
        "tools": [],
        "top_p": null,
    })
}

/// The object with one more field.
fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.insert(name.to_owned(), value);
    }
    object
}

fn embeddings(body: &Map<String, Value>) -> Result<Answer, BadQuestion> {
    let inputs = texts(body.get("input").unwrap_or(&Value::Null));
    if inputs.is_empty() {
        return Err(BadQuestion("input: must be a text or a list of texts"));
    }
    let dimensions = body
        .get("dimensions")
        .and_then(Value::as_u64)
        .and_then(|dimensions| usize::try_from(dimensions).ok())
        .unwrap_or(DIMENSIONS_DEFAULT)
        .clamp(1, DIMENSIONS_MAX);
    if inputs.len() > INPUTS_MAX {
        return Err(BadQuestion("input: the sandbox takes at most 256 texts at once"));
    }
    let as_base64 = body.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let tokens = PromptTokens::of(body, tokens::vocabulary(Some(model(body)))).counted;
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = embedding(text, dimensions);
            json!({ "object": "embedding", "index": index, "embedding": encoded(&vector, as_base64) })
        })
        .collect();
    let answer = json!({
        "object": "list",
        "data": data,
        "model": model(body),
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        "simulated": true,
    });
    Ok(whole(StatusCode::OK, &answer, Reported::Given(TokenUsage::new(tokens, 0))))
}

fn models() -> Value {
    let list: Vec<Value> = MODELS
        .iter()
        .map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": "polysystems" }))
        .collect();
    json!({ "object": "list", "data": list })
}

fn whole(status: StatusCode, body: &impl Serialize, reported: Reported) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Nothing here can fail to be written: no key is other than text, and memory takes it all.
    let body = serde_json::to_vec(body).unwrap_or_default();
    Answer { status, headers, body: AnswerBody::Whole(body.into()), reported }
}

fn model(body: &Map<String, Value>) -> &str {
    body.get("model").and_then(Value::as_str).unwrap_or(MODELS[0])
}

fn token_limit(body: &Map<String, Value>) -> usize {
    ["max_completion_tokens", "max_tokens", "max_output_tokens"]
        .iter()
        .find_map(|name| body.get(*name).and_then(Value::as_u64))
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

fn choices(body: &Map<String, Value>) -> usize {
    let asked = body.get("n").and_then(Value::as_u64).unwrap_or(1);
    usize::try_from(asked).unwrap_or(CHOICES_MAX).clamp(1, CHOICES_MAX)
}

/// A text, or the texts of a list; the parts of a multi-part content count with their `text`, messages with
/// their content.
fn texts(value: &Value) -> Vec<String> {
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

fn last_message(body: &Map<String, Value>) -> Result<String, BadQuestion> {
    let messages = body.get("messages").and_then(Value::as_array);
    let last = messages.and_then(|messages| messages.last());
    let last = last.ok_or(BadQuestion("messages: must be a list of at least one message"))?;
    Ok(texts(last.get("content").unwrap_or(&Value::Null)).join("\n"))
}

/// The tokens of [`OPENING`]. All vocabularies part before the space that comes after it, whatever comes then.
fn opening(bpe: &CoreBPE) -> Vec<Rank> {
    static OF_DEFAULT: LazyLock<Vec<Rank>> =
        LazyLock::new(|| tokens::vocabulary(None).encode_ordinary(OPENING));
    if std::ptr::eq(bpe, tokens::vocabulary(None)) {
        OF_DEFAULT.clone()
    } else {
        bpe.encode_ordinary(OPENING)
    }
}

struct Reply {
    text: String,
    /// How many tokens it has.
    count: usize,
    /// The text, a token each; of a stream only.
    pieces: Vec<Cow<'static, str>>,
    finish_reason: &'static str,
}

impl Reply {
    fn to(
        question: &str,
        bpe: &CoreBPE,
        limit: usize,
        fault: Option<Fault>,
        is_stream: bool,
    ) -> Self {
        if fault == Some(Fault::Long) {
            let pieces = vec![Cow::Borrowed(" word"); limit.min(LONG_TOKENS_MAX)];
            let (text, count) = (pieces.concat(), pieces.len());
            return Reply { text, count, pieces, finish_reason: "length" };
        }
        let echo: String = question.chars().take(ECHO_CHARS_MAX).collect();
        let rest = format!(" {echo}");
        let mut tokens = opening(bpe);
        tokens.extend(bpe.encode_ordinary(&rest));
        let kept = tokens.get(..limit).unwrap_or(&tokens);
        let (count, is_cut) = (kept.len(), kept.len() < tokens.len());
        let finish_reason = if is_cut { "length" } else { "stop" };
        if !is_stream {
            let text = if is_cut {
                let bytes = bpe.decode_bytes(kept).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            } else {
                [OPENING, &rest].concat()
            };
            return Reply { text, count, pieces: Vec::new(), finish_reason };
        }
        // A token may be a part of a character: what it completes goes with the last of its tokens.
        let mut pieces: Vec<Cow<'static, str>> = Vec::with_capacity(kept.len());
        let mut open: Vec<u8> = Vec::new();
        for token in kept {
            open.extend(bpe.decode_bytes(&[*token]).unwrap_or_default());
            let piece = match std::str::from_utf8(&open) {
                Ok(piece) => piece.to_owned(),
                Err(_) => String::new(),
            };
            if !piece.is_empty() {
                open.clear();
            }
            pieces.push(piece.into());
        }
        if let Some(last) = pieces.last_mut() {
            last.to_mut().push_str(&String::from_utf8_lossy(&open));
        }
        Reply { text: pieces.concat(), count, pieces, finish_reason }
    }
}

/// A unit vector that depends on the text alone: every coordinate has the same size, its sign is a bit of
/// a hash.
#[expect(clippy::float_arithmetic, reason = "an embedding is made of floats; no money is")]
fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let size = 1.0 / f32::from(u16::try_from(dimensions).unwrap_or(u16::MAX)).sqrt();
    (0_u32..)
        .flat_map(|block| {
            let digest =
                Sha256::new().chain_update(text).chain_update(block.to_le_bytes()).finalize();
            let bytes: [u8; 32] = digest.into();
            bytes.into_iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 0))
        })
        .take(dimensions)
        .map(|is_positive| if is_positive { size } else { -size })
        .collect()
}

fn encoded(vector: &[f32], as_base64: bool) -> Value {
    if as_base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
    } else {
        json!(vector)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(path: &str, body: &Value, is_stream: bool) -> Answer {
        let question = Question {
            method: "POST".into(),
            path: path.into(),
            dialect: Dialect::of(path),
            is_stream,
            body: body.to_string().into(),
            prompt_tokens: None,
            id: "0".into(),
            created: 0,
        };
        question.answer().0
    }

    fn ask(path: &str, body: &Value) -> (StatusCode, Value, TokenUsage) {
        let answer = question(path, body, false);
        let AnswerBody::Whole(body) = answer.body else { panic!("a stream") };
        let usage = match answer.reported {
            Reported::Given(usage) => usage,
            _ => TokenUsage::default(),
        };
        (answer.status, serde_json::from_slice(&body).unwrap(), usage)
    }

    #[test]
    fn a_stream_says_the_same_as_the_whole_answer() {
        for path in [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/api/hub/agents/chat",
            "/api/hub/agents/generate",
            "/api/omm/generate",
            "/api/yggdrasil/process",
        ] {
            let body = json!({
                "messages": [{ "role": "user", "content": "Grüße 👋🏽 an alle!" }],
                "prompt": "Grüße 👋🏽 an alle!",
            });
            let (_, whole, usage) = ask(path, &body);
            let AnswerBody::Stream(stream) = question(path, &body, true).body else {
                panic!("whole")
            };
            let frames: Vec<_> = futures_executor(stream);
            let asked = Dialect::of(path).ask(body.to_string().as_bytes()).unwrap();
            let mut transcript =
                super::super::dialect::Transcript::new(Dialect::of(path), &asked, String::new());
            let text: String =
                frames.into_iter().map(|frame| transcript.read(frame.unwrap()).text).collect();
            assert_eq!(text, Dialect::of(path).answer_text(whole.to_string().as_bytes()), "{path}");
            assert_eq!(transcript.reported(), Reported::Given(usage), "{path}");
        }
    }

    fn futures_executor<T>(stream: impl futures_util::Stream<Item = T>) -> Vec<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(stream.collect())
    }

    #[test]
    fn a_chat_is_answered_with_true_token_counts() {
        let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] });
        let (status, answer, usage) = ask("/v1/chat/completions", &body);
        assert_eq!(status, StatusCode::OK);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let bpe = tiktoken_rs::o200k_base_singleton();
        let counted = u64::try_from(bpe.encode_ordinary(text).len());
        assert_eq!(Ok(usage.completion), counted);
        // "user" is one token, "Hello!" two, the frame six.
        assert_eq!(usage.prompt, 9);
        assert_eq!(
            Reported::of_answer(answer.to_string().as_bytes()),
            Reported::Given({
                let mut given = usage;
                given.reported_total = usage.total();
                given
            })
        );
        assert_eq!(
            ask("/v1/chat/completions", &body).1,
            answer,
            "the same question, the same answer"
        );
    }

    proptest! {
        #[test]
        fn an_answer_counts_as_the_whole_text(question in any::<String>()) {
            for model in tokens::MODEL_OF_EACH_VOCABULARY {
                let bpe = tokens::vocabulary(Some(model));
                let reply = Reply::to(&question, bpe, usize::MAX, None, false);
                prop_assert_eq!(reply.count, bpe.encode_ordinary(&reply.text).len());
            }
        }
    }

    #[test]
    fn an_answer_keeps_to_the_limit() {
        for limit in [0, 1, 5] {
            let body = json!({ "prompt": "Write a lot", "max_tokens": limit, "n": 3 });
            let (_, answer, usage) = ask("/v1/completions", &body);
            assert_eq!(usage.completion, limit * 3);
            assert_eq!(answer["choices"][2]["finish_reason"], "length");
        }
    }

    #[test]
    fn an_embedding_is_a_unit_vector_in_either_encoding() {
        let ask = |format: &str| {
            let body = json!({ "input": ["a", "b"], "dimensions": 64, "encoding_format": format });
            ask("/v1/embeddings", &body).1["data"].clone()
        };
        let floats = ask("float");
        assert_eq!(floats[0]["embedding"].as_array().unwrap().len(), 64);
        assert_ne!(floats[0]["embedding"], floats[1]["embedding"]);
        let text = ask("base64")[0]["embedding"].as_str().unwrap().to_owned();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(json!(first), floats[0]["embedding"][0]);
    }

    #[test]
    fn a_question_that_makes_no_sense_is_told_so() {
        for (path, body) in [
            ("/v1/chat/completions", json!({})),
            ("/v1/chat/completions", json!({ "messages": [] })),
            ("/v1/chat/completions", json!({ "messages": "hello" })),
            ("/v1/embeddings", json!({})),
            ("/v1/embeddings", json!({ "input": vec!["a"; 257] })),
            ("/api/omm/generate", json!({})),
            ("/api/hub/agents/chat", json!([])),
        ] {
            let (status, answer, usage) = ask(path, &body);
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}");
            assert_eq!(answer["error"], "Validation Error");
            assert_eq!(usage, TokenUsage::default());
        }
    }
}
