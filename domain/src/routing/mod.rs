//! Which deployment is asked, and which one after it has failed. Pure: time, chance and sessions
//! are arguments, and nobody is asked from here.
//!
//! What is known of deployments ([`Standings`]) hangs on their numbers, so it outlives every
//! revision of the catalogue. A [`Plan`] is the way of one call: it holds the order of the
//! deployments, and looks at the standings again before each attempt.

mod breaker;
mod outcome;
mod plan;
mod recent;
mod rendezvous;
mod standing;

use sha2::{Digest as _, Sha256};

use super::ids::AccountId;

pub use breaker::{Breaker, Gate, HostOutcome, RetryBudget, retry_after};
pub use outcome::AttemptOutcome;
pub use plan::{Affinity, GiveUp, Need, Next, Plan, after, plan};
pub use rendezvous::WEIGHT_MAX;
pub use standing::{AttemptFailure, AttemptPermit, DeploymentHealth, Excluded, Standings};

/// The key of a session for [`Affinity::Session`]: whatever the client names, with its account, so
/// that nobody can steer another one's calls.
#[must_use]
pub fn session_key(account: AccountId, name: &[u8]) -> u64 {
    let hash = Sha256::new().chain_update(account.0.to_le_bytes()).chain_update(name).finalize();
    hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests;
