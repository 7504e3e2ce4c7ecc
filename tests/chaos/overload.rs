//! Overload, and a neighbour who uses all capacity.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::cases::customers;
use crate::ledger::Ledger;
use crate::load::{Log, Mix, join, load, open_loop, percentile};
use crate::support::Database;
use crate::support::process::{Process, verify};
use crate::support::upstream::{Script, Upstream};

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// The upstream takes 20 ms, and a limited number of calls may run. This sets the server's
/// capacity, independent of the machine.
const UPSTREAM: Duration = Duration::from_millis(20);

async fn process(database: &Database, upstream: &Upstream, calls_max: usize) -> Process {
    let url = upstream.url();
    Process::start_with(database, |command| {
        command
            .env("POLYSYSTEMS_UPSTREAMS__V1__URL", url)
            .env("POLYSYSTEMS_SERVER__CALLS_MAX", calls_max.to_string())
            .env("POLYSYSTEMS_LOG__LEVEL", "off")
            .stderr(std::process::Stdio::null());
    })
    .await
}

fn answer() -> Script {
    let body = r#"{"choices":[{"message":{"content":"Hello."}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;
    Script::Slow(UPSTREAM, body.into())
}

/// Ten times the capacity: the server still serves as much as it can, and refuses the rest at once.
pub(crate) async fn overload(plan: Plan, database: Database) {
    let seconds = plan.seconds(5, 60);
    let calls_max = if plan.is_full { 24 } else { 8 };
    let upstream = Upstream::start(answer()).await;
    let process = process(&database, &upstream, calls_max).await;
    let (customers, names) = customers(&process, "over", 20, 10_000).await;
    let mut ledger = Ledger::of(&database, &names).await;
    let log = Arc::new(Log::default());

    // First measure the capacity, with as many callers as calls may run.
    let begun = Instant::now();
    let tasks = load(process.address(), &customers, calls_max, Mix::Upstream, true, &log);
    tokio::time::sleep(Duration::from_secs(3)).await;
    log.stop();
    join(tasks).await;
    let peak =
        log.between(begun + Duration::from_secs(1), begun + Duration::from_secs(3), 200).len();
    let peak = peak as f64 / 2.0;
    ledger.compare(&database, &log).await.check();

    let log = Arc::new(Log::default());
    let memory = resident_kib(process.id());
    let offered = peak * 10.0;
    let begun = Instant::now();
    let goodput =
        open_loop(process.address(), &customers, offered, seconds as f64, 400, Mix::Upstream, &log)
            .await;
    let ended = Instant::now();
    let memory_after = resident_kib(process.id());
    let rejects = log.between(begun, ended, 503);
    let accepted = log.between(begun, ended, 200);
    let busy = log.between(begun, ended, 429).len();
    let unsent = log.unsent.load(Ordering::SeqCst);
    let compared = ledger.compare(&database, &log).await;
    compared.check();

    // Measure again after the overload.
    let log = Arc::new(Log::default());
    let begun = Instant::now();
    let tasks = load(process.address(), &customers, calls_max, Mix::Upstream, true, &log);
    tokio::time::sleep(Duration::from_secs(2)).await;
    log.stop();
    join(tasks).await;
    let second = Duration::from_secs(1);
    let after = log.between(begun + second, begun + second * 2, 200).len() as f64;
    ledger.compare(&database, &log).await.check();

    println!(
        "  peak {peak:.0}/s; offered {offered:.0}/s for {seconds} s ({unsent} could not be sent): goodput {goodput:.0}/s \
         ({:.2} of peak), accepted p99 {:.1} ms, {} rejects (503) p50 {:.1} ms p99 {:.1} ms, {busy} of 429; \
         afterwards {after:.0}/s within a second; memory {:+.1} MiB",
        goodput / peak,
        percentile(accepted, 99) as f64 / 1_000.0,
        rejects.len(),
        percentile(rejects.clone(), 50) as f64 / 1_000.0,
        percentile(rejects.clone(), 99) as f64 / 1_000.0,
        (memory_after as f64 - memory as f64) / 1_024.0,
    );
    // Other work may share the machine. So the test asserts only that throughput does not collapse;
    // the numbers are printed above.
    assert!(goodput >= peak * 0.5, "goodput collapses");
    assert!(!rejects.is_empty() && after >= peak * 0.5);
    drop(process);
    verify(&database);
}

/// The same load twice: spread over all accounts, and with four fifths of it from one account.
pub(crate) async fn neighbour(plan: Plan, database: Database) {
    let (rounds, seconds) = (plan.rounds(2, 5), plan.seconds(3, 10));
    let process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_LOG__LEVEL", "off").stderr(std::process::Stdio::null());
    })
    .await;
    let (quiet, mut names) = customers(&process, "quiet", 20, 10_000).await;
    let (noisy, more) = customers(&process, "noisy", 1, 10_000).await;
    names.extend(more);
    let mut ledger = Ledger::of(&database, &names).await;
    let rate = if plan.is_full { 2_000.0 } else { 1_000.0 };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for is_noisy in [false, true] {
            let (log, other) = (Arc::new(Log::default()), Arc::new(Log::default()));
            let others = if is_noisy { &noisy } else { &quiet };
            let seconds = seconds as f64;
            let begun = Instant::now();
            tokio::join!(
                open_loop(process.address(), &quiet, rate * 0.2, seconds, 40, Mix::Plain, &log),
                open_loop(process.address(), others, rate * 0.8, seconds, 60, Mix::Plain, &other),
            );
            let p99 = percentile(log.between(begun, Instant::now(), 200), 99);
            if is_noisy { &mut beside } else { &mut alone }.push(p99);
            let mut all = other.acknowledged.lock().unwrap().clone();
            log.acknowledged.lock().unwrap().append(&mut all);
            log.unknown.fetch_add(other.unknown.load(Ordering::SeqCst), Ordering::SeqCst);
            ledger.compare(&database, &log).await.check();
        }
    }
    let (alone, beside) = (percentile(alone, 50), percentile(beside, 50));
    println!(
        "  {rate:.0} calls/s: p99 of the quiet accounts {:.2} ms where all are alike, {:.2} ms beside one with 80 % \
         (ratio {:.2}; medians of {rounds})",
        alone as f64 / 1_000.0,
        beside as f64 / 1_000.0,
        beside as f64 / alone as f64
    );
    drop(process);
    verify(&database);
}
