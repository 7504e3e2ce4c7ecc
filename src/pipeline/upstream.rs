//! Stage 6, the call to the upstream. ChargedCall -> Answered. It refuses nothing: a failure is an
//! outcome, and is settled like one.

use std::sync::Arc;

use super::charge::ChargedCall;
use super::deployments::{CallProgress, Went, ask};
use super::gateway::Gateway;
use crate::config::TokenLimitField;
use crate::upstream::dialect::KeptReasoning;
use crate::upstream::{Answer, Client, Failure, Sent, UpstreamCall};
use domain::Environment;

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

/// Forwards the request to a deployment of its model, or to the upstream of its group; test keys
/// always to the sandbox.
pub(super) async fn forward(
    gateway: &Gateway,
    client: &Client,
    mut charged: Box<ChargedCall>,
) -> Answered {
    let client_left = charged.take_client_left();
    let (group, generation) = (charged.arrival().group, charged.generation());
    let policy = gateway.upstreams.stream_policy(group);
    let sent = Sent::default();
    let begun = std::time::Instant::now();
    // Before the first byte of a stream a client that leaves owes the prompt. The call goes on if
    // the answer is recorded for a repeat, or if the upstream is heard to its usage.
    let is_heard_out =
        generation.is_some_and(|generation| generation.is_heard_out(policy.on_disconnect));
    let may_be_abandoned = charged.is_stream() && !charged.has_claim() && !is_heard_out;
    let left = async {
        match client_left.filter(|_| may_be_abandoned) {
            Some(left) => drop(left.await),
            None => std::future::pending().await,
        }
    };
    let ended = async {
        tokio::select! {
            biased;
            () = left => Failure::Abandoned,
            () = gateway.readiness.stopped() => Failure::Stopped,
        }
    };
    let model = charged.model().filter(|_| charged.key().environment == Environment::Live);
    let (name, result) = if let Some(model) = model {
        let progress = CallProgress::default();
        let asking = Box::pin(ask(gateway, client, &charged, model, &sent, &progress));
        let result = tokio::select! {
            biased;
            answered = asking => answered,
            failure = ended => Err(failure),
        };
        let Went { name, served, rows, held, other } = progress.went();
        gateway.attempts.record(rows);
        if let Some(held) = held {
            charged.set_held(held);
        }
        if let Some(other) = other {
            charged.set_other(other);
        }
        if let Some(by) = &served.by {
            charged.set_served(by.convention());
        }
        charged.set_served_by(served);
        (name, result)
    } else {
        let upstream = gateway.upstreams.of(group, charged.key().environment);
        let call = of_group(gateway, &charged, &sent);
        tokio::select! {
            biased;
            answered = upstream.call(client, call, gateway.clock.now()) => answered,
            failure = ended => (upstream.name(), Err(failure)),
        }
    };
    gateway.metrics.upstream(group, begun.elapsed());
    failpoint!("upstream-answered");
    Answered { upstream: name, charged, result, is_sent: sent.get() }
}

/// The call to the upstream of its group.
fn of_group<'c>(gateway: &Gateway, charged: &'c ChargedCall, sent: &'c Sent) -> UpstreamCall<'c> {
    let (arrival, generation) = (charged.arrival(), charged.generation());
    let is_stream = charged.is_stream();
    let body = match generation {
        Some(generation) => {
            let policy = gateway.upstreams.stream_policy(arrival.group);
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
    UpstreamCall {
        id: arrival.id,
        method: &arrival.method,
        path: &arrival.path,
        query: arrival.query.as_deref(),
        headers: &arrival.headers,
        body,
        dialect: charged.dialect(),
        is_stream,
        prompt_tokens: generation.map(|generation| generation.request.prompt.counted),
        sent,
    }
}
