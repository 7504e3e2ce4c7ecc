//! Which tokens a call is billed for: what the upstream reports, what can be counted here, or what
//! is held where nobody can say.

use super::usage::Tally;

/// Upstreams have tokenizers of their own, so their counts may differ from ours by this factor and
/// by this many tokens.
const TOLERANCE: u64 = 2;
const TOLERANCE_TOKENS: u64 = 64;

/// The most tokens that an upstream is believed to count if we count so many.
#[must_use]
pub fn tolerated(tokens: u64) -> u64 {
    tokens.saturating_mul(TOLERANCE).saturating_add(TOLERANCE_TOKENS)
}

/// The tokens of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the completion.
    pub completion: u64,
    /// The total that the upstream reports; it may count more than the sum of the two.
    pub reported_total: u64,
}

impl TokenUsage {
    /// Without a reported total.
    #[must_use]
    pub fn new(prompt: u64, completion: u64) -> Self {
        TokenUsage { prompt, completion, reported_total: 0 }
    }

    /// All tokens that are billed.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion).max(self.reported_total)
    }
}

/// The usage that an upstream reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It reports none.
    Missing,
    /// It reports impossible numbers.
    Absurd,
    /// It reports this usage.
    Given(TokenUsage),
}

/// How far an upstream was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// To its end: a usage that it has reported is the truth.
    ToItsEnd,
    /// It broke off by itself.
    UntilItBroke,
    /// It was cancelled, because the client left or a limit of ours was reached. What it has
    /// generated unseen is not known.
    UntilCancelled,
}

/// What is known of a call's tokens at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What the upstream has reported so far.
    pub reported: Reported,
    /// The prompt and the delivered text, as they are counted here.
    pub counted: TokenUsage,
    /// How far the upstream was heard.
    pub heard: Heard,
    /// Can the upstream generate tokens that it does not show?
    pub may_hide: bool,
}

impl Evidence {
    /// Is the report enough to bill by, whatever is counted?
    #[must_use]
    pub fn is_enough(self) -> bool {
        let most = TokenUsage::new(u64::MAX, u64::MAX);
        let tally = Evidence { counted: most, ..self }.tally().1;
        self.heard == Heard::ToItsEnd && tally == Tally::Reported
    }

    /// Is the completion billed as the upstream reports it? Of the prompt our own count may have
    /// taken the place.
    #[must_use]
    pub fn reports_completion(self) -> bool {
        let billed = self.billed().0;
        match self.reported {
            Reported::Given(usage) => {
                usage == billed || (usage.prompt == 0 && usage.completion == billed.completion)
            }
            Reported::Missing | Reported::Absurd => false,
        }
    }

    /// The tokens that the call is billed for, and where they come from. If that is
    /// [`Tally::Held`], the call costs all that is held, and these tokens at least.
    #[must_use]
    pub fn tally(self) -> (TokenUsage, Tally) {
        let (usage, tally) = self.billed();
        // Nobody says what it has generated unseen.
        let is_unknown = self.may_hide
            && match self.heard {
                Heard::UntilCancelled => true,
                Heard::ToItsEnd => !self.reports_completion(),
                Heard::UntilItBroke => false,
            };
        (usage, if is_unknown { Tally::Held } else { tally })
    }

    fn billed(self) -> (TokenUsage, Tally) {
        let Evidence { reported, counted, heard, .. } = self;
        let given = match reported {
            Reported::Given(usage) => Some(usage),
            Reported::Missing | Reported::Absurd => None,
        };
        match (heard, given) {
            (Heard::ToItsEnd, Some(usage)) => with_what_was_seen(usage, counted),
            // A report on the way may be behind what was delivered since.
            (_, Some(usage)) if usage.total() >= counted.total() => (usage, Tally::Reported),
            _ if reported == Reported::Absurd => (counted, Tally::Absurd),
            _ => (counted, Tally::Counted),
        }
    }
}

