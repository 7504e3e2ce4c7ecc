//! Holds that outlive a crash, recorded answers for repeated requests, and how calls ended.

use sea_orm_migration::prelude::*;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000003_holds"
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
                // The open holds alone, so that it stays small. A row leaves when its end is written.
                "CREATE TABLE hold (
                    id {uuid} NOT NULL PRIMARY KEY,
                    account_id BIGINT NOT NULL,
                    key_id {uuid} NOT NULL,
                    epoch BIGINT NOT NULL,
                    day INTEGER NOT NULL,
                    month INTEGER NOT NULL,
                    amount BIGINT NOT NULL CHECK (amount >= 0),
                    earned BIGINT NOT NULL CHECK (earned >= 0 AND earned <= amount),
                    opened_at BIGINT NOT NULL,
                    expires_at BIGINT NOT NULL
                ) {clustered}",
                "CREATE INDEX hold_account_id ON hold (account_id)",
                // Its key proves that a hold has one end, its check that never more was taken than held.
                "CREATE TABLE hold_end (
                    account_id BIGINT NOT NULL,
                    hold_id {uuid} NOT NULL,
                    kind SMALLINT NOT NULL,
                    held BIGINT NOT NULL,
                    captured BIGINT NOT NULL CHECK (captured >= 0 AND captured <= held),
                    at BIGINT NOT NULL,
                    PRIMARY KEY (account_id, hold_id)
                ) {clustered}",
                // What a request with an Idempotency-Key was answered; no answer where it is too large.
                "CREATE TABLE recorded_answer (
                    account_id BIGINT NOT NULL,
                    key_digest {bytes} NOT NULL,
                    fingerprint {bytes} NOT NULL,
                    reference {uuid} NOT NULL,
                    answer {bytes},
                    created_at BIGINT NOT NULL,
                    expires_at BIGINT NOT NULL,
                    PRIMARY KEY (account_id, key_digest)
                )",
                "CREATE INDEX recorded_answer_expires_at ON recorded_answer (expires_at)",
                "ALTER TABLE usage_record ADD COLUMN ending SMALLINT NOT NULL DEFAULT 1",
                "ALTER TABLE usage_record ADD COLUMN tally SMALLINT NOT NULL DEFAULT 1",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "ALTER TABLE usage_record DROP COLUMN tally",
                "ALTER TABLE usage_record DROP COLUMN ending",
                "DROP TABLE recorded_answer",
                "DROP TABLE hold_end",
                "DROP TABLE hold",
            ],
        )
        .await
    }
}
