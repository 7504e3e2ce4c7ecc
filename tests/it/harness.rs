//! Thousands of calls of every kind against the real binary, with an upstream that misbehaves,
//! clients that leave, balances that run out, and a server that is killed in between. Afterwards
//! the clients' own log is held against the ledgers.
//!
//! `HARNESS_CALLS`, `HARNESS_KEYS` and `HARNESS_SEED` lengthen or repeat a run.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::process::{Customer, Process, verify};
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, nanos, on_both};

on_both!(streams_and_calls_are_billed_for_what_was_delivered, repeated_calls_are_charged_once);

const BASE: i64 = 2_000_000;
const TOKEN: i64 = 10_000;
/// Tokens of the prompt that all calls have.
const PROMPT: i64 = 9;
const TASKS: usize = 24;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn cost(words: i64) -> i64 {
    BASE + (PROMPT + words) * TOKEN
}

/// Where the server is now; it comes back elsewhere after each restart.
type Url = Arc<Mutex<String>>;

async fn start(database: &Database, upstream: &Upstream, lowers: bool) -> Process {
    let url = upstream.url();
    Process::start_with(database, |command| {
        command
            .env("POLYSYSTEMS_UPSTREAMS__V1__URL", url)
            .env("POLYSYSTEMS_UPSTREAMS__V1__TIMEOUT_SECONDS", "2")
            .env("POLYSYSTEMS_UPSTREAMS__V1__STREAM_IDLE_SECONDS", "1")
            .env("POLYSYSTEMS_HOLDS__STEP_TOKENS", "16")
            .env("POLYSYSTEMS_HOLDS__VISIBLE_MODELS", "*")
            .env("POLYSYSTEMS_HOLDS__LOWER_TOKEN_LIMIT", lowers.to_string())
            .env("POLYSYSTEMS_HOLDS__START_TOKENS", "4");
    })
    .await
}

/// What the upstream is asked to do, in the request's own body.
fn obey(body: &Value) -> Script {
    let plan = &body["metadata"];
    let number = |name: &str| usize::try_from(plan[name].as_i64().unwrap()).unwrap();
    if plan["end"] == "status" {
        return Script::Answer(500, "{}".into());
    }
    let told = body["max_tokens"].as_u64().or(body["max_completion_tokens"].as_u64());
    let told = usize::try_from(told.unwrap()).unwrap();
    let words = if plan["disobeys"] == true { number("words") } else { number("words").min(told) };
    let usage = match plan["usage"].as_str().unwrap() {
        "right" => json!({ "prompt_tokens": PROMPT, "completion_tokens": words }),
        "absurd" => json!({ "prompt_tokens": PROMPT, "completion_tokens": 50_000_000 }),
        "negative" => json!({ "prompt_tokens": -9, "completion_tokens": words }),
        _ => Value::Null,
    };
    if body["stream"] != true {
        let text = " word".repeat(words);
        let answer = json!({ "choices": [{ "message": { "content": text } }], "usage": usage });
        return match plan["end"].as_str().unwrap() {
            "cut" => Script::Cut,
            "stall" => Script::Silent,
            _ => Script::Answer(200, answer.to_string()),
        };
    }
    let size = number("size");
    let mut steps = Vec::new();
    let mut left = words;
    while left > 0 {
        steps.push(word(&" word".repeat(size.min(left))));
        left = left.saturating_sub(size);
        if plan["pauses"] == true {
            steps.push(Step::Pause(Duration::from_millis(1)));
        }
    }
    let at = number("at").min(steps.len());
    match plan["end"].as_str().unwrap() {
        "cut" => steps.splice(at.., [Step::Cut]).for_each(drop),
        "stall" => steps.splice(at.., [Step::Stall]).for_each(drop),
        _ => steps.push(usage_and_done(&usage)),
    }
    Script::Events(steps)
}

