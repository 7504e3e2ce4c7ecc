//! `/api/admin/price-lists/{list}/versions`: what operators do to the versions of price lists.

use std::collections::BTreeMap;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::answers::{created, path_of};
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithBody, WithDocument};
use super::page::query;
use super::price_lists::{DryRunQuery, PriceVersionBody};
use super::transactions::time;
use super::validation::present;
use super::{App, uncancelled};
use crate::json::strict::Strict;
use crate::price_lists::{ChangedPrices, Doing, PriceChange, PriceDraft, SoldBelowCost};
use domain::card_document::{price_text, write_card};
use domain::price_book::{ListId, PriceDifference};
use domain::{Multiplier, VersionId};

/// A version with the cards that it has itself.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceVersionCardsBody {
    version: PriceVersionBody,
    /// In the form in which they are written: dollars for a million tokens or characters, an hour,
    /// or a piece.
    #[schema(value_type = Vec<Object>)]
    cards: Vec<Value>,
}

/// A draft of a version.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceDraftBody {
    #[schema(pattern = "^draft-[0-9]+$")]
    id: String,
    /// The list to inherit from; null is none, or what it is when the draft is published.
    parent: Option<String>,
    /// null: what it is when the draft is published.
    multiplier: Option<String>,
    /// Are the cards that are in force kept, unless they are named?
    merge: bool,
    /// `cards` and `overrides`, as they were sent.
    #[schema(value_type = Object)]
    content: Value,
    #[schema(value_type = id::UserId)]
    author: String,
    #[schema(format = DateTime)]
    created_at: String,
}

impl PriceDraftBody {
    fn new(draft: &PriceDraft, names: &BTreeMap<ListId, String>) -> Self {
        PriceDraftBody {
            id: format!("draft-{}", draft.id),
            parent: draft.parent.flatten().and_then(|parent| names.get(&parent).cloned()),
            multiplier: draft.multiplier.map(|multiplier| multiplier.to_string()),
            merge: draft.keeps_others,
            content: serde_json::from_str(&draft.cards).unwrap_or_default(),
            author: draft.author.to_string(),
            created_at: draft.created_at.to_rfc3339(),
        }
    }
}

/// The versions of a price list.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceVersionsAnswer {
    /// What may become a version, the last one first.
    drafts: Vec<PriceDraftBody>,
    /// The last one first.
    versions: Vec<PriceVersionBody>,
}

/// The drafts and the versions of a price list.
#[utoipa::path(get, path = "/api/admin/price-lists/{list}/versions", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name")), responses(
    (status = 200, description = "Drafts and versions", body = PriceVersionsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such list", body = ErrorBody),
))]
pub(super) async fn versions(
    _: AdminUser,
    app: Data<App>,
    list: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (drafts, versions, names) = app.price_lists.versions(&list).await?;
    let drafts = drafts.iter().map(|draft| PriceDraftBody::new(draft, &names)).collect();
    let versions = versions.iter().map(PriceVersionBody::from).collect();
    Ok(HttpResponse::Ok().json(PriceVersionsAnswer { drafts, versions }))
}

/// What shall be in a price list. Without `merge` it has just these cards of its own.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct NewVersionBody {
    /// Whole cards: `{"model": "m", "input": "10", "output": "50"}`, or with `rows`. Prices are
    /// dollars in quotes. `{"model": "m", "remove": true}` takes a card out.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    cards: Option<Strict>,
    /// Cards that are the parent's, with these prices in place of its own. They are put together
    /// when they are published.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    overrides: Option<Strict>,
    /// Keep the cards that are in force, unless they are named.
    #[serde(default)]
    merge: bool,
    /// The list to inherit cards from; null is none. Left out: with `merge` as it is in force, else
    /// as the list has it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    parent: Option<Option<String>>,
    /// What the parent's prices are multiplied by, in quotes, with at most six decimals. Left out:
    /// with `merge` as it is in force, else they are as they are.
    #[serde(default)]
    #[schema(example = "0.90")]
    multiplier: Option<String>,
    /// From when on it is in force, at least `pricing.notice_seconds` from now; left out: as soon
    /// as it can.
    #[serde(default)]
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// Publish it at once. Otherwise it is a draft.
    #[serde(default)]
    publish: bool,
    /// The models that may be sold below their cost if it is published; `*` is all of them.
    #[serde(default)]
    allow_loss: Vec<String>,
}

