//! Calls to models that ask for more than plain tokens: another service tier, an image, a prompt
//! that is kept for an hour, searches of the web. What is taken is the price of that, to the
//! nano-dollar, and what has no price is refused before anything is held.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::models::{is_billed, row, selling, stream_of};
use crate::streams::rich_user;
use crate::support::process::verify;
use crate::support::upstream::{Script, Step, Upstream};
use crate::support::{Answer, Database, Key, Server, nanos, on_both};
use crate::thief::RICH;
use domain::catalogue::{Modality, ModelTarget, SoldModel, TargetAt};
use domain::pricing::Extra;
use domain::{Card, Dim, Flags, Service};

on_both!(
    the_tier_that_gemini_has_served_is_billed,
    a_fast_call_is_billed_as_fast,
    an_image_is_held_for_whatever_the_request_says,
    an_image_answer_is_billed_as_images,
    a_prompt_kept_for_an_hour_costs_an_hour,
    searches_are_held_for_and_billed,
    what_no_answer_tells_is_not_run,
);

/// Nano-dollars of a token at one dollar for a million.
const DOLLAR: i64 = 1_000;
/// Nano-dollars of a search.
const SEARCH: i64 = 10_000_000;
const DRAW: &str = "/v1beta/models/gemini-draws:generateContent";
const DRAW_STREAM: &str = "/v1beta/models/gemini-draws:streamGenerateContent?alt=sse";

/// The cards of the models of this file.
pub(crate) fn cards() -> Vec<(Arc<str>, Arc<Card>)> {
    let (input, output, image) = (Dim::Input, Dim::Output, Dim::OutputImage);
    let (write, search) = (Dim::CacheWrite, (Dim::WebSearch, "0.01"));
    let gemini = [
        row(Service::Standard, 0, &[(input, "0.3"), (output, "2.5"), (image, "30"), search]),
        row(Service::Priority, 0, &[(input, "0.6"), (output, "5"), (image, "60"), search]),
    ];
    let claude = [
        row(Service::Standard, 0, &[(input, "3"), (output, "15"), (write, "3.75"), search]),
        row(Service::Fast, 0, &[(input, "30"), (output, "150"), (write, "37.5"), search]),
    ];
    let hour = (Dim::CacheWrite1h, "6");
    let keeps =
        [row(Service::Standard, 0, &[(input, "3"), (output, "15"), (write, "3.75"), hour, search])];
    let plain = [row(Service::Standard, 0, &[(input, "3"), (output, "15")])];
    let named = [
        ("gemini-draws", gemini.to_vec()),
        ("claude-fast", claude.to_vec()),
        ("chat-keeps", keeps.to_vec()),
        ("chat-plain", plain.to_vec()),
    ];
    named.map(|(name, rows)| (name.into(), Arc::new(Card::new(rows).unwrap()))).into()
}

/// The models of this file, by the names of their credentials.
pub(crate) fn models() -> Vec<SoldModel> {
    let model = |(name, at): (&str, &str)| SoldModel {
        name: name.into(),
        max_input: 100_000,
        max_output: 20_000,
        tokenizer_permille: 1_000,
        sells: vec![Extra::HostedTools],
        targets: vec![ModelTarget { at: TargetAt::Credential(at.into()), weight: 1, priority: 0 }],
        modalities: vec![Modality::Image, Modality::Audio, Modality::Video, Modality::File],
        ..SoldModel::default()
    };
    let named =
        [("gemini-draws", "g"), ("claude-fast", "a"), ("chat-keeps", "o"), ("chat-plain", "o")];
    named.map(model).into()
}

/// A body with these fields beside.
fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn draw() -> Value {
    json!({ "contents": [{ "role": "user", "parts": [{ "text": "a cat" }] }] })
}

fn messages() -> Value {
    json!({ "model": "claude-fast", "max_tokens": 100,
        "messages": [{ "role": "user", "content": "Hello!" }] })
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Hello!" }] })
}

/// An answer of Gemini's with these parts.
fn drawn(parts: &Value, usage: &Value) -> Value {
    let content = json!({ "role": "model", "parts": parts });
    json!({ "candidates": [{ "content": content, "finishReason": "STOP" }],
        "usageMetadata": usage, "modelVersion": "gemini-draws" })
}

fn tokens(prompt: u64, written: u64) -> Value {
    json!({ "promptTokenCount": prompt, "candidatesTokenCount": written,
        "totalTokenCount": prompt + written })
}

