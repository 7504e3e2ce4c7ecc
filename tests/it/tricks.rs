//! Tricks with a request: to make the upstream do what the server neither sees nor prices.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polysystems::config::HoldSettings;
use serde_json::{Value, json};

use crate::streams::{chat, rich_user};
use crate::support::upstream::{Script, Step, Upstream, usage_and_done, word};
use crate::support::{Database, Events, Server, nanos, on_both};

on_both!(
    a_file_is_paid_as_the_upstream_counts_it_also_if_its_client_leaves,
    files_at_once_cost_no_more_than_the_balance,
    a_larger_report_is_never_a_smaller_bill,
    a_model_that_nobody_knows_may_think,
    a_hidden_answer_without_usage_costs_what_is_held,
    fields_that_nobody_knows_reach_no_upstream,
    fields_that_clients_send_pass,
    a_query_reaches_no_upstream_unread,
    a_body_is_sent_as_what_it_was_priced_as,
    no_beta_is_switched_on_by_a_header,
    a_stream_that_becomes_too_large_to_be_kept_is_paid,
    an_answer_of_responses_without_deltas_is_paid,
    a_refusal_does_not_name_the_operator,
    a_recorded_answer_is_for_keys_that_may_use_the_model,
    what_only_looks_like_a_failure_is_paid,
    a_model_that_is_not_listed_is_not_sold,
    what_an_operator_adds_passes,
    a_service_of_the_operator_has_fields_of_its_own,
    large_bodies_of_one_account_wait_for_one_another,
);

/// $10.
const RICH: i64 = 10_000_000_000;
/// The base price, and the nine tokens of [`chat`]'s prompt.
const PROMPT: i64 = 2_000_000 + 9 * 10_000;

async fn served(database: &Database, upstream: &Upstream) -> Server {
    let url = upstream.url();
    Server::start_with(database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.holds.drain_seconds = 3.try_into().unwrap();
        settings.holds.visible_models = HoldSettings::default().visible_models;
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
            return database.query(last).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {calls} usage records");
}

async fn leave_after(mut stream: Events, events: usize) {
    for _ in 0..events {
        stream.next().await.unwrap();
    }
}

/// A message with this part.
fn with_part(part: &Value) -> Value {
    json!([{ "role": "user", "content": [{ "type": "text", "text": "Hello!" }, part] }])
}

/// Parts whose tokens nobody knows before the call.
fn files() -> Vec<Value> {
    let pdf = "data:application/pdf;base64,JVBERi0xLjcK";
    vec![
        json!({ "type": "file", "file": { "filename": "a.pdf", "file_data": pdf } }),
        json!({ "type": "image_url", "image_url": { "url": pdf } }),
        json!({ "type": "image_url", "image_url": { "url": "data:video/mp4;base64,AAAA" } }),
        json!({ "type": "video_url", "video_url": { "url": "data:video/mp4;base64,AAAA" } }),
        json!({ "image_url": { "url": pdf } }),
    ]
}

async fn a_file_is_paid_as_the_upstream_counts_it_also_if_its_client_leaves(database: Database) {
    let usage = json!({ "prompt_tokens": 300_000, "completion_tokens": 5 });
    let pause = Step::Pause(Duration::from_millis(500));
    let script = [vec![word(" word"); 5], vec![pause, usage_and_done(&usage)]].concat();
    let upstream = Upstream::start(Script::Events(script)).await;
    let server = served(&database, &upstream).await;
    let user = server.user("someone").await;
    user.pay("200.00").await;
    let key = user.key().await;
    let (mut left, mut calls) = (20 * RICH, 0);
    let remote = json!({ "type": "image_url", "image_url": { "url": "https://a.example/b" } });
    for part in files().into_iter().chain([remote]) {
        let ask = json!({ "model": "gpt-4o", "messages": with_part(&part) });
        leave_after(chat(&server, &key, &ask).stream().await, 5).await;
        calls += 1;
        settled(&database, calls).await;
        let paid = left - user.folded().await;
        left -= paid;
        assert_eq!(paid, 2_000_000 + 300_005 * 10_000, "{part}");
    }
    assert_eq!(upstream.hung_up.load(Ordering::SeqCst), 0, "cancelled before its usage");
}

async fn files_at_once_cost_no_more_than_the_balance(database: Database) {
    let usage = json!({ "prompt_tokens": 300_000, "completion_tokens": 1 });
    let answer = json!({ "choices": [], "usage": usage }).to_string();
    let upstream = Upstream::start(Script::Slow(Duration::from_millis(500), answer)).await;
    let server = served(&database, &upstream).await;
    for (place, part) in files().iter().enumerate() {
        let before = upstream.calls();
        let user = server.user(&format!("user{place}")).await;
        user.pay("12.00").await;
        let key = user.key().await;
        let ask = json!({ "model": "gpt-4o", "messages": with_part(part), "stream": false,
            "max_tokens": 1 });
        let one = async || chat(&server, &key, &ask).0.send().await.unwrap().status();
        let statuses = futures_util::future::join_all((0..8).map(|_| one())).await;
        let begun = i64::try_from(upstream.calls() - before).unwrap();
        let list = begun * (2_000_000 + 300_001 * 10_000);
        assert_eq!(user.folded().await, 12_000_000_000 - list, "{statuses:?} for {part}");
        assert!(begun >= 1, "{statuses:?} for {part}");
    }
}

async fn a_larger_report_is_never_a_smaller_bill(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream).await;
    let user = server.user("someone").await;
    user.pay("1000.00").await;
    let key = user.key().await;
    let part = &files()[0];
    let mut last = 0;
    for reported in [9, 390_000, 410_000, 1_090_000, 1_110_000, 3_000_000] {
        let usage = json!({ "prompt_tokens": reported, "completion_tokens": 1 });
        let answer = json!({ "choices": [], "usage": usage }).to_string();
        upstream.script(Script::Answer(200, answer));
        let ask = json!({ "model": "gpt-4o", "messages": with_part(part), "stream": false });
        let before = user.folded().await;
        chat(&server, &key, &ask).expect(200).await;
        let paid = before - user.folded().await;
        assert!(paid >= last, "{paid} for {reported}, {last} for less");
        last = paid;
    }
}

