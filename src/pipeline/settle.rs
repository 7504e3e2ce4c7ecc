//! Settlement. Answered -> Departure: captures or refunds, records the usage, and lets the answer go only
//! when its money is on record. A stream goes on to [`relay`], which settles it at its end.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;

use super::charge::Charged;
use super::departure::Departure;
use super::departure::{Body, Money, kept};
use super::gateway::Gateway;
use super::price::Generation;
use super::relay;
use super::request::Notes;
use super::upstream::Answered;
use crate::actors::account::{Record, wait, wait_within};
use crate::actors::ledger::{Acknowledgement, WriteError};
use crate::idempotency::Claim;
use crate::tokens::{TextCounter, vocabulary};
use crate::upstream::{AnswerBody, Failure, Reported, TokenUsage};
use domain::Refusal;
use domain::usage::model_name;
use domain::{Credits, Ending, Extension, Outcome, Settled, Tally, UsageRecord};

/// See [`hold_what_is_owed`].
const PROMPT_TOLERANCE: u64 = 2;
const PROMPT_TOLERANCE_TOKENS: u64 = 64;
/// Above this an answer's text is counted beside the HTTP thread.
const INLINE_BYTES_MAX: usize = 4 * 1024;
/// What a token is taken for where a text could not be counted.
const BYTES_PER_TOKEN: usize = 4;

/// Ends the charge, or hands its stream on.
pub(super) async fn close(
    gateway: &Arc<Gateway>,
    answered: Answered,
    notes: &mut Notes,
) -> Result<Departure, Refusal> {
    let Answered { charged, upstream, result } = answered;
    match result {
        Ok(answer) => match answer.body {
            AnswerBody::Stream(stream) => {
                let head = (answer.status, answer.headers);
                Box::pin(relay::open(gateway, charged, upstream, head, stream)).await
            }
            AnswerBody::Whole(body) => {
                let whole =
                    Whole { status: answer.status, headers: answer.headers, body, upstream };
                close_whole(gateway, charged, whole, answer.reported, notes).await
            }
        },
        Err(failure) => {
            let usage = usage_record(gateway, &charged, &upstream, failure.status());
            let ending = match failure {
                Failure::Abandoned => Ending::ClientLeft,
                Failure::Stopped => Ending::ServerStopped,
                _ => Ending::Failed,
            };
            let usage = UsageRecord { ending, ..usage };
            settle(gateway, charged, Outcome::Failed, usage, None, notes).await?;
            Err(match failure {
                Failure::TimedOut => Refusal::UpstreamTimedOut,
                Failure::Broken(reason) => Refusal::UpstreamFailed(reason),
                Failure::Abandoned => Refusal::ClientLeft,
                Failure::Stopped => Refusal::Stopped,
            })
        }
    }
}

/// An answer that came whole.
#[derive(Clone)]
struct Whole {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    upstream: Arc<str>,
}

async fn close_whole(
    gateway: &Gateway,
    mut charged: Box<Charged>,
    whole: Whole,
    reported: Reported,
    notes: &mut Notes,
) -> Result<Departure, Refusal> {
    let (usage, tally) = tally(&charged, reported, &whole.body).await;
    let record = usage_record(gateway, &charged, &whole.upstream, whole.status.as_u16());
    let (prompt_tokens, completion_tokens) = (usage.prompt, usage.completion);
    let mut record = UsageRecord { prompt_tokens, completion_tokens, tally, ..record };
    // What the upstream refused was not delivered either, and costs nothing.
    let is_delivered = whole.status.is_success();
    let outcome = if is_delivered {
        let cost = charged.rule.cost(usage.total()).unwrap_or(Credits::MAX);
        hold_what_is_owed(gateway, &mut charged, cost).await;
        if charged.generation.is_some() && cost > charged.terms.held {
            record.tally = Tally::Clamped;
            tracing::warn!(charge = %charged.open.id, %cost, held = %charged.terms.held, "clamped");
        }
        Outcome::Delivered { cost }
    } else {
        record.ending = Ending::Failed;
        Outcome::Failed
    };
    let money = Money {
        charge: Some(charged.open.id),
        upstream: Arc::clone(&whole.upstream),
        max_tokens: charged.token_limit,
        ..Money::default()
    };
    let claim = charged.claim.take().map(Arc::new);
    // Only what was delivered is recorded; anything else may be tried again.
    let recording = claim.clone().filter(|_| is_delivered).map(|claim| {
        let (reference, at) = (charged.open.id.0, gateway.clock.now());
        let (whole, money) = (whole.clone(), money.clone());
        let make = move |settled: &Settled| {
            let money = told(money, settled).headers();
            let answer = kept(whole.status, &whole.headers, &money, whole.body);
            claim.record(reference, Some(&answer), at)
        };
        let record: Record = Box::new(make);
        record
    });
    let recording = recording.map(|record| (record, claim));
    let settled = settle(gateway, charged, outcome, record, recording, notes).await?;
    Ok(Departure {
        status: whole.status,
        headers: whole.headers,
        body: Body::Whole(whole.body),
        money: told(money, &settled).headers(),
        is_replayed: false,
    })
}

