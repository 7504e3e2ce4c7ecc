//! The first proof of an address. Everything that was made before it ends, because anybody can
//! register with an address of somebody else.

use sea_orm::{ColumnTrait as _, DatabaseTransaction, QueryResult, Value};
use uuid::Uuid;

use super::record::{User, end_sessions, end_what_was_begun};
use crate::store::StoreError;
use crate::store::connections::{Connections, execute, query};
use domain::api_key::KeyDigest;
use domain::{AccountId, KeyId, Timestamp, UserId};
use entity::session;

/// An API key that a first proof put out of use.
#[derive(Clone, Copy, Debug)]
pub struct EndedKey {
    /// The key.
    pub id: KeyId,
    /// The account it spent.
    pub account: AccountId,
    /// The digest of its value.
    pub digest: KeyDigest,
}

/// What a first proof has ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// The API keys. Their rows are revoked; the accounts' owners are not told yet.
    pub keys: Vec<EndedKey>,
    /// How many webhooks.
    pub webhooks: u64,
    /// How many sessions.
    pub sessions: u64,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ended { keys, webhooks, sessions } = self;
        write!(f, "ended {} API keys, {webhooks} webhooks and {sessions} sessions", keys.len())
    }
}

/// The address of a user is proved.
#[derive(Clone, Debug)]
pub struct Proved {
    /// The user as they are now.
    pub user: User,
    /// What it ended, if it is the first proof.
    pub ended: Option<Ended>,
}

/// Marks the address of a user as proved. If it was not proved before, ends the user's sessions,
/// API keys, webhooks, second factor, automatic top-up, saved payment methods and changes of the
/// address.
pub(super) async fn prove(
    transaction: &DatabaseTransaction,
    user: UserId,
    now: Timestamp,
) -> Result<Option<Ended>, StoreError> {
    // A new version makes void the challenges and logins that have begun.
    const FIRST: &str = "UPDATE users SET is_email_verified = TRUE, totp_secret = NULL,
            totp_enabled_at = NULL, token_version = token_version + 1
        WHERE id = $1 AND NOT is_email_verified";
    const KEYS: &str = "SELECT id, account_id, digest FROM api_key
        WHERE account_id IN (SELECT id FROM account WHERE user_id = $1)
            AND NOT is_revoked AND NOT is_deleted";
    // In the table as well as by the accounts' owners: after a crash nothing of it is left.
    const REVOKE: &str = "UPDATE api_key SET is_revoked = TRUE
        WHERE account_id IN (SELECT id FROM account WHERE user_id = $1) AND NOT is_revoked";
    const WEBHOOKS: &str = "UPDATE webhook_endpoint SET is_enabled = FALSE, deleted_at = $2
        WHERE account_id IN (SELECT id FROM account WHERE user_id = $1) AND deleted_at IS NULL";
    // The addresses of whoever was here before are not known addresses of the user any more.
    const REST: [&str; 4] = [
        "UPDATE session SET address = '', login_address = '' WHERE user_id = $1",
        "DELETE FROM recovery_code WHERE user_id = $1",
        "UPDATE auto_top_up SET is_enabled = FALSE, is_told = TRUE WHERE user_id = $1",
        "DELETE FROM customer WHERE user_id = $1",
    ];
    let id = || Value::from(user.0);
    if execute(transaction, FIRST, vec![id()]).await? == 0 {
        return Ok(None);
    }
    let key = |row: &QueryResult| {
        let digest: Vec<u8> = row.try_get_by_index(2)?;
        let id = KeyId(row.try_get_by_index::<Uuid>(0)?);
        let corrupt = |_| StoreError::Corrupt(format!("the digest of {id} is broken"));
        let digest = KeyDigest(digest.as_slice().try_into().map_err(corrupt)?);
        Ok::<_, StoreError>(EndedKey { id, account: AccountId(row.try_get_by_index(1)?), digest })
    };
    let rows = query(transaction, KEYS, vec![id()]).await?;
    let keys = rows.iter().map(key).collect::<Result<_, _>>()?;
    execute(transaction, REVOKE, vec![id()]).await?;
    let webhooks = execute(transaction, WEBHOOKS, vec![id(), now.micros().into()]).await?;
    end_what_was_begun(transaction, user).await?;
    for sql in REST {
        execute(transaction, sql, vec![id()]).await?;
    }
    let sessions = end_sessions(transaction, session::Column::UserId.eq(user.0), now).await?;
    Ok(Some(Ended { keys, webhooks, sessions }))
}

/// Forgets that the accounts of a user have webhooks, once their end is on record.
pub(super) async fn forget_webhooks(database: &Connections, accounts: [AccountId; 2]) {
    let _one_at_a_time = database.outbox.noting.lock().await;
    for account in accounts {
        database.outbox.listeners.remove(&account);
    }
}
