//! What operators do with other people's accounts, and the audit log of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::process::{command, finished};
use crate::support::{Database, NOON, Server, User, on_both};

on_both!(
    operators_find_and_see_users,
    an_operator_without_a_second_factor_is_none,
    an_operators_first_second_factor_takes_a_token_of_the_command_line,
    an_operator_ends_a_users_sessions,
    a_suspension_ends_every_session,
    operators_give_and_take_credits_once,
    what_an_operator_grants_is_capped,
    of_many_grants_at_once_the_cap_of_the_day_stops_the_rest,
    a_grant_leaves_room_for_payments,
    what_an_operator_takes_is_never_what_runs_or_is_not_there,
    a_tier_binds_for_the_very_next_call,
    everything_that_matters_is_in_the_audit_log,
    what_operators_read_is_in_the_audit_log,
    the_audit_log_cannot_be_changed,
);

pub(crate) async fn operator<'s>(server: &'s Server, database: &Database) -> User<'s> {
    server.operator(database, "operator").await
}

async fn an_operator_without_a_second_factor_is_none(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("somebody").await;
    let operator = server.user("operator").await;
    // Somebody else has a session too, with the password alone.
    let thief = server.log_in_again("operator").await;
    database.promote("operator").await;
    let of = |act: &str| format!("/api/admin/users/{}/{act}", user.id);
    let grant = json!({ "amount": 100, "reason": "none" });
    let message = "Operators need two-factor authentication. Please set it up first: POST \
                   /api/auth/2fa/enroll, then POST /api/auth/2fa/confirm.";
    for request in [
        operator.get("/api/admin/users"),
        operator.get(&format!("/api/admin/users/{}", user.id)),
        operator.get("/api/admin/audit-log"),
        operator.post(&of("credits"), &grant),
        operator.post(&of("suspend"), &json!({})),
        operator.post(&of("resume"), &json!({})),
        operator.post(&of("end-sessions"), &json!({})),
        operator.put(&of("tier"), &json!({ "tier": "basic" })),
    ] {
        request.expect(403).await.assert_error("Second factor required", message);
    }
    // Begun is not set up.
    let secret = operator.begin_second_factor().await;
    operator.post(&of("credits"), &grant).expect(403).await;
    assert_eq!(user.balance().await, "0.0000");
    let token = enrolment_token(&database, "operator").unwrap();
    operator.confirm_second_factor(&secret, Some(&token)).expect(200).await;
    operator.post(&of("credits"), &grant).expect(201).await;
    // What began without it is over.
    thief.post(&of("credits"), &grant).expect(401).await;
    assert_eq!(user.balance().await, "100.0000");
    // Without it the operator is none again.
    server.advance(30);
    let code = crate::support::totp_code(&secret, server.seconds());
    let body = json!({ "password": crate::support::PASSWORD, "code": code });
    operator.post("/api/auth/2fa/disable", &body).expect(200).await;
    operator.get("/api/admin/users").expect(403).await;
    let User { id, token, .. } = operator;
    server.stop();
    let server = Server::start_with(&database, |settings| {
        settings.auth.operators_need_second_factor = false;
    })
    .await;
    let operator = User { server: &server, id, token };
    operator.get("/api/admin/users").expect(200).await;
}

/// The token that the command prints, or what it says instead.
fn enrolment_token(database: &Database, name: &str) -> Result<String, String> {
    let email = format!("{name}@example.com");
    match finished(command(database).args(["user", "enroll2fa", &email])) {
        (Some(0), out, _) => Ok(out.lines().last().unwrap().to_owned()),
        (_, _, error) => Err(error),
    }
}

