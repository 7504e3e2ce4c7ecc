//! The hold of a stream, extended in steps as the stream goes on.

use super::Relay;
use super::end::End;
use crate::actors::AccountError;
use crate::pipeline::bill::deliver;
use crate::upstream::dialect::Content;
use domain::tally::tolerated;
use domain::{Credits, Decline, Extension};

impl Relay {
    /// The completion's tokens with `more` text after `before`, if they exceed the hold.
    pub(super) fn beyond_hold(&mut self, before: &Content, more: &Content) -> Option<u64> {
        if more.is_empty() {
            return None;
        }
        let prompt = self.generation.demand.prompt_tokens_max;
        let paid = self.charged.rule().tokens_within(self.charged.held());
        let bound =
            [&self.in_flight, before, more].iter().fold(self.delivered.bound(), |sum, content| {
                let bytes = u64::try_from(content.text.len()).unwrap_or(u64::MAX);
                sum.saturating_add(bytes).saturating_add(content.data_tokens)
            });
        if prompt.saturating_add(bound) <= paid {
            return None;
        }
        self.delivered.tighten();
        let mut exact = self.delivered.clone();
        for content in [&self.in_flight, before, more] {
            deliver(&mut exact, content);
        }
        Some(exact.total()).filter(|completion| prompt.saturating_add(*completion) > paid)
    }

    /// Extends the hold for so many tokens of the completion, and a step more.
    pub(super) async fn hold_for(&mut self, completion: u64) -> Result<(), End> {
        let prompt = self.generation.demand.prompt_tokens_max;
        if completion > tolerated(self.limit) {
            return Err(End::OverLimit);
        }
        let need = completion.min(self.limit);
        let step = self.step.saturating_mul(self.generation.demand.choices);
        let want = completion.saturating_add(step).min(self.limit);
        let cost = |completion: u64| self.charged.rule().cost(prompt.saturating_add(completion));
        let (Some(need), Some(want)) = (cost(need), cost(want)) else {
            return Err(End::Declined(Decline::AmountTooLarge));
        };
        if need <= self.charged.held() {
            // All that the upstream was allowed is held; it will report what it took.
            return Ok(());
        }
        let step_max = self.gateway.holds.step_tokens_max.get();
        self.step = self.step.saturating_mul(2).min(step_max);
        self.extend(need, want).await
    }

    async fn extend(&mut self, need: Credits, want: Credits) -> Result<(), End> {
        // A request that may be repeated earns nothing before its end: see `Drop`.
        let earned = if self.recording.is_some() { Credits::ZERO } else { self.earned() };
        let extension = Extension::Ahead { need, want, earned };
        let Some(account) = self.charged.account() else { return Err(End::Unwritable) };
        let receipt = match account.extend(self.charged.id(), extension).await {
            Ok(receipt) => receipt,
            Err(AccountError::Refused(decline)) => return Err(End::Declined(decline)),
            Err(AccountError::Gone) => return Err(End::Unwritable),
        };
        match tokio::time::timeout(self.gateway.commit_timeout, receipt.wait()).await {
            Ok(Ok(held)) => {
                failpoint!("stream-extended");
                self.charged.set_held(held);
                Ok(())
            }
            _ => Err(End::Unwritable),
        }
    }

    /// The cost of what has been delivered.
    pub(super) fn earned(&self) -> Credits {
        if self.delivered.is_empty() {
            return Credits::ZERO;
        }
        let prompt = self.generation.prompt_unreported();
        let tokens = prompt.saturating_add(self.delivered.total());
        self.charged.rule().cost(tokens).unwrap_or(Credits::MAX).min(self.charged.held())
    }
}
