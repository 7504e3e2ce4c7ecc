//! A client's connection, below HTTP.
//!
//! The HTTP library bounds the first head of a connection, and nothing that comes after it. This
//! layer bounds the rest: a head that does not end, an answer that is hardly read, and how many
//! connections an address has. It also gives the library's own refusals the body of an error.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::HttpRequest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use uuid::Uuid;

use super::addresses::{AddressShare, PerAddress};
use super::error::ApiError;
use crate::clock::Clock;
use domain::ChargeId;

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
    /// How many connections an address may have before a call was paid for on them.
    pub per_address: Arc<PerAddress>,
    /// Proxies, whose connections are not counted: they carry the requests of many.
    pub trusted_proxies: Vec<IpAddr>,
    /// For the time in errors.
    pub clock: Clock,
}

impl ConnectionLimits {
    /// Admits a connection of this peer.
    ///
    /// # Errors
    /// If its address has as many as it may. The connection is to be closed.
    pub fn admit(&self, peer: IpAddr) -> io::Result<Option<AddressShare>> {
        let peer = peer.to_canonical();
        if self.trusted_proxies.iter().any(|proxy| proxy.to_canonical() == peer) {
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
    /// The connection's place in the limit of its address, until a call was paid for on it. It is
    /// put aside, and counts nowhere, while such a call runs.
    share: RefCell<Option<AddressShare>>,
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

    /// Does it count as a stranger's?
    #[must_use]
    pub fn has_share(&self) -> bool {
        self.share.try_borrow().is_ok_and(|share| share.is_some())
    }

    /// A call that may cost something runs on it: it counts as nobody's.
    fn put_share_aside(&self) {
        if let Ok(mut share) = self.share.try_borrow_mut()
            && let Some(share) = share.as_mut()
        {
            share.give_back();
        }
    }

    /// The call is over. If it was paid for, the connection counts no more as a stranger's. If it
    /// was not, it counts again, also above the limit.
    fn end_aside(&self, is_paid: bool) {
        let Ok(mut share) = self.share.try_borrow_mut() else { return };
        if is_paid {
            drop(share.take());
        } else if let Some(share) = share.as_mut() {
            share.take_anyway(1);
        }
    }
}

/// The place of a connection among those of strangers, while a call runs on it that may be paid
/// for. It ends with the call.
#[derive(Debug)]
pub(super) struct Aside {
    connection: Rc<ConnectionState>,
    is_paid: Arc<AtomicBool>,
}

impl Aside {
    /// Of a call that is about to run. It is to make `is_paid` true when it has cost something.
    #[must_use]
    pub(super) fn new(connection: &Rc<ConnectionState>, is_paid: Arc<AtomicBool>) -> Self {
        Aside { connection: Rc::clone(connection), is_paid }
    }

    /// The call is charged, or held for.
    pub(super) fn begin(&self) {
        self.connection.put_share_aside();
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.connection.end_aside(self.is_paid.load(Ordering::Acquire));
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
        let (busy, requests) = (Cell::new(0), Cell::new(0));
        Connection {
            io,
            state: Rc::new(ConnectionState { busy, requests, share: RefCell::new(share) }),
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
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.has_begun_head = true;
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
        if !std::mem::replace(&mut self.has_written, true)
            && let Some(error) = refusal_of_library(bytes)
        {
            let bytes_of_ours = with_body(bytes, &error, &self.limits.clock);
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
fn with_body(refusal: &[u8], error: &ApiError, clock: &Clock) -> Vec<u8> {
    let id = ChargeId(Uuid::now_v7()).to_string();
    let body = error.body(id.clone(), clock.now().to_rfc3339());
    let body = serde_json::to_string(&body).unwrap_or_default();
    let text = String::from_utf8_lossy(refusal);
    let status = text.split("\r\n").next().unwrap_or_default();
    format!(
        "{status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\
         x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{body}",
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
