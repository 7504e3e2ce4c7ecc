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

/// In the place of the id of reasoning whose text is in the item: no upstream keeps one of it.
const NO_ID: &str = "\"rs_0\"";

/// Is it reasoning that the upstream would look up?
fn is_kept(item: &serde_json::Map<String, Value>) -> bool {
    let has = |name: &str| get(item, name).is_some_and(|value| !value.is_null());
    get(item, "type").and_then(Value::as_str) == Some("reasoning") && !has("encrypted_content")
}

/// Does the `input` of a request have such items?
pub(super) fn has_kept_reasoning(input: &Value) -> bool {
    let Value::Array(items) = input else { return false };
    items.iter().any(|item| item.as_object().is_some_and(is_kept))
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
        let items: Vec<String> = items.iter().filter_map(|item| rewritten(item.get())).collect();
        fields.set("input", format!("[{}]", items.join(",")));
        fields.to_string().into()
    }
}

/// The item as it is sent; `None` if it is not.
fn rewritten(item: &str) -> Option<String> {
    let Ok(Value::Object(read)) = serde_json::from_str::<Value>(item) else {
        return Some(item.to_owned());
    };
    let Some(mut fields) = Fields::read(item) else { return Some(item.to_owned()) };
    if !is_kept(&read) {
        let is_reasoning = get(&read, "type").and_then(Value::as_str) == Some("reasoning");
        if !is_reasoning {
            fields.remove("id");
        }
        return Some(fields.to_string());
    }
    let has_text =
        get(&read, "content").and_then(Value::as_array).is_some_and(|parts| !parts.is_empty());
    if !has_text {
        return None;
    }
    fields.set("id", NO_ID);
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
            "text",
        ] });
        assert!(has_kept_reasoning(&body["input"]));
        let sent = Dialect::Responses.without_kept_reasoning(&body.to_string().into());
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let call = json!({ "type": "function_call", "call_id": "c", "name": "n",
            "arguments": "{}" });
        let expected = json!({ "model": "m", "input": [
            { "role": "user", "content": "Hello!" },
            call,
            own,
            { "type": "reasoning", "id": "rs_0", "content": text },
            "text",
        ] });
        assert_eq!(sent, expected);
        assert!(!has_kept_reasoning(&json!([own])) && !has_kept_reasoning(&json!("reasoning")));
    }
}
