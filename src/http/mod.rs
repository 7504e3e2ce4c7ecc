//! Transport: decode, call one thing, encode. The route table is [`routes`].

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::Method;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpResponse, Route};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tracing::Instrument as _;

use crate::admin::Operators;
use crate::auth::People;
use crate::clock::Clock;
use crate::config::Secret;
use crate::keys::Keys;
use crate::payments::Payments;
use crate::pipeline::{Gateway, Readiness};
use crate::store::Store;
use crate::webhooks::Webhooks;
use domain::route_group::RouteGroup;

mod admin;
pub mod amount;
mod auth;
mod docs;
pub mod edge;
mod email;
mod error;
mod extract;
mod gateway;
mod keys;
mod meta;
mod methods;
pub mod metrics;
mod monitoring;
pub mod origin;
pub mod page;
mod payments;
mod repeat;
pub mod security;
mod transactions;
mod two_factor;
mod webhooks;
mod x402;

use error::ApiError;

/// What the handlers call. One for the process, shared by all threads.
pub struct App {
    /// Registration, login, sessions.
    pub people: Arc<People>,
    /// API keys.
    pub keys: Keys,
    /// Payments and the ledger.
    pub payments: Payments,
    /// Webhook endpoints.
    pub webhooks: Arc<Webhooks>,
    /// What operators do.
    pub operators: Operators,
    /// The paid calls.
    pub gateway: Arc<Gateway>,
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Whether new work is taken.
    pub readiness: Arc<Readiness>,
    /// The largest request body.
    pub body_max_bytes: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// What `GET /metrics` is asked with, where it is set.
    pub metrics_token: Option<Secret>,
    /// Are the traces of callers continued?
    pub continues_traces: bool,
    /// Is the server itself spoken to over TLS?
    pub is_tls: bool,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
}

/// A client that leaves cancels the handler, not the work: that goes on in a task of its own then.
fn uncancelled<T: 'static>(work: impl Future<Output = T> + 'static) -> Uncancelled<T> {
    Uncancelled(Some(Box::pin(work.in_current_span())))
}

/// See [`uncancelled`]. Empty when the work is done, or has panicked.
struct Uncancelled<T: 'static>(Option<LocalBoxFuture<'static, T>>);

impl<T> Future for Uncancelled<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(mut work) = self.0.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<T> Drop for Uncancelled<T> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            // Nobody hears what it comes to.
            drop(actix_web::rt::spawn(work.map(drop)));
        }
    }
}

async fn no_route() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoRoute)
}

/// A path with its methods; every other method is told which they are.
fn resource<const N: usize>(
    path: &str,
    allow: &'static str,
    methods: [(Method, Route); N],
) -> actix_web::Resource {
    let refuse = move || async move {
        Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allow: allow.into() })
    };
    let mut resource = web::resource(path);
    for (method, route) in methods {
        resource = resource.route(route.method(method));
    }
    resource.default_service(web::to(refuse))
}

