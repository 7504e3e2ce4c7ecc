//! Price lists and their versions, and what a charge names of them: its bill.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000008_prices",
    up,
    undo: &[
        "ALTER TABLE ledger_entry DROP COLUMN price_version",
        "ALTER TABLE ledger_entry DROP COLUMN bill",
        "ALTER TABLE hold DROP COLUMN price_version",
        "ALTER TABLE hold DROP COLUMN bill",
    ],
    tables: &["price_list", "price_version"],
    functions: &[],
};

fn up(dialect: &Dialect) -> Vec<String> {
    let tables = texts(&[
        "CREATE TABLE price_list (
            id INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
            name TEXT NOT NULL UNIQUE
        )",
        "INSERT INTO price_list (id, name) VALUES (1, 'default')",
        // One sequence numbers the versions of all lists. The number is given by the transaction
        // that inserts the version: the next one, so of two processes that want it one is refused.
        "CREATE TABLE price_version (
            id INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
            list INTEGER NOT NULL,
            parent INTEGER,
            multiplier BIGINT NOT NULL CHECK (multiplier > 0),
            effective_from BIGINT NOT NULL,
            document TEXT NOT NULL,
            digest {bytes} NOT NULL,
            link {bytes} NOT NULL,
            withdrawn_at BIGINT
        )",
        "CREATE INDEX price_version_list ON price_version (list, id)",
    ]);
    // A version never changes, for every database user; it may only be withdrawn.
    let append_only: &[&str] = if dialect.is_postgres {
        &[
            "CREATE TRIGGER price_version_append_only BEFORE DELETE OR TRUNCATE ON price_version
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
            "CREATE TRIGGER price_version_fixed
                BEFORE UPDATE OF id, list, parent, multiplier, effective_from, document, digest, link
                ON price_version FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
        ]
    } else {
        &[
            "CREATE TRIGGER price_version_no_update
             BEFORE UPDATE OF id, list, parent, multiplier, effective_from, document, digest, link
             ON price_version
             BEGIN SELECT RAISE(ABORT, 'a version of prices never changes'); END",
            "CREATE TRIGGER price_version_no_delete BEFORE DELETE ON price_version
             BEGIN SELECT RAISE(ABORT, 'a version of prices never changes'); END",
        ]
    };
    // Older rows have no bill, and a hold has none before something was delivered.
    let columns = texts(&[
        "ALTER TABLE ledger_entry ADD COLUMN price_version INTEGER",
        "ALTER TABLE ledger_entry ADD COLUMN bill {bytes}",
        "ALTER TABLE hold ADD COLUMN price_version INTEGER",
        "ALTER TABLE hold ADD COLUMN bill {bytes}",
    ]);
    [columns, tables, texts(append_only)].concat()
}
