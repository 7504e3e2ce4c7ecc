//! The checks of an account's records. `verify`, the loading of an account and the simulation use
//! the same ones.

use std::collections::{BTreeMap, BTreeSet};

use super::account::StoredAccount;
use super::environment::Environment;
use super::ids::KeyId;
use super::ledger::Link;
use super::ledger::{EntryKind, LedgerEntry};
use super::limits::KeySpend;
use super::money::Credits;

/// Most findings of one account that are listed. Further ones are only counted.
const FINDINGS_MAX: usize = 100;

/// The records of an account other than its ledger.
#[derive(Clone, Debug)]
pub struct AuditedAccount {
    /// Its row.
    pub account: StoredAccount,
    /// Every key that it has or had.
    pub keys: BTreeSet<KeyId>,
    /// The counters of the keys that are not deleted.
    pub spends: Vec<KeySpend>,
    /// Total spending of each of these keys, by its counter.
    pub totals: BTreeMap<KeyId, Credits>,
    /// The sum of the open holds.
    pub held: Credits,
    /// Number of holds that are open and also have an end.
    pub ended_and_open: u64,
    /// Number of ended holds with a capture, and the sum of the captures.
    pub captured: (u64, Credits),
    /// Number of payments that have no ledger entry, or one with another amount.
    pub payments_astray: u64,
    /// Number of calls that were charged twice or refunded wrongly, credits without a payment, and
    /// payments that were not taken back as their reversals say.
    pub entries_astray: u64,
    /// The keys that are not deleted.
    pub live_keys: BTreeSet<KeyId>,
    /// The highest epoch of any lease so far.
    pub epoch_max: i64,
}

/// Checks the entries of an account one after the other, and sums them up.
pub struct Fold {
    seq: i64,
    epoch: i64,
    link: Link,
    balance: Credits,
    environment: Option<Environment>,
    /// The keys in the entries.
    keys: BTreeSet<KeyId>,
    /// Number of entries that captured from a durable hold, and their sum.
    captured: (u64, Credits),
    /// What each key has spent on its current day and in its current month, by the entries.
    spent: BTreeMap<KeyId, (KeySpend, Credits, Credits)>,
    /// Total spending of each key, by the entries.
    totals: BTreeMap<KeyId, Credits>,
    findings: Vec<String>,
    findings_count: usize,
}

impl Fold {
    /// The state before the first entry of an account.
    #[must_use]
    pub fn new(audited: &AuditedAccount) -> Self {
        let nothing = |spend: &KeySpend| (spend.key, (*spend, Credits::ZERO, Credits::ZERO));
        Fold {
            seq: 0,
            epoch: 0,
            link: Link::START,
            balance: Credits::ZERO,
            environment: Some(audited.account.environment),
            keys: BTreeSet::new(),
            captured: (0, Credits::ZERO),
            spent: audited.spends.iter().map(nothing).collect(),
            totals: audited.totals.keys().map(|key| (*key, Credits::ZERO)).collect(),
            findings: Vec::new(),
            findings_count: 0,
        }
    }

    /// The number of the last entry.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }

    fn find(&mut self, what: String) {
        self.findings_count = self.findings_count.saturating_add(1);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }

    /// Checks and adds the next entry. `captured` is the captured amount in the end of its durable
    /// hold; `None` if it has none.
    pub fn add(&mut self, entry: &LedgerEntry, captured: Option<Credits>) {
        for what in self.check(entry) {
            self.find(what);
        }
        self.add_capture(entry, captured);
        self.seq = entry.seq;
        self.epoch = entry.epoch;
        self.link = entry.link;
        self.balance = entry.balance_after;
        self.keys.extend(entry.key);
        if let Some(total) = entry.key.and_then(|key| self.totals.get_mut(&key)) {
            *total = total.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        }
        if let Some((spend, day, month)) = entry.key.and_then(|key| self.spent.get_mut(&key)) {
            // A debit has a negative amount and adds to what is spent.
            let take = |spent: &mut Credits| {
                *spent = spent.checked_sub(entry.amount).unwrap_or(Credits::MAX);
            };
            if entry.day == spend.day {
                take(day);
            }
            if entry.month == spend.month {
                take(month);
            }
        }
    }

