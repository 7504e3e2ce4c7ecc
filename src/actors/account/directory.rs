//! The directory: which accounts are in memory.
//!
//! - It loads an account before its first use, only once even if many callers ask at the same time.
//! - It removes idle accounts, so that memory stays bounded however many accounts exist.
//! - It notices an owner that is dead (a decision panicked) or poisoned (a write was refused), and
//!   loads the account again from what is committed.
//!
//! No guard of the map is held across an await.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use super::handle::AccountHandle;
use super::slot::AccountSlot;
use super::threads::ActorThreads;
use super::turn::{Resources, expire};
use crate::actors::ledger::LedgerHandle;
use crate::clock::Clock;
use crate::config::AccountSettings;
use crate::store::{Store, StoreError};
use domain::account::InFlight;
use domain::residency::{fair_share, to_passivate};
use domain::{Account, AccountId, Timestamp};

/// Period of the sweeps, which remove idle accounts and end expired charges.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Why there is no handle for an account.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The account has its largest number of calls in flight.
    #[error("too many calls of this account are in flight")]
    Busy,
    /// The account could not be loaded.
    #[error("the account could not be loaded: {0}")]
    Load(StoreError),
    /// The account's records disagree.
    #[error("the account is quarantined")]
    Quarantined,
    /// The ledger writer is gone, or was fenced by another process.
    #[error("the ledger cannot be written")]
    Unwritable,
}

impl From<StoreError> for DirectoryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Quarantined { .. } => DirectoryError::Quarantined,
            error => DirectoryError::Load(error),
        }
    }
}

/// Sweeps without a call after which an account's actor stops.
const SLEEPY_SWEEPS: i64 = 5;
/// Each account is visited once in this many sweeps.
const SWEEPS_A_ROUND: usize = 16;
/// Least number of accounts that a sweep visits, if there are so many.
const VISITS_MIN: usize = 10_000;
/// Sweeps after which a quarantined account may be loaded again.
const QUARANTINE_SWEEPS: i64 = 10;

/// Longest wait for the writes of a dead or poisoned owner to end.
const REPLACE_MAX: Duration = Duration::from_secs(5);

/// Why an account is quarantined.
struct Blocked {
    what: String,
    since: Timestamp,
    /// The tick at which it was last found.
    found: i64,
}

/// A quarantined account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The account.
    pub account: AccountId,
    /// Why it cannot be loaded.
    pub what: String,
    /// When this process found that first.
    pub since: Timestamp,
}

/// The accounts in memory.
pub struct Directory {
    slots: DashMap<AccountId, Arc<AccountSlot>>,
    /// The same slots, in the order in which the sweeps visit them; a visited slot moves to the
    /// end. A thread that holds this lock never waits for the map.
    round: Mutex<VecDeque<Arc<AccountSlot>>>,
    /// Accounts whose records disagreed when they were last loaded.
    quarantined: DashMap<AccountId, Blocked>,
    /// Number of times that an account was quarantined.
    quarantines: AtomicU64,
    store: Store,
    resources: Arc<Resources>,
    settings: AccountSettings,
    /// Number of sweeps so far. Idleness is measured in it.
    tick: AtomicI64,
}

impl Directory {
    /// An empty directory. The actors of accounts run on `threads`.
    #[must_use]
    pub fn new(
        store: Store,
        ledger: LedgerHandle,
        threads: ActorThreads,
        clock: Clock,
        settings: AccountSettings,
        keys_max: usize,
    ) -> Self {
        Directory {
            slots: DashMap::new(),
            round: Mutex::default(),
            quarantined: DashMap::new(),
            quarantines: AtomicU64::new(0),
            store,
            resources: Arc::new(Resources { ledger, clock, threads, keys_max }),
            settings,
            tick: AtomicI64::new(0),
        }
    }

    /// A handle on the account, which is loaded if necessary. It counts as one of the account's
    /// fair share of the `running_max` calls that the process may run.
    pub async fn lease(
        &self,
        account: AccountId,
        running: usize,
        running_max: usize,
    ) -> Result<AccountHandle, DirectoryError> {
        let max = fair_share(self.settings.in_flight_max.get(), running, running_max);
        self.handle_among(account, max).await
    }

    /// A handle for the account's holder or an operator. The number of calls in flight does not
    /// limit it, so that somebody who uses a stolen key cannot prevent its revocation. It never
    /// fails with [`DirectoryError::Busy`].
    pub async fn owners_lease(&self, account: AccountId) -> Result<AccountHandle, DirectoryError> {
        self.handle_among(account, u32::MAX).await
    }

    async fn handle_among(
        &self,
        account: AccountId,
        in_flight_max: u32,
    ) -> Result<AccountHandle, DirectoryError> {
        if self.is_blocked(account) {
            return Err(DirectoryError::Quarantined);
        }
        loop {
            let (slot, in_flight) = self.enter(account, in_flight_max)?;
            if slot.owner.get().is_none() {
                let load = slot.owner.get_or_try_init(|| self.load(account, &slot));
                Box::pin(load).await?;
            }
            if !slot.has_panicked() && !slot.marks.is_poisoned() {
                return Ok(AccountHandle { slot, in_flight });
            }
            tracing::warn!(%account, "an account's owner is gone; loading the account again");
            Box::pin(self.replace(account, &slot)).await?;
        }
    }

