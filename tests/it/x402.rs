//! Payments by x402: asked for, signed, verified, settled; and calls that pay for themselves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actix_web::web::{Data, Json};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::process::{Process, verify};
use crate::support::{Answer, Database, Server, nanos, on_both};

on_both!(
    a_payment_is_asked_for_and_credited_once,
    a_call_pays_for_itself,
    what_is_no_payment_to_us_credits_nothing,
    an_authorization_is_good_for_one_account,
    an_authorization_is_one_however_it_is_written,
    a_transaction_pays_for_one_payment,
    what_is_settled_without_a_transaction_waits_for_it,
    the_resource_is_named_by_what_the_client_wrote,
    a_crash_between_settlement_and_credit_is_made_good,
);

const PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";

#[derive(Default)]
struct Shared {
    /// Authorizations that were settled.
    settled: Mutex<BTreeSet<String>>,
    verifies: AtomicUsize,
    settles: AtomicUsize,
    refuses: AtomicBool,
    /// Does it answer for what was settled before as if it were the first time?
    repeats: AtomicBool,
    /// Does it name every transaction alike?
    same: AtomicBool,
    /// Does it name no transaction?
    nameless: AtomicBool,
}

/// A facilitator that a test plays.
struct Facilitator {
    url: String,
    shared: Arc<Shared>,
}

impl Facilitator {
    fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let of_server = Data::from(Arc::clone(&shared));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let app =
                move || App::new().app_data(of_server.clone()).default_service(web::to(answer));
            let server = HttpServer::new(app).workers(1).disable_signals();
            actix_web::rt::System::new().block_on(server.listen(listener).unwrap().run())
        });
        Facilitator { url, shared }
    }
}

async fn answer(request: HttpRequest, body: Json<Value>, shared: Data<Shared>) -> HttpResponse {
    assert_eq!(body["x402Version"], 2);
    assert_eq!(body["paymentRequirements"], body["paymentPayload"]["accepted"]);
    assert_eq!(body["paymentRequirements"]["payTo"], PAY_TO);
    let authorization = &body["paymentPayload"]["payload"]["authorization"];
    assert_eq!(authorization["value"], body["paymentRequirements"]["amount"]);
    let nonce = authorization["nonce"].as_str().unwrap().to_owned();
    let is_refused = shared.refuses.load(Ordering::SeqCst);
    if request.path() == "/verify" {
        shared.verifies.fetch_add(1, Ordering::SeqCst);
        return HttpResponse::Ok().json(if is_refused {
            json!({ "isValid": false, "invalidReason": "insufficient_funds", "payer": "0x1" })
        } else {
            json!({ "isValid": true, "payer": "0x1" })
        });
    }
    assert_eq!(request.path(), "/settle");
    shared.settles.fetch_add(1, Ordering::SeqCst);
    let is_first = shared.settled.lock().unwrap().insert(nonce.to_lowercase());
    let is_settled = is_first || shared.repeats.load(Ordering::SeqCst);
    HttpResponse::Ok().json(if is_settled {
        let transaction = shared.same.load(Ordering::SeqCst).then(|| "0xsame".to_owned());
        let mut transaction = transaction.unwrap_or_else(|| nonce.replace("0x", "0xabc"));
        if shared.nameless.load(Ordering::SeqCst) {
            transaction.clear();
        }
        json!({ "success": true, "payer": "0x1", "transaction": transaction,
            "network": "eip155:8453" })
    } else {
        json!({ "success": false, "errorReason": "invalid_exact_evm_nonce_already_used",
            "transaction": "", "network": "eip155:8453" })
    })
}

async fn start(database: &Database, facilitator: &Facilitator) -> Server {
    let url = facilitator.url.clone();
    Server::start_with(database, move |settings| {
        settings.payments.x402.facilitator_url = Some(url);
        settings.payments.x402.pay_to = PAY_TO.into();
    })
    .await
}

/// What a header of the server says.
fn decoded(answer: &Answer, name: &str) -> Value {
    let header = answer.headers.get(name).unwrap_or_else(|| panic!("no {name}: {}", answer.text));
    serde_json::from_slice(&STANDARD.decode(header.as_bytes()).unwrap()).unwrap()
}

/// Signs what was asked for, as a wallet would.
fn signed(required: &Value, nonce: u32) -> String {
    written(
        required,
        &format!("{nonce:064x}"),
        "857b06519e91e3a54538791bdbb0e22373e36b66",
        &json!(1),
    )
}

/// The same authorization, written in one way or another.
fn written(required: &Value, nonce: &str, from: &str, more: &Value) -> String {
    let accepted = &required["accepts"][0];
    let payment = json!({
        "x402Version": 2, "resource": required["resource"], "accepted": accepted,
        "payload": { "signature": "0x1234", "more": more, "authorization": {
            "from": format!("0x{from}"), "to": accepted["payTo"], "value": accepted["amount"],
            "validAfter": "0", "validBefore": "99999999999", "nonce": format!("0x{nonce}") } },
    });
    STANDARD.encode(payment.to_string())
}

