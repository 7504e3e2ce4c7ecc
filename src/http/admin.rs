//! `/api/admin/*`: for operators.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::amount::{Amount, WithAmounts as _};
use super::answers::{created, page_of};
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithBody};
use super::keys::KeyBody;
use super::page::{cut, page_limit, query, read_cursor};
use super::repeat::{once, replay};
use super::transactions::text;
use super::validation::is_printable;
use super::{App, uncancelled};
use crate::admin::{AdminError, CreditsChange, UserView};
use crate::idempotency::Made;
use crate::store::users::{ListedUser, Role, User, UserOrder, UserSearch};
use domain::{AccountStatus, Adjustment, Credits, Day, Environment, Snapshot, Timestamp, UserId};

/// A user, as operators see them.
#[derive(Serialize, ToSchema)]
pub(super) struct AdminUserBody {
    #[schema(value_type = id::UserId)]
    id: String,
    email: String,
    username: String,
    /// `user` or `admin`
    #[schema(pattern = "^(user|admin)$")]
    role: &'static str,
    is_email_verified: bool,
    has_two_factor: bool,
    /// Have they erased the account? Then name and address are made up.
    is_erased: bool,
    /// Their rate limit tier; null is the default one.
    tier: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<&User> for AdminUserBody {
    fn from(user: &User) -> Self {
        AdminUserBody {
            id: user.id.to_string(),
            email: user.email.clone(),
            username: user.username.clone(),
            role: user.role.name(),
            is_email_verified: user.is_email_verified,
            has_two_factor: user.has_two_factor(),
            is_erased: user.is_erased,
            tier: user.tier.clone(),
            created_at: user.created_at.to_rfc3339(),
        }
    }
}

/// Which users.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsersQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^user-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    cursor: Option<String>,
    /// Only users of this role: `user` or `admin`.
    #[param(pattern = "^(user|admin)$")]
    role: Option<String>,
    /// Only users whose rate limit tier was set to this.
    #[param(max_length = 64)]
    tier: Option<String>,
    /// Only users whose live account is `open`, or `suspended`.
    #[param(pattern = "^(open|suspended)$")]
    status: Option<String>,
    /// Only users who have proved their address; `false`: only those who have not.
    verified: Option<bool>,
    /// `newest` (default), `oldest`, or `balance`: the highest live balance first.
    #[param(pattern = "^(newest|oldest|balance)$")]
    sort: Option<String>,
    /// Only users whose email or username contains this, in any case.
    #[param(min_length = 1, max_length = 254, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    search: Option<String>,
}

impl UsersQuery {
    /// What leaves users out, and their order.
    fn search(self, limit: u64, today: Day) -> Result<UserSearch, ApiError> {
        let role = match self.role.as_deref() {
            None => None,
            Some("user") => Some(Role::User),
            Some("admin") => Some(Role::Admin),
            Some(_) => return Err(ApiError::field("role", "must be user or admin")),
        };
        let status = self.status.as_deref().map(|name| {
            let unknown = || ApiError::field("status", "must be open or suspended");
            AccountStatus::from_name(name).ok_or_else(unknown)
        });
        let order = match self.sort.as_deref() {
            None | Some("newest") => UserOrder::Newest,
            Some("oldest") => UserOrder::Oldest,
            Some("balance") => UserOrder::Balance,
            Some(_) => return Err(ApiError::field("sort", "must be newest, oldest or balance")),
        };
        Ok(UserSearch {
            text: self.search.map(|search| searchable("search", search)).transpose()?,
            role,
            tier: text("tier", self.tier, TIER_CHARACTERS_MAX)?,
            is_verified: self.verified,
            status: status.transpose()?,
            order,
            spent_since: Day(today.0.saturating_sub(SPENT_DAYS - 1)),
            before: read_cursor(self.cursor.as_deref())?,
            limit,
        })
    }
}

/// Over how many days it is summed up what a user's calls cost: today, and those before it.
const SPENT_DAYS: i32 = 30;
/// The longest name of a tier in a query, in characters.
const TIER_CHARACTERS_MAX: usize = 64;

/// A text that can be searched for.
pub(super) fn searchable(field: &str, text: String) -> Result<String, ApiError> {
    if (1..=254).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    let message = "must have from 1 to 254 characters, without control characters";
    Err(ApiError::field(field, message))
}

/// A user of a list, as operators see them.
#[derive(Serialize, ToSchema)]
pub(super) struct ListedUserBody {
    #[serde(flatten)]
    user: AdminUserBody,
    /// The sum of the live account's ledger.
    balance: Amount,
    /// `USD`
    currency: &'static str,
    /// Of the live account: `open` or `suspended`.
    #[schema(pattern = "^(open|suspended)$")]
    status: &'static str,
    /// What the live account's calls of today and of the 29 days before it cost.
    spent_30d: Amount,
    /// When the last call of the live account arrived, as long as calls are kept.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_call_at: Option<String>,
}

