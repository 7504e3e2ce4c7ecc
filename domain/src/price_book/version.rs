//! One version of a price list.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::document;
use crate::bill::VersionId;
use crate::card::{Card, CardError};
use crate::ledger::Link;
use crate::rates::Multiplier;
use crate::window::Timestamp;

/// Most cards of a version with those that it inherits: a bill has a number of 16 bits for them.
pub const CARDS_MAX: usize = 1 << 16;
/// Longest name of a card, in bytes: that of a model, or the method and path of a route.
pub const CARD_NAME_MAX: usize = 1_024;

/// The number of a price list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId(pub u32);

impl ListId {
    /// The prices of routes, as the settings have them.
    pub const ROUTES: ListId = ListId(1);
    /// The prices of models for everybody who has no other list.
    pub const DEFAULT: ListId = ListId(2);
}

/// What a version says, before it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionTerms {
    /// Its number.
    pub id: VersionId,
    /// Its list.
    pub list: ListId,
    /// The version that it inherits cards from.
    pub parent: Option<VersionId>,
    /// What the prices of the parent are multiplied by. [`Multiplier::ONE`] without a parent.
    pub multiplier: Multiplier,
    /// From when on it is in force.
    pub effective_from: Timestamp,
    /// Its own cards by name, in any order. They are not multiplied.
    pub cards: Vec<(Arc<str>, Arc<Card>)>,
}

/// A version of a price list. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceVersion {
    terms: VersionTerms,
    /// Those of its own cards that are for all models whose names begin alike: `<name>*`.
    patterns: Vec<Arc<str>>,
    digest: [u8; 32],
    link: Link,
}

/// What is wrong with a version, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct VersionError {
    /// The place in the document, such as `cards[2].rows[0].rates.input`; `document` for the whole.
    pub path: String,
    /// What is wrong there.
    pub problem: VersionProblem,
}

/// What is wrong with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionProblem {
    /// It is not JSON.
    #[error("is no JSON")]
    NotJson,
    /// Something is missing.
    #[error("is missing")]
    Missing,
    /// It is not of the type or the range that it must be of.
    #[error("must be {0}")]
    Type(&'static str),
    /// There is no such dimension.
    #[error("is no dimension")]
    Dimension,
    /// There is no such service tier.
    #[error("is no service tier")]
    Service,
    /// The rows are not a card.
    #[error("{0}")]
    Card(CardError),
    /// Two cards have the same name.
    #[error("another card has this name")]
    Twice,
    /// There are more cards than a bill can name.
    #[error("has more than {CARDS_MAX} cards")]
    TooMany,
    /// It multiplies nothing.
    #[error("must be 1000000 without a parent")]
    Multiplier,
    /// It says what it must say, but not in the one form that it has.
    #[error("is not in canonical form")]
    NotCanonical,
}

impl VersionError {
    pub(super) fn new(path: impl Into<String>, problem: VersionProblem) -> Self {
        VersionError { path: path.into(), problem }
    }
}

/// The link of a version with this digest, if `before` is that of the version before it in its
/// list. [`Link::START`] is before the first one.
#[must_use]
pub fn link_after(before: Link, digest: [u8; 32]) -> Link {
    Link(Sha256::new().chain_update(before.0).chain_update(digest).finalize().into())
}

impl PriceVersion {
    /// A version that says this, chained to the one before it in its list.
    ///
    /// # Errors
    /// If a name of a card is too long or there twice, or if a multiplier has nothing to multiply.
    pub fn new(mut terms: VersionTerms, before: Link) -> Result<Self, VersionError> {
        terms.cards.sort_by(|a, b| a.0.cmp(&b.0));
        let mut last: Option<&str> = None;
        for (place, (name, _)) in terms.cards.iter().enumerate() {
            let path = || format!("cards[{place}].name");
            let is_plain = !name.is_empty() && !name.chars().any(char::is_control);
            if !is_plain || name.len() > CARD_NAME_MAX {
                let what = "1 to 1024 bytes without control characters";
                return Err(VersionError::new(path(), VersionProblem::Type(what)));
            }
            if last == Some(name) {
                return Err(VersionError::new(path(), VersionProblem::Twice));
            }
            last = Some(name);
        }
        if terms.cards.len() > CARDS_MAX {
            return Err(VersionError::new("cards", VersionProblem::TooMany));
        }
        if terms.parent.is_none() && terms.multiplier != Multiplier::ONE {
            return Err(VersionError::new("multiplier", VersionProblem::Multiplier));
        }
        if document::instant(&document::instant_text(terms.effective_from)).is_none() {
            let what = "an instant of the years 0 to 9999";
            return Err(VersionError::new("effective_from", VersionProblem::Type(what)));
        }
        let digest = Sha256::digest(document::write(&terms)).into();
        let names = terms.cards.iter().map(|(name, _)| name);
        let patterns = names.filter(|name| name.ends_with('*')).map(Arc::clone).collect();
        Ok(PriceVersion { terms, patterns, digest, link: link_after(before, digest) })
    }

    /// The version of which [`PriceVersion::document`] is just this text, chained to the one before
    /// it in its list.
    ///
    /// # Errors
    /// If the text is no version, or if the version has another text.
    pub fn read(text: &str, before: Link) -> Result<Self, VersionError> {
        let version = PriceVersion::new(document::read(text)?, before)?;
        if version.document() != text {
            return Err(VersionError::new("document", VersionProblem::NotCanonical));
        }
        Ok(version)
    }

    /// It as text, in the one form that it has: JSON without spaces, with the keys in this order,
    /// cards and rows in theirs, and the named prices by the code of their dimension.
    ///
    /// `id`, `list`, `parent` (a number or null), `multiplier` (in millionths), `effective_from`
    /// (RFC 3339 in UTC with microseconds), `cards`: `name`, `rows`: `service`, `over`, `rates`:
    /// each dimension's word and its price in nano-dollars.
    #[must_use]
    pub fn document(&self) -> String {
        document::write(&self.terms)
    }

    /// SHA-256 of the document.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The hash that ties it to all versions before it in its list.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> VersionId {
        self.terms.id
    }

    /// Its list.
    #[must_use]
    pub fn list(&self) -> ListId {
        self.terms.list
    }

    /// The version that it inherits from.
    #[must_use]
    pub fn parent(&self) -> Option<VersionId> {
        self.terms.parent
    }

    /// What the prices of its parent are multiplied by.
    #[must_use]
    pub fn multiplier(&self) -> Multiplier {
        self.terms.multiplier
    }

    /// From when on it is in force.
    #[must_use]
    pub fn effective_from(&self) -> Timestamp {
        self.terms.effective_from
    }

    /// Its own cards, by name.
    #[must_use]
    pub fn cards(&self) -> &[(Arc<str>, Arc<Card>)] {
        &self.terms.cards
    }

    /// The names of its own cards that are for all models whose names begin alike: `<name>*`.
    pub(super) fn patterns(&self) -> &[Arc<str>] {
        &self.patterns
    }

    /// The place of its own card with this name.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.terms.cards.binary_search_by(|(other, _)| (**other).cmp(name)).ok()
    }
}
