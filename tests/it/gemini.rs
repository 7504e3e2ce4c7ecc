//! Gemini's routes: what they cost, how their streams end, and what a thief tries there. And the
//! models that a caller may ask for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use polysystems::config::OnDisconnect;
use serde_json::{Value, json};

use crate::streams::rich_user;
use crate::support::upstream::{Script, Step, Upstream};
use crate::support::{Database, Key, Request, Server, nanos, on_both};
use crate::thief::{RICH, leave_after, leave_at_once, served, settled};

on_both!(
    what_is_generated_costs_what_is_reported_and_passes_as_it_is,
    a_stream_tells_its_price_in_its_last_chunk_and_has_no_comments,
    each_field_that_costs_or_names_others_data_is_refused,
    the_token_limit_is_told_where_gemini_reads_it,
    who_leaves_thoughts_that_are_hidden_pays_for_them,
    who_leaves_what_is_shown_pays_for_prompt_and_words,
    a_report_of_nothing_is_paid_by_the_text,
    a_stream_of_geminis_ends_as_its_protocol_ends,
    counts_cost_nothing_and_embeddings_their_prompt,
    the_model_of_the_path_is_the_one_that_counts,
    geminis_clients_are_refused_in_their_words,
    models_and_greetings_are_answered,
);

/// Our own count of the prompt of [`hello`].
const COUNTED: i64 = 9;
const BASE: i64 = 2_000_000;
const TOKEN: i64 = 10_000;
const STREAM: &str = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse";
const WHOLE: &str = "/v1beta/models/gemini-x:generateContent";

fn hello() -> Value {
    json!({ "contents": [{ "role": "user", "parts": [{ "text": "Hello!" }] }] })
}

/// A call of this path, with these fields changed.
fn ask(server: &Server, key: &Key, path: &str, change: &Value) -> Request {
    let mut body = hello();
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post(path, &body).header("x-goog-api-key", &key.value)
}

fn limited(tokens: u64) -> Value {
    json!({ "generationConfig": { "maxOutputTokens": tokens } })
}

fn chunk(candidate: &Value, usage: &Value) -> Step {
    let chunk = json!({ "candidates": [candidate], "usageMetadata": usage,
        "modelVersion": "gemini-x", "responseId": "r-1" });
    Step::Send(format!("data: {chunk}\r\n\r\n"))
}

fn told(prompt: u64, written: u64) -> Value {
    json!({ "promptTokenCount": prompt, "candidatesTokenCount": written,
        "totalTokenCount": prompt + written })
}

fn word(usage: &Value) -> Step {
    let content = json!({ "role": "model", "parts": [{ "text": " word" }] });
    chunk(&json!({ "index": 0, "content": content }), usage)
}

fn last(usage: &Value) -> Step {
    let content = json!({ "role": "model", "parts": [{ "text": "" }] });
    chunk(&json!({ "index": 0, "content": content, "finishReason": "STOP" }), usage)
}

async fn what_is_generated_costs_what_is_reported_and_passes_as_it_is(database: Database) {
    let usage = json!({
        "promptTokenCount": 100, "cachedContentTokenCount": 64, "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 7, "thoughtsTokenCount": 30, "totalTokenCount": 142,
        "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 100 }],
    });
    let call = json!({ "functionCall": { "name": "f", "args": { "a": 1 } } });
    let answer = json!({ "candidates": [{ "content": { "role": "model", "parts": [call] },
        "finishReason": "STOP" }], "usageMetadata": usage, "modelVersion": "gemini-x" });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let text = "{\"contents\": [ {\"role\":\"user\", \"parts\":[{\"text\":\"H\\u0069\"}]} ],\
        \"generationConfig\":{\"temperature\":0.50,\"maxOutputTokens\":50},\
        \"tools\":[{\"functionDeclarations\":[{\"name\":\"f\",\"parameters\":\
        {\"properties\":{\"fileData\":{}}}}]}]}";
    let answered = server
        .post("/v1/models/google/gemini-x:free:generateContent", &json!(null))
        .body(text.to_owned())
        .header("x-goog-api-key", &key.value)
        .expect(200)
        .await;
    let paid: Value = serde_json::from_str(answered.header("x-polysystems-cost")).unwrap();
    let cost = BASE + (100 + 5 + 7 + 30) * TOKEN;
    assert_eq!((nanos(&paid), &answered.body), (cost, &answer));
    assert_eq!(upstream.last_body(), serde_json::from_str::<Value>(text).unwrap());
    let head = upstream.heads.lock().unwrap().pop().unwrap();
    let asked = "post /v1/models/google/gemini-x:free:generatecontent http/1.1";
    assert!(head.starts_with(asked), "{head}");
    assert!(!head.contains(&key.value.to_lowercase()) && !head.contains("x-goog"), "{head}");
    assert_eq!(user.folded().await, RICH - cost);
    // Anybody can invent a model: the records have the route.
    settled(&database, 1).await;
    let record = "SELECT route || ' ' || model FROM usage_record";
    let expected = "/v1/models/*:generateContent google/gemini-x:free";
    assert_eq!(database.query(record).await, expected);
}

