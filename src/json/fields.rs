//! A JSON object whose fields are read and changed one by one. The text of the other fields stays
//! the same.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The fields in their order, with the text of each value.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// Reads an object; `None` for any other text.
    #[must_use]
    pub fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The JSON text of a field; `None` if it is absent or null. Of duplicates the last one counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().rev().find(|(own, _)| own == name);
        field.map(|(_, value)| &**value).filter(|value| *value != "null")
    }

    /// The JSON texts of all fields whose name is one of these. An upstream may use another
    /// duplicate than this server does.
    pub fn all(&self, is_of: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(own, _)| is_of(own)).map(|(_, value)| &**value)
    }

    /// The place of a field's value in `text`, which this object was read from. `None` if the field
    /// is absent or was set. Of duplicates the last one counts.
    #[must_use]
    pub fn place(&self, name: &str, text: &str) -> Option<Range<usize>> {
        let (_, value) = self.0.iter().rev().find(|(own, _)| own == name)?;
        let Cow::Borrowed(value) = value else { return None };
        let start = value.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
        let place = start..start.checked_add(value.len())?;
        (text.get(place.clone()) == Some(*value)).then_some(place)
    }

    /// Is the field present, even as null?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// Are these the only fields?
    #[must_use]
    pub fn has_only(&self, names: &[&str]) -> bool {
        self.0.iter().all(|(own, _)| names.contains(&&**own))
    }

    /// Sets a field to a JSON text, in place or at the end.
    pub fn set(&mut self, name: &'static str, value: impl Into<Cow<'a, str>>) {
        let value = value.into();
        match self.0.iter().position(|(own, _)| own == name) {
            Some(place) => {
                let mut first = true;
                self.0.retain(|(own, _)| own != name || std::mem::take(&mut first));
                if let Some(field) = self.0.get_mut(place) {
                    field.1 = value;
                }
            }
            None => self.0.push((Cow::Borrowed(name), value)),
        }
    }

    /// Sets all fields of `other`.
    pub fn overlay(&mut self, other: Fields<'a>) {
        for (name, value) in other.0 {
            match self.0.iter_mut().find(|(own, _)| *own == name) {
                Some(field) => field.1 = value,
                None => self.0.push((name, value)),
            }
        }
    }

    /// Removes every field with this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| own != name);
    }

    /// The object as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Quotes, a colon and a comma.
        let of = |(name, value): &(Cow<'_, str>, Cow<'_, str>)| {
            name.len().saturating_add(value.len()).saturating_add(4)
        };
        let mut json = String::with_capacity(self.0.iter().map(of).fold(2, usize::saturating_add));
        json.push('{');
        for (place, (name, value)) in self.0.iter().enumerate() {
            if place > 0 {
                json.push(',');
            }
            if name.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\')) {
                json.push('"');
                json.push_str(name);
                json.push('"');
            } else {
                json.push_str(&Value::from(&**name).to_string());
            }
            json.push(':');
            json.push_str(value);
        }
        json.push('}');
        json
    }

    /// A copy with only the fields of these names.
    #[must_use]
    pub fn only(&self, names: &[&str]) -> Fields<'static> {
        let kept = self.0.iter().filter(|(own, _)| names.contains(&&**own));
        let owned = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        Fields(kept.map(|(name, value)| (owned(name), owned(value))).collect())
    }

    /// An owned copy.
    #[must_use]
    pub fn into_owned(self) -> Fields<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Fields(self.0.into_iter().map(|(name, value)| (owned(name), owned(value))).collect())
    }
}

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'n>(#[serde(borrow)] Cow<'n, str>);

        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    fields.push((name, Cow::Borrowed(value.get())));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_fields_keep_their_text() {
        let text = r#"{"b":1.50,"a\u0041":[1, 2],"usage":null,"b":2,"z":"ü"}"#;
        let mut fields = Fields::read(text).unwrap();
        assert_eq!((fields.get("b"), fields.get("usage")), (Some("2"), None));
        assert!(fields.has("usage") && fields.has("aA") && !fields.has("c"));
        fields.set("c", "true");
        fields.set("b", "3");
        fields.remove("usage");
        assert_eq!(fields.to_string(), r#"{"b":3,"aA":[1, 2],"z":"ü","c":true}"#);
        assert_eq!(fields.only(&["z"]).to_string(), r#"{"z":"ü"}"#);
    }

    #[test]
    fn a_value_is_found_in_its_text() {
        let text = r#" {"a": "\u0061" ,"b":{"a":1},"a" : [2] } "#;
        let fields = Fields::read(text).unwrap();
        assert_eq!(text.get(fields.place("a", text).unwrap()), Some("[2]"));
        let inner = text.get(fields.place("b", text).unwrap()).unwrap();
        assert_eq!(inner, r#"{"a":1}"#);
        assert_eq!(Fields::read(inner).unwrap().place("a", inner), Some(5..6));
        assert_eq!(fields.place("c", text), None);
        assert_eq!(fields.place("a", "another text, which is as long as the first"), None);
        let mut changed = fields.clone();
        changed.set("c", "1".to_owned());
        assert_eq!(changed.place("c", text), None);
    }

    #[test]
    fn only_an_object_is_read() {
        for text in ["", "[]", "1", "\"a\"", "{\"a\":}", "{\"a\":1}x", "[DONE]"] {
            assert!(Fields::read(text).is_none(), "{text}");
        }
        assert_eq!(Fields::read("{}").unwrap().to_string(), "{}");
    }
}
