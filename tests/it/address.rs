//! Change of the email address.

use serde_json::{Value, json};

use crate::email::{letters, letters_of, token};
use crate::support::{Database, PASSWORD, Server, User, hello, on_both};
use crate::takeover::proved;

on_both!(
    an_address_is_changed_by_what_was_sent_to_the_new_one,
    nobody_is_told_whether_a_new_address_is_taken,
    a_token_of_a_change_is_good_for_nothing_else,
    an_address_that_is_not_proved_can_be_changed,
    so_many_changes_can_be_asked_for,
);

async fn ask(user: &User<'_>, email: &str) -> crate::support::Answer {
    user.post("/api/auth/email", &json!({ "email": email })).expect(202).await
}

fn confirm(user: &User<'_>, token: &str) -> crate::support::Request {
    user.post("/api/auth/email/confirm", &json!({ "token": token }))
}

fn log_in(server: &Server, email: &str) -> crate::support::Request {
    server.post("/api/auth/login", &json!({ "email": email, "password": PASSWORD }))
}

/// The letter to this address with this subject.
fn letter(letters: &[String], to: &str, subject: &str) -> String {
    let (to, subject) = (format!("To: {to}\n"), format!("Subject: {subject}\n"));
    let found = letters.iter().find(|letter| letter.contains(&to) && letter.contains(&subject));
    found.unwrap_or_else(|| panic!("none {to}{subject} in {letters:?}")).clone()
}

async fn an_address_is_changed_by_what_was_sent_to_the_new_one(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.email.change_url = Some("https://app.example.com/change?token={token}".into());
    })
    .await;
    let user = proved(&server, &database, "someone", 1).await;
    user.pay("1.00").await;
    let key = user.key().await;
    let elsewhere = server.log_in_again("someone").await;
    let forgot = json!({ "email": "someone@example.com" });
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    let reset = letter(&letters_of(&database, 3).await, "someone@example.com", "Another password");
    let reset = token(&reset);

    for wrong in ["", "new@localhost", "no address", "SOMEONE@example.com"] {
        let body = json!({ "email": wrong });
        let refused = user.post("/api/auth/email", &body).expect(400).await;
        assert_eq!(refused.body["details"][0]["field"], "email", "{wrong}");
    }
    ask(&user, "New@Example.org").await;
    let sent = letters_of(&database, 5).await;
    let told = letter(&sent, "someone@example.com", "A change of your address was asked for");
    assert!(told.contains("New(at)Example(dot)org") && !told.contains("pse_"), "{told}");
    let asked = letter(&sent, "New@Example.org", "A change of address");
    assert!(asked.contains("    https://app.example.com/change?token=pse_"), "{asked}");
    let change = token(&asked);
    // Nothing is changed yet.
    log_in(&server, "new@example.org").expect(401).await;
    let last = log_in(&server, "someone@example.com").expect(200).await.body;

    let changed = confirm(&user, &change).expect(200).await.body;
    assert_eq!((&changed["id"], &changed["email"]), (&json!(user.id), &json!("New@Example.org")));
    assert_eq!(changed["is_email_verified"], true);
    confirm(&user, &change).expect(400).await;
    let done =
        letter(&letters_of(&database, 6).await, "someone@example.com", "Your address was changed");
    assert!(done.contains("New(at)Example(dot)org") && done.contains(&user.id), "{done}");
    // This session goes on; the others have ended, and the old address is not known any more.
    user.get("/api/auth/me").expect(200).await;
    elsewhere.get("/api/auth/me").expect(401).await;
    server.get("/api/auth/me").bearer(last["token"].as_str().unwrap()).expect(401).await;
    let renew = json!({ "refresh_token": last["refresh_token"] });
    server.post("/api/auth/refresh", &renew).expect(401).await;
    log_in(&server, "someone@example.com").expect(401).await;
    log_in(&server, "new@example.org").expect(200).await;
    let reset = json!({ "token": reset, "new_password": "Another password 1" });
    server.post("/api/auth/reset-password", &reset).expect(400).await;
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    // The account keeps everything.
    assert_eq!(user.balance().await, "1.0000");
    server.post("/api/hub/agents/chat", &hello()).key(&key).expect(200).await;
    let acts = user.get("/api/auth/audit-log").expect(200).await.text;
    assert!(acts.contains("email.change_asked") && acts.contains("email.changed"), "{acts}");
    assert!(!acts.contains("example.org"), "addresses do not stay for ever: {acts}");
    // The old address is free for somebody else.
    let body =
        json!({ "email": "someone@example.com", "password": PASSWORD, "username": "somebody" });
    let other = server.post("/api/auth/register", &body).expect(201).await.body;
    assert_ne!(other["id"], json!(user.id));
}