async fn a_stream_tells_its_price_in_its_last_chunk_and_has_no_comments(database: Database) {
    let thoughts = json!({ "promptTokenCount": 12, "candidatesTokenCount": 2,
        "thoughtsTokenCount": 40, "totalTokenCount": 54 });
    let steps = vec![
        Step::Send(": keep alive\n\n".into()),
        word(&told(12, 1)),
        Step::Send(": keep alive\n\n".into()),
        word(&told(12, 2)),
        last(&thoughts),
    ];
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let asked = ask(&server, &key, STREAM, &limited(100));
    let text = asked.0.send().await.unwrap().text().await.unwrap();
    let frames: Vec<&str> = text.split_terminator("\n\n").map(str::trim).collect();
    let frames: Vec<&str> = frames.iter().flat_map(|frame| frame.split("\r\n\r\n")).collect();
    assert!(frames.iter().all(|frame| frame.starts_with("data: {")), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    let end: Value = serde_json::from_str(&frames.last().unwrap()[6..]).unwrap();
    let cost = BASE + 54 * TOKEN;
    assert_eq!(nanos(&end["usageMetadata"]["cost"]), cost, "{text}");
    assert_eq!(end["usageMetadata"]["thoughtsTokenCount"], 40);
    assert_eq!(end["candidates"][0]["finishReason"], "STOP");
    assert_eq!(nanos(&end["polysystems"]["balance"]), RICH - cost);
    assert_eq!(frames.len(), 3);
    // The usage of the chunks before it is the upstream's own.
    let first: Value = serde_json::from_str(&frames[0][6..]).unwrap();
    assert_eq!(first["usageMetadata"], told(12, 1));
    let head = upstream.heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with(&format!("post {} ", STREAM.to_lowercase())), "{head}");
    // Nobody asks for the usage: it comes by itself.
    assert_eq!(upstream.last_body().as_object().unwrap().len(), 2);
    assert_eq!(user.folded().await, RICH - cost);
}

