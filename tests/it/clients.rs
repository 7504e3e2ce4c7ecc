//! Real clients against the real server: curl, Python's `requests`, `openai`, `anthropic` and
//! `google-genai`, Node's `axios`, `openai`, `@anthropic-ai/sdk` and `@google/genai`, Go.
//!
//! `tests/run` installs what they need; without it these tests fail and say what is missing.

mod agents;
mod provider;
mod scenarios;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt as _;
use tokio::process::Command;

use crate::support::{Database, Key, Server, User, nanos, on_both};

on_both!(
    every_client_makes_a_paid_call,
    the_openai_client_gets_its_answers_and_its_exceptions,
    the_openai_clients_stream_and_all_amounts_agree,
    the_openai_client_of_node_gets_what_a_person_needs,
    the_anthropic_clients_pay_what_they_are_told,
    geminis_clients_pay_what_they_are_told,
    the_documented_walk_by_curl
);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Where `tests/run` installs the clients' libraries.
pub(crate) fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

async fn printed(command: &mut Command) -> String {
    let name = command.as_std().get_program().display().to_string();
    let output = command.kill_on_drop(true).output().await;
    let output =
        output.unwrap_or_else(|error| panic!("{name}: {error}; run tests/run, which installs it"));
    let (out, error) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(output.status.success(), "{name}: {}", error.unwrap());
    out.unwrap()
}

fn python() -> Command {
    Command::new(installed().join("venv/bin/python"))
}

async fn rich(user: &User<'_>) -> Key {
    user.pay("10.00").await;
    user.key().await
}

async fn every_client_makes_a_paid_call(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = rich(&user).await;
    let poor = server.user("poor").await.key().await;
    let mut python = || {
        let mut command = python();
        command.arg(folder().join("call.py"));
        command
    };
    let mut node = || {
        let mut command = Command::new("node");
        command.arg(folder().join("call.js")).env("NODE_PATH", installed().join("node_modules"));
        command
    };
    let mut go = || {
        let mut command = Command::new("go");
        command.args(["run"]).arg(folder().join("call.go")).env("GOCACHE", installed().join("go"));
        command
    };
    let clients: [&mut dyn FnMut() -> Command; 3] = [&mut python, &mut node, &mut go];
    let mut calls = 0;
    for client in clients {
        for (key, status) in
            [(key.value.as_str(), 200), (&poor.value, 402), ("ps_live_nonsense", 401)]
        {
            let url = server.url("");
            let out = printed(client().env("PS_API_URL", url).env("PS_API_KEY", key)).await;
            let answer: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(answer["status"], status, "{out}");
            if status == 200 {
                calls += 1;
                let text = answer["body"]["message"]["content"].as_str().unwrap();
                assert!(text.ends_with("Hello!"), "{text}");
            } else {
                assert!(answer["body"]["error"].is_string());
            }
        }
    }
    assert_eq!(user.ledger().await.len(), 1 + calls);
}

async fn the_openai_client_gets_its_answers_and_its_exceptions(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
    })
    .await;
    let user = server.user("someone").await;
    let key = rich(&user).await;
    let poor = server.user("poor").await.key().await;
    let limited = server.user("limited").await;
    database.execute("UPDATE users SET tier = 'free' WHERE username = 'limited'").await.unwrap();
    let limited = rich(&limited).await;
    let mut command = python();
    command
        .arg(folder().join("openai_client.py"))
        .env("PS_API_URL", server.url(""))
        .env("PS_API_KEY", &key.value)
        .env("POOR_KEY", &poor.value)
        .env("LIMITED_KEY", &limited.value)
        .env("CALLS", "5");
    let exceptions: Value = serde_json::from_str(&printed(&mut command).await).unwrap();
    assert_eq!(
        exceptions,
        json!({
            "invalid": ["AuthenticationError", 401, "invalid_request_error", "invalid_api_key"],
            "poor": ["APIStatusError", 402, "insufficient_quota", "insufficient_quota"],
            "limited": ["RateLimitError", 429, "requests", "rate_limit_exceeded"],
        })
    );
    // A chat, a completion and an embedding; the list of models is free.
    assert_eq!(user.ledger().await.len(), 4);
}

