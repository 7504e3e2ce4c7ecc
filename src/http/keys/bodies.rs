//! What `/api/keys*` reads and answers, but for limits.

use std::num::NonZeroU32;

use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::LimitsBody;
use crate::http::docs::id;
use crate::http::environment::EnvironmentName;
use crate::http::error::ApiError;
use crate::http::validation::{is_printable, not_null, present};
use crate::json::object_or_null;
use crate::keys::{KeyRequest, NewlyMade};
use crate::store::keys::KeyListing;
use domain::key_policy::{LIST_MAX, MODEL_MAX, NoNetwork};
use domain::route_group::RouteGroup;
use domain::{Environment, KeyEdit, KeyPolicy, Network, PolicyChange, Timestamp};

/// A new key.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKeyBody {
    /// The name that its owner has given it.
    #[garde(length(chars, min = 1, max = 100), custom(is_printable))]
    #[schema(
        example = "Production API Key",
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: String,
    /// When it expires; null or absent is never.
    #[serde(default)]
    #[garde(skip)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// `live` spends real credits, `test` test credits.
    #[serde(default)]
    #[garde(skip)]
    environment: EnvironmentName,
    /// The route groups it may be used for; null or absent is all.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Option<Vec<ScopeName>>, max_items = 100)]
    scopes: Option<Vec<String>>,
    /// The models it may be used for. A name that ends in `*` is a prefix. null or absent is all.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_items = 100, example = json!(["gpt-4o", "o3*"]))]
    allowed_models: Option<Vec<String>>,
    /// The addresses, and networks in CIDR notation, that it may be used from. null or absent is
    /// all.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_items = 100, example = json!(["192.0.2.0/24", "2001:db8::7"]))]
    allowed_ips: Option<Vec<String>>,
    /// Calls a minute, in addition to the limit of the account's tier; null or absent is no limit
    /// of its own.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    calls_per_minute: Option<NonZeroU32>,
    /// What it may spend, from its first call on; null or absent is no limit.
    #[serde(default, deserialize_with = "object_or_null")]
    #[garde(dive)]
    limits: Option<LimitsBody>,
}

/// A change of a key. What is absent stays as it is; null allows everything again.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EditKeyBody {
    /// The name that its owner has given it.
    #[serde(deserialize_with = "not_null")]
    #[garde(length(chars, min = 1, max = 100), inner(custom(is_printable)))]
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        nullable = false
    )]
    name: Option<String>,
    /// When it expires; null is never.
    #[serde(deserialize_with = "present")]
    #[garde(skip)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<String>>,
    /// See the same field of a new key.
    #[serde(deserialize_with = "present")]
    #[garde(skip)]
    #[schema(value_type = Option<Vec<ScopeName>>, max_items = 100)]
    scopes: Option<Option<Vec<String>>>,
    /// See the same field of a new key.
    #[serde(deserialize_with = "present")]
    #[garde(skip)]
    #[schema(value_type = Option<Vec<String>>, max_items = 100)]
    allowed_models: Option<Option<Vec<String>>>,
    /// See the same field of a new key.
    #[serde(deserialize_with = "present")]
    #[garde(skip)]
    #[schema(value_type = Option<Vec<String>>, max_items = 100)]
    allowed_ips: Option<Option<Vec<String>>>,
    /// See the same field of a new key.
    #[serde(deserialize_with = "present")]
    #[garde(skip)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    calls_per_minute: Option<Option<NonZeroU32>>,
}

/// A route group.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the document")]
pub(in crate::http) enum ScopeName {
    Hub,
    Omm,
    Yggdrasil,
    V1,
}

/// The highest limit of calls a minute that a key can have.
const CALLS_MAX: u32 = 1_000_000;

/// A list of what is allowed; `item` reads one entry, or says what it must be.
fn allowed<T>(
    field: &str,
    texts: Vec<String>,
    item: impl Fn(String) -> Result<T, String>,
) -> Result<Vec<T>, ApiError> {
    if texts.len() > LIST_MAX {
        return Err(ApiError::field(field, format!("must have at most {LIST_MAX} entries")));
    }
    let items = texts.into_iter().enumerate().map(|(place, text)| {
        item(text).map_err(|message| ApiError::field(&format!("{field}[{place}]"), message))
    });
    items.collect()
}

