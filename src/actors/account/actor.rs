//! The account actor: what an account can be asked for, and how its one owner is asked.
//!
//! Thin. A request asks the clock, calls [`Account`], hands what is to be written to the ledger writer, and answers. No
//! rule lives here.
//!
//! An owner decides one request at a time: it has a lock, and whoever has it has the turn. A request that finds the
//! owner at rest is decided where it is made, without a message; one that finds it at work is put into the mailbox of
//! the account's actor, whose thread alone waits for the turn.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use actix::{Actor, ActorContext as _, Context, Handler, Message};
use tokio::sync::oneshot;

use super::slot::{ActorThreads, Resident};
use crate::actors::ledger::{Acknowledgement, LedgerHandle, WriteError};
use crate::clock::Clock;
use domain::account::{
    ChargeQuote, ChargeTerms, Decision, Extension, InFlight, NoSuchKey, Snapshot, TooManyKeys,
};
use domain::{
    Account, AccountStatus, Act, Adjustment, Charge, ChargeId, Credits, Decline, KeyChange, KeyId,
    KeyState, NewKey, NewPayment, Outcome, PaymentId, RecordedAnswer, Reversal, ReversalStep,
    Settled, Timestamp, UsageRecord, Write,
};

pub use domain::account::RecordAnswer;

/// An account that is loaded. Whoever locks it has the turn, for the time of one request.
pub type SharedOwner = Arc<OwnerCell>;

/// An owner and its turn. With a panic in it nobody decides anything any more, and the account is loaded anew.
pub struct OwnerCell {
    pub(super) owner: Mutex<Account>,
    /// The lock does not tell: it is not poisoned by a panic while another one unwinds the same thread.
    has_panicked: AtomicBool,
}

impl OwnerCell {
    pub(super) fn new(owner: Account) -> Self {
        OwnerCell { owner: Mutex::new(owner), has_panicked: AtomicBool::new(false) }
    }

    pub(super) fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Acquire)
    }
}

/// What the owners of all accounts decide with.
pub(super) struct Means {
    pub(super) ledger: LedgerHandle,
    pub(super) clock: Clock,
    pub(super) threads: ActorThreads,
    pub(super) keys_max: usize,
}

/// What an account answers; nothing where its owner is gone.
pub(super) type Answer<R> =
    Option<Result<Receipt<<R as Request>::Decided>, <R as Request>::Declined>>;

impl Means {
    /// Has a request decided in the owner's turn, which is waited for. What it decides is handed over before anyone else
    /// decides anything.
    pub(super) fn decide<R: Request>(&self, cell: &OwnerCell, request: R) -> Answer<R> {
        let owner = cell.owner.lock().ok()?;
        self.decide_in_turn(cell, owner, request)
    }

    /// The same, here and now; the request is given back where somebody else has the turn.
    pub(super) fn try_decide<R: Request>(
        &self,
        cell: &OwnerCell,
        request: R,
    ) -> Result<Answer<R>, R> {
        match cell.owner.try_lock() {
            Ok(owner) => Ok(self.decide_in_turn(cell, owner, request)),
            Err(TryLockError::Poisoned(_)) => Ok(None),
            Err(TryLockError::WouldBlock) => Err(request),
        }
    }

    fn decide_in_turn<R: Request>(
        &self,
        cell: &OwnerCell,
        mut owner: MutexGuard<'_, Account>,
        request: R,
    ) -> Answer<R> {
        // Who is poisoned decides nothing more, not even for those who ask it since before: it may be loaded anew.
        if cell.has_panicked() || owner.flags().is_poisoned() {
            return None;
        }
        let deciding = || {
            let now = self.clock.now();
            request.decide(&mut Turn { owner: &mut owner, means: self, now })
        };
        let answer = catch_unwind(AssertUnwindSafe(deciding));
        if answer.is_err() {
            cell.has_panicked.store(true, Ordering::Release);
        }
        answer.ok()
    }
}

/// The actor: where requests wait for a turn. Made only where one has to.
pub(super) struct AccountActor {
    owner: SharedOwner,
    means: Arc<Means>,
}

