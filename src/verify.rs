//! `polysystems verify`: folds every account's ledger from its first entry and checks every invariant.
//!
//! Reads only, page by page, so that memory stays bounded; each account in one snapshot, so that it can run
//! beside a server that charges. It never repairs.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::{AccountId, Credits, EntryKind, KeyId, KeySpend, LedgerEntry};
use crate::store::audit::{AuditedAccount, AuditedUsage};
use crate::store::{Store, StoreError};

/// Something that must hold and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The account.
    pub account: AccountId,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}: {}", self.account, self.what)
    }
}

/// What was looked at, and how much of it was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Accounts.
    pub accounts: u64,
    /// Ledger entries.
    pub entries: u64,
    /// Findings.
    pub findings: u64,
}

/// Checks every account, and tells each finding as it is made.
///
/// # Errors
/// Where the database cannot be read, or a finding cannot be told.
pub async fn verify(
    store: &Store,
    mut tell: impl FnMut(&Finding) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut after = None;
    loop {
        let accounts = store.audited_accounts(after).await?;
        let Some(last) = accounts.last() else { break };
        after = Some(*last);
        for account in accounts {
            let (entries, findings) = verify_account(store, account).await?;
            report.accounts = report.accounts.saturating_add(1);
            report.entries = report.entries.saturating_add(entries);
            for finding in findings {
                report.findings = report.findings.saturating_add(1);
                tell(&finding)?;
            }
        }
    }
    let mut after = 0;
    loop {
        let page = store.audited_usage(after).await?;
        let Some(last) = page.last() else { return Ok(report) };
        after = last.number;
        for finding in page.iter().filter_map(check_usage) {
            report.findings = report.findings.saturating_add(1);
            tell(&finding)?;
        }
    }
}

async fn verify_account(store: &Store, id: AccountId) -> Result<(u64, Vec<Finding>), StoreError> {
    let mut audit = store.audit(id).await?;
    let account = audit.account().await?;
    let mut fold = Fold::new(id, &account.spends);
    let mut count: u64 = 0;
    loop {
        let page = audit.entries(fold.seq).await?;
        if page.is_empty() {
            break;
        }
        for audited in &page {
            fold.add(&audited.entry, audited.epoch);
            fold.add_capture(&audited.entry, audited.captured);
        }
        count = count.saturating_add(u64::try_from(page.len()).unwrap_or(0));
    }
    audit.close().await?;
    fold.close(&account);
    Ok((count, fold.findings))
}

/// A usage record says what its call cost; the entry it names says what was taken for it.
fn check_usage(usage: &AuditedUsage) -> Option<Finding> {
    let taken = match &usage.entry {
        None => Credits::ZERO,
        Some(Some((kind, amount, reference))) if *reference == usage.id.0 => match kind {
            EntryKind::Refund => Credits::ZERO,
            _ => Credits::ZERO.checked_sub(*amount)?,
        },
        Some(_) => {
            let what = format!("{} names a ledger entry that is not its own", usage.id);
            return Some(Finding { account: usage.account, what });
        }
    };
    (taken != usage.cost).then(|| Finding {
        account: usage.account,
        what: format!(
            "{} is recorded to cost ${}, but ${taken} was taken for it",
            usage.id, usage.cost
        ),
    })
}

/// What the entries so far come to.
struct Fold {
    account: AccountId,
    seq: i64,
    epoch: i64,
    balance: Credits,
    /// Entries that captured of a durable hold, and how much.
    captured: (u64, Credits),
    /// What each key has spent in its current windows, by the entries.
    spent: BTreeMap<KeyId, (KeySpend, Credits, Credits)>,
    findings: Vec<Finding>,
}

impl Fold {
    fn new(account: AccountId, spends: &[KeySpend]) -> Self {
        let nothing = |spend: &KeySpend| (spend.key, (*spend, Credits::ZERO, Credits::ZERO));
        Fold {
            account,
            seq: 0,
            epoch: 0,
            balance: Credits::ZERO,
            captured: (0, Credits::ZERO),
            spent: spends.iter().map(nothing).collect(),
            findings: Vec::new(),
        }
    }

    fn find(&mut self, what: String) {
        self.findings.push(Finding { account: self.account, what });
    }

    fn add(&mut self, entry: &LedgerEntry, epoch: i64) {
        let (seq, before) = (entry.seq, self.balance);
        if seq != self.seq.saturating_add(1) {
            self.find(format!("entry {seq} follows entry {}", self.seq));
        }
        if epoch < self.epoch {
            self.find(format!(
                "entry {seq} is of epoch {epoch}, after one of epoch {}",
                self.epoch
            ));
        }
        if before.checked_add(entry.amount) != Some(entry.balance_after) {
            self.find(format!(
                "entry {seq} takes ${before} by ${} to ${}",
                entry.amount, entry.balance_after
            ));
        }
        if entry.balance_after.is_negative() {
            self.find(format!("entry {seq} leaves a negative balance"));
        }
        let gives = matches!(entry.kind, EntryKind::TopUp | EntryKind::Refund | EntryKind::Grant);
        if gives == entry.amount.is_negative() || entry.amount == Credits::ZERO {
            self.find(format!("entry {seq} is a {} of ${}", entry.kind.name(), entry.amount));
        }
        self.seq = seq;
        self.epoch = epoch;
        self.balance = entry.balance_after;
        if let Some((spend, day, month)) = entry.key.and_then(|key| self.spent.get_mut(&key)) {
            // What takes from the balance adds to what is spent.
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

    /// A durable hold ends with one entry at most, of what its end says.
    fn add_capture(&mut self, entry: &LedgerEntry, captured: Option<Credits>) {
        let Some(captured) = captured else { return };
        let taken = Credits::ZERO.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        if entry.kind != EntryKind::Capture || taken != captured {
            self.find(format!(
                "entry {} takes ${taken} of a hold whose end says ${captured}",
                entry.seq
            ));
        }
        let (count, sum) = self.captured;
        let sum = sum.checked_add(captured).unwrap_or(Credits::MAX);
        self.captured = (count.saturating_add(1), sum);
    }

    fn close(&mut self, account: &AuditedAccount) {
        if account.captured != self.captured {
            let ((ends, said), (entries, taken)) = (account.captured, self.captured);
            self.find(format!(
                "{ends} holds ended with ${said} captured, {entries} entries took ${taken} of them"
            ));
        }
        if account.held > account.balance {
            self.find(format!("holds ${} of a balance of ${}", account.held, account.balance));
        }
        if account.ended_and_open > 0 {
            self.find(format!("{} holds have ended and are open", account.ended_and_open));
        }
        if account.seq != self.seq || account.balance != self.balance {
            self.find(format!(
                "stands at entry {} with ${}, but its ledger ends at entry {} with ${}",
                account.seq, account.balance, self.seq, self.balance
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
    }
}
