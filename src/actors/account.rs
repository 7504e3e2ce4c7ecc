//! The account actor: the one owner of an account's balance, holds and counters.
//!
//! Thin. A handler asks the clock, calls the domain, hands what was decided to the ledger writer, and
//! replies. No rule lives here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, ActorContext as _, Addr, Context, Handler, Message};
use tokio::sync::oneshot;

use super::ledger_writer::{AccountMarks, Acknowledgement, LedgerHandle, Write, WriteError};
use crate::clock::Clock;
use crate::domain::account::Terms;
use crate::domain::{
    AccountState, AccountStatus, Charge, ChargeId, Credits, Decline, EntryKind, HoldChange,
    KeyChange, KeyId, KeyState, LimitsLeft, Outcome, Settled, Timestamp, UsageRecord,
};
use crate::store::answers::RecordedAnswer;
use crate::store::batch::{Change, NewKey, NewPayment};

/// The actor. Made by the directory only, with its account loaded.
pub struct AccountActor {
    state: AccountState,
    marks: Arc<AccountMarks>,
    ledger: LedgerHandle,
    clock: Clock,
    keys_max: usize,
}

impl Actor for AccountActor {
    type Context = Context<Self>;
}

impl AccountActor {
    pub(super) fn new(
        state: AccountState,
        marks: Arc<AccountMarks>,
        ledger: LedgerHandle,
        clock: Clock,
        keys_max: usize,
    ) -> Self {
        marks.durable_seq.store(state.seq(), Ordering::Release);
        marks.open_charges.store(state.open_charges(), Ordering::Release);
        AccountActor { state, marks, ledger, clock, keys_max }
    }

    /// What comes back is spendable once it is durable; the writer says how far that is.
    fn confirm(&mut self) {
        self.state.confirm(self.marks.durable_seq.load(Ordering::Acquire));
    }

    fn publish(&self) {
        self.marks.open_charges.store(self.state.open_charges(), Ordering::Release);
    }

    fn write(&self) -> Write {
        Write::new(self.state.id(), &self.marks)
    }

    /// Hands over a write that somebody waits for.
    fn write_acknowledged(&self, write: Write) -> Acknowledgement {
        let (write, acknowledgement) = write.acknowledged();
        self.ledger.write(write);
        acknowledgement
    }

    /// Hears when everything decided so far is durable, so that no answer tells of what a crash could undo.
    fn output_gate(&self) -> Option<Acknowledgement> {
        let durable = self.marks.durable_seq.load(Ordering::Acquire);
        (self.state.seq() > durable).then(|| self.write_acknowledged(self.write()))
    }
}

/// A decision, and what to wait for before anyone is told of it.
#[derive(Debug)]
pub struct Receipt<T> {
    /// What was decided.
    pub decided: T,
    /// Hears when it is durable; `None` where there is nothing to wait for.
    pub durable: Option<Acknowledgement>,
}

impl<T> Receipt<T> {
    /// Waits until the decision is durable.
    ///
    /// # Errors
    /// [`WriteError`]
    pub async fn wait(self) -> Result<T, WriteError> {
        wait(self.durable).await?;
        Ok(self.decided)
    }
}

/// Waits until a write is durable, if there is one.
///
/// # Errors
/// [`WriteError`]
pub async fn wait(durable: Option<Acknowledgement>) -> Result<(), WriteError> {
    match durable {
        Some(acknowledgement) => acknowledgement.await.unwrap_or(Err(WriteError::Lost)),
        None => Ok(()),
    }
}

type Reply<T, E> = oneshot::Sender<Result<Receipt<T>, E>>;

fn reply<T, E>(to: Reply<T, E>, result: Result<Receipt<T>, E>) {
    // Nobody waits any more: what was decided stands.
    let _ = to.send(result);
}

#[derive(Message)]
#[rtype(result = "()")]
struct ChargeCall {
    charge: Charge,
    reply: Reply<Terms, Decline>,
}

impl Handler<ChargeCall> for AccountActor {
    type Result = ();

