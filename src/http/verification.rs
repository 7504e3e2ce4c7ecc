//! `/api/admin/verify` and `/api/admin/quarantine`: whether the ledger is right, and the accounts
//! that are blocked because theirs is not. For operators.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::admin::ReasonBody;
use super::answers::page_of;
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithBody};
use super::page::{EntryCursor, cut, page_limit, query, read_cursor};
use super::{App, uncancelled};
use crate::store::verifications::EndedVerification;
use crate::verify::quarantine::{BlockedAccount, ReleaseError};
use crate::verify::runs::RunningVerification;
use crate::verify::{Finding, Report};
use domain::{AccountId, Actor, Timestamp};

/// Who has a verification run, as answers name it.
const fn by(actor: Actor) -> &'static str {
    match actor {
        Actor::Server => "schedule",
        Actor::CommandLine => "command",
        Actor::User(_) | Actor::Operator(_) => "operator",
    }
}

/// How much was checked.
#[derive(Serialize, ToSchema)]
pub(super) struct CheckedBody {
    #[schema(minimum = 0)]
    accounts: u64,
    /// Entries of the ledgers.
    #[schema(minimum = 0)]
    entries: u64,
    /// Bills, which were computed again.
    #[schema(minimum = 0)]
    bills: u64,
    #[schema(minimum = 0)]
    usage_records: u64,
    /// How many things were wrong.
    #[schema(minimum = 0)]
    findings: u64,
}

impl From<Report> for CheckedBody {
    fn from(Report { accounts, entries, bills, usage, findings }: Report) -> Self {
        CheckedBody { accounts, entries, bills, usage_records: usage, findings }
    }
}

/// A verification that runs.
#[derive(Serialize, ToSchema)]
pub(super) struct RunningBody {
    #[schema(format = DateTime)]
    began_at: String,
    /// `schedule`: the server by itself. `operator`: one who has asked for it.
    #[schema(pattern = "^(schedule|operator)$")]
    by: &'static str,
    /// The operator.
    #[schema(value_type = Option<id::UserId>)]
    operator_id: Option<String>,
    /// What is checked so far.
    so_far: CheckedBody,
    /// How many accounts there are.
    #[schema(minimum = 0)]
    accounts: u64,
}

impl From<RunningVerification> for RunningBody {
    fn from(running: RunningVerification) -> Self {
        RunningBody {
            began_at: running.began_at.to_rfc3339(),
            by: by(running.actor),
            operator_id: running.actor.person().map(|person| person.to_string()),
            so_far: running.so_far.into(),
            accounts: running.accounts,
        }
    }
}

/// Something that a verification has found wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct FindingBody {
    /// The number of the account; null if it is of no account.
    account: Option<i64>,
    /// What is wrong.
    what: String,
}

impl From<Finding> for FindingBody {
    fn from(finding: Finding) -> Self {
        FindingBody { account: finding.account.map(|account| account.0), what: finding.what }
    }
}

/// A verification that has ended.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedBody {
    #[schema(format = DateTime)]
    began_at: String,
    #[schema(format = DateTime)]
    ended_at: String,
    #[schema(minimum = 0)]
    duration_ms: i64,
    /// `schedule`: the server by itself. `command`: `polysystems verify`. `operator`: one who has
    /// asked for it.
    #[schema(pattern = "^(schedule|command|operator)$")]
    by: &'static str,
    /// The operator.
    #[schema(value_type = Option<id::UserId>)]
    operator_id: Option<String>,
    /// `agrees`: nothing is wrong. `disagrees`: something is. `failed`: it could not run to its
    /// end.
    #[schema(pattern = "^(agrees|disagrees|failed)$")]
    result: &'static str,
    /// Why it failed.
    failure: Option<String>,
    checked: CheckedBody,
    /// What was wrong, at most the first 100.
    findings: Vec<FindingBody>,
}

impl From<(EndedVerification, Vec<Finding>)> for EndedBody {
    fn from((ended, found): (EndedVerification, Vec<Finding>)) -> Self {
        let [accounts, entries, bills, usage_records, findings] = ended.counts;
        let result = match (&ended.failure, findings) {
            (Some(_), _) => "failed",
            (None, 0) => "agrees",
            (None, _) => "disagrees",
        };
        let micros = ended.ended_at.micros().saturating_sub(ended.began_at.micros());
        EndedBody {
            began_at: ended.began_at.to_rfc3339(),
            ended_at: ended.ended_at.to_rfc3339(),
            duration_ms: (micros / 1_000).max(0),
            by: by(ended.actor),
            operator_id: ended.actor.person().map(|person| person.to_string()),
            result,
            failure: ended.failure,
            checked: CheckedBody { accounts, entries, bills, usage_records, findings },
            findings: found.into_iter().map(FindingBody::from).collect(),
        }
    }
}

/// The verifications of the ledger.
#[derive(Serialize, ToSchema)]
pub(super) struct VerificationAnswer {
    /// The one that this server runs now.
    running: Option<RunningBody>,
    /// The one that has ended last.
    last: Option<EndedBody>,
    /// How often the server verifies by itself, in hours (`ledger.verify_hours`); null is never.
    #[schema(minimum = 1)]
    every_hours: Option<u32>,
}

