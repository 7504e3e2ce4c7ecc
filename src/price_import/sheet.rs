//! The prices of one model while its file is read, and the card that they make.

use std::collections::{BTreeMap, BTreeSet};

use domain::card::CardRow;
use domain::{Card, Dim, Rates, Service, UnitPrice};

use super::exact::{Exact, NoPrice};
use super::tree::Tree;

/// The prices of one row that the file names.
type Named = BTreeMap<Dim, UnitPrice>;

/// What is read of one model.
#[derive(Default)]
pub(super) struct Sheet {
    rows: BTreeMap<(Service, u64), Named>,
    /// What was made of the file that is not just what it says.
    pub(super) notes: Vec<String>,
}

impl Sheet {
    pub(super) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Names a price. Of two for the same thing the higher one counts.
    pub(super) fn set(&mut self, service: Service, over: u64, dim: Dim, price: UnitPrice) {
        let row = self.rows.entry((service, over)).or_default();
        let old = row.insert(dim, price);
        if let Some(old) = old.filter(|old| *old != price) {
            row.insert(dim, old.max(price));
            let name = dim.name();
            self.note(format!("the file has several prices of {name}; the highest is taken"));
        }
    }

    /// Names a price that `field` of the file has. `read` makes it a price of the dimension.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn set_field(
        &mut self,
        (service, over): (Service, u64),
        dim: Dim,
        field: &str,
        value: &Tree,
        read: impl FnOnce(Exact) -> Result<(UnitPrice, bool), NoPrice>,
    ) -> Result<(), String> {
        let read = exact(field, value)
            .and_then(|exact| read(exact).map_err(|why| format!("{field} {}", why.reason())));
        let (price, is_rounded) = read?;
        if is_rounded {
            self.note(format!("{field} is rounded to the nano-dollar"));
        }
        self.set(service, over, dim, price);
        Ok(())
    }

    /// The price of a dimension for every call of the standard service tier.
    pub(super) fn standard(&self, dim: Dim) -> Option<UnitPrice> {
        self.rows.get(&(Service::Standard, 0))?.get(&dim).copied()
    }

    /// The thresholds of the standard service tier.
    pub(super) fn thresholds(&self) -> Vec<u64> {
        let standard = self.rows.keys().filter(|(service, _)| *service == Service::Standard);
        standard.map(|(_, over)| *over).collect()
    }

    /// The card, and the notes.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn finish(mut self) -> Result<(Card, Vec<String>), String> {
        if self.rows.values().all(BTreeMap::is_empty) {
            return Err("has no price".to_owned());
        }
        let standard: BTreeSet<u64> = self.thresholds().into_iter().chain([0]).collect();
        if self.rows.get(&(Service::Standard, 0)).is_none_or(BTreeMap::is_empty) {
            return Err("has no price of the service tier standard".to_owned());
        }
        let named = std::mem::take(&mut self.rows);
        let services: BTreeSet<Service> = named.keys().map(|(service, _)| *service).collect();
        let mut whole: BTreeMap<(Service, u64), Named> = BTreeMap::new();
        let mut rows: Vec<CardRow> = Vec::new();
        for service in services {
            let own = named.keys().filter(|(other, _)| *other == service).map(|(_, over)| *over);
            let overs: BTreeSet<u64> = standard.iter().copied().chain(own).collect();
            let mut before = Named::new();
            let mut is_own = BTreeSet::new();
            let mut last: Option<Rates> = None;
            for over in overs {
                let mut row = before.clone();
                let base = named.get(&(Service::Standard, over));
                let filled = whole.range(..=(Service::Standard, over)).next_back();
                for (dim, price) in filled.map(|(_, filled)| filled).into_iter().flatten() {
                    if !is_own.contains(dim) {
                        row.insert(*dim, *price);
                    } else if base.is_some_and(|base| base.contains_key(dim)) {
                        // The file does not say what this service tier costs for longer prompts.
                        let own = row.get(dim).copied().unwrap_or_default();
                        row.insert(*dim, own.max(*price));
                    }
                }
                for (dim, price) in named.get(&(service, over)).into_iter().flatten() {
                    row.insert(*dim, *price);
                    is_own.insert(*dim);
                }
                whole.insert((service, over), row.clone());
                before = row.clone();
                let rates = self.sold(row);
                if last != Some(rates) {
                    rows.push(CardRow { service, over, rates });
                }
                last = Some(rates);
            }
        }
        let card = Card::new(rows).map_err(|error| format!("{error}"))?;
        Ok((card, self.notes))
    }

    /// The prices of a row. What costs nothing while its parent has a price is sold at that: the
    /// provider may bill it after all.
    fn sold(&mut self, mut row: Named) -> Rates {
        // Parents come before their children.
        for dim in Dim::ALL {
            let is_free = row.get(&dim) == Some(&UnitPrice::ZERO);
            let mut parent = dim.parent();
            while let Some(above) = parent {
                match row.get(&above) {
                    Some(price) if *price > UnitPrice::ZERO && is_free => {
                        row.remove(&dim);
                        let (name, above) = (dim.name(), above.name());
                        self.note(format!(
                            "{name} costs nothing in the file; it is sold at the price of {above}"
                        ));
                        break;
                    }
                    Some(_) => break,
                    None => parent = above.parent(),
                }
            }
        }
        row.into_iter().collect()
    }
}

