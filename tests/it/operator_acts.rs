//! What operators do to the security of a user, and how they look through the audit log.

use std::time::Duration;

use serde_json::{Value, json};

use crate::email::{letters, token};
use crate::support::{Database, PASSWORD, Server, User, on_both};
use crate::takeover::proved;

on_both!(
    a_key_is_revoked_by_an_operator_and_its_user_is_told,
    a_second_factor_that_is_lost_is_switched_off,
    an_address_counts_as_proved_if_an_operator_says_so,
    a_user_gets_a_letter_that_sets_another_password,
    a_role_is_given_and_taken_and_the_last_operator_stays,
    of_two_operators_who_end_each_other_one_stays,
    the_audit_log_is_narrowed_down,
);

fn of(user: &User<'_>, act: &str) -> String {
    format!("/api/admin/users/{}/{act}", user.id)
}

fn reason() -> Value {
    json!({ "reason": "ticket 42" })
}

/// Waits for a letter with these words.
async fn letter(database: &Database, words: &str) -> String {
    for _ in 0..400 {
        if let Some(letter) = letters(database).into_iter().find(|one| one.contains(words)) {
            return letter;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no letter with {words}: {:?}", letters(database));
}

/// The last act of this kind that concerns the user.
async fn act(operator: &User<'_>, user: &User<'_>, action: &str) -> Value {
    let path = format!("/api/admin/audit-log?user_id={}&action={action}", user.id);
    operator.get(&path).expect(200).await.body["acts"][0].take()
}

async fn a_key_is_revoked_by_an_operator_and_its_user_is_told(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "user", 1).await;
    let operator = server.operator(&database, "operator").await;
    let other = server.user("other").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let path = of(&user, &format!("keys/{}/revoke", key.id));
    user.post(&path, &reason()).expect(403).await;
    operator.post(&path, &json!({})).expect(400).await;
    operator.post(&path, &json!({ "reason": "" })).expect(400).await;
    // The key of one user is none of another's.
    operator.post(&path.replace(&user.id, &other.id), &reason()).expect(404).await;
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    let revoked = operator.post(&path, &reason()).expect(200).await.body;
    assert_eq!((&revoked["id"], &revoked["is_active"]), (&json!(key.id), &json!(false)));
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(401).await;
    let act = act(&operator, &user, "key.revoked").await;
    assert_eq!((&act["actor"], &act["detail"]), (&json!("operator"), &json!("ticket 42")));
    assert_eq!(act["subject"], key.id);
    let told = letter(&database, "Subject: An API key was revoked").await;
    assert!(told.contains("To: user@example.com"), "{told}");
    // Who asks must have proved a short while ago who they are.
    server.advance(3_600);
    let answer = operator.post(&path, &reason()).expect(403).await;
    assert_ne!(answer.body["error"], "Access denied", "{}", answer.text);
}

async fn a_second_factor_that_is_lost_is_switched_off(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let second = server.operator(&database, "second").await;
    let user = server.user("user").await;
    let path = of(&user, "disable-2fa");
    // There is none.
    operator.post(&path, &reason()).expect(409).await;
    user.set_up_second_factor().await;
    let login = json!({ "email": "user@example.com", "password": PASSWORD });
    let challenged = server.post("/api/auth/login", &login).send().await;
    assert!(challenged.body.get("token").is_none(), "{}", challenged.text);
    user.post(&path, &reason()).expect(403).await;
    let answer = operator.post(&path, &reason()).expect(200).await.body;
    assert_eq!(answer["has_two_factor"], false);
    server.log_in_again("user").await;
    assert_eq!(act(&operator, &user, "two_factor.disabled").await["detail"], "ticket 42");
    // One operator's session does not reach another operator's account, nor around the proof of
    // one's own.
    for admin in [&operator, &second] {
        operator.post(&of(admin, "disable-2fa"), &reason()).expect(409).await;
    }
}

async fn an_address_counts_as_proved_if_an_operator_says_so(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    let key = user.key().await;
    let path = of(&user, "verify-email");
    user.post(&path, &reason()).expect(403).await;
    operator.post(&path, &json!({})).expect(400).await;
    assert_eq!(operator.post(&path, &reason()).expect(200).await.body["is_email_verified"], true);
    operator.post(&path, &reason()).expect(409).await;
    // Nothing of before has ended.
    assert_eq!(user.get("/api/auth/me").expect(200).await.body["is_email_verified"], true);
    let shown = user.get(&format!("/api/keys/{}", key.id)).expect(200).await.body;
    assert_eq!(shown["is_active"], true);
    let act = act(&operator, &user, "email.verified").await;
    assert_eq!((&act["actor"], &act["detail"]), (&json!("operator"), &json!("ticket 42")));
}

async fn a_user_gets_a_letter_that_sets_another_password(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    let path = of(&user, "reset-password");
    user.post(&path, &reason()).expect(403).await;
    let answer = operator.post(&path, &reason()).expect(202).await;
    assert!(!answer.text.contains("pse_"), "{}", answer.text);
    let letter = letter(&database, "an operator of this server has asked").await;
    let body = json!({ "token": token(&letter), "new_password": "four words that go apart" });
    server.post("/api/auth/reset-password", &body).expect(200).await;
    user.get("/api/auth/me").expect(401).await;
    let act = act(&operator, &user, "password.reset_asked").await;
    assert_eq!((&act["actor"], &act["detail"]), (&json!("operator"), &json!("ticket 42")));
    operator.post(&path.replace(&user.id, "user-none"), &reason()).expect(404).await;
}

async fn a_role_is_given_and_taken_and_the_last_operator_stays(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("user").await;
    let role = |role: &str| json!({ "role": role, "reason": "ticket 42" });
    let (path, own) = (of(&user, "role"), of(&operator, "role"));
    user.put(&path, &role("admin")).expect(403).await;
    operator.put(&path, &role("owner")).expect(400).await;
    operator.put(&path, &json!({ "role": "admin" })).expect(400).await;
    // Anybody can register with an address of somebody else.
    operator.put(&path, &role("admin")).expect(409).await;
    operator.post(&of(&user, "verify-email"), &reason()).expect(200).await;
    assert_eq!(operator.put(&path, &role("admin")).expect(200).await.body["role"], "admin");
    let act = act(&operator, &user, "role.set").await;
    assert_eq!(act["detail"], "admin: ticket 42");
    // An operator without a second factor cannot act, so the other one is still the last.
    user.get("/api/admin/users").expect(403).await;
    let last = operator.put(&own, &role("user")).expect(409).await;
    assert!(last.text.contains("Make another user an operator first"), "{}", last.text);
    operator.get("/api/admin/users").expect(200).await;
    assert_eq!(operator.put(&path, &role("user")).expect(200).await.body["role"], "user");
    // With another one who can, they may.
    let second = server.operator(&database, "second").await;
    assert_eq!(operator.put(&own, &role("user")).expect(200).await.body["role"], "user");
    operator.get("/api/admin/users").expect(403).await;
    second.get("/api/admin/users").expect(200).await;
    second.put(&of(&second, "role"), &role("user")).expect(409).await;
}

async fn of_two_operators_who_end_each_other_one_stays(database: Database) {
    let server = Server::start(&database).await;
    let body = json!({ "role": "user", "reason": "a quarrel" });
    for round in 0..5 {
        let (first, second) = (format!("first{round}"), format!("second{round}"));
        let first = server.operator(&database, &first).await;
        let second = server.operator(&database, &second).await;
        let (a, b) = futures_util::future::join(
            first.put(&of(&second, "role"), &body).send(),
            second.put(&of(&first, "role"), &body).send(),
        )
        .await;
        let mut told = [a.status.as_u16(), b.status.as_u16()];
        told.sort_unstable();
        assert!(told[0] == 200, "{told:?}");
        let left = "SELECT CAST(COUNT(*) AS TEXT) FROM users WHERE role = 2";
        assert_ne!(database.query(left).await, "0", "{told:?}");
        // One who is left goes, so that the next round begins with two.
        database.execute("UPDATE users SET role = 1").await.unwrap();
    }
}

async fn the_audit_log_is_narrowed_down(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let (user, other) = (server.user("user").await, server.user("other").await);
    server.advance(100);
    for one in [&user, &user, &other] {
        one.key().await;
    }
    server.advance(100);
    operator.post(&of(&user, "suspend"), &json!({ "reason": "=1+1" })).expect(200).await;
    let found = async |query: &str| {
        let path = format!("/api/admin/audit-log?{query}");
        let body = operator.get(&path).expect(200).await.body;
        assert_eq!(body["next_cursor"], json!(null), "{query}");
        let acts = body["acts"].as_array().unwrap().iter();
        acts.map(|act| act["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("action=key.created").await.len(), 3);
    assert_eq!(found(&format!("action=key.created&actor_id={}", user.id)).await.len(), 2);
    let suspended = found("actor=operator&action=accounts.suspended").await;
    assert_eq!(suspended.len(), 2, "live and test");
    let time = |seconds: i64| {
        domain::Timestamp::from_micros(crate::support::NOON + seconds * 1_000_000).to_rfc3339()
    };
    let span = format!("from={}&until={}", time(100), time(101));
    let acts = found(&span).await;
    assert_eq!(acts, ["key.created"; 3]);
    assert!(found(&format!("until={}&action=key.created", time(100))).await.is_empty());
    assert!(found("address=192.0.2.1").await.is_empty());
    assert_eq!(found("address=127.0.0.1&action=key.created").await.len(), 3);
    // Page by page.
    let first = operator.get("/api/admin/audit-log?action=key.created&limit=2").expect(200).await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let rest = found(&format!("action=key.created&limit=2&cursor={cursor}")).await;
    assert_eq!((first.body["acts"].as_array().unwrap().len(), rest.len()), (2, 1));
    for wrong in ["actor=nobody", "actor_id=7", "action=none", "from=x", "format=xml"] {
        operator.get(&format!("/api/admin/audit-log?{wrong}")).expect(400).await;
    }
    let csv = operator.get("/api/admin/audit-log?format=csv&actor=operator").expect(200).await;
    assert!(csv.header("content-type").starts_with("text/csv"));
    let mut lines = csv.text.lines();
    assert!(lines.next().unwrap().starts_with("id,at,user_id,actor,"));
    assert!(lines.any(|line| line.contains("accounts.suspended") && line.contains("\"'=1+1\"")));
    user.get("/api/admin/audit-log?format=csv").expect(401).await;
    other.get("/api/admin/audit-log?format=csv").expect(403).await;
}
