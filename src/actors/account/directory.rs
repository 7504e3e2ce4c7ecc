//! The directory: which accounts are in memory.
//!
//! It loads an account before its first use, once however many ask at the same time; lets go of
//! accounts that are idle, so that memory stays bounded however many exist; and notices a dead
//! owner or one whose writes were refused, and loads its account again from what is committed.
//!
//! No guard of the map is ever held across an await.

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
use domain::{Account, AccountId};

/// How often the directory looks for idle accounts and expired charges.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Why there is no lease on an account.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// As many calls run on the account as may.
    #[error("too many calls of this account are in flight")]
    Busy,
    /// The account cannot be loaded now.
    #[error("the account could not be loaded: {0}")]
    Load(StoreError),
    /// The account's records do not agree with one another.
    #[error("the account is quarantined")]
    Quarantined,
    /// The ledger writer is gone or fenced.
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

/// After so many sweeps without a call an account sleeps.
const SLEEPY_SWEEPS: i64 = 5;
/// Each account is visited once in so many sweeps.
const SWEEPS_A_ROUND: usize = 16;
/// Accounts that a sweep visits, if there are so many.
const VISITS_MIN: usize = 10_000;
/// How long a quarantined account is not looked at again, in sweeps.
const QUARANTINE_SWEEPS: i64 = 10;

/// How long somebody waits for the writes of a dead or poisoned owner to meet their end.
const REPLACE_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub struct Directory {
    slots: DashMap<AccountId, Arc<AccountSlot>>,
    /// The same, in the order in which the sweeps visit them: whoever was visited goes to the end.
    /// Never locked by who looks something up in the map meanwhile.
    round: Mutex<VecDeque<Arc<AccountSlot>>>,
    /// Accounts whose records were found not to agree, and the tick at which that was.
    quarantined: DashMap<AccountId, i64>,
    /// How often one was found.
    quarantines: AtomicU64,
    store: Store,
    resources: Arc<Resources>,
    settings: AccountSettings,
    /// Counts sweeps: the directory's own idea of time, for idleness.
    tick: AtomicI64,
}

impl Directory {
    /// An empty directory; where requests have to wait, actors live on `threads`.
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

    /// A lease on the account, loaded if it was not in memory. It has a fair share of the
    /// `running_max` calls that the process may have.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn lease(
        &self,
        account: AccountId,
        running: usize,
        running_max: usize,
    ) -> Result<AccountHandle, DirectoryError> {
        let max = fair_share(self.settings.in_flight_max.get(), running, running_max);
        self.handle_among(account, max).await
    }

    /// A lease for the account's owner or an operator, who must get through however many calls run:
    /// whoever has stolen a key must not be able to keep it from being revoked.
    ///
    /// # Errors
    /// [`DirectoryError`], but never [`DirectoryError::Busy`].
    pub async fn owners_lease(&self, account: AccountId) -> Result<AccountHandle, DirectoryError> {
        self.handle_among(account, u32::MAX).await
    }

    async fn handle_among(
        &self,
        account: AccountId,
        in_flight_max: u32,
    ) -> Result<AccountHandle, DirectoryError> {
        if self.quarantined.contains_key(&account) {
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

    /// Counts a call in, while the map's guard keeps the sweep from letting the account go.
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
        // Before anyone else asks it: what an owner before us left open is ended.
        if is_open && self.resources.decide(&mut owner, expire).is_none() {
            // It would again, for whoever asks.
            self.quarantine(account, "its open charges cannot be ended");
            // Nobody waits for their end, and who looks at the account later finds in the tables
            // what was ended.
            slot.marks.open_charges.store(0, Ordering::Release);
            let _ = tokio::time::timeout(REPLACE_MAX, self.resources.ledger.barrier()).await;
            return Err(DirectoryError::Quarantined);
        }
        Ok(Mutex::new(owner))
    }

    /// Nothing is mended here: what is right only a person can say.
    fn quarantine(&self, account: AccountId, what: &str) {
        tracing::error!(
            alert = "account_quarantined", %account, what,
            "an account is quarantined; `polysystems verify` tells more"
        );
        self.quarantines.fetch_add(1, Ordering::Relaxed);
        self.quarantined.insert(account, self.tick.load(Ordering::Relaxed));
    }

    /// Takes a dead or poisoned owner out. Only after everything it handed to the writer has met
    /// its end, so that what is loaded next is complete; and whoever else meets it in the meantime
    /// waits likewise.
    async fn replace(
        &self,
        account: AccountId,
        dead: &Arc<AccountSlot>,
    ) -> Result<(), DirectoryError> {
        // While the database does not answer the barrier stands; whoever waits is told so.
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

    /// Is it the one that is asked now?
    fn is_in_memory(&self, slot: &Arc<AccountSlot>) -> bool {
        let found = self.slots.get(&slot.account);
        found.is_some_and(|found| Arc::ptr_eq(&found, slot))
    }

    /// Is no charge open and every write on record?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.marks.is_quiet())
    }

    /// How many accounts are in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Accounts that are quarantined now, and how often one was found since the start.
    #[must_use]
    pub fn quarantined(&self) -> (usize, u64) {
        (self.quarantined.len(), self.quarantines.load(Ordering::Relaxed))
    }

    /// Charges that are open, of all accounts in memory.
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

    /// Ends the holds that nobody in memory owns: those that a process before us left, and those
    /// past their time. Loading their accounts is enough.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn end_orphaned_holds(&self) -> Result<(), DirectoryError> {
        // Holds of another epoch are orphans only while this one is the latest.
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

    /// Ends expired charges, and lets go of accounts that are idle, or the longest idle ones where
    /// there are too many. Visits a part of the accounts each time, so that a million of them are
    /// not in anyone's way.
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
            // Whoever asks for an account whose owner has died loads it again; of the others nobody
            // else lets go.
            let account = slot.account;
            // Hardly any has died: the map is locked for those alone.
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
        // An operator may have mended them meanwhile; if not, that is found and told again.
        self.quarantined.retain(|_, since| now.saturating_sub(*since) < QUARANTINE_SWEEPS);
    }

    /// Ends an account's actor, if nothing is open on it and everything it decided is on record.
    /// What it owns stays. The map's guard is held while that is looked at, so nobody can take a
    /// lease in between, and no message but `Stop` is on its way.
    fn put_to_sleep(&self, account: AccountId) {
        let Some(slot) = self.slots.get_mut(&account) else { return };
        if slot.marks.may_sleep() {
            slot.sleep();
        }
    }

    /// How many accounts have an actor.
    #[must_use]
    pub fn awake(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_awake()).count()
    }

    /// Lets an account go, if nothing is open on it and everything it decided is durable. The map's
    /// guard is held while that is looked at, so nobody can take a lease in between.
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