/// The route table.
#[expect(clippy::too_many_lines, reason = "one table")]
pub fn routes(
    config: &mut ServiceConfig,
    document: &Data<utoipa::openapi::OpenApi>,
    has_metrics: bool,
) {
    let (get, post) = (|| (Method::GET, web::route()), || (Method::POST, web::route()));
    let on_get = |route: fn(Route) -> Route| (get().0, route(get().1));
    let on_post = |route: fn(Route) -> Route| (post().0, route(post().1));
    // First and by prefix: the paid routes must not wait for every pattern below to be tried.
    for group in RouteGroup::ALL {
        config.service(web::scope(group.path()).default_service(web::to(gateway::call)));
    }
    if has_metrics {
        config.service(resource("/metrics", "GET", [on_get(|r| r.to(metrics::metrics))]));
    }
    config
        .app_data(Data::clone(document))
        .service(resource("/api/auth/register", "POST", [on_post(|r| r.to(auth::register))]))
        .service(resource("/api/auth/login", "POST", [on_post(|r| r.to(auth::login))]))
        .service(resource("/api/auth/login/2fa", "POST", [on_post(|r| r.to(two_factor::log_in))]))
        .service(resource("/api/auth/2fa", "GET", [on_get(|r| r.to(two_factor::status))]))
        .service(resource("/api/auth/2fa/enroll", "POST", [on_post(|r| r.to(two_factor::enroll))]))
        .service(resource(
            "/api/auth/2fa/confirm",
            "POST",
            [on_post(|r| r.to(two_factor::confirm))],
        ))
        .service(resource(
            "/api/auth/2fa/disable",
            "POST",
            [on_post(|r| r.to(two_factor::disable))],
        ))
        .service(resource(
            "/api/auth/2fa/recovery-codes",
            "POST",
            [on_post(|r| r.to(two_factor::recovery_codes))],
        ))
        .service(resource("/api/auth/verify-email", "POST", [on_post(|r| r.to(email::verify))]))
        .service(resource(
            "/api/auth/resend-verification",
            "POST",
            [on_post(|r| r.to(email::resend))],
        ))
        .service(resource("/api/auth/forgot-password", "POST", [on_post(|r| r.to(email::forgot))]))
        .service(resource("/api/auth/reset-password", "POST", [on_post(|r| r.to(email::reset))]))
        .service(resource("/api/auth/me", "GET", [on_get(|r| r.to(auth::me))]))
        .service(resource("/api/auth/refresh", "POST", [on_post(|r| r.to(auth::refresh))]))
        .service(resource("/api/auth/logout", "POST", [on_post(|r| r.to(auth::logout))]))
        .service(resource("/api/auth/logout-all", "POST", [on_post(|r| r.to(auth::logout_all))]))
        .service(resource("/api/auth/sessions", "GET", [on_get(|r| r.to(auth::sessions))]))
        .service(resource(
            "/api/auth/sessions/{id}",
            "DELETE",
            [(Method::DELETE, web::route().to(auth::end_session))],
        ))
        .service(resource(
            "/api/auth/change-password",
            "POST",
            [on_post(|r| r.to(auth::change_password))],
        ))
        .service(resource(
            "/api/keys",
            "GET, POST",
            [on_get(|r| r.to(keys::list)), on_post(|r| r.to(keys::create))],
        ))
        .service(resource(
            "/api/keys/{id}",
            "GET, PATCH, DELETE",
            [
                on_get(|r| r.to(keys::get)),
                (Method::PATCH, web::route().to(keys::change)),
                (Method::DELETE, web::route().to(keys::delete)),
            ],
        ))
        .service(resource("/api/keys/{id}/rotate", "POST", [on_post(|r| r.to(keys::rotate))]))
        .service(resource("/api/keys/{id}/revoke", "POST", [on_post(|r| r.to(keys::revoke))]))
        .service(resource(
            "/api/keys/{id}/limits",
            "GET, PUT",
            [on_get(|r| r.to(keys::limits)), (Method::PUT, web::route().to(keys::set_limits))],
        ))
        .service(resource(
            "/api/payments/credits/balance",
            "GET",
            [on_get(|r| r.to(payments::balance))],
        ))
        .service(resource(
            "/api/payments/payments",
            "GET, POST",
            [on_get(|r| r.to(payments::list)), on_post(|r| r.to(payments::pay))],
        ))
        .service(resource("/api/payments/payments/{id}", "GET", [on_get(|r| r.to(payments::get))]))
        .service(resource(
            "/api/payments/test/reset",
            "POST",
            [on_post(|r| r.to(payments::reset_test))],
        ))
        .service(resource(
            "/api/payments/payments/{id}/receipt",
            "GET",
            [on_get(|r| r.to(transactions::receipt))],
        ))
        .service(resource(
            "/api/payments/methods",
            "GET, POST",
            [on_get(|r| r.to(methods::list)), on_post(|r| r.to(methods::add))],
        ))
        .service(resource(
            "/api/payments/methods/{id}",
            "DELETE",
            [(Method::DELETE, web::route().to(methods::remove))],
        ))
        .service(resource(
            "/api/payments/auto-top-up",
            "GET, PUT",
            [
                on_get(|r| r.to(methods::auto_top_up)),
                (Method::PUT, web::route().to(methods::set_auto_top_up)),
            ],
        ))
        .service(resource(
            "/api/payments/stripe/webhook",
            "POST",
            [on_post(|r| r.to(methods::hear_stripe))],
        ))
        .service(resource(
            "/api/payments/statements/{month}",
            "GET",
            [on_get(|r| r.to(transactions::statement))],
        ))
        .service(resource(
            "/api/payments/transactions/export",
            "GET",
            [on_get(|r| r.to(transactions::export))],
        ))
        .service(resource(
            "/api/payments/transactions",
            "GET",
            [on_get(|r| r.to(transactions::list))],
        ))
        .service(resource("/api/monitoring/usage", "GET", [on_get(|r| r.to(monitoring::usage))]))
        .service(resource(
            "/api/monitoring/requests",
            "GET",
            [on_get(|r| r.to(monitoring::requests))],
        ))
        .service(resource("/api/monitoring/limits", "GET", [on_get(|r| r.to(monitoring::limits))]))
        .service(resource(
            "/api/monitoring/forecast",
            "GET",
            [on_get(|r| r.to(monitoring::forecast_balance))],
        ))
        .service(resource(
            "/api/payments/notices",
            "GET, PUT",
            [
                on_get(|r| r.to(webhooks::notices)),
                (Method::PUT, web::route().to(webhooks::set_notices)),
            ],
        ))
        .service(resource(
            "/api/webhooks",
            "GET, POST",
            [on_get(|r| r.to(webhooks::list)), on_post(|r| r.to(webhooks::add))],
        ))
        .service(resource(
            "/api/webhooks/{id}",
            "GET, PATCH, DELETE",
            [
                on_get(|r| r.to(webhooks::get)),
                (Method::PATCH, web::route().to(webhooks::change)),
                (Method::DELETE, web::route().to(webhooks::delete)),
            ],
        ))
        .service(resource(
            "/api/webhooks/{id}/rotate-secret",
            "POST",
            [on_post(|r| r.to(webhooks::rotate_secret))],
        ))
        .service(resource("/api/webhooks/{id}/test", "POST", [on_post(|r| r.to(webhooks::test))]))
        .service(resource(
            "/api/webhooks/{id}/deliveries",
            "GET",
            [on_get(|r| r.to(webhooks::deliveries))],
        ))
        .service(resource(
            "/api/webhooks/{id}/deliveries/{delivery}/redeliver",
            "POST",
            [on_post(|r| r.to(webhooks::redeliver))],
        ))
        .service(resource("/api/auth/audit-log", "GET", [on_get(|r| r.to(admin::own_acts))]))
        .service(resource("/api/admin/audit-log", "GET", [on_get(|r| r.to(admin::all_acts))]))
        .service(resource("/api/admin/users", "GET", [on_get(|r| r.to(admin::users))]))
        .service(resource("/api/admin/users/{id}", "GET", [on_get(|r| r.to(admin::user))]))
        .service(resource(
            "/api/admin/users/{id}/credits",
            "POST",
            [on_post(|r| r.to(admin::change_credits))],
        ))
        .service(resource(
            "/api/admin/users/{id}/tier",
            "PUT",
            [(Method::PUT, web::route().to(admin::set_tier))],
        ))
        .service(resource(
            "/api/admin/users/{id}/end-sessions",
            "POST",
            [on_post(|r| r.to(admin::end_sessions))],
        ))
        .service(resource(
            "/api/admin/users/{id}/suspend",
            "POST",
            [on_post(|r| r.to(admin::suspend))],
        ))
        .service(resource(
            "/api/admin/users/{id}/resume",
            "POST",
            [on_post(|r| r.to(admin::resume))],
        ))
        .service(resource("/api/pricing", "GET", [on_get(|r| r.to(meta::pricing))]))
        .service(resource("/api/openapi.json", "GET", [on_get(|r| r.to(meta::openapi))]))
        .service(resource("/health/live", "GET", [on_get(|r| r.to(meta::live))]))
        .service(resource("/health/ready", "GET", [on_get(|r| r.to(meta::ready))]))
        .service(web::redirect("/docs", "/docs/"))
        .service(
            utoipa_swagger_ui::SwaggerUi::new("/docs/{path:.*}")
                .config(utoipa_swagger_ui::Config::from("/api/openapi.json")),
        );
    config.default_service(web::to(no_route));
}

/// The OpenAPI document of the whole surface.
#[must_use]
pub fn document(app: &App) -> utoipa::openapi::OpenApi {
    docs::document(app)
}