impl Actor for AccountActor {
    type Context = Context<Self>;
}

impl AccountActor {
    pub(super) fn new(owner: SharedOwner, means: Arc<Means>) -> Self {
        AccountActor { owner, means }
    }
}

/// What an account can be asked for.
pub(super) trait Request: Send + 'static {
    /// What is answered with a receipt.
    type Decided: Send + 'static;
    /// What is answered where the account says no.
    type Declined: Send + 'static;

    /// Decides it. Never waits.
    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Self::Decided>, Self::Declined>;
}

/// An owner while it decides.
pub(super) struct Turn<'a> {
    owner: &'a mut Account,
    means: &'a Means,
    now: Timestamp,
}

impl Turn<'_> {
    /// Hands a decision's write over; the receipt waits for it where the decision must.
    fn receipt<T>(&self, decision: Decision<T>) -> Receipt<T> {
        let Decision { decided, write, is_awaited } = decision;
        failpoint!("account-decided");
        let durable = write.and_then(|write| self.hand_over(write, is_awaited));
        self.owner.publish();
        failpoint!("account-handed-over");
        Receipt { decided, durable }
    }

    /// The same for what somebody did.
    fn receipt_of<T>(&self, decision: Decision<T>, act: Option<Act>) -> Receipt<T> {
        self.receipt(decision.done_by(self.owner.id(), act))
    }

    fn hand_over(&self, write: Box<Write>, is_awaited: bool) -> Option<Acknowledgement> {
        let (ticket, acknowledgement) = if is_awaited {
            let (sender, receiver) = oneshot::channel();
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        self.means.ledger.write(write, self.owner.flags(), ticket);
        acknowledgement
    }
}

/// A request in the mailbox.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ask<R: Request> {
    pub(super) request: R,
    pub(super) reply: oneshot::Sender<Result<Receipt<R::Decided>, R::Declined>>,
}

impl<R: Request> Handler<Ask<R>> for AccountActor {
    type Result = ();

