//! The account: the operations on one balance and its keys.
//!
//! An operation checks the rules, changes the state in memory and returns a [`Decision`]: the
//! answer, and the [`Write`] that makes it durable. The caller hands the write to the ledger
//! writer, then publishes the flags ([`Account::publish`]). It answers a client only once the write
//! is durable.
//!
//! ```text
//!   Account          operations: charge, extend, settle, top up, keys, status
//!     State          the pure part: balance, holds, limits (state.rs, charging.rs)
//!     AccountFlags   shared with other threads: what is durable, open, pending (flags.rs)
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::batch::{Change, NewKey, NewPayment, RecordedAnswer, Write};
use crate::environment::AccountStatus;
use crate::erasure::{Erasure, NotErasable};
use crate::event::{self, EventKind, LimitWindow};
use crate::hold::HoldChange;
use crate::ids::{AccountId, ChargeId, KeyId, PaymentId};
use crate::ledger::EntryKind;
use crate::money::Credits;
use crate::payment::{Reversal, ReversalStep};
use crate::usage::{Ending, Models, Tally, UNREPORTED, UsageRecord};
use crate::window::Timestamp;

mod charge;
mod charging;
mod decision;
mod flags;
mod key;
mod open_charge;
mod state;
mod stored;

pub use charge::{Charge, ChargeTerms, Decline, NotOpen, Outcome, Price, PriceBounds, Settled};
pub use decision::{
    Adjustment, ChargeQuote, Decision, Extension, GRANTED_BALANCE_MAX, RecordAnswer, Snapshot,
    TooManyKeys,
};
pub use flags::{AccountFlags, InFlight};
pub use key::{KeyChange, KeyState, NoSuchKey};
use state::State;
pub use stored::{LoadedAccount, StoredAccount};

pub use crate::environment::Environment;

/// One account in memory.
#[derive(Debug)]
pub struct Account {
    state: State,
    flags: Arc<AccountFlags>,
    models: Models,
}

impl Account {
    /// The account as loaded. Other threads share `flags`.
    #[must_use]
    pub fn load(loaded: LoadedAccount, flags: Arc<AccountFlags>) -> Self {
        let state = State::load(loaded);
        flags.durable_seq.store(state.seq(), Ordering::Release);
        let account = Account { state, flags, models: Models::default() };
        account.publish();
        account
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.state.id()
    }

