//! What operators may do with other people's accounts. All of it is in the audit log.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::actors::AccountError;
use crate::idempotency::{First, IdempotencyError, Made, Once};
use crate::keys::{KeysError, on_record, serving_lease, tables_are_whole};
use crate::pipeline::Gateway;
use crate::store::api_keys::KeyListing;
use crate::store::users::{User, UserSearch};
use crate::store::{Store, StoreError};
use domain::{
    AccountStatus, Act, ActKind, Adjustment, Credits, Decline, Environment, Origin, Snapshot,
    UserId,
};

/// Why an operator did not get what they asked for.
#[derive(Debug, thiserror::Error)]
pub enum OperatorsError {
    /// There is no such user.
    #[error("no such user")]
    NoUser,
    /// The settings have no tier of this name.
    #[error("no such tier; the tiers are {known}")]
    NoTier {
        /// The names there are.
        known: String,
    },
    /// More would be taken than can be spent, or more given than an account can hold.
    #[error("the account does not take this amount")]
    Amount {
        /// What can be spent.
        available: Option<Credits>,
    },
    /// The account is suspended, so nothing can be given.
    #[error("the account is suspended")]
    AccountClosed,
    /// See [`IdempotencyError`].
    #[error(transparent)]
    Repeat(IdempotencyError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// As of keys.
    #[error(transparent)]
    Account(#[from] KeysError),
}

/// A user as operators see them.
pub struct UserView {
    /// The user.
    pub user: User,
    /// Where their accounts stand: live, then test.
    pub accounts: [(Environment, Snapshot); 2],
    /// Their keys, newest first.
    pub keys: Vec<KeyListing>,
}

/// Credits given or taken.
#[derive(Clone, Debug)]
pub struct CreditsChange {
    /// Whose.
    pub user: UserId,
    /// Of which account.
    pub environment: Environment,
    /// How much.
    pub adjustment: Adjustment,
    /// Why, for the audit log.
    pub reason: String,
}

/// See the module.
pub struct Operators {
    /// The database.
    pub store: Store,
    /// The accounts.
    pub gateway: Arc<Gateway>,
    /// The tiers there are.
    pub tiers: BTreeSet<String>,
}

impl Operators {
    /// Users, the last registered one first.
    ///
    /// # Errors
    /// [`OperatorsError::Store`]
    pub async fn users(&self, search: UserSearch) -> Result<Vec<User>, OperatorsError> {
        Ok(self.store.list_users(search).await?)
    }

    /// One user with their accounts and keys.
    ///
    /// # Errors
    /// [`OperatorsError`]
    pub async fn user(&self, id: UserId) -> Result<UserView, OperatorsError> {
        let user = self.find(id).await?;
        let accounts = self.store.accounts_of(id).await?;
        let look = async |environment: Environment| -> Result<_, OperatorsError> {
            let lease = serving_lease(&self.gateway, accounts.of(environment)).await?;
            let looked = lease.look(None).await.map_err(KeysError::from)?;
            Ok((environment, on_record(&self.gateway, looked, ()).await?))
        };
        let accounts_seen = [look(Environment::Live).await?, look(Environment::Test).await?];
        tables_are_whole(&self.gateway).await?;
        let keys = self.store.list_keys(accounts, None).await?;
        Ok(UserView { user, accounts: accounts_seen, keys })
    }

    async fn find(&self, id: UserId) -> Result<User, OperatorsError> {
        self.store.find_user(id).await?.ok_or(OperatorsError::NoUser)
    }

    /// Suspends or resumes both accounts of a user. Binds for the very next call.
    ///
    /// # Errors
    /// [`OperatorsError::NoUser`]
    pub async fn set_status(
        &self,
        user: UserId,
        status: AccountStatus,
        reason: String,
        origin: Origin,
    ) -> Result<(), OperatorsError> {
        self.find(user).await?;
        let kind = match status {
            AccountStatus::Open => ActKind::AccountsResumed,
            AccountStatus::Suspended => ActKind::AccountsSuspended,
        };
        let accounts = self.store.accounts_of(user).await?;
        for environment in [Environment::Live, Environment::Test] {
            let act = self.act(origin.clone(), user, kind).to(environment.name());
            let lease = serving_lease(&self.gateway, accounts.of(environment)).await?;
            let set = lease.set_status(status, Some(act.with(reason.clone()))).await;
            on_record(&self.gateway, set.map_err(KeysError::from)?, ()).await?;
        }
        Ok(())
    }

    /// Gives a user credits without a payment, or takes what they can spend, once for each idempotency key.
    ///
    /// # Errors
    /// [`OperatorsError`]
    pub async fn change_credits(
        &self,
        operator: UserId,
        change: CreditsChange,
        once: Option<Once<CreditsChange>>,
        origin: Origin,
    ) -> Result<Made<CreditsChange>, OperatorsError> {
        let CreditsChange { user, environment, adjustment, .. } = change;
        self.find(user).await?;
        // The operator's own keys of idempotency, not the user's.
        let operators = self.store.accounts_of(operator).await?.live;
        let act = async move |first: First<CreditsChange>| {
            let (kind, amount) = match adjustment {
                Adjustment::Grant(amount) => (ActKind::CreditsGranted, amount),
                Adjustment::Take(amount) => (ActKind::CreditsTaken, amount),
            };
            let act = self.act(origin, user, kind).to(environment.name());
            let act = act.with(format!("${amount}: {}", change.reason));
            let answer = first.record(act.id, &change, act.at);
            let account = self.store.accounts_of(user).await?.of(environment);
            let lease = serving_lease(&self.gateway, account).await?;
            let adjusted = lease.adjust(user.0, adjustment, answer, Some(act)).await;
            let receipt = adjusted.map_err(|error| match error {
                AccountError::Refused(Decline::AccountClosed) => OperatorsError::AccountClosed,
                AccountError::Refused(Decline::InsufficientCredits { available, .. }) => {
                    OperatorsError::Amount { available: Some(available) }
                }
                AccountError::Refused(_) => OperatorsError::Amount { available: None },
                AccountError::Gone => OperatorsError::Account(KeysError::Unknown),
            })?;
            on_record(&self.gateway, receipt, first).await?;
            Ok(change)
        };
        self.gateway.idempotency.run(operators, once, OperatorsError::Repeat, act).await
    }

    /// Sets a user's rate limit tier; `None` is the default one. Binds for the very next call.
    ///
    /// # Errors
    /// [`OperatorsError::NoTier`], [`OperatorsError::NoUser`]
    pub async fn set_tier(
        &self,
        user: UserId,
        tier: Option<String>,
        origin: Origin,
    ) -> Result<(), OperatorsError> {
        if tier.as_ref().is_some_and(|tier| !self.tiers.contains(tier)) {
            let known: Vec<&str> = self.tiers.iter().map(String::as_str).collect();
            return Err(OperatorsError::NoTier { known: known.join(", ") });
        }
        let act = self.act(origin, user, ActKind::TierSet);
        let act = act.with(tier.clone().unwrap_or_else(|| "default".to_owned()));
        if !self.store.set_tier(user, tier, act).await? {
            return Err(OperatorsError::NoUser);
        }
        let accounts = self.store.accounts_of(user).await?;
        tables_are_whole(&self.gateway).await?;
        for key in self.store.list_keys(accounts, None).await? {
            self.gateway.keys.forget(key.digest);
            for former in self.store.former_values(key.id).await? {
                self.gateway.keys.forget(former);
            }
        }
        Ok(())
    }

    /// Ends every session of a user, for the very next request; how many?
    ///
    /// # Errors
    /// [`OperatorsError::NoUser`]
    pub async fn end_sessions(
        &self,
        user: UserId,
        reason: String,
        origin: Origin,
    ) -> Result<u64, OperatorsError> {
        self.find(user).await?;
        let act = self.act(origin, user, ActKind::SessionsEnded).with(reason);
        Ok(self.store.end_sessions(user, act).await?)
    }

    /// The audit log, latest first: of one user, or of all.
    ///
    /// # Errors
    /// [`OperatorsError::Store`]
    pub async fn acts(
        &self,
        user: Option<UserId>,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<Act>, OperatorsError> {
        Ok(self.store.list_acts(user, before, limit).await?)
    }

    fn act(&self, origin: Origin, user: UserId, kind: ActKind) -> Act {
        origin.act(Uuid::now_v7(), user, kind, self.gateway.clock.now())
    }
}
