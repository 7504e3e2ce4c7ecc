//! What calls cost us: the quantities of their bills, priced by the list that the deployment names.
//!
//! It is computed when it is asked for, by what was in force when the call arrived: the revision of
//! the catalogue, and the version of the list. Neither ever changes, so the same call always costs
//! the same, and a paid call writes nothing for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::models::load;
use crate::store::ledger::ServedCall;
use crate::store::{Store, StoreError};
use domain::catalogue::{Catalogue, DeploymentId};
use domain::cost::{UnknownCost, card_of_upstream};
use domain::price_book::ListId;
use domain::{Bill, Card, Credits, PriceBook, Timestamp, VersionId};

/// Revisions of the catalogue that are kept while a report is made.
const REVISIONS_KEPT: usize = 32;
/// Cards that are kept.
const CARDS_KEPT: usize = 10_000;
/// Revisions that are read at once, without their documents.
const PAGE: u64 = 1_000;

/// What a call cost us, and who was paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostOfCall {
    /// The deployment that was asked last, or the upstream of its route. Empty: nobody knows.
    pub deployment: Arc<str>,
    /// Its provider. Empty: nobody knows.
    pub provider: Arc<str>,
    /// What it cost.
    pub cost: Result<Credits, UnknownCost>,
}

/// What is needed to say what calls cost.
pub(super) struct CallCosts {
    store: Store,
    /// The price lists.
    pub(super) book: PriceBook,
    lists: BTreeMap<String, ListId>,
    ids: BTreeMap<Arc<str>, DeploymentId>,
    /// When each revision of the catalogue came into force.
    revisions: Vec<(Timestamp, u64)>,
    /// Those that were read; one that cannot be read is `None`.
    read: BTreeMap<u64, Option<Arc<Catalogue>>>,
    /// The cards that were found, by version and the provider's name of the model.
    cards: BTreeMap<(VersionId, Arc<str>), Option<Arc<Card>>>,
}

impl CallCosts {
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let book = store.price_book().await?.book;
        let lists = store.price_lists().await?;
        let ids = store.catalogue.load().await?.ids;
        let mut revisions = Vec::new();
        let mut before = None;
        loop {
            let page = store.catalogue.revisions(before, PAGE).await?;
            let Some(last) = page.last() else { break };
            before = Some(last.number);
            revisions.extend(page.iter().map(|revision| (revision.at, revision.number)));
        }
        revisions.reverse();
        // Clocks of several processes are a little apart: a later revision is never in force before
        // an earlier one.
        let mut latest = Timestamp::default();
        for (at, _) in &mut revisions {
            latest = latest.max(*at);
            *at = latest;
        }
        Ok(CallCosts {
            store: store.clone(),
            book,
            lists: lists.into_iter().map(|list| (list.name, list.id)).collect(),
            ids,
            revisions,
            read: BTreeMap::new(),
            cards: BTreeMap::new(),
        })
    }

    async fn catalogue(&mut self, number: u64) -> Result<Option<Arc<Catalogue>>, StoreError> {
        if let Some(read) = self.read.get(&number) {
            return Ok(read.clone());
        }
        let revision = self.store.catalogue.revision(number).await?;
        let read = revision.and_then(|revision| load::catalogue(&revision, &self.ids).ok());
        let read = read.map(Arc::new);
        if self.read.len() >= REVISIONS_KEPT {
            self.read.pop_first();
        }
        self.read.insert(number, read.clone());
        Ok(read)
    }

    /// The card of a list for a model that its provider calls so, at this instant.
    fn card(
        &mut self,
        list: ListId,
        upstream_model: &Arc<str>,
        at: Timestamp,
    ) -> Option<Arc<Card>> {
        let version = self.book.in_force(list, at)?.id();
        let key = (version, Arc::clone(upstream_model));
        if let Some(card) = self.cards.get(&key) {
            return card.clone();
        }
        let found = self.book.priced_fitting(version, &card_of_upstream(upstream_model));
        let card = found.map(|(_, priced)| priced.card);
        if self.cards.len() >= CARDS_KEPT {
            self.cards.clear();
        }
        self.cards.insert(key, card.clone());
        card
    }

    /// What the call with this bill cost us.
    pub(super) async fn of_call(
        &mut self,
        bill: Option<&Bill>,
        call: Option<&ServedCall>,
    ) -> Result<CostOfCall, StoreError> {
        let nobody = |deployment: &str, why| CostOfCall {
            deployment: deployment.into(),
            provider: "".into(),
            cost: Err(why),
        };
        let Some(call) = call else { return Ok(nobody("", UnknownCost::NoRecord)) };
        let later = self.revisions.partition_point(|(at, _)| *at <= call.started_at);
        // A process sells by a new revision up to a second after it is on record.
        let in_force: Vec<u64> = self
            .revisions
            .get(..later)
            .unwrap_or_default()
            .iter()
            .rev()
            .take(2)
            .map(|(_, number)| *number)
            .collect();
        let card_name = bill.and_then(|bill| self.book.card_name(bill).cloned());
        for number in in_force {
            let Some(catalogue) = self.catalogue(number).await? else { continue };
            let served = catalogue.served_by(&call.model, &call.upstream);
            // Usage records cut long names of models. Of such a one the card has the whole name.
            let by_card = || catalogue.served_by(card_name.as_deref()?, &call.upstream);
            let Some(served) = served.or_else(by_card) else { continue };
            let by = &served.by;
            let list = by.cost_list().and_then(|name| self.lists.get(&**name)).copied();
            let cost = match (bill, list) {
                (None, _) => Err(UnknownCost::NoRecord),
                (_, None) => Err(UnknownCost::NoList),
                (Some(bill), Some(list)) => {
                    let card = self.card(list, &served.upstream_model, call.started_at);
                    let card = card.ok_or(UnknownCost::NoCard);
                    card.and_then(|card| bill.cost_by_card(&self.book, &card))
                }
            };
            return Ok(CostOfCall {
                deployment: Arc::clone(&by.deployment.name),
                provider: Arc::clone(&by.provider.name),
                cost,
            });
        }
        Ok(nobody(&call.upstream, UnknownCost::NoDeployment))
    }
}
