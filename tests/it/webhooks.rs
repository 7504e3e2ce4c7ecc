//! Events by webhook: signed, logged, tried again for days, and never sent where they must not be.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::process::Stdio;
use std::time::Duration;

use polysystems::webhooks::sign;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::clients::installed;
use crate::email::letters;
use crate::support::process::verify;
use crate::support::receiver::Receiver;
use crate::support::{Database, Key, Server, User, on_both};
use crate::takeover::proved;

on_both!(
    a_delivery_is_signed_logged_and_sent_again,
    a_new_secret_signs_beside_the_one_before,
    every_event_is_told_once,
    a_spike_is_told_once_a_day,
    the_official_libraries_verify_what_is_sent,
    a_receiver_that_was_away_for_days_gets_every_event,
    a_dead_endpoint_is_switched_off_and_its_owner_told,
    deliveries_go_on_after_a_restart,
    no_address_of_a_private_network_is_taken,
    only_what_was_asked_for_is_told,
    an_account_has_so_many_endpoints,
    an_endpoint_made_anew_is_told_the_balance,
    who_does_not_answer_holds_up_nobody_else,
);

async fn start(database: &Database) -> Server {
    Server::start_with(database, |settings| {
        settings.webhooks.allow_private_addresses = true;
        settings.webhooks.timeout_seconds = std::num::NonZeroU64::MIN;
    })
    .await
}

