//! Sessions: who is logged in where, and the tokens that renew it.

use sea_orm_migration::prelude::*;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000007_sessions"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(
            manager,
            &[
                "CREATE TABLE session (
                    id {uuid} NOT NULL PRIMARY KEY,
                    user_id {uuid} NOT NULL REFERENCES users (id),
                    created_at BIGINT NOT NULL,
                    last_used_at BIGINT NOT NULL,
                    expires_at BIGINT NOT NULL,
                    ended_at BIGINT,
                    address TEXT NOT NULL,
                    agent TEXT NOT NULL
                )",
                "CREATE INDEX session_user_id ON session (user_id)",
                "CREATE INDEX session_expires_at ON session (expires_at)",
                // Every token of a session there ever was, by its digest: one that comes again after its use ends
                // the session.
                "CREATE TABLE refresh_token (
                    digest {bytes} NOT NULL PRIMARY KEY,
                    session_id {uuid} NOT NULL REFERENCES session (id) ON DELETE CASCADE,
                    used_at BIGINT
                ) {clustered}",
                "CREATE INDEX refresh_token_session_id ON refresh_token (session_id)",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, &["DROP TABLE refresh_token", "DROP TABLE session"]).await
    }
}
