//! A cache of API keys, by their digest.
//!
//! An entry says to whom a key belongs and what it may be used for. A change of the key removes its
//! entry. The account's owner checks at each charge whether the key is still active, so a stale
//! entry costs no money. Removing the entry of a revoked key lets the refusal come one stage
//! earlier.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use rand::RngExt as _;

use crate::seal::Secrets;
use crate::store::keys::KeyRecord;
use crate::store::{Store, StoreError};
use domain::Environment;
use domain::api_key::{ApiKey, KeyDigest, Pepper, RANDOM_LEN};

/// Lifetime of an entry. A change by another process is seen after this time at the latest.
const REMEMBERED: Duration = Duration::from_mins(5);

/// A cache of API keys, by their digest.
pub struct KeyCache {
    store: Store,
    pepper: Pepper,
    /// The pepper used before. It makes no digest of a new key.
    previous: Option<Pepper>,
    remembered: Cache<KeyDigest, Arc<KeyRecord>>,
    /// Number of removed entries.
    forgotten: AtomicU64,
}

impl KeyCache {
    /// An empty cache of at most `keys_max` keys. The peppers are `secrets`.
    #[must_use]
    pub fn new(store: Store, secrets: &Secrets, keys_max: u64) -> Option<Self> {
        let remembered = Cache::builder().max_capacity(keys_max).time_to_live(REMEMBERED).build();
        let pepper = Pepper::new(&secrets.current)?;
        let previous = match &secrets.previous {
            Some(secret) => Some(Pepper::new(secret)?),
            None => None,
        };
        Some(KeyCache { store, pepper, previous, remembered, forgotten: AtomicU64::new(0) })
    }

    /// The digests under which a key may be stored and cached: by the current pepper, and by the
    /// previous one.
    fn digests(&self, key: &ApiKey) -> impl Iterator<Item = KeyDigest> {
        [&self.pepper].into_iter().chain(&self.previous).map(|pepper| key.digest(pepper))
    }

    /// The cached record of a key.
    #[must_use]
    pub fn remembered(&self, key: &ApiKey) -> Option<Arc<KeyRecord>> {
        self.digests(key).find_map(|digest| self.remembered.get(&digest))
    }

    /// Looks a key up in the database, and caches it; `None` if it is no active key. Unknown keys
    /// are not cached, because strangers could fill the memory with them.
    pub async fn look_up(&self, key: &ApiKey) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        for digest in self.digests(key) {
            if let Some(record) = self.find(digest).await? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    async fn find(&self, digest: KeyDigest) -> Result<Option<Arc<KeyRecord>>, StoreError> {
        let before = self.forgotten.load(Ordering::Acquire);
        let Some(record) = self.store.keys.find(digest).await? else { return Ok(None) };
        let record = Arc::new(record);
        self.remembered.insert(digest, Arc::clone(&record));
        // The key may have changed after it was read, so the record may be stale.
        if self.forgotten.load(Ordering::Acquire) != before {
            self.remembered.invalidate(&digest);
        }
        Ok(Some(record))
    }

    /// Removes a changed key from the cache. Must run after the change is on record, so that the
    /// next call reads it.
    pub fn forget(&self, digest: KeyDigest) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.remembered.invalidate(&digest);
    }

    /// A new random key, and its digest.
    #[must_use]
    pub fn make(&self, environment: Environment) -> (ApiKey, KeyDigest) {
        let mut random = rand::rng();
        let symbols = [(); RANDOM_LEN].map(|()| random.random_range(0..62));
        let key = ApiKey::from_symbols(environment, symbols);
        let digest = key.digest(&self.pepper);
        (key, digest)
    }
}
