//! Reads a ledger by page: newest or oldest first, with or without a filter. Also sums it up by
//! day.

use std::fmt::Write as _;

use sea_orm::{ConnectionTrait as _, FromQueryResult as _, QueryResult, Statement, Value};

use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::row::Row as _;
use crate::store::sql::is_postgres;
use domain::stored_bill::StoredBill;
use domain::{AccountId, Credits, Day, EntryKind, KeyId, LedgerEntry, Link, Month, Timestamp};
use entity::ledger_entry;

/// How many entries are read for one page at most, so that the work has a limit with any filter. If
/// few entries match, a page may be short or empty and still have a cursor.
const LOOKED_THROUGH_MAX: i64 = 5_000;
/// How many more entries are read at each edge of a span of time, in case a clock went back a
/// little.
const SLACK: i64 = 1_000;

/// Which entries are read. Each field that is set leaves fewer entries.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Only entries at or after this time.
    pub from: Option<Timestamp>,
    /// Only entries before this time.
    pub until: Option<Timestamp>,
    /// Only entries of this kind.
    pub kind: Option<EntryKind>,
    /// Only charges of this key.
    pub key: Option<KeyId>,
    /// Only charges of calls on this route.
    pub route: Option<String>,
}

/// A ledger entry, and the usage record of its call if there is one.
#[derive(Clone, Debug)]
pub struct EntryOfCall {
    /// The entry.
    pub entry: LedgerEntry,
    /// The method and the route of the call. `None` if the entry has no call, or its record is
    /// gone.
    pub endpoint: Option<(String, String)>,
    /// The model that was asked for. Empty if none is known.
    pub model: String,
    /// The HTTP status of the answer.
    pub status: Option<i16>,
    /// The tokens of the prompt and of the completion.
    pub tokens: Option<(i64, i64)>,
}

/// A page of a ledger.
#[derive(Clone, Debug)]
pub struct EntriesPage {
    /// The entries.
    pub entries: Vec<EntryOfCall>,
    /// The entry after which the next page begins. `None` on the last page.
    pub next: Option<i64>,
}

/// The sum of the entries of one kind on one UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaySum {
    /// The UTC day on which the entries were decided.
    pub day: Day,
    /// The kind of the entries.
    pub kind: EntryKind,
    /// The number of entries.
    pub count: i64,
    /// The sum of the amounts, with its sign.
    pub amount: Credits,
}

/// The ledger of an account in a span of time.
#[derive(Clone, Debug)]
pub struct StatementSums {
    /// The balance before its first entry.
    pub opening: Credits,
    /// The balance after its last entry.
    pub closing: Credits,
    /// By day and kind.
    pub sums: Vec<DaySum>,
}

impl Store {
    /// Reads a page of an account's ledger. Newest first, the page begins below entry `from_seq`;
    /// oldest first, it begins above it.
    pub async fn list_entries(
        &self,
        account: AccountId,
        is_newest_first: bool,
        from_seq: Option<i64>,
        limit: u64,
        filter: EntryFilter,
    ) -> Result<EntriesPage, StoreError> {
        self.run(move |store| async move {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let (mut low, mut high) = store.span(account, filter.from, filter.until).await?;
            match from_seq {
                Some(seq) if is_newest_first => high = high.min(seq),
                Some(seq) => low = low.max(seq.saturating_add(1)),
                None => {}
            }
            // Rare kinds have their own index, so a filter for one needs no limit.
            let is_narrow = filter.key.is_some()
                || filter.route.is_some()
                || filter.kind.is_some_and(|kind| !is_rare(kind));
            let (whole_low, whole_high) = (low, high);
            if is_narrow && is_newest_first {
                low = low.max(high.saturating_sub(LOOKED_THROUGH_MAX));
            } else if is_narrow {
                high = high.min(low.saturating_add(LOOKED_THROUGH_MAX));
            }
            let entries = store
                .entries_between(account, (low, high), is_newest_first, limit, &filter)
                .await?;
            let is_full = i64::try_from(entries.len()).unwrap_or(i64::MAX) >= limit;
            let next = if is_full {
                entries.last().map(|last| last.entry.seq)
            } else if is_newest_first {
                (low > whole_low).then_some(low)
            } else {
                (high < whole_high).then(|| high.saturating_sub(1))
            };
            Ok(EntriesPage { entries, next })
        })
        .await
    }

