//! Price lists: their names, the drafts of their versions, how a version is published and
//! withdrawn, and which list a user pays by.
//!
//! All changes of price lists come one after the other (`begin_publishing`), each with its
//! act in the same transaction.

use std::sync::Arc;

use sea_orm::{DatabaseTransaction, QueryResult, Value};

use super::audit_log;
use super::prices::{Publishing, insert_version};
use super::sql::{begin_write, count, execute, query};
use super::{Store, StoreError};
use crate::clock::Clock;
use domain::bill_audit::CLOCKS_APART_MICROS;
use domain::card_document::{CardFault, read_edits};
use domain::cost::PriceBelowCost;
use domain::price_book::{ListId, PriceVersion, Publication, PublicationError, WithdrawalError};
use domain::{Act, Multiplier, PriceBook, Timestamp, UserId, VersionId};

/// A price list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedList {
    /// Its number.
    pub id: ListId,
    /// Its name.
    pub name: String,
    /// The list that new versions inherit from unless they say otherwise.
    pub parent: Option<ListId>,
    /// How many users pay by it. Those without a list of their own are not counted.
    pub users: i64,
}

/// What may become a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceDraft {
    /// Its number, which is none of a version.
    pub id: i64,
    /// The list.
    pub list: ListId,
    /// The list that it inherits from, or none. Absent: as it is when it is published.
    pub parent: Option<Option<ListId>>,
    /// What the prices of the parent are multiplied by. Absent: as it is when it is published.
    pub multiplier: Option<Multiplier>,
    /// Are the cards that are in force kept, unless they are named?
    pub keeps_others: bool,
    /// JSON: `cards` and `overrides`, as they were sent.
    pub cards: String,
    /// The operator who made it.
    pub author: UserId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Why a change of price lists is refused.
#[derive(Debug, thiserror::Error)]
pub enum PriceListRefusal {
    /// There is no list of this number.
    #[error("no such price list")]
    NoList,
    /// Another list has this name.
    #[error("another price list has this name")]
    NameTaken,
    /// Something uses it; says what.
    #[error("the price list is used: {0}")]
    Used(String),
    /// There is no such draft.
    #[error("no such draft")]
    NoDraft,
    /// It would be in force before all processes know it.
    #[error("too early")]
    TooEarly {
        /// The earliest instant.
        earliest: Timestamp,
    },
    /// What is wrong with the cards of a draft.
    #[error("the cards are not valid")]
    Cards(Vec<CardFault>),
    /// See [`PublicationError`].
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// See [`WithdrawalError`].
    #[error(transparent)]
    Withdrawal(#[from] WithdrawalError),
    /// It would sell below cost, and nobody has said that this is meant.
    #[error("models would be sold below their cost")]
    BelowCost(Vec<SoldBelowCost>),
    /// There is no such user.
    #[error("no such user")]
    NoUser,
}

/// When something is published.
#[derive(Clone, Debug)]
pub struct PublishAt {
    /// The clock.
    pub clock: Clock,
    /// How long before it is in force it must be published, in microseconds.
    pub notice_micros: i64,
    /// From when on it shall be in force; `None`: as soon as it can.
    pub wanted: Option<Timestamp>,
    /// Is it only tried?
    pub is_dry_run: bool,
}

impl PublishAt {
    /// The instant from which on a version of the list that is published now is in force.
    fn instant(&self, book: &PriceBook, list: ListId) -> Result<Timestamp, PriceListRefusal> {
        let earliest = self.clock.now().plus_micros(self.notice_micros);
        match self.wanted {
            None => Ok(book.soonest(list, earliest, CLOCKS_APART_MICROS)),
            Some(wanted) if wanted < earliest => Err(PriceListRefusal::TooEarly { earliest }),
            Some(wanted) => Ok(wanted),
        }
    }
}

/// What is published: something new, or a draft.
#[derive(Clone, Debug)]
pub enum PublishWhat {
    /// This, at another instant.
    New(Publication),
    /// The draft of this number, of this list.
    Draft(ListId, i64),
}

/// What came of a publication or a withdrawal.
#[derive(Clone, Debug)]
pub struct PublishedPrices {
    /// What is on record now, or would be.
    pub book: PriceBook,
    /// The versions that were published or withdrawn.
    pub versions: Vec<Arc<PriceVersion>>,
}

/// A price of a list that is below what it costs us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoldBelowCost {
    /// The name of the list.
    pub list: String,
    /// The price.
    pub price: PriceBelowCost,
}

