//! Versions of price lists. They are inserted and never changed; a version that is not in force yet
//! may be withdrawn.

use std::sync::Arc;

use sea_orm::{ConnectionTrait as _, DatabaseTransaction, DbErr, QueryResult, Statement};

use super::Store;
use super::error::StoreError;
use super::sql::{begin_write, is_postgres, query};
use domain::bill_audit::CLOCKS_APART_MICROS;
use domain::price_book::{ListId, PriceBook, PriceVersion, VersionTerms};
use domain::{Card, Link, Multiplier, Timestamp, VersionId};

/// How often a version is inserted at most, if other processes insert theirs at the same time.
const TRIES_MAX: u32 = 20;

/// Every version that is on record, and what is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct AuditedPrices {
    /// The versions that are readable.
    pub book: PriceBook,
    /// The last number of a version.
    pub last: Option<VersionId>,
    /// What does not agree: documents, digests, links, and what rows say beside them.
    pub faults: Vec<String>,
}

/// A row of `price_version`.
struct VersionRow {
    /// Number, list, parent and multiplier.
    numbers: (i64, i64, Option<i64>, i64),
    effective_from: i64,
    document: String,
    digest: Vec<u8>,
    link: Vec<u8>,
    is_withdrawn: bool,
    is_follower: bool,
}

/// The columns of a [`VersionRow`], in its order.
const COLUMNS: &str =
    "CAST(id AS BIGINT), CAST(list AS BIGINT), CAST(parent AS BIGINT), multiplier,
    effective_from, document, digest, link, withdrawn_at, follows";

impl VersionRow {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(VersionRow {
            numbers: (
                row.try_get_by_index(0)?,
                row.try_get_by_index(1)?,
                row.try_get_by_index(2)?,
                row.try_get_by_index(3)?,
            ),
            effective_from: row.try_get_by_index(4)?,
            document: row.try_get_by_index(5)?,
            digest: row.try_get_by_index(6)?,
            link: row.try_get_by_index(7)?,
            is_withdrawn: row.try_get_by_index::<Option<i64>>(8)?.is_some(),
            is_follower: row.try_get_by_index(9)?,
        })
    }

    fn of(version: &PriceVersion, is_follower: bool) -> Self {
        VersionRow {
            numbers: numbers(version),
            effective_from: version.effective_from().micros(),
            document: version.document(),
            digest: version.digest().to_vec(),
            link: version.link().0.to_vec(),
            is_withdrawn: false,
            is_follower,
        }
    }

    async fn insert(self, transaction: &DatabaseTransaction) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO price_version
                (id, list, parent, multiplier, effective_from, document, digest, link, follows)
            VALUES (CAST($1 AS INTEGER), CAST($2 AS INTEGER), CAST($3 AS INTEGER), $4, $5, $6, $7, $8,
                $9)";
        let (id, list, parent, multiplier) = self.numbers;
        let values = [
            id.into(),
            list.into(),
            parent.into(),
            multiplier.into(),
            self.effective_from.into(),
            self.document.into(),
            self.digest.into(),
            self.link.into(),
            self.is_follower.into(),
        ];
        let backend = transaction.get_database_backend();
        let statement = Statement::from_sql_and_values(backend, SQL, values);
        transaction.execute_raw(statement).await.map(drop).map_err(StoreError::of_write)
    }
}

/// Number, list, parent and multiplier of a version, as its row has them.
fn numbers(version: &PriceVersion) -> (i64, i64, Option<i64>, i64) {
    (
        version.id().number().into(),
        version.list().0.into(),
        version.parent().map(|parent| parent.number().into()),
        version.multiplier().millionths().into(),
    )
}

impl AuditedPrices {
    /// Of rows in the order of their numbers.
    fn of(rows: impl IntoIterator<Item = VersionRow>) -> Self {
        let mut prices = AuditedPrices::default();
        for row in rows {
            prices.add(&row);
        }
        prices
    }

    fn add(&mut self, row: &VersionRow) {
        let (id, list, ..) = row.numbers;
        let mut fault = |what: &str| self.faults.push(format!("version {id}: {what}"));
        let before =
            u32::try_from(list).map_or(Link::START, |list| self.book.last_link(ListId(list)));
        let version = match PriceVersion::read(&row.document, before) {
            Ok(version) => Arc::new(version),
            Err(error) => return fault(&error.to_string()),
        };
        if row.digest != version.digest() {
            fault("its document is not the one that was published");
        }
        if row.link != version.link().0 {
            fault("the chain of its list is broken");
        }
        if (row.numbers, row.effective_from)
            != (numbers(&version), version.effective_from().micros())
        {
            fault("its row says something else than its document");
        }
        let id = version.id();
        self.last = self.last.max(Some(id));
        let added =
            if row.is_follower { self.book.add_follower(version) } else { self.book.add(version) };
        if let Err(error) = added {
            return fault(&error.to_string());
        }
        if row.is_withdrawn {
            self.book.withdraw(id);
        }
    }
}

