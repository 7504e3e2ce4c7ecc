//! Accounts that top themselves up: below a threshold, by a saved payment method, up to so much a month.
//!
//! Looked at every few seconds, by what is on record: nothing to be forgotten by a crash, and nothing on the way of a
//! paid call. One payment of an account is under way at a time; the database has a constraint for it.

use uuid::Uuid;

use super::begin::Payer;
use super::stripe::{self, is_whole_cents};
use super::{Payments, PaymentsError};
use crate::domain::{ActKind, Actor, Credits, Origin, PaymentStatus, Timestamp, UserId};
use crate::store::payments::AutoTopUp;

/// Failures in a row after which it is switched off.
const FAILURES_MAX: i32 = 3;
/// Between a failure and the next try.
const PAUSE_MICROS: i64 = 3_600 * 1_000_000;

/// What an account holder asks for.
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

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchedOff {
    /// Whose account tops itself up no longer.
    pub user: UserId,
    /// Why the last try failed.
    pub why: String,
}

impl Payments {
    /// The rule after which a user's live account tops itself up.
    ///
    /// # Errors
    /// [`PaymentsError`]
    pub async fn auto_top_up(&self, user: UserId) -> Result<Option<AutoTopUp>, PaymentsError> {
        let account = self.store.accounts_of(user).await?.live;
        Ok(self.store.find_auto_top_up(account).await?)
    }

    /// Sets that rule.
    ///
    /// # Errors
    /// [`PaymentsError::NoMethod`] where the method is not saved, [`PaymentsError::AmountOfProvider`].
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
        let account = self.store.accounts_of(user).await?.live;
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

    /// Tops up the accounts that are due; answers those that do so no longer, to be told.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database.
    pub async fn top_up_accounts(&self) -> Result<Vec<SwitchedOff>, PaymentsError> {
        let mut switched_off = Vec::new();
        if self.stripe.is_none() {
            return Ok(switched_off);
        }
        let now = self.gateway.clock.now();
        let month_start = now.day().month().starts_at();
        for rule in self.store.auto_top_ups_due(now, month_start).await? {
            if let Err(why) = self.top_up_by(&rule).await {
                let failures = rule.failures.saturating_add(1);
                let is_enabled = failures < FAILURES_MAX;
                let pause = PAUSE_MICROS.saturating_mul(i64::from(failures));
                let not_before = now.plus_micros(pause);
                tracing::warn!(account = %rule.account, why, failures, "an account was not topped up");
                let account = rule.account;
                self.store.note_auto_top_up(account, failures, not_before, is_enabled).await?;
                if !is_enabled {
                    switched_off.push(SwitchedOff { user: rule.user, why });
                }
            } else if rule.failures > 0 {
                self.store.note_auto_top_up(rule.account, 0, now, true).await?;
            }
        }
        Ok(switched_off)
    }

    async fn top_up_by(&self, rule: &AutoTopUp) -> Result<(), String> {
        let text = |error: PaymentsError| error.to_string();
        let origin = Origin::local(Actor::Server);
        let payer = Payer { user: rule.user, email: String::new(), origin };
        let method = Some(rule.method.clone());
        let (account, amount) = (rule.account, rule.amount);
        let opened = self.open(account, stripe::NAME, amount, method, true, None, &payer).await;
        let opened = opened.map_err(text)?;
        match self.reconcile(opened.id, None).await {
            Ok(payment) if payment.status == PaymentStatus::Failed => {
                Err(payment.failure.unwrap_or_default())
            }
            // Not known yet is no failure: it is asked about again, and nothing else is begun before.
            Ok(_) | Err(PaymentsError::Unreachable(_)) => Ok(()),
            Err(error) => Err(text(error)),
        }
    }
}
