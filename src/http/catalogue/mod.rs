//! `/api/admin/catalogue*`: the document of the catalogue, for operators. Its single parts are in
//! [`parts`], the secrets in [`credentials`], earlier revisions in [`revisions`].

pub(super) mod credentials;
pub(super) mod parts;
pub(super) mod revisions;

use actix_web::http::header::{ETAG, IF_MATCH};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithDocument};
use super::page::query;
use super::{App, uncancelled};
use crate::catalogue::{
    CatalogueOutcome, CatalogueStatus, CurrentDocument, Edit, FileState, PartChange, Request,
};
use crate::models::document::forms::CatalogueForm;
use domain::catalogue::CatalogueFault;

/// The ETag of a revision.
fn etag(revision: u64) -> String {
    format!("\"rev-{revision}\"")
}

/// The revision that a request is made for. Another text than an ETag of ours is that of no
/// revision, as far as anybody can tell: 412.
fn if_match(request: &HttpRequest) -> Result<Option<u64>, ApiError> {
    let mut values = request.headers().get_all(IF_MATCH);
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let number = text.strip_prefix("\"rev-").and_then(|text| text.strip_suffix('"'));
    let is_plain = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.filter(is_plain).and_then(|text| text.parse().ok());
    if values.next().is_some() {
        return Err(ApiError::field("If-Match", "must be sent only once"));
    }
    // No revision has this number.
    Ok(Some(number.unwrap_or(u64::MAX)))
}

/// The same, for a request that must say it.
fn required_match(request: &HttpRequest) -> Result<Option<u64>, ApiError> {
    if_match(request)?.map(Some).ok_or(ApiError::RevisionMissing)
}

/// How a change is made.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangeQuery {
    /// If true, nothing is written: the answer has all faults, and what would change.
    dry_run: bool,
}

/// What a change is asked for with.
fn asked(
    request: &HttpRequest,
    operator: AdminUser,
    expected: Option<u64>,
    note: impl Into<String>,
) -> Result<Request, ApiError> {
    let ChangeQuery { dry_run: is_dry_run } = query(request)?;
    let AdminUser { id: author, origin, .. } = operator;
    Ok(Request { expected, is_dry_run, note: note.into(), author, origin })
}

/// Something that is wrong with a document.
#[derive(Serialize, ToSchema)]
pub(super) struct FaultBody {
    /// Its place, such as `models[2].targets[0].credential`; empty if it is the whole.
    path: String,
    /// What is wrong there.
    message: String,
}

impl From<CatalogueFault> for FaultBody {
    fn from(fault: CatalogueFault) -> Self {
        FaultBody { path: fault.path, message: fault.problem }
    }
}

/// A field that differs.
#[derive(Serialize, ToSchema)]
pub(super) struct FieldChangeBody {
    field: String,
    /// null was absent.
    before: Value,
    /// null is absent.
    after: Value,
}

/// A part that differs.
#[derive(Serialize, ToSchema)]
pub(super) struct PartChangeBody {
    /// `providers`, `credentials`, `deployments`, `models` or `wildcards`
    list: &'static str,
    name: String,
    /// `added`, `removed` or `changed`
    #[schema(pattern = "^(added|removed|changed)$")]
    change: &'static str,
    fields: Vec<FieldChangeBody>,
}

impl From<PartChange> for PartChangeBody {
    fn from(change: PartChange) -> Self {
        let fields = change.fields.into_iter();
        let body = |(field, before, after)| FieldChangeBody { field, before, after };
        PartChangeBody {
            list: change.list,
            name: change.name,
            change: change.change.name(),
            fields: fields.map(body).collect(),
        }
    }
}

/// What a change has done, or would do.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangeAnswer {
    /// The revision in force.
    revision: u64,
    /// Was nothing to be written?
    dry_run: bool,
    /// All that is wrong with the document; only with `dry_run`.
    faults: Vec<FaultBody>,
    changes: Vec<PartChangeBody>,
}

/// Makes a change that no leaving client cancels, and answers it.
async fn change(app: Data<App>, request: Request, edit: Edit) -> Result<HttpResponse, ApiError> {
    let dry_run = request.is_dry_run;
    let changing = async move { app.catalogue.change(request, edit).await };
    let CatalogueOutcome { revision, faults, changes } = uncancelled(changing).await?;
    let faults = faults.into_iter().map(FaultBody::from).collect();
    let changes = changes.into_iter().map(PartChangeBody::from).collect();
    let answer = ChangeAnswer { revision, dry_run, faults, changes };
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(revision))).json(answer))
}

