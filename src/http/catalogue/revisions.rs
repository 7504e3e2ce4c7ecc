//! `/api/admin/catalogue/revisions*`: what the catalogue was.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ChangeQuery, PartChangeBody, asked, change, required_match};
use crate::catalogue::{CurrentDocument, Edit, changes};
use crate::http::App;
use crate::http::answers::page_of;
use crate::http::docs::id;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{AdminUser, ConfirmedAdmin};
use crate::http::page::{EntryCursor, cut, page_limit, query, read_cursor};
use crate::models::document::forms::CatalogueForm;
use crate::store::catalogue::CatalogueRevision;

/// A revision.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct RevisionBody {
    number: u64,
    /// The operator who wrote it; null: the server, from a file.
    #[schema(value_type = Option<id::UserId>)]
    author_id: Option<String>,
    /// What was done.
    note: String,
    #[schema(format = DateTime)]
    at: String,
}

impl From<&CatalogueRevision> for RevisionBody {
    fn from(revision: &CatalogueRevision) -> Self {
        RevisionBody {
            number: revision.number,
            author_id: revision.author.map(|author| author.to_string()),
            note: revision.note.clone(),
            at: revision.at.to_rfc3339(),
        }
    }
}

/// A page of revisions.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct RevisionsPage {
    revisions: Vec<RevisionBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Which revisions.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct RevisionsQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    cursor: Option<String>,
}

/// The revisions of the catalogue, the latest first.
#[utoipa::path(get, path = "/api/admin/catalogue/revisions", tag = "catalogue", security(("jwt" = [])),
    params(RevisionsQuery), responses(
    (status = 200, description = "A page of revisions", body = RevisionsPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(in crate::http) async fn list(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let RevisionsQuery { limit, cursor } = query(&request)?;
    let limit = page_limit(limit)?;
    let before = read_cursor::<EntryCursor>(cursor.as_deref())?;
    let before = before.and_then(|EntryCursor(number)| u64::try_from(number).ok());
    let mut revisions = app.catalogue.revisions(before, limit.saturating_add(1)).await?;
    let next_cursor = cut(&mut revisions, limit).map(|last| last.number.to_string());
    let revisions = revisions.iter().map(RevisionBody::from).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(RevisionsPage { revisions, next_cursor }))
}

/// A revision with its document.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct RevisionView {
    #[serde(flatten)]
    revision: RevisionBody,
    #[schema(value_type = CatalogueForm)]
    document: serde_json::Value,
}

/// The number in the path. A malformed one is answered like one that does not exist.
fn number(path: &str) -> Result<u64, ApiError> {
    path.parse().map_err(|_| ApiError::NotFound("revision"))
}

/// One revision with its document.
#[utoipa::path(get, path = "/api/admin/catalogue/revisions/{number}", tag = "catalogue",
    security(("jwt" = [])), params(("number" = u64, Path)), responses(
    (status = 200, description = "The revision", body = RevisionView),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such revision", body = ErrorBody),
))]
pub(in crate::http) async fn get(
    _: AdminUser,
    app: Data<App>,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let number = number(&path)?;
    let revision = RevisionBody::from(&app.catalogue.revision(number).await?);
    let CurrentDocument { value: document, .. } = app.catalogue.at(number).await?;
    Ok(HttpResponse::Ok().json(RevisionView { revision, document }))
}

/// What it is compared with.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct DiffQuery {
    /// The number of another revision; the one in force if absent. 0 is the empty catalogue.
    to: Option<u64>,
}

/// What differs between two revisions.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DiffAnswer {
    from: u64,
    to: u64,
    changes: Vec<PartChangeBody>,
}

/// What differs between a revision and another one.
#[utoipa::path(get, path = "/api/admin/catalogue/revisions/{number}/diff", tag = "catalogue",
    security(("jwt" = [])), params(("number" = u64, Path), DiffQuery), responses(
    (status = 200, description = "What differs", body = DiffAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such revision", body = ErrorBody),
))]
pub(in crate::http) async fn diff(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let DiffQuery { to } = query(&request)?;
    let from = app.catalogue.at(number(&path)?).await?;
    let to = match to {
        Some(to) => app.catalogue.at(to).await?,
        None => app.catalogue.current().await?,
    };
    let changes = changes(&from.value, &to.value).into_iter().map(PartChangeBody::from).collect();
    let answer = DiffAnswer { from: from.revision, to: to.revision, changes };
    Ok(HttpResponse::Ok().json(answer))
}

/// Writes a new revision with the document of an earlier one. `If-Match` must have the ETag of the
/// revision in force.
#[utoipa::path(post, path = "/api/admin/catalogue/revisions/{number}/restore", tag = "catalogue",
    security(("jwt" = [])), params(("number" = u64, Path), ChangeQuery,
    ("If-Match" = Option<String>, Header, description = "The ETag of the revision in force")), responses(
    (status = 200, description = "In force, or with `dry_run` what would be", body = super::ChangeAnswer),
    (status = 400, description = "The document has faults by now", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such revision", body = ErrorBody),
    (status = 409, description = "The catalogue is a file", body = ErrorBody),
    (status = 412, description = "Another revision is in force", body = ErrorBody),
    (status = 428, description = "`If-Match` is missing", body = ErrorBody),
))]
pub(in crate::http) async fn restore(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let number = number(&path)?;
    let expected = required_match(&request)?;
    let asked = asked(&request, operator, expected, format!("revision {number} restored"))?;
    let earlier = app.catalogue.at(number).await?;
    change(app, asked, Edit::Whole(earlier.value)).await
}
