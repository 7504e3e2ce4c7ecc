//! A user's own data: a copy of all of it, and its erasure.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::process::{Process, verify};
use crate::support::stripe::Stripe;
use crate::support::{Database, PASSWORD, Server, User, hello, on_both, totp_code};

on_both!(
    an_export_has_everything_and_no_secret,
    an_export_of_many_pages_is_whole,
    exports_are_counted,
    who_is_erased_leaves_the_ledger_and_nothing_else,
    an_address_is_free_again_and_its_next_owner_gets_nothing,
    an_erasure_needs_password_and_code,
    money_and_payments_hold_an_erasure_up,
    stripe_forgets_the_erased_once_it_can,
    an_erasure_and_a_payment_at_once_do_not_both_happen,
    an_undo_takes_back_its_own_erasure_alone,
    what_operators_see_of_the_erased,
    a_crash_erases_all_or_nothing,
);

async fn export(of: &User<'_>) -> Value {
    let answer = of.get("/api/auth/export").expect(200).await;
    assert!(answer.header("content-disposition").contains("polysystems-export.json"));
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.body.is_object(), "{}", answer.text);
    answer.body
}

async fn an_export_has_everything_and_no_secret(database: Database) {
    let server = Server::start(&database).await;
    let operator = crate::operators::operator(&server, &database).await;
    let (user, other) = (server.user("somebody").await, server.user("other").await);
    other.pay("7.00").await;
    let others = other.key().await;
    user.pay("2.50").await;
    user.pay("1.50").await;
    let key = user.key_of(&json!({ "name": "a key", "allowed_ips": ["127.0.0.1"] })).await;
    let test = user.key_of(&json!({ "name": "a test", "environment": "test" })).await;
    let hook = json!({ "url": "https://hooks.example.com/here", "events": ["payment.*"] });
    let hook = user.post("/api/webhooks", &hook).expect(201).await.body;
    let low = json!({ "balance_low": 3 });
    user.put("/api/payments/notices", &low).expect(200).await;
    for key in [&key, &key, &test] {
        server.post("/api/hub/agents/chat", &hello()).key(key).expect(200).await;
    }
    let secret = user.set_up_second_factor().await;
    operator.get(&format!("/api/admin/users/{}", user.id)).expect(200).await;

    let answer = user.get("/api/auth/export").expect(200).await;
    let refresh = ["refresh_token", "password_hash", "argon2", "whsec_", PASSWORD];
    let secrets = [&key.value, &test.value, &secret, &user.token, &others.id, &other.id];
    for secret in secrets.into_iter().map(String::as_str).chain(refresh) {
        assert!(!answer.text.contains(secret), "{secret}: {}", answer.text);
    }
    let all = export(&user).await;
    assert_eq!(all["user"], user.get("/api/auth/me").expect(200).await.body);
    assert_eq!(all["has_two_factor"], true);
    assert_eq!(
        all["accounts"][0]["balance"],
        user.get("/api/payments/credits/balance").expect(200).await.body["balance"]
    );
    assert_eq!(all["accounts"][1]["environment"], "test");
    for (name, path) in [
        ("sessions", "/api/auth/sessions"),
        ("api_keys", "/api/keys"),
        ("webhooks", "/api/webhooks"),
    ] {
        let listed = user.get(path).expect(200).await.body;
        let listed = listed.get("webhooks").cloned().unwrap_or(listed);
        assert_eq!(all[name], listed, "{name}");
        assert!(!all[name].as_array().unwrap().is_empty());
    }
    assert_eq!(all["webhooks"][0]["id"], hook["id"]);
    assert_eq!(
        all["notices"][0],
        json!({ "balance_low": 3.0, "balance_low_decimal": "3.0000", "environment": "live" })
    );
    let rule = user.get("/api/payments/auto-top-up").expect(200).await.body;
    assert_eq!(all["auto_top_up"], rule);
    assert_eq!(all["payment_methods"], json!([]));
    let payments = user.get("/api/payments/payments").expect(200).await.body;
    assert_eq!(all["payments"], payments["payments"]);
    assert_eq!(all["transactions_live"], Value::Array(user.ledger().await));
    let test = user.get("/api/payments/transactions?environment=test").expect(200).await.body;
    let mut oldest_first = test["transactions"].as_array().unwrap().clone();
    oldest_first.reverse();
    assert_eq!(all["transactions_test"], Value::Array(oldest_first));
    for (name, query) in [("calls_live", ""), ("calls_test", "?environment=test")] {
        let calls = user.get(&format!("/api/monitoring/requests{query}")).expect(200).await.body;
        assert_eq!(all[name], calls["requests"], "{name}");
        assert!(!all[name].as_array().unwrap().is_empty());
    }
    let acts = user.get("/api/auth/audit-log?limit=100").expect(200).await.body;
    assert_eq!(all["audit_log"], acts["acts"]);
    let kinds: Vec<&Value> =
        all["audit_log"].as_array().unwrap().iter().map(|act| &act["action"]).collect();
    assert_eq!(kinds[..3], ["data.exported", "data.exported", "user.read"]);
}

