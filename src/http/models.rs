//! The models that a caller may call: `/v1/models` and `/v1beta/models` in the shape of each
//! protocol, and `/api/models` with their prices.
//!
//! If no models are sold by name, `/v1/models` is a call like any other, and its upstream answers.

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Data, Path};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody, Form};
use super::extract::{bearer, client_address};
use super::gateway::{KEY_HEADERS, credential};
use super::origin::one_spelling;
use super::page::query;
use crate::auth::sessions::CurrentSession;
use crate::pipeline::{self, Arrival, Caller, Gateway, Offer, OfferedModel};
use domain::api_key::ApiKey;
use domain::catalogue::{Candidate, ProviderDialect, SoldModel};
use domain::route_group::RouteGroup;
use domain::{CardRow, Refusal};

/// Whose models they are, where a protocol wants to know.
const OWNER: &str = "polysystems";
/// When a model was made, where a protocol wants to know: it is not recorded.
const CREATED_AT: &str = "1970-01-01T00:00:00Z";
/// Most models of a page.
const PAGE_MAX: usize = 1_000;

/// A page as Anthropic's clients ask for it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AnthropicPage {
    limit: Option<usize>,
    after_id: Option<String>,
    before_id: Option<String>,
}

/// A page as Google's clients ask for it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct GeminiPage {
    #[serde(alias = "pageSize")]
    page_size: Option<usize>,
    #[serde(alias = "pageToken")]
    page_token: Option<String>,
}

/// Is it one of the paths of models? The name that it asks for, if it asks for one.
fn asked(path: &str) -> Option<Option<&str>> {
    let rest = ["/v1/models", "/v1beta/models"].iter().find_map(|root| path.strip_prefix(root))?;
    if rest.is_empty() { Some(None) } else { rest.strip_prefix('/').map(Some) }
}

/// The answer to a caller who asks for models; `None` if it is for the upstream to answer.
pub(super) fn answer(
    request: &HttpRequest,
    gateway: &Gateway,
    caller: &Caller,
) -> Option<Result<HttpResponse, ApiError>> {
    let path = one_spelling(request.uri().path())?;
    if request.method() != Method::GET {
        return None;
    }
    let name = asked(&path)?;
    let offer = caller.offer(gateway);
    if !offer.has_models() {
        return None;
    }
    let form = Form::of_request(&path, request.headers());
    Some(match name {
        Some(name) => one(&offer, form, name),
        None => many(&offer, form, request),
    })
}

fn one(offer: &Offer, form: Form, name: &str) -> Result<HttpResponse, ApiError> {
    let name = percent_decode_str(name).decode_utf8().map_err(|_| Refusal::ModelNotSold)?;
    let model = offer.model(&name).ok_or(Refusal::ModelNotSold)?;
    Ok(HttpResponse::Ok().json(shaped(form, &model)))
}

fn many(offer: &Offer, form: Form, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let models = offer.models();
    Ok(HttpResponse::Ok().json(match form {
        Form::Anthropic => anthropic_page(&models, &query(request)?)?,
        Form::Gemini => gemini_page(&models, &query(request)?)?,
        Form::OpenAi | Form::Contract => {
            let data: Vec<Value> = models.iter().map(|model| shaped(form, model)).collect();
            json!({ "object": "list", "data": data })
        }
    }))
}

/// The size of a page.
fn size(field: &str, asked: Option<usize>, usual: usize) -> Result<usize, ApiError> {
    match asked.unwrap_or(usual) {
        0 => Err(ApiError::field(field, "must be at least 1")),
        size => Ok(size.min(PAGE_MAX)),
    }
}

