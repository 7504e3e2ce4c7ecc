//! What goes by email.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Database, PASSWORD, Server, on_both};
use crate::takeover::proved;

on_both!(
    an_address_is_verified_by_what_was_sent_to_it,
    a_forgotten_password_is_replaced_by_email,
    nobody_is_told_whether_an_address_is_known,
    a_setting_demands_a_verified_address,
    of_a_thousand_uses_of_a_reset_token_one_wins,
    a_message_goes_to_the_mail_server,
    the_owner_of_keys_that_end_soon_is_told_once_a_day,
    warnings_go_to_proved_addresses_and_to_everybody_in_turn,
    recipients_whose_server_is_slow_delay_nobody_elses_letters,
);

/// The messages in the folder, oldest first, decoded.
pub(crate) fn letters(database: &Database) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(database.folder().join("mail")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
    paths.sort();
    paths.iter().map(|path| decoded(&std::fs::read_to_string(path).unwrap())).collect()
}

/// Undoes quoted-printable, as far as these messages have it.
fn decoded(text: &str) -> String {
    text.replace("\r\n", "\n").replace("=\n", "").replace("=3D", "=")
}

/// Waits until there are so many messages.
pub(crate) async fn letters_of(database: &Database, count: usize) -> Vec<String> {
    for _ in 0..400 {
        let letters = letters(database);
        if letters.len() >= count {
            assert_eq!(letters.len(), count);
            return letters;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} messages: {:?}", letters(database).len(), letters(database));
}

pub(crate) fn token(letter: &str) -> String {
    let start = letter.find("pse_").unwrap_or_else(|| panic!("no token in {letter}"));
    letter[start..start + 47].to_owned()
}

async fn an_address_is_verified_by_what_was_sent_to_it(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.email.verify_url = Some("https://app.example.com/verify?token={token}".into());
    })
    .await;
    let user = server.user("someone").await;
    let letter = letters_of(&database, 1).await.remove(0);
    assert!(letter.contains("To: someone@example.com\n"), "{letter}");
    assert!(letter.contains("From: Polysystems <no-reply@localhost>\n"), "{letter}");
    assert!(letter.contains("    https://app.example.com/verify?token=pse_"), "{letter}");
    let first = token(&letter);
    let verify = |token: &str| server.post("/api/auth/verify-email", &json!({ "token": token }));
    // Another one takes the place of the first.
    let again = json!({ "email": "SOMEONE@example.com" });
    server.post("/api/auth/resend-verification", &again).expect(202).await;
    let second = token(&letters_of(&database, 2).await[1]);
    let refused = verify(&first).expect(400).await;
    refused.assert_error(
        "Invalid token",
        "The token is not valid, was used before, or has expired. Please request a new one.",
    );
    verify(&second).expect(200).await;
    verify(&second).expect(400).await;
    verify("pse_").expect(400).await;
    // The sessions of before have ended.
    user.get("/api/auth/me").expect(401).await;
    let login = json!({ "email": "someone@example.com", "password": PASSWORD });
    let session = server.post("/api/auth/login", &login).expect(200).await.body;
    let me = server.get("/api/auth/me").bearer(session["token"].as_str().unwrap());
    assert_eq!(me.expect(200).await.body["is_email_verified"], true);
    // Who has proved it gets no other one.
    server.post("/api/auth/resend-verification", &again).expect(202).await;
    let other = server.user("other").await;
    let letter = &letters_of(&database, 3).await[2];
    assert!(letter.contains("To: other@example.com\n"), "{letter}");
    server.advance(48 * 3_600);
    verify(&token(letter)).expect(400).await;
    drop(other);
    // Where it was written, only the server's own user reads it.
    let stored = database.query("SELECT CAST(COUNT(*) AS TEXT) FROM email_token").await;
    assert!(!stored.contains("pse_"));
}

