//! The schema of Polysystems: one change a file, in order, never edited once released.
//!
//! The statements are written out, since a ledger wants what a portable builder does not offer: clustered
//! keys, partial unique indexes, triggers that refuse changes. Where the two databases differ in a word,
//! the word is a placeholder; see `Dialect`.

pub use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

mod m20261123_000001_accounts;
mod m20261123_000002_ledger;
mod m20261124_000003_holds;
mod m20261124_000004_chain;
mod m20261124_000005_journal;
mod m20261124_000006_entries;
mod m20261124_000007_sessions;
mod m20261125_000008_audit_log;
mod m20261125_000009_keys;
mod m20261125_000010_people;
mod m20261125_000011_providers;
mod m20261125_000012_webhooks;
mod m20261125_000013_rollups;
mod m20261125_000014_journal_rows;

/// Applies the migrations in order.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_accounts::Migration),
            Box::new(m20261123_000002_ledger::Migration),
            Box::new(m20261124_000003_holds::Migration),
            Box::new(m20261124_000004_chain::Migration),
            Box::new(m20261124_000005_journal::Migration),
            Box::new(m20261124_000006_entries::Migration),
            Box::new(m20261124_000007_sessions::Migration),
            Box::new(m20261125_000008_audit_log::Migration),
            Box::new(m20261125_000009_keys::Migration),
            Box::new(m20261125_000010_people::Migration),
            Box::new(m20261125_000011_providers::Migration),
            Box::new(m20261125_000012_webhooks::Migration),
            Box::new(m20261125_000013_rollups::Migration),
            Box::new(m20261125_000014_journal_rows::Migration),
        ]
    }
}

/// The words in which PostgreSQL and SQLite differ.
struct Dialect {
    /// A number that the database gives.
    serial: &'static str,
    uuid: &'static str,
    bytes: &'static str,
    /// Keeps a table in the order of its key; PostgreSQL has no such tables.
    clustered: &'static str,
    is_postgres: bool,
}

impl Dialect {
    fn of(backend: DbBackend) -> Self {
        if backend == DbBackend::Postgres {
            Dialect {
                serial: "BIGSERIAL PRIMARY KEY",
                uuid: "UUID",
                bytes: "BYTEA",
                clustered: "",
                is_postgres: true,
            }
        } else {
            Dialect {
                serial: "INTEGER PRIMARY KEY AUTOINCREMENT",
                uuid: "BLOB",
                bytes: "BLOB",
                clustered: "WITHOUT ROWID",
                is_postgres: false,
            }
        }
    }

    fn translate(&self, statement: &str) -> String {
        statement
            .replace("{serial}", self.serial)
            .replace("{uuid}", self.uuid)
            .replace("{bytes}", self.bytes)
            .replace("{clustered}", self.clustered)
    }
}

/// Runs the statements one by one.
async fn run(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    let dialect = Dialect::of(manager.get_database_backend());
    for statement in statements {
        manager.get_connection().execute_unprepared(&dialect.translate(statement)).await?;
    }
    Ok(())
}
