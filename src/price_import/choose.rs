//! Which models of a file are taken, under which names, and at which prices.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::card::CardRow;
use domain::catalogue::SoldModel;
use domain::{Card, Credits, Multiplier};

use super::model::{Imported, ImportedModel, RefusedModel, public_name};

/// What is taken of a price file.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The providers, as the file calls them; `*` stands for anything. Empty: all of them.
    pub only: Vec<String>,
    /// The models, by their names in the file or here; `*` stands for anything. Empty: all.
    pub models: Vec<String>,
    /// What each price is multiplied by.
    pub markup: Multiplier,
    /// Are models taken that cost nothing?
    pub takes_free: bool,
}

/// What was taken.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// The models, by name.
    pub models: BTreeMap<Arc<str>, ChosenModel>,
    /// Those that were asked for and cannot be taken.
    pub refused: Vec<RefusedModel>,
    /// How many were not asked for.
    pub passed_over: usize,
}

/// A model that was taken.
#[derive(Clone, Debug)]
pub struct ChosenModel {
    /// Its prices, with the markup.
    pub card: Arc<Card>,
    /// What it can do, under its name here.
    pub model: SoldModel,
    /// As the file has it.
    pub imported: ImportedModel,
}

/// Why a choice is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// It is not a percentage.
    #[error("must be a percentage such as 15%, with at most four decimals, above -100%")]
    Percentage,
}

/// A percentage such as `15%`, in millionths.
fn percentage(text: &str) -> Option<i64> {
    let number: Credits = text.strip_suffix('%').unwrap_or(text).parse().ok()?;
    let nanos = number.nanos();
    (nanos % 100_000 == 0).then_some(nanos.checked_div(100_000)?)
}

/// The multiplier of a markup such as `15%`; `-10%` is a discount.
///
/// # Errors
/// If it is no percentage, or if nothing would be left.
pub fn markup(text: &str) -> Result<Multiplier, ChoiceError> {
    let millionths = percentage(text).and_then(|added| added.checked_add(1_000_000));
    let millionths = millionths.and_then(|sum| u32::try_from(sum).ok());
    millionths.and_then(Multiplier::from_millionths).ok_or(ChoiceError::Percentage)
}

/// The largest change of a price that is taken unasked, such as `30%`, in millionths of the old
/// one.
///
/// # Errors
/// If it is no percentage, or negative.
pub fn largest_change(text: &str) -> Result<u64, ChoiceError> {
    let millionths = percentage(text).and_then(|change| u64::try_from(change).ok());
    millionths.ok_or(ChoiceError::Percentage)
}

/// Does the pattern fit? `*` stands for anything, also for nothing.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

impl Choice {
    /// The place in `only` of the first pattern that the provider fits. `None`: it is not chosen.
    fn place(&self, provider: &str) -> Option<usize> {
        if self.only.is_empty() {
            return Some(0);
        }
        self.only.iter().position(|pattern| fits(pattern, provider))
    }

    fn has_model(&self, names: &[&str]) -> bool {
        self.models.is_empty()
            || self.models.iter().any(|pattern| names.iter().any(|name| fits(pattern, name)))
    }

    /// Takes what is chosen. With `only`, a model has the name that its provider gives it, and if
    /// several providers have one of that name, it is that of the first in `only`; else it has the
    /// name that the file gives it, which begins with the provider.
    #[must_use]
    pub fn of(&self, imported: Imported) -> Chosen {
        let mut chosen = Chosen::default();
        let mut models: Vec<(usize, ImportedModel)> = Vec::new();
        for model in imported.models {
            match self.place(&model.provider) {
                Some(place) => models.push((place, model)),
                None => chosen.passed_over = chosen.passed_over.saturating_add(1),
            }
        }
        models.sort_by_key(|(place, _)| *place);
        for (_, model) in models {
            let named = if self.only.is_empty() { &model.name } else { &model.upstream };
            let public = public_name(named).unwrap_or_else(|| model.model.name.to_string());
            if !self.has_model(&[&model.name, &model.upstream, &public]) {
                chosen.passed_over = chosen.passed_over.saturating_add(1);
                continue;
            }
            let public: Arc<str> = public.into();
            let reason = match chosen.models.get(&public) {
                Some(other) => {
                    Err(format!("{} has the name {public} already", other.imported.name))
                }
                None if model.is_free() && !self.takes_free => {
                    Err("costs nothing in the file; it is taken with free=true (--free)".to_owned())
                }
                None => Ok(()),
            };
            let card = reason.and_then(|()| {
                let card = times(&model.card, self.markup);
                card.ok_or_else(|| "has a price that is too large with the markup".to_owned())
            });
            match card {
                Ok(card) => {
                    let (card, name) = (Arc::new(card), Arc::clone(&public));
                    let sold = SoldModel { name, ..model.model.clone() };
                    chosen
                        .models
                        .insert(public, ChosenModel { card, model: sold, imported: model });
                }
                Err(reason) => {
                    let ImportedModel { name, provider, .. } = model;
                    chosen.refused.push(RefusedModel { name, provider, reason });
                }
            }
        }
        for refused in imported.refused {
            let is_asked_for = self.place(&refused.provider).is_some();
            let upstream = refused.name.strip_prefix(refused.provider.as_str());
            let upstream = upstream.and_then(|rest| rest.strip_prefix('/'));
            let names = [refused.name.as_str(), upstream.unwrap_or_default()];
            if is_asked_for && self.has_model(&names) {
                chosen.refused.push(refused);
            } else {
                chosen.passed_over = chosen.passed_over.saturating_add(1);
            }
        }
        chosen
    }
}

