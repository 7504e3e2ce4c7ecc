//! `/api/keys*`

use std::num::NonZeroU32;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::amount::Amount;
use super::docs::id;
use super::error::{ApiError, ErrorBody, FieldError};
use super::extract::{Body, SessionUser, user_origin};
use super::repeat::{once, replay};
use super::{App, uncancelled};
use crate::auth::people::Speaker;
use crate::idempotency::Made;
use crate::keys::{KeyRequest, KeysError, NewlyMade};
use crate::store::api_keys::{KeyEdit, KeyListing};
use domain::key_policy::{LIST_MAX, MODEL_MAX, NoNetwork};
use domain::limits::LimitsChange;
use domain::route_group::Group;
use domain::{Credits, Environment, KeyId, KeyPolicy, KeyState, Network, PolicyChange, Timestamp};

/// A key to be made.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKeyBody {
    /// What its owner calls it.
    #[garde(length(chars, min = 1, max = 100), custom(is_printable))]
    #[schema(
        example = "Production API Key",
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: String,
    /// When it ends by itself; null or absent is never.
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
    /// The models it may be used for; one that ends in `*` stands for all that begin so. null or absent is all.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_items = 100, example = json!(["gpt-4o", "o3*"]))]
    allowed_models: Option<Vec<String>>,
    /// Where it may be used from: addresses, and networks in CIDR notation. null or absent is everywhere.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_items = 100, example = json!(["192.0.2.0/24", "2001:db8::7"]))]
    allowed_ips: Option<Vec<String>>,
    /// Calls a minute, beside what the account's tier allows; null or absent is no limit of its own.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    calls_per_minute: Option<NonZeroU32>,
}

/// A change of a key. What is absent stays as it is; null allows everything again.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EditKeyBody {
    /// What its owner calls it.
    #[serde(deserialize_with = "not_null")]
    #[garde(length(chars, min = 1, max = 100), inner(custom(is_printable)))]
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        nullable = false
    )]
    name: Option<String>,
    /// When it ends by itself; null is never.
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

/// A route group (Chapter 2, Access Token Protected Endpoints).
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the document")]
pub(super) enum ScopeName {
    Hub,
    Omm,
    Yggdrasil,
    V1,
}

/// The most calls a minute that a key of its own can be bound to.
const CALLS_MAX: u32 = 1_000_000;

/// A list of what is allowed; `item` says what one must be.
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
        let is_group = Group::ALL.iter().any(|group| group.name() == text);
        if is_group { Ok(text) } else { Err("must be hub, omm, yggdrasil or v1".into()) }
    })
}

