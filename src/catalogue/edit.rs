//! Edits of the document in JSON.

use serde_json::{Map, Value};

use super::CatalogueError;
use domain::catalogue::CatalogueFault;

/// A kind of part that is edited by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// See [`domain::catalogue::ModelProvider`].
    Provider,
    /// See [`domain::catalogue::Credential`].
    Credential,
    /// See [`domain::catalogue::Deployment`].
    Deployment,
    /// See [`domain::catalogue::SoldModel`].
    Model,
}

impl PartKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PartKind::Provider => "provider",
            PartKind::Credential => "credential",
            PartKind::Deployment => "deployment",
            PartKind::Model => "model",
        }
    }

    /// The name of its list in a document.
    #[must_use]
    pub const fn list(self) -> &'static str {
        match self {
            PartKind::Provider => "providers",
            PartKind::Credential => "credentials",
            PartKind::Deployment => "deployments",
            PartKind::Model => "models",
        }
    }

    /// The parts of this kind.
    #[must_use]
    pub fn of(self, document: &Value) -> &[Value] {
        let list = document.get(self.list()).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    /// The part with this name.
    #[must_use]
    pub fn find(self, document: &Value, name: &str) -> Option<Value> {
        self.of(document).iter().find(|part| is_named(part, name)).cloned()
    }
}

/// The part with this name. It may name itself, but not otherwise.
fn named(mut part: Value, name: &str) -> Result<Value, CatalogueError> {
    if part.get("name").is_some_and(|own| own.as_str() != Some(name)) {
        let (path, problem) = ("name".into(), "must be that of the path".into());
        return Err(CatalogueError::Faults(vec![CatalogueFault { path, problem }]));
    }
    if let Some(fields) = part.as_object_mut() {
        fields.insert("name".into(), name.into());
    }
    Ok(part)
}

fn is_named(part: &Value, name: &str) -> bool {
    part.get("name").and_then(Value::as_str) == Some(name)
}

/// An edit. It can be made again on a later document.
#[derive(Clone, Debug)]
pub enum Edit {
    /// This is the whole document.
    Whole(Value),
    /// A merge patch (RFC 7396).
    Merge(Value),
    /// Adds a part; there is none with its name.
    Add(PartKind, Value),
    /// Sets the part with this name; adds it if it is not there.
    Set(PartKind, String, Value),
    /// Removes the part with this name.
    Remove(PartKind, String),
}

impl Edit {
    /// The document after the edit.
    pub(super) fn apply(&self, mut document: Value) -> Result<Value, CatalogueError> {
        match self {
            Edit::Whole(whole) => Ok(whole.clone()),
            Edit::Merge(patch) => {
                merge(&mut document, patch);
                Ok(document)
            }
            Edit::Add(kind, part) => with_list(document, *kind, |list| {
                let name = part.get("name").and_then(Value::as_str).unwrap_or_default();
                if list.iter().any(|known| is_named(known, name)) {
                    return Err(CatalogueError::Exists(kind.name()));
                }
                list.push(part.clone());
                Ok(())
            }),
            Edit::Set(kind, name, part) => {
                let part = named(part.clone(), name)?;
                with_list(document, *kind, |list| {
                    match list.iter_mut().find(|known| is_named(known, name)) {
                        Some(known) => *known = part,
                        None => list.push(part),
                    }
                    Ok(())
                })
            }
            Edit::Remove(kind, name) => with_list(document, *kind, |list| {
                let before = list.len();
                list.retain(|part| !is_named(part, name));
                let is_there = list.len() < before;
                is_there.then_some(()).ok_or(CatalogueError::NotFound(kind.name()))
            }),
        }
    }

    /// The error for a document that has these faults after the edit.
    pub(super) fn refusal(&self, faults: Vec<CatalogueFault>) -> CatalogueError {
        match self {
            // It was right before, so what is wrong now has named what is gone.
            Edit::Remove(..) => {
                CatalogueError::Used(faults.into_iter().map(|fault| fault.path).collect())
            }
            _ => CatalogueError::Faults(faults),
        }
    }
}

/// The document with the list of a kind edited. What is missing is made.
fn with_list(
    document: Value,
    kind: PartKind,
    edit: impl FnOnce(&mut Vec<Value>) -> Result<(), CatalogueError>,
) -> Result<Value, CatalogueError> {
    let mut lists = match document {
        Value::Object(lists) => lists,
        _ => Map::new(),
    };
    let mut list = match lists.remove(kind.list()) {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    edit(&mut list)?;
    lists.insert(kind.list().to_owned(), Value::Array(list));
    Ok(Value::Object(lists))
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_is_that_of_rfc_7396() {
        // The examples of its appendix A.
        for (original, patch, result) in [
            (json!({ "a": "b" }), json!({ "a": "c" }), json!({ "a": "c" })),
            (json!({ "a": "b" }), json!({ "b": "c" }), json!({ "a": "b", "b": "c" })),
            (json!({ "a": "b" }), json!({ "a": null }), json!({})),
            (json!({ "a": "b", "b": "c" }), json!({ "a": null }), json!({ "b": "c" })),
            (json!({ "a": ["b"] }), json!({ "a": "c" }), json!({ "a": "c" })),
            (json!({ "a": "c" }), json!({ "a": ["b"] }), json!({ "a": ["b"] })),
            (
                json!({ "a": { "b": "c" } }),
                json!({ "a": { "b": "d", "c": null } }),
                json!({ "a": { "b": "d" } }),
            ),
            (json!({ "a": [{ "b": "c" }] }), json!({ "a": [1] }), json!({ "a": [1] })),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({ "a": "b" }), json!(["c"]), json!(["c"])),
            (json!({ "a": "foo" }), json!(null), json!(null)),
            (json!({ "e": null }), json!({ "a": 1 }), json!({ "e": null, "a": 1 })),
            (json!([1, 2]), json!({ "a": "b", "c": null }), json!({ "a": "b" })),
            (json!({}), json!({ "a": { "bb": { "ccc": null } } }), json!({ "a": { "bb": {} } })),
        ] {
            let mut merged = original.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{original} {patch}");
        }
    }

    #[test]
    fn a_part_is_added_once_set_by_its_name_and_removed() {
        let kind = PartKind::Model;
        let one = json!({ "name": "one", "max_input": 1 });
        let added = Edit::Add(kind, one.clone()).apply(json!({})).unwrap();
        assert_eq!(added, json!({ "models": [one] }));
        let again = Edit::Add(kind, one).apply(added.clone());
        assert!(matches!(again, Err(CatalogueError::Exists("model"))));
        let set = Edit::Set(kind, "one".into(), json!({ "max_input": 2 })).apply(added).unwrap();
        assert_eq!(kind.find(&set, "one"), Some(json!({ "name": "one", "max_input": 2 })));
        let other = Edit::Set(kind, "one".into(), json!({ "name": "two" })).apply(set.clone());
        assert!(matches!(other, Err(CatalogueError::Faults(_))));
        let removed = Edit::Remove(kind, "one".into()).apply(set).unwrap();
        assert_eq!(removed, json!({ "models": [] }));
        let again = Edit::Remove(kind, "one".into()).apply(removed);
        assert!(matches!(again, Err(CatalogueError::NotFound("model"))));
    }
}
