//! Encryption of values in the database (AES-256-GCM). The key is derived from a secret that is not
//! in the database, so the database alone does not reveal the values.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// Encrypts and decrypts the values of one purpose.
#[derive(Clone)]
pub struct Seal(Arc<SealKeys>);

struct SealKeys {
    sealing: LessSafeKey,
    digesting: Hmac<Sha256>,
}

impl Seal {
    /// A seal for one purpose. Each purpose has its own key, derived from `secret`.
    #[must_use]
    pub fn new(secret: &[u8], purpose: &str) -> Option<Self> {
        let derive = |purpose: &[u8]| -> [u8; 32] {
            let hash = Sha256::new().chain_update(purpose).chain_update(Sha256::digest(secret));
            hash.finalize().into()
        };
        let key = derive(purpose.as_bytes());
        let digesting = derive(&[purpose.as_bytes(), b", digests"].concat());
        Some(Seal(Arc::new(SealKeys {
            sealing: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?),
            digesting: Hmac::new_from_slice(&digesting).ok()?,
        })))
    }

    /// Encrypts a value and binds it to `bound_to`, the identity of the record that it belongs to.
    /// It cannot be decrypted as part of another record. `None` if the encryption fails.
    #[must_use]
    pub fn seal(&self, mut text: Vec<u8>, bound_to: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = rand::rng().random();
        let (unique, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(bound_to));
        self.0.sealing.seal_in_place_append_tag(unique, aad, &mut text).ok()?;
        Some([nonce.as_slice(), &text].concat())
    }

    /// Decrypts a value. `None` if it was encrypted with another key, bound to something else, or
    /// changed.
    #[must_use]
    pub fn open(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (nonce, mut text) = (Nonce::assume_unique_for_key(*nonce), text.to_vec());
        let opened = self.0.sealing.open_in_place(nonce, Aad::from(bound_to), &mut text).ok()?;
        Some(opened.to_vec())
    }

    /// A keyed digest. A short text needs one, because a plain digest could be guessed.
    #[must_use]
    pub fn digest(&self, text: &str, bound_to: &[u8]) -> [u8; 32] {
        let mut mac = self.0.digesting.clone();
        mac.update(bound_to);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_seal_opens_and_only_what_belongs_there() {
        let seal = Seal::new(b"secret", "a purpose").unwrap();
        let sealed = seal.seal(b"text".to_vec(), b"one").unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"text"));
        assert_eq!(seal.open(&sealed, b"one").as_deref(), Some(b"text".as_slice()));
        assert_ne!(seal.seal(b"text".to_vec(), b"one").unwrap(), sealed);
        assert_eq!(seal.open(&sealed, b"two"), None);
        let others = [Seal::new(b"other", "a purpose"), Seal::new(b"secret", "another")];
        for other in others.map(Option::unwrap) {
            assert_eq!(other.open(&sealed, b"one"), None);
            assert_ne!(other.digest("text", b"one"), seal.digest("text", b"one"));
        }
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(seal.open(&changed, b"one"), None);
        }
        assert_eq!(seal.open(b"short", b"one"), None);
        assert_ne!(seal.digest("text", b"one"), seal.digest("text", b"two"));
    }
}
