//! JSON without control characters in its texts.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What is wrong with a text that has a control character.
pub const MESSAGE: &str = "must not have control characters";
/// Fields whose texts are hashed and never stored or sent on, so they may have any character.
const SECRETS: [&str; 3] = ["password", "current_password", "new_password"];

/// Any JSON whose names and texts have no control characters, but for passwords. Nothing of it is
/// kept, whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct Printable;

/// Can these bytes of JSON have a control character in a text? It is written as an escape, as DEL,
/// or as one of U+0080 to U+009F, which begin with this byte in UTF-8.
#[must_use]
pub fn may_have_control_characters(json: &[u8]) -> bool {
    json.iter().any(|byte| matches!(byte, b'\\' | 0x7f | 0xc2))
}

fn check<E: Error>(text: &str) -> Result<Printable, E> {
    if text.chars().any(char::is_control) { Err(E::custom(MESSAGE)) } else { Ok(Printable) }
}

impl<'de> Deserialize<'de> for Printable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Printable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without control characters")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Printable, E> {
        check(text)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Printable, E> {
        Ok(Printable)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Printable, E> {
        Ok(Printable)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Printable, E> {
        Ok(Printable)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Printable, E> {
        Ok(Printable)
    }

    fn visit_unit<E>(self) -> Result<Printable, E> {
        Ok(Printable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Printable, A::Error> {
        while items.next_element::<Printable>()?.is_some() {}
        Ok(Printable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Printable, A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            check::<A::Error>(&name)?;
            if SECRETS.contains(&name.as_str()) {
                fields.next_value::<IgnoredAny>()?;
            } else {
                fields.next_value::<Printable>()?;
            }
        }
        Ok(Printable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_printable(json: &str) -> bool {
        !may_have_control_characters(json.as_bytes())
            || serde_json::from_str::<Printable>(json).is_ok()
    }

    #[test]
    fn control_characters_are_found_wherever_they_stand() {
        for json in [
            r#"{"a":"\u0000"}"#,
            r#"{"a":["b",{"c":"\r\n"}]}"#,
            r#"{"a\t":1}"#,
            "{\"a\":\"\u{7f}\"}",
            "{\"a\":\"\u{85}\"}",
            r#"["\u009f"]"#,
        ] {
            assert!(!is_printable(json), "{json}");
        }
        for json in [
            r#"{"a":"\"b\\","n":[1,-2,0.5,1e300,null,true]}"#,
            r#"{"password":"\u0000","new_password":"\n"}"#,
            "{\"a\":\"\u{a9} \u{416}\"}",
        ] {
            assert!(is_printable(json), "{json}");
        }
    }
}
