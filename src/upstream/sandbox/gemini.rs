//! Gemini's routes, with thinking, calls of functions, images and cached prompts, and the count of
//! tokens and embeddings.

use actix_web::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tiktoken_rs::CoreBPE;

use super::body::BadBody;
use super::embeddings::embedding;
use super::events::paced;
use super::fault::{ABSURD_TOKENS, Fault};
use super::messages::argument;
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
/// Tokens of an image in a prompt.
const IMAGE_TOKENS: u64 = 258;
/// Tokens of an image that is made.
const MADE_IMAGE_TOKENS: u64 = 1_290;
/// An image of one point.
const IMAGE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
/// Of a prompt, what fills such blocks counts as cached.
const CACHE_BLOCK: u64 = 1_024;
/// Most texts of one request for embeddings.
const TEXTS_MAX: usize = 100;
const DIMENSIONS_DEFAULT: usize = 768;
const DIMENSIONS_MAX: usize = 3_072;

/// A field in either of Google's spellings.
fn get<'v>(fields: &'v Value, names: [&str; 2]) -> Option<&'v Value> {
    names.iter().find_map(|name| fields.get(*name)).filter(|value| !value.is_null())
}

/// The texts of a turn, and its results of functions as JSON.
fn texts(content: &Value) -> Vec<String> {
    let parts = content.get("parts").and_then(Value::as_array);
    let text = |part: &Value| {
        let result = get(part, ["functionResponse", "function_response"]);
        let result = result.and_then(|result| result.get("response")).map(Value::to_string);
        part.get("text").and_then(Value::as_str).map(str::to_owned).or(result)
    };
    parts.into_iter().flatten().filter_map(text).collect()
}

/// The parts of all turns.
fn parts(body: &Value) -> impl Iterator<Item = &Value> {
    let contents = body.get("contents").and_then(Value::as_array);
    contents.into_iter().flatten().filter_map(|content| content.get("parts")?.as_array()).flatten()
}

/// The images of the prompt.
fn images(body: &Value) -> u64 {
    let is_image = |part: &&Value| {
        let data = get(part, ["inlineData", "inline_data"]);
        let kind = data.and_then(|data| get(data, ["mimeType", "mime_type"])?.as_str());
        kind.is_some_and(|kind| kind.starts_with("image/"))
    };
    u64::try_from(parts(body).filter(is_image).count()).unwrap_or(u64::MAX)
}

/// The function that is to be called: the first, unless none may be, or the last turn is its
/// result.
fn function(body: &Value) -> Option<(&str, &Value)> {
    let config = get(body, ["toolConfig", "tool_config"]);
    let config =
        config.and_then(|config| get(config, ["functionCallingConfig", "function_calling_config"]));
    let mode = config.and_then(|config| config.get("mode")?.as_str());
    let last = body.get("contents").and_then(Value::as_array).and_then(|contents| contents.last());
    let has_result = last.and_then(|last| last.get("parts")?.as_array()).is_some_and(|parts| {
        parts.iter().any(|part| get(part, ["functionResponse", "function_response"]).is_some())
    });
    if mode == Some("NONE") || has_result {
        return None;
    }
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let declared = tools.filter_map(|tool| {
        get(tool, ["functionDeclarations", "function_declarations"])?.as_array()
    });
    let function = declared.flatten().next()?;
    let schema = get(function, ["parameters", "parametersJsonSchema"]).unwrap_or(&Value::Null);
    Some((function.get("name")?.as_str()?, schema))
}

/// A part of an answer, and its tokens.
enum Part {
    /// A thought, which is shown if it is asked for.
    Thought,
    Text(GeneratedText),
    Call {
        name: String,
        args: Value,
    },
    Image,
}

