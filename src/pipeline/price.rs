//! Stage 4, pricing. Received -> Quoted: from here on the price is fixed, or its bounds are.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::authenticate::Received;
use super::gateway::Gateway;
use super::request::Arrival;
use crate::config::OnDisconnect;
use crate::json::fields::Fields;
use crate::store::keys::KeyRecord;
use crate::tokens::{self, PromptTokens};
use crate::upstream::Dialect;
use crate::upstream::dialect::{Asked, ModelRequest, is_model_field};
use domain::Refusal;
use domain::pricing::{Demand, PriceRule};
use domain::{KeyPolicy, Price};

/// A request whose price is known.
pub struct Quoted {
    arrival: Box<Arrival>,
    rule: Arc<PriceRule>,
    key: Arc<KeyRecord>,
    price: Price,
    dialect: Dialect,
    generation: Option<Generation>,
}

impl Quoted {
    pub(super) fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    pub(super) fn rule(&self) -> &Arc<PriceRule> {
        &self.rule
    }

    pub(super) fn key(&self) -> &Arc<KeyRecord> {
        &self.key
    }

    pub(super) fn price(&self) -> Price {
        self.price
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The demand of a token-priced request.
    pub(super) fn generation(&self) -> Option<&Generation> {
        self.generation.as_ref()
    }

    /// Is the answer to be streamed? Then it is delivered before it is settled.
    pub(super) fn is_stream(&self) -> bool {
        self.generation.as_ref().is_some_and(|generation| generation.request.is_stream)
    }

    /// See [`super::request::Paying::charged`].
    pub(super) fn take_charged(&mut self) -> Option<oneshot::Sender<()>> {
        self.arrival.paying.as_mut()?.charged.take()
    }

    /// See [`Arrival::client_left`].
    pub(super) fn take_client_left(&mut self) -> Option<oneshot::Receiver<()>> {
        self.arrival.client_left.take()
    }
}

/// A token-priced request, and the tokens that it may take.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(super) request: ModelRequest,
    pub(super) demand: Demand,
    /// Can the upstream generate tokens that it does not show?
    pub(super) may_hide: bool,
}

impl Generation {
    /// The prompt's tokens, if the upstream does not report them.
    pub(super) fn prompt_unreported(&self) -> u64 {
        if self.request.asks_for.iter().any(|asked| asked.extra.fills_the_context()) {
            return self.demand.prompt_tokens_max;
        }
        self.request.prompt.unreported().min(self.demand.prompt_tokens_max)
    }

    /// Is the upstream heard to its usage if the client leaves? It is if only the upstream knows
    /// what the call costs.
    pub(super) fn is_heard_out(&self, policy: OnDisconnect) -> bool {
        match policy {
            // To its usage also if a bound of a file is more than the rest can cost.
            OnDisconnect::Auto => {
                let Demand { completion_tokens_max, choices, .. } = self.demand;
                let rest = completion_tokens_max.saturating_mul(choices);
                self.may_hide || self.request.prompt.unseen > rest
            }
            OnDisconnect::Drain => true,
            OnDisconnect::Cancel => false,
        }
    }
}

/// Prices the request.
pub(super) async fn quote(gateway: &Gateway, received: Received) -> Result<Quoted, Refusal> {
    let (arrival, rule, key) = received.into_parts();
    let rule = rule.ok_or(Refusal::NoPrice)?;
    let dialect = Dialect::of(&arrival.path);
    let generation = if rule.is_token_priced() {
        let request = read_request(dialect, &arrival).await?;
        sold(&rule, &request)?;
        let may_hide = request.may_hide
            || !request.asks_for.is_empty()
            || gateway.thinking.has(request.model.as_deref());
        let demand = demand(gateway, &rule, &request, may_hide);
        Some(Generation { request, demand, may_hide })
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

/// Refuses what cannot be priced, unless the route sells it all the same.
fn sold(rule: &PriceRule, request: &ModelRequest) -> Result<(), Refusal> {
    match request.asks_for.iter().find(|asked| !rule.sells.contains(&asked.extra)) {
        None => Ok(()),
        Some(Asked { extra, field }) => {
            let name = extra.name();
            let place = if field == name { String::new() } else { format!("{field}: ") };
            Err(Refusal::BadBody(format!(
                "{place}{name} is not available here, because its cost cannot be known before the \
                 call. Please send the request without it."
            )))
        }
    }
}

/// Refuses a model that the key may not use. A token-priced call that names none gets the
/// upstream's choice, which no list allows. A call with a fixed price is checked only if it names a
/// model.
fn permit_model(
    policy: &KeyPolicy,
    generation: Option<&Generation>,
    body: &[u8],
) -> Result<(), Refusal> {
    let is_permitted = match generation {
        Some(generation) => policy.permits_model(generation.request.model.as_deref()),
        None => models_named(body).iter().all(|model| policy.permits_model(model.as_deref())),
    };
    if is_permitted { Ok(()) } else { Err(Refusal::NotPermitted) }
}

/// Every `model` of a JSON object, duplicates and other spellings included. `None` is one that is
/// not a text.
fn models_named(body: &[u8]) -> Vec<Option<String>> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let fields = Fields::read(text).unwrap_or_default();
    fields.all(is_model_field).map(|model| serde_json::from_str(model).ok()).collect()
}

async fn read_request(dialect: Dialect, arrival: &Arrival) -> Result<ModelRequest, Refusal> {
    let body = arrival.body.clone();
    let read = tokens::count_off_thread(body.len(), move || dialect.read_request(&body)).await;
    read.ok_or(Refusal::Unavailable("the body could not be read"))?.map_err(Refusal::BadBody)
}

/// The tokens to hold for: all that the request asks for, or the first step of a stream whose
/// tokens are all seen.
fn demand(gateway: &Gateway, rule: &PriceRule, request: &ModelRequest, may_hide: bool) -> Demand {
    let holds = &gateway.holds;
    let default = || rule.default_max_tokens(request.model.as_deref());
    let is_in_steps = request.is_stream && !may_hide;
    let context_tokens = rule.context_tokens(request.model.as_deref());
    let PromptTokens { counted, bound, .. } = request.prompt;
    let fills = request.asks_for.iter().any(|asked| asked.extra.fills_the_context());
    let thinking = request.thinking_tokens.saturating_mul(request.choices);
    // No prompt is larger than the context window, unless that is set too small.
    let prompt_tokens_max =
        if fills { bound.max(context_tokens) } else { bound.min(context_tokens.max(counted)) };
    let is_partial = is_in_steps || holds.lower_token_limit;
    Demand {
        prompt_tokens_max: prompt_tokens_max.saturating_add(thinking),
        completion_tokens_max: request.token_limit.unwrap_or_else(default),
        choices: request.choices,
        start_tokens: if is_partial { holds.start_tokens.get() } else { u64::MAX },
        first_tokens: if is_in_steps { holds.step_tokens.get() } else { u64::MAX },
        context_tokens,
    }
}