/// Which revision.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DocumentQuery {
    /// The number of a revision; the one in force if absent.
    revision: Option<u64>,
}

/// The document of the catalogue, with the number of its revision in `ETag`. No secret is in it.
#[utoipa::path(get, path = "/api/admin/catalogue", tag = "catalogue", security(("jwt" = [])),
    params(DocumentQuery), responses(
    (status = 200, description = "The document", body = CatalogueForm,
        headers(("ETag" = String, description = "`\"rev-42\"`"))),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such revision", body = ErrorBody),
))]
pub(super) async fn get(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let DocumentQuery { revision } = query(&request)?;
    let CurrentDocument { revision, value } = match revision {
        Some(revision) => app.catalogue.at(revision).await?,
        None => app.catalogue.current().await?,
    };
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(revision))).json(value))
}

/// Replaces the whole document. `If-Match` must have the ETag of the revision in force.
#[utoipa::path(put, path = "/api/admin/catalogue", tag = "catalogue", security(("jwt" = [])),
    params(ChangeQuery, ("If-Match" = Option<String>, Header, description = "The ETag of the revision in force")),
    request_body = CatalogueForm, responses(
    (status = 200, description = "In force, or with `dry_run` what would be", body = ChangeAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
    (status = 412, description = "Another revision is in force", body = ErrorBody),
    (status = 413, description = "The document is larger than 8 MiB", body = ErrorBody),
    (status = 428, description = "`If-Match` is missing", body = ErrorBody),
))]
pub(super) async fn put(
    WithDocument(ConfirmedAdmin(operator), body): WithDocument,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let expected = required_match(&request)?;
    let asked = asked(&request, operator, expected, "the whole document")?;
    change(app, asked, Edit::Whole(body.value()?)).await
}

/// Changes the document by a merge patch (RFC 7396): a list in it replaces the whole list.
/// `If-Match` must have the ETag of the revision in force.
#[utoipa::path(patch, path = "/api/admin/catalogue", tag = "catalogue", security(("jwt" = [])),
    params(ChangeQuery, ("If-Match" = Option<String>, Header, description = "The ETag of the revision in force")),
    request_body = CatalogueForm, responses(
    (status = 200, description = "In force, or with `dry_run` what would be", body = ChangeAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
    (status = 412, description = "Another revision is in force", body = ErrorBody),
    (status = 413, description = "The document is larger than 8 MiB", body = ErrorBody),
    (status = 428, description = "`If-Match` is missing", body = ErrorBody),
))]
pub(super) async fn patch(
    WithDocument(ConfirmedAdmin(operator), body): WithDocument,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let expected = required_match(&request)?;
    let asked = asked(&request, operator, expected, "a merge patch")?;
    change(app, asked, Edit::Merge(body.value()?)).await
}

/// The file that the catalogue is written in.
#[derive(Serialize, ToSchema)]
pub(super) struct FileBody {
    path: String,
    /// All that is wrong with it. Empty: it is what is sold.
    faults: Vec<FaultBody>,
}

impl From<FileState> for FileBody {
    fn from(file: FileState) -> Self {
        FileBody {
            path: file.path.display().to_string(),
            faults: file.faults.into_iter().map(FaultBody::from).collect(),
        }
    }
}

/// What is sold by this process, and what is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusBody {
    /// The revision that this process sells.
    selling: u64,
    /// The revision in force.
    stored: u64,
    /// Models with a name of their own.
    models: usize,
    deployments: usize,
    /// Deployments that are never asked: by the document, or without a secret that can be used.
    disabled_deployments: usize,
    /// null: it is written with this API.
    file: Option<FileBody>,
}

/// Which revision this process sells, and what is wrong with the file if it is written in one.
#[utoipa::path(get, path = "/api/admin/catalogue/status", tag = "catalogue", security(("jwt" = [])),
    responses(
    (status = 200, description = "What is sold", body = StatusBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn status(_: AdminUser, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let CatalogueStatus { selling, stored, models, deployments, file } =
        app.catalogue.status().await?;
    let (deployments, disabled_deployments) = deployments;
    let file = file.map(FileBody::from);
    let body = StatusBody { selling, stored, models, deployments, disabled_deployments, file };
    Ok(HttpResponse::Ok().json(body))
}
