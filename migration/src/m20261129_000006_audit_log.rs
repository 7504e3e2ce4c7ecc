//! The audit log: what people did that matters to security or to money.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000006_audit_log",
    up,
    undo: &[],
    tables: &["audit_log"],
    functions: &["refuse_audit_log_change"],
};

fn up(dialect: &Dialect) -> Vec<String> {
    let append_only: &[&str] = if dialect.is_postgres {
        &[
            "CREATE FUNCTION refuse_audit_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
            "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
                ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_log_change()",
        ]
    } else {
        &[
            "CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
                BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
            "CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
                BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        ]
    };
    let table = texts(&[
        // The id begins with the time, so the primary key is the order of reading.
        "CREATE TABLE audit_log (
            id {uuid} NOT NULL PRIMARY KEY,
            at BIGINT NOT NULL,
            user_id {uuid} NOT NULL,
            actor SMALLINT NOT NULL,
            actor_id {uuid},
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            detail TEXT NOT NULL,
            address TEXT NOT NULL,
            agent TEXT NOT NULL
        ) {clustered}",
        "CREATE INDEX audit_log_user_id ON audit_log (user_id, id)",
    ]);
    [table, texts(append_only)].concat()
}
