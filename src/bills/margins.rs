//! The margins of a span of time, from the entries of the ledgers and what the calls cost us.
//!
//! An entry counts at its own time, so the revenue of a span is the negative of the sum of its
//! entries of calls: charges, captures, refunds and corrections. Sums are exact.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use uuid::Uuid;

use super::costs::{CallCosts, CostOfCall};
use super::{Bills, BillsError};
use crate::reports::csv_text;
use crate::store::StoreError;
use crate::store::ledger::EntryOfServed;
use domain::catalogue::DeploymentId;
use domain::margin::{CallEntry, Margin};
use domain::routing::AttemptOutcome;
use domain::{AccountId, ChargeId, EntryKind, LedgerEntry, MICROS_PER_DAY, Timestamp, UserId};

/// Most entries of one report.
const ENTRIES_MAX: u64 = 5_000_000;
/// Most groups that a report shows. The others are one.
const GROUPS_MAX: usize = 1_000;
/// The name of that one.
const OTHERS: &str = "(others)";
/// Entries that are read at once.
const PAGE: u64 = 2_000;
/// Fixed prices of an account that are remembered in case they are refunded.
const REMEMBERED_MAX: usize = 50_000;

/// What the entries are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarginsBy {
    /// The card that prices the call: a model, a pattern or a route.
    Model,
    /// The deployment that was asked last.
    Deployment,
    /// Its provider.
    Provider,
    /// The user who pays.
    User,
    /// The UTC day of the entry.
    Day,
}

impl MarginsBy {
    /// All of them.
    pub const ALL: [MarginsBy; 5] = [
        MarginsBy::Model,
        MarginsBy::Deployment,
        MarginsBy::Provider,
        MarginsBy::User,
        MarginsBy::Day,
    ];

    /// Its word in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            MarginsBy::Model => "model",
            MarginsBy::Deployment => "deployment",
            MarginsBy::Provider => "provider",
            MarginsBy::User => "user",
            MarginsBy::Day => "day",
        }
    }
}

/// Which margins.
#[derive(Clone, Copy, Debug)]
pub struct MarginsAsked {
    /// By what.
    pub by: MarginsBy,
    /// Entries from this instant on.
    pub from: Timestamp,
    /// Entries before this instant.
    pub until: Timestamp,
}

/// The margin of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarginGroup {
    /// The model, deployment, provider, user or day. Empty: nobody knows.
    pub name: String,
    /// What is left.
    pub margin: Margin,
}

/// Attempts at a deployment that were no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptsWithoutAnswer {
    /// The name of the deployment; `None`: it is in the catalogue no more.
    pub deployment: Option<Arc<str>>,
    /// Its number.
    pub id: DeploymentId,
    /// How they ended.
    pub outcome: AttemptOutcome,
    /// How many.
    pub count: u64,
    /// Can the provider have taken something for them? Nobody is told how much.
    pub may_cost: bool,
}

/// The margins of a span of time.
#[derive(Clone, Debug)]
pub struct MarginsReport {
    /// What was asked for.
    pub asked: MarginsAsked,
    /// All of them together.
    pub total: Margin,
    /// By group, that with the most revenue first.
    pub groups: Vec<MarginGroup>,
    /// What failed, and cost us nothing or nobody knows what.
    pub attempts: Vec<AttemptsWithoutAnswer>,
    /// Are all entries of the span in it? Otherwise there were too many.
    pub is_complete: bool,
}

/// What is known of a call, for its later entries.
#[derive(Clone)]
struct KnownCall {
    model: Arc<str>,
    cost: CostOfCall,
}

/// A report that is being made.
struct Making {
    asked: MarginsAsked,
    costs: CallCosts,
    entries: u64,
    groups: BTreeMap<String, Margin>,
}

