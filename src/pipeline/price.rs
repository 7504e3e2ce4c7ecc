//! Pricing. Caller -> Quoted: the price is fixed from here on, or its bounds are.

use std::sync::Arc;

use serde::Deserialize;

use super::authenticate::Caller;
use super::{Arrival, Refusal};
use crate::domain::Price;
use crate::domain::pricing::{Demand, PriceRule};
use crate::store::api_keys::KeyRecord;

/// A request whose price is known.
pub struct Quoted {
    pub(super) arrival: Arrival,
    pub(super) rule: Arc<PriceRule>,
    pub(super) key: Arc<KeyRecord>,
    pub(super) price: Price,
}

/// What the body of a token-priced request says of its size. Everything else in it is the upstream's.
#[derive(Deserialize)]
struct GenerationBody {
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    best_of: Option<u64>,
    /// Of `/v1/completions`: a list is as many completions.
    #[serde(default)]
    prompt: Option<serde_json::Value>,
    #[serde(default)]
    stream: Option<bool>,
}

/// Prices the request.
pub(super) fn quote(caller: Caller) -> Result<Quoted, Refusal> {
    let Caller { arrival, rule, key } = caller;
    let rule = rule.ok_or(Refusal::NoPrice)?;
    let demand = if rule.is_token_priced() { demand(&arrival)? } else { Demand::default() };
    let price = rule.price(demand).map_err(|error| Refusal::BadBody(error.to_string()))?;
    Ok(Quoted { arrival, rule, key, price })
}

/// The most tokens the request can take. Tokens of a byte-level vocabulary are at least one byte each, and
/// the frame that a chat puts around a message is shorter than the JSON around it, so the body's length is
/// an upper bound of the prompt whatever the model.
fn demand(arrival: &Arrival) -> Result<Demand, Refusal> {
    let body: GenerationBody = serde_json::from_slice(&arrival.body)
        .map_err(|error| Refusal::BadBody(format!("The body must be a JSON object: {error}")))?;
    if body.stream == Some(true) {
        return Err(Refusal::BadBody("stream: streamed answers are not served yet".into()));
    }
    let prompts = match &body.prompt {
        Some(serde_json::Value::Array(prompts)) => u64::try_from(prompts.len()).unwrap_or(u64::MAX),
        _ => 1,
    };
    let prompts = prompts.max(1);
    Ok(Demand {
        prompt_tokens_max: u64::try_from(arrival.body.len()).unwrap_or(u64::MAX),
        // An upstream may know only one of the two.
        completion_tokens_max: body.max_completion_tokens.max(body.max_tokens),
        choices: prompts.saturating_mul(body.n.max(body.best_of).unwrap_or(1).max(1)),
    })
}
