//! A request on its way through the pipeline, and what is known of it.

use std::net::IpAddr;

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::readiness::Running;
use crate::idempotency::IdempotencyKey;
use crate::rate_limits::RateLimitStatus;
use domain::route_group::RouteGroup;
use domain::{AccountId, ChargeId, Credits, KeyId, Refusal, Timestamp};

/// A request as the pipeline sees it.
pub struct Arrival {
    /// Request, charge and usage record share it.
    pub id: ChargeId,
    /// The route group it belongs to.
    pub group: RouteGroup,
    /// The HTTP method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<String>,
    /// `X-API-Key`, else the bearer of `Authorization`.
    pub credential: Option<String>,
    /// Where it comes from.
    pub address: IpAddr,
    /// Headers for an upstream behind a URL; empty where the sandbox answers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// `Idempotency-Key`: the request may be repeated, and is charged once.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Counts the call as running.
    pub running: Option<Running>,
    /// Closed when the client leaves before it has an answer.
    pub client_left: Option<oneshot::Receiver<()>>,
    /// When it arrived.
    pub at: Timestamp,
}

/// What is known of a request, however it ends: for the log line and the headers.
#[derive(Default)]
pub struct Notes {
    /// Where the caller stands with the rate limits.
    pub standing: Option<RateLimitStatus>,
    /// Who pays.
    pub account: Option<AccountId>,
    /// With which key.
    pub key: Option<KeyId>,
    /// What it cost.
    pub cost: Option<Credits>,
    /// When the key ends, where that is soon.
    pub expires_at: Option<Timestamp>,
}

/// How a request ended.
pub struct Served<T> {
    /// The answer, or why there is none.
    pub result: Result<T, Refusal>,
    /// What is known of it.
    pub notes: Notes,
}

impl<T> Served<T> {
    /// Was it refused for want of credits? Then whose, and how much it costs.
    #[must_use]
    pub fn needs_credits(&self) -> Option<(AccountId, Credits)> {
        match &self.result {
            Err(Refusal::InsufficientCredits { price }) => Some((self.notes.account?, *price)),
            _ => None,
        }
    }
}

impl Arrival {
    /// The same request once more; what counts it as running stays with the first.
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
            at: self.at,
        })
    }
}

/// Notes where the caller stands with a rate limit; refuses where it is one request too many.
pub(super) fn note(
    notes: &mut Notes,
    checked: Result<Option<RateLimitStatus>, (RateLimitStatus, u64)>,
) -> Result<(), Refusal> {
    match checked {
        Ok(standing) => {
            notes.standing = standing.or(notes.standing);
            Ok(())
        }
        Err((standing, retry_after)) => {
            notes.standing = Some(standing);
            Err(Refusal::RateLimited { retry_after })
        }
    }
}
