//! Dry runs, and the test balance.

use serde_json::json;

use crate::support::upstream::{Script, Upstream};
use crate::support::{Answer, Database, Server, hello, nanos, on_both};

on_both!(
    a_dry_run_says_what_a_call_would_cost_and_charges_nothing,
    a_dry_run_says_why_a_call_would_be_refused,
    every_paid_answer_says_what_remains,
    a_test_balance_is_refilled,
    faults_can_be_ordered,
    a_long_question_has_a_short_answer,
);

/// A stranger asks. What they are told of each wrong name must not add up to megabytes.
async fn a_long_question_has_a_short_answer(database: Database) {
    let server = Server::start(&database).await;
    let names: Vec<String> = (0..20_000).map(|number| format!("\"{number:x}\":0")).collect();
    let body = format!("{{\"model\":\"a\",\"usage\":{{{}}}}}", names.join(","));
    let refused = server.post("/api/pricing/quote", &json!(null)).body(body).expect(400).await;
    assert!(refused.text.len() < 4_096, "{}", refused.text.len());
    // As many wrong names as there are right ones are named one by one, and no more than 20.
    let names: Vec<String> = (0..24).map(|number| format!("\"x{number}\":0")).collect();
    let body = format!("{{\"model\":\"a\",\"usage\":{{{}}}}}", names.join(","));
    let refused = server.post("/api/pricing/quote", &json!(null)).body(body).expect(400).await;
    assert_eq!(refused.body["details"].as_array().unwrap().len(), 20);
}

async fn a_dry_run_says_what_a_call_would_cost_and_charges_nothing(database: Database) {
    let upstream =
        Upstream::start(Script::Answer(200, "{\"usage\":{\"total_tokens\":5}}".into())).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    user.limit(&key, &json!({ "daily_limit": 0.5 })).await;
    let mut chat = hello();
    chat["max_tokens"] = json!(100);
    let mut stream = chat.clone();
    stream["stream"] = json!(true);
    stream["max_tokens"] = json!(10_000);
    for (path, body, least, most, hold) in [
        ("/api/hub/rag/index", json!({}), 500_000, 500_000, 500_000),
        ("/v1/chat/completions", chat.clone(), 2_090_000, 3_090_000, 3_090_000),
        ("/v1/chat/completions", stream, 2_090_000, 102_090_000, 7_210_000),
    ] {
        let dry = server.post(path, &body).key(&key).header("X-Dry-Run", "true").expect(200).await;
        let quote = &dry.body;
        assert_eq!(
            (&quote["dry_run"], &quote["admitted"]),
            (&json!(true), &json!(true)),
            "{quote}"
        );
        assert_eq!(nanos(&quote["cost"]["least"]), least);
        assert_eq!(nanos(&quote["cost"]["most"]), most);
        assert_eq!(nanos(&quote["hold"]), hold);
        assert_eq!(quote["environment"], "live");
        assert_eq!(
            (nanos(&quote["balance"]), nanos(&quote["available"])),
            (1_000_000_000, 1_000_000_000)
        );
        assert_eq!(nanos(&quote["remaining"]["daily"]), 500_000_000);
        assert_eq!(
            (&quote["reason"], &quote["remaining"]["monthly"]),
            (&json!(null), &json!(null))
        );
    }
    assert_eq!((user.ledger().await.len(), upstream.calls()), (1, 0));
    // What was quoted is what is done.
    let real = server.post("/v1/chat/completions", &chat).key(&key).header("X-Dry-Run", "false");
    assert_eq!(real.expect(200).await.header("x-polysystems-cost"), "0.00205");
    server
        .post("/v1/chat/completions", &chat)
        .key(&key)
        .header("X-Dry-Run", "yes")
        .expect(400)
        .await;
}

