//! Requests with an `Idempotency-Key`: a repeat is answered here, before anything is priced or
//! charged.

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::authenticate::Received;
use super::departure::{Departure, ServedBody};
use super::gateway::Gateway;
use crate::idempotency::{self, Claim, Fingerprint, IdempotencyError, KeptAnswer};
use domain::Refusal;

/// Is a request the first with its idempotency key?
pub(super) enum FirstOrRepeat {
    /// Yes, or it has no such key.
    First(Option<Claim>),
    /// No; this is the recorded answer.
    Repeat(Box<Departure>),
}

/// Claims the idempotency key, or finds the recorded answer.
///
/// A call that only reads and costs nothing can be sent again as it is, so its answer is not kept:
/// nobody stores answers here for nothing.
pub(super) async fn begin(
    gateway: &Gateway,
    received: &Received,
) -> Result<FirstOrRepeat, Refusal> {
    let arrival = received.arrival();
    let Some(key) = arrival.idempotency_key else { return Ok(FirstOrRepeat::First(None)) };
    if arrival.method.is_safe() && received.is_free() {
        return Ok(FirstOrRepeat::First(None));
    }
    let query = arrival.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{}{query}", arrival.path);
    let fingerprint = Fingerprint::of(arrival.method.as_str(), &target, &arrival.body);
    // Boxed because few calls come here: the future of every call is as large as its largest part.
    match Box::pin(gateway.idempotency.begin(received.key().account, key, fingerprint)).await {
        Ok(idempotency::Begun::First(claim)) => Ok(FirstOrRepeat::First(Some(claim))),
        Ok(idempotency::Begun::Repeat(kept)) => Ok(FirstOrRepeat::Repeat(Box::new(replay(kept)))),
        Err(error) => Err(error.into()),
    }
}

impl From<IdempotencyError> for Refusal {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::Running => Refusal::RepeatTooEarly,
            IdempotencyError::OtherRequest => Refusal::RepeatDiffers,
            IdempotencyError::NotKept => Refusal::RepeatNotKept,
            IdempotencyError::Sealed => {
                tracing::error!("a recorded answer does not open: has the key pepper changed?");
                Refusal::RepeatNotKept
            }
            IdempotencyError::Store(error) => {
                tracing::error!(%error, "a recorded answer could not be looked up");
                Refusal::Unavailable("the database does not answer")
            }
        }
    }
}

fn replay(kept: KeptAnswer) -> Departure {
    let mut headers = HeaderMap::new();
    for (name, value) in &kept.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            headers.append(name, value);
        }
    }
    Departure {
        status: StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK),
        headers,
        body: ServedBody::Whole(kept.body),
        money: Vec::new(),
        is_replayed: true,
    }
}
