//! Credits in, and the ledger as its owner sees it.

use polysystems::config::{Secret, Settings};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use polysystems::models::Selling;

use crate::models::{book, catalogue};
use crate::support::stripe::Stripe;
use crate::support::{Database, Server, on_both};

on_both!(
    a_payment_is_credited_at_once,
    amounts_that_make_no_sense_are_refused,
    lists_are_read_page_by_page,
    a_payment_is_its_owners_alone,
    the_sandbox_provider_can_be_off,
    nobody_gives_themselves_credits_where_something_is_sold,
    nobody_gives_themselves_credits_once_models_are_sold,
    money_of_a_test_buys_no_models,
    nobody_gives_themselves_credits_through_a_proxy,
    the_ledger_cannot_be_changed,
);

async fn a_payment_is_credited_at_once(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let balance = user.get("/api/payments/credits/balance").expect(200).await;
    assert_eq!(balance.number("balance"), "0.0000");
    server.advance(60);
    let body = "{\"amount\": 25.00}";
    let paid = user.post("/api/payments/payments", &json!(null)).body(body).expect(201).await;
    assert_eq!(paid.number("amount"), "25.0000");
    let id = paid.body["id"].as_str().unwrap();
    assert!(id.starts_with("pay-"));
    for (field, expected) in [
        ("currency", "USD"),
        ("status", "confirmed"),
        ("provider", "sandbox"),
        ("created_at", "2024-01-15T12:01:00Z"),
        ("confirmed_at", "2024-01-15T12:01:00Z"),
    ] {
        assert_eq!(paid.body[field], expected);
    }
    let again = user.get(&format!("/api/payments/payments/{id}")).expect(200).await;
    assert_eq!(again.text, paid.text);
    let balance = user.get("/api/payments/credits/balance").expect(200).await;
    assert_eq!(balance.number("balance"), "25.0000");
    assert_eq!(balance.body["user_id"], user.id.as_str());
    assert_eq!(balance.body["last_updated"], "2024-01-15T12:01:00Z");
    let ledger = user.ledger().await;
    assert_eq!(ledger.len(), 1);
    assert_eq!((&ledger[0]["kind"], &ledger[0]["reference"]), (&json!("top_up"), &json!(id)));
}

async fn amounts_that_make_no_sense_are_refused(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for amount in
        ["0", "-1", "1e3", "\"25.00\"", "null", "100000.01", "0.0000000001", "1e400", "true"]
    {
        let body = format!("{{\"amount\": {amount}}}");
        let request = user.post("/api/payments/payments", &json!(null)).body(body);
        let refused = request.expect(400).await;
        assert_eq!(refused.body["details"][0]["field"], "amount", "{amount}: {}", refused.text);
    }
    for (provider, status) in [("stripe", 403), ("x402", 403), ("barter", 400)] {
        let body = json!({ "amount": 1, "provider": provider });
        user.post("/api/payments/payments", &body).expect(status).await;
    }
    assert!(user.ledger().await.is_empty());
    // To the last nano-dollar.
    user.pay("0.000000001").await;
    user.pay("99999.999999999").await;
    assert_eq!(user.balance().await, "100000.0000");
}

