//! The program that brought the schema up to date: an older one can say which version to start.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000007_program",
    up,
    undo: &[],
    tables: &["schema_program"],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&["CREATE TABLE schema_program (
            id SMALLINT NOT NULL PRIMARY KEY CHECK (id = 1),
            version TEXT NOT NULL
        )"])
}
