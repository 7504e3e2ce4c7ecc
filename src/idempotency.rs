//! Idempotent requests. The first answer to a request is recorded in the transaction that moves its
//! money. A repeat of the request gets the same bytes.
//!
//! This follows draft-ietf-httpapi-idempotency-key-header-07. An idempotency key belongs to an
//! account. While the first request runs, its claim on the key is held in memory: from before the
//! database is asked until the recorded answer is durable. So no repeat can run in between. An
//! answer is recorded only if the request moved money or succeeded. All other requests may be tried
//! again.
//!
//! Recorded answers are encrypted, because the answer to the creation of an API key contains the
//! key. The encryption keys are derived from the key pepper.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::IdempotencySettings;
use crate::seal::{Seal, Secrets};
use crate::store::{Store, StoreError};
use domain::{AccountId, MICROS_PER_DAY, RecordedAnswer, Timestamp};

/// The purpose of the seal. With another text the stored answers could not be decrypted.
const PURPOSE: &str = "polysystems: sealing key of recorded answers, 1";
/// Longest idempotency key, in characters.
pub const KEY_CHARS_MAX: usize = 255;

/// The text is not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 visible ASCII characters, in double quotes or without")]
pub struct MalformedKey;

/// The digest of an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey([u8; 32]);

impl IdempotencyKey {
    /// SHA-256 of the text of the key.
    #[must_use]
    pub fn digest(self) -> [u8; 32] {
        self.0
    }

    /// Parses the header: a string of RFC 8941 (`"8e03978e-40d5"`), or the same without quotes, as
    /// most clients send it.
    pub fn parse(header: &str) -> Result<Self, MalformedKey> {
        let text = match header.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').ok_or(MalformedKey)?,
            None => header,
        };
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if text.is_empty() || text.len() > KEY_CHARS_MAX || !is_visible {
            return Err(MalformedKey);
        }
        Ok(IdempotencyKey(Sha256::digest(text).into()))
    }
}

/// Identifies a request: SHA-256 of method, target and raw body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a request.
    #[must_use]
    pub fn of(method: &str, target: &str, body: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(method)
            .chain_update([0])
            .chain_update(target)
            .chain_update([0])
            .chain_update(body);
        Fingerprint(hash.finalize().into())
    }
}

/// A recorded answer. Repeats of the request get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
}

impl KeptAnswer {
    /// Encodes the length of the head, the head, and the body.
    fn encode(&self) -> Option<Vec<u8>> {
        let head = Head { status: self.status, headers: self.headers.clone() };
        let head = serde_json::to_vec(&head).ok()?;
        let mut bytes = u32::try_from(head.len()).ok()?.to_le_bytes().to_vec();
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.body);
        Some(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (head, body) = rest.split_at_checked(length)?;
        let Head { status, headers } = serde_json::from_slice(head).ok()?;
        Some(KeptAnswer { status, headers, body: Bytes::copy_from_slice(body) })
    }
}

/// Why a repeat does not get the first answer.
#[derive(Debug, thiserror::Error)]
pub enum IdempotencyError {
    /// The first request still runs.
    #[error("the first request with this idempotency key still runs")]
    Running,
    /// The key was used for a different request.
    #[error("the idempotency key was used for another request")]
    OtherRequest,
    /// The first answer was too large to store.
    #[error("the first answer was too large to store")]
    NotKept,
    /// The recorded answer cannot be decrypted, because the key pepper has changed.
    #[error("a recorded answer cannot be decrypted; the key pepper has changed")]
    Sealed,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a request with an idempotency key begins.
pub enum Begun {
    /// It is the first request with this key.
    First(Claim),
    /// It is a repeat. This is the first answer.
    Repeat(KeptAnswer),
}

/// A request on a management route that must run only once.
pub struct Once<T> {
    /// The idempotency key.
    pub key: IdempotencyKey,
    /// Identifies the request.
    pub fingerprint: Fingerprint,
    /// Makes the answer from the result of the request.
    pub answer: Box<dyn Fn(&T) -> KeptAnswer>,
}

/// The claim of the first request with a key; empty if the request has no key. While it is held, a
/// repeat gets [`IdempotencyError::Running`].
pub struct First<T>(Option<(Claim, Once<T>)>);

impl<T> First<T> {
    /// The answer to record together with the result, if the request has a key.
    #[must_use]
    pub fn record(&self, reference: Uuid, made: &T, now: Timestamp) -> Option<RecordedAnswer> {
        let (claim, once) = self.0.as_ref()?;
        Some(claim.record(reference, Some(&(once.answer)(made)), now))
    }
}

/// The result of a request that must run only once.
pub enum Made<T> {
    /// The request ran now.
    New(T),
    /// The request ran before. This is its first answer.
    Repeat(KeptAnswer),
}

type Claims = DashMap<(AccountId, [u8; 32]), [u8; 32]>;

/// The keys of running requests, and the recorded answers.
pub struct Idempotency {
    store: Store,
    clock: Clock,
    claims: Arc<Claims>,
    recorder: Recorder,
}

/// The right to run the first request with a key. While it is held, a repeat gets
/// [`IdempotencyError::Running`].
pub struct Claim {
    claims: Arc<Claims>,
    sealing: Sealing,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.remove(&(self.sealing.account, self.sealing.key.0));
    }
}

