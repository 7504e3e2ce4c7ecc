//! The rows that paid calls leave: entries, balances, counters of keys, and usage.
//!
//! Statements have few texts, whatever the size of the batch, so that each is prepared once and never
//! hits a bind limit. PostgreSQL takes each column as an array (`UNNEST`). SQLite takes the rows as
//! `VALUES` with room for a power of two of them.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::{ConnectionTrait as _, DatabaseTransaction, DbBackend, Statement, Value};
use uuid::Uuid;

use crate::store::error::CommitError;
use crate::store::sql::{PIECE, Table, all_written, column, is_postgres};
use domain::usage::kept_tokens;
use domain::{Batch, Credits, KeyId, KeySpend, LedgerEntry, Link, UsageRecord};

/// Everything that a piece of a batch leaves, in one statement: a round trip costs more than a row.
const ROWS_POSTGRES: &str = "WITH entries AS (
        INSERT INTO ledger_entry
            (account_id, seq, epoch, kind, amount, balance_after, reference, key_id, day, month, at,
            link)
        SELECT account_id, seq, epoch, kind, amount, balance_after, reference,
            NULLIF(key_id, '00000000-0000-0000-0000-000000000000'), day, month, at, link
        FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::SMALLINT[], $5::BIGINT[], $6::BIGINT[],
            $7::UUID[], $8::UUID[], $9::INTEGER[], $10::INTEGER[], $11::BIGINT[], $12::BYTEA[])
            AS row (account_id, seq, epoch, kind, amount, balance_after, reference, key_id, day, month, at,
                link)
    ), spends AS (
        INSERT INTO key_spend (key_id, day, day_spent, month, month_spent, last_used_at, total_spent)
        SELECT * FROM UNNEST($19::UUID[], $20::INTEGER[], $21::BIGINT[], $22::INTEGER[], $23::BIGINT[],
            $24::BIGINT[], $42::BIGINT[])
        ON CONFLICT (key_id) DO UPDATE SET day = excluded.day, day_spent = excluded.day_spent,
            month = excluded.month, month_spent = excluded.month_spent,
            last_used_at = excluded.last_used_at,
            total_spent = key_spend.total_spent + excluded.total_spent
    ), usage AS (
        INSERT INTO usage_record (account_id, id, seq, key_id, method, route, upstream, status, cost,
            prompt_tokens, completion_tokens, started_at, latency_micros, ending, tally, model)
        SELECT account_id, id, NULLIF(seq, 0), key_id, method, route, upstream, status, cost,
            prompt_tokens, completion_tokens, started_at, latency_micros, ending, tally, model
        FROM UNNEST($25::BIGINT[], $26::UUID[], $27::BIGINT[], $28::UUID[], $29::BIGINT[], $30::SMALLINT[],
            $31::BIGINT[], $32::BIGINT[], $33::BIGINT[], $34::BIGINT[], $35::BIGINT[], $36::SMALLINT[],
            $37::SMALLINT[])
            AS row (account_id, id, seq, key_id, called, status, cost, prompt_tokens, completion_tokens,
                started_at, latency_micros, ending, tally)
        INNER JOIN UNNEST($38::TEXT[], $39::TEXT[], $40::TEXT[], $41::TEXT[])
            WITH ORDINALITY AS name (method, route, upstream, model, called) USING (called)
    )
    UPDATE account
    SET balance = row.balance, seq = row.seq, updated_at = row.at, link = row.link
    FROM UNNEST($13::BIGINT[], $14::BIGINT[], $15::BIGINT[], $16::BIGINT[], $17::BIGINT[], $18::BYTEA[])
        AS row (id, seq_before, seq, balance, at, link)
    WHERE account.id = row.id AND account.seq = row.seq_before";

static ENTRIES: Table = Table::new(
    "INSERT OR FAIL INTO ledger_entry
        (account_id, seq, epoch, kind, amount, balance_after, reference, key_id, day, month, at, link)
    SELECT * FROM",
    "WHERE column1 IS NOT NULL",
);

static ACCOUNTS: Table = Table::new(
    "UPDATE OR FAIL account
    SET seq = row.column3, balance = row.column4, updated_at = row.column5, link = row.column6
    FROM",
    "AS row WHERE account.id = row.column1 AND account.seq = row.column2",
);

