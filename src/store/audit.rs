//! What `verify` reads. Each account is read in one snapshot.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, ConnectionTrait as _, DatabaseTransaction, EntityTrait, PaginatorTrait as _,
    QueryFilter, QueryOrder, QuerySelect, Statement,
};
use uuid::Uuid;

use super::accounts::{spends_of, stored};
use super::error::StoreError;
use super::{Store, ledger};
use domain::audit::AuditedAccount;
use domain::bill_audit::RecordedCall;
use domain::{
    AccountId, ChargeId, Credits, EntryKind, KeyId, LedgerEntry, Link, StoredBill, Tally, Timestamp,
};
use entity::{account, api_key, hold_end, ledger_entry};

const PAGE: u64 = 1_000;

/// A ledger entry, and the end of its durable hold.
pub struct AuditedEntry {
    /// The entry.
    pub entry: LedgerEntry,
    /// What was captured of the hold, according to its end; `None` if it has no durable hold.
    pub captured: Option<Credits>,
}

/// A snapshot of one account.
pub struct Audit {
    transaction: DatabaseTransaction,
    id: AccountId,
}

impl Store {
    /// The next accounts after `after`, sorted by id. The flag is true if nothing was ever written
    /// for the account, so that nothing has to be checked. This is true for most accounts of a
    /// large database.
    pub async fn audited_accounts(
        &self,
        after: Option<AccountId>,
    ) -> Result<Vec<(AccountId, bool)>, StoreError> {
        // Each subquery asks for the first row in the order of an index. With NOT EXISTS, or
        // without an order, PostgreSQL scans the complete table, once a page or even once an
        // account, if few accounts have many rows.
        const SQL: &str = "SELECT id, CASE WHEN seq = 0 AND balance = 0 AND link = $2
                AND environment IN (1, 2) AND status IN (1, 2)
                AND (SELECT row.seq FROM ledger_entry AS row WHERE row.account_id = account.id
                    ORDER BY row.seq LIMIT 1) IS NULL
                AND (SELECT row.id FROM api_key AS row WHERE row.account_id = account.id LIMIT 1) IS NULL
                AND (SELECT row.id FROM payment AS row WHERE row.account_id = account.id
                    ORDER BY row.id LIMIT 1) IS NULL
                AND (SELECT row.id FROM hold AS row WHERE row.account_id = account.id LIMIT 1) IS NULL
                AND (SELECT row.hold_id FROM hold_end AS row WHERE row.account_id = account.id
                    ORDER BY row.hold_id LIMIT 1) IS NULL
                THEN 1 ELSE 0 END
            FROM account WHERE id > $1 ORDER BY id LIMIT 1000";
        let backend = self.read.get_database_backend();
        let values = [after.map_or(0, |id| id.0).into(), Link::START.0.to_vec().into()];
        let statement = Statement::from_sql_and_values(backend, SQL, values);
        let rows = self.read.query_all_raw(statement).await?;
        let account = |row: &sea_orm::QueryResult| {
            let is_empty = row.try_get_by_index::<i32>(1)? == 1;
            Ok((AccountId(row.try_get_by_index(0)?), is_empty))
        };
        rows.iter().map(account).collect()
    }

    /// Number of accounts.
    pub async fn count_accounts(&self) -> Result<u64, StoreError> {
        Ok(account::Entity::find().count(&self.read).await?)
    }

    /// Accounts that other rows refer to and that do not exist; at most the first thousand.
    pub async fn accounts_gone(&self) -> Result<Vec<AccountId>, StoreError> {
        const SQL: &str = "SELECT account_id FROM (
                SELECT account_id FROM ledger_entry UNION SELECT account_id FROM usage_record
                UNION SELECT account_id FROM hold UNION SELECT account_id FROM hold_end
            ) AS named WHERE NOT EXISTS (SELECT 1 FROM account WHERE id = account_id)
            ORDER BY account_id LIMIT 1000";
        let backend = self.read.get_database_backend();
        let rows = self.read.query_all_raw(Statement::from_string(backend, SQL)).await?;
        rows.iter().map(|row| Ok(AccountId(row.try_get_by_index(0)?))).collect()
    }

    /// Opens a snapshot of an account.
    pub async fn audit(&self, id: AccountId) -> Result<Audit, StoreError> {
        Ok(Audit { transaction: self.snapshot().await?, id })
    }
}

