//! Counts of the last seconds.

use crate::window::Timestamp;

/// What was counted in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    second: i64,
    counts: [u64; 2],
}

/// Two counters over the last `SECONDS` seconds, the running one included.
#[derive(Clone, Debug)]
pub(super) struct Recent<const SECONDS: usize>([Second; SECONDS]);

impl<const SECONDS: usize> Default for Recent<SECONDS> {
    fn default() -> Self {
        Recent([Second::default(); SECONDS])
    }
}

impl<const SECONDS: usize> Recent<SECONDS> {
    /// Adds to both counters.
    pub(super) fn add(&mut self, counts: [u64; 2], now: Timestamp) {
        let second = now.seconds();
        let length = i64::try_from(SECONDS).unwrap_or(1).max(1);
        let place = usize::try_from(second.rem_euclid(length)).unwrap_or(0);
        if let Some(slot) = self.0.get_mut(place) {
            if slot.second != second {
                *slot = Second { second, counts: [0; 2] };
            }
            for (sum, count) in slot.counts.iter_mut().zip(counts) {
                *sum = sum.saturating_add(count);
            }
        }
    }

    /// Both counters.
    pub(super) fn sums(&self, now: Timestamp) -> [u64; 2] {
        let length = i64::try_from(SECONDS).unwrap_or(1);
        let (last, mut sums) = (now.seconds(), [0_u64; 2]);
        for slot in self.0 {
            let age = last.saturating_sub(slot.second);
            if (0..length).contains(&age) {
                for (sum, count) in sums.iter_mut().zip(slot.counts) {
                    *sum = sum.saturating_add(count);
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_is_forgotten() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut recent = Recent::<10>::default();
        recent.add([1, 0], at(100));
        recent.add([2, 1], at(105));
        assert_eq!(recent.sums(at(109)), [3, 1]);
        assert_eq!(recent.sums(at(110)), [2, 1]);
        recent.add([4, 0], at(110));
        assert_eq!(recent.sums(at(114)), [6, 1]);
        assert_eq!(recent.sums(at(115)), [4, 0]);
        assert_eq!(recent.sums(at(200)), [0, 0]);
    }
}