    async fn entries_between(
        &self,
        account: AccountId,
        (low, high): (i64, i64),
        is_newest_first: bool,
        limit: i64,
        filter: &EntryFilter,
    ) -> Result<Vec<EntryOfCall>, StoreError> {
        let mut values: Vec<Value> = vec![account.0.into(), low.into(), high.into(), limit.into()];
        let mut conditions = String::new();
        let mut narrow = |condition: &str, value: Value| {
            values.push(value);
            conditions.push_str(&condition.replace('?', &format!("${}", values.len())));
        };
        if let Some(from) = filter.from {
            narrow(" AND entry.at >= ?", from.micros().into());
        }
        if let Some(until) = filter.until {
            narrow(" AND entry.at < ?", until.micros().into());
        }
        if let Some(key) = filter.key {
            narrow(" AND entry.key_id = ?", key.0.into());
        }
        if let Some(route) = &filter.route {
            narrow(" AND usage.route = ?", route.clone().into());
        }
        if let Some(kind) = filter.kind {
            // PostgreSQL uses the index of rare kinds only if the condition has the words of that
            // index.
            let rare = if is_rare(kind) { " AND entry.kind NOT IN (2, 3)" } else { "" };
            let _ = write!(conditions, "{rare} AND entry.kind = {}", kind.code());
        }
        // Without this, SQLite would read all entries in the order of their numbers.
        let is_rare = filter.kind.is_some_and(is_rare);
        let index = if is_rare && !is_postgres(&self.read) {
            " INDEXED BY ledger_entry_of_money"
        } else {
            ""
        };
        let order = if is_newest_first { "DESC" } else { "ASC" };
        let entry = LedgerEntry::COLUMNS.map(|column| format!("entry.{}", column.name)).join(", ");
        let sql = format!(
            "SELECT usage.method, usage.route, usage.model, usage.status, usage.prompt_tokens,
                usage.completion_tokens, {entry}
            FROM ledger_entry AS entry{index} LEFT JOIN usage_record AS usage
                ON usage.account_id = entry.account_id AND usage.id = entry.reference
            WHERE entry.account_id = $1 AND entry.seq >= $2 AND entry.seq < $3{conditions}
            ORDER BY entry.seq {order} LIMIT $4"
        );
        let backend = self.read.get_database_backend();
        let rows = self.read.query_all_raw(Statement::from_sql_and_values(backend, sql, values));
        rows.await?.iter().map(entry_of_call).collect()
    }

