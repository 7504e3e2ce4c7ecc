//! `[rate_limit]`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::non_zero;

/// `[rate_limit]`: requests per time window.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitSettings {
    /// If false, no rate limit applies, not even those on guesses of passwords and codes and on
    /// messages to users. The cap on wrong codes of a day holds anyway.
    pub enabled: bool,
    /// Tier of accounts that have no tier of their own.
    pub default_tier: String,
    /// Largest number of requests from one address per second. It counts before the key is checked.
    /// IPv6 addresses count by /64, and by the /56 and the /48 that these are of, which may have
    /// four and eight times as many.
    pub address_per_second: NonZeroU32,
    /// Largest number of TLS handshakes of one address per second. Further connections are closed.
    /// Trusted proxies are not counted. IPv6 addresses count by /64, and by the /56 and the /48
    /// that these are of, which may have four and eight times as many.
    pub handshakes_per_second: NonZeroU32,
    /// Largest number of requests of one user per minute that change something behind a login, such
    /// as edits of API keys and tests of webhooks.
    pub changes_per_minute: NonZeroU32,
    /// Largest number of payments that one user begins per hour behind a login. Payments by x402 do
    /// not count: they are signed before they come.
    pub payments_per_hour: NonZeroU32,
    /// Largest number of requests of one session per minute that read something behind a login.
    pub reads_per_minute: NonZeroU32,
    /// The same from one address, whatever the sessions. IPv6 addresses count as above.
    pub address_reads_per_minute: NonZeroU32,
    /// Largest number of exports of everything that the server has of one user, per hour.
    pub exports_per_hour: NonZeroU32,
    /// Limit of reads, in percent of the tier's limits.
    pub read_percent: NonZeroU32,
    /// Limit of writes, in percent of the tier's limits.
    pub write_percent: NonZeroU32,
    /// Limit of text generation, in percent of the tier's limits.
    pub generation_percent: NonZeroU32,
    /// Limit of heavy processing, in percent of the tier's limits.
    pub heavy_percent: NonZeroU32,
    /// Tiers by name. Each has the limits `second`, `minute`, `hour` and `day`; a limit that is
    /// left out does not apply.
    pub tiers: BTreeMap<String, TierSettings>,
}

/// `[rate_limit.tiers.<name>]`: requests in each window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TierSettings {
    /// Requests per second. Unset: no limit.
    pub second: Option<NonZeroU32>,
    /// Requests per minute. Unset: no limit.
    pub minute: Option<NonZeroU32>,
    /// Requests per hour. Unset: no limit.
    pub hour: Option<NonZeroU32>,
    /// Requests per day. Unset: no limit.
    pub day: Option<NonZeroU32>,
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        let count = NonZeroU32::new;
        let tier = |second, minute, hour, day| TierSettings {
            second: count(second),
            minute: count(minute),
            hour: count(hour),
            day: count(day),
        };
        RateLimitSettings {
            enabled: true,
            default_tier: "pro".into(),
            address_per_second: non_zero::u32(1_000),
            handshakes_per_second: non_zero::u32(200),
            changes_per_minute: non_zero::u32(120),
            payments_per_hour: non_zero::u32(30),
            reads_per_minute: non_zero::u32(600),
            address_reads_per_minute: non_zero::u32(6_000),
            exports_per_hour: non_zero::u32(5),
            read_percent: non_zero::u32(100),
            write_percent: non_zero::u32(50),
            generation_percent: non_zero::u32(20),
            heavy_percent: non_zero::u32(10),
            tiers: BTreeMap::from([
                ("free".to_owned(), tier(1, 10, 100, 1_000)),
                ("basic".to_owned(), tier(5, 100, 1_000, 10_000)),
                ("pro".to_owned(), tier(20, 1_000, 10_000, 100_000)),
                ("enterprise".to_owned(), tier(200, 10_000, 100_000, 1_000_000)),
                ("unlimited".to_owned(), TierSettings::default()),
            ]),
        }
    }
}
