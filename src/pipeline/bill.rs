//! The bill of a call, for whole answers and streams alike: what is held for it, the tokens that it
//! is billed for, its usage record, and the wait for its commit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::charge::ChargedCall;
use super::gateway::Gateway;
use crate::actors::account::{wait, wait_within};
use crate::actors::ledger::{Acknowledgement, WriteError};
use crate::idempotency::Claim;
use crate::tokens::{self, TextCounter, vocabulary};
use crate::upstream::dialect::{Asked, Content};
use crate::upstream::{Dialect, Failure};
use domain::Refusal;
use domain::pricing::Extra;
use domain::usage::model_name;
use domain::{
    Credits, Ending, Evidence, Extension, Heard, Reported, Tally, TokenUsage, UsageRecord,
};

/// Estimate for a text that could not be counted.
const BYTES_PER_TOKEN: usize = 4;

/// What a call costs, and how its tokens were counted.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) amount: Credits,
    pub(super) usage: TokenUsage,
    pub(super) tally: Tally,
}

/// Does the client have what was counted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// It was delivered.
    Delivered,
    /// A limit of ours kept it back.
    Unseen,
}

/// The cost of a token-priced call, after its hold was extended to what the upstream has done, as
/// far as the balance goes.
pub(super) async fn cost(
    gateway: &Gateway,
    charged: &mut ChargedCall,
    evidence: Evidence,
    counted: Counted,
) -> Cost {
    let (mut usage, tally) = evidence.tally();
    let is_reported = evidence.reports_completion();
    let tokens = charged.generation().map_or(usage.total(), |generation| {
        let limit = charged.token_limit().unwrap_or(generation.demand.completion_tokens_max);
        if is_reported {
            generation.demand.believed(usage, limit)
        } else {
            generation.demand.counted(usage, limit, counted == Counted::Delivered)
        }
    });
    let mut cost = charged.rule().cost(tokens).unwrap_or(Credits::MAX);
    if tally == Tally::Held {
        cost = cost.max(charged.held());
    }
    let is_held_for = charged.generation().is_some();
    if is_held_for && cost > charged.held() {
        hold_owed(gateway, charged, cost).await;
    }
    if is_held_for && !is_reported {
        // Of what we count ourselves, what is paid is on record.
        let paid = tokens.min(charged.rule().tokens_within(charged.held()));
        if usage.total() > paid {
            let prompt = usage.prompt.min(paid);
            usage = TokenUsage::new(prompt, paid.saturating_sub(prompt));
        }
    }
    let is_clamped =
        is_held_for && is_reported && (cost > charged.held() || tokens < usage.total());
    if is_clamped {
        tracing::warn!(charge = %charged.id(), %cost, held = %charged.held(), "clamped");
    }
    Cost { amount: cost, usage, tally: if is_clamped { Tally::Clamped } else { tally } }
}

/// Extends the hold to what is owed, as far as the balance goes.
async fn hold_owed(gateway: &Gateway, charged: &mut ChargedCall, want: Credits) {
    let Some(account) = charged.account() else { return };
    let extension = Extension::Owed { want };
    // Declined or not: what is held then can be captured.
    let Ok(receipt) = account.extend(charged.id(), extension).await else { return };
    if let Ok(Ok(held)) = tokio::time::timeout(gateway.commit_timeout, receipt.wait()).await {
        charged.set_held(held);
    }
}

/// What is known of the tokens of a complete answer. Its text is counted if the upstream's report
/// is missing, or says less than was delivered.
pub(super) async fn evidence(charged: &ChargedCall, reported: Reported, body: &Bytes) -> Evidence {
    let none = TokenUsage::default();
    let evidence = Evidence { reported, counted: none, heard: Heard::ToItsEnd, may_hide: false };
    let Some(generation) = charged.generation() else {
        // A fixed price: its tokens are only for the record.
        let is_given = matches!(reported, Reported::Given(_));
        let reported = if is_given { reported } else { Reported::Given(none) };
        return Evidence { reported, ..evidence };
    };
    if evidence.is_enough() {
        return evidence;
    }
    let is_background = |asked: &Asked| asked.extra == Extra::Background;
    if reported == Reported::Missing && generation.request.asks_for.iter().any(is_background) {
        // The answer is yet to be made.
        let counted = TokenUsage::new(generation.prompt_unreported(), 0);
        return Evidence { counted, heard: Heard::UntilCancelled, may_hide: true, ..evidence };
    }
    let (dialect, body) = (charged.dialect(), body.clone());
    let model = generation.request.model.clone();
    // Embeddings have no text.
    let bytes = if dialect == Dialect::Embeddings { 0 } else { body.len() };
    let work = move || {
        let mut counter = TextCounter::new(vocabulary(model.as_deref()));
        deliver(&mut counter, &dialect.answer_content(&body));
        counter.total()
    };
    let counted = tokens::count_off_thread(bytes, work).await;
    let completion = counted.unwrap_or_else(|| estimate(bytes));
    Evidence { counted: TokenUsage::new(generation.prompt_unreported(), completion), ..evidence }
}

/// What is known of the tokens of a call without an answer, if the upstream may have done its work:
/// the client left, or a limit of ours ended it.
pub(super) fn evidence_of_work(
    charged: &ChargedCall,
    failure: Failure,
    is_sent: bool,
) -> Option<Evidence> {
    let bytes = match failure {
        Failure::Abandoned | Failure::GivenUp if is_sent => None,
        Failure::TooLarge { bytes } => Some(bytes),
        _ => return None,
    };
    let Some(generation) = charged.generation() else {
        // A fixed price is for the answer, and there is none, or one that is too large.
        let reported = Reported::Given(TokenUsage::default());
        let counted = TokenUsage::default();
        let heard = Heard::UntilCancelled;
        return bytes.map(|_| Evidence { reported, counted, heard, may_hide: false });
    };
    // Embeddings have no text.
    let bytes = bytes.filter(|_| charged.dialect() != Dialect::Embeddings).unwrap_or(0);
    Some(Evidence {
        reported: Reported::Missing,
        counted: TokenUsage::new(generation.prompt_unreported(), estimate(bytes)),
        heard: Heard::UntilCancelled,
        may_hide: generation.may_hide,
    })
}

/// The tokens of so many bytes of text that is not counted.
pub(super) fn estimate(bytes: usize) -> u64 {
    u64::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u64::MAX)
}

/// Counts what was delivered.
pub(super) fn deliver(counter: &mut TextCounter, content: &Content) {
    counter.push(&content.text);
    counter.add(content.data_tokens);
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
