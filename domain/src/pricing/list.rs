//! The list of the prices of routes.

use std::sync::Arc;

use super::PriceRule;
use crate::card::Card;
use crate::price_book::PriceVersion;

/// All prices. The most specific rule that matches a call gives its price.
#[derive(Clone, Debug)]
pub struct PriceList {
    /// The most specific rule first, so the first one that matches applies: exact paths, the
    /// longest first, and then prefixes.
    rules: Vec<Arc<PriceRule>>,
    /// How many of them have exact paths.
    exact: usize,
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
        let exact = kept.partition_point(|rule| rule.is_exact());
        PriceList { rules: kept, exact }
    }

    /// The rules as cards, by name. `None` if a base price is negative.
    #[must_use]
    pub fn cards(&self) -> Option<Vec<(Arc<str>, Arc<Card>)>> {
        let card = |rule: &PriceRule| Some((rule.card_name().into(), Arc::new(rule.card()?)));
        self.rules().map(card).collect()
    }

    /// The list whose rules name their cards as `version` numbers them.
    #[must_use]
    pub fn numbered(mut self, version: &PriceVersion) -> Self {
        for rule in &mut self.rules {
            let place = version.place(&rule.card_name());
            let number = place.and_then(|place| u16::try_from(place).ok());
            // A number that no version has: a bill that names it has no price.
            Arc::make_mut(rule).card_number = number.unwrap_or(u16::MAX);
        }
        self
    }

    /// The rule for a call; `None` if no rule matches. The path is as rules write it: see
    /// [`PriceRule::path`].
    #[must_use]
    pub fn find(&self, method: &str, path: &str) -> Option<&Arc<PriceRule>> {
        let (exact, prefixes) = self.rules.split_at_checked(self.exact)?;
        // Only those with a path as long as this one can match.
        let first = exact.partition_point(|rule| rule.path.len() > path.len());
        let as_long = exact.get(first..)?.iter().take_while(|rule| rule.path.len() == path.len());
        let found = as_long.chain(prefixes).find(|rule| rule.matches(method, path))?;
        let is_own = *found.path == *path || !self.has_method_of_a_model(path);
        is_own.then_some(found)
    }

    /// Is it the path of a method of a model, such as `/v1beta/models/*:generateContent`, and has
    /// it rules of its own? What is below `/v1beta/models` is for the names of models then, and
    /// not for their methods.
    fn has_method_of_a_model(&self, path: &str) -> bool {
        path.contains('*')
            && path.contains("/*:")
            && self.rules.iter().any(|rule| *rule.path == *path)
    }

    /// The methods that the rules for this path name, sorted.
    #[must_use]
    pub fn methods(&self, path: &str) -> Vec<&str> {
        let is_alone = self.has_method_of_a_model(path);
        let is_of = |rule: &&Arc<PriceRule>| {
            if is_alone { *rule.path == *path } else { rule.is_of(path) }
        };
        let of_path = self.rules.iter().filter(is_of);
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