    fn check(&self, entry: &LedgerEntry) -> Vec<String> {
        let (seq, before) = (entry.seq, self.balance);
        let mut found = Vec::new();
        let mut must = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                found.push(what());
            }
        };
        must(seq == self.seq.saturating_add(1), &|| {
            format!("entry {seq} follows entry {}: those between are missing", self.seq)
        });
        must(entry.link == self.link.next(entry), &|| {
            format!(
                "entry {seq} is not the one that was written, or entry {} is not: their chain is broken",
                self.seq
            )
        });
        must(entry.epoch >= self.epoch, &|| {
            format!("entry {seq} is of epoch {}, after one of epoch {}", entry.epoch, self.epoch)
        });
        must(before.checked_add(entry.amount) == Some(entry.balance_after), &|| {
            format!("entry {seq} takes ${before} by ${} to ${}", entry.amount, entry.balance_after)
        });
        must(!entry.balance_after.is_negative(), &|| {
            format!("entry {seq} leaves a negative balance")
        });
        must(
            entry.kind.gives() != entry.amount.is_negative() && entry.amount != Credits::ZERO,
            &|| format!("entry {seq} is a {} of ${}", entry.kind.name(), entry.amount),
        );
        let is_paid = entry.kind == EntryKind::TopUp;
        must(!(is_paid && self.environment == Some(Environment::Test)), &|| {
            format!("entry {seq} pays real money into a test account")
        });
        let is_dated = entry.month == entry.day.month();
        must(is_dated, &|| format!("entry {seq} counts in a day and a month that do not agree"));
        found
    }

    /// A durable hold with a capture has one entry, of the amount in its end.
    fn add_capture(&mut self, entry: &LedgerEntry, captured: Option<Credits>) {
        let Some(captured) = captured else { return };
        let taken = Credits::ZERO.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        if entry.kind != EntryKind::Capture || taken != captured {
            self.find(format!(
                "entry {} takes ${taken} from a hold whose end says ${captured}",
                entry.seq
            ));
        }
        let (count, sum) = self.captured;
        let sum = sum.checked_add(captured).unwrap_or(Credits::MAX);
        self.captured = (count.saturating_add(1), sum);
    }

    /// Compares the account's records with its ledger, after the last entry. Returns all findings.
    #[must_use]
    pub fn close(mut self, audited: &AuditedAccount) -> Vec<String> {
        let stored = &audited.account;
        if audited.captured != self.captured {
            let ((ends, said), (entries, taken)) = (audited.captured, self.captured);
            self.find(format!(
                "{ends} holds ended with ${said} captured, {entries} entries took ${taken} of them"
            ));
        }
        if audited.held > stored.balance {
            self.find(format!("holds ${} of a balance of ${}", audited.held, stored.balance));
        }
        if audited.ended_and_open > 0 {
            self.find(format!("{} holds have ended and are open", audited.ended_and_open));
        }
        if audited.payments_astray > 0 {
            let count = audited.payments_astray;
            self.find(format!("{count} payments have no ledger entry, or one of another amount"));
        }
        if self.epoch > audited.epoch_max {
            let (epoch, max) = (self.epoch, audited.epoch_max);
            self.find(format!("has entries of epoch {epoch}, but leases went up to {max} only"));
        }
        if (stored.seq, stored.balance, stored.link) != (self.seq, self.balance, self.link) {
            self.find(format!(
                "stands at entry {} with ${} ({}), but its ledger ends at entry {} with ${} ({})",
                stored.seq, stored.balance, stored.link, self.seq, self.balance, self.link
            ));
        }
        let foreign: Vec<KeyId> = self.keys.difference(&audited.keys).copied().collect();
        for key in foreign {
            self.find(format!("was charged for {key}, which is not a key of its own"));
        }
        let uncounted = |key: &&KeyId| self.keys.contains(key) && !self.spent.contains_key(key);
        let uncounted: Vec<KeyId> = audited.live_keys.iter().filter(uncounted).copied().collect();
        for key in uncounted {
            self.find(format!("was charged for {key}, which has no counters"));
        }
        if audited.entries_astray > 0 {
            let count = audited.entries_astray;
            self.find(format!(
                "{count} calls were charged twice, or given back what was not taken, or credits have no payment, or payments \
                 were taken back as their reversals do not say"
            ));
        }
        for (key, (spend, day, month)) in std::mem::take(&mut self.spent) {
            if (spend.day_spent, spend.month_spent) != (day, month) {
                self.find(format!(
                    "{key} has spent ${day} today and ${month} this month by the ledger, ${} and ${} by its \
                     counters",
                    spend.day_spent, spend.month_spent
                ));
            }
        }
        for (key, total) in std::mem::take(&mut self.totals) {
            let counted = audited.totals.get(&key).copied().unwrap_or(Credits::ZERO);
            if counted != total {
                self.find(format!(
                    "{key} has spent ${total} in all by the ledger, ${counted} by its counter"
                ));
            }
        }
        if self.findings_count > FINDINGS_MAX {
            let more = self.findings_count.saturating_sub(FINDINGS_MAX);
            self.findings.push(format!("and {more} more findings"));
        }
        self.findings
    }
}

/// Does an account agree with the end of its ledger, when it is loaded? `last` are its last two
/// entries, the last one first; fewer if it has fewer. [`Fold`] checks the complete ledger.
///
/// # Errors
/// A text that says what disagrees.
pub fn check_loaded(
    stored: &StoredAccount,
    last: &[LedgerEntry],
    held: Credits,
) -> Result<(), String> {
    let (seq, balance, link) = match last.first() {
        Some(entry) => (entry.seq, entry.balance_after, entry.link),
        None => (0, Credits::ZERO, Link::START),
    };
    if (stored.seq, stored.balance) != (seq, balance) {
        return Err(format!(
            "it stands at entry {} with ${}, but its ledger ends at entry {seq} with ${balance}",
            stored.seq, stored.balance
        ));
    }
    let before = match last.get(1) {
        Some(before) => before.link,
        None => Link::START,
    };
    if stored.link != link || last.first().is_some_and(|entry| before.next(entry) != link) {
        return Err(format!("the chain of its ledger is broken at entry {seq}"));
    }
    if let [last, before, ..] = last
        && (before.seq.saturating_add(1) != last.seq
            || before.balance_after.checked_add(last.amount) != Some(last.balance_after))
    {
        return Err(format!("entry {seq} of its ledger does not follow from the one before it"));
    }
    if held > stored.balance {
        return Err(format!("${held} of its balance of ${} are held", stored.balance));
    }
    Ok(())
}
