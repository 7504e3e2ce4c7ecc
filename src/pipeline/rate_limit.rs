//! Rate limiting by address. Request -> Admitted, before anyone is asked who is there; the key and the account are
//! counted later (`meter.rs`), when they are known.

use std::sync::Arc;

use super::gateway::{Gateway, rule_of};
use super::request::{Arrival, Notes, note};
use domain::Refusal;
use domain::pricing::PriceRule;

/// A request that may go on to authentication.
pub struct Admitted {
    pub(super) arrival: Box<Arrival>,
    pub(super) rule: Option<Arc<PriceRule>>,
}

/// Admits a request by its address.
pub(super) fn admit(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<Admitted, Refusal> {
    let rule = rule_of(gateway, &arrival);
    let checked = gateway.rate_limits.check_address(arrival.address, arrival.at);
    note(notes, checked)?;
    Ok(Admitted { arrival, rule })
}
