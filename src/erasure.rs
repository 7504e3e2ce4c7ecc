//! The erasure of a user, by themselves.
//!
//! First no payment may begin any more. Then the owner of the live account decides, and the ledger
//! writer writes the whole erasure in the transaction of that decision. So a crash leaves all of it
//! undone, or done. What was begun and not decided is taken back: by this process, later by a job,
//! or at the next start.
//!
//! What cannot be had back comes last: only then Stripe deletes the user's cards. It is tried until
//! Stripe has done it.

use std::time::Duration;

use uuid::Uuid;

use crate::access::AccessError;
use crate::actors::AccountError;
use crate::auth::Users;
use crate::auth::sessions::CurrentSession;
use crate::auth::users::{Device, UsersError};
use crate::payments::Payments;
use crate::pipeline::Gateway;
use crate::store::StoreError;
use crate::store::accounts::UserAccounts;
use crate::store::users::{ErasureBegun, Role, User};
use domain::api_key::KeyDigest;
use domain::{AccountStatus, ActKind, Actor, Credits, Erasure, NotErasable};

/// How long somebody who is erased waits for Stripe. What is not done then is done later.
const PROVIDER_PATIENCE: Duration = Duration::from_secs(5);

/// Why a user was not erased.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    /// An operator must be an ordinary user first.
    #[error("the user is an operator")]
    Operator,
    /// A payment is on its way.
    #[error("a payment is on its way")]
    PaymentOpen,
    /// The account changed at the same time.
    #[error("the account was changed at the same time")]
    Changed,
    /// See [`NotErasable`].
    #[error(transparent)]
    NotErasable(NotErasable),
    /// It is not the user who asks.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The account cannot be reached.
    #[error(transparent)]
    Account(#[from] AccessError),
}

/// What a user sends to be erased.
pub struct ErasureRequest {
    /// Their password once more.
    pub password: String,
    /// A code, if they have a second factor.
    pub code: Option<String>,
    /// Do they give up what is on their live account?
    pub gives_up_balance: bool,
}

/// Erases a user for good. Answers the balance that they have given up.
///
/// # Errors
/// [`ErasureError`]
pub async fn erase(
    users: &Users,
    payments: &Payments,
    current: &CurrentSession,
    request: ErasureRequest,
    device: &Device,
) -> Result<Credits, ErasureError> {
    let ErasureRequest { password, code, gives_up_balance } = request;
    let (user, gateway) = (&current.user, &payments.gateway);
    users.assert_themselves(current, password, code.as_deref(), device).await?;
    if user.role == Role::Admin {
        return Err(ErasureError::Operator);
    }
    let mark = match users.store.begin_erasure(user, gateway.clock.now()).await? {
        ErasureBegun::Begun(mark) => mark,
        ErasureBegun::PaymentOpen => return Err(ErasureError::PaymentOpen),
        ErasureBegun::Changed => return Err(ErasureError::Changed),
    };
    failpoint!("erasure-begun");
    let erased = go_on(users, payments, user, gives_up_balance, device).await;
    if let Err(error) = &erased
        && !matches!(error, ErasureError::Account(AccessError::Unknown))
        && let Err(error) = users.store.undo_erasure(user.id, mark).await
    {
        tracing::error!(%error, user = %user.id, "an erasure that was refused keeps payments from beginning");
    }
    erased
}

async fn go_on(
    users: &Users,
    payments: &Payments,
    user: &User,
    gives_up: bool,
    device: &Device,
) -> Result<Credits, ErasureError> {
    let gateway = &payments.gateway;
    let accounts = users.store.accounts_of(user.id).await?;
    let lease = gateway.account(accounts.live).await?;
    // A change of a key that is in the journal alone would be written after its end.
    gateway.tables_up_to_date().await?;
    let values = key_values(users, accounts).await?;
    let at = gateway.clock.now();
    let erasure = Erasure::new(user.id, Uuid::new_v4(), at);
    let origin = device.origin(Actor::User(user.id));
    let act = origin.act(Uuid::now_v7(), user.id, ActKind::UserErased, at);
    let act = move |given_up: Credits| act.with(format!("${given_up} given up"));
    let decided = lease.erase(erasure, gives_up, act).await.map_err(|error| match error {
        AccountError::Refused(refused) => ErasureError::NotErasable(refused),
        AccountError::Gone => ErasureError::Account(AccessError::Unknown),
    })?;
    let given_up = gateway.recorded(decided, ()).await?;
    failpoint!("erasure-on-record");
    for value in values {
        gateway.keys.forget(value);
    }
    if let Err(error) = end_in_memory(users, gateway, user, accounts).await {
        tracing::error!(%error, user = %user.id, "an erased user is not forgotten everywhere before the next start");
    }
    users.tell_of_erasure(user);
    let forgotten = payments.forget_customer(user.id);
    match tokio::time::timeout(PROVIDER_PATIENCE, forgotten).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, user = %user.id, "an erased user is not deleted at Stripe yet");
        }
        Err(_) => tracing::warn!(user = %user.id, "an erased user is not deleted at Stripe yet"),
    }
    Ok(given_up)
}

/// Every value of the user's keys that may be in memory.
async fn key_values(users: &Users, accounts: UserAccounts) -> Result<Vec<KeyDigest>, StoreError> {
    let mut values = Vec::new();
    for key in users.keys.list(accounts, None).await? {
        values.push(key.digest);
        values.extend(users.keys.list_former_values(key.id).await?);
    }
    Ok(values)
}

/// Tells those who have the user in memory. The tables say it already.
async fn end_in_memory(
    users: &Users,
    gateway: &Gateway,
    user: &User,
    accounts: UserAccounts,
) -> Result<(), AccessError> {
    let test = gateway.account(accounts.test).await?;
    let suspended = test.set_status(AccountStatus::Suspended, None).await?;
    gateway.recorded(suspended, ()).await?;
    users.store.forget_webhooks(user.id).await?;
    Ok(())
}
