//! Secrets in the settings.
//!
//! `secrecy` (Apache-2.0 or MIT, last release 2024-10) does not replace this type. Its
//! `SecretString` neither compares nor serializes, and it reads no number, so a wrapper with all of
//! the code below would remain. It overwrites the memory on drop, but not the copies that serde
//! makes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is never printed or serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text. Never print or log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A secret of digits only may be read as a number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar {
            Text(String),
            Number(u128),
        }
        Ok(Secret(match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn secrets_are_never_printed() {
        let mut settings = Settings::default();
        settings.auth.jwt_secret = Some(Secret("hush".into()));
        let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("hush") && shown.contains("[redacted]"));
    }
}
