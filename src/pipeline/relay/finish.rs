//! The end of a stream: its bill, and the frames that show it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Relay;
use super::end::{End, last_frames};
use super::recording::Recording;
use crate::actors::{AccountError, Receipt};
use crate::pipeline::beside::told;
use crate::pipeline::bill::{
    Cost, CountedText, cost, deliver, totals, usage_record, wait_committed,
};
use crate::pipeline::departure::{StreamSender, kept};
use crate::pipeline::oddity::{self, ReportedUsage};
use crate::upstream::dialect::Transcript;
use domain::Refusal;
use domain::account::RecordAnswer;
use domain::oddity::Oddities;
use domain::pricing::ToldParts;
use domain::{
    Credits, Ending, Evidence, Heard, Outcome, Reported, Settled, TokenUsage, UsageRecord,
};

impl Relay {
    /// Bills the stream and sends the last frames.
    pub(super) async fn finish(mut self, end: End) {
        let end = end.after(&self.transcript);
        let has_left = self.sender.is_none();
        if !has_left {
            let in_flight = std::mem::take(&mut self.in_flight);
            deliver(&mut self.delivered, &in_flight);
        }
        let (evidence, told) = self.evidence(end);
        // An upstream that fails before it has delivered anything is not paid, unless it reports
        // what it took.
        let fails_by_itself = end == End::Failed || evidence.heard == Heard::UntilItBroke;
        let reports_tokens =
            matches!(evidence.reported, Reported::Given(usage) if usage.total() > 0);
        let is_delivered = !self.delivered.is_empty()
            || !fails_by_itself
            || (end == End::Failed && reports_tokens);
        let (outcome, Cost { usage, tally, .. }) = if is_delivered {
            // An event that is too large was not passed on.
            let is_unseen = end == End::EventTooLarge;
            let counted = if is_unseen { CountedText::Unseen } else { CountedText::Delivered };
            let cost = cost(&self.gateway, &mut self.charged, evidence, told, counted).await;
            if !cost.odd.is_empty() {
                let told = self.transcript.told();
                let reported = ReportedUsage::Stream(&told);
                oddity::note(&self.gateway, &self.charged, &self.upstream, &cost, &reported);
            }
            (Outcome::Delivered { cost: cost.amount, bill: cost.bill }, cost)
        } else {
            let (usage, tally) = evidence.tally();
            let (amount, odd) = (Credits::ZERO, Oddities::NONE);
            (Outcome::Failed, Cost { amount, bill: None, usage, tally, odd })
        };
        let ending = match end {
            End::Completed if has_left => Ending::ClientLeftDrained,
            End::Completed => Ending::Completed,
            End::ClientLeft => Ending::ClientLeft,
            End::Declined(_) | End::OverLimit => Ending::CreditsEnded,
            End::Failed | End::Broken(_) | End::TooLong | End::Silent | End::EventTooLarge => {
                Ending::UpstreamCut
            }
            End::Unwritable => Ending::Unwritable,
            End::Stopped => Ending::ServerStopped,
        };
        let has_failed = matches!(ending, Ending::UpstreamCut);
        self.charged.end_span(usage, has_failed.then_some(502));
        let record = usage_record(&self.gateway, &self.charged, &self.upstream, 200);
        let (prompt_tokens, completion_tokens) = (usage.prompt, usage.completion);
        let record = UsageRecord { prompt_tokens, completion_tokens, ending, tally, ..record };
        let frames = self.settle(end, outcome, record, usage).await;
        if let Some(StreamSender { sender, .. }) = self.sender.take() {
            let patience = Duration::from_secs(self.gateway.holds.reader_seconds.get());
            // The client may have left by now. It is billed, and the ledger shows it.
            let _ = tokio::time::timeout(patience, sender.send(frames)).await;
        }
    }

