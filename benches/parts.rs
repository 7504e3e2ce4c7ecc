//! The parts of a paid call alone: the account actors, the ledger writer on both databases, and the
//! complete pipeline without sockets.
//!
//! `cargo bench --bench parts` (half of the writer's cases need PostgreSQL's server programs)
#![expect(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a failed measurement may panic"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Arbiter, System};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use domain::writer::Checkpoint;
use domain::{Account, AccountId, Batch, Charge, ChargeId, Credits, KeyId, Lease, Outcome, Price};
use futures_util::future::join_all;
use polysystems::actors::{AccountHandle, LedgerWriter};
use polysystems::actors::{ActorThreads, Directory};
use polysystems::app;
use polysystems::clock::Clock;
use polysystems::config::{DatabaseSettings, LedgerSettings, Settings};
use polysystems::pipeline::Gateway;
use polysystems::store::Store;
use polysystems::upstream::{Client, Connector};
use test_support::call::{COST, is_answered, usage};
use test_support::{Database, seed};
use uuid::Uuid;

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BALANCE: Credits = Credits::from_nanos(1_000_000_000_000_000);
/// Number of concurrent calls.
const AT_ONCE: usize = 64;

/// A database with accounts, and the actors that use it.
struct Ground {
    database: Database,
    keys: Vec<String>,
    system: actix::SystemRunner,
    runtime: tokio::runtime::Runtime,
    store: Store,
    lease: Lease,
}

impl Ground {
    fn new(database: Database, accounts: usize) -> Self {
        let keys = seed::accounts(&database, "paid", accounts, BALANCE);
        let runtime = app::database_runtime().unwrap();
        let system = System::new();
        let (store, lease) = system.block_on(async {
            let settings = DatabaseSettings::default();
            let handle = runtime.handle().clone();
            let store = Store::open(&settings, database.url(), handle).await.unwrap();
            let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
            (store, lease)
        });
        Ground { database, keys, system, runtime, store, lease }
    }

    fn accounts(&self) -> Vec<(AccountId, KeyId)> {
        use sea_orm::ConnectionTrait as _;
        self.runtime.block_on(async {
            let connection = self.database.connect().await;
            let backend = connection.get_database_backend();
            let sql = "SELECT account_id, id FROM api_key ORDER BY account_id";
            let statement = sea_orm::Statement::from_string(backend, sql);
            let rows = connection.query_all_raw(statement).await.unwrap();
            let ids = |row: &sea_orm::QueryResult| {
                let key = KeyId(row.try_get_by_index(1).unwrap());
                (AccountId(row.try_get_by_index(0).unwrap()), key)
            };
            rows.iter().map(ids).collect()
        })
    }
}

fn charge(key: KeyId) -> Charge {
    let expires_at = Clock::System.now().plus_micros(60_000_000);
    let id = ChargeId(Uuid::now_v7());
    Charge { id, key, price: Price::Fixed(COST), bill: None, expires_at, is_durable: false }
}

/// A request to an account's actor with its answer, and a complete charge that waits for the
/// commit.
fn actors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("actor");
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    for accounts in [1, 1_000] {
        let ground = Ground::new(Database::sqlite(), accounts);
        let ids = ground.accounts();
        let leases: Vec<AccountHandle> = ground.system.block_on(async {
            let arbiter = Arbiter::new();
            let settings = LedgerSettings::default();
            let ledger =
                LedgerWriter::start(&arbiter, ground.store.clone(), ground.lease, &settings);
            let settings = Settings::default().accounts;
            let (store, clock) = (ground.store.clone(), Clock::System);
            let threads = ActorThreads::default();
            threads.add(arbiter.handle());
            let directory = Directory::new(store, ledger, threads, clock, settings, 10);
            let mut leases = Vec::new();
            for (account, _) in &ids {
                leases.push(directory.owners_lease(*account).await.unwrap());
            }
            leases
        });
        let mut next = 0;
        let mut some = || {
            next += AT_ONCE;
            (next - AT_ONCE..next).map(|number| number % ids.len()).collect::<Vec<_>>()
        };
        group.bench_function(BenchmarkId::new("round trip", accounts), |bencher| {
            bencher.iter(|| {
                let places = some();
                let asks = places.iter().map(|place| leases[*place].quote(charge(ids[*place].1)));
                ground.system.block_on(join_all(asks));
            });
        });
        group.bench_function(BenchmarkId::new("charge on record", accounts), |bencher| {
            bencher.iter(|| {
                let places = some();
                let charges = places.iter().map(|place| async {
                    let lease = &leases[*place];
                    let (account, key) = ids[*place];
                    let order = charge(key);
                    let debit = lease.charge(order).await.unwrap();
                    let outcome = Outcome::Delivered { cost: COST, bill: None };
                    let usage = usage(account, key, order.id, Clock::System.now());
                    lease.settle(order.id, outcome, usage, None).await.unwrap();
                    debit.wait().await.unwrap();
                });
                ground.system.block_on(join_all(charges));
            });
        });
    }
}

/// Accounts that are charged in turn, without actors.
struct Charging {
    ids: Vec<(AccountId, KeyId)>,
    owners: Vec<Account>,
    next: usize,
}

