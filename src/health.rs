//! Readiness: whether paid calls can be served. For load balancers.

use std::sync::Arc;

use crate::actors::LedgerHandle;
use crate::pipeline::Admission;
use crate::store::{Store, StoreError};

/// What readiness depends on.
pub struct Health {
    /// The database.
    pub store: Store,
    /// Says whether the accounts belong to this process.
    pub ledger: LedgerHandle,
    /// The limits of admission. They say whether the process is shutting down or full.
    pub readiness: Arc<Admission>,
}

impl Health {
    /// Says whether a paid call can be served: this process owns the accounts, is not shutting
    /// down, and has a place for one more call. Fails with [`StoreError`] if the database does not
    /// answer.
    pub async fn is_ready(&self) -> Result<bool, StoreError> {
        let is_writable = self.ledger.state().is_in_charge();
        if self.readiness.is_unready()
            || !self.readiness.has_place()
            || !is_writable
            || !self.ledger.is_alive()
        {
            return Ok(false);
        }
        self.store.ping().await?;
        Ok(true)
    }
}
