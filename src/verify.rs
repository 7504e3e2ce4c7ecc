//! Recomputes every account from its first ledger entry and checks every invariant: for
//! `polysystems verify`, by the schedule, or for an operator ([`runs`]).
//!
//! It only reads, page by page, so memory stays bounded; each account in one snapshot, so it can
//! run beside a server that charges. It never repairs. The invariants are in [`domain::audit`].

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use crate::store::audit::AuditedUsage;
use crate::store::prices::AuditedPrices;
use crate::store::{Store, StoreError};
use domain::audit::Fold;
use domain::bill_audit::check_call;
use domain::{AccountId, Bill, Credits, EntryKind, StoredBill};

pub mod quarantine;
pub mod runs;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The account's number. `None` if it is not of one account, but of the prices.
    #[serde(serialize_with = "number", deserialize_with = "from_number")]
    pub account: Option<AccountId>,
    /// What is wrong.
    pub what: String,
}

#[expect(clippy::ref_option, reason = "serde hands over a reference")]
fn number<S: serde::Serializer>(
    account: &Option<AccountId>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    account.map(|account| account.0).serialize(serializer)
}

fn from_number<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<AccountId>, D::Error> {
    Ok(Option::<i64>::deserialize(deserializer)?.map(AccountId))
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.account {
            Some(account) => write!(f, "account {account}: {}", self.what),
            None => write!(f, "prices: {}", self.what),
        }
    }
}

/// How much was checked, and how much of it was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Accounts.
    pub accounts: u64,
    /// Ledger entries.
    pub entries: u64,
    /// Bills that were computed again, each of one entry.
    pub bills: u64,
    /// Usage records.
    pub usage: u64,
    /// Findings.
    pub findings: u64,
}

/// Receives findings and progress while a verification runs.
pub trait Audience {
    /// Something was found. An error ends the verification.
    fn find(&mut self, finding: &Finding) -> anyhow::Result<()>;

    /// Called after each page.
    fn progress(&mut self, so_far: &Report, accounts: u64);
}

/// Checks the versions of prices, then every account with its bills, then every usage record.
pub async fn verify(store: &Store, audience: &mut impl Audience) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let total = store.count_accounts().await?;
    let prices = Prices::load(store).await?;
    for what in prices.faults() {
        report.findings = report.findings.saturating_add(1);
        audience.find(&Finding { account: None, what })?;
    }
    let mut after = None;
    loop {
        let accounts = store.audited_accounts(after).await?;
        let Some((last, _)) = accounts.last() else { break };
        after = Some(*last);
        for (account, is_empty) in accounts {
            if is_empty {
                report.accounts = report.accounts.saturating_add(1);
                audience.progress(&report, total);
                continue;
            }
            verify_account(store, account, &prices, total, &mut report, audience).await?;
        }
    }
    let journaled = store.audited_journal().await?;
    report.entries = report.entries.saturating_add(journaled.entries);
    report.bills = report.bills.saturating_add(journaled.bills);
    for (account, what) in journaled.found {
        report.findings = report.findings.saturating_add(1);
        audience.find(&Finding { account: Some(account), what })?;
    }
    for account in store.accounts_gone().await? {
        report.findings = report.findings.saturating_add(1);
        let what = "entries, holds or usage records name it, but it is not there".to_owned();
        audience.find(&Finding { account: Some(account), what })?;
    }
    let mut after = 0;
    loop {
        let page = store.audited_usage(after).await?;
        let Some(last) = page.last() else { return Ok(report) };
        after = last.number;
        report.usage = report.usage.saturating_add(length(&page));
        prices.know(page.iter().filter_map(|usage| Some(usage.bill?.1))).await?;
        let found = page.iter().flat_map(|usage| [check_usage(usage), prices.check_call(usage)]);
        for finding in found.flatten() {
            report.findings = report.findings.saturating_add(1);
            audience.find(&finding)?;
        }
        audience.progress(&report, total);
    }
}

fn length<T>(page: &[T]) -> u64 {
    u64::try_from(page.len()).unwrap_or(u64::MAX)
}

async fn verify_account(
    store: &Store,
    id: AccountId,
    prices: &Prices,
    total: u64,
    report: &mut Report,
    audience: &mut impl Audience,
) -> anyhow::Result<()> {
    let mut audit = store.audit(id).await?;
    // A corrupt row is a finding like others; the rest of its account cannot be checked.
    let checked = match fold(&mut audit, prices, total, report, audience).await {
        Err(StoreError::Corrupt(what)) => AccountCheck { first_wrong: None, findings: vec![what] },
        folded => folded?,
    };
    audit.close().await?;
    report.accounts = report.accounts.saturating_add(1);
    for what in checked.findings {
        report.findings = report.findings.saturating_add(1);
        audience.find(&Finding { account: Some(id), what })?;
    }
    audience.progress(report, total);
    Ok(())
}

