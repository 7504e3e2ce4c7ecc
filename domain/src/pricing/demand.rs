//! The tokens that a request may use, and what is believed of a report about them.

use crate::tally::{TokenUsage, tolerated};

/// The tokens that a token-priced request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// An upper bound of the prompt's tokens.
    pub prompt_tokens_max: u64,
    /// Largest number of completion tokens of each choice.
    pub completion_tokens_max: u64,
    /// The number of completions (choices) that the request asks for.
    pub choices: u64,
    /// Completion tokens of each choice that must be affordable for the call to begin.
    pub start_tokens: u64,
    /// Completion tokens of each choice that are held when the call begins.
    pub first_tokens: u64,
    /// The context window of the model.
    pub context_tokens: u64,
    /// Was every part of the prompt counted here?
    pub is_counted: bool,
}

impl Demand {
    /// The tokens that are billed if the upstream reports `usage` after it was told this token
    /// limit for each choice. A prompt may be larger than its bound: only the upstream knows the
    /// tokens of what it fetches or adds, and no prompt is larger than the context window. A report
    /// above that is not true. What the request allowed is billed then if every part of its prompt
    /// was counted here. Otherwise so much is billed as can be true: a larger report never makes a
    /// smaller bill.
    #[must_use]
    pub fn believed(&self, usage: TokenUsage, limit: u64) -> u64 {
        let completion = limit.saturating_mul(self.choices);
        let (total, most) = (usage.total(), self.prompt_tokens_believed());
        let most = most.saturating_add(completion);
        if self.is_counted && total > most {
            return self.prompt_tokens_max.saturating_add(completion).min(total);
        }
        total.min(most)
    }

    /// An upstream may count so many tokens more of a completion than it was told: those that end
    /// it.
    pub(super) const SLACK_TOKENS: u64 = 64;

    /// The largest prompt that an upstream is believed to report.
    pub(super) fn prompt_tokens_believed(&self) -> u64 {
        tolerated(self.prompt_tokens_max).max(self.context_tokens)
    }

    /// The tokens that are billed if the completion was counted here, because the upstream reports
    /// none. Our count may be wrong, and the upstream was told this token limit for each choice. So
    /// what the client does not have counts up to the limit. An upstream may go on beyond its
    /// limit: what was delivered counts as far as an upstream's own tokenizer may differ from ours.
    #[must_use]
    pub fn counted(&self, usage: TokenUsage, limit: u64, is_delivered: bool) -> u64 {
        let told = limit.saturating_mul(self.choices);
        let completion = if is_delivered { tolerated(told) } else { told };
        let most = self.prompt_tokens_believed();
        let prompt =
            if self.is_counted && usage.prompt > most { 0 } else { usage.prompt.min(most) };
        prompt.max(self.prompt_tokens_max).saturating_add(completion).min(usage.total())
    }
}
