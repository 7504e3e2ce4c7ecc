//! The catalogue as it is written: plain values, which name each other.

use std::sync::Arc;

use crate::coded::coded_enum;
use crate::metering::{Convention, Counted};
use crate::pricing::Extra;
use crate::window::Timestamp;

coded_enum! {
    /// The protocol that a provider speaks.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub enum ProviderDialect {
        /// Chat completions, embeddings and responses, as OpenAI has them.
        #[default]
        OpenAi => "openai",
        /// Messages, as Anthropic has them.
        Anthropic => "anthropic",
        /// Generated content, as Google has it.
        Gemini => "gemini",
        /// As OpenAI, at the addresses of Azure.
        Azure => "azure",
    }
}

impl ProviderDialect {
    /// How providers of this protocol count, unless they say otherwise.
    #[must_use]
    pub const fn convention(self) -> Convention {
        match self {
            ProviderDialect::OpenAi | ProviderDialect::Azure => Convention::OPENAI,
            ProviderDialect::Anthropic => Convention::ANTHROPIC,
            ProviderDialect::Gemini => Convention::GEMINI,
        }
    }
}

coded_enum! {
    /// A kind of content.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Modality {
        /// Text.
        Text => "text",
        /// Images.
        Image => "image",
        /// Audio.
        Audio => "audio",
        /// Video.
        Video => "video",
        /// Files, such as PDF.
        File => "file",
    }
}

coded_enum! {
    /// Which service tier of a call is billed, if another served than was asked for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum BilledService {
        /// The one that the provider says has served.
        #[default]
        Served => "served",
        /// The one that was asked for. For providers that do not say which has served.
        Requested => "requested",
    }
}

coded_enum! {
    /// Whose price counts if another model answers than the one that was asked for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum FallbackPrice {
        /// That of the model that was asked for.
        #[default]
        Requested => "requested",
        /// That of the model that answers.
        Served => "served",
    }
}

/// Who serves models.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ModelProvider {
    /// Its name.
    pub name: Arc<str>,
    /// The protocol that it speaks.
    pub dialect: ProviderDialect,
    /// Its base URL; `None` is the protocol's own.
    pub url: Option<Arc<str>>,
    /// The region where it computes.
    pub region: Option<Arc<str>>,
    /// Cached tokens; `None` as its protocol counts them.
    pub cache: Option<Counted>,
    /// Thoughts; `None` as its protocol counts them.
    pub thoughts: Option<Counted>,
    /// May its address be private?
    pub allows_private: bool,
    /// The price list that says what its models cost us, by its own names of them. `None`: nobody
    /// knows.
    pub cost: Option<Arc<str>>,
}

impl ModelProvider {
    /// How it counts.
    #[must_use]
    pub fn convention(&self) -> Convention {
        let usual = self.dialect.convention();
        Convention {
            cache: self.cache.unwrap_or(usual.cache),
            thoughts: self.thoughts.unwrap_or(usual.thoughts),
        }
    }
}

/// What a provider is called with. Its secret is kept elsewhere, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Credential {
    /// Its name.
    pub name: Arc<str>,
    /// The name of its provider.
    pub provider: Arc<str>,
    /// Credentials of one group share the limits of their provider. `None`: it has its own.
    pub quota_group: Option<Arc<str>>,
}

impl Credential {
    /// The group whose limits it shares.
    #[must_use]
    pub fn quota_group(&self) -> &Arc<str> {
        self.quota_group.as_ref().unwrap_or(&self.name)
    }
}

/// One model at one provider, by one credential.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Deployment {
    /// Its name.
    pub name: Arc<str>,
    /// The name of its credential.
    pub credential: Arc<str>,
    /// What the provider calls the model; `None`: as it is called here.
    pub upstream_model: Option<Arc<str>>,
    /// Is it never asked?
    pub is_disabled: bool,
    /// Most calls a minute.
    pub rpm: Option<u64>,
    /// Most tokens a minute.
    pub tpm: Option<u64>,
    /// Most calls at once.
    pub concurrency: Option<u32>,
    /// Which service tier is billed.
    pub service: BilledService,
    /// The price list that says what it costs us; `None`: that of its provider.
    pub cost: Option<Arc<str>>,
}

