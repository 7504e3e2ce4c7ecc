//! One transaction of the ledger writer: everything that a batch of account actors decided.
//!
//! Every statement has one fixed text, whatever the size of the batch, so that it is prepared once and
//! never hits a bind limit: PostgreSQL takes each column as an array (`UNNEST`), SQLite the rows as one
//! JSON text (`json_each`).

use std::collections::BTreeMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr,
    EntityTrait, QueryFilter, Statement, Value,
};
use uuid::Uuid;

use super::answers::{self, RecordedAnswer};
use super::holds;
use super::lease::{Lease, begin_write, is_held, shard};
use super::{Store, StoreError, is_postgres};
use crate::domain::{
    AccountId, AccountStatus, Credits, HoldChange, KeyId, KeySpend, LedgerEntry, PaymentId,
    SpendingLimits, Timestamp, UsageRecord,
};

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// The account it spends.
    pub account: AccountId,
    /// What its owner calls it.
    pub name: String,
    /// See [`crate::domain::api_key::KeyDigest`].
    pub digest: [u8; 32],
    /// See [`crate::domain::api_key::ApiKey::preview`].
    pub preview: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A confirmed payment to be stored with the ledger entry that credits it.
#[derive(Clone, Debug)]
pub struct NewPayment {
    /// Its id, which is the entry's reference.
    pub id: PaymentId,
    /// The account it tops up.
    pub account: AccountId,
    /// Who took the money.
    pub provider: &'static str,
    /// How much.
    pub amount: Credits,
    /// When it was made and confirmed.
    pub at: Timestamp,
}

/// A change that is not a movement of money, written in the order in which the account decided it.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new key.
    KeyCreated(NewKey),
    /// A key's ceilings.
    KeyLimits(KeyId, SpendingLimits),
    /// A key out of use.
    KeyRevoked(KeyId),
    /// A key out of use and out of the list. Its row stays, for the history that names it.
    KeyDeleted(KeyId),
    /// An account suspended or resumed.
    AccountStatus(AccountId, AccountStatus),
    /// A payment confirmed.
    PaymentConfirmed(NewPayment),
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of each account's sequence.
    pub entries: Vec<LedgerEntry>,
    /// The latest counters of each key.
    pub spends: BTreeMap<KeyId, KeySpend>,
    /// What happened to durable holds, in order.
    pub holds: Vec<HoldChange>,
    /// Usage records.
    pub usage: Vec<UsageRecord>,
    /// Answers to requests that may be repeated.
    pub answers: Vec<RecordedAnswer>,
    /// The rest, in order.
    pub changes: Vec<Change>,
}

/// Why a batch was not, or may not have been, written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another process owns the shards. Nothing was written, and nothing will be.
    #[error("another process has taken the database over")]
    Fenced,
    /// The database refuses these rows. Nothing was written.
    #[error("the database refuses the batch: {0}")]
    Refused(String),
    /// It may or may not have been written.
    #[error("the outcome of the commit is not known: {0}")]
    Unknown(DbErr),
}

impl From<DbErr> for CommitError {
    fn from(error: DbErr) -> Self {
        let inner = match &error {
            DbErr::Exec(sea_orm::RuntimeErr::SqlxError(inner))
            | DbErr::Query(sea_orm::RuntimeErr::SqlxError(inner)) => inner.as_database_error(),
            _ => None,
        };
        let code = inner.and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match code {
            Some(code) if !is_transient(&code) => CommitError::Refused(error.to_string()),
            _ => CommitError::Unknown(error),
        }
    }
}

/// Says a database's error code that the same rows may be taken later? Any other error that the database
/// itself gives is about the rows, and would come again for ever.
fn is_transient(code: &str) -> bool {
    // SQLSTATE classes of PostgreSQL: connection, transaction state, rollback, resources, object state,
    // operator intervention, system error, internal error.
    const CLASSES: [&str; 8] = ["08", "25", "40", "53", "55", "57", "58", "XX"];
    // Primary codes of SQLite: BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
    const PRIMARY: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];
    if code.len() == 5 {
        return code.get(..2).is_some_and(|class| CLASSES.contains(&class));
    }
    code.parse::<u32>().map_or(true, |code| PRIMARY.contains(&(code & 0xff)))
}

