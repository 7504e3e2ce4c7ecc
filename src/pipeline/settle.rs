//! Stage 7, settlement. Answered -> Departure: captures or refunds, records the usage, and releases
//! the answer only when its money is committed. A stream goes on to [`relay`], which settles it at
//! its end.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::beside::told;
use super::bill::{
    Cost, CountedText, cost, evidence, evidence_of_work, told_by_answer, usage_record,
    wait_committed,
};
use super::charge::ChargedCall;
use super::departure::Departure;
use super::departure::{Money, ServedBody, kept};
use super::gateway::Gateway;
use super::oddity::{self, ReportedUsage};
use super::relay;
use super::request::RequestContext;
use super::upstream::Answered;
use crate::idempotency::Claim;
use crate::upstream::dialect::{ToldUsage, is_failed, is_only_failure, refusal_body};
use crate::upstream::{AnswerBody, CHARGED_FAILURE, Failure, is_repeated_by_clients};
use domain::Refusal;
use domain::account::RecordAnswer;
use domain::{Credits, Ending, Outcome, Reported, Settled, TokenUsage, UsageRecord};

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
        Err(failure) => close_failed(gateway, charged, upstream, failure, is_sent, context).await,
    }
}

/// Tells clients of OpenAI's protocol whether to send the call again by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Ends the charge of a call without an answer. If a limit of ours ended the upstream's work, that
/// is paid, and the refusal is recorded: a repeat with the same idempotency key gets it again, and
/// pays nothing more.
async fn close_failed(
    gateway: &Gateway,
    mut charged: Box<ChargedCall>,
    upstream: Arc<str>,
    failure: Failure,
    is_sent: bool,
    context: &mut RequestContext,
) -> Result<Departure, Refusal> {
    let record = usage_record(gateway, &charged, &upstream, failure.status());
    let ending = match failure {
        Failure::Abandoned => Ending::ClientLeft,
        Failure::Stopped => Ending::ServerStopped,
        _ => Ending::Failed,
    };
    let Some(owed) = evidence_of_work(&charged, failure, is_sent) else {
        charged.end_span(TokenUsage::default(), Some(failure.status()));
        let record = UsageRecord { ending, ..record };
        settle(gateway, charged, Outcome::Failed, record, None, context).await?;
        return Err(unpaid(failure));
    };
    let untold = told(&charged, &ToldUsage::default(), Reported::Missing);
    let Cost { amount: cost, bill, usage, tally, .. } =
        cost(gateway, &mut charged, owed, untold, CountedText::Unseen).await;
    let (status, ending) = if failure.is_by_our_limit() {
        (CHARGED_FAILURE.as_u16(), Ending::UpstreamCut)
    } else {
        (failure.status(), ending)
    };
    charged.end_span(usage, Some(status));
    let (prompt_tokens, completion_tokens) = (usage.prompt, usage.completion);
    let record = UsageRecord { status, prompt_tokens, completion_tokens, tally, ending, ..record };
    let outcome = Outcome::Delivered { cost, bill };
    let paid: fn(Credits) -> Refusal = match failure {
        Failure::GivenUp => |cost| Refusal::UpstreamGivenUp { cost },
        Failure::TooLarge { .. } => |cost| Refusal::AnswerTooLarge { cost },
        _ => {
            settle(gateway, charged, outcome, record, None, context).await?;
            return Err(unpaid(failure));
        }
    };
    let (id, at, refused) = (charged.id(), gateway.clock.now(), gateway.refused);
    let path: Arc<str> = charged.arrival().path.as_str().into();
    let money = charged.money(&upstream);
    let recording = charged.take_claim().map(|claim| {
        let (claim, money, path) = (Arc::new(claim), money.clone(), Arc::clone(&path));
        let held = Arc::clone(&claim);
        let make = move |settled: &Settled| {
            let (status, body) = refused(&paid(settled.cost), &path, id, at);
            let money = money.with_settled(settled).headers();
            claim.record(id.0, Some(&kept(status, &refusal_headers(), &money, body)), at)
        };
        let record: RecordAnswer = Box::new(make);
        (record, held)
    });
    let settled = settle(gateway, charged, outcome, record, recording, context).await?;
    let refusal = paid(settled.cost);
    tracing::warn!(request_id = %id, %refusal, cost = %settled.cost, "a failure was charged");
    gateway.metrics.refuse(&refusal);
    let (status, body) = refused(&refusal, &path, id, at);
    Ok(Departure {
        status,
        headers: refusal_headers(),
        body: ServedBody::Whole(body),
        money: money.with_settled(&settled).headers(),
        is_replayed: false,
    })
}

