//! `/api/monitoring/requests`: the recent calls of an account.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::{Amount, WithAmounts as _};
use super::answers::page_of;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::monitoring::filter;
use super::page::{page_limit, query, read_cursor};
use super::transactions::time;
use crate::reports::{CallView, ReportsError};
use crate::store::reports::{CallFilter, CallRow};
use domain::{ChargeId, Ending, LedgerEntry, Tally, UserId};

/// Which calls.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CallsQuery {
    /// At most so many, from 1 to 100; 50 where absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    #[param(pattern = "^req-[0-9a-f-]{36}$")]
    cursor: Option<String>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
    /// Calls of this key alone.
    #[param(value_type = Option<id::KeyId>)]
    key_id: Option<String>,
    /// Calls of this route alone, as the price list has it.
    #[param(max_length = 2048)]
    endpoint: Option<String>,
    /// Calls that asked for this model alone.
    #[param(max_length = 64)]
    model: Option<String>,
    /// Calls answered with this HTTP status alone; 0 of those that nobody reported.
    #[param(minimum = 0, maximum = 599)]
    status: Option<u16>,
    /// Calls that this upstream served alone.
    #[param(max_length = 64)]
    upstream: Option<String>,
    /// Calls that began at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Calls that began before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Calls that ended so alone, as in `ending` of a call.
    #[param(
        pattern = "^(completed|failed|upstream_cut|client_left|client_left_drained|credits_ended|unwritable|server_stopped)$"
    )]
    ending: Option<String>,
    /// The call with this id alone.
    #[param(pattern = "^req-[0-9a-f-]{36}$")]
    request_id: Option<String>,
}

impl CallsQuery {
    /// What leaves calls out.
    fn filter(self) -> Result<CallFilter, ApiError> {
        let CallsQuery { key_id, endpoint, model, status, upstream, .. } = self;
        let id = self.request_id.as_deref().map(str::parse::<ChargeId>).transpose();
        let unknown = || {
            let names: Vec<&str> = Ending::ALL.into_iter().map(ending).collect();
            ApiError::field("ending", format!("must be one of {}", names.join(", ")))
        };
        let named = |name: String| Ending::ALL.into_iter().find(|one| ending(*one) == name);
        let ending = self.ending.map(|name| named(name).ok_or_else(unknown)).transpose()?;
        Ok(CallFilter {
            usage: filter(key_id.as_deref(), endpoint, model, status, upstream)?,
            id: id.map_err(|error| ApiError::field("request_id", error.to_string()))?,
            from: time("from", self.from.as_deref())?,
            until: time("until", self.until.as_deref())?,
            ending,
        })
    }
}

/// One call.
#[derive(Serialize, ToSchema)]
pub(super) struct CallBody {
    /// As in the headers `X-Request-Id` and `X-Polysystems-Charge`.
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    request_id: String,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(value_type = id::KeyId)]
    key_id: String,
    method: String,
    /// The route, as the price list has it.
    endpoint: String,
    /// The model asked for; null where none was named.
    model: Option<String>,
    /// Who served it.
    upstream: String,
    /// The HTTP status answered.
    status: i16,
    /// `completed`, `failed`, `upstream_cut`, `client_left`, `client_left_drained`,
    /// `credits_ended`, `unwritable` or `server_stopped`.
    ending: &'static str,
    cost: Amount,
    #[schema(minimum = 0)]
    prompt_tokens: i64,
    #[schema(minimum = 0)]
    completion_tokens: i64,
    /// From arrival to the upstream's answer.
    #[schema(minimum = 0)]
    latency_ms: i64,
}

impl From<CallRow> for CallBody {
    fn from(call: CallRow) -> Self {
        CallBody {
            request_id: call.id.to_string(),
            started_at: call.started_at.to_rfc3339_micros(),
            key_id: call.key.to_string(),
            method: call.method,
            endpoint: call.route,
            model: Some(call.model).filter(|model| !model.is_empty()),
            upstream: call.upstream,
            status: call.status,
            ending: ending(call.ending),
            cost: Amount(call.cost),
            prompt_tokens: call.prompt_tokens,
            completion_tokens: call.completion_tokens,
            latency_ms: call.latency_micros.max(0) / 1_000,
        }
    }
}

const fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Completed => "completed",
        Ending::Failed => "failed",
        Ending::UpstreamCut => "upstream_cut",
        Ending::ClientLeft => "client_left",
        Ending::ClientLeftDrained => "client_left_drained",
        Ending::CreditsEnded => "credits_ended",
        Ending::Unwritable => "unwritable",
        Ending::ServerStopped => "server_stopped",
    }
}