    /// Returns the range of entry numbers for a span of time. The end is exclusive.
    pub(super) async fn span(
        &self,
        account: AccountId,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<(i64, i64), StoreError> {
        let end = self.last_seq(account).await?.saturating_add(1);
        let low = match from {
            Some(from) => self.seq_at(account, from, end).await?.saturating_sub(SLACK).max(1),
            None => 1,
        };
        let high = match until {
            Some(until) => self.seq_at(account, until, end).await?.saturating_add(SLACK).min(end),
            None => end,
        };
        Ok((low, high))
    }

    async fn last_seq(&self, account: AccountId) -> Result<i64, StoreError> {
        const SQL: &str = "SELECT seq FROM ledger_entry WHERE account_id = $1
            ORDER BY seq DESC LIMIT 1";
        let backend = self.read.get_database_backend();
        let statement = Statement::from_sql_and_values(backend, SQL, [account.0.into()]);
        let row = self.read.query_one_raw(statement).await?;
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0))
    }

    /// Returns the number of the first entry at or after `at`, or `end` if there is none. A binary
    /// search, because entries have no index by time.
    ///
    /// Fails with [`StoreError::Corrupt`] if an entry is missing.
    async fn seq_at(&self, account: AccountId, at: Timestamp, end: i64) -> Result<i64, StoreError> {
        const SQL: &str = "SELECT at FROM ledger_entry WHERE account_id = $1 AND seq = $2";
        let backend = self.read.get_database_backend();
        let (mut low, mut high) = (1, end);
        while low < high {
            let middle = low.saturating_add(high.saturating_sub(low) / 2);
            let values = [account.0.into(), middle.into()];
            let statement = Statement::from_sql_and_values(backend, SQL, values);
            let row = self.read.query_one_raw(statement).await?;
            let is_before = match row {
                Some(row) => row.try_get_by_index::<i64>(0)? < at.micros(),
                None => return Err(StoreError::Corrupt("a ledger with a gap".into())),
            };
            if is_before {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Sums up an account's ledger from `from` to before `until`.
    pub async fn statement(
        &self,
        account: AccountId,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<StatementSums, StoreError> {
        const BALANCE: &str = "SELECT balance_after FROM ledger_entry
            WHERE account_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT 1";
        const SUMS: &str =
            "SELECT CAST(at / 86400000000 AS INTEGER), kind, CAST(COUNT(*) AS BIGINT),
                CAST(SUM(amount) AS BIGINT)
            FROM ledger_entry WHERE account_id = $1 AND seq >= $2 AND seq < $3
            GROUP BY 1, 2 ORDER BY 1, 2";
        self.run(move |store| async move {
            let end = store.last_seq(account).await?.saturating_add(1);
            let low = store.seq_at(account, from, end).await?;
            let high = store.seq_at(account, until, end).await?;
            let backend = store.read.get_database_backend();
            let statement = |sql: &str, values: Vec<Value>| {
                Statement::from_sql_and_values(backend, sql, values)
            };
            let mut balances = [Credits::ZERO; 2];
            for (balance, seq) in balances.iter_mut().zip([low, high]) {
                let values = vec![account.0.into(), seq.into()];
                if let Some(row) = store.read.query_one_raw(statement(BALANCE, values)).await? {
                    *balance = Credits::from_nanos(row.try_get_by_index(0)?);
                }
            }
            let values = vec![account.0.into(), low.into(), high.into()];
            let rows = store.read.query_all_raw(statement(SUMS, values)).await?;
            let sum = |row: &QueryResult| {
                let kind = EntryKind::from_code(row.try_get_by_index(1)?);
                Ok::<_, StoreError>(DaySum {
                    day: Day(row.try_get_by_index(0)?),
                    kind: kind.ok_or_else(|| StoreError::Corrupt("an unknown kind".into()))?,
                    count: row.try_get_by_index(2)?,
                    amount: Credits::from_nanos(row.try_get_by_index(3)?),
                })
            };
            let sums = rows.iter().map(sum).collect::<Result<_, _>>()?;
            let [opening, closing] = balances;
            Ok(StatementSums { opening, closing, sums })
        })
        .await
    }
}

const fn is_rare(kind: EntryKind) -> bool {
    !matches!(kind, EntryKind::Charge | EntryKind::Capture)
}

fn entry_of_call(row: &QueryResult) -> Result<EntryOfCall, StoreError> {
    let model = ledger_entry::Model::from_query_result(row, "")?;
    let method: Option<String> = row.try_get_by_index(0)?;
    let route: Option<String> = row.try_get_by_index(1)?;
    let prompt: Option<i64> = row.try_get_by_index(4)?;
    let completion: Option<i64> = row.try_get_by_index(5)?;
    Ok(EntryOfCall {
        entry: entry(&model)?,
        endpoint: method.zip(route),
        model: row.try_get_by_index::<Option<String>>(2)?.unwrap_or_default(),
        status: row.try_get_by_index(3)?,
        tokens: prompt.zip(completion),
    })
}

/// Converts a row. Fails with [`StoreError::Corrupt`] if its kind is unknown.
pub(in crate::store) fn entry(row: &ledger_entry::Model) -> Result<LedgerEntry, StoreError> {
    let kind = EntryKind::from_code(row.kind).ok_or_else(|| {
        StoreError::Corrupt(format!("entry {}/{} has an unknown kind", row.account_id, row.seq))
    })?;
    Ok(LedgerEntry {
        account: AccountId(row.account_id),
        seq: row.seq,
        epoch: row.epoch,
        kind,
        amount: Credits::from_nanos(row.amount),
        balance_after: Credits::from_nanos(row.balance_after),
        reference: row.reference,
        key: row.key_id.map(KeyId),
        day: Day(row.day),
        month: Month(row.month),
        at: Timestamp::from_micros(row.at),
        bill: StoredBill::from_columns(row.price_version.map(i64::from), row.bill.as_deref()),
        // A link of another length is damaged. The default value breaks the chain, so `verify`
        // reports it.
        link: Link::from_slice(&row.link).unwrap_or_default(),
    })
}
