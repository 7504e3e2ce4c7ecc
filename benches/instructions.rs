//! Counts the instructions of the parts of a paid call. The count does not depend on the load or
//! the clock of the machine, so it shows a slower implementation more reliably than a time does.
//!
//! `cargo bench --bench instructions` runs each case under valgrind and compares it with
//! `benches/instructions.txt`. It fails if a case takes more instructions than its limit allows: 10
//! or 15 percent more. `-- --record` writes the file anew. If the compiler is another one, the
//! counts are only printed, because another compiler generates other code.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed measurement may panic"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use actix::{Arbiter, System};
use domain::api_key::{ApiKey, Pepper};
use domain::stored_bill::StoredBill;
use domain::{
    Account, AccountId, AccountStatus, Batch, Bill, Charge, ChargeId, Convention, Credits, Dim,
    Environment, Flags, KeyId, KeyState, Link, LoadedAccount, Outcome, Price, PriceBounds,
    SpendingLimits, StoredAccount, Timestamp, VersionId,
};
use futures_util::future::join_all;
use polysystems::actors::ActorThreads;
use polysystems::actors::LedgerWriter;
use polysystems::app;
use polysystems::clock::Clock;
use polysystems::config::{DatabaseSettings, Settings, Sources};
use polysystems::store::Store;
use polysystems::tokens;
use polysystems::upstream::{Client, Connector};
use test_support::call::{COST, is_answered, usage};
use test_support::{Database, seed};
use uuid::Uuid;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
const NOW: Timestamp = Timestamp::from_micros(1_705_320_000_000_000);
const BALANCE: Credits = Credits::from_nanos(1_000_000_000_000_000);
const HELP: &str = "cargo bench --bench instructions [-- --record]

  --record   write benches/instructions.txt anew";

