//! How a stream ends, and the bill that its end shows.

use domain::{Credits, LimitsLeft};

/// How a stream ends.
#[derive(Clone, Copy, Debug)]
pub enum Close<'c> {
    /// It is complete.
    Completed,
    /// The upstream has said in it that it failed.
    Failed,
    /// We end it, for a reason that the client can act on.
    Declined {
        /// A word for programs.
        reason: &'static str,
        /// A sentence for people.
        message: &'c str,
    },
    /// It was cut off.
    Broken {
        /// A word for programs.
        code: &'static str,
        /// A sentence for people.
        message: &'c str,
    },
}

/// The bill that a stream ends with.
#[derive(Clone, Debug)]
pub struct ClosingBill {
    /// The cost.
    pub cost: Credits,
    /// The balance after it.
    pub balance: Credits,
    /// What the key may still spend.
    pub left: LimitsLeft,
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the completion.
    pub completion: u64,
}

/// The fields of the bill that tell the limits.
pub(super) fn left(left: LimitsLeft) -> String {
    let of = |name: &str, left: Option<Credits>| {
        left.map(|left| format!(",\"{name}\":{left}")).unwrap_or_default()
    };
    of("per_request_limit", left.per_request)
        + &of("daily_remaining", left.daily)
        + &of("monthly_remaining", left.monthly)
}

pub(super) fn ended_by(close: Close<'_>) -> String {
    match close {
        Close::Completed => String::new(),
        Close::Failed => ",\"ended_by\":\"upstream_error\"".to_owned(),
        Close::Declined { reason: word, .. } | Close::Broken { code: word, .. } => {
            format!(",\"ended_by\":\"{word}\"")
        }
    }
}
