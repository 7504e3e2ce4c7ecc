//! An upstream with scripted answers. It records the requests that it gets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// How the upstream answers a call.
#[derive(Clone)]
pub enum Script {
    /// With a status and a JSON body.
    Answer(u16, String),
    /// With a status, further header lines that each end with CRLF, and a JSON body.
    Headed(u16, &'static str, String),
    /// With this body, after a pause.
    Slow(Duration, String),
    /// Never.
    Silent,
    /// It closes the connection in the middle of the body.
    Cut,
    /// With a stream of events.
    Events(Vec<Step>),
    /// With a stream of what the test sends.
    Live(Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>),
    /// With the script that this function chooses by the request's body.
    Asked(fn(&Value) -> Script),
}

/// A step of a streamed answer.
#[derive(Clone)]
pub enum Step {
    /// Sends this text.
    Send(String),
    /// Sends these bytes.
    Bytes(Vec<u8>),
    Pause(Duration),
    /// Closes the connection.
    Cut,
    /// Sends nothing more.
    Stall,
}

/// The event of a piece of text, as a chat chunk.
pub fn word(text: &str) -> Step {
    let chunk = serde_json::json!({
        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }],
        "usage": null,
    });
    Step::Send(format!("data: {chunk}\n\n"))
}

/// The event with the usage, and the end of the stream.
pub fn usage_and_done(usage: &Value) -> Step {
    let chunk = serde_json::json!({ "id": "c", "choices": [], "usage": usage });
    Step::Send(format!("data: {chunk}\n\ndata: [DONE]\n\n"))
}

pub struct Upstream {
    pub address: SocketAddr,
    /// The head of each request, in lowercase.
    pub heads: Arc<Mutex<Vec<String>>>,
    /// The body of each request.
    pub bodies: Arc<Mutex<Vec<Value>>>,
    /// The text of each body.
    pub texts: Arc<Mutex<Vec<String>>>,
    /// Number of streams that the client closed.
    pub hung_up: Arc<AtomicUsize>,
    /// Number of stream bytes that the client's connection accepted.
    pub taken: Arc<AtomicUsize>,
    script: Arc<Mutex<Script>>,
}

#[derive(Clone)]
struct Seen {
    heads: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
    texts: Arc<Mutex<Vec<String>>>,
    hung_up: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            bodies: Arc::default(),
            texts: Arc::default(),
            hung_up: Arc::default(),
            taken: Arc::default(),
            script: Arc::new(Mutex::new(script)),
        };
        let seen = Seen {
            heads: Arc::clone(&upstream.heads),
            bodies: Arc::clone(&upstream.bodies),
            texts: Arc::clone(&upstream.texts),
            hung_up: Arc::clone(&upstream.hung_up),
            taken: Arc::clone(&upstream.taken),
            script: Arc::clone(&upstream.script),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, seen.clone()));
            }
        });
        upstream
    }

    /// An upstream that streams what is sent to it.
    pub async fn live() -> (Self, mpsc::UnboundedSender<String>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let script = Script::Live(Arc::new(tokio::sync::Mutex::new(receiver)));
        (Self::start(script).await, sender)
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

    pub fn last_body(&self) -> Value {
        self.bodies.lock().unwrap().last().unwrap().clone()
    }
}

/// Serves calls on one connection, until it is closed.
async fn serve(mut stream: TcpStream, seen: Seen) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut buffer).await {
        seen.texts.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        seen.heads.lock().unwrap().push(head);
        let mut script = seen.script.lock().unwrap().clone();
        if let Script::Asked(asked) = script {
            script = asked(&body);
        } else {
            seen.bodies.lock().unwrap().push(body);
        }
        if !answer(&mut stream, script, &seen).await {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    while buffer.len() < head_end + 4 + length {
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body = buffer[head_end + 4..head_end + 4 + length].to_vec();
    buffer.drain(..head_end + 4 + length);
    Some((head, body))
}

/// Answers a call. Returns whether the connection can be used again.
async fn answer(stream: &mut TcpStream, script: Script, seen: &Seen) -> bool {
    let mut lines = "";
    let (status, body, missing) = match script {
        Script::Answer(status, body) => (status, body, 0),
        Script::Headed(status, more, body) => {
            lines = more;
            (status, body, 0)
        }
        Script::Slow(pause, body) => {
            tokio::time::sleep(pause).await;
            (200, body, 0)
        }
        Script::Silent => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            return false;
        }
        Script::Cut => (200, "{\"usage\":".to_owned(), 100),
        Script::Events(steps) => return events(stream, steps, seen).await,
        Script::Live(receiver) => {
            let mut receiver = receiver.lock().await;
            if !begin(stream).await {
                return false;
            }
            loop {
                tokio::select! {
                    sent = receiver.recv() => match sent {
                        Some(text) if !send(stream, text.as_bytes(), seen).await => return false,
                        Some(_) => {}
                        None => break,
                    },
                    () = hang_up(stream) => {
                        seen.hung_up.fetch_add(1, Ordering::SeqCst);
                        return false;
                    }
                }
            }
            return stream.write_all(b"0\r\n\r\n").await.is_ok();
        }
        Script::Asked(_) => panic!("asked what is to be asked"),
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         set-cookie: theirs=1\r\nx-upstream-header: kept\r\ncache-control: public, max-age=600\r\n\
         content-security-policy: default-src *\r\nx-frame-options: ALLOWALL\r\n{lines}\r\n{body}",
        body.len() + missing
    );
    stream.write_all(answer.as_bytes()).await.is_ok() && missing == 0
}

async fn begin(stream: &mut TcpStream) -> bool {
    let head =
        "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.is_ok()
}

async fn send(stream: &mut TcpStream, bytes: &[u8], seen: &Seen) -> bool {
    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let is_taken = stream.write_all(&chunk).await.is_ok();
    if is_taken {
        seen.taken.fetch_add(bytes.len(), Ordering::SeqCst);
    }
    is_taken
}

/// Waits until the client closes the connection.
async fn hang_up(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 64]) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

async fn events(stream: &mut TcpStream, steps: Vec<Step>, seen: &Seen) -> bool {
    if !begin(stream).await {
        return false;
    }
    for step in steps {
        match step {
            Step::Send(_) | Step::Bytes(_) => {
                let bytes = match step {
                    Step::Send(text) => text.into_bytes(),
                    Step::Bytes(bytes) => bytes,
                    _ => continue,
                };
                if !send(stream, &bytes, seen).await {
                    seen.hung_up.fetch_add(1, Ordering::SeqCst);
                    return false;
                }
            }
            Step::Pause(pause) => tokio::time::sleep(pause).await,
            Step::Cut => return false,
            Step::Stall => {
                hang_up(stream).await;
                seen.hung_up.fetch_add(1, Ordering::SeqCst);
                return false;
            }
        }
    }
    stream.write_all(b"0\r\n\r\n").await.is_ok()
}
