//! What changes between two sets of cards, by model and dimension.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::Card;
use domain::price_book::{PriceDifference, card_differences};

/// The difference between the cards of a list and those that take their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceComparison {
    /// Models that get a card.
    pub added: Vec<Arc<str>>,
    /// Models that lose theirs.
    pub removed: Vec<Arc<str>>,
    /// How many models keep all their prices.
    pub unchanged: usize,
    /// The prices that change, by model.
    pub changes: Vec<PriceDifference>,
}

/// What is different in `new`.
#[must_use]
pub fn compare(
    old: &BTreeMap<Arc<str>, Arc<Card>>,
    new: &BTreeMap<Arc<str>, Arc<Card>>,
) -> PriceComparison {
    let mut comparison = PriceComparison::default();
    let is_gone = |name: &&Arc<str>| !new.contains_key(*name);
    comparison.removed.extend(old.keys().filter(is_gone).cloned());
    for (name, card) in new {
        let Some(before) = old.get(name) else {
            comparison.added.push(Arc::clone(name));
            continue;
        };
        let changes = card_differences(name, Some(before), Some(card));
        if changes.is_empty() {
            comparison.unchanged = comparison.unchanged.saturating_add(1);
        }
        comparison.changes.extend(changes);
    }
    comparison
}

#[cfg(test)]
mod tests {
    use domain::{CardRow, Dim, Rates, Service, UnitPrice};

    use super::*;

    fn price(text: &str) -> UnitPrice {
        text.parse().unwrap()
    }

    type Row<'r> = (Service, u64, &'r [(Dim, &'r str)]);

    fn card(rows: &[Row<'_>]) -> Arc<Card> {
        let rows = rows.iter().map(|(service, over, prices)| CardRow {
            service: *service,
            over: *over,
            rates: prices.iter().map(|(dim, text)| (*dim, price(text))).collect::<Rates>(),
        });
        Arc::new(Card::new(rows.collect()).unwrap())
    }

    fn cards(cards: &[(&str, &Arc<Card>)]) -> BTreeMap<Arc<str>, Arc<Card>> {
        cards.iter().map(|(name, card)| (Arc::from(*name), Arc::clone(card))).collect()
    }

    #[test]
    fn every_price_that_changes_is_told_once() {
        use Service::{Priority, Standard};
        let old = card(&[
            (Standard, 0, &[(Dim::Input, "10"), (Dim::Output, "50")]),
            (Standard, 200_000, &[(Dim::Input, "20"), (Dim::Output, "50")]),
        ]);
        let new = card(&[
            (Standard, 0, &[(Dim::Input, "10"), (Dim::CacheRead, "1"), (Dim::Output, "60")]),
            (Priority, 0, &[(Dim::Input, "20")]),
        ]);
        let same = card(&[(Standard, 0, &[(Dim::Input, "10"), (Dim::CacheRead, "10")])]);
        let also = card(&[(Standard, 0, &[(Dim::Input, "10")])]);
        let before = cards(&[("a", &old), ("b", &same), ("gone", &old)]);
        let after = cards(&[("a", &new), ("b", &also), ("new", &new)]);
        let found = compare(&before, &after);
        assert_eq!((found.added, found.removed), (vec!["new".into()], vec!["gone".into()]));
        assert_eq!(found.unchanged, 1);
        let told: Vec<String> = found
            .changes
            .iter()
            .map(|change| {
                let text = |price: Option<UnitPrice>| {
                    price.map_or_else(|| "-".to_owned(), |price| price.to_string())
                };
                let percent =
                    change.percent().map_or_else(|| "-".to_owned(), |percent| percent.to_string());
                let PriceDifference { service, over, dim, .. } = change;
                let (old, new) = (text(change.old), text(change.new));
                format!("{} {over} {} {old} {new} {percent}", service.name(), dim.name())
            })
            .collect();
        assert_eq!(
            told,
            [
                "standard 0 cache_read 10.0000 1.0000 -90.00",
                "standard 0 output 50.0000 60.0000 +20.00",
                "standard 200000 input 20.0000 10.0000 -50.00",
                "standard 200000 cache_read 20.0000 1.0000 -95.00",
                "standard 200000 output 50.0000 60.0000 +20.00",
                "priority 0 input - 20.0000 -",
            ]
        );
        assert_eq!(compare(&after, &after).changes, []);
    }
}
