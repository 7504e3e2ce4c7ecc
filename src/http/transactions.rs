//! `/api/payments/transactions`, its export, receipts, and monthly statements.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::Pin;

use actix_web::http::header::{CONTENT_DISPOSITION, HeaderValue};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::Amount;
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::page::{EntryCursor, page_limit, query, read_cursor};
use super::payments::PaymentAnswer;
use crate::payments::PaymentsError;
use crate::store::ledger::{EntryFilter, EntryOfCall, StatementSums};
use crate::store::payments::Payment;
use crate::store::users::User;
use domain::{
    AccountId, ChargeId, Credits, EntryKind, KeyId, Month, PaymentId, PaymentStatus, Timestamp,
    UserId,
};

/// Entries of an export that are in memory at once.
const EXPORT_PAGE: u64 = 1_000;

/// One movement of money.
#[derive(Serialize, ToSchema)]
pub(super) struct TransactionBody {
    /// 1 for the account's first, then one more each, without a gap.
    #[schema(minimum = 1)]
    sequence: i64,
    /// `top_up`, `charge`, `capture`, `refund`, `grant`, `deduction`; `payment_refund` and `dispute`, by which a payment
    /// is taken back, and `reinstatement`, by which it is given again.
    #[schema(
        pattern = "^(top_up|charge|capture|refund|grant|deduction|payment_refund|dispute|reinstatement)$"
    )]
    kind: &'static str,
    /// Negative takes from the balance.
    amount: Amount,
    balance_after: Amount,
    /// `USD`
    currency: &'static str,
    /// What it belongs to: `pay-<uuid>`, `req-<uuid>` or `user-<uuid>`.
    #[schema(pattern = "^(pay|req|user)-[0-9a-f-]{36}$")]
    reference: String,
    /// The key that spent it.
    #[schema(value_type = Option<id::KeyId>)]
    key_id: Option<String>,
    /// The route that was called, where its record is kept.
    endpoint: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<EntryOfCall> for TransactionBody {
    fn from(of_call: EntryOfCall) -> Self {
        let EntryOfCall { entry, endpoint, .. } = of_call;
        let reference = match entry.kind {
            EntryKind::TopUp
            | EntryKind::PaymentRefund
            | EntryKind::Dispute
            | EntryKind::Reinstatement => PaymentId(entry.reference).to_string(),
            EntryKind::Grant | EntryKind::Deduction => UserId(entry.reference).to_string(),
            EntryKind::Charge | EntryKind::Capture | EntryKind::Refund => {
                ChargeId(entry.reference).to_string()
            }
        };
        TransactionBody {
            sequence: entry.seq,
            kind: entry.kind.name(),
            amount: Amount(entry.amount),
            balance_after: Amount(entry.balance_after),
            currency: "USD",
            reference,
            key_id: entry.key.map(|key| key.to_string()),
            endpoint: endpoint.map(|(_, route)| route),
            created_at: entry.at.to_rfc3339_micros(),
        }
    }
}

/// A page of the ledger.
#[derive(Serialize, ToSchema)]
pub(super) struct TransactionsPage {
    transactions: Vec<TransactionBody>,
    /// For the next page; null on the last one. A page of a list that is narrowed may have fewer than `limit`, or
    /// none, and a next one all the same.
    next_cursor: Option<String>,
}

/// Which transactions.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TransactionsQuery {
    /// At most so many, from 1 to 100; 50 where absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    #[param(pattern = "^[1-9][0-9]{0,18}$")]
    cursor: Option<String>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
    /// Not from before this time.
    #[param(format = DateTime)]
    from: Option<String>,
    /// From before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Of this kind.
    #[param(
        pattern = "^(top_up|charge|capture|refund|grant|deduction|payment_refund|dispute|reinstatement)$"
    )]
    kind: Option<String>,
    /// Spent by this key.
    #[param(value_type = Option<id::KeyId>)]
    key_id: Option<String>,
    /// Spent on this route, as the price list has it.
    #[param(max_length = 2048)]
    endpoint: Option<String>,
}

