//! Sessions, and the tokens that renew them.

use std::sync::Arc;

use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, ExprTrait as _, QueryFilter,
    QueryOrder as _, QueryResult, Select, Statement, Value,
};
use uuid::Uuid;

use super::UserStore;
use super::record::{
    NewSession, RefreshDigests, SessionSpan, TokenDigest, User, end_sessions, end_what_was_begun,
    insert_session,
};
use crate::store::connections::{CHUNK, Connections, execute, query};
use crate::store::sql::begin_write;
use crate::store::{StoreError, audit_log};
use domain::{Act, ActKind, Actor, Origin, SessionId, Timestamp, UserId};
use entity::{session, user};

/// Most places of a user that a login is compared with.
const PLACES_MAX: i64 = 100;

/// A session that has not ended, as shown to its user.
#[derive(Clone, Debug)]
pub struct SessionListing {
    /// Its id.
    pub id: SessionId,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was begun or last renewed.
    pub last_used_at: Timestamp,
    /// When it expires, unless it is renewed.
    pub expires_at: Timestamp,
    /// The client's address at the last renewal.
    pub address: String,
    /// The user agent of its client.
    pub agent: String,
    /// Is it a browser's, by cookie?
    pub is_by_cookie: bool,
}

/// A session that was found by its cookie.
#[derive(Clone, Debug)]
pub struct SessionFound {
    /// Its user.
    pub user: User,
    /// Its id.
    pub session: SessionId,
    /// When its user last proved who they are in it.
    pub confirmed_at: Timestamp,
    /// When it began.
    pub created_at: Timestamp,
    /// When its last use was recorded.
    pub last_used_at: Timestamp,
    /// From where that was.
    pub address: String,
}

/// A session whose refresh token was found.
#[derive(Clone, Copy, Debug)]
pub struct RefreshFound {
    /// The session.
    pub session: SessionId,
    /// Is the token the one that renews it? Otherwise it was used before.
    pub is_good: bool,
}

/// The result of using a refresh token.
#[derive(Debug)]
pub enum Refreshed {
    /// The session was renewed. The token cannot be used again.
    Renewed(Box<Renewal>),
    /// The token was used before, so it may be stolen. The session has ended.
    Reused(UserId, SessionId),
    /// No such token exists, or its session has ended.
    Unknown,
}

/// A session that was renewed.
#[derive(Debug)]
pub struct Renewal {
    /// Its user.
    pub user: User,
    /// The session.
    pub session: SessionId,
    /// When it expires, unless it is renewed again.
    pub until: Timestamp,
    /// The address of the last renewal before this one, or of the login.
    pub address_before: String,
}

impl UserStore {
    /// Inserts a session. Returns false if the password has changed since `version`, or if the
    /// user has a second factor and gave no code.
    pub async fn insert_session(
        &self,
        new: NewSession,
        version: i64,
        has_given_code: bool,
        act: Act,
    ) -> Result<bool, StoreError> {
        // Locks the user's row. A concurrent change of the password comes completely before or
        // after.
        const SQL: &str = "UPDATE users SET token_version = token_version
            WHERE id = $1 AND token_version = $2 AND (totp_enabled_at IS NULL OR $3)";
        let inserting = move |database: Arc<Connections>| async move {
            let transaction = begin_write(&database.write).await?;
            let values: [Value; 3] = [new.user.0.into(), version.into(), has_given_code.into()];
            let backend = transaction.get_database_backend();
            let held = Statement::from_sql_and_values(backend, SQL, values);
            if transaction.execute_raw(held).await?.rows_affected() == 0 {
                return Ok(false);
            }
            insert_session(&transaction, &new).await?;
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(true)
        };
        if has_given_code {
            // The code is used up. Each of them is good once, so few are here at a time.
            self.database.run_job(inserting).await
        } else {
            self.database.run_write(inserting).await
        }
    }

