//! API keys as they are looked up and listed. Their changes are written by the ledger writer, in the order
//! in which their account decided them ([`crate::domain::Change`]).

use sea_orm::{ColumnTrait, ConnectionTrait as _, EntityTrait, QueryFilter, QueryOrder, Statement};
use uuid::Uuid;

use super::accounts::{UserAccounts, spends_of};
use super::{Store, StoreError};
use crate::domain::api_key::KeyDigest;
use crate::domain::{AccountId, Environment, KeyId, Timestamp, UserId};
use entity::api_key;

/// What the pipeline knows of a key.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// The key.
    pub key: KeyId,
    /// The account it spends.
    pub account: AccountId,
    /// Whose account that is.
    pub user: UserId,
    /// Live or test.
    pub environment: Environment,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// The rate limit tier of its owner; `None` is the default.
    pub tier: Option<String>,
}

/// What a key's owner sees of it.
#[derive(Clone, Debug)]
pub struct KeyListing {
    /// The key.
    pub id: KeyId,
    /// The account it spends.
    pub account: AccountId,
    /// What its owner calls it.
    pub name: String,
    /// See [`crate::domain::api_key::ApiKey::preview`].
    pub preview: String,
    /// What it is looked up by.
    pub digest: KeyDigest,
    /// Not revoked.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// The last call that passed every check.
    pub last_used_at: Option<Timestamp>,
}

impl Store {
    /// The usable key with this digest: neither revoked nor deleted.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find_key(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        const SQL: &str =
            "SELECT api_key.id, api_key.account_id, api_key.expires_at, account.user_id,
                CAST(account.environment AS BIGINT), users.tier
            FROM api_key
            LEFT JOIN account ON account.id = api_key.account_id
            LEFT JOIN users ON users.id = account.user_id
            WHERE api_key.digest = $1 AND NOT api_key.is_deleted AND NOT api_key.is_revoked";
        self.run(move |store| async move {
            let backend = store.read.get_database_backend();
            let values = [digest.0.to_vec().into()];
            let statement = Statement::from_sql_and_values(backend, SQL, values);
            let Some(row) = store.read.query_one_raw(statement).await? else { return Ok(None) };
            let key = KeyId(row.try_get_by_index(0)?);
            let corrupt = || StoreError::Corrupt(format!("the key {key} has no owner"));
            let user: Option<Uuid> = row.try_get_by_index(3)?;
            let environment: Option<i64> = row.try_get_by_index(4)?;
            let environment = environment.and_then(|code| i16::try_from(code).ok());
            let expires_at: Option<i64> = row.try_get_by_index(2)?;
            Ok(Some(KeyRecord {
                key,
                account: AccountId(row.try_get_by_index(1)?),
                user: UserId(user.ok_or_else(corrupt)?),
                environment: environment.and_then(Environment::from_code).ok_or_else(corrupt)?,
                expires_at: expires_at.map(Timestamp::from_micros),
                tier: row.try_get_by_index(5)?,
            }))
        })
        .await
    }

    /// The keys of a user that are not deleted, newest first; or only the one named.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_keys(
        &self,
        owner: UserAccounts,
        only: Option<KeyId>,
    ) -> Result<Vec<KeyListing>, StoreError> {
        self.run(move |store| async move {
            let mut query = api_key::Entity::find()
                .filter(api_key::Column::AccountId.is_in([owner.live.0, owner.test.0]))
                .filter(api_key::Column::IsDeleted.eq(false))
                .order_by_desc(api_key::Column::CreatedAt)
                .order_by_desc(api_key::Column::Id);
            if let Some(key) = only {
                query = query.filter(api_key::Column::Id.eq(key.0));
            }
            let keys = query.all(&store.read).await?;
            let spends = spends_of(&store.read, &keys).await?;
            let last_used_at = |key| spends.get(&key).and_then(|spend| spend.last_used_at);
            Ok(keys.iter().map(|key| listing(key, last_used_at(KeyId(key.id)))).collect())
        })
        .await
    }
}

fn listing(key: &api_key::Model, last_used_at: Option<Timestamp>) -> KeyListing {
    KeyListing {
        id: KeyId(key.id),
        account: AccountId(key.account_id),
        name: key.name.clone(),
        preview: key.preview.clone(),
        digest: KeyDigest(key.digest.as_slice().try_into().unwrap_or_default()),
        is_active: !key.is_revoked,
        created_at: Timestamp::from_micros(key.created_at),
        expires_at: key.expires_at.map(Timestamp::from_micros),
        last_used_at,
    }
}
