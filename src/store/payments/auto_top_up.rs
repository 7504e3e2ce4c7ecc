//! Automatic top-ups.

use sea_orm::{ConnectionTrait, QueryResult, Value};

use super::PaymentStore;
use crate::store::connections::{execute, query};
use crate::store::sql::begin_write;
use crate::store::{StoreError, audit_log};
use domain::{AccountId, Act, Credits, Timestamp, UserId};

/// Consecutive failures after which an automatic top-up is switched off.
pub(super) const AUTO_FAILURES_MAX: i32 = 3;
/// Pause after the first failure, in microseconds. It is twice as long after the second one.
pub(super) const AUTO_PAUSE_MICROS: i64 = 3_600 * 1_000_000;
pub(super) const AUTO_FAILED: &str = "UPDATE auto_top_up SET failures = failures + 1,
        not_before = $1 + $2 * (failures + 1), is_enabled = failures + 1 < $3,
        is_told = failures + 1 < $3
    WHERE is_enabled AND account_id = (SELECT account_id FROM payment WHERE id = $4 AND is_auto)";
pub(super) const AUTO_WELL: &str = "UPDATE auto_top_up SET failures = 0
    WHERE is_enabled AND failures > 0
        AND account_id = (SELECT account_id FROM payment WHERE id = $1 AND is_auto)";

/// The rule of an account's automatic top-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoTopUp {
    /// The account.
    pub account: AccountId,
    /// The user who owns the account.
    pub user: UserId,
    /// Is it enabled?
    pub is_enabled: bool,
    /// The account is topped up if its balance is below this.
    pub threshold: Credits,
    /// The amount of a top-up.
    pub amount: Credits,
    /// Most credits that it adds in a UTC month.
    pub monthly_cap: Credits,
    /// The payment method that is charged.
    pub method: String,
    /// Number of consecutive failures.
    pub failures: i32,
    /// No top-up begins before this time.
    pub not_before: Timestamp,
}

impl PaymentStore {
    /// The rule of an account's automatic top-up, if it has one.
    pub async fn find_auto_top_up(
        &self,
        account: AccountId,
    ) -> Result<Option<AutoTopUp>, StoreError> {
        self.database
            .run(move |database| async move {
                let found =
                    auto_top_ups(&database.read, "account_id = $1", account.0.into()).await?;
                Ok(found.into_iter().next())
            })
            .await
    }

    /// Inserts or replaces the rule of an account's automatic top-up, and resets its failures.
    pub async fn set_auto_top_up(
        &self,
        rule: AutoTopUp,
        act: Act,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const SQL: &str =
            "INSERT INTO auto_top_up (account_id, user_id, is_enabled, threshold, amount,
                monthly_cap, method, failures, not_before, is_told, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, TRUE, $8)
            ON CONFLICT (account_id) DO UPDATE SET is_enabled = excluded.is_enabled,
                threshold = excluded.threshold, amount = excluded.amount,
                monthly_cap = excluded.monthly_cap, method = excluded.method, failures = 0,
                not_before = 0, is_told = TRUE, updated_at = excluded.updated_at";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values = vec![
                    rule.account.0.into(),
                    rule.user.0.into(),
                    rule.is_enabled.into(),
                    rule.threshold.nanos().into(),
                    rule.amount.nanos().into(),
                    rule.monthly_cap.nanos().into(),
                    rule.method.into(),
                    at.micros().into(),
                ];
                execute(&transaction, SQL, values).await?;
                audit_log::insert(&transaction, &act).await?;
                Ok(transaction.commit().await?)
            })
            .await
    }

    /// The rules that are due: the balance is below the threshold, no automatic top-up is open, and
    /// another one stays within the monthly limit. `month_start` is when the current UTC month
    /// began.
    pub async fn list_due_auto_top_ups(
        &self,
        now: Timestamp,
        month_start: Timestamp,
    ) -> Result<Vec<AutoTopUp>, StoreError> {
        let condition = format!("{} LIMIT 100", auto_due(month_start));
        self.database
            .run(move |database| async move {
                auto_top_ups(&database.read, &condition, now.micros().into()).await
            })
            .await
    }

    /// The rules that were switched off after failures and whose owners are not notified yet, with
    /// the reason of the last failure.
    pub async fn list_stopped_auto_top_ups(
        &self,
    ) -> Result<Vec<(AccountId, UserId, String)>, StoreError> {
        const SQL: &str = "SELECT account_id, user_id, (
                SELECT failure FROM payment WHERE payment.account_id = auto_top_up.account_id
                    AND is_auto AND failure IS NOT NULL ORDER BY id DESC LIMIT 1)
            FROM auto_top_up WHERE NOT is_told LIMIT $1";
        self.database
            .run(move |database| async move {
                let rows = query(&database.read, SQL, vec![100_i64.into()]).await?;
                let rule = |row: &QueryResult| {
                    let why: Option<String> = row.try_get_by_index(2)?;
                    let account = AccountId(row.try_get_by_index(0)?);
                    Ok((account, UserId(row.try_get_by_index(1)?), why.unwrap_or_default()))
                };
                rows.iter().map(rule).collect()
            })
            .await
    }

    /// Records that a rule's owner was notified that it is switched off.
    pub async fn mark_auto_top_up_notified(&self, account: AccountId) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE auto_top_up SET is_told = TRUE WHERE account_id = $1";
        self.database
            .run_job(move |database| async move {
                execute(&database.write, SQL, vec![account.0.into()]).await?;
                Ok(())
            })
            .await
    }
}

/// An SQL condition for rules that are due. Its `$1` is the current time.
pub(super) fn auto_due(month_start: Timestamp) -> String {
    let month_start = month_start.micros();
    format!(
        "is_enabled AND not_before <= $1
        AND threshold > (SELECT balance FROM account
            WHERE account.id = account_id AND account.status = 1)
        AND NOT EXISTS (SELECT 1 FROM payment WHERE payment.account_id = auto_top_up.account_id
            AND payment.is_auto AND payment.status IN (1, 2))
        AND amount + (SELECT CAST(COALESCE(SUM(payment.amount), 0) AS BIGINT) FROM payment
            WHERE payment.account_id = auto_top_up.account_id AND payment.is_auto
            AND payment.status = 3 AND payment.created_at >= {month_start}) <= monthly_cap"
    )
}

pub(super) async fn auto_top_ups(
    connection: &impl ConnectionTrait,
    condition: &str,
    value: Value,
) -> Result<Vec<AutoTopUp>, StoreError> {
    let sql = format!(
        "SELECT account_id, user_id, is_enabled, threshold, amount, monthly_cap, method, failures, not_before
        FROM auto_top_up WHERE {condition}"
    );
    let rows = query(connection, &sql, vec![value]).await?;
    let rule = |row: &QueryResult| {
        Ok(AutoTopUp {
            account: AccountId(row.try_get_by_index(0)?),
            user: UserId(row.try_get_by_index(1)?),
            is_enabled: row.try_get_by_index(2)?,
            threshold: Credits::from_nanos(row.try_get_by_index(3)?),
            amount: Credits::from_nanos(row.try_get_by_index(4)?),
            monthly_cap: Credits::from_nanos(row.try_get_by_index(5)?),
            method: row.try_get_by_index(6)?,
            failures: row.try_get_by_index(7)?,
            not_before: Timestamp::from_micros(row.try_get_by_index(8)?),
        })
    };
    rows.iter().map(rule).collect()
}
