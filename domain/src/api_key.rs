//! The text of an API key: `ps_live_` or `ps_test_`, 30 random base62 characters, and a checksum of
//! 6 characters.
//!
//! The checksum is the CRC-32 of everything before it, in base62. It shows without a look-up that a
//! text is mistyped, and lets scanners recognize leaked keys. It does not authenticate. A key is
//! authentic if its digest is on record: an HMAC-SHA-256 with a pepper that is not in the database.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use super::environment::Environment;

/// Number of random characters in a key. 30 characters of base62 are about 178 bits.
pub const RANDOM_LEN: usize = 30;
/// Number of checksum characters in a key: enough base62 for a CRC-32.
pub const CHECKSUM_LEN: usize = 6;
const PREFIX_LEN: usize = 8;
/// Length of a key, in characters.
pub const KEY_LEN: usize = PREFIX_LEN + RANDOM_LEN + CHECKSUM_LEN;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A well-formed API key in clear text. It exists only while a request is authenticated, and once
/// when the key is created.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    text: String,
    environment: Environment,
}

/// The text is not an API key: its prefix, length, alphabet or checksum is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct MalformedApiKey;

/// The digest of a key, which is stored and looked up instead of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

/// Identifies a secret, and says nothing of it: the first bytes of a SHA-256.
pub type SecretId = [u8; 4];

/// The id of a secret. What a secret has digested or encrypted begins with it.
#[must_use]
pub fn secret_id(secret: &[u8]) -> SecretId {
    let hash = Sha256::new().chain_update("polysystems: id of a secret").chain_update(secret);
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d]
}

/// The secret of the key digests. It is kept outside the database.
#[derive(Clone)]
pub struct Pepper {
    id: SecretId,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(..)")
    }
}

impl Pepper {
    /// Prepares the secret. HMAC takes a secret of any length.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        let mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        Some(Pepper { id: secret_id(secret), mac })
    }

    /// The first bytes of every digest made with it.
    #[must_use]
    pub fn id(&self) -> SecretId {
        self.id
    }
}

impl ApiKey {
    /// Makes a key from 30 random symbols, each below 62.
    #[must_use]
    pub fn from_symbols(environment: Environment, symbols: [u8; RANDOM_LEN]) -> Self {
        let mut text = String::with_capacity(KEY_LEN);
        text.push_str(environment.key_prefix());
        text.extend(symbols.iter().map(|symbol| base62(u32::from(*symbol))));
        let checksum = checksum(&text);
        text.extend(checksum);
        ApiKey { text, environment }
    }

    /// Parses a key without a look-up, by its prefix, length, alphabet and checksum.
    ///
    /// # Errors
    /// [`MalformedApiKey`] for any other text.
    pub fn parse(text: &str) -> Result<Self, MalformedApiKey> {
        let environment = [Environment::Live, Environment::Test]
            .into_iter()
            .find(|environment| text.starts_with(environment.key_prefix()))
            .ok_or(MalformedApiKey)?;
        if text.len() != KEY_LEN
            || !text.bytes().skip(PREFIX_LEN).all(|b| b.is_ascii_alphanumeric())
        {
            return Err(MalformedApiKey);
        }
        let (body, check) = text.split_at_checked(KEY_LEN - CHECKSUM_LEN).ok_or(MalformedApiKey)?;
        if check.chars().eq(checksum(body)) {
            Ok(ApiKey { text: text.to_owned(), environment })
        } else {
            Err(MalformedApiKey)
        }
    }

    /// The clear text. It is shown to the owner once, and never stored or logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The environment of the account that the key spends from.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// The digest to store and look up: the id of the pepper, then the first 28 bytes of the
    /// HMAC-SHA-256 of the text with the pepper.
    #[must_use]
    pub fn digest(&self, pepper: &Pepper) -> KeyDigest {
        let mut mac = pepper.mac.clone();
        mac.update(self.text.as_bytes());
        let mac: [u8; 32] = mac.finalize().into_bytes().into();
        let mut digest = [0; 32];
        let (id, rest) = digest.split_at_mut(pepper.id.len());
        id.copy_from_slice(&pepper.id);
        rest.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        KeyDigest(digest)
    }

