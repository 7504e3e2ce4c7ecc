//! How a stream ended, and the frames that tell the client.

use bytes::Bytes;

use crate::upstream::Failure;
use crate::upstream::dialect::{Close, ClosingBill, Transcript};
use domain::{Decline, Heard, Settled, TokenUsage};

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    /// The upstream has said in the stream that it failed.
    Failed,
    Broken(Failure),
    /// The upstream sends nothing for longer than it may.
    Silent,
    /// An event is larger than an event may be.
    EventTooLarge,
    /// It takes longer than a stream may.
    TooLong,
    ClientLeft,
    Declined(Decline),
    /// The upstream goes on far beyond its token limit.
    OverLimit,
    /// The ledger cannot be written.
    Unwritable,
    /// The server is shutting down.
    Stopped,
}

impl End {
    /// The same end after what the stream has shown. If the upstream has said that it failed, that
    /// was its end, whatever came then: the client may leave as soon as it has read it. What we end
    /// for a reason of ours stays that.
    pub(super) fn after(self, transcript: &Transcript) -> End {
        let is_ours = matches!(
            self,
            End::Declined(_) | End::OverLimit | End::Unwritable | End::EventTooLarge
        );
        if transcript.has_failed() && !is_ours { End::Failed } else { self }
    }

    /// How far the upstream was heard.
    pub(super) fn heard(self) -> Heard {
        match self {
            End::Completed => Heard::ToItsEnd,
            End::Failed | End::Broken(_) | End::Unwritable | End::Stopped => Heard::UntilItBroke,
            End::TooLong
            | End::Silent
            | End::EventTooLarge
            | End::ClientLeft
            | End::Declined(_)
            | End::OverLimit => Heard::UntilCancelled,
        }
    }
}

/// The frames that end a stream, with its bill if it is settled.
pub(super) fn last_frames(
    transcript: &Transcript,
    end: End,
    settled: Option<&Settled>,
    usage: TokenUsage,
) -> Bytes {
    let bill = settled.map(|settled| ClosingBill {
        cost: settled.cost,
        balance: settled.balance,
        left: settled.left,
        prompt: usage.prompt,
        completion: usage.completion,
    });
    let declined = |reason, message| Close::Declined { reason, message };
    let broken = |code, message| Close::Broken { code, message };
    let charged = settled.map(|settled| format!(" You were charged ${}.", settled.cost));
    let with_cost = |message: &str| format!("{message}{}", charged.clone().unwrap_or_default());
    let silent = with_cost("The upstream service was given up, because it took too long.");
    let too_large = with_cost("The upstream service sent an event that is too large.");
    let close = match end {
        End::Completed | End::ClientLeft => Close::Completed,
        End::Failed => Close::Failed,
        End::TooLong | End::Silent | End::Broken(Failure::GivenUp) => {
            broken("upstream_timeout", &silent)
        }
        End::EventTooLarge | End::Broken(Failure::TooLarge { .. }) => {
            broken("upstream_error", &too_large)
        }
        End::Broken(Failure::TimedOut) => broken(
            "upstream_timeout",
            "The upstream service stopped answering. You were charged for what was delivered.",
        ),
        End::Broken(
            Failure::Broken(_)
            | Failure::Lost
            | Failure::Abandoned
            | Failure::Busy { .. }
            | Failure::Nobody,
        ) => broken(
            "upstream_error",
            "The upstream service broke off. You were charged for what was delivered.",
        ),
        End::Stopped | End::Broken(Failure::Stopped) => broken(
            "server_stopped",
            "The server is shutting down. You were charged for what was delivered.",
        ),
        End::Unwritable => broken(
            "unavailable",
            "The stream was cut off. GET /api/payments/transactions shows what was charged.",
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
            Decline::AccountSuspended => declined("account_suspended", "The account is suspended."),
            _ => declined(
                "insufficient_credits",
                "Your credits are used up. Please top up your account.",
            ),
        },
    };
    transcript.close(close, bill.as_ref())
}
