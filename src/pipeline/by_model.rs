//! The price of a call that names a model of the catalogue: which model it is, and what the call
//! may use of it.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::beside::priced_apart;
use super::deployments::OTHER_MODELS_MAX;
use super::gateway::{Gateway, list_of};
use super::price::{Generation, Quoted, Within, asks_for_context, demand};
use super::request::Arrival;
use crate::json::fields::Fields;
use crate::models::ModelCall;
use crate::store::keys::KeyRecord;
use crate::tokens::UnseenParts;
use crate::upstream::Dialect;
use crate::upstream::dialect::gemini::tier_named;
use crate::upstream::dialect::{Asked, ModelRequest, service_named};
use domain::catalogue::{FallbackPrice, FoundModel, Modality, SoldModel};
use domain::price_book::Priced;
use domain::pricing::{Demand, Extra, Fallback, ModelPricing, Pricing};
use domain::route_group::RouteGroup;
use domain::{Credits, DimSet, Refusal, Service};

/// The model that a call on `/v1` asks for; `None` if no models are sold by their names. The
/// catalogue decides the same for live and for test keys.
pub(super) fn model_call(
    gateway: &Gateway,
    arrival: &Arrival,
    key: &KeyRecord,
    request: &ModelRequest,
) -> Result<Option<ModelCall>, Refusal> {
    if arrival.group != RouteGroup::V1 {
        return Ok(None);
    }
    let selling = gateway.models.selling();
    if !selling.has_models() {
        return Ok(None);
    }
    let name = request.model.as_deref().filter(|name| !name.is_empty()).ok_or_else(|| {
        Refusal::BadBody(
            "model: is missing; it is the name of the model that is to answer. GET /v1/models \
             lists those that are sold."
                .to_owned(),
        )
    })?;
    let found = selling.catalogue.find(name).ok_or(Refusal::ModelNotSold)?;
    if found.model.retires_at.is_some_and(|at| at <= arrival.at) {
        return Err(Refusal::ModelRetired { successor: found.model.successor.clone() });
    }
    let priced = selling.price(list_of(key), &found, arrival.at).ok_or(Refusal::ModelNotPriced)?;
    Ok(Some(ModelCall { selling, found, priced }))
}

/// The service tier that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedService {
    /// This one.
    One(Service),
    /// The upstream chooses.
    Any,
}

/// Does it ask for a service tier, which cards have rows for? A place is none.
pub(super) fn is_of_service(asked: &Asked) -> bool {
    asked.extra == Extra::ServiceTier && asked.field != "inference_geo"
}

/// The service tier that the request names. The standard one if it names none.
fn service_of(dialect: Dialect, body: &[u8]) -> Result<AskedService, Refusal> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    // Most requests name none, also not in escapes, and need not be read once more.
    if !["_tier", "Tier", "speed", "\\u00"].iter().any(|word| text.contains(word)) {
        return Ok(AskedService::One(Service::Standard));
    }
    let fields = Fields::read(text).unwrap_or_default();
    let named = |field: &str| {
        let value = fields.get(field).filter(|value| *value != "null")?;
        Some(serde_json::from_str::<String>(value).map_err(|_| Refusal::ServiceTierNotSold))
    };
    if dialect.is_gemini() {
        // One of the two spellings of Google's.
        let tier = named("serviceTier").or_else(|| named("service_tier")).transpose()?;
        let tier = tier.map_or(Some(Service::Standard), |tier| tier_named(&tier));
        return tier.map(AskedService::One).ok_or(Refusal::ServiceTierNotSold);
    }
    let speed = named("speed").transpose()?.filter(|speed| speed != "standard");
    if let Some(speed) = speed {
        let fast = service_named(&speed).filter(|service| *service == Service::Fast);
        return fast.map(AskedService::One).ok_or(Refusal::ServiceTierNotSold);
    }
    match named("service_tier").transpose()?.as_deref() {
        None => Ok(AskedService::One(Service::Standard)),
        Some("auto") => Ok(AskedService::Any),
        Some(name) => {
            // A batch is not asked for by a call.
            let service = service_named(name).filter(|service| *service != Service::Batch);
            service.map(AskedService::One).ok_or(Refusal::ServiceTierNotSold)
        }
    }
}

/// Does the request ask for more than a service tier?
fn asks_for_more(request: &ModelRequest) -> bool {
    request.asks_for.iter().any(|asked| !is_of_service(asked))
}

/// Can the model think unseen? One that is known to think does, by its own name or a provider's,
/// also if the catalogue does not say so.
fn thinks(gateway: &Gateway, dialect: Dialect, found: &FoundModel) -> bool {
    let thinks = found.model.hides_thoughts
        || gateway.thinking.has(Some(&found.name))
        || found.served.iter().any(|one| gateway.thinking.has(Some(&one.upstream_model)));
    thinks && !dialect.only_reads()
}

