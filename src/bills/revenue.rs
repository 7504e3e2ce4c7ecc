//! What customers have paid and spent in a span of time, and what is owed to them at the end of
//! each interval: the liability, which is the sum of all live balances.
//!
//! An entry counts at its own time. Sums are exact: they equal the fold of the ledgers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Bills, BillsError};
use crate::reports::{Span, csv_text, date};
use crate::store::ledger::DayEntries;
use domain::revenue::Revenue;
use domain::{AccountId, Credits, Day, Timestamp};

/// What the entries are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevenueBy {
    /// The kind of the entry.
    Kind,
    /// The provider of the payment.
    Provider,
}

impl RevenueBy {
    /// Its word in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RevenueBy::Kind => "kind",
            RevenueBy::Provider => "provider",
        }
    }
}

/// The name of grants and deductions that correct a charge, among the kinds.
const CORRECTION: &str = "correction";

/// The revenue of one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevenueInterval {
    /// When it begins.
    pub starts_at: Timestamp,
    /// When it ends, exclusive.
    pub ends_at: Timestamp,
    /// The sums of its entries.
    pub sums: Revenue,
    /// The same by group; empty if groups are not asked for.
    pub groups: BTreeMap<String, Revenue>,
    /// The sum of all live balances at its end.
    pub liability: Credits,
}

/// The revenue of a span of time.
#[derive(Clone, Debug)]
pub struct RevenueReport {
    /// The span.
    pub span: Span,
    /// The groups that are asked for.
    pub by: Option<RevenueBy>,
    /// The sum of all live balances before the span.
    pub opening: Credits,
    /// All entries of the span.
    pub total: Revenue,
    /// The same by group; empty if groups are not asked for.
    pub groups: BTreeMap<String, Revenue>,
    /// Every interval of the span, in the order of time.
    pub intervals: Vec<RevenueInterval>,
}

type Days = BTreeMap<(Day, String), Revenue>;

/// The sum; the largest amount if it does not fit.
fn sum(a: Credits, b: Credits) -> Credits {
    a.checked_add(b).unwrap_or(Credits::MAX)
}

/// A report that is being made.
struct Adding {
    by: Option<RevenueBy>,
    opening: Credits,
    days: Days,
}

impl Adding {
    fn add(&mut self, entries: DayEntries) {
        let DayEntries { day, provider, sums } = entries;
        let Some(day) = day else {
            self.opening = sum(self.opening, sums.amount);
            return;
        };
        let group = match self.by {
            None => String::new(),
            Some(RevenueBy::Provider) => provider,
            Some(RevenueBy::Kind) if sums.is_correction => CORRECTION.to_owned(),
            Some(RevenueBy::Kind) => sums.kind.name().to_owned(),
        };
        self.days.entry((day, group)).or_default().add(&sums);
    }

    fn end(self, span: Span) -> RevenueReport {
        let mut report = RevenueReport {
            span,
            by: self.by,
            opening: self.opening,
            total: Revenue::default(),
            groups: BTreeMap::new(),
            intervals: Vec::new(),
        };
        for (starts_at, ends_at) in span.intervals() {
            report.intervals.push(RevenueInterval {
                starts_at,
                ends_at,
                sums: Revenue::default(),
                groups: BTreeMap::new(),
                liability: Credits::ZERO,
            });
        }
        let mut days = self.days.into_iter().peekable();
        let mut liability = self.opening;
        for interval in &mut report.intervals {
            while let Some(((_, group), sums)) =
                days.next_if(|((day, _), _)| day.starts_at() < interval.ends_at)
            {
                interval.sums.merge(&sums);
                report.total.merge(&sums);
                if self.by.is_some() {
                    interval.groups.entry(group.clone()).or_default().merge(&sums);
                    report.groups.entry(group).or_default().merge(&sums);
                }
            }
            liability = sum(liability, interval.sums.net());
            interval.liability = liability;
        }
        report
    }
}

impl Bills {
    /// The revenue of a span of whole days, of live accounts.
    ///
    /// # Errors
    /// [`BillsError::Store`]
    pub async fn revenue(
        &self,
        span: Span,
        by: Option<RevenueBy>,
    ) -> Result<RevenueReport, BillsError> {
        self.gateway.tables_up_to_date().await?;
        let times = (span.from(), span.until());
        let mut adding = Adding { by, opening: Credits::ZERO, days: Days::new() };
        let mut after = AccountId(i64::MIN);
        loop {
            let page = self.store.revenue_page(after, times).await?;
            adding.opening = sum(adding.opening, page.idle);
            for entries in page.sums {
                adding.add(entries);
            }
            for account in page.large {
                let of = self.store.revenue_span(account, times).await?;
                adding.opening = sum(adding.opening, of.opening);
                let mut low = Some(of.low);
                while let Some(from) = low {
                    let (sums, next) =
                        self.store.revenue_of(account, times, (from, of.high)).await?;
                    for entries in sums {
                        adding.add(entries);
                    }
                    low = next;
                }
            }
            let Some(next) = page.next else { return Ok(adding.end(span)) };
            after = next;
        }
    }
}

impl RevenueReport {
    /// The sum of all live balances at the end of the span.
    #[must_use]
    pub fn closing(&self) -> Credits {
        self.intervals.last().map_or(self.opening, |last| last.liability)
    }

    /// The intervals as CSV, with a row for each of their groups if groups are asked for.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let by = self.by.map_or("", RevenueBy::name);
        let comma = if by.is_empty() { "" } else { "," };
        let mut text = format!(
            "from,until,{by}{comma}entries,credited,refunded,disputed,reinstated,paid,granted,taken,\
             spent,returned,corrected,earned,net,liability,currency\r\n"
        );
        for interval in &self.intervals {
            let mut row = |group: Option<&str>, sums: &Revenue, liability: &str| {
                let group = group.map(|name| csv_text(name) + ",").unwrap_or_default();
                let _ = write!(
                    text,
                    "{},{},{group}{},{},{},{},{},{},{},{},{},{},{},{},{},{liability},USD\r\n",
                    date(interval.starts_at),
                    date(interval.ends_at),
                    sums.entries,
                    sums.credited,
                    sums.refunded,
                    sums.disputed,
                    sums.reinstated,
                    sums.paid(),
                    sums.granted,
                    sums.taken,
                    sums.spent,
                    sums.returned,
                    sums.corrected,
                    sums.earned(),
                    sums.net(),
                );
            };
            for (group, sums) in &interval.groups {
                row(Some(group), sums, "");
            }
            let all = self.by.map(|_| "(total)");
            row(all, &interval.sums, &interval.liability.to_string());
        }
        text
    }
}