async fn a_dry_run_says_why_a_call_would_be_refused(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let dry = async |path: &str, status| -> Answer {
        server.post(path, &hello()).key(&key).header("X-Dry-Run", "true").expect(status).await
    };
    let quote = dry("/v1/chat/completions", 200).await.body;
    assert_eq!((&quote["admitted"], &quote["hold"]), (&json!(false), &json!(null)));
    assert_eq!(quote["reason"]["error"], "Insufficient credits");
    assert_eq!(
        quote["reason"]["message"],
        "This request costs $0.0020 but your balance is insufficient. Please top up your account."
    );
    user.pay("0.0100").await;
    // Admitted with fewer tokens than the default.
    let quote = dry("/v1/chat/completions", 200).await.body;
    assert_eq!((&quote["admitted"], &quote["max_tokens"]), (&json!(true), &json!(791)));
    assert_eq!((nanos(&quote["hold"]), nanos(&quote["cost"]["most"])), (10_000_000, 43_050_000));
    user.limit(&key, &json!({ "monthly_limit": 0 })).await;
    let quote = dry("/v1/chat/completions", 200).await.body;
    assert_eq!(quote["reason"]["error"], "Spending limit exceeded");
    // What cannot be priced is refused as ever.
    dry("/api/hub/unknown", 404).await;
    server
        .post("/v1/chat/completions", &json!([]))
        .key(&key)
        .header("X-Dry-Run", "true")
        .expect(400)
        .await;
    server.post("/v1/chat/completions", &hello()).header("X-Dry-Run", "true").expect(401).await;
}

async fn every_paid_answer_says_what_remains(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let call = || server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200);
    let answer = call().await;
    assert!(answer.headers.get("x-polysystems-daily-remaining").is_none());
    let limits = json!({ "daily_limit": 0.01, "monthly_limit": 0.1, "per_request_limit": 0.005 });
    user.limit(&key, &limits).await;
    let answer = call().await;
    for (name, expected) in [
        ("x-polysystems-cost", "0.0005"),
        ("x-polysystems-balance", "0.9990"),
        ("x-polysystems-per-request-limit", "0.0050"),
        ("x-polysystems-daily-remaining", "0.0090"),
        ("x-polysystems-monthly-remaining", "0.0990"),
    ] {
        assert_eq!(answer.header(name), expected, "{name}");
    }
    assert_eq!(answer.header("x-polysystems-charge"), answer.header("x-request-id"));
    // A stream says it at its end.
    let mut body = hello();
    body["stream"] = json!(true);
    let mut stream = server.post("/v1/chat/completions", &body).key(&key).stream().await;
    stream.rest().await;
    let bill = stream.bill();
    let cost = nanos(&bill["cost"]);
    assert_eq!(nanos(&bill["daily_remaining"]), 9_000_000 - cost);
    assert_eq!(nanos(&bill["monthly_remaining"]), 99_000_000 - cost);
}

async fn a_test_balance_is_refilled(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    for _ in 0..2 {
        let answer = server.post("/api/hub/agents/chat", &hello()).key(&key).expect(200).await;
        assert_eq!(answer.header("x-polysystems-upstream"), "sandbox");
    }
    let balance = user.get("/api/payments/credits/balance?environment=test").expect(200).await;
    assert_ne!(balance.number("balance"), "100.0000");
    for _ in 0..2 {
        let reset = user.post("/api/payments/test/reset", &json!({})).expect(200).await;
        assert_eq!(
            reset.text,
            "{\"balance\":100.0000,\"balance_decimal\":\"100.0000\",\"currency\":\"USD\",\"environment\":\"test\"}"
        );
    }
    let ledger = user.get("/api/payments/transactions?environment=test").expect(200).await.body;
    let kinds: Vec<_> = ledger["transactions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["grant", "capture", "capture", "grant"]);
    // Real credits are not touched.
    assert_eq!(user.balance().await, "1.0000");
    server.post("/api/payments/test/reset", &json!({})).expect(401).await;
}

async fn faults_can_be_ordered(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    for is_stream in [true, false] {
        let call = |model: &str, status| {
            let mut body = hello();
            body["model"] = json!(model);
            body["stream"] = json!(is_stream);
            server.post("/v1/chat/completions", &body).key(&key).expect(status)
        };
        call("sandbox-error", 502).await;
        call("sandbox-timeout", 504).await;
        let whole = call("sandbox-slow", 200).await;
        assert!(whole.text.contains("simulated"));
        if is_stream {
            let cut = call("sandbox-cut", 200).await;
            assert!(cut.text.contains("\"code\":\"upstream_error\""), "{}", cut.text);
        } else {
            call("sandbox-cut", 502).await;
        }
    }
    let sql = "SELECT CAST(SUM(held) AS TEXT) FROM (SELECT COUNT(*) AS held FROM hold) AS open";
    assert_eq!(database.query(sql).await, "0");
}
