//! Rate limiting by key and account, right after authentication.

use super::authenticate::Caller;
use super::gateway::Gateway;
use super::request::{RequestContext, apply};
use domain::Refusal;
use domain::pricing::RouteClass;

/// Counts a request of a known caller by the class of its route. A route without a price counts as
/// a read.
pub(super) fn meter(
    gateway: &Gateway,
    caller: &Caller,
    context: &mut RequestContext,
) -> Result<(), Refusal> {
    let class = caller.rule().map_or(RouteClass::Read, |rule| rule.class);
    if class == RouteClass::Health {
        return Ok(());
    }
    let key = caller.key();
    let tier = key.tier.as_deref();
    let at = caller.arrival().at;
    let limits = &gateway.rate_limits;
    apply(context, limits.check_caller(tier, class, key.key, key.account, at))?;
    let Some(calls) = key.policy.calls_per_minute else { return Ok(()) };
    let of_tier = context.rate_limit;
    apply(context, limits.check_own(key.key, calls, at))?;
    // Report the one that is closer to its limit.
    if let Some(of_tier) = of_tier
        && context.rate_limit.is_none_or(|own| of_tier.remaining < own.remaining)
    {
        context.rate_limit = Some(of_tier);
    }
    Ok(())
}
