//! `POST /api/admin/prices/import`: public price files.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::answers::{created, path_of};
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, ConfirmedAdmin, WithFile};
use super::page::query;
use super::price_versions::PriceDifferenceBody;
use super::{App, uncancelled};
use crate::imports::{ImportOutcome, ImportReport, ImportRequest, ImportedBy};
use crate::price_import::{Choice, FileFormat, RefusedModel, largest_change, markup};
use domain::card_document::write_card;
use domain::price_book::PriceDifference;
use domain::{Multiplier, Timestamp};

/// The largest change that is taken unasked.
const LARGEST_CHANGE: &str = "30%";
/// Longest list of names in the query, in bytes.
const NAMES_MAX: usize = 4_096;

/// What is taken of a price file, and how.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(super) struct ImportQuery {
    /// The form that the file must have: `litellm`, `genai-prices` or `models.dev`. If absent, it
    /// is known by its content.
    #[param(pattern = "^(litellm|genai-prices|models[.]dev)$")]
    format: Option<String>,
    /// The providers, as the file calls them, separated by commas; `*` stands for anything. The
    /// models then have the names that their providers give them. If absent, all of them, with the
    /// names of the file, which begin with the provider.
    #[param(example = "openai,anthropic", max_length = 4096)]
    only: Option<String>,
    /// Names of models, separated by commas; `*` stands for anything. If absent, all of them.
    #[param(example = "gpt-*,claude-*", max_length = 4096)]
    models: Option<String>,
    /// What is added to each price, rounded half up to the nano-dollar; nothing if absent.
    #[param(example = "15%", pattern = "^-?[0-9]+([.][0-9]{1,4})?%?$")]
    markup: Option<String>,
    /// The price list; `default` if absent.
    list: Option<String>,
    /// From when on the prices are in force, if they are published; as soon as they can if absent.
    /// Of dated prices of the file those of that instant are taken.
    #[param(format = DateTime)]
    effective: Option<String>,
    /// The largest change of a price; `30%` if absent.
    #[param(example = "30%", pattern = "^[0-9]+([.][0-9]{1,4})?%?$")]
    max_change: Option<String>,
    /// Are larger changes taken as well?
    force: bool,
    /// Are models taken that cost nothing in the file?
    free: bool,
    /// Are the prices published? Otherwise they are a draft.
    publish: bool,
    /// Is it only tried? Changes beyond `max_change` are then told and not refused.
    dry_run: bool,
    /// The models that may be sold below their cost if they are published, separated by commas; `*`
    /// is all of them.
    #[param(max_length = 4096)]
    allow_loss: Option<String>,
    /// Is the answer to have the cards?
    cards: bool,
}

/// The names of a list that is separated by commas.
fn names(field: &str, text: Option<String>) -> Result<Vec<String>, ApiError> {
    let text = text.unwrap_or_default();
    if text.len() > NAMES_MAX {
        return Err(ApiError::field(field, format!("must have at most {NAMES_MAX} bytes")));
    }
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

impl ImportQuery {
    fn request(self) -> Result<ImportRequest, ApiError> {
        let format = self.format.as_deref().map(|name| {
            FileFormat::from_name(name).ok_or_else(|| {
                ApiError::field("format", "must be litellm, genai-prices or models.dev")
            })
        });
        let markup = self.markup.as_deref().map(markup).transpose();
        let markup = markup.map_err(|error| ApiError::field("markup", error.to_string()))?;
        let largest = largest_change(self.max_change.as_deref().unwrap_or(LARGEST_CHANGE));
        let at = self.effective.as_deref().map(|text| {
            Timestamp::parse_rfc3339(text).ok_or_else(|| {
                ApiError::field("effective", "must be an instant such as 2026-12-15T00:00:00Z")
            })
        });
        Ok(ImportRequest {
            format: format.transpose()?,
            choice: Choice {
                only: names("only", self.only)?,
                models: names("models", self.models)?,
                markup: markup.unwrap_or(Multiplier::ONE),
                takes_free: self.free,
            },
            list: self.list.unwrap_or_else(|| "default".to_owned()),
            at: at.transpose()?,
            largest_change: largest
                .map_err(|error| ApiError::field("max_change", error.to_string()))?,
            is_forced: self.force,
            is_published: self.publish,
            is_dry_run: self.dry_run,
            allow_loss: names("allow_loss", self.allow_loss)?,
        })
    }
}

/// A price that changes.
#[derive(Serialize, ToSchema)]
struct ImportedChangeBody {
    #[serde(flatten)]
    difference: PriceDifferenceBody,
    /// Is it more than `max_change`?
    is_beyond: bool,
}

impl ImportedChangeBody {
    fn of(change: &PriceDifference, largest: u64) -> Self {
        ImportedChangeBody { difference: change.into(), is_beyond: change.is_beyond(largest) }
    }
}

/// A model of the file that is not taken.
#[derive(Serialize, ToSchema)]
struct RefusedModelBody {
    /// Its name in the file.
    name: String,
    provider: String,
    /// Why.
    reason: String,
}

impl From<RefusedModel> for RefusedModelBody {
    fn from(RefusedModel { name, provider, reason }: RefusedModel) -> Self {
        RefusedModelBody { name, provider, reason }
    }
}

/// What was made of a model that is not just what the file says.
#[derive(Serialize, ToSchema)]
struct ModelNotesBody {
    model: String,
    notes: Vec<String>,
}

/// What an import comes to.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportAnswer {
    /// The form of the file: `litellm`, `genai-prices` or `models.dev`.
    format: &'static str,
    /// The price list.
    list: String,
    /// How many models were taken.
    taken: usize,
    /// How many models of the file were not asked for.
    passed_over: usize,
    /// The models that get their first card.
    added: Vec<String>,
    /// How many models keep all their prices.
    unchanged: usize,
    /// How many models of the list are not taken from the file. They keep their cards.
    kept: usize,
    /// The prices that change.
    changes: Vec<ImportedChangeBody>,
    /// The models that were asked for and are not taken.
    refused: Vec<RefusedModelBody>,
    /// What was made of the others that is not just what the file says.
    notes: Vec<ModelNotesBody>,
    /// The draft that was made, such as `draft-7`; null if there is none.
    draft: Option<String>,
    /// The number of the version that was published; null if there is none.
    version: Option<u32>,
    /// From when on that version is in force.
    #[schema(format = DateTime)]
    effective_from: Option<String>,
    /// The cards, as a version of a price list takes them; only with `cards=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    cards: Option<Vec<Value>>,
}

