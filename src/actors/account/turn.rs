//! A turn: exclusive access to an account while one request is decided.
//!
//! It contains no rules. A turn reads the clock, calls [`Account`], and hands the write to the
//! ledger writer before it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::receipt::Receipt;
use super::threads::ActorThreads;
use crate::actors::ledger::{Acknowledgement, LedgerHandle};
use crate::clock::Clock;
use domain::account::ChargeTerms;
use domain::account::{Decision, Snapshot};
use domain::{Account, Act, Charge, Decline, KeyId, Timestamp, Write};

/// What every account needs to decide requests.
pub(super) struct Resources {
    pub(super) ledger: LedgerHandle,
    pub(super) clock: Clock,
    pub(super) threads: ActorThreads,
    pub(super) keys_max: usize,
}

impl Resources {
    /// Decides a request; `None` if the decision panicked.
    pub(super) fn decide<R>(
        &self,
        owner: &mut Account,
        decide: impl FnOnce(&mut Turn<'_>) -> R,
    ) -> Option<R> {
        let deciding = || {
            let now = self.clock.now();
            decide(&mut Turn { owner, resources: self, now })
        };
        catch_unwind(AssertUnwindSafe(deciding)).ok()
    }
}

/// Exclusive access to an account while one request is decided. It never waits.
pub(super) struct Turn<'a> {
    pub(super) owner: &'a mut Account,
    pub(super) resources: &'a Resources,
    pub(super) now: Timestamp,
}

impl Turn<'_> {
    /// Hands over a decision's write. The receipt waits for it if the decision must be durable
    /// before the caller is answered.
    pub(super) fn receipt<T>(&self, decision: Decision<T>) -> Receipt<T> {
        let Decision { decided, write, is_awaited } = decision;
        failpoint!("account-decided");
        let durable = write.and_then(|write| self.hand_over(write, is_awaited));
        self.owner.publish();
        failpoint!("account-handed-over");
        Receipt { decided, durable }
    }

    /// The receipt of a decision with an act, which is written with it.
    pub(super) fn receipt_of<T, E>(
        &self,
        decided: Result<Decision<T>, E>,
        act: Option<Act>,
    ) -> Result<Receipt<T>, E> {
        decided.map(|decision| self.receipt(decision.done_by(self.owner.id(), act)))
    }

    fn hand_over(&self, write: Box<Write>, is_awaited: bool) -> Option<Acknowledgement> {
        let (ticket, acknowledgement) = if is_awaited {
            let (sender, receiver) = oneshot::channel();
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        self.resources.ledger.write(write, self.owner.flags(), ticket);
        acknowledgement
    }

    /// Decides a charge. If a limit declines it, subscribers of the account are notified.
    pub(super) fn charge(&mut self, charge: &Charge) -> Result<Receipt<ChargeTerms>, Decline> {
        let decided = self.owner.charge(charge, self.now);
        if let Err(decline) = &decided {
            if self.resources.ledger.has_subscribers(self.owner.id())
                && let Some(write) = self.owner.notify_of_limit(charge, *decline, self.now)
            {
                let _ = self.hand_over(Box::new(write), false);
            }
            // Returned credits may have become durable. Then the published amount decides the next
            // such call without the account.
            self.owner.publish();
        }
        decided.map(|decision| self.receipt(decision))
    }

    /// Ends the charges that have expired: those of calls that were never settled, and the holds
    /// that an earlier process left open.
    fn expire(&mut self) -> Receipt<()> {
        for decision in self.owner.expire(self.now) {
            let account = self.owner.id();
            let charge = decision.decided;
            tracing::warn!(%account, %charge, "a charge expired before it was settled");
            failpoint!("sweep-expired");
            if let Some(write) = decision.write {
                let _ = self.hand_over(write, false);
            }
        }
        self.owner.publish();
        Receipt { decided: (), durable: None }
    }

    /// Reads the account and one of its keys.
    pub(super) fn look(&mut self, key: Option<KeyId>) -> Receipt<Snapshot> {
        let decision = self.owner.look(key, self.now);
        self.receipt(decision)
    }
}

/// [`Turn::expire`] as a function, which fits a turn of any lifetime.
pub(super) fn expire(turn: &mut Turn<'_>) -> Receipt<()> {
    turn.expire()
}
