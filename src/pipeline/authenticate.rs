//! Authentication. Admitted -> Caller: the key's text, its digest, its record, its time.

use std::sync::Arc;

use super::gateway::Gateway;
use super::gateway::unwritable;
use super::rate_limit::Admitted;
use super::request::{Arrival, Notes};
use crate::actors::ledger::WriterState;
use crate::store::keys::KeyRecord;
use domain::Refusal;
use domain::api_key::ApiKey;
use domain::pricing::PriceRule;

/// A request of a known caller.
pub struct Caller {
    pub(super) arrival: Box<Arrival>,
    pub(super) rule: Option<Arc<PriceRule>>,
    pub(super) key: Arc<KeyRecord>,
}

/// Finds out whose request it is. A text that is no key is refused without a look-up. A database that does
/// not answer is 503: it must never look as if the key were wrong.
pub(super) async fn identify(
    gateway: &Gateway,
    admitted: Admitted,
    notes: &mut Notes,
) -> Result<Caller, Refusal> {
    let Admitted { arrival, rule } = admitted;
    let text = arrival.credential.as_deref().ok_or(Refusal::MissingKey)?;
    let key = ApiKey::parse(text).map_err(|_| Refusal::InvalidKey)?;
    let digest = gateway.keys.digest(&key);
    if let Some(known) = gateway.keys.remembered(digest) {
        return known_caller(gateway, arrival, rule, known, notes);
    }
    // A database that is known to be gone is not asked: a refusal must not wait for it.
    let state = gateway.ledger.state();
    if state == WriterState::Unavailable {
        return Err(unwritable(state));
    }
    let record = Box::pin(gateway.keys.look_up(digest)).await.map_err(|error| {
        tracing::error!(%error, "a key could not be looked up");
        Refusal::Unavailable("the database does not answer")
    })?;
    let key = record.ok_or(Refusal::InvalidKey)?;
    known_caller(gateway, arrival, rule, key, notes)
}

/// What the key may be used for: routes, and from where. Models are the pricing's business, which reads the body.
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
    notes: &mut Notes,
) -> Result<Caller, Refusal> {
    notes.account = Some(key.account);
    notes.key = Some(key.key);
    if key.expires_at.is_some_and(|expires_at| expires_at <= arrival.at) {
        return Err(Refusal::ExpiredKey);
    }
    let soon = arrival.at.plus_micros(gateway.expiry_warning_micros);
    notes.expires_at = key.expires_at.filter(|expires_at| *expires_at <= soon);
    Ok(Caller { arrival, rule, key })
}
