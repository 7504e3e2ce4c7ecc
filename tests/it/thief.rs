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
    an_answer_that_is_too_large_or_too_slow_is_paid,
    a_stream_that_a_limit_of_ours_ends_is_paid,
    what_no_upstream_had_is_not_paid,
    a_failure_in_a_stream_is_billed_by_what_it_reports,
    our_own_count_is_bounded_by_what_the_upstream_was_told,
    an_answer_without_usage_is_paid_whole,
    a_refusal_has_no_content,
    who_leaves_after_a_failure_owes_no_more_than_who_stays,
    a_refusal_after_an_attempt_that_was_given_up_leaves_it_owed,
    a_long_or_slow_refusal_costs_nothing,
    text_in_unusual_places_is_paid,
    nothing_but_success_has_content,
    a_small_balance_gets_no_more_thinking_than_it_pays,
    a_limit_of_a_key_is_no_discount,
    zero_usage_is_not_believed,
    each_trick_with_a_field_is_refused_by_its_name,
    what_an_operator_sells_is_charged_at_the_price_list,
    the_loop_of_a_client_goes_on_without_reasoning_of_others,
);

/// $10.
pub(crate) const RICH: i64 = 10_000_000_000;
/// The base price, and the nine tokens of [`chat`]'s prompt.
const PROMPT: i64 = 2_000_000 + 9 * 10_000;

pub(crate) async fn served(
    database: &Database,
    upstream: &Upstream,
    on_disconnect: OnDisconnect,
) -> Server {
    let url = upstream.url();
    Server::start_with(database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.on_disconnect = on_disconnect;
        settings.holds.drain_seconds = 3.try_into().unwrap();
    })
    .await
}

/// Waits until `calls` calls are settled and on record, and tells how the last one ended.
pub(crate) async fn settled(database: &Database, calls: usize) -> String {
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
pub(crate) async fn leave_after(mut stream: Events, events: usize) {
    for _ in 0..events {
        stream.next().await.unwrap();
    }
}

/// Gives up when the upstream has the request, before the first byte.
pub(crate) async fn leave_at_once(upstream: &Upstream, request: Request) {
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
        let is_cancelled = policy == OnDisconnect::Cancel;
        if !is_cancelled {
            // Only the upstream knows the tokens of an image, so it is heard out.
            let usage = json!({ "prompt_tokens": 1_009, "completion_tokens": 1 });
            let pause = Step::Pause(Duration::from_secs(1));
            let steps = vec![pause.clone(), word(" word"), pause, usage_and_done(&usage)];
            upstream.script(Script::Events(steps));
        }
        leave_at_once(&upstream, chat(&server, &key, &image)).await;
        calls += 1;
        let (ending, image) = if is_cancelled { ("4/2", 2_000) } else { ("5/1", 1_001) };
        assert_eq!(settled(&database, calls).await, ending);
        assert_eq!(user.folded().await, RICH - 3 * PROMPT - (5 + image) * 10_000);
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

/// A server with narrow limits on what an upstream may send.
async fn narrow(database: &Database, upstream: &Upstream) -> Server {
    let url = upstream.url();
    Server::start_with(database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.timeout_seconds = 1.try_into().unwrap();
        settings.upstreams.v1.stream_idle_seconds = 1.try_into().unwrap();
        settings.upstreams.v1.response_max_bytes = 10_000;
    })
    .await
}

async fn an_answer_that_is_too_large_or_too_slow_is_paid(database: Database) {
    let large = json!({ "choices": [{ "message": { "content": " word".repeat(8_000) } }] });
    let upstream = Upstream::start(Script::Silent).await;
    let server = narrow(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = RICH;
    let mut calls = 0;
    for (script, status, error) in [
        (Script::Answer(200, large.to_string()), 424, "answer_too_large"),
        (Script::Silent, 424, "upstream_given_up"),
    ] {
        let is_large = error == "answer_too_large";
        for (model, limit, is_stream) in [
            ("gpt-4o", 20_000, false),
            ("gpt-4o", 10, false),
            ("o3-mini", 20_000, false),
            ("gpt-4o", 20_000, true),
            ("o3-mini", 20_000, true),
        ] {
            upstream.script(script.clone());
            let ask = json!({ "model": model, "max_tokens": limit, "stream": is_stream });
            let refused = chat(&server, &key, &ask).expect(status).await;
            let paid = left - user.folded().await;
            left -= paid;
            let is_thinking = model == "o3-mini";
            let held = PROMPT + limit * 10_000;
            let made = if is_large { 2_500 * 10_000 } else { 0 };
            if is_thinking || (is_large && limit == 10) {
                assert_eq!(paid, held, "{error} for {ask}");
            } else {
                assert!(paid >= PROMPT + made && paid <= held, "{paid}: {error} for {ask}");
                assert!(is_large || paid == PROMPT, "{paid}: {error} for {ask}");
            }
            assert!(paid >= PROMPT, "{paid}: {error} for {ask}");
            assert_eq!(refused.body["error"]["code"], error, "{ask}");
            let told = format!("You were charged ${}", domain::Credits::from_nanos(paid));
            let message = refused.body["message"].as_str().unwrap();
            assert!(message.contains(&told), "{message} does not say {told}");
            calls += 1;
            let ending = if is_thinking { "3/5" } else { "3/2" };
            assert_eq!(settled(&database, calls).await, ending, "{error} for {ask}");
        }
    }
    // An upstream that nobody reached is not paid.
    server.stop();
    let closed = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some("http://127.0.0.1:1".into());
    });
    let closed = closed.await;
    let (user, key) = rich_user(&closed, "other").await;
    chat(&closed, &key, &json!({ "model": "o3" })).expect(502).await;
    assert_eq!(user.folded().await, RICH);
}