/// An endpoint's id and secret.
async fn add(user: &User<'_>, url: &str, events: &Value) -> (String, String) {
    let body = json!({ "url": url, "events": events });
    let made = user.post("/api/webhooks", &body).expect(201).await.body;
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

fn signature(secret: &str, id: &str, timestamp: i64, text: &str) -> String {
    use base64::Engine as _;
    let secret = secret.strip_prefix("whsec_").unwrap();
    let secret = base64::engine::general_purpose::STANDARD.decode(secret).unwrap();
    sign(&secret, id, timestamp, text).unwrap()
}

async fn deliveries(user: &User<'_>, endpoint: &str) -> Vec<Value> {
    let page =
        user.get(&format!("/api/webhooks/{endpoint}/deliveries?limit=100")).expect(200).await;
    page.body["deliveries"].as_array().unwrap().clone()
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not come to that");
}

async fn call(server: &Server, key: &Key, status: u16) {
    server.post("/api/hub/rag/index", &json!({})).key(key).expect(status).await;
}

async fn a_delivery_is_signed_logged_and_sent_again(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    let (id, secret) = add(&user, &format!("{}/hook", receiver.url), &Value::Null).await;
    let sent = user.post(&format!("/api/webhooks/{id}/test"), &json!(null)).expect(202).await.body;
    let test = receiver.wait("webhook.test", 1).await.remove(0);
    assert_eq!(test.path, "/hook");
    assert_eq!(test.signature, signature(&secret, &test.id, test.timestamp, &test.text));
    assert_eq!(test.body["data"]["endpoint_id"], id.as_str());
    assert_eq!(test.timestamp, server.seconds());
    until(async || deliveries(&user, &id).await[0]["status"] == "delivered").await;
    let log = deliveries(&user, &id).await.remove(0);
    assert_eq!((&log["id"], &log["event_id"]), (&sent["delivery_id"], &json!(test.id)));
    assert_eq!(log["attempts"][0]["status"], 200);
    // Of an answer only its beginning is kept.
    assert_eq!(log["attempts"][0]["answer"].as_str().unwrap().len(), 1_024);
    // By hand, under the same id.
    let again = format!("/api/webhooks/{id}/deliveries/{}/redeliver", log["id"].as_str().unwrap());
    user.post(&again, &json!(null)).expect(202).await;
    let tests = receiver.wait("webhook.test", 2).await;
    assert_eq!(tests[1].id, test.id);
    until(async || deliveries(&user, &id).await[0]["attempts"].as_array().unwrap().len() == 2)
        .await;
    // Others neither see nor send it.
    let other = server.user("other").await;
    other.post(&again, &json!(null)).expect(404).await;
    other.get(&format!("/api/webhooks/{id}/deliveries")).expect(404).await;
    // Its secret is never shown again, and is not in the database.
    let shown = user.get(&format!("/api/webhooks/{id}")).expect(200).await.text;
    assert!(!shown.contains("whsec_"), "{shown}");
    user.delete(&format!("/api/webhooks/{id}")).expect(204).await;
    user.get(&format!("/api/webhooks/{id}")).expect(404).await;
    user.delete(&format!("/api/webhooks/{id}")).expect(404).await;
    assert_eq!(user.get("/api/webhooks").expect(200).await.body["webhooks"], json!([]));
    // Its rows go an hour later.
    server.advance(3_601);
    for table in ["webhook_delivery", "webhook_attempt", "webhook_endpoint"] {
        let left = format!("SELECT CAST(COUNT(*) AS TEXT) FROM {table}");
        until(async || database.query(&left).await == "0").await;
    }
}

async fn a_new_secret_signs_beside_the_one_before(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    let (id, former) = add(&user, &receiver.url, &Value::Null).await;
    let rotate = format!("/api/webhooks/{id}/rotate-secret");
    let rotated = user.post(&rotate, &json!(null)).expect(200).await.body;
    let secret = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(secret, former);
    assert_eq!(rotated["former_secret_until"], "2024-01-16T12:00:00Z");
    let test = format!("/api/webhooks/{id}/test");
    user.post(&test, &json!(null)).expect(202).await;
    let first = receiver.wait("webhook.test", 1).await.remove(0);
    let expected = [&secret, &former]
        .map(|secret| signature(secret, &first.id, first.timestamp, &first.text))
        .join(" ");
    assert_eq!(first.signature, expected);
    server.advance(86_400);
    let user = server.log_in_again("someone").await;
    user.post(&test, &json!(null)).expect(202).await;
    let second = receiver.wait("webhook.test", 2).await.remove(1);
    let expected = signature(&secret, &second.id, second.timestamp, &second.text);
    assert_eq!(second.signature, expected);
}

async fn every_event_is_told_once(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    let (_, secret) = add(&user, &receiver.url, &Value::Null).await;
    user.put("/api/payments/notices", &json!({ "balance_low": 0.5 })).expect(200).await;
    let key = user.key().await;
    let created = receiver.wait("key.created", 1).await.remove(0);
    assert_eq!(created.body["data"], json!({ "key_id": key.id, "name": "a key" }));
    user.pay("1.00").await;
    let paid = receiver.wait("payment.confirmed", 1).await.remove(0);
    assert_eq!(paid.body["data"]["amount"], 1.0);
    // Each call costs 0.0005. A limit of 0.0100 a day: 80 % at the sixteenth, all at the twentieth,
    // and refusals.
    user.limit(&key, &json!({ "daily_limit": 0.01 })).await;
    for _ in 0..20 {
        call(&server, &key, 200).await;
    }
    for _ in 0..3 {
        call(&server, &key, 402).await;
    }
    let warned = receiver.wait("usage.threshold", 1).await.remove(0);
    // Calls that are written together are told of together.
    assert!(warned.body["data"]["spent"].as_f64().unwrap() >= 0.008);
    assert_eq!(warned.body["data"]["limit"], "daily");
    receiver.wait("usage.limit_exceeded", 1).await;
    // A hold that does not fit is refused before the limit is reached.
    user.limit(&key, &json!({ "daily_limit": null, "monthly_limit": 0.0101 })).await;
    call(&server, &key, 402).await;
    let reached = receiver.wait("usage.limit_exceeded", 2).await.remove(1);
    assert_eq!(reached.body["data"]["limit"], "monthly");
    user.limit(&key, &json!({ "daily_limit": null, "monthly_limit": null })).await;
    for _ in 0..99 {
        futures_util::future::join_all((0..20).map(|_| call(&server, &key, 200))).await;
    }
    receiver.wait("balance.low", 1).await;
    receiver.wait("balance.depleted", 1).await;
    // Many changes of the balance are told at once.
    server.advance(10);
    until(async || {
        let told = receiver.of("balance.updated");
        told.last().is_some_and(|last| last.body["data"]["balance"] == 0.0)
    })
    .await;
    assert!(receiver.of("balance.updated").len() < 20);
    let expires = |seconds: i64| {
        let at = domain::Timestamp::from_micros((server.seconds() + seconds) * 1_000_000);
        json!({ "name": "short", "expires_at": at.to_rfc3339() })
    };
    let short = user.key_of(&expires(3_600)).await;
    // It is looked for right after a start, and then once a minute.
    server.stop();
    let server = start(&database).await;
    let user = server.log_in_again("someone").await;
    let expiring = receiver.wait("key.expiring", 1).await.remove(0);
    assert_eq!(expiring.body["data"]["key_id"], short.id.as_str());
    server.advance(3_700);
    let expired = receiver.wait_long("key.expired", 1).await.remove(0);
    assert_eq!(expired.body["data"]["key_id"], short.id.as_str());
    user.post(&format!("/api/keys/{}/revoke", key.id), &json!(null)).expect(200).await;
    receiver.wait("key.revoked", 1).await;
    // Nothing was told twice.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for (kind, count) in [
        ("key.created", 2),
        ("payment.confirmed", 1),
        ("usage.threshold", 1),
        ("usage.limit_exceeded", 2),
        ("balance.low", 1),
        ("balance.depleted", 1),
        ("key.expiring", 1),
        ("key.expired", 1),
        ("key.revoked", 1),
    ] {
        assert_eq!(receiver.of(kind).len(), count, "{kind}");
    }
    for one in receiver.all() {
        assert_eq!(one.signature, signature(&secret, &one.id, one.timestamp, &one.text));
    }
    server.stop();
    verify(&database);
}