    /// The number of its last entry.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.state.seq()
    }

    /// The account's row, as it is to be written.
    #[must_use]
    pub fn stored(&self) -> StoredAccount {
        self.state.stored()
    }

    /// Every key that is not deleted, sorted by id.
    #[must_use]
    pub fn keys(&self) -> &[KeyState] {
        self.state.keys()
    }

    /// Its flags.
    #[must_use]
    pub fn flags(&self) -> &Arc<AccountFlags> {
        &self.flags
    }

    /// Makes returned credits spendable whose entries are now durable.
    fn confirm(&mut self) {
        self.state.confirm(self.flags.durable_seq.load(Ordering::Acquire));
    }

    /// Publishes the number of open charges and the available credits. Must run after a decision's
    /// write was handed over: an account without open charges and without pending writes may leave
    /// memory at any moment.
    pub fn publish(&self) {
        self.flags.publish_available(self.state.available_at_rest());
        self.flags.open_charges.store(self.state.open_charges(), Ordering::Release);
    }

    fn write(&self) -> Write {
        Write::nothing(self.state.id())
    }

    /// An empty write that is durable once everything decided so far is. An answer that waits for
    /// it shows nothing that a crash could undo. `None` if everything is durable already.
    fn output_gate(&self) -> Option<Write> {
        // A decision without an entry (such as a key's new limits, or a hold) counts as pending
        // too.
        let is_pending = self.flags.pending_writes.load(Ordering::Acquire) > 0;
        let durable = self.flags.durable_seq.load(Ordering::Acquire);
        (is_pending || self.state.seq() > durable).then(|| self.write())
    }

    /// Decides whether a call may run, and debits or holds its price.
    pub fn charge(
        &mut self,
        charge: &Charge,
        now: Timestamp,
    ) -> Result<Decision<ChargeTerms>, Decline> {
        self.confirm();
        let charged = self.state.charge(charge, now)?;
        self.publish();
        let (entry, hold) = (charged.entry, charged.hold.map(HoldChange::Opened));
        let write = (entry.is_some() || hold.is_some()).then(|| {
            let key_spend = Some(charged.key_spend);
            Write { entry, key_spend, hold, ..self.write() }
        });
        Ok(Decision::awaited(charged.terms, write))
    }

    /// The write that notifies the account's holder that a limit refused a charge. `None` if the
    /// decline was for another reason, or the holder was notified of this limit today.
    pub fn notify_of_limit(
        &mut self,
        charge: &Charge,
        decline: Decline,
        now: Timestamp,
    ) -> Option<Write> {
        if !matches!(decline, Decline::DailyLimit | Decline::MonthlyLimit) {
            return None;
        }
        let is_monthly = decline == Decline::MonthlyLimit;
        let key = self.state.limit_refused(charge.key, is_monthly, now)?;
        let (day, month) = key.windows(now);
        let (window, limit, spent) = match decline {
            Decline::DailyLimit => (LimitWindow::Day(day.0), key.limits.daily?, key.day.captured),
            _ => (LimitWindow::Month(month.0), key.limits.monthly?, key.month.captured),
        };
        let (account, kind) = (self.state.id(), EventKind::UsageLimitExceeded);
        let event = event::of_limit(account, key.id, kind, window, spent, limit, now);
        Some(Write { event: Some(Box::new(event)), ..self.write() })
    }

    /// What a charge would get now. Changes no balance.
    pub fn quote(&mut self, charge: &Charge, now: Timestamp) -> Decision<ChargeQuote> {
        self.confirm();
        let key = self.state.key(charge.key);
        let decided = ChargeQuote {
            terms: self.state.quote(charge, now),
            balance: self.state.balance(),
            available: self.state.available(),
            left: key.map(|key| key.left(now)).unwrap_or_default(),
        };
        Decision::awaited(decided, self.output_gate())
    }

    /// Extends a hold. Decides how much is held then.
    pub fn extend(
        &mut self,
        charge: ChargeId,
        extension: Extension,
    ) -> Result<Decision<Credits>, Decline> {
        self.confirm();
        let extended = match extension {
            Extension::Ahead { need, want, earned, bill } => {
                self.state.extend(charge, need, want, (earned, bill))
            }
            Extension::Owed { want } => self.state.extend_owed(charge, want),
        }?;
        let hold = extended.hold.map(HoldChange::Extended);
        let write = hold.map(|hold| Write { hold: Some(hold), ..self.write() });
        Ok(Decision::awaited(extended.held, write))
    }

    /// Ends a charge. Its write includes the usage record and the answer to record.
    pub fn settle(
        &mut self,
        charge: ChargeId,
        outcome: Outcome,
        now: Timestamp,
        usage: Option<UsageRecord>,
        record: Option<RecordAnswer>,
    ) -> Result<Decision<Settled>, NotOpen> {
        self.confirm();
        let settled = self.state.settle(charge, outcome, now)?;
        let usage = usage.map(|usage| {
            let model = self.models.kept(usage.model);
            UsageRecord { cost: settled.cost, seq: settled.seq, model, ..usage }
        });
        // Every charged call has a usage record, even if its process never reported one.
        let is_charged = settled.cost > Credits::ZERO;
        let unreported = || unreported(self.state.id(), charge, &settled);
        let usage = usage.or_else(|| is_charged.then(unreported));
        let answer = record.map(|record| record(&settled));
        // A delivered call of a fixed price stores only its usage record, and no answer waits for
        // that. But the end of a durable hold is awaited even if the call cost nothing: until it is
        // on record, a process that takes over the account would capture what was earned.
        let hold = settled.hold_end.map(HoldChange::Ended);
        let is_awaited = settled.entry.is_some() || answer.is_some() || hold.is_some();
        let (entry, key_spend) = (settled.entry, settled.key_spend);
        let write = Write { entry, key_spend, hold, usage, answer, ..self.write() };
        Ok(Decision { decided: settled, write: Some(Box::new(write)), is_awaited })
    }

    /// Ends the charges that have expired: those of calls that were never settled, and the holds
    /// that an earlier process left open.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Decision<ChargeId>> {
        let expired = self.state.expired(now);
        let ended = expired.into_iter().filter_map(|charge| {
            let settled = self.settle(charge, Outcome::Expired, now, None, None).ok()?;
            Some(Decision { decided: charge, write: settled.write, is_awaited: false })
        });
        ended.collect()
    }

    /// Credits a payment, and records `answer` with it.
    pub fn top_up(
        &mut self,
        payment: NewPayment,
        answer: Option<RecordedAnswer>,
        now: Timestamp,
    ) -> Result<Decision<()>, Decline> {
        let (id, amount) = (payment.id.0, payment.amount);
        let entry = Some(self.state.top_up(EntryKind::TopUp, id, amount, now)?);
        // The payment and its credit are one transaction, so neither is on record without the
        // other.
        let change = Some(Change::PaymentConfirmed(payment));
        Ok(Decision::awaited((), Some(Write { entry, answer, change, ..self.write() })))
    }

    /// Credits a payment for which the provider has the money. A suspended account is credited too.
    pub fn confirm_payment(
        &mut self,
        payment: PaymentId,
        amount: Credits,
        now: Timestamp,
    ) -> Result<Decision<()>, Decline> {
        let entry = Some(self.state.credit(EntryKind::TopUp, payment.0, amount, now)?);
        let change = Some(Change::PaymentPaid(payment, now));
        Ok(Decision::awaited((), Some(Write { entry, change, ..self.write() })))
    }

    /// Takes what a provider takes back, as far as credits are available, or gives back what it
    /// returns. Decides the step that was taken.
    pub fn reverse(
        &mut self,
        reversal: Reversal,
        now: Timestamp,
    ) -> Result<Decision<Option<ReversalStep>>, Decline> {
        self.confirm();
        let step = reversal.step(self.state.available());
        let payment = reversal.payment.0;
        let entry = match step {
            None => return Ok(Decision::awaited(None, None)),
            Some(ReversalStep::Take(amount)) => {
                self.state.take(reversal.kind.entry_kind(), payment, amount, now)?
            }
            Some(ReversalStep::Give(amount)) => {
                self.state.credit(EntryKind::Reinstatement, payment, amount, now)?
            }
        };
        let change = step.map(|step| Change::PaymentReversed(reversal, step));
        Ok(Decision::awaited(step, Some(Write { entry: Some(entry), change, ..self.write() })))
    }

    /// Raises the balance to `to` if it is below. Decides the balance.
    pub fn refill(
        &mut self,
        reference: Uuid,
        to: Credits,
        now: Timestamp,
    ) -> Result<Decision<Credits>, Decline> {
        let entry = self.state.refill(reference, to, now)?;
        let write = match entry {
            Some(_) => Some(Write { entry, ..self.write() }),
            None => self.output_gate(),
        };
        Ok(Decision::awaited(self.state.balance(), write))
    }

    /// Gives credits without a payment, or takes credits. Decides the balance, and records `answer`
    /// with it.
    pub fn adjust(
        &mut self,
        reference: Uuid,
        adjustment: Adjustment,
        answer: Option<RecordedAnswer>,
        now: Timestamp,
    ) -> Result<Decision<Credits>, Decline> {
        self.confirm();
        let entry = match adjustment {
            Adjustment::Grant(amount) => self.state.grant(reference, amount, now),
            Adjustment::Take(amount) => {
                self.state.take(EntryKind::Deduction, reference, amount, now)
            }
        }?;
        let balance = self.state.balance();
        Ok(Decision::awaited(balance, Some(Write { entry: Some(entry), answer, ..self.write() })))
    }

    /// Adds a key if the account has fewer than `keys_max`, and records `answer` with it.
    pub fn add_key(
        &mut self,
        key: NewKey,
        answer: Option<RecordedAnswer>,
        keys_max: usize,
    ) -> Result<Decision<()>, TooManyKeys> {
        if self.state.keys().len() >= keys_max {
            return Err(TooManyKeys);
        }
        self.state.add_key(KeyState::new(key.id, key.limits));
        let change = Some(Change::KeyCreated(key));
        Ok(Decision::awaited((), Some(Write { answer, change, ..self.write() })))
    }

    /// Changes a key. Decides its new state.
    pub fn change_key(
        &mut self,
        key: KeyId,
        change: KeyChange,
        now: Timestamp,
    ) -> Result<Decision<KeyState>, NoSuchKey> {
        let (key, account) = (self.state.change_key(key, &change)?, self.state.id());
        let change = Some(match change {
            KeyChange::Limits(_) => Change::KeyLimits(account, key.id, key.limits),
            KeyChange::Edit(edit) => Change::KeyEdited(account, key.id, edit),
            KeyChange::Revoke => Change::KeyRevoked(account, key.id, now),
            KeyChange::Delete => Change::KeyDeleted(account, key.id, now),
        });
        Ok(Decision::awaited(key, Some(Write { change, ..self.write() })))
    }

    /// Suspends or resumes the account. It takes effect with the next charge; calls that run are
    /// settled.
    pub fn set_status(&mut self, status: AccountStatus) -> Decision<()> {
        self.state.set_status(status);
        let change = Some(Change::AccountStatus(self.state.id(), status));
        Decision::awaited((), Some(Write { change, ..self.write() }))
    }

    /// Erases its user: takes the balance that they give up, revokes every key, and suspends the
    /// account. Decides what was given up. The write is one transaction, so the user is erased
    /// completely or not at all.
    pub fn erase(
        &mut self,
        erasure: Erasure,
        gives_up: bool,
        now: Timestamp,
    ) -> Result<Decision<Credits>, NotErasable> {
        self.confirm();
        let (entry, given_up) = self.state.close(erasure.user.0, gives_up, now)?;
        let change = Some(Change::UserErased(Box::new(erasure)));
        Ok(Decision::awaited(given_up, Some(Write { entry, change, ..self.write() })))
    }

    /// The state of the account and of one of its keys at `now`.
    pub fn look(&mut self, key: Option<KeyId>, now: Timestamp) -> Decision<Snapshot> {
        self.confirm();
        let snapshot = Snapshot {
            balance: self.state.balance(),
            held: self.state.held(),
            available: self.state.available(),
            status: self.state.status(),
            key: key.and_then(|key| self.state.key(key)).copied(),
            at: now,
        };
        Decision::awaited(snapshot, self.output_gate())
    }
}

/// The usage record of a call that was charged and never reported, because its process or its task
/// ended.
fn unreported(account: AccountId, id: ChargeId, settled: &Settled) -> UsageRecord {
    let nothing = || Arc::<str>::from("");
    UsageRecord {
        id,
        account,
        seq: settled.seq,
        key: settled.key,
        method: nothing(),
        route: UNREPORTED.into(),
        model: nothing(),
        upstream: nothing(),
        status: 0,
        cost: settled.cost,
        prompt_tokens: 0,
        completion_tokens: 0,
        ending: Ending::ServerStopped,
        tally: Tally::Reported,
        started_at: settled.opened_at,
        latency_micros: 0,
    }
}
