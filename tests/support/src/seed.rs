//! Writes accounts to the database before the server starts. It uses the library's own actors, so
//! every ledger is one that the server could have written.

use std::sync::Arc;

use actix::{Arbiter, System};
use domain::api_key::{ApiKey, Pepper, RANDOM_LEN};
use domain::limits::SpendingLimits;
use domain::{AccountId, Credits, Environment, KeyId, NewKey, NewPayment, PaymentId};
use futures_util::StreamExt as _;
use polysystems::actors::LedgerWriter;
use polysystems::actors::{ActorThreads, Directory};
use polysystems::clock::Clock;
use polysystems::config::{DatabaseSettings, LedgerSettings, Settings};
use polysystems::store::Store;
use rand::RngExt as _;
use uuid::Uuid;

use crate::Database;

const PEPPER: &str = "0123456789abcdef0123456789abcdef";
/// Accounts that are written at the same time.
const AT_ONCE: usize = 512;

/// Creates `count` users named after `name`. Their live accounts have `balance` and a key. Returns
/// the keys.
pub fn accounts(database: &Database, name: &str, count: usize, balance: Credits) -> Vec<String> {
    // The server finds this pepper in its folder.
    std::fs::write(database.folder().join("key_pepper"), PEPPER).unwrap();
    let pepper = Arc::new(Pepper::new(PEPPER.as_bytes()).unwrap());
    let runtime = polysystems::app::database_runtime().unwrap();
    System::new().block_on(async {
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, database.url(), runtime.handle().clone()).await.unwrap();
        let ids = users(database, name, count).await;
        let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
        let arbiter = Arbiter::new();
        let ledger =
            LedgerWriter::start(&arbiter, store.clone(), lease, &LedgerSettings::default());
        let threads = ActorThreads::default();
        threads.add(arbiter.handle());
        let directory = Arc::new(Directory::new(
            store.clone(),
            ledger,
            threads,
            Clock::System,
            Settings::default().accounts,
            10,
        ));
        let keys = futures_util::stream::iter(ids)
            .map(|account| key(&directory, account, balance, Arc::clone(&pepper)))
            .buffered(AT_ONCE)
            .collect()
            .await;
        store.release_lease(lease).await.unwrap();
        store.close().await;
        keys
    })
}

/// Inserts users with their two accounts. Returns the ids of the live ones.
async fn users(database: &Database, name: &str, count: usize) -> Vec<AccountId> {
    use sea_orm::ConnectionTrait as _;
    let connection = database.connect().await;
    let (series, id, none) = if database.is_postgres() {
        (format!("SELECT generate_series(1, {count}) AS n"), "gen_random_uuid()", "FALSE")
    } else {
        let series = format!(
            "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s"
        );
        (series, "randomblob(16)", "0")
    };
    for sql in [
        format!(
            "INSERT INTO users (id, email, email_folded, username, username_folded, username_skeleton, password_hash, role,
                is_email_verified, token_version, created_at)
            SELECT {id}, '{name}' || n || '@example.com', '{name}' || n || '@example.com', '{name}' || n,
                '{name}' || n, '{name}' || n, 'seeded {name}', 1, {none}, 0, 0 FROM ({series}) AS series"
        ),
        format!(
            "INSERT INTO account (user_id, environment, status, balance, seq, updated_at, created_at)
            SELECT id, kind.n, 1, 0, 0, 0, 0 FROM users, (SELECT 1 AS n UNION ALL SELECT 2) AS kind
            WHERE password_hash = 'seeded {name}'"
        ),
    ] {
        connection.execute_unprepared(&sql).await.unwrap();
    }
    let sql = format!(
        "SELECT account.id FROM account JOIN users ON users.id = account.user_id
        WHERE environment = 1 AND password_hash = 'seeded {name}' ORDER BY account.id"
    );
    let backend = connection.get_database_backend();
    let statement = sea_orm::Statement::from_string(backend, sql);
    let rows = connection.query_all_raw(statement).await.unwrap();
    connection.close().await.unwrap();
    rows.iter().map(|row| AccountId(row.try_get_by_index(0).unwrap())).collect()
}

async fn key(
    directory: &Directory,
    account: AccountId,
    balance: Credits,
    pepper: Arc<Pepper>,
) -> String {
    let mut random = rand::rng();
    let symbols = [(); RANDOM_LEN].map(|()| random.random_range(0..62));
    let key = ApiKey::from_symbols(Environment::Live, symbols);
    let lease = directory.owners_lease(account).await.unwrap();
    let at = Clock::System.now();
    if balance > Credits::ZERO {
        let id = PaymentId(Uuid::now_v7());
        let payment = NewPayment { id, account, provider: "sandbox", amount: balance, at };
        lease.top_up(payment, None, None).await.unwrap().wait().await.unwrap();
    }
    let new = NewKey {
        id: KeyId(Uuid::new_v4()),
        account,
        name: "load".into(),
        digest: key.digest(&pepper).0,
        preview: key.preview(),
        created_at: at,
        expires_at: None,
        limits: SpendingLimits::default(),
    };
    lease.add_key(new, None, None).await.unwrap().wait().await.unwrap();
    key.expose().to_owned()
}
