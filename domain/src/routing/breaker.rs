//! Breakers, cooldowns and the budget of retries: who is not asked for a while.

use super::recent::Recent;
use crate::window::Timestamp;

const SECOND: i64 = 1_000_000;
/// A breaker opens after so many failures of the last 20 seconds, if they are more than half of
/// the calls.
const FAILURES_MIN: u64 = 10;
/// It opens as well after so many failures in a row: a host that dies has many calls behind it that
/// went well.
const IN_A_ROW: u32 = 5;
/// How long a breaker is open at first, and at most: 5 s doubling to 60 s.
const OPEN_MIN: i64 = 5 * SECOND;
const OPEN_MAX: i64 = 60 * SECOND;
/// How long a quota group cools at least and at most.
const COOL_MIN: i64 = SECOND;
const COOL_MAX: i64 = 60 * SECOND;

/// How a call went for the host that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOutcome {
    /// The host answered as it should. A refusal with a reason is an answer, too.
    Well,
    /// The host failed.
    Failed,
    /// It says nothing about the host, such as a client that left.
    Neutral,
}

/// What a breaker says to one more call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may go.
    Go,
    /// It may go as the one probe.
    Probe,
    /// It may not go before this instant.
    Shut(Timestamp),
}

#[derive(Clone, Copy, Debug, Default)]
enum BreakerState {
    #[default]
    Closed,
    /// Nobody is asked before `until`, then one probe.
    Open { until: Timestamp, for_micros: i64, is_probed: bool },
}

/// The breaker of one deployment. It opens if calls fail, and closes if a probe succeeds.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// Calls and failures.
    recent: Recent<20>,
    /// Failures since the last call that went well.
    in_a_row: u32,
    state: BreakerState,
}

impl Breaker {
    /// What one more call may do now.
    #[must_use]
    pub fn gate(&self, now: Timestamp) -> Gate {
        match self.state {
            BreakerState::Closed => Gate::Go,
            BreakerState::Open { until, is_probed: false, .. } if until <= now => Gate::Probe,
            // A probe takes some time; nobody knows how long.
            BreakerState::Open { until, .. } => Gate::Shut(until.max(now.plus_micros(COOL_MIN))),
        }
    }

    /// Takes the place of the probe. It is free again after [`Breaker::ended`].
    pub fn probe(&mut self) {
        if let BreakerState::Open { is_probed, .. } = &mut self.state {
            *is_probed = true;
        }
    }

    /// A call has ended. A probe that says nothing leaves its place to another one.
    pub fn ended(&mut self, outcome: HostOutcome, was_probe: bool, now: Timestamp) {
        if outcome != HostOutcome::Neutral {
            self.recent.add([1, u64::from(outcome == HostOutcome::Failed)], now);
            let in_a_row = self.in_a_row.saturating_add(1);
            self.in_a_row = if outcome == HostOutcome::Failed { in_a_row } else { 0 };
        }
        match (&mut self.state, outcome) {
            (BreakerState::Open { .. }, HostOutcome::Well) if was_probe => {
                *self = Breaker::default();
            }
            (BreakerState::Open { until, for_micros, is_probed }, HostOutcome::Failed)
                if was_probe =>
            {
                *for_micros = for_micros.saturating_mul(2).min(OPEN_MAX);
                (*until, *is_probed) = (now.plus_micros(*for_micros), false);
            }
            (BreakerState::Open { is_probed, .. }, HostOutcome::Neutral) if was_probe => {
                *is_probed = false;
            }
            (BreakerState::Closed, HostOutcome::Failed) => {
                let [calls, failures] = self.recent.sums(now);
                let are_most = failures >= FAILURES_MIN && failures.saturating_mul(2) > calls;
                if are_most || self.in_a_row >= IN_A_ROW {
                    let until = now.plus_micros(OPEN_MIN);
                    let for_micros = OPEN_MIN;
                    self.state = BreakerState::Open { until, for_micros, is_probed: false };
                }
            }
            _ => {}
        }
    }
}

