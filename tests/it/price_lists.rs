//! Price lists of models, customers' lists, bills as pages, and corrections of charges.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::bills::store;
use crate::support::process::{command, finished, verify};
use crate::support::{Answer, Database, NOON, Server, User, nanos, on_both};

on_both!(
    a_price_is_in_force_from_its_instant_on,
    a_list_follows_its_parent_and_a_customer_pays_by_it,
    a_draft_may_vanish_and_a_version_may_be_withdrawn_before_it_is_in_force,
    what_is_wrong_is_told_with_its_place_and_changes_nothing,
    of_ten_publishers_at_once_nothing_is_lost,
    a_bill_can_be_computed_again_by_hand,
    bills_are_computed_again_in_a_report,
    a_charge_is_corrected_once_for_a_reason,
    the_command_line_publishes_and_shows,
    a_document_may_be_large_and_not_too_large,
);

const LISTS: &str = "/api/admin/price-lists";

fn versions(list: &str) -> String {
    format!("{LISTS}/{list}/versions")
}

/// An instant so many seconds after noon.
fn at(seconds: i64) -> String {
    domain::Timestamp::from_micros(NOON + seconds * 1_000_000).to_rfc3339_micros()
}

async fn publish(operator: &User<'_>, list: &str, mut body: Value) -> Value {
    body["publish"] = json!(true);
    operator.post(&versions(list), &body).expect(201).await.body
}

fn card(model: &str, input: &str) -> Value {
    json!({ "model": model, "input": input, "output": "50" })
}

