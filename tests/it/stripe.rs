//! Payments by Stripe: delays, repeats, the wrong order, refunds, disputes, crashes. Each is
//! credited once.
#![expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use polysystems::config::Secret;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::email::letters;
use crate::operators::operator;
use crate::support::process::{Process, verify};
use crate::support::stripe::{SECRET_KEY, Stripe, WEBHOOK_SECRET, sign};
use crate::support::{Answer, Database, PASSWORD, Server, User, nanos, on_both};

on_both!(
    a_checkout_is_credited_once_however_often_it_is_told,
    a_payment_goes_through_its_states,
    what_comes_late_is_credited,
    refunds_and_disputes_are_taken_back_and_given_again,
    what_is_spent_already_is_taken_from_what_comes,
    a_saved_method_is_charged_at_once,
    an_account_tops_itself_up_below_its_cap,
    a_top_up_that_fails_later_counts,
    a_refund_that_no_webhook_tells_of_is_found,
    only_stripe_may_tell_of_payments,
    a_suspended_account_gets_what_was_paid,
    a_payment_that_stripe_never_heard_of_is_begun_again,
    deliveries_across_kills_are_exact,
    a_crash_at_any_place_of_a_payment_costs_nothing,
);

fn secret(text: &str) -> Option<Secret> {
    serde_json::from_value(text.into()).ok()
}

pub(crate) async fn start(database: &Database, stripe: &Stripe) -> Server {
    let url = stripe.url.clone();
    Server::start_with(database, move |settings| {
        settings.payments.stripe.url = url;
        settings.payments.stripe.secret_key = secret(SECRET_KEY);
        settings.payments.stripe.webhook_secret = secret(WEBHOOK_SECRET);
    })
    .await
}

/// Has Stripe tell of something.
async fn tell(server: &Server, body: &str) -> Answer {
    let signature = sign(body, server.seconds());
    let request = server.post("/api/payments/stripe/webhook", &json!(null)).body(body.to_owned());
    request.header("Stripe-Signature", &signature).send().await
}

async fn begin(user: &User<'_>, amount: &str) -> String {
    let body = format!("{{\"amount\": {amount}, \"provider\": \"stripe\"}}");
    let begun = user.post("/api/payments/payments", &json!(null)).body(body).expect(201).await;
    assert_eq!(begun.body["status"], "created", "{}", begun.text);
    assert!(begun.body["checkout_url"].as_str().unwrap().starts_with("https://checkout.test/"));
    begun.body["id"].as_str().unwrap().to_owned()
}

async fn look(user: &User<'_>, payment: &str) -> Value {
    user.get(&format!("/api/payments/payments/{payment}")).expect(200).await.body
}

