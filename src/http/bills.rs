//! `/api/payments/transactions/{id}/bill`, `/api/admin/bills/*` and
//! `/api/admin/users/{id}/corrections`.

use std::fmt::Write as _;

use actix_web::http::header::ACCEPT;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::amount::{Amount, WithAmounts as _};
use super::answers::created;
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, SessionUser, WithBody};
use super::page::query;
use super::price_lists::user_id;
use super::pricing::BillPartBody;
use super::transactions::time;
use super::validation::is_printable;
use super::{App, uncancelled};
use crate::admin::Correction;
use crate::bills::{
    BillDifference, BillView, BillsError, Recomputation, RecomputedBills, flags_in_words,
};
use domain::card_document::price_text;
use domain::cost::UnknownCost;
use domain::{ChargeId, Convention, Counted, Credits, LedgerEntry, Timestamp, UserId, VersionId};

/// How a cost comes about.
const FORMULA: &str = "amount = quantity x price / per; cost = sum of the amounts, rounded once, half up, to \
0.000000001";

/// An entry that belongs to a charge: its refund, or what corrects it.
#[derive(Serialize, ToSchema)]
pub(super) struct LaterEntryBody {
    /// `refund`, `grant` or `deduction`
    #[schema(pattern = "^(refund|grant|deduction)$")]
    kind: &'static str,
    sequence: i64,
    amount: Amount,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<&LedgerEntry> for LaterEntryBody {
    fn from(entry: &LedgerEntry) -> Self {
        LaterEntryBody {
            kind: entry.kind.name(),
            sequence: entry.seq,
            amount: Amount(entry.amount),
            created_at: entry.at.to_rfc3339_micros(),
        }
    }
}

/// How a provider counts: `within` or `beside` the whole.
#[derive(Serialize, ToSchema)]
pub(super) struct ConventionBody {
    /// Cached tokens in the number of the prompt, or beside it.
    #[schema(pattern = "^(within|beside)$")]
    cache: &'static str,
    /// Thoughts in the number of the completion, or beside it.
    #[schema(pattern = "^(within|beside)$")]
    thoughts: &'static str,
}

const fn counted(counted: Counted) -> &'static str {
    match counted {
        Counted::Within => "within",
        Counted::Beside => "beside",
    }
}

impl From<Convention> for ConventionBody {
    fn from(convention: Convention) -> Self {
        ConventionBody { cache: counted(convention.cache), thoughts: counted(convention.thoughts) }
    }
}

/// A bill: what a call was charged for, so that anybody can compute its cost again.
#[derive(Serialize, ToSchema)]
pub(super) struct BillBody {
    /// The call, as in `X-Polysystems-Charge`.
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    charge: String,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    /// `charge` or `capture`
    #[schema(pattern = "^(charge|capture)$")]
    kind: &'static str,
    /// The number of the entry of the ledger.
    sequence: i64,
    #[schema(format = DateTime)]
    created_at: String,
    /// `USD`
    currency: &'static str,
    /// The version of the price list.
    #[schema(minimum = 1)]
    price_version: u32,
    /// From when on that version was in force.
    #[schema(format = DateTime)]
    effective_from: String,
    /// The model that the call asked for. null: it named none, or its usage record is gone.
    model: Option<String>,
    /// The name of the card: a model, `<name>/*`, or a route. It is another model than `model` if
    /// another one answered, and the operator bills the one that answers.
    card: String,
    /// The number of the card in the version.
    card_number: u16,
    /// The number of the row of the card.
    row: u8,
    /// The service tier of the row.
    service: &'static str,
    /// The row is for prompts of more tokens than this.
    over: u64,
    /// How the provider counts.
    convention: ConventionBody,
    parts: Vec<BillPartBody>,
    /// The sum of the parts, in dollars, exact.
    sum: String,
    /// What the cost is more than the sum.
    rounding: String,
    /// What the call cost.
    cost: Amount,
    /// The amount of the entry: what was taken, negative.
    amount: Amount,
    /// How a cost comes about.
    formula: &'static str,
    /// What is peculiar, in words.
    notes: Vec<&'static str>,
    /// Its refund, and what corrects it.
    later: Vec<LaterEntryBody>,
}