    /// The part of the key that is shown later: `ps_live_abcd...xyz9`.
    #[must_use]
    pub fn preview(&self) -> String {
        let start: String = self.text.chars().take(PREFIX_LEN + 4).collect();
        let end: String = self.text.chars().skip(KEY_LEN - 4).collect();
        format!("{start}...{end}")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}..)", self.environment.key_prefix())
    }
}

fn base62(symbol: u32) -> char {
    let index = usize::try_from(symbol % 62).unwrap_or(0);
    BASE62.get(index).map_or('0', |byte| char::from(*byte))
}

/// CRC-32 of `body` in base62: most significant digit first, padded with zeros.
fn checksum(body: &str) -> impl Iterator<Item = char> + use<> {
    let crc = crc32fast::hash(body.as_bytes());
    // 62^5 down to 62^0.
    [916_132_832_u32, 14_776_336, 238_328, 3_844, 62, 1]
        .into_iter()
        .map(move |place| base62(crc / place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> ApiKey {
        let mut symbols = [0; RANDOM_LEN];
        for (place, symbol) in (0..).zip(&mut symbols) {
            *symbol = (seed.wrapping_mul(31).wrapping_add(place * 7)) % 62;
        }
        ApiKey::from_symbols(Environment::Live, symbols)
    }

    #[test]
    fn a_key_reads_back_and_shows_its_ends() {
        let key = key(3);
        assert_eq!(key.expose().len(), KEY_LEN);
        assert_eq!(ApiKey::parse(key.expose()), Ok(key.clone()));
        let text = key.expose();
        assert_eq!(key.preview(), format!("{}...{}", &text[..12], &text[40..]));
        assert!(!format!("{key:?}").contains(&text[8..]));
    }

    #[test]
    fn the_checksum_never_changes() {
        let key = ApiKey::from_symbols(Environment::Test, [0; RANDOM_LEN]);
        assert_eq!(key.expose(), "ps_test_00000000000000000000000000000025GU7U");
    }

    #[test]
    fn every_single_changed_character_is_noticed() {
        let text = key(9).expose().to_owned();
        for place in 0..text.len() {
            for replacement in ['0', 'a', 'Z', '_', '\n'] {
                let mut bytes = text.clone().into_bytes();
                if char::from(bytes[place]) == replacement {
                    continue;
                }
                bytes[place] = u8::try_from(replacement).unwrap();
                let changed = String::from_utf8(bytes).unwrap();
                assert_eq!(ApiKey::parse(&changed), Err(MalformedApiKey), "{changed}");
            }
        }
    }

    #[test]
    fn sample_keys_of_the_contract_are_malformed() {
        for text in
            ["ps_live_abcdef123456789", "ps_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6", "sk-abc", ""]
        {
            assert_eq!(ApiKey::parse(text), Err(MalformedApiKey));
        }
    }

    #[test]
    fn a_digest_depends_on_key_and_pepper() {
        let (one, two) = (Pepper::new(b"one").unwrap(), Pepper::new(b"two").unwrap());
        assert_eq!(key(1).digest(&one), key(1).digest(&one));
        assert_ne!(key(1).digest(&one), key(2).digest(&one));
        assert_ne!(key(1).digest(&one), key(1).digest(&two));
        // By its first bytes one sees which pepper has made it, whatever the key is.
        assert_eq!(key(1).digest(&one).0[..4], one.id());
        assert_eq!(key(2).digest(&one).0[..4], one.id());
        assert_ne!(one.id(), two.id());
        assert_ne!(key(1).digest(&one).0[4..], key(1).digest(&two).0[4..]);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "(ps_(live|test)_)?\\PC{0,50}") {
            let _ = ApiKey::parse(&text);
        }
    }
}
