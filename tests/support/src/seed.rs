//! Writes accounts to the database before the server starts. It uses the library's own actors, so
//! every ledger is one that the server could have written.

use std::sync::Arc;

use actix::{Arbiter, System};
use domain::api_key::{ApiKey, Pepper, RANDOM_LEN};
use domain::limits::SpendingLimits;
use domain::{
    AccountId, Credits, Environment, KeyId, LedgerEntry, NewKey, NewPayment, PaymentId, UsageRecord,
};
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

/// Rows that one statement inserts.
const ROWS: usize = 500;

/// How a database writes values.
#[derive(Clone, Copy)]
struct Literals {
    is_postgres: bool,
}

impl Literals {
    fn bytes(self, bytes: &[u8]) -> String {
        let hex = crate::hex(bytes);
        if self.is_postgres { format!("'\\x{hex}'::bytea") } else { format!("X'{hex}'") }
    }

    fn id(self, id: Uuid) -> String {
        if self.is_postgres { format!("'{id}'") } else { self.bytes(id.as_bytes()) }
    }

    fn entry(self, entry: &LedgerEntry) -> String {
        format!(
            "({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})",
            entry.account.0,
            entry.seq,
            entry.epoch,
            entry.kind.code(),
            entry.amount.nanos(),
            entry.balance_after.nanos(),
            self.id(entry.reference),
            entry.day.0,
            entry.month.0,
            entry.at.micros(),
            self.bytes(&entry.link.0),
        )
    }

    fn payment(self, payment: &NewPayment) -> String {
        let (amount, at) = (payment.amount.nanos(), payment.at.micros());
        let (id, account) = (self.id(payment.id.0), payment.account.0);
        format!("({id}, {account}, '{}', 3, {amount}, {at}, {at})", payment.provider)
    }

    fn call(self, call: &UsageRecord) -> String {
        format!(
            "({}, {}, {}, {}, '{}', '{}', '{}', {}, {}, {}, {}, {}, {}, '{}')",
            self.id(call.id.0),
            call.account.0,
            call.seq.map_or("NULL".to_owned(), |seq| seq.to_string()),
            self.id(call.key.0),
            call.method,
            call.route,
            call.upstream,
            call.status,
            call.cost.nanos(),
            call.prompt_tokens,
            call.completion_tokens,
            call.started_at.micros(),
            call.latency_micros,
            call.model,
        )
    }
}

/// Inserts rows as they are. The server must not have any of their accounts in memory. The balance
/// and the last entry of each account are what its entries come to.
pub async fn rows(
    database: &Database,
    entries: &[LedgerEntry],
    payments: &[NewPayment],
    usage: &[UsageRecord],
) {
    let literals = Literals { is_postgres: database.is_postgres() };
    let tables: [(&str, Vec<String>); 3] = [
        (
            "payment (id, account_id, provider, status, amount, created_at, confirmed_at)",
            payments.iter().map(|payment| literals.payment(payment)).collect(),
        ),
        (
            "ledger_entry (account_id, seq, epoch, kind, amount, balance_after, reference, day, month,
                at, link)",
            entries.iter().map(|entry| literals.entry(entry)).collect(),
        ),
        (
            "usage_record (id, account_id, seq, key_id, method, route, upstream, status, cost,
                prompt_tokens, completion_tokens, started_at, latency_micros, model)",
            usage.iter().map(|call| literals.call(call)).collect(),
        ),
    ];
    for (table, rows) in &tables {
        for rows in rows.chunks(ROWS) {
            let sql = format!("INSERT INTO {table} VALUES {}", rows.join(", "));
            database.execute(&sql).await.unwrap();
        }
    }
    let last: std::collections::BTreeMap<i64, &LedgerEntry> =
        entries.iter().map(|entry| (entry.account.0, entry)).collect();
    for (account, entry) in last {
        let LedgerEntry { balance_after, seq, at, link, .. } = entry;
        let sql = format!(
            "UPDATE account SET balance = {}, seq = {seq}, updated_at = {}, link = {} WHERE id = {account}",
            balance_after.nanos(),
            at.micros(),
            literals.bytes(&link.0),
        );
        database.execute(&sql).await.unwrap();
    }
}

/// Inserts users with their two accounts. Returns the ids of the live ones.
pub async fn users(database: &Database, name: &str, count: usize) -> Vec<AccountId> {
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