impl Part {
    /// As they are streamed: one for each token of a text.
    fn pieces(self, is_stream: bool) -> Vec<Value> {
        match self {
            Part::Thought => vec![json!({ "text": THOUGHT, "thought": true })],
            Part::Text(reply) if is_stream => {
                reply.pieces.into_iter().map(|piece| json!({ "text": piece })).collect()
            }
            Part::Text(reply) => vec![json!({ "text": reply.text })],
            Part::Call { name, args } => vec![json!({
                "functionCall": { "name": name, "args": args }, "thoughtSignature": SIGNATURE,
            })],
            Part::Image => {
                vec![json!({ "inlineData": { "mimeType": "image/png", "data": IMAGE } })]
            }
        }
    }
}

/// A generated answer.
pub(super) struct Generated {
    id: String,
    model: String,
    prompt_tokens: u64,
    images: u64,
    thoughts: u64,
    written: u64,
    made_images: u64,
    choices: usize,
    parts: Vec<Part>,
    finish_reason: &'static str,
    fault: Option<Fault>,
    is_stream: bool,
}

impl Generated {
    pub(super) fn new(
        body: &Map<String, Value>,
        model: &str,
        (id, prompt_tokens): (&str, u64),
        bpe: &CoreBPE,
        fault: Option<Fault>,
        is_stream: bool,
    ) -> Result<Self, BadBody> {
        let body = Value::Object(body.clone());
        let last = body.get("contents").and_then(Value::as_array).and_then(|all| all.last());
        let last = last.ok_or(BadBody("contents: must be a list of at least one turn"))?;
        let prompt = texts(last).join("\n");
        let config = get(&body, ["generationConfig", "generation_config"]);
        let number = |names| {
            let value = config.and_then(|config| get(config, names)?.as_u64());
            value.and_then(|number| usize::try_from(number).ok())
        };
        let mut limit = number(["maxOutputTokens", "max_output_tokens"]).unwrap_or(usize::MAX);
        let choices = number(["candidateCount", "candidate_count"]).unwrap_or(1).clamp(1, 8);
        let thinking = config.and_then(|config| get(config, ["thinkingConfig", "thinking_config"]));
        let (mut parts, mut thoughts) = (Vec::new(), 0);
        if let Some(thinking) = thinking {
            let budget = get(thinking, ["thinkingBudget", "thinking_budget"]);
            if budget.and_then(Value::as_i64) != Some(0) {
                thoughts = count(bpe, THOUGHT);
                limit = limit.saturating_sub(usize::try_from(thoughts).unwrap_or(usize::MAX));
                let is_shown = get(thinking, ["includeThoughts", "include_thoughts"]);
                if is_shown == Some(&Value::Bool(true)) {
                    parts.push(Part::Thought);
                }
            }
        }
        let kinds = config.and_then(|config| {
            get(config, ["responseModalities", "response_modalities"])?.as_array()
        });
        let makes_image = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "IMAGE"))
            && u64::try_from(limit).is_ok_and(|limit| limit > MADE_IMAGE_TOKENS);
        let called = function(&body).filter(|_| fault.is_none());
        let (written, finish_reason) = if let Some((name, schema)) = called {
            let args = argument(schema, &prompt);
            let written = count(bpe, name).saturating_add(count(bpe, &args.to_string()));
            parts.push(Part::Call { name: name.to_owned(), args });
            (written, "STOP")
        } else {
            let reply = GeneratedText::new(&prompt, bpe, limit, fault, is_stream);
            let written = u64::try_from(reply.count).unwrap_or(u64::MAX);
            let is_cut = reply.finish_reason == "length";
            parts.push(Part::Text(reply));
            (written, if is_cut { "MAX_TOKENS" } else { "STOP" })
        };
        if makes_image {
            parts.push(Part::Image);
        }
        let images = images(&body);
        Ok(Generated {
            id: id.to_owned(),
            model: model.to_owned(),
            prompt_tokens: prompt_tokens.saturating_add(images.saturating_mul(IMAGE_TOKENS)),
            images,
            thoughts,
            written,
            made_images: u64::from(makes_image),
            choices,
            parts,
            finish_reason,
            fault,
            is_stream,
        })
    }

    /// The usage after so many of the tokens that are written.
    fn usage(&self, written: u64, made_images: u64) -> Option<Value> {
        match self.fault {
            Some(Fault::NoUsage) => return None,
            Some(Fault::AbsurdUsage) => {
                return Some(json!({
                    "promptTokenCount": ABSURD_TOKENS, "candidatesTokenCount": ABSURD_TOKENS,
                }));
            }
            Some(Fault::NegativeUsage) => {
                return Some(json!({ "promptTokenCount": -1, "candidatesTokenCount": -1 }));
            }
            _ => {}
        }
        let choices = u64::try_from(self.choices).unwrap_or(1);
        let times = |tokens: u64| tokens.saturating_mul(choices);
        let of_images = self.images.saturating_mul(IMAGE_TOKENS);
        let of_text = self.prompt_tokens.saturating_sub(of_images);
        let made = times(made_images.saturating_mul(MADE_IMAGE_TOKENS));
        let candidates = times(written).saturating_add(made);
        let thoughts = times(self.thoughts);
        let details = |text: u64, image: u64| {
            let parts = [("TEXT", text), ("IMAGE", image)].into_iter();
            let parts = parts.filter(|(_, tokens)| *tokens > 0);
            parts
                .map(|(kind, tokens)| json!({ "modality": kind, "tokenCount": tokens }))
                .collect::<Vec<Value>>()
        };
        let mut usage = json!({
            "promptTokenCount": self.prompt_tokens,
            "totalTokenCount":
                self.prompt_tokens.saturating_add(candidates).saturating_add(thoughts),
            "promptTokensDetails": details(of_text, of_images),
        });
        // What is zero is left out.
        let cached = (self.prompt_tokens / CACHE_BLOCK).saturating_mul(CACHE_BLOCK);
        if let Value::Object(fields) = &mut usage {
            for (name, tokens) in [
                ("cachedContentTokenCount", cached),
                ("candidatesTokenCount", candidates),
                ("thoughtsTokenCount", thoughts),
            ] {
                if tokens > 0 {
                    fields.insert(name.to_owned(), tokens.into());
                }
            }
            if made > 0 {
                fields
                    .insert("candidatesTokensDetails".into(), details(times(written), made).into());
            }
        }
        Some(usage)
    }

    /// The answer, or a chunk of it, with these parts of each candidate.
    fn object(&self, parts: &[Value], finish_reason: Option<&str>, usage: Option<Value>) -> Value {
        let candidate = |index: usize| {
            let mut candidate =
                json!({ "index": index, "content": { "role": "model", "parts": parts } });
            if let (Some(reason), Value::Object(fields)) = (finish_reason, &mut candidate) {
                fields.insert("finishReason".to_owned(), reason.into());
            }
            candidate
        };
        let candidates: Vec<Value> = (0..self.choices).map(candidate).collect();
        let mut answer = json!({
            "candidates": candidates,
            "modelVersion": self.model,
            "responseId": self.id,
            "simulated": true,
        });
        if let (Some(usage), Value::Object(fields)) = (usage, &mut answer) {
            fields.insert("usageMetadata".to_owned(), usage);
        }
        answer
    }

    /// The complete answer.
    pub(super) fn answer(mut self) -> Answer {
        let parts = std::mem::take(&mut self.parts);
        let parts: Vec<Value> = parts.into_iter().flat_map(|part| part.pieces(false)).collect();
        let usage = self.usage(self.written, self.made_images);
        let answer = self.object(&parts, Some(self.finish_reason), usage);
        let reported = Dialect::Gemini.usage_of_answer(answer.to_string().as_bytes());
        whole(StatusCode::OK, &answer, reported)
    }

    /// The answer in chunks, each made when the client is ready for it. Each tells the usage so
    /// far.
    pub(super) fn streamed(mut self) -> Answer {
        let parts = std::mem::take(&mut self.parts);
        let is_stream = self.is_stream;
        let pieces: Vec<Value> =
            parts.into_iter().flat_map(|part| part.pieces(is_stream)).collect();
        let total = pieces.len().saturating_add(1);
        let (fault, last) = (self.fault, pieces.len());
        let chunks = (0..total).map(move |place| {
            let piece = pieces.get(place).map(std::slice::from_ref).unwrap_or_default();
            let is_end = place == last;
            let so_far = u64::try_from(place.saturating_add(1)).unwrap_or(u64::MAX);
            let written = if is_end { self.written } else { so_far.min(self.written) };
            let usage = self.usage(written, if is_end { self.made_images } else { 0 });
            let chunk = self.object(piece, is_end.then_some(self.finish_reason), usage);
            Bytes::from(format!("data: {chunk}\r\n\r\n"))
        });
        paced(chunks, total, fault)
    }
}