/// Somebody who has the password could set up a second factor of their own, and be the operator.
async fn an_operators_first_second_factor_takes_a_token_of_the_command_line(database: Database) {
    let server = Server::start(&database).await;
    let (boss, other) = (server.user("boss").await, server.user("other").await);
    let refused = enrolment_token(&database, "boss").unwrap_err();
    assert!(refused.contains("is no operator"), "{refused}");
    // Begun before the promotion, and ended after it.
    let secret = boss.begin_second_factor().await;
    database.promote("boss").await;
    database.promote("other").await;
    let confirm = |token| boss.confirm_second_factor(&secret, token);
    let without = confirm(None).expect(403).await;
    assert_eq!(without.body["error"], "Enrolment token required");
    let replaced = enrolment_token(&database, "boss").unwrap();
    let token = enrolment_token(&database, "boss").unwrap();
    let others = enrolment_token(&database, "other").unwrap();
    for wrong in ["", "pse_guess", others.as_str(), replaced.as_str()] {
        confirm(Some(wrong)).expect(403).await;
    }
    let digests = database.query("SELECT COUNT(*) || '' FROM email_token WHERE purpose = 4").await;
    assert_eq!(digests.trim(), "2");
    let end = async |at: i64| {
        let sql = format!("UPDATE email_token SET expires_at = {at} WHERE purpose = 4");
        database.execute(&sql).await.unwrap();
    };
    end(NOON).await;
    confirm(Some(&token)).expect(403).await;
    end(NOON + 3_600_000_000).await;
    // A wrong code uses no token up.
    let wrong = json!({ "code": "000000", "token": token });
    boss.post("/api/auth/2fa/confirm", &wrong).expect(401).await;
    confirm(Some(&token)).expect(200).await;
    boss.get("/api/admin/users").expect(200).await;
    let refused = enrolment_token(&database, "boss").unwrap_err();
    assert!(refused.contains("already"), "{refused}");
    // The other's token was not used up by the wrong one.
    let secret_of_other = other.begin_second_factor().await;
    other.confirm_second_factor(&secret_of_other, Some(&others)).expect(200).await;
    // Once off, it takes another token.
    server.advance(30);
    let code = crate::support::totp_code(&secret, server.seconds());
    let body = json!({ "password": crate::support::PASSWORD, "code": code });
    boss.post("/api/auth/2fa/disable", &body).expect(200).await;
    let secret = boss.begin_second_factor().await;
    boss.confirm_second_factor(&secret, Some(&token)).expect(403).await;
    let token = enrolment_token(&database, "boss").unwrap();
    boss.confirm_second_factor(&secret, Some(&token)).expect(200).await;
    let made = acts(&boss, "/api/auth/audit-log").await;
    let made = made.iter().filter(|act| act["action"] == "two_factor.enrolment_token_made");
    assert_eq!(made.map(|act| act["actor"].clone()).collect::<Vec<_>>(), ["command_line"; 3]);
}

async fn operators_find_and_see_users(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let mut names = vec!["operator".to_owned()];
    for place in 0..7 {
        server.advance(1);
        let name = format!("Person_{place}");
        server.user(&name).await;
        names.push(name);
    }
    names.reverse();
    let find = async |query: &str| {
        let page = operator.get(&format!("/api/admin/users?{query}")).expect(200).await.body;
        let found = page["users"].as_array().unwrap().iter();
        let found: Vec<String> =
            found.map(|user| user["username"].as_str().unwrap().to_owned()).collect();
        (found, page["next_cursor"].as_str().map(str::to_owned))
    };
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (found, next) = find(&format!("limit=3{cursor}")).await;
        seen.extend(found);
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, names);
    assert_eq!(find("search=PERSON_3").await.0, ["Person_3"]);
    assert_eq!(find("search=n_3@example").await.0, ["Person_3"]);
    // Neither wildcard of SQL is one here.
    assert_eq!(find("search=person%25").await.0, [""; 0]);
    assert_eq!(find("search=personx3").await.0, [""; 0]);
    for query in ["limit=0", "search=", "search=%00", "cursor=key-1", "name=x"] {
        operator.get(&format!("/api/admin/users?{query}")).expect(400).await;
    }

    let user = server.user("somebody").await;
    user.pay("2.50").await;
    let key = user.key().await;
    let seen = operator.get(&format!("/api/admin/users/{}", user.id)).expect(200).await;
    assert!(!seen.text.contains("argon2") && !seen.text.contains(&key.value));
    assert_eq!(seen.body["user"]["email"], "somebody@example.com");
    assert_eq!(seen.body["user"]["tier"], Value::Null);
    assert_eq!(seen.body["accounts"][0]["balance"], 2.5);
    assert_eq!(seen.body["accounts"][0]["status"], "open");
    assert_eq!(seen.body["accounts"][1]["environment"], "test");
    assert_eq!(seen.body["keys"][0]["id"], key.id.as_str());
    let absent = "user-00000000-0000-0000-0000-000000000007";
    for id in [absent, "user-x", &key.id] {
        let refused = operator.get(&format!("/api/admin/users/{id}")).expect(404).await;
        refused.assert_error("Not found", "There is no such user");
        for (method, act, body) in [
            (Method::POST, "credits", json!({ "amount": 1, "reason": "x" })),
            (Method::POST, "suspend", json!({})),
            (Method::PUT, "tier", json!({ "tier": "free" })),
        ] {
            let path = format!("/api/admin/users/{id}/{act}");
            let request = server.request(method, &path).body(body.to_string());
            request.bearer(&operator.token).expect(404).await;
        }
    }
}

