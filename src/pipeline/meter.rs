//! Rate limiting by key and account, as soon as authentication has found them.

use super::authenticate::Caller;
use super::gateway::Gateway;
use super::request::{Notes, note};
use domain::Refusal;
use domain::pricing::RouteClass;

/// Counts a request of a known caller, by the class of its route; a route without a price counts as a read.
pub(super) fn meter(gateway: &Gateway, caller: &Caller, notes: &mut Notes) -> Result<(), Refusal> {
    let class = caller.rule.as_ref().map_or(RouteClass::Read, |rule| rule.class);
    if class == RouteClass::Health {
        return Ok(());
    }
    let key = &caller.key;
    let tier = key.tier.as_deref();
    let at = caller.arrival.at;
    let limits = &gateway.rate_limits;
    note(notes, limits.check_caller(tier, class, key.key, key.account, at))?;
    let Some(calls) = key.policy.calls_per_minute else { return Ok(()) };
    let of_tier = notes.standing;
    note(notes, limits.check_own(key.key, calls, at))?;
    // The one that is closest to refusing.
    if let Some(of_tier) = of_tier
        && notes.standing.is_none_or(|own| of_tier.remaining < own.remaining)
    {
        notes.standing = Some(of_tier);
    }
    Ok(())
}
