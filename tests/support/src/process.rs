//! The real binary as a process that can be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use crate::free_port;
use crate::{Database, PASSWORD};

pub struct Process {
    child: Child,
    pub url: String,
    pub client: reqwest::Client,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of the binary with the settings for tests.
pub fn command(database: &Database) -> Command {
    let mut command = Command::new(crate::binary());
    command
        .env_clear()
        .env("POLYSYSTEMS_DATABASE__URL", database.url())
        .env("POLYSYSTEMS_DATA_DIR", database.folder())
        .env("POLYSYSTEMS_RATE_LIMIT__ENABLED", "false")
        .env("POLYSYSTEMS_PAYMENTS__SANDBOX", "true")
        .env("POLYSYSTEMS_LOG__LEVEL", "error")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end. Returns its exit code, output and errors.
pub fn finished(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

impl Process {
    pub async fn start(database: &Database) -> Self {
        Self::start_with(database, |_| ()).await
    }

    pub async fn start_with(database: &Database, change: impl FnOnce(&mut Command)) -> Self {
        let process = Self::try_start_with(database, change).await;
        process.expect("the server has ended, or does not get ready")
    }

    /// Starts a process; `None` if it ends before it is ready.
    pub async fn try_start_with(
        database: &Database,
        change: impl FnOnce(&mut Command),
    ) -> Option<Self> {
        let port = free_port();
        let mut command = command(database);
        command.env("POLYSYSTEMS_SERVER__BIND", format!("127.0.0.1:{port}"));
        change(&mut command);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut process = Process { child: command.spawn().unwrap(), url, client };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !process.is_ready().await {
            if Instant::now() > deadline || process.has_ended() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(process)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The address that it listens on.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/health/ready", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().unwrap().code()
    }

    /// Waits for its end, for half a minute at most; its exit code.
    pub async fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "the process does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.child.wait().unwrap().code()
    }

    pub async fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let answer = request.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Switches two-factor authentication on for the operator of a session.
    pub async fn set_up_second_factor(&self, token: &str, enrolment_token: &str) {
        let password = json!({ "password": PASSWORD });
        let (status, enrolment) = self.call("POST", "/api/auth/2fa/enroll", token, &password).await;
        assert_eq!(status, 200, "{enrolment}");
        let now = polysystems::clock::Clock::System.now().seconds();
        let code = crate::totp_code(enrolment["secret"].as_str().unwrap(), now);
        let code = json!({ "code": code, "token": enrolment_token });
        let (status, answer) = self.call("POST", "/api/auth/2fa/confirm", token, &code).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Registers an operator, who has a second factor. Returns the token of a session.
    pub async fn operator(&self, database: &Database, name: &str) -> String {
        let email = format!("{name}@example.com");
        let user = json!({ "email": email, "password": PASSWORD, "username": name });
        assert_eq!(self.call("POST", "/api/auth/register", "", &user).await.0, 201);
        let login = json!({ "email": email, "password": PASSWORD });
        let session = self.call("POST", "/api/auth/login", "", &login).await.1;
        let token = session["token"].as_str().unwrap().to_owned();
        let password = json!({ "password": PASSWORD });
        let enrolment = self.call("POST", "/api/auth/2fa/enroll", &token, &password).await.1;
        let now = polysystems::clock::Clock::System.now().seconds();
        let code = crate::totp_code(enrolment["secret"].as_str().unwrap(), now);
        let code = json!({ "code": code });
        let confirmed = self.call("POST", "/api/auth/2fa/confirm", &token, &code).await;
        assert_eq!(confirmed.0, 200, "{}", confirmed.1);
        database.promote(name).await;
        token
    }

    /// Opens the [`crate::shop`] with all its providers at this upstream.
    pub async fn open_shop(&self, token: &str, upstream: &str) {
        for (method, path, revision, body) in crate::shop::opening(upstream) {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = self.client.request(method, format!("{}{path}", self.url));
            let request = request.bearer_auth(token).body(body.to_string());
            let request = match revision {
                Some(revision) => request.header("if-match", revision),
                None => request,
            };
            let answer = request.send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        }
    }

    /// Creates a user with credits and an API key.
    pub async fn customer(&self, name: &str, amount: u32) -> Customer {
        let email = format!("{name}@example.com");
        let user = json!({ "email": email, "password": PASSWORD, "username": name });
        assert_eq!(self.call("POST", "/api/auth/register", "", &user).await.0, 201);
        let login = json!({ "email": email, "password": PASSWORD });
        let session = self.call("POST", "/api/auth/login", "", &login).await.1;
        let token = session["token"].as_str().unwrap().to_owned();
        let paid =
            self.call("POST", "/api/payments/payments", &token, &json!({ "amount": amount })).await;
        assert_eq!(paid.0, 201);
        let key = self.call("POST", "/api/keys", &token, &json!({ "name": "load" })).await.1;
        Customer { token, key: key["key_value"].as_str().unwrap().to_owned() }
    }
}

#[derive(Clone)]
pub struct Customer {
    pub token: String,
    pub key: String,
}

/// What clients saw of their calls.
#[derive(Default)]
pub struct Seen {
    /// Calls that were answered 200: their ids and costs.
    pub acknowledged: Mutex<BTreeMap<String, String>>,
    /// Calls that were answered, but not 200.
    pub refused: AtomicU64,
    /// Calls that were not answered.
    pub unanswered: AtomicU64,
    stopped: AtomicBool,
}

impl Seen {
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

/// Calls continuously with several tasks, until stopped or until a call is not answered.
pub fn load(
    url: &str,
    customers: &[Customer],
    tasks: usize,
    seen: &Arc<Seen>,
) -> Vec<tokio::task::JoinHandle<()>> {
    (0..tasks)
        .map(|task| {
            let (url, seen) = (url.to_owned(), Arc::clone(seen));
            let key = customers[task % customers.len()].key.clone();
            let paths = ["/api/hub/agents/chat", "/api/hub/rag/index"];
            tokio::spawn(async move {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let body = crate::hello().to_string();
                for path in paths.iter().cycle() {
                    if seen.stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let request = client.post(format!("{url}{path}")).header("X-API-Key", &key);
                    let Ok(answer) = request.body(body.clone()).send().await else {
                        seen.unanswered.fetch_add(1, Ordering::SeqCst);
                        return;
                    };
                    if answer.status() == 200 {
                        let header =
                            |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
                        let (id, cost) = (header("x-request-id"), header("x-polysystems-cost"));
                        let before = seen.acknowledged.lock().unwrap().insert(id, cost);
                        assert!(before.is_none());
                    } else {
                        seen.refused.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect()
}

/// Compares the clients' log with the ledgers. Every acknowledged call must be there once, at its
/// cost. Any other entry must belong to a call that was sent and not answered.
pub async fn reconcile(process: &Process, customers: &[Customer], seen: &Seen) {
    let acknowledged = seen.acknowledged.lock().unwrap().clone();
    let mut charged: BTreeSet<String> = BTreeSet::new();
    let mut unacknowledged = 0;
    for customer in customers {
        let mut cursor = String::new();
        loop {
            let path = format!("/api/payments/transactions?limit=100{cursor}");
            let (status, page) = process.call("GET", &path, &customer.token, &Value::Null).await;
            assert_eq!(status, 200, "{page}");
            for entry in page["transactions"].as_array().unwrap() {
                if entry["kind"] == "top_up" {
                    continue;
                }
                let id = entry["reference"].as_str().unwrap().to_owned();
                let amount = crate::nanos(&entry["amount"]);
                match acknowledged.get(&id) {
                    Some(cost) => {
                        let cost: domain::Credits = cost.parse().unwrap();
                        assert_eq!(amount, -cost.nanos(), "{entry}");
                    }
                    None => unacknowledged += 1,
                }
                assert!(charged.insert(id), "twice: {entry}");
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    let lost: Vec<_> = acknowledged.keys().filter(|id| !charged.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged, but not in the ledger: {lost:?}");
    let unanswered = seen.unanswered.load(Ordering::SeqCst);
    assert!(
        unacknowledged <= unanswered,
        "{unacknowledged} charges for {unanswered} unanswered calls"
    );
}

/// Asserts that `polysystems verify` finds nothing.
pub fn verify(database: &Database) {
    let (code, out, error) = finished(command(database).arg("verify"));
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with(": 0 findings\n"), "{out}");
}
