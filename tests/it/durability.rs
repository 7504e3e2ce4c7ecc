//! What was acknowledged stays: kill -9, a second process on the same database, and a stop in good
//! order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::process::{
    Customer, Process, Seen, command, finished, load, reconcile, verify,
};
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Server};

/// As `on_both!`, with a PostgreSQL that syncs every commit.
macro_rules! on_both_durable {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { crate::support::run(super::$name(super::Database::sqlite())); })*
        }
        mod postgres {
            $(#[test] fn $name() { crate::support::run(super::$name(super::Database::durable_postgres())); })*
        }
    };
}

on_both_durable!(
    a_kill_loses_and_doubles_nothing,
    a_second_process_takes_over_and_the_first_acknowledges_nothing_more,
    a_stop_in_good_order_answers_everyone,
    a_crash_in_a_stream_charges_what_was_written_down,
    a_stream_that_is_taken_over_is_charged_what_was_written_down,
    who_cannot_be_brought_to_an_end_is_quarantined,
);

#[test]
fn a_missing_journal_is_noticed() {
    crate::support::run(the_journal_is_gone(Database::sqlite()));
}

#[test]
fn a_backup_of_a_server_that_runs_has_all_that_was_acknowledged() {
    crate::support::run(backed_up(Database::sqlite()));
}

#[test]
fn a_database_that_cut_its_connections_is_read_from_at_once() {
    crate::support::run(cut_off(Database::postgres()));
}

const ROUNDS: usize = 5;
const TASKS: usize = 16;

async fn customers(process: &Process) -> Vec<Customer> {
    let mut customers = Vec::new();
    for name in ["one", "two", "three"] {
        customers.push(process.customer(name, 10_000).await);
    }
    customers
}

