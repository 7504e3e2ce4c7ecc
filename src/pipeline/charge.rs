//! Balance, spending limits, debit. Quoted -> Charged: ONE request to the account's owner decides all three.

use std::sync::Arc;

use super::gateway::{Gateway, lease};
use super::price::{Generation, Quoted};
use super::request::Arrival;
use crate::actors::ledger::Acknowledgement;
use crate::actors::{AccountError, AccountHandle};
use crate::idempotency::Claim;
use crate::store::api_keys::KeyRecord;
use crate::upstream::Dialect;
use domain::Refusal;
use domain::account::Terms;
use domain::pricing::PriceRule;
use domain::{Bounds, Charge, ChargeId, Credits, Decline, Price};

/// A request that is paid for, or whose money is held.
pub struct Charged {
    pub(super) arrival: Box<Arrival>,
    pub(super) rule: Arc<PriceRule>,
    pub(super) key: Arc<KeyRecord>,
    pub(super) dialect: Dialect,
    pub(super) generation: Option<Generation>,
    pub(super) open: OpenCharge,
    /// Debited or held.
    pub(super) terms: Terms,
    /// The token limit that the upstream is told, where it is not the request's own.
    pub(super) token_limit: Option<u64>,
    /// Hears when a fixed price, or the hold of a stream, is on record; it commits while the upstream works.
    pub(super) debit: Option<Acknowledgement>,
    /// The right to answer first, where the request may be repeated.
    pub(super) claim: Option<Claim>,
}

/// An open charge. Dropped without being settled, it is ended at what it has earned: no way out of the
/// pipeline, a panic included, leaves a hold behind.
pub struct OpenCharge {
    pub(super) id: ChargeId,
    /// The cost of what was delivered, where that is known.
    pub(super) earned: Credits,
    /// Taken by the settlement.
    pub(super) account: Option<AccountHandle>,
}

impl Drop for OpenCharge {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.abandon(self.id, self.earned);
        }
    }
}

/// Charges the request, or holds what it can cost, or what it begins with.
pub(super) async fn charge(
    gateway: &Gateway,
    quoted: Quoted,
    claim: Option<Claim>,
) -> Result<Box<Charged>, Refusal> {
    let account = lease(gateway, &quoted.key).await?;
    let order = order(gateway, &quoted, claim.is_some());
    let Quoted { arrival, rule, key, dialect, generation, .. } = quoted;
    let receipt = account.charge(order).await.map_err(|error| match error {
        AccountError::Refused(decline) => refusal(decline),
        AccountError::Gone => Refusal::OutcomeUnknown("the account's owner died"),
    })?;
    let open = OpenCharge { id: arrival.id, earned: Credits::ZERO, account: Some(account) };
    failpoint!("charge-accepted");
    let (terms, debit) = (receipt.decided, receipt.durable);
    let token_limit = generation
        .as_ref()
        .and_then(|generation| token_limit(gateway, &rule, generation, terms.ceiling));
    let charged =
        Charged { arrival, rule, key, dialect, generation, open, terms, token_limit, debit, claim };
    Ok(Box::new(charged))
}

/// What the account is asked for.
pub(super) fn order(gateway: &Gateway, quoted: &Quoted, may_be_repeated: bool) -> Charge {
    let price = match quoted.price {
        // Held and captured with the answer in one transaction, so that a repeat after a crash between debit
        // and answer is not charged a second time.
        Price::Fixed(price) if may_be_repeated => Price::UpTo(Bounds::whole(price, price)),
        price => price,
    };
    Charge {
        id: quoted.arrival.id,
        key: quoted.key.key,
        price,
        expires_at: quoted.arrival.at.plus_micros(gateway.hold_lifetime_micros),
        is_durable: Generation::is_stream(quoted.generation.as_ref()),
    }
}

/// The token limit that the upstream must be told: where the request names none, and where less of it is
/// covered.
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
    (generation.ask.token_limit != Some(covered)).then_some(covered)
}

pub(super) fn refusal(decline: Decline) -> Refusal {
    match decline {
        Decline::AccountClosed => Refusal::AccountClosed,
        Decline::KeyInactive => Refusal::InvalidKey,
        Decline::InsufficientCredits { price, .. } => Refusal::InsufficientCredits { price },
        Decline::PerRequestLimit
        | Decline::DailyLimit
        | Decline::MonthlyLimit
        | Decline::TotalLimit => Refusal::SpendingLimit,
        Decline::NotOpen => Refusal::OutcomeUnknown("the hold is not open any more"),
        Decline::AlreadyOpen => Refusal::Unavailable("a charge with this id is open already"),
        Decline::AmountTooLarge => {
            Refusal::BadBody("the request could cost more than any account can hold".into())
        }
    }
}
