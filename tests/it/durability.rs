//! What was acknowledged stays: kill -9, a second process on the same database, and a stop in good order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Database;
use crate::support::process::{Customer, Process, Seen, load, reconcile, verify};

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
);

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
    // The counters of limits are right as well: verify holds them against the ledger, and they still count.
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
    let older = Process::start(&database).await;
    let customers = customers(&older).await;
    let (old_seen, new_seen) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let old_tasks = load(&older.url, &customers, TASKS, &old_seen);
    wait_for(&old_seen, 200).await;

    let newer = Process::start(&database).await;
    // Whatever the older one answers 200 now was committed before the takeover; calls made from here on must
    // not be.
    let after = Arc::new(Seen::default());
    let late_tasks = load(&older.url, &customers, TASKS, &after);
    let new_tasks = load(&newer.url, &customers, TASKS, &new_seen);
    wait_for(&new_seen, 300).await;
    while after.refused.load(Ordering::SeqCst) < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(after.count(), 0, "the older process acknowledged a charge after the takeover");
    assert!(!older.is_ready().await && newer.is_ready().await);
    let (status, refused) =
        older.call("POST", "/api/hub/rag/index", &customers[0].key, &json!({})).await;
    assert_eq!((status, &refused["error"]), (503, &json!("Service unavailable")));
    // Nor can it change a key any more.
    let (status, _) =
        older.call("POST", "/api/keys", &customers[0].token, &json!({ "name": "late" })).await;
    assert_eq!(status, 503);

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
