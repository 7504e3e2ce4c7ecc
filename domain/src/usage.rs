//! Usage records: what each charged call did. They move no money.

use std::sync::Arc;

use super::coded::coded_enum;
use super::ids::{AccountId, ChargeId, KeyId};
use super::money::Credits;
use super::window::Timestamp;

/// Longest stored name of a model, in bytes.
pub const MODEL_MAX: usize = 128;
/// The stored name of every further model, after an account has used [`MODELS_MAX`].
pub const OTHER_MODELS: &str = "(other)";
/// Most models of an account that are counted separately while it is in memory. The limit is needed
/// because a caller may send any name.
pub const MODELS_MAX: usize = 500;
/// Largest number of tokens of a call. A larger one is an error of the upstream and would spoil the
/// sums.
pub const TOKENS_MAX: u64 = 1 << 40;

/// A number of tokens as stored: at most [`TOKENS_MAX`].
#[must_use]
pub fn kept_tokens(tokens: u64) -> i64 {
    i64::try_from(tokens.min(TOKENS_MAX)).unwrap_or(i64::MAX)
}

/// The models that an account has used. A sorted vector, because most accounts use one or two, and
/// a million accounts may be in memory.
#[derive(Debug, Default)]
pub struct Models(Vec<Arc<str>>);

impl Models {
    /// The name to store for this model: its own, or [`OTHER_MODELS`].
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

/// A model's name as stored: without control characters, cut at [`MODEL_MAX`] bytes.
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

/// The route in the record of a call that was charged and never reported.
pub const UNREPORTED: &str = "(unreported)";

coded_enum! {
    /// How a charged call ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Ending {
        /// The upstream finished its answer.
        #[default]
        Completed = 1,
        /// The upstream refused the call or failed before the first byte. Nothing was delivered.
        Failed = 2,
        /// The upstream broke off during a stream, or a limit of ours on time or size ended its
        /// answer.
        UpstreamCut = 3,
        /// The client closed the connection, and the upstream was cancelled. The prompt and what
        /// was delivered are billed.
        ClientLeft = 4,
        /// The client closed the connection during a stream, and the upstream was read to the end.
        ClientLeftDrained = 5,
        /// Credits or a limit were used up during a stream.
        CreditsEnded = 6,
        /// The ledger could not be written during a stream.
        Unwritable = 7,
        /// The server stopped before the upstream finished.
        ServerStopped = 8,
    }
}

coded_enum! {
    /// Where the number of billed tokens comes from.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Tally {
        /// From the upstream's `usage`, or there was nothing to count.
        #[default]
        Reported = 1,
        /// The upstream reported none. The delivered text was counted.
        Counted = 2,
        /// The upstream reported negative numbers. The delivered text was counted.
        Absurd = 3,
        /// The upstream reported more than the hold pays for. The number was cut to the hold.
        Clamped = 4,
        /// Nobody can say: the upstream was cancelled while it could think unseen. All that was
        /// held.
        Held = 5,
    }
}

/// What one call did. Every call that was charged or answered for free has one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// The id that the call's request, charge and usage record share.
    pub id: ChargeId,
    /// The account that paid.
    pub account: AccountId,
    /// The number of the call's last ledger entry; `None` if it has none.
    pub seq: Option<i64>,
    /// The key that was used.
    pub key: KeyId,
    /// The HTTP method.
    pub method: Arc<str>,
    /// The priced route, as in the price list.
    pub route: Arc<str>,
    /// The requested model; empty if the request has none. Cut at [`MODEL_MAX`] bytes.
    pub model: Arc<str>,
    /// The upstream that served it.
    pub upstream: Arc<str>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What it cost.
    pub cost: Credits,
    /// Prompt tokens; see `tally`.
    pub prompt_tokens: u64,
    /// Completion tokens; see `tally`.
    pub completion_tokens: u64,
    /// How it ended.
    pub ending: Ending,
    /// Where the token numbers come from.
    pub tally: Tally,
    /// When the request arrived.
    pub started_at: Timestamp,
    /// Microseconds from the arrival to the end of the upstream's answer, including a stream.
    pub latency_micros: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_above_the_maximum_share_one_name() {
        let mut models = Models::default();
        for number in 0..MODELS_MAX {
            let name: Arc<str> = format!("model-{number}").into();
            assert_eq!(models.kept(Arc::clone(&name)), name);
        }
        assert_eq!(&*models.kept("one-more".into()), OTHER_MODELS);
        assert_eq!(&*models.kept("model-0".into()), "model-0");
    }

    #[test]
    fn absurd_token_counts_are_capped() {
        assert_eq!((kept_tokens(0), kept_tokens(1_000)), (0, 1_000));
        let most = kept_tokens(u64::MAX);
        assert!(most.checked_mul(1_000_000).is_some(), "{most}");
    }
}
