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
    of_the_values_a_key_had_one_lives_at_most,
    a_suspended_user_makes_nothing_new,
    keys_and_counters_survive_a_restart,
    a_rotated_key_keeps_its_limits_and_its_old_value_for_a_while,
    of_many_rotations_at_once_each_value_is_a_key_or_none,
    a_key_is_for_what_its_owner_says_alone,
    a_key_has_a_rate_limit_of_its_own,
    a_key_may_spend_so_much_in_all,
    a_key_that_ends_soon_says_so,
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
        "expires_soon": false, "former_value_valid_until": null, "environment": "live",
        "scopes": null, "allowed_models": null, "allowed_ips": null, "calls_per_minute": null,
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
            "{{\"key_id\":\"{}\",\"currency\":\"USD\",\"daily_limit\":1.0000,\"daily_limit_decimal\":\"1.0000\",\
             \"monthly_limit\":10.0000,\"monthly_limit_decimal\":\"10.0000\",\
             \"per_request_limit\":null,\"total_limit\":null,\
             \"daily\":{{\"limit\":1.0000,\"limit_decimal\":\"1.0000\",\"spent\":0.0000,\"spent_decimal\":\"0.0000\",\
             \"remaining\":1.0000,\"remaining_decimal\":\"1.0000\",\"resets_at\":\"2024-01-16T00:00:00Z\"}},\
             \"monthly\":{{\"limit\":10.0000,\"limit_decimal\":\"10.0000\",\"spent\":0.0000,\
             \"spent_decimal\":\"0.0000\",\"remaining\":10.0000,\"remaining_decimal\":\"10.0000\",\
             \"resets_at\":\"2024-02-01T00:00:00Z\"}},\"per_request\":{{\"limit\":null}},\
             \"total\":{{\"limit\":null,\"spent\":0.0000,\"spent_decimal\":\"0.0000\",\"remaining\":null}}}}",
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

async fn a_rotated_key_keeps_its_limits_and_its_old_value_for_a_while(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let call =
        |value: &str| server.post("/api/hub/rag/index", &json!({})).header("X-API-Key", value);
    call(&key.value).expect(200).await;
    user.limit(&key, &json!({ "daily_limit": 0.0015 })).await;
    let path = format!("/api/keys/{}/rotate", key.id);
    let rotated = user.post(&path, &json!({ "grace_seconds": 60 })).expect(200).await.body;
    let second = rotated["key_value"].as_str().unwrap().to_owned();
    assert_eq!(rotated["id"], key.id.as_str());
    assert_ne!(second, key.value);
    assert_eq!(rotated["former_value_valid_until"], "2024-01-15T12:01:00Z");
    let listed = user.get(&format!("/api/keys/{}", key.id)).expect(200).await;
    assert!(!listed.text.contains(&second) && !listed.text.contains(&key.value));
    assert_eq!(listed.body["key_value_preview"], rotated["key_value_preview"]);
    // Both values are one key, with one limit.
    call(&second).expect(200).await;
    call(&key.value).expect(200).await;
    call(&second).expect(402).await;
    user.limit(&key, &json!({ "daily_limit": null })).await;
    server.advance(60);
    let refused = call(&key.value).expect(401).await;
    refused.assert_error("API key expired", "This access key has expired");
    call(&second).expect(200).await;
    // At once, and twice in a row.
    let third = user.post(&path, &json!({ "grace_seconds": 0 })).expect(200).await.body;
    let third = third["key_value"].as_str().unwrap().to_owned();
    call(&second).expect(401).await;
    call(&third).expect(200).await;
    for body in [json!({ "grace_seconds": -1 }), json!({ "grace_seconds": 2_592_001 })] {
        user.post(&path, &body).expect(400).await;
    }
    let last = user.post(&path, &json!(null)).body("").expect(200).await.body;
    assert_eq!(last["former_value_valid_until"], "2024-01-16T12:01:00Z");
    // Out of use is every value at once.
    user.post(&format!("/api/keys/{}/revoke", key.id), &json!({})).expect(200).await;
    for value in [&third, last["key_value"].as_str().unwrap()] {
        call(value).expect(401).await;
    }
    user.post(&path, &json!({})).expect(409).await;
    server.user("other").await.post(&path, &json!({})).expect(404).await;
    assert_eq!(user.ledger().await.len(), 6);
}

