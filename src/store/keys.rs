//! API keys. The ledger writer creates, changes, revokes and deletes them, in the order in which
//! their account decided ([`domain::Change`]).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait as _,
    QueryFilter, QueryOrder, QueryResult, Statement, Value,
};
use uuid::Uuid;

use super::accounts::{UserAccounts, spends_of};
use super::connections::{CHUNK, Connections, execute};
use super::error::{CommitError, StoreError};
use super::journaled_keys::KeyChanges;
use super::sql::begin_write;
use super::{audit_log, outbox};
use domain::api_key::KeyDigest;
use domain::event::{self, EventKind};
use domain::price_book::ListId;
use domain::{
    AccountId, Act, Change, Environment, KeyEdit, KeyId, KeyPolicy, Network, Timestamp, UserId,
};
use entity::{api_key, former_key_value, key_policy};

/// A key as the pipeline needs it.
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
    /// The price list that its owner pays by.
    pub price_list: ListId,
    /// Its policy. All keys without one share a value, because a million keys may be cached.
    pub policy: Arc<KeyPolicy>,
}

/// A key as its owner sees it.
#[derive(Clone, Debug)]
pub struct KeyListing {
    /// The key.
    pub id: KeyId,
    /// The account it spends.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// See [`domain::api_key::ApiKey::preview`].
    pub preview: String,
    /// The digest of its value.
    pub digest: KeyDigest,
    /// Not revoked.
    pub is_active: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// The last call that passed every check.
    pub last_used_at: Option<Timestamp>,
    /// Its policy.
    pub policy: KeyPolicy,
    /// Until when a value that it had before is good as well.
    pub former_valid_until: Option<Timestamp>,
}

/// A key that expires soon, and its owner.
#[derive(Clone, Debug)]
pub struct ExpiringKey {
    /// Whose account it spends.
    pub account: AccountId,
    /// The key.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whose it is.
    pub owner: UserId,
}

/// A new value for a key.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The key.
    pub key: KeyId,
    /// Of the value it has.
    pub from: KeyDigest,
    /// Of the value it gets.
    pub to: KeyDigest,
    /// See [`domain::api_key::ApiKey::preview`].
    pub preview: String,
    /// Until when the value it had is good as well.
    pub valid_until: Timestamp,
}

/// The API keys of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyStore {
    database: Arc<Connections>,
}

/// Former values of a key that are known. An older one is answered as one that never was.
const FORMER_VALUES_MAX: i64 = 10;

impl KeyStore {
    pub(super) fn new(database: Arc<Connections>) -> Self {
        KeyStore { database }
    }

    /// The usable key with this digest: neither revoked nor deleted.
    pub async fn find(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, StoreError> {
        self.database
            .run_for_call(move |database| async move {
                loop {
                    let changes = database.journaled_keys.now();
                    let found = find_in_tables(&database, digest).await?;
                    if database.journaled_keys.still_holds(&changes) {
                        return Ok(found.and_then(|found| found.after(&changes)));
                    }
                }
            })
            .await
    }

    /// The keys of a user that are not deleted, newest first; or only the one named.
    pub async fn list(
        &self,
        owner: UserAccounts,
        only: Option<KeyId>,
    ) -> Result<Vec<KeyListing>, StoreError> {
        self.database
            .run(move |database| async move {
                loop {
                    let changes = database.journaled_keys.now();
                    let found = list_in_tables(&database, owner, only).await?;
                    if database.journaled_keys.still_holds(&changes) {
                        let listed = |listing| after(listing, &changes);
                        return Ok(found.into_iter().filter_map(listed).collect());
                    }
                }
            })
            .await
    }

    /// Inserts the policy of a key before the key itself, so that the key is never without it.
    pub async fn insert_policy(&self, key: KeyId, policy: KeyPolicy) -> Result<(), StoreError> {
        self.database
            .run_write(move |database| async move {
                Ok(write_policy(&database.write, key, &policy, None).await?)
            })
            .await
    }

    /// Gives a key another value, and ends every value that it had before; false if its value is
    /// not the expected one any more, or the key is out of use. Of the former values only the one
    /// that is replaced now may work on, until `valid_until`.
    pub async fn rotate(&self, rotation: Rotation, act: Act) -> Result<bool, StoreError> {
        use api_key::Column::{Digest, Id, IsDeleted, IsRevoked, Preview};
        const FORGET: &str = "DELETE FROM former_key_value WHERE digest IN (
            SELECT digest FROM former_key_value WHERE key_id = $1
            ORDER BY valid_until DESC, digest LIMIT 1000 OFFSET $2)";
        self.database
            .run_write(move |database| async move {
                let Rotation { key, from, to, preview, valid_until } = rotation;
                let transaction = begin_write(&database.write).await?;
                let is_usable = Id.eq(key.0).and(IsDeleted.eq(false)).and(IsRevoked.eq(false));
                let changed = api_key::Entity::update_many()
                    .filter(is_usable.and(Digest.eq(from.0.to_vec())))
                    .col_expr(Digest, Value::from(to.0.to_vec()).into())
                    .col_expr(Preview, Value::from(preview).into())
                    .exec(&transaction)
                    .await?;
                if changed.rows_affected == 0 {
                    return Ok(false);
                }
                // Some of their rows stay: they are still answered as expired.
                former_key_value::Entity::update_many()
                    .filter(former_key_value::Column::KeyId.eq(key.0))
                    .filter(former_key_value::Column::ValidUntil.gt(act.at.micros()))
                    .col_expr(
                        former_key_value::Column::ValidUntil,
                        Value::from(act.at.micros()).into(),
                    )
                    .exec(&transaction)
                    .await?;
                let former = former_key_value::ActiveModel {
                    digest: Set(from.0.to_vec()),
                    key_id: Set(key.0),
                    valid_until: Set(valid_until.micros()),
                };
                former_key_value::Entity::insert(former)
                    .exec_without_returning(&transaction)
                    .await?;
                let values = vec![key.0.into(), FORMER_VALUES_MAX.into()];
                execute(&transaction, FORGET, values).await?;
                audit_log::insert(&transaction, &act).await?;
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                Ok(true)
            })
            .await
    }

