//! The checks of an account's records. `verify`, the loading of an account and the simulation use
//! the same ones.

use std::collections::{BTreeMap, BTreeSet};

use super::account::StoredAccount;
use super::bill::{Bill, Flags};
use super::environment::Environment;
use super::ids::KeyId;
use super::ledger::Link;
use super::ledger::{EntryKind, LedgerEntry};
use super::limits::KeySpend;
use super::money::Credits;
use super::window::Timestamp;

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

/// What a bill comes to by the prices on record; `None` if they do not price it.
pub type CostOf<'p> = &'p (dyn Fn(&Bill) -> Option<Credits> + Sync);

/// Checks the entries of an account one after the other, and sums them up.
pub struct Fold<'p> {
    cost_of: CostOf<'p>,
    /// Number of entries with a bill.
    bills: u64,
    /// When the first of them was written.
    billed_since: Timestamp,
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
    first_wrong: Option<i64>,
}

impl<'p> Fold<'p> {
    /// The state before the first entry of an account.
    #[must_use]
    pub fn new(audited: &AuditedAccount, cost_of: CostOf<'p>) -> Self {
        let nothing = |spend: &KeySpend| (spend.key, (*spend, Credits::ZERO, Credits::ZERO));
        Fold {
            cost_of,
            bills: 0,
            billed_since: Timestamp::default(),
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
            first_wrong: None,
        }
    }

    /// The number of the last entry.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The number of entries with a bill.
    #[must_use]
    pub fn bills(&self) -> u64 {
        self.bills
    }

