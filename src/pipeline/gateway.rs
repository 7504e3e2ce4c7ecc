//! What the stages share, and the access to an account.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use bytes::Bytes;

use super::admission::Admission;
use super::counting::Counting;
use super::oddity::OddUsages;
use super::request::Arrival;
use crate::actors::account::directory::DirectoryError;
use crate::actors::ledger::WriterState;
use crate::actors::{AccountHandle, Directory, LedgerHandle};
use crate::clock::Clock;
use crate::config::HoldSettings;
use crate::idempotency::Idempotency;
use crate::key_cache::KeyCache;
use crate::metrics::Metrics;
use crate::models::ModelRegistry;
use crate::rate_limits::RateLimits;
use crate::store::attempts::AttemptLog;
use crate::store::keys::KeyRecord;
use crate::upstream::Upstreams;
use crate::upstream::dialect::gemini::priced_path;
use domain::api_key::ApiKey;
use domain::price_book::ListId;
use domain::pricing::{PriceList, PriceRule};
use domain::thinking::ThinkingModels;
use domain::{ChargeId, Refusal, Timestamp, VersionId};

/// What the stages need. One for the process, shared by all threads.
pub struct Gateway {
    /// The rate limits and their counters.
    pub rate_limits: RateLimits,
    /// API keys by digest.
    pub keys: KeyCache,
    /// The price list.
    pub prices: PriceList,
    /// The version of the list `default` that these prices are.
    pub price_version: VersionId,
    /// The account actors.
    pub directory: Directory,
    /// The ledger writer.
    pub ledger: LedgerHandle,
    /// The models that are sold by their names.
    pub models: ModelRegistry,
    /// Records attempts at deployments.
    pub attempts: AttemptLog,
    /// Keeps and counts odd usage.
    pub odd_usages: OddUsages,
    /// The upstreams.
    pub upstreams: Upstreams,
    /// The clock.
    pub clock: Clock,
    /// How long a call waits for its commit.
    pub commit_timeout: Duration,
    /// The lifetime of a hold from the arrival of its call, in microseconds.
    pub hold_lifetime_micros: i64,
    /// The settings of holds.
    pub holds: HoldSettings,
    /// Models that think unseen.
    pub thinking: ThinkingModels,
    /// Repeated requests.
    pub idempotency: Idempotency,
    /// How long before a key expires its owner is warned, in microseconds.
    pub expiry_warning_micros: i64,
    /// The concurrency limits.
    pub readiness: Arc<Admission>,
    /// Places for counting the tokens of large bodies.
    pub counting: Counting,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The status and the body of a refusal, which is recorded if the call was charged.
    pub refused: fn(&Refusal, &str, ChargeId, Timestamp) -> (StatusCode, Bytes),
}

/// The price rule of a request, looked up once on arrival.
pub(super) fn rule_of(gateway: &Gateway, arrival: &Arrival) -> Option<Arc<PriceRule>> {
    gateway.prices.find(arrival.method.as_str(), &priced_path(&arrival.path)).cloned()
}

/// The price list of the account that pays with this key.
pub(super) fn list_of(key: &KeyRecord) -> ListId {
    key.price_list
}

/// The price list of the account that pays with this key; `None` if it is no active key.
///
/// # Errors
/// [`Refusal::Overloaded`], and [`Refusal::Unavailable`] if the database does not answer.
pub async fn price_list_of_key(gateway: &Gateway, key: &ApiKey) -> Result<Option<ListId>, Refusal> {
    if let Some(known) = gateway.keys.remembered(key) {
        return Ok(Some(known.price_list));
    }
    // Strangers can make keys up: they must not fill the queue of the database.
    let _place = gateway.readiness.admit_lookup().ok_or(Refusal::Overloaded)?;
    let found = gateway.keys.look_up(key).await.map_err(|error| {
        tracing::error!(%error, "a key could not be looked up");
        Refusal::Unavailable("the database does not answer")
    })?;
    Ok(found.map(|found| found.price_list))
}

/// The right to ask the account, if there is any use in it now.
pub(super) async fn lease(gateway: &Gateway, key: &KeyRecord) -> Result<AccountHandle, Refusal> {
    match gateway.ledger.state() {
        WriterState::Serving => {}
        state => return Err(unwritable(state)),
    }
    let readiness = &gateway.readiness;
    let environment = key.environment;
    let (running, max) = (readiness.running(environment), readiness.running_max(environment));
    gateway.directory.lease(key.account, running, max).await.map_err(|error| match error {
        DirectoryError::Busy => Refusal::TooManyInFlight,
        DirectoryError::Load(error) => {
            tracing::error!(account = %key.account, %error, "an account could not be loaded");
            Refusal::Unavailable("the account could not be loaded")
        }
        DirectoryError::Quarantined => Refusal::Quarantined,
        DirectoryError::Unwritable => Refusal::Unavailable("the ledger cannot be written"),
    })
}

/// Why no new work is taken.
pub(super) fn unwritable(state: WriterState) -> Refusal {
    Refusal::Unavailable(match state {
        WriterState::Serving => "the ledger is written again",
        WriterState::Overloaded => "the ledger writer has too much to do",
        WriterState::Unavailable => "the database does not take writes",
        WriterState::Fenced => "another process owns the accounts",
    })
}
