//! The bill of a call, for whole answers and streams alike: what is held for it, the tokens that it
//! is billed for, its usage record, and the wait for its commit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::beside::told;
use super::charge::ChargedCall;
use super::gateway::Gateway;
use crate::actors::account::{wait, wait_within};
use crate::actors::ledger::{Acknowledgement, WriteError};
use crate::idempotency::Claim;
use crate::tokens::{self, TextCounter, vocabulary};
use crate::upstream::Failure;
use crate::upstream::dialect::{Asked, Content};
use domain::Refusal;
use domain::oddity::{Oddities, Oddity};
use domain::pricing::{Billed, CallEnd, Extra, ToldParts};
use domain::stored_bill::StoredBill;
use domain::usage::model_name;
use domain::{
    Credits, Dim, DimSet, Ending, Evidence, Extension, Flags, Heard, Reported, Tally, TokenUsage,
    UsageRecord,
};

/// Estimate for a text that could not be counted.
const BYTES_PER_TOKEN: usize = 4;

/// What a call costs, and how its tokens were counted.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) amount: Credits,
    /// What the amount is for. It costs the amount, or says that it costs more.
    pub(super) bill: Option<StoredBill>,
    pub(super) usage: TokenUsage,
    pub(super) tally: Tally,
    /// What is odd about what the upstream has reported.
    pub(super) odd: Oddities,
}

/// Does the client have what was counted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedText {
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
    told: ToldParts,
    counted: CountedText,
) -> Cost {
    if let Some((model, generation)) = charged.by_model() {
        let limit = charged.token_limit().unwrap_or(generation.demand.completion_tokens_max);
        let (is_delivered, held) = (counted == CountedText::Delivered, charged.held());
        let end = CallEnd { evidence, told, limit, is_delivered, held };
        let billed = model.settle(&generation.demand, &end);
        return cost_by_model(gateway, charged, billed, evidence.reports_completion()).await;
    }
    let (mut usage, tally) = evidence.tally();
    let is_reported = evidence.reports_completion();
    let tokens = charged.generation().map_or(usage.total(), |generation| {
        let limit = charged.token_limit().unwrap_or(generation.demand.completion_tokens_max);
        if is_reported {
            generation.demand.believed(usage, limit)
        } else {
            generation.demand.counted(usage, limit, counted == CountedText::Delivered)
        }
    });
    let (billed, cost) = charged.rule().payable(tokens);
    let (billed, whole) = match tally {
        Tally::Held => charged.rule().paid_with(billed, charged.held()),
        _ => (billed, cost),
    };
    let cost = if tally == Tally::Held { cost.max(charged.held()) } else { cost };
    let prompt = usage.prompt.min(billed);
    let flags = flags(&evidence, tally);
    let is_whole = evidence.heard == Heard::ToItsEnd;
    let is_impossible = is_whole && evidence.reported == Reported::Absurd;
    let odd = Oddities::NONE
        .with_if(is_whole && flags.has(Flags::ODD), Oddity::Total)
        .with_if(is_impossible, Oddity::Impossible)
        .with_if(is_reported && tokens < usage.total(), Oddity::TooMany);
    let bill = charged.bill(prompt, billed.saturating_sub(prompt), flags);
    let bill = bill.map(|bill| bill.taken(whole, cost));
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
    Cost { amount: cost, bill, usage, tally: if is_clamped { Tally::Clamped } else { tally }, odd }
}

/// The same for a call that is billed like this by the card of its model.
async fn cost_by_model(
    gateway: &Gateway,
    charged: &mut ChargedCall,
    billed: Billed,
    is_reported: bool,
) -> Cost {
    let id = charged.id();
    let bill = charged.by_model().and_then(|(model, _)| StoredBill::of(&model.bill(&billed)));
    let bill = bill.map(|bill| bill.taken(billed.whole, billed.cost));
    let (cost, is_priced) = (billed.cost, billed.unpriced == DimSet::EMPTY);
    if !is_priced {
        let parts: Vec<&str> = billed.unpriced.dims().map(Dim::name).collect();
        let parts = parts.join(", ");
        tracing::error!(
            alert = "usage", charge = %id, model = &*model_of(charged), parts,
            "the upstream reports what the price list has no price for: add a price for it"
        );
    }
    if cost > charged.held() {
        hold_owed(gateway, charged, cost).await;
    }
    let held = charged.held();
    let paid = charged.by_model().filter(|_| !is_reported);
    // Of what we count ourselves, what is paid is on record.
    let usage = paid.map_or(billed.tokens, |(model, _)| model.paid(&billed, held));
    let is_clamped = is_reported && (cost > held || billed.is_cut);
    if is_clamped {
        tracing::warn!(charge = %id, %cost, %held, "clamped");
    }
    let tally = if is_clamped { Tally::Clamped } else { billed.tally };
    Cost { amount: cost, bill, usage, tally, odd: billed.odd }
}

/// The totals of what was told, if there are any.
pub(super) fn totals(told: &ToldParts, reported: Reported) -> Reported {
    match reported {
        Reported::Given(_) => Reported::Given(told.tokens()),
        Reported::Missing | Reported::Absurd => reported,
    }
}

/// The same of a complete answer, and the totals. A call that is priced by its route is billed by
/// `reported` alone.
pub(super) fn told_by_answer(
    charged: &ChargedCall,
    reported: Reported,
    body: &[u8],
) -> (ToldParts, Reported) {
    let Some((model, _)) = charged.by_model() else { return (ToldParts::default(), reported) };
    let dialect = charged.dialect();
    let answer = dialect.told_by_answer(body);
    let answer = if model.may_name(Dim::OutputImage) {
        answer.with_seen(dialect.answer_content(body).seen())
    } else {
        answer
    };
    let told = told(charged, &answer, reported);
    (told, totals(&told, reported))
}

/// What is peculiar about the bill of a call of which this is known.
fn flags(evidence: &Evidence, tally: Tally) -> Flags {
    let is_odd = match evidence.reported {
        Reported::Given(TokenUsage { prompt, completion, reported_total }) => {
            let sum = prompt.saturating_add(completion);
            tally == Tally::Reported && reported_total != 0 && reported_total != sum
        }
        Reported::Missing | Reported::Absurd => false,
    };
    Flags::NONE
        .and_if(tally != Tally::Reported, Flags::COUNTED)
        .and_if(is_odd, Flags::ODD)
        .and_if(evidence.heard != Heard::ToItsEnd, Flags::EARLY)
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
pub(super) async fn evidence(
    gateway: &Gateway,
    charged: &ChargedCall,
    reported: Reported,
    body: &Bytes,
) -> Evidence {
    let none = TokenUsage::default();
    let evidence = Evidence { reported, counted: none, heard: Heard::ToItsEnd, may_hide: false };
    let Some(generation) = charged.generation() else {
        // A fixed price: its tokens are only for the record.
        let is_given = matches!(reported, Reported::Given(_));
        let reported = if is_given { reported } else { Reported::Given(none) };
        return Evidence { reported, ..evidence };
    };
    let policy = gateway.upstreams.request_policy(charged.arrival().group);
    let evidence = Evidence { may_hide: generation.may_hide && policy.reports_usage, ..evidence };
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
    let bytes = if dialect.only_reads() { 0 } else { body.len() };
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
    let bytes = bytes.filter(|_| !charged.dialect().only_reads()).unwrap_or(0);
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

/// The model that a call asked for, by its public name if it is sold by that.
pub(super) fn model_of(charged: &ChargedCall) -> Arc<str> {
    if let Some(call) = charged.model() {
        return model_name(&call.found.name);
    }
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
