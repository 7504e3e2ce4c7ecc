//! What operators change of a user: the role, and whether the address counts as proved.

use sea_orm::{ColumnTrait as _, EntityTrait as _, ExprTrait as _, QueryFilter as _, Value};

use super::UserStore;
use super::record::{Role, end_sessions};
use super::sessions::lock;
use crate::store::connections::{execute, query};
use crate::store::sql::{begin_write, is_postgres};
use crate::store::{StoreError, audit_log};
use domain::{Act, UserId};
use entity::{session, user};

/// What became of a role that an operator has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleChange {
    /// It is set.
    Set,
    /// There is no such user, or no more.
    NoUser,
    /// Nobody else is an operator who can act.
    LastOperator,
}

impl UserStore {
    /// Sets a user's role, and ends their sessions by cookie, unless nobody would be an operator
    /// any more. With `needs_factor` an operator without a second factor is none.
    pub async fn set_role_by_operator(
        &self,
        id: UserId,
        role: Role,
        needs_factor: bool,
        act: Act,
    ) -> Result<RoleChange, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                // Two operators who take the role from each other at once: the second one waits
                // here, and finds what the first one has done.
                let lock = if is_postgres(&transaction) { " FOR UPDATE" } else { "" };
                let sql = format!(
                    "SELECT id FROM users WHERE role = $1 AND erased_at IS NULL
                        AND (totp_enabled_at IS NOT NULL OR $2) ORDER BY id{lock}"
                );
                let values = vec![Role::Admin.code().into(), (!needs_factor).into()];
                let mut others = 0_u32;
                for row in query(&transaction, &sql, values).await? {
                    let is_other = UserId(row.try_get_by_index(0)?) != id;
                    others = others.saturating_add(u32::from(is_other));
                }
                if role != Role::Admin && others == 0 {
                    return Ok(RoleChange::LastOperator);
                }
                let changed = user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0).and(user::Column::ErasedAt.is_null()))
                    .col_expr(user::Column::Role, Value::from(role.code()).into())
                    .exec(&transaction)
                    .await?;
                if changed.rows_affected == 0 {
                    return Ok(RoleChange::NoUser);
                }
                let by_cookie = session::Column::UserId.eq(id.0);
                let by_cookie = by_cookie.and(session::Column::CookieDigest.is_not_null());
                end_sessions(&transaction, by_cookie, act.at).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(RoleChange::Set)
            })
            .await
    }

    /// Lets the address of a user count as proved; false if it did already. Ends nothing: the
    /// operator knows who has made what there is.
    pub async fn mark_verified(&self, id: UserId, act: Act) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE users SET is_email_verified = TRUE
            WHERE id = $1 AND NOT is_email_verified AND erased_at IS NULL";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock(&transaction, id).await?;
                if execute(&transaction, SQL, vec![id.0.into()]).await? == 0 {
                    return Ok(false);
                }
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(true)
            })
            .await
    }
}
