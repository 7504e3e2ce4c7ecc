//! The rows that paid calls leave: entries, balances, counters of keys, and usage records.
//!
//! There are few different statements, for batches of any size. So each is prepared once and never
//! reaches the limit of bound values. PostgreSQL takes each column as an array (`UNNEST`). SQLite
//! takes the rows as `VALUES`, with room for a power of two of them.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use sea_orm::{ConnectionTrait as _, DatabaseTransaction, DbBackend, DbErr, Statement, Value};

use crate::store::error::CommitError;
use crate::store::row::{Arrays, Column, Row as _, insert, names, row, selected};
use crate::store::sql::{PIECE, Table, all_written, column, is_postgres};
use domain::stored_bill::StoredBill;
use domain::usage::kept_tokens;
use domain::{AccountId, Batch, Credits, KeyId, KeySpend, LedgerEntry, UsageRecord};

row!("ledger_entry"[14], |entry: LedgerEntry| {
    account_id: BIGINT = entry.account.0;
    seq: BIGINT = entry.seq;
    epoch: BIGINT = entry.epoch;
    kind: SMALLINT = entry.kind.code();
    amount: BIGINT = entry.amount.nanos();
    balance_after: BIGINT = entry.balance_after.nanos();
    reference: UUID = entry.reference;
    key_id: UUID or "'00000000-0000-0000-0000-000000000000'" = entry.key.map(|key| key.0);
    day: INTEGER = entry.day.0;
    month: INTEGER = entry.month.0;
    at: BIGINT = entry.at.micros();
    link: BYTEA = entry.link.0.to_vec();
    price_version: INTEGER or "0" = entry.bill.and_then(|bill| version_column(&bill));
    bill: BYTEA or "''" = entry.bill.map(|bill| bill.bytes().to_vec());
});

row!("usage_record"[16], |record: UsageRecord| {
    account_id: BIGINT = record.account.0;
    id: UUID = record.id.0;
    seq: BIGINT or "0" = record.seq;
    key_id: UUID = record.key.0;
    method: TEXT = record.method.to_string();
    route: TEXT = record.route.to_string();
    upstream: TEXT = record.upstream.to_string();
    status: SMALLINT = status(record);
    cost: BIGINT = record.cost.nanos();
    prompt_tokens: BIGINT = kept_tokens(record.prompt_tokens);
    completion_tokens: BIGINT = kept_tokens(record.completion_tokens);
    started_at: BIGINT = record.started_at.micros();
    latency_micros: BIGINT = record.latency_micros;
    ending: SMALLINT = record.ending.code();
    tally: SMALLINT = record.tally.code();
    model: TEXT = record.model.to_string();
});

/// The counters of a key after a batch, and how much the batch adds to the key's total.
struct Spend {
    windows: KeySpend,
    added: Credits,
}

row!("key_spend"[7], |spend: Spend| {
    key_id: UUID = spend.windows.key.0;
    day: INTEGER = spend.windows.day.0;
    day_spent: BIGINT = spend.windows.day_spent.nanos();
    month: INTEGER = spend.windows.month.0;
    month_spent: BIGINT = spend.windows.month_spent.nanos();
    last_used_at: BIGINT = spend.windows.last_used_at.unwrap_or_default().micros();
    total_spent: BIGINT = spend.added.nanos();
});

/// How a batch moves an account: from the entry before its first one to its last entry.
struct Move {
    account: AccountId,
    before: i64,
    last: LedgerEntry,
}

row!("account"[6], |moved: Move| {
    id: BIGINT = moved.account.0;
    seq_before: BIGINT = moved.before;
    seq: BIGINT = moved.last.seq;
    balance: BIGINT = moved.last.balance_after.nanos();
    at: BIGINT = moved.last.at.micros();
    link: BYTEA = moved.last.link.0.to_vec();
});

/// The number of the version of prices, as both databases store it.
pub(super) fn version_column(bill: &StoredBill) -> Option<i32> {
    i32::try_from(bill.version().number()).ok()
}

