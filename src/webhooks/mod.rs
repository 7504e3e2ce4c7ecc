//! Webhooks: account holders register endpoints that receive their events (Standard Webhooks 1.0).
//!
//! An event is written in the transaction that causes it (a transactional outbox). [`deliver`]
//! sends it at least once. Each event has one id, so a receiver can detect repeats. An endpoint
//! gets one delivery at a time. First attempts are made in the order of the events; retries come
//! later.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use sha2::Sha256;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::access::{AccessError, assert_in_charge};
use crate::actors::LedgerHandle;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::seal::Seal;
use crate::store::StoreError;
use crate::store::reports::ReportStore;
use crate::store::users::UserStore;
use crate::store::webhooks::{
    DeliveryFilter, DeliveryLog, Destination, Endpoint, EndpointChange, NewEndpoint, WebhookStore,
};
use domain::address::{is_public, is_public_name};
use domain::event::is_selection;
use domain::{
    AccountId, ActKind, Credits, DeliveryId, EndpointId, Environment, Origin, SessionId, Timestamp,
    UserId,
};

pub mod deliver;
pub mod watch;

/// The purpose of the seal that encrypts the endpoints' secrets.
pub const PURPOSE: &str = "polysystems webhook secrets 1";
/// The prefix of a secret (Standard Webhooks 1.0).
const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: usize = 32;
/// Longest URL, in bytes.
const URL_MAX: usize = 2_048;

/// Why an operation on an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum WebhooksError {
    /// The user has no such endpoint.
    #[error("no such webhook")]
    NotFound,
    /// The endpoint has no such delivery.
    #[error("no such delivery")]
    NoDelivery,
    /// The account has the largest number of endpoints that the settings allow.
    #[error("the account has reached its limit of webhooks")]
    TooMany,
    /// The URL cannot be used. The text says why.
    #[error("the address cannot be used: {0}")]
    Url(&'static str),
    /// This selection matches no event.
    #[error("{0} matches no event")]
    NoEvent(String),
    /// A secret could not be encrypted.
    #[error("a webhook secret could not be encrypted")]
    Unsealed,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This process does not own the accounts.
    #[error(transparent)]
    Account(#[from] AccessError),
}

/// The webhooks of all users.
pub struct Webhooks {
    /// Endpoints and deliveries.
    pub store: WebhookStore,
    /// Users and their accounts.
    pub users: UserStore,
    /// The usage of accounts.
    pub reports: ReportStore,
    /// Runs the dispatcher and the watch.
    pub runtime: Handle,
    /// The time.
    pub clock: Clock,
    /// Encrypts the endpoints' secrets.
    pub seal: Seal,
    /// May endpoints have private addresses, or no TLS? For development.
    pub is_private_allowed: bool,
    /// Most endpoints of one account.
    pub endpoints_max: u64,
    /// How long deliveries are also signed with the former secret after a rotation, in
    /// microseconds.
    pub former_micros: i64,
    /// Counters of deliveries.
    pub metrics: Arc<Metrics>,
    /// Shows whether this process owns the accounts.
    pub ledger: LedgerHandle,
}

/// A delivery with what is sent.
#[derive(Clone, Debug)]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: DeliveryLog,
    /// The body.
    pub payload: String,
    /// When the last attempt was made.
    pub sent_at: Option<Timestamp>,
    /// The value of `webhook-signature` at that time, with the secrets in force now.
    pub signature: Option<String>,
}

/// The body of a delivery. `data` is a JSON object.
#[must_use]
pub fn payload(kind: &str, at: Timestamp, data: &str) -> String {
    let at = at.to_rfc3339_micros();
    format!("{{\"type\":\"{kind}\",\"timestamp\":\"{at}\",\"data\":{data}}}")
}

