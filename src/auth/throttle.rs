//! Limits on attempts to authenticate.
//!
//! Three token buckets: by address, by account and address, and by account over all addresses that
//! never had a session of it. So a distributed attacker is stopped, and the owner, at a known
//! address, is not. An owner at a new address can reset the password by email, which makes the
//! address known.
//!
//! An address also counts for the /56 and the /48 that it is of, which may have a few times as many
//! attempts. Few of an address's attempts may come at once.
//!
//! Accounts that do not exist are counted alike: the buckets are keyed by the text that was given.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use sha2::{Digest as _, Sha256};

use crate::config::{AuthSettings, RateLimitSettings};
use crate::store::users::folded;
use domain::SessionId;
use domain::address::{CALLERS, CallerNetwork, network, networks};

type Limiter<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>;

/// Messages an hour to one account that anybody may ask for.
const LETTERS_PER_HOUR: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

/// Attempts of one address that may come at once, if a minute has so many.
const AT_ONCE_MIN: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// Renewals a minute of one session. Its token is good for hours.
const RENEWALS_PER_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// The key of an account's bucket: a part of the digest of the text that named it.
pub type Subject = [u8; 16];

/// Too many attempts; try again after so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; the next one in {retry_after} s")]
pub struct TooManyAttempts {
    /// Seconds.
    pub retry_after: u64,
}

/// See the module.
pub struct Throttle {
    limits: Option<Limits>,
}

struct Limits {
    /// By the networks that an address counts for, in the order of [`networks`].
    address: [Limiter<CallerNetwork>; 3],
    account: Limiter<(Subject, IpAddr)>,
    strangers: Limiter<Subject>,
    messages: Limiter<Subject>,
    renewals: Limiter<SessionId>,
}

/// For each width of a network: so many a minute for each caller, a sixth of them at once, but not
/// fewer than ten.
fn by_network(a_minute: NonZeroU32) -> [Limiter<CallerNetwork>; 3] {
    let sixth = NonZeroU32::new(a_minute.get() / 6).unwrap_or(NonZeroU32::MIN);
    let burst = sixth.max(AT_ONCE_MIN).min(a_minute);
    let of = |callers| {
        let quota = Quota::per_minute(a_minute.saturating_mul(callers));
        RateLimiter::keyed(quota.allow_burst(burst.saturating_mul(callers)))
    };
    CALLERS.map(of)
}

fn limiter<K: Clone + Eq + std::hash::Hash>(a_minute: NonZeroU32) -> Limiter<K> {
    RateLimiter::keyed(Quota::per_minute(a_minute))
}

/// At most `count` in any hour: a tenth of them at once, the others spread over the hour.
fn an_hour(count: NonZeroU32) -> Quota {
    let burst = NonZeroU32::new(count.get().div_ceil(10)).unwrap_or(NonZeroU32::MIN);
    let spread = count.get().saturating_sub(burst.get()).max(1);
    let quota = Quota::with_period(Duration::from_hours(1) / spread);
    quota.unwrap_or(Quota::per_hour(NonZeroU32::MIN)).allow_burst(burst)
}

fn check<K: Clone + Eq + std::hash::Hash>(
    limiter: &Limiter<K>,
    of: &K,
) -> Result<(), TooManyAttempts> {
    limiter.check_key(of).map_err(|until| {
        let wait = until.wait_time_from(limiter.clock().now());
        TooManyAttempts { retry_after: wait.as_secs().saturating_add(1) }
    })
}

/// The account that is asked for by this text, whether there is one or not.
#[must_use]
pub fn subject(text: &str) -> Subject {
    let digest: [u8; 32] = Sha256::digest(folded(text)).into();
    let mut subject = Subject::default();
    for (to, from) in subject.iter_mut().zip(digest) {
        *to = from;
    }
    subject
}

impl Throttle {
    /// The limits of the settings; nothing is counted if rate limits are off.
    #[must_use]
    pub fn new(auth: &AuthSettings, rates: &RateLimitSettings) -> Self {
        let limits = || Limits {
            address: by_network(auth.attempts_per_address),
            account: limiter(auth.attempts_per_account),
            strangers: RateLimiter::keyed(an_hour(auth.attempts_per_account_from_strangers)),
            messages: RateLimiter::keyed(Quota::per_hour(LETTERS_PER_HOUR)),
            renewals: limiter(RENEWALS_PER_MINUTE),
        };
        Throttle { limits: rates.enabled.then(limits) }
    }

