//! Users: their records, accounts, sessions, email tokens and second factors.

use std::sync::Arc;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, ExprTrait as _, QueryFilter,
};
use uuid::Uuid;

use super::accounts::UserAccounts;
use super::audit_log;
use super::connections::Connections;
use super::error::StoreError;
use super::sql::begin_write;
use domain::{
    AccountId, AccountStatus, Act, ActKind, Credits, EntryKind, Environment, LedgerEntry, Link,
    Timestamp, UserId,
};
use entity::{account, user};

mod attempts;
mod by_operator;
mod email_tokens;
mod erasure;
mod grants;
mod proof;
mod record;
mod search;
mod sessions;
mod two_factor;

pub use by_operator::RoleChange;
pub use erasure::ErasureBegun;
pub(in crate::store) use erasure::erase;
pub use grants::DaysGrant;
pub use proof::{Ended, EndedKey, Proved};
pub use record::{
    NewSession, NewUser, RefreshDigests, Role, SecondFactor, SessionCredential, SessionSpan,
    TokenDigest, TokenPurpose, User, folded, skeleton,
};
pub use search::{ListedUser, UserOrder, UserSearch};
pub use sessions::{RefreshFound, Refreshed, Renewal, SessionFound, SessionListing};
pub use two_factor::{CodeDigest, Enabling, NewCodes, NewSecondFactor};

use record::{delete_unused_email_tokens, end_sessions, end_what_was_begun, insert_session};

/// The users of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UserStore {
    database: Arc<Connections>,
}

impl UserStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        UserStore { database }
    }

    /// Stores a user with a live account and a test account.
    ///
    /// # Errors
    /// [`StoreError::Taken`] with `email` or `username`, if another user has it.
    pub async fn insert(&self, new: NewUser) -> Result<User, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let row = user::ActiveModel {
                    id: Set(new.id.0),
                    email_folded: Set(folded(&new.email)),
                    email: Set(new.email),
                    username_folded: Set(folded(&new.username)),
                    username_skeleton: Set(skeleton(&new.username)),
                    username: Set(new.username),
                    password_hash: Set(new.password_hash),
                    role: Set(new.role.code()),
                    is_email_verified: Set(false),
                    token_version: Set(0),
                    tier: Set(None),
                    created_at: Set(new.created_at.micros()),
                    totp_secret: Set(None),
                    totp_enabled_at: Set(None),
                    totp_step: Set(0),
                    wrong_codes: Set(0),
                    wrong_codes_day: Set(0),
                    erasing_at: Set(None),
                    erased_at: Set(None),
                };
                let user = user::Entity::insert(row)
                    .exec_with_returning(&transaction)
                    .await
                    .map_err(StoreError::of_write)?;
                let live = new_account(new.id, Environment::Live, Credits::ZERO, new.created_at);
                account::Entity::insert(live).exec_without_returning(&transaction).await?;
                let test = new_account(new.id, Environment::Test, new.test_credits, new.created_at);
                let test = account::Entity::insert(test).exec_with_returning(&transaction).await?;
                if test.seq > 0 {
                    open_with_grant(&transaction, test).await?;
                }
                let at = new.created_at;
                let act = new.origin.act(Uuid::now_v7(), new.id, ActKind::UserRegistered, at);
                audit_log::insert(&transaction, &act).await?;
                failpoint!("register-written");
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(user.into())
            })
            .await
    }

    /// The user with this email, ignoring case. One who is erased has none.
    pub async fn find_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        let email = folded(email);
        self.database
            .run(move |database| async move {
                let row = user::Entity::find()
                    .filter(user::Column::EmailFolded.eq(email))
                    .filter(user::Column::ErasedAt.is_null())
                    .one(&database.read)
                    .await?;
                Ok(row.map(User::from))
            })
            .await
    }

    /// The user with this id.
    pub async fn find(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.database
            .run(move |database| async move {
                Ok(user::Entity::find_by_id(id.0).one(&database.read).await?.map(User::from))
            })
            .await
    }

    /// The live and the test account of a user.
    pub async fn accounts_of(&self, user: UserId) -> Result<UserAccounts, StoreError> {
        self.database
            .run(move |database| async move {
                let rows = account::Entity::find()
                    .filter(account::Column::UserId.eq(user.0))
                    .all(&database.read)
                    .await?;
                let of = |environment: Environment| {
                    rows.iter()
                        .find(|row| row.environment == environment.code())
                        .map(|row| AccountId(row.id))
                        .ok_or_else(|| {
                            StoreError::Corrupt(format!(
                                "{user} has no {} account",
                                environment.name()
                            ))
                        })
                };
                Ok(UserAccounts { live: of(Environment::Live)?, test: of(Environment::Test)? })
            })
            .await
    }

    /// Is the account suspended?
    pub async fn is_suspended(&self, account: AccountId) -> Result<bool, StoreError> {
        self.database
            .run(move |database| async move {
                let row = account::Entity::find_by_id(account.0).one(&database.read).await?;
                Ok(row.is_some_and(|row| row.status == AccountStatus::Suspended.code()))
            })
            .await
    }

    /// The user who owns this account.
    pub async fn owner_of(&self, account: AccountId) -> Result<UserId, StoreError> {
        self.database
            .run(move |database| async move {
                let row =
                    entity::account::Entity::find_by_id(account.0).one(&database.read).await?;
                let gone = || StoreError::Corrupt(format!("there is no account {account}"));
                Ok(UserId(row.ok_or_else(gone)?.user_id))
            })
            .await
    }

    /// Stores a new hash of the same password, unless the password was changed in the meantime.
    pub async fn replace_hash(&self, user: &User, hash: String) -> Result<(), StoreError> {
        let (id, before) = (user.id, user.password_hash.clone());
        self.database
            .run_write(move |database| async move {
                user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0).and(user::Column::PasswordHash.eq(before)))
                    .col_expr(user::Column::PasswordHash, sea_orm::Value::from(hash).into())
                    .exec(&database.write)
                    .await?;
                Ok(())
            })
            .await
    }

    /// Sets a new password, ends all of the user's sessions and what was begun in them, and begins
    /// a new one. Returns false if the password was changed since `user` was read.
    pub async fn set_password(
        &self,
        user: &User,
        hash: String,
        now: Timestamp,
        session: Option<NewSession>,
        act: Act,
    ) -> Result<bool, StoreError> {
        let (id, version) = (user.id, user.token_version);
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let changed = user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0).and(user::Column::TokenVersion.eq(version)))
                    .col_expr(user::Column::PasswordHash, sea_orm::Value::from(hash).into())
                    .col_expr(
                        user::Column::TokenVersion,
                        sea_orm::Value::from(version.saturating_add(1)).into(),
                    )
                    .exec(&transaction)
                    .await?;
                if changed.rows_affected == 0 {
                    return Ok(false);
                }
                end_sessions(&transaction, entity::session::Column::UserId.eq(id.0), now).await?;
                end_what_was_begun(&transaction, id).await?;
                delete_unused_email_tokens(&transaction, id, TokenPurpose::Reset).await?;
                if let Some(session) = session {
                    insert_session(&transaction, &session).await?;
                }
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(true)
            })
            .await
    }

    /// Sets one column of a user, and records the act; false if there is no such user.
    async fn set_column(
        &self,
        id: UserId,
        column: user::Column,
        value: sea_orm::Value,
        act: Act,
    ) -> Result<bool, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let changed = user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0))
                    .col_expr(column, value.into())
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

    /// Sets a user's rate limit tier; false if there is no such user.
    pub async fn set_tier(
        &self,
        id: UserId,
        tier: Option<String>,
        act: Act,
    ) -> Result<bool, StoreError> {
        self.set_column(id, user::Column::Tier, tier.into(), act).await
    }

    /// Sets a user's role, and ends their sessions by cookie: another role begins with another
    /// cookie. Returns false if there is no such user.
    pub async fn set_role(&self, id: UserId, role: Role, act: Act) -> Result<bool, StoreError> {
        self.database
            .run_write(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let changed = user::Entity::update_many()
                    .filter(user::Column::Id.eq(id.0))
                    .col_expr(user::Column::Role, sea_orm::Value::from(role.code()).into())
                    .exec(&transaction)
                    .await?;
                if changed.rows_affected == 0 {
                    return Ok(false);
                }
                let by_cookie = entity::session::Column::UserId.eq(id.0);
                let by_cookie = by_cookie.and(entity::session::Column::CookieDigest.is_not_null());
                end_sessions(&transaction, by_cookie, act.at).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(true)
            })
            .await
    }
}