impl TransactionsQuery {
    fn filter(&self) -> Result<EntryFilter, ApiError> {
        let kind = self.kind.as_deref().map(|name| {
            let names: Vec<&str> = EntryKind::ALL.into_iter().map(EntryKind::name).collect();
            let unknown =
                || ApiError::field("kind", format!("must be one of {}", names.join(", ")));
            EntryKind::from_name(name).ok_or_else(unknown)
        });
        let key = self.key_id.as_deref().map(str::parse::<KeyId>).transpose();
        Ok(EntryFilter {
            from: time("from", self.from.as_deref())?,
            until: time("until", self.until.as_deref())?,
            kind: kind.transpose()?,
            key: key.map_err(|error| ApiError::field("key_id", error.to_string()))?,
            route: text("endpoint", self.endpoint.clone(), ROUTE_CHARACTERS_MAX)?,
        })
    }
}

/// A time of a query.
///
/// # Errors
/// [`ApiError::Validation`]
pub(super) fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let read = Timestamp::parse_rfc3339(text);
    let wrong = || ApiError::field(field, "must be a time such as 2026-11-30T00:00:00Z");
    read.map(Some).ok_or_else(wrong)
}

/// The longest route of a query, in characters.
pub(super) const ROUTE_CHARACTERS_MAX: usize = 2_048;

/// A text of a query, of at most `characters_max`, without control characters.
///
/// # Errors
/// [`ApiError::Validation`]
pub(super) fn text(
    field: &str,
    text: Option<String>,
    characters_max: usize,
) -> Result<Option<String>, ApiError> {
    let is_too_long = text.as_ref().is_some_and(|text| text.chars().nth(characters_max).is_some());
    if text.as_ref().is_some_and(|text| text.chars().any(char::is_control)) {
        return Err(ApiError::field(field, "must not have control characters"));
    }
    if is_too_long {
        let message = format!("must be at most {characters_max} characters");
        return Err(ApiError::field(field, message));
    }
    Ok(text)
}

/// The ledger of the user's account, newest first.
#[utoipa::path(get, path = "/api/payments/transactions", tag = "payments", security(("jwt" = [])),
    params(TransactionsQuery), responses(
    (status = 200, description = "A page of the ledger", body = TransactionsPage),
))]
pub(super) async fn list(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: TransactionsQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let before = read_cursor(asked.cursor.as_deref())?.map(|EntryCursor(seq)| seq);
    let (environment, filter) = (asked.environment.into(), asked.filter()?);
    let account = app.payments.whole_account(user.id, environment).await?;
    let page = app.store.list_entries(account, true, before, limit, filter).await?;
    let transactions = page.entries.into_iter().map(TransactionBody::from).collect();
    let next_cursor = page.next.map(|seq| EntryCursor(seq).to_string());
    Ok(HttpResponse::Ok().json(TransactionsPage { transactions, next_cursor }))
}

/// How an export or a statement is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// JSON.
    #[default]
    Json,
    /// Comma-separated values, after RFC 4180.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// A page to be printed.
    Html,
}

/// Which transactions, and how.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// `csv` (default) or `jsonl`.
    #[param(pattern = "^(csv|jsonl)$")]
    format: Option<String>,
    /// `live` (default) or `test`.
    #[param(value_type = Option<EnvironmentName>, inline)]
    environment: EnvironmentName,
    /// Not from before this time.
    #[param(format = DateTime)]
    from: Option<String>,
    /// From before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Of this kind.
    #[param(
        pattern = "^(top_up|charge|capture|refund|grant|deduction|payment_refund|dispute|reinstatement)$"
    )]
    kind: Option<String>,
    /// Spent by this key.
    #[param(value_type = Option<id::KeyId>)]
    key_id: Option<String>,
    /// Spent on this route, as the price list has it.
    #[param(max_length = 2048)]
    endpoint: Option<String>,
}

