//! Periodic jobs of a serving process.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::actors::LedgerHandle;
use crate::actors::account::directory::SWEEP_PERIOD;
use crate::actors::ledger::WriterState;
use crate::catalogue::{self, FileFault, FileSource};
use crate::http::App;
use crate::payments::auto::AutoTopUpStopped;
use crate::store::StoreError;
use domain::{Lease, MICROS_PER_DAY, Timestamp};

/// Counters of idle callers are deleted every this many sweeps.
const FORGET_SWEEPS: u64 = 60;
/// How many days after its end a rotated key is still known as expired.
const FORMER_VALUE_DAYS: i64 = 30;
/// Interval of the payment jobs.
const PAYMENTS_PERIOD: Duration = Duration::from_secs(2);
/// How often to look for refunds and disputes, and how many days back. Stripe keeps its events for
/// 30 days.
const REVERSALS_PERIOD: Duration = Duration::from_hours(1);
const REVERSALS_DAYS: i64 = 3;
const REVERSALS_DAYS_AT_START: i64 = 29;
/// How long an erasure may take, in microseconds. Then its user may pay again.
const ERASURE_MICROS: i64 = 600_000_000;
/// How often Stripe is asked again to delete a user who is erased.
const FORGET_CUSTOMERS_PERIOD: Duration = Duration::from_mins(10);
/// Interval of the measurement of a synced write.
const FSYNC_PERIOD: Duration = Duration::from_secs(15);
/// Interval of the deletion of old usage records.
const FORGET_USAGE_PERIOD: Duration = Duration::from_mins(1);
/// Interval of the check for a takeover.
const FENCED_PERIOD: Duration = Duration::from_millis(100);
/// How often it is looked for changes of what is sold, by this process or another one.
const CATALOGUE_PERIOD: Duration = Duration::from_secs(1);
/// The same of the file of the catalogue.
const CATALOGUE_FILE_PERIOD: Duration = Duration::from_secs(2);
/// Pause between two chunks of deleted usage records, so that paid calls are hardly slowed down.
const FORGET_USAGE_PAUSE: Duration = Duration::from_millis(20);
/// How long odd usage is kept.
const ODDITIES_KEPT_DAYS: i64 = 90;
/// Orphaned holds are looked for every this many sweeps.
const ORPHAN_SWEEPS: u64 = 10;

/// Regular upkeep: unloads idle accounts, ends orphaned holds, checks the lease, and deletes what
/// has expired. Ends the process with exit code 70 if the ledger writer has died.
pub(super) async fn sweep(app: Arc<App>, lease: Lease) {
    let mut period = tokio::time::interval(SWEEP_PERIOD);
    let mut sweeps: u64 = 0;
    let mut refused_before: u64 = 0;
    loop {
        period.tick().await;
        if !app.gateway.ledger.is_alive() {
            // Only a defect ends the writer, and without it nothing can be acknowledged. A new
            // process starts from what is committed.
            tracing::error!("the ledger writer is gone; ending the process");
            std::process::exit(70);
        }
        app.gateway.directory.sweep();
        let refused = app.readiness.refused();
        if refused > refused_before {
            tracing::warn!(
                refused = refused.saturating_sub(refused_before),
                "requests were refused: the server is at capacity"
            );
            refused_before = refused;
        }
        // Includes the first sweep, because a crash may have left holds.
        if sweeps.is_multiple_of(ORPHAN_SWEEPS)
            && let Err(error) = app.gateway.directory.end_orphaned_holds().await
        {
            tracing::warn!(%error, "holds without an owner were not ended");
        }
        if let Ok(Ok(false)) =
            tokio::time::timeout(SWEEP_PERIOD, app.store.holds_lease(lease)).await
            && app.gateway.ledger.state() != WriterState::Fenced
        {
            app.gateway.ledger.fence();
        }
        sweeps = sweeps.wrapping_add(1);
        if sweeps % FORGET_SWEEPS == 1
            && app.gateway.ledger.state().is_in_charge()
            && let Err(error) = app.users.tell_of_expiring_keys(app.keys.soon()).await
        {
            tracing::warn!(%error, "owners of keys that end soon were not told");
        }
        if sweeps % FORGET_SWEEPS == 1 && app.gateway.ledger.state().is_in_charge() {
            let before = app.clock.now().plus_micros(ERASURE_MICROS.saturating_neg());
            match app.users.store.undo_erasures(before).await {
                Ok(0) => {}
                Ok(undone) => tracing::warn!(undone, "erasures of users were begun and not ended"),
                Err(error) => tracing::warn!(%error, "erasures that did not end were not undone"),
            }
        }
        if sweeps.is_multiple_of(FORGET_SWEEPS) {
            app.gateway.rate_limits.forget_idle();
            app.users.throttle.forget_idle();
            if let Err(error) = app.gateway.idempotency.forget().await {
                tracing::warn!(%error, "old recorded answers were not deleted");
            }
            if let Err(error) = forget_what_is_over(&app).await {
                tracing::warn!(%error, "sessions and odd usage that are over were not deleted");
            }
        }
    }
}

