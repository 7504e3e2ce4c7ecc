//! Settlement. Answered -> Departure: captures or refunds, records the usage, and lets the answer go only
//! when its money is on record.

use std::time::Duration;

use super::upstream::Answered;
use super::{Departure, Gateway, Notes, Refusal};
use crate::actors::account::wait;
use crate::actors::ledger_writer::{Acknowledgement, WriteError};
use crate::domain::{Credits, Outcome, UsageRecord};
use crate::upstream::Failure;

/// Ends the charge. One message to the account's actor; the usage record rides on it.
pub(super) async fn close(
    gateway: &Gateway,
    answered: Answered,
    notes: &mut Notes,
) -> Result<Departure, Refusal> {
    let Answered { arrival, rule, key, mut open, debit, upstream, result } = answered;
    let usage = result.as_ref().map(|answer| answer.usage).unwrap_or_default();
    let outcome = match &result {
        // What the upstream refused was not delivered either, and costs nothing.
        Ok(answer) if answer.status.is_success() => {
            let cost = rule.cost(usage.total()).unwrap_or(Credits::MAX);
            Outcome::Delivered { cost }
        }
        _ => Outcome::Failed,
    };
    let status = result.as_ref().map_or_else(Failure::status, |answer| answer.status.as_u16());
    let record = UsageRecord {
        id: arrival.id,
        account: key.account,
        seq: None,
        key: key.key,
        method: rule.method.clone().unwrap_or_else(|| arrival.method.as_str().into()),
        route: rule.path.clone(),
        upstream: upstream.clone(),
        status,
        cost: Credits::ZERO,
        prompt_tokens: usage.prompt,
        completion_tokens: usage.completion,
        started_at: arrival.at,
        latency_micros: gateway.clock.now().micros_since(arrival.at),
    };
    let account =
        open.account.take().ok_or(Refusal::OutcomeUnknown("the charge was settled before"))?;
    let receipt = account
        .settle(open.id, outcome, record)
        .await
        .map_err(|_| Refusal::OutcomeUnknown("the account's actor died, or the charge expired"))?;
    let settled = receipt.decided;
    on_record(gateway.commit_timeout, debit, receipt.durable).await?;
    notes.cost = Some(settled.cost);
    let answer = result.map_err(|failure| match failure {
        Failure::TimedOut => Refusal::UpstreamTimedOut,
        Failure::Broken(reason) => Refusal::UpstreamFailed(reason),
    })?;
    Ok(Departure {
        status: answer.status,
        headers: answer.headers,
        body: answer.body,
        cost: settled.cost,
        balance: settled.balance,
        upstream,
    })
}

/// Waits until the debit and what ended it are durable.
async fn on_record(
    patience: Duration,
    debit: Option<Acknowledgement>,
    end: Option<Acknowledgement>,
) -> Result<(), Refusal> {
    if debit.is_none() && end.is_none() {
        return Ok(());
    }
    let both = async {
        wait(debit).await?;
        wait(end).await
    };
    match tokio::time::timeout(patience, both).await {
        Ok(Ok(())) => Ok(()),
        // The upstream has done its work, and of a debit and its refund one may be on record.
        Ok(Err(WriteError::Fenced)) => {
            Err(Refusal::OutcomeUnknown("another process owns the accounts"))
        }
        Ok(Err(WriteError::Refused)) => {
            Err(Refusal::OutcomeUnknown("the database refused the charge"))
        }
        Ok(Err(WriteError::Lost)) => Err(Refusal::OutcomeUnknown("the ledger writer is gone")),
        Err(_) => Err(Refusal::OutcomeUnknown("the commit takes too long")),
    }
}
