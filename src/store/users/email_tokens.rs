//! Tokens sent by email, and those that the command line prints for operators. Each can be used
//! once, until it expires.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait as _, DatabaseTransaction, EntityTrait,
    ExprTrait as _, QueryFilter, Statement, Value,
};
use uuid::Uuid;

use super::UserStore;
use super::proof::{Ended, Proved, forget_webhooks, prove};
use super::record::{
    TokenDigest, TokenPurpose, User, delete_unused_email_tokens, end_sessions, end_what_was_begun,
    folded,
};
use super::sessions::{alive, lock};
use crate::store::connections::{CHUNK, execute};
use crate::store::sql::begin_write;
use crate::store::{StoreError, audit_log};
use domain::{Act, ActKind, Actor, Origin, SessionId, Timestamp, UserId};
use entity::{email_token, session, user};

impl UserStore {
    /// Inserts a token for a user, and deletes the user's other tokens for the same purpose.
    /// `new_email` is the address that a change of address leads to. Inserts none if the account
    /// was taken back since `user` was read.
    pub async fn insert_email_token(
        &self,
        user: &User,
        purpose: TokenPurpose,
        digest: TokenDigest,
        expires_at: Timestamp,
        new_email: Option<String>,
    ) -> Result<(), StoreError> {
        const LOCK: &str =
            "UPDATE users SET token_version = token_version WHERE id = $1 AND token_version = $2";
        let (id, version, email) = (user.id, user.token_version, folded(&user.email));
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values = vec![id.0.into(), version.into()];
                if execute(&transaction, LOCK, values).await? == 0 {
                    return Ok(());
                }
                delete_unused_email_tokens(&transaction, id, purpose).await?;
                let row = email_token::ActiveModel {
                    digest: Set(digest.to_vec()),
                    user_id: Set(id.0),
                    purpose: Set(purpose.code()),
                    email_folded: Set(email),
                    new_email: Set(new_email),
                    expires_at: Set(expires_at.micros()),
                    used_at: Set(None),
                };
                email_token::Entity::insert(row).exec_without_returning(&transaction).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// Deletes the unused tokens of a user for a purpose.
    pub async fn delete_email_tokens(
        &self,
        id: UserId,
        purpose: TokenPurpose,
    ) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock(&transaction, id).await?;
                delete_unused_email_tokens(&transaction, id, purpose).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// The user of a token that is unused and not expired.
    pub async fn find_by_email_token(
        &self,
        purpose: TokenPurpose,
        digest: TokenDigest,
        now: Timestamp,
    ) -> Result<Option<User>, StoreError> {
        self.database
            .run(move |database| async move {
                let found = email_token::Entity::find_by_id(digest.to_vec())
                    .filter(email_token::Column::Purpose.eq(purpose.code()))
                    .filter(email_token::Column::UsedAt.is_null())
                    .filter(email_token::Column::ExpiresAt.gt(now.micros()))
                    .one(&database.read)
                    .await?;
                let Some(token) = found else { return Ok(None) };
                let user = user::Entity::find_by_id(token.user_id).one(&database.read).await?;
                Ok(user.map(User::from))
            })
            .await
    }

    /// Uses a token that verifies an address. `None` if the token is not valid.
    pub async fn verify_email(
        &self,
        digest: TokenDigest,
        now: Timestamp,
        from: Origin,
    ) -> Result<Option<Proved>, StoreError> {
        let proved = self
            .database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock_owner(&transaction, digest).await?;
                let used = use_up(&transaction, TokenPurpose::Verify, digest, now).await?;
                let Some(user) = used.map(|token| UserId(token.user_id)) else { return Ok(None) };
                let ended = prove(&transaction, user, now).await?;
                let origin = Origin { actor: Actor::User(user), ..from };
                let act = origin.act(Uuid::now_v7(), user, ActKind::EmailVerified, now);
                let act = act.with(ended.as_ref().map(Ended::to_string).unwrap_or_default());
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(Some((user, ended)))
            })
            .await?;
        self.after_proof(proved).await
    }

    /// Reads the user of a proof, and has what it ended forgotten in memory.
    async fn after_proof(
        &self,
        proved: Option<(UserId, Option<Ended>)>,
    ) -> Result<Option<Proved>, StoreError> {
        let Some((id, ended)) = proved else { return Ok(None) };
        if ended.is_some() {
            let accounts = self.accounts_of(id).await?;
            forget_webhooks(&self.database, [accounts.live, accounts.test]).await;
        }
        Ok(self.find(id).await?.map(|user| Proved { user, ended }))
    }

    /// Uses a token that resets a password: sets the password, and ends every session of the user
    /// and what was begun in them. This also verifies the address. `None` if the token is not
    /// valid.
    pub async fn reset_password(
        &self,
        digest: TokenDigest,
        hash: String,
        now: Timestamp,
        from: Origin,
    ) -> Result<Option<Proved>, StoreError> {
        let proved = self
            .database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock_owner(&transaction, digest).await?;
                let used = use_up(&transaction, TokenPurpose::Reset, digest, now).await?;
                let Some(user) = used.map(|token| UserId(token.user_id)) else { return Ok(None) };
                let sql = "UPDATE users SET password_hash = $1, token_version = token_version + 1
                WHERE id = $2";
                let values: [Value; 2] = [hash.into(), user.0.into()];
                let backend = transaction.get_database_backend();
                transaction
                    .execute_raw(Statement::from_sql_and_values(backend, sql, values))
                    .await?;
                let ended = prove(&transaction, user, now).await?;
                end_what_was_begun(&transaction, user).await?;
                delete_unused_email_tokens(&transaction, user, TokenPurpose::Reset).await?;
                end_sessions(&transaction, session::Column::UserId.eq(user.0), now).await?;
                let origin = Origin { actor: Actor::User(user), ..from };
                let act = origin.act(Uuid::now_v7(), user, ActKind::PasswordReset, now);
                let act = act.with(ended.as_ref().map(Ended::to_string).unwrap_or_default());
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(Some((user, ended)))
            })
            .await?;
        self.after_proof(proved).await
    }

    /// Uses a token that changes the address, in a session of its user. That session goes on, all
    /// others end, and every other token is void. `None` if the token or the session is not valid.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if another user has the address by now.
    pub async fn change_email(
        &self,
        digest: TokenDigest,
        of: (UserId, SessionId),
        act: Act,
    ) -> Result<Option<User>, StoreError> {
        // A new version makes void the challenges and logins that have begun.
        const SQL: &str =
            "UPDATE users SET email = $2, email_folded = $3, is_email_verified = TRUE,
                token_version = token_version + 1
            WHERE id = $1";
        let (user, session) = of;
        let changed = self
            .database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock(&transaction, user).await?;
                let used = use_up(&transaction, TokenPurpose::Change, digest, act.at).await?;
                let used = used.filter(|token| token.user_id == user.0);
                let Some(email) = used.and_then(|token| token.new_email) else { return Ok(false) };
                if alive(session, act.at).one(&transaction).await?.is_none() {
                    return Ok(false);
                }
                let values = vec![user.0.into(), email.clone().into(), folded(&email).into()];
                let statement =
                    Statement::from_sql_and_values(transaction.get_database_backend(), SQL, values);
                transaction.execute_raw(statement).await.map_err(StoreError::of_write)?;
                end_what_was_begun(&transaction, user).await?;
                for purpose in [TokenPurpose::Verify, TokenPurpose::Reset] {
                    delete_unused_email_tokens(&transaction, user, purpose).await?;
                }
                let others =
                    session::Column::UserId.eq(user.0).and(session::Column::Id.ne(session.0));
                let ended = end_sessions(&transaction, others, act.at).await?;
                let act = act.with(format!("ended {ended} other sessions"));
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(true)
            })
            .await?;
        if changed { self.find(user).await } else { Ok(None) }
    }

    /// Deletes a chunk of the expired tokens. Returns whether there may be more.
    pub async fn delete_expired_email_tokens(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM email_token WHERE digest IN (
                    SELECT digest FROM email_token WHERE expires_at <= $1 LIMIT {CHUNK})"
                );
                Ok(execute(&database.write, &sql, vec![now.micros().into()]).await? == CHUNK)
            })
            .await
    }
}

