//! The OpenAPI document: the handlers' part, and the paid routes as the price list has them. What
//! many routes share is added here once: headers, errors of validation, login, edge and database,
//! bounds that are settings.

use std::sync::Arc;

use serde_json::json;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, Object, SchemaFormat, SchemaType};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Content, ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
    Schema, SecurityRequirement, Type,
};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::{App, gateway};
use crate::auth::password::LENGTH_MAX;
use domain::pricing::PriceRule;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Polysystems",
        description = "API calls from a prepaid balance. Management routes take the JWT from login; paid \
                       routes take an API key, in `X-API-Key` or `Authorization: Bearer`. A method that a \
                       path does not have is answered with 405 and `Allow`. JSON is read whatever the \
                       Content-Type.",
    ),
    components(schemas(super::error::ErrorBody, gateway::QuoteBody))
)]
struct Shared;

const PAID: &str = "paid calls";
/// Routes that answer from memory and cannot fail.
const STATIC: [&str; 3] = ["/health/live", "/api/pricing", "/api/openapi.json"];
/// Routes that take an `Idempotency-Key`, besides the paid ones.
const IDEMPOTENT: [&str; 3] =
    ["/api/keys", "/api/payments/payments", "/api/admin/users/{id}/credits"];
/// As [`crate::idempotency::IdempotencyKey`] reads it.
const IDEMPOTENCY_KEY: &str = "^(\"[!#-~]{1,255}\"|[!#-~]{1,255})$";

/// The whole document, from the handlers' part.
pub(super) fn document(app: &App, handlers: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let mut document = Shared::openapi().merge_from(handlers);
    if let Some(components) = &mut document.components {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        components.add_security_scheme("jwt", SecurityScheme::Http(bearer));
        let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(header));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("api_key_bearer", SecurityScheme::Http(bearer));
    }
    add_bounds(&mut document, app);
    for rule in app.gateway.prices.rules() {
        add_paid_route(&mut document, rule);
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_shared(path, operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        .into_iter()
        .flatten()
}

/// The schemas of ids: each of the same name as the type of the domain that it describes.
pub(super) mod id {
    use super::{PartialSchema, RefOr, Schema, ToSchema, text};

    macro_rules! id_schema {
        ($($id:ident),*) => {$(
            pub(crate) struct $id;

            impl PartialSchema for $id {
                fn schema() -> RefOr<Schema> {
                    let prefix = domain::ids::$id::PREFIX;
                    let uuid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
                    let pattern = format!("^{prefix}{uuid}$");
                    text().description(Some(format!("`{prefix}<uuid>`"))).pattern(Some(pattern)).into()
                }
            }

            impl ToSchema for $id {}
        )*};
    }

    id_schema!(ActId, DeliveryId, EndpointId, EventId, KeyId, PaymentId, SessionId, UserId);
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Any JSON at all.
fn anything() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).build()
}

/// A type, or null.
fn or_null(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

/// Bounds that are settings.
fn add_bounds(document: &mut utoipa::openapi::OpenApi, app: &App) {
    let shortest = app.users.password_length_min;
    for (body, field) in [
        ("RegisterBody", "password"),
        ("ChangePasswordBody", "new_password"),
        ("ResetPasswordBody", "new_password"),
    ] {
        if let Some(password) = field_of(document, body, field) {
            password.min_length = Some(shortest);
            password.max_length = Some(LENGTH_MAX);
        }
    }
    if let Some(amount) = field_of(document, "PaymentBody", "amount") {
        amount.maximum = app.payments.amount_max.to_string().parse::<f64>().ok().map(Into::into);
    }
}

/// A field of a body of the document.
fn field_of<'d>(
    document: &'d mut utoipa::openapi::OpenApi,
    body: &str,
    field: &str,
) -> Option<&'d mut Object> {
    let schemas = &mut document.components.as_mut()?.schemas;
    let RefOr::T(Schema::Object(body)) = schemas.get_mut(body)? else { return None };
    match body.properties.get_mut(field)? {
        RefOr::T(Schema::Object(field)) => Some(field),
        _ => None,
    }
}

fn header(description: &str, schema: impl Into<RefOr<Schema>>) -> Header {
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

fn count() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0))
}

fn amount() -> Ref {
    Ref::from_schema_name("Amount")
}

fn json_of(schema: impl Into<RefOr<Schema>>) -> Content {
    ContentBuilder::new().schema(Some(schema)).build()
}