async fn a_forgotten_password_is_replaced_by_email(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    letters_of(&database, 1).await;
    let forget = async |count| {
        let body = json!({ "email": "someone@example.com" });
        server.post("/api/auth/forgot-password", &body).expect(202).await;
        token(letters_of(&database, count).await.last().unwrap())
    };
    let reset = |token: &str, password: &str| {
        let body = json!({ "token": token, "new_password": password });
        server.post("/api/auth/reset-password", &body)
    };
    let (first, second) = (forget(2).await, forget(3).await);
    assert_ne!(first, second);
    reset(&first, "Another password 1").expect(400).await;
    reset(&second, "short").expect(400).await;
    let refused = reset(&second, "password1234").expect(400).await;
    assert_eq!(refused.body["details"][0]["field"], "new_password");
    // A token for one thing is good for nothing else.
    server.post("/api/auth/verify-email", &json!({ "token": second })).expect(400).await;
    user.get("/api/auth/me").expect(200).await;
    reset(&second, "Another password 1").expect(200).await;
    reset(&second, "Another password 2").expect(400).await;
    user.get("/api/auth/me").expect(401).await;
    let login = |password: &str| {
        let body = json!({ "email": "someone@example.com", "password": password });
        server.post("/api/auth/login", &body)
    };
    login(PASSWORD).expect(401).await;
    let session = login("Another password 1").expect(200).await.body;
    let me = server.get("/api/auth/me").bearer(session["token"].as_str().unwrap());
    // A reader of the mail owns the address.
    assert_eq!(me.expect(200).await.body["is_email_verified"], true);
    assert!(letters_of(&database, 4).await[3].contains("Subject: Your password was changed\n"));
    let late = forget(5).await;
    server.advance(3_600);
    reset(&late, "Another password 3").expect(400).await;
}

async fn nobody_is_told_whether_an_address_is_known(database: Database) {
    let server = Server::start(&database).await;
    server.user("someone").await;
    letters_of(&database, 1).await;
    for path in ["/api/auth/forgot-password", "/api/auth/resend-verification"] {
        let mut bodies = Vec::new();
        for email in ["someone@example.com", "nobody@example.com", "no address", ""] {
            let answer = server.post(path, &json!({ "email": email })).expect(202).await;
            bodies.push(answer.text);
        }
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "{bodies:?}");
    }
    let letters = letters_of(&database, 3).await;
    assert!(letters.iter().all(|letter| letter.contains("To: someone@example.com\n")));
}

async fn a_setting_demands_a_verified_address(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.auth.require_verified_email = true;
    })
    .await;
    let user = server.user("someone").await;
    let pay = || user.post("/api/payments/payments", &json!({ "amount": 1 }));
    let key = || user.post("/api/keys", &json!({ "name": "a" }));
    let refused = pay().expect(403).await;
    assert_eq!(refused.body["error"], "Email not verified");
    key().expect(403).await;
    user.get("/api/keys").expect(200).await;
    let token = token(&letters_of(&database, 1).await[0]);
    server.post("/api/auth/verify-email", &json!({ "token": token })).expect(200).await;
    let login = json!({ "email": "someone@example.com", "password": PASSWORD });
    let session = server.post("/api/auth/login", &login).expect(200).await.body;
    let token = session["token"].as_str().unwrap();
    let pay = server.post("/api/payments/payments", &json!({ "amount": 1 }));
    pay.bearer(token).expect(201).await;
    server.post("/api/keys", &json!({ "name": "a" })).bearer(token).expect(201).await;
}

async fn of_a_thousand_uses_of_a_reset_token_one_wins(database: Database) {
    let server = Server::start_with(&database, |settings| {
        settings.auth.password_queue_max = 2_000;
    })
    .await;
    server.user("someone").await;
    letters_of(&database, 1).await;
    let forgot = json!({ "email": "someone@example.com" });
    server.post("/api/auth/forgot-password", &forgot).expect(202).await;
    let token = token(&letters_of(&database, 2).await[1]);
    let uses = (0..1_000).map(|place| {
        let body = json!({ "token": token, "new_password": format!("Password number {place}") });
        server.post("/api/auth/reset-password", &body).send()
    });
    let answers = futures_util::future::join_all(uses).await;
    let won: Vec<usize> = answers
        .iter()
        .enumerate()
        .filter(|(_, a)| a.status == 200)
        .map(|(place, _)| place)
        .collect();
    assert_eq!(won.len(), 1, "{won:?}");
    // Of so many at once some may find no place before the database.
    assert!(answers.iter().all(|answer| [200, 400, 503].contains(&answer.status.as_u16())));
    let password = format!("Password number {}", won[0]);
    let login = json!({ "email": "someone@example.com", "password": password });
    server.post("/api/auth/login", &login).expect(200).await;
}

