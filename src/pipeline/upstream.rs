//! The call itself. Charged -> Answered. Refuses nothing: a failure is an outcome, and is settled like one.

use std::sync::Arc;

use super::charge::Charged;
use super::gateway::Gateway;
use super::price::Generation;
use crate::config::{OnDisconnect, TokenLimitField};
use crate::upstream::{Answer, Client, Failure, UpstreamCall};

/// A request that the upstream has answered, or begun to, or not.
pub struct Answered {
    pub(super) charged: Box<Charged>,
    pub(super) upstream: Arc<str>,
    pub(super) result: Result<Answer, Failure>,
}

/// Forwards the request to the upstream of its group; test keys always to the sandbox.
pub(super) async fn forward(
    gateway: &Gateway,
    client: &Client,
    mut charged: Box<Charged>,
) -> Answered {
    let client_left = charged.arrival.client_left.take();
    let Charged { arrival, dialect, generation, token_limit, .. } = &*charged;
    let upstream = gateway.upstreams.of(arrival.group, charged.key.environment);
    let policy = gateway.upstreams.stream_policy(arrival.group);
    let is_stream = Generation::is_stream(generation.as_ref());
    let body = match generation {
        Some(_) => {
            let field = policy.token_limit_field.map(TokenLimitField::name);
            dialect.rewrite_request(&arrival.body, *token_limit, field, is_stream)
        }
        None => arrival.body.clone(),
    };
    let prompt_tokens = generation.as_ref().map(|generation| generation.request.prompt.counted);
    let call = UpstreamCall {
        id: arrival.id,
        method: &arrival.method,
        path: &arrival.path,
        query: arrival.query.as_deref(),
        headers: &arrival.headers,
        body,
        dialect: *dialect,
        is_stream,
        prompt_tokens,
    };
    let begun = std::time::Instant::now();
    let answered = upstream.call(client, call, gateway.clock.now());
    // Of a stream nothing is delivered before its first byte, so whoever leaves until then owes nothing; what
    // is to be kept for a repeat, or to be drained, is heard all the same.
    let may_be_abandoned =
        is_stream && charged.claim.is_none() && policy.on_disconnect == OnDisconnect::Cancel;
    let left = async {
        match client_left.filter(|_| may_be_abandoned) {
            Some(left) => drop(left.await),
            None => std::future::pending().await,
        }
    };
    let (name, result) = tokio::select! {
        biased;
        answered = answered => answered,
        () = left => (upstream.name(), Err(Failure::Abandoned)),
        () = gateway.readiness.stopped() => (upstream.name(), Err(Failure::Stopped)),
    };
    gateway.metrics.upstream(arrival.group, begun.elapsed());
    failpoint!("upstream-answered");
    Answered { upstream: name, charged, result }
}
