//! `/api/pricing`: what calls cost, for everybody. Customers who show a session or an API key are
//! answered by the list that they pay by.

use std::collections::BTreeMap;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use actix_web::web::Data;
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::amount::{Amount, WithAmounts as _, to_json};
use super::document::Document;
use super::error::{ApiError, ErrorBody, FieldError};
use super::extract::{Body, check_address};
use super::gateway::credential;
use super::page::query;
use super::transactions::{text, time};
use crate::auth::sessions::CurrentSession;
use crate::models::Selling;
use crate::pipeline::price_list_of_key;
use crate::price_lists::{PriceQuestion, QuotedPrice, card_for};
use domain::api_key::ApiKey;
use domain::card_document::{price_text, write_card};
use domain::price_book::{BillPart, ListId, Priced};
use domain::{Dim, PriceBook, Quantities, Service, Timestamp, VersionId};

/// Longest name of a model in a query, in characters.
const MODEL_CHARACTERS_MAX: usize = 128;
/// Most prices of a history.
const HISTORY_MAX: usize = 100;

/// The price of one route.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceBody {
    /// `*` is any.
    method: String,
    /// An exact path, or a prefix that ends in `/*`.
    path: String,
    /// For rate limits: `health`, `read`, `write`, `generation` or `heavy`.
    #[schema(pattern = "^(health|read|write|generation|heavy)$")]
    class: &'static str,
    /// USD a call.
    base_price: Amount,
    /// USD a token on top; null for a fixed price.
    #[schema(value_type = Option<Amount>)]
    price_per_token: Option<Box<serde_json::value::RawValue>>,
}

/// The prices of one model.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelPriceBody {
    /// The name of the model, or of all models that begin so: `<name>/*`.
    model: String,
    /// The version of the price list, which bills name.
    #[schema(minimum = 1)]
    version: u32,
    #[schema(format = DateTime)]
    effective_from: String,
    /// Until when, if other prices are published.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<String>,
    /// `model` and the price of each dimension, or `rows` of such prices by service tier and
    /// length of the prompt: dollars for a million tokens or characters, an hour, or a piece.
    #[schema(value_type = Object)]
    card: Value,
}

impl ModelPriceBody {
    fn new(book: &PriceBook, name: &str, priced: &Priced) -> Option<Self> {
        let version = book.by_id(priced.version)?;
        Some(ModelPriceBody {
            model: name.to_owned(),
            version: priced.version.number(),
            effective_from: version.effective_from().to_rfc3339_micros(),
            until: book.until(version).map(Timestamp::to_rfc3339_micros),
            card: write_card(name, &priced.card),
        })
    }
}

/// The price list.
#[derive(Serialize, ToSchema)]
pub(super) struct PricingAnswer {
    /// `USD`
    currency: &'static str,
    /// How a cost comes about.
    formula: &'static str,
    /// The most exact rule that fits a call prices it.
    prices: Vec<PriceBody>,
    /// The groups whose live calls the built-in sandbox serves.
    on_sandbox: Vec<&'static str>,
    /// The prices of models at the instant that was asked for.
    models: Vec<ModelPriceBody>,
    /// Whose prices of models these are: `everybody`, or `you` if you have a price list of your
    /// own.
    #[schema(pattern = "^(everybody|you)$")]
    models_for: &'static str,
}

/// The whole price lists as they are answered now. Each is written once for all who ask, because
/// it can be long and everybody may ask.
#[derive(Default)]
pub struct PricePages(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    /// What was sold when they were written.
    of: Weak<Selling>,
    pages: BTreeMap<(ListId, Option<VersionId>), Arc<Document>>,
}

impl PricePages {
    /// The page of this version of a list, which `write` writes if it is not there.
    fn page(
        &self,
        selling: &Arc<Selling>,
        page: (ListId, Option<VersionId>),
        write: impl FnOnce() -> Document,
    ) -> Arc<Document> {
        // A page that is written is whole.
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.of.as_ptr() != Arc::as_ptr(selling) {
            *pages = Pages { of: Arc::downgrade(selling), pages: BTreeMap::new() };
        }
        if let Some(page) = pages.pages.get(&page) {
            return Arc::clone(page);
        }
        let written = Arc::new(write());
        // The version in force, and one before it if the time has just come for it.
        pages.pages.retain(|(list, _), _| *list != page.0);
        pages.pages.insert(page, Arc::clone(&written));
        written
    }
}

