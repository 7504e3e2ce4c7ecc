//! The built-in upstream. It gives the same answer to the same request, with token counts of the
//! real tokenizer. With it the server runs without another service, and test keys cost nothing.
//!
//! On `/v1/*` its answers have OpenAI's shapes, on `/v1/messages` Anthropic's, and on the methods
//! of models Google's. On the other
//! generating routes an answer is an object with `id`, `object`, `created`, `model`, the text
//! (`message` for a chat, else `text`), `usage` and `"simulated": true`. On every other priced
//! route it is an object that says it is simulated. Generating routes also stream, one token per
//! event.
//!
//! Some models misbehave on purpose; see [`Fault`].

use actix_web::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Failure, UpstreamCall};
use super::dialect::Dialect;
use super::dialect::gemini::model_of;
use crate::tokens::{self, PromptTokens};
use domain::{Reported, Timestamp};

mod body;
mod embeddings;
mod events;
mod fault;
mod gemini;
mod messages;
mod text;
mod writing;

use body::{BadBody, choices, last_message, model, texts, token_limit};
use embeddings::embeddings;
pub use fault::Fault;
use gemini::Generated;
use messages::{Message, counted};
use text::GeneratedText;
use writing::{Shape, Writing, whole};

/// Its name in `X-Polysystems-Upstream`.
pub const NAME: &str = "sandbox";
/// The names of its models.
pub const MODELS: [&str; 2] = ["polysystems-sandbox", "polysystems-sandbox-embedding"];