fn models(texts: Vec<String>) -> Result<Vec<String>, ApiError> {
    allowed("allowed_models", texts, |text| {
        let name = text.strip_suffix('*').unwrap_or(&text);
        let is_name = !text.is_empty()
            && text.len() <= MODEL_MAX
            && !name.chars().any(|c| c.is_control() || c == '*');
        let message = "must be the name of a model, or the beginning of one and a *";
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

fn edit(body: EditKeyBody) -> Result<KeyEdit, ApiError> {
    fn read<T, U>(
        field: Option<Option<T>>,
        read: impl Fn(T) -> Result<U, ApiError>,
    ) -> Result<Option<Option<U>>, ApiError> {
        field.map(|value| value.map(read).transpose()).transpose()
    }
    Ok(KeyEdit {
        name: body.name,
        expires_at: read(body.expires_at, |text| read_time(&text))?,
        policy: PolicyChange {
            scopes: read(body.scopes, scopes)?,
            models: read(body.allowed_models, models)?,
            networks: read(body.allowed_ips, networks)?,
            calls_per_minute: read(body.calls_per_minute, calls)?,
        },
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
fn is_printable(name: &str, (): &()) -> garde::Result {
    if name.chars().any(char::is_control) {
        return Err(garde::Error::new("must not have control characters"));
    }
    Ok(())
}

/// Which of a user's two accounts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EnvironmentName {
    #[default]
    Live,
    Test,
}

impl From<EnvironmentName> for Environment {
    fn from(name: EnvironmentName) -> Self {
        match name {
            EnvironmentName::Live => Environment::Live,
            EnvironmentName::Test => Environment::Test,
        }
    }
}

/// A new key. The only answer that ever has its text.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedKey {
    #[schema(value_type = id::KeyId)]
    id: String,
    name: String,
    /// The key itself. Save it: it is shown this once.
    #[schema(example = "ps_live_...", pattern = "^ps_(live|test)_[0-9A-Za-z]{36}$")]
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

/// What a key may be used for. null is everything.
#[derive(Serialize, ToSchema)]
pub(super) struct PolicyBody {
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
pub(super) struct KeyBody {
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
    /// Is it time to make another one?
    expires_soon: bool,
    /// Until when the value that it had before its rotation is good as well.
    #[schema(format = DateTime)]
    former_value_valid_until: Option<String>,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    #[serde(flatten)]
    policy: PolicyBody,
}

impl KeyBody {
    /// What ends before `soon` ends soon.
    pub(super) fn new(key: KeyListing, soon: Timestamp) -> Self {
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

/// Makes an API key.
#[utoipa::path(post, path = "/api/keys", tag = "keys", security(("jwt" = [])),
    request_body = CreateKeyBody, responses(
    (status = 201, description = "The key, with its text for the only time", body = CreatedKey),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 403, description = "The user's email address must be verified first", body = ErrorBody),
    (status = 409, description = "The account has as many keys as it may have, or the first request with \
        this Idempotency-Key still runs", body = ErrorBody),
    (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
))]
pub(super) async fn create(
    speaker: Speaker,
    app: Data<App>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    app.people.assert_verified(&speaker)?;
    let user = speaker.user;
    let once = once(&request, &body, CreatedKey::of)?;
    let origin = user_origin(&request, &app, user.id);
    let body: CreateKeyBody = body.json()?;
    let expires_at = body.expires_at.as_deref().map(read_time).transpose()?;
    let policy = KeyPolicy {
        scopes: body.scopes.map(scopes).transpose()?,
        models: body.allowed_models.map(models).transpose()?,
        networks: body.allowed_ips.map(networks).transpose()?,
        calls_per_minute: body.calls_per_minute.map(calls).transpose()?,
    };
    let (name, environment) = (body.name, body.environment.into());
    let request = KeyRequest { name, environment, expires_at, policy };
    let created = async move { app.keys.create(user.id, request, once, origin).await };
    Ok(match uncancelled(created).await? {
        Made::New(made) => HttpResponse::Created().json(CreatedKey::of(&made)),
        Made::Repeat(kept) => replay(kept),
    })
}

impl CreatedKey {
    fn of(NewlyMade { value: key, listing }: &NewlyMade) -> Self {
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

fn read_time(text: &str) -> Result<Timestamp, ApiError> {
    Timestamp::parse_rfc3339(text).ok_or_else(|| {
        ApiError::Validation(vec![FieldError {
            field: "expires_at".into(),
            message: "must be a time of RFC 3339 such as 2024-02-15T12:00:00Z, or null".into(),
        }])
    })
}

/// Lists the user's API keys, newest first.
#[utoipa::path(get, path = "/api/keys", tag = "keys", security(("jwt" = [])), responses(
    (status = 200, description = "The keys", body = Vec<KeyBody>),
    (status = 401, description = "No valid JWT", body = ErrorBody),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let keys = app.keys.list(user.id).await?;
    let soon = app.keys.soon();
    let keys = keys.into_iter().map(|key| KeyBody::new(key, soon));
    Ok(HttpResponse::Ok().json(keys.collect::<Vec<_>>()))
}

/// The id in the path. What cannot be an id is answered like one that does not exist.
fn key_id(path: &Path<String>) -> Result<KeyId, ApiError> {
    path.parse().map_err(|_| KeysError::NotFound.into())
}

/// One of the user's API keys.
#[utoipa::path(get, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 200, description = "The key", body = KeyBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn get(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let key = app.keys.get(user.id, key_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, app.keys.soon())))
}

/// Changes what an API key is called and may be used for. Binds for the very next call.
#[utoipa::path(patch, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), request_body = EditKeyBody, responses(
    (status = 200, description = "The key", body = KeyBody),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn change(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let origin = user_origin(&request, &app, user.id);
    // For the audit log: nothing in it is a secret.
    let detail =
        String::from_utf8_lossy(body.raw()).split_whitespace().collect::<Vec<_>>().join(" ");
    let edit = edit(body.json()?)?;
    let soon = app.keys.soon();
    let changed = async move { app.keys.edit(user.id, id, edit, detail, origin).await };
    let key = uncancelled(changed).await?;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, soon)))
}

/// A rotation.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RotateKeyBody {
    /// How long the value that the key has now stays good, in seconds; a day where absent, 0 ends it at once.
    #[garde(range(max = GRACE_MAX_SECONDS))]
    #[schema(minimum = 0, maximum = 2_592_000, example = 86_400)]
    grace_seconds: Option<u32>,
}

/// 30 days.
const GRACE_MAX_SECONDS: u32 = 2_592_000;
const GRACE_SECONDS: u32 = 86_400;

/// A key with its new value. The only answer that ever has it.
#[derive(Serialize, ToSchema)]
pub(super) struct RotatedKey {
    #[serde(flatten)]
    key: CreatedKey,
    /// Until when the value before is good as well.
    #[schema(format = DateTime)]
    former_value_valid_until: Option<String>,
}

/// Gives an API key another value. Its limits, counters and history stay. The body may be left out.
#[utoipa::path(post, path = "/api/keys/{id}/rotate", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), request_body = Option<RotateKeyBody>, responses(
    (status = 200, description = "The key, with its new value for the only time", body = RotatedKey),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
    (status = 409, description = "The key is out of use, or was changed at the same time", body = ErrorBody),
))]
pub(super) async fn rotate(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let origin = user_origin(&request, &app, user.id);
    let RotateKeyBody { grace_seconds } = body.json_or_nothing()?.unwrap_or_default();
    let seconds = i64::from(grace_seconds.unwrap_or(GRACE_SECONDS));
    let grace_micros = seconds.saturating_mul(1_000_000);
    let rotated = async move { app.keys.rotate(user.id, id, grace_micros, origin).await };
    let made = uncancelled(rotated).await?;
    let former_value_valid_until = made.listing.former_valid_until.map(Timestamp::to_rfc3339);
    let key = CreatedKey::of(&made);
    Ok(HttpResponse::Ok().json(RotatedKey { key, former_value_valid_until }))
}

