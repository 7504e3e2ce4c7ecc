//! Stage 5, balance, spending limits and debit. Quoted -> ChargedCall: ONE request to the account's
//! owner decides all three.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::Span;

use super::departure::Money;
use super::deployments::{OtherModel, ServedBy};
use super::gateway::{Gateway, lease};
use super::price::{Generation, Quoted};
use super::request::Arrival;
use super::spans;
use crate::actors::ledger::Acknowledgement;
use crate::actors::{AccountError, AccountHandle};
use crate::idempotency::Claim;
use crate::models::ModelCall;
use crate::store::keys::KeyRecord;
use crate::upstream::Dialect;
use domain::Refusal;
use domain::account::ChargeTerms;
use domain::catalogue::{BilledService, Deployed};
use domain::pricing::{ModelPricing, PriceRule, Pricing};
use domain::stored_bill::StoredBill;
use domain::{
    Charge, ChargeId, Convention, Credits, Decline, Flags, Price, PriceBounds, Service, TokenUsage,
};

/// A request whose price is debited or held. Only `charge` makes one.
pub struct ChargedCall {
    quoted: Quoted,
    guard: ChargeGuard,
    terms: ChargeTerms,
    token_limit: Option<u64>,
    served: Convention,
    debit: Option<Acknowledgement>,
    claim: Option<Claim>,
    served_by: Option<Box<ServedBy>>,
    billed_as: Option<Arc<str>>,
    span: Span,
}

/// An open charge. If it is dropped unsettled, it ends at what it has earned, so no way out of the
/// pipeline, a panic included, leaves a hold behind.
struct ChargeGuard {
    id: ChargeId,
    earned: Credits,
    bill: Option<StoredBill>,
    account: Option<AccountHandle>,
}

impl Drop for ChargeGuard {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.abandon(self.id, self.earned, self.bill);
        }
    }
}

impl ChargedCall {
    pub(super) fn id(&self) -> ChargeId {
        self.guard.id
    }

    pub(super) fn arrival(&self) -> &Arrival {
        self.quoted.arrival()
    }

    pub(super) fn rule(&self) -> &Arc<PriceRule> {
        self.quoted.rule()
    }

    /// See [`Quoted::pricing`].
    pub(super) fn pricing(&self) -> &Pricing {
        self.quoted.pricing()
    }

    /// The price by the card of its model, if that is its price, and the demand of the request.
    pub(super) fn by_model(&self) -> Option<(&ModelPricing, &Generation)> {
        match self.quoted.pricing() {
            Pricing::Model(model) => {
                self.quoted.generation().map(|generation| (&**model, generation))
            }
            Pricing::Route(_) => None,
        }
    }

    /// How the upstream that has served counts; until that is known, as its protocol does.
    pub(super) fn served(&self) -> Convention {
        self.served
    }

    /// The upstream that serves the call counts so.
    pub(super) fn set_served(&mut self, convention: Convention) {
        self.served = convention;
    }

    /// See [`Quoted::model`].
    pub(super) fn model(&self) -> Option<&ModelCall> {
        self.quoted.model()
    }

    /// Begins the span of the call to the upstream.
    pub(super) fn begin_span(&mut self) -> Span {
        self.span = spans::upstream(self);
        self.span.clone()
    }

    /// Ends the span of the call to the upstream: see [`spans::end`].
    pub(super) fn end_span(&mut self, tokens: TokenUsage, failed: Option<u16>) {
        spans::end(&std::mem::replace(&mut self.span, Span::none()), tokens, failed);
    }

    pub(super) fn key(&self) -> &Arc<KeyRecord> {
        self.quoted.key()
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.quoted.dialect()
    }

    /// See [`Quoted::generation`].
    pub(super) fn generation(&self) -> Option<&Generation> {
        self.quoted.generation()
    }

    /// See [`Quoted::is_stream`].
    pub(super) fn is_stream(&self) -> bool {
        self.quoted.is_stream()
    }