/// A transaction that changes price lists. Others wait until it has ended.
pub(super) struct Publishing {
    pub(super) transaction: DatabaseTransaction,
    /// What is on record.
    pub(super) prices: AuditedPrices,
    /// The next number of a version.
    pub(super) next: VersionId,
}

/// Writes a version. A follower was published because one that it inherits from was.
pub(super) async fn insert_version(
    transaction: &DatabaseTransaction,
    version: &PriceVersion,
    is_follower: bool,
) -> Result<(), StoreError> {
    VersionRow::of(version, is_follower).insert(transaction).await
}

impl Store {
    /// Begins to change price lists. All such changes come one after the other: a version has the
    /// next number, and goes on from the versions before it.
    pub(super) async fn begin_publishing(&self) -> Result<Publishing, StoreError> {
        // SQLite has one transaction that writes at a time anyway.
        const LOCK: &str = "SELECT id FROM price_list WHERE id = 1 FOR UPDATE";
        let transaction = begin_write(&self.write).await?;
        if is_postgres(&transaction) {
            query(&transaction, LOCK, []).await?;
        }
        let sql = format!("SELECT {COLUMNS} FROM price_version ORDER BY id");
        let rows = query(&transaction, &sql, []).await?;
        let rows = rows.iter().map(VersionRow::read).collect::<Result<Vec<_>, _>>()?;
        let highest = rows.last().map_or(0, |row| row.numbers.0);
        let prices = AuditedPrices::of(rows);
        for fault in &prices.faults {
            tracing::error!(alert = "prices", %fault, "a price list does not agree");
        }
        let next = u32::try_from(highest.saturating_add(1)).ok().and_then(VersionId::new);
        let no_number = || StoreError::Corrupt("no number for a price version".into());
        Ok(Publishing { transaction, prices, next: next.ok_or_else(no_number)? })
    }

    /// Every version of every price list.
    pub async fn price_book(&self) -> Result<AuditedPrices, StoreError> {
        self.run(|store| async move {
            let sql = format!("SELECT {COLUMNS} FROM price_version ORDER BY id");
            let rows = query(&store.read, &sql, []).await?;
            let rows = rows.iter().map(VersionRow::read).collect::<Result<Vec<_>, _>>()?;
            Ok(AuditedPrices::of(rows))
        })
        .await
    }

    /// Publishes these cards as a version of [`ListId::ROUTES`], in force from `now` on, unless the
    /// one that is in force has the same cards. Returns the version that is then in force.
    ///
    /// Several processes may do it at once. The number is the next one, and only one process gets
    /// it: the others look again.
    pub async fn publish_prices(
        &self,
        cards: Vec<(Arc<str>, Arc<Card>)>,
        now: Timestamp,
    ) -> Result<Arc<PriceVersion>, StoreError> {
        self.run_write(move |store| async move {
            for _ in 0..TRIES_MAX {
                match store.try_publish(&cards, now).await {
                    Err(StoreError::Taken(_)) => {}
                    published => return published,
                }
            }
            Err(StoreError::TooSlow)
        })
        .await
    }

    async fn try_publish(
        &self,
        cards: &[(Arc<str>, Arc<Card>)],
        now: Timestamp,
    ) -> Result<Arc<PriceVersion>, StoreError> {
        let Publishing { transaction, prices, next: id } = self.begin_publishing().await?;
        let terms = VersionTerms {
            id,
            list: ListId::ROUTES,
            parent: None,
            multiplier: Multiplier::ONE,
            effective_from: now,
            cards: cards.to_vec(),
        };
        let new = PriceVersion::new(terms, prices.book.last_link(ListId::ROUTES));
        let new = new.map_err(|error| StoreError::Corrupt(format!("prices: {error}")))?;
        // Another process may have published a version a moment ago, later than `now` here by as
        // much as clocks differ.
        let soon = now.plus_micros(CLOCKS_APART_MICROS);
        let in_force = prices.book.in_force(ListId::ROUTES, soon);
        let is_same = |version: &&Arc<PriceVersion>| {
            version.cards() == new.cards() && version.parent().is_none()
        };
        if let Some(same) = in_force.filter(is_same) {
            transaction.rollback().await?;
            return Ok(Arc::clone(same));
        }
        insert_version(&transaction, &new, false).await?;
        transaction.commit().await.map_err(StoreError::of_write)?;
        Ok(Arc::new(new))
    }
}
