//! The account that a request is about, by its environment.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use domain::Environment;

/// Which of a user's two accounts.
#[derive(Clone, Copy, Debug)]
pub(super) struct EnvironmentName(pub(super) Environment);

const ALL: [Environment; 2] = [Environment::Live, Environment::Test];
const NAMES: [&str; 2] = [Environment::Live.name(), Environment::Test.name()];

impl Default for EnvironmentName {
    fn default() -> Self {
        EnvironmentName(Environment::Live)
    }
}

impl From<EnvironmentName> for Environment {
    fn from(EnvironmentName(environment): EnvironmentName) -> Self {
        environment
    }
}

impl Serialize for EnvironmentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl<'de> Deserialize<'de> for EnvironmentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let named = ALL.into_iter().find(|environment| environment.name() == text);
        named.map(EnvironmentName).ok_or_else(|| D::Error::unknown_variant(&text, &NAMES))
    }
}

impl PartialSchema for EnvironmentName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Which of a user's two accounts."))
            .enum_values(Some(NAMES))
            .into()
    }
}

impl ToSchema for EnvironmentName {}
