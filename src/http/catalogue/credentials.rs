//! `/api/admin/credentials*`: the secrets that providers are called with. They are written, and
//! never read.

use actix_web::HttpResponse;
use actix_web::http::header::ETAG;
use actix_web::web::{Data, Path};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::etag;
use crate::catalogue::{CatalogueError, CredentialView, NewSecret, Request};
use crate::config::Secret;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{AdminUser, ConfirmedAdmin, WithBody};
use crate::http::{App, uncancelled};
use crate::models::document::file::is_secret;

/// A credential, without its secret.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct CredentialBody {
    name: String,
    provider: String,
    /// null: its own.
    quota_group: Option<String>,
    /// The end of the secret; empty if it is short.
    hint: String,
    /// May the secret be used?
    enabled: bool,
    /// Is there a secret, here or in a file?
    has_secret: bool,
    /// When the secret was set; null: there is none, or it is in a file.
    #[schema(format = DateTime)]
    rotated_at: Option<String>,
}

impl From<CredentialView> for CredentialBody {
    fn from(view: CredentialView) -> Self {
        CredentialBody {
            name: view.name,
            provider: view.provider,
            quota_group: view.quota_group,
            hint: view.hint,
            enabled: view.is_enabled,
            has_secret: view.has_secret,
            rotated_at: view.rotated_at.map(domain::Timestamp::to_rfc3339),
        }
    }
}

/// All credentials.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct CredentialsList {
    credentials: Vec<CredentialBody>,
}

/// All credentials, by name. No secret is among what is answered.
#[utoipa::path(get, path = "/api/admin/credentials", tag = "catalogue", security(("jwt" = [])),
    responses(
    (status = 200, description = "All of them", body = CredentialsList),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(in crate::http) async fn list(_: AdminUser, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let credentials = app.catalogue.credentials().await?;
    let credentials = credentials.into_iter().map(CredentialBody::from).collect();
    Ok(HttpResponse::Ok().json(CredentialsList { credentials }))
}

/// The revision in force after a change of a secret.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct CredentialAnswer {
    name: String,
    /// The revision of the catalogue.
    revision: u64,
}

async fn answer(
    name: String,
    change: impl Future<Output = Result<u64, CatalogueError>> + 'static,
) -> Result<HttpResponse, ApiError> {
    let revision = uncancelled(change).await?;
    let header = (ETAG, etag(revision));
    Ok(HttpResponse::Ok().insert_header(header).json(CredentialAnswer { name, revision }))
}

fn request_of(operator: AdminUser) -> Request {
    let AdminUser { id: author, origin, .. } = operator;
    Request { expected: None, is_dry_run: false, note: String::new(), author, origin }
}

#[expect(
    clippy::ptr_arg,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde calls"
)]
fn is_sendable(secret: &String, (): &()) -> garde::Result {
    if is_secret(secret) {
        Ok(())
    } else {
        Err(garde::Error::new("must have 1 to 4096 visible characters of ASCII, without spaces"))
    }
}

/// A secret of a credential, which is made if it is not there.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CredentialSetBody {
    /// The name of its provider, which must be there.
    #[garde(length(min = 1, max = 128))]
    #[schema(example = "anthropic", min_length = 1, max_length = 128)]
    provider: String,
    /// The secret.
    #[garde(custom(is_sendable))]
    #[schema(min_length = 1, max_length = 4096, pattern = "^[!-~]*$")]
    secret: String,
    /// Credentials of one group share the limits of their provider. null or absent: as it is.
    #[serde(default)]
    #[garde(skip)]
    quota_group: Option<String>,
}

/// Sets the secret of a credential. If the credential is not in the catalogue, or is of another
/// provider there, the catalogue gets a new revision.
#[utoipa::path(put, path = "/api/admin/credentials/{name}", tag = "catalogue", security(("jwt" = [])),
    params(("name" = String, Path)), request_body = CredentialSetBody, responses(
    (status = 200, description = "Set", body = CredentialAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
))]
pub(in crate::http) async fn set(
    WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked = request_of(operator);
    let CredentialSetBody { provider, secret, quota_group } = body.json()?;
    let name = name.into_inner();
    let new = NewSecret { name: name.clone(), provider, secret: Secret::from(secret), quota_group };
    answer(name, async move { app.catalogue.set_secret(&asked, new).await }).await
}

/// Another secret.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CredentialRotateBody {
    /// The secret.
    #[garde(custom(is_sendable))]
    #[schema(min_length = 1, max_length = 4096, pattern = "^[!-~]*$")]
    secret: String,
}

/// Gives a credential another secret. Calls that run keep the one that they began with.
#[utoipa::path(post, path = "/api/admin/credentials/{name}/rotate", tag = "catalogue",
    security(("jwt" = [])), params(("name" = String, Path)), request_body = CredentialRotateBody,
    responses(
    (status = 200, description = "Rotated", body = CredentialAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No credential with this name has a secret", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
))]
pub(in crate::http) async fn rotate(
    WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked = request_of(operator);
    let CredentialRotateBody { secret } = body.json()?;
    let (name, secret) = (name.into_inner(), Secret::from(secret));
    let own = name.clone();
    answer(name, async move { app.catalogue.rotate_secret(&asked, &own, &secret).await }).await
}

/// Lets the secret of a credential be used again.
#[utoipa::path(post, path = "/api/admin/credentials/{name}/enable", tag = "catalogue",
    security(("jwt" = [])), params(("name" = String, Path)), responses(
    (status = 200, description = "Enabled", body = CredentialAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No credential with this name has a secret", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
))]
pub(in crate::http) async fn enable(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    set_enabled(operator, app, name.into_inner(), true).await
}

/// Stops the use of a credential's secret, for the very next call.
#[utoipa::path(post, path = "/api/admin/credentials/{name}/disable", tag = "catalogue",
    security(("jwt" = [])), params(("name" = String, Path)), responses(
    (status = 200, description = "Disabled", body = CredentialAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No credential with this name has a secret", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
))]
pub(in crate::http) async fn disable(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    set_enabled(operator, app, name.into_inner(), false).await
}

async fn set_enabled(
    operator: AdminUser,
    app: Data<App>,
    name: String,
    is_enabled: bool,
) -> Result<HttpResponse, ApiError> {
    let asked = request_of(operator);
    let own = name.clone();
    answer(name, async move { app.catalogue.enable_secret(&asked, &own, is_enabled).await }).await
}

/// Deletes a credential that nothing uses, with its secret.
#[utoipa::path(delete, path = "/api/admin/credentials/{name}", tag = "catalogue",
    security(("jwt" = [])), params(("name" = String, Path)), responses(
    (status = 200, description = "Deleted", body = CredentialAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such credential", body = ErrorBody),
    (status = 409, description = "It is used, or the catalogue is a file", body = ErrorBody),
))]
pub(in crate::http) async fn delete(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked = request_of(operator);
    let name = name.into_inner();
    let own = name.clone();
    answer(name, async move { app.catalogue.delete_credential(&asked, &own).await }).await
}
