//! Prices by dimension. They are whole numbers, a cost is summed exactly and rounded once.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::dim::{COUNT, Dim, DimSet, SCALE, Side};
use super::money::{AmountError, Credits, TokenPrice, parse_units};
use super::quantities::Quantities;

/// The price of [`Dim::per`] units: a million tokens or characters, an hour, a piece. In
/// nano-dollars, never negative. For tokens that is 1e-15 USD a token, as in [`TokenPrice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnitPrice(i64);

impl UnitPrice {
    /// A price of zero, which is not the same as no price.
    pub const ZERO: UnitPrice = UnitPrice(0);

    /// From nano-dollars; `None` if they are negative.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Option<Self> {
        if nanos < 0 { None } else { Some(UnitPrice(nanos)) }
    }

    /// In nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }
}

impl FromStr for UnitPrice {
    type Err = AmountError;

    /// Parses dollars for [`Dim::per`] units exactly, such as `4.60`. Refuses negative numbers.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let nanos = parse_units(text, Credits::DECIMALS)?;
        UnitPrice::from_nanos(nanos).ok_or(AmountError::NotDecimal)
    }
}

impl fmt::Display for UnitPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Credits::from_nanos(self.0).fmt(f)
    }
}

impl From<TokenPrice> for UnitPrice {
    fn from(price: TokenPrice) -> Self {
        UnitPrice(price.femtos())
    }
}

/// What all prices of a list are multiplied by, in millionths: 1,150,000 is a markup of 15 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiplier(NonZeroU32);

impl Multiplier {
    /// It leaves every price as it is.
    pub const ONE: Multiplier = Multiplier(NonZeroU32::MIN.saturating_mul(MILLION));
    /// Decimals of its text.
    pub const DECIMALS: u32 = 6;

    /// From millionths; `None` if they are zero.
    #[must_use]
    pub const fn from_millionths(millionths: u32) -> Option<Self> {
        match NonZeroU32::new(millionths) {
            Some(millionths) => Some(Multiplier(millionths)),
            None => None,
        }
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0.get()
    }

    /// The price times this, rounded half up to the nano-dollar; `None` if it does not fit.
    #[must_use]
    pub fn apply(self, price: UnitPrice) -> Option<UnitPrice> {
        let exact = i128::from(price.0).checked_mul(i128::from(self.0.get()))?;
        let rounded = exact.checked_add(500_000)?.checked_div(1_000_000)?;
        i64::try_from(rounded).ok().map(UnitPrice)
    }
}

const MILLION: NonZeroU32 = match NonZeroU32::new(1_000_000) {
    Some(million) => million,
    None => NonZeroU32::MIN,
};

impl Default for Multiplier {
    fn default() -> Self {
        Multiplier::ONE
    }
}

impl FromStr for Multiplier {
    type Err = AmountError;

    /// Parses a decimal number such as `0.90`, with at most six decimals. Refuses zero and negative
    /// numbers.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let millionths = parse_units(text, Self::DECIMALS)?;
        if millionths <= 0 {
            return Err(AmountError::NotDecimal);
        }
        let millionths = u32::try_from(millionths).map_err(|_| AmountError::TooLarge)?;
        Multiplier::from_millionths(millionths).ok_or(AmountError::NotDecimal)
    }
}

impl fmt::Display for Multiplier {
    /// Prints it with all six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.get() / 1_000_000, self.0.get() % 1_000_000)
    }
}

/// A price for each dimension, or none. A dimension without a price of its own has that of its
/// nearest parent that has one: a missing price is never a price of zero. Only the call itself,
/// [`Dim::Request`], is free unless it has a price.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// With those of the parents.
    prices: [Option<UnitPrice>; COUNT],
    /// Those with a price of their own.
    named: DimSet,
}

impl Rates {
    /// No dimension has a price.
    pub const NONE: Rates = Rates { prices: [None; COUNT], named: DimSet::EMPTY };

    /// The price of this dimension, its own or a parent's. `None`: it is not sold.
    #[must_use]
    pub fn price(&self, dim: Dim) -> Option<UnitPrice> {
        let price = self.prices.get(dim.place()).copied().flatten();
        if dim == Dim::Request { price.or(Some(UnitPrice::ZERO)) } else { price }
    }

    /// The dimensions with a price of their own, by code.
    pub fn named(&self) -> impl Iterator<Item = (Dim, UnitPrice)> {
        self.named.dims().filter_map(|dim| Some((dim, self.price(dim)?)))
    }

