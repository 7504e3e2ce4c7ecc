//! Bills as customers and operators read them, how they are computed again, and what is left of
//! them after what the calls cost us.

use std::sync::Arc;

use uuid::Uuid;

use crate::access::AccessError;
use crate::pipeline::Gateway;
use crate::store::ledger::ChargeEntries;
use crate::store::oddities::{OddUsage, OddityFilter};
use crate::store::{Store, StoreError};
use domain::price_book::Arithmetic;
use domain::{
    AccountId, ActKind, Bill, ChargeId, Convention, Credits, Environment, Flags, LedgerEntry,
    Origin, PriceBook, Timestamp, UserId, VersionId,
};

mod costs;
mod margins;
mod revenue;

use costs::CallCosts;

pub use costs::CostOfCall;
pub use margins::{AttemptsWithoutAnswer, MarginGroup, MarginsAsked, MarginsBy, MarginsReport};
pub use revenue::{RevenueBy, RevenueInterval, RevenueReport};

/// Most entries that are computed again for one report.
pub const RECOMPUTED_MAX: u64 = 100_000;
/// Most differences that a report shows.
const SHOWN_MAX: usize = 1_000;
/// Entries that are read at once.
const PAGE: u64 = 1_000;

/// Why there is no bill.
#[derive(Debug, thiserror::Error)]
pub enum BillsError {
    /// There is no such charge, or none of this user's.
    #[error("no such charge")]
    NoCharge,
    /// The charge is older than bills.
    #[error("the charge has no bill")]
    NoBill,
    /// The bill names what is not on record.
    #[error("the bill of {charge} cannot be computed: {bill:?}")]
    NotComputable {
        /// The call.
        charge: ChargeId,
        /// Its bill.
        bill: Option<Bill>,
    },
    /// There is no such version.
    #[error("no such version")]
    NoVersion,
    /// See [`AccessError`].
    #[error(transparent)]
    Access(#[from] AccessError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A bill with its arithmetic.
#[derive(Clone, Debug)]
pub struct BillView {
    /// Whose account paid.
    pub user: UserId,
    /// Which of their accounts.
    pub environment: Environment,
    /// The charge or the capture.
    pub entry: LedgerEntry,
    /// Its refund, and what corrects it.
    pub others: Vec<LedgerEntry>,
    /// What it was charged for.
    pub bill: Bill,
    /// How the cost comes about.
    pub arithmetic: Arithmetic,
    /// The model that the call asked for, if its usage record is still there and names one. The
    /// card is that of the model that answered, if the operator bills that.
    pub asked: Option<String>,
}

impl BillView {
    /// What was taken.
    #[must_use]
    pub fn taken(&self) -> Credits {
        Credits::ZERO.checked_sub(self.entry.amount).unwrap_or(Credits::ZERO)
    }

    /// What was taken in the end, after its refund and what corrects it; `None` if it does not fit.
    #[must_use]
    pub fn left(&self) -> Option<Credits> {
        let all = self.others.iter().chain([&self.entry]);
        all.map(|entry| entry.amount).try_fold(Credits::ZERO, Credits::checked_sub)
    }

    /// Is what was taken what the call cost, or less of it where no more was held?
    #[must_use]
    pub fn agrees(&self) -> bool {
        let (taken, cost) = (self.taken(), self.arithmetic.cost);
        if self.bill.flags.has(Flags::CLAMPED) { taken < cost } else { taken == cost }
    }
}

/// What is peculiar about a bill, in words for its customer.
#[must_use]
pub fn flags_in_words(flags: Flags) -> Vec<&'static str> {
    let all = [
        (Flags::CLAMPED, "Less was taken than the call cost, because no more was held for it."),
        (Flags::COUNTED, "Tokens were counted here, because the provider did not report them."),
        (Flags::ODD, "The parts that the provider reported did not come to its whole."),
        (Flags::EARLY, "The answer was cut off; what had come until then is billed."),
        (Flags::OTHER_MODEL, "Another model answered than was asked for, and its price counts."),
    ];
    all.into_iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, words)| words).collect()
}

