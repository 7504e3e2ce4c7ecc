//! The rows of webhook endpoints and their deliveries.

use domain::delivery::DeliveryStatus;
use domain::{AccountId, DeliveryId, EndpointId, Environment, EventId, EventKind, Timestamp};

/// An endpoint as stored.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The account whose events it receives.
    pub account: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Its URL.
    pub url: String,
    /// Its description.
    pub description: String,
    /// The events it receives; `None` is all.
    pub events: Option<Vec<String>>,
    /// Does it receive events?
    pub is_enabled: bool,
    /// When the server switched it off because deliveries failed.
    pub switched_off_at: Option<Timestamp>,
    /// When its first delivery failed since the last successful one.
    pub failing_since: Option<Timestamp>,
    /// Until when deliveries are also signed with its former secret.
    pub former_until: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// An endpoint's URL and its encrypted secrets.
#[derive(Clone)]
pub struct Destination {
    /// The URL.
    pub url: String,
    /// The encrypted secret.
    pub secret: Vec<u8>,
    /// The encrypted former secret, while it is still used.
    pub former: Option<Vec<u8>>,
}

/// An endpoint to be stored.
pub struct NewEndpoint {
    /// Its public fields.
    pub endpoint: Endpoint,
    /// The encrypted secret.
    pub secret: Vec<u8>,
}

/// A change of an endpoint. `None` leaves a part as it is.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// The URL.
    pub url: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// The events it receives; `Some(None)` is all.
    pub events: Option<Option<Vec<String>>>,
    /// Does it receive events?
    pub is_enabled: Option<bool>,
}

/// An endpoint with a due delivery.
#[derive(Clone, Copy, Debug)]
pub struct DueEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// Its account.
    pub account: AccountId,
    /// Has it failed since its last successful delivery?
    pub is_failing: bool,
}

/// A delivery that is due.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The account.
    pub account: AccountId,
    /// Number of attempts so far.
    pub attempts: i32,
    /// The event.
    pub event: EventId,
    /// The name of the event's kind.
    pub kind: String,
}

/// The content of an event.
#[derive(Clone, Debug)]
pub struct EventToSend {
    /// When it happened.
    pub at: Timestamp,
    /// Further fields, as a JSON object.
    pub data: String,
}

/// One attempt of a delivery.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it was made.
    pub at: Timestamp,
    /// The HTTP status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    pub answer: String,
    /// How long it took, in microseconds.
    pub latency_micros: i64,
}

/// The state of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was accepted.
    Delivered,
    /// The next attempt is at this time.
    Again(Timestamp),
    /// No attempt follows.
    GivenUp,
}

/// Which deliveries of a list. Each field that is set leaves fewer.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter {
    /// Of this status.
    pub status: Option<DeliveryStatus>,
    /// Of an event of this kind.
    pub kind: Option<EventKind>,
}

/// A delivery with its attempts.
#[derive(Clone, Debug)]
pub struct DeliveryLog {
    /// Its id.
    pub id: DeliveryId,
    /// The event.
    pub event: EventId,
    /// The name of the event's kind.
    pub kind: String,
    /// Its status.
    pub status: DeliveryStatus,
    /// When the next attempt is; `None` if there is none.
    pub next_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its attempts, in order.
    pub attempts: Vec<Attempt>,
}
