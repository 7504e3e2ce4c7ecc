//! What can be wrong with a document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::DeploymentId;
use super::document::{
    CatalogueDocument, ModelProvider, ModelTarget, ProviderDialect, SoldModel, TargetAt, Wildcard,
    own_name,
};
use crate::routing::WEIGHT_MAX;

/// Longest name of a model, a deployment, a provider or a credential, in bytes.
pub const NAME_MAX: usize = 128;
/// Longest text that is no name of ours, such as a region or a provider's name of a model.
const TEXT_MAX: usize = 256;
/// Most tokens that a limit of a model may name.
const TOKENS_MAX: u64 = 1_000_000_000;

/// Something that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueFault {
    /// Its place, such as `models[2].targets[0].credential`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for CatalogueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// Is it a name: 1 to 128 of a to z, 0 to 9 and `._:/-`, the first one a letter or a digit?
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(byte) || b"._:/-".contains(&byte))
}

/// What was found so far.
struct Faults(Vec<CatalogueFault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push(CatalogueFault { path: path.into(), problem: problem.into() });
    }

    /// Adds a name of its kind, which must be new.
    fn name<'a>(&mut self, path: String, name: &'a str, seen: &mut BTreeSet<&'a str>) {
        if !is_name(name) {
            self.add(
                path,
                "must be 1 to 128 of a-z, 0-9, . _ : / and -, and begin with a letter or a digit",
            );
        } else if !seen.insert(name) {
            self.add(path, format!("another one has the name {name}"));
        }
    }

    /// The name must be one of these.
    fn known(&mut self, path: String, kind: &str, name: &str, known: &BTreeSet<&str>) {
        if !known.contains(name) {
            self.add(path, format!("there is no {kind} {name}"));
        }
    }

    fn positive(&mut self, path: String, number: Option<u64>) {
        if number == Some(0) {
            self.add(path, "must be at least 1");
        }
    }

    /// A text that goes into headers, bodies and URLs of other services.
    fn printable(&mut self, path: String, text: Option<&Arc<str>>) {
        let is_plain = |text: &Arc<str>| {
            (1..=TEXT_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if text.is_some_and(|text| !is_plain(text)) {
            self.add(path, "must be 1 to 256 visible characters of ASCII, without spaces");
        }
    }

    /// The name of a price list.
    fn cost(&mut self, path: &str, cost: Option<&Arc<str>>) {
        if cost.is_some_and(|list| !is_name(list)) {
            self.add(format!("{path}.cost"), "must be the name of a price list");
        }
    }

    fn provider(&mut self, path: &str, provider: &ModelProvider) {
        self.printable(format!("{path}.region"), provider.region.as_ref());
        self.cost(path, provider.cost.as_ref());
        if provider.dialect == ProviderDialect::Azure && provider.url.is_none() {
            self.add(format!("{path}.url"), "is needed: each customer of Azure has an own address");
        }
    }

    fn limits(&mut self, path: &str, model: &SoldModel) {
        for (key, number) in [
            ("max_input", Some(model.max_input)),
            ("max_output", Some(model.max_output)),
            ("tokenizer_permille", Some(model.tokenizer_permille.into())),
            ("image_tokens_max", model.image_tokens_max),
            ("file_tokens_max", model.file_tokens_max),
        ] {
            self.positive(format!("{path}.{key}"), number);
            if number.is_some_and(|number| number > TOKENS_MAX) {
                self.add(format!("{path}.{key}"), format!("must be at most {TOKENS_MAX}"));
            }
        }
        for (place, extra) in model.sells.iter().enumerate() {
            if extra.is_of_a_customer() {
                let problem = "is never sold: all customers share the credential, so it could name \
                               what another one has stored at the provider";
                self.add(format!("{path}.sells[{place}]"), problem);
            }
        }
    }
}

/// Names that the rest of a document may use.
struct Known<'a> {
    credentials: BTreeSet<&'a str>,
    deployments: BTreeSet<&'a str>,
    models: BTreeSet<&'a str>,
    ids: &'a BTreeMap<Arc<str>, DeploymentId>,
}

