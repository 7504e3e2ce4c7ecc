//! What account holders read besides the ledger: calls, and the spending of keys.

use std::fmt::Write as _;
use std::sync::Arc;

use sea_orm::{ConnectionTrait, EntityTrait as _, QueryResult, Statement, Value};
use uuid::Uuid;

use super::StoreError;
use super::connections::{Connections, execute};
use super::rollups::UsageFilter;
use domain::{
    AccountId, ChargeId, Credits, Day, Ending, KeyId, Month, SpendingLimits, Tally, Timestamp,
};
use entity::account;

/// Most calls that are scanned for one page; see [`super::ledger`].
const LOOKED_THROUGH_MAX: i64 = 5_000;
/// Usage records deleted in one statement, so that the ledger writer does not wait long.
const USAGE_CHUNK: u64 = 1_000;

/// A call, as shown to the account holder that paid for it.
#[derive(Clone, Debug)]
pub struct CallRow {
    /// The id of the call.
    pub id: ChargeId,
    /// The key that was used.
    pub key: KeyId,
    /// The HTTP method.
    pub method: String,
    /// The priced route.
    pub route: String,
    /// The requested model; empty if the request has none.
    pub model: String,
    /// The upstream that served it.
    pub upstream: String,
    /// The HTTP status of the answer.
    pub status: i16,
    /// What it cost.
    pub cost: Credits,
    /// Prompt tokens.
    pub prompt_tokens: i64,
    /// Completion tokens.
    pub completion_tokens: i64,
    /// When the request arrived.
    pub started_at: Timestamp,
    /// How long it took, in microseconds.
    pub latency_micros: i64,
    /// How it ended.
    pub ending: Ending,
    /// Where its numbers of tokens come from.
    pub tally: Tally,
}

/// Which calls of a list. Each field that is set leaves fewer.
#[derive(Clone, Debug, Default)]
pub struct CallFilter {
    /// As of sums.
    pub usage: UsageFilter,
    /// The call of this id alone.
    pub id: Option<ChargeId>,
    /// Not from before this time.
    pub from: Option<Timestamp>,
    /// From before this time.
    pub until: Option<Timestamp>,
    /// Calls that ended so alone.
    pub ending: Option<Ending>,
}

impl CallFilter {
    fn conditions(self, values: &mut Vec<Value>) -> String {
        let CallFilter { usage, id, from, until, ending } = self;
        let mut conditions = usage.conditions(values);
        let micros = |at: Option<Timestamp>| at.map(|at| at.micros().into());
        let narrowing: [(&str, Option<Value>); 4] = [
            ("id =", id.map(|id| id.0.into())),
            ("started_at >=", micros(from)),
            ("started_at <", micros(until)),
            ("ending =", ending.map(|ending| ending.code().into())),
        ];
        for (condition, value) in narrowing {
            if let Some(value) = value {
                values.push(value);
                let _ = write!(conditions, " AND {condition} ${}", values.len());
            }
        }
        conditions
    }
}

/// A call may have got its id so much before one with a smaller id began, in microseconds.
const DISORDER_MICROS: i64 = 60_000_000;

/// The limits of a key, and what it has spent.
#[derive(Clone, Debug)]
pub struct KeyAgainstLimits {
    /// The key.
    pub key: KeyId,
    /// Its name.
    pub name: String,
    /// Is it usable: neither revoked nor expired?
    pub is_active: bool,
    /// Its spending limits.
    pub limits: SpendingLimits,
    /// The last day on which it was used, and what it spent on that day.
    pub day: (Day, Credits),
    /// The last month in which it was used, and what it spent in that month.
    pub month: (Month, Credits),
    /// Spent since it was created.
    pub total: Credits,
}

/// The reports of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReportStore {
    pub(in crate::store) database: Arc<Connections>,
}

