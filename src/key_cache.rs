//! API keys by digest, remembered between calls.
//!
//! What is remembered is who a key belongs to and what it may be used for. Whoever changes the
//! latter has it forgotten here. Whether it is still in use is decided by its account's owner at
//! the next charge; forgetting a revoked key only makes the refusal come a stage earlier.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use rand::RngExt as _;

use crate::store::keys::KeyRecord;
use crate::store::{Store, StoreError};
use domain::Environment;
use domain::api_key::{ApiKey, KeyDigest, Pepper, RANDOM_LEN};

/// What another process has changed is seen after this time.
const REMEMBERED: Duration = Duration::from_mins(5);

/// See the module.
pub struct KeyCache {
    store: Store,
    pepper: Pepper,
    remembered: Cache<KeyDigest, Arc<KeyRecord>>,
    /// Counts what was forgotten.
    forgotten: AtomicU64,
}

impl KeyCache {
    /// A ring that remembers at most `keys_max` keys.
    #[must_use]
    pub fn new(store: Store, pepper: Pepper, keys_max: u64) -> Self {
        let remembered = Cache::builder().max_capacity(keys_max).time_to_live(REMEMBERED).build();
        KeyCache { store, pepper, remembered, forgotten: AtomicU64::new(0) }
    }

    /// What a key is stored and remembered under.
    #[must_use]
    pub fn digest(&self, key: &ApiKey) -> KeyDigest {
        key.digest(&self.pepper)
    }

    /// The record of a key that was looked up before.
    #[must_use]
    pub fn remembered(&self, digest: KeyDigest) -> Option<Arc<KeyRecord>> {
        self.remembered.get(&digest)
    }

    /// Looks a key up; `None` where there is none in use. Unknown keys are not remembered, so that
    /// strangers cannot fill the memory.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn look_up(&self, digest: KeyDigest) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        let before = self.forgotten.load(Ordering::Acquire);
        let Some(record) = self.store.keys.find(digest).await? else { return Ok(None) };
        let record = Arc::new(record);
        self.remembered.insert(digest, Arc::clone(&record));
        // What was changed while it was read may have been read as it was before.
        if self.forgotten.load(Ordering::Acquire) != before {
            self.remembered.invalidate(&digest);
        }
        Ok(Some(record))
    }

    /// Forgets a key that was changed, after the change is on record: the next call reads it anew.
    pub fn forget(&self, digest: KeyDigest) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.remembered.invalidate(&digest);
    }

    /// A new key, and what to store of it.
    #[must_use]
    pub fn make(&self, environment: Environment) -> (ApiKey, KeyDigest) {
        let mut random = rand::rng();
        let symbols = [(); RANDOM_LEN].map(|()| random.random_range(0..62));
        let key = ApiKey::from_symbols(environment, symbols);
        let digest = key.digest(&self.pepper);
        (key, digest)
    }
}
