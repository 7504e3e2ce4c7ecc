//! What a thief of a session cannot keep: its owner takes the account back by a new password or by
//! an end of all sessions.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::email::{letters, letters_of, token};
use crate::support::{Database, PASSWORD, Server, User, hello, on_both, totp_code};
use crate::takeover::proved;

on_both!(
    a_slow_body_does_not_outlive_its_session,
    a_slow_body_does_not_outlive_an_operators_role,
    a_slow_body_of_a_session_that_goes_on_is_taken,
    a_pending_second_factor_ends_with_a_new_password,
    a_token_of_a_change_ends_when_the_account_is_taken_back,
    a_change_of_a_strangers_making_ends_with_the_first_proof,
    a_token_that_was_asked_for_before_is_not_made_after,
    a_change_of_address_is_confirmed_with_a_fresh_proof,
    letters_tell_of_a_rotation_and_of_a_webhooks_new_url,
    a_letter_of_a_new_password_names_the_keys_that_were_rotated,
    a_suspended_user_sends_events_nowhere_else,
);

const NEW_PASSWORD: &str = "Another password 1";

/// A request whose body is on its way.
struct Slow(TcpStream);

impl Slow {
    /// Sends all of a request but the last byte of its body.
    async fn begin(user: &User<'_>, line: &str, body: &Value) -> Self {
        let body = body.to_string();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            user.token,
            body.len()
        );
        let mut stream = TcpStream::connect(user.server.address).await.unwrap();
        let begun = format!("{head}{}", &body[..body.len() - 1]);
        stream.write_all(begun.as_bytes()).await.unwrap();
        // The session has been looked at by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Slow(stream)
    }

    /// Sends the last byte. Returns the status and the body of the answer.
    async fn end(mut self) -> (u16, Value) {
        // It may have its answer already, and the connection be closed.
        let _ = self.0.write_all(b"}").await;
        let mut answer = Vec::new();
        let _ = self.0.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

/// The owner changes the password, which ends every other session.
async fn change_password(owner: &User<'_>) -> String {
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    let changed = owner.post("/api/auth/change-password", &body).expect(200).await.body;
    changed["token"].as_str().unwrap().to_owned()
}

async fn a_slow_body_does_not_outlive_its_session(database: Database) {
    let server = Server::start(&database).await;
    let owner = server.user("someone").await;
    owner.pay("10").await;
    let key = owner.key().await;
    let hook = json!({ "url": "https://hooks.example.com/in", "events": ["payment.confirmed"] });
    let hook = owner.post("/api/webhooks", &hook).expect(201).await.body;
    let thief = server.log_in_again("someone").await;
    // A second factor of the thief's own, which lacks its code.
    let password = json!({ "password": PASSWORD });
    let enrolment = thief.post("/api/auth/2fa/enroll", &password).expect(200).await.body;
    let code = totp_code(enrolment["secret"].as_str().unwrap(), server.seconds());
    let hook = format!("/api/webhooks/{}", hook["id"].as_str().unwrap());
    let of_key = format!("/api/keys/{}", key.id);
    let mut slow = Vec::new();
    for (line, body) in [
        (format!("POST {of_key}/rotate"), json!({ "grace_seconds": 2_592_000 })),
        ("POST /api/auth/2fa/confirm".to_owned(), json!({ "code": code })),
        (format!("PATCH {hook}"), json!({ "url": "https://thief.example.com/" })),
        (format!("PUT {of_key}/limits"), json!({ "total_limit": 1 })),
        (format!("PATCH {of_key}"), json!({ "name": "the thief's" })),
        ("POST /api/auth/email".to_owned(), json!({ "email": "thief@example.com" })),
        ("POST /api/keys".to_owned(), json!({ "name": "the thief's" })),
        ("PUT /api/payments/notices".to_owned(), json!({ "balance_low": 1 })),
    ] {
        slow.push((line.clone(), Slow::begin(&thief, &line, &body).await));
    }
    let token = change_password(&owner).await;
    let owner = User { server: &server, id: owner.id.clone(), token };
    for (line, slow) in slow {
        let (status, body) = slow.end().await;
        assert_eq!((status, &body["error"]), (401, &json!("Invalid token")), "{line}: {body}");
    }
    server.post("/api/hub/agents/chat", &hello()).key(&key).expect(200).await;
    let listed = owner.get("/api/keys").expect(200).await.text;
    assert!(!listed.contains("thief"), "{listed}");
    let off = json!({ "is_enabled": false, "recovery_codes_left": 0 });
    assert_eq!(owner.get("/api/auth/2fa").expect(200).await.body, off);
    let hook = owner.get(&hook).expect(200).await.body;
    assert_eq!(hook["url"], "https://hooks.example.com/in");
    let acts = owner.get("/api/auth/audit-log").expect(200).await.text;
    assert!(!acts.contains("key.rotated") && !acts.contains("email.change_asked"), "{acts}");
}

async fn a_slow_body_does_not_outlive_an_operators_role(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("someone").await;
    let line = format!("POST /api/admin/users/{}/credits", user.id);
    let body = json!({ "amount": 1_000, "reason": "none" });
    let slow = Slow::begin(&operator, &line, &body).await;
    let demote = "UPDATE users SET role = 1 WHERE username = 'operator'";
    database.execute(demote).await.unwrap();
    let (status, body) = slow.end().await;
    assert_eq!((status, &body["error"]), (403, &json!("Access denied")), "{body}");
    assert_eq!(user.balance().await, "0.0000");
}

async fn a_slow_body_of_a_session_that_goes_on_is_taken(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.rate_limit.enabled = true;
        // The second look is not counted.
        settings.rate_limit.changes_per_minute = 3.try_into().unwrap();
    })
    .await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let line = format!("POST /api/keys/{}/rotate", key.id);
    for _ in 0..2 {
        let slow = Slow::begin(&user, &line, &json!({ "grace_seconds": 0 })).await;
        assert_eq!(slow.end().await.0, 200);
    }
    let slow = Slow::begin(&user, &line, &json!({ "grace_seconds": 0 })).await;
    assert_eq!(slow.end().await.0, 429);
}

