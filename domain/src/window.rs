//! Instants, and the UTC days and months that spending limits count in.

use chrono::{DateTime, Datelike, Months, NaiveDate, SecondsFormat, Utc};

/// Microseconds in a UTC day. Leap seconds are not counted.
pub const MICROS_PER_DAY: i64 = 86_400_000_000;
/// The number of 1970-01-01 in chrono's count of days.
const EPOCH_DAY: i32 = 719_163;

/// An instant: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This instant plus `micros`. Stops at the largest instant.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Timestamp(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this instant; zero if `earlier` is later.
    #[must_use]
    pub fn micros_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }

    /// Parses RFC 3339 with any offset. `None` for any other text, and for an instant before the
    /// year 0 or after 9999 in UTC, because RFC 3339 cannot print it.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let instant = DateTime::parse_from_rfc3339(text).ok()?;
        let timestamp = Timestamp(instant.timestamp_micros());
        (0..=9_999).contains(&timestamp.day().date().year()).then_some(timestamp)
    }

    /// Prints RFC 3339 in UTC with whole seconds, as in the API: `2024-01-15T12:00:00Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_micros(self.0)
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
            .to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// Prints RFC 3339 in UTC with microseconds, for records whose order matters.
    #[must_use]
    pub fn to_rfc3339_micros(self) -> String {
        DateTime::<Utc>::from_timestamp_micros(self.0)
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
            .to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    /// The UTC day of this instant.
    #[must_use]
    pub fn day(self) -> Day {
        Day(i32::try_from(self.0.div_euclid(MICROS_PER_DAY)).unwrap_or(i32::MAX))
    }
}

/// A UTC calendar day: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Day(pub i32);

impl Day {
    fn date(self) -> NaiveDate {
        NaiveDate::from_num_days_from_ce_opt(self.0.saturating_add(EPOCH_DAY))
            .unwrap_or(NaiveDate::MAX)
    }

    /// The UTC month of this day.
    #[must_use]
    pub fn month(self) -> Month {
        let date = self.date();
        let month = i32::try_from(date.month0()).unwrap_or(0);
        Month(date.year().saturating_mul(12).saturating_add(month))
    }

    /// The first instant of this day.
    #[must_use]
    pub fn starts_at(self) -> Timestamp {
        Timestamp(i64::from(self.0).saturating_mul(MICROS_PER_DAY))
    }

    /// The first instant of the next day, when a daily limit resets.
    #[must_use]
    pub fn ends_at(self) -> Timestamp {
        Day(self.0.saturating_add(1)).starts_at()
    }
}

/// A UTC calendar month: year x 12 + month, with January as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Month(pub i32);

impl Month {
    /// The first instant of this month.
    #[must_use]
    pub fn starts_at(self) -> Timestamp {
        Month(self.0.saturating_sub(1)).ends_at()
    }

    /// Parses a month such as `2026-11`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let is_plain = year.len() == 4 && month.len() == 2 && text.is_ascii();
        let number = |digits: &str| {
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i32>().ok())?
        };
        let (year, month) = (number(year)?, number(month)?);
        let is_month = is_plain && (1970..=9_999).contains(&year) && (1..=12).contains(&month);
        is_month.then(|| Month(year.saturating_mul(12).saturating_add(month).saturating_sub(1)))
    }

    /// The first instant of the next month, when a monthly limit resets.
    #[must_use]
    pub fn ends_at(self) -> Timestamp {
        let month0 = u32::try_from(self.0.rem_euclid(12)).unwrap_or(0);
        let days = NaiveDate::from_ymd_opt(self.0.div_euclid(12), month0.saturating_add(1), 1)
            .and_then(|first| first.checked_add_months(Months::new(1)))
            .map_or(i32::MAX, |next| next.num_days_from_ce().saturating_sub(EPOCH_DAY));
        Day(days).starts_at()
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month) = (self.0.div_euclid(12), self.0.rem_euclid(12).saturating_add(1));
        write!(f, "{year:04}-{month:02}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn windows_change_at_midnight_utc() {
        let last = at("2024-02-29T23:59:59.999999Z");
        let first = at("2024-03-01T00:00:00Z");
        assert_eq!(first.micros() - last.micros(), 1);
        assert_eq!(first.day().0 - last.day().0, 1);
        assert_eq!(first.day().month().0 - last.day().month().0, 1);
        assert_eq!(last.day().ends_at(), first);
        assert_eq!(last.day().month().ends_at(), first);
        // The same instant in another time zone.
        assert_eq!(at("2024-03-01T09:00:00+09:00"), first);
    }

    #[test]
    fn months_roll_over_the_year() {
        let december = at("2023-12-31T12:00:00Z").day().month();
        assert_eq!(december.ends_at(), at("2024-01-01T00:00:00Z"));
        assert_eq!(at("2024-01-01T00:00:00Z").day().month().0, december.0 + 1);
    }

    #[test]
    fn instants_print_as_the_api_does() {
        assert_eq!(at("2024-01-15T12:00:00.5Z").to_rfc3339(), "2024-01-15T12:00:00Z");
        assert_eq!(at("2024-01-15T12:00:00.5Z").to_rfc3339_micros(), "2024-01-15T12:00:00.500000Z");
        assert_eq!(Timestamp::parse_rfc3339("2024-01-15"), None);
        // In the years -1 and 10000 in UTC, which RFC 3339 cannot print.
        assert_eq!(Timestamp::parse_rfc3339("0000-01-01T00:00:00+00:01"), None);
        assert_eq!(Timestamp::parse_rfc3339("9999-12-31T23:59:59-00:01"), None);
        // A leap second counts as the first second of the next minute, at both ends of that range.
        let first = Some(at("0000-01-01T00:00:00Z"));
        assert_eq!(Timestamp::parse_rfc3339("0000-01-01T00:00:60+00:01"), first);
        assert_eq!(Timestamp::parse_rfc3339("0000-01-01T00:00:60+00:02"), None);
        assert_eq!(Timestamp::parse_rfc3339("9999-12-31T23:59:60Z"), None);
    }

    proptest! {
        #[test]
        fn an_instant_lies_in_its_windows(micros in -2_000_000_000_000_000_i64..40_000_000_000_000_000) {
            let now = Timestamp(micros);
            let day = now.day();
            prop_assert!(day.starts_at() <= now && now < day.ends_at());
            let month = day.month();
            prop_assert!(now < month.ends_at());
            prop_assert_eq!(month.ends_at().day().month(), Month(month.0 + 1));
        }
    }
}
