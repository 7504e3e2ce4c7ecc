//! A stream, from its first byte to its bill.
//!
//! Bytes are passed on as they come, a piece at a time: the next piece is read from the upstream when the
//! client's connection has taken the last one, so a slow reader costs a piece, whatever the stream's length.
//! What is delivered is counted as it goes, and never exceeds what is held: the hold is extended in steps, and
//! where that is declined the stream is ended in its own protocol's way. The bill is on record before the
//! last frames, which tell it, go out.
//!
//! The relay is a task of its own. A client that leaves ends the upstream's work, not the settlement.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use tracing::Instrument as _;

use super::charge::Charged;
use super::departure::Departure;
use super::departure::{Body, Money, StreamSender, kept, stream};
use super::gateway::Gateway;
use super::price::Generation;
use super::settle::{hold_what_is_owed, on_record, usage_record};
use crate::actors::account::{Record, wait};
use crate::actors::{AccountError, Receipt};
use crate::config::OnDisconnect;
use crate::idempotency::Claim;
use crate::tokens::{TextCounter, vocabulary};
use crate::upstream::dialect::{Bill, Close, Transcript};
use crate::upstream::sse::Frames;
use crate::upstream::{ByteStream, Failure, Reported, StreamPolicy, TokenUsage};
use domain::Refusal;
use domain::{Credits, Decline, Ending, Extension, Outcome, Settled, Tally, UsageRecord};

/// Tokens of other vocabularies are larger or smaller than ours: by this factor, and by this many, delivered
/// text may come to more than the token limit that the upstream was told, before we end the stream for it.
const LIMIT_TOLERANCE: u64 = 2;
const LIMIT_TOLERANCE_TOKENS: u64 = 64;

/// From this size on a piece goes out before what else the upstream has sent already: what is under way is
/// what a slow reader costs.
const PIECE_BYTES: usize = 16 * 1024;

/// Begins to relay a stream whose first bytes have come, once its hold is durable.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    mut charged: Box<Charged>,
    upstream: Arc<str>,
    (status, headers): (StatusCode, HeaderMap),
    source: ByteStream,
) -> Result<Departure, Refusal> {
    let generation = charged.generation.clone();
    let generation = generation.ok_or(Refusal::UpstreamFailed("a stream that nobody asked for"))?;
    match tokio::time::timeout(gateway.commit_timeout, wait(charged.debit.take())).await {
        Ok(Ok(())) => {}
        // Nothing was delivered, so nothing will be charged: the open charge ends as it is dropped.
        Ok(Err(_)) => return Err(Refusal::NotHeld("the hold was not written")),
        Err(_) => return Err(Refusal::NotHeld("the commit of the hold takes too long")),
    }
    failpoint!("stream-hold-on-record");
    let money = Money {
        charge: Some(charged.open.id),
        upstream: Arc::clone(&upstream),
        held: Some(charged.terms.held),
        max_tokens: charged.token_limit,
        ..Money::default()
    };
    let (sender, body) = stream();
    let request = charged.arrival.id.to_string();
    let limit = charged.token_limit.unwrap_or(generation.demand.completion_tokens_max);
    let recording = charged.claim.take().map(|claim| Recording {
        claim: Arc::new(claim),
        status,
        headers: headers.clone(),
        money: money.headers(),
        bytes: BytesMut::new(),
        bytes_max: gateway.idempotency.answer_max_bytes(),
        is_too_large: false,
    });
    let relay = Relay {
        policy: gateway.upstreams.stream_policy(charged.arrival.group),
        step: gateway.holds.step_tokens.get(),
        transcript: Transcript::new(charged.dialect, &generation.ask, request),
        delivered: TextCounter::new(vocabulary(generation.ask.model.as_deref())),
        in_flight: String::new(),
        limit: limit.saturating_mul(generation.demand.choices),
        generation,
        sender: Some(sender),
        sent: 0,
        recording,
        delivered_at_leave: None,
        upstream,
        charged,
        gateway: Arc::clone(gateway),
    };
    // In the trace of its request, which has its answer by now.
    let span =
        tracing::info_span!(target: crate::telemetry::SPANS, "deliver", otel.kind = "internal");
    let mut relay = Box::pin(relay.run(source).instrument(span));
    // What has come already is there when the answer's head leaves, and leaves with it.
    if relay.as_mut().now_or_never().is_none() {
        actix_web::rt::spawn(relay);
    }
    let money = money.headers();
    Ok(Departure { status, headers, body: Body::Stream(body), money, is_replayed: false })
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Completed,
    Broken(Failure),
    ClientLeft,
    Declined(Decline),
    /// The upstream goes on far beyond the token limit that it was told.
    OverLimit,
    /// Our ledger cannot be written.
    Unwritable,
    /// The server stops.
    Stopped,
}