/// A price that differs.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceDifferenceBody {
    model: String,
    service: &'static str,
    /// For prompts of more tokens than this.
    over: u64,
    dimension: &'static str,
    /// Dollars; null: it was not sold so.
    old: Option<String>,
    /// Dollars; null: it is not sold so.
    new: Option<String>,
    /// By how many percent it changes, such as `+12.50` or `-10.00`; null if there is nothing to
    /// compare.
    percent: Option<String>,
}

impl From<&PriceDifference> for PriceDifferenceBody {
    fn from(one: &PriceDifference) -> Self {
        PriceDifferenceBody {
            model: one.model.to_string(),
            service: one.service.name(),
            over: one.over,
            dimension: one.dim.name(),
            old: one.old.map(price_text),
            new: one.new.map(price_text),
            percent: one.percent().map(|percent| percent.to_string()),
        }
    }
}

/// A price that is below what it costs us.
#[derive(Serialize, ToSchema)]
pub(super) struct BelowCostBody {
    /// The price list.
    list: String,
    model: String,
    /// The deployment that costs more.
    deployment: String,
    service: &'static str,
    /// For prompts of more tokens than this.
    over: u64,
    dimension: &'static str,
    /// What customers pay, in dollars.
    price: String,
    /// What we pay, in dollars.
    cost: String,
}

impl From<&SoldBelowCost> for BelowCostBody {
    fn from(SoldBelowCost { list, price: one }: &SoldBelowCost) -> Self {
        BelowCostBody {
            list: list.clone(),
            model: one.model.to_string(),
            deployment: one.deployment.to_string(),
            service: one.service.name(),
            over: one.over,
            dimension: one.dim.name(),
            price: price_text(one.price),
            cost: price_text(one.cost),
        }
    }
}

/// What came of a change.
#[derive(Serialize, ToSchema)]
pub(super) struct PricesChangedAnswer {
    /// The draft, if it was not published.
    draft: Option<PriceDraftBody>,
    /// The versions that were published or withdrawn: that of the list first, then those of the
    /// lists that inherit from it.
    versions: Vec<PriceVersionBody>,
    /// What differs for the list.
    differences: Vec<PriceDifferenceBody>,
    /// What is then sold below its cost.
    below_cost: Vec<BelowCostBody>,
    /// Was it only tried?
    dry_run: bool,
}

impl PricesChangedAnswer {
    fn of(changed: &ChangedPrices, dry_run: bool) -> Self {
        PricesChangedAnswer {
            draft: None,
            versions: changed.versions.iter().map(PriceVersionBody::from).collect(),
            differences: changed.differences.iter().map(PriceDifferenceBody::from).collect(),
            below_cost: changed.below_cost.iter().map(BelowCostBody::from).collect(),
            dry_run,
        }
    }
}

