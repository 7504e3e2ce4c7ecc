//! `GET /api/admin/usage/oddities`.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::answers::page_of;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::page::{EntryCursor, cut, page_limit, query, read_cursor};
use super::transactions::time;
use crate::store::oddities::{OddUsage, OddityFilter};
use domain::oddity::Oddity;

/// Which odd usage.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OdditiesQuery {
    /// How many, 1 to 100; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[1-9][0-9]*$")]
    cursor: Option<String>,
    /// Only of this deployment, or upstream.
    deployment: Option<String>,
    /// Only of this provider, or upstream.
    provider: Option<String>,
    /// Only that in which this is odd.
    #[param(
        pattern = "^(cache_above_prompt|thoughts_above_completion|total_differs|parts_without_whole|impossible_number|more_than_possible|unpriced)$"
    )]
    kind: Option<String>,
    /// From this time on.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Before this time.
    #[param(format = DateTime)]
    to: Option<String>,
}

/// Usage that a provider has reported and that is odd.
#[derive(Serialize, ToSchema)]
pub(super) struct OddUsageBody {
    /// The call.
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    charge: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// The deployment that was asked last, or the upstream.
    deployment: String,
    /// Its provider, or the upstream.
    provider: String,
    /// The model that was asked for.
    model: String,
    /// What is odd. `cache_above_prompt`, `thoughts_above_completion`: a part is more than its
    /// whole. `total_differs`: the total is not the sum. `parts_without_whole`: other parts are
    /// more than their whole, or it is missing. `impossible_number`: negative, broken or beyond
    /// measure. `more_than_possible`: more tokens than the prompt can have, or than the call was
    /// allowed. `unpriced`: something that the card has no price for.
    #[schema(value_type = Vec<String>)]
    kinds: Vec<&'static str>,
    /// The numbers that were reported, by the provider's names; those of a stream are merged, and
    /// have our names.
    #[schema(value_type = Object)]
    reported: Value,
    /// What was billed, by dimension.
    #[schema(value_type = Object)]
    billed: Value,
}

impl From<OddUsage> for OddUsageBody {
    fn from(usage: OddUsage) -> Self {
        OddUsageBody {
            charge: usage.charge.to_string(),
            created_at: usage.at.to_rfc3339_micros(),
            deployment: usage.deployment,
            provider: usage.provider,
            model: usage.model,
            kinds: usage.kinds.each().map(Oddity::name).collect(),
            reported: serde_json::from_str(&usage.reported).unwrap_or_default(),
            billed: serde_json::from_str(&usage.billed).unwrap_or_default(),
        }
    }
}

/// A page of odd usage.
#[derive(Serialize, ToSchema)]
pub(super) struct OdditiesPage {
    oddities: Vec<OddUsageBody>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Usage that providers have reported and that does not agree with itself or with what is sold, the
/// last one first. It is billed as far as it can be true, and kept for 90 days. Much of one
/// provider says that it counts otherwise than its `convention`.
#[utoipa::path(get, path = "/api/admin/usage/oddities", tag = "admin", security(("jwt" = [])),
    params(OdditiesQuery), responses(
    (status = 200, description = "A page of odd usage", body = OdditiesPage),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn oddities(
    _: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: OdditiesQuery = query(&request)?;
    let limit = page_limit(asked.limit)?;
    let kind = asked.kind.map(|name| {
        let kind = Oddity::from_name(&name);
        kind.ok_or_else(|| ApiError::field("kind", "must be the name of what can be odd"))
    });
    let filter = OddityFilter {
        deployment: asked.deployment,
        provider: asked.provider,
        kind: kind.transpose()?,
        from: time("from", asked.from.as_deref())?,
        to: time("to", asked.to.as_deref())?,
        before: read_cursor(asked.cursor.as_deref())?.map(|EntryCursor(number)| number),
    };
    let mut rows = app.bills.odd_usage(filter, limit.saturating_add(1)).await?;
    let next_cursor = cut(&mut rows, limit).map(|(number, _)| number.to_string());
    let oddities = rows.into_iter().map(|(_, usage)| OddUsageBody::from(usage)).collect();
    Ok(page_of(&request, next_cursor.as_deref()).json(OdditiesPage { oddities, next_cursor }))
}
