//! A client's connection, below HTTP.
//!
//! The HTTP library bounds the first head of a connection, and nothing that comes after it. This
//! layer bounds the rest: a head that does not end, an answer that is hardly read, and how many
//! connections an address has. It also gives the library's own refusals the body of an error.
//!
//! A connection counts for its address as long as it is a stranger's: until a call was paid for on
//! it, and again when the last such call is some seconds ago. See [`super::idle`].

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use uuid::Uuid;

use super::addresses::{AccountShare, AddressShare, PerAccount, PerAddress};
use super::error::ApiError;
use super::origin::is_listed;
use super::security;
use crate::clock::Clock;
use crate::pipeline::Paying;
use domain::{AccountId, ChargeId};

/// The least that a client must send or take.
#[derive(Clone, Copy, Debug)]
pub struct LeastRate {
    /// In each window so many bytes.
    pub bytes: usize,
    /// The window.
    pub window: Duration,
}

/// What all connections have in common.
pub struct ConnectionLimits {
    /// How long a head may take.
    pub head: Duration,
    /// How fast an answer must be read.
    pub least_rate: LeastRate,
    /// How many connections an address may have that are strangers'.
    pub per_address: Arc<PerAddress>,
    /// How many connections that are no strangers' an account may have.
    pub per_account: Arc<PerAccount>,
    /// Proxies, whose connections are not counted: they carry the requests of many.
    pub trusted_proxies: Vec<IpAddr>,
    /// For the time in errors.
    pub clock: Clock,
    /// The value of `Strict-Transport-Security`, if connections use TLS.
    pub hsts: Option<HeaderValue>,
}

impl ConnectionLimits {
    /// Admits a connection of this peer.
    ///
    /// # Errors
    /// If its address has as many as it may. The connection is to be closed.
    pub fn admit(&self, peer: IpAddr) -> io::Result<Option<AddressShare>> {
        let peer = peer.to_canonical();
        if is_listed(peer, &self.trusted_proxies) {
            return Ok(None);
        }
        let share = self.per_address.enter(peer);
        let refused = || io::Error::other("the address has too many connections");
        share.map(Some).ok_or_else(refused)
    }
}

/// What the handlers of a connection's requests know of it.
#[derive(Debug)]
pub struct ConnectionState {
    /// Requests that are handled, or whose stream is on its way.
    busy: Cell<usize>,
    /// Beginnings and ends of requests.
    requests: Cell<usize>,
    /// A handler waits for what has come.
    is_awaited: Cell<bool>,
    /// The connection's place in the limit of its address. It is put aside, and counts nowhere,
    /// while a call runs that is paid for, and for a while afterwards. `None` for a proxy's.
    share: RefCell<Option<AddressShare>>,
    /// Its place in the limit of the account that has paid, as long as `share` is aside.
    account_share: RefCell<Option<AccountShare>>,
    /// How many connections that are no strangers' an account may have.
    per_account: Arc<PerAccount>,
    /// Was a call paid for since this was last looked at?
    has_paid: Cell<bool>,
    /// How often it was found idle since then.
    idle: Cell<u32>,
    /// It is to be closed.
    is_closed: Cell<bool>,
    /// Wakes whoever waits for its next bytes.
    reader: RefCell<Option<Waker>>,
}

/// A connection is at work on a request, until this is dropped.
#[derive(Debug)]
pub struct Busy(Rc<ConnectionState>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
        // What had come before its end was of this request, and begins no head.
        self.0.requests.set(self.0.requests.get().wrapping_add(1));
    }
}

impl ConnectionState {
    pub(super) fn new(share: Option<AddressShare>, per_account: Arc<PerAccount>) -> Rc<Self> {
        Rc::new(ConnectionState {
            busy: Cell::new(0),
            requests: Cell::new(0),
            is_awaited: Cell::new(false),
            share: RefCell::new(share),
            account_share: RefCell::new(None),
            per_account,
            has_paid: Cell::new(false),
            idle: Cell::new(0),
            is_closed: Cell::new(false),
            reader: RefCell::new(None),
        })
    }

    /// The state of the connection that a request came on, unless it is one of the metrics' own
    /// server.
    pub fn of(request: &HttpRequest) -> Option<&Rc<Self>> {
        request.conn_data::<Rc<Self>>()
    }

