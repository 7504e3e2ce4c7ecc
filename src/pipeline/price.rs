//! Pricing. Caller -> Quoted: the price is fixed from here on, or its bounds are.

use std::sync::Arc;

use super::authenticate::Caller;
use super::gateway::Gateway;
use super::request::Arrival;
use crate::json::fields::Fields;
use crate::store::keys::KeyRecord;
use crate::upstream::Dialect;
use crate::upstream::dialect::Ask;
use domain::Refusal;
use domain::pricing::{Demand, PriceRule};
use domain::{KeyPolicy, Price};

/// Above this a body is read, and its prompt counted, beside the HTTP thread, which has others to serve.
/// Smaller ones are not worth handing over.
const INLINE_BYTES_MAX: usize = 4 * 1024;

/// A request whose price is known.
pub struct Quoted {
    pub(super) arrival: Box<Arrival>,
    pub(super) rule: Arc<PriceRule>,
    pub(super) key: Arc<KeyRecord>,
    pub(super) price: Price,
    pub(super) dialect: Dialect,
    /// What a token-priced request asks for.
    pub(super) generation: Option<Generation>,
}

/// What a token-priced request asks for, and what it may take.
#[derive(Clone, Debug)]
pub struct Generation {
    pub(super) ask: Ask,
    pub(super) demand: Demand,
}

impl Generation {
    /// A request that asks for a stream is delivered before it is settled.
    pub(super) fn is_stream(this: Option<&Self>) -> bool {
        this.is_some_and(|generation| generation.ask.is_stream)
    }
}

/// Prices the request.
pub(super) async fn quote(gateway: &Gateway, caller: Caller) -> Result<Quoted, Refusal> {
    let Caller { arrival, rule, key } = caller;
    let rule = rule.ok_or(Refusal::NoPrice)?;
    let dialect = Dialect::of(&arrival.path);
    let generation = if rule.is_token_priced() {
        let ask = ask(dialect, &arrival).await?;
        let demand = demand(gateway, &rule, &ask);
        Some(Generation { ask, demand })
    } else {
        None
    };
    if key.policy.models.is_some() {
        permit_model(&key.policy, generation.as_ref(), &arrival.body)?;
    }
    let unpayable = |error: domain::pricing::Unpayable| Refusal::BadBody(error.to_string());
    let bounds = match &generation {
        Some(generation) => rule.bounds(generation.demand).map_err(unpayable)?,
        None => None,
    };
    let price = rule.price(bounds);
    Ok(Quoted { arrival, rule, key, price, dialect, generation })
}

/// Refuses a call of a model that the key may not use. A token-priced call that names none gets whatever the upstream
/// chooses, which no list allows; of the others only those that name one are looked at.
fn permit_model(
    policy: &KeyPolicy,
    generation: Option<&Generation>,
    body: &[u8],
) -> Result<(), Refusal> {
    let is_permitted = match generation {
        Some(generation) => policy.permits_model(generation.ask.model.as_deref()),
        None => models_named(body).iter().all(|model| policy.permits_model(model.as_deref())),
    };
    if is_permitted { Ok(()) } else { Err(Refusal::NotPermitted) }
}

/// Every `model` of a JSON object, however often it names one; `None` is one that is no text.
fn models_named(body: &[u8]) -> Vec<Option<String>> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let fields = Fields::read(text).unwrap_or_default();
    fields.all("model").map(|model| serde_json::from_str(model).ok()).collect()
}

async fn ask(dialect: Dialect, arrival: &Arrival) -> Result<Ask, Refusal> {
    let body = arrival.body.clone();
    if body.len() <= INLINE_BYTES_MAX {
        return dialect.ask(&body).map_err(Refusal::BadBody);
    }
    tokio::task::spawn_blocking(move || dialect.ask(&body))
        .await
        .map_err(|_| Refusal::Unavailable("the body could not be read"))?
        .map_err(Refusal::BadBody)
}

/// What the request may take: all it asks for is held, or for a stream the first step of it.
fn demand(gateway: &Gateway, rule: &PriceRule, ask: &Ask) -> Demand {
    let holds = &gateway.holds;
    let default = || rule.default_max_tokens(ask.model.as_deref());
    let is_partial = ask.is_stream || holds.lower_token_limit;
    Demand {
        prompt_tokens_max: ask.prompt.bound,
        completion_tokens_max: ask.token_limit.unwrap_or_else(default),
        choices: ask.choices,
        start_tokens: if is_partial { holds.start_tokens.get() } else { u64::MAX },
        first_tokens: if ask.is_stream { holds.step_tokens.get() } else { u64::MAX },
    }
}
