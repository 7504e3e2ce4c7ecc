//! The paid routes of the document, as the price list has them.

use std::sync::Arc;

use serde_json::{Value, json};
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, SchemaFormat, SchemaType};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, Ref, Required, ResponseBuilder, SecurityRequirement, Type,
};

use super::{PAID, anything, count, error, error_schema, in_header, json_of, or_null, text};
use crate::upstream::Dialect;
use domain::pricing::PriceRule;

fn methods(rule: &PriceRule) -> Vec<(HttpMethod, &'static str)> {
    let all = [
        (HttpMethod::Get, "GET"),
        (HttpMethod::Post, "POST"),
        (HttpMethod::Put, "PUT"),
        (HttpMethod::Patch, "PATCH"),
        (HttpMethod::Delete, "DELETE"),
    ];
    let own: Option<Arc<str>> = rule.method.clone();
    all.into_iter().filter(|(_, name)| own.as_deref().is_none_or(|own| own == *name)).collect()
}

/// The schema of the body of a call whose tokens are counted, by the protocol of its route: its
/// name, and the fields that are read here. The rest is between client and upstream.
fn read_body(dialect: Dialect) -> (&'static str, ObjectBuilder) {
    let body = ObjectBuilder::new().schema_type(Type::Object);
    let prompt = |body: ObjectBuilder, name: &str, description: &str| {
        let mut own = anything();
        own.description = Some(description.to_owned());
        body.property(name, own)
    };
    let model = |body| prompt(body, "model", "Chooses the model, or the vocabulary of the count");
    let chat = |body| prompt(body, "messages", "The prompt of a chat");
    let text_prompt = |body| prompt(body, "prompt", "The prompt of a completion");
    let input = |body| prompt(body, "input", "The prompt of a response or an embedding");
    match dialect {
        Dialect::Chat => {
            let body = choices(limit(streamed(chat(model(body))), "max_tokens"), "n");
            ("ChatBody", limit(body, "max_completion_tokens"))
        }
        Dialect::Completion => {
            let body = limit(streamed(text_prompt(model(body))), "max_tokens");
            ("CompletionBody", choices(choices(body, "n"), "best_of"))
        }
        Dialect::Responses => {
            ("ResponseBody", limit(streamed(input(model(body))), "max_output_tokens"))
        }
        Dialect::Embeddings => ("EmbeddingBody", input(model(body))),
        Dialect::Messages => {
            let most = count().minimum(Some(1)).description(Some("The most tokens of the answer"));
            let body = streamed(chat(model(body))).property("max_tokens", most);
            ("MessagesBody", body.required("messages").required("max_tokens"))
        }
        Dialect::MessageCount => ("MessageCountBody", chat(model(body)).required("messages")),
        Dialect::Gemini | Dialect::GeminiStream | Dialect::GeminiCount => {
            ("GeminiBody", gemini_body(body))
        }
        Dialect::GeminiEmbeddings => ("GeminiEmbeddingBody", gemini_embedding_body(body)),
        Dialect::Native => {
            let body = streamed(input(text_prompt(chat(model(body)))));
            let body = limit(limit(body, "max_tokens"), "max_completion_tokens");
            let body = choices(limit(body, "max_output_tokens"), "n");
            ("NativeBody", choices(body, "best_of"))
        }
    }
}

fn streamed(body: ObjectBuilder) -> ObjectBuilder {
    let usage = or_null(Type::Boolean).description(Some("Is a stream to tell its usage?"));
    let options = or_null(Type::Object).property("include_usage", usage);
    let stream = or_null(Type::Boolean).description(Some("Is the answer to be streamed?"));
    body.property("stream", stream).property("stream_options", options)
}

fn limit(body: ObjectBuilder, name: &str) -> ObjectBuilder {
    let limit = or_null(Type::Integer).minimum(Some(1));
    body.property(name, limit.description(Some("The most tokens of each completion")))
}

fn choices(body: ObjectBuilder, name: &str) -> ObjectBuilder {
    let choices = or_null(Type::Integer).minimum(Some(0));
    body.property(name, choices.description(Some("How many completions; at least 1")))
}

