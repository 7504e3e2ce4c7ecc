//! `/api/keys*`

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::amount::Amount;
use super::error::{ApiError, ErrorBody, FieldError};
use super::extract::{Body, SessionUser, user_origin};
use super::repeat::{once, replay};
use super::{App, uncancelled};
use crate::auth::keys::{KeyRequest, KeysError, NewlyMade};
use crate::domain::limits::LimitsChange;
use crate::domain::{Credits, Environment, KeyId, KeyState, Timestamp};
use crate::idempotency::Made;
use crate::store::api_keys::KeyListing;

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
    #[schema(value_type = KeyId)]
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
}

/// A key, as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyBody {
    #[schema(value_type = KeyId)]
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
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
}

impl KeyBody {
    /// What ends before `soon` ends soon.
    pub(super) fn new(key: KeyListing, soon: Timestamp) -> Self {
        let environment = if key.preview.starts_with(Environment::Test.key_prefix()) {
            Environment::Test
        } else {
            Environment::Live
        };
        KeyBody {
            id: key.id.to_string(),
            name: key.name,
            key_value_preview: key.preview,
            is_active: key.is_active,
            last_used_at: key.last_used_at.map(Timestamp::to_rfc3339),
            created_at: key.created_at.to_rfc3339(),
            expires_at: key.expires_at.map(Timestamp::to_rfc3339),
            expires_soon: key.expires_at.is_some_and(|expires_at| expires_at <= soon),
            environment: environment.name(),
        }
    }
}

/// Makes an API key.
#[utoipa::path(post, path = "/api/keys", tag = "keys", security(("jwt" = [])),
    request_body = CreateKeyBody, responses(
    (status = 201, description = "The key, with its text for the only time", body = CreatedKey),
    (status = 400, description = "A field is not valid", body = ErrorBody),
    (status = 401, description = "No valid JWT", body = ErrorBody),
    (status = 409, description = "The account has as many keys as it may have, or the first request with \
        this Idempotency-Key still runs", body = ErrorBody),
    (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
))]
pub(super) async fn create(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let once = once(&request, &body, CreatedKey::of)?;
    let origin = user_origin(&request, &app, user.id);
    let CreateKeyBody { name, expires_at, environment } = body.json()?;
    let expires_at = expires_at.as_deref().map(read_time).transpose()?;
    let request = KeyRequest { name, environment: environment.into(), expires_at };
    let created = async move { app.keys.create(user.id, request, once, origin).await };
    Ok(match uncancelled(created).await?? {
        Made::New(made) => HttpResponse::Created().json(CreatedKey::of(&made)),
        Made::Repeat(kept) => replay(kept),
    })
}

impl CreatedKey {
    fn of((key, listing): &NewlyMade) -> Self {
        CreatedKey {
            id: listing.id.to_string(),
            name: listing.name.clone(),
            key_value: key.expose().to_owned(),
            is_active: listing.is_active,
            created_at: listing.created_at.to_rfc3339(),
            expires_at: listing.expires_at.map(Timestamp::to_rfc3339),
            environment: key.environment().name(),
            key_value_preview: listing.preview.clone(),
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
    params(("id" = KeyId, Path)), responses(
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

/// Puts an API key out of use. Binds for the very next call.
#[utoipa::path(post, path = "/api/keys/{id}/revoke", tag = "keys", security(("jwt" = [])),
    params(("id" = KeyId, Path)), responses(
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
    let key = uncancelled(revoked).await??;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, soon)))
}

/// Deletes an API key. Binds for the very next call.
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = KeyId, Path)), responses(
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
    uncancelled(deleted).await??;
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
}

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Amount>>, D::Error> {
    Option::<Amount>::deserialize(deserializer).map(Some)
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

/// The spending limits of a key.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsAnswer {
    #[schema(value_type = KeyId)]
    key_id: String,
    /// `USD`
    currency: &'static str,
    daily_limit: Option<Amount>,
    monthly_limit: Option<Amount>,
    per_request_limit: Option<Amount>,
    daily: WindowLimit,
    monthly: WindowLimit,
    per_request: RequestLimit,
}

impl LimitsAnswer {
    fn new(key: &KeyState, now: Timestamp) -> Self {
        let (day, month) = key.windows(now);
        let (day_spent, month_spent) = key.committed(now);
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
            daily: window(key.limits.daily, day_spent, day.ends_at()),
            monthly: window(key.limits.monthly, month_spent, month.ends_at()),
            per_request: RequestLimit { limit: key.limits.per_request.map(Amount) },
        }
    }
}

/// Sets the spending limits of an API key. Binds for the very next call.
#[utoipa::path(put, path = "/api/keys/{id}/limits", tag = "keys", security(("jwt" = [])),
    params(("id" = KeyId, Path)), request_body = LimitsBody, responses(
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
    };
    let set = async move { app.keys.set_limits(user.id, id, change, origin).await };
    let (key, now) = uncancelled(set).await??;
    Ok(HttpResponse::Ok().json(LimitsAnswer::new(&key, now)))
}

/// The spending limits of an API key, and what is left of them.
#[utoipa::path(get, path = "/api/keys/{id}/limits", tag = "keys", security(("jwt" = [])),
    params(("id" = KeyId, Path)), responses(
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