/// A thief who knows the password begins a second factor; it must not be one that the owner
/// confirms, nor that anybody confirms later.
async fn a_pending_second_factor_ends_with_a_new_password(database: Database) {
    let server = Server::start(&database).await;
    let owner = proved(&server, &database, "someone", 1).await;
    let begin = async |user: &User<'_>, password: &str| {
        let enrolment = json!({ "password": password });
        let enrolment = user.post("/api/auth/2fa/enroll", &enrolment).expect(200).await.body;
        totp_code(enrolment["secret"].as_str().unwrap(), server.seconds())
    };
    let code = begin(&owner, PASSWORD).await;
    let token_of = change_password(&owner).await;
    let owner = User { server: &server, id: owner.id.clone(), token: token_of };
    owner.post("/api/auth/2fa/confirm", &json!({ "code": code })).expect(409).await;
    let code = begin(&owner, NEW_PASSWORD).await;
    letters_of(&database, 2).await;
    let forgot = json!({ "email": "someone@example.com" });
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    let reset = token(letters_of(&database, 3).await.last().unwrap());
    let reset = json!({ "token": reset, "new_password": PASSWORD });
    server.post("/api/auth/reset-password", &reset).expect(200).await;
    let owner = server.log_in_again("someone").await;
    owner.post("/api/auth/2fa/confirm", &json!({ "code": code })).expect(409).await;
}

/// The token in the last letter to this address.
async fn token_to(database: &Database, address: &str) -> String {
    let to = format!("To: {address}\n");
    for _ in 0..400 {
        let letters = letters(database);
        if let Some(letter) = letters.iter().rfind(|letter| letter.contains(&to)) {
            return token(letter);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no letter to {address}");
}

/// A session of the user with this password and, if it takes one, this second factor.
async fn log_in<'s>(server: &'s Server, password: &str, secret: Option<&str>) -> User<'s> {
    let login = json!({ "email": "someone@example.com", "password": password });
    let mut session = server.post("/api/auth/login", &login).expect(200).await.body;
    if let Some(secret) = secret {
        let code = totp_code(secret, server.seconds());
        let step = json!({ "challenge": session["challenge"], "code": code });
        session = server.post("/api/auth/login/2fa", &step).expect(200).await.body;
    }
    let token = session["token"].as_str().unwrap().to_owned();
    let id = session["user"]["id"].as_str().unwrap().to_owned();
    User { server, id, token }
}

