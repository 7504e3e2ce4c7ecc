//! The catalogue as operators write it, in JSON and in TOML.
//!
//! Each part is read by itself, so that all that is wrong with a document is told at once. A secret
//! is never in it; [`mod@file`] knows where a file says that it is.

pub mod file;
pub mod forms;

use serde_json::{Map, Value, json};

use super::provider_url;
use crate::json::fault::explain;
use domain::catalogue::{Catalogue, CatalogueDocument, CatalogueFault, DeploymentId};
use forms::Part;

/// The lists of a document, with the key that names an entry.
pub const LISTS: [(&str, &str); 5] = [
    ("providers", "name"),
    ("credentials", "name"),
    ("deployments", "name"),
    ("models", "name"),
    ("wildcards", "pattern"),
];

pub(super) fn fault(path: impl Into<String>, problem: impl Into<String>) -> CatalogueFault {
    CatalogueFault { path: path.into(), problem: problem.into() }
}

/// The path of something within `outer`.
fn within(outer: &str, inner: &str) -> String {
    match inner {
        "" => outer.to_owned(),
        inner if inner.starts_with('[') => format!("{outer}{inner}"),
        inner => format!("{outer}.{inner}"),
    }
}

/// Reads one part. What is wrong is told with the path `outer`.
fn read_part<P: Part>(value: Value, outer: &str) -> Result<P, CatalogueFault> {
    if !value.is_object() {
        return Err(fault(outer, "must be an object"));
    }
    let form = serde_path_to_error::deserialize::<_, P::Form>(value).map_err(|error| {
        let (inner, words) = explain(&error.path().to_string(), error.inner());
        if inner == "secret" {
            let words = "is no part of the catalogue: set it with `polysystems credentials set NAME` \
                         (PUT /api/admin/credentials/NAME)";
            return fault(within(outer, &inner), words);
        }
        fault(within(outer, &inner), words)
    })?;
    P::of(form).map_err(|(inner, words)| fault(within(outer, &inner), words))
}

/// Takes the list of this name out, and reads its parts.
fn take_list<P: Part>(
    document: &mut Map<String, Value>,
    name: &str,
    faults: &mut Vec<CatalogueFault>,
) -> Vec<P> {
    let parts = match document.remove(name) {
        None => return Vec::new(),
        Some(Value::Array(parts)) => parts,
        Some(_) => {
            faults.push(fault(name, "must be a list"));
            return Vec::new();
        }
    };
    let read = parts.into_iter().enumerate().filter_map(|(place, value)| {
        match read_part(value, &format!("{name}[{place}]")) {
            Ok(part) => Some(part),
            Err(fault) => {
                faults.push(fault);
                None
            }
        }
    });
    read.collect()
}

/// Reads a document as it is written.
///
/// # Errors
/// All that is wrong with its shape.
pub fn read(document: Value) -> Result<CatalogueDocument, Vec<CatalogueFault>> {
    let Value::Object(mut lists) = document else {
        return Err(vec![fault("", "must be an object")]);
    };
    let mut faults = Vec::new();
    let document = CatalogueDocument {
        providers: take_list(&mut lists, "providers", &mut faults),
        credentials: take_list(&mut lists, "credentials", &mut faults),
        deployments: take_list(&mut lists, "deployments", &mut faults),
        models: take_list(&mut lists, "models", &mut faults),
        wildcards: take_list(&mut lists, "wildcards", &mut faults),
    };
    faults.extend(lists.keys().map(|name| fault(name, "is not known")));
    if faults.is_empty() { Ok(document) } else { Err(faults) }
}

fn forms<P: Part>(parts: &[P]) -> Value {
    let forms: Vec<P::Form> = parts.iter().map(Part::form).collect();
    // This cannot fail: every key is a text.
    serde_json::to_value(forms).unwrap_or_default()
}

/// A document as it is written. All that has its usual value is left out.
#[must_use]
pub fn write(document: &CatalogueDocument) -> Value {
    json!({
        "providers": forms(&document.providers),
        "credentials": forms(&document.credentials),
        "deployments": forms(&document.deployments),
        "models": forms(&document.models),
        "wildcards": forms(&document.wildcards),
    })
}

/// All that is wrong with what a document says.
///
/// # Errors
/// In its order.
pub fn check(document: &CatalogueDocument) -> Result<(), Vec<CatalogueFault>> {
    let mut faults = provider_url::faults(document);
    // A document that is checked may have names that have no number yet.
    let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
    faults.extend(Catalogue::new(0, document.clone(), &ids).err().unwrap_or_default());
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

#[cfg(test)]
mod tests;
