//! The price list: what each call costs. The price, or its upper bound, is known before the call.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::account::{Price, PriceBounds};
use super::money::{Credits, TokenPrice};
use super::tally::{TokenUsage, tolerated};

/// How expensive a route is to serve. A rate limit is multiplied by the factor of the class
/// (`[rate_limit]` in the settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteClass {
    /// Health checks, which have no rate limit.
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

impl RouteClass {
    /// All classes.
    pub const ALL: [RouteClass; 5] = [
        RouteClass::Health,
        RouteClass::Read,
        RouteClass::Write,
        RouteClass::Generation,
        RouteClass::Heavy,
    ];
    /// Their names, in the same order.
    pub const NAMES: [&str; 5] = ["health", "read", "write", "generation", "heavy"];

    /// The name in the settings and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RouteClass::Health => "health",
            RouteClass::Read => "read",
            RouteClass::Write => "write",
            RouteClass::Generation => "generation",
            RouteClass::Heavy => "heavy",
        }
    }
}

/// Something that a request can ask for whose cost cannot be known before the call. It is refused
/// unless the route sells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The answer is made later, and fetched by another call.
    Background,
    /// Another tier than the default, at another price of the upstream.
    ServiceTier,
    /// Tools that the upstream runs: searches, interpreters, remote servers.
    HostedTools,
    /// A prompt that the upstream keeps.
    PromptTemplate,
    /// A file that the upstream fetches.
    FileUrl,
    /// Other models beside the one that the request names.
    OtherModels,
    /// An earlier answer that the upstream remembers.
    PreviousResponse,
    /// A conversation that the upstream remembers.
    Conversation,
    /// An item that the upstream remembers.
    ItemReference,
    /// A file that the upstream keeps.
    FileId,
    /// A container that the upstream keeps.
    Container,
}

impl Extra {
    /// All of them.
    pub const ALL: [Extra; 11] = [
        Extra::Background,
        Extra::ServiceTier,
        Extra::HostedTools,
        Extra::PromptTemplate,
        Extra::FileUrl,
        Extra::OtherModels,
        Extra::PreviousResponse,
        Extra::Conversation,
        Extra::ItemReference,
        Extra::FileId,
        Extra::Container,
    ];

    /// Its name in the settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Extra::Background => "background",
            Extra::ServiceTier => "service_tier",
            Extra::HostedTools => "hosted_tools",
            Extra::PromptTemplate => "prompt",
            Extra::FileUrl => "file_url",
            Extra::OtherModels => "other_models",
            Extra::PreviousResponse => "previous_response_id",
            Extra::Conversation => "conversation",
            Extra::ItemReference => "item_reference",
            Extra::FileId => "file_id",
            Extra::Container => "container",
        }
    }

    /// Does it name what a customer has stored at the upstream? All customers share its credential,
    /// so the name could be that of another customer's data. It is never sold.
    #[must_use]
    pub const fn is_of_a_customer(self) -> bool {
        matches!(
            self,
            Extra::PreviousResponse
                | Extra::Conversation
                | Extra::ItemReference
                | Extra::FileId
                | Extra::Container
        )
    }

    /// Can it fill the model's context window with text that is not seen here?
    #[must_use]
    pub const fn fills_the_context(self) -> bool {
        !matches!(self, Extra::Background | Extra::ServiceTier | Extra::OtherModels)
    }
}

/// The price of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRule {
    /// The method; `None` is any method.
    pub method: Option<Arc<str>>,
    /// An exact path, or a prefix that ends in `/*`.
    pub path: Arc<str>,
    /// The class for rate limits.
    pub class: RouteClass,
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

/// The tokens that a token-priced request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// An upper bound of the prompt's tokens.
    pub prompt_tokens_max: u64,
    /// Largest number of completion tokens of each choice.
    pub completion_tokens_max: u64,
    /// The number of completions (choices) that the request asks for.
    pub choices: u64,
    /// Completion tokens of each choice that must be affordable for the call to begin.
    pub start_tokens: u64,
    /// Completion tokens of each choice that are held when the call begins.
    pub first_tokens: u64,
    /// The context window of the model.
    pub context_tokens: u64,
}

