//! Rollups of usage. The ledger writer adds many calls at once, in its batches. Monitoring reads
//! them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement, Value};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::store::Store;
use crate::store::error::{CommitError, StoreError};
use crate::store::sql::{PIECE, Table, begin_write, column, is_postgres};
use domain::rollup::{BUCKET_ENDS, BUCKETS, Rollup, RollupKey, add_usage, days_of};
use domain::{AccountId, Environment, KeyId, MICROS_PER_DAY, UsageRecord, UserId};

/// Rows in one statement of SQLite, so that it stays below the limit of 32,766 values.
const ROWS_MAX: usize = 512;
/// The columns of a rollup: its key, its sums, and its buckets of latency.
const COLUMNS: usize = 13 + BUCKETS;
pub(super) const NAMES: &str =
    "account_id, period, key_id, method, route, model, upstream, status, calls, cost,
    prompt_tokens, completion_tokens, latency_micros";
pub(super) const SUMS: [&str; 5] =
    ["calls", "cost", "prompt_tokens", "completion_tokens", "latency_micros"];

/// The length of a rollup's period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Hours since 1970-01-01 UTC.
    Hour,
    /// Days since 1970-01-01 UTC.
    Day,
}

impl Grain {
    pub(super) const fn table(self) -> &'static str {
        match self {
            Grain::Hour => "usage_hour",
            Grain::Day => "usage_day",
        }
    }
}

/// What usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The API key.
    Key,
    /// The priced route, with its method.
    Endpoint,
    /// The model asked for.
    Model,
    /// The HTTP status of the answer.
    Status,
    /// The upstream that served the call.
    Upstream,
    /// The user who paid.
    User,
    /// Their rate limit tier as it is now. Empty: the default one.
    Tier,
}

/// Whose usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageOf {
    /// That of one account.
    Account(AccountId),
    /// That of all accounts of an environment.
    All(Environment),
}

/// A query of rollups.
#[derive(Clone, Debug)]
pub struct UsageQuestion {
    /// The length of a period.
    pub grain: Grain,
    /// The first period, and the period after the last one.
    pub periods: (i32, i32),
    /// Which calls count.
    pub filter: UsageFilter,
    /// Whether each period has a separate row.
    pub by_period: bool,
    /// What else usage is grouped by.
    pub group: Option<Group>,
    /// Only groups with these names.
    pub only: Option<Vec<String>>,
    /// At most this many rows: those with the highest cost.
    pub top_by_cost: Option<u32>,
}

impl UsageQuestion {
    /// All calls, one row for each period.
    #[must_use]
    pub fn by_period(grain: Grain, periods: (i32, i32)) -> Self {
        let filter = UsageFilter::default();
        UsageQuestion {
            grain,
            periods,
            filter,
            by_period: true,
            group: None,
            only: None,
            top_by_cost: None,
        }
    }
}

impl Group {
    /// Converts a group's name to the value of its column.
    pub(super) fn value(self, name: &str) -> Value {
        match self {
            Group::Key => name.parse::<KeyId>().map_or(Uuid::nil(), |key| key.0).into(),
            Group::User => name.parse::<UserId>().map_or(Uuid::nil(), |user| user.0).into(),
            _ => name.into(),
        }
    }
}

/// Which calls count. Each field that is set leaves fewer calls.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// Only calls of this key.
    pub key: Option<KeyId>,
    /// Only calls of this route.
    pub route: Option<String>,
    /// Only calls of this model.
    pub model: Option<String>,
    /// Only calls that were answered with this status.
    pub status: Option<u16>,
    /// Only calls that this upstream served.
    pub upstream: Option<String>,
}

