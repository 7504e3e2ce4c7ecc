//! `/api/admin/price-lists`, `/api/admin/prices/quote` and `/api/admin/users/{id}/price-list`: for
//! operators. The versions of lists are in
//! `price_versions`.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::amount::WithAmounts as _;
use super::answers::{created, path_of};
use super::docs::id;
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithBody};
use super::page::query;
use super::pricing::{PriceQuoteAnswer, PriceQuoteBody};
use super::transactions::time;
use super::validation::is_printable;
use super::{App, uncancelled};
use crate::admin::AdminError;
use crate::price_lists::{CardView, LIST_NAME_MAX, ListView, VersionView};
use domain::card_document::write_card;
use domain::price_book::ListId;
use domain::{Timestamp, UserId, VersionId};

/// A version of a price list.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceVersionBody {
    /// Its number, which bills name.
    #[schema(minimum = 1)]
    id: u32,
    /// Its list.
    list: String,
    /// `published`, `in_force`, `past` or `withdrawn`
    #[schema(pattern = "^(published|in_force|past|withdrawn)$")]
    state: &'static str,
    #[schema(format = DateTime)]
    effective_from: String,
    /// Until when it is in force; null as long as no other one follows.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<String>,
    /// The list that it inherits cards from.
    parent: Option<String>,
    /// The version of that list.
    parent_version: Option<u32>,
    /// What the parent's prices are multiplied by, such as `0.900000`.
    multiplier: String,
    /// Was it published because its parent was?
    follows: bool,
    /// How many cards of its own it has.
    #[schema(minimum = 0)]
    own_cards: usize,
    /// SHA-256 of its document.
    digest: String,
}

impl From<&VersionView> for PriceVersionBody {
    fn from(view: &VersionView) -> Self {
        let version = &view.version;
        PriceVersionBody {
            id: version.id().number(),
            list: view.list.clone(),
            state: view.state.name(),
            effective_from: version.effective_from().to_rfc3339_micros(),
            until: view.until.map(Timestamp::to_rfc3339_micros),
            parent: view.parent.clone(),
            parent_version: version.parent().map(VersionId::number),
            multiplier: version.multiplier().to_string(),
            follows: view.is_follower,
            own_cards: version.cards().len(),
            digest: hex::encode(version.digest()),
        }
    }
}

/// A price list.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceListBody {
    name: String,
    /// The list that new versions inherit from unless they say otherwise.
    parent: Option<String>,
    /// How many users pay by it. Everybody without a list pays by `default` and is not counted.
    #[schema(minimum = 0)]
    users: i64,
    /// The version in force.
    in_force: Option<PriceVersionBody>,
}

impl From<&ListView> for PriceListBody {
    fn from(view: &ListView) -> Self {
        PriceListBody {
            name: view.list.name.clone(),
            parent: view.parent.clone(),
            users: view.list.users,
            in_force: view.in_force.as_ref().map(PriceVersionBody::from),
        }
    }
}

/// The price lists.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceListsAnswer {
    price_lists: Vec<PriceListBody>,
}

/// All price lists. `routes` has the prices of the settings, `default` those of models for
/// everybody who has no other list.
#[utoipa::path(get, path = "/api/admin/price-lists", tag = "admin", security(("jwt" = [])), responses(
    (status = 200, description = "The price lists", body = PriceListsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn list(_: AdminUser, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let lists = app.price_lists.lists().await?;
    let price_lists = lists.iter().map(PriceListBody::from).collect();
    Ok(HttpResponse::Ok().json(PriceListsAnswer { price_lists }))
}

/// A price list to make.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceListCreateBody {
    /// 1 to 64 of a to z, 0 to 9, `.`, `_` and `-`, first a letter or a digit.
    #[garde(length(bytes, min = 1, max = LIST_NAME_MAX), custom(is_printable))]
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$", example = "gold")]
    name: String,
    /// The list that new versions inherit from unless they say otherwise.
    #[serde(default)]
    #[garde(skip)]
    #[schema(example = "default")]
    parent: Option<String>,
}

/// Is it only tried?
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRunQuery {
    /// Changes nothing: what is answered is what would come of it.
    pub(super) dry_run: bool,
}

/// Makes a price list without a version.
#[utoipa::path(post, path = "/api/admin/price-lists", tag = "admin", security(("jwt" = [])),
    params(DryRunQuery), request_body = PriceListCreateBody, responses(
    (status = 200, description = "It could be made", body = PriceListBody),
    (status = 201, description = "Made", body = PriceListBody),
    (status = 400, description = "The name is none, or there is no such parent", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 409, description = "Another list has this name", body = ErrorBody),
))]
pub(super) async fn create(
    WithBody(ConfirmedAdmin(operator), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let PriceListCreateBody { name, parent } = body.json()?;
    let DryRunQuery { dry_run } = query(&request)?;
    let answer =
        PriceListBody { name: name.clone(), parent: parent.clone(), users: 0, in_force: None };
    let AdminUser { id, origin, .. } = operator;
    let creating = async move { app.price_lists.create(name, parent, dry_run, id, origin).await };
    uncancelled(creating).await?;
    let at = path_of("/api/admin/price-lists", &answer.name);
    let mut made = if dry_run { HttpResponse::Ok() } else { created(&at) };
    Ok(made.json(answer))
}

/// One price list.
#[utoipa::path(get, path = "/api/admin/price-lists/{list}", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name")), responses(
    (status = 200, description = "The price list", body = PriceListBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such list", body = ErrorBody),
))]
pub(super) async fn get(
    _: AdminUser,
    app: Data<App>,
    list: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let list = app.price_lists.list(&list).await?;
    Ok(HttpResponse::Ok().json(PriceListBody::from(&list)))
}