/// A usage record, and the ledger entry that it refers to.
pub struct AuditedUsage {
    /// Its number in the order of writing.
    pub number: i64,
    /// The id of the call.
    pub id: ChargeId,
    /// The account that paid.
    pub account: AccountId,
    /// The cost of the call, according to the record.
    pub cost: Credits,
    /// The kind, amount and reference of the entry that it refers to. `None` if it refers to none,
    /// and `Some(None)` if that entry does not exist.
    pub entry: Option<Option<(EntryKind, Credits, Uuid)>>,
    /// Does the key belong to the account?
    pub is_key_own: bool,
    /// The number of that entry, and its bill if it has one.
    pub bill: Option<(i64, StoredBill)>,
    /// What the record says of the call.
    pub call: RecordedCall,
}

impl Store {
    /// The next usage records after number `after`, in the order of writing.
    pub async fn audited_usage(&self, after: i64) -> Result<Vec<AuditedUsage>, StoreError> {
        // The entry of a record is written in the same transaction or earlier. So one statement
        // sees the entry of every record.
        let sql =
            "SELECT usage.number, usage.id, usage.account_id, usage.cost, usage.seq, entry.kind,
                entry.amount, entry.reference, api_key.account_id,
                CAST(entry.price_version AS BIGINT), entry.bill, usage.method, usage.route,
                usage.model, usage.prompt_tokens, usage.completion_tokens, usage.tally,
                usage.started_at
            FROM usage_record AS usage
            LEFT JOIN api_key ON api_key.id = usage.key_id
            LEFT JOIN ledger_entry AS entry
                ON entry.account_id = usage.account_id AND entry.seq = usage.seq
            WHERE usage.number > $1 ORDER BY usage.number LIMIT 1000";
        let backend = self.read.get_database_backend();
        let statement = Statement::from_sql_and_values(backend, sql, [after.into()]);
        let rows = self.read.query_all_raw(statement).await?;
        rows.iter()
            .map(|row| {
                let seq: Option<i64> = row.try_get_by_index(4)?;
                let kind: Option<i16> = row.try_get_by_index(5)?;
                let entry = match kind.and_then(EntryKind::from_code) {
                    Some(kind) => {
                        let amount = Credits::from_nanos(row.try_get_by_index(6)?);
                        Some((kind, amount, row.try_get_by_index(7)?))
                    }
                    None => None,
                };
                let bytes: Option<Vec<u8>> = row.try_get_by_index(10)?;
                let bill = StoredBill::from_columns(row.try_get_by_index(9)?, bytes.as_deref());
                Ok(AuditedUsage {
                    number: row.try_get_by_index(0)?,
                    id: ChargeId(row.try_get_by_index(1)?),
                    account: AccountId(row.try_get_by_index(2)?),
                    cost: Credits::from_nanos(row.try_get_by_index(3)?),
                    entry: seq.map(|_| entry),
                    is_key_own: row.try_get_by_index::<Option<i64>>(8)?
                        == Some(row.try_get_by_index(2)?),
                    bill: seq.zip(bill),
                    call: RecordedCall {
                        method: row.try_get_by_index(11)?,
                        route: row.try_get_by_index(12)?,
                        model: row.try_get_by_index(13)?,
                        tokens: (row.try_get_by_index(14)?, row.try_get_by_index(15)?),
                        tally: Tally::from_code(row.try_get_by_index(16)?),
                        started_at: Timestamp::from_micros(row.try_get_by_index(17)?),
                    },
                })
            })
            .collect()
    }
}

impl Audit {
    /// The account's row and its keys' counters.
    pub async fn account(&mut self) -> Result<AuditedAccount, StoreError> {
        let id = self.id;
        let row = account::Entity::find_by_id(id.0).one(&self.transaction).await?;
        let row = row.ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
        let mut keys = api_key::Entity::find()
            .filter(api_key::Column::AccountId.eq(id.0))
            .all(&self.transaction)
            .await?;
        let ids = keys.iter().map(|key| KeyId(key.id)).collect();
        // The counters of a deleted key do not change any more, even if one of its calls ends
        // later.
        keys.retain(|key| !key.is_deleted);
        let spends = spends_of(&self.transaction, &keys).await?;
        let totals = spends.iter().map(|(key, (_, total))| (*key, *total)).collect();
        let spends = spends.into_values().map(|(spend, _)| spend).collect();
        let (held, ended_and_open, captured) = self.holds().await?;
        Ok(AuditedAccount {
            account: stored(&row)?,
            keys: ids,
            spends,
            totals,
            held,
            ended_and_open,
            captured,
            live_keys: keys.iter().map(|key| KeyId(key.id)).collect(),
            payments_astray: self.payments_astray().await?,
            entries_astray: self.entries_astray().await?,
            epoch_max: self
                .number("SELECT MAX(epoch) FROM shard_lease WHERE shard >= $1", 0)
                .await?,
        })
    }

