//! Prices: what each call costs. The price, or its upper bound, is known before the call.
//!
//! A call is priced by its route (`route`), or by the card of the model that it names (`model`).
//! [`Pricing`] is the price of one call, whichever it is.

mod class;
mod demand;
mod extra;
mod fallback;
mod list;
mod model;
mod route;
mod settle;

use std::sync::Arc;

use crate::account::{Price, PriceBounds};
use crate::money::Credits;

pub use class::RouteClass;
pub use demand::Demand;
pub use extra::Extra;
pub use fallback::Fallback;
pub use list::PriceList;
pub use model::ModelPricing;
pub use route::PriceRule;
pub use settle::{Billed, CallEnd, ToldParts};

/// The request could cost more than any account can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request could cost more than any account can hold")]
pub struct Unpayable;

/// The price of one call.
#[derive(Clone, Debug)]
pub enum Pricing {
    /// That of its route.
    Route(Arc<PriceRule>),
    /// That of its model.
    Model(Box<ModelPricing>),
}

impl Pricing {
    /// The bounds of the cost of a request with this demand; `None` for a fixed price.
    ///
    /// # Errors
    /// If an amount is too large for [`Credits`].
    pub fn bounds(&self, demand: Demand) -> Result<Option<PriceBounds>, Unpayable> {
        match self {
            Pricing::Route(rule) => rule.bounds(demand),
            Pricing::Model(model) => model.bounds(demand).map(Some),
        }
    }

    /// The price with these bounds, or the fixed price if there are none.
    #[must_use]
    pub fn price(&self, bounds: Option<PriceBounds>) -> Price {
        match (self, bounds) {
            (Pricing::Route(rule), bounds) => rule.price(bounds),
            (Pricing::Model(_), Some(bounds)) => Price::UpTo(bounds),
            // A model has a price by its bounds alone.
            (Pricing::Model(model), None) => Price::Fixed(model.least()),
        }
    }

    /// All tokens of completions that the upstream may generate if it is told this limit of each.
    /// What is thought beside the limit is part of a route's bound of the prompt.
    #[must_use]
    pub fn allowed(&self, demand: &Demand, limit: u64) -> u64 {
        match self {
            Pricing::Route(_) => limit.saturating_mul(demand.choices),
            Pricing::Model(model) => model.allowed(demand, limit),
        }
    }

    /// How many completion tokens of each choice `ceiling` pays for, after the prompt.
    #[must_use]
    pub fn completion_tokens_within(&self, ceiling: Credits, demand: Demand) -> u64 {
        match self {
            Pricing::Route(rule) => rule.completion_tokens_within(ceiling, demand),
            Pricing::Model(model) => model.completion_tokens_within(ceiling, demand),
        }
    }

    /// How many tokens of a completion, of all choices together, `held` pays for after the prompt.
    #[must_use]
    pub fn tokens_within(&self, held: Credits, demand: Demand) -> u64 {
        match self {
            Pricing::Route(rule) => {
                rule.tokens_within(held).saturating_sub(demand.prompt_tokens_max)
            }
            Pricing::Model(model) => model.tokens_within(held, demand),
        }
    }

    /// The most that the prompt and so many tokens of a completion, of all choices together, come
    /// to. `None` if it does not fit into [`Credits`].
    #[must_use]
    pub fn cost_with(&self, demand: Demand, completion: u64) -> Option<Credits> {
        match self {
            Pricing::Route(rule) => rule.cost(demand.prompt_tokens_max.saturating_add(completion)),
            Pricing::Model(model) => model.cost_with(demand, completion),
        }
    }

    /// The least that a call costs whose prompt has so many tokens, as they are counted here.
    #[must_use]
    pub fn least(&self, prompt: u64) -> Credits {
        match self {
            Pricing::Route(rule) => rule.cost(prompt).unwrap_or(rule.base),
            Pricing::Model(model) => model.least(),
        }
    }
}

#[cfg(test)]
mod tests;