fn error(description: &str) -> Response {
    let content = json_of(Ref::from_schema_name("ErrorBody"));
    ResponseBuilder::new().description(description).content("application/json", content).build()
}

/// The errors that this operation shares with others: status and description.
fn shared_errors(path: &str, operation: &Operation) -> Vec<(&'static str, &'static str)> {
    let has_body = operation.request_body.is_some();
    let mut shared = Vec::new();
    if has_body {
        shared.push(("400", "A field is not valid"));
    }
    if has_query(operation) {
        shared.push(("400", "The query is not valid"));
    }
    if operation.security.is_some() {
        // The paid routes have a text of their own.
        shared.push(("401", "No valid JWT"));
    }
    if has_tag(operation, PAID) || has_body {
        shared.push(("408", "The body did not come in time"));
        shared.push(("413", "The body is too large"));
    }
    if operation.security.is_some() {
        shared.push(("429", "Too many requests of this user, or of this account, or too many run"));
    }
    if has_body {
        shared.push(("429", "Too many bodies from this address are on their way"));
    }
    if !STATIC.contains(&path) {
        shared.push(("500", "Something is broken on the server's side"));
        shared.push(("503", "Not attempted, or the outcome is not known"));
    }
    shared
}

fn has_tag(operation: &Operation, tag: &str) -> bool {
    operation.tags.iter().flatten().any(|own| own == tag)
}

/// Adds the responses that many routes share, unless the route documents its own, and the headers
/// of all answers.
fn add_shared(path: &str, operation: &mut Operation) {
    let is_paid = has_tag(operation, PAID);
    let is_once = is_paid || (IDEMPOTENT.contains(&path) && operation.request_body.is_some());
    let shared = shared_errors(path, operation);
    let responses = &mut operation.responses.responses;
    for (status, description) in shared {
        responses.entry(status.to_owned()).or_insert_with(|| error(description).into());
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        let mut add =
            |name: &str, header: Header| response.headers.insert(name.to_owned(), header.into());
        let id = text().pattern(Some("^req-[0-9a-f-]{36}$"));
        add("X-Request-Id", header("Names this request", id));
        if matches!(status.as_str(), "409" | "429" | "503") {
            let seconds = count().description(Some("Seconds"));
            add("Retry-After", header("When the same request may succeed", seconds));
        }
        if is_once && matches!(status.as_str(), "200" | "201") {
            let replayed = text().enum_values(Some(["true"]));
            add("Idempotent-Replayed", header("The answer was given before", replayed));
        }
        if is_paid {
            add("X-RateLimit-Limit", header("Requests that the window allows", count()));
            add("X-RateLimit-Remaining", header("Requests that are left", count()));
            let reset = "When the limit is full again, or admits the next request (Unix seconds)";
            add("X-RateLimit-Reset", header(reset, count()));
            add("X-RateLimit-Window", header("The window, in seconds", count()));
            let draft = "The same after draft-ietf-httpapi-ratelimit-headers";
            add("RateLimit", header(draft, text()));
            add("RateLimit-Policy", header(draft, text()));
        }
        if is_paid && status == "200" {
            add("X-Polysystems-Upstream", header("Who served it", text()));
            add("X-Polysystems-Charge", header("The call's id in the ledger", text()));
            add("X-Polysystems-Cost", header("What it cost", amount()));
            add("X-Polysystems-Balance", header("The balance after it", amount()));
            add("X-Polysystems-Hold", header("What a stream holds at its beginning", amount()));
            add(
                "X-Polysystems-Max-Tokens",
                header("The limit that the upstream was told", count()),
            );
            add("X-Polysystems-Per-Request-Limit", header("What a call may cost", amount()));
            add("X-Polysystems-Daily-Remaining", header("Left of the daily limit", amount()));
            add("X-Polysystems-Monthly-Remaining", header("Left of the monthly limit", amount()));
            add("X-Polysystems-Total-Remaining", header("Left of the total limit", amount()));
        }
    }
    if is_once {
        let key = text().min_length(Some(1)).max_length(Some(257)).pattern(Some(IDEMPOTENCY_KEY));
        let description = "Makes it happen, and be charged, once, however often it is sent";
        operation
            .parameters
            .get_or_insert_default()
            .push(in_header("Idempotency-Key", description, key).into());
    }
}

fn has_query(operation: &Operation) -> bool {
    let parameters = operation.parameters.iter().flatten();
    parameters.into_iter().any(|parameter| {
        matches!(parameter, RefOr::T(Parameter { parameter_in: ParameterIn::Query, .. }))
    })
}

