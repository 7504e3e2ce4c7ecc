//! The figures for monitoring, in Prometheus' text format (version 0.0.4), read where they are kept.
//!
//! Every queue and every bound of the process has its figure here, under the name of its setting.

use std::fmt::Write as _;

use actix_web::HttpResponse;
use actix_web::web::Data;

use super::App;
use crate::actors::ledger_writer::WriterState;

/// `GET /metrics` on `server.metrics_bind`.
pub async fn metrics(app: Data<App>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text(&app))
}

fn text(app: &App) -> String {
    let (readiness, directory) = (&app.readiness, &app.gateway.directory);
    let writer = app.gateway.ledger.figures();
    let (quarantined, quarantines) = directory.quarantined();
    let is = |state: WriterState| usize::from(writer.state == state);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let age_ms = usize::try_from(writer.age.as_millis()).unwrap_or(usize::MAX);
    let gauges: [(&str, &str, usize); 14] = [
        ("requests", "Requests being handled", readiness.requests()),
        ("calls", "Paid calls that run, streams included", readiness.running()),
        ("body_bytes", "Bytes of request bodies in memory", readiness.body_bytes()),
        ("ready", "Are new calls taken?", usize::from(readiness.is_ready())),
        ("accounts_resident", "Accounts in memory", directory.len()),
        ("accounts_quarantined", "Accounts whose records do not agree", quarantined),
        ("charges_open", "Charges that have not ended", directory.open_charges()),
        ("ledger_queue", "Writes that wait for their commit", writer.queued),
        ("ledger_queue_bytes", "What they cost in memory", writer.bytes),
        ("ledger_age_milliseconds", "How long the oldest of them waits", age_ms),
        ("ledger_unmerged", "Writes in the journal, and not in the tables", writer.unmerged),
        ("ledger_overloaded", "Does it wait too long?", is(WriterState::Overloaded)),
        ("ledger_unavailable", "Does the database not answer?", is(WriterState::Unavailable)),
        ("ledger_fenced", "Do the accounts belong to another process?", is(WriterState::Fenced)),
    ];
    let counters: [(&str, &str, usize); 4] = [
        ("ledger_batches_total", "Batches committed", count(writer.batches)),
        (
            "requests_refused_total",
            "Requests refused, since as many ran as may",
            count(readiness.refused()),
        ),
        ("requests_panicked_total", "Requests whose handler panicked", count(readiness.panicked())),
        ("quarantines_total", "Accounts found not to agree", count(quarantines)),
    ];
    let mut text = String::new();
    let kinds = gauges.map(|line| ("gauge", line)).into_iter();
    for (kind, (name, help, value)) in kinds.chain(counters.map(|line| ("counter", line))) {
        let name = format!("polysystems_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    text
}