async fn a_token_of_a_change_ends_when_the_account_is_taken_back(database: Database) {
    let server = Server::start(&database).await;
    let mut thief = proved(&server, &database, "someone", 1).await;
    let (mut password, mut secret) = (PASSWORD, None);
    for event in ["a new password", "a reset", "an end of all sessions", "a second factor"] {
        let to = format!("{}@thief.example", event.replace(' ', "-"));
        thief.post("/api/auth/email", &json!({ "email": to })).expect(202).await;
        let change = token_to(&database, &to).await;
        let owner = log_in(&server, password, None).await;
        match event {
            "a new password" => {
                change_password(&owner).await;
                password = NEW_PASSWORD;
            }
            "a reset" => {
                let seen = letters(&database).len();
                let forgot = json!({ "email": "someone@example.com" });
                server.post("/api/auth/forgot-password", &forgot).expect(202).await;
                let reset = token(letters_of(&database, seen + 1).await.last().unwrap());
                let reset = json!({ "token": reset, "new_password": PASSWORD });
                server.post("/api/auth/reset-password", &reset).expect(200).await;
                password = PASSWORD;
            }
            "an end of all sessions" => {
                owner.post("/api/auth/logout-all", &json!({})).expect(200).await;
            }
            _ => {
                secret = Some(owner.set_up_second_factor().await);
                server.advance(30);
            }
        }
        // The owner is led to the thief's link, in a session with a fresh proof.
        let owner = log_in(&server, password, secret.as_deref()).await;
        let confirm = json!({ "token": change });
        let refused = owner.post("/api/auth/email/confirm", &confirm).send().await;
        assert_eq!(refused.status, 400, "{event}: {}", refused.text);
        let me = owner.get("/api/auth/me").expect(200).await.body;
        assert_eq!(me["email"], "someone@example.com", "{event}");
        thief = owner;
    }
}

async fn a_change_of_a_strangers_making_ends_with_the_first_proof(database: Database) {
    let server = Server::start(&database).await;
    // With somebody else's address.
    let thief = server.user("someone").await;
    let verify = token(&letters_of(&database, 1).await[0]);
    thief.post("/api/auth/email", &json!({ "email": "it@thief.example" })).expect(202).await;
    let change = token_to(&database, "it@thief.example").await;
    server.post("/api/auth/verify-email", &json!({ "token": verify })).expect(200).await;
    let owner = server.log_in_again("someone").await;
    owner.post("/api/auth/email/confirm", &json!({ "token": change })).expect(400).await;
    let me = owner.get("/api/auth/me").expect(200).await.body;
    assert_eq!(me["email"], "someone@example.com");
}

/// A letter is written after its request has its answer; the account may be taken back meanwhile.
async fn a_token_that_was_asked_for_before_is_not_made_after(database: Database) {
    use domain::UserId;
    use polysystems::store::Store;
    use polysystems::store::users::TokenPurpose;
    let server = Server::start(&database).await;
    let owner = server.user("someone").await;
    let id: UserId = owner.id.parse().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let settings = polysystems::config::DatabaseSettings::default();
    let store = Store::open(&settings, database.url(), runtime).await.unwrap();
    let ends = domain::Timestamp::from_micros(i64::MAX);
    let insert = async |user: &polysystems::store::users::User, number: u8| {
        let (purpose, to) = (TokenPurpose::Change, Some("it@thief.example".to_owned()));
        store.users.insert_email_token(user, purpose, [number; 32], ends, to).await.unwrap();
    };
    let count = "SELECT CAST(COUNT(*) AS TEXT) FROM email_token WHERE purpose = 3";
    let before = store.users.find(id).await.unwrap().unwrap();
    insert(&before, 1).await;
    assert_eq!(database.query(count).await, "1");
    owner.post("/api/auth/logout-all", &json!({})).expect(200).await;
    insert(&before, 2).await;
    assert_eq!(database.query(count).await, "0");
    let before = store.users.find(id).await.unwrap().unwrap();
    change_password(&server.log_in_again("someone").await).await;
    insert(&before, 3).await;
    assert_eq!(database.query(count).await, "0");
    store.close().await;
}

