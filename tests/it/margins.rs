//! What calls cost us, what is left of what they bring, and prices below their cost.
#![expect(clippy::print_stdout, reason = "a seed that failed is run again")]

use polysystems::config::Settings;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::support::process::{command, finished, verify};
use crate::support::upstream::{Script, Upstream};
use crate::support::{Answer, Database, Key, NOON, Server, User, nanos, on_both};

on_both!(
    margins_are_the_ledgers_entries_less_what_the_calls_cost,
    what_is_sold_below_its_cost_is_named_and_refused,
    the_command_line_shows_margins,
);

const LISTS: &str = "/api/admin/price-lists";
const CATALOGUE: &str = "/api/admin/catalogue";
/// What customers pay for a million tokens, in nano-dollars.
const SOLD: [i64; 3] = [3_100_000_007, 15_700_000_003, 310_000_001];

/// Dollars of so many nano-dollars.
fn dollars(nanos: i64) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.abs());
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// An instant so many seconds after noon.
fn at(seconds: i64) -> String {
    domain::Timestamp::from_micros(NOON + seconds * 1_000_000).to_rfc3339_micros()
}

fn card(model: &str, [input, output, read]: [i64; 3]) -> Value {
    json!({ "model": model, "input": dollars(input), "output": dollars(output), "cache_read": dollars(read) })
}

/// Does what the request says.
fn obey(body: &Value) -> Script {
    let Some(plan) = body.get("metadata") else {
        // A fixed price.
        let status = if body["fails"] == true { 500 } else { 200 };
        return Script::Answer(status, "{}".to_owned());
    };
    if body["model"] == plan["fails"] {
        return Script::Answer(503, "{}".to_owned());
    }
    let answer = json!({ "choices": [{ "message": { "content": "hi" } }], "usage": {
        "prompt_tokens": plan["input"], "completion_tokens": plan["output"],
        "prompt_tokens_details": { "cached_tokens": plan["read"] } } });
    Script::Answer(200, answer.to_string())
}

fn settings(url: String) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.upstreams.hub.url = Some(url.clone());
        settings.upstreams.v1.url = Some(url);
        settings.catalogue.shows_deployment = true;
    }
}

/// A catalogue of two models with two deployments each, at providers `near` and `far`.
fn catalogue(url: &str, far_cost: Option<&str>) -> Value {
    let deployment = |name: &str, provider: &str, upstream_model: &str| json!({ "name": name, "credential": format!("key-{provider}"), "upstream_model": upstream_model });
    let model = |name: &str, first: &str, second: &str| {
        json!({ "name": name, "max_input": 400_000, "max_output": 20_000, "targets": [
            { "deployment": first, "weight": 3 }, { "deployment": second } ] })
    };
    let mut special = deployment("far-two", "far", "two-of-far");
    special["cost"] = json!("far-special");
    let mut document = json!({
        "providers": [
            { "name": "near", "dialect": "openai", "url": format!("{url}/v1"), "allow_private": true,
                "cost": "near-cost" },
            { "name": "far", "dialect": "openai", "url": format!("{url}/v1"), "allow_private": true },
        ],
        "credentials": [
            { "name": "key-near", "provider": "near" }, { "name": "key-far", "provider": "far" },
        ],
        "deployments": [
            deployment("near-one", "near", "one-of-near"), deployment("far-one", "far", "one-of-far"),
            deployment("near-two", "near", "two/Of-Near"), special,
        ],
        "models": [model("one", "near-one", "far-one"), model("two", "near-two", "far-two")],
        "wildcards": [],
    });
    if let Some(list) = far_cost {
        document["providers"][1]["cost"] = json!(list);
    }
    document
}

async fn put(operator: &User<'_>, seen: u64, document: &Value) {
    let request = operator.put(CATALOGUE, document);
    request.header("If-Match", &format!("\"rev-{seen}\"")).expect(200).await;
}

async fn publish(operator: &User<'_>, list: &str, cards: Vec<Value>) -> Answer {
    let body = json!({ "cards": cards, "merge": true, "publish": true });
    operator.post(&format!("{LISTS}/{list}/versions"), &body).expect(201).await
}

/// The lists, the catalogue, and what is in force from now on.
async fn sell(server: &Server, operator: &User<'_>, url: &str) {
    for list in ["near-cost", "far-cost", "far-special"] {
        operator.post(LISTS, &json!({ "name": list })).expect(201).await;
    }
    publish(
        operator,
        "near-cost",
        vec![
            card("one-of-near", COSTS[0].1),
            // For all others of its models.
            card("two/*", COSTS[2].1),
        ],
    )
    .await;
    publish(operator, "far-cost", vec![card("one-of-far", COSTS[1].1)]).await;
    publish(operator, "far-special", vec![card("two-of-far", COSTS[3].1)]).await;
    publish(operator, "default", vec![card("one", SOLD), card("two", SOLD)]).await;
    put(operator, 0, &catalogue(url, Some("far-cost"))).await;
    server.advance(11);
}

