//! Rate limits and their counters.
//!
//! Each limit is a token bucket of the `governor` crate. It holds as many requests as the window
//! allows, and refills evenly over the window.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::{RateLimitSettings, TierSettings};
use domain::address::{CALLERS, CallerNetwork, networks};
use domain::pricing::RouteClass;
use domain::{AccountId, KeyId, SessionId, Timestamp, UserId};

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// The rate limit with the least requests left for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitStatus {
    /// The name of the limit: its window, or what it counts by.
    pub policy: &'static str,
    /// Requests that the window allows.
    pub limit: u32,
    /// Requests that are left.
    pub remaining: u32,
    /// Unix time in seconds. If requests are left, the limit is full again at this time. Otherwise
    /// the next request is admitted at this time.
    pub reset: i64,
    /// The window, in seconds.
    pub window: u64,
    /// Seconds until [`RateLimitStatus::reset`].
    pub reset_in: u64,
}

/// 100 percent.
const WHOLE: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// What a limit counts by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Key(KeyId),
    Account(AccountId),
}

/// One limit: a number of requests in a window.
struct Bound<K: Clone + Eq + std::hash::Hash> {
    policy: &'static str,
    limiter: Limiter<K>,
}

/// A limit for each address. IPv6 addresses count by /64, and by the /56 and the /48 that it is of,
/// which may be of one owner.
struct AddressBound {
    /// In the order of [`networks`].
    bounds: Vec<Bound<CallerNetwork>>,
}

/// The limits of one tier for one class of routes. The shortest window comes first, so that a
/// request that it refuses does not count for the day.
type Bounds = Vec<Bound<Subject>>;

/// Every rate limit, with its counters.
pub struct RateLimits {
    address: Option<AddressBound>,
    /// TLS handshakes of an address.
    handshakes: Option<AddressBound>,
    tiers: BTreeMap<String, BTreeMap<RouteClass, Bounds>>,
    default_tier: String,
    /// The limits that owners set for their keys.
    own: DashMap<KeyId, (NonZeroU32, Arc<Bound<KeyId>>)>,
    /// Limits of requests with a session, by user: changes and payments.
    changes: Option<Bound<UserId>>,
    /// Changes by session, before it is known whether the session has ended.
    session_changes: Option<Bound<SessionId>>,
    payments: Option<Bound<UserId>>,
    /// Reads behind a login, by session and by address.
    reads: Option<Bound<SessionId>>,
    address_reads: Option<AddressBound>,
    /// Exports of everything of a user.
    exports: Option<Bound<UserId>>,
}

/// The quota of `percent` of `count` requests in a window. If that is less than one request in a
/// window, the window is longer and allows one request.
fn quota(count: NonZeroU32, percent: NonZeroU32, window: Duration) -> Option<Quota> {
    let hundredths = u64::from(count.get()).checked_mul(u64::from(percent.get()))?;
    let nanos = window.as_nanos().checked_mul(100)?.checked_div(u128::from(hundredths))?;
    let interval = Duration::from_nanos(u64::try_from(nanos).ok()?);
    let burst = u32::try_from(hundredths / 100).ok().and_then(NonZeroU32::new);
    Some(Quota::with_period(interval)?.allow_burst(burst.unwrap_or(NonZeroU32::MIN)))
}

impl<K: Clone + Eq + std::hash::Hash> Bound<K> {
    fn new(
        policy: &'static str,
        count: NonZeroU32,
        percent: NonZeroU32,
        window: Duration,
    ) -> Option<Self> {
        let quota = quota(count, percent, window)?;
        let limiter = RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>();
        Some(Bound { policy, limiter })
    }

    /// Counts a request. If the limit is exceeded, also returns how long to wait.
    fn check(&self, subject: &K, now: Timestamp) -> (RateLimitStatus, Option<Duration>) {
        let (quota, remaining, wait) = match self.limiter.check_key(subject) {
            Ok(state) => (state.quota(), state.remaining_burst_capacity(), None),
            Err(until) => {
                (until.quota(), 0, Some(until.wait_time_from(self.limiter.clock().now())))
            }
        };
        let limit = quota.burst_size().get();
        let used = limit.saturating_sub(remaining);
        let whole_again = wait.unwrap_or(quota.replenish_interval().saturating_mul(used));
        let reset_in = seconds_up(whole_again);
        let reset = now.seconds().saturating_add(i64::try_from(reset_in).unwrap_or(0));
        // A limit below one request per window has a longer window.
        let window = seconds_up(quota.replenish_interval().saturating_mul(limit));
        (RateLimitStatus { policy: self.policy, limit, remaining, reset, window, reset_in }, wait)
    }

    fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

impl AddressBound {
    fn new(policy: &'static str, count: NonZeroU32, window: Duration) -> Option<Self> {
        let bound = |callers| Bound::new(policy, count, WHOLE.saturating_mul(callers), window);
        let bounds = CALLERS.into_iter().map(bound).collect::<Option<Vec<_>>>()?;
        Some(AddressBound { bounds })
    }

    /// Counts a request. Returns the limit with the fewest requests left. If a limit is exceeded,
    /// that one, and how long to wait.
    fn check(
        &self,
        address: IpAddr,
        now: Timestamp,
    ) -> Option<(RateLimitStatus, Option<Duration>)> {
        let mut closest: Option<(RateLimitStatus, Option<Duration>)> = None;
        for ((network, _), bound) in networks(address).zip(&self.bounds) {
            let (status, wait) = bound.check(&network, now);
            if wait.is_some() {
                return Some((status, wait));
            }
            if closest.is_none_or(|(closest, _)| status.remaining < closest.remaining) {
                closest = Some((status, None));
            }
        }
        closest
    }

    fn forget_idle(&self) {
        self.bounds.iter().for_each(Bound::forget_idle);
    }
}

fn check<K: Clone + Eq + std::hash::Hash>(
    bound: Option<&Bound<K>>,
    subject: &K,
    now: Timestamp,
) -> Result<(), u64> {
    match bound.and_then(|bound| bound.check(subject, now).1) {
        Some(wait) => Err(seconds_up(wait).max(1)),
        None => Ok(()),
    }
}

fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn bounds(tier: TierSettings, percent: NonZeroU32) -> Bounds {
    [
        ("second", tier.second, 1),
        ("minute", tier.minute, 60),
        ("hour", tier.hour, 3_600),
        ("day", tier.day, 86_400),
    ]
    .into_iter()
    .filter_map(|(policy, count, seconds)| {
        Bound::new(policy, count?, percent, Duration::from_secs(seconds))
    })
    .collect()
}

impl RateLimits {
    /// Makes the limits of the settings. There are none if rate limits are off.
    #[must_use]
    pub fn new(settings: &RateLimitSettings) -> Self {
        let default_tier = settings.default_tier.clone();
        if !settings.enabled {
            let (tiers, own) = (BTreeMap::new(), DashMap::new());
            return RateLimits {
                address: None,
                handshakes: None,
                tiers,
                default_tier,
                own,
                changes: None,
                session_changes: None,
                payments: None,
                reads: None,
                address_reads: None,
                exports: None,
            };
        }
        let classes = [
            (RouteClass::Read, settings.read_percent),
            (RouteClass::Write, settings.write_percent),
            (RouteClass::Generation, settings.generation_percent),
            (RouteClass::Heavy, settings.heavy_percent),
        ];
        let tiers = settings.tiers.iter().map(|(name, tier)| {
            let bounds = classes.map(|(class, percent)| (class, bounds(*tier, percent)));
            (name.clone(), BTreeMap::from(bounds))
        });
        RateLimits {
            address: AddressBound::new("address", settings.address_per_second, SECOND),
            handshakes: AddressBound::new("handshakes", settings.handshakes_per_second, SECOND),
            tiers: tiers.collect(),
            default_tier,
            own: DashMap::new(),
            changes: Bound::new("changes", settings.changes_per_minute, WHOLE, MINUTE),
            session_changes: Bound::new("changes", settings.changes_per_minute, WHOLE, MINUTE),
            payments: Bound::new("payments", settings.payments_per_hour, WHOLE, HOUR),
            reads: Bound::new("reads", settings.reads_per_minute, WHOLE, MINUTE),
            address_reads: AddressBound::new(
                "address reads",
                settings.address_reads_per_minute,
                MINUTE,
            ),
            exports: Bound::new("exports", settings.exports_per_hour, WHOLE, HOUR),
        }
    }

    /// Counts a user's request with a session that changes something. If the limit is exceeded, the
    /// error is the number of seconds to wait, at least 1.
    pub fn check_change(&self, user: UserId, now: Timestamp) -> Result<(), u64> {
        check(self.changes.as_ref(), &user, now)
    }

    /// Counts such a request by its session, which may have ended. If the limit is exceeded, the
    /// error is the number of seconds to wait, at least 1.
    pub fn check_session_change(&self, session: SessionId, now: Timestamp) -> Result<(), u64> {
        check(self.session_changes.as_ref(), &session, now)
    }

