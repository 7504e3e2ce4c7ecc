//! Stage 4, pricing. Received -> Quoted: from here on the price is fixed, or its bounds are.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::authenticate::Received;
use super::by_model;
use super::gateway::{Gateway, lease};
use super::request::Arrival;
use crate::config::OnDisconnect;
use crate::json::fields::Fields;
use crate::models::ModelCall;
use crate::store::keys::KeyRecord;
use crate::tokens::{self, INLINE_BYTES_MAX, PromptTokens};
use crate::upstream::dialect::{Asked, ModelRequest, check_query, gemini, is_model_field};
use crate::upstream::{Dialect, RequestPolicy};
use domain::Refusal;
use domain::pricing::{Demand, Fallback, PriceRule, Pricing};
use domain::route_group::RouteGroup;
use domain::stored_bill::StoredBill;
use domain::{Bill, Convention, Flags, KeyPolicy, Price, VersionId};

/// A request whose price is known.
pub struct Quoted {
    arrival: Box<Arrival>,
    rule: Arc<PriceRule>,
    pricing: Pricing,
    key: Arc<KeyRecord>,
    price: Price,
    version: VersionId,
    dialect: Dialect,
    generation: Option<Generation>,
    model: Option<ModelCall>,
}

impl Quoted {
    /// The model, if the call is sold by its name.
    pub(super) fn model(&self) -> Option<&ModelCall> {
        self.model.as_ref()
    }

    pub(super) fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// The rule of the route. It gives the route its name and its class, also if the model gives
    /// the price.
    pub(super) fn rule(&self) -> &Arc<PriceRule> {
        &self.rule
    }

    /// The price.
    pub(super) fn pricing(&self) -> &Pricing {
        &self.pricing
    }

    /// The version of the price list that the price is of.
    pub(super) fn version(&self) -> VersionId {
        self.version
    }

    /// Another model answers: this is what the call costs, and what it may use. The bounds that it
    /// was charged by stay: what is held covers it.
    pub(super) fn set_fallback(&mut self, fallback: &Fallback) {
        self.version = fallback.pricing().priced().version;
        self.pricing = Pricing::Model(Box::new(fallback.pricing().clone()));
        if let Some(generation) = &mut self.generation {
            generation.demand = fallback.demand();
        }
    }

    pub(super) fn key(&self) -> &Arc<KeyRecord> {
        &self.key
    }

    pub(super) fn price(&self) -> Price {
        self.price
    }

