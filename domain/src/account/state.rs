//! The balance of one account, the holds on it, and the limits and counters of its keys.
//!
//! A sequential state machine with one caller at a time, so no rule here deals with concurrency. An
//! operation checks everything first and changes the state last. Nothing fails after the comment
//! `Decided`.
//!
//! `available = balance - held - unconfirmed`. A debit counts at once. Returned credits (a top-up,
//! a refund, the rest of a captured hold) are *unconfirmed* until the ledger entry that returns
//! them is durable. A crash could still undo that entry, so they cannot be spent earlier.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use super::charge::Decline;
use super::decision::GRANTED_BALANCE_MAX;
use super::key::{KeyChange, KeyState, NoSuchKey};
use super::open_charge::{OpenCharge, Stake};
use super::stored::{LoadedAccount, StoredAccount};
use crate::environment::{AccountStatus, Environment};
use crate::erasure::NotErasable;
use crate::hold::Hold;
use crate::ids::{AccountId, ChargeId, KeyId};
use crate::ledger::{EntryKind, LedgerEntry, Link};
use crate::money::Credits;
use crate::stored_bill::StoredBill;
use crate::window::{Day, Month, Timestamp};

/// The balance, keys and open charges of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) id: AccountId,
    pub(super) environment: Environment,
    pub(super) status: AccountStatus,
    pub(super) balance: Credits,
    /// The sum of the holds in `open`.
    pub(super) held: Credits,
    /// The number of the last entry; 0 before the first.
    pub(super) seq: i64,
    /// The link of the last entry.
    pub(super) link: Link,
    /// The epoch of the lease under which the account was loaded. Every entry stores it.
    pub(super) epoch: i64,
    /// Credits that were returned by entries that are not durable yet, with the entry's number,
    /// oldest first.
    pub(super) unconfirmed: VecDeque<(i64, Credits)>,
    /// The sum of `unconfirmed`.
    pub(super) unconfirmed_sum: Credits,
    /// Sorted by id. A vector, because most accounts have one or two keys, and a million accounts
    /// may be in memory.
    pub(super) keys: Vec<KeyState>,
    pub(super) open: BTreeMap<ChargeId, OpenCharge>,
}

impl State {
    /// The account as stored, with its open holds and nothing unconfirmed.
    pub(super) fn load(loaded: LoadedAccount) -> Self {
        let LoadedAccount { stored, epoch, mut keys, holds } = loaded;
        keys.sort_unstable_by_key(|key| key.id);
        // A vector that grew has room for four keys, which is a kilobyte, and a million accounts
        // may be in memory.
        keys.shrink_to_fit();
        let StoredAccount { id, environment, status, balance, seq, link } = stored;
        let mut account = State {
            id,
            environment,
            status,
            balance,
            held: Credits::ZERO,
            seq,
            link,
            epoch,
            unconfirmed: VecDeque::new(),
            unconfirmed_sum: Credits::ZERO,
            keys,
            open: BTreeMap::new(),
        };
        for hold in holds {
            let Hold { amount, earned, bill, day, month, .. } = hold;
            let bill = bill.map(Box::new);
            let open = OpenCharge {
                key: hold.key,
                day,
                month,
                stake: Stake::Held { amount, earned, bill, is_durable: true },
                opened_at: hold.opened_at,
                expires_at: hold.expires_at,
            };
            account.held = account.held.checked_add(amount).unwrap_or(Credits::MAX);
            account.counters(&open, |key, day, month| key.add(day, month, Credits::ZERO, amount));
            account.open.insert(hold.id, open);
        }
        account
    }

    /// Raises the balance to `to` if it is below. For test accounts.
    pub(super) fn refill(
        &mut self,
        reference: Uuid,
        to: Credits,
        now: Timestamp,
    ) -> Result<Option<LedgerEntry>, Decline> {
        match to.less(self.balance) {
            Credits::ZERO => Ok(None),
            missing => self.top_up(EntryKind::Grant, reference, missing, now).map(Some),
        }
    }

    /// Adds credits to an open account. They can be spent once their entry is durable.
    pub(super) fn top_up(
        &mut self,
        kind: EntryKind,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if self.status != AccountStatus::Open {
            return Err(Decline::AccountSuspended);
        }
        self.credit(kind, reference, amount, now)
    }

