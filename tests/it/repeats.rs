//! Requests with an `Idempotency-Key`: done once, answered alike.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Answer, Database, Key, Request, Server, hello, nanos, on_both};

on_both!(
    a_repeat_gets_the_first_answer_and_one_charge,
    a_repeat_that_is_too_early_or_another_request_is_told_so,
    what_was_not_charged_may_be_tried_again,
    what_was_charged_is_kept_however_it_ended,
    a_failure_that_was_charged_is_not_charged_again,
    answers_are_kept_for_seven_days,
    what_is_too_large_is_not_kept_and_not_charged_again,
    who_leaves_a_stream_can_have_it_again,
    payments_and_keys_are_made_once,
);

trait Keyed {
    fn once(self, key: &str) -> Self;
}

impl Keyed for Request {
    fn once(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }
}

fn assert_replayed(first: &Answer, repeat: &Answer) {
    assert_eq!((first.status, &first.text), (repeat.status, &repeat.text));
    assert_eq!(repeat.header("idempotent-replayed"), "true");
    assert!(first.headers.get("idempotent-replayed").is_none());
    for name in
        ["content-type", "x-polysystems-cost", "x-polysystems-balance", "x-polysystems-charge"]
    {
        assert_eq!(first.headers.get(name), repeat.headers.get(name), "{name}");
    }
}

fn streamed() -> Value {
    let mut body = hello();
    body["stream"] = json!(true);
    body
}

fn chat(server: &Server, key: &Key, body: &Value) -> Request {
    server.post("/v1/chat/completions", body).key(key)
}

async fn a_repeat_gets_the_first_answer_and_one_charge(database: Database) {
    let mut server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let (key, other) = (user.key().await, server.user("other").await);
    other.pay("1.00").await;
    let others_key = other.key().await;
    let calls = [
        ("/api/hub/rag/index", json!({})),
        ("/api/hub/health", json!({})),
        ("/v1/chat/completions", hello()),
        ("/v1/chat/completions", streamed()),
        ("/v1/responses", streamed()),
    ];
    let mut firsts = Vec::new();
    for (number, (path, body)) in calls.iter().enumerate() {
        let method =
            if path.ends_with("health") { reqwest::Method::GET } else { reqwest::Method::POST };
        let call = |server: &Server, key: &Key| {
            let request = server.request(method.clone(), path).body(body.to_string());
            request.key(key).once(&format!("key-{number}")).expect(200)
        };
        let first = call(&server, &key).await;
        let balance = user.folded().await;
        for _ in 0..3 {
            let repeat = call(&server, &key).await;
            // A read that costs nothing keeps no answer.
            if method == reqwest::Method::GET {
                assert!(repeat.headers.get("idempotent-replayed").is_none());
            } else {
                assert_replayed(&first, &repeat);
            }
        }
        assert_eq!(user.folded().await, balance);
        // The same key of another account is another key.
        let others = call(&server, &others_key).await;
        assert!(others.headers.get("idempotent-replayed").is_none());
        firsts.push(first);
    }
    assert_eq!(user.ledger().await.len(), 1 + 4, "a top-up and a charge each, but for health");
    assert_eq!(user.folded().await, other.folded().await);
    // The quotes are part of the header's notation, not of the key.
    let quoted = server.post("/api/hub/rag/index", &json!({})).key(&key).once("\"key-0\"");
    assert_replayed(&firsts[0], &quoted.expect(200).await);
    let token = user.token.clone();
    drop((user, other));
    server.stop();
    server = Server::start(&database).await;
    for (number, (path, body)) in calls.iter().enumerate().filter(|(number, _)| *number != 1) {
        let repeat = server.post(path, body).key(&key).once(&format!("key-{number}"));
        assert_replayed(&firsts[number], &repeat.expect(200).await);
    }
    let transactions = server.get("/api/payments/transactions").bearer(&token).expect(200).await;
    assert_eq!(transactions.body["transactions"].as_array().unwrap().len(), 5);
    let verified = "SELECT CAST(COUNT(*) AS TEXT) FROM recorded_answer";
    assert_eq!(database.query(verified).await, "8");
}

