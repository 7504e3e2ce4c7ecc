//! Verifications of the ledger: when, by whom, and what they found. The last hundred are kept.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261130_000016_verifications",
    up,
    undo: &[],
    tables: &["verification"],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        // `actor` as in the audit log. `found` is JSON: the first findings.
        "CREATE TABLE verification (
            number {serial},
            began_at BIGINT NOT NULL,
            ended_at BIGINT NOT NULL,
            actor SMALLINT NOT NULL,
            actor_id {uuid},
            failure TEXT,
            accounts BIGINT NOT NULL,
            entries BIGINT NOT NULL,
            bills BIGINT NOT NULL,
            usage_records BIGINT NOT NULL,
            findings BIGINT NOT NULL,
            found TEXT NOT NULL
        )",
    ])
}
