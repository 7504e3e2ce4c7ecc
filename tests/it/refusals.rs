//! Every documented error to the letter, which of several wins, and the shape of all others.

use serde_json::{Value, json};

use crate::support::{Answer, Database, Server, hello, on_both};

on_both!(
    the_documented_refusals_are_to_the_letter,
    the_first_refusal_in_the_pipelines_order_wins,
    everything_else_has_the_same_shape,
    a_protocols_routes_refuse_in_its_words,
    a_key_comes_in_one_header_and_never_in_the_query,
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
        // A list is not taken for the fields in their order.
        user.put(&format!("/api/keys/{}/limits", key.id), &json!([1, 1, 1])).expect(400).await,
        server.get("/api/hub/agents/chat").expect(405).await,
        user.get("/api/payments/transactions?limit=many").expect(400).await,
    ];
    for answer in answers {
        for field in ["error", "message", "request_id", "timestamp", "code", "type", "doc_url"] {
            assert!(answer.body[field].is_string(), "{field}: {}", answer.text);
        }
        let code = answer.body["code"].as_str().unwrap();
        assert_eq!(answer.body["doc_url"], format!("/docs/errors#{code}"));
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

#[expect(clippy::too_many_lines, reason = "the table of refusals is one table")]
async fn a_protocols_routes_refuse_in_its_words(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.body_max_bytes = 1_000;
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
        settings.rate_limit.tiers.get_mut("free").unwrap().second = std::num::NonZeroU32::new(1);
    })
    .await;
    let user = server.user("someone").await;
    let poor = user.key().await;
    let rich = server.user("rich").await;
    rich.pay("1.00").await;
    let key = rich.key().await;
    let elsewhere = json!({ "name": "a", "scopes": ["hub"] });
    let elsewhere = rich.key_of(&elsewhere).await;
    let chat = || server.post("/v1/chat/completions", &hello());
    let mut with = hello();
    with["max_tokens"] = json!(9);
    let messages = || server.post("/v1/messages", &with);
    let large = || json!({ "messages": "a".repeat(2_000) }).to_string();
    let invalid = "invalid_request_error";
    for (request, status, kind, code, is_final) in [
        (chat(), 401, invalid, "invalid_api_key", false),
        (chat().bearer("sk-something"), 401, invalid, "invalid_api_key", false),
        (chat().key(&poor), 402, "insufficient_quota", "insufficient_quota", true),
        (chat().key(&elsewhere), 403, invalid, "permission_denied", true),
        (server.post("/v1/nothing", &json!({})).key(&key), 404, invalid, "unknown_url", true),
        (server.get("/v1/chat/completions"), 405, invalid, "method_not_supported", false),
        (chat().body("[1]").key(&key), 400, invalid, "bad_request", false),
        (chat().body(large()).key(&key), 413, invalid, "payload_too_large", false),
        (
            chat().header("Content-Encoding", "gzip"),
            415,
            invalid,
            "content_encoding_not_supported",
            false,
        ),
    ] {
        let refused = request.expect(status).await;
        let (body, inner) = (&refused.body, &refused.body["error"]);
        assert_eq!((&inner["type"], &inner["code"]), (&json!(kind), &json!(code)));
        assert_eq!(inner["param"], Value::Null);
        is_told(&refused, is_final);
        assert_eq!(inner["message"], body["message"], "{}", refused.text);
    }
    for (request, status, kind, is_final) in [
        (messages(), 401, "authentication_error", false),
        (messages().key(&poor), 402, "billing_error", true),
        (messages().key(&elsewhere), 403, "permission_error", true),
        (server.post("/v1/messages/nothing", &json!({})).key(&key), 404, "not_found_error", true),
        (messages().body("[1]").key(&key), 400, invalid, false),
        (messages().body(large()).key(&key), 413, "request_too_large", false),
    ] {
        let refused = request.expect(status).await;
        assert_eq!(refused.body["type"], "error");
        assert_eq!(refused.body["error"]["type"], kind, "{}", refused.text);
        assert_eq!(refused.body["error"]["message"], refused.body["message"]);
        is_told(&refused, is_final);
    }
    let gemini = server.post("/v1beta/models/m:generateContent", &json!({})).expect(401).await;
    assert_eq!(gemini.body["error"]["status"], "UNAUTHENTICATED");
    is_told(&gemini, false);
    // A limit of the rate, after which a client may try again.
    let limited = server.user("limited").await;
    database.execute("UPDATE users SET tier = 'free' WHERE username = 'limited'").await.unwrap();
    let limited = limited.key().await;
    let refused = loop {
        let answer = chat().key(&limited).send().await;
        if answer.status == 429 {
            break answer;
        }
    };
    assert_eq!(refused.body["error"]["type"], "requests");
    assert_eq!(refused.body["error"]["code"], "rate_limit_exceeded");
    is_told(&refused, false);
    let refused = server.post("/api/hub/rag/index", &json!({})).key(&poor).expect(402).await;
    assert_eq!(refused.body["error"], "Insufficient credits");
}

/// Has the answer the contract's fields, and says whether it must not be asked for again?
fn is_told(answer: &Answer, is_final: bool) {
    for field in ["message", "request_id", "timestamp"] {
        assert!(answer.body[field].is_string(), "{field}: {}", answer.text);
    }
    assert_eq!(answer.body["request_id"], answer.header("x-request-id"));
    let told = answer.headers.get("x-should-retry").map(|value| value.to_str().unwrap());
    assert_eq!(told, is_final.then_some("false"), "{}", answer.text);
}

async fn a_key_comes_in_one_header_and_never_in_the_query(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let (key, other) = (user.key().await, user.key().await);
    let list = || server.get("/v1/models");
    for name in ["X-API-Key", "api-key", "x-goog-api-key"] {
        list().header(name, &key.value).expect(200).await;
        list().header(name, "nonsense").expect(401).await;
        // As of old, the bearer counts only if no header for keys comes.
        list().header(name, &key.value).bearer("nonsense").expect(200).await;
    }
    let same = list().header("api-key", &key.value).header("x-goog-api-key", &key.value);
    same.expect(200).await;
    let two = list().header("api-key", &key.value).key(&other).expect(401).await;
    let message = two.body["message"].as_str().unwrap();
    assert!(message.contains("different API keys"), "{message}");
    for path in [
        format!("/v1/models?key={}", key.value),
        "/v1/models?alt=sse&key=AIzaSomething".to_owned(),
        format!("/api/hub/health?token={}", key.value),
    ] {
        for request in [server.get(&path), server.get(&path).key(&key)] {
            let refused = request.expect(401).await;
            let message = refused.body["message"].as_str().unwrap();
            assert!(message.contains("not accepted in the query"), "{message}");
        }
    }
    server.get("/api/hub/health?key=color").key(&key).expect(200).await;
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
    assert_eq!(operations, 207);
    // Swagger UI comes from here, all of it.
    let page = server.get("/docs/").expect(200).await.text;
    assert!(!page.contains("https://") && !page.contains("http://"), "{page}");
    for asset in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let asset = server.get(&format!("/docs/{asset}")).expect(200).await;
        assert!(!asset.text.is_empty());
    }
}
