//! Amounts in JSON: numbers, read from and written as their own text, so that no float touches
//! them. Answers have each amount a second time, as text: the languages of some clients make a
//! float of every number.

use std::io::{self, Write};

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::Formatter;
use serde_json::value::RawValue;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use domain::Credits;

/// What the name of an amount's text has behind that of the amount.
pub(super) const DECIMAL: &str = "_decimal";

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

/// The schema of the text of an amount.
pub(super) struct DecimalAmount;

impl PartialSchema for DecimalAmount {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^-?[0-9]+(\.[0-9]+)?$"))
            .description(Some("The same amount as text; absent if the amount is null"))
            .into()
    }
}

impl ToSchema for DecimalAmount {}

/// Writes JSON that has, beside each field that is an amount, its text: `"amount":25.0000` is
/// followed by `"amount_decimal":"25.0000"`. An amount is a number that is written as a text of its
/// own ([`RawValue`]), as [`Amount`] is: so no body needs a second field for each.
#[derive(Default)]
struct WithDecimals {
    /// The name of the field that is written.
    name: Vec<u8>,
    is_in_name: bool,
    /// The amount that was written last, until the field that it belongs to has ended.
    amount: Option<String>,
}

impl Formatter for WithDecimals {
    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.name.clear();
        self.is_in_name = true;
        if first { Ok(()) } else { to.write_all(b",") }
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        text: &str,
    ) -> io::Result<()> {
        if self.is_in_name {
            self.name.extend_from_slice(text.as_bytes());
        }
        to.write_all(text.as_bytes())
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, _to: &mut W) -> io::Result<()> {
        self.is_in_name = false;
        Ok(())
    }

    fn write_raw_fragment<W: ?Sized + Write>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        self.amount = is_number.then(|| text.to_owned());
        to.write_all(text.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        let Some(amount) = self.amount.take() else { return Ok(()) };
        to.write_all(b",\"")?;
        to.write_all(&self.name)?;
        write!(to, "{DECIMAL}\":\"{amount}\"")
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _to: &mut W) -> io::Result<()> {
        self.amount = None;
        Ok(())
    }
}

/// The JSON of an answer, its amounts as numbers and as texts.
pub(super) fn to_json(body: &impl Serialize) -> String {
    let mut text = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, WithDecimals::default());
    // This cannot fail: every key is a text, and a vector takes all that is written.
    let _ = body.serialize(&mut serializer);
    String::from_utf8(text).unwrap_or_default()
}

/// Answers with amounts.
pub(super) trait WithAmounts {
    /// An answer whose JSON is [`to_json`].
    fn amounts(&mut self, body: impl Serialize) -> HttpResponse;
}

impl WithAmounts for HttpResponseBuilder {
    fn amounts(&mut self, body: impl Serialize) -> HttpResponse {
        self.content_type(ContentType::json()).body(to_json(&body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_amount_of_an_answer_is_there_as_a_text_too() {
        #[derive(Serialize)]
        struct Part {
            spent: Amount,
            limit: Option<Amount>,
            rate: serde_json::Number,
        }
        #[derive(Serialize)]
        struct Whole {
            name: &'static str,
            amount: Amount,
            all: Vec<Amount>,
            raw: Box<RawValue>,
            parts: Vec<Part>,
            #[serde(flatten)]
            rest: Part,
        }
        let amount = |text: &str| Amount(text.parse().unwrap());
        let part = |limit: Option<&str>| Part {
            spent: amount("-0.00226"),
            limit: limit.map(amount),
            rate: "0.25".parse().unwrap(),
        };
        let body = Whole {
            name: "a \"quoted\" name",
            amount: amount("9007199254.740993001"),
            all: vec![amount("1")],
            raw: RawValue::from_string("{\"n\":1}".into()).unwrap(),
            parts: vec![part(None)],
            rest: part(Some("25")),
        };
        let text = to_json(&body);
        assert_eq!(
            text,
            concat!(
                r#"{"name":"a \"quoted\" name","amount":9007199254.740993001,"#,
                r#""amount_decimal":"9007199254.740993001","all":[1.0000],"raw":{"n":1},"#,
                r#""parts":[{"spent":-0.00226,"spent_decimal":"-0.00226","limit":null,"rate":0.25}],"#,
                r#""spent":-0.00226,"spent_decimal":"-0.00226","limit":25.0000,"#,
                r#""limit_decimal":"25.0000","rate":0.25}"#,
            )
        );
    }

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
