//! The price of a route, by its method and path.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Demand, Extra, RouteClass, Unpayable};
use crate::account::{Price, PriceBounds};
use crate::card::Card;
use crate::dim::Dim;
use crate::money::{Credits, TokenPrice};
use crate::quantities::Quantities;
use crate::rates::{Rates, UnitPrice};

/// The price of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRule {
    /// The method; `None` is any method.
    pub method: Option<Arc<str>>,
    /// An exact path, or a prefix that ends in `/*`.
    pub path: Arc<str>,
    /// The class for rate limits.
    pub class: RouteClass,
    /// The number of its card in the version of the price list, which
    /// [`super::PriceList::numbered`] gives it.
    pub card_number: u16,
    /// The part of the price that does not depend on tokens.
    pub base: Credits,
    /// The price of each token in addition to `base`; `None` for a fixed price.
    pub per_token: Option<TokenPrice>,
    /// Largest number of completion tokens, if the request sets none.
    pub default_max_tokens: u64,
    /// The same for single models, by name.
    pub default_max_tokens_of: BTreeMap<String, u64>,
    /// The context window of the models: no prompt has more tokens.
    pub context_tokens: u64,
    /// The same for single models.
    pub context_tokens_of: BTreeMap<String, u64>,
    /// What requests may ask for though its cost cannot be known before the call.
    pub sells: Vec<Extra>,
}

impl PriceRule {
    /// Does the price depend on tokens?
    #[must_use]
    pub fn is_token_priced(&self) -> bool {
        self.per_token.is_some()
    }

    /// Does a call cost nothing, whatever it asks for?
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.base == Credits::ZERO && self.per_token.is_none()
    }

    /// Largest number of completion tokens of a request to this model that sets none.
    #[must_use]
    pub fn default_max_tokens(&self, model: Option<&str>) -> u64 {
        let of_model = model.and_then(|model| self.default_max_tokens_of.get(model));
        of_model.copied().unwrap_or(self.default_max_tokens)
    }

    /// The context window of this model.
    #[must_use]
    pub fn context_tokens(&self, model: Option<&str>) -> u64 {
        let of_model = model.and_then(|model| self.context_tokens_of.get(model));
        of_model.copied().unwrap_or(self.context_tokens)
    }

    /// The bounds of the cost of a request with this demand; `None` for a fixed price.
    ///
    /// # Errors
    /// If an amount is too large for [`Credits`].
    pub fn bounds(&self, demand: Demand) -> Result<Option<PriceBounds>, Unpayable> {
        let Some(per_token) = self.per_token else { return Ok(None) };
        let with = |completion: u64| {
            let completion = completion.min(demand.completion_tokens_max);
            let tokens = completion.checked_mul(demand.choices)?;
            per_token.cost(self.base, tokens.checked_add(demand.prompt_tokens_max)?)
        };
        let bounds = || {
            Some(PriceBounds {
                least: self.base,
                start: with(demand.start_tokens)?,
                first: with(demand.first_tokens.max(demand.start_tokens))?,
                share: None,
                most: with(u64::MAX)?,
            })
        };
        bounds().map(Some).ok_or(Unpayable)
    }

    /// The price with these bounds, or the fixed price if there are none.
    #[must_use]
    pub fn price(&self, bounds: Option<PriceBounds>) -> Price {
        bounds.map_or(Price::Fixed(self.base), Price::UpTo)
    }

    /// How many completion tokens of each choice `ceiling` pays for, after the prompt.
    #[must_use]
    pub fn completion_tokens_within(&self, ceiling: Credits, demand: Demand) -> u64 {
        let Some(per_token) = self.per_token else { return demand.completion_tokens_max };
        let tokens = per_token.tokens_within(self.base, ceiling).unwrap_or(0);
        let completion = tokens.saturating_sub(demand.prompt_tokens_max);
        completion.checked_div(demand.choices).unwrap_or(0).min(demand.completion_tokens_max)
    }

    /// How many tokens, of prompt and completion together, `held` pays for.
    #[must_use]
    pub fn tokens_within(&self, held: Credits) -> u64 {
        self.per_token
            .map_or(u64::MAX, |per_token| per_token.tokens_within(self.base, held).unwrap_or(0))
    }

    /// The cost of a call with this many tokens; `None` if it does not fit into [`Credits`].
    #[must_use]
    pub fn cost(&self, tokens: u64) -> Option<Credits> {
        match self.per_token {
            None => Some(self.base),
            Some(per_token) => per_token.cost(self.base, tokens),
        }
    }

    /// The tokens that a call is billed for which takes this many, and their cost: all of them,
    /// unless their cost does not fit into [`Credits`].
    #[must_use]
    pub fn payable(&self, tokens: u64) -> (u64, Credits) {
        if let Some(cost) = self.cost(tokens) {
            return (tokens, cost);
        }
        let most = self.tokens_within(Credits::MAX);
        (most, self.cost(most).unwrap_or(Credits::MAX))
    }

    /// The tokens for which a call is billed that takes at least this many and costs at least
    /// `amount`, and their cost: `amount`, or a little more if no number of tokens costs just that.
    #[must_use]
    pub fn paid_with(&self, tokens: u64, amount: Credits) -> (u64, Credits) {
        let (tokens, cost) = self.payable(tokens);
        if cost >= amount {
            return (tokens, cost);
        }
        let within = self.tokens_within(amount);
        match self.payable(within) {
            (within, cost) if cost >= amount => (within, cost),
            _ => self.payable(within.saturating_add(1)),
        }
    }

    /// What a bill says of a call that takes so many tokens. A fixed price does not depend on them.
    #[must_use]
    pub fn quantities(&self, prompt: u64, completion: u64) -> Quantities {
        let call = Quantities::NONE.with(Dim::Request, 1);
        if self.is_token_priced() {
            call.with(Dim::Input, prompt).with(Dim::Output, completion)
        } else {
            call
        }
    }

    /// The name of its card: `POST /v1/responses`, or `* /api/hub/*` for any method.
    #[must_use]
    pub fn card_name(&self) -> String {
        format!("{} {}", self.method.as_deref().unwrap_or("*"), self.path)
    }

    /// It as a card: a call costs `base`, a token of the prompt or of the completion `per_token`.
    /// Calls cost the same by it. `None` if `base` is negative.
    #[must_use]
    pub fn card(&self) -> Option<Card> {
        let rates = Rates::NONE.with(Dim::Request, UnitPrice::from_nanos(self.base.nanos())?);
        let rates = self.per_token.map_or(rates, |price| {
            rates.with(Dim::Input, price.into()).with(Dim::Output, price.into())
        });
        Card::flat(rates).ok()
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        // The path first: it tells more rules apart.
        self.is_of(path) && self.method.as_deref().is_none_or(|own| own == method)
    }

    /// Is it for one path, not for all that begin like it?
    pub(super) fn is_exact(&self) -> bool {
        !self.path.ends_with("/*")
    }

    pub(super) fn is_of(&self, path: &str) -> bool {
        match self.path.strip_suffix("/*") {
            Some(prefix) => path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => self.path.len() == path.len() && &*self.path == path,
        }
    }

    /// The order in which rules apply: exact paths before prefixes, longer paths before shorter
    /// ones, a rule for one method before a rule for all.
    pub(super) fn precedence(&self) -> (bool, usize, bool) {
        (self.is_exact(), self.path.len(), self.method.is_some())
    }
}
