//! The operations of operators on other users' accounts. Each is recorded in the audit log.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use crate::access::AccessError;
use crate::actors::AccountError;
use crate::auth::Users;
use crate::auth::users::UsersError;
use crate::idempotency::{First, IdempotencyError, Made, Once};
use crate::pipeline::Gateway;
use crate::store::audit_log::{ActFilter, AuditLogStore};
use crate::store::keys::{KeyListing, KeyStore};
use crate::store::users::{DaysGrant, ListedUser, User, UserSearch, UserStore};
use crate::store::{Store, StoreError};
use domain::window::Day;
use domain::{
    AccountStatus, Act, ActKind, Adjustment, Credits, Decline, Environment, Origin, Snapshot,
    UserId,
};

mod correct;
mod failing;
mod find;
mod security;

pub use correct::{Corrected, Correction};
pub use find::{FoundOwner, FoundThing};

/// Why an operator's request failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such user.
    #[error("no such user")]
    NoUser,
    /// The settings have no tier of this name.
    #[error("no such tier; the tiers are {known}")]
    NoTier {
        /// The names there are.
        known: String,
    },
    /// The adjustment takes more than is available, or gives more than an account can hold.
    #[error("the account does not take this amount")]
    Amount {
        /// The available balance.
        available: Option<Credits>,
    },
    /// The grant is larger than any may be.
    #[error("the grant is above {max}")]
    GrantTooLarge {
        /// The largest grant.
        max: Credits,
    },
    /// The operator's grants of today would be more than they may be.
    #[error("the grants of the day would be above {max}")]
    DaysGrants {
        /// The most in a day.
        max: Credits,
        /// What was granted today.
        granted: Credits,
    },
    /// The user has no such charge.
    #[error("no such charge")]
    NoCharge,
    /// The charge was corrected for the same reason by another amount.
    #[error("the charge was corrected for this reason by {before}")]
    CorrectedOtherwise {
        /// By how much.
        before: String,
    },
    /// More would be given back than the charge has taken.
    #[error("the charge has taken {left}")]
    AboveCharge {
        /// What it has taken, without what was given back.
        left: Credits,
    },
    /// Nobody else is an operator who can act.
    #[error("the last operator")]
    LastOperator,
    /// It is done to an operator, and only the command line may.
    #[error("the user is an operator")]
    OfOperator,
    /// The address counts as proved already.
    #[error("the address is proved")]
    Verified,
    /// The address is not proved.
    #[error("the address is not proved")]
    NotVerified,
    /// See [`UsersError`].
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The user has erased the account.
    #[error("the user is erased")]
    Erased,
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
    Account(#[from] AccessError),
}

/// A user as operators see them.
pub struct UserView {
    /// The user.
    pub user: User,
    /// The state of the accounts: live, then test.
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

/// How much an operator may grant to live accounts.
#[derive(Clone, Copy, Debug)]
pub struct GrantCaps {
    /// At once.
    pub each: Credits,
    /// In a UTC day.
    pub day: Credits,
}

/// See the module.
pub struct Admin {
    /// Users.
    pub users: UserStore,
    /// What is done to their security.
    pub people: Arc<Users>,
    /// API keys.
    pub keys: KeyStore,
    /// Who did what.
    pub audit_log: AuditLogStore,
    /// The charges of calls.
    pub store: Store,
    /// The accounts.
    pub gateway: Arc<Gateway>,
    /// The tiers there are.
    pub tiers: BTreeSet<String>,
    /// How much may be granted.
    pub grant_caps: GrantCaps,
    /// The turn of the one who corrects a charge.
    pub corrections: tokio::sync::Mutex<()>,
}

impl AdminError {
    /// Why an account was not adjusted.
    fn of_adjustment(error: AccountError<Decline>) -> Self {
        match error {
            AccountError::Refused(Decline::AccountSuspended) => AdminError::AccountClosed,
            AccountError::Refused(Decline::InsufficientCredits { available, .. }) => {
                AdminError::Amount { available: Some(available) }
            }
            AccountError::Refused(_) => AdminError::Amount { available: None },
            AccountError::Gone => AdminError::Account(AccessError::Unknown),
        }
    }
}

impl Admin {
    /// Users that match a search.
    pub async fn users(
        &self,
        search: UserSearch,
        origin: Origin,
    ) -> Result<Vec<ListedUser>, AdminError> {
        self.gateway.tables_up_to_date().await?;
        let users = self.users.list(search).await?;
        let read = users.iter().map(|listed| listed.user.id);
        self.record_reads(read, "in a list of users", &origin).await?;
        Ok(users)
    }

