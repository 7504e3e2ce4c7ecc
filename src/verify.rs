//! `polysystems verify`: recomputes every account from its first ledger entry and checks every
//! invariant.
//!
//! It only reads, page by page, so memory stays bounded; each account in one snapshot, so it can
//! run beside a server that charges. It never repairs. The invariants are in [`domain::audit`].

use std::fmt;

use serde::Serialize;

use crate::store::audit::AuditedUsage;
use crate::store::{Store, StoreError};
use domain::audit::Fold;
use domain::{AccountId, Credits, EntryKind};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The account's number.
    #[serde(serialize_with = "number")]
    pub account: AccountId,
    /// What is wrong.
    pub what: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn number<S: serde::Serializer>(account: &AccountId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(account.0)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}: {}", self.account, self.what)
    }
}

/// How much was checked, and how much of it was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Accounts.
    pub accounts: u64,
    /// Ledger entries.
    pub entries: u64,
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

/// Checks every account, then every usage record.
pub async fn verify(store: &Store, audience: &mut impl Audience) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let total = store.count_accounts().await?;
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
            verify_account(store, account, total, &mut report, audience).await?;
        }
    }
    let (journaled, found) = store.audited_journal().await?;
    report.entries = report.entries.saturating_add(journaled);
    for (account, what) in found {
        report.findings = report.findings.saturating_add(1);
        audience.find(&Finding { account, what })?;
    }
    for account in store.accounts_gone().await? {
        report.findings = report.findings.saturating_add(1);
        let what = "entries, holds or usage records name it, but it is not there".to_owned();
        audience.find(&Finding { account, what })?;
    }
    let mut after = 0;
    loop {
        let page = store.audited_usage(after).await?;
        let Some(last) = page.last() else { return Ok(report) };
        after = last.number;
        report.usage = report.usage.saturating_add(length(&page));
        for finding in page.iter().filter_map(check_usage) {
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
    total: u64,
    report: &mut Report,
    audience: &mut impl Audience,
) -> anyhow::Result<()> {
    let mut audit = store.audit(id).await?;
    // A corrupt row is a finding like others; the rest of its account cannot be checked.
    let findings = match fold(&mut audit, total, report, audience).await {
        Err(StoreError::Corrupt(what)) => vec![what],
        folded => folded?,
    };
    audit.close().await?;
    report.accounts = report.accounts.saturating_add(1);
    for what in findings {
        report.findings = report.findings.saturating_add(1);
        audience.find(&Finding { account: id, what })?;
    }
    audience.progress(report, total);
    Ok(())
}

async fn fold(
    audit: &mut crate::store::audit::Audit,
    total: u64,
    report: &mut Report,
    audience: &mut impl Audience,
) -> Result<Vec<String>, StoreError> {
    let account = audit.account().await?;
    let mut fold = Fold::new(&account);
    loop {
        let page = audit.entries(fold.seq()).await?;
        if page.is_empty() {
            let mut findings = fold.close(&account);
            let (hours, days) = audit.rollups_astray().await?;
            if hours > 0 {
                findings.push(format!("{hours} hours of usage are not what their calls come to"));
            }
            if days > 0 {
                findings.push(format!("{days} days of usage are not what their hours come to"));
            }
            return Ok(findings);
        }
        for audited in &page {
            fold.add(&audited.entry, audited.captured);
        }
        report.entries = report.entries.saturating_add(length(&page));
        audience.progress(report, total);
    }
}

/// A usage record states the cost of its call; the entry that it names states the debit.
fn check_usage(usage: &AuditedUsage) -> Option<Finding> {
    let found = |what| Some(Finding { account: usage.account, what });
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
