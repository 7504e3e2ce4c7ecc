//! Bills: what a call is charged for, so that its cost can be computed again at any time.

use std::fmt;
use std::num::NonZeroU32;

use super::leb128;
use super::metering::{Convention, Counted};
use super::quantities::Quantities;

/// The number of a version of a price list. One sequence numbers the versions of all lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(NonZeroU32);

impl VersionId {
    /// The first version of all.
    pub const FIRST: VersionId = VersionId(NonZeroU32::MIN);
    /// The greatest number.
    pub const LAST: VersionId = VersionId(NonZeroU32::MAX);

    /// From its number; `None` for zero.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(VersionId(number)),
            None => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is peculiar about a bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

impl Flags {
    /// Nothing is.
    pub const NONE: Flags = Flags(0);
    /// Less was taken than the call cost, because no more was held.
    pub const CLAMPED: Flags = Flags(1);
    /// Tokens were counted here, because the provider did not report them.
    pub const COUNTED: Flags = Flags(1 << 1);
    /// The parts that the provider reported did not come to its whole.
    pub const ODD: Flags = Flags(1 << 2);
    /// The answer was cut off.
    pub const EARLY: Flags = Flags(1 << 3);
    /// Another model answered than was asked for, and its price counts.
    pub const OTHER_MODEL: Flags = Flags(1 << 6);
    const ALL: u8 = 0b0100_1111;

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Flags) -> Self {
        Flags(self.0 | other.0)
    }

    /// These, and those if it is so.
    #[must_use]
    pub const fn and_if(self, is_so: bool, other: Flags) -> Self {
        if is_so { self.and(other) } else { self }
    }

    /// Are all of those among these?
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a call is charged for. With the version of the price list that it names, it says what the
/// call cost.
///
/// It is stored in ledger entries and hashed into their chain, so its encoding never changes:
///
/// | bytes | what |
/// |---|---|
/// | 1 | bits 0 to 3 and 6: [`Flags`]; bit 4: the cache is beside; bit 5: thoughts are; bit 7: zero |
/// | 1 to 5 | number of the version, LEB128 |
/// | 1 to 3 | number of the card, LEB128 |
/// | 1 | number of the row |
/// | rest | of each dimension of which there is something, by code: code, number in LEB128 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The version of the price list.
    pub version: VersionId,
    /// The number of the card in it.
    pub card: u16,
    /// The number of the row of the card.
    pub row: u8,
    /// How the provider counted.
    pub convention: Convention,
    /// What is peculiar.
    pub flags: Flags,
    /// How much was used.
    pub quantities: Quantities,
}

const CACHE_BESIDE: u8 = 1 << 4;
const THOUGHTS_BESIDE: u8 = 1 << 5;

impl Bill {
    /// No bill has more bytes.
    pub const BYTES_MAX: usize = 1 + 5 + 3 + 1 + 24 * 11;