async fn a_model_that_nobody_knows_may_think(database: Database) {
    let pause = Step::Pause(Duration::from_millis(500));
    let usage = usage_and_done(&json!({ "prompt_tokens": 9, "completion_tokens": 20_100 }));
    let script = [vec![word(" word"); 100], vec![pause, usage]].concat();
    let upstream = Upstream::start(Script::Events(script)).await;
    let server = served(&database, &upstream).await;
    let (mut calls, mut names) = (0, 0);
    for (model, is_known) in [
        (Some("gpt-6-astra"), false),
        (Some("gpt-6.1-sol"), false),
        (Some("chat-latest"), false),
        (Some("gemini-flash-latest"), false),
        (Some(" o3-mini"), false),
        (Some("openai.gpt-oss-120b"), false),
        (Some("gpt-4o-reasoning"), false),
        (None, false),
        (Some("gpt-4o-mini"), true),
        (Some("openai/gpt-4.1"), true),
        (Some("ft:gpt-4o:someone"), true),
    ] {
        names += 1;
        let (user, key) = rich_user(&server, &format!("user{names}")).await;
        let ask = json!({ "model": model, "max_tokens": 30_000 });
        leave_after(chat(&server, &key, &ask).stream().await, 100).await;
        calls += 1;
        settled(&database, calls).await;
        let made = if is_known { 100 } else { 20_100 };
        assert_eq!(RICH - user.folded().await, PROMPT + made * 10_000, "{model:?}");
    }
}