/// The price and the demand of a request to a model.
pub(super) fn price(
    gateway: &Gateway,
    dialect: Dialect,
    arrival: &Arrival,
    call: &ModelCall,
    request: ModelRequest,
) -> Result<(ModelPricing, Generation), Refusal> {
    let model = &*call.found.model;
    let counted = request.prompt.counted;
    if counted > model.max_input && model.on_context.is_empty() {
        return Err(Refusal::ContextTooLong { tokens: counted, max: model.max_input });
    }
    if let Some(kind) = kinds_of(&request).into_iter().find(|kind| !model.takes(*kind)) {
        return Err(not_taken(&call.found.name, kind));
    }
    let pricing = pricing_of(dialect, arrival, &request, call.priced.clone())?;
    let may_hide = request.may_hide
        || asks_for_more(&request)
        || thinks(gateway, dialect, &call.found)
        || draws(&pricing, dialect);
    let demand = demand_of(gateway, dialect, model, &request, may_hide);
    if !pricing.is_sold(&demand) {
        return Err(Refusal::ModelNotPriced);
    }
    Ok((pricing, Generation { request, demand, may_hide }))
}

/// What the prompt contains beside text.
pub(super) fn kinds_of(request: &ModelRequest) -> Vec<Modality> {
    let kinds = request.prompt.kinds;
    let all = [
        (kinds.image, Modality::Image),
        (kinds.audio, Modality::Audio),
        (kinds.video, Modality::Video),
        (kinds.file, Modality::File),
    ];
    all.into_iter().filter(|(is_there, _)| *is_there).map(|(_, kind)| kind).collect()
}

fn not_taken(model: &str, kind: Modality) -> Refusal {
    Refusal::BadBody(format!(
        "The model {model} does not take content of the kind {}. Please send the request without it, \
         or to a model that takes it: GET /api/models says which do.",
        kind.name()
    ))
}

/// The price of the request by this card.
fn pricing_of(
    dialect: Dialect,
    arrival: &Arrival,
    request: &ModelRequest,
    priced: Priced,
) -> Result<ModelPricing, Refusal> {
    let ruled_out =
        if asks_for_more(request) { DimSet::EMPTY } else { dialect.ruled_out(&arrival.body) };
    let thinking = request.thinking_tokens;
    let pricing = match service_of(dialect, &arrival.body)? {
        AskedService::One(service) => ModelPricing::new(priced, service, ruled_out, thinking)
            .ok_or(Refusal::ServiceTierNotSold)?,
        AskedService::Any => ModelPricing::of_any_service(priced, ruled_out, thinking),
    };
    priced_apart(pricing, dialect, &arrival.body, request)
}

/// May the model draw or speak unasked, at a price of its own?
fn draws(pricing: &ModelPricing, dialect: Dialect) -> bool {
    pricing.draws() && !dialect.only_reads()
}

/// What a call comes to if this other model answers it, which is told no more tokens than `told`,
/// as the first one was. `None` if it may not answer: it is not sold any more or not for this, may
/// think unseen though that is not held for, or its price counts and the caller has none.
pub(super) fn fallback(
    gateway: &Gateway,
    quoted: &Quoted,
    other: &FoundModel,
    told: u64,
) -> Option<Fallback> {
    let (Pricing::Model(pricing), Some(generation), Some(call)) =
        (quoted.pricing(), quoted.generation(), quoted.model())
    else {
        return None;
    };
    let (arrival, dialect, request) = (quoted.arrival(), quoted.dialect(), &generation.request);
    let (may_hide, model) = (generation.may_hide, &*other.model);
    let is_sold = |asked: &Asked| is_of_service(asked) || model.sells.contains(&asked.extra);
    let may_answer = model.retires_at.is_none_or(|at| at > arrival.at)
        && (may_hide || !thinks(gateway, dialect, other))
        && request.asks_for.iter().all(is_sold)
        && kinds_of(request).into_iter().all(|kind| model.takes(kind))
        && request.least_tokens <= model.max_output;
    if !may_answer {
        return None;
    }
    let pricing = match call.found.model.price_on_fallback {
        FallbackPrice::Requested => (**pricing).clone(),
        FallbackPrice::Served => {
            let key = quoted.key();
            if !other.is_permitted(&key.policy) {
                return None;
            }
            let priced = call.selling.price(list_of(key), other, arrival.at)?;
            pricing_of(dialect, arrival, request, priced).ok()?.of_other_model()
        }
    };
    if draws(&pricing, dialect) && !may_hide {
        return None;
    }
    let demand = demand_of(gateway, dialect, model, request, may_hide);
    // What is not held for as it is shown is held for at once, as far as the first one was.
    let is_in_steps = request.is_stream && !may_hide;
    let first_tokens = if is_in_steps { demand.first_tokens } else { told };
    Fallback::new(pricing, Demand { first_tokens, ..demand }, model.max_output, told)
}

