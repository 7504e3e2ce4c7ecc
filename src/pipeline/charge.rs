//! Balance, spending limits, debit. Quoted -> Charged: ONE message to the account's actor decides all three.

use std::sync::Arc;

use super::price::Quoted;
use super::{Arrival, Gateway, Refusal};
use crate::actors::directory::DirectoryError;
use crate::actors::ledger_writer::{Acknowledgement, WriterState};
use crate::actors::{AccountError, AccountLease};
use crate::domain::pricing::PriceRule;
use crate::domain::{Charge, ChargeId, Decline};
use crate::store::api_keys::KeyRecord;

/// A request that is paid for, or whose money is held.
pub struct Charged {
    pub(super) arrival: Arrival,
    pub(super) rule: Arc<PriceRule>,
    pub(super) key: Arc<KeyRecord>,
    pub(super) open: OpenCharge,
    /// Hears when a fixed price is on record; it commits while the upstream works.
    pub(super) debit: Option<Acknowledgement>,
}

/// An open charge. Dropped without being settled, it is ended as failed: no way out of the pipeline, a panic
/// included, leaves a hold behind.
pub struct OpenCharge {
    pub(super) id: ChargeId,
    /// Taken by the settlement.
    pub(super) account: Option<AccountLease>,
}

impl Drop for OpenCharge {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.abandon(self.id);
        }
    }
}

/// Charges the request, or holds what it can cost.
pub(super) async fn charge(gateway: &Gateway, quoted: Quoted) -> Result<Charged, Refusal> {
    let Quoted { arrival, rule, key, price } = quoted;
    match gateway.ledger.state() {
        WriterState::Serving => {}
        WriterState::Full => return Err(Refusal::Unavailable("the ledger writer's queue is full")),
        WriterState::Unavailable => {
            return Err(Refusal::Unavailable("the database does not take writes"));
        }
        WriterState::Fenced => {
            return Err(Refusal::Unavailable("another process owns the accounts"));
        }
    }
    let account = gateway.directory.lease(key.account).await.map_err(|error| match error {
        DirectoryError::Busy => Refusal::TooManyInFlight,
        DirectoryError::Load(error) => {
            tracing::error!(account = %key.account, %error, "an account could not be loaded");
            Refusal::Unavailable("the account could not be loaded")
        }
        DirectoryError::Unwritable => Refusal::Unavailable("the ledger cannot be written"),
    })?;
    let expires_at = arrival.at.plus_micros(gateway.hold_lifetime_micros);
    let order = Charge { id: arrival.id, key: key.key, price, expires_at };
    let receipt = account.charge(order).await.map_err(|error| match error {
        AccountError::Refused(decline) => refusal(decline),
        AccountError::Gone => Refusal::OutcomeUnknown("the account's actor died"),
    })?;
    let open = OpenCharge { id: arrival.id, account: Some(account) };
    Ok(Charged { arrival, rule, key, open, debit: receipt.durable })
}

fn refusal(decline: Decline) -> Refusal {
    match decline {
        Decline::AccountClosed => Refusal::AccountClosed,
        Decline::KeyInactive => Refusal::InvalidKey,
        Decline::InsufficientCredits { price, .. } => Refusal::InsufficientCredits { price },
        Decline::PerRequestLimit | Decline::DailyLimit | Decline::MonthlyLimit => {
            Refusal::SpendingLimit
        }
        Decline::AlreadyOpen => Refusal::Unavailable("a charge with this id is open already"),
        Decline::AmountTooLarge => {
            Refusal::BadBody("the request could cost more than any account can hold".into())
        }
    }
}