    /// The request with its price.
    pub(super) fn quoted(&self) -> &Quoted {
        &self.quoted
    }

    /// Another model has answered.
    pub(super) fn set_other(&mut self, other: OtherModel) {
        let OtherModel { fallback, limit, billed_as } = other;
        self.quoted.set_fallback(&fallback);
        let own = self.generation().and_then(|generation| generation.request.token_limit);
        self.token_limit = (own != Some(limit)).then_some(limit);
        self.billed_as = billed_as;
    }

    /// The model whose price counts, if it is another one than was asked for.
    pub(super) fn billed_as(&self) -> Option<&Arc<str>> {
        self.billed_as.as_ref()
    }

    /// The most that the call may take, as it was decided at its beginning.
    pub(super) fn ceiling(&self) -> Credits {
        self.terms.ceiling
    }

    /// The token limit that the upstream gets, if it is not the request's own.
    pub(super) fn token_limit(&self) -> Option<u64> {
        self.token_limit
    }

    /// Debited or held.
    pub(super) fn held(&self) -> Credits {
        self.terms.held
    }

    /// Records that the hold was extended.
    pub(super) fn set_held(&mut self, held: Credits) {
        self.terms.held = held;
    }

    /// The cost of what was delivered and its bill, in case the charge is dropped unsettled.
    pub(super) fn set_earned(&mut self, (earned, bill): (Credits, Option<StoredBill>)) {
        self.guard.earned = earned;
        self.guard.bill = bill;
    }

    /// See [`Quoted::bill`].
    pub(super) fn bill(&self, prompt: u64, completion: u64, flags: Flags) -> Option<StoredBill> {
        self.quoted.bill(prompt, completion, flags)
    }

    /// The account, unless the charge is being settled.
    pub(super) fn account(&self) -> Option<&AccountHandle> {
        self.guard.account.as_ref()
    }

    /// The account, for the settlement; once.
    pub(super) fn take_account(&mut self) -> Option<AccountHandle> {
        self.guard.account.take()
    }

    /// Resolves when a fixed price, or the hold of a stream, is durable. It commits while the
    /// upstream works.
    pub(super) fn take_debit(&mut self) -> Option<Acknowledgement> {
        self.debit.take()
    }

    /// May the request be repeated with its idempotency key?
    pub(super) fn has_claim(&self) -> bool {
        self.claim.is_some()
    }

    /// Is what the provider says of the service tier that has served believed? Otherwise the one
    /// that was asked for is billed.
    pub(super) fn bills_served_tier(&self) -> bool {
        let by = self.deployed();
        by.is_none_or(|by| by.deployment.service == BilledService::Served)
    }

    /// The deployment that was asked last, if its model has deployments.
    pub(super) fn deployed(&self) -> Option<&Arc<Deployed>> {
        self.served_by.as_deref()?.by.as_ref()
    }

    /// Records who served the call, if its model has deployments.
    pub(super) fn set_served_by(&mut self, served_by: ServedBy) {
        self.served_by = Some(Box::new(served_by));
    }

    /// The service tier that a header of the answer says has served.
    pub(super) fn served_tier(&self) -> Option<Service> {
        self.served_by.as_deref()?.tier
    }

    /// What the answer says of its money before it is settled. `upstream` served the call.
    pub(super) fn money(&self, upstream: &Arc<str>) -> Money {
        let served = self.served_by.as_deref();
        Money {
            charge: Some(self.id()),
            upstream: Arc::clone(served.map_or(upstream, |served| &served.shown)),
            attempts: served.map(|served| served.attempts),
            deployment: served.and_then(|served| served.deployment.clone()),
            ..Money::of(self)
        }
    }

    /// The claim on the idempotency key.
    pub(super) fn take_claim(&mut self) -> Option<Claim> {
        self.claim.take()
    }

    /// See [`Arrival::client_left`].
    pub(super) fn take_client_left(&mut self) -> Option<oneshot::Receiver<()>> {
        self.quoted.take_client_left()
    }
}

