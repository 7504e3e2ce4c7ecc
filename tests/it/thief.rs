//! What a thief tries: to get what the upstream did without paying for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polysystems::config::OnDisconnect;
use serde_json::{Value, json};

use crate::streams::{chat, rich_user};
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Events, Request, Server, nanos, on_both};

on_both!(
    who_leaves_a_thinking_stream_pays_what_reading_on_costs,
    who_leaves_a_thinking_stream_that_is_cancelled_pays_what_is_held,
    who_leaves_a_stream_that_shows_all_pays_for_prompt_and_words,
    an_upstream_is_heard_for_so_long,
    text_in_unusual_places_is_paid,
    nothing_but_success_has_content,
    a_small_balance_gets_no_more_thinking_than_it_pays,
    a_limit_of_a_key_is_no_discount,
    zero_usage_is_not_believed,
    each_trick_with_a_field_is_refused_by_its_name,
    what_an_operator_sells_is_charged_at_the_price_list,
);

/// $10.
const RICH: i64 = 10_000_000_000;
/// The base price, and the nine tokens of [`chat`]'s prompt.
const PROMPT: i64 = 2_000_000 + 9 * 10_000;

async fn served(database: &Database, upstream: &Upstream, on_disconnect: OnDisconnect) -> Server {
    let url = upstream.url();
    Server::start_with(database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.on_disconnect = on_disconnect;
        settings.holds.drain_seconds = 3.try_into().unwrap();
    })
    .await
}

/// Waits until `calls` calls are settled and on record, and tells how the last one ended.
async fn settled(database: &Database, calls: usize) -> String {
    let count = "SELECT CAST(COUNT(*) AS TEXT) FROM usage_record";
    for _ in 0..1_000 {
        if database.query(count).await == calls.to_string() {
            let last = "SELECT CAST(ending AS TEXT) || '/' || CAST(tally AS TEXT)
                FROM usage_record ORDER BY number DESC LIMIT 1";
            assert_eq!(database.query("SELECT CAST(COUNT(*) AS TEXT) FROM hold").await, "0");
            return database.query(last).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {calls} usage records");
}

/// Reads so many events, and leaves.
async fn leave_after(mut stream: Events, events: usize) {
    for _ in 0..events {
        stream.next().await.unwrap();
    }
}

/// Gives up when the upstream has the request, before the first byte.
async fn leave_at_once(upstream: &Upstream, request: Request) {
    let calls = upstream.calls();
    let arrived = async {
        while upstream.calls() == calls {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        biased;
        () = arrived => {}
        answer = request.0.send() => panic!("answered: {answer:?}"),
    }
}

/// A hundred words after 20,000 tokens of thinking.
fn thought(pause_first: bool) -> Script {
    let pause = Step::Pause(Duration::from_secs(1));
    let usage = usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 20_100 }));
    let words = vec![word(" word"); 100];
    let mut steps = if pause_first { vec![pause.clone()] } else { Vec::new() };
    steps.extend(words);
    steps.extend([pause, usage]);
    Script::Events(steps)
}

async fn who_leaves_a_thinking_stream_pays_what_reading_on_costs(database: Database) {
    let upstream = Upstream::start(thought(false)).await;
    let mut calls = 0;
    for (name, policy) in [("auto", OnDisconnect::Auto), ("drain", OnDisconnect::Drain)] {
        let server = served(&database, &upstream, policy).await;
        let (user, key) = rich_user(&server, name).await;
        let mut left = RICH;
        for ask in [
            json!({ "model": "o3-mini", "max_completion_tokens": 30_000 }),
            json!({ "model": "openai/GPT-5", "max_tokens": 30_000 }),
            json!({ "model": "some", "reasoning_effort": "low", "max_tokens": 30_000 }),
        ] {
            for is_before_the_first_byte in [false, true] {
                upstream.script(thought(is_before_the_first_byte));
                let request = chat(&server, &key, &ask);
                if is_before_the_first_byte {
                    leave_at_once(&upstream, request).await;
                } else {
                    leave_after(request.stream().await, 100).await;
                }
                calls += 1;
                let ending = settled(&database, calls).await;
                assert!(ending.ends_with("/1"), "{ending} for {ask}");
                left -= PROMPT + 20_100 * 10_000;
                assert_eq!(user.folded().await, left, "{ask}");
            }
        }
        // As reading on.
        upstream.script(thought(false));
        let ask = json!({ "model": "o3-mini", "max_tokens": 30_000 });
        let mut stream = chat(&server, &key, &ask).stream().await;
        stream.rest().await;
        calls += 1;
        assert_eq!(nanos(&stream.bill()["cost"]), PROMPT + 20_100 * 10_000);
        assert_eq!(settled(&database, calls).await, "1/1");
        server.stop();
    }
    assert_eq!(upstream.hung_up.load(Ordering::SeqCst), 0, "cancelled before its usage");
}