impl From<&BillView> for BillBody {
    fn from(view: &BillView) -> Self {
        let BillView { entry, bill, arithmetic, .. } = view;
        BillBody {
            charge: ChargeId(entry.reference).to_string(),
            environment: view.environment.name(),
            kind: entry.kind.name(),
            sequence: entry.seq,
            created_at: entry.at.to_rfc3339_micros(),
            currency: "USD",
            price_version: bill.version.number(),
            effective_from: arithmetic.version.effective_from().to_rfc3339_micros(),
            model: view.asked.clone(),
            card: arithmetic.card.to_string(),
            card_number: bill.card,
            row: bill.row,
            service: arithmetic.service.name(),
            over: arithmetic.over,
            convention: bill.convention.into(),
            parts: arithmetic.parts.iter().map(BillPartBody::from).collect(),
            sum: arithmetic.sum.to_string(),
            rounding: arithmetic.rounding.to_string(),
            cost: Amount(arithmetic.cost),
            amount: Amount(entry.amount),
            formula: FORMULA,
            notes: flags_in_words(bill.flags),
            later: view.others.iter().map(LaterEntryBody::from).collect(),
        }
    }
}

/// The bill as a table.
fn table(view: &BillView) -> String {
    let BillView { entry, bill, arithmetic, .. } = view;
    let mut text = String::new();
    let from = arithmetic.version.effective_from().to_rfc3339_micros();
    let _ = writeln!(text, "Bill of {}", ChargeId(entry.reference));
    let _ = writeln!(text, "Charged   {}", entry.at.to_rfc3339_micros());
    if let Some(asked) = &view.asked {
        let _ = writeln!(text, "Model     {asked}");
    }
    let _ = writeln!(text, "Card      {}", arithmetic.card);
    let _ = writeln!(text, "Prices    version {}, in force from {from}", bill.version);
    let over = match arithmetic.over {
        0 => String::new(),
        over => format!(", prompts over {over} tokens"),
    };
    let _ = writeln!(text, "Row       {}: {}{over}", bill.row, arithmetic.service.name());
    let _ = writeln!(text);
    let head = ["dimension", "quantity", "price (USD)", "per", "amount (USD)"].map(String::from);
    let rows = arithmetic.parts.iter().map(|part| {
        [
            part.dim.name().to_owned(),
            part.quantity.to_string(),
            price_text(part.price),
            part.dim.per().to_string(),
            part.amount.to_string(),
        ]
    });
    let line = |name: &str, amount: String| {
        [name.to_owned(), String::new(), String::new(), String::new(), amount]
    };
    let sums = [
        line("sum", arithmetic.sum.to_string()),
        line("rounding", arithmetic.rounding.to_string()),
        line("cost", arithmetic.cost.to_string()),
        line("taken", view.taken().to_string()),
    ];
    let lines: Vec<[String; 5]> = [head].into_iter().chain(rows).chain(sums).collect();
    let width = |place: usize| {
        let widths = lines.iter().filter_map(|line| Some(line.get(place)?.chars().count()));
        widths.max().unwrap_or(0)
    };
    let [first, second, third, fourth, fifth] = [0, 1, 2, 3, 4].map(width);
    for [dimension, quantity, price, per, amount] in &lines {
        let _ = writeln!(
            text,
            "{dimension:first$}  {quantity:>second$}  {price:>third$}  {per:>fourth$}  {amount:>fifth$}"
        );
    }
    let _ = writeln!(text, "\n{FORMULA}");
    for note in flags_in_words(bill.flags) {
        let _ = writeln!(text, "{note}");
    }
    for later in &view.others {
        let at = later.at.to_rfc3339_micros();
        let _ = writeln!(text, "Later: {} of {} at {at}", later.kind.name(), later.amount);
    }
    text
}

/// Does who asks want to read it without a program?
fn wants_text(request: &HttpRequest) -> bool {
    let accepts = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let accepts = accepts.unwrap_or_default();
    accepts.contains("text/plain") && !accepts.contains("application/json")
}

/// What cannot be an id is answered as one that does not exist.
fn charge_id(text: &str) -> Result<ChargeId, ApiError> {
    text.parse().map_err(|_| BillsError::NoCharge.into())
}

/// The bill of one of the user's calls, to be computed again by hand: each dimension, its price and
/// what they come to. As a table for `Accept: text/plain`.
#[utoipa::path(get, path = "/api/payments/transactions/{id}/bill", tag = "payments", security(("jwt" = [])),
    params(("id" = String, Path, description = "The call: `reference` of a charge or a capture")), responses(
    (status = 200, description = "The bill", content((BillBody = "application/json"), (String = "text/plain"))),
    (status = 404, description = "No such charge of the user", body = ErrorBody),
    (status = 409, description = "The charge is older than bills", body = ErrorBody),
))]
pub(super) async fn own_bill(
    SessionUser(user): SessionUser,
    app: Data<App>,
    request: HttpRequest,
    charge: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let view = app.bills.own(user.id, charge_id(&charge)?).await?;
    if wants_text(&request) {
        return Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(table(&view)));
    }
    Ok(HttpResponse::Ok().amounts(BillBody::from(&view)))
}

