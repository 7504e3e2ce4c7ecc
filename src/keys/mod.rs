//! API keys as their owner manages them. Every change goes through the account's owner, so that it
//! binds for the very next charge, and is answered when it is durable.

use std::sync::Arc;

use uuid::Uuid;

use crate::access::{self, AccessError};
use crate::actors::AccountError;
use crate::idempotency::{First, IdempotencyError, Made, Once};
use crate::pipeline::Gateway;
use crate::store::keys::{KeyListing, Rotation};
use crate::store::users::EndedKey;
use crate::store::{Store, StoreError};
use domain::account::TooManyKeys;
use domain::api_key::{ApiKey, KeyDigest};
use domain::limits::{LimitsChange, SpendingLimits};
use domain::{
    AccountId, Act, ActKind, Environment, KeyChange, KeyEdit, KeyId, KeyPolicy, KeyState, NewKey,
    Origin, SessionId, Timestamp, UserId,
};

/// Why a key was not made, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The user has no such key, whoever else may have.
    #[error("no such key")]
    NotFound,
    /// The key is out of use.
    #[error("the key is out of use")]
    NotActive,
    /// Somebody else has changed it at the same time.
    #[error("the key was changed at the same time")]
    Changed,
    /// See [`TooManyKeys`].
    #[error(transparent)]
    TooMany(#[from] TooManyKeys),
    /// See [`IdempotencyError`].
    #[error(transparent)]
    Repeat(IdempotencyError),
    /// See [`AccessError`].
    #[error(transparent)]
    Account(#[from] AccessError),
}

impl From<StoreError> for KeysError {
    fn from(error: StoreError) -> Self {
        KeysError::Account(error.into())
    }
}

impl<E: Into<KeysError>> From<AccountError<E>> for KeysError {
    fn from(error: AccountError<E>) -> Self {
        match error {
            AccountError::Refused(refused) => refused.into(),
            AccountError::Gone => AccessError::Unknown.into(),
        }
    }
}

impl From<domain::account::NoSuchKey> for KeysError {
    fn from(_: domain::account::NoSuchKey) -> Self {
        KeysError::NotFound
    }
}

/// A key to be made.
pub struct KeyRequest {
    /// What its owner calls it.
    pub name: String,
    /// Which of the owner's accounts it spends.
    pub environment: Environment,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// What it may be used for.
    pub policy: KeyPolicy,
    /// What it may spend, from its first call on.
    pub limits: LimitsChange,
}

/// A key that was made, or that got another value.
pub struct NewlyMade {
    /// Its text, for the only time.
    pub value: ApiKey,
    /// What is seen of it later.
    pub listing: KeyListing,
}

/// Has the values of a key read anew when it is dropped: after a change is on record, even if
/// nobody waits for that any more.
struct ForgetLater {
    gateway: Arc<Gateway>,
    values: Vec<KeyDigest>,
}

impl Drop for ForgetLater {
    fn drop(&mut self) {
        self.values.iter().for_each(|value| self.gateway.keys.forget(*value));
    }
}

/// The API keys of all users.
pub struct Keys {
    store: Store,
    gateway: Arc<Gateway>,
    /// How long before its end a key's owner is warned, in microseconds.
    expiry_warning_micros: i64,
}

impl Keys {
    /// A key's owner is warned `expiry_warning_micros` before its end.
    #[must_use]
    pub fn new(store: Store, gateway: Arc<Gateway>, expiry_warning_micros: i64) -> Self {
        Keys { store, gateway, expiry_warning_micros }
    }

    /// What ends before this time ends soon.
    #[must_use]
    pub fn soon(&self) -> Timestamp {
        self.gateway.clock.now().plus_micros(self.expiry_warning_micros)
    }

    /// Makes a key. Its text is returned here and never again.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn create(
        &self,
        user: UserId,
        session: SessionId,
        request: KeyRequest,
        once: Option<Once<NewlyMade>>,
        origin: Origin,
    ) -> Result<Made<NewlyMade>, KeysError> {
        let accounts = self.store.users.accounts_of(user).await?;
        let account = accounts.of(request.environment);
        // One and the same for both environments, or a key for the other one would be another
        // request.
        let repeats = &self.gateway.idempotency;
        let origin_of_end = origin.clone();
        let make = async move |first: First<NewlyMade>| {
            let (value, digest) = self.gateway.keys.make(request.environment);
            let new = NewKey {
                id: KeyId(Uuid::new_v4()),
                account,
                name: request.name,
                digest: digest.0,
                preview: value.preview(),
                created_at: self.gateway.clock.now(),
                expires_at: request.expires_at,
                limits: SpendingLimits::default().changed(request.limits),
            };
            let listing = KeyListing {
                id: new.id,
                account,
                name: new.name.clone(),
                preview: new.preview.clone(),
                digest,
                is_active: true,
                created_at: new.created_at,
                expires_at: new.expires_at,
                last_used_at: None,
                policy: request.policy.clone(),
                former_valid_until: None,
            };
            let (id, at, made) = (new.id, new.created_at, NewlyMade { value, listing });
            let answer = first.record(id.0, &made, at);
            let lease = self.gateway.account(account).await?;
            self.assert_open(account).await?;
            if request.policy != KeyPolicy::default() {
                self.store.keys.insert_policy(id, request.policy).await?;
            }
            let act = origin.act(Uuid::now_v7(), user, ActKind::KeyCreated, at).to(id.to_string());
            let act = act.with(request.limits.to_string());
            let receipt = lease.add_key(new, answer, Some(act)).await?;
            self.gateway.recorded(receipt, first).await?;
            // A proof of the address ends the sessions, and then the keys that it finds. One that
            // was made meanwhile, for a session that has ended, must not outlive it.
            if !self.store.users.is_session_alive(user, session, at).await? {
                self.end(user, &EndedKey { id, account, digest }, origin_of_end).await;
                return Err(AccessError::SessionEnded.into());
            }
            Ok(made)
        };
        repeats.run(accounts.live, once, KeysError::Repeat, make).await
    }

    /// The user's keys, newest first.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn list(&self, user: UserId) -> Result<Vec<KeyListing>, KeysError> {
        let accounts = self.store.users.accounts_of(user).await?;
        self.gateway.tables_up_to_date().await?;
        Ok(self.store.keys.list(accounts, None).await?)
    }

    /// One of the user's keys.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn get(&self, user: UserId, key: KeyId) -> Result<KeyListing, KeysError> {
        self.gateway.tables_up_to_date().await?;
        self.find(user, key).await
    }

    /// The key to change, without waiting for a checkpoint. Of what was acknowledged, only what
    /// calls leave (`last_used_at`) may not be in it yet. Whether the key may be changed its
    /// account decides.
    async fn find(&self, user: UserId, key: KeyId) -> Result<KeyListing, KeysError> {
        let accounts = self.store.users.accounts_of(user).await?;
        let mut keys = self.store.keys.list(accounts, Some(key)).await?;
        keys.pop().ok_or(KeysError::NotFound)
    }

    /// Puts a key out of use. Doing so twice is the same as once. `reason` is for the audit log; a
    /// user gives none.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn revoke(
        &self,
        user: UserId,
        key: KeyId,
        reason: String,
        origin: Origin,
    ) -> Result<KeyListing, KeysError> {
        let listing = self.find(user, key).await?;
        let act = self.act(origin, user, ActKind::KeyRevoked, key).with(reason);
        self.change_and_forget(&listing, KeyChange::Revoke, act).await?;
        Ok(KeyListing { is_active: false, ..listing })
    }

    /// Puts a key out of use, after its row says so or because nobody may have it. A failure is
    /// logged: a look-up of the key finds the row.
    pub async fn end(&self, user: UserId, key: &EndedKey, origin: Origin) {
        let EndedKey { id, account, digest } = *key;
        if let Err(error) = self.forget(id, digest).await {
            tracing::error!(%error, key = %id, "the former values of an ended key are not forgotten");
        }
        let act = self.act(origin, user, ActKind::KeyRevoked, id);
        match self.change(account, id, KeyChange::Revoke, act, ()).await {
            // Deleted meanwhile.
            Ok(_) | Err(KeysError::NotFound) => {}
            Err(error) => tracing::error!(%error, key = %id, "an ended key was not revoked"),
        }
        self.gateway.keys.forget(digest);
    }

    /// Puts a key out of use and out of the list.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn delete(&self, user: UserId, key: KeyId, origin: Origin) -> Result<(), KeysError> {
        let listing = self.find(user, key).await?;
        let act = self.act(origin, user, ActKind::KeyDeleted, key);
        self.change_and_forget(&listing, KeyChange::Delete, act).await?;
        Ok(())
    }

    /// Changes what a key is called and may be used for. Binds for the very next call. `detail` is
    /// for the audit log, which outlasts an erasure: it must not say what the user has written.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn edit(
        &self,
        user: UserId,
        key: KeyId,
        edit: KeyEdit,
        detail: String,
        origin: Origin,
    ) -> Result<KeyListing, KeysError> {
        let listing = self.find(user, key).await?;
        let act = self.act(origin, user, ActKind::KeyChanged, key).with(detail);
        self.change_and_forget(&listing, KeyChange::Edit(Box::new(edit)), act).await?;
        let edited = self.find(user, key).await?;
        // It may have got another value meanwhile.
        self.gateway.keys.forget(edited.digest);
        Ok(edited)
    }

    /// Gives a key another value. The one it has works on for `grace_micros`; every value from
    /// before it ends now. Limits, counters and history stay the key's.
    ///
    /// # Errors
    /// [`KeysError::NotActive`], or where somebody else was faster [`KeysError::Changed`].
    pub async fn rotate(
        &self,
        user: UserId,
        key: KeyId,
        grace_micros: i64,
        origin: Origin,
    ) -> Result<NewlyMade, KeysError> {
        let listing = self.find(user, key).await?;
        self.assert_in_charge()?;
        self.assert_open(listing.account).await?;
        if !listing.is_active {
            return Err(KeysError::NotActive);
        }
        let environment = Environment::of_key(&listing.preview);
        let (value, digest) = self.gateway.keys.make(environment);
        let valid_until = self.gateway.clock.now().plus_micros(grace_micros);
        let preview = value.preview();
        let rotation = Rotation { key, from: listing.digest, to: digest, preview, valid_until };
        let act = self.act(origin, user, ActKind::KeyRotated, key);
        let act = act.with(format!("the value before is good until {}", valid_until.to_rfc3339()));
        let rotated = self.store.keys.rotate(rotation, act).await;
        self.forget(key, listing.digest).await?;
        if !rotated? {
            return Err(KeysError::Changed);
        }
        Ok(NewlyMade { value, listing: self.find(user, key).await? })
    }

    /// A suspended account gets no new values of keys.
    async fn assert_open(&self, account: AccountId) -> Result<(), KeysError> {
        let is_suspended = self.store.users.is_suspended(account).await?;
        if is_suspended { Err(AccessError::Suspended.into()) } else { Ok(()) }
    }

    /// Has every value of a key read anew.
    async fn forget(&self, key: KeyId, digest: KeyDigest) -> Result<(), KeysError> {
        self.gateway.keys.forget(digest);
        for former in self.store.keys.list_former_values(key).await? {
            self.gateway.keys.forget(former);
        }
        Ok(())
    }

    /// See [`access::assert_in_charge`].
    pub fn assert_in_charge(&self) -> Result<(), AccessError> {
        access::assert_in_charge(&self.gateway.ledger)
    }

    /// Changes a key's ceilings; those left out stay as they are.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn set_limits(
        &self,
        user: UserId,
        key: KeyId,
        change: LimitsChange,
        origin: Origin,
    ) -> Result<(KeyState, Timestamp), KeysError> {
        let listing = self.find(user, key).await?;
        let act = self.act(origin, user, ActKind::KeyLimitsSet, key).with(change.to_string());
        let change = KeyChange::Limits(change);
        let state = self.change(listing.account, key, change, act, ()).await?;
        Ok((state, self.gateway.clock.now()))
    }

    /// A key's ceilings and counters, and the time at which they were so.
    ///
    /// # Errors
    /// [`KeysError`]
    pub async fn limits(
        &self,
        user: UserId,
        key: KeyId,
    ) -> Result<(KeyState, Timestamp), KeysError> {
        let listing = self.find(user, key).await?;
        let lease = self.gateway.account(listing.account).await?;
        let looked = lease.look(Some(key)).await.map_err(AccessError::from)?;
        let snapshot = self.gateway.recorded(looked, ()).await?;
        let state = snapshot.key.ok_or(KeysError::NotFound)?;
        Ok((state, snapshot.at))
    }

    /// Changes a key, and has every value that it has now read anew afterwards.
    async fn change_and_forget(
        &self,
        listing: &KeyListing,
        change: KeyChange,
        act: Act,
    ) -> Result<KeyState, KeysError> {
        let mut values = self.store.keys.list_former_values(listing.id).await?;
        values.push(listing.digest);
        let forget = ForgetLater { gateway: Arc::clone(&self.gateway), values };
        self.change(listing.account, listing.id, change, act, forget).await
    }

    /// `kept` is held until it is known whether it is on record.
    async fn change<K: 'static>(
        &self,
        account: AccountId,
        key: KeyId,
        change: KeyChange,
        act: Act,
        kept: K,
    ) -> Result<KeyState, KeysError> {
        let lease = self.gateway.account(account).await?;
        let receipt = lease.change_key(key, change, Some(act)).await?;
        Ok(self.gateway.recorded(receipt, kept).await?)
    }

    fn act(&self, origin: Origin, user: UserId, kind: ActKind, key: KeyId) -> Act {
        origin.act(Uuid::now_v7(), user, kind, self.gateway.clock.now()).to(key.to_string())
    }
}
