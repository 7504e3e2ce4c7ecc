//! How logins slow down paid calls, and whether the time of a login reveals that a user exists.
//!
//! `cargo bench --bench people -- --help`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a failed measurement may panic"
)]

use std::time::{Duration, Instant};

use domain::Credits;
use serde_json::json;
use test_support::bench::Server;
use test_support::generator::{self, Load, Shape, Template};
use test_support::{Database, seed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Measures how logins slow down paid calls, and whether the time of a login reveals that a user exists.

    cargo bench --bench people -- logins [--rounds N] [--seconds N] [--calls N] [--logins N]
                                           [--hashes N] [--wrong]
    cargo bench --bench people -- timing [--samples N]

logins    the p99 of paid calls (--calls a second, 1000), alternately without and with logins (--logins a second, 200);
          --hashes is the number of hashing threads (0: half of the cores); with --wrong every login fails, so that
          nothing is written
timing    whether the time of a login or of a password reset request shows that an address is known: the area under
          the ROC curve over --samples (5000) of each; exit code 1 if it is above 0.55";

const KNOWN: &str = "user0@example.com";
const UNKNOWN: &str = "nobody@example.com";

fn main() {
    let mut command = String::new();
    let (mut rounds, mut seconds, mut calls, mut logins) = (5, 5.0, 1_000.0, 200.0);
    let (mut samples, mut hashes, mut is_wrong) = (5_000, String::from("0"), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("an option needs a value");
        match argument.as_str() {
            "--rounds" => rounds = value().parse().unwrap(),
            "--seconds" => seconds = value().parse().unwrap(),
            "--calls" => calls = value().parse().unwrap(),
            "--logins" => logins = value().parse().unwrap(),
            "--hashes" => hashes = value(),
            "--wrong" => is_wrong = true,
            "--samples" => samples = value().parse().unwrap(),
            "--bench" => {}
            name if !name.starts_with('-') => name.clone_into(&mut command),
            _ => return println!("{HELP}"),
        }
    }
    match command.as_str() {
        "logins" => {
            let time = Duration::from_secs_f64(seconds);
            let body = if is_wrong { login("nobody@example.com") } else { login(KNOWN) };
            cost_of_logins(rounds, time, calls, logins, &hashes, &body);
        }
        "timing" => timing(samples),
        _ => println!("{HELP}"),
    }
}

fn login(email: &str) -> String {
    json!({ "email": email, "password": "SecurePassword123!" }).to_string()
}

fn cost_of_logins(
    rounds: usize,
    time: Duration,
    calls: f64,
    logins: f64,
    hashes: &str,
    body: &str,
) {
    let database = Database::sqlite();
    let balance = Credits::from_nanos(1_000_000_000_000_000);
    let callers = seed::accounts(&database, "paid", 1_000, balance);
    let settings = [("POLYSYSTEMS_AUTH__PASSWORD_HASHES_MAX", hashes)];
    let server = Server::start(&database, &settings);
    server.session(0);
    let load = |template, shape, connections| Load {
        address: server.url["http://".len()..].to_owned(),
        template,
        connections,
        shape,
        warm_up: Duration::from_secs(1),
        time,
        requests_max: None,
    };
    let hello = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
    let paid = || {
        let template = Template::new("POST", "/api/hub/agents/chat", "x-api-key", &callers, hello);
        generator::run(load(template, Shape::Open(calls), 64))
    };
    println!(
        "paid calls at {calls}/s, 64 connections, 1000 accounts, SQLite; logins at {logins}/s"
    );
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let alone = paid();
        let (beside, others) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let callers = [String::from("a")];
                let template =
                    Template::new("POST", "/api/auth/login", "x-nothing", &callers, body);
                generator::run(load(template, Shape::Open(logins), 256))
            });
            let beside = paid();
            (beside, flood.join().unwrap())
        });
        let (before, after) = (alone.percentile(99.0), beside.percentile(99.0));
        let answered = others.answers() - others.others(200);
        println!(
            "round {}: p50 {:.2} / {:.2} ms, p99 {before:.2} / {after:.2} ms ({:.2}); {answered} logins answered 200, \
             {} otherwise",
            round + 1,
            alone.percentile(50.0),
            beside.percentile(50.0),
            after / before,
            others.others(200),
        );
        ratios.push(after / before);
    }
    ratios.sort_by(f64::total_cmp);
    println!("p99 of paid calls beside logins, of alone: {:.2} (median)", ratios[ratios.len() / 2]);
}

