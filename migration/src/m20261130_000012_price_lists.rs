//! Price lists of models, the drafts of their versions, and the list that a user pays by.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261130_000012_price_lists",
    up,
    undo: &[
        "ALTER TABLE users DROP COLUMN price_list",
        "ALTER TABLE price_version DROP COLUMN follows",
        "ALTER TABLE price_list DROP COLUMN parent",
        "DELETE FROM price_list WHERE id <> 1",
        "UPDATE price_list SET name = 'default' WHERE id = 1",
    ],
    tables: &["price_draft"],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        "UPDATE price_list SET name = 'routes' WHERE id = 1",
        "INSERT INTO price_list (id, name) VALUES (2, 'default')",
        // The list that new versions inherit from unless they say otherwise.
        "ALTER TABLE price_list ADD COLUMN parent INTEGER",
        // Published because the version of another list was that it inherits from.
        "ALTER TABLE price_version ADD COLUMN follows BOOLEAN NOT NULL DEFAULT FALSE",
        // NULL is the list `default`.
        "ALTER TABLE users ADD COLUMN price_list INTEGER",
        // What may become a version. `cards` is what was asked for, as JSON: the cards are put
        // together when it is published, and so are parent and multiplier if it does not say them.
        "CREATE TABLE price_draft (
            id {serial},
            list INTEGER NOT NULL,
            parent INTEGER,
            keeps_parent BOOLEAN NOT NULL,
            multiplier BIGINT CHECK (multiplier > 0),
            keeps_others BOOLEAN NOT NULL,
            cards TEXT NOT NULL,
            author {uuid} NOT NULL,
            created_at BIGINT NOT NULL
        )",
        "CREATE INDEX price_draft_list ON price_draft (list, id)",
    ])
}
