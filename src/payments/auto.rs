//! Accounts that top themselves up: below a threshold, by a saved payment method, up to so much a
//! month.
//!
//! Checked every few seconds against the database, so a crash loses nothing and paid calls do not
//! wait. A database constraint allows one open automatic payment for each account.

use uuid::Uuid;

use super::begin::{Payer, Terms};
use super::stripe::{self, is_whole_cents};
use super::{Payments, PaymentsError};
use crate::store::payments::AutoTopUp;
use domain::{ActKind, Actor, Credits, Origin, Timestamp, UserId};

/// The rule that an account holder requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoTopUpRequest {
    /// Is it in force?
    pub is_enabled: bool,
    /// Below which balance.
    pub threshold: Credits,
    /// By how much.
    pub amount: Credits,
    /// How much at most in a UTC month.
    pub monthly_cap: Credits,
    /// What is charged.
    pub method: String,
}

/// An automatic top-up that was stopped after repeated failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoTopUpStopped {
    /// Whose account tops itself up no longer.
    pub user: UserId,
    /// Why the last try failed.
    pub why: String,
}

impl Payments {
    /// The rule after which a user's live account tops itself up.
    pub async fn auto_top_up(&self, user: UserId) -> Result<Option<AutoTopUp>, PaymentsError> {
        let account = self.users.accounts_of(user).await?.live;
        Ok(self.store.find_auto_top_up(account).await?)
    }

    /// Sets that rule.
    ///
    /// # Errors
    /// [`PaymentsError::NoMethod`] if the method is not saved; [`PaymentsError::AmountOfProvider`].
    pub async fn set_auto_top_up(
        &self,
        user: UserId,
        request: AutoTopUpRequest,
        origin: Origin,
    ) -> Result<AutoTopUp, PaymentsError> {
        let AutoTopUpRequest { is_enabled, threshold, amount, monthly_cap, method } = request;
        self.assert_amount(amount)?;
        if amount < self.stripe_amount_min || !is_whole_cents(amount) {
            let (provider, min) = (stripe::NAME, self.stripe_amount_min);
            return Err(PaymentsError::AmountOfProvider { provider, min });
        }
        if is_enabled && !self.methods(user).await?.iter().any(|saved| saved.id == method) {
            return Err(PaymentsError::NoMethod);
        }
        let account = self.users.accounts_of(user).await?.live;
        let rule = AutoTopUp {
            account,
            user,
            is_enabled,
            threshold,
            amount,
            monthly_cap,
            method,
            failures: 0,
            not_before: Timestamp::from_micros(0),
        };
        let at = self.gateway.clock.now();
        let act = origin.act(Uuid::now_v7(), user, ActKind::AutoTopUpSet, at).with(if is_enabled {
            format!("${amount} below ${threshold}, at most ${monthly_cap} a month")
        } else {
            "off".into()
        });
        self.store.set_auto_top_up(rule.clone(), act, at).await?;
        Ok(rule)
    }

    /// Tops up the accounts that are due.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database.
    pub async fn top_up_accounts(&self) -> Result<(), PaymentsError> {
        if self.stripe.is_none() {
            return Ok(());
        }
        let now = self.gateway.clock.now();
        let month_start = now.day().month().starts_at();
        for rule in self.store.list_due_auto_top_ups(now, month_start).await? {
            if let Err(error) = self.top_up_by(&rule).await {
                tracing::warn!(account = %rule.account, %error, "an account was not topped up");
            }
        }
        Ok(())
    }

    /// The automatic top-ups that were stopped after failures and whose owners are not notified
    /// yet. Marks them as notified.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database.
    pub async fn take_stopped_auto_top_ups(&self) -> Result<Vec<AutoTopUpStopped>, PaymentsError> {
        let mut given_up = Vec::new();
        for (account, user, why) in self.store.list_stopped_auto_top_ups().await? {
            self.store.mark_auto_top_up_notified(account).await?;
            given_up.push(AutoTopUpStopped { user, why });
        }
        Ok(given_up)
    }

    /// A failure is counted when the payment is recorded as failed.
    async fn top_up_by(&self, rule: &AutoTopUp) -> Result<(), PaymentsError> {
        let origin = Origin::local(Actor::Server);
        let payer = Payer { user: rule.user, email: String::new(), origin };
        let terms = Terms {
            method: Some(rule.method.clone()),
            is_auto: true,
            ..Terms::of(rule.account, stripe::NAME, rule.amount)
        };
        match self.open(terms, None, &payer).await {
            Ok(opened) => self.reconcile(opened.id, None).await.map(drop),
            // Its owner changed the rule, or paid, in between.
            Err(PaymentsError::AccountClosed) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
