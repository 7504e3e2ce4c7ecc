//! Payments: how credits come onto an account.
//!
//! A payment is recorded before its provider is called. It is credited in the transaction that
//! confirms it, so once. Everything a provider says later goes through [`Payments::reconcile`].

use std::sync::Arc;

use uuid::Uuid;

use crate::access::AccessError;
use crate::config::SandboxPayments;
use crate::idempotency::{First, Made, Once};
use crate::pipeline::Gateway;
use crate::store::audit_log::AuditLogStore;
use crate::store::payments::{OpenPayment, Payment, PaymentFilter, PaymentStore, ProviderFacts};
use crate::store::users::UserStore;
use domain::{ActKind, Credits, Decline, NewPayment, Origin, PaymentId, UserId};

pub mod auto;
pub mod begin;
mod error;
mod http;
pub mod operators;
pub mod provider;
mod reconcile;
pub mod stripe;
pub mod x402;

pub use error::PaymentsError;
use provider::Provider;
pub use reconcile::Locks;
use stripe::Stripe;
use x402::X402;

/// The provider that takes no money and confirms at once.
pub const SANDBOX: &str = "sandbox";

/// See the module.
pub struct Payments {
    /// Payments on record.
    pub store: PaymentStore,
    /// Users and their accounts.
    pub users: UserStore,
    /// Who did what.
    pub audit_log: AuditLogStore,
    /// The account actors.
    pub gateway: Arc<Gateway>,
    /// Who may pay by the sandbox provider. See [`Payments::given_away`].
    pub sandbox: SandboxPayments,
    /// The setting by which payments move no real money, unless it is allowed to sell for that.
    pub test_money: Option<&'static str>,
    /// The largest payment.
    pub amount_max: Credits,
    /// The initial balance of a test account.
    pub test_credits: Credits,
    /// Cards, if they are accepted.
    pub stripe: Option<Stripe>,
    /// The smallest payment by Stripe.
    pub stripe_amount_min: Credits,
    /// Stablecoins, if they are accepted.
    pub x402: Option<X402>,
    /// A lock for each payment being worked on.
    pub locks: Locks,
}

impl Payments {
    /// Pays by the sandbox, and credits the user's live account. The payment and its credit are one
    /// transaction. `is_direct` says whether the request came without a proxy.
    pub async fn pay_by_sandbox(
        &self,
        user: UserId,
        amount: Credits,
        is_direct: bool,
        once: Option<Once<Payment>>,
        origin: Origin,
    ) -> Result<Made<Payment>, PaymentsError> {
        if !self.given_away().allows(is_direct) {
            return Err(PaymentsError::ProviderOff { provider: SANDBOX });
        }
        self.assert_amount(amount)?;
        let account = self.users.accounts_of(user).await?.live;
        let act = async move |first: First<Payment>| {
            let at = self.gateway.clock.now();
            let id = PaymentId(Uuid::now_v7());
            let payment = NewPayment { id, account, provider: SANDBOX, amount, at };
            let made = Payment::confirmed(&payment);
            let answer = first.record(id.0, &made, at);
            let lease = self.gateway.account(account).await?;
            let act =
                origin.act(Uuid::now_v7(), user, ActKind::PaymentConfirmed, at).to(id.to_string());
            let act = Some(act.with(format!("${amount} by {SANDBOX}")));
            let receipt =
                lease.top_up(payment, answer, act).await.map_err(|error| match error {
                    crate::actors::AccountError::Refused(Decline::AccountSuspended) => {
                        PaymentsError::AccountClosed
                    }
                    crate::actors::AccountError::Refused(_) => {
                        PaymentsError::Amount { max: self.amount_max }
                    }
                    crate::actors::AccountError::Gone => {
                        PaymentsError::Account(AccessError::Unknown)
                    }
                })?;
            self.gateway.recorded(receipt, first).await?;
            self.gateway.metrics.sums.credit(SANDBOX, amount);
            Ok(made)
        };
        self.gateway.idempotency.run(account, once, PaymentsError::Repeat, act).await
    }

    /// Who may pay by the sandbox now. Unless it is on for everybody, nobody may once models are
    /// sold: what it gives away would buy what the operator pays for.
    #[must_use]
    pub fn given_away(&self) -> SandboxPayments {
        match self.sandbox {
            SandboxPayments::Direct if self.gateway.models.selling().has_models() => {
                SandboxPayments::Off
            }
            sandbox => sandbox,
        }
    }

    /// May payments be made? Money of a test must not buy models, which the operator pays for.
    ///
    /// # Errors
    /// [`PaymentsError::TestMoney`]
    pub(crate) fn assert_real_money(&self) -> Result<(), PaymentsError> {
        match self.test_money {
            Some(setting) if self.gateway.models.selling().has_models() => {
                Err(PaymentsError::TestMoney { setting })
            }
            _ => Ok(()),
        }
    }

    /// The provider of payments that name none.
    #[must_use]
    pub fn default_provider(&self) -> &'static str {
        if self.given_away() != SandboxPayments::Off || self.stripe.is_none() {
            SANDBOX
        } else {
            stripe::NAME
        }
    }

    fn assert_amount(&self, amount: Credits) -> Result<(), PaymentsError> {
        if amount <= Credits::ZERO || amount > self.amount_max {
            return Err(PaymentsError::Amount { max: self.amount_max });
        }
        Ok(())
    }

    /// The provider of this name, if it is on.
    fn provider(&self, name: &str) -> Option<&dyn Provider> {
        let stripe = self.stripe.as_ref().map(|stripe| -> &dyn Provider { stripe });
        let x402 = self.x402.as_ref().map(|x402| -> &dyn Provider { x402 });
        [stripe, x402].into_iter().flatten().find(|provider| provider.name() == name)
    }

    /// Refills the user's test account to its initial balance, if it has less; answers its balance.
    pub async fn reset_test(&self, user: UserId, origin: Origin) -> Result<Credits, PaymentsError> {
        let at = self.gateway.clock.now();
        let act = Some(origin.act(Uuid::now_v7(), user, ActKind::TestCreditsReset, at));
        let account = self.users.accounts_of(user).await?.test;
        let lease = self.gateway.account(account).await?;
        let receipt =
            lease.refill(user.0, self.test_credits, act).await.map_err(|error| match error {
                crate::actors::AccountError::Refused(_) => PaymentsError::AccountClosed,
                crate::actors::AccountError::Gone => PaymentsError::Account(AccessError::Unknown),
            })?;
        Ok(self.gateway.recorded(receipt, ()).await?)
    }

    /// One of the user's payments.
    pub async fn get(&self, user: UserId, id: PaymentId) -> Result<Payment, PaymentsError> {
        let account = self.users.accounts_of(user).await?.live;
        let found = self.store.find(id).await?;
        found.filter(|payment| payment.account == account).ok_or(PaymentsError::NotFound)
    }

    /// The user's payments, newest first.
    pub async fn list(
        &self,
        user: UserId,
        before: Option<PaymentId>,
        limit: u64,
        filter: PaymentFilter,
    ) -> Result<Vec<Payment>, PaymentsError> {
        let account = self.users.accounts_of(user).await?.live;
        Ok(self.store.list(account, before, limit, filter).await?)
    }
}
