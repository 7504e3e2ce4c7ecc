//! The catalogue: which models are sold, and who serves each of them.
//!
//! A document is checked as a whole. If anything is wrong with it, nothing of it is taken, and all
//! that is wrong is told at once, each with its place. Prices are not in it: a price hangs on the
//! public name of a model, so whoever serves it, the customer pays the same.

mod check;
mod document;
mod served;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::key_policy::KeyPolicy;
use super::metering::Convention;

pub(crate) use check::is_name;
pub use check::{CatalogueFault, NAME_MAX};
pub use document::{
    BilledService, CatalogueDocument, Credential, Deployment, FallbackPrice, Modality,
    ModelProvider, ModelTarget, ProviderDialect, SoldModel, TargetAt, Wildcard,
};

/// The number of a deployment. It is given once and never used again, so what is known of a
/// deployment outlives every revision of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId(pub u32);

/// A deployment with all that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// Its number.
    pub id: DeploymentId,
    /// What is written of it.
    pub deployment: Deployment,
    /// Its credential.
    pub credential: Arc<Credential>,
    /// Its provider.
    pub provider: Arc<ModelProvider>,
}

impl Deployed {
    /// Does it serve all models of a pattern? No other name has a `*`.
    #[must_use]
    pub fn is_of_pattern(&self) -> bool {
        self.deployment.name.contains('*')
    }

    /// How its provider counts.
    #[must_use]
    pub fn convention(&self) -> Convention {
        self.provider.convention()
    }

    /// The price list that says what it costs us, if one does.
    #[must_use]
    pub fn cost_list(&self) -> Option<&Arc<str>> {
        self.deployment.cost.as_ref().or(self.provider.cost.as_ref())
    }
}

/// A deployment among those that serve a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// By whom.
    pub by: Arc<Deployed>,
    /// What the provider calls the model.
    pub upstream_model: Arc<str>,
    /// See [`ModelTarget::weight`].
    pub weight: u32,
    /// See [`ModelTarget::priority`].
    pub priority: u32,
}

/// A model that was asked for by its name, an alias or a name that a wildcard has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundModel {
    /// The public name, as the customer is told it.
    pub name: Arc<str>,
    /// The name of its card in price lists: the public name, or the pattern.
    pub card: Arc<str>,
    /// What it can do.
    pub model: Arc<SoldModel>,
    /// Who serves it, in the order of the document.
    pub served: Vec<Candidate>,
}

impl FoundModel {
    /// Does this policy allow the model? It does if it allows the public name, or names one of the
    /// aliases. An alias has no rights of its own: what it is called by does not count, but what
    /// it is.
    #[must_use]
    pub fn is_permitted(&self, policy: &KeyPolicy) -> bool {
        let is_named = |alias: &Arc<str>| policy.names_model(alias);
        policy.permits_model(Some(&self.name)) || self.model.aliases.iter().any(is_named)
    }
}

/// A checked catalogue. It never changes; a new revision takes its place.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    revision: u64,
    models: BTreeMap<Arc<str>, Arc<FoundModel>>,
    /// By the public names and the aliases.
    names: BTreeMap<Arc<str>, Arc<str>>,
    /// The longest pattern first.
    wildcards: Vec<(Wildcard, Arc<Deployed>)>,
    deployments: BTreeMap<DeploymentId, Arc<Deployed>>,
}

