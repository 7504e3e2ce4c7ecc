//! An account as the database has it.

use crate::environment::{AccountStatus, Environment};
use crate::ids::AccountId;
use crate::ledger::Link;
use crate::money::Credits;

/// An account as it is written down, beside its keys and its open holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    /// Its number.
    pub id: AccountId,
    /// Live or test.
    pub environment: Environment,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The fold of its ledger.
    pub balance: Credits,
    /// The last entry's number; 0 before the first.
    pub seq: i64,
    /// The last entry's link.
    pub link: Link,
}
