//! Stage 2, authentication. Admitted -> Caller: the key is parsed, looked up by its digest, and
//! checked for its expiry.

use std::sync::Arc;

use super::gateway::Gateway;
use super::gateway::unwritable;
use super::rate_limit::Admitted;
use super::request::{Arrival, RequestContext};
use crate::actors::ledger::WriterState;
use crate::store::keys::KeyRecord;
use domain::Refusal;
use domain::api_key::ApiKey;
use domain::pricing::PriceRule;

/// A request of a known caller.
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

    /// The request, the price rule of its route, and the key.
    pub(super) fn into_parts(self) -> (Box<Arrival>, Option<Arc<PriceRule>>, Arc<KeyRecord>) {
        (self.arrival, self.rule, self.key)
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
    let digest = gateway.keys.digest(&key);
    if let Some(known) = gateway.keys.remembered(digest) {
        return known_caller(gateway, arrival, rule, known, context);
    }
    // A database that is known to be down is not queried: a refusal must not wait for it.
    let state = gateway.ledger.state();
    if state == WriterState::Unavailable {
        return Err(unwritable(state));
    }
    let record = Box::pin(gateway.keys.look_up(digest)).await.map_err(|error| {
        tracing::error!(%error, "a key could not be looked up");
        Refusal::Unavailable("the database does not answer")
    })?;
    let key = record.ok_or(Refusal::InvalidKey)?;
    known_caller(gateway, arrival, rule, key, context)
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