    /// Up to 100 keys that expire between `now` and `soon`, and whose owners were not warned of
    /// them nor, since `day_before`, of another key. Those that end first come first, and each
    /// owner has a share, so that nobody keeps the warnings of others back.
    pub async fn list_expiring(
        &self,
        now: Timestamp,
        soon: Timestamp,
        day_before: Timestamp,
    ) -> Result<Vec<ExpiringKey>, StoreError> {
        const SQL: &str = "SELECT id, name, expires_at, owner, account FROM (
                SELECT api_key.id AS id, api_key.name AS name, api_key.expires_at AS expires_at,
                    account.user_id AS owner, account.id AS account,
                    ROW_NUMBER() OVER (
                        PARTITION BY account.user_id ORDER BY api_key.expires_at, api_key.id
                    ) AS place
                FROM api_key
                INNER JOIN account ON account.id = api_key.account_id
                LEFT JOIN key_policy ON key_policy.key_id = api_key.id
                WHERE api_key.expires_at > $1 AND api_key.expires_at <= $2
                    AND NOT api_key.is_revoked AND NOT api_key.is_deleted
                    AND key_policy.warned_at IS NULL
                    AND NOT EXISTS (SELECT 1 FROM audit_log
                        WHERE audit_log.user_id = account.user_id
                            AND audit_log.kind = 'key.expiry_told' AND audit_log.at > $3)
            ) AS expiring
            WHERE place <= 20 ORDER BY expires_at, id LIMIT 100";
        self.database
            .run(move |database| async move {
                let values = [now, soon, day_before].map(|at| at.micros().into());
                let backend = database.read.get_database_backend();
                let statement = Statement::from_sql_and_values(backend, SQL, values);
                let rows = database.read.query_all_raw(statement).await?;
                let key = |row: &QueryResult| {
                    Ok(ExpiringKey {
                        id: KeyId(row.try_get_by_index(0)?),
                        name: row.try_get_by_index(1)?,
                        expires_at: Timestamp::from_micros(row.try_get_by_index(2)?),
                        owner: UserId(row.try_get_by_index(3)?),
                        account: AccountId(row.try_get_by_index(4)?),
                    })
                };
                let keys = rows.iter().map(key).collect::<Result<Vec<_>, StoreError>>()?;
                // Of a key that was changed just now, the tables will tell in the next round.
                let changes = database.journaled_keys.now();
                let is_known = |key: &ExpiringKey| changes.of(key.id).next().is_none();
                Ok(keys.into_iter().filter(is_known).collect())
            })
            .await
    }

    /// Records that the owner of a key is warned of its expiry; false if they were warned before.
    pub async fn record_expiry_warning(
        &self,
        key: ExpiringKey,
        act: Act,
    ) -> Result<bool, StoreError> {
        // The rest of the policy is left alone: its owner may be changing it.
        const SQL: &str = "INSERT INTO key_policy (key_id, warned_at)
            SELECT id, $1 FROM api_key WHERE id = $2 AND expires_at = $3 AND NOT is_revoked
            ON CONFLICT (key_id) DO UPDATE SET warned_at = excluded.warned_at
            WHERE key_policy.warned_at IS NULL";
        self.database
            .run_job(move |database| async move {
                let transaction = begin_write(&database.write).await?;
                let ExpiringKey { id, account, expires_at, .. } = key;
                let values = [act.at.micros().into(), id.0.into(), expires_at.micros().into()];
                let backend = transaction.get_database_backend();
                let statement = Statement::from_sql_and_values(backend, SQL, values);
                let is_news = transaction.execute_raw(statement).await?.rows_affected() == 1;
                if is_news {
                    audit_log::insert(&transaction, &act).await?;
                    let kind = EventKind::KeyExpiring;
                    let event = event::of_key(account, id, kind, act.at, Some(expires_at));
                    if database.outbox.has_subscribers(account) {
                        outbox::write(&transaction, &event).await?;
                    }
                }
                transaction.commit().await.map_err(StoreError::OutcomeUnknown)?;
                database.outbox.ring(true);
                Ok(is_news)
            })
            .await
    }

    /// The digests of values that a key had before and that are still good.
    pub async fn list_former_values(&self, key: KeyId) -> Result<Vec<KeyDigest>, StoreError> {
        self.database
            .run(move |database| async move {
                let rows = former_key_value::Entity::find()
                    .filter(former_key_value::Column::KeyId.eq(key.0))
                    .all(&database.read)
                    .await?;
                let digest = |row: &former_key_value::Model| row.digest.as_slice().try_into().ok();
                Ok(rows.iter().filter_map(digest).map(KeyDigest).collect())
            })
            .await
    }

    /// Deletes a chunk of the former values of keys that ended before `before`; are there perhaps
    /// more?
    pub async fn delete_former_values(&self, before: Timestamp) -> Result<bool, StoreError> {
        self.database
            .run_job(move |database| async move {
                let sql = format!(
                    "DELETE FROM former_key_value WHERE digest IN (
                    SELECT digest FROM former_key_value WHERE valid_until <= $1 LIMIT {CHUNK})"
                );
                Ok(execute(&database.write, &sql, vec![before.micros().into()]).await? == CHUNK)
            })
            .await
    }
}