/// The number that a field has.
pub(super) fn exact(field: &str, value: &Tree) -> Result<Exact, String> {
    let read = value.number().ok_or(NoPrice::NotDecimal).and_then(Exact::read);
    read.map_err(|why| format!("{field} {}", why.reason()))
}

/// Does a field have the number zero, or none?
pub(super) fn is_zero(value: &Tree) -> bool {
    match value {
        Tree::Null => true,
        Tree::Object(entries) => entries.iter().all(|(_, value)| is_zero(value)),
        value => value.number().is_some_and(|text| Exact::read(text).is_ok_and(Exact::is_zero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(text: &str) -> UnitPrice {
        text.parse().unwrap()
    }

    /// `service over dimension price` of every row.
    fn made(prices: &[(Service, u64, Dim, &str)]) -> Vec<String> {
        let mut sheet = Sheet::default();
        for (service, over, dim, text) in prices {
            sheet.set(*service, *over, *dim, price(text));
        }
        let (card, _) = sheet.finish().unwrap();
        let mut lines = Vec::new();
        for row in card.rows() {
            let prices: Vec<_> =
                row.rates.named().map(|(dim, price)| format!("{} {price}", dim.name())).collect();
            lines.push(format!("{} {}: {}", row.service.name(), row.over, prices.join(", ")));
        }
        lines
    }

    #[test]
    fn a_row_has_what_it_does_not_name_from_the_row_before() {
        use Service::{Batch, Priority, Standard};
        let lines = made(&[
            (Standard, 0, Dim::Input, "10"),
            (Standard, 0, Dim::CacheRead, "1"),
            (Standard, 0, Dim::Output, "50"),
            (Standard, 200_000, Dim::Input, "15"),
            (Batch, 0, Dim::Input, "5"),
            (Batch, 200_000, Dim::Input, "7.5"),
            (Priority, 0, Dim::Input, "12"),
            (Priority, 0, Dim::Output, "100"),
        ]);
        assert_eq!(
            lines,
            [
                "standard 0: input 10.0000, cache_read 1.0000, output 50.0000",
                "standard 200000: input 15.0000, cache_read 1.0000, output 50.0000",
                // The file does not price long prompts of it: the higher of the two.
                "priority 0: input 12.0000, cache_read 1.0000, output 100.0000",
                "priority 200000: input 15.0000, cache_read 1.0000, output 100.0000",
                "batch 0: input 5.0000, cache_read 1.0000, output 50.0000",
                "batch 200000: input 7.5000, cache_read 1.0000, output 50.0000",
            ]
        );
    }

    #[test]
    fn what_costs_nothing_beside_a_price_costs_that() {
        let mut sheet = Sheet::default();
        sheet.set(Service::Standard, 0, Dim::Input, price("0.30"));
        sheet.set(Service::Standard, 0, Dim::CacheWrite, price("0"));
        sheet.set(Service::Standard, 0, Dim::CacheWrite1h, price("0"));
        sheet.set(Service::Standard, 0, Dim::Output, price("0"));
        let (card, notes) = sheet.finish().unwrap();
        let rates = card.rows()[0].rates;
        assert_eq!(rates.price(Dim::CacheWrite), Some(price("0.30")));
        assert_eq!(rates.price(Dim::CacheWrite1h), Some(price("0.30")));
        assert_eq!(rates.price(Dim::Output), Some(UnitPrice::ZERO));
        assert_eq!(notes.len(), 2);
    }

    #[test]
    fn of_two_prices_of_one_thing_the_higher_counts() {
        let mut sheet = Sheet::default();
        for text in ["1", "3", "2"] {
            sheet.set(Service::Standard, 0, Dim::WebSearch, price(text));
        }
        assert_eq!(sheet.standard(Dim::WebSearch), Some(price("3")));
        assert_eq!(sheet.finish().unwrap().1.len(), 1);
        assert!(Sheet::default().finish().is_err());
        let mut batch = Sheet::default();
        batch.set(Service::Batch, 0, Dim::Input, price("1"));
        assert!(batch.finish().is_err());
    }
}