async fn lists_are_read_page_by_page(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    for cents in 1..=7 {
        user.pay(&format!("0.0{cents}")).await;
    }
    for (list, path) in
        [("payments", "/api/payments/payments"), ("transactions", "/api/payments/transactions")]
    {
        let mut seen = Vec::new();
        let mut pages = 0;
        let mut query = "?limit=3".to_owned();
        loop {
            let page = user.get(&format!("{path}{query}")).expect(200).await.body;
            seen.extend(
                page[list].as_array().unwrap().iter().map(|item| item["amount"].to_string()),
            );
            pages += 1;
            match page["next_cursor"].as_str() {
                Some(cursor) => query = format!("?limit=3&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(pages, 3);
        assert_eq!(seen, ["0.07", "0.06", "0.05", "0.04", "0.03", "0.02", "0.01"], "{list}");
        for query in ["?limit=0", "?limit=101", "?limit=x", "?cursor=nonsense", "?page=2"] {
            user.get(&format!("{path}{query}")).expect(400).await;
        }
    }
}

async fn a_payment_is_its_owners_alone(database: Database) {
    let server = Server::start(&database).await;
    let owner = server.user("owner").await;
    let other = server.user("other").await;
    owner.pay("1.00").await;
    let list = owner.get("/api/payments/payments").expect(200).await.body;
    let id = list["payments"][0]["id"].as_str().unwrap().to_owned();
    for id in [id.as_str(), "pay-00000000-0000-4000-8000-000000000000", "x"] {
        let refused = other.get(&format!("/api/payments/payments/{id}")).expect(404).await;
        refused.assert_error("Not found", "There is no such payment");
    }
    let list = other.get("/api/payments/payments").expect(200).await.body;
    assert_eq!(list["payments"], json!([]));
}

async fn the_sandbox_provider_can_be_off(database: Database) {
    let server =
        Server::start_with(&database, |settings| settings.payments.sandbox = Some(false)).await;
    let user = server.user("someone").await;
    let refused = user.post("/api/payments/payments", &json!({ "amount": 1 })).expect(403).await;
    assert_eq!(refused.body["error"], "Payment provider disabled");
    assert!(
        refused.body["message"].as_str().unwrap().contains("POLYSYSTEMS_PAYMENTS__SANDBOX=true")
    );
    assert!(user.ledger().await.is_empty());
}

/// What a stranger tried behind a proxy that nobody had told the server of: their own credits,
/// spent at the real upstream.
async fn nobody_gives_themselves_credits_where_something_is_sold(database: Database) {
    type Change = fn(&mut Settings);
    let changes: [(&str, Change); 4] = [
        ("upstream", |it| it.upstreams.v1.url = Some("http://127.0.0.1:9".into())),
        ("stripe", |it| it.payments.stripe.secret_key = secret("sk_test_1")),
        ("x402", |it| it.payments.x402.facilitator_url = Some("http://127.0.0.1:9".into())),
        ("proxy", |it| it.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]),
    ];
    for (name, change) in changes {
        let server = Server::start_with(&database, |settings| {
            settings.payments.sandbox = None;
            change(settings);
            if settings.payments.stripe.secret_key.is_some() {
                settings.payments.stripe.webhook_secret = secret("whsec_1");
            }
            if settings.payments.x402.facilitator_url.is_some() {
                settings.payments.x402.pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C".into();
            }
        })
        .await;
        let user = server.user(name).await;
        let body = json!({ "amount": 100_000, "provider": "sandbox" });
        let refused = user.post("/api/payments/payments", &body).expect(403).await;
        assert_eq!(refused.body["error"], "Payment provider disabled", "{name}");
        assert!(user.ledger().await.is_empty(), "{name}");
    }
}

/// The settings say nothing of a catalogue, and it can be filled while the server runs.
async fn nobody_gives_themselves_credits_once_models_are_sold(database: Database) {
    let server = Server::start_with(&database, |settings| settings.payments.sandbox = None).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 1, "provider": "sandbox" });
    user.post("/api/payments/payments", &body).expect(201).await;
    server.stop();
    let server = Server::start_prepared(
        &database,
        |settings| settings.payments.sandbox = None,
        |gateway| {
            let sold = catalogue("http://127.0.0.1:9");
            gateway.models.replace(Selling::new(sold, book(), [].into()));
        },
    )
    .await;
    let user = server.log_in_again("someone").await;
    for body in [body, json!({ "amount": 1 })] {
        let refused = user.post("/api/payments/payments", &body).expect(403).await;
        assert_eq!(refused.body["error"], "Payment provider disabled");
    }
    assert_eq!(user.balance().await, "1.0000");
}

/// Stripe's test cards cost nothing, and what models cost the operator pays.
async fn money_of_a_test_buys_no_models(database: Database) {
    let stripe = Stripe::start();
    let start = async |sells_for_it: bool| {
        let url = stripe.url.clone();
        Server::start_prepared(
            &database,
            move |settings| {
                settings.payments.stripe.url = url;
                settings.payments.stripe.secret_key = secret("sk_test_1");
                settings.payments.stripe.webhook_secret = secret("whsec_1");
                settings.payments.sell_for_test_money = sells_for_it;
            },
            |gateway| {
                let sold = catalogue("http://127.0.0.1:9");
                gateway.models.replace(Selling::new(sold, book(), [].into()));
            },
        )
        .await
    };
    let server = start(false).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 10, "provider": "stripe" });
    let refused = user.post("/api/payments/payments", &body).expect(403).await;
    assert!(refused.text.contains("payments.stripe.secret_key is a test key"), "{}", refused.text);
    assert_eq!(stripe.intents(), 0);
    server.stop();
    let server = start(true).await;
    let user = server.log_in_again("someone").await;
    let asked = user.post("/api/payments/payments", &body).send().await;
    assert!(!asked.text.contains("is a test key"), "{}", asked.text);
}

/// Nothing is set: the sandbox pays who comes directly, and nobody else.
async fn nobody_gives_themselves_credits_through_a_proxy(database: Database) {
    let server = Server::start_with(&database, |settings| settings.payments.sandbox = None).await;
    let user = server.user("someone").await;
    let payment = || user.post("/api/payments/payments", &json!({ "amount": 1 }));
    for (name, value) in [
        ("Forwarded", "for=203.0.113.9"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("x_forwarded_for", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "api.example.com"),
        ("X-Real-IP", "203.0.113.9"),
        ("Via", "1.1 proxy"),
        ("CF-Connecting-IP", "203.0.113.9"),
        ("Host", "api.example.com"),
        ("Host", "192.0.2.1:8080"),
    ] {
        let refused = payment().header(name, value).expect(403).await;
        assert_eq!(refused.body["error"], "Payment provider disabled", "{name}: {value}");
    }
    // As nginx asks if nobody has told it more: HTTP/1.0, and the name of its upstream.
    let body = "{\"amount\": 1}";
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/payments/payments HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        user.token,
        body.len()
    );
    plain.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 403 "), "{answer}");
    assert!(user.ledger().await.is_empty());
    payment().expect(201).await;
    let port = server.address.port();
    payment().header("Host", &format!("localhost:{port}")).expect(201).await;
}

fn secret(text: &str) -> Option<Secret> {
    serde_json::from_value(text.into()).ok()
}

async fn the_ledger_cannot_be_changed(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    for sql in ["UPDATE ledger_entry SET amount = 2", "DELETE FROM ledger_entry"] {
        let error = database.execute(sql).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{error}");
    }
    // The last line behind the actor: the database itself refuses a negative balance.
    assert!(database.execute("UPDATE account SET balance = -1").await.is_err());
}