/// What the tables say of a usable key.
struct FoundKey {
    record: KeyRecord,
    policy: KeyPolicy,
    /// When the key ends by itself.
    expires_at: Option<Timestamp>,
    /// Until when the value that was asked for is good, if the key has another one now.
    valid_until: Option<Timestamp>,
}

impl FoundKey {
    /// After what the journal says of it.
    fn after(mut self, changes: &KeyChanges) -> Option<KeyRecord> {
        for change in changes.of(self.record.key) {
            match change {
                Change::KeyRevoked(..) | Change::KeyDeleted(..) => return None,
                Change::KeyEdited(_, _, edit) => {
                    self.expires_at = edit.expires_at.unwrap_or(self.expires_at);
                    self.policy = self.policy.changed(edit.policy.clone());
                }
                _ => {}
            }
        }
        let expires_at = [self.expires_at, self.valid_until].into_iter().flatten().min();
        Some(KeyRecord { expires_at, policy: shared(self.policy), ..self.record })
    }
}

async fn find_in_tables(
    database: &Connections,
    digest: KeyDigest,
) -> Result<Option<FoundKey>, StoreError> {
    // By the value that it has, or by one that it had.
    const SQL: &str = "SELECT api_key.id, api_key.account_id, api_key.expires_at, account.user_id,
            CAST(account.environment AS BIGINT), users.tier, found.valid_until,
            policy.scopes, policy.models, policy.networks, policy.calls_per_minute,
            CAST(users.price_list AS BIGINT)
        FROM (
            SELECT id, CAST(NULL AS BIGINT) AS valid_until FROM api_key WHERE digest = $1
            UNION ALL
            SELECT key_id, valid_until FROM former_key_value WHERE digest = $1
        ) AS found
        INNER JOIN api_key ON api_key.id = found.id
        LEFT JOIN key_policy AS policy ON policy.key_id = api_key.id
        LEFT JOIN account ON account.id = api_key.account_id
        LEFT JOIN users ON users.id = account.user_id
        WHERE NOT api_key.is_deleted AND NOT api_key.is_revoked";
    let backend = database.read.get_database_backend();
    let values = [digest.0.to_vec().into()];
    let statement = Statement::from_sql_and_values(backend, SQL, values);
    let Some(row) = database.read.query_one_raw(statement).await? else { return Ok(None) };
    let key = KeyId(row.try_get_by_index(0)?);
    let corrupt = || StoreError::Corrupt(format!("the key {key} has no owner"));
    let user: Option<Uuid> = row.try_get_by_index(3)?;
    let environment: Option<i64> = row.try_get_by_index(4)?;
    let environment = environment.and_then(|code| i16::try_from(code).ok());
    let expires_at: Option<i64> = row.try_get_by_index(2)?;
    let valid_until: Option<i64> = row.try_get_by_index(6)?;
    let policy = policy(key_policy::Model {
        key_id: key.0,
        scopes: row.try_get_by_index(7)?,
        models: row.try_get_by_index(8)?,
        networks: row.try_get_by_index(9)?,
        calls_per_minute: row.try_get_by_index(10)?,
        warned_at: None,
    })?;
    let list: Option<i64> = row.try_get_by_index(11)?;
    let list = list.map(|list| u32::try_from(list).map(ListId)).transpose();
    let list = list.map_err(|_| StoreError::Corrupt(format!("the price list of {key}")))?;
    let record = KeyRecord {
        key,
        account: AccountId(row.try_get_by_index(1)?),
        user: UserId(user.ok_or_else(corrupt)?),
        environment: environment.and_then(Environment::from_code).ok_or_else(corrupt)?,
        expires_at: None,
        tier: row.try_get_by_index(5)?,
        price_list: list.unwrap_or(ListId::DEFAULT),
        policy: shared(KeyPolicy::default()),
    };
    Ok(Some(FoundKey {
        record,
        policy,
        expires_at: expires_at.map(Timestamp::from_micros),
        valid_until: valid_until.map(Timestamp::from_micros),
    }))
}

