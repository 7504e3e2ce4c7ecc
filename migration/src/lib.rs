//! The schema of Polysystems. Each file creates the tables of one area. A released file is never
//! edited; later changes come in new files.
//!
//! The statements are plain SQL, because the ledger needs what a portable builder does not offer:
//! clustered keys, partial unique indexes, and triggers that refuse changes. If the databases use
//! different words, a statement has a placeholder; see `Dialect`.

pub use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

mod m20261129_000001_people;
mod m20261129_000002_accounts;
mod m20261129_000003_ledger;
mod m20261129_000004_payments;
mod m20261129_000005_webhooks;
mod m20261129_000006_audit_log;
mod m20261129_000007_program;
mod m20261129_000008_prices;
mod m20261129_000009_key_warnings;
mod m20261129_000010_refresh_tokens;
mod m20261130_000011_catalogue;
mod m20261130_000012_price_lists;
mod m20261130_000013_attempts;
mod m20261130_000014_usage_oddities;
mod m20261130_000015_console;
mod m20261130_000016_verifications;

/// Applies the migrations in order.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let steps = [
            m20261129_000001_people::STEP,
            m20261129_000002_accounts::STEP,
            m20261129_000003_ledger::STEP,
            m20261129_000004_payments::STEP,
            m20261129_000005_webhooks::STEP,
            m20261129_000006_audit_log::STEP,
            m20261129_000007_program::STEP,
            m20261129_000008_prices::STEP,
            m20261129_000009_key_warnings::STEP,
            m20261129_000010_refresh_tokens::STEP,
            m20261130_000011_catalogue::STEP,
            m20261130_000012_price_lists::STEP,
            m20261130_000013_attempts::STEP,
            m20261130_000014_usage_oddities::STEP,
            m20261130_000015_console::STEP,
            m20261130_000016_verifications::STEP,
        ];
        steps.into_iter().map(|step| -> Box<dyn MigrationTrait> { Box::new(step) }).collect()
    }
}

/// One migration.
struct Step {
    /// The name of its file.
    name: &'static str,
    /// The statements that create its tables.
    up: fn(&Dialect) -> Vec<String>,
    /// The statements that take back what it did to older tables.
    undo: &'static [&'static str],
    /// Its tables in the order of creation. They are dropped in reverse.
    tables: &'static [&'static str],
    /// The functions that it creates on PostgreSQL.
    functions: &'static [&'static str],
}

impl MigrationName for Step {
    fn name(&self) -> &'static str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect::of(manager.get_database_backend());
        for statement in (self.up)(&dialect) {
            manager.get_connection().execute_unprepared(&dialect.translate(&statement)).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let dialect = Dialect::of(manager.get_database_backend());
        for statement in self.undo {
            connection.execute_unprepared(&dialect.translate(statement)).await?;
        }
        for table in self.tables.iter().rev() {
            connection.execute_unprepared(&format!("DROP TABLE IF EXISTS {table}")).await?;
        }
        if dialect.is_postgres {
            for function in self.functions {
                connection.execute_unprepared(&format!("DROP FUNCTION {function}")).await?;
            }
        }
        Ok(())
    }
}

/// The words that differ between PostgreSQL and SQLite.
struct Dialect {
    /// A primary key that the database numbers.
    serial: &'static str,
    uuid: &'static str,
    bytes: &'static str,
    /// Stores a table in the order of its key. PostgreSQL has no such tables.
    clustered: &'static str,
    /// Leaves room on each page of a table whose rows change often. The new version of a row then
    /// fits on the page of the old one, and no index changes.
    roomy: &'static str,
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
                roomy: "WITH (fillfactor = 80)",
                is_postgres: true,
            }
        } else {
            Dialect {
                serial: "INTEGER PRIMARY KEY AUTOINCREMENT",
                uuid: "BLOB",
                bytes: "BLOB",
                clustered: "WITHOUT ROWID",
                roomy: "",
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
            .replace("{roomy}", self.roomy)
    }
}

/// The statements as strings.
fn texts(statements: &[&str]) -> Vec<String> {
    statements.iter().map(|&statement| statement.to_owned()).collect()
}
