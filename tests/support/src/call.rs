//! The paid call that benchmarks and component tests use.

use domain::{AccountId, ChargeId, Credits, Ending, KeyId, Tally, Timestamp, UsageRecord};

/// What it costs.
pub const COST: Credits = Credits::from_nanos(2_260_000);

/// Its usage record.
pub fn usage(account: AccountId, key: KeyId, id: ChargeId, started_at: Timestamp) -> UsageRecord {
    UsageRecord {
        id,
        account,
        seq: None,
        key,
        method: "POST".into(),
        route: "/api/hub/agents/chat".into(),
        model: "".into(),
        upstream: "sandbox".into(),
        status: 200,
        cost: COST,
        prompt_tokens: 9,
        completion_tokens: 17,
        ending: Ending::Completed,
        tally: Tally::Reported,
        started_at,
        latency_micros: 100,
    }
}
