//! Who has served a call that is on record: its usage record names the model that was asked for and
//! the deployment that was asked last.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Candidate, Catalogue, FoundModel};

/// So many models follow one another at most if a prompt is too long, or not allowed.
const FALLBACKS_MAX: usize = 3;

impl Catalogue {
    /// The deployment of this name as it serves a call to this model, or one of those that are
    /// asked in its place. `None`: it does not, or it serves several of them under different names,
    /// so that nobody can say which one it was.
    #[must_use]
    pub fn served_by(&self, model: &str, deployment: &str) -> Option<Candidate> {
        let mut seen = BTreeSet::new();
        let mut models = vec![self.find(model)?];
        let mut served: Option<Candidate> = None;
        for _ in 0..FALLBACKS_MAX {
            let mut next: Vec<Arc<FoundModel>> = Vec::new();
            for found in models {
                if !seen.insert(Arc::clone(&found.name)) {
                    continue;
                }
                for one in found.served.iter().filter(|one| *one.by.deployment.name == *deployment)
                {
                    match &served {
                        Some(before) if before.upstream_model != one.upstream_model => return None,
                        _ => served = Some(one.clone()),
                    }
                }
                let others = found.model.on_context.iter().chain(&found.model.on_policy);
                next.extend(others.filter_map(|name| self.find(name)));
            }
            models = next;
        }
        served
    }
}

#[cfg(test)]
mod tests {
    use crate::catalogue::{
        Catalogue, CatalogueDocument, Credential, Deployment, DeploymentId, ModelProvider,
        ModelTarget, SoldModel, TargetAt, Wildcard,
    };

    fn model(name: &str, deployments: &[&str], on_context: &[&str]) -> SoldModel {
        let target = |name: &&str| ModelTarget {
            at: TargetAt::Deployment((*name).into()),
            weight: 1,
            priority: 0,
        };
        SoldModel {
            name: name.into(),
            max_input: 1,
            max_output: 1,
            tokenizer_permille: 1_000,
            targets: deployments.iter().map(target).collect(),
            on_context: on_context.iter().map(|name| (*name).into()).collect(),
            ..SoldModel::default()
        }
    }

    fn catalogue() -> Catalogue {
        let deployment = |name: &str, upstream_model: Option<&str>| Deployment {
            name: name.into(),
            credential: "key".into(),
            upstream_model: upstream_model.map(Into::into),
            cost: (name == "own").then(|| "own-cost".into()),
            ..Deployment::default()
        };
        let document = CatalogueDocument {
            providers: vec![ModelProvider {
                name: "p".into(),
                cost: Some("cost".into()),
                ..ModelProvider::default()
            }],
            credentials: vec![Credential {
                name: "key".into(),
                provider: "p".into(),
                ..Credential::default()
            }],
            deployments: vec![
                deployment("own", Some("theirs-1")),
                deployment("long", Some("theirs-2")),
                deployment("shared", None),
            ],
            models: vec![
                model("m", &["own", "shared"], &["n"]),
                model("n", &["long", "shared"], &["m"]),
                model("o", &["own"], &[]),
            ],
            wildcards: vec![Wildcard {
                pattern: "any/*".into(),
                credential: "key".into(),
                upstream_model: Some("x-$1".into()),
                model: SoldModel { targets: Vec::new(), ..model("", &[], &[]) },
            }],
        };
        let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
        Catalogue::new(1, document, &ids).unwrap()
    }

    #[test]
    fn a_deployment_is_found_under_its_own_name_of_the_model() {
        let catalogue = catalogue();
        let served = |model: &str, deployment: &str| {
            let one = catalogue.served_by(model, deployment)?;
            Some((one.upstream_model.to_string(), one.by.cost_list().unwrap().to_string()))
        };
        let is = |name: &str, list: &str| Some((name.to_owned(), list.to_owned()));
        assert_eq!(served("m", "own"), is("theirs-1", "own-cost"));
        // One of the model that takes longer prompts.
        assert_eq!(served("m", "long"), is("theirs-2", "cost"));
        assert_eq!(served("any/thing", "any/*/key"), is("x-thing", "cost"));
        // It may have been asked for either.
        assert_eq!(served("m", "shared"), None);
        for (model, deployment) in [("o", "long"), ("none", "own"), ("m", "none")] {
            assert_eq!(served(model, deployment), None, "{model} {deployment}");
        }
    }
}
