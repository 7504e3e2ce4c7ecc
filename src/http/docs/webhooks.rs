//! The `webhooks` of the document: what the server sends to the endpoints of account holders, one
//! for each type of event.

use serde_json::{Map, Value, json};

use crate::webhooks::payload;
use domain::EventKind;
use domain::event_sample::{meaning, sample_at, sample_data};

/// The headers of a delivery, and what they are.
const HEADERS: [(&str, &str); 3] = [
    ("webhook-id", "The id of the event. A repeat has the same one"),
    ("webhook-timestamp", "When it was sent (Unix seconds)"),
    (
        "webhook-signature",
        "One or two signatures of Standard Webhooks 1.0, with a space between them",
    ),
];

/// Adds the webhooks, and the headers that they share.
pub(super) fn add_webhooks(document: &mut Value) {
    let Some(document) = document.as_object_mut() else { return };
    let webhooks = EventKind::ALL.into_iter().map(|kind| {
        let post = json!({ "post": operation(kind) });
        (kind.name().to_owned(), post)
    });
    document.insert("webhooks".to_owned(), webhooks.collect::<Map<_, _>>().into());
    let components = document.entry("components").or_insert_with(|| json!({}));
    let Some(components) = components.as_object_mut() else { return };
    let parameters = components.entry("parameters").or_insert_with(|| json!({}));
    if let Some(parameters) = parameters.as_object_mut() {
        parameters.extend(HEADERS.map(|(name, description)| {
            let header = json!({
                "name": name, "in": "header", "required": true, "description": description,
                "schema": { "type": "string" },
            });
            (name.to_owned(), header)
        }));
    }
}

/// What the endpoint of an account holder gets, and what it should answer.
fn operation(kind: EventKind) -> Value {
    let name = kind.name();
    let sample = payload(name, sample_at(), &sample_data(kind));
    let sample: Value = serde_json::from_str(&sample).unwrap_or_default();
    let data = sample.get("data").map(schema_of).unwrap_or_default();
    let parameters =
        HEADERS.map(|(name, _)| json!({ "$ref": format!("#/components/parameters/{name}") }));
    let schema = json!({
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": { "type": "string", "const": name },
            "timestamp": { "type": "string", "format": "date-time" },
            "data": data,
        },
    });
    json!({
        "tags": ["webhooks"],
        "operationId": operation_id(name),
        "summary": meaning(kind),
        "security": [],
        "parameters": parameters,
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": schema, "example": sample } },
        },
        "responses": {
            "2XX": { "description": "It is taken" },
            "410": { "description": "The endpoint wants nothing any more: it is switched off" },
            "default": { "description": "It is sent again later" },
        },
    })
}

/// `payment.limit_exceeded` is `onPaymentLimitExceeded`.
fn operation_id(name: &str) -> String {
    let mut id = String::from("on");
    for word in name.split(['.', '_']) {
        let mut letters = word.chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(letters.as_str());
    }
    id
}

/// The schema of a value, as far as the value tells.
fn schema_of(value: &Value) -> Value {
    match value {
        // It may be there or not.
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => {
            json!({ "type": "array", "items": items.first().map(schema_of).unwrap_or_default() })
        }
        Value::Object(fields) => {
            let properties = fields.iter().map(|(name, value)| (name.clone(), schema_of(value)));
            json!({ "type": "object", "properties": properties.collect::<Map<_, _>>() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_event_has_a_webhook_with_a_body_of_its_own() {
        let mut document = json!({});
        add_webhooks(&mut document);
        let webhooks = document["webhooks"].as_object().unwrap();
        assert_eq!(webhooks.len(), EventKind::ALL.len());
        let post = &webhooks["usage.limit_exceeded"]["post"];
        assert_eq!(post["operationId"], "onUsageLimitExceeded");
        for kind in EventKind::ALL {
            let body = &webhooks[kind.name()]["post"]["requestBody"]["content"]["application/json"];
            assert_eq!(body["schema"]["properties"]["type"]["const"], kind.name());
            assert_eq!(body["example"]["type"], kind.name());
            assert_eq!(body["schema"]["properties"]["data"]["type"], "object");
        }
        let header = &document["components"]["parameters"]["webhook-signature"];
        assert_eq!(header["in"], "header");
    }
}