async fn a_payment_is_asked_for_and_credited_once(database: Database) {
    let facilitator = Facilitator::start();
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 2.5, "provider": "x402" });
    let asked = user.post("/api/payments/payments", &body).expect(402).await;
    assert_eq!(asked.body["error"], "Payment required");
    let required = decoded(&asked, "payment-required");
    let accepted = &required["accepts"][0];
    assert_eq!((&required["x402Version"], &accepted["amount"]), (&json!(2), &json!("2500000")));
    assert_eq!((&accepted["scheme"], &accepted["payTo"]), (&json!("exact"), &json!(PAY_TO)));
    assert!(required["resource"]["url"].as_str().unwrap().ends_with("/api/payments/payments"));
    let header = signed(&required, 1);
    let pay = || user.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", &header);
    // The same authorization many times at once.
    let answers = futures_util::future::join_all((0..8).map(|_| pay().send())).await;
    for answer in &answers {
        assert_eq!(answer.status, 201, "{}", answer.text);
        assert_eq!(answer.body["status"], "confirmed");
        assert_eq!(answer.body["id"], answers[0].body["id"]);
    }
    assert_eq!(decoded(&answers[0], "payment-response")["transaction"].as_str().unwrap().len(), 69);
    assert_eq!(user.balance().await, "2.5000");
    assert_eq!(facilitator.shared.settles.load(Ordering::SeqCst), 1);
    assert_eq!(user.ledger().await.len(), 1);
    // The payload is kept for a crash, and not shown.
    let list = user.get("/api/payments/payments").expect(200).await.text;
    assert!(!list.contains("signature"), "{list}");
    server.stop();
    verify(&database);
}

async fn a_call_pays_for_itself(database: Database) {
    let facilitator = Facilitator::start();
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let (key, test) =
        (user.key().await, user.key_of(&json!({ "name": "t", "environment": "test" })).await);
    let call = || server.post("/api/hub/rag/index", &json!({})).key(&key);
    let asked = call().expect(402).await;
    // The documented body, and beside it what would pay.
    assert_eq!(asked.body["error"], "Insufficient credits");
    let required = decoded(&asked, "payment-required");
    assert_eq!(required["accepts"][0]["amount"], "1000000");
    let header = signed(&required, 2);
    let paid = call().header("PAYMENT-SIGNATURE", &header).expect(200).await;
    assert_eq!(decoded(&paid, "payment-response")["success"], true);
    assert_eq!(paid.header("x-polysystems-cost"), "0.0005");
    assert_eq!(user.balance().await, "0.9995");
    // With credits there the header is not asked for.
    call().header("PAYMENT-SIGNATURE", &header).expect(200).await;
    assert_eq!(user.balance().await, "0.9990");
    assert_eq!(facilitator.shared.settles.load(Ordering::SeqCst), 1);
    // A limit is no want of credits, and test credits are not for sale.
    user.limit(&key, &json!({ "per_request_limit": 0.0001 })).await;
    let limited = call().expect(402).await;
    assert!(!limited.headers.contains_key("payment-required"));
    database.execute("UPDATE account SET balance = balance").await.unwrap();
    let dear =
        json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 100_000_000 });
    let refused = server.post("/v1/chat/completions", &dear).key(&test).send().await;
    assert!(!refused.headers.contains_key("payment-required"), "{}", refused.text);
    server.stop();
    verify(&database);
}

async fn what_is_no_payment_to_us_credits_nothing(database: Database) {
    let facilitator = Facilitator::start();
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 2, "provider": "x402" });
    let pay = |header: &str| {
        user.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", header)
    };
    let asked = user.post("/api/payments/payments", &body).expect(402).await;
    let required = decoded(&asked, "payment-required");
    let altered = |field: &str, value: Value| {
        let mut required = required.clone();
        required["accepts"][0][field] = value;
        signed(&required, 3)
    };
    for header in [
        "nonsense".to_owned(),
        STANDARD.encode("{}"),
        altered("payTo", json!("0x0000000000000000000000000000000000000bad")),
        altered("asset", json!("0xworthless")),
        altered("network", json!("eip155:1")),
        altered("scheme", json!("upto")),
        // Less than was asked for.
        altered("amount", json!("1999999")),
        altered("amount", json!("-2000000")),
        altered("amount", json!("x")),
        "A".repeat(20_000),
    ] {
        pay(&header).expect(400).await;
    }
    assert_eq!(facilitator.shared.verifies.load(Ordering::SeqCst), 0);
    facilitator.shared.refuses.store(true, Ordering::SeqCst);
    let refused = pay(&signed(&required, 4)).expect(402).await;
    assert_eq!(refused.body["error"], "Payment refused");
    assert!(refused.text.contains("insufficient_funds"), "{}", refused.text);
    facilitator.shared.refuses.store(false, Ordering::SeqCst);
    // Spent elsewhere before: the chain has it, and not we.
    facilitator.shared.settled.lock().unwrap().insert(format!("0x{:064x}", 5));
    pay(&signed(&required, 5)).expect(402).await;
    assert_eq!(user.balance().await, "0.0000");
    assert!(user.ledger().await.is_empty());
    let list = user.get("/api/payments/payments").expect(200).await.body;
    let statuses: BTreeSet<&str> = list["payments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|payment| payment["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, BTreeSet::from(["failed"]));
}

