//! The price of a call by the card of its model.

use super::{Demand, Unpayable};
use crate::account::PriceBounds;
use crate::bill::Flags;
use crate::card::{Card, CardRow, Envelope, Service, ServiceSet};
use crate::dim::{Dim, DimSet};
use crate::money::Credits;
use crate::price_book::Priced;
use crate::quantities::Quantities;

/// The price of one call to a model: the card of the model, and what the request can use of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPricing {
    priced: Priced,
    may: DimSet,
    services: ServiceSet,
    service: Service,
    thinking_tokens: u64,
    searches: u64,
    is_of_other_model: bool,
}

/// What every call uses beside its tokens.
pub(super) fn call() -> Quantities {
    Quantities::NONE.with(Dim::Request, 1)
}

/// The dimensions that rows of these service tiers price, without what is ruled out.
fn may_use(card: &Card, services: ServiceSet, ruled_out: DimSet) -> DimSet {
    let rows = card.rows().iter().filter(|row| services.contains(row.service));
    let sold = rows.flat_map(|row| row.rates.sold().dims());
    sold.filter(|dim| !ruled_out.contains(*dim)).collect()
}

impl ModelPricing {
    /// The price of a call that asks for this service tier of the model. It may use what the card
    /// prices, but nothing that is ruled out. Each choice may think so many tokens beside its token
    /// limit. `None`: the card does not have the service tier.
    #[must_use]
    pub fn new(
        priced: Priced,
        service: Service,
        ruled_out: DimSet,
        thinking_tokens: u64,
    ) -> Option<Self> {
        if !priced.card.services().contains(service) {
            return None;
        }
        let services = ServiceSet::EMPTY.with(Service::Standard).with(service);
        let may = may_use(&priced.card, services, ruled_out);
        Some(ModelPricing {
            priced,
            may,
            services,
            service,
            thinking_tokens,
            searches: 0,
            is_of_other_model: false,
        })
    }

    /// The same if the provider chooses the service tier: any that the card has may serve.
    #[must_use]
    pub fn of_any_service(priced: Priced, ruled_out: DimSet, thinking_tokens: u64) -> Self {
        let (services, service) = (priced.card.services(), Service::Standard);
        let may = may_use(&priced.card, services, ruled_out);
        ModelPricing {
            priced,
            may,
            services,
            service,
            thinking_tokens,
            searches: 0,
            is_of_other_model: false,
        }
    }

    /// The same for a call that may search the web so often.
    #[must_use]
    pub fn with_searches(self, searches: u64) -> Self {
        ModelPricing { searches, ..self }
    }

    /// The price of another model than was asked for, which answers: its bills say so.
    #[must_use]
    pub fn of_other_model(self) -> Self {
        ModelPricing { is_of_other_model: true, ..self }
    }

    /// The flags of a bill by this price, beside those of what was used.
    pub(super) fn flags(&self) -> Flags {
        Flags::NONE.and_if(self.is_of_other_model, Flags::OTHER_MODEL)
    }

    /// How often the call may search the web, as far as that is known before it.
    #[must_use]
    pub fn searches(&self) -> u64 {
        self.searches
    }

    /// The service tier that is billed if the provider says nothing.
    #[must_use]
    pub fn asked(&self) -> Service {
        self.service
    }

    /// The rows that may price the call.
    fn rows(&self) -> impl Iterator<Item = &CardRow> {
        self.card().rows().iter().filter(|row| self.services.contains(row.service))
    }

    /// Does each row that may price the call have an own price of this dimension? The price of its
    /// parent may be far below what it costs.
    #[must_use]
    pub fn names(&self, dim: Dim) -> bool {
        self.rows().all(|row| row.rates.names(dim))
    }

    /// Does one of them?
    #[must_use]
    pub fn may_name(&self, dim: Dim) -> bool {
        self.rows().any(|row| row.rates.names(dim))
    }

    /// Can the completion have sounds or images with a price of their own? Only the provider knows
    /// how many tokens they have.
    #[must_use]
    pub fn draws(&self) -> bool {
        let dims = [Dim::OutputAudio, Dim::OutputImage];
        dims.into_iter().any(|dim| self.may.contains(dim) && self.may_name(dim))
    }

    /// The price in its list.
    #[must_use]
    pub fn priced(&self) -> &Priced {
        &self.priced
    }

    pub(super) fn card(&self) -> &Card {
        &self.priced.card
    }

    /// The service tier that is billed if the provider says that `served` has served: that, if the
    /// call may be served so; else the one that the request asks for.
    pub(super) fn service(&self, served: Option<Service>) -> Service {
        served.filter(|served| self.services.contains(*served)).unwrap_or(self.service)
    }

    /// All tokens of completions that the upstream may generate if it is told this limit of each.
    pub(super) fn allowed(&self, demand: &Demand, limit: u64) -> u64 {
        limit.saturating_add(self.thinking_tokens).saturating_mul(demand.choices)
    }

    fn envelope(&self, demand: &Demand, output: u64) -> Envelope {
        let (may, services) = (self.may, self.services);
        let beside = call().with(Dim::WebSearch, self.searches);
        Envelope { input: demand.prompt_tokens_max, output, may, beside, services }
    }

    /// The least that a call costs: that of the call itself.
    #[must_use]
    pub fn least(&self) -> Credits {
        self.rows().filter_map(|row| row.rates.cost(&call())).min().unwrap_or(Credits::ZERO)
    }

    /// The bounds of the cost of a request with this demand, whichever row of the card prices it.
    ///
    /// # Errors
    /// If an amount is too large for [`Credits`].
    pub fn bounds(&self, demand: Demand) -> Result<PriceBounds, Unpayable> {
        let with = |completion: u64| {
            let completion = completion.min(demand.completion_tokens_max);
            let output = if demand.completion_tokens_max == 0 {
                0
            } else {
                self.allowed(&demand, completion)
            };
            self.cost_with(demand, output)
        };
        let bounds = || {
            let start = with(demand.start_tokens)?;
            Some(PriceBounds {
                least: self.least().min(start),
                start,
                first: with(demand.first_tokens.max(demand.start_tokens))?,
                share: None,
                most: with(u64::MAX)?,
            })
        };
        bounds().ok_or(Unpayable)
    }

    /// Does the card price all that a request with this demand needs? If it does not, the model is
    /// not sold.
    #[must_use]
    pub fn is_sold(&self, demand: &Demand) -> bool {
        self.cost_with(*demand, demand.completion_tokens_max.min(1)).is_some()
    }

    /// How many completion tokens of each choice `ceiling` pays for, after the prompt.
    #[must_use]
    pub fn completion_tokens_within(&self, ceiling: Credits, demand: Demand) -> u64 {
        if demand.completion_tokens_max == 0 {
            return 0;
        }
        let of_each = self.tokens_within(ceiling, demand).checked_div(demand.choices).unwrap_or(0);
        of_each.saturating_sub(self.thinking_tokens).min(demand.completion_tokens_max)
    }

    /// How many tokens of a completion, of all choices together, `held` pays for after the prompt.
    #[must_use]
    pub fn tokens_within(&self, held: Credits, demand: Demand) -> u64 {
        self.card().output_within(held, &self.envelope(&demand, 0)).unwrap_or(0)
    }

    /// The most that the prompt and so many tokens of a completion come to, whichever row prices
    /// them. `None` if it does not fit into [`Credits`].
    #[must_use]
    pub fn cost_with(&self, demand: Demand, completion: u64) -> Option<Credits> {
        self.card().bound(&self.envelope(&demand, completion))
    }
}
