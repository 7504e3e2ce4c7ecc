//! HTTP/1.1 to upstreams, over connections that are kept and reused.
//!
//! Why not `reqwest`: a profile of calls through an upstream showed 29 % of the server's CPU in its
//! client, half of that for waking the task that each connection has and for parsing the same URL
//! each time. This client stands directly on hyper. A connection has no task of its own: the call
//! that uses it drives it, in the same poll in which it waits for the answer. So only the caller is
//! woken, once for what arrived, and nothing passes from task to task. An idle connection is not
//! driven by anyone, so whether it is still open is checked before it is reused.

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
use hyper::http::Extensions;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector, HttpInfo};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service as _;

use super::answer::{Failure, Sent};
use crate::config::UpstreamsSettings;
use crate::config::url::UpstreamOrigin;
use domain::address::is_public;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// How often idle connections are checked.
const CHECK_PERIOD: Duration = Duration::from_secs(5);
/// TCP keepalive of a silent connection: interval and number of probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_RETRIES: u32 = 3;
/// How long sent data may stay unacknowledged.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Receive buffer of a connection. By default the system lets it grow to megabytes if an answer is
/// read slowly.
const RECEIVE_BYTES: usize = 1024 * 1024;

const UNREACHABLE: Failure = Failure::Broken("the upstream cannot be reached");
const PRIVATE: Failure = Failure::Broken(
    "the provider has a private address, which the catalogue does not allow: see allow_private",
);
const BROKEN: Failure = Failure::Broken("the connection to the upstream broke");

/// Makes connections to upstreams. One for the process.
#[derive(Clone)]
pub struct Connector {
    connect: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Connector {
    /// As configured. Certificates are verified by the operating system's rules.
    pub fn new(settings: &UpstreamsSettings) -> std::io::Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = HttpsConnectorBuilder::new().with_provider_and_platform_verifier(provider)?;
        Ok(Connector::with_tls(tls, settings))
    }

    fn with_tls(tls: HttpsConnectorBuilder<WantsSchemes>, settings: &UpstreamsSettings) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_recv_buffer_size(Some(RECEIVE_BYTES));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        tcp.set_keepalive_interval(Some(TCP_KEEPALIVE));
        tcp.set_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        Connector {
            connect: tls.https_or_http().enable_http1().wrap_connector(tcp),
            timeout: Duration::from_secs(settings.connect_timeout_seconds.get()),
        }
    }

    async fn connect(&self, origin: &UpstreamOrigin) -> Result<Box<Link>, Failure> {
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
        if origin.is_public_only && !leads_to_public(&io) {
            return Err(PRIVATE);
        }
        let (sender, connection) = Builder::new().handshake(io).await.map_err(|_| BROKEN)?;
        Ok(Box::new(Link { sender, connection: Some(connection) }))
    }
}

/// Does the connection lead to an address of the public internet?
fn leads_to_public(io: &Io) -> bool {
    let mut known = Extensions::new();
    io.connected().get_extras(&mut known);
    known.get::<HttpInfo>().is_some_and(|info| is_public(info.remote_addr().ip()))
}

/// The HTTP client for upstreams. One for each HTTP thread, so that the thread's runtime watches
/// its connections.
#[derive(Clone)]
pub struct Client {
    connector: Arc<Connector>,
    pool: Arc<Pool>,
}