/// The headers of a refusal that was charged.
fn refusal_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    headers
}

/// The refusal of a call that was not answered.
fn unpaid(failure: Failure) -> Refusal {
    match failure {
        Failure::TimedOut | Failure::GivenUp => Refusal::UpstreamTimedOut,
        Failure::TooLarge { .. } => Refusal::UpstreamFailed("the answer is too large"),
        Failure::Broken(reason) => Refusal::UpstreamFailed(reason),
        Failure::Lost => Refusal::UpstreamLost,
        Failure::Busy { retry_after, is_limit } => Refusal::UpstreamBusy { retry_after, is_limit },
        Failure::Nobody => Refusal::ModelUnavailable,
        Failure::Abandoned => Refusal::ClientLeft,
        Failure::Stopped => Refusal::Stopped,
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

async fn close_whole(
    gateway: &Gateway,
    mut charged: Box<ChargedCall>,
    mut whole: Whole,
    reported: Reported,
    context: &mut RequestContext,
) -> Result<Departure, Refusal> {
    let (told, reported) = told_by_answer(&charged, reported, &whole.body);
    let evidence = evidence(gateway, &charged, reported, &whole.body).await;
    let record = usage_record(gateway, &charged, &whole.upstream, whole.status.as_u16());
    // A request that the upstream refused delivers nothing, and costs nothing; unless the upstream
    // reports that it took tokens.
    let reports_tokens = matches!(reported, Reported::Given(usage) if usage.total() > 0);
    // Some upstreams answer 200 and an error.
    let is_empty = || evidence.counted.completion == 0 && is_failed(&whole.body);
    let has_failed =
        || charged.generation().is_some() && (is_only_failure(&whole.body) || is_empty());
    let is_delivered = reports_tokens || (whole.status.is_success() && !has_failed());
    let (outcome, record) = if is_delivered {
        if is_repeated_by_clients(whole.status) {
            // A refusal that the upstream was paid for. A repeat would be paid again.
            whole.status = CHARGED_FAILURE;
            whole.headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        let cost = cost(gateway, &mut charged, evidence, told, CountedText::Delivered).await;
        let reported = ReportedUsage::Answer(&whole.body);
        oddity::note(gateway, &charged, &whole.upstream, &cost, &reported);
        let Cost { amount: cost, bill, usage, tally, .. } = cost;
        charged.end_span(usage, None);
        let (prompt_tokens, completion_tokens) = (usage.prompt, usage.completion);
        let status = whole.status.as_u16();
        let record = UsageRecord { status, prompt_tokens, completion_tokens, tally, ..record };
        (Outcome::Delivered { cost, bill }, record)
    } else {
        charged.end_span(TokenUsage::default(), Some(whole.status.as_u16()));
        // What is not paid for has no content.
        whole.body = refusal_body(whole.status.as_u16(), &whole.body);
        if !whole.body.is_empty() {
            whole.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        (Outcome::Failed, UsageRecord { ending: Ending::Failed, ..record })
    };
    let money = Money { max_tokens: charged.token_limit(), ..charged.money(&whole.upstream) };
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
    let recording = recording.zip(claim);
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
    recording: Option<(RecordAnswer, Arc<Claim>)>,
    context: &mut RequestContext,
) -> Result<Settled, Refusal> {
    let account = charged.take_account().ok_or(Refusal::OutcomeUnknown("settled before"))?;
    let (record, claim) = recording.unzip();
    let tokens = TokenUsage::new(usage.prompt_tokens, usage.completion_tokens);
    let watched = gateway.metrics.live.is_watched().then(|| usage.clone());
    let receipt = account
        .settle(charged.id(), outcome, usage, record)
        .await
        .map_err(|_| Refusal::OutcomeUnknown("the account's owner died, or the charge expired"))?;
    let settled = receipt.decided;
    failpoint!("settle-decided");
    let claim = claim.or_else(|| charged.take_claim().map(Arc::new));
    wait_committed(gateway.commit_timeout, charged.take_debit(), receipt.durable, claim).await?;
    context.cost = Some(settled.cost);
    gateway.metrics.sums.spend(charged.key().environment, settled.cost, tokens);
    if let Some(usage) = watched {
        gateway.metrics.live.note(
            charged.key().user,
            charged.key().environment,
            usage,
            settled.cost,
        );
    }
    if let Some(paying) = &charged.arrival().paying {
        paying.settle(settled.cost);
    }
    failpoint!("settle-on-record");
    Ok(settled)
}
