//! `/api/admin/users/{id}/*` that reads, and `/api/admin/search`: what an operator sees of one
//! user. Each is what the user sees; the audit log says that the operator has read it.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::admin::{AdminUserBody, searchable, user_id};
use super::auth::SessionBody;
use super::calls::{self, CallsPage, CallsQuery};
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::monitoring::{self, AccountLimitsAnswer, EnvironmentQuery, UsageAnswer, UsageQuery};
use super::page::query;
use super::payments::{self, PageQuery, PaymentsPage};
use super::transactions::{self, TransactionsPage, TransactionsQuery};
use super::webhooks::{self, EndpointsAnswer};
use super::{App, uncancelled};
use crate::admin::{FoundOwner, FoundThing};
use domain::{SessionId, UserId};

/// The user of the path, whom the operator reads something of.
async fn read(
    app: &Data<App>,
    operator: AdminUser,
    id: &Path<String>,
    what: &'static str,
) -> Result<UserId, ApiError> {
    let (user, app) = (user_id(id)?, Data::clone(app));
    let reading = async move { app.admin.read(user, what, operator.origin).await };
    uncancelled(reading).await?;
    Ok(user)
}

/// The ledger of a user's account, newest first.
#[utoipa::path(get, path = "/api/admin/users/{id}/transactions", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path), TransactionsQuery), responses(
    (status = 200, description = "A page of the ledger", body = TransactionsPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn transactions(
    operator: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = read(&app, operator, &id, "transactions").await?;
    transactions::list_of(user, &app, &request).await
}

/// A user's payments, newest first.
#[utoipa::path(get, path = "/api/admin/users/{id}/payments", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path), PageQuery), responses(
    (status = 200, description = "A page of payments", body = PaymentsPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn payments(
    operator: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = read(&app, operator, &id, "payments").await?;
    payments::list_of(user, &app, &request).await
}

/// A user's calls, latest first, as long as they are kept.
#[utoipa::path(get, path = "/api/admin/users/{id}/requests", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path), CallsQuery), responses(
    (status = 200, description = "A page of calls", body = CallsPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn requests(
    operator: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = read(&app, operator, &id, "calls").await?;
    calls::list_of(user, &app, &request).await
}

/// What a user's calls come to: in all, by group, and by hour, day or month.
#[utoipa::path(get, path = "/api/admin/users/{id}/usage", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path), UsageQuery), responses(
    (status = 200, description = "The metrics", body = UsageAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn usage(
    operator: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = read(&app, operator, &id, "usage").await?;
    monitoring::usage_of(user, &app, &request).await
}

/// What a user's keys have spent, against their limits.
#[utoipa::path(get, path = "/api/admin/users/{id}/limits", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path), EnvironmentQuery), responses(
    (status = 200, description = "The keys", body = AccountLimitsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn limits(
    operator: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = read(&app, operator, &id, "limits").await?;
    monitoring::limits_of(user, &app, &request).await
}

/// A user's sessions.
#[derive(Serialize, ToSchema)]
pub(super) struct UserSessionsAnswer {
    data: Vec<SessionBody>,
    /// Always null: there are few.
    next_cursor: Option<String>,
}

/// A user's sessions, the last used one first.
#[utoipa::path(get, path = "/api/admin/users/{id}/sessions", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), responses(
    (status = 200, description = "The sessions", body = UserSessionsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn sessions(
    operator: AdminUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asks: SessionId = operator.session;
    let user = read(&app, operator, &id, "sessions").await?;
    let sessions = app.users.sessions_of(user).await?;
    let data = sessions.into_iter().map(|session| SessionBody::new(session, asks)).collect();
    Ok(HttpResponse::Ok().json(UserSessionsAnswer { data, next_cursor: None }))
}

/// A user's webhook endpoints, oldest first.
#[utoipa::path(get, path = "/api/admin/users/{id}/webhooks", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), responses(
    (status = 200, description = "The endpoints", body = EndpointsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn webhooks(
    operator: AdminUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = read(&app, operator, &id, "webhooks").await?;
    webhooks::list_of(user, &app).await
}

/// What to look for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchQuery {
    /// An id (`user-...`, `key-...`, `pay-...`, `req-...`), what is shown of an API key, or a part
    /// of an address or a name.
    #[param(min_length = 1, max_length = 254, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    q: String,
}

/// Something that was found.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundBody {
    /// `user`, `key`, `payment` or `request`
    #[schema(pattern = "^(user|key|payment|request)$")]
    kind: &'static str,
    /// Its id.
    id: String,
    /// Whose it is.
    user: AdminUserBody,
}

impl From<FoundOwner> for FoundBody {
    fn from(found: FoundOwner) -> Self {
        let FoundOwner { thing, user } = found;
        let (kind, id) = match thing {
            FoundThing::User => ("user", user.id.to_string()),
            FoundThing::Key(id) => ("key", id.to_string()),
            FoundThing::Payment(id) => ("payment", id.to_string()),
            FoundThing::Call(id) => ("request", id.to_string()),
        };
        FoundBody { kind, id, user: AdminUserBody::from(&user) }
    }
}

/// What was found.
#[derive(Serialize, ToSchema)]
pub(super) struct SearchAnswer {
    data: Vec<FoundBody>,
    /// Always null: at most 20 are found.
    next_cursor: Option<String>,
}

/// Finds the user whom something belongs to. The audit log says that the operator has read of each.
#[utoipa::path(get, path = "/api/admin/search", tag = "admin", security(("jwt" = [])),
    params(SearchQuery), responses(
    (status = 200, description = "What was found, at most 20", body = SearchAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn search(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let SearchQuery { q } = query(&request)?;
    let text = searchable("q", q.trim().to_owned())?;
    let searching = async move { app.admin.search(&text, origin).await };
    let data = uncancelled(searching).await?.into_iter().map(FoundBody::from).collect();
    Ok(HttpResponse::Ok().json(SearchAnswer { data, next_cursor: None }))
}
