//! Stripe's JSON objects, read and written.

use serde_json::Value;

use crate::payments::provider::{ProviderError, SeenReversal, Stage, at};
use domain::{Credits, PaymentId, ReversalKind};

/// The events of refunds and disputes.
pub(super) const REVERSAL_EVENTS: [&str; 9] = [
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "refund.created",
    "refund.updated",
    "refund.failed",
];

pub(super) const NANOS_PER_CENT: i64 = 10_000_000;

/// A saved payment method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMethod {
    /// Its id at Stripe.
    pub id: String,
    /// `card`, `us_bank_account`, ...
    pub kind: String,
    /// The card's brand.
    pub brand: Option<String>,
    /// The card's last four digits.
    pub last4: Option<String>,
    /// The card's last month.
    pub exp_month: Option<u32>,
    /// The card's last year.
    pub exp_year: Option<u32>,
}

/// The subject of a webhook of Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A payment, and the id of its payment intent, if it is given.
    Payment(PaymentId, Option<String>),
    /// A payment intent; Stripe has to be asked for its payment.
    Intent(String),
    /// Nothing to act on.
    Nothing,
}

/// An id, or an expanded object with an id.
pub(super) fn id_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| at(value, "id").as_str())
}

pub(super) fn payment_of(object: &Value) -> Option<PaymentId> {
    at(at(object, "metadata"), "payment_id").as_str()?.parse().ok()
}

pub(super) fn text(object: &Value, name: &str) -> Result<String, ProviderError> {
    let text = at(object, name).as_str().map(str::to_owned);
    text.ok_or_else(|| ProviderError::Unreachable(format!("an answer without {name}")))
}

/// The subject of an event; `None` if it is not one.
pub(super) fn hint_of(event: &Value) -> Option<Hint> {
    let object = event.get("data")?.get("object")?;
    let intent = match at(object, "object").as_str() {
        Some("payment_intent") => at(object, "id").as_str(),
        Some("checkout.session" | "charge" | "refund" | "dispute") => {
            id_of(at(object, "payment_intent"))
        }
        _ => return Some(Hint::Nothing),
    };
    let intent = intent.map(str::to_owned);
    Some(match (payment_of(object), intent) {
        (Some(payment), intent) => Hint::Payment(payment, intent),
        (None, Some(intent)) => Hint::Intent(intent),
        (None, None) => Hint::Nothing,
    })
}

pub(super) fn failure_of(error: &Value) -> String {
    let text = |name: &str| at(error, name).as_str();
    let code = text("decline_code").or_else(|| text("code")).or_else(|| text("type"));
    let message = text("message").unwrap_or("no reason given");
    match code {
        Some(code) => format!("{code}: {message}"),
        None => message.to_owned(),
    }
}

pub(super) fn metadata(of: &str, name: &str, value: &impl std::fmt::Display) -> (String, String) {
    let field =
        if of.is_empty() { format!("metadata[{name}]") } else { format!("{of}[metadata][{name}]") };
    (field, value.to_string())
}

pub(super) fn saved_method(method: &Value) -> Option<SavedMethod> {
    let card = at(method, "card");
    let number = |name: &str| at(card, name).as_u64().and_then(|number| u32::try_from(number).ok());
    let text = |name: &str| at(card, name).as_str().map(str::to_owned);
    Some(SavedMethod {
        id: at(method, "id").as_str()?.to_owned(),
        kind: at(method, "type").as_str()?.to_owned(),
        brand: text("brand"),
        last4: text("last4"),
        exp_month: number("exp_month"),
        exp_year: number("exp_year"),
    })
}

/// The state of a payment intent. One charged off-session does not wait for its owner.
pub(super) fn stage_of(intent: &Value, is_off_session: bool) -> Stage {
    match at(intent, "status").as_str().unwrap_or_default() {
        "succeeded" => match credits(at(intent, "amount_received")) {
            Some(amount) if *at(intent, "currency") == "usd" => Stage::Paid(amount),
            _ => Stage::Failed("paid in another currency".into()),
        },
        "processing" => Stage::Confirming,
        "canceled" => Stage::Failed("canceled".into()),
        _ if is_off_session => Stage::Failed(failure_of(at(intent, "last_payment_error"))),
        _ => Stage::Waiting,
    }
}

pub(super) fn reversal(
    object: &Value,
    kind: ReversalKind,
    is_nothing: bool,
) -> Result<SeenReversal, ProviderError> {
    let amount = credits(at(object, "amount"))
        .ok_or_else(|| ProviderError::Unreachable("a reversal without an amount".into()))?;
    let wanted = if is_nothing { Credits::ZERO } else { amount };
    Ok(SeenReversal { provider_ref: text(object, "id")?, kind, wanted })
}

/// Whole cents as credits.
pub(super) fn credits(cents: &Value) -> Option<Credits> {
    Some(Credits::from_nanos(cents.as_i64()?.checked_mul(NANOS_PER_CENT)?))
}

/// Credits as whole cents.
pub(super) fn cents(amount: Credits) -> Result<i64, ProviderError> {
    let nanos = amount.nanos();
    if nanos.checked_rem(NANOS_PER_CENT) != Some(0) {
        return Err(ProviderError::Refused("the amount is not in whole cents".into()));
    }
    nanos
        .checked_div(NANOS_PER_CENT)
        .ok_or_else(|| ProviderError::Refused("the amount is not in whole cents".into()))
}

/// Is the amount in whole cents?
#[must_use]
pub fn is_whole_cents(amount: Credits) -> bool {
    cents(amount).is_ok()
}

/// Only characters of Stripe's ids, so that an id is always one path segment.
pub(super) fn escaped(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}