impl UsageFilter {
    /// Returns SQL conditions, and pushes their values to `values`.
    pub(in crate::store) fn conditions(self, values: &mut Vec<Value>) -> String {
        let UsageFilter { key, route, model, status, upstream } = self;
        let narrowing: [(&str, Option<Value>); 5] = [
            ("key_id", key.map(|key| key.0.into())),
            ("route", route.map(Value::from)),
            ("model", model.map(Value::from)),
            ("status", status.map(|status| i16::try_from(status).unwrap_or(0).into())),
            ("upstream", upstream.map(Value::from)),
        ];
        let mut conditions = String::new();
        for (name, value) in narrowing {
            if let Some(value) = value {
                values.push(value);
                let _ = write!(conditions, " AND {name} = ${}", values.len());
            }
        }
        conditions
    }
}

/// The sum of the calls of one period and one group.
#[derive(Clone, Debug)]
pub struct RollupRow {
    /// Hours or days since 1970-01-01 UTC. 0 if all periods are one row.
    pub period: i32,
    /// The group's name. Empty if there is no group.
    pub group: String,
    /// The sums.
    pub rollup: Rollup,
    /// The number of calls whose status was not 2xx.
    pub errors: i64,
}

pub(super) fn bucket_names() -> String {
    (0..BUCKETS).fold(String::new(), |mut names, bucket| {
        let _ = write!(names, ", l{bucket}");
        names
    })
}

/// The end of an insert that adds to a row that is there already.
fn upsert_tail(table: &str) -> String {
    let mut sets = String::new();
    let buckets = (0..BUCKETS).map(|bucket| format!("l{bucket}"));
    for name in SUMS.into_iter().map(str::to_owned).chain(buckets) {
        let comma = if sets.is_empty() { "" } else { ", " };
        let _ = write!(sets, "{comma}{name} = {table}.{name} + excluded.{name}");
    }
    format!(
        "ON CONFLICT (account_id, period, key_id, method, route, model, upstream, status) DO UPDATE SET {sets}"
    )
}

fn sqlite(grain: Grain) -> Table {
    let (table, names) = (grain.table(), bucket_names());
    Table::inserting(table, &format!("{NAMES}{names}"), &upsert_tail(table))
}

static SQLITE_HOURS: LazyLock<Table> = LazyLock::new(|| sqlite(Grain::Hour));
static SQLITE_DAYS: LazyLock<Table> = LazyLock::new(|| sqlite(Grain::Day));

fn postgres(grain: Grain) -> String {
    let kinds = ["BIGINT", "INTEGER", "UUID", "TEXT", "TEXT", "TEXT", "TEXT", "SMALLINT"];
    let mut arrays = String::new();
    for place in 0..COLUMNS {
        let comma = if place == 0 { "" } else { ", " };
        let kind = kinds.get(place).unwrap_or(&"BIGINT");
        let _ = write!(arrays, "{comma}${}::{kind}[]", place.saturating_add(1));
    }
    let (table, names) = (grain.table(), bucket_names());
    format!(
        "INSERT INTO {table} ({NAMES}{names}) SELECT * FROM UNNEST({arrays}) {}",
        upsert_tail(table)
    )
}

static POSTGRES_HOURS: LazyLock<String> = LazyLock::new(|| postgres(Grain::Hour));
static POSTGRES_DAYS: LazyLock<String> = LazyLock::new(|| postgres(Grain::Day));

type Row = (RollupKey, Rollup);

/// Calls are folded (added to the rollups) when there are at least this many. One row of a rollup
/// costs as much as several calls, and it takes all calls of its key, so folding many at once is
/// cheaper.
const FOLD_FROM: i64 = 16_384;
/// Folding waits until each row of a rollup takes this many calls on average,
const ROW_CALLS: i64 = 8;
/// but for no more calls than this, because each reader sums up the calls that are not folded,
const FOLD_MAX: i64 = 65_536;
/// and for no more rows than this, because writes to the tables wait for the fold.
const FOLD_ROWS_MAX: i64 = 16_384;

/// The calls that are not folded. The upper end excludes none. PostgreSQL expects few rows in a
/// range and uses the index, even if its statistics are old. With a lower end alone it expects a
/// third of the table.
pub(super) const BEYOND_MARK: &str = "number > $1 AND number <= 9223372036854775807";

