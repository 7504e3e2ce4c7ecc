//! The refresh token of a session: its row has the digest of the one that is good, and of the
//! family that all of them are of. So a renewal adds no row, and a used token is still known as
//! one.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000010_refresh_tokens",
    up,
    undo: &[
        "DROP INDEX session_refresh_family",
        "DROP INDEX session_refresh_digest",
        "CREATE TABLE refresh_token (
            digest {bytes} NOT NULL PRIMARY KEY,
            session_id {uuid} NOT NULL REFERENCES session (id) ON DELETE CASCADE,
            used_at BIGINT
        ) {clustered}",
        "CREATE INDEX refresh_token_session_id ON refresh_token (session_id)",
        "INSERT INTO refresh_token (digest, session_id)
            SELECT refresh_digest, id FROM session WHERE refresh_digest IS NOT NULL",
        "ALTER TABLE session DROP COLUMN refresh_family",
        "ALTER TABLE session DROP COLUMN refresh_digest",
    ],
    tables: &[],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    texts(&[
        "ALTER TABLE session ADD COLUMN refresh_digest {bytes}",
        "ALTER TABLE session ADD COLUMN refresh_family {bytes}",
        "UPDATE session SET refresh_digest = (
            SELECT digest FROM refresh_token
            WHERE session_id = session.id AND used_at IS NULL ORDER BY digest LIMIT 1)",
        "CREATE UNIQUE INDEX session_refresh_digest ON session (refresh_digest)",
        "CREATE UNIQUE INDEX session_refresh_family ON session (refresh_family)",
        "DROP TABLE refresh_token",
    ])
}