    /// Counts a request behind a login that reads, by its session. If the limit is exceeded, the
    /// error has the seconds to wait.
    pub fn check_read(&self, session: SessionId, now: Timestamp) -> Result<(), u64> {
        check(self.reads.as_ref(), &session, now)
    }

    /// Counts a request behind a login that reads, by the networks of its address. If the limit is
    /// exceeded, the error has the seconds to wait.
    pub fn check_address_read(&self, address: IpAddr, now: Timestamp) -> Result<(), u64> {
        match self.address_reads.as_ref().and_then(|bound| bound.check(address, now)) {
            Some((_, Some(wait))) => Err(seconds_up(wait).max(1)),
            _ => Ok(()),
        }
    }

    /// Counts a TLS handshake of an address, by its networks. False if the limit is exceeded.
    #[must_use]
    pub fn check_handshake(&self, address: IpAddr, now: Timestamp) -> bool {
        let checked = self.handshakes.as_ref().and_then(|limit| limit.check(address, now));
        checked.is_none_or(|(_, wait)| wait.is_none())
    }

    /// Counts a payment that a user begins with a session. If the limit is exceeded, the error is
    /// the number of seconds to wait, at least 1.
    pub fn check_payment(&self, user: UserId, now: Timestamp) -> Result<(), u64> {
        check(self.payments.as_ref(), &user, now)
    }

    /// Counts an export of everything of a user. If the limit is exceeded, the error is the number
    /// of seconds to wait, at least 1.
    pub fn check_export(&self, user: UserId, now: Timestamp) -> Result<(), u64> {
        check(self.exports.as_ref(), &user, now)
    }

