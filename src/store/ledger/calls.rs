//! The entries of calls with what their usage records say of who has served them.

use sea_orm::{DbErr, FromQueryResult as _, QueryResult};
use uuid::Uuid;

use super::entries::entry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::row::Row as _;
use crate::store::sql::query;
use domain::{AccountId, Bill, ChargeId, Environment, LedgerEntry, StoredBill, Timestamp, UserId};
use entity::ledger_entry;

/// What the usage record of a call says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedCall {
    /// The deployment that was asked last, or the upstream.
    pub upstream: String,
    /// The model that was asked for.
    pub model: String,
    /// When the call arrived.
    pub started_at: Timestamp,
}

/// An entry that may belong to a call.
#[derive(Clone, Debug)]
pub struct EntryOfServed {
    /// The entry: a charge, a capture, a refund, a grant or a deduction.
    pub entry: LedgerEntry,
    /// The usage record of what it refers to, if there is one.
    pub call: Option<ServedCall>,
}

/// A call, as far as it was billed.
#[derive(Clone, Debug)]
pub struct BilledCall {
    /// The number of its usage record.
    pub record: i64,
    /// Its bill; `None`: it is of a test account, was given back, or has none.
    pub bill: Option<Bill>,
}

fn served(row: &QueryResult) -> Result<Option<ServedCall>, DbErr> {
    let upstream: Option<String> = row.try_get("", "served_upstream")?;
    let Some(upstream) = upstream else { return Ok(None) };
    Ok(Some(ServedCall {
        upstream,
        model: row.try_get("", "served_model")?,
        started_at: Timestamp::from_micros(row.try_get("", "served_started_at")?),
    }))
}

fn read(row: &QueryResult) -> Result<EntryOfServed, StoreError> {
    let entry = entry(&ledger_entry::Model::from_query_result(row, "")?)?;
    Ok(EntryOfServed { entry, call: served(row)? })
}

impl Store {
    /// Up to 500 live accounts after this one whose last entry is from then or later, in order,
    /// with their users.
    pub async fn live_accounts_since(
        &self,
        since: Timestamp,
        after: AccountId,
    ) -> Result<Vec<(AccountId, UserId)>, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "SELECT id, user_id FROM account
                WHERE updated_at >= $1 AND id > $2 AND environment = {} ORDER BY id LIMIT 500",
                Environment::Live.code()
            );
            let rows = query(&store.read, &sql, [since.micros().into(), after.0.into()]).await?;
            let account = |row: &QueryResult| {
                Ok((AccountId(row.try_get_by_index(0)?), UserId(row.try_get_by_index::<Uuid>(1)?)))
            };
            rows.iter().map(account).collect()
        })
        .await
    }

    /// The latest calls with usage records before this one, up to `limit`, the last one first.
    pub async fn latest_bills(
        &self,
        before: i64,
        limit: u64,
    ) -> Result<Vec<BilledCall>, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "SELECT usage.number, CAST(entry.price_version AS BIGINT), entry.bill
                FROM (SELECT number, id, account_id, seq FROM usage_record WHERE number < $1
                    ORDER BY number DESC LIMIT $2) AS usage
                LEFT JOIN account ON account.id = usage.account_id AND account.environment = {}
                LEFT JOIN ledger_entry AS entry ON entry.account_id = account.id
                    AND entry.seq = usage.seq AND entry.reference = usage.id
                    AND entry.kind IN (2, 3)
                ORDER BY usage.number DESC",
                Environment::Live.code()
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let call = |row: &QueryResult| {
                let bytes: Option<Vec<u8>> = row.try_get_by_index(2)?;
                let bill = StoredBill::from_columns(row.try_get_by_index(1)?, bytes.as_deref());
                let bill = bill.and_then(|stored| stored.bill());
                Ok(BilledCall { record: row.try_get_by_index(0)?, bill })
            };
            query(&store.read, &sql, [before.into(), limit.into()])
                .await?
                .iter()
                .map(call)
                .collect()
        })
        .await
    }

    /// What the usage record of a call of this account says.
    pub async fn served_call(
        &self,
        account: AccountId,
        charge: ChargeId,
    ) -> Result<Option<ServedCall>, StoreError> {
        const SQL: &str = "SELECT upstream AS served_upstream, model AS served_model,
                started_at AS served_started_at
            FROM usage_record WHERE account_id = $1 AND id = $2";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, [account.0.into(), charge.0.into()]).await?;
            Ok(rows.first().map(served).transpose()?.flatten())
        })
        .await
    }

    /// The numbers of an account's entries of this span of time, and some around them: the first
    /// one, and the one after the last.
    pub async fn entries_of_span(
        &self,
        account: AccountId,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<(i64, i64), StoreError> {
        self.run(move |store| async move { store.span(account, Some(from), Some(until)).await })
            .await
    }

    /// Up to `limit` entries of an account that may belong to calls: those of this span of time
    /// with these numbers, in order.
    pub async fn entries_of_calls(
        &self,
        account: AccountId,
        (from, until): (Timestamp, Timestamp),
        (low, high): (i64, i64),
        limit: u64,
    ) -> Result<Vec<EntryOfServed>, StoreError> {
        self.run(move |store| async move {
            let columns = LedgerEntry::COLUMNS.map(|column| format!("entry.{}", column.name));
            let sql = format!(
                "SELECT {}, usage.upstream AS served_upstream, usage.model AS served_model,
                    usage.started_at AS served_started_at
                FROM ledger_entry AS entry LEFT JOIN usage_record AS usage
                    ON usage.account_id = entry.account_id AND usage.id = entry.reference
                WHERE entry.account_id = $1 AND entry.seq >= $2 AND entry.seq < $3
                    AND entry.at >= $4 AND entry.at < $5 AND entry.kind IN (2, 3, 4, 5, 6)
                ORDER BY entry.seq LIMIT $6",
                columns.join(", ")
            );
            let values = [
                account.0.into(),
                low.into(),
                high.into(),
                from.micros().into(),
                until.micros().into(),
                i64::try_from(limit).unwrap_or(i64::MAX).into(),
            ];
            query(&store.read, &sql, values).await?.iter().map(read).collect()
        })
        .await
    }
}