impl Batch {
    /// Is there nothing to write?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.spends.is_empty()
            && self.holds.is_empty()
            && self.usage.is_empty()
            && self.answers.is_empty()
            && self.changes.is_empty()
    }

    fn shards(&self) -> Vec<i64> {
        let mut shards: Vec<i64> = self.entries.iter().map(|entry| shard(entry.account)).collect();
        shards.extend(self.usage.iter().map(|usage| shard(usage.account)));
        shards.extend(self.holds.iter().map(|change| match change {
            HoldChange::Opened(hold) | HoldChange::Extended(hold) => shard(hold.account),
            HoldChange::Ended(end) => shard(end.account),
        }));
        // A change alone names no account; any shard tells whether the lease still holds.
        shards.push(0);
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// The state of each account after the batch: (before its first entry, its last entry).
    fn accounts(&self) -> BTreeMap<AccountId, (i64, LedgerEntry)> {
        let mut accounts = BTreeMap::new();
        for entry in &self.entries {
            accounts
                .entry(entry.account)
                .and_modify(|(_, last)| *last = *entry)
                .or_insert((entry.seq.saturating_sub(1), *entry));
        }
        accounts
    }
}

impl Store {
    /// Writes the batch in one transaction, after checking inside it that the lease still holds.
    /// `Ok` means durable.
    ///
    /// Runs where it is called, not on the database runtime: the caller is the ledger writer, which has a
    /// thread and a connection of its own.
    ///
    /// # Errors
    /// [`CommitError`]
    pub async fn commit(&self, batch: &Batch, lease: Lease) -> Result<(), CommitError> {
        let transaction = begin_write(&self.ledger).await.map_err(CommitError::Unknown)?;
        if !is_held(&transaction, lease, &batch.shards()).await? {
            return Err(CommitError::Fenced);
        }
        for change in &batch.changes {
            write_change(&transaction, change).await?;
        }
        if !(batch.entries.is_empty() && batch.spends.is_empty() && batch.usage.is_empty()) {
            write_rows(&transaction, batch, lease).await?;
        }
        if !batch.holds.is_empty() {
            holds::write(&transaction, batch, lease.epoch).await?;
        }
        for answer in &batch.answers {
            answers::record(&transaction, answer).await?;
        }
        transaction.commit().await.map_err(CommitError::Unknown)
    }

    /// Was the batch written, as far as its ledger entries and holds tell? Asked after an unknown outcome.
    ///
    /// # Errors
    /// [`StoreError`] where the database still does not answer.
    pub async fn is_written(&self, batch: &Batch, lease: Lease) -> Result<bool, StoreError> {
        // One transaction writes all or nothing, so its first entry or hold speaks for the whole batch.
        let Some(first) = batch.entries.first() else {
            return Ok(holds::are_written(&self.ledger, &batch.holds).await?.unwrap_or(false));
        };
        let row = entity::ledger_entry::Entity::find_by_id((first.account.0, first.seq))
            .one(&self.ledger)
            .await?;
        Ok(row.is_some_and(|row| row.epoch == lease.epoch && row.reference == first.reference))
    }
}

async fn write_change(transaction: &DatabaseTransaction, change: &Change) -> Result<(), DbErr> {
    use entity::{account, api_key, payment};
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
                .exec(transaction)
                .await?;
        }
        Change::KeyRevoked(id) => {
            key_update(id)
                .col_expr(api_key::Column::IsRevoked, Value::from(true).into())
                .exec(transaction)
                .await?;
        }
        Change::KeyDeleted(id) => {
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
            let row = payment::ActiveModel {
                id: Set(payment.id.0),
                account_id: Set(payment.account.0),
                provider: Set(payment.provider.to_owned()),
                status: Set(super::ledger::PaymentStatus::Confirmed.code()),
                amount: Set(payment.amount.nanos()),
                created_at: Set(payment.at.micros()),
                confirmed_at: Set(Some(payment.at.micros())),
            };
            payment::Entity::insert(row).exec_without_returning(transaction).await?;
        }
    }
    Ok(())
}

