//! Tests of the directory with a store and a ledger writer.

use actix::{Arbiter, System};
use futures_util::FutureExt as _;
use sea_orm::ConnectionTrait as _;
use uuid::Uuid;

use super::super::receipt::{AccountError, Receipt};
use super::super::turn::Turn;
use std::convert::Infallible;

use super::*;
use crate::actors::ledger::{LedgerWriter, WriteError, WriterState};
use crate::config::{DatabaseSettings, LedgerSettings};
use crate::store::journal::AuditedJournal;
use crate::store::reports::CallFilter;
use crate::store::users::{NewUser, Role};
use domain::limits::SpendingLimits;
use domain::{
    AccountFlags, Batch, Charge, ChargeId, Credits, KeyId, NewKey, NewPayment, PaymentId, Price,
    Timestamp, UsageRecord, UserId, Write,
};

/// Panics on purpose, to test that this affects only its own account.
fn panics(_: &mut Turn<'_>) -> Result<Receipt<()>, std::convert::Infallible> {
    panic!("on purpose");
}

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

fn on_bench_with(resident_max: usize, settings: &LedgerSettings, test: impl AsyncFnOnce(Bench)) {
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
        let directory = Directory::new(store.clone(), ledger, threads, Clock::System, settings, 10);
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
            limits: SpendingLimits::default(),
        };
        lease.add_key(new, None, None).await.unwrap().wait().await.unwrap();
        (account, key)
    }

    async fn charge(&self, (account, key): (AccountId, KeyId)) -> Result<(), WriteError> {
        let lease = self.directory.owners_lease(account).await.unwrap();
        let id = ChargeId(Uuid::new_v4());
        let expires_at = Timestamp::from_micros(i64::MAX);
        let charge = Charge {
            id,
            key,
            price: Price::Fixed(PRICE),
            bill: None,
            expires_at,
            is_durable: false,
        };
        let receipt = lease.charge(charge).await.unwrap();
        let usage = usage(account, key, id);
        let delivered = domain::Outcome::Delivered { cost: PRICE, bill: None };
        let settled = lease.settle(id, delivered, usage, None).await;
        // If a write failed in the meantime, the owner is gone and settles nothing.
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
        // An account with a handle is not removed.
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

/// A caller that finds the turn taken does not block on a lock. Its request waits in the mailbox.
#[test]
fn who_finds_the_owner_at_work_waits_in_the_mailbox() {
    on_bench(10, async |bench| {
        let one = bench.account("one").await;
        bench.charge(one).await.unwrap();
        assert_eq!(bench.directory.awake(), 0);
        let lease = bench.directory.owners_lease(one.0).await.unwrap();
        let mut looking = std::pin::pin!(lease.look(None));
        {
            let owner = lease.slot.owner.get().unwrap();
            let _turn = owner.lock().unwrap();
            assert!((&mut looking).now_or_never().is_none());
            assert_eq!(bench.directory.awake(), 1);
        }
        let receipt = looking.await.unwrap();
        assert_eq!(receipt.wait().await.unwrap().balance.nanos(), 90);
        // A request without an answer waits in the mailbox too.
        let id = ChargeId(Uuid::new_v4());
        {
            let owner = lease.slot.owner.get().unwrap();
            let _turn = owner.lock().unwrap();
            lease.abandon(id, Credits::ZERO, None);
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
        bench.directory.resources.ledger.barrier().await.unwrap();
        // A handle keeps the actor running.
        let lease = bench.directory.owners_lease(one.0).await.unwrap();
        let _ = lease.slot.send(|turn| Ok::<_, Infallible>(turn.look(None))).await.unwrap();
        assert_eq!((bench.directory.len(), bench.directory.awake()), (1, 1));
        let sweep = || (0..=SLEEPY_SWEEPS).for_each(|_| bench.directory.sweep());
        sweep();
        assert_eq!(bench.directory.awake(), 1);
        drop(lease);
        sweep();
        assert_eq!((bench.directory.len(), bench.directory.awake()), (1, 0));
        // The account stays in memory, so this change of the database is not seen.
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

/// The decision panics in the mailbox in one round, and on the caller's thread in the other.
#[test]
fn what_a_dead_owner_has_left_is_not_used() {
    on_bench(10, async |bench| {
        let one = bench.account("one").await;
        for (is_mailed, left) in [(true, 80), (false, 60)] {
            bench.charge(one).await.unwrap();
            let lease = bench.directory.owners_lease(one.0).await.unwrap();
            if is_mailed {
                assert!(lease.slot.send(panics).await.is_err());
            } else {
                assert!(matches!(lease.ask(panics).await, Err(AccountError::Gone)));
            }
            assert!(matches!(lease.look(None).await, Err(AccountError::Gone)));
            assert!(lease.slot.send(|turn| Ok::<_, Infallible>(turn.look(None))).await.is_err());
            lease.abandon(ChargeId(Uuid::new_v4()), Credits::ZERO, None);
            drop(lease);
            (0..=SLEEPY_SWEEPS).for_each(|_| bench.directory.sweep());
            // The owner is gone, and the next caller loads the account again.
            assert_eq!(bench.balance(one.0).await, left + 10);
            bench.charge(one).await.unwrap();
            assert_eq!(bench.balance(one.0).await, left);
            bench.directory.resources.ledger.barrier().await.unwrap();
        }
    });
}

/// Calls and sweeps run concurrently. No call is lost while one actor stops and the next starts.
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
            // While the call runs, and once more after it.
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
        bench.directory.resources.ledger.barrier().await.unwrap();
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
            let slot = |lease: &Result<AccountHandle, _>| Arc::clone(&lease.as_ref().unwrap().slot);
            let first = slot(&leases[0]);
            assert!(leases.iter().all(|lease| Arc::ptr_eq(&slot(lease), &first)));
        }
    });
}

/// A handle from before a refused write gets `Gone`, even after the account was loaded again.
#[test]
fn a_poisoned_owner_decides_nothing_for_old_leases() {
    on_bench(10, async |bench| {
        let one = bench.account("one").await;
        bench.charge(one).await.unwrap();
        bench.directory.resources.ledger.barrier().await.unwrap();
        let old = bench.directory.owners_lease(one.0).await.unwrap();
        old.slot.marks.poison();
        assert!(matches!(old.look(None).await, Err(AccountError::Gone)));
        assert_eq!(bench.balance(one.0).await, 90);
        assert!(matches!(old.look(None).await, Err(AccountError::Gone)));
        assert!(old.slot.send(|turn| Ok::<_, Infallible>(turn.look(None))).await.is_err());
    });
}

/// A decision panics while the thread already unwinds from a panic. The lock's poison flag alone
/// does not show this.
#[test]
fn a_panic_within_a_panic_ends_the_owner_as_well() {
    struct Abandons(AccountHandle);
    impl Drop for Abandons {
        fn drop(&mut self) {
            self.0.slot.tell(panics);
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
fn without_a_thread_for_actors_a_request_waits_for_the_turn() {
    on_bench(10, async |mut bench| {
        let one = bench.account("one").await;
        bench.directory.resources = Arc::new(Resources {
            ledger: bench.directory.resources.ledger.clone(),
            clock: Clock::System,
            threads: ActorThreads::default(),
            keys_max: 10,
        });
        while !bench.directory.passivate(one.0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let lease = bench.directory.owners_lease(one.0).await.unwrap();
        assert!(
            lease.slot.send(|turn| Ok::<_, Infallible>(turn.look(None))).await.unwrap().is_ok()
        );
    });
}

#[test]
fn a_dead_owner_is_replaced_from_what_is_committed() {
    on_bench(10, async |bench| {
        let one = bench.account("one").await;
        let two = bench.account("two").await;
        bench.charge(one).await.unwrap();
        let lease = bench.directory.owners_lease(one.0).await.unwrap();
        assert!(lease.slot.send(panics).await.is_err());
        drop(lease);
        // The other account on the same thread goes on. This one is loaded again.
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
    // The usage record is a separate write, which may still be pending.
    bench.directory.resources.ledger.barrier().await.unwrap();
    bench.store.take_lease(Uuid::new_v4()).await.unwrap();
    // The process does not know about the takeover. The transaction of the next write finds out.
    assert_eq!(bench.directory.resources.ledger.state(), WriterState::Serving);
    assert_eq!(bench.charge(one).await, Err(WriteError::Fenced));
    assert_eq!(bench.directory.resources.ledger.state(), WriterState::Fenced);
    let account = bench.store.load_account(one.0, 9).await.unwrap();
    assert_eq!(account.balance().nanos(), 90);
}

/// A process may be paused between taking the lease of the tables and taking the journal.
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
        bench.directory.resources.ledger.barrier().await.unwrap();
        // The first process leaves more batches than one read returns.
        let mut written = 0;
        for batches in [BATCHES, 1, 0] {
            let lease = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            let calls = bench.store.reports.list_calls(account, None, 1_000, CallFilter::default());
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

/// The journal is checkpointed even if writes keep arriving.
#[test]
fn a_trickle_is_checkpointed_all_the_same() {
    on_bench(10, async |bench| {
        let (account, key) = bench.account("one").await;
        let ledger = &bench.directory.resources.ledger;
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

/// The database was restored from a backup that is older than the journal.
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
        // The account's row is changed behind its owner's back.
        let other = sea_orm::Database::connect(&bench.url).await.unwrap();
        let sql = format!("UPDATE account SET seq = 7 WHERE id = {}", one.0.0);
        other.execute_unprepared(&sql).await.unwrap();
        // Both in one batch.
        let (first, second) =
            futures_util::future::join(bench.charge(one), bench.charge(two)).await;
        assert_eq!((first, second), (Err(WriteError::Refused), Ok(())));
        assert_eq!(bench.balance(two.0).await, 90);
        // The account's row and its ledger disagree. Nobody can use it until an operator repairs
        // it.
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
        bench.directory.resources.ledger.barrier().await.unwrap();
        let other = sea_orm::Database::connect(&bench.url).await.unwrap();
        let sql = format!("UPDATE account SET seq = 7 WHERE id = {}", one.0.0);
        other.execute_unprepared(&sql).await.unwrap();
        // Both are in the journal, and acknowledged.
        let both = futures_util::future::join(bench.charge(one), bench.charge(two)).await;
        assert_eq!(both, (Ok(()), Ok(())));
        bench.directory.resources.ledger.barrier().await.unwrap();
        assert_eq!(bench.balance(two.0).await, 90);
        let is_quarantined = async || {
            let refused = bench.directory.owners_lease(one.0).await;
            matches!(refused, Err(DirectoryError::Quarantined))
        };
        assert!(is_quarantined().await);
        let found = bench.store.audited_journal().await.unwrap().found;
        assert_eq!(found.iter().map(|(account, _)| *account).collect::<Vec<_>>(), [one.0]);
        // The row is repaired, but the account stays quarantined for the entries that the tables
        // refused.
        let sql = format!("UPDATE account SET seq = 1 WHERE id = {}", one.0.0);
        other.execute_unprepared(&sql).await.unwrap();
        for _ in 0..=QUARANTINE_SWEEPS {
            bench.directory.sweep();
        }
        assert!(is_quarantined().await);
        // The next process tries the refused entries again.
        let lease = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
        let account = bench.store.load_account(one.0, lease.epoch).await.unwrap();
        assert_eq!(account.balance().nanos(), 90);
        assert_eq!(bench.store.audited_journal().await.unwrap(), AuditedJournal::default());
    });
}

#[test]
fn what_is_left_in_the_journal_is_checkpointed_by_the_next() {
    on_bench(10, async |bench| {
        let one = bench.account("one").await;
        bench.directory.resources.ledger.barrier().await.unwrap();
        bench.charge(one).await.unwrap();
        // The charge may be only in the journal. Every later process finds it in the tables,
        // exactly once.
        for _ in 0..2 {
            let lease = bench.store.take_lease(Uuid::new_v4()).await.unwrap();
            let account = bench.store.load_account(one.0, lease.epoch).await.unwrap();
            assert_eq!(account.balance().nanos(), 90);
            assert_eq!(bench.store.audited_journal().await.unwrap(), AuditedJournal::default());
        }
    });
}
