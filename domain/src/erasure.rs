//! The erasure of a user: what takes the place of the person, and when it may be.
//!
//! The ledger stays, with what refers to it. The person's name and address are replaced, so that
//! nothing in the database leads to them.

use uuid::Uuid;

use super::ids::UserId;
use super::money::Credits;
use super::window::Timestamp;

/// A user to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// The user.
    pub user: UserId,
    /// Takes the place of their name and, with a domain that does not exist, of their address. It
    /// is random, so that nobody can take it before.
    pub pseudonym: String,
    /// When they are erased.
    pub at: Timestamp,
}

impl Erasure {
    /// The erasure of a user. `random` must be new for each.
    #[must_use]
    pub fn new(user: UserId, random: Uuid, at: Timestamp) -> Self {
        Erasure { user, pseudonym: format!("erased-{}", random.simple()), at }
    }

    /// What takes the place of their address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}@erased.invalid", self.pseudonym)
    }
}

/// Why an account cannot be erased now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotErasable {
    /// It is suspended. What led to it may have to be looked into.
    #[error("the account is suspended")]
    Suspended,
    /// Calls run, or credits are on their way into the account.
    #[error("calls of the account are running")]
    Busy,
    /// It has this balance, which its owner does not give up.
    #[error("the account has ${0}")]
    Balance(Credits),
}