    /// The connection is at work on a request.
    #[must_use]
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get().saturating_add(1));
        self.requests.set(self.requests.get().wrapping_add(1));
        Busy(Rc::clone(self))
    }

    /// Waits until the library has handed over what has come of a body. It calls a handler as soon
    /// as it has read the head, and again when it has read the rest of what has come.
    pub(super) async fn handed_over(&self) {
        let mut is_first = true;
        poll_fn(|_| {
            self.is_awaited.set(is_first);
            if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Wakes a handler that the library has not called again by itself.
    fn wake_handler(&self, context: &Context<'_>) {
        if self.is_awaited.take() {
            context.waker().wake_by_ref();
        }
    }

    /// Does it count as a stranger's?
    #[must_use]
    pub fn is_strangers(&self) -> bool {
        let share = self.share.try_borrow();
        share.is_ok_and(|share| share.as_ref().is_some_and(AddressShare::is_taken))
    }

    /// A call was paid for on it.
    pub(super) fn note_paid(&self) {
        self.has_paid.set(true);
    }

    /// Notes that it is looked at, as is done at every interval. Answers for how many intervals no
    /// call was paid for on it; nothing if it is at work.
    pub(super) fn note_interval(&self) -> Option<u32> {
        if self.busy.get() > 0 {
            return None;
        }
        let idle = if self.has_paid.take() { 0 } else { self.idle.get().saturating_add(1) };
        self.idle.set(idle);
        Some(idle)
    }

    /// From now on it counts as a stranger's again, also above the limit. A proxy's never does.
    pub(super) fn return_share(&self) {
        if let Ok(mut share) = self.share.try_borrow_mut()
            && let Some(share) = share.as_mut()
        {
            share.take_anyway(1);
        }
        if let Ok(mut share) = self.account_share.try_borrow_mut() {
            *share = None;
        }
    }

    /// Closes it as soon as it is at work on no request.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Takes a place among the connections of an account. False if it has as many as it may.
    fn enter_account(&self, account: AccountId) -> bool {
        let Ok(mut share) = self.account_share.try_borrow_mut() else { return false };
        let mut entered = self.per_account.share(account);
        let has_place = entered.grow_to(1);
        if has_place {
            *share = Some(entered);
        }
        has_place
    }

    /// A call that may cost something runs on it: it counts as nobody's.
    fn put_share_aside(&self) {
        if let Ok(mut share) = self.share.try_borrow_mut()
            && let Some(share) = share.as_mut()
        {
            share.give_back();
        }
    }

    /// The call is over. If it was paid for, and its account has a place left, the connection does
    /// not count as a stranger's for a while. Otherwise it counts again, also above the limit.
    fn end_aside(&self, is_paid: bool, account: AccountId) {
        if is_paid && self.enter_account(account) {
            self.note_paid();
            self.put_share_aside();
        } else {
            self.return_share();
        }
    }
}

/// The place of a connection among those of strangers, while a call runs on it that may be paid
/// for. It ends with the call.
#[derive(Debug)]
pub(super) struct Aside {
    connection: Rc<ConnectionState>,
    account: AccountId,
    paying: Arc<Paying>,
}

impl Aside {
    /// Of a call that is about to run, and tells `paying`.
    #[must_use]
    pub(super) fn new(
        connection: &Rc<ConnectionState>,
        account: AccountId,
        paying: Arc<Paying>,
    ) -> Self {
        Aside { connection: Rc::clone(connection), account, paying }
    }

    /// To be called when the call has gone on. It may be charged or held for by then.
    pub(super) fn follow(&self) {
        if self.paying.is_charged() {
            self.connection.put_share_aside();
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.connection.end_aside(self.paying.is_paid(), self.account);
    }
}

/// A refusal of the library, with the body of an error. It replaces `len` bytes.
struct Refusal {
    bytes: Vec<u8>,
    written: usize,
    len: usize,
}

/// A connection. See the module.
pub struct Connection<T> {
    io: T,
    state: Rc<ConnectionState>,
    limits: Arc<ConnectionLimits>,
    /// Beginnings and ends of requests when the last bytes were looked at.
    seen: usize,
    /// Bytes have come that may be the beginning of a head.
    has_begun_head: bool,
    head_ends: Option<Pin<Box<Sleep>>>,
    /// Runs while the client does not take what is written.
    window_ends: Option<Pin<Box<Sleep>>>,
    /// Bytes that it has taken in the window.
    taken: usize,
    has_written: bool,
    refusal: Option<Refusal>,
}

impl<T> Connection<T> {
    /// A connection that was admitted with `share`.
    pub fn new(io: T, share: Option<AddressShare>, limits: Arc<ConnectionLimits>) -> Self {
        Connection {
            io,
            state: ConnectionState::new(share, Arc::clone(&limits.per_account)),
            limits,
            seen: 0,
            has_begun_head: false,
            head_ends: None,
            window_ends: None,
            taken: 0,
            has_written: false,
            refusal: None,
        }
    }

    /// What its handlers know of it.
    #[must_use]
    pub fn state(&self) -> Rc<ConnectionState> {
        Rc::clone(&self.state)
    }

    /// Fails when a head has taken too long. Called when everything that has come is handled.
    fn check_head(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let requests = self.state.requests.get();
        let is_head = requests == self.seen && self.state.busy.get() == 0;
        self.seen = requests;
        // The library itself bounds the first one, and answers 408.
        if !self.has_begun_head || !is_head || !self.has_written {
            self.has_begun_head = false;
            self.head_ends = None;
            return Ok(());
        }
        let limit = self.limits.head;
        let ends = self.head_ends.get_or_insert_with(|| Box::pin(sleep(limit)));
        match ends.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Fails when the client has taken less than the least rate in a whole window. Called when it
    /// takes nothing more.
    fn check_rate(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let LeastRate { bytes, window } = self.limits.least_rate;
        let ends = self.window_ends.get_or_insert_with(|| Box::pin(sleep(window)));
        while ends.as_mut().poll(context).is_ready() {
            if std::mem::take(&mut self.taken) < bytes {
                return Err(io::ErrorKind::TimedOut.into());
            }
            ends.as_mut().reset(Instant::now() + window);
        }
        Ok(())
    }
}

impl<T: AsyncWrite + Unpin> Connection<T> {
    /// Writes what takes the place of the library's refusal.
    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(refusal) = &mut self.refusal {
            let rest = refusal.bytes.get(refusal.written..).unwrap_or_default();
            if rest.is_empty() {
                let len = refusal.len;
                self.refusal = None;
                return Poll::Ready(Ok(len));
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            refusal.written = refusal.written.saturating_add(written);
        }
        Poll::Ready(Ok(0))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.state.is_closed.get() && self.state.busy.get() == 0 {
            // As if the client had closed it.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.has_begun_head = true;
        }
        if polled.is_pending()
            && let Ok(mut reader) = self.state.reader.try_borrow_mut()
            && reader.as_ref().is_none_or(|reader| !reader.will_wake(context.waker()))
        {
            *reader = Some(context.waker().clone());
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state.wake_handler(context);
        if !std::mem::replace(&mut self.has_written, true)
            && let Some(error) = refusal_of_library(bytes)
        {
            let bytes_of_ours = with_body(bytes, &error, &self.limits);
            self.refusal = Some(Refusal { bytes: bytes_of_ours, written: 0, len: bytes.len() });
        }
        let polled = if self.refusal.is_some() {
            self.poll_refusal(context)
        } else {
            Pin::new(&mut self.io).poll_write(context, bytes)
        };
        match &polled {
            Poll::Ready(Ok(written)) => self.taken = self.taken.saturating_add(*written),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.check_rate(context)?,
        }
        polled
    }

    /// The library calls this when everything is written and everything that has come is handled.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.wake_handler(context);
        self.check_head(context)?;
        let polled = Pin::new(&mut self.io).poll_flush(context);
        if polled.is_pending() {
            self.check_rate(context)?;
        } else {
            self.window_ends = None;
            self.taken = 0;
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The error that the library answers with `bytes`, if these are a refusal of its own: it makes
/// them before any handler is called, and without a body. Only the first bytes of a connection are
/// looked at, so what a handler answers is never taken for one.
fn refusal_of_library(bytes: &[u8]) -> Option<ApiError> {
    let head = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let (status, headers) = head.split_once("\r\n")?;
    let error = match status.strip_prefix("HTTP/1.1 ")?.get(..3)? {
        "400" => ApiError::BadRequest,
        "408" => ApiError::HeadIncomplete,
        "431" => ApiError::HeadTooLarge,
        _ => return None,
    };
    let mut is_empty = false;
    for header in headers.split("\r\n") {
        let name = header.split(':').next()?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => is_empty = header.ends_with(" 0"),
            "date" | "connection" => {}
            _ => return None,
        }
    }
    is_empty.then_some(error)
}

/// The same refusal with the body of an error.
fn with_body(refusal: &[u8], error: &ApiError, limits: &ConnectionLimits) -> Vec<u8> {
    let id = ChargeId(Uuid::now_v7()).to_string();
    let body = error.body(id.clone(), limits.clock.now().to_rfc3339());
    let body = serde_json::to_string(&body).unwrap_or_default();
    let mut headers = HeaderMap::new();
    security::add_headers(&mut headers, security::AnswerKind::Data, limits.hsts.clone());
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        Some(format!("{name}: {}\r\n", value.to_str().ok()?))
    };
    let headers: String = headers.iter().filter_map(line).collect();
    let text = String::from_utf8_lossy(refusal);
    let status = text.split("\r\n").next().unwrap_or_default();
    format!(
        "{status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\
         {headers}connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_librarys_own_refusals_are_taken_for_one() {
        let date = "date: Mon, 15 Jan 2024 12:00:00 GMT";
        let refusal = |text: String| refusal_of_library(text.as_bytes());
        for (status, error) in [
            ("400 Bad Request", ApiError::BadRequest),
            ("408 Request Timeout", ApiError::HeadIncomplete),
            ("431 Request Header Fields Too Large", ApiError::HeadTooLarge),
        ] {
            let text = format!(
                "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n{date}\r\n\r\n"
            );
            assert_eq!(refusal(text), Some(error), "{status}");
        }
        for text in [
            format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{date}\r\n\r\n"),
            format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n{date}\r\n\r\n"),
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nx-request-id: 1\r\n\r\n".to_owned(),
            format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n{date}\r\n\r\n{{}}"),
            "{}".to_owned(),
        ] {
            assert_eq!(refusal(text.clone()), None, "{text}");
        }
    }
}
