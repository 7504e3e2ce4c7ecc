//! Rows of PostgreSQL's journal as they come.

use sea_orm_migration::prelude::*;

use crate::{Dialect, run};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261125_000014_journal_rows"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !Dialect::of(manager.get_database_backend()).is_postgres {
            return Ok(());
        }
        run(
            manager,
            &[
                // Ids and links, which lie there for a moment: compressing them costs each call more than it saves.
                "ALTER TABLE journal ALTER COLUMN writes SET STORAGE EXTERNAL",
                // Whole in its page, where it fits.
                "ALTER TABLE journal SET (toast_tuple_target = 8160)",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !Dialect::of(manager.get_database_backend()).is_postgres {
            return Ok(());
        }
        run(
            manager,
            &[
                "ALTER TABLE journal RESET (toast_tuple_target)",
                "ALTER TABLE journal ALTER COLUMN writes SET STORAGE EXTENDED",
            ],
        )
        .await
    }
}
