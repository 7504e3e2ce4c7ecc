//! Spikes: hours in which an account spends much more than usual.

use super::money::Credits;

/// Hours of history that an hour is compared with: a week.
pub const HOURS: i32 = 7 * 24;
/// Least hours of history. A newer account has no usual spending yet.
const HISTORY_MIN: i32 = 24;
/// A spike is at least this multiple of the usual spending.
const TIMES: i64 = 3;
/// Least spending of a spike in an hour: one dollar.
const SPENT_MIN: Credits = Credits::from_nanos(1_000_000_000);

/// An hour with unusually high spending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spike {
    /// Spent in this hour so far.
    pub spent: Credits,
    /// Average spending an hour in the week before.
    pub usual: Credits,
}

/// The spike in hour `this`, if it is one. Hours are numbered since 1970. `began` is the hour in
/// which the account began. `spent` has the amount of each hour of the week before and of this one;
/// a missing hour is zero.
#[must_use]
pub fn spike(spent: &[(i32, Credits)], began: i32, this: i32) -> Option<Spike> {
    let hours = this.saturating_sub(began).min(HOURS);
    if hours < HISTORY_MIN {
        return None;
    }
    let of = |is_in: &dyn Fn(i32) -> bool| {
        spent
            .iter()
            .filter(|(hour, _)| is_in(*hour))
            .fold(0_i64, |sum, (_, spent)| sum.saturating_add(spent.nanos()))
    };
    let (now, before) = (of(&|hour| hour == this), of(&|hour| hour < this));
    let usual = before.checked_div(i64::from(hours))?;
    let is_spike = now >= SPENT_MIN.nanos() && now >= usual.saturating_mul(TIMES);
    let credits = Credits::from_nanos;
    is_spike.then(|| Spike { spent: credits(now), usual: credits(usual) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_compared_with_the_week_before() {
        let dollars = |dollars: i64| Credits::from_nanos(dollars * 1_000_000_000);
        let week = |usual: i64, now: i64| -> Vec<(i32, Credits)> {
            let before = (1_000 - 100..1_000).map(|hour| (hour, dollars(usual)));
            before.chain([(1_000, dollars(now))]).collect()
        };
        let spike_of = |spent: &[(i32, Credits)]| spike(spent, 900, 1_000);
        assert_eq!(spike_of(&week(2, 5)), None);
        let found = spike_of(&week(2, 6)).unwrap();
        assert_eq!((found.spent, found.usual), (dollars(6), dollars(2)));
        // A small amount is not a spike, and a new account has no usual spending.
        assert_eq!(spike_of(&week(0, 0)), None);
        assert_eq!(spike(&[(990, dollars(1)), (1_000, dollars(100))], 990, 1_000), None);
        assert_eq!(spike_of(&[]), None);
        // Hours without spending count in the average, and so does a week without any.
        assert!(spike_of(&[(900, dollars(50)), (1_000, dollars(2))]).is_some());
        let found = spike(&[(1_000, dollars(2))], 0, 1_000).unwrap();
        assert_eq!((found.spent, found.usual), (dollars(2), Credits::ZERO));
    }
}