fn scopes(texts: Vec<String>) -> Result<Vec<String>, ApiError> {
    allowed("scopes", texts, |text| {
        let is_group = RouteGroup::ALL.iter().any(|group| group.name() == text);
        if is_group { Ok(text) } else { Err("must be hub, omm, yggdrasil or v1".into()) }
    })
}

fn models(texts: Vec<String>) -> Result<Vec<String>, ApiError> {
    allowed("allowed_models", texts, |text| {
        let name = text.strip_suffix('*').unwrap_or(&text);
        let is_name = !text.is_empty()
            && text.len() <= MODEL_MAX
            && !name.chars().any(|c| c.is_control() || c == '*');
        let message = "must be the name of a model, or a prefix that ends in *";
        if is_name { Ok(text) } else { Err(message.into()) }
    })
}

fn networks(texts: Vec<String>) -> Result<Vec<Network>, ApiError> {
    allowed("allowed_ips", texts, |text| text.parse().map_err(|error: NoNetwork| error.to_string()))
}

fn calls(calls: NonZeroU32) -> Result<NonZeroU32, ApiError> {
    if calls.get() <= CALLS_MAX {
        return Ok(calls);
    }
    Err(ApiError::field("calls_per_minute", format!("must be from 1 to {CALLS_MAX}")))
}

impl CreateKeyBody {
    pub(super) fn request(self) -> Result<KeyRequest, ApiError> {
        let expires_at = self.expires_at.as_deref().map(read_time).transpose()?;
        let policy = KeyPolicy {
            scopes: self.scopes.map(scopes).transpose()?,
            models: self.allowed_models.map(models).transpose()?,
            networks: self.allowed_ips.map(networks).transpose()?,
            calls_per_minute: self.calls_per_minute.map(calls).transpose()?,
        };
        let (name, environment) = (self.name, self.environment.into());
        let limits = self.limits.map(LimitsBody::change).unwrap_or_default();
        Ok(KeyRequest { name, environment, expires_at, policy, limits })
    }
}

impl EditKeyBody {
    /// The names of the fields that it changes.
    pub(super) fn changed(&self) -> String {
        let fields = [
            ("name", self.name.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("scopes", self.scopes.is_some()),
            ("allowed_models", self.allowed_models.is_some()),
            ("allowed_ips", self.allowed_ips.is_some()),
            ("calls_per_minute", self.calls_per_minute.is_some()),
        ];
        let changed = fields.into_iter().filter(|(_, is_changed)| *is_changed);
        changed.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn edit(self) -> Result<KeyEdit, ApiError> {
        Ok(KeyEdit {
            name: self.name,
            expires_at: nullable(self.expires_at, |text| read_time(&text))?,
            policy: PolicyChange {
                scopes: nullable(self.scopes, scopes)?,
                models: nullable(self.allowed_models, models)?,
                networks: nullable(self.allowed_ips, networks)?,
                calls_per_minute: nullable(self.calls_per_minute, calls)?,
            },
        })
    }
}

/// Reads the value of a field that may be absent or null.
fn nullable<T, U>(
    field: Option<Option<T>>,
    read: impl Fn(T) -> Result<U, ApiError>,
) -> Result<Option<Option<U>>, ApiError> {
    field.map(|value| value.map(read).transpose()).transpose()
}

fn read_time(text: &str) -> Result<Timestamp, ApiError> {
    let message = "must be a time of RFC 3339 such as 2024-02-15T12:00:00Z, or null";
    Timestamp::parse_rfc3339(text).ok_or_else(|| ApiError::field("expires_at", message))
}

/// A new key with its value, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedKey {
    #[schema(value_type = id::KeyId)]
    id: String,
    name: String,
    /// The key itself. Save it: it is shown this once.
    #[schema(pattern = "^ps_(live|test)_[0-9A-Za-z]{36}$")]
    key_value: String,
    is_active: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    key_value_preview: String,
    #[serde(flatten)]
    policy: PolicyBody,
}

/// What a key may be used for. null allows everything.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PolicyBody {
    /// Route groups.
    #[schema(value_type = Option<Vec<ScopeName>>)]
    scopes: Option<Vec<String>>,
    allowed_models: Option<Vec<String>>,
    allowed_ips: Option<Vec<String>>,
    calls_per_minute: Option<u32>,
}