async fn list_in_tables(
    database: &Connections,
    owner: UserAccounts,
    only: Option<KeyId>,
) -> Result<Vec<KeyListing>, StoreError> {
    let mut query = api_key::Entity::find()
        .filter(api_key::Column::AccountId.is_in([owner.live.0, owner.test.0]))
        .filter(api_key::Column::IsDeleted.eq(false))
        .order_by_desc(api_key::Column::CreatedAt)
        .order_by_desc(api_key::Column::Id);
    if let Some(key) = only {
        query = query.filter(api_key::Column::Id.eq(key.0));
    }
    let keys = query.all(&database.read).await?;
    let spends = spends_of(&database.read, &keys).await?;
    let last_used_at = |key| spends.get(&key).and_then(|(spend, _)| spend.last_used_at);
    let (mut policies, former) = beside(&database.read, &keys).await?;
    keys.iter()
        .map(|key| {
            let policy = policies.remove(&key.id).map(policy).transpose()?;
            Ok(KeyListing {
                last_used_at: last_used_at(KeyId(key.id)),
                policy: policy.unwrap_or_default(),
                former_valid_until: former.get(&key.id).copied(),
                ..listing(key)
            })
        })
        .collect()
}

/// A key after what the journal says of it; `None` if it was deleted.
fn after(mut listing: KeyListing, changes: &KeyChanges) -> Option<KeyListing> {
    for change in changes.of(listing.id) {
        match change {
            Change::KeyDeleted(..) => return None,
            Change::KeyRevoked(..) => listing.is_active = false,
            Change::KeyEdited(_, _, edit) => {
                let KeyEdit { name, expires_at, policy } = (**edit).clone();
                listing = KeyListing {
                    name: name.unwrap_or(listing.name),
                    expires_at: expires_at.unwrap_or(listing.expires_at),
                    policy: listing.policy.changed(policy),
                    ..listing
                };
            }
            _ => {}
        }
    }
    Some(listing)
}

/// Policies of keys, and until when values that they had are good.
type Beside = (BTreeMap<Uuid, key_policy::Model>, BTreeMap<Uuid, Timestamp>);

async fn beside(
    connection: &impl ConnectionTrait,
    keys: &[api_key::Model],
) -> Result<Beside, StoreError> {
    let (mut policies, mut former) = (BTreeMap::new(), BTreeMap::new());
    // In pieces, to stay below the databases' bind limits.
    for piece in keys.chunks(500) {
        let ids = || piece.iter().map(|key| key.id);
        let rows = key_policy::Entity::find()
            .filter(key_policy::Column::KeyId.is_in(ids()))
            .all(connection)
            .await?;
        policies.extend(rows.into_iter().map(|row| (row.key_id, row)));
        let rows = former_key_value::Entity::find()
            .filter(former_key_value::Column::KeyId.is_in(ids()))
            .all(connection)
            .await?;
        for row in rows {
            let until = Timestamp::from_micros(row.valid_until);
            let latest = former.entry(row.key_id).or_insert(until);
            *latest = until.max(*latest);
        }
    }
    Ok((policies, former))
}