fn anthropic_page(all: &[OfferedModel], page: &AnthropicPage) -> Result<Value, ApiError> {
    if page.limit.is_some_and(|limit| limit > PAGE_MAX) {
        return Err(ApiError::field("limit", format!("must be from 1 to {PAGE_MAX}")));
    }
    let limit = size("limit", page.limit, 20)?;
    let (shown, has_more) = match (&page.after_id, &page.before_id) {
        (Some(_), Some(_)) => {
            return Err(ApiError::field("before_id", "must not stand beside after_id"));
        }
        (None, Some(before)) => {
            let before = all.iter().take_while(|model| &*model.name < before.as_str()).count();
            let from = before.saturating_sub(limit);
            (all.get(from..before).unwrap_or_default(), from > 0)
        }
        (after, None) => after_name(all, after.as_deref(), limit),
    };
    let data: Vec<Value> = shown.iter().map(|model| shaped(Form::Anthropic, model)).collect();
    let name = |model: Option<&OfferedModel>| model.map(|model| model.name.to_string());
    let (first, last) = (name(shown.first()), name(shown.last()));
    Ok(json!({ "data": data, "has_more": has_more, "first_id": first, "last_id": last }))
}

fn gemini_page(all: &[OfferedModel], page: &GeminiPage) -> Result<Value, ApiError> {
    let limit = size("pageSize", page.page_size, 50)?;
    let after = page.page_token.as_deref().filter(|token| !token.is_empty());
    let (shown, has_more) = after_name(all, after, limit);
    let models: Vec<Value> = shown.iter().map(|model| shaped(Form::Gemini, model)).collect();
    let mut page = json!({ "models": models });
    if let (true, Some(last), Value::Object(fields)) = (has_more, shown.last(), &mut page) {
        fields.insert("nextPageToken".to_owned(), Value::from(&*last.name));
    }
    Ok(page)
}

/// The models after this name, at most so many, and whether there are more.
fn after_name<'m>(
    all: &'m [OfferedModel],
    after: Option<&str>,
    limit: usize,
) -> (&'m [OfferedModel], bool) {
    let is_before = |model: &&OfferedModel| after.is_some_and(|after| &*model.name <= after);
    let from = all.iter().take_while(is_before).count();
    let to = from.saturating_add(limit).min(all.len());
    (all.get(from..to).unwrap_or_default(), to < all.len())
}

/// A model as the clients of a protocol read it.
fn shaped(form: Form, offered: &OfferedModel) -> Value {
    let (name, model) = (&*offered.name, &offered.found.model);
    match form {
        Form::Anthropic => json!({
            "type": "model", "id": name, "display_name": name, "created_at": CREATED_AT,
            "max_input_tokens": model.max_input, "max_tokens": model.max_output,
        }),
        Form::Gemini => json!({
            "name": format!("models/{name}"), "version": "1", "displayName": name,
            "inputTokenLimit": model.max_input, "outputTokenLimit": model.max_output,
            "supportedGenerationMethods": gemini_methods(model, &offered.found.served),
            "thinking": model.hides_thoughts,
        }),
        Form::OpenAi | Form::Contract => {
            json!({ "id": name, "object": "model", "created": 0, "owned_by": OWNER })
        }
    }
}

/// The methods of Gemini's that a model has: none if nobody who serves it speaks its protocol.
fn gemini_methods(model: &SoldModel, served: &[Candidate]) -> &'static [&'static str] {
    let speaks = |one: &Candidate| one.by.provider.dialect == ProviderDialect::Gemini;
    if !served.iter().any(speaks) {
        &[]
    } else if model.max_output == 0 {
        &["embedContent", "batchEmbedContents"]
    } else {
        &["generateContent", "streamGenerateContent", "countTokens"]
    }
}

/// The prices of one service tier, for prompts of some lengths.
#[derive(Serialize, ToSchema)]
pub(super) struct OfferedPriceBody {
    /// The service tier.
    service: &'static str,
    /// For prompts of more tokens than this.
    over: u64,
    /// USD for a million tokens or characters, for an hour, or for a piece, by dimension.
    rates: BTreeMap<&'static str, String>,
}

