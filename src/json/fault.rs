//! What is wrong with JSON of a known shape, in words for people. The value itself is left out: it
//! may be a secret in the wrong place, and answers get logged.

/// The place and the words of an error, from serde's path and error. The place is empty if it is
/// the whole.
#[must_use]
pub fn explain(path: &str, error: &serde_json::Error) -> (String, String) {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    // "missing field `name`" and "unknown field `role`, ..." name the field themselves.
    let (is_missing, is_unknown) =
        (message.starts_with("missing field `"), message.starts_with("unknown field `"));
    let named = message.split('`').nth(1).filter(|_| is_missing || is_unknown);
    let words = if is_missing {
        "is missing".to_owned()
    } else if is_unknown {
        "is not known".to_owned()
    } else {
        without_value(message)
    };
    let path = path.trim_matches('.');
    let place = match named {
        Some(named) if path.is_empty() => named.to_owned(),
        Some(named) if path != named && !path.ends_with(&format!(".{named}")) => {
            format!("{path}.{named}")
        }
        _ => path.to_owned(),
    };
    (place, words)
}

/// serde's message without the value that was sent.
#[must_use]
pub fn without_value(message: &str) -> String {
    let repeats = ["invalid ", "unknown variant "].iter().any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ").filter(|_| repeats) {
        Some((_, expected)) => format!("must be {expected}"),
        None if repeats => "is not valid".to_owned(),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only the reading is tested")]
        inner: Inner,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only the reading is tested")]
        number: u64,
    }

    fn explained(value: Value) -> (String, String) {
        let error = serde_path_to_error::deserialize::<_, Outer>(value).err().unwrap();
        explain(&error.path().to_string(), error.inner())
    }

    #[test]
    fn a_fault_has_its_place_and_never_the_value() {
        for (value, place, words) in [
            (json!({}), "inner", "is missing"),
            (json!({ "inner": {} }), "inner.number", "is missing"),
            (json!({ "inner": { "number": 1 }, "other": 2 }), "other", "is not known"),
            (json!({ "inner": { "number": 1, "x": 2 } }), "inner.x", "is not known"),
            (json!({ "inner": { "number": "hush" } }), "inner.number", "must be u64"),
        ] {
            assert_eq!(explained(value), (place.to_owned(), words.to_owned()));
        }
    }
}
