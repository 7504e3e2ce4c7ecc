//! An upstream whose answers a test scripts, and which remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the upstream does with a call.
#[derive(Clone)]
pub enum Script {
    /// Answers with a status and a body of JSON.
    Answer(u16, String),
    /// Answers after a while.
    Slow(Duration, String),
    /// Says nothing.
    Silent,
    /// Hangs up half-way through the body.
    Cut,
}

pub struct Upstream {
    pub address: SocketAddr,
    /// Each request's head, in small letters.
    pub heads: Arc<Mutex<Vec<String>>>,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            script: Arc::new(Mutex::new(script)),
        };
        let (heads, script) = (Arc::clone(&upstream.heads), Arc::clone(&upstream.script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&heads), Arc::clone(&script)));
            }
        });
        upstream
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn script(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub fn calls(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

/// One call for each connection.
async fn answer(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>, script: Arc<Mutex<Script>>) {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).to_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    while request.len() < head_end + 4 + length {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    heads.lock().unwrap().push(head);
    let script = script.lock().unwrap().clone();
    let (status, body, missing) = match script {
        Script::Answer(status, body) => (status, body, 0),
        Script::Slow(pause, body) => {
            tokio::time::sleep(pause).await;
            (200, body, 0)
        }
        Script::Silent => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            return;
        }
        Script::Cut => (200, "{\"usage\":".to_owned(), 100),
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         set-cookie: theirs=1\r\nx-upstream-header: kept\r\nconnection: close\r\n\r\n{body}",
        body.len() + missing
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}