/// The sums of the calls that are not folded yet, kept in memory as a shortcut. The database
/// decides which calls those are: its mark moves in the transaction that folds them. If these sums
/// are unknown or do not agree with the database, the calls are summed up there.
#[derive(Debug, Default)]
pub(in crate::store) struct Unfolded(Mutex<Option<Sums>>);

impl Unfolded {
    /// Locks the sums. While the lock is held, no other caller writes or folds usage. A caller
    /// takes the sums out, and puts the new sums back once its transaction is surely committed.
    /// Otherwise they stay unknown.
    pub(super) async fn hold(&self) -> MutexGuard<'_, Option<Sums>> {
        self.0.lock().await
    }
}

/// The sums of calls that are not folded yet.
#[derive(Debug, Default)]
pub(in crate::store) struct Sums {
    calls: i64,
    cost: i64,
    latency_micros: i64,
    hours: BTreeMap<RollupKey, Rollup>,
}

impl Sums {
    /// Says whether there are enough calls to fold.
    fn is_due(&self) -> bool {
        let rows = i64::try_from(self.hours.len()).unwrap_or(i64::MAX);
        let wanted = rows.saturating_mul(ROW_CALLS).clamp(FOLD_FROM, FOLD_MAX);
        self.calls >= wanted || rows >= FOLD_ROWS_MAX
    }

    fn add(&mut self, usage: &[UsageRecord]) {
        add_usage(&mut self.hours, usage);
        for record in usage {
            self.calls = self.calls.saturating_add(1);
            self.cost = self.cost.saturating_add(record.cost.nanos());
            self.latency_micros = self.latency_micros.saturating_add(record.latency_micros);
        }
    }
}

/// Adds the calls that this transaction has written to the sums, and folds them if there are
/// enough. Returns the sums that are left if the transaction commits.
pub(super) async fn take_in(
    transaction: &DatabaseTransaction,
    before: Option<Sums>,
    usage: &[UsageRecord],
) -> Result<Sums, CommitError> {
    let sums = before.map(|mut sums| {
        sums.add(usage);
        sums
    });
    match sums {
        Some(sums) if !sums.is_due() => Ok(sums),
        sums => {
            fold(transaction, sums).await?;
            Ok(Sums::default())
        }
    }
}

/// Returns the number of the last call that is folded.
pub(super) async fn marked(connection: &impl ConnectionTrait, lock: &str) -> Result<i64, DbErr> {
    let backend = connection.get_database_backend();
    let sql = format!("SELECT number FROM usage_mark{lock}");
    let row = connection.query_one_raw(Statement::from_string(backend, sql)).await?;
    Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0))
}

/// Folds the calls beyond the mark, and moves the mark.
async fn fold(transaction: &DatabaseTransaction, sums: Option<Sums>) -> Result<(), CommitError> {
    const MOVE: &str = "UPDATE usage_mark SET number = $1";
    let backend = transaction.get_database_backend();
    let lock = if is_postgres(transaction) { " FOR UPDATE" } else { "" };
    let mark = marked(transaction, lock).await?;
    let beyond = format!(
        "SELECT COUNT(*), CAST(COALESCE(SUM(cost), 0) AS BIGINT),
            CAST(COALESCE(SUM(latency_micros), 0) AS BIGINT), MAX(number)
        FROM usage_record WHERE {BEYOND_MARK}"
    );
    let beyond = Statement::from_sql_and_values(backend, beyond, [mark.into()]);
    let Some(beyond) = transaction.query_one_raw(beyond).await? else { return Ok(()) };
    let Some(last) = beyond.try_get_by_index::<Option<i64>>(3)? else { return Ok(()) };
    let found: [i64; 3] =
        [beyond.try_get_by_index(0)?, beyond.try_get_by_index(1)?, beyond.try_get_by_index(2)?];
    match sums.filter(|sums| [sums.calls, sums.cost, sums.latency_micros] == found) {
        Some(sums) => {
            write(transaction, Grain::Day, days_of(&sums.hours)).await?;
            write(transaction, Grain::Hour, sums.hours).await?;
        }
        None => {
            for sql in [&*FOLD_HOURS, &*FOLD_DAYS] {
                let values = [mark.into(), last.into()];
                let fold = Statement::from_sql_and_values(backend, sql, values);
                transaction.execute_raw(fold).await?;
            }
        }
    }
    let mark = Statement::from_sql_and_values(backend, MOVE, [last.into()]);
    transaction.execute_raw(mark).await?;
    Ok(())
}

