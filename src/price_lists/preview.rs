//! What a draft would change: its prices against those that are in force, and what the last calls
//! would have cost by it.

use std::time::{Duration, Instant};

use super::{ChangedPrices, Doing, PriceLists, PriceListsError, VersionView, view};
use crate::store::price_lists::PublishWhat;
use domain::price_preview::PricePreview;
use domain::{Origin, UserId};

/// Most calls that are priced again.
pub const PREVIEWED_MAX: u64 = 10_000;
/// Most usage records that are looked through for them: others are of other lists.
const LOOKED_THROUGH_MAX: u64 = 50_000;
/// Records that are read at once.
const PAGE: u64 = 1_000;
/// For how long records are read.
const TIME_MAX: Duration = Duration::from_secs(5);

/// What a draft would change.
#[derive(Clone, Debug)]
pub struct PreviewedPrices {
    /// The version that is in force before it.
    pub before: Option<VersionView>,
    /// As if it were published now.
    pub changed: ChangedPrices,
    /// The last calls by the list and by those that follow it.
    pub calls: PricePreview,
    /// How many usage records were looked through for them.
    pub looked_through: u64,
    /// false: there are older calls that were not looked at.
    pub is_complete: bool,
}

impl PriceLists {
    /// What a draft would change if it were published now. Changes nothing.
    ///
    /// # Errors
    /// As of a publication.
    pub async fn preview(
        &self,
        name: &str,
        draft: i64,
        calls: u64,
        operator: UserId,
        origin: Origin,
    ) -> Result<PreviewedPrices, PriceListsError> {
        let (list, lists) = self.find_own(name).await?;
        let doing = Doing { is_dry_run: true, ..Doing::default() };
        let what = PublishWhat::Draft(list.id, draft);
        let published = self.decide(what, &lists, doing, operator, origin).await?;
        let (book, names) = (&published.book, lists.names());
        let new = published.versions.iter().map(|version| (version.list(), version.id()));
        let mut previewed = PreviewedPrices {
            before: published.versions.first().and_then(|first| {
                let before = first.effective_from().plus_micros(-1);
                let before = book.in_force(first.list(), before)?;
                Some(view::view(book, &names, before, self.now()))
            }),
            changed: self.told(&published, &lists),
            calls: PricePreview::by(new),
            looked_through: 0,
            is_complete: false,
        };
        self.gateway.tables_up_to_date().await?;
        let (begun, mut before, mut counted) = (Instant::now(), i64::MAX, 0_u64);
        while counted < calls
            && previewed.looked_through < LOOKED_THROUGH_MAX
            && begun.elapsed() < TIME_MAX
        {
            let page = self.store.latest_bills(before, PAGE).await?;
            let Some(last) = page.last() else {
                previewed.is_complete = true;
                break;
            };
            before = last.record;
            for call in &page {
                previewed.looked_through = previewed.looked_through.saturating_add(1);
                let is_counted = call.bill.is_some_and(|bill| previewed.calls.add(&bill, book));
                counted = counted.saturating_add(u64::from(is_counted));
                if counted >= calls {
                    break;
                }
            }
        }
        Ok(previewed)
    }
}
