//! Events: what account holders are notified of by webhook.
//!
//! Most follow from the batch that is being written ([`event_rules`](crate::event_rules)). An event
//! is in the same transaction as its cause: neither is on record without the other, also after a
//! crash, a retry or a takeover.

use std::fmt::{Display, Write as _};

use super::coded::coded_enum;
use super::ids::{AccountId, KeyId, PaymentId};
use super::money::Credits;
use super::payment::PaymentStatus;
use super::window::Timestamp;

/// A balance below this reads as 0.00: it is depleted.
pub const DEPLETED_BELOW: Credits = Credits::from_nanos(10_000_000);

coded_enum! {
    /// What happened.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum EventKind {
        /// A payment was begun.
        PaymentCreated => "payment.created",
        /// Its provider has the payer's promise, and not yet the money.
        PaymentConfirming => "payment.confirming",
        /// Its credits are on the account.
        PaymentConfirmed => "payment.confirmed",
        /// Its provider did not get the money.
        PaymentFailed => "payment.failed",
        /// Its payer did not pay in time.
        PaymentExpired => "payment.expired",
        /// Some of it was given back, and its credits taken.
        PaymentRefunded => "payment.refunded",
        /// It is disputed, and its credits taken.
        PaymentDisputed => "payment.disputed",
        /// Credits that a refund or a dispute had taken were given again.
        PaymentReinstated => "payment.reinstated",
        /// The balance has changed; many changes are one event.
        BalanceUpdated => "balance.updated",
        /// The balance has fallen below the account's threshold.
        BalanceLow => "balance.low",
        /// The balance reads as 0.00.
        BalanceDepleted => "balance.depleted",
        /// A key has spent 80 % of a limit.
        UsageThreshold => "usage.threshold",
        /// A key has reached a limit.
        UsageLimitExceeded => "usage.limit_exceeded",
        /// The account spends much more than it did.
        UsageSpike => "usage.spike",
        /// A key was made.
        KeyCreated => "key.created",
        /// A key was put out of use.
        KeyRevoked => "key.revoked",
        /// A key ends soon.
        KeyExpiring => "key.expiring",
        /// A key has ended by itself.
        KeyExpired => "key.expired",
        /// A test, sent by hand.
        Test => "webhook.test",
    }
}

impl EventKind {
    /// The kind of a payment that has come so far.
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

/// Does a selection (`payment.confirmed`, or `payment.*`) include this kind?
#[must_use]
pub fn selects(selection: &str, kind: EventKind) -> bool {
    match selection.strip_suffix('*') {
        Some(group) => group.ends_with('.') && kind.name().starts_with(group),
        None => selection == kind.name(),
    }
}

/// Is it a selection that includes any kind?
#[must_use]
pub fn is_selection(selection: &str) -> bool {
    EventKind::ALL.iter().any(|kind| *kind != EventKind::Test && selects(selection, *kind))
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To whose account.
    pub account: AccountId,
    /// What.
    pub kind: EventKind,
    /// Its identity: two events with the same one are one event. All [`EventKind::BalanceUpdated`]
    /// of an account share one until it is sent: the later event replaces the earlier.
    pub once: String,
    /// When.
    pub at: Timestamp,
    /// The rest, as a JSON object.
    pub data: String,
}

/// A builder of a JSON object, field by field.
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

    /// A text.
    #[must_use]
    pub fn text(mut self, name: &str, text: impl Display) -> Self {
        self.name(name);
        self.0.push_str(&serde_json::Value::from(text.to_string()).to_string());
        self
    }

    /// A number, or an amount.
    #[must_use]
    pub fn number(mut self, name: &str, number: impl Display) -> Self {
        self.name(name);
        let _ = write!(self.0, "{number}");
        self
    }

    /// The object.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The event of a payment that reached this status.
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
    // It can reach the same status again through another one, so the time is part of the identity.
    let once = match status {
        PaymentStatus::Created | PaymentStatus::Confirmed => format!("{}:{payment}", kind.name()),
        _ => format!("{}:{payment}:{}", kind.name(), at.micros()),
    };
    Event { account, kind, once, at, data }
}

/// The event of a key that its account's ledger does not show.
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

/// A window of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitWindow {
    /// A UTC day, by its number.
    Day(i32),
    /// A UTC month, by its number.
    Month(i32),
}

/// The event of a key that has come near a limit, or has reached it.
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
    // Another ceiling in the same window can be reached anew.
    let once = format!("{}:{key}:{name}:{number}:{}", kind.name(), limit.nanos());
    Event { account, kind, once, at, data }
}
