//! The forms of the parts, and how they become the domain's parts and come from them.

use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::json::Object;
use domain::Timestamp;
use domain::catalogue::{
    BilledService, Credential, Deployment, FallbackPrice, Modality, ModelProvider, ModelTarget,
    ProviderDialect, SoldModel, TargetAt, Wildcard,
};
use domain::metering::Counted;
use domain::pricing::Extra;

/// Something that has a word in documents.
trait Word: Copy + 'static {
    fn all() -> Vec<(&'static str, Self)>;
}

macro_rules! words {
    ($($kind:ty),*) => {$(
        impl Word for $kind {
            fn all() -> Vec<(&'static str, Self)> {
                <$kind>::ALL.into_iter().map(|one| (one.name(), one)).collect()
            }
        }
    )*};
}

words!(ProviderDialect, Modality, BilledService, FallbackPrice, Extra);

impl Word for Counted {
    fn all() -> Vec<(&'static str, Self)> {
        vec![("within", Counted::Within), ("beside", Counted::Beside)]
    }
}

/// A value that is written as its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Worded<T>(pub T);

impl<T: Word + PartialEq> Serialize for Worded<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let word = T::all().into_iter().find(|(_, one)| *one == self.0);
        to.serialize_str(word.map_or("", |(word, _)| word))
    }
}

impl<'de, T: Word> Deserialize<'de> for Worded<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let all = T::all();
        if let Some((_, one)) = all.iter().find(|(word, _)| *word == text) {
            return Ok(Worded(*one));
        }
        let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
        Err(D::Error::custom(format!("must be one of {}", words.join(", "))))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a provider counts, where it differs from its dialect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConventionForm {
    /// Are cached tokens `within` the number of the prompt, or `beside` it?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^(within|beside)$")]
    cache: Option<Worded<Counted>>,
    /// Are thoughts `within` the number of the completion, or `beside` it?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^(within|beside)$")]
    thoughts: Option<Worded<Counted>>,
}

/// Who serves models.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderForm {
    /// Its name: 1 to 128 of a-z, 0-9, `.`, `_`, `:`, `/` and `-`.
    #[schema(example = "anthropic")]
    name: String,
    /// The protocol that it speaks: `openai`, `anthropic`, `gemini` or `azure`.
    #[schema(value_type = String, pattern = "^(openai|anthropic|gemini|azure)$")]
    dialect: Worded<ProviderDialect>,
    /// Its base URL; absent: that of the protocol. `https`, unless its address is private.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// The region where it computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// How it counts; absent: as its protocol counts.
    #[serde(default, deserialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    convention: Option<ConventionForm>,
    /// May its address be private?
    #[serde(default, skip_serializing_if = "is_default")]
    allow_private: bool,
    /// The price list that says what its models cost us, by its own names of them. Nobody is
    /// charged by it; see `GET /api/admin/margins`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "anthropic-cost")]
    cost: Option<String>,
}

/// What a provider is called with. Its secret is set by itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialForm {
    /// Its name.
    #[schema(example = "anthropic-main")]
    name: String,
    /// The name of its provider.
    #[schema(example = "anthropic")]
    provider: String,
    /// Credentials of one group share the limits of their provider. Absent: it has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota_group: Option<String>,
}

/// One model at one provider, by one credential.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentForm {
    /// Its name.
    name: String,
    /// The name of its credential.
    credential: String,
    /// What the provider calls the model; absent: as it is called here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream_model: Option<String>,
    /// Is it never asked?
    #[serde(default, skip_serializing_if = "is_default")]
    disabled: bool,
    /// Most calls a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    rpm: Option<u64>,
    /// Most tokens a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    tpm: Option<u64>,
    /// Most calls at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    concurrency: Option<u32>,
    /// Which service tier is billed: the one that `served`, or the one that was `requested`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(value_type = String, pattern = "^(served|requested)$")]
    service_tier: Worded<BilledService>,
    /// The price list that says what it costs us; absent: that of its provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
}

/// A deployment that serves a model: `deployment`, or `credential` alone for the model's own name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetForm {
    /// The name of a deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
    /// The name of a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    /// Its share of the calls among the targets of its priority, from 1 to 100; 1 if absent.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u32,
    /// The targets with the lowest number are asked first; 0 if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    priority: u32,
}