async fn a_stream_that_a_limit_of_ours_ends_is_paid(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = narrow(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = RICH;
    let mut calls = 0;
    for (words, last, code) in [
        (0, Step::Stall, "upstream_timeout"),
        (5, Step::Stall, "upstream_timeout"),
        (5, Step::Bytes(vec![b'a'; 5 << 20]), "upstream_error"),
    ] {
        for model in ["gpt-4o", "o3-mini"] {
            let mut steps = vec![word("")];
            steps.extend(vec![word(" word"); words]);
            steps.extend([last.clone(), Step::Stall]);
            upstream.script(Script::Events(steps));
            let ask = json!({ "model": model, "max_tokens": 1_000 });
            let mut stream = chat(&server, &key, &ask).stream().await;
            let events = stream.rest().await;
            let bill = stream.bill();
            assert_eq!(bill["ended_by"], code, "{ask}");
            calls += 1;
            let is_thinking = model == "o3-mini";
            let ending = settled(&database, calls).await;
            assert_eq!(ending, if is_thinking { "3/5" } else { "3/2" }, "{ask}");
            let paid = left - user.folded().await;
            left -= paid;
            assert_eq!(nanos(&bill["cost"]), paid, "{ask}");
            let delivered = PROMPT + i64::try_from(words).unwrap() * 10_000;
            let held = PROMPT + 1_000 * 10_000;
            if is_thinking {
                assert_eq!(paid, held, "{ask}");
            } else if code == "upstream_timeout" {
                assert_eq!(paid, delivered, "{ask}");
            } else {
                assert!(paid > delivered && paid <= held, "{paid} for {ask}");
            }
            let text = json!(events).to_string();
            let told = format!("You were charged ${}.", domain::Credits::from_nanos(paid));
            assert!(text.contains(&told), "{text} does not say {told}");
        }
    }
}

async fn what_no_upstream_had_is_not_paid(database: Database) {
    // It takes the connection, and does not answer the greeting of TLS.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.on_disconnect = OnDisconnect::Cancel;
        settings.upstreams.connect_timeout_seconds = 30.try_into().unwrap();
    })
    .await;
    let (user, key) = rich_user(&server, "someone").await;
    for (calls, model) in [(1, "gpt-4o"), (2, "o3-mini")] {
        let request = chat(&server, &key, &json!({ "model": model }));
        let gone = tokio::time::timeout(Duration::from_millis(300), request.0.send()).await;
        assert!(gone.is_err(), "{gone:?}");
        assert_eq!(settled(&database, calls).await, "4/1");
        assert_eq!(user.folded().await, RICH, "{model}");
    }
}

