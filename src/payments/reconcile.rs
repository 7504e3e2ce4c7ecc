//! Reconciliation with providers: the only way by which a payment changes after it has begun.
//!
//! One task at a time works on a payment. Every step can be interrupted and repeated: it is one
//! transaction that changes the payment from a named state, so a credit happens once.

use std::sync::Arc;

use dashmap::DashMap;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::provider::{Order, Progress, ProviderError, SeenReversal, Stage};
use super::{Payments, PaymentsError, ProviderFacts};
use crate::access::AccessError;
use crate::store::StoreError;
use crate::store::payments::Payment;
use domain::{
    Act, ActKind, Actor, Credits, Origin, PaymentId, PaymentStatus, Reversal, ReversalStep,
    Timestamp,
};

/// How many payments are checked at once, so that a provider that hangs does not hold up the
/// others.
const CHECKS_AT_ONCE: usize = 8;
/// A payment that its provider does not know is not begun after this time, because the provider may
/// have dropped the idempotency key.
const BEGIN_MICROS_MAX: i64 = 20 * 3_600 * 1_000_000;
/// The first pause between checks of a payment. It doubles each time, up to an hour.
const CHECK_MICROS: i64 = 30_000_000;
const CHECK_MICROS_MAX: i64 = 3_600 * 1_000_000;
/// After this many checks an operator is alerted, and the payment is checked once a day.
const CHECKS_MAX: i32 = 200;
const LATE_CHECK_MICROS: i64 = 86_400 * 1_000_000;

type All = Arc<DashMap<PaymentId, Arc<Mutex<()>>>>;

/// Locks by payment.
#[derive(Default)]
pub struct Locks(All);

/// The lock of a payment, released when it is dropped.
pub(super) struct PaymentLock {
    all: All,
    payment: PaymentId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    pub(super) async fn of(&self, payment: PaymentId) -> Arc<PaymentLock> {
        let lock = Arc::clone(&self.0.entry(payment).or_default());
        let guard = Some(lock.lock_owned().await);
        Arc::new(PaymentLock { all: Arc::clone(&self.0), payment, guard })
    }
}

impl Drop for PaymentLock {
    fn drop(&mut self) {
        drop(self.guard.take());
        // Nobody else waits for it.
        self.all.remove_if(&self.payment, |_, lock| Arc::strong_count(lock) == 1);
    }
}

impl Payments {
    /// Asks the provider for the state of a payment, and records it; answers the payment as it is
    /// then. `hint` is the id that a webhook gave.
    ///
    /// # Errors
    /// [`PaymentsError`]; the rest is done the next time.
    pub async fn reconcile(
        &self,
        id: PaymentId,
        hint: Option<&str>,
    ) -> Result<Payment, PaymentsError> {
        let held = self.locks.of(id).await;
        let payment = self.store.find(id).await?.ok_or(PaymentsError::NotFound)?;
        let provider = self.provider(&payment.provider).ok_or(PaymentsError::NotFound)?;
        let now = self.gateway.clock.now();
        let is_known = provider.is_known(&payment) || hint.is_some();
        let progress = if is_known || payment.status == PaymentStatus::Confirmed {
            provider.check(&payment, hint, now).await?
        } else if now.micros_since(payment.created_at) > BEGIN_MICROS_MAX {
            Progress::at(Stage::Failed("the payment provider never took it".into()))
        } else {
            return self.start(provider, payment, false, &held).await;
        };
        self.apply(payment, progress, &held).await
    }