/// The ledger of the user's account, oldest first, as a file that is written while it is read.
#[utoipa::path(get, path = "/api/payments/transactions/export", tag = "payments", security(("jwt" = [])),
    params(ExportQuery), responses(
    (status = 200, description = "The ledger, or the part of it that was asked for", content(
        (String = "text/csv"), (String = "application/jsonl"))),
))]
pub(super) async fn export(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let ExportQuery { format, environment, from, until, kind, key_id, endpoint } = query(&request)?;
    let is_csv = match format.as_deref() {
        None | Some("csv") => true,
        Some("jsonl") => false,
        Some(_) => return Err(ApiError::field("format", "must be csv or jsonl")),
    };
    let narrowed =
        TransactionsQuery { from, until, kind, key_id, endpoint, ..TransactionsQuery::default() };
    let mut filter = narrowed.filter()?;
    let account = app.payments.whole_account(user.id, environment.into()).await?;
    // What comes while it is written is not in it.
    let now = app.clock.now().plus_micros(1);
    filter.until = Some(filter.until.map_or(now, |until| until.min(now)));
    let (kind, name) = if is_csv {
        ("text/csv; charset=utf-8; header=present", "transactions.csv")
    } else {
        ("application/jsonl; charset=utf-8", "transactions.jsonl")
    };
    let head = Bytes::from_static(if is_csv { CSV_HEAD.as_bytes() } else { b"" });
    let head = futures_util::stream::iter((!head.is_empty()).then_some(Ok(head)));
    let rows = rows(app, Export { account, filter, is_csv, after: Some(0) });
    let mut response = HttpResponse::Ok().content_type(kind).streaming(head.chain(rows));
    disposition(&mut response, name);
    Ok(response)
}

fn disposition(response: &mut HttpResponse, name: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
}

struct Export {
    account: AccountId,
    filter: EntryFilter,
    is_csv: bool,
    /// Where the next page begins; `None` after the last.
    after: Option<i64>,
}

type Rows = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>>>>;

/// The rows, page by page, as fast as they are read.
fn rows(app: Data<App>, export: Export) -> Rows {
    let next = move |mut export: Export| {
        let app = app.clone();
        async move {
            let after = export.after?;
            let filter = export.filter.clone();
            let page =
                app.store.list_entries(export.account, false, Some(after), EXPORT_PAGE, filter);
            let page = match page.await {
                Ok(page) => page,
                // The connection is broken off, so that nobody takes a part for the whole.
                Err(error) => {
                    export.after = None;
                    return Some((Err(error.into()), export));
                }
            };
            export.after = page.next;
            let mut text = String::new();
            for entry in page.entries {
                if export.is_csv {
                    csv_row(&mut text, entry);
                } else {
                    let line = serde_json::to_string(&TransactionBody::from(entry));
                    let _ = writeln!(text, "{}", line.unwrap_or_default());
                }
            }
            Some((Ok(Bytes::from(text)), export))
        }
    };
    let rows = futures_util::stream::unfold(export, next);
    // An empty piece would end a chunked body.
    Box::pin(rows.filter(|piece| {
        let is_any = !piece.as_ref().is_ok_and(Bytes::is_empty);
        futures_util::future::ready(is_any)
    }))
}

const CSV_HEAD: &str = "sequence,created_at,kind,amount,balance_after,currency,reference,key_id,endpoint,model,status,\
prompt_tokens,completion_tokens\r\n";

fn csv_row(text: &mut String, of_call: EntryOfCall) {
    let (model, status, tokens) = (of_call.model.clone(), of_call.status, of_call.tokens);
    let row = TransactionBody::from(of_call);
    let (prompt, completion) = match tokens {
        Some((prompt, completion)) => (prompt.to_string(), completion.to_string()),
        None => (String::new(), String::new()),
    };
    let _ = write!(
        text,
        "{},{},{},{},{},USD,{},{},{},{},{},{prompt},{completion}\r\n",
        row.sequence,
        row.created_at,
        row.kind,
        row.amount.0,
        row.balance_after.0,
        row.reference,
        row.key_id.unwrap_or_default(),
        csv_text(&row.endpoint.unwrap_or_default()),
        csv_text(&model),
        status.map(|status| status.to_string()).unwrap_or_default(),
    );
}