/// The reported usage. A zero is not believed if there was a prompt, or if text was delivered.
fn with_what_was_seen(usage: TokenUsage, counted: TokenUsage) -> (TokenUsage, Tally) {
    let rest = usage.total().saturating_sub(usage.prompt);
    if rest == 0 && counted.completion > 0 {
        let prompt = if usage.prompt == 0 { counted.prompt } else { usage.prompt };
        return (TokenUsage::new(prompt, counted.completion), Tally::Counted);
    }
    if usage.prompt == 0 && usage.total() == usage.completion && counted.prompt > 0 {
        return (TokenUsage::new(counted.prompt, usage.completion), Tally::Counted);
    }
    (usage, Tally::Reported)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(prompt: u64, completion: u64, reported_total: u64) -> Reported {
        Reported::Given(TokenUsage { prompt, completion, reported_total })
    }

    #[test]
    fn a_report_counts_if_it_can_be_true() {
        let counted = TokenUsage::new(9, 50);
        for (reported, heard, total, tally) in [
            (given(8, 60, 0), Heard::ToItsEnd, 68, Tally::Reported),
            (given(8, 60, 99), Heard::ToItsEnd, 99, Tally::Reported),
            (given(8, 1, 0), Heard::ToItsEnd, 9, Tally::Reported),
            (given(0, 0, 70), Heard::ToItsEnd, 70, Tally::Reported),
            (given(0, 0, 0), Heard::ToItsEnd, 59, Tally::Counted),
            (given(8, 0, 8), Heard::ToItsEnd, 58, Tally::Counted),
            (given(0, 60, 0), Heard::ToItsEnd, 69, Tally::Counted),
            (Reported::Missing, Heard::ToItsEnd, 59, Tally::Counted),
            (Reported::Absurd, Heard::ToItsEnd, 59, Tally::Absurd),
            // Not yet at its end.
            (given(8, 20, 0), Heard::UntilItBroke, 59, Tally::Counted),
            (given(8, 60, 0), Heard::UntilItBroke, 68, Tally::Reported),
            (given(8, 60, 0), Heard::UntilCancelled, 68, Tally::Reported),
        ] {
            let evidence = Evidence { reported, counted, heard, may_hide: false };
            let (usage, source) = evidence.tally();
            assert_eq!((usage.total(), source), (total, tally), "{evidence:?}");
        }
        let nothing = TokenUsage::default();
        let evidence = Evidence {
            reported: given(0, 0, 0),
            counted: nothing,
            heard: Heard::ToItsEnd,
            may_hide: false,
        };
        assert_eq!(evidence.tally(), (nothing, Tally::Reported));
    }

    #[test]
    fn a_completion_is_reported_also_if_its_prompt_is_not() {
        let counted = TokenUsage::new(9, 50);
        for (reported, is_reported) in [
            (given(8, 60, 0), true),
            (given(0, 60, 0), true),
            (given(0, 0, 70), true),
            (given(8, 0, 8), false),
            (given(0, 0, 0), false),
            (Reported::Missing, false),
            (Reported::Absurd, false),
        ] {
            let heard = Heard::ToItsEnd;
            let evidence = Evidence { reported, counted, heard, may_hide: false };
            assert_eq!(evidence.reports_completion(), is_reported, "{evidence:?}");
        }
    }

    #[test]
    fn what_an_upstream_has_hidden_and_does_not_report_is_what_is_held() {
        let counted = TokenUsage::new(9, 5);
        for (reported, held) in [
            (Reported::Missing, true),
            (Reported::Absurd, true),
            (given(9, 0, 0), true),
            (given(0, 0, 0), true),
            (given(9, 50, 0), false),
            (given(0, 50, 0), false),
            (given(0, 0, 70), false),
        ] {
            let evidence = Evidence { reported, counted, heard: Heard::ToItsEnd, may_hide: true };
            assert_eq!(evidence.tally().1 == Tally::Held, held, "{evidence:?}");
        }
        for (heard, held) in
            [(Heard::UntilCancelled, true), (Heard::UntilItBroke, false), (Heard::ToItsEnd, true)]
        {
            for may_hide in [true, false] {
                let evidence = Evidence { reported: Reported::Missing, counted, heard, may_hide };
                let (usage, tally) = evidence.tally();
                assert_eq!(usage, counted);
                assert_eq!(tally == Tally::Held, held && may_hide, "{evidence:?}");
            }
        }
    }
}
