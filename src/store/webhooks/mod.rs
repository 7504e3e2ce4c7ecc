//! Webhook endpoints, the accounts that have one, and the deliveries of events.

use std::sync::Arc;

use super::connections::Connections;

mod deliveries;
mod endpoints;
mod failing;
mod record;
mod subscribers;

pub use failing::{FailingEndpoint, FailingFilter, LastFailure};
pub use record::{
    Attempt, DeliveryFilter, DeliveryLog, Destination, DueDelivery, DueEndpoint, Endpoint,
    EndpointChange, EventToSend, NewEndpoint, Verdict,
};

/// The webhooks of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WebhookStore {
    database: Arc<Connections>,
}

impl WebhookStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        WebhookStore { database }
    }
}
