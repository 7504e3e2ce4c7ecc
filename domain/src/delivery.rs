//! Deliveries of events: when one is retried, and when the server stops trying (Standard Webhooks
//! 1.0, "Deliverability and reliability").

use super::coded::coded_enum;

/// Pauses between two attempts, in seconds. Together they are a little more than three days.
const PAUSES: [i64; 9] =
    [5, 5 * 60, 30 * 60, 2 * 3_600, 5 * 3_600, 10 * 3_600, 14 * 3_600, 20 * 3_600, 24 * 3_600];
const MICROS: i64 = 1_000_000;
/// Longest pause that a receiver may ask for, in seconds.
const ASKED_MAX: i64 = 24 * 3_600;

/// A receiver that has failed for this long is switched off. In microseconds.
pub const DEAD_MICROS: i64 = 3 * 24 * 3_600 * MICROS;

coded_enum! {
    /// The status of a delivery.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum DeliveryStatus {
        /// It waits for its next attempt.
        Pending = 1 => "pending",
        /// The receiver accepted it.
        Delivered = 2 => "delivered",
        /// All attempts failed.
        Failed = 3 => "failed",
    }
}

/// How long to wait after this many failed attempts, in microseconds; `None` if no attempt follows.
///
/// `jitter` is from 0 to 999. It makes the pause up to a fifth longer, so that retries spread out.
/// `asked` is the pause that the receiver asked for, in seconds.
#[must_use]
pub fn pause(tries: usize, jitter: i64, asked: Option<i64>) -> Option<i64> {
    let pause = PAUSES.get(tries.checked_sub(1)?)?.saturating_mul(MICROS);
    let longer = pause.saturating_mul(jitter.clamp(0, 999)) / 5_000;
    let asked = asked.unwrap_or(0).clamp(0, ASKED_MAX).saturating_mul(MICROS);
    Some(pause.saturating_add(longer).max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_attempted_ten_times_in_three_days() {
        let mut waited = 0;
        for tries in 1..=9 {
            let (least, most) = (pause(tries, 0, None).unwrap(), pause(tries, 999, None).unwrap());
            assert!(least < most && most < least * 6 / 5 + 1);
            waited += least;
        }
        assert!((DEAD_MICROS..DEAD_MICROS + DEAD_MICROS / 10).contains(&waited));
        assert_eq!((pause(10, 0, None), pause(0, 0, None)), (None, None));
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause() {
        assert_eq!(pause(1, 0, Some(60)), Some(60 * MICROS));
        assert_eq!(pause(1, 0, Some(1)), Some(5 * MICROS));
        assert_eq!(pause(1, 0, Some(i64::MAX)), Some(ASKED_MAX * MICROS));
        assert_eq!(pause(10, 0, Some(60)), None);
    }
}