/// Deletes a price list that has no version and that nothing uses, with its drafts.
#[utoipa::path(delete, path = "/api/admin/price-lists/{list}", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"), DryRunQuery), responses(
    (status = 204, description = "Deleted, or could be"),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such list", body = ErrorBody),
    (status = 409, description = "Something uses it, or it is written by the settings", body = ErrorBody),
))]
pub(super) async fn delete(
    ConfirmedAdmin(operator): ConfirmedAdmin,
    app: Data<App>,
    request: HttpRequest,
    list: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let DryRunQuery { dry_run } = query(&request)?;
    let AdminUser { id, origin, .. } = operator;
    let deleting = async move { app.price_lists.delete(&list, dry_run, id, origin).await };
    uncancelled(deleting).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// At which instant.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PriceAtQuery {
    /// Now, if it is left out.
    #[param(format = DateTime)]
    at: Option<String>,
}

/// The prices of a model.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceCardAnswer {
    /// The version of the list that is in force then.
    version: PriceVersionBody,
    /// The version that has the card itself: this one, or one that it inherits from.
    card_of_version: u32,
    /// The card, with every multiplier.
    #[schema(value_type = Object)]
    card: Value,
}

impl From<&CardView> for PriceCardAnswer {
    fn from(view: &CardView) -> Self {
        PriceCardAnswer {
            version: PriceVersionBody::from(&view.version),
            card_of_version: view.from.number(),
            card: write_card(&view.name, &view.priced.card),
        }
    }
}

/// The prices of a model that a list has at an instant, after parents and multiplier.
#[utoipa::path(get, path = "/api/admin/price-lists/{list}/cards/{model}", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name"),
        ("model" = String, Path, description = "The name of a model; `/` in it as `%2F`"), PriceAtQuery),
    responses(
    (status = 200, description = "The prices", body = PriceCardAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such list, or the model is not sold by it then", body = ErrorBody),
))]
pub(super) async fn card(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let PriceAtQuery { at } = query(&request)?;
    let at = time("at", at.as_deref())?;
    let (list, model) = path.into_inner();
    let view = app.price_lists.card(&list, &model, at).await?;
    Ok(HttpResponse::Ok().json(PriceCardAnswer::from(&view)))
}

/// What a usage costs by a list, with its arithmetic.
#[utoipa::path(post, path = "/api/admin/prices/quote", tag = "admin", security(("jwt" = [])),
    request_body = PriceQuoteBody, responses(
    (status = 200, description = "The cost", body = PriceQuoteAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "The model is not sold by the list then", body = ErrorBody),
))]
pub(super) async fn quote(
    WithBody(_operator, body): WithBody<AdminUser>,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let asked: PriceQuoteBody = body.json()?;
    let list = match &asked.list {
        Some(name) => app.price_lists.number_of(name).await?,
        None => ListId::DEFAULT,
    };
    let quoted = app.price_lists.quote(&asked.question(list)?)?;
    Ok(HttpResponse::Ok().amounts(PriceQuoteAnswer::from(&quoted)))
}

/// The price list of a user.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct UsersPriceListBody {
    /// The name of a list.
    #[schema(example = "gold")]
    list: String,
}

/// The price list that a user pays by.
#[derive(Serialize, ToSchema)]
pub(super) struct UsersPriceListAnswer {
    #[schema(value_type = id::UserId)]
    user_id: String,
    list: String,
}

/// Sets the price list that a user pays by. Binds for the very next call.
#[utoipa::path(put, path = "/api/admin/users/{id}/price-list", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), request_body = UsersPriceListBody, responses(
    (status = 200, description = "The price list", body = UsersPriceListAnswer),
    (status = 400, description = "There is no such list", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user, or one who has erased the account", body = ErrorBody),
    (status = 409, description = "The list is that of the routes", body = ErrorBody),
))]
pub(super) async fn set_users_list(
    WithBody(ConfirmedAdmin(AdminUser { origin, .. }), body): WithBody<ConfirmedAdmin>,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let UsersPriceListBody { list } = body.json()?;
    let user = user_id(&id)?;
    let answer = UsersPriceListAnswer { user_id: user.to_string(), list: list.clone() };
    let setting = async move { app.price_lists.set_users_list(user, Some(list), origin).await };
    uncancelled(setting).await?;
    Ok(HttpResponse::Ok().json(answer))
}

/// Lets a user pay by the list `default` again. Binds for the very next call.
#[utoipa::path(delete, path = "/api/admin/users/{id}/price-list", tag = "admin", security(("jwt" = [])),
    params(("id" = id::UserId, Path)), responses(
    (status = 204, description = "The user has no other list"),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such user, or one who has erased the account", body = ErrorBody),
))]
pub(super) async fn unset_users_list(
    ConfirmedAdmin(AdminUser { origin, .. }): ConfirmedAdmin,
    app: Data<App>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = user_id(&id)?;
    let setting = async move { app.price_lists.set_users_list(user, None, origin).await };
    uncancelled(setting).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The id in the path. A malformed id is answered like one that does not exist.
pub(super) fn user_id(path: &Path<String>) -> Result<UserId, ApiError> {
    path.parse().map_err(|_| AdminError::NoUser.into())
}
