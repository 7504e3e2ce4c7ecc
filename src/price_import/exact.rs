//! Numbers of price files, read exactly. A price never becomes a float.

use domain::{Dim, UnitPrice};

/// Most digits that are kept of a number. Further ones are below 1e-30 of it.
const DIGITS_MAX: usize = 30;
/// Exponents beyond this are no prices.
const EXPONENT_MAX: i64 = 99;

/// A decimal number that is not negative: `digits` times ten to the power of `exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exact {
    digits: i128,
    exponent: i64,
    /// Were further digits cut off?
    is_cut: bool,
}

/// Why a number is no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPrice {
    NotDecimal,
    Negative,
    TooLarge,
    TooSmall,
}

impl NoPrice {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            NoPrice::NotDecimal => "is no decimal number",
            NoPrice::Negative => "is negative",
            NoPrice::TooLarge => "is larger than any price",
            NoPrice::TooSmall => "is smaller than the smallest price",
        }
    }
}

impl Exact {
    /// Reads a number as JSON and Python write it, such as `0.15`, `3` or `1.5e-07`.
    pub(super) fn read(text: &str) -> Result<Self, NoPrice> {
        let text = text.trim();
        let (sign, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => {
                let is_short = (1..=6).contains(&exponent.len());
                let exponent = exponent.parse::<i64>().ok().filter(|_| is_short);
                (number, exponent.ok_or(NoPrice::NotDecimal)?)
            }
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_plain(whole) || !is_plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(NoPrice::NotDecimal);
        }
        let mut digits = 0_i128;
        let mut exponent = exponent;
        let (mut kept, mut is_cut) = (0, false);
        for (place, byte) in whole.bytes().chain(fraction.bytes()).enumerate() {
            let digit = i128::from(byte.saturating_sub(b'0'));
            let is_fraction = place >= whole.len();
            if kept < DIGITS_MAX {
                digits = digits.saturating_mul(10).saturating_add(digit);
                kept += usize::from(digits > 0);
                exponent = exponent.saturating_sub(i64::from(is_fraction));
            } else {
                is_cut |= digit > 0;
                exponent = exponent.saturating_add(i64::from(!is_fraction));
            }
        }
        if digits == 0 {
            return Ok(Exact { digits: 0, exponent: 0, is_cut: false });
        }
        if sign {
            return Err(NoPrice::Negative);
        }
        while digits % 10 == 0 {
            digits = digits.checked_div(10).unwrap_or_default();
            exponent = exponent.saturating_add(1);
        }
        if exponent > EXPONENT_MAX {
            return Err(NoPrice::TooLarge);
        }
        Ok(Exact { digits, exponent, is_cut })
    }

    /// Is it zero?
    pub(super) const fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// As a price, if it is in dollars for `of` units and the price is for `to` of them. In
    /// nano-dollars, rounded half up; `false` with it says that nothing was rounded.
    pub(super) fn price(self, of: u32, to: u32) -> Result<(UnitPrice, bool), NoPrice> {
        if self.is_zero() {
            return Ok((UnitPrice::ZERO, false));
        }
        let scaled = self.digits.checked_mul(i128::from(to)).ok_or(NoPrice::TooLarge)?;
        // Dollars become nano-dollars.
        let exponent = self.exponent.saturating_add(9);
        let (numerator, denominator) = if exponent >= 0 {
            let power = power_of_ten(exponent).ok_or(NoPrice::TooLarge)?;
            (scaled.checked_mul(power).ok_or(NoPrice::TooLarge)?, 1)
        } else {
            let power = power_of_ten(exponent.saturating_neg()).ok_or(NoPrice::TooSmall)?;
            (scaled, power)
        };
        let denominator = i128::from(of)
            .checked_mul(denominator)
            .filter(|below| *below > 0)
            .ok_or(NoPrice::TooSmall)?;
        let twice = numerator.checked_mul(2).and_then(|twice| twice.checked_add(denominator));
        let twice = twice.ok_or(NoPrice::TooLarge)?;
        let below = denominator.checked_mul(2).ok_or(NoPrice::TooSmall)?;
        let nanos = twice.checked_div(below).unwrap_or_default();
        if nanos == 0 {
            return Err(NoPrice::TooSmall);
        }
        let price = i64::try_from(nanos).ok().and_then(UnitPrice::from_nanos);
        let is_rounded = self.is_cut || nanos.checked_mul(denominator) != Some(numerator);
        Ok((price.ok_or(NoPrice::TooLarge)?, is_rounded))
    }

