//! The metrics, in Prometheus' text format (version 0.0.4).
//!
//! Every queue and every limit of the process has its metric here, named like its setting. No label
//! names an account, a key or a user.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::App;
use super::error::ApiError;
use super::extract::bearer;
use crate::actors::ledger::WriterState;
use crate::deployments::SeenDeployment;
use crate::metrics::money::dollars;
use crate::metrics::process::process;
use crate::metrics::{COMMIT, Metrics, seconds};
use domain::Environment;
use domain::routing::{AttemptOutcome, Gate};

/// `GET /metrics`, on `server.metrics_bind`, or beside the API with `server.metrics_token`. If a
/// token is set, requests without it are refused.
pub async fn metrics(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    if let Some(token) = &app.metrics_token {
        let given = bearer(&request).ok_or(ApiError::MissingSession)?;
        if !is_same(token.expose(), given) {
            return Err(ApiError::AccessDenied);
        }
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(HttpResponse::Ok().content_type(kind).body(text(&app)))
}

/// Compares in constant time.
fn is_same(one: &str, other: &str) -> bool {
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(b"metrics") else { return false };
    let digest = |text: &str| mac.clone().chain_update(text);
    let other = digest(other).finalize().into_bytes();
    digest(one).verify_slice(&other).is_ok()
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ =
            writeln!(self.0, "# HELP polysystems_{name} {help}\n# TYPE polysystems_{name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "polysystems_{name}{labels} {value}");
    }

    fn one(&mut self, kind: &str, name: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.value(name, "", value);
    }
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn text(app: &App) -> String {
    let (readiness, directory) = (&app.readiness, &app.gateway.directory);
    let metrics = &app.gateway.metrics;
    let writer = app.gateway.ledger.metrics();
    let histograms = app.gateway.ledger.histograms();
    let (quarantined, quarantines) = directory.quarantined();
    let is = |state: WriterState| u64::from(writer.state == state);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let mut text = Text(String::new());
    let age = u64::try_from(writer.age.as_micros()).unwrap_or(u64::MAX);
    let live = count(readiness.running(Environment::Live));
    let test = count(readiness.running(Environment::Test));
    let gauges: [(&str, &str, u64); 17] = [
        (
            "requests",
            "Requests in progress, of callers with a credential",
            count(readiness.requests()),
        ),
        ("strangers", "Requests in progress without a credential", count(readiness.strangers())),
        ("calls", "Paid calls in progress, streams included", live),
        ("test_calls", "Calls with test keys in progress, streams included", test),
        (
            "stranger_connections",
            "Connections that no paid call has come on for some seconds",
            count(app.connections.total()),
        ),
        ("open_bodies", "Request bodies on their way", count(app.bodies.open_per_address.total())),
        ("body_bytes", "Bytes of request bodies in memory", count(readiness.body_bytes())),
        ("ready", "1 while new calls are accepted", u64::from(readiness.is_ready())),
        ("accounts_resident", "Accounts in memory", count(directory.len())),
        (
            "accounts_quarantined",
            "Accounts blocked because their records are inconsistent",
            count(quarantined),
        ),
        ("charges_open", "Charges and holds in progress", count(directory.open_charges())),
        ("ledger_queue", "Writes waiting for their commit", count(writer.queued)),
        (
            "ledger_queue_bytes",
            "Bytes of memory of the writes waiting for their commit",
            count(writer.bytes),
        ),
        (
            "ledger_unmerged",
            "Writes in the journal that are not in the tables yet",
            count(writer.backlog),
        ),
        ("ledger_overloaded", "1 while commits exceed the threshold", is(WriterState::Overloaded)),
        (
            "ledger_unavailable",
            "1 while the database does not answer",
            is(WriterState::Unavailable),
        ),
        (
            "ledger_fenced",
            "1 if another process has taken over the accounts",
            is(WriterState::Fenced),
        ),
    ];
    for (name, help, value) in gauges {
        text.one("gauge", name, help, value);
    }
    text.one(
        "gauge",
        "ledger_age_seconds",
        "Age of the oldest write waiting for its commit",
        seconds(age),
    );
    let counters: [(&str, &str, u64); 6] = [
        ("ledger_batches_total", "Batches committed", writer.batches),
        (
            "requests_refused_total",
            "Requests refused because the server was at capacity",
            readiness.refused(),
        ),
        (
            "connections_refused_total",
            "Connections closed because their address had too many",
            app.connections.refused(),
        ),
        (
            "bodies_refused_total",
            "Bodies refused because their address had too many on their way",
            app.bodies.refused(),
        ),
        ("requests_panicked_total", "Requests whose handler panicked", readiness.panicked()),
        (
            "quarantines_total",
            "Times that an account was found inconsistent and blocked",
            quarantines,
        ),
    ];
    for (name, help, value) in counters {
        text.one("counter", name, help, value);
    }
    let calls = metrics.calls.load(Ordering::Relaxed);
    text.one("counter", "calls_answered_total", "Paid calls that were answered", calls);
    text.head("calls_refused_total", "counter", "Paid calls that were refused, by reason");
    for (name, refused) in metrics.refusals() {
        text.value("calls_refused_total", &format!("reason=\"{name}\""), refused);
    }
    text.head("upstream_seconds", "histogram", "Time until upstreams answered, or began to stream");
    for (group, histogram) in metrics.upstreams() {
        let labels = format!("group=\"{}\"", group.name());
        histogram.write(&mut text.0, "polysystems_upstream_seconds", &labels);
    }
    text.head("ledger_commit_seconds", "histogram", "Latency of ledger commits");
    for (lane, histogram) in [("journal", &histograms.journal), ("tables", &histograms.tables)] {
        let labels = format!("lane=\"{lane}\"");
        histogram.write(&mut text.0, "polysystems_ledger_commit_seconds", &labels);
    }
    text.head(
        "ledger_merge_seconds",
        "histogram",
        "Duration of checkpoints, which bring the journal into the tables",
    );
    histograms.checkpoints.write(&mut text.0, "polysystems_ledger_merge_seconds", "");
    text.head("ledger_batch_entries", "histogram", "Ledger entries per batch");
    histograms.entries.write(&mut text.0, "polysystems_ledger_batch_entries", "");
    let fsync = metrics.fsync_micros.load(Ordering::Relaxed);
    if let Ok(fsync) = u64::try_from(fsync) {
        let help = "Latency of the last small synced write to the data directory";
        text.one("gauge", "fsync_seconds", help, seconds(fsync));
    }
    let findings = metrics.verify_findings.load(Ordering::Relaxed);
    if findings >= 0 {
        text.one("gauge", "verify_findings", "Findings of the last verification", findings);
    }
    let at = metrics.verified_at.load(Ordering::Relaxed);
    if at > 0 {
        let help = "When the last verification ended; before the first, when the server started";
        text.one("gauge", "verify_timestamp_seconds", help, at);
        let failures = metrics.verify_failures.load(Ordering::Relaxed);
        let help = "Verifications that failed to run";
        text.one("counter", "verify_failures_total", help, failures);
    }
    let revision = app.gateway.models.selling().catalogue.revision();
    text.one("gauge", "catalogue_revision", "Revision of the catalogue that is sold", revision);
    let faulty = metrics.catalogue_file_faulty.load(Ordering::Relaxed);
    let help = "1 if the file of the catalogue is faulty, and what was sold before goes on";
    text.one("gauge", "catalogue_file_faulty", help, faulty);
    text.head("webhooks_total", "counter", "Attempts to deliver webhooks, by outcome");
    for (index, outcome) in ["delivered", "failed"].into_iter().enumerate() {
        let tries = metrics.webhooks.get(index).map_or(0, |tries| tries.load(Ordering::Relaxed));
        text.value("webhooks_total", &format!("outcome=\"{outcome}\""), tries);
    }
    deployments(&mut text, app);
    sums(&mut text, app);
    of_process(&mut text);
    text.0
}

/// Requests, money and tokens.
fn sums(text: &mut Text, app: &App) {
    let Metrics { sums, requests, .. } = &*app.gateway.metrics;
    let help = "Time until requests were answered, or an answer began to stream";
    text.head("http_request_duration_seconds", "histogram", help);
    if let Some(requests) = requests.get() {
        let name = "polysystems_http_request_duration_seconds";
        requests.each(|labels, histogram| histogram.write(&mut text.0, name, labels));
    }
    text.head("spent_usd_total", "counter", "What paid calls have cost, in USD");
    for spent in sums.spent() {
        let labels = format!("environment=\"{}\"", spent.environment);
        text.value("spent_usd_total", &labels, dollars(spent.nanos));
    }
    text.head("tokens_total", "counter", "Tokens of paid calls, as they are billed");
    for spent in sums.spent() {
        for (kind, tokens) in [("prompt", spent.prompt), ("completion", spent.completion)] {
            let labels = format!("environment=\"{}\",kind=\"{kind}\"", spent.environment);
            text.value("tokens_total", &labels, tokens);
        }
    }
    text.head("credited_usd_total", "counter", "Payments that were credited, in USD, by provider");
    for (provider, nanos) in sums.credited() {
        let labels = format!("provider=\"{provider}\"");
        text.value("credited_usd_total", &labels, dollars(nanos));
    }
}

/// What program this is, and what the system says of its process.
fn of_process(text: &mut Text) {
    text.head("build_info", "gauge", "Always 1; the labels say what program this is");
    let (version, commit) = (env!("CARGO_PKG_VERSION"), COMMIT.unwrap_or("unknown"));
    let schema = crate::store::last_migration();
    let labels = format!("version=\"{version}\",commit=\"{commit}\",schema=\"{schema}\"");
    text.value("build_info", &labels, 1);
    for (name, kind, help, value) in process() {
        let _ = writeln!(text.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

/// The name of a gauge, its help, and its value.
type DeploymentGauge = (&'static str, &'static str, fn(&SeenDeployment) -> u64);

/// What is known of each deployment. Their names are the catalogue's own.
fn deployments(text: &mut Text, app: &App) {
    let seen = app.deployments.list();
    let label = |seen: &SeenDeployment| format!("deployment=\"{}\"", seen.by.deployment.name);
    let help = "Attempts at deployments, by outcome";
    text.head("deployment_attempts_total", "counter", help);
    for one in &seen {
        for outcome in AttemptOutcome::ALL {
            let labels = format!("{},outcome=\"{}\"", label(one), outcome.name());
            text.value("deployment_attempts_total", &labels, one.counts.of(outcome));
        }
    }
    let gauges: [DeploymentGauge; 4] = [
        ("deployment_in_flight", "Calls of a deployment that are running", |one| {
            u64::from(one.health.in_flight)
        }),
        ("deployment_cooling", "1 while a deployment's quota group is not asked", |one| {
            u64::from(one.health.cooling.is_some())
        }),
        ("deployment_open", "1 while the breaker of a deployment is not closed", |one| {
            u64::from(one.health.gate != Gate::Go)
        }),
        ("deployment_off", "1 while a deployment or its credential is off", |one| {
            u64::from(one.health.is_off || one.health.is_credential_off)
        }),
    ];
    for (name, help, value) in gauges {
        text.head(name, "gauge", help);
        for one in &seen {
            text.value(name, &label(one), value(one));
        }
    }
    let help = "Calls whose reported usage does not agree with itself or with what is sold";
    text.head("usage_oddities_total", "counter", help);
    for (provider, kind, count) in app.gateway.odd_usages.counts() {
        let labels = format!("provider=\"{provider}\",kind=\"{}\"", kind.name());
        text.value("usage_oddities_total", &labels, count);
    }
    let lost = app.gateway.odd_usages.lost();
    let help = "Odd usage that was not recorded, because the database was too slow";
    text.one("counter", "usage_oddities_lost_total", help, lost);
    let lost = app.gateway.attempts.lost();
    let help = "Attempts that were not recorded, because the database was too slow";
    text.one("counter", "attempts_lost_total", help, lost);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_same_or_not() {
        assert!(is_same("token", "token"));
        for other in ["", "Token", "toke", "tokens"] {
            assert!(!is_same("token", other), "{other}");
        }
    }
}
