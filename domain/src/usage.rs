//! Usage records: what one admitted call did. They move no money.

use std::sync::Arc;

use super::coded::coded_enum;
use super::ids::{AccountId, ChargeId, KeyId};
use super::money::Credits;
use super::window::Timestamp;

/// The longest name of a model that is kept, in bytes.
pub const MODEL_MAX: usize = 64;
/// The name that stands for further models of an account that has asked for [`MODELS_MAX`].
pub const OTHER_MODELS: &str = "(other)";
/// Models of an account that are counted separately while it is in memory: a caller may name any.
pub const MODELS_MAX: usize = 500;
/// No call has more tokens than this: a larger number is an error of the upstream, and must not
/// spoil a sum.
pub const TOKENS_MAX: u64 = 1 << 40;

/// Tokens as they are kept and summed up.
#[must_use]
pub fn kept_tokens(tokens: u64) -> i64 {
    i64::try_from(tokens.min(TOKENS_MAX)).unwrap_or(i64::MAX)
}

/// The models that an account has asked for: sorted, in a vector, because most ask for one or two,
/// and a million accounts may be in memory.
#[derive(Debug, Default)]
pub struct Models(Vec<Arc<str>>);

impl Models {
    /// The name under which a model is kept.
    pub fn kept(&mut self, model: Arc<str>) -> Arc<str> {
        match self.0.binary_search(&model) {
            Ok(place) => self.0.get(place).map_or(model, Arc::clone),
            Err(_) if self.0.len() >= MODELS_MAX => OTHER_MODELS.into(),
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, Arc::clone(&model));
                model
            }
        }
    }
}

/// A model's name as it is kept: no control characters, and no longer than [`MODEL_MAX`].
#[must_use]
pub fn model_name(name: &str) -> Arc<str> {
    let plain = name.chars().filter(|c| !c.is_control());
    let mut kept = String::new();
    for c in plain {
        if kept.len().saturating_add(c.len_utf8()) > MODEL_MAX {
            break;
        }
        kept.push(c);
    }
    kept.into()
}

/// The route of a call of which only what it cost is known.
pub const UNREPORTED: &str = "(unreported)";

coded_enum! {
    /// How a call that was charged came to its end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Ending {
        /// The upstream came to its end.
        #[default]
        Completed = 1,
        /// The upstream refused it, or failed before the first byte: nothing was delivered.
        Failed = 2,
        /// The upstream broke off in the middle of a stream.
        UpstreamCut = 3,
        /// The client left a stream, or before its first byte; the upstream was cancelled. The
        /// prompt and what was delivered are billed.
        ClientLeft = 4,
        /// The client left in the middle of a stream; the upstream was read to its end.
        ClientLeftDrained = 5,
        /// Credits or a limit were used up in the middle of a stream.
        CreditsEnded = 6,
        /// The ledger could not be written in the middle of a stream.
        Unwritable = 7,
        /// The server stopped before the upstream came to its end.
        ServerStopped = 8,
    }
}

coded_enum! {
    /// Where the tokens that a call was billed for come from.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Tally {
        /// From the upstream's `usage`, or nothing was to be counted.
        #[default]
        Reported = 1,
        /// The upstream named none: counted from the delivered text.
        Counted = 2,
        /// The upstream named absurd ones (negative): counted from the delivered text.
        Absurd = 3,
        /// The upstream named more than was held: clamped to the hold.
        Clamped = 4,
        /// Nobody can say: the upstream was cancelled while it could think unseen. All that was
        /// held.
        Held = 5,
    }
}

/// What one call did, one record for each call that was charged or answered free of charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// The call: its request, its charge and this record share one id.
    pub id: ChargeId,
    /// Who paid.
    pub account: AccountId,
    /// The ledger entry the call ended with; none if it cost nothing and nothing was debited.
    pub seq: Option<i64>,
    /// With which key.
    pub key: KeyId,
    /// The HTTP method.
    pub method: Arc<str>,
    /// The priced route, as the price list has it.
    pub route: Arc<str>,
    /// Which model it asked for; empty if it named none. Cut at [`MODEL_MAX`] bytes.
    pub model: Arc<str>,
    /// Which upstream served it.
    pub upstream: Arc<str>,
    /// The HTTP status answered.
    pub status: u16,
    /// What it cost.
    pub cost: Credits,
    /// Tokens of the prompt, by the tally.
    pub prompt_tokens: u64,
    /// Tokens of the completion, by the tally.
    pub completion_tokens: u64,
    /// How it ended.
    pub ending: Ending,
    /// Where its tokens come from.
    pub tally: Tally,
    /// When it arrived.
    pub started_at: Timestamp,
    /// Microseconds from arrival to the end of the upstream's answer, also if that is a stream.
    pub latency_micros: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_models_are_told_apart() {
        let mut models = Models::default();
        for number in 0..MODELS_MAX {
            let name: Arc<str> = format!("model-{number}").into();
            assert_eq!(models.kept(Arc::clone(&name)), name);
        }
        assert_eq!(&*models.kept("one-more".into()), OTHER_MODELS);
        assert_eq!(&*models.kept("model-0".into()), "model-0");
    }

    #[test]
    fn a_number_that_makes_no_sense_spoils_no_sum() {
        assert_eq!((kept_tokens(0), kept_tokens(1_000)), (0, 1_000));
        let most = kept_tokens(u64::MAX);
        assert!(most.checked_mul(1_000_000).is_some(), "{most}");
    }
}
