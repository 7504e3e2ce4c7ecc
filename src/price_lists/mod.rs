//! Price lists as operators make them: lists, drafts, versions, and who pays by which. Each change
//! is in the audit log. What publication means is in [`domain::price_book`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::access::AccessError;
use crate::models::load;
use crate::pipeline::Gateway;
use crate::store::price_lists::{MakeAct, PublishAt, PublishWhat, PublishedPrices};
use crate::store::{Store, StoreError};
use domain::card_document::{CardFault, read_edits};
use domain::price_book::{
    ListId, PriceDifference, PriceVersion, Publication, PublicationError, WithdrawalError,
};
use domain::{Act, ActKind, Multiplier, Origin, PriceBook, Timestamp, UserId, VersionId};

mod loss;
mod preview;
mod quote;
mod view;

pub use crate::store::price_lists::{NamedList, PriceDraft, PriceListRefusal, SoldBelowCost};
pub use preview::{PREVIEWED_MAX, PreviewedPrices};
pub use quote::{PriceQuestion, QuotedPrice, card_for};
pub use view::{CardView, ListView, VersionState, VersionView};

use view::view;

/// Longest name of a price list, in bytes.
pub const LIST_NAME_MAX: usize = 64;

/// Why a request about price lists failed.
#[derive(Debug, thiserror::Error)]
pub enum PriceListsError {
    /// There is no list of this name; says which field named it, or none if the path did.
    #[error("no such price list")]
    NoList(Option<&'static str>),
    /// The name is none.
    #[error("not a name of a price list")]
    Name,
    /// The list of the routes is written by the settings.
    #[error("the list of the routes is changed by the settings")]
    OfSettings,
    /// There is no such version.
    #[error("no such version")]
    NoVersion,
    /// The model is not sold by the list then.
    #[error("no such card")]
    NoCard,
    /// A dimension has no price, or the amount is too large.
    #[error("not priced")]
    NotPriced,
    /// What is wrong with the cards.
    #[error("the cards are not valid")]
    Cards(Vec<CardFault>),
    /// See [`PriceListRefusal`].
    #[error(transparent)]
    Refused(PriceListRefusal),
    /// See [`AccessError`].
    #[error(transparent)]
    Access(#[from] AccessError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PriceListRefusal> for PriceListsError {
    fn from(refusal: PriceListRefusal) -> Self {
        match refusal {
            PriceListRefusal::Cards(faults) => PriceListsError::Cards(faults),
            PriceListRefusal::Withdrawal(WithdrawalError::NoVersion) => PriceListsError::NoVersion,
            refusal => PriceListsError::Refused(refusal),
        }
    }
}

impl From<PublicationError> for PriceListsError {
    fn from(error: PublicationError) -> Self {
        PriceListsError::Refused(error.into())
    }
}

/// What shall be in a list.
#[derive(Clone, Debug, Default)]
pub struct PriceChange {
    /// Whole cards, as JSON.
    pub cards: Option<Value>,
    /// Prices that differ from the parent's, as JSON.
    pub overrides: Option<Value>,
    /// Are the cards that are in force kept, unless they are named?
    pub keeps_others: bool,
    /// The name of the list to inherit from, or none. Absent: see [`Publication::parent`].
    pub parent: Option<Option<String>>,
    /// What its prices are multiplied by. Absent: see [`Publication::multiplier`].
    pub multiplier: Option<Multiplier>,
}

/// When and how something is done.
#[derive(Clone, Debug, Default)]
pub struct Doing {
    /// From when on it shall be in force; `None`: as soon as it can.
    pub effective_from: Option<Timestamp>,
    /// Is it only tried?
    pub is_dry_run: bool,
    /// The models that may be sold below their cost; `*` is all of them.
    pub allow_loss: Vec<String>,
}

/// What came of a change.
#[derive(Clone, Debug)]
pub struct ChangedPrices {
    /// The versions that were published or withdrawn, that of the list first.
    pub versions: Vec<VersionView>,
    /// What differs for the list from what is in force before.
    pub differences: Vec<PriceDifference>,
    /// What is sold below its cost by the versions, or because of them.
    pub below_cost: Vec<SoldBelowCost>,
}

/// See the module.
pub struct PriceLists {
    /// The database.
    pub store: Store,
    /// What sells by the lists.
    pub gateway: Arc<Gateway>,
    /// How long before it is in force a version must be published, in microseconds.
    pub notice_micros: i64,
}

/// The lists by name and by number.
struct Lists(Vec<NamedList>);

impl Lists {
    fn named(&self, name: &str) -> Option<&NamedList> {
        self.0.iter().find(|list| list.name == name)
    }

    fn names(&self) -> BTreeMap<ListId, String> {
        self.0.iter().map(|list| (list.id, list.name.clone())).collect()
    }
}

/// Is it a name of a price list?
fn is_list_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= LIST_NAME_MAX
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(byte) || b"._-".contains(&byte))
}