/// A text that somebody else has chosen, so that no spreadsheet takes it for more than that.
fn csv_text(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) || is_formula {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
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
#[derive(Clone, Serialize, ToSchema)]
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

/// What an account's ledger comes to in a UTC month. The opening balance and all amounts come to the closing one.
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
    month: Month,
    environment: EnvironmentName,
    sums: &StatementSums,
    now: Timestamp,
) -> StatementBody {
    let mut totals: BTreeMap<EntryKind, (i64, Credits)> = BTreeMap::new();
    for sum in &sums.sums {
        let (count, amount) = totals.entry(sum.kind).or_default();
        *count = count.saturating_add(sum.count);
        *amount = amount.checked_add(sum.amount).unwrap_or(Credits::MAX);
    }
    let total = |(kind, (count, amount)): (EntryKind, (i64, Credits))| KindSum {
        kind: kind.name(),
        count,
        amount: Amount(amount),
    };
    let day = |sum: &crate::store::ledger::DaySum| DayAndKindSum {
        day: date(sum.day.starts_at()),
        kind: sum.kind.name(),
        count: sum.count,
        amount: Amount(sum.amount),
    };
    StatementBody {
        user_id: user.id.to_string(),
        month: month.to_string(),
        environment,
        currency: "USD",
        from: month.starts_at().to_rfc3339(),
        until: month.ends_at().to_rfc3339(),
        is_complete: now >= month.ends_at(),
        opening_balance: Amount(sums.opening),
        closing_balance: Amount(sums.closing),
        totals: totals.into_iter().map(total).collect(),
        days: sums.sums.iter().map(day).collect(),
    }
}

/// The date of a time.
pub(super) fn date(at: Timestamp) -> String {
    at.to_rfc3339().chars().take(10).collect()
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
    let account = app.payments.whole_account(user.id, environment.into()).await?;
    let sums = app.store.statement(account, month.starts_at(), month.ends_at()).await?;
    let body = statement_body(&user, month, environment, &sums, now);
    Ok(match how {
        Format::Csv => {
            let mut text = String::from("day,kind,count,amount,currency\r\n");
            for day in &body.days {
                let _ =
                    write!(text, "{},{},{},{},USD\r\n", day.day, day.kind, day.count, day.amount.0);
            }
            let mut response = HttpResponse::Ok()
                .content_type("text/csv; charset=utf-8; header=present")
                .body(text);
            disposition(&mut response, &format!("statement-{month}.csv"));
            response
        }
        Format::Html => {
            let page = statement_page(&user, &body);
            HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page)
        }
        Format::Json | Format::Jsonl => HttpResponse::Ok().json(body),
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A page to be printed. Without scripts and styles: no answer of ours may have any.
fn page(title: &str, user: &User, rows: &[[String; 2]], tables: &str) -> String {
    let mut facts = String::new();
    for [name, value] in rows {
        let _ = write!(
            facts,
            "<tr><th align=\"left\">{}</th><td>{}</td></tr>",
            escaped(name),
            escaped(value)
        );
    }
    let (title, name, email) = (escaped(title), escaped(&user.username), escaped(&user.email));
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head><body>\
         <h1>{title}</h1><p>{name}, {email}</p><table cellpadding=\"4\">{facts}</table>{tables}</body></html>\n"
    )
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = String::from("<table border=\"1\" cellspacing=\"0\" cellpadding=\"4\"><tr>");
    for name in head {
        let _ = write!(text, "<th>{}</th>", escaped(name));
    }
    text.push_str("</tr>");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = write!(text, "<td align=\"right\">{}</td>", escaped(cell));
        }
        text.push_str("</tr>");
    }
    text.push_str("</table>");
    text
}

