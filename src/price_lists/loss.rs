//! What would be sold below its cost. A list of prices that does so is published only if its
//! operator names the models that may. A list of costs is always published: it says what we pay,
//! whether that is convenient or not, and the answer names what is now sold at a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Doing, Lists, NamedList, PriceListRefusal, PriceLists, SoldBelowCost};
use crate::models::Selling;
use crate::store::price_lists::{MakeAct, PublishedPrices};
use domain::price_book::{ListId, PriceVersion};
use domain::{PriceBook, Timestamp};

/// All models.
const ALL: &str = "*";

/// What is needed to say what is sold below its cost.
pub(super) struct LossGuard {
    selling: Arc<Selling>,
    lists: Vec<NamedList>,
    numbers: BTreeMap<String, ListId>,
    /// The lists that deployments name as their cost.
    costs: BTreeSet<ListId>,
}

impl LossGuard {
    /// Does nobody pay by this list?
    fn is_cost(&self, list: ListId) -> bool {
        let has_users = self.lists.iter().any(|one| one.id == list && one.users > 0);
        list != ListId::DEFAULT && !has_users && self.costs.contains(&list)
    }

    /// What a version sells below what it costs at this instant.
    pub(super) fn below_by(
        &self,
        book: &PriceBook,
        version: &PriceVersion,
        at: Timestamp,
    ) -> Vec<SoldBelowCost> {
        let named = self.lists.iter().find(|list| list.id == version.list());
        let Some(list) = named.filter(|list| !self.is_cost(list.id) && list.id != ListId::ROUTES)
        else {
            return Vec::new();
        };
        let number = |name: &str| self.numbers.get(name).copied();
        let below = book.below_cost(version.id(), at, &self.selling.catalogue, number);
        below.into_iter().map(|price| SoldBelowCost { list: list.name.clone(), price }).collect()
    }

    /// What is sold below its cost from the instant on at which these are in force: by them, and if
    /// one of them is what something costs, by all lists.
    pub(super) fn below(
        &self,
        book: &PriceBook,
        versions: &[Arc<PriceVersion>],
    ) -> Vec<SoldBelowCost> {
        let mut looked_at: BTreeMap<ListId, (Arc<PriceVersion>, Timestamp)> = BTreeMap::new();
        for version in versions {
            let at = version.effective_from();
            looked_at.entry(version.list()).or_insert((Arc::clone(version), at));
            if self.costs.contains(&version.list()) {
                for list in &self.lists {
                    if let Some(version) = book.in_force(list.id, at) {
                        looked_at.entry(list.id).or_insert((Arc::clone(version), at));
                    }
                }
            }
        }
        looked_at.values().flat_map(|(version, at)| self.below_by(book, version, *at)).collect()
    }
}

impl PriceLists {
    pub(super) fn guard(&self, lists: &Lists) -> LossGuard {
        let selling = self.gateway.models.selling();
        let numbers: BTreeMap<String, ListId> =
            lists.0.iter().map(|list| (list.name.clone(), list.id)).collect();
        let deployments = selling.catalogue.deployments();
        let costs = deployments.filter_map(|by| numbers.get(&**by.cost_list()?)).copied().collect();
        LossGuard { lists: lists.0.clone(), numbers, costs, selling }
    }

    /// The same act, unless a version sells something below its cost that may not be.
    pub(super) fn unless_below_cost(&self, act: MakeAct, lists: &Lists, doing: &Doing) -> MakeAct {
        let (guard, allowed) = (self.guard(lists), doing.allow_loss.clone());
        let is_dry_run = doing.is_dry_run;
        Box::new(move |published: &PublishedPrices| {
            let is_about_costs =
                published.versions.first().is_some_and(|first| guard.is_cost(first.list()));
            if !is_dry_run && !is_about_costs {
                let mut below = guard.below(&published.book, &published.versions);
                below.retain(|one| {
                    !allowed.iter().any(|name| name == ALL || **name == *one.price.model)
                });
                if !below.is_empty() {
                    return Err(PriceListRefusal::BelowCost(below));
                }
            }
            act(published)
        })
    }
}