/// The most that the call comes to if any of the models answers that may, told as many tokens as
/// the first one at most.
pub(super) fn most_of_fallbacks(gateway: &Gateway, quoted: &Quoted) -> Option<Credits> {
    let call = quoted.model()?;
    let (catalogue, told) = (&call.selling.catalogue, quoted.generation()?.demand);
    let names = |found: &FoundModel| -> Vec<Arc<str>> {
        found.model.on_context.iter().chain(&found.model.on_policy).cloned().collect()
    };
    // Each may lead to others, as far as calls go.
    let mut reached = vec![Arc::clone(&call.found)];
    let mut from = 0;
    for _ in 0..OTHER_MODELS_MAX {
        let next: Vec<Arc<FoundModel>> = reached
            .get(from..)
            .unwrap_or_default()
            .iter()
            .flat_map(|found| names(found))
            .filter_map(|name| catalogue.find(&name))
            .collect();
        from = reached.len();
        for found in next {
            if !reached.iter().any(|known| known.name == found.name) {
                reached.push(found);
            }
        }
    }
    let most = |other: &Arc<FoundModel>| {
        fallback(gateway, quoted, other, told.completion_tokens_max)?.most().ok()
    };
    reached.iter().skip(1).filter_map(most).max()
}

/// The tokens to hold for.
fn demand_of(
    gateway: &Gateway,
    dialect: Dialect,
    model: &SoldModel,
    request: &ModelRequest,
    may_hide: bool,
) -> Demand {
    let prompt = request.prompt;
    let (images, files) = (model.image_tokens_max, model.file_tokens_max);
    let is_unknown = |parts: UnseenParts, max: Option<u64>| parts.number > 0 && max.is_none();
    let fills = asks_for_context(request)
        || is_unknown(prompt.images, images)
        || is_unknown(prompt.files, files);
    let tokens_of = |parts: UnseenParts, max: Option<u64>| {
        max.map_or(parts.tokens, |max| parts.number.saturating_mul(max))
    };
    let parts = tokens_of(prompt.images, images).saturating_add(tokens_of(prompt.files, files));
    let unseen = prompt.images.tokens.saturating_add(prompt.files.tokens);
    // Anthropic's text is bounded at twice its count already.
    let permille = u64::from(model.tokenizer_permille);
    let permille = if dialect.is_anthropic() { permille.div_ceil(2).max(1_000) } else { permille };
    let text = prompt.bound.saturating_sub(unseen).saturating_mul(permille).div_ceil(1_000);
    let bound = text.saturating_add(parts);
    let window = model.max_input;
    let within = Within {
        prompt_tokens_max: if fills {
            bound.max(window)
        } else {
            bound.min(window.max(prompt.counted))
        },
        completion_tokens_max: model.max_output,
        context_tokens: window,
        is_counted: !fills && prompt.unseen == 0,
    };
    let demand = demand(gateway, request, may_hide, within);
    if may_hide {
        // Of the rest its account decides: see `share`.
        return Demand { first_tokens: demand.start_tokens, ..demand };
    }
    demand
}

/// The part of what is available that is held when the call begins. What a stream shows is held for
/// as it goes on; what is thought unseen is told as a limit. Any other call holds all that it can
/// cost.
pub(super) fn share(gateway: &Gateway, generation: &Generation) -> Option<NonZeroU32> {
    let holds = &gateway.holds;
    if generation.may_hide {
        Some(holds.hidden_share)
    } else {
        generation.request.is_stream.then_some(holds.visible_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_for_one_service_tier() {
        let standard = AskedService::One(Service::Standard);
        for (body, asked) in [
            ("{}", Some(standard)),
            (r#"{"service_tier":null}"#, Some(standard)),
            (r#"{"service_tier":"default"}"#, Some(standard)),
            (r#"{"service_tier":"standard_only","speed":"standard"}"#, Some(standard)),
            (r#"{"service_tier":"auto"}"#, Some(AskedService::Any)),
            (r#"{"service_tier":"flex"}"#, Some(AskedService::One(Service::Flex))),
            (r#"{"service_tier":"priority"}"#, Some(AskedService::One(Service::Priority))),
            (r#"{"speed":"fast"}"#, Some(AskedService::One(Service::Fast))),
            (r#"{"speed":"flex"}"#, None),
            (r#"{"service_tier":"batch"}"#, None),
            (r#"{"service_tier":"scale"}"#, None),
            (r#"{"service_tier":1}"#, None),
        ] {
            assert_eq!(service_of(Dialect::Chat, body.as_bytes()).ok(), asked, "{body}");
        }
        let priority = Some(AskedService::One(Service::Priority));
        for (body, asked) in [
            ("{}", Some(standard)),
            (r#"{"serviceTier":null}"#, Some(standard)),
            (r#"{"serviceTier":"STANDARD"}"#, Some(standard)),
            (r#"{"service_tier":"SERVICE_TIER_UNSPECIFIED"}"#, Some(standard)),
            (r#"{"serviceTier":"priority"}"#, priority),
            (r#"{"serviceTier":"PRIORITY"}"#, priority),
            (r#"{"service_tier":"SERVICE_TIER_PRIORITY"}"#, priority),
            (r#"{"service\u0054ier":"Priority"}"#, priority),
            (r#"{"serviceTier":"flex"}"#, Some(AskedService::One(Service::Flex))),
            (r#"{"serviceTier":"batch"}"#, None),
            (r#"{"serviceTier":2}"#, None),
        ] {
            assert_eq!(service_of(Dialect::Gemini, body.as_bytes()).ok(), asked, "{body}");
        }
    }
}
