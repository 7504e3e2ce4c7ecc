//! Stands before a server, and counts the requests that its clients send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The end of the first line of a request. No body of JSON has a line end.
const LINE_END: &[u8] = b" HTTP/1.1\r\n";

pub struct Front {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Front {
    /// Before the server at this address.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, Some(Arc::clone(&counter))));
                tokio::spawn(pass(from_server, to_client, None));
            }
        });
        Front { address, requests }
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests have come.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Passes on what comes, until it ends.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counter: Option<Arc<AtomicUsize>>) {
    // What has come of a line end that is not whole yet, and then what comes.
    let mut seen = Vec::new();
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if let Some(counter) = &counter {
            seen.extend_from_slice(&bytes[..length]);
            let ends = seen.windows(LINE_END.len()).filter(|window| *window == LINE_END).count();
            counter.fetch_add(ends, Ordering::SeqCst);
            seen.drain(..seen.len().saturating_sub(LINE_END.len() - 1));
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