fn status(record: &UsageRecord) -> i16 {
    i16::try_from(record.status).unwrap_or(0)
}

/// If the key has counters already, they are replaced. Only the total is added up.
const COUNT_SPEND: &str =
    "ON CONFLICT (key_id) DO UPDATE SET day = excluded.day, day_spent = excluded.day_spent,
        month = excluded.month, month_spent = excluded.month_spent,
        last_used_at = excluded.last_used_at,
        total_spent = key_spend.total_spent + excluded.total_spent";

/// All rows of a piece of a batch, in one statement for PostgreSQL, because a round trip costs more
/// than a row.
static ROWS_POSTGRES: LazyLock<String> = LazyLock::new(|| {
    let mut arrays = Arrays::default();
    let entries = arrays.of_columns(&LedgerEntry::COLUMNS);
    let moves = arrays.of_columns(&Move::COLUMNS);
    let spends = arrays.of_columns(&Spend::COLUMNS);
    let numbers = arrays.of(numbers_of_usage().map(|column| column.kind).chain(["BIGINT"]));
    let number_names: Vec<&str> = numbers_of_usage().map(|column| column.name).collect();
    let names_of_calls = arrays.of(["TEXT"; NAMES.len()].into_iter());
    format!(
        "WITH entries AS (
            INSERT INTO ledger_entry ({entry_names})
            SELECT {entry_values} FROM UNNEST({entries}) AS row ({entry_names})
        ), spends AS (
            INSERT INTO key_spend ({spend_names}) SELECT * FROM UNNEST({spends})
            {COUNT_SPEND}
        ), usage AS (
            INSERT INTO usage_record ({usage_names})
            SELECT {usage_values} FROM UNNEST({numbers}) AS row ({number_names}, called)
            INNER JOIN UNNEST({names_of_calls})
                WITH ORDINALITY AS name ({text_names}, called) USING (called)
        )
        UPDATE account
        SET balance = row.balance, seq = row.seq, updated_at = row.at, link = row.link
        FROM UNNEST({moves}) AS row ({move_names})
        WHERE account.id = row.id AND account.seq = row.seq_before",
        entry_names = names(&LedgerEntry::COLUMNS),
        entry_values = selected(&LedgerEntry::COLUMNS),
        spend_names = names(&Spend::COLUMNS),
        usage_names = names(&UsageRecord::COLUMNS),
        usage_values = selected(&UsageRecord::COLUMNS),
        number_names = number_names.join(", "),
        text_names = NAMES.join(", "),
        move_names = names(&Move::COLUMNS),
    )
});

/// The columns of a usage record that are not in [`NAMES`].
fn numbers_of_usage() -> impl Iterator<Item = Column<UsageRecord>> {
    UsageRecord::COLUMNS.into_iter().filter(|column| !NAMES.contains(&column.name))
}

static ENTRIES: LazyLock<Table> = LazyLock::new(|| Table::inserting_rows::<LedgerEntry, _>(""));
static USAGE: LazyLock<Table> = LazyLock::new(|| Table::inserting_rows::<UsageRecord, _>(""));
static SPENDS: LazyLock<Table> = LazyLock::new(|| Table::inserting_rows::<Spend, _>(COUNT_SPEND));
static ACCOUNTS: LazyLock<Table> = LazyLock::new(|| {
    let before = "UPDATE OR FAIL account
        SET seq = row.column3, balance = row.column4, updated_at = row.column5, link = row.column6
        FROM";
    let after = "AS row WHERE account.id = row.column1 AND account.seq = row.column2";
    Table::new(before, after)
});

/// Inserts one entry without the ledger writer. Only for an account that is not in memory yet.
pub(in crate::store) async fn insert_entry(
    transaction: &DatabaseTransaction,
    entry: &LedgerEntry,
) -> Result<(), DbErr> {
    transaction.execute_raw(insert(entry, transaction)).await.map(drop)
}