async fn each_field_that_costs_or_names_others_data_is_refused(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let part = |part: Value| json!([{ "role": "user", "parts": [part] }]);
    let file = |uri: &str| part(json!({ "fileData": { "mimeType": "x/y", "fileUri": uri } }));
    let theirs = "https://generativelanguage.googleapis.com/v1beta/files/1";
    for (name, value, said) in [
        ("cachedContent", json!("cachedContents/1"), "cachedContent: item_reference"),
        ("cached_content", json!("cachedContents/1"), "cachedContent: item_reference"),
        ("continuationToken", json!("t"), "continuationToken: item_reference"),
        ("tools", json!([{ "googleSearch": {} }]), "tools: hosted_tools"),
        ("tools", json!([{ "google_search": {} }]), "tools: hosted_tools"),
        ("tools", json!([{ "codeExecution": {} }]), "tools: hosted_tools"),
        ("tools", json!([{ "urlContext": {} }]), "tools: hosted_tools"),
        ("tools", json!([{ "fileSearch": { "fileSearchStoreNames": ["s"] } }]), "tools: file_id"),
        ("serviceTier", json!("priority"), "serviceTier: service_tier"),
        ("contents", file(theirs), "contents: file_id"),
        ("contents", file("gs://bucket/x"), "contents: file_id"),
        ("contents", file("https://a.example/b.pdf"), "contents: file_url"),
        ("contents", part(json!({ "uuid": "u" })), "contents.parts.uuid: this field"),
        ("contents", json!("Hello!"), "contents: must be a list"),
        (
            "systemInstruction",
            json!({ "parts": [{ "fileData": {} }] }),
            "systemInstruction: file_id",
        ),
        ("generationConfig", json!({ "routingConfig": {} }), "generationConfig: other_models"),
        ("generationConfig", json!({ "maxOutputTokens": 0 }), "generationConfig.maxOutputTokens"),
        ("generationConfig", json!({ "MaxOutputTokens": 9 }), "must be written maxOutputTokens"),
        ("generation_config", json!({ "max_output_tokens": "9" }), "generationConfig.maxOutput"),
        ("model", json!("models/other"), "model: must be the model that is in the path"),
        ("max_tokens", json!(9), "max_tokens: this field is not passed on"),
    ] {
        for path in [WHOLE, STREAM, "/v1/models/m:countTokens"] {
            let refused = ask(&server, &key, path, &json!({ name: value })).expect(400).await;
            assert_eq!(refused.body["error"]["status"], "INVALID_ARGUMENT");
            let message = refused.body["error"]["message"].as_str().unwrap();
            assert!(message.contains(said), "{path}: {message:?} does not say {said:?}");
        }
    }
    for (path, said) in [
        ("/v1beta/models/m:streamGenerateContent", "streamGenerateContent?alt=sse"),
        ("/v1beta/models/m:streamGenerateContent?alt=json", "alt=sse"),
        ("/v1beta/models/m:streamGenerateContent?alt=sse&alt=proto", "alt=sse"),
        ("/v1beta/models/m:streamGenerateContent?alt=sse&fields=x", "fields: this part of the"),
        ("/v1beta/models/m:generateContent?alt=sse", "alt: must be json"),
        ("/v1beta/models/m:countTokens?alt=media", "alt: must be json"),
        ("/v1beta/models/m:generateContent?%24alt=sse", "this part of the query"),
    ] {
        let refused = ask(&server, &key, path, &json!({})).expect(400).await;
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{path}: {message:?} does not say {said:?}");
    }
    let path = format!("{WHOLE}?key={}", key.value);
    let refused = server.post(&path, &hello()).expect(401).await;
    assert_eq!(refused.body["error"]["status"], "UNAUTHENTICATED");
    assert!(refused.text.contains("not accepted in the query"), "{}", refused.text);
    assert_eq!((upstream.calls(), user.folded().await), (0, RICH));
}

async fn the_token_limit_is_told_where_gemini_reads_it(database: Database) {
    let answer = json!({ "candidates": [{ "content": { "parts": [{ "text": "x" }] } }],
        "usageMetadata": told(9, 1) });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let user = server.user("someone").await;
    user.pay("0.0200").await;
    let key = user.key().await;
    for (change, place) in [
        (json!({}), "/generationConfig/maxOutputTokens"),
        (json!({ "generationConfig": { "topK": 4 } }), "/generationConfig/maxOutputTokens"),
        (limited(9_000), "/generationConfig/maxOutputTokens"),
        (
            json!({ "generation_config": { "max_output_tokens": 9_000 } }),
            "/generation_config/max_output_tokens",
        ),
    ] {
        let answer = ask(&server, &key, WHOLE, &change).expect(200).await;
        let body = upstream.last_body();
        let limit = body.pointer(place).unwrap_or_else(|| panic!("{change}: {body}"));
        assert_eq!(
            &json!(answer.header("x-polysystems-max-tokens").parse::<u64>().unwrap()),
            limit
        );
        assert!(limit.as_u64().unwrap() < 4_096, "{limit}");
        assert_eq!(body["contents"], hello()["contents"]);
    }
    // A limit that is covered stays the customer's.
    ask(&server, &key, WHOLE, &limited(10)).expect(200).await;
    assert_eq!(upstream.last_body()["generationConfig"], json!({ "maxOutputTokens": 10 }));
    // Thoughts are a part of the limit, so a budget of theirs makes the usual limit larger.
    let thinking = |budget: u64| json!({ "thinkingConfig": { "thinkingBudget": budget } });
    let change = json!({ "generationConfig": thinking(5_000) });
    let (rich, rich_key) = rich_user(&server, "rich").await;
    ask(&server, &rich_key, WHOLE, &change).expect(200).await;
    assert_eq!(upstream.last_body()["generationConfig"]["maxOutputTokens"], 4_096 + 5_001);
    assert_eq!(rich.folded().await, RICH - BASE - 10 * TOKEN);
    // A budget of thoughts that is not covered would leave nothing for the answer.
    let config = json!({ "maxOutputTokens": 9_000, "thinkingConfig": { "thinkingBudget": 4_000 } });
    let change = json!({ "generationConfig": config });
    let refused = ask(&server, &key, WHOLE, &change).expect(402).await;
    assert_eq!(refused.body["error"]["status"], "FAILED_PRECONDITION");
}