/// The answer to a count of tokens.
pub(super) fn counted(body: &Map<String, Value>, tokens: u64) -> Result<Answer, BadBody> {
    let body = Value::Object(body.clone());
    let whole_request = get(&body, ["generateContentRequest", "generate_content_request"]);
    let request = whole_request.unwrap_or(&body);
    let contents = request.get("contents").and_then(Value::as_array);
    if contents.is_none_or(Vec::is_empty) {
        return Err(BadBody("contents: must be a list of at least one turn"));
    }
    let of_images = images(request).saturating_mul(IMAGE_TOKENS);
    let answer = json!({ "totalTokens": tokens.saturating_add(of_images) });
    Ok(whole(StatusCode::OK, &answer, Reported::Missing))
}

/// The answer to a request for embeddings, one or many.
pub(super) fn embeddings(
    body: &Map<String, Value>,
    is_batch: bool,
    tokens: u64,
) -> Result<Answer, BadBody> {
    let body = Value::Object(body.clone());
    let requests = body.get("requests").and_then(Value::as_array);
    let requests: Vec<&Value> = match requests {
        Some(requests) if is_batch => requests.iter().collect(),
        None if !is_batch => vec![&body],
        _ => return Err(BadBody("requests: must be a list, on :batchEmbedContents alone")),
    };
    if requests.len() > TEXTS_MAX {
        return Err(BadBody("requests: the sandbox accepts at most 100 texts at once"));
    }
    let values = requests.into_iter().map(|request| {
        let texts = request.get("content").map(texts).unwrap_or_default();
        if texts.is_empty() {
            return Err(BadBody("content: must have at least one part with a text"));
        }
        let dimensions = get(request, ["outputDimensionality", "output_dimensionality"]);
        let dimensions = dimensions.and_then(|number| usize::try_from(number.as_u64()?).ok());
        let dimensions = dimensions.unwrap_or(DIMENSIONS_DEFAULT).clamp(1, DIMENSIONS_MAX);
        Ok(json!({ "values": embedding(&texts.join("\n"), dimensions) }))
    });
    let values: Vec<Value> = values.collect::<Result<_, _>>()?;
    let usage = json!({ "promptTokenCount": tokens, "totalTokenCount": tokens });
    let answer = if is_batch {
        json!({ "embeddings": values, "usageMetadata": usage })
    } else {
        json!({ "embedding": values.first(), "usageMetadata": usage })
    };
    let reported = Dialect::GeminiEmbeddings.usage_of_answer(answer.to_string().as_bytes());
    Ok(whole(StatusCode::OK, &answer, reported))
}

/// A model, as Google describes its own.
pub(super) fn model(name: &str) -> Value {
    let is_embedding = name.ends_with("-embedding");
    let methods: &[&str] = if is_embedding {
        &["embedContent", "batchEmbedContents"]
    } else {
        &["generateContent", "streamGenerateContent", "countTokens"]
    };
    json!({
        "name": format!("models/{name}"), "version": "1", "displayName": name,
        "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
        "supportedGenerationMethods": methods,
    })
}
