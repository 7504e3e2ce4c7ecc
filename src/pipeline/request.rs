//! A request as it enters the pipeline, and what is known of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::admission::Running;
use crate::idempotency::IdempotencyKey;
use crate::rate_limits::RateLimitStatus;
use domain::route_group::RouteGroup;
use domain::{AccountId, ChargeId, Credits, KeyId, Refusal, Timestamp};

/// A request as the pipeline sees it.
pub struct Arrival {
    /// The id of the request, its charge and its usage record.
    pub id: ChargeId,
    /// The route group it belongs to.
    pub group: RouteGroup,
    /// The HTTP method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query, if any.
    pub query: Option<String>,
    /// The API key: that of a header for keys, else the bearer of `Authorization`.
    pub credential: Option<String>,
    /// The client's address.
    pub address: IpAddr,
    /// Headers for an upstream with a URL; empty if the sandbox answers.
    pub headers: HeaderMap,
    /// The complete body. Empty until the caller is known.
    pub body: Bytes,
    /// `Idempotency-Key`: the request may be repeated, and is charged once.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The permit of a running call.
    pub running: Option<Running>,
    /// Closed when the client leaves before it has an answer.
    pub client_left: Option<oneshot::Receiver<()>>,
    /// Told whether the call is paid for, if somebody wants to know.
    pub paying: Option<Arc<Paying>>,
    /// When it arrived.
    pub at: Timestamp,
}

/// Whether a call is paid for. Nobody is woken when that changes.
#[derive(Debug, Default)]
pub struct Paying(AtomicU8);

const CHARGED: u8 = 1;
const PAID: u8 = 2;

impl Paying {
    /// The call is charged or held for.
    pub(crate) fn charge(&self) {
        self.0.store(CHARGED, Ordering::Release);
    }

    /// The call is settled at this cost.
    pub(crate) fn settle(&self, cost: Credits) {
        if cost > Credits::ZERO {
            self.0.store(PAID, Ordering::Release);
        }
    }

    /// Was the call charged or held for?
    #[must_use]
    pub fn is_charged(&self) -> bool {
        self.0.load(Ordering::Acquire) >= CHARGED
    }

    /// Was it settled at a cost above zero?
    #[must_use]
    pub fn is_paid(&self) -> bool {
        self.0.load(Ordering::Acquire) >= PAID
    }
}

/// What is known of a request, however it ends: for the log and the headers.
#[derive(Default)]
pub struct RequestContext {
    /// The rate limit that is closest to its end.
    pub rate_limit: Option<RateLimitStatus>,
    /// The account that pays.
    pub account: Option<AccountId>,
    /// The API key.
    pub key: Option<KeyId>,
    /// The cost.
    pub cost: Option<Credits>,
    /// When the key expires, if that is soon.
    pub expires_at: Option<Timestamp>,
}

/// How a request ended.
pub struct Served<T> {
    /// The answer, or the refusal.
    pub result: Result<T, Refusal>,
    /// What is known of the request.
    pub context: RequestContext,
}

impl<T> Served<T> {
    /// The account and the price, if the request was refused for lack of credits.
    #[must_use]
    pub fn needs_credits(&self) -> Option<(AccountId, Credits)> {
        match &self.result {
            Err(Refusal::InsufficientCredits { price }) => Some((self.context.account?, *price)),
            _ => None,
        }
    }
}

impl Arrival {
    /// A copy; the permit of a running call stays with the original.
    #[must_use]
    pub fn copy(&self) -> Box<Arrival> {
        Box::new(Arrival {
            id: self.id,
            group: self.group,
            method: self.method.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            credential: self.credential.clone(),
            address: self.address,
            headers: self.headers.clone(),
            body: self.body.clone(),
            idempotency_key: self.idempotency_key,
            running: None,
            client_left: None,
            paying: None,
            at: self.at,
        })
    }
}

/// Records the status of a rate limit, and refuses if it is exceeded.
pub(super) fn apply(
    context: &mut RequestContext,
    checked: Result<Option<RateLimitStatus>, (RateLimitStatus, u64)>,
) -> Result<(), Refusal> {
    match checked {
        Ok(status) => {
            context.rate_limit = status.or(context.rate_limit);
            Ok(())
        }
        Err((status, retry_after)) => {
            context.rate_limit = Some(status);
            Err(Refusal::RateLimited { retry_after })
        }
    }
}
