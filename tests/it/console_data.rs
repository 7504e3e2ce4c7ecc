//! What the pages of the console read, beyond what programs need.

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::{Database, Server, User, hello, nanos, on_both};

on_both!(
    a_key_is_limited_from_its_first_call_on,
    a_series_has_every_period_if_that_is_asked_for,
    a_call_is_told_with_its_money,
    calls_are_narrowed_down,
    payments_are_narrowed_down,
    a_delivery_is_told_with_what_is_sent,
    an_operator_finds_whose_something_is,
    an_operator_sees_what_a_user_sees,
    users_are_narrowed_down_and_sorted,
    a_list_of_users_says_what_they_spend,
    an_operator_sees_how_the_server_is,
);

async fn a_key_is_limited_from_its_first_call_on(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let limits = json!({ "per_request_limit": 0.0001, "daily_limit": 1.5, "total_limit": null });
    let key = user.key_of(&json!({ "name": "a", "limits": limits })).await;
    let path = format!("/api/keys/{}/limits", key.id);
    let told = user.get(&path).expect(200).await;
    for (name, limit) in [("per_request_limit", "0.0001"), ("daily_limit", "1.5000")] {
        assert_eq!(told.number(name), limit, "{name}");
    }
    assert_eq!(
        (&told.body["monthly_limit"], &told.body["total_limit"]),
        (&json!(null), &json!(null))
    );
    // Cheaper than any route: nothing was charged before the limit was there.
    let refused = server.post("/api/hub/rag/index", &json!({})).key(&key).expect(402).await;
    assert_eq!(refused.body["error"], "Spending limit exceeded");
    assert_eq!(user.ledger().await.len(), 1);
    // The row has them too: they outlast the process.
    let stored = "SELECT per_request_limit || ' ' || daily_limit FROM api_key
        WHERE monthly_limit IS NULL AND total_limit IS NULL";
    assert_eq!(database.query(stored).await, "100000 1500000000");
    let acts = user.get("/api/auth/audit-log").expect(200).await.body;
    let made = acts["acts"].as_array().unwrap().iter().find(|act| act["action"] == "key.created");
    assert!(made.unwrap().to_string().contains("daily $1.5"), "{made:?}");
    // A repeat is answered with the key of before; wrong limits make none.
    let wrong = json!({ "name": "a", "limits": { "daily_limit": -1 } });
    let refused = user.post("/api/keys", &wrong).expect(400).await;
    assert_eq!(refused.body["details"][0]["field"], "limits.daily_limit");
    for wrong in [json!({ "weekly": 1 }), json!([]), json!([1]), json!(1)] {
        user.post("/api/keys", &json!({ "name": "a", "limits": wrong })).expect(400).await;
    }
    assert_eq!(user.get("/api/keys").expect(200).await.body.as_array().unwrap().len(), 1);
    user.key_of(&json!({ "name": "b", "limits": null })).await;
}

async fn a_series_has_every_period_if_that_is_asked_for(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let call = async || {
        server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    };
    call().await;
    server.advance(2 * 86_400);
    call().await;
    let user = server.log_in_again("someone").await;
    let ask = async |query: &str| {
        user.get(&format!("/api/monitoring/usage?{query}")).expect(200).await.body
    };
    let span = "from=2024-01-14T00:00:00Z&until=2024-01-18T00:00:00Z";
    let bare = ask(span).await;
    let periods = |body: &Value| -> Vec<(String, i64)> {
        let series = body["series"].as_array().unwrap().iter();
        series
            .map(|one| {
                (one["period"].as_str().unwrap()[..10].to_owned(), one["calls"].as_i64().unwrap())
            })
            .collect()
    };
    let day = |day: &str, calls: i64| (format!("2024-01-{day}"), calls);
    assert_eq!(periods(&bare), [day("15", 1), day("17", 1)], "{bare}");
    let filled = ask(&format!("{span}&fill=zero")).await;
    assert_eq!(periods(&filled), [day("14", 0), day("15", 1), day("16", 0), day("17", 1)]);
    assert_eq!(filled["totals"], bare["totals"]);
    let empty = &filled["series"][0];
    assert_eq!((nanos(&empty["cost"]), &empty["latency_ms"]["p95"]), (0, &json!(null)));
    let grouped = ask(&format!("{span}&fill=zero&group_by=endpoint")).await;
    assert_eq!(periods(&grouped).len(), 4);
    let group = &grouped["groups"][0]["group"];
    assert!(grouped["series"].as_array().unwrap().iter().all(|one| one["group"] == *group));
    let months = ask("from=2023-11-20T00:00:00Z&interval=month&fill=zero").await;
    let months: Vec<String> = periods(&months).into_iter().map(|(month, _)| month).collect();
    assert_eq!(months, ["2023-11-01", "2023-12-01", "2024-01-01"]);
    let other = server.user("other").await;
    let none = other.get(&format!("/api/monitoring/usage?{span}&fill=zero")).expect(200).await.body;
    assert_eq!(periods(&none).len(), 4);
    user.get("/api/monitoring/usage?fill=one").expect(400).await;
}

