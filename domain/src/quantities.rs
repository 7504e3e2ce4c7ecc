//! How much of each dimension a call used.

use super::dim::{COUNT, Dim, Side};
use super::leb128;

/// A number of units of each dimension: tokens, characters, milliseconds, pieces.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantities([u64; COUNT]);

impl Quantities {
    /// Nothing of anything.
    pub const NONE: Quantities = Quantities([0; COUNT]);

    /// How much of this dimension.
    #[must_use]
    pub fn of(&self, dim: Dim) -> u64 {
        self.0.get(dim.place()).copied().unwrap_or(0)
    }

    /// These, with `quantity` of this dimension in place of what there was.
    #[must_use]
    pub fn with(mut self, dim: Dim, quantity: u64) -> Self {
        if let Some(place) = self.0.get_mut(dim.place()) {
            *place = quantity;
        }
        self
    }

    /// The dimensions of which there is something, by code.
    pub fn parts(&self) -> impl Iterator<Item = (Dim, u64)> {
        let all = Dim::ALL.iter().copied().zip(self.0.iter().copied());
        all.filter(|(_, quantity)| *quantity > 0)
    }

    /// The sum of one part of the call. Stops at the largest number.
    #[must_use]
    pub fn sum(&self, side: Side) -> u64 {
        let of_side = self.parts().filter(|(dim, _)| dim.side() == side);
        of_side.fold(0, |sum: u64, (_, quantity)| sum.saturating_add(quantity))
    }

    /// Appends them: the code and the number of each dimension of which there is something, by
    /// code.
    pub(crate) fn write(&self, out: &mut impl Extend<u8>) {
        for (dim, quantity) in self.parts() {
            out.extend([dim.code()]);
            leb128::write(out, quantity);
        }
    }

    /// Reads all of `bytes`. `None` unless [`Quantities::write`] writes just these bytes.
    pub(crate) fn read(mut bytes: &[u8]) -> Option<Self> {
        let (mut quantities, mut last) = (Quantities::NONE, None);
        while let Some((code, rest)) = bytes.split_first() {
            let dim = Dim::from_code(*code)?;
            let (quantity, rest) = leb128::read(rest)?;
            if quantity == 0 || last.is_some_and(|last| last >= dim) {
                return None;
            }
            quantities = quantities.with(dim, quantity);
            (last, bytes) = (Some(dim), rest);
        }
        Some(quantities)
    }
}

impl FromIterator<(Dim, u64)> for Quantities {
    fn from_iter<I: IntoIterator<Item = (Dim, u64)>>(parts: I) -> Self {
        parts.into_iter().fold(Quantities::NONE, |all, (dim, quantity)| all.with(dim, quantity))
    }
}

impl std::fmt::Debug for Quantities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.parts()).finish()
    }
}