    /// Records that an operator has read of these users. What is not on record is not shown.
    async fn record_reads(
        &self,
        users: impl Iterator<Item = UserId>,
        what: &str,
        origin: &Origin,
    ) -> Result<(), AdminError> {
        let others = users.filter(|user| origin.actor.person() != Some(*user));
        let read = |user| self.act(origin.clone(), user, ActKind::UserRead).with(what);
        let acts: Vec<Act> = others.map(read).collect();
        if acts.is_empty() { Ok(()) } else { Ok(self.audit_log.record_all(acts).await?) }
    }

    /// One user with their accounts and keys.
    pub async fn user(&self, id: UserId, origin: Origin) -> Result<UserView, AdminError> {
        let user = self.find(id).await?;
        let accounts = self.users.accounts_of(id).await?;
        let look = async |environment: Environment| -> Result<_, AdminError> {
            let lease = self.gateway.account(accounts.of(environment)).await?;
            let looked = lease.look(None).await.map_err(AccessError::from)?;
            Ok((environment, self.gateway.recorded(looked, ()).await?))
        };
        let accounts_seen = [look(Environment::Live).await?, look(Environment::Test).await?];
        self.gateway.tables_up_to_date().await?;
        let keys = self.keys.list(accounts, None).await?;
        self.record_reads([id].into_iter(), "user, accounts and API keys", &origin).await?;
        Ok(UserView { user, accounts: accounts_seen, keys })
    }

    async fn find(&self, id: UserId) -> Result<User, AdminError> {
        self.users.find(id).await?.ok_or(AdminError::NoUser)
    }

    /// The user, if they have not erased the account.
    async fn find_present(&self, id: UserId) -> Result<User, AdminError> {
        let user = self.find(id).await?;
        if user.is_erased { Err(AdminError::Erased) } else { Ok(user) }
    }

    /// Suspends or resumes both accounts of a user. Binds for the very next call. A suspension ends
    /// every session; the user may log in again, to read and to end things.
    pub async fn set_status(
        &self,
        user: UserId,
        status: AccountStatus,
        reason: String,
        origin: Origin,
    ) -> Result<(), AdminError> {
        self.find_present(user).await?;
        let kind = match status {
            AccountStatus::Open => ActKind::AccountsResumed,
            AccountStatus::Suspended => ActKind::AccountsSuspended,
        };
        let accounts = self.users.accounts_of(user).await?;
        for environment in [Environment::Live, Environment::Test] {
            let act = self.act(origin.clone(), user, kind).to(environment.name());
            let lease = self.gateway.account(accounts.of(environment)).await?;
            let set = lease.set_status(status, Some(act.with(reason.clone()))).await;
            self.gateway.recorded(set.map_err(AccessError::from)?, ()).await?;
        }
        if status == AccountStatus::Suspended {
            self.end_sessions(user, reason, origin).await?;
        }
        Ok(())
    }

    /// Gives a user credits without a payment, or takes available credits, once for each
    /// idempotency key. What an operator grants to live accounts is limited.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn change_credits(
        &self,
        operator: UserId,
        change: CreditsChange,
        once: Option<Once<CreditsChange>>,
        origin: Origin,
    ) -> Result<Made<CreditsChange>, AdminError> {
        self.find_present(change.user).await?;
        // The operator's own keys of idempotency, not the user's.
        let operators = self.users.accounts_of(operator).await?.live;
        let act = async move |first: First<CreditsChange>| {
            let (environment, adjustment) = (change.environment, change.adjustment);
            let counted = self.count_given(operator, environment, adjustment).await?;
            let changed = self.adjust(change, first, origin).await;
            if let (Err(error), Some((day, amount))) = (&changed, counted)
                && !matches!(error, AdminError::Account(AccessError::Unknown))
            {
                self.uncount_given(operator, day, amount).await;
            }
            changed
        };
        self.gateway.idempotency.run(operators, once, AdminError::Repeat, act).await
    }

    /// Counts a grant to a live account toward its operator's day. Test credits buy nothing.
    async fn count_given(
        &self,
        operator: UserId,
        environment: Environment,
        adjustment: Adjustment,
    ) -> Result<Option<(Day, Credits)>, AdminError> {
        let (Adjustment::Grant(amount), Environment::Live) = (adjustment, environment) else {
            return Ok(None);
        };
        let GrantCaps { each, day: max } = self.grant_caps;
        if amount > each {
            return Err(AdminError::GrantTooLarge { max: each });
        }
        let day = self.gateway.clock.now().day();
        match self.users.count_grant(operator, day, amount, max).await? {
            DaysGrant::Counted => Ok(Some((day, amount))),
            DaysGrant::TooMuch { granted } => Err(AdminError::DaysGrants { max, granted }),
        }
    }