/// SQL that sums up the rows of `usage_record` that meet `condition`. Its columns are named as
/// those of a rollup.
pub(super) fn summed_text(grain: Grain, condition: &str) -> String {
    let micros = match grain {
        Grain::Hour => MICROS_PER_DAY / 24,
        Grain::Day => MICROS_PER_DAY,
    };
    let ends = BUCKET_ENDS.iter().enumerate().fold(String::new(), |mut text, (place, end)| {
        let _ = write!(text, " WHEN latency_micros < {end} THEN {place}");
        text
    });
    let counts = (0..BUCKETS).fold(String::new(), |mut text, place| {
        let sum = format!("SUM(CASE WHEN bucket = {place} THEN calls ELSE 0 END)");
        let _ = write!(text, ", CAST({sum} AS BIGINT) AS l{place}");
        text
    });
    let sums = SUMS.map(|name| format!(", CAST(SUM({name}) AS BIGINT) AS {name}")).concat();
    // First grouped by bucket, so that the many columns are computed for few rows only.
    format!(
        "SELECT account_id, period, key_id, method, route, model, upstream, status{sums}{counts}
        FROM (
            SELECT account_id, CAST(started_at / {micros} AS INTEGER) AS period, key_id, method, route,
                model, upstream, status, CASE{ends} ELSE {last} END AS bucket, COUNT(*) AS calls,
                SUM(cost) AS cost, SUM(prompt_tokens) AS prompt_tokens,
                SUM(completion_tokens) AS completion_tokens, SUM(latency_micros) AS latency_micros
            FROM usage_record WHERE {condition}
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ) AS calls_by_bucket WHERE account_id IS NOT NULL
        GROUP BY account_id, period, key_id, method, route, model, upstream, status",
        last = BUCKETS.saturating_sub(1),
    )
}

/// SQL that folds calls without reading them into the server.
fn fold_text(grain: Grain) -> String {
    let (table, names, tail) = (grain.table(), bucket_names(), upsert_tail(grain.table()));
    let summed = summed_text(grain, "number > $1 AND number <= $2");
    format!("INSERT INTO {table} ({NAMES}{names}) {summed} {tail}")
}

static FOLD_HOURS: LazyLock<String> = LazyLock::new(|| fold_text(Grain::Hour));
static FOLD_DAYS: LazyLock<String> = LazyLock::new(|| fold_text(Grain::Day));

/// Adds rows to the rollups.
async fn write(
    transaction: &DatabaseTransaction,
    grain: Grain,
    rollups: BTreeMap<RollupKey, Rollup>,
) -> Result<(), CommitError> {
    let rows: Vec<Row> = rollups.into_iter().collect();
    if is_postgres(transaction) {
        let text = match grain {
            Grain::Hour => &*POSTGRES_HOURS,
            Grain::Day => &*POSTGRES_DAYS,
        };
        for rows in rows.chunks(PIECE) {
            let statement =
                Statement::from_sql_and_values(DbBackend::Postgres, text, columns(rows));
            transaction.execute_raw(statement).await?;
        }
        return Ok(());
    }
    let table = match grain {
        Grain::Hour => &*SQLITE_HOURS,
        Grain::Day => &*SQLITE_DAYS,
    };
    for rows in rows.chunks(ROWS_MAX) {
        table.write(transaction, rows, row_values).await?;
    }
    Ok(())
}

