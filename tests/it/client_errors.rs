//! What a person sees who calls by an official client of OpenAI's and is refused: each of these
//! refusals has its message, its type and its code, in Python and in Node.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::clients::installed;
use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, on_both};

on_both!(the_openai_clients_show_twelve_refusals);

/// A refusal: its name, its status, OpenAI's `type` and `code`, and words of its message.
type Told = (&'static str, u16, &'static str, &'static str, &'static str);

const INVALID: &str = "invalid_request_error";
const REFUSALS: [Told; 14] = [
    ("missing", 401, INVALID, "invalid_api_key", "Expected 'X-API-Key'"),
    ("invalid", 401, INVALID, "invalid_api_key", "The provided access key is not valid"),
    ("expired", 401, INVALID, "invalid_api_key", "This access key has expired"),
    ("poor", 402, "insufficient_quota", "insufficient_quota", "Please top up your account."),
    (
        "spent",
        402,
        "insufficient_quota",
        "insufficient_quota",
        "This access key has reached its spending limit.",
    ),
    ("elsewhere", 403, INVALID, "permission_denied", "You do not have permission"),
    ("route", 404, INVALID, "unknown_url", "This route has no price."),
    ("body", 400, INVALID, "bad_request", "boolean"),
    ("header", 400, INVALID, "validation_error", "X-Dry-Run: must be"),
    ("large", 413, INVALID, "payload_too_large", "At most 4000 bytes are accepted."),
    ("reused", 422, INVALID, "idempotency_key_reused", "Please use a new key"),
    ("limited", 429, "requests", "rate_limit_exceeded", "Please try again in"),
    ("failed", 502, "server_error", "upstream_error", "You were not charged."),
    ("slow", 424, "server_error", "upstream_given_up", "You were charged $"),
];

/// The upstream does as the user of the request says.
fn as_asked(body: &Value) -> Script {
    match body["user"].as_str() {
        Some("fail") => Script::Answer(500, json!({ "error": "broken" }).to_string()),
        Some("wait") => Script::Silent,
        _ => Script::Answer(
            200,
            json!({
                "id": "c", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{ "index": 0, "finish_reason": "stop",
                    "message": { "role": "assistant", "content": "Hi" } }],
                "usage": { "prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10 },
            })
            .to_string(),
        ),
    }
}

async fn the_openai_clients_show_twelve_refusals(database: Database) {
    let upstream = Upstream::start(Script::Asked(as_asked)).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.server.body_max_bytes = 4_000;
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.timeout_seconds = std::num::NonZeroU64::new(1).unwrap();
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
        settings.rate_limit.tiers.get_mut("free").unwrap().second = std::num::NonZeroU32::new(1);
    })
    .await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let rich = user.key().await;
    let poor = server.user("poor").await.key().await;
    let elsewhere = user.key_of(&json!({ "name": "a", "scopes": ["hub"] })).await;
    let expired = user.key_of(&json!({ "name": "b", "expires_at": "2023-02-15T12:00:00Z" })).await;
    let spent = user.key().await;
    user.limit(&spent, &json!({ "daily_limit": 0.001 })).await;
    let limited = server.user("limited").await;
    limited.pay("10.00").await;
    database.execute("UPDATE users SET tier = 'free' WHERE username = 'limited'").await.unwrap();
    let limited = limited.key().await;
    let of = |name: &str, key: &str, rest: Value| {
        let mut case = json!({ "name": name, "key": key });
        case.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        case
    };
    let rich = rich.value.as_str();
    let once = json!({ "Idempotency-Key": "the-same" });
    let mut cases = vec![
        of("missing", "x", json!({ "headers": { "Authorization": "Basic abc" } })),
        of("invalid", "ps_live_nonsense", json!({})),
        of("expired", &expired.value, json!({})),
        of("poor", &poor.value, json!({})),
        of("spent", &spent.value, json!({})),
        of("elsewhere", &elsewhere.value, json!({})),
        of("route", rich, json!({ "route": true })),
        of("body", rich, json!({ "body": { "stream": "yes" } })),
        of("header", rich, json!({ "headers": { "X-Dry-Run": "maybe" } })),
        of("large", rich, json!({ "body": { "user": "a".repeat(5_000) } })),
        of("first", rich, json!({ "headers": once, "body": { "user": "a" } })),
        of("reused", rich, json!({ "headers": once, "body": { "user": "b" } })),
        of("failed", rich, json!({ "body": { "user": "fail" } })),
        of("slow", rich, json!({ "body": { "user": "wait" } })),
    ];
    // Some of these are refused: the limit is one a second.
    cases.extend((0..6).map(|_| of("limited", &limited.value, json!({}))));
    let cases = Value::from(cases).to_string();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut python = Command::new(installed().join("venv/bin/python"));
    python.arg(folder.join("openai_refusals.py"));
    let mut node = Command::new("node");
    node.arg(folder.join("openai_refusals.js")).env("NODE_PATH", installed().join("node_modules"));
    for client in [&mut python, &mut node] {
        client.env("PS_API_URL", server.url("")).env("CASES", &cases).kill_on_drop(true);
        let ran = tokio::time::timeout(Duration::from_mins(2), client.output()).await.unwrap();
        let output = ran.expect("run tests/run, which installs it");
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: Vec<Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (name, status, kind, code, words) in REFUSALS {
            let refused = told.iter().find(|case| case[0] == name && case[1].is_array());
            let refused = refused.unwrap_or_else(|| panic!("{name} was not refused: {out}"));
            assert_eq!(refused[1], json!([status, kind, code]), "{name}: {out}");
            let message = refused[2].as_str().unwrap();
            assert!(message.contains(words), "{name}: {message}");
        }
    }
}