async fn operators_give_and_take_credits_once(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let user = server.user("somebody").await;
    let path = format!("/api/admin/users/{}/credits", user.id);
    let change = |body: &Value| operator.post(&path, body);
    let body = json!({ "amount": 5.25, "reason": "a welcome" });
    for repeat in 0..3 {
        let answer = change(&body).header("Idempotency-Key", "once").expect(201).await;
        assert_eq!(answer.headers.contains_key("idempotent-replayed"), repeat > 0);
        assert_eq!(answer.body["amount"], 5.25);
    }
    let other = json!({ "amount": 5.26, "reason": "a welcome" });
    change(&other).header("Idempotency-Key", "once").expect(422).await;
    let taken = change(&json!({ "amount": -1.25, "reason": "by mistake" })).expect(201).await;
    assert_eq!(
        (&taken.body["amount"], &taken.body["environment"]),
        (&json!(-1.25), &json!("live"))
    );
    assert_eq!(user.balance().await, "4.0000");
    let ledger = user.ledger().await;
    let kinds: Vec<&Value> = ledger.iter().map(|entry| &entry["kind"]).collect();
    assert_eq!(kinds, ["grant", "deduction"]);
    assert_eq!(ledger[1]["reference"], user.id.as_str());
    user.folded().await;
    let test = json!({ "amount": 1, "reason": "more to play with", "environment": "test" });
    change(&test).expect(201).await;
    for body in [
        json!({ "amount": 0, "reason": "x" }),
        json!({ "amount": "1", "reason": "x" }),
        json!({ "amount": 1 }),
        json!({ "amount": 1, "reason": "" }),
        json!({ "amount": 1, "reason": "a\nb" }),
        json!({ "amount": 1, "reason": "x", "balance": 7 }),
    ] {
        change(&body).expect(400).await;
    }
    let suspend = format!("/api/admin/users/{}/suspend", user.id);
    operator.post(&suspend, &json!({ "reason": "chargeback" })).expect(200).await;
    let user = server.log_in_again("somebody").await;
    change(&json!({ "amount": 1, "reason": "x" })).expect(409).await;
    // What is owed can be taken all the same.
    change(&json!({ "amount": -4, "reason": "chargeback" })).expect(201).await;
    assert_eq!(user.balance().await, "0.0000");
    server.stop();
    crate::support::process::verify(&database);
}

