//! Spending limits over time: UTC days and months, by a clock that the test moves.

use serde_json::json;

use crate::support::{Database, Server, on_both};

on_both!(
    limits_begin_anew_at_midnight_utc,
    a_limit_of_one_request_is_of_one_request,
    a_key_at_its_limit_does_not_stop_another
);

async fn limits_begin_anew_at_midnight_utc(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    user.limit(&key, &json!({ "daily_limit": 0.0010, "monthly_limit": 0.0025 })).await;
    let token = user.token.clone();
    let login = || async {
        let body = json!({ "email": "someone@example.com", "password": crate::support::PASSWORD });
        let session = server.post("/api/auth/login", &body).expect(200).await.body;
        session["token"].as_str().unwrap().to_owned()
    };
    let call = |status| server.post("/api/hub/rag/index", &json!({})).key(&key).expect(status);
    let spent = async |token: String| {
        let path = format!("/api/keys/{}/limits", key.id);
        let limits = server.get(&path).bearer(token.as_str()).expect(200).await.body;
        let window = |name: &str| {
            (
                limits[name]["spent"].to_string(),
                limits[name]["resets_at"].as_str().unwrap().to_owned(),
            )
        };
        (window("daily"), window("monthly"))
    };
    let expect = |day: &str, day_end: &str, month: &str, month_end: &str| {
        ((day.to_owned(), day_end.to_owned()), (month.to_owned(), month_end.to_owned()))
    };
    call(200).await;
    call(200).await;
    call(402).await;
    let expected = expect("0.001", "2024-01-16T00:00:00Z", "0.001", "2024-02-01T00:00:00Z");
    assert_eq!(spent(token).await, expected);
    server.advance(12 * 3_600 - 1); // 23:59:59
    call(402).await;
    server.advance(1);
    call(200).await;
    call(200).await;
    call(402).await;
    server.advance(86_400);
    call(200).await;
    call(402).await; // The month is spent, the day is not.
    let expected = expect("0.0005", "2024-01-18T00:00:00Z", "0.0025", "2024-02-01T00:00:00Z");
    assert_eq!(spent(login().await).await, expected);
    server.advance(14 * 86_400); // 2024-01-31
    call(402).await;
    server.advance(86_400);
    call(200).await;
    let expected = expect("0.0005", "2024-02-02T00:00:00Z", "0.0005", "2024-03-01T00:00:00Z");
    assert_eq!(spent(login().await).await, expected);
}

async fn a_limit_of_one_request_is_of_one_request(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    user.limit(&key, &json!({ "per_request_limit": 0.0005 })).await;
    for _ in 0..3 {
        server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    }
    user.limit(&key, &json!({ "per_request_limit": 0.000_499_999 })).await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(402).await;
    server.post("/api/hub/memory", &json!({})).key(&key).expect(200).await;
    // What a call begins with counts, not what it would have cost: 9 tokens of prompt, 16 of
    // completion.
    user.limit(&key, &json!({ "per_request_limit": 0.002_25 })).await;
    let chat = |max: u32| {
        let body =
            json!({ "messages": [{ "role": "user", "content": "Hello!" }], "max_tokens": max });
        server.post("/v1/chat/completions", &body).key(&key)
    };
    chat(1).expect(200).await;
    // As many tokens as the limit has room for.
    let answer = chat(100).expect(200).await;
    assert_eq!(answer.header("x-polysystems-max-tokens"), "16");
    assert_eq!(answer.body["usage"]["completion_tokens"], 16);
    assert_eq!(answer.header("x-polysystems-cost"), "0.00225");
    user.limit(&key, &json!({ "per_request_limit": 0.002_249 })).await;
    chat(15).expect(200).await;
    chat(16).expect(402).await;
}

async fn a_key_at_its_limit_does_not_stop_another(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let (limited, free) = (user.key().await, user.key().await);
    user.limit(&limited, &json!({ "daily_limit": 0 })).await;
    server.post("/api/hub/rag/index", &json!({})).key(&limited).expect(402).await;
    server.post("/api/hub/rag/index", &json!({})).key(&free).expect(200).await;
    server.get("/api/hub/health").key(&limited).expect(200).await;
}