/// The upstream says that it took more than is held. Where that can be believed it is held as well, as far as
/// there is room, before it is captured; else no more than the request allowed. A prompt can be believed up to
/// twice our own count, since upstreams have tokenizers of their own.
pub(super) async fn hold_what_is_owed(gateway: &Gateway, charged: &mut Charged, cost: Credits) {
    let Some(Generation { demand, .. }) = &charged.generation else { return };
    let limit = charged.token_limit.unwrap_or(demand.completion_tokens_max);
    let completion = limit.saturating_mul(demand.choices);
    let with = |prompt: u64| charged.rule.cost(completion.saturating_add(prompt));
    let prompt = demand.prompt_tokens_max;
    let tolerated = prompt.saturating_mul(PROMPT_TOLERANCE).saturating_add(PROMPT_TOLERANCE_TOKENS);
    let (most, believable) = (with(prompt), with(tolerated));
    let want = if believable.is_some_and(|most| cost <= most) { Some(cost) } else { most };
    let want = want.unwrap_or(Credits::ZERO);
    let is_short = want > charged.terms.held;
    let Some(account) = charged.open.account.as_ref().filter(|_| is_short) else { return };
    let extension = Extension::Owed { want };
    // Declined or not: what is held by then is what can be captured.
    let Ok(receipt) = account.extend(charged.open.id, extension).await else { return };
    if let Ok(Ok(held)) = tokio::time::timeout(gateway.commit_timeout, receipt.wait()).await {
        charged.terms.held = held;
    }
}

/// What an answer says of the money, once that is settled.
fn told(money: Money, settled: &Settled) -> Money {
    let (cost, balance) = (Some(settled.cost), Some(settled.balance));
    Money { cost, balance, left: settled.left, ..money }
}

/// The tokens that a whole answer is billed for. What the upstream reports is the truth where it makes sense;
/// else the prompt and the delivered text are counted.
async fn tally(charged: &Charged, reported: Reported, body: &Bytes) -> (TokenUsage, Tally) {
    let Some(Generation { ask, .. }) = &charged.generation else {
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
    let (dialect, model, body) = (charged.dialect, ask.model.clone(), body.clone());
    let is_small = body.len() <= INLINE_BYTES_MAX;
    let estimate = u64::try_from(body.len() / BYTES_PER_TOKEN).unwrap_or(u64::MAX);
    let work = move || {
        let mut counter = TextCounter::new(vocabulary(model.as_deref()));
        counter.push(&dialect.answer_text(&body));
        counter.total()
    };
    let completion =
        if is_small { work() } else { tokio::task::spawn_blocking(work).await.unwrap_or(estimate) };
    (TokenUsage::new(ask.prompt.counted, completion), tally)
}

/// What a call did, as far as it is known before it is settled.
pub(super) fn usage_record(
    gateway: &Gateway,
    charged: &Charged,
    upstream: &Arc<str>,
    status: u16,
) -> UsageRecord {
    let Charged { arrival, rule, key, .. } = charged;
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

/// The name under which a method is kept: a client may make up any.
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
fn model_of(charged: &Charged) -> Arc<str> {
    let named = charged.generation.as_ref().and_then(|generation| generation.ask.model.as_deref());
    match named {
        Some(name) => model_name(name),
        None => Arc::from(""),
    }
}

/// Ends the charge. One request to the account's owner; the usage record and the recorded answer ride on it.
async fn settle(
    gateway: &Gateway,
    mut charged: Box<Charged>,
    outcome: Outcome,
    usage: UsageRecord,
    recording: Option<(Record, Option<Arc<Claim>>)>,
    notes: &mut Notes,
) -> Result<Settled, Refusal> {
    let account = charged.open.account.take().ok_or(Refusal::OutcomeUnknown("settled before"))?;
    let (record, claim) = recording.map_or((None, None), |(record, claim)| (Some(record), claim));
    let receipt = account
        .settle(charged.open.id, outcome, usage, record)
        .await
        .map_err(|_| Refusal::OutcomeUnknown("the account's owner died, or the charge expired"))?;
    let settled = receipt.decided;
    failpoint!("settle-decided");
    let claim = claim.or_else(|| charged.claim.take().map(Arc::new));
    on_record(gateway.commit_timeout, charged.debit.take(), receipt.durable, claim).await?;
    notes.cost = Some(settled.cost);
    failpoint!("settle-on-record");
    Ok(settled)
}

/// Waits until the debit and what ended it are durable. The claim on an idempotency key is held until the
/// outcome is known, however long that takes.
pub(super) async fn on_record(
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
        // The upstream has done its work, and of a debit and its refund one may be on record.
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
