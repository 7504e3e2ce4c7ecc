//! The entries of calls with their bills.

use sea_orm::{ConnectionTrait as _, FromQueryResult as _, QueryResult, Statement, Value};

use super::entries::entry;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::row::Row as _;
use crate::store::sql::query;
use domain::{AccountId, ActKind, ChargeId, Environment, LedgerEntry, Timestamp, UserId};
use entity::ledger_entry;

/// How many entries back from its last one the charge of a call is looked for.
const BACK_MAX: i64 = 20_000;
/// How long before and after the id of a call was made its charge is looked for, in microseconds,
/// if its usage record is gone.
const BEFORE_MICROS: i64 = 3_600_000_000;
const AFTER_MICROS: i64 = 86_400_000_000;

/// What a call was charged for, and what was done about it later.
#[derive(Clone, Debug)]
pub struct ChargeEntries {
    /// The charge or the capture.
    pub charge: LedgerEntry,
    /// Its refund, and the grants and deductions that correct it, oldest first.
    pub others: Vec<LedgerEntry>,
}

fn columns() -> String {
    LedgerEntry::COLUMNS.map(|column| column.name).join(", ")
}

fn read(row: &QueryResult) -> Result<LedgerEntry, StoreError> {
    entry(&ledger_entry::Model::from_query_result(row, "")?)
}

impl Store {
    /// The charge of a call of this account.
    pub async fn charge_entries(
        &self,
        account: AccountId,
        charge: ChargeId,
    ) -> Result<Option<ChargeEntries>, StoreError> {
        const SEQ: &str = "SELECT seq FROM usage_record WHERE account_id = $1 AND id = $2";
        self.run(move |store| async move {
            let values = || -> [Value; 2] { [account.0.into(), charge.0.into()] };
            let rows = query(&store.read, SEQ, values()).await?;
            let seq = rows.first().map(|row| row.try_get_by_index::<Option<i64>>(0));
            let (low, high) = if let Some(seq) = seq.transpose()?.flatten() {
                (seq.saturating_sub(BACK_MAX), seq.saturating_add(1))
            } else {
                let Some(made) = charge.0.get_timestamp() else { return Ok(None) };
                let (seconds, nanos) = made.to_unix();
                let micros = i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000);
                let made = micros.saturating_add(i64::from(nanos / 1_000));
                let made = Timestamp::from_micros(made);
                let from = made.plus_micros(BEFORE_MICROS.saturating_neg());
                store.span(account, Some(from), Some(made.plus_micros(AFTER_MICROS))).await?
            };
            let backend = store.read.get_database_backend();
            let sql = format!(
                "SELECT {} FROM ledger_entry WHERE account_id = $1 AND seq >= $3 AND seq < $4
                    AND reference = $2 AND kind IN (2, 3) ORDER BY seq LIMIT 1",
                columns()
            );
            let values = [account.0.into(), charge.0.into(), low.into(), high.into()];
            let found = Statement::from_sql_and_values(backend, sql, values);
            let Some(row) = store.read.query_one_raw(found).await? else { return Ok(None) };
            let charged = read(&row)?;
            let sql = format!(
                "SELECT {} FROM ledger_entry WHERE account_id = $1 AND kind NOT IN (2, 3)
                    AND kind IN (4, 5, 6) AND seq > $3 AND reference = $2 ORDER BY seq",
                columns()
            );
            let values = [account.0.into(), charge.0.into(), charged.seq.into()];
            let others = query(&store.read, &sql, values).await?;
            let others = others.iter().map(read).collect::<Result<_, _>>()?;
            Ok(Some(ChargeEntries { charge: charged, others }))
        })
        .await
    }

    /// The account that has a usage record of this call, and its user.
    pub async fn payer_of(
        &self,
        charge: ChargeId,
    ) -> Result<Option<(AccountId, UserId, Environment)>, StoreError> {
        // One look into the index of each account: there is none by the call alone.
        const SQL: &str = "SELECT account.id, account.user_id, CAST(account.environment AS BIGINT)
            FROM account WHERE EXISTS (
                SELECT 1 FROM usage_record AS usage
                WHERE usage.account_id = account.id AND usage.id = $1)
            LIMIT 1";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, [charge.0.into()]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let environment: i64 = row.try_get_by_index(2)?;
            let environment = i16::try_from(environment).ok().and_then(Environment::from_code);
            let corrupt = || StoreError::Corrupt("an account has no environment".into());
            Ok(Some((
                AccountId(row.try_get_by_index(0)?),
                UserId(row.try_get_by_index(1)?),
                environment.ok_or_else(corrupt)?,
            )))
        })
        .await
    }

    /// The model that a call asked for, by its usage record.
    pub async fn model_of(
        &self,
        account: AccountId,
        charge: ChargeId,
    ) -> Result<Option<String>, StoreError> {
        const SQL: &str = "SELECT model FROM usage_record WHERE account_id = $1 AND id = $2";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, [account.0.into(), charge.0.into()]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let model: String = row.try_get_by_index(0)?;
            Ok(Some(model).filter(|model| !model.is_empty()))
        })
        .await
    }

    /// Up to 500 accounts after this one whose last entry is from then or later, in order.
    pub async fn accounts_since(
        &self,
        since: Timestamp,
        after: AccountId,
    ) -> Result<Vec<AccountId>, StoreError> {
        const SQL: &str = "SELECT id FROM account WHERE updated_at >= $1 AND id > $2
            ORDER BY id LIMIT 500";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, [since.micros().into(), after.0.into()]).await?;
            rows.iter().map(|row| Ok(AccountId(row.try_get_by_index(0)?))).collect()
        })
        .await
    }

    /// Up to `limit` entries of an account with a bill, of this span and after this number.
    pub async fn billed_entries(
        &self,
        account: AccountId,
        (from, until): (Timestamp, Timestamp),
        after: i64,
        limit: u64,
    ) -> Result<Vec<LedgerEntry>, StoreError> {
        self.run(move |store| async move {
            let (low, high) = store.span(account, Some(from), Some(until)).await?;
            let sql = format!(
                "SELECT {} FROM ledger_entry WHERE account_id = $1 AND seq >= $2 AND seq < $3
                    AND at >= $4 AND at < $5 AND bill IS NOT NULL ORDER BY seq LIMIT $6",
                columns()
            );
            let values = [
                account.0.into(),
                low.max(after.saturating_add(1)).into(),
                high.into(),
                from.micros().into(),
                until.micros().into(),
                i64::try_from(limit).unwrap_or(i64::MAX).into(),
            ];
            query(&store.read, &sql, values).await?.iter().map(read).collect()
        })
        .await
    }

    /// The details of the acts that have corrected a charge of this user, oldest first.
    pub async fn corrections(
        &self,
        user: UserId,
        charge: ChargeId,
    ) -> Result<Vec<String>, StoreError> {
        const SQL: &str = "SELECT detail FROM audit_log
            WHERE user_id = $1 AND kind = $2 AND subject = $3 ORDER BY id";
        self.run(move |store| async move {
            let kind = ActKind::ChargeCorrected.name();
            let values = [user.0.into(), kind.into(), charge.to_string().into()];
            let rows = query(&store.read, SQL, values).await?;
            rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
        })
        .await
    }
}