impl Charging {
    fn new(ground: &Ground) -> Self {
        let ids = ground.accounts();
        let owners = ground.system.block_on(async {
            let mut owners = Vec::new();
            for (account, _) in &ids {
                let loaded = ground.store.load_account(*account, ground.lease.epoch).await.unwrap();
                owners.push(Account::load(loaded, Arc::default()));
            }
            owners
        });
        Charging { ids, owners, next: 0 }
    }

    /// The batch of `calls` paid calls.
    fn batch(&mut self, calls: usize) -> Batch {
        let mut writes = Vec::new();
        for _ in 0..calls {
            self.next += 1;
            let place = self.next % self.ids.len();
            let ((account, key), owner) = (self.ids[place], &mut self.owners[place]);
            let (order, now) = (charge(key), Clock::System.now());
            writes.extend(owner.charge(&order, now).unwrap().write);
            let outcome = Outcome::Delivered { cost: COST, bill: None };
            let usage = Some(usage(account, key, order.id, Clock::System.now()));
            writes.extend(owner.settle(order.id, outcome, now, usage, None).unwrap().write);
        }
        Batch::of(writes.iter().map(AsRef::as_ref))
    }
}

/// The name of a database, and how to create one.
type Make = (&'static str, fn() -> Database);

const DATABASES: [Make; 2] =
    [("SQLite", Database::sqlite), ("PostgreSQL", Database::durable_postgres)];

/// One transaction of the ledger writer, with various numbers of calls.
fn writer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("writer");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    for (name, make) in DATABASES {
        let ground = Ground::new(make(), 100);
        let mut charging = Charging::new(&ground);
        for calls in [1, 8, 32, 128, 512] {
            group.throughput(Throughput::Elements(calls as u64));
            group.bench_function(BenchmarkId::new(name, calls), |bencher| {
                bencher.iter_custom(|times| {
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..times {
                        let batch = charging.batch(calls);
                        let begun = Instant::now();
                        let committing = ground.store.commit(&batch, ground.lease);
                        ground.system.block_on(committing).unwrap();
                        elapsed += begun.elapsed();
                    }
                    elapsed
                });
            });
        }
    }
}

/// A checkpoint of the journal: as many calls as a checkpoint has under load, of few and of many
/// accounts.
fn checkpoint(criterion: &mut Criterion) {
    /// Calls in a batch of the journal.
    const BATCH: usize = 32;
    let mut group = criterion.benchmark_group("checkpoint");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    for (name, make) in DATABASES {
        for (accounts, calls) in [(100, 4_096), (10_000, 16_384)] {
            let ground = Ground::new(make(), accounts);
            let mut charging = Charging::new(&ground);
            let mut last = 0;
            group.throughput(Throughput::Elements(calls as u64));
            let case = format!("{name}, {accounts} accounts");
            group.bench_function(BenchmarkId::new(case, calls), |bencher| {
                bencher.iter_custom(|times| {
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..times {
                        let batches: Vec<_> =
                            (0..calls / BATCH).map(|_| Arc::new(charging.batch(BATCH))).collect();
                        let first = last + 1;
                        last += i64::try_from(batches.len()).unwrap();
                        let checkpoint = Checkpoint { first, last, batches, is_urgent: true };
                        let begun = Instant::now();
                        let checkpointing = ground.store.checkpoint(&checkpoint, ground.lease);
                        assert_eq!(ground.system.block_on(checkpointing).unwrap(), []);
                        elapsed += begun.elapsed();
                    }
                    elapsed
                });
            });
        }
    }
}

/// A complete paid call to the sandbox, from arrival until it is on record, and a call whose key
/// has a wrong checksum.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    let ground = Ground::new(Database::sqlite(), 100);
    let (gateway, client): (Arc<Gateway>, _) = ground.system.block_on(async {
        let arbiter = Arbiter::new();
        let mut settings = Settings::default();
        settings.data_dir = ground.database.folder().into();
        settings.rate_limit.enabled = false;
        let ledger =
            LedgerWriter::start(&arbiter, ground.store.clone(), ground.lease, &settings.ledger);
        let (clock, threads) = (Clock::System, ActorThreads::default());
        threads.add_this();
        let store = &ground.store;
        let prices = app::publish_prices(&settings, &clock, store).await.unwrap();
        let gateway = app::gateway(&settings, &clock, store, &ledger, &threads, &prices).unwrap();
        (gateway, Client::new(Connector::new(&settings.upstreams).unwrap()))
    });
    let mut next = 0;
    for (name, is_valid) in [("paid call", true), ("bad checksum", false)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let calls = (0..AT_ONCE).map(|_| {
                    next += 1;
                    let mut key = ground.keys[next % ground.keys.len()].clone();
                    if !is_valid {
                        key.pop();
                        key.push('-');
                    }
                    is_answered(Arc::clone(&gateway), client.clone(), key)
                });
                let served = ground.system.block_on(join_all(calls));
                assert!(served.iter().all(|is_answered| *is_answered == is_valid));
            });
        });
    }
}

criterion_group!(benches, actors, writer, checkpoint, whole);
criterion_main!(benches);
