//! The bill of a call, for whole answers and streams alike: what is held for it, the tokens that it
//! is billed for, its usage record, and the wait for its commit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::charge::ChargedCall;
use super::gateway::Gateway;
use super::price::Generation;
use crate::actors::account::{wait, wait_within};
use crate::actors::ledger::{Acknowledgement, WriteError};
use crate::idempotency::Claim;
use crate::tokens::{self, TextCounter, vocabulary};
use crate::upstream::{Reported, TokenUsage};
use domain::Refusal;
use domain::usage::model_name;
use domain::{Credits, Ending, Extension, Tally, UsageRecord};

/// Upstreams have tokenizers of their own, so their counts may differ from ours by this factor and
/// by this many tokens.
const TOLERANCE: u64 = 2;
const TOLERANCE_TOKENS: u64 = 64;
/// Estimate for a text that could not be counted.
const BYTES_PER_TOKEN: usize = 4;

/// The most tokens that an upstream is believed to count if we count so many.
pub(super) fn tolerated(tokens: u64) -> u64 {
    tokens.saturating_mul(TOLERANCE).saturating_add(TOLERANCE_TOKENS)
}

/// Extends the hold if the upstream reports more usage than is held for. If the report is
/// believable, all of it is held, as far as the account covers it; otherwise no more than the
/// request allowed. The prompt of a believable report is within [`tolerated`].
pub(super) async fn hold_owed(gateway: &Gateway, charged: &mut ChargedCall, cost: Credits) {
    let Some(Generation { demand, .. }) = charged.generation() else { return };
    let limit = charged.token_limit().unwrap_or(demand.completion_tokens_max);
    let completion = limit.saturating_mul(demand.choices);
    let with = |prompt: u64| charged.rule().cost(completion.saturating_add(prompt));
    let prompt = demand.prompt_tokens_max;
    let (most, believable) = (with(prompt), with(tolerated(prompt)));
    let want = if believable.is_some_and(|most| cost <= most) { Some(cost) } else { most };
    let want = want.unwrap_or(Credits::ZERO);
    let is_short = want > charged.held();
    let Some(account) = charged.account().filter(|_| is_short) else { return };
    let extension = Extension::Owed { want };
    // Declined or not: what is held then can be captured.
    let Ok(receipt) = account.extend(charged.id(), extension).await else { return };
    if let Ok(Ok(held)) = tokio::time::timeout(gateway.commit_timeout, receipt.wait()).await {
        charged.set_held(held);
    }
}

/// The tokens that a complete answer is billed for: what the upstream reports if it is plausible;
/// otherwise the prompt and the delivered text are counted.
pub(super) async fn tally(
    charged: &ChargedCall,
    reported: Reported,
    body: &Bytes,
) -> (TokenUsage, Tally) {
    let Some(Generation { request, .. }) = charged.generation() else {
        return match reported {
            Reported::Given(usage) => (usage, Tally::Reported),
            _ => (TokenUsage::default(), Tally::Reported),
        };
    };
    let tally = match reported {
        Reported::Given(usage) => return (usage, Tally::Reported),
        Reported::Missing => Tally::Counted,
        Reported::Absurd => Tally::Absurd,
    };
    let (dialect, model, body) = (charged.dialect(), request.model.clone(), body.clone());
    let bytes = body.len();
    let work = move || {
        let mut counter = TextCounter::new(vocabulary(model.as_deref()));
        counter.push(&dialect.answer_text(&body));
        counter.total()
    };
    let estimate = || u64::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u64::MAX);
    let completion = tokens::count_off_thread(bytes, work).await.unwrap_or_else(estimate);
    (TokenUsage::new(request.prompt.counted, completion), tally)
}

/// The usage record of a call, before it is settled.
pub(super) fn usage_record(
    gateway: &Gateway,
    charged: &ChargedCall,
    upstream: &Arc<str>,
    status: u16,
) -> UsageRecord {
    let (arrival, rule, key) = (charged.arrival(), charged.rule(), charged.key());
    UsageRecord {
        id: arrival.id,
        account: key.account,
        seq: None,
        key: key.key,
        method: rule.method.clone().unwrap_or_else(|| method_name(&arrival.method).into()),
        route: rule.path.clone(),
        model: model_of(charged),
        upstream: Arc::clone(upstream),
        status,
        cost: Credits::ZERO,
        prompt_tokens: 0,
        completion_tokens: 0,
        ending: Ending::Completed,
        tally: Tally::Reported,
        started_at: arrival.at,
        latency_micros: gateway.clock.now().micros_since(arrival.at),
    }
}

/// The method in a usage record. Clients can invent methods; those are recorded as `*`.
fn method_name(method: &actix_web::http::Method) -> &str {
    use actix_web::http::Method;
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    if known.contains(method) { method.as_str() } else { "*" }
}

/// The model that a call asked for.
fn model_of(charged: &ChargedCall) -> Arc<str> {
    let named = charged.generation().and_then(|generation| generation.request.model.as_deref());
    match named {
        Some(name) => model_name(name),
        None => Arc::from(""),
    }
}

/// Waits until the debit and the end of the charge are durable. The claim on an idempotency key is
/// held until the outcome is known, however long that takes.
pub(super) async fn wait_committed(
    patience: Duration,
    debit: Option<Acknowledgement>,
    end: Option<Acknowledgement>,
    claim: Option<Arc<Claim>>,
) -> Result<(), Refusal> {
    if debit.is_none() && end.is_none() {
        return Ok(());
    }
    let both = async move {
        match wait(debit).await {
            Ok(()) => wait(end).await,
            Err(error) => Err(error),
        }
    };
    match wait_within(patience, both, claim).await {
        Some(Ok(())) => Ok(()),
        // The upstream has done its work, and of a debit and its refund one may be committed.
        Some(Err(WriteError::Fenced)) => {
            Err(Refusal::OutcomeUnknown("another process owns the accounts"))
        }
        Some(Err(WriteError::Refused)) => {
            Err(Refusal::OutcomeUnknown("the database refused the charge"))
        }
        Some(Err(WriteError::Lost)) => Err(Refusal::OutcomeUnknown("the ledger writer is gone")),
        None => Err(Refusal::OutcomeUnknown("the commit takes too long")),
    }
}