impl PriceLists {
    async fn lists_there(&self) -> Result<Lists, StoreError> {
        Ok(Lists(self.store.price_lists().await?))
    }

    /// The list of this name, and all lists.
    async fn find(&self, name: &str) -> Result<(NamedList, Lists), PriceListsError> {
        let lists = self.lists_there().await?;
        let list = lists.named(name).cloned().ok_or(PriceListsError::NoList(None))?;
        Ok((list, lists))
    }

    /// The same, of a list that is changed here.
    async fn find_own(&self, name: &str) -> Result<(NamedList, Lists), PriceListsError> {
        let (list, lists) = self.find(name).await?;
        if list.id == ListId::ROUTES {
            return Err(PriceListsError::OfSettings);
        }
        Ok((list, lists))
    }

    async fn book(&self) -> Result<PriceBook, StoreError> {
        Ok(self.store.price_book().await?.book)
    }

    fn now(&self) -> Timestamp {
        self.gateway.clock.now()
    }

    /// An act of an operator that is about prices and nobody else.
    fn act(&self, operator: UserId, origin: Origin, kind: ActKind, subject: &str) -> Act {
        origin.act(Uuid::now_v7(), operator, kind, self.now()).to(subject)
    }

    /// Makes calls that arrive from now on see what has changed. What is on record stays so if
    /// that fails: the next refresh reads it.
    async fn refresh(&self) {
        failpoint!("prices-on-record");
        if let Err(error) = load::refresh(&self.gateway.models, &self.store).await {
            tracing::error!(%error, "the price lists were changed and not read again");
        }
    }

    /// All price lists.
    pub async fn lists(&self) -> Result<Vec<ListView>, PriceListsError> {
        let (lists, book, now) = (self.lists_there().await?, self.book().await?, self.now());
        let names = lists.names();
        let listed = |list: NamedList| ListView {
            parent: list.parent.and_then(|parent| names.get(&parent).cloned()),
            in_force: book.in_force(list.id, now).map(|one| view(&book, &names, one, now)),
            list,
        };
        Ok(lists.0.into_iter().map(listed).collect())
    }

    /// One price list.
    pub async fn list(&self, name: &str) -> Result<ListView, PriceListsError> {
        let mut lists = self.lists().await?.into_iter();
        lists.find(|listed| listed.list.name == name).ok_or(PriceListsError::NoList(None))
    }

    /// Makes a price list without a version.
    pub async fn create(
        &self,
        name: String,
        parent: Option<String>,
        is_dry_run: bool,
        operator: UserId,
        origin: Origin,
    ) -> Result<(), PriceListsError> {
        if !is_list_name(&name) {
            return Err(PriceListsError::Name);
        }
        let lists = self.lists_there().await?;
        let parent = parent.map(|parent| parent_of(&lists, &parent)).transpose()?;
        let act = self.act(operator, origin, ActKind::PriceListCreated, &name);
        self.store.create_price_list(name, parent, is_dry_run, act).await??;
        Ok(())
    }

    /// Deletes a price list that has no version and that nothing uses.
    pub async fn delete(
        &self,
        name: &str,
        is_dry_run: bool,
        operator: UserId,
        origin: Origin,
    ) -> Result<(), PriceListsError> {
        let (list, _) = self.find_own(name).await?;
        if list.id == ListId::DEFAULT {
            let used = "everybody who has no other list".to_owned();
            return Err(PriceListRefusal::Used(used).into());
        }
        let act = self.act(operator, origin, ActKind::PriceListDeleted, name);
        Ok(self.store.delete_price_list(list.id, is_dry_run, act).await??)
    }