    /// May the account not be loaded now? After a while it may be tried again: an operator may have
    /// repaired the records. If not, the load finds that again.
    fn is_blocked(&self, account: AccountId) -> bool {
        let now = self.tick.load(Ordering::Relaxed);
        let is_recent = |blocked: &Blocked| now.saturating_sub(blocked.found) < QUARANTINE_SWEEPS;
        self.quarantined.get(&account).is_some_and(|blocked| is_recent(&blocked))
    }

    /// Counts a call in. The map's guard is held, so that the sweep cannot remove the account.
    fn enter(
        &self,
        account: AccountId,
        in_flight_max: u32,
    ) -> Result<(Arc<AccountSlot>, InFlight), DirectoryError> {
        let count_in = |slot: &Arc<AccountSlot>| {
            let entered =
                InFlight::enter(&slot.marks, in_flight_max).ok_or(DirectoryError::Busy)?;
            let tick = self.tick.load(Ordering::Relaxed);
            slot.marks.used_tick.store(tick, Ordering::Relaxed);
            Ok((Arc::clone(slot), entered))
        };
        if let Some(slot) = self.slots.get(&account) {
            return count_in(&slot);
        }
        let slot = self.slots.entry(account).or_insert_with(|| {
            let slot = Arc::new(AccountSlot::new(account, Arc::clone(&self.resources)));
            self.round().push_back(Arc::clone(&slot));
            slot
        });
        count_in(&slot)
    }

    async fn load(
        &self,
        account: AccountId,
        slot: &AccountSlot,
    ) -> Result<Mutex<Account>, DirectoryError> {
        let loaded = self.store.load_account(account, self.resources.ledger.epoch()).await;
        if let Err(StoreError::Quarantined { what, .. }) = &loaded {
            self.quarantine(account, what);
        }
        let mut owner = Account::load(loaded?, Arc::clone(&slot.marks));
        failpoint!("load-started");
        let is_open = slot.marks.open_charges.load(Ordering::Acquire) > 0;
        // Charges that an earlier process left open are ended before the first request is decided.
        if is_open && self.resources.decide(&mut owner, expire).is_none() {
            // It would panic again for every caller.
            self.quarantine(account, "its open charges cannot be ended");
            // Nothing will end these charges in memory. What was ended so far becomes durable here,
            // so that a later load finds it in the tables.
            slot.marks.open_charges.store(0, Ordering::Release);
            let _ = tokio::time::timeout(REPLACE_MAX, self.resources.ledger.barrier()).await;
            return Err(DirectoryError::Quarantined);
        }
        // Its records agree again.
        self.quarantined.remove(&account);
        Ok(Mutex::new(owner))
    }

    /// Quarantines an account. Nothing is repaired automatically, because only a person can say
    /// which of its records is right.
    fn quarantine(&self, account: AccountId, what: &str) {
        tracing::error!(
            alert = "account_quarantined", %account, what,
            "an account is quarantined; run `polysystems verify` to see why"
        );
        self.quarantines.fetch_add(1, Ordering::Relaxed);
        let found = self.tick.load(Ordering::Relaxed);
        let mut blocked = self.quarantined.entry(account).or_insert_with(|| Blocked {
            what: String::new(),
            since: self.resources.clock.now(),
            found,
        });
        what.clone_into(&mut blocked.what);
        blocked.found = found;
    }

    /// Lets a quarantined account be loaded at once. If its records still disagree, the load finds
    /// that again.
    pub fn release(&self, account: AccountId) {
        self.quarantined.remove(&account);
    }

