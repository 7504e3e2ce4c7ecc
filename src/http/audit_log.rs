//! The audit log: all of it for operators, and for each user their own part.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::answers::page_of;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, SessionUser};
use super::page::{cut, page_limit, query, read_cursor};
use super::{App, uncancelled};
use domain::{Act, ActId, Actor, UserId};

/// An act in the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct ActBody {
    #[schema(value_type = id::ActId)]
    id: String,
    #[schema(format = DateTime)]
    at: String,
    /// The user whose accounts it concerns.
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// `user`, `operator`, `command_line` or `server`
    #[schema(pattern = "^(user|operator|command_line|server)$")]
    actor: &'static str,
    /// The person who did it, if it was a person.
    #[schema(value_type = Option<id::UserId>)]
    actor_id: Option<String>,
    /// What was done, such as `key.created`.
    #[schema(pattern = "^[a-z_]+[.][a-z_]+$")]
    action: &'static str,
    /// What it was done to; empty if that is the user.
    subject: String,
    /// The result, or the reason.
    detail: String,
    /// The address that it came from; empty if there is none, and for a user's reading of what an
    /// operator did.
    address: String,
    user_agent: String,
}

impl ActBody {
    /// The act as its user sees it. Where an operator sits is not the user's business.
    pub(super) fn for_user(act: Act, reader: UserId) -> Self {
        let is_of_other = matches!(act.origin.actor, Actor::Operator(person) if person != reader);
        let act = ActBody::from(act);
        if !is_of_other {
            return act;
        }
        ActBody { address: String::new(), user_agent: String::new(), ..act }
    }
}

impl From<Act> for ActBody {
    fn from(act: Act) -> Self {
        ActBody {
            id: ActId(act.id).to_string(),
            at: act.at.to_rfc3339_micros(),
            user_id: act.user.to_string(),
            actor: act.origin.actor.name(),
            actor_id: act.origin.actor.person().map(|person| person.to_string()),
            action: act.kind.name(),
            subject: act.subject,
            detail: act.detail,
            address: act.origin.address,
            user_agent: act.origin.agent,
        }
    }
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct ActsPage {
    acts: Vec<ActBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// A page of one's own part of the audit log.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ActsQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^act-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    cursor: Option<String>,
}

/// A page of the audit log.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AllActsQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^act-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    cursor: Option<String>,
    /// Only what concerns this user.
    #[param(pattern = "^user-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    user_id: Option<String>,
}

/// The audit log, latest first. That the operator has read it is recorded in it.
#[utoipa::path(get, path = "/api/admin/audit-log", tag = "admin", security(("jwt" = [])),
    params(AllActsQuery), responses(
    (status = 200, description = "A page of the audit log", body = ActsPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn all_acts(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let AllActsQuery { limit, cursor, user_id } = query(&request)?;
    let user = user_id.as_deref().map(str::parse::<UserId>).transpose();
    let user = user.map_err(|error| ApiError::field("user_id", format!("is {error}")))?;
    let page = Page::of(&ActsQuery { limit, cursor })?;
    let (before, limit) = (page.before, page.limit.saturating_add(1));
    let reading = async move { app.admin.acts_for_operator(user, before, limit, origin).await };
    Ok(page.answer(&request, uncancelled(reading).await?, ActBody::from))
}

/// The user's own part of the audit log, latest first: what they did, what operators did to their
/// accounts, and what operators have read of them.
#[utoipa::path(get, path = "/api/auth/audit-log", tag = "auth", security(("jwt" = [])),
    params(ActsQuery), responses(
    (status = 200, description = "A page of the audit log", body = ActsPage),
))]
pub(super) async fn own_acts(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let page = Page::of(&query(&request)?)?;
    let acts = app.admin.acts(Some(user.id), page.before, page.limit.saturating_add(1)).await?;
    Ok(page.answer(&request, acts, |act| ActBody::for_user(act, user.id)))
}

/// A page that is asked for.
struct Page {
    limit: u64,
    before: Option<Uuid>,
}

impl Page {
    fn of(asked: &ActsQuery) -> Result<Self, ApiError> {
        let limit = page_limit(asked.limit)?;
        let before = read_cursor(asked.cursor.as_deref())?.map(|ActId(id)| id);
        Ok(Page { limit, before })
    }

    /// The answer with these acts, of which there is one more than fits if there is a next page.
    fn answer(
        &self,
        request: &HttpRequest,
        mut acts: Vec<Act>,
        body: impl Fn(Act) -> ActBody,
    ) -> HttpResponse {
        let next_cursor = cut(&mut acts, self.limit).map(|act| ActId(act.id).to_string());
        let acts = acts.into_iter().map(body).collect();
        page_of(request, next_cursor.as_deref()).json(ActsPage { acts, next_cursor })
    }
}