    /// The drafts and the versions of a list, the last one first.
    pub async fn versions(
        &self,
        name: &str,
    ) -> Result<(Vec<PriceDraft>, Vec<VersionView>, BTreeMap<ListId, String>), PriceListsError>
    {
        let (list, lists) = self.find(name).await?;
        let (book, now, names) = (self.book().await?, self.now(), lists.names());
        let versions = book.versions(list.id).rev();
        let versions = versions.map(|version| view(&book, &names, version, now)).collect();
        let mut drafts = self.store.price_drafts(list.id).await?;
        drafts.reverse();
        Ok((drafts, versions, names))
    }

    /// One version of a list.
    pub async fn version(&self, name: &str, id: VersionId) -> Result<VersionView, PriceListsError> {
        let (list, lists) = self.find(name).await?;
        let book = self.book().await?;
        let version = of_list(&book, list.id, id)?;
        Ok(view(&book, &lists.names(), version, self.now()))
    }

    /// One draft of a list, and the names of the lists.
    pub async fn draft(
        &self,
        name: &str,
        id: i64,
    ) -> Result<(PriceDraft, BTreeMap<ListId, String>), PriceListsError> {
        let (list, lists) = self.find(name).await?;
        let drafts = self.store.price_drafts(list.id).await?;
        let draft = drafts.into_iter().find(|draft| draft.id == id);
        Ok((draft.ok_or(PriceListsError::NoVersion)?, lists.names()))
    }

    /// What differs from one version of a list to another, of any list, and what the other one
    /// sells below its cost.
    pub async fn diff(
        &self,
        name: &str,
        from: VersionId,
        to: VersionId,
    ) -> Result<(Vec<PriceDifference>, Vec<SoldBelowCost>), PriceListsError> {
        let (list, lists) = self.find(name).await?;
        let book = self.book().await?;
        of_list(&book, list.id, from)?;
        let version = book.by_id(to).ok_or(PriceListsError::NoVersion)?;
        let below = self.guard(&lists).below_by(&book, version, self.now());
        Ok((book.differences(Some(from), to), below))
    }

    /// The prices of a model by a list.
    pub async fn card(
        &self,
        name: &str,
        model: &str,
        at: Option<Timestamp>,
    ) -> Result<CardView, PriceListsError> {
        let (list, lists) = self.find(name).await?;
        let (book, now) = (self.book().await?, self.now());
        let catalogue = &self.gateway.models.selling().catalogue;
        let found = card_for(catalogue, &book, list.id, model, at.unwrap_or(now));
        let (card, priced) = found.ok_or(PriceListsError::NoCard)?;
        let version = book.by_id(priced.version).ok_or(PriceListsError::NoVersion)?;
        let mut from = version;
        while from.place(&card).is_none() {
            let parent = from.parent().and_then(|parent| book.by_id(parent));
            from = parent.ok_or(PriceListsError::NoCard)?;
        }
        let from = from.id();
        let version = view(&book, &lists.names(), version, now);
        Ok(CardView { priced, name: card, from, version })
    }

    /// What a change of a list is, as it can be published.
    fn publication(
        list: &NamedList,
        lists: &Lists,
        change: &PriceChange,
    ) -> Result<Publication, PriceListsError> {
        let edits = read_edits(change.cards.as_ref(), change.overrides.as_ref());
        let parent = |parent: &Option<String>| {
            parent.as_deref().map(|parent| parent_of(lists, parent)).transpose()
        };
        Ok(Publication {
            list: list.id,
            parent: change.parent.as_ref().map(parent).transpose()?,
            usual_parent: list.parent,
            multiplier: change.multiplier,
            effective_from: Timestamp::default(),
            edits: edits.map_err(PriceListsError::Cards)?,
            keeps_others: change.keeps_others,
        })
    }

