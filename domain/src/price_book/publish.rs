//! New versions of price lists, and what follows from them.
//!
//! A version names the version that it inherits from. So if a list gets a new version, each list
//! that inherits from it gets one too, a follower, with the same cards and multiplier, from the
//! same instant on: at every instant a list inherits from what is in force there.
//!
//! Followers are marked, because they say nothing new: what is published for an instant before
//! them is in force until the next version that is no follower.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{BookError, ListId, Named, PriceBook, PriceVersion, VersionError, VersionTerms};
use crate::bill::VersionId;
use crate::card::{Card, CardRow};
use crate::card_document::{CardEdit, CardEdits};
use crate::rates::Multiplier;
use crate::window::Timestamp;

/// What is to be published in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The list.
    pub list: ListId,
    /// The list that it inherits cards from, or none. Absent: as it is in force, if other cards
    /// are kept; else [`Publication::usual_parent`].
    pub parent: Option<Option<ListId>>,
    /// The parent of the list's versions that do not say otherwise.
    pub usual_parent: Option<ListId>,
    /// What the prices of the parent are multiplied by. Absent: as it is in force, if other cards
    /// are kept; else nothing is multiplied.
    pub multiplier: Option<Multiplier>,
    /// From when on it is in force.
    pub effective_from: Timestamp,
    /// The cards.
    pub edits: CardEdits,
    /// Are the cards that are in force kept, unless they are edited? Otherwise the list has just
    /// these.
    pub keeps_others: bool,
}

/// Why something is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicationError {
    /// The parent has no version that is in force then.
    #[error(
        "the parent list has no version that is in force at that time; publish one there first"
    )]
    NoParentVersion,
    /// A list would inherit from itself.
    #[error("the list would inherit from itself; choose another parent")]
    Circle,
    /// A multiplier without a parent.
    #[error("there is no parent whose prices it could multiply; leave it out, or name a parent")]
    Multiplier,
    /// An override of a card that the parent does not have.
    #[error("{0} has no card in the parent list that could be overridden; write a whole card")]
    NoParentCard(Arc<str>),
    /// A card that is to be removed is not there.
    #[error("{0} has no card of the list's own that could be removed")]
    NoCard(Arc<str>),
    /// There would be nothing in it.
    #[error("the list would have no card; name a card, or a parent")]
    Empty,
    /// What is wrong with the version.
    #[error("{0}")]
    Version(VersionError),
    /// Why it does not follow the versions that are there.
    #[error("{0}")]
    Book(BookError),
    /// All numbers are used.
    #[error("there is no number left for a version of prices")]
    NoNumber,
}

/// Why a version is not withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WithdrawalError {
    /// There is no such version.
    #[error("there is no such version")]
    NoVersion,
    /// It was withdrawn before.
    #[error("the version was withdrawn before")]
    Withdrawn,
    /// It is in force, or was.
    #[error("the version is in force since {}; publish another one", .0.to_rfc3339_micros())]
    InForce(Timestamp),
    /// Another version would inherit from what is not in force.
    #[error(
        "version {0} of a list that inherits from it would lose its prices; withdraw that one first"
    )]
    Followed(VersionId),
}

/// Why a version is not what it should be.
pub(super) enum Misled<'b> {
    /// It follows what is not there any more.
    Orphan,
    /// Its list inherits from one that has nothing in force then.
    NoParent,
    /// It should say this.
    Other { said: &'b Arc<PriceVersion>, parent: Option<VersionId> },
}

/// Versions that are being made.
struct Making {
    book: PriceBook,
    next: Option<VersionId>,
    made: Vec<Arc<PriceVersion>>,
}