#[expect(clippy::too_many_lines, reason = "one table")]
async fn a_failure_in_a_stream_is_billed_by_what_it_reports(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let error = json!({ "message": "broke", "code": 7, "failed_generation": "the answer" });
    let event = |event: Value| Step::Send(format!("data: {event}\n\n"));
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 40 });
    let usage_of_responses = json!({ "input_tokens": 9, "output_tokens": 40 });
    let delta = |text: &str| event(json!({ "type": "response.output_text.delta", "delta": text }));
    let failed = |usage: Value| {
        let response = json!({ "id": "r", "status": "failed", "error": error, "usage": usage });
        event(json!({ "type": "response.failed", "response": response }))
    };
    let error_only = event(json!({ "error": error }));
    let done = Step::Send("data: [DONE]\n\n".to_owned());
    let (mut left, mut calls) = (RICH, 0);
    for (path, steps, cost) in [
        (
            "chat",
            vec![word(" word"), event(json!({ "error": error, "usage": usage }))],
            PROMPT + 40 * 10_000,
        ),
        ("chat", vec![word(" word"), error_only.clone(), done.clone()], PROMPT + 10_000),
        ("chat", vec![word(" word"), error_only.clone(), Step::Cut], PROMPT + 10_000),
        // It failed before it had delivered anything, and reports nothing.
        ("chat", vec![error_only.clone(), done.clone()], 0),
        // What is beside the failure was not generated.
        ("chat", vec![event(json!({ "error": error, "request_id": "the answer" })), done], 0),
        // What it reports is behind what was delivered.
        (
            "chat",
            [
                vec![word(" word"); 5],
                vec![event(json!({ "error": error, "usage": {
                    "prompt_tokens": 9, "completion_tokens": 1 } }))],
            ]
            .concat(),
            PROMPT + 5 * 10_000,
        ),
        ("responses", vec![delta(" word"), failed(usage_of_responses)], PROMPT + 40 * 10_000),
        ("responses", vec![delta(" word"), failed(json!(null))], 2_000_000 + 2 * 10_000 + 10_000),
        (
            "responses",
            vec![
                delta(" word"),
                event(
                    json!({ "type": "error", "code": "c", "message": "broke", "x": "the answer" }),
                ),
            ],
            2_000_000 + 2 * 10_000 + 10_000,
        ),
    ] {
        for model in ["gpt-4o", "o3-mini"] {
            upstream.script(Script::Events(steps.clone()));
            let mut stream = if path == "chat" {
                chat(&server, &key, &json!({ "model": model, "max_tokens": 100 })).stream().await
            } else {
                let ask = json!({ "model": model, "input": "Hello!", "max_output_tokens": 100,
                    "stream": true });
                server.post("/v1/responses", &ask).key(&key).stream().await
            };
            let text = json!(stream.rest().await).to_string();
            assert!(text.contains("broke") && !text.contains("the answer"), "{text}");
            assert_eq!(stream.bill()["ended_by"], "upstream_error", "{text}");
            calls += 1;
            let ending = settled(&database, calls).await;
            assert!(ending.starts_with("3/"), "{ending} for {path}");
            let paid = left - user.folded().await;
            left -= paid;
            assert_eq!(paid, cost, "{path} of {model}: {text}");
            assert_eq!(nanos(&stream.bill()["cost"]), paid);
        }
    }
}

async fn our_own_count_is_bounded_by_what_the_upstream_was_told(database: Database) {
    // Ten tokens of the upstream; as we count, far more.
    let message = json!({ "message": { "content": "\u{1f980}\u{7c73}x ".repeat(200) } });
    let answer = json!({ "choices": [message] }).to_string();
    let upstream = Upstream::start(Script::Answer(200, answer)).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let ask = json!({ "max_tokens": 10, "stream": false });
    let answer = chat(&server, &key, &ask).expect(200).await;
    // Twice the limit and 64 tokens more.
    assert_eq!(answer.header("x-polysystems-cost"), "0.00293");
    assert_eq!(user.folded().await, RICH - PROMPT - 84 * 10_000);
}

