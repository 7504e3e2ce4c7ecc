//! Tokens that come by email, and second factors.

use sea_orm_migration::prelude::*;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000010_people"
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
                "CREATE TABLE email_token (
                    digest {bytes} NOT NULL PRIMARY KEY,
                    user_id {uuid} NOT NULL REFERENCES users (id),
                    purpose SMALLINT NOT NULL,
                    email_folded TEXT NOT NULL,
                    expires_at BIGINT NOT NULL,
                    used_at BIGINT
                ) {clustered}",
                "CREATE INDEX email_token_user_id ON email_token (user_id, purpose)",
                "CREATE INDEX email_token_expires_at ON email_token (expires_at)",
                // The secret is sealed. The step is the last one a code was good for: each is good once.
                "ALTER TABLE users ADD COLUMN totp_secret {bytes}",
                "ALTER TABLE users ADD COLUMN totp_enabled_at BIGINT",
                "ALTER TABLE users ADD COLUMN totp_step BIGINT NOT NULL DEFAULT 0",
                "CREATE TABLE recovery_code (
                    user_id {uuid} NOT NULL REFERENCES users (id),
                    digest {bytes} NOT NULL,
                    used_at BIGINT,
                    PRIMARY KEY (user_id, digest)
                ) {clustered}",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "DROP TABLE recovery_code",
                "ALTER TABLE users DROP COLUMN totp_step",
                "ALTER TABLE users DROP COLUMN totp_enabled_at",
                "ALTER TABLE users DROP COLUMN totp_secret",
                "DROP TABLE email_token",
            ],
        )
        .await
    }
}
