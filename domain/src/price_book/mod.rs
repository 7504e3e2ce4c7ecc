//! Price lists in versions: immutable, numbered, dated, and chained to one another.
//!
//! A list inherits from the version of another list: a card that it does not have itself is the
//! parent's, times a multiplier. So the cards of a version are numbered through: first its own, by
//! name, then those of its parent, as they are numbered there. A bill names a card by that number.

mod arithmetic;
mod diff;
mod document;
mod publish;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bill::{Bill, VersionId};
use super::card::{Card, CardRow, Service};
use super::ledger::Link;
use super::money::Credits;
use super::rates::{Multiplier, Rates};
use super::window::Timestamp;

pub use arithmetic::{Arithmetic, BillPart, ExactAmount, parts_of, sum_of};
pub use diff::{PercentChange, PriceDifference, card_differences};
pub use publish::{Publication, PublicationError, WithdrawalError};
pub use version::{
    CARD_NAME_MAX, CARDS_MAX, ListId, PriceVersion, VersionError, VersionProblem, VersionTerms,
    link_after,
};

/// Most versions of which each is the parent of the one before it.
pub const DEPTH_MAX: usize = 4;

/// The price of a call: a card, and how a bill names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Priced {
    /// The version of the price list.
    pub version: VersionId,
    /// The number of the card.
    pub number: u16,
    /// The card, with every multiplier.
    pub card: Arc<Card>,
}

/// Why a version does not follow those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// Its number is not above those of its list and of its parent, or another version has it.
    #[error("the number {0} of the price version does not follow those before it")]
    Number(VersionId),
    /// Its parent is not there.
    #[error("the price version {version} has the parent {parent}, which is not there")]
    Parent {
        /// The version.
        version: VersionId,
        /// Its parent.
        parent: VersionId,
    },
    /// It has too many parents of parents.
    #[error("the price version {0} inherits through more than {DEPTH_MAX} price lists")]
    Depth(VersionId),
    /// A bill could not name each of its cards and of those that it inherits.
    #[error("the price version {0} has more than {CARDS_MAX} cards with those of its parents")]
    Cards(VersionId),
    /// Its link does not tie it to the version before it in its list.
    #[error("the chain of the price list is broken at its version {0}")]
    Link(VersionId),
}

/// The versions of one list.
#[derive(Clone, Debug)]
struct Listed {
    /// Those that were not withdrawn, by the instant from which they are in force. Of two with the
    /// same one, the later number counts.
    in_force: BTreeMap<(Timestamp, VersionId), Arc<PriceVersion>>,
    last: Arc<PriceVersion>,
}

/// All price lists, with all their versions. Copies share the versions.
#[derive(Clone, Debug, Default)]
pub struct PriceBook {
    lists: BTreeMap<ListId, Listed>,
    versions: BTreeMap<VersionId, Arc<PriceVersion>>,
    /// Those that were published because a list that theirs inherits from was.
    followers: BTreeSet<VersionId>,
}

impl PriceBook {
    /// Adds the next version of a list, which was published because one that it inherits from was.
    ///
    /// # Errors
    /// As of [`PriceBook::add`].
    pub fn add_follower(&mut self, version: Arc<PriceVersion>) -> Result<(), BookError> {
        let id = version.id();
        self.add(version)?;
        self.followers.insert(id);
        Ok(())
    }

    /// Was this version published because one that it inherits from was?
    #[must_use]
    pub fn is_follower(&self, id: VersionId) -> bool {
        self.followers.contains(&id)
    }

    /// Adds the next version of a list.
    ///
    /// # Errors
    /// If it does not follow the versions that are there. Then nothing has changed.
    pub fn add(&mut self, version: Arc<PriceVersion>) -> Result<(), BookError> {
        let id = version.id();
        let last = self.lists.get(&version.list()).map(|listed| &listed.last);
        let is_next = last.is_none_or(|last| last.id() < id) && !self.versions.contains_key(&id);
        if !is_next || version.parent().is_some_and(|parent| parent >= id) {
            return Err(BookError::Number(id));
        }
        if version.link()
            != link_after(last.map_or(Link::START, |last| last.link()), version.digest())
        {
            return Err(BookError::Link(id));
        }
        let (mut at, mut depth, mut cards) = (&version, 1, version.cards().len());
        while let Some(parent) = at.parent() {
            let missing = BookError::Parent { version: id, parent };
            at = self.versions.get(&parent).ok_or(missing)?;
            depth = usize::saturating_add(depth, 1);
            cards = cards.saturating_add(at.cards().len());
            if depth > DEPTH_MAX {
                return Err(BookError::Depth(id));
            }
        }
        if cards > CARDS_MAX {
            return Err(BookError::Cards(id));
        }
        // Decided. From here on nothing fails.
        let listed = self
            .lists
            .entry(version.list())
            .or_insert_with(|| Listed { in_force: BTreeMap::new(), last: Arc::clone(&version) });
        listed.in_force.insert((version.effective_from(), id), Arc::clone(&version));
        listed.last = Arc::clone(&version);
        self.versions.insert(id, version);
        Ok(())
    }