/// Makes the act of what is done, or refuses that it is done.
pub type MakeAct = Box<dyn FnOnce(&PublishedPrices) -> Result<Act, PriceListRefusal> + Send>;

type Decided<T> = Result<Result<T, PriceListRefusal>, StoreError>;

fn list_id(number: i64) -> Result<ListId, StoreError> {
    let number = u32::try_from(number).map(ListId);
    number.map_err(|_| StoreError::Corrupt("the number of a price list is out of range".into()))
}

fn number(list: ListId) -> Value {
    i64::from(list.0).into()
}

fn optional(list: Option<ListId>) -> Value {
    list.map(|list| i64::from(list.0)).into()
}

fn named_list(row: &QueryResult) -> Result<NamedList, StoreError> {
    let parent: Option<i64> = row.try_get_by_index(2)?;
    Ok(NamedList {
        id: list_id(row.try_get_by_index(0)?)?,
        name: row.try_get_by_index(1)?,
        parent: parent.map(list_id).transpose()?,
        users: row.try_get_by_index(3)?,
    })
}

const DRAFT: &str = "id, CAST(list AS BIGINT), CAST(parent AS BIGINT), multiplier, keeps_others,
    cards, author, created_at, keeps_parent";

fn draft(row: &QueryResult) -> Result<PriceDraft, StoreError> {
    let parent: Option<i64> = row.try_get_by_index(2)?;
    let parent = parent.map(list_id).transpose()?;
    let keeps_parent: bool = row.try_get_by_index(8)?;
    let multiplier: Option<i64> = row.try_get_by_index(3)?;
    let corrupt = || StoreError::Corrupt("the multiplier of a draft".into());
    let read = |number: i64| {
        let read = u32::try_from(number).ok().and_then(Multiplier::from_millionths);
        read.ok_or_else(corrupt)
    };
    Ok(PriceDraft {
        id: row.try_get_by_index(0)?,
        list: list_id(row.try_get_by_index(1)?)?,
        parent: (!keeps_parent).then_some(parent),
        multiplier: multiplier.map(read).transpose()?,
        keeps_others: row.try_get_by_index(4)?,
        cards: row.try_get_by_index(5)?,
        author: UserId(row.try_get_by_index(6)?),
        created_at: Timestamp::from_micros(row.try_get_by_index(7)?),
    })
}

async fn is_there(transaction: &DatabaseTransaction, list: ListId) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT COUNT(*) FROM price_list WHERE id = $1";
    Ok(count(transaction, SQL, [number(list)]).await? > 0)
}

async fn end(
    transaction: DatabaseTransaction,
    is_dry_run: bool,
    act: &Act,
) -> Result<(), StoreError> {
    if is_dry_run {
        return Ok(transaction.rollback().await?);
    }
    audit_log::insert(&transaction, act).await?;
    failpoint!("prices-written");
    transaction.commit().await.map_err(StoreError::OutcomeUnknown)
}

impl Store {
    /// All price lists, the first one first.
    pub async fn price_lists(&self) -> Result<Vec<NamedList>, StoreError> {
        const SQL: &str = "SELECT CAST(id AS BIGINT), name, CAST(parent AS BIGINT),
                (SELECT COUNT(*) FROM users WHERE users.price_list = price_list.id)
            FROM price_list ORDER BY id";
        self.run(|store| async move {
            query(&store.read, SQL, []).await?.iter().map(named_list).collect()
        })
        .await
    }

