//! Webhooks: endpoints, events for account holders, and their deliveries.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000005_webhooks",
    up,
    undo: &[],
    tables: &["webhook_endpoint", "webhook_event", "webhook_delivery", "webhook_attempt", "notice"],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        // Secrets are encrypted. `events` is a JSON list; NULL selects every event.
        "CREATE TABLE webhook_endpoint (
            id {uuid} NOT NULL PRIMARY KEY,
            account_id BIGINT NOT NULL REFERENCES account (id),
            url TEXT NOT NULL,
            description TEXT NOT NULL,
            events TEXT,
            secret {bytes} NOT NULL,
            former_secret {bytes},
            former_until BIGINT,
            is_enabled BOOLEAN NOT NULL,
            switched_off_at BIGINT,
            failing_since BIGINT,
            created_at BIGINT NOT NULL,
            deleted_at BIGINT
        )",
        "CREATE INDEX webhook_endpoint_account_id ON webhook_endpoint (account_id)",
        // The outbox. An event is written in the transaction of its cause. `once` is unique, so
        // that an event is not written twice.
        "CREATE TABLE webhook_event (
            id {uuid} NOT NULL PRIMARY KEY,
            account_id BIGINT NOT NULL,
            kind TEXT NOT NULL,
            once TEXT NOT NULL,
            at BIGINT NOT NULL,
            data TEXT NOT NULL
        )",
        "CREATE UNIQUE INDEX webhook_event_once ON webhook_event (once)",
        "CREATE INDEX webhook_event_at ON webhook_event (at)",
        "CREATE TABLE webhook_delivery (
            id {uuid} NOT NULL PRIMARY KEY,
            event_id {uuid} NOT NULL REFERENCES webhook_event (id) ON DELETE CASCADE,
            endpoint_id {uuid} NOT NULL REFERENCES webhook_endpoint (id) ON DELETE CASCADE,
            status SMALLINT NOT NULL,
            attempts INTEGER NOT NULL,
            next_at BIGINT,
            created_at BIGINT NOT NULL,
            ended_at BIGINT
        )",
        "CREATE UNIQUE INDEX webhook_delivery_event_id
            ON webhook_delivery (event_id, endpoint_id)",
        "CREATE INDEX webhook_delivery_endpoint_id ON webhook_delivery (endpoint_id, id)",
        "CREATE INDEX webhook_delivery_next_at ON webhook_delivery (endpoint_id, next_at)
            WHERE next_at IS NOT NULL",
        "CREATE INDEX webhook_endpoint_deleted_at ON webhook_endpoint (deleted_at)
            WHERE deleted_at IS NOT NULL",
        "CREATE TABLE webhook_attempt (
            delivery_id {uuid} NOT NULL REFERENCES webhook_delivery (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            at BIGINT NOT NULL,
            status SMALLINT,
            error TEXT,
            answer TEXT NOT NULL,
            latency_micros BIGINT NOT NULL,
            PRIMARY KEY (delivery_id, number)
        ) {clustered}",
        // The balance below which an account counts as low.
        "CREATE TABLE notice (
            account_id BIGINT NOT NULL PRIMARY KEY REFERENCES account (id),
            balance_low BIGINT NOT NULL
        )",
    ])
}