    /// Counts an attempt from an address.
    pub fn try_from(&self, address: IpAddr) -> Result<(), TooManyAttempts> {
        let Some(limits) = &self.limits else { return Ok(()) };
        networks(address)
            .zip(&limits.address)
            .try_for_each(|((network, _), limiter)| check(limiter, &network))
    }

    /// Counts an attempt at an account from an address.
    pub fn try_account(&self, of: Subject, address: IpAddr) -> Result<(), TooManyAttempts> {
        let Some(limits) = &self.limits else { return Ok(()) };
        check(&limits.account, &(of, network(address)))
    }

    /// Counts an attempt at an account from an address that never had a session of it.
    pub fn try_as_stranger(&self, of: Subject) -> Result<(), TooManyAttempts> {
        let Some(limits) = &self.limits else { return Ok(()) };
        check(&limits.strangers, &of)
    }

    /// Counts a message to an account that anybody may ask for.
    pub fn try_message(&self, of: Subject) -> Result<(), TooManyAttempts> {
        let Some(limits) = &self.limits else { return Ok(()) };
        check(&limits.messages, &of)
    }

    /// Counts a renewal of a session.
    pub fn try_renewal(&self, of: SessionId) -> Result<(), TooManyAttempts> {
        let Some(limits) = &self.limits else { return Ok(()) };
        check(&limits.renewals, &of)
    }

    /// Drops full buckets, so that memory stays bounded.
    pub fn forget_idle(&self) {
        let Some(limits) = &self.limits else { return };
        let Limits { address, account, strangers, messages, renewals } = limits;
        renewals.retain_recent();
        renewals.shrink_to_fit();
        messages.retain_recent();
        messages.shrink_to_fit();
        for limiter in address {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        account.retain_recent();
        account.shrink_to_fit();
        strangers.retain_recent();
        strangers.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> Throttle {
        Throttle::new(&AuthSettings::default(), &RateLimitSettings::default())
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn who_guesses_from_one_address_is_stopped() {
        let throttle = throttle();
        let one = subject("Someone@example.com ");
        assert_eq!(one, subject("someone@example.com"));
        for _ in 0..10 {
            assert!(throttle.try_account(one, address(1)).is_ok());
        }
        let refused = throttle.try_account(one, address(1)).unwrap_err();
        assert!((1..=7).contains(&refused.retry_after), "{refused}");
        // Neither another account nor another address is touched.
        assert!(throttle.try_account(subject("other"), address(1)).is_ok());
        assert!(throttle.try_account(one, address(2)).is_ok());
    }

    #[test]
    fn who_guesses_from_everywhere_stops_strangers_alone() {
        let throttle = throttle();
        let one = subject("someone@example.com");
        let guess =
            |last| throttle.try_from(address(last)).and_then(|()| throttle.try_as_stranger(one));
        assert_eq!((0..=255).filter(|last| guess(*last).is_ok()).count(), 10);
        assert!(throttle.try_account(one, address(1)).is_ok());
    }

    #[test]
    fn a_network_of_one_owner_has_a_few_times_as_many_attempts() {
        let throttle = throttle();
        let tried = |of_56: u16, number: u16| {
            let address =
                std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, (of_56 << 8) | number, 0, 0, 0, 1);
            throttle.try_from(address.into()).is_ok()
        };
        // From one /64 only so many at once.
        assert_eq!((0..60).filter(|_| tried(0, 0)).count(), 10);
        // From every /64 of a /56, and from every /56 of a /48.
        assert_eq!((1..=255).filter(|number| tried(0, *number)).count(), 30);
        assert_eq!((1..=255).filter(|of_56| tried(*of_56, 0)).count(), 40);
        assert!((0..4).all(|last| throttle.try_from(address(last)).is_ok()));
    }

    #[test]
    fn nothing_is_counted_where_rate_limits_are_off() {
        let off = RateLimitSettings { enabled: false, ..RateLimitSettings::default() };
        let throttle = Throttle::new(&AuthSettings::default(), &off);
        assert!((0..10_000).all(|_| throttle.try_from(address(1)).is_ok()));
    }
}
