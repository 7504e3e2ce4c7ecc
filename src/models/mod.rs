//! The models that are sold now: who serves them, what they cost, and with which secrets their
//! providers are called.
//!
//! All that belongs together is one value, [`Selling`]. A change makes a new one, which takes the
//! place of the old one at once. A call takes the value of its arrival and keeps it until it is
//! settled, so no call sees half of a change.
//!
//! What is known of deployments from calls ([`Routing`]) outlives every change.

mod attempts;
pub mod document;
pub mod load;
pub(crate) mod provider_url;
pub mod vault;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::config::{Secret, UpstreamSettings};
use crate::upstream::{Proxy, at_deployment};
use attempts::{lock, step};
use domain::Timestamp;
use domain::catalogue::{Catalogue, DeploymentId, FoundModel};
use domain::price_book::{ListId, PriceBook, Priced};
use domain::routing::{Affinity, Need, Plan, RetryBudget, Standings, plan};
use vault::Vault;

pub use attempts::{AttemptCounts, NextStep, RunningAttempt};

/// How often the log says that nobody serves a model, in microseconds.
const NOBODY_TOLD_MICROS: i64 = 60_000_000;

/// What is sold at one moment.
#[derive(Clone, Default)]
pub struct Selling {
    /// The models and who serves them.
    pub catalogue: Catalogue,
    /// The price lists.
    pub book: PriceBook,
    /// What providers are called with, by the name of the credential.
    pub secrets: BTreeMap<Arc<str>, Secret>,
    /// The deployments as upstreams. [`ModelRegistry`] makes them.
    upstreams: BTreeMap<DeploymentId, Arc<Proxy>>,
}

impl Selling {
    /// These models at these prices, with these secrets of the credentials.
    #[must_use]
    pub fn new(catalogue: Catalogue, book: PriceBook, secrets: BTreeMap<Arc<str>, Secret>) -> Self {
        Selling { catalogue, book, secrets, upstreams: BTreeMap::new() }
    }

    /// The same, with its deployments as upstreams with these limits.
    fn connected(mut self, settings: &UpstreamSettings) -> Self {
        let upstream = |by: &Arc<domain::catalogue::Deployed>| {
            let secret = self.secrets.get(&by.credential.name);
            (by.id, Arc::new(at_deployment(by, secret, settings)))
        };
        self.upstreams = self.catalogue.deployments().map(upstream).collect();
        self
    }

    /// A deployment as an upstream.
    #[must_use]
    pub fn upstream(&self, id: DeploymentId) -> Option<&Arc<Proxy>> {
        self.upstreams.get(&id)
    }

    /// Is anything sold by the name of a model? Otherwise all calls are priced by their routes.
    #[must_use]
    pub fn has_models(&self) -> bool {
        !self.catalogue.is_empty()
    }

    /// The price of a model for accounts with this list, of a call that arrived at this instant.
    /// `None`: it is not sold to them.
    #[must_use]
    pub fn price(&self, list: ListId, model: &FoundModel, at: Timestamp) -> Option<Priced> {
        self.book.find(list, &model.card, at)
    }
}

/// A call that is sold by the name of its model.
#[derive(Clone)]
pub struct ModelCall {
    /// What was sold when it arrived.
    pub selling: Arc<Selling>,
    /// The model.
    pub found: Arc<FoundModel>,
    /// Its price.
    pub priced: Priced,
}

/// What calls have shown of deployments.
#[derive(Default)]
pub struct Routing {
    /// Which of them are asked.
    pub standings: Standings,
    /// How many calls may be tried again.
    pub retries: RetryBudget,
    /// How attempts at them ended.
    pub counts: BTreeMap<DeploymentId, AttemptCounts>,
    /// When the log last said that nobody serves the model with this card.
    nobody_told: BTreeMap<Arc<str>, Timestamp>,
}

/// The models of this process.
#[derive(Default)]
pub struct ModelRegistry {
    selling: ArcSwap<Selling>,
    /// The secrets of credentials.
    pub vault: Vault,
    loaded: load::Loaded,
    routing: Arc<Mutex<Routing>>,
    /// The limits of deployments as upstreams.
    upstreams: UpstreamSettings,
    shows_deployments: bool,
    /// Tiers of users whose calls leave room to others.
    shed_tiers: Vec<String>,
    /// The tier of users without one.
    default_tier: String,
}

