//! Revisions of the catalogue and versions of the prices are published ten a second while calls run
//! as fast as they can: no call fails, each bill is by the version that was in force when its call
//! arrived, and what is faulty changes nothing.
//!
//! `RELOAD_SECONDS` is how long (8).
#![expect(clippy::print_stdout, reason = "how much was done depends on the machine")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::bills::{bills, read};
use crate::streams::rich_user;
use crate::support::process::verify;
use crate::support::shop::{cards, catalogue, chat, obey};
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Key, Server, User, nanos, on_both};

on_both!(
    reloads_fail_no_call_and_misprice_none,
    a_target_that_vanishes_finishes_its_call,
    what_is_faulty_changes_nothing_and_is_told_whole,
);

const CATALOGUE: &str = "/api/admin/catalogue";
const VERSIONS: &str = "/api/admin/price-lists/default/versions";
const CALLERS: usize = 12;
/// Ten a second.
const PAUSE: Duration = Duration::from_millis(100);

fn seconds() -> u64 {
    std::env::var("RELOAD_SECONDS").map_or(8, |value| value.parse().unwrap())
}

async fn shop<'s>(server: &'s Server, database: &Database, upstream: &Upstream) -> User<'s> {
    let operator = server.operator(database, "operator").await;
    operator.open_shop(&upstream.url()).await;
    operator
}

async fn put(operator: &User<'_>, seen: u64, document: &Value, status: u16) -> Value {
    let request = operator.put(CATALOGUE, document).header("If-Match", &format!("\"rev-{seen}\""));
    request.expect(status).await.body
}

/// The catalogue of the shop in one of its forms: `chat` is served by one deployment or by the
/// other, which is called otherwise each time, and other models come and go.
fn revision(upstream: &str, number: u64) -> Value {
    let mut document = catalogue(upstream);
    let one = if number.is_multiple_of(2) { "a" } else { "b" };
    let extra = format!("extra-{number}");
    document["deployments"].as_array_mut().unwrap().push(json!({
        "name": extra, "credential": one, "upstream_model": format!("theirs-{one}") }));
    document["models"][0]["targets"] = json!([{ "deployment": extra }]);
    document["models"].as_array_mut().unwrap().truncate(1 + usize::try_from(number % 3).unwrap());
    let large = json!({ "name": "large", "max_input": 400_000, "max_output": 20_000,
        "targets": [{ "deployment": "c" }] });
    let has_large = document["models"].as_array().unwrap().iter().any(|one| one["name"] == "large");
    if !has_large {
        document["models"].as_array_mut().unwrap().push(large);
    }
    document
}

/// Publishes until the time is over: the revisions, and the versions with the second from which
/// each is in force.
async fn publish(operator: &User<'_>, upstream: &str, is_over: &AtomicBool) -> (u64, u64) {
    let server = operator.server;
    let begun = Instant::now();
    let (mut revisions, mut versions) = (1_u64, 0_u64);
    while begun.elapsed() < Duration::from_secs(seconds()) {
        let next = Instant::now() + PAUSE;
        if revisions.is_multiple_of(7) {
            operator.confirm().await;
            let mut faulty = revision(upstream, revisions);
            faulty["models"][0]["max_input"] = json!(0);
            put(operator, revisions, &faulty, 400).await;
        }
        put(operator, revisions, &revision(upstream, revisions), 200).await;
        revisions += 1;
        // In force a second later by the server's clock, which goes on when it is published.
        let dollars = u32::try_from(versions % 5).unwrap();
        let body = json!({ "publish": true, "cards": cards(dollars) });
        operator.post(VERSIONS, &body).expect(201).await;
        versions += 1;
        server.advance(1);
        tokio::time::sleep_until(next.into()).await;
    }
    is_over.store(true, Ordering::SeqCst);
    (revisions, versions)
}

