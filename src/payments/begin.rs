//! How asynchronous payments begin: at Stripe, and by x402.

use uuid::Uuid;

use super::provider::Provider as _;
use super::stripe::{self, SavedMethod, Stripe, is_whole_cents};
use super::x402::{self, SignedPayment};
use super::{OpenPayment, Payment, Payments, PaymentsError, ProviderFacts};
use crate::access::AccessError;
use crate::idempotency::{First, Made, Once};
use crate::store::StoreError;
use domain::{AccountId, ActKind, Credits, Origin, PaymentId, PaymentStatus, Timestamp, UserId};

/// Who pays.
#[derive(Clone, Debug)]
pub struct Payer {
    /// The user.
    pub user: UserId,
    /// Their address, for the provider's receipt.
    pub email: String,
    /// Who acts, and from where.
    pub origin: Origin,
}

/// The terms of a new payment.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub account: AccountId,
    pub provider: &'static str,
    pub amount: Credits,
    /// The saved payment method, or the authorization.
    pub method: Option<String>,
    /// Does the server begin it?
    pub is_auto: bool,
    /// The digest of the idempotency key, if there is one.
    pub request_digest: Option<[u8; 32]>,
}

impl Terms {
    pub(crate) fn of(account: AccountId, provider: &'static str, amount: Credits) -> Self {
        Terms { account, provider, amount, method: None, is_auto: false, request_digest: None }
    }
}

impl Payments {
    fn stripe(&self) -> Result<&Stripe, PaymentsError> {
        self.stripe.as_ref().ok_or(PaymentsError::ProviderOff { provider: stripe::NAME })
    }

    /// Begins a payment at Stripe: on Stripe's page, or with a saved payment method at once.
    pub async fn pay_by_stripe(
        &self,
        payer: Payer,
        amount: Credits,
        method: Option<String>,
        once: Option<Once<Payment>>,
    ) -> Result<Made<Payment>, PaymentsError> {
        let provider = stripe::NAME;
        self.stripe()?;
        self.assert_real_money()?;
        self.assert_amount(amount)?;
        if amount < self.stripe_amount_min || !is_whole_cents(amount) {
            let min = self.stripe_amount_min;
            return Err(PaymentsError::AmountOfProvider { provider, min });
        }
        let account = self.users.accounts_of(payer.user).await?.live;
        let request_digest = once.as_ref().map(|once| once.key.digest());
        let act = async move |first: First<Payment>| {
            let customer = self.customer(&payer).await?;
            if let Some(method) = &method
                && !self.stripe()?.methods(&customer).await?.iter().any(|saved| saved.id == *method)
            {
                return Err(PaymentsError::NoMethod);
            }
            let terms = Terms {
                method: method.clone(),
                request_digest,
                ..Terms::of(account, provider, amount)
            };
            let payment = self.open(terms, None, &payer).await?;
            if payment.amount != amount || payment.method != method {
                // The same key began another payment before a crash.
                let other = crate::idempotency::IdempotencyError::OtherRequest;
                return Err(PaymentsError::Repeat(other));
            }
            let made = self.reconcile(payment.id, None).await?;
            let at = self.gateway.clock.now();
            if let Some(answer) = first.record(made.id.0, &made, at) {
                self.store
                    .record_provider_facts(made.id, ProviderFacts::default(), Some(answer))
                    .await?;
            }
            Ok(made)
        };
        self.gateway.idempotency.run(account, once, PaymentsError::Repeat, act).await
    }

    /// Records a new payment, or answers the one that the same request began before.
    pub(super) async fn open(
        &self,
        terms: Terms,
        provider_ref: Option<String>,
        payer: &Payer,
    ) -> Result<Payment, PaymentsError> {
        let Terms { account, provider, amount, method, is_auto, request_digest } = terms;
        let (id, at) = (PaymentId(Uuid::now_v7()), self.gateway.clock.now());
        let seconds = self.stripe.as_ref().map_or(3_600, Stripe::checkout_seconds);
        let expires_at = at.plus_micros(seconds.saturating_mul(1_000_000));
        let act = payer.origin.clone().act(Uuid::now_v7(), payer.user, ActKind::PaymentBegun, at);
        let act = act.to(id.to_string()).with(format!("${amount} by {provider}"));
        let open = OpenPayment {
            id,
            account,
            provider,
            provider_ref,
            amount,
            method,
            is_auto,
            request_digest,
            once_from: self.gateway.idempotency.kept_from(at),
            at,
            expires_at,
        };
        let opened = self.store.insert(open, act).await?;
        failpoint!("payment-opened");
        opened.ok_or(PaymentsError::AccountClosed)
    }