fn statement_page(user: &User, body: &StatementBody) -> String {
    let facts = [
        ["User".into(), body.user_id.clone()],
        ["From".into(), body.from.clone()],
        ["Until".into(), body.until.clone()],
        ["Opening balance".into(), format!("${}", body.opening_balance.0)],
        ["Closing balance".into(), format!("${}", body.closing_balance.0)],
    ];
    let kinds = ["Kind", "Count", "Amount (USD)"];
    let of_total =
        |sum: &KindSum| vec![sum.kind.to_owned(), sum.count.to_string(), sum.amount.0.to_string()];
    let totals: Vec<_> = body.totals.iter().map(of_total).collect();
    let of_day = |sum: &DayAndKindSum| {
        let amount = sum.amount.0.to_string();
        vec![sum.day.clone(), sum.kind.to_owned(), sum.count.to_string(), amount]
    };
    let days: Vec<_> = body.days.iter().map(of_day).collect();
    let head = ["Day (UTC)", "Kind", "Count", "Amount (USD)"];
    let tables =
        format!("<h2>Totals</h2>{}<h2>Days</h2>{}", table(&kinds, &totals), table(&head, &days));
    page(&format!("Statement {}", body.month), user, &facts, &tables)
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
    let id: PaymentId = id.parse().map_err(|_| ApiError::from(PaymentsError::NotFound))?;
    let payment = app.payments.get(user.id, id).await?;
    if payment.status != PaymentStatus::Confirmed {
        return Err(ApiError::Conflict(
            "The payment is not confirmed, so there is no receipt.".into(),
        ));
    }
    let reversals = app.store.reversals_of(id).await?;
    let reversed = reversals.iter().fold(Credits::ZERO, |sum, reversal| {
        sum.checked_add(reversal.taken).unwrap_or(Credits::MAX)
    });
    let paid_at = payment.confirmed_at.map(Timestamp::to_rfc3339).unwrap_or_default();
    if matches!(how, Format::Csv) {
        let Payment { id, amount, provider, .. } = payment;
        let head = "payment,paid_at,provider,amount,taken_back,currency";
        let text = format!("{head}\r\n{id},{paid_at},{provider},{amount},{reversed},USD\r\n");
        let mut response =
            HttpResponse::Ok().content_type("text/csv; charset=utf-8; header=present").body(text);
        disposition(&mut response, &format!("receipt-{id}.csv"));
        return Ok(response);
    }
    if matches!(how, Format::Html) {
        let mut facts = vec![
            ["Payment".to_owned(), payment.id.to_string()],
            ["Paid".into(), format!("${}", payment.amount)],
            ["By".into(), payment.provider.clone()],
            ["At".into(), paid_at],
            ["For".into(), "API credits".into()],
        ];
        if reversed > Credits::ZERO {
            facts.push(["Taken back".into(), format!("${reversed}")]);
        }
        let page = page("Receipt", &user, &facts, "");
        return Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page));
    }
    let reversals = reversals.into_iter().map(|reversal| ReversalBody {
        kind: reversal.kind.name(),
        amount: Amount(reversal.wanted),
        taken: Amount(reversal.taken),
        created_at: reversal.created_at.to_rfc3339(),
    });
    Ok(HttpResponse::Ok().json(ReceiptBody {
        user_id: user.id.to_string(),
        username: user.username,
        email: user.email,
        payment: payment.into(),
        reversed: Amount(reversed),
        reversals: reversals.collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spreadsheet_takes_a_name_for_a_formula() {
        for (text, written) in [
            ("/v1/chat", "/v1/chat"),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("@SUM(1,2)", "\"'@SUM(1,2)\""),
            ("a,b", "\"a,b\""),
        ] {
            assert_eq!(csv_text(text), written);
        }
    }
}
