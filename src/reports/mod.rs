//! Reports for account holders: ledger, statements, receipts, usage, limits and forecast.
//!
//! Every report reads the tables after a checkpoint. So it contains everything that was
//! acknowledged before the request. Reports are values, which `http` encodes as JSON. This module
//! also encodes some of them as CSV and HTML.

use std::sync::Arc;

use crate::access::AccessError;
use crate::pipeline::Gateway;
use crate::store::Store;
use domain::{AccountId, Environment, Snapshot, Timestamp, UserId};

mod csv;
mod forecast;
mod html;
mod limits;
mod receipt;
mod statement;
mod transactions;
mod usage;

pub use csv::text as csv_text;
pub use forecast::BalanceForecast;
pub use limits::{KeyUsage, Window};
pub use receipt::PaymentReceipt;
pub use statement::{KindTotal, Statement, date};
pub use transactions::{ENTRIES_CSV_HEAD, entry_csv, reference};
pub use usage::{CallView, Interval, PeriodUsage, Span, SpanError, Usage, UsageReport};

/// Why a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportsError {
    /// The user has no such call on record.
    #[error("no such call")]
    NoCall,
    /// The user has no such payment.
    #[error("no such payment")]
    NoPayment,
    /// The payment is not confirmed, so it has no receipt.
    #[error("the payment is not confirmed")]
    NotConfirmed,
    /// The account cannot be read now.
    #[error(transparent)]
    Account(AccessError),
}

impl<E: Into<AccessError>> From<E> for ReportsError {
    fn from(error: E) -> Self {
        ReportsError::Account(error.into())
    }
}

/// The reports of all users.
pub struct Reports {
    /// The database.
    pub store: Store,
    /// The account actors, the ledger writer and the clock.
    pub gateway: Arc<Gateway>,
}

impl Reports {
    /// The balance of one of the user's accounts, and when its last entry was written.
    pub async fn balance(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<(Snapshot, Timestamp), ReportsError> {
        let account = self.store.users.accounts_of(user).await?.of(environment);
        let snapshot = self.snapshot(account).await?;
        self.gateway.tables_up_to_date().await?;
        Ok((snapshot, self.store.reports.account_updated_at(account).await?))
    }

    /// The state of the account in memory, once everything in it is on record.
    async fn snapshot(&self, account: AccountId) -> Result<Snapshot, ReportsError> {
        let lease = self.gateway.account(account).await?;
        Ok(self.gateway.recorded(lease.look(None).await?, ()).await?)
    }

    /// The id of one of the user's accounts, after a checkpoint.
    async fn account(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<AccountId, ReportsError> {
        let account = self.store.users.accounts_of(user).await?.of(environment);
        self.gateway.tables_up_to_date().await?;
        Ok(account)
    }
}
