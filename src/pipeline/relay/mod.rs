//! A stream, from its first byte to its bill.
//!
//! Bytes are passed on as they arrive, one piece at a time: the next piece is read from the
//! upstream when the client's connection has taken the last one. So a slow reader costs one piece
//! of memory, however long the stream is. What is delivered is counted as it goes, and never
//! exceeds what is held: the hold is extended in steps (`hold.rs`), and if that is declined the
//! stream is ended as its protocol ends streams. The bill is committed before the last frames,
//! which show it, go out (`finish.rs`).
//!
//! The relay is a task of its own. A client that leaves does not end the settlement. If all that
//! the upstream generates is shown, its work is ended, and the prompt and what was delivered are
//! billed. If it can think unseen, it is heard to its usage, within limits of time and tokens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::bill::{deliver, estimate};
use super::charge::ChargedCall;
use super::departure::Departure;
use super::departure::{Money, ServedBody, StreamSender, stream};
use super::gateway::Gateway;
use super::price::Generation;
use crate::actors::account::wait;
use crate::tokens::{TextCounter, vocabulary};
use crate::upstream::dialect::{Content, Transcript};
use crate::upstream::sse::{FrameTooLarge, Frames};
use crate::upstream::{ByteStream, Failure, StreamPolicy};
use domain::{Credits, Refusal};

mod end;
mod finish;
mod hold;
mod recording;

use end::End;
use recording::Recording;

/// A piece of this size goes out even if more has arrived, because a slow reader costs the memory
/// of one piece.
const PIECE_BYTES: usize = 16 * 1024;

/// Begins to relay a stream whose first bytes have arrived, once its hold is durable.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    mut charged: Box<ChargedCall>,
    upstream: Arc<str>,
    (status, headers): (StatusCode, HeaderMap),
    source: ByteStream,
) -> Result<Departure, Refusal> {
    let generation = charged.generation().cloned();
    let generation = generation.ok_or(Refusal::UpstreamFailed("a stream that nobody asked for"))?;
    match tokio::time::timeout(gateway.commit_timeout, wait(charged.take_debit())).await {
        Ok(Ok(())) => {}
        // Nothing was delivered, so nothing is charged: the open charge ends when it is dropped.
        Ok(Err(_)) => return Err(Refusal::NotHeld("the hold was not written")),
        Err(_) => return Err(Refusal::NotHeld("the commit of the hold takes too long")),
    }
    failpoint!("stream-hold-on-record");
    let money = Money {
        held: Some(charged.held()),
        max_tokens: charged.token_limit(),
        ..charged.money(&upstream)
    };
    let (sender, body) = stream();
    let request = charged.arrival().id.to_string();
    let limit = charged.token_limit().unwrap_or(generation.demand.completion_tokens_max);
    let recording = charged.take_claim().map(|claim| Recording {
        claim: Arc::new(claim),
        status,
        headers: headers.clone(),
        money: money.headers(),
        bytes: BytesMut::new(),
        bytes_max: gateway.idempotency.answer_max_bytes(),
        is_too_large: false,
    });
    let transcript = Transcript::new(charged.dialect(), &generation.request, request);
    let relay = Relay {
        policy: gateway.upstreams.stream_policy(charged.arrival().group),
        step: gateway.holds.step_tokens.get(),
        paid: None,
        transcript: if charged.by_model().is_some() { transcript.by_parts() } else { transcript },
        delivered: TextCounter::new(vocabulary(generation.request.model.as_deref())),
        in_flight: Content::default(),
        limit: charged.pricing().allowed(&generation.demand, limit),
        generation,
        sender: Some(sender),
        sent: 0,
        recording,
        heard_until: None,
        upstream,
        charged,
        gateway: Arc::clone(gateway),
    };
    // In the trace of its request, which is answered by then.
    let span =
        tracing::info_span!(target: crate::telemetry::SPANS, "deliver", otel.kind = "internal");
    let mut relay = Box::pin(relay.run(source).instrument(span));
    // The first poll sends what has arrived, so it leaves together with the answer's head.
    if relay.as_mut().now_or_never().is_none() {
        actix_web::rt::spawn(relay);
    }
    let money = money.headers();
    Ok(Departure { status, headers, body: ServedBody::Stream(body), money, is_replayed: false })
}

struct Relay {
    gateway: Arc<Gateway>,
    charged: Box<ChargedCall>,
    upstream: Arc<str>,
    generation: Generation,
    policy: StreamPolicy,
    transcript: Transcript,
    /// What counts as delivered.
    delivered: TextCounter,
    /// The content of the piece that the connection may not have taken yet.
    in_flight: Content,
    /// Completion tokens that the upstream may generate, for all choices together.
    limit: u64,
    /// Tokens of the next extension.
    step: u64,
    /// A hold, and the tokens of the completion that it pays for.
    paid: Option<(Credits, u64)>,
    /// To the client; `None` when it has left.
    sender: Option<StreamSender>,
    sent: u64,
    recording: Option<Recording>,
    /// How long the upstream is heard after the client has left.
    heard_until: Option<Instant>,
}

