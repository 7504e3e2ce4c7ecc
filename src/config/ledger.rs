//! `[accounts]`, `[ledger]` and `[usage]`.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::non_zero;

/// `[usage]`: usage records, which say what each call did. The ledger, which says what it cost, is
/// kept for ever.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageSettings {
    /// How long a usage record is kept, in days. If it is unset, for ever.
    pub keep_days: Option<NonZeroU32>,
}

/// `[accounts]`: accounts in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountSettings {
    /// Largest number of accounts kept in memory. Beyond it, those that were idle longest are
    /// unloaded.
    pub resident_max: usize,
    /// How long an account may be idle before it is unloaded, in seconds.
    pub idle_seconds: NonZeroU64,
    /// Largest number of calls of one account in progress. Further ones are refused with 429.
    pub in_flight_max: NonZeroU32,
}

impl Default for AccountSettings {
    fn default() -> Self {
        AccountSettings {
            resident_max: 100_000,
            idle_seconds: non_zero::u64(300),
            in_flight_max: non_zero::u32(1_024),
        }
    }
}

/// `[ledger]`: the ledger writer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerSettings {
    /// Largest number of writes that wait for their commit. Beyond it, new charges are refused with
    /// 503.
    pub queue_max: NonZeroUsize,
    /// Largest memory of the writes that wait for their commit, recorded answers included, in
    /// bytes. Beyond it, new charges are refused with 503.
    pub queue_bytes_max: NonZeroUsize,
    /// How long a write may wait for its commit, in milliseconds. While one waits longer, new
    /// charges are refused with 503.
    pub age_max_ms: NonZeroU64,
    /// Largest number of writes in one transaction.
    pub batch_max: NonZeroUsize,
    /// Largest memory of the writes of one transaction, in bytes.
    pub batch_bytes_max: NonZeroUsize,
    /// If true, paid calls are committed to the journal first, which is faster, and copied to the
    /// tables later (a checkpoint). If false, they are committed to the tables. What is in the
    /// journal at the start is copied in both cases.
    pub journal: bool,
    /// Number of writes in the journal that starts a checkpoint. Fewer are copied when no write has
    /// come for 10 ms. On SQLite a checkpoint waits until there are eight writes for each account
    /// on average, but not beyond four times this number or 16,384 writes.
    pub checkpoint_from: NonZeroUsize,
    /// How long one attempt to commit may take, in milliseconds. After that its outcome counts as
    /// unknown and is looked up on another connection. A write to SQLite's journal has no such
    /// limit.
    pub attempt_max_ms: NonZeroU64,
    /// How long a call waits for its commit, in seconds. After that it is answered 424. Its charge
    /// is not taken back and may still be written.
    pub commit_timeout_seconds: NonZeroU64,
    /// How often the server verifies every ledger, as `polysystems verify` does, in hours. If it is
    /// unset, it never does.
    pub verify_hours: Option<NonZeroU32>,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        LedgerSettings {
            queue_max: non_zero::usize(65_536),
            queue_bytes_max: non_zero::usize(256 * 1024 * 1024),
            age_max_ms: non_zero::u64(1_000),
            batch_max: non_zero::usize(1_024),
            batch_bytes_max: non_zero::usize(16 * 1024 * 1024),
            journal: true,
            checkpoint_from: non_zero::usize(4_096),
            attempt_max_ms: non_zero::u64(5_000),
            commit_timeout_seconds: non_zero::u64(30),
            verify_hours: None,
        }
    }
}
