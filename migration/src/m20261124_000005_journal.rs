//! The journal: batches of paid calls that are durable, and not yet in the tables.

use sea_orm_migration::prelude::*;

use crate::{Dialect, run};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000005_journal"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if Dialect::of(manager.get_database_backend()).is_postgres {
            // One row a batch, and nothing to keep in order but its number: what a paid call pays before it is
            // acknowledged. For SQLite it is in a file of its own, which the server makes.
            let journal = "CREATE TABLE journal (
                epoch BIGINT NOT NULL,
                number BIGINT NOT NULL,
                writes BYTEA NOT NULL,
                PRIMARY KEY (epoch, number)
            )";
            // Rows that change with every merge find room on their own page, and no index hears of it.
            let account = "ALTER TABLE account SET (fillfactor = 80)";
            let key_spend = "ALTER TABLE key_spend SET (fillfactor = 80)";
            run(manager, &[journal, account, key_spend]).await?;
        }
        run(
            manager,
            &[
                // The one row says how far the journal is merged: what is above it counts, what is not is in the
                // tables and may be deleted.
                "CREATE TABLE journal_mark (
                    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
                    epoch BIGINT NOT NULL,
                    number BIGINT NOT NULL
                )",
                "INSERT INTO journal_mark (id, epoch, number) VALUES (1, 0, 0)",
                // What the tables refuse of the journal stays until a person has mended it.
                "CREATE TABLE journal_refused (
                    epoch BIGINT NOT NULL,
                    number BIGINT NOT NULL,
                    account_id BIGINT NOT NULL,
                    writes {bytes} NOT NULL,
                    PRIMARY KEY (epoch, number, account_id)
                ) {clustered}",
                "CREATE INDEX journal_refused_account_id ON journal_refused (account_id)",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if Dialect::of(manager.get_database_backend()).is_postgres {
            run(manager, &["DROP TABLE journal"]).await?;
        }
        run(manager, &["DROP TABLE journal_refused", "DROP TABLE journal_mark"]).await
    }
}
