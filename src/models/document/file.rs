//! A file with the catalogue, and where the secrets of its credentials are.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::{check, fault, read};
use domain::catalogue::{CatalogueDocument, CatalogueFault};

/// The section of a file that is no part of the catalogue: prices are published by themselves.
const CARDS: &str = "cards";

/// Where a file says that the secret of a credential is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// In the environment variable with this name.
    Variable(String),
    /// In the file with this path.
    File(PathBuf),
}

/// What a file has: the document, where the secrets of its credentials are, and cards of prices,
/// as they stand there.
#[derive(Clone, Debug)]
pub struct CatalogueFile {
    /// The document.
    pub document: CatalogueDocument,
    /// By the name of the credential.
    pub secrets: Vec<(Arc<str>, SecretPlace)>,
    /// The cards.
    pub cards: Vec<Value>,
}

impl CatalogueFile {
    /// Reads the text of a file: TOML, or JSON if `is_json`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(text: &str, is_json: bool) -> Result<Self, Vec<CatalogueFault>> {
        let mut value = parse(text, is_json).map_err(|problem| vec![fault("", problem)])?;
        let mut faults = Vec::new();
        let secrets = take_secrets(&mut value, &mut faults);
        let cards = match value.as_object_mut().and_then(|lists| lists.remove(CARDS)) {
            None => Vec::new(),
            Some(Value::Array(cards)) => cards,
            Some(_) => {
                faults.push(fault(CARDS, "must be a list"));
                Vec::new()
            }
        };
        let document = match read(value) {
            Ok(document) => document,
            Err(others) => {
                faults.extend(others);
                return Err(faults);
            }
        };
        faults.extend(check(&document).err().unwrap_or_default());
        if faults.is_empty() { Ok(CatalogueFile { document, secrets, cards }) } else { Err(faults) }
    }
}

/// Reads TOML or JSON as a value. An error says where.
fn parse(text: &str, is_json: bool) -> Result<Value, String> {
    if is_json {
        return serde_json::from_str(text).map_err(|error| {
            format!("is no JSON: line {}, column {}", error.line(), error.column())
        });
    }
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let words: Vec<&str> = error.message().split_whitespace().collect();
        format!("is no TOML: line {line}: {}", words.join(" "))
    })?;
    serde_json::to_value(table).map_err(|_| "has a value that JSON does not have".to_owned())
}

/// Takes the secrets of the credentials out.
fn take_secrets(
    value: &mut Value,
    faults: &mut Vec<CatalogueFault>,
) -> Vec<(Arc<str>, SecretPlace)> {
    let credentials = value.get_mut("credentials").and_then(Value::as_array_mut);
    let mut secrets = Vec::new();
    for (place, credential) in credentials.into_iter().flatten().enumerate() {
        let Some(credential) = credential.as_object_mut() else { continue };
        let Some(secret) = credential.remove("secret") else { continue };
        let name = credential.get("name").and_then(Value::as_str).unwrap_or_default();
        match secret.as_str().and_then(secret_place) {
            Some(at) => secrets.push((name.into(), at)),
            None => faults.push(fault(
                format!("credentials[{place}].secret"),
                "must be env:NAME or file:/path: a secret itself does not belong into the file",
            )),
        }
    }
    secrets
}

fn secret_place(text: &str) -> Option<SecretPlace> {
    match text.split_once(':')? {
        ("env", name) if !name.is_empty() => Some(SecretPlace::Variable(name.to_owned())),
        ("file", path) if path.starts_with('/') => Some(SecretPlace::File(path.into())),
        _ => None,
    }
}

impl SecretPlace {
    /// The secret that is there.
    ///
    /// # Errors
    /// What is wrong, without the secret.
    #[expect(clippy::disallowed_methods, reason = "the file names the variable")]
    pub fn read(&self) -> Result<String, String> {
        let (text, name) = match self {
            SecretPlace::Variable(name) => {
                let text = std::env::var(name);
                (text.map_err(|_| format!("the variable {name} is not set"))?, name.clone())
            }
            SecretPlace::File(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path);
                (text.map_err(|error| format!("cannot read {name}: {}", error.kind()))?, name)
            }
        };
        let secret = text.trim();
        if is_secret(secret) {
            Ok(secret.to_owned())
        } else {
            Err(format!("{name} has no secret: 1 to 4096 visible characters, without spaces"))
        }
    }
}

/// Can it be sent in a header?
#[must_use]
pub fn is_secret(text: &str) -> bool {
    (1..=4_096).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