impl PriceBook {
    /// The versions that publish this: first the one of the list itself, then the followers. They
    /// have the numbers from `next` on, and must be added in this order.
    ///
    /// # Errors
    /// [`PublicationError`]
    pub fn publication(
        &self,
        publication: &Publication,
        next: VersionId,
    ) -> Result<Vec<Arc<PriceVersion>>, PublicationError> {
        let Publication { list, effective_from, .. } = *publication;
        let kept = self.in_force(list, effective_from).filter(|_| publication.keeps_others);
        let parent = match (publication.parent, kept) {
            (Some(parent), _) => parent,
            (None, Some(kept)) => self.parent_list(kept),
            (None, None) => publication.usual_parent,
        };
        let multiplier = match (publication.multiplier, kept) {
            (Some(multiplier), _) => multiplier,
            (None, Some(kept)) if parent.is_some() => kept.multiplier(),
            (None, _) => Multiplier::ONE,
        };
        let parent = match parent {
            None if multiplier != Multiplier::ONE => return Err(PublicationError::Multiplier),
            None => None,
            Some(parent) if parent == list => return Err(PublicationError::Circle),
            Some(parent) => {
                let version = self.in_force(parent, effective_from);
                Some(version.ok_or(PublicationError::NoParentVersion)?.id())
            }
        };
        let cards = self.edited(publication, parent, multiplier)?;
        if cards.is_empty() && parent.is_none() {
            return Err(PublicationError::Empty);
        }
        let mut making = Making { book: self.clone(), next: Some(next), made: Vec::new() };
        making.publish(list, parent, multiplier, effective_from, cards)?;
        making.follow(list, effective_from, &mut Vec::new())?;
        Ok(making.made)
    }

    /// The cards of a list after the edits.
    fn edited(
        &self,
        publication: &Publication,
        parent: Option<VersionId>,
        multiplier: Multiplier,
    ) -> Result<Vec<Named>, PublicationError> {
        let before = self.in_force(publication.list, publication.effective_from);
        let mut cards: BTreeMap<Arc<str>, Arc<Card>> = match before {
            Some(version) if publication.keeps_others => version.cards().iter().cloned().collect(),
            _ => BTreeMap::new(),
        };
        for (name, edit) in &publication.edits {
            match edit {
                CardEdit::Set(card) => {
                    cards.insert(Arc::clone(name), Arc::clone(card));
                }
                CardEdit::Remove => {
                    let removed = cards.remove(name);
                    removed.ok_or_else(|| PublicationError::NoCard(Arc::clone(name)))?;
                }
                CardEdit::Override(rates) => {
                    let none = || PublicationError::NoParentCard(Arc::clone(name));
                    let times = |card: &CardRow| {
                        let rates = card.rates.times(multiplier)?;
                        Some(CardRow { rates, ..*card })
                    };
                    let inherited = parent.and_then(|parent| self.priced(parent, name));
                    let inherited = inherited.ok_or_else(none)?.card;
                    let rows: Option<Vec<CardRow>> = inherited.rows().iter().map(times).collect();
                    let rows = rows.ok_or_else(none)?.into_iter().map(|row| {
                        let rates = row.rates.overridden_by(rates);
                        CardRow { rates, ..row }
                    });
                    let card = Card::new(rows.collect()).map_err(|_| none())?;
                    cards.insert(Arc::clone(name), Arc::new(card));
                }
            }
        }
        Ok(cards.into_iter().collect())
    }

    /// The lists that inherit from this one at `from` or later.
    fn children(&self, parent: ListId, from: Timestamp) -> Vec<ListId> {
        let inherits = |version: &Arc<PriceVersion>| self.parent_list(version) == Some(parent);
        let children = self.lists.iter().filter(|(list, listed)| {
            let later = listed.in_force.range((from, VersionId::LAST)..).map(|(_, later)| later);
            self.in_force(**list, from).into_iter().chain(later).any(inherits)
        });
        children.map(|(list, _)| *list).collect()
    }

    /// The list that a version inherits from.
    #[must_use]
    pub fn parent_list(&self, version: &PriceVersion) -> Option<ListId> {
        Some(self.by_id(version.parent()?)?.list())
    }

    /// The instants from `from` on at which another version of a list, or of one that it inherits
    /// from, is in force.
    fn instants(&self, list: ListId, from: Timestamp) -> BTreeSet<Timestamp> {
        let mut instants = BTreeSet::from([from]);
        let Some(listed) = self.lists.get(&list) else { return instants };
        let mut lists = BTreeSet::from([list]);
        lists.extend(listed.in_force.values().filter_map(|version| self.parent_list(version)));
        for listed in lists.iter().filter_map(|list| self.lists.get(list)) {
            let later = listed.in_force.keys().map(|(at, _)| *at).filter(|at| *at > from);
            instants.extend(later);
        }
        instants
    }