/// The endpoint that a user requests.
#[derive(Clone, Debug)]
pub struct EndpointRequest {
    /// Its URL.
    pub url: String,
    /// Its description.
    pub description: String,
    /// The events it receives; `None` is all.
    pub events: Option<Vec<String>>,
    /// The environment of the account whose events it receives.
    pub environment: Environment,
}

impl Webhooks {
    async fn accounts(&self, user: UserId) -> Result<[AccountId; 2], WebhooksError> {
        let accounts = self.users.accounts_of(user).await?;
        Ok([accounts.live, accounts.test])
    }

    /// Creates an endpoint. Returns it with its secret, which is never shown again.
    pub async fn add(
        &self,
        user: UserId,
        session: SessionId,
        request: EndpointRequest,
        origin: Origin,
    ) -> Result<(Endpoint, String), WebhooksError> {
        self.check(Some(&request.url), request.events.as_deref())?;
        assert_in_charge(&self.ledger)?;
        let account = self.users.accounts_of(user).await?.of(request.environment);
        if self.users.is_suspended(account).await? {
            return Err(AccessError::Suspended.into());
        }
        let (id, at) = (EndpointId(Uuid::now_v7()), self.clock.now());
        let (secret, sealed) = self.make_secret(id)?;
        let endpoint = Endpoint {
            id,
            account,
            environment: request.environment,
            url: request.url,
            description: request.description,
            events: request.events,
            is_enabled: true,
            switched_off_at: None,
            failing_since: None,
            former_until: None,
            created_at: at,
        };
        let act = origin.act(Uuid::now_v7(), user, ActKind::WebhookAdded, at).to(id.to_string());
        let new = NewEndpoint { endpoint: endpoint.clone(), secret: sealed };
        let ending = act.origin.clone();
        if !self.store.insert_endpoint(new, self.endpoints_max, act).await? {
            return Err(WebhooksError::TooMany);
        }
        // A proof of the address ends the sessions and webhooks of before. One that was added
        // meanwhile, for a session that has ended, must not outlive it.
        if !self.users.is_session_alive(user, session, at).await? {
            let act = ending.act(Uuid::now_v7(), user, ActKind::WebhookDeleted, at);
            self.store.delete_endpoint(account, id, act.to(id.to_string())).await?;
            return Err(AccessError::SessionEnded.into());
        }
        Ok((endpoint, secret))
    }