/// Puts an API key out of use. Binds for the very next call.
#[utoipa::path(post, path = "/api/keys/{id}/revoke", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 200, description = "The key, out of use", body = KeyBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn revoke(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let origin = user_origin(&request, &app, user.id);
    let soon = app.keys.soon();
    let revoked = async move { app.keys.revoke(user.id, id, origin).await };
    let key = uncancelled(revoked).await?;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, soon)))
}

/// Deletes an API key. Binds for the very next call.
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn delete(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let origin = user_origin(&request, &app, user.id);
    let deleted = async move { app.keys.delete(user.id, id, origin).await };
    uncancelled(deleted).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Spending limits to be set. An absent one stays as it is, null takes it away.
#[expect(clippy::struct_field_names, reason = "the chapter's names")]
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsBody {
    /// USD a UTC day.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 1.00, minimum = 0, maximum = 9_223_372_036_u64)]
    daily_limit: Option<Option<Amount>>,
    /// USD a UTC month.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 10.00, minimum = 0, maximum = 9_223_372_036_u64)]
    monthly_limit: Option<Option<Amount>>,
    /// USD a call.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 0.05, minimum = 0, maximum = 9_223_372_036_u64)]
    per_request_limit: Option<Option<Amount>>,
    /// USD in all, for as long as the key lives.
    #[serde(default, deserialize_with = "present")]
    #[garde(custom(not_negative))]
    #[schema(value_type = Option<f64>, example = 100.00, minimum = 0, maximum = 9_223_372_036_u64)]
    total_limit: Option<Option<Amount>>,
}

/// Takes absent, but not null.
fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Tells null from absent.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn not_negative(limit: &Option<Option<Amount>>, (): &()) -> garde::Result {
    match limit {
        Some(Some(Amount(credits))) if credits.is_negative() => {
            Err(garde::Error::new("must not be negative"))
        }
        _ => Ok(()),
    }
}

/// A spending limit that counts in a window.
#[derive(Serialize, ToSchema)]
pub(super) struct WindowLimit {
    /// null is no limit.
    limit: Option<Amount>,
    /// Charged in the window, and held by calls that run.
    spent: Amount,
    /// null is no limit.
    remaining: Option<Amount>,
    /// When the window ends and counting begins anew.
    #[schema(format = DateTime)]
    resets_at: String,
}

/// A spending limit of each call.
#[derive(Serialize, ToSchema)]
pub(super) struct RequestLimit {
    /// null is no limit.
    limit: Option<Amount>,
}

/// A spending limit that counts for as long as the key lives.
#[derive(Serialize, ToSchema)]
pub(super) struct TotalLimit {
    /// null is no limit.
    limit: Option<Amount>,
    /// Charged, and held by calls that run.
    spent: Amount,
    /// null is no limit.
    remaining: Option<Amount>,
}

/// The spending limits of a key.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsAnswer {
    #[schema(value_type = id::KeyId)]
    key_id: String,
    /// `USD`
    currency: &'static str,
    daily_limit: Option<Amount>,
    monthly_limit: Option<Amount>,
    per_request_limit: Option<Amount>,
    total_limit: Option<Amount>,
    daily: WindowLimit,
    monthly: WindowLimit,
    per_request: RequestLimit,
    total: TotalLimit,
}