/// Which bills are computed again, and how.
#[derive(Clone, Debug)]
pub struct Recomputation {
    /// Not from before this instant.
    pub from: Timestamp,
    /// From before this instant.
    pub until: Timestamp,
    /// Only with the card of this name.
    pub model: Option<String>,
    /// By this version in place of each one's own.
    pub version: Option<VersionId>,
    /// As if the provider had counted so.
    pub convention: Option<Convention>,
}

/// A bill that comes to something else than was taken.
#[derive(Clone, Debug)]
pub struct BillDifference {
    /// The call.
    pub charge: ChargeId,
    /// The account.
    pub account: AccountId,
    /// When it was charged.
    pub at: Timestamp,
    /// The name of its card.
    pub model: Arc<str>,
    /// What was taken.
    pub billed: Credits,
    /// What it comes to now; `None`: it is not sold so.
    pub recomputed: Option<Credits>,
    /// Was less taken than it cost, because no more was held?
    pub is_clamped: bool,
}

/// What bills come to if they are computed again.
#[derive(Clone, Debug, Default)]
pub struct RecomputedBills {
    /// How many bills.
    pub count: u64,
    /// How many of them come to something else than was taken.
    pub differing: u64,
    /// How many cannot be computed so.
    pub not_computable: u64,
    /// What was taken for those that can be computed.
    pub billed: Credits,
    /// What these come to.
    pub recomputed: Credits,
    /// The first ones that differ.
    pub differences: Vec<BillDifference>,
    /// Are all bills of the span in it? Otherwise there were too many.
    pub is_complete: bool,
}

/// See the module.
pub struct Bills {
    /// The database.
    pub store: Store,
    /// The price lists in memory, the ledger writer and the clock.
    pub gateway: Arc<Gateway>,
}

impl Bills {
    /// The bill of a call of this user.
    pub async fn own(&self, user: UserId, charge: ChargeId) -> Result<BillView, BillsError> {
        self.gateway.tables_up_to_date().await?;
        let accounts = self.store.users.accounts_of(user).await?;
        for environment in [Environment::Live, Environment::Test] {
            let account = accounts.of(environment);
            if let Some(found) = self.store.charge_entries(account, charge).await? {
                return self.view(user, environment, account, charge, found).await;
            }
        }
        Err(BillsError::NoCharge)
    }

    /// The bill of any call, and what the call cost us. If the usage record of the call is gone,
    /// `user` must say who has paid. The audit log says that the operator has read it.
    pub async fn of_charge(
        &self,
        charge: ChargeId,
        user: Option<UserId>,
        origin: Origin,
    ) -> Result<(BillView, CostOfCall), BillsError> {
        self.gateway.tables_up_to_date().await?;
        let payer = match user {
            Some(user) => user,
            None => self.store.payer_of(charge).await?.ok_or(BillsError::NoCharge)?.1,
        };
        let view = self.own(payer, charge).await?;
        let now = self.gateway.clock.now();
        let act = origin.act(Uuid::now_v7(), payer, ActKind::UserRead, now);
        self.store.audit_log.record(act.to(charge.to_string()).with("bill")).await?;
        let call = self.store.served_call(view.entry.account, charge).await?;
        let mut costs = CallCosts::load(&self.store).await?;
        let cost = costs.of_call(Some(&view.bill), call.as_ref()).await?;
        Ok((view, cost))
    }