async fn an_answer_without_usage_is_paid_whole(database: Database) {
    let content = " word".repeat(3_000);
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let (mut left, mut calls) = (RICH, 0);
    // It would not believe that there was no prompt, and that is all that it does not believe.
    let no_prompt = json!({ "prompt_tokens": 0, "completion_tokens": 3_000 });
    for (usage, limit, tokens) in [
        (json!(null), 4_000, 3_000),
        (no_prompt, 4_000, 3_000),
        // An upstream that ignores its limit.
        (json!(null), 1, 66),
    ] {
        for is_stream in [false, true] {
            let choices = json!([{ "message": { "content": content } }]);
            let answer = json!({ "choices": choices, "usage": usage });
            upstream.script(Script::Answer(200, answer.to_string()));
            let ask = json!({ "model": "gpt-4o", "max_tokens": limit, "stream": is_stream });
            chat(&server, &key, &ask).expect(200).await;
            calls += 1;
            assert_eq!(settled(&database, calls).await, "1/2", "{ask}");
            let paid = left - user.folded().await;
            left -= paid;
            assert_eq!(paid, PROMPT + tokens * 10_000, "{usage} for {ask}");
        }
    }
    // As far as the balance goes.
    let poor = server.user("poor").await;
    poor.pay("0.02").await;
    let key = poor.key().await;
    let answer = json!({ "choices": [{ "message": { "content": content } }] });
    upstream.script(Script::Answer(200, answer.to_string()));
    let ask = json!({ "model": "gpt-4o", "max_tokens": 4_000, "stream": true });
    chat(&server, &key, &ask).expect(200).await;
    assert_eq!(settled(&database, calls + 1).await, "1/2");
    assert_eq!(poor.folded().await, 0);
}

async fn a_refusal_has_no_content(database: Database) {
    let error = json!({ "message": "Failed to call a function.", "type": "invalid_request_error",
        "code": "tool_use_failed", "failed_generation": "the answer" });
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    for (status, body) in [
        (400, json!({ "error": error }).to_string()),
        (200, json!({ "error": error }).to_string()),
        (200, json!({ "error": error, "request_id": "r", "note": "the answer" }).to_string()),
        (422, json!({ "detail": "no", "output": "the answer" }).to_string()),
        (418, "the answer".to_owned()),
    ] {
        for is_stream in [false, true] {
            upstream.script(Script::Answer(status, body.clone()));
            let ask = json!({ "stream": is_stream });
            let refused = chat(&server, &key, &ask).expect(status).await;
            assert!(!refused.text.contains("the answer"), "{status}: {}", refused.text);
            assert_eq!(refused.header("x-polysystems-cost"), "0.0000");
            if status < 418 {
                let told = &refused.body["error"];
                assert_eq!(told["message"], "Failed to call a function.", "{}", refused.text);
                assert_eq!(told["code"], "tool_use_failed");
            }
        }
    }
    assert_eq!(user.folded().await, RICH);
    // What it reports is paid, and is all there.
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 50 });
    let body = json!({ "error": error, "usage": usage }).to_string();
    upstream.script(Script::Answer(400, body.clone()));
    let refused = chat(&server, &key, &json!({})).expect(400).await;
    assert_eq!(
        (refused.text, refused.headers["x-polysystems-cost"].as_bytes()),
        (body, &b"0.00259"[..])
    );
    assert_eq!(user.folded().await, RICH - PROMPT - 50 * 10_000);
}

async fn who_leaves_after_a_failure_owes_no_more_than_who_stays(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let event = |event: Value| Step::Send(format!("data: {event}\n\n"));
    let error = json!({ "message": "broke" });
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 40 });
    let failed = event(json!({ "error": error }));
    let reported = event(json!({ "error": error, "usage": usage }));
    let (mut left, mut calls) = (RICH, 0);
    for (steps, cost) in [
        (vec![failed.clone()], 0),
        (vec![word(" word"), failed], PROMPT + 10_000),
        (vec![word(" word"), reported], PROMPT + 40 * 10_000),
    ] {
        for model in ["gpt-4o", "o3-mini"] {
            upstream.script(Script::Events([steps.clone(), vec![Step::Stall]].concat()));
            let ask = json!({ "model": model, "max_tokens": 1_000 });
            leave_after(chat(&server, &key, &ask).stream().await, steps.len()).await;
            calls += 1;
            let ending = settled(&database, calls).await;
            assert!(ending.starts_with("3/"), "{ending} of {model}");
            let paid = left - user.folded().await;
            left -= paid;
            assert_eq!(paid, cost, "{} events of {model}", steps.len());
        }
    }
}