/// How long the quota group of a credential is not asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cooldown {
    until: Option<Timestamp>,
    /// How often in a row it cooled without being told how long.
    times: u32,
}

impl Cooldown {
    /// Until when it cools; `None` if it does not.
    pub(super) fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|until| *until > now)
    }

    /// It must cool: as long as it is told, between 1 s and 60 s, or 1, 2, 4 to 60 s.
    pub(super) fn cool(&mut self, told_micros: Option<i64>, now: Timestamp) {
        let micros = told_micros.filter(|micros| *micros > 0).unwrap_or_else(|| {
            let doubled = COOL_MIN.checked_shl(self.times.min(6)).unwrap_or(COOL_MAX);
            self.times = self.times.saturating_add(1);
            doubled
        });
        let until = now.plus_micros(micros.clamp(COOL_MIN, COOL_MAX));
        self.until = self.until.max(Some(until));
    }

    /// A call succeeded.
    pub(super) fn succeeded(&mut self) {
        self.times = 0;
    }
}

/// The budget of retries: of the calls of the last 10 seconds a tenth may be repeated, and three
/// more. So an outage is not made several times as large.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    /// First attempts, and others.
    recent: Recent<10>,
}

impl RetryBudget {
    /// Beside the share.
    const FREE: u64 = 3;

    /// A call begins.
    pub fn call(&mut self, now: Timestamp) {
        self.recent.add([1, 0], now);
    }

    /// Takes one retry; `false` if there is none.
    #[must_use]
    pub fn retry(&mut self, now: Timestamp) -> bool {
        let [calls, retries] = self.recent.sums(now);
        let is_free = retries < (calls / 10).saturating_add(Self::FREE);
        if is_free {
            self.recent.add([0, 1], now);
        }
        is_free
    }
}