/// What we pay at each deployment at first, as [`SOLD`].
const COSTS: [(&str, [i64; 3]); 4] = [
    ("near-one", [2_000_000_003, 9_000_000_001, 200_000_009]),
    ("far-one", [1_234_567_891, 7_654_321_987, 123_456_789]),
    ("near-two", [300_000_007, 3_000_000_011, 30_000_013]),
    ("far-two", [40_000_001, 400_000_003, 4_000_009]),
];

/// What the test knows of the calls.
#[derive(Default)]
struct Known {
    calls: u64,
    revenue: i64,
    cost: i64,
    /// Calls of unknown cost and what they brought.
    unknown: (u64, i64),
    /// What each deployment cost.
    by: std::collections::BTreeMap<String, i64>,
    charges: Vec<(String, i64, bool)>,
}

/// A call at random.
async fn call(
    server: &Server,
    key: &Key,
    random: &mut StdRng,
    costs: &[(&str, [i64; 3])],
    known: &mut Known,
) {
    if random.random_bool(0.15) {
        let fails = random.random_bool(0.5);
        let request = server.post("/api/hub/rag/index", &json!({ "fails": fails })).key(key);
        let answer = request.expect(if fails { 502 } else { 200 }).await;
        // Charged and refunded, or charged.
        known.calls += 1;
        known.unknown.0 += 1;
        if !fails {
            let cost = nanos(&serde_json::from_str(answer.header("x-polysystems-cost")).unwrap());
            known.revenue += cost;
            known.unknown.1 += cost;
            known.charges.push((answer.header("x-polysystems-charge").to_owned(), cost, false));
        }
        return;
    }
    let (input, output) = (random.random_range(1..4_000), random.random_range(1..2_000));
    let read = random.random_range(0..=input);
    let model = if random.random_bool(0.6) { "one" } else { "two" };
    let fails = if random.random_bool(0.04) {
        if model == "one" { "one-of-near" } else { "two/Of-Near" }
    } else {
        ""
    };
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello!" }],
        "metadata": { "input": input, "output": output, "read": read, "fails": fails } });
    let answer = server.post("/v1/chat/completions", &body).key(key).send().await;
    if answer.status != 200 {
        // Nobody could be asked any more; it costs nothing.
        assert!(!fails.is_empty(), "{}", answer.text);
        return;
    }
    let of = |[of_input, of_output, of_read]: [i64; 3]| {
        (of_input * (input - read) + of_output * output + of_read * read + 500_000) / 1_000_000
    };
    let taken = nanos(&serde_json::from_str(answer.header("x-polysystems-cost")).unwrap());
    assert_eq!(taken, of(SOLD));
    known.calls += 1;
    known.revenue += taken;
    let deployment = answer.header("x-polysystems-deployment");
    let cost = costs.iter().find(|(name, _)| *name == deployment).map(|(_, prices)| of(*prices));
    if let Some(cost) = cost {
        known.cost += cost;
        *known.by.entry(deployment.to_owned()).or_default() += cost;
    } else {
        known.unknown.0 += 1;
        known.unknown.1 += taken;
    }
    known.charges.push((answer.header("x-polysystems-charge").to_owned(), taken, cost.is_some()));
}

async fn margins(operator: &User<'_>, query: &str) -> Value {
    operator.get(&format!("/api/admin/margins?{query}")).expect(200).await.body
}