/// From when on a model is not sold any more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetirementForm {
    /// A date, or an instant in RFC 3339.
    #[schema(example = "2027-06-01")]
    at: String,
    /// The model that takes its place then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
}

/// What is sold: a public name, what it can do, and who serves it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelForm {
    /// Its public name, which prices are by.
    #[schema(example = "claude-opus-5-5")]
    name: String,
    /// Other names of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    /// Most tokens of a prompt: its context window.
    #[schema(minimum = 1)]
    max_input: u64,
    /// Most tokens of a completion.
    #[schema(minimum = 1)]
    max_output: u64,
    /// `text`, `image`, `audio`, `video`, `file`. Absent: text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    modalities: Vec<Worded<Modality>>,
    /// Tokens of its own tokenizer for 1,000 that are counted here; 1,000 if absent.
    #[serde(default = "thousand", skip_serializing_if = "is_thousand")]
    #[schema(minimum = 1)]
    tokenizer_permille: u32,
    /// Most tokens of an image in a prompt, if its size is not known. Absent: the context window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    image_tokens_max: Option<u64>,
    /// The same of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    file_tokens_max: Option<u64>,
    /// Can it think without showing it?
    #[serde(default, skip_serializing_if = "is_default")]
    hides_thoughts: bool,
    /// Who serves it.
    #[serde(deserialize_with = "list")]
    targets: Vec<TargetForm>,
    /// Models that are asked instead if a prompt is too long for this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    on_context: Vec<String>,
    /// Models that are asked instead if the provider's policy forbids a prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    on_policy: Vec<String>,
    /// Whose price counts if one of these answers: `requested`, that of this model, or `served`,
    /// that of the model that answers. Absent: `requested`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(value_type = String, pattern = "^(requested|served)$")]
    price_on_fallback: Worded<FallbackPrice>,
    /// From when on it is not sold any more.
    #[serde(default, deserialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    retires: Option<RetirementForm>,
    /// What requests may ask for though its cost cannot be known before the call, as in
    /// `[[prices]]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    sells: Vec<Worded<Extra>>,
}

/// Who serves the models of a pattern.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WildcardTargetForm {
    /// The name of a credential.
    credential: String,
    /// What the provider calls the model, with `$1` for what follows; absent: `$1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream_model: Option<String>,
}

/// Many models by a pattern: all names that begin so are sold.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WildcardForm {
    /// How the names begin, then `*`. Its card has this name.
    #[schema(example = "openrouter/*")]
    pattern: String,
    /// Who serves them.
    #[serde(deserialize_with = "object")]
    target: WildcardTargetForm,
    /// As of a model.
    #[schema(minimum = 1)]
    max_input: u64,
    /// As of a model.
    #[schema(minimum = 1)]
    max_output: u64,
    /// As of a model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    modalities: Vec<Worded<Modality>>,
    /// As of a model.
    #[serde(default = "thousand", skip_serializing_if = "is_thousand")]
    #[schema(minimum = 1)]
    tokenizer_permille: u32,
    /// As of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    image_tokens_max: Option<u64>,
    /// As of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    file_tokens_max: Option<u64>,
    /// As of a model.
    #[serde(default, skip_serializing_if = "is_default")]
    hides_thoughts: bool,
    /// As of a model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    sells: Vec<Worded<Extra>>,
}

/// The whole catalogue.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogueForm {
    /// Who serves models.
    providers: Vec<ProviderForm>,
    /// What they are called with.
    credentials: Vec<CredentialForm>,
    /// Which of their models.
    deployments: Vec<DeploymentForm>,
    /// What is sold.
    models: Vec<ModelForm>,
    /// What is sold by a pattern.
    wildcards: Vec<WildcardForm>,
}

/// An object, and no array of its fields.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|Object(value)| value)
}

fn maybe<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    let read: Option<Object<T>> = Option::deserialize(from)?;
    Ok(read.map(|Object(value)| value))
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let read: Vec<Object<T>> = Vec::deserialize(from)?;
    Ok(read.into_iter().map(|Object(value)| value).collect())
}