impl From<&CardRow> for OfferedPriceBody {
    fn from(row: &CardRow) -> Self {
        let rates = row.rates.named().map(|(dim, price)| (dim.name(), price.to_string()));
        let CardRow { service, over, .. } = row;
        OfferedPriceBody { service: service.name(), over: *over, rates: rates.collect() }
    }
}

/// A model that the caller may call.
#[derive(Serialize, ToSchema)]
pub(super) struct OfferedModelBody {
    /// The name that it is called by.
    name: String,
    /// Its other names.
    aliases: Vec<String>,
    /// Most tokens of a prompt.
    max_input_tokens: u64,
    /// Most tokens of an answer.
    max_output_tokens: u64,
    /// What it takes and gives.
    modalities: Vec<&'static str>,
    /// Can it think without showing it?
    hides_thoughts: bool,
    /// The protocols of those who serve it: `openai`, `anthropic`, `gemini` or `azure`.
    protocols: Vec<&'static str>,
    /// Models that may answer in its place if a prompt is too long for it or a policy forbids it,
    /// and whose own price counts then. Empty: the price is that of this model, no matter which
    /// one answers.
    may_be_billed_as: Vec<String>,
    /// The number of the price version.
    price_version: u32,
    /// What it costs. A dimension that is not named costs what its parent costs.
    prices: Vec<OfferedPriceBody>,
    /// From when on it is not sold any more.
    #[schema(format = DateTime)]
    retires_at: Option<String>,
    /// The model that takes its place then.
    successor: Option<String>,
}

impl OfferedModelBody {
    fn new(offer: &Offer, offered: &OfferedModel) -> Self {
        let model = &offered.found.model;
        let protocols = offered.found.served.iter().map(|one| one.by.provider.dialect.name());
        let mut protocols: Vec<&'static str> = protocols.collect();
        protocols.sort_unstable();
        protocols.dedup();
        let modalities: Vec<&'static str> =
            model.modalities.iter().map(|modality| modality.name()).collect();
        OfferedModelBody {
            name: offered.found.name.to_string(),
            aliases: offer.aliases(&offered.found).iter().map(ToString::to_string).collect(),
            max_input_tokens: model.max_input,
            max_output_tokens: model.max_output,
            modalities: if modalities.is_empty() { vec!["text"] } else { modalities },
            hides_thoughts: model.hides_thoughts,
            protocols,
            may_be_billed_as: offer.may_be_billed_as(&offered.found),
            price_version: offered.priced.version.number(),
            prices: offered.priced.card.rows().iter().map(OfferedPriceBody::from).collect(),
            retires_at: model.retires_at.map(domain::Timestamp::to_rfc3339),
            successor: model.successor.as_ref().map(ToString::to_string),
        }
    }
}

/// The models that the caller may call.
#[derive(Serialize, ToSchema)]
pub(super) struct OfferedModelsAnswer {
    /// `USD`
    currency: &'static str,
    models: Vec<OfferedModelBody>,
}

/// The models that the caller may call by name, and what they cost: by a session, or by an API key,
/// which may be for some of them alone.
#[utoipa::path(get, path = "/api/models", tag = "models",
    security(("jwt" = []), ("api_key" = []), ("api_key_bearer" = [])), responses(
    (status = 200, description = "The models", body = OfferedModelsAnswer),
    (status = 401, description = "No JWT or API key, or none that is valid", body = ErrorBody),
    (status = 403, description = "The key may not be used for this, or from there", body = ErrorBody),
))]
pub(super) async fn list(request: HttpRequest, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let offer = offer(&request, &app).await?;
    let models = offer.models();
    // An alias is told with its model.
    let own = models.iter().filter(|model| model.name == model.found.name);
    let models = own.map(|model| OfferedModelBody::new(&offer, model)).collect();
    Ok(HttpResponse::Ok().json(OfferedModelsAnswer { currency: "USD", models }))
}

