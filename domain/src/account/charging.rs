//! How an account charges for a call: the checks, the debit or hold, its extension, and its end.

use std::collections::BTreeMap;

use super::charge::{Charge, ChargeTerms, Decline, NotOpen, Outcome, Price, Settled};
use super::key::KeyState;
use super::open_charge::{OpenCharge, Stake};
use super::state::{State, key_mut, negated};
use crate::environment::AccountStatus;
use crate::hold::{Hold, HoldEnd, HoldEndKind};
use crate::ids::{ChargeId, KeyId};
use crate::ledger::{EntryKind, LedgerEntry};
use crate::limits::KeySpend;
use crate::money::Credits;
use crate::stored_bill::StoredBill;
use crate::window::{Day, Month, Timestamp};

/// A charge that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// What it got.
    pub(super) terms: ChargeTerms,
    /// The debit to write; none for a hold or a free call.
    pub(super) entry: Option<LedgerEntry>,
    /// The hold to write, if it is durable.
    pub(super) hold: Option<Hold>,
    /// The key's counters with it.
    pub(super) key_spend: KeySpend,
}

/// A hold that was made larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    /// What is held now.
    pub(super) held: Credits,
    /// The hold to write, if it is durable.
    pub(super) hold: Option<Hold>,
}

/// A charge that passed every check, before anything is changed.
struct Decided {
    day: Day,
    month: Month,
    terms: ChargeTerms,
}

/// What a call asks for now.
#[derive(Clone, Copy)]
struct Demand {
    /// What it takes in all, with what it holds already.
    whole: Credits,
    /// What it takes now.
    more: Credits,
    /// The decline if the account has less than `more`.
    uncovered: Decline,
}

impl State {
    /// What a charge would get. Changes nothing.
    pub(super) fn quote(&self, charge: &Charge, now: Timestamp) -> Result<ChargeTerms, Decline> {
        self.decide(charge, now).map(|decided| decided.terms)
    }

    /// All checks of a new charge, in the order of [`Decline`].
    fn decide(&self, charge: &Charge, now: Timestamp) -> Result<Decided, Decline> {
        if self.open.contains_key(&charge.id) {
            return Err(Decline::AlreadyOpen);
        }
        let available = self.available();
        let start = charge.price.start();
        let uncovered = charge.price.uncovered(available);
        let demand = Demand { whole: start, more: start, uncovered };
        let (key, day, month) = self.admit(charge.key, |key| key.windows(now), demand)?;
        let terms = match charge.price {
            Price::Fixed(price) => ChargeTerms { held: price, ceiling: price },
            Price::UpTo(bounds) => {
                let room = available.min(key.room(day, month, Credits::ZERO));
                let first = bounds.first_of(available);
                ChargeTerms { held: first.min(room), ceiling: bounds.most.min(room) }
            }
        };
        Ok(Decided { day, month, terms })
    }

    /// The checks that a new charge and a longer hold share, of the account, the key, the balance
    /// and the limits, in the order of [`Decline`]. Answers the key, and the day and the month in
    /// which the call counts.
    fn admit(
        &self,
        key: KeyId,
        windows: impl FnOnce(&KeyState) -> (Day, Month),
        demand: Demand,
    ) -> Result<(&KeyState, Day, Month), Decline> {
        let Demand { whole, more, uncovered } = demand;
        if self.status != AccountStatus::Open {
            return Err(Decline::AccountSuspended);
        }
        let Some(key) = self.key(key).filter(|key| !key.is_revoked) else {
            return Err(Decline::KeyInactive);
        };
        if key.limits.per_request.is_some_and(|ceiling| whole > ceiling) {
            return Err(Decline::PerRequestLimit);
        }
        if more > self.available() {
            return Err(uncovered);
        }
        let (day, month) = windows(key);
        if key.day.breaks(day, more, key.limits.daily) {
            return Err(Decline::DailyLimit);
        }
        if key.month.breaks(month, more, key.limits.monthly) {
            return Err(Decline::MonthlyLimit);
        }
        if key.total.breaks((), more, key.limits.total) {
            return Err(Decline::TotalLimit);
        }
        Ok((key, day, month))
    }

