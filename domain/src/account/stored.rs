//! An account as the database has it.

use super::key::KeyState;
use crate::environment::{AccountStatus, Environment};
use crate::hold::Hold;
use crate::ids::AccountId;
use crate::ledger::Link;
use crate::money::Credits;

/// The account's own row, without its keys and its open holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    /// Its id.
    pub id: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The sum of its ledger.
    pub balance: Credits,
    /// The last entry's number; 0 before the first.
    pub seq: i64,
    /// The last entry's link.
    pub link: Link,
}

/// Everything that the database has of an account, from which it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedAccount {
    /// Its own row.
    pub stored: StoredAccount,
    /// The epoch of the lease under which it is loaded. Every entry carries it.
    pub epoch: i64,
    /// Its keys, with their counters.
    pub keys: Vec<KeyState>,
    /// The durable holds that are open.
    pub holds: Vec<Hold>,
}

impl LoadedAccount {
    /// The sum of its ledger.
    #[must_use]
    pub fn balance(&self) -> Credits {
        self.stored.balance
    }
}
