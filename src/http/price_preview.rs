//! `POST /api/admin/price-lists/{list}/preview`: what a draft would change.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::amount::{Amount, WithAmounts as _};
use super::error::{ApiError, ErrorBody};
use super::extract::{AdminUser, WithBody};
use super::price_lists::PriceVersionBody;
use super::price_versions::{BelowCostBody, PriceDifferenceBody, draft_number};
use super::{App, uncancelled};
use crate::price_lists::{PREVIEWED_MAX, PreviewedPrices};
use domain::price_preview::PreviewedCalls;

/// Which draft, and how many calls.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewBody {
    /// The draft: `draft-<number>`.
    #[garde(skip)]
    #[schema(pattern = "^draft-[0-9]+$", example = "draft-1")]
    draft: String,
    /// How many of the last calls are priced again, from 1 to 10,000; 10,000 if absent.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = PREVIEWED_MAX)))]
    #[schema(minimum = 1, maximum = 10000)]
    calls: Option<u64>,
}

/// Calls, by the prices that they were billed by and by the draft.
#[derive(Serialize, ToSchema)]
struct PreviewSumBody {
    /// How many.
    calls: u64,
    /// How many of them the draft does not sell. They are in no amount.
    not_sold: u64,
    /// What the others cost by the prices that they were billed by.
    cost: Amount,
    /// What these would have cost by the draft.
    preview: Amount,
    /// How much more that is; negative is less. null: it is more than an amount can be.
    change: Option<Amount>,
    /// The same in percent, such as `+12.50`; null: they cost nothing.
    percent: Option<String>,
}

impl From<&PreviewedCalls> for PreviewSumBody {
    fn from(sum: &PreviewedCalls) -> Self {
        PreviewSumBody {
            calls: sum.calls,
            not_sold: sum.not_sold,
            cost: Amount(sum.cost),
            preview: Amount(sum.preview),
            change: sum.change().map(Amount),
            percent: sum.percent().map(|percent| percent.to_string()),
        }
    }
}

/// The calls of one model.
#[derive(Serialize, ToSchema)]
struct PreviewedModelBody {
    /// The name of the card that has priced them.
    model: String,
    #[serde(flatten)]
    sum: PreviewSumBody,
}

/// What a draft would change if it were published now.
#[derive(Serialize, ToSchema)]
pub(super) struct PreviewAnswer {
    /// The version that it would replace; null if there is none.
    before: Option<PriceVersionBody>,
    /// The prices that differ from that version.
    differences: Vec<PriceDifferenceBody>,
    /// What would be sold below its cost.
    below_cost: Vec<BelowCostBody>,
    /// The last calls of live accounts that were priced by this list or by one that follows it.
    total: PreviewSumBody,
    /// The same by model, that with the highest amount first.
    models: Vec<PreviewedModelBody>,
    /// How many calls were looked through, those by other lists included. At most 50,000, for at
    /// most five seconds.
    looked_through: u64,
    /// true: these are all calls that are on record.
    complete: bool,
    /// `USD`
    currency: &'static str,
}

impl From<&PreviewedPrices> for PreviewAnswer {
    fn from(previewed: &PreviewedPrices) -> Self {
        let PreviewedPrices { before, changed, calls, looked_through, is_complete } = previewed;
        let models = calls.models();
        let model = |(name, sum): &(std::sync::Arc<str>, PreviewedCalls)| PreviewedModelBody {
            model: name.to_string(),
            sum: sum.into(),
        };
        PreviewAnswer {
            before: before.as_ref().map(PriceVersionBody::from),
            differences: changed.differences.iter().map(PriceDifferenceBody::from).collect(),
            below_cost: changed.below_cost.iter().map(BelowCostBody::from).collect(),
            total: PreviewSumBody::from(&calls.total()),
            models: models.iter().map(model).collect(),
            looked_through: *looked_through,
            complete: *is_complete,
            currency: "USD",
        }
    }
}

/// What a draft would change if it were published now: the prices that differ from those in force,
/// and what the last calls would have cost. Changes nothing.
#[utoipa::path(post, path = "/api/admin/price-lists/{list}/preview", tag = "admin", security(("jwt" = [])),
    params(("list" = String, Path, description = "Its name")), request_body = PreviewBody, responses(
    (status = 200, description = "What would change", body = PreviewAnswer),
    (status = 400, description = "The draft cannot be published, or a field is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 404, description = "No such list or draft", body = ErrorBody),
    (status = 409, description = "The list is written by the settings", body = ErrorBody),
))]
pub(super) async fn preview(
    WithBody(operator, body): WithBody<AdminUser>,
    app: Data<App>,
    list: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let PreviewBody { draft, calls } = body.json()?;
    let (draft, calls) = (draft_number(&draft)?, calls.unwrap_or(PREVIEWED_MAX));
    let AdminUser { id, origin, .. } = operator;
    let trying = async move { app.price_lists.preview(&list, draft, calls, id, origin).await };
    let previewed = uncancelled(trying).await?;
    Ok(HttpResponse::Ok().amounts(PreviewAnswer::from(&previewed)))
}