async fn who_leaves_thoughts_that_are_hidden_pays_for_them(database: Database) {
    let thought = |tokens: u64| {
        json!({ "promptTokenCount": 12, "candidatesTokenCount": 1, "thoughtsTokenCount": tokens,
            "totalTokenCount": 13 + tokens })
    };
    let steps = vec![
        word(&thought(10)),
        Step::Pause(Duration::from_secs(1)),
        word(&thought(500)),
        last(&thought(899)),
    ];
    let late = [vec![Step::Pause(Duration::from_secs(1))], steps.clone()].concat();
    let upstream = Upstream::start(Script::Events(steps.clone())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    let (mut left, mut calls) = (RICH, 0);
    for thinking in [json!({ "thinkingBudget": -1 }), json!({ "thinkingLevel": "HIGH" })] {
        let config = json!({ "maxOutputTokens": 1_000, "thinkingConfig": thinking });
        let change = json!({ "generationConfig": config });
        upstream.script(Script::Events(steps.clone()));
        let stream = ask(&server, &key, STREAM, &change).stream().await;
        // All that it can cost: the prompt, twice as much as was counted, and the limit.
        assert_eq!(stream.header("x-polysystems-hold"), "0.01218");
        leave_after(stream, 1).await;
        calls += 1;
        assert_eq!(settled(&database, calls).await, "5/1");
        left -= BASE + (12 + 900) * TOKEN;
        assert_eq!(user.folded().await, left);
        upstream.script(Script::Events(late.clone()));
        leave_at_once(&upstream, ask(&server, &key, STREAM, &change)).await;
        calls += 1;
        settled(&database, calls).await;
        left -= BASE + (12 + 900) * TOKEN;
        assert_eq!(user.folded().await, left);
    }
    assert_eq!(upstream.hung_up.load(Ordering::SeqCst), 0);
}

async fn who_leaves_what_is_shown_pays_for_prompt_and_words(database: Database) {
    for (name, prompt, expected) in [("more", 500, 500), ("less", 3, COUNTED)] {
        let call = json!({ "functionCall": { "name": " word", "args": {} } });
        let content =
            json!({ "role": "model", "parts": [call, { "text": " word", "thought": true }] });
        // What is reported on the way is behind what was delivered.
        let mut steps = vec![chunk(&json!({ "index": 0, "content": content }), &told(prompt, 0))];
        steps.extend(vec![word(&told(prompt, 0)); 3]);
        steps.push(Step::Stall);
        let upstream = Upstream::start(Script::Events(steps)).await;
        let server = served(&database, &upstream, OnDisconnect::Auto).await;
        let (user, key) = rich_user(&server, name).await;
        let before = database.query("SELECT CAST(COUNT(*) AS TEXT) FROM usage_record").await;
        leave_after(ask(&server, &key, STREAM, &limited(1_000)).stream().await, 4).await;
        let calls = before.parse::<usize>().unwrap() + 1;
        assert_eq!(settled(&database, calls).await, "4/2");
        // The name and the arguments of the call, a thought and three words.
        assert_eq!(user.folded().await, RICH - BASE - (expected + 6) * TOKEN, "{name}");
        server.stop();
    }
}

async fn a_report_of_nothing_is_paid_by_the_text(database: Database) {
    let zero = json!({ "promptTokenCount": 0 });
    let mut steps = vec![word(&zero); 50];
    steps.push(last(&zero));
    let upstream = Upstream::start(Script::Events(steps)).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "someone").await;
    ask(&server, &key, STREAM, &limited(1_000)).stream().await.rest().await;
    let cost = BASE + (COUNTED + 50) * TOKEN;
    assert_eq!(settled(&database, 1).await, "1/2");
    assert_eq!(user.folded().await, RICH - cost);
    let content = json!({ "parts": [{ "text": " word".repeat(50) }] });
    for usage in [zero, json!(null), json!({ "promptTokenCount": 3, "thoughtsTokenCount": -7 })] {
        let answer = json!({ "candidates": [{ "content": content }], "usageMetadata": usage });
        upstream.script(Script::Answer(200, answer.to_string()));
        let answer = ask(&server, &key, WHOLE, &limited(1_000)).expect(200).await;
        assert_eq!(answer.header("x-polysystems-cost"), "0.00259");
    }
    // A prompt that is blocked has no text, and costs what is reported.
    let blocked = json!({ "promptFeedback": { "blockReason": "SAFETY" },
        "usageMetadata": { "promptTokenCount": 20, "totalTokenCount": 20 } });
    upstream.script(Script::Events(vec![Step::Send(format!("data: {blocked}\n\n"))]));
    let events = ask(&server, &key, STREAM, &limited(1_000)).stream().await.rest().await;
    assert_eq!(events.len(), 1);
    assert_eq!(nanos(&events[0]["usageMetadata"]["cost"]), BASE + 20 * TOKEN);
    assert_eq!(events[0]["promptFeedback"]["blockReason"], "SAFETY");
}