async fn of_the_values_a_key_had_one_lives_at_most(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let call =
        |value: &str| server.post("/api/hub/rag/index", &json!({})).header("X-API-Key", value);
    let path = format!("/api/keys/{}/rotate", key.id);
    let rotate = async |grace: i64| {
        let body = json!({ "grace_seconds": grace });
        let rotated = user.post(&path, &body).expect(200).await.body;
        rotated["key_value"].as_str().unwrap().to_owned()
    };
    // A thief who has the first value keeps it alive by no number of rotations.
    let second = rotate(86_400).await;
    call(&key.value).expect(200).await;
    let third = rotate(86_400).await;
    call(&key.value).expect(401).await;
    call(&second).expect(200).await;
    call(&third).expect(200).await;
    let fourth = rotate(0).await;
    for former in [&key.value, &second, &third] {
        let refused = call(former).expect(401).await;
        refused.assert_error("API key expired", "This access key has expired");
    }
    call(&fourth).expect(200).await;
    // Of the oldest ones nothing is left, however often the value changes.
    for _ in 0..12 {
        server.advance(1);
        rotate(0).await;
    }
    let kept = database.query("SELECT COUNT(*) || '' FROM former_key_value").await;
    assert_eq!(kept, "10");
    let refused = call(&key.value).expect(401).await;
    assert_eq!(refused.body["error"], "Invalid API key");
}