    /// Writes a draft of a change; `None` for a dry run.
    pub async fn draft_change(
        &self,
        name: &str,
        change: PriceChange,
        doing: Doing,
        operator: UserId,
        origin: Origin,
    ) -> Result<Option<PriceDraft>, PriceListsError> {
        let (list, lists) = self.find_own(name).await?;
        let publication = Self::publication(&list, &lists, &change)?;
        if doing.is_dry_run {
            return Ok(None);
        }
        let mut cards = serde_json::Map::new();
        for (key, value) in [("cards", change.cards), ("overrides", change.overrides)] {
            cards.extend(value.map(|value| (key.to_owned(), value)));
        }
        let draft = PriceDraft {
            id: 0,
            list: list.id,
            parent: publication.parent,
            multiplier: publication.multiplier,
            keeps_others: publication.keeps_others,
            cards: Value::Object(cards).to_string(),
            author: operator,
            created_at: self.now(),
        };
        let act = self.act(operator, origin, ActKind::PricesDrafted, "").with(name);
        let id = self.store.insert_price_draft(draft.clone(), act).await??;
        Ok(Some(PriceDraft { id, ..draft }))
    }

    /// Deletes a draft.
    pub async fn delete_draft(
        &self,
        name: &str,
        id: i64,
        operator: UserId,
        origin: Origin,
    ) -> Result<(), PriceListsError> {
        let (list, _) = self.find_own(name).await?;
        let act = self.act(operator, origin, ActKind::PriceDraftDeleted, &format!("draft-{id}"));
        let deleted = self.store.delete_price_draft(list.id, id, act.with(name)).await?;
        deleted.map_err(|refusal| match refusal {
            PriceListRefusal::NoDraft => PriceListsError::NoVersion,
            refusal => refusal.into(),
        })
    }

    /// Publishes a change at once.
    pub async fn publish_change(
        &self,
        name: &str,
        change: PriceChange,
        doing: Doing,
        operator: UserId,
        origin: Origin,
    ) -> Result<ChangedPrices, PriceListsError> {
        let (list, lists) = self.find_own(name).await?;
        let publication = Self::publication(&list, &lists, &change)?;
        self.publish(PublishWhat::New(publication), &lists, doing, operator, origin).await
    }

    /// Publishes a draft.
    pub async fn publish_draft(
        &self,
        name: &str,
        id: i64,
        doing: Doing,
        operator: UserId,
        origin: Origin,
    ) -> Result<ChangedPrices, PriceListsError> {
        let (list, lists) = self.find_own(name).await?;
        self.publish(PublishWhat::Draft(list.id, id), &lists, doing, operator, origin).await
    }

    async fn publish(
        &self,
        what: PublishWhat,
        lists: &Lists,
        doing: Doing,
        operator: UserId,
        origin: Origin,
    ) -> Result<ChangedPrices, PriceListsError> {
        let is_dry_run = doing.is_dry_run;
        let published = self.decide(what, lists, doing, operator, origin).await?;
        if !is_dry_run {
            self.refresh().await;
        }
        Ok(self.told(&published, lists))
    }

    /// What came of a publication, with what it sells below its cost.
    fn told(&self, published: &PublishedPrices, lists: &Lists) -> ChangedPrices {
        let mut changed = self.changed(published, &lists.names());
        changed.below_cost = self.guard(lists).below(&published.book, &published.versions);
        changed
    }

    async fn decide(
        &self,
        what: PublishWhat,
        lists: &Lists,
        doing: Doing,
        operator: UserId,
        origin: Origin,
    ) -> Result<PublishedPrices, PriceListsError> {
        let at = PublishAt {
            clock: self.gateway.clock.clone(),
            notice_micros: self.notice_micros,
            wanted: doing.effective_from,
            is_dry_run: doing.is_dry_run,
        };
        let names = lists.names();
        let act = self.act_of_versions(operator, origin, ActKind::PricesPublished, &names);
        let act = self.unless_below_cost(act, lists, &doing);
        let published = self.store.publish_version(what, at, act).await?;
        published.map_err(|refusal| match refusal {
            PriceListRefusal::NoDraft => PriceListsError::NoVersion,
            refusal => refusal.into(),
        })
    }

