//! Streams through the server, compared with the upstream and with nginx as a plain proxy, in one
//! run.
//!
//! `cargo bench --bench streams` starts an upstream that streams chat chunks, nginx in front of it
//! if it is installed, and the real server on SQLite and on PostgreSQL. It measures:
//! 1. the time to the first chunk with 200 concurrent streams, each of 20 chunks 20 ms apart;
//! 2. streams of 100 chunks without pauses, 64 at once;
//! 3. the server's memory with 5,000 open streams, whose readers either keep up with a slow
//!    upstream or do not read what a fast upstream sends.
//!
//! `ROUND_SECONDS`, `ROUNDS` and `OPEN_STREAMS` change the lengths.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a failed measurement may panic"
)]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::bench::{Running, Server, commit_micros};
use test_support::database;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ACCOUNTS: usize = 20;
const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// How the upstream streams. The request's model selects it.
#[derive(Clone, Copy)]
struct Shape {
    model: &'static str,
    chunks: usize,
    pause: Duration,
    words: usize,
}

const PACED: Shape =
    Shape { model: "paced", chunks: 20, pause: Duration::from_millis(20), words: 1 };
const FAST: Shape = Shape { model: "fast", chunks: 100, pause: Duration::ZERO, words: 1 };
const SLOW: Shape = Shape { model: "slow", chunks: 600, pause: Duration::from_secs(1), words: 1 };
/// A stream of 6 MB.
const FLOOD: Shape = Shape { model: "flood", chunks: 20_000, pause: Duration::ZERO, words: 20 };

fn chunk(words: usize) -> String {
    let event = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": { "content": " word".repeat(words) }, "finish_reason": null }],
    });
    let frame = format!("data: {event}\n\n");
    format!("{:x}\r\n{frame}\r\n", frame.len())
}

fn last_chunk(chunks: usize) -> String {
    let event = json!({ "id": "chatcmpl-1", "choices": [],
        "usage": { "prompt_tokens": 9, "completion_tokens": chunks } });
    let frame = format!("data: {event}\n\ndata: [DONE]\n\n");
    format!("{:x}\r\n{frame}\r\n0\r\n\r\n", frame.len())
}

/// Reads a complete request; `None` at the end of the connection.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
            while buffer.len() < whole {
                if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
            return Some(buffer.drain(..whole).collect());
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    while let Some(request) = request(&mut stream, &mut buffer).await {
        let has = |shape: &Shape| {
            let model = format!("\"{}\"", shape.model);
            request.windows(model.len()).any(|bytes| bytes == model.as_bytes())
        };
        let shape = [PACED, FAST, SLOW, FLOOD].into_iter().find(has).unwrap();
        let chunk = chunk(shape.words);
        if stream.write_all(HEAD.as_bytes()).await.is_err() {
            return;
        }
        for _ in 0..shape.chunks {
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
            if shape.pause > Duration::ZERO {
                tokio::time::sleep(shape.pause).await;
            }
        }
        if stream.write_all(last_chunk(shape.chunks).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Starts an upstream on a separate thread.
fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        test_support::run(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    });
    url
}

/// A client's connection, reused from stream to stream.
struct Client {
    address: String,
    request: Vec<u8>,
    stream: Option<TcpStream>,
}

impl Client {
    fn new(url: &str, key: &str, shape: Shape) -> Self {
        let address = url.trim_start_matches("http://").to_owned();
        let max_tokens = shape.chunks * shape.words;
        let body = json!({ "model": shape.model, "stream": true, "max_tokens": max_tokens,
            "messages": [{ "role": "user", "content": "Hello!" }] })
        .to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Client { address, request: request.into_bytes(), stream: None }
    }

    /// Sends a request. Returns the connection, whose next bytes are the answer.
    async fn send(&mut self) -> &mut TcpStream {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(&self.request).await.unwrap();
        stream
    }

    /// Reads one stream. Returns the time to its first chunk.
    async fn stream(&mut self) -> Duration {
        let begun = Instant::now();
        let stream = self.send().await;
        let (mut first, mut bytes) = (None, Vec::with_capacity(32 * 1024));
        while !bytes.ends_with(b"\r\n0\r\n\r\n") {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "cut off");
            if first.is_none() && bytes.windows(5).any(|bytes| bytes == b" word") {
                first = Some(begun.elapsed());
            }
        }
        assert!(bytes.windows(12).any(|bytes| bytes == b"data: [DONE]"));
        first.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&bytes)))
    }
}