/// One model that the caller may call, by its name or an alias. A `/` in a name is written `%2F`.
#[utoipa::path(get, path = "/api/models/{name}", tag = "models",
    params(("name" = String, Path, max_length = 128)),
    security(("jwt" = []), ("api_key" = []), ("api_key_bearer" = [])), responses(
    (status = 200, description = "The model", body = OfferedModelBody),
    (status = 401, description = "No JWT or API key, or none that is valid", body = ErrorBody),
    (status = 403, description = "The key may not be used for this, or from there", body = ErrorBody),
    (status = 404, description = "No such model is sold to the caller", body = ErrorBody),
))]
pub(super) async fn get(
    request: HttpRequest,
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let offer = offer(&request, &app).await?;
    let model = offer.model(&name).ok_or(Refusal::ModelNotSold)?;
    Ok(HttpResponse::Ok().json(OfferedModelBody::new(&offer, &model)))
}

/// What is offered to the key or to the session of a request.
async fn offer(request: &HttpRequest, app: &Data<App>) -> Result<Offer, ApiError> {
    let has_key = KEY_HEADERS.iter().any(|name| request.headers().contains_key(*name))
        || bearer(request).is_some_and(|bearer| ApiKey::parse(bearer).is_ok());
    if !has_key {
        let user = CurrentSession::from_request(request, &mut Payload::None).await?.user.id;
        return Ok(app.gateway.offer(app.price_lists.list_of(user).await?));
    }
    // As if it asked the gateway for its models.
    let arrival = Arrival {
        id: super::edge::request_id(request),
        group: RouteGroup::V1,
        method: Method::GET,
        path: "/v1/models".to_owned(),
        query: None,
        credential: credential(request)?.map(str::to_owned),
        address: client_address(request, &app.trusted_proxies),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        idempotency_key: None,
        running: None,
        client_left: None,
        paying: None,
        at: app.clock.now(),
    };
    let caller = pipeline::identify(&app.gateway, Box::new(arrival)).await.result?;
    Ok(caller.offer(&app.gateway))
}

#[cfg(test)]
mod tests {
    use domain::catalogue::{
        Catalogue, CatalogueDocument, Credential, DeploymentId, ModelProvider, ModelTarget,
        TargetAt, Wildcard,
    };
    use domain::price_book::{PriceBook, PriceVersion, VersionTerms};
    use domain::{Card, Dim, KeyPolicy, Link, Multiplier, Rates, Timestamp, UnitPrice, VersionId};

    use std::sync::Arc;

    use domain::ListId;

    use super::*;
    use crate::models::Selling;

    const NOW: Timestamp = Timestamp::from_micros(1_705_320_000_000_000);

    fn sold(name: &str, aliases: &[&str], credential: &str) -> SoldModel {
        SoldModel {
            name: name.into(),
            aliases: aliases.iter().map(|alias| Arc::from(*alias)).collect(),
            max_input: 100_000,
            max_output: 8_000,
            tokenizer_permille: 1_000,
            targets: vec![ModelTarget {
                at: TargetAt::Credential(credential.into()),
                weight: 1,
                priority: 0,
            }],
            ..SoldModel::default()
        }
    }

