//! Metrics of the process: counters and histograms. Each update is one atomic addition.
//! [`crate::http::metrics`] prints them.
//!
//! The crate `prometheus-client` is not used for two reasons. It writes OpenMetrics, whose HELP,
//! TYPE and `# EOF` lines differ from the text format 0.0.4 that the dashboards here read. Its
//! histogram takes a lock for each observation and sums in floats.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use domain::Refusal;
use domain::route_group::RouteGroup;

pub mod live;
pub mod money;
pub mod process;
pub mod requests;

/// The commit that the server was built from, if the build said so (`POLYSYSTEMS_COMMIT`).
pub const COMMIT: Option<&str> = option_env!("POLYSYSTEMS_COMMIT");

/// Upper ends of the buckets of durations, in microseconds, inclusive.
pub const DURATIONS: [u64; 16] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
    120_000_000,
];
/// Upper ends of the buckets of sizes, inclusive.
pub const SIZES: [u64; 16] =
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];

/// A histogram with fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    ends: &'static [u64; 16],
    is_of_durations: bool,
    counts: [AtomicU64; 17],
    sum: AtomicU64,
}

impl Histogram {
    const fn new(ends: &'static [u64; 16], is_of_durations: bool) -> Self {
        Histogram {
            ends,
            is_of_durations,
            counts: [const { AtomicU64::new(0) }; 17],
            sum: AtomicU64::new(0),
        }
    }

    /// An empty histogram of durations.
    #[must_use]
    pub const fn of_durations() -> Self {
        Self::new(&DURATIONS, true)
    }

    /// An empty histogram of sizes.
    #[must_use]
    pub const fn of_sizes() -> Self {
        Self::new(&SIZES, false)
    }

    /// Counts one observation.
    pub fn count(&self, value: u64) {
        let index = self.ends.partition_point(|end| *end < value);
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration, in microseconds.
    pub fn count_duration(&self, duration: Duration) {
        self.count(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many observations there are, and their sum.
    #[must_use]
    pub fn total(&self) -> (u64, u64) {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        (counts.fold(0, u64::saturating_add), self.sum.load(Ordering::Relaxed))
    }

    /// Writes the histogram in the Prometheus text format. Durations are in seconds.
    pub fn write(&self, text: &mut String, name: &str, labels: &str) {
        let number =
            |value: u64| if self.is_of_durations { seconds(value) } else { value.to_string() };
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below: u64 = 0;
        let ends = self.ends.iter().map(|end| number(*end)).chain(["+Inf".to_owned()]);
        for (count, end) in self.counts.iter().zip(ends) {
            below = below.saturating_add(count.load(Ordering::Relaxed));
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{end}\"}} {below}");
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_sum{labels} {}", number(self.sum.load(Ordering::Relaxed)));
        let _ = writeln!(text, "{name}_count{labels} {below}");
    }
}

/// Prints microseconds as seconds.
#[must_use]
pub fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

macro_rules! refusals {
    ($($text:literal = $pattern:pat,)*) => {
        /// The values of the label for the reason of a refusal.
        pub const REFUSALS: &[&str] = &[$($text,)*];

        fn refusal_name(refusal: &Refusal) -> &'static str {
            match refusal {
                $($pattern => $text,)*
            }
        }
    };
}

refusals! {
    "rate_limited" = Refusal::RateLimited { .. },
    "too_many_in_flight" = Refusal::TooManyInFlight,
    "missing_key" = Refusal::MissingKey,
    "invalid_key" = Refusal::InvalidKey,
    "expired_key" = Refusal::ExpiredKey,
    "account_closed" = Refusal::AccountClosed,
    "not_permitted" = Refusal::NotPermitted,
    "model_not_sold" = Refusal::ModelNotSold,
    "model_not_priced" = Refusal::ModelNotPriced,
    "model_retired" = Refusal::ModelRetired { .. },
    "service_tier_not_sold" = Refusal::ServiceTierNotSold,
    "context_too_long" = Refusal::ContextTooLong { .. },
    "no_price" = Refusal::NoPrice,
    "bad_body" = Refusal::BadBody(_),
    "insufficient_credits" = Refusal::InsufficientCredits { .. },
    "spending_limit" = Refusal::SpendingLimit,
    "unavailable" = Refusal::Unavailable(_),
    "quarantined" = Refusal::Quarantined,
    "outcome_unknown" = Refusal::OutcomeUnknown(_),
    "not_held" = Refusal::NotHeld(_),
    "stopped" = Refusal::Stopped,
    "overloaded" = Refusal::Overloaded,
    "upstream_failed" = Refusal::UpstreamFailed(_),
    "upstream_lost" = Refusal::UpstreamLost,
    "upstream_busy" = Refusal::UpstreamBusy { .. },
    "model_unavailable" = Refusal::ModelUnavailable,
    "upstream_timed_out" = Refusal::UpstreamTimedOut,
    "upstream_given_up" = Refusal::UpstreamGivenUp { .. },
    "answer_too_large" = Refusal::AnswerTooLarge { .. },
    "client_left" = Refusal::ClientLeft,
    "repeat_too_early" = Refusal::RepeatTooEarly,
    "repeat_differs" = Refusal::RepeatDiffers,
    "repeat_not_kept" = Refusal::RepeatNotKept,
}

/// The metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    /// Number of paid calls that were answered.
    pub calls: AtomicU64,
    refusals: [AtomicU64; REFUSALS.len()],
    upstreams: [Histogram; RouteGroup::ALL.len()],
    /// Latency of the last synced write to the data directory, in microseconds. -1 before the first
    /// one.
    pub fsync_micros: AtomicI64,
    /// Number of findings of the last verification. -1 before the first one.
    pub verify_findings: AtomicI64,
    /// When the last verification ended, in Unix seconds. Before that: when the server started, if
    /// periodic verification is on. Otherwise 0.
    pub verified_at: AtomicI64,
    /// Number of verifications that could not run.
    pub verify_failures: AtomicU64,
    /// Number of attempts to deliver webhooks: the successful ones, then the failed ones.
    pub webhooks: [AtomicU64; 2],
    /// 1 if the file of the catalogue is faulty, and what was sold before goes on.
    pub catalogue_file_faulty: AtomicU64,
    /// How long requests took. Empty until the routes are known.
    pub requests: OnceLock<requests::Requests>,
    /// Money and tokens.
    pub sums: money::Sums,
    /// The last calls, while somebody watches.
    pub live: live::LiveCalls,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            calls: AtomicU64::new(0),
            refusals: [const { AtomicU64::new(0) }; REFUSALS.len()],
            upstreams: [const { Histogram::of_durations() }; RouteGroup::ALL.len()],
            fsync_micros: AtomicI64::new(-1),
            verify_findings: AtomicI64::new(-1),
            verified_at: AtomicI64::new(0),
            verify_failures: AtomicU64::new(0),
            webhooks: [const { AtomicU64::new(0) }; 2],
            catalogue_file_faulty: AtomicU64::new(0),
            requests: OnceLock::new(),
            sums: money::Sums::default(),
            live: live::LiveCalls::default(),
        }
    }
}