/// What is needed to encrypt the answer to one request.
#[derive(Clone)]
struct Sealing {
    account: AccountId,
    key: IdempotencyKey,
    fingerprint: Fingerprint,
    recorder: Recorder,
}

#[derive(Clone)]
struct Recorder {
    seal: Seal,
    keep_micros: i64,
    answer_max_bytes: usize,
}

impl Idempotency {
    /// The recorded answers of `store`. The encryption keys are derived from `secrets`.
    #[must_use]
    pub fn new(
        store: Store,
        clock: Clock,
        settings: &IdempotencySettings,
        secrets: &Secrets,
    ) -> Option<Self> {
        let recorder = Recorder {
            seal: Seal::new(secrets, PURPOSE)?,
            keep_micros: i64::from(settings.keep_days.get()).saturating_mul(MICROS_PER_DAY),
            answer_max_bytes: settings.answer_max_bytes,
        };
        Some(Idempotency { store, clock, claims: Arc::default(), recorder })
    }

    /// Largest answer that is recorded, in bytes.
    #[must_use]
    pub fn answer_max_bytes(&self) -> usize {
        self.recorder.answer_max_bytes
    }

    /// Answers from before this time are deleted.
    #[must_use]
    pub fn kept_from(&self, now: Timestamp) -> Timestamp {
        now.plus_micros(self.recorder.keep_micros.saturating_neg())
    }

    /// Begins a request with a key, or finds the recorded answer to an earlier one.
    pub async fn begin(
        &self,
        account: AccountId,
        key: IdempotencyKey,
        fingerprint: Fingerprint,
    ) -> Result<Begun, IdempotencyError> {
        let sealing = Sealing { account, key, fingerprint, recorder: self.recorder.clone() };
        let is_claimed = match self.claims.entry((account, key.0)) {
            Entry::Occupied(claimed) if *claimed.get() != fingerprint.0 => {
                return Err(IdempotencyError::OtherRequest);
            }
            // The first request still runs, or another repeat does.
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(fingerprint.0);
                Some(Claim { claims: Arc::clone(&self.claims), sealing: sealing.clone() })
            }
        };
        match (self.store.find_answer(account, key.0, self.clock.now()).await?, is_claimed) {
            (None, Some(claim)) => Ok(Begun::First(claim)),
            (None, None) => Err(IdempotencyError::Running),
            (Some(found), _) if found.fingerprint != fingerprint.0 => {
                Err(IdempotencyError::OtherRequest)
            }
            (Some(found), _) => {
                let sealed = found.answer.ok_or(IdempotencyError::NotKept)?;
                let kept = sealing.open(&sealed).ok_or(IdempotencyError::Sealed)?;
                Ok(Begun::Repeat(kept))
            }
        }
    }

    /// Runs `act`, or returns the recorded answer if the request ran before. Without `once` it
    /// always runs `act`. The claim that `act` gets must be held until its answer is recorded.
    pub async fn run<T, E>(
        &self,
        account: AccountId,
        once: Option<Once<T>>,
        refused: impl FnOnce(IdempotencyError) -> E,
        act: impl AsyncFnOnce(First<T>) -> Result<T, E>,
    ) -> Result<Made<T>, E> {
        let claimed = match once {
            Some(once) => match self.begin(account, once.key, once.fingerprint).await {
                Ok(Begun::Repeat(kept)) => return Ok(Made::Repeat(kept)),
                Ok(Begun::First(claim)) => Some((claim, once)),
                Err(error) => return Err(refused(error)),
            },
            None => None,
        };
        act(First(claimed)).await.map(Made::New)
    }

    /// Deletes expired answers.
    pub async fn forget(&self) -> Result<(), StoreError> {
        while self.store.forget_answers(self.clock.now()).await? {}
        Ok(())
    }
}