async fn a_stream_of_geminis_ends_as_its_protocol_ends(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.holds.lower_token_limit = false).await;
    let user = server.user("someone").await;
    user.pay("0.0300").await;
    let key = user.key().await;
    let path = "/v1beta/models/sandbox-long:streamGenerateContent?alt=sse";
    let events = ask(&server, &key, path, &limited(4_096)).stream().await.rest().await;
    let end = events.last().unwrap();
    assert_eq!(end["candidates"][0]["finishReason"], "MAX_TOKENS");
    assert_eq!(end["polysystems"]["ended_by"], "insufficient_credits");
    let cost = nanos(&end["usageMetadata"]["cost"]);
    assert!((25_000_000..=30_000_000).contains(&cost), "{cost}");
    assert_eq!(user.folded().await, 30_000_000 - cost);
    let path = "/v1beta/models/sandbox-cut:streamGenerateContent?alt=sse";
    user.pay("1.0000").await;
    let events = ask(&server, &key, path, &limited(4_096)).stream().await.rest().await;
    let end = events.last().unwrap();
    assert_eq!(
        (&end["error"]["code"], &end["error"]["status"]),
        (&json!(502), &json!("UNAVAILABLE"))
    );
    server.stop();
    let error = json!({ "code": 503, "message": "Overloaded", "status": "UNAVAILABLE",
        "details": ["the answer"] });
    let failed = json!({ "error": error, "note": "the answer" });
    let failed = Step::Send(format!("data: {failed}\n\n"));
    let upstream = Upstream::start(Script::Events(vec![word(&told(9, 1)), failed])).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let (user, key) = rich_user(&server, "other").await;
    let asked = ask(&server, &key, STREAM, &limited(100));
    let text = asked.0.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\"Overloaded\"") && !text.contains("the answer"), "{text}");
    assert_eq!(user.folded().await, RICH - BASE - (COUNTED + 1) * TOKEN);
    // Before anything was delivered a failure that reports nothing costs nothing.
    let failed = Step::Send("data: {\"error\":{\"code\":500,\"message\":\"m\"}}\n\n".into());
    upstream.script(Script::Events(vec![failed]));
    ask(&server, &key, STREAM, &limited(100)).stream().await.rest().await;
    assert_eq!(user.folded().await, RICH - BASE - (COUNTED + 1) * TOKEN);
    // It ends without having said that it ends.
    upstream.script(Script::Events(vec![word(&told(9, 1))]));
    let events = ask(&server, &key, STREAM, &limited(100)).stream().await.rest().await;
    assert_eq!(events.last().unwrap()["error"]["code"], 502);
    // It goes on beyond the limit that it was told.
    let mut steps = vec![word(&told(9, 1)); 200];
    steps.push(Step::Stall);
    upstream.script(Script::Events(steps));
    let events = ask(&server, &key, STREAM, &limited(20)).stream().await.rest().await;
    let end = events.last().unwrap();
    assert_eq!(end["candidates"][0]["finishReason"], "MAX_TOKENS");
    assert_eq!(end["polysystems"]["ended_by"], "token_limit");
}

