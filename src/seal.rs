//! Encryption of values in the database (AES-256-GCM). The keys are derived from a secret that is
//! not in the database, so the database alone does not reveal the values.
//!
//! Each value has a key of its own, derived from a random salt that stands before it. So no key
//! encrypts two values, however many there are: random nonces under one key are safe for 2^32
//! values only (NIST SP 800-38D).
//!
//! Before the salt stands the id of the secret. So values of a secret that was replaced can still
//! be read while that secret is known.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use domain::api_key::{SecretId, secret_id};

/// The format of a sealed value: this byte, the id of the secret, the salt, the nonce, the text and
/// its tag.
const FORMAT: u8 = 1;
const SALT_LEN: usize = 16;

/// The secrets from which seals and digests derive their keys: the current one, and the one used
/// before it if that is still known.
pub struct Secrets {
    /// Makes what is new.
    pub current: Vec<u8>,
    /// Only reads.
    pub previous: Option<Vec<u8>>,
}

/// Encrypts and decrypts the values of one purpose.
#[derive(Clone)]
pub struct Seal(Arc<SealKeys>);

struct SealKeys {
    current: PurposeKeys,
    previous: Option<PurposeKeys>,
}

/// What is derived from one secret for one purpose.
struct PurposeKeys {
    id: SecretId,
    sealing: Hmac<Sha256>,
    digesting: Hmac<Sha256>,
}

impl PurposeKeys {
    fn derive(secret: &[u8], purpose: &str) -> Option<Self> {
        let derive = |part: &str| -> Option<Hmac<Sha256>> {
            let hash = Sha256::new().chain_update(purpose).chain_update(part);
            let key: [u8; 32] = hash.chain_update(Sha256::digest(secret)).finalize().into();
            Hmac::new_from_slice(&key).ok()
        };
        let (sealing, digesting) = (derive("")?, derive(", digests")?);
        Some(PurposeKeys { id: secret_id(secret), sealing, digesting })
    }

    /// The key of the value with this salt.
    fn key(&self, salt: &[u8; SALT_LEN]) -> Option<LessSafeKey> {
        let mut mac = self.sealing.clone();
        mac.update(salt);
        let key: [u8; 32] = mac.finalize().into_bytes().into();
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }

