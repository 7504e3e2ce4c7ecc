//! HTTP/1.1 to upstreams, over connections that are kept and used again.
//!
//! A connection has no task of its own. Whoever makes a call drives the call's connection, in the same poll in which it
//! waits for the answer: nothing is woken but the caller, once for what came, and nothing is handed from task to task.
//! While it is kept nobody drives it, so whether it is still open is asked before it is used.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::poll_fn;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service as _;

use super::Failure;
use crate::config::UpstreamsSettings;

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(30);
/// How often those that are kept are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// A connection that is silent is asked whether it is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

const UNREACHABLE: Failure = Failure::Broken("the upstream cannot be reached");
const BROKEN: Failure = Failure::Broken("the connection to the upstream broke");

/// How connections to upstreams are made. One for the process.
#[derive(Clone)]
pub struct Connector {
    connect: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Connector {
    /// As the settings say; certificates are judged as the operating system does.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(settings: &UpstreamsSettings) -> std::io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connect = HttpsConnectorBuilder::new()
            .with_provider_and_platform_verifier(provider)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let timeout = Duration::from_secs(settings.connect_timeout_seconds.get());
        Ok(Connector { connect, timeout })
    }

    async fn connect(&self, origin: &Origin) -> Result<Box<Link>, Failure> {
        let mut connect = self.connect.clone();
        let connected = async {
            poll_fn(|context| connect.poll_ready(context)).await?;
            connect.call(origin.uri.clone()).await
        };
        let io = match tokio::time::timeout(self.timeout, connected).await {
            Ok(connected) => connected.map_err(|error| {
                tracing::debug!(error = %error, origin = %origin.name, "connect");
                UNREACHABLE
            })?,
            Err(_) => return Err(Failure::TimedOut),
        };
        // A request's head and body leave in one piece.
        let (sender, connection) =
            Builder::new().writev(false).handshake(io).await.map_err(|_| BROKEN)?;
        Ok(Box::new(Link { sender, connection, is_over: false }))
    }
}

/// Where an upstream is: scheme, host and port.
pub struct Origin {
    name: Arc<str>,
    uri: Uri,
}

impl Origin {
    /// Of a URL without its path, such as `https://api.example.com:8443`; `None` where that is no URL.
    pub fn new(name: &str) -> Option<Self> {
        Some(Origin { uri: name.parse().ok()?, name: name.into() })
    }
}

/// The HTTP client for upstreams. One for each HTTP thread, whose runtime then watches its connections.
#[derive(Clone)]
pub struct Client {
    connector: Connector,
    pool: Arc<Pool>,
}

impl Client {
    /// Without a connection.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Client { connector, pool: Arc::default() }
    }

    /// Sends the request, whose URI is a path, and waits for the head of the answer. What was not sent, since a kept
    /// connection turned out to be closed, is sent by another.
    ///
    /// # Errors
    /// [`Failure::TimedOut`] where no connection came in time, [`Failure::Broken`].
    pub async fn send(
        &self,
        origin: &Origin,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Reply, Failure> {
        loop {
            let (mut link, is_new) = match self.kept(origin).await {
                Some(link) => (link, false),
                None => (self.connector.connect(origin).await?, true),
            };
            let mut answer = pin!(link.sender.try_send_request(request));
            let answered = poll_fn(|context| {
                let is_over = link.connection_is_over(context);
                match answer.as_mut().poll(context) {
                    // Nobody is left to give one.
                    Poll::Pending if is_over => Poll::Ready(None),
                    polled => polled.map(Some),
                }
            })
            .await;
            request = match answered {
                Some(Ok(answer)) => {
                    let (head, body) = answer.into_parts();
                    let place = Some((link, Arc::clone(&origin.name), Arc::clone(&self.pool)));
                    return Ok(Reply { status: head.status, headers: head.headers, body, place });
                }
                Some(Err(mut error)) if !is_new => error.take_message().ok_or(BROKEN)?,
                _ => return Err(BROKEN),
            };
        }
    }

    /// A connection that was kept and is still open: the one used last.
    async fn kept(&self, origin: &Origin) -> Option<Box<Link>> {
        loop {
            let mut link = self.pool.take(&origin.name)?;
            let is_open = poll_fn(|context| Poll::Ready(link.is_ready(context))).await;
            if is_open {
                return Some(link);
            }
        }
    }
}

type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection, and the way to it.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<Io, Full<Bytes>>,
    is_over: bool,
}

impl Link {
    /// Drives the connection as far as it goes. Is it at its end?
    fn connection_is_over(&mut self, context: &mut Context<'_>) -> bool {
        // Why it ended, its request is told.
        self.is_over = self.is_over || Pin::new(&mut self.connection).poll(context).is_ready();
        self.is_over
    }

    /// Is it open, and waiting for a request?
    fn is_ready(&mut self, context: &mut Context<'_>) -> bool {
        !self.connection_is_over(context) && self.sender.is_ready()
    }
}

/// The connections that nobody uses.
#[derive(Default)]
struct Pool(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    links: HashMap<Arc<str>, Vec<(Instant, Box<Link>)>>,
    is_watched: bool,
}

impl Pool {
    fn take(&self, origin: &str) -> Option<Box<Link>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.links.get_mut(origin)?.pop().map(|(_, link)| link)
    }

    fn keep(self: Arc<Self>, origin: Arc<str>, link: Box<Link>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.links.entry(origin).or_default().push((Instant::now(), link));
        if !std::mem::replace(&mut kept.is_watched, true) {
            drop(actix_web::rt::spawn(Arc::clone(&self).watch()));
        }
    }

    /// Closes what is kept too long, and what the upstream has closed, until none is left.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            if self.close_old(IDLE) {
                return;
            }
        }
    }

    /// Is none left?
    fn close_old(&self, age: Duration) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for links in kept.links.values_mut() {
            links.retain_mut(|(since, link)| since.elapsed() < age && link.is_ready(&mut context));
        }
        kept.links.retain(|_, links| !links.is_empty());
        kept.is_watched = !kept.links.is_empty();
        !kept.is_watched
    }
}

/// An answer: its head, and its body as a stream. Its connection is kept when the body has been read to its end.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    /// The connection, its origin, and where it is kept; none once the body is at its end.
    place: Option<(Box<Link>, Arc<str>, Arc<Pool>)>,
}

impl Reply {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let Some((link, ..)) = &mut self.place else { return Poll::Ready(None) };
        loop {
            let mut polled = Pin::new(&mut self.body).poll_frame(context);
            if polled.is_pending() {
                let is_over = link.connection_is_over(context);
                polled = Pin::new(&mut self.body).poll_frame(context);
                if polled.is_pending() && is_over {
                    return Poll::Ready(Some(Err(BROKEN)));
                }
            }
            match std::task::ready!(polled) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    // Trailers are not passed on.
                    Err(_) => continue,
                },
                Some(Err(_)) => return Poll::Ready(Some(Err(BROKEN))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for Reply {
    type Item = Result<Bytes, Failure>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        let polled = std::task::ready!(self.poll_body(context));
        if !matches!(polled, Some(Ok(_))) {
            let place = self.place.take();
            if let (None, Some((link, origin, pool))) = (&polled, place) {
                pool.keep(origin, link);
            }
        }
        Poll::Ready(polled)
    }
}
