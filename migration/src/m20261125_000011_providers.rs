//! Payments that take a while, what providers take back, and accounts that top themselves up.

use sea_orm_migration::prelude::*;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000011_providers"
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
                // What the provider calls it, and where its owner pays.
                "ALTER TABLE payment ADD COLUMN provider_ref TEXT",
                "ALTER TABLE payment ADD COLUMN checkout_url TEXT",
                // What is charged without its owner being there, and whether the server began it.
                "ALTER TABLE payment ADD COLUMN method TEXT",
                "ALTER TABLE payment ADD COLUMN is_auto BOOLEAN NOT NULL DEFAULT FALSE",
                "ALTER TABLE payment ADD COLUMN confirming_at BIGINT",
                "ALTER TABLE payment ADD COLUMN ended_at BIGINT",
                "ALTER TABLE payment ADD COLUMN expires_at BIGINT",
                "ALTER TABLE payment ADD COLUMN failure TEXT",
                // The request that made it, by its idempotency key: one payment, also where the server died before
                // it was answered.
                "ALTER TABLE payment ADD COLUMN request_digest {bytes}",
                // When the provider is asked next.
                "ALTER TABLE payment ADD COLUMN look_at BIGINT",
                "ALTER TABLE payment ADD COLUMN looks INTEGER NOT NULL DEFAULT 0",
                "CREATE UNIQUE INDEX payment_provider_ref ON payment (provider, provider_ref)
                    WHERE provider_ref IS NOT NULL",
                "CREATE UNIQUE INDEX payment_request ON payment (account_id, request_digest)
                    WHERE request_digest IS NOT NULL",
                // A transaction on the chain pays for one payment.
                "CREATE UNIQUE INDEX payment_settlement ON payment (checkout_url)
                    WHERE provider = 'x402' AND checkout_url IS NOT NULL",
                "CREATE INDEX payment_look_at ON payment (look_at) WHERE look_at IS NOT NULL",
                "CREATE UNIQUE INDEX payment_auto ON payment (account_id)
                    WHERE is_auto AND status IN (1, 2)",
                // What a provider takes back of a payment (wanted), and what of it the ledger has taken.
                "CREATE TABLE reversal (
                    provider TEXT NOT NULL,
                    provider_ref TEXT NOT NULL,
                    payment_id {uuid} NOT NULL REFERENCES payment (id),
                    account_id BIGINT NOT NULL REFERENCES account (id),
                    kind SMALLINT NOT NULL,
                    wanted BIGINT NOT NULL CHECK (wanted >= 0),
                    taken BIGINT NOT NULL CHECK (taken >= 0),
                    created_at BIGINT NOT NULL,
                    PRIMARY KEY (provider, provider_ref)
                ) {clustered}",
                "CREATE INDEX reversal_payment_id ON reversal (payment_id)",
                "CREATE INDEX reversal_open ON reversal (account_id) WHERE taken <> wanted",
                "CREATE INDEX ledger_entry_of_money ON ledger_entry (account_id, kind, seq)
                    WHERE kind NOT IN (2, 3)",
                "CREATE TABLE customer (
                    user_id {uuid} NOT NULL REFERENCES users (id),
                    provider TEXT NOT NULL,
                    provider_ref TEXT NOT NULL,
                    PRIMARY KEY (user_id, provider)
                ) {clustered}",
                "CREATE TABLE auto_top_up (
                    account_id BIGINT NOT NULL PRIMARY KEY REFERENCES account (id),
                    user_id {uuid} NOT NULL REFERENCES users (id),
                    is_enabled BOOLEAN NOT NULL,
                    threshold BIGINT NOT NULL,
                    amount BIGINT NOT NULL,
                    monthly_cap BIGINT NOT NULL,
                    method TEXT NOT NULL,
                    failures INTEGER NOT NULL,
                    not_before BIGINT NOT NULL,
                    is_told BOOLEAN NOT NULL,
                    updated_at BIGINT NOT NULL
                )",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "DROP TABLE auto_top_up",
                "DROP TABLE customer",
                "DROP INDEX ledger_entry_of_money",
                "DROP TABLE reversal",
                "DROP INDEX payment_auto",
                "DROP INDEX payment_look_at",
                "DROP INDEX payment_settlement",
                "DROP INDEX payment_request",
                "DROP INDEX payment_provider_ref",
                "ALTER TABLE payment DROP COLUMN looks",
                "ALTER TABLE payment DROP COLUMN look_at",
                "ALTER TABLE payment DROP COLUMN request_digest",
                "ALTER TABLE payment DROP COLUMN failure",
                "ALTER TABLE payment DROP COLUMN expires_at",
                "ALTER TABLE payment DROP COLUMN ended_at",
                "ALTER TABLE payment DROP COLUMN confirming_at",
                "ALTER TABLE payment DROP COLUMN is_auto",
                "ALTER TABLE payment DROP COLUMN method",
                "ALTER TABLE payment DROP COLUMN checkout_url",
                "ALTER TABLE payment DROP COLUMN provider_ref",
            ],
        )
        .await
    }
}
