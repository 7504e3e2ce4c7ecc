//! Transport: decode, call one thing, encode. The route table is [`Routes`].

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tracing::Instrument as _;

use crate::admin::Admin;
use crate::auth::Users;
use crate::clock::Clock;
use crate::config::Secret;
use crate::health::Health;
use crate::keys::Keys;
use crate::payments::Payments;
use crate::pipeline::{Admission, Gateway};
use crate::reports::Reports;
use crate::store::Store;
use crate::webhooks::Webhooks;

mod addresses;
mod admin;
pub mod amount;
mod audit_log;
mod auth;
mod bodies;
mod calls;
mod connection;
mod docs;
pub mod edge;
mod email;
mod environment;
mod error;
mod extract;
mod gateway;
mod keys;
mod meta;
mod methods;
pub mod metrics;
mod monitoring;
mod notices;
pub mod origin;
pub mod page;
mod payments;
mod personal;
mod places;
mod repeat;
mod routes;
pub mod security;
mod statements;
mod transactions;
mod two_factor;
mod validation;
mod webhooks;
mod x402;

pub use addresses::{PerAccount, PerAddress};
pub use bodies::{ACCOUNT_BODY_MAX, Bodies};
pub use connection::{Connection, ConnectionLimits, ConnectionState, LeastRate};
pub use error::refusal_answer;
pub use routes::Routes;

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
    /// The connections of each address that no paid call has come on.
    pub connections: Arc<PerAddress>,
    /// The token that `GET /metrics` requires, if it is set.
    pub metrics_token: Option<Secret>,
    /// Are the traces of callers continued?
    pub continues_traces: bool,
    /// Does the server itself speak TLS?
    pub is_tls: bool,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpAddr>,
}

/// Work that a leaving client does not cancel: if the handler is dropped, it goes on in a task of
/// its own.
fn uncancelled<T: 'static>(work: impl Future<Output = T> + 'static) -> Uncancelled<T> {
    Uncancelled(Some(Box::pin(work.in_current_span())))
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
            // The result is dropped.
            drop(actix_web::rt::spawn(work.map(drop)));
        }
    }
}
