//! The rows of users, sessions and tokens, and the statements that several of them share.

use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait,
    ExprTrait as _, QueryFilter, Value,
};

use crate::store::StoreError;
use crate::store::connections::execute;
use domain::{Credits, Origin, SessionId, Timestamp, UserId};
use entity::{email_token, session, user};

/// The role of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May use their own accounts.
    User,
    /// May also use the operations of operators.
    Admin,
}

impl Role {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Admin => "admin",
        }
    }

    pub(super) const fn code(self) -> i16 {
        match self {
            Role::User => 1,
            Role::Admin => 2,
        }
    }
}

/// A user to be stored.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Their id.
    pub id: UserId,
    /// The email as the user wrote it.
    pub email: String,
    /// The username as the user wrote it.
    pub username: String,
    /// The argon2id hash in PHC format.
    pub password_hash: String,
    /// Their role.
    pub role: Role,
    /// When they registered.
    pub created_at: Timestamp,
    /// The initial balance of their test account.
    pub test_credits: Credits,
    /// Who registers the user, and from where, for the audit log.
    pub origin: Origin,
}

/// A user as stored.
#[derive(Clone, Debug)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// The email as the user wrote it.
    pub email: String,
    /// The username as the user wrote it.
    pub username: String,
    /// The argon2id hash in PHC format.
    pub password_hash: String,
    /// Their role.
    pub role: Role,
    /// Has the user confirmed the email address?
    pub is_email_verified: bool,
    /// Their rate limit tier; `None` is the default tier.
    pub tier: Option<String>,
    /// Incremented by every change of the password or the address, by the first proof of the
    /// address, and by every end of all sessions. Of two concurrent changes one is refused.
    pub token_version: i64,
    /// When they registered.
    pub created_at: Timestamp,
    /// Their second factor, enabled or pending.
    pub second_factor: Option<SecondFactor>,
    /// Have they erased their account?
    pub is_erased: bool,
}

impl User {
    /// What nobody may take for a password: the email and the username.
    #[must_use]
    pub fn names(&self) -> [&str; 2] {
        [&self.email, &self.username]
    }

    /// Does a login need a second factor?
    #[must_use]
    pub fn has_two_factor(&self) -> bool {
        self.second_factor.as_ref().is_some_and(|factor| factor.is_enabled)
    }
}

impl From<user::Model> for User {
    fn from(row: user::Model) -> Self {
        User {
            id: UserId(row.id),
            email: row.email,
            username: row.username,
            password_hash: row.password_hash,
            role: if row.role == Role::Admin.code() { Role::Admin } else { Role::User },
            is_email_verified: row.is_email_verified,
            tier: row.tier,
            token_version: row.token_version,
            created_at: Timestamp::from_micros(row.created_at),
            second_factor: row
                .totp_secret
                .map(|sealed| SecondFactor { sealed, is_enabled: row.totp_enabled_at.is_some() }),
            is_erased: row.erased_at.is_some(),
        }
    }
}

/// A second factor as stored.
#[derive(Clone)]
pub struct SecondFactor {
    /// The encrypted secret.
    pub sealed: Vec<u8>,
    /// Has the user confirmed it with a code? From then on a login needs it.
    pub is_enabled: bool,
}

impl std::fmt::Debug for SecondFactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecondFactor").field("is_enabled", &self.is_enabled).finish_non_exhaustive()
    }
}

/// The form in which a username must be unique: characters that look alike are one (the skeleton
/// of UTS 39). So nobody can pass for another user.
#[must_use]
pub fn skeleton(username: &str) -> String {
    folded(&unicode_security::skeleton(&folded(username)).collect::<String>())
}

/// The form in which an email must be unique, and in which users are searched: trimmed and
/// lowercase.
#[must_use]
pub fn folded(text: &str) -> String {
    text.trim().to_lowercase()
}

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPurpose {
    /// To verify an email address.
    Verify,
    /// To reset a password.
    Reset,
    /// To change the email address.
    Change,
    /// To set up the second factor of an operator. It is not sent: the command line prints it.
    Enrolment,
}

impl TokenPurpose {
    pub(super) const fn code(self) -> i16 {
        match self {
            TokenPurpose::Verify => 1,
            TokenPurpose::Reset => 2,
            TokenPurpose::Change => 3,
            TokenPurpose::Enrolment => 4,
        }
    }
}

/// The digest of a random token: SHA-256 of its text.
pub type TokenDigest = [u8; 32];

/// The digests of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshDigests {
    /// Of the token.
    pub token: TokenDigest,
    /// Of what all tokens of its session have in common.
    pub family: TokenDigest,
}

/// What a session is used with, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCredential {
    /// A refresh token.
    Refresh(RefreshDigests),
    /// The cookie of a browser.
    Cookie(TokenDigest),
}