async fn a_hidden_answer_without_usage_costs_what_is_held(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let (mut left, mut calls) = (RICH, 0);
    let content = json!([{ "message": { "content": " word" } }]);
    let whole = |usage: Value| {
        Script::Answer(200, json!({ "choices": content, "usage": usage }).to_string())
    };
    let done = Step::Send("data: [DONE]\n\n".to_owned());
    let zero = json!({ "prompt_tokens": 9, "completion_tokens": 0 });
    for (script, is_stream) in [
        (whole(json!(null)), false),
        (whole(json!({ "prompt_tokens": -1, "completion_tokens": 1 })), false),
        (whole(zero.clone()), false),
        (Script::Events(vec![word(" word"), done]), true),
        (Script::Events(vec![word(" word"), usage_and_done(&zero)]), true),
    ] {
        upstream.script(script);
        let ask = json!({ "model": "o3-mini", "max_tokens": 1_000, "stream": is_stream });
        chat(&server, &key, &ask).expect(200).await;
        calls += 1;
        let ending = settled(&database, calls).await;
        let paid = left - user.folded().await;
        left -= paid;
        assert_eq!((paid, ending.as_str()), (PROMPT + 1_000 * 10_000, "1/5"), "{calls}");
    }
}

async fn fields_that_nobody_knows_reach_no_upstream(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    for (name, value) in [
        ("n_predict", json!(100_000)),
        ("num_predict", json!(100_000)),
        ("max_new_tokens", json!(100_000)),
        ("additional_drop_params", json!(["max_tokens"])),
        ("context_window_fallbacks", json!([{ "gpt-4o": ["o3"] }])),
        ("content_policy_fallbacks", json!([{ "gpt-4o": ["o3"] }])),
        ("num_retries", json!(9)),
        ("user_config", json!({ "model_list": [] })),
        ("fallbacks", json!(["o3"])),
        ("enable_thinking", json!(true)),
        ("speed", json!("fast")),
        ("priority", json!(-9)),
        ("prompt_embeds", json!("AAAA")),
        ("chat_template", json!("{% for i in range(99999) %}a{% endfor %}")),
        ("multi_agent", json!({ "enabled": true, "max_concurrent_subagents": 50 })),
        ("max_tokens\u{0}x", json!(1)),
        ("unheard_of", json!(1)),
        ("messages", json!([{ "role": "user", "content": "Hello!", "content\u{0}": "b" }])),
        (
            "messages",
            with_part(&json!({ "type": "text", "text": "a",
                "cache_control": { "type": "ephemeral", "ttl": "1h" } })),
        ),
        ("tools", json!([{ "googleSearch": {} }])),
        ("tools", json!([{ "name": "web_search" }])),
        (
            "tools",
            json!([{ "type": "function", "function": { "name": "f" },
                "cache_control": { "type": "ephemeral", "ttl": "1h" } }]),
        ),
        ("prompt_cache_options", json!({ "comparison_response_id": "resp_1" })),
    ] {
        for (path, limit) in
            [("chat/completions", "max_tokens"), ("responses", "max_output_tokens")]
        {
            let of_path = if path == "responses" && name == "messages" { "input" } else { name };
            let prompt = if path == "responses" { "input" } else { "messages" };
            let mut body = json!({ "model": "gpt-4o", limit: 1 });
            body[prompt] = json!([{ "role": "user", "content": "Hello!" }]);
            body[of_path] = value.clone();
            let refused = server.post(&format!("/v1/{path}"), &body).key(&key).send().await;
            assert_eq!(refused.status, 400, "{path} with {name}: {value}");
            let first: String = name.chars().take_while(|c| !c.is_control()).collect();
            assert!(refused.text.contains(&first) || name == "messages", "{}", refused.text);
        }
    }
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
}