async fn a_spike_is_told_once_a_day(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    add(&user, &receiver.url, &json!(["usage.*"])).await;
    user.pay("100.00").await;
    let key = user.key().await;
    call(&server, &key, 200).await;
    // A day of habits, then a dollar and more in an hour.
    server.advance(25 * 3_600);
    let chat = json!({ "max_tokens": 400, "messages": [{ "role": "user", "content": "Hello!" }],
        "metadata": {} });
    let spend = || async {
        server.post("/v1/chat/completions", &chat).key(&key).expect(200).await;
    };
    for _ in 0..30 {
        futures_util::future::join_all((0..20).map(|_| spend())).await;
    }
    let told = receiver.wait_long("usage.spike", 1).await.remove(0);
    assert!(told.body["data"]["spent"].as_f64().unwrap() >= 1.0, "{}", told.text);
    futures_util::future::join_all((0..20).map(|_| spend())).await;
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(receiver.of("usage.spike").len(), 1);
}

async fn the_official_libraries_verify_what_is_sent(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    // They look at the clock.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    server.advance(i64::try_from(now.as_secs()).unwrap() - server.seconds());
    let user = server.user("someone").await;
    let (id, former) = add(&user, &receiver.url, &Value::Null).await;
    user.pay("5.00").await;
    user.key().await;
    user.post(&format!("/api/webhooks/{id}/rotate-secret"), &json!(null)).expect(200).await;
    user.post(&format!("/api/webhooks/{id}/test"), &json!(null)).expect(202).await;
    receiver.wait("payment.confirmed", 1).await;
    receiver.wait("key.created", 1).await;
    receiver.wait("webhook.test", 1).await;
    let deliveries = receiver.all();
    let mut input = String::new();
    for delivery in &deliveries {
        input.push_str(&delivery.for_library(&former));
        input.push('\n');
    }
    // And one that was changed on its way.
    let mut forged = deliveries[0].clone();
    forged.text = forged.text.replace("timestamp", "Timestamp");
    input.push_str(&forged.for_library(&former));
    input.push('\n');
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut python = tokio::process::Command::new(installed().join("venv/bin/python"));
    python.arg(folder.join("webhook.py"));
    let mut node = tokio::process::Command::new("node");
    node.arg(folder.join("webhook.js")).env("NODE_PATH", installed().join("node_modules"));
    for mut library in [python, node] {
        let mut child = library
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run tests/run, which installs it");
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), deliveries.len() + 1, "{text}");
        for (line, delivery) in lines.iter().zip(&deliveries) {
            assert_eq!(*line, delivery.kind());
        }
        assert!(lines[deliveries.len()].starts_with("refused"), "{text}");
    }
}