/// A mail server that refuses the first message for now, and tells what it was sent. It refuses
/// whatever goes to `later.example` for now, and says nothing to what goes to `slow.example`.
async fn mail_server() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let refusals = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(receive(stream, sender.clone(), std::sync::Arc::clone(&refusals)));
        }
    });
    (port, receiver)
}

async fn receive(
    stream: TcpStream,
    sender: tokio::sync::mpsc::UnboundedSender<String>,
    refuses: std::sync::Arc<std::sync::atomic::AtomicBool>,
) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 here\r\n").await.unwrap();
    let (mut is_data, mut message) = (false, String::new());
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.as_str() {
            "." if is_data => {
                is_data = false;
                let _ = sender.send(std::mem::take(&mut message));
                "250 taken\r\n"
            }
            line if is_data => {
                message.push_str(line);
                message.push('\n');
                continue;
            }
            line if line.starts_with("EHLO") => "250 here\r\n",
            "DATA" => {
                is_data = true;
                "354 go on\r\n"
            }
            line if line.starts_with("MAIL") && refuses.swap(false, Ordering::SeqCst) => {
                "451 later\r\n"
            }
            line if line.contains("@later.example") => "451 later\r\n",
            line if line.contains("@slow.example") => continue,
            _ => "250 yes\r\n",
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            break;
        }
    }
}

async fn a_message_goes_to_the_mail_server(database: Database) {
    let (port, mut messages) = mail_server().await;
    let server = Server::start_with(&database, |settings| {
        let url = json!(format!("smtp://127.0.0.1:{port}"));
        settings.email.smtp_url = Some(serde_json::from_value(url).unwrap());
        settings.email.from = "Us <us@example.com>".into();
    })
    .await;
    server.user("someone").await;
    let message = tokio::time::timeout(Duration::from_secs(30), messages.recv());
    let message = decoded(&message.await.unwrap().unwrap());
    assert!(message.contains("From: Us <us@example.com>\n"), "{message}");
    assert!(message.contains("To: someone@example.com\n"), "{message}");
    let body = json!({ "token": token(&message) });
    server.post("/api/auth/verify-email", &body).expect(200).await;
    assert!(letters(&database).is_empty());
}