/// A deployment that serves a model: a named one, or the one that a credential has for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTarget {
    /// Whose it is.
    pub at: TargetAt,
    /// Its share of the calls among the targets of its priority, at least 1.
    pub weight: u32,
    /// The targets with the lowest number are asked first.
    pub priority: u32,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetAt {
    /// At the deployment with this name.
    Deployment(Arc<str>),
    /// At the provider of this credential, under the model's own name.
    Credential(Arc<str>),
}

/// What is sold: a public name, what it can do, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SoldModel {
    /// Its public name, which prices are by.
    pub name: Arc<str>,
    /// Other names of it.
    pub aliases: Vec<Arc<str>>,
    /// Most tokens of a prompt: its context window.
    pub max_input: u64,
    /// Most tokens of a completion.
    pub max_output: u64,
    /// What it takes and gives. Empty: text.
    pub modalities: Vec<Modality>,
    /// Tokens of its own tokenizer for 1,000 that are counted here.
    pub tokenizer_permille: u32,
    /// Most tokens of an image in a prompt, if its size is not known. `None`: the context window.
    pub image_tokens_max: Option<u64>,
    /// The same of a file.
    pub file_tokens_max: Option<u64>,
    /// Can it think without showing it?
    pub hides_thoughts: bool,
    /// Who serves it.
    pub targets: Vec<ModelTarget>,
    /// Models that are asked instead if a prompt is too long for this one.
    pub on_context: Vec<Arc<str>>,
    /// Models that are asked instead if the provider's policy forbids a prompt.
    pub on_policy: Vec<Arc<str>>,
    /// Whose price counts if one of these answers.
    pub price_on_fallback: FallbackPrice,
    /// From when on it is not sold any more.
    pub retires_at: Option<Timestamp>,
    /// The model that takes its place then.
    pub successor: Option<Arc<str>>,
    /// What requests may ask for though its cost cannot be known before the call.
    pub sells: Vec<Extra>,
}

impl SoldModel {
    /// Does it take content of this kind? Each takes text.
    #[must_use]
    pub fn takes(&self, kind: Modality) -> bool {
        kind == Modality::Text || self.modalities.contains(&kind)
    }
}

/// Many models by a pattern: all names that begin so are sold, each served under what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcard {
    /// How the names begin, then `*`, such as `openrouter/*`. Its card has this name.
    pub pattern: Arc<str>,
    /// The credential that serves them.
    pub credential: Arc<str>,
    /// What the provider calls the model, with `$1` for what follows; `None` is `$1`.
    pub upstream_model: Option<Arc<str>>,
    /// What each of the models can do. It has no name, and no targets.
    pub model: SoldModel,
}

impl Wildcard {
    /// What a model is called here that its provider calls so; `None`: it is none of these.
    #[must_use]
    pub fn public_name(&self, upstream_model: &str) -> Option<String> {
        let rest = match &self.upstream_model {
            None => upstream_model,
            Some(pattern) => {
                let (before, after) = pattern.split_once("$1")?;
                upstream_model.strip_prefix(before)?.strip_suffix(after)?
            }
        };
        let prefix = self.pattern.strip_suffix('*')?;
        (!rest.is_empty()).then(|| format!("{prefix}{rest}"))
    }
}

/// The whole catalogue. It is written and replaced as one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CatalogueDocument {
    /// Who serves models.
    pub providers: Vec<ModelProvider>,
    /// What they are called with.
    pub credentials: Vec<Credential>,
    /// Which of their models.
    pub deployments: Vec<Deployment>,
    /// What is sold.
    pub models: Vec<SoldModel>,
    /// What is sold by a pattern.
    pub wildcards: Vec<Wildcard>,
}

impl CatalogueDocument {
    /// The names of all deployments, also of those that no entry of `deployments` has: a target
    /// at a credential is the deployment `model/credential`, a wildcard `pattern/credential`.
    /// Each needs a number of its own for ever.
    #[must_use]
    pub fn deployment_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> =
            self.deployments.iter().map(|deployment| Arc::clone(&deployment.name)).collect();
        for model in &self.models {
            names.extend(model.targets.iter().filter_map(|target| match &target.at {
                TargetAt::Deployment(_) => None,
                TargetAt::Credential(credential) => Some(own_name(&model.name, credential)),
            }));
        }
        let wild = self.wildcards.iter();
        names.extend(wild.map(|wildcard| own_name(&wildcard.pattern, &wildcard.credential)));
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The name of the deployment that a credential has for a model.
pub(super) fn own_name(model: &str, credential: &str) -> Arc<str> {
    format!("{model}/{credential}").into()
}