    fn handle(&mut self, Ask { request, reply }: Ask<R>, _: &mut Context<Self>) {
        if let Some(answer) = self.means.decide(&self.owner, request) {
            // Nobody waits any more: what was decided stands.
            let _ = reply.send(answer);
        }
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

struct ChargeCall(Charge);

impl Request for ChargeCall {
    type Decided = ChargeTerms;
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<ChargeTerms>, Decline> {
        let ChargeCall(charge) = self;
        let decided = turn.owner.charge(&charge, turn.now);
        if let Err(decline) = &decided {
            if turn.means.ledger.is_told(turn.owner.id())
                && let Some(write) = turn.owner.notify_of_limit(&charge, *decline, turn.now)
            {
                let _ = turn.hand_over(Box::new(write), false);
            }
            // What had come back may have been confirmed: the next such call need not ask.
            turn.owner.publish();
        }
        decided.map(|decision| turn.receipt(decision))
    }
}

struct QuoteCall(Charge);

impl Request for QuoteCall {
    type Decided = ChargeQuote;
    type Declined = Infallible;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<ChargeQuote>, Infallible> {
        let decision = turn.owner.quote(&self.0, turn.now);
        Ok(turn.receipt(decision))
    }
}

struct ExtendCall {
    charge: ChargeId,
    extension: Extension,
}

impl Request for ExtendCall {
    type Decided = Credits;
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Credits>, Decline> {
        let decided = turn.owner.extend(self.charge, self.extension);
        decided.map(|decision| turn.receipt(decision))
    }
}

struct SettleCall {
    charge: ChargeId,
    outcome: Outcome,
    usage: Option<UsageRecord>,
    record: Option<RecordAnswer>,
}

#[derive(Clone, Copy, Debug)]
struct NotOpenOrGone;

impl Request for SettleCall {
    type Decided = Settled;
    type Declined = NotOpenOrGone;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Settled>, NotOpenOrGone> {
        let SettleCall { charge, outcome, usage, record } = self;
        let decided = turn.owner.settle(charge, outcome, turn.now, usage, record);
        decided.map_err(|_| NotOpenOrGone).map(|decision| turn.receipt(decision))
    }
}

/// Ends the charges whose time is over: the net below a call that never came back, and the end of the holds
/// that an owner before us left open.
pub(super) struct ExpireCharges;

impl Request for ExpireCharges {
    type Decided = ();
    type Declined = Infallible;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<()>, Infallible> {
        for decision in turn.owner.expire(turn.now) {
            let account = turn.owner.id();
            let charge = decision.decided;
            tracing::warn!(%account, %charge, "a charge expired without an end");
            failpoint!("sweep-expired");
            if let Some(write) = decision.write {
                let _ = turn.hand_over(write, false);
            }
        }
        turn.owner.publish();
        Ok(Receipt { decided: (), durable: None })
    }
}

struct TopUp {
    act: Option<Act>,
    payment: NewPayment,
    answer: Option<RecordedAnswer>,
}

impl Request for TopUp {
    type Decided = ();
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<()>, Decline> {
        let decided = turn.owner.top_up(self.payment, self.answer, turn.now);
        decided.map(|decision| turn.receipt_of(decision, self.act))
    }
}

struct ConfirmPayment {
    payment: PaymentId,
    amount: Credits,
    act: Option<Act>,
}

impl Request for ConfirmPayment {
    type Decided = ();
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<()>, Decline> {
        let decided = turn.owner.confirm_payment(self.payment, self.amount, turn.now);
        decided.map(|decision| turn.receipt_of(decision, self.act))
    }
}

struct Reverse {
    reversal: Reversal,
    act: Option<Act>,
}

impl Request for Reverse {
    type Decided = Option<ReversalStep>;
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Option<ReversalStep>>, Decline> {
        let decided = turn.owner.reverse(self.reversal, turn.now);
        decided.map(|decision| {
            let act = self.act.filter(|_| decision.decided.is_some());
            turn.receipt_of(decision, act)
        })
    }
}

struct Refill {
    act: Option<Act>,
    reference: uuid::Uuid,
    to: Credits,
}

impl Request for Refill {
    type Decided = Credits;
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Credits>, Decline> {
        let decided = turn.owner.refill(self.reference, self.to, turn.now);
        decided.map(|decision| turn.receipt_of(decision, self.act))
    }
}

struct Adjust {
    reference: uuid::Uuid,
    adjustment: Adjustment,
    answer: Option<RecordedAnswer>,
    act: Option<Act>,
}

impl Request for Adjust {
    type Decided = Credits;
    type Declined = Decline;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Credits>, Decline> {
        let Adjust { reference, adjustment, answer, act } = self;
        let decided = turn.owner.adjust(reference, adjustment, answer, turn.now);
        decided.map(|decision| turn.receipt_of(decision, act))
    }
}

struct AddKey {
    act: Option<Act>,
    key: NewKey,
    answer: Option<RecordedAnswer>,
}

impl Request for AddKey {
    type Decided = ();
    type Declined = TooManyKeys;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<()>, TooManyKeys> {
        let decided = turn.owner.add_key(self.key, self.answer, turn.means.keys_max);
        decided.map(|decision| turn.receipt_of(decision, self.act))
    }
}

struct ChangeKey {
    act: Option<Act>,
    key: KeyId,
    change: KeyChange,
}

impl Request for ChangeKey {
    type Decided = KeyState;
    type Declined = NoSuchKey;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<KeyState>, NoSuchKey> {
        let decided = turn.owner.change_key(self.key, self.change, turn.now);
        decided.map(|decision| turn.receipt_of(decision, self.act))
    }
}

struct SetStatus {
    act: Option<Act>,
    status: AccountStatus,
}

impl Request for SetStatus {
    type Decided = ();
    type Declined = Infallible;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<()>, Infallible> {
        let decision = turn.owner.set_status(self.status);
        Ok(turn.receipt_of(decision, self.act))
    }
}

pub(super) struct Look(pub(super) Option<KeyId>);

impl Request for Look {
    type Decided = Snapshot;
    type Declined = Infallible;

    fn decide(self, turn: &mut Turn<'_>) -> Result<Receipt<Snapshot>, Infallible> {
        let decision = turn.owner.look(self.0, turn.now);
        Ok(turn.receipt(decision))
    }
}

/// A panic on purpose, for the test that it touches its account alone.
#[cfg(test)]
pub(super) struct Panic;

#[cfg(test)]
impl Request for Panic {
    type Decided = ();
    type Declined = Infallible;

    fn decide(self, _: &mut Turn<'_>) -> Result<Receipt<()>, Infallible> {
        panic!("on purpose");
    }
}

/// Why an account did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError<E> {
    /// It said no.
    #[error("{0}")]
    Refused(E),
    /// Its owner is gone: it has panicked, or a write of it was refused. What was decided, if anything, was not acknowledged.
    #[error("the account's owner is gone")]
    Gone,
}

/// The right to ask an account, for the time of one call. While it is held the account stays in memory; how many there
/// may be at once is bounded.
pub struct AccountLease {
    pub(super) resident: Arc<Resident>,
    pub(super) in_flight: InFlight,
}

impl std::fmt::Debug for AccountLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccountLease").field(&self.resident.account).finish()
    }
}