    /// What a list says of itself at this instant: its last version that is no follower.
    fn said(&self, list: ListId, at: Timestamp) -> Option<&Arc<PriceVersion>> {
        let in_force = &self.lists.get(&list)?.in_force;
        let mut earlier =
            in_force.range(..=(at, VersionId::LAST)).rev().map(|(_, version)| version);
        earlier.find(|version| !self.followers.contains(&version.id()))
    }

    /// If the version that a list has at this instant is not what it should be: what it should
    /// say, and the version that it should inherit from.
    pub(super) fn misled(&self, list: ListId, at: Timestamp) -> Option<Misled<'_>> {
        let in_force = self.in_force(list, at)?;
        // Without any, its followers are there for nothing.
        let Some(said) = self.said(list, at) else { return Some(Misled::Orphan) };
        let parent = match self.parent_list(said) {
            None => None,
            Some(parent) => match self.in_force(parent, at) {
                None => return Some(Misled::NoParent),
                Some(parent) => Some(parent.id()),
            },
        };
        let is_right = in_force.parent() == parent
            && in_force.multiplier() == said.multiplier()
            && in_force.cards() == said.cards();
        (!is_right).then_some(Misled::Other { said, parent })
    }

    /// The versions that are withdrawn with this one: it first, then its followers.
    ///
    /// # Errors
    /// [`WithdrawalError`]
    pub fn withdrawal(
        &self,
        id: VersionId,
        now: Timestamp,
    ) -> Result<Vec<VersionId>, WithdrawalError> {
        let version = self.by_id(id).ok_or(WithdrawalError::NoVersion)?;
        if self.is_withdrawn(version) {
            return Err(WithdrawalError::Withdrawn);
        }
        let from = version.effective_from();
        if from <= now {
            return Err(WithdrawalError::InForce(from));
        }
        let mut book = self.clone();
        let mut gone = vec![id];
        book.withdraw(id);
        while let Some(wrong) = book.first_misled(from) {
            // What somebody has said stays, so it must not lose what it inherits from.
            if !book.followers.contains(&wrong) {
                return Err(WithdrawalError::Followed(wrong));
            }
            gone.push(wrong);
            book.withdraw(wrong);
        }
        Ok(gone)
    }

    /// A version that is in force at `from` or later and is not what it should be.
    fn first_misled(&self, from: Timestamp) -> Option<VersionId> {
        self.lists.keys().find_map(|list| {
            let mut instants = self.instants(*list, from).into_iter();
            let at = instants.find(|at| self.misled(*list, *at).is_some())?;
            Some(self.in_force(*list, at)?.id())
        })
    }

    /// Was it withdrawn?
    #[must_use]
    pub fn is_withdrawn(&self, version: &PriceVersion) -> bool {
        let key = (version.effective_from(), version.id());
        let listed = self.lists.get(&version.list());
        !listed.is_some_and(|listed| listed.in_force.contains_key(&key))
    }

    /// The versions of a list, the first one first, the withdrawn ones among them.
    pub fn versions(&self, list: ListId) -> impl DoubleEndedIterator<Item = &Arc<PriceVersion>> {
        self.versions.values().filter(move |version| version.list() == list)
    }

    /// The versions of a list that are or will be in force, by the instant from which on they are,
    /// and until when each of them is. One that another replaces at its own instant is left out.
    pub fn terms(
        &self,
        list: ListId,
    ) -> impl Iterator<Item = (&Arc<PriceVersion>, Option<Timestamp>)> {
        let in_force = self.lists.get(&list).map(|listed| &listed.in_force);
        let versions = in_force.into_iter().flat_map(BTreeMap::values);
        let next = in_force.into_iter().flat_map(BTreeMap::keys).skip(1);
        let until = next.map(|(at, _)| Some(*at)).chain([None]);
        let spans = versions.zip(until);
        spans.filter(|(version, until)| *until != Some(version.effective_from()))
    }

    /// Until when this version is in force, if another one follows it.
    #[must_use]
    pub fn until(&self, version: &PriceVersion) -> Option<Timestamp> {
        self.terms(version.list()).find(|(other, _)| other.id() == version.id())?.1
    }

    /// The names of all cards of a version, its own and those that it inherits.
    #[must_use]
    pub fn card_names(&self, id: VersionId) -> BTreeSet<Arc<str>> {
        let mut names = BTreeSet::new();
        let mut next = self.by_id(id);
        while let Some(version) = next {
            names.extend(version.cards().iter().map(|(name, _)| Arc::clone(name)));
            next = version.parent().and_then(|parent| self.by_id(parent));
        }
        names
    }

    /// The name of the card of a version, its own or an inherited one, that is for all models whose
    /// names begin as this one does: `<name>*`. The longest one, if there are several.
    #[must_use]
    pub fn pattern_of(&self, id: VersionId, model: &str) -> Option<&Arc<str>> {
        let mut found: Option<&Arc<str>> = None;
        let mut next = self.by_id(id);
        while let Some(version) = next {
            let fits = version.patterns().iter().filter(|name| {
                let rest = name.strip_suffix('*').and_then(|start| model.strip_prefix(start));
                rest.is_some_and(|rest| !rest.is_empty())
            });
            found = found.into_iter().chain(fits).max_by_key(|name| name.len());
            next = version.parent().and_then(|parent| self.by_id(parent));
        }
        found
    }

    /// The instant from which on a version may be in force that is published now, and that shall
    /// be so as soon as it can: not before `earliest`, and not before one that was just published
    /// by a process whose clock is up to `apart` microseconds ahead.
    #[must_use]
    pub fn soonest(&self, list: ListId, earliest: Timestamp, apart: i64) -> Timestamp {
        let listed = self.lists.get(&list);
        let until = earliest.plus_micros(apart);
        let just = listed.and_then(|listed| {
            listed.in_force.keys().map(|(at, _)| *at).rfind(|at| (earliest..=until).contains(at))
        });
        just.unwrap_or(earliest)
    }
}

