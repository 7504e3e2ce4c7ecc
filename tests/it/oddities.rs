//! Odd usage is kept, counted and listed, and changes no bill. And which service tier is billed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::process::verify;
use crate::support::upstream::{Script, Upstream, usage_and_done, word};
use crate::support::{Database, Key, Server, User, nanos, on_both};

on_both!(
    odd_usage_is_kept_with_what_was_billed,
    the_tier_that_served_is_billed_within_what_was_asked_for,
);

const METRICS: &str = "metrics-0123456789abcdef";
const ODDITIES: &str = "/api/admin/usage/oddities";
/// Nano-dollars of a token at one dollar for a million.
const DOLLAR: i64 = 1_000;

/// A server that sells `plain`, `served` and `requested`, each at its own deployment.
async fn selling<'s>(server: &'s Server, database: &Database, url: &str) -> (User<'s>, Key) {
    let operator = server.operator(database, "operator").await;
    let model = |name: &str| json!({ "name": name, "max_input": 4_000, "max_output": 2_000, "targets": [{ "deployment": name }] });
    let deployment = |name: &str, tier: &str| json!({ "name": name, "credential": "key", "upstream_model": "theirs", "service_tier": tier });
    let document = json!({
        "providers": [{ "name": "near", "dialect": "openai", "url": format!("{url}/v1"), "allow_private": true }],
        "credentials": [{ "name": "key", "provider": "near" }],
        "deployments": [deployment("plain", "served"), deployment("served", "served"),
            deployment("requested", "requested")],
        "models": [model("plain"), model("served"), model("requested")],
    });
    let put = operator.put("/api/admin/catalogue", &document).header("If-Match", "\"rev-0\"");
    put.expect(200).await;
    let row = |service: &str, input: &str, output: &str| json!({ "service": service, "input": input, "output": output, "cache_read": "0.5" });
    let rows = [row("standard", "2", "8"), row("flex", "1", "4"), row("priority", "4", "16")];
    let card = |name: &str| json!({ "model": name, "rows": rows });
    let cards =
        json!({ "publish": true, "cards": [card("plain"), card("served"), card("requested")] });
    operator.post("/api/admin/price-lists/default/versions", &cards).expect(201).await;
    server.advance(11);
    let user = server.user("someone").await;
    user.pay("100.00").await;
    let key = user.key().await;
    (operator, key)
}

async fn start(database: &Database, upstream: &Upstream) -> Server {
    let url = upstream.url();
    Server::start_with(database, |settings| {
        settings.upstreams.v1.url = Some(url);
        settings.holds.visible_models = Vec::new();
        settings.server.metrics_token = serde_json::from_value(json!(METRICS)).unwrap();
    })
    .await
}

fn answer(usage: &Value) -> Script {
    let body = json!({ "choices": [{ "message": { "content": "hi" } }], "usage": usage });
    Script::Answer(200, body.to_string())
}