async fn who_leaves_a_thinking_stream_that_is_cancelled_pays_what_is_held(database: Database) {
    let upstream = Upstream::start(thought(false)).await;
    let server = served(&database, &upstream, OnDisconnect::Cancel).await;
    let (user, key) = rich_user(&server, "someone").await;
    let ask = json!({ "model": "o3-mini", "max_tokens": 30_000 });
    for (calls, is_before_the_first_byte) in [(1, false), (2, true)] {
        upstream.script(thought(is_before_the_first_byte));
        let request = chat(&server, &key, &ask);
        if is_before_the_first_byte {
            leave_at_once(&upstream, request).await;
        } else {
            let stream = request.stream().await;
            assert_eq!(stream.header("x-polysystems-hold"), "0.30209");
            leave_after(stream, 100).await;
        }
        assert_eq!(settled(&database, calls).await, "4/5");
        let held = PROMPT + 30_000 * 10_000;
        assert_eq!(user.folded().await, RICH - i64::try_from(calls).unwrap() * held);
    }
}

async fn who_leaves_a_stream_that_shows_all_pays_for_prompt_and_words(database: Database) {
    let mut calls = 0;
    for (name, policy) in [("auto", OnDisconnect::Auto), ("cancel", OnDisconnect::Cancel)] {
        let mut steps = vec![word(" word"); 5];
        steps.push(Step::Stall);
        let upstream = Upstream::start(Script::Events(steps)).await;
        let server = served(&database, &upstream, policy).await;
        let (user, key) = rich_user(&server, name).await;
        leave_after(chat(&server, &key, &json!({ "model": "gpt-4o" })).stream().await, 5).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, "4/2");
        assert_eq!(user.folded().await, RICH - PROMPT - 5 * 10_000);
        // Before its first byte it has the prompt, images included.
        upstream.script(Script::Events(vec![Step::Stall]));
        leave_at_once(&upstream, chat(&server, &key, &json!({}))).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, "4/2");
        assert_eq!(user.folded().await, RICH - 2 * PROMPT - 5 * 10_000);
        let image = json!({ "messages": [{ "role": "user", "content": [
            { "type": "text", "text": "Hello!" },
            { "type": "image_url", "image_url": { "url": "https://a.example/b.png" } },
        ] }] });
        leave_at_once(&upstream, chat(&server, &key, &image)).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, "4/2");
        assert_eq!(user.folded().await, RICH - 3 * PROMPT - (5 + 2_000) * 10_000);
        server.stop();
    }
}

async fn an_upstream_is_heard_for_so_long(database: Database) {
    let mut calls = 0;
    for (name, policy, model, ending, cost) in [
        ("one", OnDisconnect::Auto, "o3", "4/5", PROMPT + 1_000 * 10_000),
        ("two", OnDisconnect::Drain, "gpt-4o", "4/2", PROMPT + 5 * 10_000),
    ] {
        // It never says its usage.
        let mut steps = vec![word(" word"); 5];
        steps.push(Step::Stall);
        let upstream = Upstream::start(Script::Events(steps)).await;
        let server = served(&database, &upstream, policy).await;
        let (user, key) = rich_user(&server, name).await;
        let ask = json!({ "model": model, "max_tokens": 1_000 });
        leave_after(chat(&server, &key, &ask).stream().await, 5).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, ending);
        assert_eq!(user.folded().await, RICH - cost);
        server.stop();
    }
}