    /// The number of the first entry that is not as it must be.
    #[must_use]
    pub fn first_wrong(&self) -> Option<i64> {
        self.first_wrong
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
        self.add_bill(entry, captured.is_some());
        self.add_capture(entry, captured);
        if self.findings_count > 0 && self.first_wrong.is_none() {
            self.first_wrong = Some(entry.seq);
        }
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

    /// A bill costs what was taken. After the first one, each call has one; except for a durable
    /// hold that was opened before, whose end comes after.
    fn add_bill(&mut self, entry: &LedgerEntry, is_of_hold: bool) {
        if entry.bill.is_some() {
            if self.bills == 0 {
                self.billed_since = entry.at;
            }
            self.bills = self.bills.saturating_add(1);
            if let Err(what) = check_bill(entry, self.cost_of) {
                self.find(what);
            }
            return;
        }
        let may_be_older = is_of_hold && opened(entry).is_none_or(|at| at < self.billed_since);
        if self.bills > 0 && !may_be_older && is_of_call(entry.kind) {
            self.find(format!("entry {} is of a call and has no bill", entry.seq));
        }
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

/// Does what an entry took agree with its bill, if it has one?
///
/// # Errors
/// A text that says what disagrees.
pub fn check_bill(entry: &LedgerEntry, cost_of: CostOf<'_>) -> Result<(), String> {
    let (Some(stored), seq) = (&entry.bill, entry.seq) else { return Ok(()) };
    if !is_of_call(entry.kind) {
        return Err(format!("entry {seq} is a {} and has a bill", entry.kind.name()));
    }
    let Some(bill) = stored.bill() else {
        return Err(format!("the bill of entry {seq} is not one that was written"));
    };
    let Some(cost) = cost_of(&bill) else {
        return Err(format!(
            "the bill of entry {seq} has no price: version {}, card {}, row {}",
            bill.version, bill.card, bill.row
        ));
    };
    let taken = Credits::ZERO.checked_sub(entry.amount).unwrap_or(Credits::MAX);
    let is_clamped = bill.flags.has(Flags::CLAMPED);
    if (taken == cost && !is_clamped) || (taken < cost && is_clamped) {
        return Ok(());
    }
    let but = if is_clamped { ", less than which was taken" } else { "" };
    Err(format!("entry {seq} takes ${taken}, but its bill comes to ${cost}{but}"))
}

/// When a call began, by its id; `None` if it does not say so.
fn opened(entry: &LedgerEntry) -> Option<Timestamp> {
    let (seconds, nanos) = entry.reference.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    Some(Timestamp::from_micros(micros.checked_add(i64::from(nanos / 1_000))?))
}

const fn is_of_call(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::Charge | EntryKind::Capture)
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::ids::AccountId;
    use super::*;
    use crate::environment::AccountStatus;
    use crate::{
        Convention, Dim, ListId, Multiplier, PriceBook, PriceVersion, Quantities, Rates,
        StoredBill, UnitPrice, VersionId, VersionTerms,
    };

    const ACCOUNT: AccountId = AccountId(7);

    /// Two versions of a list with two cards each: a call costs 5 or 7, a token nothing or 2.
    fn book(price: i64) -> PriceBook {
        let mut book = PriceBook::default();
        for (id, price) in [(1, price), (2, 9)] {
            let unit = |nanos| UnitPrice::from_nanos(nanos).unwrap();
            let call = Rates::NONE.with(Dim::Request, unit(price));
            let token = Rates::NONE.with(Dim::Request, unit(7)).with(Dim::Input, unit(2_000_000));
            let cards = [("a", call), ("b", token)];
            let card = |rates| std::sync::Arc::new(crate::Card::flat(rates).unwrap());
            let terms = VersionTerms {
                id: VersionId::new(id).unwrap(),
                list: ListId(1),
                parent: None,
                multiplier: Multiplier::ONE,
                effective_from: Timestamp::from_micros(0),
                cards: cards.map(|(name, rates)| (name.into(), card(rates))).to_vec(),
            };
            let version = PriceVersion::new(terms, book.last_link(ListId(1))).unwrap();
            book.add(version.into()).unwrap();
        }
        book
    }

    fn bill(card: u16, tokens: u64) -> Bill {
        let quantities = Quantities::NONE.with(Dim::Request, 1).with(Dim::Input, tokens);
        let (version, convention) = (VersionId::FIRST, Convention::default());
        Bill { version, card, row: 0, convention, flags: Flags::NONE, quantities }
    }

    fn entry(kind: EntryKind, nanos: i64, bill: Option<Bill>) -> LedgerEntry {
        let at = Timestamp::from_micros(1);
        LedgerEntry {
            account: ACCOUNT,
            seq: 0,
            epoch: 1,
            kind,
            amount: Credits::from_nanos(nanos),
            balance_after: Credits::ZERO,
            reference: Uuid::nil(),
            key: None,
            day: at.day(),
            month: at.day().month(),
            at,
            bill: bill.map(|bill| StoredBill::of(&bill).unwrap()),
            link: Link::START,
        }
    }

    /// A ledger with a charge, a capture of which less was taken than it cost, and a refund.
    fn ledger() -> Vec<LedgerEntry> {
        let clamped = Bill { flags: Flags::CLAMPED, ..bill(1, 3) };
        vec![
            entry(EntryKind::TopUp, 100, None),
            entry(EntryKind::Charge, -5, Some(bill(0, 0))),
            entry(EntryKind::Capture, -13, Some(bill(1, 3))),
            entry(EntryKind::Capture, -12, Some(clamped)),
            entry(EntryKind::Refund, 5, None),
        ]
    }

    fn audited(seq: i64, balance: Credits, link: Link) -> AuditedAccount {
        let (environment, status) = (Environment::Live, AccountStatus::Open);
        AuditedAccount {
            account: StoredAccount { id: ACCOUNT, environment, status, balance, seq, link },
            keys: BTreeSet::new(),
            spends: Vec::new(),
            totals: BTreeMap::new(),
            held: Credits::ZERO,
            ended_and_open: 0,
            captured: (0, Credits::ZERO),
            payments_astray: 0,
            entries_astray: 0,
            live_keys: BTreeSet::new(),
            epoch_max: 1,
        }
    }

    /// What is found of a ledger whose numbers, balances and links are computed anew: somebody who
    /// can write the database can do that.
    fn found(mut entries: Vec<LedgerEntry>, price: i64) -> Vec<String> {
        let (mut link, mut balance) = (Link::START, Credits::ZERO);
        for (entry, seq) in entries.iter_mut().zip(1..) {
            balance = balance.checked_add(entry.amount).unwrap();
            (entry.seq, entry.balance_after) = (seq, balance);
            *entry = entry.after(link);
            link = entry.link;
        }
        let audited = audited(entries.last().unwrap().seq, balance, link);
        let book = book(price);
        let cost_of = |bill: &Bill| bill.cost(&book);
        let mut fold = Fold::new(&audited, &cost_of);
        for entry in &entries {
            fold.add(entry, None);
        }
        fold.close(&audited)
    }

    type Tamper = fn(&mut Vec<LedgerEntry>);

    fn with(entries: &mut [LedgerEntry], place: usize, change: impl FnOnce(&mut Bill)) {
        let mut bill = entries[place].bill.unwrap().bill().unwrap();
        change(&mut bill);
        entries[place].bill = StoredBill::of(&bill);
    }

    #[test]
    fn a_bill_that_was_tampered_with_is_found_without_the_chain() {
        assert_eq!(found(ledger(), 5), Vec::<String>::new());
        let cases: [(&str, Tamper, &str); 12] = [
            (
                "more",
                |entries| entries[1].amount = Credits::from_nanos(-6),
                "takes $0.000000006, but",
            ),
            (
                "less",
                |entries| entries[1].amount = Credits::from_nanos(-4),
                "takes $0.000000004, but",
            ),
            (
                "quantity",
                |entries| {
                    with(entries, 2, |bill| bill.quantities = bill.quantities.with(Dim::Input, 4));
                },
                "its bill comes to $0.000000015",
            ),
            ("row", |entries| with(entries, 2, |bill| bill.row = 1), "version 1, card 1, row 1"),
            (
                "card",
                |entries| with(entries, 1, |bill| bill.card = 1),
                "its bill comes to $0.000000007",
            ),
            (
                "version",
                |entries| with(entries, 1, |bill| bill.version = VersionId::new(2).unwrap()),
                "its bill comes to $0.000000009",
            ),
            (
                "another version",
                |entries| with(entries, 1, |bill| bill.version = VersionId::LAST),
                "version 4294967295, card 0, row 0",
            ),
            (
                "a flag",
                |entries| with(entries, 2, |bill| bill.flags = Flags::CLAMPED),
                "less than which",
            ),
            (
                "no flag",
                |entries| with(entries, 3, |bill| bill.flags = Flags::NONE),
                "takes $0.000000012, but",
            ),
            ("dropped", |entries| entries[2].bill = None, "entry 3 is of a call and has no bill"),
            (
                "added",
                |entries| entries[4].bill = entries[1].bill,
                "entry 5 is a refund and has a bill",
            ),
            (
                "no bill",
                |entries| entries[2].bill = StoredBill::from_columns(Some(1), Some(&[0x40])),
                "the bill of entry 3 is not one that was written",
            ),
        ];
        for (what, tamper, expected) in cases {
            let mut entries = ledger();
            tamper(&mut entries);
            let found = found(entries, 5);
            assert_eq!(found.len(), 1, "{what}: {found:?}");
            assert!(found[0].contains(expected), "{what}: {found:?}");
        }
        // The price itself.
        assert_eq!(found(ledger(), 6).len(), 1);
    }

    #[test]
    fn older_entries_have_no_bill() {
        let mut entries = ledger();
        entries.insert(1, entry(EntryKind::Charge, -5, None));
        assert_eq!(found(entries, 5), Vec::<String>::new());
    }

    /// The ids of calls begin with the time, in milliseconds, and say that they do.
    #[test]
    fn a_hold_has_no_bill_only_if_it_is_older_than_bills() {
        let id = |millis: u128| Uuid::from_u128((millis << 80) | (7 << 76) | (2 << 62));
        let book = book(5);
        let cost_of = |bill: &Bill| bill.cost(&book);
        for (reference, count) in [(id(1), 0), (id(3), 1), (Uuid::nil(), 0)] {
            let mut fold = Fold::new(&audited(0, Credits::ZERO, Link::START), &cost_of);
            let mut entries = ledger();
            (entries[3].bill, entries[3].reference) = (None, reference);
            for entry in entries {
                let at = Timestamp::from_micros(2_000);
                fold.add_bill(&LedgerEntry { at, ..entry }, entry.reference == reference);
            }
            assert_eq!(fold.findings.len(), count, "{reference}: {:?}", fold.findings);
        }
    }
}