/// Calls one after the other until the time is over.
async fn caller(server: &Server, key: &Key, place: usize, is_over: &AtomicBool) -> usize {
    let mut calls = 0;
    while !is_over.load(Ordering::SeqCst) {
        let plan = json!({ "input": 9, "output": 5, "words": 5, "pause": place % 4 });
        let mut body = chat("chat", &plan);
        body["stream"] = json!(place.is_multiple_of(3));
        let answer = server.post("/v1/chat/completions", &body).key(key).expect(200).await;
        assert!(!place.is_multiple_of(3) || answer.text.contains("[DONE]"), "{}", answer.text);
        calls += 1;
    }
    calls
}

async fn reloads_fail_no_call_and_misprice_none(database: Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server =
        Server::start_with(&database, |settings| settings.pricing.notice_seconds = 1).await;
    let operator = shop(&server, &database, &upstream).await;
    server.advance(1);
    let (user, key) = rich_user(&server, "someone").await;
    user.pay("90.00").await;
    let (is_over, url) = (AtomicBool::new(false), upstream.url());
    let callers = (0..CALLERS).map(|place| caller(&server, &key, place, &is_over));
    let publishing = publish(&operator, &url, &is_over);
    let (calls, (revisions, versions)) =
        futures_util::future::join(join_all(callers), publishing).await;
    let calls: usize = calls.iter().sum();
    println!("{calls} calls, {revisions} revisions and {versions} versions in {} s", seconds());
    assert!(calls > 200 && revisions > 20, "{calls} calls, {revisions} revisions");
    let paid: i64 = user.folded().await;
    drop(operator);
    server.stop();
    // Each call was billed, by the version that was in force when it arrived.
    let of_calls = rows(
        &database,
        "CAST(usage.started_at AS TEXT) || ',' || CAST(entry.price_version AS TEXT) || ',' ||
            CAST(entry.amount AS TEXT)",
        "usage_record AS usage INNER JOIN ledger_entry AS entry
            ON entry.account_id = usage.account_id AND entry.seq = usage.seq",
    )
    .await;
    assert_eq!(of_calls.len(), calls);
    let of_versions = rows(
        &database,
        "CAST(effective_from AS TEXT) || ',' || CAST(id AS TEXT) || ',0'",
        "price_version WHERE list = 2",
    )
    .await;
    let in_force: BTreeMap<(i64, i64), i64> =
        of_versions.iter().map(|[from, id, _]| ((*from, *id), *id)).collect();
    let (mut sum, mut used) = (0, BTreeSet::new());
    for [started, version, amount] in &of_calls {
        let (_, expected) = in_force.range(..=(*started, i64::MAX)).next_back().unwrap();
        assert_eq!(version, expected, "a call that arrived at {started}");
        let dollars = if *version == 2 { 0 } else { (version - 3) % 5 };
        assert_eq!(*amount, -(1_000_000 + 9 * (2 + dollars) * 1_000 + 5 * (8 + dollars) * 1_000));
        sum += amount;
        used.insert(*version);
    }
    assert_eq!(paid, 100_000_000_000 + sum);
    assert!(used.len() > 10, "{} versions were used", used.len());
    verify(&database);
}

/// Three numbers of each row.
async fn rows(database: &Database, of: &str, from: &str) -> Vec<[i64; 3]> {
    let all = if database.is_postgres() {
        format!("SELECT STRING_AGG({of}, ' ') FROM {from}")
    } else {
        format!("SELECT GROUP_CONCAT({of}, ' ') FROM {from}")
    };
    let all = database.query(&all).await;
    all.split_whitespace()
        .map(|row| {
            let mut numbers = row.split(',').map(|number| number.parse().unwrap());
            [0; 3].map(|_| numbers.next().unwrap())
        })
        .collect()
}