/// The probability that one of `these` is longer than one of `those`; ties count half. This is the
/// area under the ROC curve.
fn area(these: &[f64], those: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = these.iter().map(|time| (*time, true)).collect();
    all.extend(those.iter().map(|time| (*time, false)));
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut rank_sum, mut start) = (0.0, 0);
    while start < all.len() {
        let end = start
            + all[start..].iter().take_while(|one| one.0.total_cmp(&all[start].0).is_eq()).count();
        let rank = (start + end + 1) as f64 / 2.0;
        rank_sum += rank * all[start..end].iter().filter(|(_, is_these)| *is_these).count() as f64;
        start = end;
    }
    let (one, other) = (these.len() as f64, those.len() as f64);
    (rank_sum - one * (one + 1.0) / 2.0) / (one * other)
}

/// The medians of groups of `of` attempts.
fn medians(times: &[f64], of: usize) -> Vec<f64> {
    times
        .chunks_exact(of)
        .map(|chunk| {
            let mut chunk = chunk.to_vec();
            chunk.sort_by(f64::total_cmp);
            chunk[of / 2]
        })
        .collect()
}

fn timing(samples: usize) {
    // Computed by hand: equal, apart, and one between the others.
    for (these, those, expected) in [
        ([1.0, 2.0], [1.0, 2.0], 0.5),
        ([3.0, 4.0], [1.0, 2.0], 1.0),
        ([1.0, 4.0], [2.0, 3.0], 0.5),
    ] {
        assert!((area(&these, &those) - expected).abs() < 1e-9);
    }
    let database = Database::sqlite();
    let server = Server::start(&database, &[]);
    server.session(0);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut worst: f64 = 0.5;
    test_support::run(async {
        let wrong = |email: &str| json!({ "email": email, "password": "not their password" });
        let forgot = |email: &str| json!({ "email": email });
        for (path, body) in [
            ("/api/auth/login", &wrong as &dyn Fn(&str) -> serde_json::Value),
            ("/api/auth/forgot-password", &forgot),
            ("/api/auth/resend-verification", &forgot),
        ] {
            let url = format!("{}{path}", server.url);
            let bodies = [KNOWN, UNKNOWN].map(|email| body(email).to_string());
            let mut times = [Vec::new(), Vec::new()];
            for sample in 0..samples + 50 {
                // Alternates which is measured first.
                for place in [sample % 2, 1 - sample % 2] {
                    let request = client.post(&url).body(bodies[place].clone());
                    let begun = Instant::now();
                    let answer = request.send().await.unwrap();
                    answer.bytes().await.unwrap();
                    if sample >= 50 {
                        times[place].push(begun.elapsed().as_secs_f64());
                    }
                }
            }
            let [known, unknown] = &times;
            let told = |known: &[f64], unknown: &[f64]| {
                let area = area(known, unknown);
                area.max(1.0 - area)
            };
            let single = told(known, unknown);
            let (of_10, of_50) = (
                told(&medians(known, 10), &medians(unknown, 10)),
                told(&medians(known, 50), &medians(unknown, 50)),
            );
            let median = |times: &[f64]| medians(times, times.len())[0] * 1_000.0;
            println!(
                "{path}: {samples} each, median {:.3} / {:.3} ms, AUC {single:.3}; of medians of 10 tries {of_10:.3}, of \
                 50 {of_50:.3}",
                median(known),
                median(unknown)
            );
            worst = worst.max(single);
        }
    });
    if worst > 0.55 {
        println!("above 0.55");
        std::process::exit(1);
    }
}
