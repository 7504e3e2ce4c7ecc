//! Second factors: an encrypted secret, the time step of the last used code, and recovery codes.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, ExprTrait as _,
    PaginatorTrait as _, QueryFilter, Value,
};

use super::UserStore;
use super::email_tokens::use_up;
use super::record::{
    Role, TokenDigest, TokenPurpose, end_sessions, end_what_was_begun, replace_cookie,
};
use super::sessions::lock;
use crate::store::sql::begin_write;
use crate::store::{StoreError, audit_log};
use domain::api_key::SecretId;
use domain::{Act, SessionId, Timestamp, UserId};
use entity::{recovery_code, session, user};

/// The digest of a recovery code.
pub type CodeDigest = [u8; 32];

/// A second factor that its owner has proved by a code.
pub struct NewSecondFactor {
    /// The encrypted secret.
    pub sealed: Vec<u8>,
    /// The time step of the code.
    pub step: i64,
    /// The recovery codes.
    pub codes: NewCodes,
}

/// What became of a pending second factor that was to be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabling {
    /// It is enabled.
    Enabled,
    /// It was enabled or replaced in the meantime.
    Changed,
    /// Its user is an operator, and there is no valid token of theirs.
    NoToken,
}

/// Recovery codes of a user.
pub struct NewCodes {
    /// Their digests.
    pub digests: Vec<CodeDigest>,
    /// The id of the key pepper in them.
    pub pepper: SecretId,
}