async fn wait_for(seen: &Seen, calls: usize) {
    while seen.count() < calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn cut_off(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for _ in 0..3 {
        // So many that each connection is asked for.
        join_all((0..64).map(|_| user.get("/api/keys").expect(200))).await;
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database.execute(cut).await.unwrap();
        // Longer than a connection that was just used is trusted.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    join_all((0..64).map(|_| user.get("/api/keys").expect(200))).await;
}

async fn the_journal_is_gone(database: Database) {
    let journal = database.journal();
    let mut process = Process::start(&database).await;
    assert_eq!(process.terminate(), Some(0));
    // Nothing can be in it after a stop in good order.
    let gone = || std::fs::remove_file(&journal).unwrap();
    gone();
    let mut process = Process::start(&database).await;
    process.kill();
    gone();
    let (code, _, error) = finished(command(&database).arg("serve"));
    assert_eq!(code, Some(78), "{error}");
    assert!(error.contains("test.journal.log is missing"), "{error}");
    assert!(error.contains("put an empty file in its place"), "{error}");
    std::fs::write(&journal, "").unwrap();
    drop(Process::start(&database).await);
    verify(&database);
}

async fn backed_up(database: Database) {
    let process = Process::start(&database).await;
    let customers = customers(&process).await;
    let seen = Arc::new(Seen::default());
    let tasks = load(&process.url, &customers, TASKS, &seen);
    for round in 1..=3 {
        wait_for(&seen, round * 200).await;
        let copy = Database::sqlite();
        let acknowledged = seen.count();
        let folder = copy.folder().join("copy");
        let (code, out, error) = finished(command(&database).arg("backup").arg(&folder));
        assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
        for name in ["test.db", "test.journal.log"] {
            std::fs::rename(folder.join(name), copy.folder().join(name)).unwrap();
        }
        let restored = Process::start(&copy).await;
        verify(&copy);
        let charges = "SELECT CAST(COUNT(*) AS TEXT) FROM ledger_entry WHERE kind IN (2, 3)";
        let charges: usize = copy.query(charges).await.parse().unwrap();
        assert!(charges >= acknowledged, "{charges} of {acknowledged}");
        drop(restored);
    }
    seen.stop();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn a_kill_loses_and_doubles_nothing(database: Database) {
    let mut process = Process::start(&database).await;
    let customers = customers(&process).await;
    let seen = Arc::new(Seen::default());
    for round in 1..=ROUNDS {
        let tasks = load(&process.url, &customers, TASKS, &seen);
        wait_for(&seen, round * 200).await;
        process.kill();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(seen.refused.load(Ordering::SeqCst), 0);
        verify(&database);
        process = Process::start(&database).await;
        reconcile(&process, &customers, &seen).await;
    }
    // The counters of limits are right as well: verify holds them against the ledger, and they
    // still count.
    let keys = process.call("GET", "/api/keys", &customers[0].token, &Value::Null).await.1;
    let path = format!("/api/keys/{}/limits", keys[0]["id"].as_str().unwrap());
    let limits = process.call("GET", &path, &customers[0].token, &Value::Null).await.1;
    let balance = process
        .call("GET", "/api/payments/credits/balance", &customers[0].token, &Value::Null)
        .await
        .1;
    let spent = 10_000_000_000_000 - crate::support::nanos(&balance["balance"]);
    assert!(spent > 0);
    assert_eq!(crate::support::nanos(&limits["monthly"]["spent"]), spent);
}

async fn a_second_process_takes_over_and_the_first_acknowledges_nothing_more(database: Database) {
    let mut older = Process::start(&database).await;
    let customers = customers(&older).await;
    let (old_seen, new_seen) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let old_tasks = load(&older.url, &customers, TASKS, &old_seen);
    wait_for(&old_seen, 200).await;

    let newer = Process::start(&database).await;
    // Whatever the older one answers 200 now was committed before the takeover; calls made from
    // here on must not be.
    let after = Arc::new(Seen::default());
    let late_tasks = load(&older.url, &customers, TASKS, &after);
    let new_tasks = load(&newer.url, &customers, TASKS, &new_seen);
    wait_for(&new_seen, 300).await;
    // It ends by itself, with a code that a supervisor does not start it again for.
    assert_eq!(older.wait().await, Some(75));
    assert_eq!(after.count(), 0, "the older process acknowledged a charge after the takeover");
    assert!(newer.is_ready().await);

    for seen in [&old_seen, &after, &new_seen] {
        seen.stop();
    }
    for task in old_tasks.into_iter().chain(late_tasks).chain(new_tasks) {
        task.await.unwrap();
    }
    drop(older);
    let all = Seen::default();
    for seen in [&old_seen, &new_seen] {
        all.acknowledged.lock().unwrap().append(&mut seen.acknowledged.lock().unwrap());
    }
    reconcile(&newer, &customers, &all).await;
    verify(&database);
}

async fn a_stop_in_good_order_answers_everyone(database: Database) {
    let mut process = Process::start(&database).await;
    let customers = customers(&process).await;
    let seen = Arc::new(Seen::default());
    let tasks = load(&process.url, &customers, TASKS, &seen);
    wait_for(&seen, 200).await;
    assert_eq!(process.terminate(), Some(0));
    for task in tasks {
        task.await.unwrap();
    }
    verify(&database);
    // The leases were given back.
    let free =
        database.query("SELECT CAST(COUNT(*) AS TEXT) FROM shard_lease WHERE owner IS NULL").await;
    assert_eq!(free, "128");
    let process = Process::start(&database).await;
    reconcile(&process, &customers, &seen).await;
}

/// A stream of a chat, as far as its `words` words.
async fn stream_of(
    process: &Process,
    customer: &Customer,
    key: Option<&str>,
    words: usize,
) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut body = crate::support::hello();
    body["stream"] = json!(true);
    let mut request = client
        .post(format!("{}/v1/chat/completions", process.url))
        .header("X-API-Key", &customer.key)
        .body(body.to_string());
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let mut answer = request.send().await.unwrap();
    let mut text = String::new();
    while text.matches(" word").count() < words {
        text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().unwrap()).unwrap());
    }
    answer
}

async fn streaming_process(database: &Database, upstream: &Upstream) -> Process {
    let url = upstream.url();
    Process::start_with(database, |command| {
        command
            .env("POLYSYSTEMS_UPSTREAMS__V1__URL", url)
            .env("POLYSYSTEMS_HOLDS__STEP_TOKENS", "16")
            .env("POLYSYSTEMS_HOLDS__VISIBLE_MODELS", "*");
    })
    .await
}

async fn balance(process: &Process, customer: &Customer) -> String {
    let path = "/api/payments/credits/balance";
    let (status, balance) = process.call("GET", path, &customer.token, &Value::Null).await;
    assert_eq!(status, 200);
    format!("{:.9}/{:.9}", balance["balance"].as_f64().unwrap(), balance["held"].as_f64().unwrap())
}

/// Words one after the other, each on its own.
fn spoken(words: usize) -> Vec<Step> {
    (0..words).flat_map(|_| [word(" word"), Step::Pause(Duration::from_millis(2))]).collect()
}

