//! The hold of a stream, extended in steps as the stream goes on.

use super::Relay;
use super::end::End;
use crate::actors::AccountError;
use crate::pipeline::beside::told;
use crate::pipeline::bill::deliver;
use crate::upstream::dialect::Content;
use domain::pricing::Pricing;
use domain::stored_bill::StoredBill;
use domain::tally::tolerated;
use domain::{Credits, Decline, Extension, Flags, TokenUsage};

impl Relay {
    /// The completion's tokens with `more` text after `before`, if they exceed the hold.
    pub(super) fn beyond_hold(&mut self, before: &Content, more: &Content) -> Option<u64> {
        if more.is_empty() {
            return None;
        }
        let paid = self.paid();
        let bound =
            [&self.in_flight, before, more].iter().fold(self.delivered.bound(), |sum, content| {
                let bytes = u64::try_from(content.text.len()).unwrap_or(u64::MAX);
                sum.saturating_add(bytes).saturating_add(content.data_tokens)
            });
        if bound <= paid {
            return None;
        }
        self.delivered.tighten();
        let mut exact = self.delivered.clone();
        for content in [&self.in_flight, before, more] {
            deliver(&mut exact, content);
        }
        Some(exact.total()).filter(|completion| *completion > paid)
    }

    /// The tokens of the completion that the hold pays for. They are computed anew if it changes.
    fn paid(&mut self) -> u64 {
        let held = self.charged.held();
        match self.paid {
            Some((of, tokens)) if of == held => tokens,
            _ => {
                let demand = self.generation.demand;
                let tokens = self.charged.pricing().tokens_within(held, demand);
                self.paid = Some((held, tokens));
                tokens
            }
        }
    }

    /// Extends the hold for so many tokens of the completion, and a step more.
    pub(super) async fn hold_for(&mut self, completion: u64) -> Result<(), End> {
        if completion > tolerated(self.limit) {
            return Err(End::OverLimit);
        }
        let need = completion.min(self.limit);
        let step = self.step.saturating_mul(self.generation.demand.choices);
        let want = completion.saturating_add(step).min(self.limit);
        let demand = self.generation.demand;
        let cost = |completion: u64| self.charged.pricing().cost_with(demand, completion);
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
        let nothing = (Credits::ZERO, None);
        let (earned, bill) = if self.recording.is_some() { nothing } else { self.earned() };
        let extension = Extension::Ahead { need, want, earned, bill };
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

    /// The cost of what has been delivered, and its bill.
    pub(super) fn earned(&self) -> (Credits, Option<StoredBill>) {
        if self.delivered.is_empty() {
            return (Credits::ZERO, None);
        }
        let (delivered, held) = (self.delivered.total(), self.charged.held());
        let prompt = self.generation.prompt_estimate();
        match self.charged.pricing() {
            Pricing::Route(rule) => {
                let (tokens, cost) = rule.payable(prompt.saturating_add(delivered));
                let (prompt, flags) = (prompt.min(tokens), Flags::COUNTED.and(Flags::EARLY));
                let bill = self.charged.bill(prompt, tokens.saturating_sub(prompt), flags);
                let earned = cost.min(held);
                (earned, bill.map(|bill| bill.taken(cost, earned)))
            }
            Pricing::Model(model) => {
                let told = told(&self.charged, &self.transcript.told(), self.transcript.reported());
                let prompt =
                    self.generation.prompt_begun(self.transcript.reported_prompt(), prompt);
                let counted = TokenUsage::new(prompt, delivered);
                let billed = model.earned(&self.generation.demand, counted, told);
                let earned = billed.cost.min(held);
                let bill = StoredBill::of(&model.bill(&billed));
                (earned, bill.map(|bill| bill.taken(billed.whole, earned)))
            }
        }
    }
}
