//! Shared by the end-to-end benchmarks: the real server on a temporary database, and accounts
//! created over HTTP.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::database::Database;
use crate::free_port;

/// A process that listens on loopback. It is killed when this is dropped.
pub struct Running {
    process: Child,
    pub address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.id().to_string()).status();
        let _ = self.process.wait();
    }
}

impl Running {
    /// Starts a process and waits until it listens; `None` if the program is missing or never
    /// listens.
    pub fn start(mut command: Command, port: u16) -> Option<Self> {
        let process = command.spawn().ok()?;
        let running = Running { process, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&running.address).is_err() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(running)
    }

    /// nginx as a plain proxy without buffering; `None` if it is not installed.
    pub fn nginx(folder: &Path, upstream: &str) -> Option<Self> {
        let port = free_port();
        let folder = folder.display();
        let settings = format!(
            "worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
            events {{ worker_connections 16384; }}
            http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
                fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
                upstream model {{ server {upstream}; keepalive 512; keepalive_requests 10000000; }}
                server {{ listen 127.0.0.1:{port} backlog=4096; keepalive_requests 10000000; location / {{
                    proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection \"\";
                    proxy_buffering off; }} }} }}"
        );
        let path = format!("{folder}/nginx.conf");
        std::fs::write(&path, settings).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-c", &path]).stdout(Stdio::null()).stderr(Stdio::null());
        Self::start(command, port)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// The server under load.
pub struct Server {
    running: Running,
    pub url: String,
}

impl Server {
    pub fn start(database: &Database, settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let mut command = Command::new(crate::binary());
        command
            .env("POLYSYSTEMS_SERVER__BIND", format!("127.0.0.1:{port}"))
            .env("POLYSYSTEMS_DATABASE__URL", database.url())
            .env("POLYSYSTEMS_DATA_DIR", database.folder())
            .env("POLYSYSTEMS_RATE_LIMIT__ENABLED", "false")
            .env("POLYSYSTEMS_PAYMENTS__SANDBOX", "true")
            .env("POLYSYSTEMS_LOG__LEVEL", std::env::var("LOG_LEVEL").unwrap_or("error".into()))
            .envs(settings.iter().copied())
            .stderr(Stdio::null());
        let running = Running::start(command, port).expect("the server did not start");
        let server = Server { url: format!("http://{}", running.address), running };
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.call("GET", "/health/ready", "", &json!(null)).is_none() {
            assert!(Instant::now() < deadline, "the server did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Calls the server with curl, so that the benchmark needs no client of its own.
    fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Option<Value> {
        let output = Command::new("curl")
            .args(["-s", "-X", method, "-d", &body.to_string()])
            .args(["-H", &format!("Authorization: Bearer {token}"), &format!("{}{path}", self.url)])
            .output()
            .expect("needs curl");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Registers a user and returns a session token.
    pub fn session(&self, number: usize) -> String {
        let mut user = login(number);
        user["username"] = json!(format!("user{number}"));
        self.call("POST", "/api/auth/register", "", &user).unwrap();
        let session = self.call("POST", "/api/auth/login", "", &login(number)).unwrap();
        session["token"].as_str().unwrap().to_owned()
    }

    /// Creates a user whose account has credits, and returns an API key.
    pub fn account(&self, number: usize) -> String {
        let token = self.session(number);
        self.call("POST", "/api/payments/payments", &token, &json!({ "amount": 100_000 })).unwrap();
        let key = self.call("POST", "/api/keys", &token, &json!({ "name": "load" })).unwrap();
        key["key_value"].as_str().unwrap().to_owned()
    }
}

/// The login of a user.
pub fn login(number: usize) -> Value {
    json!({ "email": format!("user{number}@example.com"), "password": "SecurePassword123!" })
}

/// The median of 200 fsyncs of 4 KiB, in microseconds.
pub fn commit_micros(folder: &Path) -> u128 {
    use std::io::Write as _;
    let mut file = std::fs::File::create(folder.join("fsync")).unwrap();
    let mut times: Vec<u128> = (0..200)
        .map(|_| {
            file.write_all(&[7; 4_096]).unwrap();
            let begun = Instant::now();
            file.sync_data().unwrap();
            begun.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times.get(100).copied().unwrap_or_default()
}
