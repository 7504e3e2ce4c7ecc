//! Reports for account holders with millions of calls on record: monitoring, transactions, and an
//! export in bounded memory, over HTTP from the real server.
//!
//! `cargo bench --bench monitoring -- --help`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::too_many_lines,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    reason = "a failed measurement may panic"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{
    AccountId, Batch, ChargeId, Credits, Ending, EntryKind, KeyId, KeySpend, LedgerEntry, Link,
    Tally, Timestamp, UsageRecord,
};
use polysystems::clock::Clock;
use polysystems::config::DatabaseSettings;
use polysystems::store::Store;
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::Value;
use test_support::Database;
use test_support::bench::Server;
use uuid::{Builder, Uuid};

const HELP: &str = "\
Fills a database with the calls of one account over 30 days, and measures the requests of its holder's reports.

    cargo bench --bench monitoring -- [OPTIONS]

Options:
    --rows N          calls, and ledger entries (1000000)
    --requests N      requests of each kind (200)
    --database KIND   sqlite or postgres (both)";

const KEYS: usize = 10;
const ROUTES: [&str; 5] = [
    "/v1/chat/completions",
    "/api/hub/agents/chat",
    "/api/hub/rag/index",
    "/api/omm/generate",
    "/v1/embeddings",
];
const MODELS: [&str; 3] = ["gpt-4o", "o3", ""];
const BATCH: usize = 20_000;
const COST: i64 = 2_000;
const MONTH_MICROS: i64 = 30 * 86_400 * 1_000_000;

fn main() {
    let (mut rows, mut requests, mut kind) = (1_000_000_usize, 200_usize, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("an option needs a value");
        match argument.as_str() {
            "--rows" => rows = value().parse().expect("a number"),
            "--requests" => requests = value().parse().expect("a number"),
            "--database" => kind = Some(value()),
            "--help" | "-h" => return println!("{HELP}"),
            "--bench" => {}
            other => panic!("{other} is not known; --help tells"),
        }
    }
    let kinds = [
        ("sqlite", Database::sqlite as fn() -> Database),
        ("postgres", Database::durable_postgres),
    ];
    for (name, make) in kinds {
        if kind.as_ref().is_none_or(|kind| kind == name) {
            measure(name, &make(), rows, requests);
        }
    }
}

