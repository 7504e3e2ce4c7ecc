//! The text of a version: canonical JSON, as it is stored, hashed and read again.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::version::{ListId, VersionError, VersionProblem, VersionTerms};
use crate::bill::VersionId;
use crate::card::{Card, CardRow, Service};
use crate::dim::Dim;
use crate::rates::{Multiplier, Rates, UnitPrice};
use crate::window::Timestamp;

pub(super) fn instant_text(at: Timestamp) -> String {
    at.to_rfc3339_micros()
}

pub(super) fn instant(text: &str) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(text)
}

/// Appends each of `items` with a comma between them.
fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

/// The document. What goes in is checked, so that it reads back.
pub(super) fn write(terms: &VersionTerms) -> String {
    let parent = terms.parent.map_or_else(|| "null".to_owned(), |parent| parent.to_string());
    let mut out = format!(
        "{{\"id\":{},\"list\":{},\"parent\":{parent},\"multiplier\":{},\"effective_from\":\"{}\",\
         \"cards\":[",
        terms.id,
        terms.list.0,
        terms.multiplier.millionths(),
        instant_text(terms.effective_from),
    );
    list(&mut out, &terms.cards, |out, (name, card)| {
        out.push_str("{\"name\":");
        out.push_str(&Value::from(&**name).to_string());
        out.push_str(",\"rows\":[");
        list(out, card.rows(), write_row);
        out.push_str("]}");
    });
    out.push_str("]}");
    out
}

fn write_row(out: &mut String, row: &CardRow) {
    out.push_str("{\"service\":\"");
    out.push_str(row.service.name());
    out.push_str("\",\"over\":");
    out.push_str(&row.over.to_string());
    out.push_str(",\"rates\":{");
    list(out, row.rates.named(), |out, (dim, price)| {
        out.push('"');
        out.push_str(dim.name());
        out.push_str("\":");
        out.push_str(&price.nanos().to_string());
    });
    out.push_str("}}");
}

/// An object of the document, and where it is.
struct Place<'a> {
    path: String,
    object: &'a Map<String, Value>,
}

impl<'a> Place<'a> {
    fn new(path: String, value: &'a Value) -> Result<Self, VersionError> {
        match value {
            Value::Object(object) => Ok(Place { path, object }),
            _ => Err(VersionError::new(path, VersionProblem::Type("an object"))),
        }
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What `read` makes of the value of this key, which must be `what`.
    fn get<T>(
        &self,
        key: &str,
        what: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, VersionError> {
        let value = self.object.get(key);
        let value =
            value.ok_or_else(|| VersionError::new(self.path(key), VersionProblem::Missing))?;
        read(value).ok_or_else(|| VersionError::new(self.path(key), VersionProblem::Type(what)))
    }

    fn list(&self, key: &str) -> Result<&'a Vec<Value>, VersionError> {
        self.get(key, "a list", Value::as_array)
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// What the text says. It need not be in canonical form.
pub(super) fn read(text: &str) -> Result<VersionTerms, VersionError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|_| VersionError::new("document", VersionProblem::NotJson))?;
    let whole = Place::new(String::new(), &value)
        .map_err(|error| VersionError::new("document", error.problem))?;
    let version = |value: &Value| VersionId::new(number(value)?);
    let cards = whole.list("cards")?;
    Ok(VersionTerms {
        id: whole.get("id", "a number from 1", version)?,
        list: whole.get("list", "a number", |value| number(value).map(ListId))?,
        parent: whole.get("parent", "a number from 1, or null", |value| match value {
            Value::Null => Some(None),
            _ => version(value).map(Some),
        })?,
        multiplier: whole.get("multiplier", "a number of millionths from 1", |value| {
            Multiplier::from_millionths(number(value)?)
        })?,
        effective_from: whole
            .get("effective_from", "an instant in UTC", |value| instant(value.as_str()?))?,
        cards: cards
            .iter()
            .enumerate()
            .map(|(place, card)| read_card(Place::new(format!("cards[{place}]"), card)?))
            .collect::<Result<_, _>>()?,
    })
}

fn read_card(card: Place<'_>) -> Result<(Arc<str>, Arc<Card>), VersionError> {
    let name = card.get("name", "a text", Value::as_str)?;
    let rows = card.list("rows")?.iter().enumerate().map(|(place, row)| {
        let row = Place::new(format!("{}[{place}]", card.path("rows")), row)?;
        read_row(&row)
    });
    let made = Card::new(rows.collect::<Result<_, _>>()?);
    let made = made.map_err(|error| VersionError::new(card.path, VersionProblem::Card(error)))?;
    Ok((name.into(), Arc::new(made)))
}

fn read_row(row: &Place<'_>) -> Result<CardRow, VersionError> {
    let word = row.get("service", "a text", Value::as_str)?;
    let service = Service::from_name(word)
        .ok_or_else(|| VersionError::new(row.path("service"), VersionProblem::Service))?;
    let over = row.get("over", "a number of tokens", Value::as_u64)?;
    let prices = row.get("rates", "an object", Some)?;
    let prices = Place::new(row.path("rates"), prices)?;
    let mut rates = Rates::NONE;
    for word in prices.object.keys() {
        let dim = Dim::from_name(word)
            .ok_or_else(|| VersionError::new(prices.path(word), VersionProblem::Dimension))?;
        let what = "a whole number of nano-dollars, not negative";
        let price = |value: &Value| UnitPrice::from_nanos(value.as_i64()?);
        rates = rates.with(dim, prices.get(word, what, price)?);
    }
    Ok(CardRow { service, over, rates })
}