    /// Number of hours whose rollups differ from the usage records, and number of days whose
    /// rollups differ from their hours. Hours with deleted usage records are not compared.
    pub async fn rollups_astray(&self) -> Result<(u64, u64), StoreError> {
        const DAYS: &str = "SELECT COUNT(*) FROM (
                SELECT day FROM (
                    SELECT period / 24 AS day, SUM(calls) AS calls, SUM(cost) AS cost
                    FROM usage_hour WHERE account_id = $1 GROUP BY 1
                    UNION ALL
                    SELECT period, -SUM(calls), -SUM(cost)
                    FROM usage_day WHERE account_id = $1 GROUP BY 1
                ) AS both_of_them GROUP BY day HAVING SUM(calls) <> 0 OR SUM(cost) <> 0
            ) AS astray";
        // Records are deleted in the order in which they were written. A call may have begun
        // earlier than one that was written before it.
        const FIRST: &str = "SELECT CASE WHEN (SELECT MIN(number) FROM usage_record) = 1 THEN 0
            ELSE (SELECT MIN(started_at) / 3600000000 + 48 FROM usage_record WHERE account_id = $1)
            END";
        const HOURS: &str = "SELECT COUNT(*) FROM (
                SELECT period FROM (
                    SELECT CAST(started_at / 3600000000 AS INTEGER) AS period, COUNT(*) AS calls,
                        SUM(cost) AS cost
                    FROM usage_record WHERE account_id = $1
                        AND number <= (SELECT number FROM usage_mark) GROUP BY 1
                    UNION ALL
                    SELECT period, -SUM(calls), -SUM(cost)
                    FROM usage_hour WHERE account_id = $1 GROUP BY 1
                ) AS both_of_them WHERE period >= $2
                GROUP BY period HAVING SUM(calls) <> 0 OR SUM(cost) <> 0
            ) AS astray";
        let days = self.number(DAYS, self.id.0).await?;
        let backend = self.transaction.get_database_backend();
        let first = Statement::from_sql_and_values(backend, FIRST, [self.id.0.into()]);
        let first = self.transaction.query_one_raw(first).await?;
        let first = first.map(|row| row.try_get_by_index::<Option<i64>>(0)).transpose()?.flatten();
        // There are no records to compare with.
        let Some(first) = first else { return Ok((0, u64::try_from(days).unwrap_or(0))) };
        let values = [self.id.0.into(), first.into()];
        let hours = Statement::from_sql_and_values(backend, HOURS, values);
        let hours = self.transaction.query_one_raw(hours).await?;
        let hours = hours.map(|row| row.try_get_by_index::<i64>(0)).transpose()?.unwrap_or(0);
        Ok((u64::try_from(hours).unwrap_or(0), u64::try_from(days).unwrap_or(0)))
    }

    async fn payments_astray(&self) -> Result<u64, StoreError> {
        const SQL: &str = "SELECT COUNT(*) FROM payment LEFT JOIN ledger_entry AS entry
                ON entry.account_id = payment.account_id AND entry.kind = 1 AND entry.reference = payment.id
            WHERE payment.account_id = $1 AND payment.confirmed_at IS NOT NULL
                AND (entry.amount IS NULL OR entry.amount <> payment.amount)";
        Ok(u64::try_from(self.number(SQL, self.id.0).await?).unwrap_or(0))
    }

    async fn entries_astray(&self) -> Result<u64, StoreError> {
        // A call has exactly one charge or capture, and is refunded at most that amount. A top-up
        // has a confirmed payment.
        const CALLS: &str = "SELECT COUNT(*) FROM (
                SELECT reference FROM ledger_entry WHERE account_id = $1 AND kind IN (2, 3, 4)
                GROUP BY reference
                HAVING SUM(CASE WHEN kind = 4 THEN 0 ELSE 1 END) <> 1 OR SUM(amount) > 0) AS astray";
        const TOP_UPS: &str = "SELECT COUNT(*) FROM ledger_entry AS entry
            LEFT JOIN payment ON payment.id = entry.reference AND payment.account_id = entry.account_id
            WHERE entry.account_id = $1 AND entry.kind = 1 AND payment.confirmed_at IS NULL";
        // The credits taken back of a payment are those that its reversals have taken.
        const REVERSALS: &str = "SELECT COUNT(*) FROM (
                SELECT reference, SUM(amount) AS amount FROM (
                    SELECT reference, amount FROM ledger_entry
                    WHERE account_id = $1 AND kind IN (7, 8, 9)
                    UNION ALL
                    SELECT payment_id, taken FROM reversal WHERE account_id = $1
                ) AS moved GROUP BY reference HAVING SUM(amount) <> 0) AS astray";
        let mut astray = 0_i64;
        for sql in [CALLS, TOP_UPS, REVERSALS] {
            astray = astray.saturating_add(self.number(sql, self.id.0).await?);
        }
        Ok(u64::try_from(astray).unwrap_or(0))
    }

    async fn number(&self, sql: &str, argument: i64) -> Result<i64, StoreError> {
        let backend = self.transaction.get_database_backend();
        let statement = Statement::from_sql_and_values(backend, sql, [argument.into()]);
        let row = self.transaction.query_one_raw(statement).await?;
        let number = row.map(|row| row.try_get_by_index::<Option<i64>>(0)).transpose()?;
        Ok(number.flatten().unwrap_or(0))
    }

    async fn holds(&self) -> Result<(Credits, u64, (u64, Credits)), StoreError> {
        const OPEN: &str =
            "SELECT CAST(COALESCE(SUM(hold.amount), 0) AS BIGINT), COUNT(ended.hold_id)
            FROM hold LEFT JOIN hold_end AS ended
                ON ended.account_id = hold.account_id AND ended.hold_id = hold.id
            WHERE hold.account_id = $1";
        const ENDED: &str =
            "SELECT CAST(COALESCE(SUM(captured), 0) AS BIGINT), COUNT(*) FROM hold_end
            WHERE account_id = $1 AND captured > 0";
        let backend = self.transaction.get_database_backend();
        let mut found = [(Credits::ZERO, 0_u64); 2];
        for (place, sql) in found.iter_mut().zip([OPEN, ENDED]) {
            let statement = Statement::from_sql_and_values(backend, sql, [self.id.0.into()]);
            if let Some(row) = self.transaction.query_one_raw(statement).await? {
                let sum = Credits::from_nanos(row.try_get_by_index(0)?);
                *place = (sum, u64::try_from(row.try_get_by_index::<i64>(1)?).unwrap_or(0));
            }
        }
        let [(held, ended_and_open), (captured, count)] = found;
        Ok((held, ended_and_open, (count, captured)))
    }

    /// The next entries after number `after`, with their captures.
    pub async fn entries(&mut self, after: i64) -> Result<Vec<AuditedEntry>, StoreError> {
        let rows = ledger_entry::Entity::find()
            .filter(ledger_entry::Column::AccountId.eq(self.id.0))
            .filter(ledger_entry::Column::Seq.gt(after))
            .order_by_asc(ledger_entry::Column::Seq)
            .limit(PAGE)
            .all(&self.transaction)
            .await?;
        let mut captured = BTreeMap::new();
        // In pieces, to stay below the databases' bind limits.
        for piece in rows.chunks(500) {
            let references = piece.iter().map(|row| row.reference);
            let ends = hold_end::Entity::find()
                .filter(hold_end::Column::AccountId.eq(self.id.0))
                .filter(hold_end::Column::HoldId.is_in(references))
                .all(&self.transaction)
                .await?;
            captured
                .extend(ends.iter().map(|end| (end.hold_id, Credits::from_nanos(end.captured))));
        }
        rows.iter()
            .map(|row| {
                let captured = captured.get(&row.reference).copied();
                Ok(AuditedEntry { entry: ledger::entry(row)?, captured })
            })
            .collect()
    }

    /// Ends the snapshot.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.transaction.rollback().await?)
    }
}
