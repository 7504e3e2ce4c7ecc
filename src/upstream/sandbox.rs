//! The built-in upstream: answers by itself, the same to the same question, with token counts of the real
//! tokenizer. With it the server runs alone, and test keys cost nobody anything.
//!
//! Shapes: OpenAI's on `/v1/*`. On the other generating routes an object with `id`, `object`, `created`,
//! `model`, the text (`message` for a chat, else `text`), `usage` and `"simulated": true`. On every other
//! priced route an object that says it is simulated.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tiktoken_rs::CoreBPE;

use super::{Answer, Failure, TokenUsage};
use crate::domain::Timestamp;
use crate::pipeline::Arrival;

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
/// The part of a question that an answer repeats.
const ECHO_CHARS_MAX: usize = 400;
/// What the chat frame adds to each message, and to the whole (OpenAI cookbook, counting tokens).
const TOKENS_PER_MESSAGE: usize = 3;
const TOKENS_PER_REPLY: usize = 3;

/// Loads the default vocabulary, which takes a while the first time.
pub fn warm_up() {
    tiktoken_rs::o200k_base_singleton().count_ordinary("warm");
}

/// Answers a call.
pub(super) async fn answer(arrival: &Arrival, now: Timestamp) -> Result<Answer, Failure> {
    let question = Question {
        method: arrival.method.as_str().to_owned(),
        path: arrival.path.clone(),
        body: arrival.body.clone(),
        id: arrival.id.0.simple().to_string(),
        created: now.seconds(),
    };
    // Vectors are work whatever the size of the body.
    if question.body.len() <= INLINE_BYTES_MAX && question.path != "/v1/embeddings" {
        return Ok(question.answer());
    }
    tokio::task::spawn_blocking(move || question.answer())
        .await
        .map_err(|_| Failure::Broken("the sandbox failed"))
}

struct Question {
    method: String,
    path: String,
    body: Bytes,
    id: String,
    created: i64,
}