const fn one() -> u32 {
    1
}

const fn thousand() -> u32 {
    1_000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
const fn is_one(number: &u32) -> bool {
    *number == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
const fn is_thousand(number: &u32) -> bool {
    *number == 1_000
}

fn shared(text: &str) -> Arc<str> {
    text.into()
}

fn all_shared(texts: &[String]) -> Vec<Arc<str>> {
    texts.iter().map(|text| shared(text)).collect()
}

fn texts(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn unworded<T: Copy>(words: &[Worded<T>]) -> Vec<T> {
    words.iter().map(|Worded(one)| *one).collect()
}

fn worded<T: Copy>(values: &[T]) -> Vec<Worded<T>> {
    values.iter().map(|one| Worded(*one)).collect()
}

/// A part of the domain that has a form.
pub(super) trait Part: Sized {
    type Form: DeserializeOwned + Serialize;

    /// The part of a form, or the place within it and what is wrong there.
    fn of(form: Self::Form) -> Result<Self, (String, String)>;

    fn form(&self) -> Self::Form;
}

impl Part for ModelProvider {
    type Form = ProviderForm;

    fn of(form: ProviderForm) -> Result<Self, (String, String)> {
        let convention = form.convention.unwrap_or_default();
        Ok(ModelProvider {
            name: form.name.into(),
            dialect: form.dialect.0,
            url: form.url.map(Into::into),
            region: form.region.map(Into::into),
            cache: convention.cache.map(|Worded(counted)| counted),
            thoughts: convention.thoughts.map(|Worded(counted)| counted),
            allows_private: form.allow_private,
            cost: form.cost.map(Into::into),
        })
    }

    fn form(&self) -> ProviderForm {
        let convention =
            ConventionForm { cache: self.cache.map(Worded), thoughts: self.thoughts.map(Worded) };
        ProviderForm {
            name: self.name.to_string(),
            dialect: Worded(self.dialect),
            url: self.url.as_ref().map(ToString::to_string),
            region: self.region.as_ref().map(ToString::to_string),
            convention: (!is_default(&convention)).then_some(convention),
            allow_private: self.allows_private,
            cost: self.cost.as_ref().map(ToString::to_string),
        }
    }
}

impl Part for Credential {
    type Form = CredentialForm;

    fn of(form: CredentialForm) -> Result<Self, (String, String)> {
        Ok(Credential {
            name: form.name.into(),
            provider: form.provider.into(),
            quota_group: form.quota_group.map(Into::into),
        })
    }

    fn form(&self) -> CredentialForm {
        CredentialForm {
            name: self.name.to_string(),
            provider: self.provider.to_string(),
            quota_group: self.quota_group.as_ref().map(ToString::to_string),
        }
    }
}

impl Part for Deployment {
    type Form = DeploymentForm;

    fn of(form: DeploymentForm) -> Result<Self, (String, String)> {
        Ok(Deployment {
            name: form.name.into(),
            credential: form.credential.into(),
            upstream_model: form.upstream_model.map(Into::into),
            is_disabled: form.disabled,
            rpm: form.rpm,
            tpm: form.tpm,
            concurrency: form.concurrency,
            service: form.service_tier.0,
            cost: form.cost.map(Into::into),
        })
    }

    fn form(&self) -> DeploymentForm {
        DeploymentForm {
            name: self.name.to_string(),
            credential: self.credential.to_string(),
            upstream_model: self.upstream_model.as_ref().map(ToString::to_string),
            disabled: self.is_disabled,
            rpm: self.rpm,
            tpm: self.tpm,
            concurrency: self.concurrency,
            service_tier: Worded(self.service),
            cost: self.cost.as_ref().map(ToString::to_string),
        }
    }
}

fn target(place: usize, form: &TargetForm) -> Result<ModelTarget, (String, String)> {
    let at = match (&form.deployment, &form.credential) {
        (Some(deployment), None) => TargetAt::Deployment(shared(deployment)),
        (None, Some(credential)) => TargetAt::Credential(shared(credential)),
        _ => {
            let problem = "must name either a deployment or a credential";
            return Err((format!("targets[{place}]"), problem.into()));
        }
    };
    Ok(ModelTarget { at, weight: form.weight, priority: form.priority })
}

fn target_form(target: &ModelTarget) -> TargetForm {
    let (deployment, credential) = match &target.at {
        TargetAt::Deployment(name) => (Some(name.to_string()), None),
        TargetAt::Credential(name) => (None, Some(name.to_string())),
    };
    TargetForm { deployment, credential, weight: target.weight, priority: target.priority }
}

/// The instant of a retirement: an instant, or the beginning of a day (UTC).
fn instant(text: &str) -> Option<Timestamp> {
    match text.len() {
        10 => Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")),
        _ => Timestamp::parse_rfc3339(text),
    }
}

impl Part for SoldModel {
    type Form = ModelForm;

    fn of(form: ModelForm) -> Result<Self, (String, String)> {
        let targets = form.targets.iter().enumerate().map(|(place, form)| target(place, form));
        let retires_at = form.retires.as_ref().map(|retires| {
            let problem = "must be a date such as 2027-06-01, or an instant in RFC 3339";
            instant(&retires.at).ok_or_else(|| ("retires.at".to_owned(), problem.to_owned()))
        });
        Ok(SoldModel {
            name: shared(&form.name),
            aliases: all_shared(&form.aliases),
            max_input: form.max_input,
            max_output: form.max_output,
            modalities: unworded(&form.modalities),
            tokenizer_permille: form.tokenizer_permille,
            image_tokens_max: form.image_tokens_max,
            file_tokens_max: form.file_tokens_max,
            hides_thoughts: form.hides_thoughts,
            targets: targets.collect::<Result<_, _>>()?,
            on_context: all_shared(&form.on_context),
            on_policy: all_shared(&form.on_policy),
            price_on_fallback: form.price_on_fallback.0,
            retires_at: retires_at.transpose()?,
            successor: form.retires.and_then(|retires| retires.successor.map(Into::into)),
            sells: unworded(&form.sells),
        })
    }

    fn form(&self) -> ModelForm {
        let successor = self.successor.as_ref().map(ToString::to_string);
        ModelForm {
            name: self.name.to_string(),
            aliases: texts(&self.aliases),
            max_input: self.max_input,
            max_output: self.max_output,
            modalities: worded(&self.modalities),
            tokenizer_permille: self.tokenizer_permille,
            image_tokens_max: self.image_tokens_max,
            file_tokens_max: self.file_tokens_max,
            hides_thoughts: self.hides_thoughts,
            targets: self.targets.iter().map(target_form).collect(),
            on_context: texts(&self.on_context),
            on_policy: texts(&self.on_policy),
            price_on_fallback: Worded(self.price_on_fallback),
            retires: self.retires_at.map(|at| RetirementForm { at: at.to_rfc3339(), successor }),
            sells: worded(&self.sells),
        }
    }
}

impl Part for Wildcard {
    type Form = WildcardForm;

    fn of(form: WildcardForm) -> Result<Self, (String, String)> {
        Ok(Wildcard {
            pattern: form.pattern.into(),
            credential: form.target.credential.into(),
            upstream_model: form.target.upstream_model.map(Into::into),
            model: SoldModel {
                max_input: form.max_input,
                max_output: form.max_output,
                modalities: unworded(&form.modalities),
                tokenizer_permille: form.tokenizer_permille,
                image_tokens_max: form.image_tokens_max,
                file_tokens_max: form.file_tokens_max,
                hides_thoughts: form.hides_thoughts,
                sells: unworded(&form.sells),
                ..SoldModel::default()
            },
        })
    }

    fn form(&self) -> WildcardForm {
        WildcardForm {
            pattern: self.pattern.to_string(),
            target: WildcardTargetForm {
                credential: self.credential.to_string(),
                upstream_model: self.upstream_model.as_ref().map(ToString::to_string),
            },
            max_input: self.model.max_input,
            max_output: self.model.max_output,
            modalities: worded(&self.model.modalities),
            tokenizer_permille: self.model.tokenizer_permille,
            image_tokens_max: self.model.image_tokens_max,
            file_tokens_max: self.model.file_tokens_max,
            hides_thoughts: self.model.hides_thoughts,
            sells: worded(&self.model.sells),
        }
    }
}