impl ReportStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        ReportStore { database }
    }

    /// A page of an account's calls, latest first, and the call from which the next page continues.
    /// If the filter matches few calls, a page may be short or empty although more follow.
    pub async fn list_calls(
        &self,
        account: AccountId,
        before: Option<ChargeId>,
        limit: u64,
        filter: CallFilter,
    ) -> Result<(Vec<CallRow>, Option<ChargeId>), StoreError> {
        const END: &str =
            "SELECT id, started_at FROM usage_record WHERE account_id = $1 AND id < $2
            ORDER BY id DESC LIMIT 1 OFFSET $3";
        self.database
            .run(move |database| async move {
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let before = before.map_or(Uuid::max(), |id| id.0);
                let (from, is_one) = (filter.from, filter.id.is_some());
                // The one comes first.
                let just_above = |id: ChargeId| Uuid::from_u128(id.0.as_u128().saturating_add(1));
                let before = filter.id.map_or(before, |id| before.min(just_above(id)));
                let mut values: Vec<Value> =
                    vec![account.0.into(), before.into(), LOOKED_THROUGH_MAX.into(), limit.into()];
                let conditions = filter.conditions(&mut values);
                let is_whole = conditions.is_empty() || is_one;
                let window = if is_whole { "$4 + 0 * $3" } else { "$3" };
                let sql = format!(
                "SELECT id, key_id, method, route, model, upstream, status, cost, prompt_tokens,
                    completion_tokens, started_at, latency_micros, ending, tally
                FROM (SELECT * FROM usage_record WHERE account_id = $1 AND id < $2
                    ORDER BY id DESC LIMIT {window}) AS latest
                WHERE TRUE{conditions} ORDER BY id DESC LIMIT $4"
            );
                let backend = database.read.get_database_backend();
                let statement = Statement::from_sql_and_values(backend, sql, values);
                let rows = database.read.query_all_raw(statement).await?;
                let calls: Vec<CallRow> = rows.iter().map(call).collect::<Result<_, _>>()?;
                if is_one {
                    return Ok((calls, None));
                }
                if i64::try_from(calls.len()).unwrap_or(i64::MAX) >= limit {
                    let next = calls.last().map(|call| call.id);
                    return Ok((calls, next));
                }
                if is_whole {
                    return Ok((calls, None));
                }
                let last = LOOKED_THROUGH_MAX.saturating_sub(1);
                let values = [account.0.into(), before.into(), last.into()];
                let statement = Statement::from_sql_and_values(backend, END, values);
                let end = database.read.query_one_raw(statement).await?;
                let Some(end) = end else { return Ok((calls, None)) };
                let began = Timestamp::from_micros(end.try_get_by_index(1)?);
                if from.is_some_and(|from| began.plus_micros(DISORDER_MICROS) < from) {
                    return Ok((calls, None));
                }
                Ok((calls, Some(ChargeId(end.try_get_by_index(0)?))))
            })
            .await
    }

    /// The keys of an account that are not deleted, oldest first, with their limits and spending.
    pub async fn list_keys_with_limits(
        &self,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Vec<KeyAgainstLimits>, StoreError> {
        const SQL: &str =
            "SELECT api_key.id, name, is_revoked, expires_at, per_request_limit, daily_limit,
                monthly_limit, total_limit, day, day_spent, month, month_spent, total_spent
            FROM api_key LEFT JOIN key_spend ON key_spend.key_id = api_key.id
            WHERE account_id = $1 AND NOT is_deleted ORDER BY created_at, api_key.id";
        self.database
            .run(move |database| async move {
                let backend = database.read.get_database_backend();
                let statement = Statement::from_sql_and_values(backend, SQL, [account.0.into()]);
                let rows = database.read.query_all_raw(statement).await?;
                let key = |row: &QueryResult| {
                    let limit = |place: usize| {
                        let limit = row.try_get_by_index::<Option<i64>>(place)?;
                        Ok::<_, StoreError>(limit.map(Credits::from_nanos))
                    };
                    let spent =
                        |place: usize| Ok::<_, StoreError>(limit(place)?.unwrap_or(Credits::ZERO));
                    let number = |place: usize| row.try_get_by_index::<Option<i32>>(place);
                    let expires_at: Option<i64> = row.try_get_by_index(3)?;
                    let is_over = expires_at.is_some_and(|at| at <= now.micros());
                    Ok(KeyAgainstLimits {
                        key: KeyId(row.try_get_by_index(0)?),
                        name: row.try_get_by_index(1)?,
                        is_active: !row.try_get_by_index::<bool>(2)? && !is_over,
                        limits: SpendingLimits {
                            per_request: limit(4)?,
                            daily: limit(5)?,
                            monthly: limit(6)?,
                            total: limit(7)?,
                        },
                        day: (Day(number(8)?.unwrap_or(0)), spent(9)?),
                        month: (Month(number(10)?.unwrap_or(0)), spent(11)?),
                        total: spent(12)?,
                    })
                };
                rows.iter().map(key).collect()
            })
            .await
    }

    /// When the account was created.
    pub async fn account_created_at(&self, id: AccountId) -> Result<Timestamp, StoreError> {
        self.database
            .run(move |database| async move {
                let row = account::Entity::find_by_id(id.0).one(&database.read).await?;
                let row =
                    row.ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
                Ok(Timestamp::from_micros(row.created_at))
            })
            .await
    }

    /// When the last entry of the account was written, or else when it was created.
    pub async fn account_updated_at(&self, id: AccountId) -> Result<Timestamp, StoreError> {
        self.database
            .run(move |database| async move {
                let row = account::Entity::find_by_id(id.0).one(&database.read).await?;
                let row =
                    row.ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
                Ok(Timestamp::from_micros(row.updated_at))
            })
            .await
    }

    /// Deletes some of the oldest usage records of calls that arrived before `before`. Returns how
    /// many.
    ///
    /// Records are stored in the order in which they were written, so the oldest come first. No
    /// index by time is needed, and complete pages are freed.
    ///
    /// Records that are in no rollup yet stay. Call [`super::Store::fold_usage`] first.
    pub async fn delete_usage(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM usage_record WHERE started_at < $1
                    AND number <= (SELECT number FROM usage_mark) AND number <= (
                    SELECT MAX(number) FROM (
                        SELECT number FROM usage_record ORDER BY number LIMIT {USAGE_CHUNK}
                    ) AS oldest)"
                );
                Ok(execute(&database.write, &sql, vec![before.micros().into()]).await?)
            })
            .await
    }
}

fn call(row: &QueryResult) -> Result<CallRow, StoreError> {
    let ending = Ending::from_code(row.try_get_by_index(12)?);
    let tally = Tally::from_code(row.try_get_by_index(13)?);
    Ok(CallRow {
        id: ChargeId(row.try_get_by_index(0)?),
        key: KeyId(row.try_get_by_index(1)?),
        method: row.try_get_by_index(2)?,
        route: row.try_get_by_index(3)?,
        model: row.try_get_by_index(4)?,
        upstream: row.try_get_by_index(5)?,
        status: row.try_get_by_index(6)?,
        cost: Credits::from_nanos(row.try_get_by_index(7)?),
        prompt_tokens: row.try_get_by_index(8)?,
        completion_tokens: row.try_get_by_index(9)?,
        started_at: Timestamp::from_micros(row.try_get_by_index(10)?),
        latency_micros: row.try_get_by_index(11)?,
        ending: ending.ok_or_else(|| StoreError::Corrupt("a call has an unknown ending".into()))?,
        tally: tally.ok_or_else(|| StoreError::Corrupt("a call has an unknown tally".into()))?,
    })
}