/// Waits until another process has taken over the accounts.
pub(super) async fn fenced(ledger: &LedgerHandle) {
    let mut period = tokio::time::interval(FENCED_PERIOD);
    loop {
        period.tick().await;
        if ledger.state() == WriterState::Fenced {
            return;
        }
    }
}

/// Starts the payment jobs. Each is a separate task, so that none waits for another's provider.
pub(super) fn start_payment_jobs(app: &Arc<App>) -> [JoinHandle<()>; 5] {
    [
        actix::spawn(every(PAYMENTS_PERIOD, Arc::clone(app), async |app| {
            log_error(app.payments.check_due().await, "payments were not looked after");
        })),
        actix::spawn(every(PAYMENTS_PERIOD, Arc::clone(app), async |app| {
            log_error(app.payments.apply_reversals().await, "payments were not taken back");
        })),
        actix::spawn(every(PAYMENTS_PERIOD, Arc::clone(app), top_up_accounts)),
        actix::spawn(look_for_reversals(Arc::clone(app))),
        actix::spawn(every(FORGET_CUSTOMERS_PERIOD, Arc::clone(app), async |app| {
            log_error(app.payments.forget_customers().await, "erased users are not forgotten");
        })),
    ]
}

/// Runs `work` once in each `interval` while this process owns the accounts.
async fn every(interval: Duration, app: Arc<App>, work: impl AsyncFn(&App)) {
    let mut period = tokio::time::interval(interval);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        if app.gateway.ledger.state().is_in_charge() {
            work(&app).await;
        }
    }
}

/// Starts due automatic top-ups, and tells users whose automatic top-up was switched off.
async fn top_up_accounts(app: &App) {
    log_error(app.payments.top_up_accounts().await, "accounts were not topped up");
    let given_up = app.payments.take_stopped_auto_top_ups().await;
    for AutoTopUpStopped { user, why } in
        log_error(given_up, "users whose automatic top-up was switched off were not notified")
            .unwrap_or_default()
    {
        app.users.tell_of_auto_top_up(user, &why).await;
    }
}