fn plan(random: &mut StdRng) -> Value {
    let end = match random.random_range(0..100) {
        0..80 => "whole",
        80..94 => "cut",
        94..99 => "status",
        _ => "stall",
    };
    let usage = match random.random_range(0..20) {
        0..14 => "right",
        14..16 => "absurd",
        16..18 => "negative",
        _ => "none",
    };
    json!({
        "model": "m",
        "stream": random.random_bool(0.7),
        "max_tokens": random.random_range(1..100),
        "messages": [{ "role": "user", "content": "Hello!" }],
        // Where no model is shown it.
        "metadata": {
            "words": random.random_range(0..80), "size": random.random_range(1..6),
            "at": random.random_range(0..20), "pauses": random.random_bool(0.2),
            "end": end, "usage": usage, "disobeys": random.random_bool(0.05),
            // After how many pieces the client leaves.
            "leaves": random.random_bool(0.1).then(|| random.random_range(0..6)),
        },
    })
}

/// What a client knows of its call.
#[derive(Debug)]
enum Known {
    /// It was billed so much, for so many words.
    Billed { cost: i64 },
    /// It left, having seen so many words of so many.
    Left { seen: i64, of: i64, plan: String },
}

#[derive(Default)]
struct Log {
    calls: Mutex<BTreeMap<String, Known>>,
    done: AtomicUsize,
    whole: AtomicUsize,
    declined: AtomicUsize,
    broken: AtomicUsize,
    left: AtomicUsize,
    refused: AtomicUsize,
    unanswered: AtomicUsize,
    stopped: AtomicBool,
}

impl Log {
    fn write(&self, id: String, known: Known) {
        assert!(self.calls.lock().unwrap().insert(id, known).is_none());
    }
}

