//! The server with a million accounts and ten million ledger rows, all of them in use.
//!
//! `cargo bench --bench scale -- --help`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a failed measurement may panic"
)]

use std::time::{Duration, Instant};

mod history;

use test_support::Database;
use test_support::bench::Server;
use test_support::generator::{self, Load, Measured, Shape, Template};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELLO: &str = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
const SANDBOX: &str = "/api/hub/agents/chat";
/// Most accounts that are called.
const CALLERS_MAX: usize = 1_000_000;

/// After this time, the actors of all idle accounts have stopped.
const ASLEEP: Duration = Duration::from_secs(50);

const HELP: &str = "\
Fills a database with accounts and their histories, and measures the server on it: start, first calls of cold accounts,
memory for each account, throughput by the number of accounts, lists, and memory with a bound on accounts in memory.

    cargo bench --bench scale -- [OPTIONS]

Options:
    --accounts N      accounts with a key and a history (1000000)
    --rows N          ledger rows, and as many usage records, spread evenly (10000000)
    --database KIND   sqlite or postgres (both)
    --rounds N        rounds of the throughput (5)
    --seconds N       length of each round, in seconds (3)
    --bound N         most accounts in memory in the last part (100000)
    --bounded N       length of the last part, in seconds (60)
    --only-bounded    run only the last part, for more accounts than fit into memory";

#[derive(Clone, Copy)]
struct Plan {
    accounts: usize,
    rows: usize,
    rounds: usize,
    time: Duration,
    bound: usize,
    bounded: Duration,
    is_only_bounded: bool,
}

fn main() {
    let mut plan = Plan {
        accounts: 1_000_000,
        rows: 10_000_000,
        rounds: 5,
        time: Duration::from_secs(3),
        bound: 100_000,
        bounded: Duration::from_mins(1),
        is_only_bounded: false,
    };
    let mut kind = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("an option needs a value");
        let number = |text: String| text.parse::<usize>().expect("a number");
        match argument.as_str() {
            "--accounts" => plan.accounts = number(value()),
            "--rows" => plan.rows = number(value()),
            "--rounds" => plan.rounds = number(value()),
            "--seconds" => plan.time = Duration::from_secs(number(value()) as u64),
            "--bound" => plan.bound = number(value()),
            "--bounded" => plan.bounded = Duration::from_secs(number(value()) as u64),
            "--only-bounded" => plan.is_only_bounded = true,
            "--database" => kind = Some(value()),
            "--help" | "-h" => return println!("{HELP}"),
            "--bench" => {}
            other => panic!("{other} is not known; --help tells"),
        }
    }
    let kinds = [
        ("sqlite", "SQLite", Database::sqlite as fn() -> Database),
        ("postgres", "PostgreSQL", Database::durable_postgres),
    ];
    for (name, title, make) in kinds {
        if kind.as_ref().is_none_or(|kind| kind == name) {
            println!("{title}");
            measure(plan, make);
        }
    }
}