/// A page of calls.
#[derive(Serialize, ToSchema)]
pub(super) struct CallsPage {
    requests: Vec<CallBody>,
    /// For the next page; null on the last one. A page of a list that is narrowed may have fewer
    /// than `limit`, or none, and a next one all the same.
    next_cursor: Option<String>,
}

/// The account's calls, latest first, as long as they are kept.
#[utoipa::path(get, path = "/api/monitoring/requests", tag = "monitoring", security(("jwt" = [])),
    params(CallsQuery), responses(
    (status = 200, description = "A page of calls", body = CallsPage),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    list_of(user.id, &app, &request).await
}

/// A page of a user's calls.
pub(super) async fn list_of(
    user: UserId,
    app: &App,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: CallsQuery = query(request)?;
    let limit = page_limit(asked.limit)?;
    let before: Option<ChargeId> = read_cursor(asked.cursor.as_deref())?;
    let (environment, filter) = (asked.environment, asked.filter()?);
    let calls = app.reports.calls(user, environment.into(), before, limit, filter).await;
    let (calls, next) = calls?;
    let requests = calls.into_iter().map(CallBody::from).collect();
    let next_cursor = next.map(|id| id.to_string());
    Ok(page_of(request, next_cursor.as_deref()).amounts(CallsPage { requests, next_cursor }))
}

/// An entry of the ledger that a call has made, or that was made for it later.
#[derive(Serialize, ToSchema)]
pub(super) struct CallEntryBody {
    #[schema(minimum = 1)]
    sequence: i64,
    /// `charge` or `capture`, which pay for the call; `refund`, `grant` or `deduction`, which
    /// correct it.
    #[schema(pattern = "^(charge|capture|refund|grant|deduction)$")]
    kind: &'static str,
    /// Negative takes from the balance.
    amount: Amount,
    balance_after: Amount,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<LedgerEntry> for CallEntryBody {
    fn from(entry: LedgerEntry) -> Self {
        CallEntryBody {
            sequence: entry.seq,
            kind: entry.kind.name(),
            amount: Amount(entry.amount),
            balance_after: Amount(entry.balance_after),
            created_at: entry.at.to_rfc3339_micros(),
        }
    }
}

/// One call with its money.
#[derive(Serialize, ToSchema)]
pub(super) struct CallDetailBody {
    #[serde(flatten)]
    call: CallBody,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    /// Where the numbers of tokens come from: `reported` by the upstream; `counted` here, because
    /// it reported none; `absurd`, counted here because it reported negative ones; `clamped` to
    /// what was held, because it reported more; or `held`, all that was held, because nobody can
    /// say.
    #[schema(pattern = "^(reported|counted|absurd|clamped|held)$")]
    tally: &'static str,
    /// The call's entries of the ledger, in their order; none if it was free.
    entries: Vec<CallEntryBody>,
    /// Is there a bill at `/api/payments/transactions/{request_id}/bill`?
    has_bill: bool,
}

impl From<CallView> for CallDetailBody {
    fn from(view: CallView) -> Self {
        let CallView { environment, call, entries } = view;
        CallDetailBody {
            tally: tally(call.tally),
            call: CallBody::from(call),
            environment: environment.name(),
            has_bill: entries.iter().any(|entry| entry.bill.is_some()),
            entries: entries.into_iter().map(CallEntryBody::from).collect(),
        }
    }
}

const fn tally(tally: Tally) -> &'static str {
    match tally {
        Tally::Reported => "reported",
        Tally::Counted => "counted",
        Tally::Absurd => "absurd",
        Tally::Clamped => "clamped",
        Tally::Held => "held",
    }
}

/// One of the user's calls, live or test, with its entries of the ledger, as long as it is kept.
#[utoipa::path(get, path = "/api/monitoring/requests/{id}", tag = "monitoring", security(("jwt" = [])),
    params(("id" = String, Path, description = "The call: `req-<uuid>`")), responses(
    (status = 200, description = "The call", body = CallDetailBody),
    (status = 404, description = "The user has no such call on record", body = ErrorBody),
))]
pub(super) async fn get(
    SessionUser(user): SessionUser,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id: ChargeId = id.parse().map_err(|_| ApiError::from(ReportsError::NoCall))?;
    let view = app.reports.call(user.id, id).await?;
    Ok(HttpResponse::Ok().amounts(CallDetailBody::from(view)))
}