impl Demand {
    /// The tokens that are billed if the upstream reports `usage` after it was told this token
    /// limit for each choice. A prompt may be larger than its bound: only the upstream knows the
    /// tokens of what it fetches or adds, and no prompt is larger than the context window. Above
    /// that the report is not believed, and what the request allowed is billed.
    #[must_use]
    pub fn believed(&self, usage: TokenUsage, limit: u64) -> u64 {
        let completion = limit.saturating_mul(self.choices);
        let prompt = tolerated(self.prompt_tokens_max).max(self.context_tokens);
        let total = usage.total();
        if total <= prompt.saturating_add(completion) {
            return total;
        }
        self.prompt_tokens_max.saturating_add(completion).min(total)
    }

    /// The tokens that are billed if the completion was counted here, because the upstream reports
    /// none. Our count may be wrong, and the upstream was told this token limit for each choice. So
    /// what the client does not have counts up to the limit. An upstream may go on beyond its
    /// limit: what was delivered counts as far as an upstream's own tokenizer may differ from ours.
    #[must_use]
    pub fn counted(&self, usage: TokenUsage, limit: u64, is_delivered: bool) -> u64 {
        let told = limit.saturating_mul(self.choices);
        let completion = if is_delivered { tolerated(told) } else { told };
        let believed = tolerated(self.prompt_tokens_max).max(self.context_tokens);
        let prompt = if usage.prompt <= believed { usage.prompt } else { 0 };
        prompt.max(self.prompt_tokens_max).saturating_add(completion).min(usage.total())
    }
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

    fn matches(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|own| own == method) && self.is_of(path)
    }

    fn is_of(&self, path: &str) -> bool {
        match self.path.strip_suffix("/*") {
            Some(prefix) => path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => &*self.path == path,
        }
    }

    /// The order in which rules apply: exact paths before prefixes, longer paths before shorter
    /// ones, a rule for one method before a rule for all.
    fn precedence(&self) -> (bool, usize, bool) {
        (!self.path.ends_with("/*"), self.path.len(), self.method.is_some())
    }
}

/// All prices. The most specific rule that matches a call gives its price.
#[derive(Clone, Debug)]
pub struct PriceList {
    /// The most specific rule first, so the first one that matches applies.
    rules: Vec<Arc<PriceRule>>,
}

impl PriceList {
    /// A list of these rules. If two have the same method and path, the later one counts.
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

    /// The rule for a call; `None` if no rule matches.
    #[must_use]
    pub fn find(&self, method: &str, path: &str) -> Option<&Arc<PriceRule>> {
        self.rules.iter().find(|rule| rule.matches(method, path))
    }

    /// The methods that the rules for this path name, sorted.
    #[must_use]
    pub fn methods(&self, path: &str) -> Vec<&str> {
        let of_path = self.rules.iter().filter(|rule| rule.is_of(path));
        let mut methods: Vec<&str> = of_path.filter_map(|rule| rule.method.as_deref()).collect();
        methods.sort_unstable();
        methods.dedup();
        methods
    }

