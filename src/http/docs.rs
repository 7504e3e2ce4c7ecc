//! The OpenAPI document: the handlers' own, and the paid routes as the price list has them.

use std::sync::Arc;

use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, PathItem, Ref, Required, ResponseBuilder, SecurityRequirement,
};

use super::{admin, auth, keys, meta, payments};
use crate::domain::pricing::{PriceList, PriceRule, RouteClass};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Polysystems",
        description = "API calls from a prepaid balance. Management routes take the JWT from login; paid \
                       routes take an API key, in `X-API-Key` or `Authorization: Bearer`.",
    ),
    paths(
        auth::register,
        auth::login,
        auth::me,
        auth::change_password,
        keys::create,
        keys::list,
        keys::get,
        keys::revoke,
        keys::delete,
        keys::set_limits,
        keys::limits,
        payments::balance,
        payments::pay,
        payments::list,
        payments::get,
        payments::transactions,
        payments::reset_test,
        admin::suspend,
        admin::resume,
        meta::live,
        meta::ready,
        meta::pricing,
    ),
    components(schemas(super::error::ErrorBody))
)]
struct Handlers;

/// The whole document.
pub(super) fn document(prices: &PriceList) -> utoipa::openapi::OpenApi {
    let mut document = Handlers::openapi();
    if let Some(components) = &mut document.components {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        components.add_security_scheme("jwt", SecurityScheme::Http(bearer));
        let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(header));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("api_key_bearer", SecurityScheme::Http(bearer));
    }
    for rule in prices.rules() {
        add_paid_route(&mut document, rule);
    }
    document
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

/// What every paid route reads beside its credential.
const HEADERS: [(&str, &str); 2] = [
    ("Idempotency-Key", "Makes it happen, and be charged, once, however often it is sent"),
    ("X-Dry-Run", "`true` answers what it would cost, and charges nothing"),
];

fn add_paid_route(document: &mut utoipa::openapi::OpenApi, rule: &PriceRule) {
    let path = rule.path.replace("/*", "/{path}");
    for (method, name) in methods(rule) {
        let error = |description: &str| {
            let schema = Ref::from_schema_name("ErrorBody");
            let content = ContentBuilder::new().schema(Some(schema)).build();
            ResponseBuilder::new().description(description).content("application/json", content)
        };
        let price = match rule.per_token {
            Some(per_token) => format!("${} and ${per_token} a token", rule.base),
            None => format!("${}", rule.base),
        };
        let answer = ContentBuilder::new().schema(Some(ObjectBuilder::new())).build();
        let mut delivered = ResponseBuilder::new()
            .description("The upstream's answer")
            .content("application/json", answer);
        if rule.is_token_priced() {
            let events = ObjectBuilder::new().schema_type(utoipa::openapi::Type::String);
            let events = ContentBuilder::new().schema(Some(events)).build();
            delivered = delivered.content("text/event-stream", events);
        }
        let mut operation = OperationBuilder::new()
            .operation_id(Some(format!("{} {path}", name.to_lowercase())))
            .tag("paid calls")
            .summary(Some(format!("Costs {price}")))
            .description(Some(format!("Rate limits: class `{}`", meta::class_name(rule.class))))
            .security(SecurityRequirement::new("api_key", Vec::<String>::new()))
            .security(SecurityRequirement::new("api_key_bearer", Vec::<String>::new()))
            .response("200", delivered)
            .response("400", error("The body cannot be priced or served"))
            .response("401", error("No API key, or none that is valid"))
            .response("402", error("Not enough credits, or a spending limit is reached"))
            .response("403", error("The account is suspended"))
            .response(
                "409",
                error("The first request with this Idempotency-Key still runs, or its answer was not kept"),
            )
            .response("413", error("The body is too large"))
            .response("422", error("The Idempotency-Key was used for another request"))
            .response("429", error("A rate limit is reached"))
            .response("502", error("The upstream failed; not charged"))
            .response("503", error("Not attempted, or the outcome is not known"))
            .response("504", error("The upstream took too long; not charged"));
        for (name, description) in HEADERS {
            operation = operation.parameter(
                ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Header)
                    .required(Required::False)
                    .description(Some(description))
                    .schema(Some(ObjectBuilder::new().schema_type(utoipa::openapi::Type::String))),
            );
        }
        if path.contains("{path}") {
            operation = operation.parameter(
                ParameterBuilder::new()
                    .name("path")
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .schema(Some(ObjectBuilder::new().schema_type(utoipa::openapi::Type::String))),
            );
        }
        if name != "GET" && rule.class != RouteClass::Health {
            let content = ContentBuilder::new().schema(Some(ObjectBuilder::new())).build();
            operation = operation.request_body(Some(
                RequestBodyBuilder::new().content("application/json", content).build(),
            ));
        }
        let item = PathItem::new(method, operation);
        match document.paths.paths.get_mut(&path) {
            Some(existing) => existing.merge_operations(item),
            None => {
                document.paths.paths.insert(path.clone(), item);
            }
        }
    }
}
