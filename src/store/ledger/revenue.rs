//! Sums of the entries of all live accounts, by UTC day and by kind.
//!
//! Accounts are read by page, each page in one state of the database. An account is told by its own
//! entries alone, so it does not matter that another page is read a moment later.

use sea_orm::{QueryResult, Value};

use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::sql::query;
use domain::revenue::EntrySums;
use domain::{AccountId, Credits, Day, EntryKind, Environment, MICROS_PER_DAY, Timestamp};

/// Accounts of one page.
const ACCOUNTS: usize = 500;
/// Accounts with at most so many entries are summed up with others. One that has more is read by
/// itself, and only as much of it as the span needs.
const FEW: i64 = 2_000;
/// Entries of such an account that are summed up at once.
const PIECE: i64 = 100_000;
/// An account whose last entry is so much older than a span has no entry in it, although a clock
/// may have gone back.
const SETTLED_MICROS: i64 = MICROS_PER_DAY;

/// Sums of entries of one day, of one kind and of one payment provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayEntries {
    /// The UTC day; `None`: before the span.
    pub day: Option<Day>,
    /// The provider of the payment. Empty if they are of no payment.
    pub provider: String,
    /// The sums.
    pub sums: EntrySums,
}

/// The sums of a page of accounts.
#[derive(Clone, Debug)]
pub struct RevenuePage {
    /// The balances of accounts without entries in the span.
    pub idle: Credits,
    /// The sums of the entries of the others from their first one on.
    pub sums: Vec<DayEntries>,
    /// Accounts of the page that have too many entries for that.
    pub large: Vec<AccountId>,
    /// The account after which the next page begins. `None` on the last page.
    pub next: Option<AccountId>,
}

/// The entries of one account around a span.
#[derive(Clone, Copy, Debug)]
pub struct SpanOfAccount {
    /// The balance before entry `low`.
    pub opening: Credits,
    /// The first entry to read.
    pub low: i64,
    /// The one after the last.
    pub high: i64,
}

/// What is selected of entries, grouped by the first four columns. `$1` and `$2` are the span.
const SUMS: &str =
    "SELECT CASE WHEN entry.at < $1 THEN -1 ELSE CAST(entry.at / 86400000000 AS INTEGER) END,
        entry.kind,
        CASE WHEN entry.kind IN (5, 6) AND entry.reference <> account.user_id THEN 1 ELSE 0 END,
        COALESCE(payment.provider, ''), CAST(COUNT(*) AS BIGINT), CAST(SUM(entry.amount) AS BIGINT)
    FROM account INNER JOIN ledger_entry AS entry ON entry.account_id = account.id
    LEFT JOIN payment ON payment.id = entry.reference AND entry.kind IN (1, 7, 8, 9)
    WHERE entry.at < $2";

fn read(row: &QueryResult) -> Result<DayEntries, StoreError> {
    let kind = EntryKind::from_code(row.try_get_by_index(1)?);
    let day: i32 = row.try_get_by_index(0)?;
    Ok(DayEntries {
        day: (day >= 0).then_some(Day(day)),
        provider: row.try_get_by_index(3)?,
        sums: EntrySums {
            kind: kind.ok_or_else(|| StoreError::Corrupt("an unknown kind".into()))?,
            is_correction: row.try_get_by_index::<i32>(2)? == 1,
            count: u64::try_from(row.try_get_by_index::<i64>(4)?).unwrap_or(0),
            amount: Credits::from_nanos(row.try_get_by_index(5)?),
        },
    })
}

impl Store {
    /// The sums of the live accounts after this one, for a span of time.
    pub async fn revenue_page(
        &self,
        after: AccountId,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<RevenuePage, StoreError> {
        let live = Environment::Live.code();
        let accounts = format!(
            "SELECT id, balance, seq, updated_at FROM account
            WHERE environment = {live} AND id > $1 ORDER BY id LIMIT {ACCOUNTS}"
        );
        let sums = format!(
            "{SUMS} AND account.environment = {live} AND account.id > $3 AND account.id <= $4
                AND account.seq <= {FEW} AND account.updated_at >= $5 GROUP BY 1, 2, 3, 4"
        );
        self.run(move |store| async move {
            let snapshot = store.snapshot().await?;
            let rows = query(&snapshot, &accounts, [after.0.into()]).await?;
            let settled = from.plus_micros(SETTLED_MICROS.saturating_neg()).micros();
            let (mut idle, mut large, mut last) = (Credits::ZERO, Vec::new(), after);
            for row in &rows {
                last = AccountId(row.try_get_by_index(0)?);
                let balance = Credits::from_nanos(row.try_get_by_index(1)?);
                if row.try_get_by_index::<i64>(3)? < settled {
                    idle = idle.checked_add(balance).unwrap_or(Credits::MAX);
                } else if row.try_get_by_index::<i64>(2)? > FEW {
                    large.push(last);
                }
            }
            let values: [Value; 5] = [
                from.micros().into(),
                until.micros().into(),
                after.0.into(),
                last.0.into(),
                settled.into(),
            ];
            let sums = query(&snapshot, &sums, values).await?;
            let sums = sums.iter().map(read).collect::<Result<_, _>>()?;
            snapshot.commit().await?;
            let next = (rows.len() >= ACCOUNTS).then_some(last);
            Ok(RevenuePage { idle, sums, large, next })
        })
        .await
    }

    /// The entries of an account that a span of time needs, and the balance before them.
    pub async fn revenue_span(
        &self,
        account: AccountId,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<SpanOfAccount, StoreError> {
        const BALANCE: &str = "SELECT balance_after FROM ledger_entry
            WHERE account_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT 1";
        self.run(move |store| async move {
            let (low, high) = store.span(account, Some(from), Some(until)).await?;
            let rows = query(&store.read, BALANCE, [account.0.into(), low.into()]).await?;
            let opening = rows.first().map(|row| row.try_get_by_index(0)).transpose()?;
            Ok(SpanOfAccount { opening: Credits::from_nanos(opening.unwrap_or(0)), low, high })
        })
        .await
    }

    /// The sums of an account's entries from this number on, and the number from which the next
    /// ones begin; `None`: there are no more.
    pub async fn revenue_of(
        &self,
        account: AccountId,
        (from, until): (Timestamp, Timestamp),
        (low, high): (i64, i64),
    ) -> Result<(Vec<DayEntries>, Option<i64>), StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "{SUMS} AND account.id = $3 AND entry.seq >= $4 AND entry.seq < $5
                GROUP BY 1, 2, 3, 4"
            );
            let end = low.saturating_add(PIECE).min(high);
            let values: [Value; 5] = [
                from.micros().into(),
                until.micros().into(),
                account.0.into(),
                low.into(),
                end.into(),
            ];
            let rows = query(&store.read, &sql, values).await?;
            let sums = rows.iter().map(read).collect::<Result<_, _>>()?;
            Ok((sums, (end < high).then_some(end)))
        })
        .await
    }
}
