//! Stage 1, rate limiting by address. Arrival -> Admitted, before authentication. Requests are
//! counted by key and account later (`meter.rs`), when these are known.

use std::sync::Arc;

use super::gateway::{Gateway, rule_of};
use super::request::{Arrival, RequestContext, apply};
use domain::Refusal;
use domain::pricing::PriceRule;

/// A request that may go on to authentication.
pub struct Admitted {
    arrival: Box<Arrival>,
    rule: Option<Arc<PriceRule>>,
}

impl Admitted {
    /// The request, and the price rule of its route.
    pub(super) fn into_parts(self) -> (Box<Arrival>, Option<Arc<PriceRule>>) {
        (self.arrival, self.rule)
    }
}

/// Admits a request by its address.
pub(super) fn admit(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    context: &mut RequestContext,
) -> Result<Admitted, Refusal> {
    let rule = rule_of(gateway, &arrival);
    let checked = gateway.rate_limits.check_address(arrival.address, arrival.at);
    apply(context, checked)?;
    Ok(Admitted { arrival, rule })
}