    fn make_secret(&self, id: EndpointId) -> Result<(String, Vec<u8>), WebhooksError> {
        let bytes: [u8; SECRET_BYTES] = rand::rng().random();
        let sealed = self.seal.seal(bytes.to_vec(), id.0.as_bytes());
        let secret = format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes));
        Ok((secret, sealed.ok_or(WebhooksError::Unsealed)?))
    }

    fn check(&self, url: Option<&str>, events: Option<&[String]>) -> Result<(), WebhooksError> {
        if let Some(url) = url {
            check_url(url, self.is_private_allowed).map_err(WebhooksError::Url)?;
        }
        let unknown = events.unwrap_or_default().iter().find(|event| !is_selection(event));
        unknown.map_or(Ok(()), |unknown| Err(WebhooksError::NoEvent(unknown.clone())))
    }

    /// The user's endpoints, oldest first.
    pub async fn list(&self, user: UserId) -> Result<Vec<Endpoint>, WebhooksError> {
        let accounts = self.accounts(user).await?;
        Ok(self.store.list_endpoints(accounts, None).await?)
    }

    /// One of the user's endpoints.
    pub async fn get(&self, user: UserId, id: EndpointId) -> Result<Endpoint, WebhooksError> {
        let accounts = self.accounts(user).await?;
        let mut found = self.store.list_endpoints(accounts, Some(id)).await?;
        found.pop().ok_or(WebhooksError::NotFound)
    }

    /// Changes one of the user's endpoints. Returns it with the URL that it had.
    pub async fn change(
        &self,
        user: UserId,
        id: EndpointId,
        change: EndpointChange,
        origin: Origin,
    ) -> Result<(Endpoint, String), WebhooksError> {
        let events = change.events.as_ref().and_then(Option::as_deref);
        self.check(change.url.as_deref(), events)?;
        assert_in_charge(&self.ledger)?;
        let endpoint = self.get(user, id).await?;
        let is_elsewhere = change.url.as_ref().is_some_and(|url| *url != endpoint.url);
        if is_elsewhere && self.users.is_suspended(endpoint.account).await? {
            return Err(AccessError::Suspended.into());
        }
        let at = self.clock.now();
        let act = origin.act(Uuid::now_v7(), user, ActKind::WebhookChanged, at).to(id.to_string());
        if !self.store.update_endpoint(endpoint.account, id, change, act).await? {
            return Err(WebhooksError::NotFound);
        }
        Ok((self.get(user, id).await?, endpoint.url))
    }

    /// Deletes one of the user's endpoints and its deliveries.
    pub async fn delete(
        &self,
        user: UserId,
        id: EndpointId,
        origin: Origin,
    ) -> Result<(), WebhooksError> {
        assert_in_charge(&self.ledger)?;
        let endpoint = self.get(user, id).await?;
        let at = self.clock.now();
        let act = origin.act(Uuid::now_v7(), user, ActKind::WebhookDeleted, at).to(id.to_string());
        let was_there = self.store.delete_endpoint(endpoint.account, id, act).await?;
        if was_there { Ok(()) } else { Err(WebhooksError::NotFound) }
    }

    /// Rotates an endpoint's secret. Returns the new one, which is never shown again. Deliveries
    /// are also signed with the former secret for a while.
    pub async fn rotate(
        &self,
        user: UserId,
        id: EndpointId,
        origin: Origin,
    ) -> Result<(Endpoint, String), WebhooksError> {
        let endpoint = self.get(user, id).await?;
        let (secret, sealed) = self.make_secret(id)?;
        let at = self.clock.now();
        let until = at.plus_micros(self.former_micros);
        let act = origin.act(Uuid::now_v7(), user, ActKind::WebhookSecretRotated, at);
        let act = act
            .to(id.to_string())
            .with(format!("the former secret also signs until {}", until.to_rfc3339()));
        if !self.store.rotate_secret(endpoint.account, id, sealed, until, act).await? {
            return Err(WebhooksError::NotFound);
        }
        Ok((self.get(user, id).await?, secret))
    }

    /// Sends a test event to one of the user's endpoints.
    pub async fn test(&self, user: UserId, id: EndpointId) -> Result<DeliveryId, WebhooksError> {
        let endpoint = self.get(user, id).await?;
        Ok(self.store.insert_test_event(endpoint.account, id, self.clock.now()).await?)
    }

    /// The deliveries of an endpoint, latest first.
    pub async fn deliveries(
        &self,
        user: UserId,
        id: EndpointId,
        before: Option<DeliveryId>,
        limit: u64,
        filter: DeliveryFilter,
    ) -> Result<Vec<DeliveryLog>, WebhooksError> {
        self.get(user, id).await?;
        Ok(self.store.list_deliveries(id, before, limit, filter).await?)
    }

    /// One delivery with what is sent. `None` is an id that cannot exist.
    pub async fn delivery(
        &self,
        user: UserId,
        id: EndpointId,
        delivery: Option<DeliveryId>,
    ) -> Result<DeliveryView, WebhooksError> {
        self.get(user, id).await?;
        let delivery = delivery.ok_or(WebhooksError::NoDelivery)?;
        let found = self.store.find_delivery(id, delivery, self.clock.now()).await?;
        let (delivery, event, to) = found.ok_or(WebhooksError::NoDelivery)?;
        let payload = payload(&delivery.kind, event.at, &event.data);
        let sent_at = delivery.attempts.last().map(|attempt| attempt.at);
        let event = delivery.event.to_string();
        let signature = sent_at.and_then(|at| self.signature(id, &to, &event, at, &payload));
        Ok(DeliveryView { delivery, payload, sent_at, signature })
    }

    /// The value of `webhook-signature`: by each secret that is in force. `None` if one cannot be
    /// decrypted.
    fn signature(
        &self,
        endpoint: EndpointId,
        to: &Destination,
        event: &str,
        at: Timestamp,
        payload: &str,
    ) -> Option<String> {
        let mut signatures = Vec::new();
        for sealed in std::iter::once(&to.secret).chain(&to.former) {
            let secret = self.seal.open(sealed, endpoint.0.as_bytes())?;
            signatures.push(sign(&secret, event, at.seconds(), payload)?);
        }
        Some(signatures.join(" "))
    }

    /// Makes a delivery due again. `None` is an id that cannot exist.
    pub async fn redeliver(
        &self,
        user: UserId,
        id: EndpointId,
        delivery: Option<DeliveryId>,
    ) -> Result<DeliveryId, WebhooksError> {
        self.get(user, id).await?;
        let delivery = delivery.ok_or(WebhooksError::NoDelivery)?;
        let is_there = self.store.redeliver(id, delivery, self.clock.now()).await?;
        if is_there { Ok(delivery) } else { Err(WebhooksError::NoDelivery) }
    }

    /// The balance below which one of the user's accounts counts as low.
    pub async fn balance_low(
        &self,
        user: UserId,
        environment: Environment,
    ) -> Result<Credits, WebhooksError> {
        let account = self.users.accounts_of(user).await?.of(environment);
        Ok(self.store.find_low_balance(account).await?)
    }

    /// Sets the balance below which one of the user's accounts counts as low.
    pub async fn set_balance_low(
        &self,
        user: UserId,
        environment: Environment,
        low: Credits,
        origin: Origin,
    ) -> Result<(), WebhooksError> {
        assert_in_charge(&self.ledger)?;
        let account = self.users.accounts_of(user).await?.of(environment);
        let act = origin.act(Uuid::now_v7(), user, ActKind::BalanceLowSet, self.clock.now());
        let act = act.to(environment.name()).with(format!("${low}"));
        Ok(self.store.set_low_balance(account, low, act).await?)
    }
}

