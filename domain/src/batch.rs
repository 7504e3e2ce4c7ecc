//! Writes and batches. A write is what one decision of an account stores. A batch is what one
//! transaction stores.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::act::Act;
use super::environment::AccountStatus;
use super::erasure::Erasure;
use super::event::Event;
use super::hold::HoldChange;
use super::ids::{AccountId, KeyId, PaymentId};
use super::key_policy::KeyEdit;
use super::lease::shard;
use super::ledger::{EntryKind, LedgerEntry};
use super::limits::{KeySpend, SpendingLimits};
use super::money::Credits;
use super::payment::{Reversal, ReversalStep};
use super::usage::UsageRecord;
use super::window::Timestamp;

/// Estimated memory of one row without its texts, in bytes.
const ROW_BYTES: usize = 512;

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// The account it spends.
    pub account: AccountId,
    /// The name that its owner gave it.
    pub name: String,
    /// See [`super::api_key::KeyDigest`].
    pub digest: [u8; 32],
    /// See [`super::api_key::ApiKey::preview`].
    pub preview: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// What it may spend from its first call on.
    pub limits: SpendingLimits,
}

/// A confirmed payment to be stored with the ledger entry that credits it.
#[derive(Clone, Debug)]
pub struct NewPayment {
    /// Its id, which is the entry's reference.
    pub id: PaymentId,
    /// The account it tops up.
    pub account: AccountId,
    /// The name of the payment provider.
    pub provider: &'static str,
    /// The amount of the payment.
    pub amount: Credits,
    /// When it was created and confirmed.
    pub at: Timestamp,
}

/// A change that moves no money. Changes are written in the order in which the account decided
/// them.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new key.
    KeyCreated(NewKey),
    /// New spending limits of a key of an account.
    KeyLimits(AccountId, KeyId, SpendingLimits),
    /// Another name, expiry or policy of a key of an account.
    KeyEdited(AccountId, KeyId, Box<KeyEdit>),
    /// A key of an account is revoked, since this time.
    KeyRevoked(AccountId, KeyId, Timestamp),
    /// A key of an account is revoked since this time, and no longer listed. Its row stays, because
    /// ledger entries and usage records refer to it.
    KeyDeleted(AccountId, KeyId, Timestamp),
    /// The account is suspended or resumed.
    AccountStatus(AccountId, AccountStatus),
    /// The user of the account is erased.
    UserErased(Box<Erasure>),
    /// A payment that is created and confirmed at once.
    PaymentConfirmed(NewPayment),
    /// A recorded payment that is now confirmed.
    PaymentPaid(PaymentId, Timestamp),
    /// A provider took back a part of a payment, or returned it.
    PaymentReversed(Reversal, ReversalStep),
}

impl Change {
    /// The account and the key, if it changes a key that exists.
    #[must_use]
    pub fn changed_key(&self) -> Option<(AccountId, KeyId)> {
        match self {
            Change::KeyLimits(account, key, _)
            | Change::KeyEdited(account, key, _)
            | Change::KeyRevoked(account, key, _)
            | Change::KeyDeleted(account, key, _) => Some((*account, *key)),
            Change::KeyCreated(_)
            | Change::AccountStatus(..)
            | Change::UserErased(_)
            | Change::PaymentConfirmed(_)
            | Change::PaymentPaid(..)
            | Change::PaymentReversed(..) => None,
        }
    }
}

/// The answer to a request with an idempotency key. A repeat of the request gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedAnswer {
    /// The account that made the request.
    pub account: AccountId,
    /// SHA-256 of the idempotency key.
    pub key_digest: [u8; 32],
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// The charge, payment or key that the request made.
    pub reference: Uuid,
    /// The encrypted answer; `None` if it was too large to store.
    pub answer: Option<Vec<u8>>,
    /// When it was answered.
    pub created_at: Timestamp,
    /// When it is deleted.
    pub expires_at: Timestamp,
}

/// What one decision of an account stores. It is stored completely or not at all.
#[derive(Clone, Debug)]
pub struct Write {
    /// The account that decided it.
    pub account: AccountId,
    /// A movement of money.
    pub entry: Option<LedgerEntry>,
    /// The key's counters after it.
    pub key_spend: Option<KeySpend>,
    /// What happened to a durable hold.
    pub hold: Option<HoldChange>,
    /// The usage record of a call.
    pub usage: Option<UsageRecord>,
    /// The answer to record for repeats of the request.
    pub answer: Option<RecordedAnswer>,
    /// A change that moves no money.
    pub change: Option<Change>,
    /// The entry of the audit log. A paid call has none, because its usage record says the same.
    pub act: Option<Box<Act>>,
    /// An event for the account's holder that [`event_rules`](super::event_rules) cannot derive
    /// from the rest of the write.
    pub event: Option<Box<Event>>,
}

