//! API keys as their owner manages them.

use serde_json::{Value, json};

use crate::support::{Database, Server, hello, on_both};

on_both!(
    a_key_is_shown_once,
    limits_are_changed_one_by_one,
    a_change_binds_for_the_very_next_call,
    foreign_and_unknown_keys_are_answered_alike,
    an_expired_key_says_so,
    test_keys_spend_test_credits_on_the_sandbox,
    an_account_has_so_many_keys,
    keys_and_counters_survive_a_restart,
);

async fn a_key_is_shown_once(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let body = json!({ "name": "Production API Key", "expires_at": null });
    let created = user.post("/api/keys", &body).expect(201).await.body;
    let (id, value) = (created["id"].as_str().unwrap(), created["key_value"].as_str().unwrap());
    assert!(id.starts_with("key-") && value.starts_with("ps_live_") && value.len() == 44);
    for (field, expected) in [
        ("name", json!("Production API Key")),
        ("is_active", json!(true)),
        ("created_at", json!("2024-01-15T12:00:00Z")),
        ("expires_at", Value::Null),
    ] {
        assert_eq!(created[field], expected, "{field}");
    }
    let listed = user.get("/api/keys").expect(200).await;
    assert!(!listed.text.contains(value));
    let preview = format!("{}...{}", &value[..12], &value[40..]);
    let expected = json!({
        "id": id, "name": "Production API Key", "key_value_preview": preview, "is_active": true,
        "last_used_at": null, "created_at": "2024-01-15T12:00:00Z", "expires_at": null,
        "expires_soon": false, "environment": "live",
    });
    assert_eq!(listed.body, json!([expected]));
    assert_eq!(user.get(&format!("/api/keys/{id}")).expect(200).await.body, expected);
    let stored = database.query("SELECT name || preview FROM api_key").await;
    assert!(!stored.contains(value));

    server.advance(60);
    server.get("/api/hub/health").header("X-API-Key", value).expect(200).await;
    user.pay("1.00").await;
    server.post("/api/hub/agents/chat", &hello()).bearer(value).expect(200).await;
    let used = user.get(&format!("/api/keys/{id}")).expect(200).await.body;
    assert_eq!(used["last_used_at"], "2024-01-15T12:01:00Z");

    for body in [
        json!({}),
        json!({ "name": "" }),
        json!({ "name": "\u{0}" }),
        json!({ "name": "a", "expires_at": "soon" }),
        json!({ "name": "a", "environment": "staging" }),
    ] {
        user.post("/api/keys", &body).expect(400).await;
    }
}

async fn limits_are_changed_one_by_one(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let body = "{\"daily_limit\": 1.00, \"monthly_limit\": 10.00}";
    let set = user
        .put(&format!("/api/keys/{}/limits", key.id), &json!(null))
        .body(body)
        .expect(200)
        .await;
    assert_eq!(
        set.text,
        format!(
            "{{\"key_id\":\"{}\",\"currency\":\"USD\",\"daily_limit\":1.0000,\"monthly_limit\":10.0000,\
             \"per_request_limit\":null,\
             \"daily\":{{\"limit\":1.0000,\"spent\":0.0000,\"remaining\":1.0000,\"resets_at\":\"2024-01-16T00:00:00Z\"}},\
             \"monthly\":{{\"limit\":10.0000,\"spent\":0.0000,\"remaining\":10.0000,\"resets_at\":\"2024-02-01T00:00:00Z\"}},\
             \"per_request\":{{\"limit\":null}}}}",
            key.id
        )
    );
    let shown = user.limit(&key, &json!({ "per_request_limit": 0.5 })).await;
    assert_eq!((&shown["daily_limit"], &shown["per_request_limit"]), (&json!(1.0), &json!(0.5)));
    let shown = user.limit(&key, &json!({ "daily_limit": null })).await;
    assert_eq!((&shown["daily_limit"], &shown["monthly_limit"]), (&Value::Null, &json!(10.0)));
    let read = user.get(&format!("/api/keys/{}/limits", key.id)).expect(200).await.body;
    assert_eq!(read, shown);
    for body in [
        "{\"daily_limit\": -1}",
        "{\"daily_limit\": \"1.00\"}",
        "{\"daily_limit\": 1e3}",
        "{\"daily_limit\": 0.0000000001}",
        "{\"daily_limit\": 99999999999}",
        "{\"weekly_limit\": 1}",
    ] {
        let path = format!("/api/keys/{}/limits", key.id);
        let refused = user.put(&path, &json!(null)).body(body).expect(400).await;
        assert!(
            refused.body["details"][0]["field"].as_str().unwrap().contains("limit"),
            "{}",
            refused.text
        );
    }
}

