//! Places for counting the tokens of large bodies. A body is counted before anything is paid for
//! it, on threads that all calls share. So an account counts few at a time, and calls with test
//! keys one at a time together.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use domain::{AccountId, Environment};

/// The places.
#[derive(Debug)]
pub struct Counting {
    of_an_account: usize,
    live: DashMap<AccountId, Arc<Semaphore>>,
    test: Arc<Semaphore>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct CountingPlace<'c> {
    permit: Option<OwnedSemaphorePermit>,
    of: Option<(&'c Counting, AccountId)>,
}

impl Drop for CountingPlace<'_> {
    fn drop(&mut self) {
        self.permit = None;
        if let Some((counting, account)) = self.of {
            // The map's guard is held, so nobody begins to wait for it meanwhile.
            counting.live.remove_if(&account, |_, places| Arc::strong_count(places) == 1);
        }
    }
}

impl Counting {
    /// Of a server with so many threads that serve requests. Each of them has two for counting.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let of_an_account = (workers / 2).max(1);
        Counting { of_an_account, live: DashMap::new(), test: Arc::new(Semaphore::new(1)) }
    }

    /// Waits for a place of the account. Those before it get theirs first.
    pub async fn place(&self, account: AccountId, environment: Environment) -> CountingPlace<'_> {
        let (places, of) = match environment {
            Environment::Test => (Arc::clone(&self.test), None),
            Environment::Live => {
                let places = self.live.entry(account);
                let new = || Arc::new(Semaphore::new(self.of_an_account));
                (Arc::clone(&places.or_insert_with(new)), Some((self, account)))
            }
        };
        let mut place = CountingPlace { permit: None, of };
        // It is never closed.
        place.permit = places.acquire_owned().await.ok();
        place
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[actix_web::test]
    async fn an_account_has_few_places_and_takes_none_of_others() {
        let counting = Counting::new(2);
        let first = counting.place(AccountId(1), Environment::Live).await;
        assert!(counting.place(AccountId(1), Environment::Live).now_or_never().is_none());
        let other = counting.place(AccountId(2), Environment::Live).now_or_never();
        assert!(other.is_some());
        let second = counting.place(AccountId(1), Environment::Live);
        let (second, ()) = tokio::join!(second, async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(first);
        });
        drop((second, other));
        assert!(counting.live.is_empty());
    }

    #[actix_web::test]
    async fn test_keys_have_one_place_together() {
        let counting = Counting::new(64);
        let first = counting.place(AccountId(1), Environment::Test).await;
        assert!(counting.place(AccountId(2), Environment::Test).now_or_never().is_none());
        assert!(counting.place(AccountId(2), Environment::Live).now_or_never().is_some());
        drop(first);
        assert!(counting.place(AccountId(2), Environment::Test).now_or_never().is_some());
    }
}