fn measure(name: &str, database: &Database, rows: usize, requests: usize) {
    let token = {
        let server = Server::start(database, &[]);
        let token = server.session(1);
        for _ in 0..KEYS {
            server.account(1);
        }
        token
    };
    let begun = Instant::now();
    let key = support_run(fill(database, rows));
    println!("{name}: {rows} calls of 30 days, written in {:.0} s", begun.elapsed().as_secs_f64());
    let server = Server::start(database, &[]);
    let day = "from=".to_owned() + &ago(24 * 3_600);
    let asked = [
        ("30 days by day", "/api/monitoring/usage?interval=day".to_owned()),
        ("30 days by day and key", "/api/monitoring/usage?interval=day&group_by=key".into()),
        (
            "30 days by day and endpoint",
            "/api/monitoring/usage?interval=day&group_by=endpoint".into(),
        ),
        ("24 hours by hour", "/api/monitoring/usage?interval=hour".into()),
        ("24 hours by hour and model", "/api/monitoring/usage?interval=hour&group_by=model".into()),
        (
            "31 days by hour",
            format!("/api/monitoring/usage?interval=hour&from={}", ago(30 * 86_400)),
        ),
        ("forecast", "/api/monitoring/forecast".into()),
        ("limits", "/api/monitoring/limits".into()),
        ("recent requests", "/api/monitoring/requests".into()),
        ("recent requests of a key", format!("/api/monitoring/requests?key_id={key}&status=200")),
        ("recent requests, none found", "/api/monitoring/requests?model=none".into()),
        ("transactions", "/api/payments/transactions".into()),
        ("top-ups among them", "/api/payments/transactions?kind=top_up".into()),
        ("of a key", format!("/api/payments/transactions?key_id={key}")),
        ("of an endpoint", "/api/payments/transactions?endpoint=/v1/embeddings".into()),
        ("of none, the first page", "/api/payments/transactions?endpoint=/none".into()),
        ("of a day", format!("/api/payments/transactions?{day}")),
        ("balance", "/api/payments/credits/balance".into()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (what, path) in asked {
        let (p50, p99) = runtime.block_on(times(&server, &token, &path, requests));
        println!("  {what:<34}{:>9.1} ms p50{:>9.1} ms p99", millis(p50), millis(p99));
    }
    let before = resident(server.id());
    let begun = Instant::now();
    let (bytes, most) = runtime.block_on(export(&server, &token));
    println!(
        "  export of all of it: {:.0} MB in {:.1} s; resident {before} MiB before, {most} MiB at most",
        bytes as f64 / 1e6,
        begun.elapsed().as_secs_f64()
    );
}

fn support_run<T>(work: impl Future<Output = T>) -> T {
    polysystems::app::database_runtime().unwrap().block_on(work)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ago(seconds: i64) -> String {
    Clock::System.now().plus_micros(-seconds * 1_000_000).to_rfc3339()
}

async fn times(server: &Server, token: &str, path: &str, requests: usize) -> (Duration, Duration) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut times = Vec::new();
    for _ in 0..requests {
        let begun = Instant::now();
        let answer = client.get(format!("{}{path}", server.url)).bearer_auth(token).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let _: Value = answer.json().await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    (times[requests / 2], times[requests * 99 / 100])
}

async fn export(server: &Server, token: &str) -> (usize, u64) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/api/payments/transactions/export", server.url);
    let mut answer = client.get(url).bearer_auth(token).send().await.unwrap();
    let (mut bytes, mut most, mut looked) = (0, 0, Instant::now());
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes += chunk.len();
        if looked.elapsed() > Duration::from_millis(200) {
            most = most.max(resident(server.id()));
            looked = Instant::now();
        }
    }
    (bytes, most.max(resident(server.id())))
}

/// Resident memory of a process, in MiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

/// Writes what the server would have written if the account had made all these calls. Returns the
/// id of one of its keys.
async fn fill(database: &Database, rows: usize) -> KeyId {
    let runtime = tokio::runtime::Handle::current();
    let store = Store::open(&DatabaseSettings::default(), database.url(), runtime).await.unwrap();
    let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
    let connection = database.connect().await;
    let backend = connection.get_database_backend();
    let query = async |sql: &str| {
        connection.query_all_raw(Statement::from_string(backend, sql)).await.unwrap()
    };
    let row = query("SELECT id, seq, balance, link FROM account WHERE environment = 1").await;
    let account = AccountId(row[0].try_get_by_index(0).unwrap());
    let mut seq: i64 = row[0].try_get_by_index(1).unwrap();
    let mut balance: i64 = row[0].try_get_by_index(2).unwrap();
    let mut link = Link::from_slice(&row[0].try_get_by_index::<Vec<u8>>(3).unwrap()).unwrap();
    let keys: Vec<KeyId> = query("SELECT id FROM api_key ORDER BY id")
        .await
        .iter()
        .map(|row| KeyId(row.try_get_by_index(0).unwrap()))
        .collect();
    let (routes, models) = (ROUTES.map(Arc::<str>::from), MODELS.map(Arc::<str>::from));
    let (method, upstream): (Arc<str>, Arc<str>) = ("POST".into(), "sandbox".into());
    let now = Clock::System.now().micros();
    let mut made = 0;
    while made < rows {
        let mut batch = Batch::default();
        for number in made..rows.min(made + BATCH) {
            let at = now - MONTH_MICROS + (MONTH_MICROS / rows as i64) * number as i64;
            let at = Timestamp::from_micros(at);
            // Pseudo-random, but the same in each run.
            let dice = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            let key = keys[dice % keys.len()];
            let id = Builder::from_unix_timestamp_millis(
                (at.micros() / 1_000) as u64,
                &(dice as u128 * 0x0123_4567_89AB_CDEF + number as u128).to_le_bytes()[..10]
                    .try_into()
                    .unwrap(),
            );
            let id = id.into_uuid();
            seq += 1;
            balance -= COST;
            let entry = LedgerEntry {
                account,
                seq,
                epoch: lease.epoch,
                kind: EntryKind::Charge,
                amount: Credits::from_nanos(-COST),
                balance_after: Credits::from_nanos(balance),
                reference: id,
                key: Some(key),
                day: at.day(),
                month: at.day().month(),
                at,
                bill: None,
                link,
            };
            let entry = entry.after(link);
            link = entry.link;
            batch.entries.push(entry);
            batch.usage.push(UsageRecord {
                id: ChargeId(id),
                account,
                seq: Some(seq),
                key,
                method: Arc::clone(&method),
                route: Arc::clone(&routes[dice / 16 % ROUTES.len()]),
                model: Arc::clone(&models[dice / 128 % MODELS.len()]),
                upstream: Arc::clone(&upstream),
                status: if dice % 50 == 0 { 502 } else { 200 },
                cost: Credits::from_nanos(COST),
                prompt_tokens: 10,
                completion_tokens: 10,
                ending: Ending::Completed,
                tally: Tally::Reported,
                started_at: at,
                latency_micros: 1_000 + (dice % 1_000_000) as i64,
            });
        }
        for key in &keys {
            let mut of_key = batch.entries.iter().filter(|entry| entry.key == Some(*key));
            let Some(last) = of_key.next_back() else { continue };
            // Exact counters are not needed for lists; nothing is charged here.
            let spend = KeySpend {
                key: *key,
                day: last.day,
                day_spent: Credits::ZERO,
                month: last.month,
                month_spent: Credits::ZERO,
                last_used_at: Some(last.at),
            };
            batch.spends.insert(*key, spend);
        }
        store.commit(&batch, lease).await.unwrap();
        made += BATCH;
    }
    if database.is_postgres() {
        connection.execute_unprepared("VACUUM ANALYZE").await.unwrap();
    }
    connection.close().await.unwrap();
    store.release_lease(lease).await.unwrap();
    store.close().await;
    keys[0]
}
