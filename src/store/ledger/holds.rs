//! Holds in the tables: open holds in `hold`, ended ones in `hold_end`.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, Statement, Value};

use super::rows::version_column;
use crate::store::Store;
use crate::store::error::{CommitError, StoreError};
use crate::store::sql::{Sql, column, is_postgres, json, statement};
use domain::{AccountId, Batch, ChargeId, Hold, HoldChange, HoldEnd, Timestamp};
use entity::{hold, hold_end};

impl Store {
    /// Returns up to 1,000 accounts with orphaned holds. A hold is orphaned if it is of another
    /// epoch or has expired.
    pub async fn accounts_with_orphaned_holds(
        &self,
        epoch: i64,
        now: Timestamp,
    ) -> Result<Vec<AccountId>, StoreError> {
        self.run(move |store| async move {
            let sql = "SELECT DISTINCT account_id FROM hold
                WHERE epoch <> $1 OR expires_at <= $2 LIMIT 1000";
            let backend = store.read.get_database_backend();
            let values = [epoch.into(), now.micros().into()];
            let rows = store
                .read
                .query_all_raw(Statement::from_sql_and_values(backend, sql, values))
                .await?;
            rows.iter().map(|row| Ok(AccountId(row.try_get_by_index(0)?))).collect()
        })
        .await
    }
}

/// Says whether these changes were written. `None` if the changes cannot show it.
pub(super) async fn are_written(
    connection: &impl ConnectionTrait,
    holds: &[HoldChange],
    epoch: i64,
) -> Result<Option<bool>, StoreError> {
    let end = |account: AccountId, id: ChargeId| {
        hold_end::Entity::find_by_id((account.0, id.0)).one(connection)
    };
    for change in holds {
        return Ok(Some(match change {
            // The hold may have ended since. Only this process can have opened it, so the end is
            // proof as well.
            HoldChange::Opened(hold) => {
                hold::Entity::find_by_id(hold.id.0).one(connection).await?.is_some()
                    || end(hold.account, hold.id).await?.is_some()
            }
            // The next owner may have ended the hold, so the epoch must be ours.
            HoldChange::Ended(ended) => {
                end(ended.account, ended.id).await?.is_some_and(|end| end.epoch == epoch)
            }
            HoldChange::Extended(_) => continue,
        }));
    }
    Ok(None)
}

/// Writes the changes of holds. Fails with [`CommitError::Refused`] if a hold that ends is not
/// open.
pub(super) async fn write(
    transaction: &DatabaseTransaction,
    batch: &Batch,
    epoch: i64,
) -> Result<(), CommitError> {
    let mut opened: Vec<Hold> = Vec::new();
    let mut extended: std::collections::BTreeMap<ChargeId, Hold> =
        std::collections::BTreeMap::new();
    let mut ended: Vec<HoldEnd> = Vec::new();
    for change in &batch.holds {
        match change {
            HoldChange::Opened(hold) => opened.push(*hold),
            HoldChange::Extended(hold) => {
                extended.insert(hold.id, *hold);
            }
            HoldChange::Ended(end) => ended.push(*end),
        }
    }
    if !opened.is_empty() {
        run(transaction, OPEN, opened_values(transaction, &opened, epoch)?).await?;
    }
    if !extended.is_empty() {
        let extended: Vec<Hold> = extended.into_values().collect();
        run(transaction, EXTEND, extended_values(transaction, &extended)?).await?;
    }
    if ended.is_empty() {
        return Ok(());
    }
    run(transaction, END, ended_values(transaction, &ended, epoch)?).await?;
    let gone = run(transaction, CLOSE, gone_values(transaction, &ended)?).await?;
    if usize::try_from(gone).is_ok_and(|gone| gone == ended.len()) {
        Ok(())
    } else {
        Err(CommitError::Refused("a hold that ends is not open".into()))
    }
}

/// A hold opens with nothing earned, and so without a bill.
const OPEN: Sql = (
    "INSERT INTO hold (id, account_id, key_id, epoch, day, month, amount, earned, opened_at, expires_at)
    SELECT id, account_id, key_id, $1, day, month, amount, earned, opened_at, expires_at
    FROM UNNEST($2::UUID[], $3::BIGINT[], $4::UUID[], $5::INTEGER[], $6::INTEGER[], $7::BIGINT[],
        $8::BIGINT[], $9::BIGINT[], $10::BIGINT[])
        AS row (id, account_id, key_id, day, month, amount, earned, opened_at, expires_at)",
    "INSERT INTO hold (id, account_id, key_id, epoch, day, month, amount, earned, opened_at, expires_at)
    SELECT unhex(value ->> 0), value ->> 1, unhex(value ->> 2), $1, value ->> 3, value ->> 4, value ->> 5,
        value ->> 6, value ->> 7, value ->> 8
    FROM json_each($2)",
);

