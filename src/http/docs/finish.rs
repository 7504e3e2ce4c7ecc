//! The last work on the document, on its JSON: what many operations repeat stands once, as a
//! component; amounts have their twins; every operation says what it asks for, and has a name of
//! its own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::http::amount::DECIMAL;

/// What so many operations have stands once.
const REPEATED: usize = 2;
/// Responses with the same description that so many operations have stand once with it.
const OFTEN: usize = 6;
const AMOUNT: &str = "#/components/schemas/Amount";
const DECIMAL_AMOUNT: &str = "#/components/schemas/DecimalAmount";
const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];

/// The document as it is served.
pub(super) fn finish(mut document: Value) -> Value {
    name_operations(&mut document);
    share_headers(&mut document);
    share_parameters(&mut document);
    share_responses(&mut document);
    add_decimals(&mut document);
    document
}

type Object = Map<String, Value>;

/// The operations, each with its path.
fn operations(document: &mut Value) -> impl Iterator<Item = (&String, &mut Object)> {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    paths.into_iter().flatten().flat_map(|(path, item)| {
        let methods = item.as_object_mut().into_iter().flatten();
        methods.filter_map(move |(method, operation)| {
            let operation = operation.as_object_mut()?;
            METHODS.contains(&method.as_str()).then_some((path, operation))
        })
    })
}

/// The responses of all operations.
fn responses(document: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    operations(document).flat_map(|(_, operation)| {
        let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
        responses.into_iter().flatten()
    })
}

fn components<'d>(document: &'d mut Value, kind: &str) -> Option<&'d mut Object> {
    let components = document.get_mut("components")?.as_object_mut()?;
    components.entry(kind).or_insert_with(|| json!({})).as_object_mut()
}

/// Names that two prices have led to get a number. Who needs no credential says so.
fn name_operations(document: &mut Value) {
    let mut names = BTreeSet::new();
    for (_, operation) in operations(document) {
        let name = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
        let mut own = name.to_owned();
        for number in 2_u32.. {
            if names.insert(own.clone()) {
                break;
            }
            own = format!("{name}{number}");
        }
        operation.insert("operationId".to_owned(), own.into());
        operation.entry("security").or_insert_with(|| json!([]));
    }
}

/// Headers stand once. One whose name another header has stays in its place.
fn share_headers(document: &mut Value) {
    let mut shared = Object::new();
    for (_, response) in responses(document) {
        let headers = response.get_mut("headers").and_then(Value::as_object_mut);
        for (name, header) in headers.into_iter().flatten() {
            let known = shared.entry(name.clone()).or_insert_with(|| header.clone());
            if known == header {
                *header = json!({ "$ref": format!("#/components/headers/{name}") });
            }
        }
    }
    if let Some(headers) = components(document, "headers") {
        headers.extend(shared);
    }
}

/// A name for a component that no other of `shared` has.
fn free_name(shared: &Object, name: &str) -> String {
    let mut free = name.to_owned();
    for number in 2_u32.. {
        if !shared.contains_key(&free) {
            break;
        }
        free = format!("{name}-{number}");
    }
    free
}

/// Parameters that several operations have stand once.
fn share_parameters(document: &mut Value) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let parameters = |operation: &mut Object| match operation.get_mut("parameters") {
        Some(Value::Array(parameters)) => std::mem::take(parameters),
        _ => Vec::new(),
    };
    for (_, operation) in operations(document) {
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten()
        {
            *counts.entry(parameter.to_string()).or_default() += 1;
        }
    }
    let mut shared = Object::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (_, operation) in operations(document) {
        let mut own = parameters(operation);
        for parameter in &mut own {
            let text = parameter.to_string();
            if counts.get(&text).is_none_or(|count| *count < REPEATED) {
                continue;
            }
            let name = names.entry(text).or_insert_with(|| {
                let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default();
                let name = free_name(&shared, name);
                shared.insert(name.clone(), parameter.clone());
                name
            });
            *parameter = json!({ "$ref": format!("#/components/parameters/{name}") });
        }
        if !own.is_empty() {
            operation.insert("parameters".to_owned(), own.into());
        }
    }
    if let Some(parameters) = components(document, "parameters") {
        parameters.extend(shared);
    }
}