async fn ask(server: &Server, key: &Key, path: &str, body: &Value) -> Answer {
    server.post(path, body).key(key).expect(200).await
}

/// A stream of Gemini's to its end.
async fn draw_stream(server: &Server, key: &Key, chunks: &[Value], upstream: &Upstream) {
    let steps = chunks.iter().map(|chunk| Step::Send(format!("data: {chunk}\r\n\r\n")));
    upstream.script(Script::Events(steps.collect()));
    let answer = server.post(DRAW_STREAM, &draw()).key(key).0.send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("\"cost\""), "{text}");
}

async fn the_tier_that_gemini_has_served_is_billed(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let hi = json!([{ "text": "hi" }]);
    let plain = 100 * 3 * DOLLAR / 10 + 10 * 25 * DOLLAR / 10;
    let mut paid = 0;
    for (asked, told, head, cost) in [
        (json!({}), json!({}), "", plain),
        (json!({ "serviceTier": "STANDARD" }), json!({}), "", plain),
        (json!({ "serviceTier": "priority" }), json!({}), "", 2 * plain),
        (json!({ "serviceTier": "PRIORITY" }), json!({}), "", 2 * plain),
        (json!({ "service_tier": "SERVICE_TIER_PRIORITY" }), json!({}), "", 2 * plain),
        (json!({ "serviceTier": "priority" }), json!({ "serviceTier": "priority" }), "", 2 * plain),
        // Google serves what it can, and says so in one of three places.
        (json!({ "serviceTier": "priority" }), json!({ "serviceTier": "standard" }), "", plain),
        (json!({ "serviceTier": "priority" }), json!({ "trafficType": "ON_DEMAND" }), "", plain),
        (
            json!({ "serviceTier": "priority" }),
            json!({}),
            "x-gemini-service-tier: standard\r\n",
            plain,
        ),
    ] {
        let answer = drawn(&hi, &with(tokens(100, 10), &told)).to_string();
        upstream.script(Script::Headed(200, head, answer));
        ask(&server, &key, DRAW, &with(draw(), &asked)).await;
        let parts = [(Dim::Input, 100), (Dim::Output, 10)];
        is_billed(&database, &user, &parts, Flags::NONE, cost).await;
        paid += cost;
    }
    let calls = upstream.calls();
    for tier in [json!("flex"), json!("batch"), json!("scale"), json!(2)] {
        let body = with(draw(), &json!({ "serviceTier": tier }));
        let refused = server.post(DRAW, &body).key(&key).expect(400).await;
        assert!(refused.text.contains("service tier"), "{tier}: {}", refused.text);
    }
    assert_eq!((upstream.calls(), user.folded().await), (calls, RICH - paid));
    server.stop();
    verify(&database);
}

async fn a_fast_call_is_billed_as_fast(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let usage = json!({ "input_tokens": 10, "output_tokens": 4, "service_tier": "standard" });
    let (slow, fast) = (10 * 3 * DOLLAR + 4 * 15 * DOLLAR, 10 * 30 * DOLLAR + 4 * 150 * DOLLAR);
    let parts = [(Dim::Input, 10), (Dim::Output, 4)];
    let asked = with(messages(), &json!({ "speed": "fast" }));
    for (body, speed, cost) in [
        (&messages(), json!({}), slow),
        (&asked, json!({ "speed": "fast" }), fast),
        // The tier alone does not say that it was slow.
        (&asked, json!({}), fast),
        (&asked, json!({ "speed": "standard" }), slow),
    ] {
        let usage = with(usage.clone(), &speed);
        let content = json!([{ "type": "text", "text": "hi" }]);
        let answer = json!({ "type": "message", "content": content, "usage": usage });
        upstream.script(Script::Answer(200, answer.to_string()));
        ask(&server, &key, "/v1/messages", body).await;
        is_billed(&database, &user, &parts, Flags::NONE, cost).await;
    }
    // The end of a stream names the tier alone.
    let event = |kind: &str, fields: Value| {
        let event = with(json!({ "type": kind }), &fields);
        Step::Send(format!("event: {kind}\ndata: {event}\n\n"))
    };
    let first = json!({ "input_tokens": 10, "output_tokens": 1, "speed": "fast" });
    let message = json!({ "id": "m", "type": "message", "role": "assistant", "content": [],
        "usage": first });
    let text = json!({ "type": "text_delta", "text": "hi" });
    let steps = vec![
        event("message_start", json!({ "message": message })),
        event("content_block_delta", json!({ "index": 0, "delta": text })),
        event("message_delta", json!({ "delta": { "stop_reason": "end_turn" }, "usage": usage })),
        event("message_stop", json!({})),
    ];
    upstream.script(Script::Events(steps));
    let body = with(asked, &json!({ "stream": true }));
    let (_, cost) = stream_of(&server, &key, "/v1/messages", &body).await;
    assert_eq!(cost, fast);
    is_billed(&database, &user, &parts, Flags::NONE, fast).await;
    assert_eq!(user.folded().await, RICH - 2 * slow - 3 * fast);
    server.stop();
    verify(&database);
}

