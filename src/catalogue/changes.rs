//! What differs between two documents, part by part.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::models::document::LISTS;

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartFate {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It differs.
    Changed,
}

impl PartFate {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PartFate::Added => "added",
            PartFate::Removed => "removed",
            PartFate::Changed => "changed",
        }
    }
}

/// A part that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartChange {
    /// The list of the part, such as `models`.
    pub list: &'static str,
    /// The name of the part.
    pub name: String,
    /// What became of it.
    pub change: PartFate,
    /// The fields that differ: name, value before, value after. Null is absent.
    pub fields: Vec<(String, Value, Value)>,
}

/// What differs, in the order of the lists and then of `before` and `after`. The order of the parts
/// says nothing.
#[must_use]
pub fn changes(before: &Value, after: &Value) -> Vec<PartChange> {
    let none = Vec::new();
    let mut found = Vec::new();
    for (list, key) in LISTS {
        let parts = |document: &Value| -> Vec<Value> {
            document.get(list).and_then(Value::as_array).unwrap_or(&none).clone()
        };
        let (before, after) = (parts(before), parts(after));
        let name_of = |part: &Value| part.get(key).and_then(Value::as_str).map(str::to_owned);
        let named = |parts: &[Value], name: &str| {
            parts.iter().find(|part| name_of(part).as_deref() == Some(name)).cloned()
        };
        let mut seen = BTreeSet::new();
        for name in before.iter().chain(&after).filter_map(name_of) {
            if !seen.insert(name.clone()) {
                continue;
            }
            let (change, fields) = match (named(&before, &name), named(&after, &name)) {
                (None, Some(part)) => (PartFate::Added, differences(&Value::Null, &part)),
                (Some(part), None) => (PartFate::Removed, differences(&part, &Value::Null)),
                (Some(before), Some(after)) if before != after => {
                    (PartFate::Changed, differences(&before, &after))
                }
                _ => continue,
            };
            found.push(PartChange { list, name, change, fields });
        }
    }
    found
}

/// The fields that differ.
fn differences(before: &Value, after: &Value) -> Vec<(String, Value, Value)> {
    let none = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&none), after.as_object().unwrap_or(&none));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |part: &Map<String, Value>, name: &str| part.get(name).cloned().unwrap_or_default();
    let differ = names.into_iter().map(|name| (name, value(before, name), value(after, name)));
    differ
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| (name.clone(), before, after))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_the_part_and_its_fields() {
        let before = json!({
            "providers": [{ "name": "a", "dialect": "openai" }, { "name": "b", "region": "eu" }],
            "wildcards": [{ "pattern": "x/*" }],
        });
        let after = json!({
            "providers": [{ "name": "b", "region": "us" }, { "name": "c" }],
            "wildcards": [{ "pattern": "x/*" }],
        });
        let found = changes(&before, &after);
        let told: Vec<_> = found
            .iter()
            .map(|change| (change.list, change.name.as_str(), change.change.name()))
            .collect();
        assert_eq!(
            told,
            [
                ("providers", "a", "removed"),
                ("providers", "b", "changed"),
                ("providers", "c", "added")
            ]
        );
        assert_eq!(found[1].fields, [("region".to_owned(), json!("eu"), json!("us"))]);
        assert_eq!(changes(&before, &before), []);
    }
}
