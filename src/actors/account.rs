//! The account actor: a mailbox before an account's one owner.
//!
//! Thin. A handler asks the clock, calls [`Owner`], hands what is to be written to the ledger writer, and
//! replies. No rule lives here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext as _, Addr, Context, Handler, Message};
use tokio::sync::oneshot;

use super::ledger_writer::{Acknowledgement, LedgerHandle, WriteError};
use crate::clock::Clock;
use crate::domain::account::{NoSuchKey, Terms};
use crate::domain::owner::{Decision, Estimate, Extension, Snapshot, TooManyKeys};
use crate::domain::residency::InFlight;
use crate::domain::{
    AccountStatus, Act, Adjustment, Charge, ChargeId, Credits, Decline, KeyChange, KeyId, KeyState,
    NewKey, NewPayment, Outcome, Owner, PaymentId, RecordedAnswer, Reversal, ReversalStep, Settled,
    Timestamp, UsageRecord, Write,
};

pub use crate::domain::owner::Record;

/// An account that is loaded. Its actor is the only one that locks it, for the time of a message; without an actor it
/// sleeps.
pub type SharedOwner = Arc<Mutex<Owner>>;

/// The actor. Made by the directory only, with its account loaded.
pub struct AccountActor {
    owner: SharedOwner,
    ledger: LedgerHandle,
    clock: Clock,
    keys_max: usize,
}

impl Actor for AccountActor {
    type Context = Context<Self>;
}

impl AccountActor {
    pub(super) fn new(
        owner: SharedOwner,
        ledger: LedgerHandle,
        clock: Clock,
        keys_max: usize,
    ) -> Self {
        AccountActor { owner, ledger, clock, keys_max }
    }

    /// The owner, for the time of one message: what it decides is handed over before anyone else decides anything.
    /// An actor that has panicked is gone, and its account is loaded anew, so nobody meets what it has left.
    fn with<T>(&self, work: impl FnOnce(&mut Owner, Timestamp) -> T) -> T {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut owner, self.clock.now())
    }

    /// Hands a decision's write over; the receipt waits for it where the decision must.
    fn receipt<T>(&self, owner: &Owner, decision: Decision<T>) -> Receipt<T> {
        let Decision { decided, write, is_awaited } = decision;
        failpoint!("account-decided");
        let durable = write.and_then(|write| self.hand_over(owner, write, is_awaited));
        owner.publish();
        failpoint!("account-handed-over");
        Receipt { decided, durable }
    }

    /// The same for what somebody did.
    fn receipt_of<T>(&self, owner: &Owner, decision: Decision<T>, act: Option<Act>) -> Receipt<T> {
        self.receipt(owner, decision.done_by(owner.state().id(), act))
    }

    fn hand_over(
        &self,
        owner: &Owner,
        write: Box<Write>,
        is_awaited: bool,
    ) -> Option<Acknowledgement> {
        let (ticket, acknowledgement) = if is_awaited {
            let (sender, receiver) = oneshot::channel();
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        self.ledger.write(write, owner.marks(), ticket);
        acknowledgement
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

/// Waits for an outcome for as long as a caller waits; `None` where it is not known by then. `kept` is held until it
/// is known, however long that takes.
pub async fn wait_within<K: 'static>(
    patience: Duration,
    outcome: impl Future<Output = Result<(), WriteError>> + 'static,
    kept: K,
) -> Option<Result<(), WriteError>> {
    let mut waiting = Box::pin(async move {
        let result = outcome.await;
        drop(kept);
        result
    });
    let result = tokio::time::timeout(patience, &mut waiting).await.ok();
    if result.is_none() {
        actix::spawn(waiting);
    }
    result
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
        let result = self.with(|owner, now| {
            let decided = owner.charge(&call.charge, now);
            if let Err(decline) = &decided {
                if self.ledger.is_told(owner.state().id())
                    && let Some(write) = owner.tell_of_limit(&call.charge, *decline, now)
                {
                    let _ = self.hand_over(owner, Box::new(write), false);
                }
                // What had come back may have been confirmed: the next such call need not ask.
                owner.publish();
            }
            decided.map(|decision| self.receipt(owner, decision))
        });
        reply(call.reply, result);
    }
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
        let receipt = self.with(|owner, now| {
            let decision = owner.quote(&call.charge, now);
            self.receipt(owner, decision)
        });
        reply(call.reply, Ok(receipt));
    }
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
        let result = self.with(|owner, _| {
            let decided = owner.extend(call.charge, call.extension);
            decided.map(|decision| self.receipt(owner, decision))
        });
        reply(call.reply, result);
    }
}

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
        let result = self.with(|owner, now| {
            let decided = owner.settle(call.charge, call.outcome, now, call.usage, call.record);
            decided.map_err(|_| NotOpenOrGone).map(|decision| self.receipt(owner, decision))
        });
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
        self.with(|owner, now| {
            for decision in owner.expire(now) {
                let account = owner.state().id();
                let charge = decision.decided;
                tracing::warn!(%account, %charge, "a charge expired without an end");
                failpoint!("sweep-expired");
                if let Some(write) = decision.write {
                    let _ = self.hand_over(owner, write, false);
                }
            }
            owner.publish();
        });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct TopUp {
    act: Option<Act>,
    payment: NewPayment,
    answer: Option<RecordedAnswer>,
    reply: Reply<(), Decline>,
}