/// A bill, as operators see it.
#[derive(Serialize, ToSchema)]
pub(super) struct AdminBillBody {
    #[schema(value_type = id::UserId)]
    user_id: String,
    bill: BillBody,
    /// What the bill comes to, computed anew.
    recomputed: Amount,
    /// Is that what was taken, or was less taken because no more was held?
    agrees: bool,
    /// The deployment that was asked last, or the upstream; null: the usage record is gone.
    deployment: Option<String>,
    /// What the call cost us; null: nobody knows.
    our_cost: Option<Amount>,
    /// Why nobody knows: `no_record`, `no_deployment`, `no_list`, `no_card` or `no_price`.
    #[schema(pattern = "^(no_record|no_deployment|no_list|no_card|no_price)$")]
    our_cost_unknown: Option<&'static str>,
    /// What is left of what was taken, after refunds and corrections; null: nobody knows.
    margin: Option<Amount>,
}

/// Whose call.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BillQuery {
    /// Who has paid. It is needed if the usage record of the call is gone.
    #[param(value_type = Option<id::UserId>)]
    user_id: Option<String>,
}

/// The bill of a call, computed anew. The audit log says that the operator has read it.
#[utoipa::path(get, path = "/api/admin/bills/{charge}", tag = "admin", security(("jwt" = [])),
    params(("charge" = String, Path, description = "The call: `req-<uuid>`"), BillQuery), responses(
    (status = 200, description = "The bill", body = AdminBillBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such charge", body = ErrorBody),
    (status = 409, description = "The charge is older than bills", body = ErrorBody),
))]
pub(super) async fn bill(
    AdminUser { origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    charge: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let BillQuery { user_id } = query(&request)?;
    let user = user_id.as_deref().map(str::parse::<UserId>).transpose();
    let user = user.map_err(|error| ApiError::field("user_id", error.to_string()))?;
    let charge = charge_id(&charge)?;
    let reading = async move { app.bills.of_charge(charge, user, origin).await };
    let (view, cost) = uncancelled(reading).await?;
    Ok(HttpResponse::Ok().amounts(AdminBillBody {
        deployment: (!cost.deployment.is_empty()).then(|| cost.deployment.to_string()),
        our_cost: cost.cost.ok().map(Amount),
        our_cost_unknown: cost.cost.err().map(UnknownCost::name),
        margin: cost.cost.ok().and_then(|cost| view.left()?.checked_sub(cost)).map(Amount),
        user_id: view.user.to_string(),
        recomputed: Amount(view.arithmetic.cost),
        agrees: view.agrees(),
        bill: BillBody::from(&view),
    }))
}

/// How a provider counts.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConventionChoice {
    /// `within` or `beside`
    #[schema(pattern = "^(within|beside)$")]
    cache: String,
    /// `within` or `beside`
    #[schema(pattern = "^(within|beside)$")]
    thoughts: String,
}

impl ConventionChoice {
    fn read(&self) -> Result<Convention, ApiError> {
        let read = |field: &str, text: &str| match text {
            "within" => Ok(Counted::Within),
            "beside" => Ok(Counted::Beside),
            _ => Err(ApiError::field(field, "must be within or beside")),
        };
        Ok(Convention {
            cache: read("convention.cache", &self.cache)?,
            thoughts: read("convention.thoughts", &self.thoughts)?,
        })
    }
}

/// Which bills are computed again, and how.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct RecomputeBody {
    /// Not from before this time.
    #[schema(format = DateTime)]
    from: String,
    /// From before this time.
    #[schema(format = DateTime)]
    to: String,
    /// Only with the card of this name.
    #[serde(default)]
    model: Option<String>,
    /// By this version of a price list in place of each one's own.
    #[serde(default)]
    #[schema(minimum = 1)]
    version: Option<u32>,
    /// As if the provider had counted so.
    #[serde(default)]
    convention: Option<ConventionChoice>,
}

/// A bill that comes to something else than was taken.
#[derive(Serialize, ToSchema)]
pub(super) struct BillDifferenceBody {
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    charge: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// The name of the card.
    model: String,
    billed: Amount,
    /// null: it has no price so.
    recomputed: Option<Amount>,
    /// Was less taken than it cost, because no more was held?
    clamped: bool,
}

impl From<&BillDifference> for BillDifferenceBody {
    fn from(one: &BillDifference) -> Self {
        BillDifferenceBody {
            charge: one.charge.to_string(),
            created_at: one.at.to_rfc3339_micros(),
            model: one.model.to_string(),
            billed: Amount(one.billed),
            recomputed: one.recomputed.map(Amount),
            clamped: one.is_clamped,
        }
    }
}

