//! The audit log: what people did that matters to security or to money.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::run;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000008_audit_log"
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
                // Its id begins with the time, so the key is the order in which it is read.
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
                // Operators list users in this order.
                "CREATE INDEX users_created_at ON users (created_at, id)",
            ],
        )
        .await?;
        let triggers: &[&str] = if manager.get_database_backend() == DbBackend::Postgres {
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
        run(manager, triggers).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, &["DROP TABLE audit_log", "DROP INDEX users_created_at"]).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            run(manager, &["DROP FUNCTION refuse_audit_log_change"]).await?;
        }
        Ok(())
    }
}
