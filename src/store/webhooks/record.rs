//! The rows of webhook endpoints and their deliveries.

use domain::delivery::DeliveryStatus;
use domain::{AccountId, DeliveryId, EndpointId, Environment, EventId, Timestamp};

/// An endpoint as stored.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose events it is told.
    pub account: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Where it is.
    pub url: String,
    /// What its owner says of it.
    pub description: String,
    /// Which events it is told; `None` is all.
    pub events: Option<Vec<String>>,
    /// Is it told anything?
    pub is_enabled: bool,
    /// When the server switched it off, since it did not answer.
    pub switched_off_at: Option<Timestamp>,
    /// Since when it has failed.
    pub failing_since: Option<Timestamp>,
    /// Until when its former secret signs as well.
    pub former_until: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where an endpoint is, and what signs its deliveries, sealed.
#[derive(Clone)]
pub struct Destination {
    /// Where.
    pub url: String,
    /// The secret.
    pub secret: Vec<u8>,
    /// The one before, while it is good.
    pub former: Option<Vec<u8>>,
}

/// An endpoint to be stored.
pub struct NewEndpoint {
    /// As it will be seen.
    pub endpoint: Endpoint,
    /// Its secret, sealed.
    pub secret: Vec<u8>,
}

/// A change of an endpoint; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// Where it is.
    pub url: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Which events it is told; `None` inside is all.
    pub events: Option<Option<Vec<String>>>,
    /// Is it told anything?
    pub is_enabled: Option<bool>,
}

/// An endpoint for which something is due.
#[derive(Clone, Copy, Debug)]
pub struct DueEndpoint {
    /// Which.
    pub id: EndpointId,
    /// Whose.
    pub account: AccountId,
}

/// A delivery that is due.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// To whom.
    pub endpoint: EndpointId,
    /// Whose.
    pub account: AccountId,
    /// Tries so far.
    pub attempts: i32,
    /// Of which event.
    pub event: EventId,
    /// Its kind.
    pub kind: String,
}

/// What a delivery tells, as it is now.
#[derive(Clone, Debug)]
pub struct EventToSend {
    /// When it happened.
    pub at: Timestamp,
    /// The rest, as JSON.
    pub data: String,
}

/// One try of a delivery.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// The status answered, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// How the answer began.
    pub answer: String,
    /// How long it took, in microseconds.
    pub latency_micros: i64,
}

/// What becomes of a delivery after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Delivered,
    /// It is tried again then.
    Again(Timestamp),
    /// It is given up.
    GivenUp,
}

/// A delivery with its tries.
#[derive(Clone, Debug)]
pub struct DeliveryLog {
    /// Its id.
    pub id: DeliveryId,
    /// Of which event.
    pub event: EventId,
    /// The event's kind.
    pub kind: String,
    /// How far it has come.
    pub status: DeliveryStatus,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
    /// When it was written.
    pub created_at: Timestamp,
    /// Its tries, in order.
    pub attempts: Vec<Attempt>,
}