/// Which prices of models.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PricingQuery {
    /// The prices of models at this instant; now, if it is left out. Those of all models at another
    /// instant are for who shows a session or an API key.
    #[param(format = DateTime)]
    at: Option<String>,
    /// Only of this model.
    #[param(max_length = 128)]
    model: Option<String>,
}

/// The list of who asks, by their key or session. A key or a session that is none is as good as
/// none here.
async fn callers_list(request: &HttpRequest, app: &App) -> Result<Option<ListId>, ApiError> {
    let Some(shown) = credential(request)? else { return Ok(None) };
    if let Ok(key) = ApiKey::parse(shown) {
        return Ok(price_list_of_key(&app.gateway, &key).await?);
    }
    let mut nothing = actix_web::dev::Payload::None;
    match CurrentSession::from_request(request, &mut nothing).await {
        Ok(session) => Ok(Some(app.price_lists.list_of(session.user.id).await?)),
        Err(ApiError::MissingSession | ApiError::InvalidSession | ApiError::ExpiredSession) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn whose(list: ListId) -> &'static str {
    if list == ListId::DEFAULT { "everybody" } else { "you" }
}

/// What calls cost.
#[utoipa::path(get, path = "/api/pricing", tag = "pricing", params(PricingQuery), responses(
    (status = 200, description = "The price list", body = PricingAnswer),
    (status = 304, description = "It is what `If-None-Match` says"),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn pricing(
    request: HttpRequest,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let PricingQuery { at, model } = query(&request)?;
    let at = time("at", at.as_deref())?;
    let model = text("model", model, MODEL_CHARACTERS_MAX)?;
    let list = callers_list(&request, &app).await?;
    let list = match (list, at, &model) {
        (None, Some(_), None) => {
            let message =
                "needs `model`, a session or an API key: all prices of another instant are long";
            return Err(ApiError::field("at", message));
        }
        (list, ..) => list.unwrap_or(ListId::DEFAULT),
    };
    let now = app.clock.now();
    let selling = app.gateway.models.selling();
    let page = || pricing_page(&app, &selling, list, at.unwrap_or(now), model.as_deref());
    let page = if at.is_none() && model.is_none() {
        let version = selling.book.in_force(list, now).map(|version| version.id());
        app.price_pages.page(&selling, (list, version), page).answer(&request)
    } else {
        page().answer(&request)
    };
    Ok(page)
}

/// The answer of `/api/pricing`, as JSON.
fn pricing_page(
    app: &App,
    selling: &Selling,
    list: ListId,
    at: Timestamp,
    model: Option<&str>,
) -> Document {
    let number = |text: String| serde_json::value::RawValue::from_string(text).ok();
    let prices = app.gateway.prices.rules().map(|rule| PriceBody {
        method: rule.method.as_deref().unwrap_or("*").to_owned(),
        path: rule.path.to_string(),
        class: rule.class.name(),
        base_price: Amount(rule.base),
        price_per_token: rule.per_token.and_then(|price| number(price.to_string())),
    });
    let book = &selling.book;
    let models = match model {
        Some(model) => {
            let found = card_for(&selling.catalogue, book, list, model, at);
            found
                .and_then(|(name, priced)| ModelPriceBody::new(book, &name, &priced))
                .into_iter()
                .collect()
        }
        None => match book.in_force(list, at).map(|version| version.id()) {
            None => Vec::new(),
            Some(version) => {
                let priced = |name| book.priced(version, name);
                let names = book.card_names(version);
                let models =
                    names.iter().filter_map(|name| ModelPriceBody::new(book, name, &priced(name)?));
                models.collect()
            }
        },
    };
    let answer = to_json(&PricingAnswer {
        currency: "USD",
        formula: "cost = base_price + tokens x price_per_token, rounded once, half up, to 0.000000001",
        prices: prices.collect(),
        on_sandbox: app.gateway.upstreams.on_sandbox(),
        models,
        models_for: whose(list),
    });
    Document::of_caller("application/json", answer)
}

/// Of which model.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PriceHistoryQuery {
    /// The name of a model.
    #[param(required = true, min_length = 1, max_length = 128)]
    model: String,
}

