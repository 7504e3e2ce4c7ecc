//! More than a thousand secrets, driven through everything that takes or makes one, errors and
//! panics included. None may be found where it is not shown on purpose: not in the database, not in
//! the log, not in the figures for monitoring, not in an error's body.

use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::email::token;
use crate::support::process::{Process, free_port};
use crate::support::{Database, on_both};

on_both!(no_secret_is_found_where_it_does_not_belong);

const USERS: usize = 50;

/// What is secret, and what was answered that must not tell of it.
#[derive(Default)]
struct Findings {
    secrets: Mutex<Vec<String>>,
    errors: Mutex<String>,
}

impl Findings {
    fn secret(&self, text: &str) -> String {
        assert!(text.len() >= 6, "too short to be looked for: {text}");
        self.secrets.lock().unwrap().push(text.to_owned());
        text.to_owned()
    }
}

struct Person<'p> {
    process: &'p Process,
    findings: &'p Findings,
    token: String,
}

impl Person<'_> {
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = method.parse().unwrap();
        let request = self.process.client.request(method, format!("{}{path}", self.process.url));
        // A secret in a query or in a header is logged nowhere either.
        let once = format!("{path}{}", body["name"]).replace([' ', '"'], "-");
        let request = request.bearer_auth(&self.token).header("Idempotency-Key", once);
        let answer = request.body(body.to_string()).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        if status >= 400 {
            self.findings.errors.lock().unwrap().push_str(&text);
        }
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", path, body).await.1
    }
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_else(|| panic!("no {field} in {body}")).to_owned()
}

fn code(secret: &str) -> String {
    let secret = Secret::try_from_base32(secret).unwrap();
    let builder = Builder::new().with_secret(secret).with_account_name("a");
    builder.build().unwrap().generate_current().to_string()
}

