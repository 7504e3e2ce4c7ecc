//! A load generator: persistent connections on one thread, with one of two shapes.
//!
//! *Closed*: each connection sends its next request when it gets an answer. This measures the peak.
//! *Open*: requests are due at fixed times, regardless of the server. The latency of a request
//! counts from the time when it was due, even if no connection was free then. So a pause of the
//! server counts for every request that was due in it (no coordinated omission).
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates and quantiles are for reading"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Tick of the clock of the open shape. Requests that are due within a tick are sent at its end. A
/// separate thread sleeps for a tick; the timers of the runtime are ten times coarser.
const TICK: Duration = Duration::from_micros(100);

/// A request that differs only by its caller.
#[derive(Clone)]
pub struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
    callers: Rc<[String]>,
}

impl Template {
    /// `header` is the name of the header that identifies the caller. `callers` are its values.
    pub fn new(method: &str, path: &str, header: &str, callers: &[String], body: &str) -> Self {
        let before = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{header}: ");
        let after = format!(
            "\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(!callers.is_empty());
        Template { before: before.into(), after: after.into(), callers: callers.into() }
    }

    fn write(&self, number: usize, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.before);
        into.extend_from_slice(self.callers[number % self.callers.len()].as_bytes());
        into.extend_from_slice(&self.after);
    }
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Each connection sends the next request when it gets an answer.
    Closed,
    /// This many requests are due each second.
    Open(f64),
}

/// The settings of one measurement.
#[derive(Clone)]
pub struct Load {
    pub address: String,
    pub template: Template,
    pub connections: usize,
    pub shape: Shape,
    /// Time before the measurement, which is not measured.
    pub warm_up: Duration,
    pub time: Duration,
    /// Ends the run after this many requests. Then there is no warm-up.
    pub requests_max: Option<usize>,
}

/// The result of a measurement.
#[derive(Debug)]
pub struct Measured {
    pub per_second: f64,
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
    pub statuses: BTreeMap<u16, u64>,
    /// Number of connections that broke.
    pub broken: u64,
    /// Number of requests that were due and not sent at the end.
    pub unsent: usize,
}

impl Measured {
    /// A percentile of the latency, in milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.latency.value_at_quantile(percent / 100.0) as f64 / 1_000.0
    }

    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Number of answers with a status other than `status`.
    pub fn others(&self, status: u16) -> u64 {
        self.answers() - self.statuses.get(&status).copied().unwrap_or(0)
    }
}

/// Shared by all connections.
struct Run {
    load: Load,
    next: Cell<usize>,
    /// When the measurement begins and ends.
    window: (Instant, Instant),
    begun: Instant,
    /// Has a permit for each request that is due and not yet sent.
    due: Arc<Semaphore>,
    taken: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
    statuses: RefCell<BTreeMap<u16, u64>>,
    broken: Cell<u64>,
    last: Cell<Instant>,
}

impl Run {
    /// Waits until a request is due. Returns the time from which its latency counts; `None` at the
    /// end.
    async fn turn(&self) -> Option<Instant> {
        let due = match self.load.shape {
            Shape::Closed => Instant::now(),
            Shape::Open(rate) => {
                self.due.acquire().await.ok()?.forget();
                let number = self.taken.get();
                self.taken.set(number + 1);
                self.begun + Duration::from_secs_f64(number as f64 / rate)
            }
        };
        let sent = self.next.get();
        let is_over = self.load.requests_max.is_some_and(|max| sent >= max);
        (!is_over && Instant::now() < self.window.1).then(|| {
            self.next.set(sent + 1);
            due
        })
    }

    fn note(&self, due: Instant, status: u16) {
        let now = Instant::now();
        if now >= self.window.0 && now < self.window.1 {
            let micros = u64::try_from(now.duration_since(due).as_micros()).unwrap();
            self.latency.borrow_mut().saturating_record(micros);
            *self.statuses.borrow_mut().entry(status).or_default() += 1;
            self.last.set(now);
        }
    }
}

