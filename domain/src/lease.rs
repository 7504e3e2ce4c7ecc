//! Leases: the right to write accounts, until another process takes it over (fencing).

use uuid::Uuid;

use super::ids::AccountId;

/// Number of shards. Each account belongs to one of them.
pub const SHARDS: i64 = 128;

/// The right of a process to write accounts. It lasts until another process takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The id of the process.
    pub owner: Uuid,
    /// Every takeover increments it. Every ledger entry stores it.
    pub epoch: i64,
}

/// The shard of an account.
#[must_use]
pub fn shard(account: AccountId) -> i64 {
    account.0.rem_euclid(SHARDS)
}