async fn an_image_is_held_for_whatever_the_request_says(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (_, key) = rich_user(&server, "someone").await;
    let limit = json!({ "maxOutputTokens": 1_300 });
    let shown = json!([{ "role": "user", "parts": [
        { "inlineData": { "mimeType": "IMAGE/PNG", "data": "AA" } }] }]);
    let many = json!({ "maxOutputTokens": 20_000, "candidateCount": 3 });
    let images = with(limit.clone(), &json!({ "responseModalities": ["IMAGE"] }));
    for (path, more, price, written) in [
        (DRAW, json!({ "generationConfig": limit }), 1, 1_300),
        (DRAW, json!({ "generationConfig": images }), 1, 1_300),
        (DRAW, json!({ "generationConfig": limit, "contents": shown }), 1, 1_300),
        (DRAW, json!({ "generationConfig": limit, "serviceTier": "PRIORITY" }), 2, 1_300),
        // Nobody sees how much is drawn, so nothing of it is held for later.
        (DRAW_STREAM, json!({ "generationConfig": many }), 1, 60_000),
    ] {
        let run = server.post(path, &with(draw(), &more)).header("x-dry-run", "true");
        let quote = run.key(&key).expect(200).await.body;
        let prompt = quote["prompt_tokens_max"].as_i64().unwrap();
        let most = price * (prompt * 3 * DOLLAR / 10 + written * 30 * DOLLAR);
        assert_eq!(nanos(&quote["cost"]["most"]), most, "{path} {more}");
        assert_eq!(nanos(&quote["hold"]), most, "{path} {more}");
    }
    server.stop();
}

async fn an_image_answer_is_billed_as_images(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let data = json!({ "mimeType": "image/png", "data": "A".repeat(5_000) });
    let image = json!({ "inlineData": data });
    let sound = json!({ "inlineData": { "mimeType": "audio/L16", "data": "A".repeat(5_000) } });
    let text = json!({ "text": "Here is a cat." });
    let details = json!({ "candidatesTokensDetails": [
        { "modality": "TEXT", "tokenCount": 10 }, { "modality": "IMAGE", "tokenCount": 1_290 }] });
    let mut paid = 0;
    for (parts, usage, written, drew) in [
        (json!([image]), tokens(9, 1_290), 0, 1_290),
        // 14 bytes of text are three tokens.
        (json!([text, image]), tokens(9, 1_300), 3, 1_297),
        (json!([text, image]), with(tokens(9, 1_300), &details), 10, 1_290),
        (json!([text]), tokens(9, 1_300), 1_300, 0),
        (json!([sound]), tokens(9, 1_300), 1_300, 0),
    ] {
        upstream.script(Script::Answer(200, drawn(&parts, &usage).to_string()));
        ask(&server, &key, DRAW, &draw()).await;
        let count = |tokens: u64| i64::try_from(tokens).unwrap();
        let cost = 27 * DOLLAR / 10 + count(written) * 25 * DOLLAR / 10 + count(drew) * 30 * DOLLAR;
        let of = [(Dim::Input, 9), (Dim::Output, written), (Dim::OutputImage, drew)];
        is_billed(&database, &user, &of, Flags::NONE, cost).await;
        paid += cost;
    }
    // In a stream the image comes before the last chunk.
    let chunks = [
        json!({ "candidates": [{ "content": { "parts": [image] } }],
            "usageMetadata": { "promptTokenCount": 9, "totalTokenCount": 9 } }),
        drawn(&json!([]), &tokens(9, 1_290)),
    ];
    draw_stream(&server, &key, &chunks, &upstream).await;
    let cost = 27 * DOLLAR / 10 + 1_290 * 30 * DOLLAR;
    let of = [(Dim::Input, 9), (Dim::OutputImage, 1_290)];
    is_billed(&database, &user, &of, Flags::NONE, cost).await;
    assert_eq!(user.folded().await, RICH - paid - cost);
    server.stop();
    verify(&database);
}