/// The card with each price that it names multiplied, half up.
fn times(card: &Card, markup: Multiplier) -> Option<Card> {
    let rows = card.rows().iter().map(|row| {
        let named: Option<_> =
            row.rates.named().map(|(dim, price)| Some((dim, markup.apply(price)?))).collect();
        let named: Vec<_> = named?;
        Some(CardRow { rates: named.into_iter().collect(), ..*row })
    });
    Card::new(rows.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use domain::{Dim, Rates};
    use proptest::prelude::*;

    use super::*;

    fn model(provider: &str, upstream: &str, input: &str) -> ImportedModel {
        let rates = Rates::NONE.with(Dim::Input, input.parse().unwrap());
        ImportedModel {
            name: format!("{provider}/{upstream}"),
            provider: provider.to_owned(),
            upstream: upstream.to_owned(),
            card: Card::flat(rates).unwrap(),
            model: SoldModel::default(),
            is_callable: true,
            source_dates: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn file() -> Imported {
        let refused = |provider: &str| RefusedModel {
            name: format!("{provider}/odd"),
            provider: provider.to_owned(),
            reason: "is odd".to_owned(),
        };
        Imported {
            models: vec![
                model("azure", "gpt-6", "11"),
                model("openai", "gpt-6", "10"),
                model("openai", "gpt-free", "0"),
                model("acme", "GPT-6", "9"),
            ],
            refused: vec![refused("openai"), refused("acme")],
        }
    }

    fn taken(choice: &Choice) -> (Vec<String>, Vec<String>, usize) {
        let chosen = choice.of(file());
        let models = chosen.models.iter().map(|(name, model)| {
            let rates = model.card.rows()[0].rates;
            format!("{name} {}", rates.price(Dim::Input).unwrap())
        });
        let refused = chosen.refused.iter().map(|model| format!("{} {}", model.name, model.reason));
        (models.collect(), refused.collect(), chosen.passed_over)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_first_provider_that_was_named_has_the_name() {
        let free = "openai/gpt-free costs nothing in the file; it is taken with free=true (--free)";
        let all = taken(&Choice::default());
        assert_eq!(all.0, ["acme/gpt-6 9.0000", "azure/gpt-6 11.0000", "openai/gpt-6 10.0000"]);
        assert_eq!(all.1, [free, "openai/odd is odd", "acme/odd is odd"]);
        let only = words(&["openai", "az*"]);
        let some = taken(&Choice { only, takes_free: true, ..Choice::default() });
        assert_eq!(some.0, ["gpt-6 10.0000", "gpt-free 0.0000"]);
        let twice = "azure/gpt-6 openai/gpt-6 has the name gpt-6 already";
        assert_eq!((some.1, some.2), (words(&[twice, "openai/odd is odd"]), 2));
        let named =
            Choice { models: words(&["*pt-6"]), only: words(&["acme"]), ..Choice::default() };
        assert_eq!(taken(&named), (words(&["gpt-6 9.0000"]), vec![], 5));
    }

    #[test]
    fn a_percentage_is_exact() {
        for (text, millionths) in [
            ("15%", 1_150_000),
            ("0%", 1_000_000),
            ("-10%", 900_000),
            ("0.0001%", 1_000_001),
            ("7.5", 1_075_000),
        ] {
            assert_eq!(markup(text).map(Multiplier::millionths), Ok(millionths), "{text}");
        }
        for text in ["", "%", "x%", "-100%", "0.00001%", "1e3%", "15%%", "500000%"] {
            assert_eq!(markup(text), Err(ChoiceError::Percentage), "{text}");
        }
        assert_eq!((largest_change("30%"), largest_change("0%")), (Ok(300_000), Ok(0)));
        assert!(largest_change("-1%").is_err());
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, does) in [
            ("gpt-6", "gpt-6", true),
            ("gpt-6", "gpt-60", false),
            ("gpt-*", "gpt-", true),
            ("*", "", true),
            ("*-6*", "gpt-6-astra", true),
            ("g*t*6", "gpt-6", true),
            ("g*t*6", "gpt-6a", false),
            ("a*a", "a", false),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern, text), does, "{pattern} {text}");
        }
    }

    proptest! {
        /// A markup is that of the list: each price times the multiplier, half up, and no more.
        #[test]
        fn a_markup_multiplies_each_price(price in 0_i64..1_000_000_000_000, added in 0_u32..4_000) {
            let markup = markup(&format!("{}.{:02}%", added / 100, added % 100)).unwrap();
            let exact = i128::from(price) * (1_000_000 + i128::from(added) * 100);
            let expected = (exact + 500_000).div_euclid(1_000_000);
            let rates = Rates::NONE.with(Dim::Input, domain::UnitPrice::from_nanos(price).unwrap());
            let card = times(&Card::flat(rates).unwrap(), markup).unwrap();
            let got = card.rows()[0].rates.price(Dim::Input).unwrap().nanos();
            prop_assert_eq!(i128::from(got), expected);
        }
    }
}
