//! Credits: how they come onto an account, and what its owner sees of them.
//!
//! A payment is on record before its provider hears of it, and is credited in one transaction with its own state, so
//! once. Everything a provider says later goes through [`Payments::reconcile`].

use std::sync::Arc;

use uuid::Uuid;

use crate::idempotency::{First, IdempotencyError, Made, Once};
use crate::keys::{KeysError, on_record, serving_lease, tables_are_whole};
use crate::pipeline::Gateway;
use crate::store::Store;
use crate::store::payments::{OpenPayment, Payment, ProviderFacts};
use domain::{
    AccountId, ActKind, Credits, Decline, Environment, NewPayment, Origin, PaymentId, Snapshot,
    Timestamp, UserId,
};

pub mod auto;
pub mod begin;
pub mod provider;
mod reconcile;
pub mod stripe;
pub mod x402;

use provider::{Provider, ProviderError};
pub use reconcile::Locks;
use stripe::Stripe;
use x402::X402;

/// The provider that takes no money and confirms at once.
pub const SANDBOX: &str = "sandbox";

/// Why a payment was not made, or not found.
#[derive(Debug, thiserror::Error)]
pub enum PaymentsError {
    /// The provider is switched off, or there is none of this name.
    #[error("the payment provider {provider} is off")]
    ProviderOff {
        /// Its name.
        provider: &'static str,
    },
    /// Not between the provider's bounds, or not in whole cents.
    #[error("the amount is not one that {provider} takes")]
    AmountOfProvider {
        /// Its name.
        provider: &'static str,
        /// The smallest payment by it.
        min: Credits,
    },
    /// The provider said no.
    #[error("the payment provider refused: {0}")]
    Refused(String),
    /// The provider did not answer; the payment is on record, and will be looked after.
    #[error("the payment provider did not answer: {0}")]
    Unreachable(String),
    /// The header is no payment to us; says why.
    #[error("not a payment: {0}")]
    NotPayable(String),
    /// The user has no such saved payment method.
    #[error("no such payment method")]
    NoMethod,
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
    /// Cards, where they are taken.
    pub stripe: Option<Stripe>,
    /// The smallest payment by Stripe.
    pub stripe_amount_min: Credits,
    /// Stablecoins, where they are taken.
    pub x402: Option<X402>,
    /// One for what is done about one payment at a time.
    pub locks: Locks,
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
            return Err(PaymentsError::ProviderOff { provider: SANDBOX });
        }
        self.assert_amount(amount)?;
        let account = self.store.accounts_of(user).await?.live;
        let act = async move |first: First<Payment>| {
            let at = self.gateway.clock.now();
            let id = PaymentId(Uuid::now_v7());
            let payment = NewPayment { id, account, provider: SANDBOX, amount, at };
            let made = Payment::confirmed(&payment);
            let answer = first.record(id.0, &made, at);
            let lease = serving_lease(&self.gateway, account).await?;
            let act =
                origin.act(Uuid::now_v7(), user, ActKind::PaymentConfirmed, at).to(id.to_string());
            let act = Some(act.with(format!("${amount} by {SANDBOX}")));
            let receipt =
                lease.top_up(payment, answer, act).await.map_err(|error| match error {
                    crate::actors::AccountError::Refused(Decline::AccountClosed) => {
                        PaymentsError::AccountClosed
                    }
                    crate::actors::AccountError::Refused(_) => {
                        PaymentsError::Amount { max: self.amount_max }
                    }
                    crate::actors::AccountError::Gone => PaymentsError::Account(KeysError::Unknown),
                })?;
            on_record(&self.gateway, receipt, first).await?;
            Ok(made)
        };
        self.gateway.idempotency.run(account, once, PaymentsError::Repeat, act).await
    }

    /// The provider of payments that name none.
    #[must_use]
    pub fn default_provider(&self) -> &'static str {
        if self.is_sandbox_on || self.stripe.is_none() { SANDBOX } else { stripe::NAME }
    }

    fn assert_amount(&self, amount: Credits) -> Result<(), PaymentsError> {
        if amount <= Credits::ZERO || amount > self.amount_max {
            return Err(PaymentsError::Amount { max: self.amount_max });
        }
        Ok(())
    }

    /// The provider of this name, where it is on.
    fn provider(&self, name: &str) -> Option<&dyn Provider> {
        let stripe = self.stripe.as_ref().map(|stripe| -> &dyn Provider { stripe });
        let x402 = self.x402.as_ref().map(|x402| -> &dyn Provider { x402 });
        [stripe, x402].into_iter().flatten().find(|provider| provider.name() == name)
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
        Ok(on_record(&self.gateway, receipt, ()).await?)
    }

    /// One of the user's payments.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn get(&self, user: UserId, id: PaymentId) -> Result<Payment, PaymentsError> {
        let account = self.store.accounts_of(user).await?.live;
        let found = self.store.find_payment(id).await?;
        found.filter(|payment| payment.account == account).ok_or(PaymentsError::NotFound)
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
        let snapshot = on_record(&self.gateway, looked, ()).await?;
        tables_are_whole(&self.gateway).await?;
        Ok((snapshot, self.store.account_updated_at(account).await?))
    }

    /// One of the user's accounts, with everything that was acknowledged of it in the tables.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn whole_account(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<AccountId, PaymentsError> {
        let account = self.account(user, environment).await?;
        tables_are_whole(&self.gateway).await?;
        Ok(account)
    }

    async fn account(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<AccountId, PaymentsError> {
        Ok(self.store.accounts_of(user).await?.of(environment))
    }
}

impl From<ProviderError> for PaymentsError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Refused(why) => PaymentsError::Refused(why),
            ProviderError::Unreachable(why) => PaymentsError::Unreachable(why),
        }
    }
}

/// The body of an answer, as far as it is not too large.
async fn whole_body(mut answer: reqwest::Response, max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len().saturating_add(chunk.len()) > max {
            return Err("an answer that is too large".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