/// Debits a fixed price, or holds what the request can cost or begins with.
pub(super) async fn charge(
    gateway: &Gateway,
    quoted: Quoted,
    claim: Option<Claim>,
) -> Result<Box<ChargedCall>, Refusal> {
    let account = lease(gateway, quoted.key()).await?;
    let order = order(gateway, &quoted, claim.is_some());
    let receipt = account.charge(order).await.map_err(|error| match error {
        AccountError::Refused(decline) => refusal(decline),
        AccountError::Gone => Refusal::OutcomeUnknown("the account's owner died"),
    })?;
    let id = quoted.arrival().id;
    let guard = ChargeGuard { id, earned: Credits::ZERO, bill: None, account: Some(account) };
    if let Some(paying) = &quoted.arrival().paying {
        paying.charge();
    }
    failpoint!("charge-accepted");
    let (terms, debit) = (receipt.decided, receipt.durable);
    let token_limit =
        quoted.generation().and_then(|generation| token_limit(gateway, &quoted, generation, terms));
    let served = quoted.dialect().convention();
    Ok(Box::new(ChargedCall {
        quoted,
        guard,
        terms,
        token_limit,
        served,
        debit,
        claim,
        served_by: None,
        billed_as: None,
        span: Span::none(),
    }))
}

/// The order to the account.
pub(super) fn order(gateway: &Gateway, quoted: &Quoted, may_be_repeated: bool) -> Charge {
    let price = match quoted.price() {
        // Held, and captured in one transaction with the recorded answer. So a repeat after a crash
        // between debit and answer is not charged twice.
        Price::Fixed(price) if may_be_repeated => Price::UpTo(PriceBounds::whole(price, price)),
        price => price,
    };
    Charge {
        id: quoted.arrival().id,
        key: quoted.key().key,
        price,
        // A hold has no bill before its end.
        bill: match (quoted.pricing(), price) {
            (Pricing::Route(_), Price::Fixed(_)) => quoted.bill(0, 0, Flags::NONE),
            _ => None,
        },
        expires_at: quoted.arrival().at.plus_micros(gateway.hold_lifetime_micros),
        is_durable: quoted.is_stream(),
    }
}

/// The token limit that the upstream must get: if the request names none, or if less than its own
/// is covered. A model has a limit of its own, so it is told none if that is covered. What a model
/// thinks unseen is not seen before its end, so only what is held covers it.
pub(super) fn token_limit(
    gateway: &Gateway,
    quoted: &Quoted,
    generation: &Generation,
    terms: ChargeTerms,
) -> Option<u64> {
    let demand = generation.demand;
    let is_of_model = matches!(quoted.pricing(), Pricing::Model(_));
    let covering = if is_of_model && generation.may_hide { terms.held } else { terms.ceiling };
    let covered = if gateway.holds.lower_token_limit {
        quoted.pricing().completion_tokens_within(covering, demand)
    } else {
        demand.completion_tokens_max
    };
    let own = generation.request.token_limit;
    let is_covered = covered >= demand.completion_tokens_max;
    if is_of_model && own.is_none() && is_covered {
        return None;
    }
    (own != Some(covered)).then_some(covered)
}

pub(super) fn refusal(decline: Decline) -> Refusal {
    match decline {
        Decline::AccountSuspended => Refusal::AccountClosed,
        Decline::KeyInactive => Refusal::InvalidKey,
        Decline::InsufficientCredits { price, .. } => Refusal::InsufficientCredits { price },
        Decline::PerRequestLimit
        | Decline::DailyLimit
        | Decline::MonthlyLimit
        | Decline::TotalLimit => Refusal::SpendingLimit,
        Decline::NotOpen => Refusal::OutcomeUnknown("the hold is not open any more"),
        Decline::AlreadyOpen => Refusal::Unavailable("a charge with this id is open already"),
        Decline::AmountNotPositive | Decline::AmountTooLarge => {
            Refusal::BadBody("the request could cost more than any account can hold".into())
        }
    }
}
