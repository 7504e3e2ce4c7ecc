//! Stage 6, the call to the upstream. ChargedCall -> Answered. It refuses nothing: a failure is an
//! outcome, and is settled like one.

use std::sync::Arc;

use super::charge::ChargedCall;
use super::gateway::Gateway;
use crate::config::TokenLimitField;
use crate::upstream::dialect::KeptReasoning;
use crate::upstream::{Answer, Client, Failure, Sent, UpstreamCall};

/// A request that went to the upstream, with the answer or the failure.
pub struct Answered {
    charged: Box<ChargedCall>,
    upstream: Arc<str>,
    result: Result<Answer, Failure>,
    is_sent: bool,
}

impl Answered {
    /// Does the upstream have the request?
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// The charged request, the name of the upstream, and its answer.
    pub(super) fn into_parts(self) -> (Box<ChargedCall>, Arc<str>, Result<Answer, Failure>) {
        (self.charged, self.upstream, self.result)
    }
}

/// Forwards the request to the upstream of its group; test keys always to the sandbox.
pub(super) async fn forward(
    gateway: &Gateway,
    client: &Client,
    mut charged: Box<ChargedCall>,
) -> Answered {
    let client_left = charged.take_client_left();
    let (arrival, generation) = (charged.arrival(), charged.generation());
    let upstream = gateway.upstreams.of(arrival.group, charged.key().environment);
    let policy = gateway.upstreams.stream_policy(arrival.group);
    let is_stream = charged.is_stream();
    let body = match generation {
        Some(generation) => {
            let field = policy.token_limit_field.map(TokenLimitField::name);
            let (dialect, limit) = (charged.dialect(), charged.token_limit());
            let body = match generation.request.kept_reasoning {
                KeptReasoning::None => arrival.body.clone(),
                KeptReasoning::LeftOut => dialect.without_kept_reasoning(&arrival.body),
            };
            dialect.rewrite_request(&body, limit, field, is_stream)
        }
        None => arrival.body.clone(),
    };
    let prompt_tokens = generation.map(|generation| generation.request.prompt.counted);
    let sent = Sent::default();
    let call = UpstreamCall {
        id: arrival.id,
        method: &arrival.method,
        path: &arrival.path,
        query: arrival.query.as_deref(),
        headers: &arrival.headers,
        body,
        dialect: charged.dialect(),
        is_stream,
        prompt_tokens,
        sent: &sent,
    };
    let begun = std::time::Instant::now();
    let answered = upstream.call(client, call, gateway.clock.now());
    // Before the first byte of a stream a client that leaves owes the prompt. The call goes on if
    // the answer is recorded for a repeat, or if the upstream is heard to its usage.
    let is_heard_out =
        generation.is_some_and(|generation| generation.is_heard_out(policy.on_disconnect));
    let may_be_abandoned = is_stream && !charged.has_claim() && !is_heard_out;
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
    Answered { upstream: name, charged, result, is_sent: sent.get() }
}
