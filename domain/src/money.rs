//! Credits: exact amounts of money. No other code rounds amounts.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;

/// An amount in nano-dollars (1e-9 USD).
///
/// It is an integer in memory, in the ledger and in both databases, so sums are exact. Arithmetic
/// is checked: an overflow gives `None`. Decimal text is parsed and printed only at the edges of
/// the server. Floats are never used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Credits(i64);

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It is not a plain decimal number.
    #[error("must be a plain decimal number such as 25.00")]
    NotDecimal,
    /// It has more decimals than the unit.
    #[error("must have at most {0} decimals")]
    TooPrecise(u32),
    /// It does not fit into the unit.
    #[error("is too large")]
    TooLarge,
}

impl Credits {
    /// No credits.
    pub const ZERO: Credits = Credits(0);
    /// The largest amount: about 9.2 billion USD.
    pub const MAX: Credits = Credits(i64::MAX);
    /// Decimals of the unit.
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

    /// The sum; `None` if it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Credits) -> Option<Credits> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Credits(sum)),
            None => None,
        }
    }

    /// The difference, which may be negative; `None` if it does not fit. [`Credits::less`] is for
    /// amounts that may not be negative.
    #[must_use]
    pub const fn checked_sub(self, other: Credits) -> Option<Credits> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Credits(difference)),
            None => None,
        }
    }

    /// This amount minus `other`, at least zero. For display and remaining limits. A ledger needs
    /// [`Credits::checked_sub`].
    #[must_use]
    pub fn less(self, other: Credits) -> Credits {
        Credits(self.0.saturating_sub(other.0).max(0))
    }

    /// Is it below zero?
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// The longest amount: a sign, ten digits, a point and nine decimals.
const AMOUNT_BYTES: usize = 21;

/// Parses a plain decimal (digits, at most one point, an optional minus) as an integer number of
/// units of 10^-`decimals`. Refuses the underscores that `rust_decimal` accepts, and the exponents
/// that JSON has.
pub(super) fn parse_units(text: &str, decimals: u32) -> Result<i64, AmountError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().filter(|b| *b == b'.').count() <= 1;
    if !plain {
        return Err(AmountError::NotDecimal);
    }
    // Leading and trailing zeros are cut off first. Then the rest fits into a Decimal, or it is too
    // large or too precise for any amount.
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

    /// Parses a decimal number of dollars exactly, such as `25.00`. Refuses exponents, NaN, a plus
    /// sign, a bare point, and more than nine decimals after trailing zeros are cut off.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        parse_units(text, Self::DECIMALS).map(Credits)
    }
}

impl fmt::Display for Credits {
    /// Prints dollars with at least four decimals (`0.0020`), and more if the amount has them
    /// (`0.00205`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absolute = self.0.unsigned_abs();
        let (mut whole, mut fraction) = (absolute / 1_000_000_000, absolute % 1_000_000_000);
        let mut decimals = 9_u32;
        while decimals > 4 && fraction % 10 == 0 {
            fraction /= 10;
            decimals = decimals.saturating_sub(1);
        }
        // Written from its end, and in one piece: each answer shows several amounts.
        let mut text = [0; AMOUNT_BYTES];
        let mut start = text.len();
        let mut places = text.iter_mut().rev();
        let mut put = |byte: u8| {
            if let Some(place) = places.next() {
                *place = byte;
                start = start.saturating_sub(1);
            }
        };
        let digit = |number: u64| b'0' | u8::try_from(number % 10).unwrap_or(0);
        for _ in 0..decimals {
            put(digit(fraction));
            fraction /= 10;
        }
        put(b'.');
        put(digit(whole));
        while whole >= 10 {
            whole /= 10;
            put(digit(whole));
        }
        if self.0 < 0 {
            put(b'-');
        }
        let text = text.get(start..).and_then(|text| std::str::from_utf8(text).ok());
        f.write_str(text.ok_or(fmt::Error)?)
    }
}

impl fmt::Debug for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${self}")
    }
}

/// The price of one token, in 1e-15 USD.
///
/// The unit is smaller than that of [`Credits`]: published prices are per million tokens, so one
/// token may cost a fraction of a nano-dollar. Only the cost of a complete call is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TokenPrice(i64);

impl TokenPrice {
    /// A price of zero.
    pub const ZERO: TokenPrice = TokenPrice(0);
    /// Decimals of the unit.
    pub const DECIMALS: u32 = 15;
    const PER_NANO: i128 = 1_000_000;

    /// `base + tokens x price`, summed exactly and then rounded half up to the nano-dollar. `None`
    /// if the sum does not fit.
    #[must_use]
    pub fn cost(self, base: Credits, tokens: u64) -> Option<Credits> {
        let exact = i128::from(self.0).checked_mul(i128::from(tokens))?;
        let rounded = exact.checked_add(Self::PER_NANO / 2)?.checked_div(Self::PER_NANO)?;
        base.checked_add(Credits(i64::try_from(rounded).ok()?))
    }

    /// The largest number of tokens that cost at most `ceiling` together with `base`. `None` if
    /// `base` alone costs more.
    #[must_use]
    pub fn tokens_within(self, base: Credits, ceiling: Credits) -> Option<u64> {
        let room =
            i128::from(ceiling.0).checked_sub(i128::from(base.0)).filter(|room| *room >= 0)?;
        // Half up: an exact sum below `room` and a half rounds to `room` or less.
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

    /// Parses a decimal number of dollars a token exactly, such as `0.00001`. Refuses negative
    /// numbers.
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
        // If each token were rounded, a thousand of them would cost nothing.
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
