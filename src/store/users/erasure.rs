//! The erasure of a user. Its rows are written by the ledger writer, in the transaction of the
//! account's last entry.

use sea_orm::{DatabaseTransaction, DbErr, Value};

use super::UserStore;
use super::proof::forget_webhooks;
use super::record::User;
use crate::store::StoreError;
use crate::store::connections::{execute, query};
use crate::store::sql::begin_write;
use domain::{AccountStatus, Erasure, Timestamp, UserId};

/// How long another erasure of the same user is waited for, in microseconds.
const PATIENCE_MICROS: i64 = 60_000_000;

/// What came of the wish to begin an erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErasureBegun {
    /// From this mark on no payment of the user begins.
    Begun(Timestamp),
    /// A payment is on its way.
    PaymentOpen,
    /// The password was changed meanwhile, or another erasure has begun.
    Changed,
}

impl UserStore {
    /// Begins an erasure: keeps payments from beginning, if none is on its way.
    pub async fn begin_erasure(
        &self,
        user: &User,
        now: Timestamp,
    ) -> Result<ErasureBegun, StoreError> {
        // Locks the user's row. A payment that begins at the same time is seen here, or sees this.
        const BEGIN: &str = "UPDATE users SET erasing_at = $2
            WHERE id = $1 AND token_version = $3 AND erased_at IS NULL
                AND (erasing_at IS NULL OR erasing_at < $4)";
        const OPEN: &str = "SELECT 1 FROM payment WHERE status IN (1, 2)
                AND account_id IN (SELECT id FROM account WHERE user_id = $1) LIMIT 1";
        let (id, version) = (user.id.0, user.token_version);
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let patience = now.plus_micros(PATIENCE_MICROS.saturating_neg());
                let values =
                    vec![id.into(), now.micros().into(), version.into(), patience.micros().into()];
                if execute(&transaction, BEGIN, values).await? == 0 {
                    return Ok(ErasureBegun::Changed);
                }
                if !query(&transaction, OPEN, vec![id.into()]).await?.is_empty() {
                    return Ok(ErasureBegun::PaymentOpen);
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(ErasureBegun::Begun(now))
            })
            .await
    }

    /// Takes the beginning of an erasure back that does not go on. Another one that has begun since
    /// has another mark, which stays.
    pub async fn undo_erasure(&self, user: UserId, mark: Timestamp) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE users SET erasing_at = NULL WHERE id = $1 AND erasing_at = $2";
        self.database
            .run_write(move |database| async move {
                execute(&database.write, SQL, vec![user.0.into(), mark.micros().into()]).await?;
                Ok(())
            })
            .await
    }

    /// The same for every erasure that has begun before and did not end. What an earlier process
    /// did not commit never will be, since its lease is over; one of this process has had the time.
    pub async fn undo_erasures(&self, before: Timestamp) -> Result<u64, StoreError> {
        const SQL: &str = "UPDATE users SET erasing_at = NULL WHERE erasing_at < $1";
        self.database
            .run_write(move |database| async move {
                Ok(execute(&database.write, SQL, vec![before.micros().into()]).await?)
            })
            .await
    }

    /// Forgets in memory that the accounts of a user have webhooks, once their end is on record.
    pub async fn forget_webhooks(&self, user: UserId) -> Result<(), StoreError> {
        let accounts = self.accounts_of(user).await?;
        forget_webhooks(&self.database, [accounts.live, accounts.test]).await;
        Ok(())
    }
}

/// Writes the erasure of a user. Doing so twice is the same as once. The names that providers of
/// payments have for the user stay until the providers have forgotten them.
pub(in crate::store) async fn erase(
    transaction: &DatabaseTransaction,
    erasure: &Erasure,
) -> Result<(), DbErr> {
    // First, as every other writer of these rows does: so none waits for the other in a circle. A
    // new version makes void the challenges and logins that have begun.
    const PERSON: &str = "UPDATE users SET email = $2, email_folded = $2, username = $3,
            username_folded = $3, username_skeleton = $3, password_hash = '', role = 1, is_email_verified = FALSE,
            token_version = token_version + 1, tier = NULL, price_list = NULL, totp_secret = NULL,
            totp_enabled_at = NULL, erasing_at = NULL, erased_at = $4
        WHERE id = $1";
    const ENDED_NOW: [&str; 2] = [
        "UPDATE session SET ended_at = COALESCE(ended_at, $2), expires_at = $2, address = '',
            login_address = '', agent = '' WHERE user_id = $1",
        "UPDATE webhook_endpoint SET is_enabled = FALSE, deleted_at = COALESCE(deleted_at, $2),
            url = '', description = ''
            WHERE account_id IN (SELECT id FROM account WHERE user_id = $1)",
    ];
    const STATUS: &str = "UPDATE account SET status = $2 WHERE user_id = $1";
    const REST: [&str; 7] = [
        "DELETE FROM former_key_value WHERE key_id IN (SELECT id FROM api_key
            WHERE account_id IN (SELECT id FROM account WHERE user_id = $1))",
        "DELETE FROM key_policy WHERE key_id IN (SELECT id FROM api_key
            WHERE account_id IN (SELECT id FROM account WHERE user_id = $1))",
        "UPDATE api_key SET is_revoked = TRUE, is_deleted = TRUE, name = ''
            WHERE account_id IN (SELECT id FROM account WHERE user_id = $1)",
        "DELETE FROM notice WHERE account_id IN (SELECT id FROM account WHERE user_id = $1)",
        "DELETE FROM auto_top_up WHERE user_id = $1",
        "DELETE FROM email_token WHERE user_id = $1",
        "DELETE FROM recovery_code WHERE user_id = $1",
    ];
    let id = || Value::from(erasure.user.0);
    let at = || Value::from(erasure.at.micros());
    let (address, name) = (erasure.address(), erasure.pseudonym.clone());
    execute(transaction, PERSON, vec![id(), address.into(), name.into(), at()]).await?;
    for sql in ENDED_NOW {
        execute(transaction, sql, vec![id(), at()]).await?;
    }
    let suspended = AccountStatus::Suspended.code().into();
    execute(transaction, STATUS, vec![id(), suspended]).await?;
    for sql in REST {
        execute(transaction, sql, vec![id()]).await?;
    }
    failpoint!("erasure-written");
    Ok(())
}