async fn counts_cost_nothing_and_embeddings_their_prompt(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let poor = user.key().await;
    let path = "/v1beta/models/gemini-x:countTokens";
    let answer = ask(&server, &poor, path, &json!({})).expect(200).await;
    assert_eq!(answer.body, json!({ "totalTokens": COUNTED }));
    assert_eq!(answer.header("x-polysystems-cost"), "0.0000");
    assert_eq!(user.ledger().await.len(), 0);
    let whole = json!({ "generateContentRequest": { "model": "models/gemini-x",
        "contents": hello()["contents"] } });
    let counted = server.post(path, &whole).header("x-goog-api-key", &poor.value);
    assert_eq!(counted.expect(200).await.body["totalTokens"], COUNTED);
    let (user, key) = rich_user(&server, "other").await;
    let one = json!({ "content": { "parts": [{ "text": "Hello!" }] }, "outputDimensionality": 16 });
    let many = json!({ "requests": [one, one, one] });
    let mut left = RICH;
    for (method, body, prompt, place) in [
        ("embedContent", &one, 5, "/embedding/values"),
        ("batchEmbedContents", &many, 15, "/embeddings/2/values"),
    ] {
        let path = format!("/v1beta/models/gemini-embedding:{method}");
        let answer = server.post(&path, body).key(&key).expect(200).await;
        assert_eq!(answer.body.pointer(place).unwrap().as_array().unwrap().len(), 16);
        left -= 200_000 + prompt * 100;
        assert_eq!(user.folded().await, left, "{method}");
    }
}

async fn the_model_of_the_path_is_the_one_that_counts(database: Database) {
    let answer = json!({ "candidates": [{ "content": { "parts": [{ "text": "x" }] } }],
        "usageMetadata": told(9, 1), "totalTokens": 9 });
    let upstream = Upstream::start(Script::Answer(200, answer.to_string())).await;
    let server = served(&database, &upstream, OnDisconnect::Auto).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key_of(&json!({ "name": "a", "allowed_models": ["gemini-x", "own/*"] })).await;
    for (model, is_permitted) in [
        ("gemini-x", true),
        ("own/any:free", true),
        ("gemini-y", false),
        ("gemini-x:generateContent", false),
        ("own", false),
        ("gemini%2Dx", true),
    ] {
        for method in ["generateContent", "countTokens", "streamGenerateContent?alt=sse"] {
            let path = format!("/v1beta/models/{model}:{method}");
            let asked = ask(&server, &key, &path, &json!({})).send().await;
            let expected = if is_permitted { 200 } else { 403 };
            assert_eq!(asked.status.as_u16(), expected, "{path}: {}", asked.text);
        }
    }
    // A repeat is for keys that may use the model, too.
    let path = "/v1beta/models/gemini-y:generateContent";
    let rich = user.key().await;
    let once = |key: &Key, path: &str| {
        ask(&server, key, path, &json!({})).header("Idempotency-Key", "once")
    };
    let first = once(&rich, path).expect(200).await;
    let calls = upstream.calls();
    once(&key, path).expect(403).await;
    let again = once(&rich, path).expect(200).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
    // Another model is another request.
    once(&rich, WHOLE).expect(422).await;
    assert_eq!(upstream.calls(), calls);
}