/// Ended sessions of a user that are kept, for the places that their logins came from.
const ENDED_MAX: i64 = 200;

/// How long sessions last, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct SessionSpan {
    /// One that is not renewed.
    pub idle_micros: i64,
    /// However often it is renewed.
    pub longest_micros: i64,
}

impl SessionSpan {
    /// When a session expires that began then and is begun or renewed now.
    #[must_use]
    pub fn end(&self, began: Timestamp, now: Timestamp) -> Timestamp {
        now.plus_micros(self.idle_micros).min(began.plus_micros(self.longest_micros))
    }
}

/// A session to be stored.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// The user.
    pub user: UserId,
    /// When it begins.
    pub at: Timestamp,
    /// When it expires, unless it is renewed.
    pub expires_at: Timestamp,
    /// The client's address.
    pub address: String,
    /// The same, or nothing if it is no place that logins are known from.
    pub login_address: String,
    /// The user agent of its client.
    pub agent: String,
    /// The digests of its first refresh token, or of its cookie.
    pub credential: SessionCredential,
    /// Most sessions of a user. The oldest ones above it end.
    pub sessions_max: u64,
}

/// Inserts a session, and ends the oldest ones if its user has too many. Deletes the oldest ended
/// ones above [`ENDED_MAX`].
pub(super) async fn insert_session(
    transaction: &DatabaseTransaction,
    new: &NewSession,
) -> Result<(), StoreError> {
    let (refresh, cookie) = match new.credential {
        SessionCredential::Refresh(digests) => (Some(digests), None),
        SessionCredential::Cookie(digest) => (None, Some(digest.to_vec())),
    };
    let row = session::ActiveModel {
        id: Set(new.id.0),
        user_id: Set(new.user.0),
        created_at: Set(new.at.micros()),
        confirmed_at: Set(new.at.micros()),
        last_used_at: Set(new.at.micros()),
        expires_at: Set(new.expires_at.micros()),
        ended_at: Set(None),
        wrong_proofs: Set(0),
        address: Set(new.address.clone()),
        login_address: Set(new.login_address.clone()),
        agent: Set(new.agent.clone()),
        refresh_digest: Set(refresh.map(|digests| digests.token.to_vec())),
        refresh_family: Set(refresh.map(|digests| digests.family.to_vec())),
        cookie_digest: Set(cookie),
    };
    session::Entity::insert(row).exec_without_returning(transaction).await?;
    let sql = "UPDATE session SET ended_at = $1 WHERE id IN (
            SELECT id FROM session WHERE user_id = $2 AND ended_at IS NULL AND expires_at > $1
            ORDER BY last_used_at DESC, id LIMIT 1000000 OFFSET $3)";
    let most = i64::try_from(new.sessions_max).unwrap_or(i64::MAX);
    let values = vec![new.at.micros().into(), new.user.0.into(), most.into()];
    execute(transaction, sql, values).await?;
    // What each login reads of the user stays small, however often they log in.
    let sql = "DELETE FROM session WHERE id IN (
            SELECT id FROM session WHERE user_id = $2 AND (ended_at IS NOT NULL OR expires_at <= $1)
            ORDER BY last_used_at DESC, id LIMIT 1000 OFFSET $3)";
    let values = vec![new.at.micros().into(), new.user.0.into(), ENDED_MAX.into()];
    execute(transaction, sql, values).await?;
    Ok(())
}

/// Ends the sessions that match `which` and have not ended. Returns how many.
pub(super) async fn end_sessions(
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

/// Puts another cookie in the place of the one of a session.
pub(super) async fn replace_cookie(
    transaction: &DatabaseTransaction,
    id: SessionId,
    cookie: TokenDigest,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE session SET cookie_digest = $2
        WHERE id = $1 AND cookie_digest IS NOT NULL AND ended_at IS NULL";
    execute(transaction, SQL, vec![id.0.into(), cookie.to_vec().into()]).await?;
    Ok(())
}

/// Ends what somebody else may have begun in the account of a user who takes it back: a change of
/// address, and a second factor that is pending. A token that verifies the address stays. It is for
/// the one who reads its mail, and a stranger who has registered with it must not end it.
pub(super) async fn end_what_was_begun(
    transaction: &DatabaseTransaction,
    id: UserId,
) -> Result<(), StoreError> {
    delete_unused_email_tokens(transaction, id, TokenPurpose::Change).await?;
    user::Entity::update_many()
        .filter(user::Column::Id.eq(id.0).and(user::Column::TotpEnabledAt.is_null()))
        .filter(user::Column::TotpSecret.is_not_null())
        .col_expr(user::Column::TotpSecret, Value::Bytes(None).into())
        .exec(transaction)
        .await?;
    Ok(())
}

/// Deletes the unused tokens of a user for this purpose.
pub(super) async fn delete_unused_email_tokens(
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
