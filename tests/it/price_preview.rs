//! What a draft of prices would change.

use serde_json::{Value, json};

use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, nanos, on_both};

on_both!(a_draft_says_what_it_would_change,);

const LIST: &str = "/api/admin/price-lists/default";

fn answer(_: &Value) -> Script {
    let answer = json!({ "choices": [{ "message": { "content": "hi" } }],
        "usage": { "prompt_tokens": 1_000, "completion_tokens": 100 } });
    Script::Answer(200, answer.to_string())
}

fn card(model: &str, input: &str, output: &str) -> Value {
    json!({ "model": model, "input": input, "output": output })
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_draft_says_what_it_would_change(database: Database) {
    let upstream = Upstream::start(Script::Asked(answer)).await;
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(upstream.url());
    })
    .await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    user.pay("100.00").await;
    let key = user.key().await;
    let test = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    let model = |name: &str| json!({ "name": name, "max_input": 400_000, "max_output": 20_000, "targets": [{ "credential": "main" }] });
    let catalogue = json!({
        "providers": [{ "name": "p", "dialect": "openai", "url": format!("{}/v1", upstream.url()), "allow_private": true }],
        "credentials": [{ "name": "main", "provider": "p" }],
        "models": [model("big"), model("small"), model("old")],
    });
    let request = operator.put("/api/admin/catalogue", &catalogue);
    request.header("If-Match", "\"rev-0\"").expect(200).await;
    let versions = format!("{LIST}/versions");
    let cards = [card("big", "10", "50"), card("small", "1", "2"), card("old", "3", "3")];
    operator.post(&versions, &json!({ "cards": cards, "publish": true })).expect(201).await;
    let gold = json!({ "name": "gold", "parent": "default" });
    operator.post("/api/admin/price-lists", &gold).expect(201).await;
    let half = json!({ "multiplier": "0.5", "publish": true });
    operator.post("/api/admin/price-lists/gold/versions", &half).expect(201).await;
    server.advance(11);
    let call = async |model: &str, key: &crate::support::Key| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello!" }] });
        server.post("/v1/chat/completions", &body).key(key).expect(200).await;
    };
    for (model, key) in [("big", &key), ("big", &key), ("small", &key), ("old", &key)] {
        call(model, key).await;
    }
    // By the list that follows, of a test account, and by the list of the routes.
    let list = format!("/api/admin/users/{}/price-list", user.id);
    operator.put(&list, &json!({ "list": "gold" })).expect(200).await;
    call("big", &key).await;
    call("big", &test).await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    let cards = [card("big", "12", "45"), card("small", "1", "2"), card("new", "7", "7")];
    let drafted = operator.post(&versions, &json!({ "cards": cards })).expect(201).await.body;
    assert_eq!(drafted["draft"]["id"], "draft-1");
    let before = operator.get(&versions).expect(200).await.body;
    let path = format!("{LIST}/preview");
    let asked = json!({ "draft": "draft-1" });
    let preview = operator.post(&path, &asked).expect(200).await.body;
    assert_eq!(preview["before"]["id"], before["versions"][0]["id"]);
    let differences = preview["differences"].as_array().unwrap();
    let of = |model: &str, dimension: &str| {
        let found = differences.iter();
        let found = found.filter(|one| one["model"] == model && one["dimension"] == dimension);
        let found: Vec<[&Value; 3]> =
            found.map(|one| [&one["old"], &one["new"], &one["percent"]]).collect();
        assert_eq!(found.len(), 1, "{model} {dimension}: {preview}");
        found[0].map(|value| value.as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(of("big", "input"), ["10", "12", "+20.00"]);
    assert_eq!(of("big", "output"), ["50", "45", "-10.00"]);
    assert_eq!(of("new", "input"), ["none", "7", "none"]);
    assert_eq!(of("old", "input"), ["3", "none", "none"]);
    assert!(!differences.iter().any(|one| one["model"] == "small"), "{preview}");
    // 1,000 in and 100 out: 0.015 before and 0.0165 after for one call of `big`, and half of it by
    // `gold`; 0.0012 for `small`. `old` would not be sold.
    let is = |sum: &Value, calls: u64, not_sold: u64, cost: i64, after: i64| {
        assert_eq!((&sum["calls"], &sum["not_sold"]), (&json!(calls), &json!(not_sold)), "{sum}");
        assert_eq!((nanos(&sum["cost"]), nanos(&sum["preview"])), (cost, after), "{sum}");
        assert_eq!(nanos(&sum["change"]), after - cost, "{sum}");
    };
    let models = preview["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|one| one["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["big", "small", "old"]);
    is(&models[0], 3, 0, 37_500_000, 41_250_000);
    is(&models[1], 1, 0, 1_200_000, 1_200_000);
    is(&models[2], 1, 1, 0, 0);
    is(&preview["total"], 5, 1, 38_700_000, 42_450_000);
    assert_eq!(preview["total"]["percent"], "+9.69");
    assert_eq!((&preview["complete"], &preview["looked_through"]), (&json!(true), &json!(7)));
    // The last ones alone.
    let two = json!({ "draft": "draft-1", "calls": 1 });
    let preview = operator.post(&path, &two).expect(200).await.body;
    is(&preview["total"], 1, 0, 7_500_000, 8_250_000);
    assert_eq!(preview["complete"], false);
    // Nothing has changed, and the draft is still there.
    assert_eq!(operator.get(&versions).expect(200).await.body, before);
    for (status, wrong) in [
        (404, json!({ "draft": "draft-9" })),
        (404, json!({ "draft": "1" })),
        (400, json!({ "draft": "draft-1", "calls": 0 })),
        (400, json!({ "draft": "draft-1", "calls": 10_001 })),
        (400, json!({})),
    ] {
        operator.post(&path, &wrong).expect(status).await;
    }
    user.post(&path, &asked).expect(403).await;
    operator.post("/api/admin/price-lists/routes/preview", &asked).expect(409).await;
    operator.post("/api/admin/price-lists/none/preview", &asked).expect(404).await;
    // Published, it costs what it said.
    operator.put(&list, &json!({ "list": "default" })).expect(200).await;
    let publish = format!("{versions}/draft-1/publish");
    operator.post(&publish, &json!({})).expect(201).await;
    server.advance(11);
    call("big", &key).await;
    let last = user.ledger().await.pop().unwrap();
    assert_eq!(nanos(&last["amount"]), -16_500_000);
}