    fn digest(&self, text: &str, bound_to: &[u8]) -> [u8; 32] {
        let mut mac = self.digesting.clone();
        mac.update(bound_to);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl Seal {
    /// A seal for one purpose. Each purpose has its own keys, derived from `secrets`.
    #[must_use]
    pub fn new(secrets: &Secrets, purpose: &str) -> Option<Self> {
        let current = PurposeKeys::derive(&secrets.current, purpose)?;
        let previous = match &secrets.previous {
            Some(secret) => Some(PurposeKeys::derive(secret, purpose)?),
            None => None,
        };
        Some(Seal(Arc::new(SealKeys { current, previous })))
    }

    fn keys(&self) -> impl Iterator<Item = &PurposeKeys> {
        [&self.0.current].into_iter().chain(&self.0.previous)
    }

    /// The id of the current secret, which values and digests of now are made with.
    #[must_use]
    pub fn id(&self) -> SecretId {
        self.0.current.id
    }

    /// Is the secret used before still known?
    #[must_use]
    pub fn has_previous(&self) -> bool {
        self.0.previous.is_some()
    }

    /// Encrypts a value and binds it to `bound_to`, the identity of the record that it belongs to.
    /// It cannot be decrypted as part of another record. `None` if the encryption fails.
    #[must_use]
    pub fn seal(&self, mut text: Vec<u8>, bound_to: &[u8]) -> Option<Vec<u8>> {
        let keys = &self.0.current;
        let (salt, nonce): ([u8; SALT_LEN], [u8; NONCE_LEN]) = rand::rng().random();
        let (unique, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(bound_to));
        keys.key(&salt)?.seal_in_place_append_tag(unique, aad, &mut text).ok()?;
        Some([&[FORMAT], keys.id.as_slice(), &salt, &nonce, &text].concat())
    }

    /// Decrypts a value. `None` if it was encrypted with a secret that is not known, bound to
    /// something else, or changed.
    #[must_use]
    pub fn open(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = id_of(sealed)?;
        let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let key = self.keys().find(|keys| keys.id == *id)?.key(salt)?;
        let opened = key.open_in_place(nonce, Aad::from(bound_to), &mut text).ok()?;
        Some(opened.to_vec())
    }

    /// The value encrypted with the current secret, if it was encrypted with the previous one.
    #[must_use]
    pub fn renewed(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let (id, _) = id_of(sealed)?;
        if *id == self.0.current.id {
            return None;
        }
        self.seal(self.open(sealed, bound_to)?, bound_to)
    }

    /// A keyed digest. A short text needs one, because a plain digest could be guessed.
    #[must_use]
    pub fn digest(&self, text: &str, bound_to: &[u8]) -> [u8; 32] {
        self.0.current.digest(text, bound_to)
    }

    /// The digests under which a text may be stored: by the current secret, and by the previous
    /// one.
    pub fn digests(&self, text: &str, bound_to: &[u8]) -> impl Iterator<Item = [u8; 32]> {
        self.keys().map(move |keys| keys.digest(text, bound_to))
    }
}

fn id_of(sealed: &[u8]) -> Option<(&SecretId, &[u8])> {
    let (format, rest) = sealed.split_first()?;
    if *format == FORMAT { rest.split_first_chunk() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(current: &[u8], previous: Option<&[u8]>, purpose: &str) -> Seal {
        let previous = previous.map(<[u8]>::to_vec);
        Seal::new(&Secrets { current: current.to_vec(), previous }, purpose).unwrap()
    }

    #[test]
    fn only_the_same_seal_opens_and_only_what_belongs_there() {
        let ours = seal(b"secret", None, "a purpose");
        let sealed = ours.seal(b"text".to_vec(), b"one").unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"text"));
        assert_eq!(ours.open(&sealed, b"one").as_deref(), Some(b"text".as_slice()));
        assert_eq!(ours.open(&sealed, b"two"), None);
        for other in [seal(b"other", None, "a purpose"), seal(b"secret", None, "another")] {
            assert_eq!(other.open(&sealed, b"one"), None);
            assert_ne!(other.digest("text", b"one"), ours.digest("text", b"one"));
        }
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(ours.open(&changed, b"one"), None);
            assert_eq!(ours.open(&sealed[..place], b"one"), None);
        }
        assert_ne!(ours.digest("text", b"one"), ours.digest("text", b"two"));
    }

    #[test]
    fn no_two_values_share_a_key() {
        let ours = seal(b"secret", None, "a purpose");
        let start = 1 + ours.id().len();
        let salts: std::collections::HashSet<Vec<u8>> = (0..100)
            .map(|_| ours.seal(b"text".to_vec(), b"one").unwrap())
            .map(|sealed| sealed[start..start + SALT_LEN].to_vec())
            .collect();
        assert_eq!(salts.len(), 100);
        let [one, two] = [[1; SALT_LEN], [2; SALT_LEN]].map(|salt| {
            let mut text = b"text".to_vec();
            let key = ours.0.current.key(&salt).unwrap();
            let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
            key.seal_in_place_append_tag(nonce, Aad::empty(), &mut text).unwrap();
            text
        });
        assert_ne!(one, two, "the salt decides the key");
    }

    #[test]
    fn a_secret_is_replaced_and_values_of_the_previous_one_stay_readable() {
        let before = seal(b"old", None, "a purpose");
        let during = seal(b"new", Some(b"old"), "a purpose");
        let after = seal(b"new", None, "a purpose");
        let sealed = before.seal(b"text".to_vec(), b"one").unwrap();
        assert_eq!(during.open(&sealed, b"one").as_deref(), Some(b"text".as_slice()));
        assert_eq!(after.open(&sealed, b"one"), None);
        let renewed = during.renewed(&sealed, b"one").unwrap();
        assert_eq!(after.open(&renewed, b"one").as_deref(), Some(b"text".as_slice()));
        assert_eq!(during.renewed(&renewed, b"one"), None, "it is of the current secret already");
        assert_eq!(during.renewed(&sealed, b"two"), None, "it does not belong there");
        let digests: Vec<_> = during.digests("text", b"one").collect();
        assert_eq!(digests, [after.digest("text", b"one"), before.digest("text", b"one")]);
    }
}
