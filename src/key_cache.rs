//! A cache of API keys, by their digest.
//!
//! An entry says to whom a key belongs and what it may be used for. A change of the key removes its
//! entry. The account's owner checks at each charge whether the key is still active, so a stale
//! entry costs no money. Removing the entry of a revoked key lets the refusal come one stage
//! earlier.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use moka::sync::Cache;
use rand::RngExt as _;
use tokio::sync::{Mutex, OwnedMutexGuard};

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
    /// Numbers of removed entries, by the last byte of their digests: a change of one key must not
    /// keep the others out of the cache.
    forgotten: [AtomicU64; 256],
    /// The keys that are looked up, each by one caller at a time.
    turns: DashMap<KeyDigest, Arc<Mutex<()>>>,
}

/// The right to look a key up, until it is dropped.
pub struct LookupTurn<'c> {
    cache: &'c KeyCache,
    digest: KeyDigest,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for LookupTurn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        // Every waiter holds the lock as well.
        self.cache.turns.remove_if(&self.digest, |_, lock| Arc::strong_count(lock) == 1);
    }
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
        let forgotten = std::array::from_fn(|_| AtomicU64::new(0));
        let turns = DashMap::new();
        Some(KeyCache { store, pepper, previous, remembered, forgotten, turns })
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

    /// Waits until nobody else looks this key up. Then it may be in the cache: without this, each
    /// call with a key that is not, or that changes all the time, would ask the database.
    pub async fn turn(&self, key: &ApiKey) -> LookupTurn<'_> {
        let digest = key.digest(&self.pepper);
        let lock = Arc::clone(&self.turns.entry(digest).or_default());
        let mut turn = LookupTurn { cache: self, digest, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    fn forgotten(&self, digest: KeyDigest) -> Option<&AtomicU64> {
        // The first bytes are the id of the pepper.
        let KeyDigest([.., last]) = digest;
        self.forgotten.get(usize::from(last))
    }

    fn forgotten_so_far(&self, digest: KeyDigest) -> u64 {
        self.forgotten(digest).map_or(0, |forgotten| forgotten.load(Ordering::Acquire))
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
        let before = self.forgotten_so_far(digest);
        let Some(record) = self.store.keys.find(digest).await? else { return Ok(None) };
        let record = Arc::new(record);
        self.remembered.insert(digest, Arc::clone(&record));
        // The key may have changed after it was read, so the record may be stale.
        if self.forgotten_so_far(digest) != before {
            self.remembered.invalidate(&digest);
        }
        Ok(Some(record))
    }

    /// Removes a changed key from the cache. Must run after the change is on record, so that the
    /// next call reads it.
    pub fn forget(&self, digest: KeyDigest) {
        if let Some(forgotten) = self.forgotten(digest) {
            forgotten.fetch_add(1, Ordering::AcqRel);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt as _;
    use tokio::runtime::Handle;

    use super::*;
    use crate::config::DatabaseSettings;

    async fn cache(folder: &std::path::Path) -> KeyCache {
        let url = format!("sqlite://{}/x.db?mode=rwc", folder.display());
        let store = Store::open(&DatabaseSettings::default(), &url, Handle::current()).await;
        let secrets = Secrets { current: b"pepper".to_vec(), previous: None };
        KeyCache::new(store.unwrap(), &secrets, 10).unwrap()
    }

    #[tokio::test]
    async fn a_change_of_one_key_keeps_no_other_out_of_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path()).await;
        let (one, other) = (KeyDigest([1; 32]), KeyDigest([2; 32]));
        cache.forget(other);
        assert_eq!([one, other].map(|digest| cache.forgotten_so_far(digest)), [0, 1]);
    }

    #[tokio::test]
    async fn a_key_is_looked_up_by_one_caller_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path()).await;
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one = async |key: &ApiKey| {
            let _turn = cache.turn(key).await;
            let before = now.fetch_add(1, Ordering::AcqRel);
            most.fetch_max(before + 1, Ordering::AcqRel);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::AcqRel);
        };
        let [(same, _), (other, _)] = [(); 2].map(|()| cache.make(Environment::Test));
        futures_util::future::join_all((0..50).map(|_| one(&same))).await;
        assert_eq!((most.load(Ordering::Acquire), cache.turns.len()), (1, 0));
        // A waiter that gives up leaves nothing behind, and other keys do not wait.
        let first = cache.turn(&same).await;
        assert!(cache.turn(&same).now_or_never().is_none());
        drop(cache.turn(&other).await);
        drop(first);
        assert_eq!(cache.turns.len(), 0);
    }
}
