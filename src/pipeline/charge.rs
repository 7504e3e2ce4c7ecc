//! Stage 5, balance, spending limits and debit. Quoted -> ChargedCall: ONE request to the account's
//! owner decides all three.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::gateway::{Gateway, lease};
use super::price::{Generation, Quoted};
use super::request::Arrival;
use crate::actors::ledger::Acknowledgement;
use crate::actors::{AccountError, AccountHandle};
use crate::idempotency::Claim;
use crate::store::keys::KeyRecord;
use crate::upstream::Dialect;
use domain::Refusal;
use domain::account::ChargeTerms;
use domain::pricing::PriceRule;
use domain::{Charge, ChargeId, Credits, Decline, Price, PriceBounds};

/// A request whose price is debited or held. Only `charge` makes one.
pub struct ChargedCall {
    quoted: Quoted,
    guard: ChargeGuard,
    terms: ChargeTerms,
    token_limit: Option<u64>,
    debit: Option<Acknowledgement>,
    claim: Option<Claim>,
}

/// An open charge. If it is dropped unsettled, it ends at what it has earned, so no way out of the
/// pipeline, a panic included, leaves a hold behind.
struct ChargeGuard {
    id: ChargeId,
    earned: Credits,
    account: Option<AccountHandle>,
}

impl Drop for ChargeGuard {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.abandon(self.id, self.earned);
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

    /// The cost of what was delivered, in case the charge is dropped unsettled.
    pub(super) fn set_earned(&mut self, earned: Credits) {
        self.guard.earned = earned;
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
    mut quoted: Quoted,
    claim: Option<Claim>,
) -> Result<Box<ChargedCall>, Refusal> {
    let account = lease(gateway, quoted.key()).await?;
    let order = order(gateway, &quoted, claim.is_some());
    let receipt = account.charge(order).await.map_err(|error| match error {
        AccountError::Refused(decline) => refusal(decline),
        AccountError::Gone => Refusal::OutcomeUnknown("the account's owner died"),
    })?;
    let id = quoted.arrival().id;
    let guard = ChargeGuard { id, earned: Credits::ZERO, account: Some(account) };
    if let Some(charged) = quoted.take_charged() {
        // The listener may have left.
        let _ = charged.send(());
    }
    failpoint!("charge-accepted");
    let (terms, debit) = (receipt.decided, receipt.durable);
    let token_limit = quoted
        .generation()
        .and_then(|generation| token_limit(gateway, quoted.rule(), generation, terms.ceiling));
    Ok(Box::new(ChargedCall { quoted, guard, terms, token_limit, debit, claim }))
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
        expires_at: quoted.arrival().at.plus_micros(gateway.hold_lifetime_micros),
        is_durable: quoted.is_stream(),
    }
}

/// The token limit that the upstream must get: if the request names none, or if less than its own
/// is covered.
pub(super) fn token_limit(
    gateway: &Gateway,
    rule: &PriceRule,
    generation: &Generation,
    ceiling: Credits,
) -> Option<u64> {
    let demand = generation.demand;
    let covered = if gateway.holds.lower_token_limit {
        rule.completion_tokens_within(ceiling, demand)
    } else {
        demand.completion_tokens_max
    };
    (generation.request.token_limit != Some(covered)).then_some(covered)
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