    /// Takes a grant out of the count that was refused.
    async fn uncount_given(&self, operator: UserId, day: Day, amount: Credits) {
        if let Err(error) = self.users.uncount_grant(operator, day, amount).await {
            tracing::warn!(%error, "a grant that was refused counts toward its day");
        }
    }

    async fn adjust(
        &self,
        change: CreditsChange,
        first: First<CreditsChange>,
        origin: Origin,
    ) -> Result<CreditsChange, AdminError> {
        let CreditsChange { user, environment, adjustment, .. } = change;
        let (kind, amount) = match adjustment {
            Adjustment::Grant(amount) => (ActKind::CreditsGranted, amount),
            Adjustment::Take(amount) => (ActKind::CreditsTaken, amount),
        };
        let act = self.act(origin, user, kind).to(environment.name());
        let act = act.with(format!("${amount}: {}", change.reason));
        let answer = first.record(act.id, &change, act.at);
        let account = self.users.accounts_of(user).await?.of(environment);
        let lease = self.gateway.account(account).await?;
        let adjusted = lease.adjust(user.0, adjustment, answer, Some(act)).await;
        let receipt = adjusted.map_err(AdminError::of_adjustment)?;
        self.gateway.recorded(receipt, first).await?;
        Ok(change)
    }

    /// Sets a user's rate limit tier; `None` is the default one. Binds for the very next call.
    ///
    /// # Errors
    /// [`AdminError::NoTier`], [`AdminError::NoUser`]
    pub async fn set_tier(
        &self,
        user: UserId,
        tier: Option<String>,
        origin: Origin,
    ) -> Result<(), AdminError> {
        if tier.as_ref().is_some_and(|tier| !self.tiers.contains(tier)) {
            let known: Vec<&str> = self.tiers.iter().map(String::as_str).collect();
            return Err(AdminError::NoTier { known: known.join(", ") });
        }
        self.find_present(user).await?;
        let act = self.act(origin, user, ActKind::TierSet);
        let act = act.with(tier.clone().unwrap_or_else(|| "default".to_owned()));
        if !self.users.set_tier(user, tier, act).await? {
            return Err(AdminError::NoUser);
        }
        let accounts = self.users.accounts_of(user).await?;
        self.gateway.tables_up_to_date().await?;
        for key in self.keys.list(accounts, None).await? {
            self.gateway.keys.forget(key.digest);
            for former in self.keys.list_former_values(key.id).await? {
                self.gateway.keys.forget(former);
            }
        }
        Ok(())
    }

    /// Ends every session of a user, for the very next request; how many?
    pub async fn end_sessions(
        &self,
        user: UserId,
        reason: String,
        origin: Origin,
    ) -> Result<u64, AdminError> {
        self.find(user).await?;
        let act = self.act(origin, user, ActKind::SessionsEnded).with(reason);
        Ok(self.users.end_sessions(user, act).await?)
    }

    /// The audit log, latest first: of one user, or of all.
    pub async fn acts(
        &self,
        user: Option<UserId>,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<Act>, AdminError> {
        // A change of a key is on record in the journal first, and what says who did it with it.
        self.gateway.tables_up_to_date().await?;
        Ok(self.audit_log.list(user, before, limit).await?)
    }

    /// A page for an operator, who may read of everybody, and the act from which the next one goes
    /// on. That is recorded too: with the user, or with the operator if it is of all users.
    pub async fn acts_for_operator(
        &self,
        filter: ActFilter,
        before: Option<Uuid>,
        limit: u64,
        origin: Origin,
    ) -> Result<(Vec<Act>, Option<Uuid>), AdminError> {
        let user = filter.user;
        self.gateway.tables_up_to_date().await?;
        let acts = self.audit_log.search(filter, before, limit).await?;
        match user {
            // Of nobody there is nothing to read.
            Some(user) if self.users.find(user).await?.is_none() => {}
            Some(user) => {
                self.record_reads([user].into_iter(), "audit log", &origin).await?;
            }
            None => {
                if let Some(operator) = origin.actor.person() {
                    let act = self.act(origin, operator, ActKind::UserRead);
                    self.audit_log.record(act.with("audit log of all users")).await?;
                }
            }
        }
        Ok(acts)
    }

    fn act(&self, origin: Origin, user: UserId, kind: ActKind) -> Act {
        origin.act(Uuid::now_v7(), user, kind, self.gateway.clock.now())
    }
}