/// Locks the row of the user of a token, before the token's own row. Every writer of both locks
/// them in this order, so none waits for the other in a circle.
async fn lock_owner(
    transaction: &DatabaseTransaction,
    digest: TokenDigest,
) -> Result<(), StoreError> {
    let token = email_token::Entity::find_by_id(digest.to_vec()).one(transaction).await?;
    match token {
        Some(token) => lock(transaction, UserId(token.user_id)).await,
        None => Ok(()),
    }
}

/// Uses a token, if its user still has the address that it was sent to. If it is used concurrently,
/// the database lets only one attempt change the row.
pub(super) async fn use_up(
    transaction: &DatabaseTransaction,
    purpose: TokenPurpose,
    digest: TokenDigest,
    now: Timestamp,
) -> Result<Option<email_token::Model>, StoreError> {
    let using = email_token::Entity::update_many()
        .filter(email_token::Column::Digest.eq(digest.to_vec()))
        .filter(email_token::Column::Purpose.eq(purpose.code()))
        .filter(email_token::Column::UsedAt.is_null())
        .filter(email_token::Column::ExpiresAt.gt(now.micros()))
        .col_expr(email_token::Column::UsedAt, Value::from(now.micros()).into())
        .exec(transaction)
        .await?;
    if using.rows_affected == 0 {
        return Ok(None);
    }
    let token = email_token::Entity::find_by_id(digest.to_vec()).one(transaction).await?;
    let Some(token) = token else { return Ok(None) };
    let user = user::Entity::find_by_id(token.user_id).one(transaction).await?;
    let is_sent_to = |user: user::Model| user.email_folded == token.email_folded;
    Ok(user.is_some_and(is_sent_to).then_some(token))
}