async fn a_repeat_that_is_too_early_or_another_request_is_told_so(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
        settings.upstreams.v1.timeout_seconds = 1.try_into().unwrap();
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let first = chat(&server, &key, &hello()).once("k").expect(424);
    let meanwhile = async {
        while upstream.calls() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let early = chat(&server, &key, &hello()).once("k").expect(409).await;
        early.assert_code(
            "request_in_progress",
            "The first request with this Idempotency-Key is still running. Please try again later.",
        );
        assert_eq!(early.header("retry-after"), "1");
        chat(&server, &key, &streamed()).once("k").expect(422).await;
    };
    futures_util::future::join(first, meanwhile).await;
    upstream.script(Script::Answer(200, "{\"usage\":{\"total_tokens\":5}}".into()));
    // The upstream was at work: that was charged, and is what a repeat gets.
    chat(&server, &key, &hello()).once("k").expect(424).await;
    let mut other = hello();
    other["user"] = json!("else");
    let reused = chat(&server, &key, &other).once("k").expect(422).await;
    reused.assert_code(
        "idempotency_key_reused",
        "This Idempotency-Key was used for a different request. Please use a new key for a new request.",
    );
    server.post("/v1/completions", &hello()).key(&key).once("k").expect(422).await;
    for malformed in ["", "\"", "a b", "\"a", &"x".repeat(256)] {
        let refused = chat(&server, &key, &hello()).once(malformed).expect(400).await;
        assert_eq!(refused.body["details"][0]["field"], "Idempotency-Key", "{malformed}");
    }
    chat(&server, &key, &hello()).once("k").once("l").expect(400).await;
    // Who is there is asked before what was answered.
    server.post("/v1/chat/completions", &hello()).once("k").expect(401).await;
    // The first one was given up, and its prompt is paid, once.
    assert_eq!(user.folded().await, 1_000_000_000 - 2_090_000);
}

async fn what_was_not_charged_may_be_tried_again(database: Database) {
    let upstream = Upstream::start(Script::Answer(500, "{}".into())).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.hub.url = Some(upstream.url()))
            .await;
    for (path, body, price) in [
        ("/api/hub/rag/index", json!({}), "0.0005"),
        ("/api/hub/agents/chat", hello(), "0.0050"),
        ("/api/hub/agents/generate", streamed(), "0.0050"),
    ] {
        let user = server.user(path.rsplit('/').next().unwrap()).await;
        let key = user.key().await;
        let call = |status| server.post(path, &body).key(&key).once(path).expect(status);
        upstream.script(Script::Answer(500, "{}".into()));
        call(402).await;
        user.pay(price).await;
        call(502).await;
        upstream.script(Script::Answer(400, "{}".into()));
        call(400).await;
        upstream.script(Script::Answer(200, "{\"usage\":{\"total_tokens\":1}}".into()));
        let first = call(200).await;
        upstream.script(Script::Silent);
        assert_replayed(&first, &call(200).await);
        assert_eq!(user.ledger().await.len(), 2);
        user.folded().await;
    }
}

async fn what_was_charged_is_kept_however_it_ended(database: Database) {
    let upstream = Upstream::start(Script::Events(vec![word(" word"), Step::Cut])).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let first = chat(&server, &key, &streamed()).once("k").expect(200).await;
    assert!(first.text.contains("upstream_error"));
    assert_eq!(user.folded().await, 1_000_000_000 - 2_100_000);
    assert_replayed(&first, &chat(&server, &key, &streamed()).once("k").expect(200).await);
    assert_eq!((user.folded().await, upstream.calls()), (1_000_000_000 - 2_100_000, 1));
}

async fn a_failure_that_was_charged_is_not_charged_again(database: Database) {
    let large = json!({ "choices": [{ "message": { "content": " word".repeat(8_000) } }] });
    let upstream = Upstream::start(Script::Silent).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
        settings.upstreams.v1.timeout_seconds = 1.try_into().unwrap();
        settings.upstreams.v1.response_max_bytes = 10_000;
    })
    .await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let mut calls = 0;
    for (script, status, error) in [
        (Script::Silent, 424, "upstream_given_up"),
        (Script::Answer(200, large.to_string()), 424, "answer_too_large"),
    ] {
        for body in [hello(), streamed()] {
            upstream.script(script.clone());
            calls += 1;
            let before = user.folded().await;
            let call = || chat(&server, &key, &body).once(&format!("key-{calls}")).expect(status);
            let first = call().await;
            let left = user.folded().await;
            assert!(left < before, "{error} is not charged");
            assert_eq!(first.body["error"]["code"], error);
            assert_eq!(first.header("x-should-retry"), "false");
            let cost: Value = serde_json::from_str(first.header("x-polysystems-cost")).unwrap();
            assert_eq!(nanos(&cost), before - left);
            for _ in 0..2 {
                let repeat = call().await;
                assert_replayed(&first, &repeat);
                assert_eq!(repeat.header("x-should-retry"), "false");
            }
            assert_eq!((user.folded().await, upstream.calls()), (left, calls));
        }
    }
}