/// The last message to an address, once there is one with this subject.
async fn letter(database: &Database, to: &str, subject: &str) -> String {
    for _ in 0..600 {
        let letters = crate::email::letters(database);
        let found = letters.iter().rev().find(|letter| {
            letter.contains(&format!("To: {to}\n"))
                && letter.contains(&format!("Subject: {subject}\n"))
        });
        if let Some(letter) = found {
            return letter.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no message to {to}");
}

#[expect(clippy::too_many_lines, reason = "a life reads best in one piece")]
async fn live(process: &Process, database: &Database, findings: &Findings, place: usize) {
    let email = format!("person{place}@example.com");
    let password = findings.secret(&format!("canary password {place} one"));
    let second = findings.secret(&format!("canary password {place} two"));
    let third = findings.secret(&format!("canary password {place} three"));
    let wrong = findings.secret(&format!("canary password {place} wrong"));
    let mut person = Person { process, findings, token: String::new() };
    let registration =
        json!({ "email": email, "password": password, "username": format!("person{place}") });
    // It may panic on the way, and be sent again.
    while ![201, 409]
        .contains(&person.ask("POST", "/api/auth/register", registration.clone()).await.0)
    {}
    // Refused, with the secret in the body in several places.
    person.post("/api/auth/register", registration.clone()).await;
    person.post("/api/auth/register", json!({ "email": email, "password": [password] })).await;
    person.post("/api/auth/register", json!({ "email": email, "secret": password })).await;
    person.post("/api/auth/login", json!(format!("not an object {password}"))).await;
    person.post("/api/auth/login", json!({ "email": email, "password": wrong })).await;
    person.post("/api/auth/login", json!({ "email": password, "password": email })).await;
    person.post("/api/auth/refresh", json!({ "refresh_token": password })).await;
    person
        .ask("GET", &format!("/api/auth/me?password={}", password.replace(' ', "%20")), json!(null))
        .await;
    let verification =
        findings.secret(&token(&letter(database, &email, "Please verify your address").await));
    let body = json!({ "token": verification });
    person.post("/api/auth/verify-email", body.clone()).await;
    person.post("/api/auth/verify-email", body).await;

    let login = json!({ "email": email, "password": password });
    let session = person.post("/api/auth/login", login).await;
    person.token = findings.secret(&text(&session, "token"));
    let refresh = findings.secret(&text(&session, "refresh_token"));
    let renewed = person.post("/api/auth/refresh", json!({ "refresh_token": refresh })).await;
    findings.secret(&text(&renewed, "refresh_token"));
    findings.secret(&text(&renewed, "token"));
    let body = json!({ "current_password": wrong, "new_password": second });
    person.post("/api/auth/change-password", body).await;
    let body = json!({ "current_password": password, "new_password": second });
    let changed = person.post("/api/auth/change-password", body).await;
    person.token = findings.secret(&text(&changed, "token"));
    findings.secret(&text(&changed, "refresh_token"));

    let enrolment = person.post("/api/auth/2fa/enroll", json!({ "password": second })).await;
    let totp = findings.secret(&text(&enrolment, "secret"));
    let confirmed = person.post("/api/auth/2fa/confirm", json!({ "code": code(&totp) })).await;
    let codes = confirmed["recovery_codes"].as_array().unwrap_or_else(|| panic!("{confirmed}"));
    let codes: Vec<String> =
        codes.iter().map(|code| findings.secret(code.as_str().unwrap())).collect();
    let login = json!({ "email": email, "password": second });
    let challenge =
        findings.secret(&text(&person.post("/api/auth/login", login.clone()).await, "challenge"));
    for code in [&codes[0], &codes[0], &totp] {
        let body = json!({ "challenge": challenge, "code": code });
        person.post("/api/auth/login/2fa", body).await;
    }
    person.post("/api/payments/payments", json!({ "amount": 1 })).await;
    for number in 0..4 {
        let body = json!({ "name": format!("key {number}") });
        let created = person.post("/api/keys", body).await;
        // It may panic on the way.
        if created["key_value"].is_null() {
            continue;
        }
        let key = findings.secret(&text(&created, "key_value"));
        let id = text(&created, "id");
        let rotated = person.post(&format!("/api/keys/{id}/rotate"), json!({})).await;
        let other = findings.secret(&text(&rotated, "key_value"));
        for (path, key) in [
            ("/api/hub/rag/index", &key),
            ("/v1/chat/completions", &other),
            ("/api/hub/unknown", &other),
            ("/v1/chat/completions", &format!("{key}x")),
        ] {
            let caller = Person { process, findings, token: key.clone() };
            caller.post(path, json!({ "messages": [{ "role": "user", "content": "x" }] })).await;
            caller.ask("GET", &format!("{path}?key={key}"), json!(null)).await;
        }
        person.ask("DELETE", &format!("/api/keys/{key}"), json!(null)).await;
    }
    person.post("/api/auth/forgot-password", json!({ "email": email })).await;
    let reset = findings.secret(&token(&letter(database, &email, "Another password").await));
    let body = json!({ "token": reset, "new_password": third });
    person.post("/api/auth/reset-password", body.clone()).await;
    person.post("/api/auth/reset-password", body).await;
}

/// Every file of the folder but the messages, and what they are signed and sealed with.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_file())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

async fn no_secret_is_found_where_it_does_not_belong(database: Database) {
    let log = database.folder().join("log");
    let (file, metrics) = (std::fs::File::create(&log).unwrap(), free_port());
    let mut process = Process::start_with(&database, |command| {
        command
            .env("POLYSYSTEMS_LOG__LEVEL", "debug")
            .env("POLYSYSTEMS_SERVER__METRICS_BIND", format!("127.0.0.1:{metrics}"))
            .env("POLYSYSTEMS_AUTH__PASSWORD_QUEUE_MAX", "1000")
            .env("RUST_BACKTRACE", "1")
            .env(
                "FAILPOINTS",
                "handler-entered=5%panic;register-written=5%panic;account-decided=2%panic",
            )
            .stdout(file.try_clone().unwrap())
            .stderr(file);
    })
    .await;
    let findings = Findings::default();
    let lives = (0..USERS).map(|place| live(&process, &database, &findings, place));
    futures_util::future::join_all(lives).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = client.get(format!("http://127.0.0.1:{metrics}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("polysystems"), "{metrics}");
    let mut dump = String::new();
    if database.is_postgres() {
        let tables = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'";
        for table in database.query(tables).await.split_whitespace() {
            let rows =
                format!("SELECT COALESCE(string_agg(row::text, ' '), '') FROM {table} AS row");
            dump.push_str(&database.query(&rows).await);
        }
        assert!(dump.contains("argon2id") && dump.len() > 10_000);
    }
    process.terminate();

    let secrets = findings.secrets.into_inner().unwrap();
    assert!(secrets.len() > 1_000, "{}", secrets.len());
    let mut places = files(database.folder());
    let log = places.iter().find(|(name, _)| name.ends_with("log")).unwrap();
    assert!(contains(&log.1, b"panicked") && contains(&log.1, b"request_id"));
    places.push(("the tables".into(), dump.into_bytes()));
    places.push(("the metrics".into(), metrics.into_bytes()));
    places.push(("the errors".into(), findings.errors.into_inner().unwrap().into_bytes()));
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |t, byte| format!("{t}{byte:02x}"));
    let mut found = Vec::new();
    for secret in &secrets {
        let mut forms = vec![secret.clone().into_bytes(), hex(secret.as_bytes()).into_bytes()];
        forms.push(secret.replace(' ', "%20").into_bytes());
        if let Ok(raw) = Secret::try_from_base32(secret)
            && raw.as_bytes().len() == 20
        {
            forms.push(raw.as_bytes().to_vec());
            forms.push(hex(raw.as_bytes()).into_bytes());
        }
        forms.dedup();
        for (name, bytes) in &places {
            if forms.iter().any(|form| contains(bytes, form)) {
                found.push(format!("{secret} in {name}"));
            }
        }
    }
    assert!(found.is_empty(), "{} found: {:#?}", found.len(), &found[..found.len().min(20)]);
}
