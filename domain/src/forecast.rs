//! Forecast of when the balance runs out, if spending continues at the same rate.

use super::money::Credits;
use super::window::{MICROS_PER_DAY, Timestamp};

/// Longest forecast: ten years, in microseconds.
const FAR_MICROS: i64 = 3_650 * MICROS_PER_DAY;

/// A forecast of spending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Average spending a day.
    pub spent_per_day: Credits,
    /// When the balance is used up; `None` if nothing is spent, or it is more than ten years away.
    pub depleted_at: Option<Timestamp>,
}

/// The forecast for `balance`, if `spent` was spent in the last `micros` microseconds.
#[must_use]
pub fn forecast(balance: Credits, spent: Credits, micros: i64, now: Timestamp) -> Forecast {
    let (spent, micros) = (i128::from(spent.nanos().max(0)), i128::from(micros.max(1)));
    let a_day = spent.saturating_mul(i128::from(MICROS_PER_DAY)).checked_div(micros);
    let a_day = a_day.and_then(|nanos| i64::try_from(nanos).ok()).unwrap_or(i64::MAX);
    let left = i128::from(balance.nanos().max(0)).saturating_mul(micros).checked_div(spent);
    let left = left.and_then(|micros| i64::try_from(micros).ok());
    let left = left.filter(|micros| *micros <= FAR_MICROS);
    Forecast {
        spent_per_day: Credits::from_nanos(a_day),
        depleted_at: left.map(|micros| now.plus_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_continues_the_past_spending() {
        let dollars = |dollars: i64| Credits::from_nanos(dollars * 1_000_000_000);
        let now = Timestamp::from_micros(0);
        let week = 7 * MICROS_PER_DAY;
        let found = forecast(dollars(10), dollars(14), week, now);
        assert_eq!(found.spent_per_day, dollars(2));
        assert_eq!(found.depleted_at, Some(Timestamp::from_micros(5 * MICROS_PER_DAY)));
        assert_eq!(forecast(dollars(10), Credits::ZERO, week, now).depleted_at, None);
        assert_eq!(forecast(Credits::ZERO, dollars(1), week, now).depleted_at, Some(now));
        // More than ten years away counts as never.
        assert_eq!(forecast(Credits::MAX, Credits::from_nanos(1), week, now).depleted_at, None);
        assert_eq!(forecast(Credits::MAX, Credits::MAX, 0, now).depleted_at.unwrap().micros(), 1);
    }
}
