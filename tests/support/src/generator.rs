//! The load: connections that are kept, on one thread, in one of two shapes.
//!
//! *Closed*: each connection sends its next request when it has its answer; what comes out is the
//! peak. *Open*: requests are due at fixed moments, whatever the server does, and a latency counts
//! from the moment a request was due, not from when a connection was free to send it. So a server
//! that halts for a moment pays for everything that was due meanwhile (no coordinated omission).
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

/// The clock of the open shape ticks so often; what is due within a tick is sent at its end. A
/// thread of its own sleeps that finely; the timers of the runtime tick ten times more slowly.
const TICK: Duration = Duration::from_micros(100);

/// A request that differs by its caller alone.
#[derive(Clone)]
pub struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
    callers: Rc<[String]>,
}

impl Template {
    /// `header` has the caller's key, or whatever else tells callers apart.
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

/// How requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// As fast as answers come.
    Closed,
    /// So many a second.
    Open(f64),
}

/// One measurement to be made.
#[derive(Clone)]
pub struct Load {
    pub address: String,
    pub template: Template,
    pub connections: usize,
    pub shape: Shape,
    /// Not measured.
    pub warm_up: Duration,
    pub time: Duration,
    /// Ends when so many requests were sent; none of them is warm-up then.
    pub requests_max: Option<usize>,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    pub per_second: f64,
    /// In microseconds.
    pub latency: Histogram<u64>,
    pub statuses: BTreeMap<u16, u64>,
    /// Connections that broke.
    pub broken: u64,
    /// Due and not sent when the time was over.
    pub unsent: usize,
}

impl Measured {
    /// Milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.latency.value_at_quantile(percent / 100.0) as f64 / 1_000.0
    }

    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers with another status than this.
    pub fn others(&self, status: u16) -> u64 {
        self.answers() - self.statuses.get(&status).copied().unwrap_or(0)
    }
}

/// What all connections share.
struct Run {
    load: Load,
    next: Cell<usize>,
    /// When the measurement begins and ends.
    window: (Instant, Instant),
    begun: Instant,
    /// One for each request that is due and not taken.
    due: Arc<Semaphore>,
    taken: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
    statuses: RefCell<BTreeMap<u16, u64>>,
    broken: Cell<u64>,
    last: Cell<Instant>,
}

impl Run {
    /// Waits until a request is due; from when its latency counts. `None` when it is over.
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

/// Makes the measurement.
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

/// Says what is due, until the time is over.
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

/// Sends a request and reads its answer whole; its status.
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
    /// None where the body is chunked.
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
