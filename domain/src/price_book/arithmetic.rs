//! The arithmetic of a bill, step by step, so that anybody can do it again by hand.

use std::fmt;
use std::sync::Arc;

use super::{PriceBook, PriceVersion, times};
use crate::bill::{Bill, VersionId};
use crate::card::Service;
use crate::dim::{Dim, SCALE, Side};
use crate::metering::{Convention, recounted};
use crate::money::Credits;
use crate::quantities::Quantities;
use crate::rates::{Rates, UnitPrice};

/// An amount before it is rounded: a whole number of nano-dollars over [`SCALE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExactAmount(pub(crate) i128);

/// Decimals of [`ExactAmount`] as text.
const DECIMALS: usize = 18;

impl ExactAmount {
    /// An amount that is a whole number of nano-dollars.
    #[must_use]
    pub fn of(amount: Credits) -> Self {
        ExactAmount(i128::from(amount.nanos()).saturating_mul(SCALE))
    }

    /// The sum; `None` if it does not fit.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(ExactAmount)
    }

    /// The difference; `None` if it does not fit.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(ExactAmount)
    }

    /// Rounded half up to the nano-dollar; `None` if it does not fit.
    #[must_use]
    pub fn rounded(self) -> Option<Credits> {
        let rounded = self.0.checked_add(SCALE / 2)?.checked_div_euclid(SCALE)?;
        i64::try_from(rounded).ok().map(Credits::from_nanos)
    }
}

impl fmt::Display for ExactAmount {
    /// Prints dollars with all their decimals. Those of an hour's price may never end: then with 18
    /// of them and `...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absolute = self.0.unsigned_abs();
        let scale = SCALE.unsigned_abs();
        let (nanos, rest) = (absolute / scale, absolute % scale);
        // `rest` is below 18,000,000, so this fits.
        let billionths = rest.saturating_mul(1_000_000_000);
        let (small, left) = (billionths / scale, billionths % scale);
        let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let decimals = format!("{fraction:09}{small:09}");
        debug_assert_eq!(decimals.len(), DECIMALS);
        let sign = if self.0 < 0 { "-" } else { "" };
        if left > 0 {
            return write!(f, "{sign}{whole}.{decimals}...");
        }
        let shown = decimals.trim_end_matches('0');
        let shown = if shown.len() < 4 { decimals.get(..4).unwrap_or(shown) } else { shown };
        write!(f, "{sign}{whole}.{shown}")
    }
}

/// One dimension of a bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillPart {
    /// The dimension.
    pub dim: Dim,
    /// How much was used.
    pub quantity: u64,
    /// The price of [`Dim::per`] units.
    pub price: UnitPrice,
    /// The quantity times the price, over [`Dim::per`].
    pub amount: ExactAmount,
}

/// How the cost of a call comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// The version of the price list.
    pub version: Arc<PriceVersion>,
    /// The name of the card: that of a model or of a route.
    pub card: Arc<str>,
    /// The service tier of the row.
    pub service: Service,
    /// The row is for prompts of more tokens than this.
    pub over: u64,
    /// Each dimension of which something was used.
    pub parts: Vec<BillPart>,
    /// The sum of the parts.
    pub sum: ExactAmount,
    /// What the cost is more than the sum, because it is rounded once.
    pub rounding: ExactAmount,
    /// What the call cost.
    pub cost: Credits,
}

/// The parts of what these quantities cost. `None` if one has no price, or an amount does not fit.
#[must_use]
pub fn parts_of(rates: &Rates, quantities: &Quantities) -> Option<Vec<BillPart>> {
    let part = |(dim, quantity): (Dim, u64)| {
        let price = rates.price(dim)?;
        let exact = i128::from(price.nanos()).checked_mul(i128::from(quantity))?;
        let amount = ExactAmount(exact.checked_mul(dim.scale())?);
        Some(BillPart { dim, quantity, price, amount })
    };
    quantities.parts().map(part).collect()
}

/// The sum of parts; `None` if it does not fit.
#[must_use]
pub fn sum_of(parts: &[BillPart]) -> Option<ExactAmount> {
    parts.iter().try_fold(ExactAmount(0), |sum, part| sum.checked_add(part.amount))
}

impl Bill {
    /// How the cost comes about. `None` if the book does not have what the bill names.
    #[must_use]
    pub fn arithmetic(&self, book: &PriceBook) -> Option<Arithmetic> {
        let ((name, card), multipliers) = book.numbered(self.version, self.card)?;
        let row = card.numbered(self.row)?;
        let parts = parts_of(&times(&row.rates, &multipliers)?, &self.quantities)?;
        let sum = sum_of(&parts)?;
        let cost = sum.rounded()?;
        Some(Arithmetic {
            version: Arc::clone(book.by_id(self.version)?),
            card: Arc::clone(name),
            service: row.service,
            over: row.over,
            parts,
            sum,
            rounding: ExactAmount::of(cost).checked_sub(sum)?,
            cost,
        })
    }

    /// What the call would have cost by another version, or if its provider had counted otherwise.
    /// The service tier stays; the row is that of the prompt's length. `None` if that is not
    /// sold, or the book does not have what the bill names.
    #[must_use]
    pub fn cost_by(
        &self,
        book: &PriceBook,
        version: Option<VersionId>,
        convention: Option<Convention>,
    ) -> Option<Credits> {
        if version.is_none() && convention.is_none() {
            return self.cost(book);
        }
        let ((name, card), _) = book.numbered(self.version, self.card)?;
        let service = card.numbered(self.row)?.service;
        let quantities = match convention {
            Some(to) => recounted(&self.quantities, self.convention, to),
            None => self.quantities,
        };
        let priced = book.priced(version.unwrap_or(self.version), name)?;
        let (_, row) = priced.card.row(service, quantities.sum(Side::In))?;
        row.rates.cost(&quantities)
    }
}