async fn a_crash_in_a_stream_charges_what_was_written_down(database: Database) {
    let mut steps = spoken(60);
    steps.push(Step::Stall);
    let upstream = Upstream::start(Script::Events(steps)).await;
    let mut process = streaming_process(&database, &upstream).await;
    let plain = process.customer("plain", 1).await;
    let keyed = process.customer("keyed", 1).await;
    let streams = (
        stream_of(&process, &plain, None, 60).await,
        stream_of(&process, &keyed, Some("k"), 60).await,
    );
    // Words go out before the step that covers them is in the tables: the last step is waited for,
    // until nothing changes any more.
    let earned = "SELECT CAST(COALESCE(MAX(earned), 0) AS TEXT) FROM hold";
    let (mut written, mut unchanged) = (0, 0);
    while unchanged < 50 {
        let now = database.query(earned).await.parse::<i64>().unwrap();
        unchanged = if now == 0 || now != written { 0 } else { unchanged + 1 };
        written = now;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.kill();
    drop(streams);
    process = streaming_process(&database, &upstream).await;
    database.no_hold_is_open().await;
    // Steps of 16, then 16, then 32 tokens: when the last was asked for, 32 words had been
    // delivered. If many words came at once, it was asked for after the first 16.
    let captured = "SELECT CAST(captured AS TEXT) || '/' || CAST(kind AS TEXT) FROM hold_end
        ORDER BY captured DESC LIMIT 1";
    let (captured, kind) = database
        .query(captured)
        .await
        .split_once('/')
        .map(|(captured, kind)| (captured.parse::<i64>().unwrap(), kind.to_owned()))
        .unwrap();
    assert_eq!(kind, "3");
    assert_eq!(captured, written);
    assert!((2_090_000 + 10 * 10_000..=2_090_000 + 33 * 10_000).contains(&captured), "{captured}");
    let left = 1_000_000_000 - captured;
    assert_eq!(balance(&process, &plain).await, format!("0.{left:09}/0.000000000"));
    // A request that can be repeated is charged by its repeat, once.
    assert_eq!(balance(&process, &keyed).await, "1.000000000/0.000000000");
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 1 });
    upstream.script(Script::Events(vec![word(" word"), usage_and_done(&usage)]));
    for _ in 0..2 {
        let answer = stream_of(&process, &keyed, Some("k"), 0).await;
        assert!(answer.text().await.unwrap().ends_with("[DONE]\n\n"));
    }
    assert_eq!(balance(&process, &keyed).await, "0.997900000/0.000000000");
    assert_eq!(process.terminate(), Some(0));
    verify(&database);
}

/// This is a defect: each request for the account would run into it again.
async fn who_cannot_be_brought_to_an_end_is_quarantined(database: Database) {
    let mut steps = spoken(20);
    steps.push(Step::Stall);
    let upstream = Upstream::start(Script::Events(steps)).await;
    let mut process = streaming_process(&database, &upstream).await;
    let one = process.customer("one", 1).await;
    let other = process.customer("other", 1).await;
    let stream = stream_of(&process, &one, None, 20).await;
    process.kill();
    drop(stream);
    let pay = async |process: &Process, who: &Customer| {
        process.call("POST", "/api/hub/rag/index", &who.key, &json!({})).await
    };
    process = Process::start_with(&database, |command| {
        command.env("FAILPOINTS", "sweep-expired=panic");
    })
    .await;
    for _ in 0..3 {
        let (status, refused) = pay(&process, &one).await;
        assert_eq!((status, &refused["error"]), (503, &json!("Account quarantined")), "{refused}");
        assert_eq!(refused["outcome"], "not-attempted");
        assert_eq!(pay(&process, &other).await.0, 200);
    }
    assert_eq!(process.terminate(), Some(0));
    // Nothing of it was written; without the defect it comes to its end.
    process = Process::start(&database).await;
    database.no_hold_is_open().await;
    assert_eq!(pay(&process, &one).await.0, 200);
    assert_eq!(process.terminate(), Some(0));
    verify(&database);
}

async fn a_stream_that_is_taken_over_is_charged_what_was_written_down(database: Database) {
    let mut steps = spoken(60);
    steps.push(Step::Pause(Duration::from_millis(800)));
    steps.push(usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 60 })));
    let upstream = Upstream::start(Script::Events(steps)).await;
    let first = streaming_process(&database, &upstream).await;
    let customer = first.customer("someone", 1).await;
    let stream = stream_of(&first, &customer, None, 60).await;
    let mut second = streaming_process(&database, &upstream).await;
    database.no_hold_is_open().await;
    let rest = stream.text().await.unwrap();
    assert!(rest.contains("\"code\":\"unavailable\"") && !rest.contains("\"cost\""), "{rest}");
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    let captured = "SELECT CAST(captured AS TEXT) FROM hold_end";
    let captured: i64 = database.query(captured).await.parse().unwrap();
    let left = 1_000_000_000 - captured;
    assert_eq!(balance(&second, &customer).await, format!("0.{left:09}/0.000000000"));
    assert_eq!(second.terminate(), Some(0));
    verify(&database);
}
