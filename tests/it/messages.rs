//! `/v1/messages`: what it costs, how its streams end, and what a thief tries there.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polysystems::config::OnDisconnect;
use serde_json::{Value, json};

use crate::streams::rich_user;
use crate::support::upstream::{Script, Step, Upstream};
use crate::support::{Database, Key, Request, Server, nanos, on_both};
use crate::thief::{RICH, leave_after, leave_at_once, served, settled};

on_both!(
    a_message_costs_what_it_reports_and_passes_as_it_is,
    each_field_that_costs_or_names_others_data_is_refused_by_its_name,
    who_leaves_hidden_thoughts_pays_what_reading_on_costs,
    who_leaves_a_message_that_shows_all_pays_for_prompt_and_words,
    a_message_with_zero_usage_is_paid_by_its_text,
    a_message_ends_as_its_protocol_ends,
    a_budget_of_thinking_is_paid_for_or_refused,
    tokens_are_counted_for_nothing,
);

/// Our own count of the prompt of [`ask`].
const COUNTED: i64 = 9;
const BASE: i64 = 2_000_000;
const TOKEN: i64 = 10_000;

/// A stream of a message, with these fields changed.
fn ask(server: &Server, key: &Key, change: &Value) -> Request {
    let mut body = json!({
        "model": "claude-x", "stream": true, "max_tokens": 1_000,
        "messages": [{ "role": "user", "content": "Hello!" }],
    });
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post("/v1/messages", &body).key(key)
}

fn event(kind: &str, mut fields: Value) -> Step {
    fields["type"] = json!(kind);
    Step::Send(format!("event: {kind}\ndata: {fields}\n\n"))
}

fn start(usage: &Value) -> Step {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    event("message_start", json!({ "message": message }))
}

fn delta(delta: &Value) -> Step {
    event("content_block_delta", json!({ "index": 0, "delta": delta }))
}

fn word() -> Step {
    delta(&json!({ "type": "text_delta", "text": " word" }))
}

fn end(usage: &Value) -> [Step; 2] {
    let delta = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    [
        event("message_delta", json!({ "delta": delta, "usage": usage })),
        event("message_stop", json!({})),
    ]
}