async fn the_openai_client_of_node_gets_what_a_person_needs(database: Database) {
    let server = Server::start(&database).await;
    let poor = server.user("poor").await.key().await;
    let mut node = Command::new("node");
    node.arg(folder().join("openai_errors.js")).env("NODE_PATH", installed().join("node_modules"));
    let out = printed(node.env("PS_API_URL", server.url("")).env("PS_API_KEY", &poor.value)).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        told,
        json!({
            "invalid": [401, "invalid_request_error", "invalid_api_key", 1],
            // Asked once, though the client repeats by itself what may be repeated.
            "poor": [402, "insufficient_quota", "insufficient_quota", 1],
            "route": [404, "invalid_request_error", "unknown_url", 1],
        })
    );
}

async fn the_anthropic_clients_pay_what_they_are_told(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
    })
    .await;
    let user = server.user("someone").await;
    let key = rich(&user).await;
    let poor = server.user("poor").await.key().await;
    let limited = server.user("limited").await;
    database.execute("UPDATE users SET tier = 'free' WHERE username = 'limited'").await.unwrap();
    let limited = rich(&limited).await;
    let mut python = python();
    python.arg(folder().join("anthropic_client.py"));
    let mut node = Command::new("node");
    node.arg(folder().join("anthropic_client.js"))
        .env("NODE_PATH", installed().join("node_modules"));
    let mut calls = Vec::new();
    for client in [&mut python, &mut node] {
        client.env("PS_API_URL", server.url("")).env("PS_API_KEY", &key.value);
        client.env("POOR_KEY", &poor.value).env("LIMITED_KEY", &limited.value).env("CALLS", "5");
        let told: Value = serde_json::from_str(&printed(client).await).unwrap();
        calls.extend(told["calls"].as_array().unwrap().clone());
        for (what, status, kind) in [
            ("invalid", 401, "authentication_error"),
            ("poor", 402, "billing_error"),
            ("limited", 429, "rate_limit_error"),
            ("field", 400, "invalid_request_error"),
        ] {
            let (said, kind) = ((&told[what][1], &told[what][2]), json!(kind));
            assert_eq!(said, (&json!(status), &kind), "{told}");
        }
        assert_eq!((&told["invalid"][3], &told["poor"][3]), (&json!(1), &json!(1)), "{told}");
        assert_eq!(told["cut"], json!(["api_error", true]), "{told}");
    }
    assert_eq!(calls.len(), 10 + 8);
    let ledger = user.ledger().await;
    for call in calls {
        let entry = ledger.iter().find(|entry| entry["reference"] == call["charge"]).unwrap();
        let tokens = call["tokens"].as_i64().unwrap();
        assert_eq!(-nanos(&entry["amount"]), 2_000_000 + tokens * 10_000, "{call}");
    }
    let balance: domain::Credits = user.balance().await.parse().unwrap();
    assert_eq!(user.folded().await, balance.nanos());
}