    /// Does this dimension have a price of its own?
    #[must_use]
    pub fn names(&self, dim: Dim) -> bool {
        self.named.contains(dim)
    }

    /// The dimensions that have a price, their own or a parent's.
    #[must_use]
    pub fn sold(&self) -> DimSet {
        Dim::ALL.into_iter().filter(|dim| self.price(*dim).is_some()).collect()
    }

    /// These, with this price of this dimension. Dimensions that had its old price as their
    /// parent's have the new one.
    #[must_use]
    pub fn with(mut self, dim: Dim, price: UnitPrice) -> Self {
        self.named = self.named.with(dim);
        self.set(dim, Some(price));
        let named = self.named;
        // Parents come before their children.
        for child in Dim::ALL.into_iter().filter(|child| !named.contains(*child)) {
            self.set(child, child.parent().and_then(|parent| self.price(parent)));
        }
        self
    }

    /// These, with the prices that `other` names in place of their own.
    #[must_use]
    pub fn overridden_by(self, other: &Rates) -> Self {
        other.named().fold(self, |rates, (dim, price)| rates.with(dim, price))
    }

    /// Each price times `multiplier`; `None` if one does not fit.
    #[must_use]
    pub fn times(&self, multiplier: Multiplier) -> Option<Self> {
        if multiplier == Multiplier::ONE {
            return Some(*self);
        }
        let mut rates = *self;
        for price in rates.prices.iter_mut().flatten() {
            *price = multiplier.apply(*price)?;
        }
        Some(rates)
    }

    fn set(&mut self, dim: Dim, price: Option<UnitPrice>) {
        if let Some(place) = self.prices.get_mut(dim.place()) {
            *place = price;
        }
    }

    /// The cost in nano-dollars over [`SCALE`].
    pub(super) fn exact(&self, quantities: &Quantities) -> Option<i128> {
        let mut sum = 0_i128;
        for (dim, quantity) in quantities.parts() {
            let price = i128::from(self.price(dim)?.0);
            let part = price.checked_mul(i128::from(quantity))?.checked_mul(dim.scale())?;
            sum = sum.checked_add(part)?;
        }
        Some(sum)
    }

    /// What these quantities cost: summed exactly, then rounded half up to the nano-dollar. `None`
    /// if one of them has no price, or if the sum does not fit.
    #[must_use]
    pub fn cost(&self, quantities: &Quantities) -> Option<Credits> {
        let rounded = self.exact(quantities)?.checked_add(SCALE / 2)?.checked_div(SCALE)?;
        i64::try_from(rounded).ok().map(Credits::from_nanos)
    }

    /// The highest price that a token of this part of the call may have, if it is of one of the
    /// dimensions `may`. `None` if one of them is not sold, or if there is none.
    #[must_use]
    pub fn highest(&self, side: Side, may: DimSet) -> Option<UnitPrice> {
        let mut highest = None;
        for dim in may.dims().filter(|dim| dim.side() == side) {
            highest = highest.max(Some(self.price(dim)?));
        }
        highest
    }

    /// The most tokens of a completion that `held` pays for beside `fixed`, if each may have the
    /// highest price of the dimensions `may`. `None` if `fixed` alone costs more than `held`, or
    /// if something is not sold.
    #[must_use]
    pub fn output_within(&self, held: Credits, fixed: &Quantities, may: DimSet) -> Option<u64> {
        let price = i128::from(self.highest(Side::Out, may)?.0);
        tokens_within(held, self.exact(fixed)?, price)
    }
}

/// The most tokens at this price that `held` pays for beside `exact`, which is over [`SCALE`].
pub(super) fn tokens_within(held: Credits, exact: i128, price: i128) -> Option<u64> {
    // Half up: an exact sum below `held` and a half rounds to `held` or less.
    let most = i128::from(held.nanos()).checked_mul(SCALE)?.checked_add(SCALE / 2 - 1)?;
    let room = most.checked_sub(exact).filter(|room| *room >= 0)?;
    match room.checked_div(price.checked_mul(Dim::Output.scale())?) {
        Some(tokens) => Some(u64::try_from(tokens).unwrap_or(u64::MAX)),
        None => Some(u64::MAX),
    }
}