async fn a_message_costs_what_it_reports_and_passes_as_it_is(database: Database) {
    let usage = json!({
        "input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0,
        "cache_creation": { "ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20 },
        "output_tokens": 7, "service_tier": "standard",
    });
    let tool = json!({ "type": "tool_use", "id": "toolu_1", "name": "f", "input": { "a": 1 } });
    let answer = json!({ "type": "message", "content": [tool], "usage": usage });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let cost = BASE + (10 + 100 + 50 + 7) * TOKEN;
    let body = json!({
        "model": "claude-x", "max_tokens": 50, "temperature": 0.50, "metadata": {
            "user_id": "{\"File_Id\":1}" },
        "system": [{ "type": "text", "text": "Be kind.", "cache_control": { "type": "ephemeral" } }],
        "tools": [{ "name": "f", "input_schema": { "properties": { "file_id": {} } } },
            { "type": "bash_20250124", "name": "bash" }],
        "output_config": { "format": { "schema": { "properties": { "Type": {} } } } },
        "messages": [
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f",
                "input": { "Content": "x", "file_id": "mine" } }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t",
                "content": "Hello!" }] },
        ],
    });
    let text = body.to_string();
    let answered = server
        .post("/v1/messages?beta=true", &json!(null))
        .body(text.clone())
        .header("x-api-key", &key.value)
        .header("anthropic-version", "2026-10-21")
        .header("anthropic-beta", "context-management-2025-06-27,b-2")
        .expect(200)
        .await;
    let paid: Value = serde_json::from_str(answered.header("x-polysystems-cost")).unwrap();
    assert_eq!((nanos(&paid), &answered.body), (cost, &answer));
    assert_eq!(upstream.last_body(), body);
    let head = upstream.heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("post /v1/messages?beta=true "), "{head}");
    for passed in
        ["anthropic-version: 2026-10-21", "anthropic-beta: context-management-2025-06-27\r\n"]
    {
        assert!(head.contains(passed), "{head}");
    }
    assert!(!head.contains(&key.value.to_lowercase()), "{head}");
    // In a stream the number that is told last may be nothing.
    let first = json!({ "input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1 });
    let last = json!({
        "input_tokens": 0, "cache_read_input_tokens": null, "cache_creation_input_tokens": 50,
        "output_tokens": 7,
    });
    let mut steps = vec![start(&first), word()];
    steps.extend(end(&last));
    upstream.script(Script::Events(steps));
    let answered = ask(&server, &key, &json!({})).0.send().await.unwrap().text().await.unwrap();
    let told = upstream.last_body();
    assert_eq!((&told["stream_options"], &told["max_tokens"]), (&json!(null), &json!(1_000)));
    // The bill comes before the end, because clients stop reading there.
    let frames: Vec<&str> = answered.split("\n\n").filter(|frame| !frame.is_empty()).collect();
    assert_eq!(frames.len(), 5, "{answered}");
    assert!(frames[3].starts_with(": polysystems {\"cost\":0.00367,"), "{answered}");
    assert_eq!(frames[4], "event: message_stop\ndata: {\"type\":\"message_stop\"}");
    assert_eq!(user.folded().await, RICH - 2 * cost);
}

async fn each_field_that_costs_or_names_others_data_is_refused_by_its_name(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let block = |block: Value| json!([{ "role": "user", "content": [block] }]);
    let file = json!({ "type": "file", "file_id": "file_1" });
    let url = json!({ "type": "url", "url": "https://a.example/b.pdf" });
    let inner = json!([{ "type": "document", "source": file }]);
    for (name, value, told) in [
        ("tools", json!([{ "type": "web_search_20250305" }]), "tools: hosted_tools"),
        ("tools", json!([{ "type": "code_execution_20250825" }]), "tools: hosted_tools"),
        ("tools", json!([{ "type": "mcp_toolset" }]), "tools: hosted_tools"),
        ("mcp_servers", json!([{ "url": "https://a.example" }]), "mcp_servers: hosted_tools"),
        ("container", json!("container_1"), "container"),
        ("container", json!({ "skills": [{ "skill_id": "pdf" }] }), "container"),
        ("service_tier", json!("priority"), "service_tier"),
        ("speed", json!("fast"), "speed: service_tier"),
        ("inference_geo", json!("us"), "inference_geo: service_tier"),
        ("fallbacks", json!([{ "model": "m" }]), "fallbacks: other_models"),
        ("user_profile_id", json!("u"), "user_profile_id: item_reference"),
        (
            "context_management",
            json!({ "edits": [{ "type": "compact_20260112" }] }),
            "context_management: hosted_tools",
        ),
        ("messages", block(json!({ "type": "image", "source": file })), "messages: file_id"),
        ("messages", block(json!({ "type": "document", "source": file })), "messages: file_id"),
        ("messages", block(json!({ "type": "document", "source": url })), "messages: file_url"),
        (
            "messages",
            block(json!({ "type": "tool_result", "tool_use_id": "t", "content": inner })),
            "messages: file_id",
        ),
        (
            "messages",
            block(json!({ "type": "container_upload", "file_id": "file_1" })),
            "messages: file_id",
        ),
        ("messages", block(json!({ "Type": "image", "source": file })), "must be written type"),
        ("messages", block(json!({ "type": "image", "Source": file })), "must be written source"),
        ("system", json!([{ "type": "document", "source": url }]), "system: file_url"),
        ("mcpServers", json!([]), "must be written mcp_servers"),
        ("MAX_TOKENS", json!(1), "must be written max_tokens"),
        ("max_tokens", json!(null), "max_tokens: is missing"),
        ("max_tokens", json!(0), "max_tokens: must be at least 1"),
        ("messages", json!("Hello!"), "messages: must be a list"),
        ("stream", json!("yes"), "boolean"),
    ] {
        let refused = ask(&server, &key, &json!({ name: value })).expect(400).await;
        assert_eq!(refused.body["error"]["type"], "invalid_request_error");
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{message:?} does not say {told:?}");
        if name.to_lowercase() != "max_tokens" && name != "stream" {
            // Nor are its tokens counted.
            let mut body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] });
            body[name] = value;
            let refused = server.post("/v1/messages/count_tokens", &body).key(&key);
            let refused = refused.expect(400).await;
            assert!(refused.text.contains(told), "{}", refused.text);
        }
    }
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
}