impl Catalogue {
    /// The catalogue of a document, with the number of each of its
    /// [deployments](CatalogueDocument::deployment_names).
    ///
    /// # Errors
    /// All that is wrong with the document, in its order.
    pub fn new(
        revision: u64,
        document: CatalogueDocument,
        ids: &BTreeMap<Arc<str>, DeploymentId>,
    ) -> Result<Self, Vec<CatalogueFault>> {
        let faults = check::faults(&document, ids);
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut made = Catalogue { revision, ..Catalogue::default() };
        let CatalogueDocument { providers, credentials, deployments, models, wildcards } = document;
        let providers: BTreeMap<Arc<str>, Arc<ModelProvider>> =
            providers.into_iter().map(|one| (Arc::clone(&one.name), Arc::new(one))).collect();
        let credentials: BTreeMap<Arc<str>, Arc<Credential>> =
            credentials.into_iter().map(|one| (Arc::clone(&one.name), Arc::new(one))).collect();
        let deployed = |deployment: Deployment| {
            let credential = credentials.get(&deployment.credential)?;
            Some(Arc::new(Deployed {
                id: *ids.get(&deployment.name)?,
                provider: Arc::clone(providers.get(&credential.provider)?),
                credential: Arc::clone(credential),
                deployment,
            }))
        };
        let own = |model: &str, credential: &Arc<str>| {
            deployed(Deployment {
                name: document::own_name(model, credential),
                credential: Arc::clone(credential),
                ..Deployment::default()
            })
        };
        let named: BTreeMap<Arc<str>, Arc<Deployed>> = deployments
            .into_iter()
            .filter_map(|one| Some((Arc::clone(&one.name), deployed(one)?)))
            .collect();
        for model in models {
            let served = model.targets.iter().filter_map(|target| {
                let by = match &target.at {
                    TargetAt::Deployment(name) => Arc::clone(named.get(name)?),
                    TargetAt::Credential(credential) => own(&model.name, credential)?,
                };
                let upstream_model = by.deployment.upstream_model.as_ref().unwrap_or(&model.name);
                let upstream_model = Arc::clone(upstream_model);
                let (weight, priority) = (target.weight, target.priority);
                Some(Candidate { by, upstream_model, weight, priority })
            });
            let served: Vec<Candidate> = served.collect();
            made.deployments.extend(served.iter().map(|one| (one.by.id, Arc::clone(&one.by))));
            let name = Arc::clone(&model.name);
            for other in model.aliases.iter().chain([&name]) {
                made.names.insert(Arc::clone(other), Arc::clone(&name));
            }
            let (card, model) = (Arc::clone(&name), Arc::new(model));
            let found = FoundModel { name: Arc::clone(&name), card, model, served };
            made.models.insert(name, Arc::new(found));
        }
        made.deployments.extend(named.into_values().map(|one| (one.id, one)));
        for wildcard in wildcards {
            if let Some(by) = own(&wildcard.pattern, &wildcard.credential) {
                made.deployments.insert(by.id, Arc::clone(&by));
                made.wildcards.push((wildcard, by));
            }
        }
        made.wildcards.sort_by_key(|(wildcard, _)| std::cmp::Reverse(wildcard.pattern.len()));
        Ok(made)
    }

    /// The same catalogue, with those deployments disabled whose credential cannot be used.
    #[must_use]
    pub fn without(mut self, is_usable: impl Fn(&Deployed) -> bool) -> Self {
        let close = |by: &mut Arc<Deployed>| {
            if !is_usable(by) {
                Arc::make_mut(by).deployment.is_disabled = true;
            }
        };
        self.deployments.values_mut().for_each(close);
        for found in self.models.values_mut() {
            let served = &mut Arc::make_mut(found).served;
            for candidate in served.iter_mut() {
                close(&mut candidate.by);
            }
        }
        self.wildcards.iter_mut().for_each(|(_, by)| close(by));
        self
    }

    /// Is nothing sold?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && self.wildcards.is_empty()
    }

    /// The number of its revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The model with this name or alias; else that of the longest pattern that fits.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<FoundModel>> {
        if let Some(public) = self.names.get(name) {
            return self.models.get(public).cloned();
        }
        if !check::is_name(name) {
            return None;
        }
        self.wildcards.iter().find_map(|(wildcard, by)| {
            let rest = name.strip_prefix(wildcard.pattern.strip_suffix('*')?)?;
            let upstream_model = match &wildcard.upstream_model {
                _ if rest.is_empty() => return None,
                Some(pattern) => pattern.replace("$1", rest).into(),
                None => rest.into(),
            };
            let served = Candidate { by: Arc::clone(by), upstream_model, weight: 1, priority: 0 };
            let name: Arc<str> = name.into();
            Some(Arc::new(FoundModel {
                model: Arc::new(SoldModel { name: Arc::clone(&name), ..wildcard.model.clone() }),
                name,
                card: Arc::clone(&wildcard.pattern),
                served: vec![served],
            }))
        })
    }

    /// All models with a name of their own, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<FoundModel>> {
        self.models.values()
    }

    /// All patterns and who serves them, the longest pattern first.
    pub fn wildcards(&self) -> impl Iterator<Item = (&Wildcard, &Arc<Deployed>)> {
        self.wildcards.iter().map(|(wildcard, by)| (wildcard, by))
    }

    /// The deployment with this number.
    #[must_use]
    pub fn deployment(&self, id: DeploymentId) -> Option<&Arc<Deployed>> {
        self.deployments.get(&id)
    }

    /// All deployments, by number.
    pub fn deployments(&self) -> impl Iterator<Item = &Arc<Deployed>> {
        self.deployments.values()
    }
}

#[cfg(test)]
mod tests;
