//! Fault-injection tests. They start the real server and drive load over HTTP. They kill, cut,
//! freeze and overload it, and compare the clients' own log of answers with the database.
//!
//! `cargo test --features failpoints --test chaos -- --help`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::float_arithmetic,
    clippy::too_many_lines,
    clippy::unchecked_time_subtraction,
    clippy::large_stack_arrays,
    clippy::if_not_else,
    clippy::assertions_on_constants,
    clippy::cast_precision_loss,
    reason = "a test that fails by a panic has done its work"
)]

use std::time::Instant;

use test_support as support;

mod bills;
mod cases;
mod disk;
mod ledger;
mod load;
mod overload;
mod proxy;

/// How often and how long cases run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of rounds; each case has its own default.
    rounds: Option<usize>,
    /// Seconds of a measurement; each case has its own default.
    seconds: Option<u64>,
    /// Does every round have its full length?
    is_full: bool,
}

impl Plan {
    fn rounds(&self, short: usize, full: usize) -> usize {
        self.rounds.unwrap_or(if self.is_full { full } else { short })
    }

    fn seconds(&self, short: u64, full: u64) -> u64 {
        self.seconds.unwrap_or(if self.is_full { full } else { short })
    }
}

const HELP: &str = "\
Breaks the server, and checks that no money is lost, doubled or overspent.

    cargo test [--release] --features failpoints --test chaos -- [OPTIONS] [CASE...]

Options:
    --rounds N        rounds of each case
    --seconds N       length of faults and load, in seconds
    --full            run each case in full length; the default is short, as in CI
    --database KIND   sqlite or postgres (both)
    --list            list the cases

CASE is the beginning of a case's name.";

fn main() {
    let mut plan = Plan { rounds: None, seconds: None, is_full: false };
    let (mut database, mut chosen, mut is_list) = (None, Vec::new(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("an option needs a value");
        match argument.as_str() {
            "--rounds" => plan.rounds = Some(value().parse().expect("--rounds takes a number")),
            "--seconds" => plan.seconds = Some(value().parse().expect("--seconds takes a number")),
            "--database" => database = Some(value()),
            "--full" => plan.is_full = true,
            "--list" => is_list = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return;
            }
            // Options of Rust's own test runner are ignored.
            "--nocapture" | "--exact" | "-q" | "--quiet" => {}
            "--test-threads" => drop(value()),
            name if !name.starts_with('-') => chosen.push(argument),
            other => panic!("{other} is not a known option; see --help"),
        }
    }
    let cases = cases::all();
    let is_chosen = |name: &str| {
        let kind = name.rsplit(' ').next().unwrap();
        database.as_deref().is_none_or(|database| database == kind)
            && (chosen.is_empty() || chosen.iter().any(|start| name.starts_with(start.as_str())))
    };
    if is_list {
        for (name, _) in &cases {
            println!("{name}");
        }
        return;
    }
    assert!(
        cfg!(feature = "failpoints"),
        "the harness needs a server with failpoints: cargo test --features failpoints, or tests/run"
    );
    assert!(cases.iter().any(|(name, _)| is_chosen(name)), "there is no such case; see --list");
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, case) in cases.into_iter().filter(|(name, _)| is_chosen(name)) {
        println!("chaos: {name} ...");
        let begun = Instant::now();
        let result = std::panic::catch_unwind(|| case(plan));
        let seconds = begun.elapsed().as_secs_f32();
        if result.is_ok() {
            passed += 1;
            println!("chaos: {name} ... ok, {seconds:.1} s");
        } else {
            println!("chaos: {name} ... FAILED, {seconds:.1} s");
            failed.push(name);
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}