impl AccountLease {
    pub(super) async fn ask<R: Request>(
        &self,
        request: R,
    ) -> Result<Receipt<R::Decided>, AccountError<R::Declined>> {
        let answer = match self.resident.try_ask(request) {
            Ok(answer) => answer,
            Err(request) => self.resident.send(request).await.ok(),
        };
        answer.ok_or(AccountError::Gone)?.map_err(AccountError::Refused)
    }

    /// Decides a charge.
    ///
    /// # Errors
    /// The [`Decline`], or [`AccountError::Gone`].
    pub async fn charge(
        &self,
        charge: Charge,
    ) -> Result<Receipt<ChargeTerms>, AccountError<Decline>> {
        if let Some(decline) = self.in_flight.flags().declines(charge.price) {
            return Err(AccountError::Refused(decline));
        }
        self.ask(ChargeCall(charge)).await
    }

    /// What a charge would get. Takes nothing.
    ///
    /// # Errors
    /// [`AccountError::Gone`]
    pub async fn quote(
        &self,
        charge: Charge,
    ) -> Result<Receipt<ChargeQuote>, AccountError<std::convert::Infallible>> {
        self.ask(QuoteCall(charge)).await
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
        self.ask(ExtendCall { charge, extension }).await
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
        record: Option<RecordAnswer>,
    ) -> Result<Receipt<Settled>, AccountError<std::convert::Infallible>> {
        self.ask(SettleCall { charge, outcome, usage: Some(usage), record })
            .await
            .map_err(|_| AccountError::Gone)
    }

    /// Ends a charge without waiting, for a call that broke off: at what it had earned.
    pub fn abandon(&self, charge: ChargeId, earned: Credits) {
        let outcome = if earned > Credits::ZERO {
            Outcome::Delivered { cost: earned }
        } else {
            Outcome::Failed
        };
        self.resident.tell(SettleCall { charge, outcome, usage: None, record: None });
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
        self.ask(TopUp { act, payment, answer }).await
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
        self.ask(ConfirmPayment { payment, amount, act }).await
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
        self.ask(Reverse { reversal, act }).await
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
        self.ask(Refill { act, reference, to }).await
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
        self.ask(Adjust { reference, adjustment, answer, act }).await
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
        self.ask(AddKey { act, key, answer }).await
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
        self.ask(ChangeKey { act, key, change }).await
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
        self.ask(SetStatus { act, status }).await
    }

    /// Looks at the account, and at one of its keys.
    ///
    /// # Errors
    /// [`AccountError::Gone`]
    pub async fn look(
        &self,
        key: Option<KeyId>,
    ) -> Result<Receipt<Snapshot>, AccountError<std::convert::Infallible>> {
        self.ask(Look(key)).await
    }
}
