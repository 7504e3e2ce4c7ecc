//! `/api/payments/transactions` and its export.

use std::fmt::Write as _;

use actix_web::http::header::{CONTENT_DISPOSITION, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::{Amount, WithAmounts as _, to_json};
use super::answers::page_of;
use super::docs::id;
use super::error::ApiError;
use super::extract::SessionUser;
use super::keys::EnvironmentName;
use super::page::{EntryCursor, page_limit, query, read_cursor};
use crate::reports::{ENTRIES_CSV_HEAD, entry_csv, reference};
use crate::store::ledger::{EntryFilter, EntryOfCall};
use domain::{EntryKind, KeyId, Timestamp, UserId};

/// One movement of money.
#[derive(Serialize, ToSchema)]
pub(super) struct TransactionBody {
    /// 1 for the account's first, then one more each, without a gap.
    #[schema(minimum = 1)]
    sequence: i64,
    /// `top_up`, `charge`, `capture`, `refund`, `grant`, `deduction`; `payment_refund` and
    /// `dispute`, by which a payment is taken back, and `reinstatement`, by which it is given
    /// again.
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

impl TransactionBody {
    /// Of an entry of this user's account.
    pub(super) fn new(of_call: EntryOfCall, owner: UserId) -> Self {
        let EntryOfCall { entry, endpoint, .. } = of_call;
        TransactionBody {
            sequence: entry.seq,
            kind: entry.kind.name(),
            amount: Amount(entry.amount),
            balance_after: Amount(entry.balance_after),
            currency: "USD",
            reference: reference(&entry, owner),
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
    /// For the next page; null on the last one. A page of a list that is narrowed may have fewer
    /// than `limit`, or none, and a next one all the same.
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
    list_of(user.id, &app, &request).await
}

/// A page of the ledger of a user's account.
pub(super) async fn list_of(
    user: UserId,
    app: &App,
    request: &HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: TransactionsQuery = query(request)?;
    let limit = page_limit(asked.limit)?;
    let before = read_cursor(asked.cursor.as_deref())?.map(|EntryCursor(seq)| seq);
    let (environment, filter) = (asked.environment.into(), asked.filter()?);
    let page = app.reports.transactions(user, environment, before, limit, filter).await?;
    let transactions = page.entries.into_iter();
    let transactions = transactions.map(|entry| TransactionBody::new(entry, user)).collect();
    let next_cursor = page.next.map(|seq| EntryCursor(seq).to_string());
    Ok(page_of(request, next_cursor.as_deref())
        .amounts(TransactionsPage { transactions, next_cursor }))
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
    let pages = app.reports.export(user.id, environment.into(), narrowed.filter()?).await?;
    let (kind, name) = if is_csv {
        ("text/csv; charset=utf-8; header=present", "transactions.csv")
    } else {
        ("application/jsonl; charset=utf-8", "transactions.jsonl")
    };
    let head = is_csv.then(|| Ok::<_, ApiError>(Bytes::from_static(ENTRIES_CSV_HEAD.as_bytes())));
    // An error breaks the connection off, so that nobody mistakes a part for the whole.
    let owner = user.id;
    let rows = pages.map(move |page| Ok(rows(page?, is_csv, owner)));
    // An empty chunk would end a chunked body.
    let rows = rows.filter(|rows| std::future::ready(!rows.as_ref().is_ok_and(Bytes::is_empty)));
    let body = futures_util::stream::iter(head).chain(rows);
    let mut response = HttpResponse::Ok().content_type(kind).streaming(body);
    disposition(&mut response, name);
    Ok(response)
}

pub(super) fn disposition(response: &mut HttpResponse, name: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
}

fn rows(page: Vec<EntryOfCall>, is_csv: bool, owner: UserId) -> Bytes {
    let mut text = String::new();
    for entry in page {
        if is_csv {
            entry_csv(&mut text, &entry, owner);
        } else {
            let _ = writeln!(text, "{}", to_json(&TransactionBody::new(entry, owner)));
        }
    }
    Bytes::from(text)
}