/// The time to wait that an answer of status 429 or 503 asks for, in microseconds, from the text of
/// its header `Retry-After`: seconds, or a date. `None` if it is neither, or if it is over.
#[must_use]
pub fn retry_after(text: &str, now: Timestamp) -> Option<i64> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let micros = if !whole.is_empty() && is_number(whole) && is_number(fraction) {
        let seconds = whole.parse().unwrap_or(i64::MAX / SECOND).saturating_mul(SECOND);
        let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
        seconds.saturating_add(micros.parse().unwrap_or(0))
    } else {
        let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
        Timestamp::from_micros(at.timestamp_micros()).micros_since(now)
    };
    (micros > 0).then_some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * SECOND)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.ended(HostOutcome::Failed, false, at(100));
        }
        breaker
    }

    #[test]
    fn a_breaker_opens_if_more_than_half_of_enough_calls_failed() {
        let mut breaker = Breaker::default();
        for _ in 0..9 {
            breaker.ended(HostOutcome::Failed, false, at(100));
            breaker.ended(HostOutcome::Well, false, at(100));
        }
        assert_eq!(breaker.gate(at(100)), Gate::Go);
        breaker.ended(HostOutcome::Neutral, false, at(100));
        assert_eq!(breaker.gate(at(100)), Gate::Go);
        breaker.ended(HostOutcome::Failed, false, at(119));
        assert_eq!(breaker.gate(at(119)), Gate::Shut(at(124)));
        // Half of them is not more than half; old failures do not count.
        let mut half = Breaker::default();
        for _ in 0..20 {
            half.ended(HostOutcome::Well, false, at(100));
            half.ended(HostOutcome::Failed, false, at(100));
        }
        assert_eq!(half.gate(at(100)), Gate::Go);
        half.ended(HostOutcome::Failed, false, at(120));
        assert_eq!(half.gate(at(120)), Gate::Go);
    }

    #[test]
    fn a_breaker_opens_after_five_failures_in_a_row() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.ended(HostOutcome::Well, false, at(100));
        }
        for _ in 0..4 {
            breaker.ended(HostOutcome::Failed, false, at(100));
            breaker.ended(HostOutcome::Neutral, false, at(100));
        }
        assert_eq!(breaker.gate(at(100)), Gate::Go);
        breaker.ended(HostOutcome::Failed, false, at(100));
        assert_eq!(breaker.gate(at(100)), Gate::Shut(at(105)));
    }

    #[test]
    fn one_probe_decides_and_a_cancelled_one_leaves_its_place() {
        let mut breaker = opened();
        assert_eq!(breaker.gate(at(104)), Gate::Shut(at(105)));
        assert_eq!(breaker.gate(at(105)), Gate::Probe);
        breaker.probe();
        assert_eq!(breaker.gate(at(105)), Gate::Shut(at(106)));
        breaker.ended(HostOutcome::Neutral, true, at(106));
        assert_eq!(breaker.gate(at(106)), Gate::Probe);
        // What began before it opened decides nothing.
        breaker.probe();
        breaker.ended(HostOutcome::Well, false, at(106));
        assert_eq!(breaker.gate(at(107)), Gate::Shut(at(108)));
        for open in [10, 20, 40, 60, 60] {
            breaker.ended(HostOutcome::Failed, true, at(200));
            assert_eq!(breaker.gate(at(199 + open)), Gate::Shut(at(200 + open)));
            assert_eq!(breaker.gate(at(200 + open)), Gate::Probe);
            breaker.probe();
        }
        breaker.ended(HostOutcome::Well, true, at(300));
        assert_eq!(breaker.gate(at(300)), Gate::Go);
        breaker.ended(HostOutcome::Failed, false, at(300));
        assert_eq!(breaker.gate(at(300)), Gate::Go, "it begins anew");
    }

    #[test]
    fn a_group_cools_as_long_as_it_is_told_within_limits() {
        let cooled = |told: Option<i64>| {
            let mut cooldown = Cooldown::default();
            cooldown.cool(told, at(100));
            cooldown.until(at(100)).unwrap()
        };
        for (text, seconds) in
            [("0", 1), ("0.2", 1), ("1", 1), ("59", 59), ("60", 60), ("3600", 60), ("soon", 1)]
        {
            assert_eq!(cooled(retry_after(text, at(100))), at(100 + seconds), "{text}");
        }
        let mut cooldown = Cooldown::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            cooldown.cool(None, at(1_000 * seconds));
            assert_eq!(cooldown.until(at(1_000 * seconds)), Some(at(1_001 * seconds)));
            assert_eq!(cooldown.until(at(1_001 * seconds)), None);
        }
        // A shorter one does not end a longer one.
        cooldown.cool(Some(SECOND), at(60_001));
        assert_eq!(cooldown.until(at(60_001)), Some(at(60_060)));
        cooldown.succeeded();
        cooldown.cool(None, at(90_000));
        assert_eq!(cooldown.until(at(90_000)), Some(at(90_001)));
    }

    #[test]
    fn a_time_to_wait_is_seconds_or_a_date() {
        let now = Timestamp::parse_rfc3339("2026-11-29T10:00:00Z").unwrap();
        for (text, micros) in [
            ("7", Some(7_000_000)),
            (" 1.5 ", Some(1_500_000)),
            ("0.0000019", Some(1)),
            ("99999999999999999999", Some(i64::MAX / SECOND * SECOND)),
            ("Sun, 29 Nov 2026 10:00:30 GMT", Some(30_000_000)),
            ("Sun, 29 Nov 2026 09:00:00 GMT", None),
            ("0", None),
            ("-1", None),
            ("1e3", None),
            ("", None),
            (".", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), micros, "{text:?}");
        }
    }

    #[test]
    fn a_budget_is_a_tenth_and_three() {
        let mut budget = RetryBudget::default();
        let taken = |budget: &mut RetryBudget, second| {
            (0..100).filter(|_| budget.retry(at(second))).count()
        };
        assert_eq!(taken(&mut budget, 100), 3);
        for _ in 0..59 {
            budget.call(at(105));
        }
        assert_eq!(taken(&mut budget, 109), 5, "of 59 five, and the three are gone");
        assert_eq!(taken(&mut budget, 114), 3, "the first three are forgotten");
    }
}