async fn geminis_clients_pay_what_they_are_told(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
    })
    .await;
    let user = server.user("someone").await;
    let key = rich(&user).await;
    let poor = server.user("poor").await.key().await;
    let limited = server.user("limited").await;
    database.execute("UPDATE users SET tier = 'free' WHERE username = 'limited'").await.unwrap();
    let limited = rich(&limited).await;
    let mut python = python();
    python.arg(folder().join("gemini_client.py"));
    let mut node = Command::new("node");
    node.arg(folder().join("gemini_client.js")).env("NODE_PATH", installed().join("node_modules"));
    let mut calls = Vec::new();
    for client in [&mut python, &mut node] {
        client.env("PS_API_URL", server.url("")).env("PS_API_KEY", &key.value);
        client.env("POOR_KEY", &poor.value).env("LIMITED_KEY", &limited.value).env("CALLS", "5");
        let told: Value = serde_json::from_str(&printed(client).await).unwrap();
        calls.extend(told["calls"].as_array().unwrap().clone());
        for (what, code, status) in [
            ("invalid", 401, "UNAUTHENTICATED"),
            ("poor", 402, "FAILED_PRECONDITION"),
            ("limited", 429, "RESOURCE_EXHAUSTED"),
            ("field", 400, "INVALID_ARGUMENT"),
            ("search", 400, "INVALID_ARGUMENT"),
        ] {
            let said = (&told[what][1], &told[what][2]);
            assert_eq!(said, (&json!(code), &json!(status)), "{what}: {told}");
        }
        assert_eq!(told["cut"], json!([502, "UNAVAILABLE", true]), "{told}");
    }
    assert_eq!(calls.len(), 12 + 7);
    let ledger = user.ledger().await;
    for call in calls {
        let entry = ledger.iter().find(|entry| entry["reference"] == call["charge"]).unwrap();
        let tokens = call["tokens"].as_i64().unwrap();
        assert_eq!(-nanos(&entry["amount"]), 2_000_000 + tokens * 10_000, "{call}");
    }
    let balance: domain::Credits = user.balance().await.parse().unwrap();
    assert_eq!(user.folded().await, balance.nanos());
}

/// An upstream in a process of its own, and its port.
async fn own_upstream() -> (tokio::process::Child, u16) {
    let mut command = python();
    command.arg(folder().join("upstream.py")).stdout(std::process::Stdio::piped());
    let mut process = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(process.stdout.take().unwrap()).lines();
    let port = lines.next_line().await.unwrap().expect("no port").parse().unwrap();
    (process, port)
}