fn new_account(
    user: UserId,
    environment: Environment,
    balance: Credits,
    at: Timestamp,
) -> account::ActiveModel {
    account::ActiveModel {
        user_id: Set(user.0),
        environment: Set(environment.code()),
        status: Set(AccountStatus::Open.code()),
        balance: Set(balance.nanos()),
        seq: Set(i64::from(balance > Credits::ZERO)),
        updated_at: Set(at.micros()),
        created_at: Set(at.micros()),
        link: Set(Link::START.0.to_vec()),
        ..Default::default()
    }
}

/// Inserts the first entry of an account with an initial balance. This happens in the transaction
/// that creates the account. No process can own it yet, so no lease is needed, and the epoch is 0.
async fn open_with_grant(
    transaction: &DatabaseTransaction,
    account: account::Model,
) -> Result<(), StoreError> {
    let at = Timestamp::from_micros(account.created_at);
    let balance = Credits::from_nanos(account.balance);
    let entry = LedgerEntry {
        account: AccountId(account.id),
        seq: account.seq,
        epoch: 0,
        kind: EntryKind::Grant,
        amount: balance,
        balance_after: balance,
        reference: account.user_id,
        key: None,
        day: at.day(),
        month: at.day().month(),
        at,
        bill: None,
        link: Link::START,
    };
    let entry = entry.after(Link::START);
    super::ledger::insert_entry(transaction, &entry).await?;
    account::Entity::update_many()
        .filter(account::Column::Id.eq(account.id))
        .col_expr(account::Column::Link, sea_orm::Value::from(entry.link.0.to_vec()).into())
        .exec(transaction)
        .await?;
    Ok(())
}