    /// Begins a payment at its provider, unless it `is_begun`, and moves the money if the server
    /// has to do that.
    pub(super) async fn start(
        &self,
        provider: &dyn super::Provider,
        payment: Payment,
        is_begun: bool,
        held: &Arc<PaymentLock>,
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

    /// Begins a payment at its provider. A refusal fails the payment.
    async fn begin_by(
        &self,
        provider: &dyn super::Provider,
        payment: &Payment,
    ) -> Result<Progress, PaymentsError> {
        let user = self.users.owner_of(payment.account).await?;
        let customer = self.store.find_customer(user, provider.name()).await?;
        let order = Order { payment: payment.clone(), customer };
        match provider.begin(&order).await {
            Err(ProviderError::Refused(why)) => Ok(Progress::at(Stage::Failed(why))),
            answer => Ok(answer?),
        }
    }

    /// Records a provider's report.
    pub(super) async fn apply(
        &self,
        mut payment: Payment,
        progress: Progress,
        held: &Arc<PaymentLock>,
    ) -> Result<Payment, PaymentsError> {
        let Progress { provider_ref, checkout_url, stage, reversals } = progress;
        // An empty text names nothing.
        let provider_ref = provider_ref.filter(|name| !name.is_empty());
        let checkout_url = checkout_url.filter(|url| !url.is_empty());
        let is_named = provider_ref.is_some() && payment.provider_ref != provider_ref;
        if is_named || (checkout_url.is_some() && payment.checkout_url != checkout_url) {
            let facts = ProviderFacts { provider_ref, checkout_url };
            match self.store.record_provider_facts(payment.id, facts.clone(), None).await {
                Err(StoreError::Taken(_)) => {
                    // One provider payment cannot pay for two payments.
                    tracing::error!(payment = %payment.id, ?facts, "a provider names two payments alike");
                    let now = self.gateway.clock.now();
                    let why = Some("it was paid for with another payment".to_owned());
                    self.advance(&payment, PaymentStatus::Failed, why, now).await?;
                    let failed = self.store.find(payment.id).await?;
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
                // The server does not guess what was meant.
                tracing::error!(payment = %payment.id, %amount, asked = %payment.amount, "a payment of another amount");
                let why = format!("${amount} were paid instead of ${}", payment.amount);
                self.advance(&payment, PaymentStatus::Failed, Some(why), now).await?;
            }
        }
        self.store.find(payment.id).await?.ok_or(PaymentsError::NotFound)
    }

    async fn advance(
        &self,
        payment: &Payment,
        to: PaymentStatus,
        failure: Option<String>,
        now: Timestamp,
    ) -> Result<(), PaymentsError> {
        self.store.set_status(payment, to, failure, now).await?;
        Ok(())
    }

    /// Credits a payment that is not credited yet.
    async fn credit(
        &self,
        payment: &Payment,
        now: Timestamp,
        held: &Arc<PaymentLock>,
    ) -> Result<(), PaymentsError> {
        if payment.status == PaymentStatus::Confirmed {
            return Ok(());
        }
        let lease = self.gateway.account(payment.account).await?;
        let act = self.act(payment, ActKind::PaymentConfirmed, now).await?;
        let act = act.with(format!("${} by {}", payment.amount, payment.provider));
        let credited = lease.confirm_payment(payment.id, payment.amount, Some(act)).await;
        let receipt = credited.map_err(|error| match error {
            crate::actors::AccountError::Refused(_) => {
                PaymentsError::Amount { max: self.amount_max }
            }
            crate::actors::AccountError::Gone => PaymentsError::Account(AccessError::Unknown),
        })?;
        failpoint!("payment-decided");
        // The lock is held until the outcome is known, so that the credit is not decided twice.
        self.gateway.recorded(receipt, Arc::clone(held)).await?;
        self.gateway.metrics.sums.credit(&payment.provider, payment.amount);
        failpoint!("payment-credited");
        Ok(())
    }

    async fn reverse_all(
        &self,
        payment: &Payment,
        seen: Vec<SeenReversal>,
        now: Timestamp,
        held: &Arc<PaymentLock>,
    ) -> Result<(), PaymentsError> {
        let seen = bounded(payment, seen, now);
        let reversals = if seen.is_empty() {
            self.store.list_reversals(payment.id).await?
        } else {
            self.store.record_reversals(payment.id, seen).await?
        };
        for reversal in reversals {
            self.take_back(reversal, now, held).await?;
        }
        Ok(())
    }

    /// Debits what the balance covers of a reversal, or credits back what was withdrawn.
    async fn take_back(
        &self,
        reversal: Reversal,
        now: Timestamp,
        held: &Arc<PaymentLock>,
    ) -> Result<(), PaymentsError> {
        if reversal.taken == reversal.wanted {
            return Ok(());
        }
        let found = self.store.find(reversal.payment).await?;
        let payment = found.ok_or(PaymentsError::NotFound)?;
        let act = self.act(&payment, ActKind::PaymentReversed, now).await?;
        let detail = format!(
            "{} {}: ${} wanted, ${} taken before",
            reversal.kind.name(),
            reversal.provider_ref,
            reversal.wanted,
            reversal.taken
        );
        let lease = self.gateway.account(reversal.account).await?;
        let (wanted, account) = (reversal.wanted, reversal.account);
        let reversed = lease.reverse(reversal.clone(), Some(act.with(detail))).await;
        let receipt = reversed.map_err(|error| match error {
            crate::actors::AccountError::Refused(_) => {
                PaymentsError::Amount { max: self.amount_max }
            }
            crate::actors::AccountError::Gone => PaymentsError::Account(AccessError::Unknown),
        })?;
        let step = self.gateway.recorded(receipt, Arc::clone(held)).await?;
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
        let user = self.users.owner_of(payment.account).await?;
        let origin = Origin::local(Actor::Server);
        Ok(origin.act(Uuid::now_v7(), user, kind, now).to(payment.id.to_string()))
    }

    /// Asks about the payments whose providers are to be asked by now.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database; a provider that does not answer is asked again later.
    pub async fn check_due(&self) -> Result<(), PaymentsError> {
        let now = self.gateway.clock.now();
        let payments = self.store.list_due_for_check(now).await?;
        let looks = payments.into_iter().map(|payment| self.check_one(payment, now));
        stream::iter(looks).buffer_unordered(CHECKS_AT_ONCE).for_each(async |()| {}).await;
        Ok(())
    }

    async fn check_one(&self, payment: Payment, now: Timestamp) {
        let doubled = CHECK_MICROS.checked_shl(u32::try_from(payment.looks).unwrap_or(0).min(20));
        let mut pause = doubled.unwrap_or(CHECK_MICROS_MAX).clamp(CHECK_MICROS, CHECK_MICROS_MAX);
        if payment.looks >= CHECKS_MAX {
            pause = LATE_CHECK_MICROS;
            tracing::error!(payment = %payment.id, "a payment does not end; a person must look at it");
        }
        // First: a payment that makes trouble must not be asked about all the time.
        let looked = match self.store.schedule_check(payment.id, now.plus_micros(pause)).await {
            Ok(()) => self.reconcile(payment.id, None).await.map(drop),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = looked {
            tracing::warn!(payment = %payment.id, %error, "a payment was not brought up to date");
        }
    }

    /// Debits outstanding reversals of all payments, and credits back those that were withdrawn.
    ///
    /// # Errors
    /// [`PaymentsError`] of the database; an account that cannot be asked now is asked again later.
    pub async fn apply_reversals(&self) -> Result<(), PaymentsError> {
        let now = self.gateway.clock.now();
        let mut after = PaymentId(Uuid::nil());
        loop {
            let payments = self.store.list_to_reverse(after).await?;
            let Some(last) = payments.last() else { return Ok(()) };
            after = *last;
            for payment in payments {
                if let Err(error) = self.apply_reversals_of(payment, now).await {
                    tracing::warn!(%payment, %error, "a payment that is taken back was not");
                }
            }
        }
    }

    async fn apply_reversals_of(
        &self,
        payment: PaymentId,
        now: Timestamp,
    ) -> Result<(), PaymentsError> {
        let held = self.locks.of(payment).await;
        // Read under the lock.
        for reversal in self.store.list_reversals(payment).await? {
            self.take_back(reversal, now, &held).await?;
        }
        Ok(())
    }
}

/// The reversals to record: in total no more than the payment.
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