async fn who_leaves_hidden_thoughts_pays_what_reading_on_costs(database: Database) {
    let usage = |output| json!({ "input_tokens": 12, "output_tokens": output });
    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
    let signature = json!({ "type": "signature_delta", "signature": "x".repeat(2_000) });
    let mut steps = vec![
        start(&usage(1)),
        event("content_block_start", json!({ "index": 0, "content_block": block })),
        Step::Pause(Duration::from_secs(1)),
        delta(&signature),
    ];
    steps.extend(end(&usage(900)));
    let late = [vec![Step::Pause(Duration::from_secs(1))], steps.clone()].concat();
    let upstream = Upstream::start(Script::Events(steps.clone())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = RICH;
    let mut calls = 0;
    for thinking in [
        json!({ "type": "adaptive", "display": "omitted" }),
        json!({ "type": "enabled", "budget_tokens": 900 }),
    ] {
        let change = json!({ "thinking": thinking });
        upstream.script(Script::Events(steps.clone()));
        let stream = ask(&server, &key, &change).stream().await;
        // All that it can cost: the prompt, twice as much as was counted, and the limit.
        assert_eq!(stream.header("x-polysystems-hold"), "0.01218");
        leave_after(stream, 2).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, "5/1");
        left -= BASE + (12 + 900) * TOKEN;
        assert_eq!(user.folded().await, left);
        upstream.script(Script::Events(late.clone()));
        leave_at_once(&upstream, ask(&server, &key, &change)).await;
        calls += 1;
        settled(&database, calls).await;
        left -= BASE + (12 + 900) * TOKEN;
        assert_eq!(user.folded().await, left);
    }
    assert_eq!(upstream.hung_up.load(Ordering::SeqCst), 0);
    server.stop();
    // Cancelled, nobody can say how much it has thought.
    upstream.script(Script::Events(steps));
    let server = served(&database, &upstream, OnDisconnect::Cancel).await;
    let (user, key) = rich_user(&server, "other").await;
    let change = json!({ "thinking": { "type": "adaptive" } });
    leave_after(ask(&server, &key, &change).stream().await, 2).await;
    assert_eq!(settled(&database, calls + 1).await, "4/5");
    assert_eq!(user.folded().await, RICH - BASE - (2 * COUNTED + 1_000) * TOKEN);
}

async fn who_leaves_a_message_that_shows_all_pays_for_prompt_and_words(database: Database) {
    // The upstream counts more than we do, or tells nothing at the beginning.
    for (name, told, prompt) in [("more", 500, 500), ("nothing", 0, COUNTED), ("less", 3, COUNTED)]
    {
        let block = json!({ "type": "tool_use", "id": "toolu_1", "name": "call", "input": {} });
        let mut steps = vec![
            start(&json!({ "input_tokens": told, "output_tokens": 1 })),
            event("content_block_start", json!({ "index": 0, "content_block": block })),
            delta(&json!({ "type": "thinking_delta", "thinking": " word" })),
            delta(&json!({ "type": "input_json_delta", "partial_json": " word" })),
        ];
        steps.extend(vec![word(); 3]);
        steps.push(Step::Stall);
        let upstream = Upstream::start(Script::Events(steps)).await;
        let server = served(&database, &upstream, OnDisconnect::Auto).await;
        let (user, key) = rich_user(&server, name).await;
        let before = database.query("SELECT CAST(COUNT(*) AS TEXT) FROM usage_record").await;
        leave_after(ask(&server, &key, &json!({})).stream().await, 7).await;
        let calls = before.parse::<usize>().unwrap() + 1;
        assert_eq!(settled(&database, calls).await, "4/2");
        // "call" and five words.
        assert_eq!(user.folded().await, RICH - BASE - (prompt + 6) * TOKEN, "{name}");
        server.stop();
    }
}

