//! What account holders see of their usage: sums that are the ledger's own, at every edge of a day
//! and a month.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::support::process::verify;
use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Key, Server, User, hello, nanos, on_both};

on_both!(
    totals_are_the_ledgers_at_every_edge,
    calls_are_seen_by_key_endpoint_model_and_status,
    what_makes_no_sense_is_refused,
    transactions_are_narrowed_and_exported,
    statements_come_to_the_ledger,
    spending_is_held_against_limits_and_foretold,
    a_test_account_is_looked_at_by_itself,
    an_absurd_count_spoils_no_sum,
    made_up_models_are_told_together,
    what_memory_knows_is_what_the_database_finds,
);

/// Has every kind of call made, at random, and says what each hour cost by the answers' own
/// headers.
async fn totals_are_the_ledgers_at_every_edge(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1000.00").await;
    let keys = [user.key().await, user.key().await, user.key().await];
    let mut random = StdRng::seed_from_u64(11);
    // From noon of 15 January over the ends of days and of the month; some calls lie on the edge
    // itself.
    let edge = 1_706_745_600; // 2024-02-01T00:00:00Z
    let times = [
        1_705_363_199,
        1_705_363_200,
        1_705_449_599,
        1_705_449_600,
        1_706_659_199,
        edge - 3_601,
        edge - 1,
        edge,
        edge + 3_599,
        edge + 3_600,
        edge + 86_399,
        edge + 86_400,
    ];
    let mut expected: BTreeMap<(i64, String, &str), (i64, i64)> = BTreeMap::new();
    for time in times {
        server.advance(time - server.seconds());
        if time == edge + 3_599 {
            // In the middle of an hour.
            database.fold().await;
        }
        for _ in 0..25 {
            let key = &keys[random.random_range(0..3)];
            let (path, body) = match random.random_range(0..4) {
                0 => ("/v1/chat/completions", hello()),
                1 => ("/api/hub/agents/chat", hello()),
                2 => ("/api/hub/memory", json!({})),
                _ => ("/api/hub/rag/index", json!({})),
            };
            let answer = server.post(path, &body).key(key).expect(200).await;
            let cost: domain::Credits = answer.header("x-polysystems-cost").parse().unwrap();
            let sum = expected.entry((time / 3_600, key.id.clone(), path)).or_default();
            *sum = (sum.0 + 1, sum.1 + cost.nanos());
        }
    }
    let user = server.log_in_again("someone").await;
    let total = |is_in: &dyn Fn(&(i64, String, &str)) -> bool| {
        let own = expected.iter().filter(|(key, _)| is_in(key));
        own.fold((0, 0), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1))
    };
    let seen = |body: &Value| (body["calls"].as_i64().unwrap(), nanos(&body["cost"]));
    let ask = async |query: &str| {
        user.get(&format!("/api/monitoring/usage?{query}")).expect(200).await.body
    };
    // Where a part of them is in the rollups, and where all are.
    for is_folded in [false, true] {
        if is_folded {
            database.fold().await;
        }
        // By the hour, by key and by endpoint, for each hour alone.
        for time in times {
            let hour = time / 3_600;
            let at = |hour: i64| domain::Timestamp::from_micros(hour * 3_600_000_000);
            let (from, until) = (at(hour).to_rfc3339(), at(hour + 1).to_rfc3339());
            let span = format!("interval=hour&from={from}&until={until}");
            let by_key = ask(&format!("{span}&group_by=key")).await;
            assert_eq!(seen(&by_key["totals"]), total(&|key| key.0 == hour));
            for group in by_key["groups"].as_array().unwrap() {
                let id = group["group"].as_str().unwrap();
                assert_eq!(seen(group), total(&|key| key.0 == hour && key.1 == id));
            }
            let by_endpoint = ask(&format!("{span}&group_by=endpoint")).await;
            for group in by_endpoint["groups"].as_array().unwrap() {
                let path = group["group"].as_str().unwrap().strip_prefix("POST ").unwrap();
                assert_eq!(seen(group), total(&|key| key.0 == hour && key.2 == path));
            }
        }
        let by_day = ask("interval=day&from=2024-01-15T00:00:00Z").await;
        for period in by_day["series"].as_array().unwrap() {
            let begin = domain::Timestamp::parse_rfc3339(period["period"].as_str().unwrap());
            let day = begin.unwrap().seconds() / 86_400;
            assert_eq!(seen(period), total(&|key| key.0 / 24 == day), "{period}");
        }
        assert_eq!(seen(&by_day["totals"]), total(&|_| true));
        let by_month = ask("interval=month").await;
        let months: Vec<(i64, i64)> =
            by_month["series"].as_array().unwrap().iter().map(seen).collect();
        let of_january = total(&|key| key.0 < edge / 3_600);
        assert_eq!(months, [of_january, total(&|key| key.0 >= edge / 3_600)]);
    }
    // Rollups, usage records and the ledger come to the same.
    let sum = |table: &str, column: &str| {
        format!("SELECT CAST(COALESCE(SUM({column}), 0) AS TEXT) FROM {table}")
    };
    let all = total(&|_| true).1.to_string();
    for (table, column) in [("usage_hour", "cost"), ("usage_day", "cost"), ("usage_record", "cost")]
    {
        assert_eq!(database.query(&sum(table, column)).await, all, "{table}");
    }
    assert_eq!(
        database
            .query(&format!("{} WHERE key_id IS NOT NULL", sum("ledger_entry", "-amount")))
            .await,
        all
    );
    let buckets: Vec<String> = (0..24).map(|bucket| format!("l{bucket}")).collect();
    let counted = sum("usage_hour", &buckets.join(" + "));
    assert_eq!(database.query(&counted).await, total(&|_| true).0.to_string());
    server.stop();
    verify(&database);
}

