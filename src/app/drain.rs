//! Shutdown: refuses new calls, lets running calls end, writes what is left, and gives the accounts
//! back.

use std::time::Duration;

use crate::actors::LedgerHandle;
use crate::config::ServerSettings;
use crate::http::App;
use crate::store::Store;
use domain::{Environment, Lease};

/// Polling interval while the server drains.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How long tasks may take to end after they are told to stop.
pub(super) const STOP_MAX: Duration = Duration::from_secs(10);

/// How long running calls may take to end after another process took over the accounts.
const FENCED_MAX: Duration = Duration::from_secs(2);

/// Announces the drain, then refuses new calls and waits for the running ones. Calls that still run
/// after the limit are ended and settled.
pub(super) async fn drain(app: &App, ledger: &LedgerHandle, settings: &ServerSettings) {
    let readiness = &app.readiness;
    readiness.announce_drain();
    tokio::time::sleep(Duration::from_secs(settings.drain_delay_seconds)).await;
    tracing::info!("draining: no new calls are taken");
    readiness.drain();
    let is_done = || readiness.is_idle();
    let running = || {
        let [live, test] = [Environment::Live, Environment::Test].map(|of| readiness.running(of));
        live.saturating_add(test)
    };
    if !within(Duration::from_secs(settings.drain_seconds), is_done).await {
        tracing::warn!(running = running(), "the drain limit is over; ending what runs");
        readiness.stop();
        if !within(STOP_MAX, is_done).await {
            tracing::error!(running = running(), "some calls did not end");
        }
    }
    // A client that left early may still have a write in the queue.
    if tokio::time::timeout(STOP_MAX, ledger.barrier()).await.is_err() {
        tracing::warn!("the ledger is still being written");
    }
}

/// Ends a process that has lost the accounts to another one. It refuses new calls and ends the
/// running ones at once, because they cannot be charged any more.
pub(super) async fn give_up(app: &App) {
    tracing::error!("another process has taken the accounts over; this one ends with exit code 75");
    let readiness = &app.readiness;
    readiness.drain();
    readiness.stop();
    within(FENCED_MAX, || readiness.is_idle()).await;
}

/// Waits up to `limit` for the condition. Returns whether it holds.
pub(super) async fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.is_ok()
}

/// Writes what is left, and gives the accounts back.
pub(super) async fn finish(store: &Store, ledger: &LedgerHandle, lease: Lease) {
    match tokio::time::timeout(Duration::from_secs(5), ledger.barrier()).await {
        Ok(Ok(())) => {
            if let Err(error) = store.fold_usage().await {
                tracing::warn!(%error, "the last calls are not in the rollups yet");
            }
            if let Err(error) = store.release_lease(lease).await {
                tracing::warn!(%error, "the accounts were not given back; the next start takes them all the same");
            }
        }
        // The lease is kept, so that the next start knows that calls may be in the journal only.
        unfinished => tracing::error!(?unfinished, "the ledger writer did not finish"),
    }
    store.close().await;
    tracing::info!("stopped");
}