    /// It in bytes: about 22 for a call of an agent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.write(&mut out);
        out
    }

    /// Appends its bytes.
    pub(crate) fn write(&self, out: &mut impl Extend<u8>) {
        let bit = |counted, bit| if counted == Counted::Beside { bit } else { 0 };
        let cache = bit(self.convention.cache, CACHE_BESIDE);
        let thoughts = bit(self.convention.thoughts, THOUGHTS_BESIDE);
        out.extend([self.flags.0 | cache | thoughts]);
        leb128::write(out, u64::from(self.version.number()));
        leb128::write(out, u64::from(self.card));
        out.extend([self.row]);
        self.quantities.write(out);
    }

    /// The first byte of a bill, with [`Flags::CLAMPED`] among its flags.
    pub(crate) const fn clamped(head: u8) -> u8 {
        head | Flags::CLAMPED.0
    }

    /// The bill of which [`Bill::bytes`] are just these; `None` if there is none.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first()?;
        if head & !(Flags::ALL | CACHE_BESIDE | THOUGHTS_BESIDE) != 0 {
            return None;
        }
        let (version, rest) = leb128::read(rest)?;
        let (card, rest) = leb128::read(rest)?;
        let (row, rest) = rest.split_first()?;
        let counted = |bit| if head & bit == 0 { Counted::Within } else { Counted::Beside };
        Some(Bill {
            version: VersionId::new(u32::try_from(version).ok()?)?,
            card: u16::try_from(card).ok()?,
            row: *row,
            convention: Convention {
                cache: counted(CACHE_BESIDE),
                thoughts: counted(THOUGHTS_BESIDE),
            },
            flags: Flags(head & Flags::ALL),
            quantities: Quantities::read(rest)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::dim::Dim;
    use super::*;

    fn bill() -> Bill {
        Bill {
            version: VersionId::new(300).unwrap(),
            card: 200,
            row: 2,
            convention: Convention { cache: Counted::Beside, thoughts: Counted::Within },
            flags: Flags::ODD.and(Flags::EARLY),
            quantities: [
                (Dim::Request, 1),
                (Dim::Input, 812),
                (Dim::CacheRead, 11_264),
                (Dim::CacheWrite, 2_048),
                (Dim::Output, 431),
                (Dim::Reasoning, 96),
            ]
            .into_iter()
            .collect(),
        }
    }

    /// Stored bills have these bytes, and hashes contain them.
    #[test]
    fn the_bytes_of_a_bill_never_change() {
        let bytes = [
            0b1_1100, 0xac, 0x02, 0xc8, 0x01, 2, 0, 0xac, 0x06, 1, 0x80, 0x58, 2, 0x80, 0x10, 16,
            0xaf, 0x03, 17, 0x60, 24, 1,
        ];
        assert_eq!(bill().bytes(), bytes);
        assert_eq!(bytes.len(), 22);
        assert_eq!(Bill::read(&bytes), Some(bill()));
    }

    #[test]
    fn the_largest_bill_has_the_most_bytes() {
        let most = Bill {
            version: VersionId::new(u32::MAX).unwrap(),
            card: u16::MAX,
            quantities: Dim::ALL.into_iter().map(|dim| (dim, u64::MAX)).collect(),
            ..bill()
        };
        assert_eq!(most.bytes().len(), Bill::BYTES_MAX);
        assert_eq!(Bill::read(&most.bytes()), Some(most));
    }

    #[test]
    fn other_bytes_are_refused() {
        let bytes = bill().bytes();
        // Cut off anywhere but between two quantities.
        let ends = [6, 9, 12, 15, 18, 20, 22];
        for length in 0..bytes.len() {
            assert_eq!(Bill::read(&bytes[..length]).is_some(), ends.contains(&length), "{length}");
        }
        for (what, other) in [
            ("a bit without a meaning", vec![0x80, 1, 0, 0]),
            ("version zero", vec![0, 0, 0, 0]),
            ("a version beyond 32 bits", vec![0, 0xff, 0xff, 0xff, 0xff, 0x1f, 0, 0]),
            ("a card beyond 16 bits", vec![0, 1, 0x80, 0x80, 0x04, 0]),
            ("a padded card", vec![0, 1, 0x80, 0, 0]),
            ("a dimension that is not", vec![0, 1, 0, 0, 10, 1]),
            ("a quantity of zero", vec![0, 1, 0, 0, 0, 0]),
            ("a padded quantity", vec![0, 1, 0, 0, 0, 0x81, 0]),
            ("a dimension twice", vec![0, 1, 0, 0, 0, 1, 0, 1]),
            ("another order", vec![0, 1, 0, 0, 1, 1, 0, 1]),
        ] {
            assert_eq!(Bill::read(&other), None, "{what}");
        }
    }

    #[test]
    fn flags_are_told_apart() {
        let flags = Flags::CLAMPED.and_if(true, Flags::ODD).and_if(false, Flags::EARLY);
        assert!(flags.has(Flags::CLAMPED) && flags.has(Flags::ODD) && flags.has(Flags::NONE));
        assert!(!flags.has(Flags::EARLY) && !flags.has(Flags::ODD.and(Flags::COUNTED)));
    }
}