impl LimitsAnswer {
    fn new(key: &KeyState, now: Timestamp) -> Self {
        let (day, month) = key.windows(now);
        let (day_spent, month_spent) = key.committed(now);
        let in_all = key.committed_in_all();
        let window = |limit: Option<Credits>, spent: Credits, ends_at: Timestamp| WindowLimit {
            limit: limit.map(Amount),
            spent: Amount(spent),
            remaining: limit.map(|limit| Amount(limit.less(spent))),
            resets_at: ends_at.to_rfc3339(),
        };
        LimitsAnswer {
            key_id: key.id.to_string(),
            currency: "USD",
            daily_limit: key.limits.daily.map(Amount),
            monthly_limit: key.limits.monthly.map(Amount),
            per_request_limit: key.limits.per_request.map(Amount),
            total_limit: key.limits.total.map(Amount),
            daily: window(key.limits.daily, day_spent, day.ends_at()),
            monthly: window(key.limits.monthly, month_spent, month.ends_at()),
            per_request: RequestLimit { limit: key.limits.per_request.map(Amount) },
            total: TotalLimit {
                limit: key.limits.total.map(Amount),
                spent: Amount(in_all),
                remaining: key.limits.total.map(|limit| Amount(limit.less(in_all))),
            },
        }
    }
}

/// Sets the spending limits of an API key. Binds for the very next call.
#[utoipa::path(put, path = "/api/keys/{id}/limits", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), request_body = LimitsBody, responses(
    (status = 200, description = "The limits", body = LimitsAnswer),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn set_limits(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let origin = user_origin(&request, &app, user.id);
    let limits: LimitsBody = body.json()?;
    let credits =
        |limit: Option<Option<Amount>>| limit.map(|limit| limit.map(|Amount(credits)| credits));
    let change = LimitsChange {
        per_request: credits(limits.per_request_limit),
        daily: credits(limits.daily_limit),
        monthly: credits(limits.monthly_limit),
        total: credits(limits.total_limit),
    };
    let set = async move { app.keys.set_limits(user.id, id, change, origin).await };
    let (key, now) = uncancelled(set).await?;
    Ok(HttpResponse::Ok().json(LimitsAnswer::new(&key, now)))
}

/// The spending limits of an API key, and what is left of them.
#[utoipa::path(get, path = "/api/keys/{id}/limits", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 200, description = "The limits", body = LimitsAnswer),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn limits(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (key, now) = app.keys.limits(user.id, key_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(LimitsAnswer::new(&key, now)))
}