    /// Counts a request from an address. Returns the limit with the fewest requests left, `None` if
    /// there is no limit. If the limit is exceeded, the error has the seconds to wait, at least 1.
    pub fn check_address(
        &self,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Option<RateLimitStatus>, (RateLimitStatus, u64)> {
        match self.address.as_ref().and_then(|bound| bound.check(address, now)) {
            Some((standing, Some(wait))) => Err((standing, seconds_up(wait).max(1))),
            Some((standing, None)) => Ok(Some(standing)),
            None => Ok(None),
        }
    }

    /// Counts a request of a key and of its account, for one class of routes. Returns the limit
    /// with the fewest requests left, `None` if there is no limit. If a limit is exceeded, the
    /// error has that limit and the seconds to wait, at least 1.
    pub fn check_caller(
        &self,
        tier: Option<&str>,
        class: RouteClass,
        key: KeyId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<RateLimitStatus>, (RateLimitStatus, u64)> {
        let tier = tier.filter(|tier| self.tiers.contains_key(*tier)).unwrap_or(&self.default_tier);
        let Some(bounds) = self.tiers.get(tier).and_then(|classes| classes.get(&class)) else {
            return Ok(None);
        };
        let mut closest: Option<RateLimitStatus> = None;
        for bound in bounds {
            for subject in [Subject::Key(key), Subject::Account(account)] {
                let (standing, wait) = bound.check(&subject, now);
                if let Some(wait) = wait {
                    return Err((standing, seconds_up(wait).max(1)));
                }
                if closest.is_none_or(|closest| standing.remaining < closest.remaining) {
                    closest = Some(standing);
                }
            }
        }
        Ok(closest)
    }

    /// Counts a call against the limit that the key's owner set. If the owner changes the limit,
    /// its counter starts anew. If the limit is exceeded, the error has the seconds to wait, at
    /// least 1.
    pub fn check_own(
        &self,
        key: KeyId,
        calls: NonZeroU32,
        now: Timestamp,
    ) -> Result<Option<RateLimitStatus>, (RateLimitStatus, u64)> {
        let known = self.own.get(&key).map(|own| own.value().clone());
        let bound = match known {
            Some((count, bound)) if count == calls => bound,
            _ => {
                let Some(bound) = Bound::new("key", calls, WHOLE, MINUTE) else { return Ok(None) };
                let bound = Arc::new(bound);
                self.own.insert(key, (calls, Arc::clone(&bound)));
                bound
            }
        };
        match bound.check(&key, now) {
            (standing, None) => Ok(Some(standing)),
            (standing, Some(wait)) => Err((standing, seconds_up(wait).max(1))),
        }
    }

    /// Deletes the counters that are full again, so that they do not fill the memory.
    pub fn forget_idle(&self) {
        let by_network = [&self.address, &self.address_reads, &self.handshakes];
        for bound in by_network.into_iter().flatten() {
            bound.forget_idle();
        }
        for bound in [&self.reads, &self.session_changes].into_iter().flatten() {
            bound.forget_idle();
        }
        for bound in [&self.changes, &self.payments, &self.exports].into_iter().flatten() {
            bound.forget_idle();
        }
        self.own.retain(|_, (_, bound)| {
            bound.forget_idle();
            !bound.limiter.is_empty()
        });
        for bound in self.tiers.values().flat_map(BTreeMap::values).flatten() {
            bound.forget_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_705_320_000_000_000);

    fn checked(
        limits: &RateLimits,
        class: RouteClass,
        key: u128,
        account: i64,
    ) -> Result<Option<RateLimitStatus>, u64> {
        limits
            .check_caller(None, class, KeyId(Uuid::from_u128(key)), AccountId(account), NOW)
            .map_err(|(_, retry_after)| retry_after)
    }

    #[test]
    fn a_pro_account_has_limits_by_class() {
        for (class, per_second) in [
            (RouteClass::Read, 20),
            (RouteClass::Write, 10),
            (RouteClass::Generation, 4),
            (RouteClass::Heavy, 2),
        ] {
            let limits = RateLimits::new(&RateLimitSettings::default());
            for left in (0..per_second).rev() {
                let standing = checked(&limits, class, 1, 1).unwrap().unwrap();
                assert_eq!((standing.limit, standing.remaining), (per_second, left), "{class:?}");
                assert_eq!(standing.window, 1);
            }
            assert_eq!(checked(&limits, class, 1, 1), Err(1), "{class:?}");
            // The account has used up its limit, so a second key of it is refused. Another account
            // has its own limit.
            assert_eq!(checked(&limits, class, 2, 1), Err(1));
            assert!(checked(&limits, class, 3, 2).is_ok());
        }
    }

    #[test]
    fn the_networks_of_an_owner_have_a_few_times_as_much() {
        let one = NonZeroU32::MIN;
        let settings = RateLimitSettings {
            address_per_second: one,
            address_reads_per_minute: one,
            ..Default::default()
        };
        let address =
            |third: u16, fourth: u16| IpAddr::from([0x2001, 0xdb8, third, fourth, 0, 0, 0, 1]);
        let count = |is_in: &dyn Fn(IpAddr) -> bool| {
            // 256 of one /56, one of each other /56, and of another /48.
            let of_56 = (0..256).filter(|fourth| is_in(address(0, *fourth))).count();
            let of_48 = (1..256).filter(|fourth| is_in(address(0, *fourth << 8))).count();
            (of_56, of_48, is_in(address(1, 0)))
        };
        let limits = RateLimits::new(&settings);
        // A second allows four, and more if it takes longer to look.
        let reads = count(&|address| limits.check_address_read(address, NOW).is_ok());
        assert_eq!(reads, (4, 4, true));
        let limits = RateLimits::new(&settings);
        assert!(limits.check_address(address(0, 0), NOW).is_ok());
        let (of_56, of_48, other) = count(&|address| limits.check_address(address, NOW).is_ok());
        assert!(of_56 < 128 && of_48 < 128 && other, "{of_56} {of_48}");
        // Without IPv6 an address has its own alone.
        for last in 0..100 {
            let address = IpAddr::from([192, 0, 2, last]);
            assert!(limits.check_address(address, NOW).is_ok());
            assert!(limits.check_address(address, NOW).is_err());
        }
    }

    #[test]
    fn a_limit_below_one_a_second_waits_longer() {
        let settings = RateLimitSettings { default_tier: "free".into(), ..Default::default() };
        let limits = RateLimits::new(&settings);
        assert!(checked(&limits, RouteClass::Heavy, 1, 1).is_ok());
        // A tenth of one request in a second is one request in ten seconds.
        assert!(matches!(checked(&limits, RouteClass::Heavy, 1, 1), Err(9..=10)));
    }

    #[test]
    fn without_limits_every_request_is_admitted() {
        let unlimited =
            RateLimitSettings { default_tier: "unlimited".into(), ..Default::default() };
        let off = RateLimitSettings { enabled: false, ..Default::default() };
        for settings in [unlimited, off] {
            let limits = RateLimits::new(&settings);
            for _ in 0..10_000 {
                assert_eq!(checked(&limits, RouteClass::Heavy, 1, 1), Ok(None));
            }
        }
    }
}
