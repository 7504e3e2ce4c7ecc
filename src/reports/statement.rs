//! Monthly statements.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::html::{page, table};
use super::{Reports, ReportsError};
use crate::store::ledger::DaySum;
use crate::store::users::User;
use domain::{Credits, EntryKind, Environment, Month, Timestamp, UserId};

/// The sum of all entries of one kind in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindTotal {
    /// The kind.
    pub kind: EntryKind,
    /// Number of entries.
    pub count: i64,
    /// Their sum, with sign.
    pub amount: Credits,
}

/// An account's ledger in a UTC month. The opening balance plus all amounts is the closing balance.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The month.
    pub month: Month,
    /// The balance before the month.
    pub opening: Credits,
    /// The balance at the end of the month, or now if it has not ended.
    pub closing: Credits,
    /// Is the month over?
    pub is_complete: bool,
    /// Sums by kind.
    pub totals: Vec<KindTotal>,
    /// Sums by day and kind.
    pub days: Vec<DaySum>,
}

impl Reports {
    /// The statement of a month.
    pub async fn statement(
        &self,
        user: UserId,
        environment: Environment,
        month: Month,
    ) -> Result<Statement, ReportsError> {
        let now = self.gateway.clock.now();
        let account = self.account(user, environment).await?;
        let sums = self.store.statement(account, month.starts_at(), month.ends_at()).await?;
        Ok(Statement {
            month,
            opening: sums.opening,
            closing: sums.closing,
            is_complete: now >= month.ends_at(),
            totals: totals(&sums.sums),
            days: sums.sums,
        })
    }
}

fn totals(days: &[DaySum]) -> Vec<KindTotal> {
    let mut totals: BTreeMap<EntryKind, (i64, Credits)> = BTreeMap::new();
    for sum in days {
        let (count, amount) = totals.entry(sum.kind).or_default();
        *count = count.saturating_add(sum.count);
        *amount = amount.checked_add(sum.amount).unwrap_or(Credits::MAX);
    }
    totals.into_iter().map(|(kind, (count, amount))| KindTotal { kind, count, amount }).collect()
}

/// The UTC date of a time, such as `2026-11-30`.
#[must_use]
pub fn date(at: Timestamp) -> String {
    at.to_rfc3339().chars().take(10).collect()
}

impl Statement {
    /// The sums by day and kind as CSV.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text = String::from("day,kind,count,amount,currency\r\n");
        for sum in &self.days {
            let (day, kind) = (date(sum.day.starts_at()), sum.kind.name());
            let _ = write!(text, "{day},{kind},{},{},USD\r\n", sum.count, sum.amount);
        }
        text
    }

    /// The statement as an HTML page for printing.
    #[must_use]
    pub fn to_html(&self, user: &User) -> String {
        let facts = [
            ["User".into(), user.id.to_string()],
            ["From".into(), self.month.starts_at().to_rfc3339()],
            ["Until".into(), self.month.ends_at().to_rfc3339()],
            ["Opening balance".into(), format!("${}", self.opening)],
            ["Closing balance".into(), format!("${}", self.closing)],
        ];
        let of_total = |sum: &KindTotal| {
            vec![sum.kind.name().to_owned(), sum.count.to_string(), sum.amount.to_string()]
        };
        let of_day = |sum: &DaySum| {
            let kind = sum.kind.name().to_owned();
            vec![date(sum.day.starts_at()), kind, sum.count.to_string(), sum.amount.to_string()]
        };
        let totals: Vec<_> = self.totals.iter().map(of_total).collect();
        let days: Vec<_> = self.days.iter().map(of_day).collect();
        let tables = format!(
            "<h2>Totals</h2>{}<h2>Days</h2>{}",
            table(&["Kind", "Count", "Amount (USD)"], &totals),
            table(&["Day (UTC)", "Kind", "Count", "Amount (USD)"], &days)
        );
        page(&format!("Statement {}", self.month), user, &facts, &tables)
    }
}