/// What is kept of a stream that may be repeated.
struct Recording {
    claim: Arc<Claim>,
    status: StatusCode,
    headers: HeaderMap,
    money: Vec<(&'static str, String)>,
    bytes: BytesMut,
    bytes_max: usize,
    is_too_large: bool,
}

impl Recording {
    fn add(&mut self, bytes: &[u8]) {
        self.is_too_large |= self.bytes.len().saturating_add(bytes.len()) > self.bytes_max;
        if self.is_too_large {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

struct Relay {
    gateway: Arc<Gateway>,
    charged: Box<Charged>,
    upstream: Arc<str>,
    generation: Generation,
    policy: StreamPolicy,
    transcript: Transcript,
    /// The text that counts as delivered.
    delivered: TextCounter,
    /// The text of the piece that the connection may not have taken yet.
    in_flight: String,
    /// Completion tokens that the upstream may generate, of all choices together.
    limit: u64,
    /// Tokens that the hold is extended by next.
    step: u64,
    /// To the client; none when it is gone.
    sender: Option<StreamSender>,
    sent: u64,
    recording: Option<Recording>,
    /// What had been delivered when the client left a stream that is kept for its repeat.
    delivered_at_leave: Option<TextCounter>,
}

impl Drop for Relay {
    /// A relay that is cut off, since the server stops, is billed for what it has delivered. Not where the
    /// request may be repeated: then it is charged by its repeat.
    fn drop(&mut self) {
        if self.charged.open.account.is_some() && self.recording.is_none() {
            self.charged.open.earned = self.earned();
        }
    }
}

impl Relay {
    async fn run(mut self, mut source: ByteStream) {
        let limit = Duration::from_secs(self.gateway.holds.stream_seconds_max.get());
        let gateway = Arc::clone(&self.gateway);
        let end = tokio::select! {
            biased;
            end = tokio::time::timeout(limit, self.pump(&mut source)) => {
                end.unwrap_or(End::Broken(Failure::TimedOut))
            }
            () = gateway.readiness.stopped() => End::Stopped,
        };
        // Cancels what the upstream may still be doing.
        drop(source);
        self.finish(end).await;
    }

    /// Is the stream read to its end although the client has left?
    fn drains(&self) -> bool {
        match &self.recording {
            // Its repeat gets the whole.
            Some(recording) => !recording.is_too_large,
            None => self.policy.on_disconnect == OnDisconnect::Drain,
        }
    }

    async fn pump(&mut self, source: &mut ByteStream) -> End {
        let mut frames = Frames::default();
        loop {
            let mut end = match self.next_chunk(source).await {
                Some(Ok(chunk)) => {
                    let (bytes, end) = gather(source, chunk);
                    if let Some(end) = self.pass(&mut frames, &bytes).await {
                        return end;
                    }
                    end
                }
                Some(Err(end)) => Some(end),
                None => Some(End::Completed),
            };
            if end == Some(End::Completed)
                && let Some(rest) = frames.rest()
            {
                // A last frame without the empty line that ends it.
                let rest = [&rest[..], b"\n\n"].concat();
                end = self.pass(&mut frames, &rest).await.or(end);
            }
            match end {
                // What the upstream has not said to be its end is a cut.
                Some(End::Completed) if !self.transcript.is_whole() => {
                    return End::Broken(Failure::Broken("the stream has no end"));
                }
                Some(end) => return end,
                None => {}
            }
        }
    }

    /// What the upstream says next; nothing at its end.
    async fn next_chunk(&mut self, source: &mut ByteStream) -> Option<Result<Bytes, End>> {
        let mut next = std::pin::pin!(tokio::time::timeout(self.policy.idle, source.next()));
        if let Some(sender) = &self.sender {
            tokio::select! {
                biased;
                () = sender.sender.closed() => self.leave(),
                result = &mut next => return chunk(result),
            }
        }
        if !self.drains() {
            return Some(Err(End::ClientLeft));
        }
        chunk(next.await)
    }

    /// Passes on what the chunk completes, as far as it is paid for.
    async fn pass(&mut self, frames: &mut Frames, chunk: &[u8]) -> Option<End> {
        if frames.push(chunk).is_err() {
            return Some(End::Broken(Failure::Broken("an event of the stream is too large")));
        }
        let (mut out, mut text) = (BytesMut::new(), String::new());
        let mut end = None;
        while let Some(frame) = frames.cut() {
            let piece = self.transcript.read(frame);
            if let Some(completion) = self.beyond_hold(&text, &piece.text) {
                // What is paid for does not wait for what is not.
                if !out.is_empty() {
                    self.send(out.split().freeze(), std::mem::take(&mut text)).await;
                }
                if let Err(declined) = self.hold_for(completion).await {
                    end = Some(declined);
                    break;
                }
            }
            text.push_str(&piece.text);
            if let Some(passed) = piece.passed {
                out.extend_from_slice(&passed);
            }
            if out.len() >= PIECE_BYTES {
                self.send(out.split().freeze(), std::mem::take(&mut text)).await;
            }
            if piece.is_end {
                end = Some(End::Completed);
                break;
            }
        }
        if !out.is_empty() {
            self.send(out.freeze(), text).await;
        }
        end
    }

    /// The completion's tokens with `more` text after `before`, where they are more than the hold pays for.
    fn beyond_hold(&mut self, before: &str, more: &str) -> Option<u64> {
        if more.is_empty() {
            return None;
        }
        let prompt = self.generation.ask.prompt.bound;
        let paid = self.charged.rule.tokens_within(self.charged.terms.held);
        let bytes = [self.in_flight.len(), before.len(), more.len()];
        let bound = bytes.iter().fold(self.delivered.bound(), |sum, bytes| {
            sum.saturating_add(u64::try_from(*bytes).unwrap_or(u64::MAX))
        });
        if prompt.saturating_add(bound) <= paid {
            return None;
        }
        self.delivered.tighten();
        let mut exact = self.delivered.clone();
        for text in [&self.in_flight, before, more] {
            exact.push(text);
        }
        Some(exact.total()).filter(|completion| prompt.saturating_add(*completion) > paid)
    }

    /// Extends the hold for so many tokens of the completion, and some more.
    async fn hold_for(&mut self, completion: u64) -> Result<(), End> {
        let prompt = self.generation.ask.prompt.bound;
        let tolerated = self.limit.saturating_mul(LIMIT_TOLERANCE);
        if completion > tolerated.saturating_add(LIMIT_TOLERANCE_TOKENS) {
            return Err(End::OverLimit);
        }
        let need = completion.min(self.limit);
        let step = self.step.saturating_mul(self.generation.demand.choices);
        let want = completion.saturating_add(step).min(self.limit);
        let cost = |completion: u64| self.charged.rule.cost(prompt.saturating_add(completion));
        let (Some(need), Some(want)) = (cost(need), cost(want)) else {
            return Err(End::Declined(Decline::AmountTooLarge));
        };
        if need <= self.charged.terms.held {
            // All that the upstream was allowed is held; it will say itself what it took.
            return Ok(());
        }
        let step_max = self.gateway.holds.step_tokens_max.get();
        self.step = self.step.saturating_mul(2).min(step_max);
        self.extend(need, want).await
    }

    async fn extend(&mut self, need: Credits, want: Credits) -> Result<(), End> {
        // Of a request that may be repeated nothing is earned before its end: see `Drop`.
        let earned = if self.recording.is_some() { Credits::ZERO } else { self.earned() };
        let extension = Extension::Ahead { need, want, earned };
        let Some(account) = &self.charged.open.account else { return Err(End::Unwritable) };
        let receipt = match account.extend(self.charged.open.id, extension).await {
            Ok(receipt) => receipt,
            Err(AccountError::Refused(decline)) => return Err(End::Declined(decline)),
            Err(AccountError::Gone) => return Err(End::Unwritable),
        };
        match tokio::time::timeout(self.gateway.commit_timeout, receipt.wait()).await {
            Ok(Ok(held)) => {
                failpoint!("stream-extended");
                self.charged.terms.held = held;
                Ok(())
            }
            _ => Err(End::Unwritable),
        }
    }

    /// The cost of what has been delivered.
    fn earned(&self) -> Credits {
        if self.delivered.is_empty() {
            return Credits::ZERO;
        }
        let tokens = self.generation.ask.prompt.counted.saturating_add(self.delivered.total());
        self.charged.rule.cost(tokens).unwrap_or(Credits::MAX).min(self.charged.terms.held)
    }

    /// Hands a piece to the connection, when it has taken the last one.
    async fn send(&mut self, bytes: Bytes, text: String) {
        if let Some(recording) = &mut self.recording {
            recording.add(&bytes);
        }
        let patience = Duration::from_secs(self.gateway.holds.reader_seconds.get());
        if let Some(sender) = &self.sender {
            if let Ok(Ok(permit)) = tokio::time::timeout(patience, sender.sender.reserve()).await {
                let taken = std::mem::replace(&mut self.in_flight, text);
                self.delivered.push(&taken);
                self.sent = self.sent.saturating_add(1);
                permit.send(bytes);
                return;
            }
            self.leave();
        }
        // Nobody reads it; it is billed only where the stream is read to its end all the same.
        if self.drains() {
            self.delivered.push(&text);
        }
    }

    /// The client is gone. The piece that it did not take was not delivered.
    fn leave(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        let in_flight = std::mem::take(&mut self.in_flight);
        let is_taken = sender.taken.load(Ordering::Acquire) >= self.sent;
        if is_taken {
            self.delivered.push(&in_flight);
        }
        if self.drains() {
            self.delivered_at_leave = Some(self.delivered.clone());
            if !is_taken {
                self.delivered.push(&in_flight);
            }
        }
    }

    /// Bills the stream and tells its client.
    async fn finish(mut self, end: End) {
        let has_left = self.sender.is_none();
        if !has_left {
            let in_flight = std::mem::take(&mut self.in_flight);
            self.delivered.push(&in_flight);
        }
        if let Some(delivered) = self.delivered_at_leave.take().filter(|_| end == End::ClientLeft) {
            // It has become too large to be kept: nobody will ever have the rest.
            self.delivered = delivered;
        }
        let (usage, mut tally) = self.tally(end);
        let is_delivered = !self.delivered.is_empty()
            || (end == End::Completed && matches!(self.transcript.reported(), Reported::Given(_)));
        let cost = self.charged.rule.cost(usage.total()).unwrap_or(Credits::MAX);
        if is_delivered && cost > self.charged.terms.held {
            // Thinking that does not show, for one.
            hold_what_is_owed(&self.gateway, &mut self.charged, cost).await;
        }
        if is_delivered && cost > self.charged.terms.held {
            tally = Tally::Clamped;
            tracing::warn!(charge = %self.charged.open.id, %cost, held = %self.charged.terms.held, "clamped");
        }
        let outcome = if is_delivered { Outcome::Delivered { cost } } else { Outcome::Failed };
        let ending = match end {
            End::Completed if has_left => Ending::ClientLeftDrained,
            End::Completed => Ending::Completed,
            End::ClientLeft => Ending::ClientLeft,
            End::Declined(_) | End::OverLimit => Ending::CreditsEnded,
            End::Broken(_) => Ending::UpstreamCut,
            End::Unwritable => Ending::Unwritable,
            End::Stopped => Ending::ServerStopped,
        };
        let record = usage_record(&self.gateway, &self.charged, &self.upstream, 200);
        let (prompt_tokens, completion_tokens) = (usage.prompt, usage.completion);
        let record = UsageRecord { prompt_tokens, completion_tokens, ending, tally, ..record };
        let frames = self.settle(end, outcome, record, usage).await;
        if let Some(StreamSender { sender, .. }) = self.sender.take() {
            let patience = Duration::from_secs(self.gateway.holds.reader_seconds.get());
            // Gone at last: it is billed, and can read of it in the ledger.
            let _ = tokio::time::timeout(patience, sender.send(frames)).await;
        }
    }

    /// The tokens that the stream is billed for.
    fn tally(&self, end: End) -> (TokenUsage, Tally) {
        let counted = TokenUsage::new(self.generation.ask.prompt.counted, self.delivered.total());
        match (end, self.transcript.reported()) {
            // Of a stream that did not come to its end the upstream has not said what it took.
            (End::Completed, Reported::Given(usage)) => (usage, Tally::Reported),
            (_, Reported::Absurd) => (counted, Tally::Absurd),
            _ => (counted, Tally::Counted),
        }
    }

    /// The account's owner has died, and with it what it had not written. The hold was, and is open again when
    /// the account is loaded again.
    async fn settle_again(
        &self,
        outcome: Outcome,
        record: UsageRecord,
    ) -> Result<Receipt<Settled>, AccountError<std::convert::Infallible>> {
        let lease = self.gateway.directory.owners_lease(self.charged.key.account).await;
        let account = lease.map_err(|_| AccountError::Gone)?;
        account.settle(self.charged.open.id, outcome, record, None).await
    }

    /// Ends the charge; answers the frames that tell of it.
    async fn settle(
        &mut self,
        end: End,
        outcome: Outcome,
        record: UsageRecord,
        usage: TokenUsage,
    ) -> Bytes {
        let request = self.charged.arrival.id.to_string();
        let empty = Transcript::new(self.charged.dialect, &self.generation.ask, request);
        let transcript = Arc::new(std::mem::replace(&mut self.transcript, empty));
        let recording = self.recording.take();
        let claim = recording.as_ref().map(|recording| Arc::clone(&recording.claim));
        let make = recording.filter(|_| outcome != Outcome::Failed).map(|recording| {
            let (transcript, at) = (Arc::clone(&transcript), self.gateway.clock.now());
            let reference = self.charged.open.id.0;
            let make = move |settled: &Settled| {
                let mut recording = recording;
                recording.add(&last_frames(&transcript, end, Some(settled), usage));
                let Recording { claim, status, headers, money, bytes, is_too_large, .. } =
                    recording;
                let answer = kept(status, &headers, &money, bytes.freeze());
                claim.record(reference, Some(&answer).filter(|_| !is_too_large), at)
            };
            let record: Record = Box::new(make);
            record
        });
        let Some(account) = self.charged.open.account.take() else {
            return last_frames(&transcript, End::Unwritable, None, usage);
        };
        let id = self.charged.open.id;
        let is_recorded = make.is_some();
        let settled = match account.settle(id, outcome, record.clone(), make).await {
            Err(_) => {
                drop(account);
                // Its repeat is charged instead.
                let outcome = if is_recorded { Outcome::Failed } else { outcome };
                self.settle_again(outcome, record).await
            }
            settled => settled,
        };
        let result = match settled {
            Ok(receipt) => {
                let patience = self.gateway.commit_timeout;
                let settled = receipt.decided;
                on_record(patience, None, receipt.durable, claim).await.map(|()| settled)
            }
            Err(_) => Err(Refusal::OutcomeUnknown("the account's owner died")),
        };
        match result {
            Ok(settled) => {
                failpoint!("stream-settled");
                let Settled { cost, balance, .. } = settled;
                tracing::info!(request_id = %id, %cost, %balance, ?end, "stream");
                last_frames(&transcript, end, Some(&settled), usage)
            }
            Err(error) => {
                tracing::error!(request_id = %id, %error, "a stream's end is not on record");
                last_frames(&transcript, End::Unwritable, None, usage)
            }
        }
    }
}

/// The chunk, and what else the upstream has sent already, as far as a piece goes: fewer writes where it is
/// fast, and no wait where it is not. And how it ended, if it did.
fn gather(source: &mut ByteStream, chunk: Bytes) -> (Bytes, Option<End>) {
    let mut bytes = BytesMut::from(chunk);
    while bytes.len() < PIECE_BYTES {
        match source.next().now_or_never() {
            Some(Some(Ok(more))) => {
                bytes.extend_from_slice(&more);
            }
            Some(Some(Err(failure))) => return (bytes.freeze(), Some(End::Broken(failure))),
            Some(None) => return (bytes.freeze(), Some(End::Completed)),
            None => break,
        }
    }
    (bytes.freeze(), None)
}

/// A chunk that came, or did not in time.
fn chunk(
    result: Result<Option<Result<Bytes, Failure>>, tokio::time::error::Elapsed>,
) -> Option<Result<Bytes, End>> {
    match result {
        Ok(next) => next.map(|chunk| chunk.map_err(End::Broken)),
        Err(_) => Some(Err(End::Broken(Failure::TimedOut))),
    }
}

/// The frames that end a stream, by how it ended and what it came to.
fn last_frames(
    transcript: &Transcript,
    end: End,
    settled: Option<&Settled>,
    usage: TokenUsage,
) -> Bytes {
    let bill = settled.map(|settled| Bill {
        cost: settled.cost,
        balance: settled.balance,
        left: settled.left,
        prompt: usage.prompt,
        completion: usage.completion,
    });
    let declined = |reason, message| Close::Declined { reason, message };
    let broken = |code, message| Close::Broken { code, message };
    let close = match end {
        End::Completed | End::ClientLeft => Close::Completed,
        End::Broken(Failure::TimedOut) => broken(
            "upstream_timeout",
            "The upstream service stopped answering. You were charged for what was delivered.",
        ),
        End::Broken(Failure::Broken(_) | Failure::Abandoned) => broken(
            "upstream_error",
            "The upstream service broke off. You were charged for what was delivered.",
        ),
        End::Stopped | End::Broken(Failure::Stopped) => {
            broken("server_stopped", "The server stops. You were charged for what was delivered.")
        }
        End::Unwritable => broken(
            "unavailable",
            "The stream was cut off. GET /api/payments/transactions tells what was charged.",
        ),
        End::OverLimit => {
            declined("token_limit", "The answer went on beyond its token limit and was cut off.")
        }
        End::Declined(decline) => match decline {
            Decline::PerRequestLimit
            | Decline::DailyLimit
            | Decline::MonthlyLimit
            | Decline::TotalLimit => declined(
                "spending_limit",
                "This access key has reached its spending limit. Please adjust limits.",
            ),
            Decline::KeyInactive => {
                declined("key_inactive", "This access key was revoked or deleted.")
            }
            Decline::AccountClosed => declined("account_suspended", "The account is suspended."),
            _ => declined(
                "insufficient_credits",
                "Your credits are used up. Please top up your account.",
            ),
        },
    };
    transcript.close(close, bill.as_ref())
}