impl FromIterator<(Dim, UnitPrice)> for Rates {
    fn from_iter<I: IntoIterator<Item = (Dim, UnitPrice)>>(prices: I) -> Self {
        prices.into_iter().fold(Rates::NONE, |rates, (dim, price)| rates.with(dim, price))
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.named()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(text: &str) -> UnitPrice {
        text.parse().unwrap()
    }

    #[test]
    fn a_missing_price_is_the_parents() {
        let rates = Rates::NONE.with(Dim::CacheWrite, price("5")).with(Dim::Input, price("4"));
        for (dim, text) in [
            (Dim::Input, "4"),
            (Dim::CacheRead, "4"),
            (Dim::CacheReadAudio, "4"),
            (Dim::CacheWrite, "5"),
            (Dim::CacheWrite1h, "5"),
            (Dim::CacheWrite12h, "5"),
        ] {
            assert_eq!(rates.price(dim), Some(price(text)), "{dim:?}");
        }
        assert_eq!(rates.price(Dim::Output), None);
        assert_eq!(rates.cost(&Quantities::NONE.with(Dim::Output, 1)), None);
        assert_eq!(rates.cost(&Quantities::NONE), Some(Credits::ZERO));
        // A price of zero is a price.
        let free = rates.with(Dim::Input, UnitPrice::ZERO);
        assert_eq!(free.price(Dim::CacheReadImage), Some(UnitPrice::ZERO));
        assert_eq!(free.price(Dim::CacheWrite12h), Some(price("5")));
    }

    #[test]
    fn a_sum_that_does_not_fit_is_no_price() {
        let image = |price: i64, quantity: u64| {
            let rates = Rates::NONE.with(Dim::Image, UnitPrice::from_nanos(price).unwrap());
            rates.cost(&Quantities::NONE.with(Dim::Image, quantity))
        };
        // Wrapped to 64 or 128 bits these would cost nothing.
        assert_eq!(image(1 << 62, 1 << 59), None);
        assert_eq!(image(1 << 32, 1 << 32), None);
        assert_eq!(image(1 << 62, 1), Some(Credits::from_nanos(1 << 62)));
    }

    #[test]
    fn an_override_binds_what_has_no_price_of_its_own() {
        let list = Rates::NONE.with(Dim::Output, price("50")).with(Dim::Input, price("10"));
        let own = list.overridden_by(&Rates::NONE.with(Dim::Output, price("40")));
        assert_eq!(own.price(Dim::Reasoning), Some(price("40")));
        assert_eq!(own.price(Dim::Input), Some(price("10")));
        assert_eq!(own.named().count(), 2);
    }

    #[test]
    fn a_multiplier_rounds_each_price_half_up() {
        let half: Multiplier = "0.5".parse().unwrap();
        let apply = |nanos| half.apply(UnitPrice(nanos)).map(UnitPrice::nanos);
        assert_eq!((apply(0), apply(1), apply(2), apply(3)), (Some(0), Some(1), Some(1), Some(2)));
        let much: Multiplier = "4294.967295".parse().unwrap();
        assert_eq!(much.apply(UnitPrice(i64::MAX)), None);
        assert_eq!((much.to_string(), half.to_string()), ("4294.967295".into(), "0.500000".into()));
        assert_eq!(Multiplier::ONE, "1".parse().unwrap());
        for text in ["0", "-1", "0.0000001", "4295", "", "1e3"] {
            assert!(text.parse::<Multiplier>().is_err(), "{text}");
        }
        let rates = Rates::NONE.with(Dim::Input, price("3"));
        assert_eq!(rates.times(half).unwrap().price(Dim::CacheRead), Some(price("1.5")));
        assert_eq!(rates.times(Multiplier::ONE), Some(rates));
    }

    #[test]
    fn prices_are_not_negative() {
        assert_eq!(UnitPrice::from_nanos(-1), None);
        assert_eq!("-1".parse::<UnitPrice>(), Err(AmountError::NotDecimal));
        assert_eq!(price("0.000000001").nanos(), 1);
        let token: TokenPrice = "0.00001".parse().unwrap();
        assert_eq!(UnitPrice::from(token), price("10"));
        assert_eq!(price("4.60").to_string(), "4.6000");
    }

    #[test]
    fn a_price_that_one_may_have_and_that_is_missing_is_none() {
        let rates = Rates::NONE.with(Dim::Input, price("4")).with(Dim::CacheWrite, price("5"));
        assert_eq!(rates.highest(Side::In, rates.sold()), Some(price("5")));
        assert_eq!(rates.highest(Side::In, DimSet::EMPTY.with(Dim::CacheRead)), Some(price("4")));
        assert_eq!(rates.highest(Side::Out, DimSet::ALL), None);
        assert_eq!(rates.highest(Side::Out, DimSet::EMPTY), None);
    }
}
