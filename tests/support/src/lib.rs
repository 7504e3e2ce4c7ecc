//! Shared by tests and benchmarks: databases, the server in this process or in its own, a client
//! with assertions, stubs of the services that the server calls, seeded accounts, and a load
//! generator.
//!
//! If a helper panics, the calling test fails.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use polysystems::clock::Clock;
use polysystems::config::{Settings, Sources};
use polysystems::pipeline::Gateway;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

pub mod bench;
pub mod call;
pub mod database;
pub mod front;
pub mod generator;
pub mod process;
pub mod receiver;
pub mod seed;
pub mod shop;
pub mod sources;
pub mod stripe;
pub mod upstream;

pub use database::Database;

pub const PASSWORD: &str = "SecurePassword123!";
/// 2024-01-15T12:00:00Z.
pub const NOON: i64 = 1_705_320_000_000_000;

/// Runs `async fn name(database: Database)` as a test on each database.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { $crate::run(super::$name($crate::Database::sqlite())); })*
        }
        mod postgres {
            $(#[test] fn $name() { $crate::run(super::$name($crate::Database::postgres())); })*
        }
    };
}

/// How long a test may take. One that waits for ever would keep all others from being reported.
const TEST_MAX: Duration = Duration::from_mins(25);

/// Runs a test on its own runtime.
pub fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.unwrap().block_on(async { tokio::time::timeout(TEST_MAX, test).await });
    assert!(ended.is_ok(), "the test has not ended after {TEST_MAX:?}");
}

/// The binary that cargo built with the running test or benchmark.
#[must_use]
pub fn binary() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let binary = deps.parent().and_then(Path::parent).unwrap().join("polysystems");
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

/// A free port on loopback.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A server in this process, on its own port.
pub struct Server {
    pub address: SocketAddr,
    pub client: reqwest::Client,
    clock: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    /// Starts a server with the settings for tests: rate limits off, the sandbox payment provider
    /// on, the clock at noon.
    pub async fn start(database: &Database) -> Self {
        Self::start_with(database, |_| ()).await
    }

    pub async fn start_with(database: &Database, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_prepared(database, change, |_| ()).await
    }