async fn a_refusal_after_an_attempt_that_was_given_up_leaves_it_owed(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let other = Upstream::start(Script::Answer(400, "{\"error\":{}}".into())).await;
    for (name, retries, fallback) in [("one", 1, None), ("two", 0, Some(other.url()))] {
        let url = upstream.url();
        let server = Server::start_with(&database, |settings| {
            settings.upstreams.v1.url = Some(url);
            settings.upstreams.v1.timeout_seconds = 1.try_into().unwrap();
            settings.upstreams.v1.retries = retries;
            settings.upstreams.v1.fallback_url = fallback;
        })
        .await;
        let (user, key) = rich_user(&server, name).await;
        upstream.script(Script::Silent);
        let calls = upstream.calls();
        let then = async {
            while upstream.calls() == calls {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The script of the first attempt is begun.
            tokio::time::sleep(Duration::from_millis(200)).await;
            upstream.script(Script::Answer(400, "{\"error\":{}}".into()));
        };
        let ask = json!({ "model": "gpt-4o", "stream": false });
        let refused = chat(&server, &key, &ask).expect(424);
        let (refused, ()) = futures_util::future::join(refused, then).await;
        assert_eq!(refused.body["error"]["code"], "upstream_given_up", "{name}");
        assert_eq!(user.folded().await, RICH - PROMPT, "{name}");
        server.stop();
    }
}

async fn a_long_or_slow_refusal_costs_nothing(database: Database) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let long = json!({ "error": { "message": "no" }, "note": "a".repeat(20_000) });
    let upstream = Upstream::start(Script::Answer(400, long.to_string())).await;
    let server = narrow(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    chat(&server, &key, &json!({ "model": "o3-mini" })).expect(400).await;
    assert_eq!(settled(&database, 1).await, "2/1");
    assert_eq!(user.folded().await, RICH);
    server.stop();
    // The head of a refusal, and nothing more.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 16_384];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 400 X\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
        std::future::pending::<()>().await;
    });
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.timeout_seconds = 1.try_into().unwrap();
    })
    .await;
    let (user, key) = rich_user(&server, "other").await;
    let refused = chat(&server, &key, &json!({ "model": "o3-mini" })).expect(504).await;
    assert_eq!(refused.body["error"]["code"], "upstream_timeout");
    assert_eq!(user.folded().await, RICH);
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
    let mut left = RICH - PROMPT - 50 * 10_000;
    assert_eq!(user.folded().await, left);
    // Clients repeat these by themselves, and would pay again.
    for status in [408, 409, 429] {
        upstream.script(Script::Answer(status, usage.to_string()));
        let refused = chat(&server, &key, &json!({})).expect(424).await;
        assert_eq!(refused.header("x-should-retry"), "false");
        left -= PROMPT + 50 * 10_000;
        assert_eq!(user.folded().await, left, "{status}");
    }
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

#[expect(clippy::too_many_lines, reason = "one list of what is tried")]
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
    // A file that is sent along is paid as the upstream counts it, and held for with a window.
    user.pay("10.00").await;
    let data = "data:application/pdf;base64,AAAA";
    let file = part(json!({ "type": "input_file", "filename": "a.pdf", "file_data": data }));
    let body = json!({ "input": file, "max_output_tokens": 20 });
    let usage = json!({ "usage": { "input_tokens": 200_000, "output_tokens": 9 } });
    upstream.script(Script::Answer(200, usage.to_string()));
    let answer = server.post("/v1/responses", &body).key(&key).expect(200).await;
    assert_eq!(answer.header("x-polysystems-cost"), "2.00209");
    // Who cannot pay for a window does not begin.
    let poor = server.user("poor").await;
    poor.pay("0.10").await;
    let key = poor.key().await;
    server.post("/v1/responses", &body).key(&key).expect(402).await;
    // What only looks like a prompt of known size is paid as far as the balance goes.
    let body = json!({ "input": "Hello!", "max_output_tokens": 20 });
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

async fn the_loop_of_a_client_goes_on_without_reasoning_of_others(database: Database) {
    let usage = json!({ "usage": { "input_tokens": 30, "output_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    // As OpenAI's client sends the output of an answer back.
    let body = json!({ "model": "o3-mini", "max_output_tokens": 20, "input": [
        { "role": "user", "content": "What is the time?" },
        { "type": "reasoning", "id": "rs_of_another", "summary": [] },
        { "type": "function_call", "id": "fc_1", "call_id": "c", "name": "time", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "noon" },
    ] });
    let answer = server.post("/v1/responses", &body).key(&key).expect(200).await;
    let sent = upstream.last_body()["input"].clone();
    assert_eq!(
        sent,
        json!([
            { "role": "user", "content": "What is the time?" },
            { "type": "function_call", "call_id": "c", "name": "time", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "c", "output": "noon" },
        ])
    );
    assert_eq!(answer.header("x-polysystems-cost"), "0.00239");
    assert_eq!(user.folded().await, RICH - 2_390_000);
}