/// A sentence that says what is wrong with the body.
struct BadQuestion(&'static str);

impl Question {
    fn answer(&self) -> Answer {
        match self.route() {
            Ok((body, usage)) => shaped(StatusCode::OK, &body, usage),
            Err(BadQuestion(message)) => {
                let body = json!({ "error": "Validation Error", "message": message });
                shaped(StatusCode::BAD_REQUEST, &body, TokenUsage::default())
            }
        }
    }

    fn route(&self) -> Result<(Value, TokenUsage), BadQuestion> {
        match (self.method.as_str(), self.path.as_str()) {
            (_, "/api/hub/health") => {
                Ok((json!({ "status": "healthy", "simulated": true }), TokenUsage::default()))
            }
            ("POST", "/v1/chat/completions") => self.chat_completion(),
            ("POST", "/v1/completions") => self.completion(),
            ("POST", "/v1/embeddings") => self.embeddings(),
            (_, "/v1/models") => Ok((models(), TokenUsage::default())),
            ("POST", "/api/hub/agents/chat") => self.agent_chat(),
            (
                "POST",
                "/api/hub/agents/generate" | "/api/omm/generate" | "/api/yggdrasil/process",
            ) => self.generation(),
            _ => Ok((self.simulated(), TokenUsage::default())),
        }
    }

    fn body(&self) -> Result<Value, BadQuestion> {
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(body)) => Ok(Value::Object(body)),
            _ => Err(BadQuestion("The body must be a JSON object")),
        }
    }

    fn chat_completion(&self) -> Result<(Value, TokenUsage), BadQuestion> {
        let body = self.body()?;
        let chat = Chat::read(&body)?;
        let choices = choices(&body);
        let reply = chat.reply(&body);
        let list: Vec<Value> = (0..choices)
            .map(|index| {
                json!({
                    "index": index,
                    "message": { "role": "assistant", "content": reply.text, "refusal": null },
                    "logprobs": null,
                    "finish_reason": reply.finish_reason,
                })
            })
            .collect();
        let usage = usage(chat.prompt_tokens, reply.tokens.saturating_mul(choices));
        let answer = json!({
            "id": format!("chatcmpl-{}", self.id),
            "object": "chat.completion",
            "created": self.created,
            "model": model(&body),
            "choices": list,
            "usage": usage_object(usage),
            "simulated": true,
        });
        Ok((answer, usage))
    }

    fn completion(&self) -> Result<(Value, TokenUsage), BadQuestion> {
        let body = self.body()?;
        let prompt = texts(body.get("prompt").unwrap_or(&Value::Null)).join("\n");
        let bpe = vocabulary(&body);
        let reply = Reply::to(&prompt, bpe, token_limit(&body));
        let choices = choices(&body);
        let list: Vec<Value> = (0..choices)
            .map(|index| {
                json!({
                    "index": index,
                    "text": reply.text,
                    "logprobs": null,
                    "finish_reason": reply.finish_reason,
                })
            })
            .collect();
        let usage = usage(bpe.count_ordinary(&prompt), reply.tokens.saturating_mul(choices));
        let answer = json!({
            "id": format!("cmpl-{}", self.id),
            "object": "text_completion",
            "created": self.created,
            "model": model(&body),
            "choices": list,
            "usage": usage_object(usage),
            "simulated": true,
        });
        Ok((answer, usage))
    }

    fn embeddings(&self) -> Result<(Value, TokenUsage), BadQuestion> {
        let body = self.body()?;
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
        let bpe = vocabulary(&body);
        let tokens = inputs.iter().map(|text| bpe.count_ordinary(text)).sum();
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
            "model": model(&body),
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
            "simulated": true,
        });
        Ok((answer, usage(tokens, 0)))
    }

    fn agent_chat(&self) -> Result<(Value, TokenUsage), BadQuestion> {
        let body = self.body()?;
        let chat = Chat::read(&body)?;
        let reply = chat.reply(&body);
        let usage = usage(chat.prompt_tokens, reply.tokens);
        let answer = json!({
            "id": format!("chat-{}", self.id),
            "object": "agent.chat",
            "created": self.created,
            "model": model(&body),
            "message": { "role": "assistant", "content": reply.text },
            "finish_reason": reply.finish_reason,
            "usage": usage_object(usage),
            "simulated": true,
        });
        Ok((answer, usage))
    }

    /// `prompt`, `input` or `messages`, whichever is there, in this order.
    fn generation(&self) -> Result<(Value, TokenUsage), BadQuestion> {
        let body = self.body()?;
        let prompt = ["prompt", "input", "text"]
            .iter()
            .find_map(|name| body.get(name))
            .map(|value| texts(value).join("\n"));
        let bpe = vocabulary(&body);
        let (reply, prompt_tokens) = if let Some(prompt) = prompt {
            (Reply::to(&prompt, bpe, token_limit(&body)), bpe.count_ordinary(&prompt))
        } else {
            let chat = Chat::read(&body).map_err(|_| {
                BadQuestion("prompt: must be a text; input, text and messages are taken as well")
            })?;
            (chat.reply(&body), chat.prompt_tokens)
        };
        let usage = usage(prompt_tokens, reply.tokens);
        let answer = json!({
            "id": format!("gen-{}", self.id),
            "object": "generation",
            "created": self.created,
            "model": model(&body),
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "usage": usage_object(usage),
            "simulated": true,
        });
        Ok((answer, usage))
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

fn models() -> Value {
    let list: Vec<Value> = MODELS
        .iter()
        .map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": "polysystems" }))
        .collect();
    json!({ "object": "list", "data": list })
}

fn shaped(status: StatusCode, body: &Value, usage: TokenUsage) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Answer { status, headers, body: body.to_string().into(), usage }
}

fn model(body: &Value) -> &str {
    body.get("model").and_then(Value::as_str).unwrap_or(MODELS[0])
}

