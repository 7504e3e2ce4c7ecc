//! What a provider says, brought onto the record: the only way by which a payment changes after it has begun.
//!
//! One payment at a time. Whatever is done here can break off anywhere and be done again: each step is one transaction
//! that moves from a state it names, so a credit happens once.

use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::provider::{Order, Progress, ProviderError, SeenReversal, Stage};
use super::{Payments, PaymentsError, ProviderFacts};
use crate::auth::keys::{KeysError, on_record, serving_lease};
use crate::domain::{
    Act, ActKind, Actor, Credits, Origin, PaymentId, PaymentStatus, Reversal, ReversalStep,
    Timestamp,
};
use crate::store::payments::Payment;

/// How many payments are worked on at once, at most.
const LOCKS: usize = 256;
/// A payment that its provider never heard of is not begun any more after this: its idempotency key may be forgotten.
const BEGIN_MICROS_MAX: i64 = 20 * 3_600 * 1_000_000;
/// How long a provider is not asked again that has not answered: twice as long each time, up to an hour.
const LOOK_MICROS: i64 = 30_000_000;
const LOOK_MICROS_MAX: i64 = 3_600 * 1_000_000;
/// How often a provider is asked about a payment that does not end.
const LOOKS_MAX: i32 = 200;

/// One for what is done about one payment at a time.
pub struct Locks(Vec<Mutex<()>>);

impl Default for Locks {
    fn default() -> Self {
        Locks((0..LOCKS).map(|_| Mutex::default()).collect())
    }
}

impl Locks {
    pub(super) async fn of(&self, payment: PaymentId) -> Option<MutexGuard<'_, ()>> {
        let place = payment.0.as_u128().checked_rem(u128::try_from(LOCKS).ok()?)?;
        Some(self.0.get(usize::try_from(place).ok()?)?.lock().await)
    }
}

impl Payments {
    /// Asks the provider how far a payment has come, and brings that onto the record; answers the payment as it is
    /// then. `hint` is what a webhook called it.
    ///
    /// # Errors
    /// [`PaymentsError`]; what was not done is done the next time.
    pub async fn reconcile(
        &self,
        id: PaymentId,
        hint: Option<&str>,
    ) -> Result<Payment, PaymentsError> {
        let _one_at_a_time = self.locks.of(id).await;
        let payment = self.store.find_payment(id).await?.ok_or(PaymentsError::NotFound)?;
        let provider = self.provider(&payment.provider).ok_or(PaymentsError::NotFound)?;
        let now = self.gateway.clock.now();
        let is_unheard = payment.provider_ref.is_none() && hint.is_none();
        let progress = if !is_unheard || payment.status == PaymentStatus::Confirmed {
            provider.look(&payment, hint, now).await?
        } else if now.micros_since(payment.created_at) > BEGIN_MICROS_MAX {
            Progress::at(Stage::Failed("the payment provider never took it".into()))
        } else {
            self.begin_by(provider, &payment).await?
        };
        self.apply(payment, progress).await
    }

    /// Tells a provider of a payment. A refusal is the payment's end.
    pub(super) async fn begin_by(
        &self,
        provider: &dyn super::Provider,
        payment: &Payment,
    ) -> Result<Progress, PaymentsError> {
        let user = self.store.user_of(payment.account).await?;
        let customer = self.store.find_customer(user, provider.name()).await?;
        let order = Order { payment: payment.clone(), customer };
        match provider.begin(&order).await {
            Err(ProviderError::Refused(why)) => Ok(Progress::at(Stage::Failed(why))),
            answer => Ok(answer?),
        }
    }

    /// Brings a provider's word onto the record.
    pub(super) async fn apply(
        &self,
        mut payment: Payment,
        progress: Progress,
    ) -> Result<Payment, PaymentsError> {
        let Progress { provider_ref, checkout_url, stage, reversals } = progress;
        let is_named = provider_ref.is_some() && payment.provider_ref != provider_ref;
        if is_named || (checkout_url.is_some() && payment.checkout_url != checkout_url) {
            let facts = ProviderFacts { provider_ref, checkout_url };
            self.store.note_payment(payment.id, facts.clone(), None).await?;
            payment.provider_ref = facts.provider_ref.or(payment.provider_ref);
            payment.checkout_url = facts.checkout_url.or(payment.checkout_url);
        }
        let now = self.gateway.clock.now();
        match stage {
            Stage::Waiting => {}
            Stage::Confirming => {
                self.advance(&payment, PaymentStatus::Confirming, None, now).await?;
            }
            Stage::Failed(why) => {
                self.advance(&payment, PaymentStatus::Failed, Some(why), now).await?;
            }
            Stage::Expired => self.advance(&payment, PaymentStatus::Expired, None, now).await?,
            Stage::Paid(amount) if amount == payment.amount => {
                self.credit(&payment, now).await?;
                self.reverse_all(&payment, reversals, now).await?;
            }
            Stage::Paid(amount) => {
                // Not ours to guess what was meant.
                tracing::error!(payment = %payment.id, %amount, asked = %payment.amount, "a payment of another amount");
                let why = format!("${amount} were paid instead of ${}", payment.amount);
                self.advance(&payment, PaymentStatus::Failed, Some(why), now).await?;
            }
        }
        self.store.find_payment(payment.id).await?.ok_or(PaymentsError::NotFound)
    }

    async fn advance(
        &self,
        payment: &Payment,
        to: PaymentStatus,
        failure: Option<String>,
        now: Timestamp,
    ) -> Result<(), PaymentsError> {
        self.store.move_payment(payment, to, failure, now).await?;
        Ok(())
    }

