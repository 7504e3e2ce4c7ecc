//! The real server under load, compared with yardsticks in the same run: a bare actix-web handler
//! with the same answer, nginx as a plain proxy, and a row lock for each charge on the same kind of
//! database.
//!
//! `cargo bench --bench load -- --help`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    clippy::format_push_string,
    reason = "a failed measurement may panic"
)]

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use domain::Credits;
use serde_json::json;
use test_support::bench::{Running, Server, commit_micros, login};
use test_support::generator::{self, Load, Shape, Template};
use test_support::{Database, seed};

mod cost;
mod report;
mod yardsticks;

use report::Figure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELLO: &str = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
const HELLO_STREAM: &str =
    r#"{"stream":true,"max_tokens":16,"messages":[{"role":"user","content":"Hello!"}]}"#;
const SANDBOX: &str = "/api/hub/agents/chat";
const UPSTREAM: &str = "/v1/chat/completions";
const BALANCE: Credits = Credits::from_nanos(1_000_000_000_000_000);

const HELP: &str = "\
Measures the server and its yardsticks under load, in the same run.

    cargo bench --bench load -- [OPTIONS] [CASE...]

Options:
    --rounds N        rounds for each case (5)
    --seconds N       length of each measurement, in seconds (5)
    --database KIND   sqlite or postgres (both)
    --accounts N      number of accounts (10000)
    --quick           one short round of about two minutes
    --list            list the cases

CASE is the beginning of a case's name. Results go to target/load/, as JSON and as an HTML page.";

/// How often and how long to measure.
#[derive(Clone, Copy)]
struct Plan {
    rounds: usize,
    time: Duration,
    warm_up: Duration,
    accounts: usize,
}

/// A server to measure.
struct Target {
    name: String,
    address: String,
    /// The process id; `None` for a yardstick.
    process: Option<u32>,
    /// The keys of the callers.
    callers: Vec<String>,
    /// The keys of callers without credits.
    poor: Vec<String>,
    /// Session tokens.
    sessions: Vec<String>,
}

struct Bench {
    plan: Plan,
    chosen: Vec<String>,
    folder: std::path::PathBuf,
    metrics: Vec<Figure>,
    costs: Vec<cost::Cost>,
    round: usize,
}

impl Bench {
    fn is_chosen(&self, case: &str) -> bool {
        self.chosen.is_empty() || self.chosen.iter().any(|start| case.starts_with(start.as_str()))
    }

    fn measure(
        &mut self,
        case: &str,
        target: &Target,
        template: Template,
        how: (usize, usize, Shape, u16),
        requests_max: Option<usize>,
        yardstick: Option<&str>,
    ) -> f64 {
        let (connections, accounts, shape, expected) = how;
        if std::io::stderr().is_terminal() {
            let (round, rounds) = (self.round + 1, self.plan.rounds);
            eprint!("\r\x1b[Kround {round} of {rounds}: {case}, {}", target.name);
            let _ = std::io::stderr().flush();
        }
        let fsync_micros = u64::try_from(commit_micros(&self.folder)).unwrap();
        let load = Load {
            address: target.address.clone(),
            template,
            connections,
            shape,
            warm_up: self.plan.warm_up,
            time: self.plan.time,
            requests_max,
        };
        let (begun, cpu) = (std::time::Instant::now(), target.process.map(cpu_micros));
        let measured = generator::run(load);
        let seconds = begun.elapsed().as_secs_f64();
        let mut figure = Figure::of(&measured, expected).at(shape);
        // The server's processor time includes the warm-up, so the answers of the warm-up count
        // too.
        figure.cpu_micros = target.process.zip(cpu).map(|(process, before)| {
            (cpu_micros(process) - before) / (figure.per_second * seconds)
        });
        case.clone_into(&mut figure.case);
        figure.target.clone_from(&target.name);
        figure.round = self.round;
        (figure.connections, figure.accounts) = (connections, accounts);
        figure.fsync_micros = fsync_micros;
        figure.yardstick = yardstick.map(str::to_owned);
        figure.ratio = yardstick.and_then(|yardstick| {
            let held = self.metrics.iter().rev().find(|other| {
                other.case == case && other.round == self.round && other.target == yardstick
            });
            held.map(|other| figure.per_second / other.per_second)
        });
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        println!("{}", report::line(&figure));
        let per_second = figure.per_second;
        self.metrics.push(figure);
        per_second
    }
}

