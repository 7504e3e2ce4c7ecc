//! How the bodies of requests are received: within the limits on bytes, on time and on the rate of
//! their senders.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use super::App;
use super::addresses::{AddressShare, PerAccount, PerAddress};
use super::connection::{ConnectionState, LeastRate};
use super::error::ApiError;
use super::extract::{app, client_address};
use super::places::step_out;
use crate::pipeline::{Admission, BodyOf, BodyPermit, DOCUMENT_BODY_MAX, OPERATOR_BODY_MAX};
use domain::AccountId;

/// The largest body of a request that is no call, in bytes. None of them has a use for more, but
/// for documents and files of operators.
pub const ACCOUNT_BODY_MAX: usize = 256 * 1024;

/// See the module.
pub struct Bodies {
    /// The largest body of a call. That of another request is [`ACCOUNT_BODY_MAX`] at most, a
    /// document of an operator's [`DOCUMENT_BODY_MAX`], and a file [`OPERATOR_BODY_MAX`].
    pub max: usize,
    /// How long a body may take.
    pub timeout: Duration,
    /// How fast it must come.
    pub least_rate: LeastRate,
    /// How many bodies of an address may be on their way.
    pub open_per_address: Arc<PerAddress>,
    /// How many bytes of an address's bodies that are on their way may have come, of calls.
    pub call_bytes_per_address: Arc<PerAddress>,
    /// The same of an account's bodies of calls.
    pub call_bytes_per_account: Arc<PerAccount>,
    /// The same of an address's bodies of other requests.
    pub account_bytes_per_address: Arc<PerAddress>,
    /// Has the limit on the bytes of all bodies.
    pub admission: Arc<Admission>,
}

impl Bodies {
    /// How often a body was refused because of its address or account, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let limits =
            [&self.open_per_address, &self.call_bytes_per_address, &self.account_bytes_per_address];
        let own = self.call_bytes_per_account.refused();
        limits.iter().map(|limit| limit.refused()).fold(own, u64::saturating_add)
    }

    /// Reads a body. What has come of it counts from its first bytes, as long as it is in memory.
    /// `account` is that of a call.
    ///
    /// # Errors
    /// [`ApiError::BodyTooLarge`], [`ApiError::BodyIncomplete`] if it comes too slowly,
    /// [`ApiError::BodyMalformed`], [`ApiError::TooManyBodies`] if the address or the account has
    /// too many on their way, or [`ApiError::Overloaded`].
    pub(crate) async fn receive(
        &self,
        request: &HttpRequest,
        payload: &mut Payload,
        of: BodyOf,
        account: Option<AccountId>,
    ) -> Result<Bytes, ApiError> {
        if matches!(payload, Payload::None) {
            return Ok(Bytes::new());
        }
        let max = match of {
            BodyOf::PayingCaller | BodyOf::TestCaller => self.max,
            BodyOf::Account | BodyOf::Provider => self.max.min(ACCOUNT_BODY_MAX),
            BodyOf::Operator => OPERATOR_BODY_MAX,
            BodyOf::Document => DOCUMENT_BODY_MAX,
        };
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = length.and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > max) {
            return Err(ApiError::BodyTooLarge { max });
        }
        if !self.admission.has_room_for(announced.unwrap_or(0), of) {
            return Err(self.overloaded());
        }
        let permit = self.admission.body_permit(of);
        let mut body = Received { max, announced, pieces: Pieces::None, permit };
        // What has come with the head needs no clock and no share of the address.
        let mut has_waited = false;
        loop {
            match payload.next().now_or_never() {
                Some(None) => return Ok(body.whole()),
                Some(Some(chunk)) => self.push(&mut body, chunk)?,
                None if has_waited => break,
                None => {
                    handed_over(request).await;
                    has_waited = true;
                }
            }
        }
        step_out(request);
        let bytes_per_address = match of {
            BodyOf::PayingCaller | BodyOf::TestCaller => Some(&self.call_bytes_per_address),
            BodyOf::Account | BodyOf::Provider => Some(&self.account_bytes_per_address),
            // Who sends it is known, and trusted.
            BodyOf::Operator | BodyOf::Document => None,
        };
        // Boxed because few bodies come here, and the future of every call is as large as this.
        Box::pin(self.wait(request, payload, body, bytes_per_address, account)).await
    }

    /// Reads the rest of a body that its sender takes time for.
    async fn wait(
        &self,
        request: &HttpRequest,
        payload: &mut Payload,
        mut body: Received,
        bytes_per_address: Option<&Arc<PerAddress>>,
        account: Option<AccountId>,
    ) -> Result<Bytes, ApiError> {
        let app: &App = &*app(request)?;
        let address = client_address(request, &app.trusted_proxies);
        let _open = self.open_per_address.enter(address).ok_or(ApiError::TooManyBodies)?;
        let mut share: Option<AddressShare> =
            bytes_per_address.map(|bytes_per_address| bytes_per_address.share(address));
        let mut own = account.map(|account| self.call_bytes_per_account.share(account));
        let LeastRate { bytes: least, window } = self.least_rate;
        let ends = Instant::now() + self.timeout;
        let mut window_ends = Instant::now() + window;
        let mut in_window: usize = 0;
        loop {
            let has_own = own.as_mut().is_none_or(|own| own.grow_to(body.len()));
            let has_share = share.as_mut().is_none_or(|share| share.grow_to(body.len()));
            if !has_own || !has_share {
                return Err(ApiError::TooManyBodies);
            }
            match timeout_at(ends.min(window_ends), payload.next()).await {
                Ok(None) => return Ok(body.whole()),
                Ok(Some(chunk)) => {
                    in_window = in_window.saturating_add(chunk.as_ref().map_or(0, Bytes::len));
                    self.push(&mut body, chunk)?;
                }
                Err(_) if in_window < least || Instant::now() >= ends => {
                    return Err(ApiError::BodyIncomplete);
                }
                Err(_) => {
                    window_ends = Instant::now() + window;
                    in_window = 0;
                }
            }
        }
    }

    fn push(
        &self,
        body: &mut Received,
        chunk: Result<Bytes, PayloadError>,
    ) -> Result<(), ApiError> {
        // The library says the same of broken chunks and of a client that has left, who reads no
        // answer.
        let chunk = chunk.map_err(|_| ApiError::BodyMalformed)?;
        let len = body.len().saturating_add(chunk.len());
        if len > body.max {
            return Err(ApiError::BodyTooLarge { max: body.max });
        }
        if !body.permit.cover(body.memory_for(len)) {
            return Err(self.overloaded());
        }
        body.add(chunk);
        Ok(())
    }

    fn overloaded(&self) -> ApiError {
        self.admission.count_refused();
        ApiError::Overloaded
    }
}

