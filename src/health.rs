//! Whether paid calls can be served, for load balancers.

use std::sync::Arc;

use crate::actors::LedgerHandle;
use crate::pipeline::Admission;
use crate::store::{Store, StoreError};

/// See the module.
pub struct Health {
    /// The database.
    pub store: Store,
    /// Says whether the accounts belong to this process.
    pub ledger: LedgerHandle,
    /// Says whether the process is shutting down, or full.
    pub readiness: Arc<Admission>,
}

impl Health {
    /// Can a paid call be served? The process is in charge of the accounts, does not shut down and
    /// has a place for one more. Fails if the database does not answer.
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