impl From<&ListedUser> for ListedUserBody {
    fn from(listed: &ListedUser) -> Self {
        ListedUserBody {
            user: AdminUserBody::from(&listed.user),
            balance: Amount(listed.balance),
            currency: "USD",
            status: listed.status.name(),
            spent_30d: Amount(listed.spent),
            last_call_at: listed.last_call_at.map(Timestamp::to_rfc3339),
        }
    }
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub(super) struct UsersPage {
    users: Vec<ListedUserBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Users, with the balance of their live account. The audit log says that the operator has read of
/// each.
#[utoipa::path(get, path = "/api/admin/users", tag = "admin", security(("jwt" = [])),
    params(UsersQuery), responses(
    (status = 200, description = "A page of users", body = UsersPage),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn users(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: UsersQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let search = asked.search(limit.saturating_add(1), app.clock.now().day())?;
    let reading = async move { app.admin.users(search, origin).await };
    let mut users = uncancelled(reading).await?;
    let next_cursor = cut(&mut users, limit).map(|listed| listed.user.id.to_string());
    let users = users.iter().map(ListedUserBody::from).collect();
    Ok(page_of(&request, next_cursor.as_deref()).amounts(UsersPage { users, next_cursor }))
}

/// One of a user's accounts.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountBody {
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    /// `open` or `suspended`
    #[schema(pattern = "^(open|suspended)$")]
    status: &'static str,
    /// `USD`
    currency: &'static str,
    balance: Amount,
    /// Reserved by calls that run.
    held: Amount,
    /// What a call can spend now.
    available: Amount,
}

impl From<&(Environment, Snapshot)> for AccountBody {
    fn from((environment, account): &(Environment, Snapshot)) -> Self {
        AccountBody {
            environment: environment.name(),
            status: account.status.name(),
            currency: "USD",
            balance: Amount(account.balance),
            held: Amount(account.held),
            available: Amount(account.available),
        }
    }
}

/// A user with their accounts and keys.
#[derive(Serialize, ToSchema)]
pub(super) struct UserViewBody {
    user: AdminUserBody,
    accounts: Vec<AccountBody>,
    keys: Vec<KeyBody>,
}

/// One user with their accounts and keys. The audit log says that the operator has read it.
#[utoipa::path(get, path = "/api/admin/users/{id}", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), responses(
    (status = 200, description = "The user", body = UserViewBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn user(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (id, soon) = (user_id(&id)?, app.keys.soon());
    let reading = async move { app.admin.user(id, origin).await };
    let UserView { user, accounts, keys } = uncancelled(reading).await?;
    let user = AdminUserBody::from(&user);
    let accounts = accounts.iter().map(AccountBody::from).collect();
    let keys = keys.into_iter().map(|key| KeyBody::new(key, soon)).collect();
    Ok(HttpResponse::Ok().amounts(UserViewBody { user, accounts, keys }))
}

/// The id in the path. A malformed id is answered like one that does not exist.
pub(super) fn user_id(path: &Path<String>) -> Result<UserId, ApiError> {
    path.parse().map_err(|_| AdminError::NoUser.into())
}

/// Why something is done.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReasonBody {
    /// For the audit log.
    #[serde(default)]
    #[garde(length(chars, max = 500), custom(is_printable))]
    #[schema(max_length = 500, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    reason: String,
}

impl ReasonBody {
    /// The reason; empty if none was given.
    pub(super) fn into_reason(self) -> String {
        self.reason
    }
}

/// Whether a user's accounts can be used.
#[derive(Serialize, ToSchema)]
pub(super) struct StatusAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// `open` or `suspended`
    #[schema(pattern = "^(open|suspended)$")]
    status: &'static str,
}

/// Suspends a user's accounts, and ends every session. Binds for the very next call. The body may
/// be left out.
#[utoipa::path(post, path = "/api/admin/users/{id}/suspend", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = Option<ReasonBody>, responses(
    (status = 200, description = "Suspended", body = StatusAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "The user has erased the account", body = ErrorBody),
))]
pub(super) async fn suspend(
    asked: WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    set_status(asked, app, &id, AccountStatus::Suspended).await
}

/// Resumes a user's accounts. Binds for the very next call. The body may be left out.
#[utoipa::path(post, path = "/api/admin/users/{id}/resume", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = Option<ReasonBody>, responses(
    (status = 200, description = "Open again", body = StatusAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "The user has erased the account", body = ErrorBody),
))]
pub(super) async fn resume(
    asked: WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    set_status(asked, app, &id, AccountStatus::Open).await
}

async fn set_status(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: &Path<String>,
    status: AccountStatus,
) -> Result<HttpResponse, ApiError> {
    let user = user_id(id)?;
    let ReasonBody { reason } = body.json_or_nothing()?.unwrap_or_default();
    let set = async move { app.admin.set_status(user, status, reason, origin).await };
    uncancelled(set).await?;
    Ok(HttpResponse::Ok().json(StatusAnswer { user_id: user.to_string(), status: status.name() }))
}

