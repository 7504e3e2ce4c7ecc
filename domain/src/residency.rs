//! Which accounts leave memory, and how many calls one account may run at once.

use super::ids::AccountId;

/// Which accounts leave memory at `tick`: those that were idle for `idle_max` ticks, and the ones
/// idle for longest if `resident` is above `resident_max`. `idle` lists the accounts that may leave
/// memory, with the tick of their last use.
#[must_use]
pub fn to_passivate(
    mut idle: Vec<(i64, AccountId)>,
    resident: usize,
    resident_max: usize,
    idle_max: i64,
    tick: i64,
) -> Vec<AccountId> {
    let surplus = resident.saturating_sub(resident_max);
    if surplus > 0 {
        idle.sort_unstable();
    }
    idle.into_iter()
        .enumerate()
        .filter(|(place, (used, _))| *place < surplus || tick.saturating_sub(*used) >= idle_max)
        .map(|(_, (_, account))| account)
        .collect()
}

/// How many calls one account may have in flight, if the process has `running` of at most
/// `running_max`. While at most half of the process is busy, it is `in_flight_max`. Above that it
/// is at most a quarter of `running_max`. So one busy account leaves room for the others.
#[must_use]
pub fn fair_share(in_flight_max: u32, running: usize, running_max: usize) -> u32 {
    if running <= running_max / 2 {
        return in_flight_max;
    }
    in_flight_max.min(u32::try_from(running_max / 4).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_accounts_leave_first() {
        let idle = vec![(5, AccountId(1)), (3, AccountId(2)), (9, AccountId(3))];
        let go = |resident, max| to_passivate(idle.clone(), resident, max, 5, 10);
        assert_eq!(go(3, 3), [AccountId(1), AccountId(2)]);
        assert_eq!(go(4, 3), [AccountId(2), AccountId(1)]);
        assert_eq!(go(9, 3), [AccountId(2), AccountId(1), AccountId(3)]);
        assert!(to_passivate(idle, 3, 3, 8, 10).is_empty());
    }

    #[test]
    fn one_account_cannot_take_the_whole_process() {
        assert_eq!(fair_share(1_024, 0, 2_000), 1_024);
        assert_eq!(fair_share(1_024, 1_000, 2_000), 1_024);
        assert_eq!(fair_share(1_024, 1_001, 2_000), 500);
        assert_eq!(fair_share(100, 1_999, 2_000), 100);
        assert_eq!(fair_share(100, 2, 2), 1);
    }
}
