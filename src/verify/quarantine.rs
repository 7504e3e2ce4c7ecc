//! Accounts that are blocked because their records disagree, and their release by an operator once
//! the records agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::{AccountCheck, check_account};
use crate::access::AccessError;
use crate::actors::account::directory::{DirectoryError, Quarantined};
use crate::pipeline::Gateway;
use crate::store::{Store, StoreError};
use domain::{AccountId, Act, ActKind, Environment, Origin, Timestamp, UserId};

/// How long a list waits for the checks of its accounts. What has not ended by then is told later.
const CHECKS_MAX: Duration = Duration::from_secs(5);
/// For how long a check is not made again to show the list, in microseconds.
const CHECK_MICROS: i64 = 60_000_000;
/// Why an account is quarantined that no call has met since the start.
const REFUSED: &str = "the tables refuse entries of it that are in the journal";

/// Why a quarantined account was not released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The account is not quarantined.
    #[error("the account is not quarantined")]
    NotQuarantined,
    /// Its records do not agree yet.
    #[error("the records of the account do not agree: {first}")]
    Disagrees {
        /// The first thing that is wrong.
        first: String,
        /// How many more things are.
        more: usize,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// As of keys.
    #[error(transparent)]
    Account(#[from] AccessError),
}

/// A quarantined account, as an operator sees it.
#[derive(Clone, Debug)]
pub struct BlockedAccount {
    /// The account.
    pub account: AccountId,
    /// Whose it is; `None` if it does not exist.
    pub owner: Option<(UserId, Environment)>,
    /// Since when this process has known it; `None` if no call has met it since the start.
    pub since: Option<Timestamp>,
    /// Why it cannot be loaded.
    pub what: String,
    /// What a check of all its entries has found; `None` if that has not ended yet.
    pub check: Option<AccountCheck>,
}

/// An account, and since when it is blocked.
type Blocked = (AccountId, Option<Timestamp>);

/// See the module.
pub struct Quarantine {
    store: Store,
    gateway: Arc<Gateway>,
    /// What the checks have found, which may take a while, by account and since when it is there.
    checked: Mutex<BTreeMap<Blocked, (Timestamp, AccountCheck)>>,
}

impl Quarantine {
    /// The quarantine of the accounts of this gateway.
    #[must_use]
    pub fn new(store: Store, gateway: Arc<Gateway>) -> Self {
        Quarantine { store, gateway, checked: Mutex::default() }
    }

    /// All of it, by account: what calls have met since the start, and what the tables refuse.
    async fn all(&self) -> Result<Vec<(AccountId, Option<Timestamp>, String)>, StoreError> {
        let of_process = self.gateway.directory.list_quarantined().into_iter();
        let mut all: BTreeMap<AccountId, (Option<Timestamp>, String)> = of_process
            .map(|Quarantined { account, what, since }| (account, (Some(since), what)))
            .collect();
        for account in self.store.verifications.refused_accounts().await? {
            all.entry(account).or_insert((None, REFUSED.to_owned()));
        }
        Ok(all.into_iter().map(|(account, (since, what))| (account, since, what)).collect())
    }

    /// Quarantined accounts after this one, by number. The audit log says that the operator has
    /// read of each owner.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(
        &self,
        after: Option<AccountId>,
        limit: u64,
        origin: Origin,
    ) -> Result<Vec<BlockedAccount>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let all = self.all().await?.into_iter();
        let page: Vec<_> = all.filter(|one| Some(one.0) > after).take(limit).collect();
        let owners = page.iter().map(|(account, ..)| *account).collect();
        let owners = self.store.verifications.owners(owners).await?;
        let read: BTreeSet<UserId> = owners.values().map(|(user, _)| *user).collect();
        let acts: Vec<Act> = read
            .into_iter()
            .filter(|user| origin.actor.person() != Some(*user))
            .map(|user| self.act(origin.clone(), user, ActKind::UserRead).with("quarantine"))
            .collect();
        if !acts.is_empty() {
            self.store.audit_log.record_all(acts).await?;
        }
        let checking = async {
            for (account, since, _) in &page {
                if !self.is_checked(*account, *since) {
                    let check = check_account(&self.store, *account).await?;
                    self.keep((*account, *since), check);
                }
            }
            Ok::<_, StoreError>(())
        };
        // Else those that are left are told without.
        if let Ok(checked) = tokio::time::timeout(CHECKS_MAX, checking).await {
            checked?;
        }
        let blocked = |(account, since, what)| BlockedAccount {
            account,
            owner: owners.get(&account).copied(),
            since,
            what,
            check: self.known(account, since),
        };
        Ok(page.into_iter().map(blocked).collect())
    }

    fn known(&self, account: AccountId, since: Option<Timestamp>) -> Option<AccountCheck> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.get(&(account, since)).map(|(_, check)| check.clone())
    }

    /// Was it checked a short while ago?
    fn is_checked(&self, account: AccountId, since: Option<Timestamp>) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.gateway.clock.now().plus_micros(-CHECK_MICROS);
        checked.get(&(account, since)).is_some_and(|(at, _)| *at > old)
    }

    fn keep(&self, of: (AccountId, Option<Timestamp>), check: AccountCheck) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.retain(|(account, since), _| *account != of.0 || *since == of.1);
        checked.insert(of, (self.gateway.clock.now(), check));
    }

    /// Lets an account be used again, if a check of all its entries finds nothing and it can be
    /// loaded. Returns whose it is.
    ///
    /// # Errors
    /// [`ReleaseError`]
    pub async fn release(
        &self,
        account: AccountId,
        reason: String,
        origin: Origin,
    ) -> Result<(UserId, Environment), ReleaseError> {
        let all = self.all().await?;
        let found = all.into_iter().find(|one| one.0 == account);
        let (_, since, _) = found.ok_or(ReleaseError::NotQuarantined)?;
        let owners = self.store.verifications.owners(vec![account]).await?;
        let owner = owners.get(&account).copied().ok_or(ReleaseError::NotQuarantined)?;
        self.gateway.tables_up_to_date().await?;
        let check = check_account(&self.store, account).await?;
        self.keep((account, since), check.clone());
        if let Some((first, others)) = check.findings.split_first() {
            return Err(ReleaseError::Disagrees { first: first.clone(), more: others.len() });
        }
        let epoch = self.gateway.ledger.epoch();
        if let Err(error) = self.store.load_account(account, epoch).await {
            return Err(match error {
                StoreError::Quarantined { what, .. } => {
                    ReleaseError::Disagrees { first: what, more: 0 }
                }
                error => error.into(),
            });
        }
        let (user, environment) = owner;
        let act = self.act(origin, user, ActKind::QuarantineEnded).to(environment.name());
        self.store.audit_log.record(act.with(reason)).await?;
        self.gateway.directory.release(account);
        match self.gateway.directory.owners_lease(account).await {
            Ok(_) => Ok(owner),
            Err(DirectoryError::Quarantined) => Err(ReleaseError::Disagrees {
                first: "it was found again when the account was loaded".to_owned(),
                more: 0,
            }),
            Err(error) => Err(AccessError::from(error).into()),
        }
    }

    fn act(&self, origin: Origin, user: UserId, kind: ActKind) -> Act {
        origin.act(Uuid::now_v7(), user, kind, self.gateway.clock.now())
    }
}
