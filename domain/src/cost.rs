//! What calls cost us. A deployment names a price list that nobody is charged by: what its provider
//! takes. The quantities of a bill, priced by that list, are the cost of the call.
//!
//! So nothing is written for it when a call is paid: the bill is on record anyway, and versions of
//! price lists never change.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::bill::{Bill, VersionId};
use super::card::{Card, Service};
use super::catalogue::{Catalogue, Deployed};
use super::dim::{Dim, Side};
use super::money::Credits;
use super::price_book::{ListId, PriceBook};
use super::rates::UnitPrice;
use super::window::Timestamp;

/// Why nobody can say what a call cost us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownCost {
    /// Its usage record is gone, or it has no bill.
    NoRecord,
    /// It was sold by its route, or nobody knows which deployment of which model has served it.
    NoDeployment,
    /// Neither the deployment nor its provider names a price list, or there is none of that name.
    NoList,
    /// The list had no card for the provider's model then.
    NoCard,
    /// The card has no price for the service tier, or for something that was used.
    NoPrice,
}

impl UnknownCost {
    /// All of them.
    pub const ALL: [UnknownCost; 5] = [
        UnknownCost::NoRecord,
        UnknownCost::NoDeployment,
        UnknownCost::NoList,
        UnknownCost::NoCard,
        UnknownCost::NoPrice,
    ];

    /// Its word in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            UnknownCost::NoRecord => "no_record",
            UnknownCost::NoDeployment => "no_deployment",
            UnknownCost::NoList => "no_list",
            UnknownCost::NoCard => "no_card",
            UnknownCost::NoPrice => "no_price",
        }
    }
}

/// A price that is below what it costs us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBelowCost {
    /// The model.
    pub model: Arc<str>,
    /// The deployment that costs so much.
    pub deployment: Arc<str>,
    /// The service tier.
    pub service: Service,
    /// For prompts of more tokens than this.
    pub over: u64,
    /// The dimension.
    pub dim: Dim,
    /// What customers pay.
    pub price: UnitPrice,
    /// What we pay.
    pub cost: UnitPrice,
}

impl PriceBook {
    /// The prices of a version that are below what some deployment costs at this instant. `list_of`
    /// is the price list of a name.
    #[must_use]
    pub fn below_cost(
        &self,
        version: VersionId,
        at: Timestamp,
        catalogue: &Catalogue,
        list_of: impl Fn(&str) -> Option<ListId>,
    ) -> Vec<PriceBelowCost> {
        let mut below = Vec::new();
        let cost_list = |by: &Deployed| by.cost_list().and_then(|name| list_of(name));
        for found in catalogue.models() {
            let Some(sold) = self.priced(version, &found.card) else { continue };
            for one in found.served.iter().filter(|one| !one.by.deployment.is_disabled) {
                let Some(list) = cost_list(&one.by) else { continue };
                let name = card_of_upstream(&one.upstream_model);
                if let Some((_, cost)) = self.find_fitting(list, &name, at) {
                    compare(&mut below, &found.name, &one.by, &sold.card, &cost.card);
                }
            }
        }
        for (wildcard, by) in catalogue.wildcards().filter(|(_, by)| !by.deployment.is_disabled) {
            let Some(sold) = self.priced(version, &wildcard.pattern) else { continue };
            let Some(in_force) = cost_list(by).and_then(|list| self.in_force(list, at)) else {
                continue;
            };
            for name in self.card_names(in_force.id()) {
                let Some(public) = wildcard.public_name(&name) else { continue };
                let Some(cost) = self.priced(in_force.id(), &name) else { continue };
                // A model with a name of its own, or another pattern, takes some of its names.
                let is_its = name.ends_with('*')
                    || catalogue.find(&public).is_some_and(|found| found.card == wildcard.pattern);
                if is_its {
                    compare(&mut below, &public.into(), by, &sold.card, &cost.card);
                }
            }
        }
        below
    }
}

/// Adds the prices of `sold` that are below those of `cost`. A price is looked at where one of the
/// cards names it: what has its price from a parent is below its cost if the parent is.
fn compare(
    below: &mut Vec<PriceBelowCost>,
    model: &Arc<str>,
    by: &Deployed,
    sold: &Card,
    cost: &Card,
) {
    let rows = sold.rows().iter().chain(cost.rows());
    let places: BTreeSet<(Service, u64)> = rows.map(|row| (row.service, row.over)).collect();
    for (service, over) in places {
        let input = if over == 0 { 0 } else { over.saturating_add(1) };
        let (Some((_, sold)), Some((_, cost))) =
            (sold.row(service, input), cost.row(service, input))
        else {
            continue;
        };
        let named: BTreeSet<Dim> =
            sold.rates.named().chain(cost.rates.named()).map(|(dim, _)| dim).collect();
        for dim in named {
            if let (Some(price), Some(cost)) = (sold.rates.price(dim), cost.rates.price(dim))
                && price < cost
            {
                let (model, deployment) = (Arc::clone(model), Arc::clone(&by.deployment.name));
                below.push(PriceBelowCost { model, deployment, service, over, dim, price, cost });
            }
        }
    }
}