    fn handle(&mut self, call: ChargeCall, _: &mut Context<Self>) {
        self.confirm();
        let decided = self.state.charge(&call.charge, self.clock.now());
        let result = decided.map(|charged| {
            let (entry, hold) = (charged.entry, charged.hold.map(HoldChange::Opened));
            let durable = (entry.is_some() || hold.is_some()).then(|| {
                let key_spend = Some(charged.key_spend);
                self.write_acknowledged(Write { entry, key_spend, hold, ..self.write() })
            });
            Receipt { decided: charged.terms, durable }
        });
        self.publish();
        reply(call.reply, result);
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

#[derive(Message)]
#[rtype(result = "()")]
struct QuoteCall {
    charge: Charge,
    reply: Reply<Estimate, std::convert::Infallible>,
}

impl Handler<QuoteCall> for AccountActor {
    type Result = ();

    fn handle(&mut self, call: QuoteCall, _: &mut Context<Self>) {
        self.confirm();
        let now = self.clock.now();
        let key = self.state.key(call.charge.key);
        let decided = Estimate {
            terms: self.state.quote(&call.charge, now),
            balance: self.state.balance(),
            available: self.state.available(),
            left: key.map(|key| key.left(now)).unwrap_or_default(),
        };
        reply(call.reply, Ok(Receipt { decided, durable: self.output_gate() }));
    }
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

#[derive(Message)]
#[rtype(result = "()")]
struct ExtendCall {
    charge: ChargeId,
    extension: Extension,
    reply: Reply<Credits, Decline>,
}

impl Handler<ExtendCall> for AccountActor {
    type Result = ();

    fn handle(&mut self, call: ExtendCall, _: &mut Context<Self>) {
        self.confirm();
        let decided = match call.extension {
            Extension::Ahead { need, want, earned } => {
                self.state.extend(call.charge, need, want, earned)
            }
            Extension::Owed { want } => self.state.extend_owed(call.charge, want),
        };
        let result = decided.map(|extended| {
            let durable = extended.hold.map(|hold| {
                let hold = Some(HoldChange::Extended(hold));
                self.write_acknowledged(Write { hold, ..self.write() })
            });
            Receipt { decided: extended.held, durable }
        });
        reply(call.reply, result);
    }
}

/// Makes the answer that is recorded with the end of a charge, from what the end came to.
pub type Record = Box<dyn FnOnce(&Settled) -> RecordedAnswer + Send>;

#[derive(Message)]
#[rtype(result = "()")]
struct SettleCall {
    charge: ChargeId,
    outcome: Outcome,
    usage: Option<UsageRecord>,
    record: Option<Record>,
    reply: Reply<Settled, NotOpenOrGone>,
}

#[derive(Clone, Copy, Debug)]
struct NotOpenOrGone;

impl Handler<SettleCall> for AccountActor {
    type Result = ();

    fn handle(&mut self, call: SettleCall, _: &mut Context<Self>) {
        self.confirm();
        let decided = self.state.settle(call.charge, call.outcome, self.clock.now());
        let result = decided.map_err(|_| NotOpenOrGone).map(|settled| {
            let usage = call.usage.map(|usage| UsageRecord {
                cost: settled.cost,
                seq: settled.seq,
                ..usage
            });
            let answer = call.record.map(|record| record(&settled));
            let is_awaited = settled.entry.is_some() || answer.is_some();
            let write = Write {
                entry: settled.entry,
                key_spend: settled.key_spend,
                hold: settled.hold_end.map(HoldChange::Ended),
                usage,
                answer,
                ..self.write()
            };
            let durable = if is_awaited {
                Some(self.write_acknowledged(write))
            } else {
                self.ledger.write(write);
                None
            };
            Receipt { decided: settled, durable }
        });
        self.publish();
        reply(call.reply, result);
    }
}

/// Ends the charges whose time is over: the net below a call that never came back, and the end of the holds
/// that an owner before us left open.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ExpireCharges;

impl Handler<ExpireCharges> for AccountActor {
    type Result = ();

    fn handle(&mut self, _: ExpireCharges, _: &mut Context<Self>) {
        let now = self.clock.now();
        for charge in self.state.expired(now) {
            tracing::warn!(account = %self.state.id(), %charge, "a charge expired without an end");
            if let Ok(settled) = self.state.settle(charge, Outcome::Expired, now) {
                let (entry, key_spend) = (settled.entry, settled.key_spend);
                let hold = settled.hold_end.map(HoldChange::Ended);
                self.ledger.write(Write { entry, key_spend, hold, ..self.write() });
            }
        }
        self.publish();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct TopUp {
    payment: NewPayment,
    answer: Option<RecordedAnswer>,
    reply: Reply<(), Decline>,
}

impl Handler<TopUp> for AccountActor {
    type Result = ();

    fn handle(&mut self, top_up: TopUp, _: &mut Context<Self>) {
        let payment = top_up.payment;
        let (id, amount) = (payment.id.0, payment.amount);
        let decided = self.state.top_up(EntryKind::TopUp, id, amount, self.clock.now());
        let result = decided.map(|entry| {
            // The payment and its credit are one transaction: never one without the other.
            let change = Some(Change::PaymentConfirmed(payment));
            let answer = top_up.answer;
            let write = Write { entry: Some(entry), change, answer, ..self.write() };
            Receipt { decided: (), durable: Some(self.write_acknowledged(write)) }
        });
        self.publish();
        reply(top_up.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Refill {
    reference: uuid::Uuid,
    to: Credits,
    reply: Reply<Credits, Decline>,
}

impl Handler<Refill> for AccountActor {
    type Result = ();

    fn handle(&mut self, refill: Refill, _: &mut Context<Self>) {
        let decided = self.state.refill(refill.reference, refill.to, self.clock.now());
        let result = decided.map(|entry| {
            let durable = match entry {
                Some(_) => Some(self.write_acknowledged(Write { entry, ..self.write() })),
                None => self.output_gate(),
            };
            Receipt { decided: self.state.balance(), durable }
        });
        reply(refill.reply, result);
    }
}

/// The account has as many keys as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the account has as many keys as it may have")]
pub struct TooManyKeys;

#[derive(Message)]
#[rtype(result = "()")]
struct AddKey {
    key: NewKey,
    answer: Option<RecordedAnswer>,
    reply: Reply<(), TooManyKeys>,
}

impl Handler<AddKey> for AccountActor {
    type Result = ();

    fn handle(&mut self, add: AddKey, _: &mut Context<Self>) {
        let result = if self.state.keys().len() >= self.keys_max {
            Err(TooManyKeys)
        } else {
            self.state.add_key(KeyState::new(add.key.id, crate::domain::SpendingLimits::default()));
            let (change, answer) = (Some(Change::KeyCreated(add.key)), add.answer);
            let durable = Some(self.write_acknowledged(Write { answer, change, ..self.write() }));
            Ok(Receipt { decided: (), durable })
        };
        reply(add.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ChangeKey {
    key: KeyId,
    change: KeyChange,
    reply: Reply<KeyState, crate::domain::account::NoSuchKey>,
}

impl Handler<ChangeKey> for AccountActor {
    type Result = ();

    fn handle(&mut self, change: ChangeKey, _: &mut Context<Self>) {
        let decided = self.state.change_key(change.key, change.change);
        let result = decided.map(|key| {
            let change = Some(match change.change {
                KeyChange::Limits(_) => Change::KeyLimits(key.id, key.limits),
                KeyChange::Revoke => Change::KeyRevoked(key.id),
                KeyChange::Delete => Change::KeyDeleted(key.id),
            });
            let durable = Some(self.write_acknowledged(Write { change, ..self.write() }));
            Receipt { decided: key, durable }
        });
        reply(change.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct SetStatus {
    status: AccountStatus,
    reply: Reply<(), std::convert::Infallible>,
}

impl Handler<SetStatus> for AccountActor {
    type Result = ();

    fn handle(&mut self, set: SetStatus, _: &mut Context<Self>) {
        self.state.set_status(set.status);
        let change = Some(Change::AccountStatus(self.state.id(), set.status));
        let durable = Some(self.write_acknowledged(Write { change, ..self.write() }));
        reply(set.reply, Ok(Receipt { decided: (), durable }));
    }
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
    /// The key asked for, if the account has it.
    pub key: Option<KeyState>,
    /// The actor's time when it looked.
    pub at: Timestamp,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Look {
    key: Option<KeyId>,
    reply: Reply<Snapshot, std::convert::Infallible>,
}

impl Handler<Look> for AccountActor {
    type Result = ();

    fn handle(&mut self, look: Look, _: &mut Context<Self>) {
        self.confirm();
        let snapshot = Snapshot {
            balance: self.state.balance(),
            held: self.state.held(),
            available: self.state.available(),
            key: look.key.and_then(|key| self.state.key(key)).copied(),
            at: self.clock.now(),
        };
        reply(look.reply, Ok(Receipt { decided: snapshot, durable: self.output_gate() }));
    }
}

/// Ends the actor. Sent after the directory has let go of it.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

impl Handler<Stop> for AccountActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

/// A panic on purpose, for the test that an actor's death touches its account alone.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Panic;

#[cfg(test)]
impl Handler<Panic> for AccountActor {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}

/// Why an account did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError<E> {
    /// It said no.
    #[error("{0}")]
    Refused(E),
    /// Its actor died before it answered. What it decided, if anything, was not acknowledged.
    #[error("the account's actor is gone")]
    Gone,
}

/// The right to speak to an account's actor, for the time of one call. While it is held the actor is not
/// passivated; how many there may be at once is bounded.
#[derive(Debug)]
pub struct AccountLease {
    pub(super) actor: Addr<AccountActor>,
    pub(super) _in_flight: InFlight,
}

/// One call counted in, until this is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AccountMarks>);

impl InFlight {
    /// Counts a call in, unless there are `max` already.
    pub(super) fn enter(marks: &Arc<AccountMarks>, max: u32) -> Option<Self> {
        let entered = InFlight(Arc::clone(marks));
        let before = marks.in_flight.fetch_add(1, Ordering::AcqRel);
        (before < max).then_some(entered)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl AccountLease {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the handle; a drop closes the reply channel"
    )]
    async fn ask<M, T, E>(
        &self,
        message: impl FnOnce(Reply<T, E>) -> M,
    ) -> Result<Receipt<T>, AccountError<E>>
    where
        M: Message<Result = ()> + Send + 'static,
        AccountActor: Handler<M>,
    {
        let (reply, answer) = oneshot::channel();
        self.actor.do_send(message(reply));
        match answer.await {
            Ok(result) => result.map_err(AccountError::Refused),
            Err(_) => Err(AccountError::Gone),
        }
    }

    /// Decides a charge.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn charge(&self, charge: Charge) -> Result<Receipt<Terms>, AccountError<Decline>> {
        self.ask(|reply| ChargeCall { charge, reply }).await
    }

    /// What a charge would get. Takes nothing.
    ///
    /// # Errors
    /// [`AccountError::Gone`]
    pub async fn quote(
        &self,
        charge: Charge,
    ) -> Result<Receipt<Estimate>, AccountError<std::convert::Infallible>> {
        self.ask(|reply| QuoteCall { charge, reply }).await
    }

    /// Makes a hold larger; answers what is held then.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn extend(
        &self,
        charge: ChargeId,
        extension: Extension,
    ) -> Result<Receipt<Credits>, AccountError<Decline>> {
        self.ask(|reply| ExtendCall { charge, extension, reply }).await
    }

    /// Ends a charge, and records what the call did, and where `record` is given, what it was answered.
    ///
    /// # Errors
    /// [`AccountError::Gone`], also where the charge is not open any more.
    pub async fn settle(
        &self,
        charge: ChargeId,
        outcome: Outcome,
        usage: UsageRecord,
        record: Option<Record>,
    ) -> Result<Receipt<Settled>, AccountError<std::convert::Infallible>> {
        self.ask(|reply| SettleCall { charge, outcome, usage: Some(usage), record, reply })
            .await
            .map_err(|_| AccountError::Gone)
    }

    /// Ends a charge without waiting, for a call that broke off: at what it had earned.
    #[expect(clippy::disallowed_methods, reason = "a dead actor has no charge left to end")]
    pub fn abandon(&self, charge: ChargeId, earned: Credits) {
        let (reply, _) = oneshot::channel();
        let outcome = if earned > Credits::ZERO {
            Outcome::Delivered { cost: earned }
        } else {
            Outcome::Failed
        };
        self.actor.do_send(SettleCall { charge, outcome, usage: None, record: None, reply });
    }

    /// Credits a payment; `answer` is recorded with it.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn top_up(
        &self,
        payment: NewPayment,
        answer: Option<RecordedAnswer>,
    ) -> Result<Receipt<()>, AccountError<Decline>> {
        self.ask(|reply| TopUp { payment, answer, reply }).await
    }

    /// Brings the balance up to `to`, where it is below; answers the balance.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn refill(
        &self,
        reference: uuid::Uuid,
        to: Credits,
    ) -> Result<Receipt<Credits>, AccountError<Decline>> {
        self.ask(|reply| Refill { reference, to, reply }).await
    }

    /// Adds a key; `answer` is recorded with it.
    ///
    /// # Errors
    /// [`TooManyKeys`], or [`AccountError::Gone`].
    pub async fn add_key(
        &self,
        key: NewKey,
        answer: Option<RecordedAnswer>,
    ) -> Result<Receipt<()>, AccountError<TooManyKeys>> {
        self.ask(|reply| AddKey { key, answer, reply }).await
    }

    /// Changes a key.
    ///
    /// # Errors
    /// [`crate::domain::account::NoSuchKey`], or [`AccountError::Gone`].
    pub async fn change_key(
        &self,
        key: KeyId,
        change: KeyChange,
    ) -> Result<Receipt<KeyState>, AccountError<crate::domain::account::NoSuchKey>> {
        self.ask(|reply| ChangeKey { key, change, reply }).await
    }

    /// Suspends or resumes the account.
    ///
    /// # Errors
    /// [`AccountError::Gone`]
    pub async fn set_status(
        &self,
        status: AccountStatus,
    ) -> Result<Receipt<()>, AccountError<std::convert::Infallible>> {
        self.ask(|reply| SetStatus { status, reply }).await
    }

    /// Looks at the account, and at one of its keys.
    ///
    /// # Errors
    /// [`AccountError::Gone`]
    pub async fn look(
        &self,
        key: Option<KeyId>,
    ) -> Result<Receipt<Snapshot>, AccountError<std::convert::Infallible>> {
        self.ask(|reply| Look { key, reply }).await
    }
}
