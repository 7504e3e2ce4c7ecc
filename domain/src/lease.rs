//! Leases: the right to write accounts, until another process takes it (fencing).

use uuid::Uuid;

use super::ids::AccountId;

/// How many shards the accounts are hashed to.
pub const SHARDS: i64 = 128;

/// The right to write every account, until another process takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// This process.
    pub owner: Uuid,
    /// Raised by every takeover; stored on every ledger entry.
    pub epoch: i64,
}

/// The shard of an account.
#[must_use]
pub fn shard(account: AccountId) -> i64 {
    account.0.rem_euclid(SHARDS)
}
