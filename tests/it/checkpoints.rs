//! Checkpoints of more accounts, keys and calls than one statement takes, without the server around
//! them.

use std::sync::Arc;

use domain::writer::Checkpoint;
use domain::{
    Account, AccountId, Batch, Charge, ChargeId, Credits, KeyId, KeyState, LoadedAccount, Outcome,
    Price,
};
use polysystems::clock::Clock;
use polysystems::config::DatabaseSettings;
use polysystems::store::Store;
use polysystems::verify::{Audience, Finding, Report, verify};
use sea_orm::{ConnectionTrait as _, Statement};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::support::call::{COST, usage};
use crate::support::{Database, on_both, seed};

on_both!(a_checkpoint_of_many_accounts_is_whole);

const BALANCE: Credits = Credits::from_nanos(1_000_000_000);
/// Neither these nor their calls are a multiple of what a statement takes.
const ACCOUNTS: usize = 601;

/// Who has no findings to hear of.
struct Nobody;

impl Audience for Nobody {
    fn find(&mut self, finding: &Finding) -> anyhow::Result<()> {
        anyhow::bail!("{finding}")
    }

    fn progress(&mut self, _: &Report, _: u64) {}
}

/// An account as the server holds it, and its key.
struct Customer {
    account: AccountId,
    key: KeyId,
    owner: Account,
}

impl Customer {
    /// What a call leaves.
    fn call(&mut self) -> Batch {
        let (id, now) = (ChargeId(Uuid::now_v7()), Clock::System.now());
        let (price, expires_at) = (Price::Fixed(COST), now.plus_micros(60_000_000));
        let order = Charge { id, key: self.key, price, bill: None, expires_at, is_durable: false };
        let charged = self.owner.charge(&order, now).unwrap().write;
        let usage = usage(self.account, self.key, id, now);
        let outcome = Outcome::Delivered { cost: COST, bill: None };
        let settled = self.owner.settle(id, outcome, now, Some(usage), None).unwrap().write;
        Batch::of(charged.iter().chain(&settled).map(AsRef::as_ref))
    }
}

/// Whose key is whose.
async fn keys(database: &Database) -> Vec<(AccountId, KeyId)> {
    let connection = database.connect().await;
    let sql = "SELECT account_id, id FROM api_key ORDER BY account_id";
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let rows = connection.query_all_raw(statement).await.unwrap();
    connection.close().await.unwrap();
    let ids = |row: &sea_orm::QueryResult| {
        (AccountId(row.try_get_by_index(0).unwrap()), KeyId(row.try_get_by_index(1).unwrap()))
    };
    rows.iter().map(ids).collect()
}

/// Of one account.
const CALLS_MAX: usize = 4;

/// How many times the `place`th account calls.
fn calls_of(place: usize) -> usize {
    1 + place % CALLS_MAX
}

async fn a_checkpoint_of_many_accounts_is_whole(database: Database) {
    // It has a runtime of its own.
    let seeding = move || {
        seed::accounts(&database, "many", ACCOUNTS, BALANCE);
        database
    };
    let database = tokio::task::spawn_blocking(seeding).await.unwrap();
    let settings = DatabaseSettings::default();
    let store = Store::open(&settings, database.url(), Handle::current()).await.unwrap();
    let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
    let mut customers = Vec::new();
    for (account, key) in keys(&database).await {
        let loaded = store.load_account(account, lease.epoch).await.unwrap();
        let owner = Account::load(loaded, Arc::default());
        customers.push(Customer { account, key, owner });
    }
    assert_eq!(customers.len(), ACCOUNTS);

    // Each account once, then those that call twice, and so on: each account's calls lie far from
    // each other.
    let mut batches = Vec::new();
    for turn in 0..CALLS_MAX {
        let calling = customers.iter_mut().enumerate();
        let calling = calling.filter(|(place, _)| turn < calls_of(*place));
        batches.extend(calling.map(|(_, customer)| Arc::new(customer.call())));
    }
    let calls = batches.len();
    // Pauses are made between pieces where nothing waits for the checkpoint.
    let late = batches.split_off(calls / 2);
    for (number, batches, is_urgent) in [(1, batches, false), (2, late, true)] {
        let checkpoint = Checkpoint { first: number, last: number, batches, is_urgent };
        assert_eq!(store.checkpoint(&checkpoint, lease).await.unwrap(), []);
    }

    let report = verify(&store, &mut Nobody).await.unwrap();
    assert_eq!(report.usage, u64::try_from(calls).unwrap());
    // And the payment of each.
    assert_eq!(report.entries, u64::try_from(calls + ACCOUNTS).unwrap());
    // Balance, link and the counters of each key.
    for Customer { account, owner, .. } in &customers {
        let LoadedAccount { stored, keys, .. } =
            store.load_account(*account, lease.epoch).await.unwrap();
        let spends = |keys: &[KeyState]| keys.iter().map(KeyState::spend).collect::<Vec<_>>();
        assert_eq!(stored, owner.stored());
        assert_eq!(spends(&keys), spends(owner.keys()));
    }
    store.release_lease(lease).await.unwrap();
    store.close().await;
    assert_eq!(database.sums_agree().await, 0, "calls without a record");
}