    /// Adds credits without a payment to an open account, up to [`GRANTED_BALANCE_MAX`].
    pub(super) fn grant(
        &mut self,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if self.status != AccountStatus::Open {
            return Err(Decline::AccountSuspended);
        }
        let balance = self.balance.checked_add(amount);
        if balance.is_none_or(|balance| balance > GRANTED_BALANCE_MAX) {
            return Err(Decline::AmountTooLarge);
        }
        self.credit(EntryKind::Grant, reference, amount, now)
    }

    /// Adds credits, even to a suspended account, because the provider already has the money.
    pub(super) fn credit(
        &mut self,
        kind: EntryKind,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if amount <= Credits::ZERO {
            return Err(Decline::AmountNotPositive);
        }
        let balance = self.balance.checked_add(amount).ok_or(Decline::AmountTooLarge)?;

        // Decided. From here on nothing fails.
        self.balance = balance;
        let day = now.day();
        let entry = self.entry(kind, amount, reference, None, day, day.month(), now, None);
        self.withhold(amount);
        Ok(entry)
    }

    /// Takes credits, even from a suspended account: at most the available ones, and so none that a
    /// running call holds.
    pub(super) fn take(
        &mut self,
        kind: EntryKind,
        reference: Uuid,
        amount: Credits,
        now: Timestamp,
    ) -> Result<LedgerEntry, Decline> {
        if amount <= Credits::ZERO {
            return Err(Decline::AmountNotPositive);
        }
        let available = self.available();
        if amount > available {
            return Err(Decline::InsufficientCredits { price: amount, available });
        }
        let balance = self.balance.checked_sub(amount).ok_or(Decline::AmountTooLarge)?;

        // Decided. From here on nothing fails.
        self.balance = balance;
        let day = now.day();
        let taken = negated(amount);
        Ok(self.entry(kind, taken, reference, None, day, day.month(), now, None))
    }

    /// Ends the account for good, if it is open and nothing runs: takes the balance if its owner
    /// gives it up, revokes every key, and suspends the account.
    pub(super) fn close(
        &mut self,
        reference: Uuid,
        gives_up: bool,
        now: Timestamp,
    ) -> Result<(Option<LedgerEntry>, Credits), NotErasable> {
        let balance = self.balance;
        if self.status == AccountStatus::Suspended {
            return Err(NotErasable::Suspended);
        }
        if !self.open.is_empty() || self.available() != balance {
            return Err(NotErasable::Busy);
        }
        let entry = match balance {
            Credits::ZERO => None,
            _ if !gives_up => return Err(NotErasable::Balance(balance)),
            _ => {
                let taken = self.take(EntryKind::Deduction, reference, balance, now);
                Some(taken.map_err(|_| NotErasable::Busy)?)
            }
        };
        self.keys.iter_mut().for_each(|key| key.is_revoked = true);
        self.set_status(AccountStatus::Suspended);
        Ok((entry, balance))
    }

    /// Makes the credits spendable that entries up to number `durable_seq` returned.
    pub(super) fn confirm(&mut self, durable_seq: i64) {
        while let Some((_, amount)) =
            self.unconfirmed.front().filter(|(seq, _)| *seq <= durable_seq)
        {
            self.unconfirmed_sum = self.unconfirmed_sum.less(*amount);
            self.unconfirmed.pop_front();
        }
    }

    /// Adds a key.
    pub(super) fn add_key(&mut self, key: KeyState) {
        match self.keys.binary_search_by_key(&key.id, |other| other.id) {
            Ok(_) => {}
            Err(place) => {
                self.keys.reserve_exact(1);
                self.keys.insert(place, key);
            }
        }
    }

    /// Changes a key, from the next charge on.
    pub(super) fn change_key(
        &mut self,
        id: KeyId,
        change: &KeyChange,
    ) -> Result<KeyState, NoSuchKey> {
        let place = self.keys.binary_search_by_key(&id, |key| key.id).map_err(|_| NoSuchKey)?;
        if *change == KeyChange::Delete {
            return Ok(self.keys.remove(place));
        }
        let key = self.keys.get_mut(place).ok_or(NoSuchKey)?;
        match change {
            KeyChange::Limits(limits) => key.limits = key.limits.changed(*limits),
            KeyChange::Revoke => key.is_revoked = true,
            // What else is known of a key is not known here.
            KeyChange::Edit(_) | KeyChange::Delete => {}
        }
        Ok(*key)
    }