/// Waits until everything was tried so often.
async fn next_try(user: &User<'_>, endpoint: &str, tries: usize) {
    until(async || {
        let log = deliveries(user, endpoint).await;
        log.iter().all(|one| one["attempts"].as_array().unwrap().len() >= tries)
    })
    .await;
}

async fn a_receiver_that_was_away_for_days_gets_every_event(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    let (id, _) = add(&user, &receiver.url, &json!(["payment.*", "key.*"])).await;
    // A redirect is not followed, an error no taking, and silence neither.
    receiver.answer(307);
    user.pay("1.00").await;
    next_try(&user, &id, 1).await;
    receiver.answer(500);
    user.key().await;
    until(async || deliveries(&user, &id).await.len() == 2).await;
    next_try(&user, &id, 1).await;
    server.advance(7);
    next_try(&user, &id, 2).await;
    receiver.answer(0);
    server.advance(361);
    next_try(&user, &id, 3).await;
    assert!(receiver.all().iter().all(|one| one.path == "/"));
    let log = deliveries(&user, &id).await;
    assert_eq!(log.len(), 2);
    let errors: Vec<&Value> =
        log[1]["attempts"].as_array().unwrap().iter().map(|one| &one["error"]).collect();
    assert_eq!(errors[..2], [&json!("answered 307"), &json!("answered 500")]);
    assert!(errors[2].is_string(), "{errors:?}");
    let seen = user.get(&format!("/api/webhooks/{id}")).expect(200).await.body;
    assert!(seen["failing_since"].is_string());
    // Two days on it is back.
    receiver.answer(503);
    server.advance(86_400);
    let user = server.log_in_again("someone").await;
    next_try(&user, &id, 4).await;
    receiver.answer(204);
    server.advance(86_400);
    let user = server.log_in_again("someone").await;
    until(async || deliveries(&user, &id).await.iter().all(|one| one["status"] == "delivered"))
        .await;
    let seen = user.get(&format!("/api/webhooks/{id}")).expect(200).await.body;
    assert_eq!((&seen["enabled"], &seen["failing_since"]), (&json!(true), &Value::Null));
    // Each event under one id, however often it was tried.
    let ids: std::collections::BTreeSet<String> =
        receiver.all().into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), 2);
}