async fn a_call_is_told_with_its_money(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let called = server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
    let id = called.header("x-polysystems-charge").to_owned();
    let cost = called.header("x-polysystems-cost").to_owned();
    let told = user.get(&format!("/api/monitoring/requests/{id}")).expect(200).await;
    let body = &told.body;
    assert_eq!((&body["request_id"], &body["environment"]), (&json!(id), &json!("live")));
    assert_eq!((&body["ending"], &body["tally"]), (&json!("completed"), &json!("reported")));
    assert_eq!(body["has_bill"], true);
    let entries = body["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{body}");
    let charged: domain::Credits = cost.parse().unwrap();
    assert_eq!(nanos(&body["cost"]), charged.nanos());
    assert_eq!(nanos(&entries[0]["amount"]), -charged.nanos());
    assert_eq!(nanos(&entries[0]["balance_after"]), 10_000_000_000 - charged.nanos());
    user.get(&format!("/api/payments/transactions/{id}/bill")).expect(200).await;
    let of_list = user.get("/api/monitoring/requests").expect(200).await.body;
    for (name, value) in of_list["requests"][0].as_object().unwrap() {
        assert_eq!(&body[name], value, "{name}");
    }
    let other = server.user("other").await;
    other.get(&format!("/api/monitoring/requests/{id}")).expect(404).await;
}

