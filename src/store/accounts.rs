//! Accounts as their actors load them.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder as _, QuerySelect as _,
};

use super::{Store, StoreError};
use crate::domain::audit::check_loaded;
use crate::domain::limits::WindowCounter;
use crate::domain::{
    AccountId, AccountState, AccountStatus, Credits, Day, Environment, KeyId, KeySpend, KeyState,
    Link, Month, SpendingLimits, StoredAccount, Timestamp, UserId,
};
use entity::{account, api_key, key_spend, ledger_entry};

/// A user's two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAccounts {
    /// Real credits.
    pub live: AccountId,
    /// Test credits.
    pub test: AccountId,
}

impl UserAccounts {
    /// The account of an environment.
    #[must_use]
    pub fn of(self, environment: Environment) -> AccountId {
        match environment {
            Environment::Live => self.live,
            Environment::Test => self.test,
        }
    }
}

impl Store {
    /// The account with its keys, counters and open holds, as the last committed batch left it. The time of
    /// holds of another epoch than `epoch` is over.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where there is no such account or a row makes no sense,
    /// [`StoreError::Quarantined`] where its rows do not agree with one another.
    pub async fn load_account(
        &self,
        id: AccountId,
        epoch: i64,
    ) -> Result<AccountState, StoreError> {
        self.run(move |store| async move {
            failpoint!("load-before");
            let snapshot = store.snapshot().await?;
            let row = account::Entity::find_by_id(id.0)
                .one(&snapshot)
                .await?
                .ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
            let keys = load_keys(&snapshot, id).await?;
            let holds = super::holds::load(&snapshot, id, epoch).await?;
            failpoint!("load-read");
            let stored = stored(&row)?;
            let last = ledger_entry::Entity::find()
                .filter(ledger_entry::Column::AccountId.eq(id.0))
                .order_by_desc(ledger_entry::Column::Seq)
                .limit(2)
                .all(&snapshot)
                .await?;
            let last = last.iter().map(super::ledger::entry).collect::<Result<Vec<_>, _>>()?;
            snapshot.rollback().await?;
            let held =
                holds.iter().try_fold(Credits::ZERO, |sum, hold| sum.checked_add(hold.amount));
            check_loaded(&stored, &last, held.unwrap_or(Credits::MAX))
                .map_err(|what| StoreError::Quarantined { account: id, what })?;
            Ok(AccountState::load(stored, epoch, keys, &holds))
        })
        .await
    }

    /// The two accounts of a user.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn accounts_of(&self, user: UserId) -> Result<UserAccounts, StoreError> {
        self.run(move |store| async move {
            let rows = account::Entity::find()
                .filter(account::Column::UserId.eq(user.0))
                .all(&store.read)
                .await?;
            let of = |environment: Environment| {
                rows.iter()
                    .find(|row| row.environment == environment.code())
                    .map(|row| AccountId(row.id))
                    .ok_or_else(|| {
                        StoreError::Corrupt(format!("{user} has no {} account", environment.name()))
                    })
            };
            Ok(UserAccounts { live: of(Environment::Live)?, test: of(Environment::Test)? })
        })
        .await
    }

    /// When the last entry of an account was written, or the account was made.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn account_updated_at(&self, id: AccountId) -> Result<Timestamp, StoreError> {
        self.run(move |store| async move {
            let row = account::Entity::find_by_id(id.0).one(&store.read).await?;
            let row =
                row.ok_or_else(|| StoreError::Corrupt(format!("there is no account {id}")))?;
            Ok(Timestamp::from_micros(row.updated_at))
        })
        .await
    }
}

/// An account's own row.
pub(super) fn stored(row: &account::Model) -> Result<StoredAccount, StoreError> {
    let id = AccountId(row.id);
    let corrupt = |what| StoreError::Corrupt(format!("account {id} has an unknown {what}"));
    Ok(StoredAccount {
        id,
        environment: Environment::from_code(row.environment)
            .ok_or_else(|| corrupt("environment"))?,
        status: AccountStatus::from_code(row.status).ok_or_else(|| corrupt("status"))?,
        balance: Credits::from_nanos(row.balance),
        seq: row.seq,
        // A link of another length is no link, and agrees with no ledger.
        link: Link::from_slice(&row.link).unwrap_or(Link([0xff; 32])),
    })
}

/// The keys of an account with what they have spent.
async fn load_keys(
    connection: &impl ConnectionTrait,
    id: AccountId,
) -> Result<Vec<KeyState>, StoreError> {
    let keys = api_key::Entity::find()
        .filter(api_key::Column::AccountId.eq(id.0))
        .filter(api_key::Column::IsDeleted.eq(false))
        .all(connection)
        .await?;
    let spends = spends_of(connection, &keys).await?;
    Ok(keys.iter().map(|key| key_state(key, spends.get(&KeyId(key.id)))).collect())
}

/// What these keys have spent, for those that were ever used.
pub(super) async fn spends_of(
    connection: &impl ConnectionTrait,
    keys: &[api_key::Model],
) -> Result<BTreeMap<KeyId, KeySpend>, StoreError> {
    let mut spends = BTreeMap::new();
    // In pieces, to stay below the databases' bind limits.
    for piece in keys.chunks(500) {
        let rows = key_spend::Entity::find()
            .filter(key_spend::Column::KeyId.is_in(piece.iter().map(|key| key.id)))
            .all(connection)
            .await?;
        spends.extend(rows.iter().map(|row| (KeyId(row.key_id), key_spend_of(row))));
    }
    Ok(spends)
}

fn key_state(key: &api_key::Model, spend: Option<&KeySpend>) -> KeyState {
    let limits = SpendingLimits {
        per_request: key.per_request_limit.map(Credits::from_nanos),
        daily: key.daily_limit.map(Credits::from_nanos),
        monthly: key.monthly_limit.map(Credits::from_nanos),
    };
    let mut state = KeyState::new(KeyId(key.id), limits);
    state.is_revoked = key.is_revoked;
    if let Some(spend) = spend {
        state.day = WindowCounter::stored(spend.day, spend.day_spent);
        state.month = WindowCounter::stored(spend.month, spend.month_spent);
        state.last_used_at = spend.last_used_at;
    }
    state
}

/// The counters of a key as stored.
fn key_spend_of(row: &key_spend::Model) -> KeySpend {
    KeySpend {
        key: KeyId(row.key_id),
        day: Day(row.day),
        day_spent: Credits::from_nanos(row.day_spent),
        month: Month(row.month),
        month_spent: Credits::from_nanos(row.month_spent),
        last_used_at: row.last_used_at.map(Timestamp::from_micros),
    }
}