    /// The quarantined accounts, by number.
    #[must_use]
    pub fn list_quarantined(&self) -> Vec<Quarantined> {
        let seen = |blocked: dashmap::mapref::multiple::RefMulti<'_, AccountId, Blocked>| {
            let (account, blocked) = blocked.pair();
            Quarantined { account: *account, what: blocked.what.clone(), since: blocked.since }
        };
        let mut all: Vec<Quarantined> = self.quarantined.iter().map(seen).collect();
        all.sort_by_key(|one| one.account);
        all
    }

    /// Removes the slot of a dead or poisoned owner. It first waits until everything that the owner
    /// handed to the writer is written or given up, so that the next load is complete. Other
    /// callers that meet the same owner wait too.
    async fn replace(
        &self,
        account: AccountId,
        dead: &Arc<AccountSlot>,
    ) -> Result<(), DirectoryError> {
        // The barrier waits while the database does not answer. After the timeout the caller gets
        // an error.
        tokio::time::timeout(REPLACE_MAX, self.resources.ledger.barrier())
            .await
            .map_err(|_| DirectoryError::Unwritable)?
            .map_err(|_| DirectoryError::Unwritable)?;
        let removed = self.slots.remove_if(&account, |_, slot| Arc::ptr_eq(slot, dead));
        if let Some((_, slot)) = removed {
            slot.sleep();
        }
        Ok(())
    }

    fn round(&self) -> MutexGuard<'_, VecDeque<Arc<AccountSlot>>> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this slot still the one in the map?
    fn is_in_memory(&self, slot: &Arc<AccountSlot>) -> bool {
        let found = self.slots.get(&slot.account);
        found.is_some_and(|found| Arc::ptr_eq(&found, slot))
    }

    /// Are no charges open, and are all writes written or given up?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.marks.is_quiet())
    }

    /// Number of accounts in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Number of accounts that are quarantined now, and how often that was found since the start.
    #[must_use]
    pub fn quarantined(&self) -> (usize, u64) {
        (self.quarantined.len(), self.quarantines.load(Ordering::Relaxed))
    }

    /// Number of open charges, of all accounts in memory.
    #[must_use]
    pub fn open_charges(&self) -> usize {
        let open = |slot: &Arc<AccountSlot>| slot.marks.open_charges.load(Ordering::Relaxed);
        self.slots.iter().map(|slot| open(&slot)).fold(0, usize::saturating_add)
    }

    /// Is no account in memory?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Ends the holds that no account in memory owns: those that an earlier process left, and
    /// expired ones. Loading their accounts ends them.
    pub async fn end_orphaned_holds(&self) -> Result<(), DirectoryError> {
        // Holds of another epoch are orphaned only while this process has the latest epoch.
        if !self.resources.ledger.state().is_in_charge() {
            return Ok(());
        }
        let (epoch, now) = (self.resources.ledger.epoch(), self.resources.clock.now());
        for account in self.store.accounts_with_orphaned_holds(epoch, now).await? {
            if let Err(error) = self.owners_lease(account).await {
                tracing::error!(%account, %error, "an account's orphaned holds were not ended");
            }
        }
        Ok(())
    }

    /// Ends expired charges and removes idle accounts. If there are too many accounts, it removes
    /// those that are idle for longest. Each sweep visits only a part of the accounts, so that a
    /// million of them do not delay requests.
    pub fn sweep(&self) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed);
        let idle_max = i64::try_from(self.settings.idle_seconds.get()).unwrap_or(i64::MAX);
        let (count, max) = (self.slots.len(), self.settings.resident_max);
        let surplus = count.saturating_sub(max);
        let visits = (count / SWEEPS_A_ROUND).max(VISITS_MIN).max(surplus.saturating_mul(2));
        let visited: Vec<Arc<AccountSlot>> = {
            let mut round = self.round();
            let visits = visits.min(round.len());
            round.drain(..visits).collect()
        };
        let mut idle = Vec::new();
        for slot in &visited {
            let marks = &slot.marks;
            // The next caller of an account with a dead owner loads it again. If nobody calls, the
            // slot is removed here.
            let account = slot.account;
            // The map is locked only for the few dead ones.
            if slot.is_dead_and_done() {
                self.slots.remove_if(&account, |_, found| {
                    Arc::ptr_eq(found, slot) && found.is_dead_and_done()
                });
            }
            if marks.open_charges.load(Ordering::Acquire) > 0 {
                slot.tell(|turn| Ok::<_, Infallible>(expire(turn)));
            }
            let used = marks.used_tick.load(Ordering::Relaxed);
            if marks.may_passivate() {
                idle.push((used, account));
            }
            if now.saturating_sub(used) >= SLEEPY_SWEEPS && slot.is_awake() {
                self.put_to_sleep(account);
            }
        }
        for account in to_passivate(idle, count, max, idle_max, now) {
            self.passivate(account);
        }
        let staying = visited.into_iter().filter(|slot| self.is_in_memory(slot));
        let staying: Vec<Arc<AccountSlot>> = staying.collect();
        self.round().extend(staying);
    }

    /// Stops an account's actor if nothing is open and all writes have ended. The account stays in
    /// memory. The map's guard is held during the check. So nobody can take a handle in between,
    /// and no message other than `Stop` is in the mailbox.
    fn put_to_sleep(&self, account: AccountId) {
        let Some(slot) = self.slots.get_mut(&account) else { return };
        if slot.marks.may_sleep() {
            slot.sleep();
        }
    }

    /// Number of accounts that have an actor.
    #[must_use]
    pub fn awake(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_awake()).count()
    }

    /// Removes an account from memory if nothing is open and all its writes are in the tables. The
    /// map's guard is held during the check, so nobody can take a handle in between. Returns
    /// whether it was removed.
    pub fn passivate(&self, account: AccountId) -> bool {
        let removed = self.slots.remove_if(&account, |_, slot| slot.marks.may_passivate());
        match removed {
            Some((_, slot)) => {
                failpoint!("passivate");
                slot.sleep();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
