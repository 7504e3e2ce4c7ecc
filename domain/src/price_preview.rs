//! What calls that were billed would have cost by versions of prices that are not published yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bill::{Bill, VersionId};
use super::dim::Side;
use super::money::Credits;
use super::price_book::{ListId, PercentChange, PriceBook};

/// The calls of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreviewedCalls {
    /// How many.
    pub calls: u64,
    /// How many of them the new version does not sell. They are in neither sum.
    pub not_sold: u64,
    /// What the others cost by the prices that they were billed by.
    pub cost: Credits,
    /// What these would have cost.
    pub preview: Credits,
}

fn sum(a: Credits, b: Credits) -> Credits {
    a.checked_add(b).unwrap_or(Credits::MAX)
}

impl PreviewedCalls {
    fn merge(&mut self, other: &PreviewedCalls) {
        self.calls = self.calls.saturating_add(other.calls);
        self.not_sold = self.not_sold.saturating_add(other.not_sold);
        self.cost = sum(self.cost, other.cost);
        self.preview = sum(self.preview, other.preview);
    }

    /// How much more they would have cost; negative is less. `None` if it does not fit.
    #[must_use]
    pub fn change(&self) -> Option<Credits> {
        self.preview.checked_sub(self.cost)
    }

    /// The same in hundredths of a percent; `None`: they cost nothing.
    #[must_use]
    pub fn percent(&self) -> Option<PercentChange> {
        PercentChange::between(self.cost.nanos(), self.preview.nanos())
    }
}

/// What calls would have cost, by model.
#[derive(Clone, Debug)]
pub struct PricePreview {
    versions: BTreeMap<ListId, VersionId>,
    models: BTreeMap<Arc<str>, PreviewedCalls>,
}

impl PricePreview {
    /// By these versions, each in place of what its list had. Calls by other lists do not count.
    #[must_use]
    pub fn by(versions: impl IntoIterator<Item = (ListId, VersionId)>) -> Self {
        PricePreview { versions: versions.into_iter().collect(), models: BTreeMap::new() }
    }

    /// Adds a call, if one of the lists has priced it. The service tier stays; the row is that of
    /// the prompt's length. Returns whether it counts.
    pub fn add(&mut self, bill: &Bill, book: &PriceBook) -> bool {
        let list = book.by_id(bill.version).map(|version| version.list());
        let version = list.and_then(|list| self.versions.get(&list).copied());
        let known = version.zip(book.card_name(bill).cloned()).zip(bill.cost(book));
        let Some(((version, name), cost)) = known else { return false };
        let new = || {
            let (_, priced) = book.priced_fitting(version, &name)?;
            let (_, row) = priced.card.row(book.service(bill)?, bill.quantities.sum(Side::In))?;
            row.rates.cost(&bill.quantities)
        };
        let new = new();
        let model = self.models.entry(name).or_default();
        model.calls = model.calls.saturating_add(1);
        match new {
            Some(new) => {
                model.cost = sum(model.cost, cost);
                model.preview = sum(model.preview, new);
            }
            None => model.not_sold = model.not_sold.saturating_add(1),
        }
        true
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> PreviewedCalls {
        let mut total = PreviewedCalls::default();
        for model in self.models.values() {
            total.merge(model);
        }
        total
    }

    /// By the name of the card, that with the highest cost first.
    #[must_use]
    pub fn models(&self) -> Vec<(Arc<str>, PreviewedCalls)> {
        let models = self.models.iter().map(|(name, calls)| (Arc::clone(name), calls.clone()));
        let mut models: Vec<(Arc<str>, PreviewedCalls)> = models.collect();
        models.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.cost.max(calls.preview)));
        models
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Card, Convention, Dim, Flags, Multiplier, PriceVersion, Rates, Timestamp, UnitPrice,
        VersionTerms,
    };

    fn version(book: &mut PriceBook, id: u32, list: u32, cards: &[(&str, i64)]) {
        let card = |(name, dollars): &(&str, i64)| {
            let price = UnitPrice::from_nanos(dollars * 1_000_000_000).unwrap();
            let card = Card::flat(Rates::NONE.with(Dim::Input, price)).unwrap();
            (Arc::from(*name), Arc::new(card))
        };
        let terms = VersionTerms {
            id: VersionId::new(id).unwrap(),
            list: ListId(list),
            parent: None,
            multiplier: Multiplier::ONE,
            effective_from: Timestamp::from_micros(i64::from(id)),
            cards: cards.iter().map(card).collect(),
        };
        let last = book.last_link(ListId(list));
        book.add(Arc::new(PriceVersion::new(terms, last).unwrap())).unwrap();
    }

    fn bill(version: u32, card: u16, tokens: u64) -> Bill {
        Bill {
            version: VersionId::new(version).unwrap(),
            card,
            row: 0,
            convention: Convention::default(),
            flags: Flags::NONE,
            quantities: [(Dim::Input, tokens)].into_iter().collect(),
        }
    }

    #[test]
    fn calls_of_the_list_are_priced_again_and_no_others() {
        let mut book = PriceBook::default();
        version(&mut book, 1, 2, &[("a", 10), ("b", 4), ("gone", 1)]);
        version(&mut book, 2, 3, &[("a", 1)]);
        version(&mut book, 3, 2, &[("a", 12), ("b", 3)]);
        let mut preview = PricePreview::by([(ListId(2), VersionId::new(3).unwrap())]);
        for counted in [bill(1, 0, 1_000_000), bill(1, 0, 1), bill(1, 1, 1_000_000)] {
            assert!(preview.add(&counted, &book));
        }
        assert!(preview.add(&bill(1, 2, 7), &book));
        // Of another list, and of a version that is not there.
        assert!(!preview.add(&bill(2, 0, 1_000_000), &book));
        assert!(!preview.add(&bill(9, 0, 1_000_000), &book));
        let of = |calls, not_sold, cost, preview| PreviewedCalls {
            calls,
            not_sold,
            cost: Credits::from_nanos(cost),
            preview: Credits::from_nanos(preview),
        };
        let expected = [
            (Arc::from("a"), of(2, 0, 10_000_010_000, 12_000_012_000)),
            (Arc::from("b"), of(1, 0, 4_000_000_000, 3_000_000_000)),
            (Arc::from("gone"), of(1, 1, 0, 0)),
        ];
        assert_eq!(preview.models(), expected);
        let total = preview.total();
        assert_eq!(total, of(4, 1, 14_000_010_000, 15_000_012_000));
        assert_eq!(total.change(), Some(Credits::from_nanos(1_000_002_000)));
        assert_eq!(total.percent().unwrap().to_string(), "+7.14");
        assert_eq!(of(1, 1, 0, 0).percent(), None);
    }
}
