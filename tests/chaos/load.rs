//! Load over raw sockets, which leaves most of two cores to the server, and the log of the answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::process::Customer;

/// An answer, as far as it was received.
pub(crate) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Why there is no complete answer.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The connection was refused, or closed before the first byte of the answer.
    Unanswered,
    /// The connection was closed in the middle of the answer.
    CutOff,
}

impl From<io::Error> for Silence {
    fn from(_: io::Error) -> Self {
        Silence::Unanswered
    }
}

/// A persistent connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Self, Silence> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4_096) })
    }

    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<Answer, Silence> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut answer = Answer { status, head, body: String::new() };
        let start = head_end + 4;
        if answer.header("transfer-encoding").is_some() {
            while !self.buffer[start - 2..].ends_with(b"\r\n0\r\n\r\n") {
                self.fill().await.map_err(|_| Silence::CutOff)?;
            }
        } else {
            let length = answer.header("content-length").and_then(|text| text.parse().ok());
            while self.buffer.len() < start + length.unwrap_or(0) {
                self.fill().await.map_err(|_| Silence::CutOff)?;
            }
        }
        answer.body = String::from_utf8_lossy(&self.buffer[start..]).into_owned();
        Ok(answer)
    }

    async fn fill(&mut self) -> Result<(), Silence> {
        let was_empty = self.buffer.is_empty();
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) if was_empty => Err(Silence::Unanswered),
            Ok(0) | Err(_) => Err(Silence::CutOff),
            Ok(_) => Ok(()),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What an answer said about money that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The change of the account's balance, in nano-dollars.
    pub amount: i64,
}

/// The clients' own log of the answers.
#[derive(Default)]
pub(crate) struct Log {
    /// Acknowledged changes, by the id of the charge or payment.
    pub acknowledged: Mutex<BTreeMap<uuid::Uuid, Told>>,
    /// Calls with an unknown outcome: not answered, or answered that the outcome is unknown.
    pub unknown: AtomicU64,
    /// Payments with an unknown outcome.
    pub unknown_payments: AtomicU64,
    /// Answers that were cut off in the middle.
    pub cut_off: AtomicU64,
    pub refused: AtomicU64,
    /// Requests that were due, but more than the generator could send.
    pub unsent: AtomicU64,
    pub panicked: AtomicU64,
    /// For each answer: when it came, its latency in microseconds, and its status.
    pub samples: Mutex<Vec<(Instant, u64, u16)>>,
    pub stopped: AtomicBool,
}

impl Log {
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }

    /// Latencies of the answers with this status that came in this time.
    pub(crate) fn between(&self, from: Instant, to: Instant, status: u16) -> Vec<u64> {
        let samples = self.samples.lock().unwrap();
        let within = samples.iter().filter(|(at, _, of)| *of == status && (from..to).contains(at));
        within.map(|(_, micros, _)| *micros).collect()
    }
}

/// The kinds of calls in a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// The two simple kinds of paid calls.
    Plain,
    /// All kinds that write: streams, calls with an idempotency key, payments, keys, registrations.
    Everything,
    /// Calls to a slow upstream.
    Upstream,
    /// Calls to the models of the shop, whole and streamed, of which some reach another deployment
    /// or another model.
    Models,
}

fn uuid_at_end(text: &str) -> Option<uuid::Uuid> {
    text.get(text.len().checked_sub(36)?..)?.parse().ok()
}

fn nanos(text: &str) -> i64 {
    text.parse::<domain::Credits>().unwrap().nanos()
}

enum Kind {
    Call,
    Stream,
    Payment,
    Other,
}