fn vocabulary(body: &Value) -> &'static CoreBPE {
    let known = tiktoken_rs::tokenizer::get_tokenizer(model(body));
    known
        .and_then(|tokenizer| tiktoken_rs::bpe_for_tokenizer(tokenizer).ok())
        .unwrap_or_else(|| tiktoken_rs::o200k_base_singleton())
}

fn token_limit(body: &Value) -> usize {
    ["max_completion_tokens", "max_tokens"]
        .iter()
        .find_map(|name| body.get(name).and_then(Value::as_u64))
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

fn choices(body: &Value) -> usize {
    let asked = body.get("n").and_then(Value::as_u64).unwrap_or(1);
    usize::try_from(asked).unwrap_or(CHOICES_MAX).clamp(1, CHOICES_MAX)
}

/// A text, or the texts of a list; the parts of a multi-part content count with their `text`.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part {
                Value::String(text) => text.clone(),
                Value::Object(part) => {
                    part.get("text").and_then(Value::as_str).unwrap_or_default().to_owned()
                }
                other => other.to_string(),
            })
            .collect(),
        Value::Null => Vec::new(),
        other => vec![other.to_string()],
    }
}

struct Chat {
    last: String,
    prompt_tokens: usize,
}

impl Chat {
    fn read(body: &Value) -> Result<Self, BadQuestion> {
        let messages =
            body.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
        let messages =
            messages.ok_or(BadQuestion("messages: must be a list of at least one message"))?;
        let bpe = vocabulary(body);
        let mut chat = Chat { last: String::new(), prompt_tokens: TOKENS_PER_REPLY };
        for message in messages {
            let content = texts(message.get("content").unwrap_or(&Value::Null)).join("\n");
            let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
            let tokens = bpe.count_ordinary(role).saturating_add(bpe.count_ordinary(&content));
            chat.prompt_tokens =
                chat.prompt_tokens.saturating_add(tokens).saturating_add(TOKENS_PER_MESSAGE);
            chat.last = content;
        }
        Ok(chat)
    }

    fn reply(&self, body: &Value) -> Reply {
        Reply::to(&self.last, vocabulary(body), token_limit(body))
    }
}

struct Reply {
    text: String,
    tokens: usize,
    finish_reason: &'static str,
}

impl Reply {
    fn to(prompt: &str, bpe: &CoreBPE, limit: usize) -> Self {
        let echo: String = prompt.chars().take(ECHO_CHARS_MAX).collect();
        let text =
            format!("This is a simulated answer of the Polysystems sandbox. You wrote: {echo}");
        let tokens = bpe.encode_ordinary(&text);
        match tokens.get(..limit) {
            Some(kept) if kept.len() < tokens.len() => {
                let bytes = bpe.decode_bytes(kept).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Reply { text, tokens: kept.len(), finish_reason: "length" }
            }
            _ => Reply { text, tokens: tokens.len(), finish_reason: "stop" },
        }
    }
}

fn usage(prompt: usize, completion: usize) -> TokenUsage {
    let count = |tokens| u64::try_from(tokens).unwrap_or(u64::MAX);
    TokenUsage::new(count(prompt), count(completion))
}

fn usage_object(usage: TokenUsage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total(),
    })
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
    use super::*;

    fn ask(path: &str, body: &Value) -> (StatusCode, Value, TokenUsage) {
        let question = Question {
            method: "POST".into(),
            path: path.into(),
            body: body.to_string().into(),
            id: "0".into(),
            created: 0,
        };
        let answer = question.answer();
        (answer.status, serde_json::from_slice(&answer.body).unwrap(), answer.usage)
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
        assert_eq!(TokenUsage::of_answer(answer.to_string().as_bytes()).total(), usage.total());
        assert_eq!(
            ask("/v1/chat/completions", &body).1,
            answer,
            "the same question, the same answer"
        );
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
