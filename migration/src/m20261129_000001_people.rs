//! Users, their sessions, the tokens sent by email, and second factors.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000001_people",
    up,
    undo: &[],
    tables: &[
        "users",
        "session",
        "refresh_token",
        "email_token",
        "recovery_code",
        "operator_grant",
    ],
    functions: &[],
};

fn up(_: &Dialect) -> Vec<String> {
    [people(), proofs()].concat()
}

fn people() -> Vec<String> {
    texts(&[
        // The folded (trimmed, lowercase) text makes emails and usernames unique regardless of
        // case. The secret of the second factor is encrypted. `totp_step` is the time step of the
        // last used code. `wrong_codes` counts wrong codes of the day `wrong_codes_day`.
        // `erasing_at`: since when no payment begins, because the user is being erased.
        "CREATE TABLE users (
            id {uuid} NOT NULL PRIMARY KEY,
            email TEXT NOT NULL,
            email_folded TEXT NOT NULL,
            username TEXT NOT NULL,
            username_folded TEXT NOT NULL,
            username_skeleton TEXT NOT NULL,
            password_hash TEXT NOT NULL,
            role SMALLINT NOT NULL,
            is_email_verified BOOLEAN NOT NULL,
            token_version BIGINT NOT NULL,
            tier TEXT,
            created_at BIGINT NOT NULL,
            totp_secret {bytes},
            totp_enabled_at BIGINT,
            totp_step BIGINT NOT NULL DEFAULT 0,
            wrong_codes BIGINT NOT NULL DEFAULT 0,
            wrong_codes_day INTEGER NOT NULL DEFAULT 0,
            erasing_at BIGINT,
            erased_at BIGINT
        )",
        "CREATE UNIQUE INDEX users_email_folded ON users (email_folded)",
        "CREATE UNIQUE INDEX users_username_skeleton ON users (username_skeleton)",
        // Operators list users in this order.
        "CREATE INDEX users_created_at ON users (created_at, id)",
        "CREATE INDEX users_erasing_at ON users (erasing_at) WHERE erasing_at IS NOT NULL",
        "CREATE INDEX users_erased_at ON users (erased_at) WHERE erased_at IS NOT NULL",
        // `confirmed_at` is when its user last proved who they are, by the login or afterwards.
        // `wrong_proofs` counts wrong passwords and codes since then. `login_address` is where the
        // session was begun; `address` is where it was last renewed, which a thief may have done.
        "CREATE TABLE session (
            id {uuid} NOT NULL PRIMARY KEY,
            user_id {uuid} NOT NULL REFERENCES users (id),
            created_at BIGINT NOT NULL,
            confirmed_at BIGINT NOT NULL,
            last_used_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            ended_at BIGINT,
            wrong_proofs BIGINT NOT NULL DEFAULT 0,
            address TEXT NOT NULL,
            login_address TEXT NOT NULL,
            agent TEXT NOT NULL
        )",
        "CREATE INDEX session_user_id ON session (user_id)",
        "CREATE INDEX session_expires_at ON session (expires_at)",
        // Digests of all refresh tokens of a session, including used ones. A token that is used a
        // second time ends the session.
        "CREATE TABLE refresh_token (
            digest {bytes} NOT NULL PRIMARY KEY,
            session_id {uuid} NOT NULL REFERENCES session (id) ON DELETE CASCADE,
            used_at BIGINT
        ) {clustered}",
        "CREATE INDEX refresh_token_session_id ON refresh_token (session_id)",
    ])
}

fn proofs() -> Vec<String> {
    texts(&[
        // `email_folded` is the address that the user had then: with another one a token is void.
        // `new_email` is the address that a change of address leads to.
        "CREATE TABLE email_token (
            digest {bytes} NOT NULL PRIMARY KEY,
            user_id {uuid} NOT NULL REFERENCES users (id),
            purpose SMALLINT NOT NULL,
            email_folded TEXT NOT NULL,
            new_email TEXT,
            expires_at BIGINT NOT NULL,
            used_at BIGINT
        ) {clustered}",
        "CREATE INDEX email_token_user_id ON email_token (user_id, purpose)",
        "CREATE INDEX email_token_expires_at ON email_token (expires_at)",
        // `pepper` is the id of the key pepper in the digest.
        "CREATE TABLE recovery_code (
            user_id {uuid} NOT NULL REFERENCES users (id),
            digest {bytes} NOT NULL,
            pepper {bytes} NOT NULL,
            used_at BIGINT,
            PRIMARY KEY (user_id, digest)
        ) {clustered}",
        // What an operator has granted in a day. An amount is added before its grant is decided, so
        // that two grants at once do not exceed the cap together.
        "CREATE TABLE operator_grant (
            operator_id {uuid} NOT NULL REFERENCES users (id),
            day INTEGER NOT NULL,
            granted BIGINT NOT NULL CHECK (granted >= 0),
            PRIMARY KEY (operator_id, day)
        ) {clustered}",
    ])
}