    /// Records an address from which a user authenticated, as a session that has already ended.
    pub async fn record_address(&self, new: NewSession) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                insert_session(&transaction, &new).await?;
                end_sessions(&transaction, session::Column::Id.eq(new.id.0), new.at).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)
            })
            .await
    }

    /// The user of a session that has neither ended nor expired, and when they last proved who they
    /// are in it.
    pub async fn find_by_session(
        &self,
        id: SessionId,
        now: Timestamp,
    ) -> Result<Option<(User, Timestamp)>, StoreError> {
        self.database
            .run(move |database| async move {
                let found =
                    alive(id, now).find_also_related(user::Entity).one(&database.read).await?;
                let Some((session, Some(user))) = found else { return Ok(None) };
                Ok(Some((user.into(), Timestamp::from_micros(session.confirmed_at))))
            })
            .await
    }

    /// The session with this cookie that has neither ended nor expired.
    pub async fn find_by_cookie(
        &self,
        cookie: TokenDigest,
        now: Timestamp,
    ) -> Result<Option<SessionFound>, StoreError> {
        self.database
            .run(move |database| async move {
                let which = session::Column::CookieDigest.eq(cookie.to_vec());
                let found = alive_where(which, now)
                    .find_also_related(user::Entity)
                    .one(&database.read)
                    .await?;
                let Some((session, Some(user))) = found else { return Ok(None) };
                Ok(Some(SessionFound {
                    user: user.into(),
                    session: SessionId(session.id),
                    confirmed_at: Timestamp::from_micros(session.confirmed_at),
                    created_at: Timestamp::from_micros(session.created_at),
                    last_used_at: Timestamp::from_micros(session.last_used_at),
                    address: session.address,
                }))
            })
            .await
    }

    /// Records the use of a session by its cookie, and moves its end to `until`. One that has ended
    /// stays so.
    pub async fn use_session(
        &self,
        id: SessionId,
        now: Timestamp,
        until: Timestamp,
        address: String,
    ) -> Result<(), StoreError> {
        const SQL: &str = "UPDATE session SET last_used_at = $2, expires_at = $3, address = $4
            WHERE id = $1 AND cookie_digest IS NOT NULL AND ended_at IS NULL AND expires_at > $2
                AND last_used_at < $2";
        self.database
            .run_write(move |database| async move {
                let (now, until) = (now.micros().into(), until.micros().into());
                let values = vec![id.0.into(), now, until, address.into()];
                execute(&database.write, SQL, values).await?;
                Ok(())
            })
            .await
    }

    /// Records that a user has proved again who they are; false if the session has ended.
    pub async fn confirm_session(
        &self,
        user: UserId,
        id: SessionId,
        act: Act,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE session SET confirmed_at = $3, wrong_proofs = 0
            WHERE id = $1 AND user_id = $2 AND ended_at IS NULL AND expires_at > $3";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let values = vec![id.0.into(), user.0.into(), act.at.micros().into()];
                let is_alive = execute(&transaction, SQL, values).await? > 0;
                if is_alive {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(is_alive)
            })
            .await
    }

    /// Does the session live, at a moment that comes completely before or after each first proof of
    /// the user's address? A proof locks the user's row first, and then ends what it finds.
    pub async fn is_session_alive(
        &self,
        user: UserId,
        id: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                lock(&transaction, user).await?;
                let of_user = alive(id, now).filter(session::Column::UserId.eq(user.0));
                let found = of_user.one(&transaction).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(found.is_some())
            })
            .await
    }

    /// The session that a refresh token renews. `None` if the token renews none.
    pub async fn find_by_refresh_token(
        &self,
        token: RefreshDigests,
        now: Timestamp,
    ) -> Result<Option<RefreshFound>, StoreError> {
        self.database
            .run(move |database| async move {
                let of_family = session::Column::RefreshFamily.eq(token.family.to_vec());
                let which = session::Column::RefreshDigest.eq(token.token.to_vec()).or(of_family);
                let found = alive_where(which, now).one(&database.read).await?;
                Ok(found.map(|row| RefreshFound {
                    session: SessionId(row.id),
                    is_good: row.refresh_digest.as_deref() == Some(token.token.as_slice()),
                }))
            })
            .await
    }

    /// Uses a refresh token, and puts its successor in its place. A session that has lasted as long
    /// as one may is not renewed.
    pub async fn refresh_session(
        &self,
        used: RefreshDigests,
        next: RefreshDigests,
        now: Timestamp,
        span: SessionSpan,
        from: Origin,
    ) -> Result<Refreshed, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                // If the token is used concurrently, the database lets only one attempt change the
                // row.
                let using = session::Entity::update_many()
                    .filter(session::Column::RefreshDigest.eq(used.token.to_vec()))
                    .col_expr(session::Column::RefreshDigest, bytes(next.token))
                    .col_expr(session::Column::RefreshFamily, bytes(next.family))
                    .exec(&transaction)
                    .await?;
                let is_good = using.rows_affected > 0;
                let which = if is_good {
                    session::Column::RefreshDigest.eq(next.token.to_vec())
                } else {
                    session::Column::RefreshFamily.eq(used.family.to_vec())
                };
                let found = alive_where(which, now)
                    .find_also_related(user::Entity)
                    .one(&transaction)
                    .await?;
                let Some((session, Some(user))) = found else { return Ok(Refreshed::Unknown) };
                let id = SessionId(session.id);
                if !is_good {
                    end_sessions(&transaction, session::Column::Id.eq(session.id), now).await?;
                    let user = UserId(user.id);
                    let origin = Origin { actor: Actor::User(user), ..from };
                    let act = origin.act(Uuid::now_v7(), user, ActKind::RefreshTokenReused, now);
                    audit_log::insert(&transaction, &act.to(id.to_string())).await?;
                    transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                    return Ok(Refreshed::Reused(user, id));
                }
                let expires_at = span.end(Timestamp::from_micros(session.created_at), now);
                // The setting may be shorter than it was.
                if expires_at <= now {
                    return Ok(Refreshed::Unknown);
                }
                session::Entity::update_many()
                    .filter(session::Column::Id.eq(session.id))
                    .col_expr(session::Column::LastUsedAt, Value::from(now.micros()).into())
                    .col_expr(session::Column::ExpiresAt, Value::from(expires_at.micros()).into())
                    .col_expr(session::Column::Address, Value::from(from.address).into())
                    .exec(&transaction)
                    .await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(Refreshed::Renewed(Box::new(Renewal {
                    user: user.into(),
                    session: id,
                    until: expires_at,
                    address_before: session.address,
                })))
            })
            .await
    }

    /// Ends one of a user's sessions; false if there is no such session.
    pub async fn end_session(
        &self,
        user: UserId,
        id: SessionId,
        act: Act,
    ) -> Result<bool, StoreError> {
        let which = session::Column::Id.eq(id.0).and(session::Column::UserId.eq(user.0));
        Ok(self.end_by(which, act).await? > 0)
    }

    /// Ends the sessions that match `which`, and records the act if there were any.
    async fn end_by(&self, which: Expr, act: Act) -> Result<u64, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let ended = end_sessions(&transaction, which, act.at).await?;
                if ended > 0 {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(ended)
            })
            .await
    }

    /// Ends all sessions of a user, and what was begun in them. Returns how many.
    pub async fn end_sessions(&self, user: UserId, act: Act) -> Result<u64, StoreError> {
        // A new version makes void what goes on at the same time.
        const AGAIN: &str = "UPDATE users SET token_version = token_version + 1 WHERE id = $1";
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                execute(&transaction, AGAIN, vec![user.0.into()]).await?;
                let all = session::Column::UserId.eq(user.0);
                let ended = end_sessions(&transaction, all, act.at).await?;
                end_what_was_begun(&transaction, user).await?;
                if ended > 0 {
                    audit_log::insert(&transaction, &act).await?;
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(ended)
            })
            .await
    }

    /// The sessions of a user, the last used one first.
    pub async fn list_sessions(
        &self,
        user: UserId,
        now: Timestamp,
    ) -> Result<Vec<SessionListing>, StoreError> {
        self.database
            .run(move |database| async move {
                let rows = session::Entity::find()
                    .filter(session::Column::UserId.eq(user.0))
                    .filter(session::Column::EndedAt.is_null())
                    .filter(session::Column::ExpiresAt.gt(now.micros()))
                    .order_by_desc(session::Column::LastUsedAt)
                    .all(&database.read)
                    .await?;
                Ok(rows.into_iter().map(SessionListing::from).collect())
            })
            .await
    }

    /// The addresses from which a user's sessions were begun, the last used ones first, including
    /// ended sessions that are not deleted yet.
    pub async fn list_addresses(
        &self,
        id: UserId,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        // An attempt at an account reads this before it is limited.
        const SQL: &str = "SELECT login_address FROM session
            WHERE user_id = $1 AND expires_at > $2
            GROUP BY login_address ORDER BY MAX(last_used_at) DESC LIMIT $3";
        self.database
            .run(move |database| async move {
                let values = vec![id.0.into(), now.micros().into(), PLACES_MAX.into()];
                let rows = query(&database.read, SQL, values).await?;
                rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
            })
            .await
    }

    /// The same with their user agents.
    pub async fn list_places(
        &self,
        id: UserId,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>, StoreError> {
        const SQL: &str = "SELECT login_address, agent FROM session
            WHERE user_id = $1 AND expires_at > $2
            GROUP BY login_address, agent ORDER BY MAX(last_used_at) DESC LIMIT $3";
        self.database
            .run(move |database| async move {
                let values = vec![id.0.into(), now.micros().into(), PLACES_MAX.into()];
                let rows = query(&database.read, SQL, values).await?;
                let place =
                    |row: &QueryResult| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?));
                rows.iter().map(place).collect()
            })
            .await
    }

    /// Deletes a chunk of the expired sessions. Returns whether there may be more.
    pub async fn delete_expired_sessions(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM session WHERE id IN (
                    SELECT id FROM session WHERE expires_at <= $1 LIMIT {CHUNK})
                AND expires_at <= $1"
                );
                Ok(execute(&database.write, &sql, vec![now.micros().into()]).await? == CHUNK)
            })
            .await
    }
}

/// Locks the row of a user, so that what else locks it first comes completely before or after.
pub(super) async fn lock(
    transaction: &DatabaseTransaction,
    user: UserId,
) -> Result<(), StoreError> {
    const LOCK: &str = "UPDATE users SET token_version = token_version WHERE id = $1";
    execute(transaction, LOCK, vec![user.0.into()]).await?;
    Ok(())
}

/// The session, if it has neither ended nor expired.
pub(super) fn alive(id: SessionId, now: Timestamp) -> Select<session::Entity> {
    alive_where(session::Column::Id.eq(id.0), now)
}

/// The sessions that match `which` and have neither ended nor expired.
fn alive_where(which: Expr, now: Timestamp) -> Select<session::Entity> {
    session::Entity::find()
        .filter(which)
        .filter(session::Column::EndedAt.is_null())
        .filter(session::Column::ExpiresAt.gt(now.micros()))
}

fn bytes(digest: TokenDigest) -> Expr {
    Value::from(digest.to_vec()).into()
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
            is_by_cookie: row.cookie_digest.is_some(),
        }
    }
}