/// Makes a call; its status, or 0 where there was no answer.
async fn call(client: &reqwest::Client, url: &str, key: &str, body: &Value, log: &Log) -> u16 {
    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::SeqCst);
    let request = client.post(format!("{url}/v1/chat/completions")).header("X-API-Key", key);
    let Ok(mut answer) = request.body(body.to_string()).send().await else {
        count(&log.unanswered);
        return 0;
    };
    if answer.status() != 200 {
        assert!([402, 424, 502, 503, 504].contains(&answer.status().as_u16()), "{answer:?}");
        count(&log.refused);
        return answer.status().as_u16();
    }
    let header =
        |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let id = header("x-polysystems-charge").unwrap();
    let plain_cost = header("x-polysystems-cost");
    // The limit that the upstream was told, and disobeys now and then: what is above it is not
    // billed.
    let told = header("x-polysystems-max-tokens").map(|tokens| tokens.parse().unwrap());
    let told: i64 = told.or(body["max_tokens"].as_i64()).unwrap();
    let plan = &body["metadata"];
    let leaves = plan["leaves"].as_u64().filter(|_| plain_cost.is_none());
    let (mut text, mut pieces) = (String::new(), 0);
    let whole = loop {
        if leaves.is_some_and(|leaves| pieces >= leaves) {
            break false;
        }
        pieces += 1;
        match answer.chunk().await {
            Ok(Some(chunk)) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let words = i64::try_from(text.matches(" word").count()).unwrap();
    let of = plan["words"].as_i64().unwrap();
    let of = if plan["usage"] == "absurd" { of.max(told) } else { of };
    if let Some(paid) = plain_cost {
        let paid: domain::Credits = paid.parse().unwrap();
        if whole {
            if plan["usage"] != "absurd" && (plan["disobeys"] == false || words <= told) {
                let least = cost(words).min(paid.nanos());
                assert_eq!(paid.nanos(), least, "{plan} {text}");
            }
            count(&log.whole);
            log.write(id, Known::Billed { cost: paid.nanos() });
        } else {
            count(&log.unanswered);
        }
        return 200;
    }
    let comment = text.rfind(": polysystems {").map(|at| at + ": polysystems ".len());
    let Some(comment) = comment.filter(|_| whole) else {
        count(&log.left);
        log.write(id, Known::Left { seen: words, of, plan: format!("{body} told {told}") });
        return 200;
    };
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let bill: Value = serde_json::from_str(text[comment..].lines().next().unwrap()).unwrap();
    if bill.get("cost").is_none() {
        // Cut off by the end of the server: it says that it does not know.
        count(&log.left);
        log.write(id, Known::Left { seen: words, of, plan: format!("{body} told {told}") });
        return 200;
    }
    let paid = nanos(&bill["cost"]);
    match bill["ended_by"].as_str() {
        None => {
            count(&log.whole);
            // Delivered units are billed units, where the upstream did not lie.
            if plan["usage"] != "absurd" && words <= told {
                assert_eq!(paid, cost(words), "{plan} {text}");
            }
        }
        Some("insufficient_credits" | "spending_limit" | "token_limit") => {
            count(&log.declined);
            // Perhaps not even the first piece was covered; the prompt is.
            let expected = cost(words);
            assert!(paid == expected || (words > told && paid < expected), "{plan} {text}");
        }
        Some("upstream_error" | "upstream_timeout") => {
            count(&log.broken);
            let expected = if words == 0 { 0 } else { cost(words) };
            assert!(paid == expected || (words > told && paid < expected), "{plan} {text}");
        }
        Some(other) => panic!("{other}: {text}"),
    }
    log.write(id, Known::Billed { cost: paid });
    200
}

/// Every charge of a customer's ledger, by the call it belongs to.
async fn charges(process: &Process, customer: &Customer) -> BTreeMap<String, i64> {
    let mut charges = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/payments/transactions?limit=100{cursor}");
        let (status, page) = process.call("GET", &path, &customer.token, &Value::Null).await;
        assert_eq!(status, 200, "{page}");
        for entry in page["transactions"].as_array().unwrap() {
            assert!(nanos(&entry["balance_after"]) >= 0, "{entry}");
            if entry["kind"] != "top_up" {
                let id = entry["reference"].as_str().unwrap().to_owned();
                let before = charges.insert(id, -nanos(&entry["amount"]));
                assert!(before.is_none(), "twice: {entry}");
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return charges,
        }
    }
}

/// Waits until so many calls are done. Fails if a client has failed meanwhile.
async fn wait_for(counter: &AtomicUsize, least: usize, clients: &[JoinHandle<()>]) {
    while counter.load(Ordering::SeqCst) < least {
        assert!(!clients.iter().any(JoinHandle::is_finished), "a client has failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn customers(process: &Process, balances: &[u32]) -> Vec<Customer> {
    let mut customers = Vec::new();
    for (number, balance) in balances.iter().enumerate() {
        customers.push(process.customer(&format!("customer{number}"), *balance).await);
    }
    customers
}

async fn limit(process: &Process, customer: &Customer, amount: &str) {
    let keys = process.call("GET", "/api/keys", &customer.token, &Value::Null).await.1;
    let path = format!("/api/keys/{}/limits", keys[0]["id"].as_str().unwrap());
    let amount: Value = serde_json::from_str(amount).unwrap();
    let limits = json!({ "per_request_limit": amount });
    assert_eq!(process.call("PUT", &path, &customer.token, &limits).await.0, 200);
}

async fn streams_and_calls_are_billed_for_what_was_delivered(database: Database) {
    let calls = usize::try_from(setting("HARNESS_CALLS", 10_500)).unwrap();
    let seed = setting("HARNESS_SEED", 1);
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let mut process = start(&database, &upstream, true).await;
    // Some have enough, most run out again and again.
    let customers = customers(&process, &[1_000, 1_000, 1, 1, 1, 1, 1, 1]).await;
    // And some have limits that most of their calls come up against.
    for (customer, amount) in customers.iter().zip(["0.0024", "0.0028", "0.0023"]) {
        limit(&process, customer, amount).await;
    }
    let log = Arc::new(Log::default());
    let url: Url = Arc::new(Mutex::new(process.url.clone()));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (log, url) = (Arc::clone(&log), Arc::clone(&url));
            let customer = customers[task % customers.len()].clone();
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed * 1_000 + u64::try_from(task).unwrap());
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                while !log.stopped.load(Ordering::SeqCst) {
                    let url = url.lock().unwrap().clone();
                    match call(&client, &url, &customer.key, &plan(&mut random), &log).await {
                        // The server is on its way down, or back.
                        0 | 503 => tokio::time::sleep(Duration::from_millis(50)).await,
                        402 => {
                            // A little more to spend.
                            let post = client.post(format!("{url}/api/payments/payments"));
                            let amount = random.random_range(5..40);
                            let body = format!("{{\"amount\": 0.{amount:03}}}");
                            let _ = post.bearer_auth(&customer.token).body(body).send().await;
                        }
                        _ => {
                            log.done.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            })
        })
        .collect();
    for round in 1..=6 {
        wait_for(&log.done, calls * round / 6, &tasks).await;
        if round == 6 {
            break;
        }
        if round % 2 == 0 {
            assert_eq!(process.terminate(), Some(0));
        } else {
            process.kill();
        }
        process = start(&database, &upstream, round % 2 == 0).await;
        url.lock().unwrap().clone_from(&process.url);
    }
    log.stopped.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    database.no_hold_is_open().await;
    let mut charged = BTreeMap::new();
    for customer in &customers {
        charged.extend(charges(&process, customer).await);
    }
    let mut unpaid = 0;
    for (id, known) in log.calls.lock().unwrap().iter() {
        let paid = charged.get(id).copied().unwrap_or(0);
        match known {
            Known::Billed { cost } => assert_eq!(paid, *cost, "{id}"),
            Known::Left { seen, of, plan } => {
                // What a crash cut off is charged for what was written down, or not at all.
                assert!(paid <= cost(*of), "{id}: {paid} for {seen} of {of}: {plan}");
                unpaid += usize::from(*seen > 0 && paid < cost(*seen));
            }
        }
    }
    // A client that leaves pays for what it saw, except for calls that one of three kills cut off.
    assert!(unpaid <= 3 * TASKS, "{unpaid}");
    assert_eq!(process.terminate(), Some(0));
    verify(&database);
    let unreported = database.sums_agree().await;
    assert!(unreported <= 3 * TASKS, "{unreported}");
    let above = "SELECT CAST(COUNT(*) AS TEXT) FROM hold_end WHERE captured > held";
    assert_eq!(database.query(above).await, "0");
    // A workload that never gets anywhere proves nothing.
    let counts = [&log.whole, &log.declined, &log.broken, &log.left, &log.refused, &log.unanswered]
        .map(|counter| counter.load(Ordering::SeqCst));
    let kinds = "SELECT CAST(COUNT(DISTINCT kind) AS TEXT) FROM hold_end";
    assert_eq!(database.query(kinds).await, "3", "{counts:?}");
    let [whole, declined, broken, left, ..] = counts;
    assert!(whole > calls / 2 && broken > calls / 50 && left > calls / 50, "{counts:?}");
    assert!(declined > calls / 2_000, "{counts:?}");
}

/// One logical call, sent several times.
struct Logical {
    path: &'static str,
    body: String,
    key: String,
    customer: usize,
    answer: Mutex<Option<String>>,
}

async fn repeated_calls_are_charged_once(database: Database) {
    let keys = usize::try_from(setting("HARNESS_KEYS", 10_000)).unwrap();
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let mut process = start(&database, &upstream, true).await;
    let customers = customers(&process, &[10_000, 10_000, 10_000, 10_000]).await;
    let mut random = StdRng::seed_from_u64(setting("HARNESS_SEED", 1));
    let (mut logical, mut sends) = (Vec::new(), Vec::new());
    for number in 0..keys {
        let (path, stream) = match random.random_range(0..10) {
            0..6 => ("/api/hub/rag/index", false),
            6..8 => ("/v1/chat/completions", false),
            _ => ("/v1/chat/completions", true),
        };
        let mut body = plan(&mut random);
        body["stream"] = json!(stream);
        body["metadata"]["end"] = json!("whole");
        body["metadata"]["words"] = json!(random.random_range(1..20));
        let customer = random.random_range(0..customers.len());
        let key = format!("call-{number}");
        let body = body.to_string();
        logical.push(Logical { path, body, key, customer, answer: Mutex::default() });
        // Copies close to each other, and far away.
        for _ in 0..random.random_range(1..=5) {
            let near = random.random_bool(0.5);
            let at = number + if near { 0 } else { random.random_range(0..keys) };
            sends.push((at, random.random_range(0..1_000_u32), number));
        }
    }
    sends.sort_unstable();
    let (logical, sends) = (Arc::new(logical), Arc::new(sends));
    let (next, replays, early) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let url: Url = Arc::new(Mutex::new(process.url.clone()));
    let tasks: Vec<_> = (0..24)
        .map(|_| {
            let (logical, sends, url) =
                (Arc::clone(&logical), Arc::clone(&sends), Arc::clone(&url));
            let (next, replays, early) =
                (Arc::clone(&next), Arc::clone(&replays), Arc::clone(&early));
            let keys: Vec<String> = customers.iter().map(|customer| customer.key.clone()).collect();
            tokio::spawn(async move {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                while let Some((_, _, number)) = sends.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let call = &logical[*number];
                    // Until it is answered, as a client would.
                    loop {
                        let url = url.lock().unwrap().clone();
                        let request = client
                            .post(format!("{url}{}", call.path))
                            .header("X-API-Key", &keys[call.customer])
                            .header("Idempotency-Key", &call.key)
                            .body(call.body.clone());
                        let Ok(answer) = request.send().await else {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            continue;
                        };
                        let status = answer.status().as_u16();
                        let is_replay = answer.headers().contains_key("idempotent-replayed");
                        let Ok(text) = answer.text().await else { continue };
                        if status == 200 && !text.contains("\"code\":\"unavailable\"") {
                            if call.path.starts_with("/v1")
                                && call.body.contains("\"stream\":true")
                                && !text.ends_with("[DONE]\n\n")
                            {
                                continue;
                            }
                            replays.fetch_add(usize::from(is_replay), Ordering::SeqCst);
                            let mut first = call.answer.lock().unwrap();
                            match &*first {
                                None => *first = Some(text),
                                Some(first) => assert_eq!(&text, first, "{}", call.key),
                            }
                            break;
                        }
                        assert!([200, 409, 503].contains(&status), "{status} {text}");
                        early.fetch_add(usize::from(status == 409), Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            })
        })
        .collect();
    for round in 1..=4 {
        wait_for(&next, sends.len() * round / 5, &tasks).await;
        process.kill();
        process = start(&database, &upstream, true).await;
        url.lock().unwrap().clone_from(&process.url);
    }
    for task in tasks {
        task.await.unwrap();
    }
    database.no_hold_is_open().await;
    let mut charged = BTreeMap::new();
    for customer in &customers {
        charged.extend(charges(&process, customer).await);
    }
    assert!(logical.iter().all(|call| call.answer.lock().unwrap().is_some()));
    assert_eq!(charged.len(), keys, "one charge for each key");
    assert!(charged.values().all(|paid| *paid > 0));
    assert!(replays.load(Ordering::SeqCst) > keys / 2);
    assert!(early.load(Ordering::SeqCst) > 0, "no copy ever met its first");
    assert_eq!(process.terminate(), Some(0));
    verify(&database);
    assert_eq!(database.sums_agree().await, 0, "what is repeated is held, and so recorded");
}
