//! JSON in which no object names a field twice, and no name has a control character. Readers differ
//! in which of the two they take, and in where a name ends, so what is read here might not be what
//! another reader sees.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

/// The part of a field's name that an error repeats.
const NAME_CHARS_MAX: usize = 64;

/// The error of a field that is named twice.
pub fn duplicate<E: serde::de::Error>(name: &str) -> E {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    E::custom(format_args!("duplicate field `{name}`"))
}

/// The error of a name with a control character: some readers take it for a shorter one.
pub fn check_name<E: serde::de::Error>(name: &str) -> Result<(), E> {
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        return Err(E::custom(format_args!("the name {name:?} has a control character")));
    }
    Ok(())
}

/// A value without such an object in it.
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
                Ok(Strict(Value::Bool(value)))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
                Ok(Strict(Value::Number(value.into())))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
                Ok(Strict(Value::Number(value.into())))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
                Ok(Strict(Number::from_f64(value).map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Strict, E> {
                Ok(Strict(Value::String(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Strict, E> {
                Ok(Strict(Value::String(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
                let mut values = Vec::new();
                while let Some(Strict(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(Strict(Value::Array(values)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut fields = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    check_name(&name)?;
                    if fields.contains_key(&name) {
                        return Err(duplicate(&name));
                    }
                    let Strict(value) = map.next_value()?;
                    fields.insert(name, value);
                }
                Ok(Strict(Value::Object(fields)))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_duplicates_is_read_as_it_is() {
        let text = r#"{"a":[1,-2,1.5,null,true,"x\u0041",{"b":{}}],"c":18446744073709551615}"#;
        let Strict(value) = serde_json::from_str(text).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_name_with_a_control_character_is_refused_at_any_depth() {
        for text in [r#"{"type\u0000x":1}"#, r#"[{"a":{"b\u001f":1}}]"#, r#"{"\u007f":1}"#] {
            let error = serde_json::from_str::<Strict>(text).err().unwrap().to_string();
            assert!(error.contains("control character"), "{text}: {error}");
        }
    }

    #[test]
    fn a_field_that_is_named_twice_is_refused_at_any_depth() {
        for text in
            [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"\u0061":2}]}"#, r#"[[[{"a":{"c":1,"c":null}}]]]"#]
        {
            let error = serde_json::from_str::<Strict>(text).err().unwrap().to_string();
            assert!(error.contains("duplicate field"), "{text}: {error}");
        }
    }
}