    /// As the price of a dimension, if it is in dollars for one unit: a token, a character, a
    /// second, a piece.
    pub(super) fn each(self, dim: Dim) -> Result<(UnitPrice, bool), NoPrice> {
        let to = match dim {
            // Priced by the hour, and measured in milliseconds.
            Dim::AudioIn | Dim::AudioOut | Dim::Video => 3_600,
            _ => dim.per(),
        };
        self.price(1, to)
    }
}

fn power_of_ten(exponent: i64) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    use super::*;

    fn nanos(text: &str, of: u32, to: u32) -> Result<(i64, bool), NoPrice> {
        Exact::read(text)?.price(of, to).map(|(price, is_rounded)| (price.nanos(), is_rounded))
    }

    #[test]
    fn every_notation_is_read_exactly() {
        for (text, expected) in [
            ("1.5e-07", 150_000_000),
            ("1.5E-7", 150_000_000),
            ("0.00000015", 150_000_000),
            ("15e-8", 150_000_000),
            ("0.000000150", 150_000_000),
            (" 3e-6 ", 3_000_000_000),
            ("1e-15", 1),
            ("4", 4_000_000_000_000_000),
            (".5e-6", 500_000_000),
            ("0", 0),
            ("0.0", 0),
            ("0e5", 0),
            ("-0.0", 0),
        ] {
            assert_eq!(nanos(text, 1, 1_000_000), Ok((expected, false)), "{text}");
        }
    }

    /// As floats two of these would be the same number.
    #[test]
    fn what_is_finer_than_the_unit_is_rounded_half_up_and_said() {
        for (text, expected) in [
            ("1.0000000000000001e-7", 100_000_000),
            ("0.5e-15", 1),
            ("1.5e-15", 2),
            ("1.4999999999999999999999999999999999999e-15", 1),
        ] {
            assert_eq!(nanos(text, 1, 1_000_000), Ok((expected, true)), "{text}");
        }
        // A third of a cent for an hour, told by the second.
        assert_eq!(nanos("0.0000925925925925926", 1, 3_600), Ok((333_333_333, true)));
    }

    #[test]
    fn what_is_no_price_says_why() {
        for (text, error) in [
            ("", NoPrice::NotDecimal),
            (".", NoPrice::NotDecimal),
            ("1e", NoPrice::NotDecimal),
            ("1e9999999", NoPrice::NotDecimal),
            ("NaN", NoPrice::NotDecimal),
            ("1,5", NoPrice::NotDecimal),
            ("0x10", NoPrice::NotDecimal),
            ("-1e-7", NoPrice::Negative),
            ("1e99", NoPrice::TooLarge),
            ("9223372036854775808e-15", NoPrice::TooLarge),
            ("4e-16", NoPrice::TooSmall),
            ("1e-900", NoPrice::TooSmall),
        ] {
            assert_eq!(nanos(text, 1, 1_000_000), Err(error), "{text}");
        }
        assert_eq!(nanos("9223372036854775807e-15", 1, 1_000_000), Ok((i64::MAX, false)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// The same as decimal arithmetic says, in each notation.
        #[test]
        fn it_agrees_with_decimals(
            mantissa in 0_i64..10_000_000_000_000_000,
            decimals in 0_u32..20,
            per in prop::sample::select(vec![(1_u32, 1_000_000_u32), (1, 3_600), (1, 1), (1_000, 1)]),
        ) {
            let number = Decimal::from_i128_with_scale(mantissa.into(), decimals);
            let (of, to) = per;
            let exact = number
                .checked_mul(Decimal::from(u64::from(to) * 1_000_000_000))
                .and_then(|value| value.checked_div(Decimal::from(of)));
            let Some(exact) = exact else { return Ok(()) };
            let rounded =
                exact.round_dp_with_strategy(0, rust_decimal::RoundingStrategy::MidpointAwayFromZero);
            let is_rounded = rounded != exact;
            let expected = i64::try_from(rounded.mantissa());
            let plain = number.to_string();
            let scientific = format!("{mantissa}e-{decimals}");
            let shifted = format!("{number}{}", "0".repeat(if decimals > 0 { 3 } else { 0 }));
            let other = format!("{}e{}", Decimal::from_i128_with_scale(mantissa.into(), decimals + 2), 2);
            for text in [plain, scientific, shifted, other] {
                let got = nanos(&text, of, to);
                match expected {
                    Ok(0) if mantissa == 0 => prop_assert_eq!(got, Ok((0, false))),
                    Ok(0) => prop_assert_eq!(got, Err(NoPrice::TooSmall)),
                    Ok(nanos) => prop_assert_eq!(got, Ok((nanos, is_rounded)), "{}", text),
                    Err(_) => prop_assert_eq!(got, Err(NoPrice::TooLarge)),
                }
            }
        }
    }
}
