//! The chain of the ledger: each entry is tied to the one before it.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, QueryResult, Statement, Value};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{Dialect, run};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000004_chain"
    }
}

/// Entries that are given their links at once.
const PAGE: usize = 1_000;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let is_postgres = Dialect::of(manager.get_database_backend()).is_postgres;
        let none = "0".repeat(64);
        let default =
            if is_postgres { format!("decode('{none}', 'hex')") } else { format!("X'{none}'") };
        for table in ["ledger_entry", "account"] {
            let add =
                format!("ALTER TABLE {table} ADD COLUMN link {{bytes}} NOT NULL DEFAULT {default}");
            run(manager, &[&add]).await?;
        }
        // Which owner ended a hold: an owner that was taken over must not take another's end for its own.
        run(manager, &["ALTER TABLE hold_end ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0"]).await?;
        // The one change of entries there ever is: those written before get their links.
        let (pause, resume) = if is_postgres {
            (
                ["ALTER TABLE ledger_entry DISABLE TRIGGER ledger_entry_append_only"].as_slice(),
                "ALTER TABLE ledger_entry ENABLE TRIGGER ledger_entry_append_only",
            )
        } else {
            (
                ["DROP TRIGGER ledger_entry_no_update"].as_slice(),
                "CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry
                 BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
            )
        };
        run(manager, pause).await?;
        link_entries(manager.get_connection()).await?;
        run(manager, &[resume]).await?;
        // A server from before the chain, that still runs, would write entries without a link, and its accounts
        // would be quarantined: it is refused instead.
        let refuse = if is_postgres {
            "ALTER TABLE ledger_entry ALTER COLUMN link DROP DEFAULT".to_owned()
        } else {
            format!(
                "CREATE TRIGGER ledger_entry_link BEFORE INSERT ON ledger_entry WHEN NEW.link = X'{none}'
                 BEGIN SELECT RAISE(ABORT, 'an entry without its link'); END"
            )
        };
        run(manager, &[&refuse]).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !Dialect::of(manager.get_database_backend()).is_postgres {
            run(manager, &["DROP TRIGGER ledger_entry_link"]).await?;
        }
        run(
            manager,
            &[
                "ALTER TABLE hold_end DROP COLUMN epoch",
                "ALTER TABLE account DROP COLUMN link",
                "ALTER TABLE ledger_entry DROP COLUMN link",
            ],
        )
        .await
    }
}

/// Gives every entry its link, in the order of accounts and entries, and every account that of its last one.
async fn link_entries<C: ConnectionTrait>(connection: &C) -> Result<(), DbErr> {
    const READ: &str = "SELECT account_id, seq, epoch, kind, amount, balance_after, reference, key_id, day, month, at
        FROM ledger_entry WHERE account_id > $1 OR (account_id = $1 AND seq > $2)
        ORDER BY account_id, seq LIMIT 1000";
    const WRITE: &str = "UPDATE ledger_entry SET link = $1 WHERE account_id = $2 AND seq = $3";
    const HEADS: &str = "UPDATE account SET link = (
            SELECT link FROM ledger_entry WHERE account_id = account.id ORDER BY seq DESC LIMIT 1)
        WHERE EXISTS (SELECT 1 FROM ledger_entry WHERE account_id = account.id)";
    let backend = connection.get_database_backend();
    let statement =
        |sql: &str, values: Vec<Value>| Statement::from_sql_and_values(backend, sql, values);
    let (mut account, mut seq, mut link) = (i64::MIN, 0_i64, [0_u8; 32]);
    loop {
        let page =
            connection.query_all_raw(statement(READ, vec![account.into(), seq.into()])).await?;
        for row in &page {
            let of: i64 = row.try_get_by_index(0)?;
            if of != account {
                (account, link) = (of, [0; 32]);
            }
            seq = row.try_get_by_index(1)?;
            link = next(link, row)?;
            let values = vec![link.to_vec().into(), account.into(), seq.into()];
            connection.execute_raw(statement(WRITE, values)).await?;
        }
        if page.len() < PAGE {
            connection.execute_unprepared(HEADS).await?;
            return Ok(());
        }
    }
}

/// As `domain::chain` has it.
fn next(before: [u8; 32], row: &QueryResult) -> Result<[u8; 32], DbErr> {
    let number = |place: usize| row.try_get_by_index::<i64>(place);
    let key: Option<Uuid> = row.try_get_by_index(7)?;
    let hash = Sha256::new()
        .chain_update(before)
        .chain_update(number(0)?.to_le_bytes())
        .chain_update(number(1)?.to_le_bytes())
        .chain_update(number(2)?.to_le_bytes())
        .chain_update(row.try_get_by_index::<i16>(3)?.to_le_bytes())
        .chain_update(number(4)?.to_le_bytes())
        .chain_update(number(5)?.to_le_bytes())
        .chain_update(row.try_get_by_index::<Uuid>(6)?)
        .chain_update([u8::from(key.is_some())])
        .chain_update(key.unwrap_or_default())
        .chain_update(row.try_get_by_index::<i32>(8)?.to_le_bytes())
        .chain_update(row.try_get_by_index::<i32>(9)?.to_le_bytes())
        .chain_update(number(10)?.to_le_bytes());
    Ok(hash.finalize().into())
}