async fn a_dead_endpoint_is_switched_off_and_its_owner_told(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = proved(&server, &database, "someone", 1).await;
    let (id, _) = add(&user, &receiver.url, &json!(["payment.*"])).await;
    receiver.answer(500);
    user.pay("1.00").await;
    let user = &mut server.log_in_again("someone").await;
    for tries in 1..=10 {
        until(async || {
            let log = deliveries(user, &id).await;
            let oldest = log.last().unwrap();
            oldest["attempts"].as_array().unwrap().len() == tries
        })
        .await;
        if tries == 9 {
            // What comes last is given up with it.
            user.pay("2.00").await;
        }
        let pauses = [6, 360, 2_200, 8_700, 21_700, 43_300, 60_600, 86_500, 103_700, 0];
        server.advance(pauses[tries - 1]);
        *user = server.log_in_again("someone").await;
    }
    until(async || {
        let seen = user.get(&format!("/api/webhooks/{id}")).expect(200).await.body;
        seen["enabled"] == false && seen["switched_off_at"].is_string()
    })
    .await;
    let log = deliveries(user, &id).await;
    assert!(log.iter().all(|one| one["status"] == "failed"), "{log:?}");
    let told =
        |letters: &[String]| letters.iter().any(|one| one.contains("webhook was switched off"));
    until(async || told(&letters(&database))).await;
    // Nothing more is sent, and nothing new is kept for it.
    let before = receiver.all().len();
    user.pay("3.00").await;
    server.advance(86_400);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(receiver.all().len(), before);
    // Its owner switches it on, and has what failed sent again.
    receiver.answer(200);
    let user = server.log_in_again("someone").await;
    let body = json!({ "enabled": true }).to_string();
    let change = server.request(reqwest::Method::PATCH, &format!("/api/webhooks/{id}"));
    change.bearer(&user.token).body(body).expect(200).await;
    for one in &log {
        let again =
            format!("/api/webhooks/{id}/deliveries/{}/redeliver", one["id"].as_str().unwrap());
        user.post(&again, &json!(null)).expect(202).await;
    }
    until(async || deliveries(&user, &id).await.iter().all(|one| one["status"] == "delivered"))
        .await;
    // An endpoint that says that it is gone is believed at once.
    receiver.answer(410);
    user.pay("4.00").await;
    until(async || {
        user.get(&format!("/api/webhooks/{id}")).expect(200).await.body["enabled"] == false
    })
    .await;
}

async fn deliveries_go_on_after_a_restart(database: Database) {
    let receiver = Receiver::start();
    receiver.answer(500);
    let server = start(&database).await;
    let user = server.user("someone").await;
    let (id, _) = add(&user, &receiver.url, &json!(["payment.*"])).await;
    user.pay("1.00").await;
    next_try(&user, &id, 1).await;
    server.stop();
    receiver.answer(200);
    let server = start(&database).await;
    server.advance(60);
    let user = server.log_in_again("someone").await;
    receiver.wait("payment.confirmed", 2).await;
    until(async || deliveries(&user, &id).await[0]["status"] == "delivered").await;
    // It still listens.
    user.pay("2.00").await;
    receiver.wait("payment.confirmed", 3).await;
}

async fn no_address_of_a_private_network_is_taken(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for url in [
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://[::ffff:169.254.169.254]/latest/meta-data",
        "https://localhost:8443/",
        "https://metadata.google.internal/",
        "http://example.com/",
        "https://user@example.com/",
        "nonsense",
        "",
    ] {
        let body = json!({ "url": url });
        let refused = user.post("/api/webhooks", &body).expect(400).await;
        assert_eq!(refused.body["details"][0]["field"], "url", "{url}: {}", refused.text);
    }
    // A name is looked up when something is sent. This one is of this machine alone.
    let (id, _) = add(&user, "https://example.invalid/hook", &Value::Null).await;
    let change = server.request(reqwest::Method::PATCH, &format!("/api/webhooks/{id}"));
    let body = json!({ "url": "https://10.0.0.1/" }).to_string();
    change.bearer(&user.token).body(body).expect(400).await;
    user.post(&format!("/api/webhooks/{id}/test"), &json!(null)).expect(202).await;
    until(async || {
        let log = deliveries(&user, &id).await;
        log[0]["attempts"].as_array().unwrap().len() == 1
    })
    .await;
    let log = deliveries(&user, &id).await;
    assert_eq!(log[0]["attempts"][0]["status"], Value::Null);
}