async fn an_authorization_is_one_however_it_is_written(database: Database) {
    let facilitator = Facilitator::start();
    facilitator.shared.repeats.store(true, Ordering::SeqCst);
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 2, "provider": "x402" });
    let asked = user.post("/api/payments/payments", &body).expect(402).await;
    let required = decoded(&asked, "payment-required");
    let (nonce, from) = (format!("{:064x}", 0xabc), "857b06519e91e3a54538791bdbb0e22373e36b66");
    let (loud_nonce, loud_from) = (nonce.to_uppercase(), from.to_uppercase());
    let headers = [
        written(&required, &nonce, from, &json!(1)),
        written(&required, &nonce, from, &json!({ "x": [1] })),
        written(&required, &loud_nonce, from, &json!(1)),
        written(&required, &nonce, &loud_from, &json!(null)),
    ];
    let pay =
        |header| user.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", header);
    let answers =
        futures_util::future::join_all(headers.iter().map(|header| pay(header).send())).await;
    for answer in &answers {
        assert_eq!(
            (answer.status, &answer.body["id"]),
            (201.try_into().unwrap(), &answers[0].body["id"])
        );
    }
    // Another way to write the same bytes is none.
    for header in [
        written(&required, &nonce, &format!("0{from}"), &json!(1)),
        written(&required, &nonce[1..], from, &json!(1)),
        written(&required, &nonce.replace('a', " "), from, &json!(1)),
    ] {
        user.post("/api/payments/payments", &body)
            .header("PAYMENT-SIGNATURE", &header)
            .expect(400)
            .await;
    }
    assert_eq!(user.balance().await, "2.0000");
    assert_eq!(facilitator.shared.settles.load(Ordering::SeqCst), 1);
    server.stop();
    verify(&database);
}

/// Whatever a facilitator says: what it calls by one name is credited once.
async fn a_transaction_pays_for_one_payment(database: Database) {
    let facilitator = Facilitator::start();
    facilitator.shared.same.store(true, Ordering::SeqCst);
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 2, "provider": "x402" });
    let asked = user.post("/api/payments/payments", &body).expect(402).await;
    let required = decoded(&asked, "payment-required");
    let pay = |nonce| {
        let header = signed(&required, nonce);
        user.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", &header)
    };
    pay(1).expect(201).await;
    let refused = pay(2).expect(402).await;
    assert!(refused.text.contains("another payment"), "{}", refused.text);
    assert_eq!(user.balance().await, "2.0000");
    server.stop();
    verify(&database);
}