/// Streams repeatedly, `count` at once. Returns all times to a first chunk, and the number of
/// streams per second.
async fn drive(url: &str, keys: &[String], shape: Shape, count: usize) -> (Vec<Duration>, f64) {
    let stopped = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let mut client = Client::new(url, &keys[number % keys.len()], shape);
            let stopped = Arc::clone(&stopped);
            tokio::spawn(async move {
                // Spread the starts.
                tokio::time::sleep(shape.pause * (number % 20) as u32).await;
                let mut times = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    times.push(client.stream().await);
                }
                times
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(number("ROUND_SECONDS", 10) as u64)).await;
    stopped.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    let per_second = all.len() as f64 / begun.elapsed().as_secs_f64();
    all.sort_unstable();
    (all, per_second)
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1_000.0
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let status = status.expect("needs Linux's /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Opens streams and leaves them open; `reads` says whether their clients read. Returns the
/// server's memory then.
async fn open(server: &Server, keys: &[String], shape: Shape, count: usize, reads: bool) -> u64 {
    let (opened, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let mut client = Client::new(&server.url, &keys[number % keys.len()], shape);
            let (opened, done) = (Arc::clone(&opened), Arc::clone(&done));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(2 * number as u64)).await;
                let stream = client.send().await;
                let mut bytes = vec![0; 4_096];
                stream.read_exact(&mut bytes[..12]).await.unwrap();
                assert_eq!(&bytes[..12], b"HTTP/1.1 200");
                opened.fetch_add(1, Ordering::Relaxed);
                while !done.load(Ordering::Relaxed) {
                    if reads {
                        let read =
                            tokio::time::timeout(Duration::from_secs(2), stream.read(&mut bytes));
                        let _ = read.await;
                    } else {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            })
        })
        .collect();
    while opened.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let resident = resident_kib(server);
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    resident
}

/// The settings of the server. All clients have one address, and some do not read.
fn settings(upstream: &str) -> [(&str, &str); 4] {
    [
        ("POLYSYSTEMS_UPSTREAMS__V1__URL", upstream),
        ("POLYSYSTEMS_HOLDS__READER_SECONDS", "3600"),
        ("POLYSYSTEMS_SERVER__CONNECTIONS_PER_ADDRESS_MAX", "100000"),
        ("POLYSYSTEMS_SERVER__TRANSFER_RATE_MIN", "0"),
    ]
}

fn main() {
    let folder = tempfile::tempdir().unwrap().keep();
    let upstream = upstream();
    let nginx = Running::nginx(&folder, upstream.trim_start_matches("http://"));
    let settings = settings(&upstream);
    let mut cases = vec![("direct".to_owned(), upstream.clone(), vec!["x".to_owned()])];
    match &nginx {
        Some(nginx) => {
            let url = format!("http://{}", nginx.address);
            cases.push(("nginx".into(), url, vec!["x".to_owned()]));
        }
        None => println!("nginx is not installed (Debian's nginx-light); its lines are left out"),
    }
    let mut servers = Vec::new();
    for (name, database) in [
        ("SQLite", database::Database::sqlite()),
        ("PostgreSQL", database::Database::durable_postgres()),
    ] {
        let server = Server::start(&database, &settings);
        let keys: Vec<String> = (0..ACCOUNTS).map(|number| server.account(number)).collect();
        cases.push((name.to_owned(), server.url.clone(), keys.clone()));
        servers.push((name, database, server, keys));
    }
    println!("fsync p50 {} us; all on one machine", commit_micros(&folder));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (title, shape, count) in [
        ("200 streams at once, 20 chunks each 20 ms: time to the first chunk", PACED, 200),
        ("64 streams at once, 100 chunks as fast as they go", FAST, 64),
    ] {
        println!("\n{title}");
        println!(
            "{:<12}{:>12}{:>12}{:>12}{:>12}",
            "case", "streams/s", "of nginx", "p50 ms", "p99 ms"
        );
        for _ in 0..number("ROUNDS", 3) {
            let mut yardstick = None;
            for (name, url, keys) in &cases {
                let (times, per_second) = runtime.block_on(drive(url, keys, shape, count));
                if name == "nginx" {
                    yardstick = Some(per_second);
                }
                let ratio =
                    yardstick.map_or("-".to_owned(), |nginx| format!("{:.2}", per_second / nginx));
                let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
                println!("{name:<12}{per_second:>12.0}{ratio:>12}{p50:>12.2}{p99:>12.2}");
            }
        }
    }
    let count = number("OPEN_STREAMS", 5_000);
    println!("\n{count} open streams: the server's resident memory, MiB");
    for (name, database, server, keys) in servers {
        // A new server, because the earlier rounds have left memory in the allocator.
        drop(server);
        for (what, shape, reads) in
            [("slow upstream", SLOW, true), ("fast upstream, nobody reads", FLOOD, false)]
        {
            let server = Server::start(&database, &settings);
            let before = resident_kib(&server);
            let after = runtime.block_on(open(&server, &keys, shape, count, reads));
            let each = (after.saturating_sub(before)) as f64 / count as f64;
            println!(
                "{name:<12}{what:<30}{:>8} before {:>8} with them {each:>8.1} KiB each",
                before / 1_024,
                after / 1_024
            );
        }
    }
    drop(nginx);
    std::fs::remove_dir_all(folder).unwrap();
}
