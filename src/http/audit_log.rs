//! The audit log: all of it for operators, and for each user their own part.

use std::fmt::Write as _;

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
use super::statements::csv;
use super::transactions::{text, time};
use super::{App, uncancelled};
use crate::reports::csv_text;
use crate::store::audit_log::ActFilter;
use domain::{Act, ActId, ActKind, Actor, UserId};

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
    /// Only what was done by a `user`, an `operator`, the `command_line` or the `server`.
    #[param(pattern = "^(user|operator|command_line|server)$")]
    actor: Option<String>,
    /// Only what this person did.
    #[param(pattern = "^user-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    actor_id: Option<String>,
    /// Only acts of this kind, such as `key.created`.
    #[param(pattern = "^[a-z_]+[.][a-z_]+$")]
    action: Option<String>,
    /// Not from before this time.
    #[param(format = DateTime)]
    from: Option<String>,
    /// From before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Only what came from this address.
    #[param(max_length = 45)]
    address: Option<String>,
    /// `json` (default) or `csv`: the latest 10,000 of them, without pages.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// Most acts of a CSV.
const CSV_MAX: usize = 10_000;
/// Acts of a CSV that are read at once.
const CSV_PAGE: u64 = 1_000;
/// Most pages that are read for a CSV: some may be empty.
const CSV_PAGES_MAX: usize = 100;

/// The code of a kind of actor.
fn actor_code(name: &str) -> Result<i16, ApiError> {
    let nobody = UserId(Uuid::nil());
    let actors = [Actor::User(nobody), Actor::Operator(nobody), Actor::CommandLine, Actor::Server];
    let found = actors.into_iter().find(|actor| actor.name() == name);
    let wrong = || ApiError::field("actor", "must be user, operator, command_line or server");
    found.map(Actor::code).ok_or_else(wrong)
}

impl AllActsQuery {
    fn filter(self) -> Result<ActFilter, ApiError> {
        let person = |field: &str, text: Option<String>| {
            let person = text.as_deref().map(str::parse::<UserId>).transpose();
            person.map_err(|error| ApiError::field(field, format!("is {error}")))
        };
        let kind = self.action.as_deref().map(|name| {
            let unknown = || ApiError::field("action", "must be an action, such as key.created");
            ActKind::from_name(name).ok_or_else(unknown)
        });
        Ok(ActFilter {
            user: person("user_id", self.user_id)?,
            actor: self.actor.as_deref().map(actor_code).transpose()?,
            person: person("actor_id", self.actor_id)?,
            kind: kind.transpose()?,
            from: time("from", self.from.as_deref())?,
            until: time("until", self.until.as_deref())?,
            address: text("address", self.address, 45)?,
        })
    }
}

/// Acts as CSV.
fn to_csv(acts: Vec<Act>) -> String {
    let mut csv =
        String::from("id,at,user_id,actor,actor_id,action,subject,detail,address,user_agent\r\n");
    for act in acts.into_iter().map(ActBody::from) {
        let person = act.actor_id.unwrap_or_default();
        let [subject, detail, address, agent] =
            [&act.subject, &act.detail, &act.address, &act.user_agent].map(|text| csv_text(text));
        let (id, at, user, actor, action) = (act.id, act.at, act.user_id, act.actor, act.action);
        let _ = write!(
            csv,
            "{id},{at},{user},{actor},{person},{action},{subject},{detail},{address},{agent}\r\n"
        );
    }
    csv
}

/// The audit log, latest first. That the operator has read it is recorded in it. With a filter that
/// few acts fit, a page may be short or empty although more follow: `next_cursor` says so.
#[utoipa::path(get, path = "/api/admin/audit-log", tag = "admin", security(("jwt" = [])),
    params(AllActsQuery), responses(
    (status = 200, description = "A page of the audit log", content((ActsPage = "application/json"),
        (String = "text/csv"))),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn all_acts(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut asked: AllActsQuery = query(&request)?;
    let (limit, cursor) = (asked.limit.take(), asked.cursor.take());
    let Page { limit, before } = Page::of(&ActsQuery { limit, cursor })?;
    let is_csv = match asked.format.take().as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(ApiError::field("format", "must be json or csv")),
    };
    let filter = asked.filter()?;
    if is_csv {
        let reading = async move {
            let (mut acts, mut before) = (Vec::new(), before);
            for _ in 0..CSV_PAGES_MAX {
                let (filter, origin) = (filter.clone(), origin.clone());
                let page = app.admin.acts_for_operator(filter, before, CSV_PAGE, origin).await?;
                acts.extend(page.0);
                before = page.1;
                if before.is_none() || acts.len() >= CSV_MAX {
                    break;
                }
            }
            acts.truncate(CSV_MAX);
            Ok::<_, ApiError>(acts)
        };
        return Ok(csv(to_csv(uncancelled(reading).await?), "audit-log.csv"));
    }
    let reading = async move { app.admin.acts_for_operator(filter, before, limit, origin).await };
    let (acts, next) = uncancelled(reading).await?;
    let next_cursor = next.map(|id| ActId(id).to_string());
    let acts = acts.into_iter().map(ActBody::from).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(ActsPage { acts, next_cursor }))
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
