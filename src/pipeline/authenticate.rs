//! Stage 2, authentication. Admitted -> Caller: the key is parsed, looked up by its digest, and
//! checked for its expiry. Stage 3, the body. Caller -> Received: only a known caller's is read.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::admission::Running;
use super::gateway::Gateway;
use super::gateway::unwritable;
use super::rate_limit::Admitted;
use super::request::{Arrival, Paying, RequestContext};
use crate::actors::ledger::WriterState;
use crate::store::PATIENCE;
use crate::store::keys::KeyRecord;
use domain::api_key::ApiKey;
use domain::pricing::PriceRule;
use domain::{AccountId, Environment, Refusal};

/// A request of a known caller. Its body is not read yet.
pub struct Caller {
    arrival: Box<Arrival>,
    rule: Option<Arc<PriceRule>>,
    key: Arc<KeyRecord>,
}

impl Caller {
    pub(super) fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// The price rule of the route, if it has one.
    pub(super) fn rule(&self) -> Option<&PriceRule> {
        self.rule.as_deref()
    }

    pub(super) fn key(&self) -> &KeyRecord {
        &self.key
    }

    /// The environment of the key.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.key.environment
    }

    /// The account of the key.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.key.account
    }

    /// The request with its body.
    #[must_use]
    pub fn receive(self, body: Bytes) -> Received {
        let Caller { mut arrival, rule, key } = self;
        arrival.body = body;
        Received(Caller { arrival, rule, key })
    }
}

/// A request of a known caller, with its body.
pub struct Received(Caller);

impl Received {
    pub(super) fn arrival(&self) -> &Arrival {
        &self.0.arrival
    }

    pub(super) fn key(&self) -> &KeyRecord {
        &self.0.key
    }

    /// The request, the price rule of its route, and the key.
    pub(super) fn into_parts(self) -> (Box<Arrival>, Option<Arc<PriceRule>>, Arc<KeyRecord>) {
        (self.0.arrival, self.0.rule, self.0.key)
    }

    /// Does its price depend on tokens?
    pub(super) fn is_token_priced(&self) -> bool {
        self.0.rule().is_some_and(PriceRule::is_token_priced)
    }

    /// Does the call cost nothing, whatever it asks for?
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.0.rule().is_some_and(PriceRule::is_free)
    }

    /// The request as a running call. `client_left` is closed when the client leaves before it has
    /// an answer. `paying` is told whether the call is paid for.
    #[must_use]
    pub fn run(
        mut self,
        running: Running,
        client_left: oneshot::Receiver<()>,
        paying: Option<Arc<Paying>>,
    ) -> Self {
        self.0.arrival.running = Some(running);
        self.0.arrival.client_left = Some(client_left);
        self.0.arrival.paying = paying;
        self
    }

    /// A copy; the permit of a running call stays with the original.
    #[must_use]
    pub fn copy(&self) -> Self {
        let Caller { arrival, rule, key } = &self.0;
        Received(Caller { arrival: arrival.copy(), rule: rule.clone(), key: Arc::clone(key) })
    }
}

/// Identifies the caller. A text that is not a key is refused without a lookup. If the database
/// does not answer, the refusal is 503, so that it never looks as if the key were wrong.
pub(super) async fn identify(
    gateway: &Gateway,
    admitted: Admitted,
    context: &mut RequestContext,
) -> Result<Caller, Refusal> {
    let (arrival, rule) = admitted.into_parts();
    let text = arrival.credential.as_deref().ok_or(Refusal::MissingKey)?;
    let key = ApiKey::parse(text).map_err(|_| Refusal::InvalidKey)?;
    if let Some(known) = gateway.keys.remembered(&key) {
        return known_caller(gateway, arrival, rule, known, context);
    }
    check_database(gateway)?;
    // Those before it may wait for the database as long as anybody does, one after the other.
    let turn = tokio::time::timeout(PATIENCE, Box::pin(gateway.keys.turn(&key))).await;
    let slow = |_| Refusal::Unavailable("the database does not answer those before it");
    let _turn = turn.map_err(slow)?;
    if let Some(known) = gateway.keys.remembered(&key) {
        return known_caller(gateway, arrival, rule, known, context);
    }
    // What was known before the wait may have changed.
    check_database(gateway)?;
    // Strangers can make keys up: they must not fill the queue of the database.
    let _place = gateway.readiness.admit_lookup().ok_or(Refusal::Overloaded)?;
    let record = Box::pin(gateway.keys.look_up(&key)).await.map_err(|error| {
        tracing::error!(%error, "a key could not be looked up");
        Refusal::Unavailable("the database does not answer")
    })?;
    let key = record.ok_or(Refusal::InvalidKey)?;
    known_caller(gateway, arrival, rule, key, context)
}

/// A database that is known to be down is not queried: a refusal must not wait for it.
fn check_database(gateway: &Gateway) -> Result<(), Refusal> {
    match gateway.ledger.state() {
        state @ WriterState::Unavailable => Err(unwritable(state)),
        _ => Ok(()),
    }
}

/// Checks the key's policy for the route and the address. Models are checked by pricing, which
/// reads the body.
pub(super) fn permit(caller: &Caller) -> Result<(), Refusal> {
    let Caller { arrival, key, .. } = caller;
    let is_permitted = key.policy.permits(arrival.group.name(), arrival.address);
    if is_permitted { Ok(()) } else { Err(Refusal::NotPermitted) }
}

fn known_caller(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    rule: Option<Arc<PriceRule>>,
    key: Arc<KeyRecord>,
    context: &mut RequestContext,
) -> Result<Caller, Refusal> {
    context.account = Some(key.account);
    context.key = Some(key.key);
    if key.expires_at.is_some_and(|expires_at| expires_at <= arrival.at) {
        return Err(Refusal::ExpiredKey);
    }
    let soon = arrival.at.plus_micros(gateway.expiry_warning_micros);
    context.expires_at = key.expires_at.filter(|expires_at| *expires_at <= soon);
    Ok(Caller { arrival, rule, key })
}
