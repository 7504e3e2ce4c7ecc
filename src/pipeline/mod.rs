//! The path of a paid request through the gateway: seven stages, in the order of the API's
//! contract.
//!
//! [`serve`] is one plain function with awaits in order. Each stage takes the output of the stage
//! before it, and returns its own output or a refusal; the first refusal is the answer. The output
//! of a stage has private fields, so only that stage can make it: a stage cannot be skipped, and
//! the order cannot change, without a compile error.
//!
//! ```text
//! Arrival -> Admitted -> Caller -> Received -> Quoted -> ChargedCall -> Answered -> Departure
//! ```
//!
//! A charge cannot be forged. This does not compile (E0451, the fields are private), not even from
//! another charge:
//!
//! ```compile_fail,E0451
//! fn forge(call: polysystems::pipeline::ChargedCall) -> polysystems::pipeline::ChargedCall {
//!     polysystems::pipeline::ChargedCall { ..call }
//! }
//! ```
//!
//! The same function compiles without the forgery:
//!
//! ```
//! fn keep(call: polysystems::pipeline::ChargedCall) -> polysystems::pipeline::ChargedCall {
//!     call
//! }
//! ```
//!
//! [`identify`] comes before the body: nobody reads the body of a stranger's call, and it takes no
//! place. From there on all stages run in a task that the client's connection cannot cancel: a
//! request that was charged is also settled, whether or not the client is still there. The end of a
//! stream runs in a task of its own (`relay/`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::Instrument as _;

use crate::upstream::Client;
use domain::Refusal;

mod admission;
mod authenticate;
mod beside;
mod bill;
mod by_model;
mod charge;
mod counting;
mod departure;
mod deployments;
mod gateway;
mod meter;
mod oddity;
mod offer;
mod price;
pub mod quote;
mod rate_limit;
mod relay;
mod repeat;
mod request;
mod session;
mod settle;
mod spans;
mod upstream;

pub use admission::{
    Admission, AdmissionLimits, BodyOf, BodyPermit, DOCUMENT_BODY_MAX, OPERATOR_BODY_MAX, Permit,
    Running, account_bytes_max,
};
pub use authenticate::{Caller, Received};
pub use charge::ChargedCall;
pub use counting::Counting;
pub use departure::{Departure, Money, ServedBody, StreamBody};
pub use gateway::{Gateway, price_list_of_key};
pub use oddity::OddUsages;
pub use offer::{Offer, OfferedModel};
pub use price::Quoted;
pub use quote::Quote;
pub use rate_limit::Admitted;

pub use request::{Arrival, Paying, RequestContext, Served};
pub use upstream::Answered;

/// Runs a stage in a span of its own, within that of its request. The stage is pinned in place,
/// because it is kilobytes that a span around it would move.
macro_rules! stage {
    ($name:literal, $kind:literal, $work:expr) => {
        pin!($work)
            .instrument(
                tracing::info_span!(target: crate::telemetry::SPANS, $name, otel.kind = $kind),
            )
            .await
    };
}

/// Finds out whose request it is, and whether it is within the rate limits: first by its address,
/// then by its key and account.
pub async fn identify(gateway: &Gateway, arrival: Box<Arrival>) -> Served<Caller> {
    let mut context = RequestContext::default();
    let result = stage!("authenticate", "internal", identified(gateway, arrival, &mut context));
    if let Err(refusal) = &result {
        gateway.metrics.refuse(refusal);
    }
    Served { result, context }
}

/// Serves a paid request whose caller is known and whose body is there, to its answer.
pub async fn serve(
    gateway: Arc<Gateway>,
    client: Client,
    received: Received,
    mut context: RequestContext,
) -> Served<Departure> {
    let result = stages(&gateway, &client, received, &mut context).await;
    match &result {
        Ok(_) => {
            gateway.metrics.calls.fetch_add(1, Ordering::Relaxed);
        }
        Err(refusal) => gateway.metrics.refuse(refusal),
    }
    Served { result, context }
}

async fn stages(
    gateway: &Arc<Gateway>,
    client: &Client,
    received: Received,
    context: &mut RequestContext,
) -> Result<Departure, Refusal> {
    // A recorded answer is for keys that may use its model, like any other.
    price::permit_named_models(gateway, &received)?;
    let claim = match stage!("repeat", "internal", repeat::begin(gateway, &received))? {
        repeat::FirstOrRepeat::Repeat(departure) => return Ok(*departure),
        repeat::FirstOrRepeat::First(claim) => claim,
    };
    let quoted = stage!("price", "internal", price::quote(gateway, received))?;
    let mut charged = stage!("charge", "internal", charge::charge(gateway, quoted, claim))?;
    let span = charged.begin_span();
    let answered = pin!(upstream::forward(gateway, client, charged)).instrument(span).await;
    stage!("settle", "internal", settle::close(gateway, answered, context))
}

/// A dry run: the cost of a request, and whether it would be accepted. Charges nothing.
pub async fn quote(
    gateway: &Gateway,
    received: Received,
    context: RequestContext,
) -> Served<Quote> {
    let result = async {
        let quoted = price::quote(gateway, received).await?;
        quote::estimate(gateway, quoted).await
    };
    Served { result: result.await, context }
}

async fn identified(
    gateway: &Gateway,
    arrival: Box<Arrival>,
    context: &mut RequestContext,
) -> Result<authenticate::Caller, Refusal> {
    let admitted = rate_limit::admit(gateway, arrival, context)?;
    let caller = authenticate::identify(gateway, admitted, context).await?;
    // The second half of rate limiting, by key and account, which are known only now.
    meter::meter(gateway, &caller, context)?;
    authenticate::permit(&caller)?;
    Ok(caller)
}