/// The policy, or the shared empty one.
fn shared(policy: KeyPolicy) -> Arc<KeyPolicy> {
    static NONE: LazyLock<Arc<KeyPolicy>> = LazyLock::new(Arc::default);
    if policy == **NONE { Arc::clone(&NONE) } else { Arc::new(policy) }
}

fn policy(row: key_policy::Model) -> Result<KeyPolicy, StoreError> {
    let corrupt = || StoreError::Corrupt(format!("the policy of {} is broken", KeyId(row.key_id)));
    let list = |text: Option<String>| {
        let read = |text: String| serde_json::from_str::<Vec<String>>(&text);
        text.map(read).transpose().map_err(|_| corrupt())
    };
    let networks = list(row.networks)?.map(|networks| {
        let read = networks.iter().map(|network| network.parse::<Network>());
        read.collect::<Result<Vec<_>, _>>().map_err(|_| corrupt())
    });
    let calls = row
        .calls_per_minute
        .map(|calls| u32::try_from(calls).ok().and_then(NonZeroU32::new).ok_or_else(corrupt));
    Ok(KeyPolicy {
        scopes: list(row.scopes)?,
        models: list(row.models)?,
        networks: networks.transpose()?,
        calls_per_minute: calls.transpose()?,
    })
}

/// Inserts or replaces a key's policy.
async fn write_policy(
    connection: &impl ConnectionTrait,
    key: KeyId,
    policy: &KeyPolicy,
    warned_at: Option<i64>,
) -> Result<(), DbErr> {
    use key_policy::Column::{CallsPerMinute, KeyId as Id, Models, Networks, Scopes, WarnedAt};
    let list = |list: &Vec<String>| serde_json::to_string(list).unwrap_or_default();
    let networks =
        |networks: &Vec<Network>| list(&networks.iter().map(Network::to_string).collect());
    let row = key_policy::ActiveModel {
        key_id: Set(key.0),
        scopes: Set(policy.scopes.as_ref().map(list)),
        models: Set(policy.models.as_ref().map(list)),
        networks: Set(policy.networks.as_ref().map(networks)),
        calls_per_minute: Set(policy.calls_per_minute.map(|calls| i64::from(calls.get()))),
        warned_at: Set(warned_at),
    };
    let replace = OnConflict::column(Id)
        .update_columns([Scopes, Models, Networks, CallsPerMinute, WarnedAt])
        .to_owned();
    let written = key_policy::Entity::insert(row).on_conflict(replace);
    written.exec_without_returning(connection).await.map(drop)
}

/// Changes a key's name, expiry and policy, unless it is deleted.
pub(in crate::store) async fn write_edit(
    transaction: &impl ConnectionTrait,
    key: KeyId,
    edit: &KeyEdit,
) -> Result<(), CommitError> {
    let KeyEdit { name, expires_at, policy: change } = edit.clone();
    let is_new_end = expires_at.is_some();
    let mut update = api_key::Entity::update_many()
        .filter(api_key::Column::Id.eq(key.0).and(api_key::Column::IsDeleted.eq(false)))
        // There may be nothing else to set.
        .col_expr(api_key::Column::Id, Value::from(key.0).into());
    if let Some(name) = name {
        update = update.col_expr(api_key::Column::Name, Value::from(name).into());
    }
    if let Some(expires_at) = expires_at {
        let micros = Value::from(expires_at.map(Timestamp::micros));
        update = update.col_expr(api_key::Column::ExpiresAt, micros.into());
    }
    if update.exec(transaction).await?.rows_affected == 0 {
        return Ok(());
    }
    let before = key_policy::Entity::find_by_id(key.0).one(transaction).await?;
    // Another end is worth another warning.
    let warned_at = before.as_ref().and_then(|before| before.warned_at);
    let warned_at = warned_at.filter(|_| !is_new_end);
    let before = before.map(policy).transpose();
    let before = before.map_err(|error| CommitError::Refused(error.to_string()))?;
    let after = before.unwrap_or_default().changed(change);
    Ok(write_policy(transaction, key, &after, warned_at).await?)
}

fn listing(key: &api_key::Model) -> KeyListing {
    KeyListing {
        id: KeyId(key.id),
        account: AccountId(key.account_id),
        name: key.name.clone(),
        preview: key.preview.clone(),
        digest: KeyDigest(key.digest.as_slice().try_into().unwrap_or_default()),
        is_active: !key.is_revoked,
        created_at: Timestamp::from_micros(key.created_at),
        expires_at: key.expires_at.map(Timestamp::from_micros),
        last_used_at: None,
        policy: KeyPolicy::default(),
        former_valid_until: None,
    }
}