async fn an_export_of_many_pages_is_whole(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("somebody").await;
    user.pay("100.00").await;
    let key = user.key().await;
    for _ in 0..11 {
        let calls =
            (0..100).map(|_| server.post("/api/hub/rag/index", &json!({})).key(&key).send());
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    let all = export(&user).await;
    let sequences = all["transactions_live"].as_array().unwrap().iter();
    let sequences: Vec<i64> = sequences.map(|one| one["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, (1..=1_101).collect::<Vec<_>>());
    let calls = all["calls_live"].as_array().unwrap().iter();
    let calls: std::collections::BTreeSet<&str> =
        calls.map(|call| call["request_id"].as_str().unwrap()).collect();
    assert_eq!(calls.len(), 1_100);
}

async fn exports_are_counted(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.exports_per_hour = 2.try_into().unwrap();
    })
    .await;
    let (user, other) = (server.user("somebody").await, server.user("other").await);
    for _ in 0..2 {
        export(&user).await;
    }
    let refused = user.get("/api/auth/export").expect(429).await;
    assert!(refused.headers.contains_key("retry-after"), "{}", refused.text);
    export(&other).await;
    server.get("/api/auth/export").expect(401).await;
}

/// Erases a user, who has this password.
fn erase(user: &User<'_>, more: &Value) -> crate::support::Request {
    let mut body = json!({ "password": PASSWORD });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    user.server.request(Method::DELETE, "/api/auth/me").bearer(&user.token).body(body.to_string())
}

/// Everything in the database that is text, as one text.
async fn everything(database: &Database) -> String {
    let mut all = String::new();
    for (table, columns) in [
        ("users", "email || ' ' || email_folded || ' ' || username || ' ' || username_folded"),
        ("users", "username_skeleton || ' ' || COALESCE(tier, '') || ' ' || password_hash"),
        ("session", "address || ' ' || login_address || ' ' || agent"),
        ("api_key", "name"),
        ("webhook_endpoint", "url || ' ' || description"),
        ("key_policy", "COALESCE(networks, '') || COALESCE(models, '')"),
        ("customer", "provider_ref"),
        ("auto_top_up", "method"),
        ("audit_log", "subject || ' ' || detail"),
    ] {
        let aggregate = if database.is_postgres() { "string_agg" } else { "group_concat" };
        let sql = format!("SELECT COALESCE({aggregate}({columns}, '|'), '') FROM {table}");
        all.push_str(&database.query(&sql).await);
        all.push('\n');
    }
    all
}

#[expect(clippy::too_many_lines, reason = "all that a user has is made, and looked for again")]
async fn who_is_erased_leaves_the_ledger_and_nothing_else(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let user = server.user("jane.doe").await;
    let other = server.user("other").await;
    let others = other.key().await;
    user.pay("2.50").await;
    let policy = json!({ "name": "first key", "allowed_ips": ["127.0.0.1"] });
    let key = user.key_of(&policy).await;
    let rotated = user.post(&format!("/api/keys/{}/rotate", key.id), &json!({}));
    let rotated = rotated.expect(200).await.body["key_value"].as_str().unwrap().to_owned();
    let test = user.key_of(&json!({ "name": "second key", "environment": "test" })).await;
    let hook = json!({ "url": "https://jane.example.com/", "description": "janes" });
    user.post("/api/webhooks", &hook).expect(201).await;
    user.post("/api/payments/methods", &json!(null)).expect(201).await;
    stripe.save_method("pm_janes", "4242");
    let rule = json!({ "enabled": true, "threshold": 0, "amount": 10, "monthly_cap": 25,
        "payment_method": "pm_janes" });
    user.put("/api/payments/auto-top-up", &rule).expect(200).await;
    let call =
        |value: &str| server.post("/api/hub/agents/chat", &hello()).header("X-API-Key", value);
    for value in [&key.value, &rotated, &test.value] {
        call(value).expect(200).await;
    }
    let edit = json!({ "name": "janes other", "allowed_ips": ["127.0.0.1", "198.51.100.7"] });
    user.patch(&format!("/api/keys/{}", key.id), &edit).expect(200).await;
    let acts = user.get("/api/auth/audit-log").expect(200).await.text;
    assert!(acts.contains("\"name, allowed_ips\"") && !acts.contains("janes"), "{acts}");
    let elsewhere = server.log_in_again("jane.doe").await;
    let ledger = user.ledger().await;
    let before = everything(&database).await.to_lowercase();
    assert!(before.contains("jane.doe@example.com") && before.contains("janes other"));
    assert!(before.contains("198.51.100.7"), "{before}");

    let balance = user.balance().await;
    let erased = erase(&user, &json!({ "give_up_balance": true })).expect(200).await;
    assert_eq!(erased.number("given_up"), balance);
    // Nobody gets in, and nothing works.
    for session in [&user, &elsewhere] {
        session.get("/api/auth/me").expect(401).await;
    }
    let login = json!({ "email": "jane.doe@example.com", "password": PASSWORD });
    server.post("/api/auth/login", &login).expect(401).await;
    for value in [&key.value, &rotated, &test.value] {
        call(value).expect(401).await;
    }
    let (deleted, methods) = stripe.deleted();
    assert_eq!((deleted.len(), methods), (1, 0));
    // No name is left.
    let after = everything(&database).await;
    assert!(!after.to_lowercase().contains("jane"), "{after}");
    assert!(!after.contains("198.51.100.7"), "{after}");
    assert!(after.contains("@erased.invalid"), "{after}");
    assert!(after.contains("other@example.com"), "{after}");
    let count =
        async |sql: &str| database.query(&format!("SELECT CAST(COUNT(*) AS TEXT) {sql}")).await;
    let of_user = "account_id IN (SELECT account.id FROM account JOIN users ON users.id = user_id
        WHERE erased_at IS NOT NULL)";
    for (sql, left) in [
        (
            "FROM session WHERE ended_at IS NULL
                AND user_id IN (SELECT id FROM users WHERE erased_at IS NOT NULL)"
                .to_owned(),
            "0",
        ),
        ("FROM auto_top_up".to_owned(), "0"),
        (format!("FROM api_key WHERE NOT is_deleted AND {of_user}"), "0"),
        (format!("FROM api_key WHERE name <> '' AND {of_user}"), "0"),
        (format!("FROM webhook_endpoint WHERE deleted_at IS NULL AND {of_user}"), "0"),
    ] {
        let seen = count(&sql).await;
        assert_eq!(seen, left, "{sql}");
    }
    let entries = count(&format!(
        "FROM ledger_entry WHERE {of_user} AND account_id IN (SELECT id FROM
        account WHERE environment = 1)"
    ))
    .await;
    assert_eq!(entries, (ledger.len() + 1).to_string());
    call(&others.value).send().await;
    other.get("/api/auth/me").expect(200).await;
    server.stop();
    verify(&database);
    // After a start it is the same.
    let server = crate::stripe::start(&database, &stripe).await;
    server.post("/api/auth/login", &login).expect(401).await;
    let call = server.post("/api/hub/agents/chat", &hello()).header("X-API-Key", &key.value);
    call.expect(401).await;
}

