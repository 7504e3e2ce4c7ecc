//! Cards as operators write them, and as everybody reads them: JSON, or TOML of the same shape.
//!
//! Prices are dollars for [`Dim::per`] units, written as texts: a number of JSON may lose digits
//! before anybody sees it. A card of one row is flat, such as `{"model": "m", "input": "10"}`; any
//! other one has `rows`, each with its prices, its `service` and its `over`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::card::{Card, CardRow, Service};
use super::catalogue::{NAME_MAX, is_name};
use super::dim::Dim;
use super::rates::{Rates, UnitPrice};

/// Something that is wrong with cards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardFault {
    /// Its place, such as `cards[2].rows[0].input`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for CardFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What is done to the card of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardEdit {
    /// It is this one from then on.
    Set(Arc<Card>),
    /// It is the parent's, with these prices in place of its own.
    Override(Box<Rates>),
    /// The list has no card of its own for it.
    Remove,
}

/// The edits of cards, by the name of the model.
pub type CardEdits = Vec<(Arc<str>, CardEdit)>;

/// How the entries of a list of cards are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardsKey {
    /// Each is a whole card.
    Cards,
    /// Each has the prices that differ from those of the parent.
    Overrides,
}

impl CardsKey {
    /// The key that the list has.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CardsKey::Cards => "cards",
            CardsKey::Overrides => "overrides",
        }
    }
}

/// Is it the name of a card of a price list of models: a model's name, or a name and `/*`?
#[must_use]
pub fn is_card_name(name: &str) -> bool {
    name.len() <= NAME_MAX && is_name(name.strip_suffix("/*").unwrap_or(name))
}

/// Reads a list of cards or of overrides.
///
/// # Errors
/// All that is wrong with it, in its order.
pub fn read_cards(key: CardsKey, list: &Value) -> Result<CardEdits, Vec<CardFault>> {
    let mut reader = Reader { faults: Vec::new() };
    let Value::Array(entries) = list else {
        reader.fault(key.name(), "must be a list");
        return Err(reader.faults);
    };
    let (mut edits, mut seen) = (Vec::new(), BTreeSet::new());
    for (place, entry) in entries.iter().enumerate() {
        let path = format!("{}[{place}]", key.name());
        let Some((name, edit)) = reader.entry(key, &path, entry) else { continue };
        if seen.insert(Arc::clone(&name)) {
            edits.push((name, edit));
        } else {
            reader.fault(format!("{path}.model"), format!("{name} is there twice"));
        }
    }
    if reader.faults.is_empty() { Ok(edits) } else { Err(reader.faults) }
}

/// Reads what a request has of both kinds. A model has one entry.
///
/// # Errors
/// As of [`read_cards`].
pub fn read_edits(
    cards: Option<&Value>,
    overrides: Option<&Value>,
) -> Result<CardEdits, Vec<CardFault>> {
    let read = |key: CardsKey, list: Option<&Value>| match list {
        Some(list) => read_cards(key, list),
        None => Ok(Vec::new()),
    };
    let (cards, overrides) =
        match (read(CardsKey::Cards, cards), read(CardsKey::Overrides, overrides)) {
            (Ok(cards), Ok(overrides)) => (cards, overrides),
            (Err(mut faults), others) => {
                faults.extend(others.err().unwrap_or_default());
                return Err(faults);
            }
            (_, Err(faults)) => return Err(faults),
        };
    let names: BTreeSet<&Arc<str>> = cards.iter().map(|(name, _)| name).collect();
    let twice = overrides.iter().enumerate().filter(|(_, (name, _))| names.contains(name));
    let faults: Vec<CardFault> = twice
        .map(|(place, (name, _))| CardFault {
            path: format!("overrides[{place}].model"),
            problem: format!("{name} is in cards as well"),
        })
        .collect();
    if faults.is_empty() { Ok([cards, overrides].concat()) } else { Err(faults) }
}

/// The keys of an entry besides `model` and this one.
fn others<'f>(
    fields: &'f Map<String, Value>,
    known: &'static str,
) -> impl Iterator<Item = &'f String> {
    fields.keys().filter(move |key| *key != "model" && *key != known)
}

struct Reader {
    faults: Vec<CardFault>,
}

impl Reader {
    fn fault(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.faults.push(CardFault { path: path.into(), problem: problem.into() });
    }

