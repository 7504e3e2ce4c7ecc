//! What the console needs: the cookie of a session in a browser, whose row has the digest and no
//! refresh token; and API keys by what is seen of them, for an operator who looks one up.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261130_000015_console",
    up,
    undo: &[
        "DROP INDEX api_key_preview",
        "DROP INDEX session_cookie_digest",
        "DELETE FROM session WHERE cookie_digest IS NOT NULL",
        "ALTER TABLE session DROP COLUMN cookie_digest",
    ],
    tables: &[],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        "ALTER TABLE session ADD COLUMN cookie_digest {bytes}",
        "CREATE UNIQUE INDEX session_cookie_digest ON session (cookie_digest)",
        "CREATE INDEX api_key_preview ON api_key (preview)",
    ])
}
