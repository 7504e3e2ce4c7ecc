//! Credits: exact amounts of money, and the only code that rounds them.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;

/// An amount in nano-dollars (1e-9 USD).
///
/// A whole number in memory, in the ledger and in both databases, so that sums are exact.
/// Arithmetic is checked: an overflow is an answer (`None`), never a wrapped number. Decimal text
/// is parsed and printed at the edges only, and no float is involved anywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Credits(i64);

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a plain decimal number.
    #[error("must be a plain decimal number such as 25.00")]
    NotDecimal,
    /// More digits after the point than the unit has.
    #[error("must have at most {0} decimals")]
    TooPrecise(u32),
    /// Larger than the unit can hold.
    #[error("is too large")]
    TooLarge,
}

impl Credits {
    /// Nothing.
    pub const ZERO: Credits = Credits(0);
    /// The largest amount: about 9.2 billion USD.
    pub const MAX: Credits = Credits(i64::MAX);
    /// Digits after the point that the unit can hold.
    pub const DECIMALS: u32 = 9;

    /// From nano-dollars.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Credits(nanos)
    }

    /// In nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The sum, unless it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Credits) -> Option<Credits> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Credits(sum)),
            None => None,
        }
    }

    /// The difference, unless it does not fit. May be negative; see [`Credits::less`] for amounts
    /// that may not.
    #[must_use]
    pub const fn checked_sub(self, other: Credits) -> Option<Credits> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Credits(difference)),
            None => None,
        }
    }

    /// What is left after taking `other` away, never below zero. For display and room left, not for
    /// ledgers.
    #[must_use]
    pub fn less(self, other: Credits) -> Credits {
        Credits(self.0.saturating_sub(other.0).max(0))
    }

    /// Below zero?
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// A plain decimal (digits, at most one point, an optional minus) as a whole number of units of
/// 10^-`decimals`. `rust_decimal` would also take underscores, and JSON would also take exponents;
/// both are refused here.
fn parse_units(text: &str, decimals: u32) -> Result<i64, AmountError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().filter(|b| *b == b'.').count() <= 1;
    if !plain {
        return Err(AmountError::NotDecimal);
    }
    // Zeros that say nothing are cut off first, so that what is left fits into a Decimal or into no
    // amount.
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if u32::try_from(fraction.len()).is_ok_and(|len| len > decimals) {
        return Err(AmountError::TooPrecise(decimals));
    }
    if whole.len() > 12 {
        return Err(AmountError::TooLarge);
    }
    let sign = if digits.len() == text.len() { "" } else { "-" };
    let mut value = Decimal::from_str_exact(&format!("{sign}0{whole}.{fraction}0"))
        .map_err(|_| AmountError::TooLarge)?;
    value.rescale(decimals);
    i64::try_from(value.mantissa()).map_err(|_| AmountError::TooLarge)
}

impl FromStr for Credits {
    type Err = AmountError;

    /// Parses a decimal number of dollars, such as `25.00`, exactly. Refuses exponents, NaN, a plus
    /// sign, a bare point and more than nine decimals; trailing zeros do not count.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        parse_units(text, Self::DECIMALS).map(Credits)
    }
}

impl fmt::Display for Credits {
    /// Dollars with at least four decimals (`0.0020`), more if the amount has them (`0.00205`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absolute = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, mut fraction) = (absolute / 1_000_000_000, absolute % 1_000_000_000);
        let mut decimals: usize = 9;
        while decimals > 4 && fraction % 10 == 0 {
            fraction /= 10;
            decimals = decimals.saturating_sub(1);
        }
        write!(f, "{sign}{whole}.{fraction:0decimals$}")
    }
}

impl fmt::Debug for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${self}")
    }
}

/// The price of one token, in 1e-15 USD.
///
/// Finer than [`Credits`], because published prices are per million tokens and may come to a
/// fraction of a nano-dollar each. Only a whole call's cost is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TokenPrice(i64);

impl TokenPrice {
    /// Free.
    pub const ZERO: TokenPrice = TokenPrice(0);
    /// Digits after the point that the unit can hold.
    pub const DECIMALS: u32 = 15;
    const PER_NANO: i128 = 1_000_000;

    /// `base + tokens x price`, summed exactly and rounded once, half up, to the nano-dollar.
    /// `None` if the sum does not fit.
    #[must_use]
    pub fn cost(self, base: Credits, tokens: u64) -> Option<Credits> {
        let exact = i128::from(self.0).checked_mul(i128::from(tokens))?;
        let rounded = exact.checked_add(Self::PER_NANO / 2)?.checked_div(Self::PER_NANO)?;
        base.checked_add(Credits(i64::try_from(rounded).ok()?))
    }

    /// The most tokens whose cost with `base` stays within `ceiling`; `None` if not even the base
    /// does.
    #[must_use]
    pub fn tokens_within(self, base: Credits, ceiling: Credits) -> Option<u64> {
        let room =
            i128::from(ceiling.0).checked_sub(i128::from(base.0)).filter(|room| *room >= 0)?;
        // Half up: all that rounds to `room` or less is below `room` and a half.
        let exact = room.checked_mul(Self::PER_NANO)?.checked_add(Self::PER_NANO / 2 - 1)?;
        match exact.checked_div(i128::from(self.0)) {
            Some(tokens) => Some(u64::try_from(tokens).unwrap_or(u64::MAX)),
            None => Some(u64::MAX),
        }
    }

