//! The OpenAPI document: the handlers' part, and the paid routes as the price list has them. What
//! many routes share is added here once: headers, errors of validation, login, edge and database,
//! bounds that are settings.

use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{Object, SchemaType};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Content, ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
    Schema, Type,
};
use utoipa::{OpenApi, PartialSchema, ToSchema};

use super::amount::DecimalAmount;
use super::error::{AnthropicErrorBody, ErrorBody, Form, GeminiErrorBody, OpenAiErrorBody};
use super::{App, gateway};
use crate::auth::password::LENGTH_MAX;

mod finish;
mod paid;
mod webhooks;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Polysystems",
        description = "API calls from a prepaid balance. Management routes take the JWT from login; paid \
                       routes take an API key, in `X-API-Key` or `Authorization: Bearer`; `api-key` and \
                       `x-goog-api-key` are taken as well. A method that a path does not have is answered \
                       with 405 and `Allow`; every answer has `Polysystems-Version`. HEAD is there if GET is, except on paid routes. JSON is read \
                       whatever the Content-Type. Each amount in an answer is a number, and beside it a \
                       text of the same name with `_decimal`, which no language rounds.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "The server that this document comes from")),
    tags(
        (name = "auth", description = "Accounts, sessions, second factor, email addresses"),
        (name = "keys", description = "API keys and their limits"),
        (name = "payments", description = "Balance, payments, ledger, statements and receipts"),
        (name = "monitoring", description = "What calls come to"),
        (name = "webhooks", description = "Messages to a server of yours"),
        (name = "pricing", description = "What calls cost"),
        (name = "models", description = "The models that are sold"),
        (name = "paid calls", description = "Calls that are charged, as the price list has them"),
        (name = "admin", description = "For operators: users, price lists, bills, deployments"),
        (name = "catalogue", description = "For operators: models, providers, deployments, credentials"),
        (name = "health", description = "Is the server there?"),
        (name = "documentation", description = "This document"),
    ),
    components(schemas(
        ErrorBody,
        OpenAiErrorBody,
        AnthropicErrorBody,
        GeminiErrorBody,
        DecimalAmount,
        gateway::QuoteBody
    ))
)]
struct Shared;

const PAID: &str = "paid calls";
/// Routes that answer from memory and cannot fail.
const STATIC: [&str; 7] =
    ["/", "/api/hello", "/health/live", "/livez", "/healthz", "/api/version", "/api/openapi.json"];
/// Routes that take an `Idempotency-Key`, besides the paid ones.
const IDEMPOTENT: [&str; 3] =
    ["/api/keys", "/api/payments/payments", "/api/admin/users/{id}/credits"];
/// As [`crate::idempotency::IdempotencyKey`] reads it.
const IDEMPOTENCY_KEY: &str = "^(\"[!#-~]{1,255}\"|[!#-~]{1,255})$";

/// The whole document as it is served, from the handlers' part.
pub(super) fn document(app: &App, handlers: utoipa::openapi::OpenApi) -> serde_json::Value {
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
        paid::add_paid_route(&mut document, rule);
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_shared(path, operation);
        }
    }
    // This cannot fail: every key is a text.
    let mut document = finish::finish(serde_json::to_value(&document).unwrap_or_default());
    webhooks::add_webhooks(&mut document);
    document
}

/// The operations of a path.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.head,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ]
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

/// The name of the schema of a path's errors.
fn error_schema(path: &str) -> &'static str {
    match Form::of(path) {
        Form::OpenAi => "OpenAiErrorBody",
        Form::Anthropic => "AnthropicErrorBody",
        Form::Gemini => "GeminiErrorBody",
        Form::Contract => "ErrorBody",
    }
}

