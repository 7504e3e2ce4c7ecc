//! Stage 4, pricing. Received -> Quoted: from here on the price is fixed, or its bounds are.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::authenticate::Received;
use super::gateway::Gateway;
use super::request::Arrival;
use crate::json::fields::Fields;
use crate::store::keys::KeyRecord;
use crate::tokens;
use crate::upstream::Dialect;
use crate::upstream::dialect::ModelRequest;
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

    /// See [`Arrival::client_left`].
    pub(super) fn take_client_left(&mut self) -> Option<oneshot::Receiver<()>> {
        self.arrival.client_left.take()
    }
}

/// A token-priced request, and the tokens that it may take.
#[derive(Clone, Debug)]
pub struct Generation {
    pub(super) request: ModelRequest,
    pub(super) demand: Demand,
}

/// Prices the request.
pub(super) async fn quote(gateway: &Gateway, received: Received) -> Result<Quoted, Refusal> {
    let (arrival, rule, key) = received.into_parts();
    let rule = rule.ok_or(Refusal::NoPrice)?;
    let dialect = Dialect::of(&arrival.path);
    let generation = if rule.is_token_priced() {
        let request = read_request(dialect, &arrival).await?;
        let demand = demand(gateway, &rule, &request);
        Some(Generation { request, demand })
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

/// Every `model` of a JSON object, duplicates included. `None` is one that is not a text.
fn models_named(body: &[u8]) -> Vec<Option<String>> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let fields = Fields::read(text).unwrap_or_default();
    fields.all("model").map(|model| serde_json::from_str(model).ok()).collect()
}

async fn read_request(dialect: Dialect, arrival: &Arrival) -> Result<ModelRequest, Refusal> {
    let body = arrival.body.clone();
    let read = tokens::count_off_thread(body.len(), move || dialect.read_request(&body)).await;
    read.ok_or(Refusal::Unavailable("the body could not be read"))?.map_err(Refusal::BadBody)
}

/// The tokens to hold for: all that the request asks for, or the first step of a stream.
fn demand(gateway: &Gateway, rule: &PriceRule, request: &ModelRequest) -> Demand {
    let holds = &gateway.holds;
    let default = || rule.default_max_tokens(request.model.as_deref());
    let is_partial = request.is_stream || holds.lower_token_limit;
    Demand {
        prompt_tokens_max: request.prompt.bound,
        completion_tokens_max: request.token_limit.unwrap_or_else(default),
        choices: request.choices,
        start_tokens: if is_partial { holds.start_tokens.get() } else { u64::MAX },
        first_tokens: if request.is_stream { holds.step_tokens.get() } else { u64::MAX },
    }
}