/// What bills come to if they are computed again.
#[derive(Serialize, ToSchema)]
pub(super) struct RecomputedAnswer {
    /// How many bills.
    count: u64,
    /// How many come to something else than was taken.
    differing: u64,
    /// How many have no price so. They are in neither sum.
    not_computable: u64,
    billed: Amount,
    recomputed: Amount,
    /// The first 1,000 that differ or have no price.
    differences: Vec<BillDifferenceBody>,
    /// false: there are more than 100,000 bills. Ask for a shorter span.
    complete: bool,
}

impl From<&RecomputedBills> for RecomputedAnswer {
    fn from(report: &RecomputedBills) -> Self {
        RecomputedAnswer {
            count: report.count,
            differing: report.differing,
            not_computable: report.not_computable,
            billed: Amount(report.billed),
            recomputed: Amount(report.recomputed),
            differences: report.differences.iter().map(BillDifferenceBody::from).collect(),
            complete: report.is_complete,
        }
    }
}

/// Computes the bills of a span of time again: as they are, by other prices, or as if a provider
/// had counted otherwise. Changes nothing; what is to be corrected is corrected charge by charge.
#[utoipa::path(post, path = "/api/admin/bills/recompute", tag = "admin", security(("jwt" = [])),
    request_body = RecomputeBody, responses(
    (status = 200, description = "What the bills come to", body = RecomputedAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such version", body = ErrorBody),
))]
pub(super) async fn recompute(
    WithBody(_operator, body): WithBody<AdminUser>,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let RecomputeBody { from, to, model, version, convention } = body.json()?;
    let instant = |field, text: &str| -> Result<Timestamp, ApiError> {
        Ok(time(field, Some(text))?.unwrap_or_default())
    };
    let no_version = || ApiError::field("version", "must be the number of a version");
    let asked = Recomputation {
        from: instant("from", &from)?,
        until: instant("to", &to)?,
        model,
        version: match version {
            None => None,
            Some(number) => Some(VersionId::new(number).ok_or_else(no_version)?),
        },
        convention: convention.map(|convention| convention.read()).transpose()?,
    };
    let report = app.bills.recompute(&asked).await?;
    Ok(HttpResponse::Ok().amounts(RecomputedAnswer::from(&report)))
}

/// A charge to correct.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CorrectionBody {
    /// The call.
    #[garde(skip)]
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    charge: String,
    /// USD. Positive is given back, at most what the charge has taken; negative is taken.
    #[garde(custom(is_not_zero))]
    #[schema(value_type = f64, example = 0.01)]
    amount: Amount,
    /// Why, for the audit log. A charge is corrected once for each reason.
    #[garde(length(chars, min = 1, max = 500), custom(is_printable))]
    #[schema(min_length = 1, max_length = 500, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
fn is_not_zero(Amount(amount): &Amount, (): &()) -> garde::Result {
    if *amount == Credits::ZERO { Err(garde::Error::new("must not be 0")) } else { Ok(()) }
}

/// A correction of a charge.
#[derive(Serialize, ToSchema)]
pub(super) struct CorrectionAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    charge: String,
    /// Negative was taken.
    amount: Amount,
    /// `USD`
    currency: &'static str,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    reason: String,
}

/// Corrects a charge: gives a part of it back, or takes more. The entry of the ledger is one of its
/// own that names the charge. It is made once for a charge and a reason; asked for again, nothing
/// moves.
#[utoipa::path(post, path = "/api/admin/users/{id}/corrections", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = CorrectionBody, responses(
    (status = 200, description = "It was corrected before for this reason", body = CorrectionAnswer),
    (status = 201, description = "Corrected", body = CorrectionAnswer),
    (status = 400, description = "More than the charge has taken, or than an operator may grant at once", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user or charge", body = ErrorBody),
    (status = 409, description = "It was corrected for this reason by another amount, or the account has less, \
        is suspended or erased, or the operator may grant no more today", body = ErrorBody),
))]
pub(super) async fn correct(
    WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let CorrectionBody { charge, amount: Amount(amount), reason } = body.json()?;
    let user = user_id(&id)?;
    let correction = Correction { user, charge: charge_id(&charge)?, amount, reason };
    let AdminUser { id, origin, .. } = operator;
    let correcting = async move { app.admin.correct(id, correction, origin).await };
    let made = uncancelled(correcting).await?;
    let Correction { user, charge, amount, reason } = made.correction;
    let at = format!("/api/admin/bills/{charge}");
    let mut response = if made.is_repeat { HttpResponse::Ok() } else { created(&at) };
    Ok(response.amounts(CorrectionAnswer {
        user_id: user.to_string(),
        charge: charge.to_string(),
        amount: Amount(amount),
        currency: "USD",
        environment: made.environment.name(),
        reason,
    }))
}