static SPENDS: Table = Table::new(
    "INSERT OR FAIL INTO key_spend (key_id, day, day_spent, month, month_spent, last_used_at, total_spent)
    SELECT * FROM",
    "WHERE column1 IS NOT NULL
    ON CONFLICT (key_id) DO UPDATE SET day = excluded.day, day_spent = excluded.day_spent,
        month = excluded.month, month_spent = excluded.month_spent,
        last_used_at = excluded.last_used_at,
        total_spent = key_spend.total_spent + excluded.total_spent",
);

static USAGE: Table = Table::new(
    "INSERT OR FAIL INTO usage_record (account_id, id, seq, key_id, method, route, upstream, status, cost,
        prompt_tokens, completion_tokens, started_at, latency_micros, ending, tally, model)
    SELECT * FROM",
    "WHERE column1 IS NOT NULL",
);

/// What a batch moves an account by: its number, the entry before the batch's first one, the last one, the
/// balance, the time and the link of that.
type Move = (i64, i64, i64, i64, i64, Link);

/// Writes the rows of paid calls, and moves each account on from exactly the entry it stood at. On PostgreSQL in pieces,
/// with a pause between two.
pub(super) async fn write_rows(
    transaction: &DatabaseTransaction,
    batch: &Batch,
    pause: Duration,
) -> Result<(), CommitError> {
    let moves: Vec<Move> = batch
        .accounts()
        .iter()
        .map(|(id, (before, last))| {
            let balance = last.balance_after.nanos();
            (id.0, *before, last.seq, balance, last.at.micros(), last.link)
        })
        .collect();
    let spent = batch.spent();
    let added = |key: KeyId| spent.get(&key).copied().unwrap_or(Credits::ZERO);
    let spends: Vec<(KeySpend, Credits)> =
        batch.spends.values().map(|spend| (*spend, added(spend.key))).collect();
    let backend: DbBackend = transaction.get_database_backend();
    if is_postgres(transaction) {
        let rows = batch.entries.len().max(batch.usage.len()).max(moves.len()).max(spends.len());
        let pieces = rows.div_ceil(PIECE);
        for place in 0..pieces {
            breathe(place, pause).await;
            let moves = piece(&moves, place, pieces);
            let spends = piece(&spends, place, pieces);
            let usage = piece(&batch.usage, place, pieces);
            let mut values = Vec::from(entry_columns(piece(&batch.entries, place, pieces)));
            values.extend(move_columns(moves));
            values.extend(spend_columns(spends));
            let names = Names::of(usage);
            values.extend(usage_columns(usage, &names));
            values.extend(names.columns());
            values.push(column(spends, |(_, added)| added.nanos()));
            let statement = Statement::from_sql_and_values(backend, ROWS_POSTGRES, values);
            let written = transaction.execute_raw(statement).await?.rows_affected();
            all_written(written, moves.len())?;
        }
        return Ok(());
    }
    ENTRIES.write(transaction, &batch.entries, entry_row).await?;
    ACCOUNTS.write(transaction, &moves, move_row).await?;
    SPENDS.write(transaction, &spends, spend_row).await?;
    USAGE.write(transaction, &batch.usage, usage_row).await?;
    Ok(())
}

/// The piece at this place, of so many into which the rows are divided.
fn piece<R>(rows: &[R], place: usize, pieces: usize) -> &[R] {
    rows.chunks(rows.len().div_ceil(pieces).max(1)).nth(place).unwrap_or_default()
}

