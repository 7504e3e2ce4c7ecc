//! The price list: which call costs what, known before the call is made.

use std::sync::Arc;

use super::account::Price;
use super::money::{Credits, TokenPrice};

/// How heavy a route is; rate limits are multiplied by it (`[rate_limit]` in the settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteClass {
    /// Health checks: no rate limit.
    Health,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Text generation.
    Generation,
    /// Heavy processing.
    Heavy,
}

/// The price of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRule {
    /// The method it is for; `None` is any.
    pub method: Option<Arc<str>>,
    /// An exact path, or a prefix that ends in `/*`.
    pub path: Arc<str>,
    /// For rate limits.
    pub class: RouteClass,
    /// What the call costs whatever it does.
    pub base: Credits,
    /// What each token costs on top; `None` for a fixed price.
    pub per_token: Option<TokenPrice>,
    /// The most completion tokens assumed where the request does not say.
    pub default_max_tokens: u64,
}

/// What a request may consume at most, read from its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Demand {
    /// An upper bound of the prompt's tokens.
    pub prompt_tokens_max: u64,
    /// The most completion tokens the request allows, for each of its choices.
    pub completion_tokens_max: Option<u64>,
    /// How many completions are asked for.
    pub choices: u64,
}

/// The request could cost more than any account can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request could cost more than any account can hold")]
pub struct Unpayable;

impl PriceRule {
    /// Does the price depend on tokens?
    #[must_use]
    pub fn is_token_priced(&self) -> bool {
        self.per_token.is_some()
    }

    /// The price of a request with this demand.
    ///
    /// # Errors
    /// [`Unpayable`] where the sum does not fit into [`Credits`].
    pub fn price(&self, demand: Demand) -> Result<Price, Unpayable> {
        let Some(per_token) = self.per_token else {
            return Ok(Price::Fixed(self.base));
        };
        let completion = demand
            .completion_tokens_max
            .unwrap_or(self.default_max_tokens)
            .checked_mul(demand.choices)
            .ok_or(Unpayable)?;
        let tokens = demand.prompt_tokens_max.checked_add(completion).ok_or(Unpayable)?;
        let most = per_token.cost(self.base, tokens).ok_or(Unpayable)?;
        Ok(Price::UpTo { least: self.base, most })
    }

    /// The cost of a call that consumed so many tokens. `None` where it does not fit.
    #[must_use]
    pub fn cost(&self, tokens: u64) -> Option<Credits> {
        match self.per_token {
            None => Some(self.base),
            Some(per_token) => per_token.cost(self.base, tokens),
        }
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        let method_fits = self.method.as_deref().is_none_or(|own| own == method);
        let path_fits = match self.path.strip_suffix("/*") {
            Some(prefix) => path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => &*self.path == path,
        };
        method_fits && path_fits
    }

    /// Exact before prefix, longer before shorter, a named method before any.
    fn precedence(&self) -> (bool, usize, bool) {
        (!self.path.ends_with("/*"), self.path.len(), self.method.is_some())
    }
}

/// All prices. The most exact rule that fits a call prices it.
#[derive(Clone, Debug)]
pub struct PriceList {
    /// Most exact first, so that the first that fits is the one.
    rules: Vec<Arc<PriceRule>>,
}

impl PriceList {
    /// A list of these rules; where two are for the same method and path, the later one counts.
    #[must_use]
    pub fn new(rules: Vec<PriceRule>) -> Self {
        let mut kept: Vec<Arc<PriceRule>> = Vec::with_capacity(rules.len());
        for rule in rules {
            kept.retain(|other| (&other.method, &other.path) != (&rule.method, &rule.path));
            kept.push(Arc::new(rule));
        }
        kept.sort_by_key(|rule| std::cmp::Reverse(rule.precedence()));
        PriceList { rules: kept }
    }

    /// The rule for a call, if it has a price.
    #[must_use]
    pub fn find(&self, method: &str, path: &str) -> Option<&Arc<PriceRule>> {
        self.rules.iter().find(|rule| rule.matches(method, path))
    }

    /// Every rule, most exact first.
    pub fn rules(&self) -> impl Iterator<Item = &PriceRule> {
        self.rules.iter().map(|rule| &**rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(method: Option<&str>, path: &str, base: i64) -> PriceRule {
        PriceRule {
            method: method.map(Arc::from),
            path: path.into(),
            class: RouteClass::Read,
            base: Credits::from_nanos(base),
            per_token: None,
            default_max_tokens: 100,
        }
    }

    #[test]
    fn the_most_exact_rule_prices_the_call() {
        let list = PriceList::new(vec![
            rule(None, "/api/hub/*", 1),
            rule(None, "/api/hub/memory/*", 2),
            rule(Some("POST"), "/api/hub/memory/*", 3),
            rule(None, "/api/hub/memory/all", 4),
            rule(Some("DELETE"), "/api/hub/memory/all", 6),
            rule(Some("DELETE"), "/api/hub/memory/all", 5),
        ]);
        for (method, path, base) in [
            ("GET", "/api/hub/tasks", Some(1)),
            ("GET", "/api/hub", Some(1)),
            ("GET", "/api/hubs", None),
            ("GET", "/api/hub/memory", Some(2)),
            ("GET", "/api/hub/memory/7", Some(2)),
            ("GET", "/api/hub/memory7", Some(1)),
            ("POST", "/api/hub/memory/7", Some(3)),
            ("POST", "/api/hub/memory/all", Some(4)),
            ("DELETE", "/api/hub/memory/all", Some(5)),
            ("GET", "/v1/models", None),
        ] {
            let found = list.find(method, path).map(|rule| rule.base.nanos());
            assert_eq!(found, base, "{method} {path}");
        }
    }

    #[test]
    fn a_token_price_quotes_the_least_and_the_most() {
        let rule = PriceRule {
            per_token: Some("0.00001".parse().unwrap()),
            base: "0.0020".parse().unwrap(),
            ..rule(None, "/x", 0)
        };
        let asked = Demand { prompt_tokens_max: 10, completion_tokens_max: Some(20), choices: 2 };
        assert_eq!(
            rule.price(asked),
            Ok(Price::UpTo { least: "0.0020".parse().unwrap(), most: "0.0025".parse().unwrap() })
        );
        let silent = Demand { prompt_tokens_max: 0, completion_tokens_max: None, choices: 1 };
        assert_eq!(
            rule.price(silent),
            Ok(Price::UpTo { least: "0.0020".parse().unwrap(), most: "0.0030".parse().unwrap() })
        );
        let absurd = Demand { completion_tokens_max: Some(u64::MAX), choices: 2, ..silent };
        assert_eq!(rule.price(absurd), Err(Unpayable));
        assert_eq!(rule.cost(1_000), Some("0.0120".parse().unwrap()));
    }
}