async fn fields_that_clients_send_pass(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream).await;
    let user = server.user("someone").await;
    user.pay("1000.00").await;
    let key = user.key().await;
    let function = json!({ "type": "function", "function": { "name": "f", "parameters": {} } });
    let mut chat = json!({
        "model": "gpt-4o", "messages": [{ "role": "user", "content": "Hello!" }],
        "frequency_penalty": 0.1, "function_call": "auto", "functions": [], "logit_bias": {},
        "logprobs": true, "max_completion_tokens": 9, "max_tokens": 9, "metadata": { "a": "b" },
        "modalities": ["text"], "moderation": null, "n": 1, "parallel_tool_calls": true,
        "prediction": { "type": "content", "content": "Hello!" }, "presence_penalty": 0.1,
    });
    let more = json!({
        "prompt_cache_key": "k", "prompt_cache_options": { "mode": "implicit" },
        "prompt_cache_retention": "24h", "reasoning_effort": "low",
        "response_format": { "type": "text" }, "safety_identifier": "s", "seed": 1,
        "service_tier": "auto", "stop": ["a"], "store": false, "stream_options": null,
        "temperature": 1, "tool_choice": "auto", "tools": [function], "top_logprobs": 2,
        "top_p": 1, "user": "u", "verbosity": "low", "audio": null, "web_search_options": null,
    });
    chat.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let server_fields = json!({
        "model": "gpt-4o", "messages": [{ "role": "user", "content": "Hello!" }],
        "max_tokens": 9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "guided_json": { "type": "object" },
        "stop_token_ids": [1], "ignore_eos": false, "cache_prompt": true,
        "chat_template_kwargs": { "enable_thinking": false },
    });
    let completion = json!({
        "model": "gpt-4o", "prompt": "Hello!", "best_of": 1, "echo": false, "logprobs": 1,
        "suffix": "a", "max_tokens": 9, "frequency_penalty": 0, "logit_bias": {}, "n": 1,
        "presence_penalty": 0, "seed": 1, "stop": "a", "stream": false, "temperature": 0,
        "top_p": 1, "user": "u",
    });
    let mut responses = json!({
        "model": "gpt-5", "input": "Hello!", "background": false, "conversation": null,
        "include": ["reasoning.encrypted_content"], "instructions": "Say it.",
        "max_output_tokens": 16, "max_tool_calls": 3, "metadata": {}, "moderation": null,
        "parallel_tool_calls": true, "previous_response_id": null, "prompt": null,
    });
    let more = json!({
        "prompt_cache_key": "k", "reasoning": { "effort": "low", "summary": "auto" },
        "safety_identifier": "s", "service_tier": "default", "store": false, "temperature": 1,
        "text": { "verbosity": "low" }, "tool_choice": "auto", "top_logprobs": 0, "top_p": 1,
        "tools": [{ "type": "function", "name": "f", "parameters": {}, "strict": true }],
        "truncation": "disabled", "user": "u",
    });
    responses.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let embeddings = json!({ "model": "text-embedding-3-small", "input": ["Hello!"],
        "dimensions": 256, "encoding_format": "base64", "user": "u" });
    for (path, body) in [
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", server_fields),
        ("/v1/completions", completion),
        ("/v1/responses", responses),
        ("/v1/embeddings", embeddings),
    ] {
        let answer = server.post(path, &body).key(&key).send().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let sent = upstream.last_body();
        assert_eq!(sent.as_object().unwrap().len(), body.as_object().unwrap().len(), "{path}");
    }
}

async fn a_query_reaches_no_upstream_unread(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let body = json!({ "model": "gpt-4o", "messages": [{ "role": "user", "content": "Hello!" }] });
    for query in ["model=o3", "mod%65l=o3", "api-version=preview", "a", "a=b&model=o3", "%zz=1"] {
        let path = format!("/v1/chat/completions?{query}");
        let refused = server.post(&path, &body).key(&key).send().await;
        assert_eq!(refused.status, 400, "{query}: {}", refused.text);
    }
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    server.post("/v1/chat/completions?", &body).key(&key).expect(200).await;
}

async fn a_body_is_sent_as_what_it_was_priced_as(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream).await;
    let (_, key) = rich_user(&server, "someone").await;
    let request = chat(&server, &key, &json!({ "model": "gpt-4o", "stream": false }));
    request.header("Content-Type", "multipart/form-data; boundary=x").expect(200).await;
    let head = upstream.heads.lock().unwrap().last().unwrap().clone();
    let types: Vec<&str> = head.lines().filter(|line| line.starts_with("content-type")).collect();
    assert_eq!(types, ["content-type: application/json"]);
}

async fn no_beta_is_switched_on_by_a_header(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream).await;
    let (_, key) = rich_user(&server, "someone").await;
    for (name, value) in
        [("OpenAI-Beta", "responses_multi_agent=v1"), ("Anthropic-Beta", "context-1m-2025-08-07")]
    {
        let request = chat(&server, &key, &json!({ "model": "gpt-4o", "stream": false }));
        request.header(name, value).expect(200).await;
        let head = upstream.heads.lock().unwrap().last().unwrap().clone();
        assert!(!head.contains("beta"), "{head}");
    }
}