/// The name of the schema of a response, if it has one.
fn schema_name(response: &Value) -> Option<&str> {
    let schema = response.pointer("/content/application~1json/schema")?;
    let own = schema.get("$ref");
    let first = || schema.pointer("/anyOf/0/$ref");
    own.or_else(first)?.as_str()?.rsplit('/').next()
}

/// Responses that several operations have stand once.
fn share_responses(document: &mut Value) {
    let mut shared = Object::new();
    share_alike(document, &mut shared, OFTEN, ToString::to_string);
    // What differs by its description alone has that beside the reference, where it counts.
    share_alike(document, &mut shared, REPEATED, |response| {
        let mut shape = response.clone();
        if let Some(response) = shape.as_object_mut() {
            response.remove("description");
        }
        shape.to_string()
    });
    if let Some(responses) = components(document, "responses") {
        responses.extend(shared);
    }
}

/// Moves responses of one status and shape to `shared`, if there are at least `repeated` of them.
fn share_alike(
    document: &mut Value,
    shared: &mut Object,
    repeated: usize,
    shape: impl Fn(&Value) -> String,
) {
    let is_own = |response: &Value| response.get("$ref").is_none();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (status, response) in responses(document).filter(|(_, response)| is_own(response)) {
        *counts.entry(format!("{status} {}", shape(response))).or_default() += 1;
    }
    let mut names: BTreeMap<String, (String, Value)> = BTreeMap::new();
    for (status, response) in responses(document).filter(|(_, response)| is_own(response)) {
        let shape = format!("{status} {}", shape(response));
        if counts.get(&shape).is_none_or(|count| *count < repeated) {
            continue;
        }
        let description = response.get("description").cloned().unwrap_or_default();
        let (name, first) = names.entry(shape).or_insert_with(|| {
            let schema = schema_name(response).unwrap_or("Answer");
            let schema = schema.strip_suffix("Body").unwrap_or(schema);
            let name = free_name(shared, &format!("{schema}{status}"));
            shared.insert(name.clone(), response.clone());
            (name, description.clone())
        });
        let mut reference = json!({ "$ref": format!("#/components/responses/{name}") });
        if description != *first
            && let Some(reference) = reference.as_object_mut()
        {
            reference.insert("description".to_owned(), description);
        }
        *response = reference;
    }
}

/// The schemas that a part of the document leads to.
fn schemas_of(part: &Value, schemas: &Object, found: &mut BTreeSet<String>) {
    match part {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            let name = reference.and_then(|own| own.strip_prefix("#/components/schemas/"));
            if let Some(name) = name
                && found.insert(name.to_owned())
                && let Some(schema) = schemas.get(name)
            {
                schemas_of(schema, schemas, found);
            }
            fields.values().for_each(|field| schemas_of(field, schemas, found));
        }
        Value::Array(items) => items.iter().for_each(|item| schemas_of(item, schemas, found)),
        _ => {}
    }
}

fn is_amount(schema: &Value) -> bool {
    let is_it = |schema: &Value| schema.get("$ref").and_then(Value::as_str) == Some(AMOUNT);
    let one_of = schema.get("oneOf").and_then(Value::as_array);
    is_it(schema) || one_of.is_some_and(|all| all.iter().any(is_it))
}

