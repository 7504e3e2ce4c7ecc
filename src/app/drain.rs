//! The end of the process: no new calls, the running ones end, the rest is written, the accounts
//! are given back.

use std::time::Duration;

use crate::actors::LedgerHandle;
use crate::config::ServerSettings;
use crate::http::App;
use crate::store::Store;
use domain::{Environment, Lease};

/// Polling interval while draining.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// Grace period after tasks are told to stop.
pub(super) const STOP_MAX: Duration = Duration::from_secs(10);

/// How long the calls of a process that was taken over may take to end.
const FENCED_MAX: Duration = Duration::from_secs(2);

/// Announces the drain, refuses new calls, waits for the running ones up to the limit, then ends
/// them in good order.
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
    // Clients that left early may still have writes in the queue.
    if tokio::time::timeout(STOP_MAX, ledger.barrier()).await.is_err() {
        tracing::warn!("the ledger is still being written");
    }
}

/// Ends a process that was taken over: no new calls, and those that run are ended at once. They
/// cannot be charged any more.
pub(super) async fn give_up(app: &App) {
    tracing::error!("another process has taken the accounts over; this one ends with exit code 75");
    let readiness = &app.readiness;
    readiness.drain();
    readiness.stop();
    within(FENCED_MAX, || readiness.is_idle()).await;
}

/// Waits up to `limit` for the condition; says whether it holds.
pub(super) async fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.is_ok()
}

/// Writes what is left and gives the accounts back.
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
        // Not given back, so that the next start knows: some calls may be only in the journal.
        unfinished => tracing::error!(?unfinished, "the ledger writer did not finish"),
    }
    store.close().await;
    tracing::info!("stopped");
}