/// All that is wrong with the document, in its order.
pub(super) fn faults(
    document: &CatalogueDocument,
    ids: &BTreeMap<Arc<str>, DeploymentId>,
) -> Vec<CatalogueFault> {
    let mut faults = Faults(Vec::new());
    let mut providers = BTreeSet::new();
    for (place, provider) in document.providers.iter().enumerate() {
        let path = format!("providers[{place}]");
        faults.name(format!("{path}.name"), &provider.name, &mut providers);
        faults.provider(&path, provider);
    }
    let mut known = Known {
        credentials: BTreeSet::new(),
        deployments: BTreeSet::new(),
        models: BTreeSet::new(),
        ids,
    };
    for (place, credential) in document.credentials.iter().enumerate() {
        let path = format!("credentials[{place}]");
        faults.name(format!("{path}.name"), &credential.name, &mut known.credentials);
        faults.known(format!("{path}.provider"), "provider", &credential.provider, &providers);
        if credential.quota_group.as_ref().is_some_and(|group| !is_name(group)) {
            faults.add(format!("{path}.quota_group"), "must be a name");
        }
    }
    for (place, deployment) in document.deployments.iter().enumerate() {
        let path = format!("deployments[{place}]");
        let credentials = &known.credentials;
        faults.name(format!("{path}.name"), &deployment.name, &mut known.deployments);
        faults.known(
            format!("{path}.credential"),
            "credential",
            &deployment.credential,
            credentials,
        );
        let upstream_model = deployment.upstream_model.as_ref();
        faults.printable(format!("{path}.upstream_model"), upstream_model);
        faults.cost(&path, deployment.cost.as_ref());
        faults.positive(format!("{path}.rpm"), deployment.rpm);
        faults.positive(format!("{path}.tpm"), deployment.tpm);
        faults.positive(format!("{path}.concurrency"), deployment.concurrency.map(u64::from));
        numbered(&mut faults, &format!("{path}.name"), &deployment.name, ids);
    }
    for (place, model) in document.models.iter().enumerate() {
        let path = format!("models[{place}]");
        faults.name(format!("{path}.name"), &model.name, &mut known.models);
        for (place, alias) in model.aliases.iter().enumerate() {
            faults.name(format!("{path}.aliases[{place}]"), alias, &mut known.models);
        }
    }
    for (place, model) in document.models.iter().enumerate() {
        check_model(&mut faults, &format!("models[{place}]"), model, &known);
    }
    let mut patterns = BTreeSet::new();
    for (place, wildcard) in document.wildcards.iter().enumerate() {
        let path = format!("wildcards[{place}]");
        if !patterns.insert(&*wildcard.pattern) {
            faults.add(format!("{path}.pattern"), "another one has this pattern");
        }
        check_wildcard(&mut faults, &path, wildcard, &known);
    }
    faults.0
}

fn numbered(faults: &mut Faults, path: &str, name: &str, ids: &BTreeMap<Arc<str>, DeploymentId>) {
    if !ids.contains_key(name) {
        faults.add(path, format!("the deployment {name} has no number"));
    }
}

fn check_model(faults: &mut Faults, path: &str, model: &SoldModel, known: &Known<'_>) {
    faults.limits(path, model);
    if model.targets.is_empty() {
        faults.add(format!("{path}.targets"), "must have at least one");
    }
    let mut seen: Vec<&TargetAt> = Vec::new();
    for (place, target) in model.targets.iter().enumerate() {
        let path = format!("{path}.targets[{place}]");
        if seen.contains(&&target.at) {
            faults.add(&*path, "another target is the same");
        }
        seen.push(&target.at);
        check_target(faults, &path, model, target, known);
    }
    for (key, others) in [("on_context", &model.on_context), ("on_policy", &model.on_policy)] {
        for (place, other) in others.iter().enumerate() {
            let path = format!("{path}.{key}[{place}]");
            if *other == model.name {
                faults.add(path, "must be another model");
            } else {
                faults.known(path, "model", other, &known.models);
            }
        }
    }
    if let Some(successor) = &model.successor {
        faults.known(format!("{path}.successor"), "model", successor, &known.models);
    }
}

fn check_target(
    faults: &mut Faults,
    path: &str,
    model: &SoldModel,
    target: &ModelTarget,
    known: &Known<'_>,
) {
    match &target.at {
        TargetAt::Deployment(name) => {
            faults.known(format!("{path}.deployment"), "deployment", name, &known.deployments);
        }
        TargetAt::Credential(name) => {
            let path = format!("{path}.credential");
            let own = own_name(&model.name, name);
            if !known.credentials.contains(&**name) {
                faults.add(path, format!("there is no credential {name}"));
            } else if known.deployments.contains(&*own) {
                faults.add(path, format!("there is a deployment {own}: name it instead"));
            } else {
                numbered(faults, &path, &own, known.ids);
            }
        }
    }
    if !(1..=WEIGHT_MAX).contains(&target.weight) {
        faults.add(format!("{path}.weight"), format!("must be 1 to {WEIGHT_MAX}"));
    }
}

fn check_wildcard(faults: &mut Faults, path: &str, wildcard: &Wildcard, known: &Known<'_>) {
    let is_pattern = wildcard.pattern.strip_suffix("/*").is_some_and(is_name);
    if !is_pattern {
        faults.add(format!("{path}.pattern"), "must be a name and /*");
    }
    let credential = &wildcard.credential;
    let at = format!("{path}.credential");
    if known.credentials.contains(&**credential) {
        let own = own_name(&wildcard.pattern, credential);
        numbered(faults, &at, &own, known.ids);
    } else {
        faults.add(at, format!("there is no credential {credential}"));
    }
    faults.printable(format!("{path}.upstream_model"), wildcard.upstream_model.as_ref());
    if wildcard.upstream_model.as_ref().is_some_and(|pattern| !pattern.contains("$1")) {
        faults.add(format!("{path}.upstream_model"), "must contain $1");
    }
    faults.limits(path, &wildcard.model);
}
