//! A sample of each event, made by what makes the real ones. For people who write a receiver.

use uuid::Uuid;

use super::event::{
    DEPLETED_BELOW, Event, EventKind, LimitWindow, balance_data, crossing_data, new_key_data,
    of_key, of_limit, of_payment, reversal_data, revoked_key_data, spike_data, test_data,
};
use super::ids::{AccountId, EndpointId, KeyId, PaymentId};
use super::money::Credits;
use super::payment::PaymentStatus;
use super::window::Timestamp;

const ACCOUNT: AccountId = AccountId(1);
const PAYMENT: PaymentId = PaymentId(Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0001));
const KEY: KeyId = KeyId(Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0002));
const ENDPOINT: EndpointId = EndpointId(Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0003));
/// 2026-11-29T08:30:00Z.
const AT: Timestamp = Timestamp::from_micros(1_795_941_000_000_000);
const WEEK_MICROS: i64 = 604_800_000_000;

const fn dollars(dollars: i64) -> Credits {
    Credits::from_nanos(dollars.saturating_mul(1_000_000_000))
}

/// When a sample has happened.
#[must_use]
pub const fn sample_at() -> Timestamp {
    AT
}

/// The data of a sample: a JSON object.
#[must_use]
pub fn sample_data(kind: EventKind) -> String {
    let payment = |status| of_payment(ACCOUNT, PAYMENT, dollars(25), status, AT);
    let limit = |spent| {
        let day = LimitWindow::Day(AT.day().0);
        of_limit(ACCOUNT, KEY, kind, day, spent, dollars(10), AT)
    };
    let data = |event: Event| event.data;
    match kind {
        EventKind::PaymentCreated => data(payment(PaymentStatus::Created)),
        EventKind::PaymentConfirming => data(payment(PaymentStatus::Confirming)),
        EventKind::PaymentConfirmed => data(payment(PaymentStatus::Confirmed)),
        EventKind::PaymentFailed => data(payment(PaymentStatus::Failed)),
        EventKind::PaymentExpired => data(payment(PaymentStatus::Expired)),
        EventKind::PaymentRefunded | EventKind::PaymentDisputed | EventKind::PaymentReinstated => {
            reversal_data(PAYMENT, dollars(25), Credits::ZERO)
        }
        EventKind::BalanceUpdated => balance_data(dollars(42), 7),
        EventKind::BalanceLow => crossing_data(dollars(9), dollars(10), 8),
        EventKind::BalanceDepleted => crossing_data(Credits::ZERO, DEPLETED_BELOW, 9),
        EventKind::UsageThreshold => data(limit(dollars(8))),
        EventKind::UsageLimitExceeded => data(limit(dollars(10))),
        EventKind::UsageSpike => spike_data(dollars(6), dollars(2)),
        EventKind::KeyCreated => new_key_data(KEY, "Production API Key"),
        EventKind::KeyRevoked => revoked_key_data(KEY),
        EventKind::KeyExpiring => {
            data(of_key(ACCOUNT, KEY, kind, AT, Some(AT.plus_micros(WEEK_MICROS))))
        }
        EventKind::KeyExpired => data(of_key(ACCOUNT, KEY, kind, AT, Some(AT))),
        EventKind::Test => test_data(ENDPOINT),
    }
}

/// When an event of this kind is sent, in one sentence.
#[must_use]
pub const fn meaning(kind: EventKind) -> &'static str {
    match kind {
        EventKind::PaymentCreated => "A payment was created.",
        EventKind::PaymentConfirming => {
            "The provider has the payer's promise, but not the money yet."
        }
        EventKind::PaymentConfirmed => "The credits of a payment are on the account.",
        EventKind::PaymentFailed => "The provider did not get the money of a payment.",
        EventKind::PaymentExpired => "The payer did not pay in time.",
        EventKind::PaymentRefunded => "A payment was refunded, and its credits were taken back.",
        EventKind::PaymentDisputed => "A payment is disputed, and its credits were taken back.",
        EventKind::PaymentReinstated => "Credits of a payment that were taken back came again.",
        EventKind::BalanceUpdated => {
            "The balance has changed. Changes within five seconds are one event."
        }
        EventKind::BalanceLow => "The balance fell below your threshold.",
        EventKind::BalanceDepleted => "The balance fell below one cent.",
        EventKind::UsageThreshold => "A key has spent 80 % of its daily or monthly limit.",
        EventKind::UsageLimitExceeded => {
            "A key has reached its daily or monthly limit, or a call was refused for it."
        }
        EventKind::UsageSpike => "An hour costs much more than the hours before it.",
        EventKind::KeyCreated => "A key was created.",
        EventKind::KeyRevoked => "A key was revoked or deleted.",
        EventKind::KeyExpiring => "A key expires soon.",
        EventKind::KeyExpired => "A key has expired.",
        EventKind::Test => "You have asked for a test.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_an_object_of_its_own() {
        for kind in EventKind::ALL {
            let data: serde_json::Value = serde_json::from_str(&sample_data(kind)).unwrap();
            assert!(data.as_object().is_some_and(|data| !data.is_empty()), "{kind:?}");
            assert!(meaning(kind).ends_with('.'), "{kind:?}");
        }
        assert_eq!(sample_at().to_rfc3339(), "2026-11-29T08:30:00Z");
        let paid = sample_data(EventKind::PaymentConfirmed);
        assert_eq!(
            paid,
            r#"{"payment_id":"pay-550e8400-e29b-41d4-a716-446655440001","amount":25.0000,"currency":"USD","status":"confirmed"}"#
        );
    }
}
