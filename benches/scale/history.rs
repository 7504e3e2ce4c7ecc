//! Accounts with histories, written as the server would have written them.

use std::fmt::Write as _;

use domain::api_key::{ApiKey, Pepper, RANDOM_LEN};
use domain::{
    AccountId, Batch, ChargeId, Credits, Ending, EntryKind, Environment, KeyId, KeySpend,
    LedgerEntry, Link, Tally, UsageRecord,
};
use polysystems::clock::Clock;
use polysystems::config::DatabaseSettings;
use polysystems::store::Store;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use uuid::Uuid;

use test_support::Database;

const PEPPER: &str = "0123456789abcdef0123456789abcdef";
/// Users or keys in one statement.
const PIECE: usize = 2_000;
/// Ledger rows in one transaction.
const ROWS: usize = 20_000;
const BALANCE: Credits = Credits::from_nanos(1_000_000_000_000_000);
const COST: i64 = 2_000_000;

/// Creates `count` accounts, each with a key, a balance, and its share of `rows` ledger rows.
/// Returns the keys.
pub(crate) fn write(database: &Database, count: usize, rows: usize) -> Vec<String> {
    std::fs::write(database.folder().join("key_pepper"), PEPPER).unwrap();
    let pepper = Pepper::new(PEPPER.as_bytes()).unwrap();
    let runtime = polysystems::app::database_runtime().unwrap();
    runtime.block_on(async {
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, database.url(), runtime.handle().clone()).await.unwrap();
        let connection = database.connect().await;
        let accounts = users(&connection, count).await;
        let keys: Vec<(KeyId, ApiKey)> = (0..count).map(key).collect();
        for (accounts, keys) in accounts.chunks(PIECE).zip(keys.chunks(PIECE)) {
            write_keys(&connection, accounts, keys, &pepper).await;
        }
        let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
        let each = (rows / count).max(1);
        let at_once = (ROWS / each).max(1);
        for (accounts, keys) in accounts.chunks(at_once).zip(keys.chunks(at_once)) {
            let mut batch = Batch::default();
            for (account, (key, _)) in accounts.iter().zip(keys) {
                add_history(&mut batch, *account, *key, each, lease.epoch);
            }
            store.commit(&batch, lease).await.unwrap();
        }
        if database.is_postgres() {
            connection.execute_unprepared("VACUUM ANALYZE").await.unwrap();
        }
        connection.close().await.unwrap();
        store.release_lease(lease).await.unwrap();
        store.close().await;
        keys.into_iter().map(|(_, key)| key.expose().to_owned()).collect()
    })
}

fn key(number: usize) -> (KeyId, ApiKey) {
    let mut random = StdRng::seed_from_u64(number as u64);
    let symbols = [(); RANDOM_LEN].map(|()| random.random_range(0..62));
    let id = KeyId(Uuid::from_u128(random.random()));
    (id, ApiKey::from_symbols(Environment::Live, symbols))
}

async fn users(connection: &DatabaseConnection, count: usize) -> Vec<AccountId> {
    let (id, none) = if connection.get_database_backend() == sea_orm::DbBackend::Postgres {
        ("gen_random_uuid()", "FALSE")
    } else {
        ("randomblob(16)", "0")
    };
    let mut first = 1;
    while first <= count {
        let last = count.min(first + 99_999);
        let series = format!(
            "WITH RECURSIVE s(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM s WHERE n < {last})"
        );
        let users = format!(
            "{series} INSERT INTO users (id, email, email_folded, username, username_folded,
                password_hash, role, is_email_verified, token_version, created_at)
            SELECT {id}, n || '@example.com', n || '@example.com', 'user' || n, 'user' || n, '', 1,
                {none}, 0, {first} FROM s"
        );
        connection.execute_unprepared(&users).await.unwrap();
        first = last + 1;
    }
    let accounts =
        "INSERT INTO account (user_id, environment, status, balance, seq, updated_at, created_at)
        SELECT id, kind.n, 1, 0, 0, 0, 0 FROM users, (SELECT 1 AS n UNION ALL SELECT 2) AS kind";
    connection.execute_unprepared(accounts).await.unwrap();
    let backend = connection.get_database_backend();
    let mut found: Vec<AccountId> = Vec::with_capacity(count);
    loop {
        let after = found.last().map_or(0, |account| account.0);
        let sql =
            "SELECT id FROM account WHERE id > $1 AND environment = 1 ORDER BY id LIMIT 100000";
        let page = Statement::from_sql_and_values(backend, sql, [after.into()]);
        let rows = connection.query_all_raw(page).await.unwrap();
        if rows.is_empty() {
            return found;
        }
        found.extend(rows.iter().map(|row| AccountId(row.try_get_by_index(0).unwrap())));
    }
}

async fn write_keys(
    connection: &DatabaseConnection,
    accounts: &[AccountId],
    keys: &[(KeyId, ApiKey)],
    pepper: &Pepper,
) {
    let is_postgres = connection.get_database_backend() == sea_orm::DbBackend::Postgres;
    let mut sql = "INSERT INTO api_key (id, account_id, name, digest, preview, is_revoked, is_deleted, created_at)
        VALUES "
        .to_owned();
    for (place, (account, (id, key))) in accounts.iter().zip(keys).enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let digest = key.digest(pepper).0.map(|byte| format!("{byte:02x}")).concat();
        let preview = key.preview();
        let id = id.0.simple();
        let _ = if is_postgres {
            write!(sql, "{comma}('{id}',{account},'scale','\\x{digest}','{preview}',FALSE,FALSE,0)")
        } else {
            write!(sql, "{comma}(x'{id}',{account},'scale',x'{digest}','{preview}',0,0,0)")
        };
    }
    connection.execute_unprepared(&sql).await.unwrap();
}

/// Adds a grant and then calls, up to this number of entries.
fn add_history(batch: &mut Batch, account: AccountId, key: KeyId, entries: usize, epoch: i64) {
    let at = Clock::System.now();
    let (day, month) = (at.day(), at.day().month());
    let mut balance = Credits::ZERO;
    let (mut link, mut spent) = (Link::START, Credits::ZERO);
    for number in 1..=entries {
        let is_grant = number == 1;
        let amount = if is_grant { BALANCE } else { Credits::from_nanos(-COST) };
        balance = balance.checked_add(amount).unwrap();
        let seq = number as i64;
        let entry = LedgerEntry {
            account,
            seq,
            epoch,
            kind: if is_grant { EntryKind::Grant } else { EntryKind::Capture },
            amount,
            balance_after: balance,
            reference: Uuid::now_v7(),
            key: (!is_grant).then_some(key),
            day,
            month,
            at,
            bill: None,
            link,
        }
        .after(link);
        link = entry.link;
        batch.entries.push(entry);
        if is_grant {
            continue;
        }
        spent = spent.checked_add(Credits::from_nanos(COST)).unwrap();
        batch.usage.push(UsageRecord {
            id: ChargeId(entry.reference),
            account,
            seq: Some(seq),
            key,
            method: "POST".into(),
            route: "/api/hub/agents/chat".into(),
            model: "".into(),
            upstream: "sandbox".into(),
            status: 200,
            cost: Credits::from_nanos(COST),
            prompt_tokens: 10,
            completion_tokens: 10,
            ending: Ending::Completed,
            tally: Tally::Reported,
            started_at: at,
            latency_micros: 1_000,
        });
    }
    if spent > Credits::ZERO {
        let spend = KeySpend {
            key,
            day,
            day_spent: spent,
            month,
            month_spent: spent,
            last_used_at: Some(at),
        };
        batch.spends.insert(key, spend);
    }
}