    /// In 1e-15 USD.
    #[must_use]
    pub const fn femtos(self) -> i64 {
        self.0
    }
}

impl FromStr for TokenPrice {
    type Err = AmountError;

    /// Parses a decimal number of dollars a token, such as `0.00001`, exactly. Not negative.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let units = parse_units(text, Self::DECIMALS)?;
        if units < 0 { Err(AmountError::NotDecimal) } else { Ok(TokenPrice(units)) }
    }
}

impl fmt::Display for TokenPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:015}", self.0 % 1_000_000_000_000_000);
        let (first_four, rest) = fraction.split_at(4);
        write!(f, "{}.{first_four}{}", self.0 / 1_000_000_000_000_000, rest.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn credits(text: &str) -> Credits {
        text.parse().unwrap()
    }

    #[test]
    fn amounts_print_at_least_four_decimals() {
        for (nanos, text) in [
            (0, "0.0000"),
            (2_000_000, "0.0020"),
            (2_050_000, "0.00205"),
            (1, "0.000000001"),
            (47_325_000_000, "47.3250"),
            (-1_500_000_000, "-1.5000"),
            (i64::MAX, "9223372036.854775807"),
            (i64::MIN, "-9223372036.854775808"),
        ] {
            assert_eq!(Credits(nanos).to_string(), text);
            assert_eq!(text.parse(), Ok(Credits(nanos)));
        }
    }

    #[test]
    fn what_is_not_a_plain_decimal_is_refused() {
        for text in [
            "", "-", ".", "1.", ".5", "+1", "1e3", "1E-3", "NaN", "Infinity", "1_000", "1,5", " 1",
            "1 ", "0x10", "1.2.3", "--1", "\"1\"", "٣",
        ] {
            assert_eq!(text.parse::<Credits>(), Err(AmountError::NotDecimal), "{text:?}");
        }
        assert_eq!("0.0000000001".parse::<Credits>(), Err(AmountError::TooPrecise(9)));
        assert_eq!("0.1234567890123456789".parse::<Credits>(), Err(AmountError::TooPrecise(9)));
        assert_eq!("9223372036.854775808".parse::<Credits>(), Err(AmountError::TooLarge));
        assert_eq!(
            "99999999999999999999999999999999".parse::<Credits>(),
            Err(AmountError::TooLarge)
        );
        assert_eq!(credits("1.000000000000000000000000"), credits("1"));
        assert_eq!(credits("000000000000000000000000000001.5"), credits("1.5"));
    }

    #[test]
    fn the_published_example_costs_what_it_says() {
        let price: TokenPrice = "0.00001".parse().unwrap();
        assert_eq!(price.cost(credits("0.0020"), 1_000), Some(credits("0.0120")));
    }

    #[test]
    fn a_cost_is_rounded_once_half_up() {
        let half_a_nano: TokenPrice = "0.0000000005".parse().unwrap();
        assert_eq!(half_a_nano.cost(Credits::ZERO, 1), Some(Credits(1)));
        assert_eq!(half_a_nano.cost(Credits::ZERO, 3), Some(Credits(2)));
        let below_half: TokenPrice = "0.000000000499999".parse().unwrap();
        assert_eq!(below_half.cost(Credits::ZERO, 1), Some(Credits(0)));
        // Rounded each, a thousand of them would be nothing.
        assert_eq!(below_half.cost(Credits::ZERO, 1_000), Some(Credits(500)));
    }

    #[test]
    fn a_cost_that_does_not_fit_is_no_cost() {
        let dear: TokenPrice = "9000".parse().unwrap();
        assert_eq!(dear.cost(Credits::ZERO, u64::MAX), None);
        assert_eq!(TokenPrice::ZERO.cost(Credits::MAX, u64::MAX), Some(Credits::MAX));
        assert_eq!("-0.1".parse::<TokenPrice>(), Err(AmountError::NotDecimal));
    }

    proptest! {
        #[test]
        fn every_amount_reads_back_as_it_prints(nanos: i64) {
            prop_assert_eq!(Credits(nanos).to_string().parse(), Ok(Credits(nanos)));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Credits>();
            let _ = text.parse::<TokenPrice>();
        }

        #[test]
        fn tokens_within_a_ceiling_are_the_most_that_fit(
            femtos in 1..1_000_000_000_000_i64, base in 0..1_000_000_i64, ceiling in 0..1_000_000_000_i64,
        ) {
            let (price, base, ceiling) = (TokenPrice(femtos), Credits(base), Credits(ceiling));
            match price.tokens_within(base, ceiling) {
                Some(tokens) => {
                    prop_assert!(price.cost(base, tokens).unwrap() <= ceiling);
                    prop_assert!(price.cost(base, tokens + 1).unwrap() > ceiling);
                }
                None => prop_assert!(base > ceiling),
            }
        }

        #[test]
        fn cost_is_the_decimal_product(femtos in 0..i64::MAX / 2, tokens in 0..1_000_000_u64) {
            let exact = Decimal::from_i128_with_scale(i128::from(femtos) * i128::from(tokens), 15);
            let rounded = exact
                .round_dp_with_strategy(9, rust_decimal::RoundingStrategy::MidpointAwayFromZero);
            let mut nanos = rounded;
            nanos.rescale(9);
            let expected = i64::try_from(nanos.mantissa()).ok().map(Credits);
            prop_assert_eq!(TokenPrice(femtos).cost(Credits::ZERO, tokens), expected);
        }
    }
}