impl Bills {
    /// The margins of a span of time, of live accounts.
    ///
    /// # Errors
    /// [`BillsError`]
    pub async fn margins(&self, asked: MarginsAsked) -> Result<MarginsReport, BillsError> {
        self.gateway.tables_up_to_date().await?;
        let costs = CallCosts::load(&self.store).await?;
        let mut making = Making { asked, costs, entries: 0, groups: BTreeMap::new() };
        let mut account = AccountId(i64::MIN);
        let mut is_complete = true;
        'all: loop {
            let accounts = self.store.live_accounts_since(asked.from, account).await?;
            let Some((last, _)) = accounts.last().copied() else { break };
            for (account, user) in accounts {
                if !self.margins_of(account, user, &mut making).await? {
                    is_complete = false;
                    break 'all;
                }
            }
            account = last;
        }
        let attempts = self.store.attempts.counts((asked.from, asked.until)).await?;
        let attempts =
            attempts.into_iter().filter(|count| count.outcome != AttemptOutcome::Answered);
        let selling = self.gateway.models.selling();
        let attempts = attempts.map(|count| AttemptsWithoutAnswer {
            deployment: selling
                .catalogue
                .deployment(count.deployment)
                .map(|by| Arc::clone(&by.deployment.name)),
            id: count.deployment,
            outcome: count.outcome,
            count: count.count,
            may_cost: count.outcome.may_cost(count.is_refused),
        });
        Ok(making.end(attempts.collect(), is_complete))
    }

    /// Adds the entries of one account; `false`: there are more than fit.
    async fn margins_of(
        &self,
        account: AccountId,
        user: UserId,
        making: &mut Making,
    ) -> Result<bool, StoreError> {
        let span = (making.asked.from, making.asked.until);
        let (mut low, high) = self.store.entries_of_span(account, span).await?;
        let mut known: HashMap<Uuid, KnownCall> = HashMap::new();
        loop {
            let page = self.store.entries_of_calls(account, span, (low, high), PAGE).await?;
            let Some(last) = page.last() else { return Ok(true) };
            low = last.entry.seq.saturating_add(1);
            for one in &page {
                let entry = &one.entry;
                let is_call = matches!(entry.kind, EntryKind::Charge | EntryKind::Capture);
                let call = match known.get(&entry.reference) {
                    Some(call) => Some(call.clone()),
                    None if is_call => Some(making.known(entry, one).await?),
                    None => self.call_of(one, making).await?,
                };
                // A grant or a deduction that is about no call.
                let Some(call) = call else { continue };
                making.entries = making.entries.saturating_add(1);
                if making.entries > ENTRIES_MAX {
                    return Ok(false);
                }
                making.add(user, entry, &call);
                // Only a fixed price is refunded, usually soon.
                if entry.kind == EntryKind::Charge {
                    if known.len() >= REMEMBERED_MAX {
                        known.clear();
                    }
                    known.insert(entry.reference, call);
                }
            }
        }
    }

    /// The call that a refund or a correction refers to.
    async fn call_of(
        &self,
        one: &EntryOfServed,
        making: &mut Making,
    ) -> Result<Option<KnownCall>, StoreError> {
        let charge = ChargeId(one.entry.reference);
        let entries = self.store.charge_entries(one.entry.account, charge).await?;
        match entries {
            None => Ok(None),
            Some(entries) => making.known(&entries.charge, one).await.map(Some),
        }
    }
}

impl MarginsReport {
    /// The groups and their total as CSV.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let by = self.asked.by.name();
        let mut text =
            format!("{by},calls,revenue,cost,margin,unknown_calls,unknown_revenue,currency\r\n");
        let groups = self.groups.iter().map(|group| (&*group.name, &group.margin));
        for (name, margin) in groups.chain([("(total)", &self.total)]) {
            let Margin { calls, revenue, cost, unknown_revenue, .. } = margin;
            let _ = write!(
                text,
                "{},{calls},{revenue},{cost},{},{},{unknown_revenue},USD\r\n",
                csv_text(name),
                margin.margin(),
                margin.unknown()
            );
        }
        text
    }
}

impl Making {
    /// What is known of the call with this charge.
    async fn known(
        &mut self,
        charge: &LedgerEntry,
        one: &EntryOfServed,
    ) -> Result<KnownCall, StoreError> {
        let bill = charge.bill.and_then(|stored| stored.bill());
        let model = bill.and_then(|bill| self.costs.book.card_name(&bill).cloned());
        let cost = self.costs.of_call(bill.as_ref(), one.call.as_ref()).await?;
        Ok(KnownCall { model: model.unwrap_or_else(|| "".into()), cost })
    }

    fn add(&mut self, user: UserId, entry: &LedgerEntry, call: &KnownCall) {
        let group = match self.asked.by {
            MarginsBy::Model => call.model.to_string(),
            MarginsBy::Deployment => call.cost.deployment.to_string(),
            MarginsBy::Provider => call.cost.provider.to_string(),
            MarginsBy::User => user.to_string(),
            MarginsBy::Day => {
                let day = entry.at.micros().div_euclid(MICROS_PER_DAY);
                let begins = Timestamp::from_micros(day.saturating_mul(MICROS_PER_DAY));
                begins.to_rfc3339().chars().take(10).collect()
            }
        };
        let (kind, amount, cost) = (entry.kind, entry.amount, call.cost.cost);
        self.groups.entry(group).or_default().add(&CallEntry { kind, amount, cost });
    }

    fn end(self, attempts: Vec<AttemptsWithoutAnswer>, is_complete: bool) -> MarginsReport {
        let mut total = Margin::default();
        for margin in self.groups.values() {
            total.merge(margin);
        }
        let groups = self.groups.into_iter().map(|(name, margin)| MarginGroup { name, margin });
        let mut groups: Vec<MarginGroup> = groups.collect();
        if self.asked.by != MarginsBy::Day {
            groups.sort_by_key(|group| std::cmp::Reverse(group.margin.revenue));
        }
        if groups.len() > GROUPS_MAX {
            let rest = groups.split_off(GROUPS_MAX.saturating_sub(1));
            let mut others = Margin::default();
            for group in &rest {
                others.merge(&group.margin);
            }
            groups.push(MarginGroup { name: OTHERS.to_owned(), margin: others });
        }
        MarginsReport { asked: self.asked, total, groups, attempts, is_complete }
    }
}