    /// The bill by the price of the route, if the call takes so many tokens. A fixed price does not
    /// depend on them.
    pub(super) fn bill(&self, prompt: u64, completion: u64, flags: Flags) -> Option<StoredBill> {
        StoredBill::of(&Bill {
            version: self.version,
            card: self.rule.card_number,
            row: 0,
            convention: Convention::default(),
            flags,
            quantities: self.rule.quantities(prompt, completion),
        })
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
pub(crate) struct Generation {
    pub(super) request: ModelRequest,
    pub(super) demand: Demand,
    /// Can the upstream generate tokens that it does not show?
    pub(super) may_hide: bool,
}

/// Does the request ask for what may fill the context window?
pub(super) fn asks_for_context(request: &ModelRequest) -> bool {
    request.asks_for.iter().any(|asked| asked.extra.fills_the_context())
}

/// Has the prompt a part that may fill the context window, whatever its length here?
fn fills_the_context(request: &ModelRequest) -> bool {
    request.prompt.has_file || asks_for_context(request)
}

impl Generation {
    /// The prompt's tokens, if the upstream does not report them.
    pub(super) fn prompt_unreported(&self) -> u64 {
        if fills_the_context(&self.request) {
            return self.demand.prompt_tokens_max;
        }
        self.prompt_estimate()
    }

    /// The prompt's tokens if the upstream or this server breaks the call off. The client can do
    /// nothing for that, so a file has as many as its size says.
    pub(super) fn prompt_estimate(&self) -> u64 {
        if asks_for_context(&self.request) {
            return self.demand.prompt_tokens_max;
        }
        self.request.prompt.unreported().min(self.demand.prompt_tokens_max)
    }

    /// The prompt's tokens, if the upstream has told so many at the beginning of its stream. Its
    /// first number may be too small. `untold` are they if it has told none.
    pub(super) fn prompt_begun(&self, told: Option<u64>, untold: u64) -> u64 {
        let PromptTokens { counted, .. } = self.request.prompt;
        match told.filter(|_| self.request.asks_for.is_empty()) {
            Some(told) => told.max(counted),
            None => untold,
        }
    }

    /// Is the upstream heard to its usage if the client leaves? It is if only the upstream knows
    /// what the call costs.
    pub(super) fn is_heard_out(&self, policy: OnDisconnect) -> bool {
        match policy {
            // Also of a file or an image only the upstream knows the tokens.
            OnDisconnect::Auto => self.may_hide || self.request.prompt.unseen > 0,
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
    let policy = gateway.upstreams.request_policy(arrival.group);
    gemini::check_query(dialect, arrival.query.as_deref()).map_err(Refusal::BadBody)?;
    let check_query = |is_own| match &arrival.query {
        Some(query) => check_query(dialect, query, &policy.query, is_own).map_err(Refusal::BadBody),
        None => Ok(()),
    };
    let (mut pricing, mut generation, mut model) = (None, None, None);
    if rule.is_token_priced() {
        check_query(arrival.group != RouteGroup::V1)?;
        let request = read_request(gateway, dialect, &arrival, &key).await?;
        model = by_model::model_call(gateway, &arrival, &key, &request)?;
        sold(&rule, &request, model.as_ref())?;
        generation = Some(match &model {
            Some(call) => {
                let (of_model, generation) =
                    by_model::price(gateway, dialect, &arrival, call, request)?;
                pricing = Some(Pricing::Model(Box::new(of_model)));
                generation
            }
            None => by_route(gateway, dialect, &arrival, &key, &rule, request),
        });
    } else if dialect.is_count() {
        check_query(false)?;
        // It costs nothing, but must not name what is another customer's, nor a model that is not
        // sold.
        let request = read_request(gateway, dialect, &arrival, &key).await?;
        model = by_model::model_call(gateway, &arrival, &key, &request)?;
        sold(&rule, &request, model.as_ref())?;
    }
    if key.policy.models.is_some() {
        match &model {
            Some(call) if call.found.is_permitted(&key.policy) => {}
            Some(_) => return Err(Refusal::NotPermitted),
            None => permit_model(&key.policy, generation.as_ref(), &arrival)?,
        }
    }
    // If models are sold by their names, the catalogue has decided.
    if model.is_none() && !gateway.upstreams.of(arrival.group, key.environment).is_sandbox() {
        sold_model(policy, generation.as_ref(), &arrival)?;
    }
    let pricing = pricing.unwrap_or_else(|| Pricing::Route(Arc::clone(&rule)));
    let unpayable = |error: domain::pricing::Unpayable| Refusal::BadBody(error.to_string());
    let mut bounds = match &generation {
        Some(generation) => pricing.bounds(generation.demand).map_err(unpayable)?,
        None => None,
    };
    if let (Some(bounds), Some(generation)) = (&mut bounds, &generation)
        && model.is_some()
    {
        bounds.share = by_model::share(gateway, generation);
    }
    let price = pricing.price(bounds);
    // A count of tokens asks the model's deployments, and has the price of its route.
    let version = match (&pricing, &model) {
        (Pricing::Model(_), Some(call)) => call.priced.version,
        _ => gateway.price_version,
    };
    Ok(Quoted { arrival, rule, pricing, key, price, version, dialect, generation, model })
}

/// A request that is priced by its route, and its demand.
fn by_route(
    gateway: &Gateway,
    dialect: Dialect,
    arrival: &Arrival,
    key: &KeyRecord,
    rule: &PriceRule,
    request: ModelRequest,
) -> Generation {
    let may_hide = request.may_hide
        || !request.asks_for.is_empty()
        || (!dialect.only_reads() && may_think(gateway, arrival, key, &request));
    let model = request.model.as_deref();
    let (default, context_tokens) = (rule.default_max_tokens(model), rule.context_tokens(model));
    let PromptTokens { counted, bound, .. } = request.prompt;
    let fills = fills_the_context(&request);
    let thinking = request.thinking_tokens.saturating_mul(request.choices);
    // No prompt is larger than the context window, unless that is set too small.
    let prompt_tokens_max =
        if fills { bound.max(context_tokens) } else { bound.min(context_tokens.max(counted)) };
    let within = Within {
        prompt_tokens_max: prompt_tokens_max.saturating_add(thinking),
        // A budget of thinking that the request names comes on top, or nothing would be left to
        // say.
        completion_tokens_max: default.saturating_add(request.least_tokens),
        context_tokens,
        is_counted: !fills && request.prompt.unseen == 0,
    };
    let demand = demand(gateway, &request, may_hide, within);
    Generation { request, demand, may_hide }
}

/// Refuses what cannot be priced, unless the route sells it all the same. If models are sold by
/// their names, the model says what it sells, and its card which service tiers.
fn sold(
    rule: &PriceRule,
    request: &ModelRequest,
    model: Option<&ModelCall>,
) -> Result<(), Refusal> {
    let is_sold = |asked: &&Asked| match model {
        Some(call) => {
            call.found.model.sells.contains(&asked.extra) || by_model::is_of_service(asked)
        }
        None => rule.sells.contains(&asked.extra),
    };
    // The card of a model may have a price for that.
    if let Some(field) = request.kept_for_an_hour.as_ref().filter(|_| model.is_none()) {
        return Err(Refusal::BadBody(format!("{field}: cache_control: ttl must be 5m")));
    }
    match request.asks_for.iter().find(|asked| !is_sold(asked)) {
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

/// Refuses a model that the key may not use, if models are not sold by their names. A token-priced
/// call that names none gets the upstream's choice, which no list allows. A call with a fixed price
/// is checked only if it names a model.
fn permit_model(
    policy: &KeyPolicy,
    generation: Option<&Generation>,
    arrival: &Arrival,
) -> Result<(), Refusal> {
    let is_permitted = match generation {
        Some(generation) => policy.permits_model(generation.request.model.as_deref()),
        None => models_named(arrival).iter().all(|model| policy.permits_model(model.as_deref())),
    };
    if is_permitted { Ok(()) } else { Err(Refusal::NotPermitted) }
}

/// Refuses a repeat that names a model which the key may not use. All else is refused when it is
/// priced.
pub(super) fn permit_named_models(gateway: &Gateway, received: &Received) -> Result<(), Refusal> {
    let (policy, arrival) = (&received.key().policy, received.arrival());
    if policy.models.is_none() || arrival.idempotency_key.is_none() {
        return Ok(());
    }
    let named = models_named(arrival);
    if received.is_token_priced() && named.is_empty() {
        return Err(Refusal::NotPermitted);
    }
    let selling = gateway.models.selling();
    let has_models = arrival.group == RouteGroup::V1 && selling.has_models();
    let is_permitted = |name: &Option<String>| {
        let found = name.as_deref().filter(|_| has_models);
        match found.and_then(|name| selling.catalogue.find(name)) {
            Some(found) => found.is_permitted(policy),
            None => policy.permits_model(name.as_deref()),
        }
    };
    if named.iter().all(is_permitted) { Ok(()) } else { Err(Refusal::NotPermitted) }
}

/// The model of the path, if it names one. Else every `model` of a JSON object, duplicates and
/// other spellings included. `None` is one that is not a text.
fn models_named(arrival: &Arrival) -> Vec<Option<String>> {
    if let Some(model) = gemini::model_of(&arrival.path) {
        // If the body names another, the call is refused when it is priced.
        return vec![Some(model.into_owned())];
    }
    let text = std::str::from_utf8(&arrival.body).unwrap_or_default();
    let fields = Fields::read(text).unwrap_or_default();
    fields.all(is_model_field).map(|model| serde_json::from_str(model).ok()).collect()
}

/// Refuses a model that the operator does not sell.
fn sold_model(
    policy: &RequestPolicy,
    generation: Option<&Generation>,
    arrival: &Arrival,
) -> Result<(), Refusal> {
    let models = &policy.models;
    let is_sold = models.is_empty()
        || match generation {
            Some(generation) => models.has(generation.request.model.as_deref()),
            None => models_named(arrival).iter().all(|model| models.has(model.as_deref())),
        };
    if is_sold { Ok(()) } else { Err(Refusal::ModelNotSold) }
}

/// Can the model generate tokens that it does not show? On `/v1` any model may that is not known to
/// show all. The other groups' services are the operator's own, and the sandbox shows all.
fn may_think(
    gateway: &Gateway,
    arrival: &Arrival,
    key: &KeyRecord,
    request: &ModelRequest,
) -> bool {
    let model = request.model.as_deref();
    let upstream = gateway.upstreams.of(arrival.group, key.environment);
    if arrival.group == RouteGroup::V1 && !upstream.is_sandbox() {
        gateway.thinking.may_have(model)
    } else {
        gateway.thinking.has(model)
    }
}

/// Reads the body and counts its tokens. Nothing is paid for that. So large bodies of one account
/// are read a few at a time, and those that wait count as calls in flight.
async fn read_request(
    gateway: &Gateway,
    dialect: Dialect,
    arrival: &Arrival,
    key: &KeyRecord,
) -> Result<ModelRequest, Refusal> {
    let body = arrival.body.clone();
    let policy = Arc::clone(gateway.upstreams.request_policy(arrival.group));
    let bytes = body.len();
    let path = arrival.path.clone();
    let read = move || dialect.read_request_to(&path, &body, &policy.fields);
    let read = if bytes <= INLINE_BYTES_MAX {
        Some(read())
    } else {
        // Boxed, because the future of every call is as large as its largest part.
        let counted = async {
            let _in_flight = lease(gateway, key).await?;
            let _place = gateway.counting.place(key.account, key.environment).await;
            Ok::<_, Refusal>(tokens::count_off_thread(bytes, read).await)
        };
        Box::pin(counted).await?
    };
    read.ok_or(Refusal::Unavailable("the body could not be read"))?.map_err(Refusal::BadBody)
}

/// Within what a request is held for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    /// An upper bound of the prompt's tokens.
    pub(super) prompt_tokens_max: u64,
    /// Tokens of each completion, if the request names no limit.
    pub(super) completion_tokens_max: u64,
    /// The context window.
    pub(super) context_tokens: u64,
    /// Was every part of the prompt counted here?
    pub(super) is_counted: bool,
}

/// The tokens to hold for: all that the request asks for, or the first step of a stream whose
/// tokens are all seen.
pub(super) fn demand(
    gateway: &Gateway,
    request: &ModelRequest,
    may_hide: bool,
    within: Within,
) -> Demand {
    let holds = &gateway.holds;
    let is_in_steps = request.is_stream && !may_hide;
    let is_partial = is_in_steps || holds.lower_token_limit;
    Demand {
        prompt_tokens_max: within.prompt_tokens_max,
        completion_tokens_max: request.token_limit.unwrap_or(within.completion_tokens_max),
        choices: request.choices,
        start_tokens: if is_partial {
            holds.start_tokens.get().max(request.least_tokens)
        } else {
            u64::MAX
        },
        first_tokens: if is_in_steps { holds.step_tokens.get() } else { u64::MAX },
        context_tokens: within.context_tokens,
        is_counted: within.is_counted,
    }
}