/// A case: its name, its number of repetitions, its allowed growth in percent, and a function that
/// runs it a given number of times.
type Case = (&'static str, u64, u64, fn(u64));

const CASES: [Case; 10] = [
    ("charge and settle, fixed price", 10_000, 10, |times| charge(times, Price::Fixed(COST))),
    ("charge and settle, hold", 10_000, 10, |times| {
        charge(times, Price::UpTo(PriceBounds::whole(COST, Credits::from_nanos(12_770_000))));
    }),
    ("key: parse and digest", 10_000, 10, key),
    ("price of a route", 10_000, 10, route),
    ("tokens of a short prompt", 10_000, 10, tokens_of_prompt),
    ("batch of 64 paid calls", 500, 10, batch),
    // These run on several threads, whose schedule varies.
    ("pipeline: paid call, on record in SQLite", 4_000, 15, |times| whole(times, true)),
    // Many repetitions, so that work that the process does periodically does not matter.
    ("pipeline: bad checksum", 64_000, 15, |times| whole(times, false)),
    // These have the HTTP server and its connection as well.
    ("server: refusal 402", 8_000, 15, |times| {
        over_http(times, "/api/hub/agents/chat", Credits::ZERO, b"HTTP/1.1 402 ");
    }),
    ("server: proxied whole answer", 4_000, 15, |times| {
        over_http(times, "/v1/chat/completions", BALANCE, b"HTTP/1.1 200 ");
    }),
];

fn account() -> (Account, KeyId) {
    let limit = Some(Credits::MAX);
    let limits = SpendingLimits { per_request: limit, daily: limit, monthly: limit, total: limit };
    let key = KeyId(Uuid::from_u128(1));
    let stored = StoredAccount {
        id: AccountId(1),
        environment: Environment::Live,
        status: AccountStatus::Open,
        balance: Credits::MAX,
        seq: 0,
        link: Link::START,
    };
    let keys = vec![KeyState::new(key, limits)];
    let loaded = LoadedAccount { stored, epoch: 1, keys, holds: Vec::new() };
    (Account::load(loaded, Arc::default()), key)
}

fn order(number: u64, key: KeyId, price: Price) -> Charge {
    let id = ChargeId(Uuid::from_u128(number.into()));
    Charge { id, key, price, bill: bill(), expires_at: NOW, is_durable: false }
}

/// The bill of a call that is priced by tokens.
fn bill() -> Option<StoredBill> {
    let quantities = [(Dim::Request, 1), (Dim::Input, 400), (Dim::Output, 600)];
    StoredBill::of(&Bill {
        version: VersionId::FIRST,
        card: 20,
        row: 0,
        convention: Convention::default(),
        flags: Flags::NONE,
        quantities: quantities.into_iter().collect(),
    })
}

fn charge(times: u64, price: Price) {
    let (mut account, key) = account();
    for number in 0..times {
        let order = order(number, key, price);
        account.charge(black_box(&order), NOW).unwrap();
        let outcome = Outcome::Delivered { cost: COST, bill: bill() };
        black_box(account.settle(order.id, outcome, NOW, None, None).unwrap());
    }
}

fn key(times: u64) {
    let key = ApiKey::from_symbols(Environment::Live, [7; 30]);
    let pepper = Pepper::new(&[7; 32]).unwrap();
    for _ in 0..times {
        let Ok(key) = ApiKey::parse(black_box(key.expose())) else { panic!("not a key") };
        black_box(key.digest(&pepper));
    }
}

fn route(times: u64) {
    let prices = Settings::default().price_list().unwrap();
    for _ in 0..times {
        black_box(prices.find(black_box("POST"), black_box("/api/hub/agents/chat")).unwrap());
    }
}

fn tokens_of_prompt(times: u64) {
    let vocabulary = tokens::vocabulary(None);
    for _ in 0..times {
        black_box(tokens::count(vocabulary, black_box("Hello! How are you today?")));
    }
}

fn batch(times: u64) {
    let (mut owner, key) = account();
    for round in 0..times {
        let mut writes = Vec::new();
        for number in 0..64 {
            let order = order(round * 64 + number, key, Price::Fixed(COST));
            writes.extend(owner.charge(&order, NOW).unwrap().write);
            let usage = Some(usage(AccountId(1), key, order.id, NOW));
            let outcome = Outcome::Delivered { cost: COST, bill: bill() };
            writes.extend(owner.settle(order.id, outcome, NOW, usage, None).unwrap().write);
        }
        black_box(Batch::of(writes.iter().map(AsRef::as_ref)));
    }
}

/// Calls through the pipeline, 32 at once.
fn whole(times: u64, is_valid: bool) {
    let database = Database::sqlite();
    let keys = seed::accounts(&database, "paid", 10, BALANCE);
    let runtime = app::database_runtime().unwrap();
    System::new().block_on(async {
        let connecting = DatabaseSettings::default();
        let handle = runtime.handle().clone();
        let store = Store::open(&connecting, database.url(), handle).await.unwrap();
        let lease = store.take_lease(Uuid::new_v4()).await.unwrap();
        let arbiter = Arbiter::new();
        let mut settings = Settings::default();
        settings.data_dir = database.folder().into();
        settings.rate_limit.enabled = false;
        let ledger = LedgerWriter::start(&arbiter, store.clone(), lease, &settings.ledger);
        let (clock, threads) = (Clock::System, ActorThreads::default());
        threads.add_this();
        let prices = app::publish_prices(&settings, &clock, &store).await.unwrap();
        let gateway = app::gateway(&settings, &clock, &store, &ledger, &threads, &prices).unwrap();
        let client = Client::new(Connector::new(&settings.upstreams).unwrap());
        let mut keys = keys.iter().cycle();
        for round in 0..=times / 32 {
            if round == 1 {
                // The first checkpoint of a process sums up its calls in SQL. How many it has
                // depends on the schedule, so it gets few, and both runs have them.
                ledger.barrier().await.unwrap();
            }
            let calls = keys.by_ref().take(32).map(|key| {
                let key = if is_valid { key.clone() } else { key.replace('_', "-") };
                // In a box, as in the server. Otherwise large futures are copied.
                Box::pin(is_answered(Arc::clone(&gateway), client.clone(), key))
            });
            let served = join_all(calls).await;
            assert!(served.iter().all(|is_answered| *is_answered == is_valid));
        }
        ledger.barrier().await.unwrap();
    });
}

const HELLO: &str = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","#,
    r#""choices":[{"index":0,"finish_reason":"stop","#,
    r#""message":{"role":"assistant","content":"Hello! How can I help you today?"}}],"#,
    r#""usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#
);

