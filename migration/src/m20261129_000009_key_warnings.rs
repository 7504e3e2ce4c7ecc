//! When owners of API keys were last warned that keys end soon: the audit log says it, and this
//! index answers it for one of them without reading what else they did.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000009_key_warnings",
    up,
    undo: &["DROP INDEX audit_log_key_expiry"],
    tables: &[],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&["CREATE INDEX audit_log_key_expiry ON audit_log (user_id, at)
            WHERE kind = 'key.expiry_told'"])
}