impl Write {
    /// An empty write of this account. It is durable once every earlier write of the account is.
    #[must_use]
    pub fn nothing(account: AccountId) -> Self {
        Write {
            account,
            entry: None,
            key_spend: None,
            hold: None,
            usage: None,
            answer: None,
            change: None,
            act: None,
            event: None,
        }
    }

    /// Is this a plain write: only what a paid call stores, or the change of a key? Then the
    /// journal may take it before the tables do. These writes are not plain:
    ///
    /// - those that a constraint of the tables guards: a payment is credited once, a charge is
    ///   refunded once, an answer is recorded once;
    /// - those that are read from the tables as soon as they are acknowledged.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let is_call =
            |entry: &LedgerEntry| matches!(entry.kind, EntryKind::Charge | EntryKind::Capture);
        let is_bare = self.change.is_none() && self.act.is_none();
        self.entry.as_ref().is_none_or(is_call)
            && self.answer.is_none()
            && self.event.is_none()
            && (is_bare || self.is_key_change())
    }

    /// Does it change a key that is there already?
    #[must_use]
    pub fn is_key_change(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.changed_key().is_some())
    }

    /// The key that it makes or changes.
    pub(crate) fn touched_key(&self) -> Option<KeyId> {
        match self.change.as_ref()? {
            Change::KeyCreated(key) => Some(key.id),
            change => change.changed_key().map(|(_, key)| key),
        }
    }

    /// Does it set the spending limits of a key?
    pub(crate) fn sets_limits(&self) -> bool {
        matches!(self.change, Some(Change::KeyLimits(..)))
    }

    /// Its estimated memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let answer = self.answer.as_ref().and_then(|answer| answer.answer.as_ref());
        let edit = match &self.change {
            Some(Change::KeyEdited(_, _, edit)) => edit.bytes(),
            _ => 0,
        };
        let act = self.act.as_ref().map_or(0, |act| act.detail.len());
        let texts = answer.map_or(0, Vec::len).saturating_add(edit).saturating_add(act);
        ROW_BYTES.saturating_add(texts)
    }
}

/// What one transaction writes.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Ledger entries; those of one account are in the order of their numbers.
    pub entries: Vec<LedgerEntry>,
    /// The latest counters of each key.
    pub spends: BTreeMap<KeyId, KeySpend>,
    /// Changes of durable holds, in order.
    pub holds: Vec<HoldChange>,
    /// Usage records.
    pub usage: Vec<UsageRecord>,
    /// Recorded answers.
    pub answers: Vec<RecordedAnswer>,
    /// Other changes, in order.
    pub changes: Vec<Change>,
    /// Entries of the audit log, each with the account that was acted on.
    pub acts: Vec<(AccountId, Act)>,
    /// Events that do not follow from the rest of the batch.
    pub events: Vec<Event>,
}

