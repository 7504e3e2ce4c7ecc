//! What operators do with public price files: they see what would change in a price list, and make
//! a draft or a version of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::pipeline::Gateway;
use crate::price_import::{
    self, Choice, Chosen, FileFormat, ImportError, PriceComparison, compare,
};
use crate::price_lists::{Doing, PriceChange, PriceLists, PriceListsError};
use domain::card_document::write_card;
use domain::price_book::{ListId, PercentChange, PriceDifference};
use domain::{Card, Origin, PriceBook, Timestamp, UserId, VersionId};

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// The form that the file must have; `None`: any that is known.
    pub format: Option<FileFormat>,
    /// What is taken of it.
    pub choice: Choice,
    /// The name of the price list.
    pub list: String,
    /// When the new prices are to be in force; `None`: now. The file may have dated prices.
    pub at: Option<Timestamp>,
    /// The largest change of a price, in millionths of the old one.
    pub largest_change: u64,
    /// Are larger changes taken as well?
    pub is_forced: bool,
    /// Is it published? Otherwise it is a draft.
    pub is_published: bool,
    /// Is it only tried?
    pub is_dry_run: bool,
    /// The models that may be sold below their cost, if it is published.
    pub allow_loss: Vec<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct ImportedBy {
    /// The operator.
    pub operator: UserId,
    /// The origin that the audit log records.
    pub origin: Origin,
}

/// What an import has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// Nothing: it was only tried.
    Tried,
    /// The draft of this number.
    Draft(i64),
    /// A version that is in force from this instant on.
    Version(VersionId, Timestamp),
}

/// What an import comes to.
#[derive(Clone, Debug)]
pub struct ImportReport {
    /// The form of the file.
    pub format: FileFormat,
    /// The models that were taken and those that were not.
    pub chosen: Chosen,
    /// What changes in the list.
    pub comparison: PriceComparison,
    /// How many cards of the list the file has nothing for. They stay.
    pub kept: usize,
    /// What was made of it.
    pub outcome: ImportOutcome,
}

/// Why an import fails.
#[derive(Debug, thiserror::Error)]
pub enum ImportsError {
    /// See [`ImportError`].
    #[error(transparent)]
    File(#[from] ImportError),
    /// Nothing of the file was chosen.
    #[error("no model of the file was chosen")]
    NothingChosen {
        /// How many were not asked for.
        passed_over: usize,
        /// How many were asked for and cannot be taken.
        refused: usize,
    },
    /// Prices change by more than is allowed.
    #[error("prices change by more than is allowed")]
    ChangesTooMuch {
        /// How many do.
        count: usize,
        /// The largest of them.
        largest: Box<PriceDifference>,
    },
    /// See [`PriceListsError`].
    #[error(transparent)]
    Lists(#[from] PriceListsError),
    /// Another import runs.
    #[error("another import runs")]
    Busy,
    /// The import could not be run.
    #[error("the import could not be run")]
    Broken,
}

/// See the module.
pub struct PriceImports {
    gateway: Arc<Gateway>,
    clock: Clock,
    /// One at a time: a file may be large.
    running: Mutex<()>,
}

impl PriceImports {
    /// Imports into the lists of this gateway.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, clock: Clock) -> Self {
        PriceImports { gateway, clock, running: Mutex::new(()) }
    }

    /// Reads a price file, compares it with a list, and makes a draft or a version of it.
    ///
    /// # Errors
    /// [`ImportsError`]
    pub async fn import(
        &self,
        lists: &PriceLists,
        file: Bytes,
        request: ImportRequest,
        by: ImportedBy,
    ) -> Result<ImportReport, ImportsError> {
        let _one = self.running.try_lock().map_err(|_| ImportsError::Busy)?;
        let list = lists.list(&request.list).await?.list.id;
        if list == ListId::ROUTES {
            return Err(PriceListsError::OfSettings.into());
        }
        let selling = self.gateway.models.selling();
        let at = request.at.unwrap_or_else(|| self.clock.now());
        let asked = request.clone();
        // It takes longer than a thread that serves calls may be kept.
        let reading =
            tokio::task::spawn_blocking(move || look(&file, &asked, list, &selling.book, at));
        let mut report = reading.await.map_err(|_| ImportsError::Broken)??;
        if !request.is_dry_run {
            report.outcome = write(lists, &report.chosen, &request, by).await?;
        }
        Ok(report)
    }
}

/// Makes a draft or a version of what was chosen.
async fn write(
    lists: &PriceLists,
    chosen: &Chosen,
    request: &ImportRequest,
    ImportedBy { operator, origin }: ImportedBy,
) -> Result<ImportOutcome, ImportsError> {
    let cards = chosen.models.iter().map(|(name, model)| write_card(name, &model.card));
    let change =
        PriceChange { cards: Some(cards.collect()), keeps_others: true, ..PriceChange::default() };
    let list = &request.list;
    if request.is_published {
        let allow_loss = request.allow_loss.clone();
        let doing = Doing { effective_from: request.at, is_dry_run: false, allow_loss };
        let changed = lists.publish_change(list, change, doing, operator, origin).await?;
        let version = changed.versions.first().map(|view| &view.version);
        let version = version.ok_or(ImportsError::Broken)?;
        return Ok(ImportOutcome::Version(version.id(), version.effective_from()));
    }
    let draft = lists.draft_change(list, change, Doing::default(), operator, origin).await?;
    draft.map(|draft| ImportOutcome::Draft(draft.id)).ok_or(ImportsError::Broken)
}

fn look(
    file: &[u8],
    request: &ImportRequest,
    list: ListId,
    book: &PriceBook,
    at: Timestamp,
) -> Result<ImportReport, ImportsError> {
    let text = price_import::open(file)?;
    let (format, imported) = price_import::read(&text, request.format, at)?;
    let chosen = request.choice.of(imported);
    if chosen.models.is_empty() {
        let (passed_over, refused) = (chosen.passed_over, chosen.refused.len());
        return Err(ImportsError::NothingChosen { passed_over, refused });
    }
    let new: BTreeMap<Arc<str>, Arc<Card>> = chosen
        .models
        .iter()
        .map(|(name, model)| (Arc::clone(name), Arc::clone(&model.card)))
        .collect();
    let old: BTreeMap<Arc<str>, Arc<Card>> = new
        .keys()
        .filter_map(|name| Some((Arc::clone(name), book.find(list, name, at)?.card)))
        .collect();
    let own = book.in_force(list, at).map(|version| version.cards()).unwrap_or_default();
    let kept = own.iter().filter(|(name, _)| !new.contains_key(name)).count();
    let comparison = compare(&old, &new);
    if !request.is_forced && !request.is_dry_run {
        let beyond = comparison.changes.iter();
        let beyond = beyond.filter(|change| change.is_beyond(request.largest_change));
        let size = |change: &&PriceDifference| change.percent().map(PercentChange::size);
        // A price of nothing that becomes something changes the most.
        let largest = beyond.clone().max_by_key(|change| size(change).unwrap_or(u128::MAX));
        if let Some(largest) = largest {
            let (count, largest) = (beyond.count(), Box::new(largest.clone()));
            return Err(ImportsError::ChangesTooMuch { count, largest });
        }
    }
    Ok(ImportReport { format, chosen, comparison, kept, outcome: ImportOutcome::Tried })
}