    /// Credits a payment that is not credited yet.
    async fn credit(&self, payment: &Payment, now: Timestamp) -> Result<(), PaymentsError> {
        if payment.status == PaymentStatus::Confirmed {
            return Ok(());
        }
        let lease = serving_lease(&self.gateway, payment.account).await?;
        let act = self.act(payment, ActKind::PaymentConfirmed, now).await?;
        let act = act.with(format!("${} by {}", payment.amount, payment.provider));
        let credited = lease.confirm_payment(payment.id, payment.amount, Some(act)).await;
        let receipt = credited.map_err(|error| match error {
            crate::actors::AccountError::Refused(_) => {
                PaymentsError::Amount { max: self.amount_max }
            }
            crate::actors::AccountError::Gone => PaymentsError::Account(KeysError::Unknown),
        })?;
        failpoint!("payment-decided");
        on_record(&self.gateway, receipt, None).await?;
        failpoint!("payment-credited");
        Ok(())
    }

    async fn reverse_all(
        &self,
        payment: &Payment,
        seen: Vec<SeenReversal>,
        now: Timestamp,
    ) -> Result<(), PaymentsError> {
        let seen = bounded(payment, seen, now);
        let reversals = if seen.is_empty() {
            self.store.reversals_of(payment.id).await?
        } else {
            self.store.note_reversals(payment.id, seen).await?
        };
        for reversal in reversals {
            self.take_back(reversal, now).await?;
        }
        Ok(())
    }

    /// Takes what can be taken of a reversal, or gives again what is to be given again.
    async fn take_back(&self, reversal: Reversal, now: Timestamp) -> Result<(), PaymentsError> {
        if reversal.taken == reversal.wanted {
            return Ok(());
        }
        let found = self.store.find_payment(reversal.payment).await?;
        let payment = found.ok_or(PaymentsError::NotFound)?;
        let act = self.act(&payment, ActKind::PaymentReversed, now).await?;
        let detail = format!(
            "{} {}: ${} wanted, ${} taken before",
            reversal.kind.name(),
            reversal.provider_ref,
            reversal.wanted,
            reversal.taken
        );
        let lease = serving_lease(&self.gateway, reversal.account).await?;
        let (wanted, account) = (reversal.wanted, reversal.account);
        let reversed = lease.reverse(reversal.clone(), Some(act.with(detail))).await;
        let receipt = reversed.map_err(|error| match error {
            crate::actors::AccountError::Refused(_) => {
                PaymentsError::Amount { max: self.amount_max }
            }
            crate::actors::AccountError::Gone => PaymentsError::Account(KeysError::Unknown),
        })?;
        let step = on_record(&self.gateway, receipt, None).await?;
        let taken = step.map_or(reversal.taken, |step| reversal.taken_after(step));
        if taken < wanted && matches!(step, Some(ReversalStep::Take(_))) {
            let outstanding = wanted.less(taken);
            tracing::warn!(%account, %outstanding, "credits of a reversed payment are spent already");
        }
        failpoint!("payment-reversed");
        Ok(())
    }

    async fn act(
        &self,
        payment: &Payment,
        kind: ActKind,
        now: Timestamp,
    ) -> Result<Act, PaymentsError> {
        let user = self.store.user_of(payment.account).await?;
        let origin = Origin::local(Actor::Server);
        Ok(origin.act(Uuid::now_v7(), user, kind, now).to(payment.id.to_string()))
    }

    /// Asks about the payments whose providers are to be asked by now, and takes what is still to be taken back.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database; a provider that does not answer is asked again later.
    pub async fn look_after(&self) -> Result<(), PaymentsError> {
        let now = self.gateway.clock.now();
        for payment in self.store.payments_to_look_at(now).await? {
            let doubled =
                LOOK_MICROS.checked_shl(u32::try_from(payment.looks).unwrap_or(0).min(20));
            let pause = doubled.unwrap_or(LOOK_MICROS_MAX).clamp(LOOK_MICROS, LOOK_MICROS_MAX);
            let next = (payment.looks < LOOKS_MAX).then(|| now.plus_micros(pause));
            if next.is_none() {
                tracing::error!(payment = %payment.id, "a payment does not end; a person must look at it");
            }
            // First: a payment that makes trouble must not be asked about all the time.
            self.store.look_again(payment.id, next).await?;
            if let Err(error) = self.reconcile(payment.id, None).await {
                tracing::warn!(payment = %payment.id, %error, "a payment was not brought up to date");
            }
        }
        let mut after = PaymentId(Uuid::nil());
        loop {
            let payments = self.store.payments_to_reverse(after).await?;
            let Some(last) = payments.last() else { return Ok(()) };
            after = *last;
            for payment in payments {
                let _one_at_a_time = self.locks.of(payment).await;
                // As it is now that nobody else is at it.
                for reversal in self.store.reversals_of(payment).await? {
                    self.take_back(reversal, now).await?;
                }
            }
        }
    }
}

/// What was seen, as it is kept: all together no more than the payment.
fn bounded(payment: &Payment, seen: Vec<SeenReversal>, now: Timestamp) -> Vec<Reversal> {
    let mut left = payment.amount;
    seen.into_iter()
        .map(|seen| {
            let wanted = seen.wanted.min(left);
            left = left.less(wanted);
            Reversal {
                provider: payment.provider.clone(),
                provider_ref: seen.provider_ref,
                payment: payment.id,
                account: payment.account,
                kind: seen.kind,
                wanted,
                taken: Credits::ZERO,
                created_at: now,
            }
        })
        .collect()
}
