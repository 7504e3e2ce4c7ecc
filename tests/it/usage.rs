//! How long usage records are kept.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::support::process::verify;
use crate::support::{Database, Server, hello, on_both};

on_both!(records_are_kept_as_long_as_is_set);

async fn records_are_kept_as_long_as_is_set(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    let count = "SELECT CAST(COUNT(*) AS TEXT) FROM usage_record";
    // Whatever waits for its checkpoint is written.
    assert_eq!(database.query(count).await, "1");
    server.stop();

    // Some pieces of old records, and the one that is a microsecond too young among the last of
    // them.
    let more = "WITH RECURSIVE counted (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < 2500)
        INSERT INTO usage_record (id, account_id, seq, key_id, method, route, upstream, status, cost,
            prompt_tokens, completion_tokens, started_at, latency_micros)
        SELECT id, account_id, seq, key_id, method, route, upstream, status, cost, prompt_tokens,
            completion_tokens, started_at, latency_micros FROM usage_record, counted";
    database.execute(more).await.unwrap();
    let day: i64 = 86_400_000_000;
    let age = format!(
        "UPDATE usage_record SET started_at = started_at - CASE WHEN number < 2200 THEN {} ELSE {} END
        WHERE number <= 2200",
        30 * day + 1,
        30 * day
    );
    database.execute(&age).await.unwrap();
    assert_eq!(database.query(count).await, "2500");

    // Nothing set: nothing is deleted.
    Server::start(&database).await.stop();
    assert_eq!(database.query(count).await, "2500");

    // Their rollups anew, as if they had been made so: what is in none is not deleted before it is.
    database.unfold().await;
    let _server = Server::start_with(&database, |settings| {
        settings.usage.keep_days = NonZeroU32::new(30);
    })
    .await;
    let begun = Instant::now();
    while database.query(count).await != "301" {
        assert!(begun.elapsed() < Duration::from_secs(30), "old records are still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let oldest = "SELECT CAST(MIN(number) AS TEXT) FROM usage_record";
    assert_eq!(database.query(oldest).await, "2200");
    let entries = "SELECT CAST(COUNT(*) AS TEXT) FROM ledger_entry WHERE kind = 3";
    assert_eq!(database.query(entries).await, "1");
    // Its call is not as old as it was made here.
    let young = format!(
        "UPDATE usage_record SET started_at = started_at + {} WHERE number = 2200",
        30 * day
    );
    database.execute(&young).await.unwrap();
    verify(&database);
}
