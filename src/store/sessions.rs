//! Sessions, and the tokens that renew them.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait,
    ExprTrait as _, QueryFilter, QueryOrder as _, Statement, Value,
};

use uuid::Uuid;

use super::audit_log;
use super::sql::begin_write;
use super::users::User;
use super::{Store, StoreError};
use domain::{Act, ActKind, Actor, Origin, SessionId, Timestamp, UserId};
use entity::{refresh_token, session, user};

/// Rows deleted in one statement, so that the ledger writer never waits long for it.
const PIECE: u64 = 500;

/// What a refresh token is stored as: SHA-256 of its text, which is too random to be guessed.
pub type TokenDigest = [u8; 32];

/// A session to be stored.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// When it begins.
    pub at: Timestamp,
    /// When it ends by itself, unless it is renewed.
    pub expires_at: Timestamp,
    /// Where it was begun from.
    pub address: String,
    /// What its client calls itself.
    pub agent: String,
    /// Of its first refresh token.
    pub refresh: TokenDigest,
    /// Sessions that a user may have; the oldest ones above it end.
    pub sessions_max: u64,
}

/// A session that has not ended, as its user sees it.
#[derive(Clone, Debug)]
pub struct SessionListing {
    /// Its id.
    pub id: SessionId,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was begun or last renewed.
    pub last_used_at: Timestamp,
    /// When it ends by itself, unless it is renewed.
    pub expires_at: Timestamp,
    /// Where it was last renewed from.
    pub address: String,
    /// What its client called itself.
    pub agent: String,
}

/// What became of a refresh token.
#[derive(Debug)]
pub enum Refreshed {
    /// It was good, this once.
    Renewed(Box<User>, SessionId),
    /// It had been used before: somebody else may have it, so the session has ended.
    Reused(UserId, SessionId),
    /// There is no such token, or its session has ended.
    Unknown,
}

impl Store {
    /// Begins a session, if the user's password is still that of this version, and there is no second factor that was
    /// not asked for; did it?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn begin_session(
        &self,
        new: NewSession,
        version: i64,
        has_given_code: bool,
        act: Act,
    ) -> Result<bool, StoreError> {
        // Holds the user's row until the end, so that whoever changes the password comes before or after.
        const SQL: &str = "UPDATE users SET token_version = token_version
            WHERE id = $1 AND token_version = $2 AND (totp_enabled_at IS NULL OR $3)";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let values: [Value; 3] = [new.user.0.into(), version.into(), has_given_code.into()];
            let backend = transaction.get_database_backend();
            let held = Statement::from_sql_and_values(backend, SQL, values);
            if transaction.execute_raw(held).await?.rows_affected() == 0 {
                return Ok(false);
            }
            insert(&transaction, &new).await?;
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(true)
        })
        .await
    }

    /// Remembers where a user has proved who they are, by a session that has ended already.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn remember_address(&self, new: NewSession) -> Result<(), StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            insert(&transaction, &new).await?;
            end(&transaction, session::Column::Id.eq(new.id.0), new.at).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)
        })
        .await
    }

    /// The user of a session that has neither ended nor expired.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn session_user(
        &self,
        id: SessionId,
        now: Timestamp,
    ) -> Result<Option<User>, StoreError> {
        self.run(move |store| async move {
            let found = session::Entity::find_by_id(id.0)
                .filter(session::Column::EndedAt.is_null())
                .filter(session::Column::ExpiresAt.gt(now.micros()))
                .find_also_related(user::Entity)
                .one(&store.read)
                .await?;
            Ok(found.and_then(|(_, user)| user).map(User::from))
        })
        .await
    }

    /// Uses a refresh token up, and stores the one that follows it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn refresh_session(
        &self,
        used: TokenDigest,
        next: TokenDigest,
        now: Timestamp,
        expires_at: Timestamp,
        from: Origin,
    ) -> Result<Refreshed, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            // Of many who try, the database lets one change the row.
            let using = refresh_token::Entity::update_many()
                .filter(refresh_token::Column::Digest.eq(used.to_vec()))
                .filter(refresh_token::Column::UsedAt.is_null())
                .col_expr(refresh_token::Column::UsedAt, Value::from(now.micros()).into())
                .exec(&transaction)
                .await?;
            let token = refresh_token::Entity::find_by_id(used.to_vec()).one(&transaction).await?;
            let Some(token) = token else { return Ok(Refreshed::Unknown) };
            let found = session::Entity::find_by_id(token.session_id)
                .filter(session::Column::EndedAt.is_null())
                .filter(session::Column::ExpiresAt.gt(now.micros()))
                .find_also_related(user::Entity)
                .one(&transaction)
                .await?;
            let Some((session, Some(user))) = found else { return Ok(Refreshed::Unknown) };
            let id = SessionId(session.id);
            if using.rows_affected == 0 {
                end(&transaction, session::Column::Id.eq(session.id), now).await?;
                let user = UserId(user.id);
                let origin = Origin { actor: Actor::User(user), ..from };
                let act = origin.act(Uuid::now_v7(), user, ActKind::RefreshTokenReused, now);
                audit_log::insert(&transaction, &act.to(id.to_string())).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                return Ok(Refreshed::Reused(user, id));
            }
            insert_token(&transaction, next, id).await?;
            session::Entity::update_many()
                .filter(session::Column::Id.eq(session.id))
                .col_expr(session::Column::LastUsedAt, Value::from(now.micros()).into())
                .col_expr(session::Column::ExpiresAt, Value::from(expires_at.micros()).into())
                .col_expr(session::Column::Address, Value::from(from.address).into())
                .exec(&transaction)
                .await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(Refreshed::Renewed(Box::new(user.into()), id))
        })
        .await
    }

    /// Ends one of a user's sessions; was there such a one?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn end_session(
        &self,
        user: UserId,
        id: SessionId,
        act: Act,
    ) -> Result<bool, StoreError> {
        let which = session::Column::Id.eq(id.0).and(session::Column::UserId.eq(user.0));
        Ok(self.end_by(which, act).await? > 0)
    }

    /// Ends sessions, and writes who did it, where there was any to end.
    async fn end_by(&self, which: Expr, act: Act) -> Result<u64, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let ended = end(&transaction, which, act.at).await?;
            if ended > 0 {
                audit_log::insert(&transaction, &act).await?;
            }
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(ended)
        })
        .await
    }

    /// Ends all of a user's sessions; how many?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn end_sessions(&self, user: UserId, act: Act) -> Result<u64, StoreError> {
        self.end_by(session::Column::UserId.eq(user.0), act).await
    }

    /// A user's sessions, the last used one first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn sessions_of(
        &self,
        user: UserId,
        now: Timestamp,
    ) -> Result<Vec<SessionListing>, StoreError> {
        self.run(move |store| async move {
            let rows = session::Entity::find()
                .filter(session::Column::UserId.eq(user.0))
                .filter(session::Column::EndedAt.is_null())
                .filter(session::Column::ExpiresAt.gt(now.micros()))
                .order_by_desc(session::Column::LastUsedAt)
                .all(&store.read)
                .await?;
            Ok(rows.into_iter().map(SessionListing::from).collect())
        })
        .await
    }

    /// Deletes sessions whose time is over, a piece at a time; says whether there may be more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget_sessions(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.run(move |store| async move {
            let sql = format!(
                "DELETE FROM session WHERE id IN (
                    SELECT id FROM session WHERE expires_at <= $1 LIMIT {PIECE})
                AND expires_at <= $1"
            );
            let backend = store.write.get_database_backend();
            let statement = Statement::from_sql_and_values(backend, sql, [now.micros().into()]);
            let deleted = store.write.execute_raw(statement).await?.rows_affected();
            Ok(deleted == PIECE)
        })
        .await
    }
}

