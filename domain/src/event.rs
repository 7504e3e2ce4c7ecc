//! Events: notifications of account holders by webhook.
//!
//! Most events follow from the batch that is being written ([`event_rules`](crate::event_rules)).
//! An event is written in the transaction of its cause. So neither is on record without the other,
//! even after a crash, a retry or a takeover.

use std::fmt::{Display, Write as _};

use super::coded::coded_enum;
use super::ids::{AccountId, EndpointId, KeyId, PaymentId};
use super::money::Credits;
use super::payment::PaymentStatus;
use super::window::Timestamp;

/// A balance below this is shown as 0.00 and counts as depleted.
pub const DEPLETED_BELOW: Credits = Credits::from_nanos(10_000_000);

coded_enum! {
    /// The kind of an event.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum EventKind {
        /// A payment was created.
        PaymentCreated => "payment.created",
        /// The provider of a payment has the payer's promise, but not the money yet.
        PaymentConfirming => "payment.confirming",
        /// The credits of a payment are on the account.
        PaymentConfirmed => "payment.confirmed",
        /// The provider of a payment did not get the money.
        PaymentFailed => "payment.failed",
        /// The payer did not pay in time.
        PaymentExpired => "payment.expired",
        /// A payment was refunded, completely or in part, and its credits taken.
        PaymentRefunded => "payment.refunded",
        /// A payment is disputed, and its credits taken.
        PaymentDisputed => "payment.disputed",
        /// Credits that a refund or a dispute had taken were given back.
        PaymentReinstated => "payment.reinstated",
        /// The balance has changed. Many changes are one event.
        BalanceUpdated => "balance.updated",
        /// The balance has fallen below the account's threshold.
        BalanceLow => "balance.low",
        /// The balance has fallen below one cent.
        BalanceDepleted => "balance.depleted",
        /// A key has spent 80 % of a daily or monthly limit.
        UsageThreshold => "usage.threshold",
        /// A key has reached a daily or monthly limit.
        UsageLimitExceeded => "usage.limit_exceeded",
        /// The account spends much more than usual.
        UsageSpike => "usage.spike",
        /// A key was created.
        KeyCreated => "key.created",
        /// A key was revoked or deleted.
        KeyRevoked => "key.revoked",
        /// A key expires soon.
        KeyExpiring => "key.expiring",
        /// A key has expired.
        KeyExpired => "key.expired",
        /// A test event that the account holder requested.
        Test => "webhook.test",
    }
}

impl EventKind {
    /// The kind of the event for a payment that reaches this status.
    #[must_use]
    pub const fn of_payment(status: PaymentStatus) -> Self {
        match status {
            PaymentStatus::Created => EventKind::PaymentCreated,
            PaymentStatus::Confirming => EventKind::PaymentConfirming,
            PaymentStatus::Confirmed => EventKind::PaymentConfirmed,
            PaymentStatus::Failed => EventKind::PaymentFailed,
            PaymentStatus::Expired => EventKind::PaymentExpired,
        }
    }
}

/// Does a selection (such as `payment.confirmed` or `payment.*`) include this kind?
#[must_use]
pub fn selects(selection: &str, kind: EventKind) -> bool {
    match selection.strip_suffix('*') {
        Some(group) => group.ends_with('.') && kind.name().starts_with(group),
        None => selection == kind.name(),
    }
}

/// Does this selection include at least one kind? [`EventKind::Test`] cannot be selected.
#[must_use]
pub fn is_selection(selection: &str) -> bool {
    EventKind::ALL.iter().any(|kind| *kind != EventKind::Test && selects(selection, *kind))
}

/// A notification for the holder of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The account.
    pub account: AccountId,
    /// What happened.
    pub kind: EventKind,
    /// The identity of the event. Two events with the same one count as one event. All
    /// [`EventKind::BalanceUpdated`] of an account share one until it is sent: the later event
    /// replaces the earlier one.
    pub once: String,
    /// When it happened.
    pub at: Timestamp,
    /// Further fields, as a JSON object.
    pub data: String,
}

/// Builds a JSON object, field by field.
#[derive(Clone, Debug)]
pub struct JsonObject(String);

impl Default for JsonObject {
    fn default() -> Self {
        JsonObject(String::from("{"))
    }
}