    /// Makes a price list without a version. A dry run only says whether it could.
    pub async fn create_price_list(
        &self,
        name: String,
        parent: Option<ListId>,
        is_dry_run: bool,
        act: Act,
    ) -> Decided<ListId> {
        const SQL: &str = "INSERT INTO price_list (id, name, parent)
            VALUES (CAST($1 AS INTEGER), $2, CAST($3 AS INTEGER))";
        const LAST: &str = "SELECT CAST(MAX(id) AS BIGINT) FROM price_list";
        const NAMED: &str = "SELECT COUNT(*) FROM price_list WHERE name = $1";
        self.run_write(move |store| async move {
            let Publishing { transaction, .. } = store.begin_publishing().await?;
            if count(&transaction, NAMED, [name.clone().into()]).await? > 0 {
                return Ok(Err(PriceListRefusal::NameTaken));
            }
            if let Some(parent) = parent
                && !is_there(&transaction, parent).await?
            {
                return Ok(Err(PriceListRefusal::NoList));
            }
            let id = list_id(count(&transaction, LAST, []).await?.saturating_add(1))?;
            execute(&transaction, SQL, [number(id), name.into(), optional(parent)]).await?;
            end(transaction, is_dry_run, &act).await?;
            Ok(Ok(id))
        })
        .await
    }

    /// Deletes a price list that has no version and that nothing uses, with its drafts.
    pub async fn delete_price_list(&self, list: ListId, is_dry_run: bool, act: Act) -> Decided<()> {
        const USES: [(&str, &str); 4] = [
            ("SELECT COUNT(*) FROM price_version WHERE list = $1", "versions of it"),
            ("SELECT COUNT(*) FROM users WHERE price_list = $1", "users who pay by it"),
            ("SELECT COUNT(*) FROM price_list WHERE parent = $1", "lists that inherit from it"),
            (
                "SELECT COUNT(*) FROM price_draft WHERE parent = $1",
                "drafts of lists that inherit from it",
            ),
        ];
        self.run_write(move |store| async move {
            let Publishing { transaction, .. } = store.begin_publishing().await?;
            if !is_there(&transaction, list).await? {
                return Ok(Err(PriceListRefusal::NoList));
            }
            let mut uses = Vec::new();
            for (sql, what) in USES {
                let found = count(&transaction, sql, [number(list)]).await?;
                if found > 0 {
                    uses.push(format!("{found} {what}"));
                }
            }
            if !uses.is_empty() {
                return Ok(Err(PriceListRefusal::Used(uses.join(", "))));
            }
            for sql in
                ["DELETE FROM price_draft WHERE list = $1", "DELETE FROM price_list WHERE id = $1"]
            {
                execute(&transaction, sql, [number(list)]).await?;
            }
            end(transaction, is_dry_run, &act).await?;
            Ok(Ok(()))
        })
        .await
    }

    /// The drafts of a list, the first one first.
    pub async fn price_drafts(&self, list: ListId) -> Result<Vec<PriceDraft>, StoreError> {
        self.run(move |store| async move {
            let sql = format!("SELECT {DRAFT} FROM price_draft WHERE list = $1 ORDER BY id");
            query(&store.read, &sql, [number(list)]).await?.iter().map(draft).collect()
        })
        .await
    }