/// Everything that each paid call leaves, in one statement: a round trip costs more than a row.
const ROWS_POSTGRES: &str = "WITH entries AS (
        INSERT INTO ledger_entry
            (account_id, seq, epoch, kind, amount, balance_after, reference, key_id, day, month, at)
        SELECT account_id, seq, $1, kind, amount, balance_after, reference,
            NULLIF(key_id, '00000000-0000-0000-0000-000000000000'), day, month, at
        FROM UNNEST($2::BIGINT[], $3::BIGINT[], $4::SMALLINT[], $5::BIGINT[], $6::BIGINT[], $7::UUID[],
            $8::UUID[], $9::INTEGER[], $10::INTEGER[], $11::BIGINT[])
            AS row (account_id, seq, kind, amount, balance_after, reference, key_id, day, month, at)
    ), spends AS (
        INSERT INTO key_spend (key_id, day, day_spent, month, month_spent, last_used_at)
        SELECT * FROM UNNEST($17::UUID[], $18::INTEGER[], $19::BIGINT[], $20::INTEGER[], $21::BIGINT[],
            $22::BIGINT[])
        ON CONFLICT (key_id) DO UPDATE SET day = excluded.day, day_spent = excluded.day_spent,
            month = excluded.month, month_spent = excluded.month_spent,
            last_used_at = excluded.last_used_at
    ), usage AS (
        INSERT INTO usage_record (account_id, id, seq, key_id, method, route, upstream, status, cost,
            prompt_tokens, completion_tokens, started_at, latency_micros, ending, tally)
        SELECT account_id, id, NULLIF(seq, 0), key_id, method, route, upstream, status, cost,
            prompt_tokens, completion_tokens, started_at, latency_micros, ending, tally
        FROM UNNEST($23::BIGINT[], $24::UUID[], $25::BIGINT[], $26::UUID[], $27::TEXT[], $28::TEXT[],
            $29::TEXT[], $30::SMALLINT[], $31::BIGINT[], $32::BIGINT[], $33::BIGINT[], $34::BIGINT[],
            $35::BIGINT[], $36::SMALLINT[], $37::SMALLINT[])
            AS row (account_id, id, seq, key_id, method, route, upstream, status, cost, prompt_tokens,
                completion_tokens, started_at, latency_micros, ending, tally)
    )
    UPDATE account
    SET balance = row.balance, seq = row.seq, updated_at = row.at
    FROM UNNEST($12::BIGINT[], $13::BIGINT[], $14::BIGINT[], $15::BIGINT[], $16::BIGINT[])
        AS row (id, seq_before, seq, balance, at)
    WHERE account.id = row.id AND account.seq = row.seq_before";

/// The same for SQLite. It counts the rows of all four statements, so the batch compares the sum.
const ROWS_SQLITE: &str = "INSERT INTO ledger_entry
        (account_id, seq, epoch, kind, amount, balance_after, reference, key_id, day, month, at)
    SELECT value ->> 0, value ->> 1, $1, value ->> 2, value ->> 3, value ->> 4, unhex(value ->> 5),
        unhex(value ->> 6), value ->> 7, value ->> 8, value ->> 9
    FROM json_each($2);
    UPDATE account
    SET balance = row.balance, seq = row.seq, updated_at = row.at
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS seq_before, value ->> 2 AS seq,
        value ->> 3 AS balance, value ->> 4 AS at FROM json_each($3)) AS row
    WHERE account.id = row.id AND account.seq = row.seq_before;
    INSERT INTO key_spend (key_id, day, day_spent, month, month_spent, last_used_at)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    FROM json_each($4) WHERE TRUE
    ON CONFLICT (key_id) DO UPDATE SET day = excluded.day, day_spent = excluded.day_spent,
        month = excluded.month, month_spent = excluded.month_spent,
        last_used_at = excluded.last_used_at;
    INSERT INTO usage_record (account_id, id, seq, key_id, method, route, upstream, status, cost,
        prompt_tokens, completion_tokens, started_at, latency_micros, ending, tally)
    SELECT value ->> 0, unhex(value ->> 1), value ->> 2, unhex(value ->> 3), value ->> 4, value ->> 5,
        value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
        value ->> 13, value ->> 14
    FROM json_each($5)";

/// What a batch moves an account by: its number, the entry before the batch's first one, the last one, the
/// balance and the time of that.
type Move = (i64, i64, i64, i64, i64);

/// Writes the rows of paid calls, and moves each account on from exactly the entry it stood at.
async fn write_rows(
    transaction: &DatabaseTransaction,
    batch: &Batch,
    lease: Lease,
) -> Result<(), CommitError> {
    let moves: Vec<Move> = batch
        .accounts()
        .iter()
        .map(|(id, (before, last))| {
            (id.0, *before, last.seq, last.balance_after.nanos(), last.at.micros())
        })
        .collect();
    let spends: Vec<KeySpend> = batch.spends.values().copied().collect();
    let backend: DbBackend = transaction.get_database_backend();
    let (statement, expected) = if is_postgres(transaction) {
        let mut values = vec![Value::from(lease.epoch)];
        values.extend(entry_columns(&batch.entries));
        values.extend(move_columns(&moves));
        values.extend(spend_columns(&spends));
        values.extend(usage_columns(&batch.usage));
        (Statement::from_sql_and_values(backend, ROWS_POSTGRES, values), moves.len())
    } else {
        let values = [
            lease.epoch.into(),
            entry_rows(&batch.entries)?,
            json(moves.iter())?,
            spend_rows(&spends)?,
            usage_rows(&batch.usage)?,
        ];
        let rows = [batch.entries.len(), moves.len(), spends.len(), batch.usage.len()];
        let statement = Statement::from_sql_and_values(backend, ROWS_SQLITE, values);
        (statement, rows.into_iter().sum())
    };
    let written = transaction.execute_raw(statement).await?.rows_affected();
    if usize::try_from(written).is_ok_and(|written| written == expected) {
        Ok(())
    } else {
        Err(CommitError::Refused("an account's ledger has moved on elsewhere".into()))
    }
}