fn error(path: &str, description: &str) -> Response {
    let content = json_of(Ref::from_schema_name(error_schema(path)));
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
    if path.ends_with("/models/{path}") {
        shared.push(("405", "The path is that of a method of a model, which is called by POST"));
    }
    if operation.security.is_some() {
        shared.push(("429", "Too many requests of this user, or of this account, or too many run"));
    }
    if has_body {
        shared.push(("429", "Too many bodies from this address are on their way"));
    }
    if !STATIC.contains(&path) {
        shared.push(("500", "Something is broken on the server's side"));
        shared.push(("503", "Not attempted, or not charged"));
        if has_body || has_tag(operation, PAID) {
            shared.push(("424", "It is not known whether it took effect"));
        }
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
    let has_cursor = !is_paid && names_cursor(operation);
    let shared = shared_errors(path, operation);
    let responses = &mut operation.responses.responses;
    for (status, description) in shared {
        responses.entry(status.to_owned()).or_insert_with(|| error(path, description).into());
    }
    if !responses.keys().any(|status| status.starts_with('4')) {
        let malformed = error(path, "The request is not valid HTTP/1.1");
        responses.insert("400".to_owned(), malformed.into());
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        let mut add = |name: &str, header: Header| {
            response.headers.insert(name.to_owned(), header.into());
        };
        let id = text().pattern(Some("^req-[0-9a-f-]{36}$"));
        add("X-Request-Id", header("Names this request", id));
        if matches!(status.as_str(), "402" | "403" | "404" | "424" | "502") {
            let never = text().enum_values(Some(["false"]));
            add("X-Should-Retry", header("The request must not be sent again by itself", never));
        }
        if matches!(status.as_str(), "409" | "429" | "503") {
            let seconds = count().description(Some("Seconds"));
            add("Retry-After", header("When the same request may succeed", seconds));
        }
        if status == "401" {
            add("WWW-Authenticate", header("Asks for a token or a key", text()));
        }
        if status == "201" {
            add("Location", header("Where the new thing is", text()));
        }
        if status == "200" && has_cursor {
            add("Link", header("`rel=\"next\"`: the next page, if there is one", text()));
        }
        if is_once && matches!(status.as_str(), "200" | "201") {
            let replayed = text().enum_values(Some(["true"]));
            add("Idempotent-Replayed", header("The answer was given before", replayed));
        }
        if is_paid {
            add_paid(status.as_str(), &mut add);
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

/// The headers of a paid answer with this status.
fn add_paid(status: &str, add: &mut impl FnMut(&str, Header)) {
    add("X-RateLimit-Limit", header("Requests that the window allows", count()));
    add("X-RateLimit-Remaining", header("Requests that are left", count()));
    let reset = "When the limit is full again, or admits the next request (Unix seconds)";
    add("X-RateLimit-Reset", header(reset, count()));
    add("X-RateLimit-Window", header("The window, in seconds", count()));
    let draft = "The same after draft-ietf-httpapi-ratelimit-headers";
    add("RateLimit", header(draft, text()));
    add("RateLimit-Policy", header(draft, text()));
    if status == "200" {
        add("X-Polysystems-Upstream", header("Who served it", text()));
        add("X-Polysystems-Model", header("The model, if it gives the price", text()));
        let billed = "The model whose price counts, if it is another one";
        add("X-Polysystems-Billed-Model", header(billed, text()));
        let version = "The version of the price list, if a model gives the price";
        add("X-Polysystems-Price-Version", header(version, count()));
        add("X-Polysystems-Attempts", header("How many deployments were asked", count()));
        add("X-Polysystems-Deployment", header("Who of them answered, if it is shown", text()));
        add("X-Polysystems-Charge", header("The call's id in the ledger", text()));
        add("X-Polysystems-Cost", header("What it cost", amount()));
        add("X-Polysystems-Balance", header("The balance after it", amount()));
        add("X-Polysystems-Hold", header("What a stream holds at its beginning", amount()));
        add("X-Polysystems-Max-Tokens", header("The limit that the upstream was told", count()));
        add("X-Polysystems-Per-Request-Limit", header("What a call may cost", amount()));
        add("X-Polysystems-Daily-Remaining", header("Left of the daily limit", amount()));
        add("X-Polysystems-Monthly-Remaining", header("Left of the monthly limit", amount()));
        add("X-Polysystems-Total-Remaining", header("Left of the total limit", amount()));
    }
}

/// Is it a list of pages?
fn names_cursor(operation: &Operation) -> bool {
    let is_cursor = |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.name == "cursor");
    operation.parameters.iter().flatten().any(is_cursor)
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
