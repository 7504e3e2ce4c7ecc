//! Credits: how they come onto an account, and what its owner sees of them.

use std::sync::Arc;

use uuid::Uuid;

use crate::auth::keys::{KeysError, on_record, serving_lease, tables_are_whole};
use crate::domain::{
    AccountId, ActKind, Credits, Decline, Environment, LedgerEntry, NewPayment, Origin, PaymentId,
    Snapshot, Timestamp, UserId,
};
use crate::idempotency::{Begun, IdempotencyError, Made, Once};
use crate::pipeline::Gateway;
use crate::store::Store;
use crate::store::ledger::{Payment, PaymentStatus};

/// The provider that takes no money and confirms at once.
pub const SANDBOX: &str = "sandbox";

/// Why a payment was not made, or not found.
#[derive(Debug, thiserror::Error)]
pub enum PaymentsError {
    /// The only provider there is, is switched off.
    #[error("the sandbox provider is off")]
    ProviderOff,
    /// Not between nothing and the largest payment.
    #[error("the amount is not between 0 and {max}")]
    Amount {
        /// The largest payment.
        max: Credits,
    },
    /// The account is suspended.
    #[error("the account is suspended")]
    AccountClosed,
    /// The user has no such payment, whoever else may have.
    #[error("no such payment")]
    NotFound,
    /// See [`IdempotencyError`].
    #[error(transparent)]
    Repeat(IdempotencyError),
    /// The account could not be asked; as for keys.
    #[error(transparent)]
    Account(KeysError),
}

impl<E: Into<KeysError>> From<E> for PaymentsError {
    fn from(error: E) -> Self {
        PaymentsError::Account(error.into())
    }
}

/// See the module.
pub struct Payments {
    /// The database.
    pub store: Store,
    /// The account actors.
    pub gateway: Arc<Gateway>,
    /// May the sandbox provider confirm payments?
    pub is_sandbox_on: bool,
    /// The largest payment.
    pub amount_max: Credits,
    /// What a test account begins with.
    pub test_credits: Credits,
}

impl Payments {
    /// Pays and credits the user's live account. The payment and its credit are one transaction.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn pay(
        &self,
        user: UserId,
        amount: Credits,
        once: Option<Once<Payment>>,
        origin: Origin,
    ) -> Result<Made<Payment>, PaymentsError> {
        if !self.is_sandbox_on {
            return Err(PaymentsError::ProviderOff);
        }
        if amount <= Credits::ZERO || amount > self.amount_max {
            return Err(PaymentsError::Amount { max: self.amount_max });
        }
        let account = self.store.accounts_of(user).await?.live;
        let begun = self.gateway.idempotency.begin_once(account, once.as_ref()).await;
        let claim = match begun.map_err(PaymentsError::Repeat)? {
            Some(Begun::Repeat(kept)) => return Ok(Made::Repeat(kept)),
            Some(Begun::First(claim)) => Some(claim),
            None => None,
        };
        let at = self.gateway.clock.now();
        let payment =
            NewPayment { id: PaymentId(Uuid::now_v7()), account, provider: SANDBOX, amount, at };
        let id = payment.id;
        let made = Payment {
            id,
            provider: SANDBOX.to_owned(),
            status: PaymentStatus::Confirmed,
            amount,
            created_at: at,
            confirmed_at: Some(at),
        };
        let answer = claim
            .as_ref()
            .zip(once)
            .map(|(claim, once)| claim.record(id.0, Some(&(once.answer)(&made)), at));
        let lease = serving_lease(&self.gateway, account).await?;
        let act =
            origin.act(Uuid::now_v7(), user, ActKind::PaymentConfirmed, at).to(id.to_string());
        let act = Some(act.with(format!("${amount} by {SANDBOX}")));
        let receipt = lease.top_up(payment, answer, act).await.map_err(|error| match error {
            crate::actors::AccountError::Refused(Decline::AccountClosed) => {
                PaymentsError::AccountClosed
            }
            crate::actors::AccountError::Refused(_) => {
                PaymentsError::Amount { max: self.amount_max }
            }
            crate::actors::AccountError::Gone => PaymentsError::Account(KeysError::Unknown),
        })?;
        on_record(&self.gateway, receipt, claim).await?;
        Ok(Made::New(made))
    }

    /// Brings the user's test account back to what it began with, if it has less; answers its balance.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn reset_test(&self, user: UserId, origin: Origin) -> Result<Credits, PaymentsError> {
        let at = self.gateway.clock.now();
        let act = Some(origin.act(Uuid::now_v7(), user, ActKind::TestCreditsReset, at));
        let account = self.store.accounts_of(user).await?.test;
        let lease = serving_lease(&self.gateway, account).await?;
        let receipt =
            lease.refill(user.0, self.test_credits, act).await.map_err(|error| match error {
                crate::actors::AccountError::Refused(_) => PaymentsError::AccountClosed,
                crate::actors::AccountError::Gone => PaymentsError::Account(KeysError::Unknown),
            })?;
        Ok(on_record(&self.gateway, receipt, None).await?)
    }

    /// One of the user's payments.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn get(&self, user: UserId, id: PaymentId) -> Result<Payment, PaymentsError> {
        let account = self.store.accounts_of(user).await?.live;
        self.store.find_payment(account, id).await?.ok_or(PaymentsError::NotFound)
    }

    /// The user's payments, newest first.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn list(
        &self,
        user: UserId,
        before: Option<PaymentId>,
        limit: u64,
    ) -> Result<Vec<Payment>, PaymentsError> {
        let account = self.store.accounts_of(user).await?.live;
        Ok(self.store.list_payments(account, before, limit).await?)
    }

    /// What one of the user's accounts has, and since when.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn balance(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<(Snapshot, Timestamp), PaymentsError> {
        let account = self.account(user, environment).await?;
        let lease = serving_lease(&self.gateway, account).await?;
        let looked = lease.look(None).await?;
        let snapshot = on_record(&self.gateway, looked, None).await?;
        tables_are_whole(&self.gateway).await?;
        Ok((snapshot, self.store.account_updated_at(account).await?))
    }

    /// The ledger of one of the user's accounts, newest first.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn entries(
        &self,
        user: UserId,
        environment: Environment,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<LedgerEntry>, PaymentsError> {
        let account = self.account(user, environment).await?;
        tables_are_whole(&self.gateway).await?;
        Ok(self.store.list_entries(account, before, limit).await?)
    }

    async fn account(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<AccountId, PaymentsError> {
        Ok(self.store.accounts_of(user).await?.of(environment))
    }
}