    /// The user's customer id at Stripe; creates the customer if there is none.
    async fn customer(&self, payer: &Payer) -> Result<String, PaymentsError> {
        if let Some(customer) = self.store.find_customer(payer.user, stripe::NAME).await? {
            return Ok(customer);
        }
        // Whoever registered before the address was proved has another customer.
        let user = self.users.find(payer.user).await?;
        let is_proved = user.is_some_and(|user| user.is_email_verified);
        let made = self.stripe()?.make_customer(payer.user, &payer.email, is_proved).await;
        let customer = made?;
        Ok(self.store.insert_customer(payer.user, stripe::NAME, customer).await?)
    }

    /// The payment methods that a user has saved.
    pub async fn methods(&self, user: UserId) -> Result<Vec<SavedMethod>, PaymentsError> {
        let stripe = self.stripe()?;
        match self.store.find_customer(user, stripe::NAME).await? {
            Some(customer) => Ok(stripe.methods(&customer).await?),
            None => Ok(Vec::new()),
        }
    }

    /// The same; none if Stripe is not set up.
    pub async fn methods_if_any(&self, user: UserId) -> Result<Vec<SavedMethod>, PaymentsError> {
        if self.stripe.is_none() { Ok(Vec::new()) } else { self.methods(user).await }
    }

    /// Has Stripe forget a user who is erased: lets go of every saved payment method, and deletes
    /// the customer. What fails is tried again by [`Payments::forget_customers`].
    pub async fn forget_customer(&self, user: UserId) -> Result<(), PaymentsError> {
        let Some(stripe) = &self.stripe else { return Ok(()) };
        let customer = self.store.find_customer(user, stripe::NAME).await?;
        let Some(customer) = customer else { return Ok(()) };
        for method in stripe.methods(&customer).await? {
            stripe.detach(&customer, &method.id).await?;
        }
        stripe.delete_customer(&customer).await?;
        Ok(self.store.delete_customer(user, stripe::NAME).await?)
    }

    /// The same for all who are erased.
    pub async fn forget_customers(&self) -> Result<(), PaymentsError> {
        if self.stripe.is_none() {
            return Ok(());
        }
        for (user, customer) in self.store.list_erased_customers(stripe::NAME).await? {
            if let Err(error) = self.forget_customer(user).await {
                tracing::warn!(customer, %error, "an erased user is not deleted at Stripe yet");
            }
        }
        Ok(())
    }

    /// The URL at which a user saves a payment method without paying.
    pub async fn setup_url(&self, payer: Payer) -> Result<String, PaymentsError> {
        let stripe = self.stripe()?;
        let customer = self.customer(&payer).await?;
        Ok(stripe.setup_url(&customer, &Uuid::new_v4().to_string()).await?)
    }

    /// Lets go of a saved payment method.
    pub async fn detach(
        &self,
        user: UserId,
        method: &str,
        origin: Origin,
    ) -> Result<(), PaymentsError> {
        let stripe = self.stripe()?;
        let customer = self.store.find_customer(user, stripe::NAME).await?;
        let customer = customer.ok_or(PaymentsError::NoMethod)?;
        if !stripe.detach(&customer, method).await? {
            return Err(PaymentsError::NoMethod);
        }
        let at = self.gateway.clock.now();
        let act = origin.act(Uuid::now_v7(), user, ActKind::PaymentMethodRemoved, at);
        Ok(self.audit_log.record(act.to(method)).await?)
    }

    /// Handles a webhook of Stripe. It names a payment, about which Stripe is then asked.
    ///
    /// # Errors
    /// [`PaymentsError::NotPayable`] if it is not signed by Stripe. After any other error Stripe
    /// sends it again.
    pub async fn handle_stripe_event(
        &self,
        signature: Option<&str>,
        body: &[u8],
    ) -> Result<(), PaymentsError> {
        let stripe = self.stripe()?;
        let not_stripes = |error: String| PaymentsError::NotPayable(error);
        stripe
            .verify(signature, body, self.gateway.clock.now())
            .map_err(|error| not_stripes(error.to_string()))?;
        let hint = Stripe::hint(body);
        let hint = hint.ok_or_else(|| not_stripes("the body is no event of Stripe".into()))?;
        self.handle_hint(stripe, hint).await
    }