impl From<session::Model> for SessionListing {
    fn from(row: session::Model) -> Self {
        SessionListing {
            id: SessionId(row.id),
            created_at: Timestamp::from_micros(row.created_at),
            last_used_at: Timestamp::from_micros(row.last_used_at),
            expires_at: Timestamp::from_micros(row.expires_at),
            address: row.address,
            agent: row.agent,
        }
    }
}

/// Stores a session, and ends the oldest ones where its user has too many.
pub(super) async fn insert(
    transaction: &DatabaseTransaction,
    new: &NewSession,
) -> Result<(), StoreError> {
    let row = session::ActiveModel {
        id: Set(new.id.0),
        user_id: Set(new.user.0),
        created_at: Set(new.at.micros()),
        last_used_at: Set(new.at.micros()),
        expires_at: Set(new.expires_at.micros()),
        ended_at: Set(None),
        address: Set(new.address.clone()),
        agent: Set(new.agent.clone()),
    };
    session::Entity::insert(row).exec_without_returning(transaction).await?;
    insert_token(transaction, new.refresh, new.id).await?;
    let sql = "UPDATE session SET ended_at = $1 WHERE id IN (
            SELECT id FROM session WHERE user_id = $2 AND ended_at IS NULL AND expires_at > $1
            ORDER BY last_used_at DESC, id LIMIT 1000000 OFFSET $3)";
    let most = i64::try_from(new.sessions_max).unwrap_or(i64::MAX);
    let values: [Value; 3] = [new.at.micros().into(), new.user.0.into(), most.into()];
    let backend = transaction.get_database_backend();
    transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    Ok(())
}

async fn insert_token(
    transaction: &DatabaseTransaction,
    digest: TokenDigest,
    session: SessionId,
) -> Result<(), StoreError> {
    let row = refresh_token::ActiveModel {
        digest: Set(digest.to_vec()),
        session_id: Set(session.0),
        used_at: Set(None),
    };
    refresh_token::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(())
}

/// Ends sessions that have not ended; how many?
pub(super) async fn end(
    connection: &impl ConnectionTrait,
    which: Expr,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let ended = session::Entity::update_many()
        .filter(which.and(session::Column::EndedAt.is_null()))
        .col_expr(session::Column::EndedAt, Value::from(now.micros()).into())
        .exec(connection)
        .await?;
    Ok(ended.rows_affected)
}