async fn an_address_is_free_again_and_its_next_owner_gets_nothing(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    user.pay("2.00").await;
    let key = user.key().await;
    // Asked for before, and used after: these are of another.
    let forgot = json!({ "email": "someone@example.com" });
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    let letters = crate::email::letters_of(&database, 2).await;
    let tokens: Vec<String> = letters.iter().map(|letter| crate::email::token(letter)).collect();
    erase(&user, &json!({ "give_up_balance": true })).expect(200).await;

    let next = server.user("someone").await;
    assert_ne!(next.id, user.id);
    assert_eq!(next.balance().await, "0.0000");
    assert!(next.ledger().await.is_empty());
    assert_eq!(next.get("/api/keys").expect(200).await.body, json!([]));
    for token in &tokens {
        server.post("/api/auth/verify-email", &json!({ "token": token })).expect(400).await;
        let body = json!({ "token": token, "new_password": "Another password 1" });
        server.post("/api/auth/reset-password", &body).expect(400).await;
    }
    let acts = next.get("/api/auth/audit-log").expect(200).await.body;
    let acts: Vec<&Value> =
        acts["acts"].as_array().unwrap().iter().map(|act| &act["action"]).collect();
    assert_eq!(acts, ["session.begun", "user.registered"]);
    let call = server.post("/api/hub/agents/chat", &hello()).key(&key);
    call.expect(401).await;
    user.get("/api/auth/me").expect(401).await;
    // Nobody signs in by what has taken the place of the address.
    let made_up = database.query("SELECT email FROM users WHERE erased_at IS NOT NULL").await;
    let login = json!({ "email": made_up.trim(), "password": PASSWORD });
    server.post("/api/auth/login", &login).expect(401).await;
    // And once more, with an empty account.
    let erased = erase(&next, &json!({})).expect(200).await;
    assert_eq!(erased.number("given_up"), "0.0000");
    server.user("someone").await;
    server.stop();
    verify(&database);
}

