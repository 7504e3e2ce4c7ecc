//! What calls cost: tokens and fixed prices, failures, and clients that do not wait.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, hello, nanos, on_both, small_body};

on_both!(
    a_call_costs_its_base_price_and_its_tokens,
    every_priced_route_answers_and_is_charged,
    a_failed_call_costs_nothing,
    what_the_upstream_refuses_is_passed_on_and_costs_nothing,
    an_answer_never_costs_more_than_was_held,
    headers_pass_by_lists,
    the_callers_secrets_stay_here,
    who_leaves_is_settled_all_the_same,
    so_many_calls_of_an_account_run_at_once,
    a_key_can_be_deleted_while_it_is_busy,
    a_checkpoint_of_many_calls_writes_all_of_them_and_leaves_no_journal,
);

async fn a_call_costs_its_base_price_and_its_tokens(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let answer = server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    let tokens = answer.body["usage"]["total_tokens"].as_i64().unwrap();
    let cost = 2_000_000 + tokens * 10_000;
    assert_eq!(answer.header("x-polysystems-cost").parse(), Ok(domain::Credits::from_nanos(cost)));
    assert_eq!(answer.header("x-polysystems-upstream"), "sandbox");
    let ledger = user.ledger().await;
    assert_eq!(ledger[1]["kind"], "capture");
    assert_eq!(nanos(&ledger[1]["amount"]), -cost);
    assert_eq!(ledger[1]["reference"], answer.header("x-request-id"));
    assert_eq!(ledger[1]["key_id"], key.id.as_str());
    assert_eq!(user.folded().await, 1_000_000_000 - cost);
    let usage = "SELECT method || ' ' || route || ' ' || upstream || ' ' || CAST(status AS TEXT) || ' ' ||
        CAST(prompt_tokens + completion_tokens AS TEXT) || ' ' || CAST(cost AS TEXT) FROM usage_record";
    assert_eq!(
        database.query(usage).await,
        format!("POST /v1/chat/completions sandbox 200 {tokens} {cost}")
    );
}

async fn every_priced_route_answers_and_is_charged(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let prices = server.get("/api/pricing").expect(200).await.body;
    let mut expected = 10_000_000_000;
    for price in prices["prices"].as_array().unwrap() {
        let path = price["path"].as_str().unwrap().replace("/*", "/thing");
        let method =
            reqwest::Method::from_bytes(price["method"].as_str().unwrap().as_bytes()).unwrap();
        // Gemini's streams have one form.
        let query = if path.ends_with(":streamGenerateContent") { "?alt=sse" } else { "" };
        let request = server.request(method, &format!("{path}{query}")).key(&key);
        let request = request.body(small_body(&path).to_string());
        let answer = request.expect(200).await;
        let cost = if query.is_empty() {
            answer.header("x-polysystems-cost").to_owned()
        } else {
            // A stream tells it in its last chunk.
            let (_, cost) = answer.text.rsplit_once("\"cost\":").unwrap();
            cost.chars().take_while(|one| one.is_ascii_digit() || *one == '.').collect()
        };
        let cost: domain::Credits = cost.parse().unwrap();
        let base = nanos(&price["base_price"]);
        let is_by_token = price["price_per_token"].is_number();
        assert!(cost.nanos() == base || (is_by_token && cost.nanos() > base), "{path}");
        expected -= cost.nanos();
        if !path.starts_with("/v1") && !path.ends_with("health") {
            assert_eq!(answer.body["simulated"], true, "{path}");
        }
    }
    assert_eq!(user.folded().await, expected);
}