fn is(total: &Value, known: &Known) {
    let numbers = |field: &str| nanos(&total[field]);
    assert_eq!(total["calls"], known.calls, "{total}");
    assert_eq!((numbers("revenue"), numbers("cost")), (known.revenue, known.cost), "{total}");
    let unknown = (total["unknown_calls"].as_u64().unwrap(), numbers("unknown_revenue"));
    assert_eq!(unknown, known.unknown, "{total}");
    let margin = known.revenue - known.unknown.1 - known.cost;
    assert_eq!(numbers("margin"), margin, "{total}");
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn margins_are_the_ledgers_entries_less_what_the_calls_cost(database: Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server = Server::start_with(&database, settings(upstream.url())).await;
    let operator = server.operator(&database, "operator").await;
    let (user, other) = (server.user("user").await, server.user("other").await);
    user.pay("500.00").await;
    other.pay("500.00").await;
    let keys = [user.key().await, other.key().await];
    sell(&server, &operator, &upstream.url()).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut known, mut costs) = (Known::default(), COSTS.to_vec());
    for (place, phase) in [1, 2, 3].into_iter().enumerate() {
        match phase {
            2 => {
                // What we pay and what customers pay changes; calls before it stay as they are.
                costs[0].1 = [1_999_999_999, 8_999_999_999, 199_999_999];
                costs[3].1 = [50_000_001, 500_000_003, 5_000_009];
                publish(&operator, "near-cost", vec![card("one-of-near", costs[0].1)]).await;
                publish(&operator, "far-special", vec![card("two-of-far", costs[3].1)]).await;
                server.advance(11);
            }
            3 => {
                // Nobody says any more what `far` takes, but for the one that has a list of its
                // own.
                server.advance(1);
                put(&operator, 1, &catalogue(&upstream.url(), None)).await;
                costs.remove(1);
                server.advance(11);
            }
            _ => {}
        }
        for number in 0..130 {
            call(&server, &keys[(number + place) % 2], &mut random, &costs, &mut known).await;
        }
    }
    // A call with test credits brings nothing.
    let test = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    let plain = json!({ "model": "one", "messages": [{ "role": "user", "content": "Hello!" }] });
    server.post("/v1/chat/completions", &plain).key(&test).expect(200).await;
    // What is given back and taken more counts, and so does that of a fixed price. A grant that is
    // about no call does not.
    let users = [&user, &other];
    let mut corrected = 0;
    for (charge, taken, is_known) in known.charges.iter().step_by(9) {
        let amount = if corrected % 3 == 0 { -1_234_567 } else { taken / 2 };
        for user in users {
            let exact: Value = serde_json::from_str(&dollars(amount)).unwrap();
            let body = json!({ "charge": charge, "reason": "a test", "amount": exact });
            let path = format!("/api/admin/users/{}/corrections", user.id);
            let answer = operator.post(&path, &body).send().await;
            if answer.status == 201 {
                known.revenue -= amount;
                if !is_known {
                    known.unknown.1 -= amount;
                }
                corrected += 1;
            }
        }
    }
    assert!(corrected >= 20, "{corrected}");
    let grant = json!({ "amount": 5, "reason": "a gift" });
    operator.post(&format!("/api/admin/users/{}/credits", user.id), &grant).send().await;

    let model = margins(&operator, "by=model").await;
    is(&model["total"], &known);
    let folded = "SELECT CAST(-SUM(amount) AS TEXT) FROM ledger_entry
        WHERE account_id IN (SELECT id FROM account WHERE environment = 1) AND (kind IN (2, 3, 4)
            OR (kind IN (5, 6) AND reference IN (SELECT reference FROM ledger_entry WHERE kind IN (2, 3))))";
    assert_eq!(database.query(folded).await, known.revenue.to_string());
    assert_eq!(model["complete"], true);
    for by in ["model", "deployment", "provider", "user", "day"] {
        let report = margins(&operator, &format!("by={by}")).await;
        is(&report["total"], &known);
        let groups = report["groups"].as_array().unwrap();
        for field in ["revenue", "cost", "margin", "unknown_revenue"] {
            let sum: i64 = groups.iter().map(|group| nanos(&group[field])).sum();
            assert_eq!(sum, nanos(&report["total"][field]), "{by} {field}");
        }
        let names: Vec<&str> = groups.iter().map(|group| group["name"].as_str().unwrap()).collect();
        match by {
            "model" => {
                assert!(names.contains(&"one") && names.contains(&"POST /api/hub/rag/index"));
            }
            "user" => assert_eq!(names.len(), 2),
            "day" => assert_eq!(names, ["2024-01-15"]),
            "deployment" => {
                for (name, cost) in &known.by {
                    let group = groups.iter().find(|group| group["name"] == **name).unwrap();
                    assert_eq!(nanos(&group["cost"]), *cost, "{name}");
                }
            }
            _ => assert!(names.contains(&"near") && names.contains(&"far")),
        }
    }
    // Two spans of time are the whole.
    let (first, second) = (
        margins(&operator, &format!("to={}", at(22))).await,
        margins(&operator, &format!("from={}", at(22))).await,
    );
    for field in ["revenue", "cost", "margin", "unknown_revenue"] {
        let parts = nanos(&first["total"][field]) + nanos(&second["total"][field]);
        assert_eq!(parts, nanos(&model["total"][field]), "{field}");
    }
    assert!(first["total"]["calls"].as_u64().unwrap() > 50, "{first}");
    let reasons: Vec<&str> = model["unknown"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["no_deployment", "no_list"]);
    // Of each call by itself.
    let (charge, taken, _) = known.charges.iter().find(|(.., is_known)| *is_known).unwrap();
    let bill = operator.get(&format!("/api/admin/bills/{charge}")).expect(200).await.body;
    let later: i64 =
        bill["bill"]["later"].as_array().unwrap().iter().map(|one| nanos(&one["amount"])).sum();
    assert_eq!(nanos(&bill["our_cost"]) + nanos(&bill["margin"]), taken - later, "{bill}");
    assert_eq!(bill["our_cost_unknown"], json!(null));
    let csv = operator.get("/api/admin/margins?by=model&format=csv").expect(200).await;
    assert!(csv.text.starts_with("model,calls,revenue,cost,margin,"), "{}", csv.text);
    assert!(csv.text.contains("\r\n(total),"), "{}", csv.text);
    for wrong in
        ["by=week", "format=xml", "from=x", "from=2030-01-01T00:00:00Z&to=2029-01-01T00:00:00Z"]
    {
        operator.get(&format!("/api/admin/margins?{wrong}")).expect(400).await;
    }
    user.get("/api/admin/margins").expect(403).await;
    server.stop();
    verify(&database);
}

