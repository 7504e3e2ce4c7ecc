//! A proxy between the server and PostgreSQL. It drops packets, resets connections, and swallows
//! the answers to commits, also those of the journal.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// What the proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Forwards everything.
    Pass = 0,
    /// Forwards nothing. It accepts new connections but never answers.
    Drop = 1,
    /// Resets every connection.
    Reset = 2,
    /// Forwards everything except the answer to a COMMIT. It resets the connection instead.
    Swallow = 3,
    /// Resets the connection instead of forwarding a COMMIT.
    CutBefore = 4,
}

#[derive(Default)]
struct Shared {
    mode: AtomicU8,
    commits: AtomicU64,
}

pub(crate) struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts a proxy for the PostgreSQL that listens on this socket.
    pub(crate) async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                tokio::spawn(serve(client, socket.clone(), Arc::clone(&theirs)));
            }
        });
        Proxy { port, shared, task }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Number of commits that were swallowed or cut off so far.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::SeqCst)
    }
}

fn mode(shared: &Shared) -> Mode {
    match shared.mode.load(Ordering::SeqCst) {
        0 => Mode::Pass,
        1 => Mode::Drop,
        2 => Mode::Reset,
        3 => Mode::Swallow,
        _ => Mode::CutBefore,
    }
}

fn reset(client: &TcpStream) {
    let _ = socket2::SockRef::from(client).set_linger(Some(Duration::ZERO));
}

async fn serve(mut client: TcpStream, socket: PathBuf, shared: Arc<Shared>) {
    if mode(&shared) == Mode::Reset {
        reset(&client);
        return;
    }
    // A stopped database accepts no connection.
    let Ok(mut database) = UnixStream::connect(socket).await else {
        reset(&client);
        return;
    };
    let (mut from_client, mut from_database) = ([0; 32_768], [0; 32_768]);
    let mut is_swallowing = false;
    // The ledger writer's connection for the journal. Each of its statements is a transaction.
    let mut is_of_journal = false;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        let now = mode(&shared);
        if now == Mode::Reset {
            reset(&client);
            return;
        }
        if now == Mode::Drop {
            tick.tick().await;
            continue;
        }
        tokio::select! {
            _ = tick.tick() => {}
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &from_client[..length];
                if mode(&shared) == Mode::Drop {
                    // These bytes are dropped.
                    continue;
                }
                let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
                is_of_journal |= has(b"application_name\0polysystems journal ");
                let is_commit = has(b"Q\0\0\0\x0bCOMMIT\0")
                    || (is_of_journal && has(b"E\0\0\0\x09\0\0\0\0\0"));
                if is_commit && now == Mode::CutBefore {
                    shared.commits.fetch_add(1, Ordering::SeqCst);
                    reset(&client);
                    return;
                }
                is_swallowing = is_commit && now == Mode::Swallow;
                if database.write_all(bytes).await.is_err() {
                    reset(&client);
                    return;
                }
            }
            read = database.read(&mut from_database) => {
                let Ok(length @ 1..) = read else {
                    reset(&client);
                    return;
                };
                if mode(&shared) == Mode::Drop {
                    continue;
                }
                if is_swallowing {
                    shared.commits.fetch_add(1, Ordering::SeqCst);
                    reset(&client);
                    return;
                }
                if client.write_all(&from_database[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