impl ImportAnswer {
    fn of(report: ImportReport, list: String, largest: u64, has_cards: bool) -> Self {
        let ImportReport { format, chosen, comparison, kept, outcome } = report;
        let (draft, version) = match outcome {
            ImportOutcome::Tried => (None, None),
            ImportOutcome::Draft(id) => (Some(format!("draft-{id}")), None),
            ImportOutcome::Version(id, from) => (None, Some((id, from))),
        };
        let notes = chosen.models.iter().filter(|(_, model)| !model.imported.notes.is_empty());
        let notes = notes.map(|(name, model)| ModelNotesBody {
            model: name.to_string(),
            notes: model.imported.notes.clone(),
        });
        let cards = chosen.models.iter().map(|(name, model)| write_card(name, &model.card));
        let changes = comparison.changes.iter();
        ImportAnswer {
            format: format.name(),
            list,
            taken: chosen.models.len(),
            passed_over: chosen.passed_over,
            added: comparison.added.iter().map(ToString::to_string).collect(),
            unchanged: comparison.unchanged,
            kept,
            changes: changes.map(|change| ImportedChangeBody::of(change, largest)).collect(),
            notes: notes.collect(),
            draft,
            version: version.map(|(id, _)| id.number()),
            effective_from: version.map(|(_, from)| from.to_rfc3339_micros()),
            cards: has_cards.then(|| cards.collect()),
            refused: chosen.refused.into_iter().map(RefusedModelBody::from).collect(),
        }
    }
}

/// Reads a public price file into a price list: says what would change, and makes a draft, or
/// publishes it. The body is the file: LiteLLM's `model_prices_and_context_window.json`, or the
/// data of genai-prices or of models.dev; also compressed by gzip, or in its wheel. Cards of other
/// models stay.
#[utoipa::path(post, path = "/api/admin/prices/import", tag = "admin", security(("jwt" = [])),
    params(ImportQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "What the import would come to", body = ImportAnswer),
    (status = 201, description = "Drafted, or published", body = ImportAnswer),
    (status = 400, description = "The file is of no known form or nothing of it is taken, or a parameter is wrong",
        body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor, or the session must be \
        confirmed first", body = ErrorBody),
    (status = 404, description = "No such price list", body = ErrorBody),
    (status = 409, description = "A price changes by more than `max_change`, a model would be sold below its cost, or \
        the list is written by the settings", body = ErrorBody),
    (status = 413, description = "The file is larger than 64 MiB", body = ErrorBody),
    (status = 503, description = "Another import runs", body = ErrorBody),
))]
pub(super) async fn import(
    WithFile(ConfirmedAdmin(operator), body): WithFile,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: ImportQuery = query(&request)?;
    let has_cards = asked.cards;
    let asked = asked.request()?;
    let (list, largest) = (asked.list.clone(), asked.largest_change);
    let file = body.bytes()?;
    let AdminUser { id: operator, origin, .. } = operator;
    let by = ImportedBy { operator, origin };
    let importing =
        async move { app.price_imports.import(&app.price_lists, file, asked, by).await };
    let report = uncancelled(importing).await?;
    let is_tried = report.outcome == ImportOutcome::Tried;
    let at = path_of("/api/admin/price-lists", &list);
    let mut made = if is_tried { HttpResponse::Ok() } else { created(&at) };
    Ok(made.json(ImportAnswer::of(report, list, largest, has_cards)))
}