    /// One entry. `None` if it is faulty, which has been noted.
    fn entry(&mut self, key: CardsKey, path: &str, entry: &Value) -> Option<(Arc<str>, CardEdit)> {
        let Value::Object(fields) = entry else {
            self.fault(path, "must be an object with the field model");
            return None;
        };
        let name = self.name(path, fields.get("model"));
        let edit = match (fields.get("remove"), fields.get("rows")) {
            (Some(remove), _) => {
                if *remove != Value::Bool(true) {
                    self.fault(format!("{path}.remove"), "must be true, or left out");
                }
                for other in others(fields, "remove") {
                    let problem = "must be left out of a card that is removed";
                    self.fault(format!("{path}.{other}"), problem);
                }
                Some(CardEdit::Remove)
            }
            (None, Some(rows)) if key == CardsKey::Cards => {
                for other in others(fields, "rows") {
                    let problem = "must be in a row, since the card has rows";
                    self.fault(format!("{path}.{other}"), problem);
                }
                self.rows(path, rows).and_then(|rows| self.card(path, rows))
            }
            _ => {
                let rates = self.rates(path, fields, &["model"]);
                match (key, rates) {
                    (_, None) => None,
                    (CardsKey::Overrides, Some(Rates::NONE)) => {
                        self.fault(path, "has no price");
                        None
                    }
                    (CardsKey::Overrides, Some(rates)) => Some(CardEdit::Override(Box::new(rates))),
                    (CardsKey::Cards, Some(rates)) => self
                        .card(path, vec![CardRow { service: Service::Standard, over: 0, rates }]),
                }
            }
        };
        Some((name?, edit?))
    }

    fn name(&mut self, path: &str, name: Option<&Value>) -> Option<Arc<str>> {
        match name {
            Some(Value::String(name)) if is_card_name(name) => Some(name.as_str().into()),
            None => {
                self.fault(format!("{path}.model"), "is missing");
                None
            }
            Some(_) => {
                self.fault(
                    format!("{path}.model"),
                    "must be the name of a model (1 to 128 of a-z, 0-9, . _ : / and -, first a \
                     letter or a digit), or such a name and /*",
                );
                None
            }
        }
    }

    fn card(&mut self, path: &str, rows: Vec<CardRow>) -> Option<CardEdit> {
        match Card::new(rows) {
            Ok(card) => Some(CardEdit::Set(Arc::new(card))),
            Err(error) => {
                self.fault(path, error.to_string());
                None
            }
        }
    }

    fn rows(&mut self, path: &str, rows: &Value) -> Option<Vec<CardRow>> {
        let Value::Array(rows) = rows else {
            self.fault(format!("{path}.rows"), "must be a list");
            return None;
        };
        let read: Vec<Option<CardRow>> = rows
            .iter()
            .enumerate()
            .map(|(place, row)| self.row(&format!("{path}.rows[{place}]"), row))
            .collect();
        read.into_iter().collect()
    }

    fn row(&mut self, path: &str, row: &Value) -> Option<CardRow> {
        let Value::Object(fields) = row else {
            self.fault(path, "must be an object");
            return None;
        };
        let service = match fields.get("service") {
            None => Some(Service::Standard),
            Some(service) => {
                let found = service.as_str().and_then(Service::from_name);
                if found.is_none() {
                    let names = Service::ALL.map(Service::name).join(", ");
                    self.fault(format!("{path}.service"), format!("must be one of {names}"));
                }
                found
            }
        };
        let over = match fields.get("over") {
            None => Some(0),
            Some(over) => {
                let tokens = over.as_u64();
                if tokens.is_none() {
                    let problem = "must be a whole number of tokens, from 0 on";
                    self.fault(format!("{path}.over"), problem);
                }
                tokens
            }
        };
        let rates = self.rates(path, fields, &["service", "over"]);
        Some(CardRow { service: service?, over: over?, rates: rates? })
    }

    /// The prices among the fields, which have no other keys than these.
    fn rates(&mut self, path: &str, fields: &Map<String, Value>, known: &[&str]) -> Option<Rates> {
        let (mut rates, before) = (Rates::NONE, self.faults.len());
        for (key, value) in fields.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let path = format!("{path}.{}", shortened(key));
            let Some(dim) = Dim::from_name(key) else {
                self.fault(path, "is no dimension that has a price");
                continue;
            };
            match value {
                Value::String(text) => match text.parse::<UnitPrice>() {
                    Ok(price) => rates = rates.with(dim, price),
                    Err(error) => self.fault(path, error.to_string()),
                },
                Value::Number(_) => self.fault(
                    path,
                    "must be in quotes, such as \"1.25\": a number may lose digits on its way",
                ),
                _ => self.fault(path, "must be a price in dollars, such as \"1.25\""),
            }
        }
        (self.faults.len() == before).then_some(rates)
    }
}

/// A key that is repeated to those who have sent it.
fn shortened(key: &str) -> String {
    key.chars().take(NAME_MAX).collect()
}