/// Looks for refunds and disputes that no webhook reported: at the start as far back as possible,
/// then every hour.
async fn look_for_reversals(app: Arc<App>) {
    let mut days = REVERSALS_DAYS_AT_START;
    loop {
        let mut pause = PAYMENTS_PERIOD;
        if app.gateway.ledger.state().is_in_charge() {
            let now = app.gateway.clock.now();
            let since = now.plus_micros(MICROS_PER_DAY.saturating_mul(days).saturating_neg());
            let looked = app.payments.find_reversals(since).await;
            if log_error(looked, "refunds and disputes were not looked for").is_some() {
                days = REVERSALS_DAYS;
            }
            pause = REVERSALS_PERIOD;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Returns the value. Logs a warning if there is an error.
fn log_error<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> Option<T> {
    result.map_err(|error| tracing::warn!(%error, "{what}")).ok()
}

/// Sells what the database has, within a second of a change.
pub(super) async fn follow_catalogue(app: Arc<App>) {
    let mut period = tokio::time::interval(CATALOGUE_PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut has_failed = false;
    loop {
        period.tick().await;
        let followed = catalogue::follow(&app.store, &app.gateway).await;
        if let (Err(error), false) = (&followed, has_failed) {
            tracing::warn!(%error, "it is not known whether the catalogue has changed");
        }
        has_failed = followed.is_err();
    }
}

/// Sells what the file of the catalogue says, within seconds of a change.
pub(super) async fn follow_file(app: Arc<App>, file: Arc<FileSource>) {
    let mut period = tokio::time::interval(CATALOGUE_FILE_PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        if !file.has_changed() {
            continue;
        }
        match file.load(&app.store, &app.gateway).await {
            Ok(()) => {}
            Err(FileFault::Faulty(faults)) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                let faults = faults.join("; ");
                tracing::error!(
                    alert = "catalogue",
                    faults,
                    "the file of the catalogue is faulty; what was sold before goes on"
                );
            }
            Err(error) => tracing::warn!(%error, "the file of the catalogue is not sold yet"),
        }
    }
}

/// Measures at intervals how long a small synced write takes. Commits are synced in the same way.
pub(super) async fn watch_disk(app: Arc<App>, folder: PathBuf) {
    let mut period = tokio::time::interval(FSYNC_PERIOD);
    let path = folder.join(".fsync");
    loop {
        period.tick().await;
        let path = path.clone();
        let measured = tokio::task::spawn_blocking(move || -> std::io::Result<Duration> {
            let mut options = std::fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.write(true).create(true).truncate(true).open(path)?;
            std::io::Write::write_all(&mut file, &[0; 4_096])?;
            let begun = std::time::Instant::now();
            file.sync_data()?;
            Ok(begun.elapsed())
        });
        if let Ok(Ok(took)) = measured.await {
            let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
            app.gateway.metrics.fsync_micros.store(micros, Ordering::Relaxed);
        }
    }
}

/// Verifies every ledger, at the start and then every `hours` hours.
pub(super) async fn verify_every(app: Arc<App>, hours: NonZeroU32) {
    let mut period = tokio::time::interval(Duration::from_secs(u64::from(hours.get()) * 3_600));
    // Set at the start, so that an alert fires if no verification ever ends.
    app.gateway.metrics.verified_at.store(app.clock.now().seconds(), Ordering::Relaxed);
    loop {
        period.tick().await;
        // One that an operator has started counts as well.
        if let Ok(verifying) = app.verifier.start_by_schedule()
            && let Err(error) = verifying.await
        {
            app.gateway.metrics.verify_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "not verified");
        }
    }
}

async fn forget_what_is_over(app: &App) -> Result<(), StoreError> {
    while app.store.users.delete_expired_sessions(app.clock.now()).await? {}
    // Until they are deleted, a call with such a key is answered as expired, and not as unknown.
    let before = app.clock.now().plus_micros(MICROS_PER_DAY.saturating_mul(-FORMER_VALUE_DAYS));
    while app.store.keys.delete_former_values(before).await? {}
    while app.store.users.delete_expired_email_tokens(app.clock.now()).await? {}
    let before = app.clock.now().plus_micros(MICROS_PER_DAY.saturating_mul(-ODDITIES_KEPT_DAYS));
    while app.store.oddities.delete(before).await? > 0 {}
    Ok(())
}

/// Deletes usage records past their retention.
pub(super) async fn forget_usage(app: Arc<App>, keep_days: NonZeroU32) {
    let keep_micros = i64::from(keep_days.get()).saturating_mul(MICROS_PER_DAY);
    let mut period = tokio::time::interval(FORGET_USAGE_PERIOD);
    loop {
        period.tick().await;
        let before = app.clock.now().micros().saturating_sub(keep_micros);
        // Folded once, before all deletions.
        if let Err(error) = app.store.fold_usage().await {
            tracing::warn!(%error, "old usage records were not brought into the rollups");
        }
        let before = Timestamp::from_micros(before);
        forget_attempts(&app, before).await;
        let mut forgotten: u64 = 0;
        loop {
            match app.store.reports.delete_usage(before).await {
                Ok(0) => break,
                Ok(deleted) => forgotten = forgotten.saturating_add(deleted),
                Err(error) => {
                    tracing::warn!(%error, "old usage records were not deleted");
                    break;
                }
            }
            tokio::time::sleep(FORGET_USAGE_PAUSE).await;
        }
        if forgotten > 0 {
            tracing::info!(forgotten, keep_days, "deleted old usage records");
        }
    }
}

/// Deletes attempts that are older than the oldest usage records.
async fn forget_attempts(app: &App, before: Timestamp) {
    loop {
        match app.store.attempts.delete(before).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "old attempts were not deleted");
                return;
            }
        }
        tokio::time::sleep(FORGET_USAGE_PAUSE).await;
    }
}
