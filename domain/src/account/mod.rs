//! The one owner of an account in memory: asks the account, and says what is to be written down for it.
//!
//! Everything that an account actor does but for the mailbox. A decision comes with the write that makes it
//! durable; whoever is told of the decision waits for that write first.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::act::Act;
use crate::batch::{Change, NewKey, NewPayment, RecordedAnswer, Write};
use crate::environment::AccountStatus;
use crate::event::{self, EventKind, LimitWindow};
use crate::hold::HoldChange;
use crate::ids::{AccountId, ChargeId, KeyId, PaymentId};
use crate::ledger::EntryKind;
use crate::limits::{LimitsLeft, SpendingLimits};
use crate::money::Credits;
use crate::payment::{Reversal, ReversalStep};
use crate::usage::{Ending, Models, Tally, UNREPORTED, UsageRecord};
use crate::window::Timestamp;

mod charge;
mod charging;
mod flags;
mod key;
mod state;
mod stored;

pub use charge::{Bounds, Charge, Decline, NotOpen, Outcome, Price, Settled, Terms};
pub use charging::{Charged, Extended};
pub use flags::{AccountMarks, InFlight};
pub use key::{KeyChange, KeyState, NoSuchKey};
pub use state::AccountState;
pub use stored::StoredAccount;

pub use crate::environment::Environment;

/// A decision, and what makes it durable.
#[derive(Debug)]
pub struct Decision<T> {
    /// What was decided.
    pub decided: T,
    /// What is to be written.
    pub write: Option<Box<Write>>,
    /// Must it be durable before anyone is told of the decision?
    pub is_awaited: bool,
}

impl<T> Decision<T> {
    /// Also says who did it. Where the decision leaves nothing to be written, that is written alone.
    #[must_use]
    pub fn done_by(self, account: AccountId, act: Option<Act>) -> Self {
        let Some(act) = act else { return self };
        let mut write = self.write.unwrap_or_else(|| Box::new(Write::nothing(account)));
        write.act = Some(Box::new(act));
        Decision { write: Some(write), ..self }
    }

    fn awaited(decided: T, write: Option<Write>) -> Self {
        Decision { decided, write: write.map(Box::new), is_awaited: true }
    }
}

/// What a charge would get, and where its account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What it would get, or why nothing.
    pub terms: Result<Terms, Decline>,
    /// The fold of the ledger.
    pub balance: Credits,
    /// What can be spent.
    pub available: Credits,
    /// What the key may still spend.
    pub left: LimitsLeft,
}

/// How far a hold is to be extended, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// For what is to be delivered.
    Ahead {
        /// Less than this is no use.
        need: Credits,
        /// This much is wanted.
        want: Credits,
        /// The cost of what has been delivered.
        earned: Credits,
    },
    /// For what was delivered already. A key that is out of use meanwhile does not matter.
    Owed {
        /// This much is wanted.
        want: Credits,
    },
}

/// What an account looks like from outside.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The fold of the ledger.
    pub balance: Credits,
    /// Reserved by calls that run.
    pub held: Credits,
    /// What can be spent.
    pub available: Credits,
    /// Open or suspended.
    pub status: AccountStatus,
    /// The key asked for, if the account has it.
    pub key: Option<KeyState>,
    /// The time at which it was so.
    pub at: Timestamp,
}

/// The account has as many keys as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account has as many keys as it may have")]
pub struct TooManyKeys;

/// Makes the answer that is recorded with the end of a charge, from what the end came to.
pub type Record = Box<dyn FnOnce(&Settled) -> RecordedAnswer + Send>;

/// What an operator does to a balance; more than nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// Credits without a payment.
    Grant(Credits),
    /// At most what is available.
    Take(Credits),
}

/// An account and its one owner.
#[derive(Debug)]
pub struct Owner {
    state: AccountState,
    marks: Arc<AccountMarks>,
    models: Models,
}

impl Owner {
    /// Takes an account that was just loaded.
    #[must_use]
    pub fn new(state: AccountState, marks: Arc<AccountMarks>) -> Self {
        marks.durable_seq.store(state.seq(), Ordering::Release);
        let owner = Owner { state, marks, models: Models::default() };
        owner.publish();
        owner
    }

    /// The account.
    #[must_use]
    pub fn state(&self) -> &AccountState {
        &self.state
    }