    /// Writes a draft; its number.
    pub async fn insert_price_draft(&self, new: PriceDraft, act: Act) -> Decided<i64> {
        const SQL: &str = "INSERT INTO price_draft
                (list, parent, multiplier, keeps_others, cards, author, created_at, keeps_parent)
            VALUES (CAST($1 AS INTEGER), CAST($2 AS INTEGER), $3, $4, $5, $6, $7, $8)
            RETURNING id";
        self.run_write(move |store| async move {
            let Publishing { transaction, .. } = store.begin_publishing().await?;
            for list in [Some(new.list), new.parent.flatten()].into_iter().flatten() {
                if !is_there(&transaction, list).await? {
                    return Ok(Err(PriceListRefusal::NoList));
                }
            }
            let values = [
                number(new.list),
                optional(new.parent.flatten()),
                new.multiplier.map(|multiplier| i64::from(multiplier.millionths())).into(),
                new.keeps_others.into(),
                new.cards.into(),
                new.author.0.into(),
                new.created_at.micros().into(),
                new.parent.is_none().into(),
            ];
            let id = count(&transaction, SQL, values).await?;
            end(transaction, false, &Act { subject: format!("draft-{id}"), ..act }).await?;
            Ok(Ok(id))
        })
        .await
    }

    /// Deletes a draft of a list.
    pub async fn delete_price_draft(&self, list: ListId, id: i64, act: Act) -> Decided<()> {
        const SQL: &str = "DELETE FROM price_draft WHERE list = $1 AND id = $2";
        self.run_write(move |store| async move {
            let transaction = begin_write(&store.write).await?;
            if execute(&transaction, SQL, [number(list), id.into()]).await? == 0 {
                return Ok(Err(PriceListRefusal::NoDraft));
            }
            end(transaction, false, &act).await?;
            Ok(Ok(()))
        })
        .await
    }