    /// Suspends or resumes the account, from the next charge on. Calls that run are settled.
    pub(super) fn set_status(&mut self, status: AccountStatus) {
        self.status = status;
    }

    /// Notes that the daily or the monthly limit refused a charge. Returns the key if its holder
    /// must be notified. That is once a day for each limit.
    pub(super) fn limit_refused(
        &mut self,
        key: KeyId,
        is_monthly: bool,
        now: Timestamp,
    ) -> Option<KeyState> {
        let key = key_mut(&mut self.keys, key)?;
        let (day, _) = key.windows(now);
        let notified = key.limit_notified.get_mut(usize::from(is_monthly))?;
        let is_news = *notified < day;
        *notified = day.max(*notified);
        is_news.then_some(*key)
    }

    pub(super) fn id(&self) -> AccountId {
        self.id
    }

    /// Open or suspended.
    pub(super) fn status(&self) -> AccountStatus {
        self.status
    }

    /// The sum of the ledger, from which open holds are not subtracted.
    pub(super) fn balance(&self) -> Credits {
        self.balance
    }

    /// The sum of the open holds.
    pub(super) fn held(&self) -> Credits {
        self.held
    }

    /// What a charge may take now: `balance - held - unconfirmed`.
    pub(super) fn available(&self) -> Credits {
        self.balance.less(self.held).less(self.unconfirmed_sum)
    }

    /// The available credits, if they alone decide whether a call is declined for lack of credits.
    /// They do if the account is open, nothing is held or unconfirmed, and no key has a limit for
    /// one request, which would take precedence.
    pub(super) fn available_at_rest(&self) -> Option<Credits> {
        let is_at_rest = self.status == AccountStatus::Open
            && self.open.is_empty()
            && self.unconfirmed.is_empty()
            && self.keys.iter().all(|key| key.limits.per_request.is_none());
        is_at_rest.then(|| self.available())
    }

    /// The number of the last entry.
    pub(super) fn seq(&self) -> i64 {
        self.seq
    }

    /// The account's row, as it is to be written.
    pub(super) fn stored(&self) -> StoredAccount {
        let State { id, environment, status, balance, seq, link, .. } = *self;
        StoredAccount { id, environment, status, balance, seq, link }
    }

    /// One key.
    pub(super) fn key(&self, id: KeyId) -> Option<&KeyState> {
        let place = self.keys.binary_search_by_key(&id, |key| key.id).ok()?;
        self.keys.get(place)
    }

    /// Every key that is not deleted, sorted by id.
    pub(super) fn keys(&self) -> &[KeyState] {
        &self.keys
    }

    pub(super) fn withhold(&mut self, amount: Credits) {
        if amount > Credits::ZERO {
            self.unconfirmed.push_back((self.seq, amount));
            self.unconfirmed_sum = self.unconfirmed_sum.checked_add(amount).unwrap_or(Credits::MAX);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the columns of an entry, named at its two callers"
    )]
    pub(super) fn entry(
        &mut self,
        kind: EntryKind,
        amount: Credits,
        reference: Uuid,
        key: Option<KeyId>,
        day: Day,
        month: Month,
        at: Timestamp,
        bill: Option<StoredBill>,
    ) -> LedgerEntry {
        self.seq = self.seq.saturating_add(1);
        let entry = LedgerEntry {
            account: self.id,
            seq: self.seq,
            epoch: self.epoch,
            kind,
            amount,
            balance_after: self.balance,
            reference,
            key,
            day,
            month,
            at,
            bill,
            link: Link::START,
        };
        let entry = entry.after(self.link);
        self.link = entry.link;
        entry
    }
}

pub(super) fn key_mut(keys: &mut [KeyState], id: KeyId) -> Option<&mut KeyState> {
    let place = keys.binary_search_by_key(&id, |key| key.id).ok()?;
    keys.get_mut(place)
}

pub(super) fn negated(amount: Credits) -> Credits {
    Credits::ZERO.checked_sub(amount).unwrap_or(Credits::ZERO)
}

#[cfg(test)]
mod tests;