impl Making {
    fn publish(
        &mut self,
        list: ListId,
        parent: Option<VersionId>,
        multiplier: Multiplier,
        effective_from: Timestamp,
        cards: Vec<(Arc<str>, Arc<Card>)>,
    ) -> Result<(), PublicationError> {
        let id = self.next.ok_or(PublicationError::NoNumber)?;
        let terms = VersionTerms { id, list, parent, multiplier, effective_from, cards };
        let version = PriceVersion::new(terms, self.book.last_link(list));
        let version = Arc::new(version.map_err(PublicationError::Version)?);
        let added = if self.made.is_empty() {
            self.book.add(Arc::clone(&version))
        } else {
            self.book.add_follower(Arc::clone(&version))
        };
        added.map_err(PublicationError::Book)?;
        self.made.push(version);
        self.next = id.number().checked_add(1).and_then(VersionId::new);
        Ok(())
    }

    /// Lets the list follow the one that it inherits from, from `from` on, and then those that
    /// inherit from it. `chain` are the lists that this one inherits from.
    fn follow(
        &mut self,
        list: ListId,
        from: Timestamp,
        chain: &mut Vec<ListId>,
    ) -> Result<(), PublicationError> {
        if chain.contains(&list) {
            return Err(PublicationError::Circle);
        }
        for at in self.book.instants(list, from) {
            let (said, parent) = match self.book.misled(list, at) {
                None | Some(Misled::Orphan) => continue,
                Some(Misled::NoParent) => return Err(PublicationError::NoParentVersion),
                Some(Misled::Other { said, parent }) => (said, parent),
            };
            let (multiplier, cards) = (said.multiplier(), said.cards().to_vec());
            self.publish(list, parent, multiplier, at, cards)?;
        }
        chain.push(list);
        for child in self.book.children(list, from) {
            self.follow(child, from, chain)?;
        }
        chain.pop();
        Ok(())
    }
}