/// Adds the twins of amounts to what is answered. What is sent has none.
fn add_decimals(document: &mut Value) {
    let Some(components) = document.get("components") else { return };
    let none = Object::new();
    let schemas = components.get("schemas").and_then(Value::as_object).unwrap_or(&none);
    let (mut sent, mut answered) = (BTreeSet::new(), BTreeSet::new());
    if let Some(responses) = components.get("responses") {
        schemas_of(responses, schemas, &mut answered);
    }
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    for operation in paths.flat_map(|(_, item)| item.as_object().into_iter().flatten()) {
        let (_, operation) = operation;
        for (part, found) in [("responses", &mut answered), ("requestBody", &mut sent)] {
            if let Some(part) = operation.get(part) {
                schemas_of(part, schemas, found);
            }
        }
    }
    let names: Vec<String> = answered.difference(&sent).cloned().collect();
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    let Some(schemas) = schemas else { return };
    for name in names {
        if let Some(schema) = schemas.get_mut(&name) {
            add_twins(schema);
        }
    }
}

fn add_twins(schema: &mut Value) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let amounts = properties.iter().filter(|(_, schema)| is_amount(schema));
        let twins: Vec<String> = amounts.map(|(name, _)| format!("{name}{DECIMAL}")).collect();
        let twin = json!({ "$ref": DECIMAL_AMOUNT });
        properties.extend(twins.into_iter().map(|name| (name, twin.clone())));
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(add_twins),
        Value::Array(items) => items.iter_mut().for_each(add_twins),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(id: &str, description: &str) -> Value {
        let id_header = json!({ "schema": { "type": "string" } });
        let schema = json!({ "$ref": "#/components/schemas/ErrorBody" });
        json!({ "operationId": id, "responses": { "404": {
            "description": description,
            "headers": { "X-Request-Id": id_header },
            "content": { "application/json": { "schema": schema } },
        } } })
    }

    #[test]
    fn what_is_repeated_stands_once() {
        let document = finish(json!({
            "paths": {
                "/a": { "get": operation("aGet", "No a"), "post": operation("aPost", "No a") },
                "/b": { "get": operation("aGet", "No b") },
            },
            "components": {},
        }));
        let headers = &document["components"]["headers"];
        assert_eq!(*headers, json!({ "X-Request-Id": { "schema": { "type": "string" } } }));
        let shared = &document["components"]["responses"]["Error404"];
        assert_eq!(shared["description"], "No a");
        assert_eq!(shared["headers"]["X-Request-Id"]["$ref"], "#/components/headers/X-Request-Id");
        let paths = &document["paths"];
        let reference = "#/components/responses/Error404";
        assert_eq!(paths["/a"]["post"]["responses"]["404"], json!({ "$ref": reference }));
        assert_eq!(
            paths["/b"]["get"]["responses"]["404"],
            json!({ "$ref": reference, "description": "No b" })
        );
        assert_eq!(paths["/b"]["get"]["operationId"], "aGet2");
        assert_eq!(paths["/b"]["get"]["security"], json!([]));
    }

    #[test]
    fn answers_have_the_twins_of_their_amounts_and_requests_do_not() {
        let amount = json!({ "$ref": AMOUNT });
        let of = |name: &str| {
            let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
            json!({ "content": { "application/json": { "schema": schema } } })
        };
        let object = |properties: Value| json!({ "type": "object", "properties": properties });
        let document = finish(json!({
            "paths": { "/a": { "post": {
                "requestBody": of("AskBody"), "responses": { "200": of("Answer") },
            } } },
            "components": { "schemas": {
                "AskBody": object(json!({ "amount": amount })),
                "Answer": { "allOf": [object(json!({
                    "limit": { "oneOf": [{ "type": "null" }, amount] },
                    "part": { "$ref": "#/components/schemas/Part" },
                }))] },
                "Part": object(json!({ "spent": amount, "count": { "type": "integer" } })),
            } },
        }));
        let schemas = &document["components"]["schemas"];
        let twin = json!({ "$ref": DECIMAL_AMOUNT });
        assert_eq!(schemas["Answer"]["allOf"][0]["properties"]["limit_decimal"], twin);
        assert_eq!(schemas["Part"]["properties"]["spent_decimal"], twin);
        assert_eq!(schemas["Part"]["properties"].as_object().unwrap().len(), 3);
        assert_eq!(schemas["AskBody"]["properties"].as_object().unwrap().len(), 1);
    }
}
