//! Users: the people who log in.

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, ExprTrait as _, QueryFilter,
};

use super::lease::begin_write;
use super::sessions::{self, NewSession};
use super::{Store, StoreError};
use crate::domain::{
    AccountId, AccountStatus, Credits, EntryKind, Environment, LedgerEntry, Link, Timestamp, UserId,
};
use entity::{account, ledger_entry, user};

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything with their own accounts.
    User,
    /// Also what operators do.
    Admin,
}

impl Role {
    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Admin => "admin",
        }
    }

    const fn code(self) -> i16 {
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
    /// As they wrote it.
    pub email: String,
    /// As they wrote it.
    pub username: String,
    /// PHC text of argon2id.
    pub password_hash: String,
    /// What they may do.
    pub role: Role,
    /// When they registered.
    pub created_at: Timestamp,
    /// What their test account begins with.
    pub test_credits: Credits,
}

/// A user as stored.
#[derive(Clone, Debug)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// As they wrote it.
    pub email: String,
    /// As they wrote it.
    pub username: String,
    /// PHC text of argon2id.
    pub password_hash: String,
    /// What they may do.
    pub role: Role,
    /// Has the address been proved?
    pub is_email_verified: bool,
    /// Raised by every change of the password: of two at the same time one is refused.
    pub token_version: i64,
    /// When they registered.
    pub created_at: Timestamp,
}

/// The spelling under which an email or a username is unique.
#[must_use]
pub fn folded(text: &str) -> String {
    text.trim().to_lowercase()
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
            token_version: row.token_version,
            created_at: Timestamp::from_micros(row.created_at),
        }
    }
}

impl Store {
    /// Stores a user with a live account and a test account.
    ///
    /// # Errors
    /// [`StoreError::Taken`], naming `email` or `username`.
    pub async fn create_user(&self, new: NewUser) -> Result<User, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            let row = user::ActiveModel {
                id: Set(new.id.0),
                email_folded: Set(folded(&new.email)),
                email: Set(new.email),
                username_folded: Set(folded(&new.username)),
                username: Set(new.username),
                password_hash: Set(new.password_hash),
                role: Set(new.role.code()),
                is_email_verified: Set(false),
                token_version: Set(0),
                tier: Set(None),
                created_at: Set(new.created_at.micros()),
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
            failpoint!("register-written");
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(user.into())
        })
        .await
    }

    /// The user with this email, whatever its case.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_user_by_email(&self, email: &str) -> Result<Option<User>, StoreError> {
        let email = folded(email);
        self.run(move |store| async move {
            let row = user::Entity::find()
                .filter(user::Column::EmailFolded.eq(email))
                .one(&store.read)
                .await?;
            Ok(row.map(User::from))
        })
        .await
    }

    /// The user with this id.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.run(move |store| async move {
            Ok(user::Entity::find_by_id(id.0).one(&store.read).await?.map(User::from))
        })
        .await
    }

    /// Stores another password, if nobody has changed it since `user` was read, ends all of the user's sessions, and
    /// begins another one; false where somebody was faster.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn set_password(
        &self,
        user: &User,
        hash: String,
        now: Timestamp,
        session: Option<NewSession>,
    ) -> Result<bool, StoreError> {
        let (id, version) = (user.id, user.token_version);
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
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
            sessions::end(&transaction, entity::session::Column::UserId.eq(id.0), now).await?;
            if let Some(session) = session {
                sessions::insert(&transaction, &session).await?;
            }
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

/// Writes the first entry of an account that does not begin empty, and moves the account to it. Written with
/// the account itself, before anyone can own it, so it needs no lease; its epoch is 0.
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
        link: Link::START,
    };
    let entry = entry.after(Link::START);
    ledger_entry::Entity::insert(super::ledger::row(&entry))
        .exec_without_returning(transaction)
        .await?;
    account::Entity::update_many()
        .filter(account::Column::Id.eq(account.id))
        .col_expr(account::Column::Link, sea_orm::Value::from(entry.link.0.to_vec()).into())
        .exec(transaction)
        .await?;
    Ok(())
}