async fn what_an_operator_grants_is_capped(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.payments.grant_max = "100".into();
        settings.payments.grants_per_day_max = "250".into();
    })
    .await;
    let operator = operator(&server, &database).await;
    let other = server.operator(&database, "other").await;
    let (user, second) = (server.user("somebody").await, server.user("second").await);
    let grant = |by: &User<'_>, to: &User<'_>, amount: &Value| {
        let path = format!("/api/admin/users/{}/credits", to.id);
        by.post(&path, &json!({ "amount": amount, "reason": "x" }))
    };
    let refused = grant(&operator, &user, &json!(100.01)).expect(400).await;
    let message = "amount: must be at most 100.0000, the largest grant";
    refused.assert_error("Validation Error", message);
    grant(&operator, &user, &json!(100)).header("Idempotency-Key", "once").expect(201).await;
    grant(&operator, &user, &json!(100)).header("Idempotency-Key", "once").expect(201).await;
    // What is refused for another reason does not count.
    let path = format!("/api/admin/users/{}/suspend", second.id);
    operator.post(&path, &json!({})).expect(200).await;
    grant(&operator, &second, &json!(100)).expect(409).await;
    let path = format!("/api/admin/users/{}/resume", second.id);
    operator.post(&path, &json!({})).expect(200).await;
    // It counts over all accounts, and what is taken does not make room.
    grant(&operator, &second, &json!(100)).expect(201).await;
    grant(&operator, &second, &json!(-100)).expect(201).await;
    let refused = grant(&operator, &user, &json!(50.01)).expect(409).await;
    let message = "You have granted $200.0000 today, and at most $250.0000 may be granted in a day. Please grant \
                   less, or wait for the next day (UTC).";
    refused.assert_error("Conflict", message);
    grant(&operator, &user, &json!(50)).expect(201).await;
    grant(&operator, &user, &json!(0.01)).expect(409).await;
    // A repeat of what was granted is no grant.
    grant(&operator, &user, &json!(100)).header("Idempotency-Key", "once").expect(201).await;
    // Test credits buy nothing. Others have caps of their own, and so has the next day.
    let path = format!("/api/admin/users/{}/credits", user.id);
    let test = json!({ "amount": 1_000, "reason": "x", "environment": "test" });
    operator.post(&path, &test).expect(201).await;
    grant(&other, &user, &json!(100)).expect(201).await;
    server.advance(12 * 3_600);
    let password = json!({ "password": crate::support::PASSWORD });
    operator.post("/api/auth/confirm", &password).expect(200).await;
    grant(&operator, &user, &json!(100)).expect(201).await;
    assert_eq!(user.balance().await, "350.0000");
}

async fn of_many_grants_at_once_the_cap_of_the_day_stops_the_rest(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let (one, two) = (server.user("one").await, server.user("two").await);
    let grants = (0..40).map(|place| {
        let to = if place % 2 == 0 { &one } else { &two };
        let path = format!("/api/admin/users/{}/credits", to.id);
        operator.post(&path, &json!({ "amount": 900, "reason": "x" })).send()
    });
    let answers = futures_util::future::join_all(grants).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(409)), (11, 29));
    assert_eq!(one.folded().await + two.folded().await, 9_900_000_000_000);
}

async fn a_grant_leaves_room_for_payments(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.payments.grant_max = "9000000000".into();
        settings.payments.grants_per_day_max = "9000000000".into();
    })
    .await;
    let operator = operator(&server, &database).await;
    let user = server.user("somebody").await;
    let path = format!("/api/admin/users/{}/credits", user.id);
    let grant = |amount: u64| operator.post(&path, &json!({ "amount": amount, "reason": "x" }));
    let refused = grant(4_700_000_000).expect(409).await;
    assert!(refused.text.contains("that payments might not fit"), "{}", refused.text);
    grant(4_600_000_000).expect(201).await;
    grant(100_000_000).expect(409).await;
    user.pay("100000").await;
    assert_eq!(user.folded().await, 4_600_100_000_000_000_000);
}

