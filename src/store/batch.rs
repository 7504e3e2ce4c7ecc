//! One transaction of the ledger writer: everything that a batch of account actors decided.
//!
//! Statements have few texts, whatever the size of the batch, so that each is prepared once and never hits a bind
//! limit: PostgreSQL takes each column as an array (`UNNEST`); SQLite takes the rows of paid calls as `VALUES` with
//! room for a power of two of them, and what is rarer as one JSON text (`json_each`), which costs it several times
//! as much a row.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, DatabaseTransaction,
    DbBackend, DbErr, EntityTrait, QueryFilter, Statement, Value,
};
use uuid::Uuid;

use super::error::{CommitError, StoreError};
use super::lease::is_held;
use super::sql::{PIECE, Table, all_written, begin_write, column, is_postgres};
use super::{Journal, Store, answers, audit_log, holds, outbox, payments, rollups};
use domain::usage::kept_tokens;
use domain::writer::{Lane, Target};
use domain::{
    Batch, Change, Credits, KeyId, KeySpend, Lease, LedgerEntry, Link, Timestamp, UsageRecord,
};

/// How long a look waits for the sessions of earlier attempts to end.
const SESSION_POLLS: u32 = 50;
const SESSION_POLL: Duration = Duration::from_millis(2);

impl Store {
    /// Writes the batch in one transaction, after checking inside it that the lease still holds.
    /// `Ok` means durable.
    ///
    /// Runs where it is called, in no task of its own: the caller is the ledger writer, which has tasks and a
    /// connection for it.
    ///
    /// # Errors
    /// [`CommitError`]
    pub async fn commit(&self, batch: &Batch, lease: Lease) -> Result<(), CommitError> {
        failpoint!("writer-before-begin");
        let mut unfolded = self.unfolded.hold().await;
        let before = unfolded.take();
        let transaction = begin_write(&self.tables.pool()).await.map_err(CommitError::Unknown)?;
        failpoint!("writer-begun");
        if !is_held(&transaction, lease, &batch.shards()).await? {
            return Err(CommitError::Fenced);
        }
        failpoint!("writer-lease-checked");
        for change in &batch.changes {
            write_change(&transaction, change).await?;
        }
        failpoint!("writer-changes-written");
        if !(batch.entries.is_empty() && batch.spends.is_empty() && batch.usage.is_empty()) {
            write_rows(&transaction, batch, Duration::ZERO).await?;
        }
        failpoint!("writer-rows-written");
        if !batch.holds.is_empty() {
            holds::write(&transaction, batch, lease.epoch).await?;
        }
        failpoint!("writer-holds-written");
        for answer in &batch.answers {
            answers::record(&transaction, answer).await?;
        }
        failpoint!("writer-answers-written");
        for act in &batch.acts {
            audit_log::insert(&transaction, act).await?;
        }
        let told = outbox::write_batch(&self.outbox, &transaction, batch).await?;
        failpoint!("writer-events-written");
        let after = rollups::take_in(&transaction, before, &batch.usage).await?;
        commit(transaction).await?;
        *unfolded = Some(after);
        self.outbox.ring(told);
        Ok(())
    }

    /// Makes one more write durable: with it, everything is that was committed before, also where a commit was
    /// cut off while it waited for a standby.
    ///
    /// # Errors
    /// [`CommitError`]
    pub async fn seal(&self, lane: Lane, lease: Lease) -> Result<(), CommitError> {
        let connection = match (lane, &self.journal) {
            (Lane::Tables, _) => &self.tables,
            (Lane::Journal, Journal::Table(connection)) => connection,
            (Lane::Journal, Journal::Log(log)) => return log.seal(lease),
        };
        let connection = connection.lent().await;
        let transaction = begin_write(&connection).await.map_err(CommitError::Unknown)?;
        if !is_held(&transaction, lease, &[0]).await? {
            return Err(CommitError::Fenced);
        }
        let sql = "UPDATE shard_lease SET epoch = epoch WHERE shard = 0";
        transaction.execute_unprepared(sql).await?;
        commit(transaction).await
    }

    /// Was the batch written? Asked after an unknown outcome.
    ///
    /// # Errors
    /// [`StoreError`] where the database still does not answer.
    pub async fn is_written(
        &self,
        batch: &Batch,
        place: Target,
        lease: Lease,
    ) -> Result<bool, StoreError> {
        if let Target::Journal(number) = place {
            self.wait_for_other_sessions(Lane::Journal).await?;
            // Else whoever took the accounts over may have checkpointed it already.
            if self.is_journaled(number, lease).await? {
                return Ok(true);
            }
        } else {
            self.wait_for_other_sessions(Lane::Tables).await?;
        }
        let lent = self.tables.committed().await;
        let ledger: &DatabaseConnection = &lent;
        // One transaction writes all or nothing, so any row that is this batch's alone speaks for all of it.
        if let Some(first) = batch.entries.first() {
            let row = entity::ledger_entry::Entity::find_by_id((first.account.0, first.seq))
                .one(ledger)
                .await?;
            return Ok(row.is_some_and(|row| row.epoch == lease.epoch && row.link == first.link.0));
        }
        if let Some(is_written) = holds::are_written(ledger, &batch.holds, lease.epoch).await? {
            return Ok(is_written);
        }
        if let Some(usage) = batch.usage.first() {
            return is_usage_written(ledger, usage).await;
        }
        // The rest can be written twice and is the same.
        Ok(false)
    }