async fn geminis_clients_are_refused_in_their_words(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.server.body_max_bytes = 1_000;
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "unlimited".into();
        settings.rate_limit.tiers.get_mut("free").unwrap().second = std::num::NonZeroU32::new(1);
    })
    .await;
    let user = server.user("someone").await;
    let poor = user.key().await;
    let rich = server.user("rich").await;
    rich.pay("1.00").await;
    let key = rich.key().await;
    let elsewhere = rich.key_of(&json!({ "name": "a", "scopes": ["hub"] })).await;
    let limited = server.user("limited").await;
    database.execute("UPDATE users SET tier = 'free' WHERE username = 'limited'").await.unwrap();
    let limited = limited.key().await;
    for path in [WHOLE, "/v1/models/gemini-x:streamGenerateContent?alt=sse"] {
        let ask = || server.post(path, &hello());
        let large = json!({ "contents": "a".repeat(2_000) }).to_string();
        for (request, status, word) in [
            (ask(), 401, "UNAUTHENTICATED"),
            (ask().header("x-goog-api-key", "AIzaSomething"), 401, "UNAUTHENTICATED"),
            (ask().header("x-goog-api-key", &poor.value), 402, "FAILED_PRECONDITION"),
            (ask().header("x-goog-api-key", &elsewhere.value), 403, "PERMISSION_DENIED"),
            (ask().body("[1]").key(&key), 400, "INVALID_ARGUMENT"),
            (ask().body(large).key(&key), 413, "INVALID_ARGUMENT"),
        ] {
            let refused = request.expect(status).await;
            let error = &refused.body["error"];
            assert_eq!((&error["code"], &error["status"]), (&json!(status), &json!(word)));
            assert_eq!(error["message"], refused.body["message"], "{}", refused.text);
        }
        let refused = loop {
            let answer = ask().key(&limited).send().await;
            if answer.status == 429 {
                break answer;
            }
        };
        assert_eq!(refused.body["error"]["status"], "RESOURCE_EXHAUSTED");
        assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    let refused = server.post("/v1beta/models/m:predict", &hello()).key(&key).expect(405).await;
    assert_eq!(refused.body["error"]["message"], "This route supports GET");
    // What is below the models is for their names. A method is for POST alone.
    for (path, methods) in [
        (WHOLE, ["GET", "PUT", "PATCH", "DELETE"].as_slice()),
        ("/v1/models/m:countTokens", &["GET", "PUT", "PATCH", "DELETE"]),
        ("/v1beta/models/a/b:embedContent", &["GET"]),
        ("/v1beta/models/m", &["POST", "PUT", "DELETE"]),
        ("/v1beta/models/m:predict", &["POST", "PUT"]),
    ] {
        for method in methods {
            let asked = server.request(method.parse().unwrap(), path).key(&key);
            let refused = asked.expect(405).await;
            let allowed = if path.contains(":p") || path.ends_with("/m") { "GET" } else { "POST" };
            assert_eq!(refused.header("allow"), allowed, "{method} {path}");
        }
    }
    for path in ["/v1beta/nothing", "/v1beta/models/a%2fb:countTokens"] {
        let refused = server.post(path, &hello()).key(&key).expect(404).await;
        assert_eq!(refused.body["error"]["status"], "NOT_FOUND", "{path}");
    }
}

async fn models_and_greetings_are_answered(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let elsewhere = user.key_of(&json!({ "name": "a", "scopes": ["hub"] })).await;
    // Nothing is sold by name, so the upstream answers.
    let models = server.get("/v1/models").key(&key).expect(200).await;
    assert_eq!(models.body["data"][0]["id"], "polysystems-sandbox");
    let models = server.get("/v1beta/models").header("x-goog-api-key", &key.value);
    let models = models.expect(200).await;
    assert_eq!(models.body["models"][0]["name"], "models/polysystems-sandbox");
    let one = server.get("/v1beta/models/polysystems-sandbox").key(&key).expect(200).await;
    assert_eq!(one.body["supportedGenerationMethods"][0], "generateContent");
    for asked in [
        user.get("/api/models"),
        server.get("/api/models").key(&key),
        server.get("/api/models").bearer(&key.value),
    ] {
        assert_eq!(asked.expect(200).await.body, json!({ "currency": "USD", "models": [] }));
    }
    let missing = user.get("/api/models/gpt%2Fx").expect(404).await;
    assert_eq!(missing.body["error"], "Model not found");
    server.get("/api/models").expect(401).await;
    server.get("/api/models").bearer("nonsense").expect(401).await;
    server.get("/api/models").header("X-API-Key", "nonsense").expect(401).await;
    server.get("/api/models").key(&elsewhere).expect(403).await;
    for path in ["/", "/api/hello"] {
        server.get(path).expect(200).await;
        let head = server.request(reqwest::Method::HEAD, path).expect(200).await;
        assert_eq!(head.text, "");
    }
    server.post("/", &json!({})).expect(405).await;
}