    /// Withdraws a version that is not in force yet.
    pub async fn withdraw(
        &self,
        name: &str,
        id: VersionId,
        doing: Doing,
        operator: UserId,
        origin: Origin,
    ) -> Result<ChangedPrices, PriceListsError> {
        let (list, lists) = self.find_own(name).await?;
        let (names, clock) = (lists.names(), self.gateway.clock.clone());
        let act = self.act_of_versions(operator, origin, ActKind::PricesWithdrawn, &names);
        let withdrawn =
            self.store.withdraw_version(list.id, id, clock, doing.is_dry_run, act).await??;
        if !doing.is_dry_run {
            self.refresh().await;
        }
        let mut changed = self.changed(&withdrawn, &names);
        changed.differences.clear();
        Ok(changed)
    }

    /// The act of what is done to versions: the first one is its subject.
    fn act_of_versions(
        &self,
        operator: UserId,
        origin: Origin,
        kind: ActKind,
        names: &BTreeMap<ListId, String>,
    ) -> MakeAct {
        let (act, names) = (self.act(operator, origin, kind, ""), names.clone());
        Box::new(move |published: &PublishedPrices| {
            let one = |version: &Arc<PriceVersion>| {
                let list = names.get(&version.list()).map_or("", String::as_str);
                let from = version.effective_from().to_rfc3339_micros();
                format!("{list} {}, in force from {from}", version.id())
            };
            let detail: Vec<String> = published.versions.iter().map(one).collect();
            let first = published.versions.first().map(|version| version.id().to_string());
            Ok(act.to(first.unwrap_or_default()).with(detail.join("; ")))
        })
    }

    fn changed(
        &self,
        published: &PublishedPrices,
        names: &BTreeMap<ListId, String>,
    ) -> ChangedPrices {
        let (book, now) = (&published.book, self.now());
        let views = published.versions.iter().map(|version| view(book, names, version, now));
        let differences = published.versions.first().map(|first| {
            let before = book.in_force(first.list(), first.effective_from().plus_micros(-1));
            book.differences(before.map(|before| before.id()), first.id())
        });
        ChangedPrices {
            versions: views.collect(),
            differences: differences.unwrap_or_default(),
            below_cost: Vec::new(),
        }
    }

    /// Sets the list that a user pays by, from now on; `None` is the default one.
    pub async fn set_users_list(
        &self,
        user: UserId,
        name: Option<String>,
        origin: Origin,
    ) -> Result<(), PriceListsError> {
        let list = match &name {
            None => None,
            Some(name) => {
                let lists = self.lists_there().await?;
                let list = lists.named(name).ok_or(PriceListsError::NoList(Some("list")))?;
                if list.id == ListId::ROUTES {
                    return Err(PriceListsError::OfSettings);
                }
                Some(list.id).filter(|list| *list != ListId::DEFAULT)
            }
        };
        let act = origin.act(Uuid::now_v7(), user, ActKind::PriceListSet, self.now());
        let act = act.with(name.unwrap_or_else(|| "default".to_owned()));
        self.store.set_users_price_list(user, list, act).await??;
        // The keys are read again, so that it binds for the very next call.
        let accounts = self.store.users.accounts_of(user).await?;
        self.gateway.tables_up_to_date().await?;
        for key in self.store.keys.list(accounts, None).await? {
            self.gateway.keys.forget(key.digest);
            for former in self.store.keys.list_former_values(key.id).await? {
                self.gateway.keys.forget(former);
            }
        }
        Ok(())
    }
}

fn parent_of(lists: &Lists, name: &str) -> Result<ListId, PriceListsError> {
    let parent = lists.named(name).ok_or(PriceListsError::NoList(Some("parent")))?;
    if parent.id == ListId::ROUTES {
        return Err(PriceListsError::OfSettings);
    }
    Ok(parent.id)
}

fn of_list(
    book: &PriceBook,
    list: ListId,
    id: VersionId,
) -> Result<&Arc<PriceVersion>, PriceListsError> {
    let version = book.by_id(id).filter(|version| version.list() == list);
    version.ok_or(PriceListsError::NoVersion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lists_fit_into_a_path() {
        for name in ["default", "a", "gold-2026.1_x"] {
            assert!(is_list_name(name), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "Gold", "a/b", "a b", "-a", "ä", &long, "a:b", "../x"] {
            assert!(!is_list_name(name), "{name}");
        }
    }
}
