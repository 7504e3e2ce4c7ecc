//! Attempts at deployments, of calls that took more than one or that failed. They are kept as long
//! as usage records.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step =
    Step { name: "m20261130_000013_attempts", up, undo: &[], tables: &["attempt"], functions: &[] };

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        "CREATE TABLE attempt (
            number {serial},
            charge_id {uuid} NOT NULL,
            n SMALLINT NOT NULL,
            deployment_id BIGINT NOT NULL,
            started_at BIGINT NOT NULL,
            latency_micros BIGINT NOT NULL,
            status SMALLINT,
            outcome SMALLINT NOT NULL
        )",
        "CREATE INDEX attempt_charge_id ON attempt (charge_id)",
        "CREATE INDEX attempt_deployment_id ON attempt (deployment_id, number)",
    ])
}