async fn what_an_operator_takes_is_never_what_runs_or_is_not_there(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.payments.grant_max = "9223372036".into();
        settings.payments.grants_per_day_max = "9223372036".into();
    })
    .await;
    let operator = operator(&server, &database).await;
    let user = server.user("somebody").await;
    user.pay("1.00").await;
    let path = format!("/api/admin/users/{}/credits", user.id);
    let refused =
        operator.post(&path, &json!({ "amount": -1.01, "reason": "x" })).expect(409).await;
    refused.assert_error("Conflict", "The account has $1.0000 available; no more can be taken.");
    let most = json!({ "amount": 9_223_372_036.0, "reason": "x" });
    operator.post(&path, &most).expect(409).await;
    // Of twenty who take at the same time, as many win as there is money for.
    let takes = (0..20).map(|_| {
        let body = json!({ "amount": -0.3, "reason": "x" });
        operator.post(&path, &body).send()
    });
    let answers = futures_util::future::join_all(takes).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(won, 3);
    assert_eq!(user.balance().await, "0.1000");
    user.folded().await;
}

async fn a_tier_binds_for_the_very_next_call(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        settings.rate_limit.default_tier = "free".into();
    })
    .await;
    let operator = operator(&server, &database).await;
    let user = server.user("somebody").await;
    let key = user.key().await;
    let models = || server.get("/v1/models").key(&key);
    models().expect(200).await;
    models().expect(429).await;
    let path = format!("/api/admin/users/{}/tier", user.id);
    let set = operator.put(&path, &json!({ "tier": "unlimited" })).expect(200).await;
    assert_eq!(set.body["tier"], "unlimited");
    for _ in 0..30 {
        models().expect(200).await;
    }
    let refused = operator.put(&path, &json!({ "tier": "gold" })).expect(400).await;
    assert!(refused.text.contains("basic, enterprise, free, pro, unlimited"), "{}", refused.text);
    operator.put(&path, &json!({})).expect(400).await;
    operator.put(&path, &json!({ "tier": null })).expect(200).await;
    models().expect(429).await;
}