    /// Its marks.
    #[must_use]
    pub fn marks(&self) -> &Arc<AccountMarks> {
        &self.marks
    }

    /// What comes back is spendable once it is durable; the writer says how far that is.
    fn confirm(&mut self) {
        self.state.confirm(self.marks.durable_seq.load(Ordering::Acquire));
    }

    /// Tells how many charges are open, and what is available where that decides. After a decision's write was handed over, and not before: an account
    /// without open charges and without pending writes may be let go at any moment.
    pub fn publish(&self) {
        self.marks.publish_available(self.state.available_at_rest());
        self.marks.open_charges.store(self.state.open_charges(), Ordering::Release);
    }

    fn write(&self) -> Write {
        Write::nothing(self.state.id())
    }

    /// A write of nothing, durable when everything decided so far is, so that no answer tells of what a crash
    /// could undo.
    fn output_gate(&self) -> Option<Write> {
        // What leaves no entry (a key's new ceilings, a hold) is pending as well.
        let is_pending = self.marks.pending_writes.load(Ordering::Acquire) > 0;
        let durable = self.marks.durable_seq.load(Ordering::Acquire);
        (is_pending || self.state.seq() > durable).then(|| self.write())
    }

    /// Decides a charge.
    ///
    /// # Errors
    /// The [`Decline`]
    pub fn charge(&mut self, charge: &Charge, now: Timestamp) -> Result<Decision<Terms>, Decline> {
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

    /// What the account's holder is told of a charge that a limit has refused, where that is news.
    pub fn tell_of_limit(
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

    /// What a charge would get. Takes nothing.
    pub fn quote(&mut self, charge: &Charge, now: Timestamp) -> Decision<Estimate> {
        self.confirm();
        let key = self.state.key(charge.key);
        let decided = Estimate {
            terms: self.state.quote(charge, now),
            balance: self.state.balance(),
            available: self.state.available(),
            left: key.map(|key| key.left(now)).unwrap_or_default(),
        };
        Decision::awaited(decided, self.output_gate())
    }

    /// Makes a hold larger; decides what is held then.
    ///
    /// # Errors
    /// The [`Decline`]
    pub fn extend(
        &mut self,
        charge: ChargeId,
        extension: Extension,
    ) -> Result<Decision<Credits>, Decline> {
        self.confirm();
        let extended = match extension {
            Extension::Ahead { need, want, earned } => {
                self.state.extend(charge, need, want, earned)
            }
            Extension::Owed { want } => self.state.extend_owed(charge, want),
        }?;
        let hold = extended.hold.map(HoldChange::Extended);
        let write = hold.map(|hold| Write { hold: Some(hold), ..self.write() });
        Ok(Decision::awaited(extended.held, write))
    }

    /// Ends a charge; the usage record and the recorded answer ride on its write. Once that is handed over,
    /// [`Owner::publish`].
    ///
    /// # Errors
    /// [`NotOpen`]
    pub fn settle(
        &mut self,
        charge: ChargeId,
        outcome: Outcome,
        now: Timestamp,
        usage: Option<UsageRecord>,
        record: Option<Record>,
    ) -> Result<Decision<Settled>, NotOpen> {
        self.confirm();
        let settled = self.state.settle(charge, outcome, now)?;
        let usage = usage.map(|usage| {
            let model = self.models.kept(usage.model);
            UsageRecord { cost: settled.cost, seq: settled.seq, model, ..usage }
        });
        // What was charged has a record, also where nobody came back to say what it was.
        let is_charged = settled.cost > Credits::ZERO;
        let unreported = || unreported(self.state.id(), charge, &settled);
        let usage = usage.or_else(|| is_charged.then(unreported));
        let answer = record.map(|record| record(&settled));
        // Of a delivered fixed price only the usage is left to be written, and nobody waits for that.
        // The end of a durable hold is awaited also where it cost nothing: until it is on record, whoever owns the
        // account next would capture what was earned.
        let hold = settled.hold_end.map(HoldChange::Ended);
        let is_awaited = settled.entry.is_some() || answer.is_some() || hold.is_some();
        let (entry, key_spend) = (settled.entry, settled.key_spend);
        let write = Write { entry, key_spend, hold, usage, answer, ..self.write() };
        Ok(Decision { decided: settled, write: Some(Box::new(write)), is_awaited })
    }

    /// Ends the charges whose time is over: the net below a call that never came back, and the end of the
    /// holds that an owner before this one left open. Once all writes are handed over, [`Owner::publish`].
    pub fn expire(&mut self, now: Timestamp) -> Vec<Decision<ChargeId>> {
        let expired = self.state.expired(now);
        let ended = expired.into_iter().filter_map(|charge| {
            let settled = self.settle(charge, Outcome::Expired, now, None, None).ok()?;
            Some(Decision { decided: charge, write: settled.write, is_awaited: false })
        });
        ended.collect()
    }

    /// Credits a payment; `answer` is recorded with it.
    ///
    /// # Errors
    /// The [`Decline`]
    pub fn top_up(
        &mut self,
        payment: NewPayment,
        answer: Option<RecordedAnswer>,
        now: Timestamp,
    ) -> Result<Decision<()>, Decline> {
        let (id, amount) = (payment.id.0, payment.amount);
        let entry = Some(self.state.top_up(EntryKind::TopUp, id, amount, now)?);
        // The payment and its credit are one transaction: never one without the other.
        let change = Some(Change::PaymentConfirmed(payment));
        Ok(Decision::awaited((), Some(Write { entry, answer, change, ..self.write() })))
    }

    /// Credits a payment whose provider has the money, whatever the account's status.
    ///
    /// # Errors
    /// [`Decline::AmountTooLarge`]
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

    /// Takes what can be taken of what a provider takes back, or gives again what it gives again; decides what was
    /// done.
    ///
    /// # Errors
    /// [`Decline::AmountTooLarge`]
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

    /// Brings the balance up to `to`, where it is below; decides the balance.
    ///
    /// # Errors
    /// The [`Decline`]
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

    /// Gives credits without a payment, or takes them; decides the balance. `answer` is recorded with it.
    ///
    /// # Errors
    /// The [`Decline`]
    pub fn adjust(
        &mut self,
        reference: Uuid,
        adjustment: Adjustment,
        answer: Option<RecordedAnswer>,
        now: Timestamp,
    ) -> Result<Decision<Credits>, Decline> {
        self.confirm();
        let entry = match adjustment {
            Adjustment::Grant(amount) => {
                self.state.top_up(EntryKind::Grant, reference, amount, now)
            }
            Adjustment::Take(amount) => {
                self.state.take(EntryKind::Deduction, reference, amount, now)
            }
        }?;
        let balance = self.state.balance();
        Ok(Decision::awaited(balance, Some(Write { entry: Some(entry), answer, ..self.write() })))
    }

    /// Adds a key, where the account has fewer than `keys_max`; `answer` is recorded with it.
    ///
    /// # Errors
    /// [`TooManyKeys`]
    pub fn add_key(
        &mut self,
        key: NewKey,
        answer: Option<RecordedAnswer>,
        keys_max: usize,
    ) -> Result<Decision<()>, TooManyKeys> {
        if self.state.keys().len() >= keys_max {
            return Err(TooManyKeys);
        }
        self.state.add_key(KeyState::new(key.id, SpendingLimits::default()));
        let change = Some(Change::KeyCreated(key));
        Ok(Decision::awaited((), Some(Write { answer, change, ..self.write() })))
    }

    /// Changes a key; decides what it is then.
    ///
    /// # Errors
    /// [`NoSuchKey`]
    pub fn change_key(
        &mut self,
        key: KeyId,
        change: KeyChange,
        now: Timestamp,
    ) -> Result<Decision<KeyState>, NoSuchKey> {
        let (key, account) = (self.state.change_key(key, change)?, self.state.id());
        let change = Some(match change {
            KeyChange::Limits(_) => Change::KeyLimits(key.id, key.limits),
            KeyChange::Revoke => Change::KeyRevoked(account, key.id, now),
            KeyChange::Delete => Change::KeyDeleted(account, key.id, now),
        });
        Ok(Decision::awaited(key, Some(Write { change, ..self.write() })))
    }

    /// Suspends or resumes the account.
    ///
    /// # Errors
    /// None.
    pub fn set_status(&mut self, status: AccountStatus) -> Result<Decision<()>, Infallible> {
        self.state.set_status(status);
        let change = Some(Change::AccountStatus(self.state.id(), status));
        Ok(Decision::awaited((), Some(Write { change, ..self.write() })))
    }

    /// Looks at the account, and at one of its keys.
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

/// The record of a call that nobody came back from: its process died, or its task.
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
