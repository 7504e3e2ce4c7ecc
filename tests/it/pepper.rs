//! The key pepper is replaced, and nobody notices.

use std::time::Duration;

use polysystems::webhooks::sign;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::support::process::{command, finished};
use crate::support::receiver::Receiver;
use crate::support::{Database, NOON, PASSWORD, Server, User, hello, on_both};

on_both!(
    a_new_pepper_keeps_keys_secrets_and_answers,
    only_one_previous_pepper_is_kept,
    a_key_of_a_pepper_that_is_gone_is_invalid,
);

async fn start(database: &Database) -> Server {
    Server::start_with(database, |settings| settings.webhooks.allow_private_addresses = true).await
}

fn secret(database: &Database, name: &str) -> (Option<i32>, String) {
    let (code, output, error) = finished(command(database).args(["secret", name]));
    (code, output + &error)
}

fn code(secret: &str, seconds: i64) -> String {
    let secret = Secret::try_from_base32(secret).unwrap();
    let builder = Builder::new().with_secret(secret).with_account_name("a");
    let now = u64::try_from(NOON / 1_000_000 + seconds).unwrap();
    builder.build().unwrap().generate(now).to_string()
}

/// Logs in with a second factor.
async fn log_in(server: &Server, code: &str, status: u16) -> Value {
    let login = json!({ "email": "someone@example.com", "password": PASSWORD });
    let challenge = server.post("/api/auth/login", &login).expect(200).await.body;
    let body = json!({ "challenge": challenge["challenge"], "code": code });
    server.post("/api/auth/login/2fa", &body).expect(status).await.body
}

/// A test event is signed with this secret.
async fn assert_signed(user: &User<'_>, receiver: &Receiver, id: &str, secret: &str, count: usize) {
    use base64::Engine as _;
    user.post(&format!("/api/webhooks/{id}/test"), &json!(null)).expect(202).await;
    let sent = receiver.wait("webhook.test", count).await.pop().unwrap();
    let secret = secret.strip_prefix("whsec_").unwrap();
    let secret = base64::engine::general_purpose::STANDARD.decode(secret).unwrap();
    let expected = sign(&secret, &sent.id, sent.timestamp, &sent.text).unwrap();
    assert_eq!(sent.signature, expected);
}

async fn a_new_pepper_keeps_keys_secrets_and_answers(database: Database) {
    let (server, receiver) = (start(&database).await, Receiver::start());
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let old = user.key().await;
    let call = |server: &Server, key: &crate::support::Key| {
        let request = server.post("/v1/chat/completions", &hello()).key(key);
        request.header("Idempotency-Key", "one").expect(200)
    };
    let first = call(&server, &old).await;
    let hook = json!({ "url": format!("{}/hook", receiver.url) });
    let hook = user.post("/api/webhooks", &hook).expect(201).await.body;
    let (id, signing) = (hook["id"].as_str().unwrap(), hook["secret"].as_str().unwrap());
    let password = json!({ "password": PASSWORD });
    let enrolment = user.post("/api/auth/2fa/enroll", &password).expect(200).await.body;
    let totp = enrolment["secret"].as_str().unwrap();
    let body = json!({ "code": code(totp, 0) });
    let confirmed = user.post("/api/auth/2fa/confirm", &body).expect(200).await.body;
    let recovery = confirmed["recovery_codes"].as_array().unwrap();
    let (token, user_id) = (user.token.clone(), user.id.clone());
    server.stop();

    assert_eq!(secret(&database, "rotate-pepper").0, Some(0));
    let previous = database.folder().join("key_pepper.previous");
    assert!(previous.exists());
    let (_, status) = secret(&database, "status");
    let others = "With another one: 2 encrypted secrets of webhooks, second factors and providers, 10 unused";
    assert!(status.contains(others), "{status}");
    let server = start(&database).await;
    let user = User { server: &server, id: user_id.clone(), token: token.clone() };
    let repeat = call(&server, &old).await;
    assert_eq!(repeat.header("idempotent-replayed"), "true");
    assert_eq!(repeat.text, first.text);
    server.post("/v1/chat/completions", &hello()).key(&old).expect(200).await;
    let new = user.key().await;
    server.post("/v1/chat/completions", &hello()).key(&new).expect(200).await;
    log_in(&server, recovery[0].as_str().unwrap(), 200).await;
    log_in(&server, recovery[0].as_str().unwrap(), 401).await;
    assert_signed(&user, &receiver, id, signing, 1).await;
    let (_, status) = secret(&database, "status");
    assert!(status.contains("current pepper: 1; with another one: 1."), "{status}");
    // A change of a key of the previous pepper binds at once, also for what is remembered of it.
    user.delete(&format!("/api/keys/{}", old.id)).expect(204).await;
    server.post("/v1/chat/completions", &hello()).key(&old).expect(401).await;
    let (_, status) = secret(&database, "status");
    assert!(status.contains("with another one: 0.") && status.contains("Keep"), "{status}");
    // Until what is encrypted was encrypted anew, which the start does beside its work.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, status) = secret(&database, "status");
    let others =
        "With another one: 0 encrypted secrets of webhooks, second factors and providers, 9 unused";
    assert!(status.contains(others) && status.contains("without it the codes"), "{status}");
    // Codes that are made anew do not need it.
    let renew = json!({ "password": PASSWORD, "code": recovery[1] });
    user.post("/api/auth/2fa/recovery-codes", &renew).expect(200).await;
    let (_, status) = secret(&database, "status");
    assert!(status.contains("Nothing that lasts needs the previous pepper"), "{status}");
    server.stop();

    std::fs::remove_file(previous).unwrap();
    let server = start(&database).await;
    server.advance(60);
    let user = User { server: &server, id: user_id, token };
    server.post("/v1/chat/completions", &hello()).key(&new).expect(200).await;
    log_in(&server, &code(totp, 60), 200).await;
    assert_signed(&user, &receiver, id, signing, 2).await;
}

async fn only_one_previous_pepper_is_kept(database: Database) {
    Server::start(&database).await.stop();
    assert_eq!(secret(&database, "rotate-pepper").0, Some(0));
    let pepper = std::fs::read(database.folder().join("key_pepper")).unwrap();
    let (status, text) = secret(&database, "rotate-pepper");
    assert_eq!(status, Some(78));
    assert!(text.contains("key_pepper.previous") && text.contains("secret status"), "{text}");
    assert_eq!(std::fs::read(database.folder().join("key_pepper")).unwrap(), pepper);
}

async fn a_key_of_a_pepper_that_is_gone_is_invalid(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    server.stop();
    assert_eq!(secret(&database, "rotate-pepper").0, Some(0));
    std::fs::remove_file(database.folder().join("key_pepper.previous")).unwrap();
    let server = Server::start(&database).await;
    server.post("/v1/chat/completions", &hello()).key(&key).expect(401).await;
    let (_, status) = secret(&database, "status");
    assert!(status.contains("auth.key_previous_pepper"), "{status}");
}