/// Processor time of the process so far, in microseconds.
fn cpu_micros(process: u32) -> f64 {
    let stat =
        std::fs::read_to_string(format!("/proc/{process}/stat")).expect("needs Linux's /proc");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10_000.0
}

fn machine() -> BTreeMap<&'static str, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    BTreeMap::from([
        ("cores", std::thread::available_parallelism().unwrap().to_string()),
        ("cpu", model.split(": ").nth(1).unwrap_or_default().to_owned()),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

const PAID: [(&str, usize, usize); 4] = [
    ("paid call, 1 account", 64, 1),
    ("paid call, 100 accounts", 64, 100),
    ("paid call, 10000 accounts", 64, 10_000),
    ("paid call, 256 connections", 256, 10_000),
];
const UPSTREAM_WHOLE: &str = "upstream, whole answers";
const UPSTREAM_STREAMS: &str = "upstream, streams";
const BAD_CHECKSUM: &str = "refusal, 401 bad checksum";
const NO_CREDITS: &str = "refusal, 402 no credits";
const OVER_LIMIT: &str = "refusal, 429 over the limit";
const COLD: &str = "cold accounts";
const KEY_CREATION: &str = "key creation";
const LOGIN: &str = "login";
/// Number of users who create keys.
const SESSIONS: usize = 8;
/// The user who logs in. A separate user, because each login ends the oldest of many sessions.
const WHO_LOGS_IN: usize = SESSIONS;
const LISTENED: &str = "webhooks, 100 accounts";
const LATENCY: &str = "latency";
const LEDGER_COST: &str = "ledger cost";
const OTHERS: [&str; 11] = [
    LISTENED,
    UPSTREAM_WHOLE,
    UPSTREAM_STREAMS,
    BAD_CHECKSUM,
    NO_CREDITS,
    OVER_LIMIT,
    COLD,
    KEY_CREATION,
    LOGIN,
    LATENCY,
    LEDGER_COST,
];
/// Number of calls between the two readings of the database's size.
const COST_CALLS: usize = 20_000;