async fn a_failed_call_costs_nothing(database: Database) {
    let upstream = Upstream::start(Script::Answer(500, "{}".into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
        settings.upstreams.hub.timeout_seconds = 1.try_into().unwrap();
        // A port that nobody listens on.
        settings.upstreams.v1.url = Some("http://127.0.0.1:1".into());
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let failed = ("Upstream error", "The upstream service failed. You were not charged.");
    let slow =
        ("Upstream timeout", "The upstream service did not answer in time. You were not charged.");
    let routes = [("/api/hub/agents/chat", hello()), ("/api/hub/rag/index", json!({}))];
    for (script, status, error) in [
        (Script::Answer(500, "{}".into()), 502, failed),
        (Script::Answer(401, "{\"error\":\"our own credential\"}".into()), 502, failed),
        (Script::Cut, 502, failed),
        (Script::Answer(504, "{}".into()), 504, slow),
        // A fixed price is for an answer.
        (Script::Silent, 504, slow),
    ] {
        let of_all = if matches!(script, Script::Silent) { &routes[1..] } else { &routes[..] };
        upstream.script(script);
        for (path, body) in of_all {
            let refused = server.post(path, body).key(&key).expect(status).await;
            refused.assert_error(error.0, error.1);
        }
    }
    let refused = server.post("/v1/chat/completions", &hello()).key(&key).expect(502).await;
    refused.assert_code("upstream_error", failed.1);
    assert_eq!(user.folded().await, 1_000_000_000);
    let balance = user.get("/api/payments/credits/balance").expect(200).await;
    assert_eq!(
        (balance.number("held").as_str(), balance.number("available").as_str()),
        ("0.0000", "1.0000")
    );
    // Holds leave nothing in the ledger; fixed prices a debit and its refund.
    let ledger = user.ledger().await;
    let kinds: Vec<_> = ledger.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[1..], ["charge", "refund"].repeat(5));
    let limits = user.get(&format!("/api/keys/{}/limits", key.id)).expect(200).await.body;
    assert_eq!(limits["daily"]["spent"], json!(0.0));
}

async fn what_the_upstream_refuses_is_passed_on_and_costs_nothing(database: Database) {
    let answer = "{\"error\":{\"message\":\"no such model\"}}";
    let upstream = Upstream::start(Script::Answer(404, answer.into())).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let refused = server.post("/v1/chat/completions", &hello()).key(&key).expect(404).await;
    assert_eq!(refused.text, answer);
    assert_eq!(refused.header("x-polysystems-cost"), "0.0000");
    // Some upstreams say it in a 200.
    upstream.script(Script::Answer(200, answer.into()));
    let failed = server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    assert_eq!((failed.text.as_str(), failed.header("x-polysystems-cost")), (answer, "0.0000"));
    // The sandbox says itself what it cannot answer.
    let refused =
        server.post("/api/hub/agents/chat", &json!({ "messages": [] })).key(&key).expect(400).await;
    assert_eq!(refused.header("x-polysystems-cost"), "0.0000");
    assert_eq!(user.folded().await, 1_000_000_000);
}

async fn an_answer_never_costs_more_than_was_held(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server =
        Server::start_with(&database, |settings| settings.upstreams.v1.url = Some(upstream.url()))
            .await;
    let user = server.user("someone").await;
    user.pay("0.0030").await;
    let key = user.key().await;
    let body = "{\"max_tokens\":50}";
    let call = || server.post("/v1/chat/completions", &json!(null)).body(body).key(&key);
    for (usage, cost) in [
        ("{\"prompt_tokens\":1000000,\"completion_tokens\":9}", "0.0030"), // all that there is
        ("{\"prompt_tokens\":-5,\"completion_tokens\":-9}", "0.0020"),
        ("{}", "0.0020"),
    ] {
        upstream.script(Script::Answer(200, format!("{{\"usage\":{usage}}}")));
        let before = user.folded().await;
        let answer = call().expect(200).await;
        assert_eq!(answer.header("x-polysystems-cost"), cost, "{usage}");
        assert!(user.folded().await < before);
        user.pay("0.0030").await;
    }
}

async fn headers_pass_by_lists(database: Database) {
    let upstream = Upstream::start(Script::Answer(200, "{\"a\":1}".into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let mut request = server.post("/api/hub/rag/index", &json!({})).key(&key);
    let kept = ["anthropic-version", "x-stainless-lang", "user-agent"];
    for name in kept {
        request = request.header(name, "kept");
    }
    let dropped = [
        "OpenAI-Beta",
        "Anthropic-Beta",
        "Helicone-Target-URL",
        "X-Remote-User",
        "X-Envoy-Original-Path",
        "X-Client-IP",
        "X_Forwarded_For",
        "X_HTTP_Method_Override",
        "X_Polysystems_User",
        "OpenAI-Organization",
        "X-Custom",
        "Idempotency-Key",
    ];
    for name in dropped {
        request = request.header(name, "dropped");
    }
    let answer = request.expect(200).await;
    let head = upstream.heads.lock().unwrap().pop().unwrap();
    for name in kept {
        assert!(head.contains(&format!("\r\n{name}: kept")), "{name} is not in {head}");
    }
    assert!(!head.contains("dropped"), "{head}");
    assert!(!answer.headers.contains_key("x-upstream-header"), "{:?}", answer.headers);
    // What is compressed cannot be priced.
    let request = server.post("/api/hub/agents/chat", &hello()).key(&key);
    let refused = request.header("Content-Encoding", "gzip").expect(415).await;
    assert_eq!(refused.body["error"], "Content encoding not supported");
    let request = server.post("/api/hub/rag/index", &json!({})).key(&key);
    request.header("Content-Encoding", "identity").expect(200).await;
}

async fn the_callers_secrets_stay_here(database: Database) {
    let upstream = Upstream::start(Script::Answer(200, "{\"a\":1}".into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
        settings.upstreams.hub.api_key = Some(serde_json::from_value(json!("our-own")).unwrap());
        settings.upstreams.hub.request_headers = vec!["X-Custom".into()];
        settings.upstreams.hub.answer_headers = vec!["X-Upstream-Header".into()];
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    for request in [
        server.post("/api/hub/rag/index?a=b%20c", &json!({})).key(&key),
        server.post("/api/hub/rag/index?a=b%20c", &json!({})).bearer(&key.value),
        server.post("/api/hub/rag/index?a=b%20c", &json!({})).header("api-key", &key.value),
        server.post("/api/hub/rag/index?a=b%20c", &json!({})).header("x-goog-api-key", &key.value),
    ] {
        let answer = request
            .header("X-Custom", "kept")
            .header("Cookie", "session=1")
            .header("Connection", "keep-alive, X-Hop")
            .header("X-Hop", "dropped")
            .expect(200)
            .await;
        assert_eq!(
            (answer.text.as_str(), answer.header("x-upstream-header")),
            ("{\"a\":1}", "kept")
        );
        assert_eq!(answer.header("x-polysystems-upstream"), "hub");
        assert!(answer.headers.get("set-cookie").is_none());
        let head = upstream.heads.lock().unwrap().pop().unwrap();
        assert!(head.starts_with("post /api/hub/rag/index?a=b%20c http/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: bearer our-own") && head.contains("x-custom: kept"));
        assert!(head.contains(&format!("x-request-id: {}", answer.header("x-request-id"))));
        for secret in [key.value.to_lowercase().as_str(), "cookie", "x-hop", "x-api-key"] {
            assert!(!head.contains(secret), "{secret} in {head}");
        }
    }
}

/// A client that resets its connection drops the handler half-way; the call is settled all the
/// same.
async fn who_leaves_is_settled_all_the_same(database: Database) {
    let pause = Duration::from_millis(300);
    let answer = "{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";
    let upstream = Upstream::start(Script::Slow(pause, answer.into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    for path in ["/api/hub/agents/chat", "/api/hub/rag/index"] {
        for _ in 0..5 {
            let calls = upstream.calls();
            let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let request = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: 2\r\n\r\n{{}}",
                key.value
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            while upstream.calls() == calls {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // No polite close: a reset.
            stream.set_zero_linger().unwrap();
            drop(stream);
        }
    }
    let balance = loop {
        let balance = user.get("/api/payments/credits/balance").expect(200).await;
        let ledger = user.ledger().await;
        if balance.number("held") == "0.0000" && ledger.len() == 11 {
            break balance.number("balance");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // 5 x (0.0020 + 2 tokens) and 5 x 0.0005.
    assert_eq!(balance, "0.9874");
    assert_eq!(user.folded().await, 987_400_000);
}

async fn so_many_calls_of_an_account_run_at_once(database: Database) {
    let upstream = Upstream::start(Script::Slow(Duration::from_millis(500), "{}".into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
        settings.accounts.in_flight_max = 3.try_into().unwrap();
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let calls = (0..10).map(|_| server.post("/api/hub/rag/index", &json!({})).key(&key).send());
    let answers = futures_util::future::join_all(calls).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let refused: Vec<&Value> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .map(|answer| &answer.body["error"])
        .collect();
    assert_eq!((served, refused.len()), (3, 7));
    assert!(refused.iter().all(|error| **error == "Too many concurrent requests"));
    assert!(
        answers.iter().all(|answer| answer.status == 200 || answer.header("retry-after") == "1")
    );
    assert_eq!(user.folded().await, 1_000_000_000 - 3 * 500_000);
}

/// A flood of calls with a key cannot keep its owner from revoking it, and the books still balance.
async fn a_key_can_be_deleted_while_it_is_busy(database: Database) {
    let answer = "{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";
    let upstream = Upstream::start(Script::Slow(Duration::from_secs(1), answer.into())).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
        settings.accounts.in_flight_max = 2.try_into().unwrap();
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    server.post("/api/hub/agents/chat", &hello()).key(&key).expect(200).await;
    let calls = (0..2).map(|_| server.post("/api/hub/agents/chat", &hello()).key(&key).send());
    let meddle = async {
        while upstream.calls() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.post("/api/hub/agents/chat", &hello()).key(&key).expect(429).await;
        user.limit(&key, &json!({ "daily_limit": 1 })).await;
        user.delete(&format!("/api/keys/{}", key.id)).expect(204).await;
    };
    let (answers, ()) =
        futures_util::future::join(futures_util::future::join_all(calls), meddle).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    server.post("/api/hub/agents/chat", &hello()).key(&key).expect(401).await;
    assert_eq!(user.folded().await, 1_000_000_000 - 3 * 2_020_000);
    crate::support::process::verify(&database);
}

async fn a_checkpoint_of_many_calls_writes_all_of_them_and_leaves_no_journal(database: Database) {
    use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
    const CALLERS: usize = 32;
    const CALLS: usize = 20;
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    // Meanwhile nothing can be checkpointed, so that all of them are checkpointed at once. On
    // SQLite nothing else could be written.
    let connection = database.connect().await;
    let block = connection.begin().await.unwrap();
    if database.is_postgres() {
        block.execute_unprepared("LOCK TABLE journal_mark IN EXCLUSIVE MODE").await.unwrap();
    }
    let caller = async || {
        for _ in 0..CALLS {
            server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
        }
    };
    futures_util::future::join_all((0..CALLERS).map(|_| caller())).await;
    block.rollback().await.unwrap();
    let calls = CALLERS * CALLS;
    let ledger = user.ledger().await;
    assert_eq!(ledger.len(), 1 + calls);
    let balance = nanos(&ledger.last().unwrap()["balance_after"]);
    assert_eq!(user.folded().await, balance);
    let sums = "SELECT CAST(balance AS TEXT) || ' ' || CAST(seq AS TEXT) || ' ' ||
            (SELECT CAST(SUM(total_spent) AS TEXT) FROM key_spend) || ' ' ||
            (SELECT CAST(SUM(cost) AS TEXT) || ' ' || CAST(COUNT(*) AS TEXT) FROM usage_record)
        FROM account ORDER BY seq DESC LIMIT 1";
    let spent = 10_000_000_000 - balance;
    let expected = format!("{balance} {} {spent} {spent} {calls}", 1 + calls);
    assert_eq!(database.query(sums).await, expected);
    // What is checkpointed by itself takes everything before it along.
    server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    for attempt in 0.. {
        let left = database.journaled().await;
        if left == 0 {
            break;
        }
        assert!(attempt < 500, "{left} batches were never deleted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