fn turns() -> ArrayBuilder {
    ArrayBuilder::new().items(any_object().description(Some("A turn: its role and its parts")))
}

fn list_or_null(list: ArrayBuilder) -> ArrayBuilder {
    list.schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
}

fn gemini_body(body: ObjectBuilder) -> ObjectBuilder {
    let limit = or_null(Type::Integer).minimum(Some(1));
    let limit = limit.description(Some("The most tokens of each candidate"));
    body.property("contents", turns())
        .required("contents")
        .property("systemInstruction", or_null(Type::Object))
        .property("tools", list_or_null(turns()))
        .property("generationConfig", or_null(Type::Object).property("maxOutputTokens", limit))
}

fn gemini_embedding_body(body: ObjectBuilder) -> ObjectBuilder {
    let content = or_null(Type::Object).description(Some("What is embedded, of one request"));
    let requests = list_or_null(turns()).description(Some("Those of a batch"));
    body.property("content", content).property("requests", requests)
}

/// A body that the route takes.
fn example(dialect: Dialect, path: &str) -> Value {
    let messages = json!([{ "role": "user", "content": "Hello!" }]);
    let parts = json!([{ "text": "Hello!" }]);
    match dialect {
        Dialect::Chat | Dialect::Messages => json!({ "messages": messages, "max_tokens": 16 }),
        Dialect::MessageCount => json!({ "messages": messages }),
        Dialect::Completion => json!({ "prompt": "Hello!", "max_tokens": 16 }),
        Dialect::Responses => json!({ "input": "Hello!", "max_output_tokens": 16 }),
        Dialect::Embeddings => json!({ "input": "Hello!" }),
        Dialect::GeminiEmbeddings => json!({ "content": { "parts": parts } }),
        Dialect::Gemini | Dialect::GeminiStream | Dialect::GeminiCount => json!({
            "contents": [{ "role": "user", "parts": parts }],
            "generationConfig": { "maxOutputTokens": 16 },
        }),
        Dialect::Native if path.ends_with("/chat") => {
            json!({ "messages": messages, "max_tokens": 16 })
        }
        Dialect::Native => json!({ "input": "Hello!", "max_tokens": 16 }),
    }
}

/// The body of a call with a fixed price, which this server does not read.
fn passed_body() -> RequestBody {
    let schema = text().format(Some(SchemaFormat::Custom("binary".to_owned())));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    RequestBodyBuilder::new()
        .description(Some("Passed on as it is"))
        .content("*/*", content)
        .build()
}

fn body(document: &mut utoipa::openapi::OpenApi, rule: &PriceRule, path: &str) -> RequestBody {
    let dialect = Dialect::of(path);
    if !rule.is_token_priced() && !dialect.is_count() {
        return passed_body();
    }
    let (name, schema) = read_body(dialect);
    let components = document.components.get_or_insert_default();
    components.schemas.entry(name.to_owned()).or_insert_with(|| schema.into());
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(name)))
        .example(Some(example(dialect, path)))
        .build();
    RequestBodyBuilder::new()
        .content("application/json", content)
        .required(Some(Required::True))
        .build()
}

/// The `operationId` of a paid call: its method and its path, as one name.
fn operation_id(method: &str, path: &str) -> String {
    let mut id = method.to_lowercase();
    for word in path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let mut letters = word.chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(letters.as_str());
    }
    id
}

/// Adds the operations of a route of the price list.
pub(super) fn add_paid_route(document: &mut utoipa::openapi::OpenApi, rule: &PriceRule) {
    // A prefix is priced with what is below it.
    let paths = match rule.path.strip_suffix("/*") {
        Some(prefix) => vec![format!("{prefix}/{{path}}"), prefix.to_owned()],
        // Of Gemini's methods, whatever the model is.
        None => vec![rule.path.replacen('*', "{path}", 1)],
    };
    for path in paths.into_iter().filter(|path| !path.is_empty()) {
        for (method, name) in methods(rule) {
            let mut operation = paid_operation(rule, name, &path);
            if name != "GET" {
                operation.request_body = Some(body(document, rule, &path).into());
            }
            let item = PathItem::new(method, operation);
            // Existing operations come from a more exact rule, and stay.
            match document.paths.paths.get_mut(&path) {
                Some(existing) => existing.merge_operations(item),
                None => {
                    document.paths.paths.insert(path.clone(), item);
                }
            }
        }
    }
}

