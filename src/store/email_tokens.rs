//! Tokens that were sent by email: good once, for a while.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait as _, DatabaseTransaction, EntityTrait,
    QueryFilter, Statement, Value,
};
use uuid::Uuid;

use super::sessions::{self, TokenDigest};
use super::sql::begin_write;
use super::users::{User, folded};
use super::{Store, StoreError, audit_log};
use domain::{ActKind, Actor, Origin, Timestamp, UserId};
use entity::{email_token, session, user};

/// Rows deleted in one statement, so that the ledger writer never waits long for it.
const PIECE: u64 = 500;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPurpose {
    /// To prove an address.
    Verify,
    /// To set another password.
    Reset,
}

impl TokenPurpose {
    const fn code(self) -> i16 {
        match self {
            TokenPurpose::Verify => 1,
            TokenPurpose::Reset => 2,
        }
    }
}

impl Store {
    /// Stores a token for a user, in the place of every other one for the same purpose.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn add_email_token(
        &self,
        user: &User,
        purpose: TokenPurpose,
        digest: TokenDigest,
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        let (id, email) = (user.id, folded(&user.email));
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            delete_others(&transaction, id, purpose).await?;
            let row = email_token::ActiveModel {
                digest: Set(digest.to_vec()),
                user_id: Set(id.0),
                purpose: Set(purpose.code()),
                email_folded: Set(email),
                expires_at: Set(expires_at.micros()),
                used_at: Set(None),
            };
            email_token::Entity::insert(row).exec_without_returning(&transaction).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)
        })
        .await
    }

    /// Is it a token that has neither been used nor expired?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn is_email_token(
        &self,
        purpose: TokenPurpose,
        digest: TokenDigest,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.run(move |store| async move {
            let found = email_token::Entity::find_by_id(digest.to_vec())
                .filter(email_token::Column::Purpose.eq(purpose.code()))
                .filter(email_token::Column::UsedAt.is_null())
                .filter(email_token::Column::ExpiresAt.gt(now.micros()))
                .one(&store.read)
                .await?;
            Ok(found.is_some())
        })
        .await
    }

    /// Uses up a token that proves an address; who proved it, or `None` where it is not good.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn verify_email(
        &self,
        digest: TokenDigest,
        now: Timestamp,
        from: Origin,
    ) -> Result<Option<UserId>, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let used = use_up(&transaction, TokenPurpose::Verify, digest, now).await?;
            let Some(user) = used else { return Ok(None) };
            set_verified(&transaction, user).await?;
            let origin = Origin { actor: Actor::User(user), ..from };
            let act = origin.act(Uuid::now_v7(), user, ActKind::EmailVerified, now);
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(Some(user))
        })
        .await
    }

    /// Uses up a token that sets another password, sets it, and ends every session of its user. Whoever has the token
    /// has the address as well, so that is proved with it. `None` where the token is not good.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn reset_password(
        &self,
        digest: TokenDigest,
        hash: String,
        now: Timestamp,
        from: Origin,
    ) -> Result<Option<UserId>, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let used = use_up(&transaction, TokenPurpose::Reset, digest, now).await?;
            let Some(user) = used else { return Ok(None) };
            let sql = "UPDATE users SET password_hash = $1, token_version = token_version + 1
                WHERE id = $2";
            let values: [Value; 2] = [hash.into(), user.0.into()];
            let backend = transaction.get_database_backend();
            transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
            set_verified(&transaction, user).await?;
            delete_others(&transaction, user, TokenPurpose::Reset).await?;
            sessions::end(&transaction, session::Column::UserId.eq(user.0), now).await?;
            let origin = Origin { actor: Actor::User(user), ..from };
            let act = origin.act(Uuid::now_v7(), user, ActKind::PasswordReset, now);
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(Some(user))
        })
        .await
    }

    /// Deletes tokens whose time is over, a piece at a time; says whether there may be more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget_email_tokens(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "DELETE FROM email_token WHERE digest IN (
                    SELECT digest FROM email_token WHERE expires_at <= $1 LIMIT {PIECE})"
            );
            let backend = store.write.get_database_backend();
            let statement = Statement::from_sql_and_values(backend, sql, [now.micros().into()]);
            Ok(store.write.execute_raw(statement).await?.rows_affected() == PIECE)
        })
        .await
    }
}

/// Uses a token up, if its user still has the address that it was sent to. Of many who try, the database lets one
/// change the row.
async fn use_up(
    transaction: &DatabaseTransaction,
    purpose: TokenPurpose,
    digest: TokenDigest,
    now: Timestamp,
) -> Result<Option<UserId>, StoreError> {
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
    let user = user.filter(|user| user.email_folded == token.email_folded);
    Ok(user.map(|user| UserId(user.id)))
}

async fn set_verified(transaction: &DatabaseTransaction, id: UserId) -> Result<(), StoreError> {
    user::Entity::update_many()
        .filter(user::Column::Id.eq(id.0))
        .col_expr(user::Column::IsEmailVerified, Value::from(true).into())
        .exec(transaction)
        .await?;
    Ok(())
}

/// Deletes the tokens of a user that nobody has used.
pub(super) async fn delete_others(
    transaction: &DatabaseTransaction,
    id: UserId,
    purpose: TokenPurpose,
) -> Result<(), StoreError> {
    email_token::Entity::delete_many()
        .filter(email_token::Column::UserId.eq(id.0))
        .filter(email_token::Column::Purpose.eq(purpose.code()))
        .filter(email_token::Column::UsedAt.is_null())
        .exec(transaction)
        .await?;
    Ok(())
}
