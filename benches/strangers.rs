//! What 10,000 idle or slow strangers take from a customer who pays.
//!
//! `cargo bench --bench strangers` starts the real server with its default limits, on SQLite and on
//! PostgreSQL. One customer makes paid calls at a steady rate. Then strangers from 20 addresses
//! hold connections, and open each that is closed anew after 20 s: idle sockets, half heads, half
//! bodies, an `Upgrade`, and bodies of 10 MB that stop. It prints the customer's times, the
//! server's memory and what readiness says, before and during.
//!
//! `STRANGERS` and `ROUND_SECONDS` change the sizes.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::as_conversions,
    reason = "a failed measurement may panic"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use test_support::bench::Server;
use test_support::database::Database;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Paid calls a second.
const RATE: u64 = 500;
/// Connections of the customer.
const CUSTOMERS: usize = 8;
/// Addresses of the strangers.
const ADDRESSES: usize = 20;
/// How long a stranger waits who was refused.
const PAUSE: Duration = Duration::from_secs(20);
/// What a stranger sends of a body at once.
const PIECE: [u8; 16_384] = [b' '; 16_384];

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads an answer whose body has a length, and returns its status.
async fn answer(stream: &mut TcpStream) -> Option<u16> {
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => text.extend_from_slice(&piece[..count]),
        }
        let head = String::from_utf8_lossy(&text).to_ascii_lowercase();
        let Some((head, body)) = head.split_once("\r\n\r\n") else { continue };
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?;
        let length: usize = length.parse().ok()?;
        if body.len() >= length {
            return head.split(' ').nth(1)?.parse().ok();
        }
    }
}

/// The times of a customer's paid calls, and how many were not answered with 200.
async fn calls(address: SocketAddr, key: String) -> (Vec<Duration>, usize) {
    let rounds = number("ROUND_SECONDS", 10) as u64 * RATE / CUSTOMERS as u64;
    let tasks: Vec<_> = (0..CUSTOMERS)
        .map(|_| {
            let key = key.clone();
            tokio::spawn(async move {
                let body = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
                let request = format!(
                    "POST /api/hub/agents/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
                     content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut stream = TcpStream::connect(address).await.unwrap();
                let mut period =
                    tokio::time::interval(Duration::from_micros(1_000_000 * CUSTOMERS as u64 / RATE));
                let (mut times, mut failed) = (Vec::new(), 0);
                for _ in 0..rounds {
                    period.tick().await;
                    let begun = Instant::now();
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let answered = timeout(Duration::from_secs(10), answer(&mut stream)).await;
                    match answered.ok().flatten() {
                        Some(200) => times.push(begun.elapsed()),
                        _ => failed += 1,
                    }
                }
                (times, failed)
            })
        })
        .collect();
    let (mut all, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (times, missed) = task.await.unwrap();
        all.extend(times);
        failed += missed;
    }
    all.sort_unstable();
    (all, failed)
}

/// Holds a connection in one of five ways until it is closed.
async fn bother(address: SocketAddr, number: usize) -> Option<()> {
    let socket = TcpSocket::new_v4().ok()?;
    let from = Ipv4Addr::new(127, 0, 2, u8::try_from(1 + number % ADDRESSES).ok()?);
    socket.bind((from, 0).into()).ok()?;
    let mut stream = socket.connect(address).await.ok()?;
    let (head, has_body) = match number % 5 {
        0 => (String::new(), false),
        1 => ("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-half: ".to_owned(), false),
        2 => (
            "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 200\r\n\r\n{\"email\": "
                .to_owned(),
            false,
        ),
        3 => (
            "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
                .to_owned(),
            false,
        ),
        _ => (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 10000000\r\n\r\n"
                .to_owned(),
            true,
        ),
    };
    stream.write_all(head.as_bytes()).await.ok()?;
    if has_body {
        // Most of it, as far as it is taken.
        for _ in 0..600 {
            timeout(Duration::from_secs(1), stream.write_all(&PIECE)).await.ok()?.ok()?;
        }
    }
    let mut piece = [0; 1_024];
    while stream.read(&mut piece).await.ok()? > 0 {}
    Some(())
}

/// How many connections the strangers hold, and how many were ended.
#[derive(Default)]
struct Held {
    open: AtomicUsize,
    ended: AtomicUsize,
    is_over: AtomicBool,
}

fn report(what: &str, times: &[Duration], failed: usize, server: &Server) -> (f64, u64) {
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let resident = resident_kib(server.id());
    let (p50, p99) = (at(50), at(99));
    println!(
        "{what:<28}{:>8}{failed:>8}{p50:>10.2}{p99:>10.2}{:>12}",
        times.len(),
        resident / 1_024
    );
    (p99, resident)
}

async fn ready(address: SocketAddr) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
    timeout(Duration::from_secs(5), answer(&mut stream)).await.ok()?
}

async fn measure(server: &Server, key: String) {
    let address: SocketAddr = server.url.trim_start_matches("http://").parse().unwrap();
    let (warm, _) = calls(address, key.clone()).await;
    assert!(!warm.is_empty(), "no call was answered");
    let (times, failed) = calls(address, key.clone()).await;
    let (p99_before, before) = report("alone", &times, failed, server);
    let (held, count) = (Arc::new(Held::default()), number("STRANGERS", 10_000));
    for number in 0..count {
        let held = Arc::clone(&held);
        tokio::spawn(async move {
            while !held.is_over.load(Ordering::Relaxed) {
                held.open.fetch_add(1, Ordering::Relaxed);
                bother(address, number).await;
                held.open.fetch_sub(1, Ordering::Relaxed);
                held.ended.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (times, failed) = calls(address, key).await;
    let (p99_during, during) = report("beside the strangers", &times, failed, server);
    println!(
        "    {} of {count} connections open, {} were ended; ready answers {:?}; memory +{} MiB; p99 {:.1} times",
        held.open.load(Ordering::Relaxed),
        held.ended.load(Ordering::Relaxed),
        ready(address).await,
        during.saturating_sub(before) / 1_024,
        p99_during / p99_before,
    );
    held.is_over.store(true, Ordering::Relaxed);
}

fn main() {
    println!("{RATE} paid calls a second on {CUSTOMERS} connections; all on one machine\n");
    println!(
        "{:<28}{:>8}{:>8}{:>10}{:>10}{:>12}",
        "", "calls", "failed", "p50 ms", "p99 ms", "MiB"
    );
    for (name, database) in
        [("SQLite", Database::sqlite()), ("PostgreSQL", Database::durable_postgres())]
    {
        println!("{name}");
        let server = Server::start(&database, &[]);
        let key = server.account(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(measure(&server, key));
        drop(runtime);
    }
}
