//! The arguments and results of the operations of an account.

use super::charge::{ChargeTerms, Decline, Settled};
use super::key::KeyState;
use crate::act::Act;
use crate::batch::{RecordedAnswer, Write};
use crate::environment::AccountStatus;
use crate::ids::AccountId;
use crate::limits::LimitsLeft;
use crate::money::Credits;
use crate::stored_bill::StoredBill;
use crate::window::Timestamp;

/// The result of an operation, and the write that makes it durable.
#[derive(Debug)]
pub struct Decision<T> {
    /// The result.
    pub decided: T,
    /// The write that makes it durable.
    pub write: Option<Box<Write>>,
    /// Must the write be durable before the caller is answered?
    pub is_awaited: bool,
}

impl<T> Decision<T> {
    /// Adds the act to the write. Makes a write of the act alone if there is none.
    #[must_use]
    pub fn done_by(self, account: AccountId, act: Option<Act>) -> Self {
        let Some(act) = act else { return self };
        let mut write = self.write.unwrap_or_else(|| Box::new(Write::nothing(account)));
        write.act = Some(Box::new(act));
        Decision { write: Some(write), ..self }
    }

    /// A result that may be answered once `write` is durable.
    pub(super) fn awaited(decided: T, write: Option<Write>) -> Self {
        Decision { decided, write: write.map(Box::new), is_awaited: true }
    }
}

/// What a charge would get now, and the state of its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeQuote {
    /// Its terms, or why it is declined.
    pub terms: Result<ChargeTerms, Decline>,
    /// The balance: the sum of the ledger.
    pub balance: Credits,
    /// The credits that can be spent.
    pub available: Credits,
    /// What the key may still spend.
    pub left: LimitsLeft,
}

/// How much a hold is to be extended. The amounts are for the complete hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// For what will be delivered next.
    Ahead {
        /// The least amount that is useful. With less the extension is declined.
        need: Credits,
        /// The wanted amount.
        want: Credits,
        /// The cost of what was delivered so far.
        earned: Credits,
        /// What that cost is for.
        bill: Option<StoredBill>,
    },
    /// For what was delivered already. It is owed even if the key has been revoked.
    Owed {
        /// The wanted amount.
        want: Credits,
    },
}

/// The state of an account at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The balance: the sum of the ledger.
    pub balance: Credits,
    /// The sum of the open holds.
    pub held: Credits,
    /// The credits that can be spent.
    pub available: Credits,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The requested key, if the account has it.
    pub key: Option<KeyState>,
    /// When the snapshot was taken.
    pub at: Timestamp,
}

/// The account has the largest number of keys that the settings allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account has reached its limit of keys")]
pub struct TooManyKeys;

/// Makes the answer that is recorded with the end of a charge.
pub type RecordAnswer = Box<dyn FnOnce(&Settled) -> RecordedAnswer + Send>;

/// No grant raises a balance above this: half of what an account can hold. Payments have the other
/// half for themselves, so one that was paid can always be credited.
pub const GRANTED_BALANCE_MAX: Credits = Credits::from_nanos(i64::MAX / 2);

/// What an operator does to a balance. Amounts are positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// Give credits without a payment.
    Grant(Credits),
    /// Take credits, at most the available ones.
    Take(Credits),
}