    /// Waits until nothing that was begun before can still be committed.
    pub(super) async fn wait_for_other_sessions(&self, lane: Lane) -> Result<(), StoreError> {
        // What was written into SQLite's journal was done when it returned.
        let Some(connection) = self.lane(lane) else { return Ok(()) };
        // What a connection of SQLite was told before, it has done when it answers.
        connection.lent().await.ping().await?;
        let ledger = connection.committed().await;
        let mut polls = 0..SESSION_POLLS;
        while is_postgres(&*ledger) && other_sessions(&ledger).await? > 0 {
            polls.next().ok_or(StoreError::TooSlow)?;
            tokio::time::sleep(SESSION_POLL).await;
        }
        Ok(())
    }
}

/// Looks among the last records only: they are in the order in which they were written, and have no index by id.
async fn is_usage_written(
    ledger: &DatabaseConnection,
    usage: &UsageRecord,
) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM (
            SELECT id FROM usage_record ORDER BY number DESC LIMIT 20000
        ) AS last WHERE id = $1";
    let backend = ledger.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, SQL, [usage.id.0.into()]);
    let row = ledger.query_one_raw(statement).await?;
    let count = row.map(|row| row.try_get_by_index::<i64>(0)).transpose()?;
    Ok(count.is_some_and(|count| count > 0))
}

/// The writer's sessions that were given up and have not ended.
async fn other_sessions(ledger: &DatabaseConnection) -> Result<i64, DbErr> {
    const SQL: &str = "SELECT COUNT(*) FROM pg_stat_activity
        WHERE application_name = current_setting('application_name')
            AND usename = current_user AND pid <> pg_backend_pid()";
    let row = ledger.query_one_raw(Statement::from_string(DbBackend::Postgres, SQL)).await?;
    Ok(row.map(|row| row.try_get_by_index::<i64>(0)).transpose()?.unwrap_or(0))
}

pub(super) async fn commit(transaction: DatabaseTransaction) -> Result<(), CommitError> {
    let committing = transaction.commit();
    failpoint!("writer-commit-sent");
    committing.await.map_err(CommitError::Unknown)
}

async fn write_change(
    transaction: &DatabaseTransaction,
    change: &Change,
) -> Result<(), CommitError> {
    use entity::{account, api_key};
    let key_update =
        |id: &KeyId| api_key::Entity::update_many().filter(api_key::Column::Id.eq(id.0));
    match change {
        Change::KeyCreated(key) => {
            let row = api_key::ActiveModel {
                id: Set(key.id.0),
                account_id: Set(key.account.0),
                name: Set(key.name.clone()),
                digest: Set(key.digest.to_vec()),
                preview: Set(key.preview.clone()),
                is_revoked: Set(false),
                is_deleted: Set(false),
                per_request_limit: Set(None),
                daily_limit: Set(None),
                monthly_limit: Set(None),
                total_limit: Set(None),
                created_at: Set(key.created_at.micros()),
                expires_at: Set(key.expires_at.map(Timestamp::micros)),
            };
            // A batch of an unknown outcome is written again; the same key may be there already.
            api_key::Entity::insert(row)
                .on_conflict_do_nothing_on([api_key::Column::Id])
                .exec_without_returning(transaction)
                .await?;
        }
        Change::KeyLimits(id, limits) => {
            let nanos = |limit: Option<Credits>| Value::from(limit.map(Credits::nanos));
            key_update(id)
                .col_expr(api_key::Column::PerRequestLimit, nanos(limits.per_request).into())
                .col_expr(api_key::Column::DailyLimit, nanos(limits.daily).into())
                .col_expr(api_key::Column::MonthlyLimit, nanos(limits.monthly).into())
                .col_expr(api_key::Column::TotalLimit, nanos(limits.total).into())
                .exec(transaction)
                .await?;
        }
        Change::KeyRevoked(_, id, _) => {
            key_update(id)
                .col_expr(api_key::Column::IsRevoked, Value::from(true).into())
                .exec(transaction)
                .await?;
        }
        Change::KeyDeleted(_, id, _) => {
            key_update(id)
                .col_expr(api_key::Column::IsDeleted, Value::from(true).into())
                .exec(transaction)
                .await?;
        }
        Change::AccountStatus(id, status) => {
            account::Entity::update_many()
                .filter(account::Column::Id.eq(id.0))
                .col_expr(account::Column::Status, Value::from(status.code()).into())
                .exec(transaction)
                .await?;
        }
        Change::PaymentConfirmed(payment) => {
            payments::insert_confirmed(transaction, payment).await?;
        }
        Change::PaymentPaid(payment, at) => payments::confirm(transaction, *payment, *at).await?,
        Change::PaymentReversed(reversal, step) => {
            payments::reverse(transaction, reversal, *step).await?;
        }
    }
    Ok(())
}

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

/// How long a checkpoint that nothing waits for leaves the processors to others between two statements. Calls would wait for
/// a processor longer than for the disk, where the database has no others.
pub(super) const PIECE_PAUSE: Duration = Duration::from_millis(1);

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
    use domain::{AccountId, ChargeId, Ending, Tally};

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
