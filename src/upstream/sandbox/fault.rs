//! Models that misbehave on purpose.

use std::time::Duration;

use crate::upstream::answer::{Answer, AnswerBody, Failure};

/// Delay of the slow model before a complete answer.
const SLOW_ANSWER: Duration = Duration::from_secs(2);

/// Delay of the slow model before each event of a stream.
pub(super) const SLOW_EVENT: Duration = Duration::from_millis(250);

/// Delay of the model that times out.
const TIMEOUT: Duration = Duration::from_secs(1);

/// After so many seconds the busy models may be asked again.
const BUSY_SECONDS: u64 = 1;

/// Usage that the model with absurd usage reports.
pub(super) const ABSURD_TOKENS: i64 = 1_000_000_000;

/// A fault that a model's name asks for, so that customers can test how they handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `sandbox-error`: the upstream fails; 502.
    Error,
    /// `sandbox-timeout`: the upstream takes too long; 504, after a second.
    Timeout,
    /// `sandbox-slow`: an answer after two seconds; in a stream an event every quarter of a second.
    Slow,
    /// `sandbox-cut`: a stream is cut off half-way; a complete answer fails with 502.
    Cut,
    /// `sandbox-absurd-usage`: the upstream reports a billion tokens.
    AbsurdUsage,
    /// `sandbox-negative-usage`: the upstream reports negative numbers.
    NegativeUsage,
    /// `sandbox-no-usage`: the upstream reports no usage.
    NoUsage,
    /// `sandbox-limited`: everybody who serves the model is at a limit; 429 with `Retry-After`.
    Limited,
    /// `sandbox-overloaded`: everybody who serves the model has failed too often; 503 with
    /// `Retry-After`.
    Overloaded,
    /// `sandbox-lost`: the upstream has the request, and breaks the connection; 502.
    Lost,
    /// `sandbox-long`: not a fault; as many tokens as the limit allows.
    Long,
}

impl Fault {
    /// The fault of a model.
    #[must_use]
    pub fn of(model: &str) -> Option<Self> {
        Some(match model {
            "sandbox-error" => Fault::Error,
            "sandbox-timeout" => Fault::Timeout,
            "sandbox-slow" => Fault::Slow,
            "sandbox-cut" => Fault::Cut,
            "sandbox-absurd-usage" => Fault::AbsurdUsage,
            "sandbox-negative-usage" => Fault::NegativeUsage,
            "sandbox-no-usage" => Fault::NoUsage,
            "sandbox-limited" => Fault::Limited,
            "sandbox-overloaded" => Fault::Overloaded,
            "sandbox-lost" => Fault::Lost,
            "sandbox-long" => Fault::Long,
            _ => return None,
        })
    }

    /// Waits or fails as the model's name says.
    pub(super) async fn act_on(self, answer: Answer) -> Result<Answer, Failure> {
        let is_stream = matches!(answer.body, AnswerBody::Stream(_));
        match self {
            Fault::Error => Err(Failure::Broken("the sandbox failed on purpose")),
            Fault::Limited | Fault::Overloaded => {
                let is_limit = self == Fault::Limited;
                Err(Failure::Busy { retry_after: BUSY_SECONDS, is_limit })
            }
            Fault::Lost => Err(Failure::Lost),
            Fault::Timeout => {
                tokio::time::sleep(TIMEOUT).await;
                Err(Failure::TimedOut)
            }
            Fault::Cut if !is_stream => Err(Failure::Broken("the sandbox broke off on purpose")),
            Fault::Slow if !is_stream => {
                tokio::time::sleep(SLOW_ANSWER).await;
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }
}