async fn calls_are_seen_by_key_endpoint_model_and_status(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let (one, other) = (user.key().await, user.key().await);
    let chat =
        |model: &str| json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }] });
    for (key, model, count) in [(&one, "gpt-4o", 3), (&one, "o3", 2), (&other, "gpt-4o", 4)] {
        for _ in 0..count {
            server.post("/v1/chat/completions", &chat(model)).key(key).expect(200).await;
        }
    }
    let failed = chat("gpt-4o");
    let failing = server.post("/v1/chat/completions", &failed).key(&one);
    failing.header("X-Sandbox-Status", "500").send().await;
    let ask = async |query: &str| {
        user.get(&format!("/api/monitoring/usage?{query}")).expect(200).await.body
    };
    let by_model = ask(&format!("group_by=model&key_id={}", one.id)).await;
    let of = |body: &Value, name: &str| {
        let groups = body["groups"].as_array().unwrap();
        groups.iter().find(|group| group["group"] == name).unwrap()["calls"].as_i64().unwrap()
    };
    assert_eq!(of(&by_model, "o3"), 2);
    assert!(of(&by_model, "gpt-4o") >= 3);
    let by_key = ask("group_by=key&model=gpt-4o&status=200").await;
    assert!(of(&by_key, &other.id) == 4, "{by_key}");
    assert!(by_key["series"][0]["group"].is_string());
    let totals = &ask("upstream=sandbox&endpoint=/v1/chat/completions").await["totals"];
    assert!(totals["calls"].as_i64().unwrap() >= 9);
    assert!(totals["latency_ms"]["p50"].is_i64() && totals["error_rate"].is_number(), "{totals}");
    assert!(totals["prompt_tokens"].as_i64().unwrap() > 0);
    let nothing = ask("model=nonsense&group_by=key").await;
    assert_eq!((&nothing["totals"]["calls"], &nothing["series"]), (&json!(0), &json!([])));
    // One by one, latest first.
    let mut seen = 0;
    let mut cursor = String::new();
    loop {
        let page = format!("/api/monitoring/requests?limit=2&model=gpt-4o&status=200{cursor}");
        let page = user.get(&page).expect(200).await.body;
        for call in page["requests"].as_array().unwrap() {
            assert_eq!((&call["model"], &call["upstream"]), (&json!("gpt-4o"), &json!("sandbox")));
            assert!(call["request_id"].as_str().unwrap().starts_with("req-"));
            seen += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(seen >= 7, "{seen}");
    let latest = user.get("/api/monitoring/requests?limit=1").expect(200).await.body;
    assert_eq!(latest["requests"].as_array().unwrap().len(), 1);
    // Nobody else sees any of it.
    let stranger = server.user("stranger").await;
    let body =
        stranger.get(&format!("/api/monitoring/requests?key_id={}", one.id)).expect(200).await.body;
    assert_eq!(body["requests"], json!([]));
    let body = stranger.get("/api/monitoring/usage?group_by=key").expect(200).await.body;
    assert_eq!(body["groups"], json!([]));
}

async fn what_makes_no_sense_is_refused(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for query in [
        "interval=year",
        "group_by=colour",
        "from=yesterday",
        "from=2024-01-16T00:00:00Z",
        "from=2024-01-15T10:00:00Z&until=2024-01-15T00:00:00Z",
        "interval=hour&from=2023-01-01T00:00:00Z",
        "interval=day&from=2020-01-01T00:00:00Z",
        "status=99",
        "status=x",
        "key_id=nonsense",
        "environment=prod",
        "page=1",
        "model=%00",
        "upstream=a%0Ab",
    ] {
        user.get(&format!("/api/monitoring/usage?{query}")).expect(400).await;
    }
    for query in ["limit=0", "cursor=x", "status=600", "key_id=pay-1"] {
        user.get(&format!("/api/monitoring/requests?{query}")).expect(400).await;
    }
    for query in ["kind=gift", "from=x", "key_id=x", "until=2024", "endpoint=a&endpoint=b"] {
        user.get(&format!("/api/payments/transactions?{query}")).expect(400).await;
    }
    user.get("/api/payments/transactions/export?format=xml").expect(400).await;
    for month in ["2024-13", "2024-1", "2025-01", "x"] {
        user.get(&format!("/api/payments/statements/{month}")).expect(404).await;
    }
    user.get("/api/payments/statements/2024-01?format=pdf").expect(400).await;
}

async fn spend(server: &Server, key: &Key, path: &str, count: usize) {
    for _ in 0..count {
        server.post(path, &json!({})).key(key).expect(200).await;
    }
}

async fn all(user: &User<'_>, query: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("/api/payments/transactions?limit=7{query}{cursor}");
        let page = user.get(&page).expect(200).await.body;
        found.extend(page["transactions"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

async fn transactions_are_narrowed_and_exported(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("5.00").await;
    let (one, other) = (user.key().await, user.key().await);
    spend(&server, &one, "/api/hub/rag/index", 20).await;
    server.advance(3_600);
    spend(&server, &other, "/api/hub/memory", 15).await;
    user.pay("1.00").await;
    server.advance(3_600);
    spend(&server, &one, "/api/hub/memory", 10).await;
    assert_eq!(all(&user, "").await.len(), 47);
    for (query, count) in [
        ("&kind=top_up".to_owned(), 2),
        ("&kind=charge".into(), 45),
        ("&kind=refund".into(), 0),
        (format!("&key_id={}", one.id), 30),
        ("&endpoint=/api/hub/memory".into(), 25),
        (format!("&endpoint=/api/hub/memory&key_id={}", one.id), 10),
        ("&from=2024-01-15T13:00:00Z".into(), 26),
        ("&until=2024-01-15T13:00:00Z".into(), 21),
        ("&from=2024-01-15T13:00:00Z&until=2024-01-15T14:00:00Z".into(), 16),
        ("&from=2024-01-15T13:00:00Z&kind=top_up".into(), 1),
        ("&environment=test&kind=charge".into(), 0),
    ] {
        let found = all(&user, &query).await;
        assert_eq!(found.len(), count, "{query}");
        let sequences: Vec<i64> =
            found.iter().map(|one| one["sequence"].as_i64().unwrap()).collect();
        assert!(sequences.is_sorted_by(|one, other| one > other), "{query}: {sequences:?}");
    }
    let csv = user.get("/api/payments/transactions/export").expect(200).await;
    assert!(csv.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let lines: Vec<&str> = csv.text.split("\r\n").collect();
    assert_eq!((lines.len(), lines[48]), (49, ""));
    assert!(lines[1].starts_with("1,2024-01-15T12:00:00.000000Z,top_up,5.0000,5.0000,USD,pay-"));
    assert!(lines[2].contains(",/api/hub/rag/index,,200,0,0"), "{}", lines[2]);
    let path = format!("/api/payments/transactions/export?format=jsonl&key_id={}", one.id);
    let jsonl = user.get(&path).expect(200).await;
    let rows: Vec<Value> =
        jsonl.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 30);
    let sum: i64 = rows.iter().map(|row| nanos(&row["amount"])).sum();
    assert_eq!(sum, -(20 * 500_000 + 10 * 100_000));
    // An account without anything has an empty one.
    let stranger = server.user("stranger").await;
    let csv = stranger.get("/api/payments/transactions/export").expect(200).await;
    assert_eq!(csv.text.matches("\r\n").count(), 1);
}

async fn statements_come_to_the_ledger(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("5.00").await;
    let key = user.key().await;
    spend(&server, &key, "/api/hub/rag/index", 4).await;
    // The last microsecond of January, and the first of February.
    server.advance(1_706_745_600 - server.seconds() - 1);
    let user = server.log_in_again("someone").await;
    spend(&server, &key, "/api/hub/rag/index", 3).await;
    server.advance(1);
    spend(&server, &key, "/api/hub/rag/index", 2).await;
    user.pay("1.00").await;
    let statement = async |month: &str| {
        let body = user.get(&format!("/api/payments/statements/{month}")).expect(200).await;
        let sums = body.body["days"].as_array().unwrap().iter().map(|day| nanos(&day["amount"]));
        let sum: i64 = sums.sum();
        let (opening, closing) =
            (nanos(&body.body["opening_balance"]), nanos(&body.body["closing_balance"]));
        assert_eq!(opening + sum, closing, "{}", body.text);
        (opening, closing, body.body)
    };
    let (opening, january, body) = statement("2024-01").await;
    assert_eq!((opening, january), (0, 5_000_000_000 - 7 * 500_000));
    assert_eq!(body["is_complete"], true);
    let totals = body["totals"].as_array().unwrap();
    assert_eq!((&totals[1]["kind"], &totals[1]["count"]), (&json!("charge"), &json!(7)));
    let (opening, closing, body) = statement("2024-02").await;
    assert_eq!((opening, closing), (january, january + 1_000_000_000 - 2 * 500_000));
    assert_eq!((&body["is_complete"], user.folded().await), (&json!(false), closing));
    let (opening, closing, _) = statement("2023-12").await;
    assert_eq!((opening, closing), (0, 0));
    let csv = user.get("/api/payments/statements/2024-01?format=csv").expect(200).await.text;
    assert!(csv.contains("2024-01-31,charge,3,-0.0015,USD"), "{csv}");
    let page = user.get("/api/payments/statements/2024-01?format=html").expect(200).await;
    assert!(
        page.text.contains("Closing balance") && page.text.contains("$4.9965"),
        "{}",
        page.text
    );
}

async fn spending_is_held_against_limits_and_foretold(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    user.limit(&key, &json!({ "daily_limit": 0.01, "monthly_limit": 0.1 })).await;
    spend(&server, &key, "/api/hub/rag/index", 10).await;
    let body = user.get("/api/monitoring/limits").expect(200).await.body;
    let own = &body["keys"][0];
    assert_eq!((&own["key_id"], &own["daily"]["percent"]), (&json!(key.id), &json!(50)));
    assert_eq!((&own["monthly"]["percent"], &own["total"]["limit"]), (&json!(5), &Value::Null));
    assert_eq!(own["daily"]["resets_at"], "2024-01-16T00:00:00Z");
    // 0.005 in the first hour: 0.12 a day.
    let forecast = user.get("/api/monitoring/forecast").expect(200).await;
    assert_eq!(
        (forecast.number("balance"), forecast.number("spent_per_day")),
        ("0.9950".to_owned(), "0.1200".to_owned())
    );
    assert_eq!(forecast.body["days_left"], 8);
    server.advance(86_400);
    let user = server.log_in_again("someone").await;
    let body = user.get("/api/monitoring/limits").expect(200).await.body;
    assert_eq!(body["keys"][0]["daily"]["percent"], 0);
    let stranger = server.user("stranger").await;
    let forecast = stranger.get("/api/monitoring/forecast").expect(200).await.body;
    assert_eq!(forecast["depleted_at"], Value::Null);
}

async fn a_test_account_is_looked_at_by_itself(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
    spend(&server, &key, "/api/hub/rag/index", 3).await;
    for (environment, calls) in [("test", 3), ("live", 0)] {
        let path = format!("/api/monitoring/usage?environment={environment}");
        assert_eq!(user.get(&path).expect(200).await.body["totals"]["calls"], calls);
        let path = format!("/api/monitoring/requests?environment={environment}");
        let list = user.get(&path).expect(200).await.body;
        assert_eq!(list["requests"].as_array().unwrap().len(), calls);
    }
}

/// Whatever an upstream says it has counted: the next call of the same hour is on record all the
/// same.
async fn an_absurd_count_spoils_no_sum(database: Database) {
    let counts = format!("{{\"prompt_tokens\":{0},\"completion_tokens\":{0}}}", i64::MAX);
    let upstream = Upstream::start(Script::Answer(200, format!("{{\"usage\":{counts}}}"))).await;
    let url = upstream.url();
    let server = Server::start_with(&database, move |settings| {
        settings.upstreams.v1.url = Some(url);
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1000.00").await;
    let key = user.key().await;
    for _ in 0..3 {
        server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    }
    let usage = user.get("/api/monitoring/usage").expect(200).await.body;
    assert_eq!(usage["totals"]["calls"], 3);
    assert!(usage["totals"]["prompt_tokens"].as_i64().unwrap() < 1_000_000, "{usage}");
    // Of a database from before, where it was not looked at.
    let absurd = format!("UPDATE usage_hour SET prompt_tokens = {}", 1_i64 << 40);
    database.execute(&absurd).await.unwrap();
    server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    user.get("/api/monitoring/usage?interval=hour").expect(200).await;
    server.stop();
    verify(&database);
}

async fn made_up_models_are_told_together(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1000.00").await;
    let key = user.key().await;
    let calls = (0..510).map(|number| {
        let body = json!({ "model": format!("model-{number}"), "max_tokens": 16,
            "messages": [{ "role": "user", "content": "Hello!" }] });
        server.post("/v1/chat/completions", &body).key(&key).expect(200)
    });
    for call in calls {
        call.await;
    }
    let usage = user.get("/api/monitoring/usage?group_by=model").expect(200).await.body;
    let groups = usage["groups"].as_array().unwrap();
    assert_eq!((groups.len(), &usage["totals"]["calls"]), (501, &json!(510)));
    let other = groups.iter().find(|group| group["group"] == "(other)").unwrap();
    assert_eq!(other["calls"], 10);
    server.stop();
    verify(&database);
}

/// Calls are brought into the rollups from memory, or by the database where that does not know
/// them. Both find the same.
async fn what_memory_knows_is_what_the_database_finds(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1000.00").await;
    let keys = [user.key().await, user.key().await];
    let rollups = async || {
        let mut found = Vec::new();
        for (table, columns) in [("usage_hour", 24), ("usage_day", 24)] {
            let buckets: Vec<String> =
                (0..columns).map(|bucket| format!("l{bucket} * {}", bucket + 1)).collect();
            let sum = format!(
                "SELECT CAST(SUM(calls * 7 + cost * 3 + prompt_tokens * 5 + completion_tokens * 11
                    + latency_micros * 13 + status * 17 + period * 19 + {}) AS TEXT) || ' '
                    || CAST(COUNT(*) AS TEXT) || ' ' || CAST(SUM(calls) AS TEXT) FROM {table}",
                buckets.join(" + ")
            );
            found.push(database.query(&sum).await);
        }
        found
    };
    for round in 0..3 {
        for key in &keys {
            for path in ["/v1/chat/completions", "/api/hub/agents/chat"] {
                for _ in 0..20 {
                    server.post(path, &hello()).key(key).expect(200).await;
                }
            }
        }
        server.advance(40 * 60);
        let usage = user.get("/api/monitoring/usage").expect(200).await.body;
        assert_eq!(usage["totals"]["calls"], 80 * (round + 1));
    }
    // From memory, but for the first.
    server.stop();
    let known = rollups().await;
    // All of it once more, by the database alone.
    database.unfold().await;
    database.fold().await;
    assert_eq!(rollups().await, known);
    assert!(known[0].ends_with(" 240"), "{known:?}");
    // And where memory is wrong about what is there: a record that it has not seen.
    let server = Server::start(&database).await;
    for _ in 0..2 {
        server.post("/api/hub/rag/index", &json!({})).key(&keys[0]).expect(200).await;
        // Once it is in the tables; the first of a process is brought in at once.
        database.query("SELECT '1'").await;
    }
    let more = "UPDATE usage_record SET cost = cost + 1000 WHERE number = (SELECT MAX(number) FROM usage_record)";
    database.execute(more).await.unwrap();
    server.stop();
    let cost = async |table: &str| {
        database.query(&format!("SELECT CAST(SUM(cost) AS TEXT) FROM {table}")).await
    };
    assert_eq!(cost("usage_hour").await, cost("usage_record").await);
}