impl Batch {
    /// The batch of these writes.
    #[must_use]
    pub fn of<'w>(writes: impl IntoIterator<Item = &'w Write>) -> Self {
        let mut batch = Batch::default();
        for write in writes {
            batch.entries.extend(write.entry);
            batch.spends.extend(write.key_spend.map(|spend| (spend.key, spend)));
            batch.holds.extend(write.hold);
            batch.usage.extend(write.usage.clone());
            batch.answers.extend(write.answer.clone());
            batch.changes.extend(write.change.clone());
            batch.acts.extend(write.act.as_deref().map(|act| (write.account, act.clone())));
            batch.events.extend(write.event.as_deref().cloned());
        }
        batch
    }

    /// For each key, how much the entries add to its total spending.
    #[must_use]
    pub fn spent(&self) -> BTreeMap<KeyId, Credits> {
        let mut spent = BTreeMap::new();
        for entry in &self.entries {
            let Some(key) = entry.key else { continue };
            let sum = spent.entry(key).or_insert(Credits::ZERO);
            // A debit has a negative amount and adds to what is spent.
            *sum = sum.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        }
        spent
    }

    /// Can a reader of the database find out whether this batch was written? Entries, ends of holds
    /// and usage records belong to one batch only. The new state of a key or an account does not
    /// show it: it is the same if it is written twice.
    #[must_use]
    pub fn leaves_trace(&self) -> bool {
        !(self.entries.is_empty() && self.holds.is_empty() && self.usage.is_empty())
    }

    /// These batches as one, sorted by account, so that rows that are neighbours in the tables are
    /// written together.
    #[must_use]
    pub fn checkpointed<'b>(batches: impl IntoIterator<Item = &'b Batch>) -> Self {
        let mut checkpointed = Batch::default();
        for batch in batches {
            checkpointed.entries.extend_from_slice(&batch.entries);
            checkpointed.spends.extend(batch.spends.iter().map(|(key, spend)| (*key, *spend)));
            checkpointed.holds.extend_from_slice(&batch.holds);
            checkpointed.usage.extend_from_slice(&batch.usage);
            checkpointed.answers.extend_from_slice(&batch.answers);
            checkpointed.changes.extend_from_slice(&batch.changes);
            checkpointed.acts.extend_from_slice(&batch.acts);
            checkpointed.events.extend_from_slice(&batch.events);
        }
        // Rows are large: their keys are sorted, and then each row is moved once.
        checkpointed.entries.sort_by_cached_key(|entry| (entry.account, entry.seq));
        checkpointed.usage.sort_by_cached_key(|usage| (usage.account, usage.id));
        checkpointed
    }

    /// The part of it that belongs to these accounts, of what may be in the journal.
    #[must_use]
    pub fn part_of(&self, accounts: &BTreeSet<AccountId>) -> Self {
        let is_theirs = |account: AccountId| accounts.contains(&account);
        let entries: Vec<LedgerEntry> =
            self.entries.iter().filter(|entry| is_theirs(entry.account)).copied().collect();
        let usage: Vec<UsageRecord> =
            self.usage.iter().filter(|usage| is_theirs(usage.account)).cloned().collect();
        let holds: Vec<HoldChange> =
            self.holds.iter().filter(|change| is_theirs(change.account())).copied().collect();
        let keys = entries.iter().filter_map(|entry| entry.key);
        let keys = keys.chain(usage.iter().map(|usage| usage.key));
        let spends = keys.filter_map(|key| Some((key, *self.spends.get(&key)?))).collect();
        let is_of_them = |change: &&Change| {
            change.changed_key().is_some_and(|(account, _)| accounts.contains(&account))
        };
        let changes = self.changes.iter().filter(is_of_them).cloned().collect();
        let acts = self.acts.iter().filter(|(account, _)| is_theirs(*account)).cloned().collect();
        Batch { entries, spends, holds, usage, changes, acts, ..Batch::default() }
    }

    /// The accounts of its entries, holds, usage records and changed keys.
    #[must_use]
    pub fn account_ids(&self) -> BTreeSet<AccountId> {
        let entries = self.entries.iter().map(|entry| entry.account);
        let holds = self.holds.iter().map(HoldChange::account);
        let changes = self.changes.iter().filter_map(Change::changed_key);
        let changes = changes.map(|(account, _)| account);
        let rest = self.usage.iter().map(|usage| usage.account).chain(changes);
        entries.chain(holds).chain(rest).collect()
    }

    /// The number of its entries, usage records, changes of holds and other changes.
    #[must_use]
    pub fn rows(&self) -> usize {
        let rows = self.entries.len().saturating_add(self.usage.len());
        rows.saturating_add(self.holds.len()).saturating_add(self.changes.len())
    }

    /// Is its last change other spending limits of a key? Calls are held against the limits in the
    /// tables when they are written there, so what comes after such a batch is written later.
    #[must_use]
    pub fn ends_with_limits(&self) -> bool {
        matches!(self.changes.last(), Some(Change::KeyLimits(..)))
    }

    /// Does it write nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.spends.is_empty()
            && self.holds.is_empty()
            && self.usage.is_empty()
            && self.answers.is_empty()
            && self.changes.is_empty()
            && self.acts.is_empty()
            && self.events.is_empty()
    }

    /// The shards whose lease is checked in the transaction of this batch.
    #[must_use]
    pub fn shards(&self) -> Vec<i64> {
        let mut shards: Vec<i64> = self.entries.iter().map(|entry| shard(entry.account)).collect();
        shards.extend(self.usage.iter().map(|usage| shard(usage.account)));
        shards.extend(self.holds.iter().map(|change| shard(change.account())));
        // Not every change names its account. The process holds the leases of all shards, so any
        // shard shows whether they are still valid.
        shards.push(0);
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// For each account: the number of the entry before its first one in the batch, and its last
    /// entry.
    #[must_use]
    pub fn accounts(&self) -> BTreeMap<AccountId, (i64, LedgerEntry)> {
        let mut accounts = BTreeMap::new();
        for entry in &self.entries {
            accounts
                .entry(entry.account)
                .and_modify(|(_, last)| *last = *entry)
                .or_insert((entry.seq.saturating_sub(1), *entry));
        }
        accounts
    }
}