    /// The same. `prepare` gets what serves paid calls before the first of them.
    pub async fn start_prepared(
        database: &Database,
        change: impl FnOnce(&mut Settings),
        prepare: impl FnOnce(&Arc<Gateway>) + Send + 'static,
    ) -> Self {
        let mut settings = Settings::default();
        settings.server.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.server.workers = 2;
        settings.server.drain_seconds = 10;
        settings.rate_limit.enabled = false;
        settings.payments.sandbox = Some(true);
        // Most tests name no model. What they call shows all that it generates.
        settings.holds.visible_models = vec!["*".into()];
        settings.data_dir = database.folder().to_owned();
        settings.database.url = Some(serde_json::from_value(json!(database.url())).unwrap());
        change(&mut settings);
        let clock = Arc::new(AtomicI64::new(NOON));
        let (listening, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let their_clock = Clock::Manual(Arc::clone(&clock));
        let thread = std::thread::spawn(move || {
            let told = |address| listening.send(address).unwrap();
            polysystems::app::serve_prepared(
                settings,
                &Sources::new(),
                their_clock,
                prepare,
                told,
                async {
                    let _ = stopped.await;
                },
            )
        });
        let Ok(address) = address.await else {
            panic!("the server did not start: {:?}", thread.join().unwrap());
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Server { address, client, clock, stop: Some(stop), thread: Some(thread) }
    }

    /// Stops it as SIGTERM would, and waits for the end.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) else { return };
        let _ = stop.send(());
        let result = thread.join();
        if !std::thread::panicking() {
            result.unwrap().unwrap();
        }
    }

    pub fn advance(&self, seconds: i64) {
        self.clock.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// The server's time, in Unix seconds.
    pub fn seconds(&self) -> i64 {
        self.clock.load(Ordering::SeqCst) / 1_000_000
    }

    /// Logs a user in again, which begins a new session.
    pub async fn log_in_again(&self, name: &str) -> User<'_> {
        let login = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
        let session = self.post("/api/auth/login", &login).expect(200).await;
        User {
            server: self,
            id: session.body["user"]["id"].as_str().unwrap().to_owned(),
            token: session.body["token"].as_str().unwrap().to_owned(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, method: Method, path: &str) -> Request {
        Request(self.client.request(method, self.url(path)))
    }

    pub fn get(&self, path: &str) -> Request {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Request {
        self.request(Method::POST, path).body(body.to_string())
    }

    pub fn put(&self, path: &str, body: &Value) -> Request {
        self.request(Method::PUT, path).body(body.to_string())
    }

    /// Registers a user and logs in.
    pub async fn user(&self, name: &str) -> User<'_> {
        let email = format!("{name}@example.com");
        let body = json!({ "email": email, "password": PASSWORD, "username": name });
        let user = self.post("/api/auth/register", &body).expect(201).await;
        let login = json!({ "email": email, "password": PASSWORD });
        let session = self.post("/api/auth/login", &login).expect(200).await;
        User {
            server: self,
            id: user.body["id"].as_str().unwrap().to_owned(),
            token: session.body["token"].as_str().unwrap().to_owned(),
        }
    }
}

impl Server {
    /// Registers an operator, who has a second factor.
    pub async fn operator(&self, database: &Database, name: &str) -> User<'_> {
        let operator = self.user(name).await;
        // Afterwards it would take a token of the command line.
        operator.set_up_second_factor().await;
        database.promote(name).await;
        operator
    }
}

impl User<'_> {
    /// Opens the [`shop`] with all its providers at this upstream.
    pub async fn open_shop(&self, upstream: &str) {
        for (method, path, revision, body) in shop::opening(upstream) {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = self.server.request(method, &path).body(body.to_string());
            let request = request.bearer(&self.token);
            let request = match revision {
                Some(revision) => request.header("If-Match", revision),
                None => request,
            };
            let answer = request.send().await;
            assert!(answer.status.is_success(), "{path}: {}", answer.text);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The code of a second factor at this time, in Unix seconds.
#[must_use]
pub fn totp_code(secret: &str, seconds: i64) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    let builder = totp_rs::Builder::new().with_secret(secret).with_account_name("a");
    builder.build().unwrap().generate(u64::try_from(seconds).unwrap()).to_string()
}

/// A user with a session.
pub struct User<'s> {
    pub server: &'s Server,
    pub id: String,
    pub token: String,
}

impl User<'_> {
    pub fn get(&self, path: &str) -> Request {
        self.server.get(path).bearer(&self.token)
    }

    pub fn post(&self, path: &str, body: &Value) -> Request {
        self.server.post(path, body).bearer(&self.token)
    }

    pub fn put(&self, path: &str, body: &Value) -> Request {
        self.server.put(path, body).bearer(&self.token)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Request {
        let request = self.server.request(Method::PATCH, path).body(body.to_string());
        request.bearer(&self.token)
    }

    pub fn delete(&self, path: &str) -> Request {
        self.server.request(Method::DELETE, path).bearer(&self.token)
    }

    /// Switches two-factor authentication on. Returns its secret.
    pub async fn set_up_second_factor(&self) -> String {
        let secret = self.begin_second_factor().await;
        self.confirm_second_factor(&secret, None).expect(200).await;
        secret
    }

    /// Begins to set up two-factor authentication. Returns the secret.
    pub async fn begin_second_factor(&self) -> String {
        let password = json!({ "password": PASSWORD });
        let enrolment = self.post("/api/auth/2fa/enroll", &password).expect(200).await.body;
        enrolment["secret"].as_str().unwrap().to_owned()
    }

    /// The request that switches it on, with the token that operators need.
    pub fn confirm_second_factor(&self, secret: &str, token: Option<&str>) -> Request {
        let code = totp_code(secret, self.server.seconds());
        self.post("/api/auth/2fa/confirm", &json!({ "code": code, "token": token }))
    }

    /// Proves once more who it is, as what cannot be taken back needs it.
    pub async fn confirm(&self) {
        let password = json!({ "password": PASSWORD });
        self.post("/api/auth/confirm", &password).expect(200).await;
    }

    pub async fn pay(&self, amount: &str) {
        let body = format!("{{\"amount\": {amount}}}");
        self.server
            .request(Method::POST, "/api/payments/payments")
            .body(body)
            .bearer(&self.token)
            .expect(201)
            .await;
    }

    pub async fn key(&self) -> Key {
        self.key_of(&json!({ "name": "a key" })).await
    }

    pub async fn key_of(&self, body: &Value) -> Key {
        let created = self.post("/api/keys", body).expect(201).await.body;
        Key {
            id: created["id"].as_str().unwrap().to_owned(),
            value: created["key_value"].as_str().unwrap().to_owned(),
        }
    }

    pub async fn limit(&self, key: &Key, limits: &Value) -> Value {
        self.put(&format!("/api/keys/{}/limits", key.id), limits).expect(200).await.body
    }

    /// The balance, as text from the answer.
    pub async fn balance(&self) -> String {
        let answer = self.get("/api/payments/credits/balance").expect(200).await;
        answer.number("balance")
    }

    /// The complete ledger, oldest first.
    pub async fn ledger(&self) -> Vec<Value> {
        let mut entries = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/payments/transactions?limit=100{cursor}");
            let page = self.get(&path).expect(200).await.body;
            entries.extend(page["transactions"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        entries.reverse();
        entries
    }

    /// Checks the ledger and returns its balance in nano-dollars: entries have no gap, and every
    /// balance is right and not negative.
    pub async fn folded(&self) -> i64 {
        let mut balance = 0;
        for (place, entry) in self.ledger().await.iter().enumerate() {
            assert_eq!(entry["sequence"], json!(place + 1));
            balance += nanos(&entry["amount"]);
            assert_eq!(nanos(&entry["balance_after"]), balance, "{entry}");
            assert!(balance >= 0, "{entry}");
        }
        balance
    }
}

/// An amount from an answer, in nano-dollars. Exact for the small amounts of tests.
pub fn nanos(amount: &Value) -> i64 {
    let amount: domain::Credits = format!("{:.9}", amount.as_f64().unwrap()).parse().unwrap();
    amount.nanos()
}

pub struct Key {
    pub id: String,
    pub value: String,
}

pub struct Request(pub reqwest::RequestBuilder);

impl Request {
    pub fn header(self, name: &str, value: &str) -> Self {
        Request(self.0.header(name, value))
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn key(self, key: &Key) -> Self {
        self.header("X-API-Key", &key.value)
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Request(self.0.body(body))
    }

    pub async fn send(self) -> Answer {
        let response = self.0.send().await.unwrap();
        let status = response.status();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, body }
    }

    /// Sends the request, and fails if the answer has another status.
    #[track_caller]
    pub fn expect(self, status: u16) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.send().await;
            assert_eq!(answer.status.as_u16(), status, "at {caller}: {}", answer.text);
            answer
        }
    }
}

impl Request {
    /// Sends the request, and reads only the head of the answer.
    #[track_caller]
    pub fn stream(self) -> impl Future<Output = Events> {
        let caller = std::panic::Location::caller();
        async move {
            let response = self.0.send().await.unwrap();
            assert_eq!(response.status(), 200, "at {caller}");
            let headers = response.headers().clone();
            Events { headers, response, text: String::new(), read: 0 }
        }
    }
}

/// A stream of events, as received by a client.
pub struct Events {
    pub headers: reqwest::header::HeaderMap,
    response: reqwest::Response,
    /// Everything received so far.
    pub text: String,
    read: usize,
}

impl Events {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    /// The data of the next event; `None` at the end. Comments are skipped.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            // Google ends its lines with CRLF.
            let end = |text: &str| {
                let ends = ["\n\n", "\r\n\r\n"];
                ends.iter().filter_map(|end| Some((text.find(*end)?, end.len()))).min()
            };
            while let Some((length, of_end)) = end(&self.text[self.read..]) {
                let frame = &self.text[self.read..self.read + length];
                let data: Vec<&str> =
                    frame.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                let data = data.join("\n");
                self.read += length + of_end;
                if !data.is_empty() {
                    return Some(data);
                }
            }
            let chunk = self.response.chunk().await.ok().flatten()?;
            self.text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }

    /// Reads to the end. Each event is JSON; `[DONE]` is a string.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(data) = self.next().await {
            events.push(serde_json::from_str(&data).unwrap_or(Value::String(data)));
        }
        events
    }

    /// The bill in the comment at the end of the stream.
    pub fn bill(&self) -> Value {
        let start = self.text.rfind(": polysystems {").expect("no comment at the end");
        let line = self.text[start + ": polysystems ".len()..].lines().next().unwrap();
        serde_json::from_str(line).unwrap()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    /// A number, as text from the answer.
    pub fn number(&self, name: &str) -> String {
        let start = self.text.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
        self.text[start..].chars().take_while(|c| c.is_ascii_digit() || "-.".contains(*c)).collect()
    }

    /// Asserts the error of OpenAI's routes: its `code`, and the contract's message beside.
    pub fn assert_code(&self, code: &str, message: &str) {
        let error = &self.body["error"];
        assert_eq!(
            (error["code"].as_str(), error["message"].as_str()),
            (Some(code), Some(message))
        );
        assert_eq!(self.body["message"], message, "{}", self.text);
    }

    /// Asserts the error body of the contract: error, message, request id and time, in this order.
    pub fn assert_error(&self, error: &str, message: &str) {
        let expected = format!(
            "{{\"error\":{},\"message\":{},\"request_id\":\"{}\",\"timestamp\":\"",
            json!(error),
            json!(message),
            self.header("x-request-id")
        );
        assert!(self.text.starts_with(&expected), "{} is not {expected}", self.text);
        assert_eq!(self.header("content-type"), "application/json");
    }
}

/// A small body that a paid route takes.
pub fn small_body(path: &str) -> Value {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let content = json!({ "role": "user", "parts": [{ "text": "Hi" }] });
    match path {
        _ if path.ends_with(":embedContent") => json!({ "content": content }),
        _ if path.ends_with(":batchEmbedContents") => {
            json!({ "requests": [{ "content": content }] })
        }
        _ if path.ends_with("enerateContent") => {
            json!({ "contents": [content], "generationConfig": { "maxOutputTokens": 9 } })
        }
        _ if path.ends_with(":countTokens") => json!({ "contents": [content] }),
        "/v1/messages" => json!({ "messages": messages, "max_tokens": 9 }),
        "/v1/messages/count_tokens" => json!({ "messages": messages }),
        "/v1/responses" => json!({ "input": "Hi", "max_output_tokens": 9 }),
        "/v1/embeddings" => json!({ "input": "Hi" }),
        _ => json!({ "messages": messages, "prompt": "Hi", "max_tokens": 9 }),
    }
}

/// The body of a chat with one message.
pub fn hello() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hello!" }] })
}
