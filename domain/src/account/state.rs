//! The balance of one account, the holds on it, and the limits and counters of its keys.
//!
//! A sequential state machine: one caller at a time, so no rule here thinks about concurrency. A command checks everything
//! first and changes the state last: nothing fails after the line `Decided`.
//!
//! `available = balance - held - unconfirmed`. A debit binds at once. Credits that come back (a top-up, a refund,
//! the rest of a captured hold) are *unconfirmed* until the ledger entry that returns them is durable. A crash could still
//! take them away, so they cannot be spent before that.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use super::charge::Decline;
use super::charging::{OpenCharge, Stake};
use super::key::{KeyChange, KeyState, NoSuchKey};
use super::stored::StoredAccount;
use crate::environment::{AccountStatus, Environment};
use crate::hold::Hold;
use crate::ids::{AccountId, ChargeId, KeyId};
use crate::ledger::{EntryKind, LedgerEntry, Link};
use crate::money::Credits;
use crate::window::{Day, Month, Timestamp};

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    pub(super) id: AccountId,
    pub(super) environment: Environment,
    pub(super) status: AccountStatus,
    pub(super) balance: Credits,
    /// The sum of `open`'s holds.
    pub(super) held: Credits,
    /// The last entry's number; 0 before the first.
    pub(super) seq: i64,
    /// The last entry's link.
    pub(super) link: Link,
    /// The epoch of its owner's lease, which each entry gets.
    pub(super) epoch: i64,
    /// What entries that are not yet durable gave back, by entry number, oldest first.
    pub(super) unconfirmed: VecDeque<(i64, Credits)>,
    /// The sum of `unconfirmed`.
    pub(super) unconfirmed_sum: Credits,
    /// Sorted by id. A vector, because most accounts have one or two keys and a million accounts may be
    /// in memory.
    pub(super) keys: Vec<KeyState>,
    pub(super) open: BTreeMap<ChargeId, OpenCharge>,
}

impl AccountState {
    /// An account as it was written down: with the holds that are open, nothing unconfirmed. `epoch` is that of
    /// its new owner.
    #[must_use]
    pub fn load(
        stored: StoredAccount,
        epoch: i64,
        mut keys: Vec<KeyState>,
        holds: &[Hold],
    ) -> Self {
        keys.sort_unstable_by_key(|key| key.id);
        // A vector that grew has room for four, which is a kilobyte, and a million accounts may be in memory.
        keys.shrink_to_fit();
        let StoredAccount { id, environment, status, balance, seq, link } = stored;
        let mut account = AccountState {
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
            let Hold { amount, earned, day, month, .. } = *hold;
            let open = OpenCharge {
                key: hold.key,
                day,
                month,
                stake: Stake::Held { amount, earned, is_durable: true },
                opened_at: hold.opened_at,
                expires_at: hold.expires_at,
            };
            account.held = account.held.checked_add(amount).unwrap_or(Credits::MAX);
            account.counters(&open, |key, day, month| key.add(day, month, Credits::ZERO, amount));
            account.open.insert(hold.id, open);
        }
        account
    }

