//! Second factors: a sealed secret, the last step that a code of it was good for, and recovery codes.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, ExprTrait as _,
    PaginatorTrait as _, QueryFilter, QuerySelect as _, Value,
};

use super::sql::begin_write;
use super::{Store, StoreError, audit_log};
use domain::{Act, Timestamp, UserId};
use entity::{recovery_code, user};

/// What a recovery code is stored as.
pub type CodeDigest = [u8; 32];

impl Store {
    /// Stores the secret of a second factor that is not switched on yet; false where there is one that is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn begin_second_factor(
        &self,
        id: UserId,
        sealed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        self.run_write(move |store| async move {
            let changed = user::Entity::update_many()
                .filter(user::Column::Id.eq(id.0).and(user::Column::TotpEnabledAt.is_null()))
                .col_expr(user::Column::TotpSecret, Value::from(sealed).into())
                .col_expr(user::Column::TotpStep, Value::from(0_i64).into())
                .exec(&store.write)
                .await?;
            Ok(changed.rows_affected > 0)
        })
        .await
    }

    /// Switches a second factor on whose secret is still the one given, uses up the step of the code that proved it, and
    /// stores its recovery codes; false where it has been switched on or replaced meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn enable_second_factor(
        &self,
        id: UserId,
        sealed: Vec<u8>,
        step: i64,
        codes: Vec<CodeDigest>,
        act: Act,
    ) -> Result<bool, StoreError> {
        use user::Column::{Id, TotpEnabledAt, TotpSecret, TotpStep};
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let is_pending = TotpEnabledAt.is_null().and(TotpSecret.eq(sealed));
            let changed = user::Entity::update_many()
                .filter(Id.eq(id.0).and(is_pending))
                .col_expr(TotpEnabledAt, Value::from(act.at.micros()).into())
                .col_expr(TotpStep, Value::from(step).into())
                .exec(&transaction)
                .await?;
            if changed.rows_affected == 0 {
                return Ok(false);
            }
            replace_codes(&transaction, id, &codes).await?;
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(true)
        })
        .await
    }

    /// Uses up the code of a step; false where that one or a later one has been used.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn use_step(&self, id: UserId, step: i64) -> Result<bool, StoreError> {
        use user::Column::{Id, TotpEnabledAt, TotpStep};
        self.run_write(move |store| async move {
            let changed = user::Entity::update_many()
                .filter(Id.eq(id.0).and(TotpEnabledAt.is_not_null()).and(TotpStep.lt(step)))
                .col_expr(TotpStep, Value::from(step).into())
                .exec(&store.write)
                .await?;
            Ok(changed.rows_affected > 0)
        })
        .await
    }

    /// Uses up a recovery code; false where there is none, or it has been used.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn use_recovery_code(
        &self,
        id: UserId,
        digest: CodeDigest,
        act: Act,
    ) -> Result<bool, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let changed = recovery_code::Entity::update_many()
                .filter(recovery_code::Column::UserId.eq(id.0))
                .filter(recovery_code::Column::Digest.eq(digest.to_vec()))
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

    /// Stores new recovery codes in the place of all before.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn replace_recovery_codes(
        &self,
        id: UserId,
        codes: Vec<CodeDigest>,
        act: Act,
    ) -> Result<(), StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            replace_codes(&transaction, id, &codes).await?;
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)
        })
        .await
    }

    /// Switches a second factor off, and forgets its secret and its codes.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn disable_second_factor(&self, id: UserId, act: Act) -> Result<(), StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            user::Entity::update_many()
                .filter(user::Column::Id.eq(id.0))
                .col_expr(user::Column::TotpSecret, Value::Bytes(None).into())
                .col_expr(user::Column::TotpEnabledAt, Value::BigInt(None).into())
                .exec(&transaction)
                .await?;
            replace_codes(&transaction, id, &[]).await?;
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)
        })
        .await
    }

    /// How many recovery codes nobody has used.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn recovery_codes_left(&self, id: UserId) -> Result<u64, StoreError> {
        self.run(move |store| async move {
            let left = recovery_code::Entity::find()
                .filter(recovery_code::Column::UserId.eq(id.0))
                .filter(recovery_code::Column::UsedAt.is_null())
                .count(&store.read)
                .await?;
            Ok(left)
        })
        .await
    }

    /// Where sessions of a user are from, ended ones included, as long as they are kept.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn addresses_of(
        &self,
        id: UserId,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        use entity::session::Column::{Address, ExpiresAt, UserId as Of};
        self.run(move |store| async move {
            let found = entity::session::Entity::find()
                .select_only()
                .column(Address)
                .distinct()
                .filter(Of.eq(id.0))
                .filter(ExpiresAt.gt(now.micros()))
                .into_tuple()
                .all(&store.read)
                .await?;
            Ok(found)
        })
        .await
    }
}

async fn replace_codes(
    transaction: &DatabaseTransaction,
    id: UserId,
    codes: &[CodeDigest],
) -> Result<(), StoreError> {
    recovery_code::Entity::delete_many()
        .filter(recovery_code::Column::UserId.eq(id.0))
        .exec(transaction)
        .await?;
    for digest in codes {
        let row = recovery_code::ActiveModel {
            user_id: Set(id.0),
            digest: Set(digest.to_vec()),
            used_at: Set(None),
        };
        recovery_code::Entity::insert(row).exec_without_returning(transaction).await?;
    }
    Ok(())
}