impl Bill {
    /// What the same usage costs by another card. The service tier is that of the bill; the row is
    /// that of the prompt's length.
    ///
    /// # Errors
    /// [`UnknownCost::NoRecord`] and [`UnknownCost::NoPrice`]
    pub fn cost_by_card(&self, book: &PriceBook, card: &Card) -> Result<Credits, UnknownCost> {
        let service = book.service(self).ok_or(UnknownCost::NoRecord)?;
        let row = card.row(service, self.quantities.sum(Side::In));
        let (_, row) = row.ok_or(UnknownCost::NoPrice)?;
        row.rates.cost(&self.quantities).ok_or(UnknownCost::NoPrice)
    }
}

/// The name that a card has for a model which its provider calls so. Names of cards are in
/// lowercase.
#[must_use]
pub fn card_of_upstream(upstream_model: &str) -> String {
    upstream_model.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::CardRow;
    use crate::catalogue::{
        CatalogueDocument, Credential, Deployment, DeploymentId, ModelProvider, ModelTarget,
        SoldModel, TargetAt, Wildcard,
    };
    use crate::price_book::{PriceVersion, VersionTerms};
    use crate::rates::{Multiplier, Rates};
    use crate::{Convention, Flags, Quantities};

    const COST: ListId = ListId(7);

    fn row(service: Service, over: u64, prices: &[(Dim, &str)]) -> CardRow {
        let with =
            |rates: Rates, (dim, price): &(Dim, &str)| rates.with(*dim, price.parse().unwrap());
        CardRow { service, over, rates: prices.iter().fold(Rates::NONE, with) }
    }

    type Cards<'c> = &'c [(&'c str, &'c [CardRow])];

    fn add(book: &mut PriceBook, id: u32, list: ListId, from: i64, cards: Cards<'_>) {
        let card = |(name, rows): &(&str, &[CardRow])| {
            (Arc::from(*name), Arc::new(Card::new(rows.to_vec()).unwrap()))
        };
        let terms = VersionTerms {
            id: VersionId::new(id).unwrap(),
            list,
            parent: None,
            multiplier: Multiplier::ONE,
            effective_from: Timestamp::from_micros(from),
            cards: cards.iter().map(card).collect(),
        };
        let version = PriceVersion::new(terms, book.last_link(list)).unwrap();
        book.add(Arc::new(version)).unwrap();
    }

    fn book() -> PriceBook {
        let standard = Service::Standard;
        let mut book = PriceBook::default();
        let sold = [
            row(standard, 0, &[(Dim::Input, "3"), (Dim::Output, "15")]),
            row(Service::Flex, 0, &[(Dim::Input, "1"), (Dim::Output, "9")]),
        ];
        let all = [row(standard, 0, &[(Dim::Input, "2"), (Dim::Output, "2")])];
        add(&mut book, 1, ListId::DEFAULT, 0, &[("any/*", &all), ("m", &sold)]);
        let cost = [
            row(standard, 0, &[(Dim::Input, "2"), (Dim::CacheRead, "0.2"), (Dim::Output, "10")]),
            row(standard, 1_000, &[(Dim::Input, "4"), (Dim::Output, "15")]),
        ];
        let dear = [row(standard, 0, &[(Dim::Input, "1"), (Dim::Output, "3")])];
        add(&mut book, 2, COST, 0, &[("theirs", &cost), ("x-dear", &dear), ("y-dear", &dear)]);
        let later = [row(standard, 0, &[(Dim::Input, "1"), (Dim::Output, "1")])];
        add(&mut book, 3, COST, 100, &[("theirs", &later)]);
        book
    }

    fn catalogue() -> Catalogue {
        let usual = SoldModel {
            max_input: 1,
            max_output: 1,
            tokenizer_permille: 1_000,
            ..SoldModel::default()
        };
        let document = CatalogueDocument {
            providers: vec![ModelProvider {
                name: "p".into(),
                cost: Some("cost".into()),
                ..ModelProvider::default()
            }],
            credentials: vec![Credential {
                name: "key".into(),
                provider: "p".into(),
                ..Credential::default()
            }],
            deployments: vec![Deployment {
                name: "d".into(),
                credential: "key".into(),
                upstream_model: Some("theirs".into()),
                ..Deployment::default()
            }],
            models: vec![SoldModel {
                name: "m".into(),
                targets: vec![ModelTarget {
                    at: TargetAt::Deployment("d".into()),
                    weight: 1,
                    priority: 0,
                }],
                ..usual.clone()
            }],
            wildcards: vec![Wildcard {
                pattern: "any/*".into(),
                credential: "key".into(),
                upstream_model: Some("x-$1".into()),
                model: usual,
            }],
        };
        let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
        Catalogue::new(1, document, &ids).unwrap()
    }

    #[test]
    fn what_is_sold_below_its_cost_is_named() {
        let (book, catalogue) = (book(), catalogue());
        let below = |at: i64, list: Option<ListId>| -> Vec<String> {
            let version = VersionId::FIRST;
            let found = book.below_cost(version, Timestamp::from_micros(at), &catalogue, |name| {
                list.filter(|_| name == "cost")
            });
            let one = |one: &PriceBelowCost| {
                let PriceBelowCost { model, deployment, over, dim, price, cost, .. } = one;
                let (price, cost) = (price.nanos(), cost.nanos());
                format!("{model} {deployment} {over} {} {price} {cost}", dim.name())
            };
            found.iter().map(one).collect()
        };
        let of_long = "m d 1000 input 3000000000 4000000000";
        let of_pattern = "any/dear any/*/key 0 output 2000000000 3000000000";
        assert_eq!(below(0, Some(COST)), [of_long, of_pattern]);
        // A version that follows costs less, and has no card for the pattern's model.
        assert_eq!(below(100, Some(COST)), Vec::<String>::new());
        assert_eq!(below(0, None), Vec::<String>::new());
    }

    #[test]
    fn a_bill_costs_us_what_its_quantities_cost_in_the_list() {
        let book = book();
        let bill = |row: u8, parts: &[(Dim, u64)]| Bill {
            version: VersionId::FIRST,
            card: 1,
            row,
            convention: Convention::default(),
            flags: Flags::NONE,
            quantities: parts.iter().copied().collect::<Quantities>(),
        };
        let cost = |bill: Bill, name: &str, at: i64| {
            let found =
                book.find_fitting(COST, &card_of_upstream(name), Timestamp::from_micros(at));
            let (_, cost) = found.ok_or(UnknownCost::NoCard)?;
            bill.cost_by_card(&book, &cost.card).map(Credits::nanos)
        };
        let short = bill(
            0,
            &[(Dim::Request, 1), (Dim::Input, 100), (Dim::CacheRead, 900), (Dim::Output, 7)],
        );
        // 100 x 2,000 + 900 x 200 + 7 x 10,000 nano-dollars.
        assert_eq!(cost(short, "Theirs", 0), Ok(450_000));
        assert_eq!(cost(short, "theirs", 100), Ok(1_007_000));
        // The row is that of the whole prompt, and what it does not name is plain input.
        let long = bill(0, &[(Dim::Input, 1_000), (Dim::CacheRead, 1), (Dim::Output, 1)]);
        assert_eq!(cost(long, "theirs", 0), Ok(1_001 * 4_000 + 15_000));
        assert_eq!(cost(short, "ours", 0), Err(UnknownCost::NoCard));
        let search = bill(0, &[(Dim::WebSearch, 1)]);
        assert_eq!(cost(search, "theirs", 0), Err(UnknownCost::NoPrice));
        // A service tier that the list does not have.
        assert_eq!(cost(bill(1, &[(Dim::Input, 1)]), "theirs", 0), Err(UnknownCost::NoPrice));
        assert_eq!(cost(bill(9, &[(Dim::Input, 1)]), "theirs", 0), Err(UnknownCost::NoRecord));
    }

    #[test]
    fn a_pattern_prices_what_has_no_card_of_its_own() {
        let book = book();
        let at = Timestamp::from_micros(0);
        let found = |name: &str| Some(book.find_fitting(ListId::DEFAULT, name, at)?.0.to_string());
        assert_eq!(found("any/thing"), Some("any/*".into()));
        assert_eq!((found("m"), found("any/"), found("n")), (Some("m".into()), None, None));
        assert_eq!(book.find_fitting(ListId(99), "m", at), None);
    }
}
