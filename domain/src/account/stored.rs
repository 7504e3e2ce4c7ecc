//! An account as stored in the database.

use super::key::KeyState;
use crate::environment::{AccountStatus, Environment};
use crate::hold::Hold;
use crate::ids::AccountId;
use crate::ledger::Link;
use crate::money::Credits;

/// The account's row, without its keys and open holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    /// Its id.
    pub id: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The balance: the sum of its ledger.
    pub balance: Credits,
    /// The number of its last entry; 0 before the first.
    pub seq: i64,
    /// The link of its last entry.
    pub link: Link,
}

/// Everything that is read from the database to load an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedAccount {
    /// Its own row.
    pub stored: StoredAccount,
    /// The epoch of the lease under which it is loaded. Every new entry stores it.
    pub epoch: i64,
    /// Its keys, with their counters.
    pub keys: Vec<KeyState>,
    /// Its open durable holds.
    pub holds: Vec<Hold>,
}

impl LoadedAccount {
    /// The balance: the sum of its ledger.
    #[must_use]
    pub fn balance(&self) -> Credits {
        self.stored.balance
    }
}
