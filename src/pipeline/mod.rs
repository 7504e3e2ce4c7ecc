//! The way of a paid request, from its arrival to its departure: six stages in the chapter's order.
//!
//! [`serve`] is the contract: one plain function, awaits in order. Each stage takes what the stage before
//! it made, and only that stage can make it (the fields are private), so a stage cannot be skipped and the
//! order cannot change without a compile error. A stage either hands on or refuses; the first refusal is
//! the answer.
//!
//! ```text
//! Arrival -> Admitted -> Caller -> Quoted -> Charged -> Answered -> Departure
//! ```
//!
//! The whole runs in a task that the client's connection cannot cancel: whoever was charged is also
//! settled, whether the client is still there or not. A stream's end runs in a task of its own (`relay.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::Instrument as _;

use crate::upstream::Client;
use domain::Refusal;

mod authenticate;
mod charge;
mod departure;
mod gateway;
mod meter;
mod price;
pub mod quote;
mod rate_limit;
mod readiness;
mod relay;
mod repeat;
mod request;
mod settle;
mod upstream;

pub use departure::{Body, Departure, Money, StreamBody};
pub use gateway::Gateway;
pub use quote::Quote;
pub use readiness::{Bounds, Permit, Readiness, Running};
pub use request::{Arrival, Notes, Served};

/// A stage in a span of its own, within that of its request. Pinned where it stands: a stage is kilobytes, which a span
/// around it would move.
macro_rules! stage {
    ($name:literal, $kind:literal, $work:expr) => {
        std::pin::pin!($work)
            .instrument(
                tracing::info_span!(target: crate::telemetry::SPANS, $name, otel.kind = $kind),
            )
            .await
    };
}

/// The whole life of a paid request. Read `lib.rs` for the picture.
pub async fn serve(
    gateway: Arc<Gateway>,
    client: Client,
    arrival: Box<Arrival>,
) -> Served<Departure> {
    let mut notes = Notes::default();
    let result = stages(&gateway, &client, arrival, &mut notes).await;
    match &result {
        Ok(_) => {
            gateway.metrics.calls.fetch_add(1, Ordering::Relaxed);
        }
        Err(refusal) => gateway.metrics.refuse(refusal),
    }
    Served { result, notes }
}

async fn stages(
    gateway: &Arc<Gateway>,
    client: &Client,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<Departure, Refusal> {
    let caller = stage!("authenticate", "internal", identified(gateway, arrival, notes))?;
    let claim = match stage!("repeat", "internal", repeat::begin(gateway, &caller))? {
        repeat::Begun::Repeat(departure) => return Ok(*departure),
        repeat::Begun::First(claim) => claim,
    };
    let quoted = stage!("price", "internal", price::quote(gateway, caller))?;
    let charged = stage!("charge", "internal", charge::charge(gateway, quoted, claim))?;
    let answered = stage!("upstream", "client", upstream::forward(gateway, client, charged));
    stage!("settle", "internal", settle::close(gateway, answered, notes))
}

/// What a paid request would cost, and whether it would be admitted. Charges nothing.
pub async fn quote(gateway: Arc<Gateway>, arrival: Box<Arrival>) -> Served<Quote> {
    let mut notes = Notes::default();
    let result = quote_stages(&gateway, arrival, &mut notes).await;
    Served { result, notes }
}

async fn quote_stages(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<Quote, Refusal> {
    let caller = identified(gateway, arrival, notes).await?;
    let quoted = price::quote(gateway, caller).await?;
    quote::look(gateway, quoted).await
}

async fn identified(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    notes: &mut Notes,
) -> Result<authenticate::Caller, Refusal> {
    let admitted = rate_limit::admit(gateway, arrival, notes)?;
    let caller = authenticate::identify(gateway, admitted, notes).await?;
    // The second half of rate limiting: by key and account, which only now are known.
    meter::meter(gateway, &caller, notes)?;
    authenticate::permit(&caller)?;
    Ok(caller)
}
