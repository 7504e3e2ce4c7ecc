//! Whole numbers in as few bytes as they need: unsigned LEB128, seven bits a byte, lowest first.
//! Each number has one form: a last byte of zero, which another would have, is refused.

/// Appends the number.
pub(crate) fn write(out: &mut impl Extend<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes().first().map_or(0, |low| low & 0x7f);
        value >>= 7;
        if value == 0 {
            out.extend([low]);
            return;
        }
        out.extend([low | 0x80]);
    }
}

/// Reads a number; what comes after it. `None` if there is none, or not in its one form.
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (mut value, mut rest) = (0_u64, bytes);
    for shift in (0..u64::BITS).step_by(7) {
        let (first, next) = rest.split_first()?;
        let low = u64::from(first & 0x7f);
        let shifted = low.checked_shl(shift)?;
        // The tenth byte has room for one bit.
        if shifted >> shift != low {
            return None;
        }
        (value, rest) = (value | shifted, next);
        if first & 0x80 == 0 {
            let is_padded = *first == 0 && shift > 0;
            return (!is_padded).then_some((value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form() {
        for value in (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            bytes.push(7);
            assert_eq!(read(&bytes), Some((value, &[7][..])));
        }
        for other in [&[][..], &[0x80], &[0x80, 0], &[0xff, 0x80, 0], &[0xff; 10], &[0xff; 11]] {
            assert_eq!(read(other), None, "{other:?}");
        }
        let most = [&[0xff; 9][..], &[1]].concat();
        assert_eq!(read(&most), Some((u64::MAX, &[][..])));
        assert_eq!(read(&[&[0xff; 9][..], &[2]].concat()), None);
    }
}