async fn calls_are_narrowed_down(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let called = server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
        ids.push(called.header("x-polysystems-charge").to_owned());
        server.advance(3_600);
    }
    ids.reverse();
    let ask = async |query: &str| -> Vec<String> {
        let body = user.get(&format!("/api/monitoring/requests?{query}")).expect(200).await.body;
        let calls = body["requests"].as_array().unwrap().iter();
        calls.map(|call| call["request_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ask("").await, ids);
    assert_eq!(ask("from=2024-01-15T13:00:00Z").await, ids[..2]);
    assert_eq!(ask("until=2024-01-15T13:00:00Z").await, ids[2..]);
    assert_eq!(ask("from=2024-01-15T13:00:00Z&until=2024-01-15T14:00:00Z").await, ids[1..2]);
    assert_eq!(ask("ending=completed").await, ids);
    assert_eq!(ask("ending=client_left").await, [""; 0]);
    assert_eq!(ask(&format!("request_id={}", ids[1])).await, ids[1..2]);
    assert_eq!(ask(&format!("request_id={}&ending=failed", ids[1])).await, [""; 0]);
    assert_eq!(ask(&format!("request_id={}&environment=test", ids[1])).await, [""; 0]);
    for wrong in ["from=yesterday", "ending=well", "request_id=key-1"] {
        user.get(&format!("/api/monitoring/requests?{wrong}")).expect(400).await;
    }
}

async fn payments_are_narrowed_down(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    server.advance(3_600);
    user.pay("2.00").await;
    let ask = async |query: &str| -> Vec<i64> {
        let body = user.get(&format!("/api/payments/payments?{query}")).expect(200).await.body;
        body["payments"].as_array().unwrap().iter().map(|one| nanos(&one["amount"])).collect()
    };
    let (one, two) = (1_000_000_000, 2_000_000_000);
    assert_eq!(ask("").await, [two, one]);
    assert_eq!(ask("status=confirmed&provider=sandbox").await, [two, one]);
    assert_eq!(ask("status=failed").await, [0; 0]);
    assert_eq!(ask("provider=stripe").await, [0; 0]);
    assert_eq!(ask("from=2024-01-15T13:00:00Z").await, [two]);
    assert_eq!(ask("until=2024-01-15T13:00:00Z").await, [one]);
    for wrong in ["status=paid", "provider=cash", "from=1", "until=1"] {
        user.get(&format!("/api/payments/payments?{wrong}")).expect(400).await;
    }
    let providers = user.get("/api/payments/providers").expect(200).await.body;
    let names: Vec<&Value> =
        providers["providers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["sandbox", "stripe", "x402"]);
    assert_eq!(providers["default_provider"], "sandbox");
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if condition().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it does not come to that");
}

async fn a_delivery_is_told_with_what_is_sent(database: Database) {
    let receiver = Receiver::start();
    let server = Server::start_with(&database, |settings| {
        settings.webhooks.allow_private_addresses = true;
    })
    .await;
    let user = server.user("someone").await;
    let hook = json!({ "url": receiver.url, "events": ["payment.confirmed", "key.created"] });
    let hook = user.post("/api/webhooks", &hook).expect(201).await.body;
    let path = format!("/api/webhooks/{}/deliveries", hook["id"].as_str().unwrap());
    user.pay("5.00").await;
    user.key().await;
    let list = async |query: &str| -> Vec<Value> {
        let page = user.get(&format!("{path}?{query}")).expect(200).await.body;
        page["deliveries"].as_array().unwrap().clone()
    };
    until(async || list("status=delivered").await.len() == 2).await;
    assert!(list("status=pending").await.is_empty());
    let paid = list("type=payment.confirmed&status=delivered").await;
    assert_eq!(paid.len(), 1);
    let id = paid[0]["id"].as_str().unwrap();
    let told = user.get(&format!("{path}/{id}")).expect(200).await.body;
    let sent = receiver.all();
    let sent = sent.iter().find(|one| one.text.contains("payment.confirmed")).unwrap();
    assert_eq!(told["payload"], sent.text.as_str());
    let headers = json!({
        "content-type": "application/json", "webhook-id": sent.id,
        "webhook-timestamp": sent.timestamp.to_string(), "webhook-signature": sent.signature,
    });
    assert_eq!(told["headers"], headers);
    for (name, value) in paid[0].as_object().unwrap() {
        assert_eq!(&told[name], value, "{name}");
    }
    for wrong in ["status=lost", "type=payment.lost"] {
        user.get(&format!("{path}?{wrong}")).expect(400).await;
    }
    let types = user.get("/api/webhooks/event-types").expect(200).await.body;
    let types = types["data"].as_array().unwrap();
    assert_eq!(types.len(), 19);
    // A sample has the fields of the real one.
    let sample = &types.iter().find(|one| one["type"] == "payment.confirmed").unwrap()["sample"];
    let real: Value = serde_json::from_str(&sent.text).unwrap();
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((fields(sample), fields(&sample["data"])), (fields(&real), fields(&real["data"])));
}

async fn an_operator_finds_whose_something_is(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let operator = server.operator(&database, "operator").await;
    user.pay("10.00").await;
    let key = user.key().await;
    let called = server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    let call = called.header("x-polysystems-charge").to_owned();
    let payments = user.get("/api/payments/payments").expect(200).await.body;
    let payment = payments["payments"][0]["id"].as_str().unwrap().to_owned();
    let keys = user.get("/api/keys").expect(200).await.body;
    let preview = keys[0]["key_value_preview"].as_str().unwrap().to_owned();
    let found = async |q: &str| -> Vec<(String, String, String)> {
        let q: Vec<String> = q.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let q = q.concat();
        let body = operator.get(&format!("/api/admin/search?q={q}")).expect(200).await.body;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |one: &Value| (text(&one["kind"]), text(&one["id"]), text(&one["user"]["id"]));
        body["data"].as_array().unwrap().iter().map(one).collect()
    };
    let all = |kind: &str, id: &str| vec![(kind.to_owned(), id.to_owned(), user.id.clone())];
    assert_eq!(found(&user.id).await, all("user", &user.id));
    assert_eq!(found(&key.id).await, all("key", &key.id));
    assert_eq!(found(&preview).await, all("key", &key.id));
    assert_eq!(found(&payment).await, all("payment", &payment));
    assert_eq!(found(&call).await, all("request", &call));
    assert_eq!(found(" SOMEONE@example ").await, all("user", &user.id));
    assert!(found("nobody").await.is_empty());
    let acts = operator.get(&format!("/api/admin/audit-log?user_id={}", user.id)).expect(200).await;
    assert!(acts.text.contains("in a search"), "{}", acts.text);
    operator.get("/api/admin/search").expect(400).await;
    operator.get("/api/admin/search?q=").expect(400).await;
    user.get("/api/admin/search?q=someone").expect(403).await;
}

async fn an_operator_sees_what_a_user_sees(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let operator = server.operator(&database, "operator").await;
    user.pay("10.00").await;
    let key = user.key().await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    let hook = json!({ "url": "https://example.com/hook" });
    user.post("/api/webhooks", &hook).expect(201).await;
    for (own, of_user) in [
        ("/api/payments/transactions?kind=top_up", "transactions?kind=top_up"),
        ("/api/payments/payments?limit=1", "payments?limit=1"),
        ("/api/monitoring/requests", "requests"),
        ("/api/monitoring/usage?group_by=key", "usage?group_by=key"),
        ("/api/monitoring/limits", "limits"),
        ("/api/webhooks", "webhooks"),
    ] {
        let path = format!("/api/admin/users/{}/{of_user}", user.id);
        let (own, seen) = (user.get(own).expect(200).await, operator.get(&path).expect(200).await);
        assert_eq!(own.body, seen.body, "{of_user}");
        assert!(own.body.to_string().len() > 50, "{of_user}: {}", own.text);
        user.get(&path).expect(403).await;
        let absent = path.replace(&user.id, "user-00000000-0000-4000-8000-000000000000");
        operator.get(&absent).expect(404).await;
    }
    let sessions =
        operator.get(&format!("/api/admin/users/{}/sessions", user.id)).expect(200).await;
    assert_eq!(sessions.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(sessions.body["data"][0]["is_current"], false);
    let acts = operator.get(&format!("/api/admin/audit-log?user_id={}", user.id)).expect(200).await;
    for what in ["transactions", "payments", "calls", "usage", "limits", "webhooks", "sessions"] {
        assert!(acts.text.contains(&format!("\"{what}\"")), "{what}: {}", acts.text);
    }
}

async fn names(operator: &User<'_>, query: &str) -> Vec<String> {
    let page = operator.get(&format!("/api/admin/users?{query}")).expect(200).await.body;
    let users = page["users"].as_array().unwrap().iter();
    users.map(|user| user["username"].as_str().unwrap().to_owned()).collect()
}

async fn users_are_narrowed_down_and_sorted(database: Database) {
    let server = Server::start(&database).await;
    for (name, amount) in [("first", "2.00"), ("second", "9.00"), ("third", "5.00")] {
        let user = server.user(name).await;
        user.pay(amount).await;
        server.advance(1);
    }
    let operator = server.operator(&database, "operator").await;
    database
        .execute("UPDATE users SET is_email_verified = TRUE WHERE username = 'second'")
        .await
        .unwrap();
    let ids = operator.get("/api/admin/users?search=third").expect(200).await.body;
    let third = ids["users"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(nanos(&ids["users"][0]["balance"]), 5_000_000_000);
    assert_eq!(ids["users"][0]["status"], "open");
    assert_eq!(ids["users"][0]["last_call_at"], json!(null));
    operator
        .put(&format!("/api/admin/users/{third}/tier"), &json!({ "tier": "basic" }))
        .expect(200)
        .await;
    operator.post(&format!("/api/admin/users/{third}/suspend"), &json!({})).expect(200).await;
    assert_eq!(names(&operator, "").await, ["operator", "third", "second", "first"]);
    assert_eq!(names(&operator, "sort=oldest").await, ["first", "second", "third", "operator"]);
    assert_eq!(names(&operator, "sort=balance").await, ["second", "third", "first", "operator"]);
    assert_eq!(names(&operator, "role=admin").await, ["operator"]);
    assert_eq!(names(&operator, "verified=true").await, ["second"]);
    assert_eq!(names(&operator, "verified=false&role=user").await, ["third", "first"]);
    assert_eq!(names(&operator, "tier=basic").await, ["third"]);
    assert_eq!(names(&operator, "status=suspended").await, ["third"]);
    assert_eq!(names(&operator, "status=open&search=s").await, ["second", "first"]);
    // Page by page, in each order.
    for (sort, expected) in [
        ("newest", ["operator", "third", "second", "first"]),
        ("oldest", ["first", "second", "third", "operator"]),
        ("balance", ["second", "third", "first", "operator"]),
    ] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/admin/users?limit=1&sort={sort}{cursor}");
            let page = operator.get(&path).expect(200).await.body;
            seen.push(page["users"][0]["username"].as_str().unwrap().to_owned());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, expected, "{sort}");
    }
    for wrong in ["role=owner", "status=shut", "sort=name", "verified=maybe"] {
        operator.get(&format!("/api/admin/users?{wrong}")).expect(400).await;
    }
}

async fn a_list_of_users_says_what_they_spend(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let (user, other) = (server.user("user").await, server.user("other").await);
    user.pay("10.00").await;
    other.pay("10.00").await;
    let (key, others) = (user.key().await, other.key().await);
    let test = user.key_of(&json!({ "name": "a", "environment": "test" })).await;
    let call = async |key: &crate::support::Key| {
        server.post("/api/hub/rag/index", &json!({})).key(key).expect(200).await;
    };
    let seen = async |name: &str| {
        let path = format!("/api/admin/users?search={name}@");
        let body = operator.get(&path).expect(200).await.body["users"][0].take();
        (nanos(&body["spent_30d"]), body["last_call_at"].as_str().map(str::to_owned))
    };
    for key in [&key, &key, &test] {
        call(key).await;
    }
    let first = seen("user").await;
    assert_eq!((first.0, seen("other").await), (1_000_000, (0, None)));
    // The same from the rollups, and what is in none yet beside it.
    database.fold().await;
    assert_eq!(seen("user").await, first);
    server.advance(60);
    call(&key).await;
    call(&others).await;
    let (spent, last) = seen("user").await;
    assert_eq!((spent, seen("other").await.0), (1_500_000, 500_000));
    assert_ne!(last, first.1);
    // Calls of 30 days ago are none of them.
    database.execute("UPDATE usage_day SET period = period - 30").await.unwrap();
    assert_eq!(seen("user").await.0, 500_000);
}

async fn an_operator_sees_how_the_server_is(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    operator.pay("1.00").await;
    let health = operator.get("/api/admin/health").expect(200).await.body;
    assert_eq!((&health["is_ready"], &health["database_answers"]), (&json!(true), &json!(true)));
    let kind = if database.is_postgres() { "postgresql" } else { "sqlite" };
    assert_eq!(health["database"], kind);
    assert_eq!(health["ledger"]["state"], "serving");
    assert!(health["ledger"]["batches"].as_u64().unwrap() >= 1, "{health}");
    // The one that asks.
    assert_eq!(health["load"]["requests"], 1);
    assert_eq!(health["accounts_quarantined"], 0);
    let never = json!({ "ended_at": null, "findings": null, "failures": 0 });
    assert_eq!(health["verification"], never);
}