fn main() {
    let mut plan = Plan {
        rounds: 5,
        time: Duration::from_secs(5),
        warm_up: Duration::from_secs(1),
        accounts: 10_000,
    };
    let (mut kind, mut chosen) = (None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("an option needs a value");
        match argument.as_str() {
            "--serve" => {
                let (what, port, database) = (value(), value(), value());
                return yardsticks::serve(&what, port.parse().unwrap(), &database);
            }
            "--rounds" => plan.rounds = value().parse().expect("--rounds takes a number"),
            "--seconds" => {
                plan.time =
                    Duration::from_secs_f64(value().parse().expect("--seconds takes a number"));
            }
            "--accounts" => plan.accounts = value().parse().expect("--accounts takes a number"),
            "--database" => kind = Some(value()),
            "--quick" => {
                plan.rounds = 1;
                plan.time = Duration::from_millis(1_200);
                plan.warm_up = Duration::from_millis(300);
                plan.accounts = 10_000;
            }
            "--list" => {
                for name in PAID.iter().map(|(name, ..)| name).chain(&OTHERS) {
                    println!("{name}");
                }
                return;
            }
            "--help" | "-h" => return println!("{HELP}"),
            "--bench" => {}
            name if !name.starts_with('-') => chosen.push(argument),
            other => panic!("{other} is not known; --help tells"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench {
        plan,
        chosen,
        folder: folder.path().to_owned(),
        metrics: Vec::new(),
        costs: Vec::new(),
        round: 0,
    };
    measure_all(&mut bench, kind.as_deref());
    let medians = report::medians(&bench.metrics);
    println!("\nMedians of {} rounds\n{}", plan.rounds, report::heading());
    for figure in &medians {
        println!("{}", report::line(figure));
    }
    for cost in &bench.costs {
        let cost::Cost { database, what, bytes_a_call } = cost;
        println!("{database:<12}{what:<40}{bytes_a_call:>8.0} bytes a call");
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("load");
    let (json, html) = report::write(&target, &machine(), &bench.metrics, &medians, &bench.costs);
    println!("\n{}\n{}", json.display(), html.display());
}

/// A database with its server, and the row lock on the same kind of database.
struct Side {
    name: &'static str,
    database: Database,
    server: Option<Server>,
    target: Target,
    row_lock: (Database, Running, Target),
    settings: Vec<(String, String)>,
}

impl Side {
    fn start(&mut self, more: &[(&str, &str)]) {
        // The first server must stop, because the second one would take over the accounts.
        self.server = None;
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<_> = own.chain(more.iter().copied()).collect();
        let server = Server::start(&self.database, &settings);
        server.url["http://".len()..].clone_into(&mut self.target.address);
        self.target.process = Some(server.id());
        self.server = Some(server);
    }
}

fn side(name: &'static str, make: fn() -> Database, plan: Plan, upstream: &str) -> Side {
    let database = make();
    let callers = seed::accounts(&database, "paid", plan.accounts, BALANCE);
    let poor = seed::accounts(&database, "poor", 100, Credits::ZERO);
    let own = make();
    let row_lock = yardsticks::start("row-lock", own.url());
    let row_lock_target = Target {
        name: format!("row lock {name}"),
        address: row_lock.address.clone(),
        process: None,
        callers: yardsticks::row_lock_callers(10_000),
        poor: Vec::new(),
        sessions: Vec::new(),
    };
    let target = Target {
        name: name.to_owned(),
        address: String::new(),
        process: None,
        callers,
        poor,
        sessions: Vec::new(),
    };
    let setting = |name: &str, value: &str| (format!("POLYSYSTEMS_{name}"), value.to_owned());
    let mut side = Side {
        name,
        database,
        server: None,
        target,
        row_lock: (own, row_lock, row_lock_target),
        settings: vec![
            setting("UPSTREAMS__V1__URL", &format!("http://{upstream}")),
            setting("AUTH__KEYS_PER_ACCOUNT_MAX", "100000000"),
        ],
    };
    side.start(&[]);
    let server = side.server.as_ref().unwrap();
    side.target.sessions =
        (0..SESSIONS).map(|number| format!("Bearer {}", server.session(number))).collect();
    server.session(WHO_LOGS_IN);
    side
}

fn measure_all(bench: &mut Bench, kind: Option<&str>) {
    let plan = bench.plan;
    let plain = |yardstick: &Running, name: &str| Target {
        name: name.to_owned(),
        address: yardstick.address.clone(),
        process: None,
        callers: yardsticks::row_lock_callers(10_000),
        poor: Vec::new(),
        sessions: Vec::new(),
    };
    let bare = yardsticks::start("bare", "");
    let bare_target = plain(&bare, "bare");
    let upstream = yardsticks::start("upstream", "");
    let direct = plain(&upstream, "upstream itself");
    let nginx = Running::nginx(&bench.folder, &upstream.address);
    let nginx_target = nginx.as_ref().map(|nginx| plain(nginx, "nginx"));
    if nginx.is_none() {
        println!("nginx is not installed (Debian's nginx-light): its lines are left out");
    }
    let kinds = [
        ("sqlite", "SQLite", Database::sqlite as fn() -> Database),
        ("postgres", "PostgreSQL", Database::settled_postgres),
    ];
    let mut sides: Vec<Side> = kinds
        .into_iter()
        .filter(|(name, ..)| kind.is_none_or(|kind| kind == *name))
        .map(|(_, name, make)| side(name, make, plan, &upstream.address))
        .collect();
    for side in &sides {
        warm_up(&side.target);
    }
    println!("{}", report::heading());
    for round in 0..plan.rounds {
        bench.round = round;
        let mut peaks = BTreeMap::new();
        for (case, connections, accounts) in PAID {
            if !bench.is_chosen(case) || accounts > plan.accounts {
                continue;
            }
            let how = (connections, accounts, Shape::Closed, 200);
            let ask = |target: &Target| {
                Template::new("POST", SANDBOX, "x-api-key", &target.callers[..accounts], HELLO)
            };
            bench.measure(case, &bare_target, ask(&bare_target), how, None, None);
            for side in &sides {
                let target = &side.target;
                let peak = bench.measure(case, target, ask(target), how, None, Some("bare"));
                peaks.insert((side.name, case), peak);
                let target = &side.row_lock.2;
                bench.measure(case, target, ask(target), how, None, Some(side.name));
            }
        }
        if bench.is_chosen(LISTENED) {
            listened(bench, &mut sides, &peaks);
        }
        for (case, body, yardstick) in
            [(UPSTREAM_WHOLE, HELLO, "nginx"), (UPSTREAM_STREAMS, HELLO_STREAM, "nginx")]
        {
            if !bench.is_chosen(case) {
                continue;
            }
            let how = (64, 100, Shape::Closed, 200);
            let ask = |target: &Target| {
                Template::new("POST", UPSTREAM, "x-api-key", &target.callers[..100], body)
            };
            bench.measure(case, &direct, ask(&direct), how, None, None);
            if let Some(nginx) = &nginx_target {
                bench.measure(case, nginx, ask(nginx), how, None, None);
            }
            for side in &sides {
                bench.measure(case, &side.target, ask(&side.target), how, None, Some(yardstick));
            }
        }
        refusals(bench, &bare_target, &mut sides);
        for side in &mut sides {
            if bench.is_chosen(COLD) {
                side.start(&[]);
                let target = &side.target;
                let ask = Template::new("POST", SANDBOX, "x-api-key", &target.callers, HELLO);
                let how = (16, plan.accounts, Shape::Closed, 200);
                bench.measure(COLD, target, ask, how, Some(plan.accounts), None);
            }
            if bench.is_chosen(KEY_CREATION) {
                let target = &side.target;
                let body = json!({ "name": "bench" }).to_string();
                let ask =
                    Template::new("POST", "/api/keys", "authorization", &target.sessions, &body);
                bench.measure(
                    KEY_CREATION,
                    target,
                    ask,
                    (16, SESSIONS, Shape::Closed, 201),
                    None,
                    None,
                );
            }
            if bench.is_chosen(LOGIN) {
                let body = login(WHO_LOGS_IN).to_string();
                let ask = Template::new("POST", "/api/auth/login", "x-none", &["-".into()], &body);
                bench.measure(LOGIN, &side.target, ask, (4, 1, Shape::Closed, 200), None, None);
            }
        }
        if bench.is_chosen(LATENCY) {
            latencies(bench, &bare_target, &sides, &peaks);
        }
    }
    if bench.is_chosen(LEDGER_COST) {
        for side in &sides {
            ledger_cost(bench, side);
        }
    }
}

/// Gives the first `count` accounts of `name` a webhook endpoint for every event, and removes all
/// others.
fn listen(database: &Database, name: &str, count: usize) {
    use sea_orm::ConnectionTrait as _;
    let (id, yes) = if database.is_postgres() {
        ("gen_random_uuid()", "TRUE")
    } else {
        ("randomblob(16)", "1")
    };
    let statements = [
        "DELETE FROM webhook_endpoint".to_owned(),
        format!(
            "INSERT INTO webhook_endpoint (id, account_id, url, description, secret, is_enabled, created_at)
            SELECT {id}, account.id, 'https://127.0.0.1/', '', '', {yes}, 0
            FROM account JOIN users ON users.id = account.user_id
            WHERE environment = 1 AND password_hash = 'seeded {name}' ORDER BY account.id LIMIT {count}"
        ),
    ];
    actix::System::new().block_on(async {
        let connection = database.connect().await;
        for sql in statements {
            connection.execute_unprepared(&sql).await.unwrap();
        }
        connection.close().await.unwrap();
    });
}

/// Compares paid calls of accounts with webhooks, whose deliveries go nowhere, with the same calls
/// without webhooks.
fn listened(bench: &mut Bench, sides: &mut [Side], peaks: &BTreeMap<(&str, &str), f64>) {
    let how = (64, 100, Shape::Closed, 200);
    let ask = |target: &Target| {
        Template::new("POST", SANDBOX, "x-api-key", &target.callers[..100], HELLO)
    };
    for side in sides {
        if !peaks.contains_key(&(side.name, PAID[1].0)) {
            bench.measure(PAID[1].0, &side.target, ask(&side.target), how, None, None);
        }
        side.server = None;
        listen(&side.database, "paid", 100);
        side.start(&[]);
        warm_up(&side.target);
        bench.measure(LISTENED, &side.target, ask(&side.target), how, None, None);
        side.server = None;
        listen(&side.database, "paid", 0);
        side.start(&[]);
        warm_up(&side.target);
    }
}

fn ledger_cost(bench: &mut Bench, side: &Side) {
    let (target, process) = (&side.target, side.server.as_ref().unwrap().id());
    let before = cost::Sizes::now(&side.database, process);
    let load = Load {
        address: target.address.clone(),
        template: Template::new("POST", SANDBOX, "x-api-key", &target.callers[..100], HELLO),
        connections: 64,
        shape: Shape::Closed,
        warm_up: Duration::ZERO,
        time: Duration::from_mins(10),
        requests_max: Some(COST_CALLS),
    };
    let measured = generator::run(load);
    std::thread::sleep(Duration::from_secs(1));
    let after = cost::Sizes::now(&side.database, process);
    bench.costs.extend(after.since(&before, side.name, measured.answers()));
}

/// Calls once for each account, so that all are in memory.
fn warm_up(target: &Target) {
    let measured = generator::run(Load {
        address: target.address.clone(),
        template: Template::new("POST", SANDBOX, "x-api-key", &target.callers, HELLO),
        connections: 16,
        shape: Shape::Closed,
        warm_up: Duration::ZERO,
        time: Duration::from_mins(10),
        requests_max: Some(target.callers.len()),
    });
    assert_eq!(measured.others(200), 0, "{:?}", measured.statuses);
}

fn refusals(bench: &mut Bench, bare: &Target, sides: &mut [Side]) {
    let how = |status| (64, 100, Shape::Closed, status);
    let ask = |callers: &[String]| Template::new("POST", SANDBOX, "x-api-key", callers, HELLO);
    for (case, status) in [(BAD_CHECKSUM, 401), (NO_CREDITS, 402), (OVER_LIMIT, 429)] {
        if !bench.is_chosen(case) {
            continue;
        }
        bench.measure(case, bare, ask(&bare.callers[..100]), how(200), None, None);
        for side in &mut *sides {
            if status == 429 {
                side.start(&[
                    ("POLYSYSTEMS_RATE_LIMIT__ENABLED", "true"),
                    ("POLYSYSTEMS_RATE_LIMIT__ADDRESS_PER_SECOND", "1"),
                ]);
            }
            let target = &side.target;
            let callers: Vec<String> = match status {
                // The last character belongs to the checksum.
                401 => target.callers[..100].iter().map(|key| changed(key)).collect(),
                402 => target.poor.clone(),
                _ => target.callers[..100].to_vec(),
            };
            bench.measure(case, target, ask(&callers), how(status), None, Some("bare"));
            if status == 429 {
                side.start(&[]);
                warm_up(&side.target);
            }
        }
    }
}

fn changed(key: &str) -> String {
    let (rest, last) = key.split_at(key.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

/// Latencies at fractions of the peak that was just measured, with requests due at fixed times;
/// also for the bare handler at the same rates.
fn latencies(
    bench: &mut Bench,
    bare: &Target,
    sides: &[Side],
    peaks: &BTreeMap<(&str, &str), f64>,
) {
    let ask = |target: &Target| {
        Template::new("POST", SANDBOX, "x-api-key", &target.callers[..100], HELLO)
    };
    for side in sides {
        let peak = peaks.get(&(side.name, PAID[1].0)).copied().unwrap_or_else(|| {
            let (case, target) = (PAID[1].0, &side.target);
            let how = (64, 100, Shape::Closed, 200);
            bench.measure(case, target, ask(target), how, None, None)
        });
        for part in [0.25, 0.5, 0.75] {
            let shape = Shape::Open((peak * part).round());
            let case = format!("{} at {part} of {}'s peak", LATENCY, side.name);
            bench.measure(&case, bare, ask(bare), (64, 100, shape, 200), None, None);
            let target = &side.target;
            bench.measure(&case, target, ask(target), (64, 100, shape, 200), None, Some("bare"));
        }
    }
}
