//! What a caller may call by the name of a model: what is sold, has a price in the caller's list,
//! and is allowed by the caller's key. Nothing of it is looked up in the database.

use std::sync::Arc;

use super::authenticate::Caller;
use super::gateway::{Gateway, list_of};
use crate::models::Selling;
use domain::catalogue::{FallbackPrice, FoundModel};
use domain::price_book::{ListId, Priced};
use domain::{KeyPolicy, Timestamp};

/// The models that are sold to a caller at one moment.
pub struct Offer {
    selling: Arc<Selling>,
    list: ListId,
    policy: Arc<KeyPolicy>,
    at: Timestamp,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct OfferedModel {
    /// The name that it is called by; it may be an alias.
    pub name: Arc<str>,
    /// What is called.
    pub found: Arc<FoundModel>,
    /// What it costs.
    pub priced: Priced,
}

impl Offer {
    /// What is sold now to accounts with this list, and may be called under this policy.
    #[must_use]
    pub fn new(selling: Arc<Selling>, list: ListId, policy: Arc<KeyPolicy>, at: Timestamp) -> Self {
        Offer { selling, list, policy, at }
    }

    /// Is anything sold by the name of a model? Otherwise the upstream knows what it has.
    #[must_use]
    pub fn has_models(&self) -> bool {
        self.selling.has_models()
    }

    /// All names that may be called, sorted, aliases among them. Of the models that are sold by a
    /// pattern nobody knows the names.
    #[must_use]
    pub fn models(&self) -> Vec<OfferedModel> {
        let all = self.selling.catalogue.models().flat_map(|found| {
            let names = std::iter::once(&found.name).chain(&found.model.aliases);
            names.filter_map(|name| self.offered(name, Arc::clone(found)))
        });
        let mut all: Vec<OfferedModel> = all.collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// The model with this name, this alias, or a name of a pattern, if it may be called.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<OfferedModel> {
        let found = self.selling.catalogue.find(name)?;
        self.offered(&Arc::from(name), found)
    }

    /// The other names of a model that may be called.
    #[must_use]
    pub fn aliases(&self, found: &FoundModel) -> Vec<Arc<str>> {
        if found.is_permitted(&self.policy) { found.model.aliases.clone() } else { Vec::new() }
    }

    /// The models that may answer in the place of this one, if their own price counts then.
    #[must_use]
    pub fn may_be_billed_as(&self, found: &FoundModel) -> Vec<String> {
        let model = &found.model;
        if model.price_on_fallback == FallbackPrice::Requested {
            return Vec::new();
        }
        let others = model.on_context.iter().chain(&model.on_policy);
        let mut names: Vec<String> = others
            .filter_map(|name| self.model(name))
            .map(|other| other.found.name.to_string())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn offered(&self, name: &Arc<str>, found: Arc<FoundModel>) -> Option<OfferedModel> {
        let is_retired = found.model.retires_at.is_some_and(|at| at <= self.at);
        if is_retired || !found.is_permitted(&self.policy) {
            return None;
        }
        let priced = self.selling.price(self.list, &found, self.at)?;
        Some(OfferedModel { name: Arc::clone(name), found, priced })
    }
}

impl Caller {
    /// What the caller may call by the name of a model.
    #[must_use]
    pub fn offer(&self, gateway: &Gateway) -> Offer {
        let key = self.key();
        let (selling, list) = (gateway.models.selling(), list_of(key));
        Offer::new(selling, list, Arc::clone(&key.policy), self.arrival().at)
    }
}

impl Gateway {
    /// What accounts with this list may call, by a key that may call everything.
    #[must_use]
    pub fn offer(&self, list: ListId) -> Offer {
        let (selling, policy) = (self.models.selling(), Arc::default());
        Offer::new(selling, list, policy, self.clock.now())
    }
}