/// Writes the rows of paid calls. Moves each account only if its last entry is the one before the
/// batch, else fails with [`CommitError::Refused`]. On PostgreSQL it writes in pieces, with a pause
/// between two.
pub(super) async fn write_rows(
    transaction: &DatabaseTransaction,
    batch: &Batch,
    pause: Duration,
) -> Result<(), CommitError> {
    let moves: Vec<Move> = batch
        .accounts()
        .iter()
        .map(|(account, (before, last))| Move { account: *account, before: *before, last: *last })
        .collect();
    let spent = batch.spent();
    let added = |key: KeyId| spent.get(&key).copied().unwrap_or(Credits::ZERO);
    let spends: Vec<Spend> = batch
        .spends
        .values()
        .map(|spend| Spend { windows: *spend, added: added(spend.key) })
        .collect();
    let backend: DbBackend = transaction.get_database_backend();
    if is_postgres(transaction) {
        let rows = batch.entries.len().max(batch.usage.len()).max(moves.len()).max(spends.len());
        let pieces = rows.div_ceil(PIECE);
        for place in 0..pieces {
            breathe(place, pause).await;
            let moves = piece(&moves, place, pieces);
            let spends = piece(&spends, place, pieces);
            let usage = piece(&batch.usage, place, pieces);
            let entries = piece(&batch.entries, place, pieces);
            let names = Names::of(usage);
            let mut values = Vec::with_capacity(50);
            values.extend(LedgerEntry::COLUMNS.map(|column| (column.array)(entries)));
            values.extend(Move::COLUMNS.map(|column| (column.array)(moves)));
            values.extend(Spend::COLUMNS.map(|column| (column.array)(spends)));
            values.extend(numbers_of_usage().map(|column| (column.array)(usage)));
            values.push(column(&names.of_records, |place| *place));
            values.extend(names.columns());
            let statement = Statement::from_sql_and_values(backend, &*ROWS_POSTGRES, values);
            let written = transaction.execute_raw(statement).await?.rows_affected();
            all_written(written, moves.len())?;
        }
        return Ok(());
    }
    ENTRIES.write(transaction, &batch.entries, LedgerEntry::values).await?;
    ACCOUNTS.write(transaction, &moves, Move::values).await?;
    SPENDS.write(transaction, &spends, Spend::values).await?;
    USAGE.write(transaction, &batch.usage, UsageRecord::values).await?;
    Ok(())
}

/// Divides the rows into `pieces` pieces and returns the piece at `place`.
fn piece<R>(rows: &[R], place: usize, pieces: usize) -> &[R] {
    rows.chunks(rows.len().div_ceil(pieces).max(1)).nth(place).unwrap_or_default()
}

