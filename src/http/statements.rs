//! Monthly statements and receipts, as JSON, CSV, or a page to print.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::{Amount, WithAmounts as _};
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::page::query;
use super::payments::PaymentAnswer;
use super::transactions::disposition;
use crate::reports::{KindTotal, PaymentReceipt, ReportsError, Statement, date};
use crate::store::ledger::DaySum;
use crate::store::users::User;
use domain::{Month, PaymentId, Reversal};

/// How a statement or a receipt is written.
#[derive(Clone, Copy, Debug)]
enum Format {
    Json,
    Csv,
    Html,
}

/// Which statement, and how.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StatementQuery {
    /// `json` (default), `csv`, or `html` to be printed.
    #[param(pattern = "^(json|csv|html)$")]
    format: Option<String>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
}

fn format(text: Option<&str>) -> Result<Format, ApiError> {
    match text {
        None | Some("json") => Ok(Format::Json),
        Some("csv") => Ok(Format::Csv),
        Some("html") => Ok(Format::Html),
        Some(_) => Err(ApiError::field("format", "must be json, csv or html")),
    }
}

/// What the transactions of a kind come to.
#[derive(Serialize, ToSchema)]
pub(super) struct KindSum {
    kind: &'static str,
    #[schema(minimum = 0)]
    count: i64,
    /// With its sign.
    amount: Amount,
}

/// What the transactions of a kind and a day come to.
#[derive(Serialize, ToSchema)]
pub(super) struct DayAndKindSum {
    /// The UTC day.
    #[schema(format = Date)]
    day: String,
    kind: &'static str,
    #[schema(minimum = 0)]
    count: i64,
    /// With its sign.
    amount: Amount,
}

/// What an account's ledger comes to in a UTC month. The opening balance and all amounts come to
/// the closing one.
#[derive(Serialize, ToSchema)]
pub(super) struct StatementBody {
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// Such as `2026-11`.
    month: String,
    environment: EnvironmentName,
    /// `USD`
    currency: &'static str,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    until: String,
    /// Will anything be added to it?
    is_complete: bool,
    opening_balance: Amount,
    closing_balance: Amount,
    totals: Vec<KindSum>,
    days: Vec<DayAndKindSum>,
}

fn statement_body(
    user: &User,
    environment: EnvironmentName,
    statement: Statement,
) -> StatementBody {
    let total = |sum: KindTotal| KindSum {
        kind: sum.kind.name(),
        count: sum.count,
        amount: Amount(sum.amount),
    };
    let day = |sum: DaySum| DayAndKindSum {
        day: date(sum.day.starts_at()),
        kind: sum.kind.name(),
        count: sum.count,
        amount: Amount(sum.amount),
    };
    let Statement { month, opening, closing, is_complete, totals, days } = statement;
    StatementBody {
        user_id: user.id.to_string(),
        month: month.to_string(),
        environment,
        currency: "USD",
        from: month.starts_at().to_rfc3339(),
        until: month.ends_at().to_rfc3339(),
        is_complete,
        opening_balance: Amount(opening),
        closing_balance: Amount(closing),
        totals: totals.into_iter().map(total).collect(),
        days: days.into_iter().map(day).collect(),
    }
}

/// The statement of a UTC month.
#[utoipa::path(get, path = "/api/payments/statements/{month}", tag = "payments", security(("jwt" = [])),
    params(("month" = String, Path, description = "Such as `2026-11`", pattern = "^[0-9]{4}-(0[1-9]|1[0-2])$"),
    StatementQuery), responses(
    (status = 200, description = "The statement", content(
        (StatementBody = "application/json"), (String = "text/csv"), (String = "text/html"))),
    (status = 404, description = "No such month, or one that has not begun", body = ErrorBody),
))]
pub(super) async fn statement(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    month: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked: StatementQuery = query(&request)?;
    let (environment, how) = (asked.environment, format(asked.format.as_deref())?);
    let now = app.clock.now();
    let month = Month::parse(&month).filter(|month| month.starts_at() <= now);
    let month = month.ok_or(ApiError::NotFound("month"))?;
    let statement = app.reports.statement(user.id, environment.into(), month).await?;
    Ok(match how {
        Format::Csv => csv(statement.to_csv(), &format!("statement-{month}.csv")),
        Format::Html => html(statement.to_html(&user)),
        Format::Json => HttpResponse::Ok().amounts(statement_body(&user, environment, statement)),
    })
}

pub(super) fn csv(text: String, name: &str) -> HttpResponse {
    let mut response =
        HttpResponse::Ok().content_type("text/csv; charset=utf-8; header=present").body(text);
    disposition(&mut response, name);
    response
}

fn html(page: String) -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page)
}

/// Which form of a receipt.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReceiptQuery {
    /// `json` (default), `csv`, or `html` to be printed.
    #[param(pattern = "^(json|csv|html)$")]
    format: Option<String>,
}

/// What was paid, and what of it was taken back.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceiptBody {
    #[schema(value_type = id::UserId)]
    user_id: String,
    username: String,
    email: String,
    payment: PaymentAnswer,
    /// Taken back of it so far.
    reversed: Amount,
    reversals: Vec<ReversalBody>,
}

/// What a provider took back of a payment.
#[derive(Serialize, ToSchema)]
pub(super) struct ReversalBody {
    /// `refund` or `dispute`
    #[schema(pattern = "^(refund|dispute)$")]
    kind: &'static str,
    /// How much the provider takes back; 0 where it came to nothing.
    amount: Amount,
    /// How much of it the balance has given so far.
    taken: Amount,
    #[schema(format = DateTime)]
    created_at: String,
}

/// The receipt of a confirmed payment.
#[utoipa::path(get, path = "/api/payments/payments/{id}/receipt", tag = "payments", security(("jwt" = [])),
    params(("id" = id::PaymentId, Path), ReceiptQuery), responses(
    (status = 200, description = "The receipt", content(
        (ReceiptBody = "application/json"), (String = "text/csv"), (String = "text/html"))),
    (status = 404, description = "The user has no such payment", body = ErrorBody),
    (status = 409, description = "The payment is not confirmed", body = ErrorBody),
))]
pub(super) async fn receipt(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked: ReceiptQuery = query(&request)?;
    let how = format(asked.format.as_deref())?;
    let id: PaymentId = id.parse().map_err(|_| ApiError::from(ReportsError::NoPayment))?;
    let receipt = app.reports.receipt(user.id, id).await?;
    Ok(match how {
        Format::Csv => csv(receipt.to_csv(), &format!("receipt-{id}.csv")),
        Format::Html => html(receipt.to_html(&user)),
        Format::Json => HttpResponse::Ok().amounts(receipt_body(user, receipt)),
    })
}

fn receipt_body(user: User, receipt: PaymentReceipt) -> ReceiptBody {
    let reversal = |reversal: Reversal| ReversalBody {
        kind: reversal.kind.name(),
        amount: Amount(reversal.wanted),
        taken: Amount(reversal.taken),
        created_at: reversal.created_at.to_rfc3339(),
    };
    let PaymentReceipt { payment, reversed, reversals } = receipt;
    ReceiptBody {
        user_id: user.id.to_string(),
        username: user.username,
        email: user.email,
        payment: payment.into(),
        reversed: Amount(reversed),
        reversals: reversals.into_iter().map(reversal).collect(),
    }
}