async fn nobody_is_told_whether_a_new_address_is_taken(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    server.user("other").await;
    letters_of(&database, 2).await;
    let free = ask(&user, "free@example.com").await;
    letters_of(&database, 4).await;
    let taken = ask(&user, "Other@example.com").await;
    assert_eq!((free.text, free.status), (taken.text, taken.status));
    // Both letters to the old address are the same but for the address.
    let sent = letters_of(&database, 6).await;
    let told: Vec<&String> = sent
        .iter()
        .filter(|letter| letter.contains("Subject: A change of your address was asked for\n"))
        .collect();
    assert_eq!(told.len(), 2);
    let body = |letter: &str| letter.split_once("\n\n").unwrap().1.to_lowercase();
    assert_eq!(
        body(told[0]).replace("free(at)", "other(at)"),
        body(told[1]).replace("free(at)", "other(at)")
    );
    // The owner of the address is told, and has nothing to confirm.
    let owner = letter(&sent, "Other@example.com", "A change of address");
    assert!(
        owner.contains("You have an account with it already") && !owner.contains("pse_"),
        "{owner}"
    );

    // Nor by the token that was sent before: a later request takes its place, whoever has the
    // address.
    let change = token(&letter(&sent, "free@example.com", "A change of address"));
    confirm(&user, &change).expect(400).await;

    // Taken while the token was on its way.
    ask(&user, "free@example.com").await;
    let sent = letters_of(&database, 8).await.split_off(6);
    let change = token(&letter(&sent, "free@example.com", "A change of address"));
    server.user("free").await;
    let refused = confirm(&user, &change).expect(409).await;
    refused.assert_error("Conflict", "A user with this email already exists");
    let me = user.get("/api/auth/me").expect(200).await.body;
    assert_eq!(me["email"], "someone@example.com");
}

async fn a_token_of_a_change_is_good_for_nothing_else(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    let other = server.user("other").await;
    let verify = token(&letters_of(&database, 2).await[1]);
    ask(&user, "new@example.com").await;
    let change =
        token(&letter(&letters_of(&database, 4).await, "new@example.com", "A change of address"));
    // Neither of another user, nor for another purpose, nor without a session.
    confirm(&other, &change).expect(400).await;
    confirm(&other, &verify).expect(400).await;
    let body = json!({ "token": change });
    server.post("/api/auth/verify-email", &body).expect(400).await;
    server.post("/api/auth/email/confirm", &body).expect(401).await;
    let reset = json!({ "token": change, "new_password": "Another password 1" });
    server.post("/api/auth/reset-password", &reset).expect(400).await;
    // A later one takes its place.
    ask(&user, "newer@example.com").await;
    let later =
        token(&letter(&letters_of(&database, 6).await, "newer@example.com", "A change of address"));
    confirm(&user, &change).expect(400).await;
    // A proof that is too old asks for none, and a token lives for two days.
    server.advance(600);
    let refused = user.post("/api/auth/email", &json!({ "email": "x@example.com" }));
    assert_eq!(refused.expect(403).await.body["error"], "Confirmation required");
    server.advance(48 * 3_600);
    let late = server.log_in_again("someone").await;
    confirm(&late, &later).expect(400).await;
    let me = late.get("/api/auth/me").expect(200).await.body;
    assert_eq!(me["email"], Value::from("someone@example.com"));
}

async fn an_address_that_is_not_proved_can_be_changed(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("typo").await;
    letters_of(&database, 1).await;
    ask(&user, "right@example.com").await;
    // The address of the typo may be anybody's: it gets no letter.
    let sent = letters_of(&database, 2).await;
    let change = token(&letter(&sent, "right@example.com", "A change of address"));
    let changed = confirm(&user, &change).expect(200).await.body;
    assert_eq!(changed["is_email_verified"], true);
    // What was sent to the typo verifies nothing any more.
    let body = json!({ "token": token(&sent[0]) });
    server.post("/api/auth/verify-email", &body).expect(400).await;
    user.get("/api/auth/me").expect(200).await;
    assert_eq!(letters(&database).len(), 2);
}

async fn so_many_changes_can_be_asked_for(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
    })
    .await;
    let user = server.user("someone").await;
    for place in 0..5 {
        ask(&user, &format!("new{place}@example.com")).await;
    }
    let body = json!({ "email": "new5@example.com" });
    user.post("/api/auth/email", &body).expect(429).await;
}