impl UserStore {
    /// Stores the secret of a pending second factor; false if one is already enabled.
    pub async fn insert_second_factor(
        &self,
        id: UserId,
        sealed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        self.database
            .run_write(move |database| async move {
                let changed = user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0).and(user::Column::TotpEnabledAt.is_null()))
                    .col_expr(user::Column::TotpSecret, Value::from(sealed).into())
                    .col_expr(user::Column::TotpStep, Value::from(0_i64).into())
                    .exec(&database.write)
                    .await?;
                Ok(changed.rows_affected > 0)
            })
            .await
    }

    /// Enables a pending second factor, if its secret is still the one in `factor`. Marks the time
    /// step of the code as used, inserts the recovery codes, and ends every session of the user but
    /// `kept`, which gets a new cookie if there is one. If the user is an operator by then, also
    /// uses the token with the digest `token`.
    pub async fn enable_second_factor(
        &self,
        id: UserId,
        (kept, cookie): (SessionId, Option<TokenDigest>),
        factor: NewSecondFactor,
        token: Option<TokenDigest>,
        act: Act,
    ) -> Result<Enabling, StoreError> {
        use user::Column::{Id, TotpEnabledAt, TotpSecret, TotpStep};
        let NewSecondFactor { sealed, step, codes } = factor;
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock(&transaction, id).await?;
                if !may_enable(&transaction, id, token, act.at).await? {
                    return Ok(Enabling::NoToken);
                }
                let is_pending = TotpEnabledAt.is_null().and(TotpSecret.eq(sealed));
                let changed = user::Entity::update_many()
                    .filter(Id.eq(id.0).and(is_pending))
                    .col_expr(TotpEnabledAt, Value::from(act.at.micros()).into())
                    .col_expr(TotpStep, Value::from(step).into())
                    .exec(&transaction)
                    .await?;
                if changed.rows_affected == 0 {
                    return Ok(Enabling::Changed);
                }
                replace_codes(&transaction, id, &codes).await?;
                let others = session::Column::UserId.eq(id.0).and(session::Column::Id.ne(kept.0));
                end_sessions(&transaction, others, act.at).await?;
                if let Some(cookie) = cookie {
                    replace_cookie(&transaction, kept, cookie).await?;
                }
                end_what_was_begun(&transaction, id).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(Enabling::Enabled)
            })
            .await
    }

    /// Marks the time step of a code as used; false if this or a later step was used before.
    pub async fn use_totp_step(&self, id: UserId, step: i64) -> Result<bool, StoreError> {
        use user::Column::{Id, TotpEnabledAt, TotpStep};
        self.database
            .run_write(move |database| async move {
                let changed = user::Entity::update_many()
                    .filter(Id.eq(id.0).and(TotpEnabledAt.is_not_null()).and(TotpStep.lt(step)))
                    .col_expr(TotpStep, Value::from(step).into())
                    .exec(&database.write)
                    .await?;
                Ok(changed.rows_affected > 0)
            })
            .await
    }

    /// Uses a recovery code, stored under one of these digests; false if there is no such code, or
    /// it was used before.
    pub async fn use_recovery_code(
        &self,
        id: UserId,
        digests: Vec<CodeDigest>,
        act: Act,
    ) -> Result<bool, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let changed = recovery_code::Entity::update_many()
                    .filter(recovery_code::Column::UserId.eq(id.0))
                    .filter(recovery_code::Column::Digest.is_in(digests.into_iter().map(Vec::from)))
                    .filter(recovery_code::Column::UsedAt.is_null())
                    .col_expr(recovery_code::Column::UsedAt, Value::from(act.at.micros()).into())
                    .exec(&transaction)
                    .await?;
                if changed.rows_affected == 0 {
                    return Ok(false);
                }
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(true)
            })
            .await
    }

    /// Replaces all recovery codes of a user.
    pub async fn replace_recovery_codes(
        &self,
        id: UserId,
        codes: NewCodes,
        act: Act,
    ) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                replace_codes(&transaction, id, &codes).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// Deletes a user's second factor with its secret and recovery codes.
    pub async fn delete_second_factor(&self, id: UserId, act: Act) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0))
                    .col_expr(user::Column::TotpSecret, Value::Bytes(None).into())
                    .col_expr(user::Column::TotpEnabledAt, Value::BigInt(None).into())
                    .col_expr(user::Column::WrongCodes, Value::from(0_i64).into())
                    .exec(&transaction)
                    .await?;
                delete_codes(&transaction, id).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// Number of unused recovery codes.
    pub async fn count_recovery_codes(&self, id: UserId) -> Result<u64, StoreError> {
        self.database
            .run(move |database| async move {
                let left = recovery_code::Entity::find()
                    .filter(recovery_code::Column::UserId.eq(id.0))
                    .filter(recovery_code::Column::UsedAt.is_null())
                    .count(&database.read)
                    .await?;
                Ok(left)
            })
            .await
    }
}

/// May the user enable a second factor? An operator may with a token of theirs, which this uses.
async fn may_enable(
    transaction: &DatabaseTransaction,
    id: UserId,
    token: Option<TokenDigest>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let user = user::Entity::find_by_id(id.0).one(transaction).await?;
    if user.is_none_or(|user| user.role != Role::Admin.code()) {
        return Ok(true);
    }
    let Some(token) = token else { return Ok(false) };
    let used = use_up(transaction, TokenPurpose::Enrolment, token, now).await?;
    Ok(used.is_some_and(|token| token.user_id == id.0))
}

async fn delete_codes(transaction: &DatabaseTransaction, id: UserId) -> Result<(), StoreError> {
    recovery_code::Entity::delete_many()
        .filter(recovery_code::Column::UserId.eq(id.0))
        .exec(transaction)
        .await?;
    Ok(())
}

async fn replace_codes(
    transaction: &DatabaseTransaction,
    id: UserId,
    codes: &NewCodes,
) -> Result<(), StoreError> {
    delete_codes(transaction, id).await?;
    for digest in &codes.digests {
        let row = recovery_code::ActiveModel {
            user_id: Set(id.0),
            digest: Set(digest.to_vec()),
            pepper: Set(codes.pepper.to_vec()),
            used_at: Set(None),
        };
        recovery_code::Entity::insert(row).exec_without_returning(transaction).await?;
    }
    Ok(())
}