/// Calls to the whole server, one after the other on one connection. Each is answered with a status
/// line that begins with `status`.
fn over_http(times: u64, path: &str, balance: Credits, status: &'static [u8]) {
    let database = Database::sqlite();
    let keys = seed::accounts(&database, "caller", 1, balance);
    let [key] = keys.as_slice() else { panic!("not one key") };
    let length = HELLO.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{HELLO}"
    );
    let mut settings = Settings::default();
    settings.data_dir = database.folder().into();
    settings.database.url = serde_json::from_value(database.url().into()).unwrap();
    settings.server.bind = ([127, 0, 0, 1], 0).into();
    settings.server.workers = 1;
    settings.rate_limit.enabled = false;
    settings.upstreams.v1.url = Some(format!("http://{}", upstream()));
    let (end, is_over) = tokio::sync::oneshot::channel();
    let listening = move |address| {
        std::thread::spawn(move || {
            let mut server = TcpStream::connect(address).unwrap();
            server.set_nodelay(true).unwrap();
            let mut answer = Vec::new();
            for _ in 0..times {
                server.write_all(request.as_bytes()).unwrap();
                read_message(&mut server, &mut answer);
                assert!(answer.starts_with(status), "{}", String::from_utf8_lossy(&answer));
            }
            end.send(()).unwrap();
        });
    };
    // If the client has failed, nothing is sent.
    app::serve(settings, &Sources::new(), Clock::System, listening, async {
        is_over.await.unwrap();
    })
    .unwrap();
}

/// Starts a model that answers at once.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut request = Vec::new();
            while read_message(&mut client, &mut request) {
                client.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    address
}

/// Reads a message whose body is an object: no head ends with a brace. False if there is none.
fn read_message(stream: &mut TcpStream, message: &mut Vec<u8>) -> bool {
    message.clear();
    let mut piece = [0; 4_096];
    while message.last() != Some(&b'}') {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return false,
            Ok(length) => message.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
    true
}

/// On some processors the C library copies large blocks with one instruction that counts as one.
/// These settings prevent this.
const ON_ANY_PROCESSOR: &str =
    "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// The number of instructions of a process that runs a case `times` times.
fn instructions(case: &str, times: u64) -> u64 {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args(["--case", case, "--times", &times.to_string()])
        .env("GLIBC_TUNABLES", ON_ANY_PROCESSOR)
        .output()
        .expect("please install valgrind");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let count = said
        .lines()
        .filter_map(|line| line.split_once(" refs:"))
        .find_map(|(what, count)| what.trim_end().ends_with('I').then_some(count));
    let count = count.unwrap_or_else(|| panic!("valgrind does not count: {said}"));
    count.trim().replace(',', "").parse().expect("a number")
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("needs rustc");
    let machine = std::env::consts::ARCH;
    format!("{} {machine}", String::from_utf8_lossy(&output.stdout).trim())
}

/// The compiler of the recorded counts, and the counts.
fn recorded() -> Option<(String, BTreeMap<String, u64>)> {
    let text = std::fs::read_to_string(RECORD).ok()?;
    let mut lines = text.lines();
    let compiler = lines.next()?.to_owned();
    let count = |line: &str| {
        let (name, count) = line.rsplit_once(' ')?;
        Some((name.trim().to_owned(), count.parse().ok()?))
    };
    Some((compiler, lines.filter_map(count).collect()))
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_recording = match *arguments {
        ["--case", case, "--times", times] => {
            let (.., run) = CASES.iter().find(|(name, ..)| *name == case).expect("a case");
            run(times.parse().expect("a number"));
            return ExitCode::SUCCESS;
        }
        [] => false,
        ["--record"] => true,
        _ => {
            println!("{HELP}");
            return ExitCode::from(u8::from(!matches!(*arguments, ["--help" | "-h"])));
        }
    };
    let compiler = compiler();
    let before = recorded().filter(|(of, _)| !is_recording && *of == compiler);
    if before.is_none() && !is_recording && Path::new(RECORD).exists() {
        println!("The counts on record are of another compiler: nothing is compared.");
    }
    println!("{:<44}{:>14}{:>12}", "case", "instructions", "of record");
    let (mut record, mut has_grown) = (vec![compiler], false);
    for (name, times, growth_max, _) in CASES {
        // Both runs include the setup, so the difference does not.
        let half = times / 2;
        let each = instructions(name, times).saturating_sub(instructions(name, half)) / half;
        record.push(format!("{name} {each}"));
        let Some(was) = before.as_ref().and_then(|(_, counts)| counts.get(name)) else {
            println!("{name:<44}{each:>14}{:>12}", "-");
            continue;
        };
        let percent = each * 100 / was.max(&1);
        let is_more = percent > 100 + growth_max;
        has_grown |= is_more;
        println!("{name:<44}{each:>14}{percent:>10} %{}", if is_more { "  MORE" } else { "" });
    }
    if is_recording {
        std::fs::write(RECORD, record.join("\n") + "\n").unwrap();
    }
    if has_grown {
        println!(
            "Take it away again, or say why it is worth it and record the counts: -- --record"
        );
    }
    ExitCode::from(u8::from(has_grown))
}