/// What an input of a million tokens costs who asks, in dollars.
async fn input(request: crate::support::Request) -> String {
    let body = request.expect(200).await.body;
    let models = body["models"].as_array().unwrap();
    assert_eq!(models.len(), 1, "{body}");
    models[0]["card"]["input"].as_str().unwrap().to_owned()
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn a_price_is_in_force_from_its_instant_on(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let names = operator.get(LISTS).expect(200).await.body;
    assert_eq!(names["price_lists"][0]["name"], "routes");
    assert_eq!(names["price_lists"][0]["in_force"]["state"], "in_force");
    assert_eq!(names["price_lists"][1]["name"], "default");
    assert_eq!(names["price_lists"][1]["in_force"], json!(null));
    // As soon as it can: after the notice of ten seconds.
    let first = publish(&operator, "default", json!({ "cards": [card("gpt-6", "10")] })).await;
    assert_eq!(first["versions"][0]["effective_from"], at(10));
    assert_eq!(first["versions"][0]["state"], "published");
    let later = json!({ "cards": [card("gpt-6", "12.5")], "effective_from": at(60) });
    let second = publish(&operator, "default", later).await;
    assert_eq!(second["versions"][0]["id"], 3);
    assert_eq!(second["differences"][0]["percent"], "+25.00");
    let quote = json!({ "model": "gpt-6", "usage": { "input": 1_000_001, "output": 3 } });
    server.post("/api/pricing/quote", &quote).expect(404).await;
    for (seconds, version, cost) in
        [(10, 2, 10_000_160_000), (49, 2, 10_000_160_000), (1, 3, 12_500_162_500)]
    {
        server.advance(seconds);
        let quoted = server.post("/api/pricing/quote", &quote).expect(200).await.body;
        assert_eq!((&quoted["version"], nanos(&quoted["cost"])), (&json!(version), cost));
    }
    // And as it was, and will be.
    let mut before = quote.clone();
    before["at"] = json!(at(59));
    let quoted = server.post("/api/pricing/quote", &before).expect(200).await.body;
    assert_eq!(quoted["version"], 2);
    let parts = quoted["parts"].as_array().unwrap();
    assert_eq!(
        parts[0],
        json!({ "dimension": "input", "quantity": 1_000_001, "price": "10",
        "per": 1_000_000, "amount": "10.00001" })
    );
    let history = server.get("/api/pricing/history?model=gpt-6").expect(200).await.body;
    let told: Vec<_> = history["prices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|price| {
            (
                price["effective_from"].clone(),
                price["until"].clone(),
                price["card"]["input"].clone(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [(json!(at(10)), json!(at(60)), json!("10")), (json!(at(60)), json!(null), json!("12.5")),]
    );
    assert_eq!(input(server.get("/api/pricing?model=gpt-6")).await, "12.5");
    assert_eq!(input(server.get(&format!("/api/pricing?model=gpt-6&at={}", at(59)))).await, "10");
    // All prices of another instant are long: a stranger does not get them.
    let path = format!("/api/pricing?at={}", at(9));
    let refused = server.get(&path).expect(400).await.body;
    assert_eq!(refused["details"][0]["field"], "at", "{refused}");
    let body = operator.get(&path).expect(200).await.body;
    assert_eq!((&body["models"], &body["models_for"]), (&json!([]), &json!("everybody")));
    assert!(body["prices"].as_array().unwrap().len() > 5);
    // Of a version and of a model, as operators see them.
    let shown = operator.get(&format!("{}/3", versions("default"))).expect(200).await.body;
    assert_eq!(shown["cards"], json!([card("gpt-6", "12.5")]));
    let diff = operator.get(&format!("{}/3/diff?to=2", versions("default"))).expect(200).await.body;
    assert_eq!(diff["differences"][0]["percent"], "-20.00");
    let path = format!("{LISTS}/default/cards/gpt-6?at={}", at(11));
    assert_eq!(operator.get(&path).expect(200).await.body["card"]["input"], "10");
    operator.get(&format!("{LISTS}/default/cards/gpt-7")).expect(404).await;
    // All of it is in the audit log.
    let acts = operator.get("/api/admin/audit-log").expect(200).await.text;
    assert!(
        acts.contains("prices.published") && acts.contains("default 3, in force from"),
        "{acts}"
    );
    server.stop();
    verify(&database);
    // The next server reads it.
    let server = Server::start(&database).await;
    assert_eq!(input(server.get(&format!("/api/pricing?model=gpt-6&at={}", at(61)))).await, "12.5");
}

async fn a_list_follows_its_parent_and_a_customer_pays_by_it(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.pricing.notice_seconds = 0).await;
    let operator = server.operator(&database, "operator").await;
    let (customer, other) = (server.user("customer").await, server.user("other").await);
    let (key, others) = (customer.key().await, other.key().await);
    publish(&operator, "default", json!({ "cards": [card("m", "10"), card("open/*", "2")] })).await;
    operator.post(LISTS, &json!({ "name": "gold", "parent": "default" })).expect(201).await;
    operator.post(LISTS, &json!({ "name": "gold" })).expect(409).await;
    let gold = publish(&operator, "gold", json!({ "multiplier": "0.90" })).await;
    assert_eq!(gold["versions"][0]["parent_version"], 2);
    let list = format!("/api/admin/users/{}/price-list", customer.id);
    let asks = || server.get("/api/pricing?model=m").key(&key);
    assert_eq!(input(asks()).await, "10");
    operator.put(&list, &json!({ "list": "gold" })).expect(200).await;
    // For the very next request, by the key that was in memory, and by the session.
    assert_eq!(input(asks()).await, "9");
    assert_eq!(input(customer.get("/api/pricing?model=m")).await, "9");
    assert_eq!(input(customer.get("/api/pricing?model=open/x")).await, "1.8");
    for everybody in [
        server.get("/api/pricing?model=m"),
        server.get("/api/pricing?model=m").key(&others),
        other.get("/api/pricing?model=m"),
        server.get("/api/pricing?model=m").bearer("a.b.c"),
    ] {
        assert_eq!(input(everybody).await, "10");
    }
    let quote = json!({ "model": "m", "usage": { "input": 1_000 } });
    let quoted = server.post("/api/pricing/quote", &quote).key(&key).expect(200).await.body;
    assert_eq!(nanos(&quoted["cost"]), 9_000_000);
    // A new price of the parent is one of the list as well, from the same instant on.
    server.advance(5);
    let both =
        publish(&operator, "default", json!({ "merge": true, "cards": [card("m", "20")] })).await;
    let told: Vec<_> = both["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| {
            (version["list"].clone(), version["follows"].clone(), version["effective_from"].clone())
        })
        .collect();
    assert_eq!(
        told,
        [
            (json!("default"), json!(false), json!(at(5))),
            (json!("gold"), json!(true), json!(at(5))),
        ]
    );
    assert_eq!(input(asks()).await, "18");
    assert_eq!(input(customer.get("/api/pricing?model=open/x")).await, "1.8");
    // A card of the list's own is not multiplied; an override is put together when published.
    let own = json!({ "merge": true, "overrides": [{ "model": "m", "output": "1" }], "cards": [card("own", "3")] });
    publish(&operator, "gold", own).await;
    let path = format!("{LISTS}/gold/cards/m");
    let shown = operator.get(&path).expect(200).await.body;
    assert_eq!(shown["card"], json!({ "model": "m", "input": "18", "output": "1" }));
    let path = format!("{LISTS}/gold/cards/open%2Fx");
    let shown = operator.get(&path).expect(200).await.body;
    assert_eq!((&shown["card"]["input"], &shown["card_of_version"]), (&json!("1.8"), &json!(4)));
    let history = customer.get("/api/pricing/history?model=m").expect(200).await.body;
    assert_eq!(history["models_for"], "you");
    assert_eq!(history["prices"].as_array().unwrap().len(), 2, "{history}");
    // What is used is not deleted.
    operator.delete(&format!("{LISTS}/gold")).expect(409).await;
    operator.delete(&list).expect(204).await;
    assert_eq!(input(asks()).await, "20");
    // Whom there is not, and what there is not.
    let nobody = "/api/admin/users/user-00000000-0000-4000-8000-000000000000/price-list";
    operator.put(nobody, &json!({ "list": "gold" })).expect(404).await;
    operator.put(&list, &json!({ "list": "silver" })).expect(400).await;
    operator.put(&list, &json!({ "list": "routes" })).expect(409).await;
    customer.put(&list, &json!({ "list": "gold" })).expect(403).await;
    server.stop();
    verify(&database);
}

async fn a_draft_may_vanish_and_a_version_may_be_withdrawn_before_it_is_in_force(
    database: Database,
) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let path = versions("default");
    let mut drafts = Vec::new();
    for price in ["1", "2"] {
        let drafted =
            operator.post(&path, &json!({ "cards": [card("m", price)] })).expect(201).await;
        drafts.push(drafted.body["draft"]["id"].as_str().unwrap().to_owned());
    }
    let listed = operator.get(&path).expect(200).await.body;
    assert_eq!(listed["drafts"][0]["content"]["cards"][0]["input"], "2");
    assert_eq!(listed["versions"], json!([]));
    operator.delete(&format!("{path}/{}", drafts[1])).expect(204).await;
    operator.delete(&format!("{path}/{}", drafts[1])).expect(404).await;
    operator.post(&format!("{path}/{}/publish", drafts[1]), &json!({})).expect(404).await;
    // Tried, and nothing has happened.
    let publish = format!("{path}/{}/publish", drafts[0]);
    let tried =
        operator.post(&format!("{publish}?dry_run=true"), &json!({})).expect(200).await.body;
    assert_eq!((&tried["dry_run"], &tried["versions"][0]["id"]), (&json!(true), &json!(2)));
    assert_eq!(operator.get(&path).expect(200).await.body["versions"], json!([]));
    let early = operator.post(&publish, &json!({ "effective_from": at(9) })).expect(400).await.body;
    assert_eq!(early["details"][0]["field"], "effective_from");
    operator.post(&publish, &json!({ "effective_from": at(30) })).expect(201).await;
    let listed = operator.get(&path).expect(200).await.body;
    assert_eq!(listed["drafts"], json!([]));
    // It was published once.
    operator.post(&publish, &json!({})).expect(404).await;
    operator.delete(&format!("{path}/2")).expect(409).await;
    let withdrawn = operator.post(&format!("{path}/2/withdraw"), &json!({})).expect(200).await.body;
    assert_eq!(withdrawn["versions"][0]["state"], "withdrawn");
    operator.post(&format!("{path}/2/withdraw"), &json!({})).expect(409).await;
    server.advance(31);
    assert_eq!(server.get("/api/pricing").expect(200).await.body["models"], json!([]));
    // Its number stays used.
    let next = operator
        .post(&path, &json!({ "cards": [card("m", "3")], "publish": true }))
        .expect(201)
        .await;
    assert_eq!(next.body["versions"][0]["id"], 3);
    server.advance(10);
    operator.post(&format!("{path}/3/withdraw"), &json!({})).expect(409).await;
    assert_eq!(input(server.get("/api/pricing")).await, "3");
    let empty = json!({ "name": "empty" });
    operator.post(&format!("{LISTS}?dry_run=true"), &empty).expect(200).await;
    operator.post(LISTS, &empty).expect(201).await;
    operator.delete(&format!("{LISTS}/empty")).expect(204).await;
    operator.get(&format!("{LISTS}/empty")).expect(404).await;
    operator.delete(&format!("{LISTS}/default")).expect(409).await;
    server.stop();
    verify(&database);
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn what_is_wrong_is_told_with_its_place_and_changes_nothing(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.pricing.notice_seconds = 0).await;
    let operator = server.operator(&database, "operator").await;
    let path = versions("default");
    let wrong = json!({ "publish": true, "cards": [
        { "model": "a", "input": 1.5 }, { "model": "B", "input": "1" },
        { "model": "c", "rows": [{ "service": "gold", "input": "0.0000000001" }] },
    ] });
    let told = operator.post(&path, &wrong).expect(400).await.body;
    let fields: Vec<_> = told["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|detail| detail["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        ["cards[0].input", "cards[1].model", "cards[2].rows[0].service", "cards[2].rows[0].input"]
    );
    assert!(told["details"][0]["message"].as_str().unwrap().contains("in quotes"), "{told}");
    for (body, field) in [
        (json!({ "publish": true, "cards": [] }), "cards"),
        (json!({ "publish": true, "cards": [card("a", "1")], "multiplier": "0.9" }), "multiplier"),
        (json!({ "publish": true, "cards": [card("a", "1")], "multiplier": "0" }), "multiplier"),
        (json!({ "publish": true, "cards": [card("a", "1")], "parent": "silver" }), "parent"),
        (json!({ "publish": true, "cards": [card("a", "1")], "parent": "default" }), "parent"),
        (
            json!({ "publish": true, "cards": [card("a", "1")], "effective_from": "soon" }),
            "effective_from",
        ),
        (
            json!({ "publish": true, "cards": [card("a", "1")], "effective_from": at(-1) }),
            "effective_from",
        ),
        (json!({ "cards": [card("a", "1")], "effective_from": at(100) }), "effective_from"),
        (
            json!({ "publish": true, "merge": true, "cards": [{ "model": "a", "remove": true }] }),
            "cards",
        ),
        (json!({ "publish": true, "overrides": [{ "model": "a", "input": "1" }] }), "overrides"),
    ] {
        let told = operator.post(&path, &body).expect(400).await.body;
        assert_eq!(told["details"][0]["field"], field, "{told}");
    }
    let twice = r#"{"publish": true, "cards": [{"model": "a", "input": "1", "input": "2"}]}"#;
    operator.post(&path, &json!(null)).body(twice).expect(400).await;
    operator
        .post(&versions("routes"), &json!({ "publish": true, "cards": [card("a", "1")] }))
        .expect(409)
        .await;
    operator
        .post(&versions("silver"), &json!({ "publish": true, "cards": [card("a", "1")] }))
        .expect(404)
        .await;
    assert_eq!(operator.get(&path).expect(200).await.body["versions"], json!([]));
    // Four lists, each inheriting from the one before, and no fifth.
    publish(&operator, "default", json!({ "cards": [card("a", "1")] })).await;
    let mut parent = "default".to_owned();
    for (place, status) in [(2, 201), (3, 201), (4, 201), (5, 400)] {
        let name = format!("list-{place}");
        operator.post(LISTS, &json!({ "name": name, "parent": parent })).expect(201).await;
        let body = json!({ "publish": true, "multiplier": "0.5" });
        let told = operator.post(&versions(&name), &body).expect(status).await.text;
        assert!(status == 201 || told.contains("more than 4 price lists"), "{told}");
        parent = name;
    }
    let circle = json!({ "publish": true, "parent": "list-4", "cards": [card("a", "1")] });
    let told = operator.post(&path, &circle).expect(400).await.body;
    assert_eq!(told["details"][0]["field"], "parent");
    for usage in [
        json!({ "inputs": 1 }),
        json!({ "video": 1 }),
        json!({ "input": u64::MAX, "output": u64::MAX }),
    ] {
        server
            .post("/api/pricing/quote", &json!({ "model": "a", "usage": usage }))
            .expect(400)
            .await;
    }
    server.stop();
    verify(&database);
}