async fn answers_are_kept_for_seven_days(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let call = || chat(&server, &key, &hello()).once("k").expect(200);
    let first = call().await;
    server.advance(7 * 86_400 - 1);
    assert_replayed(&first, &call().await);
    server.advance(1);
    let anew = call().await;
    assert!(anew.headers.get("idempotent-replayed").is_none());
    assert_replayed(&anew, &call().await);
    let spent = 2 * nanos(&serde_json::from_str(first.header("x-polysystems-cost")).unwrap());
    let ledger = "SELECT CAST(-SUM(amount) AS TEXT) FROM ledger_entry WHERE kind = 3";
    assert_eq!(database.query(ledger).await, spent.to_string());
}

async fn what_is_too_large_is_not_kept_and_not_charged_again(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.idempotency.answer_max_bytes = 100).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    for body in [hello(), streamed()] {
        let call =
            |status| chat(&server, &key, &body).once(&body["stream"].to_string()).expect(status);
        call(200).await;
        let balance = user.folded().await;
        call(409).await.assert_code(
            "answer_not_kept",
            "This request was answered and charged before, but its answer was too large to store. To send it \
             again, at its price, please use a new Idempotency-Key.",
        );
        assert_eq!(user.folded().await, balance);
    }
    assert_eq!(user.ledger().await.len(), 3);
}

async fn who_leaves_a_stream_can_have_it_again(database: Database) {
    let usage = usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 4 }));
    let mut steps = vec![word(" word"), word(" word"), Step::Pause(Duration::from_millis(300))];
    steps.extend([word(" more"), word(" words"), usage]);
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let mut left = chat(&server, &key, &streamed()).once("k").stream().await;
    left.next().await.unwrap();
    drop(left);
    let repeat = loop {
        let answer = chat(&server, &key, &streamed()).once("k").send().await;
        if answer.status == 200 {
            break answer;
        }
        assert_eq!(answer.status, 409, "{}", answer.text);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(repeat.header("idempotent-replayed"), "true");
    assert_eq!(repeat.header("content-type"), "text/event-stream");
    assert!(repeat.text.contains(" words") && repeat.text.ends_with("data: [DONE]\n\n"));
    assert_eq!((user.folded().await, upstream.calls()), (1_000_000_000 - 2_130_000, 1));
}

async fn payments_and_keys_are_made_once(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let pay = |amount: Value| {
        user.post("/api/payments/payments", &json!({ "amount": amount })).once("pay")
    };
    let first = pay(json!(25)).expect(201).await;
    assert_replayed(&first, &pay(json!(25)).expect(201).await);
    pay(json!(26)).expect(422).await;
    assert_eq!(user.folded().await, 25_000_000_000);
    let make = |name: &str| user.post("/api/keys", &json!({ "name": name })).once("make");
    let first = make("one").expect(201).await;
    let repeat = make("one").expect(201).await;
    assert_replayed(&first, &repeat);
    assert!(repeat.body["key_value"].as_str().unwrap().starts_with("ps_live_"));
    make("two").expect(422).await;
    let other = json!({ "name": "one", "environment": "test" });
    user.post("/api/keys", &other).once("make").expect(422).await;
    // Repeats do not stand in one another's way.
    let repeats = futures_util::future::join_all((0..10).map(|_| make("one").expect(201))).await;
    for repeat in &repeats {
        assert_replayed(&first, repeat);
    }
    // An amount that is refused leaves nothing behind.
    let bad = user.post("/api/payments/payments", &json!({ "amount": -1 })).once("bad");
    bad.expect(400).await;
    user.post("/api/payments/payments", &json!({ "amount": 1 })).once("bad").expect(201).await;
    user.post("/api/keys", &json!({ "name": "x" })).once("a b").expect(400).await;
    let keys = user.get("/api/keys").expect(200).await.body;
    assert_eq!(keys.as_array().unwrap().len(), 1);
    // Ten at once are one.
    let racing = (0..10)
        .map(|_| user.post("/api/payments/payments", &json!({ "amount": 5 })).once("race").send());
    let raced = futures_util::future::join_all(racing).await;
    assert!(raced.iter().all(|answer| [201, 409].contains(&answer.status.as_u16())));
    assert_eq!(user.folded().await, 31_000_000_000);
    // The key's text is nowhere to be read in the database.
    let secret = first.body["key_value"].as_str().unwrap();
    let hex = secret.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let sql = if database.is_postgres() {
        format!(
            "SELECT CAST(COUNT(*) AS TEXT) FROM recorded_answer WHERE encode(answer, 'hex') LIKE '%{hex}%'"
        )
    } else {
        format!(
            "SELECT CAST(COUNT(*) AS TEXT) FROM recorded_answer WHERE lower(hex(answer)) LIKE '%{hex}%'"
        )
    };
    assert_eq!(database.query(&sql).await, "0");
}