async fn a_checkout_is_credited_once_however_often_it_is_told(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let payment = begin(&user, "25.00").await;
    assert_eq!(user.balance().await, "0.0000");
    stripe.submit(&payment, "succeeded");
    let events: Vec<String> =
        ["checkout.session.completed", "payment_intent.succeeded", "checkout.session.completed"]
            .iter()
            .map(|kind| stripe.event(kind, &payment))
            .collect();
    // All at once, each several times.
    let told = events.iter().cycle().take(12).map(|event| tell(&server, event));
    for answer in futures_util::future::join_all(told).await {
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
    assert_eq!(user.balance().await, "25.0000");
    assert_eq!(user.ledger().await.len(), 1);
    let paid = look(&user, &payment).await;
    assert_eq!((&paid["status"], &paid["checkout_url"]), (&json!("confirmed"), &Value::Null));
    let receipt = user.get(&format!("/api/payments/payments/{payment}/receipt")).expect(200).await;
    assert_eq!(receipt.body["payment"]["id"], payment.as_str());
    let page = user.get(&format!("/api/payments/payments/{payment}/receipt?format=html"));
    assert!(page.expect(200).await.text.contains("$25.0000"));
    let csv = user.get(&format!("/api/payments/payments/{payment}/receipt?format=csv"));
    assert!(csv.expect(200).await.text.ends_with(",stripe,25.0000,0.0000,USD\r\n"));
    server.stop();
    verify(&database);
}

async fn a_payment_goes_through_its_states(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let payment = begin(&user, "10.00").await;
    stripe.submit(&payment, "processing");
    tell(&server, &stripe.event("checkout.session.completed", &payment)).await;
    let confirming = look(&user, &payment).await;
    assert_eq!(confirming["status"], "confirming");
    assert!(confirming["confirming_at"].is_string());
    assert_eq!(user.balance().await, "0.0000");
    server.advance(3_600);
    stripe.submit(&payment, "succeeded");
    tell(&server, &stripe.event("checkout.session.async_payment_succeeded", &payment)).await;
    let confirmed = look(&user, &payment).await;
    assert_eq!(confirmed["status"], "confirmed");
    assert_ne!(confirmed["confirmed_at"], confirmed["confirming_at"]);
    assert_eq!(user.balance().await, "10.0000");
    // One that fails, one that nobody pays, and one of another amount.
    let failing = begin(&user, "10.00").await;
    stripe.submit(&failing, "processing");
    tell(&server, &stripe.event("checkout.session.completed", &failing)).await;
    stripe.set_intent(&failing, "status", "canceled".into());
    tell(&server, &stripe.event("payment_intent.payment_failed", &failing)).await;
    let failed = look(&user, &failing).await;
    assert_eq!((&failed["status"], &failed["failure"]), (&json!("failed"), &json!("canceled")));
    // The payer's bank says no, days after they left the page.
    let refused = begin(&user, "10.00").await;
    stripe.submit(&refused, "processing");
    tell(&server, &stripe.event("checkout.session.completed", &refused)).await;
    assert_eq!(look(&user, &refused).await["status"], "confirming");
    stripe.set_intent(&refused, "status", "requires_payment_method".into());
    let error = json!({ "code": "payment_method_provider_decline", "message": "no funds" });
    stripe.set_intent(&refused, "last_payment_error", error);
    tell(&server, &stripe.event("checkout.session.async_payment_failed", &refused)).await;
    let refused = look(&user, &refused).await;
    assert_eq!(refused["status"], "failed");
    assert_eq!(refused["failure"], "payment_method_provider_decline: no funds");
    let expiring = begin(&user, "10.00").await;
    stripe.expire(&expiring);
    tell(&server, &stripe.event("checkout.session.expired", &expiring)).await;
    let expired = look(&user, &expiring).await;
    assert_eq!(expired["status"], "expired");
    assert!(expired["ended_at"].is_string());
    let short = begin(&user, "10.00").await;
    stripe.submit(&short, "succeeded");
    stripe.set_intent(&short, "amount_received", 999.into());
    tell(&server, &stripe.event("payment_intent.succeeded", &short)).await;
    assert_eq!(look(&user, &short).await["status"], "failed");
    assert_eq!(user.balance().await, "10.0000");
    user.get(&format!("/api/payments/payments/{short}/receipt")).expect(409).await;
}

/// No webhook comes at all, or long after; what is on record at Stripe is credited all the same.
async fn what_comes_late_is_credited(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let (unheard, late) = (begin(&user, "3.00").await, begin(&user, "4.00").await);
    stripe.submit(&unheard, "succeeded");
    stripe.expire(&late);
    server.advance(31);
    until(async || look(&user, &unheard).await["status"] == "confirmed").await;
    until(async || look(&user, &late).await["status"] == "expired").await;
    assert_eq!(user.balance().await, "3.0000");
    stripe.submit(&late, "succeeded");
    tell(&server, &stripe.event("payment_intent.succeeded", &late)).await;
    assert_eq!(look(&user, &late).await["status"], "confirmed");
    assert_eq!(user.balance().await, "7.0000");
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not come to that");
}

async fn refunds_and_disputes_are_taken_back_and_given_again(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let payment = begin(&user, "20.00").await;
    stripe.submit(&payment, "succeeded");
    stripe.refund(&payment, "re_1", 500, "succeeded");
    // The refund is heard of before the payment.
    let events =
        [stripe.event("charge.refunded", &payment), stripe.event("refund.created", &payment)];
    for event in events.iter().chain(&events) {
        assert_eq!(tell(&server, event).await.status, 204);
    }
    assert_eq!(user.balance().await, "15.0000");
    for (status, balance) in
        [("needs_response", "7.0000"), ("under_review", "7.0000"), ("won", "15.0000")]
    {
        stripe.dispute(&payment, "du_1", 800, status);
        for kind in ["charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"] {
            assert_eq!(tell(&server, &stripe.event(kind, &payment)).await.status, 204);
        }
        assert_eq!(user.balance().await, balance, "{status}");
    }
    stripe.refund(&payment, "re_1", 500, "failed");
    tell(&server, &stripe.event("refund.failed", &payment)).await;
    assert_eq!(user.balance().await, "20.0000");
    // An inquiry takes nothing; of more than there is, there is no more to take.
    stripe.dispute(&payment, "du_2", 2_000, "warning_needs_response");
    tell(&server, &stripe.event("charge.dispute.created", &payment)).await;
    assert_eq!(user.balance().await, "20.0000");
    stripe.refund(&payment, "re_2", 1_500, "pending");
    stripe.dispute(&payment, "du_2", 2_000, "lost");
    tell(&server, &stripe.event("charge.dispute.closed", &payment)).await;
    assert_eq!(user.balance().await, "0.0000");
    let kinds: Vec<Value> = user.ledger().await.iter().map(|entry| entry["kind"].clone()).collect();
    for kind in ["top_up", "payment_refund", "dispute", "reinstatement"] {
        assert!(kinds.contains(&json!(kind)), "{kinds:?}");
    }
    let receipt = user.get(&format!("/api/payments/payments/{payment}/receipt")).expect(200).await;
    assert_eq!(receipt.number("reversed"), "20.0000");
    let acts = user.get("/api/auth/audit-log").expect(200).await.text;
    assert!(acts.contains("payment.reversed"), "{acts}");
    server.stop();
    verify(&database);
}

async fn what_is_spent_already_is_taken_from_what_comes(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let payment = begin(&user, "1.00").await;
    stripe.submit(&payment, "succeeded");
    tell(&server, &stripe.event("payment_intent.succeeded", &payment)).await;
    for _ in 0..200 {
        server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    }
    assert_eq!(user.balance().await, "0.9000");
    stripe.refund(&payment, "re_1", 100, "succeeded");
    tell(&server, &stripe.event("refund.created", &payment)).await;
    assert_eq!(user.balance().await, "0.0000");
    // It takes the rest as it comes, without a word from Stripe.
    user.pay("0.05").await;
    until(async || user.balance().await == "0.0000").await;
    user.pay("1.00").await;
    until(async || user.balance().await == "0.9500").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(user.balance().await, "0.9500");
    server.stop();
    verify(&database);
}

async fn a_saved_method_is_charged_at_once(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    assert_eq!(
        user.get("/api/payments/methods").expect(200).await.text,
        r#"{"payment_methods":[]}"#
    );
    let setup = user.post("/api/payments/methods", &json!(null)).expect(201).await;
    assert!(setup.body["checkout_url"].is_string());
    stripe.save_method("pm_good", "4242");
    stripe.save_method("pm_declined", "0002");
    let methods = user.get("/api/payments/methods").expect(200).await.body;
    assert_eq!(methods["payment_methods"][0]["last4"], "4242");
    let pay = |method: &str| {
        let body = json!({ "amount": 5, "provider": "stripe", "payment_method": method });
        user.post("/api/payments/payments", &body)
    };
    let paid = pay("pm_good").header("Idempotency-Key", "once").expect(201).await;
    assert_eq!(paid.body["status"], "confirmed", "{}", paid.text);
    let again = pay("pm_good").header("Idempotency-Key", "once").expect(201).await;
    assert_eq!(again.text, paid.text);
    let declined = pay("pm_declined").expect(201).await;
    assert_eq!(declined.body["status"], "failed");
    assert!(declined.body["failure"].as_str().unwrap().contains("insufficient_funds"));
    pay("pm_of_someone_else").expect(404).await;
    let body = json!({ "amount": 5, "payment_method": "pm_good" });
    user.post("/api/payments/payments", &body).expect(400).await;
    let body = json!({ "amount": 5.001, "provider": "stripe" });
    let refused = user.post("/api/payments/payments", &body).expect(400).await;
    assert!(refused.text.contains("whole cents"), "{}", refused.text);
    assert_eq!(user.balance().await, "5.0000");
    user.delete("/api/payments/methods/pm_good").expect(204).await;
    user.delete("/api/payments/methods/pm_good").expect(404).await;
    pay("pm_good").expect(404).await;
    server.stop();
    verify(&database);
}

async fn an_account_tops_itself_up_below_its_cap(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = crate::takeover::proved(&server, &database, "someone", 1).await;
    user.post("/api/payments/methods", &json!(null)).expect(201).await;
    stripe.save_method("pm_good", "4242");
    let rule = |method: &str, enabled: bool| {
        json!({ "enabled": enabled, "threshold": 5, "amount": 10, "monthly_cap": 25,
            "payment_method": method })
    };
    user.put("/api/payments/auto-top-up", &rule("pm_other", true)).expect(404).await;
    // A stolen session, found later, does not spend what is saved; a rule can be switched off.
    server.advance(700);
    for refused in [
        user.put("/api/payments/auto-top-up", &rule("pm_good", true)),
        user.post(
            "/api/payments/payments",
            &json!({ "amount": 5, "provider": "stripe", "payment_method": "pm_good" }),
        ),
    ] {
        assert_eq!(refused.expect(403).await.body["error"], "Confirmation required");
    }
    user.put("/api/payments/auto-top-up", &rule("pm_good", false)).expect(200).await;
    assert_eq!(stripe.intents(), 0);
    user.post("/api/auth/confirm", &json!({ "password": PASSWORD })).expect(200).await;
    user.put("/api/payments/auto-top-up", &rule("pm_good", true)).expect(200).await;
    until(async || user.balance().await == "10.0000").await;
    until(async || {
        letters(&database).iter().any(|letter| letter.contains("Your account tops itself up\n"))
    })
    .await;
    let list = user.get("/api/payments/payments").expect(200).await.body;
    assert_eq!(list["payments"][0]["automatic"], true);
    // Above its threshold nothing happens; below it, up to the cap.
    let operator = operator(&server, &database).await;
    let path = format!("/api/admin/users/{}/credits", user.id);
    for (taken, balance) in [(3, "7.0000"), (3, "14.0000"), (9, "5.0000"), (1, "4.0000")] {
        let take = json!({ "amount": -taken, "reason": "a test" });
        operator.post(&path, &take).expect(201).await;
        until(async || user.balance().await == balance).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(user.balance().await, balance);
    }
    assert_eq!(stripe.intents(), 2);
    // The next month has its own cap, and three failures in a row are the end.
    stripe.save_method("pm_declined", "0002");
    user.put("/api/payments/auto-top-up", &rule("pm_declined", true)).expect(200).await;
    server.advance(31 * 86_400);
    let user = server.log_in_again("someone").await;
    for failures in 1..=3 {
        until(async || {
            let rule = user.get("/api/payments/auto-top-up").expect(200).await.body;
            rule["failures"] == failures
        })
        .await;
        server.advance(3_700 * failures);
    }
    let rule = user.get("/api/payments/auto-top-up").expect(200).await.body;
    assert_eq!(rule["enabled"], false);
    until(async || {
        letters(&database).iter().any(|letter| letter.contains("tops itself up no longer"))
    })
    .await;
    assert_eq!(user.balance().await, "4.0000");
    server.stop();
    verify(&database);
}

async fn a_refund_that_no_webhook_tells_of_is_found(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let payment = begin(&user, "10.00").await;
    stripe.submit(&payment, "succeeded");
    tell(&server, &stripe.event("payment_intent.succeeded", &payment)).await;
    stripe.refund(&payment, "re_unheard", 400, "succeeded");
    stripe.publish(&stripe.event("refund.created", &payment));
    assert_eq!(user.balance().await, "10.0000");
    server.stop();
    let server = start(&database, &stripe).await;
    let user = server.log_in_again("someone").await;
    until(async || user.balance().await == "6.0000").await;
    server.stop();
    verify(&database);
}

/// A failure counts when it is known, and nothing else is begun before.
async fn a_top_up_that_fails_later_counts(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    user.post("/api/payments/methods", &json!(null)).expect(201).await;
    stripe.save_method("pm_slow", "4242");
    let rule = json!({ "enabled": true, "threshold": 5, "amount": 10, "monthly_cap": 25,
        "payment_method": "pm_slow" });
    user.put("/api/payments/auto-top-up", &rule).expect(200).await;
    let payments = async || {
        let list = user.get("/api/payments/payments").expect(200).await.body;
        list["payments"].as_array().unwrap().clone()
    };
    for failures in 1..=2 {
        until(async || payments().await.len() == failures).await;
        until(async || payments().await[0]["status"] == "confirming").await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(payments().await.len(), failures);
        let id = payments().await[0]["id"].as_str().unwrap().to_owned();
        stripe.set_intent(&id, "status", "requires_payment_method".into());
        tell(&server, &stripe.event("payment_intent.payment_failed", &id)).await;
        let seen = user.get("/api/payments/auto-top-up").expect(200).await.body;
        assert_eq!((&seen["failures"], &seen["enabled"]), (&json!(failures), &json!(true)));
        // Not at once.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(payments().await.len(), failures);
        server.advance(2 * 3_700);
    }
    until(async || payments().await.len() == 3).await;
    until(async || payments().await[0]["status"] == "confirming").await;
    let id = payments().await[0]["id"].as_str().unwrap().to_owned();
    stripe.set_intent(&id, "status", "succeeded".into());
    stripe.set_intent(&id, "amount_received", 1_000.into());
    tell(&server, &stripe.event("payment_intent.succeeded", &id)).await;
    let seen = user.get("/api/payments/auto-top-up").expect(200).await.body;
    assert_eq!((&seen["failures"], &seen["enabled"]), (&json!(0), &json!(true)));
    assert_eq!(user.balance().await, "10.0000");
    server.stop();
    verify(&database);
}

/// A payment counts, even if an operator has suspended the account meanwhile.
async fn a_suspended_account_gets_what_was_paid(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let payment = begin(&user, "5.00").await;
    let operator = operator(&server, &database).await;
    let suspend = format!("/api/admin/users/{}/suspend", user.id);
    operator.post(&suspend, &json!({ "reason": "a test" })).expect(200).await;
    let user = server.log_in_again("someone").await;
    stripe.submit(&payment, "succeeded");
    tell(&server, &stripe.event("payment_intent.succeeded", &payment)).await;
    assert_eq!(user.balance().await, "5.0000");
    server.stop();
    verify(&database);
}

async fn only_stripe_may_tell_of_payments(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    let payment = begin(&user, "25.00").await;
    stripe.submit(&payment, "succeeded");
    let event = stripe.event("payment_intent.succeeded", &payment);
    let now = server.seconds();
    let send = |signature: Option<String>, body: &str| {
        let request =
            server.post("/api/payments/stripe/webhook", &json!(null)).body(body.to_owned());
        match signature {
            Some(signature) => request.header("Stripe-Signature", &signature),
            None => request,
        }
    };
    send(None, &event).expect(400).await;
    send(Some(sign(&event, now - 301)), &event).expect(400).await;
    send(Some(sign(&event, now)), &event.replace("succeeded", "Succeeded")).expect(400).await;
    send(Some(sign("{}", now)), "{}").expect(400).await;
    send(Some(sign("x", now)), "x").expect(400).await;
    assert_eq!(user.balance().await, "0.0000");
    // Signed, and not about us.
    for body in [
        json!({ "type": "customer.created", "data": { "object": { "object": "customer" } } }),
        json!({ "type": "payment_intent.succeeded", "data": { "object": {
            "object": "payment_intent", "id": "pi_1",
            "metadata": { "payment_id": "pay-00000000-0000-4000-8000-000000000000" } } } }),
    ] {
        let body = body.to_string();
        send(Some(sign(&body, now)), &body).expect(204).await;
    }
    // A payment of ours that somebody names in an intent of another.
    let other = begin(&user, "1.00").await;
    let forged = json!({ "type": "payment_intent.succeeded", "data": { "object": {
        "object": "payment_intent", "id": stripe.intent_of(&payment),
        "metadata": { "payment_id": other } } } });
    let forged = forged.to_string();
    send(Some(sign(&forged, now)), &forged).send().await;
    assert_eq!(look(&user, &other).await["status"], "created");
    // Stripe is down: it is told to come again.
    stripe.shared.is_down.store(true, Ordering::SeqCst);
    send(Some(sign(&event, now)), &event).expect(424).await;
    stripe.shared.is_down.store(false, Ordering::SeqCst);
    send(Some(sign(&event, now)), &event).expect(204).await;
    assert_eq!(user.balance().await, "25.0000");
}

async fn a_payment_that_stripe_never_heard_of_is_begun_again(database: Database) {
    let stripe = Stripe::start();
    let server = start(&database, &stripe).await;
    let user = server.user("someone").await;
    user.post("/api/payments/methods", &json!(null)).expect(201).await;
    stripe.save_method("pm_good", "4242");
    stripe.shared.is_down.store(true, Ordering::SeqCst);
    let body = json!({ "amount": 5, "provider": "stripe" });
    let lost =
        user.post("/api/payments/payments", &body).header("Idempotency-Key", "a").expect(424);
    assert_eq!(lost.await.body["outcome"], "outcome-unknown");
    stripe.shared.is_down.store(false, Ordering::SeqCst);
    // The same request again is the same payment.
    let begun =
        user.post("/api/payments/payments", &body).header("Idempotency-Key", "a").expect(201).await;
    let list = user.get("/api/payments/payments").expect(200).await.body;
    assert_eq!(list["payments"].as_array().unwrap().len(), 1);
    assert_eq!(list["payments"][0]["id"], begun.body["id"]);
    // And without a repeat it is begun by itself.
    stripe.shared.is_down.store(true, Ordering::SeqCst);
    user.post("/api/payments/payments", &body).expect(424).await;
    stripe.shared.is_down.store(false, Ordering::SeqCst);
    server.advance(31);
    until(async || {
        let list = user.get("/api/payments/payments").expect(200).await.body;
        list["payments"]
            .as_array()
            .unwrap()
            .iter()
            .all(|payment| payment["checkout_url"].is_string())
    })
    .await;
}

/// 100 payments, each told of ten times and more while the server is killed again and again.
async fn deliveries_across_kills_are_exact(database: Database) {
    const PAYMENTS: usize = 100;
    let stripe = Stripe::start();
    let launch = async || {
        let (url, database) = (stripe.url.clone(), &database);
        Process::start_with(database, move |command| {
            command
                .env("POLYSYSTEMS_PAYMENTS__STRIPE__URL", url)
                .env("POLYSYSTEMS_PAYMENTS__STRIPE__SECRET_KEY", SECRET_KEY)
                .env("POLYSYSTEMS_PAYMENTS__STRIPE__WEBHOOK_SECRET", WEBHOOK_SECRET);
        })
        .await
    };
    let mut process = launch().await;
    let customer = process.customer("someone", 1).await;
    let mut events = Vec::new();
    let mut expected: i64 = 1_000_000_000;
    for number in 0..PAYMENTS {
        let cents = 100 + i64::try_from(number).unwrap();
        let amount: Value =
            serde_json::from_str(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap();
        let body = json!({ "amount": amount, "provider": "stripe" });
        let (status, begun) =
            process.call("POST", "/api/payments/payments", &customer.token, &body).await;
        assert_eq!(status, 201, "{begun}");
        let payment = begun["id"].as_str().unwrap().to_owned();
        stripe.submit(&payment, "succeeded");
        let mut kinds = vec!["checkout.session.completed", "payment_intent.succeeded"];
        expected += cents * 10_000_000;
        if number % 4 == 0 {
            stripe.refund(&payment, &format!("re_{number}"), 50, "succeeded");
            kinds.push("charge.refunded");
            expected -= 500_000_000;
        }
        if number % 10 == 0 {
            stripe.dispute(&payment, &format!("du_{number}"), 20, "lost");
            kinds.push("charge.dispute.closed");
            expected -= 200_000_000;
        }
        for place in 0..10 {
            events.push(stripe.event(kinds[place % kinds.len()], &payment));
        }
    }
    let mut random = StdRng::seed_from_u64(7);
    events.shuffle(&mut random);
    assert!(events.len() >= 1_000);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut kills = 0;
    let mut waiting = events;
    while !waiting.is_empty() {
        let url = format!("{}/api/payments/stripe/webhook", process.url);
        let sending = waiting.iter().take(120).map(|body| {
            let seconds = i64::try_from(
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap()
                    .as_secs(),
            );
            let request = client
                .post(&url)
                .header("Stripe-Signature", sign(body, seconds.unwrap()))
                .body(body.clone());
            async move { request.send().await.is_ok_and(|answer| answer.status() == 204) }
        });
        let sending = futures_util::future::join_all(sending.collect::<Vec<_>>());
        if kills < 8 {
            // In the middle of it. A sender without an answer sends again, as Stripe does.
            let pause = Duration::from_millis(random.random_range(5..120));
            let taken = tokio::time::timeout(pause, sending).await;
            process.kill();
            kills += 1;
            if let Ok(done) = taken {
                let mut done = done.into_iter();
                waiting.retain(|_| !done.next().unwrap_or(false));
            }
            process = launch().await;
        } else {
            let mut done = sending.await.into_iter();
            waiting.retain(|_| !done.next().unwrap_or(false));
        }
    }
    let balance =
        process.call("GET", "/api/payments/credits/balance", &customer.token, &Value::Null);
    assert_eq!(nanos(&balance.await.1["balance"]), expected);
    assert_eq!(process.terminate(), Some(0));
    verify(&database);
    let top_ups = "SELECT CAST(COUNT(*) AS TEXT) FROM ledger_entry WHERE kind = 1";
    assert_eq!(database.query(top_ups).await, (PAYMENTS + 1).to_string());
}

/// The server dies at each place of a payment's way, by Stripe's webhook or before it was answered.
async fn a_crash_at_any_place_of_a_payment_costs_nothing(database: Database) {
    let stripe = Stripe::start();
    let launch = async |point: Option<&str>| {
        let (url, database) = (stripe.url.clone(), &database);
        let orders = point.map(|point| format!("{point}=1*return"));
        Process::start_with(database, move |command| {
            command
                .env("POLYSYSTEMS_PAYMENTS__STRIPE__URL", url)
                .env("POLYSYSTEMS_PAYMENTS__STRIPE__SECRET_KEY", SECRET_KEY)
                .env("POLYSYSTEMS_PAYMENTS__STRIPE__WEBHOOK_SECRET", WEBHOOK_SECRET);
            if let Some(orders) = orders {
                command.env("FAILPOINTS", orders);
            }
        })
        .await
    };
    let process = launch(None).await;
    let customer = process.customer("someone", 1).await;
    // Somebody listens, so that events are written as well.
    let hook = json!({ "url": "https://example.invalid/" });
    assert_eq!(process.call("POST", "/api/webhooks", &customer.token, &hook).await.0, 201);
    drop(process);
    let mut balance: i64 = 1_000_000_000;
    let points = [
        "payment-opened",
        "payment-decided",
        "payment-credited",
        "payment-reversed",
        "writer-events-written",
    ];
    let mut crashes = 0;
    for (round, point) in points.iter().cycle().take(15).enumerate() {
        assert!(polysystems::failpoint::OF_PAYMENTS.iter().any(|(name, _)| name == point));
        let mut process = launch(Some(point)).await;
        let client = process.client.clone();
        let begin = async |process: &Process| {
            let request = client.post(format!("{}/api/payments/payments", process.url));
            let request = request.bearer_auth(&customer.token);
            let request = request.header("Idempotency-Key", format!("round-{round}"));
            let answer =
                request.body(r#"{"amount": 5, "provider": "stripe"}"#).send().await.ok()?;
            answer.json::<Value>().await.ok()?["id"].as_str().map(str::to_owned)
        };
        let mut payment = begin(&process).await;
        while payment.is_none() {
            crashes += 1;
            process = launch(None).await;
            payment = begin(&process).await;
        }
        let payment = payment.unwrap();
        stripe.submit(&payment, "succeeded");
        stripe.refund(&payment, &format!("re_{round}"), 100, "succeeded");
        balance += 4_000_000_000;
        for kind in ["payment_intent.succeeded", "charge.refunded"] {
            loop {
                let event = stripe.event(kind, &payment);
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let seconds = i64::try_from(now.unwrap().as_secs()).unwrap();
                let request = client.post(format!("{}/api/payments/stripe/webhook", process.url));
                let request = request.header("Stripe-Signature", sign(&event, seconds)).body(event);
                if request.send().await.is_ok_and(|answer| answer.status() == 204) {
                    break;
                }
                crashes += 1;
                process = launch(None).await;
            }
        }
        let seen =
            process.call("GET", "/api/payments/credits/balance", &customer.token, &Value::Null);
        assert_eq!(nanos(&seen.await.1["balance"]), balance, "{point}");
        assert_eq!(process.terminate(), Some(0));
    }
    assert!(crashes >= 15, "{crashes}");
    // What was told is what happened: one event for each payment, refund and credit.
    for (kind, count) in
        [("payment.created", "15"), ("payment.confirmed", "15"), ("payment.refunded", "15")]
    {
        let told =
            format!("SELECT CAST(COUNT(*) AS TEXT) FROM webhook_event WHERE kind = '{kind}'");
        assert_eq!(database.query(&told).await, count, "{kind}");
    }
    verify(&database);
}