async fn a_change_binds_for_the_very_next_call(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let call = || server.post("/api/hub/rag/index", &json!({})).key(&key);
    for _ in 0..20 {
        call().expect(200).await;
        user.limit(&key, &json!({ "per_request_limit": 0.0004 })).await;
        call().expect(402).await;
        user.limit(&key, &json!({ "per_request_limit": null })).await;
    }
    let path = format!("/api/keys/{}/revoke", key.id);
    let revoked = user.post(&path, &json!(null)).expect(200).await.body;
    assert_eq!(revoked["is_active"], false);
    let refused = call().expect(401).await;
    refused.assert_error("Invalid API key", "The provided access key is not valid");
    user.post(&path, &json!(null)).expect(200).await;

    let key = user.key().await;
    let call = || server.post("/api/hub/rag/index", &json!({})).key(&key);
    call().expect(200).await;
    let path = format!("/api/keys/{}", key.id);
    assert_eq!(user.delete(&path).expect(204).await.text, "");
    call()
        .expect(401)
        .await
        .assert_error("Invalid API key", "The provided access key is not valid");
    user.get(&path).expect(404).await;
    user.delete(&path).expect(404).await;
}

async fn foreign_and_unknown_keys_are_answered_alike(database: Database) {
    let server = Server::start(&database).await;
    let owner = server.user("owner").await;
    let other = server.user("other").await;
    let key = owner.key().await;
    let mut answers = Vec::new();
    for id in [key.id.as_str(), "key-00000000-0000-4000-8000-000000000000", "key-nonsense", "7"] {
        let path = |tail: &str| format!("/api/keys/{id}{tail}");
        for request in [
            other.get(&path("")),
            other.delete(&path("")),
            other.post(&path("/revoke"), &json!(null)),
            other.put(&path("/limits"), &json!({ "daily_limit": 0 })),
            other.get(&path("/limits")),
        ] {
            let mut answer = request.expect(404).await.body;
            answer["request_id"] = Value::Null;
            answers.push(answer);
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(answers[0]["error"], "Not found");
    server.get("/api/hub/health").key(&key).expect(200).await;
}

async fn an_expired_key_says_so(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let body = json!({ "name": "Temporary API Key", "expires_at": "2024-02-15T12:00:00Z" });
    let key = user.key_of(&body).await;
    server.get("/api/hub/health").key(&key).expect(200).await;
    server.advance(31 * 86_400 - 1);
    server.get("/api/hub/health").key(&key).expect(200).await;
    server.advance(1);
    let refused = server.get("/api/hub/health").key(&key).expect(401).await;
    refused.assert_error("API key expired", "This access key has expired");
}

async fn test_keys_spend_test_credits_on_the_sandbox(database: Database) {
    let upstream = crate::support::upstream::Upstream::start(
        crate::support::upstream::Script::Answer(200, "{\"live\":true}".into()),
    )
    .await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(upstream.url());
    })
    .await;
    let user = server.user("someone").await;
    let key = user.key_of(&json!({ "name": "Development Token", "environment": "test" })).await;
    assert!(key.value.starts_with("ps_test_"));
    let answer = server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    assert_eq!(answer.header("x-polysystems-upstream"), "sandbox");
    assert_eq!((answer.header("x-polysystems-balance"), upstream.calls()), ("99.9995", 0));
    assert_eq!(user.balance().await, "0.0000", "live credits are untouched");
    let balance = user.get("/api/payments/credits/balance?environment=test").expect(200).await;
    assert_eq!(balance.number("balance"), "99.9995");
    let ledger = user.get("/api/payments/transactions?environment=test").expect(200).await.body;
    let kinds: Vec<_> =
        ledger["transactions"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, ["charge", "grant"]);

    let live = user.key().await;
    server.post("/api/hub/rag/index", &json!({})).key(&live).expect(402).await;
    user.pay("1.00").await;
    let answer = server.post("/api/hub/rag/index", &json!({})).key(&live).expect(200).await;
    assert_eq!((answer.header("x-polysystems-upstream"), upstream.calls()), ("hub", 1));
}

async fn an_account_has_so_many_keys(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.auth.keys_per_account_max = 2).await;
    let user = server.user("someone").await;
    let first = user.key().await;
    user.key().await;
    user.post("/api/keys", &json!({ "name": "one too many" })).expect(409).await;
    user.delete(&format!("/api/keys/{}", first.id)).expect(204).await;
    user.key().await;
}

async fn keys_and_counters_survive_a_restart(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let (key, revoked) = (user.key().await, user.key().await);
    user.limit(&key, &json!({ "daily_limit": 0.0010, "monthly_limit": 5 })).await;
    user.post(&format!("/api/keys/{}/revoke", revoked.id), &json!(null)).expect(200).await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    let path = format!("/api/keys/{}/limits", key.id);
    let before = user.get(&path).expect(200).await.text;
    assert!(before.contains("\"spent\":0.0005"), "{before}");
    let token = user.token.clone();
    server.stop();

    let server = Server::start(&database).await;
    let user = crate::support::User { server: &server, id: String::new(), token };
    assert_eq!(user.get(&path).expect(200).await.text, before);
    assert_eq!(user.balance().await, "0.9995");
    server.get("/api/hub/health").key(&revoked).expect(401).await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(402).await;
}
