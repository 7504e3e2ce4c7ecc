//! The ledger, usage records, payments, and the leases that fence their writer.

use sea_orm_migration::prelude::*;

use crate::{Dialect, run};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261123_000002_ledger"
    }
}

#[expect(clippy::too_many_lines, reason = "a schema reads best in one piece")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "CREATE TABLE ledger_entry (
                    account_id BIGINT NOT NULL,
                    seq BIGINT NOT NULL CHECK (seq > 0),
                    epoch BIGINT NOT NULL,
                    kind SMALLINT NOT NULL,
                    amount BIGINT NOT NULL,
                    balance_after BIGINT NOT NULL CHECK (balance_after >= 0),
                    reference {uuid} NOT NULL,
                    key_id {uuid},
                    day INTEGER NOT NULL,
                    month INTEGER NOT NULL,
                    at BIGINT NOT NULL,
                    PRIMARY KEY (account_id, seq)
                ) {clustered}",
                // A payment is credited once and a charge refunded once, whatever happens above. Partial,
                // so that the many charges and captures do not pay for a second index.
                "CREATE UNIQUE INDEX ledger_entry_credit_once
                    ON ledger_entry (account_id, kind, reference) WHERE kind IN (1, 4)",
                // Written in the order of time and indexed by nothing else: a second index would cost each
                // paid call another page. `seq` leads to the ledger entry that the call ended with.
                "CREATE TABLE usage_record (
                    number {serial},
                    id {uuid} NOT NULL,
                    account_id BIGINT NOT NULL,
                    seq BIGINT,
                    key_id {uuid} NOT NULL,
                    method TEXT NOT NULL,
                    route TEXT NOT NULL,
                    upstream TEXT NOT NULL,
                    status SMALLINT NOT NULL,
                    cost BIGINT NOT NULL,
                    prompt_tokens BIGINT NOT NULL,
                    completion_tokens BIGINT NOT NULL,
                    started_at BIGINT NOT NULL,
                    latency_micros BIGINT NOT NULL
                )",
                "CREATE TABLE payment (
                    id {uuid} NOT NULL PRIMARY KEY,
                    account_id BIGINT NOT NULL REFERENCES account (id),
                    provider TEXT NOT NULL,
                    status SMALLINT NOT NULL,
                    amount BIGINT NOT NULL CHECK (amount > 0),
                    created_at BIGINT NOT NULL,
                    confirmed_at BIGINT
                )",
                "CREATE INDEX payment_account_id ON payment (account_id, id)",
                "CREATE TABLE shard_lease (
                    shard INTEGER NOT NULL PRIMARY KEY,
                    owner {uuid},
                    epoch BIGINT NOT NULL
                )",
                "INSERT INTO shard_lease (shard, epoch)
                    WITH RECURSIVE shards (shard) AS (
                        SELECT 0 UNION ALL SELECT shard + 1 FROM shards WHERE shard < 127
                    )
                    SELECT shard, 0 FROM shards",
            ],
        )
        .await?;
        // The ledger is append-only for everyone, whatever they connect with.
        if Dialect::of(manager.get_database_backend()).is_postgres {
            run(
                manager,
                &[
                    "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
                    "CREATE TRIGGER ledger_entry_append_only
                        BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
                        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
                ],
            )
            .await
        } else {
            run(
                manager,
                &[
                    "CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry
                     BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
                    "CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry
                     BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
                ],
            )
            .await
        }
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "DROP TABLE shard_lease",
                "DROP TABLE payment",
                "DROP TABLE usage_record",
                "DROP TABLE ledger_entry",
            ],
        )
        .await?;
        if Dialect::of(manager.get_database_backend()).is_postgres {
            run(manager, &["DROP FUNCTION refuse_change"]).await?;
        }
        Ok(())
    }
}
