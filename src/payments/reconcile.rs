//! What a provider says, brought onto the record: the only way by which a payment changes after it has begun.
//!
//! One payment at a time. Whatever is done here can break off anywhere and be done again: each step is one transaction
//! that moves from a state it names, so a credit happens once.

use std::sync::Arc;

use dashmap::DashMap;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::provider::{Order, Progress, ProviderError, SeenReversal, Stage};
use super::{Payments, PaymentsError, ProviderFacts};
use crate::keys::{KeysError, on_record, serving_lease};
use crate::store::StoreError;
use crate::store::payments::Payment;
use domain::{
    Act, ActKind, Actor, Credits, Origin, PaymentId, PaymentStatus, Reversal, ReversalStep,
    Timestamp,
};

/// How many payments are asked about at once, so that a provider that hangs does not hold up the others.
const LOOKS_AT_ONCE: usize = 8;
/// A payment that its provider never heard of is not begun any more after this: its idempotency key may be forgotten.
const BEGIN_MICROS_MAX: i64 = 20 * 3_600 * 1_000_000;
/// How long a provider is not asked again that has not answered: twice as long each time, up to an hour.
const LOOK_MICROS: i64 = 30_000_000;
const LOOK_MICROS_MAX: i64 = 3_600 * 1_000_000;
/// After so many looks a person must look as well, and the provider is asked once a day.
const LOOKS_MAX: i32 = 200;
const LATE_LOOK_MICROS: i64 = 86_400 * 1_000_000;

type All = Arc<DashMap<PaymentId, Arc<Mutex<()>>>>;

/// One thing is done about a payment at a time.
#[derive(Default)]
pub struct Locks(All);