/// Publishes a new version of a price list, or writes a draft of one. Lists that inherit from it
/// get new versions from the same instant on.
#[utoipa::path(post, path = "/api/admin/price-lists/{list}/versions", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), DryRunQuery), request_body = NewVersionBody, responses(
    (status = 200, description = "What would come of it", body = PricesChangedAnswer),
    (status = 201, description = "Published, or drafted", body = PricesChangedAnswer),
    (status = 400, description = "All that is wrong with it, each with its place", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such list", body = ErrorBody),
    (status = 409, description = "The list is written by the settings, or a model would be sold below its cost",
        body = ErrorBody),
    (status = 413, description = "The document is larger than 8 MiB", body = ErrorBody),
))]
pub(super) async fn add_version(
    WithDocument(ConfirmedAdmin(operator), body): WithDocument,
    app: Data<App>,
    request: HttpRequest,
    list: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let asked: NewVersionBody = body.json()?;
    let DryRunQuery { dry_run } = query(&request)?;
    let multiplier = asked.multiplier.map(|text| text.parse::<Multiplier>()).transpose();
    let change = PriceChange {
        cards: asked.cards.map(|Strict(cards)| cards),
        overrides: asked.overrides.map(|Strict(overrides)| overrides),
        keeps_others: asked.merge,
        parent: asked.parent,
        multiplier: multiplier.map_err(|error| ApiError::field("multiplier", error.to_string()))?,
    };
    let effective_from = time("effective_from", asked.effective_from.as_deref())?;
    if effective_from.is_some() && !asked.publish {
        let message = "is for what is published; a draft gets it when it is published";
        return Err(ApiError::field("effective_from", message));
    }
    if !asked.allow_loss.is_empty() && !asked.publish {
        let message = "is for what is published; a draft gets it when it is published";
        return Err(ApiError::field("allow_loss", message));
    }
    let doing = Doing { effective_from, is_dry_run: dry_run, allow_loss: asked.allow_loss };
    let (AdminUser { id, origin, .. }, list) = (operator, list.into_inner());
    let (publish, at) = (asked.publish, versions_path(&list));
    let changing = async move {
        let lists = &app.price_lists;
        if publish {
            let changed = lists.publish_change(&list, change, doing, id, origin).await?;
            return Ok::<_, ApiError>(PricesChangedAnswer::of(&changed, dry_run));
        }
        let draft = lists.draft_change(&list, change, doing, id, origin).await?;
        let draft = match draft {
            None => None,
            Some(draft) => {
                let (draft, names) = lists.draft(&list, draft.id).await?;
                Some(PriceDraftBody::new(&draft, &names))
            }
        };
        let (versions, differences, below_cost) = (Vec::new(), Vec::new(), Vec::new());
        Ok(PricesChangedAnswer { draft, versions, differences, below_cost, dry_run })
    };
    let answer = uncancelled(changing).await?;
    let mut made = if dry_run { HttpResponse::Ok() } else { created(&at) };
    Ok(made.json(answer))
}

/// Where the versions of a list are.
fn versions_path(list: &str) -> String {
    path_of("/api/admin/price-lists", list) + "/versions"
}

/// A draft or a version, by its path.
enum Named {
    Draft(i64),
    Version(VersionId),
}

/// What cannot be one is answered as one that does not exist.
fn named(text: &str) -> Result<Named, ApiError> {
    let none = || ApiError::NotFound("price version");
    let is_plain =
        |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    match text.strip_prefix("draft-") {
        Some(digits) if is_plain(digits) => digits.parse().map(Named::Draft).map_err(|_| none()),
        None => version_of(text).map(Named::Version).ok_or_else(none),
        Some(_) => Err(none()),
    }
}

/// The number of a draft.
pub(super) fn draft_number(text: &str) -> Result<i64, ApiError> {
    match named(text)? {
        Named::Draft(draft) => Ok(draft),
        Named::Version(_) => Err(ApiError::NotFound("draft of prices")),
    }
}

fn version_of(text: &str) -> Option<VersionId> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain).and_then(VersionId::new)
}

fn published(text: &str) -> Result<VersionId, ApiError> {
    match named(text)? {
        Named::Version(version) => Ok(version),
        Named::Draft(_) => Err(ApiError::NotFound("price version")),
    }
}

/// A version with its cards. A draft has none yet: it is among the versions of its list.
#[utoipa::path(get, path = "/api/admin/price-lists/{list}/versions/{id}", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), ("id" = String, Path, description = "The number of a version")),
    responses(
    (status = 200, description = "The version", body = PriceVersionCardsBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such list or version", body = ErrorBody),
))]
pub(super) async fn version(
    _: AdminUser,
    app: Data<App>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (list, id) = path.into_inner();
    let view = app.price_lists.version(&list, published(&id)?).await?;
    let cards = view.version.cards().iter().map(|(name, card)| write_card(name, card)).collect();
    let version = PriceVersionBody::from(&view);
    Ok(HttpResponse::Ok().json(PriceVersionCardsBody { version, cards }))
}

/// Deletes a draft. A version is never deleted.
#[utoipa::path(delete, path = "/api/admin/price-lists/{list}/versions/{id}", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), ("id" = String, Path, description = "`draft-<number>`")),
    responses(
    (status = 204, description = "Deleted"),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such list or draft", body = ErrorBody),
    (status = 409, description = "It is a version, which is never deleted", body = ErrorBody),
))]
pub(super) async fn delete_draft(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (list, id) = path.into_inner();
    let draft = match named(&id)? {
        Named::Draft(draft) => draft,
        Named::Version(version) => {
            app.price_lists.version(&list, version).await?;
            return Err(ApiError::Conflict(
                "A version is never deleted. Withdraw it before it is in force, or publish another one."
                    .into(),
            ));
        }
    };
    let AdminUser { id, origin, .. } = operator;
    let deleting = async move { app.price_lists.delete_draft(&list, draft, id, origin).await };
    uncancelled(deleting).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// When a draft is published.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct PublishBody {
    /// From when on it is in force, at least `pricing.notice_seconds` from now; left out: as soon
    /// as it can.
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// The models that may be sold below their cost; `*` is all of them.
    allow_loss: Vec<String>,
}

