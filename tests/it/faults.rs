//! The faults that a model's name orders of the sandbox, in each protocol: what the client is told,
//! and what it pays.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use serde_json::{Value, json};

use crate::streams::rich_user;
use crate::support::{Database, Key, Request, Server, nanos, on_both};

on_both!(each_fault_is_had_in_each_protocol);

const BASE: i64 = 2_000_000;
const TOKEN: i64 = 10_000;
/// Most tokens of an answer.
const LIMIT: i64 = 40;

/// The routes of the protocols, with the words that their errors have for: the upstream failed, it
/// took too long, it is at a limit, it is overloaded.
const ROUTES: [(&str, [&str; 4]); 4] = [
    (
        "/v1/chat/completions",
        ["upstream_error", "upstream_timeout", "upstream_busy", "upstream_busy"],
    ),
    ("/v1/responses", ["upstream_error", "upstream_timeout", "upstream_busy", "upstream_busy"]),
    ("/v1/messages", ["api_error", "timeout_error", "rate_limit_error", "overloaded_error"]),
    ("/v1beta", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"]),
];

fn ask(server: &Server, key: &Key, route: &str, fault: &str, is_stream: bool) -> Request {
    let model = format!("sandbox-{fault}");
    let messages = json!([{ "role": "user", "content": "Hello!" }]);
    let (path, body) = match route {
        "/v1/responses" => (
            route.to_owned(),
            json!({ "model": model, "stream": is_stream, "input": "Hello!",
                "max_output_tokens": LIMIT }),
        ),
        "/v1beta" => {
            let method =
                if is_stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
            let contents = json!([{ "role": "user", "parts": [{ "text": "Hello!" }] }]);
            let limit = json!({ "maxOutputTokens": LIMIT });
            let body = json!({ "contents": contents, "generationConfig": limit });
            (format!("/v1beta/models/{model}:{method}"), body)
        }
        _ => (
            route.to_owned(),
            json!({ "model": model, "stream": is_stream, "messages": messages,
                "max_tokens": LIMIT }),
        ),
    };
    server.post(&path, &body).key(key)
}

/// The word of an error that programs read.
fn word(route: &str, body: &Value) -> String {
    let name = match route {
        "/v1/messages" => "type",
        "/v1beta" => "status",
        _ => "code",
    };
    body["error"][name].as_str().unwrap_or_default().to_owned()
}

async fn each_fault_is_had_in_each_protocol(database: Database) {
    let server = Server::start(&database).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut balance = user.folded().await;
    for (route, [failed, late, limited, overloaded]) in ROUTES {
        for is_stream in [false, true] {
            for (fault, status, word_of_it, wait, retries) in [
                ("error", 502, failed, None, true),
                ("timeout", 504, late, None, true),
                ("limited", 429, limited, Some("1"), true),
                ("overloaded", 503, overloaded, Some("1"), true),
                (
                    "lost",
                    502,
                    if failed == "upstream_error" { "upstream_lost" } else { failed },
                    None,
                    false,
                ),
            ] {
                let what = format!("{route} {fault} {is_stream}");
                let refused = ask(&server, &key, route, fault, is_stream).expect(status).await;
                assert_eq!(word(route, &refused.body), word_of_it, "{what}: {}", refused.text);
                let header = |name: &str| Some(refused.headers.get(name)?.to_str().unwrap());
                assert_eq!(header("retry-after"), wait, "{what}");
                let retry = if retries { None } else { Some("false") };
                assert_eq!(header("x-should-retry"), retry, "{what}");
                let message = refused.body["error"]["message"].as_str().unwrap();
                assert!(message.contains("You were not charged"), "{what}: {message}");
                assert_eq!(user.folded().await, balance, "{what}");
            }
        }
        // What is answered, or its half. Nobody believes a false report.
        let refused = ask(&server, &key, route, "cut", false).expect(502).await;
        assert_eq!(word(route, &refused.body), failed, "{route}");
        assert_eq!(user.folded().await, balance, "{route}");
        let mut costs = Vec::new();
        for fault in ["slow", "no-usage", "negative-usage", "absurd-usage", "long"] {
            let answer = ask(&server, &key, route, fault, false).expect(200).await;
            let now = user.folded().await;
            costs.push(balance - now);
            assert_eq!(
                nanos(&json!(answer.header("x-polysystems-cost").parse::<f64>().unwrap())),
                balance - now
            );
            balance = now;
            let mut stream = ask(&server, &key, route, fault, true).stream().await;
            stream.rest().await;
            let now = user.folded().await;
            assert_eq!(
                balance - now,
                *costs.last().unwrap(),
                "{route} {fault}: a stream costs the same"
            );
            balance = now;
        }
        let [usual, none, negative, absurd, long] = costs[..] else { panic!("{costs:?}") };
        assert_eq!((none, negative), (usual, usual), "{route}: counted here");
        let prompt = long - BASE - LIMIT * TOKEN;
        assert!(prompt > 0 && prompt < 20 * TOKEN && prompt % TOKEN == 0, "{route}: {long}");
        // The prompt and the token limit. Whose tokens are not ours is believed twice our prompt.
        let prompts = if route == "/v1/messages" || route == "/v1beta" { prompt } else { 0 };
        assert!(absurd == long || absurd == long + prompts, "{route}: {absurd} of {long}");
        assert!(usual > BASE + prompt && usual < long, "{route}: {usual}");
        let mut stream = ask(&server, &key, route, "cut", true).stream().await;
        let events = stream.rest().await;
        assert!(stream.text.contains("broke off"), "{route}: {events:?}");
        let now = user.folded().await;
        assert!(
            balance - now >= BASE + prompt && balance - now < usual,
            "{route}: {}",
            balance - now
        );
        balance = now;
    }
}