/// What a model cost in a span of time.
#[derive(Serialize, ToSchema)]
pub(super) struct FormerPriceBody {
    /// The version of the price list that has set it.
    #[schema(minimum = 1)]
    version: u32,
    #[schema(format = DateTime)]
    effective_from: String,
    /// null: no other price is published.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<String>,
    /// The card; null: the model was not sold.
    #[schema(value_type = Option<Object>)]
    card: Option<Value>,
}

/// What a model cost and will cost.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceHistoryAnswer {
    model: String,
    /// Whose prices these are: `everybody` or `you`.
    #[schema(pattern = "^(everybody|you)$")]
    models_for: &'static str,
    /// The last ones, at most 100, in the order of time. Those that are published and not in force
    /// yet are among them.
    prices: Vec<FormerPriceBody>,
}

/// What a model cost, and what it will cost as far as that is published.
#[utoipa::path(get, path = "/api/pricing/history", tag = "pricing", params(PriceHistoryQuery), responses(
    (status = 200, description = "The prices in the order of time", body = PriceHistoryAnswer),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn history(
    request: HttpRequest,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let PriceHistoryQuery { model } = query(&request)?;
    let model = text("model", Some(model), MODEL_CHARACTERS_MAX)?.unwrap_or_default();
    if model.is_empty() {
        return Err(ApiError::field("model", "must be the name of a model"));
    }
    let list = callers_list(&request, &app).await?.unwrap_or(ListId::DEFAULT);
    let selling = app.gateway.models.selling();
    let book = &selling.book;
    let mut prices: Vec<FormerPriceBody> = Vec::new();
    for (version, until) in book.terms(list) {
        let from = version.effective_from();
        let found = card_for(&selling.catalogue, book, list, &model, from);
        let card = found.map(|(name, priced)| write_card(&name, &priced.card));
        let until = until.map(Timestamp::to_rfc3339_micros);
        match prices.last_mut() {
            // The version has changed other cards.
            Some(last) if last.card == card => last.until = until,
            None if card.is_none() => {}
            _ => prices.push(FormerPriceBody {
                version: version.id().number(),
                effective_from: from.to_rfc3339_micros(),
                until,
                card,
            }),
        }
    }
    let prices = prices.split_off(prices.len().saturating_sub(HISTORY_MAX));
    Ok(HttpResponse::Ok().json(PriceHistoryAnswer { model, models_for: whose(list), prices }))
}

/// A usage whose cost is asked for.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PriceQuoteBody {
    /// The name of a model.
    #[schema(example = "gpt-6")]
    model: String,
    /// How much of each dimension: tokens, characters, milliseconds, pieces. The call itself,
    /// `request`, counts once unless it is named.
    #[schema(example = json!({ "input": 1000, "output": 500 }))]
    usage: BTreeMap<String, u64>,
    /// The service tier: `standard` (default), `flex`, `priority`, `batch` or `fast`.
    #[serde(default)]
    service: Option<String>,
    /// By the prices of this instant; now, if it is left out.
    #[serde(default)]
    #[schema(format = DateTime)]
    at: Option<String>,
    /// The name of a price list: for operators alone. `default` if it is left out.
    #[serde(default)]
    pub(super) list: Option<String>,
}

