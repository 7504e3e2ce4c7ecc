//! The call itself. Charged -> Answered. Refuses nothing: a failure is an outcome, and is settled like one.

use std::sync::Arc;

use super::charge::{Charged, OpenCharge};
use super::{Arrival, Gateway};
use crate::actors::ledger_writer::Acknowledgement;
use crate::domain::pricing::PriceRule;
use crate::store::api_keys::KeyRecord;
use crate::upstream::{Answer, Failure};

/// A request that the upstream has answered, or not.
pub struct Answered {
    pub(super) arrival: Arrival,
    pub(super) rule: Arc<PriceRule>,
    pub(super) key: Arc<KeyRecord>,
    pub(super) open: OpenCharge,
    pub(super) debit: Option<Acknowledgement>,
    pub(super) upstream: Arc<str>,
    pub(super) result: Result<Answer, Failure>,
}

/// Forwards the request to the upstream of its group; test keys always to the sandbox.
pub(super) async fn forward(
    gateway: &Gateway,
    client: &reqwest::Client,
    charged: Charged,
) -> Answered {
    let Charged { arrival, rule, key, open, debit } = charged;
    let upstream = gateway.upstreams.of(arrival.group, key.environment);
    let result = upstream.call(client, &arrival, gateway.clock.now()).await;
    Answered { upstream: upstream.name(), arrival, rule, key, open, debit, result }
}