async fn what_is_sold_below_its_cost_is_named_and_refused(database: Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server = Server::start_with(&database, settings(upstream.url())).await;
    let operator = server.operator(&database, "operator").await;
    sell(&server, &operator, &upstream.url()).await;
    let path = format!("{LISTS}/default/versions");
    let cheap = |allow: Value| {
        json!({ "cards": [card("one", [1_500_000_000, SOLD[1], SOLD[2]])], "merge": true, "publish": true,
            "allow_loss": allow })
    };
    let refused = operator.post(&path, &cheap(json!([]))).expect(409).await;
    let message = refused.body["message"].as_str().unwrap();
    let told = "one, input: 1.5 in default, but 2.000000003 at near-one";
    assert!(message.contains(told) && message.contains("allow_loss"), "{message}");
    operator.post(&path, &cheap(json!(["two"]))).expect(409).await;
    // Nothing was published.
    assert_eq!(
        operator.get(&format!("{LISTS}/default")).expect(200).await.body["in_force"]["id"],
        5
    );
    let below = json!([{ "list": "default", "model": "one", "deployment": "near-one", "service": "standard",
        "over": 0, "dimension": "input", "price": "1.5", "cost": "2.000000003" }]);
    let tried = operator.post(&format!("{path}?dry_run=true"), &cheap(json!([]))).expect(200).await;
    assert_eq!(tried.body["below_cost"], below);
    let published = operator.post(&path, &cheap(json!(["one"]))).expect(201).await;
    assert_eq!(published.body["below_cost"], below);
    let id = &published.body["versions"][0]["id"];
    let diff = operator.get(&format!("{path}/5/diff?to={id}")).expect(200).await.body;
    assert_eq!((&diff["below_cost"], diff["differences"].as_array().unwrap().len()), (&below, 1));
    // A draft is looked at when it is published.
    let mut draft = cheap(json!([]));
    draft["publish"] = json!(false);
    operator.post(&path, &draft).expect(201).await;
    draft["allow_loss"] = json!(["one"]);
    operator.post(&path, &draft).expect(400).await;
    operator.post(&format!("{path}/draft-1/publish"), &json!({})).expect(409).await;
    operator
        .post(&format!("{path}/draft-1/publish"), &json!({ "allow_loss": ["*"] }))
        .expect(201)
        .await;
    // What we pay is what it is: the list is published, and what is now sold at a loss is named.
    let dearer =
        publish(&operator, "far-cost", vec![card("one-of-far", [9_000_000_000, 1, 1])]).await;
    let named: Vec<(&str, &str)> = dearer.body["below_cost"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["list"].as_str().unwrap(), one["deployment"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [("default", "near-one"), ("default", "far-one")]);
}

async fn the_command_line_shows_margins(database: Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server = Server::start_with(&database, settings(upstream.url())).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    user.pay("1.00").await;
    let key = user.key().await;
    sell(&server, &operator, &upstream.url()).await;
    let body = json!({ "model": "one", "messages": [{ "role": "user", "content": "Hello!" }],
        "metadata": { "input": 1_000, "output": 100, "read": 0, "fails": "one-of-far" } });
    server.post("/v1/chat/completions", &body).key(&key).expect(200).await;
    let run = async |arguments: &[&str]| {
        let mut command = command(&database);
        command.args(arguments).args(["--as", "operator@example.com"]);
        command.args(["--url", &server.url("")]);
        let (code, out, error) =
            tokio::task::spawn_blocking(move || finished(&mut command)).await.unwrap();
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        out
    };
    let now = at(12);
    let shown = run(&["margins", "--by", "deployment", "--to", &now]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["groups"][0]["name"], "near-one");
    // 1,000 x 2,000.000003 + 100 x 9,000.000001 nano-dollars, rounded.
    assert_eq!(nanos(&shown["total"]["cost"]), 2_900_000);
    let csv = run(&["margins", "--csv", "--to", &now]).await;
    assert!(csv.contains("one,1,0.00467"), "{csv}");
}