/// What is wrong with an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountCheck {
    /// The number of the first entry that is not as it must be. `None` if it is none of them.
    pub first_wrong: Option<i64>,
    /// What is wrong, at most the first hundred.
    pub findings: Vec<String>,
}

/// Listens to nothing.
struct Nobody;

impl Audience for Nobody {
    fn find(&mut self, _: &Finding) -> anyhow::Result<()> {
        Ok(())
    }

    fn progress(&mut self, _: &Report, _: u64) {}
}

/// Checks one account with its bills, from its first entry.
///
/// # Errors
/// [`StoreError`] if it cannot be read. A row that cannot be understood is a finding.
pub async fn check_account(store: &Store, id: AccountId) -> Result<AccountCheck, StoreError> {
    let prices = Prices::load(store).await?;
    let mut audit = store.audit(id).await?;
    let folded = fold(&mut audit, &prices, 0, &mut Report::default(), &mut Nobody).await;
    audit.close().await?;
    match folded {
        Err(StoreError::Corrupt(what)) => {
            Ok(AccountCheck { first_wrong: None, findings: vec![what] })
        }
        folded => folded,
    }
}

async fn fold(
    audit: &mut crate::store::audit::Audit,
    prices: &Prices,
    total: u64,
    report: &mut Report,
    audience: &mut impl Audience,
) -> Result<AccountCheck, StoreError> {
    let account = audit.account().await?;
    let cost_of = |bill: &Bill| prices.cost(bill);
    let mut fold = Fold::new(&account, &cost_of);
    loop {
        let page = audit.entries(fold.seq()).await?;
        if page.is_empty() {
            report.bills = report.bills.saturating_add(fold.bills());
            let first_wrong = fold.first_wrong();
            let mut findings = fold.close(&account);
            let (hours, days) = audit.rollups_astray().await?;
            if hours > 0 {
                findings.push(format!("{hours} hours of usage are not what their calls come to"));
            }
            if days > 0 {
                findings.push(format!("{days} days of usage are not what their hours come to"));
            }
            return Ok(AccountCheck { first_wrong, findings });
        }
        prices.know(page.iter().filter_map(|audited| audited.entry.bill)).await?;
        for audited in &page {
            fold.add(&audited.entry, audited.captured);
        }
        report.entries = report.entries.saturating_add(length(&page));
        audience.progress(report, total);
    }
}

/// The prices that bills are computed again by.
struct Prices {
    store: Store,
    audited: RwLock<AuditedPrices>,
}

impl Prices {
    async fn load(store: &Store) -> Result<Self, StoreError> {
        let audited = RwLock::new(store.price_book().await?);
        Ok(Prices { store: store.clone(), audited })
    }

    fn audited(&self) -> RwLockReadGuard<'_, AuditedPrices> {
        self.audited.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> Vec<String> {
        self.audited().faults.clone()
    }

    /// Reads the versions again if these bills name others: a server that runs may have published
    /// some since.
    async fn know(&self, bills: impl Iterator<Item = StoredBill>) -> Result<(), StoreError> {
        let last = bills.map(|bill| bill.version()).max();
        if last > self.audited().last {
            let audited = self.store.price_book().await?;
            *self.audited.write().unwrap_or_else(PoisonError::into_inner) = audited;
        }
        Ok(())
    }

    fn cost(&self, bill: &Bill) -> Option<Credits> {
        bill.cost(&self.audited().book)
    }

    /// Is the bill that of this call? One that cannot be read is found with its entry.
    fn check_call(&self, usage: &AuditedUsage) -> Option<Finding> {
        let (seq, stored) = usage.bill?;
        let what = check_call(&stored.bill()?, &usage.call, &self.audited().book).err()?;
        let what = format!("the bill of entry {seq}, of {}, {what}", usage.id);
        Some(Finding { account: Some(usage.account), what })
    }
}

/// A usage record states the cost of its call; the entry that it names states the debit.
fn check_usage(usage: &AuditedUsage) -> Option<Finding> {
    let found = |what| Some(Finding { account: Some(usage.account), what });
    if !usage.is_key_own {
        return found(format!("{} was made with a key of another account", usage.id));
    }
    let taken = match &usage.entry {
        None => Credits::ZERO,
        Some(Some((kind, amount, reference))) if *reference == usage.id.0 => match kind {
            EntryKind::Refund => Credits::ZERO,
            _ => Credits::ZERO.checked_sub(*amount)?,
        },
        Some(_) => {
            return found(format!("{} names a ledger entry that is not its own", usage.id));
        }
    };
    if taken == usage.cost {
        return None;
    }
    found(format!(
        "{} is recorded to cost ${}, but ${taken} was taken for it",
        usage.id, usage.cost
    ))
}
