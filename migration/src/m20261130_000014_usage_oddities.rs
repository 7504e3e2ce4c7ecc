//! Usage that a provider has reported and that does not agree with itself or with what is sold. It
//! is kept for 90 days.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261130_000014_usage_oddities",
    up,
    undo: &[],
    tables: &["usage_oddity"],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        // `kinds` is a sum of `domain::oddity`. `reported` and `billed` are JSON with numbers
        // alone.
        "CREATE TABLE usage_oddity (
            number {serial},
            charge_id {uuid} NOT NULL,
            deployment TEXT NOT NULL,
            provider TEXT NOT NULL,
            model TEXT NOT NULL,
            kinds SMALLINT NOT NULL,
            reported TEXT NOT NULL,
            billed TEXT NOT NULL,
            at BIGINT NOT NULL
        )",
        "CREATE INDEX usage_oddity_deployment ON usage_oddity (deployment, number)",
        "CREATE INDEX usage_oddity_at ON usage_oddity (at)",
    ])
}