impl Client {
    /// Without a connection.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Client { connector: Arc::new(connector), pool: Arc::default() }
    }

    /// Sends a request, whose URI is a path, and waits for the head of the answer. If a kept
    /// connection turns out to be closed before anything was sent, the request goes over another
    /// one. `sent` is true from the moment that a connection has the request.
    pub async fn send(
        &self,
        origin: &UpstreamOrigin,
        mut request: Request<Full<Bytes>>,
        sent: &Sent,
    ) -> Result<Reply, Failure> {
        loop {
            sent.set(false);
            let (mut link, is_new) = match self.kept(origin).await {
                Some(link) => (link, false),
                None => (self.connector.connect(origin).await?, true),
            };
            sent.set(true);
            let mut answer = pin!(link.sender.try_send_request(request));
            let answered = poll_fn(|context| {
                // A closed connection returns the request that it has not sent.
                link.connection_is_over(context);
                answer.as_mut().poll(context)
            });
            // Without the cooperative budget: a poll that is put off would look like silence.
            let answered = tokio::task::unconstrained(answered).await;
            request = match answered {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    let place = Some((link, Arc::clone(&origin.name), Arc::clone(&self.pool)));
                    return Ok(Reply { status: head.status, headers: head.headers, body, place });
                }
                Err(mut error) => match error.take_message() {
                    Some(request) if !is_new => request,
                    Some(_) => return Err(BROKEN),
                    None => return Err(Failure::Lost),
                },
            };
        }
    }

    /// The open connection that was used last, if any is kept.
    async fn kept(&self, origin: &UpstreamOrigin) -> Option<Box<Link>> {
        loop {
            let mut link = self.pool.take(&origin.name)?;
            let is_open = poll_fn(|context| Poll::Ready(link.is_ready(context)));
            if tokio::task::unconstrained(is_open).await {
                return Some(link);
            }
        }
    }
}

type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection, and the sender of its requests.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// `None` when it is closed.
    connection: Option<Connection<Io, Full<Bytes>>>,
}

impl Link {
    /// Drives the connection as far as possible. Is it closed?
    fn connection_is_over(&mut self, context: &mut Context<'_>) -> bool {
        // The request gets the reason.
        self.connection.take_if(|connection| Pin::new(connection).poll(context).is_ready());
        self.connection.is_none()
    }

    /// Is it open, and waiting for a request?
    fn is_ready(&mut self, context: &mut Context<'_>) -> bool {
        !self.connection_is_over(context) && self.sender.is_ready()
    }
}

/// The idle connections.
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

    /// Closes connections that are idle too long or that the upstream has closed, until none is
    /// left.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_PERIOD).await;
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

