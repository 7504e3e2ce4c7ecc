//! The cookie of a session in a browser: 256 random bits, and a proof that this server has made
//! them. So a guess is refused without asking the database, and a real one is known for a user's
//! before any work. What it opens is in the row of its session, under its digest.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use super::session::digest;
use crate::store::users::TokenDigest;

/// Bytes that are random.
const RANDOM_LEN: usize = 32;
/// Bytes of the proof.
const PROOF_LEN: usize = 16;
/// A change of this text ends every session of a browser.
const PURPOSE: &str = "polysystems: cookies of sessions, 1";

/// The value of a cookie that this server has made. Its session may have ended since.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionCookie(String);

impl SessionCookie {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The digest to store.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        digest(&self.0)
    }
}

impl std::fmt::Debug for SessionCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionCookie")
    }
}

/// Makes and reads the cookies of sessions.
pub struct Cookies {
    current: Hmac<Sha256>,
    /// Only reads: of the secrets before.
    previous: Vec<Hmac<Sha256>>,
}

impl Cookies {
    /// Makes cookies with a key of `secret`; also reads those that were made with a key of
    /// `previous`. `None` if no key can be derived.
    #[must_use]
    pub fn new(secret: &[u8], previous: &[Vec<u8>]) -> Option<Self> {
        let key = |secret: &[u8]| {
            let key = Sha256::new().chain_update(PURPOSE).chain_update(Sha256::digest(secret));
            Hmac::new_from_slice(&key.finalize()).ok()
        };
        let previous = previous.iter().map(|secret| key(secret)).collect::<Option<_>>()?;
        Some(Cookies { current: key(secret)?, previous })
    }

    /// A new one.
    #[must_use]
    pub fn make(&self) -> SessionCookie {
        let random: [u8; RANDOM_LEN] = rand::rng().random();
        let mut mac = self.current.clone();
        mac.update(&random);
        let proof = mac.finalize().into_bytes();
        let bytes: Vec<u8> = random.into_iter().chain(proof.into_iter().take(PROOF_LEN)).collect();
        SessionCookie(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads one that a browser sends. `None` if this server has not made it.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<SessionCookie> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (random, proof) = bytes.split_at_checked(RANDOM_LEN)?;
        if proof.len() != PROOF_LEN {
            return None;
        }
        let is_of = |mac: &Hmac<Sha256>| {
            let mut mac = mac.clone();
            mac.update(random);
            mac.verify_truncated_left(proof).is_ok()
        };
        let is_ours = std::iter::once(&self.current).chain(&self.previous).any(is_of);
        is_ours.then(|| SessionCookie(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";

    #[test]
    fn only_what_this_server_has_made_is_a_cookie() {
        let cookies = Cookies::new(SECRET, &[]).unwrap();
        let (one, two) = (cookies.make(), cookies.make());
        assert_ne!(one, two);
        assert_ne!(one.digest(), two.digest());
        assert_eq!(one.expose().len(), 64);
        assert_eq!(cookies.read(one.expose()), Some(one.clone()));
        for place in 0..64 {
            let mut other = one.expose().as_bytes().to_vec();
            other[place] = if other[place] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(cookies.read(&other), None, "{place}");
            assert_eq!(cookies.read(&one.expose()[..place]), None, "{place}");
        }
        for wrong in ["", " ", "psr_", "a.b.c", "\u{e4}"] {
            assert_eq!(cookies.read(wrong), None, "{wrong}");
            assert_eq!(cookies.read(&format!("{}{wrong}A", one.expose())), None, "{wrong}");
        }
    }

    #[test]
    fn a_secret_can_be_replaced_without_ending_a_session() {
        let before = Cookies::new(SECRET, &[]).unwrap().make();
        let rotated = Cookies::new(OTHER, &[SECRET.to_vec()]).unwrap();
        assert_eq!(rotated.read(before.expose()), Some(before.clone()));
        let later = Cookies::new(OTHER, &[]).unwrap();
        assert_eq!(later.read(before.expose()), None);
        assert!(later.read(rotated.make().expose()).is_some());
    }
}