    /// Four models: one with an alias, one that is retired, one without a price, and one of a
    /// pattern.
    fn selling() -> Arc<Selling> {
        let provider = |name: &str, dialect| ModelProvider {
            name: name.into(),
            dialect,
            url: Some("https://a.example".into()),
            ..ModelProvider::default()
        };
        let credential =
            |name: &str| Credential { name: name.into(), provider: name.into(), quota_group: None };
        let pattern =
            SoldModel { name: "".into(), targets: Vec::new(), ..sold("x", &[], "google") };
        let document = CatalogueDocument {
            providers: vec![
                provider("google", ProviderDialect::Gemini),
                provider("openai", ProviderDialect::OpenAi),
            ],
            credentials: vec![credential("google"), credential("openai")],
            models: vec![
                sold("gemini-x", &["best", "fast"], "google"),
                sold("gpt-x", &[], "openai"),
                SoldModel { retires_at: Some(NOW), ..sold("old", &[], "openai") },
                sold("unpriced", &[], "openai"),
            ],
            wildcards: vec![Wildcard {
                pattern: "all/*".into(),
                credential: "google".into(),
                upstream_model: None,
                model: pattern,
            }],
            ..CatalogueDocument::default()
        };
        let ids = document.deployment_names().into_iter().zip((1..).map(DeploymentId)).collect();
        let catalogue = Catalogue::new(1, document, &ids).unwrap();
        let price = |nanos| UnitPrice::from_nanos(nanos).unwrap();
        let rates = Rates::NONE.with(Dim::Input, price(3_000_000_000));
        let card = Arc::new(Card::flat(rates.with(Dim::Output, price(15_000_000_000))).unwrap());
        let names = ["all/*", "gemini-x", "gpt-x", "old"];
        let terms = VersionTerms {
            id: VersionId::FIRST,
            list: ListId::DEFAULT,
            parent: None,
            multiplier: Multiplier::ONE,
            effective_from: Timestamp::from_micros(0),
            cards: names.map(|name| (Arc::from(name), Arc::clone(&card))).to_vec(),
        };
        let mut book = PriceBook::default();
        book.add(Arc::new(PriceVersion::new(terms, Link::START).unwrap())).unwrap();
        Arc::new(Selling::new(catalogue, book, BTreeMap::new()))
    }

    fn offer_of(models: Option<&[&str]>) -> Offer {
        let models = models.map(|models| models.iter().map(|name| (*name).to_owned()).collect());
        let policy = Arc::new(KeyPolicy { models, ..KeyPolicy::default() });
        Offer::new(selling(), ListId::DEFAULT, policy, NOW)
    }

    fn names(offer: &Offer) -> Vec<String> {
        offer.models().iter().map(|model| model.name.to_string()).collect()
    }

    #[test]
    fn a_caller_sees_what_it_may_call_and_nothing_else() {
        assert_eq!(names(&offer_of(None)), ["best", "fast", "gemini-x", "gpt-x"]);
        assert_eq!(names(&offer_of(Some(&["gpt*"]))), ["gpt-x"]);
        // Who names an alias means its model.
        let all = ["best", "fast", "gemini-x", "gpt-x"];
        assert_eq!(names(&offer_of(Some(&["gpt*", "best"]))), all);
        assert!(names(&offer_of(Some(&[]))).is_empty());
        let elsewhere = Offer::new(selling(), ListId(7), Arc::default(), NOW);
        assert!(names(&elsewhere).is_empty() && elsewhere.has_models());
        let before = Timestamp::from_micros(NOW.micros() - 1);
        let earlier = Offer::new(selling(), ListId::DEFAULT, Arc::default(), before);
        assert!(names(&earlier).contains(&"old".to_owned()));
        for (models, name, is_offered) in [
            (None, "gemini-x", true),
            (None, "fast", true),
            (None, "all/that", true),
            (None, "old", false),
            (None, "unpriced", false),
            (None, "nothing", false),
            (Some(&["gpt*"][..]), "gpt-x", true),
            (Some(&["gpt*"]), "gemini-x", false),
            (Some(&["gpt*"]), "all/that", false),
            (Some(&["gpt*"]), "fast", false),
            (Some(&["gemini-x"]), "fast", true),
        ] {
            let offer = offer_of(models);
            assert_eq!(offer.model(name).is_some(), is_offered, "{name}");
            for form in [Form::OpenAi, Form::Anthropic, Form::Gemini] {
                assert_eq!(one(&offer, form, name).is_ok(), is_offered, "{name}");
            }
        }
        assert_eq!(
            offer_of(Some(&["gemini-x", "fast"]))
                .aliases(&offer_of(None).model("gemini-x").unwrap().found),
            [Arc::from("best"), Arc::from("fast")]
        );
    }

