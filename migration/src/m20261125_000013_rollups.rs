//! Usage by account in the order of time, by model, and rolled up by the hour and by the day.

use sea_orm_migration::prelude::*;

use crate::{Dialect, run};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000013_rollups"
    }
}

/// Columns of the latency histogram; `domain::rollup` says where they end.
const BUCKETS: usize = 24;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let is_postgres = Dialect::of(manager.get_database_backend()).is_postgres;
        // A server from before, which still runs, would write usage that is in no rollup, and charges that no total
        // counts: it loses its lease here.
        let fence: &[&str] = if is_postgres {
            &[
                "SELECT pg_advisory_xact_lock(123623863549954)",
                "UPDATE shard_lease SET epoch = (SELECT MAX(epoch) + 1 FROM shard_lease) WHERE epoch > 0",
            ]
        } else {
            &[
                "UPDATE shard_lease SET epoch = (SELECT MAX(epoch) + 1 FROM shard_lease) WHERE epoch > 0",
            ]
        };
        run(manager, fence).await?;
        let (hours, days) = (table("usage_hour"), table("usage_day"));
        run(
            manager,
            &[
                "ALTER TABLE usage_record ADD COLUMN model TEXT NOT NULL DEFAULT ''",
                // Recent calls of an account, and the call of a ledger entry; ids rise with time.
                "CREATE INDEX usage_record_account_id ON usage_record (account_id, id)",
                &hours,
                &days,
                // The last record that is in the rollups.
                "CREATE TABLE usage_mark (number BIGINT NOT NULL)",
                "INSERT INTO usage_mark SELECT COALESCE(MAX(number), 0) FROM usage_record",
                &fill("usage_hour", "3600000000"),
                &fill("usage_day", "86400000000"),
                // What a server from before has charged since totals are kept.
                "UPDATE key_spend SET total_spent = total.spent FROM (
                    SELECT key_id, CAST(-SUM(amount) AS BIGINT) AS spent FROM ledger_entry
                    WHERE key_id IS NOT NULL GROUP BY key_id
                ) AS total WHERE total.key_id = key_spend.key_id",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "DROP TABLE usage_mark",
                "DROP TABLE usage_day",
                "DROP TABLE usage_hour",
                "DROP INDEX usage_record_account_id",
                "ALTER TABLE usage_record DROP COLUMN model",
            ],
        )
        .await
    }
}

fn of_buckets(text: impl Fn(usize) -> String) -> String {
    (0..BUCKETS).map(text).collect::<Vec<_>>().concat()
}

fn table(name: &str) -> String {
    let buckets = of_buckets(|bucket| format!("l{bucket} BIGINT NOT NULL,"));
    format!(
        "CREATE TABLE {name} (
            account_id BIGINT NOT NULL,
            period INTEGER NOT NULL,
            key_id {{uuid}} NOT NULL,
            method TEXT NOT NULL,
            route TEXT NOT NULL,
            model TEXT NOT NULL,
            upstream TEXT NOT NULL,
            status SMALLINT NOT NULL,
            calls BIGINT NOT NULL,
            cost BIGINT NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            latency_micros BIGINT NOT NULL,
            {buckets}
            PRIMARY KEY (account_id, period, key_id, method, route, model, upstream, status)
        ) {{clustered}}"
    )
}

/// What is there already.
fn fill(name: &str, micros: &str) -> String {
    let columns = of_buckets(|bucket| format!(", l{bucket}"));
    let counts = of_buckets(|bucket| {
        let (low, high) = bounds(bucket);
        let high = high.map_or(String::new(), |high| format!(" AND latency_micros < {high}"));
        format!(", CAST(SUM(CASE WHEN latency_micros >= {low}{high} THEN 1 ELSE 0 END) AS BIGINT)")
    });
    // A number that makes no sense must not spoil a sum.
    let tokens = |column: &str| {
        let most = 1_i64 << 40;
        let kept = format!("CASE WHEN {column} > {most} THEN {most} ELSE {column} END");
        format!("CAST(SUM({kept}) AS BIGINT)")
    };
    let (prompt, completion) = (tokens("prompt_tokens"), tokens("completion_tokens"));
    format!(
        "INSERT INTO {name} (account_id, period, key_id, method, route, model, upstream, status, calls, cost,
            prompt_tokens, completion_tokens, latency_micros{columns})
        SELECT account_id, CAST(started_at / {micros} AS INTEGER), key_id, method, route, model, upstream,
            status, CAST(COUNT(*) AS BIGINT), CAST(SUM(cost) AS BIGINT), {prompt},
            {completion}, CAST(SUM(latency_micros) AS BIGINT){counts}
        FROM usage_record
        GROUP BY account_id, CAST(started_at / {micros} AS INTEGER), key_id, method, route, model, upstream, status"
    )
}

/// From which latency on a bucket counts, and up to which, in microseconds: each 1.7 times as far as the one before,
/// from a millisecond on. Written out here as they were when this was released.
fn bounds(bucket: usize) -> (i64, Option<i64>) {
    const ENDS: [i64; BUCKETS - 1] = [
        1_000,
        1_700,
        2_890,
        4_913,
        8_352,
        14_198,
        24_137,
        41_033,
        69_757,
        118_587,
        201_599,
        342_718,
        582_622,
        990_457,
        1_683_778,
        2_862_423,
        4_866_119,
        8_272_402,
        14_063_084,
        23_907_243,
        40_642_314,
        69_091_933,
        117_456_287,
    ];
    let low = bucket.checked_sub(1).and_then(|before| ENDS.get(before)).copied();
    (low.unwrap_or(i64::MIN), ENDS.get(bucket).copied())
}