    /// What is known of the stream's tokens.
    fn evidence(&self, end: End) -> (Evidence, ToldParts) {
        let reported = self.transcript.reported();
        let (told, reported) = if self.charged.by_model().is_some() {
            let told = told(&self.charged, &self.transcript.told(), reported);
            (told, totals(&told, reported))
        } else {
            (ToldParts::default(), reported)
        };
        // A failure is the end only if the protocol says so. Otherwise a report may be behind.
        // Without a report its failure is one like any other.
        let is_reported = matches!(reported, Reported::Given(_));
        let is_last = end == End::Failed && is_reported && self.transcript.has_last_event();
        let heard = if is_last { Heard::ToItsEnd } else { end.heard() };
        let untold = match heard {
            Heard::UntilItBroke => self.generation.prompt_estimate(),
            Heard::ToItsEnd | Heard::UntilCancelled => self.generation.prompt_unreported(),
        };
        // Some conventions count a part of the prompt beside what the transcript adds up.
        let begun = self.transcript.reported_prompt().map(|sum| sum.max(told.tokens().prompt));
        let prompt = self.generation.prompt_begun(begun, untold);
        let group = self.charged.arrival().group;
        let reports_usage = self.gateway.upstreams.request_policy(group).reports_usage;
        let evidence = Evidence {
            reported,
            counted: TokenUsage::new(prompt, self.delivered.total()),
            heard,
            may_hide: self.generation.may_hide && (reports_usage || heard != Heard::ToItsEnd),
        };
        (evidence, told)
    }

    /// Settles after the account's owner died. What it had not written is lost, but the hold was
    /// written: it is open again when the account is loaded again.
    async fn settle_again(
        &self,
        outcome: Outcome,
        record: UsageRecord,
    ) -> Result<Receipt<Settled>, AccountError<std::convert::Infallible>> {
        let lease = self.gateway.directory.owners_lease(self.charged.key().account).await;
        let account = lease.map_err(|_| AccountError::Gone)?;
        account.settle(self.charged.id(), outcome, record, None).await
    }

    /// Ends the charge, and returns the last frames.
    async fn settle(
        &mut self,
        end: End,
        outcome: Outcome,
        record: UsageRecord,
        usage: TokenUsage,
    ) -> Bytes {
        let request = self.charged.arrival().id.to_string();
        let empty = Transcript::new(self.charged.dialect(), &self.generation.request, request);
        let transcript = Arc::new(std::mem::replace(&mut self.transcript, empty));
        let recording = self.recording.take();
        let claim = recording.as_ref().map(|recording| Arc::clone(&recording.claim));
        let make = recording.filter(|_| outcome != Outcome::Failed).map(|recording| {
            let (transcript, at) = (Arc::clone(&transcript), self.gateway.clock.now());
            let reference = self.charged.id().0;
            let make = move |settled: &Settled| {
                let mut recording = recording;
                recording.add(&last_frames(&transcript, end, Some(settled), usage));
                let Recording { claim, status, headers, money, bytes, is_too_large, .. } =
                    recording;
                let answer = kept(status, &headers, &money, bytes.freeze());
                claim.record(reference, Some(&answer).filter(|_| !is_too_large), at)
            };
            let record: RecordAnswer = Box::new(make);
            record
        });
        let Some(account) = self.charged.take_account() else {
            return last_frames(&transcript, End::Unwritable, None, usage);
        };
        let id = self.charged.id();
        let is_recorded = make.is_some();
        let watched = self.gateway.metrics.live.is_watched().then(|| record.clone());
        let settled = match account.settle(id, outcome, record.clone(), make).await {
            Err(_) => {
                drop(account);
                // The repeat is charged instead.
                let outcome = if is_recorded { Outcome::Failed } else { outcome };
                self.settle_again(outcome, record).await
            }
            settled => settled,
        };
        let result = match settled {
            Ok(receipt) => {
                let patience = self.gateway.commit_timeout;
                let settled = receipt.decided;
                wait_committed(patience, None, receipt.durable, claim).await.map(|()| settled)
            }
            Err(_) => Err(Refusal::OutcomeUnknown("the account's owner died")),
        };
        match result {
            Ok(settled) => {
                failpoint!("stream-settled");
                let Settled { cost, balance, .. } = settled;
                let environment = self.charged.key().environment;
                self.gateway.metrics.sums.spend(environment, cost, usage);
                if let Some(record) = watched {
                    let user = self.charged.key().user;
                    self.gateway.metrics.live.note(user, environment, record, cost);
                }
                if let Some(paying) = &self.charged.arrival().paying {
                    paying.settle(cost);
                }
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