impl PriceQuoteBody {
    /// What is asked for, by a list.
    pub(super) fn question(&self, list: ListId) -> Result<PriceQuestion, ApiError> {
        if self.usage.len() > Dim::ALL.len() {
            let names = Dim::ALL.map(Dim::name).join(", ");
            return Err(ApiError::field("usage", format!("may have these alone: {names}")));
        }
        let (mut usage, mut faults) = (Quantities::NONE, Vec::new());
        for (name, quantity) in &self.usage {
            match Dim::from_name(name) {
                Some(dim) => usage = usage.with(dim, *quantity),
                None => faults.push(FieldError {
                    field: format!("usage.{}", name.chars().take(64).collect::<String>()),
                    message: format!("is none of {}", Dim::ALL.map(Dim::name).join(", ")),
                }),
            }
        }
        if !faults.is_empty() {
            return Err(ApiError::Validation(faults));
        }
        let service = match &self.service {
            None => Service::Standard,
            Some(name) => Service::from_name(name).ok_or_else(|| {
                let names = Service::ALL.map(Service::name).join(", ");
                ApiError::field("service", format!("must be one of {names}"))
            })?,
        };
        let model = text("model", Some(self.model.clone()), MODEL_CHARACTERS_MAX)?;
        let at = time("at", self.at.as_deref())?;
        Ok(PriceQuestion { list, model: model.unwrap_or_default(), at, service, usage })
    }
}

/// One dimension of a bill.
#[derive(Serialize, ToSchema)]
pub(super) struct BillPartBody {
    dimension: &'static str,
    quantity: u64,
    /// Dollars for `per` units.
    price: String,
    /// How many units the price is for.
    per: u32,
    /// quantity x price / per, in dollars, exact; `...` if it has no end.
    amount: String,
}

impl From<&BillPart> for BillPartBody {
    fn from(part: &BillPart) -> Self {
        BillPartBody {
            dimension: part.dim.name(),
            quantity: part.quantity,
            price: price_text(part.price),
            per: part.dim.per(),
            amount: part.amount.to_string(),
        }
    }
}

/// What a usage costs.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceQuoteAnswer {
    /// `USD`
    currency: &'static str,
    /// The name of the card: that of the model, or `<name>/*`.
    card: String,
    #[schema(minimum = 1)]
    version: u32,
    #[schema(format = DateTime)]
    effective_from: String,
    #[schema(format = DateTime)]
    at: String,
    service: &'static str,
    /// The prices are those for prompts of more tokens than this.
    over: u64,
    parts: Vec<BillPartBody>,
    /// The sum of the parts, in dollars, exact.
    sum: String,
    /// What the cost is more than the sum, because it is rounded once, half up, to 0.000000001.
    rounding: String,
    cost: Amount,
}

impl From<&QuotedPrice> for PriceQuoteAnswer {
    fn from(QuotedPrice { arithmetic, at }: &QuotedPrice) -> Self {
        PriceQuoteAnswer {
            currency: "USD",
            card: arithmetic.card.to_string(),
            version: arithmetic.version.id().number(),
            effective_from: arithmetic.version.effective_from().to_rfc3339_micros(),
            at: at.to_rfc3339_micros(),
            service: arithmetic.service.name(),
            over: arithmetic.over,
            parts: arithmetic.parts.iter().map(BillPartBody::from).collect(),
            sum: arithmetic.sum.to_string(),
            rounding: arithmetic.rounding.to_string(),
            cost: Amount(arithmetic.cost),
        }
    }
}

/// What a usage costs, with its arithmetic.
#[utoipa::path(post, path = "/api/pricing/quote", tag = "pricing", request_body = PriceQuoteBody, responses(
    (status = 200, description = "The cost", body = PriceQuoteAnswer),
    (status = 404, description = "The model is not sold then", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn quote(
    request: HttpRequest,
    app: Data<App>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    check_address(&request, &app)?;
    let asked: PriceQuoteBody = body.json()?;
    if asked.list.is_some() {
        return Err(ApiError::field("list", "is for operators alone; leave it out"));
    }
    let list = callers_list(&request, &app).await?.unwrap_or(ListId::DEFAULT);
    let quoted = app.price_lists.quote(&asked.question(list)?)?;
    Ok(HttpResponse::Ok().amounts(PriceQuoteAnswer::from(&quoted)))
}