async fn recipients_whose_server_is_slow_delay_nobody_elses_letters(database: Database) {
    let (port, mut messages) = mail_server().await;
    let server = Server::start_with(&database, |settings| {
        let url = json!(format!("smtp://127.0.0.1:{port}"));
        settings.email.smtp_url = Some(serde_json::from_value(url).unwrap());
    })
    .await;
    let mut next = async |most: u64| {
        let message = tokio::time::timeout(Duration::from_secs(most), messages.recv());
        decoded(&message.await.expect("no letter in time").unwrap())
    };
    server.user("owner").await;
    let verify = json!({ "token": token(&next(30).await) });
    server.post("/api/auth/verify-email", &verify).expect(200).await;
    let owner = server.log_in_again("owner").await;
    let register = async |domain: &str, number: usize| {
        let body = json!({
            "email": format!("a{number}@{domain}"),
            "password": PASSWORD,
            "username": format!("{}{number}", domain.replace('.', "-")),
        });
        server.post("/api/auth/register", &body).expect(201).await;
    };
    // What is refused for now waits for its next try without a place among those that are sent.
    for number in 0..8 {
        register("later.example", number).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    register("quick.example", 0).await;
    assert!(next(3).await.contains("To: a0@quick.example"));
    // A server of recipients that says nothing keeps places, but of its own domain.
    for number in 0..8 {
        register("slow.example", number).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    register("quick.example", 1).await;
    assert!(next(3).await.contains("To: a1@quick.example"));
    // Addresses that are proved have places of their own.
    owner.key().await;
    assert!(next(3).await.contains("Subject: A new API key"));
}

async fn the_owner_of_keys_that_end_soon_is_told_once_a_day(database: Database) {
    let server = Server::start(&database).await;
    let user = proved(&server, &database, "someone", 1).await;
    let make = async |name: &str, end: &str| {
        user.key_of(&json!({ "name": name, "expires_at": end })).await.id
    };
    let soon = make("soon", "2024-01-20T12:00:00Z").await;
    let sooner = make("sooner", "2024-01-19T12:00:00Z").await;
    make("later", "2024-02-20T12:00:00Z").await;
    make("over", "2024-01-10T12:00:00Z").await;
    let revoked = make("revoked", "2024-01-20T12:00:00Z").await;
    user.post(&format!("/api/keys/{revoked}/revoke"), &json!({})).expect(200).await;
    let token = user.token.clone();
    letters_of(&database, 6).await;
    server.stop();
    // It looks when it starts, and then now and then.
    let server = Server::start(&database).await;
    let letter = letters_of(&database, 7).await.remove(6);
    assert!(letter.contains("To: someone@example.com\n"), "{letter}");
    for named in ["\"soon\"", &soon, "2024-01-20T12:00:00Z", "\"sooner\"", &sooner] {
        assert!(letter.contains(named), "{named}: {letter}");
    }
    for absent in ["\"later\"", "\"over\"", "\"revoked\""] {
        assert!(!letter.contains(absent), "{absent}: {letter}");
    }
    // Another end is worth another message, but not on the same day.
    let path = format!("/api/keys/{soon}");
    for body in ["{\"name\":\"other\"}", "{\"expires_at\":\"2024-01-21T12:00:00Z\"}"] {
        let edit = server.request(reqwest::Method::PATCH, &path).body(body).bearer(&token);
        edit.expect(200).await;
    }
    server.stop();
    let server = Server::start(&database).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(letters(&database).len(), 7);
    let acts = server.get("/api/auth/audit-log").bearer(&token).expect(200).await.text;
    assert_eq!(acts.matches("key.expiry_told").count(), 2, "{acts}");
}

/// Somebody with many keys keeps nobody else's warnings from them.
async fn warnings_go_to_proved_addresses_and_to_everybody_in_turn(database: Database) {
    let server = Server::start(&database).await;
    let crowd = server.user("crowd").await;
    for number in 0..110 {
        let end = json!({ "name": format!("{number}"), "expires_at": "2024-01-16T12:00:00Z" });
        crowd.key_of(&end).await;
    }
    let users = [
        proved(&server, &database, "day-old", 2).await,
        proved(&server, &database, "hours-old", 3).await,
    ];
    for user in &users {
        let end = json!({ "name": "mine", "expires_at": "2024-01-18T12:00:00Z" });
        user.key_of(&end).await;
    }
    letters_of(&database, 5).await;
    let id = if database.is_postgres() { "gen_random_uuid()" } else { "randomblob(16)" };
    for (name, hours) in [("day-old", 25), ("hours-old", 23)] {
        let at = crate::support::NOON - hours * 3_600_000_000;
        let told = format!(
            "INSERT INTO audit_log
                (id, at, user_id, actor, actor_id, kind, subject, detail, address, agent)
            SELECT {id}, {at}, user_id, actor, actor_id, 'key.expiry_told', '', '', '', ''
            FROM audit_log WHERE kind = 'user.registered'
                AND user_id = (SELECT id FROM users WHERE username = '{name}')"
        );
        database.execute(&told).await.unwrap();
    }
    server.stop();
    let server = Server::start(&database).await;
    let letter = letters_of(&database, 6).await.remove(5);
    assert!(letter.contains("To: day-old@example.com\n"), "{letter}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // Neither to the address that nobody has proved, nor a second time in a day.
    assert_eq!(letters(&database).len(), 6);
    drop(server);
}
