//! How attempts ended, as they are recorded and counted.

use super::standing::AttemptFailure;
use crate::coded::coded_enum;

coded_enum! {
    /// How an attempt ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum AttemptOutcome {
        /// The provider answered.
        Answered = 1 => "answered",
        /// See [`AttemptFailure::Unreachable`].
        Unreachable = 2 => "unreachable",
        /// See [`AttemptFailure::Broken`].
        Broken = 3 => "broken",
        /// See [`AttemptFailure::RateLimited`].
        RateLimited = 4 => "rate_limited",
        /// See [`AttemptFailure::OutOfMoney`].
        OutOfMoney = 5 => "out_of_money",
        /// See [`AttemptFailure::Refused`].
        Refused = 6 => "refused",
        /// See [`AttemptFailure::NoSuchModel`].
        NoSuchModel = 7 => "no_such_model",
        /// See [`AttemptFailure::ContextTooLong`].
        ContextTooLong = 8 => "context_too_long",
        /// See [`AttemptFailure::Policy`].
        Policy = 9 => "policy",
        /// The provider refused the request itself.
        RequestRefused = 10 => "request_refused",
        /// The client left, or the server stopped.
        Dropped = 11 => "dropped",
        /// See [`AttemptFailure::NotServed`].
        NotServed = 12 => "not_served",
    }
}

impl AttemptOutcome {
    /// Can the provider have been at work on it for nothing? What it refuses costs nothing, and
    /// what it answers is the cost of the call.
    #[must_use]
    pub const fn may_cost(self, is_refused: bool) -> bool {
        !is_refused && matches!(self, AttemptOutcome::Broken | AttemptOutcome::Dropped)
    }
}

impl From<AttemptFailure> for AttemptOutcome {
    fn from(failure: AttemptFailure) -> Self {
        match failure {
            AttemptFailure::Unreachable => AttemptOutcome::Unreachable,
            AttemptFailure::Broken => AttemptOutcome::Broken,
            AttemptFailure::RateLimited { .. } => AttemptOutcome::RateLimited,
            AttemptFailure::OutOfMoney => AttemptOutcome::OutOfMoney,
            AttemptFailure::Refused => AttemptOutcome::Refused,
            AttemptFailure::NoSuchModel => AttemptOutcome::NoSuchModel,
            AttemptFailure::NotServed => AttemptOutcome::NotServed,
            AttemptFailure::ContextTooLong => AttemptOutcome::ContextTooLong,
            AttemptFailure::Policy => AttemptOutcome::Policy,
            AttemptFailure::Callers => AttemptOutcome::RequestRefused,
            AttemptFailure::ClientGone => AttemptOutcome::Dropped,
        }
    }
}