    #[test]
    fn each_protocols_clients_read_their_own_shape() {
        let offer = offer_of(None);
        let (gemini, gpt) = (offer.model("fast").unwrap(), offer.model("gpt-x").unwrap());
        assert_eq!(
            shaped(Form::OpenAi, &gpt),
            json!({ "id": "gpt-x", "object": "model", "created": 0, "owned_by": "polysystems" })
        );
        let shape = shaped(Form::Anthropic, &gpt);
        assert_eq!((&shape["type"], &shape["id"]), (&json!("model"), &json!("gpt-x")));
        let shape = shaped(Form::Gemini, &gemini);
        assert_eq!(
            (&shape["name"], &shape["inputTokenLimit"]),
            (&json!("models/fast"), &json!(100_000))
        );
        assert_eq!(shape["supportedGenerationMethods"][0], "generateContent");
        assert_eq!(shaped(Form::Gemini, &gpt)["supportedGenerationMethods"], json!([]));
        let body = serde_json::to_value(OfferedModelBody::new(&offer, &gemini)).unwrap();
        assert_eq!(
            (&body["name"], &body["aliases"]),
            (&json!("gemini-x"), &json!(["best", "fast"]))
        );
        assert_eq!(body["prices"][0]["rates"], json!({ "input": "3.0000", "output": "15.0000" }));
        assert_eq!(
            (&body["protocols"], &body["modalities"]),
            (&json!(["gemini"]), &json!(["text"]))
        );
    }

    #[test]
    fn pages_have_all_models_once() {
        let all = offer_of(None).models();
        let names = |page: &Value, list: &str, field: &str| -> Vec<String> {
            let list = page[list].as_array().unwrap().iter();
            list.map(|model| model[field].as_str().unwrap().replace("models/", "")).collect()
        };
        let expected: Vec<String> = all.iter().map(|model| model.name.to_string()).collect();
        for limit in 1..6 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = AnthropicPage { limit: Some(limit), after_id: after, before_id: None };
                let page = anthropic_page(&all, &page).unwrap();
                seen.extend(names(&page, "data", "id"));
                if page["has_more"] == false {
                    break;
                }
                after = Some(page["last_id"].as_str().unwrap().to_owned());
            }
            assert_eq!(seen, expected);
            let (mut seen, mut token) = (Vec::new(), None);
            loop {
                let page = GeminiPage { page_size: Some(limit), page_token: token };
                let page = gemini_page(&all, &page).unwrap();
                seen.extend(names(&page, "models", "name"));
                let Some(next) = page["nextPageToken"].as_str() else { break };
                token = Some(next.to_owned());
            }
            assert_eq!(seen, expected);
        }
        let before = |before: &str, limit| {
            let before_id = Some(before.to_owned());
            let page = AnthropicPage { limit: Some(limit), after_id: None, before_id };
            let page = anthropic_page(&all, &page).unwrap();
            (names(&page, "data", "id"), page["has_more"].as_bool().unwrap())
        };
        assert_eq!(before("gpt-x", 2), (expected[1..3].to_vec(), true));
        assert_eq!(before("gpt-x", 3), (expected[..3].to_vec(), false));
        let page = |limit| AnthropicPage { limit: Some(limit), ..AnthropicPage::default() };
        assert!(anthropic_page(&all, &page(0)).is_err());
        assert!(anthropic_page(&all, &page(1_001)).is_err());
        assert!(anthropic_page(&[], &AnthropicPage::default()).unwrap()["first_id"].is_null());
    }

    #[test]
    fn a_path_asks_for_all_or_for_one() {
        for (path, name) in [
            ("/v1/models", Some(None)),
            ("/v1beta/models", Some(None)),
            ("/v1/models/a/b:free", Some(Some("a/b:free"))),
            ("/v1beta/models/x", Some(Some("x"))),
            ("/v1/modelsx", None),
            ("/v1/chat/completions", None),
        ] {
            assert_eq!(asked(path), name, "{path}");
        }
    }
}
