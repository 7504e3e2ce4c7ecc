//! What a call to a model asks for that only an own price of the card pays: a prompt that is kept
//! for an hour, and searches of the web. A parent's price, or none, would give it away.

use super::charge::ChargedCall;
use crate::upstream::Dialect;
use crate::upstream::dialect::{ModelRequest, ToldUsage};
use domain::oddity::Oddity;
use domain::pricing::{ModelPricing, ToldParts};
use domain::{Dim, ProviderUsage, Refusal, Reported};

/// The price, with the searches that the request may make.
///
/// # Errors
/// If the request asks for what the card has no own price for, or for a tool of which nobody can
/// say what it costs.
pub(super) fn priced_apart(
    pricing: ModelPricing,
    dialect: Dialect,
    body: &[u8],
    request: &ModelRequest,
) -> Result<ModelPricing, Refusal> {
    if let Some(field) = &request.kept_for_an_hour
        && !pricing.names(Dim::CacheWrite1h)
    {
        return Err(Refusal::BadBody(format!(
            "{field}: cache_control: ttl must be 5m, because this model has no price for an hour"
        )));
    }
    let searches = dialect.searches(body, &request.asks_for).map_err(|tool| {
        Refusal::BadBody(format!(
            "{tool}: this tool is not available with this model, because no answer says what it \
             costs. Please send the request without it."
        ))
    })?;
    if searches > 0 && !pricing.names(Dim::WebSearch) {
        return Err(Refusal::BadBody(
            "hosted_tools: this model has no price for searches of the web. Please send the \
             request without them."
                .to_owned(),
        ));
    }
    Ok(pricing.with_searches(searches))
}

/// What the upstream has told of the parts of its usage, as it counts. `reported` are the totals of
/// the same usage: they count alone if its parts are impossible or are not told.
pub(in crate::pipeline) fn told(
    charged: &ChargedCall,
    told: &ToldUsage,
    reported: Reported,
) -> ToldParts {
    let convention = charged.served();
    let Some((model, generation)) = charged.by_model() else {
        return ToldParts { convention, ..ToldParts::default() };
    };
    let web_searches = told.parts.web_searches;
    let mut parts = match reported {
        Reported::Absurd => ProviderUsage { web_searches, ..ProviderUsage::default() },
        Reported::Given(tokens) if told.is_absurd || told.parts.is_missing() => {
            ProviderUsage { web_searches, ..tokens.into() }
        }
        Reported::Given(_) | Reported::Missing => told.parts,
    };
    if generation.request.kept_for_an_hour.is_some() {
        parts = parts.kept_for_an_hour();
    }
    if model.may_name(Dim::OutputImage) {
        parts = parts.of_image_answer(convention, told.seen);
    }
    if model.searches() > 0 && !charged.dialect().tells_searches() {
        // Nobody says how often. It was asked for, so it was once.
        parts.web_searches = parts.web_searches.or(Some(1));
    }
    let served = told.served(model.asked()).or(charged.served_tier());
    let served = served.filter(|_| charged.bills_served_tier());
    let told_parts = ToldParts::new(&parts, convention, served);
    let is_impossible = match reported {
        Reported::Absurd => true,
        Reported::Given(_) => told.is_absurd,
        Reported::Missing => false,
    };
    let odd = told_parts.odd.with_if(is_impossible, Oddity::Impossible);
    ToldParts { odd, ..told_parts }
}
