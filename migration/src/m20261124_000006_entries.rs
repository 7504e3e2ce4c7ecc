//! Entries are written without a trigger: for its sake SQLite copied every row, and every page that it changed.

use sea_orm_migration::prelude::*;

use crate::{Dialect, run};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000006_entries"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if Dialect::of(manager.get_database_backend()).is_postgres {
            return Ok(());
        }
        run(
            manager,
            &[
                "DROP TRIGGER ledger_entry_link",
                // What it kept out, a server from before the chain that still runs, loses its lease here.
                "UPDATE shard_lease SET epoch = (SELECT MAX(epoch) + 1 FROM shard_lease) WHERE epoch > 0",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if Dialect::of(manager.get_database_backend()).is_postgres {
            return Ok(());
        }
        let none = "00".repeat(32);
        let refuse = format!(
            "CREATE TRIGGER ledger_entry_link BEFORE INSERT ON ledger_entry WHEN NEW.link = X'{none}'
             BEGIN SELECT RAISE(ABORT, 'an entry without its link'); END"
        );
        run(manager, &[&refuse]).await
    }
}