/// Runs the measurement.
pub fn run(load: Load) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let warm_up = if load.requests_max.is_some() { Duration::ZERO } else { load.warm_up };
    let from = begun + warm_up;
    let run = Rc::new(Run {
        window: (from, from + load.time),
        load,
        next: Cell::new(0),
        begun,
        due: Arc::new(Semaphore::new(0)),
        taken: Cell::new(0),
        latency: RefCell::new(Histogram::new_with_max(60_000_000, 3).unwrap()),
        statuses: RefCell::default(),
        broken: Cell::new(0),
        last: Cell::new(from),
    });
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let connections: Vec<_> = (0..run.load.connections)
            .map(|_| tokio::task::spawn_local(connection(Rc::clone(&run))))
            .collect();
        if let Shape::Open(rate) = run.load.shape {
            let (due, window) = (Arc::clone(&run.due), (begun, run.window.1));
            std::thread::spawn(move || pace(&due, window, rate));
        }
        for connection in connections {
            connection.await.unwrap();
        }
    });
    let Ok(run) = Rc::try_unwrap(run) else { panic!("a connection still runs") };
    let end = if run.load.requests_max.is_some() { run.last.get() } else { run.window.1 };
    let unsent = run.due.available_permits();
    let (latency, statuses) = (run.latency.into_inner(), run.statuses.into_inner());
    let answers: u64 = statuses.values().sum();
    Measured {
        per_second: answers as f64 / end.duration_since(run.window.0).as_secs_f64(),
        latency,
        statuses,
        broken: run.broken.get(),
        unsent,
    }
}

/// Adds permits to `due` at this rate, until the end.
fn pace(due: &Semaphore, (begun, end): (Instant, Instant), rate: f64) {
    let mut released: u64 = 0;
    while Instant::now() < end {
        std::thread::sleep(TICK);
        let by_now = (begun.elapsed().as_secs_f64() * rate) as u64;
        due.add_permits(usize::try_from(by_now - released).unwrap());
        released = by_now;
    }
    due.close();
}

async fn connection(run: Rc<Run>) {
    let (mut request, mut answer) = (Vec::new(), Vec::with_capacity(16 * 1024));
    let mut stream = None;
    while let Some(due) = run.turn().await {
        run.load.template.write(run.next.get() - 1, &mut request);
        if stream.is_none() {
            let opened = TcpStream::connect(&run.load.address).await.unwrap();
            opened.set_nodelay(true).unwrap();
            stream = Some(opened);
        }
        if let Some(status) = call(stream.as_mut().unwrap(), &request, &mut answer).await {
            run.note(due, status);
        } else {
            run.broken.set(run.broken.get() + 1);
            stream = None;
        }
    }
}

/// Sends a request and reads its complete answer. Returns the status.
async fn call(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> Option<u16> {
    stream.write_all(request).await.ok()?;
    answer.clear();
    let head = loop {
        if stream.read_buf(answer).await.ok()? == 0 {
            return None;
        }
        if let Some(head) = head(answer) {
            break head;
        }
    };
    let is_whole = |answer: &[u8]| match head.length {
        Some(length) => answer.len() >= head.end + length,
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    };
    while !is_whole(answer) {
        if stream.read_buf(answer).await.ok()? == 0 {
            return None;
        }
    }
    Some(head.status)
}

struct Head {
    status: u16,
    end: usize,
    /// `None` if the body is chunked.
    length: Option<usize>,
}

fn head(answer: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(answer).unwrap() else { return None };
    let named = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| std::str::from_utf8(header.value).unwrap())
    };
    let is_chunked = named("transfer-encoding").is_some();
    let length = named("content-length").map_or(0, |length| length.parse().unwrap());
    Some(Head { status: response.code.unwrap(), end, length: (!is_chunked).then_some(length) })
}
