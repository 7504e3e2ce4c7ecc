//! A price file as a tree of values. Numbers stay text, so that nothing is rounded.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::ImportError;

/// Deeper files are refused: those that we know have eight levels.
pub(super) const DEPTH_MAX: u32 = 24;
/// Files with more values are refused. The largest that we know has some 200,000.
pub(super) const VALUES_MAX: usize = 2_000_000;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    Text(String),
    List(Vec<Tree>),
    /// Keys may stand twice; the last one counts.
    Object(Vec<(String, Tree)>),
}

impl Tree {
    pub(super) fn get(&self, key: &str) -> Option<&Tree> {
        self.entries().iter().rfind(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn entries(&self) -> &[(String, Tree)] {
        match self {
            Tree::Object(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn items(&self) -> &[Tree] {
        match self {
            Tree::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Tree::Object(_))
    }

    /// The text of a number, which some files write as a text.
    pub(super) fn number(&self) -> Option<&str> {
        match self {
            Tree::Number(text) | Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number of tokens, such as `200000` or `200000.0`.
    pub(super) fn whole(&self) -> Option<u64> {
        let text = self.number()?;
        let whole = match text.split_once('.') {
            Some((whole, zeros)) => {
                Some(whole).filter(|_| zeros.bytes().all(|byte| byte == b'0'))?
            }
            None => text,
        };
        whole.parse().ok()
    }

    /// The text of `key`.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// Is `key` true?
    pub(super) fn is(&self, key: &str) -> bool {
        self.get(key) == Some(&Tree::Bool(true))
    }
}

/// Counts values, so that a small file does not become a large tree.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) const fn new() -> Self {
        Budget(VALUES_MAX)
    }

    /// Takes one value from it. `None` if there are too many.
    pub(super) fn take(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
}

/// Reads JSON.
pub(super) fn json(text: &str) -> Result<Tree, ImportError> {
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|error| ImportError::NotJson(error.to_string()))?;
    read(raw, DEPTH_MAX, &mut Budget::new())
        .map_err(|error| ImportError::NotJson(error.to_string()))
}

fn read(raw: &RawValue, depth: u32, budget: &mut Budget) -> serde_json::Result<Tree> {
    let text = raw.get();
    budget.take().ok_or_else(|| {
        serde_json::Error::custom(format_args!("it has more than {VALUES_MAX} values"))
    })?;
    Ok(match text.as_bytes().first() {
        Some(b'n') => Tree::Null,
        Some(b't') => Tree::Bool(true),
        Some(b'f') => Tree::Bool(false),
        Some(b'"') => Tree::Text(serde_json::from_str(text)?),
        Some(b'[' | b'{') => {
            let depth = depth.checked_sub(1).ok_or_else(|| {
                serde_json::Error::custom(format_args!("it has more than {DEPTH_MAX} levels"))
            })?;
            let mut reader = serde_json::Deserializer::from_str(text);
            reader.deserialize_any(Level { depth, budget })?
        }
        _ => Tree::Number(text.to_owned()),
    })
}

/// Reads the values of a list or an object.
struct Level<'b> {
    depth: u32,
    budget: &'b mut Budget,
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(raw) = items.next_element::<&RawValue>()? {
            list.push(read(raw, self.depth, self.budget).map_err(A::Error::custom)?);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut object = Vec::new();
        while let Some((key, raw)) = entries.next_entry::<String, &RawValue>()? {
            object.push((key, read(raw, self.depth, self.budget).map_err(A::Error::custom)?));
        }
        Ok(Tree::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_as_they_are_written() {
        let tree = json(
            r#"{"a": [1.50e-07, 1.0000000000000001E-7, 12], "b": {"c": "x\n", "d": null},
            "e": true, "a2": 200000.0, "a3": 1.5}"#,
        )
        .unwrap();
        let numbers: Vec<_> = tree.get("a").unwrap().items().iter().map(Tree::number).collect();
        assert_eq!(numbers, [Some("1.50e-07"), Some("1.0000000000000001E-7"), Some("12")]);
        assert_eq!(tree.get("b").unwrap().text_of("c"), Some("x\n"));
        assert!(tree.is("e") && !tree.is("a") && tree.get("z").is_none());
        assert_eq!(tree.get("a2").unwrap().whole(), Some(200_000));
        assert_eq!(tree.get("a3").unwrap().whole(), None);
    }

    #[test]
    fn deep_and_endless_files_are_refused() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(json(&deep).unwrap_err().to_string().contains("24 levels"));
        let long = format!("[{}0]", "0,".repeat(VALUES_MAX));
        assert!(json(&long).unwrap_err().to_string().contains("2000000 values"));
        for text in ["", "{", "[1,]", "{\"a\":1}x", "nul"] {
            assert!(json(text).is_err(), "{text}");
        }
    }
}
