//! The state of the schema: whose it is, and whether this program understands it.

use std::collections::BTreeSet;

use migration::MigratorTrait as _;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};

use super::error::StoreError;
use super::sql::{is_postgres, query};

/// Our own version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const LAST_PROGRAM: &str = "SELECT version FROM schema_program";

/// The name of the last migration that this program knows.
#[must_use]
pub fn last_migration() -> String {
    let migrations = migration::Migrator::migrations();
    migrations.last().map(|last| last.name().to_owned()).unwrap_or_default()
}

/// Refuses a schema that a newer program has made, and returns how many migrations it lacks.
async fn lacking(connection: &DatabaseConnection) -> Result<Option<usize>, StoreError> {
    let Some(applied) = applied(connection).await? else { return Ok(None) };
    let known: BTreeSet<String> = migration::Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    if applied.is_subset(&known) {
        return Ok(Some(known.difference(&applied).count()));
    }
    let backend = connection.get_database_backend();
    let newer = connection.query_one_raw(Statement::from_string(backend, LAST_PROGRAM)).await;
    let newer = newer.ok().flatten().and_then(|row| row.try_get_by_index::<String>(0).ok());
    let newer = newer.map_or("a newer version".to_owned(), |version| format!("version {version}"));
    Err(StoreError::Unsafe(format!(
        "its schema was made by {newer} of polysystems, and this is version {VERSION}: start {newer} or a later \
         one, or restore a backup from before the upgrade"
    )))
}

/// The migrations that were applied; `None` if the database is not one of ours.
async fn applied(connection: &DatabaseConnection) -> Result<Option<BTreeSet<String>>, StoreError> {
    let there = if is_postgres(connection) {
        "SELECT 1 WHERE to_regclass('seaql_migrations') IS NOT NULL"
    } else {
        "SELECT 1 FROM sqlite_master WHERE name = 'seaql_migrations'"
    };
    if query(connection, there, []).await?.is_empty() {
        return Ok(None);
    }
    let rows = query(connection, "SELECT version FROM seaql_migrations", []).await?;
    let names = rows.iter().map(|row| row.try_get_by_index::<String>(0));
    Ok(Some(names.collect::<Result<_, _>>()?))
}

/// Refuses a database whose schema is not exactly that of this program.
pub(super) async fn assert_current(connection: &DatabaseConnection) -> Result<(), StoreError> {
    match lacking(connection).await? {
        Some(0) => Ok(()),
        None => Err(StoreError::Unsafe(
            "it has no tables of polysystems; `polysystems migrate` makes them, or check the settings data_dir and \
             database.url"
                .into(),
        )),
        Some(_) => Err(StoreError::Unsafe(format!(
            "its schema is older than version {VERSION}; back it up, then bring it up to date with \
             `polysystems migrate`"
        ))),
    }
}

/// Brings the schema up to date, and notes this program. Refuses what a newer program has made.
pub(super) async fn migrate(connection: &DatabaseConnection) -> Result<(), StoreError> {
    let was_current = lacking(connection).await? == Some(0);
    failpoint!("migrate-before");
    while !migration::Migrator::get_pending_migrations(connection).await?.is_empty() {
        migration::Migrator::up(connection, Some(1)).await?;
        failpoint!("migrate-step");
    }
    // A crash may have come between the last migration and the note.
    if !was_current || query(connection, LAST_PROGRAM, []).await?.is_empty() {
        let backend = connection.get_database_backend();
        let note = "INSERT INTO schema_program (id, version) VALUES (1, $1)
            ON CONFLICT (id) DO UPDATE SET version = excluded.version";
        let note = Statement::from_sql_and_values(backend, note, [VERSION.into()]);
        connection.execute_raw(note).await?;
    }
    failpoint!("migrate-after");
    Ok(())
}