    /// Decides a charge: all checks and the debit, in one step that nothing can interrupt.
    /// Changes nothing if it declines.
    pub(super) fn charge(&mut self, charge: &Charge, now: Timestamp) -> Result<Accepted, Decline> {
        let Decided { day, month, terms } = self.decide(charge, now)?;
        let (debit, hold) = match charge.price {
            Price::Fixed(price) => (price, Credits::ZERO),
            Price::UpTo(_) => (Credits::ZERO, terms.held),
        };
        let balance = self.balance.checked_sub(debit).ok_or(Decline::AmountTooLarge)?;
        let held = self.held.checked_add(hold).ok_or(Decline::AmountTooLarge)?;
        let key = key_mut(&mut self.keys, charge.key).ok_or(Decline::KeyInactive)?;

        // Decided. From here on nothing fails.
        key.day.roll(day);
        key.month.roll(month);
        key.add(day, month, debit, hold);
        key.last_used_at = Some(now);
        let key_spend = key.spend();
        self.balance = balance;
        self.held = held;
        let entry = (debit > Credits::ZERO).then(|| {
            let amount = negated(debit);
            let (id, key, bill) = (charge.id.0, Some(charge.key), charge.bill);
            self.entry(EntryKind::Charge, amount, id, key, day, month, now, bill)
        });
        let stake = match charge.price {
            Price::Fixed(price) => Stake::Debited(price, entry.map(|entry| entry.seq)),
            Price::UpTo(_) => {
                let (amount, earned) = (hold, Credits::ZERO);
                Stake::Held { amount, earned, bill: None, is_durable: charge.is_durable }
            }
        };
        let (key, expires_at) = (charge.key, charge.expires_at);
        let open = OpenCharge { key, day, month, stake, opened_at: now, expires_at };
        self.open.insert(charge.id, open);
        Ok(Accepted { terms, entry, hold: self.durable_hold(charge.id), key_spend })
    }

    /// Makes a hold larger: to `want` in all, or to as much as there is room for, if that is `need`
    /// at least. `earned` is the cost of what has been delivered so far, and its bill. Changes
    /// nothing if it declines.
    pub(super) fn extend(
        &mut self,
        charge: ChargeId,
        need: Credits,
        want: Credits,
        earned: (Credits, Option<StoredBill>),
    ) -> Result<Extended, Decline> {
        let open = self.open.get(&charge).ok_or(Decline::NotOpen)?;
        let Stake::Held { amount, .. } = open.stake else { return Err(Decline::NotOpen) };
        let (key, day, month) = (open.key, open.day, open.month);
        let (available, more) = (self.available(), need.less(amount));
        let uncovered = Decline::InsufficientCredits { price: need, available };
        let demand = Demand { whole: need, more, uncovered };
        let (key, day, month) = self.admit(key, |_| (day, month), demand)?;
        let room = available.min(key.room(day, month, amount));
        self.enlarge(charge, more.max(want.less(amount).min(room)), Some(earned))
    }

    /// Makes a hold larger for what the upstream has done already: to `want` in all, or as far as
    /// the balance goes. It is owed whatever the key's limits say, and if the key was revoked or
    /// the account suspended meanwhile. The limits stop the next call.
    pub(super) fn extend_owed(
        &mut self,
        charge: ChargeId,
        want: Credits,
    ) -> Result<Extended, Decline> {
        let open = self.open.get(&charge).ok_or(Decline::NotOpen)?;
        let Stake::Held { amount, .. } = open.stake else { return Err(Decline::NotOpen) };
        self.enlarge(charge, want.less(amount).min(self.available()), None)
    }

    /// Makes a hold larger by `more`. `earned` is what it has earned now, if that is known anew.
    fn enlarge(
        &mut self,
        charge: ChargeId,
        more: Credits,
        earned: Option<(Credits, Option<StoredBill>)>,
    ) -> Result<Extended, Decline> {
        let open = self.open.get_mut(&charge).ok_or(Decline::NotOpen)?;
        let Stake::Held { amount, earned: earned_before, bill: bill_before, .. } = &mut open.stake
        else {
            return Err(Decline::NotOpen);
        };
        let held = self.held.checked_add(more).ok_or(Decline::AmountTooLarge)?;
        let whole = amount.checked_add(more).ok_or(Decline::AmountTooLarge)?;

        // Decided. From here on nothing fails.
        *amount = whole;
        if let Some((cost, bill)) = earned {
            let earned = cost.min(whole);
            *earned_before = earned;
            *bill_before = bill.map(|bill| Box::new(bill.taken(cost, earned)));
        }
        let (key, day, month) = (open.key, open.day, open.month);
        self.held = held;
        if let Some(key) = key_mut(&mut self.keys, key) {
            key.add(day, month, Credits::ZERO, more);
        }
        Ok(Extended { held: whole, hold: self.durable_hold(charge) })
    }

