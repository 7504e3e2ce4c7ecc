//! Stage 7, settlement. Answered -> Departure: captures or refunds, records the usage, and releases
//! the answer only when its money is committed. A stream goes on to [`relay`], which settles it at
//! its end.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;

use super::bill::{Cost, cost, evidence, evidence_of_work, usage_record, wait_committed};
use super::charge::ChargedCall;
use super::departure::Departure;
use super::departure::{Money, ServedBody, kept};
use super::gateway::Gateway;
use super::relay;
use super::request::RequestContext;
use super::upstream::Answered;
use crate::idempotency::Claim;
use crate::upstream::dialect::refusal_body;
use crate::upstream::{AnswerBody, Failure};
use domain::Refusal;
use domain::account::RecordAnswer;
use domain::{Ending, Outcome, Reported, Settled, UsageRecord};

/// Ends the charge, or hands a stream to [`relay`].
pub(super) async fn close(
    gateway: &Arc<Gateway>,
    answered: Answered,
    context: &mut RequestContext,
) -> Result<Departure, Refusal> {
    let is_sent = answered.is_sent();
    let (charged, upstream, result) = answered.into_parts();
    match result {
        Ok(answer) => match answer.body {
            AnswerBody::Stream(stream) => {
                let head = (answer.status, answer.headers);
                Box::pin(relay::open(gateway, charged, upstream, head, stream)).await
            }
            AnswerBody::Whole(body) => {
                let whole =
                    Whole { status: answer.status, headers: answer.headers, body, upstream };
                close_whole(gateway, charged, whole, answer.reported, context).await
            }
        },
        Err(failure) => {
            let mut charged = charged;
            let usage = usage_record(gateway, &charged, &upstream, failure.status());
            let ending = match failure {
                Failure::Abandoned => Ending::ClientLeft,
                Failure::Stopped => Ending::ServerStopped,
                _ => Ending::Failed,
            };
            let owed = evidence_of_work(&charged, failure, is_sent);
            let (outcome, usage) = match owed {
                Some(owed) => {
                    let Cost { amount: cost, usage: tokens, tally } =
                        cost(gateway, &mut charged, owed).await;
                    let (prompt_tokens, completion_tokens) = (tokens.prompt, tokens.completion);
                    let counted = UsageRecord { prompt_tokens, completion_tokens, tally, ..usage };
                    (Outcome::Delivered { cost }, counted)
                }
                None => (Outcome::Failed, usage),
            };
            let is_owed = outcome != Outcome::Failed;
            let is_cut = is_owed && failure.is_by_our_limit();
            let ending = if is_cut { Ending::UpstreamCut } else { ending };
            let usage = UsageRecord { ending, ..usage };
            let Settled { cost, .. } =
                settle(gateway, charged, outcome, usage, None, context).await?;
            Err(match failure {
                Failure::GivenUp if is_owed => Refusal::UpstreamGivenUp { cost },
                Failure::TooLarge { .. } => Refusal::AnswerTooLarge { cost },
                Failure::TimedOut | Failure::GivenUp => Refusal::UpstreamTimedOut,
                Failure::Broken(reason) => Refusal::UpstreamFailed(reason),
                Failure::Abandoned => Refusal::ClientLeft,
                Failure::Stopped => Refusal::Stopped,
            })
        }
    }
}

/// A complete answer.
#[derive(Clone)]
struct Whole {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    upstream: Arc<str>,
}

/// Is the body of an answer an error in place of what was asked for?
fn is_error(body: &Bytes) -> bool {
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice(body).is_ok_and(|answer: Answer| answer.error.is_some())
}

async fn close_whole(
    gateway: &Gateway,
    mut charged: Box<ChargedCall>,
    mut whole: Whole,
    reported: Reported,
    context: &mut RequestContext,
) -> Result<Departure, Refusal> {
    let evidence = evidence(&charged, reported, &whole.body).await;
    let record = usage_record(gateway, &charged, &whole.upstream, whole.status.as_u16());
    // A request that the upstream refused delivers nothing, and costs nothing; unless the upstream
    // reports that it took tokens.
    let reports_tokens = matches!(reported, Reported::Given(usage) if usage.total() > 0);
    // Some upstreams answer 200 and an error.
    let is_empty = charged.generation().is_some() && evidence.counted.completion == 0;
    let is_delivered =
        reports_tokens || (whole.status.is_success() && !(is_empty && is_error(&whole.body)));
    let (outcome, record) = if is_delivered {
        let Cost { amount: cost, usage, tally } = cost(gateway, &mut charged, evidence).await;
        let (prompt_tokens, completion_tokens) = (usage.prompt, usage.completion);
        let record = UsageRecord { prompt_tokens, completion_tokens, tally, ..record };
        (Outcome::Delivered { cost }, record)
    } else {
        // What is not paid for has no content.
        whole.body = refusal_body(&whole.body);
        if !whole.body.is_empty() {
            whole.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        (Outcome::Failed, UsageRecord { ending: Ending::Failed, ..record })
    };
    let money = Money {
        charge: Some(charged.id()),
        upstream: Arc::clone(&whole.upstream),
        max_tokens: charged.token_limit(),
        ..Money::default()
    };
    let claim = charged.take_claim().map(Arc::new);
    // Only a delivered answer is recorded; a failed call may be tried again.
    let recording = claim.clone().filter(|_| is_delivered).map(|claim| {
        let (reference, at) = (charged.id().0, gateway.clock.now());
        let (whole, money) = (whole.clone(), money.clone());
        let make = move |settled: &Settled| {
            let money = money.with_settled(settled).headers();
            let answer = kept(whole.status, &whole.headers, &money, whole.body);
            claim.record(reference, Some(&answer), at)
        };
        let record: RecordAnswer = Box::new(make);
        record
    });
    let recording = recording.map(|record| (record, claim));
    let settled = settle(gateway, charged, outcome, record, recording, context).await?;
    Ok(Departure {
        status: whole.status,
        headers: whole.headers,
        body: ServedBody::Whole(whole.body),
        money: money.with_settled(&settled).headers(),
        is_replayed: false,
    })
}

/// Ends the charge: one request to the account's owner, with the usage record and the recorded
/// answer.
async fn settle(
    gateway: &Gateway,
    mut charged: Box<ChargedCall>,
    outcome: Outcome,
    usage: UsageRecord,
    recording: Option<(RecordAnswer, Option<Arc<Claim>>)>,
    context: &mut RequestContext,
) -> Result<Settled, Refusal> {
    let account = charged.take_account().ok_or(Refusal::OutcomeUnknown("settled before"))?;
    let (record, claim) = recording.map_or((None, None), |(record, claim)| (Some(record), claim));
    let receipt = account
        .settle(charged.id(), outcome, usage, record)
        .await
        .map_err(|_| Refusal::OutcomeUnknown("the account's owner died, or the charge expired"))?;
    let settled = receipt.decided;
    failpoint!("settle-decided");
    let claim = claim.or_else(|| charged.take_claim().map(Arc::new));
    wait_committed(gateway.commit_timeout, charged.take_debit(), receipt.durable, claim).await?;
    context.cost = Some(settled.cost);
    failpoint!("settle-on-record");
    Ok(settled)
}