async fn of_ten_publishers_at_once_nothing_is_lost(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let path = versions("default");
    let publishing = (0..10).map(|place| {
        let card = card(&format!("m-{place}"), "1");
        operator
            .post(&path, &json!({ "publish": true, "merge": true, "cards": [card] }))
            .expect(201)
    });
    let published = join_all(publishing).await;
    let mut ids: Vec<i64> =
        published.iter().map(|one| one.body["versions"][0]["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (2..12).collect::<Vec<i64>>());
    let last = operator.get(&format!("{path}/11")).expect(200).await.body;
    assert_eq!(last["cards"].as_array().unwrap().len(), 10, "{last}");
    // Four processes, while the server runs.
    let stores = join_all((0..4).map(|_| store(&database))).await;
    let at = |store: &polysystems::store::Store| {
        use domain::card_document::read_edits;
        use domain::price_book::{ListId, Publication};
        use polysystems::store::price_lists::{PublishAt, PublishWhat};
        let cards = json!([card("m-0", "2")]);
        let publication = Publication {
            list: ListId::DEFAULT,
            parent: None,
            usual_parent: None,
            multiplier: None,
            effective_from: domain::Timestamp::default(),
            edits: read_edits(Some(&cards), None).unwrap(),
            keeps_others: true,
        };
        let at = PublishAt {
            clock: polysystems::clock::Clock::System,
            notice_micros: 0,
            wanted: None,
            is_dry_run: false,
        };
        let act = domain::Origin::local(domain::Actor::Server).act(
            uuid::Uuid::now_v7(),
            domain::UserId(uuid::Uuid::nil()),
            domain::ActKind::PricesPublished,
            domain::Timestamp::default(),
        );
        let store = store.clone();
        async move {
            store
                .publish_version(PublishWhat::New(publication), at, Box::new(|_| Ok(act)))
                .await
                .unwrap()
                .unwrap()
        }
    };
    let published = join_all(stores.iter().map(at)).await;
    let mut ids: Vec<u32> = published.iter().map(|one| one.versions[0].id().number()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [12, 13, 14, 15]);
    for store in stores {
        store.close().await;
    }
    server.stop();
    verify(&database);
}

/// An exact amount of a bill, in 1e-18 dollars.
fn attos(text: &Value) -> i128 {
    let text = text.as_str().unwrap();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    sign * format!("{whole}{fraction:0<18}").parse::<i128>().unwrap()
}

/// Calls a route of which each costs something, and returns the reference of the last charge.
async fn charged(server: &Server, user: &User<'_>) -> String {
    let key = user.key().await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    user.ledger().await.last().unwrap()["reference"].as_str().unwrap().to_owned()
}

async fn a_bill_can_be_computed_again_by_hand(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let (user, other) = (server.user("user").await, server.user("other").await);
    user.pay("1.00").await;
    let charge = charged(&server, &user).await;
    let path = format!("/api/payments/transactions/{charge}/bill");
    let bill = user.get(&path).expect(200).await.body;
    assert_eq!(bill["charge"], charge);
    assert_eq!((&bill["price_version"], &bill["service"]), (&json!(1), &json!("standard")));
    assert_eq!(nanos(&bill["amount"]), -nanos(&bill["cost"]));
    // By hand: the parts, their sum, and what rounding adds.
    let mut sum = 0;
    for part in bill["parts"].as_array().unwrap() {
        let number = |field: &str| i128::from(part[field].as_u64().unwrap());
        let by_hand = number("quantity") * attos(&part["price"]) / number("per");
        assert_eq!(by_hand, attos(&part["amount"]), "{part}");
        sum += by_hand;
    }
    assert_eq!(sum, attos(&bill["sum"]));
    let cost = i128::from(nanos(&bill["cost"])) * 1_000_000_000;
    assert_eq!(sum + attos(&bill["rounding"]), cost);
    let page = user.get(&path).header("accept", "text/plain").expect(200).await;
    assert!(page.header("content-type").starts_with("text/plain"));
    for line in ["dimension", "request", "sum", "rounding", "taken", "version 1, in force from"] {
        assert!(page.text.contains(line), "{}", page.text);
    }
    // Nobody else's, whatever they ask for.
    for (who, path) in [
        (&other, path.clone()),
        (
            &user,
            "/api/payments/transactions/req-00000000-0000-4000-8000-000000000000/bill".to_owned(),
        ),
        (&user, "/api/payments/transactions/1/bill".to_owned()),
    ] {
        let none: Answer = who.get(&path).expect(404).await;
        assert!(none.text.contains("charge"), "{}", none.text);
    }
    server.get(&path).expect(401).await;
    let admins = format!("/api/admin/bills/{charge}");
    user.get(&admins).expect(403).await;
    let seen = operator.get(&admins).expect(200).await.body;
    assert_eq!((&seen["agrees"], &seen["user_id"]), (&json!(true), &json!(user.id)));
    assert_eq!(seen["bill"], bill);
    let acts =
        operator.get(&format!("/api/admin/audit-log?user_id={}", user.id)).expect(200).await.text;
    assert!(acts.contains(&charge), "{acts}");
    // Also when its usage record is gone: then operators say whose it is. The clock of this test
    // stands in 2024, and the id of the call is of today, so it is not found by its time.
    let gone = operator.get(&format!("{admins}?user_id={}", other.id)).expect(404).await;
    assert!(gone.text.contains("charge"), "{}", gone.text);
}

async fn bills_are_computed_again_in_a_report(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    user.pay("1.00").await;
    for _ in 0..3 {
        charged(&server, &user).await;
    }
    let path = "/api/admin/bills/recompute";
    let report =
        operator.post(path, &json!({ "from": at(0), "to": at(10) })).expect(200).await.body;
    assert_eq!((&report["count"], &report["differing"]), (&json!(3), &json!(0)));
    assert_eq!((&report["complete"], &report["billed"]), (&json!(true), &report["recomputed"]));
    assert_eq!(nanos(&report["billed"]), 1_500_000);
    for (body, count, not_computable) in [
        (json!({ "from": at(1), "to": at(10) }), 0, 0),
        (json!({ "from": at(0), "to": at(10), "model": "nothing" }), 0, 0),
        (json!({ "from": at(0), "to": at(10), "version": 1 }), 3, 0),
        (
            json!({ "from": at(0), "to": at(10), "convention": { "cache": "beside", "thoughts": "within" } }),
            3,
            0,
        ),
    ] {
        let report = operator.post(path, &body).expect(200).await.body;
        assert_eq!(report["count"], count, "{report}");
        assert_eq!(report["not_computable"], not_computable, "{report}");
    }
    // By a list that does not sell the route.
    publish(&operator, "default", json!({ "cards": [card("m", "1")] })).await;
    let other = json!({ "from": at(0), "to": at(10), "version": 2 });
    let report = operator.post(path, &other).expect(200).await.body;
    assert_eq!((&report["not_computable"], nanos(&report["billed"])), (&json!(3), 0));
    assert_eq!(report["differences"].as_array().unwrap().len(), 3);
    let none = json!({ "from": at(0), "to": at(10), "version": 9 });
    operator.post(path, &none).expect(404).await;
    operator.post(path, &json!({ "from": "x", "to": at(10) })).expect(400).await;
    user.post(path, &other).expect(403).await;
}

async fn a_charge_is_corrected_once_for_a_reason(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let (user, other) = (server.user("user").await, server.user("other").await);
    user.pay("1.00").await;
    let charge = charged(&server, &user).await;
    let path = format!("/api/admin/users/{}/corrections", user.id);
    let body = json!({ "charge": charge, "amount": 0.0002, "reason": "ticket 7: counted twice" });
    let answers = join_all((0..10).map(|_| operator.post(&path, &body).send())).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 201]);
    let ledger = user.ledger().await;
    assert_eq!(ledger.len(), 3, "{ledger:?}");
    let last = ledger.last().unwrap();
    assert_eq!((&last["kind"], &last["reference"]), (&json!("grant"), &json!(charge)));
    assert_eq!(nanos(&last["amount"]), 200_000);
    // The same reason and another amount is another thing.
    let mut otherwise = body.clone();
    otherwise["amount"] = json!(0.0001);
    operator.post(&path, &otherwise).expect(409).await;
    // No more than it has taken: 0.0005, of which 0.0002 are back.
    let mut more = body.clone();
    (more["amount"], more["reason"]) = (json!(0.0004), json!("too much"));
    let told = operator.post(&path, &more).expect(400).await.text;
    assert!(told.contains("0.0003"), "{told}");
    more["amount"] = json!(0.0003);
    operator.post(&path, &more).expect(201).await;
    let mut taken = body.clone();
    (taken["amount"], taken["reason"]) = (json!(-0.1), json!("it was 0.1 after all"));
    operator.post(&path, &taken).expect(201).await;
    taken["reason"] = json!("and more than there is");
    taken["amount"] = json!(-5);
    operator.post(&path, &taken).expect(409).await;
    assert_eq!(user.folded().await, 900_000_000);
    let bill =
        user.get(&format!("/api/payments/transactions/{charge}/bill")).expect(200).await.body;
    let later: Vec<_> =
        bill["later"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(later, ["grant", "grant", "deduction"]);
    // What is not there, and who may not.
    let foreign = format!("/api/admin/users/{}/corrections", other.id);
    operator.post(&foreign, &body).expect(404).await;
    let mut none = body.clone();
    none["charge"] = json!("req-00000000-0000-4000-8000-000000000000");
    operator.post(&path, &none).expect(404).await;
    user.post(&path, &body).expect(403).await;
    none["amount"] = json!(0);
    operator.post(&path, &none).expect(400).await;
    let csv = user.get("/api/payments/transactions/export").expect(200).await.text;
    assert_eq!(csv.matches(&charge).count(), 4, "{csv}");
    let User { id, token, .. } = operator;
    server.stop();
    // A server that starts later knows what was corrected.
    let server = Server::start(&database).await;
    let operator = User { server: &server, id, token };
    operator.post(&path, &body).expect(200).await;
    server.stop();
    verify(&database);
}

async fn the_command_line_publishes_and_shows(database: Database) {
    let server = Server::start(&database).await;
    server.operator(&database, "operator").await;
    let user = server.user("user").await;
    user.pay("1.00").await;
    let charge = charged(&server, &user).await;
    let file = database.folder().join("prices.toml");
    std::fs::write(&file, "[[cards]]\nmodel = \"gpt-6\"\ninput = \"10\"\noutput = \"50\"\n")
        .unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = command(&database);
        command.args(arguments).args(["--as", "operator@example.com"]);
        command.args(["--url", &server.url("")]);
        let (code, out, error) =
            tokio::task::spawn_blocking(move || finished(&mut command)).await.unwrap();
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        serde_json::from_str::<Value>(&out).unwrap_or_else(|_| json!(out))
    };
    let file = file.to_str().unwrap();
    let drafted = run(&["prices", "apply", file]).await;
    assert_eq!(drafted["draft"]["id"], "draft-1", "{drafted}");
    let published = run(&["prices", "publish", "default", "draft-1", "--effective", &at(60)]).await;
    assert_eq!(published["versions"][0]["effective_from"], at(60));
    let withdrawn = run(&["prices", "withdraw", "default", "2"]).await;
    assert_eq!(withdrawn["versions"][0]["state"], "withdrawn");
    run(&["prices", "apply", file, "--publish"]).await;
    server.advance(10);
    let shown = run(&["prices", "show", "default", "--model", "gpt-6"]).await;
    assert_eq!(shown["card"]["output"], "50");
    assert_eq!(run(&["prices", "show"]).await["price_lists"][1]["in_force"]["id"], 3);
    let quoted = run(&["prices", "quote", "gpt-6", "input=1000", "output=10"]).await;
    assert_eq!(nanos(&quoted["cost"]), 10_500_000);
    assert_eq!(run(&["bill", &charge]).await["bill"]["charge"], charge);
}