    /// All rules, the most specific first.
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
            default_max_tokens_of: BTreeMap::new(),
            context_tokens: 1_000,
            context_tokens_of: BTreeMap::new(),
            sells: Vec::new(),
        }
    }

    #[test]
    fn the_most_specific_rule_prices_the_call() {
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
        assert_eq!(list.methods("/api/hub/memory/all"), ["DELETE", "POST"]);
        assert!(list.methods("/api/hub/tasks").is_empty());
    }

    const ASKED: Demand = Demand {
        prompt_tokens_max: 10,
        completion_tokens_max: 20,
        choices: 2,
        start_tokens: 1,
        first_tokens: 5,
        context_tokens: 1_000,
    };

    #[test]
    fn a_report_is_believed_up_to_the_context_window() {
        for (usage, billed) in [
            (TokenUsage::new(10, 20), 30),
            // More than was counted and asked for, but it may be true.
            (TokenUsage::new(900, 20), 920),
            (TokenUsage { reported_total: 1_040, ..TokenUsage::default() }, 1_040),
            // No window is that large: 10 of the prompt, 2 choices of 20.
            (TokenUsage::new(1_010, 31), 50),
            (TokenUsage::new(u64::MAX, u64::MAX), 50),
        ] {
            assert_eq!(ASKED.believed(usage, 20), billed, "{usage:?}");
        }
        let huge = Demand { prompt_tokens_max: 5_000, ..ASKED };
        assert_eq!(huge.believed(TokenUsage::new(10_064, 40), 20), 10_104);
    }

    #[test]
    fn our_own_count_is_bounded_by_what_the_upstream_was_told() {
        for (usage, delivered, unseen) in [
            (TokenUsage::new(10, 20), 30, 30),
            // 10 of the prompt, 2 choices of 20: twice that and 64 more, if it was delivered.
            (TokenUsage::new(10, 100), 110, 50),
            (TokenUsage::new(10, 9_000), 10 + 144, 50),
            // The prompt is reported, and may be true.
            (TokenUsage::new(900, 9_000), 900 + 144, 940),
            (TokenUsage::new(9_000, 9_000), 10 + 144, 50),
        ] {
            assert_eq!(ASKED.counted(usage, 20, true), delivered, "{usage:?}");
            assert_eq!(ASKED.counted(usage, 20, false), unseen, "{usage:?}");
        }
    }

    fn by_token() -> PriceRule {
        PriceRule {
            per_token: Some("0.00001".parse().unwrap()),
            base: "0.0020".parse().unwrap(),
            ..rule(None, "/x", 0)
        }
    }

    #[test]
    fn a_token_price_has_bounds() {
        let amount = |text: &str| text.parse().unwrap();
        let bounds = by_token().bounds(ASKED).unwrap().unwrap();
        assert_eq!(
            bounds,
            PriceBounds {
                least: amount("0.0020"),
                start: amount("0.00212"),
                first: amount("0.0022"),
                most: amount("0.0025")
            }
        );
        // A step never exceeds what the request asks for.
        let short = Demand { completion_tokens_max: 0, ..ASKED };
        let bounds = by_token().bounds(short).unwrap().unwrap();
        assert_eq!((bounds.start, bounds.most), (amount("0.0021"), amount("0.0021")));
        let absurd = Demand { completion_tokens_max: u64::MAX, ..ASKED };
        assert_eq!(by_token().bounds(absurd), Err(Unpayable));
        assert_eq!(rule(None, "/x", 7).bounds(absurd), Ok(None));
        assert_eq!(by_token().cost(1_000), Some(amount("0.0120")));
    }

    #[test]
    fn a_ceiling_limits_the_completion_tokens() {
        let within =
            |ceiling: &str| by_token().completion_tokens_within(ceiling.parse().unwrap(), ASKED);
        assert_eq!((within("0.0019"), within("0.0021"), within("0.00215")), (0, 0, 2));
        assert_eq!((within("0.0025"), within("1")), (20, 20));
        assert_eq!(by_token().tokens_within("0.00215".parse().unwrap()), 15);
    }

    #[test]
    fn a_model_may_have_a_default_of_its_own() {
        let default_max_tokens_of = BTreeMap::from([("large".to_owned(), 9)]);
        let context_tokens_of = BTreeMap::from([("large".to_owned(), 7)]);
        let rule = PriceRule { default_max_tokens_of, context_tokens_of, ..by_token() };
        assert_eq!(rule.context_tokens(Some("large")), 7);
        assert_eq!(rule.context_tokens(None), 1_000);
        assert_eq!(rule.default_max_tokens(Some("large")), 9);
        assert_eq!(rule.default_max_tokens(Some("small")), 100);
        assert_eq!(rule.default_max_tokens(None), 100);
    }
}