    /// Brings the balance up to `to`, where it is below. Of test accounts.
    ///
    /// # Errors
    /// As [`AccountState::top_up`].
    pub fn refill(
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

    /// Adds credits. They can be spent once the entry is confirmed.
    ///
    /// # Errors
    /// [`Decline::AccountSuspended`], or [`Decline::AmountTooLarge`] where the amount is not positive or the
    /// balance would not fit.
    pub fn top_up(
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

    /// The same whatever the account's status: money that a provider has is not kept from its owner.
    ///
    /// # Errors
    /// [`Decline::AmountTooLarge`]
    pub fn credit(
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
        let entry = self.entry(kind, amount, reference, None, day, day.month(), now);
        self.withhold(amount);
        Ok(entry)
    }

    /// Takes credits, whatever the account's status: at most what is available, so that nothing is taken of what
    /// runs.
    ///
    /// # Errors
    /// [`Decline::InsufficientCredits`], or [`Decline::AmountTooLarge`] where the amount is not positive.
    pub fn take(
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
        Ok(self.entry(kind, taken, reference, None, day, day.month(), now))
    }

    /// Makes spendable what entries up to number `durable_seq` gave back.
    pub fn confirm(&mut self, durable_seq: i64) {
        while let Some((_, amount)) =
            self.unconfirmed.front().filter(|(seq, _)| *seq <= durable_seq)
        {
            self.unconfirmed_sum = self.unconfirmed_sum.less(*amount);
            self.unconfirmed.pop_front();
        }
    }

    /// Adds a key.
    pub fn add_key(&mut self, key: KeyState) {
        match self.keys.binary_search_by_key(&key.id, |other| other.id) {
            Ok(_) => {}
            Err(place) => {
                self.keys.reserve_exact(1);
                self.keys.insert(place, key);
            }
        }
    }

    /// Changes a key. Binds for the next charge.
    ///
    /// # Errors
    /// [`NoSuchKey`]
    pub fn change_key(&mut self, id: KeyId, change: KeyChange) -> Result<KeyState, NoSuchKey> {
        let place = self.keys.binary_search_by_key(&id, |key| key.id).map_err(|_| NoSuchKey)?;
        if change == KeyChange::Delete {
            return Ok(self.keys.remove(place));
        }
        let key = self.keys.get_mut(place).ok_or(NoSuchKey)?;
        match change {
            KeyChange::Limits(limits) => key.limits = key.limits.changed(limits),
            KeyChange::Revoke => key.is_revoked = true,
            KeyChange::Delete => {}
        }
        Ok(*key)
    }

    /// Suspends or resumes the account. Binds for the next charge; what runs is settled.
    pub fn set_status(&mut self, status: AccountStatus) {
        self.status = status;
    }

    /// A key that a charge was refused for by its daily or its monthly limit, where its holder is to be told: once a day
    /// for each.
    pub fn limit_refused(
        &mut self,
        key: KeyId,
        is_monthly: bool,
        now: Timestamp,
    ) -> Option<KeyState> {
        let key = key_mut(&mut self.keys, key)?;
        let (day, _) = key.windows(now);
        let told = key.limit_told.get_mut(usize::from(is_monthly))?;
        let is_news = *told < day;
        *told = day.max(*told);
        is_news.then_some(*key)
    }

    /// The account's number.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// Live or test.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Open or suspended.
    #[must_use]
    pub fn status(&self) -> AccountStatus {
        self.status
    }

    /// The fold of the ledger. Holds are still in it.
    #[must_use]
    pub fn balance(&self) -> Credits {
        self.balance
    }

    /// Reserved by open charges.
    #[must_use]
    pub fn held(&self) -> Credits {
        self.held
    }

    /// What a charge may take now: `balance - held - unconfirmed`.
    #[must_use]
    pub fn available(&self) -> Credits {
        self.balance.less(self.held).less(self.unconfirmed_sum)
    }

    /// The same, where it alone decides whether a call is declined for want of credits: the account is open, nothing
    /// is held or comes back, and no key has a ceiling that would be named first.
    #[must_use]
    pub fn available_at_rest(&self) -> Option<Credits> {
        let is_at_rest = self.status == AccountStatus::Open
            && self.open.is_empty()
            && self.unconfirmed.is_empty()
            && self.keys.iter().all(|key| key.limits.per_request.is_none());
        is_at_rest.then(|| self.available())
    }

    /// The number of the last entry.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The account's own part, as it is to be written down.
    #[must_use]
    pub fn stored(&self) -> StoredAccount {
        let AccountState { id, environment, status, balance, seq, link, .. } = *self;
        StoredAccount { id, environment, status, balance, seq, link }
    }

    /// One key.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&KeyState> {
        let place = self.keys.binary_search_by_key(&id, |key| key.id).ok()?;
        self.keys.get(place)
    }

    /// Every key that is not deleted, in the order of ids.
    #[must_use]
    pub fn keys(&self) -> &[KeyState] {
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