async fn a_stream_that_becomes_too_large_to_be_kept_is_paid(database: Database) {
    let pause = Step::Pause(Duration::from_millis(500));
    let script = [vec![word(" word"); 5], vec![pause], vec![word(" word"); 200]].concat();
    let upstream = Upstream::start(Script::Events(script)).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.idempotency.answer_max_bytes = 20_000;
    })
    .await;
    let (user, key) = rich_user(&server, "someone").await;
    let ask = json!({ "model": "gpt-4o", "max_tokens": 4_000 });
    let request = chat(&server, &key, &ask).header("Idempotency-Key", "k");
    leave_after(request.stream().await, 5).await;
    settled(&database, 1).await;
    let paid = RICH - user.folded().await;
    // What has come until it was too large: about a hundred events of nearly 200 bytes.
    assert!(paid > PROMPT + 50 * 10_000, "{paid}");
}

async fn an_answer_of_responses_without_deltas_is_paid(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let event = |event: Value| Step::Send(format!("data: {event}\n\n"));
    let item = json!({ "type": "message", "id": "m", "role": "assistant", "content": [
        { "type": "output_text", "text": " word".repeat(100), "annotations": [] }] });
    let created = event(json!({ "type": "response.created", "response": { "id": "r" } }));
    let done = event(json!({ "type": "response.output_item.done", "item": item }));
    let completed = |output: Value| {
        event(json!({ "type": "response.completed", "response": { "id": "r", "output": output } }))
    };
    let whole = |output: Value| Script::Events(vec![created.clone(), completed(output)]);
    let mut left = RICH;
    for script in [
        whole(json!([item])),
        Script::Events(vec![created.clone(), done.clone(), completed(json!([]))]),
        Script::Events(vec![created.clone(), done, completed(json!([item]))]),
    ] {
        upstream.script(script);
        let ask = json!({ "model": "gpt-4o", "input": "Hello!", "max_output_tokens": 1_000,
            "stream": true });
        let mut stream = server.post("/v1/responses", &ask).key(&key).stream().await;
        stream.rest().await;
        let paid = left - user.folded().await;
        left -= paid;
        assert_eq!(nanos(&stream.bill()["cost"]), paid);
        assert_eq!(paid, 2_000_000 + 2 * 10_000 + 100 * 10_000);
    }
}

async fn a_refusal_does_not_name_the_operator(database: Database) {
    let message = "Rate limit reached for gpt-4o in organization org-AbCd1234 on tokens per min.";
    let error = json!({ "error": { "message": message, "type": "tokens",
        "code": "rate_limit_exceeded" } });
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream).await;
    let (_, key) = rich_user(&server, "someone").await;
    for status in [429, 400] {
        upstream.script(Script::Answer(status, error.to_string()));
        let ask = json!({ "model": "gpt-4o", "stream": false });
        let refused = chat(&server, &key, &ask).expect(status).await;
        assert!(!refused.text.contains("AbCd1234"), "{}", refused.text);
        assert_eq!(refused.body["error"]["code"], "rate_limit_exceeded");
    }
}

async fn a_recorded_answer_is_for_keys_that_may_use_the_model(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 }, "x": "secret" });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let server = served(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let narrow = user.key_of(&json!({ "name": "narrow", "allowed_models": ["gpt-4o"] })).await;
    let ask = json!({ "model": "o3", "stream": false });
    let call = |key| chat(&server, key, &ask).header("Idempotency-Key", "k");
    call(&key).expect(200).await;
    let refused = call(&narrow).expect(403).await;
    assert!(!refused.text.contains("secret"), "{}", refused.text);
    call(&key).expect(200).await;
    assert_eq!(upstream.calls(), 1);
}

async fn what_only_looks_like_a_failure_is_paid(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let mut left = RICH;
    for error in [json!(false), json!(0)] {
        let answer = json!({ "choices": [], "error": error });
        upstream.script(Script::Answer(200, answer.to_string()));
        let ask = json!({ "model": "gpt-4o", "stream": false });
        chat(&server, &key, &ask).expect(200).await;
        let paid = left - user.folded().await;
        left -= paid;
        assert_eq!(paid, PROMPT, "{error}");
    }
}

