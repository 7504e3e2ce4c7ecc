//! Reading and writing of numbers in byte slices, and the few changes of a number's type.

/// A place in a vector. Every machine that this runs on has 64-bit addresses.
#[expect(clippy::as_conversions, reason = "an address has at least 32 bits")]
pub(crate) const fn index(number: u32) -> usize {
    number as usize
}

/// A size as 64 bits.
#[expect(clippy::as_conversions, reason = "an address has at most 64 bits")]
pub(crate) const fn wide(size: usize) -> u64 {
    size as u64
}

/// The nearest float. Exact up to 16 million.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "lengths and counts of a score; the next float is good enough"
)]
pub(crate) const fn float(number: u64) -> f32 {
    number as f32
}

/// The nearest float of a dot product.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a dot product of 8-bit numbers; the next float is good enough"
)]
pub(crate) const fn signed_float(number: i32) -> f32 {
    number as f32
}

/// The nearest number of 8 bits.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "`as` takes the nearest of an i8 where a float is out of range"
)]
pub(crate) fn rounded(number: f32) -> i8 {
    number.round() as i8
}

/// Takes numbers off the front of a slice. `None` if it is too short.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let [byte] = self.array()?;
        Some(byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn digest(&mut self) -> Option<[u8; 16]> {
        self.array()
    }

    pub(crate) fn size(&mut self) -> Option<usize> {
        usize::try_from(self.u64()?).ok()
    }

    /// A number of 7 bits a byte, the low ones first (LEB128).
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        let mut shift = 0;
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            if shift > 56 && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }

    pub(crate) fn varint_u32(&mut self) -> Option<u32> {
        self.varint()?.try_into().ok()
    }

    pub(crate) fn varint_size(&mut self) -> Option<usize> {
        self.varint()?.try_into().ok()
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.varint_size()?;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, wide(text.len()));
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{Reader, put_varint};

    #[test]
    fn a_varint_is_read_as_it_was_written() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Some(number));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_varint_that_is_cut_or_too_long_is_none() {
        assert_eq!(Reader::new(&[0x80]).varint(), None);
        assert_eq!(Reader::new(&[0xff; 11]).varint(), None);
    }
}