impl Metrics {
    /// Counts a call that was refused.
    pub fn refuse(&self, refusal: &Refusal) {
        let name = refusal_name(refusal);
        let index = REFUSALS.iter().position(|other| *other == name);
        if let Some(count) = index.and_then(|index| self.refusals.get(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records how long an upstream took.
    pub fn upstream(&self, group: RouteGroup, duration: Duration) {
        let index = RouteGroup::ALL.iter().position(|other| *other == group);
        if let Some(histogram) = index.and_then(|index| self.upstreams.get(index)) {
            histogram.count_duration(duration);
        }
    }

    /// Number of refusals by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refusals.iter().map(|count| count.load(Ordering::Relaxed));
        REFUSALS.iter().copied().zip(counts)
    }

    /// Durations of upstream calls by route group.
    pub fn upstreams(&self) -> impl Iterator<Item = (RouteGroup, &Histogram)> {
        RouteGroup::ALL.into_iter().zip(&self.upstreams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_buckets_are_inclusive() {
        let histogram = Histogram::of_durations();
        for micros in [100, 101, 120_000_001] {
            histogram.count(micros);
        }
        let mut text = String::new();
        histogram.write(&mut text, "x_seconds", "lane=\"journal\"");
        assert!(text.contains("x_seconds_bucket{lane=\"journal\",le=\"0.0001\"} 1\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{lane=\"journal\",le=\"0.00025\"} 2\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{lane=\"journal\",le=\"120\"} 2\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{lane=\"journal\",le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.ends_with(
            "x_seconds_sum{lane=\"journal\"} 120.000202\nx_seconds_count{lane=\"journal\"} 3\n"
        ));
    }

    #[test]
    fn every_refusal_is_counted_under_its_name() {
        let metrics = Metrics::default();
        metrics.refuse(&Refusal::SpendingLimit);
        metrics.refuse(&Refusal::RepeatNotKept);
        let counted: Vec<_> = metrics.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("spending_limit", 1), ("repeat_not_kept", 1)]);
    }
}