/// An answer to a call that is refused, here or by the upstream.
fn refused(path: &str) -> ResponseBuilder {
    let refusal = AnyOfBuilder::new().item(Ref::from_schema_name(error_schema(path)));
    let refusal = refusal.item(any_object());
    ResponseBuilder::new()
        .description(
            "A header, the query or the body is not valid, or the upstream says so in words of its own",
        )
        .content("application/json", json_of(refusal))
}

fn any_object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

#[expect(clippy::too_many_lines, reason = "a description reads best in one piece")]
fn paid_operation(rule: &PriceRule, method: &str, path: &str) -> Operation {
    let price = match rule.per_token {
        Some(per_token) => format!("${} and ${per_token} a token", rule.base),
        None => format!("${}", rule.base),
    };
    let quote = Ref::from_schema_name("QuoteBody");
    let answer = AnyOfBuilder::new().item(quote).item(any_object());
    let mut delivered = ResponseBuilder::new()
        .description("The upstream's answer; for a dry run what it would cost")
        .content("application/json", json_of(answer));
    if rule.is_token_priced() {
        delivered = delivered.content("text/event-stream", json_of(text()));
    }
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(method, path)))
        .tag(PAID)
        .summary(Some(format!("Costs {price}")))
        .description(Some(format!(
            "Rate limits: class `{}`. What an upstream answers is passed on with its own status; its \
             redirects and failures are answered 502 or 504.",
            rule.class.name()
        )))
        .security(SecurityRequirement::new("api_key", Vec::<String>::new()))
        .security(SecurityRequirement::new("api_key_bearer", Vec::<String>::new()))
        .response("200", delivered)
        .response("400", refused(path))
        .response("401", error(path, "No API key, or none that is valid"))
        .response("402", error(path, "Not enough credits, or a spending limit is reached"))
        .response("403", error(path, "The account is suspended, or the key may not make this call"))
        .response("404", error(path, "The model is not sold here"))
        .response(
            "409",
            error(path, "The first request with this Idempotency-Key still runs, or its answer was not kept"),
        )
        .response("422", error(path, "The Idempotency-Key was used for another request"))
        .response("429", error(path, "A rate limit is reached, or too many requests are running"))
        .response("415", error(path, "The body is compressed"))
        .response(
            "424",
            error(
                path,
                "It was charged, and there is no answer (the message says why, and how much); or it is \
                 not known whether it was charged",
            ),
        )
        .response("502", error(path, "The upstream failed, which is not charged"))
        .response("504", error(path, "The upstream took too long, which is not charged"))
        .parameter(in_header(
            "X-Dry-Run",
            "`true` answers what it would cost, and charges nothing",
            text().enum_values(Some(["true", "false"])),
        ));
    if path.contains("{path}") {
        let plain = text().min_length(Some(1)).pattern(Some(r"^[^/\\%]+$"));
        operation = operation
            .response(
                "404",
                error(
                    path,
                    "The path has empty or dot segments, or hides a separator; or the model is not \
                     sold here",
                ),
            )
            .parameter(
                ParameterBuilder::new()
                    .name("path")
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .schema(Some(plain)),
            );
    }
    if Dialect::of(path) == Dialect::GeminiStream {
        let form = ParameterBuilder::new()
            .name("alt")
            .parameter_in(ParameterIn::Query)
            .required(Required::True)
            .description(Some("The form of the stream: server-sent events"))
            .schema(Some(text().enum_values(Some(["sse"]))));
        operation = operation.parameter(form);
    }
    operation.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paid_call_is_named_after_its_route() {
        for (method, path, id) in [
            ("POST", "/v1/chat/completions", "postV1ChatCompletions"),
            ("GET", "/api/hub/memory/{path}", "getApiHubMemoryPath"),
            ("POST", "/v1beta/models/{path}:countTokens", "postV1betaModelsPathCountTokens"),
        ] {
            assert_eq!(operation_id(method, path), id);
        }
    }
}
