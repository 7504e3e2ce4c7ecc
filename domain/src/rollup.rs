//! Rollups: the sums of calls by hour and by day, for each account, key, route, model and status.
//!
//! Usage records are added to the rollups many at a time. A reader also counts the records that are
//! not in the rollups yet, so the sums include every call on record.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ids::{AccountId, KeyId};
use super::money::Credits;
use super::usage::{UsageRecord, kept_tokens};
use super::window::{MICROS_PER_DAY, Timestamp};

/// Number of buckets of a latency histogram.
pub const BUCKETS: usize = 24;
/// Upper ends of the buckets in microseconds, exclusive. Each is 1.7 times the one before, from a
/// millisecond to two minutes. The last bucket has no end.
pub const BUCKET_ENDS: [i64; BUCKETS - 1] = [
    1_000,
    1_700,
    2_890,
    4_913,
    8_352,
    14_198,
    24_137,
    41_033,
    69_757,
    118_587,
    201_599,
    342_718,
    582_622,
    990_457,
    1_683_778,
    2_862_423,
    4_866_119,
    8_272_402,
    14_063_084,
    23_907_243,
    40_642_314,
    69_091_933,
    117_456_287,
];
const MICROS_PER_HOUR: i64 = MICROS_PER_DAY / 24;

/// What a rollup groups calls by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RollupKey {
    /// The account that paid.
    pub account: AccountId,
    /// The hour or day in which the calls arrived: hours or days since 1970-01-01 UTC.
    pub period: i32,
    /// The key that was used.
    pub key: KeyId,
    /// The HTTP method.
    pub method: Arc<str>,
    /// The priced route.
    pub route: Arc<str>,
    /// The requested model.
    pub model: Arc<str>,
    /// The upstream that served it.
    pub upstream: Arc<str>,
    /// The HTTP status of the answer.
    pub status: u16,
}

/// The sums of a group of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rollup {
    /// Number of calls.
    pub calls: i64,
    /// Their cost.
    pub cost: Credits,
    /// Prompt tokens.
    pub prompt_tokens: i64,
    /// Completion tokens.
    pub completion_tokens: i64,
    /// The sum of their latencies, in microseconds.
    pub latency_micros: i64,
    /// Number of calls in each bucket of latency.
    pub buckets: [i64; BUCKETS],
}

/// The index of the bucket that a latency belongs to.
#[must_use]
pub fn bucket(latency_micros: i64) -> usize {
    BUCKET_ENDS.partition_point(|end| *end <= latency_micros)
}

/// The hour of an instant: hours since 1970-01-01 UTC.
#[must_use]
pub fn hour(at: Timestamp) -> i32 {
    i32::try_from(at.micros().div_euclid(MICROS_PER_HOUR)).unwrap_or(i32::MAX)
}

/// The first instant of an hour.
#[must_use]
pub fn hour_starts_at(hour: i32) -> Timestamp {
    Timestamp::from_micros(i64::from(hour).saturating_mul(MICROS_PER_HOUR))
}

impl Rollup {
    /// Adds another rollup.
    pub fn add(&mut self, other: &Rollup) {
        let sum = |one: i64, other: i64| one.saturating_add(other);
        self.calls = sum(self.calls, other.calls);
        self.cost = self.cost.checked_add(other.cost).unwrap_or(Credits::MAX);
        self.prompt_tokens = sum(self.prompt_tokens, other.prompt_tokens);
        self.completion_tokens = sum(self.completion_tokens, other.completion_tokens);
        self.latency_micros = sum(self.latency_micros, other.latency_micros);
        for (one, other) in self.buckets.iter_mut().zip(other.buckets) {
            *one = sum(*one, other);
        }
    }

    /// The latency below which `percent` of the calls were, in microseconds; `None` if there are no
    /// calls. Latencies count as evenly spread within a bucket.
    #[must_use]
    pub fn percentile(&self, percent: u8) -> Option<i64> {
        let counted = self.buckets.iter().fold(0_i64, |sum, count| sum.saturating_add(*count));
        let rank = i128::from(counted).saturating_mul(i128::from(percent));
        let rank = rank.saturating_add(99).checked_div(100)?.max(1);
        let mut below = 0_i128;
        for (place, count) in self.buckets.iter().enumerate() {
            let count = i128::from(*count);
            if count > 0 && below.saturating_add(count) >= rank {
                let start = place.checked_sub(1).and_then(|place| BUCKET_ENDS.get(place));
                let start = i128::from(start.copied().unwrap_or(0));
                let end = BUCKET_ENDS.get(place).copied().map(i128::from);
                // The last bucket has no end, so its start is the answer.
                let width = end.unwrap_or(start).saturating_sub(start);
                let within = width.saturating_mul(rank.saturating_sub(below)).checked_div(count)?;
                return i64::try_from(start.saturating_add(within)).ok();
            }
            below = below.saturating_add(count);
        }
        None
    }
}

