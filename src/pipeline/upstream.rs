//! The call itself. Charged -> Answered. Refuses nothing: a failure is an outcome, and is settled like one.

use std::sync::Arc;

use super::Gateway;
use super::charge::Charged;
use super::price::Generation;
use crate::upstream::{Answer, Call, Failure};

/// A request that the upstream has answered, or begun to, or not.
pub struct Answered {
    pub(super) charged: Charged,
    pub(super) upstream: Arc<str>,
    pub(super) result: Result<Answer, Failure>,
}

/// Forwards the request to the upstream of its group; test keys always to the sandbox.
pub(super) async fn forward(
    gateway: &Gateway,
    client: &reqwest::Client,
    charged: Charged,
) -> Answered {
    let Charged { arrival, dialect, generation, token_limit, .. } = &charged;
    let upstream = gateway.upstreams.of(arrival.group, charged.key.environment);
    let is_stream = Generation::is_stream(generation.as_ref());
    let body = match generation {
        Some(_) => {
            let field = gateway.upstreams.stream_policy(arrival.group).token_limit_field.name();
            dialect.told(&arrival.body, *token_limit, field, is_stream)
        }
        None => arrival.body.clone(),
    };
    let call = Call { arrival, body, dialect: *dialect, is_stream };
    let (name, result) = upstream.call(client, call, gateway.clock.now()).await;
    Answered { upstream: name, charged, result }
}