/// The acts of a page as `action subject`, oldest first.
async fn acts(of: &User<'_>, path: &str) -> Vec<Value> {
    let (mut acts, mut cursor) = (Vec::new(), String::new());
    loop {
        let gap = if path.contains('?') { '&' } else { '?' };
        let page = of.get(&format!("{path}{gap}limit=4{cursor}")).expect(200).await.body;
        acts.extend(page["acts"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    acts.reverse();
    acts
}

#[expect(clippy::too_many_lines, reason = "a scenario reads best in one piece")]
async fn everything_that_matters_is_in_the_audit_log(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let user = server.user("somebody").await;
    let wrong = json!({ "email": "somebody@example.com", "password": "not their password" });
    let wrong = server.post("/api/auth/login", &wrong).header("User-Agent", "a thief").expect(401);
    wrong.await;
    // Nobody waits for that one.
    while acts(&user, "/api/auth/audit-log").await.len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    user.pay("1.00").await;
    let key = user.key().await;
    user.limit(&key, &json!({ "daily_limit": 0.5, "monthly_limit": null })).await;
    user.post(&format!("/api/keys/{}/revoke", key.id), &json!({})).expect(200).await;
    user.delete(&format!("/api/keys/{}", key.id)).expect(204).await;
    user.post("/api/payments/test/reset", &json!({})).expect(200).await;
    let of = |act: &str| format!("/api/admin/users/{}/{act}", user.id);
    operator.post(&of("credits"), &json!({ "amount": 2, "reason": "sorry" })).expect(201).await;
    operator.post(&of("suspend"), &json!({ "reason": "too loud" })).expect(200).await;
    let user = server.log_in_again("somebody").await;
    operator.post(&of("resume"), &json!(null)).body("").expect(200).await;
    operator.put(&of("tier"), &json!({ "tier": "basic" })).expect(200).await;
    user.post("/api/auth/logout-all", &json!({})).expect(200).await;
    let user = server.log_in_again("somebody").await;

    let acts_seen = acts(&user, "/api/auth/audit-log").await;
    let seen: Vec<&str> = acts_seen.iter().map(|act| act["action"].as_str().unwrap()).collect();
    let expected = [
        "user.registered",
        "session.begun",
        "login.failed",
        "payment.confirmed",
        "key.created",
        "key.limits_set",
        "key.revoked",
        "key.deleted",
        "test_credits.reset",
        "credits.granted",
        "accounts.suspended",
        "accounts.suspended",
        "sessions.ended",
        "session.begun",
        "accounts.resumed",
        "accounts.resumed",
        "tier.set",
        "sessions.ended",
        "session.begun",
    ];
    assert_eq!(seen, expected);
    let act = |name: &str| acts_seen.iter().find(|act| act["action"] == name).unwrap();
    assert_eq!(act("login.failed")["user_agent"], "a thief");
    assert_eq!(act("login.failed")["address"], "127.0.0.1");
    assert_eq!(act("key.limits_set")["detail"], "daily $0.5000, monthly none");
    assert_eq!(act("key.limits_set")["subject"], key.id.as_str());
    assert_eq!(act("payment.confirmed")["detail"], "$1.0000 by sandbox");
    assert_eq!(act("credits.granted")["detail"], "$2.0000: sorry");
    assert_eq!(act("credits.granted")["actor"], "operator");
    assert_eq!(act("credits.granted")["actor_id"], operator.id.as_str());
    assert_eq!(act("accounts.suspended")["detail"], "too loud");
    // An operator reads all of it, or one user's; a user reads no other's.
    let path = format!("/api/admin/audit-log?user_id={}", user.id);
    let mut of_user = acts(&operator, &path).await;
    for act in of_user.iter_mut().filter(|act| act["actor"] == "operator") {
        assert_eq!(act["address"], "127.0.0.1");
        // For operators alone.
        (act["address"], act["user_agent"]) = ("".into(), "".into());
    }
    assert_eq!(of_user, acts_seen);
    let mut all = acts(&operator, "/api/admin/audit-log").await;
    all.retain(|act| act["action"] != "user.read");
    assert_eq!(all.len(), acts_seen.len() + 3);
    user.get("/api/admin/audit-log").expect(403).await;
    operator.get("/api/admin/audit-log?user_id=somebody").expect(400).await;
}

async fn what_operators_read_is_in_the_audit_log(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let (user, other) = (server.user("somebody").await, server.user("other").await);
    let read_of = async |of: &User<'_>| -> Vec<Value> {
        let mut read = acts(of, "/api/auth/audit-log").await;
        read.retain(|act| act["action"] == "user.read");
        for act in &read {
            assert_eq!((&act["actor"], &act["user_id"]), (&json!("operator"), &json!(of.id)));
            assert_eq!(act["actor_id"], operator.id.as_str());
            // Where the operator sits is for operators alone.
            assert_eq!((&act["address"], &act["user_agent"]), (&json!(""), &json!("")));
            assert_eq!(act["at"], "2024-01-15T12:00:00.000000Z");
        }
        read.into_iter().map(|act| act["detail"].clone()).collect()
    };
    operator.get(&format!("/api/admin/users/{}", user.id)).expect(200).await;
    assert_eq!(read_of(&user).await, ["user, accounts and API keys"]);
    operator.get("/api/admin/users?search=other").expect(200).await;
    operator.get("/api/admin/users?search=nobody").expect(200).await;
    assert_eq!(read_of(&other).await, ["in a list of users"]);
    // A whole list is of everybody in it, but for the operator.
    operator.get("/api/admin/users").expect(200).await;
    operator.get(&format!("/api/admin/audit-log?user_id={}", other.id)).expect(200).await;
    assert_eq!(read_of(&user).await, ["user, accounts and API keys", "in a list of users"]);
    let of_other = ["in a list of users", "in a list of users", "audit log"];
    assert_eq!(read_of(&other).await, of_other);
    assert!(read_of(&operator).await.is_empty());
    let export = user.get("/api/auth/export").expect(200).await.body;
    let read = export["audit_log"].as_array().unwrap().iter();
    let read: Vec<&Value> = read.filter(|act| act["action"] == "user.read").collect();
    assert!(read.len() == 2 && read.iter().all(|act| act["address"] == ""), "{read:?}");
    let log = format!("/api/admin/audit-log?user_id={}", user.id);
    let all = acts(&operator, &log).await;
    let read = all.iter().find(|act| act["action"] == "user.read").unwrap();
    assert_eq!(read["address"], "127.0.0.1");
    // One who reads everything has it on record, and nobody else's page fills with it.
    operator.get("/api/admin/audit-log").expect(200).await;
    let absent = "user-00000000-0000-0000-0000-000000000007";
    operator.get(&format!("/api/admin/users/{absent}")).expect(404).await;
    operator.get(&format!("/api/admin/audit-log?user_id={absent}")).expect(200).await;
    let own = acts(&operator, "/api/auth/audit-log").await.pop().unwrap();
    assert_eq!(
        (&own["action"], &own["detail"]),
        (&json!("user.read"), &json!("audit log of all users"))
    );
    assert_eq!(read_of(&other).await, of_other);
    // Nobody else reads, and nobody else is recorded.
    user.get(&format!("/api/admin/users/{}", other.id)).expect(403).await;
    assert_eq!(read_of(&other).await, of_other);
}

async fn the_audit_log_cannot_be_changed(database: Database) {
    let server = Server::start(&database).await;
    server.user("somebody").await;
    for sql in ["UPDATE audit_log SET detail = 'nothing'", "DELETE FROM audit_log"] {
        let refused = database.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains("the audit log is append-only"), "{refused}");
    }
}

async fn an_operator_ends_a_users_sessions(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let (user, other) = (server.user("somebody").await, server.user("other").await);
    let path = format!("/api/admin/users/{}/end-sessions", user.id);
    let ended = operator.post(&path, &json!({ "reason": "stolen" })).expect(200).await.body;
    assert_eq!(ended["sessions_ended"], 1);
    user.get("/api/auth/me").expect(401).await;
    other.get("/api/auth/me").expect(200).await;
    let again = operator.post(&path, &json!({})).expect(200).await.body;
    assert_eq!(again["sessions_ended"], 0);
    let log = format!("/api/admin/audit-log?user_id={}", user.id);
    let last = acts(&operator, &log).await.pop().unwrap();
    assert_eq!((&last["action"], &last["detail"]), (&json!("sessions.ended"), &json!("stolen")));
}

/// Somebody who is suspended may look, and end things; not go on as if nothing had happened.
async fn a_suspension_ends_every_session(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let user = server.user("somebody").await;
    let login = json!({ "email": "somebody@example.com", "password": crate::support::PASSWORD });
    let begun = server.post("/api/auth/login", &login).expect(200).await.body;
    let other = server.user("other").await;
    let of = |act: &str| format!("/api/admin/users/{}/{act}", user.id);
    operator.post(&of("suspend"), &json!({ "reason": "stolen card" })).expect(200).await;
    user.get("/api/auth/me").expect(401).await;
    let renew = json!({ "refresh_token": begun["refresh_token"] });
    server.post("/api/auth/refresh", &renew).expect(401).await;
    other.get("/api/auth/me").expect(200).await;
    let again = server.log_in_again("somebody").await;
    again.get("/api/payments/transactions").expect(200).await;
    again.post("/api/keys", &json!({ "name": "a key" })).expect(403).await;
    // Opened again, nothing ends.
    operator.post(&of("resume"), &json!({})).expect(200).await;
    again.post("/api/keys", &json!({ "name": "a key" })).expect(201).await;
    let log = format!("/api/admin/audit-log?user_id={}", user.id);
    let acts = acts(&operator, &log).await;
    let ended = acts.iter().find(|act| act["action"] == "sessions.ended").unwrap();
    assert_eq!((&ended["actor"], &ended["detail"]), (&json!("operator"), &json!("stolen card")));
}