/// The last verification of the ledger, and the one that runs now.
#[utoipa::path(get, path = "/api/admin/verify", tag = "admin", security(("jwt" = [])), responses(
    (status = 200, description = "The verifications", body = VerificationAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn seen(_: AdminUser, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let seen = app.verifier.seen().await?;
    Ok(HttpResponse::Ok().json(VerificationAnswer {
        running: seen.running.map(RunningBody::from),
        last: seen.last.map(EndedBody::from),
        every_hours: app.verify_hours,
    }))
}

/// Verifies every ledger, in the background: `GET /api/admin/verify` says how far it is, and what
/// it has found. One runs at a time. The body may be left out.
#[utoipa::path(post, path = "/api/admin/verify", tag = "admin", security(("jwt" = [])),
    request_body = Option<ReasonBody>, responses(
    (status = 202, description = "It runs", body = VerificationAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 409, description = "One runs already", body = ErrorBody),
))]
pub(super) async fn start(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let reason = body.json_or_nothing::<ReasonBody>()?.unwrap_or_default().into_reason();
    let starting = {
        let app = app.clone();
        async move {
            app.verifier.start(reason, origin).await?;
            Ok::<_, ApiError>(app.verifier.seen().await?)
        }
    };
    let seen = uncancelled(starting).await?;
    Ok(HttpResponse::Accepted().json(VerificationAnswer {
        running: seen.running.map(RunningBody::from),
        last: seen.last.map(EndedBody::from),
        every_hours: app.verify_hours,
    }))
}

/// A page of quarantined accounts.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QuarantineQuery {
    /// Page size, from 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[1-9][0-9]*$")]
    cursor: Option<String>,
}

/// A quarantined account.
#[derive(Serialize, ToSchema)]
pub(super) struct BlockedAccountBody {
    /// Its number, as findings name it.
    account: i64,
    /// Whose it is.
    #[schema(value_type = Option<id::UserId>)]
    user_id: Option<String>,
    /// `live` or `test`
    #[schema(value_type = Option<EnvironmentName>)]
    environment: Option<&'static str>,
    /// When this server has found it; null if no call has met it since the server's start.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Why it cannot be used.
    reason: String,
    /// Have all its entries been checked? If not, ask again in a while.
    is_checked: bool,
    /// The number of the first entry that is not as it must be; null if each of them is, or if it
    /// is not checked.
    first_wrong_entry: Option<i64>,
    /// What is wrong, at most the first 100. Empty, and checked: nothing any more, so that it can
    /// be released.
    findings: Vec<String>,
}

impl From<BlockedAccount> for BlockedAccountBody {
    fn from(blocked: BlockedAccount) -> Self {
        let is_checked = blocked.check.is_some();
        let check = blocked.check.unwrap_or_default();
        BlockedAccountBody {
            account: blocked.account.0,
            user_id: blocked.owner.map(|(user, _)| user.to_string()),
            environment: blocked.owner.map(|(_, environment)| environment.name()),
            since: blocked.since.map(Timestamp::to_rfc3339),
            reason: blocked.what,
            is_checked,
            first_wrong_entry: check.first_wrong,
            findings: check.findings,
        }
    }
}

/// A page of quarantined accounts.
#[derive(Serialize, ToSchema)]
pub(super) struct QuarantinePage {
    accounts: Vec<BlockedAccountBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Accounts that are blocked because their records disagree, by their number: those that calls
/// have met since the server's start, and those whose entries the tables refuse. The audit log
/// says that the operator has read of each owner.
#[utoipa::path(get, path = "/api/admin/quarantine", tag = "admin", security(("jwt" = [])),
    params(QuarantineQuery), responses(
    (status = 200, description = "A page of accounts", body = QuarantinePage),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn quarantine(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let QuarantineQuery { limit, cursor } = query(&request)?;
    let limit = page_limit(limit)?;
    let after = read_cursor(cursor.as_deref())?.map(|EntryCursor(number)| AccountId(number));
    let reading = async move { app.quarantine.list(after, limit.saturating_add(1), origin).await };
    let mut accounts = uncancelled(reading).await?;
    let next_cursor = cut(&mut accounts, limit).map(|blocked| blocked.account.0.to_string());
    let accounts = accounts.into_iter().map(BlockedAccountBody::from).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(QuarantinePage { accounts, next_cursor }))
}

/// An account that was released.
#[derive(Serialize, ToSchema)]
pub(super) struct ReleasedAnswer {
    account: i64,
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
}

/// Lets a quarantined account be used again, if all its entries are checked and nothing is wrong
/// with them any more. The body may be left out.
#[utoipa::path(post, path = "/api/admin/quarantine/{account}/release", tag = "admin",
    security(("jwt" = [])),
    params(("account" = i64, Path, description = "The number of the account")),
    request_body = Option<ReasonBody>, responses(
    (status = 200, description = "Released", body = ReleasedAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "The account is not quarantined", body = ErrorBody),
    (status = 409, description = "Its records do not agree yet; `message` says what is wrong", body = ErrorBody),
))]
pub(super) async fn release(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    account: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let reason = body.json_or_nothing::<ReasonBody>()?.unwrap_or_default().into_reason();
    let EntryCursor(account) =
        account.parse().map_err(|_| ApiError::from(ReleaseError::NotQuarantined))?;
    let releasing = async move { app.quarantine.release(AccountId(account), reason, origin).await };
    let (user, environment) = uncancelled(releasing).await?;
    let (user_id, environment) = (user.to_string(), environment.name());
    Ok(HttpResponse::Ok().json(ReleasedAnswer { account, user_id, environment }))
}