/// Checks a URL as far as possible without resolving its name.
///
/// # Errors
/// A text that says what is wrong with the URL.
pub fn check_url(text: &str, is_private_allowed: bool) -> Result<reqwest::Url, &'static str> {
    if text.len() > URL_MAX {
        return Err("it is longer than 2,048 bytes");
    }
    let url = reqwest::Url::parse(text).map_err(|_| "it is not a URL")?;
    let is_secure = url.scheme() == "https";
    let is_plain_allowed = is_private_allowed && url.scheme() == "http";
    if !(is_secure || is_plain_allowed) {
        return Err("it must begin with https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not have a user or a password");
    }
    let host = url.host_str().unwrap_or_default();
    if host.is_empty() {
        return Err("it has no host");
    }
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if literal.as_ref().is_ok_and(|address| !is_public(*address)) && !is_private_allowed {
        return Err("its host is in a private network");
    }
    if literal.is_err() && !is_public_name(host) && !is_private_allowed {
        return Err("its host is in a private network");
    }
    Ok(url)
}

/// Signs a delivery (Standard Webhooks 1.0, "Signature scheme"). Returns `v1,<base64>`.
#[must_use]
pub fn sign(secret: &[u8], id: &str, seconds: i64, body: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body.as_bytes());
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_signed_as_the_standard_says() {
        // The standard's own library gives this signature.
        let secret = STANDARD.decode("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
        let signed = sign(&secret, "msg_1", 1_674_087_231, r#"{"type":"a.b"}"#).unwrap();
        assert_eq!(signed, "v1,2i32qvtRFLzVQFuH4RWHWVU4M8i5Cqv/re0jBhSnoeM=");
    }
}