impl From<&KeyPolicy> for PolicyBody {
    fn from(policy: &KeyPolicy) -> Self {
        let texts = |networks: &Vec<Network>| networks.iter().map(Network::to_string).collect();
        PolicyBody {
            scopes: policy.scopes.clone(),
            allowed_models: policy.models.clone(),
            allowed_ips: policy.networks.as_ref().map(texts),
            calls_per_minute: policy.calls_per_minute.map(NonZeroU32::get),
        }
    }
}

/// A key, as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct KeyBody {
    #[schema(value_type = id::KeyId)]
    id: String,
    name: String,
    /// Its first and last characters.
    key_value_preview: String,
    is_active: bool,
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Is it time to replace it?
    expires_soon: bool,
    /// Until when the value from before its rotation is valid as well.
    #[schema(format = DateTime)]
    former_value_valid_until: Option<String>,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    #[serde(flatten)]
    policy: PolicyBody,
}

impl KeyBody {
    /// `soon` is the time before which a key expires soon.
    pub(in crate::http) fn new(key: KeyListing, soon: Timestamp) -> Self {
        let environment = Environment::of_key(&key.preview);
        KeyBody {
            id: key.id.to_string(),
            name: key.name,
            key_value_preview: key.preview,
            is_active: key.is_active,
            last_used_at: key.last_used_at.map(Timestamp::to_rfc3339),
            created_at: key.created_at.to_rfc3339(),
            expires_at: key.expires_at.map(Timestamp::to_rfc3339),
            expires_soon: key.expires_at.is_some_and(|expires_at| expires_at <= soon),
            former_value_valid_until: key.former_valid_until.map(Timestamp::to_rfc3339),
            environment: environment.name(),
            policy: PolicyBody::from(&key.policy),
        }
    }
}

impl CreatedKey {
    pub(super) fn of(NewlyMade { value: key, listing }: &NewlyMade) -> Self {
        CreatedKey {
            id: listing.id.to_string(),
            name: listing.name.clone(),
            key_value: key.expose().to_owned(),
            is_active: listing.is_active,
            created_at: listing.created_at.to_rfc3339(),
            expires_at: listing.expires_at.map(Timestamp::to_rfc3339),
            environment: key.environment().name(),
            key_value_preview: listing.preview.clone(),
            policy: PolicyBody::from(&listing.policy),
        }
    }
}

/// A rotation.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RotateKeyBody {
    /// How long the current value stays valid, in seconds; a day if absent, and 0 ends it at once.
    #[garde(range(max = GRACE_MAX_SECONDS))]
    #[schema(minimum = 0, maximum = 2_592_000, example = 86_400)]
    grace_seconds: Option<u32>,
}

/// 30 days.
const GRACE_MAX_SECONDS: u32 = 2_592_000;
const GRACE_SECONDS: u32 = 86_400;

/// A key with its new value, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct RotatedKey {
    #[serde(flatten)]
    key: CreatedKey,
    /// Until when the previous value is valid as well.
    #[schema(format = DateTime)]
    former_value_valid_until: Option<String>,
}

impl RotateKeyBody {
    pub(super) fn grace_micros(&self) -> i64 {
        i64::from(self.grace_seconds.unwrap_or(GRACE_SECONDS)).saturating_mul(1_000_000)
    }
}

impl RotatedKey {
    pub(super) fn of(made: &NewlyMade) -> Self {
        let former_value_valid_until = made.listing.former_valid_until.map(Timestamp::to_rfc3339);
        RotatedKey { key: CreatedKey::of(made), former_value_valid_until }
    }
}