async fn text_in_unusual_places_is_paid(database: Database) {
    let chunk = |choice: Value| {
        let mut choice = choice;
        choice["index"] = json!(0);
        format!("data: {}\n\n", json!({ "id": "c", "choices": [choice] })).into_bytes()
    };
    let events = [
        chunk(
            json!({ "delta": { "tool_calls": [{ "index": 0, "custom": { "input": " word" } }] } }),
        ),
        chunk(json!({ "delta": { "refusal": " word" } })),
        chunk(json!({ "delta": { "audio": { "transcript": " word" } } })),
        chunk(json!({ "delta": { "audio": { "data": "A".repeat(2_048) } } })),
        chunk(json!({ "delta": {}, "logprobs": { "content": [{ "token": " word" }] } })),
        b"data: {\"choices\":[],\"content\":\" word\"}\n\n".to_vec(),
        // One token by itself.
        b"data: {\"choices\":[{\"delta\":{\"content\":\" word\",\"x\":[\"\xff\"]}}]}\n\n".to_vec(),
    ];
    let mut calls = 0;
    for event in events {
        let mut steps = vec![word("")];
        steps.extend(vec![Step::Bytes(event.clone()); 50]);
        steps.push(Step::Stall);
        let upstream = Upstream::start(Script::Events(steps)).await;
        let server = served(&database, &upstream, OnDisconnect::Auto).await;
        let (user, key) = rich_user(&server, &format!("user{calls}")).await;
        leave_after(chat(&server, &key, &json!({})).stream().await, 51).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, "4/2");
        let cost = RICH - user.folded().await;
        let event = String::from_utf8_lossy(&event);
        assert!(cost >= PROMPT + 50 * 10_000, "{cost} for {event}");
        assert!(cost <= PROMPT + 200 * 10_000, "{cost} for {event}");
        server.stop();
    }
}

async fn nothing_but_success_has_content(database: Database) {
    let secret = "{\"choices\":[{\"message\":{\"content\":\"the answer\"}}]}";
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    for status in [300, 302, 304, 307, 308] {
        upstream.script(Script::Answer(status, secret.into()));
        let request = chat(&server, &key, &json!({})).header("If-None-Match", "\"1\"");
        let refused = request.header("Range", "bytes=0-9").expect(502).await;
        assert!(!refused.text.contains("the answer"), "{status}: {}", refused.text);
        let head = upstream.heads.lock().unwrap().last().unwrap().clone();
        assert!(!head.contains("if-none-match") && !head.contains("range:"), "{head}");
    }
    assert_eq!(user.folded().await, RICH);
    // A refusal is free; one that took tokens is not.
    upstream.script(Script::Answer(400, "{\"error\":{}}".into()));
    chat(&server, &key, &json!({})).expect(400).await;
    assert_eq!(user.folded().await, RICH);
    let usage = json!({ "error": {}, "usage": { "prompt_tokens": 9, "completion_tokens": 50 } });
    upstream.script(Script::Answer(400, usage.to_string()));
    let refused = chat(&server, &key, &json!({})).expect(400).await;
    assert_eq!(refused.header("x-polysystems-cost"), "0.00259");
    assert_eq!(user.folded().await, RICH - PROMPT - 50 * 10_000);
}