/// Takes what has come of a body that nobody reads, and waits for nothing more. If that was all of
/// it, the connection can stay open.
pub(crate) async fn discard(request: &HttpRequest, payload: &mut Payload) {
    if matches!(payload, Payload::None) {
        return;
    }
    handed_over(request).await;
    while let Some(Some(Ok(_))) = payload.next().now_or_never() {}
}

/// Waits until the library has handed over what has come of a body: it calls the handler before.
async fn handed_over(request: &HttpRequest) {
    match ConnectionState::of(request) {
        Some(connection) => connection.handed_over().await,
        None => tokio::task::yield_now().await,
    }
}

/// The pieces of a body.
enum Pieces {
    None,
    One(Bytes),
    Many(BytesMut),
}

/// What has come of a body.
struct Received {
    max: usize,
    announced: Option<usize>,
    /// Most bodies come in one piece.
    pieces: Pieces,
    permit: BodyPermit,
}

impl Received {
    fn len(&self) -> usize {
        match &self.pieces {
            Pieces::None => 0,
            Pieces::One(bytes) => bytes.len(),
            Pieces::Many(bytes) => bytes.len(),
        }
    }

    /// The memory that `len` bytes of it take. A buffer of announced length is never moved, and
    /// what is not written to yet takes no memory. Any other buffer doubles when it is full.
    fn memory_for(&self, len: usize) -> usize {
        if self.announced.is_some() || matches!(self.pieces, Pieces::None) {
            return len;
        }
        len.checked_next_power_of_two().unwrap_or(len)
    }

    fn add(&mut self, chunk: Bytes) {
        self.pieces = match std::mem::replace(&mut self.pieces, Pieces::None) {
            Pieces::None => Pieces::One(chunk),
            Pieces::One(first) => {
                let capacity = self.announced.unwrap_or(0).min(self.max);
                let mut bytes = BytesMut::with_capacity(capacity);
                bytes.extend_from_slice(&first);
                bytes.extend_from_slice(&chunk);
                Pieces::Many(bytes)
            }
            Pieces::Many(mut bytes) => {
                bytes.extend_from_slice(&chunk);
                Pieces::Many(bytes)
            }
        };
    }

    fn whole(self) -> Bytes {
        let bytes = match self.pieces {
            Pieces::None => Bytes::new(),
            Pieces::One(bytes) => bytes,
            Pieces::Many(bytes) => bytes.freeze(),
        };
        self.permit.hold(bytes)
    }
}