fn entry_columns(entries: &[LedgerEntry]) -> [Value; 10] {
    [
        column(entries, |entry| entry.account.0),
        column(entries, |entry| entry.seq),
        column(entries, |entry| entry.kind.code()),
        column(entries, |entry| entry.amount.nanos()),
        column(entries, |entry| entry.balance_after.nanos()),
        column(entries, |entry| entry.reference),
        column(entries, |entry| entry.key.map_or(Uuid::nil(), |key| key.0)),
        column(entries, |entry| entry.day.0),
        column(entries, |entry| entry.month.0),
        column(entries, |entry| entry.at.micros()),
    ]
}

fn entry_rows(entries: &[LedgerEntry]) -> Result<Value, DbErr> {
    json(entries.iter().map(|entry| {
        (
            entry.account.0,
            entry.seq,
            entry.kind.code(),
            entry.amount.nanos(),
            entry.balance_after.nanos(),
            entry.reference.simple(),
            entry.key.map(|key| key.0.simple()),
            entry.day.0,
            entry.month.0,
            entry.at.micros(),
        )
    }))
}

fn move_columns(moves: &[Move]) -> [Value; 5] {
    [
        column(moves, |row| row.0),
        column(moves, |row| row.1),
        column(moves, |row| row.2),
        column(moves, |row| row.3),
        column(moves, |row| row.4),
    ]
}

fn last_used(spend: &KeySpend) -> i64 {
    spend.last_used_at.unwrap_or_default().micros()
}

fn spend_columns(spends: &[KeySpend]) -> [Value; 6] {
    [
        column(spends, |spend| spend.key.0),
        column(spends, |spend| spend.day.0),
        column(spends, |spend| spend.day_spent.nanos()),
        column(spends, |spend| spend.month.0),
        column(spends, |spend| spend.month_spent.nanos()),
        column(spends, last_used),
    ]
}

fn spend_rows(spends: &[KeySpend]) -> Result<Value, DbErr> {
    json(spends.iter().map(|spend| {
        (
            spend.key.0.simple(),
            spend.day.0,
            spend.day_spent.nanos(),
            spend.month.0,
            spend.month_spent.nanos(),
            last_used(spend),
        )
    }))
}

fn status(record: &UsageRecord) -> i16 {
    i16::try_from(record.status).unwrap_or(0)
}

fn tokens(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn usage_columns(usage: &[UsageRecord]) -> [Value; 15] {
    [
        column(usage, |record| record.account.0),
        column(usage, |record| record.id.0),
        column(usage, |record| record.seq.unwrap_or(0)),
        column(usage, |record| record.key.0),
        column(usage, |record| record.method.to_string()),
        column(usage, |record| record.route.to_string()),
        column(usage, |record| record.upstream.to_string()),
        column(usage, status),
        column(usage, |record| record.cost.nanos()),
        column(usage, |record| tokens(record.prompt_tokens)),
        column(usage, |record| tokens(record.completion_tokens)),
        column(usage, |record| record.started_at.micros()),
        column(usage, |record| record.latency_micros),
        column(usage, |record| record.ending.code()),
        column(usage, |record| record.tally.code()),
    ]
}

fn usage_rows(usage: &[UsageRecord]) -> Result<Value, DbErr> {
    json(usage.iter().map(|record| {
        (
            record.account.0,
            record.id.0.simple(),
            record.seq,
            record.key.0.simple(),
            &*record.method,
            &*record.route,
            &*record.upstream,
            status(record),
            record.cost.nanos(),
            tokens(record.prompt_tokens),
            tokens(record.completion_tokens),
            record.started_at.micros(),
            record.latency_micros,
            record.ending.code(),
            record.tally.code(),
        )
    }))
}

/// One column of the rows, as a PostgreSQL array.
pub(super) fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Value
where
    Vec<T>: Into<Value>,
{
    rows.iter().map(value).collect::<Vec<T>>().into()
}

/// The rows as one JSON text: an array of arrays.
pub(super) fn json<R: serde::Serialize>(rows: impl Iterator<Item = R>) -> Result<Value, DbErr> {
    let rows: Vec<R> = rows.collect();
    serde_json::to_string(&rows).map(Value::from).map_err(|error| DbErr::Json(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        // PostgreSQL: connection, serialization, too many connections, shutdown; then what is about the rows.
        for code in ["08006", "40001", "40P01", "53300", "57P01", "58030"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "23514", "22021", "22003", "42703"] {
            assert!(!is_transient(code), "{code}");
        }
        // SQLite, primary and extended: BUSY, IOERR_FSYNC, FULL; then constraints, mismatch, a trigger's abort.
        for code in ["5", "1034", "13"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["19", "2067", "1555", "275", "20", "1", "1811"] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
