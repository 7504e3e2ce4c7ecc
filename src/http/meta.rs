//! What is open to everyone: health, the version, the OpenAPI document and its pages.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use actix_web::http::header::{ACCEPT, LOCATION, VARY};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::document::Document;
use super::error::{ApiError, ErrorBody, codes_page};
use super::extract::check_address;

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthAnswer {
    /// `ok`
    status: &'static str,
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "health", responses(
    (status = 200, description = "Alive", body = HealthAnswer),
))]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(HealthAnswer { status: "ok" })
}

/// The server answers. Some clients ask this before anything else, without a credential.
#[utoipa::path(get, path = "/api/hello", tag = "health", responses(
    (status = 200, description = "Here", body = HealthAnswer),
))]
pub(super) async fn hello() -> HttpResponse {
    HttpResponse::Ok().json(HealthAnswer { status: "ok" })
}

/// The same at the root. A browser is led to the console.
#[utoipa::path(get, path = "/", tag = "health", responses(
    (status = 200, description = "Here", body = HealthAnswer),
    (status = 302, description = "The console, for who accepts `text/html`"),
))]
pub(super) async fn root(request: HttpRequest) -> HttpResponse {
    let mut accepted = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
    if super::has_console() && accepted.any(|accepted| accepted.contains("text/html")) {
        let to = (LOCATION, "/console/");
        return HttpResponse::Found().insert_header(to).insert_header((VARY, "Accept")).finish();
    }
    HttpResponse::Ok().insert_header((VARY, "Accept")).json(HealthAnswer { status: "ok" })
}

/// The same under the name that Kubernetes uses.
#[utoipa::path(get, path = "/livez", tag = "health", responses(
    (status = 200, description = "Alive", body = HealthAnswer),
))]
pub(super) async fn livez() -> HttpResponse {
    live().await
}

/// The same under a name that many monitors ask for.
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, description = "Alive", body = HealthAnswer),
))]
pub(super) async fn healthz() -> HttpResponse {
    live().await
}

/// As `/health/ready`, under the name that Kubernetes uses.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "Ready", body = HealthAnswer),
    (status = 503, description = "Not ready", body = ErrorBody),
))]
pub(super) async fn readyz(app: Data<App>) -> Result<HttpResponse, ApiError> {
    ready(app).await
}

/// Paid calls can be served: not shutting down, not at capacity, the accounts are ours, the
/// database answers.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses(
    (status = 200, description = "Ready", body = HealthAnswer),
    (status = 503, description = "Not ready", body = ErrorBody),
))]
pub(super) async fn ready(app: Data<App>) -> Result<HttpResponse, ApiError> {
    if !app.health.is_ready().await? {
        return Err(ApiError::Unavailable);
    }
    Ok(HttpResponse::Ok().json(HealthAnswer { status: "ok" }))
}

/// The documents of the server: made once, or when they are first asked for.
pub(super) struct Documents {
    openapi: Document,
    errors: Document,
    /// The files of the page where routes are tried.
    files: RwLock<BTreeMap<String, Arc<Document>>>,
}

impl Documents {
    pub(super) fn new(openapi: &serde_json::Value) -> Self {
        Documents {
            openapi: Document::new("application/json", openapi.to_string()),
            errors: Document::new("text/html; charset=utf-8", codes_page()),
            files: RwLock::default(),
        }
    }

    fn file(&self, path: &str) -> Option<Arc<Document>> {
        let path = if path.is_empty() { "index.html" } else { path };
        // A thread that panics leaves the map whole.
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path) {
            return Some(Arc::clone(file));
        }
        drop(files);
        let config = utoipa_swagger_ui::Config::from("/api/openapi.json");
        let file = utoipa_swagger_ui::serve(path, Arc::new(config)).ok()??;
        let file = Arc::new(Document::new(&file.content_type, file.bytes.into_owned()));
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(path.to_owned(), Arc::clone(&file));
        Some(file)
    }
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "documentation", responses(
    (status = 200, description = "The OpenAPI document", body = Object),
    (status = 304, description = "It is what `If-None-Match` says"),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn openapi(
    request: HttpRequest,
    app: Data<App>,
    documents: Data<Documents>,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    Ok(documents.openapi.answer(&request))
}

/// `GET /docs/errors`: the page that `doc_url` of an error leads to.
pub(super) async fn errors(request: HttpRequest, documents: Data<Documents>) -> HttpResponse {
    documents.errors.answer(&request)
}

/// `GET /docs/`: the page where routes are tried, and its files.
pub(super) async fn docs(
    request: HttpRequest,
    documents: Data<Documents>,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let file = documents.file(&path).ok_or(ApiError::NoRoute)?;
    Ok(file.answer(&request))
}

/// Which server this is.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionAnswer {
    /// The version, also in the header `Polysystems-Version`.
    version: &'static str,
    /// The commit it was built from; null if the build did not say.
    commit: Option<&'static str>,
    /// The last migration that this version knows.
    schema: String,
}

/// Which server this is.
#[utoipa::path(get, path = "/api/version", tag = "health", responses(
    (status = 200, description = "The version", body = VersionAnswer),
))]
pub(super) async fn version() -> HttpResponse {
    HttpResponse::Ok().json(VersionAnswer {
        version: env!("CARGO_PKG_VERSION"),
        commit: crate::metrics::COMMIT,
        schema: crate::store::last_migration(),
    })
}