async fn a_prompt_kept_for_an_hour_costs_an_hour(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let kept = |ttl: &str| {
        let cache = json!({ "type": "ephemeral", "ttl": ttl });
        json!([{ "role": "user", "content": [
            { "type": "text", "text": "Hello!", "cache_control": cache }] }])
    };
    // The usage of a chat does not tell how long what is written is kept.
    let usage = json!({ "prompt_tokens": 1_000, "completion_tokens": 5,
        "prompt_tokens_details": { "cache_write_tokens": 600 } });
    let answer = json!({ "choices": [{ "message": { "content": "hi" } }], "usage": usage });
    upstream.script(Script::Answer(200, answer.to_string()));
    let mut paid = 0;
    for (ttl, write, cost) in [
        ("5m", Dim::CacheWrite, 1_200 * DOLLAR + 2_250 * DOLLAR + 75 * DOLLAR),
        ("1h", Dim::CacheWrite1h, 1_200 * DOLLAR + 3_600 * DOLLAR + 75 * DOLLAR),
    ] {
        let body = json!({ "model": "chat-keeps", "messages": kept(ttl) });
        ask(&server, &key, "/v1/chat/completions", &body).await;
        let of = [(Dim::Input, 400), (write, 600), (Dim::Output, 5)];
        is_billed(&database, &user, &of, Flags::NONE, cost).await;
        paid += cost;
    }
    let calls = upstream.calls();
    // The price of five minutes is no price of an hour.
    for (path, model) in [("/v1/messages", "claude-fast"), ("/v1/chat/completions", "chat-plain")] {
        let body = json!({ "model": model, "max_tokens": 9, "messages": kept("1h") });
        let refused = server.post(path, &body).key(&key).expect(400).await;
        assert!(refused.text.contains("ttl must be 5m"), "{path}: {}", refused.text);
    }
    assert_eq!((upstream.calls(), user.folded().await), (calls, RICH - paid));
    server.stop();
    verify(&database);
}