/// Publishes a draft. The body may be left out.
#[utoipa::path(post, path = "/api/admin/price-lists/{list}/versions/{id}/publish", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), ("id" = String, Path, description = "`draft-<number>`"), DryRunQuery),
    request_body = Option<PublishBody>, responses(
    (status = 200, description = "What would come of it", body = PricesChangedAnswer),
    (status = 201, description = "Published", body = PricesChangedAnswer),
    (status = 400, description = "It cannot be published so", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such list or draft", body = ErrorBody),
    (status = 409, description = "The list is written by the settings, or a model would be sold below its cost",
        body = ErrorBody),
))]
pub(super) async fn publish(
    WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let PublishBody { effective_from, allow_loss } = body.json_or_nothing()?.unwrap_or_default();
    let DryRunQuery { dry_run } = query(&request)?;
    let effective_from = time("effective_from", effective_from.as_deref())?;
    let (list, id) = path.into_inner();
    let draft = draft_number(&id)?;
    let doing = Doing { effective_from, is_dry_run: dry_run, allow_loss };
    let at = versions_path(&list);
    let AdminUser { id, origin, .. } = operator;
    let publishing =
        async move { app.price_lists.publish_draft(&list, draft, doing, id, origin).await };
    let changed = uncancelled(publishing).await?;
    let mut made = if dry_run { HttpResponse::Ok() } else { created(&at) };
    Ok(made.json(PricesChangedAnswer::of(&changed, dry_run)))
}

/// Withdraws a version that is not in force yet, and those that were published because of it.
#[utoipa::path(post, path = "/api/admin/price-lists/{list}/versions/{id}/withdraw", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), ("id" = String, Path, description = "The number of a version"), DryRunQuery),
    responses(
    (status = 200, description = "Withdrawn, or could be", body = PricesChangedAnswer),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such list or version", body = ErrorBody),
    (status = 409, description = "It is in force, or others need it", body = ErrorBody),
))]
pub(super) async fn withdraw(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let DryRunQuery { dry_run } = query(&request)?;
    let (list, id) = path.into_inner();
    let version = published(&id)?;
    let doing = Doing { is_dry_run: dry_run, ..Doing::default() };
    let AdminUser { id, origin, .. } = operator;
    let withdrawing =
        async move { app.price_lists.withdraw(&list, version, doing, id, origin).await };
    let changed = uncancelled(withdrawing).await?;
    Ok(HttpResponse::Ok().json(PricesChangedAnswer::of(&changed, dry_run)))
}

/// With which version one is compared.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PriceDiffQuery {
    /// The number of the other version, of any list.
    #[param(pattern = "^[1-9][0-9]{0,9}$")]
    to: String,
}

/// What differs between two versions.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceDiffAnswer {
    differences: Vec<PriceDifferenceBody>,
    /// What the other version sells below what it costs now.
    below_cost: Vec<BelowCostBody>,
}

/// What differs from one version to another: by model and dimension, after parents and multiplier.
#[utoipa::path(get, path = "/api/admin/price-lists/{list}/versions/{id}/diff", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), ("id" = String, Path, description = "The number of a version"), PriceDiffQuery),
    responses(
    (status = 200, description = "The prices that differ", body = PriceDiffAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such list or version", body = ErrorBody),
))]
pub(super) async fn diff(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let PriceDiffQuery { to } = query(&request)?;
    let to = version_of(&to);
    let to = to.ok_or_else(|| ApiError::field("to", "must be the number of a version"))?;
    let (list, id) = path.into_inner();
    let (differences, below_cost) = app.price_lists.diff(&list, published(&id)?, to).await?;
    Ok(HttpResponse::Ok().json(PriceDiffAnswer {
        differences: differences.iter().map(PriceDifferenceBody::from).collect(),
        below_cost: below_cost.iter().map(BelowCostBody::from).collect(),
    }))
}