async fn only_what_was_asked_for_is_told(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    add(&user, &format!("{}/keys", receiver.url), &json!(["key.created"])).await;
    add(&user, &format!("{}/money", receiver.url), &json!(["payment.*", "balance.low"])).await;
    for events in [json!([]), json!(["payment"]), json!(["*"]), json!(["webhook.test"]), json!("x")]
    {
        let body = json!({ "url": receiver.url, "events": events });
        user.post("/api/webhooks", &body).expect(400).await;
    }
    let other = server.user("other").await;
    other.pay("1.00").await;
    other.key().await;
    user.pay("1.00").await;
    user.key().await;
    // Test keys are of the test account, to which nobody listens.
    user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    receiver.wait("payment.confirmed", 1).await;
    receiver.wait("key.created", 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told: Vec<(String, String)> =
        receiver.all().iter().map(|one| (one.path.clone(), one.kind().to_owned())).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.contains(&("/keys".into(), "key.created".into())));
    assert!(told.contains(&("/money".into(), "payment.confirmed".into())));
}

async fn an_account_has_so_many_endpoints(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for _ in 0..20 {
        add(&user, "https://example.com/hook", &Value::Null).await;
    }
    let body = json!({ "url": "https://example.com/hook" });
    user.post("/api/webhooks", &body).expect(409).await;
    let list = user.get("/api/webhooks").expect(200).await.body;
    assert_eq!(list["webhooks"].as_array().unwrap().len(), 20);
}

/// A balance that was due to an endpoint which is gone goes to the endpoints of that moment.
async fn an_endpoint_made_anew_is_told_the_balance(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    let events = json!(["balance.updated"]);
    let (gone, _) = add(&user, &format!("{}/gone", receiver.url), &events).await;
    let (quiet, _) = add(&user, &format!("{}/quiet", receiver.url), &events).await;
    user.pay("1.00").await;
    // Before it is sent.
    user.delete(&format!("/api/webhooks/{gone}")).expect(204).await;
    let switch = |on: bool| {
        let request = server.request(reqwest::Method::PATCH, &format!("/api/webhooks/{quiet}"));
        request.body(json!({ "enabled": on }).to_string()).bearer(&user.token).expect(200)
    };
    switch(false).await;
    assert_eq!(deliveries(&user, &quiet).await[0]["status"], "failed");
    user.pay("2.00").await;
    switch(true).await;
    add(&user, &format!("{}/new", receiver.url), &events).await;
    user.pay("4.00").await;
    server.advance(6);
    let told = receiver.wait("balance.updated", 2).await;
    let paths: std::collections::BTreeSet<&str> =
        told.iter().map(|delivery| delivery.path.as_str()).collect();
    assert_eq!(paths, std::collections::BTreeSet::from(["/new", "/quiet"]));
    assert!(told.iter().all(|told| told.body["data"]["balance"] == 7.0), "{told:?}");
    // What was sent is followed by the next one.
    user.pay("1.00").await;
    server.advance(6);
    assert_eq!(receiver.wait("balance.updated", 4).await.len(), 4);
}

async fn who_does_not_answer_holds_up_nobody_else(database: Database) {
    let silent = Receiver::start();
    silent.answer(0);
    let (server, receiver) = (start(&database).await, Receiver::start());
    let mut busy = Vec::new();
    for number in 0..10 {
        let user = server.user(&format!("busy{number}")).await;
        for endpoint in 0..4 {
            let (id, _) = add(&user, &format!("{}/{endpoint}", silent.url), &Value::Null).await;
            for _ in 0..20 {
                user.post(&format!("/api/webhooks/{id}/test"), &json!(null)).expect(202).await;
            }
        }
        busy.push(user);
    }
    let user = server.user("someone").await;
    let (id, _) = add(&user, &receiver.url, &Value::Null).await;
    for _ in 0..5 {
        user.post(&format!("/api/webhooks/{id}/test"), &json!(null)).expect(202).await;
    }
    let began = std::time::Instant::now();
    receiver.wait("webhook.test", 5).await;
    // Forty that keep silent for a second, with 20 deliveries each, on 32 places.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