/// Sessions that were ended.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionsEndedAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    sessions_ended: u64,
}

/// Ends every session of a user, for the very next request. The body may be left out.
#[utoipa::path(post, path = "/api/admin/users/{id}/end-sessions", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = Option<ReasonBody>, responses(
    (status = 200, description = "Ended", body = SessionsEndedAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
))]
pub(super) async fn end_sessions(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = user_id(&id)?;
    let ReasonBody { reason } = body.json_or_nothing()?.unwrap_or_default();
    let ending = async move { app.admin.end_sessions(user, reason, origin).await };
    let sessions_ended = uncancelled(ending).await?;
    let user_id = user.to_string();
    Ok(HttpResponse::Ok().json(SessionsEndedAnswer { user_id, sessions_ended }))
}

/// Credits to give or take.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreditsBody {
    /// USD. Positive gives credits; negative takes them, at most what is available.
    #[garde(custom(is_not_zero))]
    #[schema(value_type = f64, example = 25.00)]
    amount: Amount,
    /// Why, for the audit log.
    #[garde(length(chars, min = 1, max = 500), custom(is_printable))]
    #[schema(
        example = "refund of ticket 42",
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    reason: String,
    /// `live` (default) or `test`.
    #[serde(default)]
    #[garde(skip)]
    environment: EnvironmentName,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
fn is_not_zero(Amount(amount): &Amount, (): &()) -> garde::Result {
    if *amount == Credits::ZERO { Err(garde::Error::new("must not be 0")) } else { Ok(()) }
}

/// Where the user is whose credits were changed.
fn location(change: &CreditsChange) -> String {
    format!("/api/admin/users/{}", change.user)
}

/// Credits that were given or taken.
#[derive(Serialize, ToSchema)]
pub(super) struct CreditsAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// Negative was taken.
    amount: Amount,
    /// `USD`
    currency: &'static str,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    reason: String,
}

impl CreditsAnswer {
    fn of(change: &CreditsChange) -> Self {
        let amount = match change.adjustment {
            Adjustment::Grant(amount) => amount,
            Adjustment::Take(amount) => Credits::ZERO.checked_sub(amount).unwrap_or(Credits::ZERO),
        };
        CreditsAnswer {
            user_id: change.user.to_string(),
            amount: Amount(amount),
            currency: "USD",
            environment: change.environment.name(),
            reason: change.reason.clone(),
        }
    }
}

/// Gives a user credits, or takes them.
#[utoipa::path(post, path = "/api/admin/users/{id}/credits", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = CreditsBody, responses(
    (status = 201, description = "Given or taken", body = CreditsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 400, description = "More than an operator may grant at once, or another field is wrong", body = ErrorBody),
    (status = 409, description = "More than the account has or can hold, or than the operator may grant in a \
        day, or the account is suspended or erased, or the first request with this Idempotency-Key still runs", body = ErrorBody),
    (status = 422, description = "The Idempotency-Key was used for another request", body = ErrorBody),
))]
pub(super) async fn change_credits(
    WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = user_id(&id)?;
    let once = once(&request, &body, CreditsAnswer::of, location)?;
    let CreditsBody { amount: Amount(amount), reason, environment } = body.json()?;
    let adjustment = match Credits::ZERO.checked_sub(amount) {
        Some(taken) if amount.is_negative() => Adjustment::Take(taken),
        _ => Adjustment::Grant(amount),
    };
    let change = CreditsChange { user, environment: environment.into(), adjustment, reason };
    let AdminUser { id, origin, .. } = operator;
    let changing = async move { app.admin.change_credits(id, change, once, origin).await };
    Ok(match uncancelled(changing).await? {
        Made::New(change) => created(&location(&change)).amounts(CreditsAnswer::of(&change)),
        Made::Repeat(kept) => replay(kept),
    })
}

/// A rate limit tier.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct TierBody {
    /// One of the settings' tiers; null is the default one.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, example = "pro")]
    tier: Option<String>,
}

/// A user's rate limit tier.
#[derive(Serialize, ToSchema)]
pub(super) struct TierAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// null is the default one.
    tier: Option<String>,
}

/// Sets a user's rate limit tier. Binds for the very next call.
#[utoipa::path(put, path = "/api/admin/users/{id}/tier", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = TierBody, responses(
    (status = 200, description = "The tier", body = TierAnswer),
    (status = 400, description = "There is no such tier", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user", body = ErrorBody),
    (status = 409, description = "The user has erased the account", body = ErrorBody),
))]
pub(super) async fn set_tier(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = user_id(&id)?;
    let TierBody { tier } = body.json()?;
    let answer = TierAnswer { user_id: user.to_string(), tier: tier.clone() };
    let set = async move { app.admin.set_tier(user, tier, origin).await };
    uncancelled(set).await?;
    Ok(HttpResponse::Ok().json(answer))
}