const EXTEND: Sql = (
    "UPDATE hold SET amount = row.amount, earned = row.earned,
        price_version = NULLIF(row.price_version, 0), bill = NULLIF(row.bill, '')
    FROM UNNEST($1::UUID[], $2::BIGINT[], $3::BIGINT[], $4::INTEGER[], $5::BYTEA[])
        AS row (id, amount, earned, price_version, bill)
    WHERE hold.id = row.id",
    "UPDATE hold SET amount = row.amount, earned = row.earned, price_version = row.price_version,
        bill = row.bill
    FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS amount, value ->> 2 AS earned,
            value ->> 3 AS price_version, unhex(value ->> 4) AS bill
        FROM json_each($1)) AS row
    WHERE hold.id = row.id",
);

const END: Sql = (
    "INSERT INTO hold_end (epoch, hold_id, account_id, kind, held, captured, at)
    SELECT $1, row.* FROM UNNEST($2::UUID[], $3::BIGINT[], $4::SMALLINT[], $5::BIGINT[], $6::BIGINT[],
        $7::BIGINT[]) AS row",
    "INSERT INTO hold_end (epoch, hold_id, account_id, kind, held, captured, at)
    SELECT $1, unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    FROM json_each($2)",
);

const CLOSE: Sql = (
    "DELETE FROM hold WHERE id = ANY($1::UUID[])",
    "DELETE FROM hold WHERE id IN (SELECT unhex(value) FROM json_each($1))",
);

async fn run(
    transaction: &DatabaseTransaction,
    sql: Sql,
    values: Vec<Value>,
) -> Result<u64, DbErr> {
    Ok(transaction.execute_raw(statement(transaction, sql, values)).await?.rows_affected())
}

fn opened_values(
    transaction: &DatabaseTransaction,
    holds: &[Hold],
    epoch: i64,
) -> Result<Vec<Value>, DbErr> {
    if !is_postgres(transaction) {
        let rows = holds.iter().map(|hold| {
            (
                hold.id.0.simple(),
                hold.account.0,
                hold.key.0.simple(),
                hold.day.0,
                hold.month.0,
                hold.amount.nanos(),
                hold.earned.nanos(),
                hold.opened_at.micros(),
                hold.expires_at.micros(),
            )
        });
        return Ok(vec![epoch.into(), json(rows)?]);
    }
    Ok(vec![
        epoch.into(),
        column(holds, |hold| hold.id.0),
        column(holds, |hold| hold.account.0),
        column(holds, |hold| hold.key.0),
        column(holds, |hold| hold.day.0),
        column(holds, |hold| hold.month.0),
        column(holds, |hold| hold.amount.nanos()),
        column(holds, |hold| hold.earned.nanos()),
        column(holds, |hold| hold.opened_at.micros()),
        column(holds, |hold| hold.expires_at.micros()),
    ])
}

fn extended_values(transaction: &DatabaseTransaction, holds: &[Hold]) -> Result<Vec<Value>, DbErr> {
    if !is_postgres(transaction) {
        let row = |hold: &Hold| {
            let version = hold.bill.and_then(|bill| version_column(&bill));
            let bill = hold.bill.map(|bill| hex::encode(bill.bytes()));
            (hold.id.0.simple(), hold.amount.nanos(), hold.earned.nanos(), version, bill)
        };
        return Ok(vec![json(holds.iter().map(row))?]);
    }
    Ok(vec![
        column(holds, |hold| hold.id.0),
        column(holds, |hold| hold.amount.nanos()),
        column(holds, |hold| hold.earned.nanos()),
        column(holds, |hold| hold.bill.and_then(|bill| version_column(&bill)).unwrap_or_default()),
        column(holds, |hold| hold.bill.map_or_else(Vec::new, |bill| bill.bytes().to_vec())),
    ])
}

fn ended_values(
    transaction: &DatabaseTransaction,
    ends: &[HoldEnd],
    epoch: i64,
) -> Result<Vec<Value>, DbErr> {
    if !is_postgres(transaction) {
        let rows = ends.iter().map(|end| {
            (
                end.id.0.simple(),
                end.account.0,
                end.kind.code(),
                end.held.nanos(),
                end.captured.nanos(),
                end.at.micros(),
            )
        });
        return Ok(vec![epoch.into(), json(rows)?]);
    }
    Ok(vec![
        epoch.into(),
        column(ends, |end| end.id.0),
        column(ends, |end| end.account.0),
        column(ends, |end| end.kind.code()),
        column(ends, |end| end.held.nanos()),
        column(ends, |end| end.captured.nanos()),
        column(ends, |end| end.at.micros()),
    ])
}

fn gone_values(transaction: &DatabaseTransaction, ends: &[HoldEnd]) -> Result<Vec<Value>, DbErr> {
    if !is_postgres(transaction) {
        return Ok(vec![json(ends.iter().map(|end| end.id.0.simple()))?]);
    }
    Ok(vec![column(ends, |end| end.id.0)])
}