async fn a_target_that_vanishes_finishes_its_call(database: Database) {
    let (upstream, sender) = Upstream::live().await;
    let server =
        Server::start_with(&database, |settings| settings.pricing.notice_seconds = 0).await;
    let operator = shop(&server, &database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut body = chat("chat", &json!({}));
    body["stream"] = json!(true);
    let send = |step| {
        let Step::Send(text) = step else { panic!("a text") };
        sender.send(text).unwrap();
    };
    send(word(" one"));
    let mut stream = server.post("/v1/chat/completions", &body).key(&key).stream().await;
    assert!(stream.next().await.unwrap().contains(" one"));
    // Its deployment, its credential, its provider and its model go, and its price changes.
    let mut without = catalogue("http://127.0.0.1:9");
    for (list, names) in [("deployments", ["a", "b"]), ("credentials", ["a", "b"])] {
        let kept = without[list].as_array().unwrap().iter();
        let kept = kept.filter(|one| !names.iter().any(|name| one["name"] == *name));
        without[list] = kept.cloned().collect();
    }
    without["models"]
        .as_array_mut()
        .unwrap()
        .retain(|model| ["large", "claude"].iter().any(|name| model["name"] == *name));
    without["wildcards"] = json!([]);
    let providers = without["providers"].as_array_mut().unwrap();
    providers.retain(|one| one["name"] == "c" || one["name"] == "d");
    put(&operator, 1, &without, 200).await;
    let dearer = json!({ "publish": true, "cards": cards(90) });
    server.advance(1);
    operator.post(VERSIONS, &dearer).expect(201).await;
    let gone = server.post("/v1/chat/completions", &chat("chat", &json!({}))).key(&key);
    gone.expect(404).await;
    send(word(" two"));
    assert!(stream.next().await.unwrap().contains(" two"));
    send(usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 2 })));
    stream.rest().await;
    let cost = 1_000_000 + 9 * 2_000 + 2 * 8_000;
    assert_eq!(nanos(&stream.bill()["cost"]), cost);
    assert_eq!(stream.header("x-polysystems-price-version"), "2");
    assert_eq!(user.folded().await, 10_000_000_000 - cost);
    drop(sender);
    server.stop();
    verify(&database);
}

async fn what_is_faulty_changes_nothing_and_is_told_whole(database: Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server =
        Server::start_with(&database, |settings| settings.pricing.notice_seconds = 0).await;
    let operator = shop(&server, &database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let call = async || {
        let body = chat("chat", &json!({ "output": 5 }));
        let answer = server.post("/v1/chat/completions", &body).key(&key).expect(200).await;
        user.get("/api/payments/transactions").expect(200).await;
        answer.header("x-polysystems-cost").to_owned()
    };
    let before = call().await;
    let mut faulty = catalogue(&upstream.url());
    faulty["providers"][1]["allow_private"] = json!(false);
    faulty["credentials"][0]["provider"] = json!("nobody");
    faulty["deployments"][2]["credential"] = json!("nothing");
    faulty["models"][0]["max_output"] = json!(0);
    faulty["models"][1]["targets"][0]["deployment"] = json!("nowhere");
    faulty["wildcards"][0]["max_input"] = json!(0);
    let refused = put(&operator, 1, &faulty, 400).await;
    let fields = |refused: &Value| -> Vec<String> {
        let details = refused["details"].as_array().unwrap().iter();
        details.map(|detail| detail["field"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        fields(&refused),
        [
            "providers[1].url",
            "credentials[0].provider",
            "deployments[2].credential",
            "models[0].max_output",
            "models[1].targets[0].deployment",
            "wildcards[0].max_input"
        ]
    );
    let mut faulty = cards(50);
    faulty[0]["rows"][0]["input"] = json!(1.5);
    faulty[1]["model"] = json!("B");
    faulty[3]["rows"][1]["service"] = json!("gold");
    let body = json!({ "publish": true, "cards": faulty });
    let refused = operator.post(VERSIONS, &body).expect(400).await.body;
    assert_eq!(
        fields(&refused),
        ["cards[0].rows[0].input", "cards[1].model", "cards[3].rows[1].service"]
    );
    assert_eq!(call().await, before);
    let status = operator.get("/api/admin/catalogue/status").expect(200).await.body;
    assert_eq!((&status["stored"], &status["selling"]), (&json!(1), &json!(1)));
    let versions = operator.get(VERSIONS).expect(200).await.body;
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1);
    let (version, _) = read(bills(&database).await.last().unwrap());
    assert_eq!(version, 2);
    server.stop();
    verify(&database);
}
