//! Which events a batch causes. They are written in the transaction of the batch.

use std::collections::BTreeMap;

use super::batch::{Batch, Change};
use super::event::{
    DEPLETED_BELOW, Event, EventKind, LimitWindow, balance_data, crossing_data, new_key_data,
    of_limit, of_payment, reversal_data, revoked_key_data,
};
use super::ids::{AccountId, KeyId};
use super::ledger::LedgerEntry;
use super::limits::SpendingLimits;
use super::money::Credits;
use super::payment::{PaymentStatus, ReversalKind, ReversalStep};

/// Percent of a limit at which its holder is warned.
const WARN_PERCENT: i128 = 80;

/// The events of a batch, for account holders who subscribe to them.
///
/// `low` returns the balance below which an account counts as low, and `None` if its holder has no
/// subscription. `limits` are the spending limits of the holders' keys.
#[must_use]
pub fn of_batch(
    batch: &Batch,
    low: &dyn Fn(AccountId) -> Option<Credits>,
    limits: &BTreeMap<KeyId, SpendingLimits>,
) -> Vec<Event> {
    let mut events = Vec::new();
    for entry in &batch.entries {
        if let Some(low) = low(entry.account) {
            add_crossings(entry, low, &mut events);
        }
    }
    for (account, (_, last)) in batch.accounts() {
        events.extend(low(account).map(|_| updated(&last)));
    }
    for change in &batch.changes {
        events.extend(of_change(batch, change).filter(|event| low(event.account).is_some()));
    }
    add_limits(batch, limits, &mut events);
    events.extend(batch.events.iter().filter(|event| low(event.account).is_some()).cloned());
    events
}

fn updated(entry: &LedgerEntry) -> Event {
    let kind = EventKind::BalanceUpdated;
    let data = balance_data(entry.balance_after, entry.seq);
    let once = format!("{}:{}", kind.name(), entry.account);
    Event { account: entry.account, kind, once, at: entry.at, data }
}

fn add_crossings(entry: &LedgerEntry, low: Credits, events: &mut Vec<Event>) {
    let after = entry.balance_after;
    let before = after.checked_sub(entry.amount).unwrap_or(Credits::MAX);
    for (kind, line) in [(EventKind::BalanceLow, low), (EventKind::BalanceDepleted, DEPLETED_BELOW)]
    {
        if before < line || after >= line {
            continue;
        }
        let data = crossing_data(after, line, entry.seq);
        let once = format!("{}:{}:{}", kind.name(), entry.account, entry.seq);
        events.push(Event { account: entry.account, kind, once, at: entry.at, data });
    }
}

fn of_change(batch: &Batch, change: &Change) -> Option<Event> {
    match change {
        Change::PaymentConfirmed(payment) => {
            let (account, status) = (payment.account, PaymentStatus::Confirmed);
            Some(of_payment(account, payment.id, payment.amount, status, payment.at))
        }
        Change::PaymentPaid(payment, at) => {
            let entry = batch.entries.iter().find(|entry| entry.reference == payment.0)?;
            let status = PaymentStatus::Confirmed;
            Some(of_payment(entry.account, *payment, entry.amount, status, *at))
        }
        Change::PaymentReversed(reversal, step) => {
            let (kind, amount) = match (step, reversal.kind) {
                (ReversalStep::Take(amount), ReversalKind::Refund) => {
                    (EventKind::PaymentRefunded, amount)
                }
                (ReversalStep::Take(amount), ReversalKind::Dispute) => {
                    (EventKind::PaymentDisputed, amount)
                }
                (ReversalStep::Give(amount), _) => (EventKind::PaymentReinstated, amount),
            };
            let entry = batch.entries.iter().rev().find(|entry| {
                entry.account == reversal.account && entry.reference == reversal.payment.0
            })?;
            let outstanding = reversal.wanted.less(reversal.taken_after(*step));
            let data = reversal_data(reversal.payment, *amount, outstanding);
            let once = format!("{}:{}:{}", kind.name(), entry.account, entry.seq);
            let (account, at) = (reversal.account, entry.at);
            Some(Event { account, kind, once, at, data })
        }
        Change::KeyCreated(key) => {
            let data = new_key_data(key.id, &key.name);
            let kind = EventKind::KeyCreated;
            let once = format!("{}:{}", kind.name(), key.id);
            let (account, at) = (key.account, key.created_at);
            Some(Event { account, kind, once, at, data })
        }
        Change::KeyRevoked(account, key, at) | Change::KeyDeleted(account, key, at) => {
            let kind = EventKind::KeyRevoked;
            let data = revoked_key_data(*key);
            let once = format!("{}:{key}", kind.name());
            Some(Event { account: *account, kind, once, at: *at, data })
        }
        Change::KeyLimits(..)
        | Change::KeyEdited(..)
        | Change::AccountStatus(..)
        | Change::UserErased(_) => None,
    }
}

fn add_limits(batch: &Batch, limits: &BTreeMap<KeyId, SpendingLimits>, events: &mut Vec<Event>) {
    for (key, limits) in limits {
        let Some(spend) = batch.spends.get(key) else { continue };
        let own = || batch.entries.iter().filter(|entry| entry.key == Some(*key));
        let Some(last) = own().next_back() else { continue };
        let added = |is_in: &dyn Fn(&LedgerEntry) -> bool| {
            own().filter(|entry| is_in(entry)).fold(Credits::ZERO, |sum, entry| {
                sum.checked_sub(entry.amount).unwrap_or(Credits::MAX)
            })
        };
        let of_day = added(&|entry| entry.day == spend.day);
        let of_month = added(&|entry| entry.month == spend.month);
        for (window, limit, spent, added) in [
            (LimitWindow::Day(spend.day.0), limits.daily, spend.day_spent, of_day),
            (LimitWindow::Month(spend.month.0), limits.monthly, spend.month_spent, of_month),
        ] {
            let Some(limit) = limit else { continue };
            let before = spent.checked_sub(added).unwrap_or(Credits::ZERO);
            let has = |spent: Credits, percent: i128| {
                i128::from(spent.nanos()).saturating_mul(100)
                    >= i128::from(limit.nanos()).saturating_mul(percent)
            };
            for (kind, percent) in
                [(EventKind::UsageThreshold, WARN_PERCENT), (EventKind::UsageLimitExceeded, 100)]
            {
                if has(spent, percent) && !has(before, percent) {
                    let account = last.account;
                    events.push(of_limit(account, *key, kind, window, spent, limit, last.at));
                }
            }
        }
    }
}
