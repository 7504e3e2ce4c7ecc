//! Transport: decode, call one thing, encode. The route table is [`Routes`].

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::http::header::HeaderValue;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tracing::Instrument as _;

use crate::admin::Admin;
use crate::auth::Users;
use crate::bills::Bills;
use crate::catalogue::CatalogueAdmin;
use crate::clock::Clock;
use crate::config::{ListedSetting, Secret};
use crate::deployments::Deployments;
use crate::health::Health;
use crate::imports::PriceImports;
use crate::keys::Keys;
use crate::live::Live;
use crate::payments::Payments;
use crate::pipeline::{Admission, Gateway};
use crate::price_lists::PriceLists;
use crate::reports::Reports;
use crate::store::Store;
use crate::verify::quarantine::Quarantine;
use crate::verify::runs::Verifier;
use crate::webhooks::Webhooks;

mod addresses;
mod admin;
mod admin_acts;
mod admin_health;
mod admin_payments;
mod admin_settings;
mod admin_usage;
mod admin_user;
mod admin_webhooks;
pub mod amount;
mod answers;
mod audit_log;
mod auth;
mod bills;
mod bodies;
mod calls;
mod catalogue;
mod connection;
#[cfg(feature = "console")]
mod console;
mod console_settings;
mod cookie;
mod deliveries;
mod deployments;
mod docs;
mod document;
pub mod edge;
mod email;
mod environment;
mod error;
mod events;
mod extract;
mod gateway;
mod idle;
mod imports;
mod keys;
mod margins;
mod meta;
mod methods;
pub mod metrics;
mod models;
mod monitoring;
mod notices;
mod oddities;
pub mod origin;
pub mod page;
mod payment_providers;
mod payments;
mod personal;
mod places;
mod price_lists;
mod price_preview;
mod price_versions;
mod pricing;
mod repeat;
mod revenue;
mod routes;
pub mod security;
mod statements;
mod transactions;
mod two_factor;
mod validation;
mod verification;
mod webhooks;
mod x402;

pub use addresses::{PerAccount, PerAddress};
pub use bodies::{ACCOUNT_BODY_MAX, Bodies};
pub use connection::{Connection, ConnectionLimits, ConnectionState, LeastRate};
#[cfg(feature = "console")]
pub use console::warm_up as warm_up_console;
pub use cookie::CookieRules;
pub use error::refusal_answer;
pub use idle::Connections;
pub use pricing::PricePages;
pub use routes::Routes;

/// Does the program have the console's pages?
#[must_use]
pub const fn has_console() -> bool {
    cfg!(feature = "console")
}

/// What the handlers call. One for the process, shared by all threads.
pub struct App {
    /// Registration, login, sessions.
    pub users: Arc<Users>,
    /// API keys.
    pub keys: Keys,
    /// Payments and the ledger.
    pub payments: Payments,
    /// What account holders read.
    pub reports: Reports,
    /// Webhook endpoints.
    pub webhooks: Arc<Webhooks>,
    /// What operators do.
    pub admin: Admin,
    /// What operators do with the catalogue.
    pub catalogue: CatalogueAdmin,
    /// The price lists.
    pub price_lists: PriceLists,
    /// The price lists as they are answered to everybody.
    pub price_pages: PricePages,
    /// The bills of calls.
    pub bills: Bills,
    /// What operators do with deployments.
    pub deployments: Deployments,
    /// What operators watch.
    pub live: Live,
    /// The settings in force, without secrets.
    pub settings: Vec<ListedSetting>,
    /// Verifications of the ledger.
    pub verifier: Arc<Verifier>,
    /// How often the ledger is verified by itself, in hours; `None` is never.
    pub verify_hours: Option<u32>,
    /// Accounts that are blocked because their records disagree.
    pub quarantine: Quarantine,
    /// What operators do with public price files.
    pub price_imports: PriceImports,
    /// The paid calls.
    pub gateway: Arc<Gateway>,
    /// Whether paid calls can be served.
    pub health: Health,
    /// The database, for the background jobs. No handler uses it.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Whether new work is accepted.
    pub readiness: Arc<Admission>,
    /// How the bodies of requests are received.
    pub bodies: Bodies,
    /// The connections of each address that are strangers'.
    pub connections: Arc<PerAddress>,
    /// The connections of each account that are no strangers'.
    pub paid_connections: Arc<PerAccount>,
    /// The token that `GET /metrics` requires, if it is set.
    pub metrics_token: Option<Secret>,
    /// Are the traces of callers continued?
    pub continues_traces: bool,
    /// Does the server itself speak TLS?
    pub is_tls: bool,
    /// Is it a demo, where everything is made up?
    pub is_demo: bool,
    /// The value of `Strict-Transport-Security`.
    pub hsts: HeaderValue,
    /// The session cookie of browsers.
    pub cookies: CookieRules,
    /// The proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted.
    pub trusted_proxies: Vec<IpAddr>,
}

/// Work that a leaving client does not cancel: if the handler is dropped, it goes on in a task of
/// its own, in the span of its request.
fn uncancelled<T: 'static>(work: impl Future<Output = T> + 'static) -> Uncancelled<T> {
    Uncancelled(Some(Box::pin(work)))
}

/// See [`uncancelled`]. Empty once the work is done or has panicked.
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
            // The result is dropped. The handler is dropped in the span of its request.
            drop(actix_web::rt::spawn(work.map(drop).in_current_span()));
        }
    }
}