/// Answers a call.
pub(super) async fn answer(call: &UpstreamCall<'_>, now: Timestamp) -> Result<Answer, Failure> {
    let owned = SandboxCall {
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
    let is_embedding = matches!(call.dialect, Dialect::Embeddings | Dialect::GeminiEmbeddings);
    let bytes = if is_embedding { usize::MAX } else { call.body.len() };
    let answered = tokens::count_off_thread(bytes, move || owned.answer()).await;
    let (answer, fault) = answered.ok_or(Failure::Broken("the sandbox failed"))?;
    match fault {
        Some(fault) => Box::pin(fault.act_on(answer)).await,
        None => Ok(answer),
    }
}

/// A call, with all that a blocking thread needs to answer it.
struct SandboxCall {
    method: String,
    path: String,
    dialect: Dialect,
    is_stream: bool,
    body: Bytes,
    /// Tokens of the prompt, if they are counted already.
    prompt_tokens: Option<u64>,
    id: String,
    created: i64,
}

impl SandboxCall {
    fn answer(&self) -> (Answer, Option<Fault>) {
        let body = match serde_json::from_slice(&self.body) {
            Ok(Value::Object(body)) => Some(body),
            _ => None,
        };
        let of_body = || body.as_ref().map(model);
        let named = model_of(&self.path);
        let fault = named.as_deref().or_else(of_body).and_then(Fault::of);
        let answer = match self.route(body.as_ref(), fault) {
            Ok(answer) => answer,
            Err(BadBody(message)) => {
                whole(StatusCode::BAD_REQUEST, &self.refusal(message), Reported::Missing)
            }
        };
        (answer, fault)
    }

    /// The body of a refusal, in the words of the protocol.
    fn refusal(&self, message: &str) -> Value {
        let kind = "invalid_request_error";
        match self.dialect {
            Dialect::Native => json!({ "error": "Validation Error", "message": message }),
            Dialect::Messages | Dialect::MessageCount => {
                json!({ "type": "error", "error": { "type": kind, "message": message } })
            }
            dialect if dialect.is_gemini() => {
                json!({ "error": { "code": 400, "message": message, "status": "INVALID_ARGUMENT" } })
            }
            _ => json!({ "error": {
                "message": message, "type": kind, "param": null, "code": null,
            } }),
        }
    }

    fn route(
        &self,
        body: Option<&Map<String, Value>>,
        fault: Option<Fault>,
    ) -> Result<Answer, BadBody> {
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
        if is_post && self.dialect.is_anthropic() {
            return self.message(body.ok_or(BadBody("The body must be a JSON object"))?, fault);
        }
        if is_post && self.dialect.is_gemini() {
            return self.generate(body.ok_or(BadBody("The body must be a JSON object"))?, fault);
        }
        if is_post && (generates || self.dialect == Dialect::Embeddings) {
            let body = body.ok_or(BadBody("The body must be a JSON object"))?;
            if self.dialect == Dialect::Embeddings {
                return embeddings(body);
            }
            let writing = self.write(body, fault)?;
            return Ok(if self.is_stream { writing.streamed() } else { writing.answer() });
        }
        match self.path.as_str() {
            "/api/hub/health" => nothing(&json!({ "status": "healthy", "simulated": true })),
            "/v1/models" => nothing(&models()),
            "/v1beta/models" => nothing(&json!({ "models": MODELS.map(gemini::model) })),
            path => match path.strip_prefix("/v1beta/models/") {
                Some(name) if MODELS.contains(&name) => nothing(&gemini::model(name)),
                _ => nothing(&self.simulated()),
            },
        }
    }

    fn message(&self, body: &Map<String, Value>, fault: Option<Fault>) -> Result<Answer, BadBody> {
        let bpe = tokens::vocabulary(Some(model(body)));
        let count = || PromptTokens::of_messages(body, bpe).counted;
        let prompt_tokens = self.prompt_tokens.unwrap_or_else(count);
        if self.dialect == Dialect::MessageCount {
            last_message(body)?;
            return Ok(counted(prompt_tokens));
        }
        let named = (self.id.as_str(), prompt_tokens);
        let message = Message::new(body, named, bpe, fault, self.is_stream)?;
        Ok(if self.is_stream { message.streamed() } else { message.answer() })
    }

    fn generate(&self, body: &Map<String, Value>, fault: Option<Fault>) -> Result<Answer, BadBody> {
        let model = model_of(&self.path).unwrap_or_default();
        let prompt_tokens = self.prompt_tokens.unwrap_or_else(|| {
            let read = self.dialect.read_request_to(&self.path, &self.body, &[]);
            read.map_or(0, |request| request.prompt.counted)
        });
        match self.dialect {
            Dialect::GeminiCount => gemini::counted(body, prompt_tokens),
            Dialect::GeminiEmbeddings => {
                let is_batch = self.path.ends_with(":batchEmbedContents");
                gemini::embeddings(body, is_batch, prompt_tokens)
            }
            _ => {
                let (bpe, named) = (tokens::vocabulary(Some(&model)), (&*self.id, prompt_tokens));
                let made = Generated::new(body, &model, named, bpe, fault, self.is_stream)?;
                Ok(if self.is_stream { made.streamed() } else { made.answer() })
            }
        }
    }

    fn write(&self, body: &Map<String, Value>, fault: Option<Fault>) -> Result<Writing, BadBody> {
        let shape = match self.path.as_str() {
            "/v1/chat/completions" => Shape::Chat,
            "/v1/completions" => Shape::Completion,
            "/v1/responses" => Shape::Response,
            "/api/hub/agents/chat" => Shape::AgentChat,
            _ => Shape::Generation,
        };
        let prompt = match shape {
            Shape::Chat | Shape::AgentChat => last_message(body)?,
            _ => ["prompt", "input", "text"]
                .iter()
                .find_map(|name| body.get(*name))
                .map(|value| texts(value).join("\n"))
                .map_or_else(|| last_message(body), Ok)
                .map_err(|BadBody(_)| {
                    BadBody("prompt: must be a text; input, text and messages are accepted as well")
                })?,
        };
        let bpe = tokens::vocabulary(Some(model(body)));
        let reply = GeneratedText::new(&prompt, bpe, token_limit(body), fault, self.is_stream);
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

fn models() -> Value {
    let list: Vec<Value> = MODELS
        .iter()
        .map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": "polysystems" }))
        .collect();
    json!({ "object": "list", "data": list })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use futures_util::StreamExt as _;

    use domain::TokenUsage;

    use super::super::answer::{AnswerBody, usage_of_answer};
    use super::super::dialect::Transcript;
    use super::*;

    fn answer_to(path: &str, body: &Value, is_stream: bool) -> Answer {
        let call = SandboxCall {
            method: "POST".into(),
            path: path.into(),
            dialect: Dialect::of(path),
            is_stream,
            body: body.to_string().into(),
            prompt_tokens: None,
            id: "0".into(),
            created: 0,
        };
        call.answer().0
    }

    fn ask(path: &str, body: &Value) -> (StatusCode, Value, TokenUsage) {
        let answer = answer_to(path, body, false);
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
            "/v1/messages",
            "/api/hub/agents/chat",
            "/api/hub/agents/generate",
            "/api/omm/generate",
            "/api/yggdrasil/process",
        ] {
            let text = "Grüße 👋🏽 an alle!";
            let messages = json!([{ "role": "user", "content": text }]);
            let body = match path {
                "/v1/responses" => json!({ "max_output_tokens": 100, "input": text }),
                "/v1/messages" => json!({ "max_tokens": 100, "messages": messages }),
                _ => json!({ "max_tokens": 100, "messages": messages, "prompt": text }),
            };
            let (_, whole, usage) = ask(path, &body);
            let AnswerBody::Stream(stream) = answer_to(path, &body, true).body else {
                panic!("whole")
            };
            let frames: Vec<_> = futures_executor(stream);
            let asked = Dialect::of(path).read_request(body.to_string().as_bytes()).unwrap();
            let mut transcript = Transcript::new(Dialect::of(path), &asked, String::new());
            let text: String = frames
                .into_iter()
                .map(|frame| transcript.read(frame.unwrap()).content.text)
                .collect();
            assert_eq!(
                text,
                Dialect::of(path).answer_content(whole.to_string().as_bytes()).text,
                "{path}"
            );
            assert_eq!(transcript.reported(), Reported::Given(usage), "{path}");
        }
    }

    #[test]
    fn geminis_stream_says_the_same_as_its_whole_answer() {
        let function = json!({ "name": "f", "parameters": { "type": "OBJECT",
            "properties": { "a": { "type": "STRING" } }, "required": ["a"] } });
        for change in [
            json!({}),
            json!({ "generationConfig": { "thinkingConfig": { "includeThoughts": true } } }),
            json!({ "generationConfig": { "thinkingConfig": { "thinkingBudget": 0 } } }),
            json!({ "generationConfig": { "maxOutputTokens": 3, "candidateCount": 2 } }),
            json!({ "tools": [{ "functionDeclarations": [function] }] }),
            json!({ "generationConfig": { "responseModalities": ["TEXT", "IMAGE"] } }),
            json!({ "systemInstruction": { "parts": [{ "text": "word ".repeat(1_100) }] } }),
        ] {
            let mut body = json!({ "contents": [{ "role": "user", "parts": [
                { "inlineData": { "mimeType": "image/png", "data": "AA" } },
                { "text": "Grüße 👋🏽 an alle!" }] }] });
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let (path, streamed) =
                ("/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent");
            let (_, whole, usage) = ask(path, &body);
            let AnswerBody::Stream(stream) = answer_to(streamed, &body, true).body else {
                panic!("whole")
            };
            let dialect = Dialect::of(streamed);
            let asked = dialect.read_request(body.to_string().as_bytes()).unwrap();
            let mut transcript = Transcript::new(dialect, &asked, String::new());
            let mut content = super::super::dialect::Content::default();
            for frame in futures_executor(stream) {
                content.push(&transcript.read(frame.unwrap()).content);
            }
            let of_whole = dialect.answer_content(whole.to_string().as_bytes());
            // The words of two candidates come by turns.
            let sorted = |content: &super::super::dialect::Content| {
                let mut letters: Vec<char> = content.text.chars().collect();
                letters.sort_unstable();
                (letters, content.data_tokens)
            };
            assert_eq!(sorted(&content), sorted(&of_whole), "{change}");
            assert_eq!(transcript.reported(), Reported::Given(usage), "{change}");
            assert!(transcript.is_whole());
            // Each number of the report is told by the text itself.
            let told = &whole["usageMetadata"];
            let sum = ["promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"];
            let sum: u64 = sum.iter().filter_map(|name| told[*name].as_u64()).sum();
            assert_eq!(told["totalTokenCount"], sum);
        }
    }

    #[test]
    fn gemini_is_answered_as_asked() {
        let text = |text: &str| json!({ "role": "user", "parts": [{ "text": text }] });
        let path = "/v1beta/models/gemini-x:generateContent";
        let body = json!({ "contents": [text("Hello!")] });
        let (status, answer, usage) = ask(path, &body);
        assert_eq!((status, &answer["modelVersion"]), (StatusCode::OK, &json!("gemini-x")));
        assert_eq!((usage.prompt, &answer["usageMetadata"]["promptTokenCount"]), (9, &json!(9)));
        assert_eq!(answer["candidates"][0]["finishReason"], "STOP");
        let tools = json!([{ "function_declarations": [{ "name": "f" }] }]);
        let mut call = body.clone();
        call["tools"] = tools;
        let (_, answer, _) = ask(path, &call);
        let part = &answer["candidates"][0]["content"]["parts"][0];
        assert_eq!(part["functionCall"]["name"], "f");
        call["toolConfig"] = json!({ "functionCallingConfig": { "mode": "NONE" } });
        let (_, answer, _) = ask(path, &call);
        assert!(answer["candidates"][0]["content"]["parts"][0]["text"].is_string());
        let long = json!({ "contents": [text(&"word ".repeat(1_100))] });
        let (_, answer, _) = ask(path, &long);
        assert_eq!(answer["usageMetadata"]["cachedContentTokenCount"], 1_024);
        let count = "/v1beta/models/gemini-x:countTokens";
        assert_eq!(ask(count, &body).1, json!({ "totalTokens": 9 }));
        let embed = "/v1beta/models/gemini-x:embedContent";
        let one = json!({ "content": text("a"), "outputDimensionality": 8 });
        let (_, answer, usage) = ask(embed, &one);
        assert_eq!(answer["embedding"]["values"].as_array().unwrap().len(), 8);
        assert_eq!((usage.prompt, usage.completion), (5, 0));
        let (_, answer, _) =
            ask("/v1beta/models/x:batchEmbedContents", &json!({ "requests": [one, one] }));
        assert_eq!(answer["embeddings"].as_array().unwrap().len(), 2);
        for (path, body) in [
            (path, json!({})),
            (path, json!({ "contents": [] })),
            (count, json!({ "contents": [] })),
            (embed, json!({ "content": { "parts": [] } })),
            (embed, json!({ "requests": [one] })),
        ] {
            let (status, answer, _) = ask(path, &body);
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}");
            assert_eq!(answer["error"]["status"], "INVALID_ARGUMENT", "{path}");
        }
        let (_, models, _) = ask("/v1beta/models", &json!({}));
        assert_eq!(models["models"][0]["name"], "models/polysystems-sandbox");
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
            usage_of_answer(answer.to_string().as_bytes()),
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
            let is_native = Dialect::of(path) == Dialect::Native;
            let place = if is_native { "/error" } else { "/error/type" };
            let told = if is_native { "Validation Error" } else { "invalid_request_error" };
            assert_eq!(answer.pointer(place).unwrap(), told, "{path}");
            assert_eq!(usage, TokenUsage::default());
        }
    }
}