/// A price as it is written: dollars without zeros at the end, exact.
#[must_use]
pub fn price_text(price: UnitPrice) -> String {
    let text = price.to_string();
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The prices of a row, in the form that is read.
#[must_use]
pub fn write_rates(rates: &Rates) -> Map<String, Value> {
    let named = rates.named();
    named.map(|(dim, price)| (dim.name().to_owned(), Value::from(price_text(price)))).collect()
}

/// A card, in the form that is read.
#[must_use]
pub fn write_card(name: &str, card: &Card) -> Value {
    let mut fields = Map::new();
    fields.insert("model".to_owned(), Value::from(name));
    match card.rows() {
        [CardRow { service: Service::Standard, over: 0, rates }] => {
            fields.extend(write_rates(rates));
        }
        rows => {
            let rows = rows.iter().map(|row| {
                let mut fields = Map::new();
                fields.insert("service".to_owned(), Value::from(row.service.name()));
                fields.insert("over".to_owned(), Value::from(row.over));
                fields.extend(write_rates(&row.rates));
                Value::Object(fields)
            });
            fields.insert("rows".to_owned(), Value::Array(rows.collect()));
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn faults(cards: &Value) -> Vec<String> {
        let faults = read_cards(CardsKey::Cards, cards).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_card_is_read_and_written_in_one_form() {
        let cards = json!([
            { "model": "gpt-6", "input": "10", "output": "50", "cache_read": "1" },
            { "model": "openrouter/*", "input": "0.000000001", "request": "0" },
            { "model": "long", "rows": [
                { "service": "standard", "over": 0, "input": "1.25" },
                { "service": "standard", "over": 272_000, "input": "2.5" },
                { "service": "priority", "over": 0, "input": "3", "output": "9999999.99" },
            ] },
        ]);
        let edits = read_cards(CardsKey::Cards, &cards).unwrap();
        let written = edits.iter().map(|(name, edit)| match edit {
            CardEdit::Set(card) => write_card(name, card),
            other => panic!("{other:?}"),
        });
        assert_eq!(Value::Array(written.collect()), cards);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_its_place() {
        let cards = json!([
            { "model": "a", "input": 10 },
            { "model": "B", "input": "1" },
            { "input": "1" },
            { "model": "c", "input": "1e3", "outputs": "1", "output": "-1" },
            { "model": "d", "rows": [
                { "service": "gold", "over": -1, "input": "0.0000000001" }, 7,
            ] },
            { "model": "e", "rows": [{ "service": "flex", "input": "1" }] },
            { "model": "f", "rows": [], "input": "1" },
            { "model": "g" },
            { "model": "h", "remove": true, "input": "1" },
            { "model": "i", "input": "1" },
            { "model": "i", "input": "1" },
            { "model": "x".repeat(129), "input": "1" },
            { "model": "*", "input": "1" },
            "j",
        ]);
        let told = faults(&cards);
        let paths: Vec<&str> = told.iter().map(|text| text.split(": ").next().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "cards[0].input",
                "cards[1].model",
                "cards[2].model",
                "cards[3].input",
                "cards[3].output",
                "cards[3].outputs",
                "cards[4].rows[0].service",
                "cards[4].rows[0].over",
                "cards[4].rows[0].input",
                "cards[4].rows[1]",
                "cards[5]",
                "cards[6].input",
                "cards[6]",
                "cards[7]",
                "cards[8].input",
                "cards[10].model",
                "cards[11].model",
                "cards[12].model",
                "cards[13]",
            ],
            "{told:#?}"
        );
        assert!(told[0].contains("must be in quotes"), "{told:?}");
        assert_eq!(faults(&json!({})), ["cards: must be a list"]);
    }

    #[test]
    fn an_override_has_the_prices_that_differ() {
        let list = json!([{ "model": "a", "output": "4" }, { "model": "b", "remove": true }]);
        let edits = read_cards(CardsKey::Overrides, &list).unwrap();
        let price = "4".parse().unwrap();
        assert_eq!(edits[0].1, CardEdit::Override(Box::new(Rates::NONE.with(Dim::Output, price))));
        assert_eq!(edits[1].1, CardEdit::Remove);
        for wrong in [json!([{ "model": "a" }]), json!([{ "model": "a", "rows": [] }])] {
            assert!(read_cards(CardsKey::Overrides, &wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_price_reads_back(nanos in 0..=i64::MAX) {
            let price = UnitPrice::from_nanos(nanos).unwrap();
            prop_assert_eq!(price_text(price).parse::<UnitPrice>(), Ok(price));
        }
    }
}