    /// Finds refunds and disputes since a time whose webhooks were lost.
    pub async fn find_reversals(&self, since: Timestamp) -> Result<(), PaymentsError> {
        let Some(stripe) = &self.stripe else { return Ok(()) };
        for hint in stripe.reversals_since(since).await? {
            let what = hint.clone();
            if let Err(error) = self.handle_hint(stripe, hint).await {
                tracing::warn!(?what, %error, "a payment was not brought up to date");
            }
        }
        Ok(())
    }

    async fn handle_hint(&self, stripe: &Stripe, hint: stripe::Hint) -> Result<(), PaymentsError> {
        let (payment, intent) = match hint {
            stripe::Hint::Nothing => return Ok(()),
            stripe::Hint::Payment(payment, intent) => (Some(payment), intent),
            stripe::Hint::Intent(intent) => {
                (stripe.payment_of_intent(&intent).await?, Some(intent))
            }
        };
        let Some(payment) = payment else { return Ok(()) };
        match self.reconcile(payment, intent.as_deref()).await {
            // Of another system on the same account at Stripe.
            Err(PaymentsError::NotFound) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Pays by a signed authorization of x402, onto the user's live account; answers the payment,
    /// confirmed. The same authorization again is the same payment.
    ///
    /// # Errors
    /// [`PaymentsError::NotPayable`], or [`PaymentsError::Refused`] if the facilitator said no.
    pub async fn pay_by_x402(
        &self,
        user: UserId,
        header: &[u8],
        least: Credits,
        origin: Origin,
    ) -> Result<Payment, PaymentsError> {
        let account = self.users.accounts_of(user).await?.live;
        self.pay_onto(account, header, least, origin).await
    }

    /// As [`Payments::pay_by_x402`], for a call that its account cannot pay. `origin` names the
    /// client of the account's user.
    pub async fn pay_for_call(
        &self,
        account: AccountId,
        header: &[u8],
        least: Credits,
        origin: impl FnOnce(UserId) -> Origin,
    ) -> Result<Payment, PaymentsError> {
        let user = self.users.owner_of(account).await?;
        self.pay_onto(account, header, least, origin(user)).await
    }

    async fn pay_onto(
        &self,
        account: AccountId,
        header: &[u8],
        least: Credits,
        origin: Origin,
    ) -> Result<Payment, PaymentsError> {
        let provider = x402::NAME;
        let x402 = self.x402.as_ref().ok_or(PaymentsError::ProviderOff { provider })?;
        self.assert_real_money()?;
        let signed = SignedPayment::read(header);
        let signed = signed.map_err(|error| PaymentsError::NotPayable(error.to_string()))?;
        let amount = x402.accept(&signed, least, self.amount_max);
        let amount = amount.map_err(|error| PaymentsError::NotPayable(error.to_string()))?;
        let user = self.users.owner_of(account).await?;
        let payer = Payer { user, email: String::new(), origin };
        let reference = signed.provider_ref();
        let mut known = self.store.find_by_provider_ref(provider, reference.clone()).await?;
        let is_verified = known.is_none();
        if known.is_none() {
            // An authorization that would not settle is not recorded.
            x402.verify(&signed, amount).await?;
            // Recorded with its reference from the beginning, so that a repeat finds it, for any
            // account.
            let terms = Terms {
                method: Some(signed.stored_text()),
                ..Terms::of(account, provider, amount)
            };
            let opened = self.open(terms, Some(reference.clone()), &payer).await;
            known = match opened {
                Ok(opened) => Some(opened),
                Err(PaymentsError::Account(AccessError::Store(StoreError::Taken(_)))) => {
                    self.store.find_by_provider_ref(provider, reference).await?
                }
                Err(error) => return Err(error),
            };
        }
        let known = known.filter(|known| known.account == account);
        let used = || PaymentsError::NotPayable("the authorization was used already".into());
        let payment = known.ok_or_else(used)?;
        let held = self.locks.of(payment.id).await;
        let payment = self.store.find(payment.id).await?.ok_or(PaymentsError::NotFound)?;
        let done = match payment.status {
            PaymentStatus::Created => self.start(x402, payment, is_verified, &held).await?,
            PaymentStatus::Confirming => {
                let progress = x402.check(&payment, None, self.gateway.clock.now()).await?;
                self.apply(payment, progress, &held).await?
            }
            PaymentStatus::Confirmed | PaymentStatus::Failed | PaymentStatus::Expired => payment,
        };
        match done.status {
            PaymentStatus::Confirmed => Ok(done),
            PaymentStatus::Confirming => Err(PaymentsError::Unreachable(format!(
                "{} was sent, and the facilitator has not named its transaction",
                done.id
            ))),
            _ => Err(PaymentsError::Refused(done.failure.unwrap_or_else(|| "not settled".into()))),
        }
    }
}