async fn a_document_may_be_large_and_not_too_large(database: Database) {
    const CATALOGUE: &str = "/api/admin/catalogue";
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    let mebibyte = 1024 * 1024;
    // As an import of a public price file makes them.
    let services = ["standard", "flex", "priority", "batch", "fast"];
    let row = |service: &&str| {
        json!({ "service": service, "input": "1.234567891", "output": "12.345678912", "cache_read": "0.123456789",
            "cache_write": "1.543209864", "cache_write_1h": "2.469135782" })
    };
    let rows: Vec<Value> = services.iter().map(row).collect();
    let card =
        |number: usize| json!({ "model": format!("{}-{number}", "m".repeat(100)), "rows": rows });
    let cards: Vec<Value> = (0..2_700).map(card).collect();
    let prices = json!({ "cards": cards, "publish": true });
    let size = prices.to_string().len();
    assert!((2 * mebibyte..3 * mebibyte).contains(&size), "{size}");
    let published = operator.post(&versions("default"), &prices).expect(201).await.body;
    assert_eq!(published["versions"][0]["own_cards"], 2_700);
    let aliases = |number: usize| -> Vec<String> {
        (0..50).map(|alias| format!("{}-{number}-{alias}", "a".repeat(110))).collect()
    };
    let model = |number: usize| {
        json!({ "name": format!("m-{number}"), "max_input": 1_000, "max_output": 1_000,
            "aliases": aliases(number), "targets": [{ "credential": "main" }] })
    };
    let mut document = json!({
        "providers": [{ "name": "p", "dialect": "openai" }],
        "credentials": [{ "name": "main", "provider": "p" }],
        "models": (0..350).map(model).collect::<Vec<_>>(),
    });
    assert!(document.to_string().len() > 2 * mebibyte);
    let put = |document: &Value| operator.put(CATALOGUE, document).header("If-Match", "\"rev-0\"");
    let changed = put(&document).expect(200).await.body;
    assert_eq!(changed["changes"].as_array().unwrap().len(), 352);
    let patch = operator.patch(CATALOGUE, &document).header("If-Match", "\"rev-1\"");
    assert_eq!(patch.expect(200).await.body["revision"], 1);
    // One byte too many; and who may not write one sends nothing of it.
    document["padding"] = json!("");
    let padding = 8 * mebibyte + 1 - document.to_string().len();
    document["padding"] = json!("x".repeat(padding));
    let refused = put(&document).expect(413).await;
    assert!(refused.text.contains("8388608"), "{}", refused.text);
    operator.post(&versions("default"), &document).expect(413).await;
    document["padding"] = json!("x".repeat(padding - 1));
    // That is taken, and is no catalogue.
    let whole = operator.put(CATALOGUE, &document).header("If-Match", "\"rev-1\"");
    whole.expect(400).await;
    user.put(CATALOGUE, &document).header("If-Match", "\"rev-1\"").expect(403).await;
    server.put(CATALOGUE, &document).header("If-Match", "\"rev-1\"").expect(401).await;
    // What is no document is as small as before.
    operator.post(LISTS, &json!({ "name": "x".repeat(300 * 1024) })).expect(413).await;
}
