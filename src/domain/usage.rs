//! Usage records: what one admitted call did. They move no money.

use std::sync::Arc;

use super::ids::{AccountId, ChargeId, KeyId};
use super::money::Credits;
use super::window::Timestamp;

/// What one call did, one record for each call that was charged or answered free of charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// The call: its request, its charge and this record share one id.
    pub id: ChargeId,
    /// Who paid.
    pub account: AccountId,
    /// The ledger entry the call ended with; none where it cost nothing and nothing was debited.
    pub seq: Option<i64>,
    /// With which key.
    pub key: KeyId,
    /// The HTTP method.
    pub method: Arc<str>,
    /// The priced route, as the price list has it.
    pub route: Arc<str>,
    /// Which upstream served it.
    pub upstream: Arc<str>,
    /// The HTTP status answered.
    pub status: u16,
    /// What it cost.
    pub cost: Credits,
    /// Tokens of the prompt, as the upstream reported them.
    pub prompt_tokens: u64,
    /// Tokens of the completion, as the upstream reported them.
    pub completion_tokens: u64,
    /// When it arrived.
    pub started_at: Timestamp,
    /// Microseconds from arrival to the upstream's answer.
    pub latency_micros: i64,
}