/// Before the piece at this place: leaves the processors to others for a while.
async fn breathe(place: usize, pause: Duration) {
    if place > 0 && !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

fn entry_columns(entries: &[LedgerEntry]) -> [Value; 12] {
    [
        column(entries, |entry| entry.account.0),
        column(entries, |entry| entry.seq),
        column(entries, |entry| entry.epoch),
        column(entries, |entry| entry.kind.code()),
        column(entries, |entry| entry.amount.nanos()),
        column(entries, |entry| entry.balance_after.nanos()),
        column(entries, |entry| entry.reference),
        column(entries, |entry| entry.key.map_or(Uuid::nil(), |key| key.0)),
        column(entries, |entry| entry.day.0),
        column(entries, |entry| entry.month.0),
        column(entries, |entry| entry.at.micros()),
        column(entries, |entry| entry.link.0.to_vec()),
    ]
}

fn entry_row(entry: &LedgerEntry) -> [Value; 12] {
    [
        entry.account.0.into(),
        entry.seq.into(),
        entry.epoch.into(),
        entry.kind.code().into(),
        entry.amount.nanos().into(),
        entry.balance_after.nanos().into(),
        entry.reference.into(),
        entry.key.map(|key| key.0).into(),
        entry.day.0.into(),
        entry.month.0.into(),
        entry.at.micros().into(),
        entry.link.0.to_vec().into(),
    ]
}

fn move_columns(moves: &[Move]) -> [Value; 6] {
    [
        column(moves, |row| row.0),
        column(moves, |row| row.1),
        column(moves, |row| row.2),
        column(moves, |row| row.3),
        column(moves, |row| row.4),
        column(moves, |row| row.5.0.to_vec()),
    ]
}

fn move_row(row: &Move) -> [Value; 6] {
    let (id, before, seq, balance, at, link) = *row;
    [id.into(), before.into(), seq.into(), balance.into(), at.into(), link.0.to_vec().into()]
}

fn last_used(spend: &KeySpend) -> i64 {
    spend.last_used_at.unwrap_or_default().micros()
}

fn spend_columns(spends: &[(KeySpend, Credits)]) -> [Value; 6] {
    [
        column(spends, |(spend, _)| spend.key.0),
        column(spends, |(spend, _)| spend.day.0),
        column(spends, |(spend, _)| spend.day_spent.nanos()),
        column(spends, |(spend, _)| spend.month.0),
        column(spends, |(spend, _)| spend.month_spent.nanos()),
        column(spends, |(spend, _)| last_used(spend)),
    ]
}

fn spend_row((spend, added): &(KeySpend, Credits)) -> [Value; 7] {
    [
        spend.key.0.into(),
        spend.day.0.into(),
        spend.day_spent.nanos().into(),
        spend.month.0.into(),
        spend.month_spent.nanos().into(),
        last_used(spend).into(),
        added.nanos().into(),
    ]
}

fn status(record: &UsageRecord) -> i16 {
    i16::try_from(record.status).unwrap_or(0)
}

/// What was called and who served it: method, route, upstream and model, each combination once, since a batch has few.
struct Names<'r> {
    distinct: Vec<[&'r str; 4]>,
    /// Which of them, from 1 on, each record has.
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

fn usage_columns(usage: &[UsageRecord], names: &Names<'_>) -> [Value; 13] {
    [
        column(usage, |record| record.account.0),
        column(usage, |record| record.id.0),
        column(usage, |record| record.seq.unwrap_or(0)),
        column(usage, |record| record.key.0),
        column(&names.of_records, |place| *place),
        column(usage, status),
        column(usage, |record| record.cost.nanos()),
        column(usage, |record| kept_tokens(record.prompt_tokens)),
        column(usage, |record| kept_tokens(record.completion_tokens)),
        column(usage, |record| record.started_at.micros()),
        column(usage, |record| record.latency_micros),
        column(usage, |record| record.ending.code()),
        column(usage, |record| record.tally.code()),
    ]
}

fn usage_row(record: &UsageRecord) -> [Value; 16] {
    [
        record.account.0.into(),
        record.id.0.into(),
        record.seq.into(),
        record.key.0.into(),
        record.method.to_string().into(),
        record.route.to_string().into(),
        record.upstream.to_string().into(),
        status(record).into(),
        record.cost.nanos().into(),
        kept_tokens(record.prompt_tokens).into(),
        kept_tokens(record.completion_tokens).into(),
        record.started_at.micros().into(),
        record.latency_micros.into(),
        record.ending.code().into(),
        record.tally.code().into(),
        record.model.to_string().into(),
    ]
}

#[cfg(test)]
mod tests {
    use sea_orm::{QueryOrder as _, QuerySelect as _};
    use tokio::runtime::Handle;

    use super::*;
    use crate::config::DatabaseSettings;
    use crate::store::Store;
    use domain::{AccountId, ChargeId, Ending, Tally, Timestamp};

    /// The `number`th of calls that have so many different names.
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

    /// Each is as it was handed over, and in that order, wherever a statement ends.
    #[tokio::test]
    async fn usage_is_written_to_sqlite_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, &url, Handle::current()).await.unwrap();
        let lease = store.take_lease(Uuid::from_u128(2)).await.unwrap();
        let mut written = 0;
        for count in [1, 2, 63, 64, 65, 1_023, 1_024, 1_025, 2_100] {
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
