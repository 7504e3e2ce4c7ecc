//! Writes and batches: a write is what one decision of an account leaves to be stored, a batch is
//! what one transaction stores.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::act::Act;
use super::environment::AccountStatus;
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

/// Memory of one row without its texts, in bytes, estimated.
const ROW_BYTES: usize = 512;

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// The account it spends.
    pub account: AccountId,
    /// What its owner calls it.
    pub name: String,
    /// See [`super::api_key::KeyDigest`].
    pub digest: [u8; 32],
    /// See [`super::api_key::ApiKey::preview`].
    pub preview: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A confirmed payment to be stored with the ledger entry that credits it.
#[derive(Clone, Debug)]
pub struct NewPayment {
    /// Its id, which is the entry's reference.
    pub id: PaymentId,
    /// The account it tops up.
    pub account: AccountId,
    /// Who took the money.
    pub provider: &'static str,
    /// How much.
    pub amount: Credits,
    /// When it was made and confirmed.
    pub at: Timestamp,
}

/// A change that is not a movement of money, written in the order in which the account decided it.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new key.
    KeyCreated(NewKey),
    /// The ceilings of a key of an account.
    KeyLimits(AccountId, KeyId, SpendingLimits),
    /// Another name, expiry or policy of a key of an account.
    KeyEdited(AccountId, KeyId, Box<KeyEdit>),
    /// A key of an account out of use, since then.
    KeyRevoked(AccountId, KeyId, Timestamp),
    /// A key of an account out of use and out of the list. Its row stays, for the history that
    /// names it.
    KeyDeleted(AccountId, KeyId, Timestamp),
    /// An account suspended or resumed.
    AccountStatus(AccountId, AccountStatus),
    /// A payment made and confirmed at once.
    PaymentConfirmed(NewPayment),
    /// A payment that was on record, confirmed.
    PaymentPaid(PaymentId, Timestamp),
    /// A part of a payment taken back, or given again.
    PaymentReversed(Reversal, ReversalStep),
}

impl Change {
    /// The key of an account that it changes, if it changes one that is there already.
    #[must_use]
    pub fn changed_key(&self) -> Option<(AccountId, KeyId)> {
        match self {
            Change::KeyLimits(account, key, _)
            | Change::KeyEdited(account, key, _)
            | Change::KeyRevoked(account, key, _)
            | Change::KeyDeleted(account, key, _) => Some((*account, *key)),
            Change::KeyCreated(_)
            | Change::AccountStatus(..)
            | Change::PaymentConfirmed(_)
            | Change::PaymentPaid(..)
            | Change::PaymentReversed(..) => None,
        }
    }
}

/// What a request with an idempotency key was answered, for its repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedAnswer {
    /// Whose request it was.
    pub account: AccountId,
    /// SHA-256 of the idempotency key.
    pub key_digest: [u8; 32],
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// The charge, payment or key it made.
    pub reference: Uuid,
    /// The answer, encrypted; `None` if it was too large to be kept.
    pub answer: Option<Vec<u8>>,
    /// When it was answered.
    pub created_at: Timestamp,
    /// When it is deleted.
    pub expires_at: Timestamp,
}

/// What one decision of an account leaves to be stored, all of it or nothing.
#[derive(Clone, Debug)]
pub struct Write {
    /// The account that decided it.
    pub account: AccountId,
    /// A movement of money.
    pub entry: Option<LedgerEntry>,
    /// The key's counters with it.
    pub key_spend: Option<KeySpend>,
    /// What happened to a durable hold.
    pub hold: Option<HoldChange>,
    /// What a call did.
    pub usage: Option<UsageRecord>,
    /// What the request was answered, for its repeats.
    pub answer: Option<RecordedAnswer>,
    /// Anything else.
    pub change: Option<Change>,
    /// Who did it, for the audit log. A paid call has none: its usage record says as much.
    pub act: Option<Box<Act>>,
    /// An event for the account's holder that follows from nothing else in it.
    pub event: Option<Box<Event>>,
}

impl Write {
    /// An empty write of this account. It is durable once everything before it is.
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

    /// Is it what a paid call leaves, or a change of a key, and nothing else? Then it may go to the
    /// journal first. A write is not plain if a constraint of the tables guards it (a payment is
    /// credited once, a charge refunded once, an answer recorded once), nor if it is read from the
    /// tables as soon as it is acknowledged.
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

    /// Its memory in bytes, estimated.
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
    /// In the order of each account's sequence.
    pub entries: Vec<LedgerEntry>,
    /// The latest counters of each key.
    pub spends: BTreeMap<KeyId, KeySpend>,
    /// What happened to durable holds, in order.
    pub holds: Vec<HoldChange>,
    /// Usage records.
    pub usage: Vec<UsageRecord>,
    /// Answers to requests that may be repeated.
    pub answers: Vec<RecordedAnswer>,
    /// The rest, in order.
    pub changes: Vec<Change>,
    /// Who did it, for the audit log, with the account that it was done to.
    pub acts: Vec<(AccountId, Act)>,
    /// Events for account holders that follow from nothing else in it.
    pub events: Vec<Event>,
}

impl Batch {
    /// Everything that these writes leave.
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

    /// What its entries add to what each key has spent in all.
    #[must_use]
    pub fn spent(&self) -> BTreeMap<KeyId, Credits> {
        let mut spent = BTreeMap::new();
        for entry in &self.entries {
            let Some(key) = entry.key else { continue };
            let sum = spent.entry(key).or_insert(Credits::ZERO);
            // What takes from the balance adds to what is spent.
            *sum = sum.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        }
        spent
    }

    /// Can a look find out whether it was written? Entries, ends of holds and usage are this
    /// batch's alone; the new state of a key or an account is the same when it is written twice.
    #[must_use]
    pub fn leaves_trace(&self) -> bool {
        !(self.entries.is_empty() && self.holds.is_empty() && self.usage.is_empty())
    }

    /// All that these batches write, in the order of the accounts, so that neighbours in the tables
    /// are written together.
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
        checkpointed.entries.sort_by_key(|entry| (entry.account, entry.seq));
        checkpointed.usage.sort_by_key(|usage| (usage.account, usage.id));
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

    /// The accounts that it has entries, holds, usage records or changes of keys of.
    #[must_use]
    pub fn account_ids(&self) -> BTreeSet<AccountId> {
        let entries = self.entries.iter().map(|entry| entry.account);
        let holds = self.holds.iter().map(HoldChange::account);
        let changes = self.changes.iter().filter_map(Change::changed_key);
        let changes = changes.map(|(account, _)| account);
        let rest = self.usage.iter().map(|usage| usage.account).chain(changes);
        entries.chain(holds).chain(rest).collect()
    }

    /// How many entries, usage records, changes of holds and other changes there are in it.
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

    /// Is there nothing to write?
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

    /// The shards whose lease must hold for it.
    #[must_use]
    pub fn shards(&self) -> Vec<i64> {
        let mut shards: Vec<i64> = self.entries.iter().map(|entry| shard(entry.account)).collect();
        shards.extend(self.usage.iter().map(|usage| shard(usage.account)));
        shards.extend(self.holds.iter().map(|change| shard(change.account())));
        // Not every change names its account; any shard shows whether the lease still holds.
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
