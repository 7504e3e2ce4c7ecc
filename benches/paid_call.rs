//! A paid call to the sandbox, durable, beside a bare actix-web handler with the same answer.
//!
//! `cargo bench --bench paid_call` starts the real server on SQLite and on PostgreSQL, makes 100 accounts
//! over HTTP, and drives each case with `wrk` (64 connections), all in one run, so that the ratios compare.
//! Needs `wrk`, and PostgreSQL's server programs for the second half. `ROUND_SECONDS` and `ROUNDS` change the
//! length.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "a measurement that fails by a panic has said so"
)]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use actix_web::{App, HttpResponse, HttpServer, web};

mod support;

use support::{Server, commit_micros, database};

const ACCOUNTS: usize = 100;
const CONNECTIONS: &str = "64";
const ANSWER: &str = concat!(
    r#"{"created":1795476412,"finish_reason":"stop","id":"chat-01a20abbd9d476398bd0156e1b066777","#,
    r#""message":{"content":"This is a simulated answer of the Polysystems sandbox. You wrote: Hello!","#,
    r#""role":"assistant"},"model":"polysystems-sandbox","object":"agent.chat","simulated":true,"#,
    r#""usage":{"completion_tokens":17,"prompt_tokens":9,"total_tokens":26}}"#
);

/// What wrk measured.
struct Measured {
    per_second: f64,
    p50: String,
    p99: String,
    errors: String,
}

fn wrk(url: &str, keys: &[String], folder: &Path) -> Measured {
    let mut script = String::from("local keys = {");
    for key in keys {
        write!(script, "'{key}',").unwrap();
    }
    script.push_str(
        "}\nlocal n = 0\nlocal body = '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'\n\
         request = function()\n n = n % #keys + 1\n\
         return wrk.format('POST', '/api/hub/agents/chat', {['X-API-Key'] = keys[n], \
         ['Content-Type'] = 'application/json'}, body)\nend\n",
    );
    let path = folder.join("wrk.lua");
    std::fs::write(&path, script).unwrap();
    let seconds = format!("{}s", std::env::var("ROUND_SECONDS").unwrap_or("10".into()));
    let output = Command::new("wrk")
        .args(["-t1", "-c", CONNECTIONS, "-d", &seconds, "--latency", "-s"])
        .arg(&path)
        .arg(url)
        .output()
        .expect("needs wrk; install Debian's package wrk");
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or("-").to_owned()
    };
    let errors =
        text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    Measured {
        per_second: after("Requests/sec:").parse().unwrap_or_else(|_| panic!("{text}")),
        p50: after("50%"),
        p99: after("99%"),
        errors: errors.unwrap_or_default().trim().to_owned(),
    }
}

/// Serves the same answer with nothing in between.
fn bare() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(|| {
        actix_web::rt::System::new().block_on(async move {
            let app = || {
                App::new().route(
                    "/api/hub/agents/chat",
                    web::post().to(|_: web::Bytes| async {
                        HttpResponse::Ok()
                            .insert_header(("x-polysystems-upstream", "sandbox"))
                            .insert_header(("x-polysystems-cost", "0.00226"))
                            .insert_header(("x-polysystems-balance", "99999.99774"))
                            .insert_header((
                                "x-request-id",
                                "req-01a20abb-d9d4-7639-8bd0-156e1b066777",
                            ))
                            .content_type("application/json")
                            .body(ANSWER)
                    }),
                )
            };
            let server = HttpServer::new(app).workers(2).listen(listener).unwrap();
            server.disable_signals().run().await.unwrap();
        });
    });
    url
}

fn main() {
    let rounds: usize = std::env::var("ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let folder: PathBuf = tempfile::tempdir().unwrap().keep();
    let bare = bare();
    let mut cases = Vec::new();
    for (name, database) in [
        ("SQLite", database::Database::sqlite()),
        ("PostgreSQL", database::Database::durable_postgres()),
    ] {
        let server = Server::start(&database, &[]);
        let keys: Vec<String> = (0..ACCOUNTS).map(|number| server.account(number)).collect();
        cases.push((name, database, server, keys));
    }
    println!("{ACCOUNTS} accounts, {CONNECTIONS} connections, wrk on the same machine");
    println!(
        "{:<12}{:>12}{:>10}{:>12}{:>12}{:>12}",
        "case", "req/s", "of bare", "p50", "p99", "fsync p50"
    );
    for _ in 0..rounds {
        let floor = wrk(&bare, &["x".to_owned()], &folder);
        println!(
            "{:<12}{:>12.0}{:>10}{:>12}{:>12}",
            "bare", floor.per_second, "1.00", floor.p50, floor.p99
        );
        for (name, _, server, keys) in &cases {
            let measured = wrk(&server.url, keys, &folder);
            let ratio = measured.per_second / floor.per_second;
            println!(
                "{name:<12}{:>12.0}{ratio:>10.2}{:>12}{:>12}{:>9} us {}",
                measured.per_second,
                measured.p50,
                measured.p99,
                commit_micros(&folder),
                measured.errors
            );
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}