fn next(random: &mut StdRng, mix: Mix, customer: &Customer) -> (Kind, Vec<u8>) {
    let key = format!("x-api-key: {}\r\n", customer.key);
    let bearer = format!("authorization: Bearer {}\r\n", customer.token);
    let hello = r#"{"messages":[{"role":"user","content":"Hello!"}]}"#;
    let chat = |headers: &str| request("POST", "/api/hub/agents/chat", headers, hello);
    let index = || request("POST", "/api/hub/rag/index", &key, "{}");
    if mix == Mix::Upstream {
        return (Kind::Call, request("POST", "/v1/chat/completions", &key, hello));
    }
    if mix == Mix::Models {
        return of_models(random, &key);
    }
    let dice = if mix == Mix::Plain { 0 } else { random.random_range(0..100) };
    match dice {
        0..50 if random.random_bool(0.5) => (Kind::Call, chat(&key)),
        0..50 => (Kind::Call, index()),
        50..75 => {
            let tokens = random.random_range(20..120);
            let body = format!(
                r#"{{"model":"sandbox-long","stream":true,"max_tokens":{tokens},"messages":[{{"role":"user","content":"Hello!"}}]}}"#
            );
            (Kind::Stream, request("POST", "/v1/chat/completions", &key, &body))
        }
        75..90 => {
            let keyed = format!("{key}idempotency-key: {}\r\n", uuid::Uuid::new_v4());
            (Kind::Call, chat(&keyed))
        }
        90..95 => {
            let body = r#"{"amount":0.05}"#;
            (Kind::Payment, request("POST", "/api/payments/payments", &bearer, body))
        }
        95..98 => (Kind::Other, request("POST", "/api/keys", &bearer, r#"{"name":"another"}"#)),
        98 => {
            let name = uuid::Uuid::new_v4().simple().to_string();
            let body = format!(
                r#"{{"email":"{name}@example.com","password":"SecurePassword123!","username":"{name}"}}"#
            );
            (Kind::Other, request("POST", "/api/auth/register", "", &body))
        }
        _ => (Kind::Other, request("GET", "/api/payments/credits/balance", &bearer, "")),
    }
}

fn of_models(random: &mut StdRng, key: &str) -> (Kind, Vec<u8>) {
    let words = random.random_range(1..80);
    let mut plan = serde_json::json!({ "words": words, "output": words });
    match random.random_range(0..20) {
        0 => plan["fails"] = serde_json::json!(["a"]),
        1 => plan["long"] = serde_json::json!(["a", "b"]),
        2..8 => plan["cached"] = serde_json::json!(5),
        _ => {}
    }
    let is_chat = plan["long"].is_array() || random.random_bool(0.8);
    let model = if is_chat { "chat" } else { "thinker" };
    let mut body = crate::support::shop::chat(model, &plan);
    let is_stream = random.random_bool(0.5);
    body["stream"] = serde_json::json!(is_stream);
    let headers = if random.random_bool(0.2) {
        format!("{key}idempotency-key: {}\r\n", uuid::Uuid::new_v4())
    } else {
        key.to_owned()
    };
    let kind = if is_stream { Kind::Stream } else { Kind::Call };
    (kind, request("POST", "/v1/chat/completions", &headers, &body.to_string()))
}

/// Records what an answer says about money.
fn read(log: &Log, kind: &Kind, answer: &Answer) {
    let unknown = |payment: bool| {
        Log::add(if payment { &log.unknown_payments } else { &log.unknown });
    };
    match (answer.status, kind) {
        (200, Kind::Call) => {
            let id = uuid_at_end(answer.header("x-polysystems-charge").unwrap()).unwrap();
            let cost = nanos(answer.header("x-polysystems-cost").unwrap());
            let told = Told { amount: -cost };
            assert!(log.acknowledged.lock().unwrap().insert(id, told).is_none(), "one id twice");
        }
        (200, Kind::Stream) => {
            let id = uuid_at_end(answer.header("x-polysystems-charge").unwrap()).unwrap();
            let bill = answer.body.rfind(": polysystems {").map(|at| &answer.body[at + 14..]);
            let cost = bill.and_then(|bill| {
                let text = bill.split_once("\"cost\":")?.1;
                let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
                Some(nanos(&text[..end]))
            });
            assert!(answer.body.contains("data: [DONE]"), "no end: {}", answer.body);
            match cost {
                Some(cost) => {
                    log.acknowledged.lock().unwrap().insert(id, Told { amount: -cost });
                }
                // The answer says that the outcome is unknown.
                None => unknown(false),
            }
        }
        (201, Kind::Payment) => {
            let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let id = uuid_at_end(answer["id"].as_str().unwrap()).unwrap();
            let told = Told { amount: crate::support::nanos(&answer["amount"]) };
            log.acknowledged.lock().unwrap().insert(id, told);
        }
        (200 | 201, Kind::Other) => {}
        (500, _) => {
            Log::add(&log.panicked);
            unknown(matches!(kind, Kind::Payment));
        }
        (status, _) => {
            assert!(
                [401, 402, 409, 424, 429, 502, 503].contains(&status),
                "{status} {}",
                answer.body
            );
            Log::add(&log.refused);
            if status == 424 {
                assert!(answer.body.contains("outcome-unknown"), "{}", answer.body);
                unknown(matches!(kind, Kind::Payment));
            } else if status == 503 {
                assert!(answer.body.contains("\"outcome\":\"not-"), "{}", answer.body);
            }
            let hint = answer.header("retry-after");
            assert!(![429, 503].contains(&status) || hint.is_some(), "no Retry-After");
        }
    }
}

/// Runs a number of connections, each with one call after the other, until stopped. Unless
/// `persists` is set, a connection also stops when a call is not answered.
pub(crate) fn load(
    address: &str,
    customers: &[Customer],
    connections: usize,
    mix: Mix,
    persists: bool,
    log: &Arc<Log>,
) -> Vec<JoinHandle<()>> {
    let one = |place: usize| {
        let (address, log) = (address.to_owned(), Arc::clone(log));
        let customer = customers[place % customers.len()].clone();
        let mut random = StdRng::seed_from_u64(rand::rng().random());
        tokio::spawn(async move {
            let mut connection = None;
            while !log.stopped.load(Ordering::SeqCst) {
                if connection.is_none() {
                    connection = Connection::open(&address).await.ok();
                }
                let (kind, request) = next(&mut random, mix, &customer);
                let begun = Instant::now();
                let Some(open) = &mut connection else {
                    if !persists {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let silence = match open.call(&request).await {
                    Ok(answer) => {
                        let now = Instant::now();
                        let micros = u64::try_from((now - begun).as_micros()).unwrap();
                        log.samples.lock().unwrap().push((now, micros, answer.status));
                        read(&log, &kind, &answer);
                        if answer.header("connection") == Some("close") {
                            connection = None;
                        }
                        if answer.status >= 429 {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        continue;
                    }
                    Err(silence) => silence,
                };
                if matches!(silence, Silence::CutOff) {
                    Log::add(&log.cut_off);
                }
                match kind {
                    Kind::Payment => Log::add(&log.unknown_payments),
                    Kind::Call | Kind::Stream => Log::add(&log.unknown),
                    Kind::Other => {}
                }
                connection = None;
                if !persists {
                    return;
                }
            }
        })
    };
    (0..connections).map(one).collect()
}

/// Starts a new caller after each `pause`, even if earlier ones still wait. A caller that waits for
/// a commit makes no further call.
pub(crate) fn probe(
    address: &str,
    customers: &[Customer],
    pause: Duration,
    log: &Arc<Log>,
) -> JoinHandle<()> {
    let (address, customers, log) = (address.to_owned(), customers.to_vec(), Arc::clone(log));
    tokio::spawn(async move {
        let mut callers = Vec::new();
        for place in 0_usize.. {
            if log.stopped.load(Ordering::SeqCst) {
                break;
            }
            let (address, log) = (address.clone(), Arc::clone(&log));
            let customer = customers[place % customers.len()].clone();
            callers.push(tokio::spawn(async move {
                let Ok(mut connection) = Connection::open(&address).await else { return };
                let mut random = StdRng::seed_from_u64(u64::try_from(place).unwrap());
                let (kind, request) = next(&mut random, Mix::Plain, &customer);
                let begun = Instant::now();
                match connection.call(&request).await {
                    Ok(answer) => {
                        let now = Instant::now();
                        let micros = u64::try_from((now - begun).as_micros()).unwrap();
                        log.samples.lock().unwrap().push((now, micros, answer.status));
                        read(&log, &kind, &answer);
                    }
                    Err(_) => Log::add(&log.unknown),
                }
            }));
            tokio::time::sleep(pause).await;
        }
        join(callers).await;
    })
}

pub(crate) async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.await.unwrap();
    }
}

pub(crate) fn percentile(mut micros: Vec<u64>, percent: usize) -> u64 {
    micros.sort_unstable();
    let place = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
    micros.get(place).copied().unwrap_or(0)
}

/// Sends a request every `1 / rate` seconds, even if earlier ones are not answered. A latency
/// counts from the time when the request was due. Returns the number of 200 answers per second, and
/// adds samples to the log.
pub(crate) async fn open_loop(
    address: &str,
    customers: &[Customer],
    rate: f64,
    seconds: f64,
    connections: usize,
    mix: Mix,
    log: &Arc<Log>,
) -> f64 {
    let begun = Instant::now() + Duration::from_millis(50);
    let (sender, receiver) = async_queue();
    let workers: Vec<_> = (0..connections)
        .map(|place| {
            let (address, log, receiver) = (address.to_owned(), Arc::clone(log), receiver.clone());
            let customer = customers[place % customers.len()].clone();
            let mut random = StdRng::seed_from_u64(u64::try_from(place).unwrap());
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await.ok();
                loop {
                    let next_due = receiver.lock().await.recv().await;
                    let Some(due): Option<Instant> = next_due else { return };
                    let (kind, request) = next(&mut random, mix, &customer);
                    if connection.is_none() {
                        connection = Connection::open(&address).await.ok();
                    }
                    let Some(open) = &mut connection else { continue };
                    if let Ok(answer) = open.call(&request).await {
                        let now = Instant::now();
                        let micros = u64::try_from((now - due).as_micros()).unwrap();
                        log.samples.lock().unwrap().push((now, micros, answer.status));
                        read(&log, &kind, &answer);
                    } else {
                        Log::add(&log.unknown);
                        connection = None;
                    }
                }
            })
        })
        .collect();
    let mut sent = 0.0;
    while sent < rate * seconds {
        let due = begun + Duration::from_secs_f64(sent / rate);
        tokio::time::sleep_until(due.into()).await;
        // Send all that are due by now.
        while sent < rate * seconds
            && begun + Duration::from_secs_f64(sent / rate) <= Instant::now()
        {
            if sender.try_send(begun + Duration::from_secs_f64(sent / rate)).is_err() {
                Log::add(&log.unsent);
            }
            sent += 1.0;
        }
    }
    drop(sender);
    join(workers).await;
    let end = begun + Duration::from_secs_f64(seconds);
    let good = log.between(begun, end, 200).len();
    f64::from(u32::try_from(good).unwrap()) / seconds
}

type Queue<T> =
    (tokio::sync::mpsc::Sender<T>, Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<T>>>);

fn async_queue<T>() -> Queue<T> {
    let (sender, receiver) = tokio::sync::mpsc::channel(20_000);
    (sender, Arc::new(tokio::sync::Mutex::new(receiver)))
}