fn measure(plan: Plan, make: fn() -> Database) {
    let empty = make();
    let few = history::write(&empty, 100, 0);
    let database = make();
    let begun = Instant::now();
    let keys = history::write(&database, plan.accounts, plan.rows);
    println!(
        "  {:<58}{:>10.0} s",
        "accounts and histories written in",
        begun.elapsed().as_secs_f64()
    );

    if plan.is_only_bounded {
        return bounded(plan, &database, &keys);
    }
    // Accounts do not leave memory for being idle during this run.
    let all = (plan.accounts + 1_000).to_string();
    let settings = [
        ("POLYSYSTEMS_ACCOUNTS__RESIDENT_MAX", all.as_str()),
        ("POLYSYSTEMS_ACCOUNTS__IDLE_SECONDS", "86400"),
    ];
    let begun = Instant::now();
    let server = Server::start(&database, &settings);
    say(
        "ready after the start, with the first call answered",
        {
            let measured = call(&server, &keys[..1], 1, Some(1), Duration::from_mins(1));
            assert_eq!(measured.answers(), 1);
            begun.elapsed().as_secs_f64() * 1_000.0
        },
        "ms",
    );
    let cold = |first: usize, connections: usize| {
        let some = &keys[first..first + plan.accounts / 100];
        let measured = call(&server, some, connections, Some(some.len()), Duration::from_mins(10));
        for percent in [50.0, 99.0, 99.9] {
            let what = format!("first call of a cold account, {connections} at once, p{percent}");
            say(&what, measured.percentile(percent), "ms");
        }
    };
    cold(1, 1);
    cold(plan.accounts / 10, 16);

    let before = resident_bytes(&server);
    let called = 2 * plan.accounts / 100;
    let measured = call(&server, &keys, 64, Some(keys.len()), Duration::from_hours(1));
    assert_eq!(measured.others(200), 0, "{:?}", measured.statuses);
    let after = resident_bytes(&server);
    let each = (after - before) / (plan.accounts - called) as f64;
    say("memory for each account, its key and what is cached", each, "bytes");
    say("memory of the process then", after / 1_048_576.0, "MiB");

    // Wait until a sweep has visited every account and stopped its actor.
    std::thread::sleep(ASLEEP);
    let each = (resident_bytes(&server) - before) / (plan.accounts - called) as f64;
    say("the same when all of them sleep", each, "bytes");

    let mut counts = vec![100, 10_000, plan.accounts];
    counts.retain(|count| *count <= plan.accounts);
    counts.dedup();
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); counts.len() + 1];
    // It takes nothing while it is not called.
    let of_few = Server::start(&empty, &settings);
    call(&of_few, &few, 64, Some(few.len()), plan.time);
    for _ in 0..plan.rounds {
        found[counts.len()].push(call(&of_few, &few, 64, None, plan.time).per_second);
        for (place, count) in counts.iter().enumerate() {
            found[place].push(call(&server, &keys[..*count], 64, None, plan.time).per_second);
        }
    }
    drop((server, of_few));
    let medians: Vec<f64> = found.iter_mut().map(|found| median(found)).collect();
    say("paid calls, 100 accounts, a database without history", medians[counts.len()], "/s");
    for (count, median) in counts.iter().zip(&medians) {
        say(&format!("paid calls, {count} accounts, with all histories"), *median, "/s");
        say("    of that without history", median / medians[counts.len()], "");
    }

    bounded(plan, &database, &keys);
}

/// Calls all accounts in turn, with only few in memory, so that each was evicted before its call.
fn bounded(plan: Plan, database: &Database, keys: &[String]) {
    let settings = [("POLYSYSTEMS_ACCOUNTS__RESIDENT_MAX", plan.bound.to_string())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = Server::start(database, &settings);
    let callers = &keys[..keys.len().min(CALLERS_MAX)];
    let parts = 6;
    for part in 1..=parts {
        let measured = call(&server, callers, 64, None, plan.bounded / parts);
        let seconds = (plan.bounded * part / parts).as_secs();
        let what = format!(
            "at most {} in memory, after {seconds} s, {:.0} calls/s",
            plan.bound, measured.per_second
        );
        say(&what, resident_bytes(&server) / 1_048_576.0, "MiB");
    }
}

fn say(what: &str, number: f64, unit: &str) {
    let number = if number < 10.0 { format!("{number:.2}") } else { format!("{number:.0}") };
    println!("  {what:<58}{number:>10} {unit}");
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Calls with these keys in turn.
fn call(
    server: &Server,
    callers: &[String],
    connections: usize,
    requests_max: Option<usize>,
    time: Duration,
) -> Measured {
    generator::run(Load {
        address: server.url["http://".len()..].to_owned(),
        template: Template::new("POST", SANDBOX, "x-api-key", callers, HELLO),
        connections,
        shape: Shape::Closed,
        warm_up: Duration::ZERO,
        time,
        requests_max,
    })
}

fn resident_bytes(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let status = status.expect("needs Linux's /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kibibytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1_024.0
}
