//! Items of `/v1/responses` that name reasoning which the upstream keeps.
//!
//! OpenAI's client sends each answer back with the next request. The reasoning in it has an id and,
//! unless it was asked for, no `encrypted_content`: the upstream would look it up. All customers
//! share our credential there, so the id could be that of another customer's reasoning, and its
//! tokens are not seen here. So the upstream does not get it, and works with what the request
//! itself says. That is all that is counted.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Dialect;
use super::names::get;
use crate::json::fields::Fields;

/// Is it reasoning that the upstream would look up?
fn is_kept(item: &serde_json::Map<String, Value>) -> bool {
    let encrypted = get(item, "encrypted_content");
    let is_none = encrypted.is_none_or(|value| value.is_null() || value.as_str() == Some(""));
    is_none && is_reasoning(item)
}

fn is_reasoning(item: &serde_json::Map<String, Value>) -> bool {
    get(item, "type").and_then(Value::as_str) == Some("reasoning")
}

/// Does a request name reasoning that the upstream keeps?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptReasoning {
    /// It does not.
    None,
    /// It does, and the upstream gets the request without it.
    LeftOut,
}

impl KeptReasoning {
    /// Of a request with this `input`.
    pub(super) fn of(input: &Value) -> Self {
        let is_kept = |item: &Value| item.as_object().is_some_and(is_kept);
        match input {
            Value::Array(items) if items.iter().any(is_kept) => KeptReasoning::LeftOut,
            _ => KeptReasoning::None,
        }
    }
}

impl Dialect {
    /// The request without reasoning that the upstream would look up. Reasoning whose text is in
    /// the item keeps it. The other items lose their ids, because the upstream would miss the
    /// reasoning that belongs to these.
    #[must_use]
    pub fn without_kept_reasoning(self, body: &Bytes) -> Bytes {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let Some(mut fields) = Fields::read(text) else { return body.clone() };
        let input = fields.get("input").unwrap_or_default();
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(input) else { return body.clone() };
        let numbered = (0_usize..).zip(&items);
        let items = numbered.filter_map(|(place, item)| rewritten(item.get(), place));
        let items: Vec<String> = items.collect();
        fields.set("input", format!("[{}]", items.join(",")));
        fields.to_string().into()
    }
}

/// The item as it is sent; `None` if it is not. Reasoning whose text is in the item gets an id that
/// no upstream keeps. The id has the place of the item, because ids must differ.
fn rewritten(item: &str, place: usize) -> Option<String> {
    let Ok(Value::Object(read)) = serde_json::from_str::<Value>(item) else {
        return Some(item.to_owned());
    };
    let Some(mut fields) = Fields::read(item) else { return Some(item.to_owned()) };
    if !is_kept(&read) {
        if !is_reasoning(&read) {
            fields.remove("id");
        }
        return Some(fields.to_string());
    }
    let has_text =
        get(&read, "content").and_then(Value::as_array).is_some_and(|parts| !parts.is_empty());
    if !has_text {
        return None;
    }
    // An empty one would be read as reasoning that is kept.
    fields.remove("encrypted_content");
    fields.set("id", format!("\"rs_{place}\""));
    Some(fields.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasoning_that_is_kept_elsewhere_is_left_out() {
        let call = json!({ "type": "function_call", "id": "fc_1", "call_id": "c", "name": "n",
            "arguments": "{}" });
        let own = json!({ "type": "reasoning", "id": "rs_2", "encrypted_content": "x" });
        let text = json!([{ "type": "reasoning_text", "text": "thought" }]);
        let body = json!({ "model": "m", "input": [
            { "role": "user", "content": "Hello!" },
            { "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": null },
            call,
            own,
            { "type": "reasoning", "id": "rs_3", "content": text },
            { "type": "reasoning", "id": "rs_4", "content": text, "encrypted_content": "" },
            "text",
        ] });
        assert_eq!(KeptReasoning::of(&body["input"]), KeptReasoning::LeftOut);
        let sent = Dialect::Responses.without_kept_reasoning(&body.to_string().into());
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let call = json!({ "type": "function_call", "call_id": "c", "name": "n",
            "arguments": "{}" });
        let expected = json!({ "model": "m", "input": [
            { "role": "user", "content": "Hello!" },
            call,
            own,
            { "type": "reasoning", "id": "rs_4", "content": text },
            { "type": "reasoning", "id": "rs_5", "content": text },
            "text",
        ] });
        assert_eq!(sent, expected);
        let empty = json!({ "type": "reasoning", "id": "rs_1", "encrypted_content": "" });
        assert_eq!(KeptReasoning::of(&json!([empty])), KeptReasoning::LeftOut);
        for input in [json!([own]), json!("reasoning")] {
            assert_eq!(KeptReasoning::of(&input), KeptReasoning::None, "{input}");
        }
    }
}