async fn a_change_of_address_is_confirmed_with_a_fresh_proof(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    user.post("/api/auth/email", &json!({ "email": "new@example.com" })).expect(202).await;
    let change = json!({ "token": token_to(&database, "new@example.com").await });
    server.advance(600);
    let confirm = || user.post("/api/auth/email/confirm", &change);
    assert_eq!(confirm().expect(403).await.body["error"], "Confirmation required");
    user.post("/api/auth/confirm", &json!({ "password": PASSWORD })).expect(200).await;
    assert_eq!(confirm().expect(200).await.body["email"], "new@example.com");
}

/// The letter with this subject.
async fn letter_of(database: &Database, count: usize, subject: &str) -> String {
    let line = format!("Subject: {subject}\n");
    let letters = letters_of(database, count).await;
    let found = letters.iter().rfind(|letter| letter.contains(&line));
    found.unwrap_or_else(|| panic!("no {subject} in {letters:?}")).clone()
}

async fn letters_tell_of_a_rotation_and_of_a_webhooks_new_url(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    let key = user.key_of(&json!({ "name": "mine" })).await;
    let hook = json!({ "url": "https://hooks.example.com/in", "events": ["payment.confirmed"] });
    let hook = user.post("/api/webhooks", &hook).expect(201).await.body;
    letters_of(&database, 3).await;
    // A plain session rotates, without a fresh proof.
    server.advance(3_600);
    let rotate = format!("/api/keys/{}/rotate", key.id);
    user.post(&rotate, &json!({ "grace_seconds": 3_600 })).expect(200).await;
    let told = letter_of(&database, 4, "An API key was rotated").await;
    for named in ["\"mine\"", &key.id, "2024-01-15T14:00:00Z", "127.0.0.1"] {
        assert!(told.contains(named), "{named}: {told}");
    }
    let hook = format!("/api/webhooks/{}", hook["id"].as_str().unwrap());
    let change = json!({ "url": "https://thief.example.com/" });
    user.patch(&hook, &change).expect(200).await;
    let told = letter_of(&database, 5, "A webhook has another URL").await;
    for named in ["thief(dot)example(dot)com", "hooks(dot)example(dot)com", &hook] {
        assert!(told.contains(named), "{named}: {told}");
    }
    // Nothing is told of a change that sends nothing elsewhere.
    user.patch(&hook, &change).expect(200).await;
    user.patch(&hook, &json!({ "description": "x" })).expect(200).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(letters(&database).len(), 5);
}

async fn a_letter_of_a_new_password_names_the_keys_that_were_rotated(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    let (old, new) = (user.key().await, user.key_of(&json!({ "name": "same" })).await);
    user.post(&format!("/api/keys/{}/rotate", old.id), &json!({})).expect(200).await;
    // The session tokens are renewed by logins.
    server.advance(31 * 86_400);
    let user = log_in(&server, PASSWORD, None).await;
    let rotate = format!("/api/keys/{}/rotate", new.id);
    user.post(&rotate, &json!({ "grace_seconds": 86_400 })).expect(200).await;
    let seen = letters(&database).len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = letters(&database).len().max(seen);
    change_password(&user).await;
    let told = letter_of(&database, seen + 1, "Your password was changed").await;
    let line = |key: &str| told.lines().find(|line| line.contains(key)).unwrap().to_owned();
    let rotated = line(&new.id);
    assert!(
        rotated.contains("rotated at 2024-02-15T12:00:00Z")
            && rotated.contains("the value before is good until 2024-02-16T12:00:00Z"),
        "{told}"
    );
    assert!(!line(&old.id).contains("rotated"), "{told}");
    // The owner's programs may still have the value of before.
    server.get("/v1/models").key(&new).expect(200).await;
}

async fn a_suspended_user_sends_events_nowhere_else(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let user = server.user("someone").await;
    let hook = json!({ "url": "https://hooks.example.com/in" });
    let hook = user.post("/api/webhooks", &hook).expect(201).await.body;
    let hook = format!("/api/webhooks/{}", hook["id"].as_str().unwrap());
    let suspend = format!("/api/admin/users/{}/suspend", user.id);
    operator.post(&suspend, &json!({})).expect(200).await;
    let user = server.log_in_again("someone").await;
    let change = json!({ "url": "https://thief.example.com/" });
    user.patch(&hook, &change).expect(403).await;
    // They may still end things.
    user.patch(&hook, &json!({ "enabled": false })).expect(200).await;
}