    /// Ends a charge: captures the cost of a hold and releases the rest, or refunds a fixed price.
    pub(super) fn settle(
        &mut self,
        charge: ChargeId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Settled, NotOpen> {
        let open = self.open.remove(&charge).ok_or(NotOpen)?;

        // Decided. From here on nothing fails.
        if self.open.is_empty() {
            // An empty map keeps a node of a kilobyte, and a million accounts may be in memory.
            self.open = BTreeMap::new();
        }
        let (kind, amount, comes_back, cost, bill) = match (&open.stake, outcome) {
            (&Stake::Debited(price, _), Outcome::Delivered { .. }) => {
                (EntryKind::Charge, Credits::ZERO, Credits::ZERO, price, None)
            }
            (&Stake::Debited(price, _), Outcome::Failed | Outcome::Expired) => {
                self.counters(&open, |key, day, month| key.take(day, month, price, Credits::ZERO));
                (EntryKind::Refund, price, price, Credits::ZERO, None)
            }
            (&Stake::Held { amount: held, earned, ref bill, is_durable }, outcome) => {
                let (owed, bill) = match outcome {
                    Outcome::Delivered { cost, bill } => (cost, bill),
                    Outcome::Expired if is_durable => (earned, bill.as_deref().copied()),
                    Outcome::Failed | Outcome::Expired => (Credits::ZERO, None),
                };
                let cost = owed.clamp(Credits::ZERO, held);
                let bill = bill.map(|bill| bill.taken(owed, cost));
                self.held = self.held.less(held);
                self.counters(&open, |key, day, month| {
                    key.take(day, month, Credits::ZERO, held);
                    key.add(day, month, cost, Credits::ZERO);
                });
                // A hold that cost nothing leaves no entry to wait for.
                let rest = if cost > Credits::ZERO { held.less(cost) } else { Credits::ZERO };
                (EntryKind::Capture, negated(cost), rest, cost, bill)
            }
        };
        let entry = (amount != Credits::ZERO).then(|| {
            // A hold never exceeds the balance and a refund was debited from it, so this sum fits.
            self.balance = self.balance.checked_add(amount).unwrap_or(self.balance);
            self.entry(kind, amount, charge.0, Some(open.key), open.day, open.month, now, bill)
        });
        self.withhold(comes_back);
        let (debit_seq, hold_end) = match open.stake {
            Stake::Debited(_, seq) => (seq, None),
            Stake::Held { amount: held, is_durable, .. } => {
                let kind = match outcome {
                    Outcome::Expired => HoldEndKind::Expired,
                    _ if cost > Credits::ZERO => HoldEndKind::Captured,
                    _ => HoldEndKind::Released,
                };
                let account = self.id;
                let end = HoldEnd { id: charge, account, kind, held, captured: cost, at: now };
                (None, is_durable.then_some(end))
            }
        };
        let key = self.key(open.key);
        Ok(Settled {
            key: open.key,
            opened_at: open.opened_at,
            entry,
            hold_end,
            seq: entry.map(|entry| entry.seq).or(debit_seq),
            cost,
            balance: self.balance,
            key_spend: key.map(KeyState::spend),
            left: key.map(|key| key.left(now)).unwrap_or_default(),
        })
    }

    /// The charges whose time is over. The caller settles them.
    pub(super) fn expired(&self, now: Timestamp) -> Vec<ChargeId> {
        self.open.iter().filter(|(_, open)| open.expires_at <= now).map(|(id, _)| *id).collect()
    }

    pub(super) fn open_charges(&self) -> usize {
        self.open.len()
    }

    pub(super) fn counters(
        &mut self,
        open: &OpenCharge,
        change: impl FnOnce(&mut KeyState, Day, Month),
    ) {
        if let Some(key) = key_mut(&mut self.keys, open.key) {
            change(key, open.day, open.month);
        }
    }

    /// A hold as it is to be written; none if it is not durable.
    fn durable_hold(&self, id: ChargeId) -> Option<Hold> {
        let open = self.open.get(&id)?;
        let Stake::Held { amount, earned, ref bill, is_durable: true } = open.stake else {
            return None;
        };
        Some(Hold {
            id,
            account: self.id,
            key: open.key,
            day: open.day,
            month: open.month,
            amount,
            earned,
            bill: bill.as_deref().copied(),
            opened_at: open.opened_at,
            expires_at: open.expires_at,
        })
    }
}
