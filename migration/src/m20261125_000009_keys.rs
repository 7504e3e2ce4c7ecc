//! What keys may be used for, values that they had before, and what they may spend in all.

use sea_orm_migration::prelude::*;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000009_keys"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                // Lists are JSON; an absent one allows everything. A policy is written before its key.
                "CREATE TABLE key_policy (
                    key_id {uuid} NOT NULL PRIMARY KEY,
                    scopes TEXT,
                    models TEXT,
                    networks TEXT,
                    calls_per_minute BIGINT,
                    warned_at BIGINT
                ) {clustered}",
                "CREATE TABLE former_key_value (
                    digest {bytes} NOT NULL PRIMARY KEY,
                    key_id {uuid} NOT NULL REFERENCES api_key (id),
                    valid_until BIGINT NOT NULL
                ) {clustered}",
                "CREATE INDEX former_key_value_key_id ON former_key_value (key_id)",
                "CREATE INDEX api_key_expires_at ON api_key (expires_at)
                    WHERE expires_at IS NOT NULL",
                "ALTER TABLE api_key ADD COLUMN total_limit BIGINT",
                "ALTER TABLE key_spend ADD COLUMN total_spent BIGINT NOT NULL DEFAULT 0",
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
                "ALTER TABLE key_spend DROP COLUMN total_spent",
                "ALTER TABLE api_key DROP COLUMN total_limit",
                "DROP INDEX api_key_expires_at",
                "DROP TABLE former_key_value",
                "DROP TABLE key_policy",
            ],
        )
        .await
    }
}
