//! `/api/admin/{providers,deployments,models}*`: single parts of the document. A write is one
//! revision of the whole. `If-Match` may be sent; without it the change is made on what is there.

use actix_web::http::header::ETAG;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value};

use super::{asked, change, etag, if_match};
use crate::catalogue::{Edit, PartKind};
use crate::http::App;
use crate::http::error::ApiError;
use crate::http::extract::AdminUser;

async fn list_of(app: &App, kind: PartKind) -> Result<HttpResponse, ApiError> {
    let current = app.catalogue.current().await?;
    let parts = Value::Array(kind.of(&current.value).to_vec());
    let body = Map::from_iter([
        ("revision".to_owned(), current.revision.into()),
        (kind.list().to_owned(), parts),
    ]);
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(current.revision))).json(body))
}

async fn find(app: &App, kind: PartKind, name: &str) -> Result<HttpResponse, ApiError> {
    let current = app.catalogue.current().await?;
    let part = kind.find(&current.value, name).ok_or(ApiError::NotFound(kind.name()))?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(current.revision))).json(part))
}

async fn edit(
    app: Data<App>,
    request: &HttpRequest,
    operator: AdminUser,
    what: &str,
    edit: Edit,
) -> Result<HttpResponse, ApiError> {
    let (Edit::Add(kind, _) | Edit::Set(kind, ..) | Edit::Remove(kind, _)) = &edit else {
        return Err(ApiError::Internal);
    };
    let note = format!("{} {what}", kind.name());
    let asked = asked(request, operator, if_match(request)?, note)?;
    change(app, asked, edit).await
}

/// The name that a body gives its part, for the list of revisions.
fn name_of(part: &Value) -> String {
    let name = part.get("name").and_then(Value::as_str).unwrap_or_default();
    name.chars().take(domain::catalogue::NAME_MAX).collect()
}

