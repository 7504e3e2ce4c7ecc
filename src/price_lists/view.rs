//! Price lists and versions as operators see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::price_lists::NamedList;
use domain::price_book::{ListId, PriceVersion, Priced};
use domain::{PriceBook, Timestamp, VersionId};

/// Where a version is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// Published, and not in force yet.
    Published,
    /// In force.
    InForce,
    /// Another one is in force in its place.
    Past,
    /// Withdrawn before it was in force.
    Withdrawn,
}

impl VersionState {
    /// Its word in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            VersionState::Published => "published",
            VersionState::InForce => "in_force",
            VersionState::Past => "past",
            VersionState::Withdrawn => "withdrawn",
        }
    }
}

/// A version as operators see it.
#[derive(Clone, Debug)]
pub struct VersionView {
    /// The version.
    pub version: Arc<PriceVersion>,
    /// The name of its list.
    pub list: String,
    /// The name of the list that it inherits from.
    pub parent: Option<String>,
    /// Was it published because its parent was?
    pub is_follower: bool,
    /// Where it is in its life.
    pub state: VersionState,
    /// Until when it is in force, if another one follows.
    pub until: Option<Timestamp>,
}

/// A price list as operators see it.
#[derive(Clone, Debug)]
pub struct ListView {
    /// The list.
    pub list: NamedList,
    /// The name of the list that new versions inherit from.
    pub parent: Option<String>,
    /// The version in force.
    pub in_force: Option<VersionView>,
}

/// The card of a model, and where it is from.
#[derive(Clone, Debug)]
pub struct CardView {
    /// The price.
    pub priced: Priced,
    /// The name of the card.
    pub name: Arc<str>,
    /// The version that has the card itself.
    pub from: VersionId,
    /// The version of the list.
    pub version: VersionView,
}

/// A version as it is now.
pub(super) fn view(
    book: &PriceBook,
    names: &BTreeMap<ListId, String>,
    version: &Arc<PriceVersion>,
    now: Timestamp,
) -> VersionView {
    let name = |list| names.get(&list).cloned().unwrap_or_default();
    let in_force = book.in_force(version.list(), now).map(|in_force| in_force.id());
    let state = if book.is_withdrawn(version) {
        VersionState::Withdrawn
    } else if version.effective_from() > now {
        VersionState::Published
    } else if in_force == Some(version.id()) {
        VersionState::InForce
    } else {
        VersionState::Past
    };
    VersionView {
        list: name(version.list()),
        parent: book.parent_list(version).map(name),
        is_follower: book.is_follower(version.id()),
        state,
        until: book.until(version),
        version: Arc::clone(version),
    }
}