impl JsonObject {
    fn name(&mut self, name: &str) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{comma}\"{name}\":");
    }

    /// Adds a text field.
    #[must_use]
    pub fn text(mut self, name: &str, text: impl Display) -> Self {
        self.name(name);
        self.0.push_str(&serde_json::Value::from(text.to_string()).to_string());
        self
    }

    /// Adds a number or an amount.
    #[must_use]
    pub fn number(mut self, name: &str, number: impl Display) -> Self {
        self.name(name);
        let _ = write!(self.0, "{number}");
        self
    }

    /// The finished object.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// What an event of a new balance tells.
#[must_use]
pub fn balance_data(balance: Credits, sequence: i64) -> String {
    let facts = JsonObject::default().number("balance", balance).text("currency", "USD");
    facts.number("sequence", sequence).finish()
}

/// What an event of a balance that has fallen below a line tells.
#[must_use]
pub fn crossing_data(balance: Credits, line: Credits, sequence: i64) -> String {
    let facts = JsonObject::default().number("balance", balance).number("threshold", line);
    facts.text("currency", "USD").number("sequence", sequence).finish()
}

/// What an event of credits that a provider takes back or returns tells. `outstanding` is what
/// could not be taken yet.
#[must_use]
pub fn reversal_data(payment: PaymentId, amount: Credits, outstanding: Credits) -> String {
    let facts = JsonObject::default().text("payment_id", payment).number("amount", amount);
    facts.text("currency", "USD").number("outstanding", outstanding).finish()
}

/// What the event of a new key tells.
#[must_use]
pub fn new_key_data(key: KeyId, name: &str) -> String {
    JsonObject::default().text("key_id", key).text("name", name).finish()
}

/// What the event of a revoked key tells.
#[must_use]
pub fn revoked_key_data(key: KeyId) -> String {
    JsonObject::default().text("key_id", key).finish()
}

/// What the event of an hour tells that costs more than usual.
#[must_use]
pub fn spike_data(spent: Credits, usual: Credits) -> String {
    let facts = JsonObject::default().number("spent", spent).number("usual", usual);
    facts.text("currency", "USD").text("window", "hour").finish()
}

/// What a test event tells.
#[must_use]
pub fn test_data(endpoint: EndpointId) -> String {
    JsonObject::default().text("endpoint_id", endpoint).finish()
}

/// The event of a payment that reaches this status.
#[must_use]
pub fn of_payment(
    account: AccountId,
    payment: PaymentId,
    amount: Credits,
    status: PaymentStatus,
    at: Timestamp,
) -> Event {
    let kind = EventKind::of_payment(status);
    let facts = JsonObject::default().text("payment_id", payment).number("amount", amount);
    let data = facts.text("currency", "USD").text("status", status.name()).finish();
    // A payment can reach these statuses more than once, so the time is part of the identity.
    let once = match status {
        PaymentStatus::Created | PaymentStatus::Confirmed => format!("{}:{payment}", kind.name()),
        _ => format!("{}:{payment}:{}", kind.name(), at.micros()),
    };
    Event { account, kind, once, at, data }
}

/// The event of a key that expires or has expired; the ledger does not show this.
#[must_use]
pub fn of_key(
    account: AccountId,
    key: KeyId,
    kind: EventKind,
    at: Timestamp,
    end: Option<Timestamp>,
) -> Event {
    let mut facts = JsonObject::default().text("key_id", key);
    if let Some(end) = end {
        facts = facts.text("expires_at", end.to_rfc3339());
    }
    let end = end.map_or(0, Timestamp::micros);
    let once = format!("{}:{key}:{end}", kind.name());
    Event { account, kind, once, at, data: facts.finish() }
}

/// The window of a spending limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitWindow {
    /// A UTC day: days since 1970-01-01.
    Day(i32),
    /// A UTC month; see [`Month`](crate::window::Month).
    Month(i32),
}

/// The event of a key that comes near a limit or reaches it.
#[must_use]
pub fn of_limit(
    account: AccountId,
    key: KeyId,
    kind: EventKind,
    window: LimitWindow,
    spent: Credits,
    limit: Credits,
    at: Timestamp,
) -> Event {
    let (name, number) = match window {
        LimitWindow::Day(day) => ("daily", day),
        LimitWindow::Month(month) => ("monthly", month),
    };
    let facts = JsonObject::default().text("key_id", key).text("limit", name);
    let facts = facts.number("limit_amount", limit).number("spent", spent);
    let data = facts.text("currency", "USD").finish();
    // A new limit can be reached again in the same window, so the amount is part of the identity.
    let once = format!("{}:{key}:{name}:{number}:{}", kind.name(), limit.nanos());
    Event { account, kind, once, at, data }
}