fn in_header(name: &str, description: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

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

/// The body of a token-priced call, as far as it is read here; the rest is between client and
/// upstream.
fn priced_body() -> RequestBody {
    let limit = || {
        let limit = or_null(Type::Integer).minimum(Some(1));
        limit.description(Some("The most tokens of each completion"))
    };
    let choices = || {
        or_null(Type::Integer)
            .minimum(Some(0))
            .description(Some("How many completions; at least 1"))
    };
    let options = or_null(Type::Object)
        .property("include_usage", or_null(Type::Boolean))
        .description(Some("Is a stream to tell its usage?"));
    let messages = json!([{ "role": "user", "content": "Hello!" }]);
    let mut body = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property(
            "stream",
            or_null(Type::Boolean).description(Some("Is the answer to be streamed?")),
        )
        .property("stream_options", options)
        .property("max_tokens", limit())
        .property("max_completion_tokens", limit())
        .property("max_output_tokens", limit())
        .property("n", choices())
        .property("best_of", choices())
        .examples([json!({ "messages": messages, "prompt": "Hello!", "input": "Hello!" })]);
    for (name, description) in [
        ("model", "Chooses the vocabulary that tokens are counted with"),
        ("messages", "The prompt of a chat"),
        ("prompt", "The prompt of a completion"),
        ("input", "The prompt of a response or an embedding"),
    ] {
        let mut own = anything();
        own.description = Some(description.to_owned());
        body = body.property(name, own);
    }
    RequestBodyBuilder::new()
        .content("application/json", json_of(body))
        .required(Some(Required::True))
        .build()
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

fn add_paid_route(document: &mut utoipa::openapi::OpenApi, rule: &PriceRule) {
    // A prefix is priced with what is below it.
    let paths = match rule.path.strip_suffix("/*") {
        Some(prefix) => vec![format!("{prefix}/{{path}}"), prefix.to_owned()],
        None => vec![rule.path.to_string()],
    };
    for path in paths.into_iter().filter(|path| !path.is_empty()) {
        for (method, name) in methods(rule) {
            let item = PathItem::new(method, paid_operation(rule, name, &path));
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

fn paid_operation(rule: &PriceRule, method: &str, path: &str) -> Operation {
    let price = match rule.per_token {
        Some(per_token) => format!("${} and ${per_token} a token", rule.base),
        None => format!("${}", rule.base),
    };
    let any_object = || ObjectBuilder::new().schema_type(Type::Object);
    let quote = Ref::from_schema_name("QuoteBody");
    let answer = AnyOfBuilder::new().item(quote).item(any_object());
    let mut delivered = ResponseBuilder::new()
        .description("The upstream's answer; for a dry run what it would cost")
        .content("application/json", json_of(answer));
    if rule.is_token_priced() {
        delivered = delivered.content("text/event-stream", json_of(text()));
    }
    let refusal = Ref::from_schema_name("ErrorBody");
    let refusal = AnyOfBuilder::new().item(refusal).item(any_object());
    let refused = ResponseBuilder::new()
        .description(
            "A header or the body is not valid, or the upstream says so in words of its own",
        )
        .content("application/json", json_of(refusal));
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("{} {path}", method.to_lowercase())))
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
        .response("400", refused)
        .response("401", error("No API key, or none that is valid"))
        .response("402", error("Not enough credits, or a spending limit is reached"))
        .response("403", error("The account is suspended, or the key may not make this call"))
        .response(
            "409",
            error("The first request with this Idempotency-Key still runs, or its answer was not kept"),
        )
        .response("422", error("The Idempotency-Key was used for another request"))
        .response("429", error("A rate limit is reached, or too many requests are running"))
        .response("415", error("The body is compressed"))
        .response("502", error("The upstream failed, which is not charged, or its answer is too large"))
        .response("504", error("The upstream took too long; the message says what is charged"))
        .parameter(in_header(
            "X-Dry-Run",
            "`true` answers what it would cost, and charges nothing",
            text().enum_values(Some(["true", "false"])),
        ));
    if path.contains("{path}") {
        let plain = text().min_length(Some(1)).pattern(Some(r"^[^/\\%]+$"));
        operation = operation
            .response("404", error("The path has empty or dot segments, or hides a separator"))
            .parameter(
                ParameterBuilder::new()
                    .name("path")
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .schema(Some(plain)),
            );
    }
    if method != "GET" {
        let body = if rule.is_token_priced() { priced_body() } else { passed_body() };
        operation = operation.request_body(Some(body));
    }
    operation.build()
}
