//! Users: the people who log in.

use sea_orm::sea_query::LikeExpr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, ExprTrait as _, QueryFilter,
    QueryOrder as _, QuerySelect as _,
};
use uuid::Uuid;

use super::audit_log;
use super::email_tokens::{TokenPurpose, delete_others};
use super::sessions::{self, NewSession};
use super::sql::begin_write;
use super::{Store, StoreError};
use domain::{
    AccountId, AccountStatus, Act, ActKind, Credits, EntryKind, Environment, LedgerEntry, Link,
    Origin, Timestamp, UserId,
};
use entity::{account, user};

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
    /// Who registers them, for the audit log.
    pub origin: Origin,
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
    /// Their rate limit tier; `None` is the default one.
    pub tier: Option<String>,
    /// Raised by every change of the password: of two at the same time one is refused.
    pub token_version: i64,
    /// When they registered.
    pub created_at: Timestamp,
    /// What their second factor is, or is to become.
    pub second_factor: Option<SecondFactor>,
}

/// A second factor as stored.
#[derive(Clone)]
pub struct SecondFactor {
    /// The secret, sealed.
    pub sealed: Vec<u8>,
    /// Has its owner proved that they have it? A login takes it from then on.
    pub is_enabled: bool,
}

impl std::fmt::Debug for SecondFactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecondFactor").field("is_enabled", &self.is_enabled).finish_non_exhaustive()
    }
}

impl User {
    /// Does a login take a second factor?
    #[must_use]
    pub fn has_two_factor(&self) -> bool {
        self.second_factor.as_ref().is_some_and(|factor| factor.is_enabled)
    }
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
            tier: row.tier,
            token_version: row.token_version,
            created_at: Timestamp::from_micros(row.created_at),
            second_factor: row
                .totp_secret
                .map(|sealed| SecondFactor { sealed, is_enabled: row.totp_enabled_at.is_some() }),
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
                totp_secret: Set(None),
                totp_enabled_at: Set(None),
                totp_step: Set(0),
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

    /// Stores another hash of the same password, if it has not been changed meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn set_better_hash(&self, user: &User, hash: String) -> Result<(), StoreError> {
        let (id, before) = (user.id, user.password_hash.clone());
        self.run_write(move |store| async move {
            user::Entity::update_many()
                .filter(user::Column::Id.eq(id.0).and(user::Column::PasswordHash.eq(before)))
                .col_expr(user::Column::PasswordHash, sea_orm::Value::from(hash).into())
                .exec(&store.write)
                .await?;
            Ok(())
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
        act: Act,
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
            delete_others(&transaction, id, TokenPurpose::Reset).await?;
            if let Some(session) = session {
                sessions::insert(&transaction, &session).await?;
            }
            audit_log::insert(&transaction, &act).await?;
            transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
            Ok(true)
        })
        .await
    }
}

/// Which users an operator wants to see.
#[derive(Clone, Debug, Default)]
pub struct UserSearch {
    /// Those whose email or username has this in it, whatever its case.
    pub text: Option<String>,
    /// Those who registered before this one.
    pub before: Option<UserId>,
    /// At most so many.
    pub limit: u64,
}

impl Store {
    /// Users, the last registered one first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_users(&self, search: UserSearch) -> Result<Vec<User>, StoreError> {
        use user::Column::{CreatedAt, EmailFolded, Id, UsernameFolded};
        self.run(move |store| async move {
            let mut query = user::Entity::find().order_by_desc(CreatedAt).order_by_desc(Id);
            if let Some(text) = search.text {
                let mut pattern = String::from("%");
                for character in folded(&text).chars() {
                    if matches!(character, '%' | '_' | '\\') {
                        pattern.push('\\');
                    }
                    pattern.push(character);
                }
                pattern.push('%');
                let like =
                    |column: user::Column| column.like(LikeExpr::new(pattern.clone()).escape('\\'));
                query = query.filter(like(EmailFolded).or(like(UsernameFolded)));
            }
            if let Some(before) = search.before {
                let Some(before) = user::Entity::find_by_id(before.0).one(&store.read).await?
                else {
                    return Ok(Vec::new());
                };
                let at = before.created_at;
                let is_before = CreatedAt.lt(at).or(CreatedAt.eq(at).and(Id.lt(before.id)));
                query = query.filter(is_before);
            }
            let rows = query.limit(search.limit).all(&store.read).await?;
            Ok(rows.into_iter().map(User::from).collect())
        })
        .await
    }

    /// Sets one column of a user, and writes who did it; was there such a user?
    async fn set_column(
        &self,
        id: UserId,
        column: user::Column,
        value: sea_orm::Value,
        act: Act,
    ) -> Result<bool, StoreError> {
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
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

    /// Sets a user's rate limit tier; was there such a user?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn set_tier(
        &self,
        id: UserId,
        tier: Option<String>,
        act: Act,
    ) -> Result<bool, StoreError> {
        self.set_column(id, user::Column::Tier, tier.into(), act).await
    }

    /// Sets what a user may do; was there such a user?
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn set_role(&self, id: UserId, role: Role, act: Act) -> Result<bool, StoreError> {
        self.set_column(id, user::Column::Role, role.code().into(), act).await
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
    super::ledger::insert_entry(transaction, &entry).await?;
    account::Entity::update_many()
        .filter(account::Column::Id.eq(account.id))
        .col_expr(account::Column::Link, sea_orm::Value::from(entry.link.0.to_vec()).into())
        .exec(transaction)
        .await?;
    Ok(())
}
