//! `/api/admin/health`: how this server is, for operators.

use std::sync::atomic::Ordering;

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use crate::actors::ledger::WriterState;
use domain::{Environment, Timestamp};

/// The writer of the ledger.
#[derive(Serialize, ToSchema)]
pub(super) struct LedgerHealthBody {
    /// `serving`; `overloaded`: too many writes wait; `unavailable`: the database does not answer;
    /// or `fenced`: another process has taken the accounts over.
    #[schema(pattern = "^(serving|overloaded|unavailable|fenced)$")]
    state: &'static str,
    /// Writes that wait for their commit.
    #[schema(minimum = 0)]
    queued: usize,
    /// How long the oldest of them has waited, in milliseconds.
    #[schema(minimum = 0)]
    oldest_ms: u64,
    /// Writes in the journal that are not in the tables yet.
    #[schema(minimum = 0)]
    unmerged: usize,
    /// Batches committed since the start.
    #[schema(minimum = 0)]
    batches: u64,
}

/// What runs now.
#[derive(Serialize, ToSchema)]
pub(super) struct LoadBody {
    /// Paid calls with live keys, streams included.
    #[schema(minimum = 0)]
    calls: usize,
    /// Calls with test keys.
    #[schema(minimum = 0)]
    test_calls: usize,
    /// Requests with a credential.
    #[schema(minimum = 0)]
    requests: usize,
    /// Requests without one.
    #[schema(minimum = 0)]
    strangers: usize,
    /// Charges and holds that are open.
    #[schema(minimum = 0)]
    open_charges: usize,
    /// Accounts in memory.
    #[schema(minimum = 0)]
    accounts_resident: usize,
}

/// The last verification of the ledger.
#[derive(Serialize, ToSchema)]
pub(super) struct VerificationBody {
    /// When it ended; null before the first one.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// How many findings it had; null before the first one.
    findings: Option<i64>,
    /// Verifications that failed to run, since the start.
    #[schema(minimum = 0)]
    failures: u64,
}

/// Deliveries of webhooks since the start.
#[derive(Serialize, ToSchema)]
pub(super) struct WebhooksHealthBody {
    /// Attempts that were accepted.
    #[schema(minimum = 0)]
    delivered: u64,
    /// Attempts that failed.
    #[schema(minimum = 0)]
    failed: u64,
}

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct AdminHealthAnswer {
    /// Of the server.
    version: &'static str,
    /// Can paid calls be served?
    is_ready: bool,
    /// Does the database answer?
    database_answers: bool,
    /// `sqlite` or `postgresql`
    #[schema(pattern = "^(sqlite|postgresql)$")]
    database: &'static str,
    ledger: LedgerHealthBody,
    load: LoadBody,
    /// Accounts that are blocked, because their records are inconsistent.
    #[schema(minimum = 0)]
    accounts_quarantined: usize,
    verification: VerificationBody,
    webhooks: WebhooksHealthBody,
    /// How long the last small synced write to the data directory took, in microseconds; null
    /// before the first one.
    fsync_micros: Option<u64>,
    /// Handlers that panicked since the start.
    #[schema(minimum = 0)]
    panics: u64,
}

const fn state(state: WriterState) -> &'static str {
    match state {
        WriterState::Serving => "serving",
        WriterState::Unavailable => "unavailable",
        WriterState::Fenced => "fenced",
        WriterState::Overloaded => "overloaded",
    }
}

/// How the server is: its ledger, its database, what runs, and what was found wrong.
#[utoipa::path(get, path = "/api/admin/health", tag = "admin", security(("jwt" = [])), responses(
    (status = 200, description = "How it is", body = AdminHealthAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn health(_: AdminUser, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let ready = app.health.is_ready().await;
    let (readiness, directory) = (&app.readiness, &app.gateway.directory);
    let (writer, metrics) = (app.gateway.ledger.metrics(), &app.gateway.metrics);
    let (accounts_quarantined, _) = directory.quarantined();
    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let [delivered, failed] = [0, 1].map(|place| metrics.webhooks.get(place).map_or(0, load));
    let findings = metrics.verify_findings.load(Ordering::Relaxed);
    let verified_at = metrics.verified_at.load(Ordering::Relaxed);
    let is_verified = findings >= 0;
    let ended_at = Timestamp::from_micros(verified_at.saturating_mul(1_000_000));
    Ok(HttpResponse::Ok().json(AdminHealthAnswer {
        version: env!("CARGO_PKG_VERSION"),
        database_answers: ready.is_ok(),
        is_ready: ready.unwrap_or(false),
        database: app.health.database(),
        ledger: LedgerHealthBody {
            state: state(writer.state),
            queued: writer.queued,
            oldest_ms: u64::try_from(writer.age.as_millis()).unwrap_or(u64::MAX),
            unmerged: writer.backlog,
            batches: writer.batches,
        },
        load: LoadBody {
            calls: readiness.running(Environment::Live),
            test_calls: readiness.running(Environment::Test),
            requests: readiness.requests(),
            strangers: readiness.strangers(),
            open_charges: directory.open_charges(),
            accounts_resident: directory.len(),
        },
        accounts_quarantined,
        verification: VerificationBody {
            ended_at: is_verified.then(|| ended_at.to_rfc3339()),
            findings: is_verified.then_some(findings),
            failures: metrics.verify_failures.load(Ordering::Relaxed),
        },
        webhooks: WebhooksHealthBody { delivered, failed },
        fsync_micros: u64::try_from(metrics.fsync_micros.load(Ordering::Relaxed)).ok(),
        panics: readiness.panicked(),
    }))
}
