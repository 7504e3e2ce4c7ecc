//! Readiness: whether paid calls can be served. For load balancers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::actors::LedgerHandle;
use crate::pipeline::Admission;
use crate::store::{Store, StoreError};

/// How long an answer of the database counts. Anybody may ask, however often.
const PING_KEPT: Duration = Duration::from_secs(1);

/// What readiness depends on.
pub struct Health {
    /// The database.
    pub store: Store,
    /// Says whether the accounts belong to this process.
    pub ledger: LedgerHandle,
    /// The limits of admission. They say whether the process is shutting down or full.
    pub readiness: Arc<Admission>,
    /// When the database was last asked, and whether it answered. Whoever asks meanwhile waits for
    /// that answer.
    pub pinged: Mutex<Option<(Instant, bool)>>,
}

impl Health {
    /// The kind of database: `sqlite` or `postgresql`.
    #[must_use]
    pub fn database(&self) -> &'static str {
        if self.store.is_postgres() { "postgresql" } else { "sqlite" }
    }

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
        let mut pinged = self.pinged.lock().await;
        if let Some((at, is_there)) = *pinged
            && at.elapsed() < PING_KEPT
        {
            return Ok(is_there);
        }
        let answer = self.store.ping().await;
        *pinged = Some((Instant::now(), answer.is_ok()));
        answer.map(|()| true)
    }
}
