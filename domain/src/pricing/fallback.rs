//! The price of a call that another model answers than the one that was asked for.

use super::{Demand, ModelPricing, Unpayable};
use crate::money::Credits;

/// Another model that may answer a call: the price that counts then, and what the call may use of
/// it. The model counts tokens in its own way and has a context window of its own, so the same
/// prompt may cost more there, also at the price of the model that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    pricing: ModelPricing,
    demand: Demand,
}

impl Fallback {
    /// At this price, for this demand. The model may answer with at most `output_max` tokens of
    /// each choice, and is told no more than `told`, which the first model was told.
    ///
    /// `None`: the price list has no price for all that the call may use.
    #[must_use]
    pub fn new(pricing: ModelPricing, demand: Demand, output_max: u64, told: u64) -> Option<Self> {
        let completion_tokens_max = demand.completion_tokens_max.min(output_max).min(told);
        let demand = Demand { completion_tokens_max, ..demand };
        pricing.is_sold(&demand).then_some(Fallback { pricing, demand })
    }

    /// The price that counts.
    #[must_use]
    pub fn pricing(&self) -> &ModelPricing {
        &self.pricing
    }

    /// What the call may use.
    #[must_use]
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// What must be held before the model is asked, and what is held if it is there.
    ///
    /// # Errors
    /// If an amount is too large for [`Credits`].
    pub fn hold(&self) -> Result<(Credits, Credits), Unpayable> {
        let bounds = self.pricing.bounds(self.demand)?;
        Ok((bounds.start, bounds.first))
    }

    /// The most that the call comes to.
    ///
    /// # Errors
    /// If it is too large for [`Credits`].
    pub fn most(&self) -> Result<Credits, Unpayable> {
        self.pricing.bounds(self.demand).map(|bounds| bounds.most)
    }

    /// The token limit of each choice that `covering` pays for.
    #[must_use]
    pub fn token_limit(&self, covering: Credits) -> u64 {
        self.pricing.completion_tokens_within(covering, self.demand)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::card::Service;
    use crate::dim::{Dim, DimSet};
    use crate::{Card, Priced, Rates, UnitPrice, VersionId};

    /// So many dollars for a million tokens of the prompt, and of the completion.
    fn pricing(input: &str, output: Option<&str>) -> ModelPricing {
        let price = |text: &str| text.parse::<UnitPrice>().unwrap();
        let rates = Rates::NONE.with(Dim::Input, price(input)).with(Dim::Request, price("0"));
        let rates = output.map_or(rates, |output| rates.with(Dim::Output, price(output)));
        let card = Arc::new(Card::flat(rates).unwrap());
        let priced = Priced { version: VersionId::new(1).unwrap(), number: 0, card };
        ModelPricing::new(priced, Service::Standard, DimSet::EMPTY, 0).unwrap()
    }

    const DEMAND: Demand = Demand {
        prompt_tokens_max: 1_000,
        completion_tokens_max: 500,
        choices: 2,
        start_tokens: u64::MAX,
        first_tokens: u64::MAX,
        context_tokens: 4_000,
        is_counted: true,
    };

    #[test]
    fn the_hold_is_for_the_prompt_and_the_price_of_the_other_model() {
        let fallback = |pricing, output_max, told| Fallback::new(pricing, DEMAND, output_max, told);
        let dear = fallback(pricing("2", Some("10")), 9_000, 9_000).unwrap();
        // 1,000 tokens at 2 dollars, and twice 500 at 10.
        let all = Credits::from_nanos(2_000_000 + 10_000_000);
        assert_eq!((dear.hold(), dear.most()), (Ok((all, all)), Ok(all)));
        assert_eq!((dear.token_limit(all), dear.demand().prompt_tokens_max), (500, 1_000));
        assert_eq!(dear.token_limit(Credits::from_nanos(all.nanos() - 1)), 499);
        // A shorter answer, by the model or by what the first one was told.
        for (output_max, told) in [(100, 9_000), (9_000, 100)] {
            let short = fallback(pricing("2", Some("10")), output_max, told).unwrap();
            let less = Credits::from_nanos(2_000_000 + 2_000_000);
            assert_eq!((short.most(), short.token_limit(all)), (Ok(less), 100));
        }
        // Less is needed than is wanted if an answer may be shorter.
        let partial = Demand { start_tokens: 10, ..DEMAND };
        let partial = Fallback::new(pricing("2", Some("10")), partial, 9_000, 9_000).unwrap();
        assert_eq!(partial.hold(), Ok((Credits::from_nanos(2_200_000), all)));
        assert_eq!(fallback(pricing("2", None), 9_000, 9_000), None);
    }
}