/// What is listed, once there are so many.
async fn listed(operator: &User<'_>, query: &str, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let page = operator.get(&format!("{ODDITIES}?{query}")).expect(200).await.body;
        let rows = page["oddities"].as_array().unwrap().clone();
        if rows.len() >= count {
            return rows;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{page}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[expect(clippy::too_many_lines, reason = "the table of what can be odd is one table")]
async fn odd_usage_is_kept_with_what_was_billed(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = start(&database, &upstream).await;
    let (operator, key) = selling(&server, &database, &upstream.url()).await;
    let hello = json!([{ "role": "user", "content": "Hello!" }]);
    let body = json!({ "model": "plain", "max_tokens": 100, "messages": hello });
    let usage = |more: Value| {
        let mut usage = json!({ "prompt_tokens": 9, "completion_tokens": 3 });
        usage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        usage
    };
    let plain = 9 * 2 * DOLLAR + 3 * 8 * DOLLAR;
    let cases = [
        (json!({}), None, json!({}), plain),
        (
            json!({ "prompt_tokens_details": { "cached_tokens": 20 } }),
            Some("cache_above_prompt"),
            json!({ "cache_read": 9, "output": 3 }),
            9 * DOLLAR / 2 + 24 * DOLLAR,
        ),
        (
            json!({ "completion_tokens_details": { "reasoning_tokens": 7 } }),
            Some("thoughts_above_completion"),
            json!({ "input": 9, "reasoning": 3 }),
            plain,
        ),
        (
            json!({ "total_tokens": 5 }),
            Some("total_differs"),
            json!({ "input": 9, "output": 3 }),
            plain,
        ),
        (
            json!({ "prompt_tokens_details": { "cached_tokens": -7 } }),
            Some("impossible_number"),
            json!({ "input": 9, "output": 3 }),
            plain,
        ),
        (
            json!({ "prompt_tokens": 900_000 }),
            Some("more_than_possible"),
            json!({ "input": 4_000, "output": 3 }),
            4_000 * 2 * DOLLAR + 24 * DOLLAR,
        ),
        (
            json!({ "server_tool_use": { "web_search_requests": 2 } }),
            Some("unpriced"),
            json!({ "input": 9, "output": 3 }),
            plain,
        ),
    ];
    let mut expected = Vec::new();
    for (more, kind, billed, cost) in cases {
        let usage = usage(more);
        upstream.script(answer(&usage));
        let answered = server.post("/v1/chat/completions", &body).key(&key).expect(200).await;
        let taken = nanos(&serde_json::from_str(answered.header("x-polysystems-cost")).unwrap());
        assert_eq!(taken, cost, "{usage}");
        if let Some(kind) = kind {
            let mut billed = billed;
            billed["request"] = json!(1);
            expected.push((
                answered.header("x-polysystems-charge").to_owned(),
                kind,
                usage,
                billed,
            ));
        }
    }
    let rows = listed(&operator, "", expected.len()).await;
    assert_eq!(rows.len(), expected.len());
    for (row, (charge, kind, usage, billed)) in rows.iter().rev().zip(&expected) {
        assert_eq!((&row["charge"], &row["kinds"]), (&json!(charge), &json!([kind])));
        assert_eq!((&row["reported"], &row["billed"]), (usage, billed));
        let named = (&row["deployment"], &row["provider"], &row["model"]);
        assert_eq!(named, (&json!("plain"), &json!("near"), &json!("plain")));
    }
    // Of a stream, what was merged.
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 3,
        "prompt_tokens_details": { "cached_tokens": 20 } });
    upstream.script(Script::Events(vec![word("hi"), usage_and_done(&usage)]));
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let mut events = server.post("/v1/chat/completions", &streamed).key(&key).stream().await;
    events.rest().await;
    let rows = listed(&operator, "kind=cache_above_prompt", 2).await;
    assert_eq!(rows[0]["reported"], json!({ "input": 9, "output": 3, "cache_read": 20 }));
    for (query, count) in [
        ("kind=unpriced&provider=near", 1),
        ("deployment=served", 0),
        ("provider=far", 0),
        ("to=2024-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(listed(&operator, query, count).await.len(), count, "{query}");
    }
    let page = operator.get(&format!("{ODDITIES}?limit=2")).expect(200).await.body;
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(listed(&operator, &format!("cursor={cursor}"), 5).await.len(), 5);
    operator.get(&format!("{ODDITIES}?kind=strange")).expect(400).await;
    let metrics = server.get("/metrics").bearer(METRICS).expect(200).await.text;
    for line in [
        "polysystems_usage_oddities_total{provider=\"near\",kind=\"cache_above_prompt\"} 2",
        "polysystems_usage_oddities_total{provider=\"near\",kind=\"unpriced\"} 1",
        "polysystems_usage_oddities_lost_total 0",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    server.stop();
    verify(&database);
}

async fn the_tier_that_served_is_billed_within_what_was_asked_for(database: Database) {
    let upstream = Upstream::start(Script::Silent).await;
    let server = start(&database, &upstream).await;
    let (_, key) = selling(&server, &database, &upstream.url()).await;
    let (standard, flex, priority) = (2_000 + 800, 1_000 + 400, 4_000 + 1_600);
    for (model, asked, served, thousandths) in [
        // What the provider says has served, if the call asked for it or it is the usual one.
        ("served", Some("flex"), Some("flex"), flex),
        ("served", Some("flex"), Some("default"), standard),
        ("served", Some("flex"), None, flex),
        ("served", Some("priority"), Some("default"), standard),
        // Never one that the call did not ask for: it is dearer than what was held.
        ("served", None, Some("priority"), standard),
        ("served", Some("flex"), Some("priority"), flex),
        ("served", Some("auto"), Some("priority"), priority),
        // What was asked for, whatever the provider says.
        ("requested", Some("flex"), Some("default"), flex),
        ("requested", Some("priority"), Some("default"), priority),
        ("requested", None, Some("flex"), standard),
        ("requested", Some("auto"), Some("priority"), standard),
    ] {
        let usage = json!({ "prompt_tokens": 1_000, "completion_tokens": 100 });
        let mut told = json!({ "choices": [{ "message": { "content": "hi" } }], "usage": usage });
        if let Some(served) = served {
            told["service_tier"] = json!(served);
        }
        upstream.script(Script::Answer(200, told.to_string()));
        let mut body = json!({ "model": model, "max_tokens": 1_000,
            "messages": [{ "role": "user", "content": "Hello!" }] });
        if let Some(asked) = asked {
            body["service_tier"] = json!(asked);
        }
        let answered = server.post("/v1/chat/completions", &body).key(&key).expect(200).await;
        let taken = nanos(&serde_json::from_str(answered.header("x-polysystems-cost")).unwrap());
        assert_eq!(taken, thousandths * DOLLAR, "{model} {asked:?} {served:?}");
    }
    server.stop();
    verify(&database);
}