async fn a_small_balance_gets_no_more_thinking_than_it_pays(database: Database) {
    // It thinks as long as it may, and lets all of them begin before the first is at its end.
    let asked = |body: &Value| {
        let limit = body["max_tokens"].as_u64().unwrap();
        let usage = json!({ "prompt_tokens": 9, "completion_tokens": limit });
        let pause = Step::Pause(Duration::from_millis(500));
        Script::Events(vec![word(" word"), pause, usage_and_done(&usage)])
    };
    let upstream = Upstream::start(Script::Asked(asked)).await;
    for (name, lowers) in [("one", true), ("two", false)] {
        let url = upstream.url();
        let server = Server::start_with(&database, |settings| {
            settings.upstreams.v1.url = Some(url);
            settings.holds.lower_token_limit = lowers;
        })
        .await;
        let user = server.user(name).await;
        user.pay("0.25").await;
        let key = user.key().await;
        let one = async |place: usize| {
            let ask = json!({ "model": "o3", "max_tokens": 4_096 });
            let answer = chat(&server, &key, &ask).0.send().await.unwrap();
            if answer.status() == 402 {
                return 0;
            }
            assert_eq!(answer.status(), 200);
            let told = answer.headers().get("x-polysystems-max-tokens");
            let told = told.map_or(4_096, |told| told.to_str().unwrap().parse::<i64>().unwrap());
            if place.is_multiple_of(2) {
                answer.text().await.unwrap();
            }
            PROMPT + told * 10_000
        };
        let worth = futures_util::future::join_all((0..24).map(one)).await;
        let worth: i64 = worth.iter().sum();
        for _ in 0..1_000 {
            if database.query("SELECT CAST(COUNT(*) AS TEXT) FROM hold").await == "0" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(worth > 200_000_000 && worth <= 250_000_000, "{worth}");
        assert_eq!(user.folded().await, 250_000_000 - worth);
        server.stop();
    }
}

async fn a_limit_of_a_key_is_no_discount(database: Database) {
    let usage = json!({ "prompt_tokens": 3_000, "completion_tokens": 50 });
    let answer = json!({ "choices": [], "usage": usage });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    user.limit(&key, &json!({ "per_request_limit": 0.00309, "daily_limit": 0.01 })).await;
    let ask = json!({ "max_tokens": 100, "stream": false });
    let answer = chat(&server, &key, &ask).expect(200).await;
    assert_eq!(answer.header("x-polysystems-cost"), "0.0325");
    assert_eq!(user.folded().await, RICH - 32_500_000);
    // The limit stops the next call.
    chat(&server, &key, &ask).expect(402).await;
}

async fn zero_usage_is_not_believed(database: Database) {
    let zero = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
    let mut steps = vec![word(" word"); 50];
    steps.push(usage_and_done(&zero));
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut stream = chat(&server, &key, &json!({})).stream().await;
    stream.rest().await;
    assert_eq!(settled(&database, 1).await, "1/2");
    assert_eq!(user.folded().await, RICH - PROMPT - 50 * 10_000);
    let message = json!({ "message": { "content": " word".repeat(50) } });
    let answer = json!({ "choices": [message], "usage": zero });
    upstream.script(Script::Answer(200, answer.to_string()));
    let answer = chat(&server, &key, &json!({ "stream": false })).expect(200).await;
    assert_eq!(answer.header("x-polysystems-cost"), "0.00259");
}

async fn each_trick_with_a_field_is_refused_by_its_name(database: Database) {
    let usage = json!({ "usage": { "input_tokens": 400_000, "output_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let item = |item: Value| json!([{ "role": "user", "content": "Hello!" }, item]);
    let part = |part: Value| json!([{ "role": "user", "content": [part] }]);
    for (name, value, field) in [
        ("previous_response_id", json!("resp_1"), "previous_response_id"),
        ("input", part(json!({ "type": "input_file", "file_id": "file-1" })), "input: file_id"),
        (
            "input",
            part(json!({ "type": "input_file", "file_url": "https://a.example" })),
            "input: file_url",
        ),
        (
            "input",
            item(json!({ "type": "item_reference", "id": "msg_1" })),
            "input: item_reference",
        ),
        ("input", item(json!({ "id": "msg_1" })), "input: item_reference"),
        ("prompt", json!({ "id": "pmpt_1" }), "prompt"),
        ("conversation", json!("conv_1"), "conversation"),
        ("tools", json!([{ "type": "web_search" }]), "tools: hosted_tools"),
        (
            "tools",
            json!([{ "type": "file_search", "vector_store_ids": ["vs_1"] }]),
            "tools: hosted_tools",
        ),
        ("background", json!(true), "background"),
        ("service_tier", json!("priority"), "service_tier"),
        ("container", json!("cntr_1"), "container"),
        ("max_output_to\u{212a}en\u{17f}", json!(9), "must be written max_output_tokens"),
        ("previousResponseId", json!("resp_1"), "must be written previous_response_id"),
        ("input", item(json!({ "Type": "item_reference", "id": "msg_1" })), "must be written type"),
    ] {
        let mut body = json!({ "input": "Hello!", "max_output_tokens": 20 });
        body[name] = value;
        let refused = server.post("/v1/responses", &body).key(&key).expect(400).await;
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(field), "{message:?} does not say {field:?}");
    }
    // Which of the two an upstream reads is not known.
    let long = "word ".repeat(1_000);
    for body in [
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{long}\",\"content\":\"a\"}}]}}"
        ),
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"Content\":\"{long}\",\"content\":\"a\"}}]}}"
        ),
    ] {
        server.post("/v1/chat/completions", &json!({})).body(body).key(&key).expect(400).await;
    }
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    // A file that is sent along is paid as the upstream counts it.
    let data = "data:application/pdf;base64,AAAA";
    let file = part(json!({ "type": "input_file", "filename": "a.pdf", "file_data": data }));
    let body = json!({ "input": file, "max_output_tokens": 20 });
    let usage = json!({ "usage": { "input_tokens": 200_000, "output_tokens": 9 } });
    upstream.script(Script::Answer(200, usage.to_string()));
    let answer = server.post("/v1/responses", &body).key(&key).expect(200).await;
    assert_eq!(answer.header("x-polysystems-cost"), "2.00209");
    // As far as the balance goes.
    let poor = server.user("poor").await;
    poor.pay("0.10").await;
    let key = poor.key().await;
    let answer = server.post("/v1/responses", &body).key(&key).expect(200).await;
    assert_eq!(answer.header("x-polysystems-cost"), "0.1000");
    server.post("/v1/responses", &body).key(&key).expect(402).await;
}

async fn what_an_operator_sells_is_charged_at_the_price_list(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(url);
        let price = json!({
            "method": "POST", "path": "/v1/responses", "class": "generation", "base": "0.0020",
            "per_token": "0.00001", "context_tokens": 100_000,
            "sells": ["background", "service_tier", "hosted_tools", "prompt", "file_url"],
        });
        settings.prices.push(serde_json::from_value(price).unwrap());
    })
    .await;
    let (_, key) = rich_user(&server, "someone").await;
    let usage = |usage: Value| Script::Answer(200, json!({ "usage": usage }).to_string());
    let read = json!({ "input_tokens": 60_000, "output_tokens": 20 });
    for (name, value, reported, hold, cost) in [
        ("tools", json!([{ "type": "web_search" }]), read.clone(), "1.0022", "0.6022"),
        ("prompt", json!({ "id": "p" }), read, "1.0022", "0.6022"),
        // The answer comes later, so that all it may cost is charged.
        ("background", json!(true), json!(null), "0.00222", "0.00222"),
        ("service_tier", json!("flex"), json!({ "total_tokens": 30 }), "0.00222", "0.0023"),
    ] {
        let mut body = json!({ "input": "Hello!", "max_output_tokens": 20 });
        body[name] = value;
        let request = || server.post("/v1/responses", &body).key(&key);
        let dry = request().header("X-Dry-Run", "true").expect(200).await;
        let hold: domain::Credits = hold.parse().unwrap();
        assert_eq!(nanos(&dry.body["hold"]), hold.nanos(), "{name}");
        upstream.script(usage(reported));
        let answer = request().expect(200).await;
        assert_eq!(answer.header("x-polysystems-cost"), cost, "{name}");
    }
}