async fn an_erasure_needs_password_and_code(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    erase(&user, &json!({ "password": "not their password" })).expect(401).await;
    let secret = user.set_up_second_factor().await;
    let refused = erase(&user, &json!({})).expect(400).await;
    let message = "code: is needed, since two-factor authentication is on";
    refused.assert_error("Validation Error", message);
    erase(&user, &json!({ "code": "000000" })).expect(401).await;
    user.get("/api/auth/me").expect(200).await;
    server.advance(30);
    let code = totp_code(&secret, server.seconds());
    erase(&user, &json!({ "code": code, "password": "not their password" })).expect(401).await;
    erase(&user, &json!({ "code": code })).expect(200).await;
    user.get("/api/auth/me").expect(401).await;
}

async fn money_and_payments_hold_an_erasure_up(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let user = server.user("someone").await;
    user.pay("2.00").await;
    let refused = erase(&user, &json!({})).expect(409).await;
    let message = "The account has $2.0000. Please spend it first, or give it up: send \"give_up_balance\": true.";
    refused.assert_error("Conflict", message);
    let pay = json!({ "amount": 5, "provider": "stripe" });
    let payment = user.post("/api/payments/payments", &pay).expect(201).await.body;
    let payment = payment["id"].as_str().unwrap().to_owned();
    let give_up = json!({ "give_up_balance": true });
    let refused = erase(&user, &give_up).expect(409).await;
    assert!(refused.text.contains("A payment is on its way"), "{}", refused.text);
    // What was refused has changed nothing: payments begin, and calls are paid.
    let key = user.key().await;
    server.post("/api/hub/agents/chat", &hello()).key(&key).expect(200).await;
    user.pay("1.00").await;
    stripe.expire(&payment);
    server.advance(4_000);
    while user.get(&format!("/api/payments/payments/{payment}")).expect(200).await.body["status"]
        != "expired"
    {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Nothing was asked of Stripe that cannot be had back.
    assert_eq!(stripe.deleted(), (Vec::new(), 0));
    erase(&user, &give_up).expect(200).await;
    user.get("/api/auth/me").expect(401).await;
    assert_eq!(stripe.deleted().0.len(), 1);
    server.stop();
    verify(&database);
}

/// What cannot be had back comes last, and is tried until it is done.
async fn stripe_forgets_the_erased_once_it_can(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let user = server.user("someone").await;
    user.post("/api/payments/methods", &json!(null)).expect(201).await;
    stripe.save_method("pm_good", "4242");
    let down = &stripe.shared.is_down;
    down.store(true, std::sync::atomic::Ordering::SeqCst);
    erase(&user, &json!({})).expect(200).await;
    user.get("/api/auth/me").expect(401).await;
    down.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(stripe.deleted(), (Vec::new(), 1));
    server.stop();
    let server = crate::stripe::start(&database, &stripe).await;
    let customers = "SELECT CAST(COUNT(*) AS TEXT) FROM customer";
    for _ in 0..200 {
        if database.query(customers).await == "0" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (deleted, methods) = stripe.deleted();
    assert_eq!((deleted.len(), methods), (1, 0));
    assert_eq!(database.query(customers).await, "0");
    // Who is gone at Stripe has no cards, and can be erased.
    let other = server.user("other").await;
    other.post("/api/payments/methods", &json!(null)).expect(201).await;
    stripe.delete_customer(&database.query("SELECT provider_ref FROM customer").await);
    assert_eq!(export(&other).await["payment_methods"], json!([]));
    erase(&other, &json!({})).expect(200).await;
    assert_eq!(database.query(customers).await, "0");
    server.stop();
    verify(&database);
}

async fn an_erasure_and_a_payment_at_once_do_not_both_happen(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    for round in 0..12 {
        let user = server.user(&format!("someone{round}")).await;
        let stripes = json!({ "amount": 5, "provider": "stripe" });
        let sandboxes = json!({ "amount": 5 });
        let pay = |body: &Value| user.post("/api/payments/payments", body).send();
        let (erased, by_stripe, by_sandbox, again) = tokio::join!(
            erase(&user, &json!({})).send(),
            pay(&stripes),
            pay(&sandboxes),
            erase(&user, &json!({})).send(),
        );
        let is_erased = erased.status == 200 || again.status == 200;
        for paid in [by_stripe, by_sandbox] {
            assert!(!(is_erased && paid.status == 201), "{round}: {}", paid.text);
            assert!(paid.status.as_u16() < 500, "{round}: {}", paid.text);
        }
        user.get("/api/auth/me").expect(if is_erased { 401 } else { 200 }).await;
    }
    let lost = "SELECT CAST(COUNT(*) AS TEXT) FROM users JOIN account ON user_id = users.id
        WHERE erased_at IS NOT NULL AND environment = 1 AND balance > 0";
    assert_eq!(database.query(lost).await, "0");
    server.stop();
    verify(&database);
}

async fn an_undo_takes_back_its_own_erasure_alone(database: Database) {
    use polysystems::store::Store;
    use polysystems::store::users::ErasureBegun;
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let id: domain::UserId = user.id.parse().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let settings = polysystems::config::DatabaseSettings::default();
    let store = Store::open(&settings, database.url(), runtime).await.unwrap();
    let known = store.users.find(id).await.unwrap().unwrap();
    let at =
        |seconds: i64| domain::Timestamp::from_micros((server.seconds() + seconds) * 1_000_000);
    let begin = async |seconds: i64| store.users.begin_erasure(&known, at(seconds)).await.unwrap();
    assert_eq!(begin(0).await, ErasureBegun::Begun(at(0)));
    // The first one hangs; another one begins. Then the first one is refused.
    assert_eq!(begin(61).await, ErasureBegun::Begun(at(61)));
    store.users.undo_erasure(id, at(0)).await.unwrap();
    assert_eq!(begin(62).await, ErasureBegun::Changed);
    // What did not end is undone once its time is over.
    assert_eq!(store.users.undo_erasures(at(61)).await.unwrap(), 0);
    assert_eq!(store.users.undo_erasures(at(62)).await.unwrap(), 1);
    user.pay("1.00").await;
    store.close().await;
}

async fn what_operators_see_of_the_erased(database: Database) {
    let server = Server::start(&database).await;
    let operator = crate::operators::operator(&server, &database).await;
    let refused = erase(&operator, &json!({ "code": "000000" })).expect(401).await;
    assert_eq!(refused.body["error"], "Invalid code");
    let user = server.user("someone").await;
    let of = |act: &str| format!("/api/admin/users/{}{act}", user.id);
    // Nobody erases what a suspension is about.
    operator.post(&of("/suspend"), &json!({})).expect(200).await;
    let user = server.log_in_again("someone").await;
    let refused = erase(&user, &json!({})).expect(409).await;
    assert!(refused.text.contains("The account is suspended."), "{}", refused.text);
    operator.post(&of("/resume"), &json!({})).expect(200).await;
    erase(&user, &json!({})).expect(200).await;
    let seen = operator.get(&of("")).expect(200).await;
    assert_eq!(seen.body["user"]["is_erased"], true);
    assert_eq!(seen.body["accounts"][0]["status"], "suspended");
    assert_eq!(seen.body["accounts"][1]["status"], "suspended");
    assert_eq!(seen.body["keys"], json!([]));
    assert!(!seen.text.contains("someone"), "{}", seen.text);
    let grant = json!({ "amount": 1, "reason": "x" });
    for request in [
        operator.post(&of("/credits"), &grant),
        operator.post(&of("/resume"), &json!({})),
        operator.put(&of("/tier"), &json!({ "tier": "basic" })),
    ] {
        request.expect(409).await.assert_error("Conflict", "The user has erased the account.");
    }
    let path = format!("/api/admin/audit-log?user_id={}", user.id);
    let acts = operator.get(&path).expect(200).await.body;
    let erased = acts["acts"].as_array().unwrap().iter();
    let erased: Vec<&Value> = erased.filter(|act| act["action"] == "user.erased").collect();
    assert_eq!(erased.len(), 1);
    assert_eq!(erased[0]["detail"], "$0.0000 given up");
    // An operator is made an ordinary user first.
    database.execute("UPDATE users SET totp_enabled_at = NULL WHERE role = 2").await.unwrap();
    let refused = erase(&operator, &json!({})).expect(409).await;
    assert!(refused.text.contains("Operators cannot erase"), "{}", refused.text);
}

async fn a_crash_erases_all_or_nothing(database: Database) {
    for (round, (point, _)) in polysystems::failpoint::OF_ERASURES.iter().enumerate() {
        let mut process = Process::start(&database).await;
        let name = format!("someone{round}");
        let customer = process.customer(&name, 3).await;
        assert_eq!(process.terminate(), Some(0));
        let orders = format!("{point}=return");
        let mut process = Process::start_with(&database, |command| {
            command.env("FAILPOINTS", orders);
        })
        .await;
        let body = json!({ "password": PASSWORD, "give_up_balance": true });
        let request = process.client.delete(format!("{}/api/auth/me", process.url));
        let sent = request.bearer_auth(&customer.token).body(body.to_string()).send().await;
        assert!(sent.is_err(), "{point}: {sent:?}");
        process.wait().await;

        let process = Process::start(&database).await;
        let (status, _) = process.call("GET", "/api/auth/me", &customer.token, &json!(null)).await;
        let is_erased = *point == "erasure-on-record";
        assert_eq!(status, if is_erased { 401 } else { 200 }, "{point}");
        if is_erased {
            let call = process.client.post(format!("{}/api/hub/rag/index", process.url));
            let call = call.header("X-API-Key", &customer.key).body("{}").send().await.unwrap();
            assert_eq!(call.status(), 401);
        } else {
            // Nothing was left behind that would keep the user from paying, and from asking again.
            let pay = json!({ "amount": 1 });
            let paid = process.call("POST", "/api/payments/payments", &customer.token, &pay).await;
            assert_eq!(paid.0, 201, "{point}: {}", paid.1);
            let marks = "SELECT CAST(COUNT(*) AS TEXT) FROM users WHERE erasing_at IS NOT NULL";
            assert_eq!(database.query(marks).await, "0");
            let again = process.call("DELETE", "/api/auth/me", &customer.token, &body).await;
            assert_eq!((again.0, &again.1["given_up"]), (200, &json!(4.0)), "{point}");
        }
        drop(process);
        verify(&database);
    }
}
