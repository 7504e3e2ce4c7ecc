//! The route table. A handler stands in it once: method, path and documentation come from its
//! `#[utoipa::path]`.

use actix_web::http::Method;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpResponse, Resource, Route};
use utoipa::OpenApi;
use utoipa::openapi::path::PathItem;

use super::error::ApiError;
use super::{
    App, admin, audit_log, auth, calls, docs, email, gateway, keys, meta, methods, metrics,
    monitoring, notices, payments, personal, statements, transactions, two_factor, webhooks,
};
use domain::route_group::RouteGroup;

/// Makes the route of a handler: actix wants a new one for each thread.
type MakeRoute = fn() -> Route;

/// A handler, and what its `#[utoipa::path]` says of it.
struct Endpoint {
    route: MakeRoute,
    document: fn() -> utoipa::openapi::OpenApi,
}

macro_rules! endpoints {
    ($($($segment:ident)::+,)*) => {
        [$({
            #[derive(OpenApi)]
            #[openapi(paths($($segment)::+))]
            struct Documented;
            Endpoint { route: || web::to($($segment)::+), document: Documented::openapi }
        },)*]
    };
}

const ENDPOINTS: &[Endpoint] = &endpoints![
    auth::register,
    auth::login,
    two_factor::log_in,
    two_factor::status,
    two_factor::enroll,
    two_factor::confirm,
    two_factor::disable,
    two_factor::recovery_codes,
    email::verify,
    email::change,
    email::confirm_change,
    email::resend,
    email::forgot,
    email::reset,
    auth::me,
    auth::refresh,
    auth::logout,
    auth::logout_all,
    auth::sessions,
    auth::end_session,
    auth::change_password,
    auth::confirm,
    personal::export,
    personal::erase,
    keys::list,
    keys::create,
    keys::get,
    keys::change,
    keys::delete,
    keys::rotate,
    keys::revoke,
    keys::limits::limits,
    keys::limits::set_limits,
    payments::balance,
    payments::list,
    payments::pay,
    payments::get,
    payments::reset_test,
    statements::receipt,
    methods::list,
    methods::add,
    methods::remove,
    methods::auto_top_up,
    methods::set_auto_top_up,
    methods::handle_stripe_event,
    statements::statement,
    transactions::export,
    transactions::list,
    monitoring::usage,
    calls::list,
    monitoring::limits,
    monitoring::forecast_balance,
    notices::notices,
    notices::set_notices,
    webhooks::list,
    webhooks::add,
    webhooks::get,
    webhooks::change,
    webhooks::delete,
    webhooks::rotate_secret,
    webhooks::test,
    webhooks::deliveries,
    webhooks::redeliver,
    audit_log::own_acts,
    audit_log::all_acts,
    admin::users,
    admin::user,
    admin::change_credits,
    admin::set_tier,
    admin::end_sessions,
    admin::suspend,
    admin::resume,
    meta::pricing,
    meta::openapi,
    meta::live,
    meta::ready,
];

/// All routes and their documentation. Made once; each HTTP thread configures itself with it.
pub struct Routes {
    paths: Vec<Path>,
    document: Data<utoipa::openapi::OpenApi>,
    has_metrics: bool,
}

/// The methods of one path.
struct Path {
    path: String,
    methods: Vec<(Method, fn() -> Route)>,
}

impl Routes {
    /// The routes, with `GET /metrics` if `has_metrics`. The document depends on the settings of
    /// `app`.
    #[must_use]
    pub fn new(app: &App, has_metrics: bool) -> Self {
        let mut handlers = utoipa::openapi::OpenApi::default();
        let mut paths: Vec<Path> = Vec::new();
        for endpoint in ENDPOINTS {
            let own = (endpoint.document)();
            for (path, item) in &own.paths.paths {
                let methods = methods_of(item).map(|method| (method, endpoint.route));
                match paths.iter_mut().find(|known| known.path == *path) {
                    Some(known) => known.methods.extend(methods),
                    None => {
                        paths.push(Path { path: path.clone(), methods: methods.collect() });
                    }
                }
            }
            handlers.merge(own);
        }
        Routes { paths, document: Data::new(docs::document(app, handlers)), has_metrics }
    }

    /// Registers every route.
    pub fn configure(&self, config: &mut ServiceConfig) {
        // First and by prefix: a paid call must not be matched against every pattern below.
        for group in RouteGroup::ALL {
            config.service(web::scope(group.path()).default_service(web::to(gateway::call)));
        }
        if self.has_metrics {
            let route: fn() -> Route = || web::to(metrics::metrics);
            config.service(resource("/metrics", &[(Method::GET, route)]));
        }
        config.app_data(Data::clone(&self.document));
        for Path { path, methods } in &self.paths {
            config.service(resource(path, methods));
        }
        config
            .service(web::redirect("/docs", "/docs/"))
            .service(
                utoipa_swagger_ui::SwaggerUi::new("/docs/{path:.*}")
                    .config(utoipa_swagger_ui::Config::from("/api/openapi.json")),
            )
            .default_service(web::to(no_route));
    }
}

fn methods_of(item: &PathItem) -> impl Iterator<Item = Method> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    [
        (get, Method::GET),
        (put, Method::PUT),
        (post, Method::POST),
        (patch, Method::PATCH),
        (delete, Method::DELETE),
    ]
    .into_iter()
    .filter_map(|(operation, method)| operation.is_some().then_some(method))
}

/// A path with its methods. Any other method is answered with 405 and `Allow`.
fn resource(path: &str, methods: &[(Method, MakeRoute)]) -> Resource {
    let names: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
    let allow = names.join(", ");
    let refuse = move || {
        let allow = allow.clone().into();
        async move { Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allow }) }
    };
    let mut resource = web::resource(path);
    for (method, route) in methods {
        resource = resource.route(route().method(method.clone()));
    }
    resource.default_service(web::to(refuse))
}

async fn no_route() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoRoute)
}