async fn the_openai_clients_stream_and_all_amounts_agree(database: Database) {
    let (_process, port) = own_upstream().await;
    for is_sandbox in [true, false] {
        let server = Server::start_with(&database, |settings| {
            if !is_sandbox {
                settings.upstreams.v1.url = Some(format!("http://127.0.0.1:{port}"));
                settings.upstreams.v1.api_key =
                    Some(serde_json::from_value(json!("upstream-secret")).unwrap());
            }
        })
        .await;
        let user = server.user(if is_sandbox { "sandbox" } else { "process" }).await;
        let key = rich(&user).await;
        let mut python = python();
        python.arg(folder().join("openai_stream.py"));
        let mut node = Command::new("node");
        node.arg(folder().join("openai_stream.js"))
            .env("NODE_PATH", installed().join("node_modules"));
        let mut told = Vec::new();
        for client in [&mut python, &mut node] {
            let on_sandbox = if is_sandbox { "1" } else { "0" };
            client.env("PS_API_URL", server.url("")).env("PS_API_KEY", &key.value);
            let out = printed(client.env("ON_SANDBOX", on_sandbox)).await;
            told.extend(out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
        assert_eq!(told.len(), if is_sandbox { 7 } else { 6 });
        let ledger = user.ledger().await;
        for stream in &told {
            let expected = if is_sandbox { "You wrote: Hello!" } else { "Good morning, world!" };
            assert!(stream["text"].as_str().unwrap().ends_with(expected), "{stream}");
            let entry = ledger.iter().find(|entry| entry["reference"] == stream["charge"]).unwrap();
            let charged = -nanos(&entry["amount"]);
            if stream["cost"].is_number() {
                assert_eq!(nanos(&stream["cost"]), charged, "{stream}");
                let tokens = stream["tokens"].as_i64().unwrap();
                assert_eq!(charged, 2_000_000 + tokens * 10_000);
            } else {
                assert!(charged > 2_000_000);
            }
        }
        // The same question costs the same, by whichever client, asked for its usage or not.
        let chats = ledger.iter().filter(|entry| {
            entry["kind"] == "capture"
                && told.iter().any(|told| told["charge"] == entry["reference"])
        });
        let mut costs: Vec<_> = chats.map(|entry| nanos(&entry["amount"])).collect();
        costs.sort_unstable();
        costs.dedup();
        assert!(costs.len() <= if is_sandbox { 2 } else { 1 }, "{costs:?}");
        let balance: domain::Credits = user.balance().await.parse().unwrap();
        assert_eq!(user.folded().await, balance.nanos());
    }
}

/// Register, log in, add credits, make a key, limit it, call, list, revoke: by curl, some of it
/// without a Content-Type, as the documentation does.
async fn the_documented_walk_by_curl(database: Database) {
    let server = Server::start(&database).await;
    let curl = async |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*"]).args(arguments).arg(server.url(path));
        let out = printed(&mut command).await;
        serde_json::from_str::<Value>(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    };
    let json_type = "Content-Type: application/json";
    let user = r#"{ "email": "user@example.com", "password": "SecurePassword123!", "username": "myusername" }"#;
    let registered = curl(&["-X", "POST", "-H", json_type, "-d", user], "/api/auth/register").await;
    assert_eq!(registered["username"], "myusername");
    let login = r#"{ "email": "user@example.com", "password": "SecurePassword123!" }"#;
    let session = curl(&["-X", "POST", "-H", json_type, "-d", login], "/api/auth/login").await;
    let bearer = format!("Authorization: Bearer {}", session["token"].as_str().unwrap());
    let me = curl(&["-X", "GET", "-H", &bearer], "/api/auth/me").await;
    assert_eq!(me, registered);
    let payment = curl(
        &["-X", "POST", "-H", &bearer, "-d", r#"{"amount": 25.00}"#],
        "/api/payments/payments",
    )
    .await;
    assert_eq!(payment["status"], "confirmed");
    let key = r#"{"name": "New Production Key"}"#;
    let key = curl(&["-X", "POST", "-H", &bearer, "-d", key], "/api/keys").await;
    let past = r#"{ "name": "Temporary API Key", "expires_at": "2023-02-15T12:00:00Z" }"#;
    let expired =
        curl(&["-X", "POST", "-H", &bearer, "-H", json_type, "-d", past], "/api/keys").await;
    let limits = r#"{ "daily_limit": 1.00, "monthly_limit": 10.00 }"#;
    let path = format!("/api/keys/{}", key["id"].as_str().unwrap());
    let limits = curl(&["-X", "PUT", "-H", &bearer, "-d", limits], &format!("{path}/limits")).await;
    assert_eq!(limits["daily"]["remaining"], 1.0);
    let chat = r#"{ "messages": [{"role": "user", "content": "Hello!"}] }"#;
    for scheme in ["X-API-Key: ", "Authorization: Bearer "] {
        let with = |key: &Value| format!("{scheme}{}", key["key_value"].as_str().unwrap());
        let chat = ["-X", "POST", "-H", json_type, "-d", chat];
        let answer =
            curl(&[&chat[..], &["-H", &with(&key)]].concat(), "/api/hub/agents/chat").await;
        assert_eq!(answer["message"]["role"], "assistant");
        let refused =
            curl(&[&chat[..], &["-H", &with(&expired)]].concat(), "/api/hub/agents/chat").await;
        assert_eq!(refused["error"], "API key expired");
        let health = curl(&["-X", "GET", "-H", &with(&key)], "/api/hub/health").await;
        assert_eq!(health["status"], "healthy");
    }
    let keys = curl(&["-X", "GET", "-H", &bearer], "/api/keys").await;
    assert_eq!(keys.as_array().unwrap().len(), 2);
    let revoked = curl(&["-X", "POST", "-H", &bearer], &format!("{path}/revoke")).await;
    assert_eq!(revoked["is_active"], false);
    let header = format!("X-API-Key: {}", key["key_value"].as_str().unwrap());
    let refused = curl(&["-X", "GET", "-H", &header], "/api/hub/health").await;
    assert_eq!(refused["error"], "Invalid API key");
}
