//! `/v1/embeddings`.

use actix_web::http::StatusCode;
use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::body::{BadBody, model, texts};
use super::writing::whole;
use crate::tokens::{self, PromptTokens};
use crate::upstream::answer::Answer;
use domain::{Reported, TokenUsage};

/// Most texts of one request.
const INPUTS_MAX: usize = 256;

const DIMENSIONS_DEFAULT: usize = 1_536;

const DIMENSIONS_MAX: usize = 3_072;

pub(super) fn embeddings(body: &Map<String, Value>) -> Result<Answer, BadBody> {
    let inputs = texts(body.get("input").unwrap_or(&Value::Null));
    if inputs.is_empty() {
        return Err(BadBody("input: must be a text or a list of texts"));
    }
    let dimensions = body
        .get("dimensions")
        .and_then(Value::as_u64)
        .and_then(|dimensions| usize::try_from(dimensions).ok())
        .unwrap_or(DIMENSIONS_DEFAULT)
        .clamp(1, DIMENSIONS_MAX);
    if inputs.len() > INPUTS_MAX {
        return Err(BadBody("input: the sandbox accepts at most 256 texts at once"));
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

/// A unit vector that depends only on the text: every coordinate has the same size, and its sign is
/// a bit of a hash.
#[expect(clippy::float_arithmetic, reason = "an embedding is made of floats; no money is")]
pub(super) fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
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