impl Claim {
    /// The record of this answer, or of none if it is too large to store.
    #[must_use]
    pub fn record(
        &self,
        reference: Uuid,
        answer: Option<&KeptAnswer>,
        now: Timestamp,
    ) -> RecordedAnswer {
        let sealing = &self.sealing;
        let max = sealing.recorder.answer_max_bytes;
        let kept = answer.filter(|answer| answer.body.len() <= max);
        RecordedAnswer {
            account: sealing.account,
            key_digest: sealing.key.0,
            fingerprint: sealing.fingerprint.0,
            reference,
            answer: kept.and_then(|answer| sealing.sealed(answer)),
            created_at: now,
            expires_at: now.plus_micros(sealing.recorder.keep_micros),
        }
    }
}

impl Sealing {
    /// The record that the answer belongs to. An answer that is moved to another account or key
    /// cannot be decrypted.
    fn bound_to(&self) -> Vec<u8> {
        let account = self.account.0.to_le_bytes();
        [account.as_slice(), &self.key.0, &self.fingerprint.0].concat()
    }

    fn sealed(&self, answer: &KeptAnswer) -> Option<Vec<u8>> {
        self.recorder.seal.seal(answer.encode()?, &self.bound_to())
    }

    fn open(&self, sealed: &[u8]) -> Option<KeptAnswer> {
        KeptAnswer::decode(&self.recorder.seal.open(sealed, &self.bound_to())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(secret: &[u8], account: i64, key: &str) -> Claim {
        let secrets = Secrets { current: secret.to_vec(), previous: None };
        let recorder = Recorder {
            seal: Seal::new(&secrets, PURPOSE).unwrap(),
            keep_micros: 7,
            answer_max_bytes: 10,
        };
        let sealing = Sealing {
            account: AccountId(account),
            key: IdempotencyKey::parse(key).unwrap(),
            fingerprint: Fingerprint::of("POST", "/x", b"{}"),
            recorder,
        };
        Claim { claims: Arc::default(), sealing }
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii() {
        for key in ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", &"x".repeat(255)] {
            let quoted = format!("\"{key}\"");
            assert_eq!(IdempotencyKey::parse(key), IdempotencyKey::parse(&quoted));
            assert!(IdempotencyKey::parse(key).is_ok());
        }
        for key in ["", "\"\"", "\"a", "a\"", "a b", "a\tb", "ü", &"x".repeat(256)] {
            assert_eq!(IdempotencyKey::parse(key), Err(MalformedKey), "{key}");
        }
    }

    #[test]
    fn a_fingerprint_depends_on_method_target_and_body() {
        let one = Fingerprint::of("POST", "/x", b"{}");
        for (method, target, body) in [
            ("PUT", "/x", "{}"),
            ("POST", "/x?", "{}"),
            ("POST", "/x", "{ }"),
            ("POST", "/x{", "}"),
        ] {
            assert_ne!(Fingerprint::of(method, target, body.as_bytes()), one);
        }
    }

    #[test]
    fn a_recorded_answer_opens_only_for_its_own_request() {
        let answer = KeptAnswer {
            status: 201,
            headers: vec![("a".into(), "b".into())],
            body: Bytes::from_static(b"\x00secret"),
        };
        let one = claim(b"pepper", 1, "k");
        let now = Timestamp::from_micros(1);
        let sealed = one.record(Uuid::nil(), Some(&answer), now).answer.unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(one.sealing.open(&sealed), Some(answer.clone()));
        for other in [claim(b"other", 1, "k"), claim(b"pepper", 2, "k"), claim(b"pepper", 1, "l")] {
            assert_eq!(other.sealing.open(&sealed), None);
        }
        for cut in 0..sealed.len() {
            assert_eq!(one.sealing.open(&sealed[..cut]), None);
        }
        let large = KeptAnswer { body: Bytes::from_static(&[0; 11]), ..answer };
        assert_eq!(one.record(Uuid::nil(), Some(&large), now).answer, None);
    }
}
