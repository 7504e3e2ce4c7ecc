//! Users, their accounts and their API keys.

use sea_orm_migration::prelude::*;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261123_000001_accounts"
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
                // The folded spelling makes an email and a username unique whatever their case.
                "CREATE TABLE users (
                    id {uuid} NOT NULL PRIMARY KEY,
                    email TEXT NOT NULL,
                    email_folded TEXT NOT NULL,
                    username TEXT NOT NULL,
                    username_folded TEXT NOT NULL,
                    password_hash TEXT NOT NULL,
                    role SMALLINT NOT NULL,
                    is_email_verified BOOLEAN NOT NULL,
                    token_version BIGINT NOT NULL,
                    tier TEXT,
                    created_at BIGINT NOT NULL
                )",
                "CREATE UNIQUE INDEX users_email_folded ON users (email_folded)",
                "CREATE UNIQUE INDEX users_username_folded ON users (username_folded)",
                // Balance and last entry number, as the ledger's last row has them. The check is the last
                // line behind the account actor.
                "CREATE TABLE account (
                    id {serial},
                    user_id {uuid} NOT NULL REFERENCES users (id),
                    environment SMALLINT NOT NULL,
                    status SMALLINT NOT NULL,
                    balance BIGINT NOT NULL CHECK (balance >= 0),
                    seq BIGINT NOT NULL,
                    updated_at BIGINT NOT NULL,
                    created_at BIGINT NOT NULL
                )",
                "CREATE UNIQUE INDEX account_user_id ON account (user_id, environment)",
                "CREATE TABLE api_key (
                    id {uuid} NOT NULL PRIMARY KEY,
                    account_id BIGINT NOT NULL REFERENCES account (id),
                    name TEXT NOT NULL,
                    digest {bytes} NOT NULL,
                    preview TEXT NOT NULL,
                    is_revoked BOOLEAN NOT NULL,
                    is_deleted BOOLEAN NOT NULL,
                    per_request_limit BIGINT,
                    daily_limit BIGINT,
                    monthly_limit BIGINT,
                    created_at BIGINT NOT NULL,
                    expires_at BIGINT
                )",
                "CREATE UNIQUE INDEX api_key_digest ON api_key (digest)",
                "CREATE INDEX api_key_account_id ON api_key (account_id)",
                // Apart from api_key, because it changes with every paid call.
                "CREATE TABLE key_spend (
                    key_id {uuid} NOT NULL PRIMARY KEY,
                    day INTEGER NOT NULL,
                    day_spent BIGINT NOT NULL,
                    month INTEGER NOT NULL,
                    month_spent BIGINT NOT NULL,
                    last_used_at BIGINT
                ) {clustered}",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "DROP TABLE key_spend",
                "DROP TABLE api_key",
                "DROP TABLE account",
                "DROP TABLE users",
            ],
        )
        .await
    }
}
