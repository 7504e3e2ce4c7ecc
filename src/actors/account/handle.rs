//! A handle: the permit to send requests to an account, and the requests.

use std::convert::Infallible;
use std::sync::Arc;

use super::receipt::{AccountError, Receipt};
use super::slot::AccountSlot;
use super::turn::Turn;
use domain::account::InFlight;
use domain::account::{ChargeQuote, Extension, RecordAnswer, Snapshot, TooManyKeys};
use domain::account::{ChargeTerms, NoSuchKey};
use domain::stored_bill::StoredBill;
use domain::{
    AccountStatus, Act, Adjustment, Charge, ChargeId, Credits, Decline, Erasure, KeyChange, KeyId,
    KeyState, NewKey, NewPayment, NotErasable, Outcome, PaymentId, RecordedAnswer, Reversal,
    ReversalStep, Settled, UsageRecord,
};

type Asked<T, E> = Result<Receipt<T>, AccountError<E>>;

/// The permit to send requests to an account during one call. While it is held, the account stays
/// in memory. An account has a bounded number of handles at once.
pub struct AccountHandle {
    pub(super) slot: Arc<AccountSlot>,
    pub(super) in_flight: InFlight,
}

impl std::fmt::Debug for AccountHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccountHandle").field(&self.slot.account).finish()
    }
}

impl AccountHandle {
    /// Decides a request at once if the turn is free, and otherwise in the account's mailbox.
    pub(super) async fn ask<T, E, F>(&self, decide: F) -> Asked<T, E>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut Turn<'_>) -> Result<Receipt<T>, E> + Send + 'static,
    {
        let answer = match self.slot.try_decide(decide) {
            Ok(answer) => answer,
            Err(decide) => self.slot.send(decide).await.ok(),
        };
        answer.ok_or(AccountError::Gone)?.map_err(AccountError::Refused)
    }

    /// Decides whether a call may run, and debits or holds its price.
    pub async fn charge(&self, charge: Charge) -> Asked<ChargeTerms, Decline> {
        if let Some(decline) = self.in_flight.flags().declines(charge.price) {
            return Err(AccountError::Refused(decline));
        }
        self.ask(move |turn| turn.charge(&charge)).await
    }

    /// What a charge would get now. Changes no balance.
    pub async fn quote(&self, charge: Charge) -> Asked<ChargeQuote, Infallible> {
        self.ask(move |turn| {
            let decision = turn.owner.quote(&charge, turn.now);
            Ok(turn.receipt(decision))
        })
        .await
    }

    /// Extends a hold. Answers how much is held then.
    pub async fn extend(&self, charge: ChargeId, extension: Extension) -> Asked<Credits, Decline> {
        self.ask(move |turn| {
            let decided = turn.owner.extend(charge, extension);
            decided.map(|decision| turn.receipt(decision))
        })
        .await
    }

    /// Ends a charge and records what the call did, and the answer if `record` is given. If the
    /// charge is not open any more, the error is [`AccountError::Gone`].
    pub async fn settle(
        &self,
        charge: ChargeId,
        outcome: Outcome,
        usage: UsageRecord,
        record: Option<RecordAnswer>,
    ) -> Asked<Settled, Infallible> {
        self.ask(move |turn| {
            let decided = turn.owner.settle(charge, outcome, turn.now, Some(usage), record);
            decided.map(|decision| turn.receipt(decision))
        })
        .await
        .map_err(|_| AccountError::Gone)
    }

    /// Ends the charge of a call that broke off. It costs what was earned so far, by this bill.
    /// Does not wait.
    pub fn abandon(&self, charge: ChargeId, earned: Credits, bill: Option<StoredBill>) {
        let outcome = if earned > Credits::ZERO {
            Outcome::Delivered { cost: earned, bill }
        } else {
            Outcome::Failed
        };
        self.slot.tell(move |turn| {
            let decided = turn.owner.settle(charge, outcome, turn.now, None, None);
            decided.map(|decision| turn.receipt(decision))
        });
    }

    /// Credits a payment, and records `answer` with it.
    pub async fn top_up(
        &self,
        payment: NewPayment,
        answer: Option<RecordedAnswer>,
        act: Option<Act>,
    ) -> Asked<(), Decline> {
        self.ask(move |turn| {
            let decided = turn.owner.top_up(payment, answer, turn.now);
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Credits a payment for which the provider has the money.
    pub async fn confirm_payment(
        &self,
        payment: PaymentId,
        amount: Credits,
        act: Option<Act>,
    ) -> Asked<(), Decline> {
        self.ask(move |turn| {
            let decided = turn.owner.confirm_payment(payment, amount, turn.now);
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Takes or gives back what is possible of a reversal. Answers the step that was taken. If
    /// there was none, the act is not written.
    pub async fn reverse(
        &self,
        reversal: Reversal,
        act: Option<Act>,
    ) -> Asked<Option<ReversalStep>, Decline> {
        self.ask(move |turn| {
            let decision = turn.owner.reverse(reversal, turn.now)?;
            let act = act.filter(|_| decision.decided.is_some());
            turn.receipt_of(Ok(decision), act)
        })
        .await
    }

    /// Raises the balance to `to` if it is below. Answers the balance.
    pub async fn refill(
        &self,
        reference: uuid::Uuid,
        to: Credits,
        act: Option<Act>,
    ) -> Asked<Credits, Decline> {
        self.ask(move |turn| {
            let decided = turn.owner.refill(reference, to, turn.now);
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Gives or takes credits without a payment. Answers the balance.
    pub async fn adjust(
        &self,
        reference: uuid::Uuid,
        adjustment: Adjustment,
        answer: Option<RecordedAnswer>,
        act: Option<Act>,
    ) -> Asked<Credits, Decline> {
        self.ask(move |turn| {
            let decided = turn.owner.adjust(reference, adjustment, answer, turn.now);
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Adds a key, and records `answer` with it.
    pub async fn add_key(
        &self,
        key: NewKey,
        answer: Option<RecordedAnswer>,
        act: Option<Act>,
    ) -> Asked<(), TooManyKeys> {
        self.ask(move |turn| {
            let decided = turn.owner.add_key(key, answer, turn.resources.keys_max);
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Changes a key.
    pub async fn change_key(
        &self,
        key: KeyId,
        change: KeyChange,
        act: Option<Act>,
    ) -> Asked<KeyState, NoSuchKey> {
        self.ask(move |turn| {
            let decided = turn.owner.change_key(key, change, turn.now);
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Suspends or resumes the account.
    pub async fn set_status(
        &self,
        status: AccountStatus,
        act: Option<Act>,
    ) -> Asked<(), Infallible> {
        self.ask(move |turn| {
            let decided = turn.owner.set_status(status);
            turn.receipt_of(Ok(decided), act)
        })
        .await
    }

    /// Erases the account's user. Answers the balance that was given up.
    pub async fn erase(
        &self,
        erasure: Erasure,
        gives_up: bool,
        act: impl FnOnce(Credits) -> Act + Send + 'static,
    ) -> Asked<Credits, NotErasable> {
        self.ask(move |turn| {
            let decided = turn.owner.erase(erasure, gives_up, turn.now);
            let act = decided.as_ref().ok().map(|decision| act(decision.decided));
            turn.receipt_of(decided, act)
        })
        .await
    }

    /// Reads the account and one of its keys.
    pub async fn look(&self, key: Option<KeyId>) -> Asked<Snapshot, Infallible> {
        self.ask(move |turn| Ok(turn.look(key))).await
    }
}