async fn a_message_with_zero_usage_is_paid_by_its_text(database: Database) {
    let zero = json!({ "input_tokens": 0, "output_tokens": 0 });
    let mut steps = vec![start(&zero)];
    steps.extend(vec![word(); 50]);
    steps.extend(end(&zero));
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    ask(&server, &key, &json!({})).stream().await.rest().await;
    let cost = BASE + (COUNTED + 50) * TOKEN;
    assert_eq!(settled(&database, 1).await, "1/2");
    assert_eq!(user.folded().await, RICH - cost);
    let text = json!({ "type": "text", "text": " word".repeat(50) });
    for usage in [zero, json!(null), json!({ "input_tokens": -1, "output_tokens": 7 })] {
        let answer = json!({ "type": "message", "content": [text], "usage": usage });
        upstream.script(Script::Answer(200, answer.to_string()));
        let answer = ask(&server, &key, &json!({ "stream": false })).expect(200).await;
        assert_eq!(answer.header("x-polysystems-cost"), "0.00259");
    }
}

async fn a_message_ends_as_its_protocol_ends(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.holds.lower_token_limit = false).await;
    let user = server.user("someone").await;
    user.pay("0.0300").await;
    let key = user.key().await;
    let long = json!({ "model": "sandbox-long", "max_tokens": 4_096 });
    let mut stream = ask(&server, &key, &long).stream().await;
    let events = stream.rest().await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("billing_error")));
    assert_eq!(last["polysystems"]["ended_by"], "insufficient_credits");
    assert_eq!(stream.bill()["ended_by"], "insufficient_credits");
    server.stop();
    let usage = json!({ "input_tokens": 9, "output_tokens": 1 });
    let error = json!({ "type": "overloaded_error", "message": "Overloaded", "x": "the answer" });
    let failed = event("error", json!({ "error": error, "note": "the answer" }));
    let upstream = Upstream::start(Script::Events(vec![start(&usage), word(), failed])).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "other").await;
    let before = user.folded().await;
    let text = ask(&server, &key, &json!({})).0.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\"overloaded_error\"") && !text.contains("the answer"), "{text}");
    assert!(!text.contains("message_stop"), "{text}");
    assert_eq!(user.folded().await, before - BASE - (COUNTED + 1) * TOKEN);
    // It breaks off.
    upstream.script(Script::Events(vec![start(&usage), word(), Step::Cut]));
    let events = ask(&server, &key, &json!({})).stream().await.rest().await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")));
    // It goes on beyond the limit that it was told.
    let block = json!({ "type": "text", "text": "" });
    let begun = event("content_block_start", json!({ "index": 0, "content_block": block }));
    let mut steps = vec![start(&usage), begun];
    steps.extend(vec![word(); 200]);
    steps.push(Step::Stall);
    upstream.script(Script::Events(steps));
    let events = ask(&server, &key, &json!({ "max_tokens": 20 })).stream().await.rest().await;
    let kinds: Vec<&Value> = events.iter().rev().take(3).map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["message_stop", "message_delta", "content_block_stop"]);
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "max_tokens");
}

async fn a_budget_of_thinking_is_paid_for_or_refused(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("0.0200").await;
    let key = user.key().await;
    let thinking = |budget: u64| {
        let thinking = json!({ "type": "enabled", "budget_tokens": budget });
        json!({ "stream": false, "max_tokens": 8_000, "thinking": thinking })
    };
    // The limit is lowered to what is covered, and not below the budget.
    let refused = ask(&server, &key, &thinking(4_000)).expect(402).await;
    assert_eq!(refused.body["error"]["type"], "billing_error");
    let answer = ask(&server, &key, &thinking(1_024)).expect(200).await;
    // 0.0200 - 0.0020 is 1,800 tokens; for the prompt twice what was counted is kept.
    assert_eq!(answer.header("x-polysystems-max-tokens"), "1782");
    assert_eq!(answer.body["content"][0]["type"], "thinking");
}

async fn tokens_are_counted_for_nothing(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello!" }] });
    let count = || server.post("/v1/messages/count_tokens", &body).key(&key);
    let answer = count().expect(200).await;
    assert_eq!(answer.body, json!({ "input_tokens": COUNTED }));
    assert_eq!(answer.header("x-polysystems-cost"), "0.0000");
    assert_eq!(user.ledger().await.len(), 0);
    let refused = server.post("/v1/messages/count_tokens", &json!({})).key(&key).expect(400).await;
    assert_eq!(refused.body["error"]["type"], "invalid_request_error");
}