    /// Publishes a version of a list, and one of each list that inherits from it.
    pub async fn publish_version(
        &self,
        what: PublishWhat,
        at: PublishAt,
        act: MakeAct,
    ) -> Decided<PublishedPrices> {
        self.run_write(move |store| async move {
            let Publishing { transaction, mut prices, next } = store.begin_publishing().await?;
            let mut publication = match what {
                PublishWhat::New(publication) => publication,
                PublishWhat::Draft(list, id) => match take_draft(&transaction, list, id).await? {
                    Ok(publication) => publication,
                    Err(refusal) => return Ok(Err(refusal)),
                },
            };
            let parent = publication.parent.unwrap_or(publication.usual_parent);
            for list in [Some(publication.list), parent].into_iter().flatten() {
                if !is_there(&transaction, list).await? {
                    return Ok(Err(PriceListRefusal::NoList));
                }
            }
            publication.effective_from = match at.instant(&prices.book, publication.list) {
                Ok(instant) => instant,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let versions = match prices.book.publication(&publication, next) {
                Ok(versions) => versions,
                Err(error) => return Ok(Err(error.into())),
            };
            for (place, version) in versions.iter().enumerate() {
                let is_follower = place > 0;
                insert_version(&transaction, version, is_follower).await?;
                let added = if is_follower {
                    prices.book.add_follower(Arc::clone(version))
                } else {
                    prices.book.add(Arc::clone(version))
                };
                added.map_err(|error| StoreError::Corrupt(error.to_string()))?;
            }
            let published = PublishedPrices { book: prices.book, versions };
            let act = match act(&published) {
                Ok(act) => act,
                Err(refusal) => return Ok(Err(refusal)),
            };
            end(transaction, at.is_dry_run, &act).await?;
            Ok(Ok(published))
        })
        .await
    }

    /// Withdraws a version of a list that is not in force yet, and those that were made because of
    /// it.
    pub async fn withdraw_version(
        &self,
        list: ListId,
        id: VersionId,
        clock: Clock,
        is_dry_run: bool,
        act: MakeAct,
    ) -> Decided<PublishedPrices> {
        const SQL: &str =
            "UPDATE price_version SET withdrawn_at = $1 WHERE id = $2 AND withdrawn_at IS NULL";
        self.run_write(move |store| async move {
            let Publishing { transaction, mut prices, .. } = store.begin_publishing().await?;
            if prices.book.by_id(id).is_none_or(|version| version.list() != list) {
                return Ok(Err(WithdrawalError::NoVersion.into()));
            }
            let now = clock.now();
            let gone = match prices.book.withdrawal(id, now) {
                Ok(gone) => gone,
                Err(error) => return Ok(Err(error.into())),
            };
            let versions: Vec<Arc<PriceVersion>> =
                gone.iter().filter_map(|id| prices.book.by_id(*id)).cloned().collect();
            for id in gone {
                let values = [now.micros().into(), i64::from(id.number()).into()];
                execute(&transaction, SQL, values).await?;
                prices.book.withdraw(id);
            }
            let withdrawn = PublishedPrices { book: prices.book, versions };
            let act = match act(&withdrawn) {
                Ok(act) => act,
                Err(refusal) => return Ok(Err(refusal)),
            };
            end(transaction, is_dry_run, &act).await?;
            Ok(Ok(withdrawn))
        })
        .await
    }

    /// Sets the list that a user pays by; `None` is [`ListId::DEFAULT`].
    pub async fn set_users_price_list(
        &self,
        user: UserId,
        list: Option<ListId>,
        act: Act,
    ) -> Decided<()> {
        const SQL: &str = "UPDATE users SET price_list = CAST($1 AS INTEGER)
            WHERE id = $2 AND erased_at IS NULL";
        self.run_write(move |store| async move {
            let Publishing { transaction, .. } = store.begin_publishing().await?;
            if let Some(list) = list
                && !is_there(&transaction, list).await?
            {
                return Ok(Err(PriceListRefusal::NoList));
            }
            if execute(&transaction, SQL, [optional(list), user.0.into()]).await? == 0 {
                return Ok(Err(PriceListRefusal::NoUser));
            }
            end(transaction, false, &act).await?;
            Ok(Ok(()))
        })
        .await
    }

    /// The list that a user pays by.
    pub async fn price_list_of(&self, user: UserId) -> Result<ListId, StoreError> {
        const SQL: &str = "SELECT CAST(price_list AS BIGINT) FROM users WHERE id = $1";
        self.run(move |store| async move {
            let rows = query(&store.read, SQL, [user.0.into()]).await?;
            let list = rows.first().map(|row| row.try_get_by_index::<Option<i64>>(0));
            let list = list.transpose()?.flatten().map(list_id).transpose()?;
            Ok(list.unwrap_or(ListId::DEFAULT))
        })
        .await
    }
}

/// Takes a draft out, as what is to be published.
async fn take_draft(
    transaction: &DatabaseTransaction,
    list: ListId,
    id: i64,
) -> Decided<Publication> {
    const DELETE: &str = "DELETE FROM price_draft WHERE id = $1";
    const LISTED: &str = "SELECT CAST(parent AS BIGINT) FROM price_list WHERE id = $1";
    let sql = format!("SELECT {DRAFT} FROM price_draft WHERE list = $1 AND id = $2");
    let rows = query(transaction, &sql, [number(list), id.into()]).await?;
    let Some(row) = rows.first() else { return Ok(Err(PriceListRefusal::NoDraft)) };
    let draft = draft(row)?;
    let listed = query(transaction, LISTED, [number(list)]).await?;
    let usual = listed.first().map(|row| row.try_get_by_index::<Option<i64>>(0));
    let usual_parent = usual.transpose()?.flatten().map(list_id).transpose()?;
    let corrupt = |_| StoreError::Corrupt(format!("the draft {id} of prices is no JSON"));
    let cards: serde_json::Value = serde_json::from_str(&draft.cards).map_err(corrupt)?;
    let edits = match read_edits(cards.get("cards"), cards.get("overrides")) {
        Ok(edits) => edits,
        Err(faults) => return Ok(Err(PriceListRefusal::Cards(faults))),
    };
    execute(transaction, DELETE, [id.into()]).await?;
    Ok(Ok(Publication {
        list,
        parent: draft.parent,
        usual_parent,
        multiplier: draft.multiplier,
        effective_from: Timestamp::default(),
        edits,
        keeps_others: draft.keeps_others,
    }))
}
