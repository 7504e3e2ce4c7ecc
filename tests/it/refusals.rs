//! Every documented error to the letter, which of several wins, and the shape of all others.

use serde_json::json;

use crate::support::{Database, Server, hello, on_both};

on_both!(
    the_documented_refusals_are_to_the_letter,
    the_first_refusal_in_the_pipelines_order_wins,
    everything_else_has_the_same_shape,
    a_large_body_is_refused,
    the_document_tells_of_what_is_there,
);

const INVALID: (&str, &str) = ("Invalid API key", "The provided access key is not valid");

async fn the_documented_refusals_are_to_the_letter(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let chat = || server.post("/api/hub/agents/chat", &hello());
    let missing = "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key";
    chat().expect(401).await.assert_error("Missing API key", missing);
    chat()
        .header("Authorization", "Basic abc")
        .expect(401)
        .await
        .assert_error("Missing API key", missing);
    for foreign in ["ps_live_abcdef123456789", "sk-something", "", "ps_live_\u{e9}"] {
        let refused = chat().header("X-API-Key", foreign).expect(401).await;
        refused.assert_error(INVALID.0, INVALID.1);
    }
    // Well formed, with a right checksum, but nobody's.
    let nobodys = domain::api_key::ApiKey::from_symbols(domain::Environment::Live, [7; 30]);
    let refused = chat().bearer(nobodys.expose()).expect(401).await;
    refused.assert_error(INVALID.0, INVALID.1);
    chat().key(&key).expect(402).await.assert_error(
        "Insufficient credits",
        "This request costs $0.0020 but your balance is insufficient. Please top up your account.",
    );
    user.pay("0.0021").await;
    // The base price is there, what the call begins with is not: the refusal names the latter.
    let refused = chat().key(&key).expect(402).await;
    refused.assert_error(
        "Insufficient credits",
        "This request costs $0.00225 but your balance is insufficient. Please top up your account.",
    );
    user.pay("1.00").await;
    user.limit(&key, &json!({ "daily_limit": 0.001 })).await;
    chat().key(&key).expect(402).await.assert_error(
        "Spending limit exceeded",
        "This access key has reached its spending limit. Please adjust limits or top up credits.",
    );
}

async fn the_first_refusal_in_the_pipelines_order_wins(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.tiers.get_mut("pro").unwrap().second = std::num::NonZeroU32::new(6);
    })
    .await;
    let user = server.user("someone").await;
    let key = user.key().await;
    // No price and a bad body, no key: authentication comes before pricing.
    server.post("/api/hub/unknown", &hello()).expect(401).await;
    server.post("/api/hub/agents/chat", &json!("x")).expect(401).await;
    // No price before no credits.
    let unpriced = server.post("/api/hub/unknown", &hello()).key(&key).expect(404).await;
    unpriced.assert_error(
        "Not found",
        "This route has no price. GET /api/pricing lists the routes that can be called.",
    );
    // A bad body before no credits; no credits before the limit.
    user.limit(&key, &json!({ "daily_limit": 0 })).await;
    let body = "{\"messages\":";
    let bad = server.post("/api/omm/generate", &json!(null)).body(body).key(&key).expect(400).await;
    assert_eq!(bad.body["error"], "Bad request");
    let refused = server.post("/api/hub/rag/index", &json!({})).key(&key).expect(402).await;
    assert_eq!(refused.body["error"], "Insufficient credits");
    user.pay("1.00").await;
    let refused = server.post("/api/hub/rag/index", &json!({})).key(&key).expect(402).await;
    assert_eq!(refused.body["error"], "Spending limit exceeded");
    // The rate limit before pricing, and before the limit.
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(
            server.post("/api/hub/rag/index", &json!({})).key(&key).send().await.status.as_u16(),
        );
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

async fn everything_else_has_the_same_shape(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    user.pay("1.00").await;
    let answers = [
        server.get("/nowhere").expect(404).await,
        server.get("/api/nowhere").expect(404).await,
        server.get("/api/hub//keys").key(&key).expect(404).await,
        server.post("/api/pricing", &json!({})).expect(405).await,
        server.request(reqwest::Method::PATCH, "/api/keys").expect(405).await,
        server.post("/api/auth/login", &json!(null)).body("not json").expect(400).await,
        server.post("/v1/chat/completions", &json!(null)).body("[1]").key(&key).expect(400).await,
        // A list is not taken for the fields in their order.
        user.put(&format!("/api/keys/{}/limits", key.id), &json!([1, 1, 1])).expect(400).await,
        server.get("/api/hub/agents/chat").expect(405).await,
        user.get("/api/payments/transactions?limit=many").expect(400).await,
    ];
    for answer in answers {
        for field in ["error", "message", "request_id", "timestamp"] {
            assert!(answer.body[field].is_string(), "{field}: {}", answer.text);
        }
        assert_eq!(answer.body["request_id"], answer.header("x-request-id"));
        assert_eq!(answer.header("content-type"), "application/json");
    }
    for path in ["/health/live", "/health/ready", "/api/pricing", "/api/openapi.json", "/docs/"] {
        assert!(server.get(path).expect(200).await.header("x-request-id").starts_with("req-"));
    }
    let streamed =
        json!({ "messages": [{ "role": "user", "content": "Hello!" }], "stream": "yes" });
    let refused = server.post("/v1/chat/completions", &streamed).key(&key).expect(400).await;
    assert!(refused.body["message"].as_str().unwrap().contains("boolean"));
    assert_eq!(user.balance().await, "1.0000");
}

async fn a_large_body_is_refused(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.server.body_max_bytes = 1_000).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let body = |length: usize| format!("{{\"input\":\"{}\"}}", "a".repeat(length - 12));
    let send =
        |length: usize| server.post("/api/omm/generate", &json!(null)).body(body(length)).key(&key);
    send(1_000).expect(200).await;
    let refused = send(1_001).expect(413).await;
    refused.assert_error(
        "Payload too large",
        "The body is too large. At most 1000 bytes are accepted.",
    );
    // Without a length told in advance.
    let chunks =
        futures_util::stream::iter((0..4).map(|_| Ok::<_, std::io::Error>(vec![b' '; 400])));
    let stream = reqwest::Body::wrap_stream(chunks);
    server.post("/api/omm/generate", &json!(null)).body(stream).key(&key).expect(413).await;
    user.post("/api/keys", &json!(null)).body(body(1_001)).expect(413).await;
}

async fn the_document_tells_of_what_is_there(database: Database) {
    let server = Server::start(&database).await;
    let document = server.get("/api/openapi.json").expect(200).await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let paths = document["paths"].as_object().unwrap();
    let mut operations = 0;
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let path = path.replace("{id}", "x").replace("{path}", "x");
            let answer = server.request(method.clone(), &path).send().await;
            // Every documented operation is there: what is not says so in these words.
            let absent = "There is no such route";
            assert!(
                answer.status != 405 && !answer.text.contains(absent),
                "{method} {path}: {}",
                answer.text
            );
            operations += 1;
        }
    }
    assert_eq!(operations, 95);
    // Swagger UI comes from here, all of it.
    let page = server.get("/docs/").expect(200).await.text;
    assert!(!page.contains("https://") && !page.contains("http://"), "{page}");
    for asset in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let asset = server.get(&format!("/docs/{asset}")).expect(200).await;
        assert!(!asset.text.is_empty());
    }
}