    /// Withdraws a version: it is never in force. It stays on record, and its number stays used.
    /// Whether it may be withdrawn, because it is not in force yet, is decided by the caller.
    pub fn withdraw(&mut self, id: VersionId) {
        let Some(version) = self.versions.get(&id) else { return };
        if let Some(listed) = self.lists.get_mut(&version.list()) {
            listed.in_force.remove(&(version.effective_from(), id));
        }
    }

    /// The version with this number, whether it is in force or not.
    #[must_use]
    pub fn by_id(&self, id: VersionId) -> Option<&Arc<PriceVersion>> {
        self.versions.get(&id)
    }

    /// The link of the last version of a list, which the next one is chained to.
    #[must_use]
    pub fn last_link(&self, list: ListId) -> Link {
        self.lists.get(&list).map_or(Link::START, |listed| listed.last.link())
    }

    /// The version of a list that is in force at this instant.
    #[must_use]
    pub fn in_force(&self, list: ListId, at: Timestamp) -> Option<&Arc<PriceVersion>> {
        let listed = self.lists.get(&list)?;
        listed.in_force.range(..=(at, VersionId::LAST)).next_back().map(|(_, version)| version)
    }

    /// The price at this instant, in this list, of the card with this name. `None`: it is not sold.
    #[must_use]
    pub fn find(&self, list: ListId, name: &str, at: Timestamp) -> Option<Priced> {
        self.priced(self.in_force(list, at)?.id(), name)
    }

    /// The card of this name in what is in force at this instant, or else that of the longest
    /// pattern that fits the name; with the name of the card.
    #[must_use]
    pub fn find_fitting(
        &self,
        list: ListId,
        name: &str,
        at: Timestamp,
    ) -> Option<(Arc<str>, Priced)> {
        self.priced_fitting(self.in_force(list, at)?.id(), name)
    }

    /// The same in this version.
    #[must_use]
    pub fn priced_fitting(&self, id: VersionId, name: &str) -> Option<(Arc<str>, Priced)> {
        if let Some(priced) = self.priced(id, name) {
            return Some((name.into(), priced));
        }
        let card = self.pattern_of(id, name)?;
        Some((Arc::clone(card), self.priced(id, card)?))
    }

    /// The price in this version of the card with this name, its own or its nearest parent's.
    /// `None`: it is not sold, or a price is too large.
    #[must_use]
    pub fn priced(&self, id: VersionId, name: &str) -> Option<Priced> {
        let mut before = 0_usize;
        let mut multipliers = Vec::new();
        let mut version = self.by_id(id)?;
        let place = loop {
            if let Some(place) = version.place(name) {
                break place;
            }
            before = before.checked_add(version.cards().len())?;
            multipliers.push(version.multiplier());
            version = self.by_id(version.parent()?)?;
        };
        let (_, card) = version.cards().get(place)?;
        let number = u16::try_from(before.checked_add(place)?).ok()?;
        let card = if multipliers.iter().all(|multiplier| *multiplier == Multiplier::ONE) {
            Arc::clone(card)
        } else {
            let multiplied = card.rows().iter().map(|row| {
                let rates = times(&row.rates, &multipliers)?;
                Some(CardRow { rates, ..*row })
            });
            Arc::new(Card::new(multiplied.collect::<Option<_>>()?).ok()?)
        };
        Some(Priced { version: id, number, card })
    }

    /// The card that a bill names by this number, before any multiplier, with its name and the
    /// multipliers to apply, the last one first.
    fn numbered(&self, id: VersionId, number: u16) -> Option<(&Named, Vec<Multiplier>)> {
        let mut number = usize::from(number);
        let mut multipliers = Vec::new();
        let mut version = self.by_id(id)?;
        loop {
            if let Some(named) = version.cards().get(number) {
                return Some((named, multipliers));
            }
            number = number.checked_sub(version.cards().len())?;
            multipliers.push(version.multiplier());
            version = self.by_id(version.parent()?)?;
        }
    }

    /// The name of the card that a bill names.
    #[must_use]
    pub fn card_name(&self, bill: &Bill) -> Option<&Arc<str>> {
        self.numbered(bill.version, bill.card).map(|((name, _), _)| name)
    }

    /// The service tier of the row that a bill names.
    #[must_use]
    pub fn service(&self, bill: &Bill) -> Option<Service> {
        let ((_, card), _) = self.numbered(bill.version, bill.card)?;
        Some(card.numbered(bill.row)?.service)
    }

    /// The prices that a bill names, with every multiplier.
    #[must_use]
    pub fn rates(&self, bill: &Bill) -> Option<Rates> {
        let ((_, card), multipliers) = self.numbered(bill.version, bill.card)?;
        times(&card.numbered(bill.row)?.rates, &multipliers)
    }
}

/// A card and its name.
type Named = (Arc<str>, Arc<Card>);

/// The prices times each multiplier, the last one first: the parent's own prices come first.
fn times(rates: &Rates, multipliers: &[Multiplier]) -> Option<Rates> {
    multipliers.iter().rev().try_fold(*rates, |rates, multiplier| rates.times(*multiplier))
}

impl Bill {
    /// What the call cost, computed anew. `None` if the book does not have what the bill names.
    #[must_use]
    pub fn cost(&self, book: &PriceBook) -> Option<Credits> {
        book.rates(self)?.cost(&self.quantities)
    }
}

#[cfg(test)]
mod publish_tests;
#[cfg(test)]
mod tests;
