//! `/api/keys*`

use std::sync::Arc;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};

use super::answers::created;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AuditedUser, SessionUser, WithBody, user_origin};
use super::repeat::{once, replay};
use super::{App, uncancelled};
use crate::auth::sessions::CurrentSession;
use crate::idempotency::Made;
use crate::keys::{KeysError, NewlyMade};
use domain::KeyId;

mod bodies;
pub(super) mod limits;

pub(super) use super::environment::EnvironmentName;
pub(super) use bodies::KeyBody;
use bodies::{CreateKeyBody, CreatedKey, EditKeyBody, RotateKeyBody, RotatedKey};

/// Makes an API key.
#[utoipa::path(post, path = "/api/keys", tag = "keys", security(("jwt" = [])),
    request_body = CreateKeyBody, responses(
    (status = 201, description = "The key with its value, which is shown this once", body = CreatedKey),
    (status = 403, description = "The user is suspended, or their email address must be verified first", body = ErrorBody),
    (status = 409, description = "The account has reached its limit of keys, or the first request with \
        this Idempotency-Key still runs", body = ErrorBody),
    (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
))]
pub(super) async fn create(
    WithBody(speaker, body): WithBody<CurrentSession>,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    app.users.assert_verified(&speaker)?;
    let CurrentSession { user, session, .. } = speaker;
    let once = once(&request, &body, CreatedKey::of, location)?;
    let origin = user_origin(&request, &app, user.id);
    let body: CreateKeyBody = body.json()?;
    let request = body.request()?;
    let users = Arc::clone(&app.users);
    let creating = async move {
        let made = app.keys.create(user.id, session, request, once, origin).await;
        if let Ok(Made::New(made)) = &made {
            users.tell_of_key(&user, &made.listing);
        }
        made
    };
    Ok(match uncancelled(creating).await? {
        Made::New(made) => created(&location(&made)).json(CreatedKey::of(&made)),
        Made::Repeat(kept) => replay(kept),
    })
}

/// Where a key is.
fn location(made: &NewlyMade) -> String {
    format!("/api/keys/{}", made.listing.id)
}

/// Lists the user's API keys, newest first.
#[utoipa::path(get, path = "/api/keys", tag = "keys", security(("jwt" = [])), responses(
    (status = 200, description = "The keys", body = Vec<KeyBody>),
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

/// The id in the path. A malformed id is answered like one that does not exist.
fn key_id(path: &Path<String>) -> Result<KeyId, ApiError> {
    path.parse().map_err(|_| KeysError::NotFound.into())
}

/// One of the user's API keys.
#[utoipa::path(get, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 200, description = "The key", body = KeyBody),
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

/// Changes the name of an API key and what it may be used for. Binds for the very next call.
#[utoipa::path(patch, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), request_body = EditKeyBody, responses(
    (status = 200, description = "The key", body = KeyBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn change(
    WithBody(AuditedUser { user, origin }, body): WithBody<AuditedUser>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let body = body.json::<EditKeyBody>()?;
    let (detail, edit) = (body.changed(), body.edit()?);
    let soon = app.keys.soon();
    let changed = async move { app.keys.edit(user.id, id, edit, detail, origin).await };
    let key = uncancelled(changed).await?;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, soon)))
}

/// Replaces the value of an API key. Its limits, counters and history stay. Values from earlier
/// rotations end at once. The body may be left out.
#[utoipa::path(post, path = "/api/keys/{id}/rotate", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), request_body = Option<RotateKeyBody>, responses(
    (status = 200, description = "The key with its new value, which is shown this once", body = RotatedKey),
    (status = 404, description = "The user has no such key", body = ErrorBody),
    (status = 409, description = "The key has been revoked, or was changed at the same time", body = ErrorBody),
))]
pub(super) async fn rotate(
    WithBody(AuditedUser { user, origin }, body): WithBody<AuditedUser>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let body: RotateKeyBody = body.json_or_nothing()?.unwrap_or_default();
    let grace_micros = body.grace_micros();
    let (users, address) = (Arc::clone(&app.users), origin.address.clone());
    let rotated = async move {
        let made = app.keys.rotate(user.id, id, grace_micros, origin).await?;
        users.tell_of_rotation(&user, &made.listing, &address);
        Ok::<_, KeysError>(made)
    };
    let made = uncancelled(rotated).await?;
    Ok(HttpResponse::Ok().json(RotatedKey::of(&made)))
}

/// Revokes an API key. Binds for the very next call.
#[utoipa::path(post, path = "/api/keys/{id}/revoke", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 200, description = "The key, revoked", body = KeyBody),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn revoke(
    AuditedUser { user, origin }: AuditedUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let soon = app.keys.soon();
    let revoked = async move { app.keys.revoke(user.id, id, String::new(), origin).await };
    let key = uncancelled(revoked).await?;
    Ok(HttpResponse::Ok().json(KeyBody::new(key, soon)))
}

/// Deletes an API key. Binds for the very next call.
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "keys", security(("jwt" = [])),
    params(("id" = id::KeyId, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "The user has no such key", body = ErrorBody),
))]
pub(super) async fn delete(
    AuditedUser { user, origin }: AuditedUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = key_id(&id)?;
    let deleted = async move { app.keys.delete(user.id, id, origin).await };
    uncancelled(deleted).await?;
    Ok(HttpResponse::NoContent().finish())
}