/// The money has moved, so no such payment fails; nor is it credited under no name.
async fn what_is_settled_without_a_transaction_waits_for_it(database: Database) {
    let facilitator = Facilitator::start();
    facilitator.shared.nameless.store(true, Ordering::SeqCst);
    facilitator.shared.repeats.store(true, Ordering::SeqCst);
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 2, "provider": "x402" });
    let asked = user.post("/api/payments/payments", &body).expect(402).await;
    let required = decoded(&asked, "payment-required");
    let pay = |nonce| {
        let header = signed(&required, nonce);
        user.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", &header)
    };
    for nonce in [1, 2] {
        let answer = pay(nonce).expect(424).await;
        assert_eq!(answer.body["error"], "Payment provider unavailable");
    }
    let statuses = async || {
        let payments = user.get("/api/payments/payments").expect(200).await.body;
        let payments = payments["payments"].as_array().unwrap().iter();
        payments.map(|one| one["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(statuses().await, ["confirming", "confirming"]);
    assert_eq!(user.balance().await, "0.0000");
    // Once it has a name, it is credited.
    facilitator.shared.nameless.store(false, Ordering::SeqCst);
    for nonce in [1, 2] {
        pay(nonce).expect(201).await;
    }
    assert_eq!(statuses().await, ["confirmed", "confirmed"]);
    assert_eq!(user.balance().await, "4.0000");
    server.stop();
    verify(&database);
}

async fn the_resource_is_named_by_what_the_client_wrote(database: Database) {
    let facilitator = Facilitator::start();
    let server = start(&database, &facilitator).await;
    let user = server.user("someone").await;
    let body = json!({ "amount": 2, "provider": "x402" });
    let path = "/api/payments/payments";
    let ask = user.post(path, &body);
    let ask = ask.header("X-Forwarded-Proto", "javascript");
    let ask = ask.header("X-Forwarded-Host", "evil2.example");
    let ask = ask.header("Forwarded", "proto=javascript;host=evil2.example");
    let asked = ask.expect(402).await;
    let resource = &decoded(&asked, "payment-required")["resource"]["url"];
    assert_eq!(resource, &server.url(path));
    let ask = user.post(path, &body).header("Host", "evil2.example/?a=<b>");
    let answer = ask.send().await;
    if answer.status == 402 {
        let resource = &decoded(&answer, "payment-required")["resource"]["url"];
        assert_eq!(resource, path);
    }
}

async fn an_authorization_is_good_for_one_account(database: Database) {
    let facilitator = Facilitator::start();
    let server = start(&database, &facilitator).await;
    let (one, other) = (server.user("one").await, server.user("other").await);
    let body = json!({ "amount": 2, "provider": "x402" });
    let asked = one.post("/api/payments/payments", &body).expect(402).await;
    let header = signed(&decoded(&asked, "payment-required"), 6);
    let paid = one.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", &header);
    paid.expect(201).await;
    let again = other.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", &header);
    again.expect(400).await;
    assert_eq!((one.balance().await, other.balance().await), ("2.0000".into(), "0.0000".into()));
    // Both at once with another one: one of them has it.
    let header = signed(&decoded(&asked, "payment-required"), 7);
    let pay = |who: &crate::support::User<'_>| {
        who.post("/api/payments/payments", &body).header("PAYMENT-SIGNATURE", &header).send()
    };
    let answers =
        futures_util::future::join_all([pay(&one), pay(&other), pay(&one), pay(&other)]).await;
    assert!(answers.iter().any(|answer| answer.status == 201));
    let balances = [one.balance().await, other.balance().await];
    assert!(balances == ["4.0000", "0.0000"] || balances == ["2.0000", "2.0000"], "{balances:?}");
    server.stop();
    verify(&database);
}

async fn a_crash_between_settlement_and_credit_is_made_good(database: Database) {
    let facilitator = Facilitator::start();
    // As facilitators do that know their own transactions.
    facilitator.shared.repeats.store(true, Ordering::SeqCst);
    let launch = async |point: Option<&str>| {
        let (url, database) = (facilitator.url.clone(), &database);
        let orders = point.map(|point| format!("{point}=1*return"));
        Process::start_with(database, move |command| {
            command
                .env("POLYSYSTEMS_PAYMENTS__X402__FACILITATOR_URL", url)
                .env("POLYSYSTEMS_PAYMENTS__X402__PAY_TO", PAY_TO);
            if let Some(orders) = orders {
                command.env("FAILPOINTS", orders);
            }
        })
        .await
    };
    let process = launch(None).await;
    let customer = process.customer("someone", 1).await;
    drop(process);
    let points = ["payment-opened", "payment-begun", "payment-settled", "payment-decided"];
    for (round, point) in points.iter().enumerate() {
        assert!(polysystems::failpoint::OF_PAYMENTS.iter().any(|(name, _)| name == point));
        let process = launch(Some(point)).await;
        let pay = async |process: &Process, header: Option<&str>| {
            let request = process.client.post(format!("{}/api/payments/payments", process.url));
            let request = request.bearer_auth(&customer.token);
            let request = request.body(r#"{"amount": 2, "provider": "x402"}"#);
            match header {
                Some(header) => request.header("PAYMENT-SIGNATURE", header),
                None => request,
            }
            .send()
            .await
        };
        let asked = pay(&process, None).await.unwrap();
        let required = STANDARD.decode(asked.headers()["payment-required"].as_bytes()).unwrap();
        let header =
            signed(&serde_json::from_slice(&required).unwrap(), u32::try_from(round).unwrap());
        assert!(pay(&process, Some(&header)).await.is_err(), "{point}");
        let mut process = launch(None).await;
        // Its payer sends it again, having heard nothing.
        assert_eq!(pay(&process, Some(&header)).await.unwrap().status(), 201, "{point}");
        assert_eq!(pay(&process, Some(&header)).await.unwrap().status(), 201, "{point}");
        let seen =
            process.call("GET", "/api/payments/credits/balance", &customer.token, &Value::Null);
        let expected = 1_000_000_000 + 2_000_000_000 * (i64::try_from(round).unwrap() + 1);
        assert_eq!(nanos(&seen.await.1["balance"]), expected, "{point}");
        assert_eq!(process.terminate(), Some(0));
    }
    verify(&database);
}
