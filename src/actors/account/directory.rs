//! The directory: which accounts are in memory.
//!
//! It loads an account before its first use, once however many ask at the same time; lets go of accounts
//! that are idle, so that memory stays bounded however many exist; and notices a dead owner or one whose
//! writes were refused, and loads its account again from what is committed.
//!
//! No guard of the map is ever held across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use super::actor::{AccountLease, ExpireCharges, Means, OwnerCell, SharedOwner};
use super::slot::Resident;
use crate::actors::ledger::LedgerHandle;
use crate::clock::Clock;
use crate::config::AccountSettings;
use crate::store::{Store, StoreError};
use domain::account::InFlight;
use domain::residency::{fair_share, to_passivate};
use domain::{Account, AccountId};

pub use super::slot::ActorThreads;

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
    residents: DashMap<AccountId, Arc<Resident>>,
    /// The same, in the order in which the sweeps visit them: whoever was visited goes to the end. Never locked
    /// by who looks something up in the map meanwhile.
    round: Mutex<VecDeque<Arc<Resident>>>,
    /// Accounts whose records were found not to agree, and the tick at which that was.
    quarantined: DashMap<AccountId, i64>,
    /// How often one was found.
    quarantines: AtomicU64,
    store: Store,
    means: Arc<Means>,
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
            residents: DashMap::new(),
            round: Mutex::default(),
            quarantined: DashMap::new(),
            quarantines: AtomicU64::new(0),
            store,
            means: Arc::new(Means { ledger, clock, threads, keys_max }),
            settings,
            tick: AtomicI64::new(0),
        }
    }

    /// A lease on the account, loaded if it was not in memory. It has a fair share of the `running_max` calls that
    /// the process may have.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn lease(
        &self,
        account: AccountId,
        running: usize,
        running_max: usize,
    ) -> Result<AccountLease, DirectoryError> {
        let max = fair_share(self.settings.in_flight_max.get(), running, running_max);
        self.lease_among(account, max).await
    }

    /// A lease for the account's owner or an operator, who must get through however many calls run: whoever
    /// has stolen a key must not be able to keep it from being revoked.
    ///
    /// # Errors
    /// [`DirectoryError`], but never [`DirectoryError::Busy`].
    pub async fn owners_lease(&self, account: AccountId) -> Result<AccountLease, DirectoryError> {
        self.lease_among(account, u32::MAX).await
    }

    async fn lease_among(
        &self,
        account: AccountId,
        in_flight_max: u32,
    ) -> Result<AccountLease, DirectoryError> {
        if self.quarantined.contains_key(&account) {
            return Err(DirectoryError::Quarantined);
        }
        loop {
            let (resident, in_flight) = self.enter(account, in_flight_max)?;
            let owner = if let Some(owner) = resident.owner.get() {
                owner
            } else {
                let load = resident.owner.get_or_try_init(|| self.load(account, &resident));
                Box::pin(load).await?
            };
            if !owner.has_panicked() && !resident.marks.is_poisoned() {
                return Ok(AccountLease { resident, in_flight });
            }
            tracing::warn!(%account, "an account's owner is gone; loading the account again");
            Box::pin(self.replace(account, &resident)).await?;
        }
    }

    /// Counts a call in, while the map's guard keeps the sweep from letting the account go.
    fn enter(
        &self,
        account: AccountId,
        in_flight_max: u32,
    ) -> Result<(Arc<Resident>, InFlight), DirectoryError> {
        let count_in = |resident: &Arc<Resident>| {
            let entered =
                InFlight::enter(&resident.marks, in_flight_max).ok_or(DirectoryError::Busy)?;
            let tick = self.tick.load(Ordering::Relaxed);
            resident.marks.used_tick.store(tick, Ordering::Relaxed);
            Ok((Arc::clone(resident), entered))
        };
        if let Some(resident) = self.residents.get(&account) {
            return count_in(&resident);
        }
        let resident = self.residents.entry(account).or_insert_with(|| {
            let resident = Arc::new(Resident::new(account, Arc::clone(&self.means)));
            self.round().push_back(Arc::clone(&resident));
            resident
        });
        count_in(&resident)
    }

    async fn load(
        &self,
        account: AccountId,
        resident: &Resident,
    ) -> Result<SharedOwner, DirectoryError> {
        let loaded = self.store.load_account(account, self.means.ledger.epoch()).await;
        if let Err(StoreError::Quarantined { what, .. }) = &loaded {
            self.quarantine(account, what);
        }
        let owner = OwnerCell::new(Account::load(loaded?, Arc::clone(&resident.marks)));
        failpoint!("load-started");
        let is_open = resident.marks.open_charges.load(Ordering::Acquire) > 0;
        // Before anyone else asks it: what an owner before us left open is ended.
        if is_open && self.means.decide(&owner, ExpireCharges).is_none() {
            // It would again, for whoever asks.
            self.quarantine(account, "its open charges cannot be ended");
            // Nobody waits for their end, and who looks at the account later finds in the tables what was ended.
            resident.marks.open_charges.store(0, Ordering::Release);
            let _ = tokio::time::timeout(REPLACE_MAX, self.means.ledger.barrier()).await;
            return Err(DirectoryError::Quarantined);
        }
        Ok(Arc::new(owner))
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

    /// Takes a dead or poisoned owner out. Only after everything it handed to the writer has met its end, so
    /// that what is loaded next is complete; and whoever else meets it in the meantime waits likewise.
    async fn replace(
        &self,
        account: AccountId,
        dead: &Arc<Resident>,
    ) -> Result<(), DirectoryError> {
        // While the database does not answer the barrier stands; whoever waits is told so.
        tokio::time::timeout(REPLACE_MAX, self.means.ledger.barrier())
            .await
            .map_err(|_| DirectoryError::Unwritable)?
            .map_err(|_| DirectoryError::Unwritable)?;
        let removed = self.residents.remove_if(&account, |_, resident| Arc::ptr_eq(resident, dead));
        if let Some((_, resident)) = removed {
            resident.sleep();
        }
        Ok(())
    }

    fn round(&self) -> MutexGuard<'_, VecDeque<Arc<Resident>>> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is it the one that is asked now?
    fn is_resident(&self, resident: &Arc<Resident>) -> bool {
        let found = self.residents.get(&resident.account);
        found.is_some_and(|found| Arc::ptr_eq(&found, resident))
    }

    /// Is no charge open and every write on record?
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.residents.iter().all(|resident| resident.marks.is_quiet())
    }

    /// How many accounts are in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.residents.len()
    }

    /// Accounts that are quarantined now, and how often one was found since the start.
    #[must_use]
    pub fn quarantined(&self) -> (usize, u64) {
        (self.quarantined.len(), self.quarantines.load(Ordering::Relaxed))
    }

    /// Charges that are open, of all accounts in memory.
    #[must_use]
    pub fn open_charges(&self) -> usize {
        let open = |resident: &Arc<Resident>| resident.marks.open_charges.load(Ordering::Relaxed);
        self.residents.iter().map(|resident| open(&resident)).fold(0, usize::saturating_add)
    }

    /// Is no account in memory?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.residents.is_empty()
    }

    /// Ends the holds that nobody in memory owns: those that a process before us left, and those past their
    /// time. Loading their accounts is enough.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub async fn end_orphaned_holds(&self) -> Result<(), DirectoryError> {
        // Holds of another epoch are orphans only while this one is the latest.
        if !self.means.ledger.state().is_in_charge() {
            return Ok(());
        }
        let (epoch, now) = (self.means.ledger.epoch(), self.means.clock.now());
        for account in self.store.accounts_with_orphaned_holds(epoch, now).await? {
            if let Err(error) = self.owners_lease(account).await {
                tracing::error!(%account, %error, "an account's orphaned holds were not ended");
            }
        }
        Ok(())
    }

    /// Ends expired charges, and lets go of accounts that are idle, or the longest idle ones where there are
    /// too many. Visits a part of the accounts each time, so that a million of them are not in anyone's way.
    pub fn sweep(&self) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed);
        let idle_max = i64::try_from(self.settings.idle_seconds.get()).unwrap_or(i64::MAX);
        let (resident, max) = (self.residents.len(), self.settings.resident_max);
        let surplus = resident.saturating_sub(max);
        let visits = (resident / SWEEPS_A_ROUND).max(VISITS_MIN).max(surplus.saturating_mul(2));
        let visited: Vec<Arc<Resident>> = {
            let mut round = self.round();
            let visits = visits.min(round.len());
            round.drain(..visits).collect()
        };
        let mut idle = Vec::new();
        for resident in &visited {
            let marks = &resident.marks;
            // Whoever asks for an account whose owner has died loads it again; of the others nobody else lets go.
            let account = resident.account;
            // Hardly any has died: the map is locked for those alone.
            if resident.is_dead_and_done() {
                self.residents.remove_if(&account, |_, found| {
                    Arc::ptr_eq(found, resident) && found.is_dead_and_done()
                });
            }
            if marks.open_charges.load(Ordering::Acquire) > 0 {
                resident.tell(ExpireCharges);
            }
            let used = marks.used_tick.load(Ordering::Relaxed);
            if marks.may_passivate() {
                idle.push((used, account));
            }
            if now.saturating_sub(used) >= SLEEPY_SWEEPS && resident.is_awake() {
                self.put_to_sleep(account);
            }
        }
        for account in to_passivate(idle, resident, max, idle_max, now) {
            self.passivate(account);
        }
        let staying = visited.into_iter().filter(|resident| self.is_resident(resident));
        let staying: Vec<Arc<Resident>> = staying.collect();
        self.round().extend(staying);
        // An operator may have mended them meanwhile; if not, that is found and told again.
        self.quarantined.retain(|_, since| now.saturating_sub(*since) < QUARANTINE_SWEEPS);
    }

    /// Ends an account's actor, if nothing is open on it and everything it decided is on record. What it owns stays. The
    /// map's guard is held while that is looked at, so nobody can take a lease in between, and no message but `Stop` is
    /// on its way.
    fn put_to_sleep(&self, account: AccountId) {
        let Some(resident) = self.residents.get_mut(&account) else { return };
        if resident.marks.may_sleep() {
            resident.sleep();
        }
    }

    /// How many accounts have an actor.
    #[must_use]
    pub fn awake(&self) -> usize {
        self.residents.iter().filter(|resident| resident.is_awake()).count()
    }

    /// Lets an account go, if nothing is open on it and everything it decided is durable. The map's guard
    /// is held while that is looked at, so nobody can take a lease in between.
    pub fn passivate(&self, account: AccountId) -> bool {
        let removed =
            self.residents.remove_if(&account, |_, resident| resident.marks.may_passivate());
        match removed {
            Some((_, resident)) => {
                failpoint!("passivate");
                resident.sleep();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use actix::{Arbiter, System};
    use futures_util::FutureExt as _;
    use sea_orm::ConnectionTrait as _;
    use uuid::Uuid;

    use super::super::actor::{AccountError, Look, Panic};
    use super::*;
    use crate::actors::ledger::{LedgerWriter, WriteError, WriterState};
    use crate::config::{DatabaseSettings, LedgerSettings};
    use crate::store::rollups::UsageFilter;
    use crate::store::users::{NewUser, Role};
    use domain::{
        AccountFlags, Batch, Charge, ChargeId, Credits, KeyId, NewKey, NewPayment, PaymentId,
        Price, Timestamp, UsageRecord, UserId, Write,
    };

    const PRICE: Credits = Credits::from_nanos(10);

    struct Bench {
        directory: Directory,
        store: Store,
        url: String,
        _folder: tempfile::TempDir,
        _arbiter: Arbiter,
    }

    fn on_bench(resident_max: usize, test: impl AsyncFnOnce(Bench)) {
        on_bench_with(resident_max, &LedgerSettings::default(), test);
    }

    fn on_bench_with(
        resident_max: usize,
        settings: &LedgerSettings,
        test: impl AsyncFnOnce(Bench),
    ) {
        let runtime = crate::app::database_runtime().unwrap();
        System::new().block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display());
            let database = DatabaseSettings::default();
            let store = Store::open(&database, &url, runtime.handle().clone()).await.unwrap();
            let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
            let arbiter = Arbiter::new();
            let ledger = LedgerWriter::start(&arbiter, store.clone(), lease, settings);
            let settings = AccountSettings { resident_max, ..AccountSettings::default() };
            let threads = ActorThreads::default();
            threads.add(arbiter.handle());
            let directory =
                Directory::new(store.clone(), ledger, threads, Clock::System, settings, 10);
            test(Bench { directory, store, url, _folder: folder, _arbiter: arbiter }).await;
        });
    }

    impl Bench {
        /// An account with 100 nano-dollars and a key.
        async fn account(&self, name: &str) -> (AccountId, KeyId) {
            let user = NewUser {
                origin: domain::Origin::local(domain::Actor::Server),
                id: UserId(Uuid::new_v4()),
                email: name.into(),
                username: name.into(),
                password_hash: String::new(),
                role: Role::User,
                created_at: Timestamp::from_micros(0),
                test_credits: Credits::ZERO,
            };
            let user = self.store.users.insert(user).await.unwrap();
            let account = self.store.users.accounts_of(user.id).await.unwrap().live;
            let (key, at) = (KeyId(Uuid::new_v4()), Timestamp::from_micros(0));
            let lease = self.directory.owners_lease(account).await.unwrap();
            let payment = NewPayment {
                id: PaymentId(Uuid::new_v4()),
                account,
                provider: "test",
                amount: Credits::from_nanos(100),
                at,
            };
            lease.top_up(payment, None, None).await.unwrap().wait().await.unwrap();
            let new = NewKey {
                id: key,
                account,
                name: name.into(),
                digest: digest_of(name),
                preview: String::new(),
                created_at: at,
                expires_at: None,
            };
            lease.add_key(new, None, None).await.unwrap().wait().await.unwrap();
            (account, key)
        }

        async fn charge(&self, (account, key): (AccountId, KeyId)) -> Result<(), WriteError> {
            let lease = self.directory.owners_lease(account).await.unwrap();
            let id = ChargeId(Uuid::new_v4());
            let expires_at = Timestamp::from_micros(i64::MAX);
            let charge =
                Charge { id, key, price: Price::Fixed(PRICE), expires_at, is_durable: false };
            let receipt = lease.charge(charge).await.unwrap();
            let usage = usage(account, key, id);
            let delivered = domain::Outcome::Delivered { cost: PRICE };
            let settled = lease.settle(id, delivered, usage, None).await;
            // A write that failed meanwhile has ended the owner, which then settles nothing.
            receipt.wait().await?;
            settled.unwrap();
            Ok(())
        }

        async fn balance(&self, account: AccountId) -> i64 {
            let lease = self.directory.owners_lease(account).await.unwrap();
            lease.look(None).await.unwrap().wait().await.unwrap().balance.nanos()
        }
    }

    fn usage(account: AccountId, key: KeyId, id: ChargeId) -> UsageRecord {
        UsageRecord {
            id,
            account,
            seq: None,
            key,
            method: "GET".into(),
            route: "/".into(),
            model: "".into(),
            upstream: "test".into(),
            status: 200,
            cost: PRICE,
            prompt_tokens: 0,
            completion_tokens: 0,
            ending: domain::Ending::default(),
            tally: domain::Tally::default(),
            started_at: Timestamp::from_micros(0),
            latency_micros: 0,
        }
    }

    fn digest_of(name: &str) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        digest
    }

    #[test]
    fn an_idle_account_is_let_go_and_comes_back_as_it_was() {
        on_bench(1, async |bench| {
            let one = bench.account("one").await;
            let two = bench.account("two").await;
            bench.charge(one).await.unwrap();
            bench.charge(two).await.unwrap();
            // Nothing is let go that somebody holds.
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            assert!(!bench.directory.passivate(one.0));
            drop(lease);
            assert_eq!(bench.directory.len(), 2);
            while bench.directory.len() > 1 {
                bench.directory.sweep();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!((bench.balance(one.0).await, bench.balance(two.0).await), (90, 90));
            bench.charge(one).await.unwrap();
            assert_eq!(bench.balance(one.0).await, 80);
        });
    }

    /// Whoever asks while another decides does not wait for a lock: the request lies in the mailbox until its turn.
    #[test]
    fn who_finds_the_owner_at_work_waits_in_the_mailbox() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            bench.charge(one).await.unwrap();
            assert_eq!(bench.directory.awake(), 0);
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            let mut looking = std::pin::pin!(lease.look(None));
            {
                let owner = lease.resident.owner.get().unwrap();
                let _turn = owner.owner.lock().unwrap();
                assert!((&mut looking).now_or_never().is_none());
                assert_eq!(bench.directory.awake(), 1);
            }
            let receipt = looking.await.unwrap();
            assert_eq!(receipt.wait().await.unwrap().balance.nanos(), 90);
            // Nobody need wait for what was told without an answer either.
            let id = ChargeId(Uuid::new_v4());
            {
                let owner = lease.resident.owner.get().unwrap();
                let _turn = owner.owner.lock().unwrap();
                lease.abandon(id, Credits::ZERO);
            }
            bench.charge(one).await.unwrap();
            assert_eq!(bench.balance(one.0).await, 80);
        });
    }

    #[test]
    fn an_account_that_sleeps_is_as_it_was_and_is_not_loaded_again() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            bench.charge(one).await.unwrap();
            bench.directory.means.ledger.barrier().await.unwrap();
            // Whoever holds it keeps it awake.
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            let _ = lease.resident.send(Look(None)).await.unwrap();
            assert_eq!((bench.directory.len(), bench.directory.awake()), (1, 1));
            let sweep = || (0..=SLEEPY_SWEEPS).for_each(|_| bench.directory.sweep());
            sweep();
            assert_eq!(bench.directory.awake(), 1);
            drop(lease);
            sweep();
            assert_eq!((bench.directory.len(), bench.directory.awake()), (1, 0));
            // What is in the database is not looked at.
            let other = sea_orm::Database::connect(&bench.url).await.unwrap();
            let sql = format!("UPDATE account SET balance = 1 WHERE id = {}", one.0.0);
            other.execute_unprepared(&sql).await.unwrap();
            assert_eq!(bench.balance(one.0).await, 90);
            let sql = format!("UPDATE account SET balance = 90 WHERE id = {}", one.0.0);
            other.execute_unprepared(&sql).await.unwrap();
            bench.charge(one).await.unwrap();
            assert_eq!(bench.balance(one.0).await, 80);
        });
    }

    /// Whether it has panicked in the mailbox or where it was asked.
    #[test]
    fn what_a_dead_owner_has_left_is_not_used() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            for (is_mailed, left) in [(true, 80), (false, 60)] {
                bench.charge(one).await.unwrap();
                let lease = bench.directory.owners_lease(one.0).await.unwrap();
                if is_mailed {
                    assert!(lease.resident.send(Panic).await.is_err());
                } else {
                    assert!(matches!(lease.ask(Panic).await, Err(AccountError::Gone)));
                }
                assert!(matches!(lease.look(None).await, Err(AccountError::Gone)));
                assert!(lease.resident.send(Look(None)).await.is_err());
                lease.abandon(ChargeId(Uuid::new_v4()), Credits::ZERO);
                drop(lease);
                (0..=SLEEPY_SWEEPS).for_each(|_| bench.directory.sweep());
                // Gone, or loaded again by whoever asks.
                assert_eq!(bench.balance(one.0).await, left + 10);
                bench.charge(one).await.unwrap();
                assert_eq!(bench.balance(one.0).await, left);
                bench.directory.means.ledger.barrier().await.unwrap();
            }
        });
    }

    /// Calls and sweeps against one another: nothing is lost between an actor that ends and the next.
    #[test]
    fn no_call_is_lost_between_sleeping_and_waking() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            for _ in 0..9 {
                let is_charged = std::cell::Cell::new(false);
                let call = async {
                    bench.charge(one).await.unwrap();
                    is_charged.set(true);
                };
                // As long as the call runs, and once more after it.
                let sweeps = async {
                    let mut was_charged = false;
                    while !was_charged {
                        was_charged = is_charged.get();
                        (0..=SLEEPY_SWEEPS).for_each(|_| bench.directory.sweep());
                        tokio::task::yield_now().await;
                    }
                };
                futures_util::future::join(call, sweeps).await;
            }
            assert_eq!(bench.balance(one.0).await, 10);
            bench.directory.means.ledger.barrier().await.unwrap();
            let account = bench.store.load_account(one.0, 9).await.unwrap();
            assert_eq!(account.balance().nanos(), 10);
        });
    }

    #[test]
    fn an_account_is_loaded_once_however_many_ask() {
        on_bench(10, async |bench| {
            let account = bench.account("one").await;
            for _ in 0..20 {
                while !bench.directory.passivate(account.0) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let leases = (0..50).map(|_| bench.directory.owners_lease(account.0));
                let leases = futures_util::future::join_all(leases).await;
                let owner = |lease: &Result<AccountLease, _>| -> SharedOwner {
                    Arc::clone(lease.as_ref().unwrap().resident.owner.get().unwrap())
                };
                let first = owner(&leases[0]);
                assert!(leases.iter().all(|lease| Arc::ptr_eq(&owner(lease), &first)));
            }
        });
    }

    /// Whoever asked before a write was refused hears that the owner is gone, also when it was loaded anew meanwhile.
    #[test]
    fn a_poisoned_owner_decides_nothing_for_old_leases() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            bench.charge(one).await.unwrap();
            bench.directory.means.ledger.barrier().await.unwrap();
            let old = bench.directory.owners_lease(one.0).await.unwrap();
            old.resident.marks.poison();
            assert!(matches!(old.look(None).await, Err(AccountError::Gone)));
            assert_eq!(bench.balance(one.0).await, 90);
            assert!(matches!(old.look(None).await, Err(AccountError::Gone)));
            assert!(old.resident.send(Look(None)).await.is_err());
        });
    }

    /// A panic while another one unwinds the thread: the lock alone would not tell.
    #[test]
    fn a_panic_within_a_panic_ends_the_owner_as_well() {
        struct Abandons(AccountLease);
        impl Drop for Abandons {
            fn drop(&mut self) {
                self.0.resident.tell(Panic);
            }
        }
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            bench.charge(one).await.unwrap();
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            let other = bench.directory.owners_lease(one.0).await.unwrap();
            let unwinding = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _abandons = Abandons(lease);
                panic!("on purpose");
            }));
            assert!(unwinding.is_err());
            assert!(matches!(other.look(None).await, Err(AccountError::Gone)));
            drop(other);
            assert_eq!(bench.balance(one.0).await, 90);
        });
    }

    #[test]
    fn without_a_thread_for_actors_the_turn_is_waited_for() {
        on_bench(10, async |mut bench| {
            let one = bench.account("one").await;
            bench.directory.means = Arc::new(Means {
                ledger: bench.directory.means.ledger.clone(),
                clock: Clock::System,
                threads: ActorThreads::default(),
                keys_max: 10,
            });
            while !bench.directory.passivate(one.0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            assert!(lease.resident.send(Look(None)).await.unwrap().is_ok());
        });
    }

    #[test]
    fn a_dead_owner_is_replaced_from_what_is_committed() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            let two = bench.account("two").await;
            bench.charge(one).await.unwrap();
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            assert!(lease.resident.send(Panic).await.is_err());
            drop(lease);
            // Its neighbour on the same thread goes on; it is there again itself.
            bench.charge(two).await.unwrap();
            bench.charge(one).await.unwrap();
            assert_eq!((bench.balance(one.0).await, bench.balance(two.0).await), (80, 90));
        });
    }

    #[test]
    fn who_was_taken_over_writes_nothing() {
        for journal in [true, false] {
            let settings = LedgerSettings { journal, ..LedgerSettings::default() };
            on_bench_with(10, &settings, who_was_taken_over);
        }
    }

    async fn who_was_taken_over(bench: Bench) {
        let one = bench.account("one").await;
        bench.charge(one).await.unwrap();
        // The usage record is a write of its own, and may still be on its way.
        bench.directory.means.ledger.barrier().await.unwrap();
        bench.store.take_lease(Uuid::new_v4()).await.unwrap();
        // Nobody has told it: the transaction itself finds out.
        assert_eq!(bench.directory.means.ledger.state(), WriterState::Serving);
        assert_eq!(bench.charge(one).await, Err(WriteError::Fenced));
        assert_eq!(bench.directory.means.ledger.state(), WriterState::Fenced);
        let account = bench.store.load_account(one.0, 9).await.unwrap();
        assert_eq!(account.balance().nanos(), 90);
    }

    /// Between the lease of the tables and that of the journal it may be paused for as long as it takes.
    #[test]
    fn who_was_overtaken_leaves_the_journal_alone() {
        on_bench(10, async |bench| {
            let before = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            let after = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            assert!(bench.store.take_journal(before).is_err());
            assert!(bench.store.take_journal(after).is_err());
            let nothing = Batch::default();
            bench.store.journal(1, &nothing, after).await.unwrap();
            assert!(bench.store.journal(1, &nothing, before).await.is_err());
        });
    }

    #[test]
    fn all_that_a_process_left_in_the_journal_is_checkpointed() {
        const BATCHES: i64 = 200;
        on_bench(10, async |bench| {
            let (account, key) = bench.account("one").await;
            bench.directory.means.ledger.barrier().await.unwrap();
            // More than is read at once, by one process after another.
            let mut written = 0;
            for batches in [BATCHES, 1, 0] {
                let lease = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
                let calls =
                    bench.store.reports.list_calls(account, None, 1_000, UsageFilter::default());
                assert_eq!(i64::try_from(calls.await.unwrap().0.len()).unwrap(), written);
                for number in 1..=batches {
                    let usage = vec![usage(account, key, ChargeId(Uuid::new_v4()))];
                    let batch = Batch { usage, ..Batch::default() };
                    bench.store.journal(number, &batch, lease).await.unwrap();
                }
                written += batches;
            }
        });
    }

    /// However often something comes, what is in the journal does not stay there alone.
    #[test]
    fn a_trickle_is_checkpointed_all_the_same() {
        on_bench(10, async |bench| {
            let (account, key) = bench.account("one").await;
            let ledger = &bench.directory.means.ledger;
            ledger.barrier().await.unwrap();
            let marks = Arc::new(AccountFlags::default());
            let (mut most, begun) = (0, std::time::Instant::now());
            loop {
                let usage = Some(usage(account, key, ChargeId(Uuid::new_v4())));
                let write = Write { usage, ..Write::nothing(account) };
                ledger.write(Box::new(write), &marks, None);
                tokio::time::sleep(Duration::from_millis(1)).await;
                let backlog = ledger.metrics().backlog;
                if backlog < most {
                    break;
                }
                most = backlog;
                assert!(begun.elapsed() < Duration::from_secs(5), "{most} writes in the journal");
            }
        });
    }

    /// As with a database that was restored from an older backup, beside the newer journal.
    #[test]
    fn an_epoch_is_above_that_of_the_journal() {
        on_bench(10, async |bench| {
            let first = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            for _ in 0..5 {
                bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            }
            let other = sea_orm::Database::connect(&bench.url).await.unwrap();
            other.execute_unprepared("UPDATE shard_lease SET epoch = 1").await.unwrap();
            let next = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            assert_eq!(next.epoch, first.epoch + 6);
        });
    }

    #[test]
    fn a_refused_write_touches_its_account_alone() {
        let settings = LedgerSettings { journal: false, ..LedgerSettings::default() };
        on_bench_with(10, &settings, async |bench| {
            let one = bench.account("one").await;
            let two = bench.account("two").await;
            // Somebody has moved the account's row behind its owner's back.
            let other = sea_orm::Database::connect(&bench.url).await.unwrap();
            let sql = format!("UPDATE account SET seq = 7 WHERE id = {}", one.0.0);
            other.execute_unprepared(&sql).await.unwrap();
            // Both in one batch.
            let (first, second) =
                futures_util::future::join(bench.charge(one), bench.charge(two)).await;
            assert_eq!((first, second), (Err(WriteError::Refused), Ok(())));
            assert_eq!(bench.balance(two.0).await, 90);
            // Its row does not agree with its ledger: nobody gets at it before a person has mended it.
            for _ in 0..2 {
                let refused = bench.directory.owners_lease(one.0).await;
                assert!(matches!(refused, Err(DirectoryError::Quarantined)));
            }
            assert_eq!(bench.directory.quarantined(), (1, 1));
            let sql = format!("UPDATE account SET seq = 1 WHERE id = {}", one.0.0);
            other.execute_unprepared(&sql).await.unwrap();
            for _ in 0..=QUARANTINE_SWEEPS {
                bench.directory.sweep();
            }
            bench.charge(one).await.unwrap();
            assert_eq!(bench.balance(one.0).await, 90);
        });
    }

    #[test]
    fn what_the_tables_refuse_of_the_journal_stays_on_record() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            let two = bench.account("two").await;
            bench.directory.means.ledger.barrier().await.unwrap();
            let other = sea_orm::Database::connect(&bench.url).await.unwrap();
            let sql = format!("UPDATE account SET seq = 7 WHERE id = {}", one.0.0);
            other.execute_unprepared(&sql).await.unwrap();
            // Both are in the journal, and acknowledged.
            let both = futures_util::future::join(bench.charge(one), bench.charge(two)).await;
            assert_eq!(both, (Ok(()), Ok(())));
            bench.directory.means.ledger.barrier().await.unwrap();
            assert_eq!(bench.balance(two.0).await, 90);
            let is_quarantined = async || {
                let refused = bench.directory.owners_lease(one.0).await;
                matches!(refused, Err(DirectoryError::Quarantined))
            };
            assert!(is_quarantined().await);
            let (_, found) = bench.store.audited_journal().await.unwrap();
            assert_eq!(found.iter().map(|(account, _)| *account).collect::<Vec<_>>(), [one.0]);
            // Mended, but for what the tables have refused: that is not forgotten.
            let sql = format!("UPDATE account SET seq = 1 WHERE id = {}", one.0.0);
            other.execute_unprepared(&sql).await.unwrap();
            for _ in 0..=QUARANTINE_SWEEPS {
                bench.directory.sweep();
            }
            assert!(is_quarantined().await);
            // Whoever starts next tries it again.
            let lease = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            let account = bench.store.load_account(one.0, lease.epoch).await.unwrap();
            assert_eq!(account.balance().nanos(), 90);
            assert_eq!(bench.store.audited_journal().await.unwrap(), (0, Vec::new()));
        });
    }

    #[test]
    fn what_is_left_in_the_journal_is_checkpointed_by_the_next() {
        on_bench(10, async |bench| {
            let one = bench.account("one").await;
            bench.directory.means.ledger.barrier().await.unwrap();
            bench.charge(one).await.unwrap();
            // It may be in the journal alone. Whoever comes next finds it in the tables, once, however often.
            for _ in 0..2 {
                let lease = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
                let account = bench.store.load_account(one.0, lease.epoch).await.unwrap();
                assert_eq!(account.balance().nanos(), 90);
                assert_eq!(bench.store.audited_journal().await.unwrap(), (0, Vec::new()));
            }
        });
    }
}