async fn a_suspended_user_makes_nothing_new(database: Database) {
    let server = Server::start(&database).await;
    let operator = crate::operators::operator(&server, &database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let of = |what: &str| format!("/api/admin/users/{}/{what}", user.id);
    let reason = json!({ "reason": "chargeback" });
    operator.post(&of("suspend"), &reason).expect(200).await;
    user.get("/api/keys").expect(401).await;
    let user = server.log_in_again("someone").await;
    let attempts = [
        ("/api/keys".to_owned(), json!({ "name": "another" })),
        ("/api/keys".to_owned(), json!({ "name": "another", "environment": "test" })),
        (format!("/api/keys/{}/rotate", key.id), json!({})),
        (
            "/api/webhooks".to_owned(),
            json!({ "url": "https://hooks.example.com/", "events": ["payment.confirmed"] }),
        ),
    ];
    for (path, body) in &attempts {
        user.post(path, body).expect(403).await;
    }
    // What ends something is theirs to do.
    user.get("/api/keys").expect(200).await;
    operator.post(&of("resume"), &reason).expect(200).await;
    for (path, body) in &attempts {
        let answer = user.post(path, body).send().await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    }
    user.post(&format!("/api/keys/{}/revoke", key.id), &json!({})).expect(200).await;
}

async fn of_many_rotations_at_once_each_value_is_a_key_or_none(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let path = format!("/api/keys/{}/rotate", key.id);
    let rotations = (0..20).map(|_| user.post(&path, &json!({ "grace_seconds": 0 })).send());
    let answers = futures_util::future::join_all(rotations).await;
    let won: Vec<&Value> =
        answers.iter().filter(|answer| answer.status == 200).map(|answer| &answer.body).collect();
    assert!(!won.is_empty());
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.status == 409));
    let mut good = 0;
    for answer in won {
        let value = answer["key_value"].as_str().unwrap();
        let call = server.post("/api/hub/rag/index", &json!({})).header("X-API-Key", value);
        good += u32::from(call.send().await.status == 200);
    }
    assert_eq!(good, 1);
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_key_is_for_what_its_owner_says_alone(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let body = json!({
        "name": "narrow", "scopes": ["v1"], "allowed_models": ["gpt-4o", "o3*"],
        "allowed_ips": ["192.0.2.0/24", "2001:db8::7"],
    });
    let key = user.key_of(&body).await;
    let chat = |model: Value, address: &str| {
        let mut body = hello();
        body["model"] = model;
        server.post("/v1/chat/completions", &body).key(&key).header("X-Forwarded-For", address)
    };
    let denied = |answer: crate::support::Answer| {
        let words = "You do not have permission to access this resource";
        if answer.body["error"].is_object() {
            answer.assert_code("permission_denied", words);
        } else {
            answer.assert_error("Access denied", words);
        }
    };
    for (model, address) in
        [("gpt-4o", "192.0.2.200"), ("o3-mini", "2001:db8::7"), ("o3", "::ffff:192.0.2.1")]
    {
        chat(json!(model), address).expect(200).await;
    }
    for (model, address) in [
        (json!("gpt-4o"), "192.0.3.1"),
        (json!("gpt-4o"), "2001:db8::8"),
        (json!("gpt-4"), "192.0.2.1"),
        (json!("GPT-4O"), "192.0.2.1"),
        (json!(null), "192.0.2.1"),
        (json!(["gpt-4o"]), "192.0.2.1"),
    ] {
        denied(chat(model, address).expect(403).await);
    }
    let mut none = hello();
    none.as_object_mut().unwrap().remove("model");
    let from = |request: crate::support::Request| request.header("X-Forwarded-For", "192.0.2.1");
    denied(from(server.post("/v1/chat/completions", &none).key(&key)).expect(403).await);
    // A second model of the same name in the body is no way around.
    let twice = r#"{"model":"gpt-4","messages":[{"role":"user","content":"x"}],"model":"gpt-4o"}"#;
    let twice = from(server.post("/v1/chat/completions", &json!(null)).body(twice).key(&key));
    assert_ne!(twice.send().await.status, 200);
    denied(from(server.post("/api/hub/rag/index", &json!({})).key(&key)).expect(403).await);
    denied(from(server.get("/api/hub/health").key(&key)).expect(403).await);
    from(server.get("/v1/models").key(&key)).expect(200).await;
    // Nothing was charged for a refusal: what is there is the top-up and three calls.
    assert_eq!(user.ledger().await.len(), 4);

    // A change binds for the very next call; what is absent stays.
    let path = format!("/api/keys/{}", key.id);
    let edit = |body: Value| {
        let request = server.request(reqwest::Method::PATCH, &path).body(body.to_string());
        request.bearer(&user.token)
    };
    for _ in 0..10 {
        edit(json!({ "scopes": ["hub"] })).expect(200).await;
        chat(json!("gpt-4o"), "192.0.2.1").expect(403).await;
        let changed = edit(json!({ "scopes": null })).expect(200).await.body;
        assert_eq!(changed["scopes"], Value::Null);
        assert_eq!(changed["allowed_ips"], json!(["192.0.2.0/24", "2001:db8::7/128"]));
        chat(json!("gpt-4o"), "192.0.2.1").expect(200).await;
    }
    let changed = edit(json!({ "name": "wide", "allowed_models": null, "allowed_ips": null }));
    assert_eq!(changed.expect(200).await.body["name"], "wide");
    chat(json!("anything"), "203.0.113.1").expect(200).await;
    edit(json!({ "allowed_models": [] })).expect(200).await;
    chat(json!("gpt-4o"), "203.0.113.1").expect(403).await;
    // What names a model where the price does not depend on it is looked at as well.
    edit(json!({ "allowed_models": ["one"] })).expect(200).await;
    for (body, status) in [
        (r#"{"model":"one"}"#, 200),
        (r#"{"model":"two"}"#, 403),
        (r#"{"model":"two","model":"one"}"#, 403),
        (r#"{"model":7}"#, 403),
        ("{}", 200),
    ] {
        let call = server.post("/api/hub/rag/index", &json!(null)).body(body).key(&key);
        call.expect(status).await;
    }
    edit(json!({ "expires_at": "2024-01-15T12:00:00Z" })).expect(200).await;
    chat(json!("one"), "203.0.113.1").expect(401).await;
    edit(json!({ "expires_at": null })).expect(200).await;
    chat(json!("one"), "203.0.113.1").expect(200).await;

    for (field, wrong) in [
        ("scopes[1]", json!({ "scopes": ["hub", "admin"] })),
        ("allowed_ips[0]", json!({ "allowed_ips": ["192.0.2.0/33"] })),
        ("allowed_models[0]", json!({ "allowed_models": ["a*b"] })),
        ("allowed_models", json!({ "allowed_models": vec!["m"; 101] })),
        ("calls_per_minute", json!({ "calls_per_minute": 0 })),
        ("calls_per_minute", json!({ "calls_per_minute": 1_000_001 })),
        ("name", json!({ "name": null })),
        ("expires_at", json!({ "expires_at": "soon" })),
        ("name", json!({ "name": "" })),
        ("is_active", json!({ "is_active": true })),
    ] {
        let refused = edit(wrong).expect(400).await;
        assert_eq!(refused.body["details"][0]["field"], field, "{}", refused.text);
    }
    let other = server.user("other").await;
    let theirs = server.request(reqwest::Method::PATCH, &path).body("{}").bearer(&other.token);
    theirs.expect(404).await;
}

async fn a_key_has_a_rate_limit_of_its_own(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
    })
    .await;
    let user = server.user("someone").await;
    let slow = user.key_of(&json!({ "name": "slow", "calls_per_minute": 3 })).await;
    let other = user.key().await;
    let models = |key| server.get("/v1/models").key(key);
    for left in [2, 1, 0] {
        let answer = models(&slow).expect(200).await;
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
        assert_eq!(answer.header("x-ratelimit-limit"), "3");
        assert_eq!(answer.header("x-ratelimit-window"), "60");
    }
    let refused = models(&slow).expect(429).await;
    let wait: u32 = refused.header("retry-after").parse().unwrap();
    assert!((15..=20).contains(&wait), "{wait}");
    models(&other).expect(200).await;
    let path = format!("/api/keys/{}", slow.id);
    let edit = server.request(reqwest::Method::PATCH, &path).body("{\"calls_per_minute\":null}");
    edit.bearer(&user.token).expect(200).await;
    models(&slow).expect(200).await;
}

async fn a_key_may_spend_so_much_in_all(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let call = |server: &Server| server.post("/api/hub/rag/index", &json!({})).key(&key);
    call(&server).expect(200).await;
    let limits = user.limit(&key, &json!({ "total_limit": 0.0015 })).await;
    let expected = json!({ "limit": 0.0015, "limit_decimal": "0.0015", "spent": 0.0005,
        "spent_decimal": "0.0005", "remaining": 0.001, "remaining_decimal": "0.0010" });
    assert_eq!((&limits["total"], &limits["total_limit"]), (&expected, &json!(0.0015)));
    let answer = call(&server).expect(200).await;
    assert_eq!(answer.header("x-polysystems-total-remaining"), "0.0005");
    // Neither a day, a month nor a restart gives it back.
    server.advance(40 * 86_400);
    call(&server).expect(200).await;
    let words =
        "This access key has reached its spending limit. Please adjust limits or top up credits.";
    call(&server).expect(402).await.assert_error("Spending limit exceeded", words);
    let token = user.token.clone();
    server.stop();
    crate::support::process::verify(&database);
    let server = Server::start(&database).await;
    call(&server).expect(402).await;
    let path = format!("/api/keys/{}/limits", key.id);
    let body = json!({ "total_limit": null });
    server.put(&path, &body).bearer(&token).expect(200).await;
    call(&server).expect(200).await;
}

async fn a_key_that_ends_soon_says_so(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key_of(&json!({ "name": "a", "expires_at": "2024-01-23T12:00:00Z" })).await;
    let models = || server.get("/v1/models").key(&key);
    let soon = async || user.get("/api/keys").expect(200).await.body[0]["expires_soon"].clone();
    let header = "x-polysystems-key-expires-at";
    assert!(!models().expect(200).await.headers.contains_key(header));
    assert_eq!(soon().await, false);
    server.advance(86_400);
    // The session has ended; the key goes on.
    assert_eq!(models().expect(200).await.header(header), "2024-01-23T12:00:00Z");
}
