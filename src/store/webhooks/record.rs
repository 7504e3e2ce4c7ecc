//! The rows of webhook endpoints and their deliveries.

use domain::delivery::DeliveryStatus;
use domain::{AccountId, DeliveryId, EndpointId, Environment, EventId, Timestamp};

/// An endpoint as stored.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The account whose events it receives.
    pub account: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Where it is.
    pub url: String,
    /// Its description.
    pub description: String,
    /// The events it receives; `None` is all.
    pub events: Option<Vec<String>>,
    /// Does it receive events?
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

/// An endpoint's URL and its encrypted secrets.
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

/// A change of an endpoint; `None` leaves a part as it is.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// Where it is.
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
    /// Attempts so far.
    pub attempts: i32,
    /// Of which event.
    pub event: EventId,
    /// Its kind.
    pub kind: String,
}

/// The content of an event.
#[derive(Clone, Debug)]
pub struct EventToSend {
    /// When it happened.
    pub at: Timestamp,
    /// The rest, as JSON.
    pub data: String,
}

/// One attempt of a delivery.
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

/// The next state of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was accepted.
    Delivered,
    /// It is retried at this time.
    Again(Timestamp),
    /// It is given up.
    GivenUp,
}

/// A delivery with its attempts.
#[derive(Clone, Debug)]
pub struct DeliveryLog {
    /// Its id.
    pub id: DeliveryId,
    /// Of which event.
    pub event: EventId,
    /// The event's kind.
    pub kind: String,
    /// Its status.
    pub status: DeliveryStatus,
    /// When it is attempted next.
    pub next_at: Option<Timestamp>,
    /// When it was written.
    pub created_at: Timestamp,
    /// Its attempts, in order.
    pub attempts: Vec<Attempt>,
}
