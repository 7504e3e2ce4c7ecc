//! What the operations of an account take and answer.

use super::charge::{ChargeTerms, Decline, Settled};
use super::key::KeyState;
use crate::act::Act;
use crate::batch::{RecordedAnswer, Write};
use crate::environment::AccountStatus;
use crate::ids::AccountId;
use crate::limits::LimitsLeft;
use crate::money::Credits;
use crate::window::Timestamp;

/// A decision, and what makes it durable.
#[derive(Debug)]
pub struct Decision<T> {
    /// What was decided.
    pub decided: T,
    /// The write that makes it durable.
    pub write: Option<Box<Write>>,
    /// Must it be durable before the caller is answered?
    pub is_awaited: bool,
}

impl<T> Decision<T> {
    /// Adds the act to the write. If the decision leaves nothing to write, the act is written
    /// alone.
    #[must_use]
    pub fn done_by(self, account: AccountId, act: Option<Act>) -> Self {
        let Some(act) = act else { return self };
        let mut write = self.write.unwrap_or_else(|| Box::new(Write::nothing(account)));
        write.act = Some(Box::new(act));
        Decision { write: Some(write), ..self }
    }

    /// A decision that may be answered once `write` is durable.
    pub(super) fn awaited(decided: T, write: Option<Write>) -> Self {
        Decision { decided, write: write.map(Box::new), is_awaited: true }
    }
}

/// What a charge would get, and the state of its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeQuote {
    /// What it would get, or why it is declined.
    pub terms: Result<ChargeTerms, Decline>,
    /// The sum of the ledger.
    pub balance: Credits,
    /// What can be spent.
    pub available: Credits,
    /// What the key may still spend.
    pub left: LimitsLeft,
}

/// How far a hold is to be extended, in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// For what is to be delivered.
    Ahead {
        /// The least that is of use.
        need: Credits,
        /// This much is wanted.
        want: Credits,
        /// The cost of what has been delivered.
        earned: Credits,
    },
    /// For what was delivered already. It is owed, also if the key is out of use meanwhile.
    Owed {
        /// This much is wanted.
        want: Credits,
    },
}

/// The state of an account at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The sum of the ledger.
    pub balance: Credits,
    /// The sum of the open holds.
    pub held: Credits,
    /// What can be spent.
    pub available: Credits,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The key asked for, if the account has it.
    pub key: Option<KeyState>,
    /// When it was taken.
    pub at: Timestamp,
}

/// The account has as many keys as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account has as many keys as it may have")]
pub struct TooManyKeys;

/// Makes the answer that is recorded with the end of a charge, from its settlement.
pub type RecordAnswer = Box<dyn FnOnce(&Settled) -> RecordedAnswer + Send>;

/// What an operator does to a balance. The amount is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// Credits without a payment.
    Grant(Credits),
    /// At most what is available.
    Take(Credits),
}