/// An answer: its head, and its body as a stream. The connection is kept when the body was read to
/// its end.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    /// The connection, its origin and its pool; `None` after the end of the body.
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
                Some(Ok(frame)) => {
                    // Trailers are not passed on.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
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
            if let (None, Some((mut link, origin, pool))) = (&polled, place)
                && link.is_ready(context)
            {
                pool.keep(origin, link);
            }
        }
        Poll::Ready(polled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};

    use futures_util::StreamExt as _;

    use super::*;

    /// The script of a connection: one answer for each request, then it closes.
    type Script = &'static [&'static [&'static str]];

    const OK: &str = "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";

    fn settings() -> UpstreamsSettings {
        UpstreamsSettings { connect_timeout_seconds: 1.try_into().unwrap(), ..Default::default() }
    }

    fn client() -> Client {
        Client::new(Connector::new(&settings()).unwrap())
    }

    /// Reads a request without a body. Returns its first line, or nothing at the end of the
    /// connection.
    fn read_request(stream: &mut impl std::io::Read) -> Option<String> {
        let (mut text, mut byte) = (String::new(), [0]);
        while !text.ends_with("\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return None;
            }
            text.push(char::from(byte[0]));
        }
        text.lines().next().map(str::to_owned)
    }

    /// An upstream that serves one connection after the other. It reports the connection's number
    /// and first line of each request, and the end of each connection.
    fn upstream(script: Script) -> (UpstreamOrigin, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (told, hears) = channel();
        std::thread::spawn(move || {
            for (number, answers) in script.iter().enumerate() {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in *answers {
                    let request = read_request(&mut stream);
                    let request = request.unwrap_or_else(|| "end".to_owned());
                    let _ = told.send(format!("{number} {request}"));
                    let _ = stream.write_all(answer.as_bytes());
                }
                drop(stream);
                let _ = told.send(format!("{number} closed"));
            }
        });
        (UpstreamOrigin::new(&format!("http://{address}")).unwrap(), hears)
    }

    fn request(path: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = path.parse().unwrap();
        request
    }

    async fn body(mut reply: Reply) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = reply.next().await {
            body.extend_from_slice(&piece?);
        }
        assert!(reply.next().await.is_none(), "the end is the end");
        Ok(body)
    }

    async fn call(
        client: &Client,
        origin: &UpstreamOrigin,
        path: &str,
    ) -> Result<Vec<u8>, Failure> {
        body(client.send(origin, request(path), &Sent::default()).await?).await
    }

    fn kept(client: &Client) -> usize {
        client.pool.0.lock().unwrap().links.values().map(Vec::len).sum()
    }

    #[actix_web::test]
    async fn a_connection_is_used_again_when_its_answer_has_been_read() {
        const PIECES: &str = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n\
            1\r\no\r\n1\r\nk\r\n0\r\nx-trailer: 1\r\n\r\n";
        const EMPTY: &str = "HTTP/1.1 204 X\r\n\r\n";
        let (origin, hears) = upstream(&[&[OK, PIECES, EMPTY, OK], &[OK]]);
        let client = client();
        for (path, text) in [("/1", "ok"), ("/2", "ok"), ("/3", "")] {
            assert_eq!(call(&client, &origin, path).await.unwrap(), text.as_bytes(), "{path}");
            assert_eq!(hears.recv().unwrap(), format!("0 GET {path} HTTP/1.1"));
            assert_eq!(kept(&client), 1);
        }
        // A connection whose answer is not read to its end is closed.
        drop(client.send(&origin, request("/4"), &Sent::default()).await.unwrap());
        assert_eq!(kept(&client), 0);
        call(&client, &origin, "/5").await.unwrap();
        let rest: Vec<String> = hears.iter().take(3).collect();
        assert_eq!(rest, ["0 GET /4 HTTP/1.1", "0 closed", "1 GET /5 HTTP/1.1"]);
    }

    #[actix_web::test]
    async fn what_an_upstream_has_closed_is_not_used() {
        const CLOSE: &str = "HTTP/1.1 200 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        let (origin, hears) = upstream(&[&[OK], &[CLOSE], &[OK]]);
        let client = client();
        for path in ["/1", "/2", "/3"] {
            call(&client, &origin, path).await.unwrap();
            hears.recv().unwrap();
            assert!(hears.recv().unwrap().ends_with("closed"));
            assert!(path != "/2" || kept(&client) == 0, "it said that it closes");
            // This thread's reactor has to see the end of the socket.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(client.pool.close_old(IDLE), "the last one is closed too");
        assert_eq!(kept(&client), 0);
    }

    #[actix_web::test]
    async fn an_answer_may_end_with_its_connection() {
        let (origin, _hears) = upstream(&[&["HTTP/1.0 200 X\r\n\r\nok"]]);
        let client = client();
        assert_eq!(call(&client, &origin, "/").await.unwrap(), b"ok");
        assert_eq!(kept(&client), 0);
    }

    #[actix_web::test]
    async fn what_may_have_been_sent_is_not_sent_again() {
        let (origin, hears) = upstream(&[&[OK, ""], &[OK]]);
        let client = client();
        call(&client, &origin, "/1").await.unwrap();
        assert_eq!(call(&client, &origin, "/2").await, Err(Failure::Lost));
        let heard: Vec<String> = hears.iter().take(3).collect();
        assert_eq!(heard, ["0 GET /1 HTTP/1.1", "0 GET /2 HTTP/1.1", "0 closed"]);
        assert!(hears.recv_timeout(Duration::from_millis(50)).is_err(), "it was sent again");
    }

    #[actix_web::test]
    async fn an_answer_that_is_cut_off_has_no_end() {
        const LENGTH: &str = "HTTP/1.1 200 X\r\ncontent-length: 3\r\n\r\nok";
        const CHUNKED: &str = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
        const HEAD: &str = "HTTP/1.1 200 X\r\ncontent-le";
        const NONSENSE: &str = "SSH-2.0\r\n\r\n";
        let (origin, _hears) = upstream(&[&[LENGTH], &[CHUNKED], &[HEAD], &[NONSENSE], &[]]);
        let client = client();
        // The last one may be closed before it has the request, or after.
        let lost = [Failure::Lost];
        let ends: [&[Failure]; 5] = [&[BROKEN], &[BROKEN], &lost, &lost, &[BROKEN, Failure::Lost]];
        for (case, expected) in ends.into_iter().enumerate() {
            let failure = call(&client, &origin, "/").await.unwrap_err();
            assert!(expected.contains(&failure), "{case}: {failure}");
            assert_eq!(kept(&client), 0);
        }
    }

    #[actix_web::test]
    async fn what_is_kept_is_closed_in_time() {
        let (origin, hears) = upstream(&[&[OK, OK]]);
        let client = client();
        call(&client, &origin, "/").await.unwrap();
        assert!(!client.pool.close_old(IDLE));
        assert_eq!(kept(&client), 1);
        assert!(client.pool.close_old(Duration::ZERO));
        let heard: Vec<String> = hears.iter().take(2).collect();
        assert_eq!(heard, ["0 GET / HTTP/1.1", "0 end"]);
    }

    #[actix_web::test]
    async fn who_cannot_be_reached_is_told_from_who_takes_too_long() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = client();
        let origin = UpstreamOrigin::new(&format!("http://{closed}")).unwrap();
        assert_eq!(call(&client, &origin, "/").await, Err(UNREACHABLE));
        let sent = Sent::default();
        assert!(client.send(&origin, request("/"), &sent).await.is_err() && !sent.get());
        // It accepts the connection, and does not answer the TLS greeting.
        let origin =
            UpstreamOrigin::new(&format!("https://{}", silent.local_addr().unwrap())).unwrap();
        assert_eq!(call(&client, &origin, "/").await, Err(Failure::TimedOut));
    }

    #[actix_web::test]
    async fn a_private_address_is_asked_only_where_it_may_be() {
        let (origin, hears) = upstream(&[&[], &[OK, OK]]);
        let name = origin.name.to_string();
        let client = client();
        let public = UpstreamOrigin::new(&name).unwrap().public_only();
        assert_eq!(call(&client, &public, "/1").await, Err(PRIVATE));
        assert_eq!(call(&client, &origin, "/2").await.unwrap(), b"ok");
        // Nor over the connection that is kept for those who may.
        assert_eq!(kept(&client), 1);
        assert_ne!(public.name, origin.name);
        let heard: Vec<String> = hears.iter().take(2).collect();
        assert_eq!(heard, ["0 closed", "1 GET /2 HTTP/1.1"]);
    }

    /// Answers once over TLS, if the client accepts the certificate.
    fn serve_tls(stream: TcpStream, config: Arc<rustls::ServerConfig>) {
        let connection = rustls::ServerConnection::new(config).unwrap();
        let mut stream = rustls::StreamOwned::<_, TcpStream>::new(connection, stream);
        if read_request(&mut stream).is_some() {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    }

    #[actix_web::test]
    async fn an_upstream_shows_a_certificate_that_is_trusted() {
        let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let trusting = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(server);
        std::thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                serve_tls(stream.unwrap(), Arc::clone(&server));
            }
        });
        let tls = HttpsConnectorBuilder::new().with_tls_config(trusting);
        let trusting = Client::new(Connector::with_tls(tls, &settings()));
        let named = UpstreamOrigin::new(&format!("https://localhost:{port}")).unwrap();
        let other = UpstreamOrigin::new(&format!("https://127.0.0.1:{port}")).unwrap();
        assert_eq!(call(&trusting, &named, "/").await.unwrap(), b"ok");
        assert_eq!(call(&trusting, &other, "/").await, Err(UNREACHABLE), "another's name");
        assert_eq!(call(&client(), &named, "/").await, Err(UNREACHABLE), "who knows whose");
    }
}