/// The five endpoints of a kind.
macro_rules! endpoints_of {
    ($module:ident, $kind:expr, $form:ident, $list:ident, $lists:literal, $one:literal, $what:literal) => {
        #[doc = concat!("`", $lists, "*`")]
        pub(in crate::http) mod $module {
            use actix_web::web::{Data, Path};
            use actix_web::{HttpRequest, HttpResponse};
            use serde::Serialize;
            use utoipa::ToSchema;

            use crate::catalogue::Edit;
            use crate::http::App;
            use crate::http::catalogue::{ChangeAnswer, ChangeQuery, parts};
            use crate::http::error::{ApiError, ErrorBody};
            use crate::http::extract::{AdminUser, ConfirmedAdmin, WithBody};
            use crate::models::document::forms::$form;

            /// All of a kind.
            #[derive(Serialize, ToSchema)]
            pub(in crate::http) struct $list {
                /// The revision in force.
                revision: u64,
                $module: Vec<$form>,
            }

            #[doc = concat!("All ", $what, "s of the catalogue.")]
            #[utoipa::path(get, path = $lists, summary = concat!("All ", $what, "s of the catalogue."), tag = "catalogue", security(("jwt" = [])), responses(
                (status = 200, description = "All of them", body = $list),
                (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
            ))]
            pub(in crate::http) async fn list(
                _: AdminUser,
                app: Data<App>,
            ) -> Result<HttpResponse, ApiError> {
                parts::list_of(&app, $kind).await
            }

            #[doc = concat!("Adds a ", $what, ".")]
            #[utoipa::path(post, path = $lists, summary = concat!("Adds a ", $what, "."), tag = "catalogue", security(("jwt" = [])),
                params(ChangeQuery), request_body = $form, responses(
                (status = 200, description = "Added, or with `dry_run` what would be", body = ChangeAnswer),
                (status = 403, description = "Not an operator, or one without a second factor, or the session \
                    must be confirmed first", body = ErrorBody),
                (status = 409, description = "There is one with this name, or the catalogue is a file",
                    body = ErrorBody),
                (status = 412, description = "`If-Match` has another revision", body = ErrorBody),
            ))]
            pub(in crate::http) async fn add(
                WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
                app: Data<App>,
                request: HttpRequest,
            ) -> Result<HttpResponse, ApiError> {
                let part = body.value()?;
                let what = format!("{} added", parts::name_of(&part));
                parts::edit(app, &request, operator, &what, Edit::Add($kind, part)).await
            }

            #[doc = concat!("One ", $what, " of the catalogue.")]
            #[utoipa::path(get, path = $one, summary = concat!("One ", $what, " of the catalogue."), tag = "catalogue", security(("jwt" = [])),
                params(("name" = String, Path)), responses(
                (status = 200, description = "As it is written", body = $form),
                (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
                (status = 404, description = "There is none with this name", body = ErrorBody),
            ))]
            pub(in crate::http) async fn get(
                _: AdminUser,
                app: Data<App>,
                name: Path<String>,
            ) -> Result<HttpResponse, ApiError> {
                parts::find(&app, $kind, &name).await
            }

            #[doc = concat!("Sets a ", $what, ": replaces it, or adds it.")]
            #[utoipa::path(put, path = $one, summary = concat!("Sets a ", $what, ": replaces it, or adds it."), tag = "catalogue", security(("jwt" = [])),
                params(("name" = String, Path), ChangeQuery), request_body = $form, responses(
                (status = 200, description = "Set, or with `dry_run` what would be", body = ChangeAnswer),
                (status = 403, description = "Not an operator, or one without a second factor, or the session \
                    must be confirmed first", body = ErrorBody),
                (status = 409, description = "The catalogue is a file", body = ErrorBody),
                (status = 412, description = "`If-Match` has another revision", body = ErrorBody),
            ))]
            pub(in crate::http) async fn set(
                WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
                app: Data<App>,
                request: HttpRequest,
                name: Path<String>,
            ) -> Result<HttpResponse, ApiError> {
                let (part, name) = (body.value()?, name.into_inner());
                let what = format!("{} set", parts::shown(&name));
                parts::edit(app, &request, operator, &what, Edit::Set($kind, name, part)).await
            }

            #[doc = concat!("Removes a ", $what, " that nothing uses.")]
            #[utoipa::path(delete, path = $one, summary = concat!("Removes a ", $what, " that nothing uses."), tag = "catalogue", security(("jwt" = [])),
                params(("name" = String, Path), ChangeQuery), responses(
                (status = 200, description = "Removed, or with `dry_run` what would be", body = ChangeAnswer),
                (status = 403, description = "Not an operator, or one without a second factor, or the session \
                    must be confirmed first", body = ErrorBody),
                (status = 404, description = "There is none with this name", body = ErrorBody),
                (status = 409, description = "It is used, or the catalogue is a file", body = ErrorBody),
                (status = 412, description = "`If-Match` has another revision", body = ErrorBody),
            ))]
            pub(in crate::http) async fn remove(
                ConfirmedAdmin(operator): ConfirmedAdmin,
                app: Data<App>,
                request: HttpRequest,
                name: Path<String>,
            ) -> Result<HttpResponse, ApiError> {
                let name = name.into_inner();
                let what = format!("{} removed", parts::shown(&name));
                parts::edit(app, &request, operator, &what, Edit::Remove($kind, name)).await
            }
        }
    };
}

/// A name of a path, as it is shown.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(domain::catalogue::NAME_MAX).collect()
}

endpoints_of!(
    providers,
    crate::catalogue::PartKind::Provider,
    ProviderForm,
    ProvidersList,
    "/api/admin/providers",
    "/api/admin/providers/{name}",
    "provider"
);
endpoints_of!(
    deployments,
    crate::catalogue::PartKind::Deployment,
    DeploymentForm,
    DeploymentsList,
    "/api/admin/deployments",
    "/api/admin/deployments/{name}",
    "deployment"
);
endpoints_of!(
    models,
    crate::catalogue::PartKind::Model,
    ModelForm,
    ModelsList,
    "/api/admin/models",
    "/api/admin/models/{name}",
    "model"
);