impl Drop for Relay {
    /// A relay that is cut off because the server stops is billed for what it has delivered. If the
    /// request may be repeated, it is not: the repeat is charged.
    fn drop(&mut self) {
        if self.charged.account().is_some() && self.recording.is_none() {
            let earned = self.earned();
            self.charged.set_earned(earned);
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
                end.unwrap_or(End::TooLong)
            }
            () = gateway.readiness.stopped() => End::Stopped,
        };
        // Cancels the upstream.
        drop(source);
        self.finish(end).await;
    }

    /// Is the stream read to its end if the client leaves?
    fn drains(&self) -> bool {
        self.is_recorded() || self.generation.is_heard_out(self.policy.on_disconnect)
    }

    /// Will a repeat of the request get all of the stream?
    fn is_recorded(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| !recording.is_too_large)
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
                // An end that the upstream did not announce is a cut.
                Some(End::Completed) if !self.transcript.is_whole() => {
                    return End::Broken(Failure::Broken("the stream has no end"));
                }
                Some(end) => return end,
                None => {}
            }
        }
    }

    /// The next chunk of the upstream; `None` at the end.
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
        let until = self.heard_until.unwrap_or_else(Instant::now);
        match tokio::time::timeout_at(until, next).await {
            Ok(result) if Instant::now() < until => chunk(result),
            _ => Some(Err(End::ClientLeft)),
        }
    }

    /// Passes on the frames that the chunk completes, as far as they are covered by the hold.
    async fn pass(&mut self, frames: &mut Frames, chunk: &[u8]) -> Option<End> {
        if let Err(FrameTooLarge { bytes }) = frames.push(chunk) {
            // It was made all the same.
            self.delivered.add(estimate(bytes));
            return Some(End::EventTooLarge);
        }
        let (mut out, mut content) = (BytesMut::new(), Content::default());
        let mut end = None;
        while let Some(frame) = frames.cut() {
            let piece = self.transcript.read(frame);
            if let Some(completion) = self.beyond_hold(&content, &piece.content) {
                // What is covered does not wait for the extension.
                if !out.is_empty() {
                    self.send(out.split().freeze(), std::mem::take(&mut content)).await;
                }
                if let Err(declined) = self.hold_for(completion).await {
                    end = Some(declined);
                    break;
                }
            }
            content.push(&piece.content);
            if let Some(passed) = piece.passed {
                out.extend_from_slice(&passed);
            }
            if out.len() >= PIECE_BYTES {
                self.send(out.split().freeze(), std::mem::take(&mut content)).await;
            }
            if piece.is_end {
                end = Some(End::Completed);
                break;
            }
        }
        if out.is_empty() {
            // What an event delivers that is kept for the end.
            deliver(&mut self.delivered, &content);
        } else {
            self.send(out.freeze(), content).await;
        }
        end
    }

    /// Hands a piece to the connection when it has taken the last one.
    async fn send(&mut self, bytes: Bytes, content: Content) {
        // What makes a recording too large was made for it.
        let is_heard = self.drains();
        if let Some(recording) = &mut self.recording {
            recording.add(&bytes);
        }
        let patience = Duration::from_secs(self.gateway.holds.reader_seconds.get());
        if let Some(sender) = &self.sender {
            if let Ok(Ok(permit)) = tokio::time::timeout(patience, sender.sender.reserve()).await {
                let taken = std::mem::replace(&mut self.in_flight, content);
                deliver(&mut self.delivered, &taken);
                self.sent = self.sent.saturating_add(1);
                permit.send(bytes);
                return;
            }
            self.leave();
        }
        // Nobody reads it; it is billed only if the stream is read to its end.
        if is_heard {
            deliver(&mut self.delivered, &content);
        }
    }

    /// The client has left. A piece that it did not take was not delivered.
    fn leave(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        let in_flight = std::mem::take(&mut self.in_flight);
        let is_taken = sender.taken.load(Ordering::Acquire) >= self.sent;
        if is_taken {
            deliver(&mut self.delivered, &in_flight);
        }
        if self.drains() {
            let holds = &self.gateway.holds;
            let seconds =
                if self.is_recorded() { holds.stream_seconds_max } else { holds.drain_seconds };
            let patience = Duration::from_secs(seconds.get());
            self.heard_until = Instant::now().checked_add(patience);
            if !is_taken {
                deliver(&mut self.delivered, &in_flight);
            }
        }
    }
}

/// The chunk, and what else has arrived, up to the size of a piece: fewer writes if the upstream is
/// fast, and no wait if it is slow. And how the stream ended, if it did.
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

/// A chunk, or the timeout.
fn chunk(
    result: Result<Option<Result<Bytes, Failure>>, tokio::time::error::Elapsed>,
) -> Option<Result<Bytes, End>> {
    match result {
        Ok(next) => next.map(|chunk| chunk.map_err(End::Broken)),
        Err(_) => Some(Err(End::Silent)),
    }
}
