//! Payments, their reversals, and automatic top-ups.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000004_payments",
    up,
    undo: &[],
    tables: &["payment", "reversal", "customer", "auto_top_up"],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        // provider_ref: the id at the provider. checkout_url: the page where the payer pays; for
        // x402 the transaction on the chain. method: the saved payment method that is charged.
        // is_auto: the server began it. request_digest: the digest of the request's idempotency
        // key, so that there is only one payment even if the server stops before it answers.
        // look_at, looks: when the provider is checked next, and how often it was.
        "CREATE TABLE payment (
            id {uuid} NOT NULL PRIMARY KEY,
            account_id BIGINT NOT NULL REFERENCES account (id),
            provider TEXT NOT NULL,
            status SMALLINT NOT NULL,
            amount BIGINT NOT NULL CHECK (amount > 0),
            created_at BIGINT NOT NULL,
            confirmed_at BIGINT,
            provider_ref TEXT,
            checkout_url TEXT,
            method TEXT,
            is_auto BOOLEAN NOT NULL DEFAULT FALSE,
            confirming_at BIGINT,
            ended_at BIGINT,
            expires_at BIGINT,
            failure TEXT,
            request_digest {bytes},
            look_at BIGINT,
            looks INTEGER NOT NULL DEFAULT 0
        )",
        "CREATE INDEX payment_account_id ON payment (account_id, id)",
        "CREATE UNIQUE INDEX payment_provider_ref ON payment (provider, provider_ref)
            WHERE provider_ref IS NOT NULL",
        "CREATE UNIQUE INDEX payment_request ON payment (account_id, request_digest)
            WHERE request_digest IS NOT NULL",
        // A transaction on the chain pays for only one payment.
        "CREATE UNIQUE INDEX payment_settlement ON payment (checkout_url)
            WHERE provider = 'x402' AND checkout_url IS NOT NULL",
        "CREATE INDEX payment_look_at ON payment (look_at) WHERE look_at IS NOT NULL",
        "CREATE UNIQUE INDEX payment_auto ON payment (account_id)
            WHERE is_auto AND status IN (1, 2)",
        // wanted: what a provider takes back of a payment. taken: how much of it the ledger has
        // taken.
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
    ])
}
