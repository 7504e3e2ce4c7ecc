//! Bills in the form in which they are stored, hashed and compared: bytes.

use std::fmt;

use super::bill::{Bill, VersionId};
use super::money::Credits;

/// A bill as it is stored with an entry or a hold. It is kept as the bytes that were written, so
/// that `verify` can hash and judge also what is damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoredBill {
    version: VersionId,
    length: u8,
    /// Zeros after `length`. In place, because each paid call makes one and entries are copied.
    bytes: [u8; StoredBill::BYTES_MAX],
}

impl StoredBill {
    /// Most bytes of a bill that is stored. It is less than [`Bill::BYTES_MAX`]: a call that uses
    /// two million of each of the 24 dimensions has 106.
    pub const BYTES_MAX: usize = 123;

    /// The bill in bytes; `None` if it has more than [`StoredBill::BYTES_MAX`].
    #[must_use]
    pub fn of(bill: &Bill) -> Option<Self> {
        let mut out = Bytes { length: 0, bytes: [0; Self::BYTES_MAX] };
        bill.write(&mut out);
        let is_whole = usize::from(out.length) <= Self::BYTES_MAX;
        let Bytes { length, bytes } = out;
        is_whole.then_some(StoredBill { version: bill.version, length, bytes })
    }

    /// What is in the columns of a row: the number of the version, and the bytes. `None` if the row
    /// has no bill. Of columns that no bill can have, the result is one that is not readable and
    /// breaks the chain of its account, so that `verify` reports it.
    #[must_use]
    pub fn from_columns(version: Option<i64>, bytes: Option<&[u8]>) -> Option<Self> {
        if version.is_none() && bytes.is_none() {
            return None;
        }
        let damaged =
            StoredBill { version: VersionId::LAST, length: 0, bytes: [0; Self::BYTES_MAX] };
        let version = version.and_then(|version| u32::try_from(version).ok());
        let version = version.and_then(VersionId::new);
        let stored = version.zip(bytes).and_then(|(version, from)| {
            let mut bytes = [0; Self::BYTES_MAX];
            bytes.get_mut(..from.len())?.copy_from_slice(from);
            let length = u8::try_from(from.len()).ok()?;
            Some(StoredBill { version, length, bytes })
        });
        Some(stored.unwrap_or(damaged))
    }

    /// The bill of which [`Bill::bytes`] are just these; `None` if there is none.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let version = i64::from(Bill::read(bytes)?.version.number());
        Self::from_columns(Some(version), Some(bytes)).filter(|stored| stored.bytes() == bytes)
    }

    /// The version of the price list, as the column of it says.
    #[must_use]
    pub const fn version(&self) -> VersionId {
        self.version
    }

    /// How many bytes.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The bill. `None` if the bytes are not those of one, or it is of another version than the
    /// column says.
    #[must_use]
    pub fn bill(&self) -> Option<Bill> {
        Bill::read(self.bytes()).filter(|bill| bill.version == self.version)
    }

    /// The bill of a call that cost `cost`, of which `taken` was taken: it says if that was less.
    #[must_use]
    pub fn taken(mut self, cost: Credits, taken: Credits) -> Self {
        if taken < cost
            && let Some(head) = self.bytes.first_mut()
        {
            *head = Bill::clamped(*head);
        }
        self
    }
}

impl fmt::Debug for StoredBill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bill() {
            Some(bill) => bill.fmt(f),
            None => write!(f, "version {}: {:02x?}", self.version, self.bytes()),
        }
    }
}

/// Takes the bytes of a bill. Counts also those for which there is no room.
struct Bytes {
    length: u8,
    bytes: [u8; StoredBill::BYTES_MAX],
}

impl Extend<u8> for Bytes {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, more: I) {
        for byte in more {
            if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
                *place = byte;
            }
            self.length = self.length.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::{Convention, Flags};

    fn bill(each: u64) -> Bill {
        Bill {
            version: VersionId::new(70_000).unwrap(),
            card: 300,
            row: 1,
            convention: Convention::default(),
            flags: Flags::ODD,
            quantities: Dim::ALL.into_iter().map(|dim| (dim, each)).collect(),
        }
    }

    #[test]
    fn it_has_the_bytes_of_its_bill() {
        for each in [1, 1 << 13, 2_000_000] {
            let stored = StoredBill::of(&bill(each)).unwrap();
            assert_eq!(stored.bytes(), bill(each).bytes());
            assert_eq!(stored.bill(), Some(bill(each)));
            assert_eq!(StoredBill::read(stored.bytes()), Some(stored));
            let columns = (Some(70_000), Some(stored.bytes()));
            assert_eq!(StoredBill::from_columns(columns.0, columns.1), Some(stored));
        }
        for each in [1 << 40, u64::MAX] {
            assert_eq!(StoredBill::of(&bill(each)), None);
            assert_eq!(StoredBill::read(&bill(each).bytes()), None);
        }
    }

    #[test]
    fn columns_that_no_bill_has_are_not_readable() {
        let stored = StoredBill::of(&bill(1)).unwrap();
        let bytes = stored.bytes();
        assert_eq!(StoredBill::from_columns(None, None), None);
        for (version, bytes) in [
            (None, Some(bytes)),
            (Some(70_000), None),
            (Some(0), Some(bytes)),
            (Some(-1), Some(bytes)),
            (Some(1 << 32), Some(bytes)),
            (Some(70_000), Some(&[0; 124][..])),
            (Some(70_000), Some(&[][..])),
            (Some(70_001), Some(bytes)),
        ] {
            let read = StoredBill::from_columns(version, bytes).unwrap();
            assert_eq!(read.bill(), None, "{version:?} {bytes:?}");
            assert_ne!(read, stored);
        }
    }

    #[test]
    fn who_took_less_says_so() {
        let (cost, less) = (Credits::from_nanos(5), Credits::from_nanos(4));
        let stored = StoredBill::of(&bill(1)).unwrap();
        assert_eq!(stored.taken(cost, cost), stored);
        let flags = Flags::ODD.and(Flags::CLAMPED);
        assert_eq!(stored.taken(cost, less).bill(), Some(Bill { flags, ..bill(1) }));
    }
}