impl Handler<TopUp> for AccountActor {
    type Result = ();

    fn handle(&mut self, top_up: TopUp, _: &mut Context<Self>) {
        let result = self.with(|owner, now| {
            let decided = owner.top_up(top_up.payment, top_up.answer, now);
            decided.map(|decision| self.receipt_of(owner, decision, top_up.act))
        });
        reply(top_up.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ConfirmPayment {
    payment: PaymentId,
    amount: Credits,
    act: Option<Act>,
    reply: Reply<(), Decline>,
}

impl Handler<ConfirmPayment> for AccountActor {
    type Result = ();

    fn handle(&mut self, confirm: ConfirmPayment, _: &mut Context<Self>) {
        let result = self.with(|owner, now| {
            let decided = owner.confirm_payment(confirm.payment, confirm.amount, now);
            decided.map(|decision| self.receipt_of(owner, decision, confirm.act))
        });
        reply(confirm.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Reverse {
    reversal: Reversal,
    act: Option<Act>,
    reply: Reply<Option<ReversalStep>, Decline>,
}

impl Handler<Reverse> for AccountActor {
    type Result = ();

    fn handle(&mut self, reverse: Reverse, _: &mut Context<Self>) {
        let result = self.with(|owner, now| {
            let decided = owner.reverse(reverse.reversal, now);
            decided.map(|decision| {
                let act = reverse.act.filter(|_| decision.decided.is_some());
                self.receipt_of(owner, decision, act)
            })
        });
        reply(reverse.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Refill {
    act: Option<Act>,
    reference: uuid::Uuid,
    to: Credits,
    reply: Reply<Credits, Decline>,
}

impl Handler<Refill> for AccountActor {
    type Result = ();

    fn handle(&mut self, refill: Refill, _: &mut Context<Self>) {
        let result = self.with(|owner, now| {
            let decided = owner.refill(refill.reference, refill.to, now);
            decided.map(|decision| self.receipt_of(owner, decision, refill.act))
        });
        reply(refill.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Adjust {
    reference: uuid::Uuid,
    adjustment: Adjustment,
    answer: Option<RecordedAnswer>,
    act: Option<Act>,
    reply: Reply<Credits, Decline>,
}

impl Handler<Adjust> for AccountActor {
    type Result = ();

    fn handle(&mut self, adjust: Adjust, _: &mut Context<Self>) {
        let result = self.with(|owner, now| {
            let Adjust { reference, adjustment, answer, .. } = adjust;
            let decided = owner.adjust(reference, adjustment, answer, now);
            decided.map(|decision| self.receipt_of(owner, decision, adjust.act))
        });
        reply(adjust.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct AddKey {
    act: Option<Act>,
    key: NewKey,
    answer: Option<RecordedAnswer>,
    reply: Reply<(), TooManyKeys>,
}

impl Handler<AddKey> for AccountActor {
    type Result = ();

    fn handle(&mut self, add: AddKey, _: &mut Context<Self>) {
        let result = self.with(|owner, _| {
            let decided = owner.add_key(add.key, add.answer, self.keys_max);
            decided.map(|decision| self.receipt_of(owner, decision, add.act))
        });
        reply(add.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ChangeKey {
    act: Option<Act>,
    key: KeyId,
    change: KeyChange,
    reply: Reply<KeyState, NoSuchKey>,
}

impl Handler<ChangeKey> for AccountActor {
    type Result = ();

    fn handle(&mut self, change: ChangeKey, _: &mut Context<Self>) {
        let result = self.with(|owner, now| {
            let decided = owner.change_key(change.key, change.change, now);
            decided.map(|decision| self.receipt_of(owner, decision, change.act))
        });
        reply(change.reply, result);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct SetStatus {
    act: Option<Act>,
    status: AccountStatus,
    reply: Reply<(), std::convert::Infallible>,
}

impl Handler<SetStatus> for AccountActor {
    type Result = ();

    fn handle(&mut self, set: SetStatus, _: &mut Context<Self>) {
        let result = self.with(|owner, _| {
            let decided = owner.set_status(set.status);
            decided.map(|decision| self.receipt_of(owner, decision, set.act))
        });
        reply(set.reply, result);
    }
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
        let receipt = self.with(|owner, now| {
            let decision = owner.look(look.key, now);
            self.receipt(owner, decision)
        });
        reply(look.reply, Ok(receipt));
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
    pub(super) in_flight: InFlight,
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
        if let Some(decline) = self.in_flight.marks().declines(charge.price) {
            return Err(AccountError::Refused(decline));
        }
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
        act: Option<Act>,
    ) -> Result<Receipt<()>, AccountError<Decline>> {
        self.ask(|reply| TopUp { act, payment, answer, reply }).await
    }

    /// Credits a payment whose provider has the money.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn confirm_payment(
        &self,
        payment: PaymentId,
        amount: Credits,
        act: Option<Act>,
    ) -> Result<Receipt<()>, AccountError<Decline>> {
        self.ask(|reply| ConfirmPayment { payment, amount, act, reply }).await
    }

    /// Takes what can be taken of a reversal, or gives again what is to be given again; answers what was done.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn reverse(
        &self,
        reversal: Reversal,
        act: Option<Act>,
    ) -> Result<Receipt<Option<ReversalStep>>, AccountError<Decline>> {
        self.ask(|reply| Reverse { reversal, act, reply }).await
    }

    /// Brings the balance up to `to`, where it is below; answers the balance.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn refill(
        &self,
        reference: uuid::Uuid,
        to: Credits,
        act: Option<Act>,
    ) -> Result<Receipt<Credits>, AccountError<Decline>> {
        self.ask(|reply| Refill { act, reference, to, reply }).await
    }

    /// Gives or takes credits without a payment; answers the balance.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn adjust(
        &self,
        reference: uuid::Uuid,
        adjustment: Adjustment,
        answer: Option<RecordedAnswer>,
        act: Option<Act>,
    ) -> Result<Receipt<Credits>, AccountError<Decline>> {
        self.ask(|reply| Adjust { reference, adjustment, answer, act, reply }).await
    }

    /// Adds a key; `answer` is recorded with it.
    ///
    /// # Errors
    /// [`TooManyKeys`], or [`AccountError::Gone`].
    pub async fn add_key(
        &self,
        key: NewKey,
        answer: Option<RecordedAnswer>,
        act: Option<Act>,
    ) -> Result<Receipt<()>, AccountError<TooManyKeys>> {
        self.ask(|reply| AddKey { act, key, answer, reply }).await
    }

    /// Changes a key.
    ///
    /// # Errors
    /// [`NoSuchKey`], or [`AccountError::Gone`].
    pub async fn change_key(
        &self,
        key: KeyId,
        change: KeyChange,
        act: Option<Act>,
    ) -> Result<Receipt<KeyState>, AccountError<NoSuchKey>> {
        self.ask(|reply| ChangeKey { act, key, change, reply }).await
    }

    /// Suspends or resumes the account.
    ///
    /// # Errors
    /// [`AccountError::Gone`]
    pub async fn set_status(
        &self,
        status: AccountStatus,
        act: Option<Act>,
    ) -> Result<Receipt<()>, AccountError<std::convert::Infallible>> {
        self.ask(|reply| SetStatus { act, status, reply }).await
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
