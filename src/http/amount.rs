//! Amounts in JSON: numbers, read from and written as their own text, so that no float touches
//! them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use domain::Credits;

/// [`Credits`] as a JSON number of dollars, with at least four decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub Credits);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        text.get().parse().map(Amount).map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .description(Some("USD, exact to nine decimals"))
            .into()
    }
}

impl ToSchema for Amount {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_their_digits() {
        let read: Amount = serde_json::from_str("9007199254.740993001").unwrap();
        assert_eq!(read.0.nanos(), 9_007_199_254_740_993_001);
        assert_eq!(serde_json::to_string(&read).unwrap(), "9007199254.740993001");
        let read: Option<Amount> = serde_json::from_str("1.00").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "1.0000");
        for text in ["\"1.00\"", "1e2", "true", "{}", "0.0000000001"] {
            assert!(serde_json::from_str::<Amount>(text).is_err(), "{text}");
        }
    }
}