/// The rollup of one call.
fn of_call(usage: &UsageRecord) -> Rollup {
    let mut buckets = [0; BUCKETS];
    if let Some(count) = buckets.get_mut(bucket(usage.latency_micros)) {
        *count = 1;
    }
    Rollup {
        calls: 1,
        cost: usage.cost,
        prompt_tokens: kept_tokens(usage.prompt_tokens),
        completion_tokens: kept_tokens(usage.completion_tokens),
        latency_micros: usage.latency_micros,
        buckets,
    }
}

/// Adds these calls to the rollups by hour.
pub fn add_usage(hours: &mut BTreeMap<RollupKey, Rollup>, usage: &[UsageRecord]) {
    for usage in usage {
        let key = RollupKey {
            account: usage.account,
            period: hour(usage.started_at),
            key: usage.key,
            method: Arc::clone(&usage.method),
            route: Arc::clone(&usage.route),
            model: Arc::clone(&usage.model),
            upstream: Arc::clone(&usage.upstream),
            status: usage.status,
        };
        hours.entry(key).or_default().add(&of_call(usage));
    }
}

/// The rollups by day of these hours.
#[must_use]
pub fn days_of(hours: &BTreeMap<RollupKey, Rollup>) -> BTreeMap<RollupKey, Rollup> {
    let mut days = BTreeMap::<_, Rollup>::new();
    for (key, rollup) in hours {
        let day = RollupKey { period: key.period.div_euclid(24), ..key.clone() };
        days.entry(day).or_default().add(rollup);
    }
    days
}

/// Splits the hours from `begin` to before `end` into three ranges: hours before the first complete
/// day, complete days, and hours after them. Hours and days count since 1970. Each range includes
/// its start and excludes its end.
#[must_use]
pub fn days_within(begin: i32, end: i32) -> [(i32, i32); 3] {
    let first = begin.saturating_add(23).div_euclid(24);
    let last = end.div_euclid(24);
    if last <= first {
        return [(begin, end), (first, first), (end, end)];
    }
    let hours = (first.saturating_mul(24), last.saturating_mul(24));
    [(begin, hours.0), (first, last), (hours.1, end)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_rise_and_hold_every_latency() {
        assert!(BUCKET_ENDS.is_sorted());
        assert_eq!((bucket(i64::MIN), bucket(0), bucket(999), bucket(1_000)), (0, 0, 0, 1));
        assert_eq!((bucket(117_456_286), bucket(117_456_287), bucket(i64::MAX)), (22, 23, 23));
    }

    #[test]
    fn percentiles_lie_in_the_bucket_of_their_rank() {
        assert_eq!(Rollup::default().percentile(50), None);
        let mut rollup = Rollup::default();
        rollup.buckets[1] = 98;
        rollup.buckets[10] = 1;
        rollup.buckets[23] = 1;
        let of = |percent| bucket(rollup.percentile(percent).unwrap() - 1);
        assert_eq!((of(1), of(50), of(98), of(99)), (1, 1, 1, 10));
        assert_eq!(rollup.percentile(100), Some(117_456_287));
        assert!(rollup.percentile(50).unwrap() < rollup.percentile(90).unwrap());
    }

    #[test]
    fn hours_and_days_change_on_the_microsecond() {
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        let (last, first) = (at("2026-11-30T23:59:59.999999Z"), at("2026-12-01T00:00:00Z"));
        assert_eq!(hour(last) + 1, hour(first));
        assert_eq!(hour_starts_at(hour(first)), first);
        assert_eq!(hour(Timestamp::from_micros(-1)), -1);
    }

    #[test]
    fn days_and_the_hours_around_them_cover_the_span() {
        for (begin, length) in
            (0..100).flat_map(|begin| (0..200).map(move |length| (begin, length)))
        {
            let end = begin + length;
            let [before, days, behind] = days_within(begin, end);
            let mut hours: Vec<i32> = (before.0..before.1).collect();
            hours.extend(days.0 * 24..days.1 * 24);
            hours.extend(behind.0..behind.1);
            assert_eq!(hours, (begin..end).collect::<Vec<_>>(), "{begin} {end}");
            assert!(before.1 - before.0 < 48 && behind.1 - behind.0 < 24, "{begin} {end}");
        }
    }
}