    async fn view(
        &self,
        user: UserId,
        environment: Environment,
        account: AccountId,
        charge: ChargeId,
        found: ChargeEntries,
    ) -> Result<BillView, BillsError> {
        let ChargeEntries { charge: entry, others } = found;
        let stored = entry.bill.ok_or(BillsError::NoBill)?;
        let bill = stored.bill().ok_or(BillsError::NotComputable { charge, bill: None })?;
        let known = bill.arithmetic(&self.gateway.models.selling().book);
        let arithmetic = if let Some(arithmetic) = known {
            arithmetic
        } else {
            // Another process has published it a moment ago.
            let book = self.store.price_book().await?.book;
            let none = BillsError::NotComputable { charge, bill: Some(bill) };
            bill.arithmetic(&book).ok_or(none)?
        };
        let asked = self.store.model_of(account, charge).await?;
        let view = BillView { user, environment, entry, others, bill, arithmetic, asked };
        if !view.agrees() {
            tracing::error!(alert = "bill", %charge, "a bill does not come to what was taken");
        }
        Ok(view)
    }

    /// Odd usage, the last written first.
    ///
    /// # Errors
    /// [`BillsError::Store`]
    pub async fn odd_usage(
        &self,
        filter: OddityFilter,
        limit: u64,
    ) -> Result<Vec<(i64, OddUsage)>, BillsError> {
        Ok(self.store.oddities.list(filter, limit).await?)
    }

    /// Computes bills again. Changes nothing.
    pub async fn recompute(&self, asked: &Recomputation) -> Result<RecomputedBills, BillsError> {
        self.gateway.tables_up_to_date().await?;
        let book = self.store.price_book().await?.book;
        if asked.version.is_some_and(|version| book.by_id(version).is_none()) {
            return Err(BillsError::NoVersion);
        }
        let mut report = RecomputedBills { is_complete: true, ..RecomputedBills::default() };
        let mut account = AccountId(i64::MIN);
        loop {
            let accounts = self.store.accounts_since(asked.from, account).await?;
            let Some(last) = accounts.last().copied() else { return Ok(report) };
            for account in accounts {
                if !self.recompute_of(account, asked, &book, &mut report).await? {
                    report.is_complete = false;
                    return Ok(report);
                }
            }
            account = last;
        }
    }

    /// The same of one account; `false`: there are more than fit.
    async fn recompute_of(
        &self,
        account: AccountId,
        asked: &Recomputation,
        book: &PriceBook,
        report: &mut RecomputedBills,
    ) -> Result<bool, BillsError> {
        let span = (asked.from, asked.until);
        let mut after = 0;
        loop {
            let page = self.store.billed_entries(account, span, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(true) };
            after = last.seq;
            for entry in &page {
                let bill = entry.bill.and_then(|stored| stored.bill());
                let model = bill.and_then(|bill| book.card_name(&bill).cloned());
                if asked.model.as_ref().is_some_and(|only| model.as_deref() != Some(only)) {
                    continue;
                }
                if report.count >= RECOMPUTED_MAX {
                    return Ok(false);
                }
                report.add(entry, bill, model, asked, book);
            }
            failpoint!("bills-recomputed");
        }
    }
}

impl RecomputedBills {
    fn add(
        &mut self,
        entry: &LedgerEntry,
        bill: Option<Bill>,
        model: Option<Arc<str>>,
        asked: &Recomputation,
        book: &PriceBook,
    ) {
        self.count = self.count.saturating_add(1);
        let billed = Credits::ZERO.checked_sub(entry.amount).unwrap_or(Credits::MAX);
        let cost = bill.and_then(|bill| bill.cost_by(book, asked.version, asked.convention));
        let is_clamped = bill.is_some_and(|bill| bill.flags.has(Flags::CLAMPED));
        match cost {
            Some(cost) => {
                self.billed = self.billed.checked_add(billed).unwrap_or(Credits::MAX);
                self.recomputed = self.recomputed.checked_add(cost).unwrap_or(Credits::MAX);
                if cost == billed {
                    return;
                }
                self.differing = self.differing.saturating_add(1);
            }
            None => self.not_computable = self.not_computable.saturating_add(1),
        }
        if self.differences.len() < SHOWN_MAX {
            self.differences.push(BillDifference {
                charge: ChargeId(entry.reference),
                account: entry.account,
                at: entry.at,
                model: model.unwrap_or_else(|| "".into()),
                billed,
                recomputed: cost,
                is_clamped,
            });
        }
    }
}