impl ModelRegistry {
    /// These models are sold from now on.
    #[must_use]
    pub fn new(selling: Selling) -> Self {
        let models = ModelRegistry::default();
        models.replace(selling);
        models
    }

    /// The same models, with the secrets of this vault.
    #[must_use]
    pub fn with_vault(self, vault: Vault) -> Self {
        ModelRegistry { vault, ..self }
    }

    /// The same, with these limits of deployments on time and size.
    #[must_use]
    pub fn with_upstreams(mut self, settings: &UpstreamSettings) -> Self {
        self.upstreams = settings.clone();
        let selling = Selling::clone(&self.selling());
        self.replace(selling);
        self
    }

    /// The same; customers see which deployment served a call.
    #[must_use]
    pub fn with_shown_deployments(mut self, are_shown: bool) -> Self {
        self.shows_deployments = are_shown;
        self
    }

    /// The same; calls of users of these tiers leave the last tenth of a deployment's calls at once
    /// to others. `default_tier` is that of users without one.
    #[must_use]
    pub fn with_shed_tiers(mut self, tiers: &[String], default_tier: &str) -> Self {
        self.shed_tiers = tiers.to_vec();
        default_tier.clone_into(&mut self.default_tier);
        self
    }

    /// Do calls of users of this tier leave room to others?
    #[must_use]
    pub fn sheds(&self, tier: Option<&str>) -> bool {
        let tier = tier.unwrap_or(&self.default_tier);
        self.shed_tiers.iter().any(|shed| shed == tier)
    }

    /// How long one attempt may take.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        Duration::from_secs(self.upstreams.timeout_seconds.get())
    }

    /// Do customers see which deployment served a call?
    #[must_use]
    pub fn shows_deployments(&self) -> bool {
        self.shows_deployments
    }

    /// What is sold now.
    #[must_use]
    pub fn selling(&self) -> Arc<Selling> {
        self.selling.load_full()
    }

    /// Something else is sold from now on. Calls that run keep what they began with. A credential
    /// with another secret is used again.
    pub fn replace(&self, selling: Selling) {
        let selling = Arc::new(selling.connected(&self.upstreams));
        let before = self.selling.swap(Arc::clone(&selling));
        let mut routing = self.routing();
        for (name, secret) in &selling.secrets {
            if before.secrets.get(name).is_some_and(|before| before != secret) {
                routing.standings.enable_credential(name);
            }
        }
    }

    /// What calls have shown of deployments. It is locked for a moment, and never while something
    /// is awaited.
    pub fn routing(&self) -> MutexGuard<'_, Routing> {
        lock(&self.routing)
    }

    /// The order in which the deployments of a model are asked for a call.
    #[must_use]
    pub fn plan(&self, found: &FoundModel, need: Need, by: Affinity) -> Plan {
        plan(found, need, &self.routing().standings, by)
    }

    /// Whom the call asks first, or after it has waited.
    pub fn next(&self, plan: &mut Plan, clock: &Clock) -> NextStep {
        let next = {
            let mut routing = self.routing();
            let Routing { standings, retries, .. } = &mut *routing;
            plan.next(standings, retries, clock.now())
        };
        step(&self.routing, clock, next)
    }

    /// Says in the log that nobody serves a model, once a minute.
    pub fn tell_of_nobody(&self, found: &FoundModel, now: Timestamp) {
        let is_new = {
            let mut routing = self.routing();
            let told = routing.nobody_told.get(&found.card);
            let is_new = told.is_none_or(|told| now.micros_since(*told) >= NOBODY_TOLD_MICROS);
            if is_new {
                routing.nobody_told.insert(Arc::clone(&found.card), now);
            }
            is_new
        };
        if is_new {
            tracing::error!(
                alert = "model_without_deployment",
                model = %found.card,
                "nobody serves a model; GET /api/admin/deployments/health says why"
            );
        }
    }
}

#[cfg(test)]
mod tests;