/// Pauses before each piece but the first, so that other work gets the processors.
async fn breathe(place: usize, pause: Duration) {
    if place > 0 && !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The columns that say what was called and who served it. Few combinations of them are in a batch.
const NAMES: [&str; 4] = ["method", "route", "upstream", "model"];

/// The distinct combinations of [`NAMES`] in a batch.
struct Names<'r> {
    distinct: Vec<[&'r str; 4]>,
    /// For each record, the number of its combination, from 1 on.
    of_records: Vec<i64>,
}

impl<'r> Names<'r> {
    fn of(usage: &'r [UsageRecord]) -> Self {
        let mut places = HashMap::new();
        let mut distinct = Vec::new();
        let of_record = |record: &'r UsageRecord| {
            let names = [&*record.method, &*record.route, &*record.upstream, &*record.model];
            *places.entry(names).or_insert_with(|| {
                distinct.push(names);
                i64::try_from(distinct.len()).unwrap_or(i64::MAX)
            })
        };
        let of_records = usage.iter().map(of_record).collect();
        Names { distinct, of_records }
    }

    fn columns(&self) -> [Value; 4] {
        [0, 1, 2, 3].map(|place| {
            column(&self.distinct, |names| names.get(place).copied().unwrap_or_default().to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{EntityTrait as _, QueryOrder as _, QuerySelect as _};
    use tokio::runtime::Handle;
    use uuid::Uuid;

    use super::*;
    use crate::config::DatabaseSettings;
    use crate::store::Store;
    use domain::{ChargeId, Ending, Tally, Timestamp};

    /// Makes call `number` of a series that has `names` different names in each column.
    fn call(number: usize, names: usize) -> UsageRecord {
        let name = |what: &str| format!("{what} {}", number * 7 % names);
        let (small, wide) = (i64::try_from(number).unwrap(), u64::try_from(number).unwrap());
        UsageRecord {
            id: ChargeId(Uuid::from_u64_pair(0, wide)),
            account: AccountId(1),
            seq: (!number.is_multiple_of(3)).then_some(small),
            key: KeyId(Uuid::from_u128(8)),
            method: name("method").into(),
            route: name("route").into(),
            upstream: name("upstream").into(),
            model: if number.is_multiple_of(names) { "".into() } else { name("model").into() },
            status: u16::try_from(200 + number % 300).unwrap(),
            cost: Credits::from_nanos(small * 1_000),
            prompt_tokens: wide + 1,
            completion_tokens: wide + 2,
            ending: if number.is_multiple_of(2) { Ending::Completed } else { Ending::Failed },
            tally: if number.is_multiple_of(5) { Tally::Reported } else { Tally::Counted },
            started_at: Timestamp::from_micros(small + 3),
            latency_micros: small + 4,
        }
    }

    /// Records come back as they were written and in that order, at each edge of a statement.
    #[tokio::test]
    async fn usage_is_written_to_sqlite_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, &url, Handle::current()).await.unwrap();
        let lease = store.take_lease(Uuid::from_u128(2)).await.unwrap();
        let mut written = 0;
        for count in [1, 2, 63, 64, 65, 127, 128, 129, 300] {
            for names in [1, 2, 30] {
                let usage: Vec<_> = (written..written + count).map(|n| call(n, names)).collect();
                let batch = Batch { usage, ..Batch::default() };
                store.commit(&batch, lease).await.unwrap();
                let rows = entity::usage_record::Entity::find()
                    .order_by_desc(entity::usage_record::Column::Number)
                    .limit(u64::try_from(count).unwrap());
                let mut rows = rows.all(&store.read).await.unwrap();
                rows.reverse();
                let found = |row: entity::usage_record::Model| {
                    let numbers =
                        (row.account_id, row.id, row.seq, row.key_id, row.status, row.cost);
                    let more = (row.prompt_tokens, row.completion_tokens, row.started_at);
                    let codes = (row.latency_micros, row.ending, row.tally);
                    (numbers, more, codes, [row.method, row.route, row.upstream, row.model])
                };
                let expected = |call: &UsageRecord| {
                    let names = [&call.method, &call.route, &call.upstream, &call.model];
                    let names = names.map(ToString::to_string);
                    let cost = call.cost.nanos();
                    let numbers =
                        (call.account.0, call.id.0, call.seq, call.key.0, status(call), cost);
                    let started_at = call.started_at.micros();
                    let tokens =
                        (kept_tokens(call.prompt_tokens), kept_tokens(call.completion_tokens));
                    let more = (tokens.0, tokens.1, started_at);
                    let codes = (call.latency_micros, call.ending.code(), call.tally.code());
                    (numbers, more, codes, names)
                };
                let rows: Vec<_> = rows.into_iter().map(found).collect();
                let calls: Vec<_> = batch.usage.iter().map(expected).collect();
                assert_eq!(rows, calls, "{count} calls with {names} names");
                written += count;
            }
        }
        store.close().await;
    }

    #[test]
    fn the_pieces_are_the_whole_and_none_is_too_large() {
        for length in (0..40).chain([255, 256, 257, 511, 512, 513, 4_096, 4_097]) {
            let rows: Vec<usize> = (0..length).collect();
            for pieces in length.div_ceil(PIECE).max(1)..20 {
                let parts: Vec<&[usize]> =
                    (0..pieces).map(|place| piece(&rows, place, pieces)).collect();
                assert_eq!(parts.concat(), rows, "{length} in {pieces}");
                assert!(parts.iter().all(|part| part.len() <= PIECE), "{length} in {pieces}");
            }
        }
    }
}