fn status(key: &RollupKey) -> i16 {
    i16::try_from(key.status).unwrap_or(0)
}

fn columns(rows: &[Row]) -> Vec<Value> {
    let mut values = vec![
        column(rows, |(key, _)| key.account.0),
        column(rows, |(key, _)| key.period),
        column(rows, |(key, _)| key.key.0),
        column(rows, |(key, _)| key.method.to_string()),
        column(rows, |(key, _)| key.route.to_string()),
        column(rows, |(key, _)| key.model.to_string()),
        column(rows, |(key, _)| key.upstream.to_string()),
        column(rows, |(key, _)| status(key)),
        column(rows, |(_, rollup)| rollup.calls),
        column(rows, |(_, rollup)| rollup.cost.nanos()),
        column(rows, |(_, rollup)| rollup.prompt_tokens),
        column(rows, |(_, rollup)| rollup.completion_tokens),
        column(rows, |(_, rollup)| rollup.latency_micros),
    ];
    for bucket in 0..BUCKETS {
        values.push(column(rows, |(_, rollup)| rollup.buckets.get(bucket).copied().unwrap_or(0)));
    }
    values
}

fn row_values((key, rollup): &Row) -> [Value; COLUMNS] {
    let mut values = [const { Value::BigInt(None) }; COLUMNS];
    let own: [Value; 13] = [
        key.account.0.into(),
        key.period.into(),
        key.key.0.into(),
        key.method.to_string().into(),
        key.route.to_string().into(),
        key.model.to_string().into(),
        key.upstream.to_string().into(),
        status(key).into(),
        rollup.calls.into(),
        rollup.cost.nanos().into(),
        rollup.prompt_tokens.into(),
        rollup.completion_tokens.into(),
        rollup.latency_micros.into(),
    ];
    let all = own.into_iter().chain(rollup.buckets.map(Value::from));
    for (place, value) in values.iter_mut().zip(all) {
        *place = value;
    }
    values
}

impl Store {
    /// Folds every call that is on record.
    pub async fn fold_usage(&self) -> Result<(), StoreError> {
        const ANY: &str = "SELECT 1 FROM usage_mark
            WHERE number < (SELECT MAX(number) FROM usage_record)";
        self.run_write(move |store| async move {
            let mut unfolded = store.unfolded.hold().await;
            let any = Statement::from_string(store.read.get_database_backend(), ANY);
            if store.read.query_one_raw(any).await?.is_none() {
                return Ok(());
            }
            let sums = unfolded.take();
            let transaction = begin_write(&store.write).await?;
            fold(&transaction, sums).await?;
            transaction.commit().await?;
            *unfolded = Some(Sums::default());
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(calls: i64, rows: i32) -> Sums {
        let key = |period| RollupKey {
            account: AccountId(1),
            period,
            key: KeyId(Uuid::nil()),
            method: "POST".into(),
            route: "/v1/chat/completions".into(),
            model: "".into(),
            upstream: "sandbox".into(),
            status: 200,
        };
        let hours = (0..rows).map(|period| (key(period), Rollup::default())).collect();
        Sums { calls, hours, ..Sums::default() }
    }

    #[test]
    fn calls_are_brought_in_when_it_is_worth_it_and_never_too_late() {
        // Few rows: due as soon as there are enough calls.
        assert!(!sums(16_383, 1).is_due());
        assert!(sums(16_384, 1).is_due() && sums(16_384, 2_048).is_due());
        // More rows: due if each has eight calls on average,
        assert!(!sums(16_384, 2_049).is_due() && sums(8 * 2_049, 2_049).is_due());
        // or if there are too many calls or too many rows.
        assert!(!sums(65_535, 10_000).is_due() && sums(65_536, 10_000).is_due());
        assert!(!sums(16_383, 16_383).is_due() && sums(16_384, 16_384).is_due());
    }
}