async fn a_model_that_is_not_listed_is_not_sold(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.upstreams.v1.models = vec!["gpt-4o*".into()];
    })
    .await;
    let (user, key) = rich_user(&server, "someone").await;
    for model in [json!("o1-pro"), json!("x/gpt-4o"), json!(null), json!(["gpt-4o"])] {
        let refused = chat(&server, &key, &json!({ "model": model })).expect(404).await;
        refused.assert_code(
            "model_not_found",
            "This model is not sold here. Please choose another one.",
        );
    }
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    let ask = json!({ "model": "GPT-4o-mini", "stream": false });
    chat(&server, &key, &ask).expect(200).await;
    server.get("/v1/models").key(&key).expect(200).await;
}

async fn what_an_operator_adds_passes(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        let v1 = &mut settings.upstreams.v1;
        v1.url = Some(url);
        v1.request_fields = vec!["own_field".into()];
        v1.query_parameters = vec!["api-version".into(), "model".into()];
        v1.beta_features = vec!["responses=experimental".into()];
    })
    .await;
    let (_, key) = rich_user(&server, "someone").await;
    let body = json!({ "model": "gpt-4o", "own_field": 1,
        "messages": [{ "role": "user", "content": "Hello!" }] });
    let post = |query: &str| {
        let request = server.post(&format!("/v1/chat/completions?{query}"), &body).key(&key);
        request.header("OpenAI-Beta", "responses=experimental,responses_multi_agent=v1")
    };
    post("api-version=2024").expect(200).await;
    let head = upstream.heads.lock().unwrap().last().unwrap().clone();
    assert!(head.contains("?api-version=2024 "), "{head}");
    assert!(head.contains("openai-beta: responses=experimental\r\n"), "{head}");
    assert_eq!(upstream.last_body()["own_field"], 1);
    post("api-version=2024&model=o3").expect(400).await;
}

async fn a_service_of_the_operator_has_fields_of_its_own(database: Database) {
    let usage = json!({ "usage": { "prompt_tokens": 9, "completion_tokens": 9 } });
    let upstream = Upstream::start(Script::Answer(200, usage.to_string())).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.hub.url = Some(url);
    })
    .await;
    let (_, key) = rich_user(&server, "someone").await;
    let post = |query: &str, name: &str| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Hello!" }] });
        body[name] = json!(1);
        server.post(&format!("/api/hub/agents/chat?{query}"), &body).key(&key)
    };
    post("room=7", "temperament").expect(200).await;
    post("room=7", "n_predict").expect(400).await;
    post("max_tokens=7", "temperament").expect(400).await;
    assert_eq!(upstream.calls(), 1);
}

/// What takes long to read, and is paid by nobody: names that are not in lower case.
async fn large_bodies_of_one_account_wait_for_one_another(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let (_, paying) = rich_user(&server, "paying").await;
    let names: Vec<_> = (0..60_000).map(|number| format!("\"A{number:06}\":0,")).collect();
    let names = names.concat();
    let body = format!("{{\"metadata\":{{{names}\"a\":0}}}}");
    let part = format!("{{\"input\":[{{{names}\"a\":0}}]}}");
    let call = |body: &String| {
        let request = server.post("/v1/chat/completions", &json!(null)).key(&key);
        request.body(body.clone()).send()
    };
    let calls = (0..8).map(|number| call(if number % 2 == 0 { &body } else { &part }));
    let begun = std::time::Instant::now();
    let calls = futures_util::future::join_all(calls);
    let long = "word ".repeat(5_000);
    let ask = json!({ "messages": [{ "role": "user", "content": long }], "max_tokens": 9,
        "stream": false });
    let mine = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = std::time::Instant::now();
        chat(&server, &paying, &ask).expect(200).await;
        begun.elapsed()
    };
    let (answers, waited) = futures_util::future::join(calls, mine).await;
    for answer in answers {
        assert_eq!(answer.status, 402, "{}", answer.text);
    }
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