/// Keeps others from a payment until it is dropped.
pub(super) struct Held {
    all: All,
    payment: PaymentId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    pub(super) async fn of(&self, payment: PaymentId) -> Arc<Held> {
        let lock = Arc::clone(&self.0.entry(payment).or_default());
        let guard = Some(lock.lock_owned().await);
        Arc::new(Held { all: Arc::clone(&self.0), payment, guard })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.guard.take());
        // Nobody else waits for it.
        self.all.remove_if(&self.payment, |_, lock| Arc::strong_count(lock) == 1);
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
        let held = self.locks.of(id).await;
        let payment = self.store.payments.find(id).await?.ok_or(PaymentsError::NotFound)?;
        let provider = self.provider(&payment.provider).ok_or(PaymentsError::NotFound)?;
        let now = self.gateway.clock.now();
        let has_heard = provider.has_heard(&payment) || hint.is_some();
        let progress = if has_heard || payment.status == PaymentStatus::Confirmed {
            provider.look(&payment, hint, now).await?
        } else if now.micros_since(payment.created_at) > BEGIN_MICROS_MAX {
            Progress::at(Stage::Failed("the payment provider never took it".into()))
        } else {
            return self.take_up(provider, payment, false, &held).await;
        };
        self.apply(payment, progress, &held).await
    }

    /// Begins a payment at its provider, unless that `is_begun`, and has the money moved, where that is ours to do.
    pub(super) async fn take_up(
        &self,
        provider: &dyn super::Provider,
        payment: Payment,
        is_begun: bool,
        held: &Arc<Held>,
    ) -> Result<Payment, PaymentsError> {
        let progress = if is_begun {
            Progress::at(Stage::Confirming)
        } else {
            self.begin_by(provider, &payment).await?
        };
        let payment = self.apply(payment, progress, held).await?;
        failpoint!("payment-begun");
        if payment.status != PaymentStatus::Confirming {
            return Ok(payment);
        }
        let progress = match provider.settle(&payment) {
            Some(settling) => Some(settling.await?),
            None => None,
        };
        failpoint!("payment-settled");
        match progress {
            Some(progress) => self.apply(payment, progress, held).await,
            None => Ok(payment),
        }
    }

    /// Tells a provider of a payment. A refusal is the payment's end.
    async fn begin_by(
        &self,
        provider: &dyn super::Provider,
        payment: &Payment,
    ) -> Result<Progress, PaymentsError> {
        let user = self.store.users.owner_of(payment.account).await?;
        let customer = self.store.payments.find_customer(user, provider.name()).await?;
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
        held: &Arc<Held>,
    ) -> Result<Payment, PaymentsError> {
        let Progress { provider_ref, checkout_url, stage, reversals } = progress;
        let is_named = provider_ref.is_some() && payment.provider_ref != provider_ref;
        if is_named || (checkout_url.is_some() && payment.checkout_url != checkout_url) {
            let facts = ProviderFacts { provider_ref, checkout_url };
            match self.store.payments.record_provider_facts(payment.id, facts.clone(), None).await {
                Err(StoreError::Taken(_)) => {
                    // What pays for two payments has paid for one.
                    tracing::error!(payment = %payment.id, ?facts, "a provider names two payments alike");
                    let now = self.gateway.clock.now();
                    let why = Some("it was paid for with another payment".to_owned());
                    self.advance(&payment, PaymentStatus::Failed, why, now).await?;
                    let failed = self.store.payments.find(payment.id).await?;
                    return failed.ok_or(PaymentsError::NotFound);
                }
                noted => noted?,
            }
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
                self.credit(&payment, now, held).await?;
                self.reverse_all(&payment, reversals, now, held).await?;
            }
            Stage::Paid(amount) => {
                // Not ours to guess what was meant.
                tracing::error!(payment = %payment.id, %amount, asked = %payment.amount, "a payment of another amount");
                let why = format!("${amount} were paid instead of ${}", payment.amount);
                self.advance(&payment, PaymentStatus::Failed, Some(why), now).await?;
            }
        }
        self.store.payments.find(payment.id).await?.ok_or(PaymentsError::NotFound)
    }

    async fn advance(
        &self,
        payment: &Payment,
        to: PaymentStatus,
        failure: Option<String>,
        now: Timestamp,
    ) -> Result<(), PaymentsError> {
        self.store.payments.set_status(payment, to, failure, now).await?;
        Ok(())
    }

    /// Credits a payment that is not credited yet.
    async fn credit(
        &self,
        payment: &Payment,
        now: Timestamp,
        held: &Arc<Held>,
    ) -> Result<(), PaymentsError> {
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
        // Nobody decides it once more while it is not known whether this is on record.
        on_record(&self.gateway, receipt, Arc::clone(held)).await?;
        failpoint!("payment-credited");
        Ok(())
    }

    async fn reverse_all(
        &self,
        payment: &Payment,
        seen: Vec<SeenReversal>,
        now: Timestamp,
        held: &Arc<Held>,
    ) -> Result<(), PaymentsError> {
        let seen = bounded(payment, seen, now);
        let reversals = if seen.is_empty() {
            self.store.payments.list_reversals(payment.id).await?
        } else {
            self.store.payments.record_reversals(payment.id, seen).await?
        };
        for reversal in reversals {
            self.take_back(reversal, now, held).await?;
        }
        Ok(())
    }

    /// Takes what can be taken of a reversal, or gives again what is to be given again.
    async fn take_back(
        &self,
        reversal: Reversal,
        now: Timestamp,
        held: &Arc<Held>,
    ) -> Result<(), PaymentsError> {
        if reversal.taken == reversal.wanted {
            return Ok(());
        }
        let found = self.store.payments.find(reversal.payment).await?;
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
        let step = on_record(&self.gateway, receipt, Arc::clone(held)).await?;
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
        let user = self.store.users.owner_of(payment.account).await?;
        let origin = Origin::local(Actor::Server);
        Ok(origin.act(Uuid::now_v7(), user, kind, now).to(payment.id.to_string()))
    }

    /// Asks about the payments whose providers are to be asked by now.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database; a provider that does not answer is asked again later.
    pub async fn look_after(&self) -> Result<(), PaymentsError> {
        let now = self.gateway.clock.now();
        let payments = self.store.payments.list_due_for_check(now).await?;
        let looks = payments.into_iter().map(|payment| self.look_at(payment, now));
        stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).for_each(async |()| {}).await;
        Ok(())
    }

    async fn look_at(&self, payment: Payment, now: Timestamp) {
        let doubled = LOOK_MICROS.checked_shl(u32::try_from(payment.looks).unwrap_or(0).min(20));
        let mut pause = doubled.unwrap_or(LOOK_MICROS_MAX).clamp(LOOK_MICROS, LOOK_MICROS_MAX);
        if payment.looks >= LOOKS_MAX {
            pause = LATE_LOOK_MICROS;
            tracing::error!(payment = %payment.id, "a payment does not end; a person must look at it");
        }
        // First: a payment that makes trouble must not be asked about all the time.
        let looked =
            match self.store.payments.schedule_check(payment.id, now.plus_micros(pause)).await {
                Ok(()) => self.reconcile(payment.id, None).await.map(drop),
                Err(error) => Err(error.into()),
            };
        if let Err(error) = looked {
            tracing::warn!(payment = %payment.id, %error, "a payment was not brought up to date");
        }
    }

    /// Takes what is still to be taken back of payments, and gives again what is to be given again.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database; an account that cannot be asked now is asked again later.
    pub async fn take_back_all(&self) -> Result<(), PaymentsError> {
        let now = self.gateway.clock.now();
        let mut after = PaymentId(Uuid::nil());
        loop {
            let payments = self.store.payments.list_to_reverse(after).await?;
            let Some(last) = payments.last() else { return Ok(()) };
            after = *last;
            for payment in payments {
                if let Err(error) = self.take_back_of(payment, now).await {
                    tracing::warn!(%payment, %error, "a payment that is taken back was not");
                }
            }
        }
    }

    async fn take_back_of(&self, payment: PaymentId, now: Timestamp) -> Result<(), PaymentsError> {
        let held = self.locks.of(payment).await;
        // As it is now that nobody else is at it.
        for reversal in self.store.payments.list_reversals(payment).await? {
            self.take_back(reversal, now, &held).await?;
        }
        Ok(())
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
