//! The catalogue of models: its revisions, which of them is in force, the secrets of credentials,
//! and the numbers of deployments.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261130_000011_catalogue",
    up,
    undo: &["DROP INDEX price_version_withdrawn"],
    tables: &["catalogue_revision", "catalogue_head", "credential", "deployment_name"],
    functions: &[],
};

fn up(dialect: &Dialect) -> Vec<String> {
    let tables = texts(&[
        "CREATE TABLE catalogue_revision (
            number BIGINT NOT NULL PRIMARY KEY CHECK (number > 0),
            document TEXT NOT NULL,
            digest {bytes} NOT NULL,
            author {uuid},
            note TEXT NOT NULL,
            at BIGINT NOT NULL
        )",
        // Revision 0 is the empty catalogue. `credentials` counts the changes of secrets, so that
        // one row tells whether anything has changed.
        "CREATE TABLE catalogue_head (
            id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
            revision BIGINT NOT NULL,
            credentials BIGINT NOT NULL
        )",
        "INSERT INTO catalogue_head (id, revision, credentials) VALUES (1, 0, 0)",
        "CREATE TABLE credential (
            name TEXT NOT NULL PRIMARY KEY,
            provider TEXT NOT NULL,
            address TEXT NOT NULL,
            sealed {bytes} NOT NULL,
            hint TEXT NOT NULL,
            is_enabled BOOLEAN NOT NULL,
            rotated_at BIGINT NOT NULL
        )",
        // A number is given once, by the transaction that writes the revision which first has the
        // name.
        "CREATE TABLE deployment_name (
            id INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
            name TEXT NOT NULL UNIQUE,
            first_revision BIGINT NOT NULL
        )",
        // Each process asks every second whether a version was withdrawn.
        "CREATE INDEX price_version_withdrawn ON price_version (withdrawn_at)
            WHERE withdrawn_at IS NOT NULL",
    ]);
    let append_only = ["catalogue_revision", "deployment_name"].map(|table| {
        if dialect.is_postgres {
            vec![format!(
                "CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
                    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )]
        } else {
            ["UPDATE", "DELETE"]
                .map(|act| {
                    format!(
                        "CREATE TRIGGER {table}_no_{} BEFORE {act} ON {table}
                     BEGIN SELECT RAISE(ABORT, 'what is in {table} never changes'); END",
                        act.to_lowercase()
                    )
                })
                .into()
        }
    });
    [tables, append_only.concat()].concat()
}
