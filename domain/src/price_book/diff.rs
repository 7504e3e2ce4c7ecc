//! What differs between two versions of prices, or between two cards of a model.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::PriceBook;
use crate::bill::VersionId;
use crate::card::{Card, Service};
use crate::dim::Dim;
use crate::rates::{Rates, UnitPrice};

/// One price that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceDifference {
    /// The name of the card.
    pub model: Arc<str>,
    /// The service tier.
    pub service: Service,
    /// For prompts of more tokens than this.
    pub over: u64,
    /// The dimension.
    pub dim: Dim,
    /// What it cost; `None`: it was not sold so.
    pub old: Option<UnitPrice>,
    /// What it costs; `None`: it is not sold so any more.
    pub new: Option<UnitPrice>,
}

/// A change in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentChange(i128);

impl PercentChange {
    /// From one amount or price to another, in nano-dollars, half away from zero. `None`: the first
    /// is nothing.
    #[must_use]
    pub fn between(old: i64, new: i64) -> Option<Self> {
        let (old, new) = (i128::from(old), i128::from(new));
        let change = new.checked_sub(old)?.checked_mul(20_000)?;
        let half = if change < 0 { old.checked_neg()? } else { old };
        change.checked_add(half)?.checked_div(old.checked_mul(2)?).map(PercentChange)
    }

    /// How large it is, up or down, in hundredths of a percent.
    #[must_use]
    pub const fn size(self) -> u128 {
        self.0.unsigned_abs()
    }
}

impl fmt::Display for PercentChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        let size = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", size / 100, size % 100)
    }
}

impl PriceDifference {
    /// By how much it changes, half away from zero. `None`: it was not sold or cost nothing, or it
    /// is not sold any more.
    #[must_use]
    pub fn percent(&self) -> Option<PercentChange> {
        PercentChange::between(self.old?.nanos(), self.new?.nanos())
    }

    /// Does it change by more than so many millionths of the old price? What is not sold before or
    /// after has no price that changes.
    #[must_use]
    pub fn is_beyond(&self, millionths: u64) -> bool {
        let (Some(old), Some(new)) = (self.old, self.new) else { return false };
        let change = i128::from(new.nanos()).abs_diff(i128::from(old.nanos()));
        let allowed = i128::from(old.nanos()).unsigned_abs().saturating_mul(millionths.into());
        change.saturating_mul(1_000_000) > allowed
    }
}

/// The prices that differ from one card of a model to another, by row and dimension. `None`: it had
/// no card, or has none.
///
/// It compares what calls cost, not how the rows are written: a row that says the same as the one
/// before it changes nothing.
#[must_use]
pub fn card_differences(
    model: &Arc<str>,
    old: Option<&Card>,
    new: Option<&Card>,
) -> Vec<PriceDifference> {
    let rows = old.into_iter().chain(new).flat_map(Card::rows);
    let places: BTreeSet<(Service, u64)> = rows.map(|row| (row.service, row.over)).collect();
    let mut differences = Vec::new();
    for (service, over) in places {
        let tokens = if over == 0 { 0 } else { over.saturating_add(1) };
        let rates = |card: Option<&Card>| Some(card?.row(service, tokens)?.1.rates);
        let (before, after) = (rates(old), rates(new));
        let named = before.iter().chain(&after).flat_map(Rates::named);
        for dim in named.map(|(dim, _)| dim).collect::<BTreeSet<Dim>>() {
            let (old, new) = (
                before.and_then(|rates| rates.price(dim)),
                after.and_then(|rates| rates.price(dim)),
            );
            if old != new {
                let model = Arc::clone(model);
                differences.push(PriceDifference { model, service, over, dim, old, new });
            }
        }
    }
    differences
}

impl PriceBook {
    /// The prices that differ from one version to another, by model, row and dimension. `None` in
    /// place of the first one: nothing was sold before.
    #[must_use]
    pub fn differences(&self, from: Option<VersionId>, to: VersionId) -> Vec<PriceDifference> {
        let mut names = self.card_names(to);
        names.extend(from.into_iter().flat_map(|from| self.card_names(from)));
        let card = |version: VersionId, name: &str| Some(self.priced(version, name)?.card);
        let of = |name: &Arc<str>| {
            let old = from.and_then(|from| card(from, name));
            card_differences(name, old.as_deref(), card(to, name).as_deref())
        };
        names.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_beyond_the_largest_is_seen() {
        let price = |text: &str| Some(text.parse().unwrap());
        let change = |old: &str, new: &str| PriceDifference {
            model: "m".into(),
            service: Service::Standard,
            over: 0,
            dim: Dim::Input,
            old: price(old),
            new: price(new),
        };
        for (old, new, is_beyond, percent) in [
            ("10", "13", false, Some("+30.00")),
            ("10", "13.000000001", true, Some("+30.00")),
            ("10", "7", false, Some("-30.00")),
            ("10", "6.999999999", true, Some("-30.00")),
            ("3", "4", true, Some("+33.33")),
            ("6", "5", false, Some("-16.67")),
            ("0", "0.000000001", true, None),
            ("10", "0", true, Some("-100.00")),
            ("9223372036.854775807", "0.000000001", true, Some("-100.00")),
        ] {
            let change = change(old, new);
            assert_eq!(change.is_beyond(300_000), is_beyond, "{old} {new}");
            assert_eq!(change.percent().map(|percent| percent.to_string()).as_deref(), percent);
        }
        assert!(!PriceDifference { old: None, ..change("1", "2") }.is_beyond(0));
    }
}
