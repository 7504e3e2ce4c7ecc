//! Accounts and their API keys.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000002_accounts",
    up,
    undo: &[],
    tables: &["account", "api_key", "key_spend", "key_policy", "former_key_value"],
    functions: &[],
};

fn up(dialect: &Dialect) -> Vec<String> {
    let none = "0".repeat(64);
    let no_link =
        if dialect.is_postgres { format!("decode('{none}', 'hex')") } else { format!("X'{none}'") };
    // Balance, number and link are those of the account's last ledger entry. The check is the last
    // defence against an error of the account actor.
    let account = format!(
        "CREATE TABLE account (
            id {{serial}},
            user_id {{uuid}} NOT NULL REFERENCES users (id),
            environment SMALLINT NOT NULL,
            status SMALLINT NOT NULL,
            balance BIGINT NOT NULL CHECK (balance >= 0),
            seq BIGINT NOT NULL,
            updated_at BIGINT NOT NULL,
            created_at BIGINT NOT NULL,
            link {{bytes}} NOT NULL DEFAULT {no_link}
        ) {{roomy}}"
    );
    texts(&[
        &account,
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
            expires_at BIGINT,
            total_limit BIGINT
        )",
        "CREATE UNIQUE INDEX api_key_digest ON api_key (digest)",
        "CREATE INDEX api_key_account_id ON api_key (account_id)",
        "CREATE INDEX api_key_expires_at ON api_key (expires_at) WHERE expires_at IS NOT NULL",
        // A separate table, because it changes with every paid call and api_key does not.
        "CREATE TABLE key_spend (
            key_id {uuid} NOT NULL PRIMARY KEY,
            day INTEGER NOT NULL,
            day_spent BIGINT NOT NULL,
            month INTEGER NOT NULL,
            month_spent BIGINT NOT NULL,
            last_used_at BIGINT,
            total_spent BIGINT NOT NULL DEFAULT 0
        ) {clustered} {roomy}",
        // Lists are JSON; NULL allows everything. A policy is written before its key.
        "CREATE TABLE key_policy (
            key_id {uuid} NOT NULL PRIMARY KEY,
            scopes TEXT,
            models TEXT,
            networks TEXT,
            calls_per_minute BIGINT,
            warned_at BIGINT
        ) {clustered}",
        // Digests of values that a key had before its rotation.
        "CREATE TABLE former_key_value (
            digest {bytes} NOT NULL PRIMARY KEY,
            key_id {uuid} NOT NULL REFERENCES api_key (id),
            valid_until BIGINT NOT NULL
        ) {clustered}",
        "CREATE INDEX former_key_value_key_id ON former_key_value (key_id)",
    ])
}