#[expect(clippy::too_many_lines, reason = "a table of protocols")]
async fn searches_are_held_for_and_billed(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let search = json!({ "type": "web_search_call", "action": { "type": "search" } });
    let opened = json!({ "type": "web_search_call", "action": { "type": "open_page" } });
    let said = json!({ "type": "message", "content": [{ "type": "output_text", "text": "hi" }] });
    let responses = json!({ "model": "chat-keeps", "input": "Hello!", "max_output_tokens": 100,
        "tools": [{ "type": "web_search" }] });
    let of_responses = json!({ "input_tokens": 100, "output_tokens": 20 });
    let grounded = |queries: &Value, usage: &Value| {
        let mut answer = drawn(&json!([{ "text": "hi" }]), usage);
        answer["candidates"][0]["groundingMetadata"] = json!({ "webSearchQueries": queries });
        answer
    };
    let google = with(draw(), &json!({ "tools": [{ "googleSearch": {} }] }));
    let tool = json!({ "type": "web_search_20250305", "name": "web_search", "max_uses": 5 });
    let claude = with(messages(), &json!({ "tools": [tool] }));
    let of_claude = json!({ "input_tokens": 100, "output_tokens": 20,
        "server_tool_use": { "web_search_requests": 3 } });
    let of_chat = json!({ "prompt_tokens": 100, "completion_tokens": 20 });
    let mut paid = 0;
    for (path, body, answer, searches, tokens) in [
        (
            "/v1/responses",
            responses.clone(),
            json!({ "output": [search, opened, search, said], "usage": of_responses }),
            2,
            600 * DOLLAR,
        ),
        (
            DRAW,
            google.clone(),
            grounded(&json!(["cats", "dogs"]), &tokens(100, 20)),
            2,
            30 * DOLLAR + 50 * DOLLAR,
        ),
        (
            "/v1/messages",
            claude.clone(),
            json!({ "type": "message", "content": [{ "type": "text", "text": "hi" }],
                "usage": of_claude }),
            3,
            600 * DOLLAR,
        ),
        // A chat does not tell how often. It was asked for, so it was once.
        (
            "/v1/chat/completions",
            with(chat("chat-keeps"), &json!({ "web_search_options": {} })),
            json!({ "choices": [{ "message": { "content": "hi" } }], "usage": of_chat }),
            1,
            600 * DOLLAR,
        ),
        (
            "/v1/chat/completions",
            with(chat("chat-keeps"), &json!({ "search_parameters": { "mode": "auto" } })),
            json!({ "choices": [{ "message": { "content": "hi" } }],
                "usage": with(of_chat.clone(), &json!({ "num_sources_used": 7 })) }),
            7,
            600 * DOLLAR,
        ),
    ] {
        upstream.script(Script::Answer(200, answer.to_string()));
        ask(&server, &key, path, &body).await;
        let cost = tokens + searches * SEARCH;
        let of = [
            (Dim::Input, 100),
            (Dim::Output, 20),
            (Dim::WebSearch, u64::try_from(searches).unwrap()),
        ];
        is_billed(&database, &user, &of, Flags::NONE, cost).await;
        paid += cost;
    }
    // A stream shows each search when it is done, and all of them at its end.
    let event = |kind: &str, fields: Value| {
        let event = with(json!({ "type": kind }), &fields);
        Step::Send(format!("event: {kind}\ndata: {event}\n\n"))
    };
    let last = json!({ "output": [search, said], "usage": of_responses });
    upstream.script(Script::Events(vec![
        event("response.output_item.done", json!({ "item": search })),
        event("response.output_text.delta", json!({ "delta": "hi" })),
        event("response.completed", json!({ "response": last })),
    ]));
    let body = with(responses.clone(), &json!({ "stream": true }));
    let mut events = server.post("/v1/responses", &body).key(&key).stream().await;
    events.rest().await;
    let cost = 600 * DOLLAR + SEARCH;
    let of = [(Dim::Input, 100), (Dim::Output, 20), (Dim::WebSearch, 1)];
    is_billed(&database, &user, &of, Flags::NONE, cost).await;
    paid += cost;
    // Chunks repeat what was searched for.
    let chunks = [
        json!({ "candidates": [{ "content": { "parts": [{ "text": "h" }] },
            "groundingMetadata": { "webSearchQueries": ["cats"] } }] }),
        grounded(&json!(["cats", "dogs"]), &tokens(100, 20)),
    ];
    draw_stream(&server, &key, &chunks, &upstream).await;
    let cost = 80 * DOLLAR + 2 * SEARCH;
    let of = [(Dim::Input, 100), (Dim::Output, 20), (Dim::WebSearch, 2)];
    is_billed(&database, &user, &of, Flags::NONE, cost).await;
    assert_eq!(user.folded().await, RICH - paid - cost);
    // What the request allows is held for, and ten searches if it says nothing.
    let most = async |path: &str, body: &Value| {
        let run = server.post(path, body).header("x-dry-run", "true");
        nanos(&run.key(&key).expect(200).await.body["cost"]["most"])
    };
    let bound = with(responses.clone(), &json!({ "max_tool_calls": 4 }));
    let more = most("/v1/responses", &responses).await - most("/v1/responses", &bound).await;
    assert_eq!(more, 6 * SEARCH);
    // A window of 100,000 tokens that may be written to the cache, 100 tokens at 15, five searches.
    let of_window = 375_000 * DOLLAR + 1_500 * DOLLAR;
    assert_eq!(most("/v1/messages", &claude).await, of_window + 5 * SEARCH);
    server.stop();
    verify(&database);
}

async fn what_no_answer_tells_is_not_run(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = selling(&database, &upstream).await;
    let (user, key) = rich_user(&server, "someone").await;
    let search = json!({ "type": "web_search" });
    let responses =
        |model: &str, tools: &Value| json!({ "model": model, "input": "Hello!", "tools": tools });
    for (path, body, said) in [
        ("/v1/responses", responses("chat-plain", &json!([search])), "no price for searches"),
        (
            "/v1/responses",
            responses("chat-keeps", &json!([search, { "type": "code_interpreter" }])),
            "code_interpreter: this tool is not available",
        ),
        (
            "/v1/chat/completions",
            with(chat("chat-keeps"), &json!({ "plugins": [{ "id": "web" }] })),
            "plugins: this tool is not available",
        ),
        (
            DRAW,
            with(draw(), &json!({ "tools": [{ "googleMaps": {} }] })),
            "googleMaps: this tool is not available",
        ),
        (
            "/v1/messages",
            with(
                messages(),
                &json!({ "tools": [{ "type": "code_execution_20250825",
                "name": "code_execution" }] }),
            ),
            "code_execution_20250825: this tool is not available",
        ),
    ] {
        let refused = server.post(path, &body).key(&key).expect(400).await;
        assert!(refused.text.contains(said), "{path}: {} does not say {said}", refused.text);
    }
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
    server.stop();
}
